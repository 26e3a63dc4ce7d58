//! What a third party says about a person, a thing or a bill, in the product's own terms: the common ground between clients, which
//! map to it, and stores, which keep it.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Currency, EmailAddress};

/// A record of a source, under the id that the source gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceRecord {
    /// Unique among the source's records of the same kind, and stable.
    pub external_id: String,
    pub facts: Facts,
}

/// What is said of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Facts {
    Employee(EmployeeFacts),
    Asset(AssetFacts),
    Invoice(InvoiceFacts),
    /// The source has it no longer.
    Gone(RecordKind),
    /// What a document over things, whose id the record has, comes to now.
    Left(Left),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    Employee,
    Asset,
    Invoice,
}

/// What a document over things comes to now, line by line: a thing of it that is not among these is surplus. Things of it have the id
/// `<document>:<line>:<number>`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Left {
    /// How many things a line comes to; `None`: it cannot be read, and what came of it stays.
    pub lines: BTreeMap<String, Option<u32>>,
    /// There are no other lines.
    pub whole: bool,
}

impl Left {
    /// Whether this thing of the document, by the end of its id, is among those that are left.
    pub fn has(&self, line_and_number: &str) -> bool {
        let Some((line, number)) = line_and_number.rsplit_once(':') else { return true };
        match (self.lines.get(line), number.parse::<u32>()) {
            (Some(Some(count)), Ok(number)) => number <= *count,
            (Some(_), _) => true,
            (None, _) => !self.whole,
        }
    }
}

/// A person as an HRIS tells of them. `None`: the source says nothing of it, and what is stored stays. Serialized only to be compared
/// (as a keyed fingerprint) and sealed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EmployeeFacts {
    pub work_email: Option<EmailAddress>,
    pub first_name: String,
    pub last_name: String,
    pub phone: Option<String>,
    pub home_address: Option<String>,
    pub social_security_number: Option<String>,
    pub national_id: Option<String>,
    pub date_of_birth: Option<NaiveDate>,
    pub job_title: Option<String>,
    pub department: Option<String>,
    /// The manager's id at the source.
    pub manager_external_id: Option<String>,
    /// The name of an office, as the source has it.
    pub location: Option<String>,
    pub standing: Standing,
    pub hire_date: Option<NaiveDate>,
    pub termination_date: Option<NaiveDate>,
    /// What else the connection was told to fetch.
    pub custom: BTreeMap<String, Value>,
}

/// Whether somebody works here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    #[default]
    Active,
    OnLeave,
    Terminated,
}

/// A thing as a finance system tells of it: a line of a purchase order, a fixed asset, a purchase that is hardware.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AssetFacts {
    pub name: String,
    /// `laptop`, `phone`, `monitor`, …; lower case.
    pub category: Option<String>,
    pub make: Option<String>,
    pub model: Option<String>,
    pub serial_number: Option<String>,
    pub status: SourceAssetStatus,
    pub cost: Option<Decimal>,
    pub currency: Option<Currency>,
    pub purchased_on: Option<NaiveDate>,
    pub purchase_order: Option<String>,
    pub invoice_number: Option<String>,
    pub supplier: Option<String>,
    /// In months, from `depreciates_from`.
    pub useful_life_months: Option<u32>,
    pub depreciates_from: Option<NaiveDate>,
    pub residual_value: Option<Decimal>,
    /// As the finance system has it; without it book value is computed.
    pub book_value: Option<Decimal>,
    pub custom: BTreeMap<String, Value>,
}

/// What a finance system knows of where a thing is. It never takes an asset out of somebody's hands: only `OnOrder → InStock` and
/// `… → Retired` are taken over into an asset that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceAssetStatus {
    OnOrder,
    #[default]
    InStock,
    Retired,
}

/// A customer's invoice as a finance system has it (BILL-10).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InvoiceFacts {
    pub number: String,
    /// As the source knows the customer: organization number, else name, else e-mail finds the company.
    pub customer_org_number: Option<String>,
    pub customer_name: String,
    pub customer_email: Option<EmailAddress>,
    pub currency: Currency,
    pub issue_date: NaiveDate,
    pub due_date: NaiveDate,
    /// None, if the source has voided it.
    pub lines: Vec<InvoiceLineFacts>,
    /// When nothing is owed any more.
    pub paid_on: Option<NaiveDate>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InvoiceLineFacts {
    pub description: String,
    pub quantity: Decimal,
    pub unit_price: Decimal,
    /// `0.25` is 25 %.
    pub tax_rate: Decimal,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SYNC-9, SYNC-10
    #[test]
    fn what_is_left_of_a_document_is_known_by_line_and_number() {
        let lines = BTreeMap::from([("1".to_owned(), Some(2)), ("5".to_owned(), None)]);
        let left = Left { lines, whole: true };
        for (thing, has) in [("1:2", true), ("1:3", false), ("5:9", true), ("2:1", false), ("5", true)] {
            assert_eq!(left.has(thing), has, "{thing}");
        }
        assert!(Left { whole: false, ..left }.has("2:1"), "there may be other lines");
    }
}
