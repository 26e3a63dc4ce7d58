//! What answers say of the calls that are left (SYNC-13), read where every answer passes, whatever the client: `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers, items with `r` and `t`), and the pairs `RateLimit-Remaining` and `-Reset` of its earlier drafts
//! and `X-RateLimit-Remaining` and `-Reset`, where the end is in seconds from now or, as some have it, of the Unix epoch.

use std::{cell::Cell, time::Duration};

use chrono::{DateTime, Utc};
use reqwest::header::HeaderMap;

/// As with `Retry-After`.
const LONGEST_WAIT: u64 = 24 * 60 * 60;
/// What is larger is a moment and no duration; seconds again beyond, some say milliseconds: those are left alone.
const MOMENTS: std::ops::Range<u64> = 1_000_000_000..100_000_000_000;

tokio::task_local! {
    static HEARD: (DateTime<Utc>, Cell<Option<Duration>>);
}

/// Makes calls, as of `now`. If an answer says that none is left, answers for how long.
pub async fn listen<T>(now: DateTime<Utc>, calls: impl Future<Output = T>) -> (T, Option<Duration>) {
    let heard = (now, Cell::new(None));
    HEARD.scope(heard, async { (calls.await, HEARD.with(|(_, wait)| wait.get())) }).await
}

/// Notes an answer's headers for who listens, if anybody does.
pub(super) fn hear(headers: &HeaderMap) {
    // Outside of `listen` nobody wants to know.
    let _ = HEARD.try_with(|(now, wait)| wait.set(wait.get().max(none_left_for(headers, *now))));
}

/// For how long no call is left; `None` if there are some, or if nothing is said.
fn none_left_for(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let pair = |remaining: &str, reset: &str| {
        let none_left = text(remaining)?.parse::<f64>().is_ok_and(|left| left <= 0.0);
        none_left.then(|| text(reset)?.parse().ok())?
    };
    let listed = headers.get_all("ratelimit").iter().filter_map(|value| value.to_str().ok());
    let listed = listed.flat_map(|value| value.split(',')).filter_map(item).max();
    let seconds = listed
        .or_else(|| pair("ratelimit-remaining", "ratelimit-reset"))
        .or_else(|| pair("x-ratelimit-remaining", "x-ratelimit-reset"))?;
    let seconds = match seconds {
        moment if MOMENTS.contains(&moment) => moment.saturating_sub(now.timestamp().try_into().unwrap_or_default()),
        seconds if seconds < MOMENTS.start => seconds,
        _ => return None,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds.min(LONGEST_WAIT)))
}

/// `"name";r=0;t=30`: thirty seconds, because none is left.
fn item(item: &str) -> Option<u64> {
    let parameter = |name: &str| {
        let found = item.split(';').skip(1).filter_map(|pair| pair.split_once('=')).find(|(key, _)| key.trim() == name);
        found?.1.trim().parse::<u64>().ok()
    };
    (parameter("r")? == 0).then(|| parameter("t"))?
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn wait(headers: &[(&'static str, &'static str)]) -> Option<u64> {
        let now = Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).unwrap();
        let pairs =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        none_left_for(&pairs.collect(), now).map(|wait| wait.as_secs())
    }

    /// SYNC-13
    #[test]
    fn only_what_says_that_none_is_left_and_until_when_counts() {
        assert_eq!(wait(&[("ratelimit", r#""default";r=0;t=30"#)]), Some(30));
        assert_eq!(wait(&[("ratelimit", r#""minute";r=0;t=30, "day"; r=0; t=600"#)]), Some(600));
        assert_eq!(wait(&[("ratelimit", r#""default";r=1;t=30"#)]), None);
        assert_eq!(wait(&[("ratelimit", r#""default";r=0"#)]), None);
        for (remaining, reset) in
            [("ratelimit-remaining", "ratelimit-reset"), ("x-ratelimit-remaining", "x-ratelimit-reset")]
        {
            assert_eq!(wait(&[(remaining, "0"), (reset, "20")]), Some(20));
            assert_eq!(wait(&[(remaining, "0"), (reset, "1772438460")]), Some(60), "2 March 2026, 08:01");
            assert_eq!(wait(&[(remaining, "0"), (reset, "1772438400")]), None, "it is over");
            assert_eq!(wait(&[(remaining, "0"), (reset, "999999")]), Some(86_400), "a day at most");
            assert_eq!(wait(&[(remaining, "0"), (reset, "1772438460000")]), None);
            assert_eq!(wait(&[(remaining, "7"), (reset, "20")]), None);
            assert_eq!(wait(&[(remaining, "0")]), None);
            assert_eq!(wait(&[(remaining, "0"), (reset, "soon")]), None);
        }
        assert_eq!(wait(&[]), None);
    }

    /// SYNC-13: of several answers the longest wait counts, and what is heard elsewhere does not.
    #[tokio::test]
    async fn who_listens_hears_the_answers_of_its_own_calls() {
        let none_left = HeaderMap::from_iter([
            (HeaderName::from_static("ratelimit-remaining"), HeaderValue::from_static("0")),
            (HeaderName::from_static("ratelimit-reset"), HeaderValue::from_static("20")),
        ]);
        hear(&none_left);
        let calls = async {
            hear(&none_left);
            hear(&HeaderMap::new());
        };
        assert_eq!(listen(DateTime::UNIX_EPOCH, calls).await.1, Some(Duration::from_secs(20)));
        assert_eq!(listen(DateTime::UNIX_EPOCH, async { 1 }).await, (1, None));
    }
}
