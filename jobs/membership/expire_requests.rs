//! Deletes an organization's requests that nobody confirmed. Scheduled daily for each organization. Twice is fine: what is gone is gone.

use backroom_queue::{Ctx, Job, JobResult, Unique, Verdict};
use chrono::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{send_confirmation::purpose, topic};
use crate::{
    context::App,
    jobs::{actor, organization},
    store::{
        deliveries,
        events::{self, NewEvent},
        join_requests,
    },
    tenant,
};

/// Requests deleted in one transaction.
const PAGE: i64 = 500;

/// Deletes requests to become a member that nobody confirmed in time (`jobs.unconfirmed_requests_days`).
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpireRequests {}

impl Job for ExpireRequests {
    type App = App;
    const KIND: &'static str = "membership.expire_requests";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by("expire"))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let (kind, actor) = ("join_request.expired", &actor(&ctx));
        let mut deleted = 0;
        loop {
            let now = ctx.app.clock.now();
            let before = now - Duration::days(ctx.app.config.jobs.unconfirmed_requests_days.into());
            let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
            let gone = join_requests::delete_unconfirmed(&mut tx, (before, now), PAGE).await?;
            // And of their mails, which name the address.
            let mails: Vec<String> =
                gone.iter().flat_map(|(id, mails)| (1..=*mails).map(|number| purpose(*id, number))).collect();
            deliveries::forget(&mut tx, &mails).await?;
            let told: Vec<NewEvent<'_>> =
                gone.iter().map(|(id, _)| NewEvent { topic: topic(*id), kind, payload: json!({}), actor }).collect();
            events::append_many(&mut tx, &told, now).await?;
            tx.commit().await?;
            deleted += gone.len();
            if (gone.len() as i64) < PAGE {
                return Verdict::done_with(json!({ "deleted": deleted }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::Outcome;

    use super::*;
    use crate::{domain::JoinStatus, jobs::membership::testing::*, jobs::testing::World};

    async fn deleted(world: &World) -> u64 {
        match world.run(&ExpireRequests {}).await {
            Outcome::Completed { result: Some(result) } => result["deleted"].as_u64().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// JOIN-6
    #[tokio::test]
    async fn what_nobody_confirms_is_deleted_in_time_and_the_rest_stays() {
        let world = World::new().await;
        let old = submit(&world, "old@example.se").await;
        let confirmed = submit(&world, "confirmed@example.se").await;
        confirm(&world, &confirmed.job.token).await;
        let renewed = submit(&world, "renewed@example.se").await;
        let days = i64::from(world.app.config.jobs.unconfirmed_requests_days);

        world.run(&old.job).await;
        let mails = async || {
            let mut tx = world.tenant().await;
            let sql = "select count(*) from deliveries where recipient = 'old@example.se'";
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *tx).await.unwrap()
        };
        assert_eq!(mails().await, 1);
        world.app.clock.advance(Duration::days(days) - Duration::seconds(1));
        submit(&world, "renewed@example.se").await;
        let young = submit(&world, "young@example.se").await;
        assert_eq!(deleted(&world).await, 0);
        world.app.clock.advance(Duration::seconds(1));
        assert_eq!((deleted(&world).await, mails().await), (1, 0), "nor does its mail name the address any longer");
        assert_eq!(deleted(&world).await, 0);

        assert!(reload(&world, old.id).await.is_none());
        assert_eq!(kinds(&world, old.id).await.last().unwrap(), "join_request.expired");
        for left in [renewed.id, young.id] {
            assert_eq!(reload(&world, left).await.unwrap().status, JoinStatus::PendingConfirmation);
        }
        assert_eq!(reload(&world, confirmed.id).await.unwrap().status, JoinStatus::Submitted);
        world.app.clock.advance(Duration::days(365));
        assert_eq!(deleted(&world).await, 2);
        assert_eq!(reload(&world, confirmed.id).await.unwrap().status, JoinStatus::Submitted, "decided by people only");
    }

    /// JOIN-6: more than one transaction's worth.
    #[tokio::test]
    async fn a_flood_is_swept_whole() {
        let world = World::new().await;
        let request = submit(&world, "flood@example.se").await;
        let mut tx = world.tenant().await;
        sqlx::query(
            "insert into join_requests (id, email, email_key, first_name, last_name, form, schema_version, language, token_hash,
                 token_expires_at, window_at, created_at, updated_at)
             select gen_random_uuid(), n || email, n || email_key, first_name, last_name, form, schema_version, language,
                 sha256(n::text::bytea), token_expires_at, window_at, created_at, updated_at
             from join_requests, generate_series(1, 1100) n where id = $1",
        )
        .bind(request.id)
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        world.app.clock.advance(Duration::days(30));
        assert_eq!(deleted(&world).await, 1101);
    }
}
