//! What people do to jobs and queues: cancel, discard, retry, pause, limit, hold.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use sqlx::{Acquire, PgConnection, PgExecutor};
use uuid::Uuid;

use crate::{JobState, batch, find};

/// What a cancel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It was waiting and is now `cancelled`.
    Cancelled,
    /// It is running; its handler has been asked to stop.
    Requested,
    /// It had ended already.
    AlreadyFinished,
    NotFound,
}

/// What a retry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOutcome {
    /// It is `available` again, with its history and a fresh set of attempts.
    Requeued,
    /// It is not a `discarded` or `cancelled` job and not one waiting for its next attempt.
    NotRetryable,
    /// A job with the same unique key is unfinished.
    Duplicate,
    NotFound,
}

/// What a discard did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscardOutcome {
    /// It was waiting and is now a dead letter.
    Discarded,
    /// It is running: only its handler can give up now. Cancel it first.
    Running,
    /// It had ended already.
    AlreadyFinished,
    NotFound,
}

/// The states of a job that waits: it can be ended without a worker.
pub(crate) const WAITING: [JobState; 3] = [JobState::Scheduled, JobState::Available, JobState::Retryable];
/// The states of a job that a retry can help.
pub(crate) const RETRYABLE: [JobState; 4] =
    [JobState::Discarded, JobState::Cancelled, JobState::Retryable, JobState::Scheduled];

/// Cancels a job; with a tenant, only that tenant's. A waiting job ends at once; a running one is asked to stop.
pub async fn cancel(
    db: &mut PgConnection,
    id: Uuid,
    tenant: Option<&str>,
    reason: &str,
) -> sqlx::Result<CancelOutcome> {
    if !end_waiting(db, (&[id], tenant), &WAITING, JobState::Cancelled, reason).await?.is_empty() {
        return Ok(CancelOutcome::Cancelled);
    }
    if !ask_to_stop(db, &[id], tenant).await?.is_empty() {
        return Ok(CancelOutcome::Requested);
    }
    Ok(match find(db, id, tenant).await? {
        Some(_) => CancelOutcome::AlreadyFinished,
        None => CancelOutcome::NotFound,
    })
}

/// Makes a waiting job a dead letter; with a tenant, only that tenant's. Its kind's `discarded` hook is not called: who
/// gives the job up from outside sees to what follows.
pub async fn discard(
    db: &mut PgConnection,
    id: Uuid,
    tenant: Option<&str>,
    reason: &str,
) -> sqlx::Result<DiscardOutcome> {
    if !end_waiting(db, (&[id], tenant), &WAITING, JobState::Discarded, reason).await?.is_empty() {
        return Ok(DiscardOutcome::Discarded);
    }
    Ok(match find(db, id, tenant).await? {
        Some(job) if job.state.is_finished() => DiscardOutcome::AlreadyFinished,
        Some(_) => DiscardOutcome::Running,
        None => DiscardOutcome::NotFound,
    })
}

/// Ends those of the jobs that wait in one of `states`: into the history as `end`, their unique keys freed. Answers which.
/// Every job that ends without a worker ends here, so here its batch counts it.
pub(crate) async fn end_waiting(
    db: &mut PgConnection,
    (ids, tenant): (&[Uuid], Option<&str>),
    states: &[JobState],
    end: JobState,
    reason: &str,
) -> sqlx::Result<Vec<Uuid>> {
    let mut tx = db.begin().await?;
    // What follows a batch may be enqueued here: tenants are locked before jobs.
    sqlx::query(
        "select queue.lock_tenant(t) from (
             select distinct j.tenant as t from queue.jobs j
             where j.id = any($1) and j.batch_id is not null and j.tenant is not null order by 1) as tenants",
    )
    .bind(ids)
    .execute(&mut *tx)
    .await?;
    let ended: Vec<(Uuid, Option<Uuid>)> = sqlx::query_as(
        "with due as materialized (
             select id from queue.jobs
             where id = any($1) and ($2::text is null or tenant = $2) and state = any($3) and lease is null
             order by id for update
         ), gone as (
             delete from queue.jobs j using due where j.id = due.id returning j.*
         ), free as materialized (
             -- In the order in which an enqueue takes them: the two must not wait for each other.
             select u.key from queue.unique_keys u join gone on u.key = gone.unique_key and u.job_id = gone.id
             where u.expires_at is null order by u.key for update of u
         ), freed as (
             delete from queue.unique_keys u using free where u.key = free.key
         )
         insert into queue.finished_jobs (id, queue, kind, tenant, state, priority, run_at, attempt, max_attempts, args,
                unique_key, worker, attempted_at, errors, trace, created_at, rate_key, batch_id, crashes, trail, reason,
                expires_on)
         select id, queue, kind, tenant, $4, priority, run_at, attempt, max_attempts, args,
                unique_key, worker, attempted_at, errors, trace, created_at, rate_key, batch_id, crashes, trail, $5,
                current_date + 7
         from gone returning id, batch_id",
    )
    .bind(ids)
    .bind(tenant)
    .bind(names(states))
    .bind(end.as_str())
    .bind(reason)
    .fetch_all(&mut *tx)
    .await?;
    let members = ended.iter().filter_map(|(_, batch)| Some(((*batch)?, end.as_str())));
    batch::members_ended(&mut tx, members).await?;
    tx.commit().await?;
    Ok(ended.into_iter().map(|(id, _)| id).collect())
}

