//! Tells an organization's admins that every reminder of an invoice went unanswered, and ends its dunning. Enqueued by the overdue
//! sweep. Twice is fine: each admin's mail is an effect in the ledger, and dunning ends once.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Unique, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{QUEUE, decide, topic};
use crate::{
    context::App,
    domain::{Decision, EmailAddress, Invoice, Organization, dunning},
    jobs::{
        actor,
        letter::{self, Told},
        organization,
    },
    mail::templates,
    store::{
        companies,
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
        let organization = organization(&ctx).await?;
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

impl EscalateInvoice {
    /// One admin's mail.
    async fn tell(&self, ctx: &Ctx<App>, organization: &Organization, admin: &EmailAddress) -> anyhow::Result<Told> {
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        let Some(invoice) = invoices::lock(&mut tx, self.invoice_id).await? else {
            return Ok(Told::End(Verdict::Cancel("the invoice does not exist".to_owned())));
        };
        if let Some(reason) = reason_not_to(ctx, organization, &invoice) {
            return Ok(Told::End(Verdict::Cancel(reason)));
        }
        let company = companies::addressee(&mut tx, invoice.company_id).await?;
        let purpose = format!("escalation:{}:{admin}", invoice.id);
        let envelope = match letter::open(&mut tx, ctx, organization, (purpose, admin.clone())).await? {
            Ok(envelope) => envelope,
            Err(closed) => return Ok(closed.into()),
        };
        tx.commit().await?;
        let notice = templates::render_escalation(&templates::EscalationMail {
            language: organization.locale,
            organization_name: organization.name.clone(),
            company_name: company.name,
            amount: invoice.amount(),
            days_overdue: dunning::days_overdue(invoice.due_date, envelope.written_on(organization)),
            invoice_number: invoice.number,
            due_date: invoice.due_date,
            reminders: invoice.reminder_stage,
        });
        let mail = envelope.with(organization, organization.locale, notice);
        letter::tell(ctx, organization, &envelope, &mail).await
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, testing};

    use super::*;
    use crate::jobs::testing::World;

    /// BILL-5, MAIL-2
    #[tokio::test]
    async fn the_same_job_twice_tells_each_admin_once() {
        let mut world = World::new().await;
        world.set_admins(&["boss@example.se", "cfo@example.se"]).await;
        let invoice = world.invoice("F-1", "kund@example.se", 40).await;
        world.pretend_reminded(invoice.id, 3, 20).await;
        let tables = ["org_acme.invoices", "org_acme.deliveries", "org_acme.events"];

        let job = world.job(&EscalateInvoice { invoice_id: invoice.id });
        let [once, twice] =
            testing::run_twice(&world.app.db, &world.registry, world.app.clone(), job, &tables).await.unwrap();

        assert!(matches!(once.0, Outcome::Completed { .. }), "{:?}", once.0);
        assert!(matches!(twice.0, Outcome::Cancelled { .. }), "{:?}", twice.0);
        assert_eq!(once.1, twice.1);
        let told: Vec<_> = world.mailbox.accepted().into_iter().map(|mail| mail.recipient).collect();
        assert_eq!(told, ["boss@example.se", "cfo@example.se"]);
    }

    /// MAIL-3: a dead address does not keep the dunning open.
    #[tokio::test]
    async fn a_refused_admin_is_named_in_the_result() {
        let mut world = World::new().await;
        world.set_admins(&["reject@example.se"]).await;
        let invoice = world.invoice("F-1", "kund@example.se", 40).await;
        world.pretend_reminded(invoice.id, 3, 20).await;

        let outcome = world.run(&EscalateInvoice { invoice_id: invoice.id }).await;

        let Outcome::Completed { result: Some(result) } = outcome else { panic!("{outcome:?}") };
        assert_eq!(result["refused"][0]["recipient"], "reject@example.se");
        assert!(world.reload(invoice.id).await.dunning_ended_at.is_some());
    }
}
