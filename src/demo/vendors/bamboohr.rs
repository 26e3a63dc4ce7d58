//! BambooHR on loopback: who has changed, the dataset `employee`, custom reports, the cursor list, OAuth's tokens, and signed webhooks.
//! Both base addresses, and what the vendor refuses: other keys, other content types, pages over the limit, filters that it cannot read.

mod serve;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{Fake, Script};
use crate::{clients::bamboohr::sign, domain::Clock};

pub const COMPANY: &str = "acme";
pub const API_KEY: &str = "bamboo-key-5d0c";
pub const WEBHOOK_KEY: &str = "bamboo-webhook-77aa";
const CLIENT: (&str, &str) = ("bamboo-client", "bamboo-client-secret-19");
/// The names of fields: as aliases of reports, in the dataset of this account, in the list. Empty: not there.
static FIELDS: [(&str, &str, &str); 25] = [
    ("id", "employeeId", "employeeId"),
    ("employeeNumber", "employeeNumber", ""),
    ("firstName", "firstName", "firstName"),
    ("lastName", "lastName", "lastName"),
    ("preferredName", "preferredName", "preferredName"),
    ("workEmail", "workEmail", "workEmail"),
    ("mobilePhone", "mobilePhone", "mobilePhone"),
    ("workPhone", "workPhone", "workPhone"),
    ("address1", "address1", ""),
    ("address2", "address2", ""),
    ("zipcode", "zipcode", ""),
    ("city", "city", ""),
    ("state", "state", ""),
    ("country", "country", ""),
    ("dateOfBirth", "birthDate", "birthDate"),
    ("jobTitle", "jobInformationJobTitle", "jobTitleName"),
    ("department", "jobInformationDepartment", "departmentName"),
    ("location", "jobInformationLocation", "locationName"),
    ("status", "status", "status"),
    ("hireDate", "hireDate", "hireDate"),
    ("terminationDate", "terminationDate", ""),
    ("employmentHistoryStatus", "employmentHistoryStatus", "employmentStatusName"),
    ("supervisorEId", "supervisorEId", "reportsToId"),
    ("ssn", "ssn", ""),
    ("customShirtSize", "customShirtSize", ""),
];

/// The company. It lives as long as this does.
pub struct BambooHr {
    pub fake: Fake,
    company: Company,
}

/// Somebody's fields, by the aliases of reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Person(pub BTreeMap<String, Value>);

#[derive(Clone)]
struct Company(Arc<Mutex<Inside>>);

struct Inside {
    people: BTreeMap<u64, Kept>,
    gone: BTreeMap<u64, DateTime<Utc>>,
    hidden: BTreeSet<String>,
    clock: Clock,
    /// The clock is our own, and moves a second with each change.
    ticks: bool,
    tokens: u32,
    refresh_token: Option<String>,
    access_token: Option<String>,
}

struct Kept {
    person: Person,
    since: DateTime<Utc>,
    changed: DateTime<Utc>,
}

impl Person {
    /// An active employee of 2024.
    pub fn new(first_name: &str, last_name: &str, work_email: &str) -> Self {
        Self::default()
            .with("firstName", first_name)
            .with("lastName", last_name)
            .with("workEmail", work_email)
            .with("status", "Active")
            .with("employmentHistoryStatus", "Full-Time")
            .with("hireDate", "2024-01-08")
    }

    #[must_use]
    pub fn with(mut self, alias: &str, value: impl Into<Value>) -> Self {
        self.0.insert(alias.to_owned(), value.into());
        self
    }
}

impl BambooHr {
    /// A company with these people, whose ids count from 1. Its clock stands at 2 March 2026, 08:00 UTC, and moves with changes.
    pub async fn start(people: Vec<Person>) -> std::io::Result<Self> {
        let at = DateTime::from_timestamp_secs(1_772_438_400).unwrap_or_default();
        Self::start_with(people, Clock::fixed(at), true).await
    }

    /// The same, by this clock.
    pub async fn start_at(people: Vec<Person>, clock: Clock) -> std::io::Result<Self> {
        Self::start_with(people, clock, false).await
    }

    /// So many people, the same ones each time: everybody but the first has a manager, one in twenty has left.
    pub async fn with_many(n: u64) -> std::io::Result<Self> {
        Self::start((1..=n).map(somebody).collect()).await
    }

    async fn start_with(people: Vec<Person>, clock: Clock, ticks: bool) -> std::io::Result<Self> {
        let long_ago = clock.now() - TimeDelta::days(90);
        let kept = |person| Kept { person, since: long_ago, changed: long_ago };
        let people = (1..).zip(people.into_iter().map(kept)).collect();
        let company = Company(Arc::new(Mutex::new(Inside {
            people,
            gone: BTreeMap::new(),
            hidden: BTreeSet::new(),
            clock,
            ticks,
            tokens: 0,
            refresh_token: Some("bamboo-refresh-0".to_owned()),
            access_token: None,
        })));
        let fake = Fake::start(serve::router(&company), Script::default()).await?;
        Ok(Self { fake, company })
    }

    pub fn config(&self) -> Value {
        let address = self.fake.address();
        json!({"company_domain": COMPANY, "base_url": address, "token_url": format!("{address}/token.php")})
    }

    pub fn credentials(&self) -> Value {
        json!({"api_key": API_KEY, "webhook_key": WEBHOOK_KEY})
    }

    /// Of OAuth, with the refresh token of now.
    pub fn oauth_credentials(&self) -> Value {
        let refresh_token = self.company.inside().refresh_token.clone();
        json!({"client_id": CLIENT.0, "client_secret": CLIENT.1, "refresh_token": refresh_token.unwrap_or_default()})
    }

