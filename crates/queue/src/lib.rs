//! A PostgreSQL job queue for [apalis](https://docs.rs/apalis) workers.
//!
//! A job is a struct with a kind ([`Job`]); the [`Registry`] lists the kinds; [`enqueue`] writes jobs inside the caller's
//! transaction; a [`Worker`] claims, runs and records them; the [`scheduler`] enqueues by the clock. Delivery is
//! at least once, every outcome is fenced by the lease of its claim, and finished jobs leave the hot table in the
//! statement that records them.

// The support of the tests outside, used inside too, knows the crate by its name.
#[cfg(test)]
extern crate self as backroom_queue;

mod backoff;
mod batch;
pub mod bulk;
mod control;
mod dump;
mod effect;
mod enqueue;
mod explain;
mod inspect;
mod job;
mod ledger;
mod rate;
mod registry;
pub mod scheduler;
mod seal;
pub mod testing;
mod trace;
mod worker;

pub use backoff::Backoff;
pub use batch::{Batch, BatchFilter, EnqueuedBatch, NewBatch, batches, enqueue_batch, find_batch};
pub use control::{
    CancelOutcome, DiscardOutcome, Limits, RetryOutcome, cancel, discard, hold_tenant, limit, limits, pause,
    release_tenant, resume, retry,
};
pub use dump::{Change, Dump, Lease, Rules, dump};
pub use effect::{CallError, Effect, EffectError, Reconciled, Tried};
pub use enqueue::{Enqueued, NewJob, Unique, enqueue, enqueue_many};
pub use explain::{Reason, Why, explain};
pub use inspect::{
    AttemptError, COUNT_AT_MOST, DeadLetter, JobFilter, JobRecord, QueueStats, dead_letters, find, list, queue_stats,
    states,
};
pub use job::{Ctx, Job, JobInfo, JobResult, RetryAfter, Verdict};
pub use ledger::{
    Answered, EffectAnswer, EffectFilter, EffectRecord, EffectState, answer_effect, effect_id, effects, effects_done,
    effects_of, find_effect, prune_effects,
};
pub use rate::{RateLimit, RateState, fix_rate_limit, forget_rate_limit, rate_limit, rate_limit_page, rate_limits};
pub use registry::{ArgsError, Kind, Registry};
pub use seal::{SealedPlace, Sealer, Sealing, in_sealed_job};
pub use trace::TraceParent;
pub use worker::{Outcome, Worker, WorkerConfig, run_inline};

/// The queue's own migrations (schema `queue`, table `queue._sqlx_migrations`).
pub fn migrator() -> sqlx::migrate::Migrator {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.dangerous_set_table_name("queue._sqlx_migrations");
    migrator.create_schemas = std::borrow::Cow::Borrowed(&[std::borrow::Cow::Borrowed("queue")]);
    migrator
}

/// Where a job is in its life. `scheduled`, `available`, `running` and `retryable` are unfinished; the rest are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Scheduled,
    Available,
    Running,
    Retryable,
    Completed,
    Cancelled,
    Discarded,
}

impl JobState {
    pub const ALL: [JobState; 7] = [
        JobState::Scheduled,
        JobState::Available,
        JobState::Running,
        JobState::Retryable,
        JobState::Completed,
        JobState::Cancelled,
        JobState::Discarded,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Scheduled => "scheduled",
            JobState::Available => "available",
            JobState::Running => "running",
            JobState::Retryable => "retryable",
            JobState::Completed => "completed",
            JobState::Cancelled => "cancelled",
            JobState::Discarded => "discarded",
        }
    }

    pub fn is_finished(self) -> bool {
        matches!(self, JobState::Completed | JobState::Cancelled | JobState::Discarded)
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for JobState {
    type Err = UnknownState;

    fn from_str(s: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == s).ok_or_else(|| UnknownState(s.to_owned()))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("unknown job state {0:?}")]
pub struct UnknownState(String);
