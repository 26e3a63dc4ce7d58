//! The queue by itself: how fast work goes in, through and out.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use backroom_queue::{
    Ctx, Job, JobResult, Limits, NewJob, Verdict, Worker, WorkerConfig, enqueue, enqueue_many, limit, registry,
};
use chrono::{DateTime, Utc};
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Measurement, median, print, report, rounded};

const JOBS: usize = 200_000;
const BATCH: usize = 5_000;
const HISTORY: i64 = 10_000_000;
const ROUNDS: usize = 3;

struct Bench {
    /// Hears when each job began.
    began: mpsc::UnboundedSender<Instant>,
}

/// Does nothing.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Noop {
    n: u64,
}

impl Job for Noop {
    type App = Bench;
    const KIND: &'static str = "debug.noop";

    async fn run(self, ctx: Ctx<Bench>) -> JobResult {
        // Nobody listens while the queue is drained.
        let _ = ctx.app.began.send(Instant::now());
        Ok(Verdict::DONE)
    }
}

fn noops(count: usize) -> Vec<NewJob> {
    (0..count).map(|n| NewJob::of(&Noop { n: n as u64 }).tenant("bench")).collect()
}

async fn fill(pool: &PgPool, jobs: usize) -> anyhow::Result<()> {
    for _ in 0..jobs / BATCH {
        enqueue_many(pool, &noops(BATCH)).await?;
    }
    Ok(())
}

async fn empty(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query("truncate queue.jobs").execute(pool).await?;
    sqlx::query("delete from queue.finished_jobs where worker = 'bench'").execute(pool).await?;
    sqlx::query("vacuum analyze queue.finished_jobs").execute(pool).await?;
    Ok(())
}

/// Enqueue, one by one on one connection (a durable commit each) and in batches.
pub(super) async fn enqueue_rates(pool: &PgPool) -> anyhow::Result<()> {
    const ONES: usize = 2_000;
    let jobs = noops(ONES);
    let mut db = pool.acquire().await?;
    let began = Instant::now();
    for job in &jobs {
        enqueue(&mut *db, job).await?;
    }
    let rate = ONES as f64 / began.elapsed().as_secs_f64();
    report("queue.enqueue_one", rate, "jobs/s", "one connection, one durable commit per job");
    drop(db);

    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        empty(pool).await?;
        let began = Instant::now();
        fill(pool, JOBS).await?;
        rates.push(JOBS as f64 / began.elapsed().as_secs_f64());
    }
    report("queue.enqueue_bulk", median(&mut rates), "jobs/s", format!("one connection, batches of {BATCH}"));
    empty(pool).await?;
    Ok(())
}

/// Drain of no-op jobs, every outcome durable in the history.
pub(super) async fn drain(pool: &PgPool) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        rates.push(drain_once(pool).await?);
    }
    report("queue.drain", median(&mut rates), "jobs/s", note());
    Ok(())
}

/// The same on a queue with limits that never bind, the two kinds of round interleaved.
pub(super) async fn drain_with_limits(pool: &PgPool) -> anyhow::Result<()> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        limit(pool, "default", Limits::default()).await?;
        without.push(drain_once(pool).await?);
        limit(pool, "default", Limits { max_running: Some(100_000), max_running_per_tenant: Some(50_000) }).await?;
        with.push(drain_once(pool).await?);
    }
    limit(pool, "default", Limits::default()).await?;
    let (without, with) = (median(&mut without), median(&mut with));
    print(&Measurement {
        name: "queue.drain_with_limits".into(),
        value: rounded(with),
        unit: "jobs/s",
        ratio: Some(rounded(with / without)),
        note: format!("100,000 at once, 50,000 per tenant; {without:.0} jobs/s without limits; {}", note()),
    });
    Ok(())
}

/// The same with millions of finished jobs in the history, the two kinds of round interleaved.
pub(super) async fn drain_with_history(pool: &PgPool) -> anyhow::Result<()> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(drain_once(pool).await?);
    }
    make_history(pool).await?;
    for _ in 0..ROUNDS {
        with.push(drain_once(pool).await?);
    }
    let (without, with) = (median(&mut without), median(&mut with));
    print(&Measurement {
        name: "queue.drain_with_history".into(),
        value: rounded(with),
        unit: "jobs/s",
        ratio: Some(rounded(with / without)),
        note: format!("{HISTORY} finished jobs kept; {without:.0} jobs/s without them in the same run; {}", note()),
    });
    Ok(())
}

