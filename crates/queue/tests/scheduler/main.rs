//! The scheduler on a real PostgreSQL. Time is a parameter; nothing here sleeps to let time pass.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod file;
mod overlap;
#[path = "../support/mod.rs"]
mod support;
mod verify;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use backroom_queue::{
    Ctx, Job, JobResult, Registry, Unique, Verdict, registry,
    scheduler::{self, CATCH_UP_LIMIT, Decision, Firing, Scheduler, Schedules, TenantZone, Tenants},
};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use futures::{FutureExt, future::BoxFuture};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use support::Database;
use uuid::Uuid;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tidy {
    #[serde(default)]
    depth: u8,
}

impl Job for Tidy {
    type App = ();
    const KIND: &'static str = "test.tidy";

    async fn run(self, _: Ctx<()>) -> JobResult {
        Ok(Verdict::DONE)
    }
}

/// Only one may be unfinished.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Sweep {}

impl Job for Sweep {
    type App = ();
    const KIND: &'static str = "test.sweep";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by("sweep"))
    }

    async fn run(self, _: Ctx<()>) -> JobResult {
        Ok(Verdict::DONE)
    }
}

/// Ends as it is told.
#[derive(Serialize, Deserialize, JsonSchema)]
struct End {
    how: How,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum How {
    Snooze,
    Fail,
    Discard,
}

impl Job for End {
    type App = ();
    const KIND: &'static str = "test.end";

