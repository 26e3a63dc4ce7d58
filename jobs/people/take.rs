//! Employees as an HRIS tells of them, a page at a time (SYNC-3, ASSET-6): a handful of statements for a page, whatever its size.
//! Whoever says what they said before costs a fingerprint and no write.

use std::collections::{HashMap, HashSet};

use backroom_queue::{NewJob, TraceParent, enqueue_many};
use chrono::{DateTime, Duration, NaiveDate, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StartOffboarding, StartOnboarding, topic};
use crate::{
    domain::{
        EmailAddress, EmployeeStatus, NewEmployee, Organization,
        field_error::one_line,
        integration::SyncMode,
        source_record::{EmployeeFacts, Standing},
    },
    store::{
        Sealer, StoreError, assets,
        employees::{self, Known, Owner, TakenRow},
        events::{self, NewEvent},
        from_source::{Outcome, Source, Taken},
        locations, workflows,
    },
    sync::{self, Sieved},
};

/// Who was hired longer ago is no new hire, however late we hear of them.
const NEW_FOR: Duration = Duration::days(30);

/// So many leave in one run; more are held if they are also more than a quarter of those who worked here.
const LEAVE_AT_ONCE: i64 = 10;

/// The run that takes the records.
pub struct Taking<'a> {
    pub organization: &'a Organization,
    pub source: Source,
    /// As events name it.
    pub actor: &'a str,
    pub now: DateTime<Utc>,
    /// No onboarding for those who were there before us.
    pub first_run: bool,
    pub trace: Option<TraceParent>,
}

impl Taking<'_> {
    /// The day, by the organization's calendar.
    pub(crate) fn today(&self) -> NaiveDate {
        self.now.with_timezone(&self.organization.time_zone).date_naive()
    }

    fn job(&self, job: NewJob) -> NewJob {
        job.tenant(self.organization.slug.as_str()).trace(self.trace.clone())
    }
}

/// A record on its way in.
type Wanted<'a> = sync::Wanted<'a, EmployeeFacts, Known>;

impl Wanted<'_> {
    fn key(&self) -> Option<String> {
        self.facts.work_email.as_ref().map(EmailAddress::key)
    }

    fn was(&self) -> Option<EmployeeStatus> {
        self.before.as_ref().map(|before| before.status)
    }

    /// What events and jobs call what happens.
    fn kind(&self) -> &'static str {
        let employed = self.facts.standing != Standing::Terminated;
        match self.was().map(EmployeeStatus::is_employed) {
            None => "employee.created",
            Some(true) if !employed => "employee.terminated",
            Some(false) if employed => "employee.reactivated",
            Some(_) => "employee.changed",
        }
    }
}

/// The people of a page, in one transaction of the caller; events and jobs with them. A record that comes twice in a page counts as
/// it came last.
pub async fn take_employees(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    taking: &Taking<'_>,
    records: &[(String, EmployeeFacts)],
) -> Result<Vec<Taken>, StoreError> {
    let external_ids: Vec<String> = records.iter().map(|(external_id, _)| external_id.clone()).collect();
    let prints = employees::prints(db, taking.source, &external_ids).await?;
    let Sieved { mut outcomes, news: mut wanted } =
        sync::sieve(records, &prints, check, |facts| employees::print(sealer, facts))?;
    let changed: Vec<String> = wanted.iter().map(|(_, wanted)| wanted.external_id.to_owned()).collect();
    let mut known = employees::known(db, taking.source, &changed).await?;
    for (_, wanted) in &mut wanted {
        wanted.before = known.remove(wanted.external_id);
    }
    for (n, reason) in settle_addresses(db, &mut wanted).await? {
        outcomes[n] = Some(Outcome::Refused(reason));
    }
    wanted.retain(|(n, _)| outcomes[*n].is_none());
    for (n, outcome) in store(db, sealer, taking, &wanted).await? {
        outcomes[n] = Some(outcome);
    }
    let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Unchanged));
    Ok(external_ids.into_iter().zip(outcomes).map(|(external_id, outcome)| Taken { external_id, outcome }).collect())
}

/// Refuses what could not be stored, without repeating it.
fn check(external_id: &str, facts: &EmployeeFacts) -> Result<(), String> {
    one_line(external_id, 200).map_err(|error| format!("its id {error}"))?;
    for (what, text) in [("manager", &facts.manager_external_id), ("location", &facts.location)] {
        if let Some(text) = text {
            one_line(text, 200).map_err(|error| format!("`{what}` {error}"))?;
        }
    }
    NewEmployee::from(facts).validate().map_err(|errors| errors.to_string())
}

