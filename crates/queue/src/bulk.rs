//! The same thing done to many jobs, in two steps: a plan says which they are and what they are; applying it touches exactly
//! these, as far as they are still what the plan found (PLAT-13, PLAT-23).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Acquire, PgConnection, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::{
    JobState,
    control::{RETRYABLE, WAITING, ask_to_stop, end_waiting, retry_many},
};

/// A plan takes no more jobs than this; the oldest first.
pub const PLAN_AT_MOST: i32 = 100_000;
/// Jobs per transaction when a plan is applied.
const STEP: i32 = 1_000;
/// A step that lost against another transaction (a deadlock) is tried again this often.
const TRIES: u32 = 5;

/// What is done to each job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// As [`crate::retry`]; dead letters only, unless the filter names another state.
    Retry,
    /// As [`crate::cancel`]; what waits and what runs, unless the filter names a state.
    Cancel,
    /// As [`crate::discard`]; what waits, unless the filter names a state.
    Discard,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
            Self::Discard => "discard",
        }
    }

    /// The states of jobs that it can be done to.
    pub fn states(self) -> &'static [JobState] {
        const UNFINISHED: [JobState; 4] =
            [JobState::Scheduled, JobState::Available, JobState::Retryable, JobState::Running];
        match self {
            Self::Retry => &RETRYABLE,
            Self::Cancel => &UNFINISHED,
            Self::Discard => &WAITING,
        }
    }
}

/// Which jobs. All that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BulkFilter {
    pub tenant: Option<String>,
    pub kind: Option<String>,
    pub queue: Option<String>,
    pub state: Option<JobState>,
    /// In its last error or in the reason of its end; upper and lower case are the same.
    pub error_contains: Option<String>,
    /// Enqueued at this time or later.
    pub created_after: Option<DateTime<Utc>>,
    /// Enqueued before this time.
    pub created_before: Option<DateTime<Utc>>,
    pub batch_id: Option<Uuid>,
}

/// A plan to be made.
#[derive(Clone, Debug)]
pub struct NewPlan {
    pub action: Action,
    pub filter: BulkFilter,
    /// Yes, all jobs: without it a filter that says nothing is refused.
    pub all: bool,
    /// A tenant that plans for itself: only its jobs are found, and only it and operators see the plan.
    pub owner: Option<String>,
    /// Kept with the jobs that the plan ends.
    pub reason: String,
}

/// What will be done, or was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Plan {
    pub id: Uuid,
    pub owner: Option<String>,
    pub action: Action,
    pub filter: BulkFilter,
    /// A job that is in another state by then is left alone.
    pub states: Vec<JobState>,
    pub reason: String,
    /// How many it will touch.
    pub jobs: u32,
    /// The filter finds more: after this plan, make another.
    pub more: bool,
    pub by_tenant: Vec<Share>,
    pub by_kind: Vec<Share>,
    pub by_state: Vec<Share>,
    /// What the jobs have already done to the outside world. Empty where there is no ledger.
    pub effects: Vec<EffectShare>,
    /// The first jobs, oldest first.
    pub sample: Vec<Sample>,
    pub created_at: DateTime<Utc>,
    /// From then on it is not applied any more.
    pub expires_at: DateTime<Utc>,
    #[serde(flatten)]
    pub applied: Applied,
}

/// What became of a plan's jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Applied {
    /// So far; the sum of what follows.
    pub handled: u32,
    /// Retried, cancelled or discarded.
    pub done: u32,
    /// Running ones that were asked to stop.
    pub requested: u32,
    /// Left alone: in another state by then, so that the action no longer fits.
    pub changed: u32,
    /// Left alone: a job with the same unique key is unfinished.
    pub duplicate: u32,
    /// Not there any more: forgotten after their retention.
    pub gone: u32,
    /// When the last was handled. `None`: the plan has not been applied, or not to its end.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Some of a plan's jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Share {
    /// Of the tenant, kind or state; `None`: jobs without a tenant.
    pub name: Option<String>,
    pub jobs: u32,
}

/// Effects of a plan's jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct EffectShare {
    /// The job's kind.
    pub kind: String,
    /// As the ledger says: `done` happened, of `intended` nobody knows.
    pub state: String,
    pub effects: u32,
}

/// One of a plan's jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Sample {
    pub id: Uuid,
    pub kind: String,
    pub tenant: Option<String>,
    pub state: JobState,
    /// Its last error, or the reason of its end.
    pub error: Option<String>,
}

/// Why a plan was not made or not applied.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    #[error("the filter says nothing: that would be all jobs")]
    NoFilter,
    #[error("a job that is {state} cannot be given to `{}`: only {}", action.as_str(), listed(action.states()))]
    State { action: Action, state: JobState },
    #[error("there is no such plan")]
    NotFound,
    #[error("the plan has expired at {at}, {handled} of {jobs} jobs handled; make a new one")]
    Expired { at: DateTime<Utc>, handled: u32, jobs: u32 },
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

fn listed(states: &[JobState]) -> String {
    states.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(", ")
}

