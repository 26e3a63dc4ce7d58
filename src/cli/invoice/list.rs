//! `backroom invoice list`

use std::process::ExitCode;

use uuid::Uuid;

use crate::{
    cli::{
        output::{Output, cell, maybe, more, next_cursor, page, time},
        session::Session,
    },
    domain::InvoiceStatus,
    store::{
        Page,
        invoices::{self, InvoiceFilter},
    },
    tenant,
};

#[derive(clap::Args)]
pub struct Args {
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// draft, sent, unpaid, paid, overdue or cancelled
    #[arg(long)]
    status: Option<InvoiceStatus>,
    /// Owed and past its due date, by the organization's clock
    #[arg(long)]
    overdue: bool,
    /// Of this company
    #[arg(long, value_name = "ID")]
    company: Option<Uuid>,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<Uuid>,
}

pub async fn run(session: &Session, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let organization = session.organization(&args.org).await?;
    let today = session.clock.today(organization.time_zone);
    let filter = InvoiceFilter {
        status: args.status,
        company_id: args.company,
        overdue_on: args.overdue.then_some(today),
        ..InvoiceFilter::default()
    };
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let wanted = Page { after: args.cursor, limit: args.limit, newest_first: true };
    let rows = invoices::page(&mut tx, &filter, wanted).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, args.limit, |invoice| invoice.id);
    output.answer(&page("invoices", &rows, next), || {
        let table = rows.iter().map(|invoice| {
            let amount = invoice.amount().format(organization.locale);
            let reminded = maybe(invoice.last_reminder_sent_at.map(time));
            let problem = maybe(invoice.reminder_error.as_ref());
            [
                cell(&invoice.number),
                cell(invoice.status),
                cell(invoice.due_date),
                cell(amount),
                cell(invoice.reminder_stage),
                reminded,
                problem,
            ]
        });
        let header = ["number", "status", "due", "amount", "reminders", "last reminder", "problem"];
        output.table(header, table.collect(), &format!("{} has no such invoice", args.org)) + &more(next)
    })?;
    Ok(ExitCode::SUCCESS)
}
