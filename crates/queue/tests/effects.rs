//! The effect ledger from outside: real PostgreSQL, worker processes that are killed, and another side that counts.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::anyhow;
use backroom_queue::{
    Answered, Backoff, CallError, Ctx, EffectAnswer, EffectFilter, EffectRecord, EffectState, Job, JobRecord,
    JobResult, JobState, NewJob, Reconciled, Registry, RetryAfter, RetryOutcome, Tried, Verdict, Worker, WorkerConfig,
    answer_effect, effect_id, effects, effects_done, effects_of, enqueue, find, find_effect, prune_effects, registry,
    retry,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use support::Database;
use tokio::{runtime::Runtime, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What the other side does with a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Answer,
    /// Says no; nothing happened.
    Refuse,
    /// Does it, and the line breaks before the answer.
    TakeAndBreak,
    /// Does it, and never answers.
    TakeAndHang,
    /// Never gets the call.
    Hang,
    /// Does it when the gate opens.
    WaitAtGate,
}

/// How an attempt goes on once it has the effect's outcome.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Fail,
    Hang,
    Discard,
}

/// The outside world, which outlives every worker.
struct App {
    /// Every call by its idempotency key, in order.
    calls: Mutex<Vec<Uuid>>,
    /// What happened, folded by idempotency key: how often each was taken.
    taken: Mutex<HashMap<Uuid, u32>>,
    /// For the calls to come; afterwards every call is answered.
    does: Mutex<VecDeque<Does>>,
    /// For the attempts to come; afterwards they are done.
    then: Mutex<VecDeque<Then>>,
    outcomes: Mutex<Vec<Value>>,
    asked: Mutex<Vec<Tried>>,
    /// What a rule finds out, if not what is true.
    found: Mutex<VecDeque<Reconciled<Value>>>,
    /// Somebody hangs.
    entered: Semaphore,
    gate: Semaphore,
    /// Holds attempts before the effect.
    door: Option<Semaphore>,
    /// For the random kills: steps until the process is killed in the middle of one.
    kill_in: Mutex<Option<u32>>,
}

impl App {
    fn new(does: &[Does], then: &[Then]) -> Arc<Self> {
        Arc::new(Self::scripted(does, then))
    }

    fn scripted(does: &[Does], then: &[Then]) -> Self {
        Self {
            calls: Mutex::default(),
            taken: Mutex::default(),
            does: Mutex::new(does.iter().copied().collect()),
            then: Mutex::new(then.iter().copied().collect()),
            outcomes: Mutex::default(),
            asked: Mutex::default(),
            found: Mutex::default(),
            entered: Semaphore::new(0),
            gate: Semaphore::new(0),
            door: None,
            kill_in: Mutex::default(),
        }
    }

    fn calls(&self) -> Vec<Uuid> {
        self.calls.lock().unwrap().clone()
    }

    /// Times that something happened, folded by key or not.
    fn happened(&self) -> (usize, u32) {
        let taken = self.taken.lock().unwrap();
        (taken.len(), taken.values().sum())
    }

    async fn hang<T>(&self) -> T {
        self.entered.add_permits(1);
        std::future::pending().await
    }

    /// A point in which the process may be killed.
    async fn step(&self) {
        let killed = {
            let mut left = self.kill_in.lock().unwrap();
            *left = left.map(|left| left.saturating_sub(1));
            *left == Some(0)
        };
        if killed {
            self.hang::<()>().await;
        }
        tokio::task::yield_now().await;
    }

