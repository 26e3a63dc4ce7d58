//! Reminds a company of an unpaid invoice, by mail, in its language. Enqueued by the overdue sweep, one job per invoice and
//! dunning stage. Twice is fine: the mail is an effect in the ledger, and one that happened never happens again.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Unique, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{QUEUE, decide, topic};
use crate::{
    context::App,
    domain::{Decision, Invoice, Organization, dunning},
    jobs::{
        actor,
        letter::{self, Left, Step},
        organization,
    },
    mail::templates,
    store::{
        companies, deliveries,
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
        let organization = organization(&ctx).await?;
        let step = self.open(&ctx, &organization).await?;
        // What the server said to an earlier attempt is known no longer.
        let earlier = matches!(step, Step::Sent(_));
        let left = match letter::send(&ctx, &organization, step).await? {
            Ok(left) => left,
            Err(verdict) => return Ok(verdict),
        };
        self.record(&ctx, &organization, &left).await?;
        if earlier {
            return Ok(Verdict::DONE);
        }
        Verdict::done_with(json!({ "recipient": left.taken.recipient, "response": left.taken.response }))
    }

    /// BILL-7: no further reminder of this invoice until an operator clears the failure. A reminder that was sent and recorded before its
    /// last worker was lost did not fail.
    async fn discarded(self, ctx: Ctx<App>, reason: String) -> anyhow::Result<()> {
        let organization = organization(&ctx).await?;
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

impl RemindInvoice {
    /// Decides again, with the invoice locked, and opens the letter. BILL-5, BILL-6
    async fn open(&self, ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<Step> {
        // The effect's intent is committed next, and takes this with it to the disk.
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        let Some(invoice) = invoices::lock(&mut tx, self.invoice_id).await? else {
            return Ok(Step::End(Verdict::Cancel("the invoice does not exist".to_owned())));
        };
        let today = ctx.app.clock.today(organization.time_zone);
        if let Some(reason) = self.reason_not_to(organization, &invoice, today) {
            return Ok(Step::End(Verdict::Cancel(reason)));
        }
        let company = companies::addressee(&mut tx, invoice.company_id).await?;
        let to = (purpose(invoice.id, self.stage), company.email);
        let envelope = match letter::open(&mut tx, ctx, organization, to).await? {
            Ok(envelope) => envelope,
            Err(closed) => return Ok(closed.step(())),
        };
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
        let mail = Box::new(envelope.with(organization, company.language, letter));
        Ok(Step::Send { envelope, mail, about: () })
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
    async fn record(&self, ctx: &Ctx<App>, organization: &Organization, left: &Left) -> anyhow::Result<()> {
        let Left { delivery, taken, .. } = left;
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        deliveries::mark_sent(&mut tx, *delivery, (&taken.recipient, &taken.response), taken.at).await?;
        reminders::mark_sent(&mut tx, (self.invoice_id, self.stage), (*delivery, ctx.job.id), taken.at).await?;
        if invoices::record_reminder(&mut tx, self.invoice_id, self.stage, taken.at).await? {
            let payload = json!({ "stage": self.stage, "delivery_id": delivery });
            let (topic, kind, actor) = (topic(self.invoice_id), "invoice.reminder_sent", &actor(ctx));
            events::append(&mut tx, &NewEvent { topic, kind, payload, actor }, taken.at).await?;
        }
        Ok(tx.commit().await?)
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{
        Answered, EffectAnswer, EffectRecord, EffectState, NewJob, Outcome, answer_effect, effect_id, find_effect,
        testing,
    };

    use super::*;
    use crate::{domain::InvoiceStatus, jobs::testing::World};

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

    /// BILL-6: killed between the intent and the record, the rescued job sends, or sends again.
    #[tokio::test]
    async fn a_rescued_job_goes_on_with_its_own_effect() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "kund@example.se", 3).await;
        let job = world.job(&first(&invoice));
        intend(&world, &invoice, (job.id, Uuid::now_v7())).await;

        backroom_queue::enqueue(&world.app.db, &job).await.unwrap();
        let ran = testing::drain(&world.app.db, &world.registry, world.app.clone(), QUEUE).await.unwrap();

        assert!(matches!(ran[..], [(_, Outcome::Completed { .. })]), "{ran:?}");
        assert_eq!(world.mailbox.accepted().len(), 1);
        let effect = effect(&world, &invoice).await;
        assert_eq!((effect.state, effect.calls), (EffectState::Done, 2));
    }

    /// BILL-6
    #[tokio::test]
    async fn a_mail_that_another_job_is_sending_is_waited_for() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "kund@example.se", 3).await;
        let other = (Uuid::now_v7(), Uuid::now_v7());
        backroom_queue::enqueue(&world.app.db, &NewJob { id: other.0, ..NewJob::named("other", json!({})) })
            .await
            .unwrap();
        let running = "update queue.jobs set state = 'running', lease = $2, lease_until = now() + interval '1 minute' where id = $1";
        sqlx::query(running).bind(other.0).bind(other.1).execute(&world.app.db).await.unwrap();
        intend(&world, &invoice, other).await;

        let outcome = world.run(&first(&invoice)).await;

        assert!(matches!(outcome, Outcome::Snoozed { wait } if (50..=60).contains(&wait.as_secs())), "{outcome:?}");
        assert_eq!(world.mailbox.accepted().len(), 0);
    }

    /// BILL-6, MAIL-2, PLAT-21: killed after the ledger has the outcome, before the organization's tables do.
    #[tokio::test]
    async fn a_mail_that_the_ledger_knows_is_recorded_and_not_sent_again() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "kund@example.se", 3).await;
        world.run(&first(&invoice)).await;
        let mut tx = world.tenant().await;
        for sql in [
            "update invoices set reminder_stage = 0, last_reminder_sent_at = null",
            "update deliveries set state = 'pending', sent_at = null, response = null",
            "delete from reminders",
        ] {
            sqlx::query(sql).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();

        let outcome = world.run(&first(&invoice)).await;

        let Outcome::Completed { result: Some(result) } = outcome else { panic!("{outcome:?}") };
        assert!(result["response"].as_str().unwrap().contains("250"), "{result}");
        assert_eq!(world.mailbox.accepted().len(), 1);
        let after = world.reload(invoice.id).await;
        assert_eq!((after.reminder_stage, after.last_reminder_sent_at), (1, Some(world.now())));
    }

    /// As an attempt that was about to send, and is never heard of again.
    async fn intend(world: &World, invoice: &Invoice, (job_id, lease): (Uuid, Uuid)) {
        let key = purpose(invoice.id, 1);
        sqlx::query(
            "insert into queue.effects (id, tenant, key, kind, job_id, attempt, lease, keep_days)
             values ($1, 'acme', $2, 'billing.remind_invoice', $3, 1, $4, 30)",
        )
        .bind(effect_id(Some("acme"), &key))
        .bind(&key)
        .bind(job_id)
        .bind(lease)
        .execute(&world.app.db)
        .await
        .unwrap();
    }

    async fn effect(world: &World, invoice: &Invoice) -> EffectRecord {
        let id = effect_id(Some("acme"), &purpose(invoice.id, 1));
        find_effect(&world.app.db, id, None).await.unwrap().unwrap()
    }

    async fn clear(world: &World, invoice: &Invoice) {
        let mut tx = world.tenant().await;
        let id = (&world.organization.slug, invoice.id);
        assert!(super::super::clear_reminder_failure(&mut tx, id, "operator", world.now()).await.unwrap());
        tx.commit().await.unwrap();
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

        clear(&world, &invoice).await;
        let again = world.run(&first(&invoice)).await;
        assert!(matches!(again, Outcome::Retryable { .. }), "the count began anew: {again:?}");
        assert_eq!(world.mailbox.accepted().len(), 4);
    }

    /// BILL-7, PLAT-21
    #[tokio::test]
    async fn a_mail_that_an_operator_found_to_have_arrived_is_recorded_and_not_sent_again() {
        let world = World::new().await;
        let invoice = world.invoice("F-1", "hangup@example.se", 3).await;
        backroom_queue::enqueue(&world.app.db, &world.job(&first(&invoice))).await.unwrap();
        for _ in 0..3 {
            testing::drain(&world.app.db, &world.registry, world.app.clone(), QUEUE).await.unwrap();
            testing::fast_forward(&world.app.db).await.unwrap();
        }
        assert!(world.reload(invoice.id).await.reminder_failed_at.is_some(), "given up with the third");

        let mut db = world.app.db.acquire().await.unwrap();
        let unknown = effect(&world, &invoice).await.id;
        let answered = answer_effect(&mut db, unknown, None, &EffectAnswer::Happened(None), "operator").await.unwrap();
        assert_eq!(answered, Answered::Yes);
        clear(&world, &invoice).await;
        let outcome = world.run(&first(&invoice)).await;

        assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
        assert_eq!(world.mailbox.accepted().len(), 3);
        assert_eq!(world.reload(invoice.id).await.reminder_stage, 1);
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

        clear(&world, &invoice).await;
        let tried = world.run(&first(&invoice)).await;
        assert!(matches!(tried, Outcome::Discarded { .. }), "tried again: {tried:?}");
        let effect = effect(&world, &invoice).await;
        assert_eq!((effect.state, effect.calls), (EffectState::Refused, 2));
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
