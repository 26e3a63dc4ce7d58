//! The way back in: asked for by anybody, mailed to the owner of the address, used once.

use axum::extract::ConnectInfo;
use backroom_queue::testing;
use chrono::{DateTime, Duration, TimeZone, Utc};

use super::*;
use crate::store::{Page, events};

const ASK: &str = "/api/v1/password-resets";
const EMAIL: &str = "anna@acme.example";
const OLD: &str = "det gamla lösenordet";
const NEW: &str = "en ganska lang mening";
const FORM: &str = "password=en+ganska+lang+mening";

fn monday() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).unwrap()
}

/// A world whose clock stands still, in which nobody asks too often, with Anna, who has a password.
async fn world() -> World {
    let many =
        [("BACKROOM__HTTP__JOIN_REQUESTS_PER_HOUR", "100000"), ("BACKROOM__HTTP__STRANGERS_PER_MINUTE", "100000")];
    let world = World::at(Clock::fixed(monday()), &many).await;
    let anna = account(&world.app, EMAIL, Some(OLD)).await;
    join(&world.app, &world.acme, anna, Role::User, None).await;
    world
}

impl World {
    async fn forgot(&self, body: Value) -> Answer {
        self.send(request(Method::POST, ASK, "", &[], Some(body))).await
    }

    /// Asks, mails, and answers the path of the page in the latest mail.
    async fn link_for(&self, email: &str) -> String {
        assert_eq!(self.forgot(json!({"email": email})).await.status, StatusCode::ACCEPTED);
        self.mail().await;
        let text = self.mailbox.get(self.mailbox.list(1)[0].id).unwrap().text.unwrap();
        let at = text.find("/password-resets/").unwrap_or_else(|| panic!("no link in {text}"));
        text[at..].split_whitespace().next().unwrap().to_owned()
    }

    async fn mail(&self) {
        let registry = Arc::new(crate::jobs::registry(&self.app.config));
        testing::drain(&self.app.db, &registry, self.app.clone(), "mailers").await.unwrap();
    }

    async fn open(&self, page: &str) -> Answer {
        self.send(request(Method::GET, page, "", &[], None)).await
    }

    async fn set_by(&self, page: &str, form: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(Method::POST).uri(page);
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(form.to_owned())).unwrap()).await
    }

    async fn enter(&self, email: &str, password: &str) -> Answer {
        let body = json!({"email": email, "password": password});
        self.send(request(Method::POST, "/api/v1/sign-in", "", &[], Some(body))).await
    }
}

/// AUTH-5, AUTH-2: from the question to the new password; every session ends.
#[tokio::test]
async fn who_has_forgotten_a_password_sets_another() {
    let world = world().await;
    let before = world.enter(EMAIL, OLD).await.json();
    let page = world.link_for("ANNA@acme.example").await;
    for _scanner in 0..2 {
        let shown = world.open(&page).await;
        assert_eq!((shown.status, shown.header("cache-control")), (StatusCode::OK, "no-store"), "{}", shown.text);
        for fact in ["Välj ett nytt lösenord", EMAIL, "type=\"password\""] {
            assert!(shown.text.contains(fact), "{fact}: {}", shown.text);
        }
        assert!(!shown.text.contains("<script"));
    }
    assert!(world.open(&format!("{page}?lang=en")).await.text.contains("Choose a new password"));
    let token = before["access_token"].as_str().unwrap();
    let me = async || world.send(request(Method::GET, "/api/v1/me", token, &[], None)).await;
    assert_eq!(me().await.status, StatusCode::OK, "looking changes nothing");

    let short = world.set_by(&page, "password=short", &[]).await;
    assert_eq!(short.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(short.text.contains("För kort"), "{}", short.text);
    let foreign = world.set_by(&page, FORM, &[("sec-fetch-site", "cross-site")]).await;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN);
    assert_eq!(me().await.status, StatusCode::OK, "nothing was set so far");
    let set = world.set_by(&page, FORM, &[]).await;
    assert_eq!(set.status, StatusCode::OK, "{}", set.text);

    me().await.problem(401, "token-revoked");
    let refresh = json!({"refresh_token": before["refresh_token"]});
    let refreshed = world.send(request(Method::POST, "/api/v1/sign-in/refresh", "", &[], Some(refresh))).await;
    refreshed.problem(401, "token-revoked");
    world.enter(EMAIL, OLD).await.problem(401, "sign-in-refused");
    assert_eq!(world.enter(EMAIL, NEW).await.status, StatusCode::OK);
    let id = before["user_id"].as_str().unwrap();
    let mut tx = tenant::begin(&world.app.db, &world.acme).await.unwrap();
    let told = events::page(&mut tx, Some(&format!("member:{id}")), Page::first(10)).await.unwrap();
    let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["member.signed_in", "member.password_reset", "member.signed_in"]);
}

