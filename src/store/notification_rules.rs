//! `notification_rules` (EVT-3). Their jobs are enqueued by the database, with the events (`notify_by_rules`).

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError, stored};
use crate::domain::{NewRule, NotificationRule};

const CONSTRAINTS: &[(&str, &str, &str)] = &[(
    "notification_rules_integration_id_events_channel_key",
    "events",
    "are told in this channel by another rule already",
)];

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    integration_id: Uuid,
    events: String,
    channel: String,
    language: Option<String>,
    mention: bool,
    enabled: bool,
    error: Option<String>,
    failed_at: Option<DateTime<Utc>>,
    last_posted_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for NotificationRule {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let language = row.language.as_deref().map(|language| stored("notification_rules.language", language));
        Ok(NotificationRule {
            id: row.id,
            rule: NewRule {
                integration_id: row.integration_id,
                events: stored("notification_rules.events", &row.events)?,
                channel: stored("notification_rules.channel", &row.channel)?,
                language: language.transpose()?,
                mention: row.mention,
                enabled: row.enabled,
            },
            error: row.error,
            failed_at: row.failed_at,
            last_posted_at: row.last_posted_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Writes a rule of a Slack integration; of another one it is a conflict on the field.
pub async fn insert(db: &mut PgConnection, new: &NewRule, now: DateTime<Utc>) -> Result<NotificationRule, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "insert into notification_rules (id, integration_id, events, channel, language, mention, enabled, created_at, updated_at)
         select $1::uuid, i.id, $3::text, $4::text, $5::text, $6::boolean, $7::boolean, $8::timestamptz, $8
         from integrations i where i.id = $2 and i.provider = 'slack'
         returning id, integration_id, events, channel, language, mention, enabled, error, failed_at, last_posted_at, created_at,
                   updated_at",
        Uuid::now_v7(),
        new.integration_id,
        new.events.as_str(),
        new.channel.as_str(),
        new.language.map(|language| language.as_str()),
        new.mention,
        new.enabled,
        now
    )
    .fetch_optional(db)
    .await
    .map_err(|error| StoreError::from_constraint(error, CONSTRAINTS))?;
    let none = || StoreError::Conflict {
        field: "integration_id",
        message: "is not a Slack integration of the organization".to_owned(),
    };
    row.ok_or_else(none)?.try_into()
}

/// Changes a rule; its failure is forgotten, and it is tried again. The integration stays. `None` if there is no such rule.
pub async fn update(
    db: &mut PgConnection,
    id: Uuid,
    change: &NewRule,
    now: DateTime<Utc>,
) -> Result<Option<NotificationRule>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update notification_rules
         set events = $2, channel = $3, language = $4, mention = $5, enabled = $6, error = null, failed_at = null, updated_at = $7
         where id = $1
         returning id, integration_id, events, channel, language, mention, enabled, error, failed_at, last_posted_at, created_at,
                   updated_at",
        id,
        change.events.as_str(),
        change.channel.as_str(),
        change.language.map(|language| language.as_str()),
        change.mention,
        change.enabled,
        now
    )
    .fetch_optional(db)
    .await
    .map_err(|error| StoreError::from_constraint(error, CONSTRAINTS))?;
    row.map(TryInto::try_into).transpose()
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<NotificationRule>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, integration_id, events, channel, language, mention, enabled, error, failed_at, last_posted_at, created_at,
                updated_at
         from notification_rules where id = $1",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(TryInto::try_into).transpose()
}

/// A page of the rules, or of those of an integration.
pub async fn page(
    db: &mut PgConnection,
    integration: Option<Uuid>,
    page: Page,
) -> Result<Vec<NotificationRule>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, integration_id, events, channel, language, mention, enabled, error, failed_at, last_posted_at, created_at,
                updated_at
         from notification_rules where true",
    );
    if let Some(integration) = integration {
        query.push(" and integration_id = ").push_bind(integration);
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// False if there is no such rule.
pub async fn delete(db: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    let gone = sqlx::query!("delete from notification_rules where id = $1", id).execute(db).await?;
    Ok(gone.rows_affected() > 0)
}

/// Stops a rule whose channel takes nothing, unless it was changed since it was read or has stopped already. Answers whether it did.
pub async fn mark_failed(
    db: &mut PgConnection,
    rule: &NotificationRule,
    error: &str,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update notification_rules set error = $3, failed_at = $4 where id = $1 and updated_at = $2 and failed_at is null",
        rule.id,
        rule.updated_at,
        error,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

pub async fn mark_posted(db: &mut PgConnection, id: Uuid, at: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query!(
        "update notification_rules set last_posted_at = $2
         where id = $1 and (last_posted_at is null or last_posted_at < $2)",
        id,
        at
    )
    .execute(db)
    .await?;
    Ok(())
}
