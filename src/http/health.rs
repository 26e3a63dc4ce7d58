//! For load balancers and monitoring (API-7): `/health/live`, `/health/ready`, `/metrics`.

use std::time::Duration;

use axum::{Json, extract::State, http::header, response::IntoResponse};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::{telemetry, tenant};

/// A balancer asks every few seconds; it should not wait for a database that hangs.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready)).routes(routes!(metrics))
}

#[derive(Serialize, ToSchema)]
struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Says that the process runs.
#[utoipa::path(
    get, path = "/health/live", tag = "operations", operation_id = "health_live",
    responses((status = 200, body = Health))
)]
async fn live() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Says that requests can be served: the database answers and has been migrated.
#[utoipa::path(
    get, path = "/health/ready", tag = "operations", operation_id = "health_ready",
    responses((status = 200, body = Health), Problems)
)]
async fn ready(State(state): State<ApiState>) -> Result<Json<Health>, Problem> {
    let unavailable = |detail: &'static str| Problem::new(ProblemType::Unavailable, detail).retry_after(1);
    match tokio::time::timeout(PATIENCE, tenant::platform_is_current(&state.app.db)).await {
        Ok(Ok(true)) => Ok(Json(Health { status: "ok" })),
        Ok(Ok(false)) => Err(unavailable("the database has not been migrated; run `backroom migrate`")),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the database does not answer the readiness check");
            Err(unavailable("the database cannot be reached"))
        }
        Err(_) => Err(unavailable("the database does not answer in time")),
    }
}

/// Metrics in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "metrics",
    responses((status = 200, body = String, content_type = "text/plain"))
)]
async fn metrics() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, telemetry::METRICS_CONTENT_TYPE)], telemetry::render_metrics())
}
