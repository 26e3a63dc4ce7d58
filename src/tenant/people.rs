//! People joining and leaving an organization, each change with its event (EVT-1): rows of the control plane and of the
//! organization in one transaction. Each function takes the caller's transaction on the control plane and gives it back as the
//! organization's, to be committed.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use super::TenantTx;
use crate::{
    domain::{Organization, PasswordHash, Role},
    store::{
        StoreError, companies,
        events::{self, NewEvent},
        memberships::{self, Changed, Membership},
        password_resets,
        sessions::{self, EndReason},
        users,
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

/// AUTH-1: the person has shown that the address is theirs. The first time counts: whatever password was set before, and every sign-in
/// that came of it, somebody else may have made. They end, and `password` is the one from now on. False if the address was proved
/// before; then nothing changes.
///
/// Call it after what locks a membership: that is the order in which a member is removed.
pub async fn prove_address(
    db: &mut PgConnection,
    user_id: Uuid,
    password: Option<&PasswordHash>,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let first = users::prove(db, user_id, password, now).await?;
    if first {
        password_resets::expire(db, user_id, now).await?;
        sessions::end_all(db, user_id, (None, None), EndReason::PasswordChanged, now).await?;
    }
    Ok(first)
}

/// AUTH-1: gives the person another password, whatever theirs was. Whoever asks for it has shown that the address is theirs, or vouches for
/// it. Every session ends, and with it any link to another password. Answers how many sessions.
pub async fn reset_password(
    db: &mut PgConnection,
    user_id: Uuid,
    password: &PasswordHash,
    now: DateTime<Utc>,
) -> Result<u64, StoreError> {
    password_resets::expire(db, user_id, now).await?;
    users::reset_password(db, user_id, password, now).await?;
    sessions::end_all(db, user_id, (None, None), EndReason::PasswordChanged, now).await
}

/// AUTH-1: the operator vouches that the account's address is the person's. A member stays what they are, and `password` is theirs from
/// now on; refused if the address was proved before. Anybody else joins; false if they have a password of their own.
pub async fn vouch(
    mut tx: Transaction<'static, Postgres>,
    organization: &Organization,
    (user_id, password): (Uuid, &PasswordHash),
    (role, company_id): (Role, Option<Uuid>),
    (actor, now): (&str, DateTime<Utc>),
) -> Result<(TenantTx, Membership, bool), PeopleError> {
    let member = memberships::lock(&mut tx, organization.id, user_id).await?;
    let first = prove_address(&mut tx, user_id, Some(password), now).await?;
    match member {
        Some(member) if first => Ok((TenantTx::enter(tx, organization).await?, member, true)),
        Some(_) => Err(PeopleError::MemberAlready),
        None => {
            let tx = join(tx, organization, user_id, (role, company_id), (actor, now)).await?;
            let member = Membership { organization_id: organization.id, user_id, role, company_id, created_at: now };
            Ok((tx, member, first))
        }
    }
}

/// Whether somebody could have this place: only a customer has a company, one of the organization's. For who has costly work to do
/// before they [`join`].
pub async fn check_place(
    db: &PgPool,
    organization: &Organization,
    (role, company_id): (Role, Option<Uuid>),
) -> Result<(), PeopleError> {
    fits(role, company_id)?;
    if company_id.is_some() {
        let mut tx = super::begin(db, organization).await?;
        known(&mut tx, company_id).await?;
        tx.commit().await?;
    }
    Ok(())
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

    use super::*;
    use crate::{
        domain::{Clock, EmailAddress, Language, NewUser},
        store::Page,
        tenant::{self, testing::TestDatabase},
    };

    async fn person(db: &PgPool, email: &str, now: DateTime<Utc>) -> Uuid {
        let new = NewUser {
            email: EmailAddress::parse(email).unwrap(),
            name: "Anna Ek".to_owned(),
            language: Language::Sv,
            password: None,
            confirmed_at: Some(now),
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
    }

    /// AUTH-1, AUTH-2: who first proves an address has the account to themselves; who proves it again changes nothing.
    #[tokio::test]
    async fn the_first_proof_of_an_address_ends_what_was_set_before() {
        let database = TestDatabase::new().await;
        let (acme, globex) = (database.organization("acme").await, database.organization("globex").await);
        let (db, now) = (&database.pool, acme.created_at);
        let hash = |text: &str| PasswordHash::stored(text.to_owned());
        let mut connection = db.acquire().await.unwrap();
        let new = NewUser {
            email: EmailAddress::parse("ceo@globex.example").unwrap(),
            name: "Ceo".to_owned(),
            language: Language::Sv,
            password: Some(hash("planted")),
            confirmed_at: None,
        };
        let ceo = users::create_in(&mut connection, &new, Some(acme.id), now).await.unwrap().id;
        add(db, &acme, ceo, Role::User).await.unwrap();
        add(db, &globex, ceo, Role::Admin).await.unwrap();
        let lasts = Duration::days(30);
        let mut begin = async |organization: &Organization, password: &str| {
            let place = (organization.id, ceo);
            sessions::begin_signed_in(&mut connection, place, &hash(password), now, lasts).await.unwrap()
        };
        let planted = begin(&acme, "planted").await.expect("where the account was made");
        assert!(begin(&globex, "planted").await.is_none(), "and nowhere else");

        let mut tx = db.begin().await.unwrap();
        assert!(prove_address(&mut tx, ceo, Some(&hash("mine")), now).await.unwrap());
        assert!(!prove_address(&mut tx, ceo, Some(&hash("another")), now).await.unwrap());
        assert_eq!(sessions::standing(&mut tx, planted.session_id).await.unwrap(), None);
        tx.commit().await.unwrap();
        for organization in [&acme, &globex] {
            assert!(begin(organization, "planted").await.is_none() && begin(organization, "another").await.is_none());
            assert!(begin(organization, "mine").await.is_some());
        }
    }

    /// AUTH-1: an organization gave somebody an account, and a password that it may know; the operator lets them in again.
    #[tokio::test]
    async fn the_operator_lets_a_member_in_again_with_a_password_of_their_own() {
        let database = TestDatabase::new().await;
        let (acme, globex) = (database.organization("acme").await, database.organization("globex").await);
        let (db, now) = (&database.pool, acme.created_at);
        let hash = |text: &str| PasswordHash::stored(text.to_owned());
        let mut connection = db.acquire().await.unwrap();
        let new = NewUser {
            email: EmailAddress::parse("bo@acme.example").unwrap(),
            name: "Bo".to_owned(),
            language: Language::Sv,
            password: Some(hash("planted")),
            confirmed_at: None,
        };
        let bo = users::create_in(&mut connection, &new, Some(globex.id), now).await.unwrap().id;
        add(db, &acme, bo, Role::Developer).await.unwrap();
        let vouched = async |password: &str| {
            let told = ("operator", now);
            vouch(db.begin().await.unwrap(), &acme, (bo, &hash(password)), (Role::User, None), told).await
        };

        let (tx, member, first) = vouched("mine").await.unwrap();
        tx.commit().await.unwrap();

        assert_eq!((member.role, first), (Role::Developer, true), "the role stays");
        assert_eq!(memberships::find(&mut connection, acme.id, bo).await.unwrap(), Some(member));
        assert!(matches!(vouched("another").await, Err(PeopleError::MemberAlready)), "it is proved already");
        let place = (acme.id, bo);
        for (password, lets_in) in [("planted", false), ("another", false), ("mine", true)] {
            let begun =
                sessions::begin_signed_in(&mut connection, place, &hash(password), now, Duration::days(30)).await;
            assert_eq!(begun.unwrap().is_some(), lets_in, "{password}");
        }
    }

    /// AUTH-1: whose account it is that nobody has proved, by the migration: theirs who did not take the person out since.
    #[tokio::test]
    async fn the_migration_gives_an_account_to_the_first_membership_that_stands() {
        let database = TestDatabase::new().await;
        let (acme, globex) = (database.organization("acme").await, database.organization("globex").await);
        let (db, now) = (&database.pool, acme.created_at);
        let bo = person(db, "bo@acme.example", now).await;
        add(db, &acme, bo, Role::User).await.unwrap();
        add(db, &globex, bo, Role::User).await.unwrap();
        let mut connection = db.acquire().await.unwrap();
        for sql in [
            "update public.organization_members set created_at = created_at - interval '1 day', ended_at = now()
             where organization_id = $1",
            "update public.users set confirmed_at = null, made_in = null where $1 is not null",
        ] {
            sqlx::query(sql).bind(acme.id).execute(&mut *connection).await.unwrap();
        }

        let migration = include_str!("../../migrations/platform/0005_accounts.sql");
        let moves = &migration[migration.find("update public.users").unwrap()..];
        sqlx::raw_sql(moves).execute(&mut *connection).await.unwrap();

        let made_in: Option<Uuid> = sqlx::query_scalar("select made_in from public.users where id = $1")
            .bind(bo)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(made_in, Some(globex.id));
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
