//! Schedules, for the operator (CRON-5, CRON-6): look, preview, verify, run now, pause, resume.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use backroom_queue::{
    Enqueued,
    scheduler::{
        self, ClockChange, Missed, Moment, Overlap, Period, Schedule, ScheduleStatus, TenantZone, Tick, TickOutcome,
        VerifiedFiring, VerifyError, WallClock,
    },
};
use chrono::{DateTime, FixedOffset, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::Operator,
    cursor::Limit,
    extract::{NoBody, Query},
    idempotency::{Answer, Begun, begin},
    jobs::EnqueuedView,
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::{context::schedule_tenants, domain::Organization, store::organizations};

/// How many upcoming firings and past ticks a schedule is shown with.
const SHOWN: u16 = 5;

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(next))
        .routes(routes!(firings))
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
    /// What becomes of ticks that fell into a time when no scheduler was running.
    #[schema(value_type = MissedView)]
    missed: Missed,
    /// What becomes of a tick while the job of the tick before is unfinished.
    #[schema(value_type = OverlapView)]
    overlap: Overlap,
    paused: bool,
    /// The next firing; null while it is paused.
    next: Option<DateTime<Utc>>,
    last_tick: Option<DateTime<Utc>>,
    last_job_id: Option<Uuid>,
    /// What became of the last tick.
    #[schema(example = "enqueued")]
    last_outcome: Option<String>,
}

#[derive(ToSchema)]
#[schema(as = Missed, rename_all = "snake_case")]
#[expect(dead_code, reason = "stands in the document for the queue's own type")]
enum MissedView {
    Skip,
    RunOnce,
    RunEach,
}

#[derive(ToSchema)]
#[schema(as = Overlap, rename_all = "snake_case")]
#[expect(dead_code, reason = "stands in the document for the queue's own type")]
enum OverlapView {
    Queue,
    Skip,
}

/// A schedule with what is next and what was last.
#[derive(Serialize, ToSchema)]
struct ScheduleDetail {
    #[serde(flatten)]
    schedule: ScheduleView,
    /// The next few firings, with the offset of their time zone; none while it is paused.
    upcoming: Vec<DateTime<FixedOffset>>,
    /// The latest ticks, newest first.
    ticks: Vec<TickView>,
}

/// A tick that was decided.
#[derive(Serialize, ToSchema)]
#[schema(as = Tick)]
struct TickView {
    /// Null where the schedule does not fire per organization.
    organization: Option<String>,
    tick_at: DateTime<Utc>,
    /// When it was decided.
    fired_at: DateTime<Utc>,
    /// `enqueued`, `duplicate`, `missed`, `paused` or `overlap`; `skipped` where an older program did not say which.
    #[schema(example = "enqueued")]
    outcome: String,
    job_id: Option<Uuid>,
    /// The unfinished job that an overlap is about.
    blocked_by: Option<Uuid>,
}

/// Every firing in a period.
#[derive(Serialize, ToSchema)]
struct FiringList {
    /// By time, then time zone.
    firings: Vec<FiringView>,
    /// Changes of the clocks within what is shown.
    clock_changes: Vec<ClockChangeView>,
    /// The `from` with which the list goes on; null at its end.
    next_from: Option<DateTime<Utc>>,
}

/// A firing on one time zone's clock.
#[derive(Serialize, ToSchema)]
#[schema(as = Firing)]
struct FiringView {
    at: DateTime<Utc>,
    /// As the clock shows it, with its offset.
    local: DateTime<FixedOffset>,
    #[schema(example = "Europe/Stockholm")]
    time_zone: &'static str,
    #[schema(value_type = WallClockView)]
    wall_clock: WallClock,
    /// False for a tick that was decided at a time that the schedule, as it is now, does not have.
    expected: bool,
    /// What became of it, an entry per outcome; empty while it lies ahead.
    outcomes: Vec<OutcomeView>,
}

