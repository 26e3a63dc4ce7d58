//! The queue from outside: real PostgreSQL, real workers.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use backroom_queue::{
    Backoff, CancelOutcome, Ctx, Job, JobRecord, JobResult, JobState, NewJob, Outcome, Registry, RetryAfter,
    RetryOutcome, TraceParent, Unique, Verdict, Worker, WorkerConfig, cancel, enqueue, enqueue_many, find, hold_tenant,
    list, pause, queue_stats, registry, release_tenant, resume, retry, run_inline, testing,
};
use chrono::{TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use support::Database;
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What the test jobs share.
struct App {
    ran: Mutex<Vec<String>>,
    buried: Mutex<Vec<String>>,
    /// Opened by tests that want a handler to wait.
    gate: Semaphore,
    entered: Semaphore,
    runs: AtomicU32,
}

impl App {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ran: Mutex::default(),
            buried: Mutex::default(),
            gate: Semaphore::new(0),
            entered: Semaphore::new(0),
            runs: AtomicU32::new(0),
        })
    }

    fn ran(&self) -> Vec<String> {
        self.ran.lock().unwrap().clone()
    }
}

/// Does as it is told.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Act {
    does: Does,
    #[serde(default)]
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unique: Option<String>,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Does {
    Done,
    Fail,
    FailAskingToWait,
    Snooze,
    Cancel,
    Discard,
    Panic,
    Hang,
    WaitAtGate,
    WaitForCancel,
    TellTrace,
    AnswerNul,
}

fn act(does: Does, name: &str) -> Act {
    Act { does, name: name.to_owned(), unique: None }
}

impl Job for Act {
    type App = App;
    const KIND: &'static str = "test.act";
    const MAX_ATTEMPTS: u32 = 3;
    const TIMEOUT: Duration = Duration::from_secs(3);

    fn backoff() -> Backoff {
        Backoff::fixed(Duration::from_secs(3600))
    }

    fn unique(&self) -> Option<Unique> {
        self.unique.as_ref().map(Unique::by)
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        ctx.app.runs.fetch_add(1, Ordering::Relaxed);
        ctx.app.ran.lock().unwrap().push(self.name);
        match self.does {
            Does::Done => Verdict::done_with(json!({"attempt": ctx.job.attempt})),
            Does::Fail => anyhow::bail!("it did not work"),
            Does::FailAskingToWait => {
                Err(anyhow::Error::new(RetryAfter { after: Duration::from_secs(77), source: None }).context("busy"))
            }
            Does::Snooze => Ok(Verdict::Snooze(Duration::from_secs(3600))),
            Does::Cancel => Ok(Verdict::Cancel("nothing to do".into())),
            Does::Discard => Ok(Verdict::Discard("it never will".into())),
            Does::Panic => panic!("boom"),
            Does::Hang => std::future::pending().await,
            Does::WaitAtGate => {
                ctx.app.entered.add_permits(1);
                ctx.app.gate.acquire().await?.forget();
                Ok(Verdict::DONE)
            }
            Does::WaitForCancel => {
                ctx.app.entered.add_permits(1);
                ctx.cancelled().cancelled().await;
                anyhow::bail!("stopped half-way")
            }
            Does::AnswerNul => Verdict::done_with("a\0b"),
            Does::TellTrace => Verdict::done_with(ctx.job.trace.as_ref().map(ToString::to_string)),
        }
    }

    async fn discarded(self, ctx: Ctx<App>, reason: String) -> anyhow::Result<()> {
        ctx.app.buried.lock().unwrap().push(reason);
        Ok(())
    }
}

