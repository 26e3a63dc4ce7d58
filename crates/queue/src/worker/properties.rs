//! Random histories of a queue, step by step on real PostgreSQL and on a reference of a hundred lines, which must agree after
//! each step: on every job's state, attempts and crashes, and on which outcomes are accepted.

use std::{collections::BTreeMap, time::Duration};

use proptest::{prelude::*, test_runner::TestRunner};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    claim::{self, Claimed, Place},
    keeper,
    record::{self, Ended, Outcome},
};
use crate::{
    CancelOutcome, JobState, NewJob, RetryOutcome, Unique, cancel, enqueue, hold_tenant, pause, release_tenant, resume,
    retry,
};

#[path = "../../tests/support/mod.rs"]
mod support;

const MAX_ATTEMPTS: u32 = 3;
/// The unit of time. Real time that passes during a test is nothing beside it.
const HOUR: Duration = Duration::from_secs(3600);

/// What can happen. Indexes pick a job, or a claim that was ever made, modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    Enqueue { tenant: usize, priority: i16, hours: u32, key: Option<u8> },
    Claim { limit: usize },
    Begin { claim: usize },
    End { claim: usize, outcome: Outcome },
    Cancel { job: usize },
    Retry { job: usize },
    Pause,
    Resume,
    Hold { tenant: usize },
    Release { tenant: usize },
    HoursPass { hours: u32 },
    Promote,
    Rescue,
}

const TENANTS: [Option<&str>; 3] = [None, Some("a"), Some("b")];

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        3 => Just(Outcome::Completed { result: None }),
        3 => (0..3u32).prop_map(|hours| Outcome::Retryable { error: "it failed".into(), wait: HOUR * hours }),
        1 => (1..3u32).prop_map(|hours| Outcome::Snoozed { wait: HOUR * hours }),
        1 => Just(Outcome::Cancelled { reason: "no".into() }),
        1 => Just(Outcome::Discarded { reason: "never".into(), error: None }),
        1 => Just(Outcome::Released),
    ];
    prop_oneof![
        6 => (0..3usize, 0..2i16, prop_oneof![3 => Just(0), 1 => 1..4u32], proptest::option::weighted(0.3, 0..3u8))
            .prop_map(|(tenant, priority, hours, key)| Step::Enqueue { tenant, priority, hours, key }),
        6 => (1..4usize).prop_map(|limit| Step::Claim { limit }),
        3 => any::<usize>().prop_map(|claim| Step::Begin { claim }),
        8 => (any::<usize>(), outcome).prop_map(|(claim, outcome)| Step::End { claim, outcome }),
        2 => any::<usize>().prop_map(|job| Step::Cancel { job }),
        2 => any::<usize>().prop_map(|job| Step::Retry { job }),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => (1..3usize).prop_map(|tenant| Step::Hold { tenant }),
        1 => (1..3usize).prop_map(|tenant| Step::Release { tenant }),
        3 => (1..3u32).prop_map(|hours| Step::HoursPass { hours }),
        4 => Just(Step::Promote),
        3 => Just(Step::Rescue),
    ]
}

/// A job as the reference keeps it. Times are hours since the beginning; a step takes no time.
#[derive(Clone, Debug)]
struct Job {
    tenant: Option<&'static str>,
    priority: i16,
    key: Option<String>,
    state: JobState,
    run_at: u32,
    attempt: i32,
    crashes: i16,
    /// The claim that it runs under, and when that runs out.
    lease: Option<(Uuid, u32)>,
    begun: bool,
}

#[derive(Default)]
struct Reference {
    now: u32,
    paused: bool,
    held: Vec<&'static str>,
    jobs: BTreeMap<Uuid, Job>,
    /// Every claim that was ever made, also those that were lost since.
    claims: Vec<Claimed>,
}

impl Reference {
    fn held(&self, job: &Job) -> bool {
        job.tenant.is_some_and(|tenant| self.held.contains(&tenant))
    }

    fn holder_of(&self, key: &str) -> Option<Uuid> {
        let holds = |job: &Job| job.key.as_deref() == Some(key) && !job.state.is_finished();
        self.jobs.iter().find(|(_, job)| holds(job)).map(|(id, _)| *id)
    }

    fn claimable(&self) -> Vec<Uuid> {
        let free = |job: &Job| !self.paused && job.state == JobState::Available && !self.held(job);
        self.jobs.iter().filter(|(_, job)| free(job)).map(|(id, _)| *id).collect()
    }

    /// The claimed job, if this claim's lease is still the one that counts.
    fn current(&mut self, claim: &Claimed) -> Option<&mut Job> {
        let job = self.jobs.get_mut(&claim.id)?;
        (job.lease.map(|(lease, _)| lease) == Some(claim.lease)).then_some(job)
    }
}

