//! `public.organization_members` (AUTH-1): what a person is in an organization. Who has left keeps a row with its end; every
//! function here but [`has_ended`] sees those only who have not.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, organizations, stored, users};
use crate::domain::{Organization, Role, User};

/// A person's place in an organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub organization_id: Uuid,
    pub user_id: Uuid,
    pub role: Role,
    /// A customer's company; nobody else has one.
    pub company_id: Option<Uuid>,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    Yes,
    NotAMember,
    /// Nobody would be left to run the organization.
    LastAdmin,
}

/// Makes the person a member, also one who was one before. False if they are one already; then nothing changes. Only a customer has a company, and every
/// customer has one.
pub async fn add(
    db: &mut PgConnection,
    organization_id: Uuid,
    user_id: Uuid,
    role: Role,
    company_id: Option<Uuid>,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "insert into public.organization_members as m (organization_id, user_id, role, company_id, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $5)
         on conflict (organization_id, user_id) do update
             set role = excluded.role, company_id = excluded.company_id, created_at = excluded.created_at,
                 updated_at = excluded.updated_at, ended_at = null
             where m.ended_at is not null",
        organization_id,
        user_id,
        role.as_str(),
        company_id,
        now
    )
    .execute(db)
    .await
    .map_err(|e| {
        StoreError::from_constraint(
            e,
            &[("organization_members_company_id_check", "company_id", "belongs to customers, and to each of them")],
        )
    })?;
    Ok(done.rows_affected() == 1)
}

/// What became of somebody who lets themselves in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetIn {
    Came,
    /// They were a member before.
    Was,
    /// Somebody took them out: only an admin lets them in again.
    Ended,
}

/// Makes somebody a member, with the role `user`, who was none before. Until the transaction ends nobody takes them out: whoever does
/// so at the same moment is first, or waits.
pub async fn let_in(
    db: &mut PgConnection,
    organization_id: Uuid,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> Result<LetIn, StoreError> {
    let done = sqlx::query!(
        "insert into public.organization_members (organization_id, user_id, role, created_at, updated_at)
         values ($1, $2, 'user', $3, $3)
         on conflict (organization_id, user_id) do nothing",
        organization_id,
        user_id,
        now
    )
    .execute(&mut *db)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(LetIn::Came);
    }
    let standing = sqlx::query_scalar!(
        "select organization_id from public.organization_members
         where organization_id = $1 and user_id = $2 and ended_at is null
         for share",
        organization_id,
        user_id
    )
    .fetch_optional(db)
    .await?;
    Ok(if standing.is_some() { LetIn::Was } else { LetIn::Ended })
}

pub async fn find(
    db: &mut PgConnection,
    organization_id: Uuid,
    user_id: Uuid,
) -> Result<Option<Membership>, StoreError> {
    let row = sqlx::query!(
        "select role, company_id, created_at from public.organization_members
         where organization_id = $1 and user_id = $2 and ended_at is null",
        organization_id,
        user_id
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        let role = stored("organization_members.role", &row.role)?;
        Ok(Membership { organization_id, user_id, role, company_id: row.company_id, created_at: row.created_at })
    })
    .transpose()
}

/// Whether the person works in the organization: is a member, and no customer.
pub async fn works_in(db: &mut PgConnection, organization_id: Uuid, user_id: Uuid) -> Result<bool, StoreError> {
    let membership = find(db, organization_id, user_id).await?;
    Ok(membership.is_some_and(|membership| membership.role != Role::Customer))
}

/// As [`find`], and nobody ends or changes the membership until this transaction ends.
pub async fn lock(
    db: &mut PgConnection,
    organization_id: Uuid,
    user_id: Uuid,
) -> Result<Option<Membership>, StoreError> {
    let row = sqlx::query!(
        "select role, company_id, created_at from public.organization_members
         where organization_id = $1 and user_id = $2 and ended_at is null for no key update",
        organization_id,
        user_id
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        let role = stored("organization_members.role", &row.role)?;
        Ok(Membership { organization_id, user_id, role, company_id: row.company_id, created_at: row.created_at })
    })
    .transpose()
}

/// Whether the person was a member and is not any more: only an admin lets them in again.
pub async fn has_ended(db: &mut PgConnection, organization_id: Uuid, user_id: Uuid) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"select exists (
             select from public.organization_members
             where organization_id = $1 and user_id = $2 and ended_at is not null) as "ended!""#,
        organization_id,
        user_id
    )
    .fetch_one(db)
    .await?)
}

