//! Queues and rates, for the operator: what waits where, pause, resume, limit (PLAT-8, PLAT-10, PLAT-13).

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use backroom_queue::{self as queue, Limits, QueueStats, RateLimit, RateState};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    auth::Operator,
    cursor::{self, Limit},
    extract::{Json as Body, Query},
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::domain::FieldError;

const RATES: &str = "rate-limits";
const MAX_KEY: usize = 255;
/// A longer period is a quota, which a bucket that forgets with its row is not made for.
/// A duration knows nothing shorter than a nanosecond; a limit needs nothing shorter than this.
const MIN_PERIOD_S: f64 = 0.001;
const MAX_PERIOD_S: f64 = 86_400.0;

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(limit))
        .routes(routes!(rates))
        .routes(routes!(set_rate, forget_rate))
}

/// A queue's unfinished work.
#[derive(Serialize, ToSchema)]
#[schema(as = Queue)]
struct QueueView {
    queue: String,
    paused: bool,
    /// How many of its jobs run at once, over all workers; null: no limit.
    max_running: Option<i32>,
    /// How many of one organization's.
    max_running_per_tenant: Option<i32>,
    scheduled: i64,
    available: i64,
    /// Of suspended organizations.
    held: i64,
    running: i64,
    retryable: i64,
    /// Seconds that the oldest available job has been waiting.
    oldest_available_s: Option<f64>,
    /// A count of 100000 means "that many or more".
    capped: bool,
}

#[derive(Serialize, ToSchema)]
struct QueueList {
    queues: Vec<QueueView>,
}

impl From<QueueStats> for QueueView {
    fn from(stats: QueueStats) -> Self {
        Self {
            queue: stats.queue,
            paused: stats.paused,
            max_running: stats.limits.max_running,
            max_running_per_tenant: stats.limits.max_running_per_tenant,
            scheduled: stats.scheduled,
            available: stats.available,
            held: stats.held,
            running: stats.running,
            retryable: stats.retryable,
            oldest_available_s: stats.oldest_available_s,
            capped: stats.capped,
        }
    }
}

/// How many jobs run at once over all workers. What is left out or null is without a limit.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct QueueLimits {
    /// Of the queue.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 2_147_483_647_i64)]
    max_running: Option<i64>,
    /// Of each organization within the queue.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 2_147_483_647_i64)]
    max_running_per_tenant: Option<i64>,
}

/// A rate limit as it stands.
#[derive(Serialize, ToSchema)]
#[schema(as = RateLimit)]
struct RateView {
    #[schema(example = "quickbooks:4620816365")]
    key: String,
    permits: i32,
    /// Seconds in which at most `permits` are given.
    period_s: f64,
    /// Permits that can be had now.
    tokens: f64,
    /// The other side said: not before.
    blocked_until: Option<DateTime<Utc>>,
    /// An operator set the figures; they no longer follow the program.
    fixed: bool,
}

/// A page of rate limits, by key.
#[derive(Serialize, ToSchema)]
struct RatePage {
    rate_limits: Vec<RateView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// An operator's figures for a key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RateFigures {
    #[schema(minimum = 1, maximum = 2_147_483_647_i64)]
    permits: i64,
    /// Seconds in which at most `permits` are given; up to a day.
    #[schema(exclusive_minimum = 0, maximum = 86_400)]
    period_s: f64,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct RateParams {
    /// Only keys that begin with this.
    #[serde(default)]
    #[param(required = false)]
    prefix: String,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<RateState> for RateView {
    fn from(rate: RateState) -> Self {
        let RateState { key, permits, period_s, tokens, blocked_until, fixed } = rate;
        Self { key, permits, period_s, tokens, blocked_until, fixed }
    }
}

/// Lists the queues that have work, or that were paused or limited once.
#[utoipa::path(
    get, path = "/queues", tag = "operator", operation_id = "list_queues", security(("operator" = [])),
    responses((status = 200, body = QueueList), Problems)
)]
async fn list(State(state): State<ApiState>, _: Operator) -> Result<Json<QueueList>, Problem> {
    let queues = queue::queue_stats(&state.app.db).await?.into_iter().map(QueueView::from).collect();
    Ok(Json(QueueList { queues }))
}

/// Pauses a queue on every node; running jobs go on. Pausing a paused queue is fine.
#[utoipa::path(
    post, path = "/queues/{name}/pause", tag = "operator", operation_id = "pause_queue", security(("operator" = [])),
    params(("name" = String, Path)),
    responses((status = 204, description = "Paused"), Problems)
)]
async fn pause(State(state): State<ApiState>, _: Operator, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    known(&state, &name)?;
    queue::pause(&state.app.db, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Resumes a queue. Resuming one that is not paused is fine.
#[utoipa::path(
    post, path = "/queues/{name}/resume", tag = "operator", operation_id = "resume_queue", security(("operator" = [])),
    params(("name" = String, Path)),
    responses((status = 204, description = "Resumed"), Problems)
)]
async fn resume(State(state): State<ApiState>, _: Operator, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    known(&state, &name)?;
    queue::resume(&state.app.db, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets how many of a queue's jobs run at once, over all workers. A limit that is lowered takes effect as running jobs end.
#[utoipa::path(
    put, path = "/queues/{name}/limits", tag = "operator", operation_id = "limit_queue", security(("operator" = [])),
    params(("name" = String, Path)),
    request_body = QueueLimits,
    responses((status = 200, body = QueueLimits), Problems)
)]
async fn limit(
    State(state): State<ApiState>,
    _: Operator,
    Path(name): Path<String>,
    Body(wanted): Body<QueueLimits>,
) -> Result<Json<QueueLimits>, Problem> {
    known(&state, &name)?;
    let mut errors = Vec::new();
    let limits = Limits {
        max_running: wanted.max_running.and_then(|n| positive("max_running", n, &mut errors)),
        max_running_per_tenant: wanted
            .max_running_per_tenant
            .and_then(|n| positive("max_running_per_tenant", n, &mut errors)),
    };
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    queue::limit(&state.app.db, &name, limits).await?;
    Ok(Json(wanted))
}

