//! The number that the Swedish state knows a legal person by.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ParseError;
use super::luhn;
use super::text::parsed_text;

/// Ten digits of a Swedish organization number (lagen 1974:174): the first is the kind of legal person, the third is at
/// least 2 (which tells it from a personal identity number), the last is a Luhn check digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrgNumber(String);

parsed_text!(OrgNumber);

impl OrgNumber {
    /// Reads `556194-7986`, `5561947986` and, with the century of the tax agency, `16556194-7986`. A personal identity
    /// number is refused: it is private, and this column is not sealed.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ParseError::new("required", "must not be empty"));
        }
        let digits = bare_digits(text).ok_or_else(|| {
            ParseError::invalid("is not a Swedish organization number; it has ten digits such as 556194-7986")
        })?;
        if !luhn::is_valid(digits.as_str()) {
            return Err(ParseError::invalid("has a wrong check digit; one of its digits is probably mistyped"));
        }
        if digits.starts_with('0') || matches!(digits.as_bytes()[2], b'0' | b'1') {
            return Err(ParseError::invalid(
                "is not the number of an organization (its third digit must be 2 or more); personal identity numbers \
                 are not accepted",
            ));
        }
        Ok(Self(digits))
    }
}

/// The ten digits, without the optional century 16 and the optional hyphen before the last four.
fn bare_digits(text: &str) -> Option<String> {
    let (head, tail) = match text.split_once('-') {
        Some(parts) => parts,
        None => text.split_at_checked(text.len().checked_sub(4)?)?,
    };
    let all_digits = head.bytes().chain(tail.bytes()).all(|b| b.is_ascii_digit());
    let head = match head.len() {
        8 => head.strip_prefix("16")?,
        _ => head,
    };
    (all_digits && head.len() == 6 && tail.len() == 4).then(|| format!("{head}{tail}"))
}

impl fmt::Display for OrgNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", &self.0[..6], &self.0[6..]))
    }
}
