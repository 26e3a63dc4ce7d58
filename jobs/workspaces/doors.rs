//! Changes to workspaces, members and invitations, each with its event (EVT-1). The caller opens the transaction as the
//! organization and commits. Whoever is no member of a workspace is told that there is none; that is the caller's to see to.

use backroom_queue::{NewJob, Registry, TraceParent, enqueue};
use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{SendInvitation, topic};
use crate::{
    context::App,
    domain::{EmailAddress, Invitation, InvitationState, Language, LinkToken, Organization, Workspace, WorkspaceName},
    store::{
        StoreError,
        events::{self, NewEvent},
        invitations::{self, NewInvitation},
        workspaces,
    },
};

/// Mails that one address may be sent within [`PERIOD`] by the organization, whoever invites: nobody's mailbox is flooded.
const MAILS_PER_ADDRESS: i64 = 10;
const PERIOD: Duration = Duration::days(1);
/// And so many by one person, and by the organization: a member's sign-in in wrong hands is no mass mailing.
const MAILS_BY_PERSON: i64 = 200;
const MAILS_BY_ORGANIZATION: i64 = 2_000;

/// Who asks, when, and in which trace.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// As events name them: `user:<id>`, `operator`.
    pub actor: &'a str,
    pub now: DateTime<Utc>,
    pub trace: Option<TraceParent>,
}

impl Asked<'_> {
    pub(super) async fn tell(
        &self,
        db: &mut PgConnection,
        workspace: Uuid,
        kind: &str,
        payload: Value,
    ) -> Result<(), StoreError> {
        let event = NewEvent { topic: topic(workspace), kind, payload, actor: self.actor };
        events::append(db, &event, self.now).await?;
        Ok(())
    }
}

/// WORK-1
pub async fn create(
    db: &mut PgConnection,
    name: &WorkspaceName,
    owner: Uuid,
    asked: &Asked<'_>,
) -> Result<Workspace, StoreError> {
    let workspace = workspaces::insert(db, name, owner, asked.now).await?;
    tell_of_new(db, &workspace, asked).await?;
    Ok(workspace)
}

/// WORK-1: everybody has a workspace of their own. Makes it if it is not there; call it where somebody becomes a member of the
/// organization. A first look at one's workspaces does the same, for those who came in before.
pub async fn ensure_personal(
    db: &mut PgConnection,
    (user, language): (Uuid, Language),
    asked: &Asked<'_>,
) -> Result<(), StoreError> {
    let name = WorkspaceName::of_personal(language);
    if let Some(made) = workspaces::insert_personal(db, &name, user, asked.now).await? {
        tell_of_new(db, &made, asked).await?;
    }
    Ok(())
}

async fn tell_of_new(db: &mut PgConnection, new: &Workspace, asked: &Asked<'_>) -> Result<(), StoreError> {
    let payload = json!({ "name": new.name, "owner_id": new.owner_id, "personal": new.personal });
    asked.tell(db, new.id, "workspace.created", payload).await
}

/// WORK-1. `None` unless the workspace is the owner's.
pub async fn rename(
    db: &mut PgConnection,
    owned: (Uuid, Uuid),
    name: &WorkspaceName,
    asked: &Asked<'_>,
) -> Result<Option<Workspace>, StoreError> {
    let Some(workspace) = workspaces::rename(db, owned, name, asked.now).await? else { return Ok(None) };
    asked.tell(db, workspace.id, "workspace.renamed", json!({ "name": name })).await?;
    Ok(Some(workspace))
}

/// WORK-1: with it go its open invitations. False unless the workspace is the owner's, and not the personal one.
pub async fn delete(db: &mut PgConnection, owned: (Uuid, Uuid), asked: &Asked<'_>) -> Result<bool, StoreError> {
    if !workspaces::delete(db, owned, asked.now).await? {
        return Ok(false);
    }
    for invitation in invitations::revoke_all(db, owned.0, asked.now).await? {
        tell_of_revoked(db, owned.0, invitation, asked).await?;
    }
    asked.tell(db, owned.0, "workspace.deleted", json!({})).await?;
    Ok(true)
}

/// WORK-2: the person goes. False if they are not in it, or own it.
pub async fn leave(
    db: &mut PgConnection,
    (workspace, user): (Uuid, Uuid),
    asked: &Asked<'_>,
) -> Result<bool, StoreError> {
    take_out(db, (workspace, user), "workspace.member_left", asked).await
}

/// WORK-2: the person is taken out by the workspace's owner. False if they are not in it, or are the owner.
pub async fn remove(
    db: &mut PgConnection,
    (workspace, user): (Uuid, Uuid),
    asked: &Asked<'_>,
) -> Result<bool, StoreError> {
    take_out(db, (workspace, user), "workspace.member_removed", asked).await
}

async fn take_out(
    db: &mut PgConnection,
    (workspace, user): (Uuid, Uuid),
    kind: &str,
    asked: &Asked<'_>,
) -> Result<bool, StoreError> {
    if !workspaces::remove_member(db, workspace, user).await? {
        return Ok(false);
    }
    asked.tell(db, workspace, kind, json!({ "user_id": user })).await?;
    Ok(true)
}

/// Takes somebody who is no longer in the organization out of all workspaces but those that they own: if they come back, others let
/// them in anew.
pub async fn forget(db: &mut PgConnection, user: Uuid, asked: &Asked<'_>) -> Result<(), StoreError> {
    for workspace in workspaces::remove_from_all(db, user).await? {
        asked.tell(db, workspace, "workspace.member_removed", json!({ "user_id": user })).await?;
    }
    Ok(())
}

