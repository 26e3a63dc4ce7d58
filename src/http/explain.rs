//! Why a job does not run (PLAT-22), and everything about it as one document (PLAT-24).

use axum::{Json, extract::State};
use backroom_queue::{self as queue, Why};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{JobsRead, Within},
    cursor::Flag,
    extract::{Id, Query},
    jobs::JobStateView,
    openapi::Problems,
    problem::Problem,
};
use crate::flight_recorder::{self, Record};

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(why)).routes(routes!(dump))
}

/// Why a job has not run, or what became of it.
#[derive(ToSchema)]
#[schema(as = Why)]
#[expect(dead_code, reason = "stands in the document for the queue's own type")]
struct WhyView {
    id: Uuid,
    state: JobStateView,
    /// The first reason, as a sentence for people.
    #[schema(
        example = "The queue mailers is paused since 2026-01-02 09:00:00Z: nothing is claimed from it until it is resumed."
    )]
    sentence: String,
    /// The most decisive first. `reason` is one of `finished`, `running`, `queue_paused`, `tenant_held`, `no_claims`, `scheduled`,
    /// `snoozed`, `retrying`, `rate_blocked`, `rate_used_up`, `tenant_at_limit`, `queue_at_limit`, `waiting`, `crash_suspect`;
    /// the other members are that reason's facts.
    #[schema(value_type = Vec<Object>)]
    reasons: Vec<Value>,
    /// Not before this time is it expected to run; null if it has ended, or runs, or nobody can tell.
    expected_at: Option<DateTime<Utc>>,
    asked_at: DateTime<Utc>,
}

/// A job's whole record.
#[derive(ToSchema)]
#[schema(as = JobDump)]
#[expect(dead_code, reason = "stands in the document for the record's own type")]
struct DumpView {
    dumped_at: DateTime<Utc>,
    /// Arguments, result and the effects' outcomes show their shape only.
    redacted: bool,
    #[schema(value_type = Object)]
    job: Value,
    unique_key: Option<String>,
    trace_id: Option<String>,
    /// What happened to it, in order: `at`, `event`, and where it is known `attempt`, `error` and `reason`.
    #[schema(value_type = Vec<Object>)]
    changes: Vec<Value>,
    /// Who had it, in order.
    #[schema(value_type = Vec<Object>)]
    leases: Vec<Value>,
    /// What it did to the outside world; null where there is no ledger.
    #[schema(value_type = Option<Vec<Object>>)]
    effects: Option<Vec<Value>>,
    /// What is decided now about its queue, organization and rate limit.
    #[schema(value_type = Object)]
    rules: Value,
    why: WhyView,
    /// What it did in its organization.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Value>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DumpParams {
    /// Show arguments, result and outcomes as they are; what is sealed stays sealed.
    #[serde(default)]
    #[param(value_type = bool, required = false)]
    with_args: Flag,
}

/// Says why a job has not run and when it may, or what became of it.
#[utoipa::path(
    get, path = "/jobs/{id}/why", tag = "jobs", operation_id = "explain_job",
    security(("api_key" = ["jobs:read"]), ("operator" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = WhyView), Problems)
)]
async fn why(State(state): State<ApiState>, within: Within<JobsRead>, Id(id): Id) -> Result<Json<Why>, Problem> {
    let why = queue::explain(&mut *state.app.db.acquire().await?, id, within.tenant()).await?;
    why.map(Json).ok_or_else(|| Problem::not_found("job"))
}

/// Gives everything that is known of a job as one document.
#[utoipa::path(
    get, path = "/jobs/{id}/dump", tag = "jobs", operation_id = "dump_job",
    security(("api_key" = ["jobs:read"]), ("operator" = [])),
    params(("id" = Uuid, Path), DumpParams),
    responses((status = 200, body = DumpView), Problems)
)]
async fn dump(
    State(state): State<ApiState>,
    within: Within<JobsRead>,
    Id(id): Id,
    Query(params): Query<DumpParams>,
) -> Result<Json<Record>, Problem> {
    let record = flight_recorder::record(&state.app.db, id, within.tenant(), params.with_args.0).await?;
    record.map(Json).ok_or_else(|| Problem::not_found("job"))
}
