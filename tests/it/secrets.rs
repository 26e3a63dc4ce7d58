//! VAULT-4: planted secrets, everything that can be done with them, and a search of all that was written.

use std::collections::BTreeMap;

use backroom::{tenant::testing::TestDatabase, vault};
use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Program, api::World, eventually, free_address, mailbox, overdue_organization, until};

/// Everything that was said, by who said it.
#[derive(Default)]
pub struct Said(Vec<(String, String)>);

impl Said {
    pub fn hear(&mut self, who: impl Into<String>, what: impl Into<String>) {
        self.0.push((who.into(), what.into()));
    }

    /// Who said it, with a few words around it.
    pub fn who_told(&self, secret: &str) -> Vec<String> {
        let around = |text: &str, at: usize| {
            let (from, to) = (text.floor_char_boundary(at.saturating_sub(120)), text.ceil_char_boundary(at + 160));
            text[from..to].to_owned()
        };
        self.0.iter().filter_map(|(who, what)| Some(format!("{who}: {}", around(what, what.find(secret)?)))).collect()
    }
}

/// Every row of every table of the database, as text.
pub async fn every_row(database: &TestDatabase) -> String {
    sqlx::query_scalar(
        "select string_agg(query_to_xml(format('select to_jsonb(t)::text as row from %I.%I t', table_schema, table_name),
                           false, true, '')::text, E'\\n')
         from information_schema.tables
         where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')",
    )
    .fetch_one(&database.pool)
    .await
    .expect("rows")
}