    /// Somebody comes; answers the id.
    pub fn hire(&self, person: Person) -> u64 {
        let mut inside = self.company.inside();
        let now = inside.tick();
        let last =
            inside.people.last_key_value().map(|(id, _)| *id).max(inside.gone.last_key_value().map(|(id, _)| *id));
        let id = last.unwrap_or_default() + 1;
        inside.people.insert(id, Kept { person, since: now, changed: now });
        id
    }

    /// Somebody leaves.
    pub fn terminate(&self, id: u64, on: NaiveDate) {
        let changes = [
            ("status", "Inactive".to_owned()),
            ("employmentHistoryStatus", "Terminated".to_owned()),
            ("terminationDate", on.to_string()),
        ];
        self.change_all(id, changes.map(|(alias, value)| (alias, value.into())));
    }

    /// A field gets another value, be it one that makes no sense.
    pub fn change(&self, id: u64, alias: &'static str, value: impl Into<Value>) {
        self.change_all(id, [(alias, value.into())]);
    }

    fn change_all<const N: usize>(&self, id: u64, changes: [(&'static str, Value); N]) {
        let mut inside = self.company.inside();
        let now = inside.tick();
        if let Some(kept) = inside.people.get_mut(&id) {
            kept.changed = now;
            kept.person.0.extend(changes.map(|(alias, value)| (alias.to_owned(), value)));
        }
    }

    /// Somebody is deleted.
    pub fn remove(&self, id: u64) {
        let mut inside = self.company.inside();
        let now = inside.tick();
        inside.people.remove(&id);
        inside.gone.insert(id, now);
    }

    /// The account may not see a field any more.
    pub fn hide(&self, alias: &str) {
        self.company.inside().hidden.insert(alias.to_owned());
    }

    /// The access token is good no longer.
    pub fn expire_access(&self) {
        self.company.inside().access_token = None;
    }

    /// The grant is taken back.
    pub fn revoke(&self) {
        let mut inside = self.company.inside();
        (inside.access_token, inside.refresh_token) = (None, None);
    }

    /// A delivery about an employee as it is sent at a time: headers and body. `kind` is `created`, `updated` or `deleted`.
    pub fn webhook(&self, kind: &str, id: u64, now: DateTime<Utc>) -> (Vec<(&'static str, String)>, Vec<u8>) {
        let mut data = json!({"companyId": "1", "employeeId": id.to_string()});
        if kind == "updated" {
            data["changedFields"] = json!(["department"]);
        }
        let at = now.to_rfc3339_opts(SecondsFormat::Secs, true);
        let body = json!({"type": format!("employee.{kind}"), "timestamp": at, "data": data}).to_string().into_bytes();
        let timestamp = now.timestamp().to_string();
        let signature = sign(&SecretString::from(WEBHOOK_KEY), &body, &timestamp);
        let headers = vec![
            ("content-type", "application/json".to_owned()),
            ("user-agent", "BambooHR-WebHooks/1.0".to_owned()),
            ("x-bamboohr-timestamp", timestamp),
            ("x-bamboohr-signature", signature),
        ];
        (headers, body)
    }
}

/// The person with this number of [`BambooHr::with_many`].
pub fn somebody(n: u64) -> Person {
    let pick = |words: &[&'static str], of: u64| words[usize::try_from(of).unwrap_or_default() % words.len()];
    let first =
        pick(&["Alva", "Björn", "Cecilia", "Dag", "Ebba", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Karin"], n);
    let last = pick(
        &["Ahl", "Berg", "Cruz", "Dahl", "Ek", "Falk", "Gren", "Holm", "Ivarsson", "Jung", "Kask", "Lind", "Moe"],
        n / 11,
    );
    let mut person = Person::new(first, last, &format!("employee{n}@acme.example"))
        .with("employeeNumber", format!("{}", 10_000 + n))
        .with("mobilePhone", format!("+46 70 {:07}", n))
        .with("address1", format!("Storgatan {}", n % 90 + 1))
        .with("zipcode", format!("{:05}", 10_000 + n % 80_000))
        .with("city", pick(&["Stockholm", "Göteborg", "Lund"], n))
        .with("country", "Sweden")
        .with("dateOfBirth", format!("{}-{:02}-{:02}", 1960 + n % 40, n % 12 + 1, n % 28 + 1))
        .with("jobTitle", pick(&["Engineer", "Designer", "Accountant", "Manager", "Technician"], n))
        .with("department", pick(&["Product", "Finance", "Operations", "People"], n))
        .with("location", pick(&["Stockholm", "Lund"], n))
        .with("hireDate", format!("{}-{:02}-{:02}", 2012 + n % 12, n % 12 + 1, n % 28 + 1))
        .with("ssn", format!("{:03}-{:02}-{:04}", n % 900, n % 100, n % 10_000));
    if n > 1 {
        person = person.with("supervisorEId", (n / 10).max(1).to_string());
    }
    if n.is_multiple_of(20) {
        person = person
            .with("status", "Inactive")
            .with("terminationDate", "2025-05-30")
            .with("employmentHistoryStatus", "Terminated");
    }
    person
}

impl Company {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn tick(&self) -> DateTime<Utc> {
        if self.ticks {
            self.clock.advance(TimeDelta::seconds(1));
        }
        self.clock.now()
    }

    /// A field's value, where the account sees it.
    fn value(&self, id: u64, kept: &Kept, alias: &str) -> Option<Value> {
        if self.hidden.contains(alias) {
            return None;
        }
        if alias == "id" {
            return Some(id.to_string().into());
        }
        let known = FIELDS.iter().any(|(known, ..)| *known == alias);
        known.then(|| kept.person.0.get(alias).cloned().unwrap_or_default())
    }
}
