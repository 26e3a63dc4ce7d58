//! Jobs: enqueue one or many, look, cancel, discard, retry (API-2); and the kinds there are.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use backroom_queue::{
    self as queue, CancelOutcome, DiscardOutcome, Enqueued, JobFilter, JobRecord, JobState, Kind, NewJob, Registry,
    RetryOutcome, TraceParent, Unique,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{Caller, JobsRead, JobsWrite, May},
    cursor::{self, Limit},
    edge::Trace,
    extract::{Id, NoBody, Posted, Query, field_error, from_value, join},
    idempotency::{Answer, Begun, begin},
    openapi::Problems,
    problem::Problem,
};
use crate::{
    context::App,
    domain::FieldError,
    jobs::{
        self,
        platform::{self, NOT_FOR_TENANTS},
    },
};

const LIST: &str = "jobs";
/// One call's jobs are one statement; beyond this many, several calls are no slower.
pub const MAX_BULK: usize = 10_000;
const MAX_ATTEMPTS: u32 = 1_000;
const MAX_UNIQUE_KEY: usize = 255;
const MAX_WAIT: chrono::Duration = chrono::Duration::days(3_660);

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(enqueue, list))
        .routes(routes!(show))
        .routes(routes!(cancel))
        .routes(routes!(discard))
        .routes(routes!(retry))
        .routes(routes!(kinds))
}

/// Routes whose bodies may be large.
pub fn bulk_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(enqueue_bulk))
}

/// A job to be enqueued. What is left out is the kind's own policy.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnqueueRequest {
    /// One of `GET /api/v1/kinds`.
    #[schema(example = "billing.sweep_overdue")]
    kind: String,
    /// As the kind's schema says.
    #[serde(default = "no_args")]
    #[schema(value_type = Object)]
    args: Value,
    queue: Option<String>,
    /// Higher runs first.
    priority: Option<i16>,
    /// Not before this time; now if it is left out or past.
    run_at: Option<DateTime<Utc>>,
    #[schema(minimum = 1, maximum = 1000)]
    max_attempts: Option<u32>,
    /// As long as a job of this kind with this key is unfinished, enqueueing another answers the first.
    #[schema(max_length = 255)]
    unique_key: Option<String>,
}

fn no_args() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Up to 10,000 jobs, enqueued together or not at all.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BulkRequest {
    #[schema(value_type = Vec<EnqueueRequest>, max_items = 10_000)]
    jobs: Vec<Value>,
}

/// What became of an enqueue.
#[derive(Serialize, ToSchema)]
#[schema(as = Enqueued)]
pub struct EnqueuedView {
    id: Uuid,
    #[schema(value_type = JobStateView)]
    state: JobState,
    /// The job was there already: `id` is the existing one's.
    duplicate: bool,
}

#[derive(Serialize, ToSchema)]
struct BulkEnqueued {
    /// In the order of the request.
    jobs: Vec<EnqueuedView>,
}

/// Where a job is in its life.
#[derive(ToSchema)]
#[schema(as = JobState, rename_all = "lowercase")]
#[expect(dead_code, reason = "stands in the document for the queue's own type")]
pub enum JobStateView {
    Scheduled,
    Available,
    Running,
    Retryable,
    Completed,
    Cancelled,
    Discarded,
}

