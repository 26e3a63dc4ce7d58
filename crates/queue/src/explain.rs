//! Why a job has not run, and when it may: for the person who asks (PLAT-22).

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::{JobState, find, worker::CRASHES};

/// A job that is due for longer than this, with nothing in its way, should have been claimed.
const PATIENCE: TimeDelta = TimeDelta::seconds(10);
/// Jobs ahead are counted up to this many.
const AHEAD_AT_MOST: i32 = 10_000;

/// What is to be said about a job at a moment.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Why {
    pub id: Uuid,
    pub state: JobState,
    /// The first reason, as a sentence for people.
    pub sentence: String,
    /// Everything that was found, the most decisive first; never empty.
    pub reasons: Vec<Reason>,
    /// Not before this time is it expected to run. `None`: it has ended, or runs, or nobody can tell.
    pub expected_at: Option<DateTime<Utc>>,
    /// By the database's clock.
    pub asked_at: DateTime<Utc>,
}

/// One reason why a job does not run. Its text is a sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// It has ended.
    Finished {
        state: JobState,
        at: Option<DateTime<Utc>>,
        attempt: u32,
        because: Option<String>,
    },
    /// A worker has it.
    Running {
        worker: Option<String>,
        claimed_at: Option<DateTime<Utc>>,
        /// When its handler began. `None`: it was only fetched, as far as is known.
        begun_at: Option<DateTime<Utc>>,
        lease_until: DateTime<Utc>,
        /// The worker has not renewed the lease in time: it seems lost, and the job will be taken back.
        lost: bool,
        /// Somebody cancelled it; its handler has been asked to stop.
        cancel_requested: bool,
    },
    QueuePaused {
        queue: String,
        since: DateTime<Utc>,
    },
    /// Its tenant is on hold.
    TenantHeld {
        tenant: Option<String>,
        since: Option<DateTime<Utc>>,
    },
    /// It is due and could run, and nobody takes it.
    NoClaims {
        queue: String,
        due_since: DateTime<Utc>,
        /// Of any job of the queue, as far as the kept rows tell.
        last_claim: Option<DateTime<Utc>>,
    },
    /// It was enqueued for later.
    Scheduled {
        at: DateTime<Utc>,
    },
    /// Its handler asked to be run later; that used no attempt.
    Snoozed {
        until: DateTime<Utc>,
    },
    /// Its last attempt failed.
    Retrying {
        at: DateTime<Utc>,
        attempt: u32,
        max_attempts: u32,
        error: Option<String>,
    },
    /// The other side said: not before.
    RateBlocked {
        key: String,
        until: DateTime<Utc>,
    },
    /// No permit is left.
    RateUsedUp {
        key: String,
        next_permit_at: DateTime<Utc>,
    },
    /// As many of its tenant's jobs run in the queue as may.
    TenantAtLimit {
        tenant: String,
        queue: String,
        running: i64,
        limit: i32,
    },
    /// As many of the queue's jobs run as may.
    QueueAtLimit {
        queue: String,
        running: i64,
        limit: i32,
    },
    /// It waits for its turn.
    Waiting {
        queue: String,
        /// Jobs of its own lane (tenant and rate key) that come first.
        lane: i64,
        /// Jobs of the whole queue that come first, roughly: those of a higher priority, and of each other lane as many as
        /// of its own, because lanes take turns.
        ahead: i64,
        /// More jobs than were counted.
        capped: bool,
        /// Jobs of the queue that workers have now.
        running: i64,
    },
    /// Workers were lost that had it.
    CrashSuspect {
        crashes: u32,
        of: u32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished { state, at, attempt, because } => {
                write!(f, "It was {state}{} in attempt {attempt}", At(" at ", *at))?;
                match because {
                    Some(because) => write!(f, ": {because}"),
                    None => f.write_str("."),
                }
            }
            Self::Running { worker, claimed_at, begun_at, lease_until, lost, cancel_requested } => {
                let worker = worker.as_deref().unwrap_or("a worker");
                match begun_at {
                    Some(at) => write!(f, "It is running on {worker} since {}", time(*at))?,
                    None => {
                        write!(f, "It was fetched by {worker}{} and may not have begun yet", At(" at ", *claimed_at))?;
                    }
                }
                match lost {
                    true => write!(
                        f,
                        "; its lease ran out at {}, so the worker seems lost and another takes it over",
                        time(*lease_until)
                    )?,
                    false => write!(f, "; its lease lasts until {}", time(*lease_until))?,
                }
                f.write_str(if *cancel_requested { "; it has been asked to stop." } else { "." })
            }
            Self::QueuePaused { queue, since } => {
                write!(
                    f,
                    "The queue {queue} is paused since {}: nothing is claimed from it until it is resumed.",
                    time(*since)
                )
            }
            Self::TenantHeld { tenant, since } => {
                let tenant = tenant.as_deref().unwrap_or("-");
                write!(
                    f,
                    "The tenant {tenant} is on hold{}: its jobs wait until it is released.",
                    At(" since ", *since)
                )
            }
            Self::NoClaims { queue, due_since, last_claim } => {
                write!(
                    f,
                    "It is due since {}, and no worker seems to claim from the queue {queue}: ",
                    time(*due_since)
                )?;
                match last_claim {
                    Some(at) => write!(f, "the last claim that is known was at {}.", time(*at)),
                    None => f.write_str("no claim is known."),
                }
            }
            Self::Scheduled { at } => write!(f, "It is scheduled for {}.", time(*at)),
            Self::Snoozed { until } => write!(f, "Its handler put it off until {}.", time(*until)),
            Self::Retrying { at, attempt, max_attempts, error } => {
                let error = error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
                write!(f, "Attempt {attempt} of {max_attempts} failed{error}; the next is due at {}.", time(*at))
            }
            Self::RateBlocked { key, until } => {
                write!(f, "The rate limit {key} is blocked until {}: the other side asked for it.", time(*until))
            }
            Self::RateUsedUp { key, next_permit_at } => {
                write!(f, "The rate limit {key} is used up; its next permit is there at {}.", time(*next_permit_at))
            }
            Self::TenantAtLimit { tenant, queue, running, limit } => {
                write!(f, "The tenant {tenant} is at its limit in the queue {queue}: {running} of {limit} jobs run.")
            }
            Self::QueueAtLimit { queue, running, limit } => {
                write!(f, "The queue {queue} is at its limit: {running} of {limit} jobs run.")
            }
            Self::Waiting { queue, lane, ahead, capped, running } => {
                let more = if *capped { "+" } else { "" };
                match ahead {
                    0 => write!(f, "It is the next of the queue {queue}")?,
                    _ => write!(
                        f,
                        "About {ahead}{more} jobs of the queue {queue} are ahead of it, {lane} of its own lane"
                    )?,
                }
                write!(f, "; workers have {running} of the queue's jobs now.")
            }
            Self::CrashSuspect { crashes, of } => {
                write!(
                    f,
                    "Workers were lost {crashes} times while they ran it, or may have: after {of} times it is discarded."
                )
            }
        }
    }
}