fn kinds() -> Arc<Registry<App>> {
    Arc::new(registry![Act])
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn config(concurrency: usize) -> WorkerConfig {
    WorkerConfig {
        queues: BTreeMap::from([("default".to_owned(), concurrency)]),
        lease: Duration::from_secs(2),
        shutdown_timeout: Duration::from_secs(5),
        ..WorkerConfig::default()
    }
}

fn start(db: &Database, app: &Arc<App>, config: WorkerConfig) -> Running {
    let stop = CancellationToken::new();
    let worker = Worker::new(db.pool.clone(), kinds(), app.clone(), config);
    Running { task: tokio::spawn(worker.run(stop.clone())), stop }
}

async fn put(db: &Database, job: Act) -> Uuid {
    enqueue(&db.pool, &NewJob::of(&job)).await.unwrap().id
}

async fn get(db: &Database, id: Uuid) -> JobRecord {
    find(&mut db.pool.acquire().await.unwrap(), id, None).await.unwrap().expect("the job exists")
}

/// PLAT-1
#[tokio::test]
async fn a_job_lives_and_dies_with_the_transaction_that_enqueued_it() {
    let db = Database::new().await;
    let mut tx = db.pool.begin().await.unwrap();
    let rolled_back = enqueue(&mut *tx, &NewJob::of(&act(Does::Done, "ghost"))).await.unwrap().id;
    tx.rollback().await.unwrap();
    let mut tx = db.pool.begin().await.unwrap();
    let committed = enqueue(&mut *tx, &NewJob::of(&act(Does::Done, "real"))).await.unwrap().id;
    tx.commit().await.unwrap();

    assert!(find(&mut db.pool.acquire().await.unwrap(), rolled_back, None).await.unwrap().is_none());
    assert_eq!(get(&db, committed).await.state, JobState::Available);
    db.close().await;
}

/// PLAT-2
#[tokio::test]
async fn an_unknown_kind_and_undecodable_arguments_are_dead_letters_and_the_worker_goes_on() {
    let db = Database::new().await;
    let app = App::new();
    let unknown = NewJob { kind: "test.unheard_of".into(), ..NewJob::of(&act(Does::Done, "")) };
    let undecodable = NewJob { args: json!({"does": "done", "colour": 1}), ..NewJob::of(&act(Does::Done, "")) };
    let good = NewJob::of(&act(Does::Done, "good"));
    let ids: Vec<Uuid> =
        enqueue_many(&db.pool, &[unknown, undecodable, good]).await.unwrap().iter().map(|e| e.id).collect();

    let worker = start(&db, &app, config(2));
    db.until("select count(*) from queue.finished_jobs", 3).await;
    worker.stop().await;

    let [unknown, undecodable, good] = [get(&db, ids[0]).await, get(&db, ids[1]).await, get(&db, ids[2]).await];
    assert_eq!((unknown.state, unknown.attempt), (JobState::Discarded, 1));
    assert!(unknown.reason.unwrap().contains("test.unheard_of"));
    assert_eq!((undecodable.state, undecodable.attempt), (JobState::Discarded, 1));
    assert!(undecodable.reason.unwrap().contains("colour"));
    assert_eq!(good.state, JobState::Completed);
    db.close().await;
}

/// PLAT-3
#[tokio::test]
async fn a_worker_that_lost_its_lease_cannot_overwrite_its_successor() {
    let db = Database::new().await;
    let app = App::new();
    let id = put(&db, act(Does::WaitAtGate, "")).await;
    let worker = start(&db, &app, config(1));
    app.entered.acquire().await.unwrap().forget();

    // Another worker has rescued and claimed the job meanwhile.
    let successor = Uuid::now_v7();
    sqlx::query(
        "update queue.jobs set lease = $2, attempt = attempt + 1, lease_until = now() + '1 hour' where id = $1",
    )
    .bind(id)
    .bind(successor)
    .execute(&db.pool)
    .await
    .unwrap();
    app.gate.add_permits(1);
    worker.stop().await;

    let job = get(&db, id).await;
    assert_eq!((job.state, job.attempt), (JobState::Running, 2), "the late outcome must not count");
    db.close().await;
}

/// PLAT-4
#[tokio::test]
async fn a_failure_stores_its_wait_and_its_history() {
    let db = Database::new().await;
    let app = App::new();
    let id = put(&db, act(Does::Fail, "")).await;
    let asked = put(&db, act(Does::FailAskingToWait, "")).await;

    testing::drain(&db.pool, &kinds(), app.clone(), "default").await.unwrap();
    let job = get(&db, id).await;
    assert_eq!((job.state, job.attempt), (JobState::Retryable, 1));
    let wait = job.run_at - Utc::now();
    assert!(wait > TimeDelta::minutes(58) && wait <= TimeDelta::minutes(61), "waits {wait}");
    assert_eq!(job.errors.len(), 1);
    assert_eq!((job.errors[0].attempt, job.errors[0].error.as_str()), (1, "it did not work"));
    let wait = get(&db, asked).await.run_at - Utc::now();
    assert!(wait > TimeDelta::seconds(60) && wait <= TimeDelta::seconds(77), "Retry-After was {wait}");

    for _ in 0..2 {
        testing::fast_forward(&db.pool).await.unwrap();
        testing::drain(&db.pool, &kinds(), app.clone(), "default").await.unwrap();
    }
    let job = get(&db, id).await;
    assert_eq!((job.state, job.attempt, job.errors.len()), (JobState::Discarded, 3, 3));
    assert!(app.buried.lock().unwrap().iter().any(|reason| reason.contains("it did not work")));
    db.close().await;
}

/// PLAT-5
#[tokio::test]
async fn a_handler_ends_as_it_says_and_panics_and_time_outs_are_attempts() {
    let db = Database::new().await;
    let app = App::new();
    let mut ids = HashMap::new();
    for (name, does) in [
        ("done", Does::Done),
        ("snooze", Does::Snooze),
        ("cancel", Does::Cancel),
        ("discard", Does::Discard),
        ("panic", Does::Panic),
        ("hang", Does::Hang),
    ] {
        ids.insert(name, put(&db, act(does, name)).await);
    }
    let worker = start(&db, &app, config(10));
    db.until("select count(*) from queue.jobs where state in ('available', 'running')", 0).await;
    // The worker survived all of it.
    let after = put(&db, act(Does::Done, "after")).await;
    db.until("select count(*) from queue.finished_jobs where state = 'completed'", 2).await;
    worker.stop().await;

    let done = get(&db, ids["done"]).await;
    assert_eq!((done.state, done.result), (JobState::Completed, Some(json!({"attempt": 1}))));
    let snoozed = get(&db, ids["snooze"]).await;
    assert_eq!((snoozed.state, snoozed.attempt), (JobState::Scheduled, 0), "a snooze uses no attempt");
    let cancelled = get(&db, ids["cancel"]).await;
    assert_eq!((cancelled.state, cancelled.reason.as_deref()), (JobState::Cancelled, Some("nothing to do")));
    let discarded = get(&db, ids["discard"]).await;
    assert_eq!((discarded.state, discarded.reason.as_deref()), (JobState::Discarded, Some("it never will")));
    let panicked = get(&db, ids["panic"]).await;
    assert_eq!((panicked.state, panicked.errors[0].error.as_str()), (JobState::Retryable, "panicked: boom"));
    let hung = get(&db, ids["hang"]).await;
    assert_eq!((hung.state, hung.errors[0].error.as_str()), (JobState::Retryable, "timed out after 3s"));
    assert_eq!(get(&db, after).await.state, JobState::Completed);
    db.close().await;
}

fn unique(key: &str) -> NewJob {
    NewJob::of(&Act { does: Does::Done, name: key.into(), unique: Some(key.into()) })
}

/// PLAT-6
#[tokio::test]
async fn a_duplicate_answers_the_existing_job_and_breaks_no_batch() {
    let db = Database::new().await;
    let first = enqueue(&db.pool, &unique("a")).await.unwrap();
    let batch = [unique("a"), unique("b"), unique("b"), unique("c").tenant("t1"), unique("c").tenant("t2")];
    let answers = enqueue_many(&db.pool, &batch).await.unwrap();
    assert_eq!(answers.iter().map(|a| a.duplicate).collect::<Vec<_>>(), [true, false, true, false, false]);
    assert_eq!(answers[0].id, first.id);
    assert_eq!(answers[2].id, answers[1].id);

    // The key is free again once the job has ended …
    testing::drain(&db.pool, &kinds(), App::new(), "default").await.unwrap();
    assert!(!enqueue(&db.pool, &unique("a")).await.unwrap().duplicate);
    // … unless it is taken for a period.
    let hourly = || {
        let mut job = unique("d");
        job.unique = job.unique.map(|unique| unique.within(Duration::from_secs(3600)));
        job
    };
    let taken = enqueue(&db.pool, &hourly()).await.unwrap();
    testing::drain(&db.pool, &kinds(), App::new(), "default").await.unwrap();
    let again = enqueue(&db.pool, &hourly()).await.unwrap();
    assert_eq!((again.id, again.state, again.duplicate), (taken.id, JobState::Completed, true));
    sqlx::query("update queue.unique_keys set expires_at = now()").execute(&db.pool).await.unwrap();
    assert!(!enqueue(&db.pool, &hourly()).await.unwrap().duplicate);
    db.close().await;
}

/// PLAT-6
#[tokio::test]
async fn many_enqueue_the_same_work_at_once_and_it_is_queued_once() {
    let db = Database::new().await;
    let enqueues = (0..40).map(|i| {
        let pool = db.pool.clone();
        tokio::spawn(async move {
            // Two keys in opposite orders, so that a careless lock order would deadlock.
            let mut jobs = vec![unique("x"), unique("y")];
            if i % 2 == 0 {
                jobs.reverse();
            }
            enqueue_many(&pool, &jobs).await.unwrap()
        })
    });
    let mut fresh = 0;
    for answers in enqueues.collect::<Vec<_>>() {
        fresh += answers.await.unwrap().iter().filter(|answer| !answer.duplicate).count();
    }
    assert_eq!(fresh, 2);
    assert_eq!(db.count("select count(*) from queue.jobs").await, 2);
    db.close().await;
}

/// PLAT-7
#[tokio::test]
async fn priorities_come_first_then_age_and_nothing_runs_before_its_time() {
    let db = Database::new().await;
    let app = App::new();
    let urgent = NewJob { priority: 10, ..NewJob::of(&act(Does::Done, "urgent")) };
    let later = NewJob::of(&act(Does::Done, "later")).run_at(Utc::now() + TimeDelta::hours(1));
    let jobs = [NewJob::of(&act(Does::Done, "first")), NewJob::of(&act(Does::Done, "second")), later, urgent];
    enqueue_many(&db.pool, &jobs).await.unwrap();
    testing::drain(&db.pool, &kinds(), app.clone(), "default").await.unwrap();
    assert_eq!(app.ran(), ["urgent", "first", "second"]);
    db.close().await;
}

/// PLAT-7
#[tokio::test]
async fn a_job_scheduled_for_a_fraction_of_a_second_runs_then_and_not_before() {
    let db = Database::new().await;
    let app = App::new();
    let worker = start(&db, &app, config(1));
    put(&db, act(Does::Done, "worker is up")).await;
    db.until("select count(*) from queue.finished_jobs", 1).await;
    let id = Uuid::now_v7();
    let at = Utc::now() + TimeDelta::milliseconds(700);
    enqueue(&db.pool, &NewJob { id, ..NewJob::of(&act(Does::Done, "")).run_at(at) }).await.unwrap();
    db.until("select count(*) from queue.finished_jobs", 2).await;
    worker.stop().await;
    let late = get(&db, id).await.attempted_at.unwrap() - at;
    assert!(late >= TimeDelta::zero(), "it ran {late} early");
    db.close().await;
}

/// PLAT-7
#[tokio::test]
async fn thousands_are_enqueued_in_one_round_trip() {
    let db = Database::new().await;
    let jobs: Vec<NewJob> = (0..5000).map(|i| NewJob::of(&act(Does::Done, &i.to_string()))).collect();
    let answers = enqueue_many(&db.pool, &jobs).await.unwrap();
    assert!(answers.iter().zip(&jobs).all(|(answer, job)| answer.id == job.id && !answer.duplicate));
    assert_eq!(db.count("select count(*) from queue.jobs").await, 5000);
    db.close().await;
}

/// PLAT-11
#[tokio::test]
async fn the_jobs_of_a_lost_worker_come_back_and_the_attempt_is_counted() {
    let db = Database::new().await;
    let app = App::new();
    let lost = put(&db, act(Does::Done, "")).await;
    let spent = put(&db, act(Does::Done, "")).await;
    // A worker ran both and was killed; one of them was on its last attempt.
    sqlx::query(
        "update queue.jobs set state = 'running', lease = gen_random_uuid(), lease_until = now() - interval '1 ms',
                worker = 'gone', begun_at = now(), attempt = case when id = $1 then 1 else 3 end",
    )
    .bind(lost)
    .execute(&db.pool)
    .await
    .unwrap();
    let worker = start(&db, &app, config(2));
    db.until("select count(*) from queue.finished_jobs", 2).await;
    worker.stop().await;

    let job = get(&db, lost).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 2));
    assert_eq!((job.errors[0].attempt, job.errors[0].worker.as_str()), (1, "gone"));
    let job = get(&db, spent).await;
    assert_eq!(job.state, JobState::Discarded, "no attempts were left");
    assert!(job.reason.unwrap().contains("lease ran out"));
    assert_eq!(app.buried.lock().unwrap().len(), 1, "its hook ran");
    assert_eq!(app.runs.load(Ordering::Relaxed), 1, "its handler did not");
    db.close().await;
}

