//! The one door for work. A job is inserted through any executor, so it commits or rolls back with the caller's rows.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{PgExecutor, Postgres, postgres::PgArguments, query::QueryAs};
use uuid::Uuid;

use crate::{Job, JobState, Sealing, TraceParent};

/// Which jobs count as the same work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unique {
    pub(crate) key: String,
    pub(crate) across_tenants: bool,
    pub(crate) period: Option<Duration>,
}

impl Unique {
    /// By a key within kind and tenant, until the job ends.
    pub fn by(key: impl ToString) -> Self {
        Self { key: key.to_string(), across_tenants: false, period: None }
    }

    /// By all arguments within kind and tenant, until the job ends.
    pub fn by_args(args: &impl serde::Serialize) -> Self {
        let json = serde_json::to_vec(args).unwrap_or_default();
        let digest: [u8; 32] = Sha256::digest(json).into();
        Self::by(format_args!("args:{:032x}", u128::from_be_bytes(std::array::from_fn(|i| digest[i]))))
    }

    /// Within the kind, whatever the tenant.
    #[must_use]
    pub fn across_tenants(mut self) -> Self {
        self.across_tenants = true;
        self
    }

    /// For this long after the enqueue, whatever becomes of the job, instead of until it ends.
    #[must_use]
    pub fn within(mut self, period: Duration) -> Self {
        self.period = Some(period);
        self
    }
}

/// A job to be enqueued. Made from a [`Job`] or, with a kind that is only known at run time, by [`crate::Kind::new_job`].
#[derive(Clone, Debug)]
pub struct NewJob {
    pub id: Uuid,
    pub queue: String,
    pub kind: String,
    pub tenant: Option<String>,
    pub priority: i16,
    /// `None`: now, by the database's clock.
    pub run_at: Option<DateTime<Utc>>,
    pub max_attempts: u32,
    pub args: Value,
    pub unique: Option<Unique>,
    pub trace: Option<TraceParent>,
    /// The rate limit that it runs under; its figures come from the kind.
    pub rate_key: Option<String>,
    /// The unfinished batch that it joins, which grows by it. See [`crate::enqueue_batch`].
    pub batch_id: Option<Uuid>,
    /// Whether the arguments may be stored as they are.
    pub sealing: Sealing,
}

impl NewJob {
    /// A job of a kind that is known by its name only: queue `default`, one attempt. Nobody has checked the arguments, and
    /// they are stored as they are, also if the kind is a sealed one: use [`crate::Kind::new_job`] where it may be.
    pub fn named(kind: impl Into<String>, args: Value) -> Self {
        Self {
            id: Uuid::now_v7(),
            queue: "default".to_owned(),
            kind: kind.into(),
            tenant: None,
            priority: 0,
            run_at: None,
            max_attempts: 1,
            args,
            unique: None,
            trace: None,
            rate_key: None,
            batch_id: None,
            sealing: Sealing::PLAIN,
        }
    }

    /// # Panics
    /// When the arguments have no JSON form (a map with non-string keys), a mistake in the job's type.
    pub fn of<J: Job>(job: &J) -> Self {
        let args = serde_json::to_value(job).expect("a job's arguments have a JSON form");
        Self {
            queue: J::QUEUE.to_owned(),
            priority: J::PRIORITY,
            max_attempts: J::MAX_ATTEMPTS,
            unique: job.unique(),
            rate_key: job.rate_limit().map(|limit| limit.key),
            sealing: if J::SEALED { Sealing::OWED } else { Sealing::PLAIN },
            ..Self::named(J::KIND, args)
        }
    }

    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    #[must_use]
    pub fn run_at(mut self, at: DateTime<Utc>) -> Self {
        self.run_at = Some(at);
        self
    }

    #[must_use]
    pub fn trace(mut self, trace: Option<TraceParent>) -> Self {
        self.trace = trace;
        self
    }
}

/// What became of an enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Enqueued {
    /// The job's id, or the existing job's when this one is a duplicate.
    pub id: Uuid,
    pub state: JobState,
    pub duplicate: bool,
}

/// Enqueues one job. See [`enqueue_many`].
pub async fn enqueue(db: impl PgExecutor<'_>, job: &NewJob) -> sqlx::Result<Enqueued> {
    Ok(enqueue_many(db, std::slice::from_ref(job)).await?[0])
}

/// Enqueues the jobs in one round trip; answers in their order. A duplicate is not an error: it answers the existing job.
///
/// # Errors
/// Beside the database's: a job of a sealed kind has not been sealed ([`crate::Registry::seal`]).
pub async fn enqueue_many(db: impl PgExecutor<'_>, jobs: &[NewJob]) -> sqlx::Result<Vec<Enqueued>> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    jobs.iter().try_for_each(NewJob::check_sealed)?;
    let rows: Vec<(Uuid, String, bool)> = bind(
        sqlx::query_as(
            "select id, state, duplicate
             from queue.enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        ),
        jobs,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Enqueued::from_row).collect()
}

impl Enqueued {
    pub(crate) fn from_row((id, state, duplicate): (Uuid, String, bool)) -> sqlx::Result<Self> {
        let state = state.parse().map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
        Ok(Enqueued { id, state, duplicate })
    }
}

/// Binds the fifteen arguments of `queue.enqueue`.
pub(crate) fn bind<'q, O>(
    query: QueryAs<'q, Postgres, O, PgArguments>,
    jobs: &[NewJob],
) -> QueryAs<'q, Postgres, O, PgArguments> {
    let now = Utc::now();
    let column = |f: fn(&NewJob) -> String| jobs.iter().map(f).collect::<Vec<_>>();
    let until = |job: &NewJob| {
        let period = job.unique.as_ref()?.period?;
        Some(now + chrono::Duration::from_std(period).unwrap_or(chrono::Duration::MAX))
    };
    query
        .bind(jobs.iter().map(|job| job.id).collect::<Vec<_>>())
        .bind(column(|job| job.queue.clone()))
        .bind(column(|job| job.kind.clone()))
        .bind(jobs.iter().map(|job| job.tenant.clone()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.priority).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.run_at).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| i32::try_from(job.max_attempts).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.args.clone()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.trace.as_ref().map(ToString::to_string)).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.unique.as_ref().map(|unique| unique.key.clone())).collect::<Vec<_>>())
        .bind(
            jobs.iter().map(|job| job.unique.as_ref().is_some_and(|unique| unique.across_tenants)).collect::<Vec<_>>(),
        )
        .bind(jobs.iter().map(until).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.rate_key.clone()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.batch_id).collect::<Vec<_>>())
        .bind(may_notify(jobs, now))
}

/// NOTIFY takes a lock that every committing transaction waits for, so a process wakes a queue at most this often.
/// A wake-up that is left out here is made good by the fetcher, which looks again after 10, 20, 40 … ms before it rests.
const NOTIFY_EVERY: Duration = Duration::from_millis(10);

fn may_notify(jobs: &[NewJob], enqueued_at: DateTime<Utc>) -> bool {
    static LAST: LazyLock<Mutex<HashMap<String, Instant>>> = LazyLock::new(Mutex::default);
    let mut last = LAST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let now = Instant::now();
    let mut any = false;
    for job in jobs.iter().filter(|job| job.run_at.is_none_or(|at| at <= enqueued_at)) {
        match last.get_mut(&job.queue) {
            Some(at) if now.duration_since(*at) < NOTIFY_EVERY => {}
            Some(at) => {
                *at = now;
                any = true;
            }
            None => {
                last.insert(job.queue.clone(), now);
                any = true;
            }
        }
    }
    any
}
