//! One LISTEN connection per process: new work wakes its queue's fetcher, a cancel request reaches the running handler, a
//! pause reaches what is prefetched.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Shared, patience::within};

/// After so long without a word we ask whether the line is still alive.
const ASK_AFTER: Duration = Duration::from_secs(30);

/// Listens until `stop`. While it cannot, polling carries on alone.
pub(crate) async fn run<A>(shared: Arc<Shared<A>>, queues: HashMap<String, Arc<Notify>>, stop: CancellationToken) {
    let mut pause = Duration::ZERO;
    loop {
        let ended = tokio::select! {
            ended = listen(&shared, &queues) => ended,
            () = stop.cancelled() => return,
        };
        pause = super::next_pause(pause);
        if let Err(error) = ended {
            tracing::warn!(%error, retry_in_ms = pause.as_millis(), "lost the wake-up connection; polling goes on");
        } else {
            pause = Duration::ZERO;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn listen<A>(shared: &Shared<A>, queues: &HashMap<String, Arc<Notify>>) -> sqlx::Result<()> {
    // A connection of its own, so that it neither takes one from the handlers nor, dead, blocks one.
    let options = shared.pool.connect_options().as_ref().clone();
    let own = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None).connect_lazy_with(options);
    let patience = shared.patience();
    let mut listener = within(patience, PgListener::connect_with(&own)).await?;
    within(patience, listener.listen_all(["queue_wake", "queue_cancel", "queue_rules"])).await?;
    // What was sent while nobody listened.
    queues.values().for_each(|wake| wake.notify_one());
    shared.rules.read_again();
    loop {
        let Ok(heard) = tokio::time::timeout(ASK_AFTER, listener.try_recv()).await else {
            within(patience, sqlx::query("select 1").execute(&mut listener)).await?;
            continue;
        };
        let Some(message) = heard? else { return Ok(()) };
        match message.channel() {
            "queue_wake" => {
                if let Some(wake) = queues.get(message.payload()) {
                    wake.notify_one();
                }
            }
            "queue_rules" => shared.rules.read_again(),
            _ => {
                // Job and lease: a message that comes late must not stop the job's next claim.
                if let Some((id, lease)) = message.payload().split_once(' ')
                    && let (Ok(id), Ok(lease)) = (id.parse(), lease.parse())
                {
                    shared.in_hand.cancel_lease(id, lease);
                }
            }
        }
    }
}
