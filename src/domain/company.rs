//! A company: the customer that an organization invoices (BILL-1).

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::field_error::{many_lines, one_line};
use super::{EmailAddress, FieldErrors, Language, OrgNumber, Phone};

/// The person to talk to. Sealed in the database as one JSON value; its `Debug` hides it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contact {
    pub name: Option<String>,
    pub title: Option<String>,
    /// As it was written; the company's own phone is the one that is looked up.
    pub phone: Option<String>,
    pub notes: Option<String>,
}

impl fmt::Debug for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Contact(hidden)")
    }
}

/// A company to be stored, new or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCompany {
    pub name: String,
    pub email: EmailAddress,
    pub org_number: OrgNumber,
    pub language: Language,
    pub phone: Option<Phone>,
    pub contact: Option<Contact>,
}

impl NewCompany {
    /// Checks what the types cannot: names up to 200 characters, notes up to 2,000.
    pub fn validate(&self) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        errors.check("name", one_line(&self.name, 200));
        let contact = self.contact.clone().unwrap_or_default();
        for (field, text, max) in [
            ("contact.name", &contact.name, 200),
            ("contact.title", &contact.title, 200),
            ("contact.phone", &contact.phone, 50),
        ] {
            if let Some(text) = text {
                errors.check(field, one_line(text, max));
            }
        }
        if let Some(notes) = &contact.notes {
            errors.check("contact.notes", many_lines(notes, 2_000));
        }
        errors.into_result()
    }
}

/// A company as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Company {
    pub id: Uuid,
    pub name: String,
    pub email: EmailAddress,
    pub org_number: OrgNumber,
    pub language: Language,
    pub phone: Option<Phone>,
    pub contact: Option<Contact>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}