/// Finds the jobs and writes the plan down. Nothing is done to them yet; the plan is good for an hour.
pub async fn plan(db: &mut PgConnection, new: NewPlan) -> Result<Plan, BulkError> {
    let NewPlan { action, mut filter, all, owner, reason } = new;
    if owner.is_some() {
        // Its own tenant is no choice of the owner's, and narrows nothing.
        filter.tenant = None;
    }
    if filter == BulkFilter::default() && !all {
        return Err(BulkError::NoFilter);
    }
    if owner.is_some() {
        filter.tenant.clone_from(&owner);
    }
    let states = match filter.state {
        Some(state) if !action.states().contains(&state) => return Err(BulkError::State { action, state }),
        Some(state) => vec![state],
        None if action == Action::Retry => vec![JobState::Discarded],
        None => action.states().to_vec(),
    };

    let id = Uuid::now_v7();
    let mut tx = db.begin().await?;
    // One pass over much: compiling it takes longer than running it.
    sqlx::query("set local jit = off").execute(&mut *tx).await?;
    sqlx::query("delete from queue.bulk_plans where expires_at < now() - interval '7 days'").execute(&mut *tx).await?;
    let (ended, unfinished): (Vec<JobState>, Vec<JobState>) = states.iter().partition(|state| state.is_finished());
    let mut query = QueryBuilder::<Postgres>::new("with found as materialized (select * from (");
    if !unfinished.is_empty() {
        push_found(&mut query, ("queue.jobs", "null::text"), &filter, &unfinished);
    }
    if !unfinished.is_empty() && !ended.is_empty() {
        query.push(" union all ");
    }
    if !ended.is_empty() {
        push_found(&mut query, ("queue.finished_jobs", "reason"), &filter, &ended);
    }
    query.push(") f order by id limit ").push_bind(PLAN_AT_MOST + 1);
    query.push("), picked as materialized (select * from found order by id limit ").push_bind(PLAN_AT_MOST);
    query.push(
        ") insert into queue.bulk_plans (job_ids, jobs, more, by_tenant, by_kind, by_state, sample, id, owner, action, filter,
                  states, reason, expires_at)
         select coalesce((select array_agg(id order by id) from picked), '{}'), (select count(*) from picked),
                (select count(*) from found) > (select count(*) from picked),
                (select coalesce(jsonb_agg(to_jsonb(s) order by s.jobs desc, s.name), '[]')
                 from (select tenant as name, count(*) as jobs from picked group by 1) s),
                (select coalesce(jsonb_agg(to_jsonb(s) order by s.jobs desc, s.name), '[]')
                 from (select kind as name, count(*) as jobs from picked group by 1) s),
                (select coalesce(jsonb_agg(to_jsonb(s) order by s.jobs desc, s.name), '[]')
                 from (select state as name, count(*) as jobs from picked group by 1) s),
                (select coalesce(jsonb_agg(to_jsonb(s) order by s.id), '[]') from (select * from picked order by id limit 10) s), ",
    );
    let mut columns = query.separated(", ");
    columns.push_bind(id).push_bind(owner).push_bind(action.as_str()).push_bind(sqlx::types::Json(filter));
    columns.push_bind(states.iter().map(|state| state.as_str()).collect::<Vec<_>>()).push_bind(reason);
    columns.push("now() + interval '1 hour'");
    query.build().execute(&mut *tx).await?;

    let ledger: bool =
        sqlx::query_scalar("select to_regclass('queue.effects') is not null").fetch_one(&mut *tx).await?;
    if ledger {
        sqlx::query(
            "update queue.bulk_plans p
             set effects = (select coalesce(jsonb_agg(to_jsonb(s) order by s.effects desc, s.kind, s.state), '[]')
                            from (select e.kind, e.state, count(*) as effects
                                  from unnest(p.job_ids) j (id) join queue.effects e on e.job_id = j.id group by 1, 2) s)
             where p.id = $1",
        )
        .bind(id)
        .execute(&mut *tx)
        .await?;
    }
    let plan = find(&mut tx, id, None).await?.ok_or(BulkError::NotFound)?;
    tx.commit().await?;
    Ok(plan)
}

/// The jobs of one table that the filter describes; one more than a plan takes tells that there are more.
fn push_found(
    query: &mut QueryBuilder<Postgres>,
    (table, reason): (&'static str, &'static str),
    filter: &BulkFilter,
    states: &[JobState],
) {
    query.push("(select id, kind, tenant, state, coalesce(errors -> -1 ->> 'error', ").push(reason);
    query.push(") as error from ").push(table);
    query
        .push(" where state = any(")
        .push_bind(states.iter().map(|state| state.as_str()).collect::<Vec<_>>())
        .push(")");
    for (column, value) in [("tenant", &filter.tenant), ("kind", &filter.kind), ("queue", &filter.queue)] {
        if let Some(value) = value {
            query.push(" and ").push(column).push(" = ").push_bind(value.clone());
        }
    }
    if let Some(words) = &filter.error_contains {
        query.push(" and strpos(lower(concat_ws(' ', errors -> -1 ->> 'error', ").push(reason);
        query.push(")), lower(").push_bind(words.clone()).push(")) > 0");
    }
    if let Some(at) = filter.created_after {
        query.push(" and created_at >= ").push_bind(at);
    }
    if let Some(at) = filter.created_before {
        query.push(" and created_at < ").push_bind(at);
    }
    if let Some(batch) = filter.batch_id {
        query.push(" and batch_id = ").push_bind(batch);
    }
    query.push(" order by id limit ").push_bind(PLAN_AT_MOST + 1).push(")");
}

