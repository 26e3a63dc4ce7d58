//! Suspending and activating (TEN-5).

use sqlx::{PgConnection, PgPool};

use crate::{
    domain::{BillingStatus, Clock, Organization},
    store::{StoreError, organizations},
};

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
