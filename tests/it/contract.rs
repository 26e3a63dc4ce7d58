//! What scripts outside the project rely on: commands, addresses, states, exit codes.

use std::collections::BTreeSet;

use backroom::tenant::testing::TestDatabase;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Program,
    api::{Api, World},
    count, eventually, lines, overdue_organization, until,
};

/// The values of a field in an answer's list.
fn each<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    let items = list.as_array().unwrap_or_else(|| panic!("not a list: {list}"));
    items.iter().map(|item| item[field].as_str().unwrap_or_else(|| panic!("no {field}: {item}"))).collect()
}

/// From an empty database to a finished job, by nothing but the commands and addresses that are promised.
///
/// API-1, API-2, CLI-1, CLI-4, TEN-1, TEN-2, AUTH-3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_database_becomes_a_platform_that_runs_a_job() {
    let database = TestDatabase::new().await;
    emptied(&database).await;
    let program = Program::on(&database.url());
    let early = program.run(&["org", "list"]).await;
    assert_eq!(early.code, Some(1));
    assert!(early.stderr.contains("backroom migrate"), "{}", early.stderr);
    // As the release steps of several nodes do, at once; and again.
    let migrate = async || program.json(&["migrate"]).await;
    let migrated = tokio::join!(migrate(), migrate(), migrate());
    for migrated in [migrated.0, migrated.1, migrated.2, migrate().await] {
        assert_eq!(migrated["failed"], 0, "{migrated}");
    }
    let created = program.json(&["org", "create", "acme", "--name", "Åkeri & Söner 🚚 \"AB\"", "--tier", "pro"]).await;
    assert_eq!(
        (&created["slug"], &created["tier"], &created["billing_status"]),
        (&json!("acme"), &json!("pro"), &json!("trial"))
    );
    assert_eq!(program.run(&["org", "create", "acme", "--name", "Again"]).await.code, Some(1));
    for (slug, why) in [("admin", "reserved"), ("Acme", "lower-case"), ("a", "2")] {
        let refused = program.run(&["org", "create", slug, "--name", "X"]).await;
        assert_eq!(refused.code, Some(2), "{slug}");
        assert!(refused.stderr.contains(why), "{slug}: {}", refused.stderr);
    }
    let key = program.key("acme").await;
    let (server, api) = program.serve("server", &key).await;
    let worker = program.start(&["worker", "--queues", "default,invoices"]);

    let queued = api.post("/api/v1/jobs", &json!({ "kind": "debug.noop", "args": {} })).await;
    assert_eq!(queued.status, 202, "{}", queued.text);
    let id = queued.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(queued.header("location"), format!("/api/v1/jobs/{id}"));
    assert_eq!(queued.json()["state"], "available");
    let job = api.until_job(&id, "completed").await;
    assert_eq!((&job["attempt"], &job["kind"], &job["errors"]), (&json!(1), &json!("debug.noop"), &json!([])));

    worker.stop().await;
    server.stop().await;
    database.close().await.expect("dropped");
}

/// As `create database` leaves it.
async fn emptied(database: &TestDatabase) {
    let sql = "drop schema queue cascade; drop schema tenant_template cascade; drop schema public cascade; create schema public";
    sqlx::raw_sql(sql).execute(&database.pool).await.expect("emptied");
}

