//! One tenant's flood.

use std::time::{Duration, Instant};

use backroom_queue::{NewJob, enqueue, enqueue_many};
use serde_json::json;

use crate::{
    Options,
    report::Outcome,
    stage::{Stage, eventually, job},
};

const FLOOD: usize = 100_000;
const BATCH: usize = 5_000;
/// A few claims of every worker.
const SOON: Duration = Duration::from_secs(2);

pub async fn run(options: Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let stage = Stage::new(&options).await?;
    for _ in 0..FLOOD / BATCH {
        let jobs: Vec<NewJob> =
            (0..BATCH).map(|_| job("debug.sleep", "default", json!({ "ms": 5 })).tenant("big")).collect();
        enqueue_many(&stage.pool, &jobs).await?;
    }
    let _workers = stage.three_workers().await?;
    let big = "select count(*) from queue.finished_jobs where tenant = 'big'";
    let done = async || sqlx::query_scalar::<_, i64>(big).fetch_one(&stage.pool).await.unwrap_or(0);
    anyhow::ensure!(eventually(Duration::from_secs(20), async || done().await > 100).await, "the flood does not flow");

    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let id = enqueue(&stage.pool, &job("debug.noop", "default", json!({})).tenant("small")).await?.id;
        let began = Instant::now();
        eventually(Duration::from_secs(10), async || {
            let done = sqlx::query_scalar::<_, bool>("select exists (select from queue.finished_jobs where id = $1)");
            done.bind(id).fetch_one(&stage.pool).await.unwrap_or(false)
        })
        .await;
        slowest = slowest.max(began.elapsed());
    }
    let left: i64 = sqlx::query_scalar("select count(*) from queue.jobs").fetch_one(&stage.pool).await?;
    outcome.jobs = FLOOD + 5;
    outcome.figure("slowest_of_the_other_tenant_s", (slowest.as_secs_f64() * 100.0).round() / 100.0);
    outcome.figure("flood_left", left);
    outcome.demand(left > 0, || "the flood was over before the other tenant's job: nothing was shown".to_owned());
    outcome.demand(slowest <= SOON, || format!("the other tenant's job took {:.1} s", slowest.as_secs_f64()));
    Ok(outcome)
}
