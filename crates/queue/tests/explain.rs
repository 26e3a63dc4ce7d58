//! What the queue tells about itself: how deep it is, and why a job does not run.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::time::Duration;

use backroom_queue::{
    COUNT_AT_MOST, JobState, Limits, NewJob, QueueStats, RateLimit, Reason, Why, cancel, discard, enqueue,
    enqueue_many, explain, fix_rate_limit, hold_tenant, limit, pause, queue_stats,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use support::Database;
use uuid::Uuid;

fn job(queue: &str) -> NewJob {
    NewJob { queue: queue.to_owned(), max_attempts: 5, ..NewJob::named("test.any", json!({})) }
}

async fn run(db: &Database, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&db.pool).await.unwrap();
}

/// PLAT-8, OPS-1
#[tokio::test]
async fn every_queue_with_work_or_a_rule_is_counted_by_state() {
    let db = Database::new().await;
    let mut jobs: Vec<NewJob> = (0..7).map(|n| job("mailers").tenant(format!("t{}", n % 3))).collect();
    jobs.push(NewJob { priority: 9, rate_key: Some("k".into()), ..job("mailers") });
    jobs.push(job("reports").run_at(Utc::now() + TimeDelta::hours(1)));
    jobs.push(job("lost"));
    enqueue_many(&db.pool, &jobs).await.unwrap();
    run(
        &db,
        "update queue.jobs set state = 'running', lease = id, lease_until = now() where queue = 'lost';
         update queue.jobs set state = 'retryable' where id = (select min(id::text)::uuid from queue.jobs where tenant = 't0');
         update queue.jobs set run_at = now() - interval '90 s' where tenant = 't2';",
    )
    .await;
    let mut tx = db.pool.begin().await.unwrap();
    assert_eq!(hold_tenant(&mut tx, "t1").await.unwrap(), 2);
    tx.commit().await.unwrap();
    pause(&db.pool, "empty").await.unwrap();
    limit(&db.pool, "reports", Limits { max_running: Some(4), max_running_per_tenant: Some(2) }).await.unwrap();

    let stats = queue_stats(&db.pool).await.unwrap();
    let oldest = stats[2].oldest_available_s.unwrap();
    assert!((90.0..120.0).contains(&oldest), "of the lane that waits the longest: {oldest}");
    let reports = Limits { max_running: Some(4), max_running_per_tenant: Some(2) };
    let expected = [
        QueueStats { paused: true, ..QueueStats::idle("empty") },
        QueueStats { running: 1, ..QueueStats::idle("lost") },
        QueueStats {
            available: 5,
            held: 2,
            retryable: 1,
            oldest_available_s: Some(oldest),
            ..QueueStats::idle("mailers")
        },
        QueueStats { scheduled: 1, limits: reports, ..QueueStats::idle("reports") },
    ];
    assert_eq!(stats, expected);
    db.close().await;
}

/// OPS-1
#[tokio::test]
async fn a_figure_that_reaches_the_bound_says_so() {
    let db = Database::new().await;
    run(
        &db,
        "insert into queue.jobs (id, queue, kind, state, run_at, max_attempts, args)
         select gen_random_uuid(), 'flooded', 'k', case when n % 2 = 0 then 'available' else 'scheduled' end, now(), 1, '{}'
         from generate_series(1, 200010) n",
    )
    .await;
    enqueue(&db.pool, &job("calm")).await.unwrap();
    let stats = queue_stats(&db.pool).await.unwrap();
    assert_eq!((stats[0].available, stats[0].capped), (1, false));
    assert_eq!((stats[1].available, stats[1].scheduled, stats[1].capped), (COUNT_AT_MOST, COUNT_AT_MOST, true));
    db.close().await;
}

async fn put(db: &Database, job: NewJob) -> Uuid {
    enqueue(&db.pool, &job).await.unwrap().id
}

/// As a worker does.
async fn claim(db: &Database, queue: &str, jobs: i32) {
    sqlx::query("select queue.claim($1, $2, gen_random_uuid(), 30, 'worker-1', '')")
        .bind(queue)
        .bind(jobs)
        .execute(&db.pool)
        .await
        .unwrap();
}