/// AUTH-5: known, unknown, of no organization, asked too often: nobody outside can tell, and each leaves one job.
#[tokio::test]
async fn the_answer_is_the_same_whatever_is_known_of_the_address() {
    let world = world().await;
    account(&world.app, "left@acme.example", Some(OLD)).await;
    let mut answers = Vec::new();
    for email in ["nobody@acme.example", EMAIL, "left@acme.example"] {
        for organization in [json!(null), json!("acme"), json!("initech"), json!("acme"), json!("acme")] {
            let jobs = world.jobs_stored().await;
            let answer = world.forgot(json!({"email": email, "organization": organization})).await;
            assert_eq!(world.jobs_stored().await, jobs + 1);
            let headers: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
            answers.push((answer.status, answer.text, headers));
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(answers[0].0, StatusCode::ACCEPTED);
    world.mail().await;
    let mails = world.mailbox.list(10);
    assert!((1..=3).contains(&mails.len()) && mails.iter().all(|mail| mail.to == [EMAIL]), "{mails:?}");
}

/// AUTH-5
#[tokio::test]
async fn used_expired_replaced_and_unknown_links_say_so_and_set_nothing() {
    let world = world().await;
    let replaced = world.link_for(EMAIL).await;
    let used = world.link_for(EMAIL).await;
    assert_eq!(world.set_by(&replaced, FORM, &[]).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.set_by(&used, FORM, &[]).await.status, StatusCode::OK);
    for answer in [world.open(&used).await, world.set_by(&used, "password=eine+andere+mening", &[]).await] {
        assert_eq!(answer.status, StatusCode::GONE);
        assert!(answer.text.contains("Länken har använts") && !answer.text.contains(EMAIL), "{}", answer.text);
    }
    let late = world.link_for(EMAIL).await;
    world.app.clock.advance(Duration::hours(1));
    for answer in [world.open(&late).await, world.set_by(&late, "password=eine+andere+mening", &[]).await] {
        assert_eq!(answer.status, StatusCode::GONE);
        assert!(answer.text.contains("gått ut") && !answer.text.contains(EMAIL), "{}", answer.text);
    }
    let secret = "A".repeat(43);
    for unknown in [format!("acme.{secret}"), format!("nobody.{secret}"), "acme".to_owned(), "%00".to_owned()] {
        let page = format!("/password-resets/{unknown}?lang=en");
        let (shown, pressed) = (world.open(&page).await, world.set_by(&page, FORM, &[]).await);
        assert_eq!((shown.status, pressed.status), (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND), "{unknown}");
        assert!(shown.text.contains("not valid"), "{}", shown.text);
    }
    assert_eq!(world.enter(EMAIL, NEW).await.status, StatusCode::OK);
}

/// AUTH-5: many at once, and one password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_use_a_link_at_once_one_sets_the_password() {
    let world = world().await;
    let page = world.link_for(EMAIL).await;
    let passwords = ["den ena meningen", "den andra meningen", "den tredje meningen"];
    let forms = passwords.map(|password| format!("password={}", password.replace(' ', "+")));
    let answers = futures::future::join_all(forms.iter().map(|form| world.set_by(&page, form, &[]))).await;
    let mut opened = 0;
    for (answer, password) in answers.iter().zip(passwords) {
        assert!([StatusCode::OK, StatusCode::GONE].contains(&answer.status), "{}", answer.text);
        let signed_in = world.enter(EMAIL, password).await.status == StatusCode::OK;
        assert_eq!(signed_in, answer.status == StatusCode::OK, "who is told so has set it, and nobody else");
        opened += usize::from(signed_in);
    }
    assert_eq!(opened, 1);
}

/// AUTH-1: the mail proves the address, so an account that somebody else made is its owner's from now on.
#[tokio::test]
async fn a_link_proves_the_address() {
    let world = world().await;
    let member = json!({"email": "bo@acme.example", "name": "Bo", "role": "user", "password": OLD});
    let made = world.post("/api/v1/members", member).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let planted = world.enter("bo@acme.example", OLD).await.json();
    let page = world.link_for("bo@acme.example").await;
    assert_eq!(world.set_by(&page, FORM, &[]).await.status, StatusCode::OK);
    let token = planted["access_token"].as_str().unwrap();
    world.send(request(Method::GET, "/api/v1/me", token, &[], None)).await.problem(401, "token-revoked");
    let bo = EmailAddress::parse("bo@acme.example").unwrap();
    let bo = users::by_email(&mut world.app.db.acquire().await.unwrap(), &bo).await.unwrap().unwrap();
    assert_eq!(bo.confirmed_at, Some(monday()));
}

/// AUTH-5: a password that was changed otherwise leaves no link behind that sets another.
#[tokio::test]
async fn a_changed_password_ends_the_link() {
    let world = world().await;
    let page = world.link_for(EMAIL).await;
    let token = world.enter(EMAIL, OLD).await.json()["access_token"].as_str().unwrap().to_owned();
    let change = json!({"old_password": OLD, "new_password": NEW});
    let changed = world.send(request(Method::POST, "/api/v1/me/password", &token, &[], Some(change))).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    assert_eq!(world.set_by(&page, "password=eine+andere+mening", &[]).await.status, StatusCode::GONE);
    assert_eq!(world.enter(EMAIL, NEW).await.status, StatusCode::OK);
}

/// TEN-5: sign-in is open to members of a suspended organization, and so is a link that they have already.
#[tokio::test]
async fn a_link_outlives_the_suspension_of_who_sent_it() {
    let world = world().await;
    let page = world.link_for(EMAIL).await;
    world.operate(Method::POST, "/api/v1/organizations/acme/suspend", None).await;
    assert_eq!(world.set_by(&page, FORM, &[]).await.status, StatusCode::OK);
    assert_eq!(world.enter(EMAIL, NEW).await.status, StatusCode::OK);
}

/// AUTH-5: a flood from one network is turned away; it takes nothing from sign-in, and nothing from another network.
#[tokio::test]
async fn a_flood_is_limited_and_locks_nobody_out() {
    let world = World::with(&[("BACKROOM__HTTP__JOIN_REQUESTS_PER_HOUR", "20")]).await;
    let anna = account(&world.app, EMAIL, Some(OLD)).await;
    join(&world.app, &world.acme, anna, Role::User, None).await;
    let from = |peer: &str| {
        let mut request = request(Method::POST, ASK, "", &[], Some(json!({"email": EMAIL})));
        request.extensions_mut().insert(ConnectInfo(peer.parse::<std::net::SocketAddr>().unwrap()));
        world.send(request)
    };
    for _ in 0..20 {
        assert_eq!(from("192.0.2.1:4000").await.status, StatusCode::ACCEPTED);
    }
    let refused = from("192.0.2.1:4001").await;
    refused.problem(429, "rate-limited");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 60);
    assert_eq!(from("192.0.2.2:4000").await.status, StatusCode::ACCEPTED);
    world.mail().await;
    assert_eq!(world.mailbox.accepted().len(), 1, "each newer link silences the mails before it");
    assert_eq!(world.enter(EMAIL, OLD).await.status, StatusCode::OK);
}

/// API-2, MAIL-1: what is no address, no slug or more than asked for is named, and nothing is mailed.
#[tokio::test]
async fn what_is_wrong_is_named() {
    let world = world().await;
    for (body, error) in [
        (json!({"email": "nobody"}), "email invalid"),
        (json!({"email": "anna@acme.example\r\nBcc: c@d.example"}), "email invalid"),
        (json!({"email": EMAIL, "organization": "Not a slug"}), "organization invalid"),
        (json!({"email": EMAIL, "password": NEW}), "password unknown_field"),
    ] {
        assert_eq!(world.forgot(body).await.problem(422, "validation"), [error]);
    }
    let keyed = request(Method::POST, ASK, "", &[("idempotency-key", "k")], Some(json!({"email": EMAIL})));
    assert_eq!(world.send(keyed).await.problem(422, "validation"), ["Idempotency-Key invalid"]);
    assert_eq!(world.jobs_stored().await, 0);
}
