//! Integrations: third parties that the organization has connected (SYNC-1, SYNC-5). Credentials go in and never come out.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Map, Value};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{Caller, IntegrationsRead, IntegrationsWrite, May},
    cursor::{self, Flag, Limit},
    extract::{Id, Json as Body, NoBody, Posted, Query},
    idempotency::{Answer, Begun, begin_tenant},
    openapi::Problems,
    problem::Problem,
    sealer, webhooks,
};
use crate::{
    domain::integration::{
        DEFAULT_INTERVAL, Integration, IntegrationChange, IntegrationKind, IntegrationStatus, NewIntegration, Provider,
    },
    jobs::integrations::{self as doors, ProviderHelp},
    store::{
        Page,
        integrations::{self, IntegrationFilter},
    },
    tenant,
};

const LIST: &str = "integrations";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show, change, remove))
        .routes(routes!(enable))
        .routes(routes!(disable))
        .routes(routes!(providers))
}

/// Credentials by name. Whatever is wrong with them, no word of them is in the answer.
struct Credentials(Vec<(String, Option<SecretString>)>);

impl<'de> Deserialize<'de> for Credentials {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own errors would quote what was found instead.
        let wrong = || D::Error::custom("must be an object of texts; null takes one away");
        let Value::Object(given) = Value::deserialize(deserializer)? else { return Err(wrong()) };
        let read = given.into_iter().map(|(name, secret)| match secret {
            Value::String(secret) => Ok((name, Some(secret.into()))),
            Value::Null => Ok((name, None)),
            _ => Err(wrong()),
        });
        read.collect::<Result<_, _>>().map(Self)
    }
}

/// An integration to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct IntegrationRequest {
    provider: Provider,
    /// What people call it; no two are called the same.
    #[schema(min_length = 1, max_length = 100, example = "Our BambooHR")]
    name: String,
    /// What `GET /api/v1/integration-providers` says of the provider.
    #[serde(default)]
    #[schema(value_type = Object)]
    config: Map<String, Value>,
    /// Texts by name; as above. Write-only.
    #[schema(value_type = Object, write_only)]
    credentials: Credentials,
    /// How often it is synchronized; 60 if it is left out.
    #[schema(minimum = 5, maximum = 10_080)]
    interval_minutes: Option<u32>,
    /// Whether it is synchronized by itself; true if it is left out.
    enabled: Option<bool>,
}

/// A change of an integration: what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct IntegrationUpdate {
    name: Option<String>,
    /// All of it. Another configuration is another source: the next run reads everything.
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
    /// Those that are named replace the ones of these names, `null` takes one away. Write-only.
    #[schema(value_type = Option<Object>, write_only)]
    credentials: Option<Credentials>,
    interval_minutes: Option<u32>,
}

