//! The one connection of a process that listens for events.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::{Inner, Look};

/// What `public.tell_of_events()` notifies.
const CHANNEL: &str = "events";
/// After so long without a word we ask whether the line is still alive.
const ASK_AFTER: Duration = Duration::from_secs(30);
/// A server that does not answer for so long is not there.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Listens for as long as it is polled. While it cannot, looks at intervals carry on alone.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = listen(&inner).await;
        let lost = inner.listening.swap(false, Ordering::AcqRel);
        pause = if lost { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        let error = ended.err().map(|error| error.to_string());
        metrics::counter!("event_listener_lost_total").increment(1);
        tracing::warn!(
            error,
            retry_in_ms = pause.as_millis(),
            "lost the connection that listens for events; polling goes on"
        );
        tokio::time::sleep(pause).await;
    }
}

async fn listen(inner: &Inner) -> sqlx::Result<()> {
    // A connection of its own, so that it neither takes one from the requests nor, dead, blocks one.
    let options = inner.db.connect_options().as_ref().clone();
    let own = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None).connect_lazy_with(options);
    let mut listener = within(PgListener::connect_with(&own)).await?;
    within(listener.listen(CHANNEL)).await?;
    inner.listening.store(true, Ordering::Release);
    // What was committed while nobody listened.
    inner.look_at_all(Look::PLAIN);
    loop {
        let Ok(heard) = tokio::time::timeout(ASK_AFTER, listener.try_recv()).await else {
            within(sqlx::query("select 1").execute(&mut listener)).await?;
            continue;
        };
        match heard? {
            Some(notification) => inner.look_at(notification.payload(), Look::PLAIN),
            None => return Ok(()),
        }
    }
}

async fn within<T>(work: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}
