//! Assets as a finance system tells of them, a page at a time (SYNC-4, ASSET-3). It never takes an asset out of somebody's hands:
//! what is on order may arrive, and what nobody holds may be retired, and what was retired because the source had it no longer may come back; the
//! rest of where it stands is the product's own.

use std::collections::HashMap;

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::topic;
use crate::{
    domain::{
        AssetStatus, NewAsset, SerialNumber,
        asset::{Custody, TransactionKind},
        field_error::one_line,
        source_record::{AssetFacts, SourceAssetStatus},
    },
    jobs::people::doors::Taking,
    store::{
        Sealer, StoreError,
        asset_transactions::{self, NewTransaction},
        assets::{self, KnownAsset, TakenRow},
        events::{self, NewEvent},
        from_source::{Outcome, Taken},
    },
    sync::{self, Sieved},
};

/// Why a source has things no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// They are not there, or what they were bought with is not: nobody's are retired.
    Removed,
    /// What they were bought with is over fewer things now: those are retired that were never in use.
    Surplus,
}

impl Gone {
    fn note(self) -> &'static str {
        match self {
            Self::Removed => "the source has it no longer",
            Self::Surplus => "the purchase is over fewer things now",
        }
    }

    /// Whether an asset stays where it is, for a person to decide.
    fn spares(self, asset: &KnownAsset) -> bool {
        match self {
            Self::Removed => asset.custody.status == AssetStatus::Assigned,
            Self::Surplus => {
                asset.was_held || !matches!(asset.custody.status, AssetStatus::OnOrder | AssetStatus::InStock)
            }
        }
    }
}

/// A record on its way in.
type Wanted<'a> = sync::Wanted<'a, AssetFacts, KnownAsset>;

impl Wanted<'_> {
    fn serial(&self) -> Option<SerialNumber> {
        self.facts.serial_number.as_deref().and_then(|serial| SerialNumber::parse(serial).ok())
    }
}

/// Whether the source took it away before, and nobody has moved it since.
fn was_gone(asset: &KnownAsset) -> bool {
    asset.custody.status == AssetStatus::Retired && asset.print.is_none() && asset.moved_by_job
}

/// Where an asset stands after the source has spoken.
fn after(before: Option<Custody>, told: SourceAssetStatus) -> Custody {
    use AssetStatus::{Assigned, InStock, OnOrder, Retired};
    let Some(before) = before else { return Custody { status: told.into(), ..Custody::default() } };
    let status = match (before.status, told) {
        (OnOrder, SourceAssetStatus::InStock) => InStock,
        (Assigned, _) => Assigned,
        (_, SourceAssetStatus::Retired) => Retired,
        (status, _) => status,
    };
    Custody { status, ..before }
}

/// The things of a page, in one transaction of the caller, with their history and events. A record that comes twice in a page counts
/// as it came last.
pub async fn take_assets(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    taking: &Taking<'_>,
    records: &[(String, AssetFacts)],
) -> Result<Vec<Taken>, StoreError> {
    let external_ids: Vec<String> = records.iter().map(|(external_id, _)| external_id.clone()).collect();
    let prints = assets::prints(db, taking.source, &external_ids).await?;
    let Sieved { mut outcomes, news: mut wanted } =
        sync::sieve(records, &prints, check, |facts| assets::print(sealer, facts))?;
    let changed: Vec<String> = wanted.iter().map(|(_, wanted)| wanted.external_id.to_owned()).collect();
    let mut known = assets::known(db, taking.source, &changed).await?;
    for (_, wanted) in &mut wanted {
        wanted.before = known.remove(wanted.external_id);
    }
    adopt(db, sealer, &mut wanted).await?;
    for (n, outcome) in store(db, sealer, taking, &wanted).await? {
        outcomes[n] = Some(outcome);
    }
    let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Unchanged));
    Ok(external_ids.into_iter().zip(outcomes).map(|(external_id, outcome)| Taken { external_id, outcome }).collect())
}

/// Refuses what could not be stored, without repeating it.
fn check(external_id: &str, facts: &AssetFacts) -> Result<(), String> {
    one_line(external_id, 200).map_err(|error| format!("its id {error}"))?;
    if let Some(serial) = facts.serial_number.as_deref().filter(|serial| !serial.trim().is_empty()) {
        SerialNumber::parse(serial).map_err(|error| format!("`serial_number` {error}"))?;
    }
    NewAsset::from(facts).validate().map_err(|errors| errors.to_string())
}

