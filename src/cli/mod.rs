//! The command line: `backroom <noun> <verb>`, a file per noun. Answers go to standard output, as a table or with
//! `--json` as one document; logs, progress and errors go to standard error.

mod api_key;
mod asset;
mod batch;
mod company;
mod completions;
mod config;
mod effect;
mod employee;
mod exit;
mod integration;
mod invitation;
mod invoice;
mod job;
mod key;
mod location;
mod migrate;
mod notification;
mod org;
mod output;
mod process;
mod queue;
mod rate;
mod schedule;
mod session;
mod user;
mod workflow;
mod workspace;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::{output::Output, session::Session};
use crate::config::{Config, LogFormat};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    it failed; standard error says why
  2    the command line is wrong
  3    there is no such organization, job, batch, plan, kind, effect, queue, schedule, key or workflow
  4    the job ended, and not well: it failed, was cancelled or was discarded; or one of the batch's did
  130  a process was stopped at once by a second signal

Examples:
  backroom org create acme --name 'Acme AB' --tier pro
  backroom job run billing.sweep_overdue --org acme
  backroom job list --state discarded --json";

/// The back office of B2B companies as jobs: invoices are reminded, mail is sent, work is scheduled.
#[derive(Parser)]
#[command(name = "backroom", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    /// Print one JSON document instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Show the log of a one-off command too, not only its warnings
    #[arg(long, short, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API
    #[command(after_help = "Example:\n  BACKROOM__HTTP__LISTEN=0.0.0.0:4000 backroom server")]
    Server,
    /// Run jobs
    #[command(after_help = "Example:\n  backroom worker --queues mailers,invoices")]
    Worker {
        /// Only these queues, separated by commas; all configured ones if left out
        #[arg(long, value_delimiter = ',', value_name = "NAMES")]
        queues: Vec<String>,
    },
    /// Enqueue scheduled jobs; any number of schedulers may run
    #[command(after_help = "Example:\n  backroom scheduler")]
    Scheduler,
    /// Server, worker and scheduler in one process; in development it migrates first
    #[command(after_help = "Example:\n  DATABASE_URL=postgres://localhost/backroom backroom start")]
    Start,
    /// Bring the database and every organization's schema up to date
    #[command(after_help = "Example:\n  backroom migrate --concurrency 8")]
    Migrate(migrate::Args),
    /// Print the configuration in force as TOML, secrets hidden
    #[command(after_help = "Example:\n  BACKROOM_ENV=production backroom config")]
    Config,
    /// Keys of the vault
    #[command(subcommand, after_help = "Example:\n  eval \"$(backroom key generate)\"")]
    Key(key::Key),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  backroom completions bash > /etc/bash_completion.d/backroom")]
    Completions(completions::Args),
    /// Organizations: create, list, show, suspend, activate, tier, migrate
    #[command(subcommand, after_help = "Example:\n  backroom org list")]
    Org(org::Org),
    /// People who sign in: create, list
    #[command(subcommand, after_help = "Example:\n  backroom user list --org acme")]
    User(user::User),
    /// Keys with which programs call the API
    #[command(subcommand, after_help = "Example:\n  backroom api-key create --org acme --json")]
    ApiKey(api_key::ApiKey),
    /// Jobs: run, enqueue, list, show, why, watch, retry, cancel, discard, bulk, dump, kinds
    #[command(subcommand, after_help = "Example:\n  backroom job list --state discarded")]
    Job(job::Job),
    /// Effects of jobs on the outside world: list, resolve
    #[command(subcommand, after_help = "Example:\n  backroom effect list --unknown")]
    Effect(effect::Effect),
    /// Batches of jobs: list, show, watch
    #[command(subcommand, after_help = "Example:\n  backroom batch list --org acme")]
    Batch(batch::Command),
    /// Queues: list, pause, resume, limit
    #[command(subcommand, after_help = "Example:\n  backroom queue list")]
    Queue(queue::Queue),
    /// Rate limits by key: list, set, reset
    #[command(subcommand, after_help = "Example:\n  backroom rate list")]
    Rate(rate::Rate),
    /// Schedules: list, next, run, pause, resume
    #[command(subcommand, after_help = "Example:\n  backroom schedule list")]
    Schedule(schedule::Schedule),
    /// Invoices: list, remind, import
    #[command(subcommand, after_help = "Example:\n  backroom invoice remind --org acme --dry-run")]
    Invoice(invoice::Invoice),
    /// Companies that an organization invoices
    #[command(subcommand, after_help = "Example:\n  backroom company list --org acme")]
    Company(company::Command),
    /// Employees: list, show, terminate, reactivate
    #[command(subcommand, after_help = "Example:\n  backroom employee list --org acme")]
    Employee(employee::Employee),
    /// Locations where employees work and assets are
    #[command(subcommand, after_help = "Example:\n  backroom location list --org acme")]
    Location(location::Command),
    /// Assets: list, show, history, assign, return, transfer, status
    #[command(subcommand, after_help = "Example:\n  backroom asset list --org acme --serial C02XK1")]
    Asset(asset::Asset),
    /// Workspaces that an organization's people share
    #[command(subcommand, after_help = "Example:\n  backroom workspace list --org acme")]
    Workspace(workspace::Workspace),
    /// Workflows: list, overdue, templates, template, show, start, advance, reject, complete, cancel, fail
    #[command(subcommand, after_help = "Example:\n  backroom workflow list --org acme")]
    Workflow(workflow::Workflow),
    /// Invitations into workspaces: list, revoke, resend
    #[command(subcommand, after_help = "Example:\n  backroom invitation list --org acme")]
    Invitation(invitation::Invitation),
    /// Third parties that are connected: list, show, add, change, remove, enable, disable, sync, test, runs, run, deliveries, providers
    #[command(subcommand, after_help = "Example:\n  backroom integration list --org acme")]
    Integration(integration::Integration),
    /// Rules that say which events are told in Slack: list, add, change, remove
    #[command(subcommand, after_help = "Example:\n  backroom notification list --org acme")]
    Notification(notification::Notification),
    /// Show the whole platform at work on sample data
    #[command(after_help = "Example:\n  backroom demo --once")]
    Demo {
        /// Exit when the story is told instead of staying up
        #[arg(long)]
        once: bool,
    },
    /// Measure
    #[command(hide = true, after_help = "Example:\n  backroom bench queue.drain")]
    Bench {
        /// Measurements; all if left out
        names: Vec<String>,
    },
}

