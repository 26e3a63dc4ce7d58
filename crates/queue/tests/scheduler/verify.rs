//! Verifying a period: what fires and what should have fired, over changes of the clock.

use backroom_queue::scheduler::{self, Period, PeriodError, Schedules, Tenants, Verification, VerifyError, WallClock};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use sqlx::Executor;

use crate::{TenantList, at, nightly, node, schedules, support::Database};

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
