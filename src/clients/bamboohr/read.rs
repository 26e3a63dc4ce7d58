//! Reads employees page by page: a call each.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    BambooHr, EMPLOYEES, Source, TITLE,
    map::{self, NEEDED, Names},
    place::{Place, bookmark, parsed_time, time},
};
use crate::{
    clients::{
        connector::{Access, ConnectorError, ReadFrom, RecordPage},
        hris::{decoded, time_of},
    },
    domain::{
        integration::BadRecord,
        source_record::{Facts, RecordKind, SourceRecord},
    },
};

type Record = Result<SourceRecord, BadRecord>;

/// Changed employees that are asked for at a time by their ids.
const BATCH: usize = 200;
const DATASET: &str = "v2/datasets/employee/data";
const DATASET_FIELDS: &str = "v1_2/datasets/employee/fields";
/// Pages of names of fields that are read at most.
const FIELD_PAGES: u64 = 20;
const CHANGED: &str = "v1/employees/changed";
/// Before the first of the vendor's customers.
const LONG_AGO: &str = "2000-01-01T00:00:00+00:00";
const REPORT: &str = "v1/reports/custom";
const LIST: &str = "v1/employees";

impl BambooHr {
    pub(super) async fn read_page(&self, access: &Access, from: &ReadFrom) -> Result<RecordPage, ConnectorError> {
        match from {
            ReadFrom::Beginning => self.deleted(access).await,
            ReadFrom::Since(value) => self.changed(access, bookmark(value)?).await,
            // A place of a source that is no longer configured is none.
            ReadFrom::Page(value) => match (Place::of(value)?, self.source) {
                (Place::Names { since, bookmark }, Source::Dataset) => {
                    self.look_up_names(access, since, bookmark).await
                }
                (place @ Place::Dataset { .. }, Source::Dataset) => self.dataset(access, place).await,
                (Place::List { after, bookmark }, Source::List) => self.list(access, after, bookmark).await,
                (Place::Report { bookmark }, Source::Report) => {
                    let records = self.report(access, None).await?;
                    let total = u64::try_from(records.len()).ok();
                    Ok(last(records, total, bookmark))
                }
                (Place::Changed { ids, total, bookmark }, Source::Report | Source::List) => {
                    self.batch(access, ids, (total, bookmark)).await
                }
                _ => Err(ConnectorError::CursorExpired),
            },
        }
    }

    /// Two or three calls: that there is somebody to be seen, and what of them.
    pub(super) async fn try_out(&self, access: &Access) -> Result<String, ConnectorError> {
        let now = self.clock.now();
        self.call(access, CHANGED, &[("since", &time(now))], None).await?;
        let (names, total) = match self.source {
            Source::Dataset => {
                let names = self.dataset_names(access).await?;
                let reply = self.call(access, DATASET, &[], Some(&dataset_body(&names, &[], None, (1, 1)))).await?;
                (names, decoded::<Dataset>(TITLE, &reply)?.meta.total_items)
            }
            Source::Report => {
                let names = self.names();
                let body = report_body(&names, &self.custom, Some(&["0".to_owned()]));
                let reply = self.call(access, REPORT, &REPORT_QUERY, Some(&body)).await?;
                let told: Vec<String> = decoded::<Report>(TITLE, &reply)?.fields.iter().filter_map(id_of).collect();
                (names.into_iter().filter(|(_, theirs)| theirs == "id" || told.contains(theirs)).collect(), None)
            }
            Source::List => {
                let reply = self.call(access, LIST, &[("page[limit]", "1")], None).await?;
                (self.names(), decoded::<List>(TITLE, &reply)?.meta.total)
            }
        };
        needed(&names)?;
        let mut hidden: Vec<&str> = map::our_names();
        hidden.retain(|name| !names.contains_key(*name) && !map::on_request().contains(name));
        let who = total.map_or("employees".to_owned(), |total| format!("{total} employees"));
        let without = if hidden.is_empty() { String::new() } else { format!(", without {}", hidden.join(", ")) };
        Ok(format!("{TITLE} lets {who} of `{}` be read{without}", self.company))
    }

    /// What the fields are called where they have the same names on every account.
    fn names(&self) -> Names {
        map::names(self.source, &self.fields, &self.include, None)
    }

