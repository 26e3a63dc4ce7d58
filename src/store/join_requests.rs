//! `join_requests` (JOIN-1 to JOIN-6). Every change of status is one statement that says from which one it may be made, as
//! [`JoinStatus::after`] does.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError, count, stored};
use crate::domain::{
    JoinRequest, JoinStatus, NewJoinRequest,
    join_request::{DECISIONS_TOLD, PASSWORD_FOR, TOKENS_PER_WINDOW, VALID_FOR, WINDOW},
};

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    email: String,
    first_name: String,
    last_name: String,
    form: Value,
    schema_version: i32,
    language: String,
    status: String,
    token_number: i32,
    token_expires_at: Option<DateTime<Utc>>,
    confirmation_sent_at: Option<DateTime<Utc>>,
    send_error: Option<String>,
    submitted_at: Option<DateTime<Utc>>,
    decided_at: Option<DateTime<Utc>>,
    decided_by: Option<String>,
    user_id: Option<Uuid>,
    decision_sent_at: Option<DateTime<Utc>>,
    decision_error: Option<String>,
    decision_number: i32,
    password_expires_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for JoinRequest {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            email: stored("join_requests.email", &row.email)?,
            first_name: row.first_name,
            last_name: row.last_name,
            form: row.form,
            schema_version: row.schema_version,
            language: stored("join_requests.language", &row.language)?,
            status: stored("join_requests.status", &row.status)?,
            token_number: count("join_requests.token_number", row.token_number)?,
            token_expires_at: row.token_expires_at,
            confirmation_sent_at: row.confirmation_sent_at,
            send_error: row.send_error,
            submitted_at: row.submitted_at,
            decided_at: row.decided_at,
            decided_by: row.decided_by,
            user_id: row.user_id,
            decision_sent_at: row.decision_sent_at,
            decision_error: row.decision_error,
            decision_number: count("join_requests.decision_number", row.decision_number)?,
            password_until: row.password_expires_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// JOIN-1, JOIN-3: stores a request; of an address whose request is not confirmed yet, what was said last and a new token. `None`: the
/// address has a request that waits for a decision, or was given enough tokens within the hour. Then nothing changes.
pub async fn submit(
    db: &mut PgConnection,
    new: &NewJoinRequest,
    token_hash: [u8; 32],
    now: DateTime<Utc>,
) -> Result<Option<JoinRequest>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "insert into join_requests as r (id, email, email_key, first_name, last_name, form, schema_version, language, token_hash,
             token_expires_at, window_at, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $11)
         on conflict (email_key) where status in ('pending_confirmation', 'submitted') do update
             set email = excluded.email, first_name = excluded.first_name, last_name = excluded.last_name, form = excluded.form,
                 schema_version = excluded.schema_version, language = excluded.language, token_hash = excluded.token_hash,
                 token_expires_at = excluded.token_expires_at, token_number = r.token_number + 1, confirmation_sent_at = null,
                 send_error = null, updated_at = excluded.updated_at,
                 window_at = case when r.window_at <= $12 then excluded.window_at else r.window_at end,
                 window_tokens = case when r.window_at <= $12 then 1 else r.window_tokens + 1 end
             where r.status = 'pending_confirmation' and (r.window_at <= $12 or r.window_tokens < $13)
         returning id, email, first_name, last_name, form, schema_version, language, status, token_number, token_expires_at,
             confirmation_sent_at, send_error, submitted_at, decided_at, decided_by, user_id, decision_sent_at,
             decision_error, decision_number, password_expires_at, created_at, updated_at",
        Uuid::now_v7(),
        new.email.as_str(),
        new.email.key(),
        new.first_name,
        new.last_name,
        Value::Object(new.form.clone()),
        new.schema_version,
        new.language.as_str(),
        token_hash.as_slice(),
        now + VALID_FOR,
        now,
        now - WINDOW,
        TOKENS_PER_WINDOW
    )
    .fetch_optional(db)
    .await?;
    row.map(JoinRequest::try_from).transpose()
}

/// What a token is to the tables.
#[derive(Clone, Debug)]
pub enum Token {
    /// The present token of a request that is not confirmed. It may be past its time.
    Confirms(JoinRequest),
    /// It confirmed this one.
    Used(JoinRequest),
    /// With it a new member chooses a password. It may be past its time.
    ChoosesPassword { request: JoinRequest, until: DateTime<Utc> },
}

