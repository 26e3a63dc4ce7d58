//! What handlers, requests and commands share.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use backroom_queue::{
    Registry, SealedPlace, Sealer,
    scheduler::{Schedules, TenantZone, Tenants},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::{TryFutureExt, future::BoxFuture};
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::{
    clients::{
        http::{Endpoint, Http, HttpOptions},
        llm::{self, Anthropic, LlmOptions, OpenAi},
    },
    config::{Config, Database, LlmProvider, SignIn, VaultConfig},
    domain::{Clock, Password, PasswordHash, Passwords, TokenKeys, password::Verdict},
    mail::{Mailer, MailerOptions},
    store::{StoreError, organizations},
    tenant,
    vault::{self, Place, Vault, VaultError},
};

/// What runs by the clock, unless `scheduler.file` names another file.
const SCHEDULES: &str = include_str!("../config/schedules.toml");

/// One process's parts, shared as `Arc<App>`; job handlers reach it as `ctx.app`.
pub struct App {
    pub config: Config,
    pub db: PgPool,
    pub vault: Vault,
    pub mailer: Mailer,
    pub clock: Clock,
    /// The way out to third parties.
    pub http: Http,
    /// Who names conversations; `None`: their own keywords do.
    pub llm: Option<Box<dyn llm::Provider>>,
    /// Sign and check access tokens.
    pub tokens: TokenKeys,
    passwords: Arc<Passwords>,
    /// As many passwords are hashed at once as there are cores; the others wait for their turn.
    hashing: Arc<Semaphore>,
}

impl App {
    /// Opens the vault and the mailer, and connects to the database.
    ///
    /// # Errors
    /// Says what to set when there is no vault key (VAULT-6) or no database, and why the database refused.
    pub async fn connect(config: Config, clock: Clock) -> anyhow::Result<Arc<Self>> {
        let db = connect(&config.database).await?;
        Self::with_pool(config, db, clock)
    }

    /// As [`App::connect`], on a pool that is there already.
    pub fn with_pool(config: Config, db: PgPool, clock: Clock) -> anyhow::Result<Arc<Self>> {
        let vault = Vault::from_keys(&config.vault.keys, config.vault.index_key.as_ref())?;
        let mailer = Mailer::new(MailerOptions {
            smtp_url: config.mail.smtp_url.clone(),
            from: config.mail.from.clone(),
            message_id_domain: config.mail.message_id_domain.clone(),
            timeout: Duration::from_secs(config.mail.timeout_s),
        })?;
        let tokens = TokenKeys::new(token_keys(&config.sign_in, &vault)?);
        let passwords = Arc::new(Passwords::new(config.sign_in.argon2_memory_kib, config.sign_in.argon2_passes)?);
        let hashing = Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));
        let llm = provider(&config, &clock)?;
        let http = Http::new(HttpOptions {
            timeout: Duration::from_secs(config.clients.timeout_s),
            body_limit: config.clients.body_limit_bytes,
            allow: config.clients.allow_networks.clone(),
        })?;
        Ok(Arc::new(Self { config, db, vault, mailer, clock, http, llm, tokens, passwords, hashing }))
    }

    /// Hashes a password for storing, aside from the runtime's threads.
    pub async fn hash_password(&self, password: Password) -> anyhow::Result<PasswordHash> {
        Ok(self.at_its_turn(move |passwords| passwords.hash(&password)).await??)
    }

    /// Whether it is the password. Takes as long where nothing is stored.
    pub async fn verify_password(&self, password: Password, stored: Option<PasswordHash>) -> anyhow::Result<Verdict> {
        self.at_its_turn(move |passwords| passwords.verify(&password, stored.as_ref())).await
    }

    /// The turn belongs to the work, which goes on when nobody waits for it any more.
    async fn at_its_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Passwords) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let turn = self.hashing.clone().acquire_owned().await?;
        let passwords = self.passwords.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&passwords)
        });
        Ok(done.await?)
    }

    /// The turns to hash, for tests that take them all.
    #[cfg(test)]
    pub fn hashing(&self) -> Arc<Semaphore> {
        self.hashing.clone()
    }
}

