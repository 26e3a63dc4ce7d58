//! What the drivers in Rust share: reading the order, pacing the offer, and telling when handlers began.
//! The protocol is described in `benches/peers/README.md`.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use serde_json::json;
use tokio::{io::AsyncReadExt, task::JoinSet};

/// What a driver is told to do: its one argument, in JSON.
#[derive(Clone, Debug, Deserialize)]
pub struct Order {
    pub url: String,
    #[serde(rename = "do")]
    pub what: What,
    /// The best documented settings instead of the defaults.
    #[serde(default)]
    pub best: bool,
    /// work: how many handlers run at once.
    #[serde(default)]
    pub concurrency: usize,
    /// work: what each handler does, in milliseconds of sleep; 0 is nothing at all.
    #[serde(default)]
    pub sleep_ms: u64,
    /// enqueue: how many jobs; work: say so when this many handlers have begun.
    #[serde(default)]
    pub count: u64,
    /// enqueue: how many jobs in one call; 1 uses the call for single jobs.
    #[serde(default = "one")]
    pub batch: u64,
    /// enqueue: jobs per second, offered whether or not the earlier ones are through; 0 is one call after the other.
    #[serde(default)]
    pub rate: f64,
    /// enqueue: end after this many seconds even if `count` is not reached; 0 is no limit.
    #[serde(default)]
    pub seconds: f64,
    /// enqueue: ahead of everything that waits with the default priority.
    #[serde(default)]
    pub urgent: bool,
    /// enqueue: number of the first job; jobs below 0 are not timed.
    #[serde(default)]
    pub first: i64,
}

fn one() -> u64 {
    1
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Migrate,
    Enqueue,
    Work,
}

/// A queue under measurement.
pub trait Peer: Clone + Send + Sync + Sized + 'static {
    fn connect(order: &Order) -> impl Future<Output = anyhow::Result<Self>>;

    /// Makes the schema.
    fn migrate(&self) -> impl Future<Output = anyhow::Result<()>>;

    /// Enqueues the jobs with these numbers, by the bulk call unless there is one only. Returns when they are committed.
    fn enqueue(&self, numbers: Vec<i64>, urgent: bool) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Works until the process ends.
    fn work(self, order: &Order, jobs: Arc<Jobs>) -> impl Future<Output = anyhow::Result<()>>;
}

/// What the handlers of a worker share.
pub struct Jobs {
    sleep: Duration,
    count: u64,
    begun: AtomicU64,
    starts: Mutex<Vec<(i64, f64)>>,
}

impl Jobs {
    /// The body of every handler.
    pub async fn run(&self, number: i64) {
        if number >= 0 {
            self.starts.lock().expect("no handler panics").push((number, now()));
        }
        if !self.sleep.is_zero() {
            tokio::time::sleep(self.sleep).await;
        }
        if self.begun.fetch_add(1, Ordering::Relaxed) + 1 == self.count {
            say(&json!({ "handled": self.count }));
        }
    }
}

/// Seconds since 1970: the drivers that enqueue and those that work are different processes.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn say(line: &serde_json::Value) {
    println!("{line}");
}

/// Reads the order, obeys it, and prints its results.
pub async fn main<P: Peer>() -> anyhow::Result<()> {
    let order =
        std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("the order is missing: one argument, in JSON"))?;
    let order: Order = serde_json::from_str(&order)?;
    let peer = P::connect(&order).await?;
    match order.what {
        What::Migrate => peer.migrate().await,
        What::Enqueue => enqueue(peer, &order).await,
        What::Work => work(peer, &order).await,
    }
}

async fn work<P: Peer>(peer: P, order: &Order) -> anyhow::Result<()> {
    let jobs = Arc::new(Jobs {
        sleep: Duration::from_millis(order.sleep_ms),
        count: order.count,
        begun: AtomicU64::new(0),
        starts: Mutex::new(Vec::new()),
    });
    say(&json!({ "ready": now() }));
    tokio::select! {
        ended = peer.work(order, jobs.clone()) => {
            ended?;
            anyhow::bail!("the worker ended by itself");
        }
        read = async { tokio::io::stdin().read_to_end(&mut Vec::new()).await } => { read?; }
    }
    let starts = std::mem::take(&mut *jobs.starts.lock().expect("no handler panics"));
    say(&json!({ "begun": jobs.begun.load(Ordering::Relaxed), "starts": starts }));
    // The database is thrown away next: nobody needs an orderly end.
    std::process::exit(0);
}

async fn enqueue<P: Peer>(peer: P, order: &Order) -> anyhow::Result<()> {
    let mut commits: Vec<(i64, f64)> = Vec::new();
    let mut offered = 0;
    let mut calls = JoinSet::new();
    let began = Instant::now();
    while offered < order.count && (order.seconds == 0.0 || began.elapsed().as_secs_f64() < order.seconds) {
        let numbers: Vec<i64> =
            (offered..(offered + order.batch).min(order.count)).map(|n| order.first + n as i64).collect();
        offered += numbers.len() as u64;
        if order.rate == 0.0 {
            peer.enqueue(numbers, order.urgent).await?;
            continue;
        }
        let (peer, urgent) = (peer.clone(), order.urgent);
        calls.spawn(async move {
            let known = numbers.clone();
            peer.enqueue(numbers, urgent).await.map(|()| (known, now()))
        });
        let due = Duration::from_secs_f64(offered as f64 / order.rate);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
    while let Some(call) = calls.join_next().await {
        let (numbers, at) = call??;
        commits.extend(numbers.into_iter().map(|number| (number, at)));
    }
    say(&json!({ "enqueued": offered, "seconds": began.elapsed().as_secs_f64(), "commits": commits }));
    Ok(())
}
