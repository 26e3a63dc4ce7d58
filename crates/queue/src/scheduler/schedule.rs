//! One schedule, and what it owes at a given time. No I/O.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::CronExpression;
use crate::NewJob;

/// A tick that is decided later than this after its time was missed: nobody was there to fire it.
pub const GRACE: TimeDelta = TimeDelta::seconds(60);

/// How many ticks of one schedule and tenant are decided at once. Older ones are neither run nor recorded.
pub const CATCH_UP_LIMIT: usize = 1_000;

/// What becomes of ticks that were missed while everything was down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// None runs.
    Skip,
    /// The latest runs, unless a tick that is on time runs anyway.
    #[default]
    RunOnce,
    /// Each runs, up to [`CATCH_UP_LIMIT`].
    RunEach,
}

/// What becomes of a tick that would run while the job of the tick before is unfinished: waiting, running, or waiting to be
/// tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Its job is enqueued, and may run beside the other.
    #[default]
    Queue,
    /// It enqueues nothing. Of missed ticks that are made good together, the first runs.
    Skip,
}

/// A job that is enqueued by the clock.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub name: String,
    pub cron: CronExpression,
    /// `None`: it fans out, and fires for each tenant in the tenant's own zone.
    pub time_zone: Option<Tz>,
    pub missed: Missed,
    /// Counts per tenant where the schedule fans out. Jobs that [`run_now`](super::run_now) enqueued do not count.
    pub overlap: Overlap,
    /// The job as each firing enqueues it, apart from its id and tenant.
    pub(super) job: NewJob,
}

/// What is owed to one tenant, oldest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    pub ticks: Vec<DueTick>,
    /// There were more than [`CATCH_UP_LIMIT`]; the oldest are left out.
    pub cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueTick {
    pub at: DateTime<Utc>,
    /// False: it is only recorded.
    pub runs: bool,
}

impl Schedule {
    pub fn per_tenant(&self) -> bool {
        self.time_zone.is_none()
    }

    pub fn kind(&self) -> &str {
        &self.job.kind
    }

    pub fn args(&self) -> &serde_json::Value {
        &self.job.args
    }

    /// The ticks later than `decided_until` and not later than `now`, and which of them run.
    pub fn due(&self, zone: Tz, decided_until: DateTime<Utc>, now: DateTime<Utc>) -> Due {
        let mut ticks: Vec<_> = self
            .ticks_back(zone, now)
            .map(|at| at.to_utc())
            .take_while(|at| *at > decided_until)
            .take(CATCH_UP_LIMIT + 1)
            .map(|at| DueTick { at, runs: now - at <= GRACE || self.missed == Missed::RunEach })
            .collect();
        let cut = ticks.len() > CATCH_UP_LIMIT;
        ticks.truncate(CATCH_UP_LIMIT);
        if self.missed == Missed::RunOnce
            && let Some(latest) = ticks.first_mut()
        {
            latest.runs = true;
        }
        ticks.reverse();
        Due { ticks, cut }
    }

    /// The ticks not later than `until`, latest first. What is decided and what is foretold come from here.
    pub(super) fn ticks_back(&self, zone: Tz, until: DateTime<Utc>) -> impl Iterator<Item = DateTime<Tz>> + '_ {
        let last = self.cron.last_until(until.with_timezone(&zone));
        std::iter::successors(last, |at| self.cron.last_until(*at - TimeDelta::seconds(1)))
    }

    /// A job for one firing.
    pub(super) fn new_job(&self, tenant: Option<&str>) -> NewJob {
        NewJob { id: Uuid::now_v7(), tenant: tenant.map(str::to_owned), ..self.job.clone() }
    }
}

/// The next firings after `from`, for a preview. `zone` is the schedule's own, or a tenant's.
pub fn next_firings(schedule: &Schedule, zone: Tz, from: DateTime<Utc>, count: usize) -> Vec<DateTime<Tz>> {
    schedule.cron.firings(zone, from).take(count).collect()
}
