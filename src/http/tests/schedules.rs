//! Schedules, as the operator works with them.

use backroom_queue::scheduler::Scheduler;
use chrono::Days;

use super::*;

/// Every operation on schedules, with what a valid call answers.
const OPERATIONS: [(Method, &str, StatusCode); 7] = [
    (Method::GET, "/api/v1/schedules", StatusCode::OK),
    (Method::GET, "/api/v1/schedules/nightly", StatusCode::OK),
    (Method::GET, "/api/v1/schedules/nightly/next", StatusCode::OK),
    (Method::GET, "/api/v1/schedules/nightly/firings?from=2026-03-28&to=2026-03-31", StatusCode::OK),
    (Method::POST, "/api/v1/schedules/nightly/run", StatusCode::ACCEPTED),
    (Method::POST, "/api/v1/schedules/nightly/pause", StatusCode::NO_CONTENT),
    (Method::POST, "/api/v1/schedules/nightly/resume", StatusCode::NO_CONTENT),
];

impl World {
    /// Lets a scheduler begin four days ago at noon, and come back yesterday at noon: three nights later.
    async fn three_nights_go_by(&self) {
        let registry = crate::jobs::registry(&self.app.config);
        let schedules = Schedules::parse(SCHEDULES, &registry).unwrap();
        let scheduler = Scheduler::new(self.app.db.clone(), schedules, self.app.clone());
        let noon = |days_ago| {
            let date = self.app.clock.now().date_naive().checked_sub_days(Days::new(days_ago)).unwrap();
            date.and_hms_opt(12, 0, 0).unwrap().and_utc()
        };
        for now in [noon(4), noon(1)] {
            scheduler.beat(now).await.unwrap();
        }
    }
}

/// CRON-5, CRON-6, AUTH-3
#[tokio::test]
async fn schedules_are_the_operators_alone() {
    let world = World::new().await;
    for (method, path, status) in OPERATIONS {
        world.send(request(method.clone(), path, "", &[], None)).await.problem(401, "unauthenticated");
        world.send(request(method.clone(), path, &world.key, &[], None)).await.problem(403, "forbidden");
        let answer = world.operate(method.clone(), path, None).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        let unknown = path.replace("nightly", "none");
        if unknown != path {
            world.operate(method.clone(), &unknown, None).await.problem(404, "not-found");
        }
    }
    let closed = World::with(&[("BACKROOM__HTTP__OPERATOR_TOKEN", "")]).await;
    for (method, path, _) in OPERATIONS {
        closed.send(request(method, path, &closed.key, &[], None)).await.problem(403, "forbidden");
    }
}

/// CRON-5
#[tokio::test]
async fn the_firings_of_a_period_are_shown_with_the_clock_change_between_them() {
    let world = World::new().await;
    let path = "/api/v1/schedules/nightly/firings?from=2030-03-30&to=2030-04-02";
    let answer = world.operate(Method::GET, path, None).await.json();
    let firing = |local: &str, at: &str, wall_clock: &str| {
        json!({"at": at, "local": local, "time_zone": "Europe/Stockholm", "wall_clock": wall_clock, "expected": true,
               "outcomes": []})
    };
    let expected = json!({
        "firings": [
            firing("2030-03-30T02:30:00+01:00", "2030-03-30T01:30:00Z", "once"),
            firing("2030-03-31T03:00:00+02:00", "2030-03-31T01:00:00Z", "jumped_over"),
            firing("2030-04-01T02:30:00+02:00", "2030-04-01T00:30:00Z", "once"),
        ],
        "clock_changes": [
            {"at": "2030-03-31T01:00:00Z", "time_zone": "Europe/Stockholm", "before": "+01:00", "after": "+02:00"},
        ],
        "next_from": null,
    });
    assert_eq!(answer, expected);

    let page = world.operate(Method::GET, &format!("{path}&limit=2"), None).await.json();
    assert_eq!(page["firings"], json!([expected["firings"][0], expected["firings"][1]]));
    let rest = format!("/api/v1/schedules/nightly/firings?to=2030-04-02&from={}", page["next_from"].as_str().unwrap());
    let rest = world.operate(Method::GET, &rest, None).await.json();
    assert_eq!((&rest["firings"], &rest["clock_changes"]), (&json!([expected["firings"][2]]), &json!([])));

    // Per organization: each clock in use, or the one organization's.
    let path = "/api/v1/schedules/sweep/firings?from=2030-01-01&to=2030-01-03";
    let all = world.operate(Method::GET, path, None).await.json();
    let own = world.operate(Method::GET, &format!("{path}&organization=acme"), None).await.json();
    assert_eq!((all["firings"].as_array().unwrap().len(), &own["firings"]), (2, &all["firings"]));
    world.operate(Method::POST, "/api/v1/organizations/acme/suspend", None).await;
    assert_eq!(world.operate(Method::GET, path, None).await.json()["firings"], json!([]));
}

