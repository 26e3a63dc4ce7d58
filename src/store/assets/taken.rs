//! Many assets at a time, as a finance system tells of them: a statement for a page, not for a thing. What the source says nothing
//! of stays as it is, and who holds an asset is none of its business.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Sealed, TABLE, custody, seal};
use crate::{
    domain::{AssetTag, NewAsset, SerialNumber, asset::Custody, source_record::AssetFacts},
    store::{
        Sealer, StoreError,
        from_source::{self, Source},
        stored,
    },
};

/// An asset that is here already.
#[derive(Clone, Debug)]
pub struct KnownAsset {
    pub id: Uuid,
    pub tag: AssetTag,
    pub custody: Custody,
    /// `None`: the source said that it has it no longer, or never told of it.
    pub print: Option<Vec<u8>>,
    /// Somebody had it, whoever has it now.
    pub was_held: bool,
    /// It was a job that moved it last, not a person.
    pub moved_by_job: bool,
}

/// Assets that the source told of before, by its id.
pub type Known = HashMap<String, KnownAsset>;

/// The fingerprints of those of these ids at the source that are here, by that id. Nothing is locked: who says what they said
/// before is only read.
pub async fn prints(
    db: &mut PgConnection,
    source: Source,
    external_ids: &[String],
) -> Result<HashMap<String, Vec<u8>>, StoreError> {
    let rows = sqlx::query!(
        r#"select external_id as "external_id!", source_print as "source_print!" from assets
         where integration_id = $1 and external_id = any($2) and source_print is not null"#,
        source.integration_id,
        external_ids
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.external_id, row.source_print)).collect())
}

/// Those of these ids at the source that are here. They are locked.
pub async fn known(db: &mut PgConnection, source: Source, external_ids: &[String]) -> Result<Known, StoreError> {
    let rows = sqlx::query!(
        r#"select a.id, external_id as "external_id!", tag, status, condition, employee_id, location_id, source_print,
             exists (select from asset_transactions t where t.asset_id = a.id and t.to_employee_id is not null)
                 as "was_held!",
             coalesce((select starts_with(t.actor, 'job:') from asset_transactions t
                       where t.asset_id = a.id and t.kind not in ('cost_changed', 'residual_value_changed', 'book_value_changed')
                       order by t.id desc limit 1), false) as "moved_by_job!"
         from assets a where integration_id = $1 and external_id = any($2) order by a.id for update"#,
        source.integration_id,
        external_ids
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let asset = KnownAsset {
                id: row.id,
                tag: stored("assets.tag", &row.tag)?,
                custody: custody((&row.status, &row.condition), row.employee_id, row.location_id)?,
                print: row.source_print,
                was_held: row.was_held,
                moved_by_job: row.moved_by_job,
            };
            Ok((row.external_id, asset))
        })
        .collect()
}

/// The assets that no source tells of and that alone have one of these serial numbers, by [`SerialNumber::key`]. They are locked.
pub async fn by_serials(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    serials: &[&SerialNumber],
) -> Result<Known, StoreError> {
    let keys: HashMap<Vec<u8>, String> =
        serials.iter().map(|serial| (super::serial_index(sealer, serial), serial.key())).collect();
    let indexes: Vec<Vec<u8>> = keys.keys().cloned().collect();
    let rows = sqlx::query!(
        r#"select id, serial_index as "serial_index!", tag, status, condition, employee_id, location_id
         from assets a
         where serial_index = any($1) and integration_id is null
           and not exists (select from assets other where other.serial_index = a.serial_index and other.id <> a.id)
         order by id for update"#,
        &indexes
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let asset = KnownAsset {
                id: row.id,
                tag: stored("assets.tag", &row.tag)?,
                custody: custody((&row.status, &row.condition), row.employee_id, row.location_id)?,
                print: None,
                was_held: false,
                moved_by_job: false,
            };
            Ok((keys.get(&row.serial_index).cloned().unwrap_or_default(), asset))
        })
        .collect()
}

/// An asset to be written as the source has it.
#[derive(Clone, Debug)]
pub struct TakenRow<'a> {
    pub id: Uuid,
    pub tag: AssetTag,
    pub external_id: &'a str,
    pub facts: &'a AssetFacts,
    /// Where it stands from now on: the product's own decision.
    pub custody: Custody,
    pub print: Vec<u8>,
}

