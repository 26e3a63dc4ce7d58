//! The flight recorder: one job's life as one document.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::{sync::Arc, time::Duration};

use backroom_queue::{
    Backoff, Ctx, Dump, Job, JobResult, JobState, Limits, NewJob, RateLimit, Reason, TraceParent, Unique, Verdict,
    cancel, dump, enqueue, fix_rate_limit, hold_tenant, limit, pause, registry, retry, testing,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use support::Database;
use uuid::Uuid;

/// Fails until its attempt is the one that it waits for.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct FailUntil {
    attempt: u32,
    #[serde(default)]
    secret: String,
}

impl Job for FailUntil {
    type App = ();
    const KIND: &'static str = "test.fail_until";
    const MAX_ATTEMPTS: u32 = 2;

    fn backoff() -> Backoff {
        Backoff::fixed(Duration::from_secs(3600))
    }

    async fn run(self, ctx: Ctx<()>) -> JobResult {
        anyhow::ensure!(ctx.job.attempt >= self.attempt, "not yet");
        Verdict::done_with(json!({"secret": self.secret}))
    }
}

async fn drain(db: &Database) {
    testing::drain(&db.pool, &Arc::new(registry![FailUntil]), Arc::new(()), "default").await.unwrap();
}

async fn run(db: &Database, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&db.pool).await.unwrap();
}

async fn of(db: &Database, id: Uuid, with_args: bool) -> Dump {
    dump(&mut db.pool.acquire().await.unwrap(), id, None, with_args).await.unwrap().expect("the job exists")
}

fn events(dump: &Dump) -> Vec<&str> {
    assert!(dump.changes.is_sorted_by_key(|change| change.at));
    dump.changes.iter().map(|change| change.event.as_str()).collect()
}

