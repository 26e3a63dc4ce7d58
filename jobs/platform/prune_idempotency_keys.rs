//! Forgets answers that were kept for repeated requests. Scheduled daily. Twice is fine: what is gone is gone.

use backroom_queue::{Ctx, Job, JobResult, Verdict};
use chrono::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::NOT_FOR_TENANTS;
use crate::{context::App, store::idempotency};

/// Nobody repeats a request after a day; clients are told so in the API's document.
const KEPT: Duration = Duration::hours(24);

/// Forgets answers that were kept for repeated requests (`Idempotency-Key`) for over a day.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneIdempotencyKeys {}

impl Job for PruneIdempotencyKeys {
    type App = App;
    const KIND: &'static str = "platform.prune_idempotency_keys";

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        if ctx.job.tenant.is_some() {
            return Ok(Verdict::Discard(NOT_FOR_TENANTS.to_owned()));
        }
        let before = ctx.app.clock.now() - KEPT;
        let forgotten = idempotency::prune(&mut *ctx.app.db.acquire().await?, before).await?;
        Verdict::done_with(json!({ "forgotten": forgotten }))
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{NewJob, Outcome, run_inline};

    use super::*;
    use crate::jobs::testing::World;

    /// API-3
    #[tokio::test]
    async fn an_answer_is_kept_for_a_day() {
        let world = World::new().await;
        for (key, age) in [("young", Duration::hours(23)), ("old", Duration::hours(25))] {
            sqlx::query(
                "insert into public.idempotency_keys (organization_id, key, fingerprint, created_at) values ($1, $2, '', $3)",
            )
            .bind(world.organization.id)
            .bind(key)
            .bind(world.now() - age)
            .execute(&world.app.db)
            .await
            .unwrap();
        }
        let job = NewJob::of(&PruneIdempotencyKeys {});
        let (outcome, _) = run_inline(&world.app.db, &world.registry, world.app.clone(), job, |_, _| {}).await.unwrap();
        assert_eq!(outcome, Outcome::Completed { result: Some(json!({ "forgotten": 1 })) });
        let left: Vec<String> =
            sqlx::query_scalar("select key from public.idempotency_keys").fetch_all(&world.app.db).await.unwrap();
        assert_eq!(left, ["young"]);
    }
}
