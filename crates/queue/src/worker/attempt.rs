//! One attempt: from a claimed job to its outcome. Workers, `run_inline` and tests all come through here.

use std::{sync::Arc, time::Duration};

use anyhow::Error;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{claim::Claimed, patience::within, record::Outcome};
use crate::{Ctx, JobInfo, Kind, RateLimit, Registry, RetryAfter, Verdict, job::ProgressFn, rate};

/// After this many claims beyond its attempts a job is discarded without its `discarded` hook: the hook itself may be
/// what kills the workers.
const HOOK_TRIES: i32 = 3;

/// A job during whose run this many workers were lost is a poison pill: it is discarded, not run again.
pub(crate) const CRASHES: i16 = 3;

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
pub(crate) async fn run<A: Send + Sync + 'static>(job: &Claimed, around: Surroundings<'_, A>) -> (Outcome, u16) {
    let Some(kind) = around.registry.get(&job.kind) else {
        let reason = format!("unknown kind {}: no worker of this version handles it", job.kind);
        return (Outcome::Discarded { reason, error: None }, 7);
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
    };
    let outcome = if job.cancel_requested || ctx.cancelled.is_cancelled() {
        Outcome::Cancelled { reason: "cancelled before it ran".into() }
    } else if job.attempt > job.max_attempts {
        // The last attempt ended without a word: the rescue made the job available once more, to be buried decently.
        let last = job.last_error.as_deref().unwrap_or("the worker was lost");
        let reason = format!("all {} attempts are used up; last: {last}", job.max_attempts);
        bury(kind, job, ctx, reason, None, &around.abort).await
    } else if job.crashes >= CRASHES {
        let reason = format!("crashed: {} workers were lost while they ran it", job.crashes);
        bury(kind, job, ctx, reason, None, &around.abort).await
    } else if !permitted(kind, job, around.pool, around.patience).await {
        Outcome::Released
    } else {
        match handle(kind, job, ctx.clone(), &around.abort).await {
            Ended::Verdict(Verdict::Done(result)) => Outcome::Completed { result },
            Ended::Verdict(Verdict::Snooze(wait)) => Outcome::Snoozed { wait },
            Ended::Verdict(Verdict::Cancel(reason)) => Outcome::Cancelled { reason },
            Ended::Verdict(Verdict::Discard(reason)) => bury(kind, job, ctx, reason, None, &around.abort).await,
            Ended::BadArgs(reason) => Outcome::Discarded { reason, error: None },
            Ended::Aborted => Outcome::Released,
            // Asked to stop, it stopped with an error. (Where the lease was lost, the fence drops this outcome.)
            Ended::Failed(_) if ctx.cancelled.is_cancelled() => {
                Outcome::Cancelled { reason: "cancelled while it ran".into() }
            }
            Ended::Failed(error) => failed(kind, job, ctx, &error, &around.abort).await,
        }
    };
    (outcome, kind.retention_days)
}

/// Takes the permit of a rate-limited job. Without one the job goes back to its place in the line, and `queue.claim` passes
/// its lane over until there is one.
async fn permitted<A: Send + Sync + 'static>(kind: &Kind<A>, job: &Claimed, pool: &PgPool, patience: Duration) -> bool {
    let Some(key) = &job.rate_key else { return true };
    let Some(limit) = (kind.rate_limit)(job.args.clone()) else { return true };
    let limit = RateLimit { key: key.clone(), ..limit };
    match within(patience, rate::take(pool, &limit)).await {
        Ok(wait) => wait.is_none(),
        Err(error) => {
            tracing::warn!(%error, key, "could not take a permit; the job waits");
            false
        }
    }
}

enum Ended {
    Verdict(Verdict),
    Failed(Error),
    BadArgs(String),
    Aborted,
}

async fn handle<A: Send + Sync + 'static>(
    kind: &Kind<A>,
    job: &Claimed,
    ctx: Ctx<A>,
    abort: &CancellationToken,
) -> Ended {
    let handler = match (kind.run)(job.args.clone(), ctx) {
        Ok(handler) => handler,
        Err(error) => return Ended::BadArgs(error.to_string()),
    };
    // A task of its own: a panic or a blocked thread stays there, and `select!` below can leave it behind.
    let mut task = tokio::spawn(handler.instrument(tracing::Span::current()));
    let ended = tokio::select! {
        ended = &mut task => ended,
        () = tokio::time::sleep(kind.timeout) => {
            task.abort();
            return Ended::Failed(anyhow::anyhow!("timed out after {:?}", kind.timeout));
        }
        () = abort.cancelled() => {
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

async fn failed<A: Send + Sync + 'static>(
    kind: &Kind<A>,
    job: &Claimed,
    ctx: Ctx<A>,
    error: &Error,
    abort: &CancellationToken,
) -> Outcome {
    let text = format!("{error:#}");
    if ctx.is_last_attempt() {
        let reason = format!("all {} attempts failed; last: {text}", job.max_attempts);
        return bury(kind, job, ctx, reason, Some(text), abort).await;
    }
    let asked = error.chain().find_map(|cause| cause.downcast_ref::<RetryAfter>()).map(|retry| retry.after);
    let wait = asked.unwrap_or_else(|| kind.backoff.after(ctx.job.attempt));
    Outcome::Retryable { error: text, wait }
}

/// Runs the kind's `discarded` hook. If the hook fails the job is not gone yet: it comes back for another try.
async fn bury<A: Send + Sync + 'static>(
    kind: &Kind<A>,
    job: &Claimed,
    ctx: Ctx<A>,
    reason: String,
    error: Option<String>,
    abort: &CancellationToken,
) -> Outcome {
    let hook = match (kind.discarded)(job.args.clone(), ctx, reason.clone()) {
        Ok(hook)
            if job.attempt <= job.max_attempts.saturating_add(HOOK_TRIES)
                && i32::from(job.crashes) <= i32::from(CRASHES) + HOOK_TRIES =>
        {
            hook
        }
        _ => return Outcome::Discarded { reason, error },
    };
    let mut hook = tokio::spawn(tokio::time::timeout(kind.timeout, hook).instrument(tracing::Span::current()));
    let ended = tokio::select! {
        ended = &mut hook => ended,
        () = abort.cancelled() => {
            hook.abort();
            return Outcome::Released;
        }
    };
    let problem = match ended {
        Ok(Ok(Ok(()))) => return Outcome::Discarded { reason, error },
        Ok(Ok(Err(e))) => format!("{e:#}"),
        Ok(Err(_)) => "timed out".to_owned(),
        Err(join) => join.to_string(),
    };
    tracing::error!(error = problem, "could not do what follows a discarded job; it will be tried again");
    // Kept first in the text, so that the next burial still names why the job itself failed.
    Outcome::Retryable { error: error.unwrap_or(reason), wait: Duration::from_secs(1) }
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