    async fn serve(&self, key: Uuid) -> Result<Value, CallError> {
        self.calls.lock().unwrap().push(key);
        let does = self.does.lock().unwrap().pop_front().unwrap_or(Does::Answer);
        self.step().await;
        match does {
            Does::Refuse => return Err(CallError::not_done(anyhow!("the other side says no\0"))),
            Does::Hang => self.hang().await,
            Does::WaitAtGate => {
                self.entered.add_permits(1);
                self.gate.acquire().await.unwrap().forget();
            }
            Does::Answer | Does::TakeAndBreak | Does::TakeAndHang => {}
        }
        *self.taken.lock().unwrap().entry(key).or_default() += 1;
        self.step().await;
        match does {
            Does::TakeAndBreak => Err(anyhow!("the line broke"))?,
            Does::TakeAndHang => self.hang().await,
            _ => Ok(json!({ "receipt": key, "note": "a\0b" })),
        }
    }

    /// Whether it happened, as the other side would tell.
    fn find_out(&self, tried: Tried) -> Reconciled<Value> {
        let key = tried.idempotency_key;
        self.asked.lock().unwrap().push(tried);
        if let Some(found) = self.found.lock().unwrap().pop_front() {
            return found;
        }
        match self.taken.lock().unwrap().contains_key(&key) {
            true => Reconciled::Happened(json!({ "receipt": key, "note": "found" })),
            false => Reconciled::DidNotHappen,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum By {
    Never,
    Repeat(u32),
    Asking,
}

/// Has one effect.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pay {
    key: String,
    by: By,
}

impl Job for Pay {
    type App = App;
    const KIND: &'static str = "test.pay";
    const MAX_ATTEMPTS: u32 = 1000;

    fn backoff() -> Backoff {
        Backoff::fixed(Duration::from_millis(1))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let app = ctx.app.clone();
        if let Some(door) = &app.door {
            app.entered.add_permits(1);
            door.acquire().await?.forget();
        }
        app.step().await;
        let effect = ctx.effect(self.key);
        let effect = match self.by {
            By::Never => effect,
            By::Repeat(most) => effect.repeat(most),
            By::Asking => effect.reconcile(|tried| async {
                app.step().await;
                Ok(app.find_out(tried))
            }),
        };
        let outcome: Value = match effect.keep_days(1).call(|key| app.serve(key)).await {
            Ok(outcome) => outcome,
            Err(error) => return error.verdict(),
        };
        app.outcomes.lock().unwrap().push(outcome.clone());
        app.step().await;
        match app.then.lock().unwrap().pop_front() {
            Some(Then::Fail) => anyhow::bail!("something else failed"),
            Some(Then::Discard) => return Ok(Verdict::Discard("enough".to_owned())),
            Some(Then::Hang) => {}
            None => return Verdict::done_with(outcome),
        }
        app.hang().await
    }
}

/// A worker in a runtime of its own, which can be killed like a process: nothing of it runs on.
struct Process {
    name: String,
    runtime: Runtime,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Process {
    fn start(db: &Database, app: &Arc<App>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let name = format!("worker-{}", Uuid::now_v7());
        let options = (*db.pool.connect_options()).clone().application_name(&name);
        let (app, stop) = (app.clone(), CancellationToken::new());
        let task = runtime.spawn({
            let stop = stop.clone();
            async move {
                let pool = PgPoolOptions::new().max_connections(6).connect_lazy_with(options);
                let registry: Arc<Registry<App>> = Arc::new(registry![Pay]);
                let config = WorkerConfig {
                    queues: BTreeMap::from([("default".to_owned(), 12)]),
                    poll_interval: Duration::from_millis(20),
                    ..WorkerConfig::default()
                };
                Worker::new(pool, registry, app, config).run(stop).await.unwrap();
            }
        });
        Self { name, runtime, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.runtime.shutdown_background();
    }

    /// Kills it, and waits until the server has ended what it had under way; its leases run out at once, so that the next
    /// process may rescue.
    async fn kill(self, db: &Database) {
        self.runtime.shutdown_background();
        let sessions = "select count(*) from pg_stat_activity where application_name = $1";
        while sqlx::query_scalar::<_, i64>(sessions).bind(&self.name).fetch_one(&db.pool).await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
        outlive_leases(db).await;
    }
}

/// As if the leases of what runs had run out: a renewal that is under way no longer finds them. Nobody is taken for a poison
/// pill, however often it is killed.
async fn outlive_leases(db: &Database) {
    let sql = "update queue.jobs set lease = gen_random_uuid(), lease_until = now() - interval '1 s', crashes = 0
               where state = 'running'";
    sqlx::query(sql).execute(&db.pool).await.unwrap();
}

async fn put(db: &Database, key: &str, by: By) -> Uuid {
    enqueue(&db.pool, &NewJob::of(&Pay { key: key.to_owned(), by }).tenant("acme")).await.unwrap().id
}

async fn get(db: &Database, id: Uuid) -> JobRecord {
    find(&mut db.pool.acquire().await.unwrap(), id, None).await.unwrap().expect("the job exists")
}

async fn ledger(db: &Database, key: &str) -> EffectRecord {
    find_effect(&db.pool, effect_id(Some("acme"), key), None).await.unwrap().expect("the effect is in the ledger")
}

async fn entered(app: &App) {
    tokio::time::timeout(Duration::from_secs(30), app.entered.acquire()).await.unwrap().unwrap().forget();
}

const FINISHED: &str = "select count(*) from queue.finished_jobs";

/// PLAT-21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_happens_once_across_retries_a_rescue_and_the_replay_of_a_dead_letter() {
    let db = Database::new().await;
    let app = App::new(&[], &[Then::Fail, Then::Fail, Then::Hang, Then::Discard]);
    let id = put(&db, "pay:1", By::Never).await;

    let first = Process::start(&db, &app);
    entered(&app).await;
    first.kill(&db).await;
    let second = Process::start(&db, &app);
    db.until(FINISHED, 1).await;
    assert_eq!(get(&db, id).await.state, JobState::Discarded);
    let replayed = retry(&mut db.pool.acquire().await.unwrap(), id, None).await.unwrap();
    assert_eq!(replayed, RetryOutcome::Requeued);
    db.until("select count(*) from queue.finished_jobs where state = 'completed'", 1).await;
    let other = put(&db, "pay:1", By::Never).await;
    db.until(FINISHED, 2).await;
    second.stop().await;

    assert_eq!(app.calls(), [effect_id(Some("acme"), "pay:1")]);
    let outcomes = app.outcomes.lock().unwrap().clone();
    assert_eq!(outcomes.len(), 6, "four attempts that ended, the replay, and another job of the same key");
    assert_eq!(outcomes[1], json!({ "receipt": app.calls()[0], "note": "a\u{fffd}b" }));
    assert!(outcomes[1..].iter().all(|outcome| *outcome == outcomes[1]));
    let effect = ledger(&db, "pay:1").await;
    assert_eq!((effect.state, effect.calls, effect.unknown, effect.job_id), (EffectState::Done, 1, 0, id));
    assert_eq!(effects_done(&db.pool, &[id, other]).await.unwrap(), 1);
    db.close().await;
}

/// PLAT-21: killed before the call reached anybody, and after it did, under each rule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_in_between_the_effect_s_own_rule_decides() {
    let db = Database::new().await;
    for (killed, by, calls, taken, ends) in [
        (Does::Hang, By::Never, 1, 0, JobState::Discarded),
        (Does::TakeAndHang, By::Never, 1, 1, JobState::Discarded),
        (Does::Hang, By::Repeat(3), 2, 1, JobState::Completed),
        (Does::TakeAndHang, By::Repeat(3), 2, 2, JobState::Completed),
        (Does::Hang, By::Asking, 2, 1, JobState::Completed),
        (Does::TakeAndHang, By::Asking, 1, 1, JobState::Completed),
    ] {
        let app = App::new(&[killed], &[]);
        let key = format!("pay:{killed:?}:{by:?}");
        let id = put(&db, &key, by).await;
        let first = Process::start(&db, &app);
        entered(&app).await;
        assert_eq!(ledger(&db, &key).await.state, EffectState::Intended, "{key}");
        first.kill(&db).await;
        assert_eq!(ledger(&db, &key).await.state, EffectState::Unknown, "{key}");
        let second = Process::start(&db, &app);
        db.until("select count(*) from queue.jobs", 0).await;
        second.stop().await;

        let job = get(&db, id).await;
        assert_eq!(job.state, ends, "{key}: {:?}", job.reason);
        assert_eq!((app.calls().len(), app.happened().1), (calls, taken), "{key}");
        assert_eq!(app.calls().iter().collect::<HashSet<_>>().len(), 1, "{key}: one idempotency key");
        let effect = ledger(&db, &key).await;
        assert_eq!(effects_of(&db.pool, id).await.unwrap().len(), 1);
        match by {
            By::Never => {
                assert!(job.reason.unwrap().contains("the worker was lost"));
                assert_eq!((effect.state, effect.unknown, effect.job_unfinished), (EffectState::Unknown, 1, false));
            }
            _ => assert_eq!((effect.state, effect.unknown), (EffectState::Done, 0), "{key}"),
        }
        let asked = app.asked.lock().unwrap();
        assert!(asked.iter().all(|tried| tried.idempotency_key == effect.id && tried.unknown == 1), "{asked:?}");
        assert_eq!(asked.len(), usize::from(by == By::Asking));
    }
    db.close().await;
}

/// PLAT-21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_is_taken_back_and_the_next_attempt_calls_anew() {
    let db = Database::new().await;
    let app = App::new(&[Does::Refuse, Does::Refuse], &[]);
    let id = put(&db, "pay:1", By::Never).await;

    let worker = Process::start(&db, &app);
    db.until(FINISHED, 1).await;
    worker.stop().await;

    let job = get(&db, id).await;
    assert_eq!((job.state, job.errors.len()), (JobState::Completed, 2), "{:?}", job.reason);
    assert!(job.errors[0].error.contains("it did not happen: the other side says no"), "{:?}", job.errors);
    assert_eq!((app.calls().len(), app.happened()), (3, (1, 1)));
    assert_eq!((ledger(&db, "pay:1").await.state, ledger(&db, "pay:1").await.calls), (EffectState::Done, 3));
    db.close().await;
}

/// PLAT-21: a refusal after an unknown outcome says nothing about the call before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_outcomes_are_bounded_and_then_a_person_answers() {
    let db = Database::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let app = App::new(&[Does::TakeAndBreak, Does::Refuse, Does::TakeAndBreak, Does::TakeAndBreak], &[]);
    let id = put(&db, "pay:1", By::Repeat(3)).await;
    let worker = Process::start(&db, &app);
    db.until(FINISHED, 1).await;

