//! Follow-ups and batches: real PostgreSQL, real workers.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use backroom_queue::{
    Backoff, Batch, BatchFilter, CancelOutcome, Ctx, Job, JobRecord, JobResult, JobState, NewBatch, NewJob, Outcome,
    Registry, RetryOutcome, TraceParent, Unique, Verdict, Worker, WorkerConfig, batches, cancel, enqueue,
    enqueue_batch, enqueue_many, find, find_batch, hold_tenant, registry, release_tenant, retry, run_inline, testing,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use support::Database;
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What the test jobs share.
struct App {
    pool: PgPool,
    ran: Mutex<Vec<String>>,
    gate: Semaphore,
    entered: Semaphore,
}

impl App {
    fn new(db: &Database) -> Arc<Self> {
        let (gate, entered) = (Semaphore::new(0), Semaphore::new(0));
        Arc::new(Self { pool: db.pool.clone(), ran: Mutex::default(), gate, entered })
    }

    fn ran(&self, name: &str) -> usize {
        self.ran.lock().unwrap().iter().filter(|ran| *ran == name).count()
    }
}

/// Does as it is told, after it has named its follow-ups.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Step {
    name: String,
    does: Does,
    then: Vec<Step>,
    unique: Option<String>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Does {
    #[default]
    Done,
    Fail,
    Snooze,
    Cancel,
    Discard,
    Panic,
    WaitAtGate,
    /// Has its follow-ups join its own batch; enqueues one of them by itself.
    Grow,
}

impl Job for Step {
    type App = App;
    const KIND: &'static str = "test.step";
    const MAX_ATTEMPTS: u32 = 2;

    fn backoff() -> Backoff {
        Backoff::fixed(Duration::from_secs(3600))
    }

    fn unique(&self) -> Option<Unique> {
        self.unique.as_ref().map(Unique::by)
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        ctx.app.ran.lock().unwrap().push(self.name.clone());
        let batch_id = matches!(self.does, Does::Grow).then_some(ctx.job.batch_id).flatten();
        for next in &self.then {
            // PostgreSQL's jsonb has no NUL.
            let next = Step { name: next.name.replace("NUL", "\0"), ..next.clone() };
            ctx.then(NewJob { batch_id, ..NewJob::of(&next) });
        }
        match self.does {
            Does::Done => Ok(Verdict::DONE),
            Does::Fail => anyhow::bail!("it did not work"),
            Does::Snooze => Ok(Verdict::Snooze(Duration::from_secs(3600))),
            Does::Cancel => Ok(Verdict::Cancel("nothing to do".into())),
            Does::Discard => Ok(Verdict::Discard("it never will".into())),
            Does::Panic => panic!("boom"),
            Does::WaitAtGate => {
                ctx.app.entered.add_permits(1);
                ctx.app.gate.acquire().await?.forget();
                Ok(Verdict::DONE)
            }
            Does::Grow => {
                enqueue(&ctx.app.pool, &NewJob { batch_id, ..NewJob::of(&step("grown")) }).await?;
                Ok(Verdict::DONE)
            }
        }
    }
}

fn step(name: &str) -> Step {
    Step { name: name.to_owned(), ..Step::default() }
}

fn does(name: &str, does: Does) -> Step {
    Step { does, ..step(name) }
}

fn followed(does: Does) -> Step {
    Step { name: "first".into(), does, then: vec![step("next"), step("other")], unique: None }
}

