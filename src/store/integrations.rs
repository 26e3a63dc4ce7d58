//! `integrations` (SYNC-1, SYNC-5): what is connected, and how it stands. Credentials are sealed. Tokens are in [`super::tokens`].

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, Sealer, StoreError, count, stored};
use crate::domain::integration::{
    Integration, IntegrationChange, IntegrationKind, IntegrationStatus, NewIntegration, Provider,
};

pub(super) const TABLE: &str = "integrations";
/// Why a run ends whose integration has another configuration now.
pub const OTHER_SOURCE: &str = "the configuration was changed";
const CONSTRAINTS: &[(&str, &str, &str)] =
    &[("integrations_name_key", "name", "is taken by another integration already")];

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    provider: String,
    name: String,
    config: Value,
    interval_minutes: i32,
    enabled: bool,
    status: String,
    needs_since: Option<DateTime<Utc>>,
    stalled_since: Option<DateTime<Utc>>,
    last_success_at: Option<DateTime<Utc>>,
    last_error_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
    next_run_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Integration {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            provider: stored("integrations.provider", &row.provider)?,
            name: row.name,
            config: row.config,
            interval_minutes: count("integrations.interval_minutes", row.interval_minutes)?,
            enabled: row.enabled,
            status: stored("integrations.status", &row.status)?,
            needs_since: row.needs_since,
            stalled_since: row.stalled_since,
            last_success_at: row.last_success_at,
            last_error_at: row.last_error_at,
            last_error: row.last_error,
            next_run_at: row.next_run_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Stores an integration; it is due at once where there is something to read.
pub async fn insert(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    new: &NewIntegration,
    credentials: &SecretString,
    now: DateTime<Utc>,
) -> Result<Integration, StoreError> {
    let id = Uuid::now_v7();
    let due = (new.provider.kind() != IntegrationKind::Communication).then_some(now);
    let row = sqlx::query_as!(
        Row,
        "insert into integrations (id, provider, name, config, credentials, interval_minutes, enabled, next_run_at, created_at,
             updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
         returning id, provider, name, config, interval_minutes, enabled, status, needs_since, stalled_since, last_success_at,
             last_error_at, last_error, next_run_at, created_at, updated_at",
        id,
        new.provider.as_str(),
        new.name,
        new.config,
        seal(sealer, id, credentials),
        new.interval_minutes.cast_signed(),
        new.enabled,
        due,
        now
    )
    .fetch_one(db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    row.try_into()
}

/// What becomes of an integration's tokens when it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// They are of the same grant.
    Stay,
    End,
}

fn seal(sealer: Sealer<'_>, id: Uuid, credentials: &SecretString) -> Vec<u8> {
    sealer.vault.seal_text(&sealer.place(TABLE, "credentials", id), credentials.expose_secret())
}

/// Changes an integration. Another configuration is another source: the run under way ends, and the next one reads everything. It or
/// new credentials end what needed a person's attention. `None` if there is no such integration.
pub async fn update(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    id: Uuid,
    (change, credentials, tokens): (&IntegrationChange, Option<&SecretString>, Tokens),
    now: DateTime<Utc>,
) -> Result<Option<Integration>, StoreError> {
    // The run first: a page locks in the same order.
    if let Some(config) = &change.config {
        sqlx::query!(
            "update sync_runs set state = 'failed', ended_at = $3, error = $4
             where integration_id = $1 and state = 'running'
                 and exists (select from integrations where id = $1 and config <> $2)",
            id,
            config,
            now,
            OTHER_SOURCE
        )
        .execute(&mut *db)
        .await?;
    }
    let row = sqlx::query_as!(
        Row,
        "update integrations i
         set name = coalesce($2, name), config = coalesce($3, config), interval_minutes = coalesce($4, interval_minutes),
             credentials = coalesce($5, credentials), updated_at = $6,
             bookmarks = case when n.source then '{}' else bookmarks end,
             tokens = case when $7 then null else tokens end,
             token_version = token_version + case when $7 then 1 else 0 end,
             token_asked_at = case when $7 then null else token_asked_at end,
             token_holder = case when $7 then null else token_holder end,
             token_held_until = case when $7 then null else token_held_until end,
             status = case when n.access and status = 'needs_attention' then 'new' else status end,
             needs_since = case when n.access then null else needs_since end,
             stalled_since = case when n.access then null else stalled_since end, stall_told = stall_told and not n.access,
             next_run_at = case when next_run_at is null then null when n.access then $6::timestamptz
                                else least(next_run_at, $6::timestamptz + make_interval(mins => coalesce($4, interval_minutes))) end
         from (select o.id, $3::jsonb is not null and $3 <> o.config as source,
                      $5::bytea is not null or ($3 is not null and $3 <> o.config) as access
               from integrations o where o.id = $1 for update) n
         where i.id = n.id
         returning i.id, provider, name, config, interval_minutes, enabled, status, needs_since, stalled_since, last_success_at,
             last_error_at, last_error, next_run_at, created_at, updated_at",
        id,
        change.name,
        change.config,
        change.interval_minutes.map(u32::cast_signed),
        credentials.map(|credentials| seal(sealer, id, credentials)),
        now,
        tokens == Tokens::End
    )
    .fetch_optional(db)
    .await
    .map_err(|e| StoreError::from_constraint(e, CONSTRAINTS))?;
    row.map(Integration::try_from).transpose()
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<Integration>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, provider, name, config, interval_minutes, enabled, status, needs_since, stalled_since, last_success_at,
             last_error_at, last_error, next_run_at, created_at, updated_at
         from integrations where id = $1",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(Integration::try_from).transpose()
}

/// Which integrations. All given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct IntegrationFilter {
    pub provider: Option<Provider>,
    pub status: Option<IntegrationStatus>,
    pub enabled: Option<bool>,
    pub name: Option<String>,
}

