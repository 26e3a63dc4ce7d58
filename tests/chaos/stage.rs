//! Where a scenario plays: a database, worker processes on it, work that is offered at a steady rate, and the books in
//! which every effect is counted.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use backroom::tenant::{self, testing::TestDatabase};
use backroom_queue::{NewJob, enqueue_many};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Options,
    report::Outcome,
    support::{Process, Program, free_address, lines, server::Server},
};

/// In every scenario.
pub const LEASE: Duration = Duration::from_secs(5);
/// How long we wait for what should be over after ten seconds before we call it lost.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often work is offered.
const BEAT: Duration = Duration::from_millis(50);

/// To be declared before the workers, so that they are dropped before the database is.
pub struct Stage {
    pub pool: PgPool,
    pub url: String,
    program: Program,
    books: Arc<Books>,
    /// Where the stage has a server of its own.
    pub server: Option<Server>,
    _database: Option<TestDatabase>,
    folder: tempfile::TempDir,
}

/// The jobs that were offered: the n-th appends the line n.
struct Books {
    lines: PathBuf,
    offered: Mutex<Vec<Uuid>>,
}

/// A job that appends its line after so many milliseconds.
fn append(lines: &Path, line: usize, queue: &str, after_ms: u64) -> NewJob {
    let args = json!({ "path": lines, "line": line.to_string(), "after_ms": after_ms });
    job("debug.append", queue, args)
}

pub fn job(kind: &str, queue: &str, args: Value) -> NewJob {
    NewJob { queue: queue.into(), max_attempts: 20, ..NewJob::named(kind, args) }
}

impl Stage {
    /// On a database of its own, on the server that everybody uses.
    pub async fn new(options: &Options) -> anyhow::Result<Self> {
        let database = TestDatabase::new().await;
        let pool = database.pool.clone();
        Self::at(options, database.url(), pool, None, Some(database))
    }

    /// On a server of its own, which may be restarted. `None`: there are no server binaries on this machine.
    pub async fn on_own_server(options: &Options) -> anyhow::Result<Option<Self>> {
        let Some(server) = Server::start().await else { return Ok(None) };
        let pool = PgPoolOptions::new().max_connections(8).connect(&server.url).await?;
        tenant::migrate_platform(&pool).await?;
        Self::at(options, server.url.clone(), pool, Some(server), None).map(Some)
    }

    fn at(
        options: &Options,
        url: String,
        pool: PgPool,
        server: Option<Server>,
        _database: Option<TestDatabase>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let books = Arc::new(Books { lines: folder.path().join("lines"), offered: Mutex::default() });
        let mut program = Program::on(&url).with("BACKROOM__WORKER__LEASE_S", LEASE.as_secs());
        program = match &options.log {
            Some(log) => program.with("BACKROOM__LOG__FILTER", "warn").logging_to(log),
            None => program.logging_to(&folder.path().join("log")),
        };
        Ok(Self { pool, url, program, books, server, _database, folder })
    }

    /// A worker of the queues (name and jobs at once) and no others, up and running.
    pub async fn worker(&self, queues: &[(&str, usize)]) -> anyhow::Result<Worker> {
        self.worker_with(queues, |program| program).await
    }

    pub async fn worker_with(
        &self,
        queues: &[(&str, usize)],
        settings: impl FnOnce(Program) -> Program,
    ) -> anyhow::Result<Worker> {
        let metrics = free_address();
        let mut program = self.program.clone().with("BACKROOM__WORKER__METRICS_LISTEN", metrics);
        for (name, concurrency) in queues {
            program = program.with(&format!("BACKROOM__WORKER__QUEUES__{}", name.to_uppercase()), concurrency);
        }
        let names: Vec<&str> = queues.iter().map(|(name, _)| *name).collect();
        let process = settings(program).start(&["worker", "--queues", &names.join(",")]);
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").context("the host's name")?;
        let worker = Worker { name: format!("{}-{}", host.trim(), process.id()), process, metrics };
        let up = eventually(PATIENCE, async || worker.get("/health/live").await.is_some()).await;
        ensure!(up, "a worker does not start");
        Ok(worker)
    }

    /// Three workers of the default queue, ten jobs at once each.
    pub async fn three_workers(&self) -> anyhow::Result<Vec<Worker>> {
        let default = [("default", 10)];
        let started = tokio::try_join!(self.worker(&default), self.worker(&default), self.worker(&default));
        started.map(|(a, b, c)| vec![a, b, c])
    }

