//! People joining and leaving an organization, each change with its event (EVT-1): rows of the control plane and of the
//! organization in one transaction. Each function takes the caller's transaction on the control plane and gives it back as the
//! organization's, to be committed.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::TenantTx;
use crate::{
    domain::{Organization, Role},
    store::{
        StoreError, companies,
        events::{self, NewEvent},
        memberships::{self, Changed},
        sessions::{self, EndReason},
    },
};

/// Why a person's place did not change.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    #[error("the person is a member already")]
    MemberAlready,
    #[error("the organization has no such member")]
    NotAMember,
    #[error("somebody has to run the organization; make another member an admin first")]
    LastAdmin,
    #[error("the organization has no company with this id")]
    NoSuchCompany,
    #[error("a customer has a company, and nobody else has one")]
    CompanyAndRole,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for PeopleError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Makes the person a member.
pub async fn join(
    mut tx: Transaction<'static, Postgres>,
    organization: &Organization,
    user_id: Uuid,
    (role, company_id): (Role, Option<Uuid>),
    (actor, now): (&str, DateTime<Utc>),
) -> Result<TenantTx, PeopleError> {
    fits(role, company_id)?;
    if !memberships::add(&mut tx, organization.id, user_id, role, company_id, now).await? {
        return Err(PeopleError::MemberAlready);
    }
    let mut tx = TenantTx::enter(tx, organization).await?;
    known(&mut tx, company_id).await?;
    let payload = json!({ "user_id": user_id, "role": role, "company_id": company_id });
    tell(&mut tx, "member.added", payload, (actor, now)).await?;
    Ok(tx)
}

/// Gives the member another role, and a customer another company.
pub async fn give_role(
    mut tx: Transaction<'static, Postgres>,
    organization: &Organization,
    user_id: Uuid,
    (role, company_id): (Role, Option<Uuid>),
    (actor, now): (&str, DateTime<Utc>),
) -> Result<TenantTx, PeopleError> {
    fits(role, company_id)?;
    changed(memberships::set_role(&mut tx, (organization.id, user_id), role, company_id, now).await?)?;
    let mut tx = TenantTx::enter(tx, organization).await?;
    known(&mut tx, company_id).await?;
    let payload = json!({ "user_id": user_id, "role": role, "company_id": company_id });
    tell(&mut tx, "member.role_changed", payload, (actor, now)).await?;
    Ok(tx)
}

/// Ends the membership, and the person's sessions in the organization with it.
pub async fn end_membership(
    mut tx: Transaction<'static, Postgres>,
    organization: &Organization,
    user_id: Uuid,
    (actor, now): (&str, DateTime<Utc>),
) -> Result<TenantTx, PeopleError> {
    changed(memberships::remove(&mut tx, (organization.id, user_id), now).await?)?;
    let here = (Some(organization.id), None);
    sessions::end_all(&mut tx, user_id, here, EndReason::MemberRemoved, now).await?;
    let mut tx = TenantTx::enter(tx, organization).await?;
    tell(&mut tx, "member.removed", json!({ "user_id": user_id }), (actor, now)).await?;
    Ok(tx)
}

fn fits(role: Role, company_id: Option<Uuid>) -> Result<(), PeopleError> {
    if (role == Role::Customer) == company_id.is_some() { Ok(()) } else { Err(PeopleError::CompanyAndRole) }
}

fn changed(changed: Changed) -> Result<(), PeopleError> {
    match changed {
        Changed::Yes => Ok(()),
        Changed::NotAMember => Err(PeopleError::NotAMember),
        Changed::LastAdmin => Err(PeopleError::LastAdmin),
    }
}

async fn known(tx: &mut TenantTx, company_id: Option<Uuid>) -> Result<(), PeopleError> {
    let Some(company_id) = company_id else { return Ok(()) };
    let found = companies::addressees(tx, vec![company_id]).await?;
    if found.is_empty() { Err(PeopleError::NoSuchCompany) } else { Ok(()) }
}