/// API-2, API-9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_enqueued_in_bulk_listed_by_page_cancelled_and_retried() {
    let world = World::new("server").await;
    let api = &world.api;
    let entry = |n: usize| match n % 2 {
        0 => json!({ "kind": "debug.sleep", "args": { "ms": n }, "queue": "reports", "priority": n }),
        _ => json!({ "kind": "debug.noop", "run_at": "2036-01-01T00:00:00.123Z", "max_attempts": 3 }),
    };
    let jobs: Vec<Value> = (0..23).map(entry).chain([json!({ "kind": "debug.noop", "unique_key": "å 🚚" })]).collect();
    let bulk = api.post("/api/v1/jobs/bulk", &json!({ "jobs": jobs })).await;
    assert_eq!(bulk.status, 202, "{}", bulk.text);
    let bulk = bulk.json();
    let ids = each(&bulk["jobs"], "id");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 24);
    assert_eq!(each(&bulk["jobs"], "state")[..2], ["available", "scheduled"]);
    assert!(bulk["jobs"].as_array().expect("a list").iter().all(|job| job["duplicate"] == false));
    let again = json!({ "jobs": [{ "kind": "debug.noop", "unique_key": "å 🚚" }, { "kind": "debug.noop" }] });
    let again = api.post("/api/v1/jobs/bulk", &again).await.json();
    assert_eq!(
        (&again["jobs"][0]["duplicate"], &again["jobs"][1]["duplicate"]),
        (&json!(true), &json!(false)),
        "PLAT-6"
    );
    assert_eq!(again["jobs"][0]["id"], ids[23]);

    assert_eq!(paged(api, "limit=7").await.len(), 25);
    assert_eq!(paged(api, "limit=5&queue=reports&kind=debug.sleep&state=available").await.len(), 12);
    assert_eq!(paged(api, "limit=5&state=scheduled").await.len(), 11);
    assert!(paged(api, "state=running").await.is_empty());
    let newest_first = paged(api, "limit=200").await;
    assert!(newest_first.is_sorted_by(|a, b| a > b), "{newest_first:?}");

    let (id, path) = (ids[1], format!("/api/v1/jobs/{}", ids[1]));
    let cancelled = api.post(&format!("{path}/cancel"), &json!({})).await;
    assert_eq!((cancelled.status, &cancelled.json()["state"]), (200, &json!("cancelled")));
    api.post(&format!("{path}/cancel"), &json!({})).await.problem(409, "conflict");
    let retried = api.post(&format!("{path}/retry"), &json!({})).await;
    assert_eq!((retried.status, retried.header("location")), (202, path.as_str()));
    assert_eq!(api.job(id).await["state"], "available");
    for verb in ["cancel", "retry"] {
        api.post(&format!("/api/v1/jobs/{}/{verb}", Uuid::now_v7()), &json!({})).await.problem(404, "not-found");
    }
    world.close().await;
}

/// The ids of every page of a list of jobs.
async fn paged(api: &Api, query: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("/api/v1/jobs?{query}{cursor}")).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let page = page.json();
        ids.extend(each(&page["jobs"], "id").into_iter().map(str::to_owned));
        let Some(next) = page["next_cursor"].as_str() else { return ids };
        cursor = format!("&cursor={next}");
    }
}

/// API-3, with the requests at two servers at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_idempotency_key_at_two_servers_has_one_effect() {
    let world = World::new("server").await;
    let key = world.program.key("acme").await;
    let (second_server, second) = world.program.serve("server", &key).await;
    let job = json!({ "kind": "debug.noop" });
    let tries = (0..24).map(|n| {
        let api = if n % 2 == 0 { &world.api } else { &second };
        eventually("an answer", async || {
            let answer = api.post_with("/api/v1/jobs", &[("Idempotency-Key", "order-17")], &job).await;
            if answer.status == 202 {
                return Some(answer);
            }
            assert_eq!((answer.problem(409, "idempotency-in-progress"), answer.header("retry-after")), (vec![], "1"));
            None
        })
    });
    let answers = join_all(tries).await;
    assert!(answers.iter().all(|answer| answer.text == answers[0].text), "every answer is the first");
    assert_eq!(answers.iter().filter(|answer| answer.header("idempotency-replayed") != "true").count(), 1);
    assert_eq!(count(&world.database.pool, "select count(*) from queue.jobs").await, 1);
    let other = json!({ "kind": "debug.noop", "priority": 1 });
    let other = second.post_with("/api/v1/jobs", &[("Idempotency-Key", "order-17")], &other).await;
    other.problem(422, "idempotency-mismatch");
    second_server.stop().await;
    world.close().await;
}