pub async fn page(
    db: &mut PgConnection,
    filter: &IntegrationFilter,
    page: Page,
) -> Result<Vec<Integration>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, provider, name, config, interval_minutes, enabled, status, needs_since, stalled_since, last_success_at,
             last_error_at, last_error, next_run_at, created_at, updated_at
         from integrations where true",
    );
    if let Some(provider) = filter.provider {
        query.push(" and provider = ").push_bind(provider.as_str());
    }
    if let Some(status) = filter.status {
        query.push(" and status = ").push_bind(status.as_str());
    }
    if let Some(enabled) = filter.enabled {
        query.push(" and enabled = ").push_bind(enabled);
    }
    if let Some(name) = &filter.name {
        query.push(" and name = ").push_bind(name);
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(Integration::try_from).collect()
}

/// Takes an integration away with its runs; the records that came from it stay. False if it was not there.
pub async fn delete(db: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    let gone = sqlx::query!("delete from integrations where id = $1", id).execute(db).await?;
    Ok(gone.rows_affected() > 0)
}

/// The credentials in clear, a JSON object of strings. `None` if there is no such integration.
pub async fn credentials(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    id: Uuid,
) -> Result<Option<SecretString>, StoreError> {
    let sealed =
        sqlx::query_scalar!("select credentials from integrations where id = $1", id).fetch_optional(db).await?;
    let open = |sealed: Vec<u8>| sealer.vault.open_text(&sealer.place(TABLE, "credentials", id), &sealed);
    Ok(sealed.map(open).transpose()?)
}

/// The switch. `None` if there is no such integration; otherwise it, and whether the switch was the other way.
pub async fn set_enabled(
    db: &mut PgConnection,
    id: Uuid,
    enabled: bool,
    now: DateTime<Utc>,
) -> Result<Option<(Integration, bool)>, StoreError> {
    let turned = sqlx::query!(
        "update integrations set enabled = $2, stalled_since = null, stall_told = false, updated_at = $3
         where id = $1 and enabled <> $2",
        id,
        enabled,
        now
    )
    .execute(&mut *db)
    .await?
    .rows_affected()
        > 0;
    Ok(by_id(db, id).await?.map(|integration| (integration, turned)))
}

/// An integration that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub id: Uuid,
    /// Everything is to be read: somebody wants it, the last time was too long ago, or records have been left out for a day.
    pub full: bool,
}

