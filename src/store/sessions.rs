//! `public.sessions` and `public.refresh_tokens` (AUTH-2): a sign-in, and the tokens that it was prolonged with. A refresh token is
//! used once; used a second time it was stolen, or its answer was lost, and the session ends.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Duration, Utc};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, stored};
use crate::domain::{PasswordHash, Role};

/// What refresh tokens begin with, so that one is recognised where it should not be.
const LEAD: &str = "brt_";

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    SignedOut,
    /// A refresh token came a second time.
    TokenReused,
    PasswordChanged,
    MemberRemoved,
}

impl EndReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::SignedOut => "signed_out",
            Self::TokenReused => "token_reused",
            Self::PasswordChanged => "password_changed",
            Self::MemberRemoved => "member_removed",
        }
    }
}

/// A session's first or next refresh token. The token is told this once; the database has its hash.
#[derive(Debug)]
pub struct Refresh {
    pub session_id: Uuid,
    pub user_id: Uuid,
    pub organization_id: Uuid,
    pub token: SecretString,
    pub expires_at: DateTime<Utc>,
}

/// What a refresh token is good for.
#[derive(Debug)]
pub enum Rotated {
    /// It is used up; this is the next one.
    Next(Refresh),
    Unknown,
    Expired,
    /// It was used before: end the session.
    Reused {
        session_id: Uuid,
    },
    /// Its session has ended.
    Ended,
}

/// Begins a session.
pub async fn begin(
    db: &mut PgConnection,
    (organization_id, user_id): (Uuid, Uuid),
    now: DateTime<Utc>,
    lasts: Duration,
) -> Result<Refresh, StoreError> {
    let session_id = Uuid::now_v7();
    sqlx::query!(
        "insert into public.sessions (id, user_id, organization_id, created_at) values ($1, $2, $3, $4)",
        session_id,
        user_id,
        organization_id,
        now
    )
    .execute(&mut *db)
    .await?;
    issue(db, (session_id, user_id, organization_id), now, lasts).await
}

/// As [`begin`], for somebody who has shown this password. `None` if it is no longer theirs, or sign-in no longer opens the organization
/// to them. Whoever changes either at the same moment is first, or waits until the transaction ends and then finds the session.
pub async fn begin_signed_in(
    db: &mut PgConnection,
    (organization_id, user_id): (Uuid, Uuid),
    password: &PasswordHash,
    now: DateTime<Utc>,
    lasts: Duration,
) -> Result<Option<Refresh>, StoreError> {
    let session_id = Uuid::now_v7();
    let begun = sqlx::query!(
        "insert into public.sessions (id, user_id, organization_id, created_at)
         select $1::uuid, u.id, m.organization_id, $5::timestamptz
         from public.users u join public.organization_members m on m.user_id = u.id
         where u.id = $2 and m.organization_id = $3 and u.password_hash = $4 and m.ended_at is null
           and (u.confirmed_at is not null or u.made_in = m.organization_id)
         for share of m, u",
        session_id,
        user_id,
        organization_id,
        password.as_str(),
        now
    )
    .execute(&mut *db)
    .await?;
    if begun.rows_affected() == 0 {
        return Ok(None);
    }
    issue(db, (session_id, user_id, organization_id), now, lasts).await.map(Some)
}

