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
