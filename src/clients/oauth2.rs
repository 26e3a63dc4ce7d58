//! Asks for access tokens (OAuth 2.0, RFC 6749). Requests are built and answers read by the crate `oauth2`; the way out is ours.

use std::{error::Error as StdError, fmt, time::Duration};

use ::oauth2::{
    AsyncHttpClient, AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, RefreshToken, RequestTokenError,
    TokenResponse, TokenUrl,
    basic::{BasicClient, BasicErrorResponse, BasicErrorResponseType, BasicTokenResponse},
    http::{StatusCode, header},
};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::form_urlencoded;

use super::{
    connector::{ConnectorError, Grant, OAuth},
    http::{Content, Endpoint, Http, HttpError, Method},
};

const FORM: &str = "application/x-www-form-urlencoded";

/// What a vendor gave.
#[derive(Debug)]
pub struct Granted {
    pub access_token: SecretString,
    /// In the place of the one that was sent.
    pub refresh_token: Option<SecretString>,
    pub lifetime: Duration,
}

/// Why it gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The grant is revoked, used up or expired (`invalid_grant`).
    #[error("{0} does not take the refresh token or the assertion any more")]
    Revoked(String),
    /// The vendor refused, or nothing was sent: nothing has changed at its side.
    #[error(transparent)]
    Refused(ConnectorError),
    /// It may have given something that did not arrive.
    #[error(transparent)]
    Unknown(ConnectorError),
}

/// Asks for tokens, once. `refresh` is for [`Grant::RefreshToken`].
pub async fn ask(
    http: &Http,
    oauth: &OAuth,
    refresh: Option<&SecretString>,
    now: DateTime<Utc>,
) -> Result<Granted, TokenError> {
    let host = oauth.token_endpoint.host();
    let address = TokenUrl::new(oauth.token_endpoint.to_string())
        .map_err(|_| TokenError::Refused(ConnectorError::Address(format!("the address of {host}'s tokens is none"))))?;
    let mut client = BasicClient::new(ClientId::new(oauth.client_id.clone()))
        .set_token_uri(address)
        .set_auth_type(if oauth.basic { AuthType::BasicAuth } else { AuthType::RequestBody });
    if let Some(secret) = &oauth.client_secret {
        client = client.set_client_secret(ClientSecret::new(secret.expose_secret().to_owned()));
    }
    let form = match &oauth.grant {
        Grant::RefreshToken => None,
        Grant::ClientCredentials(form) => Some(form(now)),
    };
    if form.is_none() && refresh.is_none() {
        let missing = format!("there is no refresh token for {host}; authorize it and store one");
        return Err(TokenError::Refused(ConnectorError::Credentials(missing)));
    }
    let refresh = RefreshToken::new(refresh.map(|token| token.expose_secret().to_owned()).unwrap_or_default());
    let way = Way { http: http.clone(), endpoint: oauth.token_endpoint.clone(), form, now };
    // Boxed: what the crate answers is not seen to be `Send` otherwise.
    let answer: BoxFuture<'_, Result<BasicTokenResponse, Refusal>> = if way.form.is_some() {
        Box::pin(client.exchange_client_credentials().request_async(&way))
    } else {
        Box::pin(client.exchange_refresh_token(&refresh).request_async(&way))
    };
    let answer = answer.await;
    let answer = answer.map_err(|error| read_error(&host, error))?;
    let secret = |text: &str| SecretString::from(text);
    Ok(Granted {
        access_token: secret(answer.access_token().secret()),
        refresh_token: answer
            .refresh_token()
            .map(|token| token.secret())
            .filter(|text| !text.is_empty())
            .map(|text| secret(text)),
        lifetime: answer.expires_in().unwrap_or(Duration::from_secs(oauth.default_lifetime_s)),
    })
}

/// What came instead of an answer that could be about tokens.
#[derive(Debug)]
enum Failed {
    Way(HttpError),
    Status(u16, Option<Duration>),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Way(error) => error.fmt(f),
            Self::Status(status, _) => write!(f, "status {status}"),
        }
    }
}

impl StdError for Failed {}

type Refusal = RequestTokenError<Failed, BasicErrorResponse>;

/// Our way out, as the crate wants it.
struct Way {
    http: Http,
    endpoint: Endpoint,
    /// A form of the connector's: replaces the crate's own, so that it is exactly what is sent.
    form: Option<Vec<(String, String)>>,
    now: DateTime<Utc>,
}

