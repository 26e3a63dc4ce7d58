//! Act I: overdue invoices become reminders, one each, whatever happens on the way.

use std::time::Duration;

use anyhow::Context;
use backroom_queue::{Job, JobFilter, JobRecord, JobState, pause, resume};
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    api::Api,
    cast::Cast,
    checks,
    screen::{Column, Screen},
    stage::Stage,
};
use crate::{
    domain::Language,
    jobs::billing::{self, EscalateInvoice, PlannedReminder, RemindInvoice, SweepOverdue, Swept},
    tenant,
};

/// The queue of the reminders.
const QUEUE: &str = RemindInvoice::QUEUE;
/// What is waited for comes within seconds; on a machine that is busy with other things it may take longer.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What every step needs.
pub struct Act<'a> {
    pub stage: &'a Stage,
    pub cast: &'a Cast,
    pub api: &'a Api,
    pub screen: Screen,
}

/// Tells the act and answers whether everything came out as told.
pub async fn play(act: &Act<'_>) -> anyhow::Result<bool> {
    act.screen.act("I", "Overdue invoices are reminded");
    let today = act.today();
    let plan = act.plan(today).await?;
    act.show_overdue(&plan);
    act.sweep(&plan).await?;
    act.mail(&plan).await?;
    act.troubles(&plan).await?;
    let before = act.stage.mailbox.accepted().len();
    act.twice(before).await?;
    checks::check(act, &plan, before).await
}

