//! The same thing done to many jobs: first a plan, then exactly the plan (PLAT-13, PLAT-23).

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use backroom_queue::{
    JobState,
    bulk::{self, Action, BulkError, BulkFilter, EffectShare, NewPlan, Plan, Sample, Share},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{JobsRead, JobsWrite, Within},
    extract::{Id, NoBody, Posted},
    idempotency::{Answer, Begun, begin},
    jobs::JobStateView,
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::domain::FieldError;

const MAX_TEXT: usize = 255;

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create)).routes(routes!(show)).routes(routes!(apply))
}

/// What is done to each job.
#[derive(ToSchema)]
#[schema(as = BulkAction, rename_all = "lowercase")]
#[expect(dead_code, reason = "stands in the document for the queue's own type")]
enum ActionView {
    /// Dead letters run again, unless the filter names another state.
    Retry,
    /// What waits ends, what runs is asked to stop.
    Cancel,
    /// What waits becomes a dead letter.
    Discard,
}

/// A plan to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BulkActionRequest {
    #[schema(value_type = ActionView)]
    action: Action,
    #[serde(default)]
    filter: FilterRequest,
    /// All jobs, where the filter says nothing.
    #[serde(default)]
    all: bool,
    /// Kept with the jobs that the plan ends.
    #[schema(max_length = 255)]
    reason: Option<String>,
}

/// Which jobs. All that is set must hold.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[schema(as = BulkFilter)]
#[serde(default, deny_unknown_fields)]
struct FilterRequest {
    /// Slug of the organization; for the operator. A key finds its own organization's jobs only.
    organization: Option<String>,
    kind: Option<String>,
    queue: Option<String>,
    #[schema(value_type = Option<JobStateView>)]
    state: Option<JobState>,
    /// In its last error, or in the reason of its end; upper and lower case are the same.
    error_contains: Option<String>,
    /// Enqueued at this time or later.
    created_after: Option<DateTime<Utc>>,
    /// Enqueued before this time.
    created_before: Option<DateTime<Utc>>,
    batch_id: Option<Uuid>,
}

/// What a plan will touch, and what became of it.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkPlan)]
struct PlanView {
    id: Uuid,
    #[schema(value_type = ActionView)]
    action: Action,
    filter: FilterRequest,
    /// A job that is in another state by then is left alone.
    #[schema(value_type = Vec<JobStateView>)]
    states: Vec<JobState>,
    reason: String,
    /// How many jobs it touches.
    jobs: u32,
    /// The filter finds more than the 100,000 that one plan takes: after this plan, make another.
    more: bool,
    by_organization: Vec<ShareView>,
    by_kind: Vec<ShareView>,
    by_state: Vec<ShareView>,
    /// What the jobs have already done to the outside world.
    effects: Vec<EffectShareView>,
    /// The oldest ten.
    sample: Vec<SampleView>,
    created_at: DateTime<Utc>,
    /// From then on it is not applied any more.
    expires_at: DateTime<Utc>,
    result: ResultView,
}

/// Some of a plan's jobs.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkShare)]
struct ShareView {
    /// Null: jobs of no organization.
    name: Option<String>,
    jobs: u32,
}

/// Effects of a plan's jobs.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkEffects)]
struct EffectShareView {
    kind: String,
    /// `done`: it happened; `intended`: nobody knows; `refused`: it did not happen.
    state: String,
    effects: u32,
}

/// One of a plan's jobs.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkSample)]
struct SampleView {
    id: Uuid,
    kind: String,
    organization: Option<String>,
    #[schema(value_type = JobStateView)]
    state: JobState,
    error: Option<String>,
}

/// What became of a plan's jobs.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkResult)]
struct ResultView {
    /// So far.
    handled: u32,
    /// Retried, cancelled or discarded.
    done: u32,
    /// Running ones that were asked to stop.
    requested: u32,
    skipped: SkippedView,
    /// Null: the plan has not been applied, or not to its end.
    finished_at: Option<DateTime<Utc>>,
}

/// Jobs of a plan that were left alone.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkSkipped)]
struct SkippedView {
    /// In another state by then, so that the action no longer fits.
    changed: u32,
    /// A job with the same unique key is unfinished.
    duplicate: u32,
    /// Forgotten after their retention.
    gone: u32,
}

impl From<BulkFilter> for FilterRequest {
    fn from(filter: BulkFilter) -> Self {
        let BulkFilter { tenant, kind, queue, state, error_contains, created_after, created_before, batch_id } = filter;
        let organization = tenant;
        Self { organization, kind, queue, state, error_contains, created_after, created_before, batch_id }
    }
}

impl From<Plan> for PlanView {
    fn from(plan: Plan) -> Self {
        let shares =
            |shares: Vec<Share>| shares.into_iter().map(|Share { name, jobs }| ShareView { name, jobs }).collect();
        let effect = |EffectShare { kind, state, effects }| EffectShareView { kind, state, effects };
        let sample =
            |Sample { id, kind, tenant, state, error }| SampleView { id, kind, organization: tenant, state, error };
        let applied = plan.applied;
        Self {
            id: plan.id,
            action: plan.action,
            filter: plan.filter.into(),
            states: plan.states,
            reason: plan.reason,
            jobs: plan.jobs,
            more: plan.more,
            by_organization: shares(plan.by_tenant),
            by_kind: shares(plan.by_kind),
            by_state: shares(plan.by_state),
            effects: plan.effects.into_iter().map(effect).collect(),
            sample: plan.sample.into_iter().map(sample).collect(),
            created_at: plan.created_at,
            expires_at: plan.expires_at,
            result: ResultView {
                handled: applied.handled,
                done: applied.done,
                requested: applied.requested,
                skipped: SkippedView { changed: applied.changed, duplicate: applied.duplicate, gone: applied.gone },
                finished_at: applied.finished_at,
            },
        }
    }
}

