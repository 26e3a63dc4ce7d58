//! What third parties send by themselves (SYNC-12): proven, stored once, answered at once, and nothing told to anybody else.

use std::time::{Duration, Instant};

use backroom_queue::testing;
use futures::future::join_all;

use super::{
    integrations::{bamboohr, world},
    *,
};
use crate::{
    demo::vendors::{
        bamboohr::{API_KEY, BambooHr, WEBHOOK_KEY},
        slack::{self, Slack},
    },
    jobs::integrations::{HandleWebhook, SyncIntegration},
};

type Delivery = (Vec<(String, String)>, Vec<u8>);

/// BambooHR, and a world that has it connected.
struct Stage {
    world: World,
    bamboo: BambooHr,
    id: Uuid,
}

impl Stage {
    async fn new() -> Self {
        let (world, bamboo) = (world().await, BambooHr::start(Vec::new()).await.unwrap());
        let id = world.connect(signed_by(WEBHOOK_KEY, "People")).await;
        Self { world, bamboo, id }
    }

    /// About an employee, signed so long ago.
    fn delivery(&self, employee: u64, minutes_ago: i64) -> Delivery {
        let at = self.world.app.clock.now() - chrono::Duration::minutes(minutes_ago);
        let (headers, body) = self.bamboo.webhook("updated", employee, at);
        (headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), body)
    }

    async fn rows(&self) -> Vec<(String, String)> {
        let mut tx = tenant::begin(&self.world.app.db, &self.world.acme).await.unwrap();
        let sql = "select external_id, state from webhook_deliveries order by id";
        sqlx::query_as(sql).fetch_all(&mut *tx).await.unwrap()
    }
}

fn signed_by(secret: &str, name: &str) -> Value {
    let mut body = bamboohr(name);
    body["credentials"] = json!({"api_key": API_KEY, "webhook_key": secret});
    body
}

impl World {
    async fn deliver(&self, organization: &str, integration: &str, (headers, body): &Delivery) -> Answer {
        let mut request =
            Request::builder().method(Method::POST).uri(format!("/webhooks/{organization}/{integration}"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.send(request.body(Body::from(body.clone())).unwrap()).await
    }

    /// Handles what has come, as a worker does a few seconds later.
    async fn handle(&self) {
        let registry = Arc::new(crate::jobs::registry(&self.app.config));
        testing::fast_forward(&self.app.db).await.unwrap();
        testing::drain(&self.app.db, &registry, self.app.clone(), "default").await.unwrap();
    }
}

fn of_slack((headers, body): (HeaderMap, Vec<u8>)) -> Delivery {
    let text = |value: &header::HeaderValue| value.to_str().unwrap().to_owned();
    (headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(), body)
}

/// SYNC-12
#[tokio::test]
async fn a_delivery_that_comes_again_is_stored_once_and_asks_for_one_run() {
    let stage = Stage::new().await;
    let (world, id) = (&stage.world, stage.id.to_string());
    let (one, other) = (stage.delivery(1, 0), stage.delivery(2, 1));
    for delivery in [&one, &one, &other, &one] {
        let answer = world.deliver("acme", &id, delivery).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, ""));
    }
    assert_eq!(stage.rows().await.len(), 2);
    assert_eq!(testing::enqueued::<HandleWebhook>(&world.app.db).await.unwrap().len(), 1);

    world.handle().await;

    let syncs = testing::enqueued::<SyncIntegration>(&world.app.db).await.unwrap();
    assert_eq!(syncs.len(), 1);
    assert_eq!((&syncs[0].args["mode"], &syncs[0].args["trigger"]), (&json!("incremental"), &json!("webhook")));
    let listed = world.get(&format!("/api/v1/integrations/{id}/deliveries")).await.json();
    let listed = listed["deliveries"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|one| one["state"] == "handled" && one["happened"] == "changed"), "{listed:?}");
    assert_eq!(listed[0]["payload"]["data"]["employeeId"], "2", "newest first");

    // Long after it was handled it is still known.
    assert_eq!(world.deliver("acme", &id, &one).await.status, StatusCode::OK);
    assert_eq!(testing::enqueued::<HandleWebhook>(&world.app.db).await.unwrap().len(), 0);
}

