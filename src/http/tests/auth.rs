//! Who is calling, and what that key opens.

use super::*;

/// AUTH-3
#[tokio::test]
async fn a_key_opens_what_its_scopes_say_until_it_is_revoked() {
    let world = World::new().await;
    for (key, headers) in [("", vec![]), ("br_acme_nonsense", vec![]), ("", vec![("authorization", "Basic YTpi")])] {
        let answer = world.send(request(Method::GET, "/api/v1/jobs", key, &headers, None)).await;
        answer.problem(401, "unauthenticated");
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
    }
    let narrow = key_of(&world.app, &world.acme, &[Scope::JobsRead]).await;
    let with = |key: &str, method: Method, path: &str, body| request(method, path, key, &[], body);
    assert_eq!(world.send(with(&narrow, Method::GET, "/api/v1/jobs", None)).await.status, StatusCode::OK);
    let noop = Some(json!({"kind": "debug.noop"}));
    world.send(with(&narrow, Method::POST, "/api/v1/jobs", noop)).await.problem(403, "forbidden");
    world.send(with(&narrow, Method::GET, "/api/v1/companies", None)).await.problem(403, "forbidden");

    let made = world.post("/api/v1/api-keys", json!({"name": "shop", "scopes": ["jobs:read"]})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let (key, id) = (made.json()["key"].as_str().unwrap().to_owned(), made.json()["id"].as_str().unwrap().to_owned());
    assert!(key.starts_with("br_acme_"));
    assert_eq!(world.send(with(&key, Method::GET, "/api/v1/jobs", None)).await.status, StatusCode::OK);
    let listed = world.get("/api/v1/api-keys").await;
    assert!(listed.text.contains("shop") && !listed.text.contains(&key), "VAULT-4");
    let revoked = world.send(with(&world.key, Method::DELETE, &format!("/api/v1/api-keys/{id}"), None)).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    world.send(with(&key, Method::GET, "/api/v1/jobs", None)).await.problem(401, "unauthenticated");

    let bad = json!({"name": "", "scopes": ["jobs:all"]});
    assert_eq!(world.post("/api/v1/api-keys", bad).await.problem(422, "validation"), ["scopes[0] invalid"]);
    let writer = key_of(&world.app, &world.acme, &[Scope::OrganizationWrite]).await;
    let more = Some(json!({"name": "more", "scopes": ["billing:write"]}));
    let refused = world.send(with(&writer, Method::POST, "/api/v1/api-keys", more)).await;
    assert_eq!(refused.problem(422, "validation"), ["scopes[0] invalid"], "a key makes no stronger key");
}

/// AUTH-3
#[tokio::test]
async fn the_last_use_of_a_key_is_noted() {
    let world = World::new().await;
    world.get("/api/v1/jobs").await;
    for _ in 0..200 {
        let mut db = world.app.db.acquire().await.unwrap();
        if api_keys::list(&mut db, world.acme.id).await.unwrap()[0].last_used_at.is_some() {
            return;
        }
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the key was used two seconds ago and nothing was noted");
}

/// API-8, TEN-3
#[tokio::test]
async fn key_header_and_subdomain_must_agree_and_others_things_do_not_exist() {
    let world = World::new().await;
    let globex = world._database.organization("globex").await;
    let theirs = key_of(&world.app, &globex, Scope::ALL).await;
    let get = |key: &str, headers: &[(&str, &str)], path: &str| request(Method::GET, path, key, headers, None);
    let id = world.acme.id.to_string();
    for agreeing in [
        ("x-tenant-id", "acme"),
        ("x-tenant-id", id.as_str()),
        ("host", "acme.backroom.example"),
        ("host", "www.backroom.example"),
        ("host", "127.0.0.1:4000"),
    ] {
        let answer = world.send(get(&world.key, &[agreeing], "/api/v1/jobs")).await;
        assert_eq!(answer.status, StatusCode::OK, "{agreeing:?}");
    }
    for other in [
        ("x-tenant-id", "globex"),
        ("x-tenant-id", "nobody"),
        ("x-tenant-id", ""),
        ("host", "globex.backroom.example"),
        ("host", "nobody.backroom.example"),
    ] {
        world.send(get(&world.key, &[other], "/api/v1/jobs")).await.problem(403, "tenant-mismatch");
    }
    let company = world.company().await;
    let job = world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.json()["id"].as_str().unwrap().to_owned();
    for path in [format!("/api/v1/companies/{company}"), format!("/api/v1/jobs/{job}")] {
        assert_eq!(world.get(&path).await.status, StatusCode::OK);
        world.send(get(&theirs, &[], &path)).await.problem(404, "not-found");
    }
    for action in ["cancel", "retry"] {
        let path = format!("/api/v1/jobs/{job}/{action}");
        world.send(request(Method::POST, &path, &theirs, &[], None)).await.problem(404, "not-found");
    }
    assert_eq!(world.send(get(&theirs, &[], "/api/v1/jobs")).await.json()["jobs"], json!([]));
}
