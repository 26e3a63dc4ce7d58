//! What an event is about: values for the words of its message, and whom it concerns. Sealed fields are not opened for it; names of
//! people stay where they are.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{Language, integration::Provider},
    store::{
        StoreError, companies,
        events::Event,
        invoices,
        subjects::{self, Thing},
    },
};

/// The values that words name, in clear; they are escaped where they are put in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub values: Vec<(&'static str, String)>,
    /// The e-mail address of the employee whom it concerns.
    pub who: Option<String>,
}

impl Subject {
    /// Reads what the event names. What is not there any more is left out.
    pub async fn of(db: &mut PgConnection, event: &Event, language: Language) -> Result<Self, StoreError> {
        let mut subject = Self { values: plain_values(&event.payload), who: None };
        let (family, id) = event.topic.split_once(':').unwrap_or((&event.topic, ""));
        let id = id.parse::<Uuid>().ok();
        let employee = ["employee_id", "to_employee_id", "from_employee_id"];
        let mut employee = employee.into_iter().find_map(|name| event.payload[name].as_str()?.parse::<Uuid>().ok());
        match (family, id) {
            ("asset", Some(id)) => {
                if let Some(name) = event.payload["name"].as_str() {
                    subject.set("thing", name.to_owned());
                }
                if let Some(Thing { tag, name, employee_id }) = subjects::thing(db, id).await? {
                    subject.set("tag", tag);
                    subject.set("thing", name);
                    employee = employee.or(employee_id);
                }
            }
            ("employee", Some(id)) => employee = Some(id),
            ("invoice", Some(id)) => {
                if let Some(invoice) = invoices::by_id(db, id).await? {
                    let company = companies::addressee(db, invoice.company_id).await?;
                    subject.set("amount", invoice.amount().format(language));
                    subject.set("company", company.name);
                    subject.set("number", invoice.number);
                }
            }
            _ => {}
        }
        subject.who = match employee {
            Some(id) => subjects::address(db, id).await?,
            None => None,
        };
        let told = ["work_email", "email"].into_iter().find_map(|name| event.payload[name].as_str());
        subject.who = subject.who.or_else(|| told.map(str::to_owned));
        if let Some(provider) =
            event.payload["provider"].as_str().and_then(|provider| provider.parse::<Provider>().ok())
        {
            subject.set("provider", provider.title().to_owned());
        }
        Ok(subject)
    }

    pub fn set(&mut self, name: &'static str, value: String) {
        self.values.retain(|(known, _)| *known != name);
        self.values.push((name, value));
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

/// What the payload says of itself, as far as words name it.
fn plain_values(payload: &Value) -> Vec<(&'static str, String)> {
    let names = [
        "tag", "title", "status", "step", "due_on", "number", "stage", "name", "reason", "kind", "attempts", "job_id",
        "channel", "events",
    ];
    let text = |name: &'static str| match &payload[name] {
        Value::String(text) if !text.is_empty() => Some((name, text.clone())),
        Value::Number(number) => Some((name, number.to_string())),
        _ => None,
    };
    names.into_iter().filter_map(text).collect()
}

/// By the organization's clock.
pub fn local_time(at: DateTime<Utc>, time_zone: Tz) -> String {
    at.with_timezone(&time_zone).format("%Y-%m-%d %H:%M").to_string()
}
