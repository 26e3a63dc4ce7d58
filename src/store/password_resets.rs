//! `public.password_resets` (AUTH-5): links by which people who have forgotten their password set another. A person has one at most; a
//! newer one takes its place.

use chrono::{DateTime, Duration, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use crate::domain::join_request::{TOKENS_PER_WINDOW, WINDOW};

/// How long a link is good.
pub const VALID_FOR: Duration = Duration::hours(1);

/// A link, whatever it is still good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordReset {
    pub user_id: Uuid,
    /// In whose name it was mailed.
    pub organization_id: Uuid,
    /// The job that made it.
    pub request_id: Uuid,
    pub expires_at: DateTime<Utc>,
    pub used_at: Option<DateTime<Utc>>,
}

/// Gives the person a new link in the place of any other. False if this request or a later one gave them the present one, or they were given
/// enough within the hour; then nothing changes. Requests are UUIDv7: later ones are larger.
pub async fn renew(
    db: &mut PgConnection,
    (user_id, organization_id): (Uuid, Uuid),
    (request_id, token_hash): (Uuid, [u8; 32]),
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "insert into public.password_resets as r (user_id, organization_id, request_id, token_hash, expires_at, window_at)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (user_id) do update
             set organization_id = excluded.organization_id, request_id = excluded.request_id, token_hash = excluded.token_hash,
                 expires_at = excluded.expires_at, used_at = null,
                 window_at = case when r.window_at <= $7 then excluded.window_at else r.window_at end,
                 window_tokens = case when r.window_at <= $7 then 1 else r.window_tokens + 1 end
             where excluded.request_id > r.request_id and (r.window_at <= $7 or r.window_tokens < $8)",
        user_id,
        organization_id,
        request_id,
        token_hash.as_slice(),
        now + VALID_FOR,
        now,
        now - WINDOW,
        TOKENS_PER_WINDOW
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The link whose token has this hash.
pub async fn by_token(db: &mut PgConnection, hash: &[u8; 32]) -> Result<Option<PasswordReset>, StoreError> {
    Ok(sqlx::query_as!(
        PasswordReset,
        "select user_id, organization_id, request_id, expires_at, used_at from public.password_resets where token_hash = $1",
        hash.as_slice()
    )
    .fetch_optional(db)
    .await?)
}

/// Uses the link up. `None` if it was used, has expired, or is not the present one.
pub async fn use_up(
    db: &mut PgConnection,
    hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Option<PasswordReset>, StoreError> {
    Ok(sqlx::query_as!(
        PasswordReset,
        "update public.password_resets set used_at = $2
         where token_hash = $1 and used_at is null and expires_at > $2
         returning user_id, organization_id, request_id, expires_at, used_at",
        hash.as_slice(),
        now
    )
    .fetch_optional(db)
    .await?)
}

/// The person's link, if it has not been used, opens nothing any more. Call it before what locks the person: that is the order in which a
/// link is used.
pub async fn expire(db: &mut PgConnection, user_id: Uuid, now: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.password_resets set expires_at = $2 where user_id = $1 and used_at is null and expires_at > $2",
        user_id,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Forgets links that expired before then. Answers how many.
pub async fn prune(db: &mut PgConnection, before: DateTime<Utc>) -> Result<u64, StoreError> {
    let done = sqlx::query!("delete from public.password_resets where expires_at < $1", before).execute(db).await?;
    Ok(done.rows_affected())
}
