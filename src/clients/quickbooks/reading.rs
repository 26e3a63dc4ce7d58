//! A kind of document, page by page: what has changed by change data capture, which looks back thirty days and answers a thousand
//! at most without saying which, else by query in the order of change. Between two pages of a query documents may change: they move to
//! the end, and are read again there.
//!
//! Only change data capture tells what was deleted. So where its answer is not complete, or too much for a page, it is read for what was
//! deleted alone, on from its latest change as long as that moves; then the query reads what is there.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use reqwest::{
    Method,
    header::{ACCEPT, AUTHORIZATION},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{MINOR_VERSION, QuickBooks, faults};
use crate::{
    clients::{
        connector::{Access, ConnectorError, ReadFrom, RecordPage},
        http::{Content, HttpError, Reply},
        purchase::MOST_RECORDS,
    },
    domain::{integration::BadRecord, source_record::SourceRecord},
};

/// Documents of a page; after an answer that was too large, a quarter of it, and a quarter of that.
const PAGES: [u32; 3] = [200, 50, 12];
/// From so many on, an answer of change data capture is not complete.
const CDC_MOST: usize = 1_000;
/// Change data capture looks back thirty days; a day is left for clocks and for waiting.
const CDC_REACH: Duration = Duration::days(29);
/// What is read again: a document that was saved while its time was being told.
const OVERLAP: Duration = Duration::minutes(2);

/// Reads a document.
pub type Reader = fn(&QuickBooks, &str) -> Vec<Result<SourceRecord, BadRecord>>;

/// Where a query goes on, kept by the engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    /// The last change that was read, as QuickBooks wrote it.
    #[serde(default)]
    since: Option<String>,
    /// Documents to pass over: those that changed at that very time, if they filled a page.
    #[serde(default)]
    skip: u32,
    /// When the run began, by the clock of QuickBooks.
    began: DateTime<Utc>,
    /// Before the query: since when it is still to be read what was deleted.
    #[serde(default)]
    deleted_since: Option<String>,
}

type Entities = BTreeMap<String, Box<RawValue>>;

#[derive(Deserialize)]
struct QueryAnswer {
    #[serde(rename = "QueryResponse", default)]
    response: Entities,
    time: Option<String>,
}

#[derive(Deserialize)]
struct CdcAnswer {
    #[serde(rename = "CDCResponse")]
    responses: Vec<CdcResponse>,
    time: Option<String>,
}

#[derive(Deserialize)]
struct CdcResponse {
    #[serde(rename = "QueryResponse", default)]
    responses: Vec<Entities>,
}

/// What every document has.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Common {
    status: Option<String>,
    #[serde(rename = "MetaData")]
    meta: Meta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Meta {
    #[serde(rename = "LastUpdatedTime")]
    updated: Option<String>,
}

impl QuickBooks {
    pub(super) async fn read_entity(
        &self,
        access: &Access,
        entity: &str,
        reader: Reader,
        from: &ReadFrom,
    ) -> Result<RecordPage, ConnectorError> {
        let now = self.clock.now();
        let mut place = Place { since: None, skip: 0, began: now, deleted_since: None };
        match from {
            ReadFrom::Beginning => {}
            ReadFrom::Page(page) => {
                place = serde_json::from_value(page.clone()).map_err(|_| ConnectorError::CursorExpired)?;
                if place.deleted_since.is_some()
                    && let Some(page) = self.changes(access, entity, reader, &mut place, false).await?
                {
                    return Ok(page);
                }
                return self.query(access, entity, reader, place, false).await;
            }
            ReadFrom::Since(bookmark) => {
                let since: DateTime<Utc> =
                    serde_json::from_value(bookmark["since"].clone()).map_err(|_| ConnectorError::CursorExpired)?;
                place.since = Some(stamp(since));
                if now - since < CDC_REACH {
                    place.deleted_since.clone_from(&place.since);
                    if let Some(page) = self.changes(access, entity, reader, &mut place, true).await? {
                        return Ok(page);
                    }
                }
            }
        }
        self.query(access, entity, reader, place, true).await
    }

    /// What has changed, if the answer is complete and fits on a page; else what was deleted. `None`, if the answer is larger than what
    /// is taken: the query tells the rest.
    async fn changes(
        &self,
        access: &Access,
        entity: &str,
        reader: Reader,
        place: &mut Place,
        first: bool,
    ) -> Result<Option<RecordPage>, ConnectorError> {
        let Some(since) = place.deleted_since.take() else { return Ok(None) };
        let reply = match self.send(access, "cdc", &[("entities", entity), ("changedSince", &since)]).await {
            Err(HttpError::TooLarge(_)) => {
                tracing::warn!(entity, since, "what was deleted at QuickBooks cannot be told: its answer is too large");
                return Ok(None);
            }
            sent => sent.map_err(|error| self.way_failed(&error))?,
        };
        let answer: CdcAnswer = faults::accepted(&reply, &self.clock)?;
        if first {
            place.began = self.told(answer.time.as_deref());
        }
        let mut found = Vec::new();
        for entities in answer.responses.into_iter().flat_map(|response| response.responses) {
            found.extend(documents(&entities, entity)?);
        }
        let full = found.len() >= CDC_MOST;
        let read = |raw: &RawValue| reader(self, raw.get());
        let records: Vec<_> =
            if first && !full { found.iter().flat_map(|raw| read(raw)).collect() } else { Vec::new() };
        if first && !full && records.len() <= MOST_RECORDS {
            let page = RecordPage { records, total: Some(found.len() as u64), ..RecordPage::default() };
            return Ok(Some(self.close(page, place.clone(), false)));
        }
        let common: Vec<Common> = found.iter().map(|raw| common(raw)).collect();
        let is_deleted = |common: &Common| common.status.as_deref() == Some("Deleted");
        let deleted = found.iter().zip(&common).filter(|(_, common)| is_deleted(common));
        let records = deleted.flat_map(|(raw, _)| read(raw)).collect();
        if full {
            let latest = common.into_iter().filter_map(|common| common.meta.updated).max_by_key(|text| time(text));
            place.deleted_since = latest.filter(|latest| time(latest) > time(&since));
            if place.deleted_since.is_none() {
                tracing::warn!(entity, since, "QuickBooks may not have told all that was deleted at this moment");
            }
        }
        Ok(Some(self.close(RecordPage { records, ..RecordPage::default() }, place.clone(), true)))
    }

