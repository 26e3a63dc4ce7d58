//! How many requests an organization may make (API-6): a minute's worth at once, refilled evenly.

use std::num::NonZeroU32;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::DefaultKeyedStateStore,
};
use uuid::Uuid;

use super::problem::{Problem, ProblemType};

/// One process's count; nodes count for themselves.
pub struct RateLimit {
    per_minute: NonZeroU32,
    limiter: RateLimiter<Uuid, DefaultKeyedStateStore<Uuid>, DefaultClock, StateInformationMiddleware>,
}

/// What the `RateLimit-*` headers say (draft-ietf-httpapi-ratelimit-headers-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    limit: u32,
    remaining: u32,
    /// Seconds until the whole limit is there again.
    reset_s: u64,
}

impl RateLimit {
    pub fn new(per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        Self { per_minute, limiter: RateLimiter::keyed(Quota::per_minute(per_minute)).with_middleware() }
    }

    /// Counts a request of the organization.
    pub fn take(&self, organization: Uuid) -> Result<Allowance, Problem> {
        let limit = self.per_minute.get();
        match self.limiter.check_key(&organization) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let missing = u64::from(limit.saturating_sub(remaining));
                Ok(Allowance { limit, remaining, reset_s: (missing * 60).div_ceil(u64::from(limit)) })
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(DefaultClock::default().now());
                let wait_s = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                let detail = format!("the organization has used its {limit} requests per minute");
                let allowance = Allowance { limit, remaining: 0, reset_s: 60 };
                let problem = Problem::new(ProblemType::RateLimited, detail).retry_after(wait_s.max(1));
                Err(allowance.headers().into_iter().fold(problem, |problem, (name, value)| problem.header(name, value)))
            }
        }
    }
}

impl Allowance {
    fn headers(self) -> [(HeaderName, HeaderValue); 3] {
        [
            (HeaderName::from_static("ratelimit-limit"), self.limit.into()),
            (HeaderName::from_static("ratelimit-remaining"), self.remaining.into()),
            (HeaderName::from_static("ratelimit-reset"), self.reset_s.into()),
        ]
    }

    /// Tells the client.
    pub fn put_on(self, response: &mut Response) {
        let headers: &mut HeaderMap = response.headers_mut();
        headers.extend(self.headers());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-6
    #[test]
    fn one_organization_s_haste_does_not_slow_another() {
        let limit = RateLimit::new(2);
        let (hasty, calm) = (Uuid::now_v7(), Uuid::now_v7());
        assert_eq!(limit.take(hasty).unwrap().remaining, 1);
        assert_eq!(limit.take(hasty).unwrap(), Allowance { limit: 2, remaining: 0, reset_s: 60 });
        assert_eq!(limit.take(hasty).unwrap_err().kind, ProblemType::RateLimited);
        assert!(limit.take(calm).is_ok());
    }
}
