//! A POST that is repeated under its key.

use super::*;

/// API-3
#[tokio::test]
async fn a_repeated_key_gives_the_first_answer_again_and_one_effect() {
    let world = World::new().await;
    let key = [("idempotency-key", "order-1")];
    let job = json!({"kind": "debug.noop"});
    let first = world.post_with("/api/v1/jobs", &key, job.clone()).await;
    let second = world.post_with("/api/v1/jobs", &key, job.clone()).await;
    assert_eq!((first.status, &first.text), (second.status, &second.text));
    assert_eq!(first.header("location"), second.header("location"));
    assert_eq!((first.header("idempotency-replayed"), second.header("idempotency-replayed")), ("", "true"));
    assert_eq!(world.jobs_stored().await, 1);
    let other = world.post_with("/api/v1/jobs", &key, json!({"kind": "debug.noop", "priority": 1})).await;
    other.problem(422, "idempotency-mismatch");
    world.post_with("/api/v1/jobs/bulk", &key, json!({"jobs": [job]})).await.problem(422, "idempotency-mismatch");
    let long = "x".repeat(256);
    let bad = world.post_with("/api/v1/jobs", &[("idempotency-key", &long)], job.clone()).await;
    assert_eq!(bad.problem(422, "validation"), ["Idempotency-Key invalid"]);

    // A refused call leaves its key free.
    let key = [("idempotency-key", "company-1")];
    let mut wrong = company();
    wrong["org_number"] = json!("123456-7890");
    assert_eq!(
        world.post_with("/api/v1/companies", &key, wrong).await.problem(422, "validation"),
        ["org_number invalid"]
    );
    let first = world.post_with("/api/v1/companies", &key, company()).await;
    let second = world.post_with("/api/v1/companies", &key, company()).await;
    assert_eq!((first.status, &first.text), (StatusCode::CREATED, &second.text));
    assert_eq!(second.header("idempotency-replayed"), "true");
    let kept: Vec<Vec<u8>> =
        sqlx::query_scalar("select body from public.idempotency_keys").fetch_all(&world.app.db).await.unwrap();
    assert!(
        kept.iter().all(|body| !String::from_utf8_lossy(body).contains(PLANTED)),
        "VAULT-4: kept answers are sealed"
    );
}

/// API-3: of two at once one works; the other is told to come back, or given the first's answer.
#[tokio::test]
async fn two_requests_at_once_with_one_key_have_one_effect() {
    let world = World::new().await;
    let key = [("idempotency-key", "race")];
    let tries = (0..8).map(|_| world.post_with("/api/v1/jobs", &key, json!({"kind": "debug.noop"})));
    for answer in futures::future::join_all(tries).await {
        match answer.status {
            StatusCode::ACCEPTED => {}
            _ => {
                answer.problem(409, "idempotency-in-progress");
                assert_eq!(answer.header("retry-after"), "1");
            }
        }
    }
    assert_eq!(world.jobs_stored().await, 1);
}

/// API-3, TEN-2: key and organization are one transaction, so there is never one without the other.
#[tokio::test]
async fn an_organization_is_created_once_per_key_also_when_asked_for_at_once() {
    let world = World::new().await;
    let create = |key: &'static str, body: Value| {
        let headers = [("idempotency-key", key)];
        world.send(request(Method::POST, "/api/v1/organizations", OPERATOR, &headers, Some(body)))
    };
    let initech = json!({"slug": "initech", "name": "Initech AB"});
    let answers = futures::future::join_all((0..4).map(|_| create("new-1", initech.clone()))).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.text), (StatusCode::CREATED, &answers[0].text), "{}", answer.text);
    }
    let first = answers.iter().filter(|answer| answer.header("idempotency-replayed").is_empty()).count();
    assert_eq!(first, 1);
    assert_eq!(create("new-2", initech).await.problem(409, "conflict"), ["slug taken"]);
    create("new-1", json!({"slug": "initech", "name": "Other AB"})).await.problem(422, "idempotency-mismatch");

    // The answer cannot be kept: there is no organization either, and the same request may be sent again.
    let rename = |from: &str, to: &str| format!("alter table public.idempotency_keys rename column {from} to {to}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(rename("body", "hidden"))).execute(&world.app.db).await.unwrap();
    let globex = json!({"slug": "globex", "name": "Globex AB"});
    create("new-3", globex.clone()).await.problem(500, "internal");
    sqlx::raw_sql(sqlx::AssertSqlSafe(rename("hidden", "body"))).execute(&world.app.db).await.unwrap();
    assert_eq!(create("new-3", globex).await.status, StatusCode::CREATED);
}

/// API-3, AUTH-2: a body may hold a password; whoever reads the table alone cannot try passwords against what is kept of it.
#[tokio::test]
async fn what_is_kept_of_a_request_cannot_be_made_without_the_vault_s_key() {
    use sha2::{Digest, Sha256};

    let world = World::new().await;
    let body = json!({"email": "bo@acme.example", "name": "Bo", "role": "user", "password": "correct horse battery"});
    let made = world.post_with("/api/v1/members", &[("idempotency-key", "k")], body.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let kept: Vec<u8> =
        sqlx::query_scalar("select fingerprint from public.idempotency_keys").fetch_one(&world.app.db).await.unwrap();
    let guess = Sha256::digest(format!("POST\0/api/v1/members\0\0{body}"));
    assert_eq!(kept.len(), guess.len());
    assert_ne!(kept, guess.to_vec());
}

/// API-3, AUTH-3: a program cannot write a key that is a person's.
#[tokio::test]
async fn a_program_s_key_that_looks_like_a_person_s_is_its_own() {
    let world = World::new().await;
    let anna = person_of(&world.app, &world.acme, Role::Admin, None).await;
    let body = json!({"email": "bo@acme.example", "name": "Bo", "role": "user"});
    let forged = format!("{} k", anna.id);
    let program = world.post_with("/api/v1/members", &[("idempotency-key", &forged)], body.clone()).await;
    assert_eq!(program.status, StatusCode::CREATED, "{}", program.text);
    let key = [("idempotency-key", "k")];
    let annas = world.send(request(Method::POST, "/api/v1/members", &anna.token, &key, Some(body))).await;
    assert_eq!(annas.problem(409, "conflict"), ["email taken"], "worked on, not answered with another's answer");
}
