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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// BILL-1
    #[test]
    fn every_common_way_to_write_it_is_stored_as_ten_digits() {
        for text in ["556194-7986", "5561947986", "16556194-7986", "165561947986", " 556194-7986 "] {
            let number = OrgNumber::parse(text).unwrap();
            assert_eq!(number.as_str(), "5561947986");
            assert_eq!(number.to_string(), "556194-7986");
        }
    }

    /// BILL-1
    #[test]
    fn a_wrong_check_digit_is_refused() {
        assert!(OrgNumber::parse("123456-7890").unwrap_err().message.contains("check digit"));
        assert!(OrgNumber::parse("556194-7987").is_err());
    }

    /// BILL-1
    #[test]
    fn a_personal_identity_number_is_not_an_organization_number() {
        // The tax agency's published test number for a person.
        assert!(OrgNumber::parse("811228-9874").unwrap_err().message.contains("personal identity"));
        assert!(OrgNumber::parse("19811228-9874").is_err());
        assert!(OrgNumber::parse("000000-0000").is_err());
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in [
            "",
            "-",
            "556194",
            "556194+7986",
            "5561-947986",
            "556194--7986",
            "556194-79860",
            "17556194-7986",
            "556194 7986",
            "٥٥٦١٩٤٧٩٨٦",
            "å56194-7986",
            "55619479é6",
            "SE556194798601",
        ] {
            assert!(OrgNumber::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// BILL-1
        #[test]
        fn of_ten_last_digits_exactly_one_is_right(start in "[1-9][0-9][2-9][0-9]{6}") {
            let valid = (0..10).filter(|check| OrgNumber::parse(&format!("{start}{check}")).is_ok()).count();
            prop_assert_eq!(valid, 1);
        }

        #[test]
        fn no_text_makes_it_panic_and_a_number_reads_back(text in "\\PC{0,16}|[0-9]{4,12}|[0-9]{6,8}-[0-9]{4}") {
            if let Ok(number) = OrgNumber::parse(&text) {
                prop_assert_eq!(OrgNumber::parse(&number.to_string()).unwrap(), number);
            }
        }
    }
}
