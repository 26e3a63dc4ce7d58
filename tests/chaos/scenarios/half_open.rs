//! Connections that neither work nor break: a proxy of ours stops forwarding and closes nothing. Only time limits help.

use std::time::Duration;

use anyhow::ensure;

use super::processes::compare;
use crate::{
    Options,
    report::Outcome,
    stage::{Excuses, LEASE, Stage},
    support::link::{Link, Way},
};

const PER_SECOND: usize = 200;
const WORK_MS: u64 = 60;

pub async fn silent(options: Options) -> anyhow::Result<Outcome> {
    run(&options, Way::Silent).await
}

pub async fn deaf(options: Options) -> anyhow::Result<Outcome> {
    run(&options, Way::Deaf).await
}

async fn run(options: &Options, way: Way) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let stage = Stage::new(options).await?;
    let link = Link::to(&stage.url).await;
    // The queue `reports` has this worker only, so that its recovery shows.
    let remote = stage
        .worker_with(&[("default", 10), ("reports", 2)], |program| program.with("DATABASE_URL", &link.url))
        .await?;
    let default = [("default", 10)];
    let _others = tokio::try_join!(stage.worker(&default), stage.worker(&default))?;
    let load = stage.offer(PER_SECOND, WORK_MS);
    let pace = stage.in_full_swing().await?;

    link.become_(way);
    // The others must do its work meanwhile, as if it were dead.
    let taken_over = stage.recovery("default").await;
    tokio::time::sleep((LEASE + Duration::from_secs(3)).saturating_sub(taken_over)).await;
    link.mend();
    outcome.figure("taken_over_s", taken_over.as_secs_f64().round());
    outcome.recovered(taken_over.max(stage.recovery("reports").await));

    let pace_after = stage.in_full_swing().await?;
    load.stop().await;
    stage.close_books(&mut outcome, &Excuses::of_worker(&remote)).await?;
    compare(&mut outcome, pace, pace_after);
    Ok(outcome)
}

/// The one who makes the next days' partitions locks the history, to which every outcome goes.
pub async fn with_locks(options: Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let stage = Stage::new(&options).await?;
    let link = Link::to(&stage.url).await;
    link.fall_silent_after("queue.make_history_partition(");
    let default = [("default", 10)];
    let remote = stage.worker_with(&default, |program| program.with("DATABASE_URL", &link.url)).await?;
    ensure!(tokio::time::timeout(Duration::from_secs(20), link.until_silent()).await.is_ok(), "no partition is made");
    // It stays silent: what the others need must come loose by itself.
    let _others = tokio::try_join!(stage.worker(&default), stage.worker(&default))?;
    let load = stage.offer(PER_SECOND, WORK_MS);
    outcome.recovered(stage.recovery("default").await);
    let pace = stage.in_full_swing().await?;
    load.stop().await;
    stage.close_books(&mut outcome, &Excuses::of_worker(&remote)).await?;
    compare(&mut outcome, PER_SECOND as f64, pace);
    Ok(outcome)
}
