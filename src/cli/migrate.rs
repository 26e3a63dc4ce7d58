//! `backroom migrate`: the queue, the control plane, then every organization's schema (TEN-6).

use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use sqlx::PgPool;

use super::output::{Output, cell, maybe};
use crate::{config::Config, context, tenant};

#[derive(clap::Args)]
pub struct Args {
    /// How many schemas are migrated at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
}

pub async fn run(config: &Config, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let db = context::connect(&config.database).await?;
    tenant::migrate_platform(&db).await?;
    schemas(&db, args.concurrency, output).await
}

/// Migrates the organizations' schemas and reports each; exit code 1 if one failed.
pub async fn schemas(db: &PgPool, concurrency: u16, output: Output) -> anyhow::Result<ExitCode> {
    let total: i64 = sqlx::query_scalar("select count(*) from public.organizations").fetch_one(db).await?;
    let bar = ProgressBar::new(u64::try_from(total)?.saturating_add(1));
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} schemas, {eta} left  {msg}")?);
    let reports = tenant::migrate_all(db, usize::from(concurrency), |report| {
        bar.set_message(report.schema.clone());
        bar.inc(1);
    })
    .await?;
    bar.finish_and_clear();

    let failed = reports.iter().filter(|report| report.error.is_some()).count();
    let document = serde_json::json!({ "schemas": reports, "failed": failed });
    output.answer(&document, || {
        // What was up to date already is counted, not listed: there may be thousands.
        let touched = reports.iter().filter(|report| report.applied > 0 || report.error.is_some());
        let rows: Vec<_> = touched
            .map(|report| {
                let millis = report.duration.as_millis();
                [cell(&report.schema), cell(report.applied), cell(format!("{millis} ms")), maybe(report.error.as_ref())]
            })
            .collect();
        let up_to_date = reports.len() - rows.len();
        let table = output.table(["schema", "applied", "took", "error"], rows, "");
        format!("{table}\n{up_to_date} of {} schemas were up to date, {failed} failed", reports.len())
            .trim_start()
            .to_owned()
    })?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
