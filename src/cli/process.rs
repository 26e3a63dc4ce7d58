//! `backroom server`, `worker`, `scheduler` and `start`: the processes that stay (CLI-1).

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use backroom_queue::{
    Registry, Worker, WorkerConfig,
    scheduler::{Scheduler, Schedules},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::exit::usage;
use crate::{
    config::{self, Config, Environment},
    context::{self, App},
    domain::Clock,
    http, jobs,
    mail::mailbox::{Mailbox, MailboxRules},
    telemetry, tenant,
};

/// How long a process waits for a database that is not there yet.
const DATABASE_PATIENCE: Duration = Duration::from_secs(60);

/// What runs in this process.
#[derive(Clone, Copy)]
pub struct Parts {
    server: bool,
    worker: bool,
    scheduler: bool,
}

impl Parts {
    pub const SERVER: Self = Self { server: true, worker: false, scheduler: false };
    pub const WORKER: Self = Self { server: false, worker: true, scheduler: false };
    pub const SCHEDULER: Self = Self { server: false, worker: false, scheduler: true };
    pub const ALL: Self = Self { server: true, worker: true, scheduler: true };

    /// `start`: one process is the whole platform.
    fn is_whole(self) -> bool {
        self.server && self.worker && self.scheduler
    }
}

/// Runs the parts until a signal, or until one of them fails.
pub async fn run(parts: Parts, only_queues: &[String]) -> anyhow::Result<ExitCode> {
    let config = Config::load()?;
    telemetry::init_logs(&config.log)?;
    telemetry::init_metrics();
    let queues = if parts.worker { queues(&config.worker, only_queues)? } else { BTreeMap::new() };
    let registry = Arc::new(jobs::registry(&config));
    let schedules = context::schedules(&config, &registry)?;
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;

    let starting = start(parts, config, queues, registry, schedules, &shutdown);
    let Some(tasks) = shutdown.run_until_cancelled(starting).await else { return Ok(ExitCode::SUCCESS) };
    let ended = supervise(tasks?, &shutdown).await;
    tracing::info!("stopped");
    ended.map(|()| ExitCode::SUCCESS)
}

type Tasks = JoinSet<anyhow::Result<()>>;

/// Connects and starts every part. What is wrong is found here, before anything runs.
async fn start(
    parts: Parts,
    config: Config,
    queues: BTreeMap<String, usize>,
    registry: Arc<Registry<App>>,
    schedules: Schedules,
    shutdown: &CancellationToken,
) -> anyhow::Result<Tasks> {
    let clock = Clock::system();
    // The vault's keys are looked at before a long wait for the database.
    let pool = context::pool(&config.database)?;
    let app = App::with_pool(config, pool, clock)?;
    context::wait_for_database(&app.config.database, DATABASE_PATIENCE).await?;
    if parts.is_whole() && app.config.environment == Environment::Development {
        migrate(&app).await?;
    }
    context::check_migrated(&app.db).await?;

    let mut tasks = Tasks::new();
    if parts.server {
        let mailbox = mailbox(&app, shutdown).await?;
        let listen = app.config.http.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("could not listen on {listen} (http.listen); is another server running?"))?;
        tracing::info!(%listen, url = app.config.http.public_url, "the API is served");
        let schedules = Arc::new(schedules.clone());
        let serve = http::serve(app.clone(), registry.clone(), schedules, listener, mailbox, shutdown.clone());
        tasks.spawn(async { serve.await.context("the server failed") });
    } else if let Some(listen) = app.config.worker.metrics_listen {
        tasks.spawn(telemetry::serve(listen, shutdown.clone()));
    }
    if parts.worker {
        let settings = &app.config.worker;
        let config = WorkerConfig {
            name: name(),
            queues,
            lease: Duration::from_secs(settings.lease_s),
            poll_interval: Duration::from_millis(settings.poll_ms),
            shutdown_timeout: Duration::from_secs(settings.shutdown_s),
            listen: settings.listen,
        };
        let worker = Worker::new(app.db.clone(), registry, app.clone(), config).run(shutdown.clone());
        tasks.spawn(async { worker.await.context("the worker failed") });
    }
    if parts.scheduler {
        let scheduler = Scheduler::new(app.db.clone(), schedules, app.clone()).run(shutdown.clone());
        tasks.spawn(async {
            scheduler.await;
            Ok(())
        });
    }
    let configured = app.config.worker.queues.keys().cloned().collect();
    let sampler = telemetry::sample_queues(app.db.clone(), configured, shutdown.clone());
    tasks.spawn(async {
        sampler.await;
        Ok(())
    });
    Ok(tasks)
}

