//! Collects outcomes and records them in batches: whatever came in while the last batch was written is the next one.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Shared, record, record::Ended};

const MAX_BATCH: usize = 1000;
/// Outcomes that may wait for the batch before theirs. A full channel holds its jobs' places in their queues, so that no
/// worker claims faster than the database can record.
pub(crate) const BACKLOG: usize = 2 * MAX_BATCH;

/// Runs until every sender is gone and everything is recorded, or until `give_up`: what is unrecorded then comes back
/// when its lease has run out.
pub(crate) async fn run<A>(shared: Arc<Shared<A>>, mut ended: mpsc::Receiver<Ended>, give_up: CancellationToken) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while ended.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let mut pause = Duration::ZERO;
        let recorded: HashSet<_> = loop {
            match record::outcomes(&shared.pool, &shared.config.name, &batch).await {
                Ok(recorded) => break recorded.into_iter().collect(),
                Err(error) => {
                    pause = super::next_pause(pause);
                    tracing::warn!(%error, outcomes = batch.len(), retry_in_ms = pause.as_millis(), "could not record outcomes");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = give_up.cancelled() => return,
                    }
                }
            }
        };
        for lost in batch.iter().filter(|ended| !recorded.contains(&ended.id)) {
            metrics::counter!("queue_outcomes_refused_total").increment(1);
            tracing::warn!(job.id = %lost.id, outcome = lost.outcome.as_str(),
                "an outcome was refused: the job's lease is no longer ours");
        }
        shared.in_hand.drop_all(batch.drain(..).map(|ended| (ended.id, ended.lease)));
    }
}
