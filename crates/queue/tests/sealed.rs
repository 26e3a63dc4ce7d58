//! Sealed kinds: what their jobs were given, left and said is nowhere in the database.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use backroom_queue::{
    Backoff, Ctx, Job, JobRecord, JobResult, JobState, NewBatch, NewJob, Outcome, Registry, SealedPlace, Sealer,
    Unique, Verdict, enqueue, enqueue_batch, find, in_sealed_job, registry, run_inline, scheduler::Schedules, testing,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use support::Database;
use uuid::Uuid;

const SECRET: &str = "planted-4711";

/// What handlers saw and hooks were told.
#[derive(Default)]
struct App {
    seen: Mutex<Vec<String>>,
}

impl App {
    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Keeps a secret.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keep {
    secret: String,
    #[serde(default)]
    does: Does,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Does {
    #[default]
    Done,
    Fail,
    Panic,
    Hang,
    Cancel,
    Discard,
    Follow,
}

fn keep(does: Does) -> Keep {
    Keep { secret: SECRET.into(), does }
}

impl Job for Keep {
    type App = App;
    const KIND: &'static str = "test.keep";
    const SEALED: bool = true;
    const MAX_ATTEMPTS: u32 = 2;
    const TIMEOUT: Duration = Duration::from_secs(1);

    fn backoff() -> Backoff {
        Backoff::fixed(Duration::from_secs(3600))
    }

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by_args(self))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        assert!(in_sealed_job());
        ctx.app.seen.lock().unwrap().push(self.secret.clone());
        let secret = &self.secret;
        match self.does {
            Does::Done => Verdict::done_with(json!({ "kept": secret })),
            Does::Fail => anyhow::bail!("{secret} did not work"),
            Does::Panic => panic!("{secret} panicked"),
            Does::Hang => std::future::pending().await,
            Does::Cancel => Ok(Verdict::Cancel(format!("{secret} is not needed"))),
            Does::Discard => Ok(Verdict::Discard(format!("{secret} never will"))),
            Does::Follow => {
                ctx.then(NewJob::of(&keep(Does::Done)));
                Ok(Verdict::DONE)
            }
        }
    }

    async fn discarded(self, ctx: Ctx<App>, reason: String) -> anyhow::Result<()> {
        ctx.app.seen.lock().unwrap().push(reason);
        Ok(())
    }
}

/// A cipher for tests: it has a key and binds to the place, and hides nothing from a cryptographer.
struct Toy(u8);

impl Toy {
    fn turn(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().map(|byte| byte ^ self.0).collect()
    }
}

