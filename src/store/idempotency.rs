//! `public.idempotency_keys` (API-3): the first answer to a key is the answer.
//!
//! Called on a connection of its own, committed before the work begins: a second request with the key must see that the first is
//! under way. A crash in between leaves the key in progress until [`STALE`] has passed.

use chrono::{DateTime, Duration, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// After this long a request that never completed its key is taken for dead. Longer than any request may take.
pub const STALE: Duration = Duration::minutes(2);

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
    /// First seen, or its first request is dead: do the work, then [`complete`] or [`abandon`].
    New,
    /// Done before: give this answer again.
    Replay(Answer),
    /// The first request is still under way.
    InProgress,
    /// The key belongs to a different request.
    Mismatch,
}

/// Claims the key for a request whose method, path and body have the SHA-256 `fingerprint`.
pub async fn begin(
    db: &mut PgConnection,
    organization_id: Uuid,
    key: &str,
    fingerprint: &[u8],
    now: DateTime<Utc>,
) -> Result<Begin, StoreError> {
    let claimed = sqlx::query!(
        "insert into public.idempotency_keys as k (organization_id, key, fingerprint, created_at)
         values ($1, $2, $3, $4)
         on conflict (organization_id, key) do update set created_at = excluded.created_at
             where k.status is null and k.fingerprint = excluded.fingerprint and k.created_at < $5
         returning true as \"claimed!\"",
        organization_id,
        key,
        fingerprint,
        now,
        now - STALE
    )
    .fetch_optional(&mut *db)
    .await?;
    if claimed.is_some() {
        return Ok(Begin::New);
    }
    let row = sqlx::query!(
        "select fingerprint, status, location, content_type, body
         from public.idempotency_keys where organization_id = $1 and key = $2",
        organization_id,
        key
    )
    .fetch_optional(db)
    .await?;
    Ok(match row {
        Some(row) if row.fingerprint != fingerprint => Begin::Mismatch,
        Some(row) => match row.status.and_then(|status| u16::try_from(status).ok()) {
            Some(status) => Begin::Replay(Answer {
                status,
                location: row.location,
                content_type: row.content_type,
                body: row.body.unwrap_or_default(),
            }),
            None => Begin::InProgress,
        },
        // Abandoned between the two statements; the client's next try will find it free.
        None => Begin::InProgress,
    })
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

/// Gives the key back after a failure that a retry may mend.
pub async fn abandon(db: &mut PgConnection, organization_id: Uuid, key: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "delete from public.idempotency_keys where organization_id = $1 and key = $2 and status is null",
        organization_id,
        key
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
