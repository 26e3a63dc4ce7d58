//! Tells somebody who asked to become a member what was decided. Enqueued with the decision, and again when staff asks for it. Twice is
//! fine: each mail that tells is numbered, an effect in the ledger; one that was replaced, or whose link was used, is not sent.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{link, topic};
use crate::{
    context::App,
    domain::{JoinStatus, LinkToken, Organization},
    jobs::{
        actor,
        letter::{self, Left, Step},
        organization,
    },
    mail::templates,
    store::{
        deliveries,
        events::{self, NewEvent},
        join_requests::{self, Token},
    },
    tenant,
};

/// Tells somebody what was decided about their request to become a member.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendDecision {
    pub request_id: Uuid,
    /// With it a new member chooses a password; tables have its hash only. `None`: there is one, or the request was rejected. A job with
    /// another than the present one cancels itself.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub token: Option<LinkToken>,
    /// Which of the mails that tell of the decision it is, from 1.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub number: u32,
}

fn first() -> u32 {
    1
}

fn is_first(number: &u32) -> bool {
    *number == 1
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

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let step = self.open(&ctx, &organization).await?;
        match letter::send(&ctx, &organization, step).await? {
            Ok(left) => self.record(&ctx, &organization, &left).await?,
            Err(verdict) => return Ok(verdict),
        }
        Ok(Verdict::DONE)
    }

    /// Whoever looks at the request shall see that no mail went out.
    async fn discarded(self, ctx: Ctx<App>, reason: String) -> anyhow::Result<()> {
        let organization = organization(&ctx).await?;
        let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
        let (present, token) = ((self.request_id, self.number), self.token.as_ref().map(LinkToken::hash));
        if join_requests::mark_decision_failed(&mut tx, present, token, &reason).await? {
            // Without the server's words, in which the address may stand: events are read by more people than requests.
            let (kind, payload) = ("join_request.decision_failed", json!({}));
            let event = NewEvent { topic: topic(self.request_id), kind, payload, actor: &actor(&ctx) };
            events::append(&mut tx, &event, ctx.app.clock.now()).await?;
        }
        Ok(tx.commit().await?)
    }
}

