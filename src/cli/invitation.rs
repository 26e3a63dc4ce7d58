//! `backroom invitation …`: invitations into workspaces (WORK-3, WORK-6). The link itself is in the mail and nowhere else.

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;
use uuid::Uuid;

use super::{
    exit::not_found,
    output::{Output, cell, maybe, more, next_cursor, page, time},
    session::Session,
};
use crate::{
    domain::{Invitation as Row, InvitationState, Organization},
    jobs::workspaces::{self, Asked},
    store::{
        Page,
        invitations::{self, InvitationFilter},
        users,
    },
    tenant,
};

const ACTOR: &str = "operator";

#[derive(Subcommand)]
pub enum Invitation {
    /// List an organization's invitations, newest first
    #[command(after_help = "Example:\n  backroom invitation list --org acme --state open")]
    List(List),
    /// Revoke an open invitation: its link opens nothing any more
    #[command(after_help = "Example:\n  backroom invitation revoke 01980a3c-4f00-7000-8000-000000000000 --org acme")]
    Revoke(One),
    /// Send an invitation again, with a new link and seven days more
    #[command(after_help = "Example:\n  backroom invitation resend 01980a3c-4f00-7000-8000-000000000000 --org acme")]
    Resend(One),
}

#[derive(clap::Args)]
pub struct List {
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// Into this workspace
    #[arg(long, value_name = "ID")]
    workspace: Option<Uuid>,
    /// open, accepted, revoked or expired
    #[arg(long)]
    state: Option<InvitationState>,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<Uuid>,
}

#[derive(clap::Args)]
pub struct One {
    /// Id of the invitation, from `invitation list`
    id: Uuid,
    /// Slug of the organization
    #[arg(long)]
    org: String,
}

pub async fn run(session: &Session, command: Invitation, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Invitation::List(args) => list(session, args, output).await?,
        Invitation::Revoke(one) => revoke(session, one, output).await?,
        Invitation::Resend(one) => resend(session, one, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(session: &Session, args: List, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&args.org).await?;
    let (filter, now) = (InvitationFilter { workspace_id: args.workspace, state: args.state }, session.clock.now());
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let wanted = Page { after: args.cursor, limit: args.limit, newest_first: true };
    let rows = invitations::page(&mut tx, &filter, wanted, now).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, args.limit, |invitation| invitation.id);
    let documents: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.id, "workspace_id": row.workspace_id, "email": row.email, "state": row.state_at(now),
                "invited_by": row.invited_by, "expires_at": row.expires_at, "sent_at": row.sent_at,
                "send_error": row.send_error, "accepted_by": row.accepted_by, "created_at": row.created_at,
            })
        })
        .collect();
    output.answer(&page("invitations", &documents, next), || {
        let table = rows.iter().map(|row| {
            [
                cell(row.id),
                cell(&row.email),
                cell(row.state_at(now)),
                cell(row.workspace_id),
                maybe(row.sent_at.map(time)),
                cell(time(row.expires_at)),
                maybe(row.send_error.as_ref()),
            ]
        });
        let header = ["id", "address", "state", "workspace", "mailed", "expires", "problem"];
        output.table(header, table.collect(), &format!("{} has no such invitation", args.org)) + &more(next)
    })
}

/// The invitation and whose it is; exit code 3 if there is none.
async fn find(session: &Session, one: &One) -> anyhow::Result<(Organization, Row)> {
    let organization = session.organization(&one.org).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let found = invitations::by_id(&mut tx, one.id).await?;
    tx.rollback().await?;
    let found = found.ok_or_else(|| not_found(format!("{} has no invitation {}", one.org, one.id)))?;
    Ok((organization, found))
}

async fn revoke(session: &Session, one: One, output: Output) -> anyhow::Result<()> {
    let (organization, invitation) = find(session, &one).await?;
    let asked = Asked { actor: ACTOR, now: session.clock.now(), trace: None };
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let revoked = workspaces::revoke(&mut tx, (invitation.workspace_id, invitation.id), &asked).await?;
    anyhow::ensure!(revoked, "the invitation is {} already", invitation.state);
    tx.commit().await?;
    output.answer(&json!({ "id": one.id, "state": "revoked" }), || {
        format!("the invitation of {} is revoked", invitation.email)
    })
}

async fn resend(session: &Session, one: One, output: Output) -> anyhow::Result<()> {
    let (organization, invitation) = find(session, &one).await?;
    let account = users::by_email(&mut *session.connection().await?, &invitation.email).await?.map(|user| user.id);
    let asked = Asked { actor: ACTOR, now: session.clock.now(), trace: None };
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let plane = (&organization, &*session.registry);
    let renewed = workspaces::resend(&mut tx, plane, (&invitation, account), &asked).await;
    let renewed = renewed.context("the invitation was not sent again")?;
    tx.commit().await?;
    let document = json!({ "id": renewed.id, "state": renewed.state, "expires_at": renewed.expires_at });
    output.answer(&document, || {
        format!(
            "a mail with a new link is on its way to {}; it is valid until {}",
            renewed.email,
            time(renewed.expires_at)
        )
    })
}

#[cfg(test)]
mod tests {
    use backroom_queue::testing;

    use super::*;
    use crate::{
        cli::exit::NotFound,
        jobs::{
            testing::World,
            workspaces::{SendInvitation, testing::Room},
        },
    };

    /// WORK-3, WORK-6
    #[tokio::test]
    async fn an_operator_sends_an_invitation_again_and_revokes_it_once() {
        let world = World::new().await;
        let (config, clock) = (world.app.config.clone(), world.app.clock.clone());
        let session = Session { config, db: world.app.db.clone(), registry: world.registry.clone(), clock };
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "bo@example.se").await;
        let output = Output::new(true);
        let one = |id: Uuid| One { id, org: "acme".to_owned() };

        let all = List {
            org: "acme".to_owned(),
            workspace: None,
            state: Some(InvitationState::Open),
            limit: 5,
            cursor: None,
        };
        run(&session, Invitation::List(all), output).await.unwrap();
        run(&session, Invitation::Resend(one(invitation.id)), output).await.unwrap();
        assert_eq!(testing::enqueued::<SendInvitation>(&world.app.db).await.unwrap().len(), 2);
        run(&session, Invitation::Revoke(one(invitation.id)), output).await.unwrap();

        let again = run(&session, Invitation::Revoke(one(invitation.id)), output).await.unwrap_err();
        assert!(again.to_string().contains("revoked already"), "{again:#}");
        let resent = run(&session, Invitation::Resend(one(invitation.id)), output).await.unwrap_err();
        assert!(format!("{resent:#}").contains("the invitation is revoked"), "{resent:#}");
        let missing = run(&session, Invitation::Revoke(one(Uuid::now_v7())), output).await.unwrap_err();
        assert!(missing.is::<NotFound>());
    }
}
