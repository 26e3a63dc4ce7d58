//! The tokens of `integrations` (SYNC-6): sealed, counted by `token_version`, and renewed by one at a time.
//!
//! Who renews them says so first, in a transaction of its own ([`ask`]): that is the lock against others and the intent. The answer is
//! stored ([`store`]) before anything is done with it. An intent that nobody followed up tells that an answer may have been lost.

use std::fmt;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;
use zeroize::Zeroize;

use super::{Sealer, StoreError, integrations::TABLE};

/// What is sealed.
#[derive(Clone, Serialize, Deserialize)]
pub struct Tokens {
    pub access_token: String,
    pub expires_at: DateTime<Utc>,
    /// From then on it is renewed, before it expires.
    pub renew_at: DateTime<Utc>,
    /// Replaces the one of the credentials.
    pub refresh_token: Option<String>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        self.access_token.zeroize();
        self.refresh_token.zeroize();
    }
}

/// The tokens as they stand.
#[derive(Clone, Debug)]
pub struct Stored {
    pub version: i64,
    pub tokens: Option<Tokens>,
    /// A JSON object of strings.
    pub credentials: SecretString,
    /// Somebody asked for new ones, and no answer is stored.
    pub asked_at: Option<DateTime<Utc>>,
    /// Somebody is asking at this moment.
    pub is_being_asked: bool,
}

/// `None` if there is no such integration.
pub async fn read(db: &mut PgConnection, sealer: Sealer<'_>, id: Uuid) -> Result<Option<Stored>, StoreError> {
    let row = sqlx::query!(
        r#"select credentials, tokens, token_version, token_asked_at,
                  coalesce(token_held_until > clock_timestamp(), false) as "is_being_asked!"
         from integrations where id = $1"#,
        id
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let place = sealer.place(TABLE, "tokens", id);
    let tokens = row.tokens.map(|sealed| sealer.vault.open_json(&place, &sealed)).transpose()?;
    let credentials = sealer.vault.open_text(&sealer.place(TABLE, "credentials", id), &row.credentials)?;
    Ok(Some(Stored {
        version: row.token_version,
        tokens,
        credentials,
        asked_at: row.token_asked_at,
        is_being_asked: row.is_being_asked,
    }))
}

/// Says that `holder` is about to ask for tokens in the place of those of `version`, for at most `for_s` seconds. False: others have them
/// already, or are asking.
pub async fn ask(
    db: &mut PgConnection,
    id: Uuid,
    (version, holder): (i64, Uuid),
    for_s: f64,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let asking = sqlx::query!(
        "update integrations
         set token_holder = $3, token_held_until = clock_timestamp() + make_interval(secs => $4),
             token_asked_at = coalesce(token_asked_at, $5)
         where id = $1 and token_version = $2 and (token_held_until is null or token_held_until < clock_timestamp())",
        id,
        version,
        holder,
        for_s,
        now
    )
    .execute(db)
    .await?;
    Ok(asking.rows_affected() > 0)
}

/// Stores the answer. False if the tokens are no longer those of `version`: a person gave new credentials meanwhile, say.
pub async fn store(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    id: Uuid,
    version: i64,
    tokens: &Tokens,
) -> Result<bool, StoreError> {
    let sealed = sealer.vault.seal_json(&sealer.place(TABLE, "tokens", id), tokens)?;
    let stored = sqlx::query!(
        "update integrations
         set tokens = $3, token_version = token_version + 1, token_asked_at = null, token_holder = null, token_held_until = null
         where id = $1 and token_version = $2",
        id,
        version,
        sealed
    )
    .execute(db)
    .await?;
    Ok(stored.rows_affected() > 0)
}

/// Lets others ask. With `answered` the vendor has refused, so that no answer is missing; otherwise the intent stays, because the
/// request may have had its effect.
pub async fn release(
    db: &mut PgConnection,
    id: Uuid,
    (version, holder): (i64, Uuid),
    answered: bool,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update integrations
         set token_holder = null, token_held_until = null, token_asked_at = case when $4 then null else token_asked_at end
         where id = $1 and token_version = $2 and token_holder = $3",
        id,
        version,
        holder,
        answered
    )
    .execute(db)
    .await?;
    Ok(())
}

impl Tokens {
    pub fn access(&self) -> SecretString {
        SecretString::from(self.access_token.as_str())
    }

    /// What the next request for tokens carries, unless it is in the credentials.
    pub fn refresh(&self) -> Option<SecretString> {
        self.refresh_token.as_deref().map(SecretString::from)
    }

    /// Tokens out of an answer.
    pub fn new(
        access: &SecretString,
        refresh: Option<&SecretString>,
        (expires_at, renew_at): (DateTime<Utc>, DateTime<Utc>),
    ) -> Self {
        Self {
            access_token: access.expose_secret().to_owned(),
            refresh_token: refresh.map(|token| token.expose_secret().to_owned()),
            expires_at,
            renew_at,
        }
    }
}
