//! `backroom location …` (ASSET-2)

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;
use uuid::Uuid;

use super::{
    output::{Output, cell, maybe, more, next_cursor, page},
    session::Session,
};
use crate::{
    domain::LocationKind,
    store::{
        Page, Sealer,
        locations::{self, LocationFilter},
    },
    tenant,
};

#[derive(Subcommand)]
pub enum Command {
    /// List an organization's locations, oldest first
    #[command(after_help = "Example:\n  backroom location list --org acme --kind warehouse")]
    List {
        /// Slug of the organization
        #[arg(long)]
        org: String,
        /// Part of the name
        #[arg(long)]
        name: Option<String>,
        /// office, warehouse, employee_home or remote
        #[arg(long)]
        kind: Option<LocationKind>,
        /// Rows at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<Uuid>,
    },
}

pub async fn run(session: &Session, command: Command, output: Output) -> anyhow::Result<ExitCode> {
    let Command::List { org, name, kind, limit, cursor } = command;
    let organization = session.organization(&org).await?;
    let app = session.app()?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let filter = LocationFilter { name, kind, active: None };
    let wanted = Page { after: cursor, ..Page::first(limit) };
    let rows = locations::page(&mut tx, Sealer::new(&app.vault, organization.slug.as_str()), &filter, wanted).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, limit, |location| location.id);
    let documents: Vec<_> = rows
        .iter()
        .map(|row| {
            let facts = &row.facts;
            json!({
                "id": row.id, "name": facts.name, "kind": facts.kind, "address": facts.address, "phone": facts.phone,
                "active": facts.active, "created_at": row.created_at, "updated_at": row.updated_at,
            })
        })
        .collect();
    output.answer(&page("locations", &documents, next), || {
        let table = rows.iter().map(|row| {
            let address = row.facts.address.as_ref().map(|address| address.replace('\n', ", "));
            let active = if row.facts.active { "yes" } else { "-" };
            [cell(row.id), cell(&row.facts.name), cell(row.facts.kind), maybe(address), cell(active)]
        });
        let header = ["id", "name", "kind", "address", "active"];
        output.table(header, table.collect(), &format!("{org} has no such location")) + &more(next)
    })?;
    Ok(ExitCode::SUCCESS)
}
