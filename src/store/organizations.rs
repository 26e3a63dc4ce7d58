//! `public.organizations`.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError, stored};
use crate::domain::{BillingStatus, Language, Organization, Settings, Tier};

/// An organization as the scheduler needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub slug: String,
    pub time_zone: chrono_tz::Tz,
}

#[derive(sqlx::FromRow)]
pub(super) struct Row {
    id: Uuid,
    slug: String,
    name: String,
    tier: String,
    billing_status: String,
    time_zone: String,
    locale: String,
    feature_flags: Value,
    settings: Value,
    trial_ends_at: Option<DateTime<Utc>>,
    schema_name: String,
    role_name: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Organization {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Organization {
            id: row.id,
            slug: stored("organizations.slug", &row.slug)?,
            name: row.name,
            tier: stored("organizations.tier", &row.tier)?,
            billing_status: stored("organizations.billing_status", &row.billing_status)?,
            time_zone: stored("organizations.time_zone", &row.time_zone)?,
            locale: stored("organizations.locale", &row.locale)?,
            feature_flags: row.feature_flags,
            settings: settings(row.settings)?,
            trial_ends_at: row.trial_ends_at,
            schema_name: row.schema_name,
            role_name: row.role_name,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

fn settings(value: Value) -> Result<Settings, StoreError> {
    serde_json::from_value(value)
        .map_err(|e| StoreError::Stored { column: "organizations.settings", reason: format!("does not decode: {e}") })
}

fn to_json(settings: &Settings) -> Result<Value, StoreError> {
    serde_json::to_value(settings)
        .map_err(|e| StoreError::Stored { column: "organizations.settings", reason: format!("does not encode: {e}") })
}

/// What an operator may change. `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct OrganizationChange {
    pub name: Option<String>,
    pub tier: Option<Tier>,
    pub time_zone: Option<chrono_tz::Tz>,
    pub locale: Option<Language>,
    pub feature_flags: Option<Value>,
    pub settings: Option<Settings>,
    /// `Some(None)` takes the end away.
    pub trial_ends_at: Option<Option<DateTime<Utc>>>,
}

/// Writes the row alone; [`crate::tenant::create`] makes the organization.
pub async fn insert(db: &mut PgConnection, organization: &Organization) -> Result<(), StoreError> {
    let o = organization;
    sqlx::query!(
        "insert into public.organizations (id, slug, name, tier, billing_status, time_zone, locale, feature_flags,
             settings, trial_ends_at, schema_name, role_name, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        o.id,
        o.slug.as_str(),
        o.name,
        o.tier.as_str(),
        o.billing_status.as_str(),
        o.time_zone.name(),
        o.locale.as_str(),
        o.feature_flags,
        to_json(&o.settings)?,
        o.trial_ends_at,
        o.schema_name,
        o.role_name,
        o.created_at,
        o.updated_at
    )
    .execute(db)
    .await
    .map_err(|e| StoreError::from_constraint(e, &[("organizations_slug_key", "slug", "is taken")]))?;
    Ok(())
}

pub async fn by_slug(db: &mut PgConnection, slug: &str) -> Result<Option<Organization>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, slug, name, tier, billing_status, time_zone, locale, feature_flags, settings, trial_ends_at,
                schema_name, role_name, created_at, updated_at
         from public.organizations where slug = $1",
        slug
    )
    .fetch_optional(db)
    .await?;
    row.map(Organization::try_from).transpose()
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<Organization>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, slug, name, tier, billing_status, time_zone, locale, feature_flags, settings, trial_ends_at,
                schema_name, role_name, created_at, updated_at
         from public.organizations where id = $1",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(Organization::try_from).transpose()
}

pub async fn list(db: &mut PgConnection, page: Page) -> Result<Vec<Organization>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, slug, name, tier, billing_status, time_zone, locale, feature_flags, settings, trial_ends_at,
                schema_name, role_name, created_at, updated_at
         from public.organizations where true",
    );
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(Organization::try_from).collect()
}