async fn why(db: &Database, id: Uuid) -> Why {
    let why = explain(&mut db.pool.acquire().await.unwrap(), id, None).await.unwrap().expect("the job exists");
    assert_eq!(why.sentence, why.reasons[0].to_string());
    why
}

fn close(at: Option<DateTime<Utc>>, expected: DateTime<Utc>) -> bool {
    at.is_some_and(|at| (at - expected).abs() < TimeDelta::seconds(5))
}

/// PLAT-22
#[tokio::test]
async fn of_a_finished_job_it_says_how_it_ended() {
    let db = Database::new().await;
    let (cancelled, discarded) = (put(&db, job("a")).await, put(&db, job("a")).await);
    let mut conn = db.pool.acquire().await.unwrap();
    cancel(&mut conn, cancelled, None, "sent by hand").await.unwrap();
    discard(&mut conn, discarded, None, "the customer is gone").await.unwrap();
    for (id, state, reason) in
        [(cancelled, JobState::Cancelled, "sent by hand"), (discarded, JobState::Discarded, "the customer is gone")]
    {
        let why = why(&db, id).await;
        let Reason::Finished { state: told, because, at, attempt: 0 } = &why.reasons[0] else { panic!("{why:?}") };
        assert_eq!((why.state, *told, because.as_deref()), (state, state, Some(reason)));
        assert!(close(*at, why.asked_at) && why.expected_at.is_none());
        assert!(why.sentence.contains(reason), "{}", why.sentence);
    }
    assert!(explain(&mut conn, Uuid::now_v7(), None).await.unwrap().is_none());
    drop(conn);
    db.close().await;
}

/// PLAT-22
#[tokio::test]
async fn of_a_running_job_it_says_where_whether_it_began_and_whether_its_worker_is_lost() {
    let db = Database::new().await;
    let id = put(&db, job("a")).await;
    claim(&db, "a", 1).await;
    let fetched = why(&db, id).await;
    let Reason::Running { worker, begun_at: None, lost: false, cancel_requested: false, claimed_at, lease_until } =
        &fetched.reasons[0]
    else {
        panic!("{fetched:?}")
    };
    assert_eq!(worker.as_deref(), Some("worker-1"));
    assert!(close(*claimed_at, fetched.asked_at) && *lease_until > fetched.asked_at);
    assert!(fetched.sentence.contains("may not have begun"), "{}", fetched.sentence);

    run(&db, "update queue.jobs set begun_at = now(), lease_until = now() - interval '1 s', crashes = 2").await;
    cancel(&mut db.pool.acquire().await.unwrap(), id, None, "").await.unwrap();
    let lost = why(&db, id).await;
    assert!(matches!(&lost.reasons[0], Reason::Running { lost: true, cancel_requested: true, begun_at: Some(_), .. }));
    assert_eq!(lost.reasons[1], Reason::CrashSuspect { crashes: 2, of: 3 });
    db.close().await;
}

/// PLAT-22, PLAT-13
#[tokio::test]
async fn a_paused_queue_and_a_held_tenant_come_first_and_nobody_knows_when() {
    let db = Database::new().await;
    let id = put(&db, job("a").tenant("acme").run_at(Utc::now() + TimeDelta::hours(1))).await;
    pause(&db.pool, "a").await.unwrap();
    let mut tx = db.pool.begin().await.unwrap();
    hold_tenant(&mut tx, "acme").await.unwrap();
    tx.commit().await.unwrap();
    let why = why(&db, id).await;
    let [Reason::QueuePaused { queue, since }, Reason::TenantHeld { tenant, since: held }, Reason::Scheduled { .. }] =
        &why.reasons[..]
    else {
        panic!("{why:?}")
    };
    assert_eq!((queue.as_str(), tenant.as_deref()), ("a", Some("acme")));
    assert!(close(Some(*since), why.asked_at) && close(*held, why.asked_at));
    assert_eq!(why.expected_at, None);
    db.close().await;
}

