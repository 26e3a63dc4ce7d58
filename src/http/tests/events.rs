//! Events over HTTP: the list, the stream, and who gets which.

use axum::body::BodyDataStream;
use futures::StreamExt;

use super::*;
use crate::store::events::{self, NewEvent};

const INVOICE: &str = "invoice:0199aaaa-0000-7000-8000-000000000000";

/// A stream as a client reads it.
struct Client {
    body: BodyDataStream,
    rest: String,
}

#[derive(Debug)]
struct Message {
    id: String,
    event: String,
    data: Value,
}

impl World {
    async fn tell_followers(&self, topic: &str, n: u64) -> String {
        let mut tx = tenant::begin(&self.app.db, &self.acme).await.unwrap();
        let event =
            NewEvent { topic: topic.to_owned(), kind: "test.happened", payload: json!({"n": n}), actor: "test" };
        let id = events::append(&mut tx, &event, self.app.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        id.to_string()
    }

    async fn follow_topics(&self, token: &str, topics: &str, headers: &[(&str, &str)]) -> Client {
        let path = format!("/api/v1/events/stream?topics={topics}");
        let response = self.router.clone().oneshot(request(Method::GET, &path, token, headers, None)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{topics}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Client { body: response.into_body().into_data_stream(), rest: String::new() }
    }

    async fn refused_topics(&self, token: &str, topics: &str) -> Answer {
        let path = format!("/api/v1/events/stream?topics={topics}");
        self.send(request(Method::GET, &path, token, &[], None)).await
    }
}

impl Client {
    /// The next block that is a message.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(at) = self.rest.find("\n\n") {
                let block: String = self.rest.drain(..at + 2).collect();
                let field =
                    |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned());
                let Some(data) = field("data:") else { continue };
                return Some(Message {
                    id: field("id:").unwrap_or_default(),
                    event: field("event:").unwrap_or_else(|| "message".to_owned()),
                    data: serde_json::from_str(&data).unwrap(),
                });
            }
            let more = tokio::time::timeout(std::time::Duration::from_secs(30), self.body.next()).await;
            match more.expect("something comes") {
                Some(bytes) => self.rest.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap()),
                None => return None,
            }
        }
    }

    async fn expect(&mut self, event: &str) -> Message {
        let message = self.next().await.expect("a message");
        assert_eq!(message.event, event, "{message:?}");
        message
    }
}

/// EVT-1, EVT-2: what a request does is heard by who follows, and stands in the log.
#[tokio::test]
async fn what_happens_is_heard_and_can_be_read_afterwards() {
    let world = World::new().await;
    let mut client = world.follow_topics(&world.key, "organization", &[]).await;
    let ready = client.expect("ready").await;
    assert!(ready.id.starts_with('x'), "{ready:?}");
    assert_eq!(ready.data, json!({"topics": ["organization"]}));

    let company = world.company().await;
    let heard = client.expect("message").await;
    assert_eq!(
        (&heard.data["kind"], &heard.data["topic"]),
        (&json!("company.created"), &json!(format!("company:{company}")))
    );
    assert_eq!(heard.data["id"], json!(heard.id));
    assert!(!heard.data.to_string().contains(PLANTED), "VAULT-4");

    let listed = world.get("/api/v1/events?topic=organization&limit=1").await.json();
    assert_eq!(listed["events"][0]["id"], json!(heard.id));
    let of_company = world.get(&format!("/api/v1/events?topic=company:{company}")).await.json();
    assert_eq!(of_company["events"].as_array().unwrap().len(), 1);
    assert!(of_company["next_cursor"].is_null());
}

/// EVT-2
#[tokio::test]
async fn who_comes_back_with_the_last_id_gets_what_was_missed_and_then_what_happens() {
    let world = World::new().await;
    let mut client = world.follow_topics(&world.key, INVOICE, &[]).await;
    let start = client.expect("ready").await.id;
    let first = world.tell_followers(INVOICE, 1).await;
    assert_eq!(client.expect("message").await.id, first);
    drop(client);
    let missed = [world.tell_followers(INVOICE, 2).await, world.tell_followers(INVOICE, 3).await];
    world.tell_followers("company:0199aaaa-0000-7000-8000-000000000001", 4).await;

    let by_header = vec![("last-event-id", first.as_str())];
    for (headers, query) in [(by_header, String::new()), (vec![], format!("&last_event_id={first}"))] {
        let mut client = world.follow_topics(&world.key, &format!("{INVOICE}{query}"), &headers).await;
        assert_eq!([client.expect("message").await.id, client.expect("message").await.id], missed);
        client.expect("ready").await;
        let live = world.tell_followers(INVOICE, 5).await;
        assert_eq!(client.expect("message").await.id, live);
    }
    let mut client = world.follow_topics(&world.key, INVOICE, &[("last-event-id", &start)]).await;
    assert_eq!(client.expect("message").await.id, first, "from the place that `ready` named");
    for unknown in ["0199aaaa-0000-7000-8000-00000000abcd", "nonsense", "x9999999999"] {
        let mut client = world.follow_topics(&world.key, INVOICE, &[("last-event-id", unknown)]).await;
        assert_eq!(client.expect("reset").await.data, json!({"reason": "unknown"}), "{unknown}");
        client.expect("ready").await;
    }
}

