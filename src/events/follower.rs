//! One stream: the hub's end of it, and the client's.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{sync::mpsc, time::Instant};
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
    buffer: usize,
    waiting: Arc<AtomicUsize>,
    out: mpsc::UnboundedSender<Vec<Frame>>,
    end: Arc<OnceLock<End>>,
}

/// The client's end.
pub struct Following {
    seen: Snapshot,
    from: mpsc::UnboundedReceiver<Vec<Frame>>,
    current: std::vec::IntoIter<Frame>,
    /// Blocks that were handed over and not taken.
    waiting: Arc<AtomicUsize>,
    end: Arc<OnceLock<End>>,
    until: Option<Instant>,
    stop: CancellationToken,
    is_over: bool,
    _counted: Counted,
}

/// What a topic's events are filed under.
pub fn filter(topics: &[Topic]) -> Filter {
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
    let (out, from) = mpsc::unbounded_channel();
    let (waiting, end) = (Arc::new(AtomicUsize::new(0)), Arc::new(OnceLock::new()));
    let follower = Follower {
        who,
        topics: topics.to_vec(),
        filter: filter(topics),
        buffer,
        waiting: waiting.clone(),
        out,
        end: end.clone(),
    };
    let current = Vec::new().into_iter();
    (follower, Following { seen, from, current, waiting, end, until, stop, is_over: false, _counted: counted })
}

impl Follower {
    /// Hands them over without waiting. False: this one is to be let go; it has not kept up, or nobody is there any more. Who has taken
    /// all that was handed over before keeps up, and gets what one look brings, however much it is.
    pub fn give(&self, frames: Vec<Frame>) -> bool {
        let waiting = self.waiting.load(Ordering::Acquire);
        if waiting > 0 && waiting + frames.len() > self.buffer {
            self.let_go(End::Slow);
            return false;
        }
        self.waiting.fetch_add(frames.len(), Ordering::AcqRel);
        self.out.send(frames).is_ok()
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
        if let Some(frame) = self.take() {
            return Some(frame);
        }
        let until = self.until;
        let expiry = async move {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            biased;
            () = self.stop.cancelled() => End::Shutdown,
            () = expiry => End::Expired,
            frames = self.from.recv() => {
                self.current = frames.unwrap_or_default().into_iter();
                match self.take() {
                    Some(frame) => return Some(frame),
                    None => self.end.get().copied().unwrap_or(End::Shutdown),
                }
            }
        };
        if self.end.set(end).is_ok() {
            metrics::counter!("event_streams_ended_total", "reason" => end.as_str()).increment(1);
        }
        self.is_over = true;
        Some(frame::end(end))
    }
}

impl Following {
    /// The next of what was handed over together. What waited for one who may read no more is not taken.
    fn take(&mut self) -> Option<Frame> {
        if self.stop.is_cancelled() || self.end.get() == Some(&End::NotAllowed) {
            return None;
        }
        let frame = self.current.next()?;
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        Some(frame)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if self.end.get().is_none() {
            metrics::counter!("event_streams_ended_total", "reason" => "client").increment(1);
        }
    }
}
