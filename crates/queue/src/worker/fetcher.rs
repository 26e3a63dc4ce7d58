//! Keeps a queue's buffer filled: claims a batch whenever half of the budget is free, and rests when there is nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Shared, claim, claim::Claimed};

/// No more than this many jobs are claimed ahead, however fast the queue.
const MAX_BUDGET: usize = 1000;
/// A batch that lasts less than this doubles the budget; one that lasts more than ten times it halves the budget.
const BRISK: Duration = Duration::from_millis(100);
/// The first rest of an idle queue. It doubles up to the poll interval, so a wake-up that was debounced away costs
/// milliseconds only.
const FIRST_REST: Duration = Duration::from_millis(10);

/// The claimed jobs of one queue that nobody has begun.
pub(crate) struct Buffer {
    len: AtomicUsize,
    low: AtomicUsize,
    drained: Notify,
}

impl Buffer {
    pub fn new() -> Self {
        Self { len: AtomicUsize::new(0), low: AtomicUsize::new(0), drained: Notify::new() }
    }

    /// A job left the buffer; wakes the fetcher at the low mark.
    pub fn took_one(&self) {
        let len = self.len.fetch_sub(1, Ordering::AcqRel) - 1;
        if len <= self.low.load(Ordering::Acquire) {
            self.drained.notify_one();
        }
    }
}

pub(crate) struct Fetcher<A> {
    pub shared: Arc<Shared<A>>,
    pub queue: String,
    pub concurrency: usize,
    pub buffer: Arc<Buffer>,
    pub jobs: mpsc::UnboundedSender<Claimed>,
    pub wake: Arc<Notify>,
}

impl<A> Fetcher<A> {
    /// Fetches until `stop`. Dropping the sender at the end tells the backend that nothing will follow.
    pub async fn run(self, stop: CancellationToken) {
        let mut budget = self.concurrency.clamp(1, MAX_BUDGET);
        let mut rest = FIRST_REST;
        let mut trouble = Duration::ZERO;
        let mut filled: Option<Instant> = None;
        loop {
            self.buffer.low.store(budget / 2, Ordering::Release);
            while self.buffer.len.load(Ordering::Acquire) > budget / 2 {
                tokio::select! {
                    () = self.buffer.drained.notified() => {}
                    () = stop.cancelled() => return,
                }
            }
            if let Some(at) = filled.take() {
                budget = next_budget(budget, self.concurrency, at.elapsed());
            }
            let want = budget - self.buffer.len.load(Ordering::Acquire).min(budget);
            let config = &self.shared.config;
            let claimed = tokio::select! {
                claimed = claim::batch(&self.shared.pool, &self.queue, want.max(1), config.lease, &config.name) => claimed,
                // A claim that is cut off here may have happened: its lease is not renewed, so the jobs come back.
                () = stop.cancelled() => return,
            };
            match claimed {
                Ok(jobs) if jobs.is_empty() => {
                    trouble = Duration::ZERO;
                    tokio::select! {
                        () = self.wake.notified() => rest = FIRST_REST,
                        () = tokio::time::sleep(rest) => rest = (rest * 2).min(config.poll_interval),
                        () = stop.cancelled() => return,
                    }
                }
                Ok(jobs) => {
                    trouble = Duration::ZERO;
                    rest = FIRST_REST;
                    if jobs.len() == want {
                        filled = Some(Instant::now());
                    }
                    self.shared.in_hand.take(&jobs);
                    self.buffer.len.fetch_add(jobs.len(), Ordering::AcqRel);
                    for job in jobs {
                        // The receiver outlives the fetcher.
                        let _ = self.jobs.send(job);
                    }
                }
                Err(error) => {
                    trouble = super::next_pause(trouble);
                    tracing::warn!(queue = self.queue, %error, retry_in_ms = trouble.as_millis(), "could not claim jobs");
                    tokio::select! {
                        () = tokio::time::sleep(trouble) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }
}

/// Fast work is fetched far ahead, slow work hardly at all: what waits here cannot run on another node.
fn next_budget(budget: usize, concurrency: usize, lasted: Duration) -> usize {
    let next = if lasted < BRISK {
        budget * 2
    } else if lasted > BRISK * 10 {
        budget / 2
    } else {
        budget
    };
    next.clamp(concurrency.clamp(1, MAX_BUDGET), MAX_BUDGET.max(concurrency))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_the_pace_between_concurrency_and_the_cap() {
        let mut budget = 10;
        for _ in 0..20 {
            budget = next_budget(budget, 10, Duration::from_millis(5));
        }
        assert_eq!(budget, MAX_BUDGET);
        assert_eq!(next_budget(budget, 10, Duration::from_millis(500)), MAX_BUDGET);
        for _ in 0..20 {
            budget = next_budget(budget, 10, Duration::from_secs(5));
        }
        assert_eq!(budget, 10);
        assert_eq!(next_budget(2000, 2000, Duration::from_secs(5)), 2000);
    }
}
