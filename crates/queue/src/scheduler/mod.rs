//! Enqueues jobs by the clock.
//!
//! An apalis worker on an apalis-cron clock is the heartbeat; the database decides. At each beat a scheduler works out
//! which ticks are owed since the stored cursor and, in one transaction, writes a row per tick, enqueues its job and moves
//! the cursor. So any number of schedulers may run, a tick fires once, and what was missed while none ran is known.

mod beat;
mod cron;
mod file;
mod operate;
mod schedule;
mod verify;

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use apalis::prelude::{Data, WorkerBuilder, WorkerError};
use apalis_cron::CronScheduler;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use futures::{FutureExt, future::BoxFuture};
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub use beat::{Decision, Firing};
pub use cron::{CronExpression, WallClock};
pub use file::{ScheduleError, Schedules};
pub use operate::{ScheduleStatus, Tick, list, pause, recent_ticks, resume, run_now};
pub use schedule::{CATCH_UP_LIMIT, Due, DueTick, GRACE, Missed, Overlap, Schedule, next_firings};
pub use verify::{
    ClockChange, LONGEST_PERIOD, Moment, Period, PeriodError, TickOutcome, Verification, VerifiedFiring, VerifyError,
    clock_changes, verify,
};

/// How many tenants are decided, and how many jobs enqueued, at once.
const BATCH: usize = 500;

/// The longest rest after an error.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// How often the database is asked for the time.
const ASK_CLOCK_EVERY: Duration = Duration::from_secs(10);

/// A tenant that schedules fan out to, and the zone that it lives by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantZone {
    /// The opaque key that its jobs carry.
    pub tenant: String,
    pub time_zone: Tz,
}

/// Tells the scheduler whom schedules fan out to.
///
/// A tenant that is not listed gets no ticks. When it is listed again it starts anew, like one that was just created:
/// nothing that fell into its absence is made good. So answer an error, never a part of the list.
pub trait Tenants: Send + Sync {
    fn schedule_tenants(&self) -> BoxFuture<'_, anyhow::Result<Vec<TenantZone>>>;
}

impl<F> Tenants for F
where
    F: Fn() -> BoxFuture<'static, anyhow::Result<Vec<TenantZone>>> + Send + Sync,
{
    fn schedule_tenants(&self) -> BoxFuture<'_, anyhow::Result<Vec<TenantZone>>> {
        self()
    }
}

/// One of any number of schedulers on a database.
pub struct Scheduler {
    pool: PgPool,
    schedules: Schedules,
    tenants: Arc<dyn Tenants>,
    agenda: Mutex<beat::Agenda>,
}

impl Scheduler {
    pub fn new(pool: PgPool, schedules: Schedules, tenants: Arc<dyn Tenants>) -> Self {
        Self { pool, schedules, tenants, agenda: Mutex::default() }
    }

    /// Fires schedules until `shutdown`. Rides out every error with back-off. A firing that the shutdown interrupts is
    /// rolled back and made good by the next scheduler.
    pub async fn run(self, shutdown: CancellationToken) {
        let heart = Arc::new(Heart { scheduler: self, resting: Mutex::default(), clock: Mutex::default() });
        tracing::info!(schedules = heart.scheduler.schedules.iter().len(), "scheduler started");
        loop {
            // apalis-cron ends its worker when a tick is overdue, as after a suspended process: begin again.
            match shutdown.run_until_cancelled(beats(heart.clone())).await {
                None => break,
                Some(Ok(())) => tracing::warn!("the scheduler's clock stopped; starting it again"),
                Some(Err(error)) => tracing::warn!(%error, "the scheduler's clock failed; starting it again"),
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await.is_none() {
                break;
            }
        }
        tracing::info!("scheduler stopped");
    }
}

struct Heart {
    scheduler: Scheduler,
    /// Held while a beat goes on and through the rest after an error, whose length it remembers.
    resting: Mutex<Duration>,
    clock: Mutex<Option<Clock>>,
}

/// What the database's clock said, and when.
#[derive(Clone, Copy)]
struct Clock {
    said: DateTime<Utc>,
    at: Instant,
}

impl Heart {
    /// The time by the database's clock, so that all schedulers live by one; this machine's only carries it on for a while.
    async fn now(&self) -> sqlx::Result<DateTime<Utc>> {
        let mut clock = self.clock.lock().await;
        let known = match *clock {
            Some(known) if known.at.elapsed() < ASK_CLOCK_EVERY => known,
            _ => {
                let at = Instant::now();
                let said = sqlx::query_scalar("select clock_timestamp()").fetch_one(&self.scheduler.pool).await?;
                *clock.insert(Clock { said, at })
            }
        };
        Ok(known.said + known.at.elapsed())
    }

    async fn beat(&self) -> anyhow::Result<()> {
        let now = self.now().await.context("could not ask the database for the time")?;
        self.scheduler.beat(now).await.map(drop)
    }
}

fn beats(heart: Arc<Heart>) -> BoxFuture<'static, Result<(), WorkerError>> {
    let clock = WorkerBuilder::new("scheduler").backend(CronScheduler::new(EverySecond));
    clock.data(heart).build(on_tick).run().boxed()
}

async fn on_tick(_: apalis_cron::Tick, heart: Data<Arc<Heart>>) -> Result<(), Infallible> {
    let Ok(mut rest) = heart.resting.try_lock() else { return Ok(()) };
    let beat = AssertUnwindSafe(heart.beat()).catch_unwind();
    match beat.await.unwrap_or_else(|_| Err(anyhow::anyhow!("a beat panicked"))) {
        Ok(()) => *rest = Duration::ZERO,
        Err(error) => {
            *rest = (*rest * 2).clamp(Duration::from_secs(1), LONGEST_BACKOFF);
            tracing::warn!(error = format!("{error:#}"), retry_in_s = rest.as_secs(), "schedules could not be fired");
            tokio::time::sleep(*rest).await;
        }
    }
    Ok(())
}

/// The clock's own schedule: each full second that is at least a quarter of a second away. A nearer one could be overdue
/// when apalis-cron looks at it, which ends the worker.
#[derive(Clone, Copy, Debug)]
struct EverySecond;

impl<Z> apalis_cron::Schedule<Z> for EverySecond {
    fn next_tick(&mut self, _: &Z) -> Option<apalis_cron::Tick<Z>> {
        let soonest = Utc::now() + chrono::TimeDelta::milliseconds(250);
        Some(apalis_cron::Tick::new(u64::try_from(soonest.timestamp()).ok()? + 1))
    }
}
