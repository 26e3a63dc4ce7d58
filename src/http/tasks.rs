//! Tasks of a workspace (WORK-7). To who is no member of it they do not exist.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{Person, TasksRead, TasksWrite},
    cursor::{self, Limit},
    extract::{Id, Json as Body, Posted, Query, present},
    idempotency::{Answer, Begun, begin_tenant},
    openapi::Problems,
    problem::Problem,
    workspaces::answered_before,
};
use crate::{
    domain::{NewTask, Task, TaskState},
    jobs::conversations,
    store::{
        Page, StoreError,
        tasks::{self, TaskFilter},
        workspaces,
    },
    tenant,
};

const LIST: &str = "tasks";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(show, change)).routes(routes!(states))
}

/// A task to be stored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TaskRequest {
    #[schema(min_length = 1, max_length = 200, example = "Order a new coffee machine")]
    title: String,
    #[schema(max_length = 10_000)]
    description: Option<String>,
    /// `todo` if it is left out.
    state: Option<TaskState>,
    /// A member of the workspace.
    assignee_id: Option<Uuid>,
    #[schema(value_type = Option<String>, format = Date, example = "2026-03-31")]
    due_on: Option<NaiveDate>,
}

/// A change of a task: what is left out stays, `null` takes description, assignee or date away (RFC 7396).
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TaskChange {
    title: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    state: Option<TaskState>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Uuid>)]
    assignee_id: Option<Option<Uuid>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = Date)]
    due_on: Option<Option<NaiveDate>>,
}

/// A task.
#[derive(Serialize, ToSchema)]
#[schema(as = Task)]
struct TaskView {
    id: Uuid,
    workspace_id: Uuid,
    title: String,
    description: Option<String>,
    state: TaskState,
    assignee_id: Option<Uuid>,
    #[schema(value_type = Option<String>, format = Date)]
    due_on: Option<NaiveDate>,
    created_by: Uuid,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// When it became done.
    completed_at: Option<DateTime<Utc>>,
}

/// A page of tasks, oldest first.
#[derive(Serialize, ToSchema)]
struct TaskPage {
    tasks: Vec<TaskView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// The states that tasks have, the same in every workspace.
#[derive(Serialize, ToSchema)]
struct TaskStates {
    states: Vec<TaskStateView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TaskStateFacts)]
