//! Rules that say which events are told in Slack, and where (EVT-3, SYNC-11).

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{IntegrationsRead, IntegrationsWrite, May},
    cursor::{self, Limit},
    extract::{Id, Json as Body, Posted, Query, present},
    idempotency::{Answer, Begun, begin_tenant},
    openapi::Problems,
    problem::Problem,
};
use crate::{
    domain::{Channel, EventPattern, FieldErrors, Language, NewRule, NotificationRule},
    jobs::slack,
    store::{Page, StoreError, notification_rules},
    tenant,
};

const LIST: &str = "notification-rules";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(show, change, remove))
}

/// A rule to be stored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RuleRequest {
    /// A Slack integration.
    integration_id: Uuid,
    /// A kind of event, or all of a family with `*`. Families: asset, employee, integration, invoice, job, workflow.
    #[schema(example = "asset.*")]
    events: String,
    /// A channel's id, or the e-mail address of a person, who is written to directly.
    #[schema(max_length = 255, example = "C0123ABCDEF")]
    channel: String,
    /// The organization's if it is left out.
    language: Option<Language>,
    /// Whom an event concerns is mentioned; true if it is left out.
    mention: Option<bool>,
    /// True if it is left out.
    enabled: Option<bool>,
}

/// A change of a rule: what is left out stays, `null` takes the language away (RFC 7396). Any change has a rule that has stopped tried
/// again, also an empty one.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RuleChange {
    events: Option<String>,
    channel: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Language>)]
    language: Option<Option<Language>>,
    mention: Option<bool>,
    enabled: Option<bool>,
}