/// VAULT-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_secrets_are_found_nowhere() {
    let database = TestDatabase::new().await;
    overdue_organization(&database, "acme", 2).await;
    sqlx::query("update org_acme.companies set email = 'reject@example.com' where name = 'Company 1'")
        .execute(&database.pool)
        .await
        .expect("an address");
    let mailbox = mailbox().await;
    let log = tempfile::NamedTempFile::new().expect("a file");
    let (vault_key, old_key, index_key) = (vault::generate_key(), vault::generate_key(), vault::generate_index_key());
    // A server that trusts the connection ignores the password, and the program must not repeat it.
    let url = database.url();
    let (head, tail) = url.split_once('@').expect("a user in the URL");
    let user = head.rsplit('/').next().unwrap_or_default().split(':').next().unwrap_or_default();
    let trusted = !head.trim_start_matches("postgres://").contains(':');
    let url = if trusted { format!("postgres://{user}:planted-database-password@{tail}") } else { url.clone() };
    let program = Program::on(&url)
        .without("BACKROOM__VAULT__KEYS")
        .without("BACKROOM__VAULT__INDEX_KEY")
        .with("BACKROOM__VAULT__KEYS", format!("{vault_key},{old_key}"))
        .with("BACKROOM__VAULT__INDEX_KEY", &index_key)
        .with("BACKROOM__HTTP__OPERATOR_TOKEN", "planted-operator-token")
        .with("BACKROOM__MAIL__SMTP_URL", format!("smtp://user:planted-smtp-password@{}", mailbox.addr()))
        .with("RUST_BACKTRACE", "1")
        .without("BACKROOM__LOG__FILTER")
        .with("BACKROOM__LOG__FILTER", "trace")
        .with("BACKROOM__LOG__FORMAT", "json")
        .logging_to(log.path());
    let key = program.key("acme").await;
    let reader = program.json(&["api-key", "create", "--org", "acme", "--scopes", "jobs:read"]).await;
    let reader = reader["key"].as_str().expect("a key").to_owned();
    let mut said = Said::default();

    let (process, api) = program.serve("start", &key).await;
    let company = json!({
        "name": "Kund AB", "email": "kund@example.se", "org_number": "556194-7986", "phone": "0709-731 731",
        "contact": { "name": "Planted Person", "phone": "0709-842842", "notes": "planted-contact-notes" },
    });
    let post = [("Idempotency-Key", "company-1")];
    let stored = api.post_with("/api/v1/companies", &post, &company).await;
    assert_eq!(stored.status, 201, "{}", stored.text);
    let stored_path = stored.header("location").to_owned();

    // The company's own endpoint shows them to a key that may read billing, and to nobody else.
    let shown = api.get(&stored_path).await;
    assert_eq!(
        (&shown.json()["phone"], &shown.json()["contact"]["notes"]),
        (&json!("+46709731731"), &json!("planted-contact-notes"))
    );
    assert_eq!(
        api.get("/api/v1/companies?phone=0709731731").await.json()["companies"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(
        api.post_with("/api/v1/companies", &post, &company).await.text,
        stored.text,
        "replayed from a sealed answer"
    );
    let jobs_reader = api.with_key(&reader);
    said.hear("another scope", jobs_reader.get(&stored_path).await.text);

    // What goes wrong, in every way that carries a secret along.
    let mut wrong = company.clone();
    wrong["org_number"] = json!("123456-7890");
    said.hear("a refused company", api.post("/api/v1/companies", &wrong).await.text);
    said.hear("a company twice", api.post("/api/v1/companies", &company).await.text);
    let patch = [("content-type", "application/json")];
    let patched = json!({ "email": "nobody", "phone": "0709-731 731" }).to_string();
    said.hear("a refused change", api.send(Method::PATCH, &stored_path, &patch, patched).await.text);
    said.hear(
        "the wrong organization",
        api.send(Method::GET, "/api/v1/jobs", &[("X-Tenant-ID", "other")], "").await.text,
    );
    said.hear("a wrong key", api.with_key(&format!("{key}x")).get("/api/v1/jobs").await.text);
    said.hear("the operator as a tenant", api.with_key("planted-operator-token").get("/api/v1/jobs").await.text);
    said.hear("a key as the operator", api.get("/api/v1/organizations").await.text);
    said.hear("the operator", api.with_key("planted-operator-token").get("/api/v1/queues").await.text);
    said.hear("the organization", api.get("/api/v1/organization").await.text);
    said.hear("the keys", api.get("/api/v1/api-keys").await.text);
    let made = json!({ "name": "second", "scopes": ["jobs:read"] });
    let made = api.post_with("/api/v1/api-keys", &[("Idempotency-Key", "key-1")], &made).await;
    let second = made.json()["key"].as_str().expect("a key").to_owned();
    said.hear("openapi", api.get("/api/v1/openapi.json").await.text);

    // Jobs that succeed, fail, panic, and a sweep whose mails are accepted, rejected and, without login, refused.
    let mut jobs = Vec::new();
    for (kind, args) in [
        ("debug.noop", json!({})),
        ("debug.fail", json!({ "times": 1 })),
        ("debug.panic", json!({})),
        ("billing.sweep_overdue", json!({})),
    ] {
        jobs.push(api.enqueue(kind, args).await);
    }
    eventually("every job was tried", async || {
        let tried = "select count(*) filter (where attempt = 0) + count(*) filter (where kind = 'billing.sweep_overdue') from queue.jobs";
        (crate::support::count(&database.pool, tried).await == 0).then_some(())
    })
    .await;
    eventually("the reminders were tried", async || {
        let tried = "select count(*) from (select attempt from queue.jobs where kind = 'billing.remind_invoice' and attempt > 0 and state <> 'running'
                     union all select attempt from queue.finished_jobs where kind = 'billing.remind_invoice') t";
        (crate::support::count(&database.pool, tried).await == 2).then_some(())
    })
    .await;
    for id in &jobs {
        said.hear("a job", api.job(id).await.to_string());
    }
    said.hear("the jobs", api.get("/api/v1/jobs").await.text);
    said.hear("the invoices", api.get("/api/v1/invoices").await.text);
    said.hear("metrics", api.get("/metrics").await.text);

    // The command line, its errors too. `company list` is the operator's own look into the organization.
    for args in [
        &["config"][..],
        &["config", "--json"],
        &["org", "show", "acme", "--json"],
        &["api-key", "list", "--org", "acme", "--json"],
        &["job", "list", "--json"],
        &["job", "show", &jobs[2]],
        &["queue", "list"],
        &["schedule", "list"],
        &["migrate"],
        &["invoice", "list", "--org", "acme", "--json"],
        &["invoice", "remind", "--org", "acme", "--dry-run", "--json"],
        &["job", "run", "debug.panic", "--verbose"],
        &["job", "run", "billing.sweep_overdue", "--org", "acme", "--verbose"],
    ] {
        let ran = program.run(args).await;
        said.hear(format!("backroom {args:?}"), format!("{}{}", ran.stdout, ran.stderr));
    }
    let nowhere = format!("postgres://{user}:planted-database-password@{}/x", free_address());
    let broken: BTreeMap<&str, &str> = BTreeMap::from([
        ("DATABASE_URL", nowhere.as_str()),
        ("BACKROOM__MAIL__SMTP_URL", "smtp://user:planted-smtp-password@mail.example.com"),
        ("BACKROOM__VAULT__KEYS", "planted-vault-key"),
        ("BACKROOM__VAULT__INDEX_KEY", "planted-index-key"),
        ("BACKROOM__SIGN_IN__TOKEN_KEYS", "planted-token-key"),
    ]);
    for (name, value) in broken {
        let ran = program.clone().without(name).with(name, value).run(&["job", "run", "debug.noop", "--verbose"]).await;
        assert_eq!(ran.code, Some(1), "{name}");
        said.hear(format!("a broken {name}"), format!("{}{}", ran.stdout, ran.stderr));
    }
    process.stop().await;
    said.hear("every row", every_row(&database).await);
    let log = std::fs::read_to_string(log.path()).expect("the log");
    assert!(log.lines().count() > 100 && log.contains("a thread panicked"), "the log is at trace level");
    assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "OPS-1: every line is JSON");
    said.hear("the log", log);

    let bare = |key: &str| key.split_once(':').map_or(key, |(_, key)| key).to_owned();
    let mut told = Vec::new();
    for secret in [
        &bare(&vault_key),
        &bare(&old_key),
        &bare(&index_key),
        &key,
        &reader,
        &second,
        "planted-operator-token",
        "planted-database-password",
        "planted-smtp-password",
        "planted-vault-key",
        "planted-index-key",
        "planted-token-key",
        "planted-contact-notes",
        "Planted Person",
        "709731731",
        "0709-731 731",
        "0709842842",
        "0709-842842",
        "709842842",
    ] {
        // Bytes in a row are shown as hexadecimal digits.
        let bytes: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        told.extend(said.who_told(&bytes).into_iter().map(|who| format!("the bytes of {secret} were told by {who}")));
        told.extend(said.who_told(secret).into_iter().map(|who| format!("{secret} was told by {who}")));
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
    database.close().await.expect("dropped");
}