/// PLAT-11
#[tokio::test]
async fn a_long_job_keeps_its_lease_while_its_worker_lives() {
    let db = Database::new().await;
    let app = App::new();
    let id = put(&db, act(Does::WaitAtGate, "")).await;
    let worker = start(&db, &app, WorkerConfig { lease: Duration::from_secs(1), ..config(1) });
    let second = start(&db, &app, WorkerConfig { lease: Duration::from_secs(1), ..config(1) });
    app.entered.acquire().await.unwrap().forget();
    // Two whole leases go by: watch the database's clock pass the first lease's end, twice.
    for _ in 0..2 {
        let until: chrono::DateTime<Utc> =
            sqlx::query_scalar("select lease_until from queue.jobs").fetch_one(&db.pool).await.unwrap();
        loop {
            let (now, state): (chrono::DateTime<Utc>, String) =
                sqlx::query_as("select clock_timestamp(), state from queue.jobs").fetch_one(&db.pool).await.unwrap();
            assert_eq!(state, "running");
            if now > until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    app.gate.add_permits(1);
    db.until("select count(*) from queue.finished_jobs", 1).await;
    let job = get(&db, id).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1));
    worker.stop().await;
    second.stop().await;
    db.close().await;
}

/// PLAT-11
#[tokio::test]
async fn cutting_every_connection_again_and_again_loses_no_job() {
    let db = Database::new().await;
    let app = App::new();
    let jobs: Vec<NewJob> = (0..2000).map(|i| NewJob::of(&act(Does::Done, &i.to_string()))).collect();
    enqueue_many(&db.pool, &jobs).await.unwrap();
    let worker = start(&db, &app, config(8));
    for cut in 1..=5 {
        loop {
            let done: Result<i64, _> =
                sqlx::query_scalar("select count(*) from queue.finished_jobs").fetch_one(&db.pool).await;
            if done.is_ok_and(|done| done >= cut * 200) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let _ = sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .execute(&db.pool)
        .await;
    }
    db.until("select count(*) from queue.finished_jobs where state = 'completed'", 2000).await;
    worker.stop().await;
    assert_eq!(db.count("select count(distinct id) from queue.finished_jobs").await, 2000);
    assert_eq!(db.count("select count(*) from queue.jobs").await, 0);
    db.close().await;
}

/// PLAT-12
#[tokio::test]
async fn a_shutdown_hands_back_what_was_not_begun_and_waits_for_what_runs() {
    let db = Database::new().await;
    let app = App::new();
    let running = put(&db, act(Does::WaitAtGate, "running")).await;
    let worker = start(&db, &app, config(1));
    app.entered.acquire().await.unwrap().forget();
    let waiting = put(&db, act(Does::Done, "waiting")).await;
    db.until("select count(*) from queue.jobs where state = 'running'", 2).await;

    worker.stop.cancel();
    db.until("select count(*) from queue.jobs where state = 'available' and attempt = 0", 1).await;
    assert_eq!(get(&db, running).await.state, JobState::Running, "patience is not over");
    app.gate.add_permits(1);
    worker.task.await.unwrap().unwrap();

    assert_eq!(get(&db, running).await.state, JobState::Completed);
    let job = get(&db, waiting).await;
    assert_eq!((job.state, job.attempt, job.errors.len()), (JobState::Available, 0, 0));
    db.close().await;
}

/// PLAT-12
#[tokio::test]
async fn a_job_that_outlasts_the_patience_at_shutdown_is_released() {
    let db = Database::new().await;
    let app = App::new();
    let id = put(&db, act(Does::WaitAtGate, "")).await;
    let worker = start(&db, &app, WorkerConfig { shutdown_timeout: Duration::from_millis(50), ..config(1) });
    app.entered.acquire().await.unwrap().forget();
    worker.stop().await;
    let job = get(&db, id).await;
    assert_eq!((job.state, job.attempt), (JobState::Available, 0));
    db.close().await;
}

/// PLAT-13
#[tokio::test]
async fn a_cancel_ends_a_waiting_job_and_asks_a_running_one_to_stop() {
    let db = Database::new().await;
    let app = App::new();
    let running = put(&db, act(Does::WaitForCancel, "")).await;
    let worker = start(&db, &app, config(1));
    app.entered.acquire().await.unwrap().forget();
    let waiting = NewJob::of(&act(Does::Done, "")).tenant("t1").run_at(Utc::now() + TimeDelta::hours(1));
    let waiting = enqueue(&db.pool, &waiting).await.unwrap().id;

    let mut conn = db.pool.acquire().await.unwrap();
    assert_eq!(cancel(&mut conn, waiting, Some("t2"), "no").await.unwrap(), CancelOutcome::NotFound);
    assert_eq!(cancel(&mut conn, waiting, Some("t1"), "not wanted").await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(cancel(&mut conn, waiting, None, "again").await.unwrap(), CancelOutcome::AlreadyFinished);
    assert_eq!(cancel(&mut conn, running, None, "stop").await.unwrap(), CancelOutcome::Requested);
    db.until("select count(*) from queue.finished_jobs where state = 'cancelled'", 2).await;
    worker.stop().await;
    assert_eq!(get(&db, waiting).await.reason.as_deref(), Some("not wanted"));
    drop(conn);
    db.close().await;
}

/// PLAT-13
#[tokio::test]
async fn a_cancel_reaches_a_job_that_changed_hands_before_it_ran() {
    let db = Database::new().await;
    let app = App::new();
    let id = put(&db, act(Does::Done, "")).await;
    // Claimed by a worker that is killed before it begins; cancelled while it had the job.
    sqlx::query(
        "update queue.jobs set state = 'running', attempt = 1, lease = gen_random_uuid(),
                lease_until = now() - interval '1 ms', worker = 'gone'",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    assert_eq!(cancel(&mut conn, id, None, "stop").await.unwrap(), CancelOutcome::Requested);
    drop(conn);
    let worker = start(&db, &app, config(1));
    db.until("select count(*) from queue.finished_jobs where state = 'cancelled'", 1).await;
    worker.stop().await;
    assert_eq!(app.runs.load(Ordering::Relaxed), 0);
    db.close().await;
}

/// PLAT-3: what cannot be stored as it is does not keep its neighbours' outcomes from being recorded.
#[tokio::test]
async fn a_result_that_postgresql_cannot_keep_is_cleaned() {
    let db = Database::new().await;
    let app = App::new();
    let odd = put(&db, act(Does::AnswerNul, "")).await;
    put(&db, act(Does::Done, "")).await;
    let worker = start(&db, &app, config(2));
    db.until("select count(*) from queue.finished_jobs where state = 'completed'", 2).await;
    worker.stop().await;
    assert_eq!(get(&db, odd).await.result, Some(json!("a\u{fffd}b")));
    db.close().await;
}

/// TEN-3 rests on this: whoever speaks for a tenant enqueues for that tenant only, and takes no other's unique keys.
#[tokio::test]
async fn the_door_lets_a_tenants_caller_enqueue_for_that_tenant_only() {
    let db = Database::new().await;
    let speaks =
        "create or replace function queue.caller_tenant() returns text language sql stable as $$ select 't1' $$";
    sqlx::query(speaks).execute(&db.pool).await.unwrap();
    let own = unique("k").tenant("t1");
    let across = {
        let mut job = unique("k").tenant("t1");
        job.unique = job.unique.map(Unique::across_tenants);
        job
    };
    assert!(enqueue(&db.pool, &own).await.is_ok());
    for (what, job) in [("another's", unique("k").tenant("t2")), ("nobody's", unique("k")), ("across", across)] {
        let refused = enqueue(&db.pool, &job).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("42501"), "{what}: {refused}");
    }
    let padded = sqlx::query(
        "select * from queue.enqueue(array[gen_random_uuid()], '{default}', '{test.act}', '{}', '{0}', array[null::timestamptz],
                '{1}', array['{}'::jsonb], array[null::text], array[null::text], '{false}', array[null::timestamptz], array[null::text],
                array[null::uuid], false)",
    );
    let refused = padded.execute(&db.pool).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("22023"), "{refused}");
    assert_eq!(db.count("select count(*) from queue.jobs").await, 1);
    db.close().await;
}