/// What a person wrote down with the same serial number is the asset that the source tells of.
async fn adopt(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    wanted: &mut [(usize, Wanted<'_>)],
) -> Result<(), StoreError> {
    let serials: Vec<_> = wanted.iter().filter(|(_, w)| w.before.is_none()).filter_map(|(_, w)| w.serial()).collect();
    if serials.is_empty() {
        return Ok(());
    }
    let mut there = assets::by_serials(db, sealer, &serials.iter().collect::<Vec<_>>()).await?;
    for (_, wanted) in wanted.iter_mut().filter(|(_, wanted)| wanted.before.is_none()) {
        wanted.before = wanted.serial().and_then(|serial| there.remove(&serial.key()));
    }
    Ok(())
}

/// Writes them, their history and their events.
async fn store(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    taking: &Taking<'_>,
    wanted: &[(usize, Wanted<'_>)],
) -> Result<Vec<(usize, Outcome)>, StoreError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let count = wanted.iter().filter(|(_, wanted)| wanted.before.is_none()).count();
    let mut tags = if count > 0 { assets::new_tags(db, count).await? } else { Vec::new() }.into_iter();
    let (mut new, mut changed, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut told, mut history) = (Vec::new(), Vec::new());
    for (n, wanted) in wanted {
        let before = wanted.before.as_ref();
        let id = before.map_or_else(Uuid::now_v7, |before| before.id);
        let Some(tag) = before.map(|before| before.tag.clone()).or_else(|| tags.next()) else { continue };
        let from = before.map(|before| before.custody);
        let mut to = after(from, wanted.facts.status);
        let is_back = before.is_some_and(was_gone);
        if is_back {
            to.status = wanted.facts.status.into();
        }
        let moved = from.is_none_or(|from| from != to);
        if moved {
            let note = is_back.then_some("the source has it again");
            history.push(NewTransaction { note, ..transaction(id, (from, to), taking.actor, wanted.facts) });
        }
        let kind = match from {
            None => "asset.created",
            Some(_) if moved => "asset.status_changed",
            Some(_) => "asset.changed",
        };
        told.push(NewEvent {
            topic: topic(id),
            kind,
            payload: json!({
                "asset_id": id, "tag": tag, "name": wanted.facts.name, "category": wanted.facts.category,
                "status": to.status, "from_status": from.map(|from| from.status),
            }),
            actor: taking.actor,
        });
        let (facts, print) = (wanted.facts, wanted.print.clone());
        let row = TakenRow { id, tag, external_id: wanted.external_id, facts, custody: to, print };
        if from.is_none() {
            new.push(row)
        } else {
            changed.push(row)
        }
        outcomes.push((*n, if from.is_none() { Outcome::Created(id) } else { Outcome::Updated(id) }));
    }
    assets::update_taken(db, sealer, taking.source, &changed, taking.now).await?;
    assets::insert_taken(db, sealer, taking.source, &new, taking.now).await?;
    asset_transactions::append(db, sealer, &history, taking.now).await?;
    events::append_many(db, &told, taking.now).await?;
    Ok(outcomes)
}

fn transaction<'a>(
    asset_id: Uuid,
    (from, to): (Option<Custody>, Custody),
    actor: &'a str,
    facts: &AssetFacts,
) -> NewTransaction<'a> {
    let kind = if from.is_none() { TransactionKind::Created } else { TransactionKind::StatusChanged };
    let amount = facts.cost.filter(|_| from.is_none());
    NewTransaction { asset_id, kind, from, to, actor, ip: None, user_agent: None, amount, note: None }
}

/// Things that the source has no longer: they are retired, but for what is spared; of that an event tells, and a person decides. What is
/// spared as surplus is refused as well, so that the run names it, once.
pub async fn assets_gone(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    taking: &Taking<'_>,
    (external_ids, why): (&[String], Gone),
) -> Result<Vec<Taken>, StoreError> {
    let known = assets::known(db, taking.source, external_ids).await?;
    let (mut told, mut history, mut outcomes) = (Vec::new(), Vec::new(), HashMap::new());
    let mut retired = Vec::new();
    for asset in known.values() {
        let from = asset.custody;
        let stays = why.spares(asset);
        // Of what stays it is told once, and surplus that stayed is a person's to decide about.
        if from.status == AssetStatus::Retired || ((stays || why == Gone::Surplus) && asset.print.is_none()) {
            continue;
        }
        let to = Custody { status: if stays { from.status } else { AssetStatus::Retired }, ..from };
        if !stays {
            let (kind, note) = (TransactionKind::StatusChanged, Some(why.note()));
            let (actor, ip, user_agent, amount) = (taking.actor, None, None, None);
            let from = Some(from);
            history.push(NewTransaction { asset_id: asset.id, kind, from, to, actor, ip, user_agent, amount, note });
            retired.push(asset.id);
            outcomes.insert(asset.id, Outcome::Updated(asset.id));
        } else if why == Gone::Surplus {
            let reason = format!(
                "the purchase is over fewer things now, and {} stays, as it has been in use: retire it here if it is gone",
                asset.tag
            );
            outcomes.insert(asset.id, Outcome::Refused(reason));
        }
        told.push(NewEvent {
            topic: topic(asset.id),
            kind: if stays { "asset.gone_at_source" } else { "asset.status_changed" },
            payload: json!({
                "asset_id": asset.id, "tag": asset.tag, "status": to.status, "from_status": from.status,
                "employee_id": from.employee_id,
            }),
            actor: taking.actor,
        });
    }
    let gone: Vec<Uuid> = known.values().map(|asset| asset.id).collect();
    assets::mark_gone(db, (&gone, &retired), taking.now).await?;
    asset_transactions::append(db, sealer, &history, taking.now).await?;
    if !told.is_empty() {
        events::append_many(db, &told, taking.now).await?;
    }
    Ok(external_ids
        .iter()
        .map(|external_id| {
            let outcome = known.get(external_id).and_then(|asset| outcomes.remove(&asset.id));
            Taken { external_id: external_id.clone(), outcome: outcome.unwrap_or(Outcome::Unchanged) }
        })
        .collect())
}

#[cfg(test)]
mod tests;
