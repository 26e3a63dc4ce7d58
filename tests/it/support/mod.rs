//! The program as its users run it: processes on a database of their own, a mail server that counts.

pub mod api;
pub mod browser;
pub mod link;
#[allow(dead_code, reason = "the library's own tests use the rest of it")]
pub mod llm;
pub mod server;

use std::{
    ffi::OsStr,
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use backroom::{
    config::Config,
    context::App,
    domain::{Clock, OrgNumber, Organization},
    mail::mailbox::{Mailbox, MailboxRules},
    tenant::{self, testing::TestDatabase},
    vault,
};
use sqlx::PgPool;
use tokio::{
    process::{Child, Command},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long anything that should happen may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that a `backroom` process is told by its environment.
#[derive(Clone)]
pub struct Program {
    vars: Vec<(String, String)>,
    log: Option<PathBuf>,
}

impl Program {
    /// On this database, with keys of its own, debug kinds, short leases and quiet logs.
    pub fn on(database_url: &str) -> Self {
        let program = Self { vars: Vec::new(), log: None };
        program
            .with("DATABASE_URL", database_url)
            .with("BACKROOM__VAULT__KEYS", vault::generate_key())
            .with("BACKROOM__VAULT__INDEX_KEY", vault::generate_index_key())
            .with("BACKROOM__JOBS__DEBUG_KINDS", "true")
            .with("BACKROOM__WORKER__LEASE_S", "3")
            .with("BACKROOM__MAIL__MAILBOX_LISTEN", "")
            .with("BACKROOM__LOG__FILTER", "error")
            .with("NO_COLOR", "1")
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.vars.push((name.to_owned(), value.to_string()));
        self
    }

    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backroom"));
        command.args(args).env_clear().envs(self.vars.iter().cloned()).kill_on_drop(true).stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
    }

    /// Without this setting.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.vars.retain(|(known, _)| known != name);
        self
    }

    /// What a process with these settings works with, in this one: for what a test does through the program's own doors.
    pub async fn app(&self) -> Arc<App> {
        let config = Config::from_vars(&self.vars.iter().cloned().collect()).expect("a configuration");
        App::connect(config, Clock::system()).await.expect("an app")
    }

    /// Starts a long-running process. Its log goes to this test's standard error, or to the end of `log`.
    pub fn start(&self, args: &[&str]) -> Process {
        let mut command = self.command(args);
        if let Some(log) = &self.log {
            let log = File::options().create(true).append(true).open(log).expect("the log opens");
            command.stderr(log);
        }
        Process(command.stdout(Stdio::null()).spawn().expect("the program starts"))
    }

    /// Long-running processes write their logs to this file.
    #[must_use]
    pub fn logging_to(mut self, log: &Path) -> Self {
        self.log = Some(log.to_owned());
        self
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[&str]) -> Ran {
        let output = tokio::time::timeout(PATIENCE, self.command(args).output()).await;
        let output =
            output.unwrap_or_else(|_| panic!("backroom {args:?} did not end in {PATIENCE:?}")).expect("it runs");
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command that must succeed, with `--json`; answers the document.
    pub async fn json(&self, args: &[&str]) -> serde_json::Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let ran = self.run(&args).await;
        assert_eq!(ran.code, Some(0), "backroom {args:?}: {}", ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("backroom {args:?} printed {:?}: {e}", ran.stdout))
    }
}

/// A process that runs until it is told otherwise; killed when dropped.
pub struct Process(Child);

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id().expect("the process runs")
    }

    /// Sends a signal, such as `STOP`.
    pub async fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status().await;
        assert!(sent.expect("kill runs").success(), "SIG{name} was sent");
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(mut self) {
        self.0.kill().await.expect("the process is killed");
    }

    /// SIGTERM, and waits for the orderly end.
    pub async fn stop(mut self) {
        self.signal("TERM").await;
        let ended = tokio::time::timeout(PATIENCE, self.0.wait()).await.expect("it ends after SIGTERM");
        assert!(ended.expect("its status").success(), "it ended in order");
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("its status").is_some()
    }

    /// Fails the test if the process has ended by itself.
    pub fn assert_running(&mut self) {
        assert!(!self.has_ended(), "the process ended by itself");
    }
}

pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A mail server on loopback that accepts, counts and misbehaves on command.
pub async fn mailbox() -> Mailbox {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Mailbox::start(any, MailboxRules::default(), Clock::system(), CancellationToken::new()).await.expect("a free port")
}

/// A free address on loopback.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Asks again until the answer is there; `what` says what was waited for.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the query answers `expected`; rides out a database that is away.
pub async fn until(pool: &PgPool, sql: &'static str, expected: i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let count: Result<i64, _> = sqlx::query_scalar(sql).fetch_one(pool).await;
        if count.as_ref().is_ok_and(|count| *count == expected) {
            return;
        }
        assert!(Instant::now() < deadline, "{sql}: {count:?}, expected {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.expect("a count")
}

/// An organization with `invoices` unpaid invoices of one company each, five days overdue: due their first reminder.
pub async fn overdue_organization(database: &TestDatabase, slug: &str, invoices: i32) -> Organization {
    let organization = database.organization(slug).await;
    let mut tx = tenant::begin(&database.pool, &organization).await.expect("the organization opens");
    for n in 0..invoices {
        let company = Uuid::now_v7();
        sqlx::query(
            "insert into companies (id, name, email, org_number, language, created_at, updated_at)
             values ($1, $2, $3, $4, 'sv', now(), now())",
        )
        .bind(company)
        .bind(format!("Company {n}"))
        .bind(format!("company{n}@example.com"))
        .bind(org_number(n))
        .execute(&mut *tx)
        .await
        .expect("a company");
        sqlx::query(
            "insert into invoices (id, number, company_id, status, issue_date, due_date, subtotal, tax, total, created_at, updated_at)
             values (gen_random_uuid(), $1, $2, 'unpaid', current_date - 35, current_date - 5, 100, 25, 125, now(), now())",
        )
        .bind(format!("{slug}-{n}"))
        .bind(company)
        .execute(&mut *tx)
        .await
        .expect("an invoice");
    }
    tx.commit().await.expect("committed");
    organization
}

/// The lines that `debug.append` jobs wrote.
pub fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The n-th organization number that passes the check.
fn org_number(n: i32) -> String {
    let digits = format!("556{n:06}");
    let check = (0..10).find(|check| OrgNumber::parse(&format!("{digits}{check}")).is_ok());
    format!("{digits}{}", check.expect("one of ten digits is the check digit"))
}
