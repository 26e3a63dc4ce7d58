//! Lines of purchase orders: what is ordered becomes assets on order, and in stock once it was received.

use chrono::NaiveDate;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    NetSuite,
    suiteql::{Column, Place},
};
use crate::{
    clients::{
        connector::{Access, ConnectorError, ReadFrom, RecordPage},
        purchase::{self, Bought, Exact, MOST_RECORDS, Named, Rule, Word},
    },
    domain::{
        Currency,
        integration::BadRecord,
        source_record::{AssetFacts, Facts, Left, RecordKind, SourceAssetStatus, SourceRecord},
    },
};

pub const PROBE: &str = "SELECT t.id AS po FROM transactionline tl JOIN transaction t ON tl.transaction = t.id \
                         WHERE t.type = 'PurchOrd' ORDER BY t.id";

const FROM: &str = "FROM transactionline tl JOIN transaction t ON tl.transaction = t.id \
                    WHERE t.type = 'PurchOrd' AND tl.mainline = 'F' AND tl.item IS NOT NULL";

const NEWEST: &str = "SELECT TO_CHAR(MAX(t.lastmodifieddate), 'YYYY-MM-DD HH24:MI:SS') AS newest, \
                      TO_CHAR(MAX(tl.linelastmodifieddate), 'YYYY-MM-DD HH24:MI:SS') AS newest_line \
                      FROM transactionline tl JOIN transaction t ON tl.transaction = t.id WHERE t.type = 'PurchOrd'";

const fn needed(name: &'static str, sql: &'static str) -> Column {
    Column { name, sql, field: "" }
}

const COLUMNS: &[Column] = &[
    needed("po", "t.id"),
    needed("po_line", "tl.id"),
    needed("po_number", "t.tranid"),
    needed("ordered", "TO_CHAR(t.trandate, 'YYYY-MM-DD')"),
    needed("po_status", "t.status"),
    needed("item", "tl.item"),
    needed("item_name", "BUILTIN.DF(tl.item)"),
    needed("quantity", "tl.quantity"),
    needed("rate", "tl.rate"),
    Column { name: "changed", sql: "TO_CHAR(t.lastmodifieddate, 'YYYY-MM-DD HH24:MI:SS')", field: "lastmodifieddate" },
    Column { name: "currency", sql: "BUILTIN.DF(t.currency)", field: "currency" },
    Column { name: "supplier", sql: "BUILTIN.DF(t.entity)", field: "entity" },
    Column { name: "memo", sql: "tl.memo", field: "memo" },
    Column { name: "received", sql: "tl.quantityshiprecv", field: "quantityshiprecv" },
    Column { name: "item_type", sql: "tl.itemtype", field: "itemtype" },
    Column { name: "closed", sql: "tl.isclosed", field: "isclosed" },
];

/// Items that are things, without a rule: in stock, for use, assembled.
const THINGS: [&str; 3] = ["InvtPart", "NonInvtPart", "Assembly"];

#[derive(Deserialize)]
struct Row {
    po: Word,
    po_line: Word,
    po_number: Option<Word>,
    changed: Option<String>,
    ordered: Option<String>,
    po_status: Option<Word>,
    item: Option<Word>,
    item_name: Option<Word>,
    quantity: Option<Exact>,
    rate: Option<Exact>,
    currency: Option<Word>,
    supplier: Option<Word>,
    memo: Option<Word>,
    received: Option<Exact>,
    item_type: Option<Word>,
    closed: Option<Word>,
}

/// A line of an order, by its numbers.
struct Ordered<'a> {
    po: u64,
    line: u64,
    row: &'a RawValue,
}

/// What is read of a row that cannot be read.
#[derive(Deserialize)]
struct Key {
    po: Word,
    po_line: Word,
}

