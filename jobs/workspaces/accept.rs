//! What a token opens, and accepting it (WORK-5): one transaction over both planes.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::doors::{Asked, ensure_personal};
use crate::{
    context::App,
    domain::{
        Invitation, InvitationState, Language, LinkToken, NewUser, Organization, PasswordHash, Role, User, Workspace,
    },
    store::{StoreError, invitations, memberships, organizations, users, workspaces},
    tenant::{self, TenantTx},
};

/// A good token, and what it opens.
#[derive(Clone, Debug)]
pub struct Invited {
    pub organization: Organization,
    pub workspace: Workspace,
    pub invitation: Invitation,
    /// Who invites; nobody if they have no account any more.
    pub inviter: Option<User>,
    /// Whose address was invited, if somebody's.
    pub account: Option<User>,
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// There never was such a token, or a newer one has replaced it.
    Unknown,
    /// It was used; the person is a member, or was.
    Accepted,
    Revoked,
    Expired,
    /// The organization is suspended: nothing changes in it at present.
    Held,
    /// An admin took the person out of the organization, and only an admin lets them in again.
    Removed,
}

/// What a look at a token shows.
#[derive(Clone, Debug)]
pub enum Opened {
    Invited(Box<Invited>),
    /// With the organization's name and the mail's language, where the token is known.
    Shut(Shut, Option<(String, Language)>),
}

/// How accepting ended.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// The person is a member now.
    Joined(Box<Invited>),
    /// The person was a member before; the invitation has ended.
    WasMember(Box<Invited>),
    /// There is no account with the address: accept with a [`NewPerson`]. Nothing has changed.
    NeedsAccount(Box<Invited>),
    Shut(Shut, Option<(String, Language)>),
}

/// Whom to make an account for.
#[derive(Clone)]
pub struct NewPerson {
    /// Checked by [`crate::domain::user::check_name`].
    pub name: String,
    pub password: PasswordHash,
}

/// Looks at a token; changes nothing.
pub async fn open(db: &PgPool, token: &LinkToken, now: DateTime<Utc>) -> Result<Opened, StoreError> {
    let Some(organization) = organizations::by_slug(&mut *db.acquire().await?, token.organization().as_str()).await? else {
        return Ok(Opened::Shut(Shut::Unknown, None));
    };
    let mut tx = tenant::begin(db, &organization).await?;
    let Some(invitation) = invitations::by_token(&mut tx, &token.hash()).await? else {
        return Ok(Opened::Shut(Shut::Unknown, None));
    };
    let workspace = workspaces::by_id(&mut tx, invitation.workspace_id).await?;
    tx.commit().await?;
    let known = (organization.name.clone(), invitation.language);
    let workspace = match still_open(&organization, &invitation, workspace, now) {
        Ok(workspace) => workspace,
        Err(shut) => return Ok(Opened::Shut(shut, Some(known))),
    };
    let mut plane = db.acquire().await?;
    let inviter = users::by_id(&mut plane, invitation.invited_by).await?;
    let account = users::by_email(&mut plane, &invitation.email).await?;
    if let Some(account) = &account
        && memberships::has_ended(&mut plane, organization.id, account.id).await?
    {
        return Ok(Opened::Shut(Shut::Removed, Some(known)));
    }
    Ok(Opened::Invited(Box::new(Invited { organization, workspace, invitation, inviter, account })))
}

fn still_open(
    organization: &Organization,
    invitation: &Invitation,
    workspace: Option<Workspace>,
    now: DateTime<Utc>,
) -> Result<Workspace, Shut> {
    match (invitation.state_at(now), workspace) {
        (InvitationState::Accepted, _) => Err(Shut::Accepted),
        (InvitationState::Revoked, _) | (InvitationState::Open, None) => Err(Shut::Revoked),
        (InvitationState::Expired, _) => Err(Shut::Expired),
        (InvitationState::Open, Some(_)) if organization.is_held() => Err(Shut::Held),
        (InvitationState::Open, Some(workspace)) => Ok(workspace),
    }
}

