//! What handlers, requests and commands share.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use secrecy::ExposeSecret;
use sqlx::{
    ConnectOptions, Connection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    config::{Config, Database},
    domain::Clock,
    mail::{Mailer, MailerOptions},
    vault::Vault,
};

/// One process's parts, shared as `Arc<App>`; job handlers reach it as `ctx.app`.
pub struct App {
    pub config: Config,
    pub db: PgPool,
    pub vault: Vault,
    pub mailer: Mailer,
    pub clock: Clock,
}

impl App {
    /// Opens the vault and the mailer, and connects to the database.
    ///
    /// # Errors
    /// Says what to set when there is no vault key (VAULT-6) or no database, and why the database refused.
    pub async fn connect(config: Config, clock: Clock) -> anyhow::Result<Arc<Self>> {
        let vault = Vault::from_keys(&config.vault.keys, config.vault.index_key.as_ref())?;
        let mailer = Mailer::new(MailerOptions {
            smtp_url: config.mail.smtp_url.clone(),
            from: config.mail.from.clone(),
            message_id_domain: config.mail.message_id_domain.clone(),
            timeout: Duration::from_secs(config.mail.timeout_s),
        })?;
        let db = connect(&config.database).await?;
        Ok(Arc::new(Self { config, db, vault, mailer, clock }))
    }
}

/// The pool of one process. Looks once, so that a wrong address is told at once and in its own words.
pub async fn connect(database: &Database) -> anyhow::Result<PgPool> {
    let options = options(database)?;
    probe(&options).await.with_context(|| refusal(&options))?;
    Ok(PgPoolOptions::new()
        .max_connections(database.max_connections)
        // A connection caches the catalogue of every organization it has met (68 MB after a thousand): recycle it.
        .max_lifetime(Duration::from_secs(1800))
        .idle_timeout(Duration::from_secs(300))
        .connect_lazy_with(options))
}

/// Waits for a database that is not there yet, as happens when a machine or a compose file starts; a refusal that
/// waiting does not cure (password, name) ends it at once.
pub async fn wait_for_database(database: &Database, patience: Duration) -> anyhow::Result<()> {
    let options = options(database)?;
    let began = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(250);
    loop {
        let error = match probe(&options).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !passes(&error) || began.elapsed() + pause > patience {
            return Err(error).with_context(|| refusal(&options));
        }
        tracing::warn!(
            error = %error,
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "the database does not answer yet"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

fn options(database: &Database) -> anyhow::Result<PgConnectOptions> {
    let url = database.url.expose_secret();
    anyhow::ensure!(
        !url.is_empty(),
        "there is no database: set DATABASE_URL, for example postgres://user:password@127.0.0.1/backroom"
    );
    let options: PgConnectOptions = url.parse().context("DATABASE_URL (database.url) is not a PostgreSQL address")?;
    Ok(options.application_name("backroom"))
}

async fn probe(options: &PgConnectOptions) -> sqlx::Result<()> {
    let connected = tokio::time::timeout(Duration::from_secs(10), options.connect()).await;
    connected.map_err(|_| sqlx::Error::PoolTimedOut)??.close().await
}

/// Whether waiting may cure it: no connection yet, or the server says that it is starting, stopping or full.
fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(e) => matches!(e.code().as_deref(), Some("57P03" | "57P01" | "57P02" | "53300")),
        _ => false,
    }
}

fn refusal(options: &PgConnectOptions) -> String {
    format!(
        "could not connect to PostgreSQL at {}:{} (database {}, user {}); is it running, and is DATABASE_URL right?",
        options.get_host(),
        options.get_port(),
        options.get_database().unwrap_or("of the user's name"),
        options.get_username()
    )
}