/// API-8, TEN-3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_another_organization_does_not_exist() {
    let world = World::new("server").await;
    let (acme, organization) = (&world.api, world.database.organization("globex").await);
    let globex = acme.with_key(&world.program.key("globex").await);
    let job = acme.enqueue("debug.noop", json!({})).await;
    let company = json!({ "name": "Kund", "email": "kund@example.se", "org_number": "556194-7986" });
    let company = acme.post("/api/v1/companies", &company).await.json()["id"].clone();
    let company = company.as_str().expect("a company");
    for path in [format!("/api/v1/jobs/{job}"), format!("/api/v1/companies/{company}")] {
        assert_eq!(acme.get(&path).await.status, 200, "{path}");
        globex.get(&path).await.problem(404, "not-found");
    }
    for verb in ["cancel", "retry"] {
        globex.post(&format!("/api/v1/jobs/{job}/{verb}"), &json!({})).await.problem(404, "not-found");
    }
    assert!(paged(&globex, "").await.is_empty());
    assert_eq!(globex.get("/api/v1/companies").await.json()["companies"], json!([]));
    let invoice = json!({ "number": "1", "company_id": company,
        "items": [{ "description": "x", "quantity": "1", "unit_price": "1" }] });
    assert_eq!(globex.post("/api/v1/invoices", &invoice).await.problem(422, "validation"), ["company_id unknown"]);
    assert_eq!(acme.job(&job).await["state"], "available");

    let id = organization.id.to_string();
    for (tenant, status) in
        [("globex", 200), (id.as_str(), 200), ("acme", 403), ("nobody", 403), ("", 403), ("GLOBEX", 403)]
    {
        let answer = globex.send(Method::GET, "/api/v1/jobs", &[("X-Tenant-ID", tenant)], "").await;
        assert_eq!(answer.status, status, "{tenant:?}: {}", answer.text);
    }
    acme.with_key("").get("/api/v1/jobs").await.problem(401, "unauthenticated");
    acme.with_key("br_acme_wrong").get("/api/v1/jobs").await.problem(401, "unauthenticated");
    world.close().await;
}

/// TEN-5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_organization_reads_only_and_its_jobs_wait_for_the_activation() {
    let world = World::new("start").await;
    let (api, program) = (&world.api, &world.program);
    let later = api.post("/api/v1/jobs", &json!({ "kind": "debug.noop", "run_at": "2036-01-01T00:00:00Z" })).await;
    let later = later.json()["id"].as_str().expect("an id").to_owned();
    let suspended = program.json(&["org", "suspend", "acme"]).await;
    assert_eq!((&suspended["billing_status"], &suspended["jobs"]), (&json!("suspended"), &json!(1)));
    // A server remembers a key for a few seconds.
    let refused = eventually("writing is refused", async || {
        let answer = api.post("/api/v1/jobs", &json!({ "kind": "debug.noop", "run_at": "2036-01-01T00:00:00Z" })).await;
        (answer.status != 202).then_some(answer)
    });
    refused.await.problem(403, "organization-suspended");
    assert_eq!(api.job(&later).await["held"], true);
    assert_eq!(api.post(&format!("/api/v1/jobs/{later}/cancel"), &json!({})).await.status, 403);

    let held = program.json(&["job", "enqueue", "debug.noop", "--org", "acme"]).await;
    let held = held["id"].as_str().expect("an id");
    let free = program.json(&["job", "enqueue", "debug.noop"]).await;
    // What belongs to nobody runs, so a worker was there; what is held does not.
    let done = program.run(&["job", "watch", free["id"].as_str().expect("an id")]).await;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!((&api.job(held).await["state"], &api.job(held).await["held"]), (&json!("available"), &json!(true)));
    let inline = program.run(&["job", "run", "debug.noop", "--org", "acme"]).await;
    assert_eq!(inline.code, Some(1), "{}", inline.stderr);
    assert!(inline.stderr.contains("hold"), "{}", inline.stderr);
    assert_eq!(program.run(&["invoice", "remind", "--org", "acme"]).await.code, Some(1));

    let activated = program.json(&["org", "activate", "acme"]).await;
    assert_eq!(activated["billing_status"], "active");
    api.until_job(held, "completed").await;
    eventually("writing is allowed", async || {
        (api.post("/api/v1/jobs", &json!({ "kind": "debug.noop" })).await.status == 202).then_some(())
    })
    .await;
    world.close().await;
}

