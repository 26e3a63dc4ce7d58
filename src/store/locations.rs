//! `locations` (ASSET-2). Address and phone are sealed.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, Sealer, StoreError, stored};
use crate::domain::{Location, LocationKind, NewLocation};

const TABLE: &str = "locations";
const CONSTRAINTS: &[(&str, &str, &str)] = &[("locations_name_key", "name", "belongs to another location already")];

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    name: String,
    kind: String,
    address: Option<Vec<u8>>,
    phone: Option<Vec<u8>>,
    active: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Row {
    fn open(self, sealer: Sealer<'_>) -> Result<Location, StoreError> {
        let open = |column, sealed: Option<&Vec<u8>>| {
            let text = sealed.map(|sealed| sealer.vault.open_text(&sealer.place(TABLE, column, self.id), sealed));
            text.transpose().map(|text| text.map(|text| text.expose_secret().to_owned()))
        };
        Ok(Location {
            id: self.id,
            facts: NewLocation {
                address: open("address", self.address.as_ref())?,
                phone: open("phone", self.phone.as_ref())?,
                name: self.name,
                kind: stored("locations.kind", &self.kind)?,
                active: self.active,
            },
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// Address and phone, sealed.
fn seal(sealer: Sealer<'_>, id: Uuid, location: &NewLocation) -> [Option<Vec<u8>>; 2] {
    let seal =
        |column, text: Option<&String>| text.map(|text| sealer.vault.seal_text(&sealer.place(TABLE, column, id), text));
    [seal("address", location.address.as_ref()), seal("phone", location.phone.as_ref())]
}

pub async fn insert(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    location: &NewLocation,
    now: DateTime<Utc>,
) -> Result<Location, StoreError> {
    let id = Uuid::now_v7();
    let [address, phone] = seal(sealer, id, location);
    sqlx::query!(
        "insert into locations (id, name, kind, address, phone, active, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $7)",
        id,
        location.name,
        location.kind.as_str(),
        address,
        phone,
        location.active,
        now
    )
    .execute(db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    Ok(Location { id, facts: location.clone(), created_at: now, updated_at: now })
}

/// Replaces all that a location says of itself. `None` if there is no such location.
pub async fn update(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (id, location): (Uuid, &NewLocation),
    now: DateTime<Utc>,
) -> Result<Option<Location>, StoreError> {
    let [address, phone] = seal(sealer, id, location);
    sqlx::query!(
        "update locations set name = $2, kind = $3, address = $4, phone = $5, active = $6, updated_at = $7 where id = $1",
        id,
        location.name,
        location.kind.as_str(),
        address,
        phone,
        location.active,
        now
    )
    .execute(&mut *db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    by_id(db, sealer, id).await
}

pub async fn by_id(db: &mut PgConnection, sealer: Sealer<'_>, id: Uuid) -> Result<Option<Location>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, name, kind, address, phone, active, created_at, updated_at from locations where id = $1",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| row.open(sealer)).transpose()
}

/// As [`by_id`], and nobody else changes the location until this transaction ends.
pub async fn lock(db: &mut PgConnection, sealer: Sealer<'_>, id: Uuid) -> Result<Option<Location>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, name, kind, address, phone, active, created_at, updated_at from locations where id = $1 for update",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| row.open(sealer)).transpose()
}

/// Whether people and things still go there; `None` if there is no such location. It stays so until this transaction ends.
pub async fn is_active(db: &mut PgConnection, id: Uuid) -> Result<Option<bool>, StoreError> {
    Ok(sqlx::query_scalar!("select active from locations where id = $1 for share", id).fetch_optional(db).await?)
}

/// The locations of these names, in any case; those that are not there are made. Answers them by the name as it was given, and
/// which are new.
pub async fn ensure_named(
    db: &mut PgConnection,
    names: &[String],
    now: DateTime<Utc>,
) -> Result<(HashMap<String, Uuid>, Vec<(Uuid, String)>), StoreError> {
    if names.is_empty() {
        return Ok((HashMap::new(), Vec::new()));
    }
    let ids: Vec<Uuid> = names.iter().map(|_| Uuid::now_v7()).collect();
    let kinds: Vec<String> = names.iter().map(|name| LocationKind::of_name(name).as_str().to_owned()).collect();
    let made = sqlx::query!(
        "insert into locations (id, name, kind, created_at, updated_at)
         select l.id, l.name, l.kind, $4, $4 from unnest($1::uuid[], $2::text[], $3::text[]) as l (id, name, kind)
         where not exists (select from locations there where lower(there.name) = lower(l.name))
         on conflict do nothing
         returning id, name",
        &ids,
        names,
        &kinds,
        now
    )
    .fetch_all(&mut *db)
    .await?;
    let found = sqlx::query!(
        r#"select n.name as "name!", l.id from unnest($1::text[]) as n (name) join locations l on lower(l.name) = lower(n.name)"#,
        names
    )
    .fetch_all(db)
    .await?;
    let made = made.into_iter().map(|row| (row.id, row.name)).collect();
    Ok((found.into_iter().map(|row| (row.name, row.id)).collect(), made))
}

/// Which locations. All given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct LocationFilter {
    /// Part of the name, in any case.
    pub name: Option<String>,
    pub kind: Option<LocationKind>,
    pub active: Option<bool>,
}

pub async fn page(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    filter: &LocationFilter,
    page: Page,
) -> Result<Vec<Location>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, name, kind, address, phone, active, created_at, updated_at from locations where true",
    );
    if let Some(name) = &filter.name {
        query.push(" and strpos(lower(name), lower(").push_bind(name.clone()).push(")) > 0");
    }
    if let Some(kind) = filter.kind {
        query.push(" and kind = ").push_bind(kind.as_str());
    }
    if let Some(active) = filter.active {
        query.push(" and active = ").push_bind(active);
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(|row| row.open(sealer)).collect()
}
