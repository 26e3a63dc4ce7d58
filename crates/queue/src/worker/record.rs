//! Writing outcomes. Every statement is fenced: it touches a row only if it still runs under the lease and attempt
//! that the outcome belongs to, so a worker that lost its job can never overwrite what its successor did.
//!
//! Only running jobs have a lease (`jobs_lease_check`), so the fence need not name the state. It must not: statistics
//! from a time when nothing was running would tempt the planner to walk the index of running jobs once per outcome.

use std::time::Duration;

use serde_json::Value;
use sqlx::{PgExecutor, PgPool};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::claim::Claimed;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Completed {
        result: Option<Value>,
    },
    Snoozed {
        wait: Duration,
    },
    Retryable {
        error: String,
        wait: Duration,
    },
    Cancelled {
        reason: String,
    },
    /// A dead letter. `error` is set where this attempt failed, and is absent where the handler gave up on purpose.
    Discarded {
        reason: String,
        error: Option<String>,
    },
    /// Handed back without using the attempt: the worker is shutting down.
    Released,
}

impl Outcome {
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Completed { .. } => "completed",
            Outcome::Snoozed { .. } => "snoozed",
            Outcome::Retryable { .. } => "retryable",
            Outcome::Cancelled { .. } => "cancelled",
            Outcome::Discarded { .. } => "discarded",
            Outcome::Released => "released",
        }
    }
}

/// An outcome on its way to the database.
#[derive(Debug)]
pub(crate) struct Ended {
    pub id: Uuid,
    pub lease: Uuid,
    pub attempt: i32,
    pub retention_days: u16,
    pub outcome: Outcome,
    /// See `Shared::alone`: held until the outcome is recorded, for a job that ended well just before the next one killed the
    /// worker must not look as if it had been the killer.
    #[expect(dead_code, reason = "held, not read")]
    pub alone: Option<OwnedSemaphorePermit>,
}

impl Ended {
    pub fn new(job: &Claimed, retention_days: u16, outcome: Outcome) -> Self {
        Self { id: job.id, lease: job.lease, attempt: job.attempt, retention_days, outcome, alone: None }
    }
}

/// Writes a batch. Answers the ids that were recorded; the others' leases were lost, or a cut connection hid that an
/// earlier try had succeeded. Running it twice is harmless.
pub(crate) async fn outcomes(pool: &PgPool, worker: &str, batch: &[Ended]) -> sqlx::Result<Vec<Uuid>> {
    let (last, again): (Vec<&Ended>, Vec<&Ended>) = batch.iter().partition(|ended| {
        matches!(ended.outcome, Outcome::Completed { .. } | Outcome::Cancelled { .. } | Outcome::Discarded { .. })
    });
    match (last.is_empty(), again.is_empty()) {
        (false, true) => finish(pool, worker, &last).await,
        (true, false) => reschedule(pool, worker, &again).await,
        _ => {
            let mut tx = pool.begin().await?;
            let mut recorded = finish(&mut *tx, worker, &last).await?;
            recorded.extend(reschedule(&mut *tx, worker, &again).await?);
            tx.commit().await?;
            Ok(recorded)
        }
    }
}

/// Moves finished jobs out of the hot table and frees their unique keys, in one statement.
async fn finish(db: impl PgExecutor<'_>, worker: &str, batch: &[&Ended]) -> sqlx::Result<Vec<Uuid>> {
    let mut columns = Columns::default();
    let (mut states, mut results, mut reasons, mut retention) = (vec![], vec![], vec![], vec![]);
    for ended in batch {
        let (state, result, reason, error) = match &ended.outcome {
            Outcome::Completed { result } => ("completed", result.clone().map(storable_json), None, None),
            Outcome::Cancelled { reason } => ("cancelled", None, Some(storable(reason)), None),
            Outcome::Discarded { reason, error } => ("discarded", None, Some(storable(reason)), error.as_deref()),
            other => unreachable!("{} is not final", other.as_str()),
        };
        columns.push(ended, error);
        states.push(state);
        results.push(result);
        reasons.push(reason);
        retention.push(i32::from(ended.retention_days));
    }
    sqlx::query_scalar(
        "with outcome as (
             select * from unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::jsonb[], $7::text[], $8::int[])
                 as o (id, lease, attempt, error, final_state, result, reason, retention_days)
         ), gone as (
             delete from queue.jobs j using outcome o
             where j.id = o.id and j.lease = o.lease and j.attempt = o.attempt
             returning j.id, j.queue, j.kind, j.tenant, j.priority, j.run_at, j.attempt, j.max_attempts, j.args, j.unique_key,
                       j.worker, j.attempted_at, j.trace, j.created_at, j.rate_key, j.batch_id, j.begun_at, j.crashes, j.trail,
                       j.lease, o.final_state, o.result, o.reason, o.retention_days,
                       case when o.error is null then j.errors
                            else j.errors || jsonb_build_object('attempt', j.attempt, 'at', now(), 'error', o.error, 'worker', $9::text)
                       end as errors
         ), free as materialized (
             -- In the order in which an enqueue takes them: the two must not wait for each other.
             select u.key from queue.unique_keys u join gone on u.key = gone.unique_key and u.job_id = gone.id
             where u.expires_at is null order by u.key for update of u
         ), freed as (
             delete from queue.unique_keys u using free where u.key = free.key
         )
         insert into queue.finished_jobs (id, queue, kind, tenant, state, priority, run_at, attempt, max_attempts, args,
                unique_key, worker, attempted_at, errors, trace, created_at, rate_key, batch_id, begun_at, crashes, trail, lease,
                result, reason, expires_on)
         select id, queue, kind, tenant, final_state, priority, run_at, attempt, max_attempts, args,
                unique_key, worker, attempted_at, errors, trace, created_at, rate_key, batch_id, begun_at, crashes, trail, lease,
                result, reason, current_date + retention_days
         from gone
         returning id",
    )
    .bind(columns.ids)
    .bind(columns.leases)
    .bind(columns.attempts)
    .bind(columns.errors)
    .bind(states)
    .bind(results)
    .bind(reasons)
    .bind(retention)
    .bind(worker)
    .fetch_all(db)
    .await
}