    let job = get(&db, id).await;
    assert_eq!((job.state, app.calls().len()), (JobState::Discarded, 4));
    let reason = job.reason.unwrap();
    assert!(reason.contains("3 calls of effect") && reason.contains("the line broke"), "{reason}");
    let effect = ledger(&db, "pay:1").await;
    assert_eq!((effect.state, effect.calls, effect.unknown), (EffectState::Unknown, 4, 3));

    // A replay alone calls nobody.
    retry(&mut conn, id, None).await.unwrap();
    db.until(FINISHED, 1).await;
    assert_eq!((get(&db, id).await.state, app.calls().len()), (JobState::Discarded, 4));

    let unknown = EffectFilter { state: Some(EffectState::Unknown), limit: 10, ..EffectFilter::default() };
    let listed = effects(&db.pool, &unknown).await.unwrap();
    assert_eq!(listed.iter().map(|e| e.id).collect::<Vec<_>>(), [effect.id]);
    let did_not = EffectAnswer::DidNotHappen;
    for (tenant, said) in [(Some("other"), Answered::NotFound), (Some("acme"), Answered::Yes)] {
        assert_eq!(answer_effect(&mut conn, effect.id, tenant, &did_not, "boss").await.unwrap(), said);
    }
    let known = answer_effect(&mut conn, effect.id, None, &EffectAnswer::Happened(None), "boss").await.unwrap();
    assert_eq!(known, Answered::Known(EffectState::Refused));
    let effect = ledger(&db, "pay:1").await;
    assert_eq!((effect.state, effect.answered_by.as_deref()), (EffectState::Refused, Some("boss")));
    retry(&mut conn, id, None).await.unwrap();
    db.until("select count(*) from queue.finished_jobs where state = 'completed'", 1).await;
    assert_eq!((app.calls().len(), ledger(&db, "pay:1").await.state), (5, EffectState::Done));

