//! A query and its page. Pages follow each other by key, not by offset: an offset ends at 100,000 rows, and rows that change under
//! way move from one page to another.

use std::collections::BTreeMap;

use chrono::{Duration, NaiveDateTime};
use reqwest::{
    Method,
    header::{ACCEPT, AUTHORIZATION, HeaderName},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use uuid::Uuid;

use super::{Auth, NAME, NetSuite, answers};
use crate::clients::{
    connector::{Access, ConnectorError, ReadFrom, RecordPage},
    http::{Content, Reply},
};

/// Rows of a page.
pub const PAGE: u32 = 200;
/// Times are compared as texts of this form, in the account's own time zone.
const TIME: &str = "%Y-%m-%d %H:%M:%S";
/// What is read again: when the clocks go back, an hour has come twice.
const OVERLAP: Duration = Duration::hours(1);

/// What is selected, under which name, and which of the account's fields it needs. What is not needed may be missing: fields differ
/// with the account's features and the role's permissions.
pub struct Column {
    pub name: &'static str,
    pub sql: &'static str,
    /// As an error names it; empty where nothing works without it.
    pub field: &'static str,
}

#[derive(Deserialize)]
pub struct Page {
    #[serde(rename = "hasMore", default)]
    pub more: bool,
    #[serde(rename = "totalResults")]
    pub total: Option<u64>,
    #[serde(default)]
    pub items: Vec<Box<RawValue>>,
}

/// Why there is no page.
#[derive(Debug)]
pub enum Refused {
    /// The table is not there, or not for this role.
    NoTable,
    /// A field is not there, or something else is wrong with the query. The details are in lower case, and go no further.
    Query {
        said: String,
        details: String,
    },
    Other(ConnectorError),
}

impl From<Refused> for ConnectorError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NoTable => Self::Forbidden(
                "NetSuite does not show purchase orders to the role: it needs SuiteAnalytics Workbook and to view transactions"
                    .to_owned(),
            ),
            Refused::Query { said, .. } => Self::Protocol(format!("NetSuite refused the query ({said})")),
            Refused::Other(error) => error,
        }
    }
}

/// Where a stream is read on, kept by the engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The key of the last row that was read.
    #[serde(default)]
    pub after: Option<(u64, u64)>,
    /// What has changed since.
    #[serde(default)]
    pub since: Option<String>,
    /// The latest change there was when the run began, which becomes the bookmark. It is never raised later: rows behind which the
    /// run has passed may change while it lasts.
    #[serde(default)]
    pub latest: Option<String>,
    /// Columns that the account does not have.
    #[serde(default)]
    pub without: Vec<String>,
}

impl Place {
    pub fn of(from: &ReadFrom) -> Result<Self, ConnectorError> {
        match from {
            ReadFrom::Beginning => Ok(Self::default()),
            ReadFrom::Since(bookmark) => {
                let since = bookmark["latest"].as_str().and_then(|text| NaiveDateTime::parse_from_str(text, TIME).ok());
                let since = since.ok_or(ConnectorError::CursorExpired)?;
                let back = (since - OVERLAP).format(TIME).to_string();
                Ok(Self { since: Some(back), latest: Some(since.format(TIME).to_string()), ..Self::default() })
            }
            ReadFrom::Page(place) => serde_json::from_value(place.clone()).map_err(|_| ConnectorError::CursorExpired),
        }
    }

    /// Notes a latest change.
    fn saw(&mut self, changed: Option<&str>) {
        let time = changed.filter(|text| NaiveDateTime::parse_from_str(text, TIME).is_ok());
        if let Some(time) = time
            && self.latest.as_deref().is_none_or(|latest| latest < time)
        {
            self.latest = Some(time.to_owned());
        }
    }

    pub fn has(&self, column: &str) -> bool {
        !self.without.iter().any(|missing| missing == column)
    }

    /// The page that ends here.
    pub fn close(self, records: RecordPage, more: bool) -> RecordPage {
        let bookmark = self.latest.as_ref().filter(|_| !more).map(|latest| json!({ "latest": latest }));
        let next = more.then(|| serde_json::to_value(&self).unwrap_or(Value::Null));
        RecordPage { next, bookmark, ..records }
    }

    fn columns(&self, all: &[Column]) -> String {
        let selected: Vec<String> = all
            .iter()
            .filter(|column| self.has(column.name))
            .map(|column| format!("{} AS {}", column.sql, column.name))
            .collect();
        selected.join(", ")
    }

