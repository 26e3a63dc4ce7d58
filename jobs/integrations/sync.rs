//! Reads what an integration's vendor has, page by page ([`crate::sync`]). Enqueued by the sweep every five minutes when it is due, by a
//! webhook, or by a person. Twice is fine: a run goes on where the last attempt stopped, and what says what it said before is not
//! written.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Unique, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    QUEUE,
    doors::{self, needs_attention},
    take::Keeper,
    topic,
};
use crate::{
    clients::{self, connector::Connector},
    context::App,
    domain::{
        Organization,
        integration::{Integration, IntegrationStatus, SyncMode, SyncState, SyncTrigger},
    },
    jobs::{actor, organization},
    store::{
        Sealer,
        events::{self, NewEvent},
        integrations,
        sync_runs::{self, Holder},
    },
    sync::{self, End, Site, Source},
    tenant,
};

/// Synchronizes an integration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncIntegration {
    pub integration_id: Uuid,
    /// Without one it reads what has changed, or everything if nothing was read before.
    #[serde(default)]
    pub mode: Option<SyncMode>,
    pub trigger: SyncTrigger,
}

impl Job for SyncIntegration {
    type App = App;
    const KIND: &'static str = "integrations.sync";
    const QUEUE: &'static str = QUEUE;
    /// On the last one the run looks whether it has got further, and goes on if so.
    const MAX_ATTEMPTS: u32 = 8;
    /// A run gives way to others after half of it.
    const TIMEOUT: Duration = Duration::from_secs(3600);

    fn backoff() -> Backoff {
        sync::BACKOFF
    }

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by(self.integration_id))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        match self.open(&ctx, &organization).await? {
            Opened::Source { connector, config, calls_per_minute } => {
                self.read(&ctx, &organization, (&*connector, &config), calls_per_minute).await
            }
            Opened::Needless(reason) => self.needless(&ctx, &organization, reason).await,
            Opened::Broken(reason) => self.attention(&ctx, &organization, None, reason).await,
        }
    }

    /// Its attempts are used up, or the vendor answers what no attempt can change.
    async fn discarded(self, ctx: Ctx<App>, reason: String) -> anyhow::Result<()> {
        let organization = organization(&ctx).await?;
        let (now, actor) = (ctx.app.clock.now(), actor(&ctx));
        let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
        let run = sync_runs::fail_of_job(&mut tx, ctx.job.id, &reason, now).await?;
        integrations::failed(&mut tx, self.integration_id, &reason, now).await?;
        let payload = json!({
            "integration_id": self.integration_id, "run_id": run.as_ref().map(|run| run.id), "reason": reason,
            "counts": run.map(|run| run.counts),
        });
        let event =
            NewEvent { topic: topic(self.integration_id), kind: "integration.sync_failed", payload, actor: &actor };
        events::append(&mut tx, &event, now).await?;
        Ok(tx.commit().await?)
    }
}

/// What a sync finds before it begins.
enum Opened {
    Source {
        connector: Box<dyn Connector>,
        config: Value,
        calls_per_minute: u32,
    },
    /// There is nothing to do, and why.
    Needless(String),
    /// Only a person can mend it.
    Broken(String),
}