fn note() -> String {
    format!("{JOBS} jobs, concurrency 64, median of {ROUNDS}")
}

async fn drain_once(pool: &PgPool) -> anyhow::Result<f64> {
    empty(pool).await?;
    fill(pool, JOBS).await?;
    sqlx::query("vacuum analyze queue.jobs").execute(pool).await?;
    sqlx::query("checkpoint").execute(pool).await?;
    let (began, _) = mpsc::unbounded_channel();
    let start = Instant::now();
    let worker = Working::start(pool, began);
    while unfinished(pool).await? {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = start.elapsed();
    worker.stop().await?;
    let recorded: i64 =
        sqlx::query_scalar("select count(*) from queue.finished_jobs where worker = 'bench'").fetch_one(pool).await?;
    anyhow::ensure!(recorded == JOBS as i64, "{recorded} of {JOBS} jobs are in the history");
    Ok(JOBS as f64 / took.as_secs_f64())
}

async fn unfinished(pool: &PgPool) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from queue.jobs where queue = 'default' and state = 'available' and not held)
             or exists (select from queue.jobs where state = 'running')",
    )
    .fetch_one(pool)
    .await
}

/// From the commit of an enqueue to the first line of the handler, on an idle queue.
pub(super) async fn pickup(pool: &PgPool) -> anyhow::Result<()> {
    const SAMPLES: usize = 500;
    empty(pool).await?;
    let (began, mut begun) = mpsc::unbounded_channel();
    let worker = Working::start(pool, began);
    let mut latencies = Vec::with_capacity(SAMPLES);
    for n in 0..SAMPLES + 20 {
        // Idle means idle: longer than the fetcher's short rests, and not in step with them.
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(20..120))).await;
        enqueue(pool, &NewJob::of(&Noop { n: n as u64 }).tenant("bench")).await?;
        let committed = Instant::now();
        let begun = begun.recv().await.ok_or_else(|| anyhow::anyhow!("the worker ended"))?;
        if n >= 20 {
            latencies.push(begun.saturating_duration_since(committed).as_secs_f64() * 1000.0);
        }
    }
    worker.stop().await?;
    latencies.sort_by(f64::total_cmp);
    let note = format!("{SAMPLES} jobs enqueued one by one, 20 to 120 ms apart, commit to handler");
    report("queue.pickup_p50", latencies[SAMPLES / 2], "ms", note.as_str());
    report("queue.pickup_p99", latencies[SAMPLES * 99 / 100], "ms", note);
    Ok(())
}

struct Working {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Working {
    fn start(pool: &PgPool, began: mpsc::UnboundedSender<Instant>) -> Self {
        let config = WorkerConfig {
            name: "bench".into(),
            queues: BTreeMap::from([("default".to_owned(), 64)]),
            ..WorkerConfig::default()
        };
        let stop = CancellationToken::new();
        let worker = Worker::new(pool.clone(), Arc::new(registry![Noop]), Arc::new(Bench { began }), config);
        Self { task: tokio::spawn(worker.run(stop.clone())), stop }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await?
    }
}

/// Finished jobs of the last week, as the acker would have left them.
async fn make_history(pool: &PgPool) -> anyhow::Result<()> {
    eprintln!("Writing {HISTORY} finished jobs …");
    let now: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(pool).await?;
    for day in 1..=8 {
        let date = now.date_naive() + chrono::Days::new(day);
        let (from, to) = (date, date + chrono::Days::new(1));
        let partition = format!(
            "create table if not exists queue.finished_jobs_{} partition of queue.finished_jobs for values from ('{from}') to ('{to}')",
            from.format("%Y%m%d")
        );
        sqlx::query(sqlx::AssertSqlSafe(partition)).execute(pool).await?;
    }
    const CHUNK: i64 = 500_000;
    for _ in 0..HISTORY / CHUNK {
        sqlx::query(
            "insert into queue.finished_jobs (id, queue, kind, tenant, state, priority, run_at, attempt, max_attempts, args,
                    worker, attempted_at, errors, created_at, finished_at, expires_on)
             select gen_random_uuid(), 'default', 'debug.noop', 'tenant-' || n % 100, 'completed', 0, now(), 1, 10,
                    jsonb_build_object('n', n), 'history', now(), '[]', now(), now(), current_date + 1 + (n % 7)::int
             from generate_series(1, $1) n",
        )
        .bind(CHUNK)
        .execute(pool)
        .await?;
    }
    sqlx::query("vacuum analyze queue.finished_jobs").execute(pool).await?;
    Ok(())
}
