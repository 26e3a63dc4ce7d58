//! Effects: who sees which, and the operator's answer.

use super::*;

/// As an attempt that was about to have an effect and is never heard of again.
async fn unknown(world: &World, tenant: &str, key: &str) -> String {
    let id = backroom_queue::effect_id(Some(tenant), key);
    sqlx::query(
        "insert into queue.effects (id, tenant, key, kind, job_id, attempt, keep_days)
         values ($1, $2, $3, 'billing.remind_invoice', gen_random_uuid(), 1, 30)",
    )
    .bind(id)
    .bind(tenant)
    .bind(key)
    .execute(&world.app.db)
    .await
    .unwrap();
    id.to_string()
}

/// PLAT-21
#[tokio::test]
async fn an_organization_sees_its_own_effects_and_the_operator_answers_for_unknown_ones() {
    let world = World::new().await;
    let id = unknown(&world, "acme", "reminder:1").await;
    let lost = unknown(&world, "acme", "reminder:2").await;
    unknown(&world, "globex", "reminder:1").await;

    let own = world.get("/api/v1/effects?state=unknown&limit=1").await.json();
    assert_eq!(own["effects"].as_array().unwrap().len(), 1, "{own}");
    let cursor = own["next_cursor"].as_str().unwrap();
    let rest = world.get(&format!("/api/v1/effects?state=unknown&limit=1&cursor={cursor}")).await.json();
    assert_eq!(rest["next_cursor"], Value::Null);
    let seen: Vec<_> = [&own, &rest].map(|page| page["effects"][0]["id"].as_str().unwrap()).into();
    assert!(seen.contains(&id.as_str()) && seen.contains(&lost.as_str()), "{seen:?}");
    let all = world.operate(Method::GET, "/api/v1/effects", None).await.json();
    assert_eq!(all["effects"].as_array().unwrap().len(), 3);
    let job = all["effects"][0]["job_id"].as_str().unwrap();
    let of_job = world.operate(Method::GET, &format!("/api/v1/effects?job={job}"), None).await.json();
    assert_eq!(of_job["effects"], json!([all["effects"][0]]));
    assert_eq!(world.get("/api/v1/effects?state=done").await.json()["effects"], json!([]));
    world.get("/api/v1/effects?state=perhaps").await.problem(422, "validation");
    let without = world.send(request(Method::GET, "/api/v1/effects", "", &[], None)).await;
    without.problem(401, "unauthenticated");

    let resolve = async |id: &str, body: Value| {
        world.operate(Method::POST, &format!("/api/v1/effects/{id}/resolve"), Some(body)).await
    };
    world.post(&format!("/api/v1/effects/{id}/resolve"), json!({"happened": true})).await.problem(403, "forbidden");
    assert_eq!(resolve(&id, json!({})).await.problem(422, "validation"), ["happened required"]);
    let contradiction = resolve(&id, json!({"happened": false, "outcome": {}})).await;
    assert_eq!(contradiction.problem(422, "validation"), ["outcome invalid"]);
    let resolved = resolve(&id, json!({"happened": true, "outcome": {"receipt": 7}})).await;
    assert_eq!(resolved.status, StatusCode::OK, "{}", resolved.text);
    let resolved = resolved.json();
    assert_eq!((&resolved["state"], &resolved["answered_by"]), (&json!("done"), &json!("operator")));
    assert_eq!(resolved["outcome"], json!({"receipt": 7}));
    resolve(&id, json!({"happened": false})).await.problem(409, "conflict");
    assert_eq!(resolve(&lost, json!({"happened": false})).await.json()["state"], "refused");
    resolve(&Uuid::now_v7().to_string(), json!({"happened": true})).await.problem(404, "not-found");
}
