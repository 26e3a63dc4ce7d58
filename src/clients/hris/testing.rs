//! A connector against a fake vendor, read to its end.

use std::time::Duration;

use chrono::{TimeZone, Utc};
use secrecy::SecretString;
use serde_json::Value;

use crate::{
    clients::{
        connector::{Access, Account, Connector, ConnectorError, Credentials, ReadFrom, Vendor},
        http::{Http, HttpOptions},
    },
    domain::{
        Clock, FieldErrors,
        integration::BadRecord,
        source_record::{EmployeeFacts, Facts, SourceRecord},
    },
};

/// On 2 March 2026, with nothing else in reach than this machine.
pub(in crate::clients) fn connect(
    vendor: &Vendor,
    config: Value,
    credentials: &Value,
) -> Result<Box<dyn Connector>, FieldErrors> {
    let allow = vec!["127.0.0.0/8".parse().unwrap()];
    let options = HttpOptions { timeout: Duration::from_secs(20), body_limit: 16 * 1024 * 1024, allow };
    let account = Account {
        config,
        credentials: Credentials::parse(SecretString::from(credentials.to_string())).unwrap(),
        http: Http::new(options).unwrap(),
        clock: Clock::fixed(Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).unwrap()),
    };
    (vendor.connect)(account)
}

pub(in crate::clients) fn bearer(token: &str) -> Access {
    Access { bearer: Some(SecretString::from(token)) }
}

/// What a stream had, to its last page.
#[derive(Debug, Default)]
pub(in crate::clients) struct Reading {
    pub records: Vec<Result<SourceRecord, BadRecord>>,
    pub pages: usize,
    pub bookmark: Option<Value>,
    /// As the last page told it.
    pub total: Option<u64>,
}

impl Reading {
    /// Everybody who came without fault and is not gone.
    pub fn people(&self) -> Vec<(&str, &EmployeeFacts)> {
        let good = self.records.iter().filter_map(|record| record.as_ref().ok());
        good.filter_map(|record| match &record.facts {
            Facts::Employee(facts) => Some((record.external_id.as_str(), facts)),
            _ => None,
        })
        .collect()
    }

    pub fn person(&self, id: &str) -> &EmployeeFacts {
        self.people().into_iter().rfind(|(other, _)| *other == id).unwrap_or_else(|| panic!("nobody has the id {id}")).1
    }

    pub fn bad(&self) -> Vec<&BadRecord> {
        self.records.iter().filter_map(|record| record.as_ref().err()).collect()
    }

    pub fn gone(&self) -> Vec<&str> {
        let good = self.records.iter().filter_map(|record| record.as_ref().ok());
        good.filter(|record| matches!(record.facts, Facts::Gone(_))).map(|record| record.external_id.as_str()).collect()
    }
}

/// Reads on to the end. Each place goes through text, as it does in the database.
pub(in crate::clients) async fn read_on(
    connector: &dyn Connector,
    access: &Access,
    from: ReadFrom,
) -> Result<Reading, ConnectorError> {
    let mut reading = Reading::default();
    let mut from = from;
    loop {
        let page = connector.read(access, connector.streams()[0], &from).await?;
        reading.pages += 1;
        reading.records.extend(page.records);
        reading.total = page.total.or(reading.total);
        match page.next {
            Some(next) => from = ReadFrom::Page(serde_json::from_str(&next.to_string()).unwrap()),
            None => {
                reading.bookmark = page.bookmark;
                return Ok(reading);
            }
        }
        assert!(reading.pages < 1_000, "it does not end");
    }
}

pub(in crate::clients) async fn read(connector: &dyn Connector) -> Reading {
    read_on(connector, &Access::default(), ReadFrom::Beginning).await.unwrap()
}

pub(in crate::clients) async fn since(connector: &dyn Connector, bookmark: &Option<Value>) -> Reading {
    let from = ReadFrom::Since(bookmark.clone().expect("a bookmark"));
    read_on(connector, &Access::default(), from).await.unwrap()
}
