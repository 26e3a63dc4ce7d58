//! Rules that say which events are told in Slack.

use super::*;
use crate::{
    domain::integration::{NewIntegration, Provider},
    jobs::integrations,
    store::Sealer,
};

/// An integration of the world's organization, connected by nobody.
pub(super) async fn integration(world: &World, provider: Provider) -> Uuid {
    let new = NewIntegration {
        provider,
        name: provider.title().to_owned(),
        config: json!({}),
        interval_minutes: 60,
        enabled: true,
    };
    let (sealer, credentials) =
        (Sealer::new(&world.app.vault, "acme"), r#"{"bot_token": "xoxb-4711"}"#.to_owned().into());
    let mut tx = tenant::begin(&world.app.db, &world.acme).await.unwrap();
    let now = world.app.clock.now();
    let made = integrations::create_integration(&mut tx, sealer, (&new, &credentials), "test", now).await.unwrap();
    tx.commit().await.unwrap();
    made.id
}

/// EVT-3, SYNC-11
#[tokio::test]
async fn a_rule_is_stored_changed_listed_and_removed() {
    let world = World::new().await;
    let slack = integration(&world, Provider::Slack).await;
    let rule = json!({"integration_id": slack, "events": "asset.*", "channel": "C0ALLMANT"});
    let created = world.post("/api/v1/notification-rules", rule.clone()).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    let body = created.json();
    assert_eq!((&body["mention"], &body["enabled"], &body["language"]), (&json!(true), &json!(true), &Value::Null));
    let path = created.header("location").to_owned();
    assert_eq!(world.get(&path).await.json(), body);
    assert_eq!(world.post("/api/v1/notification-rules", rule).await.problem(409, "conflict"), ["events taken"]);

    let patch = |body: Value| request(Method::PATCH, &path, &world.key, &[], Some(body));
    let change =
        json!({"events": "invoice.reminder_failed", "channel": "Anna@Example.se", "language": "en", "enabled": false});
    let changed = world.send(patch(change)).await.json();
    assert_eq!(
        (&changed["events"], &changed["channel"], &changed["language"], &changed["enabled"], &changed["mention"]),
        (&json!("invoice.reminder_failed"), &json!("anna@example.se"), &json!("en"), &json!(false), &json!(true))
    );
    assert_eq!(world.send(patch(json!({"language": null}))).await.json()["language"], Value::Null);
    let page = world.get(&format!("/api/v1/notification-rules?integration_id={slack}")).await.json();
    assert_eq!((page["notification_rules"].as_array().unwrap().len(), &page["next_cursor"]), (1, &Value::Null));
    let elsewhere = format!("/api/v1/notification-rules?integration_id={}", Uuid::now_v7());
    assert_eq!(world.get(&elsewhere).await.json()["notification_rules"], json!([]));

    let removed = world.send(request(Method::DELETE, &path, &world.key, &[], None)).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    world.get(&path).await.problem(404, "not-found");
}

/// EVT-3
#[tokio::test]
async fn a_rule_that_makes_no_sense_is_refused_by_field() {
    let world = World::new().await;
    let slack = integration(&world, Provider::Slack).await;
    let hris = integration(&world, Provider::BambooHr).await;
    let post = async |body: Value| world.post("/api/v1/notification-rules", body).await;
    let wrong = json!({"integration_id": slack, "events": "message.posted", "channel": "#general"});
    assert_eq!(post(wrong).await.problem(422, "validation"), ["events invalid", "channel invalid"]);
    for other in [hris, Uuid::now_v7()] {
        let wrong = json!({"integration_id": other, "events": "job.*", "channel": "C0ALLMANT"});
        assert_eq!(post(wrong).await.problem(422, "validation"), ["integration_id invalid"]);
    }
}

/// EVT-3, AUTH-4: admins decide, developers look.
#[tokio::test]
async fn only_admins_change_rules() {
    let world = World::new().await;
    let slack = integration(&world, Provider::Slack).await;
    let rule = json!({"integration_id": slack, "events": "asset.*", "channel": "C0ALLMANT"});
    for (role, may_read, may_write) in
        [(Role::Admin, true, true), (Role::Developer, true, false), (Role::User, false, false)]
    {
        let token = person_of(&world.app, &world.acme, role, None).await.token;
        let read = world.send(request(Method::GET, "/api/v1/notification-rules", &token, &[], None)).await;
        assert_eq!(read.status == StatusCode::OK, may_read, "{role}: {}", read.text);
        let write = request(Method::POST, "/api/v1/notification-rules", &token, &[], Some(rule.clone()));
        let written = world.send(write).await;
        assert_eq!(written.status == StatusCode::CREATED, may_write, "{role}: {}", written.text);
    }
}
