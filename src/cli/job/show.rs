//! `backroom job show ID`

use std::{fmt::Write, process::ExitCode};

use backroom_queue::JobRecord;
use uuid::Uuid;

use super::{Output, Session, no_such_job};
use crate::cli::output::time;

pub async fn run(session: &Session, id: Uuid, output: Output) -> anyhow::Result<ExitCode> {
    let job =
        backroom_queue::find(&mut *session.connection().await?, id, None).await?.ok_or_else(|| no_such_job(id))?;
    output.answer(&job, || describe(&job))?;
    Ok(ExitCode::SUCCESS)
}

fn describe(job: &JobRecord) -> String {
    let mut text = format!("{} {}\n", job.kind, job.id);
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "  {name:<13}{value}");
        }
    };
    let held = if job.held { ", held while the organization is suspended" } else { "" };
    line("state", Some(format!("{}{held}", job.state)));
    line("organization", job.tenant.clone());
    line("queue", Some(format!("{}, priority {}", job.queue, job.priority)));
    line("attempt", Some(format!("{} of {}", job.attempt, job.max_attempts)));
    line("arguments", Some(job.args.to_string()));
    line("created", Some(time(job.created_at)));
    line("due", Some(time(job.run_at)).filter(|_| !job.state.is_finished()));
    line("attempted", job.attempted_at.map(time));
    line("begun", job.begun_at.map(time));
    line("worker", job.worker.clone());
    line(
        "crashes",
        Some(format!("{} workers were lost with it, or may have been", job.crashes)).filter(|_| job.crashes > 0),
    );
    line("rate limit", job.rate_key.clone());
    line("batch", job.batch_id.map(|id| id.to_string()));
    line("finished", job.finished_at.map(time));
    line("result", job.result.as_ref().map(ToString::to_string));
    line("reason", job.reason.clone());
    line("trace", job.trace.clone());
    for error in &job.errors {
        line(
            "error",
            Some(format!("attempt {} at {}, {}: {}", error.attempt, time(error.at), error.worker, error.error)),
        );
    }
    text
}
