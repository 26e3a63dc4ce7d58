//! One attempt: from a claimed job to its outcome. Workers, `run_inline` and tests all come through here.

use std::{sync::Arc, time::Duration};

use anyhow::Error;
use serde_json::Value;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    claim::Claimed,
    patience::within,
    record::{self, Outcome},
};
use crate::{
    Ctx, JobInfo, Kind, NewJob, RateLimit, Registry, RetryAfter, Verdict,
    job::{FollowUps, ProgressFn},
    rate,
    seal::{self, SealedPlace, Veil},
};

/// After this many claims beyond its attempts a job is discarded without its `discarded` hook: the hook itself may be
/// what kills the workers.
const HOOK_TRIES: i32 = 3;

/// A job during whose run this many workers were lost is a poison pill: it is discarded, not run again.
pub(crate) const CRASHES: i16 = 3;

/// How long a job waits that this worker has no key for. Others may have it, and its operator is told by the error.
const WITHOUT_KEY: Duration = Duration::from_secs(60);

/// What an attempt needs besides the job.
pub(crate) struct Surroundings<'a, A> {
    pub registry: &'a Registry<A>,
    pub app: &'a Arc<A>,
    pub pool: &'a PgPool,
    /// With the database.
    pub patience: Duration,
    /// The handler is asked to stop.
    pub cancelled: CancellationToken,
    /// The handler is ended and the job handed back.
    pub abort: CancellationToken,
    pub progress: Option<ProgressFn>,
}

/// Runs the job once. Never panics, never takes longer than the kind's time limit.
pub(crate) async fn run<A: Send + Sync + 'static>(job: &Claimed, around: Surroundings<'_, A>) -> record::Ended {
    let Some(kind) = around.registry.get(&job.kind) else {
        let reason = format!("unknown kind {}: no worker of this version handles it", job.kind);
        return record::Ended::new(job, 7, Outcome::Discarded { reason, error: None });
    };
    let ctx = Ctx {
        app: around.app.clone(),
        job: Arc::new(JobInfo {
            id: job.id,
            kind: job.kind.clone(),
            queue: job.queue.clone(),
            tenant: job.tenant.clone(),
            attempt: job.attempt.unsigned_abs(),
            max_attempts: job.max_attempts.unsigned_abs(),
            created_at: job.created_at,
            trace: job.trace.as_deref().and_then(|trace| trace.parse().ok()),
            batch_id: job.batch_id,
        }),
        pool: around.pool.clone(),
        lease: job.lease,
        cancelled: around.cancelled,
        progress: around.progress,
        follow_ups: FollowUps::default(),
        sealer: around.registry.sealer().cloned(),
    };
    if job.cancel_requested || ctx.cancelled.is_cancelled() {
        let outcome = Outcome::Cancelled { reason: "cancelled before it ran".into() };
        return record::Ended::new(job, kind.retention_days, outcome);
    }
    let opened = match open(kind, job, around.registry) {
        Ok(opened) => opened,
        Err(error) => {
            let outcome = Outcome::Retryable { error: format!("could not be opened: {error:#}"), wait: WITHOUT_KEY };
            return record::Ended::new(job, kind.retention_days, outcome).uncharged();
        }
    };
    let run = Run { kind, job, opened, ctx, abort: around.abort };
    let outcome = if job.crashes >= CRASHES {
        let reason = format!("crashed: {} workers were lost while they ran it", job.crashes);
        run.bury(Reason::plain(reason), None).await
    } else if job.attempt > job.max_attempts {
        // The last attempt ended without a word: the rescue made the job available once more, to be buried decently.
        let last = job.last_error.as_deref().unwrap_or("the worker was lost");
        let reason = format!("all {} attempts are used up; last: {last}", job.max_attempts);
        run.bury(Reason::plain(reason), None).await
    } else if !run.permitted(around.pool, around.patience).await {
        Outcome::Released
    } else {
        match run.handle().await {
            Ended::Verdict(Verdict::Done(result)) => {
                return match run.succeed(result) {
                    Ok((outcome, then)) => record::Ended::new(job, kind.retention_days, outcome).followed_by(then),
                    Err(error) => record::Ended::new(job, kind.retention_days, run.failed(&error).await),
                };
            }
            Ended::Verdict(Verdict::Snooze(wait)) => Outcome::Snoozed { wait },
            Ended::Verdict(Verdict::Cancel(reason)) => Outcome::Cancelled { reason: run.opened.veil.text(&reason) },
            Ended::Verdict(Verdict::Discard(reason)) => {
                run.bury(Reason { kept: run.opened.veil.text(&reason), told: reason }, None).await
            }
            Ended::BadArgs(reason) => Outcome::Discarded { reason, error: None },
            Ended::Aborted => Outcome::Released,
            // Asked to stop, it stopped with an error. (Where the lease was lost, the fence drops this outcome.)
            Ended::Failed(_) if run.ctx.cancelled.is_cancelled() => {
                Outcome::Cancelled { reason: "cancelled while it ran".into() }
            }
            Ended::Failed(error) => run.failed(&error).await,
        }
    };
    record::Ended::new(job, kind.retention_days, outcome)
}

