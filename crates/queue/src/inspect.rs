//! Reading jobs: one by id, pages by filter, counts by queue.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgExecutor, Postgres, QueryBuilder, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{JobState, Limits};

/// One failed attempt, as kept on the job.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AttemptError {
    pub attempt: u32,
    pub at: DateTime<Utc>,
    pub error: String,
    pub worker: String,
}

/// A job as stored, finished or not.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JobRecord {
    pub id: Uuid,
    pub kind: String,
    pub queue: String,
    pub tenant: Option<String>,
    pub state: JobState,
    pub priority: i16,
    pub run_at: DateTime<Utc>,
    pub attempt: u32,
    pub max_attempts: u32,
    /// Its tenant is on hold: it waits, whatever `run_at` says.
    pub held: bool,
    pub args: Value,
    pub worker: Option<String>,
    pub attempted_at: Option<DateTime<Utc>>,
    pub errors: Vec<AttemptError>,
    pub trace: Option<String>,
    pub created_at: DateTime<Utc>,
    /// The handler of this attempt, or of the last, has begun. Written late: what ends sooner leaves none.
    pub begun_at: Option<DateTime<Utc>>,
    /// Workers that were lost while they ran it, or may have.
    pub crashes: u32,
    /// The rate limit that it runs under.
    pub rate_key: Option<String>,
    pub batch_id: Option<Uuid>,
    pub finished_at: Option<DateTime<Utc>>,
    /// What a completed job left.
    pub result: Option<Value>,
    /// Why a job was cancelled or discarded.
    pub reason: Option<String>,
}

/// A page of jobs, newest first.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// `None`: all tenants'.
    pub tenant: Option<String>,
    pub state: Option<JobState>,
    pub kind: Option<String>,
    pub queue: Option<String>,
    /// The last id of the page before.
    pub before: Option<Uuid>,
    pub limit: i64,
}

/// A queue's unfinished work, and what is decided about the queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct QueueStats {
    pub queue: String,
    pub paused: bool,
    #[serde(flatten)]
    pub limits: Limits,
    pub scheduled: i64,
    pub available: i64,
    pub held: i64,
    pub running: i64,
    pub retryable: i64,
    /// Seconds that the oldest available job has been waiting.
    pub oldest_available_s: Option<f64>,
    /// A figure of [`COUNT_AT_MOST`] means "that many or more".
    pub capped: bool,
}

impl QueueStats {
    /// A queue without work and without rules.
    pub fn idle(queue: impl Into<String>) -> Self {
        Self { queue: queue.into(), ..Self::default() }
    }
}

/// [`queue_stats`] counts no further than this, per queue and state.
pub const COUNT_AT_MOST: i64 = 100_000;
/// Among this many lanes of a queue it looks for the oldest job.
const LANES_AT_MOST: i32 = 5_000;

const UNFINISHED: &str = "select id, kind, queue, tenant, state, priority, run_at, attempt, max_attempts, held, args, \
    worker, attempted_at, errors, trace, created_at, begun_at, crashes, rate_key, batch_id, null::timestamptz as finished_at, \
    null::jsonb as result, null::text as reason from queue.jobs";
const FINISHED: &str = "select id, kind, queue, tenant, state, priority, run_at, attempt, max_attempts, false as held, args, \
    worker, attempted_at, errors, trace, created_at, begun_at, crashes, rate_key, batch_id, finished_at, \
    result, reason from queue.finished_jobs";

/// The job with this id; with a tenant, only if it is that tenant's.
pub async fn find(db: &mut PgConnection, id: Uuid, tenant: Option<&str>) -> sqlx::Result<Option<JobRecord>> {
    // A statement that is planned while a day's partition is being attached does not look into it, and misses a job that
    // moves there meanwhile (seen in the first second of a new database). The next statement looks.
    for _ in 0..2 {
        let mut query = QueryBuilder::<Postgres>::new("select * from (");
        query.push(UNFINISHED).push(" where id = ").push_bind(id);
        query.push(" union all ").push(FINISHED).push(" where id = ").push_bind(id);
        query.push(") j where ").push_bind(tenant).push("::text is null or tenant = ").push_bind(tenant);
        if let Some(row) = query.build().fetch_optional(&mut *db).await? {
            return record(&row).map(Some);
        }
    }
    Ok(None)
}

/// Of these jobs the state and the number of the attempt; with a tenant, only of that tenant's. Unfinished ones cost one search
/// each, the others one in every day of the history.
pub async fn states(
    db: &mut PgConnection,
    ids: &[Uuid],
    tenant: Option<&str>,
) -> sqlx::Result<Vec<(Uuid, JobState, u32)>> {
    let mut found: Vec<(Uuid, JobState, u32)> = Vec::with_capacity(ids.len());
    // In this order: a job that ends meanwhile is found in the second.
    for table in ["queue.jobs", "queue.finished_jobs"] {
        let missing: Vec<Uuid> =
            ids.iter().filter(|id| !found.iter().any(|(known, ..)| known == *id)).copied().collect();
        if missing.is_empty() {
            break;
        }
        let mut query = QueryBuilder::<Postgres>::new("select id, state, attempt from ");
        query.push(table).push(" where id = any(").push_bind(missing);
        query.push(") and (").push_bind(tenant).push("::text is null or tenant = ").push_bind(tenant).push(")");
        for row in query.build().fetch_all(&mut *db).await? {
            let decode = |e: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(e);
            let state = row.try_get::<String, _>("state")?.parse().map_err(|e| decode(Box::new(e)))?;
            let attempt = row.try_get::<i32, _>("attempt")?.try_into().map_err(|e| decode(Box::new(e)))?;
            found.push((row.try_get("id")?, state, attempt));
        }
    }
    Ok(found)
}

