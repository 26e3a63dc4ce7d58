//! Suspending and activating (TEN-5), and changing the tier (TEN-4).

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::TenantTx;
use crate::{
    domain::{BillingStatus, Clock, Organization, Tier},
    store::{
        StoreError,
        events::{self, NewEvent},
        organizations::{self, OrganizationChange},
    },
};

/// Moves the organization to another tier. Its limits are the new tier's from then on, whatever was used before.
pub async fn set_tier(
    db: &PgPool,
    clock: &Clock,
    organization: &Organization,
    tier: Tier,
    actor: &str,
) -> Result<Organization, StoreError> {
    let now = clock.now();
    let change = OrganizationChange { tier: Some(tier), ..OrganizationChange::default() };
    let mut tx = db.begin().await?;
    let changed = organizations::update(&mut tx, organization.id, &change, now).await?;
    let mut tx = TenantTx::enter(tx, organization).await?;
    let payload = json!({ "tier": tier, "before": organization.tier });
    let (topic, kind) = ("organization".to_owned(), "organization.tier_changed");
    events::append(&mut tx, &NewEvent { topic, kind, payload, actor }, now).await?;
    tx.commit().await?;
    Ok(changed)
}

/// Changes the billing status; a suspended or cancelled organization's jobs are held, an active one's released, in the
/// same transaction. Answers the organization as it is now and how many jobs were held or released.
pub async fn set_billing_status(
    db: &PgPool,
    clock: &Clock,
    organization: &Organization,
    status: BillingStatus,
) -> Result<(Organization, u64), StoreError> {
    let mut tx = db.begin().await?;
    let changed = set_billing_status_in(&mut tx, clock, organization, status).await?;
    tx.commit().await?;
    Ok(changed)
}

/// As [`set_billing_status`], in the caller's transaction.
pub async fn set_billing_status_in(
    db: &mut PgConnection,
    clock: &Clock,
    organization: &Organization,
    status: BillingStatus,
) -> Result<(Organization, u64), StoreError> {
    let organization = organizations::set_billing_status(db, organization.id, status, clock.now()).await?;
    let tenant = organization.slug.as_str();
    let jobs = if organization.is_held() {
        backroom_queue::hold_tenant(db, tenant).await?
    } else {
        backroom_queue::release_tenant(db, tenant).await?
    };
    tracing::info!(tenant, status = status.as_str(), jobs, "changed the organization's billing status");
    Ok((organization, jobs))
}

#[cfg(test)]
mod tests {
    use backroom_queue::{JobFilter, NewJob, enqueue, list};

    use super::*;
    use crate::tenant::testing::TestDatabase;

    fn job(tenant: &str) -> NewJob {
        NewJob::named("debug.noop", serde_json::json!({})).tenant(tenant)
    }

    /// TEN-5
    #[tokio::test]
    async fn a_suspended_organizations_jobs_are_held_and_activation_releases_them() {
        let database = TestDatabase::new().await;
        let clock = Clock::system();
        let organization = database.organization("acme").await;
        enqueue(&database.pool, &job("acme")).await.unwrap();
        let held = async || {
            let filter = JobFilter { limit: 10, ..JobFilter::default() };
            list(&database.pool, &filter).await.unwrap().iter().filter(|job| job.held).count()
        };

        let (suspended, jobs) =
            set_billing_status(&database.pool, &clock, &organization, BillingStatus::Suspended).await.unwrap();
        enqueue(&database.pool, &job("acme")).await.unwrap();
        assert!(suspended.is_held());
        assert_eq!((jobs, held().await), (1, 2));

        let (active, jobs) =
            set_billing_status(&database.pool, &clock, &organization, BillingStatus::Active).await.unwrap();
        assert!(!active.is_held());
        assert_eq!((jobs, held().await), (2, 0));
    }
}