/// SYNC-12
#[tokio::test]
async fn what_comes_twice_at_once_is_stored_once() {
    let stage = Stage::new().await;
    let (id, delivery) = (stage.id.to_string(), stage.delivery(1, 0));
    let answers = join_all((0..8).map(|_| stage.world.deliver("acme", &id, &delivery))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    assert_eq!(stage.rows().await.len(), 1);
    assert_eq!(testing::enqueued::<HandleWebhook>(&stage.world.app.db).await.unwrap().len(), 1);
}

/// SYNC-12, API-8, TEN-3: neither the words nor the time of a refusal tell what there is.
#[tokio::test]
async fn without_a_right_signature_there_is_one_answer_to_everything() {
    let stage = Stage::new().await;
    let (world, id) = (&stage.world, stage.id.to_string());
    let globex = world._database.organization("globex").await;
    let their_key = key_of(&world.app, &globex, Scope::ALL).await;
    let theirs = request(Method::POST, "/api/v1/integrations", &their_key, &[], Some(signed_by("theirs", "Theirs")));
    let theirs = world.send(theirs).await.json()["id"].as_str().unwrap().to_owned();
    let mut mute = signed_by("", "Mute");
    mute["credentials"] = json!({"api_key": API_KEY});
    let mute = world.connect(mute).await.to_string();
    let removed = world.connect(signed_by(WEBHOOK_KEY, "Removed")).await.to_string();
    let path = format!("/api/v1/integrations/{removed}");
    assert_eq!(world.send(request(Method::DELETE, &path, &world.key, &[], None)).await.status, StatusCode::NO_CONTENT);

    let good = stage.delivery(1, 0);
    let without = |name: &str| (good.0.iter().filter(|(header, _)| header != name).cloned().collect(), good.1.clone());
    let mut changed = good.clone();
    changed.1[0] = b' ';
    let wrong_signature: Delivery = (
        good.0
            .iter()
            .map(|(name, value)| match name.as_str() {
                "x-bamboohr-signature" => (name.clone(), "0".repeat(64)),
                _ => (name.clone(), value.clone()),
            })
            .collect(),
        good.1.clone(),
    );
    let nobody = Uuid::now_v7().to_string();
    let (id, nobody, theirs) = (id.as_str(), nobody.as_str(), theirs.as_str());
    let (mute, removed) = (mute.as_str(), removed.as_str());
    let asked: Vec<(&str, &str, &str, Delivery)> = vec![
        ("no organization", "nobody", id, good.clone()),
        ("no slug", "%00%20", id, good.clone()),
        ("no integration", "acme", nobody, good.clone()),
        ("no id", "acme", "1%00", good.clone()),
        ("no id at all", "nobody", "x", good.clone()),
        ("another organization's", "acme", theirs, good.clone()),
        ("the wrong organization", "globex", id, good.clone()),
        ("another secret", "globex", theirs, good.clone()),
        ("without a secret", "acme", mute, good.clone()),
        ("removed", "acme", removed, good.clone()),
        ("no signature", "acme", id, without("x-bamboohr-signature")),
        ("no time", "acme", id, without("x-bamboohr-timestamp")),
        ("a wrong signature", "acme", id, wrong_signature),
        ("another body", "acme", id, changed),
        ("nothing", "acme", id, (Vec::new(), Vec::new())),
        ("stale", "acme", id, stage.delivery(1, 60 * 5)),
        ("of the future", "acme", id, stage.delivery(1, -60)),
    ];
    let mut told = Vec::new();
    for (what, organization, integration, delivery) in &asked {
        let began = Instant::now();
        let answer = world.deliver(organization, integration, delivery).await;
        assert!(began.elapsed() >= Duration::from_millis(100), "{what} was refused too fast");
        answer.problem(403, "delivery-refused");
        let mut body = answer.json();
        body.as_object_mut().unwrap().remove("request_id");
        let mut headers: Vec<_> = answer.headers.keys().map(|name| name.as_str().to_owned()).collect();
        headers.sort_unstable();
        told.push((what, body, headers));
    }
    for (what, body, headers) in &told[1..] {
        assert_eq!((body, headers), (&told[0].1, &told[0].2), "{what} tells something");
    }
    assert!(stage.rows().await.is_empty());
    assert_eq!(world.deliver("acme", id, &good).await.status, StatusCode::OK, "or nothing would have been proved");
}

/// SYNC-12, TEN-5: to others a suspended organization is as if it were not there; what has changed is read afterwards.
#[tokio::test]
async fn a_suspended_organization_takes_no_delivery() {
    let stage = Stage::new().await;
    let (world, id) = (&stage.world, stage.id.to_string());
    let suspended = world.operate(Method::POST, "/api/v1/organizations/acme/suspend", Some(json!({}))).await;
    assert!(suspended.status.is_success(), "{}", suspended.text);
    world.deliver("acme", &id, &stage.delivery(1, 0)).await.problem(403, "delivery-refused");
    assert!(stage.rows().await.is_empty());
}

/// SYNC-12
#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whoever_is_named() {
    let stage = Stage::new().await;
    let (headers, _) = stage.delivery(1, 0);
    let large = (headers, vec![b' '; (1 << 20) + 1]);
    for (organization, integration) in [("acme", stage.id), ("nobody", stage.id), ("acme", Uuid::now_v7())] {
        let answer = stage.world.deliver(organization, &integration.to_string(), &large).await;
        answer.problem(413, "body-too-large");
    }
}