/// Accepts: account, memberships, invitation and events in one transaction. Whoever holds the token has read the mail that it was in,
/// so the address is proved to be theirs; the account is the address's, whoever is signed in.
pub async fn accept(app: &App, token: &LinkToken, person: Option<NewPerson>) -> Result<Accepted, StoreError> {
    let mut tx = app.db.begin().await?;
    let Some(organization) = organizations::by_slug(&mut tx, token.organization().as_str()).await? else {
        return Ok(Accepted::Shut(Shut::Unknown, None));
    };
    // The workspace is held first and the invitation locked then: the order in which a workspace is deleted.
    let mut tx = TenantTx::enter(tx, &organization).await?;
    let found = invitations::by_token(&mut tx, &token.hash()).await?;
    let Some(workspace_id) = found.map(|invitation| invitation.workspace_id) else {
        return Ok(Accepted::Shut(Shut::Unknown, None));
    };
    let workspace = workspaces::hold(&mut tx, workspace_id).await?;
    let Some(invitation) = invitations::lock_by_token(&mut tx, &token.hash()).await? else {
        return Ok(Accepted::Shut(Shut::Unknown, None));
    };
    let now = app.clock.now();
    let known = Some((organization.name.clone(), invitation.language));
    let workspace = match still_open(&organization, &invitation, workspace, now) {
        Ok(workspace) => workspace,
        Err(shut) => return Ok(Accepted::Shut(shut, known)),
    };

    let mut plane = tx.leave().await?;
    let inviter = users::by_id(&mut plane, invitation.invited_by).await?;
    let account = account_of(&mut plane, &invitation, person, now).await?;
    let mut invited = Box::new(Invited { organization, workspace, invitation, inviter, account });
    let Some(account) = invited.account.clone() else { return Ok(Accepted::NeedsAccount(invited)) };
    let organization = &invited.organization;
    if memberships::has_ended(&mut plane, organization.id, account.id).await? {
        return Ok(Accepted::Shut(Shut::Removed, known));
    }
    users::confirm(&mut plane, account.id, now).await?;
    memberships::add(&mut plane, organization.id, account.id, Role::User, None, now).await?;

    let mut tx = TenantTx::enter(plane, organization).await?;
    let actor = format!("user:{}", account.id);
    let asked = Asked { actor: &actor, now, trace: None };
    ensure_personal(&mut tx, (account.id, account.language), &asked).await?;
    let (workspace, id) = (invited.workspace.id, invited.invitation.id);
    let joined = workspaces::add_member(&mut tx, (workspace, account.id), now).await?;
    if !invitations::accept(&mut tx, (id, account.id), now).await? {
        return Ok(Accepted::Shut(Shut::Expired, known));
    }
    if joined {
        asked.tell(&mut tx, workspace, "workspace.member_joined", json!({ "user_id": account.id })).await?;
    }
    let payload = json!({ "invitation_id": id, "user_id": account.id });
    asked.tell(&mut tx, workspace, "workspace.invitation_accepted", payload).await?;
    tx.commit().await?;
    invited.invitation.state = InvitationState::Accepted;
    Ok(if joined { Accepted::Joined(invited) } else { Accepted::WasMember(invited) })
}

/// The account of the invited address, made if there is none and we know whom for.
async fn account_of(
    db: &mut PgConnection,
    invitation: &Invitation,
    person: Option<NewPerson>,
    now: DateTime<Utc>,
) -> Result<Option<User>, StoreError> {
    let found = users::by_email(db, &invitation.email).await?;
    let (None, Some(NewPerson { name, password })) = (&found, person) else { return Ok(found) };
    let new = NewUser {
        email: invitation.email.clone(),
        name,
        language: invitation.language,
        password: Some(password),
        confirmed_at: Some(now),
    };
    match users::create(db, &new, now).await {
        Ok(user) => Ok(Some(user)),
        // Somebody was faster, through another invitation: it is the same person's account.
        Err(StoreError::Conflict { .. }) => users::by_email(db, &invitation.email).await,
        Err(error) => Err(error),
    }
}