fn kinds() -> Arc<Registry<App>> {
    Arc::new(registry![Step])
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

fn start(db: &Database, app: &Arc<App>, concurrency: usize) -> Running {
    let stop = CancellationToken::new();
    let config = WorkerConfig {
        queues: BTreeMap::from([("default".to_owned(), concurrency)]),
        lease: Duration::from_secs(2),
        shutdown_timeout: Duration::from_secs(5),
        ..WorkerConfig::default()
    };
    let worker = Worker::new(db.pool.clone(), kinds(), app.clone(), config);
    Running { task: tokio::spawn(worker.run(stop.clone())), stop }
}

async fn drain(db: &Database, app: &Arc<App>) -> Vec<(Uuid, Outcome)> {
    testing::drain(&db.pool, &kinds(), app.clone(), "default").await.unwrap()
}

/// A new database whose history is laid out: what happens in its first second is not what these tests are about.
async fn database() -> Database {
    let db = Database::new().await;
    sqlx::query("select queue.make_history_partition(current_date + d) from generate_series(7, 8) d")
        .execute(&db.pool)
        .await
        .unwrap();
    db
}

async fn get(db: &Database, id: Uuid) -> JobRecord {
    find(&mut db.pool.acquire().await.unwrap(), id, None).await.unwrap().expect("the job exists")
}

async fn look(db: &Database, id: Uuid) -> Batch {
    find_batch(&db.pool, id, None).await.unwrap().expect("the batch exists")
}

/// Size, completed, cancelled, discarded.
async fn counts(db: &Database, id: Uuid) -> [u32; 4] {
    let batch = look(db, id).await;
    [batch.size, batch.completed, batch.cancelled, batch.discarded]
}

/// A batch that is followed by `last`.
fn batch() -> NewBatch {
    NewBatch { name: Some("import".into()), then: Some(NewJob::of(&step("last"))), ..NewBatch::default() }
}

async fn put(db: &Database, batch: &NewBatch, members: &[Step]) -> Vec<Uuid> {
    let jobs: Vec<NewJob> = members.iter().map(NewJob::of).collect();
    enqueue_batch(&db.pool, batch, &jobs).await.unwrap().jobs.into_iter().map(|job| job.id).collect()
}

/// As another worker's rescue and claim.
async fn take_over(db: &Database, id: Uuid) {
    sqlx::query(
        "update queue.jobs set lease = $2, attempt = attempt + 1, lease_until = now() + '1 hour' where id = $1",
    )
    .bind(id)
    .bind(Uuid::now_v7())
    .execute(&db.pool)
    .await
    .unwrap();
}

const LAST: &str = "select (select count(*) from queue.jobs where args ->> 'name' = 'last')
    + (select count(*) from queue.finished_jobs where args ->> 'name' = 'last')";

/// PLAT-18
#[tokio::test]
async fn follow_ups_come_with_the_success_and_inherit_tenant_and_trace() {
    let db = database().await;
    let app = App::new(&db);
    let trace = TraceParent::new();
    let first = NewJob::of(&followed(Does::Done)).tenant("t1").trace(Some(trace.clone()));

    let (outcome, _) = run_inline(&db.pool, &kinds(), app.clone(), first, |_, _| {}).await.unwrap();

    assert_eq!(outcome, Outcome::Completed { result: None });
    let next = testing::enqueued::<Step>(&db.pool).await.unwrap();
    assert_eq!(next.iter().map(|job| job.args["name"].as_str().unwrap()).collect::<Vec<_>>(), ["next", "other"]);
    for job in &next {
        assert_eq!((job.tenant.as_deref(), job.trace.as_deref()), (Some("t1"), Some(trace.as_str())));
    }
    assert_eq!(drain(&db, &app).await.len(), 2, "they are jobs like any other");

    // A worker does the same, and more than one job of its batch of outcomes may be followed.
    let chain = Step { then: vec![Step { then: vec![step("end")], ..step("middle") }], ..step("begin") };
    enqueue_many(&db.pool, &[NewJob::of(&chain), NewJob::of(&step("alone")), NewJob::of(&chain)]).await.unwrap();
    let worker = start(&db, &app, 4);
    db.until("select count(*) from queue.finished_jobs where args ->> 'name' in ('alone', 'end')", 3).await;
    worker.stop().await;
    assert_eq!((app.ran("begin"), app.ran("middle"), app.ran("end")), (2, 2, 2));
    db.close().await;
}

/// PLAT-18
#[tokio::test]
async fn any_other_end_drops_the_follow_ups() {
    let db = database().await;
    let app = App::new(&db);
    for end in [Does::Fail, Does::Snooze, Does::Cancel, Does::Discard, Does::Panic] {
        enqueue(&db.pool, &NewJob::of(&followed(end))).await.unwrap();
    }
    drain(&db, &app).await;
    assert_eq!(app.ran("first"), 5);
    assert_eq!(db.count("select count(*) from queue.jobs where args ->> 'name' <> 'first'").await, 0);
    db.close().await;
}

/// PLAT-18, PLAT-3
#[tokio::test]
async fn a_success_that_the_fence_refuses_is_not_followed() {
    let db = database().await;
    let app = App::new(&db);
    let id = enqueue(&db.pool, &NewJob::of(&followed(Does::WaitAtGate))).await.unwrap().id;
    let worker = start(&db, &app, 1);
    app.entered.acquire().await.unwrap().forget();

    take_over(&db, id).await;
    app.gate.add_permits(1);
    worker.stop().await;

    assert_eq!(get(&db, id).await.state, JobState::Running, "the late outcome must not count");
    assert_eq!(db.count("select count(*) from queue.jobs").await, 1, "nothing followed");
    db.close().await;
}

/// PLAT-18, PLAT-6
#[tokio::test]
async fn a_follow_up_is_unique_like_any_job_and_may_have_its_forerunners_key() {
    let db = database().await;
    let app = App::new(&db);
    let unique = |name: &str, key: &str| Step { unique: Some(key.into()), ..step(name) };
    let there = enqueue(&db.pool, &NewJob { priority: -1, ..NewJob::of(&unique("there", "a")) }).await.unwrap().id;
    let first = Step { then: vec![unique("duplicate", "a"), unique("again", "b")], ..unique("first", "b") };
    let first = enqueue(&db.pool, &NewJob::of(&first)).await.unwrap().id;

    drain(&db, &app).await;

    assert_eq!(get(&db, first).await.state, JobState::Completed);
    assert_eq!(get(&db, there).await.state, JobState::Completed);
    assert_eq!((app.ran("duplicate"), app.ran("again")), (0, 1));
    assert_eq!(db.count("select count(*) from queue.unique_keys").await, 0);
    db.close().await;
}

/// PLAT-18
#[tokio::test]
async fn a_refused_follow_up_fails_its_own_job_and_harms_no_neighbour() {
    let db = database().await;
    let app = App::new(&db);
    let bad = Step { then: vec![step("NUL"), step("good")], ..step("bad") };
    let bad = enqueue(&db.pool, &NewJob::of(&bad)).await.unwrap().id;
    enqueue(&db.pool, &NewJob::of(&followed(Does::Done))).await.unwrap();
    let worker = start(&db, &app, 4);
    db.until("select count(*) from queue.finished_jobs", 3).await;
    db.until("select count(*) from queue.jobs where state = 'retryable'", 1).await;
    worker.stop().await;
    let job = get(&db, bad).await;
    assert!(job.errors[0].error.contains("follow-ups were refused"), "{:?}", job.errors);
    assert_eq!(app.ran("good"), 0, "all of them or none");
    db.close().await;
}

/// PLAT-18
#[tokio::test]
async fn a_batch_counts_its_members_and_is_followed_once_under_two_workers() {
    let db = database().await;
    let app = App::new(&db);
    let ends = [Does::Done, Does::Done, Does::Cancel, Does::Discard];
    let members: Vec<Step> = (0..200).map(|n| does("member", ends[n % 4])).collect();
    let import = batch();
    put(&db, &import, &members).await;
    assert_eq!((look(&db, import.id).await.left(), db.count(LAST).await), (200, 0));

    let workers = [start(&db, &app, 8), start(&db, &app, 8)];
    db.until("select count(*) from queue.jobs", 0).await;
    for worker in workers {
        worker.stop().await;
    }

    let ended = look(&db, import.id).await;
    assert_eq!(counts(&db, import.id).await, [200, 100, 50, 50]);
    assert_eq!((ended.left(), ended.finished_at.is_some()), (0, true));
    assert_eq!((ended.then_kind.as_deref(), ended.then_job_id), (Some("test.step"), import.then.map(|job| job.id)));
    assert_eq!((db.count(LAST).await, app.ran("last")), (1, 1));
    db.close().await;
}

/// PLAT-18, PLAT-11
#[tokio::test]
async fn a_last_member_whose_worker_was_lost_is_counted_once() {
    let db = database().await;
    let app = App::new(&db);
    let import = batch();
    let ids = put(&db, &import, &[step("quick"), does("slow", Does::WaitAtGate)]).await;
    let lost = start(&db, &app, 2);
    app.entered.acquire().await.unwrap().forget();
    db.until("select completed::int8 from queue.batches", 1).await;

    // The first worker is as good as dead: its lease ran out, another one ends the job and the batch.
    sqlx::query(
        "update queue.jobs set lease_until = now() - '1 s'::interval, lease = $2, begun_at = now() where id = $1",
    )
    .bind(ids[1])
    .bind(Uuid::now_v7())
    .execute(&db.pool)
    .await
    .unwrap();
    let other = start(&db, &app, 2);
    app.entered.acquire().await.unwrap().forget();
    app.gate.add_permits(2);
    db.until("select count(*) from queue.finished_jobs where args ->> 'name' = 'last'", 1).await;
    lost.stop().await;
    other.stop().await;

    assert_eq!(app.ran("slow"), 2, "it ran under both");
    assert_eq!((counts(&db, import.id).await, db.count(LAST).await), ([2, 2, 0, 0], 1));
    db.close().await;
}

/// PLAT-18, PLAT-3
#[tokio::test]
async fn a_members_end_that_the_fence_refuses_is_not_counted() {
    let db = database().await;
    let app = App::new(&db);
    let import = batch();
    let ids = put(&db, &import, &[does("member", Does::WaitAtGate)]).await;
    let worker = start(&db, &app, 1);
    app.entered.acquire().await.unwrap().forget();
    take_over(&db, ids[0]).await;
    app.gate.add_permits(1);
    worker.stop().await;
    assert_eq!((counts(&db, import.id).await, db.count(LAST).await), ([1, 0, 0, 0], 0));
    db.close().await;
}

/// PLAT-18, PLAT-6
#[tokio::test]
async fn duplicates_are_no_members_and_a_batch_without_members_is_followed_at_once() {
    let db = database().await;
    let unique = |key: &str| Step { unique: Some(key.into()), ..step(key) };
    enqueue(&db.pool, &NewJob::of(&unique("a"))).await.unwrap();

    let some = batch();
    let jobs = [NewJob::of(&unique("a")), NewJob::of(&unique("b")), NewJob::of(&unique("b"))];
    let enqueued = enqueue_batch(&db.pool, &some, &jobs).await.unwrap();
    assert_eq!(enqueued.jobs.iter().map(|job| job.duplicate).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!((enqueued.batch.size, enqueued.batch.finished_at, db.count(LAST).await), (1, None, 0));

    for jobs in [&jobs[..1], &[]] {
        let import = batch();
        let at_once = enqueue_batch(&db.pool, &import, jobs).await.unwrap().batch;
        assert_eq!((at_once.size, at_once.finished_at.is_some()), (0, true));
        assert_eq!(at_once.then_job_id, import.then.map(|job| job.id));
    }
    assert_eq!(db.count(LAST).await, 2);
    db.close().await;
}

/// PLAT-18
#[tokio::test]
async fn what_follows_may_be_a_duplicate_too() {
    let db = database().await;
    let app = App::new(&db);
    let report = || NewJob { priority: -1, ..NewJob::of(&Step { unique: Some("report".into()), ..step("last") }) };
    let batches = [0; 2].map(|_| NewBatch { then: Some(report()), ..batch() });
    for batch in &batches {
        put(&db, batch, &[step("member")]).await;
    }
    drain(&db, &app).await;
    let fired = [look(&db, batches[0].id).await, look(&db, batches[1].id).await].map(|batch| batch.then_job_id);
    assert!(fired[0].is_some() && fired[0] == fired[1], "{fired:?}");
    assert_eq!(app.ran("last"), 1);

    // The same job, on the other hand, cannot be promised twice.
    let once = batch();
    put(&db, &once, &[step("member")]).await;
    let twice = NewBatch { then: once.then.clone(), ..batch() };
    assert!(enqueue_batch(&db.pool, &twice, &[]).await.is_err());
    db.close().await;
}

/// PLAT-18, PLAT-13
#[tokio::test]
async fn a_cancelled_member_counts_and_may_be_the_last() {
    let db = database().await;
    let import = batch();
    let ids = put(&db, &import, &[step("a"), step("b")]).await;
    let mut connection = db.pool.acquire().await.unwrap();
    assert_eq!(cancel(&mut connection, ids[0], None, "no").await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!((counts(&db, import.id).await, db.count(LAST).await), ([2, 0, 1, 0], 0));
    assert_eq!(cancel(&mut connection, ids[0], None, "no").await.unwrap(), CancelOutcome::AlreadyFinished);
    assert_eq!(counts(&db, import.id).await, [2, 0, 1, 0]);
    assert_eq!(cancel(&mut connection, ids[1], None, "no").await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!((counts(&db, import.id).await, db.count(LAST).await), ([2, 0, 2, 0], 1));
    drop(connection);
    db.close().await;
}

/// PLAT-18, PLAT-13
#[tokio::test]
async fn a_retried_member_counts_again_unless_its_batch_has_finished() {
    let db = database().await;
    let app = App::new(&db);
    let import = batch();
    let ids = put(&db, &import, &[does("bad", Does::Discard), does("slow", Does::WaitAtGate)]).await;
    let worker = start(&db, &app, 2);
    db.until("select discarded::int8 from queue.batches", 1).await;
    let again = async || retry(&mut db.pool.acquire().await.unwrap(), ids[0], None).await.unwrap();

    // The batch is unfinished: the member is taken back, and ends anew.
    let mut tx = db.pool.begin().await.unwrap();
    assert_eq!(retry(&mut tx, ids[0], None).await.unwrap(), RetryOutcome::Requeued);
    let taken_back: i32 = sqlx::query_scalar("select discarded from queue.batches").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(taken_back, 0);
    tx.commit().await.unwrap();
    db.until("select discarded::int8 from queue.batches", 1).await;
    app.gate.add_permits(1);
    db.until("select count(*) from queue.finished_jobs where args ->> 'name' = 'last'", 1).await;
    assert_eq!(counts(&db, import.id).await, [2, 1, 0, 1]);

    // It is finished now: the member runs again, for itself.
    assert_eq!(again().await, RetryOutcome::Requeued);
    db.until("select count(*) from queue.jobs", 0).await;
    worker.stop().await;
    assert_eq!(app.ran("bad"), 3);
    assert_eq!((counts(&db, import.id).await, db.count(LAST).await), ([2, 1, 0, 1], 1));
    assert_eq!(db.count("select count(*) from queue.finished_jobs where batch_id is not null").await, 1);
    db.close().await;
}

/// PLAT-18, PLAT-1
#[tokio::test]
async fn a_batch_lives_and_dies_with_the_transaction_that_enqueued_it() {
    let db = database().await;
    let app = App::new(&db);
    let import = batch();
    let mut tx = db.pool.begin().await.unwrap();
    enqueue_batch(&mut *tx, &import, &[NewJob::of(&step("ghost"))]).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(find_batch(&db.pool, import.id, None).await.unwrap(), None);
    assert!(drain(&db, &app).await.is_empty());

    let mut tx = db.pool.begin().await.unwrap();
    enqueue_batch(&mut *tx, &import, &[NewJob::of(&step("real"))]).await.unwrap();
    tx.commit().await.unwrap();
    drain(&db, &app).await;
    assert_eq!((app.ran("ghost"), app.ran("real"), app.ran("last")), (0, 1, 1));
    db.close().await;
}

/// PLAT-18
#[tokio::test]
async fn a_member_may_bring_in_more_members_until_the_batch_has_finished() {
    let db = database().await;
    let app = App::new(&db);
    let import = batch();
    let grow = Step { does: Does::Grow, then: vec![step("next"), step("next")], ..step("first") };
    put(&db, &import, &[grow]).await;

    let ran = drain(&db, &app).await;

    assert_eq!(ran.len(), 5);
    assert_eq!(ran.last().map(|(id, _)| *id), import.then.as_ref().map(|job| job.id), "after all of them");
    assert_eq!((counts(&db, import.id).await, app.ran("last")), ([4, 4, 0, 0], 1));
    let late = NewJob { batch_id: Some(import.id), ..NewJob::of(&step("late")) };
    let refused = enqueue(&db.pool, &late).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("23503"), "{refused}");
    assert!(enqueue(&db.pool, &NewJob { batch_id: Some(Uuid::now_v7()), ..late }).await.is_err());
    assert_eq!(db.count("select count(*) from queue.jobs").await, 0);
    db.close().await;
}

/// PLAT-18, TEN-1
#[tokio::test]
async fn a_job_cannot_join_another_tenants_batch_nor_a_batch_fire_for_another_tenant() {
    let db = database().await;
    let of = |tenant: &str| NewBatch { tenant: Some(tenant.into()), ..batch() };
    let theirs = of("t1");
    put(&db, &theirs, &[step("member")]).await;
    let code = |error: sqlx::Error| error.as_database_error().unwrap().code().unwrap_or_default().into_owned();
    let join =
        |tenant: &str, batch: &NewBatch| NewJob { batch_id: Some(batch.id), ..NewJob::of(&step("x")).tenant(tenant) };

    assert_eq!(code(enqueue(&db.pool, &join("t2", &theirs)).await.unwrap_err()), "23503");
    let two = [join("t1", &theirs), join("t2", &theirs)];
    assert_eq!(code(enqueue_many(&db.pool, &two).await.unwrap_err()), "23503");
    let members = [NewJob::of(&step("x")).tenant("t2")];
    assert_eq!(code(enqueue_batch(&db.pool, &of("t1"), &members).await.unwrap_err()), "23503");
    let then = Some(NewJob::of(&step("last")).tenant("t2"));
    let follow = NewBatch { then: then.clone(), ..of("t1") };
    assert_eq!(code(enqueue_batch(&db.pool, &follow, &[]).await.unwrap_err()), "42501");
    // The owner's own batch may have everybody's jobs.
    let everybody = NewBatch { tenant: None, ..batch() };
    let members = ["t1", "t2"].map(|tenant| NewJob::of(&step("x")).tenant(tenant));
    assert_eq!(enqueue_batch(&db.pool, &everybody, &members).await.unwrap().batch.size, 2);

    // From here on the caller is tenant t2.
    sqlx::query(
        "create or replace function queue.caller_tenant() returns text language sql stable as $$ select 't2' $$",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    assert_eq!(code(enqueue(&db.pool, &join("t2", &everybody)).await.unwrap_err()), "23503");
    assert_eq!(code(enqueue_batch(&db.pool, &of("t1"), &[]).await.unwrap_err()), "42501");
    assert_eq!(code(enqueue_batch(&db.pool, &NewBatch { then, ..batch() }, &[]).await.unwrap_err()), "42501");
    let across = NewJob { unique: Some(Unique::by("k").across_tenants()), ..NewJob::of(&step("last")) };
    assert_eq!(
        code(enqueue_batch(&db.pool, &NewBatch { then: Some(across), ..of("t2") }, &[]).await.unwrap_err()),
        "42501"
    );
    assert_eq!(enqueue_batch(&db.pool, &of("t2"), &[NewJob::of(&step("x"))]).await.unwrap().batch.size, 1);
    assert_eq!(find_batch(&db.pool, theirs.id, Some("t2")).await.unwrap(), None);
    db.close().await;
}

/// PLAT-18: what follows waits with its tenant, and a hold that comes while members end is not in their way.
#[tokio::test]
async fn what_follows_a_batch_of_a_held_tenant_is_held() {
    let db = database().await;
    let app = App::new(&db);
    let import = NewBatch { tenant: Some("t1".into()), ..batch() };
    put(&db, &import, &[does("member", Does::WaitAtGate)]).await;
    let worker = start(&db, &app, 1);
    app.entered.acquire().await.unwrap().forget();
    let mut tx = db.pool.begin().await.unwrap();
    hold_tenant(&mut tx, "t1").await.unwrap();
    app.gate.add_permits(1);
    db.until(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        1,
    )
    .await;
    tx.commit().await.unwrap();
    db.until("select count(*) from queue.jobs where held and args ->> 'name' = 'last'", 1).await;
    release_tenant(&mut db.pool.acquire().await.unwrap(), "t1").await.unwrap();
    db.until("select count(*) from queue.finished_jobs where args ->> 'name' = 'last'", 1).await;
    worker.stop().await;
    db.close().await;
}

/// PLAT-18: the members of many batches end in one statement, on two workers, while others are cancelled, with unique keys
/// that an enqueuer takes in an order of its own: nobody waits for ever, and nobody else is told of a deadlock.
#[tokio::test]
async fn many_batches_end_together_without_a_deadlock() {
    let db = database().await;
    let app = App::new(&db);
    let imports: Vec<NewBatch> = (0..20).map(|_| batch()).collect();
    let mut ids = Vec::new();
    for (n, import) in imports.iter().enumerate() {
        let then = |m: usize| vec![Step { unique: Some(format!("{}", 99 - m % 7)), ..step("next") }];
        let members: Vec<Step> = (0..20)
            .map(|m| Step { then: then(n + m), unique: Some(format!("{:02}-{n}", m)), ..step("member") })
            .collect();
        ids.extend(put(&db, import, &members).await);
    }
    let workers = [start(&db, &app, 8), start(&db, &app, 8)];
    let canceller = async {
        for id in ids.iter().rev().step_by(7) {
            cancel(&mut db.pool.acquire().await.unwrap(), *id, None, "no").await.unwrap();
        }
    };
    let enqueuer = async {
        for round in 0..20 {
            let jobs: Vec<NewJob> = (0..50)
                .map(|n| {
                    let key = if n % 2 == 0 { format!("{}", 92 + n % 8) } else { format!("{:02}-{}", n % 20, round) };
                    NewJob::of(&Step { unique: Some(key), ..step("other") })
                })
                .collect();
            enqueue_many(&db.pool, &jobs).await.unwrap();
        }
    };
    tokio::join!(canceller, enqueuer);
    db.until("select count(*) from queue.jobs", 0).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(db.count("select count(*) from queue.batches where finished_at is null").await, 0);
    assert_eq!((db.count(LAST).await, app.ran("last")), (20, 20));
    db.close().await;
}

/// PLAT-18: it holds the follow-up's key and wants the ending job's, while the worker holds that one and wants the other.
#[tokio::test]
async fn an_enqueuer_whose_keys_cross_a_follow_ups_does_not_notice() {
    let db = database().await;
    let app = App::new(&db);
    let unique = |name: &str| Step { unique: Some(name.into()), ..step(name) };
    let first = Step { does: Does::WaitAtGate, then: vec![unique("next")], ..unique("first") };
    let first = enqueue(&db.pool, &NewJob::of(&first)).await.unwrap().id;
    let worker = start(&db, &app, 1);
    app.entered.acquire().await.unwrap().forget();
    let mut tx = db.pool.begin().await.unwrap();
    let next = enqueue(&mut *tx, &NewJob::of(&unique("next"))).await.unwrap().id;
    app.gate.add_permits(1);
    db.until(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        1,
    )
    .await;

    let duplicate = enqueue(&mut *tx, &NewJob::of(&unique("first"))).await.unwrap();
    assert_eq!((duplicate.id, duplicate.duplicate), (first, true));
    tx.commit().await.unwrap();

    db.until("select count(*) from queue.jobs", 0).await;
    worker.stop().await;
    assert_eq!((get(&db, first).await.state, get(&db, next).await.state), (JobState::Completed, JobState::Completed));
    assert_eq!((app.ran("first"), app.ran("next")), (1, 1), "the follow-up was a duplicate by then");
    db.close().await;
}

/// PLAT-18
#[tokio::test]
async fn batches_are_listed_by_page_and_forgotten_a_week_after_they_finished() {
    let db = database().await;
    let mut made = Vec::new();
    for tenant in ["t1", "t2", "t1"] {
        let import = NewBatch { tenant: Some(tenant.into()), ..batch() };
        put(&db, &import, &[step("member")]).await;
        made.push(import.id);
    }
    let empty = NewBatch { then: None, ..batch() };
    put(&db, &empty, &[]).await;
    let list = async |filter: BatchFilter| -> Vec<Uuid> {
        batches(&db.pool, &BatchFilter { limit: 10, ..filter }).await.unwrap().iter().map(|batch| batch.id).collect()
    };
    let of = |tenant: &str| BatchFilter { tenant: Some(tenant.into()), ..BatchFilter::default() };
    assert_eq!(list(BatchFilter::default()).await, [empty.id, made[2], made[1], made[0]]);
    assert_eq!(list(of("t1")).await, [made[2], made[0]]);
    assert_eq!(list(BatchFilter { before: Some(made[2]), ..of("t1") }).await, [made[0]]);
    assert_eq!(list(BatchFilter { finished: Some(true), ..BatchFilter::default() }).await, [empty.id]);

    assert_eq!(db.count("select queue.prune_batches()").await, 0);
    sqlx::query("update queue.batches set finished_at = now() - '8 days'::interval where finished_at is not null")
        .execute(&db.pool)
        .await
        .unwrap();
    assert_eq!(db.count("select queue.prune_batches()").await, 1, "an unfinished one stays, however old");
    assert_eq!(list(BatchFilter::default()).await.len(), 3);
    db.close().await;
}
