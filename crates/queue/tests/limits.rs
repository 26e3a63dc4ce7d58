//! Who runs when: turns, limits, rates, pauses, and workers that die. Real PostgreSQL, real workers on runtimes of their own.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backroom_queue::{
    Ctx, Job, JobRecord, JobResult, JobState, Limits, NewJob, RateLimit, Registry, Verdict, Worker, WorkerConfig,
    enqueue, enqueue_many, find, fix_rate_limit, forget_rate_limit, hold_tenant, limit, pause, rate_limits, registry,
    release_tenant, resume, retry,
};
use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use support::Database;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What the test jobs share.
struct App {
    ran: Mutex<Vec<(String, DateTime<Utc>)>>,
    now: AtomicUsize,
    most: AtomicUsize,
    gate: Semaphore,
    entered: Semaphore,
    deaths: mpsc::UnboundedSender<()>,
    db: sqlx::PgPool,
}

impl App {
    fn new(db: &Database) -> (Arc<Self>, mpsc::UnboundedReceiver<()>) {
        let (deaths, died) = mpsc::unbounded_channel();
        let app = Self {
            ran: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            entered: Semaphore::new(0),
            deaths,
            db: db.pool.clone(),
        };
        (Arc::new(app), died)
    }

    fn names(&self) -> Vec<String> {
        self.ran.lock().unwrap().iter().map(|(name, _)| name.clone()).collect()
    }
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Does {
    Nothing,
    WaitAtGate,
    /// Takes its worker down with it.
    Kill,
    /// As `Kill`, after it has run for long enough to be marked.
    KillLater,
    /// Asks for a permit of the key `calls`, as a handler does before each call.
    Call,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Turn {
    does: Does,
    #[serde(default)]
    name: String,
    #[serde(default)]
    metered: Option<String>,
}

const PERMITS: u32 = 20;
const PERIOD: Duration = Duration::from_secs(1);

impl Job for Turn {
    type App = App;
    const KIND: &'static str = "test.turn";

    fn rate_limit(&self) -> Option<RateLimit> {
        self.metered.as_ref().map(|key| RateLimit::new(key, PERMITS, PERIOD))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let app = &ctx.app;
        let now = app.now.fetch_add(1, Ordering::SeqCst) + 1;
        app.most.fetch_max(now, Ordering::SeqCst);
        let at = match self.metered {
            // The database's clock, which the limit goes by.
            Some(_) => sqlx::query_scalar("select clock_timestamp()").fetch_one(&app.db).await?,
            None => Utc::now(),
        };
        app.ran.lock().unwrap().push((self.name, at));
        match self.does {
            Does::Nothing => {}
            Does::WaitAtGate => {
                app.entered.add_permits(1);
                app.gate.acquire().await?.forget();
            }
            Does::Kill | Does::KillLater => {
                if self.does == Does::KillLater {
                    let begun = "select begun_at is not null from queue.jobs where id = $1";
                    while !sqlx::query_scalar(begun).bind(ctx.job.id).fetch_one(&app.db).await? {
                        tokio::task::yield_now().await;
                    }
                }
                app.deaths.send(())?;
                std::future::pending::<()>().await;
            }
            Does::Call => ctx.permit(&RateLimit::new("calls", 1, Duration::from_secs(3600))).await?,
        }
        app.now.fetch_sub(1, Ordering::SeqCst);
        Ok(Verdict::DONE)
    }
}

fn turn(does: Does, name: &str) -> Turn {
    Turn { does, name: name.to_owned(), metered: None }
}

fn metered(key: &str) -> Turn {
    Turn { metered: Some(key.to_owned()), ..turn(Does::Nothing, key) }
}

/// A worker process as far as the database can tell: a runtime and a pool of its own.
struct Node {
    runtime: Option<tokio::runtime::Runtime>,
    stop: CancellationToken,
}

impl Node {
    fn start(db: &Database, app: &Arc<App>, concurrency: usize) -> Self {
        Self::with(
            db,
            app,
            WorkerConfig {
                queues: BTreeMap::from([("default".to_owned(), concurrency)]),
                lease: Duration::from_secs(1),
                ..WorkerConfig::default()
            },
        )
    }

    fn with(db: &Database, app: &Arc<App>, config: WorkerConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, app) = (CancellationToken::new(), app.clone());
        let (options, stopped) = ((*db.pool.connect_options()).clone(), stop.clone());
        runtime.spawn(async move {
            let pool = sqlx::postgres::PgPoolOptions::new().max_connections(5).connect_with(options).await.unwrap();
            let kinds: Arc<Registry<App>> = Arc::new(registry![Turn]);
            Worker::new(pool, kinds, app, config).run(stopped).await
        });
        Self { runtime: Some(runtime), stop }
    }

    /// As `kill -9`: nothing is handed back, nothing more is written.
    fn kill(self) {}
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Ends without waiting; the database is dropped next.
fn end(nodes: impl IntoIterator<Item = Node>) {
    for node in nodes {
        node.stop.cancel();
        node.kill();
    }
}

async fn put(db: &Database, job: Turn, tenant: &str) -> Uuid {
    enqueue(&db.pool, &NewJob::of(&job).tenant(tenant)).await.unwrap().id
}

async fn put_many(db: &Database, count: usize, job: &Turn, tenant: &str) {
    let jobs: Vec<NewJob> = (0..count).map(|_| NewJob::of(job).tenant(tenant)).collect();
    enqueue_many(&db.pool, &jobs).await.unwrap();
}

async fn get(db: &Database, id: Uuid) -> JobRecord {
    find(&mut db.pool.acquire().await.unwrap(), id, None).await.unwrap().expect("the job exists")
}

/// Tenants of the jobs that one claim takes, with how many.
async fn claim(db: &Database, limit: i32, after: &str) -> BTreeMap<String, usize> {
    let tenants: Vec<String> = sqlx::query_scalar(
        "select tenant from queue.claim('default', $1, gen_random_uuid(), 30, 'test', $2, null, null, null)",
    )
    .bind(limit)
    .bind(after)
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let mut counts = BTreeMap::new();
    for tenant in tenants {
        *counts.entry(tenant).or_default() += 1;
    }
    counts
}

/// PLAT-8: claims that are far from a limit add up instead of counting, and never past it.
#[tokio::test]
async fn large_limits_are_kept_exactly() {
    let db = Database::new().await;
    put_many(&db, 3_000, &turn(Does::Nothing, "big"), "big").await;
    put_many(&db, 3_000, &turn(Does::Nothing, "huge"), "huge").await;
    let claimed = async || -> usize {
        let mut all = 0;
        loop {
            match claim(&db, 150, "").await.values().sum() {
                0 => return all,
                taken => all += taken,
            }
        }
    };
    limit(&db.pool, "default", Limits { max_running: Some(1_000), max_running_per_tenant: None }).await.unwrap();
    assert_eq!(claimed().await, 1_000);
    sqlx::query("delete from queue.jobs where id in (select id from queue.jobs where state = 'running' limit 10)")
        .execute(&db.pool)
        .await
        .unwrap();
    assert_eq!(claimed().await, 10);
    limit(&db.pool, "default", Limits { max_running: Some(2_500), max_running_per_tenant: Some(1_200) }).await.unwrap();
    assert_eq!(claimed().await, 1_400);
    // What is more urgent counts with the rest of its tenant.
    limit(&db.pool, "default", Limits { max_running: None, max_running_per_tenant: Some(50) }).await.unwrap();
    for priority in 0..3 {
        let job = || NewJob { priority, ..NewJob::of(&turn(Does::Nothing, "new")).tenant("new") };
        let jobs: Vec<NewJob> = (0..40).map(|_| job()).collect();
        enqueue_many(&db.pool, &jobs).await.unwrap();
    }
    assert_eq!(claim(&db, 150, "").await.get("new"), Some(&50));
    db.close().await;
}

/// PLAT-9: the walk ends although the lane at which it would have ended is gone.
#[tokio::test]
async fn a_claim_among_tenants_at_their_limits_ends_whatever_others_do() {
    let db = Database::new().await;
    limit(&db.pool, "default", Limits { max_running: None, max_running_per_tenant: Some(1) }).await.unwrap();
    // Of each tenant one job runs and one waits.
    sqlx::query(
        "insert into queue.jobs (id, queue, kind, tenant, state, run_at, max_attempts, args, attempt, lease, lease_until)
         select gen_random_uuid(), 'default', 'test.turn', lpad(n::text, 4, '0'), state, now(), 3, '{\"does\": \"nothing\"}', 1,
                case when state = 'running' then gen_random_uuid() end,
                case when state = 'running' then now() + interval '1 hour' end
         from generate_series(0, 3999) n, (values ('running'), ('available')) as s (state)",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    sqlx::query("vacuum analyze queue.jobs").execute(&db.pool).await.unwrap();
    for gone in 0..20 {
        // At another moment of the walk each time.
        let cancelled = async {
            tokio::time::sleep(Duration::from_millis(5 * gone)).await;
            let first = "delete from queue.jobs where tenant = $1 and state = 'available'";
            sqlx::query(first).bind(format!("{gone:04}")).execute(&db.pool).await.unwrap();
        };
        let claimed = tokio::time::timeout(Duration::from_secs(60), claim(&db, 100, ""));
        let (claimed, ()) = tokio::join!(claimed, cancelled);
        assert_eq!(claimed.expect("the claim ends"), BTreeMap::new());
    }
    db.close().await;
}

/// PLAT-7, PLAT-9
#[tokio::test]
async fn a_claim_that_goes_on_passes_nothing_over_for_good() {
    let db = Database::new().await;
    let line = |tenant: &'static str, priority: i16, seconds: std::ops::Range<i32>| {
        sqlx::query(
            "insert into queue.jobs (id, queue, kind, tenant, priority, state, run_at, max_attempts, args)
             select gen_random_uuid(), 'default', 'test.turn', $1, $2, 'available',
                    timestamptz '2026-01-01' + n * interval '1 s', 3, '{\"does\": \"nothing\"}'
             from generate_series($3::int, $4 - 1) n",
        )
        .bind(tenant)
        .bind(priority)
        .bind(seconds.start)
        .bind(seconds.end)
    };
    // Tenant and second of each job that the claim takes.
    let take = async |limit: i32, after: Option<(&str, i16, i32)>| -> Vec<(String, i32)> {
        sqlx::query_as(
            "select tenant, extract(epoch from run_at - '2026-01-01')::int
             from queue.claim('default', $1, gen_random_uuid(), 30, 'test', coalesce($2 || chr(31), ''), $3,
                              timestamptz '2026-01-01' + $4::int * interval '1 s',
                              case when $4::int is not null then 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid end)",
        )
        .bind(limit)
        .bind(after.map(|(tenant, ..)| tenant))
        .bind(after.map(|(_, priority, _)| priority))
        .bind(after.map(|(.., second)| second))
        .fetch_all(&db.pool)
        .await
        .unwrap()
    };
    let job = |tenant: &str, second: i32| (tenant.to_owned(), second);
    line("b", 0, 10..20).execute(&db.pool).await.unwrap();
    assert_eq!(take(5, None).await.last(), Some(&job("b", 14)));

    line("b", 0, 1..2).execute(&db.pool).await.unwrap();
    assert_eq!(take(1, Some(("b", 0, 14))).await, [job("b", 15)], "it goes on behind the last one");
    line("c", 0, 1..2).execute(&db.pool).await.unwrap();
    line("a", 0, 1..2).execute(&db.pool).await.unwrap();
    line("d", 7, 1..2).execute(&db.pool).await.unwrap();
    line("e", -7, 1..2).execute(&db.pool).await.unwrap();
    assert_eq!(take(1, Some(("b", 0, 15))).await, [job("d", 1)], "but not past what is urgent");
    let turns = [job("c", 1), job("a", 1), job("b", 1), job("b", 16)];
    assert_eq!(take(4, Some(("b", 0, 15))).await, turns, "nor past other lanes");
    line("b", 0, 2..3).execute(&db.pool).await.unwrap();
    let rest = [job("b", 17), job("b", 18), job("b", 19), job("b", 2), job("e", 1)];
    assert_eq!(
        take(100, Some(("b", 0, 16))).await,
        rest,
        "and before it is done with a priority, it looks at all of it"
    );
    assert_eq!(take(100, None).await, []);
    db.close().await;
}

/// PLAT-9
#[tokio::test]
async fn a_single_job_waits_for_a_few_fetches_not_for_another_tenants_hundred_thousand() {
    let db = Database::new().await;
    let (app, _died) = App::new(&db);
    sqlx::query(
        "insert into queue.jobs (id, queue, kind, tenant, state, run_at, max_attempts, args)
         select gen_random_uuid(), 'default', 'test.turn', 'big', 'available', now(), 3, '{\"does\": \"nothing\"}'
         from generate_series(1, 100000)",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    let small = put(&db, turn(Does::Nothing, "small"), "small").await;
    let node = Node::start(&db, &app, 10);
    db.until("select count(*) from queue.finished_jobs where tenant = 'small'", 1).await;
    let before = app.names().iter().position(|name| name == "small").unwrap();
    assert!(before <= 2_000, "{before} jobs of the big tenant ran before it");
    assert_eq!(get(&db, small).await.state, JobState::Completed);
    end([node]);
    db.close().await;
}

/// PLAT-9
#[tokio::test]
async fn a_claim_shares_its_places_out_and_the_next_one_goes_on_where_it_ended() {
    let db = Database::new().await;
    for tenant in ["a", "b", "c", "d"] {
        put_many(&db, 100, &turn(Does::Nothing, ""), tenant).await;
    }
    put(&db, turn(Does::Nothing, ""), "e").await;
    let shares = claim(&db, 41, "").await;
    assert_eq!(shares["e"], 1);
    assert!(["a", "b", "c", "d"].iter().all(|tenant| (8..=12).contains(&shares[*tenant])), "{shares:?}");
    // Two places: two of the four get one, and the next claim begins with the others.
    assert_eq!(claim(&db, 2, "b\u{1f}").await.into_keys().collect::<Vec<_>>(), ["c", "d"]);
    assert_eq!(claim(&db, 2, "d\u{1f}").await.into_keys().collect::<Vec<_>>(), ["a", "b"]);
    db.close().await;
}

/// PLAT-7, PLAT-9
#[tokio::test]
async fn priority_goes_before_turns_and_a_lone_tenant_gets_the_whole_batch() {
    let db = Database::new().await;
    put_many(&db, 50, &turn(Does::Nothing, ""), "low").await;
    for tenant in ["x", "y"] {
        let urgent: Vec<NewJob> =
            (0..5).map(|_| NewJob { priority: 5, ..NewJob::of(&turn(Does::Nothing, "")).tenant(tenant) }).collect();
        enqueue_many(&db.pool, &urgent).await.unwrap();
    }
    assert_eq!(claim(&db, 10, "").await, BTreeMap::from([("x".into(), 5), ("y".into(), 5)]));
    assert_eq!(claim(&db, 100, "").await, BTreeMap::from([("low".into(), 50)]));
    db.close().await;
}

/// PLAT-8
#[tokio::test]
async fn a_queues_limit_holds_over_all_nodes() {
    let db = Database::new().await;
    let (app, _died) = App::new(&db);
    limit(&db.pool, "default", Limits { max_running: Some(3), max_running_per_tenant: None }).await.unwrap();
    put_many(&db, 30, &turn(Does::WaitAtGate, ""), "a").await;
    let nodes = [Node::start(&db, &app, 10), Node::start(&db, &app, 10)];
    // Three are inside before the first may leave.
    app.entered.acquire_many(3).await.unwrap().forget();
    app.gate.add_permits(30);
    db.until("select count(*) from queue.finished_jobs where state = 'completed'", 30).await;
    app.entered.acquire_many(27).await.unwrap().forget();
    assert_eq!(app.most.load(Ordering::SeqCst), 3, "as many as allowed, and no more");

    limit(&db.pool, "default", Limits::default()).await.unwrap();
    // No more than one node can run at once: it may have fetched them all.
    put_many(&db, 10, &turn(Does::WaitAtGate, ""), "a").await;
    app.entered.acquire_many(10).await.unwrap().forget();
    app.gate.add_permits(10);
    db.until("select count(*) from queue.finished_jobs", 40).await;
    end(nodes);
    db.close().await;
}

/// PLAT-8
#[tokio::test]
async fn a_tenants_limit_within_a_queue_holds_over_all_nodes_and_leaves_others_alone() {
    let db = Database::new().await;
    let (app, _died) = App::new(&db);
    limit(&db.pool, "default", Limits { max_running: None, max_running_per_tenant: Some(2) }).await.unwrap();
    put_many(&db, 20, &turn(Does::WaitAtGate, ""), "greedy").await;
    put_many(&db, 2, &turn(Does::WaitAtGate, ""), "modest").await;
    let nodes = [Node::start(&db, &app, 10), Node::start(&db, &app, 10)];
    app.entered.acquire_many(4).await.unwrap().forget();
    let running = "select tenant, count(*) from queue.jobs where state = 'running' group by 1 order by 1";
    let mut seen: Vec<(String, i64)> = sqlx::query_as(running).fetch_all(&db.pool).await.unwrap();
    assert_eq!(seen, [("greedy".to_owned(), 2), ("modest".to_owned(), 2)]);
    app.gate.add_permits(22);
    while db.count("select count(*) from queue.finished_jobs").await < 22 {
        seen = sqlx::query_as(running).fetch_all(&db.pool).await.unwrap();
        assert!(seen.iter().all(|(_, count)| *count <= 2), "{seen:?}");
    }
    end(nodes);
    db.close().await;
}

/// PLAT-10
#[tokio::test]
async fn no_window_of_the_period_sees_more_runs_than_permits_over_all_nodes() {
    let db = Database::new().await;
    let (app, _died) = App::new(&db);
    put_many(&db, 70, &metered("quickbooks:1"), "a").await;
    put_many(&db, 10, &turn(Does::Nothing, "free"), "a").await;
    let nodes = [Node::start(&db, &app, 10), Node::start(&db, &app, 10)];
    db.until("select count(*) from queue.finished_jobs where state = 'completed'", 80).await;
    let ran = app.ran.lock().unwrap().clone();
    let free = ran.iter().position(|(name, _)| name == "free").unwrap();
    assert!(free < 40, "what needs no permit does not wait behind what does ({free})");
    let times: Vec<DateTime<Utc>> = ran.iter().filter(|(name, _)| name != "free").map(|(_, at)| *at).collect();
    let period = TimeDelta::from_std(PERIOD).unwrap();
    // A permit is taken some time before the handler reads the clock: the first of a window may be late, its last not.
    let slack = TimeDelta::milliseconds(100);
    for first in &times {
        let within = times.iter().filter(|at| **at >= *first && **at < *first + period - slack).count();
        assert!(within <= PERMITS as usize, "{within} within a period");
    }
    assert_eq!(
        db.count("select count(*) from queue.finished_jobs where attempt <> 1").await,
        0,
        "waiting is no attempt"
    );
    end(nodes);
    db.close().await;
}

/// PLAT-10
#[tokio::test]
async fn a_blocked_key_holds_its_jobs_until_it_is_forgotten_and_an_operators_figures_stand() {
    let db = Database::new().await;
    let (app, _died) = App::new(&db);
    fix_rate_limit(&db.pool, &RateLimit::new("fixed", 1, Duration::from_secs(3600))).await.unwrap();
    sqlx::query(
        "insert into queue.rate_limits (key, permits, period_s, tokens, blocked_until)
         values ('blocked', 100, 1, 100, now() + interval '1 hour')",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    put_many(&db, 3, &metered("blocked"), "a").await;
    put_many(&db, 3, &metered("fixed"), "a").await;
    put_many(&db, 3, &metered("free"), "a").await;
    let node = Node::start(&db, &app, 10);
    db.until("select count(*) from queue.finished_jobs", 4).await;
    let mut ran = HashMap::<String, usize>::new();
    app.names().into_iter().for_each(|name| *ran.entry(name).or_default() += 1);
    assert_eq!(ran, HashMap::from([("free".into(), 3), ("fixed".into(), 1)]));
    let limits = rate_limits(&db.pool).await.unwrap();
    let state = |key: &str| limits.iter().find(|limit| limit.key == key).unwrap();
    assert!(state("blocked").blocked_until.is_some() && state("fixed").fixed && state("fixed").permits == 1);

    assert!(forget_rate_limit(&db.pool, "blocked").await.unwrap());
    db.until("select count(*) from queue.finished_jobs", 7).await;
    end([node]);
    db.close().await;
}

/// PLAT-10
#[tokio::test]
async fn a_handler_that_gets_no_permit_for_a_call_comes_back_when_there_is_one() {
    let db = Database::new().await;
    let (app, _died) = App::new(&db);
    let (first, second) = (put(&db, turn(Does::Call, "1"), "a").await, put(&db, turn(Does::Call, "2"), "a").await);
    let node = Node::start(&db, &app, 1);
    db.until("select count(*) from queue.jobs where state = 'retryable'", 1).await;
    assert_eq!(get(&db, first).await.state, JobState::Completed);
    let waits = get(&db, second).await.run_at - Utc::now();
    assert!(waits > TimeDelta::minutes(50) && waits < TimeDelta::minutes(61), "{waits}");
    end([node]);
    db.close().await;
}

/// PLAT-13
#[tokio::test]
async fn a_pause_takes_back_what_is_prefetched_and_nothing_more_begins() {
    let db = Database::new().await;
    let (app, _died) = App::new(&db);
    put(&db, turn(Does::WaitAtGate, "runs"), "a").await;
    put_many(&db, 30, &turn(Does::Nothing, "waits"), "a").await;
    // Polling alone: no message tells it.
    let config =
        WorkerConfig { queues: BTreeMap::from([("default".to_owned(), 1)]), listen: false, ..WorkerConfig::default() };
    let node = Node::with(&db, &app, config);
    app.entered.acquire().await.unwrap().forget();
    db.until("select (count(*) > 1)::int::int8 from queue.jobs where state = 'running'", 1).await;
    let paused_at = std::time::Instant::now();
    assert!(pause(&db.pool, "default").await.unwrap());
    db.until("select count(*) from queue.jobs where state = 'running'", 1).await;
    assert!(paused_at.elapsed() < Duration::from_secs(2), "{:?}", paused_at.elapsed());
    app.gate.add_permits(1);
    db.until("select count(*) from queue.finished_jobs", 1).await;
    assert_eq!(app.names(), ["runs"]);
    assert_eq!(db.count("select count(*) from queue.jobs where attempt = 0 and state = 'available'").await, 30);

    assert!(resume(&db.pool, "default").await.unwrap());
    db.until("select count(*) from queue.finished_jobs where attempt = 1", 31).await;
    end([node]);
    db.close().await;
}

/// TEN-5 rests on this.
#[tokio::test]
async fn a_hold_takes_back_what_is_prefetched_of_its_tenant() {
    let db = Database::new().await;
    let (app, _died) = App::new(&db);
    put(&db, turn(Does::WaitAtGate, "runs"), "a").await;
    let node = Node::start(&db, &app, 1);
    app.entered.acquire().await.unwrap().forget();
    put(&db, turn(Does::Nothing, "held"), "held").await;
    put(&db, turn(Does::Nothing, "free"), "free").await;
    db.until("select count(*) from queue.jobs where state = 'running' and tenant = 'held'", 1).await;
    let mut db_conn = db.pool.acquire().await.unwrap();
    hold_tenant(&mut db_conn, "held").await.unwrap();
    // The worker has heard of it once it hands the job back; the gate opens only then.
    db.until("select count(*) from pg_stat_activity where query like '%held_tenants where held_at%' and state = 'idle' and query_start > (select held_at from queue.held_tenants) and datname = current_database()", 1).await;
    app.gate.add_permits(1);
    db.until("select count(*) from queue.finished_jobs", 2).await;
    db.until(
        "select count(*) from queue.jobs where tenant = 'held' and state = 'available' and held and attempt = 0",
        1,
    )
    .await;
    assert_eq!(app.names(), ["runs", "free"]);
    release_tenant(&mut db_conn, "held").await.unwrap();
    drop(db_conn);
    db.until("select count(*) from queue.finished_jobs", 3).await;
    end([node]);
    db.close().await;
}

/// PLAT-20, for a pill that kills at once and one that kills late.
#[tokio::test]
async fn a_job_that_kills_three_workers_is_discarded_and_its_neighbours_are_not_charged() {
    for pill in [Does::Kill, Does::KillLater] {
        let db = Database::new().await;
        let (app, mut died) = App::new(&db);
        let pill = put(&db, turn(pill, "pill"), "a").await;
        for n in 1..=8 {
            put(&db, turn(Does::Nothing, &format!("neighbour {n}")), "a").await;
        }
        for _ in 0..3 {
            let node = Node::start(&db, &app, 1);
            died.recv().await.unwrap();
            node.kill();
        }
        let node = Node::start(&db, &app, 1);
        db.until("select count(*) from queue.finished_jobs", 9).await;
        let job = get(&db, pill).await;
        assert_eq!(job.state, JobState::Discarded);
        assert!(job.reason.as_ref().unwrap().starts_with("crashed"), "{:?}", job.reason);
        assert_eq!(app.names().iter().filter(|name| *name == "pill").count(), 3);
        // One that ended just before the kill, unrecorded, did run twice; what was only prefetched is not charged for it.
        let attempts: Vec<(String, i32)> =
            sqlx::query_as("select args ->> 'name', attempt from queue.finished_jobs where state = 'completed'")
                .fetch_all(&db.pool)
                .await
                .unwrap();
        for (name, attempt) in attempts {
            let runs = app.names().into_iter().filter(|ran| *ran == name).count();
            assert!(usize::try_from(attempt).unwrap() <= runs, "{name}: {attempt} attempts, {runs} runs");
        }

        // An operator may still try: with a clean slate.
        assert_eq!(
            retry(&mut db.pool.acquire().await.unwrap(), pill, None).await.unwrap(),
            backroom_queue::RetryOutcome::Requeued
        );
        died.recv().await.unwrap();
        end([node]);
        db.close().await;
    }
}

/// PLAT-20: jobs that ran beside the pill, twice, meet the third death one by one.
#[tokio::test]
async fn long_jobs_that_ran_beside_a_pill_outlive_it() {
    let db = Database::new().await;
    let (app, mut died) = App::new(&db);
    for name in ["one", "two", "three"] {
        put(&db, turn(Does::WaitAtGate, name), "a").await;
    }
    let pill = put(&db, turn(Does::KillLater, "pill"), "a").await;
    for round in 1..=3 {
        let node = Node::start(&db, &app, 4);
        if round < 3 {
            db.until("select count(*) from queue.jobs where begun_at is not null", 4).await;
        } else {
            // From here on they run one at a time: whoever waits at the gate goes through it, until the pill's turn comes.
            app.gate.add_permits(3);
        }
        died.recv().await.unwrap();
        node.kill();
    }
    let node = Node::start(&db, &app, 4);
    db.until("select count(*) from queue.finished_jobs", 4).await;
    assert_eq!(get(&db, pill).await.state, JobState::Discarded);
    assert_eq!(db.count("select count(*) from queue.finished_jobs where state = 'completed'").await, 3);
    end([node]);
    db.close().await;
}

/// What a transaction that is held open keeps vacuum from removing is removed all the same.
#[tokio::test]
async fn dead_rows_are_cleared_away_under_a_held_transaction_and_the_living_stay_as_they_were() {
    let db = Database::new().await;
    let mut held = db.pool.begin().await.unwrap();
    sqlx::query("set transaction isolation level repeatable read").execute(&mut *held).await.unwrap();
    sqlx::query("select pg_current_xact_id()").execute(&mut *held).await.unwrap();

    put_many(&db, 20, &metered("k"), "a").await;
    enqueue(&db.pool, &NewJob::of(&turn(Does::Nothing, "later")).run_at(Utc::now() + TimeDelta::days(1)))
        .await
        .unwrap();
    claim(&db, 5, "").await;
    let rows = "select jsonb_agg(to_jsonb(j) order by id) from queue.jobs j";
    let before: serde_json::Value = sqlx::query_scalar(rows).fetch_one(&db.pool).await.unwrap();
    sqlx::query(
        "with dead as (
             insert into queue.jobs (id, queue, kind, state, run_at, max_attempts, args)
             select gen_random_uuid(), 'dead', 'x', 'scheduled', now(), 1, '{}' from generate_series(1, 3000) returning id
         ) select count(*) from dead",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    sqlx::query("delete from queue.jobs where queue = 'dead'").execute(&db.pool).await.unwrap();
    db.until("select (pg_stat_get_dead_tuples('queue.jobs'::regclass) >= 3000)::int::int8", 1).await;
    let compact = |live: i64| sqlx::query_scalar::<_, bool>("select queue.compact(3000, $1)").bind(live);
    assert!(!compact(10).fetch_one(&db.pool).await.unwrap(), "not with more living rows than one may move");
    assert!(compact(5000).fetch_one(&db.pool).await.unwrap());
    let after: serde_json::Value = sqlx::query_scalar(rows).fetch_one(&db.pool).await.unwrap();
    assert_eq!(before, after);
    db.until("select pg_stat_get_dead_tuples('queue.jobs'::regclass)", 0).await;
    held.rollback().await.unwrap();
    db.close().await;
}
