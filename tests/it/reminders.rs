//! The main job from outside: workers that are killed, schedulers that compete, one mail per invoice and stage.

use std::{collections::BTreeMap, time::Duration};

use backroom::{mail::mailbox::Mailbox, tenant::testing::TestDatabase};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::support::{PATIENCE, Program, count, mailbox, overdue_organization, until};

/// Recipient → its Message-IDs, each with how often the server accepted it.
fn received(mailbox: &Mailbox) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut received: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for delivery in mailbox.accepted() {
        *received.entry(delivery.recipient).or_default().entry(delivery.message_id).or_default() += 1;
    }
    received
}

/// BILL-5, BILL-6, MAIL-2, PLAT-11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_killed_in_the_middle_of_sending_leave_one_mail_per_invoice_and_stage() {
    const INVOICES: i32 = 80;
    const KILLS: u32 = 20;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let database = TestDatabase::new().await;
    overdue_organization(&database, "acme", INVOICES).await;
    let mailbox = mailbox().await;
    let program = Program::on(&database.url()).with("BACKROOM__MAIL__SMTP_URL", mailbox.url());
    let swept = program.run(&["job", "run", "billing.sweep_overdue", "--args", "{}", "--org", "acme"]).await;
    assert_eq!(swept.code, Some(0), "{}", swept.stderr);
    assert_eq!(count(&database.pool, "select count(*) from queue.jobs").await, i64::from(INVOICES));

    // The server keeps a message and is slow to say so: most kills fall between its acceptance and our record.
    mailbox.set_delay(Duration::from_millis(20));
    for kill in 0..KILLS {
        let (already, left) = (mailbox.accepted().len(), INVOICES as usize - received(&mailbox).len());
        let worker = program.start(&["worker", "--queues", "invoices"]);
        let more = left.min(random.random_range(1..8));
        assert!(mailbox.wait_for(already + more, PATIENCE).await, "round {kill} sent nothing");
        tokio::time::sleep(Duration::from_micros(random.random_range(0..25_000))).await;
        worker.kill().await;
        if received(&mailbox).len() >= INVOICES as usize {
            break;
        }
    }
    let worker = program.start(&["worker", "--queues", "invoices"]);
    until(&database.pool, "select count(*) from queue.jobs", 0).await;
    worker.stop().await;

    let received = received(&mailbox);
    // But for those whose workers were killed three times before the mail had left: they are an operator's.
    let left =
        count(&database.pool, "select count(*) from org_acme.invoices where reminder_failed_at is not null").await;
    assert!(received.len() as i64 >= i64::from(INVOICES) - left, "{} reminders, {left} left", received.len());
    for (recipient, messages) in &received {
        assert_eq!(messages.len(), 1, "{recipient} got {messages:?}: more than one mail for one invoice and stage");
        assert!(messages.values().all(|copies| *copies <= 3), "{recipient} got {messages:?}: more than three copies");
    }
    let again = mailbox.accepted().len() - received.len();
    println!("{again} of {INVOICES} messages were handed over again under the same Message-ID after a kill");
    // Every job is accounted for, and the books agree with the mail server.
    let reminders = "select count(*) from queue.finished_jobs where kind = 'billing.remind_invoice'";
    assert_eq!(count(&database.pool, reminders).await, i64::from(INVOICES));
    // One whose worker was killed three times in the middle of it is left to an operator (PLAT-20, PLAT-21).
    let lost = "select count(*) from queue.finished_jobs where state = 'discarded'";
    let failed = "select count(*) from org_acme.invoices where reminder_failed_at is not null";
    let failed = count(&database.pool, failed).await;
    println!("{failed} of them were left to an operator");
    // A mail that had left and was recorded did not fail, also if its job lost three workers.
    assert!(count(&database.pool, lost).await >= failed);
    assert!(failed < i64::from(INVOICES) / 4, "{failed}");
    let sent = "select count(*) from org_acme.deliveries where state = 'sent'";
    assert_eq!(count(&database.pool, sent).await, i64::from(INVOICES) - failed);
    let stages =
        "select count(*) from org_acme.invoices where reminder_stage = 1 and last_reminder_sent_at is not null";
    assert_eq!(count(&database.pool, stages).await, i64::from(INVOICES) - failed);
    database.close().await.expect("dropped");
}

/// CRON-2, BILL-4, BILL-6, OPS-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_schedulers_and_two_workers_sweep_once_per_tick_and_mail_once_per_stage() {
    const INVOICES: i32 = 30;
    let database = TestDatabase::new().await;
    overdue_organization(&database, "acme", INVOICES).await;
    let mailbox = mailbox().await;
    let schedules = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
    std::fs::write(
        schedules.path(),
        "[[schedule]]\nname = \"sweep\"\ncron = \"* * * * * *\"\nper_tenant = true\nkind = \"billing.sweep_overdue\"\n",
    )
    .expect("written");
    let program = Program::on(&database.url())
        .with("BACKROOM__MAIL__SMTP_URL", mailbox.url())
        .with("BACKROOM__SCHEDULER__FILE", schedules.path().display());
    let processes = [
        program.start(&["scheduler"]),
        program.start(&["scheduler"]),
        program.start(&["worker"]),
        program.start(&["worker"]),
    ];
    assert!(mailbox.wait_for(INVOICES as usize, PATIENCE).await, "only {} mails came", mailbox.accepted().len());
    // Several more ticks, which find nothing to send.
    let ticks = "select (count(*) >= 5)::int::bigint from queue.schedule_ticks where job_id is not null";
    until(&database.pool, ticks, 1).await;
    for process in processes {
        process.stop().await;
    }

    let doubled = "select count(*) from (select tick_at from queue.schedule_ticks group by schedule, tenant, tick_at having count(*) > 1) t";
    assert_eq!(count(&database.pool, doubled).await, 0);
    let sweeps = "select count(*) from (select id from queue.jobs where kind = 'billing.sweep_overdue'
                  union all select id from queue.finished_jobs where kind = 'billing.sweep_overdue') s";
    let fired = "select count(distinct job_id) from queue.schedule_ticks where job_id is not null";
    assert_eq!(count(&database.pool, sweeps).await, count(&database.pool, fired).await, "one sweep per tick");
    let received = received(&mailbox);
    assert_eq!((received.len(), mailbox.accepted().len()), (INVOICES as usize, INVOICES as usize));
    database.close().await.expect("dropped");
}

/// BILL-6: not the sweep run twice, and not the same reminder enqueued by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sweep_sends_no_second_mail() {
    let database = TestDatabase::new().await;
    overdue_organization(&database, "acme", 3).await;
    let mailbox = mailbox().await;
    let program = Program::on(&database.url()).with("BACKROOM__MAIL__SMTP_URL", mailbox.url());
    let worker = program.start(&["worker"]);
    for _ in 0..2 {
        let swept = program.run(&["invoice", "remind", "--org", "acme"]).await;
        assert_eq!(swept.code, Some(0), "{}", swept.stderr);
        until(&database.pool, "select count(*) from queue.jobs", 0).await;
    }
    worker.stop().await;
    assert_eq!(mailbox.accepted().len(), 3);
    database.close().await.expect("dropped");
}
