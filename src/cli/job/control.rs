//! `backroom job retry ID`, `backroom job cancel ID` and `backroom job discard ID`

use std::process::ExitCode;

use anyhow::bail;
use backroom_queue::{CancelOutcome, DiscardOutcome, RetryOutcome};
use uuid::Uuid;

use super::{Output, Session, no_such_job};

pub async fn retry(session: &Session, id: Uuid, output: Output) -> anyhow::Result<ExitCode> {
    match backroom_queue::retry(&mut *session.connection().await?, id, None).await? {
        RetryOutcome::Requeued => {
            output.answer(&serde_json::json!({ "id": id, "state": "available" }), || {
                format!("job {id} is available again")
            })?;
            Ok(ExitCode::SUCCESS)
        }
        RetryOutcome::NotRetryable => {
            bail!(
                "job {id} is not discarded, cancelled or waiting for its next attempt; `backroom job show {id}` tells"
            )
        }
        RetryOutcome::Duplicate => bail!("job {id} was not retried: the same work is queued as another job"),
        RetryOutcome::NotFound => Err(no_such_job(id)),
    }
}

pub async fn cancel(session: &Session, id: Uuid, reason: &str, output: Output) -> anyhow::Result<ExitCode> {
    let (outcome, text) = match backroom_queue::cancel(&mut *session.connection().await?, id, None, reason).await? {
        CancelOutcome::Cancelled => ("cancelled", "is cancelled"),
        CancelOutcome::Requested => ("requested", "is running and was asked to stop"),
        CancelOutcome::AlreadyFinished => bail!("job {id} had ended already; `backroom job show {id}` tells how"),
        CancelOutcome::NotFound => return Err(no_such_job(id)),
    };
    output.answer(&serde_json::json!({ "id": id, "outcome": outcome }), || format!("job {id} {text}"))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn discard(session: &Session, id: Uuid, reason: &str, output: Output) -> anyhow::Result<ExitCode> {
    match backroom_queue::discard(&mut *session.connection().await?, id, None, reason).await? {
        DiscardOutcome::Discarded => {}
        DiscardOutcome::Running => bail!("job {id} is running; `backroom job cancel {id}` asks it to stop"),
        DiscardOutcome::AlreadyFinished => bail!("job {id} had ended already; `backroom job show {id}` tells how"),
        DiscardOutcome::NotFound => return Err(no_such_job(id)),
    }
    output.answer(&serde_json::json!({ "id": id, "state": "discarded" }), || format!("job {id} is discarded"))?;
    Ok(ExitCode::SUCCESS)
}
