//! An asset (ASSET-3): a thing that the organization owns or has ordered, what it must look like, and what may become of it.

mod custody;

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use self::custody::{Custody, Refusal, Step};
use super::depreciation::Depreciation;
use super::employee::check_custom;
use super::field_error::one_line;
use super::source_record::{AssetFacts, SourceAssetStatus};
use super::text::{parsed_text, text_enum};
use super::{Currency, FieldErrors, ParseError};

/// Every amount is smaller than this.
const AMOUNT_LIMIT: Decimal = rust_decimal::dec!(1_000_000_000_000);
/// A hundred years.
const MAX_LIFE_MONTHS: u32 = 1_200;
const MAX_LABELS: usize = 20;

text_enum! {
    /// Where an asset is in its life.
    #[derive(Default)]
    pub enum AssetStatus("status of an asset") {
        /// Bought, and not here yet.
        OnOrder = "on_order",
        /// Here, and nobody's.
        #[default]
        InStock = "in_stock",
        /// In somebody's hands.
        Assigned = "assigned",
        InRepair = "in_repair",
        /// Sold, scrapped or given away; the end.
        Retired = "retired",
        Lost = "lost",
        Stolen = "stolen",
    }
}

text_enum! {
    /// What state it is in, best first.
    #[derive(Default)]
    pub enum Condition("condition") {
        New = "new",
        #[default]
        Good = "good",
        Fair = "fair",
        Poor = "poor",
        /// Nobody can work with it.
        Broken = "broken",
    }
}

text_enum! {
    /// What a row of an asset's history tells.
    pub enum TransactionKind("kind of transaction") {
        Created = "created",
        Assigned = "assigned",
        Returned = "returned",
        Transferred = "transferred",
        StatusChanged = "status_changed",
        /// Somebody corrected what it cost.
        CostChanged = "cost_changed",
        ResidualValueChanged = "residual_value_changed",
        /// Somebody said what it is worth, or that it is computed from now on (no amount).
        BookValueChanged = "book_value_changed",
    }
}

impl From<SourceAssetStatus> for AssetStatus {
    fn from(status: SourceAssetStatus) -> Self {
        match status {
            SourceAssetStatus::OnOrder => Self::OnOrder,
            SourceAssetStatus::InStock => Self::InStock,
            SourceAssetStatus::Retired => Self::Retired,
        }
    }
}

/// What an asset is called on its sticker: upper case, unique within the organization.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AssetTag(String);

parsed_text!(AssetTag);

impl AssetTag {
    /// Letters and digits of ASCII, and `-`, `_`, `.`, `/` between them; small letters become large.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.trim().to_ascii_uppercase();
        if text.is_empty() {
            return Err(ParseError::new("required", "must not be empty"));
        }
        if text.len() > 64 {
            return Err(ParseError::new("too_long", "must have at most 64 characters"));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b)) {
            return Err(ParseError::invalid(
                "may have letters and digits of ASCII and - _ . / only; it looks like A-00001",
            ));
        }
        Ok(Self(text))
    }

    /// The tag of an asset that was given none: `A-00001`.
    pub fn numbered(number: i64) -> Self {
        Self(format!("A-{number:05}"))
    }
}

impl fmt::Display for AssetTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A serial number, as it is printed on the thing. Sealed in the database, so it has no `Display` and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SerialNumber(String);

parsed_text!(SerialNumber);

impl SerialNumber {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        one_line(text, 100)?;
        Ok(Self(text.to_owned()))
    }

    /// What two ways of writing one number have in common: no blanks, large letters. Looked up by.
    pub fn key(&self) -> String {
        self.0.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_uppercase).collect()
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SerialNumber(hidden)")
    }
}

/// What it cost and the papers that say so. Sealed in the database; its `Debug` hides it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Purchase {
    /// In the asset's currency, as the other amounts.
    pub cost: Option<Decimal>,
    /// What it is worth at the end of its life; nothing if it is left out.
    pub residual_value: Option<Decimal>,
    /// As the finance system or a person has it; without it book value is computed.
    pub book_value: Option<Decimal>,
    pub purchase_order: Option<String>,
    pub invoice_number: Option<String>,
}

impl Purchase {
    /// The amounts that are others than `before`, as its history tells of them.
    pub fn corrections(&self, before: &Self) -> Vec<(TransactionKind, Option<Decimal>)> {
        let amounts = [
            (TransactionKind::CostChanged, before.cost, self.cost),
            (TransactionKind::ResidualValueChanged, before.residual_value, self.residual_value),
            (TransactionKind::BookValueChanged, before.book_value, self.book_value),
        ];
        amounts.into_iter().filter(|(_, before, after)| before != after).map(|(kind, _, after)| (kind, after)).collect()
    }
}