/// The rows as columns, sealed.
#[derive(Default)]
struct Columns {
    ids: Vec<Uuid>,
    tags: Vec<String>,
    external_ids: Vec<String>,
    names: Vec<String>,
    categories: Vec<Option<String>>,
    makes: Vec<Option<String>>,
    models: Vec<Option<String>>,
    serial_numbers: Vec<Option<Vec<u8>>>,
    serial_indexes: Vec<Option<Vec<u8>>>,
    statuses: Vec<String>,
    currencies: Vec<Option<String>>,
    costs: Vec<Option<Vec<u8>>>,
    residual_values: Vec<Option<Vec<u8>>>,
    book_values: Vec<Option<Vec<u8>>>,
    purchase_orders: Vec<Option<Vec<u8>>>,
    invoice_numbers: Vec<Option<Vec<u8>>>,
    suppliers: Vec<Option<String>>,
    purchase_dates: Vec<Option<NaiveDate>>,
    first_days: Vec<Option<NaiveDate>>,
    lives: Vec<Option<i32>>,
    customs: Vec<Option<Value>>,
    prints: Vec<Vec<u8>>,
}

fn columns(sealer: Sealer<'_>, rows: &[TakenRow<'_>]) -> Columns {
    let mut columns = Columns::default();
    for row in rows {
        let asset = NewAsset::from(row.facts);
        let Sealed { serial_number, serial_index, cost, residual_value, book_value, purchase_order, invoice_number } =
            seal(sealer, row.id, &asset);
        columns.ids.push(row.id);
        columns.tags.push(row.tag.as_str().to_owned());
        columns.external_ids.push(row.external_id.to_owned());
        columns.names.push(asset.name);
        columns.categories.push(asset.category);
        columns.makes.push(asset.make);
        columns.models.push(asset.model);
        columns.serial_numbers.push(serial_number);
        columns.serial_indexes.push(serial_index);
        columns.statuses.push(row.custody.status.as_str().to_owned());
        columns.currencies.push(row.facts.currency.map(|currency| currency.as_str().to_owned()));
        columns.costs.push(cost);
        columns.residual_values.push(residual_value);
        columns.book_values.push(book_value);
        columns.purchase_orders.push(purchase_order);
        columns.invoice_numbers.push(invoice_number);
        columns.suppliers.push(asset.supplier);
        columns.purchase_dates.push(asset.purchased_on);
        columns.first_days.push(asset.depreciates_from);
        columns.lives.push(asset.useful_life_months.map(u32::cast_signed));
        let custom = (!asset.custom.is_empty()).then(|| asset.custom.into_iter().collect());
        columns.customs.push(custom.map(Value::Object));
        columns.prints.push(row.print.clone());
    }
    columns
}