    // The other answer: whoever asks gets it.
    app.does.lock().unwrap().push_back(Does::TakeAndBreak);
    let id = put(&db, "pay:2", By::Never).await;
    db.until(FINISHED, 2).await;
    let receipt = EffectAnswer::Happened(Some(json!({ "receipt": "from the bank's statement" })));
    let effect = ledger(&db, "pay:2").await.id;
    assert_eq!(answer_effect(&mut conn, effect, None, &receipt, "boss").await.unwrap(), Answered::Yes);
    retry(&mut conn, id, None).await.unwrap();
    db.until("select count(*) from queue.finished_jobs where state = 'completed'", 2).await;
    worker.stop().await;
    assert_eq!(get(&db, id).await.result, Some(json!({ "receipt": "from the bank's statement" })));
    assert_eq!(app.calls().len(), 6);
    drop(conn);
    db.close().await;
}

/// PLAT-21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_jobs_with_one_key_the_second_waits_and_gets_the_first_one_s_outcome() {
    let db = Database::new().await;
    let app = App::new(&[Does::WaitAtGate], &[]);
    let worker = Process::start(&db, &app);
    let first = put(&db, "pay:1", By::Repeat(9)).await;
    entered(&app).await;
    let second = put(&db, "pay:1", By::Repeat(9)).await;
    db.until("select count(*) from queue.jobs where state = 'scheduled' and attempt = 0", 1).await;
    let mut conn = db.pool.acquire().await.unwrap();
    let answer = answer_effect(&mut conn, ledger(&db, "pay:1").await.id, None, &EffectAnswer::DidNotHappen, "boss");
    assert_eq!(answer.await.unwrap(), Answered::InCall);

    app.gate.add_permits(1);
    db.until(FINISHED, 1).await;
    retry(&mut conn, second, None).await.unwrap();
    db.until(FINISHED, 2).await;
    worker.stop().await;

    assert_eq!((app.calls().len(), app.happened()), (1, (1, 1)));
    assert_eq!(get(&db, second).await.result.unwrap()["receipt"], get(&db, first).await.result.unwrap()["receipt"]);
    drop(conn);
    db.close().await;
}

