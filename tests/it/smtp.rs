//! The mail server is down, slow, greylisting, rejecting, or hangs up after it has taken the message.

use std::time::Duration;

use backroom::{mail::mailbox::Mailbox, tenant::testing::TestDatabase};
use serde_json::{Value, json};

use crate::support::{PATIENCE, Process, Program, api::Api, count, eventually, mailbox, overdue_organization, until};

/// One overdue invoice, a worker and a server, and a mailbox that the worker sends to.
struct World {
    database: TestDatabase,
    mailbox: Mailbox,
    program: Program,
    processes: [Process; 2],
    api: Api,
    invoice: String,
}

impl World {
    /// The invoice's company is `local@example.com`.
    async fn new(local: &str) -> Self {
        let database = TestDatabase::new().await;
        overdue_organization(&database, "acme", 1).await;
        sqlx::query("update org_acme.companies set email = $1 || '@example.com'")
            .bind(local)
            .execute(&database.pool)
            .await
            .expect("an address");
        let mailbox = mailbox().await;
        let program = Program::on(&database.url())
            .with("BACKROOM__MAIL__SMTP_URL", mailbox.url())
            .with("BACKROOM__MAIL__TIMEOUT_S", 2);
        let key = program.key("acme").await;
        let (server, api) = program.serve("server", &key).await;
        let worker = program.start(&["worker", "--queues", "invoices"]);
        let invoices = api.get("/api/v1/invoices").await.json();
        let invoice = invoices["invoices"][0]["id"].as_str().expect("an invoice").to_owned();
        Self { database, mailbox, program, processes: [server, worker], api, invoice }
    }

    /// Sweeps over the API; answers what the sweep found.
    async fn sweep(&self) -> Value {
        let queued = self.api.post("/api/v1/invoices/remind", &json!({})).await;
        assert_eq!(queued.status, 202, "{}", queued.text);
        let id = queued.json()["id"].as_str().expect("an id").to_owned();
        self.api.until_job(&id, "completed").await["result"].clone()
    }

    /// The newest reminder job, once it is in this state.
    async fn reminder(&self, state: &str) -> Value {
        eventually(&format!("a reminder is {state}"), async || {
            let jobs = self.api.get("/api/v1/jobs?kind=billing.remind_invoice&limit=1").await.json();
            Some(jobs["jobs"][0].clone()).filter(|job| job["state"] == state)
        })
        .await
    }

    async fn invoice(&self) -> Value {
        self.api.get(&format!("/api/v1/invoices/{}", self.invoice)).await.json()
    }

    /// Why the invoice gets no more reminders, once it is marked.
    async fn failure(&self) -> String {
        let failed = eventually("the invoice is marked", async || {
            Some(self.invoice().await).filter(|invoice| !invoice["reminder_failed_at"].is_null())
        });
        failed.await["reminder_error"].as_str().expect("an error").to_owned()
    }

    async fn hasten(&self, job: &Value) {
        let id = job["id"].as_str().expect("an id");
        assert_eq!(self.program.run(&["job", "retry", id]).await.code, Some(0));
    }

    async fn close(self) {
        for process in self.processes {
            process.stop().await;
        }
        self.database.close().await.expect("dropped");
    }
}

/// MAIL-3, PLAT-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_is_tried_again_after_a_stored_pause() {
    let world = World::new("kund").await;
    world.mailbox.set_down(true);
    world.sweep().await;

    let waiting = world.reminder("retryable").await;
    let error = waiting["errors"][0]["error"].as_str().expect("an error");
    assert!(error.contains("421") && error.contains("told to be unavailable"), "the server's words: {error}");
    assert_eq!((&waiting["attempt"], &waiting["errors"][0]["attempt"]), (&json!(1), &json!(1)));
    let later = "select count(*) from queue.jobs where state = 'retryable' and run_at > attempted_at
                 and run_at <= attempted_at + interval '40 seconds'";
    assert_eq!(count(&world.database.pool, later).await, 1, "{waiting}");
    assert!(world.invoice().await["reminder_failed_at"].is_null());

    world.mailbox.set_down(false);
    world.hasten(&waiting).await;
    assert_eq!(world.reminder("completed").await["attempt"], 2);
    assert_eq!(world.mailbox.accepted().len(), 1);
    assert_eq!(world.invoice().await["reminder_stage"], 1);
    world.close().await;
}

