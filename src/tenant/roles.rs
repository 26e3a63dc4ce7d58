//! One role per organization, and one group per database that holds what they share: the doors of the queue.

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use crate::domain::Slug;

/// Starts the name of every role of ours.
const ROLE_PREFIX: &str = "backroom_";

/// The role of an organization: `backroom_<database oid>_<slug>`, at most 60 of PostgreSQL's 63 bytes.
///
/// Roles belong to the whole cluster, so the database's oid keeps two databases with the same organization apart.
pub fn role_name(database_oid: u32, slug: &Slug) -> String {
    format!("{ROLE_PREFIX}{database_oid}_{}", slug.as_str().replace('-', "_"))
}

/// An identifier in double quotes, as PostgreSQL's `quote_ident` would write it.
pub(super) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

pub(super) async fn database_oid(db: &mut PgConnection) -> sqlx::Result<u32> {
    let oid: sqlx::postgres::types::Oid =
        sqlx::query_scalar("select oid from pg_database where datname = current_database()").fetch_one(db).await?;
    Ok(oid.0)
}

/// The functions of schema `queue` that an organization's role may call; each knows whose role is asking.
const DOORS: [&str; 3] = ["enqueue", "enqueue_batch", "answer_effect"];

/// Lets the organization's role through the queue's doors, by way of a group `backroom_<database oid>` that all of this
/// database's organizations are in. Granted to each role, a door's access list would grow by every organization, and two
/// transactions that change it at once fail with "tuple concurrently updated".
pub(super) async fn admit(db: &mut PgConnection, role: &str) -> sqlx::Result<()> {
    let group = format!("{ROLE_PREFIX}{}", database_oid(db).await?);
    if !may_enter(db, &group).await? {
        sqlx::query("select pg_advisory_xact_lock(hashtextextended('backroom.enqueue_door', 0))")
            .execute(&mut *db)
            .await?;
        // Somebody else may have made it while this transaction waited for the lock.
        if !may_enter(db, &group).await? {
            ensure_role(db, &group).await?;
            let doors = DOORS.map(|door| format!("queue.{door}")).join(", ");
            let grants =
                format!("grant usage on schema queue to {0}; grant execute on function {doors} to {0}", quote(&group));
            db.execute(AssertSqlSafe(grants)).await?;
        }
    }
    db.execute(AssertSqlSafe(format!("grant {} to {}", quote(&group), quote(role)))).await?;
    Ok(())
}

async fn may_enter(db: &mut PgConnection, role: &str) -> sqlx::Result<bool> {
    let open: i64 = sqlx::query_scalar(
        "select count(*)
         from pg_proc p join pg_namespace n on n.oid = p.pronamespace, pg_roles r
         where n.nspname = 'queue' and p.proname = any($2) and r.rolname = $1
           and has_schema_privilege(r.oid, n.oid, 'usage') and has_function_privilege(r.oid, p.oid, 'execute')",
    )
    .bind(role)
    .bind(DOORS)
    .fetch_one(db)
    .await?;
    Ok(usize::try_from(open) == Ok(DOORS.len()))
}

/// Makes the role, if it is not there, and the login role a member of it, so that it can take it on: that needs CREATEROLE,
/// not superuser.
pub(super) async fn ensure_role(db: &mut PgConnection, role: &str) -> sqlx::Result<()> {
    let exists: bool = sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)")
        .bind(role)
        .fetch_one(&mut *db)
        .await?;
    if !exists {
        let role = quote(role);
        db.execute(AssertSqlSafe(format!("create role {role} nologin; grant {role} to current_user"))).await?;
    }
    Ok(())
}

/// Drops the roles of this database's organizations, which cannot be opened afterwards. For tests; answers how many.
pub async fn drop_organization_roles(db: &mut PgConnection) -> sqlx::Result<usize> {
    let oid = database_oid(db).await?;
    drop_roles_of(db, oid).await
}

/// Drops the roles of a database that is connected to here or gone already. Answers how many.
pub(super) async fn drop_roles_of(db: &mut PgConnection, database_oid: u32) -> sqlx::Result<usize> {
    let roles: Vec<String> =
        sqlx::query_scalar("select rolname from pg_roles where rolname = $1 or starts_with(rolname, $1 || '_')")
            .bind(format!("{ROLE_PREFIX}{database_oid}"))
            .fetch_all(&mut *db)
            .await?;
    for role in &roles {
        let role = quote(role);
        db.execute(AssertSqlSafe(format!("drop owned by {role}; drop role {role}"))).await?;
    }
    Ok(roles.len())
}

/// Drops the roles whose database is gone: what a killed test run left. A role that something still depends on, as in a
/// database restored from another cluster, is in use and stays. Answers how many it dropped.
pub(super) async fn drop_orphaned_roles(db: &mut PgConnection) -> sqlx::Result<usize> {
    let roles: Vec<String> = sqlx::query_scalar(
        "select rolname from pg_roles
         where rolname ~ '^backroom_[0-9]+(_|$)'
           and not exists (select from pg_database d where d.oid::text = split_part(rolname, '_', 2))",
    )
    .fetch_all(&mut *db)
    .await?;
    let mut dropped = 0;
    for role in &roles {
        match db.execute(AssertSqlSafe(format!("drop role if exists {}", quote(role)))).await {
            Ok(_) => dropped += 1,
            Err(sqlx::Error::Database(refused)) => tracing::debug!(%refused, role, "left a role that is in use"),
            Err(other) => return Err(other),
        }
    }
    Ok(dropped)
}
