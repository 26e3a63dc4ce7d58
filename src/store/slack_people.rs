//! `slack_people`: who is who at Slack, as it was looked up by e-mail (SYNC-11).

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// What was found out about an address since then: the user, or that there is none. `None`: nothing.
pub async fn known(
    db: &mut PgConnection,
    (integration, email): (Uuid, &str),
    since: DateTime<Utc>,
) -> Result<Option<Option<String>>, StoreError> {
    let known = sqlx::query_scalar!(
        "select slack_user from slack_people where integration_id = $1 and email = lower($2) and looked_up_at > $3",
        integration,
        email,
        since
    );
    Ok(known.fetch_optional(db).await?)
}

/// Keeps what was found out. Nothing if the integration is gone meanwhile.
pub async fn keep(
    db: &mut PgConnection,
    (integration, email): (Uuid, &str),
    user: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into slack_people (integration_id, email, slack_user, looked_up_at)
         select i.id, lower($2), $3::text, $4::timestamptz from integrations i where i.id = $1
         on conflict (integration_id, email) do update
             set slack_user = excluded.slack_user, looked_up_at = excluded.looked_up_at",
        integration,
        email,
        user,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}
