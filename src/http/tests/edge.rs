//! What every request passes: errors, time limit, rate limit, ids.

use super::*;

/// API-4
#[tokio::test]
async fn every_error_is_a_problem() {
    let world = World::new().await;
    let key = world.key.as_str();
    world.get("/nowhere").await.problem(404, "not-found");
    world.get("/api/v1/nowhere").await.problem(404, "not-found");
    world.send(request(Method::PUT, "/api/v1/jobs", key, &[], None)).await.problem(405, "method-not-allowed");
    world.send(request(Method::DELETE, "/health/live", key, &[], None)).await.problem(405, "method-not-allowed");
    let send = |content_type: &'static str, body: String| {
        world.send(raw(Method::POST, "/api/v1/jobs", key, content_type, body))
    };
    send("application/json", "{".into()).await.problem(400, "malformed-body");
    send("application/json", String::new()).await.problem(400, "malformed-body");
    send("application/json", "[".repeat(100_000)).await.problem(400, "malformed-body");
    send("text/plain", "{}".into()).await.problem(415, "unsupported-media-type");
    send("application/json", " ".repeat(1_048_577)).await.problem(413, "body-too-large");
    let latin = raw(Method::POST, "/api/v1/jobs", key, "application/json", vec![b'{', b'"', 0xe5, b'"', b'}']);
    world.send(latin).await.problem(400, "malformed-body");
    for path in ["/api/v1/jobs/7", "/api/v1/companies/x", "/api/v1/invoices/%00", "/api/v1/invoices/%ff"] {
        assert_eq!(world.get(path).await.problem(422, "validation"), ["id invalid"], "{path}");
    }
    let answer = world.post("/api/v1/jobs/00000000-0000-0000-0000-000000000000/cancel", json!({"x": 1})).await;
    assert_eq!(answer.problem(422, "validation"), ["x unknown_field"]);
    assert_eq!(world.jobs_stored().await, 0);
}

/// API-4: a panic is answered, tells nothing, and the next request is served.
#[tokio::test]
async fn a_panic_is_a_problem_and_tells_nothing() {
    use axum::{middleware, routing::get};
    use tower_http::catch_panic::CatchPanicLayer;

    async fn panics() {
        panic!("{PLANTED}");
    }
    let router: Router = Router::new()
        .route("/", get(panics))
        .layer(CatchPanicLayer::custom(crate::http::edge::caught_panic))
        .layer(middleware::from_fn(crate::http::edge::pass));
    for _ in 0..2 {
        let response = router.clone().oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains("/problems/internal") && !text.contains(PLANTED), "{text}");
    }
}

/// API-6: a request that takes too long is given up, with a problem that says so.
#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let world = World::with(&[("BACKROOM__HTTP__REQUEST_TIMEOUT_S", "1")]).await;
    let company = world.company().await;
    let mut blocker = world.app.db.begin().await.unwrap();
    let lock = format!("lock table {}.companies in access exclusive mode", world.acme.schema_name);
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *blocker).await.unwrap();
    let answer = world.get(&format!("/api/v1/companies/{company}")).await;
    answer.problem(503, "timeout");
    assert_eq!(answer.header("retry-after"), "1");
    blocker.rollback().await.unwrap();
    assert_eq!(world.get(&format!("/api/v1/companies/{company}")).await.status, StatusCode::OK);
}

/// API-6
#[tokio::test]
async fn an_organization_that_is_too_hasty_is_told_to_wait() {
    let world = World::with(&[("BACKROOM__HTTP__RATE_LIMIT_PER_MINUTE", "3")]).await;
    for left in ["2", "1", "0"] {
        let answer = world.get("/api/v1/jobs").await;
        assert_eq!((answer.header("ratelimit-limit"), answer.header("ratelimit-remaining")), ("3", left));
        assert!(!answer.header("ratelimit-reset").is_empty());
    }
    let answer = world.get("/api/v1/jobs").await;
    answer.problem(429, "rate-limited");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(answer.header("ratelimit-remaining"), "0");
    assert_eq!(world.get("/health/live").await.status, StatusCode::TOO_MANY_REQUESTS, "counted where a key is sent");
    assert_eq!(world.send(request(Method::GET, "/health/live", "", &[], None)).await.status, StatusCode::OK);
}

/// API-6
#[tokio::test]
async fn requests_have_ids_and_browsers_of_known_origins_may_call() {
    let world = World::new().await;
    let with = |headers: &[(&str, &str)]| request(Method::GET, "/health/live", "", headers, None);
    assert_eq!(world.send(with(&[("x-request-id", "abc-1")])).await.header("x-request-id"), "abc-1");
    for poor in ["", "a b", "<script>", &"x".repeat(65)] {
        let made = world.send(with(&[("x-request-id", poor)])).await;
        assert!(made.header("x-request-id").parse::<Uuid>().is_ok(), "{poor:?}");
    }
    let ours = world.send(with(&[("origin", "http://localhost:5173")])).await;
    assert_eq!(ours.header("access-control-allow-origin"), "http://localhost:5173");
    let theirs = world.send(with(&[("origin", "http://evil.example")])).await;
    assert_eq!(theirs.header("access-control-allow-origin"), "");
    assert_eq!(theirs.header("x-content-type-options"), "nosniff");

    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let queued = world.post_with("/api/v1/jobs", &[("traceparent", trace)], json!({"kind": "debug.noop"})).await;
    let job = world.get(queued.header("location")).await.json();
    assert_eq!(job["trace"], trace, "PLAT-17");
}

/// API-4: two transactions that stand in each other's way are nobody's mistake; the same request is likely to succeed.
#[tokio::test]
async fn a_deadlock_is_answered_as_a_problem_that_passes() {
    let world = World::new().await;
    for state in ["40P01", "40001"] {
        let collide = format!("do $$ begin raise exception using errcode = '{state}'; end $$");
        let error = sqlx::raw_sql(sqlx::AssertSqlSafe(collide)).execute(&world.app.db).await.unwrap_err();
        let response = axum::response::IntoResponse::into_response(crate::http::problem::Problem::from(error));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{state}");
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
