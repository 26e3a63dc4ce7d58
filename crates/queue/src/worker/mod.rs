//! Runs jobs: a fetcher per queue claims, apalis dispatches, an acker records, a keeper renews and rescues.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{JobRecord, NewJob, Registry};

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

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Completed {
        result: Option<serde_json::Value>,
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
    Discarded {
        reason: String,
    },
    /// Handed back without using the attempt: the worker is shutting down.
    Released,
}

/// A worker process: all its queues, one pool.
pub struct Worker<A> {
    _app: std::marker::PhantomData<A>,
}

impl<A: Send + Sync + 'static> Worker<A> {
    pub fn new(pool: PgPool, registry: Arc<Registry<A>>, app: Arc<A>, config: WorkerConfig) -> Self {
        let _ = (pool, registry, app, config);
        todo!()
    }

    /// Works until `shutdown` fires, then hands back what it has not begun, waits for what runs, and returns.
    /// Rides out database errors; returns an error only for a configuration that cannot work.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let _ = shutdown;
        todo!()
    }
}

/// Enqueues a job as already claimed and runs its attempt here, through the same code as a worker.
/// `progress(done, total)` hears what the handler reports.
pub async fn run_inline<A: Send + Sync + 'static>(
    pool: &PgPool,
    registry: &Registry<A>,
    app: Arc<A>,
    job: NewJob,
    progress: impl Fn(u64, Option<u64>) + Send + Sync + 'static,
) -> anyhow::Result<(Outcome, JobRecord)> {
    let _ = (pool, registry, app, job, progress);
    todo!()
}