struct TaskStateView {
    state: TaskState,
    /// Nobody has to do anything about it any more.
    #[serde(rename = "final")]
    is_final: bool,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[param(inline)]
    state: Option<TaskState>,
    assignee_id: Option<Uuid>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<Task> for TaskView {
    fn from(task: Task) -> Self {
        let Task { id, workspace_id, title, description, state, assignee_id, due_on, .. } = task;
        let Task { created_by, created_at, updated_at, completed_at, .. } = task;
        Self {
            id,
            workspace_id,
            title,
            description,
            state,
            assignee_id,
            due_on,
            created_by,
            created_at,
            updated_at,
            completed_at,
        }
    }
}

impl TaskChange {
    /// The task as it shall be.
    fn apply(self, task: NewTask) -> NewTask {
        NewTask {
            title: self.title.unwrap_or(task.title),
            description: self.description.unwrap_or(task.description),
            state: self.state.unwrap_or(task.state),
            assignee_id: self.assignee_id.unwrap_or(task.assignee_id),
            due_on: self.due_on.unwrap_or(task.due_on),
        }
    }
}

/// Who is no member cannot be assigned; any other conflict is one.
fn refused(error: StoreError) -> Problem {
    match error {
        StoreError::Conflict { field: field @ "assignee_id", message } => Problem::field(field, "invalid", message),
        error => error.into(),
    }
}

/// Stores a task of the workspace.
#[utoipa::path(
    post, path = "/workspaces/{id}/tasks", tag = "workspaces", operation_id = "create_task",
    security(("person" = ["tasks:write"])),
    params(("id" = Uuid, Path)),
    request_body = TaskRequest,
    responses((status = 201, description = "Stored", body = TaskView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    person: Person<TasksWrite>,
    Id(workspace): Id,
    posted: Posted<TaskRequest>,
) -> Result<Response, Problem> {
    let TaskRequest { title, description, state: begun, assignee_id, due_on } = posted.body;
    let new = NewTask { title, description, state: begun.unwrap_or_default(), assignee_id, due_on };
    new.validate()?;
    let mut work = match begin_tenant(&state, &person.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return answered_before(&state, workspace, &person, response).await,
    };
    workspaces::member(&mut work, workspace, person.user_id).await?.ok_or_else(|| Problem::not_found("workspace"))?;
    let now = state.app.clock.now();
    let task = conversations::create_task(&mut work, workspace, &new, person.user_id, now).await.map_err(refused)?;
    let location = format!("/api/v1/tasks/{}", task.id);
    work.finish(Answer::new(StatusCode::CREATED, &TaskView::from(task)).at(location)).await
}

/// Lists a workspace's tasks, oldest first.
#[utoipa::path(
    get, path = "/workspaces/{id}/tasks", tag = "workspaces", operation_id = "list_tasks",
    security(("person" = ["tasks:read"])),
    params(("id" = Uuid, Path), ListParams),
    responses((status = 200, body = TaskPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    person: Person<TasksRead>,
    Id(workspace): Id,
    Query(params): Query<ListParams>,
) -> Result<Json<TaskPage>, Problem> {
    let page = Page {
        after: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
        newest_first: false,
    };
    let filter = TaskFilter { state: params.state, assignee_id: params.assignee_id };
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    workspaces::member(&mut tx, workspace, person.user_id).await?.ok_or_else(|| Problem::not_found("workspace"))?;
    let mut tasks = tasks::page(&mut tx, workspace, &filter, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut tasks, |task| task.id);
    Ok(Json(TaskPage { tasks: tasks.into_iter().map(TaskView::from).collect(), next_cursor }))
}

/// Shows a task.
#[utoipa::path(
    get, path = "/tasks/{id}", tag = "workspaces", operation_id = "get_task",
    security(("person" = ["tasks:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = TaskView), Problems)
)]
async fn show(State(state): State<ApiState>, person: Person<TasksRead>, Id(id): Id) -> Result<Json<TaskView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    let task = tasks::by_id_for(&mut tx, id, person.user_id).await?;
    tx.commit().await?;
    task.map(|task| Json(task.into())).ok_or_else(|| Problem::not_found("task"))
}

/// Changes a task.
#[utoipa::path(
    patch, path = "/tasks/{id}", tag = "workspaces", operation_id = "change_task",
    security(("person" = ["tasks:write"])),
    params(("id" = Uuid, Path)),
    request_body = TaskChange,
    responses((status = 200, body = TaskView), Problems)
)]
async fn change(
    State(state): State<ApiState>,
    person: Person<TasksWrite>,
    Id(id): Id,
    Body(change): Body<TaskChange>,
) -> Result<Json<TaskView>, Problem> {
    let now = state.app.clock.now();
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    let found = tasks::lock_for(&mut tx, id, person.user_id).await?;
    let before = found.ok_or_else(|| Problem::not_found("task"))?;
    let changed = change.apply(before.clone().into());
    changed.validate()?;
    let changed = conversations::change_task(&mut tx, &before, &changed, person.user_id, now).await;
    let task = changed.map_err(refused)?;
    tx.commit().await?;
    Ok(Json(task.into()))
}

/// Lists the states that tasks have, the same in every workspace, in the order in which work goes on.
#[utoipa::path(
    get, path = "/task-states", tag = "workspaces", operation_id = "list_task_states",
    security(("person" = ["tasks:read"])),
    responses((status = 200, body = TaskStates), Problems)
)]
async fn states(_: Person<TasksRead>) -> Json<TaskStates> {
    let states = TaskState::ALL.iter().map(|state| TaskStateView { state: *state, is_final: state.is_final() });
    Json(TaskStates { states: states.collect() })
}
