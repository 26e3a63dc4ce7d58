//! What of `workflows` and `workflow_steps` is overdue (ASSET-5), for the daily look at it.

use chrono::NaiveDate;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, stored, workflows::assignee};
use crate::domain::{Assignee, WorkflowKind};

/// A workflow whose deadline has passed, as no event has told yet.
#[derive(Clone, Debug)]
pub struct NewlyOverdue {
    pub id: Uuid,
    pub kind: WorkflowKind,
    pub title: String,
    pub employee_id: Option<Uuid>,
    pub asset_id: Option<Uuid>,
    pub deadline: NaiveDate,
}

/// Marks workflows as told of, each once per deadline, and answers them: at most `limit`.
pub async fn mark_told(db: &mut PgConnection, today: NaiveDate, limit: i64) -> Result<Vec<NewlyOverdue>, StoreError> {
    let rows = sqlx::query!(
        r#"update workflows w set overdue_told_for = deadline
         where id in (select o.id from workflows o
                      where o.deadline < $1 and o.overdue_told_for is distinct from o.deadline
                      order by o.deadline, o.id limit $2 for update)
         returning id, kind, title, employee_id, asset_id, deadline as "deadline!""#,
        today,
        limit
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let kind = stored("workflows.kind", &row.kind)?;
            let (title, deadline) = (row.title, row.deadline);
            Ok(NewlyOverdue { id: row.id, kind, title, employee_id: row.employee_id, asset_id: row.asset_id, deadline })
        })
        .collect()
}

/// A workflow or a step that was due before today.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// Of the workflow.
    pub title: String,
    /// `None`: the workflow itself.
    pub step: Option<String>,
    pub due_on: NaiveDate,
    pub assignee: Assignee,
    /// How much is late at the same hands, this included.
    pub of: u64,
}

/// What is late at whose hands, longest first: at most `each` for a role or a person. A step that waits for approval is no longer at the
/// hands of who did it, but at those of who sees to the workflow.
pub async fn late(db: &mut PgConnection, today: NaiveDate, each: i64) -> Result<Vec<Late>, StoreError> {
    let rows = sqlx::query!(
        r#"select title as "title!", step, due_on as "due_on!", role, person, total as "total!"
         from (
             select l.*, count(*) over (partition by role, person) as total,
                    row_number() over (partition by role, person order by due_on, workflow_id, position) as nth
             from (
                 select w.id as workflow_id, 0 as position, w.title, null::text as step, w.due_on, w.assignee_role as role,
                        w.assignee_id as person
                 from workflows w where w.deadline < $1 and w.due_on < $1
                 union all
                 select w.id, s.position, w.title, s.title, s.due_on,
                        case s.status when 'pending' then s.assignee_role else w.assignee_role end,
                        case s.status when 'pending' then s.assignee_id else w.assignee_id end
                 from workflows w join workflow_steps s on s.workflow_id = w.id
                 where w.deadline < $1 and s.due_on < $1 and s.status in ('pending', 'awaiting_approval')
             ) l
         ) ranked
         where nth <= $2
         order by role nulls last, person, nth"#,
        today,
        each
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let assignee = assignee("workflows.assignee_role", row.role.as_deref(), row.person)?;
            Ok(Late { title: row.title, step: row.step, due_on: row.due_on, assignee, of: row.total.unsigned_abs() })
        })
        .collect()
}