    /// A scheduler with these schedules.
    pub fn scheduler(&self, file: &Path, settings: impl FnOnce(Program) -> Program) -> Process {
        settings(self.program.clone().with("BACKROOM__SCHEDULER__FILE", file.display())).start(&["scheduler"])
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Offers so many jobs a second until it is told to stop, each of which works for `after_ms` and appends its line.
    /// While the database is away the offers pile up, and are made good.
    pub fn offer(&self, per_second: usize, after_ms: u64) -> Load {
        let (pool, books, stop) = (self.pool.clone(), self.books.clone(), CancellationToken::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut beat = tokio::time::interval(BEAT);
            beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let (began, mut made) = (Instant::now(), 0);
            while !stopped.is_cancelled() {
                beat.tick().await;
                let due = (began.elapsed().as_secs_f64() * per_second as f64) as usize;
                books.offer(&pool, "default", due - made, after_ms).await;
                made = due;
            }
        });
        Load { stop, task }
    }

    /// How many jobs were offered.
    pub fn offered(&self) -> usize {
        self.books.offered().len()
    }

    /// How many effects are there.
    pub fn effects(&self) -> usize {
        lines(&self.books.lines).len()
    }

    /// Effects per second, over this long.
    pub async fn pace(&self, over: Duration) -> f64 {
        let (began, before) = (Instant::now(), self.effects());
        tokio::time::sleep(over).await;
        (self.effects() - before) as f64 / began.elapsed().as_secs_f64()
    }

    /// Waits until the work flows as it is offered; answers the effects per second.
    pub async fn in_full_swing(&self) -> anyhow::Result<f64> {
        let flows = async || self.effects() >= 100 && self.offered().saturating_sub(self.effects()) < 50;
        ensure!(eventually(PATIENCE, flows).await, "the work does not get going");
        Ok(self.pace(Duration::from_secs(2)).await)
    }

    /// To be called at the end of a fault: how long until a job that is enqueued now has run and nothing that was offered
    /// before is unfinished. Gives up after a while and answers how long that was.
    pub async fn recovery(&self, queue: &str) -> Duration {
        let began = Instant::now();
        let probe = self.books.offer(&self.pool, queue, 1, 0).await;
        let mut until: Option<DateTime<Utc>> = None;
        eventually(PATIENCE, async || {
            if until.is_none() {
                until = sqlx::query_scalar("select clock_timestamp()").fetch_one(&self.pool).await.ok();
            }
            let waits = "select exists (select from queue.jobs where kind = 'debug.append' and created_at <= $1)";
            let waits: Result<bool, _> = sqlx::query_scalar(waits).bind(until).fetch_one(&self.pool).await;
            until.is_some() && waits.is_ok_and(|waits| !waits)
        })
        .await;
        let probe = probe.to_string();
        eventually(PATIENCE.saturating_sub(began.elapsed()), async || {
            lines(&self.books.lines).iter().rev().any(|line| *line == probe)
        })
        .await;
        began.elapsed()
    }

    /// The jobs whose end is recorded now.
    pub async fn recorded(&self) -> anyhow::Result<HashSet<Uuid>> {
        let ids: Vec<Uuid> = sqlx::query_scalar("select id from queue.finished_jobs").fetch_all(&self.pool).await?;
        Ok(ids.into_iter().collect())
    }

