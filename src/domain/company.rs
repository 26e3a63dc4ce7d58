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

#[cfg(test)]
mod tests {
    use super::*;

    fn company(name: &str, contact: Contact) -> NewCompany {
        NewCompany {
            name: name.to_owned(),
            email: EmailAddress::parse("ap@acme.example").unwrap(),
            org_number: OrgNumber::parse("556194-7986").unwrap(),
            language: Language::Sv,
            phone: None,
            contact: Some(contact),
        }
    }

    /// BILL-1
    #[test]
    fn a_company_without_a_name_and_a_contact_with_too_much_are_refused() {
        let contact = Contact { notes: Some("n".repeat(2_001)), title: Some(" ".to_owned()), ..Contact::default() };
        let errors = company("", contact).validate().unwrap_err();
        let fields: Vec<&str> = errors.0.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["name", "contact.title", "contact.notes"]);
        assert_eq!(company("Acme AB", Contact::default()).validate(), Ok(()));
    }

    /// VAULT-4
    #[test]
    fn a_contact_is_in_no_debug_output() {
        let contact = Contact { name: Some("Anna Ek".to_owned()), ..Contact::default() };
        assert!(!format!("{:?}", company("Acme AB", contact)).contains("Anna"));
    }
}
