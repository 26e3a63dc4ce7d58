//! `backroom job run KIND`: inline, with a progress bar on a terminal.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use backroom_queue::{JobRecord, NewJob, Outcome};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Output, Session, Work, exit_code};

/// How a job went that was run here.
pub struct Ran {
    pub outcome: Outcome,
    pub record: JobRecord,
    pub duration: Duration,
}

/// Runs a job here and now, with a progress bar on a terminal.
pub async fn here(session: &Session, job: NewJob) -> anyhow::Result<Ran> {
    let app = session.app()?;
    let bar = ProgressBar::new_spinner().with_message(format!("{} {}", job.kind, job.id));
    bar.enable_steady_tick(Duration::from_millis(100));
    let counted = ProgressStyle::with_template("{bar:30} {pos}/{len}, {eta} left  {msg}")?;
    let watcher = bar.clone();
    let progress = move |done, total: Option<u64>| {
        if let Some(total) = total
            && watcher.length() != Some(total)
        {
            watcher.set_style(counted.clone());
            watcher.set_length(total);
        }
        watcher.set_position(done);
    };

    let began = Instant::now();
    let ran = backroom_queue::run_inline(&session.db, &session.registry, app, job, progress).await;
    let duration = began.elapsed();
    bar.finish_and_clear();
    let (outcome, record) = ran?;
    Ok(Ran { outcome, record, duration })
}

pub async fn run(session: &Session, work: Work, output: Output) -> anyhow::Result<ExitCode> {
    let job = work.into_job(session).await?;
    let Ran { outcome, record, duration } = here(session, job).await?;
    let document = serde_json::json!({
        "id": record.id,
        "kind": record.kind,
        "tenant": record.tenant,
        "state": record.state,
        "attempt": record.attempt,
        "max_attempts": record.max_attempts,
        "outcome": word(&outcome),
        "result": record.result,
        "reason": record.reason,
        "error": record.errors.last().map(|error| &error.error),
        "duration_ms": u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
    });
    output.answer(&document, || tell(&outcome, &record, duration))?;
    Ok(match outcome {
        // Not at its end, and nothing is wrong.
        Outcome::Snoozed { .. } | Outcome::Released => ExitCode::SUCCESS,
        _ => exit_code(record.state),
    })
}

pub fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Completed { .. } => "completed",
        Outcome::Snoozed { .. } => "snoozed",
        Outcome::Retryable { .. } => "failed",
        Outcome::Cancelled { .. } => "cancelled",
        Outcome::Discarded { .. } => "discarded",
        Outcome::Released => "released",
    }
}

fn tell(outcome: &Outcome, record: &JobRecord, duration: Duration) -> String {
    let ending = match outcome {
        Outcome::Completed { result: None } => String::new(),
        Outcome::Completed { result: Some(result) } => format!("\nresult: {result:#}"),
        Outcome::Snoozed { wait } => format!("\nit runs again in {wait:.0?}"),
        Outcome::Retryable { error, wait } => format!("\nerror: {error}\na worker tries it again in {wait:.0?}"),
        Outcome::Cancelled { reason } | Outcome::Discarded { reason, .. } => format!("\nreason: {reason}"),
        Outcome::Released => "\nit was handed back to the workers".to_owned(),
    };
    let tenant = record.tenant.as_deref().map(|tenant| format!(" for {tenant}")).unwrap_or_default();
    format!(
        "{} {}{tenant}: {} in {duration:.1?}, attempt {} of {}{ending}",
        record.kind,
        record.id,
        word(outcome),
        record.attempt,
        record.max_attempts
    )
}
