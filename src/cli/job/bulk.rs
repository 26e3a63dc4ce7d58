//! `backroom job bulk retry|cancel|discard|apply|show` (PLAT-13, PLAT-23)

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use backroom_queue::{
    JobState,
    bulk::{self, Action, BulkError, BulkFilter, NewPlan, PLAN_AT_MOST, Plan, Share},
};
use chrono::{DateTime, Utc};
use clap::{Subcommand, builder::NonEmptyStringValueParser};
use indicatif::{ProgressBar, ProgressStyle};
use uuid::Uuid;

use super::{Output, Session};
use crate::cli::{
    exit::{not_found, usage},
    output::time,
};

#[derive(Subcommand)]
pub enum Bulk {
    /// Run dead letters again, with fresh attempts; another state only if `--state` names it
    #[command(after_help = "Example:\n  backroom job bulk retry --kind billing.remind_invoice --error 'no connection'")]
    Retry(Args),
    /// Cancel what waits, and ask what runs to stop
    #[command(after_help = "Example:\n  backroom job bulk cancel --org acme --queue reports --yes")]
    Cancel(Args),
    /// Make dead letters of what waits
    #[command(after_help = "Example:\n  backroom job bulk discard --batch 01980a3c-4f00-7000-8000-000000000000 --plan")]
    Discard(Args),
    /// Do what a plan says, to its jobs and no others; one that was interrupted goes on
    #[command(after_help = "Example:\n  backroom job bulk apply 01980a3c-4f00-7000-8000-000000000000")]
    Apply { plan: Uuid },
    /// Show a plan, and what became of it
    #[command(after_help = "Example:\n  backroom job bulk show 01980a3c-4f00-7000-8000-000000000000")]
    Show { plan: Uuid },
}

/// Which jobs: all that is given must hold.
#[derive(clap::Args)]
pub struct Args {
    /// Slug of the organization
    #[arg(long)]
    org: Option<String>,
    /// Kind of job
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    kind: Option<String>,
    /// Name of the queue
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    queue: Option<String>,
    /// State of the job
    #[arg(long)]
    state: Option<JobState>,
    /// Words of the last error, or of the reason of its end
    #[arg(long, value_name = "WORDS", value_parser = NonEmptyStringValueParser::new())]
    error: Option<String>,
    /// Enqueued at this time or later, such as 2026-01-02T09:00:00Z
    #[arg(long, value_name = "TIME")]
    created_after: Option<DateTime<Utc>>,
    /// Enqueued before this time
    #[arg(long, value_name = "TIME")]
    created_before: Option<DateTime<Utc>>,
    /// Members of this batch
    #[arg(long, value_name = "ID")]
    batch: Option<Uuid>,
    /// All jobs, where nothing else is given
    #[arg(long)]
    all: bool,
    /// Kept with the jobs that are ended
    #[arg(long, default_value = "ended in bulk by an operator")]
    reason: String,
    /// Apply the plan without asking
    #[arg(long)]
    yes: bool,
    /// Make and show the plan only; `backroom job bulk apply` applies it
    #[arg(long, conflicts_with = "yes")]
    plan: bool,
}

