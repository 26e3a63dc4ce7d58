//! `backroom invoice clear-failure` (BILL-7): one invoice, or after an outage all of an organization's.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::{
    cli::{
        exit::not_found,
        output::{Output, cell, maybe, time},
        session::Session,
    },
    domain::{Invoice, Organization},
    jobs::billing,
    store::{
        Page,
        invoices::{self, InvoiceFilter},
    },
    tenant::{self, TenantTx},
};

/// Invoices cleared in one transaction; each is locked until its end.
const PAGE: i64 = 200;

#[derive(clap::Args)]
pub struct Args {
    /// Slug of the organization
    #[arg(long)]
    org: String,
    #[command(flatten)]
    which: Which,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The invoice's number
    #[arg(long)]
    number: Option<String>,
    /// Every invoice of the organization whose reminder failed
    #[arg(long)]
    all: bool,
}

/// A failure that is no more.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Cleared {
    id: Uuid,
    number: String,
    failed_at: Option<DateTime<Utc>>,
    error: Option<String>,
}

impl From<Invoice> for Cleared {
    fn from(invoice: Invoice) -> Self {
        let Invoice { id, number, reminder_failed_at, reminder_error, .. } = invoice;
        Self { id, number, failed_at: reminder_failed_at, error: reminder_error }
    }
}

/// Exit code 3 when the named invoice does not exist or has no failure.
pub async fn run(session: &Session, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let organization = session.organization(&args.org).await?;
    let cleared = match &args.which.number {
        Some(number) => vec![clear_one(session, &organization, number).await?],
        None => clear_all(session, &organization).await?,
    };
    output.answer(&json!({ "cleared": cleared }), || {
        let rows = cleared.iter().map(|c| [cell(&c.number), maybe(c.failed_at.map(time)), maybe(c.error.as_ref())]);
        let nothing = format!("no reminder of {} has failed; nothing was changed", args.org);
        let table = output.table(["number", "failed", "because"], rows.collect(), &nothing);
        match cleared.len() {
            0 => table,
            count => format!("{table}\n\n{count} cleared; next: backroom invoice remind --org {}", args.org),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn clear_one(session: &Session, organization: &Organization, number: &str) -> anyhow::Result<Cleared> {
    let mut tx = tenant::begin(&session.db, organization).await?;
    let invoice = invoices::by_number(&mut tx, number).await?;
    let invoice = invoice.ok_or_else(|| not_found(format!("{} has no invoice `{number}`", organization.slug)))?;
    let cleared = clear(session, &mut tx, organization, invoice).await?;
    tx.commit().await?;
    cleared.ok_or_else(|| not_found(format!("no reminder of invoice `{number}` has failed; there is nothing to clear")))
}

async fn clear_all(session: &Session, organization: &Organization) -> anyhow::Result<Vec<Cleared>> {
    let filter = InvoiceFilter { reminder_failed: Some(true), ..InvoiceFilter::default() };
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let mut tx = tenant::begin(&session.db, organization).await?;
        let page = invoices::page(&mut tx, &filter, Page { after, ..Page::first(PAGE) }).await?;
        let Some(last) = page.last() else { return Ok(all) };
        after = Some(last.id);
        for invoice in page {
            all.extend(clear(session, &mut tx, organization, invoice).await?);
        }
        tx.commit().await?;
    }
}

/// `None` if no failure was noted, or somebody else cleared it just now.
async fn clear(
    session: &Session,
    tx: &mut TenantTx,
    organization: &Organization,
    invoice: Invoice,
) -> anyhow::Result<Option<Cleared>> {
    let id = (&organization.slug, invoice.id);
    let cleared = billing::clear_reminder_failure(tx, id, "operator", session.clock.now()).await?;
    Ok(cleared.then(|| invoice.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::exit::NotFound,
        jobs::{billing::RemindInvoice, testing::World},
    };

    /// BILL-7
    #[tokio::test]
    async fn failures_are_cleared_one_by_one_or_all_at_once_and_what_is_not_there_is_named() {
        let world = World::new().await;
        let (config, clock) = (world.app.config.clone(), world.app.clock.clone());
        let session = Session { config, db: world.app.db.clone(), registry: world.registry.clone(), clock };
        let mut failed = Vec::new();
        for number in ["F-1", "F-2", "F-3"] {
            let invoice = world.invoice(number, "reject@example.se", 3).await;
            world.run(&RemindInvoice { invoice_id: invoice.id, stage: 1 }).await;
            failed.push(invoice.id);
        }
        world.invoice("F-4", "kund@example.se", 3).await;
        let clear = async |number: Option<&str>| {
            let which = Which { number: number.map(str::to_owned), all: number.is_none() };
            run(&session, Args { org: "acme".to_owned(), which }, Output::new(true)).await
        };

        clear(Some("F-2")).await.unwrap();
        assert_eq!(world.reload(failed[1]).await.reminder_failed_at, None);
        assert!(world.reload(failed[0]).await.reminder_failed_at.is_some());
        for missing in ["F-2", "F-4", "F-5"] {
            let error = clear(Some(missing)).await.unwrap_err();
            assert!(error.is::<NotFound>() && error.to_string().contains(missing), "{error:#}");
        }
        let all = clear_all(&session, &world.organization).await.unwrap();
        assert_eq!(all.iter().map(|c| c.number.as_str()).collect::<Vec<_>>(), ["F-1", "F-3"]);
        assert!(all.iter().all(|c| c.error.as_ref().is_some_and(|error| error.contains("550"))), "{all:?}");
        assert_eq!(clear_all(&session, &world.organization).await.unwrap(), []);
        assert_eq!(world.event_kinds(failed[2]).await.last().unwrap(), "invoice.reminder_failure_cleared");
    }
}