fn conditions(place: &Place) -> String {
    let mut text = FROM.to_owned();
    if let Some(since) = &place.since {
        let since = format!("TO_DATE('{since}', 'YYYY-MM-DD HH24:MI:SS')");
        text += &format!(" AND (t.lastmodifieddate >= {since} OR tl.linelastmodifieddate >= {since})");
    }
    if let Some((po, line)) = place.after {
        text += &format!(" AND (t.id > {po} OR (t.id = {po} AND tl.id > {line}))");
    }
    text + " ORDER BY t.id, tl.id"
}

impl NetSuite {
    pub(super) async fn read_purchase_orders(
        &self,
        access: &Access,
        from: &ReadFrom,
    ) -> Result<RecordPage, ConnectorError> {
        let mut place = self.place(access, from, NEWEST).await?;
        let first = place.after.is_none();
        let answer = self.select(access, &mut place, COLUMNS, conditions).await?;
        let mut lines = Vec::with_capacity(answer.items.len());
        for row in &answer.items {
            let key: Result<Key, _> = serde_json::from_str(row.get());
            let numbers = key.ok().and_then(|key| Some((key.po.0.parse().ok()?, key.po_line.0.parse().ok()?)));
            let Some((po, line)) = numbers else {
                return Err(ConnectorError::Protocol(
                    "NetSuite answered with a line of an order without an id".to_owned(),
                ));
            };
            lines.push(Ordered { po, line, row });
        }
        let mut records = Vec::new();
        let mut more = answer.more && !lines.is_empty();
        let orders: Vec<&[Ordered<'_>]> = lines.chunk_by(|a, b| a.po == b.po).collect();
        for (position, order) in orders.iter().enumerate() {
            let is_last = position + 1 == orders.len();
            // Its other lines are on the next page, and so are these once more: an order is read at once where that can be.
            if records.len() >= MOST_RECORDS || (is_last && answer.more && position > 0) {
                more = true;
                break;
            }
            more |= self.read_order(order, !is_last || !answer.more, &mut place, &mut records);
        }
        let total = answer.total.filter(|_| first);
        Ok(place.close(RecordPage { records, total, ..RecordPage::default() }, more))
    }

    /// Reads the lines of an order, or as many as a page takes; whether some are left. `ends`: these are the last ones.
    fn read_order(
        &self,
        order: &[Ordered<'_>],
        ends: bool,
        place: &mut Place,
        records: &mut Vec<Result<SourceRecord, BadRecord>>,
    ) -> bool {
        let Some(&Ordered { po, .. }) = order.first() else { return false };
        let begins = place.after.is_none_or(|(last, _)| last != po);
        let document = format!("po-{po}");
        let mut left = Left { whole: begins && ends, ..Left::default() };
        let mut read = 0;
        for &Ordered { line, row, .. } in order {
            if records.len() >= MOST_RECORDS && read > 0 {
                break;
            }
            let made = match serde_json::from_str::<Row>(row.get()) {
                Ok(row) => {
                    // If the order itself did not change, only those of its lines came that did.
                    left.whole &= place.since.is_none() || row.changed >= place.since;
                    self.assets(&row)
                }
                Err(error) => {
                    left.whole = false;
                    vec![Err(BadRecord {
                        external_id: Some(format!("{document}:{line}")),
                        reason: format!("the line of the order cannot be read at column {}", error.column()),
                    })]
                }
            };
            purchase::note_line(&mut left, &line.to_string(), &made);
            records.extend(made);
            place.after = Some((po, line));
            read += 1;
        }
        let cut = read < order.len();
        left.whole &= !cut;
        records.push(Ok(SourceRecord { external_id: document, facts: Facts::Left(left) }));
        cut
    }

    fn assets(&self, row: &Row) -> Vec<Result<SourceRecord, BadRecord>> {
        let item =
            row.item.as_ref().map(|id| Named { id: &id.0, name: row.item_name.as_ref().map(|name| name.0.as_str()) });
        let rule = Rule::find(&self.rules, None, item);
        let is_thing = row.item_type.as_ref().is_none_or(|kind| THINGS.contains(&kind.0.as_str()));
        if rule.is_none() && !(self.rules.is_empty() && is_thing) {
            return Vec::new();
        }
        let document = format!("po-{}", row.po.0);
        let bad = |reason: String| {
            vec![Err(BadRecord { external_id: Some(format!("{document}:{}", row.po_line.0)), reason })]
        };
        let currency = match &row.currency {
            Some(word) => purchase::currency(&word.0, &self.currencies),
            None => Ok(self.currency),
        };
        let currency: Currency = match currency {
            Ok(currency) => currency,
            Err(reason) => return bad(reason),
        };
        let Ok(ordered) = row.ordered.as_deref().map(str::parse::<NaiveDate>).transpose() else {
            return bad("the date of the order is none".to_owned());
        };
        // What is bought is counted below zero in some accounts.
        let quantity = row.quantity.map(|Exact(quantity)| quantity.abs());
        let status = row.po_status.as_ref().map_or("", |status| status.0.as_str());
        let status = Status::of(status, row.closed.as_ref().is_some_and(|closed| closed.0 == "T"));
        let received = row.received.map(|Exact(received)| received.abs());
        let text = |word: &Option<Word>| word.as_ref().and_then(|word| purchase::line_of_text(&word.0));
        let name = text(&row.memo).or_else(|| text(&row.item_name)).unwrap_or_else(|| "Ordered item".to_owned());
        let facts = |number: u32| AssetFacts {
            name: name.clone(),
            category: rule.and_then(|rule| rule.category.clone()),
            model: text(&row.item_name),
            status: status.of_piece(number, received),
            currency: Some(currency),
            purchased_on: ordered,
            purchase_order: text(&row.po_number),
            supplier: text(&row.supplier),
            useful_life_months: rule.and_then(|rule| rule.useful_life_months),
            ..AssetFacts::default()
        };
        let total = |Exact(rate): Exact| rate.abs().checked_mul(quantity.unwrap_or(Decimal::ONE));
        let amount = match row.rate.map(total) {
            Some(None) => return bad("its amount is larger than any that is kept".to_owned()),
            amount => amount.flatten(),
        };
        let bought = Bought { document: &document, line: &row.po_line.0, quantity, amount };
        let pieces = purchase::pieces(bought, facts);
        pieces
            .into_iter()
            .enumerate()
            .map(|(at, piece)| piece.map(|piece| status.gone_or(at, received, piece)))
            .collect()
    }
}

/// Where an order stands, by its letter: A waits for approval, B for receipt, C was rejected, D was received in part, E in part and
/// waits for bills, F waits for bills, G is billed, H is closed (B as published, the others as they are commonly known).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ordered,
    Received,
    /// What was not received will never be.
    Over,
    Rejected,
}

impl Status {
    /// `B`, or with the type before it: `PurchOrd:B`.
    fn of(text: &str, line_closed: bool) -> Self {
        match text.rsplit(':').next().unwrap_or_default().trim() {
            "C" => Self::Rejected,
            "H" => Self::Over,
            "F" | "G" => Self::Received,
            _ if line_closed => Self::Over,
            _ => Self::Ordered,
        }
    }

    /// The first pieces are those that came.
    fn has_come(self, number: u32, received: Option<Decimal>) -> bool {
        match received {
            Some(received) => Decimal::from(number) <= received,
            None => self == Self::Received,
        }
    }

    fn of_piece(self, number: u32, received: Option<Decimal>) -> SourceAssetStatus {
        if self.has_come(number, received) { SourceAssetStatus::InStock } else { SourceAssetStatus::OnOrder }
    }

    fn gone_or(self, at: usize, received: Option<Decimal>, piece: SourceRecord) -> SourceRecord {
        let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
        // Without a count of what came, a closed order may have been received in full.
        let gone = match self {
            Self::Rejected => true,
            Self::Over => received.is_some() && !self.has_come(number, received),
            Self::Ordered | Self::Received => false,
        };
        if gone { SourceRecord { facts: Facts::Gone(RecordKind::Asset), ..piece } } else { piece }
    }
}
