//! `workflows` and `workflow_steps` (ASSET-5, ASSET-6). What may happen is decided in [`crate::domain::workflow`] with the workflow
//! locked; every change is one statement that says from which status it is made, as the state machine does.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError, count, stored};
use crate::domain::{
    Assignee, StepStatus, Workflow, WorkflowKind, WorkflowStatus,
    workflow::{NewStep, NewWorkflow, Step, StepAct},
};

const CONSTRAINTS: &[(&str, &str, &str)] = &[
    ("workflows_employee_id_fkey", "employee_id", "is not an employee of the organization"),
    ("workflows_asset_id_fkey", "asset_id", "is not an asset of the organization"),
    ("workflows_template_id_fkey", "template_id", "is not a template of the organization"),
];

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    kind: String,
    template_id: Option<Uuid>,
    title: String,
    status: String,
    employee_id: Option<Uuid>,
    asset_id: Option<Uuid>,
    assignee_role: Option<String>,
    assignee_id: Option<Uuid>,
    due_on: NaiveDate,
    reason: Option<String>,
    created_by: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    begun_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
}

impl Row {
    fn with(self, steps: Vec<Step>) -> Result<Workflow, StoreError> {
        Ok(Workflow {
            id: self.id,
            kind: stored("workflows.kind", &self.kind)?,
            template_id: self.template_id,
            title: self.title,
            status: stored("workflows.status", &self.status)?,
            employee_id: self.employee_id,
            asset_id: self.asset_id,
            assignee: assignee("workflows.assignee_role", self.assignee_role.as_deref(), self.assignee_id)?,
            due_on: self.due_on,
            reason: self.reason,
            created_by: self.created_by,
            created_at: self.created_at,
            updated_at: self.updated_at,
            begun_at: self.begun_at,
            ended_at: self.ended_at,
            steps,
        })
    }
}

/// One of the two columns is set.
pub(super) fn assignee(column: &'static str, role: Option<&str>, person: Option<Uuid>) -> Result<Assignee, StoreError> {
    match (role, person) {
        (_, Some(person)) => Ok(Assignee::Person(person)),
        (role, None) => stored(column, role.unwrap_or_default()).map(Assignee::Role),
    }
}

