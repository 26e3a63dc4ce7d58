//! Changes to assets, each with its event (EVT-1) and, where it moves, its row of history (ASSET-4). The caller opens the transaction
//! as the organization and commits. An event holds nothing that is sealed: no serial number, no amount.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::topic;
use crate::{
    domain::{
        Asset, NewAsset,
        asset::{Custody, Refusal, Step, TransactionKind},
    },
    store::{
        Sealer, StoreError,
        asset_transactions::{self, NewTransaction},
        assets, employees,
        events::{self, NewEvent},
        locations,
    },
};

/// Who asks, from where, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As events name them: `user:<id>`, `api_key:<id>`, `job:<id>`, `operator`.
    pub actor: &'a str,
    /// Of a request over HTTP.
    pub ip: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub now: DateTime<Utc>,
}

impl<'a> Asked<'a> {
    /// Somebody who sends no request: a job, the operator at the command line.
    pub fn by(actor: &'a str, now: DateTime<Utc>) -> Self {
        Self { actor, ip: None, user_agent: None, now }
    }
}

/// What is said of a step besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Remark<'a> {
    /// What it cost or brought, in the asset's currency.
    pub amount: Option<Decimal>,
    pub note: Option<&'a str>,
}

/// ASSET-3: its history begins.
pub async fn create_asset(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (new, custody): (&NewAsset, Custody),
    asked: &Asked<'_>,
) -> Result<Asset, StoreError> {
    if let Some(location) = custody.location_id {
        check_location(db, location).await?;
    }
    let asset = assets::insert(db, sealer, (new, custody), asked.now).await?;
    let remark = Remark { amount: new.purchase.cost, note: None };
    record(db, sealer, (asset.id, TransactionKind::Created), (None, custody), (remark, asked)).await?;
    tell(db, &asset, "asset.created", asked).await?;
    Ok(asset)
}

/// ASSET-3: what is said of it, not where it stands; each amount that is corrected is a row of its history. The caller has locked the
/// asset ([`assets::lock`]).
pub async fn change_asset(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (before, change): (&Asset, &NewAsset),
    asked: &Asked<'_>,
) -> Result<Asset, StoreError> {
    let asset = assets::update(db, sealer, (before.id, change), asked.now).await?;
    for (kind, amount) in asset.facts.purchase.corrections(&before.facts.purchase) {
        let stands = (Some(before.custody), asset.custody);
        record(db, sealer, (asset.id, kind), stands, (Remark { amount, note: None }, asked)).await?;
    }
    tell(db, &asset, "asset.changed", asked).await?;
    Ok(asset)
}

/// ASSET-4: the asset goes a step, if the rules allow it from where it stands; of two who move it at once, the second is told where
/// the first has put it. `None` if there is no such asset.
pub async fn step(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (id, step): (Uuid, &Step),
    (remark, asked): (Remark<'_>, &Asked<'_>),
) -> Result<Option<Asset>, StoreError> {
    if let Some(employee) = step.employee_id() {
        check_employee(db, employee).await?;
    }
    if let Some(location) = step.location_id() {
        check_location(db, location).await?;
    }
    let Some((before, after)) = assets::step(db, id, step, asked.now).await? else { return Ok(None) };
    record(db, sealer, (id, step.kind()), (Some(before), after), (remark, asked)).await?;
    let asset = assets::by_id(db, sealer, id).await?.ok_or(StoreError::NotFound { what: "asset", id })?;
    let kind = match step {
        Step::Assign { .. } => "asset.assigned",
        Step::Return { .. } => "asset.returned",
        Step::Transfer { .. } => "asset.transferred",
        Step::Become { .. } => "asset.status_changed",
    };
    let payload = json!({
        "asset_id": id, "tag": asset.tag, "name": asset.facts.name, "status": after.status, "from_status": before.status,
        "employee_id": after.employee_id, "from_employee_id": before.employee_id,
        "location_id": after.location_id, "from_location_id": before.location_id,
    });
    events::append(db, &NewEvent { topic: topic(id), kind, payload, actor: asked.actor }, asked.now).await?;
    Ok(Some(asset))
}

/// Nobody is given anything who does not work here; they cannot be terminated before this transaction ends.
async fn check_employee(db: &mut PgConnection, employee: Uuid) -> Result<(), StoreError> {
    match employees::hold(db, employee).await? {
        Some(status) if status.is_employed() => Ok(()),
        Some(_) => Err(Refusal::HolderGone.into()),
        None => Err(StoreError::Conflict {
            field: "employee_id",
            message: "names an employee who does not exist".to_owned(),
        }),
    }
}

async fn check_location(db: &mut PgConnection, location: Uuid) -> Result<(), StoreError> {
    match locations::is_active(db, location).await? {
        Some(true) => Ok(()),
        Some(false) => Err(Refusal::Closed.into()),
        None => Err(StoreError::Conflict {
            field: "location_id",
            message: "names a location that does not exist".to_owned(),
        }),
    }
}

async fn record(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (asset_id, kind): (Uuid, TransactionKind),
    (from, to): (Option<Custody>, Custody),
    (remark, asked): (Remark<'_>, &Asked<'_>),
) -> Result<(), StoreError> {
    let row = NewTransaction {
        asset_id,
        kind,
        from,
        to,
        actor: asked.actor,
        ip: asked.ip,
        user_agent: asked.user_agent,
        amount: remark.amount,
        note: remark.note,
    };
    asset_transactions::append(db, sealer, &[row], asked.now).await
}

async fn tell(db: &mut PgConnection, asset: &Asset, kind: &str, asked: &Asked<'_>) -> Result<(), StoreError> {
    let payload = json!({
        "asset_id": asset.id, "tag": asset.tag, "name": asset.facts.name, "category": asset.facts.category,
        "status": asset.custody.status,
    });
    events::append(db, &NewEvent { topic: topic(asset.id), kind, payload, actor: asked.actor }, asked.now).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