/// PLAT-16, VAULT-4: a sealed kind through every door, in every way that its jobs end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_jobs_secret_is_found_nowhere() {
    const SECRET: &str = "planted-job-secret";
    let log = tempfile::NamedTempFile::new().expect("a file");
    let world = World::with("start", |program| {
        let program = program.with("RUST_BACKTRACE", "1").without("BACKROOM__LOG__FILTER");
        program.with("BACKROOM__LOG__FILTER", "trace").with("BACKROOM__LOG__FORMAT", "json").logging_to(log.path())
    })
    .await;
    let mut said = Said::default();
    let entry = |n: usize, ends: &str| {
        let args = json!({ "secret": format!("{SECRET}-{n}"), "ends": ends });
        json!({ "kind": "debug.sealed", "args": args, "max_attempts": 2 })
    };
    let ways = ["done", "failed", "panicked", "cancelled", "discarded"];
    let bulk: Vec<Value> = ways.iter().enumerate().map(|(n, ends)| entry(n, ends)).collect();
    let one = entry(1000, "done");
    let first = world.api.post_with("/api/v1/jobs", &[("Idempotency-Key", "one")], &one).await;
    let again = world.api.post_with("/api/v1/jobs", &[("Idempotency-Key", "two")], &one).await;
    assert_eq!((first.status, again.status), (202, 202), "{}", first.text);
    let mut keyed = entry(1001, "done");
    (keyed["unique_key"], keyed["run_at"]) = (json!(SECRET), json!("2036-01-01T00:00:00Z"));
    let (keyed, twice) = (world.api.post("/api/v1/jobs", &keyed).await, world.api.post("/api/v1/jobs", &keyed).await);
    assert_eq!(keyed.json()["id"], twice.json()["id"], "PLAT-6: {}", twice.text);
    let many = world.api.post("/api/v1/jobs/bulk", &json!({ "jobs": bulk })).await;
    let batch = json!({ "jobs": [entry(20, "done"), entry(21, "discarded")], "then": entry(22, "done") });
    let batch = world.api.post("/api/v1/batches", &batch).await;
    assert_eq!((many.status, batch.status), (202, 202), "{}{}", many.text, batch.text);
    let mut wrong = entry(30, "done");
    wrong["args"]["ends"] = json!(SECRET);
    let wrong = world.api.post("/api/v1/jobs", &wrong).await;
    assert_eq!(wrong.problem(422, "validation"), ["args.ends invalid"]);
    let args = |n: usize, ends: &str| entry(n, ends)["args"].to_string();
    for command in [
        &["job", "enqueue", "debug.sealed", "--org", "acme", "--args", &args(40, "failed")][..],
        &["job", "enqueue", "debug.sealed", "--args", &args(41, "done")],
        &["job", "run", "debug.sealed", "--org", "acme", "--verbose", "--args", &args(42, "done")],
        &["job", "run", "debug.sealed", "--verbose", "--json", "--args", &args(43, "failed")],
        &["job", "run", "debug.sealed", "--verbose", "--args", &args(44, "panicked")],
    ] {
        let ran = world.program.run(command).await;
        assert!(matches!(ran.code, Some(0 | 4)), "{}", ran.stderr);
        said.hear(command[..3].join(" "), format!("{}{}", ran.stdout, ran.stderr));
    }
    let unfinished = "select count(*) from queue.jobs where max_attempts = 2 and attempt < 2 and state <> 'scheduled'";
    until(&world.database.pool, unfinished, 0).await;
    let follow = "select count(*) from queue.finished_jobs f join queue.batches b on b.then_job_id = f.id";
    until(&world.database.pool, follow, 1).await;
    // Seven if the first was over before it came again.
    let done = "select least(count(*), 6) from queue.finished_jobs where state = 'completed' and result ? '$sealed' and args ? '$sealed'";
    until(&world.database.pool, done, 6).await;

    for id in many.json()["jobs"].as_array().expect("jobs").iter().filter_map(|job| job["id"].as_str()) {
        said.hear("a job", world.api.job(id).await.to_string());
        let shown = world.program.run(&["job", "show", id]).await;
        assert!(shown.stdout.contains("$sealed"), "{}", shown.stdout);
        said.hear("job show", shown.stdout);
    }
    said.hear("the batch", world.api.get(batch.header("location")).await.text);
    for answer in [first, again, keyed, twice, many, batch, wrong] {
        said.hear("a post", answer.text);
    }
    said.hear("the jobs", world.api.get("/api/v1/jobs?limit=200").await.text);
    said.hear("job list", world.program.run(&["job", "list", "--json"]).await.stdout);
    said.hear("every row", every_row(&world.database).await);
    let World { database, process, .. } = world;
    process.stop().await;
    let log = std::fs::read_to_string(log.path()).expect("the log");
    assert!(log.contains("in the handler of a sealed job") && log.contains("job discarded"), "at trace level");
    said.hear("the log", log);

    let mut told = said.who_told(SECRET);
    // In base64, however it is aligned there.
    for shift in 0..3 {
        told.extend(said.who_told(&BASE64_STANDARD_NO_PAD.encode(&SECRET.as_bytes()[shift..shift + 15])));
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
    database.close().await.expect("dropped");
}

/// PLAT-16: with another key on the worker than on the server a job waits, and says for what.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_job_waits_for_a_worker_with_its_key() {
    let world = World::new("server").await;
    let body = json!({ "kind": "debug.sealed", "args": { "secret": "x" }, "max_attempts": 1 });
    let queued = world.api.post("/api/v1/jobs", &body).await.json();
    let id = queued["id"].as_str().expect("an id");
    let other = world.program.clone().without("BACKROOM__VAULT__KEYS");
    let stranger = other.with("BACKROOM__VAULT__KEYS", vault::generate_key()).start(&["worker"]);
    let waits = world.api.until_job(id, "retryable").await;
    stranger.stop().await;
    assert_eq!((&waits["attempt"], waits["errors"].as_array().map(Vec::len)), (&json!(0), Some(1)), "{waits}");
    let error = waits["errors"][0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("needs vault key"), "{error}");

    let worker = world.program.start(&["worker"]);
    assert_eq!(world.program.run(&["job", "retry", id]).await.code, Some(0));
    world.api.until_job(id, "completed").await;
    worker.stop().await;
    world.close().await;
}
