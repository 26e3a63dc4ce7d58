//! Workflows: started, looked at, ended (ASSET-5). What happens to their steps is in [`super::workflow_steps`].

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{Caller, May, WorkflowsRead, WorkflowsWrite},
    cursor::{self, Flag, Limit},
    extract::{Id, Posted, Query},
    idempotency::{Answer, Begun, Idempotency, begin, begin_tenant},
    openapi::Problems,
    problem::{Problem, ProblemType},
    today,
    workflow_templates::check_assignee,
};
use crate::{
    domain::{
        Assignee, FieldErrors, Scope, StepStatus, Workflow, WorkflowKind, WorkflowStatus,
        field_error::{many_lines, one_line},
        workflow::{MAX_NOTE, Person, Refusal, Step},
    },
    jobs::workflows::{self as doors, Advance, Asked, Complete, StartWorkflow, WorkflowError},
    store::{
        Page, StoreError,
        workflows::{self, WorkflowFilter},
    },
    tenant,
};

const LIST: &str = "workflows";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(start, list))
        .routes(routes!(show))
        .routes(routes!(complete))
        .routes(routes!(cancel))
        .routes(routes!(fail))
}

/// A workflow to be started.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WorkflowRequest {
    kind: WorkflowKind,
    /// The organization's default for the kind, or else the product's own steps, if it is left out.
    template_id: Option<Uuid>,
    /// Needed for onboarding and offboarding. An offboarding gets a step for each asset that the employee holds.
    employee_id: Option<Uuid>,
    /// Needed for repair and transfer.
    asset_id: Option<Uuid>,
    /// Made of the kind and of whom or what it is about if it is left out.
    #[schema(min_length = 1, max_length = 200, example = "Laptops for the new office")]
    title: Option<String>,
    /// Whose it is to see to the whole; everybody who administers if it is left out.
    assignee: Option<Assignee>,
    /// The day that it is about, such as the first day at work: what steps' days count from. Today if it is left out.
    #[schema(value_type = Option<String>, format = Date, example = "2026-04-01")]
    day_zero: Option<NaiveDate>,
    /// With its last step if it is left out.
    #[schema(value_type = Option<String>, format = Date)]
    due_on: Option<NaiveDate>,
}

/// How it is completed.
#[derive(Deserialize, ToSchema)]
#[schema(as = WorkflowCompletion)]
#[serde(deny_unknown_fields)]
struct CompleteRequest {
    /// Leaves out what is open, but no approval that is needed; without it there must be nothing open.
    #[serde(default)]
    skip_open_steps: bool,
}

/// Why it ends.
#[derive(Deserialize, ToSchema)]
#[schema(as = WorkflowEnd)]
#[serde(deny_unknown_fields)]
struct EndRequest {
    #[schema(max_length = 2000)]
    reason: Option<String>,
}

/// A workflow with its steps. Who may not read about people sees what is to be done, and not whom it is about: no employee, reason or note,
/// and of a title that names somebody the kind only.
#[derive(Serialize, ToSchema)]
#[schema(as = Workflow)]
pub(super) struct WorkflowView {
    id: Uuid,
    kind: WorkflowKind,
    /// Null: the product's own steps, or a template that was removed.
    template_id: Option<Uuid>,
    title: String,
    status: WorkflowStatus,
    employee_id: Option<Uuid>,
    asset_id: Option<Uuid>,
    assignee: Assignee,
    #[schema(value_type = String, format = Date)]
    due_on: NaiveDate,
    /// The first day that something open of it is due, itself or a step; null once it has ended.
    #[schema(value_type = Option<String>, format = Date)]
    deadline: Option<NaiveDate>,
    /// The deadline has passed.
    overdue: bool,
    /// Why it was cancelled or failed.
    reason: Option<String>,
    steps: Vec<StepView>,
    created_by: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// When its first step was advanced.
    begun_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
}

