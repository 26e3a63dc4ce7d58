//! `events` (EVT-1): the activity log, appended in the transaction of the change it tells of.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError};

/// Something that happened, about to be told.
#[derive(Clone, Debug)]
pub struct NewEvent<'a> {
    /// What it happened to: `invoice:<id>`.
    pub topic: String,
    /// `invoice.reminder_sent`
    pub kind: &'a str,
    pub payload: Value,
    /// Who did it: `job:<id>`, `api_key:<id>`, `operator`.
    pub actor: &'a str,
}

#[derive(Clone, Debug, serde::Serialize, sqlx::FromRow)]
pub struct Event {
    pub id: Uuid,
    pub topic: String,
    pub kind: String,
    pub payload: Value,
    pub actor: String,
    pub created_at: DateTime<Utc>,
}

pub async fn append(db: &mut PgConnection, event: &NewEvent<'_>, now: DateTime<Utc>) -> Result<Uuid, StoreError> {
    let id = Uuid::now_v7();
    sqlx::query!(
        "insert into events (id, topic, kind, payload, actor, created_at) values ($1, $2, $3, $4, $5, $6)",
        id,
        event.topic,
        event.kind,
        event.payload,
        event.actor,
        now
    )
    .execute(db)
    .await?;
    Ok(id)
}

/// Appends many in one statement.
pub async fn append_many(db: &mut PgConnection, events: &[NewEvent<'_>], now: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into events (id, topic, kind, payload, actor, created_at)
         select e.id, e.topic, e.kind, e.payload, e.actor, $6
         from unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[], $5::text[])
              as e (id, topic, kind, payload, actor)",
        &events.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>(),
        &events.iter().map(|event| event.topic.clone()).collect::<Vec<_>>(),
        &events.iter().map(|event| event.kind.to_owned()).collect::<Vec<_>>(),
        &events.iter().map(|event| event.payload.clone()).collect::<Vec<_>>(),
        &events.iter().map(|event| event.actor.to_owned()).collect::<Vec<_>>(),
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<Event>, StoreError> {
    let event =
        sqlx::query_as!(Event, "select id, topic, kind, payload, actor, created_at from events where id = $1", id);
    Ok(event.fetch_optional(db).await?)
}

/// What an actor did after the event or the job with the id `after`, oldest first.
pub async fn by_actor(db: &mut PgConnection, actor: &str, after: Uuid, limit: i64) -> Result<Vec<Event>, StoreError> {
    // Ids are in the order of time, so the primary key narrows it.
    Ok(sqlx::query_as!(
        Event,
        "select id, topic, kind, payload, actor, created_at from events where actor = $1 and id > $2 order by id limit $3",
        actor,
        after,
        limit
    )
    .fetch_all(db)
    .await?)
}

/// A topic's events, or all.
pub async fn page(db: &mut PgConnection, topic: Option<&str>, page: Page) -> Result<Vec<Event>, StoreError> {
    let mut query = QueryBuilder::new("select id, topic, kind, payload, actor, created_at from events where true");
    if let Some(topic) = topic {
        query.push(" and topic = ").push_bind(topic);
    }
    page.push_to(&mut query);
    Ok(query.build_query_as().fetch_all(db).await?)
}
