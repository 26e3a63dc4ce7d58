//! Who would be reminded today and why (BILL-8): the sweep's decisions without its deeds.

use chrono::NaiveDate;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::decide;
use crate::{
    domain::{Decision, EmailAddress, Money, Organization, dunning},
    store::{StoreError, companies, invoices},
};

/// An open invoice past its due date, and what a sweep would do about it.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedReminder {
    pub invoice_id: Uuid,
    pub number: String,
    pub company: String,
    pub recipient: EmailAddress,
    #[serde(skip)]
    pub amount: Money,
    pub due_date: NaiveDate,
    pub days_overdue: i64,
    /// The reminder that a sweep would enqueue, from 1.
    pub stage: Option<u32>,
    /// Whether a sweep would tell the admins instead.
    pub escalate: bool,
    /// In a sentence.
    pub why: String,
}

/// One page of the plan for `today`, by due date; the next one begins after the last row's due date and id. Changes nothing.
pub async fn plan_reminders(
    db: &mut PgConnection,
    organization: &Organization,
    today: NaiveDate,
    after: Option<(NaiveDate, Uuid)>,
    limit: i64,
) -> Result<Vec<PlannedReminder>, StoreError> {
    let page = invoices::overdue_page(db, today, after, limit).await?;
    let companies = companies::addressees(db, page.iter().map(|invoice| invoice.company_id).collect()).await?;
    page.into_iter()
        .map(|invoice| {
            let decision = decide(organization, &invoice, today);
            let company = companies
                .get(&invoice.company_id)
                .ok_or(StoreError::NotFound { what: "company", id: invoice.company_id })?;
            Ok(PlannedReminder {
                invoice_id: invoice.id,
                amount: invoice.amount(),
                number: invoice.number,
                company: company.name.clone(),
                recipient: company.email.clone(),
                due_date: invoice.due_date,
                days_overdue: dunning::days_overdue(invoice.due_date, today),
                stage: match decision {
                    Decision::Remind { stage } => Some(stage),
                    _ => None,
                },
                escalate: decision == Decision::Escalate,
                why: decision.to_string(),
            })
        })
        .collect()
}
