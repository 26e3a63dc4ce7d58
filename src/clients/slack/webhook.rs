//! What Slack sends to the app (Events API). Signed over version, time and raw body (`v0:{timestamp}:{body}`, HMAC-SHA256):
//! <https://docs.slack.dev/authentication/verifying-requests-from-slack>.

use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::Sha256;

use crate::clients::webhook::{Delivery, Happened, Received, WebhookCall, WebhookRefused};

/// A delivery that is older, or as far ahead, may be somebody's who overheard it.
const WINDOW: TimeDelta = TimeDelta::seconds(300);

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    challenge: Option<String>,
    event_id: Option<String>,
    team_id: Option<String>,
    event: Option<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    /// Of `tokens_revoked`: whose, by the kind of token.
    tokens: Option<Tokens>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tokens {
    bot: Vec<String>,
}

/// Checks a request of Slack's and reads it.
pub fn webhook(call: &WebhookCall<'_>) -> Result<Received, WebhookRefused> {
    let secret = call.credentials.get("signing_secret").ok_or(WebhookRefused::NoSecret)?;
    check(&secret, call.headers, call.body, call.now)?;
    let envelope: Envelope = serde_json::from_slice(call.body).map_err(|_| WebhookRefused::Body)?;
    match (envelope.kind.as_str(), envelope.event_id, envelope.event) {
        ("url_verification", ..) => envelope.challenge.map(Received::Challenge).ok_or(WebhookRefused::Body),
        ("event_callback", Some(id), Some(event)) => {
            let what = match event.kind.as_str() {
                "app_uninstalled" => Happened::Revoked,
                "tokens_revoked" if event.tokens.as_ref().is_none_or(|tokens| !tokens.bot.is_empty()) => {
                    Happened::Revoked
                }
                _ => Happened::Other,
            };
            let payload = json!({ "type": event.kind, "team_id": envelope.team_id });
            Ok(Received::Deliveries(vec![Delivery { id, what, payload }]))
        }
        ("event_callback", ..) => Err(WebhookRefused::Body),
        // `app_rate_limited` and what may come: nothing that concerns us, and nothing to be repeated.
        _ => Ok(Received::Deliveries(Vec::new())),
    }
}

