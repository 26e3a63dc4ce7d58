//! What finance systems have in common: which lines of a purchase are things that are kept track of, and how a line over several of
//! them becomes as many assets, each under an id of its own: `<document>:<line>:<number>`.

use std::collections::BTreeMap;

use rust_decimal::{Decimal, RoundingStrategy, dec};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Value, value::RawValue};

use crate::domain::{
    Currency, FieldErrors, ParseError,
    integration::BadRecord,
    source_record::{AssetFacts, Facts, Left, RecordKind, SourceRecord},
};

/// A line over more than this many is a mistake, or nothing that is kept track of one by one.
pub const MOST_PIECES: u32 = 1_000;
/// A page ends with the line, or the document, that brings it to so many records.
pub const MOST_RECORDS: usize = 2_000;
/// Every amount is smaller than this.
const AMOUNT_LIMIT: Decimal = dec!(1_000_000_000_000);

/// A rule of the configuration: lines on this account, or over this item, are things.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Id or name of an account; with `*` at the end, the beginning of its name: `Computers:*`.
    pub account: Option<String>,
    /// Id or name of an item, likewise: a category is the beginning of the names of its items.
    pub item: Option<String>,
    /// What the assets are: `laptop`.
    pub category: Option<String>,
    pub useful_life_months: Option<u32>,
}

/// Something that has an id and, as a rule, a name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named<'a> {
    pub id: &'a str,
    pub name: Option<&'a str>,
}

/// A line of a purchase.
#[derive(Clone, Copy, Debug)]
pub struct Bought<'a> {
    /// Unique among the documents of the source: `purchase-144`.
    pub document: &'a str,
    pub line: &'a str,
    /// One, if the line says nothing.
    pub quantity: Option<Decimal>,
    /// Of all pieces together.
    pub amount: Option<Decimal>,
}

/// A decimal as it is written in JSON, as a number or as a text: on the way through a float it would lose digits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exact(pub Decimal);

/// A short text, which some write as a number or as true and false.
#[derive(Clone, Debug, PartialEq)]
pub struct Word(pub String);

impl Rule {
    /// Checks the rules of a configuration.
    pub fn check(rules: &[Self], errors: &mut FieldErrors) {
        for (position, rule) in rules.iter().enumerate() {
            let field = format!("config.rules[{position}]");
            let one = rule.account.is_some() != rule.item.is_some();
            errors.require(one, &field, "invalid", "must name either an account or an item");
            let named = [&rule.account, &rule.item].into_iter().flatten().all(|name| !name.trim().is_empty());
            errors.require(named, &field, "required", "must not name an empty account or item");
            if let Some(category) = &rule.category {
                let fine = !category.is_empty() && category.len() <= 50 && category.to_lowercase() == *category;
                errors.require(fine, format!("{field}.category"), "invalid", "must be 1 to 50 lower-case letters");
            }
            let life = rule.useful_life_months.is_none_or(|months| (1..=600).contains(&months));
            errors.require(life, format!("{field}.useful_life_months"), "out_of_range", "must be 1 to 600");
        }
    }

    /// The first of the rules that takes a line.
    pub fn find<'r>(rules: &'r [Self], account: Option<Named<'_>>, item: Option<Named<'_>>) -> Option<&'r Self> {
        let is = |rule: &Option<String>, named: Option<Named<'_>>| {
            rule.as_deref().zip(named).is_some_and(|(rule, named)| named.is(rule.trim()))
        };
        rules.iter().find(|rule| is(&rule.account, account) || is(&rule.item, item))
    }
}

impl Named<'_> {
    fn is(self, wanted: &str) -> bool {
        let wanted = wanted.to_lowercase();
        let name = self.name.unwrap_or_default().to_lowercase();
        match wanted.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => self.id == wanted || name == wanted,
        }
    }
}

