//! `backroom invoice …`

mod clear_failure;
mod import;
mod list;
mod remind;

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::{output::Output, session::Session};

#[derive(Subcommand)]
pub enum Invoice {
    /// List an organization's invoices, newest first
    #[command(after_help = "Example:\n  backroom invoice list --org acme --overdue")]
    List(list::Args),
    /// Remind an organization's customers of overdue invoices, now instead of at nine
    #[command(after_help = "Example:\n  backroom invoice remind --org acme --dry-run")]
    Remind(remind::Args),
    /// Let the next sweep remind again of invoices whose reminder could not be sent
    #[command(
        after_help = "Correct the cause first: the company's address, or the mail server. Then the next sweep, or `backroom \
        invoice remind`, sends the reminder.\n\nExamples:\n  backroom invoice clear-failure --org acme --number F-1001\n  \
        backroom invoice clear-failure --org acme --all"
    )]
    ClearFailure(clear_failure::Args),
    /// Import invoices from a CSV file; lines that are in order go in, bad ones are named
    #[command(after_help = "The header names number, org_number, company_name, company_email, language, issue_date, \
        due_date, currency, description, quantity, unit_price and tax_rate. An invoice with several items has several \
        lines in a row.\n\nExample:\n  backroom invoice import invoices.csv --org acme")]
    Import {
        /// CSV in UTF-8, separated by commas, or by semicolons with decimal commas
        file: PathBuf,
        /// Slug of the organization
        #[arg(long)]
        org: String,
    },
}

pub async fn run(session: &Session, command: Invoice, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Invoice::List(args) => list::run(session, args, output).await,
        Invoice::Remind(args) => remind::run(session, args, output).await,
        Invoice::ClearFailure(args) => clear_failure::run(session, args, output).await,
        Invoice::Import { file, org } => import::run(session, &file, &org, output).await,
    }
}
