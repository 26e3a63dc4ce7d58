//! `companies`. Phone and contact are sealed; the phone is found again by its blind index.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, Sealer, StoreError, stored};
use crate::domain::{Company, EmailAddress, Language, NewCompany, OrgNumber, Phone};

const TABLE: &str = "companies";
const CONSTRAINTS: &[(&str, &str, &str)] =
    &[("companies_org_number_key", "org_number", "belongs to another company already")];

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    name: String,
    email: String,
    org_number: String,
    language: String,
    phone: Option<Vec<u8>>,
    contact: Option<Vec<u8>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Row {
    fn open(self, sealer: Sealer<'_>) -> Result<Company, StoreError> {
        let phone = match &self.phone {
            Some(sealed) => {
                let text = sealer.vault.open_text(&sealer.place(TABLE, "phone", self.id), sealed)?;
                Some(stored("companies.phone", text.expose_secret())?)
            }
            None => None,
        };
        let contact = match &self.contact {
            Some(sealed) => Some(sealer.vault.open_json(&sealer.place(TABLE, "contact", self.id), sealed)?),
            None => None,
        };
        Ok(Company {
            id: self.id,
            name: self.name,
            email: stored("companies.email", &self.email)?,
            org_number: stored("companies.org_number", &self.org_number)?,
            language: stored("companies.language", &self.language)?,
            phone,
            contact,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// The sealed columns of a company.
struct Sealed {
    phone: Option<Vec<u8>>,
    phone_index: Option<Vec<u8>>,
    contact: Option<Vec<u8>>,
}

fn seal(sealer: Sealer<'_>, id: Uuid, company: &NewCompany) -> Result<Sealed, StoreError> {
    let phone = company.phone.as_ref();
    let contact = company.contact.as_ref();
    Ok(Sealed {
        phone: phone.map(|phone| sealer.vault.seal_text(&sealer.place(TABLE, "phone", id), phone.as_str())),
        phone_index: phone.map(|phone| phone_index(sealer, phone)),
        contact: contact.map(|c| sealer.vault.seal_json(&sealer.place(TABLE, "contact", id), c)).transpose()?,
    })
}

fn phone_index(sealer: Sealer<'_>, phone: &Phone) -> Vec<u8> {
    sealer.vault.blind_index(sealer.organization, TABLE, "phone", phone.as_str())
}

pub async fn insert(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    company: &NewCompany,
    now: DateTime<Utc>,
) -> Result<Company, StoreError> {
    let id = Uuid::now_v7();
    let sealed = seal(sealer, id, company)?;
    sqlx::query!(
        "insert into companies (id, name, email, org_number, language, phone, phone_index, contact, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
        id,
        company.name,
        company.email.as_str(),
        company.org_number.as_str(),
        company.language.as_str(),
        sealed.phone,
        sealed.phone_index,
        sealed.contact,
        now
    )
    .execute(db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    let NewCompany { name, email, org_number, language, phone, contact } = company.clone();
    Ok(Company { id, name, email, org_number, language, phone, contact, created_at: now, updated_at: now })
}

/// Replaces all that a company says of itself. `None` if there is no such company.
pub async fn update(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    id: Uuid,
    company: &NewCompany,
    now: DateTime<Utc>,
) -> Result<Option<Company>, StoreError> {
    let sealed = seal(sealer, id, company)?;
    sqlx::query!(
        "update companies set name = $2, email = $3, org_number = $4, language = $5, phone = $6, phone_index = $7,
             contact = $8, updated_at = $9
         where id = $1",
        id,
        company.name,
        company.email.as_str(),
        company.org_number.as_str(),
        company.language.as_str(),
        sealed.phone,
        sealed.phone_index,
        sealed.contact,
        now
    )
    .execute(&mut *db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    by_id(db, sealer, id).await
}

pub async fn by_id(db: &mut PgConnection, sealer: Sealer<'_>, id: Uuid) -> Result<Option<Company>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, name, email, org_number, language, phone, contact, created_at, updated_at
         from companies where id = $1",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(|row| row.open(sealer)).transpose()
}

/// Those of these numbers that there are, by number.
pub async fn by_org_numbers(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    org_numbers: &[&str],
) -> Result<HashMap<OrgNumber, Company>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select id, name, email, org_number, language, phone, contact, created_at, updated_at
         from companies where org_number = any($1::text[])",
        org_numbers as _
    )
    .fetch_all(db)
    .await?;
    let companies = rows.into_iter().map(|row| row.open(sealer));
    companies.map(|company| company.map(|company| (company.org_number.clone(), company))).collect()
}

/// Whom a company's mail goes to: nothing that is sealed.
#[derive(Clone, Debug)]
pub struct Addressee {
    pub name: String,
    pub email: EmailAddress,
    pub language: Language,
}

/// The addressees of these companies, by company.
pub async fn addressees(db: &mut PgConnection, ids: Vec<Uuid>) -> Result<HashMap<Uuid, Addressee>, StoreError> {
    let rows =
        sqlx::query!("select id, name, email, language from companies where id = any($1)", &ids).fetch_all(db).await?;
    rows.into_iter()
        .map(|row| {
            let addressee = Addressee {
                name: row.name,
                email: stored("companies.email", &row.email)?,
                language: stored("companies.language", &row.language)?,
            };
            Ok((row.id, addressee))
        })
        .collect()
}

/// The addressee of a company that is known to exist.
pub async fn addressee(db: &mut PgConnection, id: Uuid) -> Result<Addressee, StoreError> {
    let found = addressees(db, vec![id]).await?.remove(&id);
    found.ok_or(StoreError::NotFound { what: "company", id })
}

/// Whom a customer of a finance system could be: nothing that is sealed.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub id: Uuid,
    pub name: String,
    pub email: EmailAddress,
    pub org_number: OrgNumber,
}

/// Those with one of these organization numbers, names or addresses (in lower case), the oldest first.
pub async fn candidates(
    db: &mut PgConnection,
    org_numbers: &[String],
    names: &[String],
    emails: &[String],
) -> Result<Vec<Candidate>, StoreError> {
    let rows = sqlx::query!(
        "select id, name, email, org_number from companies
         where org_number = any($1) or name = any($2) or lower(email) = any($3)
         order by id",
        org_numbers,
        names,
        emails
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Candidate {
                id: row.id,
                name: row.name,
                email: stored("companies.email", &row.email)?,
                org_number: stored("companies.org_number", &row.org_number)?,
            })
        })
        .collect()
}

/// VAULT-3: found by the blind index, without opening any row but the answer.
pub async fn by_phone(db: &mut PgConnection, sealer: Sealer<'_>, phone: &Phone) -> Result<Vec<Company>, StoreError> {
    let filter = CompanyFilter { phone: Some(phone.clone()), ..CompanyFilter::default() };
    page(db, sealer, &filter, Page::first(100)).await
}

/// Which companies. All given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct CompanyFilter {
    pub id: Option<Uuid>,
    /// Part of the name, in any case.
    pub name: Option<String>,
    pub email: Option<EmailAddress>,
    pub org_number: Option<OrgNumber>,
    pub phone: Option<Phone>,
}

