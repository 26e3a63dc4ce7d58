//! Was the act true? Everything told is looked up again: in the database, and in the mailbox, which knows nothing of it.

use std::fmt::Debug;

use backroom_queue::{Job, JobRecord, JobState};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{overdue::Act, people::CUSTOMERS, screen::Screen};
use crate::{
    domain::{Invoice, InvoiceStatus, Organization},
    jobs::billing::{PlannedReminder, RemindInvoice},
    mail::{Mailer, mailbox::Delivery},
    store::{Page, invoices},
    tenant,
};

/// What shall have reached whom because of this invoice, if nothing stands in the way.
pub fn letters_for(mailer: &Mailer, organization: &Organization, row: &PlannedReminder) -> Vec<Delivery> {
    let slug = organization.slug.as_str();
    let letter = |purpose: String, to: &str| Delivery {
        message_id: mailer.message_id(slug, &purpose),
        recipient: to.to_owned(),
    };
    if let Some(stage) = row.stage {
        return vec![letter(format!("reminder:{}:{stage}", row.invoice_id), row.recipient.as_str())];
    }
    let admins = organization.settings.admin_emails.iter().filter(|_| row.escalate).map(|admin| admin.as_str());
    admins.map(|admin| letter(format!("escalation:{}:{admin}", row.invoice_id), admin)).collect()
}

/// Looks, tells, and answers whether all is as told. `before` is how many letters there were before everything happened again.
pub async fn check(act: &Act<'_>, plan: &[PlannedReminder], before: usize) -> anyhow::Result<bool> {
    act.screen.step("Was it true? The database and the mailbox say");
    let Act { stage, cast, .. } = act;
    let (app, organization) = (&stage.app, &cast.organization);
    let mut found = Findings { screen: act.screen, good: true };
    let accepted = sorted(stage.mailbox.accepted());
    let silent = [cast.rejected, cast.paid_in_time];
    let owed = plan.iter().filter(|row| !silent.contains(&row.invoice_id));
    let expected = sorted(owed.flat_map(|row| letters_for(&app.mailer, organization, row)).collect());
    found.same(
        "one mail per invoice and stage: each expected Message-ID arrived once, and no other",
        &accepted,
        &expected,
    );

    let mut tx = tenant::begin(&app.db, organization).await?;
    let recorded = sorted(sent_deliveries(&mut tx).await?);
    let invoices = invoices::page(&mut tx, &invoices::InvoiceFilter::default(), Page::first(1000)).await?;
    let clear = readable_companies(&mut tx).await?;
    tx.commit().await?;
    found.same("the database has recorded as sent what the mail server took", &recorded, &accepted);
    found.same("everything twice sent nothing new", &accepted.len(), &before);

    let jobs = act.jobs().await?;
    let count = |state| jobs.iter().filter(|job| job.state == state).count();
    let ended = [JobState::Completed, JobState::Cancelled, JobState::Discarded].map(count);
    found.same(
        &format!(
            "all {} jobs are accounted for: {} completed, {} cancelled themselves, {} given up",
            jobs.len(),
            ended[0],
            ended[1],
            ended[2]
        ),
        &ended.iter().sum(),
        &jobs.len(),
    );
    invoices_are_as_told(act, &mut found, plan, &invoices, &jobs);
    found.same("phones and contacts are sealed: no company can be read in the tables", &clear, &0);
    let mut pages = Vec::new();
    for path in ["/dev/mailbox", "/docs/", "/metrics"] {
        pages.push((path, act.api.status(path).await?));
    }
    let up = pages.iter().map(|(path, _)| (*path, 200)).collect();
    found.same("the mailbox, the API's page and the metrics can be opened", &pages, &up);
    Ok(found.good)
}