/// Where the person may sign in, in the order in which they joined: where they are a member, and as long as their address is not
/// proved only where the account was made.
pub async fn of_user(db: &mut PgConnection, user_id: Uuid) -> Result<Vec<(Membership, Organization)>, StoreError> {
    let rows = sqlx::query!(
        "select m.organization_id, m.role, m.company_id, m.created_at
         from public.organization_members m join public.users u on u.id = m.user_id
         where m.user_id = $1 and m.ended_at is null and (u.confirmed_at is not null or u.made_in = m.organization_id)
         order by m.created_at, m.organization_id",
        user_id
    )
    .fetch_all(&mut *db)
    .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(organization) = organizations::by_id(&mut *db, row.organization_id).await? else { continue };
        let membership = Membership {
            organization_id: row.organization_id,
            user_id,
            role: stored("organization_members.role", &row.role)?,
            company_id: row.company_id,
            created_at: row.created_at,
        };
        found.push((membership, organization));
    }
    Ok(found)
}

/// The organization's people with the role, if one is named, in the order of their ids, after `after`.
pub async fn page(
    db: &mut PgConnection,
    organization_id: Uuid,
    role: Option<Role>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<(Membership, User)>, StoreError> {
    let rows = sqlx::query!(
        "select m.role, m.company_id, m.created_at as joined_at,
                u.id, u.email, u.name, u.language, u.confirmed_at, u.created_at, u.updated_at
         from public.organization_members m join public.users u on u.id = m.user_id
         where m.organization_id = $1 and m.ended_at is null and ($2::text is null or m.role = $2)
           and ($3::uuid is null or m.user_id > $3)
         order by m.user_id limit $4",
        organization_id,
        role.map(Role::as_str),
        after,
        limit
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let membership = Membership {
                organization_id,
                user_id: row.id,
                role: stored("organization_members.role", &row.role)?,
                company_id: row.company_id,
                created_at: row.joined_at,
            };
            let user = users::Row {
                id: row.id,
                email: row.email,
                name: row.name,
                language: row.language,
                confirmed_at: row.confirmed_at,
                created_at: row.created_at,
                updated_at: row.updated_at,
            };
            Ok((membership, user.try_into()?))
        })
        .collect()
}

/// Gives the member another role. The organization keeps an admin.
pub async fn set_role(
    db: &mut PgConnection,
    (organization_id, user_id): (Uuid, Uuid),
    role: Role,
    company_id: Option<Uuid>,
    now: DateTime<Utc>,
) -> Result<Changed, StoreError> {
    one_change_at_a_time(db, organization_id).await?;
    let done = sqlx::query!(
        "update public.organization_members m set role = $3, company_id = $4, updated_at = $5
         where organization_id = $1 and user_id = $2 and ended_at is null
           and ($3 = 'admin' or role <> 'admin' or exists (
               select from public.organization_members o
               where o.organization_id = $1 and o.user_id <> $2 and o.role = 'admin' and o.ended_at is null))",
        organization_id,
        user_id,
        role.as_str(),
        company_id,
        now
    )
    .execute(&mut *db)
    .await?;
    why_not(db, (organization_id, user_id), done.rows_affected() == 1).await
}

/// Ends the membership. The organization keeps an admin.
pub async fn remove(
    db: &mut PgConnection,
    (organization_id, user_id): (Uuid, Uuid),
    now: DateTime<Utc>,
) -> Result<Changed, StoreError> {
    one_change_at_a_time(db, organization_id).await?;
    let done = sqlx::query!(
        "update public.organization_members m set ended_at = $3, updated_at = $3
         where organization_id = $1 and user_id = $2 and ended_at is null
           and (role <> 'admin' or exists (
               select from public.organization_members o
               where o.organization_id = $1 and o.user_id <> $2 and o.role = 'admin' and o.ended_at is null))",
        organization_id,
        user_id,
        now
    )
    .execute(&mut *db)
    .await?;
    why_not(db, (organization_id, user_id), done.rows_affected() == 1).await
}

/// Two admins who remove each other at once must not both see the other one stay.
async fn one_change_at_a_time(db: &mut PgConnection, organization_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!("select id from public.organizations where id = $1 for no key update", organization_id)
        .fetch_optional(db)
        .await?;
    Ok(())
}

async fn why_not(db: &mut PgConnection, member: (Uuid, Uuid), changed: bool) -> Result<Changed, StoreError> {
    if changed {
        return Ok(Changed::Yes);
    }
    Ok(if find(db, member.0, member.1).await?.is_some() { Changed::LastAdmin } else { Changed::NotAMember })
}