/// `once`: the clock shows this time once. `jumped_over`: the time that the expression names does not exist on this day;
/// this is right after the jump. `first_pass`, `second_pass`: of a time that the clock shows twice.
#[derive(ToSchema)]
#[schema(as = WallClock, rename_all = "snake_case")]
#[expect(dead_code, reason = "stands in the document for the queue's own type")]
enum WallClockView {
    Once,
    JumpedOver,
    FirstPass,
    SecondPass,
}

/// What became of a firing, for some of those that it is for.
#[derive(Serialize, ToSchema)]
#[schema(as = FiringOutcome)]
struct OutcomeView {
    /// Decided: `enqueued`, `duplicate`, `missed`, `paused`, `overlap` or `skipped`. Not decided: `owed` (the next scheduler
    /// decides it), `missing` (it should have been decided and was not), `unrecorded` (from before the schedule was in
    /// force, or more than 90 days ago).
    #[schema(example = "enqueued")]
    outcome: String,
    /// How many organizations it is; 1 where the schedule does not fire per organization.
    count: i64,
    /// The first few of them.
    organizations: Vec<String>,
    /// The job, where `count` is 1.
    job_id: Option<Uuid>,
    /// The unfinished job that an overlap is about, where `count` is 1.
    blocked_by: Option<Uuid>,
}

/// A clock that is put forward or back.
#[derive(Serialize, ToSchema)]
#[schema(as = ClockChange)]
struct ClockChangeView {
    /// The first instant of the new offset.
    at: DateTime<Utc>,
    #[schema(example = "Europe/Stockholm")]
    time_zone: &'static str,
    #[schema(example = "+01:00")]
    before: String,
    #[schema(example = "+02:00")]
    after: String,
}

#[derive(Serialize, ToSchema)]
struct ScheduleList {
    schedules: Vec<ScheduleView>,
}

#[derive(Serialize, ToSchema)]
struct Firings {
    /// With the offset of the schedule's time zone.
    firings: Vec<DateTime<FixedOffset>>,
}

#[derive(Serialize, ToSchema)]
struct ScheduleRun {
    jobs: Vec<EnqueuedView>,
}

impl ScheduleRun {
    fn of(jobs: Vec<Enqueued>) -> Self {
        Self { jobs: jobs.into_iter().map(EnqueuedView::from).collect() }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct NextParams {
    /// For a schedule that fires per organization: in this time zone. With neither, in each that is in use.
    #[param(value_type = Option<String>)]
    time_zone: Option<chrono_tz::Tz>,
    /// For a schedule that fires per organization: the slug of the organization whose clock it is.
    organization: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct OrganizationParams {
    /// For this organization only, by its slug, where the schedule fires per organization.
    organization: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct FiringsParams {
    /// The first moment: a date (its first instant on the schedule's clock), or a time with its offset.
    #[param(value_type = String, example = "2026-03-28")]
    from: Moment,
    /// The moment before which the period ends; at most ten years later.
    #[param(value_type = String, example = "2026-03-31")]
    to: Moment,
    /// For this organization only, by its slug, where the schedule fires per organization.
    organization: Option<String>,
    /// 1 to 200 instants; time zones that fire at the same instant count as one.
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
            missed: status.missed,
            overlap: status.overlap,
            paused: status.paused,
            next: status.next,
            last_tick: status.last_tick,
            last_job_id: status.last_job_id,
            last_outcome: status.last_outcome,
        }
    }
}

impl From<Tick> for TickView {
    fn from(tick: Tick) -> Self {
        let Tick { tenant, tick_at, fired_at, outcome, job_id, blocked_by } = tick;
        Self { organization: tenant, tick_at, fired_at, outcome, job_id, blocked_by }
    }
}

impl From<VerifiedFiring> for FiringView {
    fn from(firing: VerifiedFiring) -> Self {
        let outcome = |outcome: TickOutcome| {
            let TickOutcome { outcome, count, tenants, job_id, blocked_by } = outcome;
            OutcomeView { outcome, count, organizations: tenants, job_id, blocked_by }
        };
        Self {
            at: firing.at,
            local: firing.local,
            time_zone: firing.time_zone.name(),
            wall_clock: firing.wall_clock,
            expected: firing.expected,
            outcomes: firing.outcomes.into_iter().map(outcome).collect(),
        }
    }
}

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Period(error) => Self::field("to", "invalid", error.to_string()),
            VerifyError::Database(error) => error.into(),
        }
    }
}

