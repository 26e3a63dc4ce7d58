//! A tick that comes while the job of the tick before is unfinished.

use std::sync::Arc;

use backroom_queue::{
    scheduler::{self, Decision, Firing, Overlap, Schedules},
    testing,
};
use chrono::TimeDelta;
use chrono_tz::Tz;
use sqlx::Executor;
use uuid::Uuid;

use crate::{TenantList, at, jobs, kinds, nightly, node, schedules, support::Database};

/// An hourly schedule that skips overlaps.
fn hourly(more: &str) -> Schedules {
    let defaults = "[[schedule]]\nname = \"hourly\"\ncron = \"0 * * * *\"\noverlap = \"skip\"";
    schedules(&format!("{defaults}\n{more}"))
}

async fn run_jobs(db: &Database) {
    testing::drain(&db.pool, &Arc::new(kinds()), Arc::new(()), "default").await.unwrap();
}

/// CRON-5
#[test]
fn overlaps_are_queued_unless_the_schedule_says_otherwise() {
    assert_eq!(nightly("skip").get("nightly").unwrap().overlap, Overlap::Queue);
    assert_eq!(hourly("kind = \"test.tidy\"").get("hourly").unwrap().overlap, Overlap::Skip);
    let queue = schedules("[[schedule]]\nname = \"q\"\nkind = \"test.tidy\"\ncron = \"@hourly\"\noverlap = \"queue\"");
    assert_eq!(queue.get("q").unwrap().overlap, Overlap::Queue);
}

/// CRON-5
#[tokio::test]
async fn a_tick_is_skipped_while_the_job_of_the_tick_before_is_unfinished() {
    for (kind, then) in [
        ("kind = \"test.tidy\"", Decision::Enqueued),
        ("kind = \"test.end\"\nargs = { how = \"discard\" }", Decision::Enqueued),
        // Snoozed, and waiting for its next attempt: both are unfinished.
        ("kind = \"test.end\"\nargs = { how = \"snooze\" }", Decision::Overlap),
        ("kind = \"test.end\"\nargs = { how = \"fail\" }", Decision::Overlap),
    ] {
        let db = Database::new().await;
        let all = hourly(kind);
        let scheduler = node(&db, &all, &TenantList::default());
        scheduler.beat(at("2026-01-01T00:30:00Z")).await.unwrap();
        let first = scheduler.beat(at("2026-01-01T01:00:00Z")).await.unwrap();
        assert_eq!(first[0].decision, Decision::Enqueued);

        for hour in ["2026-01-01T02:00:00Z", "2026-01-01T03:00:00Z"] {
            let skipped = scheduler.beat(at(hour)).await.unwrap();
            let seen = (skipped[0].decision, skipped[0].job_id, skipped[0].blocked_by);
            assert_eq!(seen, (Decision::Overlap, None, first[0].job_id), "{kind}");
        }
        run_jobs(&db).await;
        let next = scheduler.beat(at("2026-01-01T04:00:00Z")).await.unwrap();
        assert_eq!(next[0].decision, then, "{kind}");

        let rows: Vec<(String, Option<Uuid>, Option<Uuid>)> =
            sqlx::query_as("select outcome, job_id, blocked_by from queue.schedule_ticks order by tick_at limit 2")
                .fetch_all(&db.pool)
                .await
                .unwrap();
        assert_eq!(
            rows,
            [("enqueued".to_owned(), first[0].job_id, None), ("overlap".to_owned(), None, first[0].job_id)]
        );
        let mut conn = db.pool.acquire().await.unwrap();
        let list = scheduler::list(&mut conn, &all, &[], at("2026-01-01T04:10:00Z")).await.unwrap();
        let outcome = if then == Decision::Enqueued { "enqueued" } else { "overlap" };
        assert_eq!((list[0].overlap, list[0].last_outcome.as_deref()), (Overlap::Skip, Some(outcome)));
        let ticks = scheduler::recent_ticks(&mut *conn, all.get("hourly").unwrap(), None, 3).await.unwrap();
        let hours: Vec<_> = ticks.iter().map(|tick| (tick.tick_at.format("%H").to_string(), tick.blocked_by)).collect();
        assert_eq!(hours[1..], [("03".to_owned(), first[0].job_id), ("02".to_owned(), first[0].job_id)]);
        drop(conn);
        db.close().await;
    }
}

/// CRON-5: whether the job before is unfinished is asked under the lock of the cursor.
#[tokio::test]
async fn a_scheduler_that_waited_for_another_sees_the_job_that_it_enqueued() {
    let db = Database::new().await;
    let all = hourly("kind = \"test.tidy\"");
    let scheduler = node(&db, &all, &TenantList::default());
    scheduler.beat(at("2026-01-01T00:30:00Z")).await.unwrap();
    // The other one is in the middle of the tick at one o'clock.
    let mut other = db.pool.begin().await.unwrap();
    other.execute("select from queue.schedule_cursors for update").await.unwrap();
    let beat = tokio::spawn(async move { scheduler.beat(at("2026-01-01T02:00:00Z")).await.unwrap() });
    db.until(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        1,
    )
    .await;
    let job = scheduler::run_now(&mut other, all.get("hourly").unwrap(), &[]).await.unwrap()[0].id;
    sqlx::query(
        "with moved as (update queue.schedule_cursors set decided_until = '2026-01-01T01:00Z')
         insert into queue.schedule_ticks (schedule, tenant, tick_at, job_id, outcome)
         values ('hourly', '', '2026-01-01T01:00Z', $1, 'enqueued')",
    )
    .bind(job)
    .execute(&mut *other)
    .await
    .unwrap();
    other.commit().await.unwrap();

    let firings = beat.await.unwrap();

    assert_eq!((firings.len(), firings[0].decision, firings[0].blocked_by), (1, Decision::Overlap, Some(job)));
    assert_eq!(jobs(&db).await, 1);
    db.close().await;
}

