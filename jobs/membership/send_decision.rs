//! Tells somebody who asked to become a member what was decided. Enqueued with the decision. Twice is fine: a decision has one mail, an
//! effect in the ledger.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Unique, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{link, topic};
use crate::{
    context::App,
    domain::{JoinStatus, LinkToken, Organization},
    jobs::billing::{
        actor,
        letter::{self, Envelope, Handed, Opened, Taken},
        organization,
    },
    mail::{OutgoingMail, templates},
    store::{
        deliveries,
        events::{self, NewEvent},
        join_requests,
    },
    tenant,
};

/// Tells somebody what was decided about their request to become a member.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendDecision {
    pub request_id: Uuid,
    /// With it a new member chooses a password; tables have its hash only. `None`: there is one, or the request was rejected.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub token: Option<LinkToken>,
}

impl Job for SendDecision {
    type App = App;
    const KIND: &'static str = "membership.send_decision";
    const QUEUE: &'static str = "mailers";
    /// Rides out a mail server that is away for half a day.
    const MAX_ATTEMPTS: u32 = 20;
    /// What it was given is a secret, sealed or not.
    const RETENTION_DAYS: u16 = 1;
    const SEALED: bool = true;

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_secs(30), Duration::from_secs(3600))
    }

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by(self.request_id))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let (envelope, mail) = match self.open(&ctx, &organization).await? {
            Step::Send { envelope, mail } => (envelope, mail),
            Step::Sent { delivery, taken } => {
                self.record(&ctx, &organization, delivery, &taken).await?;
                return Ok(Verdict::DONE);
            }
            Step::End(verdict) => return Ok(verdict),
        };
        let taken = match letter::hand_over(&ctx, &organization, &envelope, &mail).await? {
            Handed::Taken(taken) => taken,
            Handed::Refused { words } => return Ok(Verdict::Discard(words)),
            Handed::Busy { wait } => return Ok(Verdict::Snooze(wait)),
        };
        self.record(&ctx, &organization, envelope.delivery, &taken).await?;
        Ok(Verdict::DONE)
    }
}

enum Step {
    Send {
        envelope: Envelope,
        mail: Box<OutgoingMail>,
    },
    /// An earlier attempt sent it.
    Sent {
        delivery: Uuid,
        taken: Taken,
    },
    End(Verdict),
}

impl SendDecision {
    /// Reads what was decided, and opens the letter. JOIN-5
    async fn open(&self, ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<Step> {
        // The effect's intent is committed next, and takes this with it to the disk.
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        let Some(request) = join_requests::by_id(&mut tx, self.request_id).await? else {
            return Ok(Step::End(Verdict::Cancel("the request does not exist".to_owned())));
        };
        let approved = match request.status {
            JoinStatus::Approved => true,
            JoinStatus::Rejected => false,
            JoinStatus::PendingConfirmation | JoinStatus::Submitted => {
                return Ok(Step::End(Verdict::Cancel("nothing is decided yet".to_owned())));
            }
        };
        let recipient = request.email.as_str().to_owned();
        let to = (format!("join-decision:{}", request.id), request.email.clone());
        let envelope = match letter::open(&mut tx, ctx, organization, to).await? {
            Opened::Unsent(envelope) => envelope,
            Opened::Sent { delivery, at } => {
                return Ok(Step::Sent { delivery, taken: Taken { recipient, response: String::new(), at } });
            }
            Opened::Refused { words } => return Ok(Step::End(Verdict::Discard(words))),
        };
        tx.commit().await?;
        let letter = templates::render_decision(&templates::DecisionMail {
            language: request.language,
            organization_name: organization.name.clone(),
            applicant_name: request.name(),
            email: recipient,
            approved,
            password_link: self.token.as_ref().map(|token| link(&ctx.app.config.http.public_url, token)),
        });
        let mail = Box::new(envelope.with(organization, request.language, letter));
        Ok(Step::Send { envelope, mail })
    }

    /// Delivery, request and event in one transaction; changes nothing the second time.
    async fn record(
        &self,
        ctx: &Ctx<App>,
        organization: &Organization,
        delivery: Uuid,
        taken: &Taken,
    ) -> anyhow::Result<()> {
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        deliveries::mark_sent(&mut tx, delivery, (&taken.recipient, &taken.response), taken.at).await?;
        if join_requests::mark_decision_sent(&mut tx, self.request_id, taken.at).await? {
            let (kind, payload) = ("join_request.decision_sent", json!({ "delivery_id": delivery }));
            let event = NewEvent { topic: topic(self.request_id), kind, payload, actor: &actor(ctx) };
            events::append(&mut tx, &event, taken.at).await?;
        }
        Ok(tx.commit().await?)
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, testing};

    use super::*;
    use crate::{jobs::membership::testing::*, jobs::testing::World};

    async fn drain(world: &World) {
        testing::drain(&world.app.db, &world.registry, world.app.clone(), "mailers").await.unwrap();
    }

    fn last_mail(world: &World) -> String {
        world.mailbox.get(world.mailbox.list(1)[0].id).unwrap().text.unwrap()
    }

    /// JOIN-5: a new person gets the link with which they choose a password; who has one does not.
    #[tokio::test]
    async fn who_is_approved_is_told_how_to_get_in() {
        let world = World::new().await;
        let request = submit(&world, "anna@example.se").await;
        confirm(&world, &request.job.token).await;
        let approved = approve(&world, request.id).await.unwrap();
        drain(&world).await;

        let text = last_mail(&world);
        assert!(text.contains("/join-requests/acme."), "{text}");
        let stored = reload(&world, request.id).await.unwrap();
        assert_eq!((stored.status, stored.user_id), (JoinStatus::Approved, approved.user_id));
        assert_eq!(
            kinds(&world, request.id).await,
            ["join_request.received", "join_request.submitted", "join_request.approved", "join_request.decision_sent"]
        );
        let mails = world.mailbox.accepted().len();
        world.run(&SendDecision { request_id: request.id, token: None }).await;
        assert_eq!(world.mailbox.accepted().len(), mails, "once");
    }

    /// JOIN-5
    #[tokio::test]
    async fn who_is_rejected_is_told_and_gets_no_link() {
        let world = World::new().await;
        let request = submit(&world, "anna@example.se").await;
        confirm(&world, &request.job.token).await;
        reject(&world, request.id).await.unwrap();
        drain(&world).await;
        let text = last_mail(&world);
        assert!(!text.contains("http"), "{text}");
        assert_eq!(kinds(&world, request.id).await.last().unwrap(), "join_request.decision_sent");
    }

    #[tokio::test]
    async fn nothing_is_told_before_it_is_decided() {
        let world = World::new().await;
        let request = submit(&world, "anna@example.se").await;
        let early = world.run(&SendDecision { request_id: request.id, token: None }).await;
        assert!(matches!(early, Outcome::Cancelled { .. }), "{early:?}");
        let unknown = world.run(&SendDecision { request_id: Uuid::now_v7(), token: None }).await;
        assert!(matches!(unknown, Outcome::Cancelled { .. }), "{unknown:?}");
        assert_eq!(world.mailbox.accepted().len(), 0);
    }
}
