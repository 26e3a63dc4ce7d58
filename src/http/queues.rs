//! Queues, for the operator: what waits where, pause, resume (PLAT-13).

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use backroom_queue::{self as queue, QueueStats};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiState, auth::Operator, openapi::Problems, problem::Problem};

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(pause)).routes(routes!(resume))
}

/// A queue's unfinished work.
#[derive(Serialize, ToSchema)]
#[schema(as = Queue)]
struct QueueView {
    queue: String,
    paused: bool,
    scheduled: i64,
    available: i64,
    /// Of suspended organizations.
    held: i64,
    running: i64,
    retryable: i64,
    /// Seconds that the oldest available job has been waiting.
    oldest_available_s: Option<f64>,
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
            scheduled: stats.scheduled,
            available: stats.available,
            held: stats.held,
            running: stats.running,
            retryable: stats.retryable,
            oldest_available_s: stats.oldest_available_s,
        }
    }
}

/// Lists the queues that have work or are paused.
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

fn known(state: &ApiState, name: &str) -> Result<(), Problem> {
    if state.knows_queue(name) {
        return Ok(());
    }
    Err(Problem::field("name", "unknown", "is not a queue here; `worker.queues` of the configuration lists them"))
}
