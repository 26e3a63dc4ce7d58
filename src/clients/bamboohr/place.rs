//! Where the reading of employees goes on.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::map::Names;
use crate::clients::connector::ConnectorError;

/// What [`crate::clients::connector::RecordPage::next`] holds. The bookmark of the end travels along from the beginning: it is of
/// the moment when the reading began, so that what changes while it lasts is read the next time.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub(super) enum Place {
    /// The names of a dataset's fields are to be looked up.
    Names { since: Option<DateTime<Utc>>, bookmark: DateTime<Utc> },
    /// A page of a dataset.
    Dataset {
        names: Names,
        page: u64,
        /// Of the pages, whatever the configuration says since.
        size: u64,
        /// How many there were when the page before was read.
        total: u64,
        since: Option<DateTime<Utc>>,
        bookmark: DateTime<Utc>,
    },
    /// After a page of the list; `None` is its beginning.
    List { after: Option<String>, bookmark: DateTime<Utc> },
    /// All in one piece.
    Report { bookmark: DateTime<Utc> },
    /// Those who have changed, and are still to be read; one batch at a time from the front.
    Changed { ids: Vec<String>, total: u64, bookmark: DateTime<Utc> },
}

impl Place {
    pub fn to_value(&self) -> Result<Value, ConnectorError> {
        serde_json::to_value(self)
            .map_err(|_| ConnectorError::Protocol("the place to read on from cannot be kept".to_owned()))
    }

    /// A place of another version or another source is none.
    pub fn of(value: &Value) -> Result<Self, ConnectorError> {
        Self::deserialize(value).map_err(|_| ConnectorError::CursorExpired)
    }
}

/// A time as the vendor reads it.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, false)
}

/// A time as the vendor writes it: with `Z`, `+00:00` or `+0000`.
pub(super) fn parsed_time(text: &str) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%z"));
    time.ok().map(|time| time.to_utc())
}

pub(super) fn bookmark(value: &Value) -> Result<DateTime<Utc>, ConnectorError> {
    value.as_str().and_then(parsed_time).ok_or(ConnectorError::CursorExpired)
}
