//! Language models: a question with a limit, an answer with its cost. Two dialects are spoken: OpenAI's chat completions,
//! which many servers understand, and Anthropic's messages.
//!
//! By hand: the kept crate that speaks both with an address of one's own, genai 0.7, reads an answer of any length into memory,
//! and what it takes from an error is its text; the guard of [`super::http`] could not hold it to a size. What is needed of the
//! two dialects is a page each.

mod anthropic;
mod openai;

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

pub use self::{anthropic::Anthropic, openai::OpenAi};
use super::http::{Endpoint, Http, HttpError, Reply};
use crate::domain::Clock;

/// Somebody who answers.
pub trait Provider: Send + Sync {
    /// Dialect and host, for instance `openai:models.example`: what its rate limit is called, and how logs name it.
    fn name(&self) -> &str;

    /// Answers. What it costs is in the answer; what an error cost nobody knows.
    fn complete<'a>(&'a self, ask: &'a Ask<'a>) -> BoxFuture<'a, Result<Completion, LlmError>>;
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What the model is told by us.
    pub system: &'a str,
    /// What others have written. Whatever it asks for, it stands here and nowhere else.
    pub user: &'a str,
    /// In tokens, the model's own thoughts included.
    pub max_output_tokens: u32,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The model's words, as they came. Empty where it had none.
    pub text: String,
    pub end: End,
    /// Missing where the server does not count.
    pub usage: Option<TokenUsage>,
}

/// Why an answer ends where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Complete,
    /// The limit of tokens cut it off.
    Length,
    /// The model, or a filter before it, would not.
    Refused,
    /// Something else, by the provider's word.
    Other(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    pub input: u64,
    pub output: u64,
}

/// How a provider is reached.
#[derive(Clone, Debug)]
pub struct LlmOptions {
    /// Without the path of the operation: `https://api.openai.com/v1`.
    pub endpoint: Endpoint,
    pub model: String,
    /// Not needed by some servers on one's own machines.
    pub api_key: Option<SecretString>,
    /// Left out if it is missing: some models refuse it.
    pub temperature: Option<f64>,
    pub http: Http,
    pub clock: Clock,
}

/// Why there is no answer, and what to do about it. No text holds the key, or more than a line of what the other side said.
#[derive(Debug, thiserror::Error)]
pub enum LlmError {
    /// Too many questions (429), or too many of everybody's (529): not before this time, for anybody who asks under the same key.
    #[error("it has too much to do: {said}")]
    Busy { retry_after: Option<Duration>, said: String },
    /// The money is used up: asking again does not help before somebody pays or the month ends.
    #[error("its spend limit is reached: {said}; raise it, or wait for the next month")]
    SpendLimit { said: String },
    /// Asking again does not help before `llm.api_key` is corrected.
    #[error("it refused the key of llm.api_key ({said})")]
    KeyRefused { said: String },
    /// Asking the same again does not help: the settings or the question are not right.
    #[error("it refused the question: {said}")]
    Rejected { said: String },
    /// It may work the next time.
    #[error("it failed: {said}")]
    Failed { said: String },
    #[error("it could not be reached, or did not answer")]
    Unreachable(#[source] HttpError),
}

impl LlmError {
    /// Whether asking again, unchanged, may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Failed { .. } => true,
            Self::SpendLimit { .. } | Self::KeyRefused { .. } | Self::Rejected { .. } => false,
            Self::Unreachable(error) => !matches!(error, HttpError::Forbidden(_)),
        }
    }
}

/// About as many tokens as a text has, rather more than less: a token is three bytes or longer in most languages written in
/// letters.
pub fn estimated_tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(3)
}

/// The beginning of a text that has about so many tokens at most.
pub fn cut(text: &str, max_tokens: u64) -> &str {
    let end = usize::try_from(max_tokens.saturating_mul(3)).unwrap_or(usize::MAX);
    &text[..text.floor_char_boundary(end)]
}

/// The body of an error in both dialects. Compatible servers leave out what they like.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    error: ErrorFields,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorFields {
    #[serde(rename = "type")]
    kind: Value,
    code: Value,
    message: Value,
    details: Value,
}

/// Words by which providers say that the money is used up, where others say that they are asked too often.
const SPENT: [&str; 6] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "billing_error",
    "billing_hard_limit_reached",
    "enforced_spend_limit_reached",
    "spend_limit_reached",
];

/// The answer's body, or what its status means.
fn accepted<T: for<'de> Deserialize<'de>>(
    reply: &Reply,
    key: Option<&SecretString>,
    now: DateTime<Utc>,
) -> Result<T, LlmError> {
    if reply.status == 200 {
        // Without serde's own words, which may hold the model's.
        return serde_json::from_slice(&reply.body).map_err(|error| {
            let said =
                format!("200 with a body that does not decode at line {}, column {}", error.line(), error.column());
            LlmError::Failed { said }
        });
    }
    let fields = serde_json::from_slice::<ErrorBody>(&reply.body).unwrap_or_default().error;
    let words =
        [&fields.kind, &fields.code, &fields.details["error_code"]].map(|word| word.as_str().unwrap_or_default());
    let names: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let status = reply.status;
    let said = |with_message: bool| {
        let message = fields.message.as_str().filter(|_| with_message).unwrap_or_default();
        one_line(&format!("{status} {} {message}", names.join(" ")), key)
    };
    let spent = names.iter().any(|name| SPENT.contains(name));
    let retry_after = reply.retry_after(now);
    Err(match status {
        402 => LlmError::SpendLimit { said: said(true) },
        400..500 if spent => LlmError::SpendLimit { said: said(true) },
        // The message of a refused key repeats parts of it.
        401 | 403 => LlmError::KeyRefused { said: said(false) },
        429 | 529 => LlmError::Busy { retry_after, said: said(true) },
        503 if retry_after.is_some() => LlmError::Busy { retry_after, said: said(true) },
        408 | 409 | 425 | 500.. => LlmError::Failed { said: said(true) },
        300..400 => LlmError::Rejected { said: format!("{status}, another address; correct llm.base_url") },
        _ => LlmError::Rejected { said: said(true) },
    })
}

/// What the other side said as a line of a log: no control characters, at most 200 characters, and not our key.
fn one_line(text: &str, key: Option<&SecretString>) -> String {
    let text = match key {
        Some(key) if !key.expose_secret().is_empty() => text.replace(key.expose_secret(), "(the key)"),
        _ => text.to_owned(),
    };
    let line = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    line.collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

/// The black-box tests' own: a provider over real HTTP.
#[cfg(test)]
#[path = "../../../tests/it/support/llm.rs"]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
