//! Health, metrics, the mailbox.

use super::*;

/// API-7, OPS-1
#[tokio::test]
async fn health_and_metrics_need_no_key() {
    let world = World::new().await;
    let open = |path: &'static str| world.send(request(Method::GET, path, "", &[], None));
    assert_eq!(open("/health/live").await.json(), json!({"status": "ok"}));
    assert_eq!(open("/health/ready").await.json(), json!({"status": "ok"}));
    let metrics = open("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    assert!(
        metrics.text.contains("http_requests_total{method=\"GET\",route=\"/health/live\",status=\"200\"}"),
        "{}",
        metrics.text
    );
    sqlx::raw_sql("delete from public._sqlx_migrations").execute(&world.app.db).await.unwrap();
    open("/health/ready").await.problem(503, "unavailable");
    world.app.db.close().await;
    open("/health/ready").await.problem(503, "unavailable");
    assert_eq!(open("/health/live").await.status, StatusCode::OK);
    world.get("/api/v1/jobs").await.problem(503, "unavailable");
}

/// MAIL-4
#[tokio::test]
async fn the_mailbox_is_read_in_the_browser() {
    let world = World::new().await;
    let open = |path: &'static str| world.send(request(Method::GET, path, "", &[], None));
    assert!(world.mailbox.is_empty());
    let list = open("/dev/mailbox").await;
    assert!(list.text.contains("No mail yet") && list.header("content-type").starts_with("text/html"));
    open("/dev/mailbox/1").await.problem(404, "not-found");
    open("/dev/mailbox/x").await.problem(404, "not-found");
    let welcome = open("/").await;
    assert!(welcome.text.contains("/dev/mailbox") && welcome.text.contains("/docs"), "{}", welcome.text);
    assert!(open("/problems/validation").await.text.contains("Some fields are not right"));
    open("/problems/nothing").await.problem(404, "not-found");

    let registry = Arc::new(crate::jobs::registry(&world.app.config));
    let schedules = Arc::new(Schedules::parse("", &registry).unwrap());
    let without = router(world.app.clone(), registry, schedules, None);
    let response = without.oneshot(request(Method::GET, "/dev/mailbox", "", &[], None)).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

/// MAIL-4: it is everybody's mail, so it is not for the network.
#[tokio::test]
async fn the_mailbox_is_for_the_machine_it_runs_on() {
    use std::net::SocketAddr;

    use axum::extract::ConnectInfo;

    let world = World::with(&[("BACKROOM__HTTP__LISTEN", "0.0.0.0:4000")]).await;
    let open = |path: &'static str, peer: &str| {
        let mut request = request(Method::GET, path, "", &[], None);
        request.extensions_mut().insert(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
        world.send(request)
    };
    for path in ["/dev/mailbox", "/dev/mailbox/1"] {
        open(path, "192.0.2.7:5000").await.problem(403, "forbidden");
    }
    assert_eq!(open("/", "192.0.2.7:5000").await.status, StatusCode::OK);
    for local in ["127.0.0.1:5000", "[::1]:5000", "[::ffff:127.0.0.1]:5000"] {
        assert_eq!(open("/dev/mailbox", local).await.status, StatusCode::OK, "{local}");
    }
}
