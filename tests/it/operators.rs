//! What operators do by hand about queues and jobs: limits, rates, why, dump, many at once.

use backroom::tenant::testing::TestDatabase;
use serde_json::{Value, json};

use crate::support::{Program, count};

struct Shop {
    database: TestDatabase,
    program: Program,
}

impl Shop {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        database.organization("acme").await;
        let program = Program::on(&database.url());
        Self { database, program }
    }

    async fn enqueue(&self, args: &[&str]) -> String {
        let args: Vec<&str> = ["job", "enqueue", "debug.noop", "--org", "acme"].iter().chain(args).copied().collect();
        self.program.json(&args).await["id"].as_str().expect("an id").to_owned()
    }

    /// Runs a command that must fail with this code, and say these words.
    async fn refused(&self, args: &[&str], code: i32, words: &str) {
        let ran = self.program.run(args).await;
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{args:?}: {}", ran.stderr);
    }
}

/// PLAT-8, CLI-3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_limited_by_hand_and_shows_it() {
    let shop = Shop::new().await;
    let program = &shop.program;
    let set = program.json(&["queue", "limit", "invoices", "--running", "20", "--per-tenant", "2"]).await;
    assert_eq!(set["limits"], json!({ "max_running": 20, "max_running_per_tenant": 2 }));
    let kept = program.json(&["queue", "limit", "invoices", "--running", "none"]).await;
    assert_eq!(kept["limits"], json!({ "max_running": null, "max_running_per_tenant": 2 }));
    let listed = program.json(&["queue", "list"]).await;
    let of = |name: &str| -> Value {
        let queues = listed["queues"].as_array().expect("a list");
        queues.iter().find(|queue| queue["queue"] == name).cloned().expect("the queue")
    };
    assert_eq!((&of("invoices")["max_running_per_tenant"], &of("invoices")["capped"]), (&json!(2), &json!(false)));
    assert_eq!(of("mailers")["max_running_per_tenant"], Value::Null);
    let table = program.run(&["queue", "list"]).await.stdout;
    assert!(table.contains("LIMIT") && table.contains("PER TENANT"), "{table}");

    shop.refused(&["queue", "limit", "invoices", "--running", "0"], 2, "from 1 to").await;
    shop.refused(&["queue", "limit", "invoices", "--running=-1"], 2, "from 1 to").await;
    shop.refused(&["queue", "limit", "invoices"], 2, "--running").await;
    shop.refused(&["queue", "limit", "nowhere", "--running", "1"], 3, "mailers").await;
    shop.database.close().await.expect("dropped");
}

/// PLAT-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_is_set_listed_and_reset_by_hand() {
    let shop = Shop::new().await;
    let program = &shop.program;
    let set = program.json(&["rate", "set", "quickbooks:1/eu", "--permits", "400", "--per", "60s"]).await;
    assert_eq!(set, json!({ "key": "quickbooks:1/eu", "permits": 400, "period_s": 60.0 }));
    let listed = program.json(&["rate", "list", "--prefix", "quickbooks:"]).await;
    assert_eq!((&listed["rate_limits"][0]["permits"], &listed["rate_limits"][0]["fixed"]), (&json!(400), &json!(true)));
    let table = program.run(&["rate", "list"]).await.stdout;
    assert!(table.contains("400 per 60s"), "{table}");
    program.json(&["rate", "reset", "quickbooks:1/eu"]).await;
    shop.refused(&["rate", "reset", "quickbooks:1/eu"], 3, "quickbooks:1/eu").await;
    shop.refused(&["rate", "set", "k", "--permits", "0", "--per", "1s"], 2, "permits").await;
    shop.refused(&["rate", "set", "k", "--permits", "1", "--per", "60"], 2, "60s").await;
    shop.refused(&["rate", "set", "", "--permits", "1", "--per", "1s"], 2, "255").await;
    shop.database.close().await.expect("dropped");
}

