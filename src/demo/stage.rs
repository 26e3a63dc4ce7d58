//! Everything that Backroom is, in one process: mailbox, API, worker, scheduler, on one database.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use backroom_queue::{
    Registry, Worker, WorkerConfig,
    scheduler::{Scheduler, TenantZone, Tenants},
};
use futures::{FutureExt, future::BoxFuture};
use ipnet::IpNet;
use secrecy::SecretString;
use sqlx::PgConnection;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::connected::Guests;
use crate::{
    config::Config,
    context::{self, App},
    domain::{Clock, Organization},
    http, jobs,
    mail::mailbox::{Mailbox, MailboxRules},
    telemetry, tenant, vault,
};

/// Any constant will do; it says "one demo in a database".
const DEMO_LOCK: i64 = 0x6261_636b_6465_6d6f;

/// A free port of this machine.
const ANY_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// The configuration of a demo: as everywhere, except for keys and a mailbox of its own.
pub fn config() -> anyhow::Result<Config> {
    ensure!(
        std::env::var_os("BACKROOM_ENV").is_none_or(|environment| environment != "production"),
        "the demo makes up customers and reminds them, which is nothing for production: unset BACKROOM_ENV"
    );
    let mut config = Config::load()?;
    config.vault.keys = vec![SecretString::from(vault::generate_key())];
    config.vault.index_key = Some(SecretString::from(vault::generate_index_key()));
    config.jobs.debug_kinds = true;
    // The third act's vendors are here.
    config.clients.allow_networks.push(IpNet::from(IpAddr::from(Ipv4Addr::LOCALHOST)));
    Ok(config)
}

/// The running parts.
pub struct Stage {
    pub app: Arc<App>,
    pub registry: Arc<Registry<App>>,
    pub mailbox: Mailbox,
    /// Where the API listens.
    pub address: SocketAddr,
    /// Whether that is where it was told to listen.
    pub as_configured: bool,
    /// `PostgreSQL 15.4`
    pub database: String,
    /// Other systems that are connected; they answer as long as this is up.
    pub guests: Option<Guests>,
    ticking: Arc<AtomicBool>,
    shutdown: CancellationToken,
    parts: JoinSet<anyhow::Result<()>>,
    /// Ends with this value.
    _alone: PgConnection,
}

impl Stage {
    /// Mailbox, migrated database and API. No job runs before [`Stage::work`].
    pub async fn open(mut config: Config) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let shutdown = CancellationToken::new();
        let mailbox = Mailbox::start(ANY_PORT.into(), MailboxRules::default(), clock.clone(), shutdown.clone());
        let mailbox = mailbox.await.context("could not start a mail server on 127.0.0.1")?;
        config.mail.smtp_url = SecretString::from(mailbox.url());
        config.mail.mailbox_listen = Some(mailbox.addr());

        let wanted = config.http.listen;
        let listener = match TcpListener::bind(wanted).await {
            Ok(listener) => listener,
            Err(error) if error.kind() == ErrorKind::AddrInUse => TcpListener::bind(SocketAddr::from(ANY_PORT)).await?,
            Err(error) => return Err(error).context(format!("could not listen on {wanted} (http.listen)")),
        };
        let address = listener.local_addr()?;
        config.http.public_url = format!("http://{address}");

