//! The same thing done to many jobs: a plan, and exactly the plan.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use backroom_queue::{
    Ctx, DiscardOutcome, Job, JobRecord, JobResult, JobState, NewJob, RetryOutcome, Unique, Verdict, Worker,
    WorkerConfig,
    bulk::{self, Action, BulkError, BulkFilter, EffectShare, NewPlan, PLAN_AT_MOST, Plan, Share},
    cancel, discard, enqueue, enqueue_many, find, hold_tenant, registry, retry,
};
use chrono::{TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use support::Database;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Needs a permit to end.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Pass {}

impl Job for Pass {
    type App = Semaphore;
    const KIND: &'static str = "test.pass";

    async fn run(self, ctx: Ctx<Semaphore>) -> JobResult {
        ctx.app.acquire().await?.forget();
        Ok(Verdict::DONE)
    }
}

/// A worker that lets as many jobs end as `gate` has permits.
fn work(db: &Database, gate: &Arc<Semaphore>) -> impl AsyncFnOnce() + use<> {
    let stop = CancellationToken::new();
    let queues = BTreeMap::from([("default".to_owned(), 4)]);
    let config = WorkerConfig { queues, lease: Duration::from_secs(30), ..WorkerConfig::default() };
    let worker = Worker::new(db.pool.clone(), Arc::new(registry![Pass]), gate.clone(), config);
    let running = tokio::spawn(worker.run(stop.clone()));
    async move || {
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}

fn job(kind: &str) -> NewJob {
    NewJob::named(kind, json!({}))
}

fn of_kind(kind: &str) -> BulkFilter {
    BulkFilter { kind: Some(kind.to_owned()), ..BulkFilter::default() }
}

fn new(action: Action, filter: BulkFilter) -> NewPlan {
    NewPlan { action, filter, all: false, owner: None, reason: "by plan".to_owned() }
}

async fn plan(db: &Database, action: Action, filter: BulkFilter) -> Plan {
    bulk::plan(&mut db.pool.acquire().await.unwrap(), new(action, filter)).await.unwrap()
}

async fn apply(db: &Database, plan: &Plan) -> Plan {
    bulk::apply(&db.pool, plan.id, None, |_| {}).await.unwrap()
}

async fn put(db: &Database, jobs: &[NewJob]) -> Vec<Uuid> {
    enqueue_many(&db.pool, jobs).await.unwrap().into_iter().map(|enqueued| enqueued.id).collect()
}

async fn get(db: &Database, id: Uuid) -> JobRecord {
    find(&mut db.pool.acquire().await.unwrap(), id, None).await.unwrap().expect("the job exists")
}

async fn run(db: &Database, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&db.pool).await.unwrap();
}

/// Makes dead letters of the jobs.
async fn bury(db: &Database, ids: &[Uuid]) {
    for id in ids {
        let buried = discard(&mut db.pool.acquire().await.unwrap(), *id, None, "boom: no answer").await.unwrap();
        assert_eq!(buried, DiscardOutcome::Discarded);
    }
}

fn share(name: &str, jobs: u32) -> Share {
    Share { name: Some(name.to_owned()), jobs }
}

/// PLAT-23
#[tokio::test]
async fn a_plan_says_what_it_will_touch_and_touches_nothing() {
    let db = Database::new().await;
    let mut jobs: Vec<NewJob> = (0..12).map(|n| job("a").tenant(["acme", "bolt", "acme"][n % 3])).collect();
    jobs.push(job("a"));
    jobs.push(job("b").tenant("acme"));
    let ids = put(&db, &jobs).await;
    bury(&db, &ids[..13]).await;
    let planned = plan(&db, Action::Retry, of_kind("a")).await;
    assert_eq!((planned.jobs, planned.more, &planned.states[..]), (13, false, &[JobState::Discarded][..]));
    assert_eq!(planned.by_tenant, [share("acme", 8), share("bolt", 4), Share { name: None, jobs: 1 }]);
    assert_eq!((&planned.by_kind, &planned.by_state), (&vec![share("a", 13)], &vec![share("discarded", 13)]));
    let sample: Vec<Uuid> = planned.sample.iter().map(|sample| sample.id).collect();
    assert_eq!(sample, ids[..10], "the first ten, oldest first");
    assert_eq!(planned.sample[0].error.as_deref(), Some("boom: no answer"));
    let lasts = planned.expires_at - planned.created_at;
    assert_eq!((lasts, planned.applied.finished_at), (TimeDelta::hours(1), None));
    assert_eq!(db.count("select count(*) from queue.finished_jobs").await, 13);
    let found = bulk::find(&mut db.pool.acquire().await.unwrap(), planned.id, None).await.unwrap();
    assert_eq!(found, Some(planned));
    db.close().await;
}

/// PLAT-23
#[tokio::test]
async fn each_part_of_a_filter_narrows_it() {
    let db = Database::new().await;
    let now = Utc::now();
    let batch = Uuid::now_v7();
    let jobs = [
        job("a").tenant("acme"),
        job("a").tenant("bolt"),
        NewJob { queue: "mailers".into(), ..job("a") },
        job("b"),
        job("b").run_at(now + TimeDelta::hours(1)),
        job("a"),
    ];
    let ids = put(&db, &jobs).await;
    sqlx::query("update queue.jobs set batch_id = $1 where id = $2")
        .bind(batch)
        .bind(ids[1])
        .execute(&db.pool)
        .await
        .unwrap();
    run(&db, "update queue.jobs set created_at = created_at - interval '1 day' where queue = 'mailers'").await;
    sqlx::query(
        r#"update queue.jobs set errors = '[{"attempt": 1, "at": "2026-01-01T00:00:00Z", "error": "50% Lost", "worker": "w"}]'
           where id = $1"#,
    )
    .bind(ids[3])
    .execute(&db.pool)
    .await
    .unwrap();
    bury(&db, &ids[5..]).await;
    let filter = BulkFilter::default;
    for (filter, expected) in [
        (BulkFilter { tenant: Some("acme".into()), ..filter() }, vec![0]),
        (BulkFilter { kind: Some("b".into()), ..filter() }, vec![3, 4]),
        (BulkFilter { kind: Some("b".into()), state: Some(JobState::Scheduled), ..filter() }, vec![4]),
        (BulkFilter { queue: Some("mailers".into()), ..filter() }, vec![2]),
        (BulkFilter { state: Some(JobState::Available), ..filter() }, vec![0, 1, 2, 3]),
        (BulkFilter { error_contains: Some("50% lost".into()), ..filter() }, vec![3]),
        (BulkFilter { error_contains: Some("50_".into()), ..filter() }, vec![]),
        (BulkFilter { created_before: Some(now - TimeDelta::hours(1)), ..filter() }, vec![2]),
        (BulkFilter { created_after: Some(now - TimeDelta::hours(1)), ..filter() }, vec![0, 1, 3, 4]),
        (BulkFilter { batch_id: Some(batch), ..filter() }, vec![1]),
    ] {
        let planned = plan(&db, Action::Cancel, filter.clone()).await;
        let found: Vec<Uuid> = planned.sample.iter().map(|sample| sample.id).collect();
        let expected: Vec<Uuid> = expected.into_iter().map(|n: usize| ids[n]).collect();
        assert_eq!((found, planned.jobs as usize), (expected.clone(), expected.len()), "{filter:?}");
    }
    let by_reason = BulkFilter { error_contains: Some("NO ANSWER".into()), ..filter() };
    assert_eq!(plan(&db, Action::Retry, by_reason).await.jobs, 1);
    db.close().await;
}

/// PLAT-23
#[tokio::test]
async fn a_filter_that_says_nothing_is_refused_unless_it_is_meant() {
    let db = Database::new().await;
    put(&db, &[job("a").tenant("acme"), job("a")]).await;
    let mut conn = db.pool.acquire().await.unwrap();
    let nothing = new(Action::Cancel, BulkFilter::default());
    assert!(matches!(bulk::plan(&mut conn, nothing.clone()).await, Err(BulkError::NoFilter)));
    let own = NewPlan { owner: Some("acme".into()), ..nothing.clone() };
    assert!(matches!(bulk::plan(&mut conn, own.clone()).await, Err(BulkError::NoFilter)));
    assert_eq!(bulk::plan(&mut conn, NewPlan { all: true, ..own }).await.unwrap().jobs, 1);
    assert_eq!(bulk::plan(&mut conn, NewPlan { all: true, ..nothing }).await.unwrap().jobs, 2);
    let completed = BulkFilter { state: Some(JobState::Completed), ..BulkFilter::default() };
    let error = bulk::plan(&mut conn, new(Action::Retry, completed)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a job that is completed cannot be given to `retry`: only discarded, cancelled, retryable, scheduled"
    );
    drop(conn);
    db.close().await;
}

/// PLAT-13, PLAT-23
#[tokio::test]
async fn exactly_the_plan_is_applied() {
    let db = Database::new().await;
    let ids =
        put(&db, &vec![job("a"); 5].into_iter().map(|job| NewJob { id: Uuid::now_v7(), ..job }).collect::<Vec<_>>())
            .await;
    bury(&db, &ids).await;
    let planned = plan(&db, Action::Retry, of_kind("a")).await;
    let later = put(&db, &[job("a")]).await;
    bury(&db, &later).await;
    let done = apply(&db, &planned).await;
    assert_eq!((done.applied.done, done.applied.handled), (5, 5));
    assert!(done.applied.finished_at.is_some());
    for id in ids {
        let job = get(&db, id).await;
        assert_eq!((job.state, job.attempt, job.finished_at), (JobState::Available, 0, None));
    }
    assert_eq!(get(&db, later[0]).await.state, JobState::Discarded, "it came after the plan");
    db.close().await;
}

/// PLAT-23
#[tokio::test]
async fn what_changed_meanwhile_is_left_alone_and_counted_by_reason() {
    let db = Database::new().await;
    let keyed = |key: &str| NewJob { unique: Some(Unique::by(key)), ..job("a") };
    let ids = put(&db, &[job("a"), job("a"), job("a"), keyed("k"), job("a")]).await;
    bury(&db, &ids).await;
    let planned = plan(&db, Action::Retry, of_kind("a")).await;
    let mut conn = db.pool.acquire().await.unwrap();
    // One is retried by somebody else, one forgotten, one has a successor; one was retried and is cancelled by now.
    assert_eq!(retry(&mut conn, ids[0], None).await.unwrap(), RetryOutcome::Requeued);
    sqlx::query("delete from queue.finished_jobs where id = $1").bind(ids[1]).execute(&mut *conn).await.unwrap();
    assert!(!enqueue(&mut *conn, &keyed("k")).await.unwrap().duplicate);
    retry(&mut conn, ids[4], None).await.unwrap();
    cancel(&mut conn, ids[4], None, "enough").await.unwrap();
    drop(conn);
    let done = apply(&db, &planned).await.applied;
    assert_eq!((done.handled, done.done, done.changed, done.duplicate, done.gone), (5, 1, 2, 1, 1));
    assert_eq!(get(&db, ids[2]).await.state, JobState::Available);
    assert_eq!(get(&db, ids[3]).await.state, JobState::Discarded);
    assert_eq!(get(&db, ids[4]).await.state, JobState::Cancelled);
    db.close().await;
}

/// PLAT-6, PLAT-23
#[tokio::test]
async fn of_several_dead_letters_with_one_key_the_oldest_is_retried_and_holds_it() {
    let db = Database::new().await;
    let keyed = || NewJob { unique: Some(Unique::by("k")), ..job("a") };
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.extend(put(&db, &[keyed()]).await);
        bury(&db, &ids[ids.len() - 1..]).await;
    }
    let planned = plan(&db, Action::Retry, of_kind("a")).await;
    let done = apply(&db, &planned).await.applied;
    assert_eq!((done.done, done.duplicate), (1, 2));
    assert_eq!(get(&db, ids[0]).await.state, JobState::Available);
    let again = enqueue(&db.pool, &keyed()).await.unwrap();
    assert_eq!((again.id, again.duplicate), (ids[0], true));
    db.close().await;
}

