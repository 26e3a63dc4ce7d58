//! A person of BambooHR as the product has them. The same field has another name in each of the places that employees are read from.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde_json::Value;

use super::Source;
use crate::{
    clients::hris::{Fields, is_over},
    domain::{
        integration::BadRecord,
        source_record::{EmployeeFacts, Facts, SourceRecord, Standing},
    },
};

/// What a field is called, by our name for it.
pub(super) type Names = BTreeMap<String, String>;

/// A field and its names: in the dataset `employee`, where it has another one on some accounts; as an alias of reports; in the list.
/// Empty: it is not to be had there.
struct Term {
    ours: &'static str,
    dataset: &'static [&'static str],
    report: &'static str,
    list: &'static str,
}

const fn term(ours: &'static str, dataset: &'static [&'static str], report: &'static str, list: &'static str) -> Term {
    Term { ours, dataset, report, list }
}

static TERMS: [Term; 20] = [
    term("id", &["employeeId", "eid", "id"], "id", "employeeId"),
    term("first_name", &["firstName"], "firstName", "firstName"),
    term("last_name", &["lastName"], "lastName", "lastName"),
    term("work_email", &["workEmail", "email"], "workEmail", "workEmail"),
    term("mobile_phone", &["mobilePhone"], "mobilePhone", "mobilePhone"),
    term("work_phone", &["workPhone"], "workPhone", "workPhone"),
    term("address1", &["address1", "addressLine1", "addressLineOne"], "address1", ""),
    term("address2", &["address2", "addressLine2", "addressLineTwo"], "address2", ""),
    term("zipcode", &["zipcode", "zipCode"], "zipcode", ""),
    term("city", &["city"], "city", ""),
    term("state", &["state"], "state", ""),
    term("country", &["country"], "country", ""),
    term("date_of_birth", &["birthDate", "dateOfBirth"], "dateOfBirth", "birthDate"),
    term("job_title", &["jobInformationJobTitle", "jobTitle"], "jobTitle", "jobTitleName"),
    term("department", &["jobInformationDepartment", "department"], "department", "departmentName"),
    term("location", &["jobInformationLocation", "location"], "location", "locationName"),
    term("status", &["status"], "status", "status"),
    term("hire_date", &["hireDate"], "hireDate", "hireDate"),
    term("termination_date", &["terminationDate"], "terminationDate", ""),
    // Of the two ids of a manager, the one of these is that of the employee, the other a number that the company gives.
    term("manager", &["supervisorEId", "jobInformationReportsToId", "reportsToId"], "supervisorEId", "reportsToId"),
];

static EMPLOYMENT_STATUS: Term = term(
    "employment_status",
    &["employmentHistoryStatus", "employmentStatus", "employmentStatusName"],
    "employmentHistoryStatus",
    "employmentStatusName",
);

/// Fetched only if the configuration asks for them.
static ON_REQUEST: [Term; 2] = [
    term("social_security_number", &["ssn"], "ssn", ""),
    term("national_id", &["nationalId", "nin", "sin"], "nationalId", ""),
];

/// Fields without which there is nobody to be known.
pub(super) const NEEDED: [&str; 4] = ["id", "first_name", "last_name", "status"];

fn terms() -> impl Iterator<Item = &'static Term> {
    TERMS.iter().chain([&EMPLOYMENT_STATUS]).chain(&ON_REQUEST)
}

/// Our names, for the keys of `fields`.
pub(super) fn our_names() -> Vec<&'static str> {
    terms().map(|term| term.ours).collect()
}

/// Those that are fetched only on request.
pub(super) fn on_request() -> [&'static str; 2] {
    ON_REQUEST.each_ref().map(|term| term.ours)
}

