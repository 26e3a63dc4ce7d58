//! Integrations: connected, changed, run and tested. Credentials go in and never come out (SYNC-1, VAULT-4).

use backroom_queue::testing;

use super::*;
use crate::{
    demo::vendors::bamboohr::{API_KEY, BambooHr, Person},
    jobs::integrations::SyncIntegration,
};

/// A world that reaches fakes on loopback.
pub(super) async fn world() -> World {
    World::with(&[("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1")]).await
}

pub(super) fn bamboohr(name: &str) -> Value {
    json!({
        "provider": "bamboohr", "name": name, "config": {"company_domain": "acme"},
        "credentials": {"api_key": PLANTED, "webhook_key": PLANTED},
    })
}

impl World {
    /// Connects somebody through the API; answers the id.
    pub(super) async fn connect(&self, body: Value) -> Uuid {
        let answer = self.post("/api/v1/integrations", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()["id"].as_str().unwrap().parse().unwrap()
    }

    pub(super) async fn integration(&self, id: Uuid) -> Value {
        let answer = self.get(&format!("/api/v1/integrations/{id}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    }

    /// A run of it that has ended, with a record that was not stored.
    pub(super) async fn run_of(&self, integration: Uuid) -> Uuid {
        let run = Uuid::now_v7();
        let mut tx = tenant::begin(&self.app.db, &self.acme).await.unwrap();
        let sql = "insert into sync_runs (id, integration_id, mode, trigger, state, job_id, holder, held_until, stream, pages, read,
                       created, failed, total, started_at, ended_at)
                   values ($1, $2, 'full', 'manual', 'completed', $1, $1, now(), 'employees', 1, 3, 2, 1, 3, $3,
                       $3 + interval '90 seconds')";
        let now = self.app.clock.now();
        sqlx::query(sql).bind(run).bind(integration).bind(now).execute(&mut *tx).await.unwrap();
        let sql = "insert into sync_failures (id, run_id, position, external_id, reason) values ($1, $2, 1, '17', 'has no e-mail')";
        sqlx::query(sql).bind(Uuid::now_v7()).bind(run).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        run
    }
}

/// SYNC-1
#[tokio::test]
async fn an_integration_is_connected_shown_changed_and_disconnected() {
    let world = world().await;
    let made = world.post("/api/v1/integrations", bamboohr("People")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let view = made.json();
    let path = made.header("location").to_owned();
    assert_eq!(path, format!("/api/v1/integrations/{}", view["id"].as_str().unwrap()));
    assert_eq!(view["credentials_set"], json!(["api_key", "webhook_key"]));
    assert_eq!(
        (&view["kind"], &view["status"], &view["enabled"], &view["interval_minutes"]),
        (&json!("hris"), &json!("new"), &json!(true), &json!(60))
    );
    let address = view["webhook_url"].as_str().unwrap();
    assert!(address.ends_with(&format!("/webhooks/acme/{}", view["id"].as_str().unwrap())), "{address}");
    assert_eq!(world.get(&path).await.json(), view);
    let again = world.post("/api/v1/integrations", bamboohr("People")).await;
    assert_eq!(again.problem(409, "conflict"), ["name taken"]);

    let change =
        json!({"name": "Staff", "interval_minutes": 15, "credentials": {"webhook_key": null, "api_key": "new"}});
    let changed = world.send(request(Method::PATCH, &path, &world.key, &[], Some(change))).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    let changed = changed.json();
    assert_eq!(
        (&changed["name"], &changed["interval_minutes"], &changed["credentials_set"]),
        (&json!("Staff"), &json!(15), &json!(["api_key"]))
    );
    assert_eq!(changed["config"], view["config"], "what is left out stays");
    for (method, enabled) in [("disable", false), ("enable", true)] {
        let turned = world.post(&format!("{path}/{method}"), json!({})).await;
        assert_eq!(turned.json()["enabled"], enabled, "{}", turned.text);
    }
    let list = |query: &str| format!("/api/v1/integrations?{query}");
    for (query, found) in
        [("provider=bamboohr", 1), ("status=new&enabled=true", 1), ("enabled=false", 0), ("provider=slack", 0)]
    {
        let listed = world.get(&list(query)).await.json();
        assert_eq!(listed["integrations"].as_array().unwrap().len(), found, "{query}: {listed}");
    }

    let gone = world.send(request(Method::DELETE, &path, &world.key, &[], None)).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{}", gone.text);
    assert_eq!(world.send(request(Method::DELETE, &path, &world.key, &[], None)).await.status, StatusCode::NOT_FOUND);
    world.get(&path).await.problem(404, "not-found");
}

/// SYNC-1, VAULT-4: whatever is wrong, no word of a credential is told.
#[tokio::test]
async fn credentials_are_in_no_answer_not_even_in_one_that_refuses_them() {
    let world = world().await;
    let id = world.connect(bamboohr("People")).await;
    let with = |credentials: Value| {
        let mut body = bamboohr("Other");
        body["credentials"] = credentials;
        body
    };
    let mut answers = vec![world.integration(id).await.to_string()];
    for wrong in [
        json!(PLANTED),
        json!([PLANTED]),
        json!({"api_key": [PLANTED]}),
        json!({"api_key": {"key": PLANTED}}),
        json!({"api_key": 7_317_317}),
        json!({"other": PLANTED}),
        json!({}),
    ] {
        let refused = world.post("/api/v1/integrations", with(wrong.clone())).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}: {}", refused.text);
        answers.push(refused.text);
        let path = format!("/api/v1/integrations/{id}");
        let change = json!({"credentials": wrong});
        let changed = world.send(request(Method::PATCH, &path, &world.key, &[], Some(change))).await;
        answers.push(changed.text);
    }
    let mut misspelt = bamboohr("Other");
    misspelt["credential"] = json!({"api_key": PLANTED});
    answers.push(world.post("/api/v1/integrations", misspelt).await.text);
    answers.push(world.post("/api/v1/integrations", bamboohr("People")).await.text);
    answers.push(world.get("/api/v1/integrations").await.text);
    answers.push(world.get("/api/v1/integration-providers").await.text);
    answers.push(world.get("/api/v1/events").await.text);
    for answer in answers {
        assert!(!answer.contains(PLANTED) && !answer.contains("7317317"), "{answer}");
    }
}

/// API-3: the answer that is kept has no credentials either.
#[tokio::test]
async fn the_same_request_twice_connects_once() {
    let world = world().await;
    let key = [("idempotency-key", "connect-1")];
    let first = world.post_with("/api/v1/integrations", &key, bamboohr("People")).await;
    let again = world.post_with("/api/v1/integrations", &key, bamboohr("People")).await;
    assert_eq!((first.status, again.header("idempotency-replayed")), (StatusCode::CREATED, "true"));
    assert_eq!(first.text, again.text);
    assert_eq!(world.get("/api/v1/integrations").await.json()["integrations"].as_array().unwrap().len(), 1);
}

/// SYNC-1
#[tokio::test]
async fn what_a_vendor_needs_is_told_and_what_is_wrong_names_its_field() {
    let world = world().await;
    let told = world.get("/api/v1/integration-providers").await.json();
    let bamboo =
        told["providers"].as_array().unwrap().iter().find(|one| one["provider"] == "bamboohr").unwrap().clone();
    assert_eq!((&bamboo["title"], &bamboo["webhooks"]), (&json!("BambooHR"), &json!(true)));
    assert!(bamboo["config"][0].as_str().unwrap().starts_with("company_domain"), "{bamboo}");

    let mut body = bamboohr("People");
    (body["config"], body["credentials"]) = (json!({}), json!({}));
    let wrong = world.post("/api/v1/integrations", body).await.problem(422, "validation");
    assert!(wrong.iter().any(|error| error.contains("company_domain")), "{wrong:?}");
    let mut body = bamboohr("People");
    body["config"]["fields"] = json!({"job_title": "a\u{0}b"});
    assert_eq!(world.post("/api/v1/integrations", body).await.problem(422, "validation"), ["config invalid"]);
    let mut body = bamboohr(" ");
    body["interval_minutes"] = json!(1);
    let wrong = world.post("/api/v1/integrations", body).await.problem(422, "validation");
    assert_eq!(wrong, ["name required", "interval_minutes out_of_range"]);
    let mut body = bamboohr("People");
    body["provider"] = json!("hibob");
    assert_eq!(world.post("/api/v1/integrations", body).await.problem(422, "validation"), ["provider invalid"]);
}

/// SYNC-3, SYNC-5
#[tokio::test]
async fn a_run_is_asked_for_once_and_not_where_nothing_may_run() {
    let world = world().await;
    let id = world.connect(bamboohr("People")).await;
    let path = format!("/api/v1/integrations/{id}/sync");

    let queued = world.post(&path, json!({"mode": "full"})).await;
    assert_eq!(queued.status, StatusCode::ACCEPTED, "{}", queued.text);
    assert_eq!(queued.header("location"), format!("/api/v1/jobs/{}", queued.json()["job_id"].as_str().unwrap()));
    let again = world.post(&path, json!({})).await.json();
    assert_eq!((&again["duplicate"], &again["job_id"]), (&json!(true), &queued.json()["job_id"]));
    let jobs = testing::enqueued::<SyncIntegration>(&world.app.db).await.unwrap();
    assert_eq!(jobs.len(), 1);
    assert_eq!((&jobs[0].args["mode"], &jobs[0].args["trigger"]), (&json!("full"), &json!("manual")));

    world.post(&format!("/api/v1/integrations/{id}/disable"), json!({})).await;
    let refused = world.post(&path, json!({})).await;
    assert_eq!(refused.problem(409, "conflict"), ["enabled not_now"]);
    assert!(refused.text.contains("enable the integration"), "{}", refused.text);
    assert_eq!(world.post(&path, json!({"mode": "half"})).await.problem(422, "validation"), ["mode invalid"]);
}

/// SYNC-4
#[tokio::test]
async fn runs_and_what_they_did_not_store_are_listed() {
    let world = world().await;
    let id = world.connect(bamboohr("People")).await;
    let run = world.run_of(id).await;

    let listed = world.get(&format!("/api/v1/integrations/{id}/runs")).await.json();
    let shown = world.get(&format!("/api/v1/sync-runs/{run}")).await.json();
    assert_eq!(listed["runs"], json!([shown]));
    assert_eq!(
        (&shown["read"], &shown["created"], &shown["failed"], &shown["duration_ms"]),
        (&json!(3), &json!(2), &json!(1), &json!(90_000))
    );
    let failures = world.get(&format!("/api/v1/sync-runs/{run}/failures")).await.json();
    assert_eq!(failures["failures"], json!([{"position": 1, "external_id": "17", "reason": "has no e-mail"}]));
}

/// SYNC-5: what is wrong is told in a sentence, and by a word for programs.
#[tokio::test]
async fn a_test_says_whom_it_reached_or_what_to_mend() {
    let world = world().await;
    let bamboo = BambooHr::start(vec![Person::new("Ada", "Ek", "ada@acme.example")]).await.unwrap();
    let body = |name: &str, key: &str| json!({"provider": "bamboohr", "name": name, "config": bamboo.config(), "credentials": {"api_key": key}});
    let test = async |id: Uuid| world.post(&format!("/api/v1/integrations/{id}/test"), json!({})).await;

    let good = test(world.connect(body("Good", API_KEY)).await).await;
    assert_eq!(good.status, StatusCode::OK, "{}", good.text);
    assert_eq!((&good.json()["ok"], &good.json()["problem"]), (&json!(true), &Value::Null), "{}", good.text);
    let bad = world.connect(body("Bad", PLANTED)).await;
    let told = test(bad).await;
    assert_eq!(
        (&told.json()["ok"], &told.json()["problem"]),
        (&json!(false), &json!("bad_credentials")),
        "{}",
        told.text
    );
    assert!(!told.text.contains(PLANTED), "{}", told.text);
    let shown = world.integration(bad).await;
    assert_eq!((&shown["status"], &shown["last_error"]), (&json!("failing"), &told.json()["message"]));
    let mut nowhere = body("Nowhere", API_KEY);
    nowhere["config"]["base_url"] = json!("http://10.1.2.3/");
    let told = test(world.connect(nowhere).await).await;
    assert_eq!(told.json()["problem"], "wrong_host", "{}", told.text);
    assert!(told.text.contains("clients.allow_networks"), "{}", told.text);
    assert_eq!(test(Uuid::now_v7()).await.problem(404, "not-found"), [""; 0]);
}

/// AUTH-3, AUTH-4: to look is not to change.
#[tokio::test]
async fn who_may_look_may_not_change() {
    let world = world().await;
    let id = world.connect(bamboohr("People")).await;
    let reader = key_of(&world.app, &world.acme, &[Scope::IntegrationsRead]).await;
    let developer = person_of(&world.app, &world.acme, Role::Developer, None).await.token;
    let user = person_of(&world.app, &world.acme, Role::User, None).await.token;
    let path = format!("/api/v1/integrations/{id}");
    for (token, look, change) in
        [(&reader, 200, 403), (&developer, 200, 403), (&user, 403, 403), (&world.key, 200, 202)]
    {
        assert_eq!(world.send(request(Method::GET, &path, token, &[], None)).await.status.as_u16(), look);
        let sync = request(Method::POST, &format!("{path}/sync"), token, &[], Some(json!({})));
        assert_eq!(world.send(sync).await.status.as_u16(), change);
    }
}
