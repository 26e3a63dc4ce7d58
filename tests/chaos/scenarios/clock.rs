//! Clocks that jump, by libfaketime: the file that it reads says by how much, and is rewritten while the process runs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use backroom::domain::Clock;
use backroom_queue::enqueue_many;
use serde_json::json;

use super::processes::compare;
use crate::{
    Options,
    report::Outcome,
    stage::{Excuses, LEASE, Stage, job},
    support::Program,
};

/// The library of Debian's package `libfaketime` for programs with threads.
fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

/// A wall clock that the file moves; time that only passes (of time-outs and pauses) stays as it is.
fn with_clock(program: Program, library: &Path, clock: &Path) -> Program {
    program
        .with("LD_PRELOAD", library.display())
        .with("FAKETIME_TIMESTAMP_FILE", clock.display())
        .with("FAKETIME_NO_CACHE", "1")
        .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

fn missing() -> Outcome {
    Outcome::skipped("libfaketime is not installed (the package libfaketime)")
}

pub async fn worker(options: Options) -> anyhow::Result<Outcome> {
    let Some(library) = library() else { return Ok(missing()) };
    let mut outcome = Outcome::default();
    let stage = Stage::new(&options).await?;
    let clock = stage.folder().join("clock");
    fs::write(&clock, "+0")?;
    let odd =
        stage.worker_with(&[("default", 10), ("reports", 4)], |program| with_clock(program, &library, &clock)).await?;
    let default = [("default", 10)];
    let _others = tokio::try_join!(stage.worker(&default), stage.worker(&default))?;
    let load = stage.offer(200, 20);
    let pace = stage.in_full_swing().await?;
    for offset in ["+3600", "-3600"] {
        fs::write(&clock, offset)?;
        // A job longer than the lease, one that fails first, and one in two seconds, all at the odd worker.
        let mut later = job("debug.noop", "reports", json!({}));
        later.run_at = Some(Clock::system().now() + chrono::TimeDelta::seconds(2));
        let long = job("debug.sleep", "reports", json!({ "ms": LEASE.as_millis() as u64 + 2_000 }));
        let fails = job("debug.fail", "reports", json!({ "times": 3 }));
        enqueue_many(&stage.pool, &[later, long, fails]).await?;
        tokio::time::sleep(LEASE + Duration::from_secs(3)).await;
        outcome.recovered(stage.recovery("reports").await);
    }
    let pace_after = stage.in_full_swing().await?;
    load.stop().await;
    stage.close_books(&mut outcome, &Excuses::default()).await?;
    compare(&mut outcome, pace, pace_after);

    let count = async |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).fetch_one(&stage.pool).await;
    let ended = count(
        "select count(*) from queue.finished_jobs where queue = 'reports' and kind <> 'debug.append' and state = 'completed'",
    );
    let ended = ended.await?;
    outcome.demand(ended == 6, || format!("{ended} of 6 jobs at the odd worker ended in time"));
    let rescued = count(
        "select count(*) from queue.finished_jobs where kind <> 'debug.fail' and (attempt > 1 or trail is not null)",
    );
    let rescued = rescued.await?;
    outcome.demand(rescued == 0, || format!("{rescued} leases were lost to a clock"));
    let at = count(
        "select count(*) from queue.finished_jobs
         where abs(extract(epoch from finished_at - now())) > 300 or abs(extract(epoch from attempted_at - now())) > 300",
    );
    let at = at.await?;
    outcome.demand(at == 0, || format!("{at} rows carry a time of the odd clock"));
    outcome.figure("odd_worker", odd.name.clone());
    Ok(outcome)
}

pub async fn scheduler(options: Options) -> anyhow::Result<Outcome> {
    let Some(library) = library() else { return Ok(missing()) };
    let mut outcome = Outcome::default();
    let stage = Stage::new(&options).await?;
    let (clock, schedules) = (stage.folder().join("clock"), stage.folder().join("schedules.toml"));
    fs::write(&clock, "+0")?;
    fs::write(
        &schedules,
        "[[schedule]]\nname = \"often\"\nkind = \"debug.noop\"\ncron = \"*/2 * * * * *\"\ntime_zone = \"UTC\"\nmissed = \"run_each\"\n",
    )?;
    let _worker = stage.worker(&[("default", 10)]).await?;
    let _odd = stage.scheduler(&schedules, |program| with_clock(program, &library, &clock));
    let _even = stage.scheduler(&schedules, |program| program);
    let ticks =
        async || sqlx::query_scalar::<_, i64>("select count(*) from queue.schedule_ticks").fetch_one(&stage.pool).await;
    let going = crate::stage::eventually(Duration::from_secs(20), async || ticks().await.is_ok_and(|n| n >= 2)).await;
    anyhow::ensure!(going, "the schedule does not fire");
    for offset in ["+3600", "-3600"] {
        fs::write(&clock, offset)?;
        tokio::time::sleep(Duration::from_secs(7)).await;
    }
    // Every tick of the true time, none of another, each with its job.
    let (future, gaps, jobs, ticks): (i64, i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from queue.schedule_ticks where tick_at > now()),
                (select count(*) from (select tick_at - lag(tick_at) over (order by tick_at) as gap from queue.schedule_ticks) g
                 where gap <> '2 s'),
                (select count(*) from queue.jobs) + (select count(*) from queue.finished_jobs),
                (select count(*) from queue.schedule_ticks)",
    )
    .fetch_one(&stage.pool)
    .await?;
    outcome.jobs = ticks.unsigned_abs() as usize;
    outcome.figure("ticks", ticks);
    outcome.figure("jobs_enqueued", jobs);
    outcome.demand(future == 0, || format!("{future} ticks fired before their time"));
    outcome.demand(gaps == 0, || format!("{gaps} gaps between ticks that are not the schedule's"));
    outcome.demand(jobs == ticks, || format!("{ticks} ticks enqueued {jobs} jobs"));
    Ok(outcome)
}
