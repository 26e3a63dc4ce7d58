//! A record of a person as it came. What is missing is `None`; what is there and makes no sense is noted, without the value, and makes
//! a bad record of it.

use std::collections::BTreeMap;

use chrono::{Datelike, NaiveDate};
use serde_json::{Map, Value};

use super::one_line;
use crate::domain::{EmailAddress, field_error, integration::BadRecord};

/// The longest text of one field.
const LONGEST: usize = 200;
/// Years that occur in the life of an employee.
const YEARS: std::ops::RangeInclusive<i32> = 1900..=2200;

pub(in crate::clients) struct Fields<'a> {
    record: &'a Map<String, Value>,
    wrong: Vec<String>,
}

impl<'a> Fields<'a> {
    pub fn of(record: &'a Value) -> Result<Self, BadRecord> {
        match record {
            Value::Object(record) => Ok(Self { record, wrong: Vec::new() }),
            _ => Err(BadRecord { external_id: None, reason: "is not an object".to_owned() }),
        }
    }

    /// The value of a field. A name with dots leads into objects, unless a field has that name.
    fn value(&self, name: &str) -> Option<&'a Value> {
        if let Some(value) = self.record.get(name) {
            return Some(value);
        }
        let (first, rest) = name.split_once('.')?;
        rest.split('.').try_fold(self.record.get(first)?, |value, name| value.get(name))
    }

    /// One line; `None` if it is missing, null or blank. A reference stands for its `descriptor`.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let value = self.value(name)?;
        let value = value.get("descriptor").unwrap_or(value);
        let text = match value {
            Value::Null => return None,
            Value::String(text) => one_line(text),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Array(_) | Value::Object(_) => return self.not(name, "is not text"),
        };
        if text.is_empty() {
            return None;
        }
        match field_error::one_line(&text, LONGEST) {
            Ok(()) => Some(text),
            Err(error) => self.not(name, &error.message),
        }
    }

    /// A date, also with a time or a zone behind it, which say nothing of the day. Empty dates have three forms.
    pub fn date(&mut self, name: &str) -> Option<NaiveDate> {
        let text = self.text(name)?;
        if text.starts_with("0000-00-00") {
            return None;
        }
        let date = text.get(..10).and_then(|date| NaiveDate::parse_from_str(date, "%Y-%m-%d").ok());
        let rest_is_time =
            text.get(10..).is_none_or(|rest| rest.is_empty() || rest.starts_with(['T', ' ', 'Z', '+', '-']));
        match date.filter(|date| rest_is_time && YEARS.contains(&date.year())) {
            Some(date) => Some(date),
            None => self.not(name, "is not a date"),
        }
    }

    pub fn email(&mut self, name: &str) -> Option<EmailAddress> {
        let text = self.text(name)?;
        match EmailAddress::parse(&text) {
            Ok(address) => Some(address),
            Err(error) => self.not(name, &error.message),
        }
    }

    /// `1`, `0`, `true`, `false`, as text or not, in any case; also `yes` and `no`.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        match self.text(name)?.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "y" => Some(true),
            "0" | "false" | "no" | "n" => Some(false),
            _ => self.not(name, "is neither true nor false"),
        }
    }

    /// The fields as they came, those that are there.
    pub fn custom(&self, names: &[String]) -> BTreeMap<String, Value> {
        let there = |name: &String| {
            let value = self.value(name).filter(|value| !value.is_null() && value.as_str() != Some(""))?;
            Some((name.clone(), value.clone()))
        };
        names.iter().filter_map(there).collect()
    }

    /// Notes that a field is no good.
    pub fn wrong(&mut self, name: &str, what: &str) {
        self.wrong.push(format!("`{name}` {what}"));
    }

    fn not<T>(&mut self, name: &str, what: &str) -> Option<T> {
        self.wrong(name, what);
        None
    }

    /// The record, if nothing was noted.
    pub fn done<T>(self, external_id: &str, value: T) -> Result<T, BadRecord> {
        if self.wrong.is_empty() {
            return Ok(value);
        }
        Err(BadRecord { external_id: Some(external_id.to_owned()), reason: self.wrong.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn date(value: Value) -> Result<Option<NaiveDate>, String> {
        let record = json!({"hireDate": value});
        let mut fields = Fields::of(&record).unwrap();
        let date = fields.date("hireDate");
        fields.done("1", date).map_err(|bad| bad.reason)
    }

    /// SYNC-7, SYNC-8
    #[test]
    fn a_date_has_many_forms_and_three_of_them_are_empty() {
        for empty in [json!(null), json!(""), json!(" "), json!("0000-00-00")] {
            assert_eq!(date(empty.clone()), Ok(None), "{empty}");
        }
        let day = NaiveDate::from_ymd_opt(1960, 1, 31);
        for written in ["1960-01-31", "1960-01-31-07:00", "1960-01-31T00:00:00+00:00", "1960-01-31Z"] {
            assert_eq!(date(json!(written)), Ok(day), "{written}");
        }
        for bad in [json!("31/01/1960"), json!("1960-02-31"), json!("1960-01-311"), json!("0001-01-01"), json!([])] {
            let reason = date(bad.clone()).unwrap_err();
            assert!(reason.starts_with("`hireDate` is not"), "{bad}: {reason}");
        }
    }

    /// SYNC-4: what is wrong is said without what it was.
    #[test]
    fn a_reason_names_fields_and_no_values() {
        let record = json!({"a": "x".repeat(201), "b": {"c": 1}, "d": "not mail", "e": "perhaps"});
        let mut fields = Fields::of(&record).unwrap();
        let _ = (fields.text("a"), fields.text("b"), fields.email("d"), fields.flag("e"));
        let bad = fields.done("7", ()).unwrap_err();
        assert_eq!(bad.external_id.as_deref(), Some("7"));
        assert_eq!(
            bad.reason,
            "`a` must have at most 200 characters; `b` is not text; `d` is not an e-mail address; it looks like \
             name@example.com; `e` is neither true nor false"
        );
        assert!(Fields::of(&json!("a person")).is_err());
    }

    #[test]
    fn a_text_is_a_line_of_whatever_it_came_as() {
        let record =
            json!({"a": " Åsa\r\n Ek ", "b": 7, "c": {"descriptor": "Lund", "id": "x"}, "d": {"e": {"f": "deep"}}});
        let mut fields = Fields::of(&record).unwrap();
        let texts = ["a", "b", "c", "d.e.f", "d.x.f", "z"].map(|name| fields.text(name));
        assert_eq!(texts.map(Option::unwrap_or_default), ["Åsa Ek", "7", "Lund", "deep", "", ""]);
        assert_eq!(fields.custom(&["b".to_owned(), "z".to_owned()]), BTreeMap::from([("b".to_owned(), json!(7))]));
    }
}
