//! Runs of integrations (SYNC-4, SYNC-5): asked for, looked at, and the test that says why one would fail.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use backroom_queue::{Enqueued, JobState};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{IntegrationsRead, IntegrationsWrite, May},
    cursor::ListParams,
    edge::Trace,
    extract::{Id, NoBody, Posted, Query},
    idempotency::{Answer, Begun, begin_tenant},
    jobs::JobStateView,
    openapi::Problems,
    problem::Problem,
};
use crate::{
    domain::integration::{SyncFailure, SyncMode, SyncRun, SyncState, SyncTrigger},
    jobs::integrations::{self as doors, SyncIntegration, TestReport},
    store::{StoreError, integrations, sync_runs},
    tenant,
};

const RUNS: &str = "sync_runs";
const FAILURES: &str = "sync_failures";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(sync))
        .routes(routes!(test))
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(failures))
}

/// What to read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SyncRequest {
    /// `incremental` if it is left out, `full` where there is no place to go on from yet.
    mode: Option<SyncMode>,
}

/// The job that will run. A run that is queued or under way already is not queued again; a full one that is asked for meanwhile follows
/// within minutes of its end, unless that one reads everything itself.
#[derive(Serialize, ToSchema)]
struct SyncQueued {
    job_id: Uuid,
    #[schema(value_type = JobStateView)]
    state: JobState,
    /// It was there already.
    duplicate: bool,
}

impl From<Enqueued> for SyncQueued {
    fn from(Enqueued { id, state, duplicate }: Enqueued) -> Self {
        Self { job_id: id, state, duplicate }
    }
}

/// How a test of the connection went.
#[derive(Serialize, ToSchema)]
struct ConnectionTest {
    ok: bool,
    /// A sentence for a person: whom it reached as whom, or what to do.
    message: String,
    /// For programs: `bad_credentials`, `wrong_host`, `missing_scope`, `network`, `configuration` or `busy`; null if it is well.
    problem: Option<String>,
}

/// A run.
#[derive(Serialize, ToSchema)]
#[schema(as = SyncRun)]
struct RunView {
    id: Uuid,
    integration_id: Uuid,
    mode: SyncMode,
    trigger: SyncTrigger,
    state: SyncState,
    /// The job that worked on it last.
    job_id: Uuid,
    /// What is being read, or was when it ended.
    stream: Option<String>,
    pages: u64,
    /// Records; the sum of the four below.
    read: u64,
    created: u64,
    updated: u64,
    unchanged: u64,
    /// Not stored; `GET /api/v1/sync-runs/{id}/failures` names them.
    failed: u64,
    /// Of all records, as far as the provider says.
    total: Option<u64>,
    /// A sentence for a person.
    error: Option<String>,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    /// From its begin to its end, pauses included; null while it runs.
    duration_ms: Option<i64>,
}