impl<'c> AsyncHttpClient<'c> for Way {
    type Error = Failed;
    type Future = BoxFuture<'c, Result<HttpResponse, Failed>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

impl Way {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, Failed> {
        let secret = |value: &header::HeaderValue| value.to_str().ok().map(SecretString::from);
        let headers: Vec<_> = [header::ACCEPT, header::AUTHORIZATION]
            .into_iter()
            .filter_map(|name| Some((name.clone(), secret(request.headers().get(&name)?)?)))
            .collect();
        let body = match &self.form {
            Some(form) => form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish().into_bytes(),
            None => request.into_body(),
        };
        let content = Content::Bytes { kind: FORM, body };
        let reply = self.http.send(Method::POST, &self.endpoint, &[], &headers, content).await.map_err(Failed::Way)?;
        let fact: Option<Value> = serde_json::from_slice(&reply.body).ok();
        let is_error = reply.status / 100 == 4 && fact.as_ref().is_some_and(|fact| fact["error"].is_string());
        if reply.status == 429 || (reply.status != 200 && !is_error) {
            return Err(Failed::Status(reply.status, reply.retry_after(self.now)));
        }
        let body = fact.map_or(reply.body, |fact| numeric_lifetime(fact).to_string().into_bytes());
        let mut response = HttpResponse::new(body);
        *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
        Ok(response)
    }
}

/// NetSuite writes the seconds as a text.
fn numeric_lifetime(mut answer: Value) -> Value {
    let seconds = answer["expires_in"].as_str().and_then(|text| text.parse::<u64>().ok());
    if let Some(seconds) = seconds {
        answer["expires_in"] = seconds.into();
    }
    answer
}

fn read_error(host: &str, error: Refusal) -> TokenError {
    use ConnectorError as Why;
    let unreadable = || Why::Protocol(format!("the answer of {host} to a request for an access token cannot be read"));
    match error {
        RequestTokenError::ServerResponse(refused) => match refused.error() {
            BasicErrorResponseType::InvalidGrant => TokenError::Revoked(host.to_owned()),
            BasicErrorResponseType::InvalidClient | BasicErrorResponseType::UnauthorizedClient => {
                let why = format!("{host} does not take the client id, or the secret or key that belongs to it");
                TokenError::Refused(Why::Credentials(why))
            }
            BasicErrorResponseType::InvalidScope => {
                TokenError::Refused(Why::Forbidden(format!("{host} does not allow the scopes that were asked for")))
            }
            other => {
                let why = format!("{host} refused a request for an access token: {}", code(other.as_ref()));
                TokenError::Refused(Why::Protocol(why))
            }
        },
        RequestTokenError::Request(Failed::Way(error)) => {
            let why = Why::of_http(host, &error);
            match error {
                HttpError::Forbidden(_) | HttpError::NotSent(_) => TokenError::Refused(why),
                HttpError::TimedOut(_) | HttpError::TooLarge(_) | HttpError::Broken(_) => TokenError::Unknown(why),
            }
        }
        RequestTokenError::Request(Failed::Status(429, wait)) => {
            TokenError::Refused(Why::RateLimited("the token endpoint", wait))
        }
        RequestTokenError::Request(Failed::Status(status @ 500.., _)) => TokenError::Unknown(Why::Transient(format!(
            "{host} answered a request for an access token with status {status}"
        ))),
        RequestTokenError::Request(Failed::Status(401 | 403, _)) => {
            let why = format!("{host} does not take the client id, or the secret or key that belongs to it");
            TokenError::Refused(Why::Credentials(why))
        }
        RequestTokenError::Request(Failed::Status(status, _)) => {
            let why = format!("{host} answered a request for an access token with status {status}");
            TokenError::Refused(Why::Protocol(why))
        }
        // A token may have been in it.
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => TokenError::Unknown(unreadable()),
    }
}

/// A vendor's code for an error, as long as it looks like one.
fn code(text: &str) -> &str {
    let is_code = text.len() <= 60 && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if is_code { text } else { "without a known reason" }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Json, Router, routing::post};
    use chrono::TimeZone;
    use serde_json::json;

    use super::*;
    use crate::{
        clients::http::HttpOptions,
        demo::vendors::{Fake, Mood, Script},
    };

    /// A vendor that answers properly with this.
    async fn vendor(answer: Value) -> (Fake, Http, OAuth) {
        let router = Router::new().route("/token", post(async move || Json(answer)));
        let fake = Fake::start(router, Script::default()).await.unwrap();
        let allow = vec!["127.0.0.0/8".parse().unwrap()];
        let http = Http::new(HttpOptions { timeout: Duration::from_secs(5), body_limit: 10_000, allow }).unwrap();
        let oauth = OAuth {
            token_endpoint: Endpoint::parse(fake.address()).unwrap().join("token"),
            client_id: "client:1".to_owned(),
            client_secret: Some("hush/2".into()),
            basic: true,
            grant: Grant::RefreshToken,
            default_lifetime_s: 900,
        };
        (fake, http, oauth)
    }

