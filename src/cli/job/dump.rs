//! `backroom job dump ID` (PLAT-24)

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use uuid::Uuid;

use super::{Output, Session, no_such_job};
use crate::flight_recorder;

#[derive(clap::Args)]
pub struct Args {
    id: Uuid,
    /// Show arguments, result and outcomes as they are, not only their shape; what is sealed stays sealed
    #[arg(long)]
    with_args: bool,
    /// Write it to this file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn run(session: &Session, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let record = flight_recorder::record(&session.db, args.id, None, args.with_args).await?;
    let record = record.ok_or_else(|| no_such_job(args.id))?;
    let Some(file) = args.output else {
        output.document(&record)?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut text = serde_json::to_string_pretty(&record).context("could not write the record as JSON")?;
    text.push('\n');
    std::fs::write(&file, text).with_context(|| format!("could not write {}", file.display()))?;
    let document = serde_json::json!({ "id": args.id, "file": file.display().to_string() });
    output.answer(&document, || format!("the record of job {} is in {}", args.id, file.display()))?;
    Ok(ExitCode::SUCCESS)
}