fn find<'a>(state: &'a ApiState, name: &str) -> Result<&'a Schedule, Problem> {
    let schedule = state.schedules.get(name);
    schedule.ok_or_else(|| Problem::new(ProblemType::NotFound, "there is no schedule of this name"))
}

/// The organization that is named, which must be one that the schedule can fire for.
async fn named(state: &ApiState, schedule: &Schedule, slug: Option<&str>) -> Result<Option<Organization>, Problem> {
    let Some(slug) = slug else { return Ok(None) };
    if !schedule.per_tenant() {
        return Err(Problem::field(
            "organization",
            "invalid",
            "does not apply: the schedule does not fire per organization",
        ));
    }
    let mut db = state.app.db.acquire().await?;
    let organization = organizations::by_slug(&mut db, slug).await?;
    organization.map(Some).ok_or_else(|| Problem::field("organization", "unknown", "is not an organization's slug"))
}

/// Whom the schedule fires for: those in good standing, or the one that is named.
async fn tenants(state: &ApiState, schedule: &Schedule, slug: Option<&str>) -> Result<Vec<TenantZone>, Problem> {
    match named(state, schedule, slug).await? {
        Some(Organization { slug, time_zone, .. }) => Ok(vec![TenantZone { tenant: slug.into(), time_zone }]),
        None => Ok(schedule_tenants(&state.app.db).await?),
    }
}

/// The next firings on each clock, by time.
fn upcoming(state: &ApiState, schedule: &Schedule, tenants: &[TenantZone], count: usize) -> Vec<DateTime<FixedOffset>> {
    let mut zones: Vec<_> = match schedule.time_zone {
        Some(zone) => vec![zone],
        None => tenants.iter().map(|tenant| tenant.time_zone).collect(),
    };
    zones.sort_unstable_by_key(|zone| zone.name());
    zones.dedup();
    let of_zone = |zone| scheduler::next_firings(schedule, zone, state.app.clock.now(), count);
    let mut firings: Vec<_> = zones.into_iter().flat_map(of_zone).map(|at| at.fixed_offset()).collect();
    firings.sort();
    firings
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

/// Shows a schedule, its next firings and its latest ticks.
#[utoipa::path(
    get, path = "/schedules/{name}", tag = "operator", operation_id = "get_schedule", security(("operator" = [])),
    params(("name" = String, Path), OrganizationParams),
    responses((status = 200, body = ScheduleDetail), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    _: Operator,
    Path(name): Path<String>,
    Query(params): Query<OrganizationParams>,
) -> Result<Json<ScheduleDetail>, Problem> {
    let schedule = find(&state, &name)?;
    let slug = params.organization.as_deref();
    let tenants = tenants(&state, schedule, slug).await?;
    let mut db = state.app.db.acquire().await?;
    let all = scheduler::list(&mut db, &state.schedules, &tenants, state.app.clock.now()).await?;
    let status = all.into_iter().find(|status| status.name == name);
    let status = status.ok_or_else(|| Problem::internal(anyhow::anyhow!("schedule {name} is not listed")))?;
    let upcoming = if status.paused { Vec::new() } else { upcoming(&state, schedule, &tenants, usize::from(SHOWN)) };
    let ticks = scheduler::recent_ticks(&mut *db, schedule, slug, SHOWN).await?;
    let ticks = ticks.into_iter().map(TickView::from).collect();
    Ok(Json(ScheduleDetail { schedule: status.into(), upcoming, ticks }))
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
    let mut whom = tenants(&state, schedule, params.organization.as_deref()).await?;
    if let Some(time_zone) = params.time_zone {
        if params.organization.is_some() {
            return Err(Problem::field("time_zone", "invalid", "is the organization's own; leave one of the two out"));
        }
        whom = vec![TenantZone { tenant: String::new(), time_zone }];
    }
    Ok(Json(Firings { firings: upcoming(&state, schedule, &whom, params.limit.count()) }))
}

/// Shows every firing in a period, clock changes included, and what became of those that are past.
///
/// Computed by the code that the scheduler decides with, and compared with the ticks that it recorded.
#[utoipa::path(
    get, path = "/schedules/{name}/firings", tag = "operator", operation_id = "verify_schedule",
    security(("operator" = [])),
    params(("name" = String, Path), FiringsParams),
    responses((status = 200, body = FiringList), Problems)
)]
async fn firings(
    State(state): State<ApiState>,
    _: Operator,
    Path(name): Path<String>,
    Query(params): Query<FiringsParams>,
) -> Result<Json<FiringList>, Problem> {
    let schedule = find(&state, &name)?;
    let period = Period { from: params.from, to: params.to };
    let tenants = tenants(&state, schedule, params.organization.as_deref()).await?;
    let mut db = state.app.db.acquire().await?;
    let now = state.app.clock.now();
    let seen = scheduler::verify(&mut db, schedule, &tenants, period, now, params.limit.count()).await?;
    let change = |change: ClockChange| ClockChangeView {
        at: change.at,
        time_zone: change.time_zone.name(),
        before: change.before.to_string(),
        after: change.after.to_string(),
    };
    Ok(Json(FiringList {
        firings: seen.firings.into_iter().map(FiringView::from).collect(),
        clock_changes: seen.clock_changes.into_iter().map(change).collect(),
        next_from: seen.next_from,
    }))
}