/// MAIL-3, BILL-7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_reminder_waits_for_an_operator() {
    let world = World::new("reject").await;
    assert_eq!(world.sweep().await["reminders"], 1);

    let dead = world.reminder("discarded").await;
    assert!(dead["reason"].as_str().is_some_and(|why| why.contains("550 5.1.1 User unknown")), "{dead}");
    assert_eq!(dead["attempt"], 1);
    assert!(world.failure().await.contains("User unknown"));
    let told = "select count(*) from org_acme.events where kind = 'invoice.reminder_failed'";
    assert_eq!(count(&world.database.pool, told).await, 1);
    let listed = world.api.get("/api/v1/invoices?reminder_failed=true").await.json();
    assert_eq!(listed["invoices"].as_array().map(Vec::len), Some(1));

    // The next sweep leaves it alone, as the dry run says it will.
    let plan = world.program.json(&["invoice", "remind", "--org", "acme", "--dry-run"]).await;
    assert_eq!((&plan["remind"], &plan["nothing"]), (&json!(0), &json!(1)), "{plan}");
    let swept = world.sweep().await;
    assert_eq!((&swept["reminders"], &swept["left_alone"]), (&json!(0), &json!(1)), "{swept}");

    // Cleared over the API, it is tried again, and rejected again.
    let clear = format!("/api/v1/invoices/{}/clear-reminder-failure", world.invoice);
    let cleared = world.api.post(&clear, &json!({})).await;
    assert_eq!((cleared.status, &cleared.json()["reminder_failed_at"]), (200, &Value::Null));
    world.api.post(&clear, &json!({})).await.problem(409, "conflict");
    assert_eq!(world.sweep().await["reminders"], 1);
    assert!(world.failure().await.contains("User unknown"));

    // With the address mended and the failure cleared on the command line, the next sweep sends.
    let company = world.invoice().await["company_id"].as_str().expect("a company").to_owned();
    let (company, json) = (format!("/api/v1/companies/{company}"), [("content-type", "application/json")]);
    let mended = json!({ "email": "mended@example.com" }).to_string();
    let mended = world.api.send(reqwest::Method::PATCH, &company, &json, mended).await;
    assert_eq!(mended.status, 200, "{}", mended.text);
    let clear = ["invoice", "clear-failure", "--org", "acme", "--number", "acme-0"];
    assert_eq!(world.program.run(&clear).await.code, Some(0));
    assert!(world.invoice().await["reminder_failed_at"].is_null());
    assert_eq!(world.sweep().await["reminders"], 1);
    assert!(world.mailbox.wait_for(1, PATIENCE).await, "nothing came");
    world.reminder("completed").await;
    assert_eq!(world.mailbox.accepted()[0].recipient, "mended@example.com");
    assert_eq!(world.invoice().await["reminder_stage"], 1);
    world.close().await;
}

/// MAIL-3, PLAT-4: at the time that the server named, and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greylisted_reminder_comes_back_when_the_server_said() {
    let world = World::new("greylist").await;
    world.sweep().await;
    // The mailbox says "in 2 seconds"; the job's own back-off would wait up to 30.
    let done = world.reminder("completed").await;
    assert_eq!((&done["attempt"], done["errors"].as_array().map(Vec::len)), (&json!(2), Some(1)), "{done}");
    let error = done["errors"][0]["error"].as_str().expect("an error");
    assert!(error.contains("451") && error.contains("Greylisted"), "{error}");
    let waited = "select count(*) from queue.finished_jobs where kind = 'billing.remind_invoice'
                  and run_at - (errors -> 0 ->> 'at')::timestamptz between interval '1.9 seconds' and interval '5 seconds'";
    assert_eq!(count(&world.database.pool, waited).await, 1, "{done}");
    assert_eq!(world.mailbox.accepted().len(), 1);
    world.close().await;
}

/// MAIL-2: nobody can know that it was taken, so it is sent again as the very same message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_breaks_after_the_message_sends_the_same_message_again() {
    let world = World::new("hangup").await;
    world.sweep().await;
    let waiting = world.reminder("retryable").await;
    let error = waiting["errors"][0]["error"].as_str().expect("an error");
    assert!(error.contains("may have accepted the message"), "{error}");
    world.hasten(&waiting).await;
    assert!(world.mailbox.wait_for(2, PATIENCE).await, "it was not sent again");
    let accepted = world.mailbox.accepted();
    assert_eq!((accepted.len(), &accepted[0]), (2, &accepted[1]), "the same Message-ID");
    let [first, second] = [1, 2].map(|id| world.mailbox.get(id).expect("a message"));
    assert_eq!((first.text, first.headers), (second.text, second.headers));
    assert_eq!(count(&world.database.pool, "select count(*) from org_acme.deliveries").await, 1);
    world.close().await;
}

/// MAIL-3: slower than the worker's patience for addresses, not for the final reply (RFC 5321, 4.5.3.2.6).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_gets_its_time_and_one_message() {
    let world = World::new("kund").await;
    world.mailbox.set_delay(Duration::from_secs(4));
    world.sweep().await;
    assert_eq!(world.reminder("completed").await["attempt"], 1);
    assert_eq!(world.mailbox.accepted().len(), 1);
    world.close().await;
}

/// MAIL-3: nobody listens at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_a_reminder_waits() {
    let database = TestDatabase::new().await;
    overdue_organization(&database, "acme", 1).await;
    let nobody = format!("smtp://{}", crate::support::free_address());
    let program = Program::on(&database.url()).with("BACKROOM__MAIL__SMTP_URL", nobody);
    program.json(&["job", "run", "billing.sweep_overdue", "--org", "acme"]).await;
    let worker = program.start(&["worker"]);
    until(&database.pool, "select count(*) from queue.jobs where state = 'retryable'", 1).await;
    let told = "select count(*) from queue.jobs where errors -> 0 ->> 'error' like '%no connection to 127.0.0.1:%'";
    assert_eq!(count(&database.pool, told).await, 1);
    worker.stop().await;
    database.close().await.expect("dropped");
}
