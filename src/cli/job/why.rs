//! `backroom job why ID` (PLAT-22)

use std::{fmt::Write, process::ExitCode};

use backroom_queue::Why;
use uuid::Uuid;

use super::{Output, Session, no_such_job};
use crate::cli::output::time;

pub async fn run(session: &Session, id: Uuid, output: Output) -> anyhow::Result<ExitCode> {
    let why = backroom_queue::explain(&mut *session.connection().await?, id, None).await?;
    let why = why.ok_or_else(|| no_such_job(id))?;
    output.answer(&why, || describe(&why))?;
    Ok(ExitCode::SUCCESS)
}

fn describe(why: &Why) -> String {
    let mut text = why.sentence.clone();
    for reason in why.reasons.iter().skip(1) {
        let _ = write!(text, "\n{reason}");
    }
    if let Some(at) = why.expected_at {
        let _ = write!(text, "\nexpected: not before {}", time(at));
    }
    text
}
