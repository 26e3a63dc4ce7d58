//! What operators decided about queues and tenants, as this process knows it: read every second, and at once when a message
//! says that it changed. `queue.claim` decides for itself; this is for what is already in hand, and for how much to fetch.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Shared, claim::Claimed, patience::within};

const READ_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decided {
    paused: HashSet<String>,
    /// Of the last hour: what was prefetched before then has begun.
    held: HashSet<String>,
    /// Queue → how many of its jobs run at once, over all nodes.
    max_running: HashMap<String, usize>,
}

impl Decided {
    pub fn paused(&self, queue: &str) -> bool {
        self.paused.contains(queue)
    }

    /// How many jobs of a limited queue this node may have in hand: what it can run at once, or a quarter of the limit. A
    /// job that waits here would keep another node from running it.
    pub fn share(&self, queue: &str, concurrency: usize) -> Option<usize> {
        self.max_running.get(queue).map(|limit| concurrency.max(limit / 4))
    }
}

pub(crate) struct Rules {
    decided: watch::Sender<Decided>,
    again: Notify,
}

impl Default for Rules {
    fn default() -> Self {
        Self { decided: watch::Sender::new(Decided::default()), again: Notify::new() }
    }
}

impl Rules {
    pub fn watch(&self) -> watch::Receiver<Decided> {
        self.decided.subscribe()
    }

    /// Whether a prefetched job must not begin.
    pub fn stop(&self, job: &Claimed) -> bool {
        let decided = self.decided.borrow();
        decided.paused(&job.queue) || job.tenant.as_ref().is_some_and(|tenant| decided.held.contains(tenant))
    }

    /// Something changed.
    pub fn read_again(&self) {
        self.again.notify_one();
    }
}

/// Reads until `stop`. While the database is away the last word stands.
pub(crate) async fn keep_reading<A>(shared: Arc<Shared<A>>, stop: CancellationToken) {
    loop {
        match within(shared.patience(), read(&shared.pool)).await {
            Ok(now) => {
                shared.rules.decided.send_if_modified(|decided| {
                    let changed = *decided != now;
                    *decided = now;
                    changed
                });
            }
            Err(error) => tracing::debug!(%error, "could not read which queues are paused"),
        }
        tokio::select! {
            () = shared.rules.again.notified() => {}
            () = tokio::time::sleep(READ_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn read(pool: &PgPool) -> sqlx::Result<Decided> {
    let mut now = Decided::default();
    let queues: Vec<(String, bool, Option<i32>)> =
        sqlx::query_as("select name, paused_at is not null, max_running from queue.queues").fetch_all(pool).await?;
    for (name, paused, max_running) in queues {
        if let Some(limit) = max_running {
            now.max_running.insert(name.clone(), usize::try_from(limit).unwrap_or(1));
        }
        if paused {
            now.paused.insert(name);
        }
    }
    let held: Vec<String> =
        sqlx::query_scalar("select tenant from queue.held_tenants where held_at > now() - interval '1 hour'")
            .fetch_all(pool)
            .await?;
    now.held.extend(held);
    Ok(now)
}
