//! An employee (ASSET-1): somebody who works here, whether an HRIS tells of them or a person wrote them down.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::field_error::{many_lines, one_line};
use super::source_record::{EmployeeFacts, Standing};
use super::text::text_enum;
use super::{EmailAddress, FieldErrors};

/// Custom fields at most, of an employee or an asset.
pub const MAX_CUSTOM_FIELDS: usize = 50;
/// What all of them have together at most, as JSON.
const MAX_CUSTOM_BYTES: usize = 20_000;

text_enum! {
    /// Whether somebody works here.
    #[derive(Default)]
    pub enum EmployeeStatus("status of an employee") {
        #[default]
        Active = "active",
        /// Away for long, and expected back.
        OnLeave = "on_leave",
        /// Gone.
        Terminated = "terminated",
    }
}

/// Why an employee stays as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the employee is terminated already")]
    Terminated,
    #[error("the employee is {0}, not terminated; there is nothing to reactivate")]
    NotTerminated(EmployeeStatus),
    #[error("the last day must not be before the day of hire")]
    BeforeHire,
}

impl EmployeeStatus {
    /// Whether somebody works here, at their desk or not.
    pub fn is_employed(self) -> bool {
        self != Self::Terminated
    }
}

impl From<Standing> for EmployeeStatus {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Active => Self::Active,
            Standing::OnLeave => Self::OnLeave,
            Standing::Terminated => Self::Terminated,
        }
    }
}

/// What is nobody's business but the organization's admins'. Sealed in the database; its `Debug` hides it.
#[derive(Clone, Default, PartialEq)]
pub struct Private {
    /// As it was written.
    pub phone: Option<String>,
    pub home_address: Option<String>,
    pub social_security_number: Option<String>,
    pub national_id: Option<String>,
    pub date_of_birth: Option<NaiveDate>,
    /// What else the organization keeps.
    pub custom: BTreeMap<String, Value>,
}

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Private(hidden)")
    }
}

/// A person's name. Sealed in the database; its `Debug` hides it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PersonName {
    pub first: String,
    pub last: String,
}

impl fmt::Debug for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PersonName(hidden)")
    }
}

impl fmt::Display for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(format!("{} {}", self.first, self.last).trim())
    }
}

/// An employee to be stored, new or changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewEmployee {
    /// Unique within the organization.
    pub work_email: Option<EmailAddress>,
    pub name: PersonName,
    pub private: Private,
    pub title: Option<String>,
    pub department: Option<String>,
    pub manager_id: Option<Uuid>,
    pub location_id: Option<Uuid>,
    pub status: EmployeeStatus,
    pub hire_date: Option<NaiveDate>,
    /// The last day; of somebody who still works here, the day that was agreed.
    pub termination_date: Option<NaiveDate>,
}

impl NewEmployee {
    /// Checks what the types cannot: a name, texts of one line, dates in their order.
    pub fn validate(&self) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        let PersonName { first, last } = &self.name;
        let named = !(first.trim().is_empty() && last.trim().is_empty());
        errors.require(named, "first_name", "required", "must not be empty when last_name is");
        let private = &self.private;
        for (field, text, max) in [
            ("first_name", Some(first).filter(|first| !first.is_empty()), 200),
            ("last_name", Some(last).filter(|last| !last.is_empty()), 200),
            ("phone", private.phone.as_ref(), 50),
            ("social_security_number", private.social_security_number.as_ref(), 50),
            ("national_id", private.national_id.as_ref(), 50),
            ("title", self.title.as_ref(), 200),
            ("department", self.department.as_ref(), 200),
        ] {
            if let Some(text) = text.filter(|_| named) {
                errors.check(field, one_line(text, max));
            }
        }
        if let Some(address) = &private.home_address {
            errors.check("home_address", many_lines(address, 1_000));
        }
        if let (Some(hired), Some(left)) = (self.hire_date, self.termination_date) {
            errors.require(left >= hired, "termination_date", "out_of_range", "must not be before hire_date");
        }
        check_custom(&mut errors, &private.custom);
        errors.into_result()
    }
}