/// Asks the handlers of those of the jobs that are running to stop. Answers which.
pub(crate) async fn ask_to_stop(db: &mut PgConnection, ids: &[Uuid], tenant: Option<&str>) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "with running as materialized (
             select id from queue.jobs
             where id = any($1) and ($2::text is null or tenant = $2) and state = 'running' order by id for update
         ), asked as (
             update queue.jobs j set cancel_requested_at = coalesce(j.cancel_requested_at, now()),
                    trail = queue.trail(j.trail, jsonb_build_object('at', now(), 'event', 'cancel requested'))
             from running where j.id = running.id returning j.id, j.lease
         )
         select id from asked, pg_notify('queue_cancel', asked.id || ' ' || asked.lease)",
    )
    .bind(ids)
    .bind(tenant)
    .fetch_all(db)
    .await
}

/// Makes a dead letter, a cancelled job or one waiting for its time available at once. A dead letter keeps its id and
/// its error history and gets a fresh set of attempts.
pub async fn retry(db: &mut PgConnection, id: Uuid, tenant: Option<&str>) -> sqlx::Result<RetryOutcome> {
    let Retried { again, duplicates } = retry_many(db, &[id], tenant, &RETRYABLE).await?;
    if !again.is_empty() {
        return Ok(RetryOutcome::Requeued);
    }
    if !duplicates.is_empty() {
        return Ok(RetryOutcome::Duplicate);
    }
    Ok(match find(db, id, tenant).await? {
        Some(_) => RetryOutcome::NotRetryable,
        None => RetryOutcome::NotFound,
    })
}

/// What a retry of many did.
#[derive(Debug)]
pub(crate) struct Retried {
    pub again: Vec<Uuid>,
    /// A job with the same unique key is unfinished.
    pub duplicates: Vec<Uuid>,
}