    async fn asked(http: &Http, oauth: &OAuth) -> Result<Granted, TokenError> {
        let now = Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).unwrap();
        ask(http, oauth, Some(&"old".into()), now).await
    }

    fn pairs(body: &[u8]) -> Vec<(String, String)> {
        form_urlencoded::parse(body).into_owned().collect()
    }

    /// SYNC-6: RFC 6749, sections 2.3.1 and 6.
    #[tokio::test]
    async fn a_refresh_token_becomes_an_access_token() {
        let answer =
            json!({ "access_token": "new", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "next" });
        let (fake, http, mut oauth) = vendor(answer).await;

        let granted = asked(&http, &oauth).await.unwrap();
        oauth.basic = false;
        asked(&http, &oauth).await.unwrap();

        assert_eq!(granted.access_token.expose_secret(), "new");
        assert_eq!(granted.refresh_token.unwrap().expose_secret(), "next");
        assert_eq!(granted.lifetime, Duration::from_secs(3600));
        let [basic, form] = &fake.script.asked()[..] else { panic!() };
        assert_eq!(basic.headers["authorization"], "Basic Y2xpZW50JTNBMTpodXNoJTJGMg==");
        assert_eq!(basic.headers["content-type"], FORM);
        let refresh = [("grant_type", "refresh_token"), ("refresh_token", "old")];
        let owned = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(pairs(&basic.body), owned(&refresh));
        let client = [("client_id", "client:1"), ("client_secret", "hush/2")];
        assert_eq!(pairs(&form.body), owned(&[refresh, client].concat()));
        assert!(form.headers.get("authorization").is_none());
    }

    /// SYNC-6, SYNC-9: a connector's own form is sent as it is; a lifetime may be a text, or missing.
    #[tokio::test]
    async fn an_assertion_is_sent_as_the_connector_made_it() {
        let form = vec![
            ("grant_type".to_owned(), "urn:x:jwt-bearer".to_owned()),
            ("assertion".to_owned(), "a.b.c".to_owned()),
        ];
        for (lifetime, expected) in [(json!("3600"), 3600), (Value::Null, 900)] {
            let (fake, http, mut oauth) =
                vendor(json!({ "access_token": "new", "token_type": "bearer", "expires_in": lifetime })).await;
            let sent = form.clone();
            (oauth.grant, oauth.client_secret) = (Grant::ClientCredentials(Arc::new(move |_| sent.clone())), None);

            let granted = asked(&http, &oauth).await.unwrap();

            assert_eq!(granted.lifetime, Duration::from_secs(expected));
            assert!(granted.refresh_token.is_none());
            assert_eq!(pairs(&fake.script.asked()[0].body), form);
        }
    }

    /// SYNC-6: what is answered decides whether it is tried again, and whether something may have been lost.
    #[tokio::test]
    async fn refusals_are_told_apart_from_answers_that_were_lost() {
        let (fake, http, oauth) = vendor(json!({ "access_token": "new", "token_type": "bearer" })).await;
        let error = |status, code: &str| Mood::Answers(status, Vec::new(), json!({ "error": code }).to_string());
        let mut told = Vec::new();
        for mood in [
            error(400, "invalid_grant"),
            error(401, "invalid_client"),
            error(400, "invalid_scope"),
            error(400, "the secret is hush/2"),
            Mood::busy(429, Some(Duration::from_secs(7)), "{}"),
            Mood::bad_gateway(),
            Mood::Truncated,
            Mood::BreaksOff,
            Mood::Answers(404, Vec::new(), "no".to_owned()),
        ] {
            fake.script.next("/token", mood);
            let error = asked(&http, &oauth).await.unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
            told.push(match error {
                TokenError::Revoked(_) => "revoked",
                TokenError::Refused(ConnectorError::Credentials(_)) => "credentials",
                TokenError::Refused(ConnectorError::Forbidden(_)) => "scope",
                TokenError::Refused(ConnectorError::RateLimited(_, Some(_))) => "busy",
                TokenError::Refused(_) => "refused",
                TokenError::Unknown(_) => "unknown",
            });
        }
        let expected =
            ["revoked", "credentials", "scope", "refused", "busy", "unknown", "unknown", "unknown", "refused"];
        assert_eq!(told, expected);
    }
}
