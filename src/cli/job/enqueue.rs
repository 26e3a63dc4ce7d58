//! `backroom job enqueue KIND`

use std::process::ExitCode;

use backroom_queue::Unique;
use chrono::{DateTime, Utc};

use super::{Output, Session, Work};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    work: Work,
    /// Another queue than the kind's
    #[arg(long)]
    queue: Option<String>,
    /// Higher runs first
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i16>,
    /// Not before this time, such as 2026-01-02T09:00:00Z
    #[arg(long, value_name = "TIME")]
    run_at: Option<DateTime<Utc>>,
    /// Attempts before it is discarded
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_attempts: Option<u32>,
    /// While an unfinished job of the kind and organization has this key, that one is answered instead
    #[arg(long, value_name = "KEY", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    unique_key: Option<String>,
}

pub async fn run(session: &Session, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let mut job = args.work.into_job(session).await?;
    if let Some(queue) = &args.queue {
        crate::cli::queue::require(session, queue).await?;
    }
    job.queue = args.queue.unwrap_or(job.queue);
    job.priority = args.priority.unwrap_or(job.priority);
    job.run_at = args.run_at.or(job.run_at);
    job.max_attempts = args.max_attempts.unwrap_or(job.max_attempts);
    job.unique = args.unique_key.map(Unique::by).or(job.unique);
    let job = session.registry.seal(job)?;
    let enqueued = backroom_queue::enqueue(&session.db, &job).await?;
    output.answer(&enqueued, || {
        let already = if enqueued.duplicate { " (it was there already)" } else { "" };
        let id = enqueued.id;
        format!("job {id} is {}{already}\nnext: backroom job watch {id}", enqueued.state)
    })?;
    Ok(ExitCode::SUCCESS)
}
