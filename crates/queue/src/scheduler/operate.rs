//! What people do to schedules: look, run one now, pause, resume.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, PgExecutor};
use uuid::Uuid;

use super::{BATCH, Missed, Overlap, Schedule, Schedules, TenantZone, verify::FATE};
use crate::{Enqueued, enqueue_many};

/// A schedule as people see it.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct ScheduleStatus {
    pub name: String,
    pub cron: String,
    /// Absent where it fires in each tenant's own zone.
    pub time_zone: Option<String>,
    pub kind: String,
    pub args: serde_json::Value,
    pub per_tenant: bool,
    pub missed: Missed,
    pub overlap: Overlap,
    pub paused: bool,
    /// The next firing; of a schedule per tenant the earliest. Absent while it is paused.
    pub next: Option<DateTime<Utc>>,
    /// The latest tick, whether it ran or was skipped.
    pub last_tick: Option<DateTime<Utc>>,
    /// The job of that tick; absent where the tick was skipped.
    pub last_job_id: Option<Uuid>,
    /// What became of that tick: `enqueued`, `duplicate`, `missed`, `paused` or `overlap`.
    pub last_outcome: Option<String>,
}

/// A tick that was decided.
#[derive(Clone, Debug, Serialize, sqlx::FromRow, schemars::JsonSchema)]
pub struct Tick {
    /// Absent where the schedule does not fan out.
    pub tenant: Option<String>,
    pub tick_at: DateTime<Utc>,
    /// When it was decided.
    pub fired_at: DateTime<Utc>,
    /// `enqueued`, `duplicate`, `missed`, `paused` or `overlap`; `skipped` where an older program did not say which.
    pub outcome: String,
    pub job_id: Option<Uuid>,
    /// The unfinished job that an overlap is about.
    pub blocked_by: Option<Uuid>,
}

/// All schedules with their state at `now`. `tenants` are those that the host lists for fan-out.
pub async fn list(
    db: &mut PgConnection,
    schedules: &Schedules,
    tenants: &[TenantZone],
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<ScheduleStatus>> {
    let names: Vec<_> = schedules.iter().map(|schedule| schedule.name.clone()).collect();
    let paused: Vec<String> =
        sqlx::query_scalar("select name from queue.schedules where paused_at is not null").fetch_all(&mut *db).await?;
    let ticks: Vec<(String, DateTime<Utc>, Option<Uuid>, String)> = sqlx::query_as(AssertSqlSafe(format!(
        "select name, tick_at, job_id, outcome from unnest($1::text[]) name cross join lateral (
             select tick_at, job_id, {FATE} as outcome from queue.schedule_ticks k where schedule = name
             order by tick_at desc, job_id nulls last limit 1
         ) last"
    )))
    .bind(names)
    .fetch_all(db)
    .await?;
    let ticks: HashMap<_, _> =
        ticks.into_iter().map(|(schedule, at, job, outcome)| (schedule, (at, job, outcome))).collect();

    let status = |schedule: &Schedule| {
        let paused = paused.contains(&schedule.name);
        let last = ticks.get(&schedule.name);
        ScheduleStatus {
            name: schedule.name.clone(),
            cron: schedule.cron.as_str().to_owned(),
            time_zone: schedule.time_zone.map(|zone| zone.name().to_owned()),
            kind: schedule.kind().to_owned(),
            args: schedule.args().clone(),
            per_tenant: schedule.per_tenant(),
            missed: schedule.missed,
            overlap: schedule.overlap,
            paused,
            next: if paused { None } else { schedule.next_of_all(tenants, now) },
            last_tick: last.map(|(at, ..)| *at),
            last_job_id: last.and_then(|(_, job, _)| *job),
            last_outcome: last.map(|(.., outcome)| outcome.clone()),
        }
    };
    Ok(schedules.iter().map(status).collect())
}

/// The latest ticks of a schedule, newest first; with a tenant, only that tenant's.
pub async fn recent_ticks(
    db: impl PgExecutor<'_>,
    schedule: &Schedule,
    tenant: Option<&str>,
    limit: u16,
) -> sqlx::Result<Vec<Tick>> {
    sqlx::query_as(AssertSqlSafe(format!(
        "select nullif(tenant, '') as tenant, tick_at, fired_at, {FATE} as outcome, job_id, blocked_by
         from queue.schedule_ticks k where schedule = $1 and ($2::text is null or tenant = $2)
         order by tick_at desc, tenant limit $3"
    )))
    .bind(&schedule.name)
    .bind(tenant)
    .bind(i64::from(limit))
    .fetch_all(db)
    .await
}

/// Enqueues the schedule's job now, paused or not: one, or one for each of `tenants` where it fans out. Uses no tick.
/// Everything happens in the caller's transaction, if it is in one.
pub async fn run_now(db: &mut PgConnection, schedule: &Schedule, tenants: &[String]) -> sqlx::Result<Vec<Enqueued>> {
    let jobs: Vec<_> = if schedule.per_tenant() {
        tenants.iter().map(|tenant| schedule.new_job(Some(tenant))).collect()
    } else {
        vec![schedule.new_job(None)]
    };
    let mut enqueued = Vec::with_capacity(jobs.len());
    for batch in jobs.chunks(BATCH) {
        enqueued.extend(enqueue_many(&mut *db, batch).await?);
    }
    Ok(enqueued)
}

/// The schedule's ticks are skipped, on every node, until [`resume`]. False if it was paused already.
/// The caller checks that there is such a schedule.
pub async fn pause(db: impl PgExecutor<'_>, name: &str, now: DateTime<Utc>) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "insert into queue.schedules as s (name, paused_at) values ($1, $2)
         on conflict (name) do update set paused_at = excluded.paused_at where s.paused_at is null",
    )
    .bind(name)
    .bind(now)
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Lets the schedule fire again, from `now` on: what fell into the pause is not made good, even if no scheduler was
/// running to skip it. False if it was not paused.
pub async fn resume(db: impl PgExecutor<'_>, name: &str, now: DateTime<Utc>) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "with resumed as (
             update queue.schedules set paused_at = null where name = $1 and paused_at is not null returning name
         ), moved as (
             update queue.schedule_cursors set decided_until = $2
             where schedule in (select name from resumed) and decided_until < $2
         )
         select exists (select from resumed)",
    )
    .bind(name)
    .bind(now)
    .fetch_one(db)
    .await
}
