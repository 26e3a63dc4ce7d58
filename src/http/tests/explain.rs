//! Why a job does not run, and its whole record.

use super::*;
use crate::store::events::{self, NewEvent};

async fn enqueue(world: &World, body: Value) -> String {
    world.post("/api/v1/jobs", body).await.json()["id"].as_str().unwrap().to_owned()
}

async fn claim(world: &World, queue: &str) {
    sqlx::query("select queue.claim($1, 1, gen_random_uuid(), 30, 'inside-7', '')")
        .bind(queue)
        .execute(&world.app.db)
        .await
        .unwrap();
}

/// PLAT-22
#[tokio::test]
async fn a_job_says_why_it_does_not_run_to_its_organization_and_to_the_operator() {
    let world = World::new().await;
    let id = enqueue(&world, json!({"kind": "debug.noop", "run_at": "2036-01-01T00:00:00Z"})).await;
    let path = format!("/api/v1/jobs/{id}/why");
    let why = world.get(&path).await;
    assert_eq!(why.status, StatusCode::OK, "{}", why.text);
    assert_eq!(why.json()["reasons"], json!([{"reason": "scheduled", "at": "2036-01-01T00:00:00Z"}]));
    assert_eq!(why.json()["sentence"], "It is scheduled for 2036-01-01 00:00:00Z.");
    assert_eq!(why.json()["expected_at"], "2036-01-01T00:00:00Z");

    world.operate(Method::POST, "/api/v1/queues/default/pause", None).await;
    let why = world.operate(Method::GET, &path, None).await.json();
    assert_eq!((&why["reasons"][0]["reason"], &why["expected_at"]), (&json!("queue_paused"), &Value::Null), "{why}");

    let globex = world._database.organization("globex").await;
    let foreign = key_of(&world.app, &globex, Scope::ALL).await;
    for path in [path, format!("/api/v1/jobs/{}/why", Uuid::now_v7())] {
        world.send(request(Method::GET, &path, &foreign, &[], None)).await.problem(404, "not-found");
    }
    let unread = key_of(&world.app, &world.acme, &[Scope::JobsWrite]).await;
    world
        .send(request(Method::GET, &format!("/api/v1/jobs/{id}/why"), &unread, &[], None))
        .await
        .problem(403, "forbidden");
}

/// PLAT-22, PLAT-24: machines are named to the operator only.
#[tokio::test]
async fn the_names_of_workers_are_the_operators() {
    let world = World::new().await;
    let id = enqueue(&world, json!({"kind": "debug.noop"})).await;
    claim(&world, "default").await;
    for view in ["why", "dump"] {
        let path = format!("/api/v1/jobs/{id}/{view}");
        assert!(!world.get(&path).await.text.contains("inside-7"), "{view}");
        assert!(world.operate(Method::GET, &path, None).await.text.contains("inside-7"), "{view}");
    }
    let why = world.get(&format!("/api/v1/jobs/{id}/why")).await.json();
    assert_eq!((&why["reasons"][0]["reason"], &why["reasons"][0]["lost"]), (&json!("running"), &json!(false)));
}

/// PLAT-24
#[tokio::test]
async fn a_dump_has_everything_about_a_job_with_its_arguments_redacted() {
    let world = World::new().await;
    let body = json!({"kind": "debug.append", "args": {"path": "/dev/null", "line": PLANTED}, "unique_key": "u"});
    let id = enqueue(&world, body).await;
    let mut tx = crate::tenant::begin(&world.app.db, &world.acme).await.unwrap();
    for actor in [format!("job:{id}"), "operator".to_owned()] {
        let event =
            NewEvent { topic: "invoice:1".into(), kind: "invoice.reminder_sent", payload: json!({}), actor: &actor };
        events::append(&mut tx, &event, world.app.clock.now()).await.unwrap();
    }
    tx.commit().await.unwrap();
    world.post(&format!("/api/v1/jobs/{id}/cancel"), json!({})).await;

    let path = format!("/api/v1/jobs/{id}/dump");
    let dump = world.get(&path).await;
    assert_eq!(dump.status, StatusCode::OK, "{}", dump.text);
    assert!(!dump.text.contains(PLANTED), "{}", dump.text);
    let dump = dump.json();
    let line = format!("string({})", PLANTED.len());
    assert_eq!(dump["job"]["args"], json!({"path": "string(9)", "line": line, "after_ms": "number(1)"}));
    let events: Vec<_> = dump["changes"].as_array().unwrap().iter().map(|change| &change["event"]).collect();
    assert_eq!(events, ["created", "cancelled"]);
    assert_eq!(dump["events"].as_array().unwrap().len(), 1, "the job's own: {}", dump["events"]);
    assert_eq!(dump["events"][0]["kind"], "invoice.reminder_sent");
    assert_eq!(dump["trace_id"].as_str().map(str::len), Some(32));
    assert_eq!((&dump["why"]["state"], &dump["redacted"]), (&json!("cancelled"), &json!(true)));

    let whole = world.operate(Method::GET, &format!("{path}?with_args=true"), None).await.json();
    assert_eq!((&whole["job"]["args"]["line"], &whole["redacted"]), (&json!(PLANTED), &json!(false)));
    let globex = world._database.organization("globex").await;
    let foreign = key_of(&world.app, &globex, Scope::ALL).await;
    world.send(request(Method::GET, &path, &foreign, &[], None)).await.problem(404, "not-found");
    assert_eq!(world.get(&format!("{path}?with_args=1")).await.problem(422, "validation"), ["with_args invalid"]);
}

/// API-2, PLAT-13
#[tokio::test]
async fn a_waiting_job_is_discarded_and_can_be_retried() {
    let world = World::new().await;
    let id = enqueue(&world, json!({"kind": "debug.noop"})).await;
    let path = format!("/api/v1/jobs/{id}");
    let discarded = world.post(&format!("{path}/discard"), json!({})).await;
    assert_eq!((discarded.status, &discarded.json()["state"]), (StatusCode::OK, &json!("discarded")));
    assert_eq!(discarded.json()["reason"], "discarded through the API");
    world.post(&format!("{path}/discard"), json!({})).await.problem(409, "conflict");
    assert_eq!(world.post(&format!("{path}/retry"), json!({})).await.status, StatusCode::ACCEPTED);
    claim(&world, "default").await;
    world.post(&format!("{path}/discard"), json!({})).await.problem(409, "conflict");
    world.post(&format!("/api/v1/jobs/{}/discard", Uuid::now_v7()), json!({})).await.problem(404, "not-found");
    let job = world.get(&path).await.json();
    let facts = (&job["crashes"], &job["rate_key"], &job["batch_id"], &job["begun_at"]);
    assert_eq!(facts, (&json!(0), &Value::Null, &Value::Null, &Value::Null));
}
