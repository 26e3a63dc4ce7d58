//! Rate limits by key, shared by all nodes: one row per key, a token bucket by the database's clock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgExecutor;

/// At most `permits` per `period` for everything that names the key, for example `quickbooks:{realm}`.
///
/// The bucket holds a tenth of the permits and is refilled with the rest, so that no window of one period, wherever it
/// begins, sees more than `permits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub key: String,
    pub permits: u32,
    pub period: Duration,
}

impl RateLimit {
    pub fn new(key: impl Into<String>, permits: u32, period: Duration) -> Self {
        Self { key: key.into(), permits, period }
    }
}

/// A rate limit as it stands.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema, sqlx::FromRow)]
pub struct RateState {
    pub key: String,
    pub permits: i32,
    pub period_s: f64,
    /// Permits that can be had now.
    pub tokens: f64,
    /// The other side said: not before.
    pub blocked_until: Option<DateTime<Utc>>,
    /// An operator set the figures; they no longer follow the program.
    pub fixed: bool,
}

/// Takes a permit. `None`: granted; otherwise how long to wait before it is worth asking again.
pub(crate) async fn take(db: impl PgExecutor<'_>, limit: &RateLimit) -> sqlx::Result<Option<Duration>> {
    let wait: Option<f64> = sqlx::query_scalar("select queue.take_permit($1, $2, $3)")
        .bind(&limit.key)
        .bind(i32::try_from(limit.permits).unwrap_or(i32::MAX).max(1))
        .bind(limit.period.as_secs_f64().max(0.001))
        .fetch_one(db)
        .await?;
    Ok(wait.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.001, 86_400.0))))
}

/// Takes a permit by the figure that was learned under the key, at most `limit`'s; a key without one begins with `limit`'s. Answers the
/// figure, and as [`take`] does.
pub(crate) async fn take_learned(db: impl PgExecutor<'_>, limit: &RateLimit) -> sqlx::Result<(u32, Option<Duration>)> {
    let (figure, wait): (i32, Option<f64>) = sqlx::query_as(
        "select f.permits, queue.take_permit($1, f.permits, $3)
         from (select coalesce((select least(permits, $2) from queue.rate_limits where key = $1 and period_s = $3), $2) as permits) f",
    )
    .bind(&limit.key)
    .bind(i32::try_from(limit.permits).unwrap_or(i32::MAX).max(1))
    .bind(limit.period.as_secs_f64().max(0.001))
    .fetch_one(db)
    .await?;
    Ok((figure.unsigned_abs(), wait.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.001, 86_400.0)))))
}

/// What was learned under the key: `to` permits in the place of `from`. Whoever comes second with the same `from` changes nothing, and
/// an operator's figures stand.
pub(crate) async fn learn(db: impl PgExecutor<'_>, key: &str, from: u32, to: u32) -> sqlx::Result<bool> {
    let learned =
        sqlx::query("update queue.rate_limits set permits = $3 where key = $1 and permits = $2 and not fixed")
            .bind(key)
            .bind(i32::try_from(from).unwrap_or(i32::MAX))
            .bind(i32::try_from(to).unwrap_or(i32::MAX).max(1))
            .execute(db)
            .await?;
    Ok(learned.rows_affected() > 0)
}

/// No permit under the key for this long.
pub(crate) async fn block(db: impl PgExecutor<'_>, key: &str, wait: Duration) -> sqlx::Result<()> {
    // A key that nobody has used yet has no figures; one per second is replaced by the kind's at its first permit.
    sqlx::query(
        "insert into queue.rate_limits as l (key, permits, period_s, tokens, blocked_until)
         values ($1, 1, 1, 0, clock_timestamp() + make_interval(secs => $2))
         on conflict (key) do update set blocked_until = greatest(l.blocked_until, excluded.blocked_until)",
    )
    .bind(key)
    .bind(wait.as_secs_f64().min(86_400.0))
    .execute(db)
    .await?;
    Ok(())
}

/// All rate limits that were ever used or set, by key.
pub async fn rate_limits(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<RateState>> {
    rate_limit_page(db, "", None, i64::MAX).await
}

/// The rate limit of a key, if it was ever used or set.
pub async fn rate_limit(db: impl PgExecutor<'_>, key: &str) -> sqlx::Result<Option<RateState>> {
    sqlx::query_as(
        "select key, permits, period_s, queue.rate_tokens(r) as tokens,
                case when blocked_until > clock_timestamp() then blocked_until end as blocked_until, fixed
         from queue.rate_limits r where key = $1",
    )
    .bind(key)
    .fetch_optional(db)
    .await
}

/// The page of rate limits whose keys begin with `prefix`, by key, after the key `after`.
pub async fn rate_limit_page(
    db: impl PgExecutor<'_>,
    prefix: &str,
    after: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<RateState>> {
    sqlx::query_as(
        "select key, permits, period_s, queue.rate_tokens(r) as tokens,
                case when blocked_until > clock_timestamp() then blocked_until end as blocked_until, fixed
         from queue.rate_limits r where starts_with(key, $1) and ($2::text is null or key > $2) order by key limit $3",
    )
    .bind(prefix)
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// An operator's figures for a key: from now on they stand, whatever the program says.
pub async fn fix_rate_limit(db: impl PgExecutor<'_>, limit: &RateLimit) -> sqlx::Result<()> {
    sqlx::query(
        "insert into queue.rate_limits as l (key, permits, period_s, tokens, fixed) values ($1, $2, $3, 1, true)
         on conflict (key) do update set permits = excluded.permits, period_s = excluded.period_s, fixed = true,
             tokens = least(queue.rate_tokens(l), greatest(1, floor(excluded.permits / 10.0))),
             refilled_at = clock_timestamp()",
    )
    .bind(&limit.key)
    .bind(i32::try_from(limit.permits).unwrap_or(i32::MAX))
    .bind(limit.period.as_secs_f64())
    .execute(db)
    .await?;
    Ok(())
}

/// Forgets a key: it starts anew, with the program's figures and no block. False if it was not there.
pub async fn forget_rate_limit(db: impl PgExecutor<'_>, key: &str) -> sqlx::Result<bool> {
    let gone = sqlx::query("delete from queue.rate_limits where key = $1").bind(key).execute(db).await?;
    Ok(gone.rows_affected() > 0)
}