    /// Leaves out the columns that a refused query names; all that can be missed, where it names none. False, if none is left to
    /// leave out.
    fn give_up(&mut self, all: &[Column], details: &str) -> bool {
        let missed: Vec<&Column> =
            all.iter().filter(|column| !column.field.is_empty() && self.has(column.name)).collect();
        let named: Vec<&&Column> = missed.iter().filter(|column| details.contains(column.field)).collect();
        let out: Vec<String> = match named.is_empty() {
            true => missed.iter().map(|column| column.name.to_owned()).collect(),
            false => named.iter().map(|column| column.name.to_owned()).collect(),
        };
        let found = !out.is_empty();
        self.without.extend(out);
        found
    }
}

impl NetSuite {
    /// Where to read on. As a run begins, the account says what changed last, `newest` in its own time zone; where it does not, the
    /// bookmark stays as it was.
    pub(super) async fn place(&self, access: &Access, from: &ReadFrom, newest: &str) -> Result<Place, Refused> {
        let mut place = Place::of(from).map_err(Refused::Other)?;
        if matches!(from, ReadFrom::Page(_)) {
            return Ok(place);
        }
        match self.suiteql(access, newest, 1).await {
            Err(Refused::Query { .. }) => {}
            answer => {
                for row in answer?.items {
                    let row: BTreeMap<String, Value> = serde_json::from_str(row.get()).unwrap_or_default();
                    row.values().for_each(|time| place.saw(time.as_str()));
                }
            }
        }
        Ok(place)
    }

    /// Asks for a page, with as many of the columns as the account has. `rest` makes what follows the columns.
    pub(super) async fn select(
        &self,
        access: &Access,
        place: &mut Place,
        columns: &[Column],
        rest: impl Fn(&Place) -> String + Send + Sync,
    ) -> Result<Page, Refused> {
        loop {
            let query = format!("SELECT {} {}", place.columns(columns), rest(place));
            match self.suiteql(access, &query, PAGE).await {
                Err(Refused::Query { said, details }) => {
                    if !place.give_up(columns, &details) {
                        return Err(Refused::Query { said, details });
                    }
                }
                other => return other,
            }
        }
    }

    pub(super) async fn suiteql(&self, access: &Access, query: &str, limit: u32) -> Result<Page, Refused> {
        let mut reply = self.call(access, query, limit).await.map_err(Refused::Other)?;
        if reply.status == 401 && matches!(self.auth, Auth::Token(_)) {
            // Too many at once are sometimes told so: one more try, with a nonce of its own.
            reply = self.call(access, query, limit).await.map_err(Refused::Other)?;
        }
        if reply.status != 200 {
            return Err(answers::refused(&reply, matches!(self.auth, Auth::Token(_)), &self.clock));
        }
        serde_json::from_slice(&reply.body).map_err(|error| {
            let said =
                format!("an answer of {NAME} cannot be read at line {}, column {}", error.line(), error.column());
            Refused::Other(if error.is_eof() {
                ConnectorError::Transient(said)
            } else {
                ConnectorError::Protocol(said)
            })
        })
    }

    async fn call(&self, access: &Access, query: &str, limit: u32) -> Result<Reply, ConnectorError> {
        let endpoint = self.base.join("query/v1/suiteql");
        let limit = limit.to_string();
        let parameters = [("limit", limit.as_str()), ("offset", "0")];
        let authorization = match &self.auth {
            Auth::Token(signer) => {
                let nonce = Uuid::new_v4().simple().to_string();
                signer.authorization(&Method::POST, &endpoint.with_query(&parameters), self.clock.now(), &nonce)
            }
            Auth::OAuth(_) => {
                let bearer = access.bearer.as_ref();
                let bearer =
                    bearer.ok_or_else(|| ConnectorError::Unauthorized("there is no access token yet".to_owned()))?;
                format!("Bearer {}", bearer.expose_secret()).into()
            }
        };
        let headers: [(HeaderName, SecretString); 3] = [
            (AUTHORIZATION, authorization),
            (ACCEPT, "application/json".into()),
            (HeaderName::from_static("prefer"), "transient".into()),
        ];
        let body = json!({ "q": query });
        let sent = self.http.send(Method::POST, &endpoint, &parameters, &headers, Content::Json(&body)).await;
        sent.map_err(|error| ConnectorError::of_http(&endpoint.host(), &error))
    }
}
