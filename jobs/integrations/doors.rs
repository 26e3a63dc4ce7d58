//! Changes to integrations, each with its event (EVT-1). The caller opens the transaction as the organization, and commits. Events hold
//! no configuration and no credentials.

use backroom_queue::{Enqueued, NewJob, TraceParent, enqueue};
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{SyncIntegration, TellAttention, topic};
use crate::{
    clients::{
        self,
        connector::{Account, Connector, Credentials},
        discreet::discreet,
    },
    context::App,
    domain::{
        FieldErrors, ParseError, Slug,
        integration::{
            Integration, IntegrationChange, IntegrationStatus, NewIntegration, Provider, SyncMode, SyncTrigger,
        },
    },
    jobs::people::doors as people,
    store::{
        Sealer, StoreError,
        events::{self, NewEvent},
        from_source::Source,
        integrations::{self, Stalled, Tokens},
    },
};

/// Whether the vendor's client can be made of configuration and credentials (a JSON object of strings); says all that is wrong.
pub fn check(app: &App, provider: Provider, config: &Value, credentials: &SecretString) -> Result<(), FieldErrors> {
    connect(app, provider, config, credentials).map(|_| ())
}

/// What can be connected, and what that needs.
#[derive(Clone, Copy, Debug)]
pub struct ProviderHelp {
    pub provider: Provider,
    pub config: &'static str,
    pub credentials: &'static str,
    /// It tells by itself when there is something to be read.
    pub webhook: bool,
}

/// What can be connected with this version of the program.
pub fn providers() -> Vec<ProviderHelp> {
    let help = |vendor: &&clients::connector::Vendor| ProviderHelp {
        provider: vendor.provider,
        config: vendor.config_help,
        credentials: vendor.credentials_help,
        webhook: vendor.webhook.is_some(),
    };
    clients::VENDORS.iter().map(help).collect()
}

/// The vendor's client.
pub fn connect(
    app: &App,
    provider: Provider,
    config: &Value,
    credentials: &SecretString,
) -> Result<Box<dyn Connector>, FieldErrors> {
    let Some(vendor) = clients::vendor(provider) else {
        let message = format!("is {provider}, which this version of the program does not speak to");
        return Err(ParseError::invalid(message).at("provider").into());
    };
    let credentials = Credentials::parse(credentials.clone())
        .map_err(|problem| FieldErrors::from(ParseError::invalid(problem).at("credentials")))?;
    let (http, clock) = (app.http.clone(), app.clock.clone());
    let account = Account { config: config.clone(), credentials: credentials.clone(), http, clock };
    Ok(discreet((vendor.connect)(account)?, &credentials))
}