/// PLAT-23; TEN-5 rests on this.
#[tokio::test]
async fn what_is_retried_for_a_tenant_on_hold_waits() {
    let db = Database::new().await;
    let ids = put(&db, &[job("a").tenant("acme"), job("a").tenant("bolt")]).await;
    bury(&db, &ids).await;
    let mut tx = db.pool.begin().await.unwrap();
    hold_tenant(&mut tx, "acme").await.unwrap();
    tx.commit().await.unwrap();
    let planned = plan(&db, Action::Retry, of_kind("a")).await;
    assert_eq!(apply(&db, &planned).await.applied.done, 2);
    assert_eq!((get(&db, ids[0]).await.held, get(&db, ids[1]).await.held), (true, false));
    db.close().await;
}

/// PLAT-13, PLAT-23
#[tokio::test]
async fn what_is_cancelled_or_discarded_goes_to_the_history_with_the_reason_and_frees_its_key() {
    let db = Database::new().await;
    for (action, state) in [(Action::Cancel, JobState::Cancelled), (Action::Discard, JobState::Discarded)] {
        let keyed = || NewJob { unique: Some(Unique::by("k")), ..job(action.as_str()) };
        let later = job(action.as_str()).run_at(Utc::now() + TimeDelta::hours(1));
        let ids = put(&db, &[keyed(), later]).await;
        let planned = plan(&db, action, of_kind(action.as_str())).await;
        assert_eq!(apply(&db, &planned).await.applied.done, 2);
        for id in ids {
            let job = get(&db, id).await;
            assert_eq!((job.state, job.reason.as_deref()), (state, Some("by plan")));
        }
        assert!(!enqueue(&db.pool, &keyed()).await.unwrap().duplicate);
    }
    db.close().await;
}