        let app = App::connect(config, clock).await?;
        let alone = be_alone(&app).await?;
        let database = migrate(&app).await?;
        let registry = Arc::new(jobs::registry(&app.config));
        let schedules = Arc::new(context::schedules(&app.config, &registry)?);
        let mut parts = JoinSet::new();
        let serve =
            http::serve(app.clone(), registry.clone(), schedules, listener, Some(mailbox.clone()), shutdown.clone());
        parts.spawn(async { serve.await.context("the API failed") });
        let configured = app.config.worker.queues.keys().cloned().collect();
        let sampler = telemetry::sample_queues(app.db.clone(), configured, shutdown.clone());
        parts.spawn(sampler.map(Ok));
        let as_configured = address == wanted || wanted.port() == 0;
        Ok(Self {
            app,
            registry,
            mailbox,
            address,
            as_configured,
            database,
            guests: None,
            ticking: Arc::default(),
            shutdown,
            parts,
            _alone: alone,
        })
    }

    /// Starts the worker, all queues, and the scheduler, for this organization alone. Answers the queues' names.
    pub fn work(&mut self, organization: &Organization) -> anyhow::Result<Vec<String>> {
        let settings = &self.app.config.worker;
        let queues = settings.queues.iter().filter(|(_, jobs)| **jobs > 0).map(|(name, jobs)| (name.clone(), *jobs));
        let config = WorkerConfig {
            queues: queues.collect(),
            lease: Duration::from_secs(settings.lease_s),
            poll_interval: Duration::from_millis(settings.poll_ms),
            shutdown_timeout: Duration::from_secs(2),
            listen: settings.listen,
            ..WorkerConfig::default()
        };
        let names = config.queues.keys().cloned().collect();
        let worker = Worker::new(self.app.db.clone(), self.registry.clone(), self.app.clone(), config);
        let worker = worker.run(self.shutdown.clone());
        self.parts.spawn(async { worker.await.context("the worker failed") });

        let schedules = context::schedules(&self.app.config, &self.registry)?;
        let tenants = Arc::new(Alone {
            tenant: organization.slug.as_str().to_owned(),
            time_zone: organization.time_zone,
            ticking: self.ticking.clone(),
        });
        let scheduler = Scheduler::new(self.app.db.clone(), schedules, tenants).run(self.shutdown.clone());
        self.parts.spawn(scheduler.map(Ok));
        Ok(names)
    }

    /// Schedules fire from now on. Before, a sweep at nine o'clock sharp would be one more than the story tells of.
    pub fn let_the_clock_tick(&self) {
        self.ticking.store(true, Ordering::Relaxed);
    }

    /// Returns when a part has failed; never, as long as all is well.
    pub async fn failure(&mut self) -> anyhow::Error {
        match self.parts.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(panic)) => anyhow::Error::from(panic).context("a part of the demo broke down"),
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("a part of the demo stopped by itself"),
        }
    }

    /// Lets every part finish, for a few seconds.
    pub async fn close(mut self) {
        self.shutdown.cancel();
        let all = async { while self.parts.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), all).await.is_err() {
            tracing::warn!("some parts of the demo did not stop in time");
        }
    }
}

/// Two demos in one database would take each other's jobs.
async fn be_alone(app: &App) -> anyhow::Result<PgConnection> {
    let mut connection = app.db.acquire().await?.detach();
    let alone: bool =
        sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(DEMO_LOCK).fetch_one(&mut connection).await?;
    ensure!(alone, "another demo is up in this database: end it first (Ctrl-C in its terminal)");
    Ok(connection)
}

/// Migrates, and refuses a database whose waiting work is somebody else's: the demo's worker would do it, and its mail
/// would end in the demo's mailbox. Answers what the database is.
async fn migrate(app: &App) -> anyhow::Result<String> {
    tenant::migrate_platform(&app.db).await.context("could not migrate the database")?;
    let reports = tenant::migrate_all(&app.db, 2, |_| {}).await?;
    if let Some((schema, error)) = reports.iter().find_map(|report| Some((&report.schema, report.error.as_ref()?))) {
        anyhow::bail!("schema {schema} could not be migrated: {error}");
    }
    let (version, foreign): (String, i64) = sqlx::query_as(
        "select split_part(current_setting('server_version'), ' ', 1),
                (select count(*) from queue.jobs where not held and (tenant is null or tenant !~ '^demo(-[0-9]+)?$'))",
    )
    .fetch_one(&app.db)
    .await?;
    ensure!(
        foreign == 0,
        "this database has {foreign} unfinished jobs that are not the demo's, and the demo's worker would run them: \
         give the demo a database of its own (unset DATABASE_URL, or name an empty database there)"
    );
    Ok(format!("PostgreSQL {version}"))
}

/// One organization, whatever others the database has.
struct Alone {
    tenant: String,
    time_zone: chrono_tz::Tz,
    ticking: Arc<AtomicBool>,
}

impl Tenants for Alone {
    fn schedule_tenants(&self) -> BoxFuture<'_, anyhow::Result<Vec<TenantZone>>> {
        let zone = TenantZone { tenant: self.tenant.clone(), time_zone: self.time_zone };
        let listed = self.ticking.load(Ordering::Relaxed);
        std::future::ready(Ok(if listed { vec![zone] } else { Vec::new() })).boxed()
    }
}