/// An integration. Of its credentials there are the names alone.
#[derive(Serialize, ToSchema)]
#[schema(as = Integration)]
pub struct IntegrationView {
    id: Uuid,
    provider: Provider,
    kind: IntegrationKind,
    name: String,
    #[schema(value_type = Object)]
    config: Value,
    /// The names of the credentials that are set.
    credentials_set: Vec<String>,
    interval_minutes: u32,
    enabled: bool,
    status: IntegrationStatus,
    /// Since when it has waited for a person; null when it does not.
    needs_attention_since: Option<DateTime<Utc>>,
    last_success_at: Option<DateTime<Utc>>,
    last_error_at: Option<DateTime<Utc>>,
    /// A sentence for a person.
    last_error: Option<String>,
    /// When it is synchronized by itself the next time; null where there is nothing to read.
    next_run_at: Option<DateTime<Utc>>,
    /// Where the provider is to send what happens; null if it sends nothing.
    webhook_url: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A page of integrations, oldest first.
#[derive(Serialize, ToSchema)]
struct IntegrationPage {
    integrations: Vec<IntegrationView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// Somebody who can be connected.
#[derive(Serialize, ToSchema)]
#[schema(as = IntegrationProvider)]
struct ProviderView {
    provider: Provider,
    kind: IntegrationKind,
    /// As the company writes itself.
    title: &'static str,
    /// The keys of `config`, a line each.
    config: Vec<&'static str>,
    /// The names of `credentials`, a line each.
    credentials: Vec<&'static str>,
    /// It sends by itself what has changed, if it is told the `webhook_url`.
    webhooks: bool,
}

/// Everybody who can be connected.
#[derive(Serialize, ToSchema)]
struct IntegrationProviders {
    providers: Vec<ProviderView>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[param(inline)]
    provider: Option<Provider>,
    #[param(inline)]
    status: Option<IntegrationStatus>,
    /// Only those that are switched on, or off.
    #[param(value_type = Option<bool>)]
    enabled: Option<Flag>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<ProviderHelp> for ProviderView {
    fn from(help: ProviderHelp) -> Self {
        let ProviderHelp { provider, config, credentials, webhook } = help;
        let lines = |help: &'static str| help.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Self {
            provider,
            kind: provider.kind(),
            title: provider.title(),
            config: lines(config),
            credentials: lines(credentials),
            webhooks: webhook,
        }
    }
}

/// What the caller may see of it: everything but the credentials.
pub async fn view(
    state: &ApiState,
    caller: &Caller,
    db: &mut PgConnection,
    integration: Integration,
) -> Result<IntegrationView, Problem> {
    let credentials_set = doors::credential_names(db, sealer(state, caller), integration.id).await?;
    let sends = doors::has_webhooks(integration.provider);
    Ok(IntegrationView {
        id: integration.id,
        provider: integration.provider,
        kind: integration.provider.kind(),
        name: integration.name,
        config: integration.config,
        credentials_set,
        interval_minutes: integration.interval_minutes,
        enabled: integration.enabled,
        status: integration.status,
        needs_attention_since: integration.needs_since,
        last_success_at: integration.last_success_at,
        last_error_at: integration.last_error_at,
        last_error: integration.last_error,
        next_run_at: integration.next_run_at,
        webhook_url: sends.then(|| webhooks::address(state, caller.tenant(), integration.id)),
        created_at: integration.created_at,
        updated_at: integration.updated_at,
    })
}

/// PostgreSQL's JSON has no U+0000.
fn storable(config: &Map<String, Value>) -> Result<(), Problem> {
    let text = serde_json::to_string(config).map_err(Problem::internal)?;
    match text.contains("\\u0000") {
        true => Err(Problem::field("config", "invalid", "must not contain the character U+0000")),
        false => Ok(()),
    }
}

impl IntegrationRequest {
    fn parse(self, state: &ApiState) -> Result<(NewIntegration, SecretString), Problem> {
        storable(&self.config)?;
        let new = NewIntegration {
            provider: self.provider,
            name: self.name,
            config: Value::Object(self.config),
            interval_minutes: self.interval_minutes.unwrap_or(DEFAULT_INTERVAL),
            enabled: self.enabled.unwrap_or(true),
        };
        new.validate()?;
        let credentials = doors::merge_credentials(None, self.credentials.0);
        doors::check(&state.app, new.provider, &new.config, &credentials)?;
        Ok((new, credentials))
    }
}

/// Connects a third party. Nothing is asked of it yet: `POST …/test` does, and the first run.
#[utoipa::path(
    post, path = "/integrations", tag = "integrations", operation_id = "create_integration",
    security(("api_key" = ["integrations:write"])),
    request_body = IntegrationRequest,
    responses((status = 201, description = "Stored", body = IntegrationView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    caller: May<IntegrationsWrite>,
    posted: Posted<IntegrationRequest>,
) -> Result<Response, Problem> {
    let (new, credentials) = posted.body.parse(&state)?;
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let (sealer, now) = (sealer(&state, &caller), state.app.clock.now());
    let made = doors::create_integration(&mut work, sealer, (&new, &credentials), &caller.actor(), now).await?;
    let location = format!("/api/v1/integrations/{}", made.id);
    let view = view(&state, &caller, &mut work, made).await?;
    work.finish(Answer::new(StatusCode::CREATED, &view).at(location)).await
}

/// Lists integrations, oldest first.
#[utoipa::path(
    get, path = "/integrations", tag = "integrations", operation_id = "list_integrations",
    security(("api_key" = ["integrations:read"])),
    params(ListParams),
    responses((status = 200, body = IntegrationPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<IntegrationsRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<IntegrationPage>, Problem> {
    let page = Page {
        after: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
        newest_first: false,
    };
    let filter = IntegrationFilter {
        provider: params.provider,
        status: params.status,
        enabled: params.enabled.map(|Flag(enabled)| enabled),
        name: None,
    };
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let mut found = integrations::page(&mut tx, &filter, page).await?;
    let next_cursor = params.limit.cut(LIST, &mut found, |integration| integration.id);
    let mut integrations = Vec::with_capacity(found.len());
    for integration in found {
        integrations.push(view(&state, &caller, &mut tx, integration).await?);
    }
    tx.commit().await?;
    Ok(Json(IntegrationPage { integrations, next_cursor }))
}

/// Shows an integration.
#[utoipa::path(
    get, path = "/integrations/{id}", tag = "integrations", operation_id = "get_integration",
    security(("api_key" = ["integrations:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = IntegrationView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    caller: May<IntegrationsRead>,
    Id(id): Id,
) -> Result<Json<IntegrationView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let found = integrations::by_id(&mut tx, id).await?.ok_or_else(none)?;
    let view = view(&state, &caller, &mut tx, found).await?;
    tx.commit().await?;
    Ok(Json(view))
}

fn none() -> Problem {
    Problem::not_found("integration")
}

/// Changes an integration. New credentials or another configuration end the wait for a person. Another account is another integration.
#[utoipa::path(
    patch, path = "/integrations/{id}", tag = "integrations", operation_id = "change_integration",
    security(("api_key" = ["integrations:write"])),
    params(("id" = Uuid, Path)),
    request_body = IntegrationUpdate,
    responses((status = 200, body = IntegrationView), Problems)
)]
async fn change(
    State(state): State<ApiState>,
    caller: May<IntegrationsWrite>,
    Id(id): Id,
    Body(update): Body<IntegrationUpdate>,
) -> Result<Json<IntegrationView>, Problem> {
    let IntegrationUpdate { name, config, credentials, interval_minutes } = update;
    config.as_ref().map_or(Ok(()), storable)?;
    let change = IntegrationChange { name, config: config.map(Value::Object), interval_minutes };
    change.validate()?;
    let (sealer, now) = (sealer(&state, &caller), state.app.clock.now());
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let found = integrations::by_id(&mut tx, id).await?.ok_or_else(none)?;
    let present = integrations::credentials(&mut tx, sealer, id).await?.ok_or_else(none)?;
    let given = credentials.map(|Credentials(given)| doors::merge_credentials(Some(&present), given));
    let tokens = doors::check_change(&state.app, &found, (&change, given.as_ref()), &present)?;
    let (actor, change) = (caller.actor(), (&change, given.as_ref(), tokens));
    let changed = doors::change_integration(&mut tx, sealer, id, change, (&actor, now)).await?.ok_or_else(none)?;
    let view = view(&state, &caller, &mut tx, changed).await?;
    tx.commit().await?;
    Ok(Json(view))
}

/// Disconnects a third party. Its runs go; the records that came from it stay.
#[utoipa::path(
    delete, path = "/integrations/{id}", tag = "integrations", operation_id = "remove_integration",
    security(("api_key" = ["integrations:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 204, description = "Removed"), Problems)
)]
async fn remove(
    State(state): State<ApiState>,
    caller: May<IntegrationsWrite>,
    Id(id): Id,
) -> Result<StatusCode, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    if !doors::remove_integration(&mut tx, id, &caller.actor(), state.app.clock.now()).await? {
        return Err(none());
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets an integration be synchronized by itself.
#[utoipa::path(
    post, path = "/integrations/{id}/enable", tag = "integrations", operation_id = "enable_integration",
    security(("api_key" = ["integrations:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = IntegrationView), Problems)
)]
async fn enable(
    State(state): State<ApiState>,
    caller: May<IntegrationsWrite>,
    Id(id): Id,
    posted: NoBody,
) -> Result<Response, Problem> {
    switch(&state, &caller, (id, true), posted).await
}

/// Ends that: what is queued cancels itself, and nothing more is read.
#[utoipa::path(
    post, path = "/integrations/{id}/disable", tag = "integrations", operation_id = "disable_integration",
    security(("api_key" = ["integrations:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = IntegrationView), Problems)
)]
async fn disable(
    State(state): State<ApiState>,
    caller: May<IntegrationsWrite>,
    Id(id): Id,
    posted: NoBody,
) -> Result<Response, Problem> {
    switch(&state, &caller, (id, false), posted).await
}

async fn switch(
    state: &ApiState,
    caller: &Caller,
    (id, enabled): (Uuid, bool),
    posted: NoBody,
) -> Result<Response, Problem> {
    let mut work = match begin_tenant(state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let (actor, now) = (caller.actor(), state.app.clock.now());
    let turned = doors::set_enabled(&mut work, id, enabled, &actor, now).await?.ok_or_else(none)?;
    let view = view(state, caller, &mut work, turned).await?;
    work.finish(Answer::new(StatusCode::OK, &view)).await
}

/// Lists who can be connected, and what that needs.
#[utoipa::path(
    get, path = "/integration-providers", tag = "integrations", operation_id = "list_integration_providers",
    security(("api_key" = ["integrations:read"])),
    responses((status = 200, body = IntegrationProviders), Problems)
)]
async fn providers(_: May<IntegrationsRead>) -> Json<IntegrationProviders> {
    Json(IntegrationProviders { providers: doors::providers().into_iter().map(ProviderView::from).collect() })
}