impl Sealer for Toy {
    fn seal(&self, place: &SealedPlace<'_>, plain: &Value) -> anyhow::Result<String> {
        let bytes = self.turn(format!("{place:?}{plain}").as_bytes());
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn open(&self, place: &SealedPlace<'_>, sealed: &str) -> anyhow::Result<Value> {
        let bytes = (0..sealed.len()).step_by(2).map(|n| u8::from_str_radix(&sealed[n..n + 2], 16));
        let text = String::from_utf8(self.turn(&bytes.collect::<Result<Vec<_>, _>>()?)).unwrap_or_default();
        let plain = text.strip_prefix(&format!("{place:?}"));
        Ok(serde_json::from_str(plain.ok_or_else(|| anyhow::anyhow!("another key or place"))?)?)
    }

    fn index(&self, tenant: Option<&str>, kind: &str, key: &str) -> anyhow::Result<String> {
        let bytes = self.turn(format!("{tenant:?}{kind}{key}").as_bytes());
        Ok(bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn without_key() -> Arc<Registry<App>> {
    Arc::new(registry![Keep])
}

fn kinds_with(key: u8) -> Arc<Registry<App>> {
    Arc::new(registry![Keep].sealed_by(Arc::new(Toy(key))))
}

fn kinds() -> Arc<Registry<App>> {
    kinds_with(0x5a)
}

async fn put(db: &Database, job: &Keep) -> Uuid {
    let job = kinds().seal(NewJob::of(job).tenant("t1")).unwrap();
    enqueue(&db.pool, &job).await.unwrap().id
}

async fn drain(db: &Database, kinds: &Arc<Registry<App>>, app: &Arc<App>) -> Vec<(Uuid, Outcome)> {
    testing::drain(&db.pool, kinds, app.clone(), "default").await.unwrap()
}

async fn get(db: &Database, id: Uuid) -> JobRecord {
    find(&mut db.pool.acquire().await.unwrap(), id, None).await.unwrap().expect("the job exists")
}

/// Every row of the queue's tables, as text.
async fn every_row(db: &Database) -> String {
    sqlx::query_scalar(
        "select concat((select string_agg(j::text, ' ') from queue.jobs j),
                       (select string_agg(f::text, ' ') from queue.finished_jobs f),
                       (select string_agg(b::text, ' ') from queue.batches b),
                       (select string_agg(u::text, ' ') from queue.unique_keys u))",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap()
}

/// PLAT-16
#[tokio::test]
async fn arguments_and_result_are_stored_sealed_and_the_handler_sees_them() {
    let db = Database::new().await;
    let app = Arc::new(App::default());
    let id = put(&db, &keep(Does::Done)).await;
    let waiting = every_row(&db).await;
    let ran = drain(&db, &kinds(), &app).await;

    let job = get(&db, id).await;
    let rows = every_row(&db).await;
    assert_eq!((job.state, app.seen()), (JobState::Completed, vec![SECRET.to_owned()]));
    for text in [waiting, rows, format!("{ran:?}")] {
        assert!(text.contains("$sealed") && !text.contains(SECRET), "{text}");
    }
    let mut opened = job.clone();
    opened.open(&Toy(0x5a)).unwrap();
    assert_eq!((&opened.args["secret"], opened.result), (&json!(SECRET), Some(json!({ "kept": SECRET }))));
    assert!(job.clone().open(&Toy(1)).is_err());
    db.close().await;
}

/// PLAT-16
#[tokio::test]
async fn a_job_of_a_sealed_kind_is_not_stored_before_it_is_sealed_nor_after_it_was_changed() {
    let db = Database::new().await;
    let refused = enqueue(&db.pool, &NewJob::of(&keep(Does::Done))).await.unwrap_err().to_string();
    assert!(refused.contains("test.keep has not been sealed") && refused.contains("Registry::seal"), "{refused}");
    assert!(!refused.contains(SECRET));
    let sealed = || kinds().seal(NewJob::of(&keep(Does::Done)).tenant("t1")).unwrap();
    for changed in [
        sealed().tenant("t2"),
        NewJob { id: Uuid::now_v7(), ..sealed() },
        NewJob { unique: Some(Unique::by(SECRET)), ..sealed() },
    ] {
        let refused = enqueue(&db.pool, &changed).await.unwrap_err().to_string();
        assert!(refused.contains("was changed after it was sealed"), "{refused}");
    }
    let then = Some(NewJob::of(&keep(Does::Done)));
    assert!(enqueue_batch(&db.pool, &NewBatch { then, ..NewBatch::default() }, &[]).await.is_err());
    assert!(enqueue_batch(&db.pool, &NewBatch::default(), &[NewJob::of(&keep(Does::Done))]).await.is_err());
    assert!(without_key().seal(NewJob::of(&keep(Does::Done))).is_err());
    assert_eq!(
        db.count("select count(*) from queue.jobs").await + db.count("select count(*) from queue.batches").await,
        0
    );
    db.close().await;
}

/// PLAT-16, PLAT-5
#[tokio::test]
async fn what_a_handler_says_in_failing_is_sealed_and_its_hook_is_told_in_clear() {
    let db = Database::new().await;
    let app = Arc::new(App::default());
    let mut ids = Vec::new();
    for does in [Does::Fail, Does::Panic, Does::Discard, Does::Cancel, Does::Hang] {
        ids.push(put(&db, &keep(does)).await);
    }
    let mut outcomes = drain(&db, &kinds(), &app).await;
    testing::fast_forward(&db.pool).await.unwrap();
    outcomes.extend(drain(&db, &kinds(), &app).await);

    let told = format!("{}{outcomes:?}", every_row(&db).await);
    assert!(!told.contains(SECRET), "{told}");
    let states =
        [JobState::Discarded, JobState::Discarded, JobState::Discarded, JobState::Cancelled, JobState::Discarded];
    let expected = [
        "all 2 attempts failed; last: planted-4711 did not work",
        "all 2 attempts failed; last: panicked: planted-4711 panicked",
        "planted-4711 never will",
        "planted-4711 is not needed",
        "all 2 attempts failed; last: timed out after 1s",
    ];
    for ((id, state), reason) in ids.into_iter().zip(states).zip(expected) {
        let mut job = get(&db, id).await;
        if reason.contains("all 2") {
            assert!(job.reason.as_ref().unwrap().starts_with("all 2 attempts failed; last: "), "{:?}", job.reason);
        }
        job.open(&Toy(0x5a)).unwrap();
        assert_eq!((job.state, job.reason.as_deref()), (state, Some(reason)));
        let hook_was_told = app.seen().iter().any(|told| told == reason);
        assert_eq!(hook_was_told, state == JobState::Discarded, "{reason}: {:?}", app.seen());
    }
    db.close().await;
}

/// PLAT-16, PLAT-6
#[tokio::test]
async fn uniqueness_goes_by_a_blind_index() {
    let db = Database::new().await;
    let first = put(&db, &keep(Does::Done)).await;
    assert_eq!(put(&db, &keep(Does::Done)).await, first, "the same work");
    assert_ne!(put(&db, &Keep { secret: "other".into(), does: Does::Done }).await, first);
    let guess: Vec<String> = sqlx::query_scalar("select key from queue.unique_keys").fetch_all(&db.pool).await.unwrap();
    let plain = format!("{:?}", Unique::by_args(&keep(Does::Done)));
    let digest = plain.split("args:").nth(1).unwrap().get(..32).unwrap();
    assert!(
        guess.iter().all(|key| !key.contains(digest)),
        "who guesses the arguments could check the guess: {guess:?}"
    );
    db.close().await;
}

/// PLAT-16
#[tokio::test]
async fn a_job_waits_for_a_worker_that_has_its_key() {
    let db = Database::new().await;
    let app = Arc::new(App::default());
    let id = put(&db, &keep(Does::Done)).await;
    for (kinds, says) in [
        (without_key(), "test.keep is a sealed kind, and this worker has no sealer"),
        (kinds_with(1), "could not be opened: another key or place"),
        (kinds_with(1), "could not be opened: another key or place"),
        (kinds_with(1), "could not be opened: another key or place"),
    ] {
        let ran = drain(&db, &kinds, &app).await;
        assert!(matches!(&ran[..], [(_, Outcome::Retryable { .. })]), "{ran:?}");
        let job = get(&db, id).await;
        assert_eq!((job.state, job.attempt), (JobState::Retryable, 0), "it uses no attempt");
        assert!(job.errors.last().unwrap().error.contains(says), "{:?}", job.errors);
        testing::fast_forward(&db.pool).await.unwrap();
    }
    assert_eq!(get(&db, id).await.errors.len(), 2, "what repeats is kept once");
    assert!(app.seen().is_empty());

    drain(&db, &kinds(), &app).await;
    assert_eq!((get(&db, id).await.state, app.seen().len()), (JobState::Completed, 1));
    db.close().await;
}

/// PLAT-16
#[tokio::test]
async fn sealed_arguments_open_in_their_own_job_only() {
    let db = Database::new().await;
    let app = Arc::new(App::default());
    let (ours, theirs) = (put(&db, &keep(Does::Done)).await, Uuid::now_v7());
    sqlx::query(
        "insert into queue.jobs (id, queue, kind, tenant, state, run_at, max_attempts, args)
         select $2, queue, kind, 't2', state, run_at, max_attempts, args from queue.jobs where id = $1",
    )
    .bind(ours)
    .bind(theirs)
    .execute(&db.pool)
    .await
    .unwrap();
    drain(&db, &kinds(), &app).await;
    assert_eq!((get(&db, ours).await.state, get(&db, theirs).await.state), (JobState::Completed, JobState::Retryable));
    db.close().await;
}

/// PLAT-16, PLAT-18
#[tokio::test]
async fn follow_ups_and_what_follows_a_batch_are_sealed_too() {
    let db = Database::new().await;
    let app = Arc::new(App::default());
    let new = |does| NewJob::of(&keep(does)).tenant("t1");
    run_inline(&db.pool, &kinds(), app.clone(), new(Does::Follow), |_, _| {}).await.unwrap();
    let tenant = Some("t1".to_owned());
    let last = NewJob::of(&Keep { secret: format!("{SECRET} last"), does: Does::Done }).tenant("t1");
    let batch = NewBatch { tenant, then: Some(kinds().seal(last).unwrap()), ..NewBatch::default() };
    enqueue_batch(&db.pool, &batch, &[kinds().seal(new(Does::Cancel)).unwrap()]).await.unwrap();
    drain(&db, &kinds(), &app).await;
    assert_eq!(app.seen().len(), 4, "{:?}", app.seen());
    let rows = every_row(&db).await;
    assert!(!rows.contains(SECRET), "{rows}");
    assert_eq!(db.count("select count(*) from queue.finished_jobs where state = 'completed'").await, 3);
    db.close().await;
}

/// PLAT-16: rows from before their kind was sealed.
#[tokio::test]
async fn arguments_in_clear_still_run_and_leave_a_sealed_result() {
    let db = Database::new().await;
    let app = Arc::new(App::default());
    let old = NewJob::named("test.keep", json!({ "secret": SECRET }));
    let id = enqueue(&db.pool, &old).await.unwrap().id;
    drain(&db, &kinds(), &app).await;
    let job = get(&db, id).await;
    assert!(job.result.unwrap()["$sealed"].is_string());
    assert_eq!(job.state, JobState::Completed);
    db.close().await;
}

/// PLAT-16, PLAT-2
#[tokio::test]
async fn arguments_that_do_not_decode_are_not_quoted() {
    let db = Database::new().await;
    let refused = |args: Value| kinds().get("test.keep").unwrap().new_job(args).unwrap_err().to_string();
    let wrong = refused(json!({ "secret": SECRET, "does": SECRET }));
    assert!(wrong.contains("does") && !wrong.contains(SECRET), "{wrong}");
    assert!(refused(json!({})).contains("missing field `secret`"));

    let sealed = kinds().seal(NewJob::of(&keep(Does::Done)).tenant("t1")).unwrap();
    let place = SealedPlace { tenant: Some("t1"), job_id: sealed.id, part: "args" };
    let args = json!({ "$sealed": Toy(0x5a).seal(&place, &json!({ "secret": [SECRET] })).unwrap() });
    enqueue(&db.pool, &NewJob { args, ..sealed }).await.unwrap();
    drain(&db, &kinds(), &Arc::new(App::default())).await;
    let rows = every_row(&db).await;
    assert!(rows.contains("discarded") && !rows.contains(SECRET), "{rows}");
    db.close().await;
}

/// PLAT-16, CRON-1
#[test]
fn a_schedule_cannot_hold_the_arguments_of_a_sealed_kind() {
    let file = "[[schedule]]\nname = \"keep\"\ncron = \"0 9 * * *\"\nkind = \"test.keep\"\nargs = { secret = \"x\" }\n";
    let error = Schedules::parse(file, &kinds()).unwrap_err();
    assert_eq!(error.line, 4);
    assert!(error.message.contains("sealed kind"), "{error}");
}
