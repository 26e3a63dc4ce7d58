//! What the clients of HRIS have in common: configuration that says all that is wrong with it, a person's fields as they come, and
//! answers that are not JSON.

mod fields;
mod settings;
#[cfg(test)]
pub(super) mod testing;

use chrono::{DateTime, NaiveDate, Utc};
use serde::de::DeserializeOwned;

pub(super) use self::{fields::Fields, settings::Settings};
use super::{connector::ConnectorError, http::Reply};

/// What the vendor says of an error, at most.
const SAID: usize = 200;

/// The body of a good answer.
pub(super) fn decoded<T: DeserializeOwned>(title: &str, reply: &Reply) -> Result<T, ConnectorError> {
    serde_json::from_slice(&reply.body).map_err(|error| {
        // Without serde's own words, which may hold a person's.
        if error.is_eof() && !reply.body.is_empty() {
            return ConnectorError::Transient(format!("an answer of {title} ended too early"));
        }
        let (line, column) = (error.line(), error.column());
        ConnectorError::Protocol(format!(
            "an answer of {title} is not what it documents (line {line}, column {column})"
        ))
    })
}

/// What the other side said as one line without control characters, behind a colon; nothing if it said nothing.
pub(super) fn said(text: Option<&str>) -> String {
    let line = one_line(text.unwrap_or_default());
    if line.is_empty() { line } else { format!(": {}", line.chars().take(SAID).collect::<String>()) }
}

/// Words with one blank between them.
pub(super) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// The time at the vendor's, by its answer's `Date`: bookmarks are on its clock, not on ours.
pub(super) fn time_of(reply: &Reply, otherwise: DateTime<Utc>) -> DateTime<Utc> {
    let date = reply.headers.get("date").and_then(|date| date.to_str().ok());
    date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()).map_or(otherwise, |date| date.to_utc())
}

/// Whether an employment is over by its dates: a termination that is dated ahead has not come yet, and one before the hire is of an
/// earlier employment.
pub(super) fn is_over(hired: Option<NaiveDate>, terminated: Option<NaiveDate>, today: NaiveDate) -> bool {
    terminated.is_some_and(|date| date <= today && hired.is_none_or(|hired| hired <= date))
}
