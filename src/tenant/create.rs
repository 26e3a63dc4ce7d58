//! A new organization: its row, its role and its schema, all or nothing (TEN-2).

use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool};
use uuid::Uuid;

use super::{migrate, roles};
use crate::{
    domain::{BillingStatus, Clock, Language, Organization, Settings, Slug, Tier},
    store::{StoreError, organizations},
};

/// What somebody must say to get an organization. It begins as a trial.
#[derive(Clone, Debug)]
pub struct NewOrganization {
    pub slug: Slug,
    pub name: String,
    pub tier: Tier,
    pub time_zone: chrono_tz::Tz,
    pub locale: Language,
    pub settings: Settings,
}

impl NewOrganization {
    /// A free Swedish organization with default settings.
    pub fn named(slug: Slug, name: impl Into<String>) -> Self {
        Self {
            slug,
            name: name.into(),
            tier: Tier::Free,
            time_zone: chrono_tz::Europe::Stockholm,
            locale: Language::Sv,
            settings: Settings::default(),
        }
    }
}

/// Why there is no new organization. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("the slug {0} is taken: choose another")]
    SlugTaken(String),
    #[error("schema {0} exists but belongs to no organization: rename or drop it, or choose another slug")]
    SchemaTaken(String),
    #[error("could not write the organization")]
    Store(#[from] StoreError),
    #[error("could not set up the organization's schema")]
    Schema(#[source] anyhow::Error),
}

impl From<sqlx::Error> for CreateError {
    fn from(error: sqlx::Error) -> Self {
        CreateError::Schema(error.into())
    }
}

/// How long a trial lasts.
const TRIAL_DAYS: i64 = 30;

/// Creates the organization in one transaction. The login role needs CREATEROLE, not superuser.
pub async fn create(db: &PgPool, clock: &Clock, new: NewOrganization) -> Result<Organization, CreateError> {
    let mut tx = db.begin().await?;
    let organization = create_in(&mut tx, clock, new).await?;
    tx.commit().await?;
    Ok(organization)
}

/// As [`create`], in the caller's transaction, which must be rolled back after an error. Of two that take the same slug at
/// once, the second waits for the end of the first one's transaction.
pub async fn create_in(
    db: &mut PgConnection,
    clock: &Clock,
    new: NewOrganization,
) -> Result<Organization, CreateError> {
    let now = clock.now();
    let schema = new.slug.schema_name();
    let role = roles::role_name(roles::database_oid(db).await?, &new.slug);
    let organization = Organization {
        id: Uuid::now_v7(),
        slug: new.slug,
        name: new.name,
        tier: new.tier,
        billing_status: BillingStatus::Trial,
        time_zone: new.time_zone,
        locale: new.locale,
        feature_flags: serde_json::json!({}),
        settings: new.settings,
        trial_ends_at: Some(now + chrono::Duration::days(TRIAL_DAYS)),
        schema_name: schema.clone(),
        role_name: role.clone(),
        created_at: now,
        updated_at: now,
    };
    organizations::insert(db, &organization).await.map_err(|error| match error {
        StoreError::Conflict { field: "slug", .. } => CreateError::SlugTaken(organization.slug.as_str().to_owned()),
        other => CreateError::Store(other),
    })?;
    let exists: bool = sqlx::query_scalar("select exists (select from pg_namespace where nspname = $1)")
        .bind(&schema)
        .fetch_one(&mut *db)
        .await?;
    if exists {
        return Err(CreateError::SchemaTaken(schema));
    }
    roles::ensure_role(db, &role).await?;
    db.execute(AssertSqlSafe(format!("create schema {}", roles::quote(&schema)))).await?;
    migrate::apply(db, &schema).await.map_err(CreateError::Schema)?;
    migrate::grant(db, &schema, &role).await?;
    tracing::info!(tenant = organization.slug.as_str(), "created the organization");
    Ok(organization)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::testing::TestDatabase;

    fn new(slug: &str) -> NewOrganization {
        NewOrganization::named(Slug::parse(slug).unwrap(), "Acme")
    }

    async fn leftovers(db: &PgPool, slug: &str) -> (i64, i64, i64) {
        sqlx::query_as(
            "select (select count(*) from public.organizations where slug = $1),
                    (select count(*) from pg_namespace where nspname = 'org_' || replace($1, '-', '_')),
                    (select count(*) from pg_roles
                     where rolname = 'backroom_' || (select oid from pg_database where datname = current_database())
                                     || '_' || replace($1, '-', '_'))",
        )
        .bind(slug)
        .fetch_one(db)
        .await
        .unwrap()
    }

    /// TEN-1, TEN-2
    #[tokio::test]
    async fn an_organization_comes_with_its_schema_and_its_role() {
        let database = TestDatabase::new().await;

        let made = create(&database.pool, &Clock::system(), new("acme-inc")).await.unwrap();

        assert_eq!(made.schema_name, "org_acme_inc");
        assert_eq!((made.tier, made.billing_status), (Tier::Free, BillingStatus::Trial));
        assert_eq!(leftovers(&database.pool, "acme-inc").await, (1, 1, 1));
        let stored = organizations::by_slug(&mut database.pool.acquire().await.unwrap(), "acme-inc").await.unwrap();
        assert_eq!(stored.unwrap(), made);
    }

    /// TEN-1
    #[tokio::test]
    async fn a_slug_is_taken_once() {
        let database = TestDatabase::new().await;
        create(&database.pool, &Clock::system(), new("acme")).await.unwrap();

        let again = create(&database.pool, &Clock::system(), new("acme")).await;

        assert!(matches!(again, Err(CreateError::SlugTaken(slug)) if slug == "acme"));
    }

    /// TEN-2
    #[tokio::test]
    async fn a_failed_creation_leaves_nothing_behind() {
        let database = TestDatabase::new().await;
        sqlx::query("create schema org_ghost").execute(&database.pool).await.unwrap();
        // The last step fails: the grants need a function that is gone.
        sqlx::query("alter function queue.enqueue rename to enqueue_hidden").execute(&database.pool).await.unwrap();

        let taken = create(&database.pool, &Clock::system(), new("ghost")).await;
        let broken = create(&database.pool, &Clock::system(), new("broken")).await;

        assert!(matches!(taken, Err(CreateError::SchemaTaken(schema)) if schema == "org_ghost"));
        assert!(matches!(broken, Err(CreateError::Schema(_))), "{broken:?}");
        assert_eq!(leftovers(&database.pool, "ghost").await, (0, 1, 0));
        assert_eq!(leftovers(&database.pool, "broken").await, (0, 0, 0));
    }

    /// TEN-2
    #[tokio::test]
    async fn organizations_are_created_side_by_side() {
        let database = TestDatabase::new().await;
        let clock = Clock::system();
        let made =
            futures::future::join_all((0..6).map(|n| create(&database.pool, &clock, new(&format!("acme-{n}"))))).await;
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    /// TEN-2: roles belong to the cluster, organizations to a database.
    #[tokio::test]
    async fn two_databases_may_have_the_same_organization() {
        let (one, two) = (TestDatabase::new().await, TestDatabase::new().await);

        let (first, second) = (one.organization("acme").await, two.organization("acme").await);

        assert_ne!(first.role_name, second.role_name);
    }
}
