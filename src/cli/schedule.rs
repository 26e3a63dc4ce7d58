//! `backroom schedule …` (CRON-6)

use std::{collections::BTreeSet, process::ExitCode};

use backroom_queue::scheduler::{self, Schedules};
use clap::Subcommand;

use super::{
    exit::not_found,
    output::{Output, cell, maybe, time},
    session::Session,
};
use crate::context;

#[derive(Subcommand)]
pub enum Schedule {
    /// Show the schedules and when they fire next
    #[command(after_help = "Example:\n  backroom schedule list")]
    List,
    /// Preview the next firings
    #[command(after_help = "Example:\n  backroom schedule next billing.sweep_overdue -n 10 --org acme")]
    Next {
        name: String,
        /// How many
        #[arg(short, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
        n: u16,
        /// By this organization's clock, for a schedule per organization; every zone in use if left out
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

pub async fn run(session: &Session, command: Schedule, output: Output) -> anyhow::Result<ExitCode> {
    let schedules = context::schedules(&session.config, &session.registry)?;
    match command {
        Schedule::List => list(session, &schedules, output).await?,
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

async fn list(session: &Session, schedules: &Schedules, output: Output) -> anyhow::Result<()> {
    let tenants = context::schedule_tenants(&session.db).await?;
    let mut db = session.connection().await?;
    let statuses = scheduler::list(&mut db, schedules, &tenants, session.clock.now()).await?;
    output.answer(&serde_json::json!({ "schedules": statuses }), || {
        let rows = statuses.iter().map(|s| {
            let zone = s.time_zone.clone().unwrap_or_else(|| "each organization's".to_owned());
            let next = if s.paused { cell("paused") } else { maybe(s.next.map(time)) };
            [cell(&s.name), cell(&s.cron), cell(zone), cell(&s.kind), next, maybe(s.last_tick.map(time))]
        });
        output.table(["name", "cron", "time zone", "kind", "next", "last tick"], rows.collect(), "there is no schedule")
    })
}

async fn next(
    session: &Session,
    schedule: &scheduler::Schedule,
    n: u16,
    org: Option<String>,
    output: Output,
) -> anyhow::Result<()> {
    let zones: BTreeSet<&'static str> = match (schedule.time_zone, org) {
        (Some(zone), _) => BTreeSet::from([zone.name()]),
        (None, Some(org)) => BTreeSet::from([session.organization(&org).await?.time_zone.name()]),
        (None, None) => {
            let tenants = context::schedule_tenants(&session.db).await?;
            tenants.iter().map(|tenant| tenant.time_zone.name()).collect()
        }
    };
    let mut firings = Vec::new();
    for name in zones {
        let zone: chrono_tz::Tz = name.parse()?;
        firings.extend(scheduler::next_firings(schedule, zone, session.clock.now(), usize::from(n)));
    }
    firings.sort();
    let documents: Vec<_> = firings
        .iter()
        .map(|at| serde_json::json!({ "at": at.to_utc(), "local": at.to_rfc3339(), "time_zone": at.timezone().name() }))
        .collect();
    output.answer(&serde_json::json!({ "schedule": schedule.name, "next": documents }), || {
        let local = |at: &chrono::DateTime<chrono_tz::Tz>| at.format("%a %Y-%m-%d %H:%M:%S %Z").to_string();
        let rows = firings.iter().map(|at| [cell(time(at.to_utc())), cell(local(at)), cell(at.timezone().name())]);
        let empty = "it fires for each organization, and there is none in good standing";
        output.table(["at", "local", "time zone"], rows.collect(), empty)
    })
}

async fn run_now(
    session: &Session,
    schedule: &scheduler::Schedule,
    org: Option<String>,
    output: Output,
) -> anyhow::Result<()> {
    let tenants = match org {
        Some(org) => vec![session.organization(&org).await?.slug.as_str().to_owned()],
        None => context::schedule_tenants(&session.db).await?.into_iter().map(|tenant| tenant.tenant).collect(),
    };
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
