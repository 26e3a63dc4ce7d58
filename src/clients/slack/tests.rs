//! The calls over real HTTP: answers as Slack publishes them, refusals, and a workspace that checks what it is asked.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::{
    clients::{connector::Credentials, http::HttpOptions, vendor},
    demo::vendors::{
        Mood,
        slack::{self as fake, Door, TOKEN},
    },
};

const GENERAL: &str = "C0ALLMANT";

fn account(config: Value, credentials: &Value) -> Account {
    let allow = vec!["127.0.0.0/8".parse().unwrap()];
    let options = HttpOptions { timeout: Duration::from_secs(20), body_limit: 100_000, allow };
    let credentials = Credentials::parse(credentials.to_string().into()).unwrap();
    Account { config, credentials, http: Http::new(options).unwrap(), clock: Clock::system() }
}

fn client(workspace: &fake::Slack) -> Slack {
    Slack::new(account(workspace.config(), &workspace.credentials())).unwrap()
}

fn message(text: &str) -> Message {
    Message { sentence: Mrkdwn::data(text), origin: Mrkdwn::words("Acme AB") }
}

/// A client whose next call of the method is answered with this file.
async fn answered(method: &str, body: &str) -> (fake::Slack, Slack) {
    let workspace = fake::Slack::start().await.unwrap();
    let headers = vec![("content-type", "application/json; charset=utf-8".to_owned())];
    workspace.fake.script.next(method, Mood::Answers(200, headers, body.to_owned()));
    let slack = client(&workspace);
    (workspace, slack)
}

/// SYNC-11
#[tokio::test]
async fn a_message_is_posted_with_its_key_and_found_by_it() {
    let workspace = fake::Slack::start().await.unwrap();
    let slack = client(&workspace);
    let (key, other) = (Uuid::now_v7(), Uuid::now_v7());
    let before = Clock::system().now();

    let posted = slack.post(GENERAL, &message("<!channel> åäö & co"), key).await.unwrap();

    let said = workspace.said(GENERAL);
    assert_eq!((said.len(), &said[0].ts), (1, &posted.ts));
    assert_eq!(said[0].text, "&lt;!channel&gt; åäö &amp; co");
    assert_eq!(said[0].blocks[0]["text"]["text"], said[0].text.as_str());
    let found = slack.find(GENERAL, key, before).await.unwrap();
    assert_eq!(found, Found::Posted(posted));
    assert_eq!(slack.find(GENERAL, other, before).await.unwrap(), Found::Nowhere);
    let later = before + chrono::TimeDelta::hours(1);
    assert_eq!(slack.find(GENERAL, key, later).await.unwrap(), Found::Nowhere, "not asked for what is older");
    // As Slack wants to be asked: without the charset it warns, and what reads ignores JSON.
    let asked = workspace.fake.script.asked();
    assert_eq!(asked[0].headers["content-type"], "application/json; charset=utf-8");
    assert_eq!(asked[0].headers["authorization"], format!("Bearer {TOKEN}"));
    assert_eq!(asked[1].headers["content-type"], "application/x-www-form-urlencoded");
}

/// SYNC-11: further back than a page.
#[tokio::test]
async fn a_message_is_found_pages_back_and_not_beyond_them() {
    let workspace = fake::Slack::start().await.unwrap();
    workspace.patient();
    let slack = client(&workspace);
    let (key, before) = (Uuid::now_v7(), Clock::system().now());
    let posted = slack.post(GENERAL, &message("first"), key).await.unwrap();
    for n in 0..150 {
        slack.post(GENERAL, &message(&n.to_string()), Uuid::now_v7()).await.unwrap();
    }
    assert_eq!(slack.find(GENERAL, key, before).await.unwrap(), Found::Posted(posted));
    for n in 0..400 {
        slack.post(GENERAL, &message(&n.to_string()), Uuid::now_v7()).await.unwrap();
    }
    assert_eq!(slack.find(GENERAL, key, before).await.unwrap(), Found::NotYet);
}

