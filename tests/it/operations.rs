//! Starting, stopping, waiting, and the sentences that say what is missing.

use std::time::Duration;

use backroom::tenant::testing::TestDatabase;
use serde_json::json;

use crate::support::{
    Program, count, eventually, free_address, lines,
    link::{Link, Way},
    until,
};

/// PLAT-12, CLI-1: what runs may finish, what waits is handed back, and no attempt is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_told_to_stop_finishes_what_runs_and_hands_back_the_rest() {
    let database = TestDatabase::new().await;
    let program = Program::on(&database.url()).with("BACKROOM__WORKER__QUEUES__DEFAULT", 2);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lines");
    for _ in 0..2 {
        program.json(&["job", "enqueue", "debug.sleep", "--args", r#"{"ms":1500}"#]).await;
    }
    let waiting = json!({ "path": path, "line": "x" }).to_string();
    for _ in 0..3 {
        program.json(&["job", "enqueue", "debug.append", "--args", &waiting]).await;
    }
    let worker = program.start(&["worker"]);
    until(&database.pool, "select count(*) from queue.jobs where kind = 'debug.sleep' and state = 'running'", 2).await;
    worker.stop().await;
    let finished = "select count(*) from queue.finished_jobs where state = 'completed' and kind = 'debug.sleep'";
    assert_eq!(count(&database.pool, finished).await, 2);
    let back = "select count(*) from queue.jobs where state = 'available' and attempt = 0 and kind = 'debug.append'";
    assert_eq!((count(&database.pool, back).await, lines(&path).len()), (3, 0));
    database.close().await.expect("dropped");
}

/// PLAT-12: who does not end within the time is let go of, and runs again elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_outlasts_the_shutdown_is_released() {
    let database = TestDatabase::new().await;
    let program = Program::on(&database.url()).with("BACKROOM__WORKER__SHUTDOWN_S", 1);
    program.json(&["job", "enqueue", "debug.sleep", "--args", r#"{"ms":600000}"#]).await;
    let worker = program.start(&["worker"]);
    let running = "select count(*) from queue.jobs where state = 'running'";
    until(&database.pool, running, 1).await;
    let began = std::time::Instant::now();
    worker.stop().await;
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    assert_eq!(count(&database.pool, "select count(*) from queue.jobs where state = 'available'").await, 1);
    let second = program.start(&["worker"]);
    until(&database.pool, running, 1).await;
    second.stop().await;
    database.close().await.expect("dropped");
}

/// PLAT-11: a database that is not there yet is waited for, by every process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_wait_for_a_database_that_is_away_at_their_start() {
    let database = TestDatabase::new().await;
    let link = Link::to(&database.url()).await;
    link.cut();
    let log = tempfile::NamedTempFile::new().expect("a file");
    let program = Program::on(&link.url).without("BACKROOM__LOG__FILTER").with("BACKROOM__LOG__FILTER", "warn");
    let program = program.logging_to(log.path());
    let mut processes = [program.start(&["worker"]), program.start(&["scheduler"])];
    eventually("both say that they wait", async || {
        let told = std::fs::read_to_string(log.path()).unwrap_or_default();
        (told.matches("does not answer yet").count() >= 4).then_some(())
    })
    .await;
    for process in &mut processes {
        process.assert_running();
    }
    let beside = Program::on(&database.url());
    let job = beside.json(&["job", "enqueue", "debug.noop"]).await;
    link.mend();
    let done = beside.run(&["job", "watch", job["id"].as_str().expect("an id")]).await;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    for process in processes {
        process.stop().await;
    }
    database.close().await.expect("dropped");
}

/// API-7: the database goes away under a server, and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_lost_its_database_says_so_and_recovers() {
    let database = TestDatabase::new().await;
    database.organization("acme").await;
    let link = Link::to(&database.url()).await;
    let program = Program::on(&link.url);
    let (server, api) = program.serve("server", &program.key("acme").await).await;
    let id = api.enqueue("debug.noop", json!({})).await;
    link.cut();
    api.get("/health/ready").await.problem(503, "unavailable");
    assert_eq!(api.get("/health/live").await.status, 200);
    let job = json!({ "kind": "debug.noop" });
    let lost = api.post("/api/v1/jobs", &job).await;
    lost.problem(503, "unavailable");
    assert_eq!(lost.header("retry-after"), "1");
    link.mend();
    eventually("it serves again", async || (api.get("/health/ready").await.status == 200).then_some(())).await;
    assert_eq!(api.job(&id).await["state"], "available");
    assert_eq!(api.post("/api/v1/jobs", &job).await.status, 202);
    server.stop().await;
    database.close().await.expect("dropped");
}

