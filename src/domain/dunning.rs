//! When a customer is reminded of an unpaid invoice, and when reminding ends (BILL-5).

use std::fmt;

use chrono::{Days, NaiveDate};
use rust_decimal::Decimal;

use super::{InvoiceStatus, ParseError};

/// Days after the due date at which reminders 1, 2, 3 … are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DunningPolicy {
    /// Rising; the default is 1, 8, 15.
    pub days: Vec<u32>,
}

impl Default for DunningPolicy {
    fn default() -> Self {
        Self { days: vec![1, 8, 15] }
    }
}

impl DunningPolicy {
    /// One to ten stages, each on a later day than the one before, from day 1 to day 365.
    pub fn new(days: Vec<u32>) -> Result<Self, ParseError> {
        let rising = days.windows(2).all(|pair| pair[0] < pair[1]);
        let in_range = days.iter().all(|day| (1..=365).contains(day));
        if days.is_empty() || days.len() > 10 || !rising || !in_range {
            return Err(ParseError::invalid("must list 1 to 10 rising days from 1 to 365, such as 1, 8, 15"));
        }
        Ok(Self { days })
    }

    /// Days between reminder `stage` (from 1) and the one before it, at least one. After the last stage the last gap
    /// counts on; a single stage has its own day as gap.
    fn gap(&self, stage: u32) -> u32 {
        let last = self.days.len();
        let position = (stage as usize).clamp(1, last.max(1));
        let day = |position: usize| position.checked_sub(1).and_then(|i| self.days.get(i)).copied().unwrap_or(0);
        day(position).saturating_sub(day(position - 1)).max(1)
    }
}

/// What is known about an invoice when its next reminder is decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DunningFacts {
    pub status: InvoiceStatus,
    /// To pay.
    pub total: Decimal,
    pub due_date: NaiveDate,
    pub paid_on: Option<NaiveDate>,
    /// Reminders sent so far.
    pub reminder_stage: u32,
    /// The day of the last one, in the organization's time zone.
    pub last_reminder_on: Option<NaiveDate>,
    /// A reminder could not be sent and no operator has cleared it.
    pub reminder_failed: bool,
    /// An admin was told that all reminders went unanswered.
    pub dunning_ended: bool,
}

/// What to do about an invoice today.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send reminder number `stage`, from 1.
    Remind { stage: u32 },
    /// All reminders went unanswered: tell an admin, once, and stop.
    Escalate,
    /// Leave it alone, and why, in a sentence.
    Nothing { reason: String },
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remind { stage } => write!(f, "reminder {stage} is due"),
            Self::Escalate => f.write_str("all reminders went unanswered; an admin is to be told"),
            Self::Nothing { reason } => f.write_str(reason),
        }
    }
}

/// Days since the due date; negative before it.
pub fn days_overdue(due_date: NaiveDate, today: NaiveDate) -> i64 {
    (today - due_date).num_days()
}

/// Decides from the facts alone. The next reminder is due on its day after the due date, but never sooner after the
/// last one than the policy has days between the two: a sweep that was down for a month does not send all at once.
pub fn decide(policy: &DunningPolicy, facts: &DunningFacts, today: NaiveDate) -> Decision {
    if let Some(reason) = reason_to_stay_silent(facts, today) {
        return Decision::Nothing { reason };
    }
    let Some(last_day) = policy.days.last() else {
        return Decision::Nothing { reason: "the organization has no reminder stages".to_owned() };
    };
    let stage = facts.reminder_stage.saturating_add(1);
    let planned_day = policy.days.get(facts.reminder_stage as usize).copied();
    let gap = policy.gap(stage);
    let by_policy = later(facts.due_date, planned_day.unwrap_or(last_day.saturating_add(gap)));
    let due_on = match facts.last_reminder_on {
        Some(last) if stage > 1 => by_policy.max(later(last, gap)),
        _ => by_policy,
    };
    match planned_day {
        Some(_) if today < due_on => Decision::Nothing { reason: format!("reminder {stage} is due on {due_on}") },
        Some(_) => Decision::Remind { stage },
        None if today < due_on => Decision::Nothing {
            reason: format!("all {} reminders are sent; an admin is told on {due_on}", facts.reminder_stage),
        },
        None => Decision::Escalate,
    }
}