/// A job of a tenant that was given up.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct DeadLetter {
    pub id: Uuid,
    pub tenant: String,
    pub kind: String,
    pub queue: String,
    pub attempt: i32,
    pub finished_at: DateTime<Utc>,
}

/// The jobs of tenants that were given up since then, in that order; by the database's clock. Ends become visible in another order than
/// that of their times: who reads on should begin a little earlier and leave out what they know. Costs one look through all that were
/// given up and are kept, by an index that holds nothing else.
pub async fn dead_letters(db: impl PgExecutor<'_>, since: DateTime<Utc>) -> sqlx::Result<Vec<DeadLetter>> {
    sqlx::query_as(
        "select id, tenant, kind, queue, attempt, finished_at from queue.finished_jobs
         where state = 'discarded' and tenant is not null and finished_at > $1
         order by finished_at, id",
    )
    .bind(since)
    .fetch_all(db)
    .await
}

/// The page of jobs that `filter` describes, newest first (UUIDv7 order).
pub async fn list(db: impl PgExecutor<'_>, filter: &JobFilter) -> sqlx::Result<Vec<JobRecord>> {
    let mut query = QueryBuilder::<Postgres>::new("select * from (");
    let unfinished = filter.state.is_none_or(|state| !state.is_finished());
    let finished = filter.state.is_none_or(JobState::is_finished);
    if unfinished {
        push_page(&mut query, UNFINISHED, filter);
    }
    if unfinished && finished {
        query.push(" union all ");
    }
    if finished {
        push_page(&mut query, FINISHED, filter);
    }
    query.push(") j order by id desc limit ").push_bind(filter.limit);
    query.build().fetch_all(db).await?.iter().map(record).collect()
}

fn push_page(query: &mut QueryBuilder<Postgres>, select: &'static str, filter: &JobFilter) {
    query.push("(").push(select).push(" where true");
    if let Some(tenant) = &filter.tenant {
        query.push(" and tenant = ").push_bind(tenant.clone());
    }
    if let Some(state) = filter.state {
        query.push(" and state = ").push_bind(state.as_str());
    }
    if let Some(kind) = &filter.kind {
        query.push(" and kind = ").push_bind(kind.clone());
    }
    if let Some(queue) = &filter.queue {
        query.push(" and queue = ").push_bind(queue.clone());
    }
    if let Some(before) = filter.before {
        query.push(" and id < ").push_bind(before);
    }
    query.push(" order by id desc limit ").push_bind(filter.limit).push(")");
}

fn record(row: &PgRow) -> sqlx::Result<JobRecord> {
    let decode = |e: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(e);
    Ok(JobRecord {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        queue: row.try_get("queue")?,
        tenant: row.try_get("tenant")?,
        state: row.try_get::<String, _>("state")?.parse().map_err(|e| decode(Box::new(e)))?,
        priority: row.try_get("priority")?,
        run_at: row.try_get("run_at")?,
        attempt: row.try_get::<i32, _>("attempt")?.try_into().map_err(|e| decode(Box::new(e)))?,
        max_attempts: row.try_get::<i32, _>("max_attempts")?.try_into().map_err(|e| decode(Box::new(e)))?,
        held: row.try_get("held")?,
        args: row.try_get("args")?,
        worker: row.try_get("worker")?,
        attempted_at: row.try_get("attempted_at")?,
        errors: serde_json::from_value(row.try_get("errors")?).map_err(|e| decode(Box::new(e)))?,
        trace: row.try_get("trace")?,
        created_at: row.try_get("created_at")?,
        begun_at: row.try_get("begun_at")?,
        crashes: row.try_get::<i16, _>("crashes")?.try_into().map_err(|e| decode(Box::new(e)))?,
        rate_key: row.try_get("rate_key")?,
        batch_id: row.try_get("batch_id")?,
        finished_at: row.try_get("finished_at")?,
        result: row.try_get("result")?,
        reason: row.try_get("reason")?,
    })
}

/// Counts of unfinished work, by queue: of those that have some, and of those that somebody once decided about.
///
/// The cost does not grow with the work: no figure is counted beyond [`COUNT_AT_MOST`] ([`QueueStats::capped`] says that one
/// was not), and the oldest available job is looked for among the first jobs of at most 5,000 lanes of each queue. Below
/// these bounds the figures are exact; beyond them a queue is as deep or as late *at least* as they say, which is what an
/// alert asks. Measured: 75 ms with half a million jobs waiting in one queue, on a busy machine with two cores.
pub async fn queue_stats(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<QueueStats>> {
    let rows = sqlx::query("select * from queue.stats($1, $2)")
        .bind(i32::try_from(COUNT_AT_MOST).unwrap_or(i32::MAX))
        .bind(LANES_AT_MOST)
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(QueueStats {
                queue: row.try_get("queue")?,
                paused: row.try_get::<Option<DateTime<Utc>>, _>("paused_at")?.is_some(),
                limits: Limits::from_row(row)?,
                scheduled: row.try_get("scheduled")?,
                available: row.try_get("available")?,
                held: row.try_get("held")?,
                running: row.try_get("running")?,
                retryable: row.try_get("retryable")?,
                oldest_available_s: row.try_get("oldest_available_s")?,
                capped: row.try_get("capped")?,
            })
        })
        .collect()
}
