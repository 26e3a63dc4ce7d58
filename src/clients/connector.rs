//! What a third party is to the sync engine (SYNC-2): something that can be tested, and streams of records that are read page by page.
//! Rates, retries, checkpoints, tokens and storing are the engine's; a connector speaks the vendor's dialect and maps to
//! [`crate::domain::source_record`], and nothing else. It knows no SQL and keeps no state between calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    http::{Endpoint, Http, HttpError},
    webhook::Webhook,
};
use crate::domain::{
    Clock, FieldErrors,
    integration::{BadRecord, Provider},
    source_record::SourceRecord,
};

/// A vendor, as the list of them has it ([`super::VENDORS`]).
pub struct Vendor {
    pub provider: Provider,
    /// Reads configuration and credentials, and says all that is wrong with them.
    pub connect: fn(Account) -> Result<Box<dyn Connector>, FieldErrors>,
    /// Calls per minute of one account before anything was learned; the engine goes below it when told to (SYNC-13).
    pub calls_per_minute: u32,
    /// Checks and reads what the vendor sends by itself.
    pub webhook: Option<Webhook>,
    /// A line each, naming the keys: for API and command line.
    pub config_help: &'static str,
    pub credentials_help: &'static str,
}

/// What a connector is made of.
pub struct Account {
    pub config: Value,
    pub credentials: Credentials,
    pub http: Http,
    pub clock: Clock,
}

/// Credentials as they are sealed: a JSON object of strings. Never printed.
#[derive(Clone)]
pub struct Credentials(pub(crate) SecretString);

/// A vendor's account, connected.
pub trait Connector: Send + Sync {
    /// What limits are counted by: host, realm, tenant or team, never a secret: `quickbooks:1234567890`.
    fn account(&self) -> &str;

    /// How its access tokens are had; `None` where every call carries the credentials themselves.
    fn oauth(&self) -> Option<&OAuth> {
        None
    }

    /// The streams that can be read, in the order in which they are read. Empty where there is nothing to read.
    fn streams(&self) -> &[&'static str];

    /// Whether a read from the beginning tells what was deleted since the last run, too, as far as the vendor tells it at all. Where it does
    /// not, the incremental run after a full one begins where the last incremental one ended.
    fn full_tells_deleted(&self) -> bool;

    /// Makes the cheapest call that proves that everything needed is allowed. Answers a sentence: whom it reached as whom.
    fn test<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, Result<String, ConnectorError>>;

    /// Reads a page of a stream. Called again with the same `from` after a crash: it answers the same, or what is newer.
    fn read<'a>(
        &'a self,
        access: &'a Access,
        stream: &'static str,
        from: &'a ReadFrom,
    ) -> BoxFuture<'a, Result<RecordPage, ConnectorError>>;
}

/// Where a stream is read on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadFrom {
    /// Everything.
    Beginning,
    /// What has changed since an earlier run ended with this [`RecordPage::bookmark`].
    Since(Value),
    /// The page after one that answered this [`RecordPage::next`].
    Page(Value),
}

/// A page of records.
#[derive(Clone, Debug, Default)]
pub struct RecordPage {
    /// Each by itself: a bad one stops nothing (SYNC-4).
    pub records: Vec<Result<SourceRecord, BadRecord>>,
    /// For [`ReadFrom::Page`]; `None` on the last. Whatever is needed to go on, also the bookmark for later.
    pub next: Option<Value>,
    /// On the last page: for [`ReadFrom::Since`] of the next incremental run. `None`: the stream knows no changes, and is read whole.
    pub bookmark: Option<Value>,
    /// Of the whole stream, if the vendor says so: for the progress bar.
    pub total: Option<u64>,
}

/// What a call is made with.
#[derive(Clone, Default)]
pub struct Access {
    /// Of OAuth 2.0.
    pub bearer: Option<SecretString>,
}

/// OAuth 2.0 (RFC 6749): how the engine has a new access token.
#[derive(Clone)]
pub struct OAuth {
    pub token_endpoint: Endpoint,
    pub client_id: String,
    pub client_secret: Option<SecretString>,
    /// The client authenticates by HTTP Basic; otherwise in the form.
    pub basic: bool,
    pub grant: Grant,
    /// When the answer does not say when the token expires, seconds.
    pub default_lifetime_s: u64,
}

#[derive(Clone)]
pub enum Grant {
    /// With the refresh token of the stored credentials (key `refresh_token`), which the answer may replace.
    RefreshToken,
    /// With a signed assertion (RFC 7523), made anew for each request, or with the client's credentials alone. The pairs are the form.
    ClientCredentials(TokenForm),
}

/// Makes the pairs of the form, as of a time.
pub type TokenForm = Arc<dyn Fn(DateTime<Utc>) -> Vec<(String, String)> + Send + Sync>;

/// Why a call had no success; each ends differently for the job. The sentences are for a person who can act on them, and hold
/// neither secrets nor records.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// Not now. Without a time: a minute.
    #[error("{0} limits the number of calls")]
    RateLimited(&'static str, Option<Duration>),
    /// It may work later.
    #[error("{0}")]
    Transient(String),
    /// The access token is not taken (any more). The engine refreshes it once; without [`Connector::oauth`] it is as
    /// [`ConnectorError::Credentials`].
    #[error("{0}")]
    Unauthorized(String),
    /// The credentials themselves are not taken; waiting does not help.
    #[error("{0}")]
    Credentials(String),
    /// They are, but something is not allowed: names the scope or the permission.
    #[error("{0}")]
    Forbidden(String),
    /// The place to read on from is no more. The stream is read from its beginning.
    #[error("the place to read on from has expired")]
    CursorExpired,
    /// The answer is not what the vendor documents; or a request of ours was refused as malformed.
    #[error("{0}")]
    Protocol(String),
    /// The address is not to be called, or nothing answers there.
    #[error("{0}")]
    Address(String),
}

impl ConnectorError {
    /// What the failure of the way there means.
    pub fn of_http(host: &str, error: &HttpError) -> Self {
        match error {
            HttpError::Forbidden(forbidden) => Self::Address(forbidden.to_string()),
            HttpError::NotSent(_) => Self::Transient(format!("{host} could not be reached")),
            HttpError::TimedOut(after) => Self::Transient(format!("{host} did not answer within {after:?}")),
            HttpError::TooLarge(limit) => Self::Protocol(format!(
                "an answer of {host} is larger than {limit} bytes; a smaller page size or a larger clients.body_limit_bytes helps"
            )),
            HttpError::Broken(_) => Self::Transient(format!("an answer of {host} broke off")),
        }
    }
}

impl Credentials {
    /// # Errors
    /// It is not an object of strings; says so without the value.
    pub fn parse(text: SecretString) -> Result<Self, String> {
        match serde_json::from_str::<BTreeMap<String, String>>(text.expose_secret()) {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err("must be an object of strings".to_owned()),
        }
    }

    /// A credential by its name.
    pub fn get(&self, name: &str) -> Option<SecretString> {
        let all: BTreeMap<String, SecretString> = serde_json::from_str(self.0.expose_secret()).ok()?;
        all.get(name).filter(|secret| !secret.expose_secret().is_empty()).cloned()
    }
}
