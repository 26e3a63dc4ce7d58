//! Many jobs at once: a plan, and exactly the plan.

use super::*;

const BULK: &str = "/api/v1/jobs/bulk-actions";

async fn enqueue(world: &World, key: &str, count: usize) {
    let jobs = json!({"jobs": vec![json!({"kind": "debug.noop"}); count]});
    let queued = world.send(request(Method::POST, "/api/v1/jobs/bulk", key, &[], Some(jobs))).await;
    assert_eq!(queued.status, StatusCode::ACCEPTED, "{}", queued.text);
}

/// PLAT-23
#[tokio::test]
async fn a_plan_is_made_shown_and_applied_once() {
    let world = World::new().await;
    enqueue(&world, &world.key, 3).await;
    let body = json!({"action": "cancel", "filter": {"kind": "debug.noop"}, "reason": "by mistake"});
    let planned = world.post(BULK, body).await;
    assert_eq!(planned.status, StatusCode::CREATED, "{}", planned.text);
    let plan = planned.json();
    let path = planned.header("location").to_owned();
    assert_eq!(path, format!("{BULK}/{}", plan["id"].as_str().unwrap()));
    assert_eq!(plan["by_organization"], json!([{"name": "acme", "jobs": 3}]));
    assert_eq!((&plan["jobs"], &plan["more"], &plan["result"]["handled"]), (&json!(3), &json!(false), &json!(0)));
    assert_eq!(world.get(&path).await.json(), plan);
    assert_eq!(world.get("/api/v1/jobs?state=available").await.json()["jobs"].as_array().unwrap().len(), 3);

    enqueue(&world, &world.key, 1).await;
    let applied = world.post(&format!("{path}/apply"), json!({})).await;
    assert_eq!(applied.status, StatusCode::OK, "{}", applied.text);
    let result = applied.json()["result"].clone();
    assert_eq!((&result["done"], &result["skipped"]), (&json!(3), &json!({"changed": 0, "duplicate": 0, "gone": 0})));
    assert!(result["finished_at"].is_string());
    assert_eq!(
        world.post(&format!("{path}/apply"), json!({})).await.json()["result"],
        result,
        "the first answer again"
    );
    let left = world.get("/api/v1/jobs?state=available").await.json();
    assert_eq!(left["jobs"].as_array().unwrap().len(), 1, "what came after the plan");
    let cancelled = world.get("/api/v1/jobs?state=cancelled").await.json();
    assert_eq!(cancelled["jobs"][0]["reason"], "by mistake");

    let back = world.post(BULK, json!({"action": "retry", "filter": {"state": "cancelled"}})).await.json();
    let back = world.post(&format!("{BULK}/{}/apply", back["id"].as_str().unwrap()), json!({})).await.json();
    assert_eq!(back["result"]["done"], 3, "{back}");
}

/// PLAT-23, API-4
#[tokio::test]
async fn a_bulk_action_that_is_not_right_is_refused_by_field() {
    let world = World::new().await;
    for (body, fields) in [
        (json!({"action": "cancel"}), vec!["filter required"]),
        (json!({"action": "cancel", "filter": {}}), vec!["filter required"]),
        (json!({"action": "cancel", "filter": {"organization": "acme"}}), vec!["filter required"]),
        (json!({"action": "cancel", "filter": {"organization": "globex"}}), vec!["filter.organization not_allowed"]),
        (json!({"action": "drop", "all": true}), vec!["action invalid"]),
        (json!({"action": "retry", "filter": {"state": "completed"}}), vec!["filter.state invalid"]),
        (json!({"action": "discard", "filter": {"state": "running"}}), vec!["filter.state invalid"]),
        (json!({"action": "retry", "filter": {"knd": "x"}}), vec!["filter.knd unknown_field"]),
        (
            json!({"action": "retry", "filter": {"kind": "", "error_contains": "a\0"}, "reason": "x".repeat(256)}),
            vec!["filter.kind out_of_range", "filter.error_contains out_of_range", "reason out_of_range"],
        ),
        (
            json!({"action": "retry", "filter": {"created_after": "-5000-01-01T00:00:00Z"}}),
            vec!["filter.created_after out_of_range"],
        ),
    ] {
        let answer = world.post(BULK, body.clone()).await;
        assert_eq!(answer.problem(422, "validation"), fields, "{body}");
    }
    let hint = world.post(BULK, json!({"action": "cancel"})).await.json();
    assert!(hint["detail"].as_str().unwrap().contains("\"all\": true"), "{hint}");
    assert_eq!(world.post(BULK, json!({"action": "cancel", "all": true})).await.status, StatusCode::CREATED);
    let nobody = format!("{BULK}/{}", Uuid::now_v7());
    world.get(&nobody).await.problem(404, "not-found");
    world.post(&format!("{nobody}/apply"), json!({})).await.problem(404, "not-found");
}