/// PLAT-24
#[tokio::test]
async fn every_change_of_a_job_s_life_is_told_in_order() {
    let db = Database::new().await;
    let trace = TraceParent::new();
    let job = NewJob {
        trace: Some(trace.clone()),
        unique: Some(Unique::by("k")),
        ..NewJob::of(&FailUntil { attempt: 3, secret: "hunter2".into() })
    };
    let id = enqueue(&db.pool, &job).await.unwrap().id;
    drain(&db).await;
    let mut conn = db.pool.acquire().await.unwrap();
    retry(&mut conn, id, None).await.unwrap();
    drain(&db).await;
    let dead = of(&db, id, false).await;
    assert_eq!(dead.job.state, JobState::Discarded);
    assert_eq!(
        events(&dead),
        ["created", "claimed", "failed", "hastened", "claimed", "failed", "discarded"],
        "{:#?}",
        dead.changes
    );
    let failures: Vec<_> = dead.changes.iter().filter(|change| change.event == "failed").collect();
    assert_eq!(failures.iter().map(|failure| failure.attempt).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert!(failures.iter().all(|failure| failure.error.as_deref() == Some("not yet") && failure.worker.is_some()));
    assert_eq!(dead.changes[6].reason, dead.job.reason);
    assert_eq!(dead.trace_id.as_deref(), Some(trace.trace_id()));
    assert!(dead.unique_key.as_ref().is_some_and(|key| key.ends_with("|k")));
    assert!(matches!(&dead.why.reasons[0], Reason::Finished { state: JobState::Discarded, .. }));
    let ends: Vec<_> = dead.leases.iter().map(|lease| (lease.attempt, lease.end.as_str())).collect();
    assert_eq!(ends, [(Some(1), "failed"), (Some(2), "discarded")]);
    assert!(dead.leases.iter().all(|lease| lease.claimed_at.is_some() && lease.ended_at >= lease.claimed_at));

    // Back from the dead, and cancelled while it waits: its first life stays told.
    retry(&mut conn, id, None).await.unwrap();
    cancel(&mut conn, id, None, "enough").await.unwrap();
    drop(conn);
    let cancelled = of(&db, id, false).await;
    let first_life = ["created", "claimed", "failed", "hastened", "claimed", "failed", "discarded"];
    assert_eq!(events(&cancelled), [&first_life[..], &["retried", "cancelled"]].concat());
    assert_eq!(cancelled.leases, dead.leases);
    assert_eq!(cancelled.changes.last().unwrap().reason.as_deref(), Some("enough"));
    db.close().await;
}

/// PLAT-24, VAULT-4
#[tokio::test]
async fn arguments_and_results_are_redacted_unless_they_are_asked_for() {
    let db = Database::new().await;
    let job = NewJob::of(&FailUntil { attempt: 1, secret: "hunter2".into() });
    let id = enqueue(&db.pool, &job).await.unwrap().id;
    drain(&db).await;
    let redacted = of(&db, id, false).await;
    assert_eq!(redacted.job.args, json!({"attempt": "number(1)", "secret": "string(7)"}));
    assert_eq!(redacted.job.result, Some(json!({"secret": "string(7)"})));
    assert!(redacted.redacted && !serde_json::to_string(&redacted).unwrap().contains("hunter2"));
    let whole = of(&db, id, true).await;
    assert_eq!((whole.job.args, whole.redacted), (json!({"attempt": 1, "secret": "hunter2"}), false));
    db.close().await;
}

/// PLAT-24, PLAT-20
#[tokio::test]
async fn the_lease_of_a_running_job_and_those_that_were_lost_are_told() {
    let db = Database::new().await;
    let id = enqueue(&db.pool, &NewJob::of(&FailUntil { attempt: 1, secret: String::new() })).await.unwrap().id;
    run(
        &db,
        r#"select queue.claim('default', 1, gen_random_uuid(), 30, 'worker-2', '');
           update queue.jobs set attempt = 2, begun_at = now(), crashes = 1,
                  created_at = now() - interval '1 h',
                  errors = jsonb_build_array(jsonb_build_object('attempt', 1, 'at', now() - interval '1 min',
                                                                'error', 'the worker was lost', 'worker', 'worker-1')),
                  trail = jsonb_build_array(jsonb_build_object('at', now() - interval '1 min', 'event', 'lost', 'attempt', 1,
                          'lease', gen_random_uuid(), 'worker', 'worker-1', 'claimed_at', now() - interval '2 min',
                          'begun_at', now() - interval '2 min', 'lease_until', now() - interval '61 s'))"#,
    )
    .await;
    let dump = of(&db, id, false).await;
    assert_eq!(events(&dump), ["created", "claimed", "begun", "lost", "claimed", "begun"]);
    assert_eq!(dump.changes[3].error.as_deref(), Some("the worker was lost"));
    let [lost, held] = &dump.leases[..] else { panic!("{:?}", dump.leases) };
    assert_eq!((lost.worker.as_deref(), lost.end.as_str()), (Some("worker-1"), "lost"));
    assert_eq!((held.worker.as_deref(), held.end.as_str(), held.ended_at), (Some("worker-2"), "running", None));
    assert!(lost.until < lost.ended_at && held.until > held.claimed_at);
    assert!(matches!(&dump.why.reasons[..], [Reason::Running { .. }, Reason::CrashSuspect { crashes: 1, .. }]));
    db.close().await;
}

/// PLAT-24
#[tokio::test]
async fn the_rules_in_force_are_part_of_it() {
    let db = Database::new().await;
    let job = NewJob { rate_key: Some("k".into()), ..NewJob::of(&FailUntil { attempt: 1, secret: String::new() }) };
    let id = enqueue(&db.pool, &job.tenant("acme")).await.unwrap().id;
    let plain = of(&db, id, false).await.rules;
    assert!(plain.queue_paused_at.is_none() && plain.tenant_held_at.is_none() && plain.rate_limit.is_none());
    let limits = Limits { max_running: Some(3), max_running_per_tenant: None };
    limit(&db.pool, "default", limits).await.unwrap();
    pause(&db.pool, "default").await.unwrap();
    fix_rate_limit(&db.pool, &RateLimit::new("k", 5, Duration::from_secs(1))).await.unwrap();
    let mut tx = db.pool.begin().await.unwrap();
    hold_tenant(&mut tx, "acme").await.unwrap();
    tx.commit().await.unwrap();
    let dump = of(&db, id, false).await;
    assert!(dump.rules.queue_paused_at.is_some() && dump.rules.tenant_held_at.is_some());
    assert_eq!((dump.rules.queue_limits, dump.rules.rate_limit.map(|rate| rate.permits)), (limits, Some(5)));
    assert!(matches!(dump.why.reasons[0], Reason::QueuePaused { .. }));
    db.close().await;
}

/// PLAT-24, PLAT-21
#[tokio::test]
async fn the_ledger_of_effects_is_part_of_it_with_outcomes_redacted() {
    let db = Database::new().await;
    let id = enqueue(&db.pool, &NewJob::of(&FailUntil { attempt: 1, secret: String::new() })).await.unwrap().id;
    run(
        &db,
        "create table if not exists queue.effects (
             id uuid primary key, tenant text, key text not null, kind text not null, job_id uuid not null,
             attempt integer not null, state text not null, unknown integer not null, keep_days smallint not null,
             outcome jsonb, ended_at timestamptz, expires_on date
         );
         insert into queue.effects (id, key, kind, job_id, attempt, state, unknown, keep_days, outcome, ended_at, expires_on)
         select gen_random_uuid(), 'mail', kind, id, 1, 'done', 0, 7, '{\"message\": \"hunter2\"}', now(), current_date
         from queue.jobs",
    )
    .await;
    let dumped = of(&db, id, false).await;
    let [effect] = &dumped.effects.as_ref().unwrap()[..] else { panic!("{:?}", dumped.effects) };
    assert_eq!((&effect["key"], &effect["state"]), (&json!("mail"), &json!("done")));
    assert_eq!(effect["outcome"], json!({"message": "string(7)"}));
    assert_eq!(of(&db, id, true).await.effects.unwrap()[0]["outcome"], json!({"message": "hunter2"}));
    db.close().await;
}

/// PLAT-24, TEN-3
#[tokio::test]
async fn a_tenant_gets_its_own_jobs_only() {
    let db = Database::new().await;
    let job = NewJob::of(&FailUntil { attempt: 1, secret: String::new() }).tenant("acme");
    let id = enqueue(&db.pool, &job).await.unwrap().id;
    let mut conn = db.pool.acquire().await.unwrap();
    assert!(dump(&mut conn, id, Some("bolt"), true).await.unwrap().is_none());
    assert!(dump(&mut conn, Uuid::now_v7(), None, true).await.unwrap().is_none());
    run(&db, "select queue.claim('default', 1, gen_random_uuid(), 30, 'inside-7', '')").await;
    for (tenant, told) in [(None, true), (Some("acme"), false)] {
        let dump = dump(&mut conn, id, tenant, true).await.unwrap().unwrap();
        assert_eq!(
            serde_json::to_string(&dump).unwrap().contains("inside-7"),
            told,
            "the workers' names are operators'"
        );
    }
    drop(conn);
    db.close().await;
}
