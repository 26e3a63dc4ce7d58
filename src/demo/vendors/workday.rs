//! Workday on loopback: workers over REST, a report as a service, and OAuth's tokens. It refuses what the vendor refuses: pages over the
//! limit, tokens that are over, clients that do not say who they are in the header.

mod serve;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{Fake, Script};
use crate::domain::Clock;

pub const TENANT: &str = "acme";
const CLIENT: (&str, &str) = ("workday-client", "workday-client-secret-3e");
const USER: (&str, &str) = ("isu_backroom@acme", "workday-password-b4");
const OWNER: &str = "hr_owner";
const REPORT: &str = "Backroom_Workers";
/// The prompt of the report that takes a time.
const UPDATED_SINCE: &str = "Updated_Since";
/// The columns of the report.
static COLUMNS: [&str; 12] = [
    "Employee_ID",
    "Legal_First_Name",
    "Legal_Last_Name",
    "primaryWorkEmail",
    "primaryWorkPhone",
    "businessTitle",
    "Organization",
    "Hire_Date",
    "Termination_Date",
    "Active_Status",
    "Manager_ID",
    "Cost_Center",
];

/// The tenant. It lives as long as this does.
pub struct Workday {
    pub fake: Fake,
    tenant: Tenant,
}

/// Somebody's values, by the report's columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worker(pub BTreeMap<String, Value>);

#[derive(Clone)]
struct Tenant(Arc<Mutex<Inside>>);

struct Inside {
    workers: BTreeMap<u64, (Worker, DateTime<Utc>)>,
    clock: Clock,
    ticks: bool,
    /// Whether REST says how many there are.
    total: bool,
    tokens: u32,
    refresh_token: Option<String>,
    access_token: Option<String>,
}

impl Worker {
    /// Somebody who works there since 2024.
    pub fn new(first_name: &str, last_name: &str, work_email: &str) -> Self {
        Self::default()
            .with("Legal_First_Name", first_name)
            .with("Legal_Last_Name", last_name)
            .with("primaryWorkEmail", work_email)
            .with("Hire_Date", "2024-01-08")
            .with("Active_Status", "1")
    }

    #[must_use]
    pub fn with(mut self, column: &str, value: impl Into<Value>) -> Self {
        self.0.insert(column.to_owned(), value.into());
        self
    }
}

impl Workday {
    /// A tenant with these workers, whose numbers count from 1. Its clock stands at 2 March 2026, 08:00 UTC, and moves with changes.
    pub async fn start(workers: Vec<Worker>) -> std::io::Result<Self> {
        let at = DateTime::from_timestamp_secs(1_772_438_400).unwrap_or_default();
        Self::start_with(workers, Clock::fixed(at), true).await
    }

    /// The same, by this clock.
    pub async fn start_at(workers: Vec<Worker>, clock: Clock) -> std::io::Result<Self> {
        Self::start_with(workers, clock, false).await
    }

    /// So many workers, the same ones each time.
    pub async fn with_many(n: u64) -> std::io::Result<Self> {
        Self::start((1..=n).map(somebody).collect()).await
    }

    async fn start_with(workers: Vec<Worker>, clock: Clock, ticks: bool) -> std::io::Result<Self> {
        let long_ago = clock.now() - TimeDelta::days(90);
        let tenant = Tenant(Arc::new(Mutex::new(Inside {
            workers: (1..).zip(workers.into_iter().map(|worker| (worker, long_ago))).collect(),
            clock,
            ticks,
            total: true,
            tokens: 0,
            refresh_token: Some("workday-refresh-c9".to_owned()),
            access_token: None,
        })));
        let fake = Fake::start(serve::router(&tenant), Script::default()).await?;
        Ok(Self { fake, tenant })
    }

    /// Of workers over REST.
    pub fn config(&self) -> Value {
        json!({"tenant": TENANT, "base_url": self.fake.address()})
    }

    /// Of the report, with what its columns hold.
    pub fn report_config(&self) -> Value {
        json!({
            "tenant": TENANT, "base_url": self.fake.address(), "source": "raas", "auth": "basic",
            "report_owner": OWNER, "report_name": REPORT, "updated_since_prompt": UPDATED_SINCE,
            "columns": {
                "id": "Employee_ID", "first_name": "Legal_First_Name", "last_name": "Legal_Last_Name",
                "work_email": "primaryWorkEmail", "phone": "primaryWorkPhone", "job_title": "businessTitle",
                "department": "Organization", "hire_date": "Hire_Date", "termination_date": "Termination_Date",
                "active": "Active_Status", "manager": "Manager_ID",
            },
            "custom_fields": ["Cost_Center"],
        })
    }

    /// Of an API client, for any grant.
    pub fn credentials(&self) -> Value {
        let refresh_token = self.tenant.inside().refresh_token.clone().unwrap_or_default();
        json!({"client_id": CLIENT.0, "client_secret": CLIENT.1, "refresh_token": refresh_token})
    }

    /// Of the integration system user.
    pub fn basic_credentials(&self) -> Value {
        json!({"username": USER.0, "password": USER.1})
    }

    /// Somebody comes; answers the number.
    pub fn hire(&self, worker: Worker) -> u64 {
        let mut inside = self.tenant.inside();
        let now = inside.tick();
        let number = inside.workers.last_key_value().map_or(1, |(number, _)| number + 1);
        inside.workers.insert(number, (worker, now));
        number
    }

    /// Somebody leaves.
    pub fn terminate(&self, number: u64, on: NaiveDate) {
        self.change(number, "Active_Status", "0");
        self.change(number, "Termination_Date", on.to_string());
    }

    /// A column gets another value, be it one that makes no sense.
    pub fn change(&self, number: u64, column: &str, value: impl Into<Value>) {
        let mut inside = self.tenant.inside();
        let now = inside.tick();
        if let Some((worker, changed)) = inside.workers.get_mut(&number) {
            worker.0.insert(column.to_owned(), value.into());
            *changed = now;
        }
    }

    /// Somebody is there no more.
    pub fn remove(&self, number: u64) {
        self.tenant.inside().workers.remove(&number);
    }

    /// REST says no longer how many there are, as some services do not.
    pub fn without_total(&self) {
        self.tenant.inside().total = false;
    }

    /// The access token is good no longer.
    pub fn expire_access(&self) {
        self.tenant.inside().access_token = None;
    }

    /// The grant is taken back.
    pub fn revoke(&self) {
        let mut inside = self.tenant.inside();
        (inside.access_token, inside.refresh_token) = (None, None);
    }
}

/// The worker with this number of [`Workday::with_many`].
pub fn somebody(n: u64) -> Worker {
    let pick = |words: &[&'static str], of: u64| words[usize::try_from(of).unwrap_or_default() % words.len()];
    let first = pick(&["Logan", "Steve", "Maria", "Teresa", "Oliver", "Betty", "Carlos"], n);
    let last = pick(&["McNeil", "Morgan", "Cardoza", "Serrano", "Reynolds"], n / 7);
    let worker = Worker::new(first, last, &format!("worker{n}@acme.example"))
        .with("primaryWorkPhone", format!("+1 415 555 {:04}", n % 10_000))
        .with("businessTitle", pick(&["Analyst", "Engineer", "Recruiter"], n))
        .with("Organization", pick(&["Executive Management", "Global Support", "Product"], n))
        .with("Cost_Center", format!("{} HR", 41_000 + n % 10));
    if n > 1 { worker.with("Manager_ID", (21_000 + (n / 10).max(1)).to_string()) } else { worker }
}

impl Tenant {
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
}
