//! The one way out to the web (SYNC-14): no private or link-local address unless it was configured, no redirects, no proxies,
//! an answer of bounded size, a time limit on everything.
//!
//! An address is checked where it is connected to, not where its name was looked up: a name that answers differently the
//! second time gains nothing.

use std::{
    error::Error as StdError,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
pub use reqwest::{Method, header};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::{Host, Url};

use super::rate_headers;

/// How long a connection may take to be there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What a `Retry-After` may ask for at most, and at least.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// What calls may cost, and whom they may reach besides the public internet.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// From the look-up of the name to the last byte of the answer.
    pub timeout: Duration,
    /// The largest body of an answer, in bytes.
    pub body_limit: usize,
    /// Addresses that are reached although they are not public; by these alone plain `http` is spoken.
    pub allow: Vec<IpNet>,
}

/// A client. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Http {
    secure: Client,
    plain: Client,
    options: Arc<HttpOptions>,
}

/// Where a call goes; parsed once, when the settings are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

/// What a call carries.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    Empty,
    /// As `application/json`, and nothing behind it: a vendor takes the type with a charset for XML.
    Json(&'a Value),
    /// Of this content type, for instance a form.
    Bytes {
        kind: &'static str,
        body: Vec<u8>,
    },
}

/// What the other side answered, whatever its status.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Why there is no answer. The texts name no address beyond the host's, and no secret.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It will be refused the next time, too.
    #[error("{0}")]
    Forbidden(Forbidden),
    /// No connection: nothing was sent.
    #[error("no connection")]
    NotSent(#[source] Box<dyn StdError + Send + Sync>),
    /// It was sent, and the answer did not come in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// It was sent, and the line broke before the answer was complete.
    #[error("the answer broke off")]
    Broken(#[source] Box<dyn StdError + Send + Sync>),
}

/// Where no call goes (SYNC-14).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} is no public address; to call it all the same, add its network to clients.allow_networks")]
pub struct Forbidden {
    host: String,
}

impl Endpoint {
    /// `https` to anywhere or `http`, without user name and password.
    ///
    /// # Errors
    /// Says what is wrong with the address; it continues "the address …".
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("cannot be read: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("must begin with https:// or http://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user name or a password".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must not hold a query or a fragment".to_owned());
        }
        Ok(Self(url))
    }

    /// The address below this one.
    #[must_use]
    pub fn join(&self, path: &str) -> Self {
        let mut url = self.0.clone();
        url.set_path(&format!("{}/{path}", self.0.path().trim_end_matches('/')));
        Self(url)
    }

    /// The address with a parameter that belongs to it, whatever else is asked, as some token endpoints have one.
    #[must_use]
    pub fn and_parameter(&self, name: &str, value: &str) -> Self {
        let mut url = self.0.clone();
        url.query_pairs_mut().append_pair(name, value);
        Self(url)
    }

    /// The address with these parameters, encoded as forms are; as it is signed and sent.
    #[must_use]
    pub fn with_query(&self, query: &[(&str, &str)]) -> Url {
        let mut url = self.0.clone();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Host and port as they were given, for names and logs.
    pub fn host(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.as_str())
    }
}

impl Http {
    pub fn new(options: HttpOptions) -> anyhow::Result<Self> {
        let allow: Arc<[IpNet]> = options.allow.clone().into();
        let client = |public: bool| {
            Client::builder()
                .https_only(public)
                .tls_backend_preconfigured(tls()?)
                .dns_resolver(Arc::new(Guard { allow: allow.clone(), public }))
                .redirect(Policy::none())
                .retry(reqwest::retry::never())
                .no_proxy()
                .referer(false)
                .connect_timeout(CONNECT_TIMEOUT.min(options.timeout))
                .timeout(options.timeout)
                .user_agent(concat!("backroom/", env!("CARGO_PKG_VERSION")))
                .build()
                .context("could not make an HTTP client")
        };
        Ok(Self { secure: client(true)?, plain: client(false)?, options: Arc::new(options) })
    }

    /// How long a call may take.
    pub fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Posts JSON. An answer of any status is a [`Reply`].
    pub async fn post(
        &self,
        endpoint: &Endpoint,
        headers: &[(HeaderName, SecretString)],
        body: &Value,
    ) -> Result<Reply, HttpError> {
        self.send(Method::POST, endpoint, &[], headers, Content::Json(body)).await
    }

