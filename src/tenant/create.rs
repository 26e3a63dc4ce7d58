//! A new organization: its row, its role and its schema, all or nothing (TEN-2).

use sqlx::{AssertSqlSafe, Executor, PgPool};
use uuid::Uuid;

use super::{migrate, names};
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

/// Creates the organization in one transaction.
///
/// The login role becomes a member of the organization's role, so that it can take it on; it needs CREATEROLE, not
/// superuser.
pub async fn create(db: &PgPool, clock: &Clock, new: NewOrganization) -> Result<Organization, CreateError> {
    let now = clock.now();
    let mut tx = db.begin().await?;
    let schema = new.slug.schema_name();
    let role = names::role_name(names::database_oid(&mut tx).await?, &new.slug);
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
    organizations::insert(&mut tx, &organization).await.map_err(|error| match error {
        StoreError::Conflict { field: "slug", .. } => CreateError::SlugTaken(organization.slug.as_str().to_owned()),
        other => CreateError::Store(other),
    })?;
    let exists: bool = sqlx::query_scalar("select exists (select from pg_namespace where nspname = $1)")
        .bind(&schema)
        .fetch_one(&mut *tx)
        .await?;
    if exists {
        return Err(CreateError::SchemaTaken(schema));
    }
    let (quoted_schema, quoted_role) = (names::quote(&schema), names::quote(&role));
    tx.execute(AssertSqlSafe(format!(
        "create role {quoted_role} nologin; grant {quoted_role} to current_user; create schema {quoted_schema}"
    )))
    .await?;
    migrate::apply(&mut tx, &schema).await.map_err(CreateError::Schema)?;
    migrate::grant(&mut tx, &schema, &role).await?;
    tx.commit().await?;
    tracing::info!(tenant = organization.slug.as_str(), "created the organization");
    Ok(organization)
}
