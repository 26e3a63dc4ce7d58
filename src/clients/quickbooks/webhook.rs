//! What QuickBooks sends by itself (SYNC-12), in both envelopes: the older object and the array of CloudEvents. It says which
//! documents changed and holds none of their values. The signature is over the body alone and holds no time: a delivery that is
//! sent again is known by its id.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::clients::webhook::{Delivery, Happened, Received, WebhookCall, WebhookRefused};

/// What is read of a company.
const ENTITIES: [&str; 3] = ["purchase", "bill", "invoice"];

/// A thing that happened, as a CloudEvent.
#[derive(Deserialize)]
struct Event {
    id: String,
    /// `qbo.purchase.updated.v1`
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "intuitaccountid", default)]
    realm: String,
    #[serde(rename = "intuitentityid", default)]
    entity: String,
    time: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notifications {
    event_notifications: Vec<Notification>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notification {
    realm_id: String,
    data_change_event: Option<Changes>,
}

#[derive(Deserialize)]
struct Changes {
    #[serde(default)]
    entities: Vec<Entity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entity {
    name: String,
    id: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    last_updated: String,
}

pub fn receive(call: &WebhookCall<'_>) -> Result<Received, WebhookRefused> {
    let token = call.credentials.get("webhook_verifier_token").ok_or(WebhookRefused::NoSecret)?;
    let signature = call.headers.get("intuit-signature").and_then(|value| value.to_str().ok());
    let signature = signature.and_then(|text| STANDARD.decode(text.trim()).ok()).ok_or(WebhookRefused::Signature)?;
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(token.expose_secret().as_bytes());
    let mac = mac.map_err(|_| WebhookRefused::NoSecret)?;
    mac.chain_update(call.body).verify_slice(&signature).map_err(|_| WebhookRefused::Signature)?;
    let ours = call.config["realm_id"].as_str().unwrap_or_default();
    let body: Value = serde_json::from_slice(call.body).map_err(|_| WebhookRefused::Body)?;
    let deliveries = if body.is_array() { cloud_events(body, ours) } else { notifications(body, ours) };
    deliveries.map(Received::Deliveries).map_err(|_| WebhookRefused::Body)
}

fn cloud_events(body: Value, ours: &str) -> Result<Vec<Delivery>, serde_json::Error> {
    let events: Vec<Event> = serde_json::from_value(body)?;
    let delivery = |event: Event| Delivery {
        what: happened(&event.realm, ours, event.kind.split('.').nth(1).unwrap_or_default()),
        payload: json!({ "type": event.kind, "realm_id": event.realm, "id": event.entity, "time": event.time }),
        id: event.id,
    };
    Ok(events.into_iter().map(delivery).collect())
}

fn notifications(body: Value, ours: &str) -> Result<Vec<Delivery>, serde_json::Error> {
    let notifications: Notifications = serde_json::from_value(body)?;
    let mut deliveries = Vec::new();
    for Notification { realm_id, data_change_event } in notifications.event_notifications {
        for Entity { name, id, operation, last_updated } in
            data_change_event.map(|changes| changes.entities).unwrap_or_default()
        {
            deliveries.push(Delivery {
                id: format!("{realm_id}:{name}:{id}:{operation}:{last_updated}"),
                what: happened(&realm_id, ours, &name.to_lowercase()),
                payload: json!({
                    "type": format!("{name} {operation}"), "realm_id": realm_id, "id": id, "time": last_updated,
                }),
            });
        }
    }
    Ok(deliveries)
}

fn happened(realm: &str, ours: &str, entity: &str) -> Happened {
    if realm == ours && ENTITIES.contains(&entity) { Happened::Changed } else { Happened::Other }
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderMap, HeaderValue};

    use super::*;
    use crate::{clients::connector::Credentials, domain::Clock};

    fn received(token: &str, signature: Option<&str>, realm: &str, body: &[u8]) -> Result<Received, WebhookRefused> {
        let credentials = Credentials::parse(json!({ "webhook_verifier_token": token }).to_string().into()).unwrap();
        let signature = signature.map(|text| HeaderValue::from_str(text).unwrap());
        let headers: HeaderMap =
            signature.into_iter().map(|value| ("intuit-signature".parse().unwrap(), value)).collect();
        let config = json!({ "realm_id": realm });
        let now = Clock::system().now();
        receive(&WebhookCall { credentials: &credentials, config: &config, headers: &headers, body, now })
    }

    fn signed(body: &[u8]) -> String {
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(b"verify_me").unwrap();
        STANDARD.encode(mac.chain_update(body).finalize().into_bytes())
    }

    /// SYNC-12: the published vector (vendors.md, section 9); the body is none that is known, so it is its shape that is refused.
    #[test]
    fn the_published_signature_is_believed_and_no_other() {
        let signature = "nfPLN16u3vMvv08ghDs+dOkLuirEVDy5wAeG/lmM2OA=";
        let body = br#"{"stuff":"5"}"#;
        assert_eq!(received("verify_me", Some(signature), "1", body), Err(WebhookRefused::Body));
        assert_eq!(received("verify_me", Some(signature), "1", br#"{"stuff":"6"}"#), Err(WebhookRefused::Signature));
        assert_eq!(received("verify_you", Some(signature), "1", body), Err(WebhookRefused::Signature));
        for none in [None, Some(""), Some("?"), Some("AAAA")] {
            assert_eq!(received("verify_me", none, "1", body), Err(WebhookRefused::Signature), "{none:?}");
        }
        assert_eq!(received("", Some(signature), "1", body), Err(WebhookRefused::NoSecret));
    }

    /// SYNC-12: both envelopes, by the published samples.
    #[test]
    fn both_envelopes_are_read() {
        let cloud = include_bytes!("../../../tests/fixtures/quickbooks/webhook-cloudevents.json");
        let Received::Deliveries(events) = received("verify_me", Some(&signed(cloud)), "310687", cloud).unwrap() else {
            panic!("a challenge")
        };
        assert_eq!((events.len(), events[0].what), (1, Happened::Changed));
        assert_eq!(events[0].id, "88cd52aa-33b6-4351-9aa4-47572edbd068");
        assert_eq!(events[0].payload["id"], "144");

        let legacy = include_bytes!("../../../tests/fixtures/quickbooks/webhook-legacy.json");
        let Received::Deliveries(events) = received("verify_me", Some(&signed(legacy)), "310687", legacy).unwrap()
        else {
            panic!("a challenge")
        };
        assert_eq!((events.len(), events[0].what), (1, Happened::Other), "an account is nothing that is read");
        assert_eq!(events[0].id, "310687:Account:1234:Create:2025-09-08T20:52:31.657Z");
    }

    /// SYNC-12: another company's news are not ours.
    #[test]
    fn a_delivery_for_another_realm_changes_nothing() {
        let cloud = include_bytes!("../../../tests/fixtures/quickbooks/webhook-cloudevents.json");
        let Received::Deliveries(events) = received("verify_me", Some(&signed(cloud)), "1", cloud).unwrap() else {
            panic!("a challenge")
        };
        assert_eq!(events[0].what, Happened::Other);
    }
}