/// Which request the token belongs to, and how.
pub async fn by_token(db: &mut PgConnection, hash: &[u8; 32]) -> Result<Option<Token>, StoreError> {
    let row = sqlx::query!(
        r#"select id, email, first_name, last_name, form, schema_version, language, status, token_number, token_expires_at,
             confirmation_sent_at, send_error, submitted_at, decided_at, decided_by, user_id, decision_sent_at,
             decision_error, decision_number, password_expires_at, created_at, updated_at,
             coalesce(used_token_hash = $1, false) as "is_used!",
             coalesce(password_hash = $1, false) as "is_for_password!"
         from join_requests where token_hash = $1 or used_token_hash = $1 or password_hash = $1"#,
        hash.as_slice()
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (is_used, is_for_password, until) = (row.is_used, row.is_for_password, row.password_expires_at);
    let request = Row {
        id: row.id,
        email: row.email,
        first_name: row.first_name,
        last_name: row.last_name,
        form: row.form,
        schema_version: row.schema_version,
        language: row.language,
        status: row.status,
        token_number: row.token_number,
        token_expires_at: row.token_expires_at,
        confirmation_sent_at: row.confirmation_sent_at,
        send_error: row.send_error,
        submitted_at: row.submitted_at,
        decided_at: row.decided_at,
        decided_by: row.decided_by,
        user_id: row.user_id,
        decision_sent_at: row.decision_sent_at,
        decision_error: row.decision_error,
        decision_number: row.decision_number,
        password_expires_at: row.password_expires_at,
        created_at: row.created_at,
        updated_at: row.updated_at,
    };
    let request = JoinRequest::try_from(request)?;
    Ok(Some(match (is_for_password, until, is_used) {
        (true, Some(until), _) => Token::ChoosesPassword { request, until },
        (_, _, true) => Token::Used(request),
        _ => Token::Confirms(request),
    }))
}

/// JOIN-4: the address is proved. `None` unless it is the present token of a request that is not confirmed, and in time.
pub async fn confirm(
    db: &mut PgConnection,
    token_hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Option<JoinRequest>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update join_requests
         set status = 'submitted', used_token_hash = token_hash, token_hash = null, token_expires_at = null, submitted_at = $2,
             updated_at = $2
         where token_hash = $1 and status = 'pending_confirmation' and token_expires_at > $2
         returning id, email, first_name, last_name, form, schema_version, language, status, token_number, token_expires_at,
             confirmation_sent_at, send_error, submitted_at, decided_at, decided_by, user_id, decision_sent_at,
             decision_error, decision_number, password_expires_at, created_at, updated_at",
        token_hash.as_slice(),
        now
    )
    .fetch_optional(db)
    .await?;
    row.map(JoinRequest::try_from).transpose()
}

/// JOIN-5: the person is a member; if they choose a password, with the token of this hash. `None` unless it was submitted.
pub async fn approve(
    db: &mut PgConnection,
    (id, user_id): (Uuid, Uuid),
    password_token: Option<[u8; 32]>,
    by: &str,
    now: DateTime<Utc>,
) -> Result<Option<JoinRequest>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update join_requests
         set status = 'approved', user_id = $2, decided_by = $3, decided_at = $4, updated_at = $4, password_hash = $5,
             password_expires_at = case when $5::bytea is not null then $6::timestamptz end
         where id = $1 and status = 'submitted'
         returning id, email, first_name, last_name, form, schema_version, language, status, token_number, token_expires_at,
             confirmation_sent_at, send_error, submitted_at, decided_at, decided_by, user_id, decision_sent_at,
             decision_error, decision_number, password_expires_at, created_at, updated_at",
        id,
        user_id,
        by,
        now,
        password_token.as_ref().map(<[u8; 32]>::as_slice),
        now + PASSWORD_FOR
    )
    .fetch_optional(db)
    .await?;
    row.map(JoinRequest::try_from).transpose()
}

/// JOIN-5. `None` unless it was submitted.
pub async fn reject(
    db: &mut PgConnection,
    id: Uuid,
    by: &str,
    now: DateTime<Utc>,
) -> Result<Option<JoinRequest>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update join_requests set status = 'rejected', decided_by = $2, decided_at = $3, updated_at = $3
         where id = $1 and status = 'submitted'
         returning id, email, first_name, last_name, form, schema_version, language, status, token_number, token_expires_at,
             confirmation_sent_at, send_error, submitted_at, decided_at, decided_by, user_id, decision_sent_at,
             decision_error, decision_number, password_expires_at, created_at, updated_at",
        id,
        by,
        now
    )
    .fetch_optional(db)
    .await?;
    row.map(JoinRequest::try_from).transpose()
}

/// JOIN-5: the decision is to be told again, with a token of this hash if the person still chooses a password; an older one opens nothing.
/// `None` unless it was decided, and told fewer than [`DECISIONS_TOLD`] times.
pub async fn renew_decision(
    db: &mut PgConnection,
    id: Uuid,
    password_token: Option<[u8; 32]>,
    now: DateTime<Utc>,
) -> Result<Option<JoinRequest>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update join_requests
         set decision_number = decision_number + 1, decision_sent_at = null, decision_error = null, password_hash = $2,
             password_expires_at = case when $2::bytea is not null then $3::timestamptz end, updated_at = $4
         where id = $1 and decided_at is not null and decision_number < $5
         returning id, email, first_name, last_name, form, schema_version, language, status, token_number, token_expires_at,
             confirmation_sent_at, send_error, submitted_at, decided_at, decided_by, user_id, decision_sent_at,
             decision_error, decision_number, password_expires_at, created_at, updated_at",
        id,
        password_token.as_ref().map(<[u8; 32]>::as_slice),
        now + PASSWORD_FOR,
        now,
        DECISIONS_TOLD
    )
    .fetch_optional(db)
    .await?;
    row.map(JoinRequest::try_from).transpose()
}