/// 32 random bytes in base64url.
async fn issue(
    db: &mut PgConnection,
    (session_id, user_id, organization_id): (Uuid, Uuid, Uuid),
    now: DateTime<Utc>,
    lasts: Duration,
) -> Result<Refresh, StoreError> {
    let token = SecretString::from(format!("{LEAD}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())));
    let expires_at = now + lasts;
    sqlx::query!(
        "insert into public.refresh_tokens (token_hash, session_id, created_at, expires_at) values ($1, $2, $3, $4)",
        hash(&token),
        session_id,
        now,
        expires_at
    )
    .execute(db)
    .await?;
    Ok(Refresh { session_id, user_id, organization_id, token, expires_at })
}

/// A token has 256 random bits, so an indexed look-up by its hash tells a guesser nothing.
fn hash(token: &SecretString) -> Vec<u8> {
    Sha256::digest(token.expose_secret()).to_vec()
}

/// Exchanges the token for the next one of its session.
pub async fn rotate(
    db: &mut PgConnection,
    token: &SecretString,
    now: DateTime<Utc>,
    lasts: Duration,
) -> Result<Rotated, StoreError> {
    let used = sqlx::query!(
        "update public.refresh_tokens t set used_at = $2
         from public.sessions s
         where t.token_hash = $1 and s.id = t.session_id and t.used_at is null and t.expires_at > $2
           and s.ended_at is null
         returning s.id, s.user_id, s.organization_id",
        hash(token),
        now
    )
    .fetch_optional(&mut *db)
    .await?;
    if let Some(session) = used {
        let session = (session.id, session.user_id, session.organization_id);
        return Ok(Rotated::Next(issue(db, session, now, lasts).await?));
    }
    let found = sqlx::query!(
        "select t.session_id, t.used_at, s.ended_at
         from public.refresh_tokens t join public.sessions s on s.id = t.session_id where t.token_hash = $1",
        hash(token)
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(found) = found else { return Ok(Rotated::Unknown) };
    if found.used_at.is_some() {
        return Ok(Rotated::Reused { session_id: found.session_id });
    }
    Ok(if found.ended_at.is_some() { Rotated::Ended } else { Rotated::Expired })
}

/// The token's session, and the organization that it is in, whatever the token is still good for.
pub async fn of_token(db: &mut PgConnection, token: &SecretString) -> Result<Option<(Uuid, Uuid)>, StoreError> {
    let row = sqlx::query!(
        "select s.id, s.organization_id from public.refresh_tokens t join public.sessions s on s.id = t.session_id
         where t.token_hash = $1",
        hash(token)
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (row.id, row.organization_id)))
}

/// A session and the membership that it rests on, as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub user_id: Uuid,
    pub organization_id: Uuid,
    pub role: Role,
    pub company_id: Option<Uuid>,
}

/// `None`: the session has ended, or the person has left the organization.
pub async fn standing(db: &mut PgConnection, session_id: Uuid) -> Result<Option<Standing>, StoreError> {
    let row = sqlx::query!(
        "select s.user_id, s.organization_id, m.role, m.company_id
         from public.sessions s
              join public.organization_members m on m.organization_id = s.organization_id and m.user_id = s.user_id
         where s.id = $1 and s.ended_at is null and m.ended_at is null",
        session_id
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        Ok(Standing {
            user_id: row.user_id,
            organization_id: row.organization_id,
            role: stored("organization_members.role", &row.role)?,
            company_id: row.company_id,
        })
    })
    .transpose()
}

/// Ends the session. False if it had ended.
pub async fn end(
    db: &mut PgConnection,
    session_id: Uuid,
    reason: EndReason,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update public.sessions set ended_at = $2, end_reason = $3 where id = $1 and ended_at is null",
        session_id,
        now,
        reason.as_str()
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends the session that the token belongs to. Answers its organization, if the token is one and the session had not ended.
pub async fn end_by_token(
    db: &mut PgConnection,
    token: &SecretString,
    now: DateTime<Utc>,
) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        "update public.sessions s set ended_at = $2, end_reason = $3
         from public.refresh_tokens t
         where t.token_hash = $1 and s.id = t.session_id and s.ended_at is null
         returning s.organization_id",
        hash(token),
        now,
        EndReason::SignedOut.as_str()
    )
    .fetch_optional(db)
    .await?)
}

/// Ends the person's sessions: in one organization or everywhere, all or all but one. Answers how many.
pub async fn end_all(
    db: &mut PgConnection,
    user_id: Uuid,
    (organization_id, but): (Option<Uuid>, Option<Uuid>),
    reason: EndReason,
    now: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update public.sessions set ended_at = $4, end_reason = $5
         where user_id = $1 and ended_at is null and ($2::uuid is null or organization_id = $2)
           and ($3::uuid is null or id <> $3)",
        user_id,
        organization_id,
        but,
        now,
        reason.as_str()
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Forgets sessions whose every token expired before then. Answers how many.
pub async fn prune(db: &mut PgConnection, before: DateTime<Utc>) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from public.sessions s
         where s.created_at < $1
           and not exists (select from public.refresh_tokens t where t.session_id = s.id and t.expires_at >= $1)",
        before
    )
    .execute(&mut *db)
    .await?;
    Ok(done.rows_affected())
}

/// Forgets tokens that expired before then, of sessions that go on. Answers how many.
pub async fn prune_tokens(db: &mut PgConnection, before: DateTime<Utc>) -> Result<u64, StoreError> {
    let done = sqlx::query!("delete from public.refresh_tokens where expires_at < $1", before).execute(db).await?;
    Ok(done.rows_affected())
}
