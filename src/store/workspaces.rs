//! `workspaces` and `workspace_members` (WORK-1, WORK-2). Every function sees only workspaces that were not deleted.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Page, StoreError, stored};
use crate::domain::{Membership, Workspace, WorkspaceName};

struct Row {
    id: Uuid,
    name: String,
    owner_id: Uuid,
    personal: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Workspace {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let Row { id, name, owner_id, personal, created_at, updated_at } = row;
        Ok(Self { id, name: stored("workspaces.name", &name)?, owner_id, personal, created_at, updated_at })
    }
}

/// Makes a workspace with its owner as the first member.
pub async fn insert(
    db: &mut PgConnection,
    name: &WorkspaceName,
    owner: Uuid,
    now: DateTime<Utc>,
) -> Result<Workspace, StoreError> {
    let row = sqlx::query_as!(
        Row,
        r#"with made as (
             insert into workspaces (id, name, owner_id, personal, created_at, updated_at)
             values ($1, $2, $3, false, $4, $4)
             returning id, name, owner_id, personal, created_at, updated_at
         ), joined as (
             insert into workspace_members (workspace_id, user_id, joined_at) select id, owner_id, created_at from made
         )
         select id as "id!", name as "name!", owner_id as "owner_id!", personal as "personal!", created_at as "created_at!",
                updated_at as "updated_at!"
         from made"#,
        Uuid::now_v7(),
        name.as_str(),
        owner,
        now
    )
    .fetch_one(db)
    .await?;
    row.try_into()
}

/// Makes the person's own workspace. `None` if there is one.
pub async fn insert_personal(
    db: &mut PgConnection,
    name: &WorkspaceName,
    owner: Uuid,
    now: DateTime<Utc>,
) -> Result<Option<Workspace>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        r#"with made as (
             insert into workspaces (id, name, owner_id, personal, created_at, updated_at)
             values ($1, $2, $3, true, $4, $4)
             on conflict (owner_id) where personal do nothing
             returning id, name, owner_id, personal, created_at, updated_at
         ), joined as (
             insert into workspace_members (workspace_id, user_id, joined_at) select id, owner_id, created_at from made
         )
         select id as "id!", name as "name!", owner_id as "owner_id!", personal as "personal!", created_at as "created_at!",
                updated_at as "updated_at!"
         from made"#,
        Uuid::now_v7(),
        name.as_str(),
        owner,
        now
    )
    .fetch_optional(db)
    .await?;
    row.map(Workspace::try_from).transpose()
}

/// Whether the person has a workspace of their own.
pub async fn has_personal(db: &mut PgConnection, user: Uuid) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from workspaces where owner_id = $1 and personal) as "exists!""#,
        user
    )
    .fetch_one(db)
    .await?)
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<Workspace>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, name, owner_id, personal, created_at, updated_at from workspaces where id = $1 and deleted_at is null",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(Workspace::try_from).transpose()
}

/// As [`by_id`], and holds it until the end of the transaction: nobody deletes or renames it meanwhile. Take this lock before that
/// of an invitation.
pub async fn hold(db: &mut PgConnection, id: Uuid) -> Result<Option<Workspace>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, name, owner_id, personal, created_at, updated_at from workspaces
         where id = $1 and deleted_at is null
         for share",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(Workspace::try_from).transpose()
}

struct MembershipRow {
    id: Uuid,
    name: String,
    owner_id: Uuid,
    personal: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    user_id: Uuid,
    joined_at: DateTime<Utc>,
    current: bool,
}

impl TryFrom<MembershipRow> for Membership {
    type Error = StoreError;

    fn try_from(row: MembershipRow) -> Result<Self, StoreError> {
        let MembershipRow { id, name, owner_id, personal, created_at, updated_at, user_id, joined_at, current } = row;
        let workspace = Row { id, name, owner_id, personal, created_at, updated_at }.try_into()?;
        Ok(Self { workspace, user_id, joined_at, current })
    }
}

/// The person's membership of a workspace; `None` if there is no such workspace, or the person is not in it: to them that is the
/// same.
pub async fn member(db: &mut PgConnection, workspace: Uuid, user: Uuid) -> Result<Option<Membership>, StoreError> {
    let mut found = memberships(db, user, Some(workspace), Page::first(1)).await?;
    Ok(found.pop())
}

/// The workspaces that the person is in, oldest first.
pub async fn of_user(db: &mut PgConnection, user: Uuid, page: Page) -> Result<Vec<Membership>, StoreError> {
    memberships(db, user, None, page).await
}