/// PLAT-4, PLAT-5, PLAT-13: what the debug kinds promise to those who test against them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debug_kinds_fail_panic_and_sleep_as_told() {
    let world = World::new("start").await;
    let api = &world.api;
    let sleep = api.enqueue("debug.sleep", json!({ "ms": 600_000 })).await;
    let fail = api.enqueue("debug.fail", json!({ "times": 2 })).await;
    let panic = api.enqueue("debug.panic", json!({})).await;

    api.until_job(&sleep, "running").await;
    let asked = api.post(&format!("/api/v1/jobs/{sleep}/cancel"), &json!({})).await;
    assert_eq!((asked.status, &asked.json()["state"]), (202, &json!("running")));
    assert_eq!(api.until_job(&sleep, "cancelled").await["attempt"], 1);

    // `retry` hastens whoever waits for the next attempt, and uses none up.
    for id in [&fail, &panic] {
        eventually("it ends", async || {
            let job = api.job(id).await;
            if job["state"] == "retryable" {
                api.post(&format!("/api/v1/jobs/{id}/retry"), &json!({})).await;
            }
            ["completed", "discarded"].iter().any(|state| job["state"] == *state).then_some(())
        })
        .await;
    }
    let failed = api.job(&fail).await;
    assert_eq!((&failed["state"], &failed["attempt"]), (&json!("completed"), &json!(3)));
    assert_eq!(
        each(&failed["errors"], "error"),
        ["attempt 1 fails as it was told to", "attempt 2 fails as it was told to"]
    );
    let panicked = api.job(&panic).await;
    assert_eq!((&panicked["state"], &panicked["attempt"]), (&json!("discarded"), &json!(3)));
    assert_eq!(panicked["errors"].as_array().map(Vec::len), Some(3));
    assert!(panicked["reason"].as_str().is_some_and(|why| why.contains("panic")), "{panicked}");

    // A dead letter that is retried has a fresh set of attempts and keeps its history.
    assert_eq!(api.post(&format!("/api/v1/jobs/{panic}/retry"), &json!({})).await.status, 202);
    eventually("it fails again", async || {
        (api.job(&panic).await["errors"].as_array().map(Vec::len) > Some(3)).then_some(())
    })
    .await;
    world.close().await;
}

