//! What Slack's refusals mean. It answers most of them with 200 and a word (`error`).

use std::time::Duration;

use crate::clients::{connector::ConnectorError, http::HttpError};

/// Why a call had no success. The sentences are for a person who can act on them; they hold neither secrets nor messages.
#[derive(Debug, thiserror::Error)]
pub enum SlackError {
    /// Not now; nothing happened. Without a time: a minute.
    #[error("Slack limits the number of calls")]
    RateLimited(Option<Duration>),
    /// It may work later; nothing happened.
    #[error("{0}")]
    Transient(String),
    /// The line broke, or Slack failed in the middle: it may have happened.
    #[error("{0}")]
    Unknown(String),
    /// The token is not taken; waiting does not help.
    #[error("{0}")]
    Credentials(String),
    /// It is, but the app may not do this: names the scope or the permission.
    #[error("{0}")]
    Forbidden(String),
    /// This channel or person takes nothing; others may.
    #[error("{0}")]
    Target(String),
    /// The request was refused as malformed, or the answer is not what Slack documents.
    #[error("{0}")]
    Protocol(String),
    /// The address is not to be called.
    #[error("{0}")]
    Address(String),
}

impl From<SlackError> for ConnectorError {
    fn from(error: SlackError) -> Self {
        match error {
            SlackError::RateLimited(after) => Self::RateLimited("Slack", after),
            SlackError::Transient(said) | SlackError::Unknown(said) => Self::Transient(said),
            SlackError::Credentials(said) => Self::Credentials(said),
            SlackError::Forbidden(said) => Self::Forbidden(said),
            SlackError::Target(said) | SlackError::Protocol(said) => Self::Protocol(said),
            SlackError::Address(said) => Self::Address(said),
        }
    }
}

impl SlackError {
    pub(super) fn of_http(host: &str, error: &HttpError) -> Self {
        match error {
            HttpError::Forbidden(forbidden) => Self::Address(forbidden.to_string()),
            HttpError::NotSent(_) => Self::Transient(format!("{host} could not be reached")),
            HttpError::TimedOut(after) => Self::Unknown(format!("{host} did not answer within {after:?}")),
            HttpError::TooLarge(limit) => Self::Unknown(format!("an answer of {host} is larger than {limit} bytes")),
            HttpError::Broken(_) => Self::Unknown(format!("an answer of {host} broke off")),
        }
    }

    /// What `ok: false` with this word means. `needed` is the scope that Slack names with `missing_scope`.
    pub(super) fn of_code(method: &str, code: &str, needed: Option<&str>) -> Self {
        let code = word(code);
        match code.as_str() {
            "ratelimited" | "rate_limited" => Self::RateLimited(None),
            "invalid_auth" | "not_authed" => {
                Self::Credentials(format!("Slack does not take the bot token ({code}); enter the app's current one"))
            }
            "account_inactive" | "token_revoked" | "org_login_required" | "two_factor_setup_required" => {
                Self::Credentials(format!(
                    "the app's access to the Slack workspace has ended ({code}); install the app again and enter its bot token"
                ))
            }
            "token_expired" => Self::Credentials(
                "the bot token has expired; switch token rotation off in the app's settings, install it again and enter its bot token"
                    .to_owned(),
            ),
            "missing_scope" => {
                let needed = needed.map_or_else(|| "for this".to_owned(), word_or_list);
                Self::Forbidden(format!(
                    "the app lacks the scope {needed}; add it below OAuth & Permissions and install the app again"
                ))
            }
            "no_permission" | "not_allowed_token_type" | "ekm_access_denied" | "access_denied" | "accesslimited"
            | "team_access_not_granted" | "team_added_to_org" => Self::Forbidden(format!(
                "Slack does not allow the app to call {method} ({code}); ask an admin of the Slack workspace"
            )),
            "channel_not_found" => Self::Target(
                "Slack knows no channel with this id that the app may see (channel_not_found); correct the id, or invite the app into the \
                 private channel"
                    .to_owned(),
            ),
            "not_in_channel" => Self::Target(
                "the app is not in the channel (not_in_channel); invite it there".to_owned(),
            ),
            "is_archived" => {
                Self::Target("the channel is archived (is_archived); name another one, or bring it back".to_owned())
            }
            "users_not_found" | "user_not_found" | "user_disabled" | "user_not_visible" | "cannot_dm_bot"
            | "messages_tab_disabled" => {
                Self::Target(format!("Slack cannot write to this person ({code}); correct the address"))
            }
            code if code.starts_with("restricted_action") || code.starts_with("slack_connect_") => Self::Target(format!(
                "the Slack workspace lets the app post nothing in this channel ({code}); ask one of its admins, or name another channel"
            )),
            "message_limit_exceeded" => Self::Forbidden(
                "the Slack workspace has used up its messages (message_limit_exceeded); ask one of its admins".to_owned(),
            ),
            "service_unavailable" | "team_not_found" => Self::Transient(format!("Slack is not available ({code})")),
            // Slack's own words: these may have succeeded in part.
            "internal_error" | "fatal_error" | "request_timeout" => Self::Unknown(format!("Slack failed ({code})")),
            _ => Self::Protocol(format!("Slack refused {method} ({code})")),
        }
    }
}

/// A code as Slack writes them; anything else is not repeated.
fn word(code: &str) -> String {
    let shaped = (1..=60).contains(&code.len())
        && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if shaped { code.to_owned() } else { "with a word that it does not document".to_owned() }
}

/// `chat:write`, or several with commas.
fn word_or_list(needed: &str) -> String {
    let shaped = (1..=200).contains(&needed.len())
        && needed
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b':' | b'.' | b','));
    if shaped { needed.replace(',', ", ") } else { "for this".to_owned() }
}