    /// Makes a call. An answer of any status is a [`Reply`]; redirects are not followed. All headers count as secrets.
    pub async fn send(
        &self,
        method: Method,
        endpoint: &Endpoint,
        query: &[(&str, &str)],
        headers: &[(HeaderName, SecretString)],
        content: Content<'_>,
    ) -> Result<Reply, HttpError> {
        let public = endpoint.0.scheme() == "https";
        let guard = Guard { allow: self.options.allow.clone().into(), public };
        guard.check_host(endpoint)?;
        let client = if public { &self.secure } else { &self.plain };
        let mut request = client.request(method, endpoint.with_query(query));
        for (name, secret) in headers {
            let value = HeaderValue::from_str(secret.expose_secret());
            let mut value = value.map_err(|error| HttpError::NotSent(error.into()))?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        request = match content {
            Content::Empty => request,
            Content::Json(body) => request.json(body),
            Content::Bytes { kind, body } => request.header(CONTENT_TYPE, kind).body(body),
        };
        let mut response = request.send().await.map_err(|error| self.failed(error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        rate_headers::hear(&headers);
        let limit = self.options.body_limit;
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(HttpError::TooLarge(limit));
        }
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.failed(error))? {
            if body.len() + part.len() > limit {
                return Err(HttpError::TooLarge(limit));
            }
            body.extend_from_slice(&part);
        }
        Ok(Reply { status, headers, body })
    }

    fn failed(&self, error: reqwest::Error) -> HttpError {
        let error = error.without_url();
        if let Some(forbidden) = cause::<Forbidden>(&error) {
            return HttpError::Forbidden(forbidden.clone());
        }
        if error.is_connect() || error.is_builder() {
            HttpError::NotSent(error.into())
        } else if error.is_timeout() {
            HttpError::TimedOut(self.options.timeout)
        } else {
            HttpError::Broken(error.into())
        }
    }
}

impl Reply {
    /// How long the other side wants to be left alone: `retry-after-ms`, or `Retry-After` as seconds or a date (RFC 9110,
    /// section 10.2.3); at least a second, at most a day.
    pub fn retry_after(&self, now: DateTime<Utc>) -> Option<Duration> {
        let header = |name: &str| self.headers.get(name)?.to_str().ok().map(str::trim);
        let milliseconds = header("retry-after-ms").and_then(|text| text.parse::<f64>().ok()).map(|ms| ms / 1000.0);
        let seconds = milliseconds.or_else(|| {
            let text = header("retry-after")?;
            text.parse::<f64>().ok().or_else(|| {
                let date = DateTime::parse_from_rfc2822(text).ok()?;
                (date.to_utc() - now).to_std().map_or(Some(0.0), |wait| Some(wait.as_secs_f64()))
            })
        })?;
        let (least, most) = (SHORTEST_WAIT.as_secs_f64(), LONGEST_WAIT.as_secs_f64());
        (!seconds.is_nan()).then(|| Duration::from_secs_f64(seconds.clamp(least, most)))
    }
}

/// TLS by rustls with ring, and Mozilla's list of authorities, as for mail and database.
fn tls() -> anyhow::Result<ClientConfig> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("could not set up TLS")?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The first cause of this type.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Who may be connected to.
#[derive(Clone)]
struct Guard {
    allow: Arc<[IpNet]>,
    /// Public addresses, too.
    public: bool,
}

impl Guard {
    fn lets(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allow.iter().any(|network| network.contains(&address)) || (self.public && is_public(address))
    }

