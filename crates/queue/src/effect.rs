//! An effect on the outside world, once per key across retries, rescues and replays: the intent is committed, then the call
//! is made, then its outcome is recorded. After a crash in between the effect's own rule decides, never a blind repeat.

use std::{pin::Pin, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    JobInfo, JobResult, RetryAfter, Verdict,
    ledger::{self, Asked, Asker, Intent},
    worker::record::storable_json,
};

/// How long the ledger remembers an effect that has ended, unless it is told otherwise.
const KEEP_DAYS: u16 = 30;

/// An effect before its call; made by [`crate::Ctx::effect`].
///
/// `T` is what the call answers. It is kept as JSON, and whoever asks for the same key later gets it instead of a call.
#[must_use = "nothing happens before `call`"]
pub struct Effect<'a, T> {
    pool: &'a PgPool,
    job: &'a JobInfo,
    lease: Uuid,
    key: String,
    rule: Rule<'a, T>,
    keep_days: u16,
}

/// What to do about calls that had no answer.
enum Rule<'a, T> {
    /// Call again, as long as fewer than this many had none.
    Repeat(u32),
    Reconcile(Reconcile<'a, T>),
}

type Reconcile<'a, T> = Box<dyn FnOnce(Tried) -> Asking<'a, T> + Send + 'a>;
type Asking<'a, T> = Pin<Box<dyn Future<Output = anyhow::Result<Reconciled<T>>> + Send + 'a>>;

/// The calls of an effect whose outcome nobody knows.
#[derive(Clone, Debug)]
pub struct Tried {
    /// What they were made with, and what the next one will be made with.
    pub idempotency_key: Uuid,
    /// Calls without an answer.
    pub unknown: u32,
    /// When the first call was intended.
    pub since: DateTime<Utc>,
    /// The last one's words, unless its worker was lost.
    pub error: Option<String>,
}

/// What a rule found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconciled<T> {
    /// It happened, and this is what the call would have answered.
    Happened(T),
    /// The call is made now.
    DidNotHappen,
    /// Not to be told yet. The job is retried and asks again; when its attempts are used up, a person has to.
    Unknown,
}

/// Why a call was no success. With `?` every error is [`CallError::Unknown`]: only who knows may say that nothing happened.
#[derive(Debug)]
pub enum CallError {
    /// It was refused, or never left: it did not happen. The intent is taken back, and the next attempt calls anew.
    NotDone(anyhow::Error),
    /// It may have happened: the line broke, or no answer came in time.
    Unknown(anyhow::Error),
}

impl CallError {
    pub fn not_done(error: impl Into<anyhow::Error>) -> Self {
        Self::NotDone(error.into())
    }
}

impl<E: Into<anyhow::Error>> From<E> for CallError {
    fn from(error: E) -> Self {
        Self::Unknown(error.into())
    }
}

