//! Where what was read goes: people and things to [`crate::jobs::people`], bills to [`crate::jobs::billing`].

use backroom_queue::TraceParent;
use futures::future::BoxFuture;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{doors, gone_assets, topic};
use crate::{
    domain::{
        Clock, Organization,
        integration::{SyncCounts, SyncMode},
    },
    jobs::{billing, people::doors as people},
    store::{
        Sealer, StoreError,
        events::{self, NewEvent},
        from_source::{Outcome, Source, Taken},
    },
    sync::{Batch, Receiver},
};

/// Keeps what an integration's run reads.
pub struct Keeper<'a> {
    pub organization: &'a Organization,
    pub sealer: Sealer<'a>,
    pub integration_id: Uuid,
    pub actor: &'a str,
    pub clock: &'a Clock,
    pub trace: Option<TraceParent>,
}

impl Keeper<'_> {
    fn taking(&self, first_run: bool) -> people::Taking<'_> {
        people::Taking {
            organization: self.organization,
            source: Source { integration_id: self.integration_id },
            actor: self.actor,
            now: self.clock.now(),
            first_run,
            trace: self.trace.clone(),
        }
    }
}

impl Receiver for Keeper<'_> {
    fn take<'a>(
        &'a self,
        db: &'a mut PgConnection,
        batch: &'a Batch,
        first_run: bool,
    ) -> BoxFuture<'a, Result<Vec<Taken>, StoreError>> {
        Box::pin(async move {
            let (taking, sealer) = (self.taking(first_run), self.sealer);
            match batch {
                Batch::Employees(records) => people::take_employees(db, sealer, &taking, records).await,
                Batch::EmployeesGone(ids) => people::employees_gone(db, sealer, &taking, ids).await,
                Batch::Assets(records) => people::take_assets(db, sealer, &taking, records).await,
                Batch::AssetsGone(ids) => gone_assets::gone(db, sealer, &taking, ids).await,
                Batch::AssetsLeft(documents) => gone_assets::surplus(db, sealer, &taking, documents).await,
                Batch::Invoices(records) => billing::take_invoices(db, sealer, &taking, records).await,
                Batch::InvoicesGone(ids) => Ok(refused(ids.iter())),
            }
        })
    }

    fn end_of_stream<'a>(&'a self, db: &'a mut PgConnection) -> BoxFuture<'a, Result<(), StoreError>> {
        let source = Source { integration_id: self.integration_id };
        Box::pin(async move { people::resolve_managers(db, source).await.map(|_| ()) })
    }

    /// Told only if there is something to tell: a run without changes is the rule.
    fn completed<'a>(
        &'a self,
        db: &'a mut PgConnection,
        mode: SyncMode,
        counts: SyncCounts,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let now = self.clock.now();
            doors::succeeded(db, self.integration_id, self.actor, now).await?;
            if let Some(held) = people::start_offboardings(db, &self.taking(false), mode).await? {
                let (what, slug) = ((self.integration_id, held.as_str()), &self.organization.slug);
                doors::needs_attention(db, slug, what, self.actor, (now, self.trace.clone())).await?;
            }
            if counts.created + counts.updated + counts.failed > 0 {
                let payload = json!({ "integration_id": self.integration_id, "counts": counts });
                let (topic, kind) = (topic(self.integration_id), "integration.synchronized");
                events::append(db, &NewEvent { topic, kind, payload, actor: self.actor }, now).await?;
            }
            Ok(())
        })
    }
}

fn refused<'a>(ids: impl Iterator<Item = &'a String>) -> Vec<Taken> {
    let outcome = || {
        Outcome::Refused("the source has the invoice no longer; if it is still open here, cancel it here".to_owned())
    };
    ids.map(|id| Taken { external_id: id.clone(), outcome: outcome() }).collect()
}
