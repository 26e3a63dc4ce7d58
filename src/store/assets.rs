//! `assets` (ASSET-3). Serial number, amounts and the numbers of papers are sealed; the serial number is found again by its blind
//! index. Where an asset stands changes in one statement that holds on to where it stood ([`step`]).

mod taken;

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use secrecy::ExposeSecret;
use sqlx::{PgConnection, QueryBuilder, types::Json};
use uuid::Uuid;

pub use self::taken::{
    Known, KnownAsset, TakenRow, by_serials, forget_source, insert_taken, known, mark_gone, print, prints, update_taken,
};
use super::{Page, Sealer, StoreError, prefix_end, stored};
use crate::domain::{
    Asset, AssetStatus, AssetTag, NewAsset, SerialNumber,
    asset::{Custody, Purchase, Refusal, Step},
};

const TABLE: &str = "assets";
const CONSTRAINTS: &[(&str, &str, &str)] = &[
    ("assets_tag_key", "tag", "belongs to another asset already"),
    ("assets_location_id_fkey", "location_id", "names a location that does not exist"),
];
/// How often a step is tried anew when somebody else was faster.
const TRIES: usize = 3;

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    tag: String,
    name: String,
    category: Option<String>,
    make: Option<String>,
    model: Option<String>,
    serial_number: Option<Vec<u8>>,
    status: String,
    condition: String,
    employee_id: Option<Uuid>,
    location_id: Option<Uuid>,
    currency: String,
    cost: Option<Vec<u8>>,
    residual_value: Option<Vec<u8>>,
    book_value: Option<Vec<u8>>,
    purchase_order: Option<Vec<u8>>,
    invoice_number: Option<Vec<u8>>,
    supplier: Option<String>,
    purchased_on: Option<NaiveDate>,
    warranty_until: Option<NaiveDate>,
    depreciates_from: Option<NaiveDate>,
    useful_life_months: Option<i32>,
    custom: Json<BTreeMap<String, serde_json::Value>>,
    labels: Vec<String>,
    integration_id: Option<Uuid>,
    external_id: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Row {
    fn open(self, sealer: Sealer<'_>) -> Result<Asset, StoreError> {
        let place = |column| sealer.place(TABLE, column, self.id);
        let text = |column, sealed: &Option<Vec<u8>>| {
            let text = sealed.as_ref().map(|sealed| sealer.vault.open_text(&place(column), sealed)).transpose();
            text.map(|text| text.map(|text| text.expose_secret().to_owned()))
        };
        let amount = |column, sealed: &Option<Vec<u8>>| {
            sealed.as_ref().map(|sealed| sealer.vault.open_decimal(&place(column), sealed)).transpose()
        };
        let serial = text("serial_number", &self.serial_number)?;
        let tag: AssetTag = stored("assets.tag", &self.tag)?;
        let months = self.useful_life_months.map(|months| super::count("assets.useful_life_months", months));
        let facts = NewAsset {
            tag: Some(tag.clone()),
            serial_number: serial.as_deref().map(|serial| stored("assets.serial_number", serial)).transpose()?,
            currency: stored("assets.currency", &self.currency)?,
            purchase: Purchase {
                cost: amount("cost", &self.cost)?,
                residual_value: amount("residual_value", &self.residual_value)?,
                book_value: amount("book_value", &self.book_value)?,
                purchase_order: text("purchase_order", &self.purchase_order)?,
                invoice_number: text("invoice_number", &self.invoice_number)?,
            },
            name: self.name,
            category: self.category,
            make: self.make,
            model: self.model,
            supplier: self.supplier,
            purchased_on: self.purchased_on,
            warranty_until: self.warranty_until,
            depreciates_from: self.depreciates_from,
            useful_life_months: months.transpose()?,
            custom: self.custom.0,
            labels: self.labels,
        };
        Ok(Asset {
            id: self.id,
            tag,
            facts,
            custody: custody((&self.status, &self.condition), self.employee_id, self.location_id)?,
            integration_id: self.integration_id,
            external_id: self.external_id,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

fn custody(
    (status, condition): (&str, &str),
    employee_id: Option<Uuid>,
    location_id: Option<Uuid>,
) -> Result<Custody, StoreError> {
    let (status, condition) = (stored("assets.status", status)?, stored("assets.condition", condition)?);
    Ok(Custody { status, condition, employee_id, location_id })
}

/// The sealed columns of an asset.
struct Sealed {
    serial_number: Option<Vec<u8>>,
    serial_index: Option<Vec<u8>>,
    cost: Option<Vec<u8>>,
    residual_value: Option<Vec<u8>>,
    book_value: Option<Vec<u8>>,
    purchase_order: Option<Vec<u8>>,
    invoice_number: Option<Vec<u8>>,
}

fn seal(sealer: Sealer<'_>, id: Uuid, asset: &NewAsset) -> Sealed {
    let text =
        |column, text: Option<&str>| text.map(|text| sealer.vault.seal_text(&sealer.place(TABLE, column, id), text));
    let amount = |column, amount: Option<Decimal>| {
        amount.map(|amount| sealer.vault.seal_decimal(&sealer.place(TABLE, column, id), amount))
    };
    let (serial, purchase) = (asset.serial_number.as_ref(), &asset.purchase);
    Sealed {
        serial_number: text("serial_number", serial.map(SerialNumber::as_str)),
        serial_index: serial.map(|serial| serial_index(sealer, serial)),
        cost: amount("cost", purchase.cost),
        residual_value: amount("residual_value", purchase.residual_value),
        book_value: amount("book_value", purchase.book_value),
        purchase_order: text("purchase_order", purchase.purchase_order.as_deref()),
        invoice_number: text("invoice_number", purchase.invoice_number.as_deref()),
    }
}

fn serial_index(sealer: Sealer<'_>, serial: &SerialNumber) -> Vec<u8> {
    sealer.vault.blind_index(sealer.organization, TABLE, "serial_number", &serial.key())
}

/// So many tags that no asset has, counted on from the last one that was made: two who ask at once take turns.
pub async fn new_tags(db: &mut PgConnection, count: usize) -> Result<Vec<AssetTag>, StoreError> {
    let mut tags = Vec::with_capacity(count);
    while tags.len() < count {
        let wanted = i64::try_from(count - tags.len()).unwrap_or(i64::MAX);
        let last = sqlx::query_scalar!("update asset_tag_numbers set last = last + $1 returning last", wanted)
            .fetch_one(&mut *db)
            .await?;
        let made: Vec<AssetTag> = (last - wanted + 1..=last).map(AssetTag::numbered).collect();
        let texts: Vec<String> = made.iter().map(|tag| tag.as_str().to_owned()).collect();
        // A person may have given one of them by hand.
        let there =
            sqlx::query_scalar!("select tag from assets where tag = any($1)", &texts).fetch_all(&mut *db).await?;
        tags.extend(made.into_iter().filter(|tag| !there.iter().any(|taken| taken == tag.as_str())));
    }
    Ok(tags)
}

/// Writes an asset that stands as `custody` says, which nobody holds yet. Without a tag it gets the next number.
pub async fn insert(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (asset, custody): (&NewAsset, Custody),
    now: DateTime<Utc>,
) -> Result<Asset, StoreError> {
    let id = Uuid::now_v7();
    let tag = match &asset.tag {
        Some(tag) => tag.clone(),
        None => new_tags(db, 1).await?.remove(0),
    };
    let sealed = seal(sealer, id, asset);
    sqlx::query!(
        "insert into assets (id, tag, name, category, make, model, serial_number, serial_index, status, condition,
             location_id, currency, cost, residual_value, book_value, purchase_order, invoice_number, supplier,
             purchased_on, warranty_until, depreciates_from, useful_life_months, custom, labels, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
                 $24, $25, $25)",
        id,
        tag.as_str(),
        asset.name,
        asset.category,
        asset.make,
        asset.model,
        sealed.serial_number,
        sealed.serial_index,
        custody.status.as_str(),
        custody.condition.as_str(),
        custody.location_id,
        asset.currency.as_str(),
        sealed.cost,
        sealed.residual_value,
        sealed.book_value,
        sealed.purchase_order,
        sealed.invoice_number,
        asset.supplier,
        asset.purchased_on,
        asset.warranty_until,
        asset.depreciates_from,
        asset.useful_life_months.map(u32::cast_signed),
        Json(&asset.custom) as _,
        &asset.labels,
        now
    )
    .execute(db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    let facts = NewAsset { tag: Some(tag.clone()), ..asset.clone() };
    let (integration_id, external_id) = (None, None);
    Ok(Asset { id, tag, facts, custody, integration_id, external_id, created_at: now, updated_at: now })
}

/// Replaces all that is said of an asset, but where it stands. The caller has locked it ([`lock`]); without a tag it keeps its own.
pub async fn update(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (id, asset): (Uuid, &NewAsset),
    now: DateTime<Utc>,
) -> Result<Asset, StoreError> {
    let sealed = seal(sealer, id, asset);
    sqlx::query!(
        "update assets set tag = coalesce($2, tag), name = $3, category = $4, make = $5, model = $6, serial_number = $7,
             serial_index = $8, currency = $9, cost = $10, residual_value = $11, book_value = $12, purchase_order = $13,
             invoice_number = $14, supplier = $15, purchased_on = $16, warranty_until = $17, depreciates_from = $18,
             useful_life_months = $19, custom = $20, labels = $21, updated_at = $22
         where id = $1",
        id,
        asset.tag.as_ref().map(AssetTag::as_str),
        asset.name,
        asset.category,
        asset.make,
        asset.model,
        sealed.serial_number,
        sealed.serial_index,
        asset.currency.as_str(),
        sealed.cost,
        sealed.residual_value,
        sealed.book_value,
        sealed.purchase_order,
        sealed.invoice_number,
        asset.supplier,
        asset.purchased_on,
        asset.warranty_until,
        asset.depreciates_from,
        asset.useful_life_months.map(u32::cast_signed),
        Json(&asset.custom) as _,
        &asset.labels,
        now
    )
    .execute(&mut *db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    by_id(db, sealer, id).await?.ok_or(StoreError::NotFound { what: "asset", id })
}

/// Takes the step, if the rules allow it from where the asset stands: one statement, which changes nothing if the asset has moved
/// meanwhile; then the rules are asked anew. Answers where it stood before and where it stands; `None` if there is no such asset.
pub async fn step(
    db: &mut PgConnection,
    id: Uuid,
    step: &Step,
    now: DateTime<Utc>,
) -> Result<Option<(Custody, Custody)>, StoreError> {
    for _ in 0..TRIES {
        let row = sqlx::query!("select status, condition, employee_id, location_id from assets where id = $1", id)
            .fetch_optional(&mut *db)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let before = custody((&row.status, &row.condition), row.employee_id, row.location_id)?;
        let after = before.after(step)?;
        let moved = sqlx::query!(
            "update assets set status = $2, condition = $3, employee_id = $4, location_id = $5, updated_at = $6
             where id = $1 and status = $7 and condition = $8 and employee_id is not distinct from $9
               and location_id is not distinct from $10",
            id,
            after.status.as_str(),
            after.condition.as_str(),
            after.employee_id,
            after.location_id,
            now,
            before.status.as_str(),
            before.condition.as_str(),
            before.employee_id,
            before.location_id
        )
        .execute(&mut *db)
        .await
        .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
        if moved.rows_affected() == 1 {
            return Ok(Some((before, after)));
        }
    }
    Err(Refusal::Moved.into())
}

pub async fn by_id(db: &mut PgConnection, sealer: Sealer<'_>, id: Uuid) -> Result<Option<Asset>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, tag, name, category, make, model, serial_number, status, condition, employee_id, location_id,
                  currency, cost, residual_value, book_value, purchase_order, invoice_number, supplier, purchased_on,
                  warranty_until, depreciates_from, useful_life_months,
                  custom as "custom: Json<BTreeMap<String, serde_json::Value>>", labels, integration_id, external_id,
                  created_at, updated_at
           from assets where id = $1"#,
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| row.open(sealer)).transpose()
}

/// As [`by_id`], and nobody else changes the asset until this transaction ends.
pub async fn lock(db: &mut PgConnection, sealer: Sealer<'_>, id: Uuid) -> Result<Option<Asset>, StoreError> {
    sqlx::query!("select id from assets where id = $1 for update", id).fetch_optional(&mut *db).await?;
    by_id(db, sealer, id).await
}

/// Whether there is such an asset.
pub async fn exists(db: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!("select id from assets where id = $1", id).fetch_optional(db).await?.is_some())
}

/// Everything that the employee holds, oldest first.
pub async fn held_by(db: &mut PgConnection, sealer: Sealer<'_>, employee_id: Uuid) -> Result<Vec<Asset>, StoreError> {
    let filter = AssetFilter { employee_id: Some(employee_id), ..AssetFilter::default() };
    page(db, sealer, &filter, Page::first(10_000)).await
}

/// Which assets. All given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct AssetFilter {
    pub tag: Option<AssetTag>,
    /// The beginning of the tag, in any case.
    pub tag_prefix: Option<String>,
    /// The whole number, however it is written.
    pub serial_number: Option<SerialNumber>,
    /// Who holds it.
    pub employee_id: Option<Uuid>,
    pub location_id: Option<Uuid>,
    pub status: Option<AssetStatus>,
    pub category: Option<String>,
}

pub async fn page(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    filter: &AssetFilter,
    page: Page,
) -> Result<Vec<Asset>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, tag, name, category, make, model, serial_number, status, condition, employee_id, location_id,
                currency, cost, residual_value, book_value, purchase_order, invoice_number, supplier, purchased_on,
                warranty_until, depreciates_from, useful_life_months, custom, labels, integration_id, external_id,
                created_at, updated_at
         from assets where true",
    );
    if let Some(tag) = &filter.tag {
        query.push(" and tag = ").push_bind(tag.as_str().to_owned());
    }
    if let Some(start) = &filter.tag_prefix {
        // An index of text_pattern_ops serves these, and LIKE only where the pattern is known when the plan is made.
        let start = start.trim().to_ascii_uppercase();
        query.push(" and tag ~<~ ").push_bind(prefix_end(&start));
        query.push(" and tag ~>=~ ").push_bind(start);
    }
    if let Some(serial) = &filter.serial_number {
        query.push(" and serial_index = ").push_bind(serial_index(sealer, serial));
    }
    if let Some(employee_id) = filter.employee_id {
        query.push(" and employee_id = ").push_bind(employee_id);
    }
    if let Some(location_id) = filter.location_id {
        query.push(" and location_id = ").push_bind(location_id);
    }
    if let Some(status) = filter.status {
        query.push(" and status = ").push_bind(status.as_str());
    }
    if let Some(category) = &filter.category {
        query.push(" and category = ").push_bind(category.to_lowercase());
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(|row| row.open(sealer)).collect()
}

#[cfg(test)]
mod tests;