/// Retries those of the jobs that are in one of `states` (of [`RETRYABLE`]). Of several with one unique key the oldest is
/// retried, and the others are duplicates. All or nothing.
pub(crate) async fn retry_many(
    db: &mut PgConnection,
    ids: &[Uuid],
    tenant: Option<&str>,
    states: &[JobState],
) -> sqlx::Result<Retried> {
    let states = names(states);
    // Tenants, jobs, keys, each in its order: so take them a hold and an enqueue, and nobody waits in a circle.
    let mut tx = db.begin().await?;
    // See the lock in `queue.enqueue`: a tenant's hold waits for whoever is bringing in a job of that tenant.
    sqlx::query(
        "select queue.lock_tenant(t) from (
             select distinct f.tenant as t from queue.finished_jobs f
             where f.id = any($1) and f.state = any($2) and f.tenant is not null order by 1) as tenants",
    )
    .bind(ids)
    .bind(&states)
    .execute(&mut *tx)
    .await?;
    let mut again: Vec<Uuid> = sqlx::query_scalar(
        "with due as materialized (
             select id from queue.jobs
             where id = any($1) and ($2::text is null or tenant = $2) and state = any($3)
               and state in ('retryable', 'scheduled')
             order by id for update
         ), hastened as (
             update queue.jobs j set state = 'available', run_at = now(), cancel_requested_at = null, crashes = 0,
                    trail = queue.trail(j.trail, jsonb_build_object('at', now(), 'event', 'hastened'))
             from due where j.id = due.id returning j.id, j.queue
         ), woken as (
             select pg_notify('queue_wake', queue) from (select distinct queue from hastened) q
         )
         select id from hastened where (select count(*) from woken) >= 0",
    )
    .bind(ids)
    .bind(tenant)
    .bind(&states)
    .fetch_all(&mut *tx)
    .await?;
    let ended: Vec<(Uuid, Option<String>, Option<Uuid>, String)> = sqlx::query_as(
        "select id, unique_key, batch_id, state from queue.finished_jobs
         where id = any($1) and ($2::text is null or tenant = $2) and state = any($3)
           and state in ('discarded', 'cancelled')
         order by id for update",
    )
    .bind(ids)
    .bind(tenant)
    .bind(&states)
    .fetch_all(&mut *tx)
    .await?;
    let keys: Vec<&str> = ended.iter().filter_map(|(_, key, ..)| key.as_deref()).collect();
    let mut taken = HashSet::<Uuid>::new();
    if !keys.is_empty() {
        let keyed: Vec<Uuid> = ended.iter().filter(|(_, key, ..)| key.is_some()).map(|(id, ..)| *id).collect();
        taken = sqlx::query_scalar(
            "insert into queue.unique_keys as u (key, job_id)
             select w.key, w.id from (
                 select distinct on (w.key) w.key, w.id from unnest($1::text[], $2::uuid[]) as w (key, id)
                 order by w.key, w.id) as w
             order by w.key
             on conflict (key) do update set job_id = excluded.job_id, expires_at = null
             where u.expires_at <= now() or u.job_id = excluded.job_id
             returning u.job_id",
        )
        .bind(keys)
        .bind(&keyed)
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .collect();
    }
    let (back, duplicates): (Vec<_>, Vec<_>) =
        ended.into_iter().partition(|(id, key, ..)| key.is_none() || taken.contains(id));
    let duplicates = duplicates.into_iter().map(|(id, ..)| id).collect();
    let (batches, states): (Vec<Option<Uuid>>, Vec<String>) =
        back.iter().map(|(.., batch, state)| (*batch, state.clone())).unzip();
    let back: Vec<Uuid> = back.into_iter().map(|(id, ..)| id).collect();
    if !back.is_empty() {
        // A member of a batch that is finished comes back without it.
        let open: Vec<Uuid> = sqlx::query_scalar("select queue.members_back($1, $2)")
            .bind(batches)
            .bind(states)
            .fetch_one(&mut *tx)
            .await?;
        sqlx::query(
            "with back as (delete from queue.finished_jobs where id = any($1) returning *),
             again as (
                 insert into queue.jobs (id, queue, kind, tenant, state, priority, run_at, attempt, max_attempts, args,
                        unique_key, errors, trace, created_at, rate_key, batch_id, trail, held)
                 select id, queue, kind, tenant, 'available', priority, now(), 0, max_attempts, args,
                        unique_key, errors, trace, created_at, rate_key,
                        (select b from unnest($2::uuid[]) b where b = batch_id),
                        queue.trail(trail, jsonb_strip_nulls(jsonb_build_object(
                            'at', now(), 'event', 'retried', 'was', state, 'finished_at', finished_at, 'reason', reason,
                            'attempt', attempt, 'lease', lease, 'worker', case when lease is not null then worker end,
                            'claimed_at', case when lease is not null then attempted_at end,
                            'begun_at', case when lease is not null then begun_at end))),
                        exists (select from queue.held_tenants h where h.tenant = back.tenant)
                 from back returning queue
             )
             select pg_notify('queue_wake', queue) from (select distinct queue from again) q",
        )
        .bind(&back)
        .bind(open)
        .execute(&mut *tx)
        .await?;
        again.extend(back);
    }
    tx.commit().await?;
    Ok(Retried { again, duplicates })
}

fn names(states: &[JobState]) -> Vec<&'static str> {
    states.iter().map(|state| state.as_str()).collect()
}

