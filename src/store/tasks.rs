//! `tasks` (WORK-7). What a member of the workspace reads is asked with the member's id: to others there is nothing.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError, stored};
use crate::domain::{NewTask, Task, TaskState};

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    workspace_id: Uuid,
    title: String,
    description: Option<String>,
    state: String,
    assignee_id: Option<Uuid>,
    due_on: Option<NaiveDate>,
    created_by: Uuid,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    completed_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Task {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Task {
            id: row.id,
            workspace_id: row.workspace_id,
            title: row.title,
            description: row.description,
            state: stored("tasks.state", &row.state)?,
            assignee_id: row.assignee_id,
            due_on: row.due_on,
            created_by: row.created_by,
            created_at: row.created_at,
            updated_at: row.updated_at,
            completed_at: row.completed_at,
        })
    }
}

/// Who is assigned must be a member, or there is a conflict on the field.
const NO_MEMBER: &str = "is not a member of the workspace";

/// Writes a task of the workspace.
pub async fn insert(
    db: &mut PgConnection,
    workspace_id: Uuid,
    new: &NewTask,
    author: Uuid,
    now: DateTime<Utc>,
) -> Result<Task, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "insert into tasks (id, workspace_id, title, description, state, assignee_id, due_on, created_by, created_at, updated_at,
                            completed_at)
         select $1::uuid, $2::uuid, $3::text, $4::text, $5::text, $6::uuid, $7::date, $8::uuid, $9::timestamptz, $9,
                case when $5 = 'done' then $9 end
         where $6::uuid is null
            or exists (select from workspace_members m where m.workspace_id = $2 and m.user_id = $6)
         returning id, workspace_id, title, description, state, assignee_id, due_on, created_by, created_at, updated_at,
                   completed_at",
        Uuid::now_v7(),
        workspace_id,
        new.title,
        new.description,
        new.state.as_str(),
        new.assignee_id,
        new.due_on,
        author,
        now
    )
    .fetch_optional(db)
    .await?;
    row.ok_or_else(no_member)?.try_into()
}

fn no_member() -> StoreError {
    StoreError::Conflict { field: "assignee_id", message: NO_MEMBER.to_owned() }
}

/// The task, if `member` is a member of its workspace; locked until the transaction ends.
pub async fn lock_for(db: &mut PgConnection, id: Uuid, member: Uuid) -> Result<Option<Task>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, workspace_id, title, description, state, assignee_id, due_on, created_by, created_at, updated_at, completed_at
         from tasks t
         where id = $1
           and exists (select from workspace_members m join workspaces w on w.id = m.workspace_id and w.deleted_at is null
                       where m.workspace_id = t.workspace_id and m.user_id = $2)
         for update",
        id,
        member
    )
    .fetch_optional(db)
    .await?;
    row.map(Task::try_from).transpose()
}

/// The task, if `member` is a member of its workspace.
pub async fn by_id_for(db: &mut PgConnection, id: Uuid, member: Uuid) -> Result<Option<Task>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, workspace_id, title, description, state, assignee_id, due_on, created_by, created_at, updated_at, completed_at
         from tasks t
         where id = $1
           and exists (select from workspace_members m join workspaces w on w.id = m.workspace_id and w.deleted_at is null
                       where m.workspace_id = t.workspace_id and m.user_id = $2)",
        id,
        member
    )
    .fetch_optional(db)
    .await?;
    row.map(Task::try_from).transpose()
}

/// Replaces all that a task says. `assignee_id` is checked where it changes: who has left keeps what was theirs.
pub async fn update(db: &mut PgConnection, id: Uuid, task: &NewTask, now: DateTime<Utc>) -> Result<Task, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update tasks t
         set title = $2, description = $3, state = $4, assignee_id = $5, due_on = $6, updated_at = $7,
             completed_at = case when $4 = 'done' then coalesce(completed_at, $7) end
         where id = $1
           and ($5::uuid is null or $5 is not distinct from t.assignee_id
                or exists (select from workspace_members m where m.workspace_id = t.workspace_id and m.user_id = $5))
         returning id, workspace_id, title, description, state, assignee_id, due_on, created_by, created_at, updated_at,
                   completed_at",
        id,
        task.title,
        task.description,
        task.state.as_str(),
        task.assignee_id,
        task.due_on,
        now
    )
    .fetch_optional(db)
    .await?;
    row.ok_or_else(no_member)?.try_into()
}

/// Which tasks of a workspace. All given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    pub state: Option<TaskState>,
    pub assignee_id: Option<Uuid>,
}

/// A workspace's tasks. The caller knows that the reader is a member.
pub async fn page(
    db: &mut PgConnection,
    workspace_id: Uuid,
    filter: &TaskFilter,
    page: Page,
) -> Result<Vec<Task>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, workspace_id, title, description, state, assignee_id, due_on, created_by, created_at, updated_at, completed_at
         from tasks where workspace_id = ",
    );
    query.push_bind(workspace_id);
    if let Some(state) = filter.state {
        query.push(" and state = ").push_bind(state.as_str());
    }
    if let Some(assignee_id) = filter.assignee_id {
        query.push(" and assignee_id = ").push_bind(assignee_id);
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(Task::try_from).collect()
}