/// PLAT-3, PLAT-11: a worker that sleeps beyond its lease wakes up to find its job in other hands, and its outcome refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_stopped_beyond_its_lease_cannot_record_what_it_did() {
    let database = TestDatabase::new().await;
    let (folder, metrics) = (tempfile::tempdir().expect("a folder"), free_address());
    let path = folder.path().join("lines");
    let program = Program::on(&database.url());
    let stopped = program.clone().with("BACKROOM__WORKER__METRICS_LISTEN", metrics).start(&["worker"]);
    let args = json!({ "path": path, "line": "done", "after_ms": 500 }).to_string();
    program.json(&["job", "enqueue", "debug.append", "--args", &args]).await;
    until(&database.pool, "select count(*) from queue.jobs where begun_at is not null", 1).await;
    stopped.signal("STOP").await;
    let second = program.start(&["worker"]);
    let ended = "select count(*) from queue.finished_jobs where state = 'completed' and attempt > 1";
    until(&database.pool, ended, 1).await;
    stopped.signal("CONT").await;
    let client = crate::support::api::client();
    eventually("its outcome is refused", async || {
        let metrics = client.get(format!("http://{metrics}/metrics")).send().await.ok()?.text().await.ok()?;
        metrics.lines().any(|line| line.starts_with("queue_outcomes_refused_total ")).then_some(())
    })
    .await;
    assert!(lines(&path).len() > 1, "it worked twice, which at least once allows");
    assert_eq!(count(&database.pool, "select count(*) from queue.finished_jobs").await, 1);
    assert_eq!(count(&database.pool, ended).await, 1, "the successor's record stands");
    stopped.stop().await;
    second.stop().await;
    database.close().await.expect("dropped");
}

/// PLAT-11: connections that neither work nor break stop a worker for no longer than its patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_connections_fall_silent_gives_them_up_and_works_on() {
    let database = TestDatabase::new().await;
    let link = Link::to(&database.url()).await;
    let worker = Program::on(&link.url).start(&["worker"]);
    let beside = Program::on(&database.url());
    let enqueue =
        async || beside.json(&["job", "enqueue", "debug.noop"]).await["id"].as_str().expect("an id").to_owned();
    let first = enqueue().await;
    assert_eq!(beside.run(&["job", "watch", &first]).await.code, Some(0));
    link.become_(Way::Silent);
    // Claimed or not, it is not done: nobody hears anything on the lines that were open.
    let second = enqueue().await;
    link.mend();
    assert_eq!(beside.run(&["job", "watch", &second]).await.code, Some(0));
    worker.stop().await;
    database.close().await.expect("dropped");
}

/// PLAT-11: the locks of a process that is not heard of any more come loose by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_falls_silent_while_it_has_the_history_locked_keeps_nobody_from_recording() {
    let database = TestDatabase::new().await;
    let link = Link::to(&database.url()).await;
    link.fall_silent_after("queue.make_history_partition(");
    let silent = Program::on(&link.url).start(&["worker"]);
    link.until_silent().await;
    let program = Program::on(&database.url());
    let worker = program.start(&["worker"]);
    let job = program.json(&["job", "enqueue", "debug.noop"]).await;
    let began = std::time::Instant::now();
    until(&database.pool, "select count(*) from queue.finished_jobs where state = 'completed'", 1).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{job} took {:?}", began.elapsed());
    silent.kill().await;
    worker.stop().await;
    database.close().await.expect("dropped");
}

/// OPS-3: in production nothing migrates by itself, and the error says the command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_before_the_migration_says_what_to_do() {
    let database = TestDatabase::new().await;
    let sql = "drop schema queue cascade; drop schema tenant_template cascade; drop schema public cascade; create schema public";
    sqlx::raw_sql(sql).execute(&database.pool).await.expect("emptied");
    let production = Program::on(&database.url())
        .with("BACKROOM_ENV", "production")
        .with("BACKROOM__HTTP__LISTEN", free_address())
        .with("BACKROOM__JOBS__DEBUG_KINDS", "false");
    for command in ["start", "server", "worker", "scheduler"] {
        let ran = production.run(&[command]).await;
        assert_eq!(ran.code, Some(1), "{command}: {}", ran.stderr);
        assert!(ran.stderr.contains("backroom migrate"), "{command}: {}", ran.stderr);
    }
    assert_eq!(production.run(&["migrate"]).await.code, Some(0));
    let (process, api) = production.serve("start", "").await;
    assert_eq!(api.get("/dev/mailbox").await.status, 404, "MAIL-4: no mailbox in production");
    process.stop().await;
    database.close().await.expect("dropped");
}

