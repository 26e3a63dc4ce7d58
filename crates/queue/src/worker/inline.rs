//! One job in the caller's own process: `job run` on a terminal, and tests.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Outcome, Shared, WorkerConfig, claim, keeper, record, run_attempt};
use crate::{JobRecord, NewJob, Registry, enqueue, find, job::ProgressFn};

/// Enqueues a job as already claimed and runs its attempt here, through the same code as a worker.
/// `progress(done, total)` hears what the handler reports.
///
/// An attempt that fails leaves the job `retryable`, for the workers. A duplicate of an unfinished job is refused.
pub async fn run_inline<A: Send + Sync + 'static>(
    pool: &PgPool,
    registry: &Arc<Registry<A>>,
    app: Arc<A>,
    job: NewJob,
    progress: impl Fn(u64, Option<u64>) + Send + Sync + 'static,
) -> anyhow::Result<(Outcome, JobRecord)> {
    let inline = Inline::new(pool, registry, app);
    let job = registry.seal(NewJob { run_at: None, ..job })?;
    let mut tx = pool.begin().await?;
    let enqueued = enqueue(&mut *tx, &job).await?;
    anyhow::ensure!(!enqueued.duplicate, "the same work is already queued as job {} ({})", enqueued.id, enqueued.state);
    // Claimed in the transaction that inserts it: no worker can get there first.
    let claimed = claim::one(&mut *tx, enqueued.id, inline.shared.config.lease, &inline.shared.config.name).await?;
    let Some(claimed) = claimed else {
        anyhow::bail!("the tenant is on hold: nothing runs for it until it is released");
    };
    tx.commit().await?;
    let outcome = inline.run(claimed, Some(Arc::new(progress))).await?;
    let record = find(&mut *pool.acquire().await?, enqueued.id, None).await?;
    Ok((outcome, record.ok_or_else(|| anyhow::anyhow!("job {} has vanished", enqueued.id))?))
}

/// A worker without queues.
pub(crate) struct Inline<A> {
    shared: Arc<Shared<A>>,
}

impl<A: Send + Sync + 'static> Inline<A> {
    pub fn new(pool: &PgPool, registry: &Arc<Registry<A>>, app: Arc<A>) -> Self {
        let config = WorkerConfig {
            name: format!("inline-{}", std::process::id()),
            queues: BTreeMap::new(),
            lease: Duration::from_secs(30),
            ..WorkerConfig::default()
        };
        let (pool, registry) = (pool.clone(), registry.clone());
        Self { shared: Arc::new(Shared::new([pool.clone(), pool], registry, app, config)) }
    }

    /// Claims a waiting job by its id and runs it; `None` if it is not there to be claimed.
    pub async fn run_waiting(&self, id: Uuid) -> anyhow::Result<Option<Outcome>> {
        let config = &self.shared.config;
        let Some(job) = claim::one(&self.shared.pool, id, config.lease, &config.name).await? else { return Ok(None) };
        self.run(job, None).await.map(Some)
    }

    async fn run(&self, job: claim::Claimed, progress: Option<ProgressFn>) -> anyhow::Result<Outcome> {
        self.shared.in_hand.take(std::slice::from_ref(&job));
        let done = CancellationToken::new();
        let keeper = tokio::spawn(keeper::renew(self.shared.clone(), done.clone()));
        let ended = run_attempt(&self.shared, &job, CancellationToken::new(), progress).await;
        let ended = ended.ok_or_else(|| anyhow::anyhow!("the job's lease was lost before it began"))?;
        let outcome = ended.outcome.clone();
        let recorded = record::outcomes(&self.shared.pool, &self.shared.config.name, &[ended]).await;
        done.cancel();
        let _ = keeper.await;
        anyhow::ensure!(!recorded?.is_empty(), "the job's lease was lost: another worker has taken job {}", job.id);
        Ok(outcome)
    }
}