/// PLAT-13, PLAT-23
#[tokio::test]
async fn a_running_job_is_asked_to_stop_by_a_cancel_and_untouched_by_a_discard() {
    let db = Database::new().await;
    let ids = put(&db, &[job("a"), job("a")]).await;
    let discarding = plan(&db, Action::Discard, of_kind("a")).await;
    let cancelling = plan(&db, Action::Cancel, of_kind("a")).await;
    run(&db, "select queue.claim('default', 1, gen_random_uuid(), 30, 'w', '')").await;
    let done = apply(&db, &cancelling).await.applied;
    assert_eq!((done.done, done.requested, done.changed), (1, 1, 0));
    assert_eq!(db.count("select count(*) from queue.jobs where cancel_requested_at is not null").await, 1);
    let done = apply(&db, &discarding).await.applied;
    assert_eq!((done.done, done.changed), (0, 2), "one runs, one is cancelled");
    let mut conn = db.pool.acquire().await.unwrap();
    assert_eq!(discard(&mut conn, ids[0], None, "").await.unwrap(), DiscardOutcome::Running);
    assert_eq!(discard(&mut conn, ids[1], None, "").await.unwrap(), DiscardOutcome::AlreadyFinished);
    assert_eq!(discard(&mut conn, Uuid::now_v7(), None, "").await.unwrap(), DiscardOutcome::NotFound);
    drop(conn);
    db.close().await;
}