/// SYNC-11
#[tokio::test]
async fn a_person_is_looked_up_and_written_to() {
    let workspace = fake::Slack::start().await.unwrap();
    workspace.person("U0ANNA", "anna@example.se");
    workspace.person("U0BO", "bo@example.se");
    workspace.leaves("bo@example.se");
    let slack = client(&workspace);

    let anna = slack.person("Anna@example.se").await.unwrap();
    assert_eq!(anna.as_deref(), Some("U0ANNA"));
    assert_eq!(slack.person("bo@example.se").await.unwrap(), None);
    assert_eq!(slack.person("nobody@example.se").await.unwrap(), None);
    let direct = slack.open("U0ANNA").await.unwrap();
    slack.post(&direct, &message("Hej"), Uuid::now_v7()).await.unwrap();
    assert_eq!(workspace.said("D0ANNA").len(), 1);
    assert!(matches!(slack.open("U0BO").await, Err(SlackError::Target(_))));
}

/// SYNC-11: fixtures in the shapes that Slack publishes, with what tomorrow brings and without what may be left out.
#[tokio::test]
async fn answers_are_read_as_they_are_published() {
    let posted = Posted { channel: GENERAL.to_owned(), ts: "1772438400.000247".to_owned() };
    for body in [include_str!("fixtures/post.json"), include_str!("fixtures/post_bare.json")] {
        let (_workspace, slack) = answered("chat.postMessage", body).await;
        assert_eq!(slack.post(GENERAL, &message("x"), Uuid::nil()).await.unwrap(), posted);
    }
    for (body, expected) in [
        (include_str!("fixtures/history.json"), Found::Posted(posted)),
        (include_str!("fixtures/history_bare.json"), Found::Nowhere),
    ] {
        let (_workspace, slack) = answered("conversations.history", body).await;
        assert_eq!(slack.find(GENERAL, Uuid::nil(), Clock::system().now()).await.unwrap(), expected);
    }
    for (body, expected) in
        [(include_str!("fixtures/lookup.json"), Some("U0ANNA")), (include_str!("fixtures/lookup_closed.json"), None)]
    {
        let (_workspace, slack) = answered("users.lookupByEmail", body).await;
        assert_eq!(slack.person("x@example.se").await.unwrap().as_deref(), expected);
    }
    let (_workspace, slack) = answered("conversations.open", include_str!("fixtures/open.json")).await;
    assert_eq!(slack.open("U0ANNA").await.unwrap(), "D0ANNA");
    let (_workspace, slack) = answered("auth.test", include_str!("fixtures/auth_test.json")).await;
    let identity = slack.identity().await.unwrap();
    assert_eq!((identity.team.as_str(), identity.user.as_str(), identity.scopes), ("Fiktiv AB", "backroom", None));
}

/// What posting ends with when Slack answers so, by the name of the variant.
async fn ends(mood: Mood) -> (&'static str, String) {
    let workspace = fake::Slack::start().await.unwrap();
    workspace.fake.script.next("chat.postMessage", mood);
    let error = client(&workspace).post(GENERAL, &message("planted"), Uuid::now_v7()).await.unwrap_err();
    let name = match &error {
        SlackError::RateLimited(_) => "rate limited",
        SlackError::Transient(_) => "transient",
        SlackError::Unknown(_) => "unknown",
        SlackError::Credentials(_) => "credentials",
        SlackError::Forbidden(_) => "forbidden",
        SlackError::Target(_) => "target",
        SlackError::Protocol(_) => "protocol",
        SlackError::Address(_) => "address",
    };
    (name, error.to_string())
}