/// CRON-5
#[tokio::test]
async fn schedulers_that_beat_at_once_skip_an_overlap_alike() {
    let db = Database::new().await;
    let all = hourly("kind = \"test.tidy\"\nper_tenant = true\nmissed = \"run_each\"");
    let tenants = TenantList::of(&[("acme", Tz::UTC), ("birch", Tz::UTC), ("cedar", Tz::UTC)]);
    let nodes: Vec<_> = (0..4).map(|_| node(&db, &all, &tenants)).collect();
    let start = at("2026-01-01T00:30:00Z");
    nodes[0].beat(start).await.unwrap();

    // Each node is an hour ahead of the one before: they owe different ticks, and decide them in any order.
    let mut firings = Vec::new();
    for round in 0..4 {
        let beats =
            nodes.iter().zip(0..).map(|(node, ahead)| node.beat(start + TimeDelta::hours(1 + round * 4 + ahead)));
        for fired in futures::future::join_all(beats).await {
            firings.extend(fired.unwrap());
        }
    }

    assert_eq!(firings.len(), 16 * 3, "each tick was decided once");
    let enqueued: Vec<_> = firings.iter().filter(|firing| firing.decision == Decision::Enqueued).collect();
    let mut who: Vec<_> = enqueued.iter().map(|firing| (firing.tenant.as_deref().unwrap(), firing.tick_at)).collect();
    who.sort_unstable();
    let one = at("2026-01-01T01:00:00Z");
    assert_eq!(who, [("acme", one), ("birch", one), ("cedar", one)]);
    for firing in &firings {
        let own = enqueued.iter().find(|first| first.tenant == firing.tenant).unwrap();
        assert_eq!(firing.blocked_by, own.job_id.filter(|_| firing.decision == Decision::Overlap));
    }
    assert_eq!(jobs(&db).await, 3);
    db.close().await;
}

/// CRON-5
#[tokio::test]
async fn an_overlap_is_one_tenants_own_and_outlives_its_absence() {
    let db = Database::new().await;
    let all = hourly("kind = \"test.tidy\"\nper_tenant = true");
    let both = [("acme", Tz::UTC), ("birch", Tz::UTC)];
    let tenants = TenantList::of(&both);
    let scheduler = node(&db, &all, &tenants);
    scheduler.beat(at("2026-01-01T00:30:00Z")).await.unwrap();
    let first = scheduler.beat(at("2026-01-01T01:00:00Z")).await.unwrap();
    let birch = first.iter().find(|firing| firing.tenant.as_deref() == Some("birch")).unwrap().job_id.unwrap();
    backroom_queue::cancel(&mut db.pool.acquire().await.unwrap(), birch, None, "not needed").await.unwrap();
    let outcome = |firings: &[Firing]| firings.iter().map(|firing| firing.decision).collect::<Vec<_>>();

    let second = scheduler.beat(at("2026-01-01T02:00:00Z")).await.unwrap();
    assert_eq!(outcome(&second), [Decision::Overlap, Decision::Enqueued]);

    // Suspended, its jobs held; and back, with a new cursor.
    tenants.set(&[("birch", Tz::UTC)]);
    scheduler.beat(at("2026-01-01T03:00:00Z")).await.unwrap();
    tenants.set(&both);
    scheduler.beat(at("2026-01-01T03:30:00Z")).await.unwrap();
    let back = scheduler.beat(at("2026-01-01T04:00:00Z")).await.unwrap();
    assert_eq!(outcome(&back), [Decision::Overlap, Decision::Overlap]);
    assert_eq!(back[0].blocked_by, first[0].job_id);
    db.close().await;
}

/// CRON-3, CRON-5
#[tokio::test]
async fn of_missed_ticks_that_are_made_good_together_only_the_first_runs() {
    for (kind, first_decision) in [("test.tidy", Decision::Enqueued), ("test.sweep", Decision::Duplicate)] {
        let db = Database::new().await;
        let all = hourly(&format!("kind = \"{kind}\"\nmissed = \"run_each\""));
        let scheduler = node(&db, &all, &TenantList::default());
        scheduler.beat(at("2026-01-01T00:30:00Z")).await.unwrap();
        if first_decision == Decision::Duplicate {
            scheduler::run_now(&mut db.pool.acquire().await.unwrap(), all.get("hourly").unwrap(), &[]).await.unwrap();
        }

        let firings = scheduler.beat(at("2026-01-01T03:30:00Z")).await.unwrap();

        let job = firings[0].job_id;
        let seen: Vec<_> = firings.iter().map(|firing| (firing.decision, firing.job_id, firing.blocked_by)).collect();
        let skipped = (Decision::Overlap, None, job);
        assert_eq!(seen, [(first_decision, job, None), skipped, skipped]);
        let existing: Uuid = sqlx::query_scalar("select id from queue.jobs").fetch_one(&db.pool).await.unwrap();
        assert_eq!(job, Some(existing));
        let wrong = "select count(*) from queue.schedule_ticks t
                     where not exists (select from queue.jobs j where j.id = coalesce(t.job_id, t.blocked_by))";
        assert_eq!(db.count(wrong).await, 0);
        db.close().await;
    }
}
