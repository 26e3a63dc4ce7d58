//! Batches: enqueue, look, list.

use super::*;

/// PLAT-18, API-3: what follows is told with its job once the last member has ended.
#[tokio::test]
async fn a_batch_is_enqueued_looked_at_and_followed() {
    let world = World::new().await;
    let body = json!({
        "name": "import", "jobs": [{"kind": "debug.noop"}, {"kind": "debug.fail", "args": {"times": 9}, "max_attempts": 1}],
        "then": {"kind": "debug.sleep", "args": {"ms": 1}, "run_at": "2036-01-01T00:00:00Z"},
    });
    let key = [("idempotency-key", "batch-1")];
    let queued = world.post_with("/api/v1/batches", &key, body.clone()).await;
    assert_eq!(queued.status, StatusCode::ACCEPTED, "{}", queued.text);
    let (path, id) = (queued.header("location").to_owned(), queued.json()["id"].as_str().unwrap().to_owned());
    assert_eq!(path, format!("/api/v1/batches/{id}"));
    assert_eq!((queued.json()["size"].as_i64(), queued.json()["jobs"].as_array().map(Vec::len)), (Some(2), Some(2)));
    assert_eq!(world.post_with("/api/v1/batches", &key, body).await.text, queued.text, "one batch, told twice");

    let shown = world.get(&path).await.json();
    let open = json!({
        "id": id, "name": "import", "size": 2, "completed": 0, "cancelled": 0, "discarded": 0, "left": 2,
        "then": {"kind": "debug.sleep", "job_id": null}, "created_at": shown["created_at"], "finished_at": null,
    });
    assert_eq!(shown, open);

    let registry = Arc::new(crate::jobs::registry(&world.app.config));
    backroom_queue::testing::drain(&world.app.db, &registry, world.app.clone(), "default").await.unwrap();
    let ended = world.get(&path).await.json();
    assert_eq!((&ended["completed"], &ended["discarded"], &ended["left"]), (&json!(1), &json!(1), &json!(0)));
    assert!(ended["finished_at"].is_string(), "{ended}");
    let then = world.get(&format!("/api/v1/jobs/{}", ended["then"]["job_id"].as_str().unwrap())).await.json();
    assert_eq!((&then["kind"], &then["state"]), (&json!("debug.sleep"), &json!("scheduled")));
}

/// PLAT-18, API-4
#[tokio::test]
async fn a_batch_that_is_not_right_is_refused_by_field_and_nothing_is_stored() {
    let world = World::new().await;
    let noop = json!({"kind": "debug.noop"});
    for (body, fields) in [
        (json!({"jobs": []}), vec!["jobs out_of_range"]),
        (json!({}), vec!["jobs required"]),
        (json!({"jobs": vec![noop.clone(); 10_001]}), vec!["jobs out_of_range"]),
        (json!({"jobs": [noop, {"kind": "debug.nop"}, 7]}), vec!["jobs[1].kind unknown", "jobs[2] invalid"]),
        (json!({"jobs": [noop], "then": {"kind": "debug.sleep"}}), vec!["then.ms required"]),
        (json!({"jobs": [noop], "then": {"kind": "platform.expire_trials"}}), vec!["then.kind not_allowed"]),
        (json!({"jobs": [noop], "then": []}), vec!["then invalid"]),
        (json!({"jobs": [noop], "name": ""}), vec!["name out_of_range"]),
        (json!({"jobs": [noop], "name": "a\0"}), vec!["name out_of_range"]),
        (
            json!({"jobs": [{"knd": 1}], "name": "x".repeat(201)}),
            vec!["name out_of_range", "jobs[0].knd unknown_field"],
        ),
        (json!({"jobs": [noop], "than": {}}), vec!["than unknown_field"]),
    ] {
        let mut answer = world.post("/api/v1/batches", body.clone()).await.problem(422, "validation");
        answer.iter_mut().for_each(|field| *field = field.replace(".args", ""));
        assert_eq!(answer, fields, "{}", body.to_string().chars().take(200).collect::<String>());
    }
    assert_eq!(world.jobs_stored().await, 0);
    assert_eq!(world.get("/api/v1/batches").await.json(), json!({"batches": [], "next_cursor": null}));
}

/// PLAT-18, API-9, TEN-3
#[tokio::test]
async fn batches_are_paged_and_another_organizations_are_not_there() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let made = world.post("/api/v1/batches", json!({"jobs": [{"kind": "debug.noop"}]})).await;
        ids.insert(0, made.json()["id"].as_str().unwrap().to_owned());
    }
    let listed = |page: &Value| -> Vec<String> {
        page["batches"].as_array().unwrap().iter().map(|batch| batch["id"].as_str().unwrap().to_owned()).collect()
    };
    let first = world.get("/api/v1/batches?limit=2&finished=false").await.json();
    assert_eq!(listed(&first), ids[..2]);
    let next = format!("/api/v1/batches?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = world.get(&next).await.json();
    assert_eq!((listed(&second), &second["next_cursor"]), (ids[2..].to_vec(), &Value::Null));
    assert!(listed(&world.get("/api/v1/batches?finished=true").await.json()).is_empty());
    assert_eq!(world.get("/api/v1/batches?finished=1").await.problem(422, "validation"), ["finished invalid"]);

    let other = world._database.organization("globex").await;
    let key = key_of(&world.app, &other, Scope::ALL).await;
    let theirs = |path: String| request(Method::GET, &path, &key, &[], None);
    world.send(theirs(format!("/api/v1/batches/{}", ids[0]))).await.problem(404, "not-found");
    assert!(listed(&world.send(theirs("/api/v1/batches".to_owned())).await.json()).is_empty());
}