/// A job.
#[derive(Serialize, ToSchema)]
#[schema(as = Job)]
struct JobView {
    id: Uuid,
    kind: String,
    queue: String,
    #[schema(value_type = JobStateView)]
    state: JobState,
    priority: i16,
    run_at: DateTime<Utc>,
    /// Attempts so far.
    attempt: u32,
    max_attempts: u32,
    /// The organization is suspended: the job waits, whatever `run_at` says.
    held: bool,
    #[schema(value_type = Object)]
    args: Value,
    /// The attempts that failed, oldest first.
    errors: Vec<AttemptView>,
    /// What a completed job left.
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    /// Why it was cancelled or discarded.
    reason: Option<String>,
    /// W3C trace context of the request that enqueued it.
    trace: Option<String>,
    /// The rate limit that it runs under.
    rate_key: Option<String>,
    /// The batch that it is a member of.
    batch_id: Option<Uuid>,
    /// Workers that were lost while they ran it, or may have; after three it is discarded.
    crashes: u32,
    created_at: DateTime<Utc>,
    /// When a worker last took it.
    attempted_at: Option<DateTime<Utc>>,
    /// When the handler of its last attempt began; null for one that ended within the first moments.
    begun_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

/// A failed attempt.
#[derive(Serialize, ToSchema)]
#[schema(as = JobAttempt)]
struct AttemptView {
    attempt: u32,
    at: DateTime<Utc>,
    error: String,
}

/// A page of jobs, newest first.
#[derive(Serialize, ToSchema)]
struct JobPage {
    jobs: Vec<JobView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// A kind of job with its policy.
#[derive(Serialize, ToSchema)]
#[schema(as = Kind)]
struct KindView {
    #[schema(example = "billing.remind_invoice")]
    kind: &'static str,
    description: String,
    queue: &'static str,
    priority: i16,
    max_attempts: u32,
    /// One attempt's time limit.
    timeout_s: u64,
    /// How long a finished job can be looked up.
    retention_days: u16,
    /// JSON Schema (2020-12) of `args`.
    #[schema(value_type = Object)]
    args_schema: Value,
}

#[derive(Serialize, ToSchema)]
struct KindList {
    kinds: Vec<KindView>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[param(value_type = Option<JobStateView>, inline)]
    state: Option<JobState>,
    kind: Option<String>,
    queue: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<Enqueued> for EnqueuedView {
    fn from(Enqueued { id, state, duplicate }: Enqueued) -> Self {
        Self { id, state, duplicate }
    }
}

impl From<JobRecord> for JobView {
    fn from(job: JobRecord) -> Self {
        let errors = job.errors.into_iter();
        Self {
            id: job.id,
            kind: job.kind,
            queue: job.queue,
            state: job.state,
            priority: job.priority,
            run_at: job.run_at,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            held: job.held,
            args: job.args,
            errors: errors.map(|e| AttemptView { attempt: e.attempt, at: e.at, error: e.error }).collect(),
            result: job.result,
            reason: job.reason,
            trace: job.trace,
            rate_key: job.rate_key,
            batch_id: job.batch_id,
            crashes: job.crashes,
            created_at: job.created_at,
            attempted_at: job.attempted_at,
            begun_at: job.begun_at,
            finished_at: job.finished_at,
        }
    }
}

/// The answer to an enqueue.
pub fn accepted(enqueued: Enqueued) -> Answer {
    let location = location(enqueued.id);
    Answer::new(StatusCode::ACCEPTED, &EnqueuedView::from(enqueued)).at(location)
}

fn location(id: Uuid) -> String {
    format!("/api/v1/jobs/{id}")
}

/// Enqueues a job.
#[utoipa::path(
    post, path = "/jobs", tag = "jobs", operation_id = "enqueue_job", security(("api_key" = ["jobs:write"])),
    request_body = EnqueueRequest,
    responses(
        (status = 202, description = "Queued", body = EnqueuedView,
         headers(("Location" = String, description = "Where the job can be looked at"))),
        Problems
    )
)]
async fn enqueue(
    State(state): State<ApiState>,
    caller: May<JobsWrite>,
    Trace(trace): Trace,
    posted: Posted<EnqueueRequest>,
) -> Result<Response, Problem> {
    let job = new_job(&state, &caller, &trace, posted.body, "").map_err(Problem::fields)?;
    let job = sealed(&state, job)?;
    // Without a key there is nothing to keep: the job is the whole transaction.
    if posted.idempotency.is_none() {
        return Ok(accepted(state.together.enqueue(job).await?).into_response());
    }
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let enqueued = queue::enqueue(&mut *work, &job).await?;
    work.finish(accepted(enqueued)).await
}

/// Enqueues many jobs, all or none.
#[utoipa::path(
    post, path = "/jobs/bulk", tag = "jobs", operation_id = "enqueue_jobs", security(("api_key" = ["jobs:write"])),
    request_body = BulkRequest,
    responses((status = 202, description = "Queued", body = BulkEnqueued), Problems)
)]
async fn enqueue_bulk(
    State(state): State<ApiState>,
    caller: May<JobsWrite>,
    Trace(trace): Trace,
    posted: Posted<BulkRequest>,
) -> Result<Response, Problem> {
    let jobs = new_jobs(&state, &caller, &trace, posted.body.jobs).map_err(Problem::fields)?;
    let jobs = jobs.into_iter().map(|job| sealed(&state, job)).collect::<Result<Vec<_>, _>>()?;
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let enqueued = queue::enqueue_many(&mut *work, &jobs).await?;
    let jobs = enqueued.into_iter().map(EnqueuedView::from).collect();
    work.finish(Answer::new(StatusCode::ACCEPTED, &BulkEnqueued { jobs })).await
}