/// SYNC-5: those that are due, up to `limit`; they are due again after their interval. A sweep at the same time gets others. With
/// `full_days` 0 everything is read only where somebody wants it. A full run that did not get to its end is not begun again by itself
/// within a day.
pub async fn due(
    db: &mut PgConnection,
    now: DateTime<Utc>,
    full_days: u32,
    limit: i64,
) -> Result<Vec<Due>, StoreError> {
    Ok(sqlx::query_as!(
        Due,
        r#"update integrations set next_run_at = $1::timestamptz + make_interval(mins => interval_minutes)
         where id in (select d.id from integrations d
                      where d.enabled and d.status <> 'needs_attention' and d.next_run_at <= $1
                      order by d.next_run_at limit $2 for update skip locked)
         returning id,
             full_wanted or ($3 > 0 and coalesce(coalesce(full_at, first_run_done_at)
                 <= $1 - make_interval(days => case when left_out then 1 else $3 end), false)
                 and (full_began_at is null or full_began_at <= $1 - interval '1 day')) as "full!""#,
        now,
        limit,
        full_days.cast_signed()
    )
    .fetch_all(db)
    .await?)
}

/// After so many seconds an integration is due again of which a full run is wanted: a sweep at work does not meet it twice.
const FOLLOWS_S: f64 = 60.0;

/// Remembers that everything is to be read once the run that is waiting or under way has ended. False if that one reads everything.
pub async fn want_full(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let wanted = sqlx::query!(
        "update integrations
         set full_wanted = true, next_run_at = least(next_run_at, $2::timestamptz + make_interval(secs => $3))
         where id = $1 and next_run_at is not null and not exists
             (select from sync_runs where integration_id = $1 and state = 'running' and mode = 'full')",
        id,
        now,
        FOLLOWS_S
    )
    .execute(db)
    .await?;
    Ok(wanted.rows_affected() > 0)
}

/// A full run begins, or goes on: whoever wanted one has it.
pub async fn full_begins(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query!("update integrations set full_wanted = false, full_began_at = $2 where id = $1", id, now)
        .execute(db)
        .await?;
    Ok(())
}

/// Its vendor lets nothing be read, from now on or since an earlier failure.
pub async fn stall(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query!("update integrations set stalled_since = $2 where id = $1 and stalled_since is null", id, now)
        .execute(db)
        .await?;
    Ok(())
}

/// Its vendor has let a page be read.
pub async fn end_stall(db: &mut PgConnection, id: Uuid) -> Result<(), StoreError> {
    sqlx::query!("update integrations set stalled_since = null where id = $1 and stalled_since is not null", id)
        .execute(db)
        .await?;
    Ok(())
}

/// An integration that nothing could be read from for too long.
#[derive(Clone, Debug, PartialEq)]
pub struct Stalled {
    pub id: Uuid,
    pub provider: Provider,
    pub since: DateTime<Utc>,
    /// Why its last run did not go on.
    pub error: Option<String>,
}

/// Those that have stalled since `before` or earlier, and that nobody was told of.
pub async fn stalled(db: &mut PgConnection, before: DateTime<Utc>) -> Result<Vec<Stalled>, StoreError> {
    let rows = sqlx::query!(
        r#"select i.id, i.provider, i.stalled_since as "since!",
               (select r.error from sync_runs r where r.integration_id = i.id order by r.id desc limit 1) as error
         from integrations i
         where i.enabled and i.status <> 'needs_attention' and i.stalled_since <= $1 and not i.stall_told
         order by i.id"#,
        before
    )
    .fetch_all(db)
    .await?;
    let stalled = rows.into_iter().map(|row| {
        let provider = stored("integrations.provider", &row.provider)?;
        Ok(Stalled { id: row.id, provider, since: row.since, error: row.error })
    });
    stalled.collect()
}

