//! Changes to companies and invoices, each with its event (EVT-1). The caller opens the transaction as the organization and commits.

use backroom_queue::{EffectAnswer, answer_effect, effect_id};
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{remind_invoice, topic};
use crate::{
    domain::{Company, Invoice, InvoiceStatus, NewCompany, NewInvoice, Slug},
    store::{
        Sealer, StoreError, companies, deliveries,
        events::{self, NewEvent},
        invoices,
    },
};

/// BILL-1
pub async fn create_company(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    new: &NewCompany,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Company, StoreError> {
    let company = companies::insert(db, sealer, new, now).await?;
    tell_of_company(db, &company, "company.created", actor, now).await?;
    Ok(company)
}

/// `None` if there is no such company.
pub async fn update_company(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (id, change): (Uuid, &NewCompany),
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Option<Company>, StoreError> {
    let Some(company) = companies::update(db, sealer, id, change, now).await? else { return Ok(None) };
    tell_of_company(db, &company, "company.updated", actor, now).await?;
    Ok(Some(company))
}

/// Tells that it happened, never what the sealed fields hold.
async fn tell_of_company(
    db: &mut PgConnection,
    company: &Company,
    kind: &str,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let payload = json!({ "org_number": company.org_number.as_str() });
    events::append(db, &NewEvent { topic: format!("company:{}", company.id), kind, payload, actor }, now).await?;
    Ok(())
}

/// BILL-3
pub async fn create_invoice(
    db: &mut PgConnection,
    new: &NewInvoice,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Invoice, StoreError> {
    let invoice = invoices::insert(db, new, now).await?;
    let payload = json!({ "number": invoice.number, "status": invoice.status });
    events::append(db, &NewEvent { topic: topic(invoice.id), kind: "invoice.created", payload, actor }, now).await?;
    Ok(invoice)
}

/// BILL-3: moves the invoice where the state machine lets it go; becoming paid records `today`, the day of the payment.
/// `None` if there is no such invoice.
pub async fn change_invoice_status(
    db: &mut PgConnection,
    (id, to): (Uuid, InvoiceStatus),
    today: NaiveDate,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Option<Invoice>, StoreError> {
    let Some(invoice) = invoices::set_status(db, id, to, today, now).await? else { return Ok(None) };
    let payload = json!({ "status": to, "paid_on": invoice.paid_on });
    events::append(db, &NewEvent { topic: topic(id), kind: "invoice.status_changed", payload, actor }, now).await?;
    Ok(Some(invoice))
}

/// BILL-7: lets the next sweep try again. False if no failure was noted. Where nobody knew whether the mail had arrived, this says
/// that it had not.
pub async fn clear_reminder_failure(
    db: &mut PgConnection,
    (organization, id): (&Slug, Uuid),
    actor: &str,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let Some(invoice) = invoices::lock(db, id).await? else {
        return Err(StoreError::NotFound { what: "invoice", id });
    };
    if !invoices::clear_reminder_failure(db, id, now).await? {
        return Ok(false);
    }
    let stage = invoice.reminder_stage.saturating_add(1);
    let purpose = remind_invoice::purpose(id, stage);
    deliveries::reopen(db, &purpose).await?;
    let effect = effect_id(Some(organization.as_str()), &purpose);
    answer_effect(db, effect, Some(organization.as_str()), &EffectAnswer::DidNotHappen, actor).await?;
    let (kind, payload) = ("invoice.reminder_failure_cleared", json!({ "error": invoice.reminder_error }));
    events::append(db, &NewEvent { topic: topic(id), kind, payload, actor }, now).await?;
    Ok(true)
}
