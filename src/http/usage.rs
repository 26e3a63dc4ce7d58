//! What the organization's tier allows and what is used of it (TEN-4).

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use chrono::NaiveDate;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    auth::{May, OrganizationRead},
    openapi::Problems,
    problem::Problem,
};
use crate::{
    domain::{Limits, Tier, limits::month_of},
    store::{organizations, usage, workflow_templates},
    tenant,
};

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(show))
}

/// Limits and use.
#[derive(Serialize, ToSchema)]
struct Usage {
    tier: Tier,
    limits: LimitsView,
    tokens: TokensView,
    workflows: WorkflowsView,
}

/// What the tier allows.
#[derive(Serialize, ToSchema)]
#[schema(as = Limits)]
struct LimitsView {
    tokens_per_month: u64,
    agents: u64,
    workflows: u64,
}

/// Tokens of language models in this month.
#[derive(Serialize, ToSchema)]
#[schema(as = TokenUsage)]
struct TokensView {
    /// Its first day, by the organization's calendar.
    month: NaiveDate,
    used: u64,
    left: u64,
    /// What they were used for.
    by_kind: BTreeMap<String, u64>,
}

/// Templates of workflows that the organization made itself; those that come with the product do not count.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkflowUsage)]
struct WorkflowsView {
    used: u64,
    left: u64,
}

/// Shows the tier's limits and what is used of them.
#[utoipa::path(
    get, path = "/organization/usage", tag = "organization", operation_id = "get_usage",
    security(("api_key" = ["organization:read"])),
    responses((status = 200, body = Usage), Problems)
)]
async fn show(State(state): State<ApiState>, caller: May<OrganizationRead>) -> Result<Json<Usage>, Problem> {
    let mut db = state.app.db.acquire().await?;
    // Anew: an upgrade counts at once.
    let organization = organizations::by_id(&mut db, caller.organization.id).await?;
    let organization = organization.ok_or_else(|| Problem::not_found("organization"))?;
    let month = month_of(state.app.clock.now(), organization.time_zone);
    let by_kind: BTreeMap<_, _> = usage::tokens_by_kind(&mut db, organization.id, month).await?.into_iter().collect();
    let used = by_kind.values().fold(0, |sum: u64, tokens| sum.saturating_add(*tokens));
    drop(db);
    let mut tx = tenant::begin(&state.app.db, &organization).await?;
    let templates = workflow_templates::count(&mut tx).await?;
    tx.commit().await?;
    let limits = Limits::of(organization.tier);
    Ok(Json(Usage {
        tier: organization.tier,
        limits: LimitsView {
            tokens_per_month: limits.tokens_per_month,
            agents: limits.agents,
            workflows: limits.workflows,
        },
        tokens: TokensView { month, used, left: limits.tokens_per_month.saturating_sub(used), by_kind },
        workflows: WorkflowsView { used: templates, left: limits.workflows.saturating_sub(templates) },
    }))
}