/// A time with the word before it, if there is one.
struct At(&'static str, Option<DateTime<Utc>>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1.map_or(Ok(()), |at| write!(f, "{}{}", self.0, time(at)))
    }
}

fn time(at: DateTime<Utc>) -> impl fmt::Display {
    at.format("%Y-%m-%d %H:%M:%SZ")
}

/// An unfinished job, as far as it matters here.
#[derive(FromRow)]
struct Unfinished {
    queue: String,
    tenant: Option<String>,
    lane: String,
    state: String,
    priority: i16,
    run_at: DateTime<Utc>,
    attempt: i32,
    max_attempts: i32,
    held: bool,
    rate_key: Option<String>,
    crashes: i16,
    worker: Option<String>,
    attempted_at: Option<DateTime<Utc>>,
    begun_at: Option<DateTime<Utc>>,
    lease_until: Option<DateTime<Utc>>,
    cancel_requested: bool,
    last_error: Option<String>,
    last_event: Option<String>,
    now: DateTime<Utc>,
}

/// What is decided about the job's queue, tenant and rate key, and how things stand there.
#[derive(FromRow)]
struct Surroundings {
    paused_at: Option<DateTime<Utc>>,
    held_at: Option<DateTime<Utc>>,
    max_running: Option<i32>,
    max_running_per_tenant: Option<i32>,
    running: i64,
    running_of_tenant: i64,
    blocked_until: Option<DateTime<Utc>>,
    tokens: Option<f64>,
    permits_per_s: Option<f64>,
    last_claim: Option<DateTime<Utc>>,
}