/// A job's arguments in clear, and what keeps them from others.
struct Opened {
    args: Value,
    veil: Veil,
}

fn open<A: Send + Sync + 'static>(kind: &Kind<A>, job: &Claimed, registry: &Registry<A>) -> anyhow::Result<Opened> {
    let sealer = registry.sealer();
    anyhow::ensure!(sealer.is_some() || !kind.sealed, "{} is a sealed kind, and this worker has no sealer", kind.name);
    let place = SealedPlace { tenant: job.tenant.as_deref(), job_id: job.id, part: "args" };
    let args = seal::open(sealer.map(|sealer| &**sealer), &place, &job.args)?;
    let sealer = sealer.filter(|_| kind.sealed).cloned();
    Ok(Opened { args, veil: Veil { sealer, tenant: job.tenant.clone(), job_id: job.id } })
}

/// Why a job is discarded: as its hook is told, and as it is kept.
struct Reason {
    told: String,
    kept: String,
}

impl Reason {
    fn plain(reason: String) -> Self {
        Self { told: reason.clone(), kept: reason }
    }
}

/// A job that can be run.
struct Run<'a, A> {
    kind: &'a Kind<A>,
    job: &'a Claimed,
    opened: Opened,
    ctx: Ctx<A>,
    abort: CancellationToken,
}

enum Ended {
    Verdict(Verdict),
    Failed(Error),
    BadArgs(String),
    Aborted,
}

#[derive(Debug, thiserror::Error)]
#[error("timed out after {0:?}")]
struct TimedOut(Duration);

impl<A: Send + Sync + 'static> Run<'_, A> {
    /// Takes the permit of a rate-limited job. Without one the job goes back to its place in the line, and `queue.claim`
    /// passes its lane over until there is one.
    async fn permitted(&self, pool: &PgPool, patience: Duration) -> bool {
        let Some(key) = &self.job.rate_key else { return true };
        let Some(limit) = (self.kind.rate_limit)(self.opened.args.clone()) else { return true };
        let limit = RateLimit { key: key.clone(), ..limit };
        match within(patience, rate::take(pool, &limit)).await {
            Ok(wait) => wait.is_none(),
            Err(error) => {
                tracing::warn!(%error, key, "could not take a permit; the job waits");
                false
            }
        }
    }