/// SYNC-1. The caller has validated it and asked [`check`].
pub async fn create_integration(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (new, credentials): (&NewIntegration, &SecretString),
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Integration, StoreError> {
    let integration = integrations::insert(db, sealer, new, credentials, now).await?;
    tell(db, "integration.created", &integration, json!({}), (actor, now)).await?;
    Ok(integration)
}

/// SYNC-1. The caller has validated it and asked [`super::check_change`], which says what becomes of the tokens. New credentials, or
/// another configuration, end the wait for a person. `None` if there is no such integration.
pub async fn change_integration(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    id: Uuid,
    change: (&IntegrationChange, Option<&SecretString>, Tokens),
    (actor, now): (&str, DateTime<Utc>),
) -> Result<Option<Integration>, StoreError> {
    let Some(integration) = integrations::update(db, sealer, id, change, now).await? else { return Ok(None) };
    let more = json!({ "config": change.0.config.is_some(), "credentials": change.1.is_some() });
    tell(db, "integration.changed", &integration, json!({ "changed": more }), (actor, now)).await?;
    Ok(Some(integration))
}

/// SYNC-1: with its runs; what came from it stays, as if it had been written by hand. False if it was not there.
pub async fn remove_integration(
    db: &mut PgConnection,
    id: Uuid,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let Some(integration) = integrations::by_id(db, id).await? else { return Ok(false) };
    let removed = integrations::delete(db, id).await?;
    if removed {
        people::forget_source(db, Source { integration_id: id }).await?;
        tell(db, "integration.removed", &integration, json!({}), (actor, now)).await?;
    }
    Ok(removed)
}

/// SYNC-5: the switch. Turned to where it is, it tells nobody. `None` if there is no such integration.
pub async fn set_enabled(
    db: &mut PgConnection,
    id: Uuid,
    enabled: bool,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Option<Integration>, StoreError> {
    let Some((integration, turned)) = integrations::set_enabled(db, id, enabled, now).await? else { return Ok(None) };
    if turned {
        let kind = if enabled { "integration.enabled" } else { "integration.disabled" };
        tell(db, kind, &integration, json!({}), (actor, now)).await?;
    }
    Ok(Some(integration))
}

/// SYNC-5: has an integration synchronized. If a sync is waiting or running already, answers that one; a full run that was asked for
/// meanwhile follows it.
///
/// # Errors
/// It is switched off, or waits for a person: says what to do.
pub async fn request_sync(
    db: &mut PgConnection,
    organization: &Slug,
    request: &SyncIntegration,
    actor: &str,
    (now, trace): (DateTime<Utc>, Option<TraceParent>),
) -> Result<Enqueued, StoreError> {
    let id = request.integration_id;
    let Some(integration) = integrations::by_id(db, id).await? else {
        return Err(StoreError::NotFound { what: "integration", id });
    };
    if !integration.enabled {
        let message = "is off; enable the integration first".to_owned();
        return Err(StoreError::Conflict { field: "enabled", message });
    }
    if integration.status == IntegrationStatus::NeedsAttention {
        let why = integration.last_error.as_deref().unwrap_or_default();
        let message = format!("is needs_attention ({why}); mend it and test the connection, or store new credentials");
        return Err(StoreError::Conflict { field: "status", message });
    }
    let job = NewJob::of(request).tenant(organization.as_str()).trace(trace);
    let enqueued = enqueue(&mut *db, &job).await?;
    let follows = enqueued.duplicate
        && request.mode == Some(SyncMode::Full)
        && integrations::want_full(&mut *db, id, now).await?;
    if request.trigger == SyncTrigger::Manual && (follows || !enqueued.duplicate) {
        let more = json!({ "mode": request.mode, "job_id": enqueued.id });
        tell(db, "integration.sync_requested", &integration, more, (actor, now)).await?;
    }
    Ok(enqueued)
}

/// SYNC-6, SYNC-13: only a person can help. Its syncs cancel themselves from now on, and the first time admins are told. Whether this was
/// the first time.
pub async fn needs_attention(
    db: &mut PgConnection,
    organization: &Slug,
    (id, reason): (Uuid, &str),
    actor: &str,
    (now, trace): (DateTime<Utc>, Option<TraceParent>),
) -> Result<bool, StoreError> {
    let Some(since) = integrations::need_attention(db, id, reason, now).await? else { return Ok(false) };
    let Some(integration) = integrations::by_id(db, id).await? else { return Ok(false) };
    tell(db, "integration.needs_attention", &integration, json!({ "reason": reason }), (actor, now)).await?;
    let job = TellAttention { integration_id: id, since };
    enqueue(db, &NewJob::of(&job).tenant(organization.as_str()).trace(trace)).await?;
    Ok(true)
}

/// SYNC-13: nothing could be read from an integration for too long. It goes on trying; admins are told once until it works again.
pub(super) async fn stalled(
    db: &mut PgConnection,
    organization: &Slug,
    stalled: &Stalled,
    actor: &str,
    (now, trace): (DateTime<Utc>, Option<TraceParent>),
) -> Result<bool, StoreError> {
    let (id, since, title) = (stalled.id, stalled.since, stalled.provider.title());
    let error = stalled.error.as_deref().unwrap_or("calls are limited");
    let reason = format!(
        "{title} has let nothing be read since {} ({error}). It is asked again and again by itself; see whether {title} reports a \
         disturbance, and whether other programs use up the account's calls",
        since.format("%Y-%m-%d %H:%M UTC")
    );
    if !integrations::tell_stall(db, (id, since), &reason, now).await? {
        return Ok(false);
    }
    let Some(integration) = integrations::by_id(db, id).await? else { return Ok(false) };
    tell(db, "integration.stalled", &integration, json!({ "reason": reason }), (actor, now)).await?;
    let job = TellAttention { integration_id: id, since };
    enqueue(db, &NewJob::of(&job).tenant(organization.as_str()).trace(trace)).await?;
    Ok(true)
}

/// A test or a run went well; what needed attention needs it no longer.
pub(super) async fn succeeded(
    db: &mut PgConnection,
    id: Uuid,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if integrations::succeeded(db, id, now).await?
        && let Some(integration) = integrations::by_id(db, id).await?
    {
        tell(db, "integration.recovered", &integration, json!({}), (actor, now)).await?;
    }
    Ok(())
}

async fn tell(
    db: &mut PgConnection,
    kind: &str,
    integration: &Integration,
    more: Value,
    (actor, now): (&str, DateTime<Utc>),
) -> Result<(), StoreError> {
    let mut payload = json!({
        "integration_id": integration.id, "provider": integration.provider, "name": integration.name,
    });
    if let (Some(payload), Value::Object(more)) = (payload.as_object_mut(), more) {
        payload.extend(more);
    }
    events::append(db, &NewEvent { topic: topic(integration.id), kind, payload, actor }, now).await?;
    Ok(())
}
