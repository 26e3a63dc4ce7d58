//! Keeps the house: renews our leases, rescues jobs of lost workers, makes due jobs available, makes and drops
//! partitions. Every statement is safe to run on any number of nodes at once.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Shared, patience::within};

const PROMOTE_EVERY: Duration = Duration::from_millis(200);
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(600);
/// Forgetting may take its time.
const HOUSEKEEPING_PATIENCE: Duration = Duration::from_secs(300);
/// Any constant will do; it says "one node at a time" for housekeeping.
const HOUSEKEEPING_LOCK: i64 = 0x0062_6163_6b72_6f6f;

/// Starts [`renew`] on a thread and a runtime of its own: handlers that block every thread of the worker's runtime keep their
/// leases for as long as they live. Answers a future that ends with it.
pub(crate) fn renew_apart<A: Send + Sync + 'static>(
    shared: Arc<Shared<A>>,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("could not make a runtime for the leases")?;
    let (ended, end) = oneshot::channel::<()>();
    let renew = move || {
        runtime.block_on(renew(shared, stop));
        drop(ended);
    };
    std::thread::Builder::new()
        .name("leases".into())
        .spawn(renew)
        .context("could not start a thread for the leases")?;
    Ok(async move {
        // It sends nothing: the end is that it is dropped.
        let _ = end.await;
    })
}

/// Renews leases until `stop`. Alone in its task and on a connection of its own, so that nothing slow can make a lease run
/// out: neither handlers that hold every connection of the pool, nor a line that has fallen silent.
pub(crate) async fn renew<A>(shared: Arc<Shared<A>>, stop: CancellationToken) {
    let lease = shared.config.lease;
    let options = shared.pool.connect_options();
    let mut line: Option<PgConnection> = None;
    let mut every = tokio::time::interval(lease / 6);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = stop.cancelled() => break,
        }
        let due = shared.in_hand.older_than(lease / 3);
        if due.is_empty() {
            continue;
        }
        let renewed = within((lease / 4).max(Duration::from_secs(1)), async {
            let db = match &mut line {
                Some(db) => db,
                None => line.insert(PgConnection::connect_with(&options).await?),
            };
            renew_once(db, &due, lease).await
        });
        let renewed = tokio::select! {
            renewed = renewed => renewed,
            () = stop.cancelled() => break,
        };
        match renewed {
            Ok(ours) => {
                for job in ours.iter().filter(|job| job.cancel) {
                    shared.in_hand.cancel_lease(job.id, job.lease);
                }
                let renewed: Vec<_> = ours.iter().filter(|job| job.renewed).map(|job| (job.id, job.lease)).collect();
                shared.in_hand.renewed(&renewed);
                let kept: HashSet<_> = ours.into_iter().map(|job| (job.id, job.lease)).collect();
                for (id, lease) in due.into_iter().filter(|job| !kept.contains(job)) {
                    // Its outcome was recorded a moment ago, or another worker has the job: either way it is not ours.
                    shared.in_hand.cancel_lease(id, lease);
                    shared.in_hand.drop_all(std::iter::once((id, lease)));
                }
            }
            Err(error) => {
                line = None;
                tracing::warn!(%error, leases = due.len(), "could not renew leases");
            }
        }
    }
    if let Some(db) = line {
        let _ = within(Duration::from_secs(1), db.close()).await;
    }
}

/// A lease that is still ours.
#[derive(sqlx::FromRow)]
struct Ours {
    id: Uuid,
    lease: Uuid,
    /// Somebody wants its job cancelled.
    cancel: bool,
    /// False: its row is locked, most likely by its own outcome.
    renewed: bool,
}

/// Renews leases; answers those that are still ours. It passes over rows that are locked, for who holds some locks and waits for
/// others may wait for somebody who does the same: the outcomes are written at the same time.
async fn renew_once(db: &mut PgConnection, due: &[(Uuid, Uuid)], lease: Duration) -> sqlx::Result<Vec<Ours>> {
    let (ids, leases): (Vec<Uuid>, Vec<Uuid>) = due.iter().copied().unzip();
    sqlx::query_as(
        "with ours as materialized (
             select j.id, j.lease, j.cancel_requested_at is not null as cancel
             from unnest($1::uuid[], $2::uuid[]) as o (id, lease) join queue.jobs j on j.id = o.id and j.lease = o.lease
         ), free as materialized (
             select j.ctid from queue.jobs j join ours on j.id = ours.id and j.lease = ours.lease for update of j skip locked
         ), renewed as (
             update queue.jobs j set lease_until = now() + make_interval(secs => $3)
             from free where j.ctid = free.ctid returning j.id
         )
         select id, lease, cancel, exists (select from renewed r where r.id = ours.id) as renewed from ours",
    )
    .bind(&ids)
    .bind(&leases)
    .bind(lease.as_secs_f64())
    .fetch_all(db)
    .await
}