/// Why the job has not run, or what became of it; with a tenant, only of that tenant's, and without the names of workers.
/// `None`: there is no such job.
pub async fn explain(db: &mut PgConnection, id: Uuid, tenant: Option<&str>) -> sqlx::Result<Option<Why>> {
    let unfinished: Option<Unfinished> = sqlx::query_as(
        "select queue, tenant, lane, state, priority, run_at, attempt, max_attempts, held, rate_key, crashes, worker,
                attempted_at, begun_at, lease_until, cancel_requested_at is not null as cancel_requested,
                errors -> -1 ->> 'error' as last_error, trail -> -1 ->> 'event' as last_event, clock_timestamp() as now
         from queue.jobs where id = $1 and ($2::text is null or tenant = $2)",
    )
    .bind(id)
    .bind(tenant)
    .fetch_optional(&mut *db)
    .await?;
    let Some(job) = unfinished else { return finished(db, id, tenant).await };
    let state: JobState = job.state.parse().map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    let (mut reasons, expected_at) = match job.lease_until {
        Some(lease_until) => (vec![job.running(lease_until, tenant.is_none())], None),
        None => unclaimed(db, id, &job, state).await?,
    };
    if job.crashes > 0 {
        reasons.push(Reason::CrashSuspect {
            crashes: job.crashes.unsigned_abs().into(),
            of: CRASHES.unsigned_abs().into(),
        });
    }
    Ok(Some(Why::of(id, state, reasons, expected_at, job.now)))
}

async fn finished(db: &mut PgConnection, id: Uuid, tenant: Option<&str>) -> sqlx::Result<Option<Why>> {
    let Some(job) = find(&mut *db, id, tenant).await? else { return Ok(None) };
    let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()").fetch_one(db).await?;
    let (state, at, because) = (job.state, job.finished_at, job.reason);
    let reason = Reason::Finished { state, at, attempt: job.attempt, because };
    Ok(Some(Why::of(id, state, vec![reason], None, now)))
}

/// The reasons why nobody has the job, and when somebody may.
async fn unclaimed(
    db: &mut PgConnection,
    id: Uuid,
    job: &Unfinished,
    state: JobState,
) -> sqlx::Result<(Vec<Reason>, Option<DateTime<Utc>>)> {
    let around: Surroundings = sqlx::query_as("select * from queue.surroundings($1, $2, $3)")
        .bind(&job.queue)
        .bind(&job.tenant)
        .bind(&job.rate_key)
        .fetch_one(&mut *db)
        .await?;
    let (lane, ahead): (i64, i64) = sqlx::query_as("select * from queue.ahead($1, $2, $3, $4, $5, $6)")
        .bind(&job.queue)
        .bind(job.priority)
        .bind(&job.lane)
        .bind(job.run_at)
        .bind(id)
        .bind(AHEAD_AT_MOST)
        .fetch_one(db)
        .await?;

    // What only a person can change comes first.
    let mut reasons = Vec::new();
    if let Some(since) = around.paused_at {
        reasons.push(Reason::QueuePaused { queue: job.queue.clone(), since });
    }
    if job.held {
        reasons.push(Reason::TenantHeld { tenant: job.tenant.clone(), since: around.held_at });
    }
    let stopped = !reasons.is_empty();
    let wait_for_time = job.wait_for_time(state);
    let rate = around.rate(job, lane);
    let limits = around.limits(job);
    let overdue = job.run_at + PATIENCE < job.now
        && around.running == 0
        && around.last_claim.is_none_or(|at| at + PATIENCE < job.now);
    let unserved = overdue && !stopped && limits.is_empty() && !matches!(rate, Some((Some(_), _)));
    if unserved {
        let (queue, last_claim) = (job.queue.clone(), around.last_claim);
        reasons.push(Reason::NoClaims { queue, due_since: job.run_at, last_claim });
    }
    let unpredictable = stopped || unserved || !limits.is_empty();

    let mut expected_at = None;
    if let Some(reason) = wait_for_time {
        expected_at = Some(job.run_at.max(job.now));
        reasons.push(reason);
    }
    if let Some((reason, at)) = rate {
        expected_at = expected_at.max(at);
        reasons.extend(reason);
    }
    reasons.extend(limits);
    if state == JobState::Available && !job.held {
        let capped = lane.max(ahead) >= i64::from(AHEAD_AT_MOST);
        reasons.push(Reason::Waiting { queue: job.queue.clone(), lane, ahead, capped, running: around.running });
    }
    Ok((reasons, expected_at.filter(|_| !unpredictable)))
}