    async fn query(
        &self,
        access: &Access,
        entity: &str,
        reader: Reader,
        mut place: Place,
        first: bool,
    ) -> Result<RecordPage, ConnectorError> {
        let mut sizes = PAGES.into_iter().peekable();
        let (reply, size) = loop {
            let Some(size) = sizes.next() else {
                return Err(ConnectorError::Protocol("QuickBooks has no page that is small enough".to_owned()));
            };
            let filter = match &place.since {
                Some(since) => format!(" WHERE MetaData.LastUpdatedTime >= '{since}'"),
                None => String::new(),
            };
            let statement = format!(
                "SELECT * FROM {entity}{filter} ORDERBY MetaData.LastUpdatedTime ASC STARTPOSITION {} MAXRESULTS {size}",
                place.skip + 1
            );
            match self.send(access, "query", &[("query", &statement)]).await {
                Err(HttpError::TooLarge(_)) if sizes.peek().is_some() => {}
                sent => break (sent.map_err(|error| self.way_failed(&error))?, size),
            }
        };
        let answer: QueryAnswer = faults::accepted(&reply, &self.clock)?;
        if first {
            place.began = self.told(answer.time.as_deref());
        }
        let mut found = documents(&answer.response, entity)?;
        let mut more = found.len() >= size as usize;
        let mut records = Vec::new();
        for (position, raw) in found.iter().enumerate() {
            records.extend(reader(self, raw.get()));
            if records.len() >= MOST_RECORDS && position + 1 < found.len() {
                found.truncate(position + 1);
                more = true;
                break;
            }
        }
        if more {
            let ends = [found.first(), found.last()].map(|raw| raw.and_then(|raw| common(raw).meta.updated));
            let [Some(opens), Some(last)] = ends else {
                return Err(ConnectorError::Protocol(
                    "QuickBooks answered with a document that never changed".to_owned(),
                ));
            };
            if opens == last || !is_time(&last) {
                // A page of one moment: the next one begins behind it.
                place.skip = place.skip.saturating_add(u32::try_from(found.len()).unwrap_or(size));
            } else {
                place = Place { since: Some(last), skip: 0, ..place };
            }
        }
        Ok(self.close(RecordPage { records, ..RecordPage::default() }, place, more))
    }

    fn close(&self, page: RecordPage, place: Place, more: bool) -> RecordPage {
        if more {
            let next = serde_json::to_value(&place).unwrap_or(Value::Null);
            return RecordPage { next: Some(next), ..page };
        }
        RecordPage { bookmark: Some(json!({ "since": place.began - OVERLAP })), ..page }
    }

    /// The time by the clock of QuickBooks, or by ours.
    fn told(&self, told: Option<&str>) -> DateTime<Utc> {
        told.and_then(time).unwrap_or_else(|| self.clock.now())
    }

    pub(super) async fn get(
        &self,
        access: &Access,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Reply, ConnectorError> {
        self.send(access, path, query).await.map_err(|error| self.way_failed(&error))
    }

    async fn send(&self, access: &Access, path: &str, query: &[(&str, &str)]) -> Result<Reply, HttpError> {
        let bearer = access.bearer.as_ref().map_or("", |bearer| bearer.expose_secret());
        let headers = [
            (AUTHORIZATION, SecretString::from(format!("Bearer {bearer}"))),
            // XML without it.
            (ACCEPT, "application/json".into()),
        ];
        let mut query = query.to_vec();
        query.push(("minorversion", MINOR_VERSION));
        self.http.send(Method::GET, &self.company.join(path), &query, &headers, Content::Empty).await
    }

    fn way_failed(&self, error: &HttpError) -> ConnectorError {
        ConnectorError::of_http(&self.company.host(), error)
    }
}

/// The documents of a kind, each as it came. Without the kind there are none.
fn documents(response: &Entities, entity: &str) -> Result<Vec<Box<RawValue>>, ConnectorError> {
    let Some(raw) = response.get(entity) else { return Ok(Vec::new()) };
    let read = serde_json::from_str(raw.get());
    read.map_err(|_| ConnectorError::Protocol(format!("QuickBooks answered with a {entity} that is no list")))
}

fn common(raw: &RawValue) -> Common {
    serde_json::from_str(raw.get()).unwrap_or_default()
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

fn stamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Whether it may stand in a statement.
fn is_time(text: &str) -> bool {
    time(text).is_some() && !text.contains('\'')
}