/// The vendor's name of each field to be read. `there` are the names that a dataset has on this account; others have theirs everywhere.
pub(super) fn names(source: Source, given: &Names, included: &[String], there: Option<&[String]>) -> Names {
    let wanted = terms().filter(|term| {
        let on_request = ON_REQUEST.iter().any(|other| other.ours == term.ours);
        !on_request || included.iter().any(|name| name == term.ours)
    });
    let is_there = |name: &str| there.is_none_or(|there| there.iter().any(|other| other == name));
    let name_of = |term: &Term| match (given.get(term.ours), source) {
        (Some(given), _) => Some(given.clone()),
        (None, Source::Dataset) => term.dataset.iter().find(|name| is_there(name)).map(|name| (*name).to_owned()),
        (None, Source::Report) => Some(term.report.to_owned()),
        (None, Source::List) => Some(term.list.to_owned()),
    };
    let named = wanted.filter_map(|term| Some((term.ours.to_owned(), name_of(term)?)));
    named.filter(|(_, name)| !name.is_empty() && is_there(name)).collect()
}

/// Maps a record. `today` tells a termination that has come from one that is planned.
pub(super) fn employee(
    record: &Value,
    names: &Names,
    custom: &[String],
    today: NaiveDate,
) -> Result<SourceRecord, BadRecord> {
    let mut fields = Fields::of(record)?;
    let name = |ours: &str| names.get(ours).map_or("", String::as_str);
    let Some(id) = fields.text(name("id")) else {
        return Err(BadRecord { external_id: None, reason: format!("`{}` is missing", name("id")) });
    };
    let first_name = fields.text(name("first_name")).unwrap_or_default();
    let last_name = fields.text(name("last_name")).unwrap_or_default();
    if first_name.is_empty() && last_name.is_empty() {
        fields.wrong(name("first_name"), "is missing, and so is the last name");
    }
    let hire_date = fields.date(name("hire_date"));
    let termination_date = fields.date(name("termination_date"));
    let standing = standing(&mut fields, &name, (hire_date, termination_date), today);
    let address: Vec<String> = ["address1", "address2", "zipcode", "city", "state", "country"]
        .into_iter()
        .filter_map(|part| fields.text(name(part)))
        .collect();
    let facts = EmployeeFacts {
        work_email: fields.email(name("work_email")),
        first_name,
        last_name,
        phone: fields.text(name("mobile_phone")).or_else(|| fields.text(name("work_phone"))),
        home_address: (!address.is_empty()).then(|| address.join(", ")),
        social_security_number: fields.text(name("social_security_number")),
        national_id: fields.text(name("national_id")),
        date_of_birth: fields.date(name("date_of_birth")),
        job_title: fields.text(name("job_title")),
        department: fields.text(name("department")),
        // A name, where an account has the name under this field, finds nobody.
        manager_external_id: fields.text(name("manager")).filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())),
        location: fields.text(name("location")),
        standing,
        hire_date,
        termination_date,
        custom: fields.custom(custom),
    };
    fields.done(&id, SourceRecord { external_id: id.clone(), facts: Facts::Employee(facts) })
}

/// Whether somebody works there. `Inactive` is the vendor's word for who has left.
fn standing<'n>(
    fields: &mut Fields<'_>,
    name: &impl Fn(&str) -> &'n str,
    (hired, terminated): (Option<NaiveDate>, Option<NaiveDate>),
    today: NaiveDate,
) -> Standing {
    let status = fields.text(name("status")).map(|status| status.to_lowercase());
    let employment = fields.text(name("employment_status")).map(|status| status.to_lowercase());
    match status.as_deref() {
        Some("inactive") => return Standing::Terminated,
        Some("active") => {}
        Some(_) => fields.wrong(name("status"), "is neither `Active` nor `Inactive`"),
        None if employment.is_none() && terminated.is_none() => {
            fields.wrong("status", "is missing; the account needs access to it");
        }
        None => {}
    }
    match employment.as_deref() {
        Some("terminated") if terminated.is_none_or(|date| date <= today) => Standing::Terminated,
        _ if is_over(hired, terminated, today) => Standing::Terminated,
        Some(employment) if employment.contains("leave") => Standing::OnLeave,
        _ => Standing::Active,
    }
}
