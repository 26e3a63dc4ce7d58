//! What the operator does: organizations, queues, schedules.

use super::*;

/// TEN-1, TEN-2, TEN-5
#[tokio::test]
async fn the_operator_creates_suspends_and_activates() {
    let world = World::new().await;
    let body = json!({"slug": "initech", "name": "Initech AB", "tier": "pro", "time_zone": "Europe/Helsinki"});
    world.post("/api/v1/organizations", body.clone()).await.problem(403, "forbidden");
    let created = world.operate(Method::POST, "/api/v1/organizations", Some(body.clone())).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    assert_eq!(created.header("location"), "/api/v1/organizations/initech");
    assert_eq!((&created.json()["tier"], &created.json()["billing_status"]), (&json!("pro"), &json!("trial")));
    let taken = world.operate(Method::POST, "/api/v1/organizations", Some(body)).await;
    assert_eq!(taken.problem(409, "conflict"), ["slug taken"]);
    let bad = json!({"slug": "admin", "name": "", "time_zone": "Mars/Base", "settings": {"dunning_days": [3, 1]}});
    let bad = world.operate(Method::POST, "/api/v1/organizations", Some(bad)).await;
    let fields = bad.problem(422, "validation").join(" ");
    assert!(
        fields.contains("slug reserved") && fields.contains("time_zone") && fields.contains("settings.dunning_days"),
        "{fields}"
    );
    let listed = world.operate(Method::GET, "/api/v1/organizations?limit=1", None).await.json();
    assert_eq!(listed["organizations"].as_array().unwrap().len(), 1);
    assert!(listed["next_cursor"].is_string());
    world.operate(Method::GET, "/api/v1/organizations/nobody", None).await.problem(404, "not-found");
    world.operate(Method::GET, "/api/v1/jobs", None).await.problem(403, "forbidden");

    let job = world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.json()["id"].as_str().unwrap().to_owned();
    let suspended = world.operate(Method::POST, "/api/v1/organizations/acme/suspend", None).await;
    assert_eq!((suspended.status, &suspended.json()["jobs"]), (StatusCode::OK, &json!(1)), "{}", suspended.text);
    world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.problem(403, "organization-suspended");
    world.post("/api/v1/companies", company()).await.problem(403, "organization-suspended");
    assert_eq!(world.get(&format!("/api/v1/jobs/{job}")).await.json()["held"], true);
    let activated = world.operate(Method::POST, "/api/v1/organizations/acme/activate", None).await;
    assert_eq!(activated.json()["jobs"], 1);
    assert_eq!(world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.status, StatusCode::ACCEPTED);
}

/// CRON-6, PLAT-13
#[tokio::test]
async fn the_operator_looks_at_queues_and_schedules_and_pauses_them() {
    let world = World::new().await;
    world.get("/api/v1/queues").await.problem(403, "forbidden");
    assert_eq!(world.operate(Method::POST, "/api/v1/queues/mailers/pause", None).await.status, StatusCode::NO_CONTENT);
    let queues = world.operate(Method::GET, "/api/v1/queues", None).await.json();
    let mailers = queues["queues"].as_array().unwrap().iter().find(|queue| queue["queue"] == "mailers").cloned();
    assert_eq!(mailers.unwrap()["paused"], true, "{queues}");
    assert_eq!(world.operate(Method::POST, "/api/v1/queues/mailers/resume", None).await.status, StatusCode::NO_CONTENT);
    world.operate(Method::POST, "/api/v1/queues/nowhere/pause", None).await.problem(422, "validation");

    let next =
        world.operate(Method::GET, "/api/v1/schedules/sweep/next?limit=2&time_zone=Europe/Stockholm", None).await;
    assert_eq!(next.json()["firings"].as_array().map(Vec::len), Some(2), "{}", next.text);
    assert_eq!(world.operate(Method::POST, "/api/v1/schedules/sweep/pause", None).await.status, StatusCode::NO_CONTENT);
    let listed = world.operate(Method::GET, "/api/v1/schedules", None).await.json();
    assert_eq!((&listed["schedules"][0]["name"], &listed["schedules"][0]["paused"]), (&json!("sweep"), &json!(true)));
    let run = world.operate(Method::POST, "/api/v1/schedules/sweep/run", None).await;
    assert_eq!((run.status, run.json()["jobs"].as_array().unwrap().len()), (StatusCode::ACCEPTED, 1), "{}", run.text);
    assert_eq!(
        world.operate(Method::POST, "/api/v1/schedules/sweep/resume", None).await.status,
        StatusCode::NO_CONTENT
    );
    world.operate(Method::POST, "/api/v1/schedules/none/run", None).await.problem(404, "not-found");
}
