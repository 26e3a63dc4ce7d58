//! Batches: jobs that belong together, whose progress can be looked at, and one job that follows when the last has ended.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection, PgExecutor, Postgres, QueryBuilder, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{Enqueued, NewJob, enqueue};

/// A batch to be enqueued, apart from its members.
#[derive(Clone, Debug)]
pub struct NewBatch {
    pub id: Uuid,
    /// For people to read.
    pub name: Option<String>,
    /// Members and follow-up are this tenant's. Without one the batch is the host's own, and each may have its own tenant.
    pub tenant: Option<String>,
    /// Enqueued when the last member has ended, however each of them did: it can read the counts ([`find_batch`]).
    /// It has the batch's tenant unless it names one, and belongs to no batch itself.
    pub then: Option<NewJob>,
}

impl Default for NewBatch {
    fn default() -> Self {
        Self { id: Uuid::now_v7(), name: None, tenant: None, then: None }
    }
}

/// A batch and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Batch {
    pub id: Uuid,
    pub name: Option<String>,
    pub tenant: Option<String>,
    /// Its members; duplicates of jobs that were there already are none.
    pub size: u32,
    pub completed: u32,
    pub cancelled: u32,
    pub discarded: u32,
    /// The kind of the job that follows.
    pub then_kind: Option<String>,
    /// The job that followed; absent until the last member has ended.
    pub then_job_id: Option<Uuid>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

impl Batch {
    /// Members that have not ended.
    pub fn left(&self) -> u32 {
        self.size.saturating_sub(self.completed + self.cancelled + self.discarded)
    }
}

impl FromRow<'_, PgRow> for Batch {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let count = |column: &str| {
            let count: i32 = row.try_get(column)?;
            u32::try_from(count).map_err(|e| sqlx::Error::Decode(Box::new(e)))
        };
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            tenant: row.try_get("tenant")?,
            size: count("size")?,
            completed: count("completed")?,
            cancelled: count("cancelled")?,
            discarded: count("discarded")?,
            then_kind: row.try_get("then_kind")?,
            then_job_id: row.try_get("then_job_id")?,
            created_at: row.try_get("created_at")?,
            finished_at: row.try_get("finished_at")?,
        })
    }
}

/// What became of a batch's enqueue.
#[derive(Clone, Debug)]
pub struct EnqueuedBatch {
    pub batch: Batch,
    /// In the order of the members. A duplicate is no member.
    pub jobs: Vec<Enqueued>,
}

/// Enqueues a batch and its members in one round trip, through any executor: with the caller's rows or not at all.
///
/// Its size is what was no duplicate; a batch without members has finished at once, and what follows it is enqueued. While
/// it is unfinished more jobs may join it by their `batch_id`, above all from its own members' handlers: then it is not over
/// before they are. Joining locks the batch until the transaction ends, and the ends of its members wait for that.
///
/// # Errors
/// The database refuses a member or a follow-up of another tenant than the batch's. Those of a sealed kind must have been
/// sealed with the batch's tenant.
pub async fn enqueue_batch(db: impl PgExecutor<'_>, batch: &NewBatch, jobs: &[NewJob]) -> sqlx::Result<EnqueuedBatch> {
    let members: Vec<NewJob> = jobs
        .iter()
        .map(|job| NewJob {
            tenant: job.tenant.clone().or_else(|| batch.tenant.clone()),
            batch_id: Some(batch.id),
            ..job.clone()
        })
        .collect();
    members.iter().chain(&batch.then).try_for_each(NewJob::check_sealed)?;
    let then = batch.then.as_ref().map(|job| stored(job, batch)).transpose()?;
    enqueue::bind(
        sqlx::query_as(
            "select (e.batch).*, (e.batch).then_job ->> 'kind' as then_kind, e.ids, e.states, e.duplicates
             from queue.enqueue_batch($16, $17, $18, $19,
                      $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) e",
        ),
        &members,
    )
    .bind(batch.id)
    .bind(&batch.name)
    .bind(&batch.tenant)
    .bind(then)
    .fetch_one(db)
    .await
}

