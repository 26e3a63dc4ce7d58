//! When a cron expression fires, daylight-saving changes included.
//!
//! An expression whose hour is spelled out (`30 2 * * *`, `0 9,17 * * 1-5`) names wall-clock times: one that the clock
//! jumps over fires at the first instant after the jump, one that the clock repeats fires the first time only. An
//! expression for every hour or every n-th (`*` in the hour) counts real time: it fires in both passes of a repeated hour
//! and not for a time that does not exist. That is Vixie cron's rule (cron(8), "daylight saving time").
//!
//! `croner` applies the first half of the rule to a single wall-clock time only, not to `0 2,14 * * *`; so wall-clock
//! expressions are matched here without a zone and mapped to instants by [`first_instant`].

use chrono::{DateTime, Days, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use serde::Serialize;

/// A parsed cron expression: five fields, or six with seconds first.
#[derive(Clone, Debug)]
pub struct CronExpression {
    cron: Cron,
    text: String,
    wall_clock: bool,
}

impl CronExpression {
    /// The error is a sentence about what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|e| e.to_string())?;
        let wall_clock = !cron.pattern.hours.from_wildcard && cron.pattern.hours.values().len() < 24;
        let expression = Self { cron, text: text.to_owned(), wall_clock };
        match expression.next_after(DateTime::UNIX_EPOCH.with_timezone(&Tz::UTC)) {
            Some(_) => Ok(expression),
            None => Err("there is no such day".to_owned()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first firing later than `at`, in the zone of `at`.
    pub fn next_after(&self, at: DateTime<Tz>) -> Option<DateTime<Tz>> {
        if !self.wall_clock {
            return self.cron.find_next_occurrence(&at, false).ok();
        }
        let mut wall = at.naive_local();
        loop {
            wall = self.cron.find_next_occurrence(&wall, false).ok()?;
            let instant = first_instant(at.timezone(), wall)?;
            if instant > at {
                return Some(instant);
            }
        }
    }

    /// The last firing not later than `at`, in the zone of `at`.
    pub fn last_until(&self, at: DateTime<Tz>) -> Option<DateTime<Tz>> {
        if !self.wall_clock {
            return self.cron.find_previous_occurrence(&at, true).ok();
        }
        let mut wall = at.naive_local();
        if let LocalResult::Ambiguous(..) = at.timezone().from_local_datetime(&wall) {
            // In the second pass of a repeated hour, later wall-clock times have fired in the first.
            wall = wall.checked_add_days(Days::new(1))?;
        }
        wall = self.cron.find_previous_occurrence(&wall, true).ok()?;
        loop {
            let instant = first_instant(at.timezone(), wall)?;
            if instant <= at {
                return Some(instant);
            }
            wall = self.cron.find_previous_occurrence(&wall, false).ok()?;
        }
    }

    /// How the clock shows a firing of this expression.
    pub(super) fn wall_clock(&self, at: DateTime<Tz>) -> WallClock {
        let wall = at.naive_local();
        match at.timezone().from_local_datetime(&wall) {
            LocalResult::Ambiguous(first, _) if at == first => WallClock::FirstPass,
            LocalResult::Ambiguous(..) => WallClock::SecondPass,
            _ if self.wall_clock && !self.cron.is_time_matching(&wall).unwrap_or(true) => WallClock::JumpedOver,
            _ => WallClock::Once,
        }
    }

    /// All firings later than `after`, in order.
    pub fn firings(&self, zone: Tz, after: DateTime<Utc>) -> impl Iterator<Item = DateTime<Tz>> + '_ {
        std::iter::successors(self.next_after(after.with_timezone(&zone)), |at| self.next_after(*at))
    }
}

/// What the clock on the wall makes of a firing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WallClock {
    /// It shows this time once.
    Once,
    /// It jumped over the time that the expression names; this is right after the jump.
    JumpedOver,
    /// It shows this time twice, and this is the first time.
    FirstPass,
    /// It shows this time twice, and this is the second time.
    SecondPass,
}

/// The first instant at which clocks in the zone show `wall`, or have jumped over it.
pub(super) fn first_instant(zone: Tz, wall: NaiveDateTime) -> Option<DateTime<Tz>> {
    let at = |seconds: i64| zone.from_local_datetime(&(wall + TimeDelta::seconds(seconds))).earliest();
    if let Some(instant) = at(0) {
        return Some(instant);
    }
    // The longest jump ever was a day (Samoa, 2011). Bisect to the second at which the clock shows a time again.
    let (mut jumped, mut shown) = (0, 2 * 86_400);
    while shown - jumped > 1 {
        let middle = jumped + (shown - jumped) / 2;
        if at(middle).is_some() { shown = middle } else { jumped = middle }
    }
    at(shown)
}

#[cfg(test)]
mod tests {
    use chrono::{Datelike, NaiveDate, NaiveTime, Timelike};

    use super::*;

    fn utc(year: i32, month: u32, day: u32) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(year, month, day, 0, 0, 0).unwrap()
    }

    fn cron(text: &str) -> CronExpression {
        CronExpression::parse(text).unwrap()
    }

    /// CRON-4
    #[test]
    fn a_daily_schedule_fires_once_for_each_local_date_in_every_zone() {
        let first = NaiveDate::from_ymd_opt(2025, 1, 2).unwrap();
        for (text, (hour, minute)) in [("30 2 * * *", (2, 30)), ("0 9 * * *", (9, 0)), ("59 23 * * *", (23, 59))] {
            for zone in chrono_tz::TZ_VARIANTS {
                let from = zone.from_local_datetime(&first.and_hms_opt(0, 0, 0).unwrap()).unwrap().to_utc();
                for (date, fired) in first.iter_days().zip(cron(text).firings(zone, from)).take(370) {
                    let wall = date.and_hms_opt(hour, minute, 0).unwrap();
                    let late = fired.naive_local() - wall;
                    match zone.from_local_datetime(&wall).earliest() {
                        Some(instant) => assert_eq!(fired, instant, "{text} on {date} in {zone}"),
                        None => assert!(late > TimeDelta::zero() && late <= TimeDelta::hours(1), "{fired} in {zone}"),
                    }
                }
            }
        }
    }

    /// CRON-4
    #[test]
    fn a_time_that_the_clock_jumps_over_fires_right_after_the_jump() {
        for (zone, month, day, fires) in [
            (Tz::Europe__Stockholm, 3, 29, "2026-03-29T03:00:00+02:00"),
            (Tz::America__New_York, 3, 8, "2026-03-08T03:00:00-04:00"),
            // Half an hour only: 02:00 becomes 02:30.
            (Tz::Australia__Lord_Howe, 10, 4, "2026-10-04T02:30:00+11:00"),
        ] {
            for expression in ["15 2 * * *", "15 2,14 * * *", "10,20 2 * * *"] {
                let date = NaiveDate::from_ymd_opt(2026, month, day).unwrap();
                let fired: Vec<_> = cron(expression)
                    .firings(zone, utc(2026, month, day) - TimeDelta::days(1))
                    .skip_while(|at| at.date_naive() < date)
                    .take_while(|at| at.date_naive() == date && at.hour() < 12)
                    .map(|at| at.to_rfc3339())
                    .collect();
                assert_eq!(fired, [fires], "{expression} in {zone}");
            }
        }
    }

    /// CRON-4
    #[test]
    fn a_time_that_the_clock_repeats_fires_the_first_time_only() {
        for (zone, month, day, expression, fires) in [
            (Tz::Europe__Stockholm, 10, 25, "30 2,14 * * *", "2026-10-25T02:30:00+02:00"),
            (Tz::America__New_York, 11, 1, "30 1 * * *", "2026-11-01T01:30:00-04:00"),
            (Tz::Australia__Lord_Howe, 4, 5, "45 1 * * *", "2026-04-05T01:45:00+11:00"),
        ] {
            let date = NaiveDate::from_ymd_opt(2026, month, day).unwrap();
            let fired: Vec<_> = cron(expression)
                .firings(zone, utc(2026, month, day) - TimeDelta::days(1))
                .skip_while(|at| at.date_naive() < date)
                .take_while(|at| at.date_naive() == date && at.hour() < 12)
                .map(|at| at.to_rfc3339())
                .collect();
            assert_eq!(fired, [fires], "{expression} in {zone}");
        }
    }

    /// CRON-4
    #[test]
    fn a_schedule_of_every_quarter_fires_every_real_quarter() {
        let every_quarter = cron("*/15 * * * *");
        for zone in [Tz::Europe__Stockholm, Tz::America__New_York, Tz::Australia__Lord_Howe, Tz::Asia__Kathmandu] {
            let mut expected = utc(2026, 1, 1);
            for at in every_quarter.firings(zone, expected).take_while(|at| at.year() < 2027) {
                expected += TimeDelta::minutes(15);
                assert_eq!(at, expected, "{zone}");
            }
            assert_eq!(expected.with_timezone(&zone).naive_local().time(), NaiveTime::from_hms_opt(23, 45, 0).unwrap());
        }
    }

    /// CRON-4
    #[test]
    fn walking_back_meets_the_same_firings() {
        for zone in [Tz::Europe__Stockholm, Tz::America__New_York, Tz::Australia__Lord_Howe, Tz::Africa__Cairo] {
            for text in ["30 2 * * *", "*/20 1-3 * * *", "0 * * * *", "0 0 1 * *", "5 */6 * * *"] {
                let expression = cron(text);
                let forward: Vec<_> =
                    expression.firings(zone, utc(2026, 1, 1)).take_while(|at| *at < utc(2027, 1, 1)).collect();
                let last = expression.last_until((utc(2027, 1, 1) - TimeDelta::seconds(1)).with_timezone(&zone));
                let mut back: Vec<_> =
                    std::iter::successors(last, |at| expression.last_until(*at - TimeDelta::seconds(1)))
                        .take_while(|at| *at > utc(2026, 1, 1))
                        .collect();
                back.reverse();
                assert_eq!(forward, back, "{text} in {zone}");
            }
        }
    }

    /// CRON-1
    #[test]
    fn an_expression_that_can_never_fire_is_refused() {
        for text in ["", "* * * *", "61 * * * *", "0 25 * * *", "0 0 30 2 *", "0 9 * * * * 2030", "nightly"] {
            assert!(CronExpression::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
