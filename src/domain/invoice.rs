//! An invoice: what it must look like, what it adds up to, what may become of it (BILL-3).

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::field_error::{many_lines, one_line};
use super::text::text_enum;
use super::{Currency, DunningFacts, FieldErrors, Money, money};

/// A Swedish invoice that names no rate carries 25 % value-added tax (mervärdesskattelag 2023:200, chapter 9).
pub const DEFAULT_TAX_RATE: Decimal = Decimal::from_parts(25, 0, 0, false, 2);
/// Days to pay, when nothing else is agreed.
pub const DEFAULT_PAYMENT_TERMS_DAYS: i32 = 30;
/// Every amount is smaller than this, whatever its sign.
const AMOUNT_LIMIT: Decimal = Decimal::from_parts(3_567_587_328, 232, 0, false, 0);
const MAX_ITEMS: usize = 200;

text_enum! {
    /// Where an invoice stands.
    #[derive(Default)]
    pub enum InvoiceStatus("status") {
        /// Being written; nobody has seen it.
        #[default]
        Draft = "draft",
        /// On its way to the customer.
        Sent = "sent",
        /// Received and owed.
        Unpaid = "unpaid",
        /// Settled; the end.
        Paid = "paid",
        /// Owed after its due date.
        Overdue = "overdue",
        /// Withdrawn; the end.
        Cancelled = "cancelled",
    }
}

/// A change of status that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an invoice that is {from} cannot become {to}")]
pub struct TransitionError {
    pub from: InvoiceStatus,
    pub to: InvoiceStatus,
}

impl InvoiceStatus {
    /// Whether an invoice may go from here to `next`. Staying is not a change and is refused as well.
    pub fn may_become(self, next: Self) -> bool {
        use InvoiceStatus::*;
        match self {
            Draft => matches!(next, Sent | Unpaid | Cancelled),
            Sent => matches!(next, Unpaid | Overdue | Paid | Cancelled),
            Unpaid => matches!(next, Overdue | Paid | Cancelled),
            Overdue => matches!(next, Paid | Cancelled),
            Paid | Cancelled => false,
        }
    }

    /// `next`, if it is allowed.
    pub fn become_(self, next: Self) -> Result<Self, TransitionError> {
        if self.may_become(next) { Ok(next) } else { Err(TransitionError { from: self, to: next }) }
    }

    /// Whether the customer owes it now.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Sent | Self::Unpaid | Self::Overdue)
    }
}

/// A line of an invoice to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewItem {
    pub description: String,
    /// At most four decimals.
    pub quantity: Decimal,
    /// Before tax, in the invoice's currency, at most four decimals. Negative for a discount.
    pub unit_price: Decimal,
    /// 0.25 is 25 %; from 0 to 1, at most four decimals.
    #[serde(default = "default_tax_rate")]
    pub tax_rate: Decimal,
}

fn default_tax_rate() -> Decimal {
    DEFAULT_TAX_RATE
}

/// What an invoice adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Before tax.
    pub subtotal: Decimal,
    pub tax: Decimal,
    /// To pay.
    pub total: Decimal,
}

/// Net and tax of one line, the Swedish way: quantity × price is rounded to öre, half away from zero, then that net ×
/// rate likewise. Each line is rounded once, so that the lines printed on an invoice add up to its totals.
/// Amounts beyond what a decimal holds saturate; [`NewInvoice::validate`] refuses them.
pub fn line(item: &NewItem) -> (Decimal, Decimal) {
    let net = money::round(item.quantity.saturating_mul(item.unit_price));
    let tax = money::round(net.saturating_mul(item.tax_rate));
    (net, tax)
}

/// The sums of the lines.
pub fn totals(items: &[NewItem]) -> Totals {
    let (subtotal, tax) = items
        .iter()
        .map(line)
        .fold((Decimal::ZERO, Decimal::ZERO), |sum, (net, tax)| (sum.0.saturating_add(net), sum.1.saturating_add(tax)));
    Totals { subtotal, tax, total: subtotal.saturating_add(tax) }
}

/// The due date of an invoice that names none.
pub fn default_due_date(issue_date: NaiveDate, payment_terms_days: i32) -> NaiveDate {
    let days = Days::new(u64::try_from(payment_terms_days).unwrap_or(0));
    issue_date.checked_add_days(days).unwrap_or(NaiveDate::MAX)
}

/// An invoice to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInvoice {
    /// Unique within the organization.
    pub number: String,
    pub company_id: Uuid,
    pub project_id: Option<Uuid>,
    pub contract_id: Option<Uuid>,
    /// `draft`, `sent` or `unpaid`: the other ones are reached, not chosen.
    pub status: InvoiceStatus,
    pub currency: Currency,
    pub issue_date: NaiveDate,
    /// [`default_due_date`] if the customer named none.
    pub due_date: NaiveDate,
    pub payment_terms_days: i32,
    pub notes: Option<String>,
    pub items: Vec<NewItem>,
}

