//! Suspends organizations whose trial is over. Scheduled daily. Twice is fine: who is suspended is on trial no more.

use backroom_queue::{Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::NOT_FOR_TENANTS;
use crate::{context::App, domain::BillingStatus, store::organizations, tenant};

/// Suspends organizations whose trial is over; their jobs are held, not lost.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpireTrials {}

impl Job for ExpireTrials {
    type App = App;
    const KIND: &'static str = "platform.expire_trials";

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        if ctx.job.tenant.is_some() {
            return Ok(Verdict::Discard(NOT_FOR_TENANTS.to_owned()));
        }
        let app = &ctx.app;
        let mut tx = app.db.begin().await?;
        // Locked: an organization that is activated meanwhile is not suspended after all.
        let expired = organizations::lock_expired_trials(&mut tx, app.clock.now()).await?;
        for organization in &expired {
            tenant::set_billing_status_in(&mut tx, &app.clock, organization, BillingStatus::Suspended).await?;
        }
        tx.commit().await?;
        let slugs: Vec<&str> = expired.iter().map(|organization| organization.slug.as_str()).collect();
        Verdict::done_with(json!({ "suspended": slugs }))
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{NewJob, Outcome, run_inline};
    use chrono::Duration;

    use super::*;
    use crate::jobs::testing::World;

    async fn run(world: &World, job: NewJob) -> Outcome {
        run_inline(&world.app.db, &world.registry, world.app.clone(), job, |_, _| {}).await.unwrap().0
    }

    async fn status(world: &World) -> BillingStatus {
        let mut db = world.app.db.acquire().await.unwrap();
        organizations::by_slug(&mut db, "acme").await.unwrap().unwrap().billing_status
    }

    /// TEN-5
    #[tokio::test]
    async fn a_trial_ends_once_its_time_is_over_and_not_before() {
        let world = World::new().await;
        let set = "update public.organizations set billing_status = 'trial', trial_ends_at = $1";
        let ends = world.now() + Duration::days(1);
        sqlx::query(set).bind(ends).execute(&world.app.db).await.unwrap();

        let early = run(&world, NewJob::of(&ExpireTrials {})).await;
        assert_eq!(early, Outcome::Completed { result: Some(json!({ "suspended": [] })) });
        assert_eq!(status(&world).await, BillingStatus::Trial);

        world.app.clock.advance(Duration::days(1));
        let due = run(&world, NewJob::of(&ExpireTrials {})).await;
        assert_eq!(due, Outcome::Completed { result: Some(json!({ "suspended": ["acme"] })) });
        assert_eq!(status(&world).await, BillingStatus::Suspended);
        let again = run(&world, NewJob::of(&ExpireTrials {})).await;
        assert_eq!(again, Outcome::Completed { result: Some(json!({ "suspended": [] })) });
    }

    #[tokio::test]
    async fn no_organization_may_run_it() {
        let world = World::new().await;
        let outcome = run(&world, NewJob::of(&ExpireTrials {}).tenant("acme")).await;
        assert!(matches!(outcome, Outcome::Discarded { .. }), "{outcome:?}");
    }
}
