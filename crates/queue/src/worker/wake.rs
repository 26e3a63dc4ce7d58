//! One LISTEN connection per process: new work wakes its queue's fetcher, a cancel request reaches the running handler, a
//! pause reaches what is prefetched.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Shared;

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
    let mut listener = PgListener::connect_with(&shared.pool).await?;
    listener.listen_all(["queue_wake", "queue_cancel", "queue_rules"]).await?;
    // What was sent while nobody listened.
    queues.values().for_each(|wake| wake.notify_one());
    shared.rules.read_again();
    while let Some(message) = listener.try_recv().await? {
        match message.channel() {
            "queue_wake" => {
                if let Some(wake) = queues.get(message.payload()) {
                    wake.notify_one();
                }
            }
            "queue_rules" => shared.rules.read_again(),
            _ => {
                if let Ok(id) = message.payload().parse() {
                    shared.in_hand.cancel(id);
                }
            }
        }
    }
    Ok(())
}