/// Accepts fields of an organization's own: not too many, with names of one line.
pub(super) fn check_custom(errors: &mut FieldErrors, custom: &BTreeMap<String, Value>) {
    errors.require(
        custom.len() <= MAX_CUSTOM_FIELDS,
        "custom",
        "too_long",
        format!("must have at most {MAX_CUSTOM_FIELDS} fields"),
    );
    for name in custom.keys() {
        errors.check("custom", one_line(name, 100));
    }
    let size: usize = custom.values().map(|value| value.to_string().len()).sum();
    let message = format!("must have at most {MAX_CUSTOM_BYTES} bytes");
    errors.require(size <= MAX_CUSTOM_BYTES, "custom", "too_long", message);
    // PostgreSQL's JSON has no NUL.
    let nul = custom.values().any(|value| value.to_string().contains("\\u0000"));
    errors.require(!nul, "custom", "invalid", "must not contain the character U+0000");
}

impl From<&EmployeeFacts> for NewEmployee {
    /// The employee as a source has them; manager and location are the store's to find.
    fn from(facts: &EmployeeFacts) -> Self {
        Self {
            work_email: facts.work_email.clone(),
            name: PersonName { first: facts.first_name.clone(), last: facts.last_name.clone() },
            private: Private {
                phone: facts.phone.clone(),
                home_address: facts.home_address.clone(),
                social_security_number: facts.social_security_number.clone(),
                national_id: facts.national_id.clone(),
                date_of_birth: facts.date_of_birth,
                custom: facts.custom.clone(),
            },
            title: facts.job_title.clone(),
            department: facts.department.clone(),
            manager_id: None,
            location_id: None,
            status: facts.standing.into(),
            hire_date: facts.hire_date,
            termination_date: facts.termination_date,
        }
    }
}

/// An employee as they are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Employee {
    pub id: Uuid,
    pub facts: NewEmployee,
    /// The integration that tells of them.
    pub integration_id: Option<Uuid>,
    /// Their id at the HRIS.
    pub external_id: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn anna() -> NewEmployee {
        NewEmployee {
            name: PersonName { first: "Anna".to_owned(), last: "Ek".to_owned() },
            private: Private { national_id: Some("811228-9874".to_owned()), ..Private::default() },
            ..NewEmployee::default()
        }
    }

    /// ASSET-1
    #[test]
    fn an_employee_without_a_name_or_who_leaves_before_they_come_is_refused() {
        assert_eq!(anna().validate(), Ok(()));
        let one_name =
            NewEmployee { name: PersonName { first: "Madonna".to_owned(), ..PersonName::default() }, ..anna() };
        assert_eq!(one_name.validate(), Ok(()));
        let day = |day| NaiveDate::from_ymd_opt(2026, 3, day);
        let wrong = NewEmployee {
            name: PersonName::default(),
            title: Some("t\nt".to_owned()),
            hire_date: day(2),
            termination_date: day(1),
            ..anna()
        };
        let fields: Vec<_> = wrong.validate().unwrap_err().0.into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["first_name", "termination_date"]);
        let wrong = NewEmployee { title: Some("t\nt".to_owned()), department: Some("d".repeat(201)), ..anna() };
        let fields: Vec<_> = wrong.validate().unwrap_err().0.into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["title", "department"]);
    }

    /// ASSET-1
    #[test]
    fn custom_fields_are_few_and_small() {
        let with = |custom| NewEmployee { private: Private { custom, ..Private::default() }, ..anna() };
        let many = (0..=MAX_CUSTOM_FIELDS).map(|n| (format!("f{n}"), json!(n))).collect();
        let large = BTreeMap::from([("f".to_owned(), json!("x".repeat(MAX_CUSTOM_BYTES + 1)))]);
        let nul = BTreeMap::from([("f".to_owned(), json!("a\0b"))]);
        let unnamed = BTreeMap::from([(String::new(), json!(1))]);
        for wrong in [many, large, nul, unnamed] {
            assert_eq!(with(wrong).validate().unwrap_err().0[0].field, "custom");
        }
        assert_eq!(with(BTreeMap::from([("shirt".to_owned(), json!("M"))])).validate(), Ok(()));
    }

    /// VAULT-4, ASSET-1
    #[test]
    fn names_and_private_fields_are_in_no_debug_output() {
        let told = format!("{:?}", anna());
        assert!(!told.contains("Anna") && !told.contains("811228"), "{told}");
    }

    /// ASSET-1
    #[test]
    fn who_is_on_leave_is_employed_and_who_is_terminated_is_not() {
        let employed: Vec<_> = EmployeeStatus::ALL.iter().filter(|status| status.is_employed()).collect();
        assert_eq!(employed, [&EmployeeStatus::Active, &EmployeeStatus::OnLeave]);
    }
}
