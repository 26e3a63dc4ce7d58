//! Handlers that block the threads on which everything of a worker runs.

use std::time::Duration;

use anyhow::ensure;
use backroom_queue::enqueue_many;
use serde_json::json;

use super::processes::compare;
use crate::{
    Options,
    report::Outcome,
    stage::{Excuses, Stage, eventually, job},
};

const THREADS: usize = 4;
/// Longer than the lease.
const BLOCK_MS: u64 = 8_000;

pub async fn some(options: Options) -> anyhow::Result<Outcome> {
    run(&options, THREADS - 1).await
}

pub async fn all(options: Options) -> anyhow::Result<Outcome> {
    run(&options, THREADS).await
}

async fn run(options: &Options, blocked: usize) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let stage = Stage::new(options).await?;
    let worker = stage
        .worker_with(&[("default", 10), ("reports", THREADS)], |program| program.with("TOKIO_WORKER_THREADS", THREADS))
        .await?;
    let default = [("default", 10)];
    let _others = tokio::try_join!(stage.worker(&default), stage.worker(&default))?;
    let load = stage.offer(200, 20);
    let pace = stage.in_full_swing().await?;

    let blocks: Vec<_> = (0..blocked).map(|_| job("debug.block", "reports", json!({ "ms": BLOCK_MS }))).collect();
    enqueue_many(&stage.pool, &blocks).await?;
    let state = "select count(*) from queue.jobs where kind = 'debug.block' and state = 'running'";
    let running = async || sqlx::query_scalar::<_, i64>(state).fetch_one(&stage.pool).await.unwrap_or(-1);
    ensure!(eventually(Duration::from_secs(10), async || running().await == blocked as i64).await, "nothing blocks");
    let taken_over = stage.recovery("default").await;
    let ended = async || running().await == 0;
    ensure!(eventually(Duration::from_secs(30), ended).await, "the blocking handlers do not end");
    outcome.figure("others_took_over_s", (taken_over.as_secs_f64() * 10.0).round() / 10.0);
    outcome.recovered(taken_over.max(stage.recovery("reports").await));

    let pace_after = stage.in_full_swing().await?;
    load.stop().await;
    stage.close_books(&mut outcome, &Excuses::of_worker(&worker)).await?;
    compare(&mut outcome, pace, pace_after);
    let again: i64 = sqlx::query_scalar(
        "select (select count(*) from queue.finished_jobs where kind = 'debug.block' and attempt > 1)
              + (select count(*) from queue.jobs where kind = 'debug.block' and attempt > 1)",
    )
    .fetch_one(&stage.pool)
    .await?;
    outcome.figure("leases_lost_by_the_blocking_handlers", again);
    outcome.demand(again == 0, || format!("{again} living handlers lost their leases"));
    Ok(outcome)
}
