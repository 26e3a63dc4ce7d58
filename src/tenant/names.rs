//! Roles and identifiers.

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

/// Drops the roles of this database's organizations, which cannot be opened afterwards. For tests; answers how many.
pub async fn drop_organization_roles(db: &mut PgConnection) -> sqlx::Result<usize> {
    let oid = database_oid(db).await?;
    drop_roles_of(db, oid).await
}

/// Drops the roles of a database that is connected to here or gone already. Answers how many.
pub(super) async fn drop_roles_of(db: &mut PgConnection, database_oid: u32) -> sqlx::Result<usize> {
    let roles: Vec<String> = sqlx::query_scalar("select rolname from pg_roles where starts_with(rolname, $1)")
        .bind(format!("{ROLE_PREFIX}{database_oid}_"))
        .fetch_all(&mut *db)
        .await?;
    for role in &roles {
        let role = quote(role);
        db.execute(AssertSqlSafe(format!("drop owned by {role}; drop role {role}"))).await?;
    }
    Ok(roles.len())
}

/// Drops the roles whose database is gone: what a killed test run left. Answers how many.
pub(super) async fn drop_orphaned_roles(db: &mut PgConnection) -> sqlx::Result<usize> {
    let roles: Vec<String> = sqlx::query_scalar(
        "select rolname from pg_roles
         where rolname ~ '^backroom_[0-9]+_'
           and not exists (select from pg_database d where d.oid::text = split_part(rolname, '_', 2))",
    )
    .fetch_all(&mut *db)
    .await?;
    for role in &roles {
        db.execute(AssertSqlSafe(format!("drop role if exists {}", quote(role)))).await?;
    }
    Ok(roles.len())
}