/// A wait beyond this is a mistake, and PostgreSQL's calendar has an end.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Puts jobs back to wait: after a failure, a snooze, or a hand-back.
async fn reschedule(db: impl PgExecutor<'_>, worker: &str, batch: &[&Ended]) -> sqlx::Result<Vec<Uuid>> {
    let mut columns = Columns::default();
    let (mut states, mut waits, mut charges) = (vec![], vec![], vec![]);
    for ended in batch {
        let (state, wait, charge, error) = match &ended.outcome {
            Outcome::Retryable { error, wait } => ("retryable", *wait, true, Some(error.as_str())),
            Outcome::Snoozed { wait } => ("scheduled", *wait, false, None),
            Outcome::Released => ("available", Duration::ZERO, false, None),
            other => unreachable!("{} is final", other.as_str()),
        };
        columns.push(ended, error);
        states.push(state);
        waits.push(wait.min(LONGEST_WAIT).as_secs_f64());
        charges.push(charge);
    }
    sqlx::query_scalar(
        "update queue.jobs j
         set state = o.next_state, lease = null, lease_until = null, begun_at = null,
             -- A hand-back is no event of the job's life: nothing had begun.
             trail = case when o.next_state = 'available' then j.trail
                          else queue.trail(j.trail, jsonb_build_object(
                              'at', now(), 'event', case when o.charge then 'failed' else 'snoozed' end, 'attempt', j.attempt,
                              'lease', j.lease, 'worker', j.worker, 'claimed_at', j.attempted_at, 'begun_at', j.begun_at)) end,
             run_at = case when o.next_state = 'available' then j.run_at else now() + make_interval(secs => o.wait) end,
             attempt = case when o.charge then j.attempt else j.attempt - 1 end,
             errors = case when o.error is null then j.errors
                           else j.errors || jsonb_build_object('attempt', j.attempt, 'at', now(), 'error', o.error, 'worker', $8::text)
                      end
         from unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::float8[], $7::bool[])
              as o (id, lease, attempt, error, next_state, wait, charge)
         where j.id = o.id and j.lease = o.lease and j.attempt = o.attempt
         returning j.id",
    )
    .bind(columns.ids)
    .bind(columns.leases)
    .bind(columns.attempts)
    .bind(columns.errors)
    .bind(states)
    .bind(waits)
    .bind(charges)
    .bind(worker)
    .fetch_all(db)
    .await
}

/// What both statements bind: the fence and the attempt's error.
#[derive(Default)]
struct Columns {
    ids: Vec<Uuid>,
    leases: Vec<Uuid>,
    attempts: Vec<i32>,
    errors: Vec<Option<String>>,
}

impl Columns {
    fn push(&mut self, ended: &Ended, error: Option<&str>) {
        self.ids.push(ended.id);
        self.leases.push(ended.lease);
        self.attempts.push(ended.attempt);
        self.errors.push(error.map(storable));
    }
}

/// A result as PostgreSQL can keep it: JSON may say NUL, `jsonb` may not.
pub(crate) fn storable_json(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(items) => items.into_iter().map(storable_json).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key.replace('\0', "\u{fffd}"), storable_json(value))).collect()
        }
        other => other,
    }
}

/// An error text as PostgreSQL can keep it: no NUL, at most 8 KiB.
pub(crate) fn storable(text: &str) -> String {
    const LIMIT: usize = 8 * 1024;
    let mut text = text.replace('\0', "\u{fffd}");
    if text.len() > LIMIT {
        text.truncate(text.floor_char_boundary(LIMIT));
        text.push('…');
    }
    text
}