/// PLAT-13
#[tokio::test]
async fn a_dead_letter_is_retried_with_fresh_attempts_and_its_history() {
    let db = Database::new().await;
    let app = App::new();
    let id = put(&db, Act { does: Does::Discard, name: String::new(), unique: Some("k".into()) }).await;
    testing::drain(&db.pool, &kinds(), app.clone(), "default").await.unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    assert_eq!(retry(&mut conn, id, Some("other")).await.unwrap(), RetryOutcome::NotFound);
    assert_eq!(retry(&mut conn, id, None).await.unwrap(), RetryOutcome::Requeued);
    let job = get(&db, id).await;
    assert_eq!((job.state, job.attempt, job.finished_at), (JobState::Available, 0, None));
    assert!(enqueue(&db.pool, &unique("k")).await.unwrap().duplicate, "it holds its unique key again");

    testing::drain(&db.pool, &kinds(), app, "default").await.unwrap();
    assert!(!enqueue(&db.pool, &unique("k")).await.unwrap().duplicate);
    assert_eq!(retry(&mut conn, id, None).await.unwrap(), RetryOutcome::Duplicate);
    drop(conn);
    db.close().await;
}

/// PLAT-13
#[tokio::test]
async fn a_paused_queue_gives_no_job_until_it_is_resumed() {
    let db = Database::new().await;
    let app = App::new();
    assert!(pause(&db.pool, "default").await.unwrap());
    assert!(!pause(&db.pool, "default").await.unwrap(), "it was paused already");
    let id = put(&db, act(Does::Done, "")).await;
    let worker = start(&db, &app, config(1));
    let other = NewJob { queue: "other".into(), ..NewJob::of(&act(Does::Done, "")) };
    enqueue(&db.pool, &other).await.unwrap();
    let second = start(&db, &app, WorkerConfig { queues: BTreeMap::from([("other".into(), 1)]), ..config(1) });
    db.until("select count(*) from queue.finished_jobs", 1).await;
    assert_eq!(get(&db, id).await.state, JobState::Available);
    let stats = queue_stats(&db.pool).await.unwrap();
    assert!(stats.iter().any(|queue| queue.queue == "default" && queue.paused && queue.available == 1));
    assert!(resume(&db.pool, "default").await.unwrap());
    db.until("select count(*) from queue.finished_jobs", 2).await;
    worker.stop().await;
    second.stop().await;
    db.close().await;
}

