//! `invitations` (WORK-3 to WORK-6). Every change of state is one statement that says from which states it may be made, as
//! [`InvitationState::after`] does.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError, count, stored};
use crate::domain::{EmailAddress, Invitation, InvitationState, Language, invitation::VALID_FOR};

const CONSTRAINTS: &[(&str, &str, &str)] =
    &[("invitations_open_key", "email", "has an open invitation to this workspace already; send that one again")];

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    workspace_id: Uuid,
    email: String,
    language: String,
    invited_by: Uuid,
    state: String,
    token_number: i32,
    token_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    sent_at: Option<DateTime<Utc>>,
    send_error: Option<String>,
    accepted_by: Option<Uuid>,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Invitation {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            workspace_id: row.workspace_id,
            email: stored("invitations.email", &row.email)?,
            language: stored("invitations.language", &row.language)?,
            invited_by: row.invited_by,
            state: stored("invitations.state", &row.state)?,
            token_number: count("invitations.token_number", row.token_number)?,
            token_at: row.token_at,
            expires_at: row.expires_at,
            sent_at: row.sent_at,
            send_error: row.send_error,
            accepted_by: row.accepted_by,
            created_at: row.created_at,
            ended_at: row.ended_at,
        })
    }
}

/// An invitation to be stored.
#[derive(Clone, Debug)]
pub struct NewInvitation<'a> {
    pub workspace_id: Uuid,
    pub email: &'a EmailAddress,
    pub language: Language,
    pub invited_by: Uuid,
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
}

/// Stores an invitation. [`StoreError::Conflict`] if the address has an open one to this workspace; one that is past its time and
/// not swept yet is in nobody's way, and is answered with it. The caller holds the workspace.
pub async fn insert(
    db: &mut PgConnection,
    new: &NewInvitation<'_>,
    now: DateTime<Utc>,
) -> Result<(Invitation, Option<Uuid>), StoreError> {
    let key = new.email.key();
    let expired = sqlx::query_scalar!(
        "update invitations set state = 'expired', ended_at = $3
         where workspace_id = $1 and email_key = $2 and state = 'open' and expires_at <= $3
         returning id",
        new.workspace_id,
        key,
        now
    )
    .fetch_optional(&mut *db)
    .await?;
    let row = sqlx::query_as!(
        Row,
        "insert into invitations (id, workspace_id, email, email_key, language, invited_by, token_hash, token_at, expires_at,
             created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $8)
         returning id, workspace_id, email, language, invited_by, state, token_number, token_at, expires_at, sent_at,
             send_error, accepted_by, created_at, ended_at",
        Uuid::now_v7(),
        new.workspace_id,
        new.email.as_str(),
        key,
        new.language.as_str(),
        new.invited_by,
        new.token_hash.as_slice(),
        now,
        now + VALID_FOR
    )
    .fetch_one(db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    Ok((row.try_into()?, expired))
}

/// The invitation whose present token has this hash.
pub async fn by_token(db: &mut PgConnection, hash: &[u8; 32]) -> Result<Option<Invitation>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, workspace_id, email, language, invited_by, state, token_number, token_at, expires_at, sent_at, send_error,
             accepted_by, created_at, ended_at
         from invitations where token_hash = $1",
        hash.as_slice()
    )
    .fetch_optional(db)
    .await?;
    row.map(Invitation::try_from).transpose()
}

/// As [`by_token`], locked until the end of the transaction. The caller holds the workspace.
pub async fn lock_by_token(db: &mut PgConnection, hash: &[u8; 32]) -> Result<Option<Invitation>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, workspace_id, email, language, invited_by, state, token_number, token_at, expires_at, sent_at, send_error,
             accepted_by, created_at, ended_at
         from invitations where token_hash = $1
         for update",
        hash.as_slice()
    )
    .fetch_optional(db)
    .await?;
    row.map(Invitation::try_from).transpose()
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<Invitation>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, workspace_id, email, language, invited_by, state, token_number, token_at, expires_at, sent_at, send_error,
             accepted_by, created_at, ended_at
         from invitations where id = $1",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(Invitation::try_from).transpose()
}

/// Which invitations. All given conditions hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct InvitationFilter {
    pub workspace_id: Option<Uuid>,
    /// As [`Invitation::state_at`] tells it.
    pub state: Option<InvitationState>,
}