/// PLAT-23
#[tokio::test]
async fn a_second_apply_does_nothing_and_answers_the_first_result() {
    let db = Database::new().await;
    let ids = put(&db, &[job("a"), job("a")]).await;
    bury(&db, &ids).await;
    let planned = plan(&db, Action::Retry, of_kind("a")).await;
    let first = apply(&db, &planned).await;
    bury(&db, &ids).await;
    run(&db, "update queue.bulk_plans set expires_at = now()").await;
    let again = apply(&db, &planned).await;
    assert_eq!(again.applied, first.applied);
    assert_eq!(get(&db, ids[0]).await.state, JobState::Discarded, "nothing was done again");
    db.close().await;
}

/// PLAT-23
#[tokio::test]
async fn an_expired_plan_is_refused() {
    let db = Database::new().await;
    let ids = put(&db, &[job("a")]).await;
    let planned = plan(&db, Action::Cancel, of_kind("a")).await;
    run(&db, "update queue.bulk_plans set expires_at = now()").await;
    let error = bulk::apply(&db.pool, planned.id, None, |_| {}).await.unwrap_err();
    assert!(matches!(error, BulkError::Expired { handled: 0, jobs: 1, .. }), "{error}");
    assert_eq!(get(&db, ids[0]).await.state, JobState::Available);
    db.close().await;
}

