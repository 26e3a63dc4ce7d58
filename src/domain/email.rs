//! An address that mail can be sent to.

use std::fmt;

use email_address::Options;
use serde::{Deserialize, Serialize};

use super::ParseError;
use super::text::parsed_text;

/// `local@domain`, at most 255 characters of ASCII, the domain in lower case. Neither a display name nor a line break
/// fits in, so it is safe in a mail header.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress(String);

parsed_text!(EmailAddress);

impl EmailAddress {
    /// Trims blanks around it and lowers the domain; the local part is left as it is (RFC 5321, section 2.4).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.trim_matches([' ', '\t']);
        if text.is_empty() {
            return Err(ParseError::new("required", "must not be empty"));
        }
        if text.len() > 255 {
            return Err(ParseError::new("too_long", "must have at most 255 characters"));
        }
        if !text.is_ascii() {
            return Err(ParseError::invalid(
                "must be plain ASCII; write a domain such as `exämple.se` in its `xn--` form",
            ));
        }
        let options = Options::default().without_display_text().without_domain_literal();
        let address = email_address::EmailAddress::parse_with_options(text, options)
            .ok()
            .filter(|_| !text.chars().any(char::is_control))
            .ok_or_else(|| ParseError::invalid("is not an e-mail address; it looks like name@example.com"))?;
        Ok(Self(format!("{}@{}", address.local_part(), address.domain().to_ascii_lowercase())))
    }

    /// What stands before the `@`.
    pub fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or(self.as_str(), |(local, _)| local)
    }

    /// What stands after the `@`, in lower case.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_is_lowered_and_blanks_around_are_cut() {
        let address = EmailAddress::parse(" Anna.Ek@Acme.EXAMPLE ").unwrap();
        assert_eq!(address.as_str(), "Anna.Ek@acme.example");
        assert_eq!((address.local_part(), address.domain()), ("Anna.Ek", "acme.example"));
    }

    #[test]
    fn nothing_gets_into_a_header_with_an_address() {
        for text in [
            "a@b.example\r\nBcc: c@d.example",
            "a\n@b.example",
            "\"a\r\nb\"@b.example",
            "Anna <a@b.example>",
            "a@b.example, c@d.example",
            "a@b.example\0",
            "\ra@b.example",
        ] {
            assert_eq!(EmailAddress::parse(text).unwrap_err().code, "invalid", "{text:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for (text, code) in [
            ("", "required"),
            (" ", "required"),
            ("anna", "invalid"),
            ("@b.example", "invalid"),
            ("a@", "invalid"),
            ("a@@b.example", "invalid"),
            ("a@[127.0.0.1]", "invalid"),
            ("å@b.example", "invalid"),
            (&format!("a@{}example", "b.".repeat(130)), "too_long"),
        ] {
            assert_eq!(EmailAddress::parse(text).unwrap_err().code, code, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn an_address_reads_back_as_itself(text in "[a-zA-Z0-9._+-]{1,20}@[a-zA-Z0-9.-]{1,30}") {
            if let Ok(address) = EmailAddress::parse(&text) {
                proptest::prop_assert_eq!(EmailAddress::parse(address.as_str()).unwrap(), address);
            }
        }
    }
}
