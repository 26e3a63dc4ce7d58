//! `backroom workflow list` and `overdue`

use uuid::Uuid;

use super::super::{
    output::{Output, cell, maybe, more, next_cursor, page},
    session::Session,
};
use crate::{
    domain::{Workflow as Row, WorkflowKind, WorkflowStatus},
    store::{
        Page,
        workflows::{self, WorkflowFilter},
    },
    tenant,
};

#[derive(clap::Args)]
pub struct List {
    /// Slug of the organization
    #[arg(long)]
    pub org: String,
    /// onboarding, offboarding, repair, procurement or transfer
    #[arg(long)]
    pub kind: Option<WorkflowKind>,
    /// pending, in_progress, completed, cancelled or failed
    #[arg(long)]
    pub status: Option<WorkflowStatus>,
    /// About this employee
    #[arg(long, value_name = "ID")]
    pub employee: Option<Uuid>,
    /// About this asset
    #[arg(long, value_name = "ID")]
    pub asset: Option<Uuid>,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,
    /// Where the page before ended
    #[arg(long)]
    pub cursor: Option<Uuid>,
}

#[derive(clap::Args)]
pub struct Overdue {
    /// Slug of the organization
    #[arg(long)]
    pub org: String,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,
    /// Where the page before ended
    #[arg(long)]
    pub cursor: Option<Uuid>,
}

pub async fn list(session: &Session, args: List, output: Output) -> anyhow::Result<()> {
    let filter = WorkflowFilter {
        kind: args.kind,
        status: args.status,
        employee_id: args.employee,
        asset_id: args.asset,
        ..WorkflowFilter::default()
    };
    let (wanted, empty) = ((args.limit, args.cursor), format!("{} has no such workflow", args.org));
    rows(session, &args.org, (filter, false), wanted, (output, &empty)).await
}

pub async fn overdue(session: &Session, args: Overdue, output: Output) -> anyhow::Result<()> {
    let (wanted, empty) = ((args.limit, args.cursor), format!("nothing of {} is overdue", args.org));
    rows(session, &args.org, (WorkflowFilter::default(), true), wanted, (output, &empty)).await
}

async fn rows(
    session: &Session,
    org: &str,
    (mut filter, overdue): (WorkflowFilter, bool),
    (limit, cursor): (i64, Option<Uuid>),
    (output, empty): (Output, &str),
) -> anyhow::Result<()> {
    let organization = session.organization(org).await?;
    let today = session.clock.today(organization.time_zone);
    filter.overdue_on = overdue.then_some(today);
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let rows = workflows::page(&mut tx, &filter, Page { after: cursor, ..Page::first(limit) }).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, limit, |workflow| workflow.id);
    let documents: Vec<_> = rows.iter().map(super::document).collect();
    output.answer(&page("workflows", &documents, next), || {
        let table = rows.iter().map(|row: &Row| {
            let open = row.steps.iter().filter(|step| step.status.is_open()).count();
            let late = if row.is_overdue(today) { " (overdue)" } else { "" };
            [
                cell(row.id),
                cell(row.kind),
                cell(&row.title),
                cell(format!("{}{late}", row.status)),
                cell(format!("{} of {}", row.steps.len() - open, row.steps.len())),
                maybe(row.deadline()),
                cell(row.due_on),
            ]
        });
        let header = ["id", "kind", "title", "status", "done", "next due", "due"];
        output.table(header, table.collect(), empty) + &more(next)
    })
}