/// A handler that has run for this long is marked in the database as begun. What ends sooner, most jobs, costs no write.
const MARK_AFTER: Duration = Duration::from_millis(50);

/// Marks what has begun until `stop`, so that a rescue can tell what a lost worker ran from what it only held.
pub(crate) async fn mark_begun<A>(shared: Arc<Shared<A>>, stop: CancellationToken) {
    let mut every = tokio::time::interval(MARK_AFTER);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = stop.cancelled() => return,
        }
        let begun = shared.in_hand.unmarked(MARK_AFTER);
        if !begun.is_empty()
            && let Err(error) = mark_free(&shared, &begun).await
        {
            tracing::warn!(%error, jobs = begun.len(), "could not mark jobs as begun");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Marks as begun the jobs (job, lease, seconds ago) whose leases are still ours and whose rows nobody holds.
async fn mark_free<A>(shared: &Shared<A>, begun: &[(Uuid, Uuid, f64)]) -> sqlx::Result<()> {
    let marked = within(shared.patience(), mark_rows(&shared.pool, begun)).await?;
    shared.in_hand.marked(marked.into_iter());
    Ok(())
}

/// Answers the jobs and leases that were marked. Losing a mark in a crash of the database does no harm, so it does not wait for
/// the disk. Nor does it wait for a locked row (see [`renew_once`]): its job is just ending, or is marked the next time.
pub(crate) async fn mark_rows(pool: &PgPool, begun: &[(Uuid, Uuid, f64)]) -> sqlx::Result<Vec<(Uuid, Uuid)>> {
    let (ids, leases): (Vec<Uuid>, Vec<Uuid>) = begun.iter().map(|(id, lease, _)| (*id, *lease)).unzip();
    sqlx::query_as(
        "with free as materialized (
             select j.ctid, o.ago from unnest($1::uuid[], $2::uuid[], $3::float8[]) as o (id, lease, ago)
             join queue.jobs j on j.id = o.id and j.lease = o.lease for update of j skip locked
         )
         update queue.jobs j set begun_at = now() - make_interval(secs => free.ago)
         from free where j.ctid = free.ctid and (select set_config('synchronous_commit', 'off', true)) = 'off'
         returning j.id, j.lease",
    )
    .bind(ids)
    .bind(leases)
    .bind(begun.iter().map(|(.., ago)| *ago).collect::<Vec<_>>())
    .fetch_all(pool)
    .await
}

/// Marks a job that begins now. False: its lease is no longer ours.
pub(crate) async fn mark<A>(shared: &Shared<A>, id: Uuid, lease: Uuid) -> sqlx::Result<bool> {
    let marking = sqlx::query(
        "update queue.jobs set begun_at = now()
         where id = $1 and lease = $2 and (select set_config('synchronous_commit', 'off', true)) = 'off'",
    )
    .bind(id)
    .bind(lease)
    .execute(&shared.pool);
    let marked = within(shared.patience(), marking).await?.rows_affected() > 0;
    shared.in_hand.marked(std::iter::once((id, lease)));
    Ok(marked)
}