/// Whether Slack signed the body, lately.
fn check(secret: &SecretString, headers: &HeaderMap, body: &[u8], now: DateTime<Utc>) -> Result<(), WebhookRefused> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let (Some(signature), Some(timestamp)) = (header("x-slack-signature"), header("x-slack-request-timestamp")) else {
        return Err(WebhookRefused::Signature);
    };
    let signature = signature.strip_prefix("v0=").and_then(unhex).ok_or(WebhookRefused::Signature)?;
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).map_err(|_| WebhookRefused::NoSecret)?;
    mac.update(format!("v0:{timestamp}:").as_bytes());
    mac.update(body);
    mac.verify_slice(&signature).map_err(|_| WebhookRefused::Signature)?;
    let sent = timestamp.parse().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let sent = sent.ok_or(WebhookRefused::Signature)?;
    if (now - sent).abs() > WINDOW { Err(WebhookRefused::Stale) } else { Ok(()) }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        clients::connector::Credentials,
        demo::vendors::slack::{SIGNING_SECRET, signed},
    };

    fn read(headers: &HeaderMap, body: &[u8], secret: &str, now: i64) -> Result<Received, WebhookRefused> {
        let credentials = Credentials::parse(json!({ "signing_secret": secret }).to_string().into()).unwrap();
        let now = DateTime::from_timestamp(now, 0).unwrap();
        webhook(&WebhookCall { credentials: &credentials, config: &Value::Null, headers, body, now })
    }

    fn event(event: Value) -> Value {
        json!({"type": "event_callback", "team_id": "T1", "event_id": "Ev1", "event": event})
    }

    const NOW: i64 = 1_772_438_400;

    /// SYNC-12: Slack's documented example (vendors.md, section 9).
    #[test]
    fn the_documented_signature_is_taken_and_no_other() {
        let secret = SecretString::from("8f742231b10e8888abcd99yyyzzz85a5");
        let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar\
                    &user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com\
                    %2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.\
                    803a0bc887a14d10d2c447fce8b6703c";
        let signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
        let at = |seconds: i64| DateTime::from_timestamp(seconds, 0).unwrap();
        let headers = |signature: &str, timestamp: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-slack-signature", signature.parse().unwrap());
            headers.insert("x-slack-request-timestamp", timestamp.parse().unwrap());
            headers
        };
        let good = headers(signature, "1531420618");
        assert_eq!(check(&secret, &good, body.as_bytes(), at(1_531_420_618)), Ok(()));
        for (now, expected) in [
            (1_531_420_918, Ok(())),
            (1_531_420_318, Ok(())),
            (1_531_420_919, Err(WebhookRefused::Stale)),
            (1_531_420_317, Err(WebhookRefused::Stale)),
        ] {
            assert_eq!(check(&secret, &good, body.as_bytes(), at(now)), expected, "{now}");
        }
        let refused = |headers: &HeaderMap, body: &str| {
            assert_eq!(check(&secret, headers, body.as_bytes(), at(1_531_420_618)), Err(WebhookRefused::Signature));
        };
        refused(&good, &body.replace("foobar", "foobaz"));
        refused(&headers(signature, "1531420619"), body);
        refused(&headers(&signature.replace("a2", "A3"), "1531420618"), body);
        refused(&headers("v0=", "1531420618"), body);
        refused(&headers(&signature[3..], "1531420618"), body);
        refused(&headers("v0=zz", "1531420618"), body);
        refused(&HeaderMap::new(), body);
    }

    /// SYNC-12
    #[test]
    fn a_delivery_says_what_happened() {
        for (told, expected) in [
            (json!({"type": "app_uninstalled"}), Happened::Revoked),
            (json!({"type": "tokens_revoked", "tokens": {"oauth": [], "bot": ["UBOT"]}}), Happened::Revoked),
            (json!({"type": "tokens_revoked", "tokens": {"oauth": ["U1"]}}), Happened::Other),
            (json!({"type": "message", "text": "planted"}), Happened::Other),
        ] {
            let (headers, body) = signed(&event(told.clone()), NOW);
            let Received::Deliveries(deliveries) = read(&headers, &body, SIGNING_SECRET, NOW).unwrap() else {
                panic!()
            };
            assert_eq!(
                (deliveries.len(), deliveries[0].id.as_str(), deliveries[0].what),
                (1, "Ev1", expected),
                "{told}"
            );
            assert!(!deliveries[0].payload.to_string().contains("planted"));
        }
    }

    /// SYNC-12
    #[test]
    fn a_challenge_is_answered_once_it_is_proven() {
        let (headers, body) = signed(&json!({"type": "url_verification", "challenge": "3eZb"}), NOW);
        assert_eq!(read(&headers, &body, SIGNING_SECRET, NOW), Ok(Received::Challenge("3eZb".to_owned())));
        assert_eq!(read(&headers, &body, "another", NOW), Err(WebhookRefused::Signature));
        assert_eq!(read(&headers, &body, "", NOW), Err(WebhookRefused::NoSecret));
        assert_eq!(read(&headers, &body, SIGNING_SECRET, NOW + 301), Err(WebhookRefused::Stale));
    }

    /// SYNC-12
    #[test]
    fn what_cannot_be_read_is_refused_and_what_is_new_is_let_be() {
        for (body, expected) in [
            (json!("no"), Err(WebhookRefused::Body)),
            (json!({"type": "event_callback", "event": {"type": "message"}}), Err(WebhookRefused::Body)),
            (json!({"type": "url_verification"}), Err(WebhookRefused::Body)),
            (json!({"type": "app_rate_limited", "team_id": "T1"}), Ok(Received::Deliveries(Vec::new()))),
        ] {
            let (headers, bytes) = signed(&body, NOW);
            assert_eq!(read(&headers, &bytes, SIGNING_SECRET, NOW), expected, "{body}");
        }
    }
}