/// The assets of a line, made by `facts` from their number, which counts from 1; it says nothing of their cost. None, if it is a
/// line that takes something back.
pub fn pieces(bought: Bought<'_>, facts: impl Fn(u32) -> AssetFacts) -> Vec<Result<SourceRecord, BadRecord>> {
    let Bought { document, line, quantity, amount } = bought;
    let quantity = quantity.unwrap_or(Decimal::ONE);
    if quantity <= Decimal::ZERO || amount.is_some_and(|amount| amount.is_sign_negative() && !amount.is_zero()) {
        return Vec::new();
    }
    let bad = |reason: String| vec![Err(BadRecord { external_id: Some(format!("{document}:{line}")), reason })];
    if !quantity.is_integer() {
        return bad("its quantity is not whole, so it is no number of things; correct the rule or the line".to_owned());
    }
    let count = u32::try_from(quantity.normalize().mantissa()).ok().filter(|count| *count <= MOST_PIECES);
    let Some(count) = count else {
        return bad(format!(
            "it is over more than {MOST_PIECES} pieces; things as many as these are no assets one by one"
        ));
    };
    if amount.is_some_and(|amount| amount >= AMOUNT_LIMIT) {
        return bad("its amount is larger than any that is kept".to_owned());
    }
    let record = |number: u32| {
        let cost = amount.map(|amount| share(amount, number, count));
        let facts = Facts::Asset(AssetFacts { cost, ..facts(number) });
        Ok(SourceRecord { external_id: format!("{document}:{line}:{number}"), facts })
    };
    (1..=count).map(record).collect()
}

/// What a piece costs of the amount of all: to two decimals, and together exactly the amount.
fn share(amount: Decimal, number: u32, of: u32) -> Decimal {
    let upto = |number: u32| {
        let part = amount * Decimal::from(number) / Decimal::from(of);
        part.round_dp_with_strategy(2, RoundingStrategy::MidpointAwayFromZero)
    };
    let mut share = upto(number) - upto(number - 1);
    share.rescale(2);
    share
}

/// Notes what a line comes to, by what was made of it ([`pieces`]).
pub fn note_line(left: &mut Left, line: &str, made: &[Result<SourceRecord, BadRecord>]) {
    let count = if made.iter().all(Result::is_ok) { u32::try_from(made.len()).ok() } else { None };
    let noted = left.lines.entry(line.to_owned()).or_insert(Some(0));
    *noted = noted.zip(count).map(|(noted, count)| noted.max(count));
}

/// All pieces of a document that is no more: its own id and a colon stand for every id that begins with them.
pub fn all_gone(document: &str) -> SourceRecord {
    SourceRecord { external_id: format!("{document}:"), facts: Facts::Gone(RecordKind::Asset) }
}

/// As one line of at most 200 characters; `None`, if nothing is left.
pub fn line_of_text(text: &str) -> Option<String> {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let line: String = words.join(" ").chars().take(200).collect();
    Some(line.trim_end().to_owned()).filter(|line| !line.is_empty())
}

/// A currency by its code, or by the name that the configuration has for it.
pub fn currency(word: &str, named: &BTreeMap<String, Currency>) -> Result<Currency, String> {
    let known = named.get(word).copied();
    known.map_or_else(|| Currency::parse(word), Ok).map_err(|_| {
        "its currency is no ISO 4217 code with two decimals; give its name a code in the configuration's currencies"
            .to_owned()
    })
}