    /// Waits until all work is done (or as long as anybody would), and closes the books.
    pub async fn close_books(&self, outcome: &mut Outcome, excuses: &Excuses) -> anyhow::Result<()> {
        eventually(PATIENCE, async || {
            let left = "select count(*) from queue.jobs where kind = 'debug.append'";
            let left: Result<i64, _> = sqlx::query_scalar(left).fetch_one(&self.pool).await;
            left.is_ok_and(|left| left == 0)
        })
        .await;
        let mut written: HashMap<String, usize> = HashMap::new();
        for line in lines(&self.books.lines) {
            *written.entry(line).or_default() += 1;
        }
        let rows: Vec<(Uuid, String, Value)> = sqlx::query_as(
            "select id, state, coalesce(trail, '[]') from queue.finished_jobs where kind = 'debug.append'",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut history: HashMap<Uuid, Vec<(String, Value)>> = HashMap::new();
        for (id, state, trail) in rows {
            history.entry(id).or_default().push((state, trail));
        }
        let offered = self.books.offered();
        for (line, id) in offered.iter().enumerate() {
            let effects = written.remove(&line.to_string()).unwrap_or(0);
            match history.remove(id).unwrap_or_default().as_slice() {
                [(state, trail)] if state == "completed" && effects > 0 => {
                    let excused = (effects - 1).min(excuses.of(*id, trail));
                    outcome.again += excused;
                    outcome.twice += effects - 1 - excused;
                }
                ends => {
                    outcome.lost += 1;
                    if outcome.lost == 1 {
                        outcome.wrong.push(format!("job {id} had {effects} effects and the ends {ends:?}"));
                    }
                }
            }
        }
        outcome.jobs += offered.len();
        outcome.demand(written.is_empty(), || format!("there are effects of jobs that nobody offered: {written:?}"));
        outcome.demand(history.is_empty(), || format!("there are ends of jobs that nobody offered: {history:?}"));
        Ok(())
    }
}

impl Books {
    fn offered(&self) -> Vec<Uuid> {
        self.offered.lock().expect("nobody panics with it").clone()
    }

    /// Enqueues jobs, however long it takes; answers the last one's line. A cut connection may hide that they are there
    /// already: only those that are not are enqueued again.
    async fn offer(&self, pool: &PgPool, queue: &str, jobs: usize, after_ms: u64) -> usize {
        let (first, all) = {
            let mut offered = self.offered.lock().expect("nobody panics with it");
            let first = offered.len();
            let all = (first..first + jobs).map(|line| append(&self.lines, line, queue, after_ms)).collect::<Vec<_>>();
            offered.extend(all.iter().map(|job| job.id));
            (first, all)
        };
        let mut missing = all.clone();
        while let Err(error) = enqueue_many(pool, &missing).await {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let ids: Vec<Uuid> = all.iter().map(|job| job.id).collect();
                let found: Result<Vec<Uuid>, _> = sqlx::query_scalar(
                    "select id from queue.jobs where id = any($1) union select id from queue.finished_jobs where id = any($1)",
                )
                .bind(ids)
                .fetch_all(pool)
                .await;
                if let Ok(found) = found {
                    missing.retain(|job| !found.contains(&job.id));
                    break;
                }
            }
            assert!(!pool.is_closed(), "{error}");
        }
        (first + jobs).saturating_sub(1)
    }
}

/// Work that is offered until it is stopped.
pub struct Load {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Load {
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A worker process.
pub struct Worker {
    /// As the queue's tables have it.
    pub name: String,
    pub process: Process,
    metrics: SocketAddr,
}

impl Worker {
    async fn get(&self, path: &str) -> Option<String> {
        // Whoever makes a client needs a provider of TLS, also where none is spoken. Fails only if there is one already.
        let _there_is_one = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build().ok()?;
        let answer = client.get(format!("http://{}{path}", self.metrics)).send().await.ok()?;
        answer.error_for_status().ok()?.text().await.ok()
    }

    /// A counter without labels; 0 until it was first counted.
    pub async fn counter(&self, name: &str) -> f64 {
        let metrics = self.get("/metrics").await.unwrap_or_default();
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }
}

/// Which jobs may have an effect more than once: at-least-once is the contract, where a fault struck.
#[derive(Default)]
pub struct Excuses {
    /// Whom a fault struck: one more effect for each time that such a worker's lease on the job ran out.
    pub workers: HashSet<String>,
    /// What was recorded at each crash of the database: one more effect for the others, of which the database may have
    /// forgotten that they were claimed.
    pub recorded: Vec<HashSet<Uuid>>,
}

impl Excuses {
    pub fn of_worker(worker: &Worker) -> Self {
        Self { workers: HashSet::from([worker.name.clone()]), recorded: Vec::new() }
    }

    fn of(&self, id: Uuid, trail: &Value) -> usize {
        let lost = |event: &&Value| {
            event["event"] == "lost" && event["worker"].as_str().is_some_and(|worker| self.workers.contains(worker))
        };
        let lost = trail.as_array().map_or(0, |events| events.iter().filter(lost).count());
        lost + self.recorded.iter().filter(|recorded| !recorded.contains(&id)).count()
    }
}

/// Asks again until it is so; false if it is not within this time.
pub async fn eventually(within: Duration, mut so: impl AsyncFnMut() -> bool) -> bool {
    let began = Instant::now();
    while !so().await {
        if began.elapsed() > within {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
