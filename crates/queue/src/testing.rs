//! For tests: run what is queued here and now, see what was queued, run a job twice.

use std::sync::Arc;

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Job, JobFilter, JobRecord, NewJob, Outcome, Registry, list,
    worker::{Inline, keeper},
};

/// Runs the queue's due jobs, those they enqueue included, until none is left; answers them in the order they ran.
/// Failed attempts stay `retryable` at their stored time.
pub async fn drain<A: Send + Sync + 'static>(
    pool: &PgPool,
    registry: &Arc<Registry<A>>,
    app: Arc<A>,
    queue: &str,
) -> anyhow::Result<Vec<(Uuid, Outcome)>> {
    let inline = Inline::new(pool, registry, app);
    let mut ran = Vec::new();
    loop {
        keeper::promote(pool, 1000).await?;
        let next: Option<Uuid> = sqlx::query_scalar(
            "select id from queue.jobs where queue = $1 and state = 'available' and not held
             order by priority desc, run_at, id limit 1",
        )
        .bind(queue)
        .fetch_optional(pool)
        .await?;
        let Some(id) = next else { return Ok(ran) };
        if let Some(outcome) = inline.run_waiting(id).await? {
            ran.push((id, outcome));
        }
    }
}

/// Makes every job that waits for its time due now.
pub async fn fast_forward(pool: &PgPool) -> sqlx::Result<u64> {
    let moved = sqlx::query("update queue.jobs set run_at = now() where state in ('scheduled', 'retryable')");
    Ok(moved.execute(pool).await?.rows_affected())
}

/// The unfinished jobs of a kind, oldest first.
pub async fn enqueued<J: Job>(pool: &PgPool) -> sqlx::Result<Vec<JobRecord>> {
    let filter = JobFilter { kind: Some(J::KIND.to_owned()), limit: 10_000, ..JobFilter::default() };
    let mut jobs = list(pool, &filter).await?;
    jobs.retain(|job| !job.state.is_finished());
    jobs.reverse();
    Ok(jobs)
}

/// Runs the same job twice, as a crash between its effect and its record would, and answers both outcomes with the rows
/// of `tables` after each: at-least-once is the contract, so the second run should change nothing.
pub async fn run_twice<A: Send + Sync + 'static>(
    pool: &PgPool,
    registry: &Arc<Registry<A>>,
    app: Arc<A>,
    job: NewJob,
    tables: &[&str],
) -> anyhow::Result<[(Outcome, Vec<Value>); 2]> {
    let inline = Inline::new(pool, registry, app);
    let job = registry.seal(job)?;
    let id = crate::enqueue(pool, &job).await?.id;
    let first = inline.run_waiting(id).await?.ok_or_else(|| anyhow::anyhow!("job {id} was not there to run"))?;
    let after_first = snapshot(pool, tables).await?;
    // The same job again, as if its end had never been recorded.
    sqlx::query("delete from queue.finished_jobs where id = $1").bind(id).execute(pool).await?;
    sqlx::query("delete from queue.jobs where id = $1").bind(id).execute(pool).await?;
    crate::enqueue(pool, &NewJob { id, ..job }).await?;
    let second = inline.run_waiting(id).await?.ok_or_else(|| anyhow::anyhow!("job {id} was not there to run again"))?;
    Ok([(first, after_first), (second, snapshot(pool, tables).await?)])
}

/// The rows of the tables as JSON, in a stable order.
async fn snapshot(pool: &PgPool, tables: &[&str]) -> sqlx::Result<Vec<Value>> {
    let mut db = pool.acquire().await?;
    let mut all = Vec::new();
    for table in tables {
        all.extend(rows(&mut db, table).await?);
    }
    Ok(all)
}

async fn rows(db: &mut PgConnection, table: &str) -> sqlx::Result<Vec<Value>> {
    sqlx::query_scalar(AssertSqlSafe(format!("select to_jsonb(t) from {table} t order by to_jsonb(t)::text")))
        .fetch_all(db)
        .await
}
