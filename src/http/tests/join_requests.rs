//! Requests to join: asked by strangers, confirmed on a page, decided by staff.

use axum::extract::ConnectInfo;
use backroom_queue::testing;
use chrono::{DateTime, Duration, TimeZone, Utc};

use super::*;
use crate::store::{memberships, organizations};

const SUBMIT: &str = "/api/v1/organizations/acme/join-requests";

fn anna() -> Value {
    json!({"email": "anna@example.se", "first_name": "Anna", "last_name": "Ek"})
}

fn monday() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).unwrap()
}

/// A world whose clock stands still, and in which nobody asks too often.
async fn world() -> World {
    let many =
        [("BACKROOM__HTTP__JOIN_REQUESTS_PER_HOUR", "100000"), ("BACKROOM__HTTP__STRANGERS_PER_MINUTE", "100000")];
    World::at(Clock::fixed(monday()), &many).await
}

impl World {
    async fn ask_to_join(&self, body: Value) -> Answer {
        self.send(request(Method::POST, SUBMIT, "", &[], Some(body))).await
    }

    /// Mails what is to be mailed.
    async fn mail_out(&self) {
        let registry = Arc::new(crate::jobs::registry(&self.app.config));
        testing::drain(&self.app.db, &registry, self.app.clone(), "mailers").await.unwrap();
    }

    /// The address of the page in the latest mail.
    fn page_in_latest_mail(&self) -> String {
        let mail = self.mailbox.get(self.mailbox.list(1)[0].id).unwrap();
        let text = mail.text.unwrap();
        let at = text.find("/join-requests/").unwrap_or_else(|| panic!("no link in {text}"));
        text[at..].split_whitespace().next().unwrap().to_owned()
    }

    /// Asks, and answers the page that confirms.
    async fn asked_to_join(&self, body: Value) -> String {
        assert_eq!(self.ask_to_join(body).await.status, StatusCode::ACCEPTED);
        self.mail_out().await;
        self.page_in_latest_mail()
    }

    async fn see(&self, page: &str) -> Answer {
        self.send(request(Method::GET, page, "", &[], None)).await
    }

    async fn press_on(&self, page: &str, form: &str) -> Answer {
        let request = Request::builder()
            .method(Method::POST)
            .uri(page)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(form.to_owned()))
            .unwrap();
        self.send(request).await
    }

    async fn join_requests(&self) -> Vec<Value> {
        self.get("/api/v1/join-requests").await.json()["join_requests"].as_array().unwrap().clone()
    }

    async fn join_status(&self) -> String {
        self.join_requests().await[0]["status"].as_str().unwrap().to_owned()
    }

    async fn decide_on(&self, id: &str, how: &str) -> Answer {
        self.post(&format!("/api/v1/join-requests/{id}/{how}"), json!({})).await
    }
}

/// JOIN-1 to JOIN-5: from the question to the password.
#[tokio::test]
async fn a_stranger_becomes_a_member() {
    let world = world().await;
    let page = world.asked_to_join(anna()).await;
    assert_eq!(world.join_status().await, "pending_confirmation");
    let shown = world.see(&page).await;
    assert_eq!(shown.status, StatusCode::OK, "{}", shown.text);
    assert!(shown.text.contains("Anna Ek") && shown.text.contains("anna@example.se"), "{}", shown.text);
    assert!(!shown.text.contains("<script"));
    assert_eq!(shown.header("cache-control"), "no-store");
    world.see(&page).await;
    assert_eq!(world.join_status().await, "pending_confirmation", "looking changes nothing");

    let confirmed = world.press_on(&page, "").await;
    assert_eq!(confirmed.status, StatusCode::OK, "{}", confirmed.text);
    assert_eq!(world.join_status().await, "submitted");
    let request = world.join_requests().await.remove(0);
    assert!(request["confirmation_sent_at"].is_string() && request["confirm_by"].is_null(), "{request}");
    let id = request["id"].as_str().unwrap();

    let admin = person_of(&world.app, &world.acme, Role::Admin, None).await;
    let approve = super::request(Method::POST, &format!("/api/v1/join-requests/{id}/approve"), &admin.token, &[], None);
    let approved = world.send(approve).await;
    assert_eq!(approved.status, StatusCode::OK, "{}", approved.text);
    let approved = approved.json();
    assert_eq!(
        (&approved["status"], &approved["decided_by"]),
        (&json!("approved"), &json!(format!("user:{}", admin.id)))
    );
    assert_eq!(approved["decided_at"], json!(monday()));
    let user: Uuid = approved["user_id"].as_str().unwrap().parse().unwrap();
    let mut db = world.app.db.acquire().await.unwrap();
    let member = memberships::find(&mut db, world.acme.id, user).await.unwrap().unwrap();
    assert_eq!(member.role, Role::User);

    world.mail_out().await;
    let page = world.page_in_latest_mail();
    let shown = world.see(&page).await;
    assert!(shown.text.contains("type=\"password\""), "{}", shown.text);
    let short = world.press_on(&page, "password=short").await;
    assert_eq!(short.status, StatusCode::UNPROCESSABLE_ENTITY);
    let chosen = world.press_on(&page, "password=en+ganska+lang+mening").await;
    assert_eq!(chosen.status, StatusCode::OK, "{}", chosen.text);
    let sign_in = json!({"email": "ANNA@example.se", "password": "en ganska lang mening"});
    let signed_in = world.send(super::request(Method::POST, "/api/v1/sign-in", "", &[], Some(sign_in))).await;
    assert_eq!(signed_in.status, StatusCode::OK, "{}", signed_in.text);
    let again = world.press_on(&page, "password=eine+andere+mening").await;
    assert_eq!(again.status, StatusCode::NOT_FOUND, "the token is used up");
}

