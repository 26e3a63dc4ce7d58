//! The API as its clients meet it: over sockets, in a process of its own. The client is a few lines on a socket, because it shares the
//! machine's cores with the server.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

use super::{Database, processes::memory_mb, report};
use crate::{
    config::Config,
    domain::{Clock, EmailAddress, Language, NewUser, Organization, Password, Passwords, Role, Scope, Slug},
    store::{
        api_keys,
        events::{self, NewEvent},
        users,
    },
    tenant::{self, NewOrganization},
    vault,
};

const SLUG: &str = "bench-api";
const CONNECTIONS: usize = 64;
const ENQUEUE_FOR: Duration = Duration::from_secs(10);
const PEOPLE: usize = 16;
const SIGN_INS: usize = 64;
const STREAMS: usize = 1_000;
/// Events that each stream is given before the memory is read.
const EVENTS: usize = 50;
const PASSWORD: &str = "correct horse battery staple";
const TOPIC: &str = "invoice:0199aaaa-0000-7000-8000-000000000000";

/// `backroom server` as a process of its own, and who may call it.
struct Server {
    process: Child,
    address: SocketAddr,
    key: String,
    organization: Organization,
}

impl Server {
    async fn start(database: &Database) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let slug = Slug::parse(SLUG).map_err(|e| anyhow::anyhow!("{e}"))?;
        let organization =
            match crate::store::organizations::by_slug(&mut *database.pool.acquire().await?, SLUG).await? {
                Some(organization) => organization,
                None => tenant::create(&database.pool, &clock, NewOrganization::named(slug, "API")).await?,
            };
        let scopes: Vec<String> = Scope::ALL.iter().map(|scope| scope.as_str().to_owned()).collect();
        let mut db = database.pool.acquire().await?;
        let (_, key) = api_keys::create(&mut db, &organization, "bench", &scopes, clock.now()).await?;
        drop(db);
        // A port that was free a moment ago.
        let address = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let process = Command::new(std::env::current_exe()?)
            .arg("server")
            .env("DATABASE_URL", &database.url)
            .env("BACKROOM__HTTP__LISTEN", address.to_string())
            .env("BACKROOM__HTTP__RATE_LIMIT_PER_MINUTE", "100000000")
            .env("BACKROOM__SIGN_IN__TRIES_PER_MINUTE", "100000")
            .env("BACKROOM__EVENTS__MAX_STREAMS_PER_CALLER", "100000")
            .env("BACKROOM__EVENTS__MAX_STREAMS_PER_ORGANIZATION", "100000")
            .env("BACKROOM__VAULT__KEYS", vault::generate_key())
            .env("BACKROOM__VAULT__INDEX_KEY", vault::generate_index_key())
            .env("BACKROOM__MAIL__MAILBOX_LISTEN", "")
            .env("BACKROOM__JOBS__DEBUG_KINDS", "true")
            .env("BACKROOM__LOG__FILTER", "error")
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("could not start a server process")?;
        let key = key.expose_secret().to_owned();
        let server = Self { process, address, key, organization };
        let began = Instant::now();
        while !server.is_ready().await {
            ensure!(began.elapsed() < Duration::from_secs(60), "the server is not ready within a minute");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(server)
    }

    async fn is_ready(&self) -> bool {
        let ask = async {
            let mut connection = Connection::open(self.address).await?;
            connection.call("GET", "/health/ready", "", None).await
        };
        matches!(ask.await, Ok((200, _)))
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.process.kill().await?;
        Ok(())
    }
}