/// Does the step on both sides and compares what they answer.
async fn take(db: &PgPool, reference: &mut Reference, step: Step) {
    let lease = HOUR * 2;
    let pick = |index: usize, length: usize| (length > 0).then(|| index % length);
    match step {
        Step::Enqueue { tenant, priority, hours, key } => {
            let tenant = TENANTS[tenant];
            let run_at = (hours > 0).then(|| chrono::Utc::now() + HOUR * hours);
            let unique = key.map(Unique::by);
            let job = NewJob {
                priority,
                run_at,
                unique,
                max_attempts: MAX_ATTEMPTS,
                ..NewJob::named("x", serde_json::json!({}))
            };
            let job = NewJob { tenant: tenant.map(str::to_owned), ..job };
            let key = key.map(|key| format!("{}|{key}", tenant.unwrap_or_default()));
            let answer = enqueue(db, &job).await.unwrap();
            match key.as_deref().and_then(|key| reference.holder_of(key)) {
                Some(holder) => assert_eq!((answer.id, answer.duplicate), (holder, true)),
                None => {
                    assert_eq!((answer.id, answer.duplicate), (job.id, false));
                    let state = if hours > 0 { JobState::Scheduled } else { JobState::Available };
                    let (run_at, attempt, crashes, lease, begun) = (reference.now + hours, 0, 0, None, false);
                    let new = Job { tenant, priority, key, state, run_at, attempt, crashes, lease, begun };
                    reference.jobs.insert(job.id, new);
                }
            }
        }
        Step::Claim { limit } => {
            let claimed = claim::batch(db, ("default", &mut Place::default()), limit, lease, "test").await.unwrap();
            let mut open = reference.claimable();
            assert_eq!(claimed.len(), limit.min(open.len()), "a claim takes as many as it may");
            for claim in &claimed {
                let best = open.iter().map(|id| reference.jobs[id].priority).max();
                assert!(
                    open.contains(&claim.id) && best == Some(reference.jobs[&claim.id].priority),
                    "the highest first"
                );
                open.retain(|id| *id != claim.id);
                let until = reference.now + 2;
                let job = reference.jobs.get_mut(&claim.id).unwrap();
                job.state = JobState::Running;
                job.attempt += 1;
                job.lease = Some((claim.lease, until));
                job.begun = false;
                assert_eq!((claim.attempt, claim.crashes), (job.attempt, job.crashes));
            }
            reference.claims.extend(claimed);
        }
        Step::Begin { claim } => {
            let Some(index) = pick(claim, reference.claims.len()) else { return };
            let claim = reference.claims[index].clone();
            let marked = keeper::mark_rows(db, &[(claim.id, claim.lease, 0.0)]).await.unwrap().len();
            let job = reference.current(&claim);
            assert_eq!(marked, usize::from(job.is_some()), "only the holder of the lease begins");
            if let Some(job) = job {
                job.begun = true;
            }
        }
        Step::End { claim, outcome } => {
            let Some(index) = pick(claim, reference.claims.len()) else { return };
            let claim = reference.claims[index].clone();
            let now = reference.now;
            let recorded = record::outcomes(db, "test", &[Ended::new(&claim, 7, outcome.clone())]).await.unwrap();
            let job = reference.current(&claim);
            assert_eq!(!recorded.is_empty(), job.is_some(), "an outcome counts if its lease does");
            let Some(job) = job else { return };
            (job.lease, job.begun) = (None, false);
            let hours = |wait: Duration| u32::try_from(wait.as_secs() / 3600).unwrap();
            match outcome {
                Outcome::Completed { .. } => job.state = JobState::Completed,
                Outcome::Cancelled { .. } => job.state = JobState::Cancelled,
                Outcome::Discarded { .. } => job.state = JobState::Discarded,
                Outcome::Retryable { wait, .. } => (job.state, job.run_at) = (JobState::Retryable, now + hours(wait)),
                Outcome::Snoozed { wait } => {
                    (job.state, job.run_at) = (JobState::Scheduled, now + hours(wait));
                    job.attempt -= 1;
                }
                Outcome::Released => {
                    job.state = JobState::Available;
                    job.attempt -= 1;
                }
            }
        }
        Step::Cancel { job } => {
            let Some(index) = pick(job, reference.jobs.len()) else { return };
            let (id, job) = reference.jobs.iter_mut().nth(index).unwrap();
            let answer = cancel(&mut db.acquire().await.unwrap(), *id, None, "no").await.unwrap();
            let expected = match job.state {
                JobState::Running => CancelOutcome::Requested,
                state if state.is_finished() => CancelOutcome::AlreadyFinished,
                _ => {
                    job.state = JobState::Cancelled;
                    CancelOutcome::Cancelled
                }
            };
            assert_eq!(answer, expected);
        }
        Step::Retry { job } => {
            let Some(index) = pick(job, reference.jobs.len()) else { return };
            let id = *reference.jobs.keys().nth(index).unwrap();
            let answer = retry(&mut db.acquire().await.unwrap(), id, None).await.unwrap();
            let job = reference.jobs[&id].clone();
            let taken = job.key.as_deref().and_then(|key| reference.holder_of(key)).is_some_and(|holder| holder != id);
            let now = reference.now;
            let mine = reference.jobs.get_mut(&id).unwrap();
            let expected = match job.state {
                JobState::Available | JobState::Running | JobState::Completed => RetryOutcome::NotRetryable,
                JobState::Scheduled | JobState::Retryable => {
                    (mine.state, mine.run_at, mine.crashes) = (JobState::Available, now, 0);
                    RetryOutcome::Requeued
                }
                JobState::Cancelled | JobState::Discarded if taken => RetryOutcome::Duplicate,
                JobState::Cancelled | JobState::Discarded => {
                    (mine.state, mine.run_at, mine.attempt, mine.crashes) = (JobState::Available, now, 0, 0);
                    RetryOutcome::Requeued
                }
            };
            assert_eq!(answer, expected);
        }
        Step::Pause => {
            assert_eq!(pause(db, "default").await.unwrap(), !reference.paused);
            reference.paused = true;
        }
        Step::Resume => {
            assert_eq!(resume(db, "default").await.unwrap(), reference.paused);
            reference.paused = false;
        }
        Step::Hold { tenant } => {
            let Some(tenant) = TENANTS[tenant] else { return };
            hold_tenant(&mut db.acquire().await.unwrap(), tenant).await.unwrap();
            reference.held.retain(|held| *held != tenant);
            reference.held.push(tenant);
        }
        Step::Release { tenant } => {
            let Some(tenant) = TENANTS[tenant] else { return };
            release_tenant(&mut db.acquire().await.unwrap(), tenant).await.unwrap();
            reference.held.retain(|held| *held != tenant);
        }
        Step::HoursPass { hours } => {
            reference.now += hours;
            let back = "update queue.jobs set run_at = run_at - make_interval(hours => $1),
                               lease_until = lease_until - make_interval(hours => $1)";
            sqlx::query(back).bind(i32::try_from(hours).unwrap()).execute(db).await.unwrap();
        }
        Step::Promote => {
            let now = reference.now;
            let waits =
                |job: &&mut Job| matches!(job.state, JobState::Scheduled | JobState::Retryable) && job.run_at <= now;
            let due = reference.jobs.values_mut().filter(waits).map(|job| job.state = JobState::Available).count();
            assert_eq!(keeper::promote(db, 1000).await.unwrap(), due as u64);
        }
        Step::Rescue => {
            let now = reference.now;
            let mut lost = 0;
            for job in reference.jobs.values_mut().filter(|job| job.lease.is_some_and(|(_, until)| until <= now)) {
                lost += 1;
                if job.begun {
                    job.crashes += 1;
                } else {
                    job.attempt -= 1;
                    job.crashes = job.crashes.max(1);
                }
                (job.state, job.lease, job.begun) = (JobState::Available, None, false);
            }
            assert_eq!(keeper::rescue(db).await.unwrap(), lost);
        }
    }
}

