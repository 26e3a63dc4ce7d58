//! The calls. Messages are posted as JSON; methods that read take forms, because they ignore JSON.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Method, header::AUTHORIZATION};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use url::form_urlencoded;
use uuid::Uuid;

use super::{Message, Slack, SlackError};
use crate::clients::http::{Content, Reply};

/// With it Slack does not warn of `missing_charset`.
const JSON: &str = "application/json; charset=utf-8";
const FORM: &str = "application/x-www-form-urlencoded";
/// The type of the metadata by which a message is found again.
const EVENT_TYPE: &str = "backroom_event";
/// Objects of a page of history. Apps that are sold outside Slack's marketplace are given 15, whatever they ask for.
const HISTORY_PAGE: &str = "100";
/// Pages of history that are read for a message.
const HISTORY_PAGES: usize = 5;
/// What Slack's clock and ours may differ by.
const SKEW: TimeDelta = TimeDelta::minutes(5);
/// Without these scopes there is no message.
const NEEDED_SCOPES: [&str; 1] = ["chat:write"];

/// Whom a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The workspace's name.
    pub team: String,
    pub user: String,
    /// As far as Slack tells them.
    pub scopes: Option<Vec<String>>,
}

impl Identity {
    pub(super) fn missing_scope(&self) -> Option<&'static str> {
        let scopes = self.scopes.as_ref()?;
        NEEDED_SCOPES.into_iter().find(|needed| !scopes.iter().any(|scope| scope == needed))
    }
}

/// A message that Slack took. The time stamp is its id within the channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    pub channel: String,
    pub ts: String,
}

/// What a channel's history says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Posted(Posted),
    Nowhere,
    /// Not among the messages that were read, and there are more.
    NotYet,
}

#[derive(Deserialize)]
struct Refusal {
    ok: bool,
    error: Option<String>,
    needed: Option<String>,
}

#[derive(Deserialize)]
struct AuthTest {
    #[serde(default)]
    team: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
struct Lookup {
    user: User,
}

#[derive(Deserialize)]
struct User {
    id: String,
    #[serde(default)]
    deleted: bool,
}

#[derive(Deserialize)]
struct Opened {
    channel: OpenedChannel,
}

#[derive(Deserialize)]
struct OpenedChannel {
    id: String,
}

#[derive(Deserialize)]
struct History {
    #[serde(default)]
    messages: Vec<Past>,
    #[serde(default)]
    response_metadata: Option<Cursor>,
}

#[derive(Default, Deserialize)]
struct Cursor {
    #[serde(default)]
    next_cursor: String,
}

#[derive(Deserialize)]
struct Past {
    ts: String,
    #[serde(default)]
    metadata: Value,
}

impl Slack {
    /// Whom the token belongs to (`auth.test`).
    pub async fn identity(&self) -> Result<Identity, SlackError> {
        let reply = self.send("auth.test", form(&[])).await?;
        let AuthTest { team, user } = accepted("auth.test", &reply)?;
        let scopes = reply.headers.get("x-oauth-scopes").and_then(|scopes| scopes.to_str().ok());
        let scopes = scopes.map(|scopes| scopes.split(',').map(|scope| scope.trim().to_owned()).collect());
        Ok(Identity { team, user, scopes })
    }

    /// Posts a message (`chat.postMessage`). Slack folds no equal keys: the key is kept with the message, to find it by.
    pub async fn post(&self, channel: &str, message: &Message, key: Uuid) -> Result<Posted, SlackError> {
        let body = json!({
            "channel": channel,
            "text": message.text(),
            "blocks": message.blocks(),
            "metadata": {"event_type": EVENT_TYPE, "event_payload": {"key": key}},
            "unfurl_links": false,
            "unfurl_media": false,
        });
        let content = Content::Bytes { kind: JSON, body: body.to_string().into_bytes() };
        self.ask("chat.postMessage", content).await
    }

