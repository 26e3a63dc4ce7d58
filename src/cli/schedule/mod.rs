//! `backroom schedule …` (CRON-5, CRON-6)

mod verify;

use std::{collections::BTreeMap, process::ExitCode};

use backroom_queue::scheduler::{self, Moment, Period, Schedules, TenantZone};
use chrono_tz::Tz;
use clap::Subcommand;

use super::{
    exit::{not_found, usage},
    output::{Output, cell, maybe, time},
    session::Session,
};
use crate::context;

/// How many upcoming firings and past ticks `schedule show` shows.
const SHOWN: u16 = 5;

#[derive(Subcommand)]
pub enum Schedule {
    /// Show the schedules and when they fire next
    #[command(after_help = "Example:\n  backroom schedule list")]
    List,
    /// Show one schedule, its next firings and its latest ticks with their jobs
    #[command(after_help = "Example:\n  backroom schedule show billing.sweep_overdue --org acme")]
    Show {
        name: String,
        /// The firings and ticks of this organization only, for a schedule per organization
        #[arg(long)]
        org: Option<String>,
    },
    /// Preview the next firings
    #[command(after_help = "Example:\n  backroom schedule next billing.sweep_overdue -n 10 --org acme")]
    Next {
        name: String,
        /// How many
        #[arg(short, long = "count", value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
        n: u16,
        /// By this organization's clock, for a schedule per organization; every zone in use if left out
        #[arg(long)]
        org: Option<String>,
    },
    /// Show every firing in a period, clock changes included, and what became of those that are past
    #[command(after_help = VERIFY_HELP)]
    Verify {
        /// Every schedule if left out
        name: Option<String>,
        /// The first moment: a date on the schedule's clock, or a time such as 2026-03-29T00:00:00Z
        #[arg(long, value_name = "DATE")]
        from: Moment,
        /// The moment before which the period ends
        #[arg(long, value_name = "DATE")]
        to: Moment,
        /// For this organization only, for schedules per organization
        #[arg(long)]
        org: Option<String>,
    },
    /// Enqueue a schedule's job now, paused or not
    #[command(after_help = "Example:\n  backroom schedule run billing.sweep_overdue --org acme")]
    Run {
        name: String,
        /// For this organization only, for a schedule per organization
        #[arg(long)]
        org: Option<String>,
    },
    /// Skip a schedule's firings until it is resumed
    #[command(after_help = "Example:\n  backroom schedule pause billing.sweep_overdue")]
    Pause { name: String },
    /// Let a paused schedule fire again
    #[command(after_help = "Example:\n  backroom schedule resume billing.sweep_overdue")]
    Resume { name: String },
}

const VERIFY_HELP: &str = "\
Computed by the code that the scheduler decides with. What became of a firing:
  enqueued    its job was enqueued
  duplicate   a job that counts as the same work was unfinished
  overlap     the job of the firing before was unfinished, and the schedule skips overlaps
  missed      no scheduler was running, and the schedule does not make it good
  paused      the schedule was paused
  owed        the next scheduler decides it; is one running?
  missing     it should have been decided, and there is no trace of it
  unrecorded  from before the schedule was in force, or more than 90 days ago

Example:
  backroom schedule verify billing.sweep_overdue --from 2026-03-28 --to 2026-03-31 --org acme";

