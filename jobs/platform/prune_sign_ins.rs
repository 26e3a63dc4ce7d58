//! Forgets sessions that can no longer go on, refresh tokens that are long used, old tries to sign in and old links to another password.
//! Scheduled daily. Twice is fine: what is gone is gone.

use backroom_queue::{Ctx, Job, JobResult, Verdict};
use chrono::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::NOT_FOR_TENANTS;
use crate::{
    context::App,
    store::{password_resets, sessions, sign_in_tries},
};

/// A refresh token is kept for so long after it has expired, and with the last one its session, so that it is told from one that never was.
const KEPT: Duration = Duration::days(30);
/// A link is kept for so long after it has expired, so that its page can say so.
const LINKS_KEPT: Duration = Duration::days(1);

/// Forgets refresh tokens that expired a month ago, sessions that have no other, tries to sign in that no limit asks for any more, and
/// yesterday's links to another password.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneSignIns {}

impl Job for PruneSignIns {
    type App = App;
    const KIND: &'static str = "platform.prune_sign_ins";

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        if ctx.job.tenant.is_some() {
            return Ok(Verdict::Discard(NOT_FOR_TENANTS.to_owned()));
        }
        let now = ctx.app.clock.now();
        let mut db = ctx.app.db.acquire().await?;
        let sessions = sessions::prune(&mut db, now - KEPT).await?;
        let tokens = sessions::prune_tokens(&mut db, now - KEPT).await?;
        let tries = sign_in_tries::prune(&mut db, now).await?;
        let links = password_resets::prune(&mut db, now - LINKS_KEPT).await?;
        Verdict::done_with(json!({ "sessions": sessions, "tokens": tokens, "tries": tries, "links": links }))
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{NewJob, Outcome, run_inline};

    use super::*;
    use crate::{
        domain::{EmailAddress, Language, NewUser},
        jobs::testing::World,
        store::{sessions::Rotated, users},
    };

    async fn run(world: &World, job: NewJob) -> Outcome {
        run_inline(&world.app.db, &world.registry, world.app.clone(), job, |_, _| {}).await.unwrap().0
    }

    /// AUTH-2, AUTH-5
    #[tokio::test]
    async fn what_can_still_be_used_stays_and_the_rest_goes_once() {
        let world = World::new().await;
        let email = EmailAddress::parse("anna@acme.example").unwrap();
        let mut db = world.app.db.acquire().await.unwrap();
        let new = NewUser {
            email: email.clone(),
            name: "Anna".to_owned(),
            language: Language::Sv,
            password: None,
            confirmed_at: None,
        };
        let user = users::create(&mut db, &new, world.now()).await.unwrap();
        let place = (world.organization.id, user.id);
        for days in [30, 1] {
            sessions::begin(&mut db, place, world.now(), Duration::days(days)).await.unwrap();
        }
        for network in ["192.0.2.1", "192.0.2.2"] {
            sign_in_tries::begin(&mut db, &email, network, world.now()).await.unwrap();
        }
        sign_in_tries::succeeded(&mut db, &email, "192.0.2.1", world.now()).await.unwrap();
        let (place, link) = ((user.id, world.organization.id), (user.id, [0; 32]));
        assert!(password_resets::renew(&mut db, place, link, world.now()).await.unwrap());
        drop(db);

        let job = || NewJob::of(&PruneSignIns {});
        let done = |sessions: u64, tries: u64, links: u64| Outcome::Completed {
            result: Some(json!({ "sessions": sessions, "tokens": 0, "tries": tries, "links": links })),
        };
        assert_eq!(run(&world, job()).await, done(0, 0, 0));
        world.app.clock.advance(Duration::days(32));
        assert_eq!(run(&world, job()).await, done(1, 1, 1), "the day's session, the network of a stranger, the link");
        assert_eq!(run(&world, job()).await, done(0, 0, 0));
        world.app.clock.advance(Duration::days(60));
        assert_eq!(run(&world, job()).await, done(1, 1, 0));
    }

    /// AUTH-2: a session that goes on for years does not keep every token that it ever had.
    #[tokio::test]
    async fn the_old_tokens_of_a_session_that_goes_on_are_forgotten() {
        let world = World::new().await;
        let mut db = world.app.db.acquire().await.unwrap();
        let new = NewUser {
            email: EmailAddress::parse("anna@acme.example").unwrap(),
            name: "Anna".to_owned(),
            language: Language::Sv,
            password: None,
            confirmed_at: None,
        };
        let user = users::create(&mut db, &new, world.now()).await.unwrap();
        let (place, month) = ((world.organization.id, user.id), Duration::days(30));
        let mut refresh = sessions::begin(&mut db, place, world.now(), month).await.unwrap();
        for _ in 0..4 {
            world.app.clock.advance(Duration::days(21));
            let next = sessions::rotate(&mut db, &refresh.token, world.now(), month).await.unwrap();
            let Rotated::Next(next) = next else { panic!("{next:?}") };
            refresh = next;
        }
        drop(db);

        let done = run(&world, NewJob::of(&PruneSignIns {})).await;

        // Made on days 0, 21, 42, 63 and 84; on day 84 the first two had expired more than a month ago.
        let expected = json!({ "sessions": 0, "tokens": 2, "tries": 0, "links": 0 });
        assert_eq!(done, Outcome::Completed { result: Some(expected) });
        let mut db = world.app.db.acquire().await.unwrap();
        let goes_on = sessions::rotate(&mut db, &refresh.token, world.now(), month).await.unwrap();
        assert!(matches!(goes_on, Rotated::Next(_)), "{goes_on:?}");
    }

    #[tokio::test]
    async fn no_organization_may_run_it() {
        let world = World::new().await;
        let outcome = run(&world, NewJob::of(&PruneSignIns {}).tenant("acme")).await;
        assert!(matches!(outcome, Outcome::Discarded { .. }), "{outcome:?}");
    }
}