/// TEN-5 rests on this.
#[tokio::test]
async fn a_held_tenants_jobs_wait_and_run_after_the_release() {
    let db = Database::new().await;
    let app = App::new();
    let before = NewJob::of(&act(Does::Done, "before")).tenant("t1");
    enqueue(&db.pool, &before).await.unwrap();
    let mut tx = db.pool.begin().await.unwrap();
    assert_eq!(hold_tenant(&mut tx, "t1").await.unwrap(), 1);
    tx.commit().await.unwrap();
    enqueue(&db.pool, &NewJob::of(&act(Does::Done, "during")).tenant("t1")).await.unwrap();
    enqueue(&db.pool, &NewJob::of(&act(Does::Done, "neighbour")).tenant("t2")).await.unwrap();
    testing::drain(&db.pool, &kinds(), app.clone(), "default").await.unwrap();
    assert_eq!(app.ran(), ["neighbour"]);

    let mut tx = db.pool.begin().await.unwrap();
    assert_eq!(release_tenant(&mut tx, "t1").await.unwrap(), 2);
    tx.commit().await.unwrap();
    testing::drain(&db.pool, &kinds(), app.clone(), "default").await.unwrap();
    assert_eq!(app.ran(), ["neighbour", "before", "during"]);
    db.close().await;
}

