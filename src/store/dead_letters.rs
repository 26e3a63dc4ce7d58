//! `dead_letter_watch` and `dead_letters_told`, on the control plane: which dead letters organizations have been told of (SYNC-11).

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// Since when dead letters are to be looked for, and up to when that will have been done; by the database's clock. A second look waits
/// for the first one's transaction.
pub async fn begin_look(db: &mut PgConnection) -> Result<(DateTime<Utc>, DateTime<Utc>), StoreError> {
    // A job's end is written by a short transaction; five minutes are far more than it takes.
    let row = sqlx::query!(
        r#"select watched_until - interval '5 minutes' as "since!", clock_timestamp() as "until!"
           from public.dead_letter_watch for update"#
    );
    let row = row.fetch_one(db).await?;
    Ok((row.since, row.until))
}

/// The next look begins here; what was told long before it is forgotten.
pub async fn end_look(db: &mut PgConnection, until: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query!("update public.dead_letter_watch set watched_until = $1 where watched_until < $1", until)
        .execute(&mut *db)
        .await?;
    sqlx::query!("delete from public.dead_letters_told where finished_at < $1::timestamptz - interval '1 hour'", until)
        .execute(db)
        .await?;
    Ok(())
}

/// Notes that these jobs are told, each with the time of its end. Answers those that were not noted before.
pub async fn note(
    db: &mut PgConnection,
    jobs: &[Uuid],
    ends: &[DateTime<Utc>],
) -> Result<Vec<(Uuid, DateTime<Utc>)>, StoreError> {
    let rows = sqlx::query!(
        "insert into public.dead_letters_told (job_id, finished_at)
         select * from unnest($1::uuid[], $2::timestamptz[]) on conflict do nothing
         returning job_id, finished_at",
        jobs,
        ends
    );
    Ok(rows.fetch_all(db).await?.into_iter().map(|row| (row.job_id, row.finished_at)).collect())
}