impl SyncIntegration {
    async fn open(&self, ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<Opened> {
        let sealer = Sealer::new(&ctx.app.vault, organization.slug.as_str());
        let mut tx = tenant::begin(&ctx.app.db, organization).await?;
        let integration = integrations::by_id(&mut tx, self.integration_id).await?;
        let credentials = integrations::credentials(&mut tx, sealer, self.integration_id).await?;
        tx.commit().await?;
        let (Some(integration), Some(credentials)) = (integration, credentials) else {
            return Ok(Opened::Needless("the integration does not exist".to_owned()));
        };
        if let Some(reason) = needless(&integration) {
            return Ok(Opened::Needless(reason));
        }
        let made = doors::connect(&ctx.app, integration.provider, &integration.config, &credentials);
        let connector = match made {
            Ok(connector) => connector,
            Err(errors) => return Ok(Opened::Broken(format!("the integration is not in order: {errors}"))),
        };
        if connector.streams().is_empty() {
            let reason = format!("there is nothing to be read from {}", integration.provider.title());
            return Ok(Opened::Needless(reason));
        }
        let calls_per_minute = clients::vendor(integration.provider).map_or(60, |vendor| vendor.calls_per_minute);
        Ok(Opened::Source { connector, config: integration.config, calls_per_minute })
    }

    /// From the first page that is left to the last.
    pub(super) async fn read(
        &self,
        ctx: &Ctx<App>,
        organization: &Organization,
        (connector, config): (&dyn Connector, &Value),
        calls_per_minute: u32,
    ) -> JobResult {
        let (app, actor) = (&ctx.app, actor(ctx));
        let sealer = Sealer::new(&app.vault, organization.slug.as_str());
        let site = Site { db: &app.db, organization, sealer, http: &app.http, clock: &app.clock };
        let keeper = Keeper {
            organization,
            sealer,
            integration_id: self.integration_id,
            actor: &actor,
            clock: &app.clock,
            trace: ctx.job.trace.clone(),
        };
        let (integration_id, mode, trigger) = (self.integration_id, self.mode, self.trigger);
        let source = Source { integration_id, config, connector, calls_per_minute, mode, trigger };
        match sync::run(ctx, &site, &source, &keeper).await? {
            End::Completed(report) => {
                tracing::info!(?report, "synchronized");
                Verdict::done_with(report)
            }
            End::Later(wait) => Ok(Verdict::Snooze(wait)),
            // As an error, because it was asked to stop: the job ends `cancelled`.
            End::Stopped(report) => Err(anyhow::anyhow!("asked to stop after {} records", report.counts.read)),
            End::Attention { run_id, holder, reason } => {
                self.attention(ctx, organization, Some((run_id, holder)), reason).await
            }
            End::Failed(reason) => Ok(Verdict::Discard(reason)),
        }
    }

    /// There is nothing to do, nor for the run that an attempt before has begun.
    pub(super) async fn needless(&self, ctx: &Ctx<App>, organization: &Organization, reason: String) -> JobResult {
        let mut tx = tenant::begin(&ctx.app.db, organization).await?;
        let place = (self.integration_id, ctx.job.id);
        sync_runs::abandon(&mut tx, place, &reason, ctx.app.clock.now()).await?;
        tx.commit().await?;
        Ok(Verdict::Cancel(reason))
    }

    /// SYNC-6, SYNC-13: ends the run and leaves the rest to a person.
    async fn attention(
        &self,
        ctx: &Ctx<App>,
        organization: &Organization,
        run: Option<(Uuid, Holder)>,
        reason: String,
    ) -> JobResult {
        let (now, actor) = (ctx.app.clock.now(), actor(ctx));
        let mut tx = tenant::begin(&ctx.app.db, organization).await?;
        match run {
            Some((run_id, holder)) => {
                sync_runs::finish(&mut tx, run_id, holder, (SyncState::Failed, Some(&reason)), now).await?;
            }
            None => sync_runs::abandon(&mut tx, (self.integration_id, ctx.job.id), &reason, now).await?,
        }
        let what = (self.integration_id, reason.as_str());
        needs_attention(&mut tx, &organization.slug, what, &actor, (now, ctx.job.trace.clone())).await?;
        tx.commit().await?;
        Ok(Verdict::Cancel(format!("the integration needs attention: {reason}")))
    }
}

/// Why nothing is read from it, if so.
pub(super) fn needless(integration: &Integration) -> Option<String> {
    if !integration.enabled {
        return Some("the integration is off".to_owned());
    }
    (integration.status == IntegrationStatus::NeedsAttention).then(|| {
        let why = integration.last_error.as_deref().unwrap_or_default();
        format!("the integration needs attention: {why}")
    })
}

#[cfg(test)]
mod tests;
