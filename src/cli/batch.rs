//! `backroom batch …`: jobs that belong together (PLAT-18).

use std::{process::ExitCode, time::Duration};

use backroom_queue::{Batch, BatchFilter, batches, find_batch};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use uuid::Uuid;

use super::{
    exit::{JOB_ENDED_BADLY, not_found},
    output::{Output, cell, maybe, more, next_cursor, page, time},
    session::Session,
};

const LOOK_EVERY: Duration = Duration::from_millis(300);

#[derive(Subcommand)]
pub enum Command {
    /// List batches, newest first
    #[command(after_help = "Example:\n  backroom batch list --org acme --finished false")]
    List {
        /// Slug of the organization
        #[arg(long)]
        org: Option<String>,
        /// Only finished ones, or only unfinished ones
        #[arg(long, value_name = "BOOL")]
        finished: Option<bool>,
        /// Rows at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<Uuid>,
    },
    /// Show how far a batch is
    #[command(after_help = "Example:\n  backroom batch show 01980a3c-4f00-7000-8000-000000000000 --json")]
    Show { id: Uuid },
    /// Follow a batch until its last job has ended
    #[command(after_help = "Example:\n  backroom batch watch 01980a3c-4f00-7000-8000-000000000000")]
    Watch { id: Uuid },
}

pub async fn run(session: &Session, command: Command, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { org, finished, limit, cursor } => {
            if let Some(org) = &org {
                session.organization(org).await?;
            }
            list(session, &BatchFilter { tenant: org, finished, before: cursor, limit }, output).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { id } => {
            let batch = find(session, id).await?;
            output.answer(&document(&batch)?, || describe(&batch))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Watch { id } => watch(session, id, output).await,
    }
}

async fn find(session: &Session, id: Uuid) -> anyhow::Result<Batch> {
    let batch = find_batch(&session.db, id, None).await?;
    batch.ok_or_else(|| not_found(format!("there is no batch {id}; finished batches are forgotten after a week")))
}

/// A batch for programs: as it is stored, and what is left.
fn document(batch: &Batch) -> anyhow::Result<serde_json::Value> {
    let mut document = serde_json::to_value(batch)?;
    document["left"] = batch.left().into();
    Ok(document)
}

async fn list(session: &Session, filter: &BatchFilter, output: Output) -> anyhow::Result<()> {
    let found = batches(&session.db, filter).await?;
    let next = next_cursor(&found, filter.limit, |batch| batch.id);
    let documents = found.iter().map(document).collect::<anyhow::Result<Vec<_>>>()?;
    output.answer(&page("batches", &documents, next), || {
        let rows = found.iter().map(|batch| {
            [
                cell(batch.id),
                maybe(batch.name.as_ref()),
                maybe(batch.tenant.as_ref()),
                cell(batch.size),
                cell(batch.left()),
                cell(batch.completed),
                cell(batch.cancelled),
                cell(batch.discarded),
                maybe(batch.finished_at.map(time)),
            ]
        });
        let header = ["id", "name", "organization", "size", "left", "completed", "cancelled", "discarded", "finished"];
        output.table(header, rows.collect(), "there is no such batch") + &more(next)
    })
}

fn describe(batch: &Batch) -> String {
    let mut lines = vec![format!("{} {}", batch.name.as_deref().unwrap_or("batch"), batch.id)];
    let mut line = |name: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("  {name:<13}{value}")));
    };
    line("organization", batch.tenant.clone());
    line("jobs", Some(counts(batch)));
    line("created", Some(time(batch.created_at)));
    line("finished", batch.finished_at.map(time));
    line(
        "then",
        batch.then_kind.as_ref().map(|kind| match batch.then_job_id {
            Some(id) => format!("{kind}, job {id}"),
            None => format!("{kind}, when the last has ended"),
        }),
    );
    lines.join("\n")
}

fn counts(batch: &Batch) -> String {
    let Batch { size, completed, cancelled, discarded, .. } = batch;
    let left = batch.left();
    format!("{size}: {completed} completed, {cancelled} cancelled, {discarded} discarded, {left} left")
}

/// A progress bar on a terminal, a line for each change elsewhere.
async fn watch(session: &Session, id: Uuid, output: Output) -> anyhow::Result<ExitCode> {
    let mut batch = find(session, id).await?;
    let bar = ProgressBar::new(u64::from(batch.size))
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len}, {eta} left  {msg}")?);
    let mut told = None;
    while batch.finished_at.is_none() {
        bar.set_length(u64::from(batch.size));
        bar.set_position(u64::from(batch.size - batch.left()));
        bar.set_message(format!("{} discarded", batch.discarded));
        if bar.is_hidden() && !output.json && told.as_ref() != Some(&batch) {
            output.line(&counts(&batch))?;
            told = Some(batch);
        }
        tokio::time::sleep(LOOK_EVERY).await;
        batch = find(session, id).await?;
    }
    bar.finish_and_clear();
    output.answer(&document(&batch)?, || describe(&batch))?;
    let well = batch.cancelled + batch.discarded == 0;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(JOB_ENDED_BADLY) })
}
