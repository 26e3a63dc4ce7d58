//! The effect ledger's statements. Each change is one statement that names what it expects to find; the functions
//! `queue.intend_effect` and `queue.answer_effect` hold what more than one caller needs.
//!
//! What is written after a call does not wait for the disk: a crash of the database that loses it leaves an effect that
//! nobody knows about, never one that is silently repeated, and the job's own outcome flushes it a moment later.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgExecutor, PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::worker::record::{storable, storable_json};

/// The id of a tenant's effect, and the idempotency key of its calls: the same today, after a restore and on every node.
pub fn effect_id(tenant: Option<&str>, key: &str) -> Uuid {
    let mut hash = Sha256::new();
    match tenant {
        None => hash.update(u64::MAX.to_be_bytes()),
        Some(tenant) => {
            hash.update((tenant.len() as u64).to_be_bytes());
            hash.update(tenant);
        }
    }
    hash.update(key);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// What is known of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EffectState {
    /// An attempt is in the call.
    Intended,
    /// A call ended without an answer, or its worker was lost: it may have happened.
    Unknown,
    Done,
    /// The other side said no, or a person did: it did not happen.
    Refused,
}

impl EffectState {
    pub const ALL: [EffectState; 4] =
        [EffectState::Intended, EffectState::Unknown, EffectState::Done, EffectState::Refused];

    pub fn as_str(self) -> &'static str {
        match self {
            EffectState::Intended => "intended",
            EffectState::Unknown => "unknown",
            EffectState::Done => "done",
            EffectState::Refused => "refused",
        }
    }
}

impl std::fmt::Display for EffectState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for EffectState {
    type Err = UnknownEffectState;

