//! Keeps the house: renews our leases, rescues jobs of lost workers, makes due jobs available, makes and drops
//! partitions. Every statement is safe to run on any number of nodes at once.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, PgPool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Shared;

const PROMOTE_EVERY: Duration = Duration::from_millis(200);
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(600);
/// Any constant will do; it says "one node at a time" for housekeeping.
const HOUSEKEEPING_LOCK: i64 = 0x0062_6163_6b72_6f6f;

/// Renews leases until `stop`. Alone in its task, so that nothing slow can make a lease run out.
pub(crate) async fn renew<A>(shared: Arc<Shared<A>>, stop: CancellationToken) {
    let lease = shared.config.lease;
    let mut every = tokio::time::interval(lease / 6);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = stop.cancelled() => return,
        }
        let due = shared.in_hand.older_than(lease / 3);
        if due.is_empty() {
            continue;
        }
        let (ids, leases): (Vec<Uuid>, Vec<Uuid>) = due.iter().copied().unzip();
        let renewed: sqlx::Result<Vec<(Uuid, Uuid, bool)>> = sqlx::query_as(
            "update queue.jobs j set lease_until = now() + make_interval(secs => $3)
             from unnest($1::uuid[], $2::uuid[]) as o (id, lease)
             where j.id = o.id and j.lease = o.lease
             returning j.id, j.lease, j.cancel_requested_at is not null",
        )
        .bind(&ids)
        .bind(&leases)
        .bind(lease.as_secs_f64())
        .fetch_all(&shared.pool)
        .await;
        match renewed {
            Ok(renewed) => {
                for (id, lease, _) in renewed.iter().filter(|(.., cancel)| *cancel) {
                    shared.in_hand.cancel_lease(*id, *lease);
                }
                let kept: Vec<(Uuid, Uuid)> = renewed.into_iter().map(|(id, lease, _)| (id, lease)).collect();
                shared.in_hand.renewed(&kept);
                let kept: HashSet<(Uuid, Uuid)> = kept.into_iter().collect();
                for (id, lease) in due.into_iter().filter(|job| !kept.contains(job)) {
                    // Its outcome was recorded a moment ago, or another worker has the job: either way it is not ours.
                    shared.in_hand.cancel_lease(id, lease);
                    shared.in_hand.drop_all(std::iter::once((id, lease)));
                }
            }
            Err(error) => tracing::warn!(%error, leases = due.len(), "could not renew leases"),
        }
    }
}

/// Makes due jobs available and rescues lost ones until `stop`.
pub(crate) async fn promote_and_rescue<A>(shared: Arc<Shared<A>>, stop: CancellationToken) {
    let lease = shared.config.lease;
    let rescue_every = (lease / 6).clamp(Duration::from_millis(200), Duration::from_secs(5));
    let mut next_rescue = Instant::now();
    let mut pause = Duration::ZERO;
    loop {
        let mut rest = PROMOTE_EVERY;
        let result = async {
            while promote(&shared.pool, 1000).await? == 1000 {}
            if let Some(due_in) = next_due(&shared.pool).await? {
                rest = rest.min(due_in.max(Duration::from_millis(1)));
            }
            if Instant::now() >= next_rescue {
                let rescued = rescue(&shared.pool).await?;
                if rescued > 0 {
                    metrics::counter!("queue_rescued_total").increment(rescued);
                    tracing::warn!(jobs = rescued, "rescued jobs whose worker was lost");
                }
                next_rescue = Instant::now() + rescue_every;
            }
            Ok::<(), sqlx::Error>(())
        }
        .await;
        match result {
            Ok(()) => pause = Duration::ZERO,
            Err(error) => {
                pause = super::next_pause(pause);
                rest = pause;
                // While the database was away nobody could renew: let the living do so before taking their jobs.
                next_rescue = Instant::now() + lease / 2;
                tracing::warn!(%error, retry_in_ms = pause.as_millis(), "could not promote or rescue jobs");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Makes scheduled and retryable jobs whose time has come available, and wakes their queues.
pub(crate) async fn promote(pool: &PgPool, limit: i64) -> sqlx::Result<u64> {
    let promoted: i64 = sqlx::query_scalar(
        "with due as materialized (
             select id from queue.jobs where state in ('scheduled', 'retryable') and run_at <= now()
             order by run_at limit $1 for update skip locked
         ), promoted as (
             update queue.jobs j set state = 'available' from due where j.id = due.id returning j.queue
         ), woken as (
             select pg_notify('queue_wake', queue) from (select distinct queue from promoted) q
         )
         select (select count(*) from promoted) + 0 * (select count(*) from woken)",
    )
    .bind(limit)
    .fetch_one(pool)
    .await?;
    Ok(promoted.unsigned_abs())
}

/// How long until the next scheduled or retryable job is due; at most a day.
async fn next_due(pool: &PgPool) -> sqlx::Result<Option<Duration>> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from min(run_at) - clock_timestamp())::float8
         from queue.jobs where state in ('scheduled', 'retryable')",
    )
    .fetch_one(pool)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))))
}

