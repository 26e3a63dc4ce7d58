//! A worker of Workday as the product has them.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde_json::Value;

use crate::{
    clients::hris::{Fields, Settings, is_over},
    domain::{
        integration::BadRecord,
        source_record::{EmployeeFacts, Facts, SourceRecord, Standing},
    },
};

/// By our name: where a value is looked for, first to last.
pub(super) type Columns = BTreeMap<&'static str, Vec<String>>;

/// Our names, each with where REST has it: in the common service, else in `staffing`. A report has no names of its own.
const TERMS: [(&str, &[&str]); 18] = [
    ("id", &["id"]),
    ("name", &["descriptor"]),
    ("first_name", &[]),
    ("last_name", &[]),
    ("work_email", &["primaryWorkEmail", "person.email"]),
    ("phone", &["primaryWorkPhone", "person.phone"]),
    ("home_address", &[]),
    ("social_security_number", &[]),
    ("national_id", &[]),
    ("date_of_birth", &["dateOfBirth"]),
    ("job_title", &["businessTitle", "primaryJob.businessTitle"]),
    ("department", &["primarySupervisoryOrganization", "primaryJob.supervisoryOrganization"]),
    ("manager", &[]),
    ("location", &["location", "primaryJob.location"]),
    ("active", &[]),
    ("status", &["workerStatus"]),
    ("hire_date", &["hireDate"]),
    ("termination_date", &["terminationDate"]),
];

pub(super) fn our_names() -> Vec<&'static str> {
    TERMS.iter().map(|(ours, _)| *ours).collect()
}

/// Of a report, the columns that are needed must be named: a report without a status makes active employees of all who ever were.
pub(super) fn columns(is_raas: bool, given: BTreeMap<String, String>, settings: &mut Settings<'_>) -> Columns {
    if is_raas {
        let has = |name: &str| given.contains_key(name);
        let (id, name) = (has("id"), has("name") || (has("first_name") && has("last_name")));
        let status = has("active") || has("status");
        for (there, field, message) in [
            (id, "columns.id", "must name the column of the worker's id"),
            (name, "columns.name", "or `first_name` and `last_name` must be named"),
            (status, "columns.status", "or `active` must be named"),
        ] {
            if !there {
                settings.wrong(field, "required", message);
            }
        }
    }
    let column = |(ours, usual): (&'static str, &[&str])| match given.get(ours) {
        Some(given) => (ours, vec![given.clone()]),
        None if is_raas => (ours, Vec::new()),
        None => (ours, usual.iter().map(|name| (*name).to_owned()).collect()),
    };
    TERMS.into_iter().map(column).collect()
}

pub(super) fn worker(
    record: &Value,
    columns: &Columns,
    custom: &[String],
    (today, is_report): (NaiveDate, bool),
) -> Result<SourceRecord, BadRecord> {
    let mut fields = Fields::of(record)?;
    let names = |ours: &str| columns.get(ours).map_or(&[][..], Vec::as_slice);
    let text = |fields: &mut Fields<'_>, ours: &str| names(ours).iter().find_map(|name| fields.text(name));
    let date = |fields: &mut Fields<'_>, ours: &str| names(ours).iter().find_map(|name| fields.date(name));
    let Some(id) = text(&mut fields, "id") else {
        let name = names("id").first().map_or("id", String::as_str);
        return Err(BadRecord { external_id: None, reason: format!("`{name}` is missing") });
    };
    let described = text(&mut fields, "name").unwrap_or_default();
    let (name, note) = without_note(&described);
    let (first, last) = name.rsplit_once(' ').unwrap_or((name, ""));
    let first_name = text(&mut fields, "first_name").unwrap_or_else(|| first.to_owned());
    let last_name = text(&mut fields, "last_name").unwrap_or_else(|| last.to_owned());
    if first_name.is_empty() && last_name.is_empty() {
        fields.wrong("name", "is missing");
    }
    let (hire_date, termination_date) = (date(&mut fields, "hire_date"), date(&mut fields, "termination_date"));
    let active = names("active").iter().find_map(|name| fields.flag(name));
    let word = text(&mut fields, "status");
    let status = standing_of(word.as_deref().unwrap_or(note));
    if word.is_some() && status.is_none() {
        fields.wrong("status", "tells neither active nor on leave nor terminated");
    }
    // Of a report, where it must be told; in REST, whoever is listed works there unless a word says otherwise.
    if is_report && active.is_none() && word.is_none() {
        fields.wrong("status", "is missing");
    }
    let standing = match (active, status) {
        (Some(false), _) | (_, Some(Standing::Terminated)) => Standing::Terminated,
        _ if is_over(hire_date, termination_date, today) => Standing::Terminated,
        (_, Some(standing)) => standing,
        (_, None) => Standing::Active,
    };
    let facts = EmployeeFacts {
        work_email: names("work_email").iter().find_map(|name| fields.email(name)),
        first_name,
        last_name,
        phone: text(&mut fields, "phone"),
        home_address: text(&mut fields, "home_address"),
        social_security_number: text(&mut fields, "social_security_number"),
        national_id: text(&mut fields, "national_id"),
        date_of_birth: date(&mut fields, "date_of_birth"),
        job_title: text(&mut fields, "job_title"),
        department: text(&mut fields, "department"),
        manager_external_id: text(&mut fields, "manager"),
        location: text(&mut fields, "location"),
        standing,
        hire_date,
        termination_date,
        custom: fields.custom(custom),
    };
    fields.done(&id, SourceRecord { external_id: id.clone(), facts: Facts::Employee(facts) })
}

/// A name may have a word in parentheses behind it: `Logan McNeil (On Leave)`.
fn without_note(described: &str) -> (&str, &str) {
    match described.strip_suffix(')').and_then(|rest| rest.rsplit_once(" (")) {
        Some((name, note)) => (name, note),
        None => (described, ""),
    }
}

/// A word that only holds another tells nothing: `Pending Termination` works there, and so does who is back from leave.
fn standing_of(word: &str) -> Option<Standing> {
    let word = word.trim().to_lowercase();
    let begins = |with: &[&str]| with.iter().any(|with| word.starts_with(with));
    let is_back = ["from leave", "not on leave", "no leave"].iter().any(|end| word.ends_with(end));
    if begins(&["terminated", "inactive"]) || word == "0" {
        Some(Standing::Terminated)
    } else if begins(&["leave", "on leave"]) || (word.ends_with(" leave") && !is_back) {
        Some(Standing::OnLeave)
    } else {
        (begins(&["active"]) || word == "1").then_some(Standing::Active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SYNC-8: nobody has left who is only going to.
    #[test]
    fn a_word_is_taken_by_its_beginning() {
        for (word, standing) in [
            ("Terminated", Some(Standing::Terminated)),
            ("Terminated - Retired", Some(Standing::Terminated)),
            ("Inactive", Some(Standing::Terminated)),
            ("Pending Termination", None),
            ("Not terminated", None),
            ("Active - Termination pending", Some(Standing::Active)),
            ("Active", Some(Standing::Active)),
            ("On Leave", Some(Standing::OnLeave)),
            ("Leave of Absence", Some(Standing::OnLeave)),
            ("Active - Parental Leave", Some(Standing::OnLeave)),
            ("Active - Returned from Leave", Some(Standing::Active)),
            ("Not on leave", None),
        ] {
            assert_eq!(standing_of(word), standing, "{word}");
        }
    }
}
