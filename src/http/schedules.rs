//! Schedules, for the operator (CRON-6): look, preview, run now, pause, resume.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use backroom_queue::scheduler::{self, Schedule, ScheduleStatus};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    auth::Operator,
    cursor::Limit,
    extract::{NoBody, Query},
    jobs::EnqueuedView,
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::context::schedule_tenants;

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(next))
        .routes(routes!(run))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// A job that is enqueued by the clock.
#[derive(Serialize, ToSchema)]
#[schema(as = Schedule)]
struct ScheduleView {
    name: String,
    #[schema(example = "0 9 * * *")]
    cron: String,
    /// Null where it fires in each organization's own time zone.
    time_zone: Option<String>,
    kind: String,
    #[schema(value_type = Object)]
    args: Value,
    per_organization: bool,
    paused: bool,
    /// The next firing; null while it is paused.
    next: Option<DateTime<Utc>>,
    last_tick: Option<DateTime<Utc>>,
    last_job_id: Option<uuid::Uuid>,
}

#[derive(Serialize, ToSchema)]
struct ScheduleList {
    schedules: Vec<ScheduleView>,
}

#[derive(Serialize, ToSchema)]
struct Firings {
    /// With the offset of the schedule's time zone.
    firings: Vec<DateTime<chrono::FixedOffset>>,
}

#[derive(Serialize, ToSchema)]
struct ScheduleRun {
    jobs: Vec<EnqueuedView>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct NextParams {
    /// For a schedule that fires per organization: in this time zone, else in UTC.
    #[param(value_type = Option<String>)]
    time_zone: Option<chrono_tz::Tz>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<ScheduleStatus> for ScheduleView {
    fn from(status: ScheduleStatus) -> Self {
        Self {
            name: status.name,
            cron: status.cron,
            time_zone: status.time_zone,
            kind: status.kind,
            args: status.args,
            per_organization: status.per_tenant,
            paused: status.paused,
            next: status.next,
            last_tick: status.last_tick,
            last_job_id: status.last_job_id,
        }
    }
}

fn find<'a>(state: &'a ApiState, name: &str) -> Result<&'a Schedule, Problem> {
    let schedule = state.schedules.get(name);
    schedule.ok_or_else(|| Problem::new(ProblemType::NotFound, "there is no schedule of this name"))
}

/// Lists the schedules.
#[utoipa::path(
    get, path = "/schedules", tag = "operator", operation_id = "list_schedules", security(("operator" = [])),
    responses((status = 200, body = ScheduleList), Problems)
)]
async fn list(State(state): State<ApiState>, _: Operator) -> Result<Json<ScheduleList>, Problem> {
    let tenants = schedule_tenants(&state.app.db).await?;
    let mut db = state.app.db.acquire().await?;
    let schedules = scheduler::list(&mut db, &state.schedules, &tenants, state.app.clock.now()).await?;
    Ok(Json(ScheduleList { schedules: schedules.into_iter().map(ScheduleView::from).collect() }))
}

/// Previews the next firings.
#[utoipa::path(
    get, path = "/schedules/{name}/next", tag = "operator", operation_id = "preview_schedule",
    security(("operator" = [])),
    params(("name" = String, Path), NextParams),
    responses((status = 200, body = Firings), Problems)
)]
async fn next(
    State(state): State<ApiState>,
    _: Operator,
    Path(name): Path<String>,
    Query(params): Query<NextParams>,
) -> Result<Json<Firings>, Problem> {
    let schedule = find(&state, &name)?;
    let zone = schedule.time_zone.or(params.time_zone).unwrap_or(chrono_tz::UTC);
    let firings = scheduler::next_firings(schedule, zone, state.app.clock.now(), params.limit.count());
    Ok(Json(Firings { firings: firings.into_iter().map(|at| at.fixed_offset()).collect() }))
}

/// Enqueues the schedule's job now, for every active organization if it fires per organization.
///
/// Takes no Idempotency-Key: a key belongs to an organization, and this belongs to none.
#[utoipa::path(
    post, path = "/schedules/{name}/run", tag = "operator", operation_id = "run_schedule", security(("operator" = [])),
    params(("name" = String, Path)),
    responses((status = 202, description = "Queued", body = ScheduleRun), Problems)
)]
async fn run(
    State(state): State<ApiState>,
    _: Operator,
    Path(name): Path<String>,
    posted: NoBody,
) -> Result<(StatusCode, Json<ScheduleRun>), Problem> {
    if posted.idempotency.is_some() {
        return Err(Problem::field("Idempotency-Key", "invalid", "is not taken here; look at the jobs instead"));
    }
    let schedule = find(&state, &name)?;
    let tenants: Vec<_> = schedule_tenants(&state.app.db).await?.into_iter().map(|tenant| tenant.tenant).collect();
    let mut tx = state.app.db.begin().await?;
    let jobs = scheduler::run_now(&mut tx, schedule, &tenants).await?;
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, Json(ScheduleRun { jobs: jobs.into_iter().map(EnqueuedView::from).collect() })))
}

/// Pauses a schedule on every node. Pausing a paused one is fine.
#[utoipa::path(
    post, path = "/schedules/{name}/pause", tag = "operator", operation_id = "pause_schedule",
    security(("operator" = [])),
    params(("name" = String, Path)),
    responses((status = 204, description = "Paused"), Problems)
)]
async fn pause(State(state): State<ApiState>, _: Operator, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    let schedule = find(&state, &name)?;
    scheduler::pause(&state.app.db, &schedule.name, state.app.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Resumes a schedule. What fell into the pause is not made good.
#[utoipa::path(
    post, path = "/schedules/{name}/resume", tag = "operator", operation_id = "resume_schedule",
    security(("operator" = [])),
    params(("name" = String, Path)),
    responses((status = 204, description = "Resumed"), Problems)
)]
async fn resume(State(state): State<ApiState>, _: Operator, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    let schedule = find(&state, &name)?;
    scheduler::resume(&state.app.db, &schedule.name, state.app.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
