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
    letter::{self, Claimed, Handed},
    topic,
};
use crate::{
    context::App,
    domain::{Decision, Invoice, Organization, dunning},
    mail::{OutgoingMail, templates},
    store::{
        self, companies, deliveries,
        events::{self, NewEvent},
        invoices, reminders,
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
    /// Rides out a mail server that is away for half a day.
    const MAX_ATTEMPTS: u32 = 20;

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
        letter::insist(|| self.record(&ctx, &organization, (delivery, &response, at))).await?;
        Verdict::done_with(json!({ "recipient": mail.to.as_str(), "response": response }))
    }

    /// BILL-7: no further reminder of this invoice until an operator clears the failure. A reminder that was sent and recorded before its
    /// last worker was lost did not fail.
    async fn discarded(self, ctx: Ctx<App>, reason: String) -> anyhow::Result<()> {
        let organization = super::organization(&ctx).await?;
        let now = ctx.app.clock.now();
        let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
        if invoices::record_reminder_failure(&mut tx, (self.invoice_id, self.stage), &reason, now).await? {
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
        let purpose = purpose(invoice.id, self.stage);
        let envelope = match letter::claim(&mut tx, ctx, organization, (&purpose, company.email)).await? {
            Claimed::Mine(envelope) => envelope,
            Claimed::Sent { delivery, at } => return Ok(Step::Sent { delivery, at }),
            Claimed::Refused { words } => return Ok(Step::End(Verdict::Discard(words))),
            Claimed::Busy { wait } => return Ok(Step::End(Verdict::Snooze(wait))),
        };
        let (delivery, now) = (envelope.delivery, ctx.app.clock.now());
        reminders::claim_stage(&mut tx, (self.invoice_id, self.stage), delivery, ctx.job.id, now).await?;
        tx.commit().await?;
        let letter = templates::render_reminder(&templates::ReminderMail {
            language: company.language,
            organization_name: organization.name.clone(),
            company_name: company.name,
            amount: invoice.amount(),
            days_overdue: dunning::days_overdue(invoice.due_date, envelope.written_on(organization)),
            invoice_number: invoice.number,
            due_date: invoice.due_date,
            stage: self.stage,
            payment: organization.settings.payment.clone(),
        });
        let mail = envelope.with(organization, company.language, letter);
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

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, testing};

    use super::*;
    use crate::{
        domain::InvoiceStatus,
        jobs::testing::World,
        store::deliveries::{Claim, Claimant, NewDelivery},
    };

    fn first(invoice: &Invoice) -> RemindInvoice {
        RemindInvoice { invoice_id: invoice.id, stage: 1 }
    }

    /// BILL-5, MAIL-1
    #[tokio::test]
    async fn a_reminder_says_what_to_pay_and_is_counted() {
        let world = World::new().await;
        let invoice = world.invoice("F-1001", "kund@example.se", 3).await;

        let outcome = world.run(&first(&invoice)).await;

        assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
        let mail = world.mailbox.get(world.mailbox.list(1)[0].id).unwrap();
        assert_eq!(mail.summary.to, ["kund@example.se"]);
        assert!(mail.summary.subject.contains("F-1001"), "{}", mail.summary.subject);
        assert!(mail.text.as_deref().unwrap().replace('\u{a0}', " ").contains("12 500,00 kr"), "{:?}", mail.text);
        assert!(mail.html.is_some());
        let after = world.reload(invoice.id).await;
        assert_eq!((after.reminder_stage, after.last_reminder_sent_at), (1, Some(world.now())));
        assert_eq!(world.event_kinds(invoice.id).await, ["invoice.created", "invoice.reminder_sent"]);
    }

    /// BILL-6, MAIL-2
    #[tokio::test]
    async fn the_same_job_twice_sends_one_mail() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "kund@example.se", 3).await;
        let tables = ["org_acme.invoices", "org_acme.deliveries", "org_acme.reminders", "org_acme.events"];

        let job = world.job(&first(&invoice));
        let [once, twice] =
            testing::run_twice(&world.app.db, &world.registry, world.app.clone(), job, &tables).await.unwrap();

        assert!(matches!(once.0, Outcome::Completed { .. }), "{:?}", once.0);
        assert!(
            matches!(twice.0, Outcome::Cancelled { ref reason } if reason.contains("sent already")),
            "{:?}",
            twice.0
        );
        assert_eq!(once.1, twice.1);
        assert_eq!(world.mailbox.accepted().len(), 1);
    }

    /// BILL-6: killed between the claim and the mail, the rescued job claims again and sends.
    #[tokio::test]
    async fn a_rescued_job_goes_on_with_its_own_claim() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "kund@example.se", 3).await;
        let job = world.job(&first(&invoice));
        claim(&world, &invoice, job.id).await;

        backroom_queue::enqueue(&world.app.db, &job).await.unwrap();
        let ran = testing::drain(&world.app.db, &world.registry, world.app.clone(), QUEUE).await.unwrap();

        assert!(matches!(ran[..], [(_, Outcome::Completed { .. })]), "{ran:?}");
        assert_eq!(world.mailbox.accepted().len(), 1);
    }

    /// BILL-6
    #[tokio::test]
    async fn a_mail_that_another_job_is_sending_is_waited_for() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "kund@example.se", 3).await;
        claim(&world, &invoice, Uuid::now_v7()).await;

        let outcome = world.run(&first(&invoice)).await;

        assert_eq!(outcome, Outcome::Snoozed { wait: Duration::from_secs(60) });
        assert_eq!(world.mailbox.accepted().len(), 0);
    }

    async fn claim(world: &World, invoice: &Invoice, job_id: Uuid) -> Claim {
        let purpose = purpose(invoice.id, 1);
        let message_id = world.app.mailer.message_id("acme", &purpose);
        let new = NewDelivery { purpose: &purpose, message_id: &message_id, recipient: "kund@example.se" };
        let claimant = Claimant { job_id, now: world.now(), until: world.now() + chrono::Duration::minutes(1) };
        let mut tx = world.tenant().await;
        let claim = deliveries::claim(&mut tx, &new, claimant).await.unwrap();
        tx.commit().await.unwrap();
        claim
    }

    /// BILL-6, BILL-7: the worker of the last attempt was killed between the record and the job's outcome.
    #[tokio::test]
    async fn a_reminder_that_was_recorded_is_no_failure_when_its_last_worker_is_lost() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "kund@example.se", 3).await;
        assert!(matches!(world.run(&first(&invoice)).await, Outcome::Completed { .. }));
        let lost = world.job(&first(&invoice));
        backroom_queue::enqueue(&world.app.db, &lost).await.unwrap();
        sqlx::query("update queue.jobs set attempt = max_attempts where id = $1")
            .bind(lost.id)
            .execute(&world.app.db)
            .await
            .unwrap();

        let ran = testing::drain(&world.app.db, &world.registry, world.app.clone(), QUEUE).await.unwrap();

        assert!(matches!(&ran[..], [(_, Outcome::Discarded { reason, .. })] if reason.contains("used up")), "{ran:?}");
        let after = world.reload(invoice.id).await;
        assert_eq!((after.reminder_stage, after.reminder_failed_at), (1, None));
        assert_eq!(world.event_kinds(invoice.id).await, ["invoice.created", "invoice.reminder_sent"]);
    }

    /// BILL-6, BILL-7: a server that takes every copy and never says so gets three, then an operator decides.
    #[tokio::test]
    async fn three_unknown_outcomes_end_the_sending_until_an_operator_clears_them() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "hangup@example.se", 3).await;
        backroom_queue::enqueue(&world.app.db, &world.job(&first(&invoice))).await.unwrap();

        for _ in 0..RemindInvoice::MAX_ATTEMPTS {
            testing::drain(&world.app.db, &world.registry, world.app.clone(), QUEUE).await.unwrap();
            testing::fast_forward(&world.app.db).await.unwrap();
        }

        let copies = world.mailbox.accepted();
        assert_eq!(copies.len(), 3);
        assert!(copies.iter().all(|copy| copy.message_id == copies[0].message_id));
        let failed = world.reload(invoice.id).await;
        let told = failed.reminder_error.unwrap();
        assert!(told.contains("may have accepted the message 3 times"), "{told}");
        assert_eq!(world.event_kinds(invoice.id).await, ["invoice.created", "invoice.reminder_failed"]);

        let mut tx = world.tenant().await;
        assert!(super::super::clear_reminder_failure(&mut tx, invoice.id, "operator", world.now()).await.unwrap());
        tx.commit().await.unwrap();
        let again = world.run(&first(&invoice)).await;
        assert!(matches!(again, Outcome::Retryable { .. }), "the count began anew: {again:?}");
        assert_eq!(world.mailbox.accepted().len(), 4);
    }

    /// BILL-5
    #[tokio::test]
    async fn an_invoice_paid_in_the_meantime_gets_no_mail_and_the_job_says_why() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "kund@example.se", 3).await;
        let mut tx = world.tenant().await;
        let paid = (invoice.id, InvoiceStatus::Paid);
        super::super::change_invoice_status(&mut tx, paid, world.today(), "test", world.now()).await.unwrap();
        tx.commit().await.unwrap();

        let outcome = world.run(&first(&invoice)).await;

        assert_eq!(outcome, Outcome::Cancelled { reason: "paid on 2026-03-02".to_owned() });
        assert_eq!(world.mailbox.accepted().len(), 0);
    }

    /// MAIL-3, BILL-7
    #[tokio::test]
    async fn a_permanent_refusal_gives_up_until_an_operator_clears_it() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "reject@example.se", 3).await;

        let outcome = world.run(&first(&invoice)).await;

        assert!(matches!(outcome, Outcome::Discarded { ref reason, .. } if reason.contains("550")), "{outcome:?}");
        let failed = world.reload(invoice.id).await;
        assert_eq!(failed.reminder_failed_at, Some(world.now()));
        assert!(failed.reminder_error.unwrap().contains("550"));
        assert_eq!(world.event_kinds(invoice.id).await, ["invoice.created", "invoice.reminder_failed"]);
        let again = world.run(&first(&invoice)).await;
        assert!(matches!(again, Outcome::Cancelled { ref reason } if reason.contains("operator")), "{again:?}");

        let mut tx = world.tenant().await;
        assert!(super::super::clear_reminder_failure(&mut tx, invoice.id, "operator", world.now()).await.unwrap());
        tx.commit().await.unwrap();
        let tried = world.run(&first(&invoice)).await;
        assert!(matches!(tried, Outcome::Discarded { .. }), "tried again: {tried:?}");
        let again = claim(&world, &invoice, Uuid::now_v7()).await;
        assert!(matches!(again, Claim::Rejected { ref response } if response.contains("550")), "{again:?}");
    }

    /// MAIL-3
    #[tokio::test]
    async fn a_greylisted_reminder_comes_back_when_the_server_says() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "greylist@example.se", 3).await;

        let outcome = world.run(&first(&invoice)).await;

        assert!(matches!(outcome, Outcome::Retryable { ref error, .. } if error.contains("451")), "{outcome:?}");
        assert_eq!(world.reload(invoice.id).await.reminder_stage, 0);
        testing::fast_forward(&world.app.db).await.unwrap();
        testing::drain(&world.app.db, &world.registry, world.app.clone(), QUEUE).await.unwrap();
        assert_eq!(world.mailbox.accepted().len(), 1);
        assert_eq!(world.reload(invoice.id).await.reminder_stage, 1);
    }

    /// BILL-7: the attempts of a server that is down run out.
    #[tokio::test]
    async fn exhausted_attempts_mark_the_invoice() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "kund@example.se", 3).await;
        world.mailbox.set_down(true);
        backroom_queue::enqueue(&world.app.db, &world.job(&first(&invoice))).await.unwrap();

        for _ in 0..RemindInvoice::MAX_ATTEMPTS {
            testing::drain(&world.app.db, &world.registry, world.app.clone(), QUEUE).await.unwrap();
            testing::fast_forward(&world.app.db).await.unwrap();
        }

        let failed = world.reload(invoice.id).await;
        assert!(
            failed.reminder_error.unwrap().contains(&format!("all {} attempts failed", RemindInvoice::MAX_ATTEMPTS))
        );
        assert_eq!(world.event_kinds(invoice.id).await.last().unwrap(), "invoice.reminder_failed");
    }

    #[test]
    fn the_wire_format_is_stable() {
        let job = RemindInvoice { invoice_id: Uuid::nil(), stage: 2 };
        insta::assert_json_snapshot!(job, @r#"
        {
          "invoice_id": "00000000-0000-0000-0000-000000000000",
          "stage": 2
        }
        "#);
    }
}