/// The job as it may be stored: a sealed kind's arguments are sealed.
pub fn sealed(state: &ApiState, job: NewJob) -> Result<NewJob, Problem> {
    state.registry.seal(job).map_err(Problem::internal)
}

/// Checks a list of entries whole: every field at fault is named, with the place of its entry.
pub fn new_jobs(
    state: &ApiState,
    caller: &Caller,
    trace: &TraceParent,
    entries: Vec<Value>,
) -> Result<Vec<NewJob>, Vec<FieldError>> {
    if !(1..=MAX_BULK).contains(&entries.len()) {
        let message = format!("must have 1 to {MAX_BULK} entries");
        return Err(vec![FieldError { field: "jobs".to_owned(), code: "out_of_range", message }]);
    }
    let mut jobs = Vec::with_capacity(entries.len());
    let mut errors = Vec::new();
    for (n, entry) in entries.into_iter().enumerate() {
        match checked(state, caller, trace, entry, &format!("jobs[{n}]")) {
            Ok(job) => jobs.push(job),
            Err(more) => errors.extend(more),
        }
    }
    if errors.is_empty() { Ok(jobs) } else { Err(errors) }
}

/// Checks an entry that has not been decoded yet.
pub fn checked(
    state: &ApiState,
    caller: &Caller,
    trace: &TraceParent,
    entry: Value,
    prefix: &str,
) -> Result<NewJob, Vec<FieldError>> {
    let entry = from_value::<EnqueueRequest>(entry, prefix).map_err(|error| vec![error])?;
    new_job(state, caller, trace, entry, prefix)
}

/// Checks an entry whole: every field at fault is named, below `prefix`.
fn new_job(
    state: &ApiState,
    caller: &Caller,
    trace: &TraceParent,
    entry: EnqueueRequest,
    prefix: &str,
) -> Result<NewJob, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut refuse = |field: &str, code: &'static str, message: String| {
        errors.push(FieldError { field: join(prefix, field), code, message });
    };
    if let Some(queue) = entry.queue.as_deref().filter(|queue| !state.knows_queue(queue)) {
        refuse(
            "queue",
            "unknown",
            format!("is not a queue here; {:?} is not configured on any worker", shortened(queue)),
        );
    }
    if entry.max_attempts.is_some_and(|n| !(1..=MAX_ATTEMPTS).contains(&n)) {
        refuse("max_attempts", "out_of_range", format!("must be 1 to {MAX_ATTEMPTS}"));
    }
    // A year such as -5000 is a time for chrono, but none for PostgreSQL.
    if entry.run_at.is_some_and(|at| at < DateTime::UNIX_EPOCH || at - state.app.clock.now() > MAX_WAIT) {
        refuse("run_at", "out_of_range", "must be after 1970 and within ten years from now".to_owned());
    }
    if let Some(key) = &entry.unique_key
        && (!(1..=MAX_UNIQUE_KEY).contains(&key.len()) || key.contains('\0'))
    {
        refuse("unique_key", "out_of_range", format!("must have 1 to {MAX_UNIQUE_KEY} bytes"));
    }
    // PostgreSQL's jsonb has no NUL.
    if let Some(path) = nul_in(&entry.args) {
        refuse(&join("args", &path), "invalid", "must not contain the character U+0000".to_owned());
    }
    let job = match state.registry.get(&entry.kind) {
        None => {
            refuse("kind", "unknown", unknown_kind(state, &entry.kind));
            None
        }
        Some(kind) if platform::owns(kind.name) => {
            refuse("kind", "not_allowed", format!("{} {NOT_FOR_TENANTS}", kind.name));
            None
        }
        Some(kind) if jobs::carries_a_link(kind.name) => {
            refuse("kind", "not_allowed", format!("{} mails a link that only its recipient may know", kind.name));
            None
        }
        Some(kind) => match kind.new_job(entry.args) {
            Ok(job) => Some(job),
            Err(error) => {
                errors.push(field_error(&join(&join(prefix, "args"), &error.path), &error.message));
                None
            }
        },
    };
    let (Some(mut job), true) = (job, errors.is_empty()) else { return Err(errors) };
    job.queue = entry.queue.unwrap_or(job.queue);
    job.priority = entry.priority.unwrap_or(job.priority);
    job.run_at = entry.run_at;
    job.max_attempts = entry.max_attempts.unwrap_or(job.max_attempts);
    if let Some(key) = entry.unique_key {
        job.unique = Some(Unique::by(key));
    }
    Ok(job.tenant(caller.tenant()).trace(Some(trace.clone())))
}

