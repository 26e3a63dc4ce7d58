//! A workspace with people in it, for tests.

use backroom_queue::testing;
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Accepted, Asked, InviteError, NewInvite, NewPerson, SendInvitation, accept, doors, topic};
use crate::{
    context::JobSealer,
    domain::{
        EmailAddress, Invitation, Language, LinkToken, NewUser, Password, PasswordHash, Role, User, Workspace,
        WorkspaceName,
    },
    jobs::testing::World,
    store::{Page, events, invitations, memberships, users, workspaces},
};

/// Anna's workspace `Bokslut 2026` at Acme.
pub struct Room {
    pub owner: User,
    pub workspace: Workspace,
}

pub fn asked(now: DateTime<Utc>) -> Asked<'static> {
    Asked { actor: "test", now, trace: None }
}

/// A person with an account that is theirs, and nothing else.
pub async fn account(db: &PgPool, email: &str, name: &str, now: DateTime<Utc>) -> User {
    let new = NewUser {
        email: EmailAddress::parse(email).unwrap(),
        name: name.to_owned(),
        language: Language::Sv,
        password: Some(PasswordHash::stored("nobody knows it".to_owned())),
        confirmed_at: Some(now),
    };
    users::create(&mut db.acquire().await.unwrap(), &new, now).await.unwrap()
}

impl Room {
    pub async fn new(world: &World) -> Self {
        Self::of(world, "anna@example.se", "Anna Ek").await
    }

    /// Somebody's workspace; the person is made a member of the organization.
    pub async fn of(world: &World, email: &str, name: &str) -> Self {
        let owner = account(&world.app.db, email, name, world.now()).await;
        let mut db = world.app.db.acquire().await.unwrap();
        let organization = world.organization.id;
        memberships::add(&mut db, organization, owner.id, Role::User, None, world.now()).await.unwrap();
        let mut tx = world.tenant().await;
        let name = WorkspaceName::parse("Bokslut 2026").unwrap();
        let workspace = doors::create(&mut tx, &name, owner.id, &asked(world.now())).await.unwrap();
        tx.commit().await.unwrap();
        Self { owner, workspace }
    }

    pub async fn invite(&self, world: &World, email: &str) -> Invitation {
        self.try_invite(world, email).await.unwrap()
    }

    pub async fn try_invite(&self, world: &World, email: &str) -> Result<Invitation, InviteError> {
        let email = EmailAddress::parse(email).unwrap();
        let account = users::by_email(&mut world.app.db.acquire().await.unwrap(), &email).await.unwrap();
        let new = NewInvite {
            workspace_id: self.workspace.id,
            email: &email,
            account: account.map(|account| account.id),
            language: Language::Sv,
            invited_by: self.owner.id,
        };
        let mut tx = world.tenant().await;
        let plane = (&world.organization, &*world.registry);
        let invitation = doors::invite(&mut tx, plane, &new, &asked(world.now())).await?;
        tx.commit().await.unwrap();
        Ok(invitation)
    }

    /// Sends it again, as the owner does.
    pub async fn resend(&self, world: &World, invitation: &Invitation) -> Result<Invitation, InviteError> {
        let account = users::by_email(&mut world.app.db.acquire().await.unwrap(), &invitation.email).await.unwrap();
        let mut tx = world.tenant().await;
        let (plane, account) = ((&world.organization, &*world.registry), account.map(|account| account.id));
        let renewed = doors::resend(&mut tx, plane, (invitation, account), &asked(world.now())).await?;
        tx.commit().await.unwrap();
        Ok(renewed)
    }

    pub async fn revoke(&self, world: &World, invitation: &Invitation) -> bool {
        let mut tx = world.tenant().await;
        let revoked = doors::revoke(&mut tx, (self.workspace.id, invitation.id), &asked(world.now())).await.unwrap();
        tx.commit().await.unwrap();
        revoked
    }

    pub async fn is_member(&self, world: &World, user: Uuid) -> bool {
        workspaces::member(&mut *world.tenant().await, self.workspace.id, user).await.unwrap().is_some()
    }

    /// The kinds of the workspace's events, oldest first.
    pub async fn told(&self, world: &World) -> Vec<String> {
        let topic = topic(self.workspace.id);
        let page = events::page(&mut *world.tenant().await, Some(&topic), Page::first(1000)).await.unwrap();
        page.into_iter().map(|event| event.kind).collect()
    }
}

/// The jobs that wait to send this invitation, oldest first, opened.
pub async fn sends(world: &World, invitation: Uuid) -> Vec<SendInvitation> {
    let sealer = JobSealer::new(&world.app.config.vault);
    let mut sends = Vec::new();
    for mut job in testing::enqueued::<SendInvitation>(&world.app.db).await.unwrap() {
        job.open(&sealer).unwrap();
        sends.push(serde_json::from_value(job.args).unwrap());
    }
    sends.retain(|send: &SendInvitation| send.invitation_id == invitation);
    sends
}

/// The present link's token, from the job that mails it.
pub async fn token(world: &World, invitation: Uuid) -> LinkToken {
    sends(world, invitation).await.pop().unwrap().token
}

pub async fn reload(world: &World, invitation: Uuid) -> Invitation {
    invitations::by_id(&mut *world.tenant().await, invitation).await.unwrap().unwrap()
}

/// Accepts, as somebody who gives a name and a password.
pub async fn accept_as(world: &World, token: &LinkToken, name: &str) -> Accepted {
    let password = Password::parse("correct horse battery").unwrap();
    let password = world.app.hash_password(password).await.unwrap();
    accept(&world.app, token, Some(NewPerson { name: name.to_owned(), password })).await.unwrap()
}
