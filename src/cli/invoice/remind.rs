//! `backroom invoice remind` (BILL-8): who would be reminded and why, or the sweep itself, at once.

use std::{collections::HashMap, process::ExitCode, time::Duration};

use backroom_queue::TraceParent;
use chrono::NaiveDate;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::{
    cli::{
        exit::usage,
        job,
        output::{Output, cell},
        session::Session,
    },
    domain::{Decision, Invoice, Organization, dunning},
    jobs::billing::SweepOverdue,
    store::{Sealer, companies, invoices},
    tenant,
    vault::Vault,
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

/// What the sweep would do about one overdue invoice.
#[derive(Serialize)]
struct Plan {
    invoice: String,
    company: String,
    email: String,
    amount: String,
    due_date: NaiveDate,
    days_overdue: i64,
    /// `remind`, `escalate` or `nothing`
    action: &'static str,
    stage: Option<u32>,
    /// In a sentence.
    why: String,
}

pub async fn run(session: &Session, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let organization = session.organization(&args.org).await?;
    if args.dry_run {
        return dry_run(session, &organization, output).await;
    }
    if organization.is_held() {
        let status = organization.billing_status;
        return Err(usage(format!("{} is {status}: its jobs are held; `backroom org activate {0}` first", args.org)));
    }
    enqueue(session, &organization, args.no_wait, output).await
}

async fn dry_run(session: &Session, organization: &Organization, output: Output) -> anyhow::Result<ExitCode> {
    let app = session.app()?;
    let plans = plan(session, organization, &app.vault).await?;
    let count = |action| plans.iter().filter(|plan| plan.action == action).count();
    let (remind, escalate, nothing) = (count("remind"), count("escalate"), count("nothing"));
    let document = json!({ "invoices": plans, "remind": remind, "escalate": escalate, "nothing": nothing });
    output.answer(&document, || {
        let rows = plans.iter().map(|plan| {
            [
                cell(&plan.invoice), cell(&plan.company), cell(&plan.email), cell(&plan.amount), cell(plan.due_date),
                cell(format!("{} days", plan.days_overdue)), cell(plan.action), cell(&plan.why),
            ]
        });
        let header = ["invoice", "company", "e-mail", "amount", "due", "overdue", "action", "why"];
        let table = output.table(header, rows.collect(), "no invoice is overdue");
        format!("{table}\n\n{remind} to remind, {escalate} to escalate, {nothing} to leave alone; nothing was changed")
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn plan(session: &Session, organization: &Organization, vault: &Vault) -> anyhow::Result<Vec<Plan>> {
    let today = session.clock.today(organization.time_zone);
    let policy = organization.settings.dunning_policy();
    let sealer = Sealer::new(vault, organization.slug.as_str());
    let mut names: HashMap<Uuid, (String, String)> = HashMap::new();
    let mut plans = Vec::new();
    let mut after = None;
    let mut tx = tenant::begin(&session.db, organization).await?;
    loop {
        let invoices = invoices::overdue_page(&mut tx, today, after, PAGE).await?;
        let Some(last) = invoices.last() else { break };
        after = Some((last.due_date, last.id));
        for invoice in invoices {
            if !names.contains_key(&invoice.company_id) {
                let company = companies::by_id(&mut tx, sealer, invoice.company_id).await?;
                let name = company.map(|company| (company.name, company.email.as_str().to_owned())).unwrap_or_default();
                names.insert(invoice.company_id, name);
            }
            let decision = dunning::decide(&policy, &invoice.dunning_facts(organization.time_zone), today);
            plans.push(describe(organization, &invoice, &names[&invoice.company_id], &decision, today));
        }
    }
    tx.rollback().await?;
    Ok(plans)
}

fn describe(
    organization: &Organization,
    invoice: &Invoice,
    (company, email): &(String, String),
    decision: &Decision,
    today: NaiveDate,
) -> Plan {
    let (action, stage) = match decision {
        Decision::Remind { stage } => ("remind", Some(*stage)),
        Decision::Escalate => ("escalate", None),
        Decision::Nothing { .. } => ("nothing", None),
    };
    Plan {
        invoice: invoice.number.clone(),
        company: company.clone(),
        email: email.clone(),
        amount: invoice.amount().format(organization.locale),
        due_date: invoice.due_date,
        days_overdue: dunning::days_overdue(invoice.due_date, today),
        action,
        stage,
        why: decision.to_string(),
    }
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
            bar.println("the sweep has not ended yet; is a worker running (`backroom worker`)? Ctrl-C leaves it queued");
            follow.await
        }
    };
    bar.finish_and_clear();
    let job = ended?;
    output.answer(&job, || {
        let outcome = job.result.as_ref().map(ToString::to_string).or_else(|| job.reason.clone()).unwrap_or_default();
        format!("the sweep, job {}, is {}: {outcome}\nnext: backroom job list --org {}", job.id, job.state, organization.slug)
    })?;
    Ok(job::exit_code(job.state))
}
