//! Finds an organization's unpaid invoices past their due date and enqueues one reminder, or one notice to its admins, for each.
//! Enqueued every day at 09:00 in the organization's time zone, or by an operator. Twice is fine: reminders are unique by
//! invoice and stage, and each decides again before its mail leaves.

use std::time::Duration;

use backroom_queue::{Ctx, Job, JobResult, NewJob, Unique, Verdict, enqueue_many};
use chrono::NaiveDate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{EscalateInvoice, QUEUE, RemindInvoice, decide, topic};
use crate::{
    context::App,
    domain::{Decision, Invoice, Organization},
    jobs::{actor, organization},
    store::{
        events::{self, NewEvent},
        invoices,
    },
    tenant,
};

/// Invoices looked at in one transaction: enough to make round trips cheap, few enough to hold locks for milliseconds.
const PAGE: i64 = 1000;

/// Enqueues a reminder for every invoice that owes one today.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepOverdue {}

/// What a sweep found; the job's result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Open invoices past their due date.
    pub checked: u64,
    pub marked_overdue: u64,
    pub reminders: u64,
    pub escalations: u64,
    /// Owed a reminder that an earlier sweep has enqueued and that is not over yet.
    pub already_queued: u64,
    /// Not due for a reminder today.
    pub left_alone: u64,
}

impl Job for SweepOverdue {
    type App = App;
    const KIND: &'static str = "billing.sweep_overdue";
    const QUEUE: &'static str = QUEUE;
    const PRIORITY: i16 = 10; // before the reminders that other organizations' sweeps left
    const TIMEOUT: Duration = Duration::from_secs(3600); // a million invoices take minutes

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by("sweep"))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let today = ctx.app.clock.today(organization.time_zone);
        let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
        let total = invoices::overdue_count(&mut tx, today).await?;
        tx.commit().await?;
        let (mut swept, mut after) = (Swept::default(), None);
        loop {
            anyhow::ensure!(!ctx.cancelled().is_cancelled(), "asked to stop after {} invoices", swept.checked);
            after = sweep_page(&ctx, &organization, today, after, &mut swept).await?;
            ctx.progress(swept.checked, Some(total.max(swept.checked)));
            if after.is_none() {
                tracing::info!(?swept, "swept the overdue invoices");
                return Verdict::done_with(swept);
            }
        }
    }
}

