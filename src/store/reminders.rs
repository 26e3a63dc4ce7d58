//! `reminders`: a dunning stage of an invoice whose mail was sent (BILL-6).

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// A stage's reminder was sent, by this job. False if it was recorded before.
pub async fn mark_sent(
    db: &mut PgConnection,
    (invoice_id, stage): (Uuid, u32),
    (delivery_id, job_id): (Uuid, Uuid),
    at: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "insert into reminders as r (invoice_id, stage, delivery_id, job_id, claimed_at, sent_at) values ($1, $2, $3, $4, $5, $5)
         on conflict (invoice_id, stage) do update set sent_at = excluded.sent_at, job_id = excluded.job_id
         where r.sent_at is null",
        invoice_id,
        stage.cast_signed(),
        delivery_id,
        job_id,
        at
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}