    /// What they are called in the dataset of this account: a call for each thousand fields that it has.
    async fn dataset_names(&self, access: &Access) -> Result<Names, ConnectorError> {
        let mut there = Vec::new();
        for page in 1..=FIELD_PAGES {
            let query = [("page", page.to_string()), ("page_size", "1000".to_owned())];
            let query = query.each_ref().map(|(name, value)| (*name, value.as_str()));
            let reply = self.call(access, DATASET_FIELDS, &query, None).await?;
            let told: DatasetFields = decoded(TITLE, &reply)?;
            there.extend(told.fields.into_iter().map(|field| field.name));
            // A page behind the last would be answered with the last.
            if page >= told.pagination.total_pages {
                break;
            }
        }
        let names = map::names(self.source, &self.fields, &self.include, Some(&there));
        needed(&names).map(|()| names)
    }

    fn employee(&self, record: &Value, names: &Names) -> Result<SourceRecord, BadRecord> {
        map::employee(record, names, &self.custom, self.today())
    }

    fn today(&self) -> NaiveDate {
        self.clock.now().date_naive()
    }

    /// How a full read begins: with all who were ever deleted. The other calls tell only who is there, and nobody who went between
    /// the last run and this one is to be missed.
    async fn deleted(&self, access: &Access) -> Result<RecordPage, ConnectorError> {
        let reply = self.call(access, CHANGED, &[("since", LONG_AGO), ("type", "deleted")], None).await?;
        let (records, _) = decoded::<Changed>(TITLE, &reply)?.sorted()?;
        let bookmark = time_of(&reply, self.clock.now());
        let next = match self.source {
            Source::Dataset => Place::Names { since: None, bookmark },
            Source::Report => Place::Report { bookmark },
            Source::List => Place::List { after: None, bookmark },
        };
        Ok(RecordPage { records, next: Some(next.to_value()?), ..RecordPage::default() })
    }

    /// A page without records: some fields have their names on some accounts only.
    async fn look_up_names(
        &self,
        access: &Access,
        since: Option<DateTime<Utc>>,
        bookmark: DateTime<Utc>,
    ) -> Result<RecordPage, ConnectorError> {
        let names = self.dataset_names(access).await?;
        let next = Place::Dataset { names, page: 1, size: self.page_size, total: 0, since, bookmark };
        Ok(RecordPage { next: Some(next.to_value()?), ..RecordPage::default() })
    }

    async fn dataset(&self, access: &Access, place: Place) -> Result<RecordPage, ConnectorError> {
        let Place::Dataset { names, page, size, total, since, bookmark } = place else {
            return Err(ConnectorError::CursorExpired);
        };
        let body = dataset_body(&names, &self.custom, since, (page, size));
        let reply = self.call(access, DATASET, &[], Some(&body)).await?;
        let answer: Dataset = decoded(TITLE, &reply)?;
        let meta = answer.meta;
        // A page behind the last is answered with the last.
        let is_behind = meta.total_pages.is_some_and(|pages| page > pages);
        if !is_behind && meta.page.is_some_and(|answered| answered != page) {
            return Err(ConnectorError::Transient(format!("{TITLE} answered another page than it was asked for")));
        }
        let rows = if is_behind { &[][..] } else { &answer.data[..] };
        let records: Vec<_> = rows.iter().map(|row| self.employee(&row["fields"], &names)).collect();
        let full = u64::try_from(records.len()).is_ok_and(|count| count >= size);
        let more = !records.is_empty() && meta.total_pages.map_or(full, |pages| page < pages);
        let now = meta.total_items.unwrap_or(total);
        // Whoever was deleted meanwhile has moved the others forward, some of them onto pages that were read before.
        let gone = total.saturating_sub(now).div_ceil(size);
        let page = match gone {
            0 if more => page + 1,
            0 => return Ok(last(records, meta.total_items, bookmark)),
            _ if page == 1 && !more => return Ok(last(records, meta.total_items, bookmark)),
            _ if page == 1 => 2,
            pages => page.saturating_sub(pages).max(1),
        };
        let next = Place::Dataset { names, page, size, total: now, since, bookmark }.to_value()?;
        Ok(RecordPage { records, next: Some(next), total: meta.total_items, ..RecordPage::default() })
    }