/// No node claims from the queue until [`resume`], and what a node has claimed but not begun goes back; running jobs go on.
/// False if it was paused already.
pub async fn pause(db: impl PgExecutor<'_>, queue: &str) -> sqlx::Result<bool> {
    let paused = sqlx::query(
        "with paused as (
             insert into queue.queues as q (name, paused_at) values ($1, now())
             on conflict (name) do update set paused_at = now() where q.paused_at is null returning name
         )
         select pg_notify('queue_rules', name) from paused",
    );
    Ok(paused.bind(queue).execute(db).await?.rows_affected() > 0)
}

/// False if it was not paused.
pub async fn resume(db: impl PgExecutor<'_>, queue: &str) -> sqlx::Result<bool> {
    let resumed = sqlx::query(
        "with resumed as (
             update queue.queues set paused_at = null where name = $1 and paused_at is not null returning name
         )
         select pg_notify('queue_rules', name), pg_notify('queue_wake', name) from resumed",
    );
    Ok(resumed.bind(queue).execute(db).await?.rows_affected() > 0)
}

/// How many of a queue's jobs run at once, over all nodes. What is claimed counts, begun or not; a limit that is lowered
/// takes effect as running jobs end. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, sqlx::FromRow)]
pub struct Limits {
    /// Of the queue.
    pub max_running: Option<i32>,
    /// Of each tenant within the queue.
    pub max_running_per_tenant: Option<i32>,
}

/// A queue's limits.
pub async fn limits(db: impl PgExecutor<'_>, queue: &str) -> sqlx::Result<Limits> {
    let limits = sqlx::query_as("select max_running, max_running_per_tenant from queue.queues where name = $1");
    Ok(limits.bind(queue).fetch_optional(db).await?.unwrap_or_default())
}

/// Sets a queue's limits. One that is not positive is an error of the database (`check_violation`).
pub async fn limit(db: impl PgExecutor<'_>, queue: &str, limits: Limits) -> sqlx::Result<()> {
    sqlx::query(
        "with limited as (
             insert into queue.queues as q (name, max_running, max_running_per_tenant) values ($1, $2, $3)
             on conflict (name) do update set max_running = excluded.max_running,
                    max_running_per_tenant = excluded.max_running_per_tenant, running = null, counted_at = null
             returning name
         )
         select pg_notify('queue_rules', name), pg_notify('queue_wake', name) from limited",
    )
    .bind(queue)
    .bind(limits.max_running)
    .bind(limits.max_running_per_tenant)
    .execute(db)
    .await?;
    Ok(())
}

/// Holds a tenant's jobs: what waits, waits on; what is enqueued, waits too; what runs, ends. Answers how many wait.
/// Run it in the transaction of the change that calls for it.
pub async fn hold_tenant(db: &mut PgConnection, tenant: &str) -> sqlx::Result<u64> {
    lock_tenant_exclusively(db, tenant).await?;
    sqlx::query(
        "with held as (insert into queue.held_tenants (tenant) values ($1) on conflict do nothing returning tenant)
         select pg_notify('queue_rules', '') from held",
    )
    .bind(tenant)
    .execute(&mut *db)
    .await?;
    let held = sqlx::query(
        "with waiting as materialized (
             select id from queue.jobs where tenant = $1 and not held order by id for update
         )
         update queue.jobs j set held = true from waiting where j.id = waiting.id",
    );
    Ok(held.bind(tenant).execute(db).await?.rows_affected())
}

/// Lets a held tenant's jobs run again. Answers how many.
pub async fn release_tenant(db: &mut PgConnection, tenant: &str) -> sqlx::Result<u64> {
    lock_tenant_exclusively(db, tenant).await?;
    sqlx::query("delete from queue.held_tenants where tenant = $1").bind(tenant).execute(&mut *db).await?;
    let released: Vec<String> = sqlx::query_scalar(
        "with waiting as materialized (select id from queue.jobs where tenant = $1 and held order by id for update)
         update queue.jobs j set held = false from waiting where j.id = waiting.id returning j.queue",
    )
    .bind(tenant)
    .fetch_all(&mut *db)
    .await?;
    sqlx::query("select pg_notify('queue_wake', queue) from (select distinct unnest($1::text[]) as queue) q")
        .bind(&released)
        .execute(db)
        .await?;
    Ok(released.len() as u64)
}

async fn lock_tenant_exclusively(db: &mut PgConnection, tenant: &str) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtext('queue.tenant'), hashtext($1))")
        .bind(tenant)
        .execute(db)
        .await?;
    Ok(())
}
