//! Bringing every schema up to date (TEN-6).

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool, migrate::Migrator};

use super::roles::{ensure_role, quote};
use crate::store::feed;

/// The schema without an organization against which the queries in `store` are checked at compile time.
pub const TEMPLATE_SCHEMA: &str = "tenant_template";

/// What became of one schema.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct MigrateReport {
    pub schema: String,
    /// Migrations applied now; 0 when it was up to date.
    pub applied: usize,
    /// Why it is not up to date. The schema is as it was: its migrations are one transaction.
    pub error: Option<String>,
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Brings the shared schemas `queue` and `public` up to date. Organizations follow with [`migrate_all`].
///
/// Several processes may call it at once: sqlx serialises them with an advisory lock.
pub async fn migrate_platform(db: &PgPool) -> anyhow::Result<()> {
    backroom_queue::migrator().run(db).await?;
    platform_migrator().run(db).await?;
    Ok(())
}

fn platform_migrator() -> Migrator {
    let mut platform = sqlx::migrate!("./migrations/platform");
    platform.dangerous_set_table_name("public._sqlx_migrations");
    platform
}

/// Whether every migration of the shared schemas that this program knows has been applied.
pub async fn platform_is_current(db: &PgPool) -> sqlx::Result<bool> {
    let mut db = db.acquire().await?;
    for (schema, migrator) in [("queue", backroom_queue::migrator()), ("public", platform_migrator())] {
        if applied_count(&mut db, schema).await? < migrator.iter().count() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Brings every organization's schema, with its role and grants, and [`TEMPLATE_SCHEMA`] up to date, `concurrency` at a time, telling `on_each`
/// as each one ends. A schema that fails is reported and does not stop the others; calling again goes on with what is left.
///
/// The error is for the list of organizations alone; the schemas' own errors are in the reports (by schema name).
pub async fn migrate_all(
    db: &PgPool,
    concurrency: usize,
    on_each: impl Fn(&MigrateReport),
) -> sqlx::Result<Vec<MigrateReport>> {
    let organizations: Vec<(String, String)> =
        sqlx::query_as("select schema_name, role_name from public.organizations order by schema_name")
            .fetch_all(db)
            .await?;
    let schemas = std::iter::once((TEMPLATE_SCHEMA.to_owned(), None))
        .chain(organizations.into_iter().map(|(schema, role)| (schema, Some(role))));
    let mut reports: Vec<MigrateReport> = stream::iter(schemas)
        .map(|(schema, role)| async move {
            let started = Instant::now();
            let (applied, error) = match migrate_one(db, &schema, role.as_deref()).await {
                Ok(applied) => (applied, None),
                Err(error) => (0, Some(format!("{error:#}"))),
            };
            MigrateReport { schema, applied, error, duration: started.elapsed() }
        })
        .buffer_unordered(concurrency.max(1))
        .inspect(on_each)
        .collect()
        .await;
    reports.sort_by(|a, b| a.schema.cmp(&b.schema));
    Ok(reports)
}

async fn migrate_one(db: &PgPool, schema: &str, role: Option<&str>) -> anyhow::Result<usize> {
    let mut tx = db.begin().await?;
    // Two `migrate` at once take turns on a schema, not on the whole database.
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('backroom.migrate ' || $1, 0))")
        .bind(schema)
        .execute(&mut *tx)
        .await?;
    if role.is_none() {
        tx.execute(AssertSqlSafe(format!("create schema if not exists {}", quote(schema)))).await?;
    }
    let applied = apply(&mut tx, schema).await?;
    if let Some(role) = role {
        // A dump restored elsewhere comes without its roles.
        ensure_role(&mut tx, role).await?;
        grant(&mut tx, schema, role).await?;
        feed::adopt_restored(&mut tx).await?;
    }
    tx.commit().await?;
    Ok(applied)
}

/// Applies the missing tenant migrations to a schema inside the caller's transaction (sqlx's migrator opens a savepoint
/// for each), and leaves the transaction's search path set to that schema. Answers how many it applied.
pub(super) async fn apply(db: &mut PgConnection, schema: &str) -> anyhow::Result<usize> {
    let exists: bool = sqlx::query_scalar("select exists (select from pg_namespace where nspname = $1)")
        .bind(schema)
        .fetch_one(&mut *db)
        .await?;
    anyhow::ensure!(exists, "schema {schema} does not exist: restore it from a backup or remove its organization");
    db.execute(AssertSqlSafe(format!("set local search_path = {}", quote(schema)))).await?;
    let before = applied_count(db, schema).await?;
    let mut migrator: Migrator = sqlx::migrate!("./migrations/tenant");
    migrator.locking = false; // its lock is the database's; ours is the schema's, or the schema is not visible yet
    migrator.table_name = Cow::Owned(format!("{}._sqlx_migrations", quote(schema)));
    // `run` would do the same, but its generic `Acquire` makes the future impossible to send between threads.
    migrator.run_direct(None, &mut *db, false).await?;
    Ok(applied_count(db, schema).await? - before)
}

async fn applied_count(db: &mut PgConnection, schema: &str) -> sqlx::Result<usize> {
    let table = format!("{}._sqlx_migrations", quote(schema));
    let exists: bool =
        sqlx::query_scalar("select to_regclass($1) is not null").bind(&table).fetch_one(&mut *db).await?;
    if !exists {
        return Ok(0);
    }
    let count: i64 =
        sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {table}"))).fetch_one(&mut *db).await?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// What a tenant's role may do, again after every migration, so that new tables are covered.
pub(super) async fn grant(db: &mut PgConnection, schema: &str, role: &str) -> sqlx::Result<()> {
    super::roles::admit(db, role).await?;
    let (schema, role) = (quote(schema), quote(role));
    // The activity log and the history of assets only grow, and which migrations ran is none of the tenant's business.
    let grants = format!(
        "grant usage on schema {schema} to {role};
         grant select, insert, update, delete on all tables in schema {schema} to {role};
         revoke update, delete on {schema}.events, {schema}.asset_transactions from {role};
         revoke all on {schema}._sqlx_migrations from {role}"
    );
    db.execute(AssertSqlSafe(grants)).await?;
    Ok(())
}

/// What [`measure`] found.
#[derive(Clone, Copy, Debug)]
pub struct Measurement {
    pub schemas: usize,
    pub failed: usize,
    /// From nothing: rows, roles, schemas, migrations, grants.
    pub create: Duration,
    /// Everything up to date already.
    pub nothing_to_do: Duration,
    /// Every migration of every schema.
    pub migrate: Duration,
}

/// Creates `schemas` organizations, then migrates them when there is nothing to do and again from empty schemas.
/// For benches: the database is full of them afterwards.
#[doc(hidden)]
pub async fn measure(db: &PgPool, schemas: usize, concurrency: usize) -> anyhow::Result<Measurement> {
    use crate::domain::{Clock, Slug};
    let clock = Clock::system();
    let started = Instant::now();
    let slugs = (0..schemas).map(|n| Slug::parse(&format!("bench-{n}"))).collect::<Result<Vec<_>, _>>()?;
    let made = stream::iter(slugs)
        .map(|slug| super::create(db, &clock, super::NewOrganization::named(slug, "Bench")))
        .buffer_unordered(concurrency)
        .collect::<Vec<_>>()
        .await;
    let made = made.into_iter().collect::<Result<Vec<_>, _>>()?;
    let create = started.elapsed();

    let started = Instant::now();
    migrate_all(db, concurrency, |_| {}).await?;
    let nothing_to_do = started.elapsed();

    for organization in &made {
        let schema = quote(&organization.schema_name);
        db.execute(AssertSqlSafe(format!("drop schema {schema} cascade; create schema {schema}"))).await?;
    }
    let started = Instant::now();
    let reports = migrate_all(db, concurrency, |_| {}).await?;
    let migrate = started.elapsed();
    let failed = reports.iter().filter(|report| report.error.is_some()).count();
    Ok(Measurement { schemas, failed, create, nothing_to_do, migrate })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::{roles, testing::TestDatabase};

    /// Takes an organization's schema back to before its first migration.
    async fn forget(db: &PgPool, schema: &str) {
        let sql = format!("drop schema {schema} cascade; create schema {schema}");
        db.execute(AssertSqlSafe(sql)).await.unwrap();
    }

    fn of<'a>(reports: &'a [MigrateReport], schema: &str) -> &'a MigrateReport {
        reports.iter().find(|report| report.schema == schema).unwrap()
    }

    /// TEN-6
    #[tokio::test]
    async fn one_broken_schema_does_not_stop_the_others_and_the_next_run_goes_on() {
        let database = TestDatabase::new().await;
        for slug in ["acme", "broken", "current", "gone"] {
            database.organization(slug).await;
        }
        forget(&database.pool, "org_acme").await;
        forget(&database.pool, "org_broken").await;
        database.pool.execute("create table org_broken.invoices ()").await.unwrap();
        database.pool.execute("drop schema org_gone cascade").await.unwrap();

        let told = std::sync::Mutex::new(0);
        let reports = migrate_all(&database.pool, 4, |_| *told.lock().unwrap() += 1).await.unwrap();

        assert_eq!((reports.len(), *told.lock().unwrap()), (5, 5));
        let acme = of(&reports, "org_acme");
        assert!(acme.applied >= 1 && acme.error.is_none(), "{acme:?}");
        assert_eq!((of(&reports, "org_current").applied, of(&reports, "org_current").error.is_none()), (0, true));
        assert!(of(&reports, "org_broken").error.as_deref().unwrap().contains("already exists"));
        assert!(of(&reports, "org_gone").error.as_deref().unwrap().contains("does not exist"));

        database.pool.execute("drop table org_broken.invoices").await.unwrap();
        let reports = migrate_all(&database.pool, 4, |_| {}).await.unwrap();
        assert!(of(&reports, "org_broken").applied >= 1 && of(&reports, "org_broken").error.is_none());
        assert_eq!(of(&reports, "org_acme").applied, 0);
    }

    /// TEN-6
    #[tokio::test]
    async fn a_migrated_schema_is_open_to_its_own_role() {
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        forget(&database.pool, "org_acme").await;
        // As after restoring a dump on another server.
        roles::drop_organization_roles(&mut database.pool.acquire().await.unwrap()).await.unwrap();

        migrate_all(&database.pool, 1, |_| {}).await.unwrap();

        let mut tx = crate::tenant::begin(&database.pool, &acme).await.unwrap();
        assert!(tx.execute("select from invoices").await.is_ok());
        assert!(
            tx.execute(
                "select queue.enqueue('{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}',false)"
            )
            .await
            .is_ok()
        );
    }

    /// TEN-6: `cargo test --release --lib a_thousand_schemas -- --ignored --nocapture`
    #[tokio::test]
    #[ignore = "a measurement: minutes"]
    async fn a_thousand_schemas_are_migrated() {
        let database = TestDatabase::new().await;
        let measured = measure(&database.pool, 1000, 4).await.unwrap();
        println!("{measured:?}");
        assert_eq!(measured.failed, 0);
    }
}