/// PLAT-21, PLAT-11: a worker that was stopped beyond its lease in the middle of its call, and goes on after its successor came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_without_its_lease_has_done_is_recorded_and_what_it_has_not_begun_is_not_done() {
    let db = Database::new().await;
    let app = App::new(&[Does::WaitAtGate], &[]);
    let id = put(&db, "pay:1", By::Never).await;
    let zombie = Process::start(&db, &app);
    entered(&app).await;
    outlive_leases(&db).await;
    let successor = Process::start(&db, &app);
    db.until(FINISHED, 1).await;
    assert_eq!(get(&db, id).await.state, JobState::Discarded, "the successor repeats nothing");
    assert_eq!((app.calls().len(), ledger(&db, "pay:1").await.state), (1, EffectState::Unknown));
    app.gate.add_permits(1);
    db.until("select count(*) from queue.effects where state = 'done'", 1).await;
    retry(&mut db.pool.acquire().await.unwrap(), id, None).await.unwrap();
    db.until("select count(*) from queue.finished_jobs where state = 'completed'", 1).await;
    zombie.stop().await;
    successor.stop().await;
    assert_eq!((app.calls().len(), app.happened()), (1, (1, 1)));

    let app = Arc::new(App { door: Some(Semaphore::new(0)), ..App::scripted(&[], &[]) });
    let id = put(&db, "pay:2", By::Repeat(9)).await;
    let zombie = Process::start(&db, &app);
    entered(&app).await;
    outlive_leases(&db).await;
    let door = app.door.as_ref().unwrap();
    door.add_permits(1);
    // It finds its lease gone, and ends without a call; the job is rescued, and its next attempt waits at the door.
    entered(&app).await;
    assert_eq!(app.calls().len(), 0);
    door.add_permits(1);
    db.until(FINISHED, 2).await;
    zombie.stop().await;
    assert_eq!((get(&db, id).await.state, app.calls().len()), (JobState::Completed, 1));
    db.close().await;
}