/// The configured language model.
fn provider(config: &Config, clock: &Clock) -> anyhow::Result<Option<Box<dyn llm::Provider>>> {
    let settings = &config.llm;
    let default = match settings.provider {
        LlmProvider::Local => return Ok(None),
        LlmProvider::Openai => "https://api.openai.com/v1",
        LlmProvider::Anthropic => "https://api.anthropic.com",
    };
    let address = settings.base_url.as_deref().unwrap_or(default);
    let endpoint =
        Endpoint::parse(address).map_err(|problem| anyhow::anyhow!("the address in llm.base_url {problem}"))?;
    let http = Http::new(HttpOptions {
        timeout: Duration::from_secs(settings.timeout_s),
        body_limit: config.clients.body_limit_bytes,
        allow: config.clients.allow_networks.clone(),
    })?;
    let model = settings.model.clone().unwrap_or_default();
    let (api_key, temperature, clock) = (settings.api_key.clone(), settings.temperature, clock.clone());
    let options = LlmOptions { endpoint, model, api_key, temperature, http, clock };
    Ok(Some(match settings.provider {
        LlmProvider::Anthropic => Box::new(Anthropic::new(options)),
        LlmProvider::Openai | LlmProvider::Local => {
            let limit = if settings.old_max_tokens { "max_tokens" } else { "max_completion_tokens" };
            Box::new(OpenAi::new(options, limit))
        }
    }))
}

/// The configured keys of access tokens, or keys made of the vault's.
fn token_keys(config: &SignIn, vault: &Vault) -> anyhow::Result<Vec<(String, Zeroizing<[u8; 32]>)>> {
    if config.token_keys.is_empty() {
        return Ok(vault.derive_keys("access tokens"));
    }
    let mut keys: Vec<(String, _)> = Vec::with_capacity(config.token_keys.len());
    for (n, text) in config.token_keys.iter().enumerate() {
        let key = vault::parse_key(text.expose_secret().trim());
        let (id, key) =
            key.map_err(|problem| anyhow::anyhow!("token key number {} (sign_in.token_keys) {problem}", n + 1))?;
        anyhow::ensure!(
            keys.iter().all(|(other, _)| *other != id),
            "two token keys are called {id} (sign_in.token_keys)"
        );
        keys.push((id, key));
    }
    Ok(keys)
}

/// Seals the arguments and results of sealed kinds with the vault's keys. Without keys it refuses when it is asked, so that
/// commands that touch no sealed kind need none.
pub struct JobSealer(Result<Vault, VaultError>);

impl JobSealer {
    pub fn new(config: &VaultConfig) -> Self {
        Self(Vault::from_keys(&config.keys, config.index_key.as_ref()))
    }

    fn vault(&self) -> Result<&Vault, VaultError> {
        self.0.as_ref().map_err(Clone::clone)
    }
}

/// A job of the platform as a whole has no organization; no slug is empty.
fn place_of<'a>(place: &SealedPlace<'a>) -> Place<'a> {
    let organization = place.tenant.unwrap_or_default();
    Place { organization, table: "queue.jobs", column: place.part, row: place.job_id }
}

impl Sealer for JobSealer {
    fn seal(&self, place: &SealedPlace<'_>, plain: &Value) -> anyhow::Result<String> {
        Ok(BASE64_URL_SAFE_NO_PAD.encode(self.vault()?.seal_json(&place_of(place), plain)?))
    }

    fn open(&self, place: &SealedPlace<'_>, sealed: &str) -> anyhow::Result<Value> {
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(sealed).map_err(|_| VaultError::NotSealed)?;
        Ok(self.vault()?.open_json(&place_of(place), &sealed)?)
    }

    fn index(&self, tenant: Option<&str>, kind: &str, key: &str) -> anyhow::Result<String> {
        let index = self.vault()?.blind_index(tenant.unwrap_or_default(), "queue.unique_keys", kind, key);
        Ok(BASE64_URL_SAFE_NO_PAD.encode(index))
    }
}

/// The scheduler asks the application whom schedules fan out to.
impl Tenants for App {
    fn schedule_tenants(&self) -> BoxFuture<'_, anyhow::Result<Vec<TenantZone>>> {
        Box::pin(schedule_tenants(&self.db).map_err(anyhow::Error::from))
    }
}

/// The organizations in good standing, each with the clock it lives by.
pub async fn schedule_tenants(db: &PgPool) -> Result<Vec<TenantZone>, StoreError> {
    let active = organizations::active(&mut *db.acquire().await?).await?;
    Ok(active.into_iter().map(|o| TenantZone { tenant: o.slug, time_zone: o.time_zone }).collect())
}

/// The schedules in force, checked against the kinds of jobs.
///
/// # Errors
/// Names the file and the line at fault (CRON-1).
pub fn schedules(config: &Config, registry: &Registry<App>) -> anyhow::Result<Schedules> {
    match &config.scheduler.file {
        None => Schedules::parse(SCHEDULES, registry).context("config/schedules.toml is not in order"),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("could not read the schedules in {} (scheduler.file)", path.display()))?;
            Schedules::parse(&text, registry).with_context(|| format!("{} is not in order", path.display()))
        }
    }
}

