//! Writing outcomes. Every statement is fenced: it touches a row only if it still runs under the lease and attempt
//! that the outcome belongs to, so a worker that lost its job can never overwrite what its successor did.
//!
//! Only running jobs have a lease (`jobs_lease_check`), so the fence need not name the state. It must not: statistics
//! from a time when nothing was running would tempt the planner to walk the index of running jobs once per outcome.

use std::{collections::HashSet, time::Duration};

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, PgPool};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::claim::Claimed;
use crate::{Backoff, NewJob, batch, enqueue_many};

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
    /// The attempt is not counted, though it failed: it never began.
    pub uncharged: bool,
    /// What else its end touches; most jobs' ends touch nothing.
    pub links: Option<Box<Links>>,
}

/// What is written in the transaction that records a job's end.
#[derive(Debug, Default)]
pub(crate) struct Links {
    tenant: Option<String>,
    batch_id: Option<Uuid>,
    /// Follow-ups of a completed job.
    then: Vec<NewJob>,
}

impl Ended {
    pub fn new(job: &Claimed, retention_days: u16, outcome: Outcome) -> Self {
        let links = job.batch_id.map(|_| Box::new(Links::of(job)));
        Self {
            id: job.id,
            lease: job.lease,
            attempt: job.attempt,
            retention_days,
            outcome,
            alone: None,
            uncharged: false,
            links,
        }
    }

    /// Gives the attempt back.
    pub fn uncharged(mut self) -> Self {
        self.uncharged = true;
        self
    }

    /// With follow-ups, which are enqueued if this outcome is recorded and only then.
    pub fn followed_by(mut self, then: Vec<NewJob>) -> Self {
        if !then.is_empty() {
            self.links.get_or_insert_default().then = then;
        }
        self
    }
}

impl Links {
    fn of(job: &Claimed) -> Self {
        Self { tenant: job.tenant.clone(), batch_id: job.batch_id, then: Vec::new() }
    }
}

/// Writes a batch. Answers the ids that were recorded; the others' leases were lost, or a cut connection hid that an
/// earlier try had succeeded. Running it twice is harmless.
pub(crate) async fn outcomes(pool: &PgPool, worker: &str, batch: &[Ended]) -> sqlx::Result<Vec<Uuid>> {
    let (last, again): (Vec<&Ended>, Vec<&Ended>) = batch.iter().partition(|ended| {
        matches!(ended.outcome, Outcome::Completed { .. } | Outcome::Cancelled { .. } | Outcome::Discarded { .. })
    });
    let linked: Vec<(Uuid, &Links)> = last.iter().filter_map(|e| Some((e.id, e.links.as_deref()?))).collect();
    match (last.is_empty(), again.is_empty()) {
        (false, true) if linked.is_empty() => finish(pool, worker, &last).await,
        (true, false) => reschedule(pool, worker, &again).await,
        _ => match in_one(pool, worker, (&last, &again), &linked).await {
            Err(error) if batch.len() == 1 && refuses(&error) => not_followed(pool, worker, &batch[0], error).await,
            recorded => recorded,
        },
    }
}

/// How often the transaction below gives way to others before its caller decides how to go on.
const WAYS_GIVEN: usize = 10;

