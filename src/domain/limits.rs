//! What a tier allows, and what has been used of it (TEN-4). Limits are read from the tier at each use, so an upgrade counts at once.

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use chrono_tz::Tz;

use super::Tier;
use super::text::text_enum;

text_enum! {
    /// What is limited.
    pub enum Resource("resource") {
        /// Tokens of language models, per calendar month.
        Tokens = "tokens",
        /// Agents, at a time.
        Agents = "agents",
        /// Workflows, at a time.
        Workflows = "workflows",
    }
}

/// A tier's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub tokens_per_month: u64,
    pub agents: u64,
    pub workflows: u64,
}

impl Limits {
    pub const fn of(tier: Tier) -> Self {
        match tier {
            Tier::Free => Self { tokens_per_month: 100_000, agents: 3, workflows: 0 },
            Tier::Pro => Self { tokens_per_month: 1_000_000, agents: 999, workflows: 10 },
            Tier::Enterprise => Self { tokens_per_month: 999_999_999, agents: 999, workflows: 999 },
        }
    }

    pub const fn of_resource(self, resource: Resource) -> u64 {
        match resource {
            Resource::Tokens => self.tokens_per_month,
            Resource::Agents => self.agents,
            Resource::Workflows => self.workflows,
        }
    }

    /// Whether `wanted` more fit beside what is `used`. Answers what is left without them.
    pub fn check(self, resource: Resource, used: u64, wanted: u64) -> Result<u64, LimitExceeded> {
        let limit = self.of_resource(resource);
        match limit.checked_sub(used) {
            Some(left) if left >= wanted => Ok(left),
            _ => Err(LimitExceeded { resource, limit, used }),
        }
    }
}

/// The tier's limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the organization's limit of {limit} {resource} is reached ({used} are used)")]
pub struct LimitExceeded {
    pub resource: Resource,
    pub limit: u64,
    pub used: u64,
}

/// The first day of the month in which `now` is, by the organization's calendar.
pub fn month_of(now: DateTime<Utc>, time_zone: Tz) -> NaiveDate {
    let today = now.with_timezone(&time_zone).date_naive();
    today.with_day(1).unwrap_or(today)
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    /// TEN-4
    #[test]
    fn the_tiers_have_the_limits_that_were_promised() {
        let of = |tier| {
            let limits = Limits::of(tier);
            (limits.tokens_per_month, limits.agents, limits.workflows)
        };
        assert_eq!(of(Tier::Free), (100_000, 3, 0));
        assert_eq!(of(Tier::Pro), (1_000_000, 999, 10));
        assert_eq!(of(Tier::Enterprise), (999_999_999, 999, 999));
    }

    /// TEN-4
    #[test]
    fn the_last_one_that_fits_is_allowed_and_the_next_is_not() {
        let limits = Limits::of(Tier::Free);
        assert_eq!(limits.check(Resource::Agents, 2, 1), Ok(1));
        let full = LimitExceeded { resource: Resource::Agents, limit: 3, used: 3 };
        assert_eq!(limits.check(Resource::Agents, 3, 1), Err(full));
        assert_eq!(limits.check(Resource::Agents, 3, 0), Ok(0));
        assert!(limits.check(Resource::Agents, 5, 0).is_err(), "after a downgrade");
        assert_eq!(full.to_string(), "the organization's limit of 3 agents is reached (3 are used)");
        assert!(limits.check(Resource::Workflows, 0, 1).is_err());
    }

    /// TEN-4
    #[test]
    fn a_month_begins_by_the_organization_s_calendar() {
        let late = Utc.with_ymd_and_hms(2026, 1, 31, 23, 30, 0).unwrap();
        assert_eq!(month_of(late, chrono_tz::UTC).to_string(), "2026-01-01");
        assert_eq!(month_of(late, chrono_tz::Europe::Stockholm).to_string(), "2026-02-01");
    }
}