/// One connection of HTTP/1.1, which is kept.
struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::with_capacity(4096) })
    }

    /// One request and its whole answer: status and body.
    async fn call(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: Option<&str>,
    ) -> anyhow::Result<(u16, String)> {
        self.send(method, path, token, body).await?;
        let head = self.read_head().await?;
        let length = head
            .lines()
            .find_map(|line| line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")))
            .map_or(Ok(0), |(_, length)| length.trim().parse::<usize>())?;
        while self.read.len() < length {
            self.read_more().await?;
        }
        let body = self.read.drain(..length).collect();
        Ok((status(&head)?, String::from_utf8(body)?))
    }

    async fn send(&mut self, method: &str, path: &str, token: &str, body: Option<&str>) -> anyhow::Result<()> {
        let body = body.unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n", body.len());
        if !token.is_empty() {
            request.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if !body.is_empty() {
            request.push_str("Content-Type: application/json\r\n");
        }
        request.push_str("\r\n");
        request.push_str(body);
        Ok(self.stream.write_all(request.as_bytes()).await?)
    }

    async fn read_head(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.read.drain(..end + 4).collect();
                return Ok(String::from_utf8(head)?);
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> anyhow::Result<()> {
        ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the server closed the connection");
        Ok(())
    }
}

fn status(head: &str) -> anyhow::Result<u16> {
    head.split(' ').nth(1).context("no status")?.parse().context("a status that is no number")
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// What a sign-in costs: Argon2id by itself, a sign-in as one person waits for it, and how many there are in a second.
pub(super) async fn sign_in(database: &Database) -> anyhow::Result<()> {
    let server = Server::start(database).await?;
    let config = Config::from_vars(&BTreeMap::new())?.sign_in;
    let passwords = Passwords::new(config.argon2_memory_kib, config.argon2_passes)?;
    let password = || Password::parse(PASSWORD).map_err(|e| anyhow::anyhow!("{e}"));
    let mut costs = Vec::new();
    let mut hash = passwords.hash(&password()?)?;
    for _ in 0..20 {
        let began = Instant::now();
        hash = passwords.hash(&password()?)?;
        costs.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    costs.sort_by(f64::total_cmp);
    let cost = format!("Argon2id, {} KiB, {} passes, 1 lane", config.argon2_memory_kib, config.argon2_passes);
    report("api.argon2id", percentile(&costs, 50), "ms", format!("one hash on one core: {cost}"));

    let now = Clock::system().now();
    for n in 0..PEOPLE {
        let new = NewUser {
            email: EmailAddress::parse(&format!("person{n}@example.com")).map_err(|e| anyhow::anyhow!("{e}"))?,
            name: format!("Person {n}"),
            language: Language::Sv,
            password: Some(hash.clone()),
            confirmed_at: Some(now),
        };
        let mut tx = database.pool.begin().await?;
        let user = users::create(&mut tx, &new, now).await?;
        let tx = tenant::join(tx, &server.organization, user.id, (Role::User, None), ("bench", now)).await?;
        tx.commit().await?;
    }
    let body = |n: usize| {
        json!({ "email": format!("person{}@example.com", n % PEOPLE), "password": PASSWORD, "organization": SLUG })
            .to_string()
    };
    let mut waits = Vec::new();
    let mut connection = Connection::open(server.address).await?;
    for n in 0..SIGN_INS {
        let began = Instant::now();
        let (status, answer) = connection.call("POST", "/api/v1/sign-in", "", Some(&body(n))).await?;
        ensure!(status == 200, "a sign-in was answered with {status}: {answer}");
        waits.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    waits.sort_by(f64::total_cmp);
    report(
        "api.sign_in_p50",
        percentile(&waits, 50),
        "ms",
        format!("{SIGN_INS} sign-ins, one after the other; {cost}"),
    );

    let (began, address) = (Instant::now(), server.address);
    let side_by_side = (0..PEOPLE).map(|person| async move {
        let mut connection = Connection::open(address).await?;
        for _ in 0..SIGN_INS / 8 {
            let (status, answer) = connection.call("POST", "/api/v1/sign-in", "", Some(&body(person))).await?;
            ensure!(status == 200, "a sign-in was answered with {status}: {answer}");
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(side_by_side).await?;
    let rate = (PEOPLE * (SIGN_INS / 8)) as f64 / began.elapsed().as_secs_f64();
    report("api.sign_in", rate, "sign-ins/s", format!("{PEOPLE} people at once; {cost}"));
    server.stop().await
}

/// Enqueue over HTTP with a key, a durable commit per job.
pub(super) async fn enqueue(database: &Database) -> anyhow::Result<()> {
    sqlx::query("truncate queue.jobs").execute(&database.pool).await?;
    let server = Server::start(database).await?;
    // Warm: connections, prepared statements, the key in memory.
    hammer(&server, Duration::from_secs(2)).await?;
    let began = Instant::now();
    let mut waits = hammer(&server, ENQUEUE_FOR).await?;
    let took = began.elapsed().as_secs_f64();
    waits.sort_by(f64::total_cmp);
    let note =
        format!("POST /api/v1/jobs with a key, {CONNECTIONS} connections, client and PostgreSQL on the same cores");
    report("api.enqueue", waits.len() as f64 / took, "requests/s", note.as_str());
    report("api.enqueue_p50", percentile(&waits, 50), "ms", note.as_str());
    report("api.enqueue_p99", percentile(&waits, 99), "ms", note);
    server.stop().await?;
    sqlx::query("truncate queue.jobs").execute(&database.pool).await?;
    Ok(())
}

/// How long each request took, in milliseconds.
async fn hammer(server: &Server, period: Duration) -> anyhow::Result<Vec<f64>> {
    let end = Instant::now() + period;
    let work = (0..CONNECTIONS).map(|_| {
        let (address, key) = (server.address, server.key.clone());
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut waits = Vec::new();
            while Instant::now() < end {
                let began = Instant::now();
                let (status, answer) =
                    connection.call("POST", "/api/v1/jobs", &key, Some(r#"{"kind":"debug.noop"}"#)).await?;
                ensure!(status == 202, "an enqueue was answered with {status}: {answer}");
                waits.push(began.elapsed().as_secs_f64() * 1000.0);
            }
            Ok(waits)
        })
    });
    let mut all = Vec::new();
    for waits in futures::future::try_join_all(work).await? {
        all.extend(waits?);
    }
    Ok(all)
}

/// A thousand open streams: the server's memory, and how long an event takes to the last of them.
pub(super) async fn event_streams(database: &Database) -> anyhow::Result<()> {
    let mut server = Server::start(database).await?;
    let idle = memory_mb(&mut server.process, "VmRSS")?;
    let mut streams = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        let mut stream = Connection::open(server.address).await?;
        stream.send("GET", &format!("/api/v1/events/stream?topics={TOPIC}"), &server.key, None).await?;
        let head = stream.read_head().await?;
        ensure!(status(&head)? == 200, "a stream was answered with {head}");
        streams.push(stream);
    }
    let mut delays = Vec::with_capacity(EVENTS);
    for n in 0..EVENTS {
        let told = tell(database, &server.organization, n).await?;
        let committed = Instant::now();
        for stream in &mut streams {
            wait_for(stream, &told).await?;
        }
        delays.push(committed.elapsed().as_secs_f64() * 1000.0);
    }
    delays.sort_by(f64::total_cmp);
    let peak = memory_mb(&mut server.process, "VmHWM")?;
    let note = format!(
        "peak resident memory of a server with {STREAMS} streams after {EVENTS} events to each; {idle:.0} MB without"
    );
    report("api.event_streams_rss", peak, "MB", note);
    let note = format!("commit until the last of {STREAMS} streams has the event, median of {EVENTS}");
    report("api.event_delay_p50", percentile(&delays, 50), "ms", note);
    let listeners: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen%'",
    )
    .fetch_one(&database.pool)
    .await?;
    ensure!(listeners == 1, "{listeners} connections listen for {STREAMS} streams");
    server.stop().await
}

async fn tell(database: &Database, organization: &Organization, n: usize) -> anyhow::Result<String> {
    let mut tx = tenant::begin(&database.pool, organization).await?;
    let payload: Value = json!({ "n": n, "text": "x".repeat(200) });
    let event = NewEvent { topic: TOPIC.to_owned(), kind: "bench.happened", payload, actor: "bench" };
    let id = events::append(&mut tx, &event, Clock::system().now()).await?;
    tx.commit().await?;
    Ok(id.to_string())
}

/// Reads on until the event with this id has come.
async fn wait_for(stream: &mut Connection, id: &str) -> anyhow::Result<()> {
    let wanted = format!("id: {id}\n");
    loop {
        if let Some(at) = stream.read.windows(wanted.len()).position(|window| window == wanted.as_bytes()) {
            stream.read.drain(..at + wanted.len());
            return Ok(());
        }
        stream.read_more().await?;
    }
}
