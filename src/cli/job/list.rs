//! `backroom job list`

use std::process::ExitCode;

use backroom_queue::{JobFilter, JobState};
use uuid::Uuid;

use super::{Output, Session};
use crate::cli::output::{cell, maybe, more, next_cursor, page, time};

#[derive(clap::Args)]
pub struct Args {
    /// Slug of the organization
    #[arg(long)]
    org: Option<String>,
    /// scheduled, available, running, retryable, completed, cancelled or discarded
    #[arg(long)]
    state: Option<JobState>,
    /// Kind of job
    #[arg(long)]
    kind: Option<String>,
    /// Name of the queue
    #[arg(long)]
    queue: Option<String>,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<Uuid>,
}

pub async fn run(session: &Session, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    if let Some(org) = &args.org {
        session.organization(org).await?;
    }
    let filter = JobFilter {
        tenant: args.org,
        state: args.state,
        kind: args.kind,
        queue: args.queue,
        before: args.cursor,
        limit: args.limit,
    };
    let jobs = backroom_queue::list(&session.db, &filter).await?;
    let next = next_cursor(&jobs, args.limit, |job| job.id);
    output.answer(&page("jobs", &jobs, next), || {
        let rows = jobs.iter().map(|job| {
            let attempts = format!("{}/{}", job.attempt, job.max_attempts);
            let at = job.finished_at.unwrap_or(job.run_at);
            let tenant = maybe(job.tenant.as_ref());
            [
                cell(job.id),
                cell(&job.kind),
                tenant,
                cell(&job.queue),
                output.state(job.state, job.held),
                cell(attempts),
                cell(time(at)),
            ]
        });
        let header = ["id", "kind", "organization", "queue", "state", "attempt", "ended or due"];
        output.table(header, rows.collect(), "there is no such job") + &more(next)
    })?;
    Ok(ExitCode::SUCCESS)
}