/// One transaction for all of it: the ends, what follows from them, and what goes back to wait.
async fn in_one(
    pool: &PgPool,
    worker: &str,
    (last, again): (&[&Ended], &[&Ended]),
    linked: &[(Uuid, &Links)],
) -> sqlx::Result<Vec<Uuid>> {
    let mut tries = 0;
    loop {
        let mut tx = pool.begin().await?;
        let recorded = async {
            if !linked.is_empty() {
                lock_tenants(&mut tx, linked).await?;
            }
            let mut recorded = finish(&mut *tx, worker, last).await?;
            if !linked.is_empty() {
                follow(&mut tx, linked, &recorded.iter().copied().collect(), last).await?;
            }
            if !again.is_empty() {
                recorded.extend(reschedule(&mut *tx, worker, again).await?);
            }
            Ok(recorded)
        }
        .await;
        match recorded {
            Ok(recorded) => return tx.commit().await.map(|()| recorded),
            Err(error) if tries < WAYS_GIVEN && has_code(&error, &["55P03", "40P01"]) => {
                tx.rollback().await?;
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Follow-ups take locks (their tenants', unique keys, batches) in an order that no enqueuer knows, while ended jobs are
/// locked too. Tenants come first, as everywhere; for the rest this transaction is the one that gives way, well before
/// PostgreSQL looks for a deadlock (1 s) and ends somebody else's.
async fn lock_tenants(tx: &mut PgConnection, linked: &[(Uuid, &Links)]) -> sqlx::Result<()> {
    let tenants = linked.iter().flat_map(|(_, links)| {
        links.then.iter().map(|job| job.tenant.as_deref()).chain([links.tenant.as_deref()]).flatten()
    });
    sqlx::query(
        "select set_config('lock_timeout', '300ms', true), (
             select count(*) from (select distinct t from unnest($1::text[]) t order by t) tenants, queue.lock_tenant(t))",
    )
    .bind(tenants.collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Enqueues the follow-ups of the jobs whose success was recorded, then counts the members of batches: in this order, so
/// that a member's follow-up may join the batch before it is seen to have ended.
async fn follow(
    tx: &mut PgConnection,
    linked: &[(Uuid, &Links)],
    recorded: &HashSet<Uuid>,
    last: &[&Ended],
) -> sqlx::Result<()> {
    let ours = || linked.iter().filter(|(id, _)| recorded.contains(id));
    let then: Vec<NewJob> = ours().flat_map(|(_, links)| links.then.iter().cloned()).collect();
    enqueue_many(&mut *tx, &then).await?;
    let members = last.iter().filter(|ended| recorded.contains(&ended.id));
    let members = members.filter_map(|ended| Some((ended.links.as_ref()?.batch_id?, ended.outcome.as_str())));
    batch::members_ended(tx, members).await
}

/// The database refuses what follows a job, which has succeeded. To try the same again would end the same, so the attempt
/// counts as failed: the handler says anew what follows, and its attempts have an end.
async fn not_followed(pool: &PgPool, worker: &str, ended: &Ended, error: sqlx::Error) -> sqlx::Result<Vec<Uuid>> {
    if ended.links.as_ref().is_none_or(|links| links.then.is_empty()) {
        return Err(error);
    }
    tracing::error!(job.id = %ended.id, %error, "the follow-ups of a job were refused; it counts as failed");
    let wait = Backoff::default().after(ended.attempt.unsigned_abs());
    let failed = Ended {
        id: ended.id,
        lease: ended.lease,
        attempt: ended.attempt,
        retention_days: ended.retention_days,
        outcome: Outcome::Retryable { error: format!("its follow-ups were refused: {error}"), wait },
        alone: None,
        uncharged: false,
        links: None,
    };
    reschedule(pool, worker, &[&failed]).await
}

/// Whether the database refuses what it was given (SQLSTATE classes 22, data, and 23, constraints): waiting cures nothing.
pub(crate) fn refuses(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    error.as_database_error().and_then(|e| e.code()).is_some_and(|code| codes.contains(&&*code))
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
            Outcome::Retryable { error, wait } => ("retryable", *wait, !ended.uncharged, Some(error.as_str())),
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
                              'at', now(), 'event', case when o.error is null then 'snoozed' else 'failed' end, 'attempt', j.attempt,
                              'lease', j.lease, 'worker', j.worker, 'claimed_at', j.attempted_at, 'begun_at', j.begun_at)) end,
             run_at = case when o.next_state = 'available' then j.run_at else now() + make_interval(secs => o.wait) end,
             attempt = case when o.charge then j.attempt else j.attempt - 1 end,
             -- What is not charged may come for ever: its error is kept once.
             errors = case when o.error is null then j.errors
                           else case when not o.charge and j.errors -> -1 @> jsonb_build_object('attempt', j.attempt, 'error', o.error)
                                     then j.errors - -1 else j.errors end
                                || jsonb_build_object('attempt', j.attempt, 'at', now(), 'error', o.error, 'worker', $8::text)
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
