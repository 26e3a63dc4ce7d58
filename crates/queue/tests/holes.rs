//! The holes that others' storages have, one test each: what goes wrong there must not go wrong here.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use backroom_queue::{
    Backoff, Ctx, Job, JobRecord, JobResult, JobState, NewJob, Registry, Unique, Verdict, Worker, WorkerConfig,
    enqueue, enqueue_many, find, registry,
    scheduler::{Scheduler, Schedules, TenantZone},
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    postgres::{PgListener, PgPoolOptions},
};
use support::Database;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What the test jobs share.
struct App {
    runs: AtomicU32,
    /// Hears of each job that takes its worker down with it.
    deaths: mpsc::UnboundedSender<()>,
    /// Whoever waits at it has said so to `entered`.
    gate: Semaphore,
    entered: Semaphore,
}

impl App {
    fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<()>) {
        let (deaths, died) = mpsc::unbounded_channel();
        let (gate, entered) = (Semaphore::new(0), Semaphore::new(0));
        (Arc::new(Self { runs: AtomicU32::new(0), deaths, gate, entered }), died)
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Does {
    Nothing,
    Fail,
    Kill,
    WaitAtGate,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Act {
    does: Does,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unique: Option<String>,
}

impl Job for Act {
    type App = App;
    const KIND: &'static str = "test.act";
    const MAX_ATTEMPTS: u32 = 20;

    fn backoff() -> Backoff {
        Backoff::fixed(Duration::from_secs(3600))
    }

    fn unique(&self) -> Option<Unique> {
        self.unique.as_ref().map(Unique::by)
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        ctx.app.runs.fetch_add(1, Ordering::SeqCst);
        match self.does {
            Does::Nothing => {}
            Does::Fail => anyhow::bail!("it did not work"),
            Does::Kill => {
                ctx.app.deaths.send(())?;
                std::future::pending::<()>().await;
            }
            Does::WaitAtGate => {
                ctx.app.entered.add_permits(1);
                ctx.app.gate.acquire().await?.forget();
            }
        }
        Ok(Verdict::DONE)
    }
}

fn act(does: Does) -> NewJob {
    NewJob::of(&Act { does, unique: None })
}

/// A worker process as far as the database can tell: a runtime and connections of its own.
struct Node {
    runtime: Option<tokio::runtime::Runtime>,
    stop: CancellationToken,
    ended: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Node {
    fn start(db: &Database, app: &Arc<App>, name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let config = WorkerConfig {
            name: name.to_owned(),
            queues: BTreeMap::from([("default".to_owned(), 2)]),
            lease: Duration::from_secs(1),
            ..WorkerConfig::default()
        };
        let (app, stop) = (app.clone(), CancellationToken::new());
        let (options, stopped) = ((*db.pool.connect_options()).clone(), stop.clone());
        let ended = runtime.spawn(async move {
            let pool = PgPoolOptions::new().max_connections(5).connect_with(options).await?;
            let kinds: Arc<Registry<App>> = Arc::new(registry![Act]);
            Worker::new(pool, kinds, app, config).run(stopped).await
        });
        Self { runtime: Some(runtime), stop, ended: Some(ended) }
    }

    /// As `kill -9`: nothing is handed back, nothing more is written.
    fn kill(self) {}

    async fn stop(mut self) {
        self.stop.cancel();
        self.ended.take().unwrap().await.unwrap().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn put(db: &Database, job: NewJob) -> Uuid {
    enqueue(&db.pool, &job).await.unwrap().id
}

async fn get(db: &Database, id: Uuid) -> JobRecord {
    find(&mut db.pool.acquire().await.unwrap(), id, None).await.unwrap().expect("the job exists")
}

/// PLAT-3. Elsewhere jobs are taken back from workers that are not seen any more, by name: a pod that is back under its old name
/// within the time keeps the jobs of its former life for ever.
#[tokio::test]
async fn a_worker_that_restarts_under_the_same_name_strands_no_job() {
    let db = Database::new().await;
    let (app, mut died) = App::new();
    let id = put(&db, act(Does::Kill)).await;
    let node = Node::start(&db, &app, "pod-0");
    died.recv().await.unwrap();
    node.kill();
    let again = Node::start(&db, &app, "pod-0");
    died.recv().await.expect("the namesake runs it");
    let job = get(&db, id).await;
    assert_eq!((job.state, app.runs(), job.worker.as_deref()), (JobState::Running, 2, Some("pod-0")));
    again.kill();
    db.close().await;
}

/// PLAT-20. Elsewhere a job that kills its worker comes back available whatever its attempts, and kills the next, for ever.
#[tokio::test]
async fn a_poison_pill_kills_three_workers_and_no_more() {
    let db = Database::new().await;
    let (app, mut died) = App::new();
    let pill = put(&db, act(Does::Kill)).await;
    for n in 1..=3 {
        let node = Node::start(&db, &app, &format!("worker-{n}"));
        died.recv().await.unwrap();
        node.kill();
    }
    let survivor = Node::start(&db, &app, "survivor");
    db.until("select count(*) from queue.finished_jobs", 1).await;
    let job = get(&db, pill).await;
    assert_eq!((job.state, app.runs()), (JobState::Discarded, 3), "it had 20 attempts and used three");
    assert!(job.reason.as_ref().unwrap().starts_with("crashed"), "{:?}", job.reason);
    survivor.stop().await;
    db.close().await;
}

/// PLAT-4. Elsewhere the pause after a failure is a sleep in the worker that failed: the row is free at once for any other, and
/// for the same one after a restart.
#[tokio::test]
async fn a_failed_job_waits_for_its_stored_time_whoever_asks() {
    let db = Database::new().await;
    let (app, _died) = App::new();
    let id = put(&db, act(Does::Fail)).await;
    let first = Node::start(&db, &app, "first");
    db.until("select count(*) from queue.jobs where state = 'retryable'", 1).await;
    first.stop().await;
    let second = Node::start(&db, &app, "second");
    // Something that came later is done: the queue was looked at.
    put(&db, act(Does::Nothing)).await;
    db.until("select count(*) from queue.finished_jobs", 1).await;
    second.stop().await;
    let job = get(&db, id).await;
    let wait = job.run_at - Utc::now();
    assert_eq!((job.state, job.attempt, app.runs()), (JobState::Retryable, 1, 2));
    assert!(wait > TimeDelta::minutes(58) && wait < TimeDelta::minutes(61), "waits {wait}");
    db.close().await;
}

/// PLAT-11. Elsewhere the first error of the database ends the worker and drops what it was running.
#[tokio::test]
async fn a_worker_outlives_database_errors_and_records_what_it_ran_meanwhile() {
    let db = Database::new().await;
    let (app, _died) = App::new();
    let running = put(&db, act(Does::WaitAtGate)).await;
    let node = Node::start(&db, &app, "worker");
    app.entered.acquire().await.unwrap().forget();
    let mut admin = PgConnection::connect_with(&db.pool.connect_options()).await.unwrap();
    // Every claim, renewal and outcome fails, on whatever connection.
    sqlx::query("alter table queue.jobs rename to gone").execute(&mut admin).await.unwrap();
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    )
    .execute(&mut admin)
    .await
    .unwrap();
    app.gate.add_permits(1);
    let failed = "select count(*) from pg_stat_activity
                  where datname = current_database() and query ~ 'queue[.]jobs|queue[.]claim'
                    and pid <> pg_backend_pid()";
    let deadline = Instant::now() + Duration::from_secs(20);
    while sqlx::query_scalar::<_, i64>(failed).fetch_one(&mut admin).await.unwrap() == 0 {
        assert!(Instant::now() < deadline, "the worker does not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sqlx::query("alter table queue.gone rename to jobs").execute(&mut admin).await.unwrap();
    db.until("select count(*) from queue.finished_jobs", 1).await;
    let later = put(&db, act(Does::Nothing)).await;
    db.until("select count(*) from queue.finished_jobs", 2).await;
    assert!(!node.ended.as_ref().unwrap().is_finished());
    assert_eq!(get(&db, later).await.state, JobState::Completed);
    assert_eq!(get(&db, running).await.state, JobState::Completed);
    node.stop().await;
    db.close().await;
}

/// PLAT-6. Elsewhere a duplicate is a violated constraint, and takes the caller's transaction down with it.
#[tokio::test]
async fn a_duplicate_leaves_the_callers_transaction_whole() {
    let db = Database::new().await;
    let same = NewJob::of(&Act { does: Does::Nothing, unique: Some("invoice 1".into()) });
    let first = enqueue(&db.pool, &same).await.unwrap();
    sqlx::query("create table facts (n int)").execute(&db.pool).await.unwrap();

    let mut tx = db.pool.begin().await.unwrap();
    sqlx::query("insert into facts values (1)").execute(&mut *tx).await.unwrap();
    let again = NewJob { id: Uuid::now_v7(), ..same };
    let answers = enqueue_many(&mut *tx, &[again, act(Does::Nothing)]).await.unwrap();
    sqlx::query("insert into facts values (2)").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();

    assert_eq!((answers[0].duplicate, answers[0].id), (true, first.id));
    assert!(!answers[1].duplicate);
    assert_eq!(db.count("select count(*) from facts").await, 2);
    assert_eq!(db.count("select count(*) from queue.jobs").await, 2);
    db.close().await;
}

/// PLAT-7. Elsewhere every job sends a message, every worker hears every message, and all go for the same rows: each waits for
/// the one before it.
#[tokio::test]
async fn many_enqueues_send_few_messages_and_a_claim_waits_for_nobodys_rows() {
    let db = Database::new().await;
    let mut listener = PgListener::connect_with(&db.pool).await.unwrap();
    listener.listen("queue_wake").await.unwrap();
    let began = Instant::now();
    for _ in 0..300 {
        put(&db, act(Does::Nothing)).await;
    }
    let took = began.elapsed();
    sqlx::query("notify queue_wake, 'that is all'").execute(&db.pool).await.unwrap();
    let mut messages = 0;
    while listener.recv().await.unwrap().payload() != "that is all" {
        messages += 1;
    }
    // At most one in ten milliseconds, for each of which there is a first.
    let at_most = took.as_millis() / 10 + 2;
    assert!(messages >= 1 && messages <= at_most, "{messages} messages in {took:?}");

    // Somebody is at work on half of the rows; a claim takes the others at once.
    let mut tx = db.pool.begin().await.unwrap();
    sqlx::query("select from queue.jobs order by run_at, id limit 150 for update").execute(&mut *tx).await.unwrap();
    let mut db_conn = db.pool.acquire().await.unwrap();
    sqlx::query("set lock_timeout = '1ms'").execute(&mut *db_conn).await.unwrap();
    let claimed: i64 = sqlx::query_scalar(
        "select count(*) from queue.claim('default', 1000, gen_random_uuid(), 30, 'w', '', null, null, null)",
    )
    .fetch_one(&mut *db_conn)
    .await
    .unwrap();
    assert_eq!(claimed, 150);
    sqlx::query("reset lock_timeout").execute(&mut *db_conn).await.unwrap();
    tx.rollback().await.unwrap();
    drop((listener, db_conn));
    db.close().await;
}

/// PLAT-7. Elsewhere a claim sorts the backlog: a second and more for ten jobs of a million.
#[tokio::test]
async fn a_claim_touches_as_many_pages_of_a_long_line_as_of_a_short_one() {
    let db = Database::new().await;
    let fill = "insert into queue.jobs (id, queue, kind, tenant, state, run_at, max_attempts, args)
                select gen_random_uuid(), 'default', 'test.act', 'tenant ' || n % 50, 'available',
                       now() - n * interval '1 ms', 20, '{\"does\": \"nothing\"}'
                from generate_series(1, $1) n";
    sqlx::query(fill).bind(1_000).execute(&db.pool).await.unwrap();
    let short = pages_of_a_claim(&db).await;
    sqlx::query(fill).bind(199_000).execute(&db.pool).await.unwrap();
    let long = pages_of_a_claim(&db).await;
    println!("{short} pages with a thousand jobs waiting, {long} with two hundred thousand");
    // The index is a level or two deeper, and the rows lie further apart.
    assert!(long <= 2 * short, "{long} pages with 200,000 jobs waiting, {short} with 1,000");
    db.close().await;
}

async fn pages_of_a_claim(db: &Database) -> i64 {
    sqlx::query("vacuum analyze queue.jobs").execute(&db.pool).await.unwrap();
    pages(db, "select * from queue.claim('default', 10, gen_random_uuid(), 30, 'w', '', null, null, null)").await
}

/// Pages that a claim of ten jobs looks at, in a session that has claimed before.
async fn pages(db: &Database, claim: &str) -> i64 {
    let mut tx = db.pool.begin().await.unwrap();
    sqlx::query(AssertSqlSafe(claim.to_owned())).execute(&mut *tx).await.unwrap();
    let explain = AssertSqlSafe(format!("explain (analyze, buffers, format json) {claim}"));
    let plan: Value = sqlx::query_scalar(explain).fetch_one(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    let plan = &plan[0]["Plan"];
    assert_eq!(plan["Actual Rows"].as_f64(), Some(10.0));
    plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap()
}

/// PLAT-7. Elsewhere a claim walks over what was claimed since the last vacuum, more of it each time.
#[tokio::test]
async fn a_claim_goes_on_where_the_last_one_ended() {
    let db = Database::new().await;
    let fill = "insert into queue.jobs (id, queue, kind, state, run_at, max_attempts, args)
                select gen_random_uuid(), 'default', 'test.act', 'available', now() - interval '1 hour' + n * interval '1 ms',
                       20, '{\"does\": \"nothing\"}'
                from generate_series(1, 20000) n";
    sqlx::query(fill).execute(&db.pool).await.unwrap();
    // A vacuum cannot take the entries away while somebody may still see them.
    let mut reader = db.pool.begin().await.unwrap();
    sqlx::query("set transaction isolation level repeatable read").execute(&mut *reader).await.unwrap();
    sqlx::query("select 1").execute(&mut *reader).await.unwrap();
    let take = "select * from (select id, priority, run_at from queue.claim('default', 19000, gen_random_uuid(), 30, 'w', '', null, null, null)) j
                order by run_at desc limit 1";
    let (id, priority, run_at): (Uuid, i16, DateTime<Utc>) = sqlx::query_as(take).fetch_one(&db.pool).await.unwrap();
    sqlx::query("delete from queue.jobs where state = 'running'").execute(&db.pool).await.unwrap();

    let claim = "select * from queue.claim('default', 10, gen_random_uuid(), 30, 'w', chr(31)";
    let anew = pages(&db, &format!("{claim}, null, null, null)")).await;
    let on = pages(&db, &format!("{claim}, {priority}::smallint, '{run_at}', '{id}')")).await;
    println!("{anew} pages from the start of the line, {on} from the last job on");
    assert!(4 * on < anew, "{anew} pages from the start of the line, {on} from the last job on");
    reader.rollback().await.unwrap();
    db.close().await;
}

/// CRON-2. Elsewhere the clock is in each process's memory: three replicas enqueue each tick three times.
#[tokio::test]
async fn three_schedulers_enqueue_each_tick_once() {
    let db = Database::new().await;
    let kinds: Registry<App> = registry![Act];
    let file = "[[schedule]]\nname = \"often\"\nkind = \"test.act\"\nargs = { does = \"nothing\" }\n\
                cron = \"* * * * * *\"\ntime_zone = \"UTC\"\n";
    let stop = CancellationToken::new();
    let replicas: Vec<_> = (0..3)
        .map(|_| {
            let tenants = || async { anyhow::Ok(Vec::<TenantZone>::new()) }.boxed();
            let scheduler = Scheduler::new(db.pool.clone(), Schedules::parse(file, &kinds).unwrap(), Arc::new(tenants));
            tokio::spawn(scheduler.run(stop.clone()))
        })
        .collect();
    db.until("select count(*) from (select from queue.schedule_ticks limit 4) ticks", 4).await;
    stop.cancel();
    for replica in replicas {
        replica.await.unwrap();
    }
    let ticks: Vec<DateTime<Utc>> = sqlx::query_scalar("select tick_at from queue.schedule_ticks order by tick_at")
        .fetch_all(&db.pool)
        .await
        .unwrap();
    assert!(ticks.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::seconds(1)), "{ticks:?}");
    let jobs = db.count("select count(*) from queue.jobs").await;
    let named = db.count("select count(distinct job_id) from queue.schedule_ticks").await;
    assert_eq!((jobs, named), (ticks.len() as i64, ticks.len() as i64), "each tick has a job of its own, and no more");
    db.close().await;
}
