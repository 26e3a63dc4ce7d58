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

use super::{EscalateInvoice, QUEUE, RemindInvoice, actor, decide, topic};
use crate::{
    context::App,
    domain::{Decision, Invoice, Organization},
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
        Some(Unique::by("today"))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = super::organization(&ctx).await?;
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
