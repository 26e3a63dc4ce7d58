//! What tests of this family share: integrations that need no vendor, and what is known of them afterwards.

use backroom_queue::Outcome;
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{check, create_integration};
use crate::{
    domain::{
        integration::{DEFAULT_INTERVAL, Integration, NewIntegration, Provider},
        webhook_delivery::{DeliveryEvent, NewWebhookDelivery, WebhookDelivery},
    },
    jobs::testing::World,
    store::{Page, Sealer, events, integrations, webhook_deliveries},
};

/// Connects somebody; nobody is called by that.
pub async fn connect(world: &World, provider: Provider, name: &str) -> Integration {
    let (config, credentials) = match provider {
        Provider::Slack => (json!({}), json!({ "bot_token": "xoxb-test", "signing_secret": "s" })),
        _ => (json!({ "company_domain": "acme" }), json!({ "api_key": "k", "webhook_key": "s" })),
    };
    let credentials = SecretString::from(credentials.to_string());
    check(&world.app, provider, &config, &credentials).unwrap();
    let new =
        NewIntegration { provider, name: name.to_owned(), config, interval_minutes: DEFAULT_INTERVAL, enabled: true };
    let sealer = Sealer::new(&world.app.vault, "acme");
    let mut tx = world.tenant().await;
    let made = create_integration(&mut tx, sealer, (&new, &credentials), "test", world.now()).await.unwrap();
    tx.commit().await.unwrap();
    made
}

/// As if the third party had sent it.
pub async fn delivered(world: &World, integration_id: Uuid, ids: &[&str], happened: DeliveryEvent) {
    let deliveries: Vec<_> = ids
        .iter()
        .map(|id| NewWebhookDelivery { external_id: (*id).to_owned(), happened, payload: json!({ "id": id }) })
        .collect();
    let mut tx = world.tenant().await;
    webhook_deliveries::insert(&mut tx, integration_id, &deliveries, world.now()).await.unwrap();
    tx.commit().await.unwrap();
}

/// Its deliveries, oldest first.
pub async fn deliveries(world: &World, integration_id: Uuid) -> Vec<WebhookDelivery> {
    webhook_deliveries::page(&mut *world.tenant().await, integration_id, Page::first(100)).await.unwrap()
}

pub async fn reload(world: &World, id: Uuid) -> Integration {
    integrations::by_id(&mut *world.tenant().await, id).await.unwrap().unwrap()
}

/// The kinds of its events, oldest first.
pub async fn told(world: &World, id: Uuid) -> Vec<String> {
    let topic = super::topic(id);
    let page = events::page(&mut *world.tenant().await, Some(&topic), Page::first(100)).await.unwrap();
    page.into_iter().map(|event| event.kind).collect()
}

/// The result of a job that must have been completed.
pub fn result(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Completed { result: Some(result) } => result,
        other => panic!("it ended as {other:?}"),
    }
}
