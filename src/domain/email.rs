//! An address that mail can be sent to.

use std::fmt;

use email_address::Options;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;
use url::Host;

use super::ParseError;
use super::text::parsed_text;

/// `local@domain`, at most 255 characters of ASCII, the domain in lower case. Neither a display name nor a line break
/// fits in, so it is safe in a mail header.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress(String);

parsed_text!(EmailAddress);

impl EmailAddress {
    /// Trims blanks around it, takes forms of one character for that character (NFKC: `＠` is `@`), writes the domain in its
    /// ASCII form in lower case (`exämple.se` is `xn--exmple-cua.se`); the local part is left as it is (RFC 5321, section 2.4).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.trim_matches([' ', '\t']);
        if text.is_empty() {
            return Err(ParseError::new("required", "must not be empty"));
        }
        let too_long = || ParseError::new("too_long", "must have at most 255 characters");
        // One character becomes 18 at most; what cannot fit is not worth normalising.
        if text.len() > 1_024 {
            return Err(too_long());
        }
        let text = ascii_form(text);
        if text.len() > 255 {
            return Err(too_long());
        }
        if !text.is_ascii() {
            return Err(ParseError::invalid("must be plain ASCII before the `@`"));
        }
        let text = text.as_str();
        let options = Options::default().without_display_text().without_domain_literal();
        let address = email_address::EmailAddress::parse_with_options(text, options)
            .ok()
            // A quoted local part is another way to write an address, or one that no mailbox has.
            .filter(|_| !text.contains('"') && !text.chars().any(char::is_control))
            .ok_or_else(|| ParseError::invalid("is not an e-mail address; it looks like name@example.com"))?;
        Ok(Self(format!("{}@{}", address.local_part(), address.domain().to_ascii_lowercase())))
    }

    /// What stands before the `@`.
    pub fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or(self.as_str(), |(local, _)| local)
    }

    /// What two addresses of one mailbox have in common: the address in lower case. Looked up by, unique by; never written to.
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    /// What stands after the `@`, in lower case.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

/// The address in NFKC, its domain as in DNS. What has no such form is left for [`EmailAddress::parse`] to refuse.
fn ascii_form(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let text: String = text.nfkc().collect();
    match text.rsplit_once('@') {
        Some((local, domain)) if !domain.is_ascii() => match Host::parse(domain) {
            Ok(Host::Domain(domain)) => format!("{local}@{domain}"),
            _ => text,
        },
        _ => text,
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

    /// WORK-3, AUTH-1
    #[test]
    fn addresses_that_differ_in_case_or_unicode_form_have_one_key() {
        let key = |text: &str| EmailAddress::parse(text).unwrap_or_else(|e| panic!("{text} {e}")).key();
        for same in [
            "anna@acme.example",
            "ANNA@ACME.example",
            "Anna@Acme.Example",
            "ａｎｎａ＠ａｃｍｅ．example",
            "anna@acme\u{ff0e}example",
        ] {
            assert_eq!(key(same), "anna@acme.example", "{same}");
        }
        for same in ["Bo@exämple.se", "bo@EXÄMPLE.se", "bo@exa\u{308}mple.se", "bo@xn--exmple-cua.se"] {
            assert_eq!(key(same), "bo@xn--exmple-cua.se", "{same}");
        }
        assert_eq!(key("\u{212a}im@b.example"), "kim@b.example", "the Kelvin sign is a K");
        assert_ne!(key("anna+1@acme.example"), key("anna@acme.example"));
        for other in ["аnna@acme.example", "ınga@acme.example", "ånna@acme.example"] {
            assert_eq!(
                EmailAddress::parse(other).unwrap_err().code,
                "invalid",
                "{other}: another letter, not another form"
            );
        }
    }

    #[test]
    fn nothing_gets_into_a_header_with_an_address() {
        for text in [
            "a@b.example\r\nBcc: c@d.example",
            "a\n@b.example",
            "\"a\r\nb\"@b.example",
            "\"anna\"@b.example",
            "\"\\anna\"@b.example",
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

        #[test]
        fn a_key_is_an_address_and_its_own_key(text in "\\PC{1,20}@\\PC{1,20}|[a-zA-Zå-ö]{1,9}@[a-zA-ZÅ-ö]{1,9}\\.se") {
            if let Ok(address) = EmailAddress::parse(&text) {
                let key = address.key();
                proptest::prop_assert_eq!(EmailAddress::parse(&key).unwrap().key(), key);
                let upper = address.as_str().to_ascii_uppercase();
                proptest::prop_assert_eq!(EmailAddress::parse(&upper).unwrap().key(), address.key());
            }
        }
    }
}