/// Makes due jobs available and rescues lost ones until `stop`.
pub(crate) async fn promote_and_rescue<A>(shared: Arc<Shared<A>>, stop: CancellationToken) {
    let lease = shared.config.lease;
    let rescue_every = (lease / 6).clamp(Duration::from_millis(200), Duration::from_secs(5));
    let mut next_rescue = Instant::now();
    let mut pause = Duration::ZERO;
    loop {
        let mut rest = PROMOTE_EVERY;
        let patience = shared.patience();
        let result = async {
            while within(patience, promote(&shared.pool, 1000)).await? == 1000 {}
            if let Some(due_in) = within(patience, next_due(&shared.pool)).await? {
                rest = rest.min(due_in.max(Duration::from_millis(1)));
            }
            if Instant::now() >= next_rescue {
                let rescued = within(patience, rescue(&shared.pool)).await?;
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

/// Makes jobs whose lease ran out available again.
///
/// One that had begun keeps its attempt counted, its error history says why, and it goes to the end of the line: if it is
/// what kills the workers, its neighbours get their turn first. One without attempts left, or with [`super::attempt::CRASHES`],
/// comes back once more, for a worker to bury it. One without a mark was only waiting in the worker's buffer, most likely:
/// it gets its attempt and its place back, but counts as a suspect (`crashes`), so that its next attempt is marked before it
/// begins.
pub(crate) async fn rescue(pool: &PgPool) -> sqlx::Result<u64> {
    let rescued: i64 = sqlx::query_scalar(
        "with lost as materialized (
             select id from queue.jobs where state = 'running' and lease_until < now()
             order by lease_until limit 1000 for update skip locked
         ), rescued as (
             update queue.jobs j
             set state = 'available', lease = null, lease_until = null, begun_at = null,
                 run_at = case when j.begun_at is null then j.run_at else now() end,
                 attempt = case when j.begun_at is null then j.attempt - 1 else j.attempt end,
                 crashes = case when j.begun_at is null and j.crashes > 0 then j.crashes else j.crashes + 1 end,
                 errors = case when j.begun_at is null then j.errors
                               else j.errors || jsonb_build_object('attempt', j.attempt, 'at', now(), 'worker', j.worker,
                                                                   'error', 'the worker was lost: its lease ran out') end,
                 trail = queue.trail(j.trail, jsonb_build_object(
                     'at', now(), 'event', 'lost', 'attempt', j.attempt, 'lease', j.lease, 'worker', j.worker,
                     'claimed_at', j.attempted_at, 'begun_at', j.begun_at, 'lease_until', j.lease_until))
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

/// Dead rows that may gather in the hot table before somebody cleans up, and the living rows that a compaction will move at
/// most (some 30 ms of exclusive lock).
const COMPACT_DEAD: i64 = 5_000;
const COMPACT_LIVE: i64 = 5_000;
const COMPACT_EVERY: Duration = Duration::from_secs(5);

/// Keeps the hot table small under transactions that stay open for long, until `stop`. See `queue.compact`.
pub(crate) async fn compact<A>(shared: Arc<Shared<A>>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(COMPACT_EVERY) => {}
            () = stop.cancelled() => return,
        }
        match within(shared.patience(), compact_once(&shared.pool)).await {
            Ok(true) => tracing::info!("wrote the jobs table anew: its dead rows could not be vacuumed"),
            Ok(false) => {}
            // Somebody holds a lock on the table: next time.
            Err(error) if error.as_database_error().is_some_and(|e| e.code().as_deref() == Some("55P03")) => {}
            Err(error) => tracing::warn!(%error, "could not compact the jobs table"),
        }
    }
}

async fn compact_once(pool: &PgPool) -> sqlx::Result<bool> {
    let gathered: bool = sqlx::query_scalar(
        "select pg_stat_get_dead_tuples('queue.jobs'::regclass) >= $1
            and pg_stat_get_live_tuples('queue.jobs'::regclass) <= $2",
    )
    .bind(COMPACT_DEAD)
    .bind(COMPACT_LIVE)
    .fetch_one(pool)
    .await?;
    if !gathered {
        return Ok(false);
    }
    // What a vacuum can remove it removes without standing in anybody's way, and sooner than the server's own.
    pool.execute("vacuum (skip_locked, truncate off) queue.jobs").await?;
    let mut tx = pool.begin().await?;
    sqlx::query("set local lock_timeout = '100ms'").execute(&mut *tx).await?;
    let compacted: bool = sqlx::query_scalar("select queue.compact($1, $2)")
        .bind(COMPACT_DEAD)
        .bind(COMPACT_LIVE)
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(compacted)
}

/// Makes and drops partitions and forgets expired keys until `stop`, one node at a time.
pub(crate) async fn housekeeping<A: Send + Sync + 'static>(shared: Arc<Shared<A>>, stop: CancellationToken) {
    let retentions: BTreeSet<u16> = shared.registry.kinds().map(|kind| kind.retention_days).collect();
    loop {
        let rest = match within(HOUSEKEEPING_PATIENCE, keep_house(&shared.pool, &retentions)).await {
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
    // Forgetting many keys may take its time.
    sqlx::raw_sql("set local lock_timeout = '1s'; set local statement_timeout = '5min'").execute(&mut *tx).await?;
    let days: BTreeSet<i32> = retentions.iter().flat_map(|&days| [i32::from(days), i32::from(days) + 1]).collect();
    let missing: Vec<i32> = sqlx::query_scalar(
        "select days from unnest($1::int[]) as days
         where to_regclass('queue.finished_jobs_' || to_char(current_date + days, 'YYYYMMDD')) is null",
    )
    .bind(days.into_iter().collect::<Vec<_>>())
    .fetch_all(&mut *tx)
    .await?;
    if !missing.is_empty() {
        // Nobody may put a row of that day there between its emptying and the attaching, which would fail.
        sqlx::query("lock table queue.finished_jobs_default in access exclusive mode").execute(&mut *tx).await?;
    }
    for days in missing {
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
    crate::ledger::prune_effects(&mut *tx).await?;
    sqlx::query("select queue.prune_batches()").execute(&mut *tx).await?;
    tx.commit().await?;
    for partition in expired {
        tracing::info!(partition, "dropped a day of history");
    }
    Ok(())
}