/// EVT-2: beyond a bound the client is told to read anew.
#[tokio::test]
async fn who_missed_too_much_is_told_to_read_anew() {
    let world = World::new().await;
    let first = world.tell_followers(INVOICE, 0).await;
    sqlx::query(
        "insert into org_acme.events (id, topic, kind, payload, actor, created_at)
         select gen_random_uuid(), $1, 'test.happened', '{}', 'test', now() from generate_series(1, 5001)",
    )
    .bind(INVOICE)
    .execute(&world.app.db)
    .await
    .unwrap();
    for topics in [INVOICE, "organization"] {
        let mut client = world.follow_topics(&world.key, topics, &[("last-event-id", &first)]).await;
        assert_eq!(client.expect("reset").await.data, json!({"reason": "too_much"}));
        client.expect("ready").await;
    }
}

/// EVT-2, AUTH-4, API-8
#[tokio::test]
async fn a_topic_is_open_to_whom_it_concerns() {
    let world = World::new().await;
    let user = person_of(&world.app, &world.acme, Role::User, None).await;
    let other = person_of(&world.app, &world.acme, Role::User, None).await;
    let admin = person_of(&world.app, &world.acme, Role::Admin, None).await;
    let made = json!({"name": "Rummet"});
    let made = world.send(request(Method::POST, "/api/v1/workspaces", &user.token, &[], Some(made))).await;
    let workspace = made.json()["id"].as_str().unwrap().to_owned();
    let conversation = format!("workspace:{workspace}:conversation:{}", Uuid::now_v7());
    let room = format!("workspace:{workspace}");
    for topic in [&room, &conversation] {
        world.follow_topics(&user.token, topic, &[]).await.expect("ready").await;
        for stranger in [&other.token, &admin.token] {
            world.refused_topics(stranger, topic).await.problem(404, "not-found");
            let nowhere = topic.replace(&workspace, &Uuid::now_v7().to_string());
            world.refused_topics(stranger, &nowhere).await.problem(404, "not-found");
        }
        world.refused_topics(&world.key, topic).await.problem(403, "forbidden");
        let listed = format!("/api/v1/events?topic={topic}");
        world.send(request(Method::GET, &listed, &other.token, &[], None)).await.problem(404, "not-found");
    }
    for closed in ["organization", INVOICE, &format!("{room},organization")] {
        world.refused_topics(&user.token, closed).await.problem(403, "forbidden");
    }
    world.follow_topics(&admin.token, "organization", &[]).await.expect("ready").await;
    let job = world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.json()["id"].as_str().unwrap().to_owned();
    let mut client = world.follow_topics(&world.key, &format!("job:{job}"), &[]).await;
    client.expect("ready").await;
    assert_eq!(client.expect("message").await.data["payload"]["state"], "available");
    let globex = world._database.organization("globex").await;
    let theirs = key_of(&world.app, &globex, Scope::ALL).await;
    world.refused_topics(&theirs, &format!("job:{job}")).await.problem(404, "not-found");
    let narrow = key_of(&world.app, &world.acme, &[Scope::EventsRead]).await;
    world.refused_topics(&narrow, &format!("job:{job}")).await.problem(403, "forbidden");
    world.refused_topics("", "organization").await.problem(401, "unauthenticated");
}

/// API-4
#[tokio::test]
async fn topics_that_are_none_are_named() {
    let world = World::new().await;
    for bad in ["", "everything", "organization,invoice:x"] {
        assert_eq!(world.refused_topics(&world.key, bad).await.problem(422, "validation"), ["topics invalid"], "{bad}");
    }
    let many = vec![INVOICE; 21].join(",");
    assert_eq!(world.refused_topics(&world.key, &many).await.problem(422, "validation"), ["topics too_long"]);
    let none = world.get("/api/v1/events/stream").await;
    assert_eq!(none.problem(422, "validation"), ["topics required"]);
    assert_eq!(world.get("/api/v1/events").await.problem(422, "validation"), ["topic required"]);
}

/// EVT-1, API-9
#[tokio::test]
async fn the_log_is_read_in_pages() {
    let world = World::new().await;
    let mut told = Vec::new();
    for n in 0..5 {
        told.push(world.tell_followers(INVOICE, n).await);
    }
    told.reverse();
    let (mut read, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/api/v1/events?topic={INVOICE}&limit=2{cursor}")).await.json();
        read.extend(page["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(read, told);
}

/// EVT-2
#[tokio::test]
async fn one_caller_has_so_many_streams() {
    let world = World::with(&[("BACKROOM__EVENTS__MAX_STREAMS_PER_CALLER", "2")]).await;
    let open =
        [world.follow_topics(&world.key, INVOICE, &[]).await, world.follow_topics(&world.key, INVOICE, &[]).await];
    let refused = world.refused_topics(&world.key, INVOICE).await;
    refused.problem(429, "rate-limited");
    assert!(!refused.header("retry-after").is_empty());
    drop(open);
    world.follow_topics(&world.key, INVOICE, &[]).await.expect("ready").await;
    let metrics = world.send(request(Method::GET, "/metrics", "", &[], None)).await.text;
    assert!(metrics.contains("event_streams "), "{metrics}");
}
