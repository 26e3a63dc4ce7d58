//! Live events from outside: two servers, a client that does not read, a server that stops.

use std::time::Duration;

use backroom::{
    domain::Clock,
    store::events::{self, NewEvent},
    tenant,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpSocket};

use crate::support::{PATIENCE, api::World, eventually};

const TOPIC: &str = "invoice:0199aaaa-0000-7000-8000-000000000000";

/// A stream of events as a client reads it.
struct Client {
    response: reqwest::Response,
    rest: String,
}

impl Client {
    async fn open(world: &World, base: &str, last: Option<&str>) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut request =
            client.get(format!("{base}/api/v1/events/stream?topics={TOPIC}")).bearer_auth(world.api.key());
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        Self { response, rest: String::new() }
    }

    /// The next message: its event, id and data. `None` at the end.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some(at) = self.rest.find("\n\n") {
                let block: String = self.rest.drain(..at + 2).collect();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim();
                if field("data:").is_empty() {
                    continue;
                }
                let data = serde_json::from_str(field("data:")).expect("JSON");
                return Some((field("event:").to_owned(), field("id:").to_owned(), data));
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("something comes");
            self.rest.push_str(std::str::from_utf8(&chunk.expect("a chunk")?).expect("text"));
        }
    }

    async fn expect(&mut self, event: &str) -> (String, Value) {
        let (found, id, data) = self.next().await.expect("a message");
        assert_eq!(found, event, "{data}");
        (id, data)
    }
}

async fn tell(world: &World, payload: Value) -> String {
    let organization = {
        let mut db = world.database.pool.acquire().await.expect("a connection");
        backroom::store::organizations::by_slug(&mut db, "acme").await.expect("read").expect("acme")
    };
    let mut tx = tenant::begin(&world.database.pool, &organization).await.expect("the organization opens");
    let event = NewEvent { topic: TOPIC.to_owned(), kind: "test.happened", payload, actor: "test" };
    let id = events::append(&mut tx, &event, Clock::system().now()).await.expect("appended");
    tx.commit().await.expect("committed");
    id.to_string()
}

/// EVT-2: the client's server stops, in order and at once; another one goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_ends_its_streams_and_another_goes_on() {
    let world = World::new("server").await;
    let (second, other) = world.program.serve("server", world.api.key()).await;
    let mut here = Client::open(&world, &world.api.url(""), None).await;
    let mut there = Client::open(&world, &other.url(""), None).await;
    here.expect("ready").await;
    there.expect("ready").await;
    let first = tell(&world, json!({"n": 1})).await;
    assert_eq!((here.expect("").await.0, there.expect("").await.0), (first.clone(), first.clone()));

    let stopping = tokio::time::Instant::now();
    second.stop().await;
    assert!(
        stopping.elapsed() < Duration::from_secs(20),
        "an open stream held the server for {:?}",
        stopping.elapsed()
    );
    assert_eq!(there.expect("end").await.1, json!({"reason": "shutdown"}));
    assert!(there.next().await.is_none(), "the end is the end");

    let missed = tell(&world, json!({"n": 2})).await;
    let mut again = Client::open(&world, &world.api.url(""), Some(&first)).await;
    assert_eq!(again.expect("").await.0, missed);
    again.expect("ready").await;
    assert_eq!(here.expect("").await.0, missed);
    world.close().await;
}

/// EVT-2: a client that opens a stream and never reads is let go, and nobody waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_dropped_and_not_waited_for() {
    let world = World::with("server", |program| program.with("BACKROOM__EVENTS__BUFFER", 2)).await;
    let address = world.api.url("").trim_start_matches("http://").parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stuck = socket.connect(address).await.expect("connected");
    let request = format!(
        "GET /api/v1/events/stream?topics={TOPIC} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        world.api.key()
    );
    stuck.write_all(request.as_bytes()).await.expect("sent");
    let mut quick = Client::open(&world, &world.api.url(""), None).await;
    quick.expect("ready").await;
    eventually("both follow", async || metric(&world, "event_streams ").await.filter(|open| *open == 2.0)).await;

    // Each fills some of the sockets' buffers; that of the client that does not read is full in the end.
    let large = "x".repeat(200_000);
    let mut dropped = None;
    for n in 0..400 {
        let told = tell(&world, json!({"n": n, "text": large})).await;
        assert_eq!(quick.expect("").await.0, told, "who reads gets every one");
        dropped = metric(&world, "event_streams_ended_total{reason=\"slow\"} ").await;
        if dropped.is_some() {
            break;
        }
    }
    assert_eq!(dropped, Some(1.0), "80 MB were sent to somebody who does not read");
    drop(stuck);
    world.close().await;
}

/// The value of a metric, if it is there.
async fn metric(world: &World, name: &str) -> Option<f64> {
    let metrics = world.api.get("/metrics").await.text;
    metrics.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().parse().expect("a number"))
}