/// A rule.
#[derive(Serialize, ToSchema)]
#[schema(as = NotificationRule)]
struct RuleView {
    id: Uuid,
    integration_id: Uuid,
    #[schema(example = "asset.*")]
    events: String,
    #[schema(example = "C0123ABCDEF")]
    channel: String,
    language: Option<Language>,
    mention: bool,
    enabled: bool,
    /// Why Slack takes nothing in this channel. Nothing is posted before the rule is changed.
    error: Option<String>,
    failed_at: Option<DateTime<Utc>>,
    last_posted_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A page of rules, oldest first.
#[derive(Serialize, ToSchema)]
struct NotificationRulePage {
    notification_rules: Vec<RuleView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    integration_id: Option<Uuid>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<NotificationRule> for RuleView {
    fn from(rule: NotificationRule) -> Self {
        let NotificationRule { id, rule, error, failed_at, last_posted_at, created_at, updated_at } = rule;
        let NewRule { integration_id, events, channel, language, mention, enabled } = rule;
        Self {
            id,
            integration_id,
            events: events.into(),
            channel: channel.into(),
            language,
            mention,
            enabled,
            error,
            failed_at,
            last_posted_at,
            created_at,
            updated_at,
        }
    }
}

impl RuleRequest {
    fn parse(self) -> Result<NewRule, FieldErrors> {
        let mut errors = FieldErrors::default();
        let events = errors.check("events", EventPattern::parse(&self.events));
        let channel = errors.check("channel", Channel::parse(&self.channel));
        let (Some(events), Some(channel)) = (events, channel) else { return Err(errors) };
        Ok(NewRule {
            integration_id: self.integration_id,
            events,
            channel,
            language: self.language,
            mention: self.mention.unwrap_or(true),
            enabled: self.enabled.unwrap_or(true),
        })
    }
}

impl RuleChange {
    /// The rule as it shall be.
    fn apply(self, rule: NewRule) -> Result<NewRule, FieldErrors> {
        let mut errors = FieldErrors::default();
        let events = self.events.map(|events| errors.check("events", EventPattern::parse(&events)));
        let channel = self.channel.map(|channel| errors.check("channel", Channel::parse(&channel)));
        errors.into_result()?;
        Ok(NewRule {
            integration_id: rule.integration_id,
            events: events.flatten().unwrap_or(rule.events),
            channel: channel.flatten().unwrap_or(rule.channel),
            language: self.language.unwrap_or(rule.language),
            mention: self.mention.unwrap_or(rule.mention),
            enabled: self.enabled.unwrap_or(rule.enabled),
        })
    }
}

/// Another kind of integration cannot be named; any other conflict is one.
fn refused(error: StoreError) -> Problem {
    match error {
        StoreError::Conflict { field: field @ "integration_id", message } => Problem::field(field, "invalid", message),
        error => error.into(),
    }
}

/// Stores a rule: from now on these events are told in this channel.
#[utoipa::path(
    post, path = "/notification-rules", tag = "integrations", operation_id = "create_notification_rule",
    security(("api_key" = ["integrations:write"])),
    request_body = RuleRequest,
    responses((status = 201, description = "Stored", body = RuleView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    caller: May<IntegrationsWrite>,
    posted: Posted<RuleRequest>,
) -> Result<Response, Problem> {
    let new = posted.body.parse()?;
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let rule = slack::create_rule(&mut work, &new, &caller.actor(), state.app.clock.now()).await.map_err(refused)?;
    let location = format!("/api/v1/notification-rules/{}", rule.id);
    work.finish(Answer::new(StatusCode::CREATED, &RuleView::from(rule)).at(location)).await
}

/// Lists rules, oldest first.
#[utoipa::path(
    get, path = "/notification-rules", tag = "integrations", operation_id = "list_notification_rules",
    security(("api_key" = ["integrations:read"])),
    params(ListParams),
    responses((status = 200, body = NotificationRulePage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<IntegrationsRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<NotificationRulePage>, Problem> {
    let page = Page {
        after: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
        newest_first: false,
    };
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let mut rules = notification_rules::page(&mut tx, params.integration_id, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut rules, |rule| rule.id);
    Ok(Json(NotificationRulePage { notification_rules: rules.into_iter().map(Into::into).collect(), next_cursor }))
}

/// Shows a rule.
#[utoipa::path(
    get, path = "/notification-rules/{id}", tag = "integrations", operation_id = "get_notification_rule",
    security(("api_key" = ["integrations:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = RuleView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    caller: May<IntegrationsRead>,
    Id(id): Id,
) -> Result<Json<RuleView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let rule = notification_rules::by_id(&mut tx, id).await?;
    tx.commit().await?;
    rule.map(|rule| Json(rule.into())).ok_or_else(|| Problem::not_found("notification rule"))
}

/// Changes a rule. One that had stopped because Slack took nothing in its channel is tried again.
#[utoipa::path(
    patch, path = "/notification-rules/{id}", tag = "integrations", operation_id = "change_notification_rule",
    security(("api_key" = ["integrations:write"])),
    params(("id" = Uuid, Path)),
    request_body = RuleChange,
    responses((status = 200, body = RuleView), Problems)
)]
async fn change(
    State(state): State<ApiState>,
    caller: May<IntegrationsWrite>,
    Id(id): Id,
    Body(change): Body<RuleChange>,
) -> Result<Json<RuleView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let none = || Problem::not_found("notification rule");
    let rule = notification_rules::by_id(&mut tx, id).await?.ok_or_else(none)?;
    let changed = change.apply(rule.rule)?;
    let changed = slack::change_rule(&mut tx, (id, &changed), &caller.actor(), state.app.clock.now()).await?;
    let rule = changed.ok_or_else(none)?;
    tx.commit().await?;
    Ok(Json(rule.into()))
}

/// Removes a rule; its messages that are waiting are not posted any more.
#[utoipa::path(
    delete, path = "/notification-rules/{id}", tag = "integrations", operation_id = "remove_notification_rule",
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
    if !slack::remove_rule(&mut tx, id, &caller.actor(), state.app.clock.now()).await? {
        return Err(Problem::not_found("notification rule"));
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
