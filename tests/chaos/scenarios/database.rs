//! A database that does not hold still.

use anyhow::Context;

use super::processes::compare;
use crate::{
    Options,
    report::Outcome,
    stage::{Excuses, Stage},
};

const PER_SECOND: usize = 200;
const WORK_MS: u64 = 20;

pub async fn terminate(options: Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let stage = Stage::new(&options).await?;
    let _workers = stage.three_workers().await?;
    let load = stage.offer(PER_SECOND, WORK_MS);
    let pace = stage.in_full_swing().await?;
    for _ in 0..4 {
        let all = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()";
        // Ours is cut as well.
        let _ = sqlx::query(all).execute(&stage.pool).await;
        outcome.recovered(stage.recovery("default").await);
    }
    let pace_after = stage.in_full_swing().await?;
    load.stop().await;
    stage.close_books(&mut outcome, &Excuses::default()).await?;
    compare(&mut outcome, pace, pace_after);
    Ok(outcome)
}

pub async fn restart(options: Options) -> anyhow::Result<Outcome> {
    bounce(&options, "fast").await
}

pub async fn crash(options: Options) -> anyhow::Result<Outcome> {
    bounce(&options, "immediate").await
}

async fn bounce(options: &Options, how: &str) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let Some(stage) = Stage::on_own_server(options).await? else {
        return Ok(Outcome::skipped("there are no PostgreSQL server binaries on this machine"));
    };
    let server = stage.server.as_ref().context("a server of its own")?;
    let _workers = stage.three_workers().await?;
    let load = stage.offer(PER_SECOND, WORK_MS);
    let pace = stage.in_full_swing().await?;
    let mut excuses = Excuses::default();
    for _ in 0..2 {
        if how == "immediate" {
            // What is recorded now must never run again. Of a claim the database may know nothing after a crash.
            let recorded = stage.recorded().await?;
            excuses.recorded.push(recorded);
        }
        server.restart(how).await;
        outcome.recovered(stage.recovery("default").await);
    }
    let pace_after = stage.in_full_swing().await?;
    load.stop().await;
    stage.close_books(&mut outcome, &excuses).await?;
    compare(&mut outcome, pace, pace_after);
    Ok(outcome)
}