/// PLAT-21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_cannot_tell_yet_is_asked_again_and_nothing_is_called_meanwhile() {
    let db = Database::new().await;
    let app = App::new(&[Does::TakeAndBreak], &[]);
    app.found.lock().unwrap().extend([Reconciled::Unknown, Reconciled::Unknown]);
    let id = put(&db, "pay:1", By::Asking).await;

    let worker = Process::start(&db, &app);
    db.until(FINISHED, 1).await;
    worker.stop().await;

    let job = get(&db, id).await;
    assert_eq!(job.result.unwrap()["note"], "found");
    assert_eq!((app.calls().len(), app.asked.lock().unwrap().len(), job.errors.len()), (1, 3, 3));
    assert!(app.asked.lock().unwrap().iter().all(|tried| tried.error.as_deref() == Some("the line broke")));
    assert_eq!(ledger(&db, "pay:1").await.calls, 1);
    db.close().await;
}

/// PLAT-21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_belongs_to_its_tenant_and_is_forgotten_in_its_time_unless_it_is_unknown() {
    let db = Database::new().await;
    let app = App::new(&[], &[]);
    let worker = Process::start(&db, &app);
    let job = |key: &str| NewJob::of(&Pay { key: key.to_owned(), by: By::Never });
    for new in [job("pay:1"), job("pay:1").tenant("acme"), job("pay:1").tenant("globex")] {
        enqueue(&db.pool, &new).await.unwrap();
    }
    db.until(FINISHED, 3).await;
    enqueue(&db.pool, &job("pay:1")).await.unwrap();
    db.until(FINISHED, 4).await;
    assert_eq!((app.calls().len(), app.happened()), (3, (3, 3)));
    app.does.lock().unwrap().push_back(Does::TakeAndBreak);
    put(&db, "pay:2", By::Never).await;
    db.until(FINISHED, 5).await;

    let page = async |tenant: Option<&str>, before| {
        let filter = EffectFilter { tenant: tenant.map(str::to_owned), before, limit: 3, ..EffectFilter::default() };
        effects(&db.pool, &filter).await.unwrap()
    };
    let first = page(None, None).await;
    let second = page(None, first.last().map(|last| (last.job_id, last.id))).await;
    assert_eq!((first.len(), second.len()), (3, 1));
    assert!(first.iter().chain(&second).is_sorted_by(|a, b| a.job_id > b.job_id));
    assert_eq!(page(Some("globex"), None).await.len(), 1);

    assert_eq!(prune_effects(&db.pool).await.unwrap(), 0);
    sqlx::query("update queue.effects set expires_on = expires_on - 2").execute(&db.pool).await.unwrap();
    assert_eq!(prune_effects(&db.pool).await.unwrap(), 3);
    assert_eq!(db.count("select count(*) from queue.effects where key = 'pay:2'").await, 1);
    enqueue(&db.pool, &job("pay:1")).await.unwrap();
    db.until(FINISHED, 6).await;
    worker.stop().await;
    assert_eq!(app.happened(), (4, 5), "a new effect to the ledger, the same to who folds equal keys");
    db.close().await;
}

