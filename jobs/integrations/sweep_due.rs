//! Asks for a run of each integration of an organization that is due, and has admins told of those that nothing could be read from for
//! hours. Scheduled every five minutes for each organization. Twice is fine: what was asked for is due again after its interval, a run that
//! is queued is not queued again, and what was told is marked.

use std::time::Duration as StdDuration;

use backroom_queue::{Ctx, Job, JobResult, NewJob, Unique, Verdict, enqueue};
use chrono::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HandleWebhook, SyncIntegration, doors, request_sync};
use crate::{
    context::App,
    domain::{
        Organization,
        integration::{SyncMode, SyncTrigger},
    },
    jobs::{actor, organization},
    store::{integrations, webhook_deliveries},
    tenant,
};

/// Integrations asked for in one transaction.
const PAGE: i64 = 100;
/// A delivery that came while its job was ending has none: so old it is no longer new.
const LEFT_OVER: Duration = Duration::minutes(1);

/// Asks for the runs of an organization's integrations that are due.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepDue {}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Runs asked for.
    pub enqueued: u64,
    /// Those that were queued or under way already.
    pub under_way: u64,
    /// Integrations whose deliveries had been left over.
    pub left_over: u64,
    /// Integrations that have stalled, and that admins are told of now.
    #[serde(default)]
    pub stalled: u64,
}

impl Job for SweepDue {
    type App = App;
    const KIND: &'static str = "integrations.sweep_due";
    const TIMEOUT: StdDuration = StdDuration::from_secs(120);
    // The next one comes in five minutes.
    const MAX_ATTEMPTS: u32 = 3;

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by("sweep"))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let mut swept = Swept::default();
        while ask_for_due(&ctx, &organization, &mut swept).await? == PAGE {}
        handle_left_over(&ctx, &organization, &mut swept).await?;
        tell_stalled(&ctx, &organization, &mut swept).await?;
        Verdict::done_with(swept)
    }
}

/// A page of those that are due; how many there were.
async fn ask_for_due(ctx: &Ctx<App>, organization: &Organization, swept: &mut Swept) -> anyhow::Result<i64> {
    let (now, actor) = (ctx.app.clock.now(), actor(ctx));
    let mut tx = tenant::begin(&ctx.app.db, organization).await?;
    let due = integrations::due(&mut tx, now, ctx.app.config.jobs.full_sync_days, PAGE).await?;
    for due in &due {
        let mode = due.full.then_some(SyncMode::Full);
        let request = SyncIntegration { integration_id: due.id, mode, trigger: SyncTrigger::Schedule };
        let traced = (now, ctx.job.trace.clone());
        let queued = request_sync(&mut tx, &organization.slug, &request, &actor, traced).await?;
        let counted = if queued.duplicate { &mut swept.under_way } else { &mut swept.enqueued };
        *counted += 1;
    }
    tx.commit().await?;
    Ok(due.len() as i64)
}

async fn handle_left_over(ctx: &Ctx<App>, organization: &Organization, swept: &mut Swept) -> anyhow::Result<()> {
    let before = ctx.app.clock.now() - LEFT_OVER;
    let mut tx = tenant::begin(&ctx.app.db, organization).await?;
    for integration_id in webhook_deliveries::left_over(&mut tx, before).await? {
        let job = NewJob::of(&HandleWebhook { integration_id }).tenant(organization.slug.as_str());
        let queued = enqueue(&mut *tx, &job.trace(ctx.job.trace.clone())).await?;
        swept.left_over += u64::from(!queued.duplicate);
    }
    Ok(tx.commit().await?)
}

async fn tell_stalled(ctx: &Ctx<App>, organization: &Organization, swept: &mut Swept) -> anyhow::Result<()> {
    let (now, actor) = (ctx.app.clock.now(), actor(ctx));
    let before = now - Duration::hours(ctx.app.config.jobs.sync_stalled_hours.into());
    let mut tx = tenant::begin(&ctx.app.db, organization).await?;
    for stalled in integrations::stalled(&mut tx, before).await? {
        let traced = (now, ctx.job.trace.clone());
        let told = doors::stalled(&mut tx, &organization.slug, &stalled, &actor, traced).await?;
        swept.stalled += u64::from(told);
    }
    Ok(tx.commit().await?)
}

