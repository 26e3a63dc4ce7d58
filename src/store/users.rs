//! `public.users` (AUTH-1): people, one row each in the whole installation.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, stored};
use crate::domain::{EmailAddress, Language, NewUser, PasswordHash, User};

pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) email: String,
    pub(super) name: String,
    pub(super) language: String,
    pub(super) confirmed_at: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for User {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(User {
            id: row.id,
            email: stored("users.email", &row.email)?,
            name: row.name,
            language: stored("users.language", &row.language)?,
            confirmed_at: row.confirmed_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Stores a person. A conflict on `email` if the address, in whatever case, is somebody's already; the transaction goes on.
pub async fn create(db: &mut PgConnection, new: &NewUser, now: DateTime<Utc>) -> Result<User, StoreError> {
    create_in(db, new, None, now).await
}

/// As [`create`], by an organization: until the address is proved, sign-in opens no other.
pub async fn create_in(
    db: &mut PgConnection,
    new: &NewUser,
    made_in: Option<Uuid>,
    now: DateTime<Utc>,
) -> Result<User, StoreError> {
    let id = Uuid::now_v7();
    let done = sqlx::query!(
        "insert into public.users
             (id, email, email_key, name, language, password_hash, confirmed_at, made_in, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
         on conflict (email_key) do nothing",
        id,
        new.email.as_str(),
        new.email.key(),
        new.name,
        new.language.as_str(),
        new.password.as_ref().map(PasswordHash::as_str),
        new.confirmed_at,
        made_in,
        now
    )
    .execute(db)
    .await?;
    if done.rows_affected() == 0 {
        return Err(StoreError::Conflict { field: "email", message: "belongs to a person already".to_owned() });
    }
    let NewUser { email, name, language, confirmed_at, .. } = new.clone();
    Ok(User { id, email, name, language, confirmed_at, created_at: now, updated_at: now })
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<User>, StoreError> {
    Ok(by_ids(db, &[id]).await?.pop())
}

/// Those of these people that there are, oldest first.
pub async fn by_ids(db: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<User>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select id, email, name, language, confirmed_at, created_at, updated_at
         from public.users where id = any($1::uuid[]) order by id",
        ids
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(User::try_from).collect()
}

/// Whose address it is, in whatever case it is written.
pub async fn by_email(db: &mut PgConnection, email: &EmailAddress) -> Result<Option<User>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, email, name, language, confirmed_at, created_at, updated_at
         from public.users where email_key = $1",
        email.key()
    )
    .fetch_optional(db)
    .await?;
    row.map(User::try_from).transpose()
}

/// Changes what the person says of themselves; `None` leaves it. `None` if there is no such person.
pub async fn change(
    db: &mut PgConnection,
    id: Uuid,
    name: Option<&str>,
    language: Option<Language>,
    now: DateTime<Utc>,
) -> Result<Option<User>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update public.users set name = coalesce($2, name), language = coalesce($3, language), updated_at = $4
         where id = $1
         returning id, email, name, language, confirmed_at, created_at, updated_at",
        id,
        name,
        language.map(Language::as_str),
        now
    )
    .fetch_optional(db)
    .await?;
    row.map(User::try_from).transpose()
}

/// The address is proved to be the person's. The first time counts, and leaves `password` as the only one: what was there before,
/// somebody else may have set. False if it was proved before; then nothing changes.
pub async fn prove(
    db: &mut PgConnection,
    id: Uuid,
    password: Option<&PasswordHash>,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update public.users set confirmed_at = $3, password_hash = $2, updated_at = $3 where id = $1 and confirmed_at is null",
        id,
        password.map(PasswordHash::as_str),
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Sets the password, whatever it was, of somebody who has shown that the address is theirs.
pub async fn reset_password(
    db: &mut PgConnection,
    id: Uuid,
    password: &PasswordHash,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.users set password_hash = $2, confirmed_at = coalesce(confirmed_at, $3), updated_at = $3 where id = $1",
        id,
        password.as_str(),
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// What a person signs in with.
pub struct Credentials {
    pub user_id: Uuid,
    /// `None`: nobody signs in with a password.
    pub password: Option<PasswordHash>,
}

/// What the owner of the address signs in with.
pub async fn credentials(db: &mut PgConnection, email: &EmailAddress) -> Result<Option<Credentials>, StoreError> {
    let row = sqlx::query!("select id, password_hash from public.users where email_key = $1", email.key())
        .fetch_optional(db)
        .await?;
    Ok(row.map(|row| Credentials { user_id: row.id, password: row.password_hash.map(PasswordHash::stored) }))
}

/// What the person signs in with.
pub async fn password(db: &mut PgConnection, id: Uuid) -> Result<Option<PasswordHash>, StoreError> {
    let hash =
        sqlx::query_scalar!("select password_hash from public.users where id = $1", id).fetch_optional(db).await?;
    Ok(hash.flatten().map(PasswordHash::stored))
}

/// Sets the password, if what is stored is still `old`: of two changes at once one counts.
pub async fn set_password(
    db: &mut PgConnection,
    id: Uuid,
    old: Option<&PasswordHash>,
    new: &PasswordHash,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update public.users set password_hash = $3, updated_at = $4
         where id = $1 and password_hash is not distinct from $2",
        id,
        old.map(PasswordHash::as_str),
        new.as_str(),
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}
