//! What a job is: its arguments, its policy, its handler, and how it may end.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Backoff, Effect, NewJob, RateLimit, Sealer, TraceParent, Unique, seal};

/// A kind of job. The struct is the payload: ids and facts, never rows, because it is stored and read back later,
/// perhaps by a newer version of the program. Put `#[serde(deny_unknown_fields)]` on it, `#[serde(default)]` on new fields.
pub trait Job: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// What handlers of this host share: pools, clients, configuration.
    type App: Send + Sync + 'static;

    /// The stable name under which rows are stored, for example `billing.remind_invoice`. Never the Rust type's name.
    const KIND: &'static str;
    const QUEUE: &'static str = "default";
    /// Higher runs first.
    const PRIORITY: i16 = 0;
    /// Failures, time-outs, panics and lost workers each use one.
    const MAX_ATTEMPTS: u32 = 10;
    /// One attempt's time limit.
    const TIMEOUT: Duration = Duration::from_secs(300);
    /// How long the finished job can be looked up.
    const RETENTION_DAYS: u16 = 7;
    /// Arguments, result, error texts and reasons are stored sealed, and unique keys as blind indexes; see
    /// [`crate::Sealer`]. In clear stay the kind, the tenant, the times, the key of [`Job::rate_limit`], and what the handler
    /// itself logs.
    const SEALED: bool = false;

    fn backoff() -> Backoff {
        Backoff::default()
    }

    /// The rate limit that the job runs under, shared by all nodes and all jobs that name the same key.
    fn rate_limit(&self) -> Option<RateLimit> {
        None
    }

    /// Says which jobs count as the same work; the second enqueue of such a job answers the first.
    fn unique(&self) -> Option<Unique> {
        None
    }

    /// Does the work. `?` means "retry later"; [`Verdict`] spells out the rest. May run more than once.
    fn run(self, ctx: Ctx<Self::App>) -> impl Future<Output = JobResult> + Send;

    /// Called before the job becomes `discarded`: by the handler's verdict, or because its attempts are used up.
    /// May run more than once. Not called for a payload that no longer decodes.
    fn discarded(self, ctx: Ctx<Self::App>, reason: String) -> impl Future<Output = anyhow::Result<()>> + Send {
        let _ = (ctx, reason);
        async { Ok(()) }
    }
}

pub type JobResult = Result<Verdict, anyhow::Error>;

/// How an attempt ends when it does not fail.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Completed, with an optional result for whoever asks later.
    Done(Option<Value>),
    /// Not yet: run again after this time. Uses no attempt.
    Snooze(Duration),
    /// There is nothing to do any more, and that is fine.
    Cancel(String),
    /// It can never succeed: a dead letter, for a person to look at.
    Discard(String),
}

impl Verdict {
    pub const DONE: Verdict = Verdict::Done(None);

    pub fn done_with(result: impl Serialize) -> anyhow::Result<Self> {
        Ok(Verdict::Done(Some(serde_json::to_value(result)?)))
    }
}

/// A failure whose remedy has a known time, such as a server's `Retry-After`. Anywhere in an error's chain it replaces
/// the kind's back-off.
#[derive(Debug, thiserror::Error)]
#[error("asked to come back in {after:?}")]
pub struct RetryAfter {
    pub after: Duration,
    #[source]
    pub source: Option<anyhow::Error>,
}

/// The job as its handler sees it.
#[derive(Clone, Debug)]
pub struct JobInfo {
    pub id: Uuid,
    pub kind: String,
    pub queue: String,
    pub tenant: Option<String>,
    /// Counted from 1.
    pub attempt: u32,
    pub max_attempts: u32,
    pub created_at: DateTime<Utc>,
    pub trace: Option<TraceParent>,
    pub batch_id: Option<Uuid>,
}

/// What a handler gets besides its arguments. Cheap to clone.
pub struct Ctx<A> {
    pub app: Arc<A>,
    pub job: Arc<JobInfo>,
    pub(crate) pool: PgPool,
    /// Of the claim that this attempt runs under.
    pub(crate) lease: Uuid,
    pub(crate) cancelled: CancellationToken,
    pub(crate) progress: Option<ProgressFn>,
    pub(crate) follow_ups: FollowUps,
    pub(crate) sealer: Option<Arc<dyn Sealer>>,
}

/// What the handler wants enqueued with its success.
#[derive(Clone, Default)]
pub(crate) struct FollowUps(Arc<Mutex<Vec<NewJob>>>);

impl FollowUps {
    fn push(&self, job: NewJob) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(job);
    }

    pub fn take(&self) -> Vec<NewJob> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) type ProgressFn = Arc<dyn Fn(u64, Option<u64>) + Send + Sync>;

