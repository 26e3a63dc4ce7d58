//! Keeps a queue's buffer filled: claims a batch whenever half of the budget is free, and rests when there is nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    buffer::Buffer,
    claim::{self, Place},
    patience::within,
    record::{Ended, Outcome},
};

/// No more than this many jobs are claimed ahead, however fast the queue.
const MAX_BUDGET: usize = 1000;
/// A batch that lasts less than this doubles the budget; one that lasts more than ten times it halves the budget.
const BRISK: Duration = Duration::from_millis(100);
/// The first rest of an idle queue. It doubles up to the poll interval, so a wake-up that was debounced away costs
/// milliseconds only.
const FIRST_REST: Duration = Duration::from_millis(10);

/// While rate-limited jobs flow, nothing tells when the next permit is there: an idle fetcher looks this often, until it has
/// seen none for so long.
const METERED_REST: Duration = Duration::from_millis(50);
const METERED: Duration = Duration::from_secs(60);

pub(crate) struct Fetcher<A> {
    pub shared: Arc<Shared<A>>,
    pub queue: String,
    pub concurrency: usize,
    pub buffer: Arc<Buffer>,
    pub wake: Arc<Notify>,
    pub ended: mpsc::Sender<Ended>,
}

impl<A> Fetcher<A> {
    /// Fetches until `stop`, then hands back what nobody has begun, without using an attempt.
    pub async fn run(self, stop: CancellationToken) {
        self.fetch(&stop).await;
        self.hand_back().await;
    }

    async fn hand_back(&self) {
        for job in self.buffer.drain() {
            // The acker outlives the fetchers.
            let _ = self.ended.send(Ended::new(&job, 0, Outcome::Released)).await;
        }
    }

    async fn fetch(&self, stop: &CancellationToken) {
        let config = &self.shared.config;
        let mut budget = self.concurrency.clamp(1, MAX_BUDGET);
        let mut rest = FIRST_REST;
        let mut trouble = Duration::ZERO;
        let mut filled: Option<Instant> = None;
        let mut place = Place::default();
        let mut metered: Option<Instant> = None;
        let mut rules = self.shared.rules.watch();
        loop {
            if rules.borrow_and_update().paused(&self.queue) {
                self.hand_back().await;
                tokio::select! {
                    _ = rules.changed() => continue,
                    () = stop.cancelled() => return,
                }
            }
            tokio::select! {
                () = self.buffer.until_at_most(budget / 2) => {}
                _ = rules.changed() => continue,
                () = stop.cancelled() => return,
            }
            if let Some(at) = filled.take() {
                budget = next_budget(budget, self.concurrency, at.elapsed());
            }
            let mut want = budget.saturating_sub(self.buffer.len()).max(1);
            let share = rules.borrow().share(&self.queue, self.concurrency);
            if let Some(share) = share {
                let recorded = self.shared.recorded.notified();
                want = want.min(share.saturating_sub(self.shared.in_hand.count(&self.queue)));
                if want == 0 {
                    tokio::select! {
                        () = recorded => {}
                        _ = rules.changed() => {}
                        () = tokio::time::sleep(config.poll_interval) => {}
                        () = stop.cancelled() => return,
                    }
                    continue;
                }
            }
            let claim = claim::batch(&self.shared.pool, (&self.queue, &mut place), want, config.lease, &config.name);
            let pause = match until_stopped(within(self.shared.patience(), claim), stop).await {
                Some(Ok(jobs)) if jobs.is_empty() => {
                    trouble = Duration::ZERO;
                    let pause = rest;
                    let recent = metered.is_some_and(|at| at.elapsed() < METERED);
                    rest = (rest * 2).min(if recent { METERED_REST } else { config.poll_interval });
                    pause
                }
                Some(Ok(jobs)) => {
                    trouble = Duration::ZERO;
                    rest = FIRST_REST;
                    filled = (jobs.len() == want).then(Instant::now);
                    if jobs.iter().any(|job| job.rate_key.is_some()) {
                        metered = Some(Instant::now());
                    }
                    self.shared.in_hand.take(&jobs);
                    self.buffer.push(jobs);
                    continue;
                }
                Some(Err(error)) => {
                    trouble = super::next_pause(trouble);
                    tracing::warn!(queue = self.queue, %error, retry_in_ms = trouble.as_millis(), "could not claim jobs");
                    trouble
                }
                None => return,
            };
            tokio::select! {
                () = self.wake.notified() => rest = FIRST_REST,
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Waits for a claim under way even after `stop`, for a moment: jobs of a claim that is cut off would have to wait for
/// their lease to run out.
async fn until_stopped<T>(claim: impl Future<Output = T>, stop: &CancellationToken) -> Option<T> {
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    tokio::select! {
        claimed = claim => Some(claimed),
        () = patience => None,
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
    next.clamp(concurrency.clamp(1, MAX_BUDGET), MAX_BUDGET)
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
        assert_eq!(next_budget(1000, 2000, Duration::from_secs(5)), MAX_BUDGET);
    }
}