/// JOIN-2: known, unknown, waiting, decided, asked too often: nobody outside can tell.
#[tokio::test]
async fn the_answer_is_the_same_whatever_is_known_of_the_address() {
    let world = world().await;
    let member = person_of(&world.app, &world.acme, Role::User, None).await;
    let page = world.asked_to_join(json!({"email": "waits@example.se", "first_name": "W", "last_name": "E"})).await;
    world.press_on(&page, "").await;
    let mut answers = Vec::new();
    for email in ["new@example.se", &member.email, "waits@example.se"] {
        for _ in 0..6 {
            let mut body = anna();
            body["email"] = json!(email);
            let answer = world.ask_to_join(body).await;
            answers.push((
                answer.status,
                answer.text.clone(),
                answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>(),
            ));
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(answers[0].0, StatusCode::ACCEPTED);
    assert!(!answers[0].1.contains("new@example.se"));
    // Who waits for a decision is not asked to confirm again, and has one request.
    let waiting =
        world.join_requests().await.into_iter().filter(|r| r["email"] == "waits@example.se").collect::<Vec<_>>();
    assert_eq!(waiting.iter().map(|r| r["status"].as_str().unwrap()).collect::<Vec<_>>(), ["submitted"]);
}

/// JOIN-3: addresses that differ in case or form are one; a new link replaces the old one, a few times an hour.
#[tokio::test]
async fn asking_again_makes_a_new_link_and_only_a_few_an_hour() {
    let world = world().await;
    let mut pages = Vec::new();
    for email in ["anna@example.se", "ANNA@EXAMPLE.SE", "ａｎｎａ@example.se"] {
        let mut body = anna();
        body["email"] = json!(email);
        pages.push(world.asked_to_join(body).await);
    }
    assert_eq!(world.join_requests().await.len(), 1);
    for old in &pages[..2] {
        assert_eq!(world.see(old).await.status, StatusCode::NOT_FOUND);
        assert_eq!(world.press_on(old, "").await.status, StatusCode::NOT_FOUND);
    }
    let mails = world.mailbox.accepted().len();
    for _ in 0..10 {
        world.ask_to_join(anna()).await;
    }
    world.mail_out().await;
    assert_eq!(world.mailbox.accepted().len(), mails, "no more mails within the hour");
    assert_eq!(world.see(&pages[2]).await.status, StatusCode::OK, "and the owner is not locked out");

    world.app.clock.advance(Duration::hours(1));
    let page = world.asked_to_join(anna()).await;
    assert_eq!(world.press_on(&pages[2], "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.press_on(&page, "").await.status, StatusCode::OK);
}

/// JOIN-4
#[tokio::test]
async fn used_expired_and_unknown_links_say_so_and_no_more() {
    let world = world().await;
    let page = world.asked_to_join(anna()).await;
    assert_eq!(world.press_on(&page, "").await.status, StatusCode::OK);
    for answer in [world.see(&page).await, world.press_on(&page, "").await] {
        assert_eq!(answer.status, StatusCode::GONE);
        assert!(answer.text.contains("redan bekräftad") && !answer.text.contains("anna@"), "{}", answer.text);
    }
    let mut bo = anna();
    bo["email"] = json!("bo@example.se");
    let late = world.asked_to_join(bo).await;
    world.app.clock.advance(Duration::hours(24));
    for answer in [world.see(&late).await, world.press_on(&late, "").await] {
        assert_eq!(answer.status, StatusCode::GONE);
        assert!(answer.text.contains("gått ut") && !answer.text.contains("bo@"), "{}", answer.text);
    }
    let secret = "A".repeat(43);
    for unknown in
        [format!("acme.{secret}"), format!("nobody.{secret}"), "acme".to_owned(), "%00".to_owned(), "a.b".to_owned()]
    {
        let page = format!("/join-requests/{unknown}?lang=en");
        let (shown, pressed) = (world.see(&page).await, world.press_on(&page, "").await);
        assert_eq!((shown.status, pressed.status), (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND), "{unknown}");
        assert!(shown.text.contains("not valid"), "{}", shown.text);
        assert!(shown.header("content-type").starts_with("text/html"));
    }
}

/// JOIN-5
#[tokio::test]
async fn others_than_staff_are_refused_the_list_and_the_decision() {
    let world = world().await;
    let page = world.asked_to_join(anna()).await;
    world.press_on(&page, "").await;
    let id = world.join_requests().await[0]["id"].as_str().unwrap().to_owned();
    for role in [Role::Developer, Role::User] {
        let token = person_of(&world.app, &world.acme, role, None).await.token;
        for (method, path) in [
            (Method::GET, "/api/v1/join-requests".to_owned()),
            (Method::GET, format!("/api/v1/join-requests/{id}")),
            (Method::POST, format!("/api/v1/join-requests/{id}/approve")),
            (Method::POST, format!("/api/v1/join-requests/{id}/reject")),
        ] {
            world.send(request(method, &path, &token, &[], None)).await.problem(403, "forbidden");
        }
    }
    assert_eq!(world.join_status().await, "submitted");
}

/// JOIN-5: once, and only what was confirmed.
#[tokio::test]
async fn a_request_is_decided_once() {
    let world = world().await;
    let page = world.asked_to_join(anna()).await;
    let id = world.join_requests().await[0]["id"].as_str().unwrap().to_owned();
    for how in ["approve", "reject"] {
        world.decide_on(&id, how).await.problem(409, "conflict");
    }
    world.press_on(&page, "").await;
    let path = format!("/api/v1/join-requests/{id}/approve");
    let keyed = [("idempotency-key", "once")];
    let first = world.post_with(&path, &keyed, json!({})).await;
    let replayed = world.post_with(&path, &keyed, json!({})).await;
    assert_eq!((first.status, first.text.as_str()), (StatusCode::OK, replayed.text.as_str()));
    assert_eq!(replayed.header("idempotency-replayed"), "true");
    for how in ["approve", "reject"] {
        world.decide_on(&id, how).await.problem(409, "conflict");
    }
    world.decide_on(&Uuid::now_v7().to_string(), "approve").await.problem(404, "not-found");

    let mut bo = anna();
    bo["email"] = json!("bo@example.se");
    let page = world.asked_to_join(bo).await;
    world.press_on(&page, "").await;
    let id = world.join_requests().await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(world.decide_on(&id, "reject").await.json()["status"], "rejected");
    world.decide_on(&id, "approve").await.problem(409, "conflict");
    assert_eq!(
        world.get("/api/v1/join-requests?status=rejected").await.json()["join_requests"].as_array().unwrap().len(),
        1
    );
}

/// JOIN-5: many at once, and one member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvals_at_the_same_moment_make_one_member_and_one_mail() {
    let world = world().await;
    let page = world.asked_to_join(anna()).await;
    let pressed = futures::future::join_all((0..4).map(|_| world.press_on(&page, ""))).await;
    let done = pressed.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!(done, 1, "confirmed once: {:?}", pressed.iter().map(|a| a.status).collect::<Vec<_>>());
    let id = world.join_requests().await[0]["id"].as_str().unwrap().to_owned();
    let mails = world.mailbox.accepted().len();
    let answers = futures::future::join_all(
        ["approve", "reject", "approve", "approve", "reject"].map(|how| world.decide_on(&id, how)),
    )
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::OK).count(), 1);
    world.mail_out().await;
    assert_eq!(world.mailbox.accepted().len(), mails + 1);
}

/// JOIN-1
#[tokio::test]
async fn a_request_keeps_the_fields_that_the_organization_allows_and_names_what_is_wrong() {
    let world = world().await;
    let mut settings = world.acme.settings.clone();
    settings.join_form.fields = vec!["phone".to_owned(), "news".to_owned()];
    let change = organizations::OrganizationChange { settings: Some(settings), ..Default::default() };
    let mut db = world.app.db.acquire().await.unwrap();
    organizations::update(&mut db, world.acme.id, &change, monday()).await.unwrap();
    drop(db);
    let mut body = anna();
    body["form"] = json!({"phone": "070", "news": true, "role": "admin", "deep": {"x": [1]}});
    body["schema_version"] = json!(3);
    body["language"] = json!("en");
    world.asked_to_join(body.clone()).await;
    let stored = world.join_requests().await.remove(0);
    assert_eq!((&stored["form"], &stored["schema_version"]), (&json!({"phone": "070", "news": true}), &json!(3)));
    assert!(world.mailbox.get(world.mailbox.list(1)[0].id).unwrap().summary.subject.starts_with("Confirm"));

    body["form"]["phone"] = json!({"x": 1});
    assert_eq!(world.ask_to_join(body).await.problem(422, "validation"), ["form.phone invalid"]);
    for (field, value, code) in [
        ("email", json!("nobody"), "invalid"),
        ("email", json!("a@b.example\r\nBcc: c@d.example"), "invalid"),
        ("first_name", json!(""), "required"),
        ("last_name", json!("x\r\nBcc: y"), "invalid"),
        ("schema_version", json!(0), "out_of_range"),
        ("password", json!("x"), "unknown_field"),
    ] {
        let mut body = anna();
        body[field] = value;
        assert_eq!(world.ask_to_join(body).await.problem(422, "validation"), [format!("{field} {code}")]);
    }
}

/// JOIN-1, TEN-5: closed, suspended and unknown are one to a stranger.
#[tokio::test]
async fn an_organization_that_takes_no_requests_is_as_if_it_were_not_there() {
    let world = world().await;
    let ask = async |slug: &str| {
        let path = format!("/api/v1/organizations/{slug}/join-requests");
        let answer = world.send(request(Method::POST, &path, "", &[], Some(anna()))).await;
        answer.problem(404, "not-found");
        answer.json()["detail"].clone()
    };
    let unknown = ask("nobody").await;
    assert_eq!(ask("Not%20a%20slug").await, unknown);
    let page = world.asked_to_join(anna()).await;
    world.operate(Method::POST, "/api/v1/organizations/acme/suspend", None).await;
    assert_eq!(ask("acme").await, unknown);
    let held = world.press_on(&page, "").await;
    assert_eq!(held.status, StatusCode::FORBIDDEN, "{}", held.text);
    assert_eq!(world.join_status().await, "pending_confirmation");
    world.operate(Method::POST, "/api/v1/organizations/acme/activate", None).await;
    let settings = json!({"settings": {"join_form": {"open": false}}});
    let closed = world.send(request(Method::PATCH, "/api/v1/organization", &world.key, &[], Some(settings))).await;
    assert_eq!(closed.status, StatusCode::OK, "{}", closed.text);
    assert_eq!(ask("acme").await, unknown);
}

/// JOIN-2, AUTH-5: a flood from one network is turned away, another network is not.
#[tokio::test]
async fn one_network_s_flood_is_limited() {
    let world = World::with(&[("BACKROOM__HTTP__JOIN_REQUESTS_PER_HOUR", "5")]).await;
    let from = |peer: &str, n: usize| {
        let mut body = anna();
        body["email"] = json!(format!("anna{n}@example.se"));
        let mut request = request(Method::POST, SUBMIT, "", &[], Some(body));
        request.extensions_mut().insert(ConnectInfo(peer.parse::<std::net::SocketAddr>().unwrap()));
        world.send(request)
    };
    for n in 0..5 {
        assert_eq!(from("192.0.2.1:4000", n).await.status, StatusCode::ACCEPTED);
    }
    let refused = from("192.0.2.1:4001", 5).await;
    refused.problem(429, "rate-limited");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 60);
    assert_eq!(from("192.0.2.2:4000", 6).await.status, StatusCode::ACCEPTED);
    assert_eq!(world.join_requests().await.len(), 6);
}