/// SYNC-11, SYNC-13: each refusal has its own end, and a sentence without secrets.
#[tokio::test]
async fn every_refusal_is_told_by_what_can_be_done() {
    let says = |error: &str| Mood::Answers(200, Vec::new(), json!({"ok": false, "error": error}).to_string());
    for (mood, expected) in [
        (says("ratelimited"), "rate limited"),
        (Mood::busy(429, Some(Duration::from_secs(7)), r#"{"ok":false,"error":"ratelimited"}"#), "rate limited"),
        (Mood::busy(429, None, ""), "rate limited"),
        (Mood::busy(503, Some(Duration::from_secs(7)), ""), "rate limited"),
        (says("service_unavailable"), "transient"),
        (says("internal_error"), "unknown"),
        (says("fatal_error"), "unknown"),
        (Mood::Answers(500, Vec::new(), String::new()), "unknown"),
        (Mood::bad_gateway(), "unknown"),
        (Mood::Truncated, "unknown"),
        (Mood::BreaksOff, "unknown"),
        (Mood::Answers(200, Vec::new(), "<html>".to_owned()), "unknown"),
        (says("invalid_auth"), "credentials"),
        (says("account_inactive"), "credentials"),
        (says("token_revoked"), "credentials"),
        (says("token_expired"), "credentials"),
        (says("missing_scope"), "forbidden"),
        (says("channel_not_found"), "target"),
        (says("not_in_channel"), "target"),
        (says("is_archived"), "target"),
        (says("restricted_action_read_only_channel"), "target"),
        (says("msg_blocks_too_long"), "protocol"),
        (says("a word that \"nobody\" knows"), "protocol"),
        (Mood::Answers(200, Vec::new(), include_str!("fixtures/invalid_blocks.json").to_owned()), "protocol"),
        (Mood::Answers(404, Vec::new(), "not here".to_owned()), "protocol"),
        (Mood::Answers(302, vec![("location", "http://169.254.169.254/".to_owned())], String::new()), "protocol"),
    ] {
        let (name, told) = ends(mood.clone()).await;
        assert_eq!(name, expected, "{mood:?}: {told}");
        assert!(!told.contains(TOKEN) && !told.contains("planted") && !told.contains("nobody"), "{told}");
    }
    let (_, told) = ends(Mood::Answers(200, Vec::new(), include_str!("fixtures/missing_scope.json").to_owned())).await;
    assert!(told.contains("lacks the scope chat:write:bot"), "{told}");
    let workspace = fake::Slack::start().await.unwrap();
    workspace.fake.script.next("chat.postMessage", Mood::busy(429, Some(Duration::from_secs(7)), ""));
    let error = client(&workspace).post(GENERAL, &message("x"), Uuid::now_v7()).await.unwrap_err();
    assert!(matches!(error, SlackError::RateLimited(Some(wait)) if wait.as_secs() == 7), "{error:?}");
}

/// SYNC-11: the fake refuses what Slack would, so that no test passes with what Slack does not take.
#[tokio::test]
async fn the_workspace_checks_what_it_is_sent() {
    let workspace = fake::Slack::start().await.unwrap();
    let slack = client(&workspace);
    workspace.channel("C0ARKIV", Door::Archived);
    workspace.channel("C0HEMLIG", Door::NotInvited);
    workspace.channel("C0INFO", Door::Restricted);
    for (channel, word) in [
        ("C0ARKIV", "is_archived"),
        ("C0HEMLIG", "not_in_channel"),
        ("C0INFO", "restricted"),
        ("C0INGEN", "channel_not_found"),
    ] {
        let error = slack.post(channel, &message("x"), Uuid::now_v7()).await.unwrap_err();
        assert!(matches!(error, SlackError::Target(ref said) if said.contains(word)), "{error:?}");
    }
    slack.post(GENERAL, &message("x"), Uuid::now_v7()).await.unwrap();
    let second = slack.post(GENERAL, &message("x"), Uuid::now_v7()).await.unwrap_err();
    assert!(matches!(second, SlackError::RateLimited(Some(wait)) if wait.as_secs() == 1), "{second:?}");

    let raw = async |content_type: &'static str, body: Value| {
        let headers = [(reqwest::header::AUTHORIZATION, SecretString::from(format!("Bearer {TOKEN}")))];
        let endpoint = slack.endpoint.join("chat.postMessage");
        let content = crate::clients::http::Content::Bytes { kind: content_type, body: body.to_string().into_bytes() };
        let reply = slack.http.send(reqwest::Method::POST, &endpoint, &[], &headers, content).await.unwrap();
        serde_json::from_slice::<Value>(&reply.body).unwrap()
    };
    workspace.patient();
    let section = |length: usize| json!({"type": "section", "text": {"type": "mrkdwn", "text": "a".repeat(length)}});
    let posted = |blocks: Value| json!({"channel": GENERAL, "text": "x", "blocks": blocks});
    for (blocks, error) in [
        (json!([section(3_000)]), Value::Null),
        (json!([section(3_001)]), json!("invalid_blocks")),
        (json!(vec![section(1); 51]), json!("invalid_blocks")),
        (json!([{"type": "header", "text": {"type": "plain_text", "text": "a".repeat(151)}}]), json!("invalid_blocks")),
        (json!([{"type": "context", "elements": []}]), json!("invalid_blocks")),
        (json!([{"type": "marquee"}]), json!("invalid_blocks")),
        (json!([section(3_000), section(3_000), section(3_000), section(3_000)]), json!("msg_blocks_too_long")),
    ] {
        assert_eq!(raw("application/json; charset=utf-8", posted(blocks)).await["error"], error);
    }
    let warned = raw("application/json", posted(json!([section(1)]))).await;
    assert_eq!(warned["warning"], "missing_charset");
    let nested =
        json!({"channel": GENERAL, "text": "x", "metadata": {"event_type": "x", "event_payload": {"a": {"b": 1}}}});
    assert_eq!(raw("application/json; charset=utf-8", nested).await["error"], "invalid_metadata_format");
    let stamps: Vec<_> = workspace.said(GENERAL).into_iter().map(|said| said.ts).collect();
    assert!(stamps.is_sorted() && stamps.windows(2).all(|pair| pair[0] != pair[1]), "{stamps:?}");
}

/// SYNC-5, SYNC-11
#[tokio::test]
async fn testing_says_whom_it_reached_or_what_is_missing() {
    let workspace = fake::Slack::start().await.unwrap();
    let connector =
        (vendor(Provider::Slack).unwrap().connect)(account(workspace.config(), &workspace.credentials())).unwrap();
    assert!(connector.streams().is_empty());
    let told = connector.test(&Access::default()).await.unwrap();
    assert_eq!(told, "connected to the Slack workspace Fiktiv AB as backroom");

    workspace.allow(&["users:read"]);
    let error = connector.test(&Access::default()).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Forbidden(ref said) if said.contains("chat:write")), "{error:?}");
    workspace.revoke(Some("token_revoked"));
    let error = connector.test(&Access::default()).await.unwrap_err();
    assert!(
        matches!(error, ConnectorError::Credentials(ref said) if said.contains("install the app again")),
        "{error:?}"
    );
}