/// CLI-2, CLI-3, CLI-4, CRON-6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_runs_shows_lists_cancels_and_retries_jobs() {
    let database = TestDatabase::new().await;
    database.organization("acme").await;
    let program = Program::on(&database.url());

    // Inline, with the outcome in the exit code.
    let ran = program.json(&["job", "run", "debug.noop", "--org", "acme"]).await;
    assert_eq!((&ran["state"], &ran["tenant"], &ran["attempt"]), (&json!("completed"), &json!("acme"), &json!(1)));
    let failed = program.run(&["job", "run", "debug.fail", "--args", r#"{"times":1}"#, "--json"]).await;
    assert_eq!(failed.code, Some(4), "{}", failed.stderr);
    let failed: Value = serde_json::from_str(&failed.stdout).expect("JSON");
    assert_eq!((&failed["state"], &failed["outcome"]), (&json!("retryable"), &json!("failed")));
    assert_eq!(program.run(&["job", "run", "debug.panic"]).await.code, Some(4));

    // Enqueued, with every option.
    let args = ["job", "enqueue", "debug.sleep", "--args", r#"{"ms":1}"#, "--org", "acme", "--queue", "reports"];
    let args = [
        &args[..],
        &["--priority", "-3", "--run-at", "2036-01-01T00:00:00Z", "--max-attempts", "7", "--unique-key", "k"],
    ]
    .concat();
    let queued = program.json(&args).await;
    assert_eq!((&queued["state"], &queued["duplicate"]), (&json!("scheduled"), &json!(false)));
    assert_eq!(program.json(&args).await, json!({ "id": queued["id"], "state": "scheduled", "duplicate": true }));
    let id = queued["id"].as_str().expect("an id");
    let shown = program.json(&["job", "show", id]).await;
    assert_eq!(
        (&shown["queue"], &shown["priority"], &shown["max_attempts"], &shown["args"], &shown["tenant"]),
        (&json!("reports"), &json!(-3), &json!(7), &json!({ "ms": 1 }), &json!("acme"))
    );
    let listed = program.json(&["job", "list", "--org", "acme", "--state", "scheduled", "--kind", "debug.sleep"]).await;
    assert_eq!(each(&listed["jobs"], "id"), [id]);
    assert!(program.run(&["job", "list"]).await.stdout.contains(id), "a table for people");

    assert_eq!(program.json(&["job", "cancel", id, "--reason", "by hand"]).await["outcome"], "cancelled");
    assert_eq!(program.json(&["job", "show", id]).await["reason"], "by hand");
    assert_eq!(program.run(&["job", "cancel", id]).await.code, Some(1), "it has ended");
    assert_eq!(program.json(&["job", "retry", id]).await["state"], "available");
    let kinds = program.json(&["job", "kinds"]).await;
    let names = each(&kinds["kinds"], "kind");
    for kind in [
        "billing.sweep_overdue",
        "billing.remind_invoice",
        "debug.noop",
        "debug.sleep",
        "debug.fail",
        "debug.panic",
        "debug.append",
    ] {
        assert!(names.contains(&kind), "{kind} is missing in {names:?}");
    }

    let unknown = Uuid::now_v7().to_string();
    for (args, code, words) in [
        (&["job", "show", &unknown][..], 3, "there is no job"),
        (&["job", "retry", &unknown], 3, "there is no job"),
        (&["job", "cancel", &unknown], 3, "there is no job"),
        (&["job", "show", "17"], 2, "'17'"),
        (&["job", "enqueue", "debug.nop"], 3, "debug.nop"),
        (&["job", "enqueue", "debug.sleep"], 2, "ms"),
        (&["job", "enqueue", "debug.sleep", "--args", "{ms"], 2, "not JSON"),
        (&["job", "enqueue", "debug.noop", "--args", "[]"], 2, "debug.noop"),
        (&["job", "enqueue", "debug.noop", "--org", "nobody"], 3, "nobody"),
        (&["job", "enqueue", "debug.noop", "--queue", "nowhere"], 3, "nowhere"),
        (&["job", "enqueue", "debug.noop", "--unique-key", ""], 2, "unique-key"),
        (&["api-key", "create", "--org", "acme", "--name", "two\nlines"], 2, "the name"),
        (&["job", "list", "--state", "done"], 2, "done"),
        (&["api-key", "create", "--org", "nobody"], 3, "nobody"),
        (&["queue", "pause", "nowhere"], 3, "nowhere"),
        (&["schedule", "run", "nothing"], 3, "nothing"),
        (&["schedule", "run", "billing.sweep_overdue", "--org", "nobody"], 3, "nobody"),
        (&["schedule", "run", "platform.expire_trials", "--org", "acme"], 2, "per organization"),
        (&["schedule", "next", "platform.expire_trials", "--org", "acme"], 2, "per organization"),
        (&["schedule", "show", "nothing"], 3, "nothing"),
        (&["schedule", "verify", "nothing", "--from", "2026-03-28", "--to", "2026-03-31"], 3, "nothing"),
        (&["schedule", "verify", "--from", "2026-03-28"], 2, "--to"),
        (&["schedule", "verify", "--from", "2026-03-28", "--to", "2026-03-28"], 2, "later than from"),
        (&["schedule", "verify", "--from", "2026-03-28", "--to", "2046-03-28"], 2, "shorter"),
        (&["schedule", "verify", "--from", "yesterday", "--to", "2026-03-28"], 2, "2026-03-29"),
        (&["schedule", "verify", "--from", "2026-03-28", "--to", "2026-03-31", "--org", "nobody"], 3, "nobody"),
        (&["nonsense"], 2, "nonsense"),
    ] {
        let ran = program.run(args).await;
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words) && ran.stdout.is_empty(), "{args:?}: {} {}", ran.stdout, ran.stderr);
    }
    database.close().await.expect("dropped");
}

