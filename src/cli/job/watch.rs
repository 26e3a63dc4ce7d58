//! `backroom job watch ID`

use std::{process::ExitCode, time::Duration};

use backroom_queue::{JobRecord, JobState};
use uuid::Uuid;

use super::{Output, Session, exit_code, no_such_job};
use crate::cli::output::time;

const LOOK_EVERY: Duration = Duration::from_millis(300);

pub async fn run(session: &Session, id: Uuid, output: Output) -> anyhow::Result<ExitCode> {
    let job = follow(session, id, |job| if output.json { Ok(()) } else { output.line(&line(job)) }).await?;
    if output.json {
        output.document(&job)?;
    }
    Ok(exit_code(job.state))
}

/// Tells every change of the job's state and attempt until it ends.
pub async fn follow(
    session: &Session,
    id: Uuid,
    mut tell: impl FnMut(&JobRecord) -> anyhow::Result<()>,
) -> anyhow::Result<JobRecord> {
    let mut told = None;
    loop {
        let found = backroom_queue::find(&mut *session.connection().await?, id, None).await?;
        let job = found.ok_or_else(|| no_such_job(id))?;
        let now = (job.state, job.attempt, job.held);
        if told != Some(now) {
            tell(&job)?;
            told = Some(now);
        }
        if job.state.is_finished() {
            return Ok(job);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn line(job: &JobRecord) -> String {
    let detail = match job.state {
        _ if job.held => ": held while the organization is suspended".to_owned(),
        JobState::Scheduled => format!(": due at {}", time(job.run_at)),
        JobState::Running => {
            format!(": attempt {} of {} on {}", job.attempt, job.max_attempts, job.worker.as_deref().unwrap_or("-"))
        }
        JobState::Retryable => {
            let error = job.errors.last().map_or("", |error| error.error.as_str());
            format!(": attempt {} failed ({error}); next at {}", job.attempt, time(job.run_at))
        }
        JobState::Completed => job.result.as_ref().map(|result| format!(": {result}")).unwrap_or_default(),
        JobState::Cancelled | JobState::Discarded => {
            format!(": {}", job.reason.as_deref().unwrap_or("no reason is known"))
        }
        JobState::Available => String::new(),
    };
    let at = job.finished_at.or(job.attempted_at).unwrap_or(job.created_at);
    format!("{}  {}{detail}", time(at), job.state)
}