async fn memberships(
    db: &mut PgConnection,
    user: Uuid,
    one: Option<Uuid>,
    page: Page,
) -> Result<Vec<Membership>, StoreError> {
    let rows = sqlx::query_as!(
        MembershipRow,
        r#"with current as (
             select w.id from workspace_members m join workspaces w on w.id = m.workspace_id
             where m.user_id = $1 and w.deleted_at is null
             order by m.chosen_at desc nulls last, w.personal desc, w.id limit 1
         )
         select w.id, w.name, w.owner_id, w.personal, w.created_at, w.updated_at, m.user_id, m.joined_at,
                w.id = (select id from current) as "current!"
         from workspace_members m join workspaces w on w.id = m.workspace_id
         where m.user_id = $1 and w.deleted_at is null and ($2::uuid is null or w.id = $2) and ($3::uuid is null or w.id > $3)
         order by w.id limit $4"#,
        user,
        one,
        page.after,
        page.limit
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Membership::try_from).collect()
}

/// `None` unless the workspace is the owner's.
pub async fn rename(
    db: &mut PgConnection,
    (id, owner): (Uuid, Uuid),
    name: &WorkspaceName,
    now: DateTime<Utc>,
) -> Result<Option<Workspace>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update workspaces set name = $3, updated_at = $4
         where id = $1 and owner_id = $2 and deleted_at is null
         returning id, name, owner_id, personal, created_at, updated_at",
        id,
        owner,
        name.as_str(),
        now
    )
    .fetch_optional(db)
    .await?;
    row.map(Workspace::try_from).transpose()
}

/// False unless the workspace is the owner's, and not the personal one.
pub async fn delete(db: &mut PgConnection, (id, owner): (Uuid, Uuid), now: DateTime<Utc>) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update workspaces set deleted_at = $3, updated_at = $3
         where id = $1 and owner_id = $2 and not personal and deleted_at is null",
        id,
        owner,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Makes it the person's current workspace. False unless they are in it.
pub async fn switch_to(
    db: &mut PgConnection,
    (id, user): (Uuid, Uuid),
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update workspace_members m set chosen_at = $3 from workspaces w
         where m.workspace_id = $1 and m.user_id = $2 and w.id = m.workspace_id and w.deleted_at is null",
        id,
        user,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A member as the others see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub user_id: Uuid,
    pub joined_at: DateTime<Utc>,
}

/// The members of a workspace, in the order of their accounts; `page.after` is a user's id.
pub async fn members(db: &mut PgConnection, workspace: Uuid, page: Page) -> Result<Vec<Member>, StoreError> {
    Ok(sqlx::query_as!(
        Member,
        "select user_id, joined_at from workspace_members
         where workspace_id = $1 and ($2::uuid is null or user_id > $2)
         order by user_id limit $3",
        workspace,
        page.after,
        page.limit
    )
    .fetch_all(db)
    .await?)
}

/// False if the person is a member already. The caller holds the workspace ([`hold`]).
pub async fn add_member(
    db: &mut PgConnection,
    (workspace, user): (Uuid, Uuid),
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "insert into workspace_members (workspace_id, user_id, joined_at) values ($1, $2, $3)
         on conflict (workspace_id, user_id) do nothing",
        workspace,
        user,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes a member out; never the owner. False if there is no such member.
pub async fn remove_member(db: &mut PgConnection, workspace: Uuid, user: Uuid) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "delete from workspace_members m using workspaces w
         where m.workspace_id = $1 and m.user_id = $2 and w.id = m.workspace_id and w.owner_id <> m.user_id
           and w.deleted_at is null",
        workspace,
        user
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes the person out of every workspace but their own; answers which they were.
pub async fn remove_from_all(db: &mut PgConnection, user: Uuid) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        "delete from workspace_members m using workspaces w
         where m.user_id = $1 and w.id = m.workspace_id and w.owner_id <> m.user_id
         returning m.workspace_id",
        user
    )
    .fetch_all(db)
    .await?)
}

/// A workspace as an operator sees it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Overview {
    pub id: Uuid,
    pub name: String,
    pub owner_id: Uuid,
    pub personal: bool,
    pub members: i64,
    pub open_invitations: i64,
    pub created_at: DateTime<Utc>,
}

/// All of the organization's, oldest first.
pub async fn overview(db: &mut PgConnection, page: Page) -> Result<Vec<Overview>, StoreError> {
    Ok(sqlx::query_as!(
        Overview,
        r#"select w.id, w.name, w.owner_id, w.personal, w.created_at,
                (select count(*) from workspace_members m where m.workspace_id = w.id) as "members!",
                (select count(*) from invitations i where i.workspace_id = w.id and i.state = 'open') as "open_invitations!"
         from workspaces w
         where w.deleted_at is null and ($1::uuid is null or w.id > $1)
         order by w.id limit $2"#,
        page.after,
        page.limit
    )
    .fetch_all(db)
    .await?)
}