    /// An address that is written as one is never looked up, so it is checked here.
    fn check_host(&self, endpoint: &Endpoint) -> Result<(), HttpError> {
        let address = match endpoint.0.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        if self.lets(address) {
            return Ok(());
        }
        Err(HttpError::Forbidden(Forbidden { host: endpoint.host() }))
    }
}

impl Resolve for Guard {
    /// The allowed ones of a name's addresses.
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<_> = found.filter(|address| guard.lets(address.ip())).collect();
            if allowed.is_empty() {
                return Err(Forbidden { host: name.as_str().to_owned() }.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether everybody can reach it: neither this machine, nor its networks, nor an address with a purpose of its own (IANA's
/// registries of special-purpose addresses, RFC 6890), nor one of those in the guise of IPv6.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || (a == 100 && (64..128).contains(&b)) // carriers' own (RFC 6598)
        || (a == 192 && b == 0 && c == 0) // protocol assignments
        || (a == 192 && b == 88 && c == 99) // 6to4 relays
        || (a == 198 && (b == 18 || b == 19)) // benchmarks
        || a >= 240)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    let inside = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => inside(high, low), // IPv4 through NAT64
        [0x2002, high, low, ..] => inside(high, low),               // IPv4 through 6to4
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false, // protocol assignments, documentation
        [0x3fff, second, ..] if second < 0x1000 => false,           // documentation
        [first, ..] => (0x2000..0x4000).contains(&first),           // global unicast
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn http(allow: &[&str]) -> Http {
        let allow = allow.iter().map(|network| network.parse().unwrap()).collect();
        Http::new(HttpOptions { timeout: Duration::from_secs(5), body_limit: 1000, allow }).unwrap()
    }

    async fn refused(http: &Http, address: &str) -> bool {
        let endpoint = Endpoint::parse(address).unwrap();
        let answer = http.post(&endpoint, &[], &Value::Null).await;
        matches!(answer, Err(HttpError::Forbidden(_)))
    }

    /// SYNC-14
    #[test]
    fn only_public_addresses_are_public() {
        let private = "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.9.9.9 169.254.169.254 172.16.0.1 192.0.0.8 192.0.2.1
                       192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.9 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1
                       ::ffff:127.0.0.1 ::127.0.0.1 fc00::1 fd12::1 fe80::1 fec0::1 ff02::1 2001::1 2001:db8::1 3fff::1
                       64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1::1 2002:c0a8:101::1 100::1";
        for private in private.split_whitespace() {
            assert!(!is_public(private.parse::<IpAddr>().unwrap().to_canonical()), "{private} counts as public");
        }
        for public in ["1.1.1.1", "100.128.0.1", "172.32.0.1", "193.10.0.1", "2606:4700::1111", "64:ff9b::101:101"] {
            assert!(is_public(public.parse().unwrap()), "{public} counts as private");
        }
    }

    /// SYNC-14: by address, by an address in disguise, and by a name that leads inside.
    #[tokio::test]
    async fn what_is_not_public_is_not_called() {
        let http = http(&[]);
        let inside = "https://127.0.0.1/ https://2130706433/ https://0x7f.1/ https://[::1]/
                      https://[::ffff:10.0.0.1]/ https://169.254.169.254/latest/meta-data https://localhost/
                      http://localhost/ http://1.1.1.1/";
        for inside in inside.split_whitespace() {
            assert!(refused(&http, inside).await, "{inside} was called");
        }
    }

    /// SYNC-14: a network that is allowed is allowed alone.
    #[tokio::test]
    async fn an_allowed_network_is_reached_and_no_other() {
        // Nobody listens at port 1 of this machine, so the call ends at the connection.
        let http = http(&["127.0.0.0/8"]);
        for allowed in ["http://127.0.0.1:1/", "https://127.0.0.1:1/", "http://[::ffff:127.0.0.1]:1/"] {
            let endpoint = Endpoint::parse(allowed).unwrap();
            let error = http.post(&endpoint, &[], &Value::Null).await.unwrap_err();
            assert!(matches!(error, HttpError::NotSent(_)), "{allowed}: {error:?}");
        }
        for other in ["http://10.0.0.1/", "https://[fe80::1]/", "http://8.8.8.8/"] {
            assert!(refused(&http, other).await, "{other} was called");
        }
    }

    #[test]
    fn an_endpoint_is_an_address_without_secrets() {
        let endpoint = Endpoint::parse("https://models.example:8443/v1/").unwrap();
        assert_eq!(endpoint.join("chat/completions").to_string(), "https://models.example:8443/v1/chat/completions");
        assert_eq!(endpoint.host(), "models.example:8443");
        for bad in ["models.example", "ftp://models.example", "https://key@models.example", "https://x.example/?key=1"]
        {
            assert!(Endpoint::parse(bad).is_err(), "{bad} was accepted");
        }
    }

    /// WORK-8: all forms of the header.
    #[test]
    fn a_wait_is_read_in_every_form_and_bounded() {
        let now = Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).unwrap();
        let wait = |name: &'static str, value: &str| {
            let headers =
                HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())]);
            Reply { status: 429, headers, body: Vec::new() }.retry_after(now).map(|wait| wait.as_secs_f32())
        };
        assert_eq!(wait("retry-after", "20"), Some(20.0));
        assert_eq!(wait("retry-after", "2.5"), Some(2.5));
        assert_eq!(wait("retry-after-ms", "1500"), Some(1.5));
        assert_eq!(wait("retry-after", "Mon, 02 Mar 2026 08:00:30 GMT"), Some(30.0));
        assert_eq!(wait("retry-after", "Mon, 02 Mar 2026 07:00:00 GMT"), Some(1.0));
        assert_eq!(wait("retry-after", "0"), Some(1.0));
        assert_eq!(wait("retry-after", "86400"), Some(86_400.0));
        assert_eq!(wait("retry-after", "999999"), Some(86_400.0));
        assert_eq!(wait("retry-after", "-5"), Some(1.0));
        assert_eq!(wait("retry-after", "NaN"), None);
        assert_eq!(wait("retry-after", "soon"), None);
        assert_eq!(wait("x-other", "1"), None);
    }
}