    async fn list(
        &self,
        access: &Access,
        after: Option<String>,
        bookmark: DateTime<Utc>,
    ) -> Result<RecordPage, ConnectorError> {
        let (names, limit) = (self.names(), self.page_size.to_string());
        let fields = list_fields(&names, &self.custom);
        let mut query = vec![("page[limit]", limit.as_str()), ("sort", "employeeId"), ("fields", fields.as_str())];
        query.extend(after.iter().map(|after| ("page[after]", after.as_str())));
        let reply = self.call(access, LIST, &query, None).await?;
        let answer: List = decoded(TITLE, &reply)?;
        let records = answer.data.iter().map(|record| self.employee(record, &names)).collect();
        match answer.meta.page.next_cursor {
            None => Ok(last(records, answer.meta.total, bookmark)),
            Some(next) if after.as_ref() == Some(&next) => {
                Err(ConnectorError::Transient(format!("{TITLE} answered a page that leads to itself")))
            }
            Some(after) => {
                let next = Place::List { after: Some(after), bookmark }.to_value()?;
                Ok(RecordPage { records, next: Some(next), total: answer.meta.total, ..RecordPage::default() })
            }
        }
    }

    /// All, or those with these ids.
    async fn report(&self, access: &Access, ids: Option<&[String]>) -> Result<Vec<Record>, ConnectorError> {
        let names = self.names();
        let reply = self.call(access, REPORT, &REPORT_QUERY, Some(&report_body(&names, &self.custom, ids))).await?;
        let answer: Report = decoded(TITLE, &reply)?;
        Ok(answer.employees.iter().map(|record| self.employee(record, &names)).collect())
    }

    /// Who has changed: the deleted ones at once, of the others where they are to be had.
    async fn changed(&self, access: &Access, known: DateTime<Utc>) -> Result<RecordPage, ConnectorError> {
        let since = known - self.overlap;
        let reply = self.call(access, CHANGED, &[("since", &time(since))], None).await?;
        let answer: Changed = decoded(TITLE, &reply)?;
        let (records, ids) = answer.sorted()?;
        let latest = answer.latest.as_deref().and_then(parsed_time).unwrap_or(known);
        let bookmark = latest.max(known);
        let total = u64::try_from(records.len() + ids.len()).unwrap_or_default();
        if ids.is_empty() {
            return Ok(last(records, Some(total), bookmark));
        }
        let next = match self.source {
            Source::Dataset => Place::Names { since: Some(since), bookmark },
            Source::Report | Source::List => Place::Changed { ids, total, bookmark },
        };
        Ok(RecordPage { records, next: Some(next.to_value()?), total: Some(total), ..RecordPage::default() })
    }

    /// The next of those who have changed. Who is asked for and not shown is named: they would stay as they are, and nobody
    /// would know.
    async fn batch(
        &self,
        access: &Access,
        mut ids: Vec<String>,
        (total, bookmark): (u64, DateTime<Utc>),
    ) -> Result<RecordPage, ConnectorError> {
        let rest = ids.split_off(ids.len().min(BATCH));
        let mut records: Vec<Record> = if self.source == Source::Report {
            self.report(access, Some(&ids)).await?
        } else {
            let names = self.names();
            let (ids, fields) = (ids.join(","), list_fields(&names, &self.custom));
            let limit = BATCH.to_string();
            let query = [("filter[ids]", ids.as_str()), ("page[limit]", limit.as_str()), ("fields", fields.as_str())];
            let reply = self.call(access, LIST, &query, None).await?;
            decoded::<List>(TITLE, &reply)?.data.iter().map(|record| self.employee(record, &names)).collect()
        };
        let told: BTreeSet<String> = records
            .iter()
            .filter_map(|record| match record {
                Ok(record) => Some(record.external_id.clone()),
                Err(bad) => bad.external_id.clone(),
            })
            .collect();
        records.extend(ids.into_iter().filter(|id| !told.contains(id)).map(|id| {
            let reason = format!(
                "{TITLE} says that it has changed and does not show it to this account; give its access level the right to view all \
                 employees"
            );
            Err(BadRecord { external_id: Some(id), reason })
        }));
        if rest.is_empty() {
            return Ok(last(records, Some(total), bookmark));
        }
        let next = Place::Changed { ids: rest, total, bookmark }.to_value()?;
        Ok(RecordPage { records, next: Some(next), total: Some(total), ..RecordPage::default() })
    }
}

