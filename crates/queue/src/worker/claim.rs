//! Taking jobs: one call of `queue.claim` takes a batch, under one new lease.

use std::time::{Duration, Instant};

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
    pub priority: i16,
    pub run_at: DateTime<Utc>,
}

impl Claimed {
    /// Whose turn it took: see the column `lane`.
    fn lane(&self) -> String {
        format!("{}\u{1f}{}", self.tenant.as_deref().unwrap_or_default(), self.rate_key.as_deref().unwrap_or_default())
    }
}

/// Where a queue's claims have come to.
#[derive(Default)]
pub(crate) struct Place {
    /// The lane that was served last: the others come first.
    lane: String,
    /// Priority, time and id of the last job.
    last: Option<(i16, DateTime<Utc>, Uuid)>,
    /// When a claim last looked at all of the line, not from the last job on.
    looked: Option<Instant>,
}

/// What comes to be due in front of the last job is seen this late at most, while batches are full. Looking costs a walk over
/// the index entries of all that was claimed since the last vacuum.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Claims up to `limit` jobs that are due: highest priority first, lanes in turn. A paused queue gives none. What decides is
/// in the SQL function `queue.claim`.
pub(crate) async fn batch(
    db: impl PgExecutor<'_>,
    (queue, place): (&str, &mut Place),
    limit: usize,
    lease: Duration,
    worker: &str,
) -> sqlx::Result<Vec<Claimed>> {
    let lease_id = Uuid::now_v7();
    let from = place.last.filter(|_| place.looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN));
    let mut jobs: Vec<Claimed> = sqlx::query_as("select * from queue.claim($1, $2, $3, $4, $5, $6, $7, $8, $9)")
        .bind(queue)
        .bind(i32::try_from(limit).unwrap_or(i32::MAX))
        .bind(lease_id)
        .bind(lease.as_secs_f64())
        .bind(worker)
        .bind(&place.lane)
        .bind(from.map(|(priority, ..)| priority))
        .bind(from.map(|(_, run_at, _)| run_at))
        .bind(from.map(|(.., id)| id))
        .fetch_all(db)
        .await?;
    for job in &mut jobs {
        job.lease = lease_id;
        queue.clone_into(&mut job.queue);
    }
    if from.is_none() || jobs.len() < limit {
        place.looked = Some(Instant::now());
    }
    if let Some(last) = jobs.last() {
        place.lane = last.lane();
        place.last = Some((last.priority, last.run_at, last.id));
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
                   j.errors -> -1 ->> 'error' as last_error, j.priority, j.run_at",
    )
    .bind(id)
    .bind(Uuid::now_v7())
    .bind(lease.as_secs_f64())
    .bind(worker)
    .fetch_optional(db)
    .await
}