/// TEN-5 rests on this.
#[tokio::test]
async fn a_job_enqueued_while_the_hold_begins_is_held_too() {
    let db = Database::new().await;
    let mut enqueuing = db.pool.begin().await.unwrap();
    enqueue(&mut *enqueuing, &NewJob::of(&act(Does::Done, "")).tenant("t1")).await.unwrap();
    let pool = db.pool.clone();
    let hold = tokio::spawn(async move {
        let mut tx = pool.begin().await.unwrap();
        let held = hold_tenant(&mut tx, "t1").await.unwrap();
        tx.commit().await.unwrap();
        held
    });
    db.until("select count(*) from pg_locks where locktype = 'advisory' and not granted", 1).await;
    enqueuing.commit().await.unwrap();
    assert_eq!(hold.await.unwrap(), 1);
    assert_eq!(db.count("select count(*) from queue.jobs where held").await, 1);
    db.close().await;
}

/// PLAT-14
#[tokio::test]
async fn polling_alone_is_enough() {
    let db = Database::new().await;
    let app = App::new();
    let worker = start(&db, &app, WorkerConfig { listen: false, ..config(2) });
    for i in 0..5 {
        put(&db, act(Does::Done, "")).await;
        db.until("select count(*) from queue.finished_jobs", i + 1).await;
    }
    worker.stop().await;
    db.close().await;
}

