//! `employees` (ASSET-1). All but the work address, title, department and dates of employment is sealed.

mod taken;

use chrono::{DateTime, NaiveDate, Utc};
use secrecy::ExposeSecret;
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

pub use self::taken::{
    Gone, Known, Owner, TakenRow, address_owners, forget_source, gone, hold_offboardings, insert_taken, known, leaving,
    print, prints, release_offboardings, resolve_managers, update_taken,
};
use super::{Page, Sealer, StoreError, prefix_end, stored};
use crate::domain::{
    EmailAddress, Employee, EmployeeStatus, NewEmployee,
    employee::{PersonName, Private, Refusal},
};

const TABLE: &str = "employees";
const CONSTRAINTS: &[(&str, &str, &str)] = &[
    ("employees_work_email_key", "work_email", "belongs to another employee already"),
    ("employees_manager_id_fkey", "manager_id", "names an employee who does not exist"),
    ("employees_manager_check", "manager_id", "must not be the employee's own id"),
    ("employees_location_id_fkey", "location_id", "names a location that does not exist"),
];

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    work_email: Option<String>,
    first_name: Vec<u8>,
    last_name: Vec<u8>,
    phone: Option<Vec<u8>>,
    home_address: Option<Vec<u8>>,
    social_security_number: Option<Vec<u8>>,
    national_id: Option<Vec<u8>>,
    date_of_birth: Option<Vec<u8>>,
    custom: Option<Vec<u8>>,
    title: Option<String>,
    department: Option<String>,
    manager_id: Option<Uuid>,
    location_id: Option<Uuid>,
    status: String,
    hire_date: Option<NaiveDate>,
    termination_date: Option<NaiveDate>,
    integration_id: Option<Uuid>,
    external_id: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Row {
    fn open(self, sealer: Sealer<'_>) -> Result<Employee, StoreError> {
        let place = |column| sealer.place(TABLE, column, self.id);
        let open = |column, sealed: &Vec<u8>| {
            sealer.vault.open_text(&place(column), sealed).map(|text| text.expose_secret().to_owned())
        };
        let maybe = |column, sealed: &Option<Vec<u8>>| sealed.as_ref().map(|sealed| open(column, sealed)).transpose();
        let born = self.date_of_birth.as_ref();
        let born = born.map(|sealed| sealer.vault.open_json(&place("date_of_birth"), sealed)).transpose()?;
        let custom = self.custom.as_ref();
        let custom = custom.map(|sealed| sealer.vault.open_json(&place("custom"), sealed)).transpose()?;
        let facts = NewEmployee {
            work_email: self.work_email.as_deref().map(|text| stored("employees.work_email", text)).transpose()?,
            name: PersonName {
                first: open("first_name", &self.first_name)?,
                last: open("last_name", &self.last_name)?,
            },
            private: Private {
                phone: maybe("phone", &self.phone)?,
                home_address: maybe("home_address", &self.home_address)?,
                social_security_number: maybe("social_security_number", &self.social_security_number)?,
                national_id: maybe("national_id", &self.national_id)?,
                date_of_birth: born,
                custom: custom.unwrap_or_default(),
            },
            title: self.title,
            department: self.department,
            manager_id: self.manager_id,
            location_id: self.location_id,
            status: stored("employees.status", &self.status)?,
            hire_date: self.hire_date,
            termination_date: self.termination_date,
        };
        Ok(Employee {
            id: self.id,
            facts,
            integration_id: self.integration_id,
            external_id: self.external_id,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// The sealed columns of an employee.
struct Sealed {
    first_name: Vec<u8>,
    last_name: Vec<u8>,
    phone: Option<Vec<u8>>,
    home_address: Option<Vec<u8>>,
    social_security_number: Option<Vec<u8>>,
    national_id: Option<Vec<u8>>,
    date_of_birth: Option<Vec<u8>>,
    custom: Option<Vec<u8>>,
}

fn seal(sealer: Sealer<'_>, id: Uuid, employee: &NewEmployee) -> Result<Sealed, StoreError> {
    let place = |column| sealer.place(TABLE, column, id);
    let text = |column, text: &str| sealer.vault.seal_text(&place(column), text);
    let maybe = |column, value: &Option<String>| value.as_deref().map(|value| text(column, value));
    let private = &employee.private;
    let born = private.date_of_birth.map(|born| sealer.vault.seal_json(&place("date_of_birth"), &born));
    let custom = Some(&private.custom).filter(|custom| !custom.is_empty());
    let custom = custom.map(|custom| sealer.vault.seal_json(&place("custom"), custom));
    Ok(Sealed {
        first_name: text("first_name", &employee.name.first),
        last_name: text("last_name", &employee.name.last),
        phone: maybe("phone", &private.phone),
        home_address: maybe("home_address", &private.home_address),
        social_security_number: maybe("social_security_number", &private.social_security_number),
        national_id: maybe("national_id", &private.national_id),
        date_of_birth: born.transpose()?,
        custom: custom.transpose()?,
    })
}

pub async fn insert(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    employee: &NewEmployee,
    now: DateTime<Utc>,
) -> Result<Employee, StoreError> {
    let id = Uuid::now_v7();
    let sealed = seal(sealer, id, employee)?;
    sqlx::query!(
        "insert into employees (id, work_email, first_name, last_name, phone, home_address, social_security_number,
             national_id, date_of_birth, custom, title, department, manager_id, location_id, status, hire_date,
             termination_date, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $18)",
        id,
        employee.work_email.as_ref().map(EmailAddress::as_str),
        sealed.first_name,
        sealed.last_name,
        sealed.phone,
        sealed.home_address,
        sealed.social_security_number,
        sealed.national_id,
        sealed.date_of_birth,
        sealed.custom,
        employee.title,
        employee.department,
        employee.manager_id,
        employee.location_id,
        employee.status.as_str(),
        employee.hire_date,
        employee.termination_date,
        now
    )
    .execute(db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    let facts = employee.clone();
    Ok(Employee { id, facts, integration_id: None, external_id: None, created_at: now, updated_at: now })
}

/// Replaces all that is said of an employee. The caller has locked them ([`lock`]). Another manager stays until the source says
/// something new.
pub async fn update(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (id, employee): (Uuid, &NewEmployee),
    now: DateTime<Utc>,
) -> Result<Employee, StoreError> {
    let sealed = seal(sealer, id, employee)?;
    sqlx::query!(
        "update employees set work_email = $2, first_name = $3, last_name = $4, phone = $5, home_address = $6,
             social_security_number = $7, national_id = $8, date_of_birth = $9, custom = $10, title = $11,
             department = $12, manager_id = $13,
             manager_external_id = case when manager_id is distinct from $13 then null else manager_external_id end,
             location_id = $14, status = $15, hire_date = $16, termination_date = $17, updated_at = $18
         where id = $1",
        id,
        employee.work_email.as_ref().map(EmailAddress::as_str),
        sealed.first_name,
        sealed.last_name,
        sealed.phone,
        sealed.home_address,
        sealed.social_security_number,
        sealed.national_id,
        sealed.date_of_birth,
        sealed.custom,
        employee.title,
        employee.department,
        employee.manager_id,
        employee.location_id,
        employee.status.as_str(),
        employee.hire_date,
        employee.termination_date,
        now
    )
    .execute(&mut *db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    by_id(db, sealer, id).await?.ok_or(StoreError::NotFound { what: "employee", id })
}

pub async fn by_id(db: &mut PgConnection, sealer: Sealer<'_>, id: Uuid) -> Result<Option<Employee>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, work_email, first_name, last_name, phone, home_address, social_security_number, national_id,
                date_of_birth, custom, title, department, manager_id, location_id, status, hire_date, termination_date,
                integration_id, external_id, created_at, updated_at
         from employees where id = $1",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| row.open(sealer)).transpose()
}

/// As [`by_id`], and nobody else changes the employee until this transaction ends.
pub async fn lock(db: &mut PgConnection, sealer: Sealer<'_>, id: Uuid) -> Result<Option<Employee>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, work_email, first_name, last_name, phone, home_address, social_security_number, national_id,
                date_of_birth, custom, title, department, manager_id, location_id, status, hire_date, termination_date,
                integration_id, external_id, created_at, updated_at
         from employees where id = $1 for no key update",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| row.open(sealer)).transpose()
}

/// By the work address, in any case.
pub async fn by_email(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    email: &EmailAddress,
) -> Result<Option<Employee>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, work_email, first_name, last_name, phone, home_address, social_security_number, national_id,
                date_of_birth, custom, title, department, manager_id, location_id, status, hire_date, termination_date,
                integration_id, external_id, created_at, updated_at
         from employees where work_email_key = $1",
        email.key()
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| row.open(sealer)).transpose()
}

/// Whether there is such an employee.
pub async fn exists(db: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!("select id from employees where id = $1", id).fetch_optional(db).await?.is_some())
}

/// How the employee stands; `None` if there is no such employee. It stays so until this transaction ends.
pub async fn hold(db: &mut PgConnection, id: Uuid) -> Result<Option<EmployeeStatus>, StoreError> {
    let status = sqlx::query_scalar!("select status from employees where id = $1 for share", id);
    let status = status.fetch_optional(db).await?;
    status.map(|status| stored("employees.status", &status)).transpose()
}

/// Which employees. All given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct EmployeeFilter {
    /// The beginning of the work address, in any case, or all of it.
    pub email: Option<String>,
    /// Part of the title, in any case.
    pub title: Option<String>,
    pub department: Option<String>,
    pub status: Option<EmployeeStatus>,
    pub location_id: Option<Uuid>,
    pub manager_id: Option<Uuid>,
    /// The id at the HRIS.
    pub external_id: Option<String>,
    pub integration_id: Option<Uuid>,
}

pub async fn page(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    filter: &EmployeeFilter,
    page: Page,
) -> Result<Vec<Employee>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, work_email, first_name, last_name, phone, home_address, social_security_number, national_id,
                date_of_birth, custom, title, department, manager_id, location_id, status, hire_date, termination_date,
                integration_id, external_id, created_at, updated_at
         from employees where true",
    );
    if let Some(email) = &filter.email {
        // An index of text_pattern_ops serves these, and LIKE only where the pattern is known when the plan is made.
        let start = email.trim().to_lowercase();
        query.push(" and work_email_key ~<~ ").push_bind(prefix_end(&start));
        query.push(" and work_email_key ~>=~ ").push_bind(start);
    }
    if let Some(title) = &filter.title {
        query.push(" and strpos(lower(title), lower(").push_bind(title.clone()).push(")) > 0");
    }
    if let Some(department) = &filter.department {
        query.push(" and lower(department) = lower(").push_bind(department.clone()).push(")");
    }
    if let Some(status) = filter.status {
        query.push(" and status = ").push_bind(status.as_str());
    }
    if let Some(location_id) = filter.location_id {
        query.push(" and location_id = ").push_bind(location_id);
    }
    if let Some(manager_id) = filter.manager_id {
        query.push(" and manager_id = ").push_bind(manager_id);
    }
    if let Some(external_id) = &filter.external_id {
        query.push(" and external_id = ").push_bind(external_id.clone());
    }
    if let Some(integration_id) = filter.integration_id {
        query.push(" and integration_id = ").push_bind(integration_id);
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(|row| row.open(sealer)).collect()
}