/// PLAT-22, PLAT-8
#[tokio::test]
async fn a_tenant_or_a_queue_at_its_limit_is_told_with_the_figures() {
    let db = Database::new().await;
    for _ in 0..2 {
        put(&db, job("a").tenant("acme")).await;
    }
    claim(&db, "a", 2).await;
    let (own, other) = (put(&db, job("a").tenant("acme")).await, put(&db, job("a").tenant("bolt")).await);
    limit(&db.pool, "a", Limits { max_running: None, max_running_per_tenant: Some(2) }).await.unwrap();
    let at_limit = why(&db, own).await;
    let tenant = Reason::TenantAtLimit { tenant: "acme".into(), queue: "a".into(), running: 2, limit: 2 };
    assert_eq!((&at_limit.reasons[0], at_limit.expected_at), (&tenant, None));
    assert!(matches!(why(&db, other).await.reasons[..], [Reason::Waiting { .. }]), "the other has room");

    limit(&db.pool, "a", Limits { max_running: Some(1), max_running_per_tenant: Some(2) }).await.unwrap();
    let queue = Reason::QueueAtLimit { queue: "a".into(), running: 2, limit: 1 };
    assert_eq!(why(&db, other).await.reasons[0], queue);
    assert_eq!(why(&db, own).await.reasons[..2], [tenant, queue]);
    db.close().await;
}

/// PLAT-22, PLAT-10
#[tokio::test]
async fn a_rate_limit_that_stops_a_job_says_until_when() {
    let db = Database::new().await;
    // Ten at once and ninety per minute.
    fix_rate_limit(&db.pool, &RateLimit::new("k", 100, Duration::from_secs(60))).await.unwrap();
    run(&db, "update queue.rate_limits set tokens = 0, refilled_at = clock_timestamp()").await;
    let metered = || NewJob { rate_key: Some("k".into()), ..job("a") };
    let first = put(&db, metered()).await;
    for _ in 0..29 {
        put(&db, metered()).await;
    }
    let last = put(&db, metered()).await;
    let used_up = why(&db, first).await;
    assert!(matches!(&used_up.reasons[0], Reason::RateUsedUp { key, .. } if key == "k"), "{used_up:?}");
    assert!(close(used_up.expected_at, used_up.asked_at));
    let after_the_others = why(&db, last).await;
    assert!(close(after_the_others.expected_at, after_the_others.asked_at + TimeDelta::seconds(20)));

    run(&db, "update queue.rate_limits set blocked_until = clock_timestamp() + interval '5 min'").await;
    let blocked = why(&db, first).await;
    let Reason::RateBlocked { until, .. } = &blocked.reasons[0] else { panic!("{blocked:?}") };
    assert_eq!(blocked.expected_at, Some(*until));
    assert!(close(blocked.expected_at, blocked.asked_at + TimeDelta::minutes(5)));
    db.close().await;
}

