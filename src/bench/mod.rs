//! `backroom bench [NAME…]`: what queue and API do on this machine, one JSON line per measurement. Needs a release build
//! and a PostgreSQL with its durable settings; works in a database of its own, which it drops at the end.

mod api;
mod processes;
mod queue;
mod sync;

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{context::connect_options, tenant};

/// Every measurement that `bin/bench` knows, in the order in which it takes them.
pub const NAMES: [&str; 26] = [
    "queue.enqueue_one",
    "queue.enqueue_bulk",
    "queue.drain",
    "queue.drain_with_limits",
    "queue.pickup_p50",
    "queue.pickup_p99",
    "worker.rss_idle",
    "worker.rss_busy",
    "billing.sweep",
    "api.argon2id",
    "api.sign_in_p50",
    "api.sign_in",
    "api.enqueue",
    "api.enqueue_p50",
    "api.enqueue_p99",
    "api.event_streams_rss",
    "api.event_delay_p50",
    "sync.full",
    "sync.incremental",
    "sync.full_again",
    "sync.rss",
    "sync.assets_list_p99",
    "sync.assets_by_tag_p99",
    "sync.assets_by_serial_p99",
    "sync.assets_by_employee_p99",
    "queue.drain_with_history",
];

/// One line of the output.
#[derive(Serialize)]
struct Measurement {
    name: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// How it was taken, for a reader of the line.
    note: String,
}

fn report(name: &str, value: f64, unit: &'static str, note: impl Into<String>) {
    print(&Measurement { name: name.to_owned(), value: rounded(value), unit, ratio: None, note: note.into() });
}

fn print(measurement: &Measurement) {
    println!("{}", serde_json::to_string(measurement).expect("a measurement has a JSON form"));
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Takes the named measurements, or all.
pub async fn run(names: Vec<String>) -> anyhow::Result<()> {
    if let Some(unknown) = names.iter().find(|name| !NAMES.iter().any(|known| known.starts_with(name.as_str()))) {
        bail!("there is no measurement {unknown}; there are {}", NAMES.join(", "));
    }
    let matches = |wanted: &str, name: &str| {
        name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'))
    };
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| matches(wanted, name));
    if cfg!(debug_assertions) {
        eprintln!("This is a debug build: the figures mean nothing. Use bin/bench.");
    }
    let database = Database::create().await?;
    eprintln!("{}", database.settings().await?);
    let result = measure(&database, wanted).await;
    database.drop().await?;
    result
}

async fn measure(database: &Database, wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    if wanted("queue.enqueue_one") || wanted("queue.enqueue_bulk") {
        queue::enqueue_rates(&database.pool).await?;
    }
    if wanted("queue.drain") {
        queue::drain(&database.pool).await?;
    }
    if wanted("queue.drain_with_limits") {
        queue::drain_with_limits(&database.pool).await?;
    }
    if wanted("queue.pickup_p50") || wanted("queue.pickup_p99") {
        queue::pickup(&database.pool).await?;
    }
    if wanted("worker.rss_idle") || wanted("worker.rss_busy") {
        processes::memory(database).await?;
    }
    if wanted("billing.sweep") {
        processes::sweep(database).await?;
    }
    if wanted("api.argon2id") || wanted("api.sign_in_p50") || wanted("api.sign_in") {
        api::sign_in(database).await?;
    }
    if wanted("api.enqueue") || wanted("api.enqueue_p50") || wanted("api.enqueue_p99") {
        api::enqueue(database).await?;
    }
    if wanted("api.event_streams_rss") || wanted("api.event_delay_p50") {
        api::event_streams(database).await?;
    }
    if wanted("sync.full") || wanted("sync.incremental") || wanted("sync.full_again") || wanted("sync.rss") {
        sync::employees(database).await?;
    }
    if NAMES.iter().any(|name| name.starts_with("sync.assets_") && wanted(name)) {
        sync::assets(database).await?;
    }
    if wanted("queue.drain_with_history") {
        queue::drain_with_history(&database.pool).await?;
    }
    Ok(())
}

/// The bench's own database.
struct Database {
    pool: PgPool,
    name: String,
    server: PgConnectOptions,
    url: String,
}

impl Database {
    async fn create() -> anyhow::Result<Self> {
        let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set; bin/bench sets it")?;
        let server = connect_options(&url)?;
        let name = format!("backroom_bench_{}", std::process::id());
        let mut admin = PgConnection::connect_with(&server).await.context("could not connect to DATABASE_URL")?;
        admin.execute(AssertSqlSafe(format!("create database {name}"))).await?;
        admin.close().await?;
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .acquire_timeout(Duration::from_secs(60))
            .connect_with(server.clone().database(&name))
            .await?;
        tenant::migrate_platform(&pool).await?;
        let mut url = url::Url::parse(&url).context("DATABASE_URL is not an address")?;
        url.set_path(&name);
        let url = url.into();
        Ok(Self { pool, name, server, url })
    }

    /// What decides whether figures are comparable.
    async fn settings(&self) -> anyhow::Result<String> {
        let (version, fsync, commit, buffers): (String, String, String, String) = sqlx::query_as(
            "select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'),
                    current_setting('shared_buffers')",
        )
        .fetch_one(&self.pool)
        .await?;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Ok(format!(
            "{cores} cores, PostgreSQL {version}, fsync {fsync}, synchronous_commit {commit}, shared_buffers {buffers}"
        ))
    }

    async fn drop(self) -> anyhow::Result<()> {
        let mut db = self.pool.acquire().await?.detach();
        tenant::drop_organization_roles(&mut db).await?;
        db.close().await?;
        self.pool.close().await;
        let mut admin = PgConnection::connect_with(&self.server).await?;
        admin.execute(AssertSqlSafe(format!("drop database {} with (force)", self.name))).await?;
        Ok(())
    }
}