/// Why somebody is not invited.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    #[error("there is no such workspace")]
    NoWorkspace,
    #[error("nobody is invited to a personal workspace")]
    Personal,
    #[error("the person is a member of the workspace already")]
    Member,
    /// Beyond `MAILS_PER_ADDRESS`.
    #[error("the address was sent {MAILS_PER_ADDRESS} invitations within a day")]
    TooMany,
    /// Beyond `MAILS_BY_PERSON`, or `MAILS_BY_ORGANIZATION`.
    #[error(
        "{MAILS_BY_PERSON} invitations of one person, or {MAILS_BY_ORGANIZATION} of the organization, were sent within a day"
    )]
    TooManyBySelf,
    /// It has ended, and is not to be sent again.
    #[error("the invitation is {0}")]
    Ended(InvitationState),
    #[error("could not seal the job that sends the mail")]
    Seal(#[source] anyhow::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for InviteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Somebody to be invited.
#[derive(Clone, Debug)]
pub struct NewInvite<'a> {
    pub workspace_id: Uuid,
    pub email: &'a EmailAddress,
    /// Whose address it is, if somebody's.
    pub account: Option<Uuid>,
    pub language: Language,
    pub invited_by: Uuid,
}

/// WORK-3, WORK-4: stores the invitation and enqueues its mail.
pub async fn invite(
    db: &mut PgConnection,
    (organization, registry): (&Organization, &Registry<App>),
    new: &NewInvite<'_>,
    asked: &Asked<'_>,
) -> Result<Invitation, InviteError> {
    may_be_invited(db, (new.workspace_id, new.account), (new.email, new.invited_by), asked).await?;
    let token = LinkToken::random(&organization.slug);
    let stored = NewInvitation {
        workspace_id: new.workspace_id,
        email: new.email,
        language: new.language,
        invited_by: new.invited_by,
        token_hash: token.hash(),
    };
    let (invitation, expired) = invitations::insert(db, &stored, asked.now).await?;
    if let Some(expired) = expired {
        let payload = json!({ "invitation_id": expired });
        asked.tell(db, new.workspace_id, "workspace.invitation_expired", payload).await?;
    }
    let payload = json!({ "invitation_id": invitation.id, "email": invitation.email });
    asked.tell(db, new.workspace_id, "workspace.invitation_created", payload).await?;
    enqueue_mail(db, (organization, registry), &invitation, token, asked).await?;
    Ok(invitation)
}

/// WORK-6: a new token, a new mail and seven days more, for an invitation that is open or has expired. The old link opens nothing.
pub async fn resend(
    db: &mut PgConnection,
    (organization, registry): (&Organization, &Registry<App>),
    (invitation, account): (&Invitation, Option<Uuid>),
    asked: &Asked<'_>,
) -> Result<Invitation, InviteError> {
    may_be_invited(db, (invitation.workspace_id, account), (&invitation.email, invitation.invited_by), asked).await?;
    let token = LinkToken::random(&organization.slug);
    let Some(renewed) = invitations::renew(db, invitation.id, token.hash(), asked.now).await? else {
        let now = invitations::by_id(db, invitation.id).await?;
        return Err(InviteError::Ended(now.map_or(InvitationState::Revoked, |now| now.state)));
    };
    let payload = json!({ "invitation_id": renewed.id, "expires_at": renewed.expires_at });
    asked.tell(db, renewed.workspace_id, "workspace.invitation_resent", payload).await?;
    enqueue_mail(db, (organization, registry), &renewed, token, asked).await?;
    Ok(renewed)
}

async fn may_be_invited(
    db: &mut PgConnection,
    (workspace, account): (Uuid, Option<Uuid>),
    (email, inviter): (&EmailAddress, Uuid),
    asked: &Asked<'_>,
) -> Result<(), InviteError> {
    let workspace = workspaces::hold(db, workspace).await?.ok_or(InviteError::NoWorkspace)?;
    if workspace.personal {
        return Err(InviteError::Personal);
    }
    if let Some(account) = account
        && workspaces::member(db, workspace.id, account).await?.is_some()
    {
        return Err(InviteError::Member);
    }
    if invitations::tokens_for(db, email, asked.now - PERIOD).await? >= MAILS_PER_ADDRESS {
        return Err(InviteError::TooMany);
    }
    let (by_all, by_person) = invitations::tokens_by(db, inviter, asked.now - PERIOD).await?;
    if by_all >= MAILS_BY_ORGANIZATION || by_person >= MAILS_BY_PERSON {
        return Err(InviteError::TooManyBySelf);
    }
    Ok(())
}

/// The job knows the token, which no table does; it is stored sealed.
async fn enqueue_mail(
    db: &mut PgConnection,
    (organization, registry): (&Organization, &Registry<App>),
    invitation: &Invitation,
    token: LinkToken,
    asked: &Asked<'_>,
) -> Result<(), InviteError> {
    let job = NewJob::of(&SendInvitation { invitation_id: invitation.id, token })
        .tenant(organization.slug.as_str())
        .trace(asked.trace.clone());
    enqueue(db, &registry.seal(job).map_err(InviteError::Seal)?).await?;
    Ok(())
}

/// WORK-3. False unless the invitation was open. One that is past its time and not swept yet may be revoked too.
pub async fn revoke(
    db: &mut PgConnection,
    (workspace, invitation): (Uuid, Uuid),
    asked: &Asked<'_>,
) -> Result<bool, StoreError> {
    if !invitations::revoke(db, invitation, asked.now).await? {
        return Ok(false);
    }
    tell_of_revoked(db, workspace, invitation, asked).await?;
    Ok(true)
}

async fn tell_of_revoked(
    db: &mut PgConnection,
    workspace: Uuid,
    invitation: Uuid,
    asked: &Asked<'_>,
) -> Result<(), StoreError> {
    asked.tell(db, workspace, "workspace.invitation_revoked", json!({ "invitation_id": invitation })).await
}