/// Those in good standing, for whom schedules fire: active and on trial, by slug. No more of a row is read than schedules
/// need, and a time zone that this program does not know counts as UTC: one row cannot stop everybody's schedules.
pub async fn active(db: &mut PgConnection) -> Result<Vec<Standing>, StoreError> {
    let rows = sqlx::query!(
        "select slug, time_zone from public.organizations where billing_status in ('active', 'trial') order by slug"
    )
    .fetch_all(db)
    .await?;
    let standing = rows.into_iter().map(|row| {
        let time_zone = row.time_zone.parse().unwrap_or_else(|_| {
            let (tenant, time_zone) = (&row.slug, &row.time_zone);
            tracing::warn!(tenant, time_zone, "the organization's time zone is unknown; its schedules fire by UTC");
            chrono_tz::UTC
        });
        Standing { slug: row.slug, time_zone }
    });
    Ok(standing.collect())
}

/// Those whose trial is over, locked until the transaction ends.
pub async fn lock_expired_trials(db: &mut PgConnection, now: DateTime<Utc>) -> Result<Vec<Organization>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select id, slug, name, tier, billing_status, time_zone, locale, feature_flags, settings, trial_ends_at,
                schema_name, role_name, created_at, updated_at
         from public.organizations where billing_status = 'trial' and trial_ends_at <= $1 order by slug for update",
        now
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(Organization::try_from).collect()
}

/// Changes the organization and answers it as it is now.
pub async fn update(
    db: &mut PgConnection,
    id: Uuid,
    change: &OrganizationChange,
    now: DateTime<Utc>,
) -> Result<Organization, StoreError> {
    let settings = change.settings.as_ref().map(to_json).transpose()?;
    sqlx::query!(
        "update public.organizations set
             name = coalesce($2, name), tier = coalesce($3, tier), time_zone = coalesce($4, time_zone),
             locale = coalesce($5, locale), feature_flags = coalesce($6, feature_flags),
             settings = coalesce($7, settings),
             trial_ends_at = case when $8 then $9 else trial_ends_at end, updated_at = $10
         where id = $1",
        id,
        change.name,
        change.tier.map(Tier::as_str),
        change.time_zone.map(|zone| zone.name()),
        change.locale.map(Language::as_str),
        change.feature_flags,
        settings,
        change.trial_ends_at.is_some(),
        change.trial_ends_at.flatten(),
        now
    )
    .execute(&mut *db)
    .await?;
    by_id(db, id).await?.ok_or(StoreError::NotFound { what: "organization", id })
}

/// Writes the status alone; [`crate::tenant::set_billing_status`] also holds or releases the jobs.
pub async fn set_billing_status(
    db: &mut PgConnection,
    id: Uuid,
    status: BillingStatus,
    now: DateTime<Utc>,
) -> Result<Organization, StoreError> {
    sqlx::query!(
        "update public.organizations set billing_status = $2, updated_at = $3 where id = $1",
        id,
        status.as_str(),
        now
    )
    .execute(&mut *db)
    .await?;
    by_id(db, id).await?.ok_or(StoreError::NotFound { what: "organization", id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::testing::TestDatabase;

    /// CRON-2: an organization that cannot be read whole keeps nobody from being scheduled, itself included.
    #[tokio::test]
    async fn one_unreadable_organization_does_not_stop_everybodys_schedules() {
        let database = TestDatabase::new().await;
        for slug in ["acme", "globex", "initech"] {
            database.organization(slug).await;
        }
        for spoil in [
            "update public.organizations set time_zone = 'Mars/Base', settings = '{\"of_tomorrow\": 1}' where slug = 'acme'",
            "update public.organizations set billing_status = 'suspended' where slug = 'globex'",
        ] {
            sqlx::query(spoil).execute(&database.pool).await.unwrap();
        }

        let active = active(&mut database.pool.acquire().await.unwrap()).await.unwrap();

        let standing = |slug: &str, time_zone| Standing { slug: slug.to_owned(), time_zone };
        assert_eq!(active, [standing("acme", chrono_tz::UTC), standing("initech", chrono_tz::Europe::Stockholm)]);
    }
}
