//! `backroom workspace list`

use std::process::ExitCode;

use clap::Subcommand;
use uuid::Uuid;

use super::{
    output::{Output, cell, more, next_cursor, page, time},
    session::Session,
};
use crate::{
    store::{Page, users, workspaces},
    tenant,
};

#[derive(Subcommand)]
pub enum Workspace {
    /// List an organization's workspaces, oldest first
    #[command(after_help = "Example:\n  backroom workspace list --org acme")]
    List {
        /// Slug of the organization
        #[arg(long)]
        org: String,
        /// Rows at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<Uuid>,
    },
}

pub async fn run(session: &Session, command: Workspace, output: Output) -> anyhow::Result<ExitCode> {
    let Workspace::List { org, limit, cursor } = command;
    let organization = session.organization(&org).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let rows = workspaces::overview(&mut tx, Page { after: cursor, ..Page::first(limit) }).await?;
    tx.rollback().await?;
    let owners: Vec<Uuid> = rows.iter().map(|workspace| workspace.owner_id).collect();
    let owners = users::by_ids(&mut *session.connection().await?, &owners).await?;
    let next = next_cursor(&rows, limit, |workspace| workspace.id);
    output.answer(&page("workspaces", &rows, next), || {
        let table = rows.iter().map(|workspace| {
            let owner = owners.iter().find(|user| user.id == workspace.owner_id);
            let owner = owner.map_or_else(|| workspace.owner_id.to_string(), |user| user.email.to_string());
            [
                cell(workspace.id),
                cell(&workspace.name),
                cell(owner),
                cell(if workspace.personal { "yes" } else { "-" }),
                cell(workspace.members),
                cell(workspace.open_invitations),
                cell(time(workspace.created_at)),
            ]
        });
        let header = ["id", "name", "owner", "personal", "members", "invited", "created"];
        output.table(header, table.collect(), &format!("{org} has no workspace")) + &more(next)
    })?;
    Ok(ExitCode::SUCCESS)
}