impl<A> Clone for Ctx<A> {
    fn clone(&self) -> Self {
        Self {
            app: self.app.clone(),
            job: self.job.clone(),
            pool: self.pool.clone(),
            lease: self.lease,
            cancelled: self.cancelled.clone(),
            progress: self.progress.clone(),
            follow_ups: self.follow_ups.clone(),
            sealer: self.sealer.clone(),
        }
    }
}

impl<A> Ctx<A> {
    /// The tenant the job belongs to, or an error for a job that was enqueued without one.
    pub fn tenant(&self) -> anyhow::Result<&str> {
        self.job.tenant.as_deref().ok_or_else(|| anyhow::anyhow!("{} needs a tenant", self.job.kind))
    }

    pub fn is_last_attempt(&self) -> bool {
        self.job.attempt >= self.job.max_attempts
    }

    /// Fires when somebody cancelled the job or when its lease was lost. (When the patience at shutdown ends, the handler is
    /// ended without a word and the job handed back.)
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// An effect on the outside world that shall happen once per key within the job's tenant, whichever attempt of whichever
    /// job asks for it: say how unknown outcomes are told, then [`Effect::call`].
    pub fn effect<T: Serialize + DeserializeOwned + Send>(&self, key: impl Into<String>) -> Effect<'_, T> {
        Effect::new(&self.pool, &self.job, self.lease, key.into())
    }

    /// Takes a permit of a rate limit for a call that the handler is about to make. `Err` says when to come back: with `?`
    /// the job is retried then; a handler that has saved its place may snooze instead.
    pub async fn permit(&self, limit: &RateLimit) -> anyhow::Result<()> {
        match crate::rate::take(&self.pool, limit).await? {
            None => Ok(()),
            Some(after) => Err(RetryAfter { after, source: None }.into()),
        }
    }

    /// As [`Ctx::permit`], by the figure that was learned under the key ([`Ctx::learn_rate`]), at most `limit`'s. Answers that figure and,
    /// where there is no permit, how long to wait for one.
    pub async fn permit_learned(&self, limit: &RateLimit) -> anyhow::Result<(u32, Option<Duration>)> {
        Ok(crate::rate::take_learned(&self.pool, limit).await?)
    }

    /// From now on `to` permits are given under the key in the place of `from`; false if they are others by now, or an operator's.
    pub async fn learn_rate(&self, key: &str, from: u32, to: u32) -> anyhow::Result<bool> {
        Ok(crate::rate::learn(&self.pool, key, from, to).await?)
    }

    /// Whether somebody asked this job to stop. False where [`Ctx::cancelled`] fired because the lease was lost: then another attempt
    /// goes on.
    pub async fn is_cancel_requested(&self) -> anyhow::Result<bool> {
        let asked: Option<bool> =
            sqlx::query_scalar("select cancel_requested_at is not null from queue.jobs where id = $1 and lease = $2")
                .bind(self.job.id)
                .bind(self.lease)
                .fetch_optional(&self.pool)
                .await?;
        Ok(asked.unwrap_or_default())
    }

    /// The other side said "not before": no job and no call under this key gets a permit until then.
    pub async fn block_rate(&self, key: &str, wait: Duration) -> anyhow::Result<()> {
        Ok(crate::rate::block(&self.pool, key, wait).await?)
    }

    /// Has a follow-up enqueued in the transaction that records this job's success ([`Verdict::Done`]): both happen or
    /// neither. Any other end drops it: a failure, a snooze, a cancel, a discard, a lost lease. Several are enqueued
    /// together, in the order of the calls.
    ///
    /// Tenant and trace are this job's unless the follow-up has its own. A follow-up whose unique key is taken is no error;
    /// it may have this job's own key, which is free again by then. One of a sealed kind is sealed here. One that the
    /// database refuses fails this attempt.
    pub fn then(&self, mut job: NewJob) {
        job.tenant = job.tenant.or_else(|| self.job.tenant.clone());
        job.trace = job.trace.or_else(|| self.job.trace.clone());
        self.follow_ups.push(job);
    }

    /// Seals a job of a sealed kind that the handler enqueues by itself; see [`crate::Registry::seal`].
    pub fn seal(&self, job: NewJob) -> anyhow::Result<NewJob> {
        seal::seal_job(self.sealer.as_ref(), job)
    }

    /// Reports `done` of `total` units, for whoever watches (`job run` draws a bar). Free when nobody does.
    pub fn progress(&self, done: u64, total: Option<u64>) {
        if let Some(report) = &self.progress {
            report(done, total);
        }
    }
}
