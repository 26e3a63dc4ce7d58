//! apalis with its stock PostgreSQL storage, 1.0.
//!
//! Defaults: `PostgresStorage::new` as it is: batches of ten, tasks locked; an idle worker looks again with the next
//! heartbeat, 30 s later. Best: the settings of its `basic` example (pubsub, no task locks, handlers spawned) with batches of
//! 500, and polling every 100 ms below the notifications, of which it can miss some.

use std::{sync::Arc, time::Duration};

use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage};
use peer_driver::{Jobs, Order, Peer};
use sqlx::{PgPool, postgres::PgPoolOptions};

#[derive(Clone)]
struct Apalis {
    pool: PgPool,
    best: bool,
}

impl Apalis {
    fn storage(&self) -> PostgresStorage<i64> {
        let config = Config::default().queue("default");
        let config = if self.best { config.batch_size(500).lock_tasks(false) } else { config };
        PostgresStorage::new(&self.pool).with_config(config)
    }
}

async fn handle(number: i64, jobs: Data<Arc<Jobs>>) -> Result<(), BoxDynError> {
    jobs.run(number).await;
    Ok(())
}

impl Peer for Apalis {
    async fn connect(order: &Order) -> anyhow::Result<Self> {
        let pool = PgPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(60));
        Ok(Self { pool: pool.connect(&order.url).await?, best: order.best })
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        PostgresStorage::setup(&self.pool).await?;
        Ok(())
    }

    async fn enqueue(&self, numbers: Vec<i64>, urgent: bool) -> anyhow::Result<()> {
        let mut storage = self.storage();
        let task = |number| TaskBuilder::new(number).priority(if urgent { 10 } else { 0 }).build();
        if let [number] = numbers[..] {
            storage.push_task(task(number)).await?;
        } else {
            storage.push_all(futures::stream::iter(numbers.into_iter().map(task))).await?;
        }
        Ok(())
    }

    async fn work(self, order: &Order, jobs: Arc<Jobs>) -> anyhow::Result<()> {
        let name = format!("worker-{}", std::process::id());
        let worker = WorkerBuilder::new(name.as_str());
        if self.best {
            let worker = worker
                .backend(self.storage().with_pubsub().poll_with_interval(Duration::from_millis(100)))
                .data(jobs)
                .concurrency(order.concurrency)
                .parallelize(tokio::spawn)
                .build(handle);
            worker.run().await?;
        } else {
            let worker = worker.backend(self.storage()).data(jobs).concurrency(order.concurrency).build(handle);
            worker.run().await?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    peer_driver::main::<Apalis>().await
}
