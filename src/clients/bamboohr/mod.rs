//! BambooHR (SYNC-7): employees in full and by what has changed, with an API key or OAuth 2.0.
//!
//! Read from one of three places, by the configuration's `source`. `dataset` (the default) is what the vendor recommends for bulk
//! and promises to API keys: pages of up to 1,000, but names of fields that differ between accounts, which are looked up first.
//! `report` is old and everywhere, in one piece. `list` has cursors, fewer fields, and is promised to OAuth only.
//! What has changed is asked of `employees/changed`, which alone knows who was deleted.

mod map;
mod place;
mod read;
#[cfg(test)]
mod tests;
mod webhook;

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::TimeDelta;
use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use self::map::Names;
pub use self::webhook::sign;
use super::{
    connector::{Access, Account, Connector, ConnectorError, Grant, OAuth, ReadFrom, RecordPage, Vendor},
    hris::{Settings, said},
    http::{Content, Endpoint, Http, Method, Reply, header},
};
use crate::domain::{Clock, FieldErrors, integration::Provider};

const TITLE: &str = "BambooHR";
/// The one stream.
pub const EMPLOYEES: &str = "employees";

pub static VENDOR: Vendor = Vendor {
    provider: Provider::BambooHr,
    connect,
    // The vendor publishes no number.
    calls_per_minute: 300,
    webhook: Some(webhook::receive),
    config_help: "company_domain: acme of https://acme.bamboohr.com\n\
        source: dataset (the default), report or list, where employees are read from\n\
        page_size: employees a page, 1,000 unless told\n\
        overlap_minutes: how much of the last run is read again, 5 unless told\n\
        include: [social_security_number, national_id], which are fetched only then\n\
        fields: {job_title: customTitle}, where a field has another name than usual\n\
        custom_fields: more fields to keep, by their names at BambooHR\n\
        base_url, token_url: other addresses than BambooHR's own",
    credentials_help: "api_key: of an account that may see all employees\n\
        or client_id, client_secret and refresh_token: of an OAuth 2.0 application\n\
        webhook_key: the private key that BambooHR showed once when the webhook was made",
};

const KEYS: [&str; 9] = [
    "company_domain",
    "source",
    "page_size",
    "overlap_minutes",
    "include",
    "fields",
    "custom_fields",
    "base_url",
    "token_url",
];

/// Where employees are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Dataset,
    Report,
    List,
}

enum Auth {
    /// The header.
    Key(SecretString),
    OAuth(OAuth),
}

struct BambooHr {
    http: Http,
    clock: Clock,
    /// Up to the version: `https://acme.bamboohr.com/api`.
    base: Endpoint,
    company: String,
    account: String,
    auth: Auth,
    source: Source,
    page_size: u64,
    overlap: TimeDelta,
    include: Vec<String>,
    fields: Names,
    custom: Vec<String>,
}

fn connect(account: Account) -> Result<Box<dyn Connector>, FieldErrors> {
    let mut settings = Settings::new(&account.config, &account.credentials, &KEYS);
    let company = settings.name("company_domain").unwrap_or_else(|| "company".to_owned());
    let source = match settings.choice("source", &["dataset", "report", "list"]) {
        "report" => Source::Report,
        "list" => Source::List,
        _ => Source::Dataset,
    };
    let most = if source == Source::List { 2_500 } else { 1_000 };
    let page_size = settings.number("page_size", 1..=most, 1_000);
    let overlap = settings.number("overlap_minutes", 0..=1_440, 5);
    let include = settings.list("include");
    for name in include.iter().filter(|name| !map::on_request().contains(&name.as_str())) {
        settings.wrong("include", "unknown", &format!("holds `{name}`; there are: {}", map::on_request().join(" ")));
    }
    let fields = settings.map("fields", &map::our_names());
    let custom = settings.list("custom_fields");
    let base = settings.endpoint("base_url", &format!("https://{company}.bamboohr.com"));
    let base = base.and_then(|base| Endpoint::parse(&root_of(&base.to_string(), &company)).ok());
    let token_url = settings.text("token_url").map(|url| url.replace("?request=token", ""));
    let token_url = token_url.unwrap_or_else(|| format!("https://{company}.bamboohr.com/token.php"));
    let auth = match settings.secret("refresh_token") {
        None => Auth::Key(basic(&settings.required_secret("api_key"))),
        Some(_) => {
            let (client_id, client_secret) =
                (settings.required_secret("client_id"), settings.required_secret("client_secret"));
            let token_endpoint = Endpoint::parse(&token_url).map_err(|message| {
                settings.wrong("token_url", "invalid", &message);
            });
            match token_endpoint {
                Err(()) => Auth::Key(SecretString::from("")),
                Ok(endpoint) => Auth::OAuth(OAuth {
                    token_endpoint: endpoint.and_parameter("request", "token"),
                    client_id: client_id.expose_secret().to_owned(),
                    client_secret: Some(client_secret),
                    basic: false,
                    grant: Grant::RefreshToken,
                    default_lifetime_s: 3_600,
                }),
            }
        }
    };
    let base = settings.done(base)?;
    // Whose address is another shares no rate with BambooHR's company of that name.
    let name = company.to_lowercase();
    let own = [format!("https://{name}.bamboohr.com/api"), format!("https://api.bamboohr.com/api/gateway.php/{name}")];
    let name = match own.contains(&base.to_string().to_lowercase()) {
        true => format!("bamboohr:{name}"),
        false => format!("bamboohr:{}/{name}", base.host()),
    };
    Ok(Box::new(BambooHr {
        http: account.http,
        clock: account.clock,
        base,
        account: name,
        company,
        auth,
        source,
        page_size,
        overlap: TimeDelta::minutes(i64::try_from(overlap).unwrap_or_default()),
        include,
        fields,
        custom,
    }))
}

