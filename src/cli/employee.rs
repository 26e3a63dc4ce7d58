//! `backroom employee …` (ASSET-1)

use std::process::ExitCode;

use anyhow::Context;
use chrono::NaiveDate;
use clap::Subcommand;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    exit::not_found,
    output::{Output, cell, maybe, more, next_cursor, page},
    session::Session,
};
use crate::{
    domain::{EmployeeStatus, employee},
    jobs::people::doors::{self, Asked},
    store::{
        Page, Sealer, assets,
        employees::{self, EmployeeFilter},
    },
    tenant,
};

const ACTOR: &str = "operator";

#[derive(Subcommand)]
pub enum Employee {
    /// List an organization's employees, oldest first
    #[command(after_help = "Example:\n  backroom employee list --org acme --email anna")]
    List(List),
    /// Show an employee and what they hold
    #[command(after_help = "Example:\n  backroom employee show 01980a3c-4f00-7000-8000-000000000000 --org acme")]
    Show(One),
    /// Terminate an employee; their offboarding starts
    #[command(
        after_help = "Example:\n  backroom employee terminate 01980a3c-4f00-7000-8000-000000000000 --org acme --on 2026-03-31"
    )]
    Terminate {
        #[command(flatten)]
        one: One,
        /// The last day; today if it is left out
        #[arg(long, value_name = "DATE")]
        on: Option<NaiveDate>,
    },
    /// Take a terminated employee back
    #[command(after_help = "Example:\n  backroom employee reactivate 01980a3c-4f00-7000-8000-000000000000 --org acme")]
    Reactivate(One),
}

#[derive(clap::Args)]
pub struct List {
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// The work e-mail or its beginning
    #[arg(long)]
    email: Option<String>,
    /// Part of the title
    #[arg(long)]
    title: Option<String>,
    /// active, on_leave or terminated
    #[arg(long)]
    status: Option<EmployeeStatus>,
    /// The id at the HRIS
    #[arg(long, value_name = "ID")]
    hris_id: Option<String>,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<Uuid>,
}

#[derive(clap::Args)]
pub struct One {
    /// Id of the employee, from `employee list`
    pub(super) id: Uuid,
    /// Slug of the organization
    #[arg(long)]
    pub(super) org: String,
}

pub async fn run(session: &Session, command: Employee, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Employee::List(args) => list(session, args, output).await?,
        Employee::Show(one) => show(session, one, output).await?,
        Employee::Terminate { one, on } => terminate(session, one, on, output).await?,
        Employee::Reactivate(one) => reactivate(session, one, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What an operator may see: who it is, nothing that is private.
fn document(row: &employee::Employee) -> Value {
    let facts = &row.facts;
    json!({
        "id": row.id, "work_email": facts.work_email, "first_name": facts.name.first, "last_name": facts.name.last,
        "title": facts.title, "department": facts.department, "status": facts.status, "manager_id": facts.manager_id,
        "location_id": facts.location_id, "hire_date": facts.hire_date, "termination_date": facts.termination_date,
        "integration_id": row.integration_id, "hris_id": row.external_id, "created_at": row.created_at,
        "updated_at": row.updated_at,
    })
}

async fn list(session: &Session, args: List, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&args.org).await?;
    let app = session.app()?;
    let filter = EmployeeFilter {
        email: args.email,
        title: args.title,
        status: args.status,
        external_id: args.hris_id,
        ..EmployeeFilter::default()
    };
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let wanted = Page { after: args.cursor, ..Page::first(args.limit) };
    let rows = employees::page(&mut tx, Sealer::new(&app.vault, organization.slug.as_str()), &filter, wanted).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, args.limit, |employee| employee.id);
    let documents: Vec<_> = rows.iter().map(document).collect();
    output.answer(&page("employees", &documents, next), || {
        let table = rows.iter().map(|row| {
            [
                cell(row.id),
                cell(&row.facts.name),
                maybe(row.facts.work_email.as_ref()),
                maybe(row.facts.title.as_ref()),
                cell(row.facts.status),
                maybe(row.facts.hire_date),
                maybe(row.external_id.as_ref()),
            ]
        });
        let header = ["id", "name", "e-mail", "title", "status", "hired", "hris id"];
        output.table(header, table.collect(), &format!("{} has no such employee", args.org)) + &more(next)
    })
}

async fn show(session: &Session, one: One, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&one.org).await?;
    let app = session.app()?;
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let found = employees::by_id(&mut tx, sealer, one.id).await?;
    let held = assets::held_by(&mut tx, sealer, one.id).await?;
    tx.rollback().await?;
    let employee = found.ok_or_else(|| none(&one))?;
    let mut shown = document(&employee);
    shown["assets"] =
        held.iter().map(|asset| json!({ "id": asset.id, "tag": asset.tag, "name": asset.facts.name })).collect();
    output.answer(&shown, || {
        let facts = &employee.facts;
        let title = facts.title.as_deref().unwrap_or("-");
        let header = format!("{} is {} ({title})\n\nHolds:\n", facts.name, facts.status);
        let table = held.iter().map(|asset| [cell(&asset.tag), cell(&asset.facts.name), cell(asset.custody.condition)]);
        header + &output.table(["tag", "name", "condition"], table.collect(), "nothing")
    })
}

fn none(one: &One) -> anyhow::Error {
    not_found(format!("{} has no employee {}", one.org, one.id))
}

async fn terminate(session: &Session, one: One, on: Option<NaiveDate>, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&one.org).await?;
    let app = session.app()?;
    let whose = (&organization, Sealer::new(&app.vault, organization.slug.as_str()));
    let last_day = on.unwrap_or_else(|| session.clock.today(organization.time_zone));
    let asked = Asked { actor: ACTOR, now: session.clock.now(), trace: None };
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let gone = doors::terminate_employee(&mut tx, whose, (one.id, last_day), &asked).await;
    let employee = gone.context("nobody was terminated")?.ok_or_else(|| none(&one))?;
    tx.commit().await?;
    output.answer(&document(&employee), || {
        format!("{} is terminated as of {last_day}; the offboarding starts", employee.facts.name)
    })
}

async fn reactivate(session: &Session, one: One, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&one.org).await?;
    let app = session.app()?;
    let asked = Asked { actor: ACTOR, now: session.clock.now(), trace: None };
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let back = doors::reactivate_employee(&mut tx, sealer, one.id, &asked).await;
    let employee = back.context("nobody was reactivated")?.ok_or_else(|| none(&one))?;
    tx.commit().await?;
    output.answer(&document(&employee), || format!("{} is active again", employee.facts.name))
}
