//! Runs jobs. Per queue a *fetcher* claims batches and an apalis worker runs them; per process an *acker* records
//! outcomes and *keepers* renew leases, rescue, promote and prune. All of them ride out database errors.

mod acker;
mod attempt;
mod backend;
mod buffer;
pub(crate) mod claim;
mod fetcher;
mod hand;
mod inline;
pub(crate) mod keeper;
mod patience;
#[cfg(test)]
mod properties;
pub(crate) mod record;
mod rules;
mod wake;

use std::{collections::BTreeMap, collections::HashMap, sync::Arc, time::Duration};

use apalis::prelude::{Monitor, WorkerBuilder, WorkerBuilderExt};
use sqlx::PgPool;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

pub(crate) use self::{attempt::CRASHES, inline::Inline};
use self::{
    attempt::Surroundings, backend::QueueBackend, buffer::Buffer, claim::Claimed, fetcher::Fetcher, hand::InHand,
    patience::impatient, record::Ended, rules::Rules,
};
pub use self::{inline::run_inline, record::Outcome};
use crate::Registry;

/// How a worker process works.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// This process's name, for people to read. Never used to decide anything.
    pub name: String,
    /// Queue name and how many of its jobs run here at once.
    pub queues: BTreeMap<String, usize>,
    /// How long a killed worker's jobs stay its own. Renewed at a third of it.
    pub lease: Duration,
    /// The safety net below NOTIFY: how long an idle queue rests between two looks.
    pub poll_interval: Duration,
    /// How long running jobs may go on after the shutdown began.
    pub shutdown_timeout: Duration,
    /// False behind a transaction-mode pooler: polling alone.
    pub listen: bool,
}

impl WorkerConfig {
    /// How long an answer of the database is waited for.
    fn patience(&self) -> Duration {
        (self.lease / 2).max(Duration::from_secs(2))
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            name: format!("worker-{}", std::process::id()),
            queues: BTreeMap::from([("default".to_owned(), 10)]),
            lease: Duration::from_secs(30),
            poll_interval: Duration::from_millis(500),
            shutdown_timeout: Duration::from_secs(25),
            listen: true,
        }
    }
}

/// On which claims, outcomes and the keepers take turns. One more renews leases, and one more listens.
const OWN_CONNECTIONS: u32 = 5;

/// What the parts of one process share.
pub(crate) struct Shared<A> {
    /// The queue's own connections.
    pool: PgPool,
    /// The host's, for what handlers ask of the queue.
    host: PgPool,
    registry: Arc<Registry<A>>,
    app: Arc<A>,
    config: WorkerConfig,
    in_hand: InHand,
    rules: Rules,
    /// Tells that outcomes were recorded: places are free.
    recorded: Notify,
    /// Held by the one job that runs here of those which were running when a second worker was lost.
    alone: Arc<Semaphore>,
}

impl<A> Shared<A> {
    fn new([pool, host]: [PgPool; 2], registry: Arc<Registry<A>>, app: Arc<A>, config: WorkerConfig) -> Self {
        Self {
            pool,
            host,
            registry,
            app,
            config,
            in_hand: InHand::default(),
            rules: Rules::default(),
            recorded: Notify::new(),
            alone: Arc::new(Semaphore::new(1)),
        }
    }

    fn patience(&self) -> Duration {
        self.config.patience()
    }
}

/// A worker process: all its queues, one pool.
pub struct Worker<A> {
    shared: Arc<Shared<A>>,
}