/// Why an effect has no outcome. With `?` the job is retried; [`EffectError::verdict`] gives up where a retry is pointless.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// The call's own error. A [`RetryAfter`] in it is honoured.
    #[error("it did not happen")]
    NotDone(#[source] anyhow::Error),
    /// The call's, or the rule's own error. The next attempt asks the rule.
    #[error("it may have happened")]
    Unknown(#[source] anyhow::Error),
    /// No further call before a person has answered for the effect.
    #[error(
        "it may have happened, and will not be repeated before somebody says so: {unknown} calls of effect {id} had no answer; last: {last}"
    )]
    GivenUp { id: Uuid, unknown: u32, last: String },
    /// Another attempt, of this job or of another with the same key, is in the call.
    #[error("another attempt is about it")]
    Busy(#[source] RetryAfter),
    #[error("the job's lease was lost")]
    LeaseLost,
    /// Before the call: nothing happened. After it: the outcome could not be recorded for a minute, and is unknown.
    #[error("could not write to the effect ledger")]
    Ledger(#[source] sqlx::Error),
    /// What the ledger has does not read as `T`: an older version's answer, or a person's.
    #[error("the recorded outcome does not decode")]
    Outcome(#[source] serde_json::Error),
}

impl EffectError {
    /// How a handler ends that has nothing to add: it waits for a busy effect, discards the job of one that was given up, and
    /// retries otherwise.
    pub fn verdict(self) -> JobResult {
        match self {
            Self::GivenUp { .. } => Ok(Verdict::Discard(self.to_string())),
            Self::Busy(RetryAfter { after, .. }) => Ok(Verdict::Snooze(after)),
            other => Err(other.into()),
        }
    }
}

impl<'a, T: Serialize + DeserializeOwned + Send> Effect<'a, T> {
    pub(crate) fn new(pool: &'a PgPool, job: &'a JobInfo, lease: Uuid, key: String) -> Self {
        Self { pool, job, lease, key, rule: Rule::Repeat(1), keep_days: KEEP_DAYS }
    }

    /// Repeats a call that had no answer, with the same idempotency key, because the other side folds equal keys; until this
    /// many calls had none. Without a rule there is one call, and a person decides about it.
    pub fn repeat(mut self, most_unknown: u32) -> Self {
        self.rule = Rule::Repeat(most_unknown.max(1));
        self
    }

    /// Asks `rule` about calls that had no answer, before any other is made.
    pub fn reconcile<F, Fut>(mut self, rule: F) -> Self
    where
        F: FnOnce(Tried) -> Fut + Send + 'a,
        Fut: Future<Output = anyhow::Result<Reconciled<T>>> + Send + 'a,
    {
        self.rule = Rule::Reconcile(Box::new(move |tried| Box::pin(rule(tried))));
        self
    }

    /// How long the ledger remembers the effect after it has ended; 30 days if nothing is said. Afterwards the same key is a
    /// new effect, with the same idempotency key.
    pub fn keep_days(mut self, days: u16) -> Self {
        self.keep_days = days;
        self
    }

    /// Makes the call with the effect's idempotency key, unless the ledger knows its outcome already.
    pub async fn call<F, Fut>(self, call: F) -> Result<T, EffectError>
    where
        F: FnOnce(Uuid) -> Fut + Send,
        Fut: Future<Output = Result<T, CallError>> + Send,
    {
        let Self { pool, job, lease, key, rule, keep_days } = self;
        let tenant = job.tenant.as_deref();
        let asker = Asker { id: ledger::effect_id(tenant, &key), job_id: job.id, lease };
        let (most_unknown, rule) = match rule {
            Rule::Repeat(most) => (Some(most), None),
            Rule::Reconcile(rule) => (None, Some(rule)),
        };
        let asked = Asked { tenant, key: &key, kind: &job.kind, attempt: job.attempt, keep_days, most_unknown };
        let intent = ledger::intend(pool, &asker, &asked).await.map_err(EffectError::Ledger)?;
        match (intent.verdict.as_str(), rule) {
            ("call", _) => {}
            ("ask", Some(rule)) => {
                if let Some(happened) = reconcile(pool, &asker, &intent, rule).await? {
                    return Ok(happened);
                }
            }
            ("done", _) => {
                return serde_json::from_value(intent.outcome.unwrap_or_default()).map_err(EffectError::Outcome);
            }
            ("busy", _) => return Err(EffectError::Busy(RetryAfter { after: intent.wait(), source: None })),
            ("given up", _) => return Err(given_up(&asker, &intent, None)),
            _ => return Err(EffectError::LeaseLost),
        }
        match call(asker.id).await {
            Ok(value) => {
                done(pool, &asker, &value).await?;
                Ok(value)
            }
            Err(CallError::NotDone(error)) => {
                let text = format!("{error:#}");
                insist(|| ledger::record_refused(pool, &asker, &text)).await?;
                Err(EffectError::NotDone(error))
            }
            Err(CallError::Unknown(error)) => {
                let text = format!("{error:#}");
                insist(|| ledger::record_unknown(pool, &asker, &text)).await?;
                if most_unknown.is_some_and(|most| intent.unknown.unsigned_abs() >= most) {
                    return Err(given_up(&asker, &intent, Some(text)));
                }
                Err(EffectError::Unknown(error))
            }
        }
    }
}

/// Asks the effect's rule, which has the effect for itself meanwhile. `None`: the call is to be made.
async fn reconcile<T: Serialize>(
    pool: &PgPool,
    asker: &Asker,
    intent: &Intent,
    rule: Reconcile<'_, T>,
) -> Result<Option<T>, EffectError> {
    let tried = Tried {
        idempotency_key: asker.id,
        unknown: intent.unknown.unsigned_abs(),
        since: intent.intended_at,
        error: intent.error.clone(),
    };
    let error = match rule(tried).await {
        Ok(Reconciled::Happened(value)) => {
            done(pool, asker, &value).await?;
            return Ok(Some(value));
        }
        Ok(Reconciled::DidNotHappen) => {
            let begun = ledger::intend_anew(pool, asker).await.map_err(EffectError::Ledger)?;
            return if begun { Ok(None) } else { Err(EffectError::LeaseLost) };
        }
        Ok(Reconciled::Unknown) => anyhow::anyhow!("what became of it cannot be told yet"),
        Err(error) => error.context("could not find out what became of it"),
    };
    let text = intent.error.clone().unwrap_or_else(|| format!("{error:#}"));
    insist(|| ledger::record_unknown(pool, asker, &text)).await?;
    Err(EffectError::Unknown(error))
}

/// Records an outcome that JSON cannot hold as `null`: that it happened counts more.
async fn done<T: Serialize>(pool: &PgPool, asker: &Asker, value: &T) -> Result<(), EffectError> {
    let outcome = storable_json(serde_json::to_value(value).unwrap_or(Value::Null));
    insist(|| ledger::record_done(pool, asker, &outcome)).await
}

fn given_up(asker: &Asker, intent: &Intent, last: Option<String>) -> EffectError {
    let last = last.or_else(|| intent.error.clone()).unwrap_or_else(|| "the worker was lost".to_owned());
    EffectError::GivenUp { id: asker.id, unknown: intent.unknown.unsigned_abs(), last }
}

/// How long to go on recording what happened while the database is away.
const INSIST_FOR: Duration = Duration::from_secs(60);

/// Records again and again for a minute, through a database restart or a cut connection: what is not recorded becomes unknown.
/// Also when the job was asked to stop or has lost its lease: it happened, whoever holds the job now.
async fn insist<F>(record: impl Fn() -> F + Send) -> Result<(), EffectError>
where
    F: Future<Output = sqlx::Result<()>> + Send,
{
    let (mut pause, mut waited) = (Duration::from_millis(50), Duration::ZERO);
    loop {
        let error = match record().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if waited > INSIST_FOR {
            return Err(EffectError::Ledger(error));
        }
        tracing::warn!(%error, "could not record what became of an effect; trying again");
        tokio::time::sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// BILL-6: the job's token is not asked; a record that fails is tried again until it succeeds.
    #[tokio::test]
    async fn what_happened_is_recorded_however_often_it_takes() {
        let tries = AtomicU32::new(0);
        let record = || async {
            match tries.fetch_add(1, Ordering::Relaxed) {
                0..3 => Err(sqlx::Error::PoolTimedOut),
                _ => Ok(()),
            }
        };
        insist(record).await.unwrap();
        assert_eq!(tries.into_inner(), 4);
    }
}
