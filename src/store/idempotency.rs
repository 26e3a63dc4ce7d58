//! `public.idempotency_keys` (API-3): the first answer to a key is the answer.
//!
//! A key, the work and the answer are one transaction: `begin`, the work, [`complete`], commit. What fails leaves no trace, so the
//! key is free to be tried again; a crash in between needs no clearing up.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// The stored answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    pub location: Option<String>,
    pub content_type: Option<String>,
    pub body: Vec<u8>,
}

/// What a key means for the request that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// First seen: do the work, then [`complete`].
    New,
    /// Done before: give this answer again.
    Replay(Answer),
    /// A transaction that has not ended yet holds the key.
    InProgress,
    /// The key belongs to a different request.
    Mismatch,
}

/// Claims the key, until the transaction ends, for a request whose method, path and body have the `fingerprint`.
pub async fn begin(
    db: &mut PgConnection,
    organization_id: Uuid,
    key: &str,
    fingerprint: &[u8],
    now: DateTime<Utc>,
) -> Result<Begin, StoreError> {
    // The row of a concurrent request is invisible and inserting beside it would wait; the lock says so at once.
    let free = sqlx::query_scalar!(
        "select pg_try_advisory_xact_lock(hashtextextended($1::uuid::text || ' ' || $2, 0)) as \"free!\"",
        organization_id,
        key
    )
    .fetch_one(&mut *db)
    .await?;
    if !free {
        return Ok(Begin::InProgress);
    }
    let claimed = sqlx::query!(
        "insert into public.idempotency_keys (organization_id, key, fingerprint, created_at)
         values ($1, $2, $3, $4) on conflict (organization_id, key) do nothing",
        organization_id,
        key,
        fingerprint,
        now
    )
    .execute(&mut *db)
    .await?;
    if claimed.rows_affected() == 1 {
        return Ok(Begin::New);
    }
    // Not there any more: it was forgotten at this moment.
    Ok(find(db, organization_id, key, fingerprint).await?.unwrap_or(Begin::InProgress))
}

/// What a key that was used before means for the request; `None`: it is free, or held by a transaction that has not ended yet.
pub async fn find(
    db: &mut PgConnection,
    organization_id: Uuid,
    key: &str,
    fingerprint: &[u8],
) -> Result<Option<Begin>, StoreError> {
    let row = sqlx::query!(
        "select fingerprint, status, location, content_type, body
         from public.idempotency_keys where organization_id = $1 and key = $2",
        organization_id,
        key
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.fingerprint != fingerprint {
        return Ok(Some(Begin::Mismatch));
    }
    Ok(Some(match row.status.and_then(|status| u16::try_from(status).ok()) {
        Some(status) => Begin::Replay(Answer {
            status,
            location: row.location,
            content_type: row.content_type,
            body: row.body.unwrap_or_default(),
        }),
        None => Begin::InProgress,
    }))
}

/// Stores the answer. Later requests with the key get it again.
pub async fn complete(
    db: &mut PgConnection,
    organization_id: Uuid,
    key: &str,
    answer: &Answer,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.idempotency_keys set status = $3, location = $4, content_type = $5, body = $6
         where organization_id = $1 and key = $2",
        organization_id,
        key,
        i16::try_from(answer.status).unwrap_or(i16::MAX),
        answer.location,
        answer.content_type,
        answer.body
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Forgets keys first seen before `before`. Answers how many.
pub async fn prune(db: &mut PgConnection, before: DateTime<Utc>) -> Result<u64, StoreError> {
    let done = sqlx::query!("delete from public.idempotency_keys where created_at < $1", before).execute(db).await?;
    Ok(done.rows_affected())
}