impl SendDecision {
    /// Looks whether this is the mail that is owed, and opens the letter. JOIN-5
    async fn open(&self, ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<Step> {
        // The effect's intent is committed next, and takes this with it to the disk.
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        let end = |reason: &str| Ok(Step::End(Verdict::Cancel(reason.to_owned())));
        let found = match &self.token {
            None => join_requests::by_id(&mut tx, self.request_id).await?,
            Some(token) => match join_requests::by_token(&mut tx, &token.hash()).await? {
                Some(Token::ChoosesPassword { request, .. }) if request.id == self.request_id => Some(request),
                _ => return end("the link was used, or the decision was told again with another"),
            },
        };
        let Some(request) = found else { return end("the request does not exist") };
        let approved = match request.status {
            JoinStatus::Approved => true,
            JoinStatus::Rejected => false,
            JoinStatus::PendingConfirmation | JoinStatus::Submitted => return end("nothing is decided yet"),
        };
        if request.decision_number != self.number {
            return end("the decision was told again with another mail");
        }
        match request.password_until {
            Some(_) if self.token.is_none() => return end("the mail has a link that this job does not know"),
            Some(until) if until <= ctx.app.clock.now() => {
                let words = "the link expired before its mail was sent; tell the decision again".to_owned();
                return Ok(Step::End(Verdict::Discard(words)));
            }
            _ => {}
        }
        let to = (purpose(request.id, self.number), request.email.clone());
        let envelope = match letter::open(&mut tx, ctx, organization, to).await? {
            Ok(envelope) => envelope,
            Err(closed) => return Ok(closed.step(())),
        };
        tx.commit().await?;
        let letter = templates::render_decision(&templates::DecisionMail {
            language: request.language,
            organization_name: organization.name.clone(),
            applicant_name: request.name(),
            email: request.email.as_str().to_owned(),
            approved,
            password_link: self.token.as_ref().map(|token| link(&ctx.app.config.http.public_url, token)),
        });
        let mail = Box::new(envelope.with(organization, request.language, letter));
        Ok(Step::Send { envelope, mail, about: () })
    }

    /// Delivery, request and event in one transaction; changes nothing the second time.
    async fn record(&self, ctx: &Ctx<App>, organization: &Organization, left: &Left) -> anyhow::Result<()> {
        let Left { delivery, taken, .. } = left;
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        deliveries::mark_sent(&mut tx, *delivery, (&taken.recipient, &taken.response), taken.at).await?;
        if join_requests::mark_decision_sent(&mut tx, (self.request_id, self.number), taken.at).await? {
            let (kind, payload) = ("join_request.decision_sent", json!({ "delivery_id": delivery }));
            let event = NewEvent { topic: topic(self.request_id), kind, payload, actor: &actor(ctx) };
            events::append(&mut tx, &event, taken.at).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// The key of the n-th mail that tells of the decision.
fn purpose(request: Uuid, number: u32) -> String {
    match number {
        1 => format!("join-decision:{request}"),
        number => format!("join-decision:{request}:{number}"),
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, enqueue, testing};

    use super::*;
    use crate::{
        context::JobSealer,
        domain::{EmailAddress, Language, NewUser, PasswordHash, join_request::DECISIONS_TOLD},
        jobs::{
            membership::{ApproveError, Opened, Shut, choose_password, open, testing::*},
            testing::World,
        },
        store::users,
    };

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
        world.run(&SendDecision { request_id: request.id, token: None, number: 1 }).await;
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

    /// The latest job that tells of the decision, opened.
    async fn latest(world: &World) -> SendDecision {
        let mut jobs = testing::enqueued::<SendDecision>(&world.app.db).await.unwrap();
        let mut job = jobs.pop().expect("a mail is owed");
        job.open(&JobSealer::new(&world.app.config.vault)).unwrap();
        serde_json::from_value(job.args).unwrap()
    }

    /// JOIN-5: a job of somebody's own neither takes the place of the mail that is owed nor uses it up.
    #[tokio::test]
    async fn a_job_that_does_not_know_the_link_is_not_the_mail() {
        let world = World::new().await;
        let request = submit(&world, "anna@example.se").await;
        confirm(&world, &request.job.token).await;
        let junk = LinkToken::random(&world.organization.slug);
        let forged = [None, Some(junk)].map(|token| SendDecision { request_id: request.id, token, number: 1 });
        // One waits already when it is decided.
        enqueue(&world.app.db, &world.registry.seal(world.job(&forged[0])).unwrap()).await.unwrap();
        approve(&world, request.id).await.unwrap();
        for job in &forged {
            let outcome = world.run(job).await;
            assert!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome:?}");
        }
        assert_eq!(world.mailbox.accepted().len(), 0);
        drain(&world).await;
        assert!(last_mail(&world).contains("/join-requests/acme."), "the link came all the same");
    }

    /// JOIN-5: told again, the mail has another link, and the older one opens nothing; neither is sent after that.
    #[tokio::test]
    async fn a_decision_is_told_again_with_a_new_link() {
        let world = World::new().await;
        let request = submit(&world, "anna@example.se").await;
        confirm(&world, &request.job.token).await;
        let early = resend(&world, request.id).await;
        assert!(matches!(early, Err(ApproveError::NotDecided)), "{early:?}");
        approve(&world, request.id).await.unwrap();
        let old = latest(&world).await;
        drain(&world).await;
        world.app.clock.advance(chrono::Duration::days(8));
        let lapsed = open(&world.app.db, old.token.as_ref().unwrap(), world.now()).await.unwrap();
        assert!(matches!(lapsed, Opened::Shut(Shut::Expired, _)), "{lapsed:?}");

        let renewed = resend(&world, request.id).await.unwrap();

        assert_eq!((renewed.decision_number, renewed.decision_sent_at), (2, None));
        let new = latest(&world).await;
        drain(&world).await;
        assert_eq!(world.mailbox.accepted().len(), 2);
        assert!(last_mail(&world).contains(new.token.as_ref().unwrap().expose()));
        assert_eq!(reload(&world, request.id).await.unwrap().decision_sent_at, Some(world.now()));
        let replaced = open(&world.app.db, old.token.as_ref().unwrap(), world.now()).await.unwrap();
        assert!(matches!(replaced, Opened::Shut(Shut::Unknown, _)), "{replaced:?}");
        assert!(matches!(world.run(&old).await, Outcome::Cancelled { .. }));
        let fresh = open(&world.app.db, new.token.as_ref().unwrap(), world.now()).await.unwrap();
        assert!(matches!(fresh, Opened::Password { .. }), "{fresh:?}");
        for _ in 2..DECISIONS_TOLD {
            resend(&world, request.id).await.unwrap();
        }
        let enough = resend(&world, request.id).await;
        assert!(matches!(enough, Err(ApproveError::ToldEnough)), "{enough:?}");
    }

    /// JOIN-5, MAIL-3: staff sees that the mail was refused, and that it is on its way again.
    #[tokio::test]
    async fn a_refused_decision_says_so() {
        let world = World::new().await;
        let request = submit(&world, "reject@example.se").await;
        confirm(&world, &request.job.token).await;
        approve(&world, request.id).await.unwrap();
        let job = latest(&world).await;

        let outcome = world.run(&job).await;

        assert!(matches!(outcome, Outcome::Discarded { .. }), "{outcome:?}");
        let stored = reload(&world, request.id).await.unwrap();
        assert!(stored.decision_error.is_some() && stored.decision_sent_at.is_none(), "{stored:?}");
        assert_eq!(kinds(&world, request.id).await.last().unwrap(), "join_request.decision_failed");
        resend(&world, request.id).await.unwrap();
        assert_eq!(reload(&world, request.id).await.unwrap().decision_error, None);
    }

    /// JOIN-5: a mail that could not leave in time does not bring a link that opens nothing.
    #[tokio::test]
    async fn a_link_that_has_expired_is_not_sent() {
        let world = World::new().await;
        let request = submit(&world, "anna@example.se").await;
        confirm(&world, &request.job.token).await;
        approve(&world, request.id).await.unwrap();
        let job = latest(&world).await;
        world.app.clock.advance(chrono::Duration::days(7));
        let outcome = world.run(&job).await;
        assert!(matches!(outcome, Outcome::Discarded { .. }), "{outcome:?}");
        assert_eq!(world.mailbox.accepted().len(), 0);
        assert!(reload(&world, request.id).await.unwrap().decision_error.unwrap().contains("expired"));
    }

    /// JOIN-5, AUTH-1: a password that was set before anybody had proved the address is not the applicant's; they choose their own.
    #[tokio::test]
    async fn an_account_that_somebody_else_made_is_the_applicant_s_once_approved() {
        let world = World::new().await;
        let elsewhere = world.database.organization("globex").await;
        let new = NewUser {
            email: EmailAddress::parse("anna@example.se").unwrap(),
            name: "Anna".to_owned(),
            language: Language::Sv,
            password: Some(PasswordHash::stored("planted".to_owned())),
            confirmed_at: None,
        };
        let mut db = world.app.db.acquire().await.unwrap();
        let anna = users::create_in(&mut db, &new, Some(elsewhere.id), world.now()).await.unwrap();
        let request = submit(&world, "anna@example.se").await;
        confirm(&world, &request.job.token).await;
        let approved = approve(&world, request.id).await.unwrap();
        assert_eq!(approved.user_id, Some(anna.id));
        assert_eq!(users::password(&mut db, anna.id).await.unwrap(), None);
        drain(&world).await;
        assert!(last_mail(&world).contains("/join-requests/acme."), "the link with which they choose one");
    }

    /// JOIN-5: approved in two organizations, a person chooses one password; the second link says that there is one.
    #[tokio::test]
    async fn a_password_that_was_not_saved_is_not_said_to_be() {
        let world = World::new().await;
        let request = submit(&world, "anna@example.se").await;
        confirm(&world, &request.job.token).await;
        let approved = approve(&world, request.id).await.unwrap();
        let token = latest(&world).await.token.unwrap();
        let held = "update public.organizations set billing_status = $1";
        let choose = async |password: &str| {
            choose_password(&world.app, &token, &PasswordHash::stored(password.to_owned())).await.unwrap()
        };
        sqlx::query(held).bind("suspended").execute(&world.app.db).await.unwrap();
        assert!(matches!(choose("held").await, Opened::Shut(Shut::Held, _)));
        sqlx::query(held).bind("active").execute(&world.app.db).await.unwrap();
        let mut db = world.app.db.acquire().await.unwrap();
        let first = PasswordHash::stored("chosen elsewhere".to_owned());
        let user = approved.user_id.unwrap();
        assert!(users::set_password(&mut db, user, None, &first, world.now()).await.unwrap());

        let looked = open(&world.app.db, &token, world.now()).await.unwrap();
        assert!(matches!(looked, Opened::Shut(Shut::HasPassword, _)), "{looked:?}");
        let pressed = choose("chosen here").await;

        assert!(matches!(pressed, Opened::Shut(Shut::HasPassword, _)), "{pressed:?}");
        assert!(users::password(&mut db, user).await.unwrap() == Some(first));
    }

    /// JOIN-5
    #[tokio::test]
    async fn nothing_is_told_before_it_is_decided() {
        let world = World::new().await;
        let request = submit(&world, "anna@example.se").await;
        let early = world.run(&SendDecision { request_id: request.id, token: None, number: 1 }).await;
        assert!(matches!(early, Outcome::Cancelled { .. }), "{early:?}");
        let unknown = world.run(&SendDecision { request_id: Uuid::now_v7(), token: None, number: 1 }).await;
        assert!(matches!(unknown, Outcome::Cancelled { .. }), "{unknown:?}");
        assert_eq!(world.mailbox.accepted().len(), 0);
    }
}