/// A plan, and what became of it; with an owner, only that owner's.
pub async fn find(db: &mut PgConnection, id: Uuid, owner: Option<&str>) -> sqlx::Result<Option<Plan>> {
    let found: Option<Value> = sqlx::query_scalar(
        "select to_jsonb(p) - 'job_ids' from queue.bulk_plans p where p.id = $1 and ($2::text is null or p.owner = $2)",
    )
    .bind(id)
    .bind(owner)
    .fetch_optional(db)
    .await?;
    found.map(serde_json::from_value).transpose().map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

/// Does what the plan says, to its jobs and no others, some at a time; `progress` hears how many are handled. One that was
/// interrupted goes on where it was, one that is done is answered as it was; with an owner, only that owner's.
pub async fn apply(
    pool: &PgPool,
    id: Uuid,
    owner: Option<&str>,
    mut progress: impl FnMut(&Plan),
) -> Result<Plan, BulkError> {
    let mut tries = 0;
    loop {
        match step(pool, id, owner).await {
            Ok(plan) => {
                progress(&plan);
                if plan.applied.finished_at.is_some() {
                    return Ok(plan);
                }
                tries = 0;
            }
            Err(BulkError::Database(error)) if was_deadlock(&error) && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Workers record many outcomes in one statement, in an order of their own.
fn was_deadlock(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.code().as_deref() == Some("40P01"))
}

/// Handles the next jobs of a plan in one transaction. The plan's row is the lock: two who apply it take turns.
async fn step(pool: &PgPool, id: Uuid, owner: Option<&str>) -> Result<Plan, BulkError> {
    let mut tx = pool.begin().await?;
    let next: Option<(Vec<Uuid>, bool)> = sqlx::query_as(
        "select job_ids[handled + 1 : handled + $3], expires_at <= now() from queue.bulk_plans
         where id = $1 and ($2::text is null or owner = $2) for update",
    )
    .bind(id)
    .bind(owner)
    .bind(STEP)
    .fetch_optional(&mut *tx)
    .await?;
    let Some((ids, expired)) = next else { return Err(BulkError::NotFound) };
    let plan = find(&mut tx, id, owner).await?.ok_or(BulkError::NotFound)?;
    if plan.applied.finished_at.is_some() {
        return Ok(plan);
    }
    if expired {
        let (at, handled, jobs) = (plan.expires_at, plan.applied.handled, plan.jobs);
        return Err(BulkError::Expired { at, handled, jobs });
    }

    let mut touched = Touched::default();
    match plan.action {
        Action::Retry => {
            let retried = retry_many(&mut tx, &ids, owner, &plan.states).await?;
            touched = Touched { done: retried.again, duplicate: retried.duplicates, ..touched };
        }
        Action::Cancel => {
            touched.done = end_waiting(&mut tx, (&ids, owner), &plan.states, JobState::Cancelled, &plan.reason).await?;
            if plan.states.contains(&JobState::Running) {
                touched.requested = ask_to_stop(&mut tx, &ids, owner).await?;
            }
        }
        Action::Discard => {
            touched.done = end_waiting(&mut tx, (&ids, owner), &plan.states, JobState::Discarded, &plan.reason).await?;
        }
    }
    sqlx::query(
        "with rest as (
             select r.id from unnest($2::uuid[]) r (id) where not r.id = any($6)
         ), changed as (
             select count(*) as n from rest
             where exists (select from queue.jobs j where j.id = rest.id)
                or exists (select from queue.finished_jobs f where f.id = rest.id)
         )
         update queue.bulk_plans p
         set handled = p.handled + cardinality($2), done = p.done + $3, requested = p.requested + $4,
             duplicate = p.duplicate + $5, changed = p.changed + changed.n,
             gone = p.gone + (select count(*) from rest) - changed.n,
             finished_at = case when p.handled + cardinality($2) >= p.jobs then now() end
         from changed where p.id = $1",
    )
    .bind(id)
    .bind(&ids)
    .bind(count(&touched.done))
    .bind(count(&touched.requested))
    .bind(count(&touched.duplicate))
    .bind(touched.all())
    .execute(&mut *tx)
    .await?;
    let plan = find(&mut tx, id, owner).await?.ok_or(BulkError::NotFound)?;
    tx.commit().await?;
    Ok(plan)
}

/// What one step did.
#[derive(Default)]
struct Touched {
    done: Vec<Uuid>,
    requested: Vec<Uuid>,
    duplicate: Vec<Uuid>,
}

impl Touched {
    fn all(self) -> Vec<Uuid> {
        [self.done, self.requested, self.duplicate].concat()
    }
}

fn count(ids: &[Uuid]) -> i32 {
    i32::try_from(ids.len()).unwrap_or(i32::MAX)
}
