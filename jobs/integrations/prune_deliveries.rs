//! Forgets an organization's deliveries of third parties a month after they came. Scheduled daily for each organization. Twice is fine:
//! what is gone is gone. One that comes again after that asks for a run in which nothing has changed.

use backroom_queue::{Ctx, Job, JobResult, Unique, Verdict};
use chrono::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{context::App, jobs::organization, store::webhook_deliveries, tenant};

/// How long a delivery can be looked at, and is told from one that comes again.
const KEPT: Duration = Duration::days(30);
/// Forgotten in one transaction.
const PAGE: i64 = 1_000;

/// Forgets deliveries of third parties after a month.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneDeliveries {}

impl Job for PruneDeliveries {
    type App = App;
    const KIND: &'static str = "integrations.prune_deliveries";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by("prune"))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let before = ctx.app.clock.now() - KEPT;
        let mut pruned = 0;
        loop {
            let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
            let gone = webhook_deliveries::prune(&mut tx, before, PAGE).await?;
            tx.commit().await?;
            pruned += gone;
            if gone < PAGE.cast_unsigned() {
                return Verdict::done_with(json!({ "pruned": pruned }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{integration::Provider, webhook_delivery::DeliveryEvent},
        jobs::{
            integrations::stage::{connect, delivered, deliveries, result},
            testing::World,
        },
    };

    /// SYNC-12
    #[tokio::test]
    async fn deliveries_are_forgotten_after_a_month_and_once() {
        let world = World::new().await;
        let id = connect(&world, Provider::BambooHr, "People").await.id;
        delivered(&world, id, &["old"], DeliveryEvent::Changed).await;
        world.app.clock.advance(KEPT);
        delivered(&world, id, &["new"], DeliveryEvent::Changed).await;
        let prune = async || result(world.run(&PruneDeliveries {}).await)["pruned"].clone();

        assert_eq!(prune().await, 0, "not a second early");
        world.app.clock.advance(Duration::seconds(1));
        assert_eq!(prune().await, 1);
        assert_eq!(prune().await, 0);

        assert_eq!(deliveries(&world, id).await[0].external_id, "new");
    }

    #[test]
    fn the_wire_format_is_stable() {
        insta::assert_json_snapshot!(PruneDeliveries {}, @"{}");
    }
}
