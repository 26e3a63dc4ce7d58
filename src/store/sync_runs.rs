//! `sync_runs` and `sync_failures` (SYNC-3, SYNC-4). Whoever writes to a run that is running names its holder; an attempt that another
//! has taken the run from writes nothing any more.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError, stored};
use crate::domain::integration::{
    BadRecord, FAILURES_KEPT, SyncCounts, SyncFailure, SyncMode, SyncRun, SyncState, SyncTrigger,
};

/// How long a run is its holder's after each page, in seconds. Another attempt of the same job need not wait for it.
const HELD_S: f64 = 300.0;

/// So many runs of an integration are kept, with the failures that they name.
const KEPT: i64 = 1000;

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    integration_id: Uuid,
    mode: String,
    trigger: String,
    state: String,
    job_id: Uuid,
    stream: Option<String>,
    pages: i64,
    read: i64,
    created: i64,
    updated: i64,
    unchanged: i64,
    failed: i64,
    total: Option<i64>,
    error: Option<String>,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for SyncRun {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            integration_id: row.integration_id,
            mode: stored("sync_runs.mode", &row.mode)?,
            trigger: stored("sync_runs.trigger", &row.trigger)?,
            state: stored("sync_runs.state", &row.state)?,
            job_id: row.job_id,
            stream: row.stream,
            counts: SyncCounts {
                pages: row.pages.cast_unsigned(),
                read: row.read.cast_unsigned(),
                created: row.created.cast_unsigned(),
                updated: row.updated.cast_unsigned(),
                unchanged: row.unchanged.cast_unsigned(),
                failed: row.failed.cast_unsigned(),
            },
            total: row.total.map(i64::cast_unsigned),
            error: row.error,
            started_at: row.started_at,
            ended_at: row.ended_at,
        })
    }
}

/// Who works on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub job_id: Uuid,
    /// Made anew by each attempt.
    pub id: Uuid,
}

/// A run in an attempt's hands.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub run_id: Uuid,
    pub holder: Holder,
    pub mode: SyncMode,
    pub started_at: DateTime<Utc>,
    pub counts: SyncCounts,
    pub total: Option<u64>,
    /// Where it is read on: the stream, and the place in it.
    pub stream: Option<String>,
    pub checkpoint: Option<Value>,
    /// An attempt before this one has begun it.
    pub taken_over: bool,
}

/// What came of the wish to have an integration's run.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    Held(Held),
    /// Another job works on one.
    Busy {
        job_id: Uuid,
    },
}

/// SYNC-3: takes the integration's unfinished run over from an attempt before or from a job that is gone, or begins one. A run in
/// another mode than `mode` is ended if nobody works on it, and runs of long ago are forgotten. The caller has locked nothing; a race
/// is lost to the unique index, as [`Begun::Busy`].
pub async fn begin(
    db: &mut PgConnection,
    integration_id: Uuid,
    holder: Holder,
    (mode, default, trigger): (Option<SyncMode>, SyncMode, SyncTrigger),
    now: DateTime<Utc>,
) -> Result<Begun, StoreError> {
    let unfinished = sqlx::query!(
        r#"select id, mode, job_id, (job_id = $2 or held_until < clock_timestamp()) as "free!"
         from sync_runs where integration_id = $1 and state = 'running' for update"#,
        integration_id,
        holder.job_id
    )
    .fetch_optional(&mut *db)
    .await?;
    match unfinished {
        Some(run) if !run.free => return Ok(Begun::Busy { job_id: run.job_id }),
        Some(run) if run.job_id == holder.job_id || mode.is_none_or(|mode| mode.as_str() == run.mode) => {
            return take_over(db, run.id, holder).await.map(Begun::Held);
        }
        Some(run) => {
            sqlx::query!(
                "update sync_runs set state = 'failed', ended_at = $2, error = coalesce(error, 'its job was lost')
                 where id = $1",
                run.id,
                now
            )
            .execute(&mut *db)
            .await?;
        }
        None => {}
    }
    let (run_id, mode) = (Uuid::now_v7(), mode.unwrap_or(default));
    let begun = sqlx::query!(
        "insert into sync_runs (id, integration_id, mode, trigger, job_id, holder, held_until, started_at)
         values ($1, $2, $3, $4, $5, $6, clock_timestamp() + make_interval(secs => $7), $8)
         on conflict (integration_id) where state = 'running' do nothing",
        run_id,
        integration_id,
        mode.as_str(),
        trigger.as_str(),
        holder.job_id,
        holder.id,
        HELD_S,
        now
    )
    .execute(&mut *db)
    .await?;
    if begun.rows_affected() == 0 {
        return Ok(Begun::Busy { job_id: Uuid::nil() });
    }
    sqlx::query!(
        "delete from sync_runs where integration_id = $1
             and id <= (select id from sync_runs where integration_id = $1 order by id desc offset $2 limit 1)",
        integration_id,
        KEPT
    )
    .execute(db)
    .await?;
    Ok(Begun::Held(Held {
        run_id,
        holder,
        mode,
        started_at: now,
        counts: SyncCounts::default(),
        total: None,
        stream: None,
        checkpoint: None,
        taken_over: false,
    }))
}