/// Reads the configuration of a connector.
pub fn config<T: serde::de::DeserializeOwned>(config: &Value, errors: &mut FieldErrors) -> Option<T> {
    let read = serde_json::from_value(config.clone());
    errors.check("config", read.map_err(|error| ParseError::invalid(format!("cannot be read: {error}"))))
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get().trim_matches('"');
        let read = text.parse().or_else(|_| Decimal::from_scientific(text));
        read.map(Self).map_err(|_| D::Error::custom("is not a decimal number"))
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            Value::Number(number) => Ok(Self(number.to_string())),
            Value::Bool(true) => Ok(Self("T".to_owned())),
            Value::Bool(false) => Ok(Self("F".to_owned())),
            _ => Err(D::Error::custom("is not a text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bought(quantity: Decimal, amount: Decimal) -> Vec<Result<SourceRecord, BadRecord>> {
        let bought = Bought { document: "po-501", line: "1", quantity: Some(quantity), amount: Some(amount) };
        pieces(bought, |_| AssetFacts::default())
    }

    fn costs(quantity: Decimal, amount: Decimal) -> Vec<Decimal> {
        let cost = |record: Result<SourceRecord, BadRecord>| match record.unwrap().facts {
            Facts::Asset(asset) => asset.cost.unwrap(),
            other => panic!("{other:?}"),
        };
        bought(quantity, amount).into_iter().map(cost).collect()
    }

    /// SYNC-9, SYNC-10: three laptops are three assets, and together they cost what was paid.
    #[test]
    fn a_line_over_several_pieces_is_as_many_assets() {
        assert_eq!(costs(dec!(3), dec!(100)), [dec!(33.33), dec!(33.34), dec!(33.33)]);
        assert_eq!(costs(dec!(2.0), dec!(3000)), [dec!(1500.00), dec!(1500.00)]);
        let ids: Vec<String> = bought(dec!(2), dec!(1)).into_iter().map(|record| record.unwrap().external_id).collect();
        assert_eq!(ids, ["po-501:1:1", "po-501:1:2"]);
        assert_eq!(bought(dec!(1000), dec!(1)).len(), 1_000);
        assert_eq!(costs(dec!(1000), dec!(1)).iter().sum::<Decimal>(), dec!(1));
    }

    /// SYNC-4: what cannot be so many things is named, and nothing else is lost.
    #[test]
    fn a_line_over_too_many_or_over_half_a_thing_is_bad() {
        for quantity in [dec!(1001), dec!(100000000000000000000), dec!(1.5)] {
            let made = bought(quantity, dec!(1));
            assert_eq!(made.len(), 1, "{quantity}");
            assert_eq!(made[0].as_ref().unwrap_err().external_id.as_deref(), Some("po-501:1"));
        }
        assert!(bought(dec!(-1), dec!(-10)).is_empty() && bought(dec!(1), dec!(-10)).is_empty());
    }

    /// SYNC-10
    #[test]
    fn a_rule_takes_an_account_or_an_item_by_id_by_name_and_by_the_beginning_of_it() {
        let rule = |account: Option<&str>, item: Option<&str>| Rule {
            account: account.map(str::to_owned),
            item: item.map(str::to_owned),
            ..Rule::default()
        };
        let account = |id, name| Some(Named { id, name: Some(name) });
        let by_name = [rule(Some("computer equipment"), None)];
        assert!(Rule::find(&by_name, account("37", "Computer Equipment"), None).is_some());
        assert!(Rule::find(&by_name, account("38", "Computer Equipment:Cables"), None).is_none());
        let by_id = [rule(Some("37"), None)];
        assert!(Rule::find(&by_id, account("37", "x"), None).is_some());
        assert!(Rule::find(&by_id, None, account("37", "x")).is_none(), "an item is no account");
        let by_category = [rule(None, Some("Hardware:*"))];
        assert!(Rule::find(&by_category, None, account("5", "Hardware:Laptop 14")).is_some());
        assert!(Rule::find(&by_category, None, account("5", "Hard hat")).is_none());

        let mut errors = FieldErrors::default();
        Rule::check(&[rule(None, None), rule(Some("a"), Some("b")), by_id[0].clone()], &mut errors);
        let fields: Vec<&str> = errors.0.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["config.rules[0]", "config.rules[1]"]);
    }

    #[test]
    fn a_decimal_keeps_its_digits() {
        for (text, expected) in
            [("1299.99", dec!(1299.99)), ("\"1500\"", dec!(1500)), ("1.5e3", dec!(1500)), ("0.1", dec!(0.1))]
        {
            assert_eq!(serde_json::from_str::<Exact>(text).unwrap(), Exact(expected), "{text}");
        }
        assert!(serde_json::from_str::<Exact>("\"many\"").is_err() && serde_json::from_str::<Exact>("[]").is_err());
        assert_eq!(line_of_text(" Laptop\r\n14\" ").unwrap(), "Laptop 14\"");
        assert_eq!(line_of_text(" \n"), None);
    }
}
