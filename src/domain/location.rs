//! A location (ASSET-2): where employees work and assets are.

use std::fmt;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::FieldErrors;
use super::field_error::{many_lines, one_line};
use super::text::text_enum;

text_enum! {
    /// What a location is.
    #[derive(Default)]
    pub enum LocationKind("kind of location") {
        #[default]
        Office = "office",
        Warehouse = "warehouse",
        /// Where somebody lives.
        EmployeeHome = "employee_home",
        /// Nowhere in particular.
        Remote = "remote",
    }
}

impl LocationKind {
    /// Of a location of which an HRIS says no more than the name.
    pub fn of_name(name: &str) -> Self {
        if name.trim().to_lowercase().starts_with("remote") { Self::Remote } else { Self::Office }
    }
}

/// A location to be stored, new or changed. Address and phone are sealed in the database.
#[derive(Clone, PartialEq, Eq)]
pub struct NewLocation {
    /// Unique within the organization, in any case.
    pub name: String,
    pub kind: LocationKind,
    pub address: Option<String>,
    /// As it was written.
    pub phone: Option<String>,
    /// Whether people and things still go there.
    pub active: bool,
}

impl fmt::Debug for NewLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewLocation")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

impl NewLocation {
    /// Checks what the types cannot: a name, an address of up to 1,000 characters.
    pub fn validate(&self) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        errors.check("name", one_line(&self.name, 200));
        if let Some(address) = &self.address {
            errors.check("address", many_lines(address, 1_000));
        }
        if let Some(phone) = &self.phone {
            errors.check("phone", one_line(phone, 50));
        }
        errors.into_result()
    }
}

/// A location as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub id: Uuid,
    pub facts: NewLocation,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn office() -> NewLocation {
        NewLocation {
            name: "Stockholm".to_owned(),
            kind: LocationKind::Office,
            address: Some("Planterad gata 1\n111 22 Stockholm".to_owned()),
            phone: None,
            active: true,
        }
    }

    /// ASSET-2
    #[test]
    fn a_location_has_a_name_of_one_line() {
        assert_eq!(office().validate(), Ok(()));
        let wrong = NewLocation { name: " ".to_owned(), phone: Some("1\n2".to_owned()), ..office() };
        let fields: Vec<_> = wrong.validate().unwrap_err().0.into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["name", "phone"]);
    }

    /// ASSET-2
    #[test]
    fn what_an_hris_calls_remote_is_no_office() {
        assert_eq!(LocationKind::of_name("Remote - Sweden"), LocationKind::Remote);
        assert_eq!(LocationKind::of_name("London, UK"), LocationKind::Office);
    }

    /// VAULT-4, ASSET-2
    #[test]
    fn an_address_is_in_no_debug_output() {
        assert!(!format!("{:?}", office()).contains("Planterad"));
    }
}