/// API-3: a stranger's key repeats a request, and is none of the organization's.
#[tokio::test]
async fn a_repeated_request_sends_one_mail_and_its_key_is_the_stranger_s() {
    let world = world().await;
    let send = async || {
        let keyed = [("idempotency-key", "k1")];
        world.send(request(Method::POST, SUBMIT, "", &keyed, Some(anna()))).await
    };
    let (first, second) = (send().await, send().await);
    assert_eq!((first.status, &first.text), (second.status, &second.text));
    assert_eq!(second.header("idempotency-replayed"), "true");
    world.mail_out().await;
    assert_eq!(world.mailbox.accepted().len(), 1);
    let own = world.post_with("/api/v1/jobs", &[("idempotency-key", "k1")], json!({"kind": "debug.noop"})).await;
    assert_eq!(own.status, StatusCode::ACCEPTED, "{}", own.text);
}

/// JOIN-5: whoever has an account and a password keeps them.
#[tokio::test]
async fn somebody_who_has_an_account_is_let_in_with_it() {
    let world = world().await;
    let globex = world._database.organization("globex").await;
    let bo = account(&world.app, "bo@example.se", Some("en ganska lang mening")).await;
    join(&world.app, &globex, bo, Role::Admin, None).await;
    let mut body = anna();
    body["email"] = json!("Bo@Example.se");
    let page = world.asked_to_join(body).await;
    world.press_on(&page, "").await;
    let id = world.join_requests().await[0]["id"].as_str().unwrap().to_owned();
    let approved = world.decide_on(&id, "approve").await.json();
    assert_eq!(approved["user_id"], json!(bo));
    world.mail_out().await;
    let mail = world.mailbox.get(world.mailbox.list(1)[0].id).unwrap();
    assert!(!mail.text.unwrap().contains("/join-requests/"), "no way to another password");
    let mut db = world.app.db.acquire().await.unwrap();
    assert_eq!(users::by_id(&mut db, bo).await.unwrap().unwrap().name, "Anna Ek", "the account's own name");
    assert!(memberships::find(&mut db, world.acme.id, bo).await.unwrap().is_some());
}