#[cfg(test)]
mod tests {
    use backroom_queue::testing;
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::{integration::Provider, webhook_delivery::DeliveryEvent},
        jobs::{
            integrations::{
                needs_attention, set_enabled,
                stage::{connect, delivered, reload, result},
            },
            testing::World,
        },
    };

    async fn sweep(world: &World) -> Swept {
        serde_json::from_value(result(world.run(&SweepDue {}).await)).unwrap()
    }

    async fn queued(world: &World) -> Vec<Uuid> {
        let jobs = testing::enqueued::<SyncIntegration>(&world.app.db).await.unwrap();
        let requests = jobs.into_iter().map(|job| serde_json::from_value::<SyncIntegration>(job.args).unwrap());
        requests
            .map(|request| (request.integration_id, request.trigger))
            .map(|(id, trigger)| {
                assert_eq!(trigger, SyncTrigger::Schedule);
                id
            })
            .collect()
    }

    /// SYNC-5
    #[tokio::test]
    async fn what_is_due_is_asked_for_once_and_again_after_its_interval() {
        let world = World::new().await;
        let people = connect(&world, Provider::BambooHr, "People").await;
        connect(&world, Provider::Slack, "Team").await;

        assert_eq!(sweep(&world).await, Swept { enqueued: 1, ..Swept::default() }, "there is nothing to read in Slack");
        assert_eq!(sweep(&world).await, Swept::default());
        assert_eq!(queued(&world).await, [people.id]);
        let next = reload(&world, people.id).await.next_run_at.unwrap();
        assert_eq!(next, world.now() + Duration::minutes(i64::from(people.interval_minutes)));
        world.app.clock.advance(Duration::minutes(i64::from(people.interval_minutes)) - Duration::seconds(1));
        assert_eq!(sweep(&world).await, Swept::default(), "not a second early");
        world.app.clock.advance(Duration::seconds(1));
        assert_eq!(sweep(&world).await, Swept { under_way: 1, ..Swept::default() }, "the first has not run yet");
        assert_eq!(queued(&world).await, [people.id]);
    }

    /// SYNC-5, SYNC-6
    #[tokio::test]
    async fn what_is_off_or_waits_for_a_person_is_left_out() {
        let world = World::new().await;
        let (off, waits) =
            (connect(&world, Provider::BambooHr, "Off").await, connect(&world, Provider::BambooHr, "Waits").await);
        let (slug, now) = (&world.organization.slug, world.now());
        let mut tx = world.tenant().await;
        set_enabled(&mut tx, off.id, false, "test", now).await.unwrap();
        needs_attention(&mut tx, slug, (waits.id, "a reason"), "test", (now, None)).await.unwrap();
        tx.commit().await.unwrap();

        assert_eq!(sweep(&world).await, Swept::default());

        let mut tx = world.tenant().await;
        set_enabled(&mut tx, off.id, true, "test", now).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(sweep(&world).await.enqueued, 1);
        assert_eq!(queued(&world).await, [off.id]);
    }

    /// SYNC-5: pages follow each other.
    #[tokio::test]
    async fn a_sweep_works_through_more_than_a_page() {
        let world = World::new().await;
        let one = connect(&world, Provider::BambooHr, "People").await;
        let sql = "insert into integrations (id, provider, name, config, credentials, interval_minutes, next_run_at, created_at, updated_at)
                   select gen_random_uuid(), provider, name || n, config, credentials, interval_minutes, next_run_at, created_at, updated_at
                   from integrations, generate_series(1, $2) n where id = $1";
        let mut tx = world.tenant().await;
        sqlx::query(sql).bind(one.id).bind(i32::try_from(PAGE).unwrap()).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();

        assert_eq!(sweep(&world).await.enqueued, PAGE.cast_unsigned() + 1);
    }

    /// SYNC-12: a delivery that came while its job was ending is not forgotten.
    #[tokio::test]
    async fn a_delivery_without_a_job_gets_one() {
        let world = World::new().await;
        let id = connect(&world, Provider::BambooHr, "People").await.id;
        delivered(&world, id, &["a"], DeliveryEvent::Changed).await;

        assert_eq!(sweep(&world).await.left_over, 0, "it is new");
        world.app.clock.advance(LEFT_OVER + Duration::seconds(1));
        assert_eq!(sweep(&world).await.left_over, 1);
        assert_eq!(sweep(&world).await.left_over, 0, "it has one");

        let jobs = testing::enqueued::<HandleWebhook>(&world.app.db).await.unwrap();
        assert_eq!(jobs.len(), 1);
    }

    #[test]
    fn the_wire_format_is_stable() {
        insta::assert_json_snapshot!(SweepDue {}, @"{}");
    }
}