fn last(records: Vec<Record>, total: Option<u64>, bookmark: DateTime<Utc>) -> RecordPage {
    RecordPage { records, total, bookmark: Some(time(bookmark).into()), ..RecordPage::default() }
}

/// What is needed must be visible: without it everybody would look as if they had just come, or gone.
fn needed(names: &Names) -> Result<(), ConnectorError> {
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !names.contains_key(*name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    Err(ConnectorError::Forbidden(format!(
        "{TITLE} does not show {missing} of {EMPLOYEES} to this account; give its access level the right to view them, or name \
         them in `fields`"
    )))
}

/// The values of the names, each once, and the custom ones.
fn theirs<'a>(names: &'a Names, custom: &'a [String]) -> Vec<&'a str> {
    let mut all: Vec<&str> = names.values().chain(custom).map(String::as_str).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn dataset_body(names: &Names, custom: &[String], since: Option<DateTime<Utc>>, (page, size): (u64, u64)) -> Value {
    let id = names.get("id").map(String::as_str).unwrap_or_default();
    json!({
        "fields": theirs(names, custom),
        "filter": since.map(|since| format!("lastChanged ge '{}'", time(since))),
        // Without an order, pages may overlap, and leave somebody out.
        "orderBy": format!("{id} asc"),
        "page": page,
        "pageSize": size,
    })
}

const REPORT_QUERY: [(&str, &str); 2] = [("format", "json"), ("onlyCurrent", "true")];

fn report_body(names: &Names, custom: &[String], ids: Option<&[String]>) -> Value {
    let mut body = json!({"title": "Backroom", "fields": theirs(names, custom)});
    if let Some(ids) = ids {
        let ids: Vec<u64> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        body["filters"] = json!({"employeeIds": ids});
    }
    body
}

fn list_fields(names: &Names, custom: &[String]) -> String {
    theirs(names, custom).join(",")
}

/// An id is text in most places, a number in some.
fn id_of(value: &Value) -> Option<String> {
    match &value["id"] {
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

#[derive(Deserialize)]
struct DatasetFields {
    fields: Vec<DatasetField>,
    #[serde(default)]
    pagination: Pagination,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pagination {
    total_pages: u64,
}

#[derive(Deserialize)]
struct DatasetField {
    name: String,
}

/// Without `links`, which are an object or an empty list.
#[derive(Deserialize)]
struct Dataset {
    data: Vec<Value>,
    #[serde(default)]
    meta: DatasetMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DatasetMeta {
    page: Option<u64>,
    total_pages: Option<u64>,
    total_items: Option<u64>,
}

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    fields: Vec<Value>,
    employees: Vec<Value>,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Value>,
    meta: ListMeta,
}

#[derive(Deserialize)]
struct ListMeta {
    total: Option<u64>,
    page: ListPage,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListPage {
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Changed {
    latest: Option<String>,
    employees: Value,
}

impl Changed {
    /// The deleted ones as records, and the ids of the others; by the numbers, so that the same answer makes the same batches. Nobody
    /// is an empty object, or an empty list.
    fn sorted(&self) -> Result<(Vec<Record>, Vec<String>), ConnectorError> {
        let none = Map::new();
        let map = match &self.employees {
            Value::Object(map) => map,
            Value::Array(list) if list.is_empty() => &none,
            _ => return Err(ConnectorError::Protocol(format!("{TITLE} did not say who has changed"))),
        };
        let by_number: BTreeMap<_, _> = map.iter().map(|(id, change)| ((id.len(), id), change)).collect();
        let (mut records, mut ids) = (Vec::new(), Vec::new());
        for ((_, key), change) in by_number {
            let id = id_of(change).unwrap_or_else(|| key.clone());
            match change["action"].as_str() {
                Some(action) if action.eq_ignore_ascii_case("deleted") => {
                    records.push(Ok(SourceRecord { external_id: id, facts: Facts::Gone(RecordKind::Employee) }));
                }
                Some(_) => ids.push(id),
                None => {
                    let reason = "`action` of its change is missing".to_owned();
                    records.push(Err(BadRecord { external_id: Some(id), reason }));
                }
            }
        }
        Ok((records, ids))
    }
}
