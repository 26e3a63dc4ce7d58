//! `backroom invoice remind` (BILL-8): who would be reminded and why, or the sweep itself, at once.

use std::{process::ExitCode, time::Duration};

use backroom_queue::TraceParent;
use serde_json::json;

use crate::{
    cli::{
        job,
        output::{Output, cell},
        session::Session,
    },
    domain::Organization,
    jobs::billing::{self, PlannedReminder, SweepOverdue},
    tenant,
};

/// How many overdue invoices are looked at with one query.
const PAGE: i64 = 500;

/// How long the sweep may wait before the operator is told that no worker seems to run.
const IMPATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct Args {
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// List who would be reminded and why; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Enqueue the sweep and return at once
    #[arg(long, conflicts_with = "dry_run")]
    no_wait: bool,
}

pub async fn run(session: &Session, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let organization = session.organization(&args.org).await?;
    if args.dry_run {
        return dry_run(session, &organization, output).await;
    }
    if organization.is_held() {
        let status = organization.billing_status;
        anyhow::bail!("{0} is {status}: its jobs are held; `backroom org activate {0}` first", args.org);
    }
    enqueue(session, &organization, args.no_wait, output).await
}

async fn dry_run(session: &Session, organization: &Organization, output: Output) -> anyhow::Result<ExitCode> {
    let plan = plan(session, organization).await?;
    let remind = plan.iter().filter(|planned| planned.stage.is_some()).count();
    let escalate = plan.iter().filter(|planned| planned.escalate).count();
    let nothing = plan.len() - remind - escalate;
    let document = json!({ "invoices": plan, "remind": remind, "escalate": escalate, "nothing": nothing });
    output.answer(&document, || {
        let rows = plan.iter().map(|planned| {
            let action = match planned.stage {
                Some(_) => "remind",
                None if planned.escalate => "escalate",
                None => "-",
            };
            [
                cell(&planned.number),
                cell(&planned.company),
                cell(&planned.recipient),
                cell(planned.amount.format(organization.locale)),
                cell(planned.due_date),
                cell(format!("{} days", planned.days_overdue)),
                cell(action),
                cell(&planned.why),
            ]
        });
        let header = ["invoice", "company", "e-mail", "amount", "due", "overdue", "action", "why"];
        let table = output.table(header, rows.collect(), "no invoice is overdue");
        format!("{table}\n\n{remind} to remind, {escalate} to escalate, {nothing} to leave alone; nothing was changed")
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn plan(session: &Session, organization: &Organization) -> anyhow::Result<Vec<PlannedReminder>> {
    let today = session.clock.today(organization.time_zone);
    let mut tx = tenant::begin(&session.db, organization).await?;
    let (mut plan, mut after) = (Vec::new(), None);
    loop {
        let page = billing::plan_reminders(&mut tx, organization, today, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some((last.due_date, last.invoice_id));
        plan.extend(page);
    }
    tx.rollback().await?;
    Ok(plan)
}

async fn enqueue(
    session: &Session,
    organization: &Organization,
    no_wait: bool,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let sweep = backroom_queue::NewJob::of(&SweepOverdue::default());
    let sweep = sweep.tenant(organization.slug.as_str()).trace(Some(TraceParent::new()));
    let enqueued = backroom_queue::enqueue(&session.db, &sweep).await?;
    if no_wait {
        output.answer(&enqueued, || format!("the sweep is job {}", enqueued.id))?;
        return Ok(ExitCode::SUCCESS);
    }
    let bar = indicatif::ProgressBar::new_spinner().with_message(format!("the sweep is job {}", enqueued.id));
    bar.enable_steady_tick(Duration::from_millis(100));
    let follow = job::follow(session, enqueued.id, |job| {
        bar.set_message(format!("the sweep, job {}, is {}", job.id, job.state));
        Ok(())
    });
    tokio::pin!(follow);
    let ended = match tokio::time::timeout(IMPATIENCE, &mut follow).await {
        Ok(ended) => ended,
        Err(_) => {
            bar.println(
                "the sweep has not ended yet; is a worker running (`backroom worker`)? Ctrl-C leaves it queued",
            );
            follow.await
        }
    };
    bar.finish_and_clear();
    let job = ended?;
    output.answer(&job, || {
        let outcome = job.result.as_ref().map(ToString::to_string).or_else(|| job.reason.clone()).unwrap_or_default();
        format!(
            "the sweep, job {}, is {}: {outcome}\nnext: backroom job list --org {}",
            job.id, job.state, organization.slug
        )
    })?;
    Ok(job::exit_code(job.state))
}
