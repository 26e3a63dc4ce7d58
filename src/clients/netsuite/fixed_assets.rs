//! Fixed assets, as the SuiteApp Fixed Assets Management keeps them: what they cost and how they lose their value.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::Deserialize;
use serde_json::json;

use super::{
    NetSuite,
    suiteql::{Column, Place, Refused},
};
use crate::{
    clients::{
        connector::{Access, ConnectorError, ReadFrom, RecordPage},
        purchase::{self, Exact, Word},
    },
    domain::{
        integration::BadRecord,
        source_record::{AssetFacts, Facts, SourceAssetStatus, SourceRecord},
    },
};

pub const PROBE: &str = "SELECT id FROM customrecord_ncfar_asset ORDER BY id";

const NEWEST: &str =
    "SELECT TO_CHAR(MAX(lastmodified), 'YYYY-MM-DD HH24:MI:SS') AS newest FROM customrecord_ncfar_asset";

const fn field(name: &'static str, sql: &'static str, field: &'static str) -> Column {
    Column { name, sql, field }
}

const COLUMNS: &[Column] = &[
    field("id", "id", ""),
    field("name", "name", ""),
    field("altname", "altname", "altname"),
    field("changed", "TO_CHAR(lastmodified, 'YYYY-MM-DD HH24:MI:SS')", "lastmodified"),
    field("inactive", "isinactive", "isinactive"),
    field("asset_type", "BUILTIN.DF(custrecord_assettype)", "custrecord_assettype"),
    field("asset_status", "BUILTIN.DF(custrecord_assetstatus)", "custrecord_assetstatus"),
    field("cost", "custrecord_assetcost", "custrecord_assetcost"),
    field("book_value", "custrecord_assetbookvalue", "custrecord_assetbookvalue"),
    field("residual", "custrecord_assetresidualvalue", "custrecord_assetresidualvalue"),
    field("lifetime", "custrecord_assetlifetime", "custrecord_assetlifetime"),
    field("serial", "custrecord_assetserialno", "custrecord_assetserialno"),
    field("purchased", "TO_CHAR(custrecord_assetpurchasedate, 'YYYY-MM-DD')", "custrecord_assetpurchasedate"),
    field("depreciates", "TO_CHAR(custrecord_assetdeprstartdate, 'YYYY-MM-DD')", "custrecord_assetdeprstartdate"),
    field("supplier", "custrecord_assetsupplier", "custrecord_assetsupplier"),
];

#[derive(Deserialize)]
struct Row {
    name: Option<Word>,
    altname: Option<Word>,
    inactive: Option<Word>,
    asset_type: Option<Word>,
    asset_status: Option<Word>,
    cost: Option<Exact>,
    book_value: Option<Exact>,
    residual: Option<Exact>,
    lifetime: Option<Exact>,
    serial: Option<Word>,
    purchased: Option<String>,
    depreciates: Option<String>,
    supplier: Option<Word>,
}

#[derive(Deserialize)]
struct Key {
    id: Word,
}

fn conditions(place: &Place) -> String {
    // An account whose assets do not say when they changed is read whole.
    let since = place.since.as_ref().filter(|_| place.has("changed"));
    let since = since.map(|since| format!("lastmodified >= TO_DATE('{since}', 'YYYY-MM-DD HH24:MI:SS')"));
    let after = place.after.map(|(id, _)| format!("id > {id}"));
    let all: Vec<String> = since.into_iter().chain(after).collect();
    let filter = if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) };
    format!("FROM customrecord_ncfar_asset{filter} ORDER BY id")
}

impl NetSuite {
    pub(super) async fn read_fixed_assets(
        &self,
        access: &Access,
        from: &ReadFrom,
    ) -> Result<RecordPage, ConnectorError> {
        let mut place = match self.place(access, from, NEWEST).await {
            // The account has no such SuiteApp: there is nothing to read, and nothing wrong.
            Err(Refused::NoTable) => return Ok(RecordPage::default()),
            place => place?,
        };
        let first = place.after.is_none();
        let answer = match self.select(access, &mut place, COLUMNS, conditions).await {
            Err(Refused::NoTable) => return Ok(RecordPage::default()),
            answer => answer?,
        };
        let mut records = Vec::new();
        for row in &answer.items {
            let text = row.get();
            let id = serde_json::from_str::<Key>(text).ok().and_then(|key| key.id.0.parse::<u64>().ok());
            let Some(id) = id else {
                return Err(ConnectorError::Protocol("NetSuite answered with a fixed asset without an id".to_owned()));
            };
            place.after = Some((id, 0));
            let external_id = format!("fam-{id}");
            let row: Result<Row, _> = serde_json::from_str(text);
            let asset = row.map_err(|error| format!("the fixed asset cannot be read at column {}", error.column()));
            let facts = asset.and_then(|row| self.fixed_asset(&row));
            records.push(match facts {
                Ok(facts) => Ok(SourceRecord { external_id, facts: Facts::Asset(facts) }),
                Err(reason) => Err(BadRecord { external_id: Some(external_id), reason }),
            });
        }
        let more = answer.more && !answer.items.is_empty();
        let total = answer.total.filter(|_| first);
        Ok(place.close(RecordPage { records, total, ..RecordPage::default() }, more))
    }

    fn fixed_asset(&self, row: &Row) -> Result<AssetFacts, String> {
        let text = |word: &Option<Word>| word.as_ref().and_then(|word| purchase::line_of_text(&word.0));
        let date = |text: &Option<String>, what: &str| {
            let date = text.as_deref().map(|text| text.get(..10).unwrap_or(text).parse::<NaiveDate>()).transpose();
            date.map_err(|_| format!("{what} is no date"))
        };
        let amount = |exact: Option<Exact>| exact.map(|Exact(amount)| amount);
        let name = text(&row.altname).or_else(|| text(&row.name)).ok_or("it has no name")?;
        let lifetime = match row.lifetime {
            Some(Exact(months)) if months.is_zero() => None,
            Some(Exact(months)) => {
                let whole = months.normalize();
                let months = u32::try_from(whole.mantissa()).ok().filter(|_| whole.scale() == 0);
                Some(months.ok_or("its life is no number of months")?)
            }
            None => None,
        };
        // By its name: the ids of the list differ, and a name is what people see.
        let status = text(&row.asset_status).unwrap_or_default().to_lowercase();
        let over = ["disposed", "sold", "written off"].contains(&status.as_str());
        let inactive = row.inactive.as_ref().is_some_and(|inactive| inactive.0 == "T");
        let status = if over || inactive { SourceAssetStatus::Retired } else { SourceAssetStatus::InStock };
        let number = row.name.as_ref().map(|name| ("fixed_asset_number".to_owned(), json!(name.0)));
        Ok(AssetFacts {
            name,
            category: text(&row.asset_type).map(|kind| kind.to_lowercase()),
            serial_number: text(&row.serial),
            status,
            cost: amount(row.cost),
            currency: Some(self.currency),
            purchased_on: date(&row.purchased, "the day of the purchase")?,
            supplier: text(&row.supplier),
            useful_life_months: lifetime,
            depreciates_from: date(&row.depreciates, "the beginning of the depreciation")?,
            residual_value: amount(row.residual),
            book_value: amount(row.book_value),
            custom: number.into_iter().collect::<BTreeMap<_, _>>(),
            ..AssetFacts::default()
        })
    }
}
