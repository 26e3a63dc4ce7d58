//! The only place that reads the time. Everything else is handed a [`Clock`], so a test can be at any hour.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Duration, NaiveDate, Utc};
use chrono_tz::Tz;

/// Tells the time. Clones of a fixed clock share it: advancing one advances all.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Fixed(Arc<Mutex<DateTime<Utc>>>),
}

impl Clock {
    /// The time of the machine.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `at` until it is advanced.
    pub fn fixed(at: DateTime<Utc>) -> Self {
        Self(Source::Fixed(Arc::new(Mutex::new(at))))
    }

    /// The present moment, in whole microseconds: what PostgreSQL keeps, so that a time reads back as it was written.
    pub fn now(&self) -> DateTime<Utc> {
        let now = match &self.0 {
            #[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
            Source::System => Utc::now(),
            Source::Fixed(at) => *at.lock().unwrap_or_else(PoisonError::into_inner),
        };
        DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
    }

    /// Moves a fixed clock.
    ///
    /// # Panics
    /// On the system clock, which nobody can move.
    pub fn advance(&self, by: Duration) {
        match &self.0 {
            Source::System => panic!("only a fixed clock can be advanced"),
            Source::Fixed(at) => *at.lock().unwrap_or_else(PoisonError::into_inner) += by,
        }
    }

    /// The calendar date in `time_zone`.
    pub fn today(&self, time_zone: Tz) -> NaiveDate {
        self.now().with_timezone(&time_zone).date_naive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;

    #[test]
    fn clones_of_a_fixed_clock_share_the_time() {
        let clock = Clock::fixed(Utc.with_ymd_and_hms(2026, 1, 31, 23, 30, 0).unwrap());
        let clone = clock.clone();
        clock.advance(Duration::hours(1));
        assert_eq!(clone.now(), Utc.with_ymd_and_hms(2026, 2, 1, 0, 30, 0).unwrap());
    }

    #[test]
    fn today_depends_on_the_time_zone() {
        let clock = Clock::fixed(Utc.with_ymd_and_hms(2026, 1, 31, 23, 30, 0).unwrap());
        assert_eq!(clock.today(chrono_tz::UTC).to_string(), "2026-01-31");
        assert_eq!(clock.today(chrono_tz::Europe::Stockholm).to_string(), "2026-02-01");
    }

    #[test]
    fn the_system_clock_has_whole_microseconds() {
        assert_eq!(Clock::system().now().timestamp_subsec_nanos() % 1000, 0);
    }
}