/// A work address is one person's. Whom a person wrote down becomes the source's record of the same address; whose address belongs
/// to somebody else is refused. Addresses that the page frees are free for the page.
async fn settle_addresses(
    db: &mut PgConnection,
    wanted: &mut [(usize, Wanted<'_>)],
) -> Result<Vec<(usize, String)>, StoreError> {
    let keys: Vec<String> = wanted.iter().filter_map(|(_, wanted)| wanted.key()).collect();
    let owners = employees::address_owners(db, &keys).await?;
    for (_, wanted) in wanted.iter_mut().filter(|(_, wanted)| wanted.before.is_none()) {
        let owner = wanted.key().and_then(|key| Some((owners.get(&key).filter(|owner| owner.by_hand)?, key)));
        if let Some((owner, key)) = owner {
            let known = Known { id: owner.id, status: owner.status, work_email_key: Some(key) };
            wanted.before = Some(known);
        }
    }
    // Who is refused keeps their address, which may refuse another one: until nobody is.
    let mut refused: HashSet<usize> = HashSet::new();
    loop {
        let fallen = contested(wanted, &owners, &refused);
        if fallen.is_empty() {
            break;
        }
        refused.extend(fallen);
    }
    let reason = "its work e-mail belongs to another employee; correct it there or at the source";
    Ok(refused.into_iter().map(|n| (n, reason.to_owned())).collect())
}

/// Those who want an address that somebody else has or took before them.
fn contested(wanted: &[(usize, Wanted<'_>)], owners: &HashMap<String, Owner>, refused: &HashSet<usize>) -> Vec<usize> {
    let standing: Vec<_> = wanted.iter().filter(|(n, _)| !refused.contains(n)).collect();
    let freed: HashSet<Uuid> = standing
        .iter()
        .filter(|(_, wanted)| wanted.key().is_some())
        .filter_map(|(_, wanted)| wanted.before.as_ref().filter(|before| before.work_email_key != wanted.key()))
        .map(|before| before.id)
        .collect();
    let mut taken: HashSet<String> = HashSet::new();
    let mut people: HashSet<Uuid> = HashSet::new();
    let mut fallen = Vec::new();
    for (n, wanted) in standing {
        let own = wanted.before.as_ref().map(|before| before.id);
        // Two records of the source that one person was written down for.
        let twice = own.is_some_and(|own| !people.insert(own));
        let Some(key) = wanted.key() else { continue };
        let foreign = owners.get(&key).is_some_and(|owner| Some(owner.id) != own && !freed.contains(&owner.id));
        if twice || foreign || !taken.insert(key) {
            fallen.push(*n);
        }
    }
    fallen
}

/// Writes them, tells of them, and starts what their coming and going starts.
async fn store(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    taking: &Taking<'_>,
    wanted: &[(usize, Wanted<'_>)],
) -> Result<Vec<(usize, Outcome)>, StoreError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let places = ensure_locations(db, taking, wanted).await?;
    let today = taking.today();
    let (mut new, mut changed, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut told, mut jobs, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for (n, wanted) in wanted {
        let (facts, kind) = (wanted.facts, wanted.kind());
        let id = wanted.before.as_ref().map_or_else(Uuid::now_v7, |before| before.id);
        let row = TakenRow {
            id,
            external_id: wanted.external_id,
            facts,
            location_id: facts.location.as_ref().and_then(|name| places.get(name).copied()),
            termination_date: (kind == "employee.terminated").then_some(today),
            back: kind == "employee.reactivated",
            print: wanted.print.clone(),
        };
        let is_new = wanted.before.is_none();
        if is_new {
            new.push(row)
        } else {
            changed.push(row)
        }
        outcomes.push((*n, if is_new { Outcome::Created(id) } else { Outcome::Updated(id) }));
        let payload = json!({
            "employee_id": id, "work_email": facts.work_email, "title": facts.job_title,
            "status": EmployeeStatus::from(facts.standing),
        });
        told.push(NewEvent { topic: topic(id), kind, payload, actor: taking.actor });
        let hired_lately = facts.hire_date.is_some_and(|hired| hired >= today - NEW_FOR);
        let comes = is_new || kind == "employee.reactivated";
        if comes && !taking.first_run && facts.standing == Standing::Active && hired_lately {
            jobs.push(taking.job(NewJob::of(&StartOnboarding { employee_id: id })));
        }
        if kind == "employee.reactivated" {
            back.push(id);
        }
    }
    // Those who are here first: they may free an address that somebody new has.
    employees::update_taken(db, sealer, taking.source, &changed, taking.now).await?;
    employees::insert_taken(db, sealer, taking.source, &new, taking.now).await?;
    if !back.is_empty() {
        workflows::release_offboardings(db, &back).await?;
    }
    events::append_many(db, &told, taking.now).await?;
    enqueue_many(db, &jobs).await?;
    Ok(outcomes)
}

/// The locations that the page names, by name.
async fn ensure_locations(
    db: &mut PgConnection,
    taking: &Taking<'_>,
    wanted: &[(usize, Wanted<'_>)],
) -> Result<HashMap<String, Uuid>, StoreError> {
    let mut seen = HashSet::new();
    let names = wanted.iter().filter_map(|(_, wanted)| wanted.facts.location.clone());
    let names: Vec<String> = names.filter(|name| seen.insert(name.clone())).collect();
    let (places, made) = locations::ensure_named(db, &names, taking.now).await?;
    let told: Vec<_> = made
        .iter()
        .map(|(id, name)| NewEvent {
            topic: format!("location:{id}"),
            kind: "location.created",
            payload: json!({ "location_id": id, "name": name, "active": true }),
            actor: taking.actor,
        })
        .collect();
    if !told.is_empty() {
        events::append_many(db, &told, taking.now).await?;
    }
    Ok(places)
}

/// People whom the source has no longer: they are terminated.
pub async fn employees_gone(
    db: &mut PgConnection,
    _sealer: Sealer<'_>,
    taking: &Taking<'_>,
    external_ids: &[String],
) -> Result<Vec<Taken>, StoreError> {
    let gone = employees::gone(db, taking.source, external_ids, (taking.today(), taking.now)).await?;
    let told: Vec<_> = gone
        .iter()
        .map(|gone| NewEvent {
            topic: topic(gone.id),
            kind: "employee.terminated",
            payload: json!({
                "employee_id": gone.id, "work_email": gone.work_email, "title": gone.title,
                "status": EmployeeStatus::Terminated,
            }),
            actor: taking.actor,
        })
        .collect();
    if !told.is_empty() {
        events::append_many(db, &told, taking.now).await?;
    }
    let mut gone: HashMap<String, Uuid> = gone.into_iter().map(|gone| (gone.external_id, gone.id)).collect();
    Ok(external_ids
        .iter()
        .map(|external_id| {
            let outcome = gone.remove(external_id).map_or(Outcome::Unchanged, Outcome::Updated);
            Taken { external_id: external_id.clone(), outcome }
        })
        .collect())
}

/// ASSET-6: starts the offboardings of whom the run has terminated. Call it at the run's end. A source whose permissions were cut down
/// may say that most people have left: then they are held, and the answer says why. Nothing runs before a person has seen to that; the
/// first full run afterwards brings back who is still there, and starts what is held of the others.
pub async fn start_offboardings(
    db: &mut PgConnection,
    taking: &Taking<'_>,
    mode: SyncMode,
) -> Result<Option<String>, StoreError> {
    let source = taking.source;
    let (due, employed) = employees::leaving(db, source).await?;
    let too_many = due > LEAVE_AT_ONCE && due * 4 > due + employed;
    let mut leave = Vec::new();
    if too_many {
        employees::hold_offboardings(db, source).await?;
    } else {
        leave = employees::release_offboardings(db, source, "due").await?;
        if mode == SyncMode::Full {
            leave.extend(employees::release_offboardings(db, source, "held").await?);
        }
    }
    let jobs = leave.into_iter().map(|employee_id| taking.job(NewJob::of(&StartOffboarding { employee_id })));
    enqueue_many(db, &jobs.collect::<Vec<_>>()).await?;
    Ok(too_many.then(|| {
        format!(
            "one run terminated {due} of {} people, so their offboardings are held; see whether the account may still read \
             everybody, test the connection, then sync in full by hand: who is back then stays, for the others it starts",
            due + employed
        )
    }))
}

/// Points the source's employees to their managers, who may have come later in the run. Call it after the last page. Answers how
/// many it changed.
pub async fn resolve_managers(db: &mut PgConnection, source: Source) -> Result<u64, StoreError> {
    employees::resolve_managers(db, source).await
}

/// Leaves employees and assets of a source that is removed as if they had been written by hand. Call it where an integration goes:
/// the next one takes them over, by work address and serial number.
pub async fn forget_source(db: &mut PgConnection, source: Source) -> Result<u64, StoreError> {
    Ok(employees::forget_source(db, source).await? + assets::forget_source(db, source).await?)
}

#[cfg(test)]
mod tests;