/// A refusal with a time is kept, whether it comes from the call or from the ledger.
#[test]
fn a_wait_is_found_in_the_error_s_chain() {
    let wait = RetryAfter { after: Duration::from_secs(7), source: None };
    let error: anyhow::Error = backroom_queue::EffectError::NotDone(anyhow::Error::new(wait).context("busy")).into();
    let found = error.chain().find_map(|cause| cause.downcast_ref::<RetryAfter>());
    assert_eq!(found.unwrap().after, Duration::from_secs(7));
}

/// PLAT-21: hundreds of kills, in the middle of calls and at any other moment. Nothing happens twice where the rule can know;
/// nothing is repeated in silence where it cannot; and everything ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_points_no_effect_happens_twice_and_none_is_repeated_in_silence() {
    const KILLS: u32 = 60;
    const AT_ONCE: u32 = 4; // of each rule
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let db = Database::new().await;
    let app = App::new(&[], &[]);
    let mut jobs = Vec::new();
    let mut in_the_middle = 0;
    for round in 0..KILLS {
        for n in 0..AT_ONCE {
            for by in [By::Never, By::Repeat(1_000_000), By::Asking] {
                let key = format!("pay:{round}:{n}:{by:?}");
                jobs.push((put(&db, &key, by).await, key, by));
            }
        }
        // Either the process is killed once so many steps are taken, when every attempt has come to its next step, or at some
        // moment.
        let steps = random.random_bool(0.8).then(|| random.random_range(1..60));
        *app.kill_in.lock().unwrap() = steps;
        let process = Process::start(&db, &app);
        let mut hung = async || {
            entered(&app).await;
            tokio::time::sleep(Duration::from_micros(random.random_range(0..30_000))).await;
        };
        match steps {
            Some(_) => tokio::select! {
                () = hung() => in_the_middle += 1 + app.entered.available_permits(),
                () = db.until("select count(*) from queue.jobs", 0) => {}
            },
            None => tokio::time::sleep(Duration::from_micros(random.random_range(0..80_000))).await,
        }
        process.kill(&db).await;
        *app.kill_in.lock().unwrap() = None;
        while let Ok(permit) = app.entered.try_acquire() {
            permit.forget();
        }
    }
    let process = Process::start(&db, &app);
    db.until("select count(*) from queue.jobs", 0).await;
    process.stop().await;

    let calls = app.calls();
    let taken = app.taken.lock().unwrap().clone();
    let (mut given_up, mut again) = (0, 0);
    for (id, key, by) in &jobs {
        let effect = effect_id(Some("acme"), key);
        let called = calls.iter().filter(|call| **call == effect).count();
        let taken = taken.get(&effect).copied().unwrap_or_default();
        let (job, known) = (get(&db, *id).await, ledger(&db, key).await);
        match (by, job.state) {
            // One effect, folded by its one key, however often it was called.
            (By::Repeat(_), JobState::Completed) => assert!(taken >= 1 && known.state == EffectState::Done, "{key}"),
            // The rule asked: not even the other side's folding was needed.
            (By::Asking, JobState::Completed) => assert!(taken == 1 && known.state == EffectState::Done, "{key}"),
            (By::Never, JobState::Completed) => assert!((called, taken) == (1, 1), "{key}"),
            (By::Never, JobState::Discarded) => {
                assert!(called <= 1 && taken <= 1 && known.state == EffectState::Unknown, "{key}: {known:?}");
                given_up += 1;
            }
            (_, state) => panic!("{key} by {by:?} ended {state}: {:?}", job.reason),
        }
        again += called.saturating_sub(1);
    }
    assert_eq!(taken.len(), calls.iter().filter(|call| taken.contains_key(call)).collect::<HashSet<_>>().len());
    println!(
        "{KILLS} kills, {in_the_middle} attempts in the middle of a step; {} effects, {again} calls repeated, {given_up} left for \
         a person",
        jobs.len()
    );
    assert!(in_the_middle > 100 && again > 0 && given_up > 0, "the kills hit nothing");
    db.close().await;
}
