//! People of an organization, over the API.

use super::*;

/// AUTH-1, AUTH-4, API-3, API-9
#[tokio::test]
async fn an_admin_adds_changes_and_removes_people() {
    let world = World::new().await;
    let admin = person_of(&world.app, &world.acme, Role::Admin, None).await;
    let company = world.company().await;
    let send = async |method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>| {
        world.send(request(method, &format!("/api/v1/members{path}"), &admin.token, headers, body)).await
    };
    let anna = json!({"email": "anna@acme.example", "name": "Anna Ek", "role": "developer", "password": "correct horse battery"});
    let key = [("idempotency-key", "add-1")];
    let added = send(Method::POST, "", &key, Some(anna.clone())).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text);
    assert!(!added.text.contains("correct horse"), "VAULT-4");
    assert_eq!(send(Method::POST, "", &key, Some(anna.clone())).await.text, added.text);
    let id = added.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(added.header("location"), format!("/api/v1/members/{id}"));
    let taken = send(Method::POST, "", &[], Some(json!({"email": "ANNA@acme.example", "role": "admin"}))).await;
    assert_eq!(taken.problem(409, "conflict"), ["email taken"]);

    let customer = json!({"email": "kund@example.se", "name": "Kund", "role": "customer", "company_id": company});
    assert_eq!(send(Method::POST, "", &[], Some(customer)).await.status, StatusCode::CREATED);
    for (body, fields) in [
        (json!({"email": "x@y.example", "role": "user"}), ["name required"]),
        (json!({"email": "no", "name": "N", "role": "user"}), ["email invalid"]),
        (json!({"email": "x@y.example", "name": "N\r\nBcc: z", "role": "user"}), ["name invalid"]),
        (json!({"email": "x@y.example", "name": "N", "role": "owner"}), ["role invalid"]),
        (json!({"email": "x@y.example", "name": "N", "role": "user", "password": "short"}), ["password too_short"]),
        (json!({"email": "x@y.example", "name": "N", "role": "customer"}), ["company_id invalid"]),
        (json!({"email": "x@y.example", "name": "N", "role": "user", "company_id": company}), ["company_id invalid"]),
        (
            json!({"email": "x@y.example", "name": "N", "role": "customer", "company_id": Uuid::now_v7()}),
            ["company_id unknown"],
        ),
    ] {
        assert_eq!(send(Method::POST, "", &[], Some(body.clone())).await.problem(422, "validation"), fields, "{body}");
    }
    let nobody: i64 = sqlx::query_scalar("select count(*) from public.users where email_key = 'x@y.example'")
        .fetch_one(&world.app.db)
        .await
        .unwrap();
    assert_eq!(nobody, 0, "what was refused left nobody behind");

    let page = send(Method::GET, "?limit=2", &[], None).await.json();
    let next = page["next_cursor"].as_str().unwrap();
    let rest = send(Method::GET, &format!("?limit=2&cursor={next}"), &[], None).await.json();
    assert_eq!((page["members"].as_array().unwrap().len(), rest["members"].as_array().unwrap().len()), (2, 1));
    let customers = send(Method::GET, "?role=customer", &[], None).await.json();
    assert_eq!(customers["members"][0]["company_id"], json!(company));

    let path = format!("/{id}");
    let changed = send(Method::PATCH, &path, &[], Some(json!({"role": "user"}))).await;
    assert_eq!((changed.status, &changed.json()["role"]), (StatusCode::OK, &json!("user")));
    let alone = send(Method::PATCH, &format!("/{}", admin.id), &[], Some(json!({"role": "user"}))).await;
    alone.problem(409, "conflict");
    send(Method::DELETE, &format!("/{}", admin.id), &[], None).await.problem(409, "conflict");
    assert_eq!(send(Method::DELETE, &path, &[], None).await.status, StatusCode::NO_CONTENT);
    send(Method::DELETE, &path, &[], None).await.problem(404, "not-found");
    send(Method::GET, &path, &[], None).await.problem(404, "not-found");
    assert_eq!(send(Method::POST, "", &[], Some(anna)).await.status, StatusCode::CREATED, "and may come back");
}