impl<A: Send + Sync + 'static> Worker<A> {
    pub fn new(pool: PgPool, registry: Arc<Registry<A>>, app: Arc<A>, config: WorkerConfig) -> Self {
        // Handlers that use up the host's connections must not keep leases from being renewed and outcomes from being
        // recorded: the queue has some of its own, made and looked after like the host's.
        let own = pool.options().clone().min_connections(0).max_connections(OWN_CONNECTIONS);
        let options = pool.connect_options();
        // A pooler would hand our settings on to others.
        let options = if config.listen { impatient(&options, config.patience()) } else { (*options).clone() };
        let own = own.connect_lazy_with(options);
        Self { shared: Arc::new(Shared::new([own, pool], registry, app, config)) }
    }

    /// Works until `shutdown` fires, then hands back what it has not begun, waits for what runs, and returns.
    /// Rides out database errors; returns an error only for a configuration that cannot work.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let shared = self.shared;
        let config = &shared.config;
        anyhow::ensure!(!config.queues.is_empty(), "a worker needs at least one queue");
        if let Some((queue, _)) = config.queues.iter().find(|(_, concurrency)| **concurrency == 0) {
            anyhow::bail!("queue {queue} has concurrency 0; leave it out or give it at least 1");
        }
        anyhow::ensure!(config.lease >= Duration::from_secs(1), "a lease must be at least one second");

        let (ended, outcomes) = mpsc::channel(acker::BACKLOG);
        // Fires when the patience at shutdown is over: running handlers are ended and handed back.
        let abort = CancellationToken::new();
        // Fires when nothing is in hand any more.
        let close = CancellationToken::new();
        let keepers = TaskTracker::new();
        let renewing = keeper::renew_apart(shared.clone(), close.clone())?;
        keepers.spawn(renewing);
        // Whoever drops this future renews nothing any more.
        let _closing = close.clone().drop_guard();
        keepers.spawn(keeper::mark_begun(shared.clone(), close.clone()));
        keepers.spawn(rules::keep_reading(shared.clone(), shutdown.clone()));
        keepers.spawn(keeper::compact(shared.clone(), shutdown.clone()));
        keepers.spawn(keeper::promote_and_rescue(shared.clone(), shutdown.clone()));
        keepers.spawn(keeper::housekeeping(shared.clone(), shutdown.clone()));
        let acker = tokio::spawn(acker::run(shared.clone(), outcomes, close.clone()));

        let mut monitor = Monitor::new().should_restart(|_, _| true);
        let mut wakes = HashMap::new();
        for (queue, &concurrency) in &config.queues {
            let wake = Arc::new(Notify::new());
            wakes.insert(queue.clone(), wake.clone());
            let buffer = Arc::new(Buffer::new());
            let backend = QueueBackend(buffer.clone());
            let fetcher = Fetcher {
                shared: shared.clone(),
                queue: queue.clone(),
                concurrency,
                buffer,
                wake,
                ended: ended.clone(),
            };
            keepers.spawn(fetcher.run(shutdown.clone()));
            let (shared, ended, abort, name) = (shared.clone(), ended.clone(), abort.clone(), queue.clone());
            monitor = monitor.register(move |_| {
                let (shared, ended, abort) = (shared.clone(), ended.clone(), abort.clone());
                WorkerBuilder::new(name.as_str())
                    .backend(backend.clone())
                    .concurrency(concurrency)
                    .build(move |job: Claimed| work(shared.clone(), job, abort.clone(), ended.clone()))
            });
        }
        drop(ended);
        if config.listen {
            keepers.spawn(wake::run(shared.clone(), wakes, close.clone()));
        }
        keepers.close();
        tracing::info!(worker = config.name, queues = ?config.queues, "worker started");

        let patience = config.shutdown_timeout;
        let (stop, give_up) = (shutdown.clone(), abort.clone());
        let impatience = tokio::spawn(async move {
            stop.cancelled().await;
            tracing::info!(patience_s = patience.as_secs(), "worker is shutting down");
            tokio::time::sleep(patience).await;
            give_up.cancel();
        });
        let signal = async move {
            shutdown.cancelled().await;
            Ok(())
        };
        let ran = monitor.run_with_signal(signal).await;
        impatience.abort();
        // All senders are gone: the acker ends once everything is recorded. If the database is away, do not wait for ever.
        let flushed = tokio::time::timeout(Duration::from_secs(5), acker).await;
        close.cancel();
        keepers.wait().await;
        if flushed.is_err() {
            tracing::warn!("ended with outcomes unrecorded; their jobs come back when the leases run out");
        }
        let _ = tokio::time::timeout(Duration::from_secs(5), shared.pool.close()).await;
        tracing::info!(worker = shared.config.name, "worker stopped");
        ran.map_err(|error| anyhow::anyhow!("a queue's worker failed: {error}"))
    }
}

