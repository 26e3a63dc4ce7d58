//! A telephone number. It is sealed in the database, so it has no `Display` and its `Debug` hides it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ParseError;
use super::text::parsed_text;

/// `+` and 7 to 15 digits, country code first (ITU-T E.164).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Phone(String);

parsed_text!(Phone);

impl Phone {
    /// Reads what people write: `070-123 45 67`, `+46 (0)70 123 45 67`, `0046701234567`. A number without a country
    /// code is Swedish.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ParseError::new("required", "must not be empty"));
        }
        let international = text.starts_with('+') || text.starts_with("00");
        // The trunk prefix in parentheses is dialled only inside the country.
        let written = if international { text.replacen("(0)", "", 1) } else { text.to_owned() };
        let compact: String =
            written.chars().filter(|c| !matches!(c, ' ' | '\u{a0}' | '-' | '.' | '/' | '(' | ')')).collect();
        let digits = if let Some(rest) = compact.strip_prefix('+').or_else(|| compact.strip_prefix("00")) {
            rest.to_owned()
        } else if let Some(rest) = compact.strip_prefix('0') {
            format!("46{rest}")
        } else {
            return Err(ParseError::invalid("must start with 0 or with + and a country code"));
        };
        let well_formed =
            (7..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
        if !well_formed {
            return Err(ParseError::invalid("is not a telephone number; it looks like +46701234567 or 070-123 45 67"));
        }
        Ok(Self(format!("+{digits}")))
    }
}

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phone(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BILL-1
    #[test]
    fn one_number_written_in_many_ways_is_one_number() {
        for text in [
            "070-123 45 67",
            "0701234567",
            "+46 70 123 45 67",
            "+46 (0)70 123 45 67",
            "0046701234567",
            "(070) 1234567",
            "070.123.45.67",
        ] {
            assert_eq!(Phone::parse(text).unwrap().as_str(), "+46701234567", "{text}");
        }
        assert_eq!(Phone::parse("+1 (212) 555-0100").unwrap().as_str(), "+12125550100");
    }

    #[test]
    fn what_nobody_can_dial_is_refused() {
        for text in
            ["", "0", "70 123 45 67", "+", "+0701234567", "070-12a45", "+46 70 123 45 67 89 01 23", "++4670123456"]
        {
            assert!(Phone::parse(text).is_err(), "{text}");
        }
    }

    /// VAULT-4
    #[test]
    fn a_number_is_in_no_debug_output_and_no_error() {
        assert_eq!(format!("{:?}", Phone::parse("070-123 45 67").unwrap()), "Phone(hidden)");
        assert!(!format!("{:?}", Phone::parse("70-123 45 67").unwrap_err()).contains("123"));
    }
}
