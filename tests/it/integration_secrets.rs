//! VAULT-4, SYNC-1: planted credentials of third parties, everything that can be done with them, and a search of all that was written.

use backroom::{
    demo::vendors::{
        Mood,
        bamboohr::{BambooHr, Person},
        slack::Slack,
    },
    tenant::testing::TestDatabase,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    secrets::{Said, every_row},
    support::{Program, Ran, count, eventually, mailbox},
};

/// Credentials that work, and some that do not.
const WRONG: &str = "planted-wrong-key";
const BROKEN: &str = "planted-in-a-broken-file";

fn heard(ran: Ran) -> String {
    format!("{}{}", ran.stdout, ran.stderr)
}

/// The credentials of a JSON object, each of them a secret.
fn secrets(credentials: &Value) -> Vec<String> {
    let values = credentials.as_object().expect("an object").values();
    values.map(|value| value.as_str().expect("a text").to_owned()).collect()
}

/// BambooHR with two people.
async fn company() -> BambooHr {
    let people = vec![Person::new("Ada", "Ek", "ada@acme.example"), Person::new("Bo", "Al", "bo@acme.example")];
    BambooHr::start_at(people, backroom::domain::Clock::system()).await.expect("a fake")
}

/// VAULT-4, SYNC-1, SYNC-6, SYNC-12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_credentials_are_found_nowhere() {
    let database = TestDatabase::new().await;
    database.organization("acme").await;
    let mailbox = mailbox().await;
    let (log, files) = (tempfile::NamedTempFile::new().expect("a file"), tempfile::tempdir().expect("a folder"));
    let program = Program::on(&database.url())
        .with("BACKROOM__MAIL__SMTP_URL", mailbox.url())
        .with("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1")
        .with("RUST_BACKTRACE", "1")
        .without("BACKROOM__LOG__FILTER")
        .with("BACKROOM__LOG__FILTER", "trace")
        .with("BACKROOM__LOG__FORMAT", "json")
        .logging_to(log.path());
    let key = program.key("acme").await;
    let (bamboo, with_oauth, with_wrong) = (company().await, company().await, company().await);
    let slack = Slack::start().await.expect("a fake");
    let mut planted = vec![WRONG.to_owned(), BROKEN.to_owned()];
    for credentials in [bamboo.credentials(), with_oauth.oauth_credentials(), slack.credentials()] {
        planted.extend(secrets(&credentials));
    }
    // What OAuth gives out while it goes on, whatever its number.
    planted.extend(["bamboo-access-", "bamboo-refresh-"].map(str::to_owned));
    let mut said = Said::default();
    let (process, api) = program.serve("start", &key).await;

    // Through the API: what works, what does not, and what is no credential at all.
    let connect = async |name: &str, provider: &str, config: Value, credentials: Value| {
        let body = json!({ "provider": provider, "name": name, "config": config, "credentials": credentials });
        let post = [("Idempotency-Key", name)];
        let answer = api.post_with("/api/v1/integrations", &post, &body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let again = api.post_with("/api/v1/integrations", &post, &body).await;
        assert_eq!(again.text, answer.text, "replayed from a sealed answer");
        (answer.json()["id"].as_str().expect("an id").to_owned(), answer.text)
    };
    let mut ids = Vec::new();
    for (name, provider, config, credentials) in [
        ("good", "bamboohr", bamboo.config(), bamboo.credentials()),
        ("oauth", "bamboohr", with_oauth.config(), with_oauth.oauth_credentials()),
        ("wrong", "bamboohr", with_wrong.config(), json!({ "api_key": WRONG })),
        ("team", "slack", slack.config(), slack.credentials()),
    ] {
        let (id, answer) = connect(name, provider, config, credentials).await;
        said.hear("a new integration", answer);
        ids.push(id);
    }
    let [good, oauth, wrong, team] = &ids[..] else { panic!("four") };
    for credentials in
        [json!(WRONG), json!({ "api_key": [WRONG] }), json!({ "key": WRONG }), json!({ "api_key": { "k": WRONG } })]
    {
        let body =
            json!({ "provider": "bamboohr", "name": "x", "config": bamboo.config(), "credentials": credentials });
        let refused = api.post("/api/v1/integrations", &body).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
        said.hear("a refused integration", refused.text);
        let patch = [("content-type", "application/json")];
        let path = format!("/api/v1/integrations/{good}");
        let body = json!({ "credentials": credentials, "interval_minutes": 1 }).to_string();
        said.hear("a refused change", api.send(Method::PATCH, &path, &patch, body).await.text);
    }

    // The vendors say no, in every way, and quote what they were sent.
    let oauth_words = secrets(&with_oauth.oauth_credentials()).join(" ") + " bamboo-access-1 bamboo-refresh-1";
    for (fake, words) in [
        (&bamboo.fake, secrets(&bamboo.credentials()).join(" ")),
        (&with_oauth.fake, oauth_words),
        (&with_wrong.fake, format!("{WRONG} {}", BASE64_STANDARD.encode(format!("{WRONG}:x")))),
    ] {
        let quoted = json!({ "error": { "message": words }, "error_description": words }).to_string();
        for path in ["/employees", "/datasets", "/token.php"] {
            for status in [400, 401, 403, 500] {
                let headers = vec![("x-bamboohr-error-message", words.clone())];
                fake.script.next(path, Mood::Answers(status, headers, quoted.clone()));
            }
            fake.script.next(path, Mood::Truncated);
        }
    }
    for id in &ids {
        for _ in 0..3 {
            said.hear("a test", api.post(&format!("/api/v1/integrations/{id}/test"), &json!({})).await.text);
        }
        said.hear(
            "a sync",
            api.post(&format!("/api/v1/integrations/{id}/sync"), &json!({ "mode": "full" })).await.text,
        );
    }
    let tried = "select count(*) from queue.jobs where kind = 'integrations.sync' and attempt = 0";
    eventually("every sync was tried", async || (count(&database.pool, tried).await == 0).then_some(())).await;

    // What the vendors send by themselves: proven, forged, and the end of our access.
    let deliver = async |id: &str, headers: Vec<(String, String)>, body: Vec<u8>| {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = api.with_key("").send(Method::POST, &format!("/webhooks/acme/{id}"), &headers, body).await;
        (answer.status, answer.text)
    };
    let owned = |(name, value): (&'static str, String)| (name.to_owned(), value);
    let (headers, body) = bamboo.webhook("updated", 1, backroom::domain::Clock::system().now());
    let headers: Vec<_> = headers.into_iter().map(owned).collect();
    let (status, text) = deliver(good, headers.clone(), body.clone()).await;
    assert_eq!(status, 200, "{text}");
    for (id, body) in [(good, WRONG.as_bytes().to_vec()), (wrong, body.clone()), (team, body)] {
        let (status, text) = deliver(id, headers.clone(), body).await;
        assert_eq!(status, 403, "{text}");
        said.hear("a refused delivery", text);
    }
    let (headers, body) = slack.webhook("Ev1", &json!({ "type": "app_uninstalled" }));
    slack.revoke(Some("account_inactive"));
    let text = |value: &reqwest::header::HeaderValue| value.to_str().expect("text").to_owned();
    let headers = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    assert_eq!(deliver(team, headers, body).await.0, 200);
    let stopped = "select count(*) from org_acme.integrations where provider = 'slack' and status = 'needs_attention'";
    eventually("Slack was stopped", async || (count(&database.pool, stopped).await == 1).then_some(())).await;

    // Jobs that carry nothing, and a panic beside them.
    api.enqueue("debug.panic", json!({})).await;

    // The command line: from files that are right, wrong and broken.
    let file = |name: &str, text: String| {
        let path = files.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("a path").to_owned()
    };
    let right = file("right.json", bamboo.credentials().to_string());
    let broken = file("broken.json", format!("{{\"api_key\": \"{BROKEN}"));
    let typed = file("typed.json", json!({ "api_key": [BROKEN] }).to_string());
    let config = bamboo.config().to_string();
    let add = |name: &'static str, file: &str| {
        let args = ["integration", "add", "bamboohr", "--org", "acme", "--name", name, "--verbose", "--config"];
        let rest = [config.clone(), "--credentials-file".to_owned(), file.to_owned()];
        args.into_iter().map(str::to_owned).chain(rest).collect::<Vec<_>>()
    };
    for (name, file, code) in
        [("by hand", &right, 0), ("broken", &broken, 2), ("typed", &typed, 2), ("no file", &"/nowhere".to_owned(), 1)]
    {
        let args = add(name, file);
        let ran = program.run(&args.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(ran.code, Some(code), "{name}: {}", ran.stderr);
        said.hear(format!("add {name}"), heard(ran));
    }
    for command in [
        &["list", "--json"][..],
        &["show", "by hand", "--json"],
        &["show", "good"],
        &["test", "by hand", "--verbose"],
        &["test", "wrong", "--verbose"],
        &["test", oauth, "--verbose"],
        &["sync", "by hand", "--verbose"],
        &["sync", "wrong", "--full", "--verbose"],
        &["sync", oauth, "--verbose"],
        &["change", "by hand", "--credentials-file", &broken, "--verbose"],
        &["change", "by hand", "--credentials-file", &right, "--verbose"],
        &["runs", "--json"],
        &["deliveries", "good", "--json"],
        &["remove", "by hand"],
    ] {
        let args: Vec<&str> =
            ["integration"].into_iter().chain(command.iter().copied()).chain(["--org", "acme"]).collect();
        said.hear(command.join(" "), heard(program.run(&args).await));
    }

    // Everything that shows anything of it.
    for id in &ids {
        for part in ["", "/runs", "/deliveries"] {
            said.hear("an integration", api.get(&format!("/api/v1/integrations/{id}{part}")).await.text);
        }
    }
    for path in ["integrations", "integration-providers", "jobs?limit=200", "events?limit=200", "openapi.json"] {
        said.hear(path, api.get(&format!("/api/v1/{path}")).await.text);
    }
    said.hear("metrics", api.get("/metrics").await.text);
    for mail in mailbox.list(20).iter().filter_map(|mail| mailbox.get(mail.id)) {
        said.hear("a mail", mail.text.unwrap_or_default());
    }
    process.stop().await;
    said.hear("every row", every_row(&database).await);
    let log = std::fs::read_to_string(log.path()).expect("the log");
    assert!(log.contains("refused a delivery") && log.contains("a thread panicked"), "the log is at trace level");
    said.hear("the log", log);

    let mut told = Vec::new();
    for secret in planted {
        // As bytes in a row are shown, as it is, and as HTTP Basic sends it with and without a password.
        let bytes: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let basic = BASE64_STANDARD.encode(format!("{secret}:x"));
        for form in [&bytes, &secret, &basic] {
            told.extend(said.who_told(form).into_iter().map(|who| format!("{secret} was told by {who}")));
        }
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
    database.close().await.expect("dropped");
}
