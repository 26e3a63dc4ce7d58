//! Batches: jobs that belong together, how far they are, and what follows when the last has ended (PLAT-18).

use axum::{Json, extract::State, http::StatusCode, response::Response};
use backroom_queue::{self as queue, Batch, BatchFilter, NewBatch};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{JobsRead, JobsWrite, May},
    cursor::{self, Flag, Limit},
    edge::Trace,
    extract::{Id, Posted, Query},
    idempotency::{Answer, Begun, begin},
    jobs::{self, EnqueueRequest, EnqueuedView},
    openapi::Problems,
    problem::Problem,
};
use crate::domain::FieldError;

const LIST: &str = "batches";
const MAX_NAME: usize = 200;

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(show))
}

/// Routes whose bodies may be large.
pub fn bulk_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create, list))
}

/// Up to 10,000 jobs that belong together, enqueued together or not at all.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BatchRequest {
    /// For people to read.
    #[schema(max_length = 200, example = "import of 3 March")]
    name: Option<String>,
    #[schema(value_type = Vec<EnqueueRequest>, min_items = 1, max_items = 10_000)]
    jobs: Vec<Value>,
    /// Enqueued once, when the last of the jobs has ended, however each of them did.
    #[schema(value_type = Option<EnqueueRequest>)]
    then: Option<Value>,
}

/// A batch and how far it is. Jobs that were there already when it was enqueued are not counted.
#[derive(Serialize, ToSchema)]
#[schema(as = Batch)]
struct BatchView {
    id: Uuid,
    name: Option<String>,
    size: u32,
    completed: u32,
    cancelled: u32,
    /// Dead letters. One that is retried while the batch is unfinished counts again when it ends.
    discarded: u32,
    /// What has not ended.
    left: u32,
    then: Option<ThenView>,
    created_at: DateTime<Utc>,
    /// When the last member ended.
    finished_at: Option<DateTime<Utc>>,
}

/// The job that follows a batch.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchThen)]
struct ThenView {
    kind: String,
    /// Null until the batch has finished.
    job_id: Option<Uuid>,
}

#[derive(Serialize, ToSchema)]
struct BatchEnqueued {
    #[serde(flatten)]
    batch: BatchView,
    /// In the order of the request.
    jobs: Vec<EnqueuedView>,
}

/// A page of batches, newest first.
#[derive(Serialize, ToSchema)]
struct BatchPage {
    batches: Vec<BatchView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Only finished ones, or only unfinished ones.
    #[param(value_type = Option<bool>)]
    finished: Option<Flag>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<Batch> for BatchView {
    fn from(batch: Batch) -> Self {
        Self {
            id: batch.id,
            left: batch.left(),
            name: batch.name,
            size: batch.size,
            completed: batch.completed,
            cancelled: batch.cancelled,
            discarded: batch.discarded,
            then: batch.then_kind.map(|kind| ThenView { kind, job_id: batch.then_job_id }),
            created_at: batch.created_at,
            finished_at: batch.finished_at,
        }
    }
}

/// Enqueues jobs as a batch, all or none.
#[utoipa::path(
    post, path = "/batches", tag = "jobs", operation_id = "enqueue_batch", security(("api_key" = ["jobs:write"])),
    request_body = BatchRequest,
    responses(
        (status = 202, description = "Queued", body = BatchEnqueued,
         headers(("Location" = String, description = "Where the batch can be looked at"))),
        Problems
    )
)]
async fn create(
    State(state): State<ApiState>,
    caller: May<JobsWrite>,
    Trace(trace): Trace,
    posted: Posted<BatchRequest>,
) -> Result<Response, Problem> {
    let BatchRequest { name, jobs, then } = posted.body;
    let mut errors = Vec::new();
    if name.as_ref().is_some_and(|name| !(1..=MAX_NAME).contains(&name.chars().count()) || name.contains('\0')) {
        let message = format!("must have 1 to {MAX_NAME} characters, none of them U+0000");
        errors.push(FieldError { field: "name".to_owned(), code: "out_of_range", message });
    }
    let jobs = jobs::new_jobs(&state, &caller, &trace, jobs).unwrap_or_else(|more| {
        errors.extend(more);
        Vec::new()
    });
    let then =
        then.map(|then| jobs::checked(&state, &caller, &trace, then, "then")).transpose().unwrap_or_else(|more| {
            errors.extend(more);
            None
        });
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    let jobs = jobs.into_iter().map(|job| jobs::sealed(&state, job)).collect::<Result<Vec<_>, _>>()?;
    let then = then.map(|job| jobs::sealed(&state, job)).transpose()?;
    let batch = NewBatch { name, tenant: Some(caller.tenant().to_owned()), then, ..NewBatch::default() };
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let enqueued = queue::enqueue_batch(&mut *work, &batch, &jobs).await?;
    let jobs = enqueued.jobs.into_iter().map(EnqueuedView::from).collect();
    let answer = Answer::new(StatusCode::ACCEPTED, &BatchEnqueued { batch: enqueued.batch.into(), jobs });
    work.finish(answer.at(format!("/api/v1/batches/{}", batch.id))).await
}

/// Shows a batch and how far it is.
#[utoipa::path(
    get, path = "/batches/{id}", tag = "jobs", operation_id = "get_batch", security(("api_key" = ["jobs:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = BatchView), Problems)
)]
async fn show(State(state): State<ApiState>, caller: May<JobsRead>, Id(id): Id) -> Result<Json<BatchView>, Problem> {
    let batch = queue::find_batch(&state.app.db, id, Some(caller.tenant())).await?;
    batch.map(|batch| Json(batch.into())).ok_or_else(|| Problem::not_found("batch"))
}

/// Lists batches, newest first. Finished ones are forgotten after a week.
#[utoipa::path(
    get, path = "/batches", tag = "jobs", operation_id = "list_batches", security(("api_key" = ["jobs:read"])),
    params(ListParams),
    responses((status = 200, body = BatchPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<JobsRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<BatchPage>, Problem> {
    let filter = BatchFilter {
        tenant: Some(caller.tenant().to_owned()),
        finished: params.finished.map(|Flag(finished)| finished),
        before: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
    };
    let mut batches = queue::batches(&state.app.db, &filter).await?;
    let next_cursor = params.limit.cut(LIST, &mut batches, |batch| batch.id);
    Ok(Json(BatchPage { batches: batches.into_iter().map(BatchView::from).collect(), next_cursor }))
}
