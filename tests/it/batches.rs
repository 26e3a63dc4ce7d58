//! Batches from outside: through the API and the command line, with a worker that is killed.

use reqwest::Method;
use serde_json::json;

use crate::support::{api::World, count, lines, until};

/// PLAT-18, PLAT-11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_followed_once_though_the_worker_of_its_last_job_is_killed() {
    let world = World::new("server").await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lines");
    let line = |line: &str| json!({ "kind": "debug.append", "args": { "path": path, "line": line } });
    let body = json!({
        "name": "night", "jobs": [line("a"), line("b"), { "kind": "debug.sleep", "args": { "ms": 3000 } }],
        "then": line("then"),
    });
    let queued = world.api.post("/api/v1/batches", &body).await;
    assert_eq!(queued.status, 202, "{}", queued.text);
    let id = queued.json()["id"].as_str().expect("an id").to_owned();

    let first = world.program.start(&["worker"]);
    let running = "select count(*) from queue.jobs where kind = 'debug.sleep' and begun_at is not null";
    until(&world.database.pool, running, 1).await;
    first.kill().await;
    let second = world.program.start(&["worker"]);
    let watched = world.program.json(&["batch", "watch", &id]).await;
    assert_eq!((&watched["size"], &watched["completed"], &watched["left"]), (&json!(3), &json!(3), &json!(0)));
    until(&world.database.pool, "select count(*) from queue.jobs", 0).await;
    second.stop().await;

    assert_eq!(lines(&path).iter().filter(|line| *line == "then").count(), 1);
    assert_eq!(count(&world.database.pool, "select count(*) from queue.finished_jobs").await, 4);
    let listed = world.program.json(&["batch", "list", "--org", "acme"]).await;
    assert_eq!(listed["batches"][0]["id"], id.as_str());
    let shown = world.program.run(&["batch", "show", &id]).await;
    assert!(shown.stdout.contains("night") && shown.stdout.contains("debug.append, job "), "{}", shown.stdout);

    // One that ends badly, and one that is not there.
    let far = json!({ "kind": "debug.noop", "run_at": "2036-01-01T00:00:00Z" });
    let bad = world.api.post("/api/v1/batches", &json!({ "jobs": [far] })).await.json();
    let member = bad["jobs"][0]["id"].as_str().expect("an id");
    world.api.send(Method::POST, &format!("/api/v1/jobs/{member}/cancel"), &[], "").await;
    let watched = world.program.run(&["batch", "watch", bad["id"].as_str().expect("an id")]).await;
    assert_eq!(watched.code, Some(4), "{}{}", watched.stdout, watched.stderr);
    assert!(watched.stdout.contains("1 cancelled"), "{}", watched.stdout);
    assert_eq!(world.program.run(&["batch", "show", member]).await.code, Some(3));
    world.close().await;
}