pub async fn run(session: &Session, command: Bulk, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Bulk::Retry(args) => act(session, Action::Retry, args, output).await,
        Bulk::Cancel(args) => act(session, Action::Cancel, args, output).await,
        Bulk::Discard(args) => act(session, Action::Discard, args, output).await,
        Bulk::Apply { plan } => {
            let applied = apply(session, plan).await?;
            output.answer(&applied, || result(&applied))?;
            Ok(ExitCode::SUCCESS)
        }
        Bulk::Show { plan } => {
            let found = bulk::find(&mut *session.connection().await?, plan, None).await?;
            let plan = found.ok_or_else(|| no_such_plan(plan))?;
            output.answer(&plan, || if plan.applied.handled > 0 { result(&plan) } else { describe(&plan) })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn act(session: &Session, action: Action, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let asks = !args.yes && !args.plan;
    if asks && (output.json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal()) {
        return Err(usage("there is nobody to ask: --plan shows what would be done, --yes does it"));
    }
    if let Some(org) = &args.org {
        session.organization(org).await?;
    }
    let new = NewPlan {
        action,
        filter: BulkFilter {
            tenant: args.org,
            kind: args.kind,
            queue: args.queue,
            state: args.state,
            error_contains: args.error,
            created_after: args.created_after,
            created_before: args.created_before,
            batch_id: args.batch,
        },
        all: args.all,
        owner: None,
        reason: args.reason,
    };
    let plan = bulk::plan(&mut *session.connection().await?, new).await.map_err(|error| told(error, None))?;
    if plan.jobs == 0 {
        output.answer(&plan, || describe(&plan))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.plan {
        output.answer(&plan, || format!("{}\nnext: backroom job bulk apply {}", describe(&plan), plan.id))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !output.json {
        output.line(&describe(&plan))?;
    }
    if asks && !ask(&plan)? {
        output.line(&format!(
            "nothing was done; until {}: backroom job bulk apply {}",
            time(plan.expires_at),
            plan.id
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let applied = apply(session, plan.id).await?;
    output.answer(&applied, || result(&applied))?;
    Ok(ExitCode::SUCCESS)
}

async fn apply(session: &Session, id: Uuid) -> anyhow::Result<Plan> {
    let bar =
        ProgressBar::no_length().with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} jobs, {eta} left")?);
    let applied = bulk::apply(&session.db, id, None, |plan| {
        bar.set_length(plan.jobs.into());
        bar.set_position(plan.applied.handled.into());
    });
    let applied = applied.await;
    bar.finish_and_clear();
    applied.map_err(|error| told(error, Some(id)))
}

/// The queue's refusal as the command line tells it.
fn told(error: BulkError, plan: Option<Uuid>) -> anyhow::Error {
    match (error, plan) {
        (BulkError::NoFilter, _) => usage(
            "that would be all jobs: say which (--org, --kind, --queue, --state, --error, …), or --all if it is meant",
        ),
        (error @ BulkError::State { .. }, _) => usage(error.to_string()),
        (BulkError::NotFound, Some(id)) => no_such_plan(id),
        (error, _) => error.into(),
    }
}

fn no_such_plan(id: Uuid) -> anyhow::Error {
    not_found(format!("there is no plan {id}; plans are forgotten a week after they expire"))
}

fn ask(plan: &Plan) -> anyhow::Result<bool> {
    let mut err = std::io::stderr().lock();
    write!(err, "{} {} jobs? [y/N] ", plan.action.as_str(), plan.jobs).and_then(|()| err.flush())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("could not read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn describe(plan: &Plan) -> String {
    if plan.jobs == 0 {
        return "there is no such job".to_owned();
    }
    let mut text = format!("plan {}: {} {} jobs\n", plan.id, plan.action.as_str(), plan.jobs);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<14}{value}");
    };
    if plan.more {
        line(
            "more",
            format!("the filter finds more than {PLAN_AT_MOST}; these are the oldest, make another plan afterwards"),
        );
    }
    line("organizations", shares(&plan.by_tenant));
    line("kinds", shares(&plan.by_kind));
    line("states", shares(&plan.by_state));
    for share in &plan.effects {
        line("effects", format!("{} {} by {}", share.effects, share.state, share.kind));
    }
    for sample in &plan.sample {
        let error = sample.error.as_ref().map(|error| format!(": {}", first_line(error))).unwrap_or_default();
        line("for example", format!("{} {} {}{error}", sample.id, sample.kind, sample.state));
    }
    line("good until", time(plan.expires_at));
    text
}

/// The most first, and how many are not named.
fn shares(shares: &[Share]) -> String {
    const NAMED: usize = 8;
    let named = shares.iter().take(NAMED);
    let mut parts: Vec<_> =
        named.map(|share| format!("{} {}", share.name.as_deref().unwrap_or("(none)"), share.jobs)).collect();
    if shares.len() > NAMED {
        parts.push(format!("and {} more", shares.len() - NAMED));
    }
    parts.join(", ")
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(120).collect()
}

fn result(plan: &Plan) -> String {
    let applied = &plan.applied;
    let done = match plan.action {
        Action::Retry => "retried",
        Action::Cancel => "cancelled",
        Action::Discard => "discarded",
    };
    let mut text = format!("{done} {} of {} jobs", applied.done, plan.jobs);
    for (count, what) in [
        (applied.requested, "running, asked to stop"),
        (applied.changed, "left alone: in another state by now"),
        (applied.duplicate, "left alone: the same work is queued as another job"),
        (applied.gone, "forgotten meanwhile"),
    ] {
        if count > 0 {
            let _ = write!(text, "\n  {count} {what}");
        }
    }
    if applied.finished_at.is_none() {
        let left = plan.jobs - applied.handled;
        let _ = write!(text, "\n  {left} not handled yet; next: backroom job bulk apply {}", plan.id);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_organizations_are_told_by_the_largest() {
        let share = |n: u32| Share { name: (n > 0).then(|| format!("org-{n}")), jobs: 100 - n };
        assert_eq!(shares(&[share(0), share(1)]), "(none) 100, org-1 99");
        let many: Vec<_> = (0..10).map(share).collect();
        assert!(shares(&many).ends_with("org-7 93, and 2 more"), "{}", shares(&many));
    }
}
