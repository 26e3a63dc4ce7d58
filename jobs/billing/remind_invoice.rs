//! Reminds a company of an unpaid invoice, by mail, in its language. Enqueued by the overdue sweep, one job per invoice and
//! dunning stage. Twice is fine: the stage is claimed before the mail leaves, and what was recorded as sent never leaves again.

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
    domain::{Decision, Invoice, Organization, dunning},
    mail::{OutgoingMail, templates},
    store::{
        self, companies,
        deliveries::{self, Claim, NewDelivery},
        events::{self, NewEvent},
        invoices,
        reminders::{self, Reminder},
    },
    tenant,
};

/// Reminds a company of an unpaid invoice.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemindInvoice {
    pub invoice_id: Uuid,
    /// Which reminder, from 1.
    pub stage: u32,
}

impl Job for RemindInvoice {
    type App = App;
    const KIND: &'static str = "billing.remind_invoice";
    const QUEUE: &'static str = QUEUE;
    const MAX_ATTEMPTS: u32 = 8;

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_secs(30), Duration::from_secs(3600))
    }

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by(purpose(self.invoice_id, self.stage)))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = super::organization(&ctx).await?;
        let (delivery, mail) = match self.claim(&ctx, &organization).await? {
            Step::Send { delivery, mail } => (delivery, mail),
            Step::Sent { delivery, at } => {
                self.record(&ctx, &organization, (delivery, "", at)).await?;
                return Ok(Verdict::DONE);
            }
            Step::End(verdict) => return Ok(verdict),
        };
        let response = match letter::hand_over(&ctx, &organization, delivery, &mail).await? {
            Handed::Taken { response } => response,
            Handed::Refused { words } => return Ok(Verdict::Discard(words)),
        };
        let at = ctx.app.clock.now();
        letter::insist(&ctx, || self.record(&ctx, &organization, (delivery, &response, at))).await?;
        Ok(Verdict::done_with(json!({ "recipient": mail.to.as_str(), "response": response }))?)
    }

    /// BILL-7: no further reminder of this invoice until an operator clears the failure.
    async fn discarded(self, ctx: Ctx<App>, reason: String) -> anyhow::Result<()> {
        let organization = super::organization(&ctx).await?;
        let now = ctx.app.clock.now();
        let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
        if invoices::record_reminder_failure(&mut tx, self.invoice_id, &reason, now).await? {
            let payload = json!({ "stage": self.stage, "error": reason });
            let (topic, kind, actor) = (topic(self.invoice_id), "invoice.reminder_failed", &actor(&ctx));
            events::append(&mut tx, &NewEvent { topic, kind, payload, actor }, now).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// The key of the reminder's delivery, and of its job.
pub(super) fn purpose(invoice_id: Uuid, stage: u32) -> String {
    format!("reminder:{invoice_id}:{stage}")
}

enum Step {
    Send {
        delivery: Uuid,
        mail: Box<OutgoingMail>,
    },
    /// An earlier attempt sent it.
    Sent {
        delivery: Uuid,
        at: DateTime<Utc>,
    },
    End(Verdict),
}

impl RemindInvoice {
    /// Decides again, with the invoice locked, and claims stage and delivery. BILL-5, BILL-6
    async fn claim(&self, ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<Step> {
        let mut tx = tenant::begin(&ctx.app.db, organization).await?;
        let Some(invoice) = invoices::lock(&mut tx, self.invoice_id).await? else {
            return Ok(Step::End(Verdict::Cancel("the invoice does not exist".to_owned())));
        };
        let today = ctx.app.clock.today(organization.time_zone);
        if let Some(reason) = self.reason_not_to(organization, &invoice, today) {
            return Ok(Step::End(Verdict::Cancel(reason)));
        }
        let company = companies::addressee(&mut tx, invoice.company_id).await?;
        let (slug, claimant) = (organization.slug.as_str(), letter::claimant(ctx));
        let purpose = purpose(invoice.id, self.stage);
        let message_id = ctx.app.mailer.message_id(slug, &purpose);
        let new = NewDelivery { purpose: &purpose, message_id: &message_id, recipient: company.email.as_str() };
        let (delivery, since) = match deliveries::claim(&mut tx, &new, claimant).await? {
            Claim::Granted { id, since } => (id, since),
            Claim::AlreadySent { id, at } => return Ok(Step::Sent { delivery: id, at }),
            Claim::Rejected { response } => return Ok(Step::End(Verdict::Discard(response))),
            Claim::Busy { until } => {
                let wait = (until - claimant.now).to_std().unwrap_or_default().max(Duration::from_secs(1));
                return Ok(Step::End(Verdict::Snooze(wait)));
            }
        };
        let claim = Reminder {
            invoice_id: invoice.id,
            stage: self.stage,
            delivery_id: delivery,
            job_id: ctx.job.id,
            claimed_at: claimant.now,
            sent_at: None,
        };
        reminders::claim_stage(&mut tx, &claim).await?;
        tx.commit().await?;
        // Dated by the first claim: a second attempt hands over the same bytes.
        let written_on = since.with_timezone(&organization.time_zone).date_naive();
        let letter = templates::render_reminder(&templates::ReminderMail {
            language: company.language,
            organization_name: organization.name.clone(),
            company_name: company.name,
            amount: invoice.amount(),
            days_overdue: dunning::days_overdue(invoice.due_date, written_on),
            invoice_number: invoice.number,
            due_date: invoice.due_date,
            stage: self.stage,
            payment: organization.settings.payment.clone(),
        });
        let mail = OutgoingMail {
            message_id,
            from_name: Some(organization.name.clone()),
            reply_to: organization.settings.admin_emails.first().cloned(),
            to: company.email,
            subject: letter.subject,
            text: letter.text,
            html: letter.html,
            language: company.language,
            date: since,
        };
        Ok(Step::Send { delivery, mail: Box::new(mail) })
    }

    fn reason_not_to(
        &self,
        organization: &Organization,
        invoice: &Invoice,
        today: chrono::NaiveDate,
    ) -> Option<String> {
        if invoice.reminder_stage >= self.stage {
            return Some(format!("reminder {} was sent already", self.stage));
        }
        match decide(organization, invoice, today) {
            Decision::Remind { stage } if stage == self.stage => None,
            Decision::Nothing { reason } => Some(reason),
            other => Some(format!("not this reminder: {other}")),
        }
    }

    /// Delivery, stage, invoice and event in one transaction; changes nothing the second time.
    async fn record(
        &self,
        ctx: &Ctx<App>,
        organization: &Organization,
        (delivery, response, at): (Uuid, &str, DateTime<Utc>),
    ) -> anyhow::Result<()> {
        let mut tx = tenant::begin(&ctx.app.db, organization).await?;
        store::commit_without_waiting_for_disk(&mut tx).await?;
        deliveries::mark_sent(&mut tx, delivery, response, at).await?;
        reminders::mark_sent(&mut tx, self.invoice_id, self.stage, at).await?;
        if invoices::record_reminder(&mut tx, self.invoice_id, self.stage, at).await? {
            let payload = json!({ "stage": self.stage, "delivery_id": delivery });
            let (topic, kind, actor) = (topic(self.invoice_id), "invoice.reminder_sent", &actor(ctx));
            events::append(&mut tx, &NewEvent { topic, kind, payload, actor }, at).await?;
        }
        Ok(tx.commit().await?)
    }
}
