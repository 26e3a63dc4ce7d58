//! A reader that does not let the past go: vacuum can remove nothing that it might still see.

use std::time::{Duration, Instant};

use sqlx::Connection;

use crate::{
    Options,
    report::Outcome,
    stage::{Excuses, Stage},
};

const PER_SECOND: usize = 500;

pub async fn run(options: Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let stage = Stage::new(&options).await?;
    let _workers = stage.three_workers().await?;
    let load = stage.offer(PER_SECOND, 0);
    stage.in_full_swing().await?;

    let mut reader = sqlx::PgConnection::connect(&stage.url).await?;
    let mut held = reader.begin_with("begin isolation level repeatable read").await?;
    sqlx::query("select count(*) from queue.jobs").execute(&mut *held).await?;
    let (began, offered, done) = (Instant::now(), stage.offered(), stage.effects());
    let (mut dead, mut slowest) = (0, Duration::ZERO);
    while began.elapsed() < Duration::from_secs(options.hold_s) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        dead = dead.max(dead_tuples(&stage).await?);
        // As a claim would: the head of the line.
        let asked = Instant::now();
        sqlx::query("select id from queue.jobs where queue = 'default' and state = 'available' order by id limit 1")
            .fetch_optional(&stage.pool)
            .await?;
        slowest = slowest.max(asked.elapsed());
    }
    let (offered, done) = (stage.offered() - offered, stage.effects() - done);
    held.rollback().await?;
    outcome.recovered(stage.recovery("default").await);

    load.stop().await;
    stage.close_books(&mut outcome, &Excuses::default()).await?;
    let share = done as f64 / offered as f64;
    outcome.figure("held_s", options.hold_s);
    outcome.figure("offered_per_s", (offered as f64 / options.hold_s as f64).round());
    outcome.figure("completed_of_offered", (share * 1000.0).round() / 1000.0);
    outcome.figure("dead_tuples", dead);
    outcome.demand(share >= 0.95, || format!("{done} of {offered} jobs were completed meanwhile"));
    outcome.demand(dead <= options.dead_tuples, || {
        format!("{dead} dead tuples in queue.jobs, more than {}", options.dead_tuples)
    });
    Ok(outcome)
}

/// In `queue.jobs`, as PostgreSQL counts them.
async fn dead_tuples(stage: &Stage) -> anyhow::Result<i64> {
    let dead = "select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_user_tables
                where schemaname = 'queue' and relname like 'jobs%'";
    Ok(sqlx::query_scalar(dead).fetch_one(&stage.pool).await?)
}
