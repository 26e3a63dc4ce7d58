//! Many employees at a time, as an HRIS tells of them: a statement for a page, not for a person. What the source says nothing of
//! stays as it is.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Sealed, TABLE, seal};
use crate::{
    domain::{EmailAddress, EmployeeStatus, NewEmployee, source_record::EmployeeFacts},
    store::{
        Sealer, StoreError,
        from_source::{self, Source},
        stored,
    },
};

/// An employee whom the source told of before.
#[derive(Clone, Debug)]
pub struct Known {
    pub id: Uuid,
    pub status: EmployeeStatus,
    pub work_email_key: Option<String>,
}

/// The fingerprints of those of these ids at the source that are here, by that id. Nothing is locked: who says what they said
/// before is only read.
pub async fn prints(
    db: &mut PgConnection,
    source: Source,
    external_ids: &[String],
) -> Result<HashMap<String, Vec<u8>>, StoreError> {
    let rows = sqlx::query!(
        r#"select external_id as "external_id!", source_print as "source_print!" from employees
         where integration_id = $1 and external_id = any($2) and source_print is not null"#,
        source.integration_id,
        external_ids
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.external_id, row.source_print)).collect())
}

/// Those of these ids at the source that are here, by that id. They are locked.
pub async fn known(
    db: &mut PgConnection,
    source: Source,
    external_ids: &[String],
) -> Result<HashMap<String, Known>, StoreError> {
    let rows = sqlx::query!(
        r#"select id, external_id as "external_id!", status, work_email_key from employees
         where integration_id = $1 and external_id = any($2) order by id for no key update"#,
        source.integration_id,
        external_ids
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let status = stored("employees.status", &row.status)?;
            let known = Known { id: row.id, status, work_email_key: row.work_email_key };
            Ok((row.external_id, known))
        })
        .collect()
}

/// Whose a work address is.
#[derive(Clone, Debug)]
pub struct Owner {
    pub id: Uuid,
    pub status: EmployeeStatus,
    /// No source tells of them.
    pub by_hand: bool,
}

/// Who has these work addresses, by [`EmailAddress::key`].
pub async fn address_owners(db: &mut PgConnection, keys: &[String]) -> Result<HashMap<String, Owner>, StoreError> {
    let rows = sqlx::query!(
        r#"select id, work_email_key as "key!", status, integration_id from employees
         where work_email_key = any($1) order by id for no key update"#,
        keys
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let status = stored("employees.status", &row.status)?;
            Ok((row.key, Owner { id: row.id, status, by_hand: row.integration_id.is_none() }))
        })
        .collect()
}

/// An employee to be written as the source has them.
#[derive(Clone, Debug)]
pub struct TakenRow<'a> {
    pub id: Uuid,
    pub external_id: &'a str,
    pub facts: &'a EmployeeFacts,
    pub location_id: Option<Uuid>,
    /// Of somebody who has just gone and of whom the source says no day.
    pub termination_date: Option<NaiveDate>,
    /// They are back: the day they went is no more.
    pub back: bool,
    pub print: Vec<u8>,
}

/// The rows as columns, sealed.
#[derive(Default)]
struct Columns {
    ids: Vec<Uuid>,
    external_ids: Vec<String>,
    emails: Vec<Option<String>>,
    first_names: Vec<Vec<u8>>,
    last_names: Vec<Vec<u8>>,
    phones: Vec<Option<Vec<u8>>>,
    addresses: Vec<Option<Vec<u8>>>,
    security_numbers: Vec<Option<Vec<u8>>>,
    national_ids: Vec<Option<Vec<u8>>>,
    births: Vec<Option<Vec<u8>>>,
    customs: Vec<Option<Vec<u8>>>,
    titles: Vec<Option<String>>,
    departments: Vec<Option<String>>,
    managers: Vec<Option<String>>,
    locations: Vec<Option<Uuid>>,
    statuses: Vec<String>,
    hire_dates: Vec<Option<NaiveDate>>,
    termination_dates: Vec<Option<NaiveDate>>,
    backs: Vec<bool>,
    prints: Vec<Vec<u8>>,
}