fn unknown_kind(state: &ApiState, kind: &str) -> String {
    let mut near: Vec<_> = open_kinds(&state.registry)
        .map(|known| (strsim::jaro_winkler(kind, known.name), known.name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<_> = near.into_iter().take(3).map(|(_, name)| name).collect();
    let kind = shortened(kind);
    if near.is_empty() {
        format!("is not a kind of job: {kind:?}; GET /api/v1/kinds lists them")
    } else {
        format!("is not a kind of job: {kind:?}; did you mean {}?", near.join(" or "))
    }
}

/// Enough of a client's text to recognise it by.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The path of the first text (or key) with a NUL in it.
fn nul_in(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(n, item)| Some(join(&format!("[{n}]"), &nul_in(item)?)))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            if name.contains('\0') { Some(String::new()) } else { Some(join(name, &nul_in(value)?)) }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// Shows a job with its history.
#[utoipa::path(
    get, path = "/jobs/{id}", tag = "jobs", operation_id = "get_job", security(("api_key" = ["jobs:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = JobView), Problems)
)]
async fn show(State(state): State<ApiState>, caller: May<JobsRead>, Id(id): Id) -> Result<Json<JobView>, Problem> {
    let job = queue::find(&mut *state.app.db.acquire().await?, id, Some(caller.tenant())).await?;
    job.map(|job| Json(job.into())).ok_or_else(|| Problem::not_found("job"))
}

/// Lists jobs, newest first.
#[utoipa::path(
    get, path = "/jobs", tag = "jobs", operation_id = "list_jobs", security(("api_key" = ["jobs:read"])),
    params(ListParams),
    responses((status = 200, body = JobPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<JobsRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<JobPage>, Problem> {
    let filter = JobFilter {
        tenant: Some(caller.tenant().to_owned()),
        state: params.state,
        kind: params.kind,
        queue: params.queue,
        before: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
    };
    let mut jobs = queue::list(&state.app.db, &filter).await?;
    let next_cursor = params.limit.cut(LIST, &mut jobs, |job| job.id);
    Ok(Json(JobPage { jobs: jobs.into_iter().map(JobView::from).collect(), next_cursor }))
}

/// Cancels a job. One that is running is asked to stop (`202`).
#[utoipa::path(
    post, path = "/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job", security(("api_key" = ["jobs:write"])),
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "Cancelled", body = JobView),
        (status = 202, description = "Running; asked to stop", body = JobView),
        Problems
    )
)]
async fn cancel(
    State(state): State<ApiState>,
    caller: May<JobsWrite>,
    Id(id): Id,
    posted: NoBody,
) -> Result<Response, Problem> {
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let status = match queue::cancel(&mut work, id, Some(caller.tenant()), "cancelled through the API").await? {
        CancelOutcome::Cancelled => StatusCode::OK,
        CancelOutcome::Requested => StatusCode::ACCEPTED,
        CancelOutcome::AlreadyFinished => return Err(Problem::conflict("the job has ended already")),
        CancelOutcome::NotFound => return Err(Problem::not_found("job")),
    };
    let job = queue::find(&mut work, id, Some(caller.tenant())).await?.ok_or_else(|| Problem::not_found("job"))?;
    work.finish(Answer::new(status, &JobView::from(job))).await
}

/// Makes a waiting job a dead letter.
#[utoipa::path(
    post, path = "/jobs/{id}/discard", tag = "jobs", operation_id = "discard_job",
    security(("api_key" = ["jobs:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, description = "Discarded", body = JobView), Problems)
)]
async fn discard(
    State(state): State<ApiState>,
    caller: May<JobsWrite>,
    Id(id): Id,
    posted: NoBody,
) -> Result<Response, Problem> {
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    match queue::discard(&mut work, id, Some(caller.tenant()), "discarded through the API").await? {
        DiscardOutcome::Discarded => {}
        DiscardOutcome::Running => return Err(Problem::conflict("the job is running; cancel it")),
        DiscardOutcome::AlreadyFinished => return Err(Problem::conflict("the job has ended already")),
        DiscardOutcome::NotFound => return Err(Problem::not_found("job")),
    }
    let job = queue::find(&mut work, id, Some(caller.tenant())).await?.ok_or_else(|| Problem::not_found("job"))?;
    work.finish(Answer::new(StatusCode::OK, &JobView::from(job))).await
}

/// Makes a discarded, cancelled or waiting job available again, with a fresh set of attempts.
#[utoipa::path(
    post, path = "/jobs/{id}/retry", tag = "jobs", operation_id = "retry_job", security(("api_key" = ["jobs:write"])),
    params(("id" = Uuid, Path)),
    responses(
        (status = 202, description = "Queued again", body = JobView,
         headers(("Location" = String, description = "Where the job can be looked at"))),
        Problems
    )
)]
async fn retry(
    State(state): State<ApiState>,
    caller: May<JobsWrite>,
    Id(id): Id,
    posted: NoBody,
) -> Result<Response, Problem> {
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    match queue::retry(&mut work, id, Some(caller.tenant())).await? {
        RetryOutcome::Requeued => {}
        RetryOutcome::NotRetryable => {
            let detail = "only a discarded or cancelled job, or one that waits for its next attempt, can be retried";
            return Err(Problem::conflict(detail));
        }
        RetryOutcome::Duplicate => {
            return Err(Problem::conflict("a job with the same unique key is unfinished; wait for it or cancel it"));
        }
        RetryOutcome::NotFound => return Err(Problem::not_found("job")),
    }
    let job = queue::find(&mut work, id, Some(caller.tenant())).await?.ok_or_else(|| Problem::not_found("job"))?;
    work.finish(Answer::new(StatusCode::ACCEPTED, &JobView::from(job)).at(location(id))).await
}

