//! Jobs: enqueue, look, cancel, retry.

use super::*;

/// API-2
#[tokio::test]
async fn a_job_is_enqueued_read_listed_cancelled_and_retried() {
    let world = World::new().await;
    let body =
        json!({"kind": "debug.noop", "args": {}, "priority": 3, "run_at": "2036-01-01T00:00:00Z", "unique_key": "u"});
    let queued = world.post("/api/v1/jobs", body.clone()).await;
    assert_eq!(queued.status, StatusCode::ACCEPTED, "{}", queued.text);
    let id = queued.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(queued.json(), json!({"id": id, "state": "scheduled", "duplicate": false}));
    assert_eq!(queued.header("location"), format!("/api/v1/jobs/{id}"));

    let again = world.post("/api/v1/jobs", body).await;
    assert_eq!(again.json(), json!({"id": id, "state": "scheduled", "duplicate": true}), "PLAT-6");

    let job = world.get(&format!("/api/v1/jobs/{id}")).await.json();
    assert_eq!((job["kind"].as_str(), job["priority"].as_i64()), (Some("debug.noop"), Some(3)));
    assert!(job["trace"].is_string(), "PLAT-17: {job}");
    for query in ["state=scheduled", "kind=debug.noop", "queue=default", ""] {
        assert_eq!(world.get(&format!("/api/v1/jobs?{query}")).await.json()["jobs"].as_array().unwrap().len(), 1);
    }
    assert_eq!(world.get("/api/v1/jobs?state=completed").await.json()["jobs"], json!([]));

    let cancelled = world.post(&format!("/api/v1/jobs/{id}/cancel"), json!({})).await;
    assert_eq!((cancelled.status, cancelled.json()["state"].as_str()), (StatusCode::OK, Some("cancelled")));
    world.post(&format!("/api/v1/jobs/{id}/cancel"), json!({})).await.problem(409, "conflict");
    let retried = world.send(request(Method::POST, &format!("/api/v1/jobs/{id}/retry"), &world.key, &[], None)).await;
    assert_eq!(retried.status, StatusCode::ACCEPTED, "{}", retried.text);
    world.get(&format!("/api/v1/jobs/{}", Uuid::now_v7())).await.problem(404, "not-found");
}

/// API-2, API-4
#[tokio::test]
async fn a_job_that_is_not_right_is_refused_by_field_and_nothing_is_stored() {
    let world = World::new().await;
    for (body, fields) in [
        (json!({"kind": "debug.nop", "args": {}}), vec!["kind unknown"]),
        (json!({"args": {}}), vec!["kind required"]),
        (json!({"kind": "debug.noop", "args": {}, "prio": 1}), vec!["prio unknown_field"]),
        (json!({"kind": "debug.sleep", "args": {"ms": "long"}}), vec!["args.ms invalid"]),
        (json!({"kind": "debug.sleep", "args": {"ms": 1, "x": 2}}), vec!["args.x unknown_field"]),
        (json!({"kind": "debug.sleep", "args": {}}), vec!["args.ms required"]),
        (json!({"kind": "debug.noop", "queue": "nowhere"}), vec!["queue unknown"]),
        (json!({"kind": "debug.noop", "run_at": "tomorrow"}), vec!["run_at invalid"]),
        (json!({"kind": "debug.noop", "run_at": "9999-01-01T00:00:00Z"}), vec!["run_at out_of_range"]),
        (json!({"kind": "debug.noop", "run_at": "-5000-01-01T00:00:00Z"}), vec!["run_at out_of_range"]),
        (json!({"kind": "debug.noop", "run_at": "1969-12-31T23:59:59Z"}), vec!["run_at out_of_range"]),
        (json!({"kind": "debug.noop", "priority": 40000}), vec!["priority invalid"]),
        (
            json!({"kind": "debug.noop", "max_attempts": 0, "unique_key": ""}),
            vec!["max_attempts out_of_range", "unique_key out_of_range"],
        ),
        (json!({"kind": "debug.append", "args": {"path": "\0", "line": "x"}}), vec!["args.path invalid"]),
        (json!([]), vec!["body invalid"]),
        (json!(["debug.noop"]), vec!["body invalid"]),
    ] {
        let answer = world.post("/api/v1/jobs", body.clone()).await;
        assert_eq!(answer.problem(422, "validation"), fields, "{body}");
    }
    let near = world.post("/api/v1/jobs", json!({"kind": "debug.nop"})).await.json();
    assert!(near["detail"].as_str().unwrap().contains("did you mean debug.noop"), "{near}");
    let kind_with_nul = world.post("/api/v1/jobs", json!({"kind": "debug.noop\0"})).await;
    assert_eq!(kind_with_nul.problem(422, "validation"), ["kind unknown"]);
    assert_eq!(world.jobs_stored().await, 0);
}

