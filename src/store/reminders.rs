//! `reminders`: a dunning stage of an invoice, claimed before its mail leaves (BILL-6).

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// Claims the stage for a job; a job whose claim is not sent yet gives way, because the delivery decides who sends.
/// False if the stage's reminder was sent.
pub async fn claim_stage(
    db: &mut PgConnection,
    (invoice_id, stage): (Uuid, u32),
    delivery_id: Uuid,
    job_id: Uuid,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "insert into reminders as r (invoice_id, stage, delivery_id, job_id, claimed_at) values ($1, $2, $3, $4, $5)
         on conflict (invoice_id, stage) do update set job_id = excluded.job_id, claimed_at = excluded.claimed_at
         where r.sent_at is null",
        invoice_id,
        stage.cast_signed(),
        delivery_id,
        job_id,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// False if it was recorded before.
pub async fn mark_sent(
    db: &mut PgConnection,
    invoice_id: Uuid,
    stage: u32,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update reminders set sent_at = $3 where invoice_id = $1 and stage = $2 and sent_at is null",
        invoice_id,
        stage.cast_signed(),
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}
