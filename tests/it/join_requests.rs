//! Requests to join from outside: a server that takes them, workers that are killed while they mail.

use std::{collections::BTreeMap, time::Duration};

use backroom::mail::mailbox::Mailbox;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;

use crate::support::{PATIENCE, api::World, browser::Browser, count, mailbox, until};

/// JOIN-2, JOIN-3, MAIL-2: one mail per token, and none for a token that was replaced before its mail was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_killed_in_the_middle_of_sending_leave_one_mail_per_token() {
    const APPLICANTS: usize = 60;
    const KILLS: u32 = 15;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mailbox = mailbox().await;
    let world = World::with("server", |program| {
        program
            .with("BACKROOM__MAIL__SMTP_URL", mailbox.url())
            .with("BACKROOM__HTTP__JOIN_REQUESTS_PER_HOUR", 100_000)
            .with("BACKROOM__HTTP__STRANGERS_PER_MINUTE", 100_000)
    })
    .await;
    let stranger = world.api.with_key("");
    for n in 0..APPLICANTS {
        // Every third asks twice, before anything is mailed: the first token is replaced.
        for _ in 0..if n % 3 == 0 { 2 } else { 1 } {
            let body = json!({"email": format!("applicant{n}@example.com"), "first_name": "Anna", "last_name": "Ek"});
            let answer = stranger.post("/api/v1/organizations/acme/join-requests", &body).await;
            assert_eq!(answer.status, 202, "{}", answer.text);
        }
    }
    let jobs = "select count(*) from queue.jobs where kind = 'membership.send_confirmation'";
    assert_eq!(count(&world.database.pool, jobs).await, (APPLICANTS + APPLICANTS.div_ceil(3)) as i64);

    // The server keeps a message and is slow to say so: most kills fall between its acceptance and our record.
    mailbox.set_delay(Duration::from_millis(20));
    for kill in 0..KILLS {
        let worker = world.program.start(&["worker", "--queues", "mailers"]);
        let already = mailbox.accepted().len();
        if already >= APPLICANTS {
            worker.kill().await;
            break;
        }
        let more = random.random_range(1..8).min(APPLICANTS - already);
        assert!(mailbox.wait_for(already + more, PATIENCE).await, "round {kill} sent nothing");
        tokio::time::sleep(Duration::from_micros(random.random_range(0..25_000))).await;
        worker.kill().await;
    }
    let worker = world.program.start(&["worker", "--queues", "mailers"]);
    until(&world.database.pool, "select count(*) from queue.jobs", 0).await;
    worker.stop().await;

    let mut received: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for delivery in mailbox.accepted() {
        *received.entry(delivery.recipient).or_default().entry(delivery.message_id).or_default() += 1;
    }
    for (recipient, messages) in &received {
        assert_eq!(
            messages.len(),
            1,
            "{recipient} got {messages:?}: more than one mail for the one token that is good"
        );
        assert!(messages.values().all(|copies| *copies <= 3), "{recipient} got {messages:?}: more than three copies");
    }
    assert_eq!(received.len(), APPLICANTS, "everybody got a mail");
    let replaced = "select count(*) from queue.finished_jobs where state = 'cancelled'";
    assert_eq!(count(&world.database.pool, replaced).await, APPLICANTS.div_ceil(3) as i64);
    // A job that took three workers with it is left to an operator (PLAT-20, PLAT-21); the others are on the books.
    let lost = count(&world.database.pool, "select count(*) from queue.finished_jobs where state = 'discarded'").await;
    let sent = "select count(*) from org_acme.join_requests where confirmation_sent_at is not null";
    assert_eq!(count(&world.database.pool, sent).await, APPLICANTS as i64 - lost);
    assert!(lost < APPLICANTS as i64 / 4, "{lost}");
    world.close().await;
}

/// JOIN-4, JOIN-5: a link scanner first, then a person with a phone, who confirms, is approved and chooses a password; no JavaScript.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_confirmed_in_a_real_browser() {
    let Some(browser) = Browser::on_a_phone("en-GB,en").await else { return };
    let mailbox = mailbox().await;
    let world = World::with("start", |program| program.with("BACKROOM__MAIL__SMTP_URL", mailbox.url())).await;
    let stranger = world.api.with_key("");
    let asks = json!({"email": "bo@example.com", "first_name": "Bo", "last_name": "Åkesson 🚚"});
    assert_eq!(stranger.post("/api/v1/organizations/acme/join-requests", &asks).await.status, 202);
    assert!(mailbox.wait_for(1, PATIENCE).await, "the mail came");
    let path = link(&mailbox);
    for _ in 0..3 {
        assert_eq!(stranger.get(&path).await.status, 200);
    }
    let submitted = "select count(*) from org_acme.join_requests where status = 'submitted'";
    assert_eq!(count(&world.database.pool, submitted).await, 0, "a program that follows links confirms nothing");

    browser.open(&world.api.url(&path)).await;
    assert_eq!(browser.text("h1").await, "Bekräfta din ansökan", "the request's language, not the browser's");
    assert_eq!(browser.text("#name").await, "Bo Åkesson 🚚");
    assert_eq!(browser.text("#address").await, "bo@example.com");
    browser.fits_the_phone().await;
    browser.click("#other-language").await;
    assert_eq!(browser.text("h1").await, "Confirm your request");
    assert_eq!(browser.attribute("html", "lang").await.as_deref(), Some("en"));
    browser.click("#confirm").await;
    assert!(browser.text("h1.good").await.contains("your request is confirmed"));
    browser.fits_the_phone().await;
    assert_eq!(count(&world.database.pool, submitted).await, 1);
    browser.open(&world.api.url(&path)).await;
    assert_eq!(browser.text("h1").await, "Ansökan är redan bekräftad");

    let id = world.api.get("/api/v1/join-requests").await.json()["join_requests"][0]["id"].clone();
    let approve = format!("/api/v1/join-requests/{}/approve", id.as_str().expect("an id"));
    assert_eq!(world.api.post(&approve, &json!({})).await.status, 200);
    assert!(mailbox.wait_for(2, PATIENCE).await, "the decision came");
    browser.open(&world.api.url(&format!("{}?lang=en", link(&mailbox)))).await;
    assert_eq!(browser.text("h1").await, "Choose a password");
    browser.type_into("#password", "short").await;
    browser.click("#confirm").await;
    assert_eq!(browser.text("#password-error").await, "Too short: at least 12 characters.");
    browser.fits_the_phone().await;
    browser.type_into("#password", "correct horse battery").await;
    browser.click("#confirm").await;
    assert!(browser.text("h1.good").await.contains("The password is saved"));
    let sign_in = json!({"email": "BO@example.com", "password": "correct horse battery", "organization": "acme"});
    assert_eq!(stranger.post("/api/v1/sign-in", &sign_in).await.status, 200);
    browser.close().await;
    world.close().await;
}

/// The path of the link in the latest mail.
fn link(mailbox: &Mailbox) -> String {
    let text = mailbox.get(mailbox.list(1)[0].id).and_then(|mail| mail.text).expect("a mail");
    let at = text.find("/join-requests/").expect("a link");
    text[at..].split_whitespace().next().expect("a path").to_owned()
}