/// CLI-3, CRON-1, CRON-6, PLAT-13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_queue_waits_and_a_schedule_runs_by_hand() {
    let world = World::new("start").await;
    let (api, program) = (&world.api, &world.program);
    assert_eq!(program.json(&["queue", "pause", "default"]).await["changed"], true);
    assert_eq!(program.json(&["queue", "pause", "default"]).await["changed"], false);
    let waits = api.enqueue("debug.noop", json!({})).await;
    let answer = api.post("/api/v1/jobs", &json!({ "kind": "debug.noop", "queue": "reports" })).await.json();
    // Another queue goes on meanwhile.
    api.until_job(answer["id"].as_str().expect("an id"), "completed").await;
    assert_eq!(api.job(&waits).await["state"], "available");
    let queues = program.json(&["queue", "list"]).await;
    let paused: Vec<&Value> =
        queues["queues"].as_array().expect("queues").iter().filter(|queue| queue["paused"] == true).collect();
    assert_eq!((paused.len(), &paused[0]["queue"], &paused[0]["available"]), (1, &json!("default"), &json!(1)));
    assert_eq!(program.json(&["queue", "resume", "default"]).await["changed"], true);
    api.until_job(&waits, "completed").await;

    let schedules = program.json(&["schedule", "list"]).await;
    let names = each(&schedules["schedules"], "name");
    let shipped = [
        "billing.sweep_overdue",
        "platform.expire_trials",
        "platform.prune_idempotency_keys",
        "platform.prune_sign_ins",
        "platform.tell_dead_letters",
        "workspaces.expire_invitations",
        "membership.expire_requests",
        "workflows.notify_overdue",
        "integrations.sweep_due",
        "integrations.prune_deliveries",
    ];
    assert_eq!(names, shipped);
    assert_eq!(schedules["schedules"][0]["per_tenant"], true);
    let next = program.json(&["schedule", "next", "billing.sweep_overdue", "-n", "3", "--org", "acme"]).await;
    assert!(each(&next["next"], "local").iter().all(|at| at.contains("T09:00:00")), "{next}");
    let again = program.json(&["schedule", "next", "billing.sweep_overdue", "--count", "3"]).await;
    assert_eq!(again["next"], next["next"]);
    let run = program.json(&["schedule", "run", "billing.sweep_overdue", "--org", "acme"]).await;
    let sweep = api.until_job(each(&run["jobs"], "id")[0], "completed").await;
    assert_eq!((&sweep["kind"], &sweep["result"]["checked"]), (&json!("billing.sweep_overdue"), &json!(0)));
    world.close().await;
}