/// SYNC-12
#[tokio::test]
async fn a_network_in_haste_is_told_to_wait() {
    let world = World::with(&[("BACKROOM__HTTP__WEBHOOKS_PER_MINUTE", "2")]).await;
    let nothing: Delivery = (Vec::new(), Vec::new());
    for _ in 0..2 {
        world.deliver("nobody", "x", &nothing).await.problem(403, "delivery-refused");
    }
    let slowed = world.deliver("acme", "x", &nothing).await;
    slowed.problem(429, "rate-limited");
    assert!(!slowed.header("retry-after").is_empty());
}

fn slack_of(slack: &Slack) -> Value {
    json!({"provider": "slack", "name": "Team", "config": slack.config(), "credentials": slack.credentials()})
}

/// SYNC-12: Slack asks whether the address is ours before it sends anything.
#[tokio::test]
async fn a_challenge_is_answered_to_who_signed_it() {
    let (world, slack) = (world().await, Slack::start().await.unwrap());
    let id = world.connect(slack_of(&slack)).await.to_string();
    let asks = json!({"type": "url_verification", "challenge": "3eZbrw1aBm2rZgRNFdxV"});
    let now = world.app.clock.now().timestamp();

    let answer = world.deliver("acme", &id, &of_slack(slack::signed(&asks, now))).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "3eZbrw1aBm2rZgRNFdxV"));
    assert!(answer.header("content-type").starts_with("text/plain"));
    let stale = world.deliver("acme", &id, &of_slack(slack::signed(&asks, now - 301))).await;
    stale.problem(403, "delivery-refused");
}

/// SYNC-6, SYNC-12: the app was taken out of the workspace.
#[tokio::test]
async fn access_that_was_withdrawn_is_told_to_the_admins_once() {
    let (world, slack) = (world().await, Slack::start().await.unwrap());
    let id = world.connect(slack_of(&slack)).await;
    let admin = person_of(&world.app, &world.acme, Role::Admin, None).await;
    slack.revoke(Some("account_inactive"));
    for (delivery, event) in
        [("Ev1", "app_uninstalled"), ("Ev1", "app_uninstalled"), ("Ev2", "app_uninstalled"), ("Ev3", "app_mention")]
    {
        let sent = of_slack(slack.webhook(delivery, &json!({"type": event})));
        assert_eq!(world.deliver("acme", &id.to_string(), &sent).await.status, StatusCode::OK);
        world.handle().await;
    }

    let shown = world.integration(id).await;
    assert_eq!(
        (&shown["status"], shown["needs_attention_since"].is_string()),
        (&json!("needs_attention"), true),
        "{shown}"
    );
    let registry = Arc::new(crate::jobs::registry(&world.app.config));
    testing::drain(&world.app.db, &registry, world.app.clone(), "mailers").await.unwrap();
    let mails = world.mailbox.accepted();
    assert_eq!(mails.iter().map(|mail| mail.recipient.clone()).collect::<Vec<_>>(), [admin.email]);
    let refused = world.post(&format!("/api/v1/integrations/{id}/sync"), json!({})).await;
    assert_eq!(refused.problem(409, "conflict"), ["status not_now"]);
}