fn columns(sealer: Sealer<'_>, rows: &[TakenRow<'_>]) -> Result<Columns, StoreError> {
    let mut columns = Columns::default();
    for row in rows {
        let facts = row.facts;
        let employee = NewEmployee::from(facts);
        let Sealed {
            first_name,
            last_name,
            phone,
            home_address,
            social_security_number,
            national_id,
            date_of_birth,
            custom,
        } = seal(sealer, row.id, &employee)?;
        columns.ids.push(row.id);
        columns.external_ids.push(row.external_id.to_owned());
        columns.emails.push(facts.work_email.as_ref().map(|email| email.as_str().to_owned()));
        columns.first_names.push(first_name);
        columns.last_names.push(last_name);
        columns.phones.push(phone);
        columns.addresses.push(home_address);
        columns.security_numbers.push(social_security_number);
        columns.national_ids.push(national_id);
        columns.births.push(date_of_birth);
        columns.customs.push(custom);
        columns.titles.push(employee.title);
        columns.departments.push(employee.department);
        columns.managers.push(facts.manager_external_id.clone());
        columns.locations.push(row.location_id);
        columns.statuses.push(employee.status.as_str().to_owned());
        columns.hire_dates.push(facts.hire_date);
        columns.termination_dates.push(facts.termination_date.or(row.termination_date));
        columns.backs.push(row.back);
        columns.prints.push(row.print.clone());
    }
    Ok(columns)
}

/// Writes new employees.
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
    let c = columns(sealer, rows)?;
    sqlx::query!(
        "insert into employees (id, external_id, work_email, first_name, last_name, phone, home_address,
             social_security_number, national_id, date_of_birth, custom, title, department, manager_external_id,
             location_id, status, hire_date, termination_date, source_print, integration_id, created_at, updated_at)
         select n.*, $20, $21, $21
         from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[],
                     $9::bytea[], $10::bytea[], $11::bytea[], $12::text[], $13::text[], $14::text[], $15::uuid[],
                     $16::text[], $17::date[], $18::date[], $19::bytea[]) as n",
        &c.ids,
        &c.external_ids,
        &c.emails as &[Option<String>],
        &c.first_names,
        &c.last_names,
        &c.phones as &[Option<Vec<u8>>],
        &c.addresses as &[Option<Vec<u8>>],
        &c.security_numbers as &[Option<Vec<u8>>],
        &c.national_ids as &[Option<Vec<u8>>],
        &c.births as &[Option<Vec<u8>>],
        &c.customs as &[Option<Vec<u8>>],
        &c.titles as &[Option<String>],
        &c.departments as &[Option<String>],
        &c.managers as &[Option<String>],
        &c.locations as &[Option<Uuid>],
        &c.statuses,
        &c.hire_dates as &[Option<NaiveDate>],
        &c.termination_dates as &[Option<NaiveDate>],
        &c.prints,
        source.integration_id,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Writes what changed of employees that are here; those whom nobody told of before are the source's from now on.
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
    let c = columns(sealer, rows)?;
    sqlx::query!(
        "update employees e set integration_id = $21, external_id = n.external_id,
             work_email = coalesce(n.work_email, e.work_email), first_name = n.first_name, last_name = n.last_name,
             phone = coalesce(n.phone, e.phone), home_address = coalesce(n.home_address, e.home_address),
             social_security_number = coalesce(n.social_security_number, e.social_security_number),
             national_id = coalesce(n.national_id, e.national_id),
             date_of_birth = coalesce(n.date_of_birth, e.date_of_birth), custom = coalesce(n.custom, e.custom),
             title = coalesce(n.title, e.title), department = coalesce(n.department, e.department),
             manager_external_id = coalesce(n.manager_external_id, e.manager_external_id),
             location_id = coalesce(n.location_id, e.location_id), status = n.status,
             hire_date = coalesce(n.hire_date, e.hire_date),
             termination_date = coalesce(n.termination_date, case when not n.back then e.termination_date end),
             offboarding = case when n.status <> 'terminated' then null
                                when e.status <> 'terminated' then 'due' else e.offboarding end,
             source_print = n.source_print, updated_at = $22
         from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[],
                     $9::bytea[], $10::bytea[], $11::bytea[], $12::text[], $13::text[], $14::text[], $15::uuid[],
                     $16::text[], $17::date[], $18::date[], $19::bytea[], $20::boolean[])
              as n (id, external_id, work_email, first_name, last_name, phone, home_address, social_security_number,
                    national_id, date_of_birth, custom, title, department, manager_external_id, location_id, status,
                    hire_date, termination_date, source_print, back)
         where e.id = n.id",
        &c.ids,
        &c.external_ids,
        &c.emails as &[Option<String>],
        &c.first_names,
        &c.last_names,
        &c.phones as &[Option<Vec<u8>>],
        &c.addresses as &[Option<Vec<u8>>],
        &c.security_numbers as &[Option<Vec<u8>>],
        &c.national_ids as &[Option<Vec<u8>>],
        &c.births as &[Option<Vec<u8>>],
        &c.customs as &[Option<Vec<u8>>],
        &c.titles as &[Option<String>],
        &c.departments as &[Option<String>],
        &c.managers as &[Option<String>],
        &c.locations as &[Option<Uuid>],
        &c.statuses,
        &c.hire_dates as &[Option<NaiveDate>],
        &c.termination_dates as &[Option<NaiveDate>],
        &c.prints,
        &c.backs,
        source.integration_id,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Somebody whom the source has no longer.