/// Stores a workflow that nobody has begun. With a source key that has started one before it answers that one, and false.
pub async fn insert(
    db: &mut PgConnection,
    new: &NewWorkflow,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<(Workflow, bool), StoreError> {
    let deadline = new.steps.iter().map(|step| step.due_on).fold(new.due_on, Ord::min);
    let id = Uuid::now_v7();
    let done = sqlx::query!(
        "insert into workflows (id, kind, template_id, title, employee_id, asset_id, assignee_role, assignee_id, due_on, deadline,
             source_key, created_by, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)
         on conflict (source_key) do nothing",
        id,
        new.kind.as_str(),
        new.template_id,
        new.title,
        new.employee_id,
        new.asset_id,
        new.assignee.role().map(|role| role.as_str()),
        new.assignee.person(),
        new.due_on,
        deadline,
        new.source_key,
        actor,
        now
    )
    .execute(&mut *db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    if done.rows_affected() == 0 {
        let key = new.source_key.as_deref().unwrap_or_default();
        let there = by_source_key(db, key).await?.ok_or(StoreError::NotFound { what: "workflow", id })?;
        return Ok((there, false));
    }
    insert_steps(db, id, &new.steps).await?;
    let stored = by_id(db, id).await?.ok_or(StoreError::NotFound { what: "workflow", id })?;
    Ok((stored, true))
}

async fn insert_steps(db: &mut PgConnection, workflow: Uuid, steps: &[NewStep]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = steps.iter().map(|_| Uuid::now_v7()).collect();
    let titles: Vec<String> = steps.iter().map(|step| step.title.clone()).collect();
    let roles: Vec<Option<String>> =
        steps.iter().map(|step| step.assignee.role().map(|role| role.as_str().to_owned())).collect();
    let people: Vec<Option<Uuid>> = steps.iter().map(|step| step.assignee.person()).collect();
    let due: Vec<NaiveDate> = steps.iter().map(|step| step.due_on).collect();
    let approvals: Vec<bool> = steps.iter().map(|step| step.needs_approval).collect();
    let assets: Vec<Option<Uuid>> = steps.iter().map(|step| step.asset_id).collect();
    sqlx::query!(
        "insert into workflow_steps (id, workflow_id, position, title, assignee_role, assignee_id, due_on, needs_approval, asset_id)
         select s.id, $1, s.position, s.title, s.role, s.person, s.due_on, s.needs_approval, s.asset_id
         from unnest($2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::date[], $7::boolean[], $8::uuid[]) with ordinality
              as s (id, title, role, person, due_on, needs_approval, asset_id, position)",
        workflow,
        &ids,
        &titles,
        &roles as &[Option<String>],
        &people as &[Option<Uuid>],
        &due,
        &approvals,
        &assets as &[Option<Uuid>]
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The steps of these workflows, by workflow, in order.
async fn steps_of(db: &mut PgConnection, workflows: &[Uuid]) -> Result<HashMap<Uuid, Vec<Step>>, StoreError> {
    let rows = sqlx::query!(
        "select id, workflow_id, position, title, status, assignee_role, assignee_id, due_on, needs_approval, asset_id, note,
                advanced_by, advanced_at, approved_by, approved_at
         from workflow_steps where workflow_id = any($1) order by workflow_id, position",
        workflows
    )
    .fetch_all(db)
    .await?;
    let mut found: HashMap<Uuid, Vec<Step>> = HashMap::with_capacity(workflows.len());
    for row in rows {
        let step = Step {
            id: row.id,
            position: count("workflow_steps.position", row.position)?,
            title: row.title,
            status: stored("workflow_steps.status", &row.status)?,
            assignee: assignee("workflow_steps.assignee_role", row.assignee_role.as_deref(), row.assignee_id)?,
            due_on: row.due_on,
            needs_approval: row.needs_approval,
            asset_id: row.asset_id,
            note: row.note,
            advanced_by: row.advanced_by,
            advanced_at: row.advanced_at,
            approved_by: row.approved_by,
            approved_at: row.approved_at,
        };
        found.entry(row.workflow_id).or_default().push(step);
    }
    Ok(found)
}

async fn with_steps(db: &mut PgConnection, rows: Vec<Row>) -> Result<Vec<Workflow>, StoreError> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut steps = steps_of(db, &ids).await?;
    rows.into_iter()
        .map(|row| {
            let own = steps.remove(&row.id).unwrap_or_default();
            row.with(own)
        })
        .collect()
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<Workflow>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, kind, template_id, title, status, employee_id, asset_id, assignee_role, assignee_id, due_on, reason, created_by,
                created_at, updated_at, begun_at, ended_at
         from workflows where id = $1",
        id
    )
    .fetch_optional(&mut *db)
    .await?;
    Ok(with_steps(db, row.into_iter().collect()).await?.pop())
}

async fn by_source_key(db: &mut PgConnection, key: &str) -> Result<Option<Workflow>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, kind, template_id, title, status, employee_id, asset_id, assignee_role, assignee_id, due_on, reason, created_by,
                created_at, updated_at, begun_at, ended_at
         from workflows where source_key = $1",
        key
    )
    .fetch_optional(&mut *db)
    .await?;
    Ok(with_steps(db, row.into_iter().collect()).await?.pop())
}

/// The oldest workflow of the kind about the employee that has not ended.
pub async fn open_of(
    db: &mut PgConnection,
    kind: WorkflowKind,
    employee_id: Uuid,
) -> Result<Option<Workflow>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, kind, template_id, title, status, employee_id, asset_id, assignee_role, assignee_id, due_on, reason, created_by,
                created_at, updated_at, begun_at, ended_at
         from workflows where employee_id = $1 and kind = $2 and ended_at is null order by id limit 1",
        employee_id,
        kind.as_str()
    )
    .fetch_optional(&mut *db)
    .await?;
    Ok(with_steps(db, row.into_iter().collect()).await?.pop())
}

/// These employees are back: when they leave again, on whatever day, an offboarding starts again.
pub async fn release_offboardings(db: &mut PgConnection, employee_ids: &[Uuid]) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update workflows set source_key = null
         where employee_id = any($1) and kind = 'offboarding' and source_key is not null",
        employee_ids
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// The workflow as it is now, and until the transaction ends.
pub async fn lock(db: &mut PgConnection, id: Uuid) -> Result<Option<Workflow>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, kind, template_id, title, status, employee_id, asset_id, assignee_role, assignee_id, due_on, reason, created_by,
                created_at, updated_at, begun_at, ended_at
         from workflows where id = $1 for update",
        id
    )
    .fetch_optional(&mut *db)
    .await?;
    Ok(with_steps(db, row.into_iter().collect()).await?.pop())
}

/// Which workflows. All given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct WorkflowFilter {
    pub kind: Option<WorkflowKind>,
    pub status: Option<WorkflowStatus>,
    pub employee_id: Option<Uuid>,
    pub asset_id: Option<Uuid>,
    /// Who has the whole of it, or a step of it, that is not over.
    pub assignee: Option<Assignee>,
    /// Something of it was due before this day, and is not over.
    pub overdue_on: Option<NaiveDate>,
}