/// CRON-1, CRON-4, CRON-5, CRON-6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_are_verified_over_a_clock_change_and_shown_with_their_policies() {
    let database = TestDatabase::new().await;
    database.organization("acme").await;
    let file = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
    let program = Program::on(&database.url()).with("BACKROOM__SCHEDULER__FILE", file.path().display());
    std::fs::write(file.path(), "").expect("written");
    for (args, empty) in [
        (&["schedule", "list"][..], "there is no schedule"),
        (&["schedule", "verify", "--from", "2026-03-28", "--to", "2026-03-31"], "there is no schedule"),
    ] {
        let ran = program.run(args).await;
        assert_eq!((ran.code, ran.stdout.trim()), (Some(0), empty), "{}", ran.stderr);
    }
    let night = "[[schedule]]\nname = \"night\"\nkind = \"debug.noop\"\ncron = \"30 2 * * *\"\n";
    std::fs::write(file.path(), format!("{night}overlap = \"wait\"\n")).expect("written");
    let refused = program.run(&["scheduler"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("line 5") && refused.stderr.contains("`wait`"), "{}", refused.stderr);
    std::fs::write(
        file.path(),
        format!(
            "{night}overlap = \"skip\"\ntime_zone = \"Europe/Stockholm\"\n\
             [[schedule]]\nname = \"each\"\nkind = \"debug.noop\"\ncron = \"0 9 * * *\"\nper_tenant = true\n"
        ),
    )
    .expect("written");

    let ran = program.run(&["schedule", "verify", "night", "--from", "2026-10-24", "--to", "2026-10-27"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[0], "night: 30 2 * * * in Europe/Stockholm, missed = run_once, overlap = skip");
    for (line, words) in [
        (2, &["Sat 2026-10-24 02:30:00", "+02:00", "2026-10-24 00:30:00Z"][..]),
        (3, &["Sun 2026-10-25 02:30:00", "+02:00", "2026-10-25 00:30:00Z", "first pass"]),
        (4, &["clock goes back", "+02:00 to +01:00", "2026-10-25 01:00:00Z", "Sun 03:00:00 becomes Sun 02:00:00"]),
        (5, &["Mon 2026-10-26 02:30:00", "+01:00", "2026-10-26 01:30:00Z"]),
    ] {
        assert!(words.iter().all(|word| lines[line].contains(word)), "{}", ran.stdout);
    }
    let args = ["schedule", "verify", "--from", "2026-03-28", "--to", "2026-03-31", "--org", "acme"];
    let own = program.json(&args).await;
    assert_eq!(each(&own["schedules"], "schedule"), ["each"], "{own}");
    assert_eq!(own["schedules"][0]["clock_changes"][0]["at"], "2026-03-29T01:00:00Z");
    assert_eq!(own["schedules"][0]["firings"].as_array().map(Vec::len), Some(3), "{own}");

    let shown = program.json(&["schedule", "show", "night"]).await;
    assert_eq!((&shown["schedule"]["overlap"], &shown["ticks"]), (&json!("skip"), &json!([])), "{shown}");
    assert_eq!(shown["next"].as_array().map(Vec::len), Some(5));
    let never = program.run(&["schedule", "show", "night"]).await;
    assert!(never.stdout.contains("it has not fired yet"), "{}", never.stdout);
    assert_eq!(program.json(&["schedule", "pause", "night"]).await["changed"], true);
    assert_eq!(program.json(&["schedule", "show", "night"]).await["next"], json!([]));
    database.close().await.expect("dropped");
}

/// BILL-8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_names_who_would_be_reminded_and_changes_nothing() {
    let database = TestDatabase::new().await;
    overdue_organization(&database, "acme", 3).await;
    let program = Program::on(&database.url());
    let plan = program.json(&["invoice", "remind", "--org", "acme", "--dry-run"]).await;
    assert_eq!((&plan["remind"], &plan["escalate"], &plan["nothing"]), (&json!(3), &json!(0), &json!(0)));
    assert_eq!(each(&plan["invoices"], "why"), ["reminder 1 is due"; 3]);
    let mut recipients = each(&plan["invoices"], "recipient");
    recipients.sort_unstable();
    assert_eq!(recipients, ["company0@example.com", "company1@example.com", "company2@example.com"]);
    let table = program.run(&["invoice", "remind", "--org", "acme", "--dry-run"]).await;
    assert!(table.stdout.contains("3 to remind") && table.stdout.contains("acme-2"), "{}", table.stdout);
    assert_eq!(count(&database.pool, "select count(*) from queue.jobs").await, 0);
    let unpaid = "select count(*) from org_acme.invoices where status = 'unpaid'";
    assert_eq!(count(&database.pool, unpaid).await, 3);
    assert_eq!(program.run(&["invoice", "remind", "--org", "nobody", "--dry-run"]).await.code, Some(3));
    database.close().await.expect("dropped");
}