/// API-2
#[tokio::test]
async fn many_jobs_are_enqueued_together_or_not_at_all() {
    let world = World::new().await;
    let bad = json!({"jobs": [
        {"kind": "debug.noop"}, {"kind": "debug.sleep", "args": {"ms": -1}}, {"kind": "nope"}, {"knd": 1},
    ]});
    let refused = world.post("/api/v1/jobs/bulk", bad).await;
    let fields = refused.problem(422, "validation");
    assert_eq!(fields, ["jobs[1].args.ms invalid", "jobs[2].kind unknown", "jobs[3].knd unknown_field"]);
    assert_eq!(world.jobs_stored().await, 0);
    assert_eq!(
        world.post("/api/v1/jobs/bulk", json!({"jobs": []})).await.problem(422, "validation"),
        ["jobs out_of_range"]
    );

    // More than a body of the usual size.
    let entry = json!({"kind": "debug.append", "args": {"path": "x", "line": "y".repeat(100)}});
    let many = world.post("/api/v1/jobs/bulk", json!({"jobs": vec![entry; 10_000]})).await;
    assert_eq!(many.status, StatusCode::ACCEPTED, "{}", many.text);
    assert_eq!(many.json()["jobs"].as_array().unwrap().len(), 10_000);
    assert_eq!(many.json()["jobs"][0]["duplicate"], false);
    assert_eq!(world.jobs_stored().await, 10_000);
    let too_many = json!({"jobs": vec![json!({"kind": "debug.noop"}); 10_001]});
    assert_eq!(world.post("/api/v1/jobs/bulk", too_many).await.problem(422, "validation"), ["jobs out_of_range"]);
}

/// API-9
#[tokio::test]
async fn pages_hold_every_job_once() {
    let world = World::new().await;
    world.post("/api/v1/jobs/bulk", json!({"jobs": vec![json!({"kind": "debug.noop"}); 7]})).await;
    let mut seen = Vec::new();
    let mut path = "/api/v1/jobs?limit=3".to_owned();
    loop {
        let page = world.get(&path).await.json();
        seen.extend(page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/jobs?limit=3&cursor={cursor}");
    }
    let mut sorted = seen.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    sorted.dedup();
    assert_eq!((seen.len(), seen), (7, sorted));

    for (query, error) in [
        ("limit=0", "limit invalid"),
        ("limit=201", "limit invalid"),
        ("limit=x", "limit invalid"),
        ("cursor=abc", "cursor invalid"),
        ("state=done", "state invalid"),
        ("colour=red", "colour unknown_field"),
        ("limit=1&limit=2", "limit invalid"),
        ("kind=%00", "kind invalid"),
    ] {
        assert_eq!(world.get(&format!("/api/v1/jobs?{query}")).await.problem(422, "validation"), [error], "{query}");
    }
    let cursor = world.get("/api/v1/jobs?limit=1").await.json()["next_cursor"].as_str().unwrap().to_owned();
    let elsewhere = world.get(&format!("/api/v1/companies?cursor={cursor}")).await;
    assert_eq!(elsewhere.problem(422, "validation"), ["cursor invalid"]);
}

/// API-2, TEN-3: what runs for everybody is nobody's to enqueue, to list, or to be reminded of.
#[tokio::test]
async fn an_organization_cannot_enqueue_the_platforms_own_kinds() {
    let world = World::new().await;
    let one = world.post("/api/v1/jobs", json!({"kind": "platform.expire_trials"})).await;
    assert_eq!(one.problem(422, "validation"), ["kind not_allowed"]);
    let detail = one.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("platform.expire_trials runs for the platform as a whole"), "{detail}");
    let many = json!({"jobs": [{"kind": "debug.noop"}, {"kind": "platform.expire_trials"}]});
    assert_eq!(world.post("/api/v1/jobs/bulk", many).await.problem(422, "validation"), ["jobs[1].kind not_allowed"]);
    assert_eq!(world.jobs_stored().await, 0);

    let kinds = world.get("/api/v1/kinds").await.text;
    assert!(kinds.contains("billing.sweep_overdue") && !kinds.contains("\"platform."), "{kinds}");
    let near = world.post("/api/v1/jobs", json!({"kind": "platform.expire_trial"})).await;
    assert!(!near.text.contains("platform.expire_trials"), "{}", near.text);
}

/// JOIN-5, WORK-4: a mail with a secret link is the product's to send; nobody takes its place with a job of their own.
#[tokio::test]
async fn nobody_enqueues_the_mail_of_a_secret_link() {
    let world = World::new().await;
    let id = Uuid::now_v7();
    for (kind, args) in [
        ("membership.send_decision", json!({"request_id": id})),
        ("membership.send_confirmation", json!({"request_id": id, "token": format!("acme.{}", "A".repeat(43))})),
        ("membership.send_password_reset", json!({"token": format!("acme.{}", "A".repeat(43))})),
        ("workspaces.send_invitation", json!({"invitation_id": id, "token": format!("acme.{}", "A".repeat(43))})),
    ] {
        let job = json!({"kind": kind, "args": args});
        assert_eq!(world.post("/api/v1/jobs", job.clone()).await.problem(422, "validation"), ["kind not_allowed"]);
        let many = world.post("/api/v1/jobs/bulk", json!({"jobs": [job]})).await;
        assert_eq!(many.problem(422, "validation"), ["jobs[0].kind not_allowed"]);
    }
    assert_eq!(world.jobs_stored().await, 0);
}