#[derive(Clone, Debug)]
pub struct Gone {
    pub id: Uuid,
    pub external_id: String,
    pub work_email: Option<EmailAddress>,
    pub title: Option<String>,
}

/// Terminates those of these ids at the source who were not. Told of again, they are as if they had changed.
pub async fn gone(
    db: &mut PgConnection,
    source: Source,
    external_ids: &[String],
    (today, now): (NaiveDate, DateTime<Utc>),
) -> Result<Vec<Gone>, StoreError> {
    let rows = sqlx::query!(
        r#"update employees
         set status = 'terminated', termination_date = coalesce(termination_date, $3), source_print = null, updated_at = $4,
             offboarding = 'due'
         where integration_id = $1 and external_id = any($2) and status <> 'terminated'
         returning id, external_id as "external_id!", work_email, title"#,
        source.integration_id,
        external_ids,
        today,
        now
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let work_email = row.work_email.as_deref().map(|text| stored("employees.work_email", text)).transpose()?;
            Ok(Gone { id: row.id, external_id: row.external_id, work_email, title: row.title })
        })
        .collect()
}

/// How many of the source's employees wait for the end of the run, which has terminated them, and how many work on.
pub async fn leaving(db: &mut PgConnection, source: Source) -> Result<(i64, i64), StoreError> {
    let row = sqlx::query!(
        r#"select count(*) filter (where offboarding = 'due' and status = 'terminated') as "due!",
                  count(*) filter (where status <> 'terminated') as "employed!"
         from employees where integration_id = $1"#,
        source.integration_id
    )
    .fetch_one(db)
    .await?;
    Ok((row.due, row.employed))
}

/// Holds the offboardings that are due until somebody has had a look.
pub async fn hold_offboardings(db: &mut PgConnection, source: Source) -> Result<(), StoreError> {
    sqlx::query!(
        "update employees set offboarding = 'held' where integration_id = $1 and offboarding = 'due'",
        source.integration_id
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Whose offboarding is to be started, `due` or `held`: asked for once.
pub async fn release_offboardings(
    db: &mut PgConnection,
    source: Source,
    offboarding: &str,
) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        "update employees set offboarding = null
         where integration_id = $1 and offboarding = $2 and status = 'terminated' returning id",
        source.integration_id,
        offboarding
    )
    .fetch_all(db)
    .await?)
}

/// Points employees to their managers, who may have come later in the same run. Answers how many it changed; a second time none.
pub async fn resolve_managers(db: &mut PgConnection, source: Source) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update employees e set manager_id = m.id from employees m
         where e.integration_id = $1 and m.integration_id = $1 and m.external_id = e.manager_external_id
           and e.id <> m.id and e.manager_id is distinct from m.id",
        source.integration_id
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Leaves the employees of a source that is no more as if they had been written by hand: the next source that knows their work
/// address takes them over. Answers how many.
pub async fn forget_source(db: &mut PgConnection, source: Source) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update employees set integration_id = null, source_print = null, offboarding = null where integration_id = $1",
        source.integration_id
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// The fingerprint of what a source says of somebody: equal for equal facts, and tells nothing else.
pub fn print(sealer: Sealer<'_>, facts: &EmployeeFacts) -> Result<Vec<u8>, StoreError> {
    from_source::print(sealer, TABLE, facts)
}