pub async fn run(session: &Session, command: Schedule, output: Output) -> anyhow::Result<ExitCode> {
    let schedules = context::schedules(&session.config, &session.registry)?;
    match command {
        Schedule::List => list(session, &schedules, output).await?,
        Schedule::Show { name, org } => show(session, &schedules, &name, org, output).await?,
        Schedule::Verify { name, from, to, org } => {
            let period = Period { from, to };
            verify::run(session, &schedules, name.as_deref(), org, period, output).await?;
        }
        Schedule::Next { name, n, org } => next(session, find(&schedules, &name)?, n, org, output).await?,
        Schedule::Run { name, org } => run_now(session, find(&schedules, &name)?, org, output).await?,
        Schedule::Pause { name } => {
            find(&schedules, &name)?;
            let changed = scheduler::pause(&session.db, &name, session.clock.now()).await?;
            let text = if changed { "is paused" } else { "was paused already" };
            answer(output, &name, true, changed, text)?;
        }
        Schedule::Resume { name } => {
            find(&schedules, &name)?;
            let changed = scheduler::resume(&session.db, &name, session.clock.now()).await?;
            let text = if changed { "fires again" } else { "was not paused" };
            answer(output, &name, false, changed, text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(output: Output, schedule: &str, paused: bool, changed: bool, text: &str) -> anyhow::Result<()> {
    let document = serde_json::json!({ "schedule": schedule, "paused": paused, "changed": changed });
    output.answer(&document, || format!("schedule {schedule} {text}"))
}

fn find<'a>(schedules: &'a Schedules, name: &str) -> anyhow::Result<&'a scheduler::Schedule> {
    schedules
        .get(name)
        .ok_or_else(|| not_found(format!("there is no schedule `{name}`; `backroom schedule list` shows them")))
}

/// Whom the schedule fires for: the organizations in good standing, or the one that is named.
async fn tenants(
    session: &Session,
    schedule: &scheduler::Schedule,
    org: Option<&str>,
) -> anyhow::Result<Vec<TenantZone>> {
    match org {
        Some(_) if !schedule.per_tenant() => {
            Err(usage(format!("{} does not fire per organization; leave --org out", schedule.name)))
        }
        Some(org) => {
            let organization = session.organization(org).await?;
            let (tenant, time_zone) = (organization.slug.as_str().to_owned(), organization.time_zone);
            Ok(vec![TenantZone { tenant, time_zone }])
        }
        None => Ok(context::schedule_tenants(&session.db).await?),
    }
}

async fn list(session: &Session, schedules: &Schedules, output: Output) -> anyhow::Result<()> {
    let tenants = context::schedule_tenants(&session.db).await?;
    let mut db = session.connection().await?;
    let statuses = scheduler::list(&mut db, schedules, &tenants, session.clock.now()).await?;
    output.answer(&serde_json::json!({ "schedules": statuses }), || {
        let rows = statuses.iter().map(|s| {
            let zone = s.time_zone.clone().unwrap_or_else(|| "each organization's".to_owned());
            let next = if s.paused { cell("paused") } else { maybe(s.next.map(time)) };
            let overlap = verify::word(s.overlap);
            let last = maybe(s.last_tick.map(time));
            [cell(&s.name), cell(&s.cron), cell(zone), cell(overlap), next, last, maybe(s.last_outcome.as_deref())]
        });
        output.table(
            ["name", "cron", "time zone", "overlap", "next", "last tick", "outcome"],
            rows.collect(),
            "there is no schedule",
        )
    })
}

async fn show(
    session: &Session,
    schedules: &Schedules,
    name: &str,
    org: Option<String>,
    output: Output,
) -> anyhow::Result<()> {
    let schedule = find(schedules, name)?;
    let tenants = tenants(session, schedule, org.as_deref()).await?;
    let mut db = session.connection().await?;
    let statuses = scheduler::list(&mut db, schedules, &tenants, session.clock.now()).await?;
    let status = statuses.into_iter().find(|status| status.name == name);
    let ticks = scheduler::recent_ticks(&mut *db, schedule, org.as_deref(), SHOWN).await?;
    let next = if status.as_ref().is_some_and(|status| status.paused) {
        Vec::new()
    } else {
        upcoming(session, schedule, &tenants, SHOWN)
    };
    let document = serde_json::json!({ "schedule": status, "next": documents(&next), "ticks": ticks });
    output.answer(&document, || {
        let status = status.map(|status| {
            let zone = status.time_zone.unwrap_or_else(|| "each organization's".to_owned());
            let paused = if status.paused { "\npaused: backroom schedule resume " } else { "" };
            let whom = if status.paused { name } else { "" };
            format!(
                "{name}: {} {}\n{}, time zone {zone}, missed = {}, overlap = {}{paused}{whom}",
                status.kind,
                status.args,
                status.cron,
                verify::word(status.missed),
                verify::word(status.overlap)
            )
        });
        let rows = ticks.iter().map(|tick| {
            let organization = maybe(tick.tenant.as_deref());
            [cell(time(tick.tick_at)), organization, cell(&tick.outcome), maybe(tick.job_id.or(tick.blocked_by))]
        });
        let ticks = output.table(["tick", "organization", "outcome", "job"], rows.collect(), "it has not fired yet");
        [status.unwrap_or_default(), next_table(&next, output), ticks].join("\n\n")
    })
}

async fn next(
    session: &Session,
    schedule: &scheduler::Schedule,
    n: u16,
    org: Option<String>,
    output: Output,
) -> anyhow::Result<()> {
    let tenants = tenants(session, schedule, org.as_deref()).await?;
    let firings = upcoming(session, schedule, &tenants, n);
    let document = serde_json::json!({ "schedule": schedule.name, "next": documents(&firings) });
    output.answer(&document, || next_table(&firings, output))
}

type Upcoming = Vec<chrono::DateTime<Tz>>;

/// The next firings of each zone that the schedule fires in.
fn upcoming(session: &Session, schedule: &scheduler::Schedule, tenants: &[TenantZone], n: u16) -> Upcoming {
    let zones: BTreeMap<&str, Tz> = match schedule.time_zone {
        Some(zone) => BTreeMap::from([(zone.name(), zone)]),
        None => tenants.iter().map(|tenant| (tenant.time_zone.name(), tenant.time_zone)).collect(),
    };
    let of_zone = |zone| scheduler::next_firings(schedule, zone, session.clock.now(), usize::from(n));
    let mut firings: Upcoming = zones.into_values().flat_map(of_zone).collect();
    firings.sort();
    firings
}

fn documents(firings: &Upcoming) -> Vec<serde_json::Value> {
    let document = |at: &chrono::DateTime<Tz>| serde_json::json!({ "at": at.to_utc(), "local": at.to_rfc3339(), "time_zone": at.timezone().name() });
    firings.iter().map(document).collect()
}

fn next_table(firings: &Upcoming, output: Output) -> String {
    let local = |at: &chrono::DateTime<Tz>| at.format("%a %Y-%m-%d %H:%M:%S %Z").to_string();
    let rows = firings.iter().map(|at| [cell(time(at.to_utc())), cell(local(at)), cell(at.timezone().name())]);
    let empty = "it fires for each organization, and there is none in good standing";
    output.table(["at", "local", "time zone"], rows.collect(), empty)
}

async fn run_now(
    session: &Session,
    schedule: &scheduler::Schedule,
    org: Option<String>,
    output: Output,
) -> anyhow::Result<()> {
    let tenants = tenants(session, schedule, org.as_deref()).await?;
    let tenants: Vec<_> = tenants.into_iter().map(|tenant| tenant.tenant).collect();
    let mut tx = session.db.begin().await?;
    let enqueued = scheduler::run_now(&mut tx, schedule, &tenants).await?;
    tx.commit().await?;
    output.answer(&serde_json::json!({ "schedule": schedule.name, "jobs": enqueued }), || {
        let rows = enqueued.iter().map(|job| {
            [cell(job.id), output.state(job.state, false), cell(if job.duplicate { "was there already" } else { "" })]
        });
        output.table(
            ["job", "state", ""],
            rows.collect(),
            "nothing was enqueued: there is no organization in good standing",
        )
    })
}