/// PLAT-23, TEN-3
#[tokio::test]
async fn a_tenants_plan_finds_its_own_jobs_and_is_nobody_elses() {
    let db = Database::new().await;
    let ids = put(&db, &[job("a").tenant("acme"), job("a").tenant("bolt")]).await;
    let mut conn = db.pool.acquire().await.unwrap();
    // Whatever tenant it names.
    let filter = BulkFilter { tenant: Some("bolt".into()), ..of_kind("a") };
    let own = NewPlan { owner: Some("acme".into()), ..new(Action::Cancel, filter) };
    let planned = bulk::plan(&mut conn, own).await.unwrap();
    assert_eq!((planned.jobs, planned.sample[0].id), (1, ids[0]));
    let operators = bulk::plan(&mut conn, new(Action::Cancel, of_kind("a"))).await.unwrap();
    for (plan, owner) in [(&planned, "bolt"), (&operators, "acme")] {
        assert_eq!(bulk::find(&mut conn, plan.id, Some(owner)).await.unwrap(), None);
        let refused = bulk::apply(&db.pool, plan.id, Some(owner), |_| {}).await;
        assert!(matches!(refused, Err(BulkError::NotFound)));
    }
    assert_eq!(bulk::apply(&db.pool, planned.id, Some("acme"), |_| {}).await.unwrap().applied.done, 1);
    assert_eq!(get(&db, ids[1]).await.state, JobState::Available);
    drop(conn);
    db.close().await;
}

/// PLAT-23
#[tokio::test]
async fn a_plan_takes_the_oldest_hundred_thousand_and_says_that_there_are_more() {
    let db = Database::new().await;
    run(
        &db,
        "insert into queue.jobs (id, queue, kind, state, run_at, max_attempts, args)
         select ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'a', 'k', 'available', now(), 1, '{}'
         from generate_series(1, 100003) n",
    )
    .await;
    let planned = plan(&db, Action::Cancel, of_kind("k")).await;
    assert_eq!((planned.jobs, planned.more), (u32::try_from(PLAN_AT_MOST).unwrap(), true));
    let last = "select count(*) from queue.bulk_plans
                where job_ids[100000] = ('00000000-0000-7000-8000-' || lpad(to_hex(100000), 12, '0'))::uuid";
    assert_eq!(db.count(last).await, 1);
    db.close().await;
}

/// PLAT-23, PLAT-21
#[tokio::test]
async fn a_plan_tells_what_its_jobs_have_already_done_to_the_outside_world() {
    let db = Database::new().await;
    let ids = put(&db, &[job("a"), job("a"), job("b")]).await;
    bury(&db, &ids).await;
    run(
        &db,
        "create table if not exists queue.effects (
             id uuid primary key, tenant text, key text not null, kind text not null, job_id uuid not null,
             attempt integer not null, state text not null, unknown integer not null, keep_days smallint not null,
             outcome jsonb, ended_at timestamptz, expires_on date
         )",
    )
    .await;
    for (n, (job, state, unknown)) in
        [(ids[0], "done", 0), (ids[0], "done", 0), (ids[1], "intended", 1), (ids[2], "done", 0)].into_iter().enumerate()
    {
        sqlx::query(
            "insert into queue.effects (id, key, kind, job_id, attempt, state, unknown, keep_days, ended_at, expires_on)
             select gen_random_uuid(), $1, 'a', $2, 1, $3, $4, 7, case when $4 = 0 then now() end,
                    case when $4 = 0 then current_date end",
        )
        .bind(n.to_string())
        .bind(job)
        .bind(state)
        .bind(unknown)
        .execute(&db.pool)
        .await
        .unwrap();
    }
    let effects = |state: &str, effects| EffectShare { kind: "a".into(), state: state.into(), effects };
    assert_eq!(plan(&db, Action::Retry, of_kind("a")).await.effects, [effects("done", 2), effects("intended", 1)]);
    db.close().await;
}