/// Every row of both tables against the reference; unique keys are held by unfinished jobs and nobody else.
async fn compare(db: &PgPool, reference: &Reference) {
    type Row = (Uuid, String, i32, i16, bool, Option<Uuid>, bool);
    let rows: Vec<Row> = sqlx::query_as(
        "select id, state, attempt, crashes, held, lease, begun_at is not null from queue.jobs
         union all
         select id, state, attempt, crashes, false, null, false from queue.finished_jobs order by id",
    )
    .fetch_all(db)
    .await
    .unwrap();
    let mut expected: Vec<Row> = reference
        .jobs
        .iter()
        .map(|(id, job)| {
            let held = reference.held(job) && !job.state.is_finished();
            let (state, lease) = (job.state.to_string(), job.lease.map(|(lease, _)| lease));
            (*id, state, job.attempt, job.crashes, held, lease, job.begun)
        })
        .collect();
    // What ended keeps what it was when it ran; the reference has forgotten whether it had begun.
    expected.sort_unstable_by_key(|row| row.0);
    assert_eq!(rows, expected);
    let holders: Vec<Uuid> =
        sqlx::query_scalar("select job_id from queue.unique_keys order by 1").fetch_all(db).await.unwrap();
    let unfinished = reference.jobs.iter().filter(|(_, job)| job.key.is_some() && !job.state.is_finished());
    assert_eq!(holders, unfinished.map(|(id, _)| *id).collect::<Vec<_>>());
}

/// PLAT-3, PLAT-6, PLAT-11, PLAT-13, PLAT-20
#[test]
fn the_queue_agrees_with_its_reference_over_random_histories() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let db = runtime.block_on(support::Database::new());
    let config =
        ProptestConfig { cases: 48, failure_persistence: None, max_shrink_iters: 300, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&proptest::collection::vec(step(), 1..60), |steps| {
            runtime.block_on(async {
                let empty =
                    "truncate queue.jobs, queue.finished_jobs, queue.unique_keys, queue.queues, queue.held_tenants";
                sqlx::query(empty).execute(&db.pool).await.unwrap();
                let mut reference = Reference::default();
                for step in steps {
                    take(&db.pool, &mut reference, step).await;
                    compare(&db.pool, &reference).await;
                }
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(db.close());
}