/// SYNC-1, SYNC-11
#[test]
fn credentials_and_configuration_are_checked_by_field() {
    let wrong = |config: Value, credentials: Value| {
        let errors = Slack::new(account(config, &credentials)).unwrap_err();
        assert!(!errors.to_string().contains("4711"), "{errors}");
        errors.0.into_iter().map(|error| format!("{} {}", error.field, error.code)).collect::<Vec<_>>()
    };
    let token = json!({"bot_token": TOKEN});
    assert_eq!(wrong(json!({}), json!({})), ["credentials.bot_token required"]);
    assert_eq!(wrong(json!({}), json!({"bot_token": "xapp-4711"})), ["credentials.bot_token invalid"]);
    assert_eq!(wrong(json!({}), json!({"bot_token": "xoxb-4711\n"})), ["credentials.bot_token invalid"]);
    assert_eq!(wrong(json!({"base_url": "slack"}), token.clone()), ["config.base_url invalid"]);
    assert_eq!(
        wrong(json!({"base_url": 1, "team": 2}), token.clone()),
        ["config.base_url invalid", "config.team unknown"]
    );
    let slack = Slack::new(account(json!({}), &token)).unwrap();
    assert!(slack.account.starts_with("slack:") && !slack.account.contains("4711"), "{}", slack.account);
    assert!(!format!("{slack:?}").contains("xoxb"), "{slack:?}");
}
