//! Taking jobs: one statement claims a batch, under one new lease.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

/// A job in this process's hands, with the fence that its outcome must show.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Claimed {
    pub id: Uuid,
    pub lease: Uuid,
    pub queue: String,
    pub kind: String,
    pub tenant: Option<String>,
    pub attempt: i32,
    pub max_attempts: i32,
    pub args: Value,
    pub trace: Option<String>,
    pub created_at: DateTime<Utc>,
    /// Somebody cancelled it while it was in other hands.
    pub cancel_requested: bool,
    /// Seconds between the time it was due and this claim.
    pub waited_s: f64,
    /// What the attempt before this one died of.
    pub last_error: Option<String>,
}

/// Claims up to `limit` jobs that are due, highest priority first, then oldest. A paused queue gives none.
///
/// A claim need not survive a crash of the database (the job is then available again, and the fence refuses our
/// outcome), so it alone does not wait for the disk. Enqueues and outcomes do.
pub(crate) async fn batch(
    db: impl PgExecutor<'_>,
    queue: &str,
    limit: usize,
    lease: Duration,
    worker: &str,
) -> sqlx::Result<Vec<Claimed>> {
    let mut jobs: Vec<Claimed> = sqlx::query_as(
        "with due as materialized (
             select ctid from queue.jobs
             where queue = $1 and state = 'available' and not held
               and not exists (select from queue.queues where name = $1 and paused_at is not null)
               and (select set_config('synchronous_commit', 'off', true)) = 'off'
             order by priority desc, run_at, id
             limit $2
             for update skip locked
         )
         update queue.jobs j
         set state = 'running', attempt = j.attempt + 1, lease = $3, lease_until = now() + make_interval(secs => $4),
             worker = $5, attempted_at = now()
         from due where j.ctid = due.ctid
         returning j.id, j.lease, j.queue, j.kind, j.tenant, j.attempt, j.max_attempts, j.args, j.trace, j.created_at,
                   j.cancel_requested_at is not null as cancel_requested,
                   extract(epoch from clock_timestamp() - j.run_at)::float8 as waited_s,
                   j.errors -> -1 ->> 'error' as last_error",
    )
    .bind(queue)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .bind(Uuid::now_v7())
    .bind(lease.as_secs_f64())
    .bind(worker)
    .fetch_all(db)
    .await?;
    // RETURNING keeps no order. Ids are UUIDv7: within a batch their order is close enough to the claim's.
    jobs.sort_unstable_by_key(|job| job.id);
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
             worker = $4, attempted_at = now()
         where j.id = $1 and j.state in ('available', 'scheduled', 'retryable') and not j.held
         returning j.id, j.lease, j.queue, j.kind, j.tenant, j.attempt, j.max_attempts, j.args, j.trace, j.created_at,
                   j.cancel_requested_at is not null as cancel_requested,
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