pub async fn page(db: &mut PgConnection, filter: &WorkflowFilter, page: Page) -> Result<Vec<Workflow>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, kind, template_id, title, status, employee_id, asset_id, assignee_role, assignee_id, due_on, reason, created_by,
                created_at, updated_at, begun_at, ended_at
         from workflows w where true",
    );
    if let Some(kind) = filter.kind {
        query.push(" and kind = ").push_bind(kind.as_str());
    }
    if let Some(status) = filter.status {
        query.push(" and status = ").push_bind(status.as_str());
    }
    if let Some(employee_id) = filter.employee_id {
        query.push(" and employee_id = ").push_bind(employee_id);
    }
    if let Some(asset_id) = filter.asset_id {
        query.push(" and asset_id = ").push_bind(asset_id);
    }
    if let Some(assignee) = filter.assignee {
        let column = if assignee.person().is_some() { "assignee_id" } else { "assignee_role" };
        query.push(" and deadline is not null and (w.").push(column).push("::text = ");
        query
            .push_bind(assignee.to_string())
            .push(" or exists (select from workflow_steps s where s.workflow_id = w.id");
        query.push(" and s.status in ('pending', 'awaiting_approval') and s.").push(column).push("::text = ");
        query.push_bind(assignee.to_string()).push("))");
    }
    if let Some(today) = filter.overdue_on {
        query.push(" and deadline < ").push_bind(today);
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(&mut *db).await?;
    with_steps(db, rows).await
}

/// What somebody did to a step.
#[derive(Clone, Copy, Debug)]
pub struct StepChange<'a> {
    pub act: StepAct,
    pub from: StepStatus,
    pub to: StepStatus,
    /// Takes the place of the note that is there, if one is given.
    pub note: Option<&'a str>,
    pub actor: &'a str,
}

/// False if the step was not where it was said to be.
pub async fn move_step(
    db: &mut PgConnection,
    id: Uuid,
    change: &StepChange<'_>,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let (advance, approve) = (change.act == StepAct::Advance, change.act == StepAct::Approve);
    let done = sqlx::query!(
        "update workflow_steps
         set status = $3, note = coalesce($4, note),
             advanced_by = case when $5 then $7 when $8 then null else advanced_by end,
             advanced_at = case when $5 then $9::timestamptz when $8 then null else advanced_at end,
             approved_by = case when $6 then $7 else approved_by end,
             approved_at = case when $6 then $9 else approved_at end
         where id = $1 and status = $2",
        id,
        change.from.as_str(),
        change.to.as_str(),
        change.note,
        advance,
        approve,
        change.actor,
        change.act == StepAct::Reject,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Skips these steps, which nobody has begun.
pub async fn skip_steps(db: &mut PgConnection, ids: &[Uuid]) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update workflow_steps set status = 'skipped' where id = any($1) and status = 'pending' and not needs_approval",
        ids
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Takes a workflow from one status to another, or says that it goes on in the same. `deadline` is that of the workflow as it is now.
/// False if it was not where it was said to be. An offboarding that came to nothing may be started again by the same termination.
pub async fn set_status(
    db: &mut PgConnection,
    id: Uuid,
    (from, to): (WorkflowStatus, WorkflowStatus),
    (deadline, reason): (Option<NaiveDate>, Option<&str>),
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update workflows
         set status = $3, deadline = $4, reason = $5, updated_at = $6,
             begun_at = case when $7 then coalesce(begun_at, $6) else begun_at end,
             ended_at = case when $8 then $6 end,
             source_key = case when kind = 'offboarding' and $3 in ('cancelled', 'failed') then null else source_key end
         where id = $1 and status = $2",
        id,
        from.as_str(),
        to.as_str(),
        deadline,
        reason,
        now,
        matches!(to, WorkflowStatus::InProgress | WorkflowStatus::Completed),
        to.has_ended()
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What a workflow says of an employee; nothing of it is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Employee {
    pub work_email: Option<String>,
    /// `active`, `on_leave` or `terminated`.
    pub status: String,
    pub hire_date: Option<NaiveDate>,
    pub termination_date: Option<NaiveDate>,
}

pub async fn employee(db: &mut PgConnection, id: Uuid) -> Result<Option<Employee>, StoreError> {
    Ok(sqlx::query_as!(
        Employee,
        "select work_email, status, hire_date, termination_date from employees where id = $1",
        id
    )
    .fetch_optional(db)
    .await?)
}

/// An asset that has to come back; nothing of it is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub id: Uuid,
    pub tag: String,
    pub name: String,
}

/// What the employee holds, by tag.
pub async fn held_by(db: &mut PgConnection, employee: Uuid) -> Result<Vec<Held>, StoreError> {
    Ok(sqlx::query_as!(Held, "select id, tag, name from assets where employee_id = $1 order by tag", employee)
        .fetch_all(db)
        .await?)
}

pub async fn asset_tag(db: &mut PgConnection, id: Uuid) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar!("select tag from assets where id = $1", id).fetch_optional(db).await?)
}