/// Makes jobs whose lease ran out available again; the attempt stays counted, the error history says why. They go to
/// the end of the line: if they are what kills the workers, their neighbours get their turn first. Jobs without attempts
/// left come back once more, for a worker to bury them.
pub(crate) async fn rescue(pool: &PgPool) -> sqlx::Result<u64> {
    let rescued: i64 = sqlx::query_scalar(
        "with lost as materialized (
             select id from queue.jobs where state = 'running' and lease_until < now()
             order by lease_until limit 1000 for update skip locked
         ), rescued as (
             update queue.jobs j
             set state = 'available', run_at = now(), lease = null, lease_until = null,
                 errors = j.errors || jsonb_build_object('attempt', j.attempt, 'at', now(), 'worker', j.worker,
                                                         'error', 'the worker was lost: its lease ran out')
             from lost where j.id = lost.id and j.state = 'running' and j.lease_until < now()
             returning j.queue
         ), woken as (
             select pg_notify('queue_wake', queue) from (select distinct queue from rescued) q
         )
         select (select count(*) from rescued) + 0 * (select count(*) from woken)",
    )
    .fetch_one(pool)
    .await?;
    Ok(rescued.unsigned_abs())
}

/// Makes and drops partitions and forgets expired keys until `stop`, one node at a time.
pub(crate) async fn housekeeping<A: Send + Sync + 'static>(shared: Arc<Shared<A>>, stop: CancellationToken) {
    let retentions: BTreeSet<u16> = shared.registry.kinds().map(|kind| kind.retention_days).collect();
    loop {
        let rest = match keep_house(&shared.pool, &retentions).await {
            Ok(()) => HOUSEKEEPING_EVERY,
            Err(error) => {
                tracing::warn!(%error, "could not do the housekeeping; it will be tried again in a minute");
                Duration::from_secs(60)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// One round of housekeeping: tomorrow's partitions, yesterday's history, expired unique keys. One transaction, so that
/// lock and time-out end with it, also behind a transaction-mode pooler.
pub(crate) async fn keep_house(pool: &PgPool, retentions: &BTreeSet<u16>) -> sqlx::Result<()> {
    let mut tx = pool.begin().await?;
    let ours: bool =
        sqlx::query_scalar("select pg_try_advisory_xact_lock($1)").bind(HOUSEKEEPING_LOCK).fetch_one(&mut *tx).await?;
    if !ours {
        return Ok(());
    }
    // Partition changes lock the parent for a moment: give up rather than queue in front of the workers.
    sqlx::query("set local lock_timeout = '1s'").execute(&mut *tx).await?;
    for days in retentions.iter().flat_map(|&days| [i32::from(days), i32::from(days) + 1]) {
        sqlx::query("select queue.make_history_partition(current_date + $1)").bind(days).execute(&mut *tx).await?;
    }
    let expired: Vec<String> = sqlx::query_scalar(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'queue.finished_jobs'::regclass and c.relname ~ '^finished_jobs_[0-9]{8}$'
           and to_date(right(c.relname, 8), 'YYYYMMDD') < current_date",
    )
    .fetch_all(&mut *tx)
    .await?;
    for partition in &expired {
        sqlx::query(AssertSqlSafe(format!("drop table queue.{partition}"))).execute(&mut *tx).await?;
    }
    sqlx::query("delete from queue.finished_jobs_default where expires_on < current_date").execute(&mut *tx).await?;
    sqlx::query(
        "delete from queue.unique_keys where key in (
             select key from queue.unique_keys where expires_at < now() limit 10000 for update skip locked)",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    for partition in expired {
        tracing::info!(partition, "dropped a day of history");
    }
    Ok(())
}
