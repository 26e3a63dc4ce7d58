//! `public.token_usage` (TEN-4): what an organization has used of what its tier allows. On the control plane: a transaction of the
//! organization's own cannot write it.

use chrono::NaiveDate;
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use crate::domain::{Limits, Organization, Resource};

/// Adds tokens that were used for `kind` in the month that begins on that day ([`crate::domain::limits::month_of`]).
pub async fn record_tokens(
    db: &mut PgConnection,
    organization_id: Uuid,
    month: NaiveDate,
    kind: &str,
    tokens: u64,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.token_usage as u (organization_id, month, kind, tokens) values ($1, $2, $3, $4)
         on conflict (organization_id, month, kind) do update set tokens = u.tokens + excluded.tokens",
        organization_id,
        month,
        kind,
        i64::try_from(tokens).unwrap_or(i64::MAX / 2)
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The tokens that were used in the month, by what for.
pub async fn tokens_by_kind(
    db: &mut PgConnection,
    organization_id: Uuid,
    month: NaiveDate,
) -> Result<Vec<(String, u64)>, StoreError> {
    let rows = sqlx::query!(
        "select kind, tokens from public.token_usage where organization_id = $1 and month = $2 order by kind",
        organization_id,
        month
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.kind, row.tokens.unsigned_abs())).collect())
}

/// Whether `wanted` more tokens fit into the month, by the tier that the organization has now, whatever `organization` remembers.
/// Answers how many are left without them.
///
/// # Errors
/// [`StoreError::Limit`] if they do not: over HTTP a 402 `limit-exceeded`.
pub async fn check(
    db: &mut PgConnection,
    organization: &Organization,
    month: NaiveDate,
    wanted: u64,
) -> Result<u64, StoreError> {
    let row = sqlx::query!(
        "select o.tier,
                (select coalesce(sum(tokens), 0)::bigint from public.token_usage u
                 where u.organization_id = o.id and u.month = $2) as \"used!\"
         from public.organizations o where o.id = $1",
        organization.id,
        month
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Err(StoreError::NotFound { what: "organization", id: organization.id }) };
    let tier = super::stored("organizations.tier", &row.tier)?;
    Ok(Limits::of(tier).check(Resource::Tokens, row.used.unsigned_abs(), wanted)?)
}