/// Reads the command line, does what it says, and answers the exit code.
pub async fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    match run(cli, output).await {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}

async fn run(cli: Cli, output: Output) -> anyhow::Result<ExitCode> {
    let verbose = cli.verbose;
    match cli.command {
        // These need no configuration, or tell about it.
        Command::Key(command) => key::run(command, output),
        Command::Completions(args) => completions::run(args, &mut Cli::command()),
        Command::Config => config::run(&Config::load()?, output),
        Command::Demo { once } => crate::demo::run(once).await,
        Command::Server => process::run(process::Parts::SERVER, &[]).await,
        Command::Worker { queues } => process::run(process::Parts::WORKER, &queues).await,
        Command::Scheduler => process::run(process::Parts::SCHEDULER, &[]).await,
        Command::Start => process::run(process::Parts::ALL, &[]).await,
        Command::Bench { names } => crate::bench::run(names).await.map(|()| ExitCode::SUCCESS),
        Command::Migrate(args) => migrate::run(&one_off(verbose)?, args, output).await,
        Command::Org(command) => org::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::User(command) => user::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::ApiKey(command) => api_key::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Job(command) => job::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Effect(command) => effect::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Batch(command) => batch::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Queue(command) => queue::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Rate(command) => rate::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Schedule(command) => schedule::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Invoice(command) => invoice::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Employee(command) => employee::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Location(command) => location::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Asset(command) => asset::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Workspace(command) => workspace::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Workflow(command) => workflow::run(&Session::open(one_off(verbose)?).await?, command, output).await,
        Command::Invitation(command) => {
            invitation::run(&Session::open(one_off(verbose)?).await?, command, output).await
        }
        Command::Integration(command) => {
            integration::run(&Session::open(one_off(verbose)?).await?, command, output).await
        }
        Command::Notification(command) => {
            notification::run(&Session::open(one_off(verbose)?).await?, command, output).await
        }
        Command::Company(command) => company::run(&Session::open(one_off(verbose)?).await?, command, output).await,
    }
}

