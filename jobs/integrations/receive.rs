//! What third parties send by themselves (SYNC-12): proven by its signature, stored once by its id, answered at once. What is to be
//! done about it is a job's.
//!
//! Whoever asks without a right signature learns nothing: no organization, no integration, one without a secret and a wrong signature
//! are one answer, after the same questions to the database.

use backroom_queue::{NewJob, TraceParent, enqueue};
use chrono::Duration;
use secrecy::SecretString;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::HandleWebhook;
use crate::{
    clients::{
        self,
        connector::Credentials,
        http::header::HeaderMap,
        webhook::{self, Delivery, Happened, Received, WebhookCall, WebhookRefused},
    },
    context::App,
    domain::{
        Organization, Slug,
        integration::Integration,
        webhook_delivery::{DeliveryEvent, MAX_EXTERNAL_ID, NewWebhookDelivery},
    },
    store::{Sealer, StoreError, integrations, organizations, webhook_deliveries},
    tenant,
};

/// Changes come in bursts; one run reads them all.
const GATHER: Duration = Duration::seconds(5);

/// A request to the address of an integration. Nothing of it is believed yet.
pub struct Sent<'a> {
    pub organization: &'a str,
    pub integration: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    pub trace: Option<TraceParent>,
}

/// What the sender is to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was taken, now or when it came before.
    Taken,
    /// The address is ours; this is the answer.
    Challenge(String),
    /// Nothing more than that.
    Refused,
}

/// Whom the address names.
struct Known {
    organization: Organization,
    integration: Integration,
    credentials: SecretString,
}

/// Checks, reads and stores.
pub async fn receive(app: &App, sent: &Sent<'_>) -> Result<Heard, StoreError> {
    let Some(known) = look_up(app, sent).await? else {
        webhook::decoy(sent.body);
        return Ok(Heard::Refused);
    };
    let provider = known.integration.provider;
    match check(app, &known, sent) {
        Ok(Received::Challenge(answer)) => Ok(Heard::Challenge(answer)),
        Ok(Received::Deliveries(deliveries)) => {
            let read = deliveries.into_iter().map(read).collect::<Vec<_>>();
            store(app, &known, &read, sent.trace.clone()).await
        }
        Err(refused) => {
            let (tenant, integration) = (known.organization.slug.as_str(), known.integration.id);
            tracing::warn!(tenant, %integration, %provider, reason = %refused, "refused a delivery");
            Ok(Heard::Refused)
        }
    }
}

/// Asks the database the same number of times, whoever is named. An organization on hold takes nothing, as if it were not there: the
/// first run afterwards reads what has changed.
async fn look_up(app: &App, sent: &Sent<'_>) -> Result<Option<Known>, StoreError> {
    // No organization has such a slug, no integration such an id.
    let slug = Slug::parse(sent.organization).map_or_else(|_| "-".to_owned(), Into::into);
    let id = sent.integration.parse().unwrap_or(Uuid::nil());
    let found = organizations::by_slug(&mut *app.db.acquire().await?, &slug).await?;
    let Some(organization) = found.filter(|organization| !organization.is_held()) else {
        let mut tx = app.db.begin().await?;
        for _ in 0..3 {
            organizations::by_slug(&mut tx, "-").await?;
        }
        tx.rollback().await?;
        return Ok(None);
    };
    let mut tx = tenant::begin(&app.db, &organization).await?;
    let integration = integrations::by_id(&mut tx, id).await?;
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let credentials = integrations::credentials(&mut tx, sealer, id).await?;
    tx.rollback().await?;
    let known = integration.zip(credentials);
    Ok(known.map(|(integration, credentials)| Known { organization, integration, credentials }))
}

fn check(app: &App, known: &Known, sent: &Sent<'_>) -> Result<Received, WebhookRefused> {
    let vendor = clients::vendor(known.integration.provider);
    let credentials = Credentials::parse(known.credentials.clone());
    let (Some(webhook), Ok(credentials)) = (vendor.and_then(|vendor| vendor.webhook), credentials) else {
        webhook::decoy(sent.body);
        return Err(WebhookRefused::NoSecret);
    };
    let Sent { headers, body, .. } = *sent;
    let call = WebhookCall {
        credentials: &credentials,
        config: &known.integration.config,
        headers,
        body,
        now: app.clock.now(),
    };
    webhook(&call)
}

fn read(delivery: Delivery) -> NewWebhookDelivery {
    let Delivery { id, what, mut payload } = delivery;
    without_nul(&mut payload);
    let happened = match what {
        Happened::Changed => DeliveryEvent::Changed,
        Happened::Revoked => DeliveryEvent::Revoked,
        Happened::Other => DeliveryEvent::Other,
    };
    NewWebhookDelivery { external_id: storable(id), happened, payload }
}

/// The id, or what stands for one that the table would not take.
fn storable(id: String) -> String {
    let fits = (1..=MAX_EXTERNAL_ID).contains(&id.chars().count()) && !id.contains('\0');
    if fits { id } else { Sha256::digest(id).iter().map(|byte| format!("{byte:02x}")).collect() }
}

/// PostgreSQL's JSON has no U+0000.
fn without_nul(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', "\u{fffd}"),
        Value::Array(items) => items.iter_mut().for_each(without_nul),
        Value::Object(fields) => {
            if fields.keys().any(|name| name.contains('\0')) {
                let taken = std::mem::take(fields);
                *fields = taken.into_iter().map(|(name, value)| (name.replace('\0', "\u{fffd}"), value)).collect();
            }
            fields.values_mut().for_each(without_nul);
        }
        _ => {}
    }
}

/// What is new, and the job for it, in one transaction. Of two that bring the same at once one stores it.
async fn store(
    app: &App,
    known: &Known,
    deliveries: &[NewWebhookDelivery],
    trace: Option<TraceParent>,
) -> Result<Heard, StoreError> {
    let (organization, integration_id, now) = (&known.organization, known.integration.id, app.clock.now());
    let mut tx = tenant::begin(&app.db, organization).await?;
    let stored = match webhook_deliveries::insert(&mut tx, integration_id, deliveries, now).await {
        // Removed a moment ago.
        Err(StoreError::Conflict { field: "integration_id", .. }) => return Ok(Heard::Refused),
        stored => stored?,
    };
    if stored.pending > 0 {
        let job = NewJob::of(&HandleWebhook { integration_id }).tenant(organization.slug.as_str()).trace(trace);
        enqueue(&mut *tx, &job.run_at(now + GATHER)).await?;
    }
    tx.commit().await?;
    tracing::debug!(
        tenant = organization.slug.as_str(),
        integration = %integration_id,
        deliveries = deliveries.len(),
        new = stored.new,
        "took deliveries"
    );
    Ok(Heard::Taken)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// SYNC-12: whatever a sender writes can be stored.
    #[test]
    fn an_id_that_cannot_be_stored_has_one_that_stands_for_it() {
        assert_eq!(storable("evt-1".to_owned()), "evt-1");
        let long = storable("å".repeat(MAX_EXTERNAL_ID + 1));
        assert_eq!((long.len(), long == storable("å".repeat(MAX_EXTERNAL_ID + 2))), (64, false));
        assert_eq!(storable("a\0b".to_owned()).len(), 64);
        assert_eq!(storable(String::new()).len(), 64);
        let mut payload = json!({ "a\0": ["x\0y", { "b": "z" }], "n": 1 });
        without_nul(&mut payload);
        assert_eq!(payload, json!({ "a\u{fffd}": ["x\u{fffd}y", { "b": "z" }], "n": 1 }));
    }
}
