//! Reads a report as a service: everything in one piece, `{"Report_Entry": [{column: value}]}`.

use std::collections::BTreeMap;

use chrono::{SecondsFormat, TimeDelta};
use serde::Deserialize;
use serde_json::Value;

use super::{TITLE, Workday, map};
use crate::clients::{
    connector::{Access, ConnectorError, ReadFrom, RecordPage},
    hris::decoded,
    http::Endpoint,
};

#[derive(Deserialize)]
struct Report {
    #[serde(rename = "Report_Entry")]
    entries: Option<Value>,
}

impl Workday {
    pub(super) async fn report(
        &self,
        access: &Access,
        report: &Endpoint,
        (prompts, since_prompt, overlap): (&BTreeMap<String, String>, Option<&str>, TimeDelta),
        from: &ReadFrom,
    ) -> Result<RecordPage, ConnectorError> {
        // Before the call: what changes while the report is made may not be in it.
        let began = self.clock.now();
        let since = match (from, since_prompt) {
            (ReadFrom::Beginning, _) => None,
            (ReadFrom::Since(value), Some(prompt)) => {
                let known = value.as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
                let since = known.ok_or(ConnectorError::CursorExpired)?.to_utc() - overlap;
                Some((prompt, since.to_rfc3339_opts(SecondsFormat::Secs, true)))
            }
            (ReadFrom::Since(_), None) | (ReadFrom::Page(_), _) => return Err(ConnectorError::CursorExpired),
        };
        let mut query = vec![("format", "json")];
        query.extend(prompts.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        query.extend(since.iter().map(|(name, value)| (*name, value.as_str())));
        let reply = self.call(access, report, &query).await?;
        let entries = match decoded::<Report>(TITLE, &reply)?.entries {
            Some(Value::Array(entries)) => entries,
            // A lone one is not always in a list.
            Some(entry @ Value::Object(_)) => vec![entry],
            _ => return Err(ConnectorError::Protocol(format!("the report of {TITLE} has no Report_Entry"))),
        };
        let today = began.date_naive();
        let records =
            entries.iter().map(|entry| map::worker(entry, &self.columns, &self.custom, (today, true))).collect();
        let bookmark = since_prompt.map(|_| began.to_rfc3339_opts(SecondsFormat::Secs, true).into());
        let total = u64::try_from(entries.len()).ok();
        Ok(RecordPage { records, bookmark, total, ..RecordPage::default() })
    }

    /// Asks for the report's schema, which costs nothing, and looks whether it has the columns.
    pub(super) async fn try_report(&self, access: &Access, report: &Endpoint) -> Result<String, ConnectorError> {
        let reply = self.call(access, report, &[("xsds", "")]).await?;
        let schema = String::from_utf8_lossy(&reply.body);
        let wanted = self.columns.values().flatten().chain(&self.custom);
        let is_there = |column: &str| column.split('.').all(|part| schema.contains(&format!("name=\"{part}\"")));
        let missing: Vec<&str> = wanted.map(String::as_str).filter(|column| !is_there(column)).collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(ConnectorError::Protocol(format!(
                "the report of {TITLE} has no column {missing}; correct `columns` and `custom_fields`, or the report"
            )));
        }
        Ok(format!("{TITLE} lets the report of `{}` be read, and it has all columns that are wanted", self.tenant))
    }
}