/// Lists the kinds of jobs with the schemas of their arguments.
#[utoipa::path(
    get, path = "/kinds", tag = "jobs", operation_id = "list_kinds", security(("api_key" = ["jobs:read"])),
    responses((status = 200, body = KindList), Problems)
)]
async fn kinds(State(state): State<ApiState>, _: May<JobsRead>) -> Json<KindList> {
    let kinds = open_kinds(&state.registry).map(kind_view).collect();
    Json(KindList { kinds })
}

/// The kinds that an organization's key may enqueue.
pub fn open_kinds(registry: &Registry<App>) -> impl Iterator<Item = &Kind<App>> {
    registry.kinds().filter(|kind| !platform::owns(kind.name))
}

fn kind_view(kind: &Kind<App>) -> KindView {
    KindView {
        kind: kind.name,
        description: kind.description().to_owned(),
        queue: kind.queue,
        priority: kind.priority,
        max_attempts: kind.max_attempts,
        timeout_s: kind.timeout.as_secs(),
        retention_days: kind.retention_days,
        args_schema: kind.schema.clone().to_value(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_nul_is_found_wherever_it_hides() {
        assert_eq!(nul_in(&json!({"a": [1, "x", {"b": "\0"}]})).as_deref(), Some("a[2].b"));
        assert_eq!(nul_in(&json!({"a": [1, "x", {"b": "y"}]})), None);
    }
}