/// A page of runs, newest first.
#[derive(Serialize, ToSchema)]
struct RunPage {
    runs: Vec<RunView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// A record that was not stored. Its values are not repeated.
#[derive(Serialize, ToSchema)]
#[schema(as = SyncFailure)]
struct FailureView {
    /// Counted from 1, in the order in which they were met.
    position: u64,
    /// The provider's id, as far as it could be read.
    external_id: Option<String>,
    reason: String,
}

/// A page of records that were not stored, in the order in which they were met. The first 1,000 of a run are kept.
#[derive(Serialize, ToSchema)]
struct FailurePage {
    failures: Vec<FailureView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

impl From<SyncRun> for RunView {
    fn from(run: SyncRun) -> Self {
        Self {
            id: run.id,
            integration_id: run.integration_id,
            mode: run.mode,
            trigger: run.trigger,
            state: run.state,
            job_id: run.job_id,
            stream: run.stream,
            pages: run.counts.pages,
            read: run.counts.read,
            created: run.counts.created,
            updated: run.counts.updated,
            unchanged: run.counts.unchanged,
            failed: run.counts.failed,
            total: run.total,
            error: run.error,
            started_at: run.started_at,
            ended_at: run.ended_at,
            duration_ms: run.ended_at.map(|ended_at| (ended_at - run.started_at).num_milliseconds()),
        }
    }
}

impl From<SyncFailure> for FailureView {
    fn from(failure: SyncFailure) -> Self {
        let SyncFailure { position, record, .. } = failure;
        Self { position, external_id: record.external_id, reason: record.reason }
    }
}

/// It is off, or waits for a person.
fn refused(error: StoreError) -> Problem {
    match error {
        StoreError::Conflict { field, message } => Problem::collides(field, "not_now", message),
        error => error.into(),
    }
}

/// Asks for a run.
#[utoipa::path(
    post, path = "/integrations/{id}/sync", tag = "integrations", operation_id = "sync_integration",
    security(("api_key" = ["integrations:write"])),
    params(("id" = Uuid, Path)),
    request_body = SyncRequest,
    responses((status = 202, description = "Queued", body = SyncQueued), Problems)
)]
async fn sync(
    State(state): State<ApiState>,
    caller: May<IntegrationsWrite>,
    Id(id): Id,
    Trace(trace): Trace,
    posted: Posted<SyncRequest>,
) -> Result<Response, Problem> {
    let organization = &caller.organization;
    let mut work = match begin_tenant(&state, organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let request = SyncIntegration { integration_id: id, mode: posted.body.mode, trigger: SyncTrigger::Manual };
    let (actor, traced) = (caller.actor(), (state.app.clock.now(), Some(trace)));
    let queued = doors::request_sync(&mut work, &organization.slug, &request, &actor, traced).await.map_err(refused)?;
    let location = format!("/api/v1/jobs/{}", queued.id);
    work.finish(Answer::new(StatusCode::ACCEPTED, &SyncQueued::from(queued)).at(location)).await
}

/// Tries the connection, here and now, and says what is wrong with it. A test that goes well ends what needed attention.
#[utoipa::path(
    post, path = "/integrations/{id}/test", tag = "integrations", operation_id = "test_integration",
    security(("api_key" = ["integrations:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = ConnectionTest), Problems)
)]
async fn test(
    State(state): State<ApiState>,
    caller: May<IntegrationsWrite>,
    Id(id): Id,
    _: NoBody,
) -> Result<Json<ConnectionTest>, Problem> {
    let tested = doors::test(&state.app, &caller.organization, id, &caller.actor()).await;
    let report = tested.map_err(Problem::internal)?;
    let TestReport { ok, message, problem } = report.ok_or_else(|| Problem::not_found("integration"))?;
    Ok(Json(ConnectionTest { ok, message, problem }))
}

/// Lists an integration's runs, newest first.
#[utoipa::path(
    get, path = "/integrations/{id}/runs", tag = "integrations", operation_id = "list_sync_runs",
    security(("api_key" = ["integrations:read"])),
    params(("id" = Uuid, Path), ListParams),
    responses((status = 200, body = RunPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<IntegrationsRead>,
    Id(id): Id,
    Query(params): Query<ListParams>,
) -> Result<Json<RunPage>, Problem> {
    let page = params.newest_first(RUNS)?;
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    integrations::by_id(&mut tx, id).await?.ok_or_else(|| Problem::not_found("integration"))?;
    let mut runs = sync_runs::page(&mut tx, Some(id), page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(RUNS, &mut runs, |run| run.id);
    Ok(Json(RunPage { runs: runs.into_iter().map(RunView::from).collect(), next_cursor }))
}

/// Shows a run: how far it is, or what it did.
#[utoipa::path(
    get, path = "/sync-runs/{id}", tag = "integrations", operation_id = "get_sync_run",
    security(("api_key" = ["integrations:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = RunView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    caller: May<IntegrationsRead>,
    Id(id): Id,
) -> Result<Json<RunView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let run = sync_runs::by_id(&mut tx, id).await?;
    tx.commit().await?;
    run.map(|run| Json(run.into())).ok_or_else(|| Problem::not_found("run"))
}

/// Lists the records that a run did not store, and why.
#[utoipa::path(
    get, path = "/sync-runs/{id}/failures", tag = "integrations", operation_id = "list_sync_failures",
    security(("api_key" = ["integrations:read"])),
    params(("id" = Uuid, Path), ListParams),
    responses((status = 200, body = FailurePage), Problems)
)]
async fn failures(
    State(state): State<ApiState>,
    caller: May<IntegrationsRead>,
    Id(id): Id,
    Query(params): Query<ListParams>,
) -> Result<Json<FailurePage>, Problem> {
    let page = params.oldest_first(FAILURES)?;
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    sync_runs::by_id(&mut tx, id).await?.ok_or_else(|| Problem::not_found("run"))?;
    let mut failures = sync_runs::failures(&mut tx, id, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(FAILURES, &mut failures, |failure| failure.id);
    Ok(Json(FailurePage { failures: failures.into_iter().map(FailureView::from).collect(), next_cursor }))
}