/// Enqueues the schedule's job now, for every active organization if it fires per organization, or for one of them.
///
/// An Idempotency-Key is taken together with `organization` only: a key belongs to an organization.
#[utoipa::path(
    post, path = "/schedules/{name}/run", tag = "operator", operation_id = "run_schedule", security(("operator" = [])),
    params(
        ("name" = String, Path),
        OrganizationParams,
        ("Idempotency-Key" = Option<String>, Header, description = "With `organization`: repeating the request with the \
            same key gives the first answer again.", min_length = 1, max_length = 255),
    ),
    responses((status = 202, description = "Queued", body = ScheduleRun), Problems)
)]
async fn run(
    State(state): State<ApiState>,
    _: Operator,
    Path(name): Path<String>,
    Query(params): Query<OrganizationParams>,
    posted: NoBody,
) -> Result<Response, Problem> {
    let schedule = find(&state, &name)?;
    if let Some(organization) = named(&state, schedule, params.organization.as_deref()).await? {
        let mut work = match begin(&state, &organization, posted.idempotency.as_ref()).await? {
            Begun::Fresh(work) => work,
            Begun::Answered(response) => return Ok(response),
        };
        let jobs = scheduler::run_now(&mut work, schedule, &[organization.slug.into()]).await?;
        return work.finish(Answer::new(StatusCode::ACCEPTED, &ScheduleRun::of(jobs))).await;
    }
    if posted.idempotency.is_some() {
        let message = "is taken together with `organization` only; look at the jobs instead";
        return Err(Problem::field("Idempotency-Key", "invalid", message));
    }
    let tenants: Vec<_> = schedule_tenants(&state.app.db).await?.into_iter().map(|tenant| tenant.tenant).collect();
    let mut tx = state.app.db.begin().await?;
    let jobs = scheduler::run_now(&mut tx, schedule, &tenants).await?;
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, Json(ScheduleRun::of(jobs))).into_response())
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