/// PLAT-14
#[tokio::test]
async fn a_notification_wakes_an_idle_queue_long_before_its_next_poll() {
    let db = Database::new().await;
    let app = App::new();
    let worker = start(&db, &app, WorkerConfig { poll_interval: Duration::from_secs(600), ..config(2) });
    for i in 0..20 {
        put(&db, act(Does::Done, "")).await;
        db.until("select count(*) from queue.finished_jobs", i + 1).await;
    }
    worker.stop().await;
    db.close().await;
}

/// PLAT-15
#[tokio::test]
async fn history_goes_to_day_partitions_and_expired_days_are_dropped() {
    let db = Database::new().await;
    let app = App::new();
    let old_day = "create table queue.finished_jobs_20200101 partition of queue.finished_jobs \
                   for values from ('2020-01-01') to ('2020-01-02')";
    sqlx::query(old_day).execute(&db.pool).await.unwrap();
    // Finished before anybody made its day's partition: the default takes it in, and gives it back.
    put(&db, act(Does::Done, "early")).await;
    testing::drain(&db.pool, &kinds(), app.clone(), "default").await.unwrap();
    assert_eq!(db.count("select count(*) from queue.finished_jobs_default").await, 1);
    let worker = start(&db, &app, config(1));
    let old = "select count(*) from pg_class where relname = 'finished_jobs_20200101'";
    db.until(old, 0).await;
    db.until("select count(*) from pg_class where relname ~ '^finished_jobs_[0-9]{8}$' and relkind = 'r'", 2).await;
    put(&db, act(Does::Done, "")).await;
    db.until("select count(*) from queue.finished_jobs", 2).await;
    worker.stop().await;
    assert_eq!(db.count("select count(*) from queue.finished_jobs_default").await, 0);
    let expires = "select count(*) from queue.finished_jobs where expires_on = current_date + 7";
    assert_eq!(db.count(expires).await, 2);
    db.close().await;
}

