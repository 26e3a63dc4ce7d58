//! Purchases and bills: lines on an account or over an item that a rule names are assets.

use chrono::NaiveDate;
use serde::Deserialize;

use super::QuickBooks;
use crate::{
    clients::purchase::{self, Bought, Exact, Named, Rule, Word},
    domain::{
        Currency,
        integration::BadRecord,
        source_record::{AssetFacts, Facts, Left, SourceAssetStatus, SourceRecord},
    },
};

/// A reference to something else.
#[derive(Clone, Debug, Deserialize)]
pub struct Reference {
    pub value: Word,
    pub name: Option<String>,
}

impl Reference {
    pub fn named(&self) -> Named<'_> {
        Named { id: &self.value.0, name: self.name.as_deref() }
    }
}

/// What is read of a document that cannot be read.
#[derive(Deserialize)]
pub struct Id {
    #[serde(rename = "Id")]
    pub id: Word,
}

/// `Purchase` and `Bill` of Finance.xsd, as far as they are needed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    id: Word,
    #[serde(rename = "status")]
    status: Option<String>,
    doc_number: Option<String>,
    txn_date: Option<NaiveDate>,
    /// A refund.
    credit: Option<bool>,
    entity_ref: Option<Reference>,
    vendor_ref: Option<Reference>,
    currency_ref: Option<Reference>,
    total_amt: Option<Exact>,
    private_note: Option<String>,
    #[serde(default)]
    line: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    id: Option<Word>,
    line_num: Option<Word>,
    description: Option<String>,
    amount: Option<Exact>,
    account_based_expense_line_detail: Option<OnAccount>,
    item_based_expense_line_detail: Option<OverItem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OnAccount {
    account_ref: Option<Reference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OverItem {
    item_ref: Option<Reference>,
    qty: Option<Exact>,
}

impl QuickBooks {
    /// The assets of a purchase or a bill, and that there are no others; `kind` begins their ids.
    pub(super) fn purchase(&self, kind: &str, raw: &str) -> Vec<Result<SourceRecord, BadRecord>> {
        let id = serde_json::from_str::<Id>(raw).ok().map(|id| format!("{kind}-{}", id.id.0));
        let document: Document = match serde_json::from_str(raw) {
            Ok(document) => document,
            Err(error) => {
                let reason = format!("the {kind} cannot be read at line {}, column {}", error.line(), error.column());
                return vec![Err(BadRecord { external_id: id, reason })];
            }
        };
        let id = format!("{kind}-{}", document.id.0);
        // What was voided comes to nothing and says so in its note.
        let voided = document.total_amt.is_some_and(|Exact(total)| total.is_zero())
            && document.private_note.as_deref().is_some_and(|note| note.contains("Voided"));
        if voided || document.status.as_deref() == Some("Deleted") {
            return vec![Ok(purchase::all_gone(&id))];
        }
        if document.credit == Some(true) {
            return Vec::new();
        }
        let mut records = Vec::new();
        let mut left = Left { whole: true, ..Left::default() };
        for (position, line) in document.line.iter().enumerate() {
            let number = line.id.as_ref().or(line.line_num.as_ref());
            let number = number.map_or_else(|| (position + 1).to_string(), |number| number.0.clone());
            let made = self.line(&id, &document, &number, line);
            purchase::note_line(&mut left, &number, &made);
            records.extend(made);
        }
        records.push(Ok(SourceRecord { external_id: id, facts: Facts::Left(left) }));
        records
    }

    fn line(&self, id: &str, document: &Document, number: &str, line: &Line) -> Vec<Result<SourceRecord, BadRecord>> {
        let account = line.account_based_expense_line_detail.as_ref().and_then(|detail| detail.account_ref.as_ref());
        let over = line.item_based_expense_line_detail.as_ref();
        let item = over.and_then(|detail| detail.item_ref.as_ref());
        let Some(rule) = Rule::find(&self.rules, account.map(Reference::named), item.map(Reference::named)) else {
            return Vec::new();
        };
        let currency =
            document.currency_ref.as_ref().map_or(Ok(self.currency), |currency| Currency::parse(&currency.value.0));
        let Ok(currency) = currency else {
            let reason = "its currency is no ISO 4217 code with two decimals".to_owned();
            return vec![Err(BadRecord { external_id: Some(format!("{id}:{number}")), reason })];
        };
        let text = |text: Option<&str>| text.and_then(purchase::line_of_text);
        let of_item = item.and_then(|item| text(item.name.as_deref()));
        // `Hardware:Laptop 14`: the category, and the item itself.
        let model = of_item.as_deref().map(|name| name.rsplit(':').next().unwrap_or(name).trim().to_owned());
        let name = text(line.description.as_deref()).or_else(|| model.clone());
        let name = name.unwrap_or_else(|| rule.category.clone().unwrap_or_else(|| "Purchased item".to_owned()));
        let supplier = document.vendor_ref.as_ref().or(document.entity_ref.as_ref());
        let supplier = supplier.and_then(|supplier| text(supplier.name.as_deref()));
        let facts = |_| AssetFacts {
            name: name.clone(),
            category: rule.category.clone(),
            model: model.clone(),
            status: SourceAssetStatus::InStock,
            currency: Some(currency),
            purchased_on: document.txn_date,
            invoice_number: text(document.doc_number.as_deref()),
            supplier: supplier.clone(),
            useful_life_months: rule.useful_life_months,
            depreciates_from: document.txn_date.filter(|_| rule.useful_life_months.is_some()),
            ..AssetFacts::default()
        };
        let exact = |exact: Option<Exact>| exact.map(|Exact(decimal)| decimal);
        let quantity = over.and_then(|detail| exact(detail.qty));
        let bought = Bought { document: id, line: number, quantity, amount: exact(line.amount) };
        purchase::pieces(bought, facts)
    }
}