/// One page in one transaction: decides, marks, tells and enqueues. Answers where the next page begins.
async fn sweep_page(
    ctx: &Ctx<App>,
    organization: &Organization,
    today: NaiveDate,
    after: Option<(NaiveDate, Uuid)>,
    swept: &mut Swept,
) -> anyhow::Result<Option<(NaiveDate, Uuid)>> {
    let now = ctx.app.clock.now();
    let mut tx = tenant::begin(&ctx.app.db, organization).await?;
    let page = invoices::overdue_page(&mut tx, today, after, PAGE).await?;
    let ids: Vec<Uuid> = page.iter().map(|invoice| invoice.id).collect();
    let marked = invoices::mark_overdue(&mut tx, &ids, now).await?;
    let (kind, actor) = ("invoice.status_changed", &actor(ctx));
    let told: Vec<NewEvent<'_>> = marked
        .iter()
        .map(|id| NewEvent { topic: topic(*id), kind, payload: json!({ "status": "overdue" }), actor })
        .collect();
    events::append_many(&mut tx, &told, now).await?;

    let slug = organization.slug.as_str();
    let follow_up = |invoice: &Invoice| {
        let invoice_id = invoice.id;
        let job = match decide(organization, invoice, today) {
            Decision::Remind { stage } => NewJob::of(&RemindInvoice { invoice_id, stage }),
            Decision::Escalate => NewJob::of(&EscalateInvoice { invoice_id }),
            Decision::Nothing { .. } => return None,
        };
        Some(job.tenant(slug).trace(ctx.job.trace.clone()))
    };
    let jobs: Vec<NewJob> = page.iter().filter_map(follow_up).collect();
    let enqueued = enqueue_many(&mut *tx, &jobs).await?;
    tx.commit().await?;

    swept.checked += page.len() as u64;
    swept.marked_overdue += marked.len() as u64;
    swept.left_alone += (page.len() - jobs.len()) as u64;
    for (job, enqueued) in jobs.iter().zip(enqueued) {
        match (enqueued.duplicate, job.kind == RemindInvoice::KIND) {
            (true, _) => swept.already_queued += 1,
            (false, true) => swept.reminders += 1,
            (false, false) => swept.escalations += 1,
        }
    }
    let full = page.len() as i64 == PAGE;
    Ok(page.last().filter(|_| full).map(|last| (last.due_date, last.id)))
}

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, testing};

    use super::*;
    use crate::{
        domain::InvoiceStatus,
        jobs::{billing, testing::World},
    };

    async fn sweep(world: &World) -> Swept {
        match world.run(&SweepOverdue {}).await {
            Outcome::Completed { result: Some(result) } => serde_json::from_value(result).unwrap(),
            other => panic!("the sweep ended as {other:?}"),
        }
    }

    async fn drain(world: &World) {
        testing::drain(&world.app.db, &world.registry, world.app.clone(), QUEUE).await.unwrap();
    }

    /// BILL-4
    #[tokio::test]
    async fn each_invoice_past_its_due_date_gets_one_reminder_job() {
        let world = World::new().await;
        let late = world.invoice("F-1", "late@example.se", 3).await;
        world.invoice("F-2", "today@example.se", 0).await;
        world.invoice("F-3", "future@example.se", -5).await;
        let paid = world.invoice("F-4", "paid@example.se", 9).await;
        let mut tx = world.tenant().await;
        let change = (paid.id, InvoiceStatus::Paid);
        billing::change_invoice_status(&mut tx, change, world.today(), "test", world.now()).await.unwrap();
        tx.commit().await.unwrap();

        let swept = sweep(&world).await;

        assert_eq!(swept, Swept { checked: 1, marked_overdue: 1, reminders: 1, ..Swept::default() });
        assert_eq!(world.reload(late.id).await.status, InvoiceStatus::Overdue);
        let jobs = testing::enqueued::<RemindInvoice>(&world.app.db).await.unwrap();
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].args, json!({ "invoice_id": late.id, "stage": 1 }));
        assert_eq!((jobs[0].queue.as_str(), jobs[0].tenant.as_deref()), ("invoices", Some("acme")));
    }

    /// BILL-6
    #[tokio::test]
    async fn a_second_sweep_sends_no_second_mail() {
        let world = World::new().await;
        world.invoice("F-1", "kund@example.se", 3).await;

        sweep(&world).await;
        assert_eq!(sweep(&world).await, Swept { checked: 1, already_queued: 1, ..Swept::default() });
        drain(&world).await;
        assert_eq!(sweep(&world).await, Swept { checked: 1, left_alone: 1, ..Swept::default() });
        drain(&world).await;

        assert_eq!(world.mailbox.accepted().len(), 1);
    }

    /// BILL-5: reminders on days 1, 8 and 15 after the due date, then the admins are told, then nothing.
    #[tokio::test]
    async fn an_invoice_goes_through_its_stages_and_ends_with_the_admins() {
        let mut world = World::new().await;
        world.set_admins(&["boss@example.se", "reject@example.se"]).await;
        let invoice = world.invoice("F-1", "kund@example.se", 0).await;

        let mut mails = Vec::new();
        for _ in 0..40 {
            sweep(&world).await;
            drain(&world).await;
            mails.push(world.mailbox.accepted().len());
            world.app.clock.advance(chrono::Duration::days(1));
        }

        let sent_on: Vec<usize> = (1..40).filter(|day| mails[*day] > mails[day - 1]).collect();
        assert_eq!(sent_on, [1, 8, 15, 22]);
        assert_eq!(world.mailbox.accepted().last().unwrap().recipient, "boss@example.se");
        let after = world.reload(invoice.id).await;
        assert_eq!(after.reminder_stage, 3);
        assert!(after.dunning_ended_at.is_some());
        assert_eq!(world.event_kinds(invoice.id).await.last().unwrap(), "invoice.dunning_ended");
    }

    /// BILL-4: pages follow each other without gap or overlap.
    #[tokio::test]
    async fn a_sweep_works_through_more_than_a_page() {
        let world = World::new().await;
        let one = world.invoice("F-0", "kund@example.se", 3).await;
        world.copy_invoice(one.id, PAGE as u32 + 200).await;

        let swept = sweep(&world).await;

        let all = PAGE as u64 + 201;
        assert_eq!(swept, Swept { checked: all, marked_overdue: all, reminders: all, ..Swept::default() });
    }

    /// BILL-4: `cargo test --release --lib a_million_invoices -- --ignored --nocapture`
    #[tokio::test]
    #[ignore = "a measurement: minutes"]
    async fn a_million_invoices_are_swept() {
        let world = World::new().await;
        let overdue = world.invoice("F-1", "kund@example.se", 3).await;
        let later = world.invoice("F-2", "later@example.se", -20).await;
        world.copy_invoice(overdue.id, 99_999).await;
        world.copy_invoice(later.id, 899_999).await;
        let started = std::time::Instant::now();

        let swept = sweep(&world).await;

        println!("{swept:?} in {:?}", started.elapsed());
        assert_eq!(swept.reminders, 100_000);
    }

    /// BILL-8
    #[tokio::test]
    async fn a_plan_says_who_and_why_and_changes_nothing() {
        let world = World::new().await;
        let late = world.invoice("F-1", "late@example.se", 3).await;
        let waiting = world.invoice("F-2", "waiting@example.se", 2).await;
        world.run(&RemindInvoice { invoice_id: waiting.id, stage: 1 }).await;

        let mut tx = world.tenant().await;
        let plan = billing::plan_reminders(&mut tx, &world.organization, world.today(), None, 10).await.unwrap();

        let told: Vec<_> =
            plan.iter().map(|p| (p.number.as_str(), p.recipient.as_str(), p.stage, p.why.as_str())).collect();
        assert_eq!(
            told,
            [
                ("F-1", "late@example.se", Some(1), "reminder 1 is due"),
                ("F-2", "waiting@example.se", None, "reminder 2 is due on 2026-03-09"),
            ]
        );
        assert_eq!(world.reload(late.id).await.status, InvoiceStatus::Unpaid);
        assert!(testing::enqueued::<RemindInvoice>(&world.app.db).await.unwrap().is_empty());
    }
}
