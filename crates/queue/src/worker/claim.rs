//! Taking jobs: one call of `queue.claim` takes a batch, under one new lease.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

/// A job in this process's hands, with the fence that its outcome must show.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Claimed {
    pub id: Uuid,
    /// As all of its batch; not sent back by the database.
    #[sqlx(default)]
    pub lease: Uuid,
    #[sqlx(default)]
    pub queue: String,
    pub kind: String,
    pub tenant: Option<String>,
    pub attempt: i32,
    pub max_attempts: i32,
    pub args: Value,
    pub trace: Option<String>,
    pub created_at: DateTime<Utc>,
    pub rate_key: Option<String>,
    pub batch_id: Option<Uuid>,
    /// Workers that were lost while they ran it, or may have.
    pub crashes: i16,
    /// Somebody cancelled it while it was in other hands.
    pub cancel_requested: bool,
    /// Seconds between the time it was due and this claim.
    pub waited_s: f64,
    /// What the last attempt died of, for a job that has used up its attempts.
    pub last_error: Option<String>,
}

impl Claimed {
    /// Whose turn it took: see the column `lane`.
    pub fn lane(&self) -> String {
        format!("{}\u{1f}{}", self.tenant.as_deref().unwrap_or_default(), self.rate_key.as_deref().unwrap_or_default())
    }
}

/// Claims up to `limit` jobs that are due: highest priority first, lanes in turn from the one after `after`. A paused
/// queue gives none. What decides is in the SQL function `queue.claim`.
pub(crate) async fn batch(
    db: impl PgExecutor<'_>,
    (queue, after): (&str, &str),
    limit: usize,
    lease: Duration,
    worker: &str,
) -> sqlx::Result<Vec<Claimed>> {
    let lease_id = Uuid::now_v7();
    let mut jobs: Vec<Claimed> = sqlx::query_as("select * from queue.claim($1, $2, $3, $4, $5, $6)")
        .bind(queue)
        .bind(i32::try_from(limit).unwrap_or(i32::MAX))
        .bind(lease_id)
        .bind(lease.as_secs_f64())
        .bind(worker)
        .bind(after)
        .fetch_all(db)
        .await?;
    for job in &mut jobs {
        job.lease = lease_id;
        queue.clone_into(&mut job.queue);
    }
    Ok(jobs)
}

/// Claims one job by id, for a run in the caller's own terminal or test. `None` if somebody else has it.
pub(crate) async fn one(
    db: impl PgExecutor<'_>,
    id: Uuid,
    lease: Duration,
    worker: &str,
) -> sqlx::Result<Option<Claimed>> {
    sqlx::query_as(
        "update queue.jobs j
         set state = 'running', attempt = j.attempt + 1, lease = $2, lease_until = now() + make_interval(secs => $3),
             worker = $4, attempted_at = now(), begun_at = null
         where j.id = $1 and j.state in ('available', 'scheduled', 'retryable') and not j.held
         returning j.id, j.lease, j.queue, j.kind, j.tenant, j.attempt, j.max_attempts, j.args, j.trace, j.created_at,
                   j.rate_key, j.batch_id, j.crashes, j.cancel_requested_at is not null as cancel_requested,
                   extract(epoch from clock_timestamp() - j.run_at)::float8 as waited_s,
                   j.errors -> -1 ->> 'error' as last_error",
    )
    .bind(id)
    .bind(Uuid::now_v7())
    .bind(lease.as_secs_f64())
    .bind(worker)
    .fetch_optional(db)
    .await
}