fn reason_to_stay_silent(facts: &DunningFacts, today: NaiveDate) -> Option<String> {
    match facts.status {
        InvoiceStatus::Paid => {
            return Some(facts.paid_on.map_or_else(|| "paid".to_owned(), |day| format!("paid on {day}")));
        }
        InvoiceStatus::Cancelled => return Some("the invoice is cancelled".to_owned()),
        InvoiceStatus::Draft => return Some("the invoice is a draft that nobody has received".to_owned()),
        InvoiceStatus::Sent | InvoiceStatus::Unpaid | InvoiceStatus::Overdue => {}
    }
    if facts.total <= Decimal::ZERO {
        Some("nothing is owed".to_owned())
    } else if today <= facts.due_date {
        Some(format!("not overdue: the due date is {}", facts.due_date))
    } else if facts.dunning_ended {
        Some(format!("all {} reminders went unanswered and an admin was told", facts.reminder_stage))
    } else if facts.reminder_failed {
        Some(format!(
            "reminder {} could not be sent; an operator has to clear the failure first",
            facts.reminder_stage.saturating_add(1)
        ))
    } else {
        None
    }
}

fn later(date: NaiveDate, days: u32) -> NaiveDate {
    date.checked_add_days(Days::new(u64::from(days))).unwrap_or(NaiveDate::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rust_decimal::dec;

    fn day(n: u32) -> NaiveDate {
        later(NaiveDate::from_ymd_opt(2026, 1, 31).unwrap(), n)
    }

    fn overdue() -> DunningFacts {
        DunningFacts {
            status: InvoiceStatus::Overdue,
            total: dec!(125),
            due_date: day(0),
            paid_on: None,
            reminder_stage: 0,
            last_reminder_on: None,
            reminder_failed: false,
            dunning_ended: false,
        }
    }

    fn reason(facts: &DunningFacts, today: NaiveDate) -> String {
        match decide(&DunningPolicy::default(), facts, today) {
            Decision::Nothing { reason } => reason,
            other => panic!("expected nothing to happen, got {other:?}"),
        }
    }

    /// BILL-5
    #[test]
    fn reminders_come_on_day_one_eight_and_fifteen_and_then_an_admin_is_told() {
        let mut facts = overdue();
        let mut happened = Vec::new();
        for n in 0..60 {
            let decision = decide(&DunningPolicy::default(), &facts, day(n));
            match decision {
                Decision::Remind { stage } => {
                    facts.reminder_stage = stage;
                    facts.last_reminder_on = Some(day(n));
                }
                Decision::Escalate => facts.dunning_ended = true,
                Decision::Nothing { .. } => continue,
            }
            happened.push((n, decision));
        }
        assert_eq!(
            happened,
            [
                (1, Decision::Remind { stage: 1 }),
                (8, Decision::Remind { stage: 2 }),
                (15, Decision::Remind { stage: 3 }),
                (22, Decision::Escalate),
            ]
        );
    }

    /// BILL-5
    #[test]
    fn every_reason_to_stay_silent_is_a_sentence() {
        let paid = DunningFacts { status: InvoiceStatus::Paid, paid_on: Some(day(3)), ..overdue() };
        assert_eq!(reason(&paid, day(9)), "paid on 2026-02-03");
        let cancelled = DunningFacts { status: InvoiceStatus::Cancelled, ..overdue() };
        assert_eq!(reason(&cancelled, day(9)), "the invoice is cancelled");
        let draft = DunningFacts { status: InvoiceStatus::Draft, ..overdue() };
        assert_eq!(reason(&draft, day(9)), "the invoice is a draft that nobody has received");
        assert_eq!(reason(&overdue(), day(0)), "not overdue: the due date is 2026-01-31");
        let reminded = DunningFacts { reminder_stage: 1, last_reminder_on: Some(day(1)), ..overdue() };
        assert_eq!(reason(&reminded, day(7)), "reminder 2 is due on 2026-02-08");
        let all_sent = DunningFacts { reminder_stage: 3, last_reminder_on: Some(day(15)), ..overdue() };
        assert_eq!(reason(&all_sent, day(16)), "all 3 reminders are sent; an admin is told on 2026-02-22");
        let ended = DunningFacts { dunning_ended: true, ..all_sent };
        assert_eq!(reason(&ended, day(99)), "all 3 reminders went unanswered and an admin was told");
        let free = DunningFacts { total: dec!(0), ..overdue() };
        assert_eq!(reason(&free, day(9)), "nothing is owed");
    }

    /// BILL-7
    #[test]
    fn a_failed_reminder_waits_for_an_operator() {
        let failed = DunningFacts { reminder_failed: true, ..overdue() };
        assert_eq!(reason(&failed, day(9)), "reminder 1 could not be sent; an operator has to clear the failure first");
        let cleared = DunningFacts { reminder_failed: false, ..failed };
        assert_eq!(decide(&DunningPolicy::default(), &cleared, day(9)), Decision::Remind { stage: 1 });
    }

    /// BILL-5
    #[test]
    fn a_late_start_does_not_send_all_reminders_at_once() {
        let first = DunningFacts { reminder_stage: 1, last_reminder_on: Some(day(40)), ..overdue() };
        assert_eq!(reason(&first, day(46)), format!("reminder 2 is due on {}", day(47)));
        assert_eq!(decide(&DunningPolicy::default(), &first, day(47)), Decision::Remind { stage: 2 });
    }

    #[test]
    fn a_policy_must_rise_within_a_year() {
        assert!(DunningPolicy::new(vec![1, 8, 15]).is_ok());
        for days in [vec![], vec![0], vec![1, 1], vec![8, 1], vec![366], (1..=11).collect()] {
            assert!(DunningPolicy::new(days.clone()).is_err(), "{days:?}");
        }
        let none = DunningPolicy { days: Vec::new() };
        assert!(matches!(decide(&none, &overdue(), day(9)), Decision::Nothing { .. }));
    }

    fn any_policy() -> impl Strategy<Value = DunningPolicy> {
        proptest::collection::btree_set(1u32..=365, 1..=10)
            .prop_map(|days| DunningPolicy { days: days.into_iter().collect() })
    }

    proptest! {
        /// BILL-5, BILL-6
        #[test]
        fn no_stage_is_reminded_twice_or_before_its_day(
            policy in any_policy(),
            steps in proptest::collection::vec(0u32..40, 1..120),
        ) {
            let mut facts = overdue();
            let mut today = 0;
            let mut last = None;
            for step in steps {
                today += step;
                match decide(&policy, &facts, day(today)) {
                    Decision::Remind { stage } => {
                        prop_assert_eq!(stage, facts.reminder_stage + 1);
                        prop_assert!(today >= policy.days[stage as usize - 1], "reminded before its day");
                        prop_assert!(last < Some(today), "reminded twice on a day");
                        facts.reminder_stage = stage;
                        facts.last_reminder_on = Some(day(today));
                        last = Some(today);
                    }
                    Decision::Escalate => {
                        prop_assert!(!facts.dunning_ended);
                        prop_assert_eq!(facts.reminder_stage as usize, policy.days.len());
                        prop_assert!(last < Some(today), "escalated on the day of a reminder");
                        facts.dunning_ended = true;
                    }
                    Decision::Nothing { reason } => prop_assert!(!reason.is_empty()),
                }
            }
        }

        /// BILL-5
        #[test]
        fn what_is_not_open_is_never_reminded_and_always_says_why(
            days in proptest::collection::vec(any::<u32>(), 0..5),
            status in proptest::sample::select(InvoiceStatus::ALL),
            reminder_stage in any::<u32>(),
            last in proptest::option::of(0u32..100_000),
            (reminder_failed, dunning_ended) in any::<(bool, bool)>(),
            today in 0u32..100_000,
        ) {
            let last_reminder_on = last.map(day);
            let facts = DunningFacts {
                status, reminder_stage, last_reminder_on, reminder_failed, dunning_ended, ..overdue()
            };
            match decide(&DunningPolicy { days }, &facts, day(today)) {
                Decision::Nothing { reason } => prop_assert!(!reason.is_empty()),
                _ => prop_assert!(status.is_open() && today > 0 && !reminder_failed && !dunning_ended),
            }
        }
    }
}
