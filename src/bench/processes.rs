//! What needs the program as its users run it: a process with its configuration, its pools and its memory.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use backroom_queue::{JobState, NewJob, enqueue, enqueue_many, find};
use serde_json::json;
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::{Database, Measurement, print, report, rounded};
use crate::{
    domain::{Clock, Slug},
    tenant::{self, NewOrganization},
    vault,
};

const IN_FLIGHT: usize = 1_000;
const INVOICES: i64 = 1_000_000;
const OVERDUE: i64 = 100_000;

/// A job as a client would put it on the default queue.
fn job(kind: &str, args: serde_json::Value, tenant: &str) -> NewJob {
    NewJob::named(kind, args).tenant(tenant)
}

/// `backroom worker` as a process of its own.
pub(super) struct WorkerProcess(Child);

impl WorkerProcess {
    fn start(database: &Database, queues: &[(&str, usize)]) -> anyhow::Result<Self> {
        Self::start_with(database, queues, &[])
    }

    /// With these settings besides.
    pub fn start_with(
        database: &Database,
        queues: &[(&str, usize)],
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let names: Vec<&str> = queues.iter().map(|(name, _)| *name).collect();
        command
            .args(["worker", "--queues", &names.join(",")])
            .env("DATABASE_URL", &database.url)
            .env("BACKROOM__VAULT__KEYS", vault::generate_key())
            .env("BACKROOM__VAULT__INDEX_KEY", vault::generate_index_key())
            .env("BACKROOM__JOBS__DEBUG_KINDS", "true")
            .env("BACKROOM__LOG__FILTER", "error")
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for (name, concurrency) in queues {
            command.env(format!("BACKROOM__WORKER__QUEUES__{}", name.to_uppercase()), concurrency.to_string());
        }
        command.envs(settings.iter().map(|(name, value)| (*name, value)));
        Ok(Self(command.spawn().context("could not start a worker process")?))
    }

    pub fn memory_mb(&mut self, line: &str) -> anyhow::Result<f64> {
        memory_mb(&mut self.0, line)
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.0.kill().await?;
        Ok(())
    }
}

/// A line of `/proc/<pid>/status` in MB: `VmRSS` is now, `VmHWM` the peak.
pub(super) fn memory_mb(process: &mut Child, line: &str) -> anyhow::Result<f64> {
    if let Some(status) = process.try_wait()? {
        bail!("the process ended early: {status}");
    }
    let pid = process.id().context("the process has no id")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("memory is read from /proc (Linux)")?;
    let kilobytes = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')?.split_whitespace().next());
    Ok(kilobytes.context("no such line in /proc status")?.parse::<f64>()? / 1024.0)
}

pub(super) async fn until(
    what: &str,
    limit: Duration,
    mut reached: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while !reached().await? {
        anyhow::ensure!(began.elapsed() < limit, "{what}: not reached in {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Resident memory of a worker that has nothing to do, and of one with a thousand jobs in flight.
pub(super) async fn memory(database: &Database) -> anyhow::Result<()> {
    let pool = &database.pool;
    sqlx::query("truncate queue.jobs").execute(pool).await?;
    let sleep = |ms: u64| job("debug.sleep", json!({ "ms": ms }), "bench");
    let mut worker = WorkerProcess::start(database, &[("default", IN_FLIGHT)])?;
    let first = enqueue(pool, &sleep(1)).await?.id;
    until("the worker's first job", Duration::from_secs(60), async || {
        Ok(find(&mut *pool.acquire().await?, first, None).await?.is_some_and(|job| job.state == JobState::Completed))
    })
    .await?;
    report("worker.rss_idle", worker.memory_mb("VmRSS")?, "MB", "backroom worker after its first job");

    let sleeping: Vec<NewJob> = (0..IN_FLIGHT).map(|_| sleep(20_000)).collect();
    enqueue_many(pool, &sleeping).await?;
    until("a thousand jobs in flight", Duration::from_secs(60), async || {
        let running: i64 =
            sqlx::query_scalar("select count(*) from queue.jobs where state = 'running'").fetch_one(pool).await?;
        Ok(running >= IN_FLIGHT as i64)
    })
    .await?;
    let mut highest: f64 = 0.0;
    for _ in 0..20 {
        highest = highest.max(worker.memory_mb("VmRSS")?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    report("worker.rss_busy", highest, "MB", format!("backroom worker with {IN_FLIGHT} jobs in flight"));
    worker.stop().await?;
    sqlx::query("truncate queue.jobs").execute(pool).await?;
    Ok(())
}

/// One organization's overdue sweep over a million invoices.
pub(super) async fn sweep(database: &Database) -> anyhow::Result<()> {
    let pool = &database.pool;
    let clock = Clock::system();
    let slug = Slug::parse("sweep").map_err(|e| anyhow::anyhow!("{e}"))?;
    let organization = tenant::create(pool, &clock, NewOrganization::named(slug, "Sweep")).await?;
    eprintln!("Writing {INVOICES} invoices …");
    let mut tx = tenant::begin(pool, &organization).await?;
    let company = Uuid::now_v7();
    sqlx::query(
        "insert into companies (id, name, email, org_number, language, created_at, updated_at)
         values ($1, 'Sweep AB', 'finance@example.com', '5561947986', 'sv', now(), now())",
    )
    .bind(company)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into invoices (id, number, company_id, status, currency, issue_date, due_date, payment_terms_days,
                subtotal, tax, total, created_at, updated_at, paid_on)
         select gen_random_uuid(), 'S' || n, $1, case when n <= $3 then 'unpaid' when n % 2 = 0 then 'paid' else 'unpaid' end,
                'SEK', current_date - 60, case when n <= $3 then current_date - 5 else current_date + 20 end, 30,
                100, 25, 125, now(), now(), case when n > $3 and n % 2 = 0 then current_date end
         from generate_series(1, $2) n",
    )
    .bind(company)
    .bind(INVOICES)
    .bind(OVERDUE)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    sqlx::query("vacuum analyze").execute(pool).await?;

    // On another queue than its own, so that the reminders it enqueues stay where they are.
    let job = job("billing.sweep_overdue", json!({}), organization.slug.as_str());
    let mut worker = WorkerProcess::start(database, &[("default", 10)])?;
    let began = Instant::now();
    let id = enqueue(pool, &job).await?.id;
    until("the sweep's end", Duration::from_secs(1800), async || {
        match find(&mut *pool.acquire().await?, id, None).await? {
            Some(job) if job.state.is_finished() || job.state == JobState::Retryable => {
                anyhow::ensure!(job.state == JobState::Completed, "the sweep ended {}: {:?}", job.state, job.errors);
                Ok(true)
            }
            _ => Ok(false),
        }
    })
    .await?;
    let took = began.elapsed().as_secs_f64();
    let peak = worker.memory_mb("VmHWM")?;
    worker.stop().await?;
    let reminders: i64 = sqlx::query_scalar("select count(*) from queue.jobs where kind = 'billing.remind_invoice'")
        .fetch_one(pool)
        .await?;
    anyhow::ensure!(reminders == OVERDUE, "{reminders} reminders are enqueued, not {OVERDUE}");
    let note = format!("{INVOICES} invoices, {OVERDUE} overdue and enqueued; worker's peak {peak:.0} MB");
    print(&Measurement { name: "billing.sweep".into(), value: rounded(took), unit: "s", ratio: None, note });
    report("billing.sweep_rss", peak, "MB", "peak resident memory of that worker");
    Ok(())
}
