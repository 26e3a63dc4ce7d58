//! What the queue tells about itself: how deep it is, and why a job does not run.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use backroom_queue::{
    COUNT_AT_MOST, Limits, NewJob, QueueStats, enqueue, enqueue_many, hold_tenant, limit, pause, queue_stats,
};
use chrono::{TimeDelta, Utc};
use serde_json::json;
use support::Database;

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