impl FromRow<'_, PgRow> for EnqueuedBatch {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let ids: Vec<Uuid> = row.try_get("ids")?;
        let (states, duplicates): (Vec<String>, Vec<bool>) = (row.try_get("states")?, row.try_get("duplicates")?);
        let jobs = ids.into_iter().zip(states).zip(duplicates);
        let jobs = jobs.map(|((id, state), duplicate)| Enqueued::from_row((id, state, duplicate)));
        Ok(Self { batch: Batch::from_row(row)?, jobs: jobs.collect::<sqlx::Result<_>>()? })
    }
}

/// The follow-up as the batch keeps it: a row of `queue.jobs`.
fn stored(job: &NewJob, batch: &NewBatch) -> sqlx::Result<Value> {
    if job.batch_id.is_some() {
        return Err(sqlx::Error::InvalidArgument("the job that follows a batch cannot belong to a batch".to_owned()));
    }
    let unique = job.unique.as_ref();
    Ok(json!({
        "id": job.id,
        "queue": job.queue,
        "kind": job.kind,
        "tenant": job.tenant.as_ref().or(batch.tenant.as_ref()),
        "priority": job.priority,
        "run_at": job.run_at,
        "max_attempts": i32::try_from(job.max_attempts).unwrap_or(i32::MAX),
        "args": job.args,
        "trace": job.trace.as_ref().map(ToString::to_string),
        "unique_key": unique.map(|unique| &unique.key),
        "unique_across": unique.is_some_and(|unique| unique.across_tenants),
        "unique_for_s": unique.and_then(|unique| unique.period).map(|period| period.as_secs_f64()),
        "rate_key": job.rate_key,
    }))
}

/// Counts ended members: the batch of each and its final state. In the transaction that records their ends.
pub(crate) async fn members_ended(
    db: &mut PgConnection,
    members: impl Iterator<Item = (Uuid, &'static str)>,
) -> sqlx::Result<()> {
    let (batches, states): (Vec<Uuid>, Vec<&str>) = members.unzip();
    if !batches.is_empty() {
        sqlx::query("select queue.members_ended($1, $2)").bind(batches).bind(states).execute(db).await?;
    }
    Ok(())
}

const COLUMNS: &str = "select id, name, tenant, size, completed, cancelled, discarded, then_job ->> 'kind' as then_kind, \
    then_job_id, created_at, finished_at from queue.batches";

/// The batch with this id; with a tenant, only if it is that tenant's. A finished one is forgotten after a week.
pub async fn find_batch(db: impl PgExecutor<'_>, id: Uuid, tenant: Option<&str>) -> sqlx::Result<Option<Batch>> {
    let mut query = QueryBuilder::<Postgres>::new(COLUMNS);
    query.push(" where id = ").push_bind(id);
    query.push(" and (").push_bind(tenant).push("::text is null or tenant = ").push_bind(tenant).push(")");
    query.build_query_as().fetch_optional(db).await
}

/// A page of batches, newest first.
#[derive(Clone, Debug, Default)]
pub struct BatchFilter {
    /// `None`: all tenants'.
    pub tenant: Option<String>,
    /// Only finished ones, or only unfinished ones.
    pub finished: Option<bool>,
    /// The last id of the page before.
    pub before: Option<Uuid>,
    pub limit: i64,
}

/// The page of batches that `filter` describes, newest first (UUIDv7 order).
pub async fn batches(db: impl PgExecutor<'_>, filter: &BatchFilter) -> sqlx::Result<Vec<Batch>> {
    let mut query = QueryBuilder::<Postgres>::new(COLUMNS);
    query.push(" where true");
    if let Some(tenant) = &filter.tenant {
        query.push(" and tenant = ").push_bind(tenant.clone());
    }
    if let Some(finished) = filter.finished {
        query.push(" and (finished_at is not null) = ").push_bind(finished);
    }
    if let Some(before) = filter.before {
        query.push(" and id < ").push_bind(before);
    }
    query.push(" order by id desc limit ").push_bind(filter.limit);
    query.build_query_as().fetch_all(db).await
}