async fn take_over(db: &mut PgConnection, run_id: Uuid, holder: Holder) -> Result<Held, StoreError> {
    let run = sqlx::query!(
        "update sync_runs set job_id = $2, holder = $3, held_until = clock_timestamp() + make_interval(secs => $4)
         where id = $1
         returning mode, started_at, stream, checkpoint, pages, read, created, updated, unchanged, failed, total",
        run_id,
        holder.job_id,
        holder.id,
        HELD_S
    )
    .fetch_one(db)
    .await?;
    Ok(Held {
        run_id,
        holder,
        mode: stored("sync_runs.mode", &run.mode)?,
        started_at: run.started_at,
        counts: SyncCounts {
            pages: run.pages.cast_unsigned(),
            read: run.read.cast_unsigned(),
            created: run.created.cast_unsigned(),
            updated: run.updated.cast_unsigned(),
            unchanged: run.unchanged.cast_unsigned(),
            failed: run.failed.cast_unsigned(),
        },
        total: run.total.map(i64::cast_unsigned),
        stream: run.stream,
        checkpoint: run.checkpoint,
        taken_over: true,
    })
}

/// Whether the run is still the holder's. If so nobody else takes it before the transaction ends.
pub async fn lock(db: &mut PgConnection, run_id: Uuid, holder: Holder) -> Result<bool, StoreError> {
    let held = sqlx::query_scalar!(
        r#"select true as "held!" from sync_runs where id = $1 and holder = $2 and state = 'running' for update"#,
        run_id,
        holder.id
    )
    .fetch_optional(db)
    .await?;
    Ok(held.is_some())
}

/// What a run knows after a page.
#[derive(Clone, Debug)]
pub struct Progress<'a> {
    pub counts: SyncCounts,
    pub total: Option<u64>,
    pub stream: &'a str,
    /// `None`: the stream has not begun.
    pub checkpoint: Option<&'a Value>,
    /// Further than ever: failures are counted anew. Not so where a stream is read from its beginning once more.
    pub further: bool,
}

/// Saves the place. False if the run is no longer the holder's: then the caller rolls back.
pub async fn save(
    db: &mut PgConnection,
    run_id: Uuid,
    holder: Holder,
    progress: &Progress<'_>,
) -> Result<bool, StoreError> {
    let SyncCounts { pages, read, created, updated, unchanged, failed } = progress.counts;
    let saved = sqlx::query!(
        "update sync_runs
         set stream = $3, checkpoint = $4, pages = $5, read = $6, created = $7, updated = $8, unchanged = $9, failed = $10,
             total = $11, held_until = clock_timestamp() + make_interval(secs => $12), error = null,
             tries = case when $13 then 0 else tries end
         where id = $1 and holder = $2 and state = 'running'",
        run_id,
        holder.id,
        progress.stream,
        progress.checkpoint,
        pages.cast_signed(),
        read.cast_signed(),
        created.cast_signed(),
        updated.cast_signed(),
        unchanged.cast_signed(),
        failed.cast_signed(),
        progress.total.map(u64::cast_signed),
        HELD_S,
        progress.further
    )
    .execute(db)
    .await?;
    Ok(saved.rows_affected() > 0)
}

/// Notes why an attempt does not go on, as far as is known, and whether it failed; the run goes on. How many have failed since it got
/// further; `None` if it is no longer the holder's.
pub async fn note_error(
    db: &mut PgConnection,
    run_id: Uuid,
    holder: Holder,
    (error, failed): (Option<&str>, bool),
) -> Result<Option<u32>, StoreError> {
    let tries = sqlx::query_scalar!(
        "update sync_runs set error = coalesce($3, error), tries = tries + case when $4 then 1 else 0 end
         where id = $1 and holder = $2 and state = 'running' returning tries",
        run_id,
        holder.id,
        error,
        failed
    )
    .fetch_optional(db)
    .await?;
    Ok(tries.map(i32::cast_unsigned))
}

