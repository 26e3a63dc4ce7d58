//! Tells an organization's admins that every reminder of an invoice went unanswered, and ends its dunning. Enqueued by the overdue
//! sweep. Twice is fine: each admin's mail is claimed before it leaves, and dunning ends once.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Unique, Verdict};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{
    QUEUE, actor, decide,
    letter::{self, Handed},
    topic,
};
use crate::{
    context::App,
    domain::{Decision, EmailAddress, Invoice, Organization, dunning},
    mail::{OutgoingMail, templates},
    store::{
        self, companies,
        deliveries::{self, Claim, NewDelivery},
        events::{self, NewEvent},
        invoices,
    },
    tenant,
};

/// Tells the admins that every reminder of an invoice went unanswered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EscalateInvoice {
    pub invoice_id: Uuid,
}

impl Job for EscalateInvoice {
    type App = App;
    const KIND: &'static str = "billing.escalate_invoice";
    const QUEUE: &'static str = QUEUE;
    const MAX_ATTEMPTS: u32 = 8;

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_secs(30), Duration::from_secs(3600))
    }

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by(self.invoice_id))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = super::organization(&ctx).await?;
        let (mut told, mut refused) = (Vec::new(), Vec::new());
        for admin in &organization.settings.admin_emails {
            match self.tell(&ctx, &organization, admin).await? {
                Told::Yes => told.push(admin.as_str()),
                Told::Refused { words } => refused.push(json!({ "recipient": admin.as_str(), "error": words })),
                Told::End(verdict) => return Ok(verdict),
            }
        }
        let now = ctx.app.clock.now();
        let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
        let Some(invoice) = invoices::lock(&mut tx, self.invoice_id).await? else {
            return Ok(Verdict::Cancel("the invoice does not exist".to_owned()));
        };
        if let Some(reason) = reason_not_to(&ctx, &organization, &invoice) {
            return Ok(Verdict::Cancel(reason));
        }
        let result = json!({ "told": told, "refused": refused });
        if invoices::end_dunning(&mut tx, self.invoice_id, now).await? {
            let (topic, kind, actor) = (topic(self.invoice_id), "invoice.dunning_ended", &actor(&ctx));
            events::append(&mut tx, &NewEvent { topic, kind, payload: result.clone(), actor }, now).await?;
        }
        tx.commit().await?;
        Ok(Verdict::Done(Some(result)))
    }
}

fn reason_not_to(ctx: &Ctx<App>, organization: &Organization, invoice: &Invoice) -> Option<String> {
    match decide(organization, invoice, ctx.app.clock.today(organization.time_zone)) {
        Decision::Escalate => None,
        Decision::Nothing { reason } => Some(reason),
        other => Some(format!("not to be escalated: {other}")),
    }
}

enum Told {
    Yes,
    Refused { words: String },
    End(Verdict),
}

impl EscalateInvoice {
    /// One admin's mail.
    async fn tell(&self, ctx: &Ctx<App>, organization: &Organization, admin: &EmailAddress) -> anyhow::Result<Told> {
        let mut tx = tenant::begin(&ctx.app.db, organization).await?;
        let Some(invoice) = invoices::lock(&mut tx, self.invoice_id).await? else {
            return Ok(Told::End(Verdict::Cancel("the invoice does not exist".to_owned())));
        };
        if let Some(reason) = reason_not_to(ctx, organization, &invoice) {
            return Ok(Told::End(Verdict::Cancel(reason)));
        }
        let company = companies::addressee(&mut tx, invoice.company_id).await?;
        let claimant = letter::claimant(ctx);
        let purpose = format!("escalation:{}:{}", invoice.id, admin.as_str());
        let message_id = ctx.app.mailer.message_id(organization.slug.as_str(), &purpose);
        let new = NewDelivery { purpose: &purpose, message_id: &message_id, recipient: admin.as_str() };
        let (delivery, since) = match deliveries::claim(&mut tx, &new, claimant).await? {
            Claim::Granted { id, since } => (id, since),
            Claim::AlreadySent { .. } => return Ok(Told::Yes),
            Claim::Rejected { response } => return Ok(Told::Refused { words: response }),
            Claim::Busy { until } => {
                let wait = (until - claimant.now).to_std().unwrap_or_default().max(Duration::from_secs(1));
                return Ok(Told::End(Verdict::Snooze(wait)));
            }
        };
        tx.commit().await?;
        let mail = notice(organization, &invoice, company.name, (admin, message_id, since));
        match letter::hand_over(ctx, organization, delivery, &mail).await? {
            Handed::Refused { words } => Ok(Told::Refused { words }),
            Handed::Taken { response } => {
                let at = ctx.app.clock.now();
                letter::insist(ctx, || record(ctx, organization, (delivery, &response, at))).await?;
                Ok(Told::Yes)
            }
        }
    }
}

async fn record(
    ctx: &Ctx<App>,
    organization: &Organization,
    (delivery, response, at): (Uuid, &str, DateTime<Utc>),
) -> anyhow::Result<()> {
    let mut tx = tenant::begin(&ctx.app.db, organization).await?;
    store::commit_without_waiting_for_disk(&mut tx).await?;
    deliveries::mark_sent(&mut tx, delivery, response, at).await?;
    Ok(tx.commit().await?)
}

fn notice(
    organization: &Organization,
    invoice: &Invoice,
    company_name: String,
    (admin, message_id, since): (&EmailAddress, String, DateTime<Utc>),
) -> OutgoingMail {
    let written_on = since.with_timezone(&organization.time_zone).date_naive();
    let letter = templates::render_escalation(&templates::EscalationMail {
        language: organization.locale,
        organization_name: organization.name.clone(),
        company_name,
        invoice_number: invoice.number.clone(),
        amount: invoice.amount(),
        due_date: invoice.due_date,
        days_overdue: dunning::days_overdue(invoice.due_date, written_on),
        reminders: invoice.reminder_stage,
    });
    OutgoingMail {
        message_id,
        from_name: None,
        reply_to: None,
        to: admin.clone(),
        subject: letter.subject,
        text: letter.text,
        html: letter.html,
        language: organization.locale,
        date: since,
    }
}
