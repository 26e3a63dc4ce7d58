//! Slack: messages into channels and to persons, and what Slack sends by itself (SYNC-11, SYNC-12).
//!
//! There is nothing to be read, so the connector has no streams; messages are posted by the job `slack.post`. Sources:
//! <https://docs.slack.dev/reference/methods>, and the lists of arguments and errors of slack-ruby/slack-api-ref (2026-08).

mod api;
mod error;
mod message;
mod webhook;

use std::fmt;

use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

pub use self::{
    api::{Found, Identity, Posted},
    error::SlackError,
    message::{Message, Mrkdwn},
    webhook::webhook,
};
use super::{
    connector::{Access, Account, Connector, ConnectorError, ReadFrom, RecordPage, Vendor},
    http::{Endpoint, Http},
};
use crate::domain::{Clock, FieldErrors, ParseError, integration::Provider};

const HOST: &str = "https://slack.com/api";

pub static VENDOR: Vendor = Vendor {
    provider: Provider::Slack,
    connect,
    // Of `auth.test`; messages have limits of their own, by channel.
    calls_per_minute: 100,
    webhook: Some(webhook),
    config_help: "base_url: only for another address than https://slack.com/api",
    credentials_help: "bot_token: the app's bot token (xoxb-…; scopes chat:write, channels:history, groups:history, im:write, \
                       im:history, users:read, users:read.email)\n\
                       signing_secret: the app's signing secret, for what Slack sends by itself (may be left out)",
};

/// A Slack workspace, by the app's bot token. Every call carries it; tokens that are rotated are not supported, and Slack rotates
/// none unless the app asks for it.
pub struct Slack {
    endpoint: Endpoint,
    token: SecretString,
    http: Http,
    clock: Clock,
    account: String,
}

impl fmt::Debug for Slack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slack").field("account", &self.account).finish_non_exhaustive()
    }
}

impl Slack {
    /// # Errors
    /// Says what is wrong with configuration and credentials, by field.
    pub fn new(account: Account) -> Result<Self, FieldErrors> {
        let Account { config, credentials, http, clock } = account;
        let mut errors = FieldErrors::default();
        let address = match config.get("base_url") {
            None | Some(serde_json::Value::Null) => Some(HOST),
            Some(value) => value.as_str(),
        };
        let endpoint = errors.check(
            "config.base_url",
            address
                .ok_or_else(|| ParseError::invalid("must be an address"))
                .and_then(|address| Endpoint::parse(address).map_err(ParseError::invalid)),
        );
        let unknown = config.as_object().into_iter().flat_map(|config| config.keys()).filter(|key| *key != "base_url");
        for key in unknown {
            errors.0.push(ParseError::new("unknown", "is not known; there is base_url").at(format!("config.{key}")));
        }
        let token = credentials.get("bot_token").ok_or_else(|| ParseError::new("required", "must not be empty"));
        let token = errors.check("credentials.bot_token", token.and_then(checked_token));
        let (Some(endpoint), Some(token)) = (endpoint, token) else { return Err(errors) };
        errors.into_result()?;
        let account = account_name(&token);
        Ok(Self { endpoint, token, http, clock, account })
    }
}

/// A header must be able to hold it; which of Slack's kinds of token it is, is told to who mixed them up.
fn checked_token(token: SecretString) -> Result<SecretString, ParseError> {
    let text = token.expose_secret();
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ParseError::invalid("must be a token as Slack shows it"));
    }
    for (other, what) in
        [("xapp-", "an app-level token"), ("xoxp-", "a person's token"), ("xoxe", "a token that is rotated")]
    {
        if text.starts_with(other) {
            return Err(ParseError::invalid(format!("is {what}; the bot token begins with xoxb-")));
        }
    }
    Ok(token)
}

/// A fingerprint of the token: it names the workspace and the app, and opens nothing.
fn account_name(token: &SecretString) -> String {
    let digest: [u8; 32] = Sha256::digest(token.expose_secret().as_bytes()).into();
    let [a, b, c, d, ..] = digest;
    format!("slack:{:08x}", u32::from_be_bytes([a, b, c, d]))
}

fn connect(account: Account) -> Result<Box<dyn Connector>, FieldErrors> {
    Ok(Box::new(Slack::new(account)?))
}

impl Connector for Slack {
    fn account(&self) -> &str {
        &self.account
    }

    fn streams(&self) -> &[&'static str] {
        &[]
    }

    fn full_tells_deleted(&self) -> bool {
        true
    }

    fn test<'a>(&'a self, _access: &'a Access) -> BoxFuture<'a, Result<String, ConnectorError>> {
        Box::pin(async move {
            let identity = self.identity().await?;
            if let Some(missing) = identity.missing_scope() {
                return Err(ConnectorError::Forbidden(format!(
                    "the app lacks the scope {missing}; add it below OAuth & Permissions and install the app again"
                )));
            }
            Ok(format!("connected to the Slack workspace {} as {}", identity.team, identity.user))
        })
    }

    fn read<'a>(
        &'a self,
        _access: &'a Access,
        stream: &'static str,
        _from: &'a ReadFrom,
    ) -> BoxFuture<'a, Result<RecordPage, ConnectorError>> {
        Box::pin(async move { Err(ConnectorError::Protocol(format!("Slack has no stream {stream}"))) })
    }
}

#[cfg(test)]
mod tests;