/// Ends a run. False if it is no longer the holder's.
pub async fn finish(
    db: &mut PgConnection,
    run_id: Uuid,
    holder: Holder,
    (state, error): (SyncState, Option<&str>),
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let ended = sqlx::query!(
        "update sync_runs set state = $3, error = $4, ended_at = $5 where id = $1 and holder = $2 and state = 'running'",
        run_id,
        holder.id,
        state.as_str(),
        error,
        now
    )
    .execute(db)
    .await?;
    Ok(ended.rows_affected() > 0)
}

/// Ends the integration's run that nobody else works on, because there is nothing to go on with.
pub async fn abandon(
    db: &mut PgConnection,
    (integration_id, job_id): (Uuid, Uuid),
    why: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update sync_runs set state = 'cancelled', error = $3, ended_at = $4
         where integration_id = $1 and state = 'running' and (job_id = $2 or held_until < clock_timestamp())",
        integration_id,
        job_id,
        why,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Ends the run that a job leaves behind. The integration's, if there is one.
pub async fn fail_of_job(
    db: &mut PgConnection,
    job_id: Uuid,
    error: &str,
    now: DateTime<Utc>,
) -> Result<Option<SyncRun>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update sync_runs set state = 'failed', error = $2, ended_at = $3 where job_id = $1 and state = 'running'
         returning id, integration_id, mode, trigger, state, job_id, stream, pages, read, created, updated, unchanged, failed,
             total, error, started_at, ended_at",
        job_id,
        error,
        now
    )
    .fetch_optional(db)
    .await?;
    row.map(SyncRun::try_from).transpose()
}

/// Names the records that were not stored, counted on from `before`; beyond [`FAILURES_KEPT`] they are only counted.
pub async fn add_failures(
    db: &mut PgConnection,
    run_id: Uuid,
    before: u64,
    records: &[BadRecord],
) -> Result<(), StoreError> {
    let kept = records.len().min(usize::try_from(FAILURES_KEPT.saturating_sub(before)).unwrap_or(usize::MAX));
    let records = &records[..kept];
    if records.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into sync_failures (id, run_id, position, external_id, reason)
         select f.id, $1, $2 + f.n, f.external_id, f.reason
         from unnest($3::uuid[], $4::text[], $5::text[]) with ordinality as f (id, external_id, reason, n)",
        run_id,
        before.cast_signed(),
        &records.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>(),
        &records.iter().map(|record| record.external_id.clone()).collect::<Vec<_>>() as &[Option<String>],
        &records.iter().map(|record| record.reason.clone()).collect::<Vec<_>>()
    )
    .execute(db)
    .await?;
    Ok(())
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<SyncRun>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, integration_id, mode, trigger, state, job_id, stream, pages, read, created, updated, unchanged, failed,
             total, error, started_at, ended_at
         from sync_runs where id = $1",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(SyncRun::try_from).transpose()
}

/// An integration's runs, or all.
pub async fn page(db: &mut PgConnection, integration_id: Option<Uuid>, page: Page) -> Result<Vec<SyncRun>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, integration_id, mode, trigger, state, job_id, stream, pages, read, created, updated, unchanged, failed,
             total, error, started_at, ended_at
         from sync_runs where true",
    );
    if let Some(integration_id) = integration_id {
        query.push(" and integration_id = ").push_bind(integration_id);
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(SyncRun::try_from).collect()
}

#[derive(sqlx::FromRow)]
struct FailureRow {
    id: Uuid,
    position: i64,
    external_id: Option<String>,
    reason: String,
}

/// The records that a run did not store.
pub async fn failures(db: &mut PgConnection, run_id: Uuid, page: Page) -> Result<Vec<SyncFailure>, StoreError> {
    let mut query = QueryBuilder::new("select id, position, external_id, reason from sync_failures where run_id = ");
    query.push_bind(run_id);
    page.push_to(&mut query);
    let rows: Vec<FailureRow> = query.build_query_as().fetch_all(db).await?;
    let failure = |row: FailureRow| SyncFailure {
        id: row.id,
        position: row.position.cast_unsigned(),
        record: BadRecord { external_id: row.external_id, reason: row.reason },
    };
    Ok(rows.into_iter().map(failure).collect())
}