/// Lists the rate limits that were ever used or set, by key.
#[utoipa::path(
    get, path = "/rate-limits", tag = "operator", operation_id = "list_rate_limits", security(("operator" = [])),
    params(RateParams),
    responses((status = 200, body = RatePage), Problems)
)]
async fn rates(
    State(state): State<ApiState>,
    _: Operator,
    Query(params): Query<RateParams>,
) -> Result<Json<RatePage>, Problem> {
    let after: Option<String> = cursor::decode(RATES, params.cursor.as_deref())?;
    let db = &state.app.db;
    let mut rates = queue::rate_limit_page(db, &params.prefix, after.as_deref(), params.limit.probe()).await?;
    let next_cursor = params.limit.cut(RATES, &mut rates, |rate| rate.key.clone());
    Ok(Json(RatePage { rate_limits: rates.into_iter().map(RateView::from).collect(), next_cursor }))
}

/// Sets the figures of a rate limit: they stand, whatever the program says, until the key is forgotten.
///
/// The key is percent-encoded where it has a `/`.
#[utoipa::path(
    put, path = "/rate-limits/{key}", tag = "operator", operation_id = "set_rate_limit", security(("operator" = [])),
    params(("key" = String, Path)),
    request_body = RateFigures,
    responses((status = 200, body = RateView), Problems)
)]
async fn set_rate(
    State(state): State<ApiState>,
    _: Operator,
    Path(key): Path<String>,
    Body(wanted): Body<RateFigures>,
) -> Result<Json<RateView>, Problem> {
    let mut errors = Vec::new();
    if !(1..=MAX_KEY).contains(&key.len()) || key.contains('\0') {
        let message = format!("must have 1 to {MAX_KEY} bytes");
        errors.push(FieldError { field: "key".to_owned(), code: "out_of_range", message });
    }
    let permits = positive("permits", wanted.permits, &mut errors);
    if !(MIN_PERIOD_S..=MAX_PERIOD_S).contains(&wanted.period_s) {
        let message = "must be 0.001 to 86400 seconds".to_owned();
        errors.push(FieldError { field: "period_s".to_owned(), code: "out_of_range", message });
    }
    let (Some(permits), true) = (permits, errors.is_empty()) else { return Err(Problem::fields(errors)) };
    let rate = RateLimit::new(key, permits.unsigned_abs(), Duration::from_secs_f64(wanted.period_s));
    let mut tx = state.app.db.begin().await?;
    queue::fix_rate_limit(&mut *tx, &rate).await?;
    let set = queue::rate_limit(&mut *tx, &rate.key).await?;
    tx.commit().await?;
    set.map(|rate| Json(rate.into())).ok_or_else(no_such_rate)
}

/// Forgets a rate limit: it starts anew at its next use, with the program's figures and no block.
#[utoipa::path(
    delete, path = "/rate-limits/{key}", tag = "operator", operation_id = "forget_rate_limit",
    security(("operator" = [])),
    params(("key" = String, Path)),
    responses((status = 204, description = "Forgotten"), Problems)
)]
async fn forget_rate(
    State(state): State<ApiState>,
    _: Operator,
    Path(key): Path<String>,
) -> Result<StatusCode, Problem> {
    // PostgreSQL's text has no NUL, so no key has one.
    let gone = !key.contains('\0') && queue::forget_rate_limit(&state.app.db, &key).await?;
    if gone { Ok(StatusCode::NO_CONTENT) } else { Err(no_such_rate()) }
}

fn no_such_rate() -> Problem {
    Problem::new(ProblemType::NotFound, "there is no rate limit with this key; it has not been used or set yet")
}

/// A number of jobs or permits, as PostgreSQL keeps it.
fn positive(field: &str, n: i64, errors: &mut Vec<FieldError>) -> Option<i32> {
    let fits = i32::try_from(n).ok().filter(|n| *n > 0);
    if fits.is_none() {
        let message = format!("must be 1 to {}", i32::MAX);
        errors.push(FieldError { field: field.to_owned(), code: "out_of_range", message });
    }
    fits
}

fn known(state: &ApiState, name: &str) -> Result<(), Problem> {
    if state.knows_queue(name) {
        return Ok(());
    }
    Err(Problem::field("name", "unknown", "is not a queue here; `worker.queues` of the configuration lists them"))
}