/// PLAT-23, TEN-3
#[tokio::test]
async fn an_organization_acts_on_its_own_jobs_and_the_operator_on_all() {
    let world = World::new().await;
    let globex = world._database.organization("globex").await;
    let foreign = key_of(&world.app, &globex, Scope::ALL).await;
    enqueue(&world, &world.key, 2).await;
    enqueue(&world, &foreign, 3).await;
    let body = json!({"action": "discard", "filter": {"kind": "debug.noop"}});
    let own = world.post(BULK, body.clone()).await.json();
    assert_eq!(own["by_organization"], json!([{"name": "acme", "jobs": 2}]));
    let all = world.operate(Method::POST, BULK, Some(body.clone())).await.json();
    assert_eq!(all["by_organization"], json!([{"name": "globex", "jobs": 3}, {"name": "acme", "jobs": 2}]));
    let one = json!({"action": "discard", "filter": {"organization": "globex"}});
    assert_eq!(world.operate(Method::POST, BULK, Some(one)).await.json()["jobs"], 3);

    let path = |plan: &Value| format!("{BULK}/{}", plan["id"].as_str().unwrap());
    for (plan, key) in [(&own, &foreign), (&all, &world.key)] {
        world.send(request(Method::GET, &path(plan), key, &[], None)).await.problem(404, "not-found");
        let apply = format!("{}/apply", path(plan));
        world.send(request(Method::POST, &apply, key, &[], None)).await.problem(404, "not-found");
    }
    let applied = world.operate(Method::POST, &format!("{}/apply", path(&all)), None).await.json();
    assert_eq!(applied["result"]["done"], 5, "{applied}");
    let late = world.post(&format!("{}/apply", path(&own)), json!({})).await.json();
    assert_eq!((&late["result"]["done"], &late["result"]["skipped"]["changed"]), (&json!(0), &json!(2)));

    let reader = key_of(&world.app, &world.acme, &[Scope::JobsRead]).await;
    world.send(request(Method::POST, BULK, &reader, &[], Some(body))).await.problem(403, "forbidden");
    assert_eq!(world.send(request(Method::GET, &path(&own), &reader, &[], None)).await.status, StatusCode::OK);
}

/// PLAT-23, API-3
#[tokio::test]
async fn a_plan_expires_and_is_made_once_per_idempotency_key() {
    let world = World::new().await;
    enqueue(&world, &world.key, 1).await;
    let body = json!({"action": "cancel", "all": true});
    let first = world.post_with(BULK, &[("idempotency-key", "k")], body.clone()).await;
    let again = world.post_with(BULK, &[("idempotency-key", "k")], body.clone()).await;
    assert_eq!((first.text.as_str(), again.header("idempotency-replayed")), (again.text.as_str(), "true"));
    let operator = request(Method::POST, BULK, OPERATOR, &[("idempotency-key", "k")], Some(body));
    assert_eq!(world.send(operator).await.problem(422, "validation"), ["Idempotency-Key invalid"]);

    sqlx::query("update queue.bulk_plans set expires_at = now()").execute(&world.app.db).await.unwrap();
    let apply = format!("{}/apply", first.header("location"));
    world.post(&apply, json!({})).await.problem(409, "conflict");
    assert_eq!(world.get("/api/v1/jobs?state=available").await.json()["jobs"].as_array().unwrap().len(), 1);
}
