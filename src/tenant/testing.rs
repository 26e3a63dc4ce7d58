//! A database for one test: cloned from a migrated template, dropped with its roles when the test ends.
//!
//! Reads the server's address from `BACKROOM_TEST_DATABASE_URL`, else `DATABASE_URL`, else `postgres://postgres@127.0.0.1/postgres`;
//! the user needs CREATEDB and CREATEROLE.

use std::{
    sync::mpsc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::OnceCell;

use super::roles::{self, quote};
use crate::domain::{Clock, Organization, Slug};

const DEFAULT_URL: &str = "postgres://postgres@127.0.0.1/postgres";
/// A test database older than this that nobody is connected to was left by a killed run.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Makes the template of one set of migrations once, whatever number of test processes start together.
const TEMPLATE_LOCK: i64 = 0x6261_636b_726f_6f6d;

/// A migrated database of its own, without organizations.
pub struct TestDatabase {
    pub pool: PgPool,
    name: String,
    oid: u32,
    server: Server,
    open: bool,
}

impl TestDatabase {
    /// # Panics
    /// When the server cannot be reached or refuses: a test cannot go on without its database.
    pub async fn new() -> Self {
        let server = Server::from_environment();
        match Self::create(server).await {
            Ok(database) => database,
            Err(error) => panic!("could not make a test database (is PostgreSQL running at DATABASE_URL?): {error:#}"),
        }
    }

    async fn create(server: Server) -> anyhow::Result<Self> {
        static TEMPLATE: OnceCell<String> = OnceCell::const_new();
        let template = TEMPLATE.get_or_try_init(|| template(&server)).await?;
        let name = format!("backroom_test_{}_{:08x}", seconds_now(), rand::random::<u32>());
        let mut admin = server.connect().await?;
        admin.execute(AssertSqlSafe(format!("create database {} template {}", quote(&name), quote(template)))).await?;
        admin.close().await?;
        let pool = PgPoolOptions::new().max_connections(8).connect_with(server.options.clone().database(&name)).await?;
        let oid = roles::database_oid(&mut *pool.acquire().await?).await?;
        Ok(Self { pool, name, oid, server, open: true })
    }

    /// For processes that the test starts.
    pub fn url(&self) -> String {
        self.server.url_of(&self.name)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new organization with default settings.
    ///
    /// # Panics
    /// When the slug is not one or the database refuses.
    pub async fn organization(&self, slug: &str) -> Organization {
        let slug = Slug::parse(slug).unwrap_or_else(|e| panic!("{slug} {e}"));
        let new = super::NewOrganization::named(slug.clone(), slug.as_str());
        super::create(&self.pool, &Clock::system(), new).await.expect("the organization is created")
    }

    /// Waits until a connection to the database waits for another's lock.
    ///
    /// # Panics
    /// When none does within ten seconds.
    pub async fn until_somebody_waits(&self) {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        for _ in 0..1_000 {
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&self.pool).await.expect("the database answers");
            if waiting > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody waits for a lock");
    }

    /// Drops the database and its roles. [`Drop`] does the same, blocking; this one tells of errors.
    pub async fn close(mut self) -> sqlx::Result<()> {
        self.open = false;
        self.pool.close().await;
        remove(&self.server, &self.name, self.oid).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let (server, name, oid) = (self.server.clone(), self.name.clone(), self.oid);
        // A thread of its own: this one may be a runtime's, where blocking on another runtime is not allowed.
        let (done, removed) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let _ = done.send(runtime.is_ok_and(|runtime| runtime.block_on(remove(&server, &name, oid)).is_ok()));
        });
        // A pool that was about to connect when the test ended is stuck in its greeting until this runtime is gone, and the server
        // drops no database meanwhile (`authentication_timeout`, a minute): then the thread goes on by itself.
        if matches!(removed.recv_timeout(Duration::from_secs(1)), Ok(false)) {
            eprintln!("could not drop the test database {}; a later run will", self.name);
        }
    }
}

async fn remove(server: &Server, name: &str, oid: u32) -> sqlx::Result<()> {
    let mut admin = server.connect().await?;
    admin.execute(AssertSqlSafe(format!("drop database if exists {} with (force)", quote(name)))).await?;
    roles::drop_roles_of(&mut admin, oid).await?;
    admin.close().await
}

#[derive(Clone)]
struct Server {
    options: PgConnectOptions,
    /// Without `options` (a search path there is for the compile-time checks).
    url: String,
}

impl Server {
    fn from_environment() -> Self {
        let url = ["BACKROOM_TEST_DATABASE_URL", "DATABASE_URL"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty()))
            .unwrap_or_else(|| DEFAULT_URL.to_owned());
        let url = without_options(&url);
        let options = url.parse().expect("the test database's address is a PostgreSQL URL");
        Self { options, url }
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        PgConnection::connect_with(&self.options).await
    }

    fn url_of(&self, database: &str) -> String {
        let (address, query) = match self.url.split_once('?') {
            Some((address, query)) => (address, format!("?{query}")),
            None => (self.url.as_str(), String::new()),
        };
        let authority = address.find("://").map_or(0, |at| at + 3);
        let end = address[authority..].find('/').map_or(address.len(), |at| authority + at);
        format!("{}/{database}{query}", &address[..end])
    }
}

