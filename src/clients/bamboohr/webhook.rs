//! What BambooHR sends when an employee changes (SYNC-12). A delivery says who has changed, and is never believed beyond that: an
//! incremental run reads what there is to know.
//!
//! `X-BambooHR-Signature` is the hexadecimal HMAC-SHA256, by the webhook's private key, of the raw body with the text of
//! `X-BambooHR-Timestamp` right behind it. A delivery has no id: its own text is its id.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use super::place::parsed_time;
use crate::clients::webhook::{Delivery, Happened, Received, WebhookCall, WebhookRefused};

const SIGNATURE: &str = "x-bamboohr-signature";
const TIMESTAMP: &str = "x-bamboohr-timestamp";
/// The vendor tries again for 155 minutes; nobody says whether it signs anew.
const OLDEST: TimeDelta = TimeDelta::hours(3);
const AHEAD: TimeDelta = TimeDelta::minutes(5);

pub(super) fn receive(call: &WebhookCall<'_>) -> Result<Received, WebhookRefused> {
    let key = call.credentials.get("webhook_key").ok_or(WebhookRefused::NoSecret)?;
    let header = |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok());
    let (signature, timestamp) = (header(SIGNATURE), header(TIMESTAMP));
    let (Some(signature), Some(timestamp)) = (signature, timestamp) else { return Err(WebhookRefused::Signature) };
    let signature = unhex(signature.trim()).ok_or(WebhookRefused::Signature)?;
    mac(&key, call.body, timestamp).verify_slice(&signature).map_err(|_| WebhookRefused::Signature)?;
    let content_type = header("content-type").unwrap_or_default();
    let body = if content_type.starts_with("application/x-www-form-urlencoded") {
        of_form(call.body)
    } else {
        serde_json::from_slice(call.body).map_err(|_| WebhookRefused::Body)?
    };
    let sent = sent_at(timestamp).or_else(|| parsed_time(body["timestamp"].as_str()?)).ok_or(WebhookRefused::Stale)?;
    if sent < call.now - OLDEST || sent > call.now + AHEAD {
        return Err(WebhookRefused::Stale);
    }
    deliveries(&body, call.body, timestamp).ok_or(WebhookRefused::Body).map(Received::Deliveries)
}

/// As the vendor signs.
pub fn sign(key: &SecretString, body: &[u8], timestamp: &str) -> String {
    hex(&mac(key, body, timestamp).finalize().into_bytes())
}

fn mac(key: &SecretString, body: &[u8], timestamp: &str) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    mac.update(timestamp.as_bytes());
    mac
}

/// Seconds or milliseconds since 1970, or a date; the vendor does not say which.
fn sent_at(timestamp: &str) -> Option<DateTime<Utc>> {
    match timestamp.trim().parse::<i64>() {
        Ok(number) if number.unsigned_abs() >= 100_000_000_000 => DateTime::from_timestamp_millis(number),
        Ok(number) => DateTime::from_timestamp_secs(number),
        Err(_) => parsed_time(timestamp.trim()),
    }
}

/// One of the events (`{type, timestamp, data}`), or several employees of the older form (`{employees: […]}`).
fn deliveries(body: &Value, raw: &[u8], timestamp: &str) -> Option<Vec<Delivery>> {
    if let Some(kind) = body["type"].as_str() {
        let data = only(&body["data"], &["companyId", "employeeId", "changedFields"]);
        let payload = json!({"type": kind, "timestamp": body["timestamp"], "data": data});
        let what = if kind.starts_with("employee") { Happened::Changed } else { Happened::Other };
        let id = id_of(raw, body["timestamp"].is_null().then_some(timestamp), 0);
        return Some(vec![Delivery { id, what, payload }]);
    }
    let employees = body["employees"].as_array()?;
    let delivery = |(position, employee): (usize, &Value)| Delivery {
        id: id_of(raw, employee["timestamp"].is_null().then_some(timestamp), position),
        what: Happened::Changed,
        // Without `fields`, which hold what the employee's are.
        payload: only(employee, &["id", "action", "timestamp", "changedFields"]),
    };
    Some(employees.iter().enumerate().map(delivery).collect())
}

fn only(value: &Value, keys: &[&str]) -> Value {
    let there = keys.iter().filter_map(|key| Some(((*key).to_owned(), value.get(*key)?.clone())));
    Value::Object(there.collect::<Map<_, _>>())
}

