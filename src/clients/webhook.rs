//! What a third party sends by itself (SYNC-12): proven by a signature over the raw body before it is read.

use std::hint::black_box;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::HeaderMap;
use serde_json::Value;
use sha2::Sha256;

use super::connector::Credentials;

/// A request that came in for an integration.
pub struct WebhookCall<'a> {
    pub credentials: &'a Credentials,
    pub config: &'a Value,
    pub headers: &'a HeaderMap,
    /// As it came; the signature is over these bytes.
    pub body: &'a [u8],
    pub now: DateTime<Utc>,
}

/// Checks a request and reads it.
pub type Webhook = fn(&WebhookCall<'_>) -> Result<Received, WebhookRefused>;

/// What it was.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// Things that happened, each with an id that is the same when it is delivered again.
    Deliveries(Vec<Delivery>),
    /// The vendor asks whether the address is ours; the text is the answer.
    Challenge(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub id: String,
    pub what: Happened,
    /// As it came, for a person to look at; no records, only what changed.
    pub payload: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// There is something to be read.
    Changed,
    /// The vendor says that our access has ended.
    Revoked,
    /// Nothing that concerns us.
    Other,
}

/// Why a request is not taken. The vendor is told no more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookRefused {
    #[error("the integration has no secret to check signatures with")]
    NoSecret,
    #[error("the signature is missing or wrong")]
    Signature,
    #[error("the signature is too old, or of the future")]
    Stale,
    #[error("the body cannot be read")]
    Body,
}

/// The work of checking a signature, for a request that there is no secret for: it is to take as long.
pub fn decoy(body: &[u8]) {
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&[0; 32]) {
        mac.update(body);
        black_box(mac.finalize());
    }
}
