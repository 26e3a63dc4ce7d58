//! Mails somebody who asks to become a member the link that proves their address. Enqueued with the request, and again with each new
//! token. Twice is fine: each token has one mail, an effect in the ledger; a token that was replaced or used is not sent.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{link, topic};
use crate::{
    context::App,
    domain::{LinkToken, Organization},
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

/// Mails somebody the link that proves their address.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendConfirmation {
    pub request_id: Uuid,
    /// The link's secret; tables have its hash only. A job with another than the present one cancels itself.
    #[schemars(with = "String")]
    pub token: LinkToken,
}

impl Job for SendConfirmation {
    type App = App;
    const KIND: &'static str = "membership.send_confirmation";
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
        if join_requests::mark_failed(&mut tx, (self.request_id, self.token.hash()), &reason).await? {
            // Without the server's words, in which the address stands: events are read by more people than requests.
            let (kind, payload) = ("join_request.confirmation_failed", json!({}));
            let event = NewEvent { topic: topic(self.request_id), kind, payload, actor: &actor(&ctx) };
            events::append(&mut tx, &event, ctx.app.clock.now()).await?;
        }
        Ok(tx.commit().await?)
    }
}

impl SendConfirmation {
    /// Looks whether the token is still to be sent, and opens the letter. JOIN-2, JOIN-3
    async fn open(&self, ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<Step<u32>> {
        // The effect's intent is committed next, and takes this with it to the disk.
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        let end = |reason: &str| Ok(Step::End(Verdict::Cancel(reason.to_owned())));
        let request = match join_requests::by_token(&mut tx, &self.token.hash()).await? {
            Some(Token::Confirms(request)) if request.id == self.request_id => request,
            Some(Token::Used(_)) => return end("the request is confirmed already"),
            _ => return end("the request does not exist any more, or was made again with another token"),
        };
        let Some(expires_at) = request.token_expires_at.filter(|at| *at > ctx.app.clock.now()) else {
            return end("the link has expired");
        };
        let number = request.token_number;
        let to = (purpose(request.id, number), request.email.clone());
        let envelope = match letter::open(&mut tx, ctx, organization, to).await? {
            Ok(envelope) => envelope,
            Err(closed) => return Ok(closed.step(number)),
        };
        tx.commit().await?;
        let letter = templates::render_confirmation(&templates::ConfirmationMail {
            language: request.language,
            organization_name: organization.name.clone(),
            applicant_name: request.name(),
            link: link(&ctx.app.config.http.public_url, &self.token),
            expires_at,
            time_zone: organization.time_zone,
        });
        let mail = Box::new(envelope.with(organization, request.language, letter));
        Ok(Step::Send { envelope, mail, about: number })
    }

    /// Delivery, request and event in one transaction; changes nothing the second time.
    async fn record(&self, ctx: &Ctx<App>, organization: &Organization, left: &Left<u32>) -> anyhow::Result<()> {
        let Left { delivery, about: number, taken } = left;
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        deliveries::mark_sent(&mut tx, *delivery, (&taken.recipient, &taken.response), taken.at).await?;
        if join_requests::mark_confirmation_sent(&mut tx, (self.request_id, *number), taken.at).await? {
            let (kind, payload) = ("join_request.confirmation_sent", json!({ "delivery_id": delivery }));
            let event = NewEvent { topic: topic(self.request_id), kind, payload, actor: &actor(ctx) };
            events::append(&mut tx, &event, taken.at).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// The key of the mail with the request's n-th token.
pub(super) fn purpose(request: Uuid, number: u32) -> String {
    format!("join-confirmation:{request}:{number}")
}

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, testing};
    use chrono::Duration;

    use crate::{domain::JoinStatus, jobs::membership::testing::*, jobs::testing::World};

    /// JOIN-2
    #[tokio::test]
    async fn the_mail_names_who_asks_for_what_and_where_to_confirm() {
        let world = World::new().await;
        let request = submit(&world, "Anna@Example.se").await;

        let outcome = world.run(&request.job).await;

        assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
        let mail = world.mailbox.get(world.mailbox.list(1)[0].id).unwrap();
        assert_eq!(mail.summary.to, ["Anna@example.se"]);
        let text = mail.text.unwrap();
        for fact in ["Anna Ek", "acme", "/join-requests/acme.", request.job.token.expose()] {
            assert!(text.contains(fact), "{fact} is missing from {text}");
        }
        let stored = reload(&world, request.id).await.unwrap();
        assert_eq!((stored.status, stored.confirmation_sent_at), (JoinStatus::PendingConfirmation, Some(world.now())));
        assert_eq!(kinds(&world, request.id).await, ["join_request.received", "join_request.confirmation_sent"]);
    }

    /// JOIN-2, MAIL-2
    #[tokio::test]
    async fn the_same_job_twice_sends_one_mail() {
        let world = World::new().await;
        let request = submit(&world, "anna@example.se").await;
        let tables = ["org_acme.join_requests", "org_acme.deliveries", "org_acme.events"];

        let job = world.job(&request.job);
        let [once, twice] =
            testing::run_twice(&world.app.db, &world.registry, world.app.clone(), job, &tables).await.unwrap();

        assert!(matches!((&once.0, &twice.0), (Outcome::Completed { .. }, Outcome::Completed { .. })), "{twice:?}");
        assert_eq!(once.1, twice.1);
        assert_eq!(world.mailbox.accepted().len(), 1);
    }

    /// JOIN-3: the older mail, not sent yet, is not sent any more.
    #[tokio::test]
    async fn a_token_that_was_replaced_or_used_is_not_sent() {
        let world = World::new().await;
        let old = submit(&world, "anna@example.se").await;
        let new = submit(&world, "ANNA@example.se").await;
        assert_eq!(old.id, new.id);

        assert!(matches!(world.run(&old.job).await, Outcome::Cancelled { .. }));
        confirm(&world, &new.job.token).await;
        let used = world.run(&new.job).await;

        assert!(matches!(used, Outcome::Cancelled { .. }), "{used:?}");
        assert_eq!(world.mailbox.accepted().len(), 0);
    }

    /// JOIN-1
    #[tokio::test]
    async fn a_link_that_expired_in_the_queue_is_not_sent() {
        let world = World::new().await;
        let request = submit(&world, "anna@example.se").await;
        world.app.clock.advance(Duration::hours(24));
        let late = world.run(&request.job).await;
        assert!(matches!(late, Outcome::Cancelled { .. }), "{late:?}");
        assert_eq!(world.mailbox.accepted().len(), 0);
    }

    /// MAIL-3
    #[tokio::test]
    async fn a_permanent_refusal_gives_up_and_is_told() {
        let world = World::new().await;
        let request = submit(&world, "reject@example.se").await;
        let outcome = world.run(&request.job).await;
        assert!(matches!(outcome, Outcome::Discarded { .. }), "{outcome:?}");
        let stored = reload(&world, request.id).await.unwrap();
        assert!(stored.send_error.as_ref().is_some_and(|error| error.contains("550")), "{stored:?}");
        assert_eq!(stored.confirmation_sent_at, None);
        assert_eq!(kinds(&world, request.id).await, ["join_request.received", "join_request.confirmation_failed"]);
    }

    /// JOIN-5: who may read events or the ledger, but no requests, does not learn who asks to join.
    #[tokio::test]
    async fn events_and_ledger_do_not_name_the_address() {
        let world = World::new().await;
        for address in ["anna@example.se", "reject@example.se"] {
            let request = submit(&world, address).await;
            world.run(&request.job).await;
        }
        for table in ["org_acme.events", "queue.effects"] {
            let sql = format!("select count(*) from {table} t where to_jsonb(t)::text like '%@example.se%'");
            let found: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&world.app.db).await.unwrap();
            assert_eq!(found, 0, "{table}");
        }
    }

    /// VAULT-4: the token is in the mail, and in no row.
    #[tokio::test]
    async fn the_token_is_stored_nowhere() {
        let world = World::new().await;
        let request = submit(&world, "anna@example.se").await;
        world.run(&request.job).await;
        let secret = request.job.token.expose().split_once('.').unwrap().1;
        for table in [
            "org_acme.join_requests",
            "org_acme.events",
            "org_acme.deliveries",
            "queue.jobs",
            "queue.finished_jobs",
            "queue.effects",
        ] {
            let sql = format!("select count(*) from {table} t where to_jsonb(t)::text like '%' || $1 || '%'");
            let found: i64 =
                sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(secret).fetch_one(&world.app.db).await.unwrap();
            assert_eq!(found, 0, "{table}");
        }
        let job = backroom_queue::list(&world.app.db, &backroom_queue::JobFilter { limit: 10, ..Default::default() })
            .await
            .unwrap();
        assert!(job.iter().all(|job| job.args.get("$sealed").is_some()), "{job:?}");
    }
}