/// JOIN-5: staff sees whether the decision arrived, and tells it again; the page of the new link sets the password.
#[tokio::test]
async fn staff_tells_a_decision_again() {
    let world = world().await;
    let page = world.asked_to_join(anna()).await;
    let id = world.join_requests().await[0]["id"].as_str().unwrap().to_owned();
    world.decide_on(&id, "resend").await.problem(409, "conflict");
    world.press_on(&page, "").await;
    let approved = world.decide_on(&id, "approve").await.json();
    assert_eq!((&approved["decision_sent_at"], &approved["decision_error"]), (&Value::Null, &Value::Null));
    assert_eq!(approved["choose_password_by"], json!(monday() + Duration::days(7)));
    world.mail_out().await;
    assert_eq!(world.join_requests().await[0]["decision_sent_at"], json!(monday()));
    let old = world.page_in_latest_mail();
    world.app.clock.advance(Duration::days(7));
    assert_eq!(world.see(&old).await.status, StatusCode::GONE);

    let again = world.decide_on(&id, "resend").await;
    assert_eq!((again.status, &again.json()["decision_sent_at"]), (StatusCode::OK, &Value::Null), "{}", again.text);
    world.mail_out().await;
    let new = world.page_in_latest_mail();
    assert_eq!(world.see(&old).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.press_on(&new, "password=en+ganska+lang+mening").await.status, StatusCode::OK);
    assert_eq!(world.join_requests().await[0]["choose_password_by"], Value::Null);

    // Now there is a password: told once more, there is no link.
    assert_eq!(world.decide_on(&id, "resend").await.status, StatusCode::OK);
    world.mail_out().await;
    let mail = world.mailbox.get(world.mailbox.list(1)[0].id).unwrap().text.unwrap();
    assert!(!mail.contains("/join-requests/"), "{mail}");
    let user = world.join_requests().await[0]["user_id"].as_str().unwrap().to_owned();
    let removed = super::request(Method::DELETE, &format!("/api/v1/members/{user}"), &world.key, &[], None);
    assert_eq!(world.send(removed).await.status, StatusCode::NO_CONTENT);
    world.decide_on(&id, "resend").await.problem(409, "conflict");
    world.decide_on(&Uuid::now_v7().to_string(), "resend").await.problem(404, "not-found");
}

/// JOIN-5: of two links to choose a password by, the second says that there is one.
#[tokio::test]
async fn a_second_link_does_not_say_that_the_password_is_saved() {
    let world = world().await;
    let page = world.asked_to_join(anna()).await;
    world.press_on(&page, "").await;
    let id = world.join_requests().await[0]["id"].as_str().unwrap().to_owned();
    world.decide_on(&id, "approve").await;
    world.mail_out().await;
    let link = world.page_in_latest_mail();
    let set = "update public.users set password_hash = 'chosen elsewhere' where email_key = 'anna@example.se'";
    sqlx::query(set).execute(&world.app.db).await.unwrap();
    for answer in [world.press_on(&link, "password=en+ganska+lang+mening").await, world.see(&link).await] {
        assert_eq!(answer.status, StatusCode::GONE, "{}", answer.text);
        assert!(answer.text.contains("Du har redan ett lösenord"), "{}", answer.text);
    }
}
