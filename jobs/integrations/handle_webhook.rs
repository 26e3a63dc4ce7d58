//! Does what deliveries of a third party ask for: one incremental run for all that have come, or the end of our access told to people.
//! Enqueued with the deliveries, a few seconds later, so that a burst is one job. Twice is fine: what is handled is not pending, a
//! run that is queued already is not queued again, and whose access has ended is told once.
//!
//! That our access has ended is a reason to ask, not an answer: Slack sends what happens in all workspaces of an app to one address, which
//! is one integration's. So those that share the app are asked, and who is let in has nothing to fear from another's delivery.

use std::time::Duration;

use backroom_queue::{Ctx, Enqueued, Job, JobResult, JobState, Unique, Verdict};
use chrono::TimeDelta;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{SyncIntegration, doors::connect, needs_attention, request_sync};
use crate::{
    clients::connector::{ConnectorError, Credentials},
    context::App,
    domain::{
        Organization,
        integration::{Integration, IntegrationStatus, Provider, SyncMode, SyncState, SyncTrigger},
        webhook_delivery::DeliveryEvent,
    },
    jobs::{actor, organization},
    store::{
        Page, Sealer, StoreError,
        integrations::{self, IntegrationFilter},
        sync_runs,
        webhook_deliveries::{self, Pending},
    },
    sync::{self, Site},
    tenant::{self, TenantTx},
};

/// Deliveries handled in one transaction.
const AT_ONCE: i64 = 1_000;
/// How long until a run under way is looked at again: what has changed may be where it has read already.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Within so long after it was told the end of our access takes effect.
const TAKES_EFFECT: TimeDelta = TimeDelta::minutes(1);
/// Integrations of one kind that may share an app.
const MOST_SHARING: i64 = 200;

/// Does what deliveries of a third party ask for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HandleWebhook {
    pub integration_id: Uuid,
}

impl Job for HandleWebhook {
    type App = App;
    const KIND: &'static str = "integrations.handle_webhook";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by(self.integration_id))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let now = ctx.app.clock.now();
        let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
        let pending = webhook_deliveries::pending(&mut tx, self.integration_id, AT_ONCE).await?;
        // With the integration go its deliveries.
        let integration = integrations::by_id(&mut tx, self.integration_id).await?;
        let Some(integration) = integration.filter(|_| !pending.is_empty()) else {
            return Ok(Verdict::Cancel("no delivery is pending".to_owned()));
        };
        let revoked = pending.iter().filter(|delivery| delivery.happened == DeliveryEvent::Revoked);
        let revoked_at = revoked.map(|delivery| delivery.received_at).max();
        let outcome = if let Some(at) = revoked_at {
            let sharing = self.sharing(&mut tx, &ctx, &organization, integration.provider).await?;
            tx.commit().await?;
            let ended = match self.ended(&ctx, &organization, &sharing).await? {
                Ok(ended) => ended,
                Err(wait) => return Ok(Verdict::Snooze(wait)),
            };
            let mut is_known = sharing.iter().map(|(of, _)| of.status == IntegrationStatus::NeedsAttention);
            let (known, all_known) = (is_known.clone().any(|known| known), is_known.all(|known| known));
            if ended.is_empty() && !all_known && now - at < TAKES_EFFECT {
                return Ok(Verdict::Snooze(LOOK_AGAIN));
            }
            tx = tenant::begin(&ctx.app.db, &organization).await?;
            self.stop(&mut tx, &ctx, &organization, (&ended, known)).await?
        } else {
            let under_way = self.is_under_way(&mut tx).await?;
            match self.ask_for_run(&mut tx, &ctx, &organization).await? {
                Asked::Queued(job) if under_way || (job.duplicate && job.state == JobState::Running) => {
                    tx.commit().await?;
                    return Ok(Verdict::Snooze(LOOK_AGAIN));
                }
                Asked::Queued(job) => format!("read by job {}", job.id),
                Asked::NotNow(why) => format!("not read now: {why}"),
            }
        };
        let ids: Vec<Uuid> = pending.iter().map(|Pending { id, .. }| *id).collect();
        let handled = webhook_deliveries::settle(&mut tx, &ids, &outcome, now).await?;
        tx.commit().await?;
        if pending.len() as i64 == AT_ONCE {
            return Ok(Verdict::Snooze(Duration::from_secs(1)));
        }
        Verdict::done_with(json!({ "handled": handled, "outcome": outcome }))
    }
}

