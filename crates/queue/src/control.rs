//! What people do to jobs and queues: cancel, retry, pause, hold.

use serde::{Deserialize, Serialize};
use sqlx::{Acquire, PgConnection, PgExecutor};
use uuid::Uuid;

use crate::find;

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

/// Cancels a job; with a tenant, only that tenant's. A waiting job ends at once; a running one is asked to stop.
pub async fn cancel(
    db: &mut PgConnection,
    id: Uuid,
    tenant: Option<&str>,
    reason: &str,
) -> sqlx::Result<CancelOutcome> {
    let cancelled: Option<Uuid> = sqlx::query_scalar(
        "with gone as (
             delete from queue.jobs
             where id = $1 and ($2::text is null or tenant = $2) and state in ('scheduled', 'available', 'retryable')
             returning *
         ), freed as (
             delete from queue.unique_keys u using gone
             where u.key = gone.unique_key and u.job_id = gone.id and u.expires_at is null
         )
         insert into queue.finished_jobs (id, queue, kind, tenant, state, priority, run_at, attempt, max_attempts, args,
                unique_key, worker, attempted_at, errors, trace, created_at, rate_key, batch_id, crashes, trail, reason,
                expires_on)
         select id, queue, kind, tenant, 'cancelled', priority, run_at, attempt, max_attempts, args,
                unique_key, worker, attempted_at, errors, trace, created_at, rate_key, batch_id, crashes, trail, $3,
                current_date + 7
         from gone returning id",
    )
    .bind(id)
    .bind(tenant)
    .bind(reason)
    .fetch_optional(&mut *db)
    .await?;
    if cancelled.is_some() {
        return Ok(CancelOutcome::Cancelled);
    }
    let requested: Option<Uuid> = sqlx::query_scalar(
        "with asked as (
             update queue.jobs set cancel_requested_at = coalesce(cancel_requested_at, now()),
                    trail = queue.trail(trail, jsonb_build_object('at', now(), 'event', 'cancel requested'))
             where id = $1 and ($2::text is null or tenant = $2) and state = 'running' returning id
         )
         select id from asked, pg_notify('queue_cancel', asked.id::text)",
    )
    .bind(id)
    .bind(tenant)
    .fetch_optional(&mut *db)
    .await?;
    if requested.is_some() {
        return Ok(CancelOutcome::Requested);
    }
    Ok(match find(db, id, tenant).await? {
        Some(_) => CancelOutcome::AlreadyFinished,
        None => CancelOutcome::NotFound,
    })
}

/// Makes a dead letter, a cancelled job or one waiting for its time available at once. A dead letter keeps its id and
/// its error history and gets a fresh set of attempts.
pub async fn retry(db: &mut PgConnection, id: Uuid, tenant: Option<&str>) -> sqlx::Result<RetryOutcome> {
    let hastened: Option<String> = sqlx::query_scalar(
        "with due as (
             update queue.jobs set state = 'available', run_at = now(), cancel_requested_at = null, crashes = 0,
                    trail = queue.trail(trail, jsonb_build_object('at', now(), 'event', 'hastened'))
             where id = $1 and ($2::text is null or tenant = $2) and state in ('retryable', 'scheduled') returning queue
         )
         select queue from due, pg_notify('queue_wake', due.queue)",
    )
    .bind(id)
    .bind(tenant)
    .fetch_optional(&mut *db)
    .await?;
    if hastened.is_some() {
        return Ok(RetryOutcome::Requeued);
    }
    let mut tx = db.begin().await?;
    let unique_key: Option<Option<String>> = sqlx::query_scalar(
        "select unique_key from queue.finished_jobs
         where id = $1 and ($2::text is null or tenant = $2) and state in ('discarded', 'cancelled') for update",
    )
    .bind(id)
    .bind(tenant)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(unique_key) = unique_key else {
        let found = find(&mut tx, id, tenant).await?;
        return Ok(if found.is_some() { RetryOutcome::NotRetryable } else { RetryOutcome::NotFound });
    };
    if let Some(key) = unique_key {
        let taken = sqlx::query(
            "insert into queue.unique_keys as u (key, job_id) values ($1, $2)
             on conflict (key) do update set job_id = excluded.job_id, expires_at = null
             where u.expires_at <= now() or u.job_id = excluded.job_id",
        )
        .bind(key)
        .bind(id)
        .execute(&mut *tx)
        .await?;
        if taken.rows_affected() == 0 {
            return Ok(RetryOutcome::Duplicate);
        }
    }
    lock_tenant_of(&mut tx, id).await?;
    sqlx::query(
        "with back as (delete from queue.finished_jobs where id = $1 returning *),
         again as (
             insert into queue.jobs (id, queue, kind, tenant, state, priority, run_at, attempt, max_attempts, args,
                    unique_key, errors, trace, created_at, rate_key, batch_id, trail, held)
             select id, queue, kind, tenant, 'available', priority, now(), 0, max_attempts, args,
                    unique_key, errors, trace, created_at, rate_key, batch_id,
                    queue.trail(trail, jsonb_build_object('at', now(), 'event', 'retried', 'was', state,
                                                          'finished_at', finished_at, 'reason', reason)),
                    exists (select from queue.held_tenants h where h.tenant = back.tenant)
             from back returning queue
         )
         select pg_notify('queue_wake', queue) from again",
    )
    .bind(id)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(RetryOutcome::Requeued)
}

/// See the lock in `queue.enqueue`: a tenant's hold waits for whoever is bringing in a job of that tenant.
async fn lock_tenant_of(db: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("select queue.lock_tenant(tenant) from queue.finished_jobs where id = $1 and tenant is not null")
        .bind(id)
        .execute(db)
        .await?;
    Ok(())
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

/// Sets a queue's limits.
pub async fn limit(db: impl PgExecutor<'_>, queue: &str, limits: Limits) -> sqlx::Result<()> {
    sqlx::query(
        "with limited as (
             insert into queue.queues as q (name, max_running, max_running_per_tenant) values ($1, $2, $3)
             on conflict (name) do update set max_running = excluded.max_running,
                    max_running_per_tenant = excluded.max_running_per_tenant
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
