//! Handlers that use up their worker's connections.

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

const CONNECTIONS: usize = 4;
/// Longer than the lease, and than a claim would like to wait.
const HOLD_MS: u64 = 8_000;

pub async fn run(options: Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let stage = Stage::new(&options).await?;
    let _small = stage
        .worker_with(&[("default", 10), ("reports", 2 * CONNECTIONS)], |program| {
            program.with("BACKROOM__DATABASE__MAX_CONNECTIONS", CONNECTIONS)
        })
        .await?;
    let default = [("default", 10)];
    let _others = tokio::try_join!(stage.worker(&default), stage.worker(&default))?;
    let load = stage.offer(200, 20);
    let pace = stage.in_full_swing().await?;

    // Twice as many as there are connections: those that wait for one hold it right after the first.
    let holds: Vec<_> =
        (0..2 * CONNECTIONS).map(|_| job("debug.hold", "reports", json!({ "ms": HOLD_MS / 2 }))).collect();
    enqueue_many(&stage.pool, &holds).await?;
    let in_transaction = "select count(*) from pg_stat_activity
        where datname = current_database() and state = 'idle in transaction' and query = 'select 1'";
    let held = async || sqlx::query_scalar::<_, i64>(in_transaction).fetch_one(&stage.pool).await.unwrap_or(-1);
    // One of them listens for wake-ups.
    let used_up = async || held().await >= CONNECTIONS as i64 - 1;
    ensure!(eventually(Duration::from_secs(10), used_up).await, "no pool is used up");
    ensure!(eventually(Duration::from_secs(30), async || held().await == 0).await, "the handlers do not let go");
    outcome.recovered(stage.recovery("reports").await);

    let pace_after = stage.in_full_swing().await?;
    load.stop().await;
    stage.close_books(&mut outcome, &Excuses::default()).await?;
    compare(&mut outcome, pace, pace_after);
    // A worker must keep the leases of handlers that live, whatever they do to its pool.
    let again: i64 = sqlx::query_scalar(
        "select (select count(*) from queue.finished_jobs where kind = 'debug.hold' and attempt > 1)
              + (select count(*) from queue.jobs where kind = 'debug.hold' and attempt > 1)",
    )
    .fetch_one(&stage.pool)
    .await?;
    outcome.figure("leases_lost_by_the_holding_handlers", again);
    outcome.demand(again == 0, || format!("{again} living handlers lost their leases"));
    Ok(outcome)
}
