//! Limits and use.

use super::*;
use crate::{domain::limits::month_of, http::problem::Problem, store::usage};

/// TEN-4
#[tokio::test]
async fn an_upgrade_raises_the_limits_at_once_and_beyond_them_is_a_402() {
    let world = World::new().await;
    let month = month_of(world.app.clock.now(), world.acme.time_zone);
    let mut db = world.app.db.acquire().await.unwrap();
    for (kind, tokens) in [("conversations.name", 90_000), ("conversations.name", 9_000), ("other", 500)] {
        usage::record_tokens(&mut db, world.acme.id, month, kind, tokens).await.unwrap();
    }
    let shown = world.get("/api/v1/organization/usage").await.json();
    assert_eq!((&shown["tier"], &shown["limits"]["tokens_per_month"]), (&json!("free"), &json!(100_000)));
    assert_eq!((&shown["tokens"]["used"], &shown["tokens"]["left"]), (&json!(99_500), &json!(500)));
    assert_eq!(shown["tokens"]["by_kind"], json!({"conversations.name": 99_000, "other": 500}));

    assert_eq!(usage::check(&mut db, &world.acme, month, 500).await.unwrap(), 500);
    let problem = Problem::from(usage::check(&mut db, &world.acme, month, 501).await.unwrap_err());
    assert_eq!((problem.kind.status().as_u16(), problem.kind.name()), (402, "limit-exceeded"));
    assert!(problem.detail.contains("100000 tokens"), "{}", problem.detail);
    let next_month = month + chrono::Months::new(1);
    assert_eq!(usage::check(&mut db, &world.acme, next_month, 0).await.unwrap(), 100_000);

    let upgrade = json!({"tier": "pro"});
    let own = request(Method::PATCH, "/api/v1/organizations/acme", &world.key, &[], Some(upgrade.clone()));
    world.send(own).await.problem(403, "forbidden");
    let upgraded = world.operate(Method::PATCH, "/api/v1/organizations/acme", Some(upgrade)).await;
    assert_eq!((upgraded.status, &upgraded.json()["tier"]), (StatusCode::OK, &json!("pro")), "{}", upgraded.text);
    assert_eq!(usage::check(&mut db, &world.acme, month, 501).await.unwrap(), 900_500, "whatever the caller remembers");
    assert_eq!(world.get("/api/v1/organization/usage").await.json()["limits"]["workflows"], 10);
    world.operate(Method::PATCH, "/api/v1/organizations/acme", Some(json!({"tier": "free"}))).await;
    usage::record_tokens(&mut db, world.acme.id, month, "other", 1_000).await.unwrap();
    assert_eq!(
        world.get("/api/v1/organization/usage").await.json()["tokens"]["left"],
        0,
        "used more than the lower tier has"
    );
}