impl Why {
    fn of(
        id: Uuid,
        state: JobState,
        reasons: Vec<Reason>,
        expected_at: Option<DateTime<Utc>>,
        asked_at: DateTime<Utc>,
    ) -> Self {
        let sentence = reasons.first().map(ToString::to_string).unwrap_or_default();
        Self { id, state, sentence, reasons, expected_at, asked_at }
    }
}

impl Unfinished {
    fn running(&self, lease_until: DateTime<Utc>, name_worker: bool) -> Reason {
        Reason::Running {
            worker: self.worker.clone().filter(|_| name_worker),
            claimed_at: self.attempted_at,
            begun_at: self.begun_at,
            lease_until,
            lost: lease_until < self.now,
            cancel_requested: self.cancel_requested,
        }
    }

    fn wait_for_time(&self, state: JobState) -> Option<Reason> {
        match state {
            JobState::Scheduled if self.last_event.as_deref() == Some("snoozed") => {
                Some(Reason::Snoozed { until: self.run_at })
            }
            JobState::Scheduled => Some(Reason::Scheduled { at: self.run_at }),
            JobState::Retryable => Some(Reason::Retrying {
                at: self.run_at,
                attempt: self.attempt.unsigned_abs(),
                max_attempts: self.max_attempts.unsigned_abs(),
                error: self.last_error.clone(),
            }),
            _ => None,
        }
    }
}

impl Surroundings {
    /// Whether the job's rate limit stops it now, and from when on it has a permit for it and for those before it.
    fn rate(&self, job: &Unfinished, lane: i64) -> Option<(Option<Reason>, Option<DateTime<Utc>>)> {
        let (key, tokens, per_s) = (job.rate_key.clone()?, self.tokens?, self.permits_per_s?);
        if let Some(until) = self.blocked_until {
            return Some((Some(Reason::RateBlocked { key, until }), Some(until)));
        }
        let permit = |number: f64| job.now + seconds(((number - tokens) / per_s).max(0.0));
        if tokens < 1.0 {
            let next_permit_at = permit(1.0);
            return Some((Some(Reason::RateUsedUp { key, next_permit_at }), Some(permit(as_number(lane) + 1.0))));
        }
        Some((None, (as_number(lane) + 1.0 > tokens).then(|| permit(as_number(lane) + 1.0))))
    }

    fn limits(&self, job: &Unfinished) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let queue = &job.queue;
        if let (Some(tenant), Some(limit)) = (&job.tenant, self.max_running_per_tenant)
            && self.running_of_tenant >= limit.into()
        {
            let (tenant, running) = (tenant.clone(), self.running_of_tenant);
            reasons.push(Reason::TenantAtLimit { tenant, queue: queue.clone(), running, limit });
        }
        if let Some(limit) = self.max_running
            && self.running >= limit.into()
        {
            reasons.push(Reason::QueueAtLimit { queue: queue.clone(), running: self.running, limit });
        }
        reasons
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count up to AHEAD_AT_MOST")]
fn as_number(count: i64) -> f64 {
    count as f64
}

/// At most a year: what waits longer is not waited for.
fn seconds(seconds: f64) -> TimeDelta {
    TimeDelta::from_std(std::time::Duration::from_secs_f64(seconds.min(366.0 * 86_400.0))).unwrap_or(TimeDelta::MAX)
}
