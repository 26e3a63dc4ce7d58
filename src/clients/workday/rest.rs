//! Reads the collection of workers: pages by limit and offset, in `{data, total}`. Some services leave the total out.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{TITLE, WORKERS, Workday, map};
use crate::clients::{
    connector::{Access, ConnectorError, ReadFrom, RecordPage},
    hris::decoded,
    http::Endpoint,
};

/// Where to read on.
#[derive(Default, Serialize, Deserialize)]
struct Place {
    offset: u64,
    /// How many there were when the page before was read.
    total: Option<u64>,
    /// The first id of the page before, which a page that repeats has, too.
    first: Option<Value>,
}

#[derive(Deserialize)]
struct Workers {
    data: Vec<Value>,
    total: Option<u64>,
}

impl Workday {
    pub(super) async fn workers(
        &self,
        access: &Access,
        workers: &Endpoint,
        page_size: u64,
        from: &ReadFrom,
    ) -> Result<RecordPage, ConnectorError> {
        let place = match from {
            ReadFrom::Beginning => Place::default(),
            // Nothing tells what has changed; no bookmark was given.
            ReadFrom::Since(_) => return Err(ConnectorError::CursorExpired),
            ReadFrom::Page(value) => Place::deserialize(value).map_err(|_| ConnectorError::CursorExpired)?,
        };
        let (limit, offset) = (page_size.to_string(), place.offset.to_string());
        let reply = self.call(access, workers, &[("limit", &limit), ("offset", &offset)]).await?;
        let answer: Workers = decoded(TITLE, &reply)?;
        let first = answer.data.first().map(|worker| worker["id"].clone()).filter(|id| !id.is_null());
        let came = u64::try_from(answer.data.len()).unwrap_or_default();
        let end = place.offset + came;
        // Whoever has gone meanwhile has moved the others forward, some of them onto pages that were read before.
        let gone = place.total.unwrap_or_default().saturating_sub(answer.total.unwrap_or(u64::MAX));
        if gone == 0 && first.is_some() && first == place.first {
            return Err(ConnectorError::Transient(format!("{TITLE} answered the same page of {WORKERS} again")));
        }
        let today = self.clock.now().date_naive();
        let records =
            answer.data.iter().map(|worker| map::worker(worker, &self.columns, &self.custom, (today, false))).collect();
        let more = came > 0 && answer.total.map_or(came >= page_size, |total| end < total);
        let next = match gone.min(place.offset) {
            0 => more.then_some(end),
            gone => Some(place.offset - gone),
        };
        let next = next.map(|offset| serde_json::to_value(Place { offset, total: answer.total, first }));
        let next = next.transpose().map_err(|_| ConnectorError::Protocol("the place cannot be kept".to_owned()))?;
        Ok(RecordPage { records, next, total: answer.total, ..RecordPage::default() })
    }

    pub(super) async fn try_rest(&self, access: &Access, workers: &Endpoint) -> Result<String, ConnectorError> {
        let reply = self.call(access, workers, &[("limit", "1"), ("offset", "0")]).await?;
        let answer: Workers = decoded(TITLE, &reply)?;
        let who = answer.total.map_or_else(|| WORKERS.to_owned(), |total| format!("{total} {WORKERS}"));
        Ok(format!("{TITLE} lets {who} of `{}` be read", self.tenant))
    }
}
