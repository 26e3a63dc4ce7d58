//! Where a request comes from, and how many an address may send that needs neither key nor token (AUTH-5): sign-ins, invitations,
//! requests to join, forgotten passwords.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, HeaderName, header, request::Parts},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::DefaultKeyedStateStore,
};

use super::{
    ApiState,
    problem::{Problem, ProblemType},
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Networks that were not heard of for a while are forgotten each time that so many requests were counted.
const TIDY_EVERY: u32 = 1_024;

/// A network as limits see it: an IPv4 address, or the /64 that somebody with an IPv6 address has to themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Network(String);

impl Network {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => {
                let bits = address.to_bits() & !u128::from(u64::MAX);
                format!("{}/64", Ipv6Addr::from_bits(bits))
            }
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromRequestParts<ApiState> for Network {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        Ok(network(peer, &parts.headers, state.app.config.http.proxies))
    }
}

/// Who a request says it comes from, for a history: the whole address, and what the program calls itself.
#[derive(Clone, Debug)]
pub struct Origin {
    pub ip: Option<String>,
    pub user_agent: Option<String>,
}

/// Of what a program calls itself so much is kept.
const MAX_USER_AGENT: usize = 300;

impl FromRequestParts<ApiState> for Origin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        let ip = address(peer, &parts.headers, state.app.config.http.proxies);
        let user_agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        Ok(Self {
            ip: ip.map(|ip| ip.to_canonical().to_string()),
            user_agent: user_agent.map(|name| name.chars().take(MAX_USER_AGENT).collect()),
        })
    }
}

fn network(peer: Option<IpAddr>, headers: &HeaderMap, proxies: usize) -> Network {
    address(peer, headers, proxies).map_or_else(|| Network("local".to_owned()), Network::of)
}

/// The peer; behind so many proxies, who the outermost of them says it heard. What stands further left in `X-Forwarded-For`
/// anybody may have written.
fn address(peer: Option<IpAddr>, headers: &HeaderMap, proxies: usize) -> Option<IpAddr> {
    let forwarded: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let told = forwarded.len().checked_sub(proxies).filter(|_| proxies > 0).and_then(|at| forwarded.get(at));
    let told =
        told.and_then(|text| text.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip())));
    told.or(peer)
}

/// One process's count of requests by network: a minute's worth at once, refilled evenly.
pub struct Throttle {
    limiter: RateLimiter<Network, DefaultKeyedStateStore<Network>, DefaultClock>,
    counted: AtomicU32,
}

impl Throttle {
    pub fn new(per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        Self { limiter: RateLimiter::keyed(Quota::per_minute(per_minute)), counted: AtomicU32::new(0) }
    }

    /// As [`Throttle::new`], by the hour.
    pub fn per_hour(per_hour: u32) -> Self {
        let per_hour = NonZeroU32::new(per_hour).unwrap_or(NonZeroU32::MIN);
        Self { limiter: RateLimiter::keyed(Quota::per_hour(per_hour)), counted: AtomicU32::new(0) }
    }

    /// Counts a request from the network: 429 with `Retry-After` when there were too many.
    pub fn take(&self, network: &Network) -> Result<(), Problem> {
        if self.counted.fetch_add(1, Ordering::Relaxed) % TIDY_EVERY == TIDY_EVERY - 1 {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(network).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            too_many(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
        })
    }
}

/// Too many tries, from the network or for the address: the same words for both.
pub fn too_many(wait_s: u64) -> Problem {
    Problem::new(ProblemType::RateLimited, "there were too many tries; wait and try again").retry_after(wait_s.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, forwarded: &[&str], proxies: usize) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, value.parse().unwrap());
        }
        network(peer.parse().ok(), &headers, proxies).0
    }

    /// AUTH-5
    #[test]
    fn a_client_cannot_choose_its_network_by_a_header() {
        assert_eq!(of("192.0.2.1", &["203.0.113.9"], 0), "192.0.2.1");
        assert_eq!(of("10.0.0.1", &["203.0.113.9"], 1), "203.0.113.9");
        assert_eq!(
            of("10.0.0.1", &["198.51.100.7, 203.0.113.9"], 1),
            "203.0.113.9",
            "the left one is the client's own word"
        );
        assert_eq!(of("10.0.0.1", &["198.51.100.7", "203.0.113.9, 10.0.0.2"], 2), "203.0.113.9");
        assert_eq!(of("10.0.0.1", &["203.0.113.9:4711"], 1), "203.0.113.9");
        assert_eq!(of("10.0.0.1", &[], 1), "10.0.0.1", "past the proxy");
        assert_eq!(of("10.0.0.1", &["nonsense"], 1), "10.0.0.1");
        assert_eq!(of("", &[], 0), "local");
    }

    /// AUTH-5
    #[test]
    fn the_addresses_of_one_ipv6_network_are_one() {
        assert_eq!(of("2001:db8:1:2:3:4:5:6", &[], 0), "2001:db8:1:2::/64");
        assert_eq!(of("2001:db8:1:2:ffff::1", &[], 0), "2001:db8:1:2::/64");
        assert_eq!(of("2001:db8:1:3::1", &[], 0), "2001:db8:1:3::/64");
        assert_eq!(of("::ffff:192.0.2.1", &[], 0), "192.0.2.1");
    }

    /// AUTH-5
    #[test]
    fn one_network_s_haste_does_not_slow_another() {
        let throttle = Throttle::new(2);
        let (hasty, calm) = (Network("192.0.2.1".to_owned()), Network("192.0.2.2".to_owned()));
        assert!(throttle.take(&hasty).is_ok() && throttle.take(&hasty).is_ok());
        assert_eq!(throttle.take(&hasty).unwrap_err().kind, ProblemType::RateLimited);
        assert!(throttle.take(&calm).is_ok());
    }
}