impl Act<'_> {
    pub fn slug(&self) -> &str {
        self.cast.organization.slug.as_str()
    }

    pub fn today(&self) -> NaiveDate {
        self.stage.app.clock.today(self.cast.organization.time_zone)
    }

    /// What `backroom invoice remind --dry-run` shows.
    async fn plan(&self, today: NaiveDate) -> anyhow::Result<Vec<PlannedReminder>> {
        let mut tx = tenant::begin(&self.stage.app.db, &self.cast.organization).await?;
        let plan = billing::plan_reminders(&mut tx, &self.cast.organization, today, None, 1000).await?;
        tx.commit().await?;
        Ok(plan)
    }

    /// All jobs of the organization, oldest first.
    pub async fn jobs(&self) -> anyhow::Result<Vec<JobRecord>> {
        let filter = JobFilter { tenant: Some(self.slug().to_owned()), limit: 10_000, ..JobFilter::default() };
        let mut jobs = backroom_queue::list(&self.stage.app.db, &filter).await?;
        jobs.reverse();
        Ok(jobs)
    }

    fn show_overdue(&self, plan: &[PlannedReminder]) {
        self.screen.step("What is overdue");
        let days: Vec<String> = self.policy().iter().map(ToString::to_string).collect();
        self.screen.say(&format!(
            "Reminders go out {} days after the due date; a week after the last one an admin is told.",
            days.join(", ")
        ));
        use Column::{Left, Right};
        let header = [Left("INVOICE"), Left("COMPANY"), Right("SEK"), Right("DAYS"), Right("NEXT"), Left("WHY")];
        self.screen.table(&header, plan.iter().map(|row| self.overdue(row)));
        let rest = self.cast.invoices - plan.len();
        self.screen.gap();
        self.screen.say(&format!("{rest} more are paid, not due yet, drafts or cancelled: nobody is bothered."));
    }

    fn overdue(&self, row: &PlannedReminder) -> Vec<String> {
        let (next, why) = match row.stage {
            Some(stage) => (stage.to_string(), format!("day {} has passed", self.policy()[stage as usize - 1])),
            None if row.escalate => ("admin".to_owned(), "no reminder was answered".to_owned()),
            None => ("–".to_owned(), row.why.replace(" is due on ", " on ")),
        };
        let amount = row.amount.format(Language::En);
        let amount = amount.strip_prefix("SEK ").unwrap_or(&amount).to_owned();
        vec![row.number.clone(), row.company.clone(), amount, row.days_overdue.to_string(), next, why]
    }

    fn policy(&self) -> &[u32] {
        &self.cast.organization.settings.dunning_days
    }

    async fn sweep(&self, plan: &[PlannedReminder]) -> anyhow::Result<()> {
        self.screen.step("The sweep finds them");
        let db = &self.stage.app.db;
        pause(db, QUEUE).await?;
        self.screen.say(&format!(
            "Every day at 09:00 the clock enqueues a sweep. Here the API is asked for one, and queue `{QUEUE}` is \
             paused first, to look at what comes in:"
        ));
        let order = json!({ "kind": SweepOverdue::KIND, "queue": "default" });
        self.screen.code(&format!("POST /api/v1/jobs  {order}"));
        let id = id_of(&self.api.post("/api/v1/jobs", &order).await?)?;
        let swept = self.ended("the sweep runs", id).await?;
        let swept: Swept = result_of(&swept)?;
        self.screen.say(&format!(
            "It looked at {} invoices, marked {} overdue and enqueued {} reminders and {} notice to an admin, all in \
             one transaction; {} have to wait for their day. In queue `{QUEUE}`, paused: {} jobs.",
            swept.checked,
            swept.marked_overdue,
            swept.reminders,
            swept.escalations,
            swept.left_alone,
            self.jobs().await?.iter().filter(|job| job.queue == QUEUE && job.state == JobState::Available).count()
        ));
        let lucky = self.invoice(plan, self.cast.paid_in_time)?;
        self.screen.say(&format!("While they wait, {} pays invoice {}:", lucky.company, lucky.number));
        self.screen.code("POST /api/v1/invoices/{id}/mark-paid");
        self.api.post(&format!("/api/v1/invoices/{}/mark-paid", lucky.invoice_id), &json!({})).await?;
        Ok(())
    }

    async fn mail(&self, plan: &[PlannedReminder]) -> anyhow::Result<()> {
        self.screen.step("The reminders go out");
        resume(&self.stage.app.db, QUEUE).await?;
        let limit = self.stage.app.config.worker.queues.get(QUEUE).copied().unwrap_or_default();
        self.screen.say(&format!("The queue goes on, {limit} at a time. What the mail server took:"));
        self.all_ended("the reminders go out").await?;
        let organization = &self.cast.organization;
        let mut letters = self.stage.mailbox.list(1000);
        letters.reverse();
        use Column::{Left, Right};
        let header = [Right("STAGE"), Left("TO"), Left("SUBJECT"), Left("MESSAGE-ID")];
        let rows = letters.into_iter().map(|letter| {
            let belongs = |row: &&PlannedReminder| {
                let expected = checks::letters_for(&self.stage.app.mailer, organization, row);
                expected.iter().any(|expected| expected.message_id == letter.message_id)
            };
            let stage = match plan.iter().find(belongs).map(|row| row.stage) {
                Some(Some(stage)) => stage.to_string(),
                Some(None) => "admin".to_owned(),
                None => "✗".to_owned(),
            };
            let id: String = letter.message_id.chars().skip(1).take(8).collect();
            vec![stage, letter.to.join(", "), letter.subject, format!("{id}…")]
        });
        self.screen.table(&header, rows);
        Ok(())
    }

    /// What was retried and when, what was given up and why, what cancelled itself, and what ended.
    async fn troubles(&self, plan: &[PlannedReminder]) -> anyhow::Result<()> {
        self.screen.step("What did not go straight");
        for job in self.jobs().await?.iter().filter(|job| job.kind == RemindInvoice::KIND) {
            let invoice = self.invoice(plan, id_in(&job.args)?)?;
            let (number, to) = (&invoice.number, &invoice.recipient);
            for error in &job.errors {
                let again = job.attempted_at.filter(|at| *at > error.at);
                let waited = again.map(|at| (at - error.at).as_seconds_f32()).unwrap_or_default();
                self.screen.fact(
                    "↻ retried",
                    &format!(
                        "Invoice {number}, {to}. At {} the server said “{}”. The job waited in the database and went \
                         again {waited:.1} s later: {}.",
                        self.clock(error.at),
                        words(&error.error),
                        if job.state == JobState::Completed { "accepted" } else { job.state.as_str() }
                    ),
                );
            }
            let reason = job.reason.as_deref().unwrap_or_default();
            match job.state {
                JobState::Discarded => self.screen.fact(
                    "✗ given up",
                    &format!(
                        "Invoice {number}, {to}. The server said “{reason}”, and that is final: no second attempt. \
                         The invoice is marked and waits for an operator (`POST …/clear-reminder-failure`)."
                    ),
                ),
                JobState::Cancelled => self.screen.fact(
                    "– not needed",
                    &format!("Invoice {number}. Its job looked again before writing, and cancelled itself: {reason}."),
                ),
                _ => {}
            }
        }
        for row in plan.iter().filter(|row| row.escalate) {
            let (admins, days) = (self.admins(), row.days_overdue);
            self.screen.fact(
                "! ended",
                &format!(
                    "Invoice {}. Unpaid after {days} days and every reminder: {admins} was told, once.",
                    row.number
                ),
            );
        }
        Ok(())
    }

    /// The sweep again, twice at once, and every job of the act again: at least once is the contract of the queue.
    async fn twice(&self, before: usize) -> anyhow::Result<()> {
        self.screen.step("Twice is fine");
        let kinds = [RemindInvoice::KIND, EscalateInvoice::KIND];
        let again: Vec<Value> = self
            .jobs()
            .await?
            .iter()
            .filter(|job| kinds.contains(&job.kind.as_str()))
            .map(|job| json!({ "kind": job.kind, "args": job.args }))
            .collect();
        let follow_ups = again.len();
        self.screen.say(&format!(
            "In one call: two more sweeps, and each of the {follow_ups} reminders and notices once more, as if every \
             worker had died before it could say that it was done."
        ));
        self.screen.code(&format!("POST /api/v1/jobs/bulk  {{\"jobs\":[…{} entries…]}}", follow_ups + 2));
        let sweep = json!({ "kind": SweepOverdue::KIND });
        let jobs: Vec<Value> = [sweep.clone(), sweep].into_iter().chain(again).collect();
        let answer = self.api.post("/api/v1/jobs/bulk", &json!({ "jobs": jobs })).await?;
        let answered = answer["jobs"].as_array().context("the bulk enqueue was not answered with a list of jobs")?;
        let duplicates = answered.iter().filter(|job| job["duplicate"] == true).count();
        self.all_ended("everything happens again").await?;
        let new_letters = self.stage.mailbox.accepted().len() - before;
        let (mut enqueued, mut cancelled) = (0, 0);
        for job in answered.iter().filter(|job| job["duplicate"] == false) {
            let job = backroom_queue::find(&mut *self.stage.app.db.acquire().await?, id_of(job)?, None)
                .await?
                .context("a job has vanished")?;
            if job.kind == SweepOverdue::KIND {
                let swept: Swept = result_of(&job)?;
                enqueued += swept.reminders + swept.escalations;
            }
            cancelled += usize::from(job.state == JobState::Cancelled);
        }
        self.screen.say(&format!(
            "Sweeps recognised as the same: {duplicates}. Reminders that the other one enqueued: {enqueued}. Jobs that \
             looked and cancelled themselves: {cancelled}. New mails: {new_letters}."
        ));
        Ok(())
    }

    fn admins(&self) -> String {
        let admins = self.cast.organization.settings.admin_emails.iter().map(|admin| admin.as_str());
        admins.collect::<Vec<_>>().join(", ")
    }

    fn clock(&self, at: DateTime<Utc>) -> String {
        at.with_timezone(&self.cast.organization.time_zone).format("%H:%M:%S").to_string()
    }

    fn invoice<'p>(&self, plan: &'p [PlannedReminder], id: Uuid) -> anyhow::Result<&'p PlannedReminder> {
        plan.iter().find(|row| row.invoice_id == id).with_context(|| format!("invoice {id} is not in the plan"))
    }

    /// Waits until the job has ended, and answers it.
    pub async fn ended(&self, doing: &str, id: Uuid) -> anyhow::Result<JobRecord> {
        self.comes_to(doing, id, |job| job.state.is_finished()).await
    }

    /// Waits until the job is as it is waited for, and answers it.
    pub async fn comes_to(&self, doing: &str, id: Uuid, is: impl Fn(&JobRecord) -> bool) -> anyhow::Result<JobRecord> {
        let _waiting = self.screen.waiting(doing);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let job = backroom_queue::find(&mut *self.stage.app.db.acquire().await?, id, None).await?;
            let job = job.with_context(|| format!("job {id} has vanished"))?;
            if is(&job) {
                return Ok(job);
            }
            anyhow::ensure!(Instant::now() < deadline, "expected {} to go on within {PATIENCE:?}", told(&job));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until no job of the organization is unfinished.
    pub async fn all_ended(&self, doing: &str) -> anyhow::Result<()> {
        let waiting = self.screen.waiting(doing);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let jobs = self.jobs().await?;
            let left: Vec<&JobRecord> = jobs.iter().filter(|job| !job.state.is_finished()).collect();
            let Some(one) = left.first() else { return Ok(()) };
            anyhow::ensure!(
                Instant::now() < deadline,
                "expected all jobs to end within {PATIENCE:?}, but {} have not, among them {}",
                left.len(),
                told(one)
            );
            let retrying = left.iter().filter(|job| job.state == JobState::Retryable).count();
            let retrying = if retrying > 0 { format!(", {retrying} to be tried again") } else { String::new() };
            waiting.set(format!("{doing}: {} of {} jobs are done{retrying}", jobs.len() - left.len(), jobs.len()));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// A job in a sentence about something that went wrong.
fn told(job: &JobRecord) -> String {
    let error = job.errors.last().map(|error| format!(", after “{}”", error.error)).unwrap_or_default();
    format!("{} ({}, {}, attempt {}{error})", job.kind, job.id, job.state, job.attempt)
}

pub fn id_of(answer: &Value) -> anyhow::Result<Uuid> {
    let id = answer["id"].as_str().with_context(|| format!("the API answered without an id: {answer}"))?;
    Ok(id.parse()?)
}

fn id_in(args: &Value) -> anyhow::Result<Uuid> {
    let id = args["invoice_id"].as_str().with_context(|| format!("a reminder without an invoice: {args}"))?;
    Ok(id.parse()?)
}

fn result_of<T: serde::de::DeserializeOwned>(job: &JobRecord) -> anyhow::Result<T> {
    let result = job.result.clone().with_context(|| format!("expected {} to be completed with a result", told(job)))?;
    Ok(serde_json::from_value(result)?)
}

/// The server's words at the end of an error's chain.
fn words(error: &str) -> &str {
    error.rsplit_once("take the message: ").map_or(error, |(_, words)| words)
}