impl fmt::Debug for Purchase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Purchase(hidden)")
    }
}

/// What is said of an asset, new or changed; who holds it and where it is, only steps change ([`Step`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewAsset {
    /// One is made if it is left out.
    pub tag: Option<AssetTag>,
    pub name: String,
    /// `laptop`, `phone`, …; lower case.
    pub category: Option<String>,
    pub make: Option<String>,
    pub model: Option<String>,
    pub serial_number: Option<SerialNumber>,
    pub currency: Currency,
    pub purchase: Purchase,
    pub supplier: Option<String>,
    pub purchased_on: Option<NaiveDate>,
    pub warranty_until: Option<NaiveDate>,
    /// Without it depreciation begins with the purchase.
    pub depreciates_from: Option<NaiveDate>,
    pub useful_life_months: Option<u32>,
    /// What else the organization keeps.
    pub custom: BTreeMap<String, Value>,
    /// The organization's own words to sort by.
    pub labels: Vec<String>,
}

impl NewAsset {
    /// Checks what the types cannot: a name, texts of one line, amounts that are not negative.
    pub fn validate(&self) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        errors.check("name", one_line(&self.name, 200));
        let purchase = &self.purchase;
        for (field, text, max) in [
            ("category", &self.category, 100),
            ("make", &self.make, 100),
            ("model", &self.model, 200),
            ("supplier", &self.supplier, 200),
            ("purchase_order", &purchase.purchase_order, 100),
            ("invoice_number", &purchase.invoice_number, 100),
        ] {
            if let Some(text) = text {
                errors.check(field, one_line(text, max));
            }
        }
        let lower = self.category.as_ref().is_none_or(|category| !category.chars().any(char::is_uppercase));
        errors.require(lower, "category", "invalid", "must be in lower case");
        for (field, amount) in
            [("cost", purchase.cost), ("residual_value", purchase.residual_value), ("book_value", purchase.book_value)]
        {
            check_amount(&mut errors, field, amount);
        }
        if let (Some(cost), Some(residual)) = (purchase.cost, purchase.residual_value) {
            errors.require(residual <= cost, "residual_value", "out_of_range", "must not be more than cost");
        }
        if let Some(months) = self.useful_life_months {
            let message = format!("must be from 1 to {MAX_LIFE_MONTHS}");
            errors.require((1..=MAX_LIFE_MONTHS).contains(&months), "useful_life_months", "out_of_range", message);
        }
        let few = self.labels.len() <= MAX_LABELS;
        errors.require(few, "labels", "too_long", format!("must be at most {MAX_LABELS}"));
        for (n, label) in self.labels.iter().enumerate() {
            errors.check(&format!("labels[{n}]"), one_line(label, 50));
        }
        check_custom(&mut errors, &self.custom);
        errors.into_result()
    }

    /// What it is worth on a day; `None` if nobody knows what it cost.
    pub fn book_value(&self, on: NaiveDate) -> Option<Decimal> {
        if self.purchase.book_value.is_some() {
            return self.purchase.book_value;
        }
        let cost = self.purchase.cost?;
        let (from, life) = (self.depreciates_from.or(self.purchased_on), self.useful_life_months);
        let (Some(from), Some(useful_life_months)) = (from, life) else { return Some(super::money::round(cost)) };
        let residual_value = self.purchase.residual_value.unwrap_or_default();
        Some(Depreciation { cost, residual_value, from, useful_life_months }.book_value(on))
    }
}

/// Accepts an amount of money that is not negative and not absurd.
pub fn check_amount(errors: &mut FieldErrors, field: &str, amount: Option<Decimal>) {
    let fits = amount.is_none_or(|amount| !amount.is_sign_negative() && amount < AMOUNT_LIMIT);
    errors.require(fits, field, "out_of_range", format!("must be from 0 to less than {AMOUNT_LIMIT}"));
    let fine = amount.is_none_or(|amount| amount.normalize().scale() <= 4);
    errors.require(fine, field, "invalid", "must have at most four decimals");
}