/// The same for the same delivery again. One that does not say when it happened is told from a later one like it by when it was sent.
fn id_of(raw: &[u8], sent: Option<&str>, position: usize) -> String {
    let digest = Sha256::new().chain_update(raw).chain_update(sent.unwrap_or_default()).finalize();
    format!("{}-{position}", &hex(&digest)[..32])
}

/// `type=…&data[employeeId]=…&data[changedFields][0]=…` as the JSON of the same.
fn of_form(body: &[u8]) -> Value {
    let mut event = json!({});
    for (name, value) in form_urlencoded::parse(body) {
        let mut keys = name.split(['[', ']']).filter(|key| !key.is_empty());
        let path = (keys.next(), keys.next(), keys.next());
        match path {
            (Some("type" | "timestamp"), None, _) => event[&*name] = json!(value),
            (Some("data"), Some("changedFields"), _) => match &mut event["data"]["changedFields"] {
                Value::Array(fields) => fields.push(json!(value)),
                none => *none = json!([value]),
            },
            (Some("data"), Some(key @ ("companyId" | "employeeId")), None) => event["data"][key] = json!(value),
            _ => {}
        }
    }
    event
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| (pair[0] << 4) | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

    use super::*;
    use crate::clients::connector::Credentials;

    const KEY: &str = "test-private-key";
    /// 18 February 2025, 15:30 UTC.
    const SENT: &str = "1739892600";
    const BODY: &str = r#"{"type":"employee.updated","timestamp":"2025-02-18T15:30:00Z","data":{"companyId":"12345","employeeId":"100","changedFields":["department"]}}"#;
    const SIGNED: &str = "89dcd6725200665a7292db26169280c8c0589ba0ade25bfeea1902c73842a82b";

    struct Sent<'a> {
        body: &'a str,
        signature: String,
        timestamp: &'a str,
        kind: &'static str,
        now: DateTime<Utc>,
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_secs(1_739_892_700).unwrap()
    }

    fn sent<'a>(body: &'a str, timestamp: &'a str) -> Sent<'a> {
        let signature = sign(&SecretString::from(KEY), body.as_bytes(), timestamp);
        Sent { body, signature, timestamp, kind: "application/json", now: now() }
    }

    fn received(sent: &Sent<'_>) -> Result<Vec<Delivery>, WebhookRefused> {
        let credentials = Credentials::parse(SecretString::from(json!({"webhook_key": KEY}).to_string())).unwrap();
        let headers = [(SIGNATURE, sent.signature.as_str()), (TIMESTAMP, sent.timestamp), ("content-type", sent.kind)];
        let headers: HeaderMap = headers
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        let config = Value::Null;
        let body = sent.body.as_bytes();
        match receive(&WebhookCall {
            credentials: &credentials,
            config: &config,
            headers: &headers,
            body,
            now: sent.now,
        })? {
            Received::Deliveries(deliveries) => Ok(deliveries),
            Received::Challenge(_) => panic!("BambooHR has no challenge"),
        }
    }

    /// SYNC-12: the vector of `vendors.md`, section 9.
    #[test]
    fn the_vendors_signature_is_taken() {
        assert_eq!(sign(&SecretString::from(KEY), BODY.as_bytes(), SENT), SIGNED);

        let deliveries = received(&Sent { signature: SIGNED.to_uppercase(), ..sent(BODY, SENT) }).unwrap();

        assert_eq!(deliveries.len(), 1);
        assert_eq!(deliveries[0].what, Happened::Changed);
        assert_eq!(deliveries[0].payload, serde_json::from_str::<Value>(BODY).unwrap());
    }

    /// SYNC-12
    #[test]
    fn a_wrong_signature_is_refused() {
        let proper = sent(BODY, SENT);
        for signature in ["", "89dc", "zz", "é", &SIGNED.replace('8', "9"), &format!("{SIGNED}00")] {
            let wrong = Sent { signature: signature.to_owned(), ..sent(BODY, SENT) };
            // An umlaut is no header value at all.
            if signature.is_ascii() {
                assert_eq!(received(&wrong), Err(WebhookRefused::Signature), "{signature}");
            }
        }
        let changed = BODY.replace("100", "101");
        let other_body = Sent { body: &changed, signature: proper.signature.clone(), ..sent(BODY, SENT) };
        assert_eq!(received(&other_body), Err(WebhookRefused::Signature));
        let later = Sent { signature: proper.signature, ..sent(BODY, "1739892601") };
        assert_eq!(received(&later), Err(WebhookRefused::Signature));
        let nobody = Credentials::parse(SecretString::from("{}")).unwrap();
        let (config, headers) = (Value::Null, HeaderMap::new());
        let call = WebhookCall { credentials: &nobody, config: &config, headers: &headers, body: b"{}", now: now() };
        assert_eq!(receive(&call), Err(WebhookRefused::NoSecret));
    }

    /// SYNC-12: a replay is known by its id, and taken at all only while the vendor may still be trying.
    #[test]
    fn a_stale_delivery_is_refused_and_a_repeated_one_keeps_its_id() {
        let at = |minutes: i64| received(&Sent { now: now() + TimeDelta::minutes(minutes), ..sent(BODY, SENT) });
        assert_eq!(at(0).unwrap()[0].id, at(155).unwrap()[0].id);
        assert_eq!(at(181), Err(WebhookRefused::Stale));
        assert_eq!(at(-10), Err(WebhookRefused::Stale));
        // Signed anew when it is sent again, it is still the same.
        assert_eq!(received(&sent(BODY, "1739892660")).unwrap()[0].id, at(0).unwrap()[0].id);
        let other = BODY.replace("100", "101");
        assert_ne!(received(&sent(&other, SENT)).unwrap()[0].id, at(0).unwrap()[0].id);
        for timestamp in ["1739892600000", "2025-02-18T15:30:00Z", "2025-02-18T15:30:00+0000", "what the vendor likes"]
        {
            let now = Utc.with_ymd_and_hms(2025, 2, 18, 16, 0, 0).unwrap();
            let taken = received(&Sent { now, ..sent(BODY, timestamp) });
            assert!(taken.is_ok(), "{timestamp}: {taken:?}");
        }
    }

    /// SYNC-12: the older form holds what the fields are; a delivery does not keep it.
    #[test]
    fn the_older_form_is_a_delivery_for_each_employee_without_values() {
        let body = json!({"employees": [
            {"id": "4", "action": "Updated", "timestamp": "2025-02-18T15:30:00Z", "changedFields": ["ssn"], "fields": {"SSN": {"value": "123-45-6789"}}},
            {"id": "5", "action": "Deleted"},
        ]})
        .to_string();
        let deliveries = received(&sent(&body, SENT)).unwrap();
        assert_eq!(deliveries.len(), 2);
        assert_ne!(deliveries[0].id, deliveries[1].id);
        assert_eq!(deliveries[1].payload, json!({"id": "5", "action": "Deleted"}));
        assert!(!format!("{deliveries:?}").contains("6789"));
        // The second says nothing of its time: the same words later are another deletion.
        let later = received(&sent(&body, "1739892660")).unwrap();
        assert_eq!(later[0].id, deliveries[0].id);
        assert_ne!(later[1].id, deliveries[1].id);
    }

    /// SYNC-12
    #[test]
    fn a_form_is_read_as_json_is() {
        let body = "type=employee.updated&timestamp=2025-02-18T15%3A30%3A00%2B0000&data%5BcompanyId%5D=12345\
            &data%5BemployeeId%5D=100&data%5BchangedFields%5D%5B0%5D=department&data%5BchangedFields%5D%5B1%5D=location";
        let kind = "application/x-www-form-urlencoded";
        let deliveries = received(&Sent { kind, ..sent(body, SENT) }).unwrap();
        assert_eq!(
            deliveries[0].payload,
            json!({
                "type": "employee.updated", "timestamp": "2025-02-18T15:30:00+0000",
                "data": {"companyId": "12345", "employeeId": "100", "changedFields": ["department", "location"]},
            })
        );
        assert_eq!(received(&sent("not json", SENT)), Err(WebhookRefused::Body));
        assert_eq!(received(&sent(r#"{"hello": 1}"#, SENT)), Err(WebhookRefused::Body));
        let company = received(&sent(r#"{"type":"company.updated","data":{"companyId":"1"}}"#, SENT)).unwrap();
        assert_eq!(company[0].what, Happened::Other);
    }
}