/// The configuration of a command that a person waits for: it logs warnings only, unless told otherwise.
fn one_off(verbose: bool) -> anyhow::Result<Config> {
    let config = Config::load()?;
    let mut log = config.log.clone();
    if !verbose {
        "warn".clone_into(&mut log.filter);
        log.format = LogFormat::Pretty;
    }
    crate::telemetry::init_logs(&log)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(command: &clap::Command, path: &str, see: &mut impl FnMut(&str, &clap::Command)) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name());
            see(&path, sub);
            visit(sub, &path, see);
        }
    }

    /// CLI-1, CLI-2, CLI-3, CLI-4
    #[test]
    fn every_command_says_what_it_does_and_shows_an_example_of_itself() {
        let command = Cli::command();
        command.clone().debug_assert();
        let mut seen = Vec::new();
        visit(&command, "backroom", &mut |path, sub| {
            let example = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(sub.get_about().is_some(), "`{path}` does not say what it does");
            assert!(example.contains("Example") && example.contains(path), "`{path}` has no example: {example:?}");
            seen.push(path.to_owned());
        });
        let list = seen.join("\n");
        for expected in [
            "server",
            "worker",
            "scheduler",
            "start",
            "migrate",
            "demo",
            "job run",
            "job enqueue",
            "job list",
            "job show",
            "job watch",
            "job retry",
            "job cancel",
            "job discard",
            "job why",
            "job dump",
            "job bulk retry",
            "job bulk cancel",
            "job bulk discard",
            "job bulk apply",
            "job bulk show",
            "job kinds",
            "effect list",
            "effect resolve",
            "batch list",
            "batch show",
            "batch watch",
            "queue list",
            "queue pause",
            "queue resume",
            "queue limit",
            "rate list",
            "rate set",
            "rate reset",
            "schedule list",
            "schedule next",
            "schedule run",
            "schedule pause",
            "schedule resume",
            "org create",
            "org list",
            "org show",
            "org suspend",
            "org activate",
            "org migrate",
            "org tier",
            "user create",
            "user list",
            "user password",
            "invoice remind",
            "employee list",
            "employee show",
            "employee terminate",
            "employee reactivate",
            "location list",
            "asset list",
            "asset show",
            "asset history",
            "asset assign",
            "asset return",
            "asset transfer",
            "asset status",
            "workspace list",
            "workflow list",
            "workflow overdue",
            "workflow templates",
            "workflow show",
            "workflow start",
            "workflow advance",
            "workflow complete",
            "workflow cancel",
            "workflow reject",
            "workflow fail",
            "workflow template add",
            "invitation list",
            "invitation revoke",
            "invitation resend",
            "integration list",
            "integration show",
            "integration add",
            "integration change",
            "integration remove",
            "integration enable",
            "integration disable",
            "integration sync",
            "integration test",
            "integration runs",
            "integration run",
            "integration deliveries",
            "integration providers",
            "key generate",
        ] {
            assert!(seen.contains(&format!("backroom {expected}")), "`{expected}` is missing from\n{list}");
        }
    }

    #[test]
    fn the_examples_in_the_help_are_accepted() {
        let command = Cli::command();
        let mut examples: Vec<String> = Vec::new();
        visit(&command, "backroom", &mut |_, sub| {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            examples.extend(help.lines().filter(|line| line.starts_with("  backroom ")).map(str::to_owned));
        });
        assert!(examples.len() > 20);
        for example in examples {
            let line = example.split(" > ").next().unwrap_or_default();
            let words = words(line);
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{example}: {error}");
            }
        }
    }

    /// Splits as a shell does, as far as the examples go: single quotes hold spaces.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for c in line.trim().chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().unwrap().push(c),
            }
        }
        words
    }
}