/// AUTH-1, AUTH-2: what is changed through this process counts at once.
#[tokio::test]
async fn another_role_and_a_removal_count_at_once() {
    let world = World::new().await;
    let admin = person_of(&world.app, &world.acme, Role::Admin, None).await;
    let developer = person_of(&world.app, &world.acme, Role::Developer, None).await;
    let jobs = async || world.send(request(Method::GET, "/api/v1/jobs", &developer.token, &[], None)).await;
    assert_eq!(jobs().await.status, StatusCode::OK);
    let path = format!("/api/v1/members/{}", developer.id);
    let demote = request(Method::PATCH, &path, &admin.token, &[], Some(json!({"role": "user"})));
    assert_eq!(world.send(demote).await.status, StatusCode::OK);
    jobs().await.problem(403, "forbidden");
    assert_eq!(
        world.send(request(Method::DELETE, &path, &admin.token, &[], None)).await.status,
        StatusCode::NO_CONTENT
    );
    jobs().await.problem(401, "token-revoked");
}

/// AUTH-3, AUTH-4: nobody gives what they do not have.
#[tokio::test]
async fn a_key_makes_no_member_that_may_do_more_than_the_key() {
    let world = World::new().await;
    // With what everybody with the role `user` reads.
    let scopes =
        [Scope::MembersWrite, Scope::MembersRead, Scope::OrganizationRead, Scope::AssetsRead, Scope::WorkflowsRead];
    let narrow = key_of(&world.app, &world.acme, &scopes).await;
    let add = async |role: &str| {
        let body = json!({"email": format!("{role}@acme.example"), "name": "N", "role": role});
        world.send(request(Method::POST, "/api/v1/members", &narrow, &[], Some(body))).await
    };
    for role in ["admin", "developer"] {
        assert_eq!(add(role).await.problem(422, "validation"), ["role invalid"]);
    }
    assert_eq!(add("user").await.status, StatusCode::CREATED);
    let user = person_of(&world.app, &world.acme, Role::User, None).await;
    let promote = |key: &str| {
        let path = format!("/api/v1/members/{}", user.id);
        world.send(request(Method::PATCH, &path, key, &[], Some(json!({"role": "admin"}))))
    };
    assert_eq!(promote(&narrow).await.problem(422, "validation"), ["role invalid"]);
    promote(&user.token).await.problem(403, "forbidden");
    assert_eq!(promote(&world.key).await.status, StatusCode::OK);
    let made = json!({"name": "mine", "scopes": ["members:write"]});
    let developer = person_of(&world.app, &world.acme, Role::Developer, None).await;
    let key = request(Method::POST, "/api/v1/api-keys", &developer.token, &[], Some(made));
    world.send(key).await.problem(403, "forbidden");
}

/// AUTH-1: an account is one in the whole installation; who adds it elsewhere changes nothing of it.
#[tokio::test]
async fn a_person_of_another_organization_keeps_name_and_password() {
    let world = World::new().await;
    let globex = world._database.organization("globex").await;
    let anna = account(&world.app, "anna@globex.example", Some("correct horse battery")).await;
    join(&world.app, &globex, anna, Role::Admin, None).await;
    let body =
        json!({"email": "Anna@globex.example", "name": "Mallory", "role": "user", "password": "a password of mine"});
    let added = world.post("/api/v1/members", body).await;
    assert_eq!(
        (added.status, &added.json()["id"], &added.json()["name"]),
        (StatusCode::CREATED, &json!(anna), &json!("Anna Ek"))
    );
    let sign_in = async |password: &str| {
        let body = json!({"email": "anna@globex.example", "password": password, "organization": "globex"});
        world.send(request(Method::POST, "/api/v1/sign-in", "", &[], Some(body))).await
    };
    sign_in("a password of mine").await.problem(401, "sign-in-refused");
    assert_eq!(sign_in("correct horse battery").await.json()["role"], "admin");
    let removed = request(Method::DELETE, &format!("/api/v1/members/{anna}"), &world.key, &[], None);
    assert_eq!(world.send(removed).await.status, StatusCode::NO_CONTENT);
    assert_eq!(sign_in("correct horse battery").await.status, StatusCode::OK, "globex goes on");
}

/// AUTH-1, WORK-4: who somebody is, in their own words.
#[tokio::test]
async fn a_person_changes_their_own_name_and_language() {
    let world = World::new().await;
    let someone = person_of(&world.app, &world.acme, Role::User, None).await;
    let change =
        async |body: Value| world.send(request(Method::PATCH, "/api/v1/me", &someone.token, &[], Some(body))).await;
    let changed = change(json!({"name": "Bo Ek", "language": "en"})).await.json();
    assert_eq!(
        (&changed["name"], &changed["language"], &changed["email"]),
        (&json!("Bo Ek"), &json!("en"), &json!(someone.email))
    );
    assert_eq!(change(json!({"name": "Bo\r\nX: y"})).await.problem(422, "validation"), ["name invalid"]);
    assert_eq!(change(json!({"email": "b@c.example"})).await.problem(422, "validation"), ["email unknown_field"]);
}

