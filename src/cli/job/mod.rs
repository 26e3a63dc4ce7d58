//! `backroom job …`: one-off jobs and what became of them (CLI-2).

mod bulk;
mod control;
mod dump;
mod enqueue;
mod kinds;
mod list;
mod run;
mod show;
mod watch;
mod why;

use std::{process::ExitCode, sync::Arc};

use backroom_queue::{JobState, Kind, NewJob, TraceParent};
use clap::Subcommand;
use serde_json::Value;
use uuid::Uuid;

use super::{
    exit::{JOB_ENDED_BADLY, not_found, usage},
    output::Output,
    session::Session,
};
use crate::context::App;

#[derive(Subcommand)]
pub enum Job {
    /// Run a job here and now, through the code of a worker, and tell what it did
    #[command(after_help = "Example:\n  backroom job run billing.sweep_overdue --org acme")]
    Run(Work),
    /// Enqueue a job for the workers
    #[command(after_help = "Example:\n  backroom job enqueue billing.sweep_overdue --org acme --priority 10 --json")]
    Enqueue(enqueue::Args),
    /// List jobs, newest first
    #[command(after_help = "Example:\n  backroom job list --org acme --state discarded --limit 20")]
    List(list::Args),
    /// Show a job: its state, arguments, errors and result
    #[command(after_help = "Example:\n  backroom job show 01980a3c-4f00-7000-8000-000000000000 --json")]
    Show { id: Uuid },
    /// Follow a job until it ends
    #[command(after_help = "Example:\n  backroom job watch 01980a3c-4f00-7000-8000-000000000000")]
    Watch { id: Uuid },
    /// Make a discarded, cancelled or waiting job available at once
    #[command(after_help = "Example:\n  backroom job retry 01980a3c-4f00-7000-8000-000000000000")]
    Retry { id: Uuid },
    /// Cancel a job; a running one is asked to stop
    #[command(
        after_help = "Example:\n  backroom job cancel 01980a3c-4f00-7000-8000-000000000000 --reason 'sent by hand'"
    )]
    Cancel {
        id: Uuid,
        /// Kept with the job
        #[arg(long, default_value = "cancelled by an operator")]
        reason: String,
    },
    /// Make a waiting job a dead letter; what its kind does about a dead letter is not done
    #[command(
        after_help = "Example:\n  backroom job discard 01980a3c-4f00-7000-8000-000000000000 --reason 'the customer is gone'"
    )]
    Discard {
        id: Uuid,
        /// Kept with the job
        #[arg(long, default_value = "discarded by an operator")]
        reason: String,
    },
    /// Say why a job does not run, and when it may
    #[command(after_help = "Example:\n  backroom job why 01980a3c-4f00-7000-8000-000000000000")]
    Why { id: Uuid },
    /// Print everything that is known of a job as one JSON document
    #[command(after_help = "Example:\n  backroom job dump 01980a3c-4f00-7000-8000-000000000000 --output job.json")]
    Dump(dump::Args),
    /// Retry, cancel or discard many jobs: first the plan, then exactly the plan
    #[command(
        subcommand,
        after_help = "Example:\n  backroom job bulk retry --kind billing.remind_invoice --error 'no connection'"
    )]
    Bulk(bulk::Bulk),
    /// List the kinds of jobs with their policy
    #[command(after_help = "Example:\n  backroom job kinds\n  backroom job kinds billing.sweep_overdue --json")]
    Kinds {
        /// Show this one with its arguments' schema
        kind: Option<String>,
    },
}

/// Which work, and for whom.
#[derive(clap::Args)]
pub struct Work {
    /// Kind of job, from `backroom job kinds`
    kind: String,
    /// The kind's arguments as a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json)]
    args: Value,
    /// Slug of the organization that it works for
    #[arg(long)]
    org: Option<String>,
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

impl Work {
    /// Checks kind, arguments and organization, and makes a job of them.
    async fn into_job(self, session: &Session) -> anyhow::Result<NewJob> {
        let kind = kind(session, &self.kind)?;
        let mut job = kind.new_job(self.args).map_err(|error| {
            usage(format!("{}: {error}; `backroom job kinds {} --json` shows the schema", self.kind, self.kind))
        })?;
        if let Some(org) = &self.org {
            job = job.tenant(session.organization(org).await?.slug.as_str());
        }
        Ok(job.trace(Some(TraceParent::new())))
    }
}

fn kind<'a>(session: &'a Session, name: &str) -> anyhow::Result<&'a Arc<Kind<App>>> {
    session
        .registry
        .get(name)
        .ok_or_else(|| not_found(format!("there is no job kind `{name}`; `backroom job kinds` shows them")))
}

fn no_such_job(id: Uuid) -> anyhow::Error {
    not_found(format!("there is no job {id}; finished jobs are forgotten after their retention"))
}

/// The exit code for a job that has ended, or goes on.
pub fn exit_code(state: JobState) -> ExitCode {
    match state {
        JobState::Cancelled | JobState::Discarded | JobState::Retryable => ExitCode::from(JOB_ENDED_BADLY),
        JobState::Completed | JobState::Scheduled | JobState::Available | JobState::Running => ExitCode::SUCCESS,
    }
}

pub async fn run(session: &Session, command: Job, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Job::Run(work) => run::run(session, work, output).await,
        Job::Enqueue(args) => enqueue::run(session, args, output).await,
        Job::List(args) => list::run(session, args, output).await,
        Job::Show { id } => show::run(session, id, output).await,
        Job::Watch { id } => watch::run(session, id, output).await,
        Job::Retry { id } => control::retry(session, id, output).await,
        Job::Cancel { id, reason } => control::cancel(session, id, &reason, output).await,
        Job::Discard { id, reason } => control::discard(session, id, &reason, output).await,
        Job::Why { id } => why::run(session, id, output).await,
        Job::Dump(args) => dump::run(session, args, output).await,
        Job::Bulk(command) => bulk::run(session, command, output).await,
        Job::Kinds { kind } => kinds::run(session, kind.as_deref(), output),
    }
}

pub use run::{Ran, here, word};
pub use watch::follow;
