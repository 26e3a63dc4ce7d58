//! An invoice: what it must look like, what it adds up to, what may become of it (BILL-3).

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use chrono_tz::Tz;
use rust_decimal::{Decimal, dec};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::field_error::{many_lines, one_line};
use super::text::text_enum;
use super::{Currency, DunningFacts, FieldErrors, Money, money};

/// A Swedish invoice that names no rate carries 25 % value-added tax (mervärdesskattelag 2023:200, chapter 9).
pub const DEFAULT_TAX_RATE: Decimal = dec!(0.25);
/// Days to pay, when nothing else is agreed.
pub const DEFAULT_PAYMENT_TERMS_DAYS: i32 = 30;
/// Every amount is smaller than this, whatever its sign.
const AMOUNT_LIMIT: Decimal = dec!(1_000_000_000_000);
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
    pub fn transition_to(self, next: Self) -> Result<Self, TransitionError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(quantity: Decimal, unit_price: Decimal, tax_rate: Decimal) -> NewItem {
        NewItem { description: "Hours".to_owned(), quantity, unit_price, tax_rate }
    }

    fn invoice(items: Vec<NewItem>) -> NewInvoice {
        NewInvoice {
            number: "1001".to_owned(),
            company_id: Uuid::nil(),
            project_id: None,
            contract_id: None,
            status: InvoiceStatus::Unpaid,
            currency: Currency::SEK,
            issue_date: NaiveDate::from_ymd_opt(2026, 1, 1).unwrap(),
            due_date: NaiveDate::from_ymd_opt(2026, 1, 31).unwrap(),
            payment_terms_days: 30,
            notes: None,
            items,
        }
    }

    fn fields(invoice: &NewInvoice) -> Vec<String> {
        invoice.validate().unwrap_err().0.into_iter().map(|error| error.field).collect()
    }

    /// BILL-3
    #[test]
    fn each_line_is_rounded_once() {
        // Three thirds of a krona are 0.99, not 1.00: what is printed adds up.
        let third = item(dec!(1), dec!(0.3333), dec!(0.25));
        assert_eq!(line(&third), (dec!(0.33), dec!(0.08)));
        let sum = totals(&[third.clone(), third.clone(), third]);
        assert_eq!((sum.subtotal, sum.tax, sum.total), (dec!(0.99), dec!(0.24), dec!(1.23)));
    }

    /// BILL-3
    #[test]
    fn an_items_own_tax_rate_counts() {
        let sum = totals(&[item(dec!(1), dec!(100), dec!(0.25)), item(dec!(1), dec!(100), dec!(0.06))]);
        assert_eq!((sum.subtotal, sum.tax, sum.total), (dec!(200), dec!(31), dec!(231)));
        let read: NewItem = serde_json::from_str(r#"{"description":"a","quantity":"1","unit_price":"2"}"#).unwrap();
        assert_eq!(read.tax_rate, DEFAULT_TAX_RATE);
    }

    /// BILL-3
    #[test]
    fn half_an_ore_is_rounded_away_from_zero() {
        assert_eq!(line(&item(dec!(0.5), dec!(0.01), dec!(0))).0, dec!(0.01));
        assert_eq!(line(&item(dec!(-0.5), dec!(0.01), dec!(0))).0, dec!(-0.01));
        assert_eq!(line(&item(dec!(1), dec!(0.02), dec!(0.25))).1, dec!(0.01));
    }

    #[test]
    fn limits_name_the_field() {
        assert_eq!(invoice(vec![item(dec!(1), dec!(1), dec!(0.25))]).validate(), Ok(()));
        assert_eq!(fields(&invoice(vec![])), ["items"]);
        assert_eq!(fields(&invoice(vec![item(dec!(1.00001), dec!(1), dec!(0))])), ["items[0].quantity"]);
        assert_eq!(fields(&invoice(vec![item(dec!(1), dec!(1), dec!(1.01))])), ["items[0].tax_rate"]);
        assert_eq!(
            fields(&invoice(vec![item(dec!(1), Decimal::MAX, dec!(0))])),
            ["items[0].unit_price", "items[0].quantity"]
        );
        assert_eq!(fields(&invoice(vec![item(dec!(1000000), dec!(1000000), dec!(0))])), ["items[0].quantity"]);
        let most = item(dec!(1), dec!(999999999999), dec!(0));
        assert_eq!(invoice(vec![most.clone()]).validate(), Ok(()));
        assert_eq!(fields(&invoice(vec![most.clone(), most])), ["items"]);
        assert_eq!(fields(&invoice(vec![item(dec!(-1), dec!(1), dec!(0))])), ["items"]);
        let wrong = NewInvoice {
            number: String::new(),
            status: InvoiceStatus::Paid,
            due_date: NaiveDate::from_ymd_opt(2025, 12, 31).unwrap(),
            payment_terms_days: 366,
            notes: Some("n".repeat(2_001)),
            ..invoice(vec![item(dec!(1), dec!(1), dec!(0.25))])
        };
        assert_eq!(fields(&wrong), ["number", "status", "due_date", "payment_terms_days", "notes"]);
    }

    /// BILL-3
    #[test]
    fn an_invoice_that_is_settled_stays_so() {
        for next in InvoiceStatus::ALL {
            assert!(!InvoiceStatus::Paid.may_become(*next));
            assert!(!InvoiceStatus::Cancelled.may_become(*next));
            assert!(!next.may_become(*next) && !next.may_become(InvoiceStatus::Draft));
        }
        assert_eq!(
            InvoiceStatus::Paid.transition_to(InvoiceStatus::Overdue).unwrap_err().to_string(),
            "an invoice that is paid cannot become overdue"
        );
        assert_eq!(InvoiceStatus::Unpaid.transition_to(InvoiceStatus::Overdue), Ok(InvoiceStatus::Overdue));
    }

    /// BILL-3
    #[test]
    fn only_what_is_open_can_be_paid() {
        for status in InvoiceStatus::ALL {
            assert_eq!(status.is_open(), status.may_become(InvoiceStatus::Paid), "{status}");
        }
    }

    #[test]
    fn the_due_date_follows_from_the_terms() {
        let issued = NaiveDate::from_ymd_opt(2026, 1, 31).unwrap();
        assert_eq!(default_due_date(issued, 30).to_string(), "2026-03-02");
        assert_eq!(default_due_date(issued, -1), issued);
        assert_eq!(default_due_date(NaiveDate::MAX, i32::MAX), NaiveDate::MAX);
    }

    #[test]
    fn the_last_reminders_day_is_the_organizations() {
        let at = chrono::TimeZone::with_ymd_and_hms(&Utc, 2026, 2, 1, 23, 30, 0).unwrap();
        let stored = Invoice {
            id: Uuid::nil(),
            number: "1001".to_owned(),
            company_id: Uuid::nil(),
            project_id: None,
            contract_id: None,
            status: InvoiceStatus::Overdue,
            currency: Currency::SEK,
            issue_date: at.date_naive(),
            due_date: at.date_naive(),
            payment_terms_days: 0,
            notes: None,
            subtotal: dec!(1),
            tax: dec!(0),
            total: dec!(1),
            paid_on: None,
            reminder_stage: 1,
            last_reminder_sent_at: Some(at),
            reminder_failed_at: Some(at),
            reminder_error: None,
            dunning_ended_at: None,
            created_at: at,
            updated_at: at,
            items: Vec::new(),
        };
        let facts = stored.dunning_facts(chrono_tz::Europe::Stockholm);
        assert_eq!(facts.last_reminder_on, NaiveDate::from_ymd_opt(2026, 2, 2));
        assert!(facts.reminder_failed && !facts.dunning_ended);
        assert_eq!(stored.amount().amount, dec!(1));
    }

    fn any_item() -> impl Strategy<Value = NewItem> {
        (-99_999_999i64..99_999_999, -99_999_999i64..99_999_999, 0i64..=10_000)
            .prop_map(|(q, p, t)| item(Decimal::new(q, 4), Decimal::new(p, 4), Decimal::new(t, 4)))
    }

    proptest! {
        /// BILL-3
        #[test]
        fn totals_are_the_sums_of_the_printed_lines(items in proptest::collection::vec(any_item(), 1..50)) {
            let sum = totals(&items);
            let (net, tax): (Vec<Decimal>, Vec<Decimal>) = items.iter().map(line).unzip();
            prop_assert_eq!(sum.subtotal, net.iter().sum::<Decimal>());
            prop_assert_eq!(sum.tax, tax.iter().sum::<Decimal>());
            prop_assert_eq!(sum.total, sum.subtotal + sum.tax);
            for amount in net.iter().chain(&tax).chain([&sum.total]) {
                prop_assert!(amount.scale() <= 2, "{} has more than two decimals", amount);
            }
        }

        /// BILL-3
        #[test]
        fn a_line_is_never_off_by_more_than_half_an_ore(item in any_item()) {
            let (net, tax) = line(&item);
            prop_assert!((net - item.quantity * item.unit_price).abs() <= dec!(0.005));
            prop_assert!((tax - net * item.tax_rate).abs() <= dec!(0.005));
            let (credit, _) = line(&NewItem { quantity: -item.quantity, ..item });
            prop_assert_eq!(credit, -net, "a credited line undoes the line exactly");
        }

        #[test]
        fn no_decimal_makes_a_line_panic(q in any::<(i64, i64, u32)>(), p in any::<(i64, i64, u32)>()) {
            let wide = |(a, b, scale): (i64, i64, u32)| {
                Decimal::from_parts(a as u32, b as u32, (a >> 32) as u32, b < 0, scale % 29)
            };
            let wild = item(wide(q), wide(p), wide(q));
            let _ = invoice(vec![wild.clone(), wild.clone()]).validate();
            let _ = totals(&[wild.clone(), wild]);
        }
    }
}
