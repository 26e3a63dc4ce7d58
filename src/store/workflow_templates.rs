//! `workflow_templates` (ASSET-5, TEN-4): what the organization made itself. The product's own are in [`crate::domain::workflow`].

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError, stored};
use crate::domain::{
    Limits, Resource, WorkflowKind,
    workflow::{NewTemplate, Template, TemplateStep},
};

const CONSTRAINTS: &[(&str, &str, &str)] =
    &[("workflow_templates_kind_name_key", "name", "is taken by another template of the same kind")];

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    kind: String,
    name: String,
    steps: Value,
    is_default: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Template {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let steps: Vec<TemplateStep> = serde_json::from_value(row.steps)
            .map_err(|e| StoreError::Stored { column: "workflow_templates.steps", reason: e.to_string() })?;
        Ok(Self {
            id: row.id,
            kind: stored("workflow_templates.kind", &row.kind)?,
            name: row.name,
            steps,
            is_default: row.is_default,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

fn steps(new: &NewTemplate) -> Result<Value, StoreError> {
    serde_json::to_value(&new.steps)
        .map_err(|e| StoreError::Stored { column: "workflow_templates.steps", reason: e.to_string() })
}

/// Nobody else makes or changes templates until the transaction ends: how many there are, and which one is the default, is true
/// until then.
async fn alone(db: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("lock table workflow_templates in share row exclusive mode").execute(db).await?;
    Ok(())
}

/// Another template of the kind is the default from now on.
async fn clear_default(
    db: &mut PgConnection,
    kind: WorkflowKind,
    but: Uuid,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update workflow_templates set is_default = false, updated_at = $3 where kind = $1 and is_default and id <> $2",
        kind.as_str(),
        but,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// How many there are.
pub async fn count(db: &mut PgConnection) -> Result<u64, StoreError> {
    let count = sqlx::query_scalar!(r#"select count(*) as "count!" from workflow_templates"#).fetch_one(db).await?;
    Ok(count.unsigned_abs())
}

/// Stores a template, if the tier allows one more. A new default takes the place of the one before.
///
/// # Errors
/// [`StoreError::Limit`] if it does not (TEN-4), also when two are stored at once.
pub async fn insert(
    db: &mut PgConnection,
    new: &NewTemplate,
    limits: Limits,
    now: DateTime<Utc>,
) -> Result<Template, StoreError> {
    alone(db).await?;
    limits.check(Resource::Workflows, count(db).await?, 1)?;
    let id = Uuid::now_v7();
    if new.is_default {
        clear_default(db, new.kind, id, now).await?;
    }
    let row = sqlx::query_as!(
        Row,
        "insert into workflow_templates (id, kind, name, steps, is_default, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $6)
         returning id, kind, name, steps, is_default, created_at, updated_at",
        id,
        new.kind.as_str(),
        new.name,
        steps(new)?,
        new.is_default,
        now
    )
    .fetch_one(db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    row.try_into()
}

/// Replaces all that a template says but its kind. Workflows that were started from it keep their steps.
pub async fn update(
    db: &mut PgConnection,
    id: Uuid,
    change: &NewTemplate,
    now: DateTime<Utc>,
) -> Result<Option<Template>, StoreError> {
    alone(db).await?;
    if change.is_default {
        clear_default(db, change.kind, id, now).await?;
    }
    let row = sqlx::query_as!(
        Row,
        "update workflow_templates set name = $2, steps = $3, is_default = $4, updated_at = $5 where id = $1
         returning id, kind, name, steps, is_default, created_at, updated_at",
        id,
        change.name,
        steps(change)?,
        change.is_default,
        now
    )
    .fetch_optional(db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    row.map(Template::try_from).transpose()
}

/// False if there is none.
pub async fn delete(db: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    let done = sqlx::query!("delete from workflow_templates where id = $1", id).execute(db).await?;
    Ok(done.rows_affected() == 1)
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<Template>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, kind, name, steps, is_default, created_at, updated_at from workflow_templates where id = $1",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(Template::try_from).transpose()
}

/// The organization's default for the kind.
pub async fn default_of(db: &mut PgConnection, kind: WorkflowKind) -> Result<Option<Template>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, kind, name, steps, is_default, created_at, updated_at
         from workflow_templates where kind = $1 and is_default",
        kind.as_str()
    )
    .fetch_optional(db)
    .await?;
    row.map(Template::try_from).transpose()
}

pub async fn page(db: &mut PgConnection, kind: Option<WorkflowKind>, page: Page) -> Result<Vec<Template>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, kind, name, steps, is_default, created_at, updated_at from workflow_templates where true",
    );
    if let Some(kind) = kind {
        query.push(" and kind = ").push_bind(kind.as_str());
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(Template::try_from).collect()
}