    /// Looks for a message with this key among a channel's messages since then (`conversations.history`).
    pub async fn find(&self, channel: &str, key: Uuid, since: DateTime<Utc>) -> Result<Found, SlackError> {
        let method = "conversations.history";
        let (oldest, key) = ((since - SKEW).timestamp().to_string(), key.to_string());
        let mut cursor = String::new();
        for _ in 0..HISTORY_PAGES {
            let mut query = vec![
                ("channel", channel),
                ("oldest", oldest.as_str()),
                ("inclusive", "true"),
                ("include_all_metadata", "true"),
                ("limit", HISTORY_PAGE),
            ];
            if !cursor.is_empty() {
                query.push(("cursor", cursor.as_str()));
            }
            let History { messages, response_metadata } = self.ask(method, form(&query)).await?;
            let ours = messages.into_iter().find(|message| {
                message.metadata["event_type"] == EVENT_TYPE && message.metadata["event_payload"]["key"] == key.as_str()
            });
            if let Some(Past { ts, .. }) = ours {
                return Ok(Found::Posted(Posted { channel: channel.to_owned(), ts }));
            }
            cursor = response_metadata.unwrap_or_default().next_cursor;
            if cursor.is_empty() {
                return Ok(Found::Nowhere);
            }
        }
        Ok(Found::NotYet)
    }

    /// The user with this address (`users.lookupByEmail`), if there is one who can be mentioned.
    pub async fn person(&self, email: &str) -> Result<Option<String>, SlackError> {
        let method = "users.lookupByEmail";
        let reply = self.send(method, form(&[("email", email)])).await?;
        if code_of(&reply).as_deref() == Some("users_not_found") {
            return Ok(None);
        }
        let Lookup { user } = accepted(method, &reply)?;
        Ok(Some(user.id).filter(|_| !user.deleted))
    }

    /// The channel of a user's direct messages (`conversations.open`).
    pub async fn open(&self, user: &str) -> Result<String, SlackError> {
        let opened: Opened = self.ask("conversations.open", form(&[("users", user)])).await?;
        Ok(opened.channel.id)
    }

    async fn ask<T: DeserializeOwned>(&self, method: &'static str, content: Content<'_>) -> Result<T, SlackError> {
        accepted(method, &self.send(method, content).await?)
    }

    /// The answer, unless it is a status that says all.
    async fn send(&self, method: &'static str, content: Content<'_>) -> Result<Reply, SlackError> {
        let bearer = SecretString::from(format!("Bearer {}", self.token.expose_secret()));
        let (endpoint, headers) = (self.endpoint.join(method), [(AUTHORIZATION, bearer)]);
        let host = self.endpoint.host();
        let reply = self.http.send(Method::POST, &endpoint, &[], &headers, content).await;
        let reply = reply.map_err(|error| SlackError::of_http(&host, &error))?;
        match reply.status {
            200 => Ok(reply),
            429 => Err(SlackError::RateLimited(reply.retry_after(self.clock.now()))),
            503 if reply.retry_after(self.clock.now()).is_some() => {
                Err(SlackError::RateLimited(reply.retry_after(self.clock.now())))
            }
            408 | 500.. => Err(SlackError::Unknown(format!("{host} answered {}", reply.status))),
            status => match code_of(&reply) {
                Some(code) => Err(SlackError::of_code(method, &code, None)),
                None => {
                    Err(SlackError::Protocol(format!("{host} answered {status}, as Slack does not; check base_url")))
                }
            },
        }
    }
}

fn form(pairs: &[(&str, &str)]) -> Content<'static> {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    Content::Bytes { kind: FORM, body: body.into_bytes() }
}

/// The word of a refusal.
fn code_of(reply: &Reply) -> Option<String> {
    serde_json::from_slice::<Refusal>(&reply.body).ok().filter(|refusal| !refusal.ok)?.error
}

/// The body of an answer with status 200, or what it refuses for.
fn accepted<T: DeserializeOwned>(method: &str, reply: &Reply) -> Result<T, SlackError> {
    // Without serde's own words, which may hold the answer's.
    let broken = || SlackError::Unknown(format!("Slack's answer to {method} cannot be read"));
    let refusal: Refusal = serde_json::from_slice(&reply.body).map_err(|_| broken())?;
    if !refusal.ok {
        let code = refusal.error.unwrap_or_default();
        return Err(SlackError::of_code(method, &code, refusal.needed.as_deref()));
    }
    serde_json::from_slice(&reply.body).map_err(|_| broken())
}