impl NewInvoice {
    /// Checks everything that the types cannot.
    pub fn validate(&self) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        errors.check("number", one_line(&self.number, 50));
        errors.require(
            matches!(self.status, InvoiceStatus::Draft | InvoiceStatus::Sent | InvoiceStatus::Unpaid),
            "status",
            "invalid",
            "must be draft, sent or unpaid for a new invoice",
        );
        for (field, date) in [("issue_date", self.issue_date), ("due_date", self.due_date)] {
            let in_range = (1990..=2200).contains(&date.year());
            errors.require(in_range, field, "out_of_range", "must be in the years 1990 to 2200");
        }
        let ordered = self.due_date >= self.issue_date;
        errors.require(ordered, "due_date", "out_of_range", "must not be before issue_date");
        let terms_ok = (0..=365).contains(&self.payment_terms_days);
        errors.require(terms_ok, "payment_terms_days", "out_of_range", "must be 0 to 365 days");
        if let Some(notes) = &self.notes {
            errors.check("notes", many_lines(notes, 2_000));
        }
        let count_ok = (1..=MAX_ITEMS).contains(&self.items.len());
        errors.require(count_ok, "items", "out_of_range", format!("must have 1 to {MAX_ITEMS} items"));
        for (position, item) in self.items.iter().enumerate().take(MAX_ITEMS) {
            item.validate(&format!("items[{position}]."), &mut errors);
        }
        if errors.0.is_empty() {
            let total = totals(&self.items).total;
            errors.require(total < AMOUNT_LIMIT, "items", "out_of_range", "must add up to less than 10^12");
            errors.require(
                total >= Decimal::ZERO,
                "items",
                "out_of_range",
                "must not add up to less than zero; a credit note is not an invoice",
            );
        }
        errors.into_result()
    }
}

impl NewItem {
    /// Notes errors under `prefix` + the field's name.
    pub(super) fn validate(&self, prefix: &str, errors: &mut FieldErrors) {
        errors.check(&format!("{prefix}description"), one_line(&self.description, 500));
        for (field, value) in [("quantity", self.quantity), ("unit_price", self.unit_price)] {
            let small = value.abs() < AMOUNT_LIMIT;
            errors.require(small, format!("{prefix}{field}"), "out_of_range", "must be smaller than 10^12");
            let fine = value.normalize().scale() <= 4;
            errors.require(fine, format!("{prefix}{field}"), "invalid", "must have at most four decimals");
        }
        let rate_ok = (Decimal::ZERO..=Decimal::ONE).contains(&self.tax_rate) && self.tax_rate.normalize().scale() <= 4;
        errors.require(
            rate_ok,
            format!("{prefix}tax_rate"),
            "out_of_range",
            "must be 0 to 1 with at most four decimals; write 25 % as 0.25",
        );
        let (net, tax) = line(self);
        errors.require(
            net.abs() < AMOUNT_LIMIT && tax.abs() < AMOUNT_LIMIT,
            format!("{prefix}quantity"),
            "out_of_range",
            "times unit_price must be smaller than 10^12",
        );
    }
}

/// A line of an invoice as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// From 1.
    pub position: i32,
    pub description: String,
    pub quantity: Decimal,
    pub unit_price: Decimal,
    pub tax_rate: Decimal,
    pub net: Decimal,
    pub tax: Decimal,
}

/// An invoice as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Invoice {
    pub id: Uuid,
    pub number: String,
    pub company_id: Uuid,
    pub project_id: Option<Uuid>,
    pub contract_id: Option<Uuid>,
    pub status: InvoiceStatus,
    pub currency: Currency,
    pub issue_date: NaiveDate,
    pub due_date: NaiveDate,
    pub payment_terms_days: i32,
    pub notes: Option<String>,
    pub subtotal: Decimal,
    pub tax: Decimal,
    pub total: Decimal,
    pub paid_on: Option<NaiveDate>,
    /// Reminders sent so far.
    pub reminder_stage: u32,
    pub last_reminder_sent_at: Option<DateTime<Utc>>,
    /// Set when a reminder could not be sent; nothing is sent until an operator clears it (BILL-7).
    pub reminder_failed_at: Option<DateTime<Utc>>,
    pub reminder_error: Option<String>,
    /// Set when the last stage went unanswered and an admin was told.
    pub dunning_ended_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub items: Vec<Item>,
}

impl Invoice {
    /// What the customer has to pay.
    pub fn amount(&self) -> Money {
        Money { amount: self.total, currency: self.currency }
    }

    /// What dunning decides on, with dates of the organization's calendar.
    pub fn dunning_facts(&self, time_zone: Tz) -> DunningFacts {
        DunningFacts {
            status: self.status,
            total: self.total,
            due_date: self.due_date,
            paid_on: self.paid_on,
            reminder_stage: self.reminder_stage,
            last_reminder_on: self.last_reminder_sent_at.map(|at| at.with_timezone(&time_zone).date_naive()),
            reminder_failed: self.reminder_failed_at.is_some(),
            dunning_ended: self.dunning_ended_at.is_some(),
        }
    }
}