/// PLAT-22, PLAT-4
#[tokio::test]
async fn a_job_that_waits_for_its_time_says_which_and_why() {
    let db = Database::new().await;
    let at = Utc::now() + TimeDelta::hours(1);
    let id = put(&db, job("a").run_at(at)).await;
    let scheduled = why(&db, id).await;
    assert!(matches!(scheduled.reasons[..], [Reason::Scheduled { .. }]) && close(scheduled.expected_at, at));

    run(&db, r#"update queue.jobs set trail = '[{"at": "2026-01-01T00:00:00Z", "event": "snoozed"}]'"#).await;
    assert!(matches!(why(&db, id).await.reasons[..], [Reason::Snoozed { .. }]));

    run(
        &db,
        r#"update queue.jobs set state = 'retryable', attempt = 2, crashes = 1,
               errors = '[{"attempt": 2, "at": "2026-01-01T00:00:00Z", "error": "boom", "worker": "w"}]'"#,
    )
    .await;
    let retrying = why(&db, id).await;
    let [Reason::Retrying { attempt: 2, max_attempts: 5, error, .. }, Reason::CrashSuspect { crashes: 1, of: 3 }] =
        &retrying.reasons[..]
    else {
        panic!("{retrying:?}")
    };
    assert_eq!(error.as_deref(), Some("boom"));
    assert!(close(retrying.expected_at, at) && retrying.sentence.contains("2 of 5"), "{}", retrying.sentence);
    db.close().await;
}

/// PLAT-22, PLAT-9
#[tokio::test]
async fn jobs_ahead_are_those_of_the_own_lane_and_the_turns_of_the_others() {
    let db = Database::new().await;
    let mut jobs: Vec<NewJob> = (0..50).map(|_| job("a").tenant("large")).collect();
    jobs.extend((0..3).map(|_| job("a").tenant("acme")));
    jobs.extend((0..2).map(|_| job("a").tenant("tiny")));
    jobs.push(NewJob { priority: 5, ..job("a").tenant("urgent") });
    jobs.push(NewJob { priority: -1, ..job("a").tenant("idle") });
    enqueue_many(&db.pool, &jobs).await.unwrap();
    let id = put(&db, job("a").tenant("acme")).await;
    let why = why(&db, id).await;
    // Three of its own, four of the large one's fifty, both of the tiny one's, and the urgent one.
    let expected = Reason::Waiting { queue: "a".into(), lane: 3, ahead: 10, capped: false, running: 0 };
    assert_eq!(why.reasons, [expected]);
    assert!(why.sentence.contains("About 10 jobs") && why.sentence.contains("3 of its own"), "{}", why.sentence);
    let urgent = explain(&mut db.pool.acquire().await.unwrap(), jobs[55].id, None).await.unwrap().unwrap();
    assert_eq!(urgent.sentence, "It is the next of the queue a; workers have 0 of the queue's jobs now.");
    db.close().await;
}

/// PLAT-22
#[tokio::test]
async fn a_queue_that_nobody_serves_is_found_out_from_its_claims() {
    let db = Database::new().await;
    let id = put(&db, job("a")).await;
    assert!(matches!(why(&db, id).await.reasons[0], Reason::Waiting { .. }), "it is due only now");
    run(&db, "update queue.jobs set run_at = now() - interval '1 min'").await;
    let unserved = why(&db, id).await;
    let [Reason::NoClaims { queue, last_claim: None, .. }, Reason::Waiting { .. }] = &unserved.reasons[..] else {
        panic!("{unserved:?}")
    };
    assert_eq!((queue.as_str(), unserved.expected_at), ("a", None));

    let before = put(&db, NewJob { priority: 1, ..job("a") }).await;
    claim(&db, "a", 1).await;
    assert!(matches!(why(&db, id).await.reasons[0], Reason::Waiting { running: 1, .. }), "somebody serves it");
    run(
        &db,
        "update queue.jobs set state = 'retryable', lease = null, lease_until = null, run_at = now() + interval '1 h',
                attempted_at = now() - interval '30 s' where state = 'running'",
    )
    .await;
    let Reason::NoClaims { last_claim: Some(at), .. } = &why(&db, id).await.reasons[0] else { panic!("served") };
    assert!(*at < Utc::now() - TimeDelta::seconds(20));

    // Due, and nobody has made it available.
    run(&db, "update queue.jobs set run_at = now() - interval '1 min' where state = 'retryable'").await;
    let reasons = why(&db, before).await.reasons;
    assert!(matches!(&reasons[..], [Reason::NoClaims { .. }, Reason::Retrying { .. }]), "{reasons:?}");
    db.close().await;
}

/// PLAT-22, TEN-3
#[tokio::test]
async fn a_tenant_is_told_of_its_own_jobs_only() {
    let db = Database::new().await;
    let id = put(&db, job("a").tenant("acme")).await;
    let mut conn = db.pool.acquire().await.unwrap();
    assert!(explain(&mut conn, id, Some("acme")).await.unwrap().is_some());
    assert!(explain(&mut conn, id, Some("bolt")).await.unwrap().is_none());
    cancel(&mut conn, id, None, "").await.unwrap();
    assert!(explain(&mut conn, id, Some("bolt")).await.unwrap().is_none());
    drop(conn);
    db.close().await;
}