/// A step of a workflow.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkflowStep)]
struct StepView {
    id: Uuid,
    /// Counted from 1.
    position: u32,
    title: String,
    status: StepStatus,
    assignee: Assignee,
    #[schema(value_type = String, format = Date)]
    due_on: NaiveDate,
    needs_approval: bool,
    /// The asset that it takes back.
    asset_id: Option<Uuid>,
    note: Option<String>,
    /// Who said that it is done.
    advanced_by: Option<String>,
    advanced_at: Option<DateTime<Utc>>,
    approved_by: Option<String>,
    approved_at: Option<DateTime<Utc>>,
}

/// A page of workflows, oldest first.
#[derive(Serialize, ToSchema)]
struct WorkflowPage {
    workflows: Vec<WorkflowView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[param(inline)]
    kind: Option<WorkflowKind>,
    #[param(inline)]
    status: Option<WorkflowStatus>,
    /// Needs `people:read` as well.
    employee_id: Option<Uuid>,
    asset_id: Option<Uuid>,
    /// Whose it is to see to the whole, or to a step that is open.
    assignee_id: Option<Uuid>,
    /// `true`: only those of which something should be done by now.
    #[serde(default)]
    #[param(value_type = bool, required = false)]
    overdue: Flag,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl StepView {
    fn of(step: Step, sees_people: bool) -> Self {
        let Step { id, position, title, status, assignee, due_on, needs_approval, asset_id, note, .. } = step;
        let Step { advanced_by, advanced_at, approved_by, approved_at, .. } = step;
        Self {
            id,
            position,
            title,
            status,
            assignee,
            due_on,
            needs_approval,
            asset_id,
            note: note.filter(|_| sees_people),
            advanced_by,
            advanced_at,
            approved_by,
            approved_at,
        }
    }
}

impl WorkflowView {
    /// What the caller may see of it.
    fn of(workflow: Workflow, caller: &Caller, today: NaiveDate) -> Self {
        let (deadline, overdue) = (workflow.deadline(), workflow.is_overdue(today));
        let sees = caller.has(Scope::PeopleRead);
        let words = if sees || workflow.employee_id.is_none() { None } else { workflow.kind.words_of(&workflow.title) };
        Self {
            id: workflow.id,
            kind: workflow.kind,
            template_id: workflow.template_id,
            title: words.map_or(workflow.title, str::to_owned),
            status: workflow.status,
            employee_id: workflow.employee_id.filter(|_| sees),
            asset_id: workflow.asset_id,
            assignee: workflow.assignee,
            due_on: workflow.due_on,
            deadline,
            overdue,
            reason: workflow.reason.filter(|_| sees),
            steps: workflow.steps.into_iter().map(|step| StepView::of(step, sees)).collect(),
            created_by: workflow.created_by,
            created_at: workflow.created_at,
            updated_at: workflow.updated_at,
            begun_at: workflow.begun_at,
            ended_at: workflow.ended_at,
        }
    }
}

impl WorkflowRequest {
    fn parse(self, caller: &Caller, today: NaiveDate) -> Result<StartWorkflow, FieldErrors> {
        let mut errors = FieldErrors::default();
        if let Some(title) = &self.title {
            errors.check("title", one_line(title, 200));
        }
        if let Some(assignee) = self.assignee {
            errors.check("assignee", assignee.check());
        }
        let (employee, asset) = (self.kind.is_about_an_employee(), self.kind.is_about_an_asset());
        let needed = format!("has to be named for {}", self.kind);
        errors.require(!employee || self.employee_id.is_some(), "employee_id", "required", needed.clone());
        errors.require(!asset || self.asset_id.is_some(), "asset_id", "required", needed);
        for (field, day) in [("day_zero", self.day_zero), ("due_on", self.due_on)] {
            let near = day.is_none_or(|day| (day - today).num_days().abs() <= 3_660);
            errors.require(near, field, "out_of_range", "must not be more than ten years away");
        }
        errors.into_result()?;
        Ok(StartWorkflow {
            template: self.template_id,
            employee_id: self.employee_id,
            asset_id: self.asset_id,
            title: self.title,
            assignee: self.assignee,
            day_zero: self.day_zero,
            due_on: self.due_on,
            ..StartWorkflow::of(self.kind, &caller.organization, today)
        })
    }
}

/// What a request names and there is not is a field at fault; any other conflict is one.
fn refused(error: StoreError) -> Problem {
    match error {
        StoreError::Conflict { field: field @ ("employee_id" | "asset_id" | "template_id"), message } => {
            Problem::field(field, "invalid", message)
        }
        error => error.into(),
    }
}

impl From<WorkflowError> for Problem {
    fn from(error: WorkflowError) -> Self {
        match error {
            WorkflowError::Unknown(what) => Self::not_found(what),
            WorkflowError::Refused(
                refusal @ (Refusal::NotYours { .. } | Refusal::NotApprover { .. } | Refusal::OwnRequest { .. }),
            ) => Self::new(ProblemType::Forbidden, refusal.to_string()),
            WorkflowError::Refused(refusal) => Self::conflict(refusal.to_string()),
            WorkflowError::Store(error) => refused(error),
        }
    }
}

pub(super) fn check_note(field: &str, note: Option<&str>) -> Result<(), Problem> {
    let Some(note) = note else { return Ok(()) };
    many_lines(note, MAX_NOTE).map_err(|error| error.at(field).into())
}

/// What is done to a workflow that there is.
pub(super) enum Deed<'a> {
    Advance(Uuid, Advance<'a>),
    Approve(Uuid, Option<&'a str>),
    Reject(Uuid, Option<&'a str>),
    Complete(Complete),
    Cancel(Option<&'a str>),
    Fail(&'a str),
}

/// Does it, and answers with the workflow as it is then; or answers what was answered before.
pub(super) async fn carry_out(
    state: &ApiState,
    caller: &Caller,
    (id, deed): (Uuid, Deed<'_>),
    idempotency: Option<&Idempotency>,
) -> Result<Response, Problem> {
    let mut work = match begin_tenant(state, &caller.organization, idempotency).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let actor = caller.actor();
    let person = caller.person().map(|member| Person { id: member.user_id, role: member.role });
    let asked = Asked { actor: &actor, person, now: state.app.clock.now() };
    let workflow = match deed {
        Deed::Advance(step, with) => doors::advance(&mut work, (id, step), with, &asked).await?,
        Deed::Approve(step, note) => doors::approve(&mut work, (id, step), note, &asked).await?,
        Deed::Reject(step, note) => doors::reject(&mut work, (id, step), note, &asked).await?,
        Deed::Complete(how) => doors::complete(&mut work, id, how, &asked).await?,
        Deed::Cancel(reason) => doors::cancel(&mut work, id, reason, &asked).await?,
        Deed::Fail(reason) => doors::fail(&mut work, id, reason, &asked).await?,
    };
    work.finish(Answer::new(StatusCode::OK, &WorkflowView::of(workflow, caller, today(state, caller)))).await
}

/// Starts a workflow.
#[utoipa::path(
    post, path = "/workflows", tag = "workflows", operation_id = "start_workflow",
    security(("api_key" = ["workflows:write"]), ("person" = ["workflows:write"])),
    request_body = WorkflowRequest,
    responses((status = 201, description = "Started", body = WorkflowView), Problems)
)]
async fn start(
    State(state): State<ApiState>,
    caller: May<WorkflowsWrite>,
    posted: Posted<WorkflowRequest>,
) -> Result<Response, Problem> {
    let today = today(&state, &caller);
    let new = posted.body.parse(&caller, today)?;
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    if let Some(assignee) = new.assignee {
        check_assignee(&mut work, caller.organization.id, ("assignee", assignee)).await?;
    }
    let mut work = work.enter(&caller.organization).await?;
    let workflow = doors::start(&mut work, &new, &caller.actor(), state.app.clock.now()).await.map_err(refused)?;
    let location = format!("/api/v1/workflows/{}", workflow.id);
    work.finish(Answer::new(StatusCode::CREATED, &WorkflowView::of(workflow, &caller, today)).at(location)).await
}

/// Lists workflows, oldest first.
#[utoipa::path(
    get, path = "/workflows", tag = "workflows", operation_id = "list_workflows",
    security(("api_key" = ["workflows:read"]), ("person" = ["workflows:read"])),
    params(ListParams),
    responses((status = 200, body = WorkflowPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<WorkflowsRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<WorkflowPage>, Problem> {
    if params.employee_id.is_some() && !caller.has(Scope::PeopleRead) {
        return Err(Problem::new(ProblemType::Forbidden, "`employee_id` needs people:read as well"));
    }
    let today = today(&state, &caller);
    let page = Page {
        after: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
        newest_first: false,
    };
    let filter = WorkflowFilter {
        kind: params.kind,
        status: params.status,
        employee_id: params.employee_id,
        asset_id: params.asset_id,
        assignee: params.assignee_id.map(Assignee::Person),
        overdue_on: params.overdue.0.then_some(today),
    };
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let mut workflows = workflows::page(&mut tx, &filter, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut workflows, |workflow| workflow.id);
    let workflows = workflows.into_iter().map(|workflow| WorkflowView::of(workflow, &caller, today)).collect();
    Ok(Json(WorkflowPage { workflows, next_cursor }))
}

/// Shows a workflow with its steps.
#[utoipa::path(
    get, path = "/workflows/{id}", tag = "workflows", operation_id = "get_workflow",
    security(("api_key" = ["workflows:read"]), ("person" = ["workflows:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = WorkflowView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    caller: May<WorkflowsRead>,
    Id(id): Id,
) -> Result<Json<WorkflowView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let workflow = workflows::by_id(&mut tx, id).await?;
    tx.commit().await?;
    let workflow = workflow.ok_or_else(|| Problem::not_found("workflow"))?;
    Ok(Json(WorkflowView::of(workflow, &caller, today(&state, &caller))))
}

/// Completes a workflow by hand.
#[utoipa::path(
    post, path = "/workflows/{id}/complete", tag = "workflows", operation_id = "complete_workflow",
    security(("api_key" = ["workflows:write"]), ("person" = ["workflows:write"])),
    params(("id" = Uuid, Path)),
    request_body = CompleteRequest,
    responses((status = 200, body = WorkflowView), Problems)
)]
async fn complete(
    State(state): State<ApiState>,
    caller: May<WorkflowsWrite>,
    Id(id): Id,
    posted: Posted<CompleteRequest>,
) -> Result<Response, Problem> {
    let how = Complete { skip_open: posted.body.skip_open_steps };
    carry_out(&state, &caller, (id, Deed::Complete(how)), posted.idempotency.as_ref()).await
}

/// Cancels a workflow that is not needed any more.
#[utoipa::path(
    post, path = "/workflows/{id}/cancel", tag = "workflows", operation_id = "cancel_workflow",
    security(("api_key" = ["workflows:write"]), ("person" = ["workflows:write"])),
    params(("id" = Uuid, Path)),
    request_body = EndRequest,
    responses((status = 200, body = WorkflowView), Problems)
)]
async fn cancel(
    State(state): State<ApiState>,
    caller: May<WorkflowsWrite>,
    Id(id): Id,
    posted: Posted<EndRequest>,
) -> Result<Response, Problem> {
    let reason = posted.body.reason.as_deref();
    check_note("reason", reason)?;
    carry_out(&state, &caller, (id, Deed::Cancel(reason)), posted.idempotency.as_ref()).await
}

/// Says that a workflow cannot be done, and why.
#[utoipa::path(
    post, path = "/workflows/{id}/fail", tag = "workflows", operation_id = "fail_workflow",
    security(("api_key" = ["workflows:write"]), ("person" = ["workflows:write"])),
    params(("id" = Uuid, Path)),
    request_body = EndRequest,
    responses((status = 200, body = WorkflowView), Problems)
)]
async fn fail(
    State(state): State<ApiState>,
    caller: May<WorkflowsWrite>,
    Id(id): Id,
    posted: Posted<EndRequest>,
) -> Result<Response, Problem> {
    let Some(reason) = posted.body.reason.as_deref().filter(|reason| !reason.trim().is_empty()) else {
        return Err(Problem::field("reason", "required", "has to say why"));
    };
    check_note("reason", Some(reason))?;
    carry_out(&state, &caller, (id, Deed::Fail(reason)), posted.idempotency.as_ref()).await
}