fn invoices_are_as_told(
    act: &Act<'_>,
    found: &mut Findings,
    plan: &[PlannedReminder],
    invoices: &[Invoice],
    jobs: &[JobRecord],
) {
    let cast = act.cast;
    let by_id = |id: Uuid| invoices.iter().find(|invoice| invoice.id == id);
    // The first job of an invoice: what came later came on purpose.
    let job_of = |id: Uuid| {
        jobs.iter().find(|job| job.kind == RemindInvoice::KIND && job.args["invoice_id"] == id.to_string().as_str())
    };
    let attempts = |id: Uuid| job_of(id).map(|job| (job.state, job.attempt));
    let begins = |id: Uuid, with: &str| {
        let last = job_of(id).and_then(|job| job.reason.as_deref().or(job.errors.first().map(|e| e.error.as_str())));
        last.is_some_and(|words| words.contains(with))
    };
    let reminded = |row: &&PlannedReminder| ![cast.rejected, cast.paid_in_time].contains(&row.invoice_id);
    let stages = |stage: fn(&PlannedReminder, Option<&Invoice>) -> Option<u32>| -> Vec<Option<u32>> {
        plan.iter()
            .filter(reminded)
            .filter(|row| row.stage.is_some())
            .map(|row| stage(row, by_id(row.invoice_id)))
            .collect()
    };
    found.same(
        "every reminded invoice counts its stage",
        &stages(|_, invoice| invoice.map(|invoice| invoice.reminder_stage)),
        &stages(|row, _| row.stage),
    );
    found.same(
        "the greylisted one went out at the second attempt",
        &(attempts(cast.greylisted), begins(cast.greylisted, "451")),
        &(Some((JobState::Completed, 2)), true),
    );
    let failed = by_id(cast.rejected).is_some_and(|invoice| invoice.reminder_failed_at.is_some());
    found.same(
        "the rejected one was tried once, given up with the server's words, and its invoice marked",
        &(attempts(cast.rejected), begins(cast.rejected, "550"), failed),
        &(Some((JobState::Discarded, 1)), true, true),
    );
    let paid = by_id(cast.paid_in_time).map(|invoice| invoice.status);
    found.same(
        "the one that was paid in time got no mail, and its job says why",
        &(attempts(cast.paid_in_time).map(|job| job.0), begins(cast.paid_in_time, "paid on"), paid),
        &(Some(JobState::Cancelled), true, Some(InvoiceStatus::Paid)),
    );
    let escalated = plan.iter().filter(|row| row.escalate).map(|row| row.invoice_id);
    let ended: Vec<bool> = escalated.map(|id| by_id(id).is_some_and(|i| i.dunning_ended_at.is_some())).collect();
    found.same("the one past its last stage is with an admin, and reminding has ended", &ended, &vec![true]);
    let planned = |invoice: &&Invoice| !plan.iter().any(|row| row.invoice_id == invoice.id);
    let bothered: Vec<&str> = invoices
        .iter()
        .filter(planned)
        .filter(|invoice| invoice.reminder_stage > 0 || invoice.status == InvoiceStatus::Overdue)
        .map(|invoice| invoice.number.as_str())
        .collect();
    found.same("nobody was bothered about the other invoices", &bothered, &Vec::new());
}

/// Ticks and crosses.
pub struct Findings {
    pub screen: Screen,
    pub good: bool,
}

impl Findings {
    pub fn same<T: PartialEq + Debug>(&mut self, truth: &str, found: &T, expected: &T) {
        let good = found == expected;
        self.good &= good;
        if good {
            self.screen.check(true, truth);
        } else {
            self.screen.check(false, &format!("not so: {truth}. Expected {expected:?}, found {found:?}."));
        }
    }
}

fn sorted(mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
    deliveries.sort_by(|a, b| (&a.message_id, &a.recipient).cmp(&(&b.message_id, &b.recipient)));
    deliveries
}

async fn sent_deliveries(db: &mut PgConnection) -> sqlx::Result<Vec<Delivery>> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("select message_id, recipient from deliveries where state = 'sent'").fetch_all(db).await?;
    Ok(rows.into_iter().map(|(message_id, recipient)| Delivery { message_id, recipient }).collect())
}

/// How many companies have a part of a phone number or a contact's name in their sealed columns.
async fn readable_companies(db: &mut PgConnection) -> sqlx::Result<usize> {
    let rows: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as("select phone, contact from companies").fetch_all(db).await?;
    let digits = CUSTOMERS.iter().filter_map(|customer| customer.phone.rsplit_once('-')?.1.split(' ').next());
    let names = CUSTOMERS.iter().flat_map(|customer| customer.contact.0.split(' '));
    // Three letters may stand in random bytes by chance; five do not.
    let secrets: Vec<&str> = digits.chain(names).filter(|secret| secret.len() >= 5).collect();
    let holds = |bytes: &[u8]| {
        secrets.iter().any(|secret| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()))
    };
    Ok(rows.iter().filter(|(phone, contact)| holds(phone) || holds(contact)).count())
}