pub async fn page(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    filter: &CompanyFilter,
    page: Page,
) -> Result<Vec<Company>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, name, email, org_number, language, phone, contact, created_at, updated_at from companies where true",
    );
    if let Some(id) = filter.id {
        query.push(" and id = ").push_bind(id);
    }
    if let Some(name) = &filter.name {
        query.push(" and strpos(lower(name), lower(").push_bind(name.clone()).push(")) > 0");
    }
    if let Some(email) = &filter.email {
        query.push(" and lower(email) = lower(").push_bind(email.as_str().to_owned()).push(")");
    }
    if let Some(org_number) = &filter.org_number {
        query.push(" and org_number = ").push_bind(org_number.as_str().to_owned());
    }
    if let Some(phone) = &filter.phone {
        query.push(" and phone_index = ").push_bind(phone_index(sealer, phone));
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(|row| row.open(sealer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Contact, Organization},
        tenant::{self, testing::TestDatabase},
        vault::a_vault,
    };

    fn company() -> NewCompany {
        NewCompany {
            name: "Kund AB".to_owned(),
            email: EmailAddress::parse("kund@example.se").unwrap(),
            org_number: OrgNumber::parse("556194-7986").unwrap(),
            language: Language::Sv,
            phone: Some(Phone::parse("070-123 45 67").unwrap()),
            contact: Some(Contact { name: Some("Ada Planterad".to_owned()), ..Contact::default() }),
        }
    }

    async fn stored_text(database: &TestDatabase, organization: &Organization) -> String {
        let mut tx = tenant::begin(&database.pool, organization).await.unwrap();
        // bytea as text would hide a plaintext behind hex.
        sqlx::query_scalar(
            "select concat_ws(' ', to_jsonb(c), encode(phone, 'escape'), encode(phone_index, 'escape'),
                              encode(contact, 'escape')) from companies c",
        )
        .fetch_one(&mut *tx)
        .await
        .unwrap()
    }

    /// VAULT-1, VAULT-3, VAULT-4, BILL-1
    #[tokio::test]
    async fn phone_and_contact_are_sealed_and_the_phone_is_found_again() {
        let database = TestDatabase::new().await;
        let organization = database.organization("acme").await;
        let (vault, now) = (a_vault(), organization.created_at);
        let sealer = Sealer::new(&vault, "acme");

        let mut tx = tenant::begin(&database.pool, &organization).await.unwrap();
        let made = insert(&mut tx, sealer, &company(), now).await.unwrap();
        tx.commit().await.unwrap();

        let stored = stored_text(&database, &organization).await;
        for secret in ["0701234567", "701234567", "Planterad"] {
            assert!(!stored.contains(secret), "{secret} is readable in {stored}");
        }
        let mut tx = tenant::begin(&database.pool, &organization).await.unwrap();
        let phone = Phone::parse("+46 70 123 45 67").unwrap();
        assert_eq!(by_phone(&mut tx, sealer, &phone).await.unwrap(), std::slice::from_ref(&made));
        assert_eq!(by_id(&mut tx, sealer, made.id).await.unwrap(), Some(made));
        let other = Phone::parse("070-765 43 21").unwrap();
        assert_eq!(by_phone(&mut tx, sealer, &other).await.unwrap(), []);
    }

    /// VAULT-1
    #[tokio::test]
    async fn a_sealed_field_moved_to_another_row_or_organization_does_not_open() {
        let database = TestDatabase::new().await;
        let organization = database.organization("acme").await;
        let (vault, now) = (a_vault(), organization.created_at);
        let sealer = Sealer::new(&vault, "acme");
        let mut tx = tenant::begin(&database.pool, &organization).await.unwrap();
        let first = insert(&mut tx, sealer, &company(), now).await.unwrap();
        let elsewhere = NewCompany { org_number: OrgNumber::parse("212000-0142").unwrap(), ..company() };
        let second = insert(&mut tx, sealer, &elsewhere, now).await.unwrap();

        sqlx::query("update companies set contact = (select contact from companies where id = $1) where id = $2")
            .bind(first.id)
            .bind(second.id)
            .execute(&mut *tx)
            .await
            .unwrap();

        assert!(matches!(by_id(&mut tx, sealer, second.id).await, Err(StoreError::Vault(_))));
        let foreign = Sealer::new(&vault, "other");
        assert!(matches!(by_id(&mut tx, foreign, first.id).await, Err(StoreError::Vault(_))));
    }

    /// BILL-1
    #[tokio::test]
    async fn an_organization_number_that_is_taken_is_a_conflict_on_its_field() {
        let database = TestDatabase::new().await;
        let organization = database.organization("acme").await;
        let (vault, now) = (a_vault(), organization.created_at);
        let sealer = Sealer::new(&vault, "acme");
        let mut tx = tenant::begin(&database.pool, &organization).await.unwrap();
        insert(&mut tx, sealer, &company(), now).await.unwrap();

        let again = insert(&mut tx, sealer, &company(), now).await;

        assert!(matches!(again, Err(StoreError::Conflict { field: "org_number", .. })), "{again:?}");
    }
}
