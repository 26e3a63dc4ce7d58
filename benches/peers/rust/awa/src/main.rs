//! awa on its queue storage, the default engine of 0.6.
//!
//! Best: as its own benchmark adapter runs it (`awa-bench` in hardbyte/postgresql-job-queue-benchmarking): fallback poll of
//! 50 ms, statistics and snapshots every five minutes, no deadline per attempt (its "zero-deadline hot path"), COPY for
//! bulk, and a pool with room for everything.

use std::{sync::Arc, time::Duration};

use awa::{
    Client, InsertOpts, InsertParams, JobArgs, JobResult, QueueConfig,
    model::{QueueStorage, QueueStorageConfig, insert::params_with, insert_many, migrations},
};
use peer_driver::{Jobs, Order, Peer};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};

#[derive(Debug, Serialize, Deserialize, JobArgs)]
struct Task {
    n: i64,
}

#[derive(Clone)]
struct Awa {
    pool: PgPool,
    best: bool,
}

impl Peer for Awa {
    async fn connect(order: &Order) -> anyhow::Result<Self> {
        let connections = if order.best { 48 } else { 20 };
        let pool = PgPoolOptions::new().max_connections(connections).acquire_timeout(Duration::from_secs(60));
        Ok(Self { pool: pool.connect(&order.url).await?, best: order.best })
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        migrations::run(&self.pool).await?;
        // A fresh schema routes inserts to the engine of 0.5 until this one is activated.
        QueueStorage::new(QueueStorageConfig::default())?.install(&self.pool).await?;
        Ok(())
    }

    async fn enqueue(&self, numbers: Vec<i64>, urgent: bool) -> anyhow::Result<()> {
        // 1 is the most urgent of four priorities, 2 the default.
        let opts = InsertOpts { priority: if urgent { 1 } else { 2 }, ..InsertOpts::default() };
        if let [n] = numbers[..] {
            awa::insert_with(&self.pool, &Task { n }, opts).await?;
            return Ok(());
        }
        let jobs: Vec<InsertParams> =
            numbers.into_iter().map(|n| params_with(&Task { n }, opts.clone())).collect::<Result<_, _>>()?;
        if self.best {
            QueueStorage::new(QueueStorageConfig::default())?.enqueue_params_copy(&self.pool, &jobs).await?;
        } else {
            // One statement takes at most 65,535 parameters, twelve a job.
            for jobs in jobs.chunks(5_000) {
                insert_many(&self.pool, jobs).await?;
            }
        }
        Ok(())
    }

    async fn work(self, order: &Order, jobs: Arc<Jobs>) -> anyhow::Result<()> {
        let mut queue = QueueConfig { max_workers: u32::try_from(order.concurrency)?, ..QueueConfig::default() };
        let mut builder = Client::builder(self.pool.clone());
        if self.best {
            queue.poll_interval = Duration::from_millis(50);
            queue.deadline_duration = Duration::ZERO;
            builder = builder
                .queue_stats_interval(Duration::from_secs(300))
                .runtime_snapshot_interval(Duration::from_secs(300));
        }
        let client = builder
            .queue("default", queue)
            .register::<Task, _, _>(move |task, _| {
                let jobs = jobs.clone();
                async move {
                    jobs.run(task.n).await;
                    Ok(JobResult::Completed)
                }
            })
            .build()?;
        client.start().await?;
        std::future::pending().await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    peer_driver::main::<Awa>().await
}
