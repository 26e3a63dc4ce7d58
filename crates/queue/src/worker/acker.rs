//! Collects outcomes and records them in batches: whatever came in while the last batch was written is the next one.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Shared,
    patience::within,
    record::{self, Ended},
};

const MAX_BATCH: usize = 1000;
/// Outcomes that may wait for the batch before theirs. A full channel holds its jobs' places in their queues, so that no
/// worker claims faster than the database can record.
pub(crate) const BACKLOG: usize = 2 * MAX_BATCH;

/// Runs until every sender is gone and everything is recorded, or until `give_up`: what is unrecorded then comes back
/// when its lease has run out.
pub(crate) async fn run<A>(shared: Arc<Shared<A>>, mut ended: mpsc::Receiver<Ended>, give_up: CancellationToken) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while ended.recv_many(&mut batch, MAX_BATCH).await > 0 {
        // One order for everybody who locks many jobs.
        batch.sort_unstable_by_key(|ended| ended.id);
        let Some(recorded) = record_all(&shared, &batch, &give_up).await else { return };
        for lost in batch.iter().filter(|ended| !recorded.contains(&ended.id)) {
            metrics::counter!("queue_outcomes_refused_total").increment(1);
            tracing::warn!(job.id = %lost.id, outcome = lost.outcome.as_str(),
                "an outcome was refused: the job's lease is no longer ours");
        }
        shared.in_hand.drop_all(batch.drain(..).map(|ended| (ended.id, ended.lease)));
        shared.recorded.notify_waiters();
    }
}

/// Records the batch, however long the database is away. `None`: told to give up.
async fn record_all<A>(shared: &Shared<A>, batch: &[Ended], give_up: &CancellationToken) -> Option<HashSet<Uuid>> {
    let mut pause = Duration::ZERO;
    loop {
        let error = match record(shared, batch).await {
            Ok(recorded) => return Some(recorded.into_iter().collect()),
            Err(error) => error,
        };
        if !passes(&error) {
            return Some(one_by_one(shared, batch).await);
        }
        pause = super::next_pause(pause);
        tracing::warn!(%error, outcomes = batch.len(), retry_in_ms = pause.as_millis(), "could not record outcomes");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = give_up.cancelled() => return None,
        }
    }
}

async fn record<A>(shared: &Shared<A>, batch: &[Ended]) -> sqlx::Result<Vec<Uuid>> {
    within(shared.patience(), record::outcomes(&shared.pool, &shared.config.name, batch)).await
}

/// The database refuses something in the batch: finds the culprit, so that its neighbours are not lost with it. Its job
/// comes back when the lease has run out.
async fn one_by_one<A>(shared: &Shared<A>, batch: &[Ended]) -> HashSet<Uuid> {
    let mut recorded = HashSet::new();
    for ended in batch {
        match record(shared, std::slice::from_ref(ended)).await {
            Ok(ids) => recorded.extend(ids),
            Err(error) => tracing::error!(job.id = %ended.id, outcome = ended.outcome.as_str(), %error,
                "the database refuses to store this outcome"),
        }
    }
    recorded
}

/// Whether waiting may cure the error: anything but the server's refusal of what it was given (SQLSTATE classes 22, data,
/// and 23, constraints).
fn passes(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    !code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}
