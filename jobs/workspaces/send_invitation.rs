//! Mails somebody an invitation into a workspace, in their language. Enqueued with the invitation, and again with each new token. Twice
//! is fine: each token has one mail, an effect in the ledger; what is no longer open is not sent.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::topic;
use crate::{
    context::App,
    domain::{Invitation, InvitationState, LinkToken, Organization},
    jobs::billing::{
        actor,
        letter::{self, Envelope, Handed, Opened, Taken},
        organization,
    },
    mail::{OutgoingMail, templates},
    store::{
        deliveries,
        events::{self, NewEvent},
        invitations, users, workspaces,
    },
    tenant,
};

/// Mails somebody an invitation into a workspace.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendInvitation {
    pub invitation_id: Uuid,
    /// The link's secret; tables have its hash only. A job with another than the present one cancels itself.
    #[schemars(with = "String")]
    pub token: LinkToken,
}

impl Job for SendInvitation {
    type App = App;
    const KIND: &'static str = "workspaces.send_invitation";
    const QUEUE: &'static str = "mailers";
    /// Rides out a mail server that is away for half a day.
    const MAX_ATTEMPTS: u32 = 20;
    /// What it was given is a secret, sealed or not.
    const RETENTION_DAYS: u16 = 1;
    const SEALED: bool = true;

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_secs(30), Duration::from_secs(3600))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let (envelope, mail) = match self.open(&ctx, &organization).await? {
            Step::Send { envelope, mail } => (envelope, mail),
            Step::Sent { delivery, taken, number } => {
                self.record(&ctx, &organization, (delivery, number), &taken).await?;
                return Ok(Verdict::DONE);
            }
            Step::End(verdict) => return Ok(verdict),
        };
        let taken = match letter::hand_over(&ctx, &organization, &envelope.0, &mail).await? {
            Handed::Taken(taken) => taken,
            Handed::Refused { words } => return Ok(Verdict::Discard(words)),
            Handed::Busy { wait } => return Ok(Verdict::Snooze(wait)),
        };
        self.record(&ctx, &organization, (envelope.0.delivery, envelope.1), &taken).await?;
        Ok(Verdict::DONE)
    }

    /// Whoever looks at the invitation shall see that no mail went out.
    async fn discarded(self, ctx: Ctx<App>, reason: String) -> anyhow::Result<()> {
        let organization = organization(&ctx).await?;
        let now = ctx.app.clock.now();
        let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
        let Some(invitation) = invitations::by_id(&mut tx, self.invitation_id).await? else { return Ok(()) };
        if invitations::mark_failed(&mut tx, (self.invitation_id, self.token.hash()), &reason).await? {
            let payload = json!({ "invitation_id": invitation.id, "error": reason });
            let (topic, kind, actor) =
                (topic(invitation.workspace_id), "workspace.invitation_failed", &actor(&ctx));
            events::append(&mut tx, &NewEvent { topic, kind, payload, actor }, now).await?;
        }
        Ok(tx.commit().await?)
    }
}

enum Step {
    Send {
        /// With the number of the token that it carries.
        envelope: (Envelope, u32),
        mail: Box<OutgoingMail>,
    },
    /// An earlier attempt sent it.
    Sent {
        delivery: Uuid,
        taken: Taken,
        number: u32,
    },
    End(Verdict),
}

impl SendInvitation {
    /// Looks whether the invitation is still to be sent, and opens the letter. WORK-4
    async fn open(&self, ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<Step> {
        // The effect's intent is committed next, and takes this with it to the disk.
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        let invitation = match invitations::by_token(&mut tx, &self.token.hash()).await? {
            Some(invitation) if invitation.id == self.invitation_id => invitation,
            _ => {
                let reason = "the invitation does not exist, or was sent again with another token";
                return Ok(Step::End(Verdict::Cancel(reason.to_owned())));
            }
        };
        if let Some(reason) = reason_not_to(&invitation, ctx.app.clock.now()) {
            return Ok(Step::End(Verdict::Cancel(reason)));
        }
        let Some(workspace) = workspaces::by_id(&mut tx, invitation.workspace_id).await? else {
            return Ok(Step::End(Verdict::Cancel("the workspace was deleted".to_owned())));
        };
        let (recipient, number) = (invitation.email.as_str().to_owned(), invitation.token_number);
        let to = (purpose(invitation.id, number), invitation.email.clone());
        let envelope = match letter::open(&mut tx, ctx, organization, to).await? {
            Opened::Unsent(envelope) => envelope,
            Opened::Sent { delivery, at } => {
                let taken = Taken { recipient, response: String::new(), at };
                return Ok(Step::Sent { delivery, taken, number });
            }
            Opened::Refused { words } => return Ok(Step::End(Verdict::Discard(words))),
        };
        tx.commit().await?;
        let inviter = users::by_id(&mut *ctx.app.db.acquire().await?, invitation.invited_by).await?;
        let letter = templates::render_invitation(&templates::InvitationMail {
            language: invitation.language,
            organization_name: organization.name.clone(),
            workspace_name: workspace.name.as_str().to_owned(),
            inviter_name: inviter.map_or_else(|| organization.name.clone(), |inviter| inviter.name),
            link: link(&ctx.app.config.http.public_url, &self.token),
            expires_at: invitation.expires_at,
            time_zone: organization.time_zone,
        });
        let mail = Box::new(envelope.with(organization, invitation.language, letter));
        Ok(Step::Send { envelope: (envelope, number), mail })
    }

    /// Delivery, invitation and event in one transaction; changes nothing the second time.
    async fn record(
        &self,
        ctx: &Ctx<App>,
        organization: &Organization,
        (delivery, number): (Uuid, u32),
        taken: &Taken,
    ) -> anyhow::Result<()> {
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        deliveries::mark_sent(&mut tx, delivery, (&taken.recipient, &taken.response), taken.at).await?;
        if invitations::mark_sent(&mut tx, (self.invitation_id, number), taken.at).await?
            && let Some(invitation) = invitations::by_id(&mut tx, self.invitation_id).await?
        {
            let payload = json!({ "invitation_id": invitation.id, "delivery_id": delivery });
            let (topic, kind, actor) = (topic(invitation.workspace_id), "workspace.invitation_sent", &actor(ctx));
            events::append(&mut tx, &NewEvent { topic, kind, payload, actor }, taken.at).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// The key of the mail with the invitation's n-th token.
fn purpose(invitation: Uuid, number: u32) -> String {
    format!("invitation:{invitation}:{number}")
}

fn reason_not_to(invitation: &Invitation, now: chrono::DateTime<chrono::Utc>) -> Option<String> {
    match invitation.state_at(now) {
        InvitationState::Open => None,
        state => Some(format!("the invitation is {state}")),
    }
}

/// Where the invitation is accepted.
fn link(public_url: &str, token: &LinkToken) -> String {
    format!("{}/invitations/{}", public_url.trim_end_matches('/'), token.expose())
}