/// Refuses a database that lacks a migration of this program. One that has more is fine: old processes run on while a
/// new release is migrated in.
pub async fn check_migrated(db: &PgPool) -> anyhow::Result<()> {
    let current = tenant::platform_is_current(db).await.context("could not see which migrations the database has")?;
    anyhow::ensure!(current, "the database is not up to date: run `backroom migrate`");
    Ok(())
}

/// The pool of one process. Looks once, so that a wrong address is told at once and in its own words.
pub async fn connect(database: &Database) -> anyhow::Result<PgPool> {
    let options = options(database)?;
    probe(&options).await.with_context(|| refusal(&options))?;
    pool(database)
}

/// The pool of one process, without a look at the database.
pub fn pool(database: &Database) -> anyhow::Result<PgPool> {
    let options = options(database)?;
    Ok(PgPoolOptions::new()
        .max_connections(database.max_connections)
        // A connection caches the catalogue of every organization it has met (68 MB after a thousand): recycle it.
        .max_lifetime(Duration::from_secs(1800))
        .idle_timeout(Duration::from_secs(300))
        // A look at a connection that has rested before its use, as sqlx would by itself, but not for longer than it deserves.
        .test_before_acquire(false)
        .before_acquire(
            |connection, meta| {
                if meta.idle_for < RESTED { Box::pin(async { Ok(true) }) } else { answers(connection) }
            },
        )
        // Whoever gave up waiting for an answer gives the connection back. If it is dead, sqlx would wait for it in its turn,
        // and the pool would have a place less for good.
        .after_release(|connection, _| answers(connection))
        .connect_lazy_with(options))
}

/// One that was in use so short a time ago has said then that it is alive.
const RESTED: Duration = Duration::from_secs(1);
/// How long a connection of the pool may take to say that it is alive.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Whether the other end is still there: a line that is half open is not closed, it only says nothing.
fn answers(connection: &mut PgConnection) -> BoxFuture<'_, sqlx::Result<bool>> {
    Box::pin(async move {
        let answered = tokio::time::timeout(ANSWER_WITHIN, connection.ping()).await;
        Ok(answered.is_ok_and(|answered| answered.is_ok()))
    })
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
    connect_options(url)
}

/// Reads a PostgreSQL address. Over loopback TLS is off unless the address asks for it (`?sslmode=`): nobody can listen
/// there, and it nearly halves what the queue gets done (18 against 33 thousand jobs a second, measured in one go).
pub fn connect_options(url: &str) -> anyhow::Result<PgConnectOptions> {
    let options: PgConnectOptions = url.parse().context("DATABASE_URL (database.url) is not a PostgreSQL address")?;
    let options = options.application_name("backroom");
    let loopback = ["127.0.0.1", "localhost", "::1", "[::1]"].contains(&options.get_host());
    Ok(if loopback && !url.contains("sslmode") { options.ssl_mode(PgSslMode::Disable) } else { options })
}

async fn probe(options: &PgConnectOptions) -> sqlx::Result<()> {
    let connected = tokio::time::timeout(Duration::from_secs(10), options.connect()).await;
    connected.map_err(|_| sqlx::Error::PoolTimedOut)??.close().await
}

/// Whether waiting may cure it: no connection yet, or the server says that it is starting, stopping or full.
fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        // A proxy takes connections for a server that is away, and closes them in the middle of the greeting.
        sqlx::Error::Protocol(_) => true,
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

#[cfg(test)]
mod tests {
    use crate::{domain::Password, jobs::testing::World};

    /// AUTH-5: whoever hangs up while a password is hashed does not make room for more of that work than there are cores.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_turn_to_hash_lasts_as_long_as_the_work() {
        // Long enough that it is not done by the time that the next line runs.
        let slow = [("BACKROOM__SIGN_IN__ARGON2_MEMORY_KIB", "65536"), ("BACKROOM__SIGN_IN__ARGON2_PASSES", "5")];
        let world = World::with(&slow).await;
        let hashing = world.app.hashing();
        let turns = hashing.available_permits();
        let password = Password::parse("correct horse battery").unwrap();
        let mut hash = Box::pin(world.app.hash_password(password));
        assert!(futures::poll!(&mut hash).is_pending());

        drop(hash);

        assert_eq!(hashing.available_permits(), turns - 1);
        let all = u32::try_from(turns).unwrap();
        drop(hashing.acquire_many(all).await.unwrap());
        assert_eq!(hashing.available_permits(), turns, "and is given back in the end");
    }
}
