//! Changes to employees and locations, each with its event (EVT-1). The caller opens the transaction as the organization and commits.
//! An event holds nothing that is sealed: no name, no number.

use backroom_queue::{NewJob, TraceParent, enqueue};
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

pub use super::take::{Taking, employees_gone, forget_source, resolve_managers, start_offboardings, take_employees};
use super::{StartOffboarding, topic};
pub use crate::jobs::assets::{Gone, assets_gone, take_assets};
use crate::{
    domain::{Employee, Location, NewEmployee, NewLocation, Organization},
    store::{
        Sealer, StoreError, employees,
        events::{self, NewEvent},
        locations, workflows,
    },
};

/// Who asks, when, and in which trace.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// As events name them: `user:<id>`, `api_key:<id>`, `job:<id>`, `operator`.
    pub actor: &'a str,
    pub now: DateTime<Utc>,
    pub trace: Option<TraceParent>,
}

/// ASSET-2
pub async fn create_location(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    new: &NewLocation,
    asked: &Asked<'_>,
) -> Result<Location, StoreError> {
    let location = locations::insert(db, sealer, new, asked.now).await?;
    tell_of_location(db, &location, "location.created", asked).await?;
    Ok(location)
}

/// ASSET-2. `None` if there is no such location.
pub async fn change_location(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (id, change): (Uuid, &NewLocation),
    asked: &Asked<'_>,
) -> Result<Option<Location>, StoreError> {
    let Some(location) = locations::update(db, sealer, (id, change), asked.now).await? else { return Ok(None) };
    tell_of_location(db, &location, "location.changed", asked).await?;
    Ok(Some(location))
}

async fn tell_of_location(
    db: &mut PgConnection,
    location: &Location,
    kind: &str,
    asked: &Asked<'_>,
) -> Result<(), StoreError> {
    let (topic, facts) = (format!("location:{}", location.id), &location.facts);
    let payload = json!({
        "location_id": location.id, "name": facts.name, "kind": facts.kind, "active": facts.active,
    });
    events::append(db, &NewEvent { topic, kind, payload, actor: asked.actor }, asked.now).await?;
    Ok(())
}

/// ASSET-1: somebody is written down by hand. Nothing starts by itself; that is for hires that an HRIS tells of.
pub async fn create_employee(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    new: &NewEmployee,
    asked: &Asked<'_>,
) -> Result<Employee, StoreError> {
    let employee = employees::insert(db, sealer, new, asked.now).await?;
    tell(db, &employee, "employee.created", asked).await?;
    Ok(employee)
}

/// ASSET-1. The caller has locked the employee ([`employees::lock`]) and does not let the change terminate or reactivate them.
pub async fn change_employee(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (id, change): (Uuid, &NewEmployee),
    asked: &Asked<'_>,
) -> Result<Employee, StoreError> {
    let employee = employees::update(db, sealer, (id, change), asked.now).await?;
    tell(db, &employee, "employee.changed", asked).await?;
    Ok(employee)
}

/// ASSET-1, ASSET-6: somebody goes, and their offboarding starts. `None` if there is no such employee.
pub async fn terminate_employee(
    db: &mut PgConnection,
    (organization, sealer): (&Organization, Sealer<'_>),
    (id, last_day): (Uuid, NaiveDate),
    asked: &Asked<'_>,
) -> Result<Option<Employee>, StoreError> {
    let gone = employees::terminate(db, sealer, (id, last_day), asked.now).await?;
    let Some(employee) = gone else { return Ok(None) };
    tell(db, &employee, "employee.terminated", asked).await?;
    let job = NewJob::of(&StartOffboarding { employee_id: id });
    enqueue(db, &job.tenant(organization.slug.as_str()).trace(asked.trace.clone())).await?;
    Ok(Some(employee))
}

/// ASSET-1: somebody is back; when they leave again, that starts an offboarding again. `None` if there is no such employee.
pub async fn reactivate_employee(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    id: Uuid,
    asked: &Asked<'_>,
) -> Result<Option<Employee>, StoreError> {
    let Some(employee) = employees::reactivate(db, sealer, id, asked.now).await? else { return Ok(None) };
    workflows::release_offboardings(db, &[id]).await?;
    tell(db, &employee, "employee.reactivated", asked).await?;
    Ok(Some(employee))
}

async fn tell(db: &mut PgConnection, employee: &Employee, kind: &str, asked: &Asked<'_>) -> Result<(), StoreError> {
    let facts = &employee.facts;
    let payload = json!({
        "employee_id": employee.id, "work_email": facts.work_email, "title": facts.title, "status": facts.status,
    });
    events::append(db, &NewEvent { topic: topic(employee.id), kind, payload, actor: asked.actor }, asked.now).await?;
    Ok(())
}