/// Uses the token with which a new member chooses a password up; whoever has it has the mail. Answers whose, unless it is past its time or
/// was used.
pub async fn use_password_token(
    db: &mut PgConnection,
    hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Option<JoinRequest>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update join_requests
         set password_hash = null, password_expires_at = null, decision_sent_at = coalesce(decision_sent_at, $2),
             decision_error = null, updated_at = $2
         where password_hash = $1 and password_expires_at > $2
         returning id, email, first_name, last_name, form, schema_version, language, status, token_number, token_expires_at,
             confirmation_sent_at, send_error, submitted_at, decided_at, decided_by, user_id, decision_sent_at,
             decision_error, decision_number, password_expires_at, created_at, updated_at",
        hash.as_slice(),
        now
    )
    .fetch_optional(db)
    .await?;
    row.map(JoinRequest::try_from).transpose()
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<JoinRequest>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, email, first_name, last_name, form, schema_version, language, status, token_number, token_expires_at,
             confirmation_sent_at, send_error, submitted_at, decided_at, decided_by, user_id, decision_sent_at,
             decision_error, decision_number, password_expires_at, created_at, updated_at
         from join_requests where id = $1",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(JoinRequest::try_from).transpose()
}

/// As [`by_id`], locked until the end of the transaction.
pub async fn lock(db: &mut PgConnection, id: Uuid) -> Result<Option<JoinRequest>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, email, first_name, last_name, form, schema_version, language, status, token_number, token_expires_at,
             confirmation_sent_at, send_error, submitted_at, decided_at, decided_by, user_id, decision_sent_at,
             decision_error, decision_number, password_expires_at, created_at, updated_at
         from join_requests where id = $1
         for update",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(JoinRequest::try_from).transpose()
}

/// Requests with the status, or all.
pub async fn page(
    db: &mut PgConnection,
    status: Option<JoinStatus>,
    page: Page,
) -> Result<Vec<JoinRequest>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, email, first_name, last_name, form, schema_version, language, status, token_number, token_expires_at,
             confirmation_sent_at, send_error, submitted_at, decided_at, decided_by, user_id, decision_sent_at,
             decision_error, decision_number, password_expires_at, created_at, updated_at
         from join_requests where true",
    );
    if let Some(status) = status {
        query.push(" and status = ").push_bind(status.as_str());
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(JoinRequest::try_from).collect()
}

/// JOIN-2: the mail server took the mail with the n-th token. False if that is not the present token, or it was noted before.
pub async fn mark_confirmation_sent(
    db: &mut PgConnection,
    (id, number): (Uuid, u32),
    at: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update join_requests set confirmation_sent_at = $3, send_error = null
         where id = $1 and token_number = $2 and confirmation_sent_at is null",
        id,
        number.cast_signed(),
        at
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// There will be no mail with the token of this hash. False if it is not the present one, or its mail was sent.
pub async fn mark_failed(
    db: &mut PgConnection,
    (id, token_hash): (Uuid, [u8; 32]),
    error: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update join_requests set send_error = $3
         where id = $1 and token_hash = $2 and confirmation_sent_at is null",
        id,
        token_hash.as_slice(),
        error
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The mail server took the n-th mail that tells of the decision. False if that is not the present one, or it was noted before.
pub async fn mark_decision_sent(
    db: &mut PgConnection,
    (id, number): (Uuid, u32),
    at: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update join_requests set decision_sent_at = $3, decision_error = null
         where id = $1 and decision_number = $2 and decided_at is not null and decision_sent_at is null",
        id,
        number.cast_signed(),
        at
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// There will be no n-th mail that tells of the decision. False if that is not the present one, with the token of this hash if it has
/// one, or it was sent.
pub async fn mark_decision_failed(
    db: &mut PgConnection,
    (id, number): (Uuid, u32),
    password_token: Option<[u8; 32]>,
    error: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update join_requests set decision_error = $4
         where id = $1 and decision_number = $2 and password_hash is not distinct from $3 and decided_at is not null
           and decision_sent_at is null",
        id,
        number.cast_signed(),
        password_token.as_ref().map(<[u8; 32]>::as_slice),
        error
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// JOIN-6: deletes requests that nobody has confirmed, and that were renewed or made no later than `before`; at most so many. Whose
/// link is still good stays. Answers how many tokens each had.
pub async fn delete_unconfirmed(
    db: &mut PgConnection,
    (before, now): (DateTime<Utc>, DateTime<Utc>),
    limit: i64,
) -> Result<Vec<(Uuid, u32)>, StoreError> {
    let rows = sqlx::query!(
        "delete from join_requests where id in (
             select id from join_requests
             where status = 'pending_confirmation' and created_at <= $1 and updated_at <= $1 and token_expires_at <= $2
             order by created_at limit $3 for update skip locked)
         returning id, token_number",
        before,
        now,
        limit
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(|row| Ok((row.id, count("join_requests.token_number", row.token_number)?))).collect()
}

#[cfg(test)]
mod tests;
