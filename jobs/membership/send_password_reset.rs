//! Mails somebody who has forgotten their password the link by which they set another. Enqueued with each link. Twice is fine: a link has
//! one mail, an effect in the ledger; one that was replaced, used or has expired is not sent.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    context::App,
    domain::LinkToken,
    jobs::{
        letter::{self, Closed, Told},
        organization,
    },
    mail::templates,
    store::{password_resets, users},
    tenant,
};

/// Mails somebody the link by which they set another password.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendPasswordReset {
    /// The link's secret; tables have its hash only. A job with another than the present one cancels itself.
    #[schemars(with = "String")]
    pub token: LinkToken,
}

impl Job for SendPasswordReset {
    type App = App;
    const KIND: &'static str = "membership.send_password_reset";
    const QUEUE: &'static str = "mailers";
    /// Goes on for as long as the link is good.
    const MAX_ATTEMPTS: u32 = 20;
    /// What it was given is a secret, sealed or not.
    const RETENTION_DAYS: u16 = 1;
    const SEALED: bool = true;

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_secs(30), Duration::from_secs(600))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let end = |reason: &str| Ok(Verdict::Cancel(reason.to_owned()));
        let mut db = ctx.app.db.acquire().await?;
        let found = password_resets::by_token(&mut db, &self.token.hash()).await?;
        let Some(reset) = found.filter(|reset| reset.organization_id == organization.id) else {
            return end("the link does not exist any more, or was replaced by another");
        };
        if reset.used_at.is_some() || reset.expires_at <= ctx.app.clock.now() {
            return end("the link was used or has expired");
        }
        let Some(user) = users::by_id(&mut db, reset.user_id).await? else { return end("the account is gone") };
        drop(db);

        // The effect's intent is committed next, and takes this with it to the disk.
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, &organization).await?;
        let to = (format!("password-reset:{}", reset.request_id), user.email.clone());
        let envelope = match letter::open(&mut tx, &ctx, &organization, to).await? {
            Ok(envelope) => envelope,
            Err(Closed::Sent { .. }) => return Ok(Verdict::DONE),
            Err(Closed::Refused { words }) => return Ok(Verdict::Discard(words)),
        };
        tx.commit().await?;
        let letter = templates::render_password_reset(&templates::PasswordResetMail {
            language: user.language,
            organization_name: organization.name.clone(),
            email: user.email.as_str().to_owned(),
            link: format!(
                "{}/password-resets/{}",
                ctx.app.config.http.public_url.trim_end_matches('/'),
                self.token.expose()
            ),
            expires_at: reset.expires_at,
            time_zone: organization.time_zone,
        });
        let mail = envelope.with(&organization, user.language, letter);
        Ok(match letter::tell(&ctx, &organization, &envelope, &mail).await? {
            Told::Yes => Verdict::DONE,
            Told::Refused { words } => Verdict::Discard(words),
            Told::End(verdict) => verdict,
        })
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{JobFilter, NewJob, Outcome, run_inline, testing};
    use chrono::Duration;

    use super::*;
    use crate::jobs::{
        membership::testing::{address, forgetful, reset_jobs},
        platform::StartPasswordReset,
        testing::World,
    };

    /// Asks for a link, and takes the job that mails it.
    async fn asked(world: &World, email: &str) -> SendPasswordReset {
        let job = NewJob::of(&StartPasswordReset { email: address(email), organization: None });
        run_inline(&world.app.db, &world.registry, world.app.clone(), job, |_, _| {}).await.unwrap();
        reset_jobs(world).await.remove(0)
    }

    /// AUTH-5, MAIL-2
    #[tokio::test]
    async fn the_same_job_twice_sends_one_mail_with_the_link_to_the_account_s_own_address() {
        let world = World::new().await;
        forgetful(&world, "Anna@acme.example", &[&world.organization]).await;
        let send = asked(&world, "ANNA@ACME.example").await;

        let (job, tables) = (world.job(&send), ["org_acme.deliveries", "org_acme.events", "public.password_resets"]);
        let [once, twice] =
            testing::run_twice(&world.app.db, &world.registry, world.app.clone(), job, &tables).await.unwrap();

        assert!(matches!((&once.0, &twice.0), (Outcome::Completed { .. }, Outcome::Completed { .. })), "{twice:?}");
        assert_eq!(once.1, twice.1);
        assert_eq!(world.mailbox.accepted().len(), 1);
        let mail = world.mailbox.get(world.mailbox.list(1)[0].id).unwrap();
        assert_eq!(mail.summary.to, ["Anna@acme.example"]);
        let text = mail.text.unwrap();
        for fact in ["/password-resets/acme.", send.token.expose(), "2 mars 2026 kl. 10:00"] {
            assert!(text.contains(fact), "{fact} is missing from {text}");
        }
    }

    /// AUTH-5: of two links the newer one is mailed, and one that waited for too long is not.
    #[tokio::test]
    async fn a_link_that_was_replaced_or_has_expired_is_not_sent() {
        let world = World::new().await;
        forgetful(&world, "anna@acme.example", &[&world.organization]).await;
        let old = asked(&world, "anna@acme.example").await;
        let new = asked(&world, "anna@acme.example").await;
        assert!(matches!(world.run(&old).await, Outcome::Cancelled { .. }));
        world.app.clock.advance(Duration::hours(1));
        assert!(matches!(world.run(&new).await, Outcome::Cancelled { .. }));
        assert_eq!(world.mailbox.accepted().len(), 0);
    }

    /// MAIL-3
    #[tokio::test]
    async fn a_permanent_refusal_gives_up() {
        let world = World::new().await;
        forgetful(&world, "reject@acme.example", &[&world.organization]).await;
        let send = asked(&world, "reject@acme.example").await;
        let outcome = world.run(&send).await;
        assert!(matches!(outcome, Outcome::Discarded { .. }), "{outcome:?}");
    }

    /// VAULT-4: the token is in the mail, and in no row; the address that was typed is in none of the queue's.
    #[tokio::test]
    async fn the_token_is_stored_nowhere() {
        let world = World::new().await;
        forgetful(&world, "anna@acme.example", &[&world.organization]).await;
        let send = asked(&world, "anna@acme.example").await;
        world.run(&send).await;
        let secret = send.token.expose().split_once('.').unwrap().1;
        for (table, text) in [
            ("public.password_resets", secret),
            ("org_acme.events", secret),
            ("org_acme.deliveries", secret),
            ("queue.jobs", secret),
            ("queue.finished_jobs", secret),
            ("queue.effects", secret),
            ("queue.jobs", "anna@"),
            ("queue.finished_jobs", "anna@"),
            ("queue.effects", "anna@"),
        ] {
            let sql = format!("select count(*) from {table} t where to_jsonb(t)::text like '%' || $1 || '%'");
            let found: i64 =
                sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(text).fetch_one(&world.app.db).await.unwrap();
            assert_eq!(found, 0, "{table} has {text}");
        }
        let jobs = backroom_queue::list(&world.app.db, &JobFilter { limit: 10, ..JobFilter::default() }).await.unwrap();
        assert!(jobs.iter().all(|job| job.args.get("$sealed").is_some()), "{jobs:?}");
    }
}