/// PLAT-22, PLAT-24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_tells_why_it_waits_and_its_record_fits_into_a_file() {
    let shop = Shop::new().await;
    let program = &shop.program;
    let id = shop.enqueue(&[]).await;
    program.json(&["queue", "pause", "default"]).await;
    let told = program.run(&["job", "why", &id]).await;
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert!(told.stdout.starts_with("The queue default is paused since "), "{}", told.stdout);
    assert_eq!(program.json(&["job", "why", &id]).await["reasons"][0]["reason"], "queue_paused");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("job.json");
    let path = file.to_str().expect("a path");
    assert_eq!(program.json(&["job", "dump", &id, "--output", path]).await["file"], path);
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).expect("the file")).expect("JSON");
    let shown = program.json(&["job", "dump", &id]).await;
    assert_eq!((&kept["job"]["id"], &shown["job"]), (&json!(id), &kept["job"]));
    assert_eq!((&shown["changes"][0]["event"], &shown["events"]), (&json!("created"), &json!([])));
    let nowhere = folder.path().join("none/job.json");
    shop.refused(&["job", "dump", &id, "--output", nowhere.to_str().expect("a path")], 1, "none/job.json").await;
    for command in ["why", "dump", "discard"] {
        shop.refused(&["job", command, "01980a3c-4f00-7000-8000-000000000000"], 3, "there is no job").await;
    }
    shop.database.close().await.expect("dropped");
}

/// PLAT-13, PLAT-23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_are_planned_and_then_exactly_they_are_touched() {
    let shop = Shop::new().await;
    let program = &shop.program;
    for _ in 0..3 {
        let id = shop.enqueue(&[]).await;
        assert_eq!(program.json(&["job", "discard", &id, "--reason", "no answer"]).await["state"], "discarded");
    }
    let filter = ["--org", "acme", "--kind", "debug.noop", "--error", "NO ANSWER"];
    let bulk = |rest: &[&'static str]| ["job", "bulk"].iter().chain(rest).copied().collect::<Vec<&str>>();
    let with_filter = |verb: &'static str, flag: &'static str| [&bulk(&[verb]), &filter[..], &[flag]].concat();

    let shown = program.run(&with_filter("retry", "--plan")).await;
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(shown.stdout.contains("retry 3 jobs") && shown.stdout.contains("acme 3"), "{}", shown.stdout);
    let dead = "select count(*) from queue.finished_jobs where state = 'discarded'";
    assert_eq!(count(&shop.database.pool, dead).await, 3, "a plan does nothing");
    let plan = program.json(&with_filter("retry", "--plan")).await;
    let plan = plan["id"].as_str().expect("an id");
    assert_eq!(program.json(&["job", "bulk", "show", plan]).await["finished_at"], Value::Null);
    let applied = program.json(&["job", "bulk", "apply", plan]).await;
    assert_eq!((&applied["done"], &applied["handled"]), (&json!(3), &json!(3)), "{applied}");
    assert_eq!(program.json(&["job", "bulk", "apply", plan]).await["done"], 3, "the first result again");
    assert_eq!(count(&shop.database.pool, "select count(*) from queue.jobs").await, 3);

    let cancelled = program.run(&bulk(&["cancel", "--queue", "default", "--yes"])).await;
    assert!(cancelled.stdout.contains("cancelled 3 of 3 jobs"), "{}", cancelled.stdout);
    let none = program.run(&bulk(&["discard", "--queue", "default", "--yes"])).await;
    assert_eq!(none.code, Some(0), "{}", none.stderr);
    assert!(none.stdout.contains("there is no such job"), "{}", none.stdout);

    shop.refused(&bulk(&["cancel", "--yes"]), 2, "--all").await;
    shop.refused(&bulk(&["cancel", "--queue", "default"]), 2, "--plan").await;
    shop.refused(&bulk(&["cancel", "--org", "nobody", "--yes"]), 3, "nobody").await;
    shop.refused(&bulk(&["retry", "--state", "running", "--yes"]), 2, "discarded, cancelled").await;
    shop.refused(&bulk(&["apply", "01980a3c-4f00-7000-8000-000000000000"]), 3, "there is no plan").await;
    shop.database.close().await.expect("dropped");
}