/// VAULT-6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_vault_key_nothing_starts_and_the_error_says_how_to_make_one() {
    let database = TestDatabase::new().await;
    let keyless = Program::on(&database.url()).without("BACKROOM__VAULT__KEYS").without("BACKROOM__VAULT__INDEX_KEY");
    for command in ["start", "server", "worker", "scheduler"] {
        let ran = keyless.run(&[command]).await;
        assert_eq!(ran.code, Some(1), "{command}");
        assert!(ran.stderr.contains("backroom key generate"), "{command}: {}", ran.stderr);
    }
    // The commands that it names make the keys that the next start takes.
    let made = keyless.run(&["key", "generate"]).await;
    assert_eq!(made.code, Some(0));
    let mut keyed = keyless.clone().with("BACKROOM__HTTP__LISTEN", free_address());
    for line in made.stdout.lines() {
        let (name, value) = line.trim_start_matches("export ").split_once('=').expect("export NAME=VALUE");
        keyed = keyed.with(name, value);
    }
    let worker = keyed.start(&["worker"]);
    let job = keyed.json(&["job", "enqueue", "debug.noop"]).await;
    assert_eq!(keyed.run(&["job", "watch", job["id"].as_str().expect("an id")]).await.code, Some(0));
    worker.stop().await;
    let keys = keyless.json(&["key", "generate"]).await;
    let broken = keyless.with("BACKROOM__VAULT__KEYS", "k1:tooshort").run(&["worker"]).await;
    assert_eq!(broken.code, Some(1));
    assert!(broken.stderr.contains("key generate") && !broken.stderr.contains("tooshort"), "{}", broken.stderr);
    assert!(keys["keys"][0].is_string() && keys["index_key"].is_string(), "{keys}");
    database.close().await.expect("dropped");
}

/// CLI-1: a configuration that does not fit stops the start, and names the setting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_does_not_fit_is_named() {
    let database = TestDatabase::new().await;
    let schedules = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
    std::fs::write(schedules.path(), "[[schedule]]\nname = \"x\"\nkind = \"billing.swep\"\ncron = \"0 9 * * *\"\n")
        .expect("written");
    let program = Program::on(&database.url());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("its address");
    for (name, value, command, words) in [
        ("BACKROOM__HTTP__LISTN", "127.0.0.1:1", "server", "http.listn"),
        ("BACKROOM__HTTP__LISTEN", "here", "server", "BACKROOM__HTTP__LISTEN"),
        ("BACKROOM__HTTP__LISTEN", &taken.1.to_string(), "server", "another server"),
        ("BACKROOM__WORKER__LEASE_S", "soon", "worker", "worker.lease_s"),
        ("BACKROOM__WORKER__QUEUES__DEFAULT", "-1", "worker", "worker.queues"),
        ("BACKROOM__LOG__FILTER", "!!", "worker", "log.filter"),
        ("BACKROOM__MAIL__SMTP_URL", "mail.example.com", "worker", "mail.smtp_url"),
        ("BACKROOM__SCHEDULER__FILE", "/no/such.toml", "scheduler", "/no/such.toml"),
        ("BACKROOM__SCHEDULER__FILE", schedules.path().to_str().expect("a path"), "scheduler", "billing.swep"),
        ("BACKROOM_CONFIG", "/no/such.toml", "worker", "/no/such.toml"),
        ("BACKROOM_ENV", "staging", "worker", "staging"),
        ("DATABASE_URL", "", "worker", "DATABASE_URL"),
        ("DATABASE_URL", "mysql://localhost/x", "worker", "DATABASE_URL"),
    ] {
        let ran = program.clone().without(name).with(name, value).run(&[command]).await;
        assert_eq!(ran.code, Some(1), "{name}={value}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{name}={value}: {}", ran.stderr);
    }
    let ran = program.run(&["worker", "--queues", "mail"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("mailers"), "{}", ran.stderr);
    database.close().await.expect("dropped");
}