impl From<&AssetFacts> for NewAsset {
    /// The asset as a source has it.
    fn from(facts: &AssetFacts) -> Self {
        Self {
            tag: None,
            name: facts.name.clone(),
            category: facts.category.as_ref().map(|category| category.to_lowercase()),
            make: facts.make.clone(),
            model: facts.model.clone(),
            serial_number: facts.serial_number.as_deref().and_then(|serial| SerialNumber::parse(serial).ok()),
            currency: facts.currency.unwrap_or_default(),
            purchase: Purchase {
                cost: facts.cost,
                residual_value: facts.residual_value,
                book_value: facts.book_value,
                purchase_order: facts.purchase_order.clone(),
                invoice_number: facts.invoice_number.clone(),
            },
            supplier: facts.supplier.clone(),
            purchased_on: facts.purchased_on,
            warranty_until: None,
            depreciates_from: facts.depreciates_from,
            useful_life_months: facts.useful_life_months,
            custom: facts.custom.clone(),
            labels: Vec::new(),
        }
    }
}

/// An asset as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Asset {
    pub id: Uuid,
    pub tag: AssetTag,
    /// Its `tag` is the asset's.
    pub facts: NewAsset,
    pub custody: Custody,
    /// The integration that tells of it.
    pub integration_id: Option<Uuid>,
    /// Its id at the source.
    pub external_id: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use rust_decimal::dec;

    use super::*;

    fn laptop() -> NewAsset {
        NewAsset {
            name: "MacBook Pro 14".to_owned(),
            category: Some("laptop".to_owned()),
            serial_number: Some(SerialNumber::parse("c02 planted").unwrap()),
            purchase: Purchase {
                cost: Some(dec!(24000)),
                invoice_number: Some("planted-1".to_owned()),
                ..Purchase::default()
            },
            ..NewAsset::default()
        }
    }

    /// ASSET-3
    #[test]
    fn a_tag_is_in_upper_case_and_made_of_a_number_when_none_is_given() {
        assert_eq!(AssetTag::parse(" it-00a/7 ").unwrap().as_str(), "IT-00A/7");
        assert_eq!(AssetTag::numbered(1).as_str(), "A-00001");
        assert_eq!(AssetTag::numbered(123_456).as_str(), "A-123456");
        for (text, code) in [("", "required"), ("å-1", "invalid"), ("a b", "invalid"), (&"a".repeat(65), "too_long")] {
            assert_eq!(AssetTag::parse(text).unwrap_err().code, code, "{text:?}");
        }
    }

    /// ASSET-3
    #[test]
    fn a_serial_number_is_one_however_it_is_written() {
        let key = |text: &str| SerialNumber::parse(text).unwrap().key();
        assert_eq!(key(" c02 xk-1"), "C02XK-1");
        assert_eq!(key("C02XK-1"), "C02XK-1");
        assert_ne!(key("C02XK1"), "C02XK-1");
        assert!(SerialNumber::parse(" ").is_err() && SerialNumber::parse("a\nb").is_err());
    }

    /// ASSET-3
    #[test]
    fn an_asset_that_cannot_be_is_refused_field_by_field() {
        assert_eq!(laptop().validate(), Ok(()));
        let wrong = NewAsset {
            name: " ".to_owned(),
            category: Some("Laptop".to_owned()),
            purchase: Purchase { cost: Some(dec!(10)), residual_value: Some(dec!(11)), ..Purchase::default() },
            useful_life_months: Some(0),
            labels: vec![String::new()],
            ..laptop()
        };
        let fields: Vec<_> = wrong.validate().unwrap_err().0.into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["name", "category", "residual_value", "useful_life_months", "labels[0]"]);
        for amount in [dec!(-1), dec!(1.00001), AMOUNT_LIMIT] {
            let purchase = Purchase { cost: Some(amount), ..Purchase::default() };
            let wrong = NewAsset { purchase, ..laptop() }.validate().unwrap_err();
            assert_eq!(wrong.0[0].field, "cost", "{amount}");
        }
    }

    /// ASSET-3
    #[test]
    fn the_book_value_is_the_finance_system_s_or_computed_or_the_cost() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let on = day("2027-03-02");
        assert_eq!(laptop().book_value(on), Some(dec!(24000.00)));
        let aging = NewAsset { purchased_on: Some(day("2026-03-02")), useful_life_months: Some(24), ..laptop() };
        assert_eq!(aging.book_value(on), Some(dec!(12000.00)));
        let mut told = aging.clone();
        told.purchase.book_value = Some(dec!(7));
        assert_eq!(told.book_value(on), Some(dec!(7)));
        assert_eq!(NewAsset { purchase: Purchase::default(), ..aging }.book_value(on), None);
    }

    /// VAULT-4, ASSET-3
    #[test]
    fn serial_number_and_purchase_are_in_no_debug_output() {
        let told = format!("{:?}", laptop());
        assert!(!told.contains("planted") && !told.contains("24000"), "{told}");
    }
}