/// CRON-5
#[tokio::test]
async fn a_period_that_cannot_be_shown_is_refused_by_its_field() {
    let world = World::new().await;
    for (schedule, query, errors) in [
        ("nightly", "from=2026-03-28", vec!["to required"]),
        ("nightly", "from=2026-03-28&to=2026-03-28", vec!["to invalid"]),
        ("nightly", "from=2026-03-28&to=2026-03-27", vec!["to invalid"]),
        ("nightly", "from=2026-03-28&to=2036-12-01", vec!["to invalid"]),
        ("nightly", "from=yesterday&to=2026-03-28", vec!["from invalid"]),
        ("nightly", "from=2026-02-30&to=2026-03-28", vec!["from invalid"]),
        ("nightly", "from=9999-01-01&to=9999-01-02", vec!["from invalid"]),
        ("nightly", "from=2026-03-28&to=2026-03-29&limit=0", vec!["limit invalid"]),
        ("nightly", "from=2026-03-28&to=2026-03-29&zone=UTC", vec!["zone unknown_field"]),
        ("nightly", "from=2026-03-28&to=2026-03-29&organization=acme", vec!["organization invalid"]),
        ("sweep", "from=2026-03-28&to=2026-03-29&organization=nobody", vec!["organization unknown"]),
        ("sweep", "from=2026-03-28&to=2026-03-29&organization=", vec!["organization unknown"]),
        ("sweep", "from=2026-03-29&to=2026-03-29", vec!["to invalid"]),
    ] {
        let path = format!("/api/v1/schedules/{schedule}/firings?{query}");
        let refused = world.operate(Method::GET, &path, None).await;
        assert_eq!(refused.problem(422, "validation"), errors, "{path}");
    }
    for path in ["sweep?organization=nobody", "sweep/next?organization=nobody"] {
        let refused = world.operate(Method::GET, &format!("/api/v1/schedules/{path}"), None).await;
        assert_eq!(refused.problem(422, "validation"), ["organization unknown"]);
    }
    let both = "/api/v1/schedules/sweep/next?organization=acme&time_zone=UTC";
    assert_eq!(world.operate(Method::GET, both, None).await.problem(422, "validation"), ["time_zone invalid"]);
}

/// CRON-5, CRON-6
#[tokio::test]
async fn a_schedule_shows_its_ticks_with_their_jobs_and_what_was_skipped() {
    let world = World::new().await;
    let fresh = world.operate(Method::GET, "/api/v1/schedules/nightly", None).await.json();
    assert_eq!((&fresh["ticks"], &fresh["last_tick"], &fresh["overlap"]), (&json!([]), &Value::Null, &json!("skip")));
    world.three_nights_go_by().await;

    let shown = world.operate(Method::GET, "/api/v1/schedules/nightly", None).await.json();
    assert_eq!(
        (shown["upcoming"].as_array().unwrap().len(), &shown["last_outcome"]),
        (5, &json!("overlap")),
        "{shown}"
    );
    let ticks = shown["ticks"].as_array().unwrap();
    assert_eq!(ticks.len(), 3, "{shown}");
    assert_eq!((&ticks[2]["outcome"], &ticks[1]["outcome"]), (&json!("enqueued"), &json!("overlap")));
    assert!(ticks[2]["job_id"].is_string() && ticks[1]["blocked_by"] == ticks[2]["job_id"], "{shown}");

    // The same ticks, looked at from what should have fired.
    let today = world.app.clock.now().date_naive();
    let (from, to) = (today.checked_sub_days(Days::new(10)).unwrap(), today.checked_add_days(Days::new(2)).unwrap());
    let path = format!("/api/v1/schedules/nightly/firings?from={from}&to={to}");
    let firings = world.operate(Method::GET, &path, None).await.json();
    let outcomes: Vec<_> =
        firings["firings"].as_array().unwrap().iter().map(|f| f["outcomes"][0]["outcome"].as_str()).collect();
    // Last night is owed, if its time has come.
    let undecided = ["unrecorded", "owed"];
    let decided: Vec<_> = outcomes.iter().flatten().filter(|outcome| !undecided.contains(outcome)).collect();
    assert_eq!(decided, [&"enqueued", &"overlap", &"overlap"], "{firings}");
    assert_eq!((outcomes[0], outcomes.last()), (Some("unrecorded"), Some(&None)));

    world.operate(Method::POST, "/api/v1/schedules/nightly/pause", None).await;
    let paused = world.operate(Method::GET, "/api/v1/schedules/nightly", None).await.json();
    assert_eq!((&paused["paused"], &paused["next"], &paused["upcoming"]), (&json!(true), &Value::Null, &json!([])));
}

/// CRON-6, API-3
#[tokio::test]
async fn a_schedule_runs_for_one_organization_once_per_key() {
    let world = World::new().await;
    let path = "/api/v1/schedules/sweep/run?organization=acme";
    let run = |path: &'static str, key: &'static str| {
        world.send(request(Method::POST, path, OPERATOR, &[("idempotency-key", key)], None))
    };
    let (first, second) = (run(path, "run-1").await, run(path, "run-1").await);
    assert_eq!((first.status, &first.text), (StatusCode::ACCEPTED, &second.text), "{}", first.text);
    assert_eq!((first.header("idempotency-replayed"), second.header("idempotency-replayed")), ("", "true"));
    assert_eq!(first.json()["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(world.jobs_stored().await, 1);
    // Without an organization there is nobody to keep the key for, and no key is better than one that is not kept.
    for path in ["/api/v1/schedules/nightly/run", "/api/v1/schedules/sweep/run"] {
        assert_eq!(run(path, "run-2").await.problem(422, "validation"), ["Idempotency-Key invalid"]);
    }
    let wrong = run("/api/v1/schedules/nightly/run?organization=acme", "run-3").await;
    assert_eq!(wrong.problem(422, "validation"), ["organization invalid"]);
    let unknown = run("/api/v1/schedules/sweep/run?organization=nobody", "run-3").await;
    assert_eq!(unknown.problem(422, "validation"), ["organization unknown"]);
    assert_eq!(world.jobs_stored().await, 1);
}
