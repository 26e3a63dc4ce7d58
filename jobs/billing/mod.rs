//! Nobody chases an overdue invoice by hand again.
//!
//! The jobs of the family, and its doors: what API, command line and sweeps do to companies and invoices in one
//! transaction, rows and event and job together.

mod doors;
mod escalate_invoice;
mod import_invoices;
mod plan;
mod remind_invoice;
mod sweep_overdue;
mod take_invoices;

pub use self::{
    doors::{change_invoice_status, clear_reminder_failure, create_company, create_invoice, update_company},
    escalate_invoice::EscalateInvoice,
    import_invoices::{ImportFailure, ImportReport, import_csv},
    plan::{PlannedReminder, plan_reminders},
    remind_invoice::RemindInvoice,
    sweep_overdue::{SweepOverdue, Swept},
    take_invoices::take_invoices,
};
use crate::domain::{Decision, Invoice, Organization, dunning};

/// The queue of this family: three at once, so that a mail server is not overrun.
const QUEUE: &str = "invoices";

/// What today asks for, by the organization's policy and calendar.
fn decide(organization: &Organization, invoice: &Invoice, today: chrono::NaiveDate) -> Decision {
    let facts = invoice.dunning_facts(organization.time_zone);
    dunning::decide(&organization.settings.dunning_policy(), &facts, today)
}

fn topic(invoice_id: uuid::Uuid) -> String {
    format!("invoice:{invoice_id}")
}