    fn from_str(s: &str) -> Result<Self, UnknownEffectState> {
        Self::ALL.into_iter().find(|state| state.as_str() == s).ok_or_else(|| UnknownEffectState(s.to_owned()))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("unknown effect state {0:?}")]
pub struct UnknownEffectState(String);

/// An effect as the ledger has it.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema, sqlx::FromRow)]
pub struct EffectRecord {
    /// Also the idempotency key of every call.
    pub id: Uuid,
    pub tenant: Option<String>,
    pub key: String,
    /// Of the job.
    pub kind: String,
    /// The job that intended it last, or did it.
    pub job_id: Uuid,
    /// Of that job, counted from 1.
    pub attempt: i32,
    #[sqlx(try_from = "String")]
    pub state: EffectState,
    /// Calls begun so far.
    pub calls: i32,
    /// Of these, without an answer yet.
    pub unknown: i32,
    /// The job will come back to it by itself.
    pub job_unfinished: bool,
    /// What the call answered.
    pub outcome: Option<Value>,
    /// The last words of a call that was no success.
    pub error: Option<String>,
    /// Who said whether it happened, if a person did.
    pub answered_by: Option<String>,
    pub intended_at: DateTime<Utc>,
    pub called_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl TryFrom<String> for EffectState {
    type Error = UnknownEffectState;

    fn try_from(state: String) -> Result<Self, UnknownEffectState> {
        state.parse()
    }
}

/// A page of effects, newest job first.
#[derive(Clone, Debug, Default)]
pub struct EffectFilter {
    /// `None`: all tenants'.
    pub tenant: Option<String>,
    pub state: Option<EffectState>,
    pub job_id: Option<Uuid>,
    /// Job and id of the last effect of the page before.
    pub before: Option<(Uuid, Uuid)>,
    pub limit: i64,
}

/// The page of effects that `filter` describes.
pub async fn effects(db: impl PgExecutor<'_>, filter: &EffectFilter) -> sqlx::Result<Vec<EffectRecord>> {
    let mut query = QueryBuilder::<Postgres>::new(SELECT);
    if let Some(tenant) = &filter.tenant {
        query.push(" and e.tenant = ").push_bind(tenant.clone());
    }
    match filter.state {
        None => {}
        Some(EffectState::Intended) => {
            query.push(" and e.state = 'intended' and queue.lease_left(e.job_id, e.lease) is not null");
        }
        Some(EffectState::Unknown) => {
            query.push(" and e.state = 'intended' and queue.lease_left(e.job_id, e.lease) is null");
        }
        Some(state) => {
            query.push(" and e.state = ").push_bind(state.as_str());
        }
    }
    if let Some(job_id) = filter.job_id {
        query.push(" and e.job_id = ").push_bind(job_id);
    }
    if let Some((job_id, id)) = filter.before {
        query.push(" and (e.job_id, e.id) < (").push_bind(job_id).push(", ").push_bind(id).push(")");
    }
    query.push(" order by e.job_id desc, e.id desc limit ").push_bind(filter.limit);
    query.build_query_as().fetch_all(db).await
}

const SELECT: &str = "select e.id, e.tenant, e.key, e.kind, e.job_id, e.attempt,
        case when e.state = 'intended' and queue.lease_left(e.job_id, e.lease) is null then 'unknown' else e.state end as state,
        e.calls, e.unknown, exists (select from queue.jobs j where j.id = e.job_id) as job_unfinished, e.outcome, e.error,
        e.answered_by, e.intended_at, e.called_at, e.ended_at
    from queue.effects e where true";

/// The effect with this id; with a tenant, only if it is that tenant's.
pub async fn find_effect(
    db: impl PgExecutor<'_>,
    id: Uuid,
    tenant: Option<&str>,
) -> sqlx::Result<Option<EffectRecord>> {
    let mut query = QueryBuilder::<Postgres>::new(SELECT);
    query.push(" and e.id = ").push_bind(id);
    if let Some(tenant) = tenant {
        query.push(" and e.tenant = ").push_bind(tenant);
    }
    query.build_query_as().fetch_optional(db).await
}

/// A job's effects, for its flight record.
pub async fn effects_of(db: impl PgExecutor<'_>, job_id: Uuid) -> sqlx::Result<Vec<EffectRecord>> {
    effects(db, &EffectFilter { job_id: Some(job_id), limit: 1_000, ..EffectFilter::default() }).await
}

/// How many effects these jobs have done so far.
pub async fn effects_done(db: impl PgExecutor<'_>, jobs: &[Uuid]) -> sqlx::Result<i64> {
    sqlx::query_scalar("select count(*) from queue.effects where job_id = any($1) and state = 'done'")
        .bind(jobs)
        .fetch_one(db)
        .await
}

/// What a person found out about an effect that nobody knew of.
#[derive(Clone, Debug, PartialEq)]
pub enum EffectAnswer {
    /// With what the call would have answered; whoever asks for the effect again gets this, or JSON's `null`.
    Happened(Option<Value>),
    /// The next attempt calls anew.
    DidNotHappen,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It is in the ledger. The job is not touched: retry it, if it shall go on.
    Yes,
    /// It is known already: done, or refused.
    Known(EffectState),
    /// An attempt is in the call; wait for it.
    InCall,
    NotFound,
}

/// Answers for an effect that is unknown; with a tenant, only for that tenant's. A role that may not touch the ledger may
/// call this for its own tenant, if it may execute `queue.answer_effect`.
pub async fn answer_effect(
    db: &mut PgConnection,
    id: Uuid,
    tenant: Option<&str>,
    answer: &EffectAnswer,
    by: &str,
) -> sqlx::Result<Answered> {
    let (happened, outcome) = match answer {
        EffectAnswer::Happened(outcome) => (true, outcome.clone().map(storable_json)),
        EffectAnswer::DidNotHappen => (false, None),
    };
    let said: String = sqlx::query_scalar("select queue.answer_effect($1, $2, $3, $4, $5)")
        .bind(id)
        .bind(tenant)
        .bind(happened)
        .bind(outcome)
        .bind(by)
        .fetch_one(db)
        .await?;
    Ok(match said.as_str() {
        "answered" => Answered::Yes,
        "done" => Answered::Known(EffectState::Done),
        "refused" => Answered::Known(EffectState::Refused),
        "in call" => Answered::InCall,
        _ => Answered::NotFound,
    })
}

/// Forgets effects whose time is over, a batch at a time, and answers how many. One that is unknown stays until somebody knows.
pub async fn prune_effects(db: impl PgExecutor<'_>) -> sqlx::Result<u64> {
    let pruned = sqlx::query(
        "delete from queue.effects where id in (
             select id from queue.effects where expires_on < current_date limit 20000 for update skip locked)",
    );
    Ok(pruned.execute(db).await?.rows_affected())
}

/// The attempt that asks.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub id: Uuid,
    pub job_id: Uuid,
    pub lease: Uuid,
}

/// What `queue.intend_effect` says.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Intent {
    pub verdict: String,
    pub unknown: i32,
    pub intended_at: DateTime<Utc>,
    pub outcome: Option<Value>,
    pub error: Option<String>,
    wait_s: Option<f64>,
}