/// API-5, API-7, OPS-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_metrics_and_the_document_are_open_to_monitoring() {
    let world = World::new("start").await;
    let id = world.api.enqueue("debug.noop", json!({})).await;
    world.api.until_job(&id, "completed").await;
    let nobody = world.api.with_key("");
    for path in ["/health/live", "/health/ready"] {
        let health = nobody.get(path).await;
        assert_eq!((health.status, health.json()), (200, json!({ "status": "ok" })), "{path}");
    }
    let metrics = eventually("the queues are sampled", async || {
        Some(nobody.get("/metrics").await).filter(|metrics| metrics.text.contains("queue_depth{"))
    });
    let metrics = metrics.await;
    assert!(metrics.header("content-type").starts_with("text/plain"), "{}", metrics.header("content-type"));
    for line in [
        r#"queue_jobs_total{kind="debug.noop",queue="default",outcome="completed"} 1"#,
        r#"queue_depth{queue="mailers",state="available"} 0"#,
        "# TYPE queue_depth gauge",
        "# TYPE queue_run_seconds histogram",
        "# TYPE queue_wait_seconds histogram",
        "queue_oldest_available_seconds",
        "http_requests_total",
    ] {
        assert!(metrics.text.contains(line), "{line} is missing in\n{}", metrics.text);
    }
    let document = nobody.get("/api/v1/openapi.json").await.json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    for path in [
        "/api/v1/jobs",
        "/api/v1/jobs/bulk",
        "/api/v1/jobs/{id}",
        "/api/v1/jobs/{id}/cancel",
        "/api/v1/jobs/{id}/retry",
    ] {
        assert!(document["paths"][path].is_object(), "{path} is not in the document");
    }
    assert_eq!(nobody.get("/docs/").await.status, 200);
    world.close().await;
}

/// API-6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hasty_organization_is_told_when_to_come_back() {
    let world = World::with("server", |program| program.with("BACKROOM__HTTP__RATE_LIMIT_PER_MINUTE", 5)).await;
    let answers = join_all((0..12).map(|_| world.api.get("/api/v1/jobs"))).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(refused.len() >= 6, "{} of 12 were refused", refused.len());
    for answer in refused {
        answer.problem(429, "rate-limited");
        assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|wait| (1..=60).contains(&wait)));
        assert_eq!((answer.header("ratelimit-limit"), answer.header("ratelimit-remaining")), ("5", "0"));
    }
    let preflight = [("Origin", "http://localhost:3000"), ("Access-Control-Request-Method", "POST")];
    let allowed = world.api.with_key("").send(Method::OPTIONS, "/api/v1/jobs", &preflight, "").await;
    assert_eq!(allowed.header("access-control-allow-origin"), "http://localhost:3000");
    let preflight = [("Origin", "http://evil.example"), ("Access-Control-Request-Method", "POST")];
    let refused = world.api.with_key("").send(Method::OPTIONS, "/api/v1/jobs", &preflight, "").await;
    assert_eq!(refused.header("access-control-allow-origin"), "");
    world.close().await;
}

/// OPS-3, OPS-4, CLI-1: what the Procfile starts, twice, on one database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_every_process_share_the_work_and_end_in_order() {
    const JOBS: usize = 300;
    let procfile = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Procfile")).expect("a Procfile");
    for line in ["release: ", "web: ", "worker: ", "scheduler: "] {
        assert!(procfile.contains(line), "{line}in\n{procfile}");
    }
    let world = World::new("server").await;
    let key = world.program.key("acme").await;
    let (second_server, second) = world.program.serve("server", &key).await;
    let processes = ["worker", "worker", "scheduler", "scheduler"].map(|part| world.program.start(&[part]));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lines");
    let bulk = |from: usize| {
        let job = |n| json!({ "kind": "debug.append", "args": { "path": path, "line": format!("{n}") } });
        json!({ "jobs": (from..from + JOBS / 2).map(job).collect::<Vec<_>>() })
    };
    let (first, other) = (bulk(0), bulk(JOBS / 2));
    let answers = tokio::join!(world.api.post("/api/v1/jobs/bulk", &first), second.post("/api/v1/jobs/bulk", &other));
    assert_eq!((answers.0.status, answers.1.status), (202, 202));
    until(&world.database.pool, "select count(*) from queue.finished_jobs where state = 'completed'", JOBS as i64)
        .await;
    let lines = lines(&path);
    assert_eq!((lines.len(), lines.iter().collect::<BTreeSet<_>>().len()), (JOBS, JOBS), "each ran once");
    for process in processes {
        process.stop().await;
    }
    second_server.stop().await;
    world.close().await;
}