/// ASSET-1: they are gone since `day`. `None` if there is no such employee; refused if they are terminated already.
pub async fn terminate(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    (id, day): (Uuid, NaiveDate),
    now: DateTime<Utc>,
) -> Result<Option<Employee>, StoreError> {
    let done = sqlx::query!(
        "update employees set status = 'terminated', termination_date = $2, updated_at = $3
         where id = $1 and status <> 'terminated' and (hire_date is null or hire_date <= $2)",
        id,
        day,
        now
    )
    .execute(&mut *db)
    .await?;
    match by_id(db, sealer, id).await? {
        Some(employee) if done.rows_affected() == 0 && employee.facts.status.is_employed() => {
            Err(Refusal::BeforeHire.into())
        }
        Some(_) if done.rows_affected() == 0 => Err(Refusal::Terminated.into()),
        found => Ok(found),
    }
}

/// ASSET-1: they are back. `None` if there is no such employee; refused if they are not terminated.
pub async fn reactivate(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    id: Uuid,
    now: DateTime<Utc>,
) -> Result<Option<Employee>, StoreError> {
    let done = sqlx::query!(
        "update employees set status = 'active', termination_date = null, offboarding = null, updated_at = $2
         where id = $1 and status = 'terminated'",
        id,
        now
    )
    .execute(&mut *db)
    .await?;
    match by_id(db, sealer, id).await? {
        Some(employee) if done.rows_affected() == 0 => Err(Refusal::NotTerminated(employee.facts.status).into()),
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        tenant::{self, testing::TestDatabase},
        vault::a_vault,
    };

    fn employee(email: &str, title: &str) -> NewEmployee {
        NewEmployee {
            work_email: Some(EmailAddress::parse(email).unwrap()),
            name: PersonName { first: "planted-1".to_owned(), last: "planted-2".to_owned() },
            private: Private {
                phone: Some("planted-3".to_owned()),
                home_address: Some("planted-4\n111 22 Stad".to_owned()),
                social_security_number: Some("planted-5".to_owned()),
                national_id: Some("planted-6".to_owned()),
                date_of_birth: NaiveDate::from_ymd_opt(1981, 12, 28),
                custom: BTreeMap::from([("planted-7".to_owned(), serde_json::json!("planted-8"))]),
            },
            title: Some(title.to_owned()),
            ..NewEmployee::default()
        }
    }

    /// ASSET-1, VAULT-1, VAULT-4
    #[tokio::test]
    async fn all_but_the_work_address_of_a_person_is_sealed() {
        let database = TestDatabase::new().await;
        let organization = database.organization("acme").await;
        let (vault, now) = (a_vault(), organization.created_at);
        let sealer = Sealer::new(&vault, "acme");
        let mut tx = tenant::begin(&database.pool, &organization).await.unwrap();
        let made = insert(&mut tx, sealer, &employee("anna@acme.example", "Engineer"), now).await.unwrap();

        let stored: String = sqlx::query_scalar(
            "select concat_ws(' ', to_jsonb(e), encode(first_name, 'escape'), encode(last_name, 'escape'),
                 encode(phone, 'escape'), encode(home_address, 'escape'), encode(social_security_number, 'escape'),
                 encode(national_id, 'escape'), encode(date_of_birth, 'escape'), encode(custom, 'escape')) from employees e",
        )
        .fetch_one(&mut *tx)
        .await
        .unwrap();
        assert!(!stored.contains("planted") && !stored.contains("1981"), "{stored}");
        assert!(stored.contains("anna@acme.example"));
        assert_eq!(by_id(&mut tx, sealer, made.id).await.unwrap().as_ref(), Some(&made));
        sqlx::query("update employees set last_name = first_name").execute(&mut *tx).await.unwrap();
        assert!(matches!(by_id(&mut tx, sealer, made.id).await, Err(StoreError::Vault(_))), "a field moved");
    }

    /// ASSET-1
    #[tokio::test]
    async fn employees_are_found_by_address_title_and_hris_id() {
        let database = TestDatabase::new().await;
        let organization = database.organization("acme").await;
        let (vault, now) = (a_vault(), organization.created_at);
        let sealer = Sealer::new(&vault, "acme");
        let mut tx = tenant::begin(&database.pool, &organization).await.unwrap();
        for (email, title) in
            [("Anna@acme.example", "Senior Engineer"), ("ann_b@acme.example", "Engineer"), ("bo@acme.example", "Chef")]
        {
            insert(&mut tx, sealer, &employee(email, title), now).await.unwrap();
        }
        sqlx::query("update employees set external_id = 'H-' || title").execute(&mut *tx).await.unwrap();
        let all = EmployeeFilter::default;
        for (filter, found) in [
            (
                EmployeeFilter { email: Some("ANN".to_owned()), ..all() },
                vec!["Anna@acme.example", "ann_b@acme.example"],
            ),
            (EmployeeFilter { email: Some("ann_".to_owned()), ..all() }, vec!["ann_b@acme.example"]),
            (EmployeeFilter { email: Some("bo@acme.example".to_owned()), ..all() }, vec!["bo@acme.example"]),
            (EmployeeFilter { email: Some("%".to_owned()), ..all() }, vec![]),
            (
                EmployeeFilter { title: Some("engineer".to_owned()), ..all() },
                vec!["Anna@acme.example", "ann_b@acme.example"],
            ),
            (EmployeeFilter { external_id: Some("H-Chef".to_owned()), ..all() }, vec!["bo@acme.example"]),
            (EmployeeFilter { external_id: Some("H-".to_owned()), ..all() }, vec![]),
            (EmployeeFilter { status: Some(EmployeeStatus::Terminated), ..all() }, vec![]),
        ] {
            let rows = page(&mut tx, sealer, &filter, Page::first(10)).await.unwrap();
            let emails: Vec<_> = rows.iter().map(|row| row.facts.work_email.as_ref().unwrap().as_str()).collect();
            assert_eq!(emails, found, "{filter:?}");
        }
        let email = EmailAddress::parse("ANNA@acme.example").unwrap();
        assert_eq!(by_email(&mut tx, sealer, &email).await.unwrap().unwrap().facts.title.unwrap(), "Senior Engineer");
        let twin = insert(&mut tx, sealer, &employee("anna@ACME.example", "Twin"), now).await;
        assert!(matches!(twin, Err(StoreError::Conflict { field: "work_email", .. })), "{twin:?}");
    }

    /// ASSET-1
    #[tokio::test]
    async fn who_is_terminated_is_so_once_and_may_be_reactivated_once() {
        let database = TestDatabase::new().await;
        let organization = database.organization("acme").await;
        let (vault, now) = (a_vault(), organization.created_at);
        let sealer = Sealer::new(&vault, "acme");
        let mut tx = tenant::begin(&database.pool, &organization).await.unwrap();
        let day = |day| NaiveDate::from_ymd_opt(2026, 3, day).unwrap();
        let new = NewEmployee { hire_date: Some(day(2)), ..employee("anna@acme.example", "Engineer") };
        let id = insert(&mut tx, sealer, &new, now).await.unwrap().id;

        let early = terminate(&mut tx, sealer, (id, day(1)), now).await;
        assert!(matches!(early, Err(StoreError::Employee(Refusal::BeforeHire))), "{early:?}");
        let gone = terminate(&mut tx, sealer, (id, day(31)), now).await.unwrap().unwrap().facts;
        assert_eq!((gone.status, gone.termination_date), (EmployeeStatus::Terminated, Some(day(31))));
        let twice = terminate(&mut tx, sealer, (id, day(31)), now).await;
        assert!(matches!(twice, Err(StoreError::Employee(Refusal::Terminated))), "{twice:?}");
        let back = reactivate(&mut tx, sealer, id, now).await.unwrap().unwrap().facts;
        assert_eq!((back.status, back.termination_date), (EmployeeStatus::Active, None));
        let twice = reactivate(&mut tx, sealer, id, now).await;
        assert!(matches!(twice, Err(StoreError::Employee(Refusal::NotTerminated(_)))), "{twice:?}");
        assert_eq!(terminate(&mut tx, sealer, (Uuid::now_v7(), day(31)), now).await.unwrap(), None);
    }
}