/// Writes new assets.
pub async fn insert_taken(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    source: Source,
    rows: &[TakenRow<'_>],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let c = columns(sealer, rows);
    sqlx::query!(
        "insert into assets (id, tag, external_id, name, category, make, model, serial_number, serial_index, status, currency,
             cost, residual_value, book_value, purchase_order, invoice_number, supplier, purchased_on, depreciates_from,
             useful_life_months, custom, source_print, integration_id, created_at, updated_at)
         select n.id, n.tag, n.external_id, n.name, n.category, n.make, n.model, n.serial_number, n.serial_index, n.status,
                coalesce(n.currency, 'SEK'), n.cost, n.residual_value, n.book_value, n.purchase_order, n.invoice_number,
                n.supplier, n.purchased_on, n.depreciates_from, n.useful_life_months, coalesce(n.custom, '{}'),
                n.source_print, $23, $24, $24
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[],
                     $9::bytea[], $10::text[], $11::text[], $12::bytea[], $13::bytea[], $14::bytea[], $15::bytea[],
                     $16::bytea[], $17::text[], $18::date[], $19::date[], $20::integer[], $21::jsonb[], $22::bytea[])
              as n (id, tag, external_id, name, category, make, model, serial_number, serial_index, status, currency, cost,
                    residual_value, book_value, purchase_order, invoice_number, supplier, purchased_on, depreciates_from,
                    useful_life_months, custom, source_print)",
        &c.ids,
        &c.tags,
        &c.external_ids,
        &c.names,
        &c.categories as &[Option<String>],
        &c.makes as &[Option<String>],
        &c.models as &[Option<String>],
        &c.serial_numbers as &[Option<Vec<u8>>],
        &c.serial_indexes as &[Option<Vec<u8>>],
        &c.statuses,
        &c.currencies as &[Option<String>],
        &c.costs as &[Option<Vec<u8>>],
        &c.residual_values as &[Option<Vec<u8>>],
        &c.book_values as &[Option<Vec<u8>>],
        &c.purchase_orders as &[Option<Vec<u8>>],
        &c.invoice_numbers as &[Option<Vec<u8>>],
        &c.suppliers as &[Option<String>],
        &c.purchase_dates as &[Option<NaiveDate>],
        &c.first_days as &[Option<NaiveDate>],
        &c.lives as &[Option<i32>],
        &c.customs as &[Option<Value>],
        &c.prints,
        source.integration_id,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Writes what changed of assets that are here; those that nobody told of before are the source's from now on. Nobody holds what
/// its row says is not assigned.
pub async fn update_taken(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    source: Source,
    rows: &[TakenRow<'_>],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let c = columns(sealer, rows);
    sqlx::query!(
        "update assets a set integration_id = $22, external_id = n.external_id, name = n.name,
             category = coalesce(n.category, a.category), make = coalesce(n.make, a.make), model = coalesce(n.model, a.model),
             serial_number = coalesce(n.serial_number, a.serial_number),
             serial_index = coalesce(n.serial_index, a.serial_index), status = n.status,
             currency = coalesce(n.currency, a.currency), cost = coalesce(n.cost, a.cost),
             residual_value = coalesce(n.residual_value, a.residual_value),
             book_value = coalesce(n.book_value, a.book_value),
             purchase_order = coalesce(n.purchase_order, a.purchase_order),
             invoice_number = coalesce(n.invoice_number, a.invoice_number), supplier = coalesce(n.supplier, a.supplier),
             purchased_on = coalesce(n.purchased_on, a.purchased_on),
             depreciates_from = coalesce(n.depreciates_from, a.depreciates_from),
             useful_life_months = coalesce(n.useful_life_months, a.useful_life_months),
             custom = coalesce(n.custom, a.custom), source_print = n.source_print, updated_at = $23
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[],
                     $9::text[], $10::text[], $11::bytea[], $12::bytea[], $13::bytea[], $14::bytea[], $15::bytea[],
                     $16::text[], $17::date[], $18::date[], $19::integer[], $20::jsonb[], $21::bytea[])
              as n (id, external_id, name, category, make, model, serial_number, serial_index, status, currency, cost,
                    residual_value, book_value, purchase_order, invoice_number, supplier, purchased_on, depreciates_from,
                    useful_life_months, custom, source_print)
         where a.id = n.id",
        &c.ids,
        &c.external_ids,
        &c.names,
        &c.categories as &[Option<String>],
        &c.makes as &[Option<String>],
        &c.models as &[Option<String>],
        &c.serial_numbers as &[Option<Vec<u8>>],
        &c.serial_indexes as &[Option<Vec<u8>>],
        &c.statuses,
        &c.currencies as &[Option<String>],
        &c.costs as &[Option<Vec<u8>>],
        &c.residual_values as &[Option<Vec<u8>>],
        &c.book_values as &[Option<Vec<u8>>],
        &c.purchase_orders as &[Option<Vec<u8>>],
        &c.invoice_numbers as &[Option<Vec<u8>>],
        &c.suppliers as &[Option<String>],
        &c.purchase_dates as &[Option<NaiveDate>],
        &c.first_days as &[Option<NaiveDate>],
        &c.lives as &[Option<i32>],
        &c.customs as &[Option<Value>],
        &c.prints,
        source.integration_id,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The source has these no longer, and some of them are retired by that, which nobody holds. Told of again, all of them are as if they
/// had changed.
pub async fn mark_gone(
    db: &mut PgConnection,
    (ids, retired): (&[Uuid], &[Uuid]),
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update assets set status = case when id = any($2) and status <> 'assigned' then 'retired' else status end,
             source_print = null, updated_at = $3
         where id = any($1) and (source_print is not null or (id = any($2) and status not in ('assigned', 'retired')))",
        ids,
        retired,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Leaves the assets of a source that is no more as if they had been written by hand. Answers how many.
pub async fn forget_source(db: &mut PgConnection, source: Source) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update assets set integration_id = null, source_print = null where integration_id = $1",
        source.integration_id
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// The fingerprint of what a source says of an asset: equal for equal facts, and tells nothing else.
pub fn print(sealer: Sealer<'_>, facts: &AssetFacts) -> Result<Vec<u8>, StoreError> {
    from_source::print(sealer, TABLE, facts)
}
