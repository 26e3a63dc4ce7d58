//! The scheduler on a real PostgreSQL. Time is a parameter; nothing here sleeps to let time pass.
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use backroom_queue::{
    Ctx, Job, JobResult, Registry, Unique, Verdict, registry,
    scheduler::{
        self, CATCH_UP_LIMIT, Decision, Firing, Overlap, Period, PeriodError, Scheduler, Schedules, TenantZone,
        Tenants, Verification, VerifyError, WallClock,
    },
    testing,
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

/// CRON-1
#[test]
fn an_invalid_file_names_the_line_and_the_schedule() {
    let file = |lines: &str| format!("# ours\n\n[[schedule]]\nname = \"first\"\nkind = \"test.tidy\"\n{lines}\n");
    for (lines, line, schedule, message) in [
        ("cron = \"61 * * * *\"", 6, Some("first"), "is not a cron expression"),
        ("cron = \"0 0 30 2 *\"", 6, Some("first"), "there is no such day"),
        ("cron = \"0 9 * * *\"\ntime_zone = \"Europe/Stokholm\"", 7, Some("first"), "no time zone \"Europe/Stokholm\""),
        ("cron = \"0 9 * * *\"\nper_tenant = true\ntime_zone = \"UTC\"", 8, Some("first"), "remove time_zone"),
        ("cron = \"0 9 * * *\"\nmised = \"skip\"", 7, Some("first"), "unknown field `mised`"),
        ("cron = \"0 9 * * *\"\nmissed = \"never\"", 7, Some("first"), "unknown variant `never`"),
        ("cron = \"0 9 * * *\"\noverlap = \"cancel\"", 7, Some("first"), "unknown variant `cancel`"),
        ("cron = \"0 9 * * *\"\noverlap = true", 7, Some("first"), ""),
        ("cron = \"0 9 * * *\"\nargs = { depth = 999 }", 7, Some("first"), "at depth: invalid value"),
        ("cron = \"0 9 * * *\"\n[schedule.args]\ndepth = 1\ndeep = 2", 9, Some("first"), "unknown field `deep`"),
        (
            "cron = \"0 9 * * *\"\n[[schedule]]\nname = \"first\"\nkind = \"test.tidy\"\ncron = \"@daily\"",
            8,
            Some("first"),
            "unique",
        ),
        (
            "cron = \"0 9 * * *\"\n[[schedule]]\nname = \"second\"\nkind = \"test.none\"\ncron = \"@daily\"",
            9,
            Some("second"),
            "known are test.end, test.sweep, test.tidy",
        ),
        (
            "cron = \"0 9 * * *\"\n[[schedule]]\nname = \"second\"\ncron = \"@daily\"",
            7,
            Some("second"),
            "missing field `kind`",
        ),
        (
            "cron = \"0 9 * * *\"\n[[schedule]]\nname = \"A b\"\nkind = \"test.tidy\"\ncron = \"@daily\"",
            8,
            Some("A b"),
            "a name is",
        ),
        ("cron = 0 9", 6, None, ""),
        ("cron = \"0 9 * * *\"\n[[schedules]]", 7, Some("first"), "unknown field `schedules`"),
    ] {
        let error = Schedules::parse(&file(lines), &kinds()).unwrap_err();
        assert_eq!((error.line, error.schedule.as_deref()), (line, schedule), "{lines}: {error}");
        assert!(error.message.contains(message), "{lines}: {error}");
        assert!(error.to_string().starts_with(&format!("line {line}: ")), "{error}");
    }
}

/// CRON-1
#[test]
fn a_valid_file_gives_its_schedules_in_order() {
    let all = schedules(
        "[[schedule]]\nname = \"b\"\nkind = \"test.tidy\"\ncron = \"0 9 * * mon-fri\"\nargs = { depth = 3 }\n\
         time_zone = \"Europe/Stockholm\"\n[[schedule]]\nname = \"a\"\nkind = \"test.sweep\"\ncron = \"@hourly\"\nper_tenant = true",
    );
    let summary: Vec<_> = all.iter().map(|s| (s.name.as_str(), s.kind(), s.time_zone, s.args().to_string())).collect();
    assert_eq!(
        summary,
        [
            ("b", "test.tidy", Some(Tz::Europe__Stockholm), r#"{"depth":3}"#.to_owned()),
            ("a", "test.sweep", None, "{}".to_owned()),
        ]
    );
    let friday = at("2026-03-27T12:00:00Z");
    let next = scheduler::next_firings(all.get("b").unwrap(), Tz::Europe__Stockholm, friday, 2);
    // The clock changes between the two.
    assert_eq!(next.map_to_string(), ["2026-03-30T09:00:00+02:00", "2026-03-31T09:00:00+02:00"]);
    assert!(schedules("").iter().next().is_none());
}

trait MapToString {
    fn map_to_string(&self) -> Vec<String>;
}

impl MapToString for Vec<DateTime<Tz>> {
    fn map_to_string(&self) -> Vec<String> {
        self.iter().map(DateTime::to_rfc3339).collect()
    }
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

fn period(from: &str, to: &str) -> Period {
    Period { from: from.parse().unwrap(), to: to.parse().unwrap() }
}

async fn verified(
    db: &Database,
    all: &Schedules,
    name: &str,
    tenants: &TenantList,
    (from, to): (&str, &str),
    now: &str,
) -> Verification {
    let tenants = tenants.schedule_tenants().await.unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    scheduler::verify(&mut conn, all.get(name).unwrap(), &tenants, period(from, to), at(now), 10_000).await.unwrap()
}

/// Each firing and each clock change in its place: `local offset`, or `before > after` of the offset.
fn timeline(verification: &Verification) -> Vec<String> {
    let note = |clock: WallClock| match clock {
        WallClock::Once => "",
        WallClock::JumpedOver => " jumped over",
        WallClock::FirstPass => " first",
        WallClock::SecondPass => " second",
    };
    let firings = verification.firings.iter().map(|firing| {
        assert_eq!(firing.at, firing.local.to_utc());
        (firing.at, 1, format!("{}{}", firing.local.format("%d %H:%M %:z"), note(firing.wall_clock)))
    });
    let changes = verification.clock_changes.iter().map(|c| (c.at, 0, format!("{} > {}", c.before, c.after)));
    let mut lines: Vec<_> = firings.chain(changes).collect();
    lines.sort();
    lines.into_iter().map(|(.., line)| line).collect()
}

/// CRON-4, CRON-5
#[tokio::test]
async fn every_firing_over_a_clock_change_is_shown_and_the_change_between_them() {
    let db = Database::new().await;
    for (zone, cron, days, want) in [
        (
            "Europe/Stockholm",
            "30 2 * * *",
            ("2026-03-28", "2026-03-31"),
            vec!["28 02:30 +01:00", "+01:00 > +02:00", "29 03:00 +02:00 jumped over", "30 02:30 +02:00"],
        ),
        (
            "Europe/Stockholm",
            "30 2 * * *",
            ("2026-10-24", "2026-10-27"),
            vec!["24 02:30 +02:00", "25 02:30 +02:00 first", "+02:00 > +01:00", "26 02:30 +01:00"],
        ),
        (
            "Europe/Stockholm",
            "0 * * * *",
            ("2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z"),
            vec!["25 02:00 +02:00 first", "+02:00 > +01:00", "25 02:00 +01:00 second", "25 03:00 +01:00"],
        ),
        // South of the equator the year's first change goes back.
        (
            "America/Santiago",
            "30 23 * * *",
            ("2026-04-03", "2026-04-06"),
            vec!["03 23:30 -03:00", "04 23:30 -03:00 first", "-03:00 > -04:00", "05 23:30 -04:00"],
        ),
        // Midnight itself does not exist: the day begins at one.
        (
            "America/Santiago",
            "0 0 * * *",
            ("2026-09-05", "2026-09-08"),
            vec!["05 00:00 -04:00", "-04:00 > -03:00", "06 01:00 -03:00 jumped over", "07 00:00 -03:00"],
        ),
        // Half an hour.
        (
            "Australia/Lord_Howe",
            "10 2 * * *",
            ("2026-10-03", "2026-10-06"),
            vec!["03 02:10 +10:30", "+10:30 > +11:00", "04 02:30 +11:00 jumped over", "05 02:10 +11:00"],
        ),
        (
            "Australia/Lord_Howe",
            "*/30 1 * * *",
            ("2026-04-04", "2026-04-06"),
            vec!["04 01:00 +11:00", "04 01:30 +11:00", "05 01:00 +11:00", "05 01:30 +11:00 first", "+11:00 > +10:30"],
        ),
        // A whole day is left out.
        (
            "Pacific/Apia",
            "0 9 * * *",
            ("2011-12-29", "2012-01-01"),
            vec!["29 09:00 -10:00", "-10:00 > +14:00", "31 00:00 +14:00 jumped over", "31 09:00 +14:00"],
        ),
        ("UTC", "0 0 1 * *", ("2026-01-02", "2026-02-01"), vec![]),
    ] {
        let all = schedules(&format!(
            "[[schedule]]\nname = \"s\"\nkind = \"test.tidy\"\ncron = \"{cron}\"\ntime_zone = \"{zone}\""
        ));
        let seen = verified(&db, &all, "s", &TenantList::default(), days, "2000-01-01T00:00:00Z").await;
        assert_eq!(timeline(&seen), want, "{cron} in {zone}");
        assert!(seen.firings.iter().all(|firing| firing.expected && firing.outcomes.is_empty()));
    }
    db.close().await;
}

/// CRON-5: what is foretold is what the beat decides, whatever the steps of its clock.
#[tokio::test]
async fn what_verify_foretells_is_what_the_beat_enqueues() {
    let db = Database::new().await;
    let zones = ["Europe/Stockholm", "America/Santiago", "Australia/Lord_Howe"];
    let crons = ["30 2 * * *", "*/20 1-3 * * *", "0 */3 * * *", "15 0,2,23 * * *", "45 1 * * sun"];
    let entry = |(n, (zone, cron)): (usize, (&str, &str))| {
        format!(
            "[[schedule]]\nname = \"s{n}\"\nkind = \"test.tidy\"\nmissed = \"run_each\"\ntime_zone = \"{zone}\"\ncron = \"{cron}\"\n"
        )
    };
    let pairs = zones.iter().flat_map(|zone| crons.iter().map(move |cron| (*zone, *cron)));
    let all = schedules(&pairs.enumerate().map(entry).collect::<String>());
    let nobody = TenantList::default();
    for (from, to) in
        [("2026-03-27T00:00:00Z", "2026-04-06T00:00:00Z"), ("2026-10-02T00:00:00Z", "2026-10-05T00:00:00Z")]
    {
        db.pool.execute("truncate queue.schedule_cursors, queue.schedule_ticks").await.unwrap();
        let foretold = all.iter().map(|s| verified(&db, &all, &s.name, &nobody, (from, to), "2000-01-01T00:00:00Z"));
        let foretold = futures::future::join_all(foretold).await;
        let scheduler = node(&db, &all, &nobody);
        let (mut now, mut step) = (at(from) - TimeDelta::seconds(1), 0);
        while now < at(to) {
            scheduler.beat(now).await.unwrap();
            // 1 minute to 9 hours, in no order.
            step = (step * 7 + 11) % 541;
            now += TimeDelta::minutes(1 + step);
        }
        scheduler.beat(at(to) - TimeDelta::milliseconds(1)).await.unwrap();

        for (schedule, foretold) in all.iter().zip(foretold) {
            let decided: Vec<DateTime<Utc>> =
                sqlx::query_scalar("select tick_at from queue.schedule_ticks where schedule = $1 order by tick_at")
                    .bind(&schedule.name)
                    .fetch_all(&db.pool)
                    .await
                    .unwrap();
            let expected: Vec<_> = foretold.firings.iter().map(|firing| firing.at).collect();
            assert!(!expected.is_empty());
            assert_eq!(decided, expected, "{} {:?}", schedule.cron.as_str(), schedule.time_zone);
            let seen = verified(&db, &all, &schedule.name, &nobody, (from, to), to).await;
            assert!(seen.firings.iter().all(|f| f.expected && f.outcomes[0].outcome == "enqueued"), "{seen:?}");
        }
    }
    db.close().await;
}

/// What became of each firing: `day hour: outcome …`, unexpected ones with a question mark.
fn fates(verification: &Verification) -> Vec<String> {
    let fate = |firing: &scheduler::VerifiedFiring| {
        let outcomes = firing.outcomes.iter().map(|outcome| match outcome.tenants.as_slice() {
            [] => outcome.outcome.clone(),
            tenants => format!("{} {}", outcome.outcome, tenants.join(" ")),
        });
        let mark = if firing.expected { "" } else { "?" };
        format!("{}{mark}: {}", firing.at.format("%d %H"), outcomes.collect::<Vec<_>>().join(", "))
    };
    verification.firings.iter().map(fate).collect()
}

/// CRON-5
#[tokio::test]
async fn what_should_have_fired_is_compared_with_what_did() {
    let db = Database::new().await;
    let (all, nobody) = (nightly("skip"), TenantList::default());
    let scheduler = node(&db, &all, &nobody);
    scheduler.beat(at("2026-01-02T12:00:00Z")).await.unwrap();
    let enqueued = scheduler.beat(at("2026-01-03T02:00:00Z")).await.unwrap();
    scheduler.beat(at("2026-01-04T08:00:00Z")).await.unwrap();
    scheduler::pause(&db.pool, "nightly", at("2026-01-04T09:00:00Z")).await.unwrap();
    scheduler.beat(at("2026-01-05T02:00:00Z")).await.unwrap();
    scheduler::resume(&db.pool, "nightly", at("2026-01-05T09:00:00Z")).await.unwrap();
    scheduler.beat(at("2026-01-06T02:00:00Z")).await.unwrap();
    // Somebody lost a row, and the schedule once had another hour.
    db.pool
        .execute(
            "delete from queue.schedule_ticks where tick_at = '2026-01-06T02:00Z';
             insert into queue.schedule_ticks (schedule, tenant, tick_at) values ('nightly', '', '2026-01-06T04:00Z')",
        )
        .await
        .unwrap();

    let days = ("2026-01-01", "2026-01-09");
    let seen = verified(&db, &all, "nightly", &nobody, days, "2026-01-07T08:00:00Z").await;
    let want = [
        "01 02: unrecorded",
        "02 02: unrecorded",
        "03 02: enqueued",
        "04 02: missed",
        "05 02: paused",
        "06 02: missing",
        "06 04?: skipped",
        "07 02: owed",
        "08 02: ",
    ];
    assert_eq!(fates(&seen), want);
    assert_eq!(seen.firings[2].outcomes[0].job_id, enqueued[0].job_id);
    // After 90 days ticks are forgotten, and that is nobody's fault.
    let later = verified(&db, &all, "nightly", &nobody, ("2026-01-06", "2026-01-07"), "2026-06-01T00:00:00Z").await;
    assert_eq!(fates(&later)[0], "06 02: unrecorded");
    db.close().await;
}

/// CRON-5
#[tokio::test]
async fn a_schedule_per_tenant_is_verified_in_each_zone_and_for_each_tenant() {
    let db = Database::new().await;
    let all =
        schedules("[[schedule]]\nname = \"daily\"\nkind = \"test.tidy\"\ncron = \"0 9 * * *\"\nper_tenant = true");
    let tenants = TenantList::of(&[
        ("acme", Tz::Europe__Stockholm),
        ("birch", Tz::Europe__Stockholm),
        ("cedar", Tz::America__New_York),
    ]);
    let scheduler = node(&db, &all, &tenants);
    for now in ["2026-03-28T00:00:00Z", "2026-03-28T08:00:00Z", "2026-03-28T13:00:00Z"] {
        scheduler.beat(at(now)).await.unwrap();
    }
    db.pool.execute("delete from queue.schedule_ticks where tenant = 'birch'").await.unwrap();
    let (days, now) = (("2026-03-28", "2026-03-30"), "2026-03-28T20:00:00Z");

    let seen = verified(&db, &all, "daily", &tenants, days, now).await;
    assert_eq!(fates(&seen), ["28 08: enqueued acme, missing birch", "28 13: enqueued cedar", "29 07: ", "29 13: "]);
    let locals: Vec<_> = seen.firings.iter().map(|f| (f.local.format("%H:%M").to_string(), f.time_zone)).collect();
    assert!(locals.iter().all(|(local, _)| local == "09:00"), "{locals:?}");
    assert_eq!((seen.clock_changes.len(), seen.clock_changes[0].time_zone), (1, Tz::Europe__Stockholm));

    let listed = tenants.schedule_tenants().await.unwrap();
    let daily = all.get("daily").unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    let one = scheduler::verify(&mut conn, daily, &listed[2..], period(days.0, days.1), at(now), 100).await.unwrap();
    assert_eq!(fates(&one), ["28 13: enqueued cedar", "29 13: "]);

    // In pages of one instant, nothing is lost and nothing comes twice.
    let (mut from, mut paged) = (days.0.parse().unwrap(), Vec::new());
    loop {
        let period = Period { from, to: days.1.parse().unwrap() };
        let page = scheduler::verify(&mut conn, daily, &listed, period, at(now), 1).await.unwrap();
        assert_eq!(page.firings.len(), 1);
        paged.extend(page.firings);
        let Some(next) = page.next_from else { break };
        from = scheduler::Moment::Instant(next);
    }
    assert_eq!(paged, seen.firings);
    assert!(
        scheduler::verify(&mut conn, daily, &[], period(days.0, days.1), at(now), 1).await.unwrap().firings.is_empty()
    );
    drop(conn);
    db.close().await;
}

/// CRON-5
#[tokio::test]
async fn a_period_that_makes_no_sense_is_refused() {
    for text in ["", "tomorrow", "2026-02-30", "2026-03-29 02:00", "2026-03-29T02:00:00", "1969-12-31", "2201-01-01"] {
        assert!(text.parse::<scheduler::Moment>().is_err(), "{text:?} was accepted");
    }
    let db = Database::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let all = nightly("skip");
    for (from, to, error) in [
        ("2026-03-29", "2026-03-29", PeriodError::Empty),
        ("2026-03-29T00:00:00Z", "2026-03-28T23:59:59Z", PeriodError::Empty),
        ("2026-01-01", "2036-06-01", PeriodError::TooLong),
    ] {
        let refused = scheduler::verify(
            &mut conn,
            all.get("nightly").unwrap(),
            &[],
            period(from, to),
            at("2026-01-01T00:00:00Z"),
            1,
        );
        let refused = refused.await.unwrap_err();
        assert!(matches!(refused, VerifyError::Period(e) if e == error), "{from} {to}: {refused}");
    }
    drop(conn);
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
