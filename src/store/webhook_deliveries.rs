//! `webhook_deliveries` (SYNC-12): what third parties sent by themselves, each delivery once.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError, stored};
use crate::domain::webhook_delivery::{DeliveryEvent, NewWebhookDelivery, WebhookDelivery};

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    integration_id: Uuid,
    external_id: String,
    happened: String,
    payload: serde_json::Value,
    state: String,
    outcome: Option<String>,
    received_at: DateTime<Utc>,
    handled_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for WebhookDelivery {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(WebhookDelivery {
            id: row.id,
            integration_id: row.integration_id,
            external_id: row.external_id,
            happened: stored("webhook_deliveries.happened", &row.happened)?,
            payload: row.payload,
            state: stored("webhook_deliveries.state", &row.state)?,
            outcome: row.outcome,
            received_at: row.received_at,
            handled_at: row.handled_at,
        })
    }
}

/// What was new in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub new: usize,
    /// Of these, how many something is to be done about.
    pub pending: usize,
}

/// Stores those that were not there before. A delivery that concerns nobody is handled by that.
pub async fn insert(
    db: &mut PgConnection,
    integration_id: Uuid,
    deliveries: &[NewWebhookDelivery],
    now: DateTime<Utc>,
) -> Result<Stored, StoreError> {
    let rows = sqlx::query_scalar!(
        r#"insert into webhook_deliveries
               (id, integration_id, external_id, happened, payload, state, outcome, received_at, handled_at)
           select d.id, $1::uuid, d.external_id, d.happened, d.payload,
                  case when d.happened = 'other' then 'handled' else 'pending' end,
                  case when d.happened = 'other' then 'does not concern us' end, $6::timestamptz,
                  case when d.happened = 'other' then $6::timestamptz end
           from unnest($2::uuid[], $3::text[], $4::text[], $5::jsonb[]) as d (id, external_id, happened, payload)
           on conflict (integration_id, external_id) do nothing
           returning state = 'pending' as "pending!""#,
        integration_id,
        &deliveries.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.external_id.clone()).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.happened.as_str().to_owned()).collect::<Vec<_>>(),
        &deliveries.iter().map(|delivery| delivery.payload.clone()).collect::<Vec<_>>(),
        now
    )
    .fetch_all(db)
    .await
    .map_err(|e| {
        let gone = "does not exist any more";
        StoreError::from_constraint(e, &[("webhook_deliveries_integration_id_fkey", "integration_id", gone)])
    })?;
    Ok(Stored { new: rows.len(), pending: rows.into_iter().filter(|pending| *pending).count() })
}

/// A delivery that something is to be done about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub id: Uuid,
    pub happened: DeliveryEvent,
    pub received_at: DateTime<Utc>,
}

/// What is pending of an integration, oldest first.
pub async fn pending(db: &mut PgConnection, integration_id: Uuid, limit: i64) -> Result<Vec<Pending>, StoreError> {
    let rows = sqlx::query!(
        "select id, happened, received_at from webhook_deliveries
         where integration_id = $1 and state = 'pending' order by received_at, id limit $2",
        integration_id,
        limit
    )
    .fetch_all(db)
    .await?;
    let pending = rows.into_iter().map(|row| {
        let happened = stored("webhook_deliveries.happened", &row.happened)?;
        Ok(Pending { id: row.id, happened, received_at: row.received_at })
    });
    pending.collect()
}

/// Integrations with deliveries that have been pending since before `before`.
pub async fn left_over(db: &mut PgConnection, before: DateTime<Utc>) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        "select distinct integration_id from webhook_deliveries where state = 'pending' and received_at < $1",
        before
    )
    .fetch_all(db)
    .await?)
}

/// Says what came of these. Those that are handled already keep their word.
pub async fn settle(db: &mut PgConnection, ids: &[Uuid], outcome: &str, now: DateTime<Utc>) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update webhook_deliveries set state = 'handled', outcome = $2, handled_at = $3
         where id = any($1) and state = 'pending'",
        ids,
        outcome,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// An integration's deliveries.
pub async fn page(db: &mut PgConnection, integration_id: Uuid, page: Page) -> Result<Vec<WebhookDelivery>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, integration_id, external_id, happened, payload, state, outcome, received_at, handled_at
         from webhook_deliveries where integration_id = ",
    );
    query.push_bind(integration_id);
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(WebhookDelivery::try_from).collect()
}

/// Forgets up to `limit` deliveries that came before `before`.
pub async fn prune(db: &mut PgConnection, before: DateTime<Utc>, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from webhook_deliveries
         where id in (select id from webhook_deliveries where received_at < $1 order by received_at limit $2)",
        before,
        limit
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