/// On the topic of the organization as a whole.
async fn tell(
    tx: &mut TenantTx,
    kind: &str,
    payload: Value,
    (actor, now): (&str, DateTime<Utc>),
) -> Result<(), StoreError> {
    events::append(tx, &NewEvent { topic: "organization".to_owned(), kind, payload, actor }, now).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::Duration;
    use sqlx::PgPool;

    use super::*;
    use crate::{
        domain::{Clock, EmailAddress, Language, NewUser},
        store::{Page, users},
        tenant::{self, testing::TestDatabase},
    };

    async fn person(db: &PgPool, email: &str, now: DateTime<Utc>) -> Uuid {
        let new = NewUser {
            email: EmailAddress::parse(email).unwrap(),
            name: "Anna Ek".to_owned(),
            language: Language::Sv,
            password: None,
            confirmed_at: None,
        };
        users::create(&mut db.acquire().await.unwrap(), &new, now).await.unwrap().id
    }

    async fn add(db: &PgPool, organization: &Organization, user: Uuid, role: Role) -> Result<(), PeopleError> {
        let told = ("test", organization.created_at);
        Ok(join(db.begin().await?, organization, user, (role, None), told).await?.commit().await?)
    }

    async fn admins(db: &PgPool, organization: &Organization) -> usize {
        let mut db = db.acquire().await.unwrap();
        memberships::page(&mut db, organization.id, Some(Role::Admin), None, 100).await.unwrap().len()
    }

    /// AUTH-1
    #[tokio::test]
    async fn one_address_is_one_person_whatever_its_case() {
        let database = TestDatabase::new().await;
        let now = Clock::system().now();
        let anna = person(&database.pool, "Anna.Ek@acme.example", now).await;
        let mut tx = database.pool.begin().await.unwrap();
        let again = NewUser {
            email: EmailAddress::parse("ANNA.EK@ＡＣＭＥ.example").unwrap(),
            name: "Other".to_owned(),
            language: Language::En,
            password: None,
            confirmed_at: None,
        };
        let taken = users::create(&mut tx, &again, now).await;
        assert!(matches!(taken, Err(StoreError::Conflict { field: "email", .. })), "{taken:?}");
        let found = users::by_email(&mut tx, &again.email).await.unwrap().unwrap();
        assert_eq!((found.id, found.email.as_str()), (anna, "Anna.Ek@acme.example"));
        assert!(
            users::confirm(&mut tx, anna, now).await.unwrap() && !users::confirm(&mut tx, anna, now).await.unwrap()
        );
    }

    /// AUTH-1, EVT-1
    #[tokio::test]
    async fn a_person_joins_once_changes_role_leaves_and_may_come_back() {
        let database = TestDatabase::new().await;
        let (acme, db) = (database.organization("acme").await, &database.pool);
        let now = acme.created_at;
        let (admin, anna) = (person(db, "admin@acme.example", now).await, person(db, "anna@acme.example", now).await);
        add(db, &acme, admin, Role::Admin).await.unwrap();

        let joins = futures::future::join_all((0..4).map(|_| add(db, &acme, anna, Role::User))).await;
        assert_eq!(joins.iter().filter(|joined| joined.is_ok()).count(), 1, "{joins:?}");
        let told = ("test", now);
        let no_company = give_role(db.begin().await.unwrap(), &acme, anna, (Role::Customer, None), told).await;
        assert!(matches!(no_company, Err(PeopleError::CompanyAndRole)));
        let stranger = (Role::Customer, Some(Uuid::now_v7()));
        let unknown = give_role(db.begin().await.unwrap(), &acme, anna, stranger, told).await;
        assert!(matches!(unknown, Err(PeopleError::NoSuchCompany)));
        let tx = give_role(db.begin().await.unwrap(), &acme, anna, (Role::Developer, None), told).await.unwrap();
        tx.commit().await.unwrap();
        let mut connection = db.acquire().await.unwrap();
        let session = sessions::begin(&mut connection, (acme.id, anna), now, Duration::days(30)).await.unwrap();
        let standing = sessions::standing(&mut connection, session.session_id).await.unwrap().unwrap();
        assert_eq!((standing.user_id, standing.role), (anna, Role::Developer));

        let tx = end_membership(db.begin().await.unwrap(), &acme, anna, told).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(sessions::standing(&mut connection, session.session_id).await.unwrap(), None);
        assert_eq!(memberships::find(&mut connection, acme.id, anna).await.unwrap(), None);
        let gone = end_membership(db.begin().await.unwrap(), &acme, anna, told).await;
        assert!(matches!(gone, Err(PeopleError::NotAMember)));
        add(db, &acme, anna, Role::User).await.unwrap();
        assert_eq!(memberships::of_user(&mut connection, anna).await.unwrap().len(), 1);
        assert_eq!(
            sessions::standing(&mut connection, session.session_id).await.unwrap(),
            None,
            "the old session stays ended"
        );

        let mut tx = tenant::begin(db, &acme).await.unwrap();
        let events = events::page(&mut tx, Some("organization"), Page::first(100)).await.unwrap();
        let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
        let expected = ["member.added", "member.added", "member.role_changed", "member.removed", "member.added"];
        assert_eq!(kinds, expected);
    }

    /// AUTH-1: of two admins who remove or demote each other at once, one stays.
    #[tokio::test]
    async fn an_organization_keeps_an_admin_also_when_two_remove_each_other_at_once() {
        let database = TestDatabase::new().await;
        let db = &database.pool;
        let acme = database.organization("acme").await;
        let now = acme.created_at;
        for round in 0..5 {
            let (one, two) = (
                person(db, &format!("one{round}@acme.example"), now).await,
                person(db, &format!("two{round}@acme.example"), now).await,
            );
            add(db, &acme, one, Role::Admin).await.unwrap();
            add(db, &acme, two, Role::Admin).await.unwrap();
            // Whoever stayed from the rounds before leaves first.
            let before = memberships::page(&mut db.acquire().await.unwrap(), acme.id, Some(Role::Admin), None, 100)
                .await
                .unwrap();
            for (member, _) in before.iter().filter(|(member, _)| ![one, two].contains(&member.user_id)) {
                let tx = end_membership(db.begin().await.unwrap(), &acme, member.user_id, ("test", now)).await.unwrap();
                tx.commit().await.unwrap();
            }
            let remove = async |user| -> Result<(), PeopleError> {
                let tx = end_membership(db.begin().await?, &acme, user, ("test", now)).await?;
                Ok(tx.commit().await?)
            };
            let demote = async |user| -> Result<(), PeopleError> {
                let tx = give_role(db.begin().await?, &acme, user, (Role::User, None), ("test", now)).await?;
                Ok(tx.commit().await?)
            };
            let (removed, demoted) = futures::join!(remove(one), demote(two));
            assert!(removed.is_ok() != demoted.is_ok(), "{removed:?} {demoted:?}");
            assert_eq!(admins(db, &acme).await, 1);
        }
    }
}
