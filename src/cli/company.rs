//! `backroom company …`

use std::process::ExitCode;

use clap::Subcommand;
use uuid::Uuid;

use super::{
    output::{Output, cell, maybe, more, next_cursor, page},
    session::Session,
};
use crate::{
    domain::Company,
    store::{
        Page, Sealer,
        companies::{self, CompanyFilter},
    },
    tenant,
};

#[derive(Subcommand)]
pub enum Command {
    /// List an organization's companies, oldest first
    #[command(after_help = "Example:\n  backroom company list --org acme --name bygg")]
    List {
        /// Slug of the organization
        #[arg(long)]
        org: String,
        /// Part of the name
        #[arg(long)]
        name: Option<String>,
        /// Rows at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<Uuid>,
    },
}

pub async fn run(session: &Session, command: Command, output: Output) -> anyhow::Result<ExitCode> {
    let Command::List { org, name, limit, cursor } = command;
    let organization = session.organization(&org).await?;
    let app = session.app()?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let filter = CompanyFilter { name, ..CompanyFilter::default() };
    let wanted = Page { after: cursor, ..Page::first(limit) };
    let rows = companies::page(&mut tx, Sealer::new(&app.vault, organization.slug.as_str()), &filter, wanted).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, limit, |company| company.id);
    let documents: Vec<_> = rows.iter().map(document).collect();
    output.answer(&page("companies", &documents, next), || {
        let table = rows.iter().map(|company| {
            [
                cell(company.id),
                cell(&company.name),
                cell(&company.org_number),
                cell(&company.email),
                cell(company.language),
                maybe(company.phone.as_ref().map(|phone| phone.as_str())),
            ]
        });
        let header = ["id", "name", "org number", "e-mail", "language", "phone"];
        output.table(header, table.collect(), &format!("{org} has no such company")) + &more(next)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn document(company: &Company) -> serde_json::Value {
    serde_json::json!({
        "id": company.id,
        "name": company.name,
        "org_number": company.org_number,
        "email": company.email,
        "language": company.language,
        "phone": company.phone,
        "contact": company.contact,
        "created_at": company.created_at,
        "updated_at": company.updated_at,
    })
}