/// Waits for all tasks. The first that ends, ends the others; the first error is the process's.
async fn supervise(mut tasks: Tasks, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let mut first_error = None;
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended.map_err(anyhow::Error::from).flatten() {
            tracing::error!(error = format!("{error:#}"), "a part of the process failed; stopping");
            first_error.get_or_insert(error);
        }
        shutdown.cancel();
    }
    first_error.map_or(Ok(()), Err)
}

/// The configured queues, or those of them that `--queues` names.
fn queues(worker: &config::Worker, only: &[String]) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut queues = BTreeMap::new();
    for (queue, concurrency) in &worker.queues {
        let wanted = only.is_empty() || only.contains(queue);
        if wanted && *concurrency > 0 {
            queues.insert(queue.clone(), *concurrency);
        }
    }
    if let Some(unknown) = only.iter().find(|queue| !queues.contains_key(*queue)) {
        let names: Vec<_> = worker.queues.keys().map(String::as_str).collect();
        return Err(usage(format!(
            "queue `{unknown}` is not configured, or with 0 jobs at once; there are {} (worker.queues)",
            names.join(", ")
        )));
    }
    anyhow::ensure!(!queues.is_empty(), "every queue is configured with 0 jobs at once (worker.queues)");
    Ok(queues)
}

async fn migrate(app: &App) -> anyhow::Result<()> {
    tenant::migrate_platform(&app.db).await?;
    let reports = tenant::migrate_all(&app.db, 4, |_| {}).await?;
    for report in reports.iter().filter(|report| report.applied > 0) {
        tracing::info!(schema = report.schema, applied = report.applied, "migrated");
    }
    match reports.iter().find_map(|report| Some((&report.schema, report.error.as_ref()?))) {
        None => Ok(()),
        Some((schema, error)) => anyhow::bail!("schema {schema} could not be migrated: {error}"),
    }
}

async fn mailbox(app: &App, shutdown: &CancellationToken) -> anyhow::Result<Option<Mailbox>> {
    let Some(listen) = app.config.mail.mailbox_listen else { return Ok(None) };
    anyhow::ensure!(app.config.environment != Environment::Production, "the mailbox never runs in production");
    let mailbox = Mailbox::start(listen, MailboxRules::default(), app.clock.clone(), shutdown.clone())
        .await
        .with_context(|| format!("could not start the mailbox on {listen} (mail.mailbox_listen)"))?;
    tracing::info!(%listen, url = format!("{}/dev/mailbox", app.config.http.public_url), "mail is kept in the mailbox");
    Ok(Some(mailbox))
}

/// Who works here, for people: host and process.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "worker" } else { host.trim() };
    format!("{host}-{}", std::process::id())
}

/// The first SIGTERM or SIGINT asks every part to finish; the second ends the process at once.
fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        let mut received =
            async || tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" };
        let first = received().await;
        tracing::info!(signal = first, "finishing what runs; a second signal stops at once");
        shutdown.cancel();
        let second = received().await;
        tracing::warn!(signal = second, "stopping at once; unfinished jobs run again when their leases end");
        std::process::exit(130);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(queues: &[(&str, usize)]) -> config::Worker {
        let mut worker = Config::from_vars(&BTreeMap::new()).unwrap().worker;
        worker.queues = queues.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        worker
    }

    /// CLI-1, PLAT-8
    #[test]
    fn a_worker_takes_the_queues_it_is_told_to() {
        let worker = configured(&[("default", 10), ("mailers", 20), ("reports", 0)]);
        assert_eq!(queues(&worker, &[]).unwrap().keys().collect::<Vec<_>>(), ["default", "mailers"]);
        let mailers = ["mailers".to_owned()];
        assert_eq!(queues(&worker, &mailers).unwrap(), BTreeMap::from([("mailers".to_owned(), 20)]));
        let unknown = queues(&worker, &["mail".to_owned()]).unwrap_err().to_string();
        assert!(unknown.contains("`mail`") && unknown.contains("mailers"), "{unknown}");
        assert!(queues(&configured(&[("default", 0)]), &[]).is_err());
    }

    #[tokio::test]
    async fn the_first_part_that_fails_stops_the_others() {
        let shutdown = CancellationToken::new();
        let mut tasks = Tasks::new();
        let waits = shutdown.clone();
        tasks.spawn(async move {
            waits.cancelled().await;
            Ok(())
        });
        tasks.spawn(async { anyhow::bail!("no port") });
        assert_eq!(supervise(tasks, &shutdown).await.unwrap_err().to_string(), "no port");
    }
}
