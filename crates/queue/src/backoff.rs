//! How long a failed job waits: exponential with full jitter
//! (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).

use std::time::Duration;

use rand::RngExt;

/// The wait before attempt `n + 1` is uniform in `[floor, min(cap, base * 2^(n-1))]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first wait.
    pub base: Duration,
    /// Upper bound of every wait.
    pub cap: Duration,
    /// Lower bound, so that full jitter never means "at once".
    pub floor: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::exponential(Duration::from_secs(10), Duration::from_secs(3600))
    }
}

impl Backoff {
    pub const fn exponential(base: Duration, cap: Duration) -> Self {
        Self { base, cap, floor: Duration::from_millis(100) }
    }

    /// The same wait every time, without jitter.
    pub const fn fixed(wait: Duration) -> Self {
        Self { base: wait, cap: wait, floor: wait }
    }

    /// The wait after attempt number `attempt` (counted from 1) failed.
    pub fn after(&self, attempt: u32) -> Duration {
        let ceiling = self.base.saturating_mul(2u32.saturating_pow(attempt.saturating_sub(1))).min(self.cap);
        if ceiling <= self.floor {
            return self.floor;
        }
        rand::rng().random_range(self.floor..=ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_stay_between_the_bounds() {
        let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60));
        for attempt in 1..200 {
            let ceiling = Duration::from_secs(2u64.saturating_pow(attempt - 1).min(60));
            for _ in 0..20 {
                let wait = backoff.after(attempt);
                assert!(wait >= backoff.floor && wait <= ceiling, "attempt {attempt} waits {wait:?}");
            }
        }
    }

    #[test]
    fn a_fixed_wait_has_no_jitter() {
        assert_eq!(Backoff::fixed(Duration::from_secs(3)).after(9), Duration::from_secs(3));
    }
}
