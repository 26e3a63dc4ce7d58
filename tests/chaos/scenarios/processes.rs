//! Workers that die and workers that sleep.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    Options,
    report::Outcome,
    stage::{Excuses, LEASE, Stage},
};

const PER_SECOND: usize = 200;
/// Long enough that each worker has jobs in its hands at any time.
const WORK_MS: u64 = 60;

pub async fn kill(options: Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let stage = Stage::new(&options).await?;
    let mut workers = stage.three_workers().await?;
    let load = stage.offer(PER_SECOND, WORK_MS);
    let pace = stage.in_full_swing().await?;
    let seed = rand::random();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut excuses = Excuses::default();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        let victim = workers.remove(random.random_range(0..workers.len()));
        excuses.workers.insert(victim.name);
        victim.process.kill().await;
        outcome.recovered(stage.recovery("default").await);
        // Whoever watches over the processes starts it again.
        workers.push(stage.worker(&[("default", 10)]).await?);
    }
    let pace_after = stage.in_full_swing().await?;
    load.stop().await;
    stage.close_books(&mut outcome, &excuses).await?;
    compare(&mut outcome, pace, pace_after);
    outcome.figure("seed", seed);
    Ok(outcome)
}

pub async fn stop(options: Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let stage = Stage::new(&options).await?;
    let workers = stage.three_workers().await?;
    let load = stage.offer(PER_SECOND, WORK_MS);
    let pace = stage.in_full_swing().await?;

    let stopped = &workers[0];
    stopped.process.signal("STOP").await;
    // The others must do its work meanwhile, as if it were dead.
    let taken_over = stage.recovery("default").await;
    tokio::time::sleep((LEASE + Duration::from_secs(3)).saturating_sub(taken_over)).await;
    stopped.process.signal("CONT").await;
    outcome.recovered(taken_over.max(stage.recovery("default").await));

    let pace_after = stage.in_full_swing().await?;
    load.stop().await;
    stage.close_books(&mut outcome, &Excuses::of_worker(stopped)).await?;
    compare(&mut outcome, pace, pace_after);
    // There are none if it was stopped between two jobs: what it had only claimed does not begin under a lease that is over.
    outcome.figure("stale_outcomes_refused", stopped.counter("queue_outcomes_refused_total").await);
    Ok(outcome)
}

/// The work must flow again as it did.
pub fn compare(outcome: &mut Outcome, before: f64, after: f64) {
    outcome.figure("jobs_per_s_before", before.round());
    outcome.figure("jobs_per_s_after", after.round());
    outcome.demand(after >= 0.9 * before, || format!("the pace fell from {before:.0} to {after:.0} jobs a second"));
}