/// What came of the wish for a run.
enum Asked {
    /// Or it was already.
    Queued(Enqueued),
    NotNow(String),
}

impl HandleWebhook {
    /// The integrations that the delivery may be about, with their credentials: this one, and those whose deliveries are signed with
    /// the same secret.
    async fn sharing(
        &self,
        tx: &mut TenantTx,
        ctx: &Ctx<App>,
        organization: &Organization,
        provider: Provider,
    ) -> Result<Vec<(Integration, SecretString)>, StoreError> {
        let sealer = Sealer::new(&ctx.app.vault, organization.slug.as_str());
        let filter = IntegrationFilter { provider: Some(provider), ..IntegrationFilter::default() };
        let (mut all, mut own) = (Vec::new(), None);
        for integration in integrations::page(tx, &filter, Page::first(MOST_SHARING)).await? {
            let Some(credentials) = integrations::credentials(tx, sealer, integration.id).await? else { continue };
            let secret = Credentials::parse(credentials.clone()).ok().and_then(|all| all.get("signing_secret"));
            let secret = secret.map(|secret| secret.expose_secret().to_owned());
            if integration.id == self.integration_id {
                own.clone_from(&secret);
            }
            all.push((integration, credentials, secret));
        }
        let is_of =
            |id: Uuid, secret: &Option<String>| id == self.integration_id || (secret.is_some() && *secret == own);
        Ok(all
            .into_iter()
            .filter(|(integration, _, secret)| is_of(integration.id, secret))
            .map(|(integration, credentials, _)| (integration, credentials))
            .collect())
    }