/// What the paths with a version stand below. There are two forms, `https://acme.bamboohr.com/api` and the older
/// `https://api.bamboohr.com/api/gateway.php/acme`; both are taken with the version or without, the first also without `/api`, the
/// second without the company.
fn root_of(url: &str, company: &str) -> String {
    let url = url.trim_end_matches('/');
    let url = url.strip_suffix("/v1").unwrap_or(url);
    if url.ends_with("/gateway.php") {
        format!("{url}/{company}")
    } else if url.contains("/gateway.php/") || url.ends_with("/api") {
        url.to_owned()
    } else {
        format!("{url}/api")
    }
}

/// The key is the user's name; what stands for the password does not matter.
fn basic(key: &SecretString) -> SecretString {
    SecretString::from(format!("Basic {}", BASE64_STANDARD.encode(format!("{}:x", key.expose_secret()))))
}

impl Connector for BambooHr {
    fn account(&self) -> &str {
        &self.account
    }

    fn oauth(&self) -> Option<&OAuth> {
        match &self.auth {
            Auth::OAuth(oauth) => Some(oauth),
            Auth::Key(_) => None,
        }
    }

    fn streams(&self) -> &[&'static str] {
        &[EMPLOYEES]
    }

    fn full_tells_deleted(&self) -> bool {
        true
    }

    fn test<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, Result<String, ConnectorError>> {
        Box::pin(self.try_out(access))
    }

    fn read<'a>(
        &'a self,
        access: &'a Access,
        _stream: &'static str,
        from: &'a ReadFrom,
    ) -> BoxFuture<'a, Result<RecordPage, ConnectorError>> {
        Box::pin(self.read_page(access, from))
    }
}

impl BambooHr {
    /// A call that answers 200.
    async fn call(
        &self,
        access: &Access,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Reply, ConnectorError> {
        let authorization = match (&self.auth, &access.bearer) {
            (Auth::Key(header), _) => header.clone(),
            (Auth::OAuth(_), Some(bearer)) => SecretString::from(format!("Bearer {}", bearer.expose_secret())),
            (Auth::OAuth(_), None) => {
                return Err(ConnectorError::Unauthorized(format!("there is no access token for {TITLE}")));
            }
        };
        // Without it, many answers are XML.
        let headers =
            [(header::AUTHORIZATION, authorization), (header::ACCEPT, SecretString::from("application/json"))];
        let (method, content) = match body {
            None => (Method::GET, Content::Empty),
            Some(body) => (Method::POST, Content::Json(body)),
        };
        let reply = self.http.send(method, &self.base.join(path), query, &headers, content).await;
        let reply = reply.map_err(|error| ConnectorError::of_http(&self.base.host(), &error))?;
        if reply.status == 200 { Ok(reply) } else { Err(self.refused(&reply)) }
    }

    /// What another status means.
    fn refused(&self, reply: &Reply) -> ConnectorError {
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let told = reply.headers.get("x-bamboohr-error-message").and_then(|text| text.to_str().ok());
        let in_body = || body["detail"].as_str().or(body["error"]["message"].as_str()).or(body["title"].as_str());
        let said = said(told.filter(|text| !text.is_empty()).or_else(in_body));
        let (company, status, wait) = (&self.company, reply.status, reply.retry_after(self.clock.now()));
        match status {
            401 if self.oauth().is_some() => {
                ConnectorError::Unauthorized(format!("{TITLE} does not take the access token{said}"))
            }
            401 => ConnectorError::Credentials(format!(
                "{TITLE} does not take the API key for `{company}`{said}; make a new one, and give it to the integration"
            )),
            403 => ConnectorError::Forbidden(format!(
                "{TITLE} does not let this account read employees{said}; give its access level (or the application's scopes \
                 `report` and `employee`) the right to see all employees"
            )),
            // The first was the second before 16 September 2026.
            429 => ConnectorError::RateLimited(TITLE, wait),
            503 if wait.is_some() => ConnectorError::RateLimited(TITLE, wait),
            408 | 500.. => ConnectorError::Transient(format!("{TITLE} answered {status}{said}")),
            300..=399 | 404 if body["code"] != "DATASET_NOT_FOUND" => ConnectorError::Address(format!(
                "{} does not know `{company}` ({status}){said}; check company_domain and base_url",
                self.base.host()
            )),
            400 if body["error"]["code"] == "BadPage" => ConnectorError::CursorExpired,
            413 => ConnectorError::Protocol(format!("{TITLE} finds the page too large{said}; set a smaller page_size")),
            _ => ConnectorError::Protocol(format!("{TITLE} refused the request ({status}){said}")),
        }
    }
}