pub async fn page(
    db: &mut PgConnection,
    filter: &InvitationFilter,
    page: Page,
    now: DateTime<Utc>,
) -> Result<Vec<Invitation>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, workspace_id, email, language, invited_by, state, token_number, token_at, expires_at, sent_at, send_error,
             accepted_by, created_at, ended_at
         from invitations where true",
    );
    if let Some(workspace) = filter.workspace_id {
        query.push(" and workspace_id = ").push_bind(workspace);
    }
    if let Some(state) = filter.state {
        query.push(" and case when state = 'open' and expires_at <= ").push_bind(now);
        query.push(" then 'expired' else state end = ").push_bind(state.as_str());
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(Invitation::try_from).collect()
}

/// A new token and seven days more, for one that is open or has expired; the old token opens nothing from now on. `None` if there is
/// no such invitation. [`StoreError::Conflict`] if the address has another open one to the workspace.
pub async fn renew(
    db: &mut PgConnection,
    id: Uuid,
    token_hash: [u8; 32],
    now: DateTime<Utc>,
) -> Result<Option<Invitation>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update invitations set state = 'open', ended_at = null, token_hash = $2, token_number = token_number + 1,
             token_at = $3, expires_at = $4, sent_at = null, send_error = null
         where id = $1 and state in ('open', 'expired')
         returning id, workspace_id, email, language, invited_by, state, token_number, token_at, expires_at, sent_at,
             send_error, accepted_by, created_at, ended_at",
        id,
        token_hash.as_slice(),
        now,
        now + VALID_FOR
    )
    .fetch_optional(db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    row.map(Invitation::try_from).transpose()
}

/// False unless it was open.
pub async fn revoke(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update invitations set state = 'revoked', ended_at = $2 where id = $1 and state = 'open'",
        id,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Revokes what a workspace has open; answers which.
pub async fn revoke_all(db: &mut PgConnection, workspace: Uuid, now: DateTime<Utc>) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        "update invitations set state = 'revoked', ended_at = $2 where workspace_id = $1 and state = 'open' returning id",
        workspace,
        now
    )
    .fetch_all(db)
    .await?)
}

/// False unless it was open and within its time.
pub async fn accept(db: &mut PgConnection, (id, user): (Uuid, Uuid), now: DateTime<Utc>) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update invitations set state = 'accepted', accepted_by = $2, ended_at = $3
         where id = $1 and state = 'open' and expires_at > $3",
        id,
        user,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends at most `limit` invitations whose time is over; answers each with its workspace. One that somebody has just locked is left
/// for the next time.
pub async fn expire(db: &mut PgConnection, now: DateTime<Utc>, limit: i64) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
    let rows = sqlx::query!(
        "update invitations set state = 'expired', ended_at = $1
         where id in (select id from invitations where state = 'open' and expires_at <= $1
                      order by expires_at limit $2 for update skip locked)
           and state = 'open'
         returning id, workspace_id",
        now,
        limit
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.workspace_id)).collect())
}

/// The mail server took the mail with this token. False if the token is not the present one any more, or this was recorded before.
pub async fn mark_sent(
    db: &mut PgConnection,
    (id, token_number): (Uuid, u32),
    at: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update invitations set sent_at = $3, send_error = null where id = $1 and token_number = $2 and sent_at is null",
        id,
        token_number.cast_signed(),
        at
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// There will be no mail with this token. False if the token is not the present one any more, was sent, or this was recorded before.
pub async fn mark_failed(
    db: &mut PgConnection,
    (id, token_hash): (Uuid, [u8; 32]),
    error: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update invitations set send_error = $3
         where id = $1 and token_hash = $2 and state = 'open' and sent_at is null and send_error is null",
        id,
        token_hash.as_slice(),
        error
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// How many tokens were made by invitations that had one since then, of the organization and of those by one person.
pub async fn tokens_by(db: &mut PgConnection, person: Uuid, since: DateTime<Utc>) -> Result<(i64, i64), StoreError> {
    let row = sqlx::query!(
        r#"select coalesce(sum(token_number), 0) as "all!",
                  coalesce(sum(token_number) filter (where invited_by = $1), 0) as "own!"
           from invitations where token_at > $2"#,
        person,
        since
    )
    .fetch_one(db)
    .await?;
    Ok((row.all, row.own))
}

/// How many tokens were made for an address, into whichever workspace, by invitations that had one since then: at least as many as
/// mails.
pub async fn tokens_for(db: &mut PgConnection, email: &EmailAddress, since: DateTime<Utc>) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"select coalesce(sum(token_number), 0) as "count!" from invitations where email_key = $1 and token_at > $2"#,
        email.key(),
        since
    )
    .fetch_one(db)
    .await?)
}
