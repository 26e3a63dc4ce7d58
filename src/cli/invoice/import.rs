//! `backroom invoice import FILE` (BILL-10)

use std::{path::Path, process::ExitCode};

use anyhow::Context;

use crate::{
    cli::{
        output::{Output, cell},
        session::Session,
    },
    jobs::billing,
};

/// Exit code 1 when a line was not imported, so that a script notices.
pub async fn run(session: &Session, file: &Path, org: &str, output: Output) -> anyhow::Result<ExitCode> {
    let organization = session.organization(org).await?;
    let app = session.app()?;
    let bytes = tokio::fs::read(file).await.with_context(|| format!("could not read {}", file.display()))?;
    let report = billing::import_csv(&app, &organization, &bytes, "operator").await?;
    output.answer(&report, || {
        let rows = report.errors.iter().map(|bad| [cell(bad.line), cell(&bad.field), cell(&bad.message)]);
        let table = output.table(["line", "field", "what is wrong"], rows.collect(), "");
        let gap = if table.is_empty() { "" } else { "\n\n" };
        format!(
            "{table}{gap}{} imported, {} there already, {} companies created, {} lines not imported",
            report.imported,
            report.unchanged,
            report.companies_created,
            report.errors.len()
        )
    })?;
    Ok(if report.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
