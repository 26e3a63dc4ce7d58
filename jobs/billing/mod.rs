//! Nobody chases an overdue invoice by hand again.
//!
//! The jobs of the family, and its doors: what API, command line and sweeps do to companies and invoices in one
//! transaction, rows and event and job together.

mod doors;
mod escalate_invoice;
mod import_invoices;
pub(super) mod letter;
mod plan;
mod remind_invoice;
mod sweep_overdue;
mod take_invoices;

use backroom_queue::Ctx;

pub use self::{
    doors::{change_invoice_status, clear_reminder_failure, create_company, create_invoice, update_company},
    escalate_invoice::EscalateInvoice,
    import_invoices::{ImportFailure, ImportReport, import_csv},
    plan::{PlannedReminder, plan_reminders},
    remind_invoice::RemindInvoice,
    sweep_overdue::{SweepOverdue, Swept},
    take_invoices::take_invoices,
};
use crate::{
    context::App,
    domain::{Decision, Invoice, Organization, dunning},
    store::organizations,
};

/// The queue of this family: three at once, so that a mail server is not overrun.
const QUEUE: &str = "invoices";

/// The organization that the job belongs to.
pub(super) async fn organization(ctx: &Ctx<App>) -> anyhow::Result<Organization> {
    let slug = ctx.tenant()?;
    let found = organizations::by_slug(&mut *ctx.app.db.acquire().await?, slug).await?;
    found.ok_or_else(|| anyhow::anyhow!("there is no organization {slug}"))
}

/// What today asks for, by the organization's policy and calendar.
fn decide(organization: &Organization, invoice: &Invoice, today: chrono::NaiveDate) -> Decision {
    let facts = invoice.dunning_facts(organization.time_zone);
    dunning::decide(&organization.settings.dunning_policy(), &facts, today)
}

/// The actor that a job's events name.
pub(super) fn actor(ctx: &Ctx<App>) -> String {
    format!("job:{}", ctx.job.id)
}

fn topic(invoice_id: uuid::Uuid) -> String {
    format!("invoice:{invoice_id}")
}
