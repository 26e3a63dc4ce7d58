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
