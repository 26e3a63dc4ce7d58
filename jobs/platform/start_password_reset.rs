//! Looks whether an address is somebody's who may have another password, and has them mailed the link. Enqueued with every request for one,
//! whoever has the address, so that the answer to a stranger costs the same. Twice is fine: a request makes one link, with its mail.

use backroom_queue::{Ctx, Job, JobResult, NewJob, Verdict, enqueue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NOT_FOR_TENANTS;
use crate::{
    context::App,
    domain::{EmailAddress, LinkToken, Slug},
    jobs::membership::SendPasswordReset,
    store::{memberships, password_resets, users},
};

/// Has somebody who has forgotten their password mailed a link, if the address is a member's.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartPasswordReset {
    /// As somebody typed it.
    #[schemars(with = "String")]
    pub email: EmailAddress,
    /// Slug of the organization that the mail shall come from.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub organization: Option<Slug>,
}

impl Job for StartPasswordReset {
    type App = App;
    const KIND: &'static str = "platform.start_password_reset";
    const QUEUE: &'static str = "mailers";
    /// Names an address that may be anybody's.
    const RETENTION_DAYS: u16 = 1;
    const SEALED: bool = true;

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        if ctx.job.tenant.is_some() {
            return Ok(Verdict::Discard(NOT_FOR_TENANTS.to_owned()));
        }
        let mut tx = ctx.app.db.begin().await?;
        let Some(user) = users::by_email(&mut tx, &self.email).await? else { return Ok(Verdict::DONE) };
        // The jobs of a suspended organization wait, and the link would not.
        let sender = memberships::of_user(&mut tx, user.id)
            .await?
            .into_iter()
            .map(|(_, organization)| organization)
            .find(|organization| {
                !organization.is_held() && self.organization.as_ref().is_none_or(|named| *named == organization.slug)
            });
        let Some(organization) = sender else { return Ok(Verdict::DONE) };
        let token = LinkToken::random(&organization.slug);
        let (place, link) = ((user.id, organization.id), (ctx.job.id, token.hash()));
        if password_resets::renew(&mut tx, place, link, ctx.app.clock.now()).await? {
            let job = NewJob::of(&SendPasswordReset { token })
                .tenant(organization.slug.as_str())
                .trace(ctx.job.trace.clone());
            enqueue(&mut *tx, &ctx.seal(job)?).await?;
            tx.commit().await?;
        }
        Ok(Verdict::DONE)
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, run_inline, testing};
    use chrono::Duration;
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::BillingStatus,
        jobs::{
            membership::testing::{address, forgetful, reset_jobs},
            testing::World,
        },
        tenant,
    };

    fn start(email: &str, organization: Option<&str>) -> NewJob {
        let organization = organization.map(|slug| Slug::parse(slug).unwrap());
        NewJob::of(&StartPasswordReset { email: address(email), organization })
    }

    async fn run(world: &World, job: NewJob) -> Outcome {
        run_inline(&world.app.db, &world.registry, world.app.clone(), job, |_, _| {}).await.unwrap().0
    }

    /// AUTH-5: one request is one link and one mail, however often its job runs.
    #[tokio::test]
    async fn the_same_job_twice_makes_one_link() {
        let world = World::new().await;
        forgetful(&world, "anna@acme.example", &[&world.organization]).await;
        let (job, tables) = (start("ANNA@acme.example", None), ["public.password_resets"]);
        let [once, twice] =
            testing::run_twice(&world.app.db, &world.registry, world.app.clone(), job, &tables).await.unwrap();
        assert!(matches!((&once.0, &twice.0), (Outcome::Completed { .. }, Outcome::Completed { .. })), "{twice:?}");
        assert_eq!(once.1, twice.1);
        assert_eq!(reset_jobs(&world).await.len(), 1);
    }

    /// AUTH-5: a job that runs again after a later request's leaves the later link alone.
    #[tokio::test]
    async fn an_earlier_request_takes_no_later_link_away() {
        let world = World::new().await;
        let user = forgetful(&world, "anna@acme.example", &[&world.organization]).await;
        let [first, second] = [Uuid::now_v7(), Uuid::now_v7()];
        let mut db = world.app.db.acquire().await.unwrap();
        let mut made = Vec::new();
        for (request, hash) in [(first, [1; 32]), (second, [2; 32]), (first, [3; 32])] {
            let place = (user, world.organization.id);
            made.push(password_resets::renew(&mut db, place, (request, hash), world.now()).await.unwrap());
        }
        assert_eq!(made, [true, true, false]);
        assert_eq!(
            password_resets::by_token(&mut db, &[2; 32]).await.unwrap().map(|link| link.request_id),
            Some(second)
        );
    }

    /// AUTH-5: nobody's address, and one of somebody who belongs nowhere any more.
    #[tokio::test]
    async fn who_is_no_member_gets_no_link() {
        let world = World::new().await;
        forgetful(&world, "left@acme.example", &[]).await;
        for email in ["nobody@acme.example", "left@acme.example"] {
            assert_eq!(run(&world, start(email, None)).await, Outcome::Completed { result: None });
        }
        assert_eq!(reset_jobs(&world).await.len(), 0);
    }

    /// AUTH-5, TEN-5: the mail is the oldest membership's, or the one's that was named; a suspended organization sends none.
    #[tokio::test]
    async fn the_mail_comes_from_an_organization_of_the_person() {
        let world = World::new().await;
        let globex = world.database.organization("globex").await;
        forgetful(&world, "anna@acme.example", &[&world.organization, &globex]).await;
        let sender = async |organization: Option<&str>| {
            let before = reset_jobs(&world).await.len();
            run(&world, start("anna@acme.example", organization)).await;
            let jobs = reset_jobs(&world).await;
            (jobs.len() > before).then(|| jobs[0].token.organization().to_string())
        };
        assert_eq!(sender(None).await.as_deref(), Some("acme"));
        assert_eq!(sender(Some("globex")).await.as_deref(), Some("globex"));
        assert_eq!(sender(Some("initech")).await, None, "none of theirs");
        let status = BillingStatus::Suspended;
        tenant::set_billing_status(&world.app.db, &world.app.clock, &world.organization, status).await.unwrap();
        assert_eq!(sender(Some("acme")).await, None, "suspended");
        assert_eq!(sender(None).await.as_deref(), Some("globex"));
    }

    /// AUTH-5: a flood is a few mails an hour.
    #[tokio::test]
    async fn an_address_gets_a_few_links_an_hour() {
        let world = World::new().await;
        forgetful(&world, "anna@acme.example", &[&world.organization]).await;
        for _ in 0..5 {
            run(&world, start("anna@acme.example", None)).await;
        }
        assert_eq!(reset_jobs(&world).await.len(), 3);
        world.app.clock.advance(Duration::hours(1));
        run(&world, start("anna@acme.example", None)).await;
        assert_eq!(reset_jobs(&world).await.len(), 4);
    }

    #[tokio::test]
    async fn no_organization_may_run_it() {
        let world = World::new().await;
        let outcome = run(&world, start("anna@acme.example", None).tenant("acme")).await;
        assert!(matches!(outcome, Outcome::Discarded { .. }), "{outcome:?}");
    }
}