/// PLAT-17
#[tokio::test]
async fn the_trace_of_the_enqueuer_reaches_the_handler() {
    let db = Database::new().await;
    let trace = TraceParent::new();
    let job = NewJob::of(&act(Does::TellTrace, "")).trace(Some(trace.clone()));
    let (outcome, record) = run_inline(&db.pool, &kinds(), App::new(), job, |_, _| {}).await.unwrap();
    assert_eq!(outcome, Outcome::Completed { result: Some(json!(trace.to_string())) });
    assert_eq!(record.trace.as_deref(), Some(trace.as_str()));
    db.close().await;
}

/// PLAT-19
#[tokio::test]
async fn a_test_sees_what_was_enqueued_and_runs_a_job_twice() {
    let db = Database::new().await;
    let app = App::new();
    put(&db, act(Does::Done, "seen")).await;
    let waiting = testing::enqueued::<Act>(&db.pool).await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].args["name"], "seen");
    let job = NewJob::of(&act(Does::Done, "twice"));
    let [(first, before), (second, after)] =
        testing::run_twice(&db.pool, &kinds(), app, job, &["queue.unique_keys"]).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(before, after);
    db.close().await;
}

#[tokio::test]
async fn a_list_is_read_in_pages_without_gaps_or_repeats() {
    let db = Database::new().await;
    let jobs: Vec<NewJob> = (0..25)
        .map(|i| {
            NewJob::of(&act(if i % 2 == 0 { Does::Done } else { Does::Fail }, "")).tenant(if i < 20 {
                "a"
            } else {
                "b"
            })
        })
        .collect();
    enqueue_many(&db.pool, &jobs).await.unwrap();
    testing::drain(&db.pool, &kinds(), App::new(), "default").await.unwrap();
    let mut filter = backroom_queue::JobFilter { tenant: Some("a".into()), limit: 7, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = list(&db.pool, &filter).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(last.id);
        seen.extend(page.iter().map(|job| job.id));
    }
    let mut expected: Vec<Uuid> = jobs[..20].iter().map(|job| job.id).collect();
    expected.reverse();
    assert_eq!(seen, expected);
    filter = backroom_queue::JobFilter { state: Some(JobState::Completed), limit: 100, ..Default::default() };
    assert_eq!(list(&db.pool, &filter).await.unwrap().len(), 13);
    db.close().await;
}