/// Runs one job of a queue and passes its outcome on.
async fn work<A: Send + Sync + 'static>(
    shared: Arc<Shared<A>>,
    job: Claimed,
    abort: CancellationToken,
    ended: mpsc::Sender<Ended>,
) {
    let end = if shared.rules.stop(&job) {
        Some(Ended::new(&job, 0, Outcome::Released))
    } else {
        run_attempt(&shared, &job, abort, None).await
    };
    if let Some(end) = end {
        // The acker outlives all workers.
        let _ = ended.send(end).await;
    }
}

/// `None`: the job's lease was lost before it began, so it is another worker's now.
async fn run_attempt<A: Send + Sync + 'static>(
    shared: &Shared<A>,
    job: &Claimed,
    abort: CancellationToken,
    progress: Option<crate::job::ProgressFn>,
) -> Option<Ended> {
    // A job that was in the hands of lost workers is marked before it begins: if it kills this one too, that is known. What
    // may have killed two runs alone among its like, so that only the culprit meets the third.
    let mut alone = None;
    if job.crashes > 0 {
        if job.crashes > 1 {
            alone = tokio::select! {
                permit = shared.alone.clone().acquire_owned() => permit.ok(),
                () = abort.cancelled() => return Some(Ended::new(job, 0, Outcome::Released)),
            };
        }
        match keeper::mark(shared, job.id, job.lease).await {
            Ok(false) => return None,
            Ok(true) => {}
            Err(error) => {
                tracing::warn!(%error, job.id = %job.id, "could not mark a suspect as begun; it goes back");
                return Some(Ended::new(job, 0, Outcome::Released));
            }
        }
    }
    let cancelled = shared.in_hand.begin(job, shared.config.lease)?;
    let started = std::time::Instant::now();
    let (registry, app, pool) = (&shared.registry, &shared.app, &shared.host);
    let patience = shared.patience();
    let around = Surroundings { registry, app, pool, patience, cancelled, abort, progress };
    let span = attempt::span(job);
    let ended = attempt::run(job, around).instrument(span.clone()).await;
    observe(job, &ended.outcome, started.elapsed(), &span);
    Some(Ended { alone, ..ended })
}

fn observe(job: &Claimed, outcome: &Outcome, took: Duration, span: &tracing::Span) {
    let labels = [("kind", job.kind.clone()), ("queue", job.queue.clone())];
    metrics::histogram!("queue_run_seconds", &labels).record(took.as_secs_f64());
    metrics::histogram!("queue_wait_seconds", &labels).record(job.waited_s);
    metrics::counter!("queue_jobs_total", "kind" => job.kind.clone(), "queue" => job.queue.clone(), "outcome" => outcome.as_str())
        .increment(1);
    if matches!(outcome, Outcome::Completed { .. } | Outcome::Cancelled { .. } | Outcome::Discarded { .. }) {
        metrics::histogram!("queue_attempts", &labels).record(f64::from(job.attempt));
    }
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let _entered = span.enter();
    match outcome {
        Outcome::Retryable { error, wait } => {
            tracing::warn!(duration_ms, error, retry_in_ms = wait.as_millis(), "attempt failed; it will be retried");
        }
        Outcome::Discarded { reason, .. } => tracing::error!(duration_ms, reason, "job discarded"),
        Outcome::Cancelled { reason } => tracing::info!(duration_ms, reason, "job cancelled"),
        Outcome::Snoozed { wait } => tracing::debug!(duration_ms, wait_ms = wait.as_millis(), "job snoozed"),
        Outcome::Completed { .. } | Outcome::Released => {
            tracing::debug!(duration_ms, outcome = outcome.as_str(), "job ended")
        }
    }
}

/// How long to wait after the next failed talk with the database: 50 ms doubling to 2 s.
fn next_pause(last: Duration) -> Duration {
    (last * 2).clamp(Duration::from_millis(50), Duration::from_secs(2))
}
