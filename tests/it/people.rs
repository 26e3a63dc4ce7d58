//! People, from outside: made on the command line, signed in over HTTP, and nothing of their secrets anywhere.

use backroom::vault;
use serde_json::{Value, json};

use crate::support::api::World;

fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}")).to_owned()
}

/// AUTH-1, AUTH-2, CLI-4, VAULT-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_made_on_the_command_line_signs_in_and_leaves_no_secret_behind() {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let token_key = vault::generate_key();
    let world = World::with("server", |program| {
        let program = program.without("BACKROOM__LOG__FILTER").with("BACKROOM__LOG__FILTER", "trace");
        program.with("BACKROOM__SIGN_IN__TOKEN_KEYS", &token_key).logging_to(log.path())
    })
    .await;
    let create = ["user", "create", "Anna@acme.example", "--org", "acme", "--name", "Anna Ek", "--role", "admin"];
    let made = world.program.json(&create).await;
    let first = text(&made, "password");
    let again = world.program.run(&create).await;
    assert_eq!(again.code, Some(1), "{}", again.stderr);
    assert!(again.stderr.contains("a member already"), "{}", again.stderr);
    for (args, code, words) in [
        (vec!["user", "create", "no address", "--org", "acme", "--name", "N"], 2, "address"),
        (vec!["user", "create", "b@acme.example", "--org", "nobody", "--name", "N"], 3, "nobody"),
        (vec!["user", "password", "b@acme.example"], 3, "nobody has the address"),
        (vec!["user", "password", "b"], 2, "address"),
        (vec!["user", "create", "b@acme.example", "--org", "acme", "--name", "N", "--role", "owner"], 2, "owner"),
        (vec!["user", "create", "b@acme.example", "--org", "acme", "--name", "N", "--role", "customer"], 1, "company"),
        (vec!["user", "create", "b@acme.example", "--org", "acme", "--name", "N", "--password-stdin"], 2, "password"),
    ] {
        let ran = world.program.run(&args).await;
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{args:?}: {}", ran.stderr);
    }
    let listed = world.program.json(&["user", "list", "--org", "acme"]).await;
    assert_eq!(listed["users"].as_array().map(Vec::len), Some(1), "{listed}");

    let stranger = world.api.with_key("");
    let sign_in = json!({ "email": "anna@ACME.example", "password": first });
    assert_eq!(stranger.post("/api/v1/sign-in", &sign_in).await.status, 200);
    let reset = world.program.json(&["user", "password", "ANNA@acme.example"]).await;
    assert_eq!(reset["sessions_ended"], 1, "{reset}");
    stranger.post("/api/v1/sign-in", &sign_in).await.problem(401, "sign-in-refused");
    let password = text(&reset, "password");
    let sign_in = json!({ "email": "anna@ACME.example", "password": password });
    let signed_in = stranger.post("/api/v1/sign-in", &sign_in).await;
    assert_eq!(signed_in.status, 200, "{}", signed_in.text);
    let tokens = signed_in.json();
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    let anna = world.api.with_key(&access);
    assert_eq!(anna.get("/api/v1/members").await.json()["members"][0]["email"], "Anna@acme.example");
    assert_eq!(anna.post("/api/v1/jobs", &json!({ "kind": "debug.noop" })).await.status, 202);
    stranger
        .post("/api/v1/sign-in", &json!({ "email": "anna@acme.example", "password": "wrong" }))
        .await
        .problem(401, "sign-in-refused");

    // A second process knows nothing of the first, and believes the same tokens.
    let (second, elsewhere) = world.program.serve("server", &access).await;
    assert_eq!(elsewhere.get("/api/v1/me").await.status, 200);
    let renewed = stranger.post("/api/v1/sign-in/refresh", &json!({ "refresh_token": refresh })).await;
    assert_eq!(renewed.status, 200, "{}", renewed.text);
    let next = text(&renewed.json(), "refresh_token");
    let out = stranger.post("/api/v1/sign-out", &json!({ "refresh_token": next })).await;
    assert_eq!(out.status, 204);
    anna.get("/api/v1/me").await.problem(401, "token-revoked");
    second.stop().await;

    let upgraded = world.program.json(&["org", "tier", "acme", "enterprise"]).await;
    assert_eq!(upgraded["tier"], "enterprise");
    assert_eq!(world.api.get("/api/v1/organization/usage").await.json()["limits"]["tokens_per_month"], 999_999_999);
    let shown = world.program.run(&["config"]).await.stdout;
    assert!(shown.contains("[sign_in]"), "{shown}");

    let rows: String = sqlx::query_scalar(
        "select string_agg(query_to_xml(format('select to_jsonb(t)::text as row from %I.%I t', table_schema, table_name),
                           false, true, '')::text, E'\\n')
         from information_schema.tables
         where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')",
    )
    .fetch_one(&world.database.pool)
    .await
    .expect("rows");
    let World { database, process, .. } = world;
    process.stop().await;
    let log = std::fs::read_to_string(log.path()).expect("the log");
    assert!(log.contains("/api/v1/sign-in"), "the log tells of each request: {log}");
    let bare = token_key.split_once(':').map_or("", |(_, key)| key);
    for secret in [&first, &password, &access, &refresh, &next, bare] {
        let bytes: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        for (what, told) in [("a row", &rows), ("the log", &log), ("the configuration", &shown)] {
            assert!(!told.contains(secret) && !told.contains(&bytes), "{what} tells {secret}");
        }
    }
    database.close().await.expect("dropped");
}
