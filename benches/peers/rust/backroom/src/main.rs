//! Backroom's queue as its users have it: the crate's own `enqueue` and `Worker`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use backroom_queue::{Ctx, Job, JobResult, NewJob, Registry, Verdict, Worker, WorkerConfig, enqueue, enqueue_many};
use peer_driver::{Jobs, Order, Peer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::sync::CancellationToken;

/// The job of every measurement. Without a number it is what the product knows as `debug.noop`, so that its own worker
/// processes can run it.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Task {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<i64>,
}

impl Job for Task {
    type App = Arc<Jobs>;
    const KIND: &'static str = "debug.noop";

    async fn run(self, ctx: Ctx<Arc<Jobs>>) -> JobResult {
        ctx.app.run(self.n.unwrap_or(-1)).await;
        Ok(Verdict::DONE)
    }
}

#[derive(Clone)]
struct Backroom(PgPool);

impl Peer for Backroom {
    async fn connect(order: &Order) -> anyhow::Result<Self> {
        // As many connections as a process of the product has.
        let pool = PgPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(60));
        Ok(Self(pool.connect(&order.url).await?))
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        backroom_queue::migrator().run(&self.0).await?;
        Ok(())
    }

    async fn enqueue(&self, numbers: Vec<i64>, urgent: bool) -> anyhow::Result<()> {
        let jobs: Vec<NewJob> = numbers
            .into_iter()
            .map(|n| {
                let mut job = NewJob::of(&Task { n: (n >= 0).then_some(n) }).tenant("bench");
                job.priority = if urgent { 10 } else { 0 };
                job
            })
            .collect();
        if let [job] = jobs.as_slice() {
            enqueue(&self.0, job).await?;
        } else {
            enqueue_many(&self.0, &jobs).await?;
        }
        Ok(())
    }

    async fn work(self, order: &Order, jobs: Arc<Jobs>) -> anyhow::Result<()> {
        let config = WorkerConfig {
            queues: BTreeMap::from([("default".to_owned(), order.concurrency)]),
            ..WorkerConfig::default()
        };
        let registry = Arc::new(Registry::default().with::<Task>());
        Worker::new(self.0, registry, Arc::new(jobs), config).run(CancellationToken::new()).await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    peer_driver::main::<Backroom>().await
}