fn without_options(url: &str) -> String {
    let Some((address, query)) = url.split_once('?') else { return url.to_owned() };
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("options")).collect();
    if kept.is_empty() { address.to_owned() } else { format!("{address}?{}", kept.join("&")) }
}

/// The name of the migrated template, made if it is not there yet. Sweeps what killed runs left.
async fn template(server: &Server) -> anyhow::Result<String> {
    let name = format!("backroom_template_{}", hash_of(server.options.get_username()));
    let mut admin = server.connect().await?;
    sqlx::query("select pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut admin).await?;
    sweep(&mut admin).await?;
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(&name)
        .fetch_one(&mut admin)
        .await?;
    if !exists {
        // Built under a name of its own and renamed at the end, so that a template is complete or absent.
        let building = format!("backroom_test_{}_{:08x}", seconds_now(), rand::random::<u32>());
        admin.execute(AssertSqlSafe(format!("create database {}", quote(&building)))).await?;
        let pool =
            PgPoolOptions::new().max_connections(2).connect_with(server.options.clone().database(&building)).await?;
        super::migrate_platform(&pool).await?;
        let reports = super::migrate_all(&pool, 1, |_| {}).await?;
        pool.close().await;
        anyhow::ensure!(reports.iter().all(|r| r.error.is_none()), "the template does not migrate: {reports:?}");
        let rename = format!("alter database {} rename to {}", quote(&building), quote(&name));
        match admin.execute(AssertSqlSafe(rename)).await {
            // Somebody with another maintenance database, and so another lock, was faster.
            Err(e) if e.as_database_error().is_some_and(|e| e.code().as_deref() == Some("42P04")) => {
                admin.execute(AssertSqlSafe(format!("drop database {}", quote(&building)))).await?;
            }
            other => _ = other?,
        }
    }
    admin.close().await?;
    Ok(name)
}

/// Of everything that shapes a migrated database, and of who may copy it: its owner.
fn hash_of(owner: &str) -> String {
    let migrators =
        [backroom_queue::migrator(), sqlx::migrate!("./migrations/platform"), sqlx::migrate!("./migrations/tenant")];
    let mut hash = Sha256::new_with_prefix(owner);
    for migration in migrators.iter().flat_map(|migrator| migrator.iter()) {
        hash.update(migration.version.to_be_bytes());
        hash.update(&*migration.checksum);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Drops abandoned test databases and the roles of vanished ones. Two runs may sweep at once: what one finds gone, the other dropped.
async fn sweep(admin: &mut PgConnection) -> sqlx::Result<()> {
    let databases: Vec<String> = sqlx::query_scalar(
        "select datname from pg_database d
         where datname ~ '^backroom_test_[0-9]+_[0-9a-f]{8}$' and split_part(datname, '_', 3)::bigint < $1
           and not exists (select from pg_stat_activity a where a.datid = d.oid)",
    )
    .bind(i64::try_from(seconds_now().saturating_sub(ABANDONED.as_secs())).unwrap_or(i64::MAX))
    .fetch_all(&mut *admin)
    .await?;
    for database in databases {
        let dropped = admin.execute(AssertSqlSafe(format!("drop database if exists {}", quote(&database)))).await;
        if let Err(error) = dropped {
            tracing::debug!(%error, database, "could not sweep an abandoned test database");
        }
    }
    if let Err(error) = roles::drop_orphaned_roles(admin).await {
        tracing::debug!(%error, "could not sweep the roles of vanished databases");
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "the age of a test database is the machine's time, not the product's")]
fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_everything_but_the_database_and_the_options() {
        let server = |url: &str| Server { options: PgConnectOptions::new(), url: without_options(url) };
        let of = |url: &str| server(url).url_of("t");
        assert_eq!(of("postgres://u:p@h:1/db?options=-c%20search_path%3Dx"), "postgres://u:p@h:1/t");
        assert_eq!(of("postgres://h/db?sslmode=disable&options=x"), "postgres://h/t?sslmode=disable");
        assert_eq!(of("postgres://h"), "postgres://h/t");
    }

    /// TEN-2: neither a closed nor a dropped test database leaves roles behind.
    #[tokio::test]
    async fn a_test_database_leaves_no_roles_behind() {
        let (closed, dropped) = (TestDatabase::new().await, TestDatabase::new().await);
        let mut roles = Vec::new();
        for database in [&closed, &dropped] {
            roles.push(database.organization("acme").await.role_name);
            roles.push(format!("backroom_{}", database.oid));
        }
        let (server, names) = (closed.server.clone(), vec![closed.name.clone(), dropped.name.clone()]);

        closed.close().await.unwrap();
        drop(dropped);

        let mut admin = server.connect().await.unwrap();
        let mut left = 1;
        // On a busy machine a drop goes on after its test.
        for _ in 0..1_000 {
            left = sqlx::query_scalar::<_, i64>(
                "select (select count(*) from pg_roles where rolname = any($1))
                      + (select count(*) from pg_database where datname = any($2))",
            )
            .bind(&roles)
            .bind(&names)
            .fetch_one(&mut admin)
            .await
            .unwrap();
            if left == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(left, 0, "left behind: {roles:?} {names:?}");
    }
}