/// SYNC-13: it fails, and says so. False if it is over, or somebody has said it.
pub async fn tell_stall(
    db: &mut PgConnection,
    (id, since): (Uuid, DateTime<Utc>),
    error: &str,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let told = sqlx::query!(
        "update integrations
         set status = 'failing', stall_told = true, last_error = $3, last_error_at = $4, updated_at = $4
         where id = $1 and stalled_since = $2 and not stall_told and enabled and status <> 'needs_attention'",
        id,
        since,
        error,
        now
    )
    .execute(db)
    .await?;
    Ok(told.rows_affected() > 0)
}

/// SYNC-6: from now on it waits for a person. When it began to do so, if it did not before.
pub async fn need_attention(
    db: &mut PgConnection,
    id: Uuid,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    let since = sqlx::query_scalar!(
        r#"update integrations
         set status = 'needs_attention', needs_since = $3, last_error = $2, last_error_at = $3, updated_at = $3
         where id = $1 and status <> 'needs_attention' returning needs_since as "needs_since!""#,
        id,
        reason,
        now
    )
    .fetch_optional(db)
    .await?;
    Ok(since)
}

/// A test or a run went well. Whether admins were told until now that nothing works.
pub async fn succeeded(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let recovered = sqlx::query_scalar!(
        r#"update integrations i
         set status = 'healthy', needs_since = null, stalled_since = null, stall_told = false, last_success_at = $2, updated_at = $2
         from (select o.id, o.needs_since is not null or o.stall_told as told from integrations o where o.id = $1 for update) o
         where i.id = o.id returning o.told as "recovered!""#,
        id,
        now
    )
    .fetch_optional(db)
    .await?;
    Ok(recovered.unwrap_or_default())
}

/// A test or a run went wrong. What needs attention goes on needing it.
pub async fn failed(db: &mut PgConnection, id: Uuid, error: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query!(
        "update integrations
         set status = case when status = 'needs_attention' then status else 'failing' end, last_error = $2, last_error_at = $3,
             stalled_since = null, updated_at = $3
         where id = $1",
        id,
        error,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Where the next incremental run of each stream begins.
pub async fn bookmarks(db: &mut PgConnection, id: Uuid) -> Result<serde_json::Map<String, Value>, StoreError> {
    let stored = sqlx::query_scalar!("select bookmarks from integrations where id = $1", id).fetch_optional(db).await?;
    Ok(match stored {
        Some(Value::Object(bookmarks)) => bookmarks,
        _ => serde_json::Map::new(),
    })
}

/// Whether this is its configuration (still).
pub async fn has_config(db: &mut PgConnection, id: Uuid, config: &Value) -> Result<bool, StoreError> {
    let same = sqlx::query_scalar!(r#"select config = $2 as "same!" from integrations where id = $1"#, id, config)
        .fetch_optional(db)
        .await?;
    Ok(same.unwrap_or_default())
}

/// Remembers where the next incremental run of a stream begins; without a bookmark it reads everything. False if the configuration
/// that it was read with is no longer the integration's.
pub async fn set_bookmark(
    db: &mut PgConnection,
    (id, config): (Uuid, &Value),
    stream: &str,
    bookmark: Option<&Value>,
) -> Result<bool, StoreError> {
    let set = sqlx::query!(
        "update integrations
         set bookmarks = case when $3::jsonb is null then bookmarks - $2 else bookmarks || jsonb_build_object($2::text, $3) end
         where id = $1 and config = $4",
        id,
        stream,
        bookmark,
        config
    )
    .execute(db)
    .await?;
    Ok(set.rows_affected() > 0)
}

/// Whether everything was read once: then a new record is news.
pub async fn is_known(db: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    let done =
        sqlx::query_scalar!(r#"select first_run_done_at is not null as "done!" from integrations where id = $1"#, id)
            .fetch_optional(db)
            .await?;
    Ok(done.unwrap_or_default())
}

/// A run has come to its end, whether it read everything and whether it named records as failed.
pub async fn ran(
    db: &mut PgConnection,
    id: Uuid,
    (full, left_out): (bool, bool),
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update integrations
         set first_run_done_at = coalesce(first_run_done_at, $4), full_at = case when $2 then $4 else full_at end,
             left_out = $3 or (left_out and not $2)
         where id = $1",
        id,
        full,
        left_out,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}