impl Intent {
    /// How long a busy effect may stay so.
    pub fn wait(&self) -> Duration {
        Duration::from_secs_f64(self.wait_s.unwrap_or_default().clamp(1.0, 3600.0))
    }
}

/// Who wants to call what.
pub(crate) struct Asked<'a> {
    pub tenant: Option<&'a str>,
    pub key: &'a str,
    pub kind: &'a str,
    pub attempt: u32,
    pub keep_days: u16,
    /// `None`: the caller finds out by itself what became of earlier calls.
    pub most_unknown: Option<u32>,
}

/// Commits the intent, as durably as the database commits.
pub(crate) async fn intend(pool: &PgPool, asker: &Asker, asked: &Asked<'_>) -> sqlx::Result<Intent> {
    sqlx::query_as("select * from queue.intend_effect($1, $2, $3, $4, $5, $6, $7, $8, $9)")
        .bind(asker.id)
        .bind(asked.tenant)
        .bind(asked.key)
        .bind(asked.kind)
        .bind(asker.job_id)
        .bind(asked.attempt.cast_signed())
        .bind(asker.lease)
        .bind(i16::try_from(asked.keep_days).unwrap_or(i16::MAX))
        .bind(asked.most_unknown.map(|most| i32::try_from(most).unwrap_or(i32::MAX)))
        .fetch_one(pool)
        .await
}

/// Earlier calls turned out to have done nothing: counts the next one, as durably as the database commits. False if the
/// effect is no longer the asker's.
pub(crate) async fn intend_anew(pool: &PgPool, asker: &Asker) -> sqlx::Result<bool> {
    let begun = sqlx::query(
        "update queue.effects set calls = calls + 1, unknown = 1, called_at = clock_timestamp()
         where id = $1 and job_id = $2 and lease = $3 and queue.lease_left(job_id, lease) is not null",
    );
    Ok(begun.bind(asker.id).bind(asker.job_id).bind(asker.lease).execute(pool).await?.rows_affected() == 1)
}

/// It happened. That is true whoever holds the lease by now, so only an earlier "done" stands above it.
pub(crate) async fn record_done(pool: &PgPool, asker: &Asker, outcome: &Value) -> sqlx::Result<()> {
    sqlx::query(
        "update queue.effects
         set state = 'done', job_id = $2, lease = null, unknown = 0, outcome = $3, error = null, answered_by = null,
             ended_at = now(), expires_on = current_date + keep_days
         where id = $1 and state <> 'done' and (select set_config('synchronous_commit', 'off', true)) = 'off'",
    )
    .bind(asker.id)
    .bind(asker.job_id)
    .bind(outcome)
    .execute(pool)
    .await?;
    Ok(())
}

/// The call did nothing. Earlier ones that had no answer keep the effect unknown. Not from an attempt that has lost the
/// effect: its successor counts for itself.
pub(crate) async fn record_refused(pool: &PgPool, asker: &Asker, error: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update queue.effects
         set state = case when unknown = 1 then 'refused' else state end, lease = null, unknown = unknown - 1, error = $4,
             ended_at = case when unknown = 1 then now() end,
             expires_on = case when unknown = 1 then current_date + keep_days end
         where id = $1 and job_id = $2 and lease = $3 and (select set_config('synchronous_commit', 'off', true)) = 'off'",
    )
    .bind(asker.id)
    .bind(asker.job_id)
    .bind(asker.lease)
    .bind(storable(error))
    .execute(pool)
    .await?;
    Ok(())
}

/// Nobody knows what the call did: lets go of the effect.
pub(crate) async fn record_unknown(pool: &PgPool, asker: &Asker, error: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update queue.effects set lease = null, error = $4
         where id = $1 and job_id = $2 and lease = $3 and (select set_config('synchronous_commit', 'off', true)) = 'off'",
    )
    .bind(asker.id)
    .bind(asker.job_id)
    .bind(asker.lease)
    .bind(storable(error))
    .execute(pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effect_s_id_tells_tenants_and_keys_apart_and_never_changes() {
        let ids = [
            effect_id(None, "reminder:1"),
            effect_id(Some(""), "reminder:1"),
            effect_id(Some("acme"), "reminder:1"),
            effect_id(Some("acmer"), "eminder:1"),
            effect_id(Some("acme"), "reminder:2"),
        ];
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert_eq!(ids[2].to_string(), "92cfe085-f5c9-8f73-a80d-e7c5f33987ba");
    }
}