    async fn run(self, _: Ctx<()>) -> JobResult {
        match self.how {
            How::Snooze => Ok(Verdict::Snooze(Duration::from_secs(3_600))),
            How::Fail => anyhow::bail!("as told"),
            How::Discard => Ok(Verdict::Discard("as told".to_owned())),
        }
    }
}

fn kinds() -> Registry<()> {
    registry![Tidy, Sweep, End]
}

fn schedules(text: &str) -> Schedules {
    Schedules::parse(text, &kinds()).unwrap()
}

fn nightly(missed: &str) -> Schedules {
    schedules(&format!(
        "[[schedule]]\nname = \"nightly\"\nkind = \"test.tidy\"\ncron = \"0 2 * * *\"\nmissed = \"{missed}\""
    ))
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn node(db: &Database, schedules: &Schedules, tenants: &TenantList) -> Scheduler {
    Scheduler::new(db.pool.clone(), schedules.clone(), Arc::new(tenants.clone()))
}

async fn jobs(db: &Database) -> i64 {
    db.count("select count(*) from queue.jobs").await
}

/// The tenants that the host lists at the moment.
#[derive(Clone, Default)]
struct TenantList(Arc<Mutex<Vec<TenantZone>>>);

impl TenantList {
    fn of(tenants: &[(&str, Tz)]) -> Self {
        let list = Self::default();
        list.set(tenants);
        list
    }

    fn set(&self, tenants: &[(&str, Tz)]) {
        let tenants =
            tenants.iter().map(|(tenant, zone)| TenantZone { tenant: (*tenant).to_owned(), time_zone: *zone });
        *self.0.lock().unwrap() = tenants.collect();
    }
}

impl Tenants for TenantList {
    fn schedule_tenants(&self) -> BoxFuture<'_, anyhow::Result<Vec<TenantZone>>> {
        let tenants = self.0.lock().unwrap().clone();
        async { Ok(tenants) }.boxed()
    }
}

/// Ticks and whether they ran.
fn ticks(firings: &[Firing]) -> Vec<(String, bool)> {
    let runs = |firing: &Firing| firing.decision == Decision::Enqueued;
    firings.iter().map(|firing| (firing.tick_at.format("%d %H:%M").to_string(), runs(firing))).collect()
}

fn expected(ticks: &[(&str, bool)]) -> Vec<(String, bool)> {
    ticks.iter().map(|(at, runs)| ((*at).to_owned(), *runs)).collect()
}

/// CRON-2
#[tokio::test]
async fn schedulers_that_beat_at_once_enqueue_each_tick_once() {
    let db = Database::new().await;
    let minutely = schedules(
        "[[schedule]]\nname = \"all\"\nkind = \"test.tidy\"\ncron = \"* * * * *\"\n[[schedule]]\nname = \"each\"\n\
         kind = \"test.tidy\"\ncron = \"* * * * *\"\nper_tenant = true",
    );
    let tenants =
        TenantList::of(&[("acme", Tz::UTC), ("birch", Tz::Europe__Stockholm), ("cedar", Tz::America__New_York)]);
    let nodes: Vec<_> = (0..4).map(|_| node(&db, &minutely, &tenants)).collect();
    let start = at("2026-01-01T00:00:30Z");
    nodes[0].beat(start).await.unwrap();

    let mut fired = 0;
    for minute in 1..=5 {
        // One node's clock is a second ahead.
        let beats = nodes.iter().enumerate().map(|(node, scheduler)| {
            scheduler.beat(start + TimeDelta::minutes(minute) + TimeDelta::seconds(i64::from(node == 3)))
        });
        for firings in futures::future::join_all(beats).await {
            fired += firings.unwrap().len();
        }
    }

    assert_eq!(fired, 5 * 4);
    assert_eq!(jobs(&db).await, 5 * 4);
    let unmatched: i64 = sqlx::query_scalar(
        "select count(*) from queue.schedule_ticks t full join queue.jobs j on j.id = t.job_id
         where j.id is null or t.job_id is null or nullif(t.tenant, '') is distinct from j.tenant",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(unmatched, 0);
    db.close().await;
}

/// CRON-2: a scheduler that dies before its commit leaves the tick to the next one.
#[tokio::test]
async fn a_firing_that_was_cut_off_is_made_good_by_the_next_beat() {
    let db = Database::new().await;
    let (tidy, nobody) = (nightly("skip"), TenantList::default());
    node(&db, &tidy, &nobody).beat(at("2026-01-01T00:00:00Z")).await.unwrap();
    // The enqueue is the last step before the commit. Let it fail.
    let broken = "alter table queue.jobs add constraint broken check (kind <> 'test.tidy')";
    db.pool.execute(broken).await.unwrap();
    let dying = node(&db, &tidy, &nobody);
    let error = dying.beat(at("2026-01-01T02:00:00Z")).await.unwrap_err();
    assert!(format!("{error:#}").starts_with("schedule nightly: "), "{error:#}");
    db.pool.execute("alter table queue.jobs drop constraint broken").await.unwrap();

    let firings = node(&db, &tidy, &nobody).beat(at("2026-01-01T02:00:20Z")).await.unwrap();

    assert_eq!(ticks(&firings), expected(&[("01 02:00", true)]));
    assert_eq!(dying.beat(at("2026-01-01T02:00:21Z")).await.unwrap(), []);
    assert_eq!(jobs(&db).await, 1);
    db.close().await;
}

/// CRON-3
#[tokio::test]
async fn a_new_schedule_does_not_fire_for_the_past() {
    let db = Database::new().await;
    let scheduler = node(&db, &nightly("run_each"), &TenantList::default());
    assert_eq!(scheduler.beat(at("2026-01-01T02:00:01Z")).await.unwrap(), []);
    assert_eq!(scheduler.beat(at("2026-01-02T01:59:59Z")).await.unwrap(), []);
    let firings = scheduler.beat(at("2026-01-02T02:00:00Z")).await.unwrap();
    assert_eq!(ticks(&firings), expected(&[("02 02:00", true)]));
    assert_eq!(scheduler.beat(at("2026-01-02T02:00:01Z")).await.unwrap(), []);
    db.close().await;
}

/// CRON-3
#[tokio::test]
async fn missed_ticks_follow_the_policy() {
    for (policy, back, want) in [
        ("skip", "2026-01-04T08:00:00Z", [("02 02:00", false), ("03 02:00", false), ("04 02:00", false)]),
        ("run_once", "2026-01-04T08:00:00Z", [("02 02:00", false), ("03 02:00", false), ("04 02:00", true)]),
        ("run_each", "2026-01-04T08:00:00Z", [("02 02:00", true), ("03 02:00", true), ("04 02:00", true)]),
        // The last one is on time.
        ("skip", "2026-01-04T02:01:00Z", [("02 02:00", false), ("03 02:00", false), ("04 02:00", true)]),
        ("run_once", "2026-01-04T02:01:00Z", [("02 02:00", false), ("03 02:00", false), ("04 02:00", true)]),
    ] {
        let db = Database::new().await;
        let (tidy, nobody) = (nightly(policy), TenantList::default());
        node(&db, &tidy, &nobody).beat(at("2026-01-01T12:00:00Z")).await.unwrap();

        let firings = node(&db, &tidy, &nobody).beat(at(back)).await.unwrap();

        assert_eq!(ticks(&firings), expected(&want), "{policy}");
        let ran = i64::try_from(want.iter().filter(|(_, runs)| *runs).count()).unwrap();
        assert_eq!(jobs(&db).await, ran, "{policy}");
        let recorded: (i64, i64) = sqlx::query_as("select count(*), count(job_id) from queue.schedule_ticks")
            .fetch_one(&db.pool)
            .await
            .unwrap();
        assert_eq!(recorded, (3, ran), "{policy}");
        db.close().await;
    }
}

/// CRON-3
#[test]
fn catching_up_is_bounded_and_keeps_the_latest() {
    let each_minute =
        schedules("[[schedule]]\nname = \"m\"\nkind = \"test.tidy\"\ncron = \"* * * * *\"\nmissed = \"run_each\"");
    let (from, now) = (at("2024-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
    let due = each_minute.get("m").unwrap().due(Tz::UTC, from, now);
    assert!(due.cut);
    assert_eq!(due.ticks.len(), CATCH_UP_LIMIT);
    assert_eq!(due.ticks.last().unwrap().at, now);
    assert!(due.ticks.iter().all(|tick| tick.runs));
}

/// CRON-4: each tenant by its own clock, over both changes of the year.
#[tokio::test]
async fn a_schedule_per_tenant_fires_once_a_day_by_the_tenants_own_clock() {
    let db = Database::new().await;
    let zones = [("acme", Tz::Europe__Stockholm), ("birch", Tz::America__New_York), ("howe", Tz::Australia__Lord_Howe)];
    let early =
        schedules("[[schedule]]\nname = \"early\"\nkind = \"test.tidy\"\ncron = \"30 2 * * *\"\nper_tenant = true");
    let scheduler = node(&db, &early, &TenantList::of(&zones));
    let mut now = at("2026-01-01T12:00:00Z");
    let mut firings = Vec::new();
    while now <= at("2027-01-01T12:00:00Z") {
        firings.extend(scheduler.beat(now).await.unwrap());
        now += TimeDelta::hours(6); // ticks in between are missed, and run by their policy
    }

    for (tenant, zone) in zones {
        let of_tenant = firings.iter().filter(|firing| firing.tenant.as_deref() == Some(tenant));
        let dates: Vec<_> = of_tenant.map(|firing| firing.tick_at.with_timezone(&zone).date_naive()).collect();
        let days = dates[0].iter_days().take(365).collect::<Vec<_>>();
        assert_eq!(dates, days, "{tenant}");
    }
    assert_eq!(jobs(&db).await, 3 * 365);
    db.close().await;
}

/// CRON-4
#[tokio::test]
async fn a_tenant_that_is_not_listed_has_no_ticks_and_starts_anew_when_it_is_back() {
    let db = Database::new().await;
    let early = schedules(
        "[[schedule]]\nname = \"early\"\nkind = \"test.tidy\"\ncron = \"0 2 * * *\"\nper_tenant = true\nmissed = \"run_each\"",
    );
    let tenants = TenantList::of(&[("acme", Tz::UTC), ("birch", Tz::UTC)]);
    let scheduler = node(&db, &early, &tenants);
    scheduler.beat(at("2026-01-01T00:00:00Z")).await.unwrap();

    tenants.set(&[("acme", Tz::UTC)]);
    let suspended = scheduler.beat(at("2026-01-01T02:00:00Z")).await.unwrap();
    tenants.set(&[("acme", Tz::UTC), ("birch", Tz::UTC)]);
    let back = scheduler.beat(at("2026-01-01T12:00:00Z")).await.unwrap();
    let next = scheduler.beat(at("2026-01-02T02:00:00Z")).await.unwrap();

    let who = |firings: &[Firing]| firings.iter().map(|f| f.tenant.clone().unwrap()).collect::<Vec<_>>();
    assert_eq!(who(&suspended), ["acme"]);
    assert_eq!(back, []);
    assert_eq!(who(&next), ["acme", "birch"]);
    db.close().await;
}

/// CRON-6
#[tokio::test]
async fn a_paused_schedule_skips_its_ticks_and_does_not_make_them_good() {
    let db = Database::new().await;
    let tidy = nightly("run_each");
    let scheduler = node(&db, &tidy, &TenantList::default());
    scheduler.beat(at("2026-01-01T00:00:00Z")).await.unwrap();
    assert!(scheduler::pause(&db.pool, "nightly", at("2026-01-01T01:00:00Z")).await.unwrap());
    assert!(!scheduler::pause(&db.pool, "nightly", at("2026-01-01T01:01:00Z")).await.unwrap());
    let paused = scheduler.beat(at("2026-01-01T02:00:00Z")).await.unwrap();
    assert_eq!(paused[0].decision, Decision::Paused);

    // No scheduler runs at the second night of the pause.
    assert!(scheduler::resume(&db.pool, "nightly", at("2026-01-02T12:00:00Z")).await.unwrap());
    assert!(!scheduler::resume(&db.pool, "nightly", at("2026-01-02T12:00:00Z")).await.unwrap());
    let firings = node(&db, &tidy, &TenantList::default()).beat(at("2026-01-03T02:00:00Z")).await.unwrap();

    assert_eq!(ticks(&firings), expected(&[("03 02:00", true)]));
    assert_eq!(jobs(&db).await, 1);
    db.close().await;
}

/// CRON-6
#[tokio::test]
async fn the_list_shows_the_next_firing_the_last_tick_and_the_pause() {
    let db = Database::new().await;
    let all = schedules(
        "[[schedule]]\nname = \"nightly\"\nkind = \"test.tidy\"\ncron = \"0 2 * * *\"\n[[schedule]]\nname = \"morning\"\n\
         kind = \"test.tidy\"\ncron = \"0 9 * * *\"\nper_tenant = true",
    );
    let tenants = TenantList::of(&[("acme", Tz::Europe__Stockholm), ("birch", Tz::America__New_York)]);
    let scheduler = node(&db, &all, &tenants);
    scheduler.beat(at("2026-01-01T00:00:00Z")).await.unwrap();
    let fired = scheduler.beat(at("2026-01-01T02:00:01Z")).await.unwrap();
    let listed = tenants.schedule_tenants().await.unwrap();
    let mut conn = db.pool.acquire().await.unwrap();

    let now = at("2026-01-01T03:00:00Z");
    let list = scheduler::list(&mut conn, &all, &listed, now).await.unwrap();
    assert_eq!(list[0].next, Some(at("2026-01-02T02:00:00Z")));
    assert_eq!(list[0].last_tick, Some(at("2026-01-01T02:00:00Z")));
    assert_eq!(list[0].last_job_id, fired[0].job_id);
    assert_eq!((list[1].next, list[1].last_tick), (Some(at("2026-01-01T08:00:00Z")), None));

    scheduler::pause(&mut *conn, "morning", now).await.unwrap();
    let list = scheduler::list(&mut conn, &all, &listed, now).await.unwrap();
    assert_eq!((list[0].paused, list[1].paused, list[1].next), (false, true, None));
    drop(conn);
    db.close().await;
}

/// CRON-6
#[tokio::test]
async fn running_one_now_uses_no_tick() {
    let db = Database::new().await;
    let all = schedules(
        "[[schedule]]\nname = \"nightly\"\nkind = \"test.tidy\"\ncron = \"0 2 * * *\"\n[[schedule]]\nname = \"morning\"\n\
         kind = \"test.sweep\"\ncron = \"0 9 * * *\"\nper_tenant = true",
    );
    let scheduler = node(&db, &all, &TenantList::default());
    scheduler.beat(at("2026-01-01T00:00:00Z")).await.unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    let tenants = ["acme".to_owned(), "birch".to_owned()];

    let one = scheduler::run_now(&mut conn, all.get("nightly").unwrap(), &[]).await.unwrap();
    let two = scheduler::run_now(&mut conn, all.get("morning").unwrap(), &tenants).await.unwrap();
    let again = scheduler::run_now(&mut conn, all.get("morning").unwrap(), &tenants[..1]).await.unwrap();

    assert_eq!((one.len(), two.len()), (1, 2));
    assert!(again[0].duplicate && again[0].id == two[0].id);
    let firings = scheduler.beat(at("2026-01-01T02:00:00Z")).await.unwrap();
    assert_eq!(ticks(&firings), expected(&[("01 02:00", true)]));
    drop(conn);
    db.close().await;
}

/// CRON-2, PLAT-6
#[tokio::test]
async fn a_tick_whose_job_is_unfinished_from_the_tick_before_names_that_job() {
    let db = Database::new().await;
    let sweep = schedules("[[schedule]]\nname = \"sweep\"\nkind = \"test.sweep\"\ncron = \"0 * * * *\"");
    let scheduler = node(&db, &sweep, &TenantList::default());
    scheduler.beat(at("2026-01-01T00:30:00Z")).await.unwrap();
    let first = scheduler.beat(at("2026-01-01T01:00:00Z")).await.unwrap();
    let second = scheduler.beat(at("2026-01-01T02:00:00Z")).await.unwrap();

    assert_eq!((first[0].decision, second[0].decision), (Decision::Enqueued, Decision::Duplicate));
    let jobs: Vec<Option<Uuid>> = sqlx::query_scalar("select job_id from queue.schedule_ticks order by tick_at")
        .fetch_all(&db.pool)
        .await
        .unwrap();
    assert_eq!(jobs, [first[0].job_id, first[0].job_id]);
    db.close().await;
}

#[tokio::test]
async fn thousands_of_tenants_fire_in_one_beat() {
    let db = Database::new().await;
    let morning =
        schedules("[[schedule]]\nname = \"morning\"\nkind = \"test.tidy\"\ncron = \"0 9 * * *\"\nper_tenant = true");
    let names: Vec<_> = (0..1_234).map(|n| format!("tenant-{n}")).collect();
    let tenants = TenantList::of(&names.iter().map(|name| (name.as_str(), Tz::Europe__Stockholm)).collect::<Vec<_>>());
    let scheduler = node(&db, &morning, &tenants);
    scheduler.beat(at("2026-01-01T00:00:00Z")).await.unwrap();
    let firings = scheduler.beat(at("2026-01-01T08:00:00Z")).await.unwrap();
    assert_eq!(firings.len(), 1_234);
    assert_eq!(jobs(&db).await, 1_234);
    db.close().await;
}

#[tokio::test]
async fn old_ticks_are_forgotten_but_never_the_latest() {
    let db = Database::new().await;
    let scheduler = node(&db, &nightly("skip"), &TenantList::default());
    db.pool
        .execute(
            "insert into queue.schedule_ticks (schedule, tenant, tick_at)
             values ('yearly', '', '2024-01-01Z'), ('yearly', '', '2025-01-01Z'), ('daily', '', '2025-12-31Z')",
        )
        .await
        .unwrap();
    scheduler.beat(at("2026-01-01T00:00:00Z")).await.unwrap();
    let left: Vec<DateTime<Utc>> = sqlx::query_scalar("select tick_at from queue.schedule_ticks order by tick_at")
        .fetch_all(&db.pool)
        .await
        .unwrap();
    assert_eq!(left, [at("2025-01-01T00:00:00Z"), at("2025-12-31T00:00:00Z")]);
    db.close().await;
}

/// CRON-2, CRON-3: the running scheduler, with its real clock, outlives a database that goes away and comes back.
#[tokio::test]
async fn a_running_scheduler_rides_out_a_database_that_goes_away() {
    let db = Database::new().await;
    let secondly =
        schedules("[[schedule]]\nname = \"s\"\nkind = \"test.tidy\"\ncron = \"* * * * * *\"\nmissed = \"run_each\"");
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(node(&db, &secondly, &TenantList::default()).run(shutdown.clone()));
    wait_for_ticks(&db, 1).await;

    let server = (*db.pool.connect_options()).clone().database("postgres");
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&db.pool).await.unwrap();
    let away = format!("{name}_away");
    let cut = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");
    execute(&server, format!("alter database {name} with allow_connections false")).await;
    execute(&server, cut).await;
    // Renamed and back: for a moment there is no such database at all.
    execute(&server, format!("alter database {name} rename to {away}")).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await; // long enough for a beat to fail
    execute(&server, format!("alter database {away} rename to {name}")).await;
    execute(&server, format!("alter database {name} with allow_connections true")).await;
    let before = count_ticks(&db).await;
    wait_for_ticks(&db, before + 2).await;

    shutdown.cancel();
    running.await.unwrap();
    // No second was lost and none doubled.
    let (ticks, jobs, seconds): (i64, i64, i64) = sqlx::query_as(
        "select count(*), (select count(*) from queue.jobs), extract(epoch from max(tick_at) - min(tick_at))::bigint + 1
         from queue.schedule_ticks",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!((ticks, jobs), (seconds, seconds));
    db.close().await;
}

async fn count_ticks(db: &Database) -> i64 {
    db.count("select count(*) from queue.schedule_ticks").await
}

async fn wait_for_ticks(db: &Database, count: i64) {
    let waiting = async {
        while count_ticks(db).await < count {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), waiting).await.expect("the scheduler fires each second");
}

async fn execute(server: &PgConnectOptions, sql: String) {
    let mut db = PgConnection::connect_with(server).await.unwrap();
    db.execute(AssertSqlSafe(sql)).await.unwrap();
}
