//! The short name of an organization, in addresses and in the name of its schema.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ParseError;
use super::text::parsed_text;

/// Names that would be mistaken for a part of the product, as a subdomain or as a database object.
const RESERVED: &[&str] = &[
    "account",
    "admin",
    "api",
    "app",
    "assets",
    "auth",
    "backroom",
    "billing",
    "blog",
    "cdn",
    "dashboard",
    "demo-data",
    "docs",
    "events",
    "health",
    "help",
    "internal",
    "jobs",
    "login",
    "mail",
    "metrics",
    "none",
    "operator",
    "org",
    "platform",
    "postgres",
    "public",
    "queue",
    "root",
    "signup",
    "static",
    "status",
    "support",
    "system",
    "template",
    "tenant-template",
    "test-template",
    "webhooks",
    "www",
];

/// `[a-z][a-z0-9-]{1,39}` and not reserved. It never changes: the schema, the queue's tenant key and sealed fields are
/// bound to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(String);

parsed_text!(Slug);

impl Slug {
    /// Takes the text as it is: an upper-case letter is refused rather than lowered, because people type slugs again.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let well_formed = (2..=40).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !well_formed {
            return Err(ParseError::invalid(
                "must have 2 to 40 characters: lower-case letters a-z, digits and hyphens, a letter first",
            ));
        }
        if RESERVED.contains(&text) {
            return Err(ParseError::new("reserved", "is a reserved name; choose another"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The organization's schema: `acme-inc` lives in `org_acme_inc`. Two slugs never share one, as a slug has no `_`.
    pub fn schema_name(&self) -> String {
        format!("org_{}", self.0.replace('-', "_"))
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// TEN-1
    #[test]
    fn reserved_and_malformed_names_are_refused() {
        for reserved in ["public", "admin", "api", "www", "app"] {
            assert_eq!(Slug::parse(reserved).unwrap_err().code, "reserved", "{reserved}");
        }
        let long = "a".repeat(41);
        for malformed in ["", "a", "1a", "-a", "Acme", "acme_inc", "acme.inc", "åkes", "acme ", " acme", &long] {
            assert_eq!(Slug::parse(malformed).unwrap_err().code, "invalid", "{malformed}");
        }
        assert!(Slug::parse(&long[..40]).is_ok());
    }

    /// TEN-1
    #[test]
    fn hyphens_become_underscores_in_the_schema() {
        assert_eq!(Slug::parse("acme-inc").unwrap().schema_name(), "org_acme_inc");
    }

    proptest! {
        /// TEN-1
        #[test]
        fn every_text_of_the_pattern_is_a_slug_unless_reserved(text in "[a-z][a-z0-9-]{1,39}") {
            let slug = Slug::parse(&text);
            prop_assert_eq!(slug.is_ok(), !RESERVED.contains(&text.as_str()));
            if let Ok(slug) = slug {
                prop_assert_eq!(slug.schema_name()[4..].replace('_', "-"), text);
            }
        }

        #[test]
        fn no_other_text_is_a_slug(text in ".{0,60}") {
            let bytes = text.as_bytes();
            let matches = (2..=40).contains(&bytes.len())
                && bytes[0].is_ascii_lowercase()
                && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
            prop_assert!(matches || Slug::parse(&text).is_err());
        }
    }
}