impl From<BulkError> for Problem {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::NoFilter => Self::field(
                "filter",
                "required",
                "says nothing; name what the jobs have in common, or send `\"all\": true`",
            ),
            BulkError::State { .. } => Self::field("filter.state", "invalid", error.to_string()),
            BulkError::NotFound => Self::new(ProblemType::NotFound, "there is no plan with this id"),
            BulkError::Expired { .. } => Self::conflict(error.to_string()),
            BulkError::Database(error) => error.into(),
        }
    }
}

/// Plans a bulk action: finds the jobs and says what they are. Nothing is done to them until the plan is applied, within an
/// hour. A plan takes up to 100,000 jobs, the oldest first.
///
/// With the operator's token it takes no Idempotency-Key: a key belongs to an organization.
#[utoipa::path(
    post, path = "/jobs/bulk-actions", tag = "jobs", operation_id = "plan_bulk_action",
    security(("api_key" = ["jobs:write"]), ("operator" = [])),
    request_body = BulkActionRequest,
    responses(
        (status = 201, description = "Planned; nothing is done yet", body = PlanView,
         headers(("Location" = String, description = "Where the plan can be looked at"))),
        Problems
    )
)]
async fn create(
    State(state): State<ApiState>,
    within: Within<JobsWrite>,
    posted: Posted<BulkActionRequest>,
) -> Result<Response, Problem> {
    let new = new_plan(&within, posted.body)?;
    let answer = |plan: Plan| {
        let location = format!("/api/v1/jobs/bulk-actions/{}", plan.id);
        Answer::new(StatusCode::CREATED, &PlanView::from(plan)).at(location)
    };
    let Some(caller) = within.caller() else {
        if posted.idempotency.is_some() {
            let message = "is not taken from the operator; a plan changes nothing until it is applied";
            return Err(Problem::field("Idempotency-Key", "invalid", message));
        }
        let plan = bulk::plan(&mut *state.app.db.acquire().await?, new).await?;
        return Ok(answer(plan).into_response());
    };
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let plan = bulk::plan(&mut work, new).await?;
    work.finish(answer(plan)).await
}

/// Shows a plan, and what became of it.
#[utoipa::path(
    get, path = "/jobs/bulk-actions/{id}", tag = "jobs", operation_id = "get_bulk_action",
    security(("api_key" = ["jobs:read"]), ("operator" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = PlanView), Problems)
)]
async fn show(State(state): State<ApiState>, within: Within<JobsRead>, Id(id): Id) -> Result<Json<PlanView>, Problem> {
    let plan = bulk::find(&mut *state.app.db.acquire().await?, id, within.tenant()).await?;
    Ok(Json(plan.ok_or(BulkError::NotFound)?.into()))
}

/// Applies a plan: does its action to its jobs and no others, as far as they are still what the plan found.
///
/// Doing it again does nothing and answers the first result, with or without an Idempotency-Key. A request that took too long
/// is sent again: it goes on where it was.
#[utoipa::path(
    post, path = "/jobs/bulk-actions/{id}/apply", tag = "jobs", operation_id = "apply_bulk_action",
    security(("api_key" = ["jobs:write"]), ("operator" = [])),
    params(("id" = Uuid, Path)),
    responses((status = 200, description = "Applied to its end", body = PlanView), Problems)
)]
async fn apply(
    State(state): State<ApiState>,
    within: Within<JobsWrite>,
    Id(id): Id,
    _: NoBody,
) -> Result<Json<PlanView>, Problem> {
    let plan = bulk::apply(&state.app.db, id, within.tenant(), |_| {}).await?;
    Ok(Json(plan.into()))
}

/// Checks the request whole: every field at fault is named.
fn new_plan(within: &Within<JobsWrite>, request: BulkActionRequest) -> Result<NewPlan, Problem> {
    let BulkActionRequest { action, filter, all, reason } = request;
    let mut errors = Vec::new();
    let mut refuse = |field: &str, code: &'static str, message: String| {
        errors.push(FieldError { field: field.to_owned(), code, message });
    };
    for (field, text) in [
        ("filter.organization", &filter.organization),
        ("filter.kind", &filter.kind),
        ("filter.queue", &filter.queue),
        ("filter.error_contains", &filter.error_contains),
        ("reason", &reason),
    ] {
        if text.as_ref().is_some_and(|text| !(1..=MAX_TEXT).contains(&text.len()) || text.contains('\0')) {
            refuse(field, "out_of_range", format!("must have 1 to {MAX_TEXT} bytes"));
        }
    }
    // A year such as -5000 is a time for chrono, but none for PostgreSQL.
    for (field, at) in
        [("filter.created_after", filter.created_after), ("filter.created_before", filter.created_before)]
    {
        if at.is_some_and(|at| at < DateTime::UNIX_EPOCH) {
            refuse(field, "out_of_range", "must be after 1970".to_owned());
        }
    }
    if let (Some(own), Some(named)) = (within.tenant(), &filter.organization)
        && own != named
    {
        refuse("filter.organization", "not_allowed", "must be the key's own organization, or left out".to_owned());
    }
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    let FilterRequest { organization, kind, queue, state, error_contains, created_after, created_before, batch_id } =
        filter;
    let tenant = organization;
    Ok(NewPlan {
        action,
        filter: BulkFilter { tenant, kind, queue, state, error_contains, created_after, created_before, batch_id },
        all,
        owner: within.tenant().map(str::to_owned),
        reason: reason.unwrap_or_else(|| format!("bulk {} through the API", action.as_str())),
    })
}
