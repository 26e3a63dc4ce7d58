//! One stream: the hub's end of it, and the client's.

use std::sync::{Arc, OnceLock};

use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Counted, End, Who, frame, frame::Frame};
use crate::{
    domain::Topic,
    store::feed::{Filter, Snapshot},
};

/// The hub's end.
pub(super) struct Follower {
    pub who: Who,
    pub topics: Vec<Topic>,
    pub filter: Filter,
    out: mpsc::Sender<Frame>,
    end: Arc<OnceLock<End>>,
}

/// The client's end.
pub struct Following {
    seen: Snapshot,
    from: mpsc::Receiver<Frame>,
    end: Arc<OnceLock<End>>,
    until: Option<Instant>,
    stop: CancellationToken,
    is_over: bool,
    _counted: Counted,
}

/// What a topic's events are filed under.
pub(super) fn filter(topics: &[Topic]) -> Filter {
    Filter {
        organization: topics.contains(&Topic::Organization),
        topics: topics.iter().filter(|topic| **topic != Topic::Organization).map(Topic::to_string).collect(),
    }
}

/// Both ends of a new stream, which has been given nothing of what `seen` does not show.
pub(super) fn stream(
    (who, topics): (Who, &[Topic]),
    (seen, buffer): (Snapshot, usize),
    (counted, until): (Counted, Option<Instant>),
    stop: CancellationToken,
) -> (Follower, Following) {
    let (out, from) = mpsc::channel(buffer);
    let end = Arc::new(OnceLock::new());
    let follower = Follower { who, topics: topics.to_vec(), filter: filter(topics), out, end: end.clone() };
    (follower, Following { seen, from, end, until, stop, is_over: false, _counted: counted })
}

impl Follower {
    /// Hands it over without waiting. False: this one is to be let go; it has not kept up, or nobody is there any more.
    pub fn give(&self, frame: Frame) -> bool {
        match self.out.try_send(frame) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.let_go(End::Slow);
                false
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    /// Says why the stream ends. It does when the hub forgets this end of it.
    pub fn let_go(&self, end: End) {
        if self.end.set(end).is_ok() {
            metrics::counter!("event_streams_ended_total", "reason" => end.as_str()).increment(1);
        }
    }

    pub fn is_gone(&self) -> bool {
        self.out.is_closed()
    }
}

impl Following {
    /// What was committed before the stream began; the stream brings the rest.
    pub fn seen(&self) -> &Snapshot {
        &self.seen
    }

    /// The next block; `None` after the last one, which says why it is.
    pub async fn next(&mut self) -> Option<Frame> {
        if self.is_over {
            return None;
        }
        let expiry = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            biased;
            () = self.stop.cancelled() => End::Shutdown,
            () = expiry => End::Expired,
            frame = self.from.recv() => match frame {
                // What waited for one who may read no more is not handed over.
                Some(frame) if self.end.get() != Some(&End::NotAllowed) => return Some(frame),
                _ => self.end.get().copied().unwrap_or(End::Shutdown),
            },
        };
        if self.end.set(end).is_ok() {
            metrics::counter!("event_streams_ended_total", "reason" => end.as_str()).increment(1);
        }
        self.is_over = true;
        Some(frame::end(end))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if self.end.get().is_none() {
            metrics::counter!("event_streams_ended_total", "reason" => "client").increment(1);
        }
    }
}