    /// Which of these the third party does not let in any more, asked of itself; or how long it is not to be asked.
    async fn ended<'a>(
        &self,
        ctx: &Ctx<App>,
        organization: &Organization,
        sharing: &'a [(Integration, SecretString)],
    ) -> anyhow::Result<Result<Vec<&'a Integration>, Duration>> {
        let app = &ctx.app;
        let sealer = Sealer::new(&app.vault, organization.slug.as_str());
        let site = Site { db: &app.db, organization, sealer, http: &app.http, clock: &app.clock };
        let mut ended = Vec::new();
        for (integration, credentials) in sharing {
            if integration.status == IntegrationStatus::NeedsAttention {
                continue;
            }
            let Ok(connector) = connect(app, integration.provider, &integration.config, credentials) else { continue };
            match sync::test(&site, integration.id, &*connector).await? {
                Err(ConnectorError::Credentials(_) | ConnectorError::Unauthorized(_)) => ended.push(integration),
                Err(ConnectorError::RateLimited(_, wait)) => return Ok(Err(wait.unwrap_or(LOOK_AGAIN))),
                Err(error @ ConnectorError::Transient(_)) => return Err(error.into()),
                // It lets us in, or says something that has nothing to do with it.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(Ok(ended))
    }

    /// Our access to these has ended: a person is needed. `known`: one was needed before.
    async fn stop(
        &self,
        tx: &mut TenantTx,
        ctx: &Ctx<App>,
        organization: &Organization,
        (ended, known): (&[&Integration], bool),
    ) -> Result<String, StoreError> {
        let (actor, mut names) = (actor(ctx), Vec::new());
        for integration in ended {
            let now = integrations::by_id(tx, integration.id).await?;
            // Somebody may have connected it anew since it was asked.
            if now.is_none_or(|now| now.updated_at != integration.updated_at) {
                continue;
            }
            let reason =
                format!("{} says that our access was withdrawn; connect it anew", integration.provider.title());
            let traced = (ctx.app.clock.now(), ctx.job.trace.clone());
            if needs_attention(tx, &organization.slug, (integration.id, &reason), &actor, traced).await? {
                names.push(integration.name.as_str());
            }
        }
        if !names.is_empty() {
            return Ok(format!("our access was withdrawn; admins are told of {}", names.join(", ")));
        }
        if known || !ended.is_empty() {
            return Ok("our access was withdrawn; admins were told before".to_owned());
        }
        let (tenant, integration) = (organization.slug.as_str(), self.integration_id);
        tracing::warn!(tenant, %integration, "a delivery says that our access has ended, which it has to nothing connected here");
        Ok("does not concern us: we are let in wherever we are connected".to_owned())
    }

    /// One run for all deliveries, unless one is queued. Where nothing may run, a later run reads what has changed.
    async fn ask_for_run(
        &self,
        tx: &mut TenantTx,
        ctx: &Ctx<App>,
        organization: &Organization,
    ) -> Result<Asked, StoreError> {
        let request = SyncIntegration {
            integration_id: self.integration_id,
            mode: Some(SyncMode::Incremental),
            trigger: SyncTrigger::Webhook,
        };
        let traced = (ctx.app.clock.now(), ctx.job.trace.clone());
        match request_sync(tx, &organization.slug, &request, &actor(ctx), traced).await {
            Ok(queued) => Ok(Asked::Queued(queued)),
            Err(StoreError::Conflict { field, message }) => Ok(Asked::NotNow(format!("`{field}` {message}"))),
            Err(error) => Err(error),
        }
    }

    async fn is_under_way(&self, tx: &mut TenantTx) -> Result<bool, StoreError> {
        let last = Page { newest_first: true, ..Page::first(1) };
        let last = sync_runs::page(tx, Some(self.integration_id), last).await?;
        Ok(last.first().is_some_and(|run| run.state == SyncState::Running))
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, testing};

    use super::*;
    use crate::{
        demo::vendors::{Mood, slack::Slack},
        domain::{integration::NewIntegration, webhook_delivery::DeliveryState},
        jobs::{
            integrations::{
                TellAttention, create_integration, set_enabled,
                stage::{connect, delivered, deliveries, reload, told},
            },
            testing::World,
        },
    };

    async fn world() -> World {
        World::with(&[("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1")]).await
    }

    /// Connects a workspace.
    async fn workspace(world: &World, slack: &Slack, name: &str) -> Uuid {
        let (name, config) = (name.to_owned(), slack.config());
        let new = NewIntegration { provider: Provider::Slack, name, config, interval_minutes: 60, enabled: true };
        let credentials = SecretString::from(slack.credentials().to_string());
        let sealer = Sealer::new(&world.app.vault, "acme");
        let mut tx = world.tenant().await;
        let made = create_integration(&mut tx, sealer, (&new, &credentials), "test", world.now()).await.unwrap();
        tx.commit().await.unwrap();
        made.id
    }

    async fn status(world: &World, id: Uuid) -> IntegrationStatus {
        reload(world, id).await.status
    }

    async fn syncs(world: &World) -> Vec<SyncIntegration> {
        let queued = testing::enqueued::<SyncIntegration>(&world.app.db).await.unwrap();
        queued.into_iter().map(|job| serde_json::from_value(job.args).unwrap()).collect()
    }

    /// A run as an attempt that has begun it leaves it behind.
    async fn begin_run(world: &World, integration_id: Uuid) {
        let sql = "insert into sync_runs (id, integration_id, mode, trigger, job_id, holder, held_until, started_at)
                   values (gen_random_uuid(), $1, 'full', 'schedule', gen_random_uuid(), gen_random_uuid(), now(), $2)";
        let mut tx = world.tenant().await;
        sqlx::query(sql).bind(integration_id).bind(world.now()).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn end_run(world: &World) {
        let mut tx = world.tenant().await;
        let sql = "update sync_runs set state = 'completed', ended_at = started_at";
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// SYNC-12
    #[tokio::test]
    async fn many_deliveries_are_one_run_and_the_same_job_twice_is_no_second_one() {
        let world = World::new().await;
        let id = connect(&world, Provider::BambooHr, "People").await.id;
        delivered(&world, id, &["a", "b", "c"], DeliveryEvent::Changed).await;
        delivered(&world, id, &["n"], DeliveryEvent::Other).await;
        let job = world.job(&HandleWebhook { integration_id: id });
        let tables = ["org_acme.webhook_deliveries", "org_acme.integrations", "org_acme.events"];

        let [once, twice] =
            testing::run_twice(&world.app.db, &world.registry, world.app.clone(), job, &tables).await.unwrap();

        let Outcome::Completed { result: Some(result) } = once.0 else { panic!("{:?}", once.0) };
        assert_eq!(result["handled"], 3);
        assert!(matches!(twice.0, Outcome::Cancelled { .. }), "{:?}", twice.0);
        assert_eq!(once.1, twice.1);
        let syncs = syncs(&world).await;
        assert_eq!(syncs.len(), 1);
        assert_eq!(
            (syncs[0].integration_id, syncs[0].mode, syncs[0].trigger),
            (id, Some(SyncMode::Incremental), SyncTrigger::Webhook)
        );
        assert!(deliveries(&world, id).await.iter().all(|delivery| delivery.state == DeliveryState::Handled));
    }

    /// SYNC-12: what a run has read already may be what has changed.
    #[tokio::test]
    async fn a_delivery_during_a_run_is_read_by_the_run_after_it() {
        let world = World::new().await;
        let id = connect(&world, Provider::BambooHr, "People").await.id;
        begin_run(&world, id).await;
        delivered(&world, id, &["a"], DeliveryEvent::Changed).await;

        let outcome = world.run(&HandleWebhook { integration_id: id }).await;
        assert_eq!(outcome, Outcome::Snoozed { wait: LOOK_AGAIN });
        assert_eq!(deliveries(&world, id).await[0].state, DeliveryState::Pending);

        end_run(&world).await;
        testing::fast_forward(&world.app.db).await.unwrap();
        let ran = testing::drain(&world.app.db, &world.registry, world.app.clone(), "default").await.unwrap();
        assert!(matches!(ran[..], [(_, Outcome::Completed { .. })]), "{ran:?}");
        let handled = deliveries(&world, id).await.remove(0);
        let queued = testing::enqueued::<SyncIntegration>(&world.app.db).await.unwrap();
        assert_eq!((queued.len(), queued[0].state), (1, JobState::Available));
        assert_eq!(handled.outcome, Some(format!("read by job {}", queued[0].id)));
    }

    /// SYNC-12: a sync that works has read its configuration, and may have begun or ended its run a moment ago.
    #[tokio::test]
    async fn a_sync_that_works_without_a_run_is_under_way() {
        let world = World::new().await;
        let id = connect(&world, Provider::BambooHr, "People").await.id;
        delivered(&world, id, &["a"], DeliveryEvent::Changed).await;
        let sync = SyncIntegration { integration_id: id, mode: None, trigger: SyncTrigger::Schedule };
        backroom_queue::enqueue(&world.app.db, &world.job(&sync)).await.unwrap();
        let sql = "update queue.jobs set state = 'running', lease = gen_random_uuid(), lease_until = now() + interval '1 hour'
                   where kind = $1";
        sqlx::query(sql).bind(SyncIntegration::KIND).execute(&world.app.db).await.unwrap();

        let outcome = world.run(&HandleWebhook { integration_id: id }).await;

        assert_eq!(outcome, Outcome::Snoozed { wait: LOOK_AGAIN });
        assert_eq!(deliveries(&world, id).await[0].state, DeliveryState::Pending);
    }

    /// SYNC-5, SYNC-12: a later run reads what has changed, also if one was left behind.
    #[tokio::test]
    async fn a_delivery_for_an_integration_that_is_off_asks_for_nothing() {
        let world = World::new().await;
        let id = connect(&world, Provider::BambooHr, "People").await.id;
        let mut tx = world.tenant().await;
        set_enabled(&mut tx, id, false, "test", world.now()).await.unwrap();
        tx.commit().await.unwrap();
        begin_run(&world, id).await;
        delivered(&world, id, &["a"], DeliveryEvent::Changed).await;

        let outcome = world.run(&HandleWebhook { integration_id: id }).await;

        assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
        assert!(syncs(&world).await.is_empty());
        let said = deliveries(&world, id).await.remove(0).outcome.unwrap();
        assert!(said.contains("enable the integration"), "{said}");
    }

    /// SYNC-6, SYNC-12
    #[tokio::test]
    async fn access_that_was_withdrawn_stops_the_integration_and_tells_people_once() {
        let (world, slack) = (world().await, Slack::start().await.unwrap());
        let id = workspace(&world, &slack, "Team").await;
        slack.revoke(Some("account_inactive"));
        delivered(&world, id, &["gone", "gone too"], DeliveryEvent::Revoked).await;
        world.run(&HandleWebhook { integration_id: id }).await;
        delivered(&world, id, &["still gone"], DeliveryEvent::Revoked).await;
        world.run(&HandleWebhook { integration_id: id }).await;

        let integration = reload(&world, id).await;
        assert_eq!(integration.status, IntegrationStatus::NeedsAttention);
        assert!(integration.last_error.unwrap().contains("Slack says that our access was withdrawn"));
        let mails = testing::enqueued::<TellAttention>(&world.app.db).await.unwrap();
        assert_eq!(mails.len(), 1);
        let attention = told(&world, id).await;
        assert_eq!(attention.iter().filter(|kind| *kind == "integration.needs_attention").count(), 1, "{attention:?}");
        let outcomes: Vec<_> = deliveries(&world, id).await.into_iter().filter_map(|d| d.outcome).collect();
        assert_eq!(outcomes.len(), 3);
        assert!(outcomes[2].contains("told before"), "{outcomes:?}");
    }

    /// SYNC-6, SYNC-12: one app in two workspaces has one address, and the deliveries of both come there.
    #[tokio::test]
    async fn a_delivery_of_another_workspace_stops_that_one_and_not_the_one_it_came_to() {
        let (world, [home, other]) = (world().await, [Slack::start().await.unwrap(), Slack::start().await.unwrap()]);
        let [at, sibling] = [workspace(&world, &home, "Home").await, workspace(&world, &other, "Other").await];
        let job = HandleWebhook { integration_id: at };
        other.revoke(Some("token_revoked"));
        delivered(&world, at, &["a"], DeliveryEvent::Revoked).await;

        world.run(&job).await;

        let stand = (status(&world, at).await, status(&world, sibling).await);
        assert_eq!(stand, (IntegrationStatus::New, IntegrationStatus::NeedsAttention));
        let said = deliveries(&world, at).await.remove(0).outcome.unwrap();
        assert!(said.contains("told of Other"), "{said}");
    }

    /// SYNC-12: of a workspace that is not connected here; or the end has not taken effect yet, and is looked for again.
    #[tokio::test]
    async fn a_delivery_that_is_about_nobody_here_stops_nobody() {
        let (world, slack) = (world().await, Slack::start().await.unwrap());
        let id = workspace(&world, &slack, "Team").await;
        delivered(&world, id, &["a"], DeliveryEvent::Revoked).await;
        let later = async || {
            testing::fast_forward(&world.app.db).await.unwrap();
            testing::drain(&world.app.db, &world.registry, world.app.clone(), "default").await.unwrap()
        };
        assert_eq!(world.run(&HandleWebhook { integration_id: id }).await, Outcome::Snoozed { wait: LOOK_AGAIN });
        world.app.clock.advance(TAKES_EFFECT);
        slack.fake.script.next("auth.test", Mood::busy(429, Some(Duration::from_secs(7)), ""));
        let ran = later().await;
        assert!(matches!(ran[..], [(_, Outcome::Snoozed { wait })] if wait.as_secs() == 7), "{ran:?}");

        later().await;

        assert_eq!(status(&world, id).await, IntegrationStatus::New);
        let delivery = deliveries(&world, id).await.remove(0);
        assert_eq!(delivery.state, DeliveryState::Handled);
        assert!(delivery.outcome.unwrap().contains("does not concern us"));
        assert_eq!(testing::enqueued::<TellAttention>(&world.app.db).await.unwrap().len(), 0);
    }

    #[tokio::test]
    async fn with_an_integration_go_its_deliveries() {
        let world = World::new().await;
        let id = connect(&world, Provider::BambooHr, "People").await.id;
        delivered(&world, id, &["a"], DeliveryEvent::Changed).await;
        let mut tx = world.tenant().await;
        integrations::delete(&mut tx, id).await.unwrap();
        tx.commit().await.unwrap();

        let outcome = world.run(&HandleWebhook { integration_id: id }).await;

        assert!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome:?}");
        assert!(deliveries(&world, id).await.is_empty());
    }

    #[test]
    fn the_wire_format_is_stable() {
        insta::assert_json_snapshot!(HandleWebhook { integration_id: Uuid::nil() }, @r#"
        {
          "integration_id": "00000000-0000-0000-0000-000000000000"
        }
        "#);
    }
}