/// AUTH-1, AUTH-5: a password is hashed for a new person in a place that they can have, and for nobody else.
#[tokio::test]
async fn nothing_is_hashed_for_a_member_that_will_not_be_made() {
    let world = World::new().await;
    let anna = account(&world.app, "anna@globex.example", None).await;
    join(&world.app, &world.acme, anna, Role::User, None).await;
    let bo = account(&world.app, "bo@globex.example", None).await;
    let company = world.company().await;
    let hashing = world.app.hashing();
    let turns = u32::try_from(hashing.available_permits()).unwrap();
    let _all = hashing.acquire_many(turns).await.unwrap();
    let add = async |body: Value| {
        let mut body = body;
        body["password"] = json!("correct horse battery");
        let answer = world.post("/api/v1/members", body);
        tokio::time::timeout(std::time::Duration::from_secs(20), answer).await.expect("it waits for a turn to hash")
    };
    let known = add(json!({"email": "anna@globex.example", "role": "user"})).await;
    assert_eq!(known.problem(409, "conflict"), ["email taken"]);
    let elsewhere = add(json!({"email": "bo@globex.example", "name": "N", "role": "user"})).await;
    assert_eq!((elsewhere.status, &elsewhere.json()["id"]), (StatusCode::CREATED, &json!(bo)));
    for (body, fields) in [
        (json!({"email": "x@y.example", "name": "N", "role": "customer"}), ["company_id invalid"]),
        (json!({"email": "x@y.example", "name": "N", "role": "user", "company_id": company}), ["company_id invalid"]),
        (
            json!({"email": "x@y.example", "name": "N", "role": "customer", "company_id": Uuid::now_v7()}),
            ["company_id unknown"],
        ),
        (json!({"email": "x@y.example", "role": "user"}), ["name required"]),
    ] {
        assert_eq!(add(body.clone()).await.problem(422, "validation"), fields, "{body}");
    }
}

/// AUTH-5: who waits for a turn to hash keeps no connection from the others.
#[tokio::test]
async fn changes_of_passwords_that_wait_for_their_turn_hold_no_connections() {
    use std::time::Duration;

    use futures::{FutureExt, StreamExt, stream::FuturesUnordered};

    let world = World::with(&[("BACKROOM__HTTP__PROXIES", "1")]).await;
    let anna = account(&world.app, "anna@acme.example", Some("correct horse battery")).await;
    join(&world.app, &world.acme, anna, Role::User, None).await;
    let body = json!({"email": "anna@acme.example", "password": "correct horse battery"});
    let signed_in = world.send(request(Method::POST, "/api/v1/sign-in", "", &[], Some(body))).await.json();
    let token = signed_in["access_token"].as_str().unwrap();
    let hashing = world.app.hashing();
    let turns = u32::try_from(hashing.available_permits()).unwrap();
    let all = hashing.acquire_many(turns).await.unwrap();
    let change = async |host: usize| {
        let network = format!("203.0.113.{host}");
        let headers = [("x-forwarded-for", network.as_str()), ("idempotency-key", network.as_str())];
        let body = json!({"old_password": "correct horse battery", "new_password": "a much better one"});
        world.send(request(Method::POST, "/api/v1/me/password", token, &headers, Some(body))).await
    };
    // More than there are connections.
    let mut changes: FuturesUnordered<_> = (0..12).map(change).collect();
    let others = async {
        for _ in 0..100 {
            assert_eq!(world.get("/api/v1/members").await.status, StatusCode::OK);
        }
    };
    let others = tokio::time::timeout(Duration::from_secs(60), others);
    let mut others = std::pin::pin!(others.fuse());
    futures::select_biased! {
        answer = changes.select_next_some() => panic!("hashed without a turn: {}", answer.text),
        finished = others => finished.expect("the connections are all taken"),
    }

    drop(all);
    let answers: Vec<_> = changes.collect().await;
    let changed = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!(changed, 1, "of many at once one changes it");
}