/// PLAT-23: twenty thousand jobs, a worker that takes them from the other end, and two people who apply the plan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_planned_job_ends_once_while_workers_claim_them() {
    let db = Database::new().await;
    let jobs: Vec<NewJob> = (0_i16..20_000)
        .map(|n| {
            let unique = (n % 2 == 0).then(|| Unique::by(n));
            NewJob { unique, priority: n / 1_000, ..NewJob::of(&Pass {}) }.tenant(format!("t{}", n % 5))
        })
        .collect();
    for jobs in jobs.chunks(5_000) {
        put(&db, jobs).await;
    }
    let planned = plan(&db, Action::Cancel, of_kind(Pass::KIND)).await;
    assert_eq!(planned.jobs, 20_000);

    let gate = Arc::new(Semaphore::new(500));
    let stop = work(&db, &gate);
    db.until("select count(*) from queue.finished_jobs", 500).await;
    let mut heard = Vec::new();
    let (first, second) = tokio::join!(
        bulk::apply(&db.pool, planned.id, None, |plan| {
            heard.push(plan.applied.handled);
            gate.add_permits(500);
        }),
        bulk::apply(&db.pool, planned.id, None, |_| gate.add_permits(500)),
    );
    gate.add_permits(20_000);
    let (first, second) = (first.unwrap().applied, second.unwrap().applied);
    db.until("select count(*) from queue.jobs", 0).await;
    stop().await;

    assert_eq!(first, second);
    assert!(heard.is_sorted() && heard.last() == Some(&20_000), "{heard:?}");
    assert_eq!((first.handled, first.done + first.requested + first.changed), (20_000, 20_000));
    assert!(first.done >= 1_000 && first.requested + first.changed >= 500, "both had their share: {first:?}");
    assert_eq!(db.count("select count(distinct id) from queue.finished_jobs").await, 20_000);
    assert_eq!(db.count("select count(*) from queue.finished_jobs").await, 20_000);
    let by_plan = db.count("select count(*) from queue.finished_jobs where reason = 'by plan'").await;
    assert_eq!(by_plan, i64::from(first.done));
    assert_eq!(db.count("select count(*) from queue.unique_keys").await, 0);
    db.close().await;
}

/// PLAT-13, PLAT-23: the other way round, while a worker runs what comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_dead_letters_are_retried_and_run() {
    let db = Database::new().await;
    run(
        &db,
        "insert into queue.finished_jobs (id, queue, kind, tenant, state, priority, run_at, attempt, max_attempts, args, unique_key,
                errors, created_at, reason, expires_on)
         select gen_random_uuid(), 'default', 'test.pass', 't' || n % 7, 'discarded', 0, now(), 3, 3, '{}', 'test.pass||' || n,
                '[]', now(), 'boom', current_date + 7 from generate_series(1, 20000) n",
    )
    .await;
    let planned = plan(&db, Action::Retry, of_kind(Pass::KIND)).await;
    let stop = work(&db, &Arc::new(Semaphore::new(20_000)));
    assert_eq!(apply(&db, &planned).await.applied.done, 20_000);
    db.until("select count(*) from queue.finished_jobs where state = 'completed'", 20_000).await;
    stop().await;
    assert_eq!(db.count("select count(*) from queue.finished_jobs").await, 20_000);
    assert_eq!(db.count("select count(*) from queue.unique_keys").await, 0);
    db.close().await;
}