    async fn handle(&self) -> Ended {
        let handler = match (self.kind.run)(self.opened.args.clone(), self.ctx.clone()) {
            Ok(handler) => handler,
            Err(error) => return Ended::BadArgs(error.to_string()),
        };
        // A task of its own: a panic or a blocked thread stays there, and `select!` below can leave it behind.
        let mut task = if self.kind.sealed {
            tokio::spawn(seal::veiled(handler).instrument(tracing::Span::current()))
        } else {
            tokio::spawn(handler.instrument(tracing::Span::current()))
        };
        let ended = tokio::select! {
            ended = &mut task => ended,
            () = tokio::time::sleep(self.kind.timeout) => {
                task.abort();
                return Ended::Failed(TimedOut(self.kind.timeout).into());
            }
            () = self.abort.cancelled() => {
                task.abort();
                return Ended::Aborted;
            }
        };
        match ended {
            Ok(Ok(verdict)) => Ended::Verdict(verdict),
            Ok(Err(error)) => Ended::Failed(error),
            Err(join) => Ended::Failed(match join.try_into_panic() {
                Ok(panic) => anyhow::anyhow!("panicked: {}", panic_text(&*panic)),
                Err(_) => anyhow::anyhow!("the runtime is shutting down"),
            }),
        }
    }

    /// The handler is done: what it left and what follows, sealed where their kinds are.
    fn succeed(&self, result: Option<Value>) -> anyhow::Result<(Outcome, Vec<NewJob>)> {
        let then = self.ctx.follow_ups.take().into_iter().map(|job| self.ctx.seal(job));
        let result = self.opened.veil.result(result)?;
        Ok((Outcome::Completed { result }, then.collect::<anyhow::Result<_>>()?))
    }

    async fn failed(&self, error: &Error) -> Outcome {
        let told = format!("{error:#}");
        let text = if error.is::<TimedOut>() { told.clone() } else { self.opened.veil.text(&told) };
        if self.ctx.is_last_attempt() {
            let reason = |text: &str| format!("all {} attempts failed; last: {text}", self.job.max_attempts);
            let reason = Reason { told: reason(&told), kept: reason(&text) };
            return self.bury(reason, Some(text)).await;
        }
        let asked = error.chain().find_map(|cause| cause.downcast_ref::<RetryAfter>()).map(|retry| retry.after);
        let wait = asked.unwrap_or_else(|| self.kind.backoff.after(self.ctx.job.attempt));
        Outcome::Retryable { error: text, wait }
    }

    /// Runs the kind's `discarded` hook. If the hook fails the job is not gone yet: it comes back for another try.
    async fn bury(&self, reason: Reason, error: Option<String>) -> Outcome {
        let job = self.job;
        let hook = match (self.kind.discarded)(self.opened.args.clone(), self.ctx.clone(), reason.told) {
            Ok(hook)
                if job.attempt <= job.max_attempts.saturating_add(HOOK_TRIES)
                    && i32::from(job.crashes) <= i32::from(CRASHES) + HOOK_TRIES =>
            {
                hook
            }
            _ => return Outcome::Discarded { reason: reason.kept, error },
        };
        let hook = tokio::time::timeout(self.kind.timeout, hook);
        let mut hook = if self.kind.sealed {
            tokio::spawn(seal::veiled(hook).instrument(tracing::Span::current()))
        } else {
            tokio::spawn(hook.instrument(tracing::Span::current()))
        };
        let ended = tokio::select! {
            ended = &mut hook => ended,
            () = self.abort.cancelled() => {
                hook.abort();
                return Outcome::Released;
            }
        };
        let problem = match ended {
            Ok(Ok(Ok(()))) => return Outcome::Discarded { reason: reason.kept, error },
            Ok(Ok(Err(e))) => self.opened.veil.text(&format!("{e:#}")),
            Ok(Err(_)) => "timed out".to_owned(),
            Err(join) => self.opened.veil.text(&join.to_string()),
        };
        tracing::error!(error = problem, "could not do what follows a discarded job; it will be tried again");
        // Kept first in the text, so that the next burial still names why the job itself failed.
        Outcome::Retryable { error: error.unwrap_or(reason.kept), wait: Duration::from_secs(1) }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// The span that a job's log lines carry.
pub(crate) fn span(job: &Claimed) -> tracing::Span {
    tracing::info_span!(
        "job",
        job.id = %job.id,
        job.kind = job.kind,
        job.attempt = job.attempt,
        tenant = job.tenant,
        trace = job.trace,
    )
}
