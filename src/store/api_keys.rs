//! `public.api_keys` (AUTH-3): shown once, stored as SHA-256.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, organizations};
use crate::domain::Organization;

/// A key as it can be shown again: without the key.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ApiKey {
    pub id: Uuid,
    pub organization_id: Uuid,
    pub name: String,
    /// The key's first characters, for people to tell keys apart.
    pub prefix: String,
    pub scopes: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Makes a key `br_<slug>_<43 characters base64url>`: 32 random bytes. Answers it once; the database has its hash.
pub async fn create(
    db: &mut PgConnection,
    organization: &Organization,
    name: &str,
    scopes: &[String],
    now: DateTime<Utc>,
) -> Result<(ApiKey, SecretString), StoreError> {
    let lead = format!("br_{}_", organization.slug.as_str());
    let key = format!("{lead}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let api_key = ApiKey {
        id: Uuid::now_v7(),
        organization_id: organization.id,
        name: name.to_owned(),
        prefix: key.chars().take(lead.len() + 4).collect(),
        scopes: scopes.to_vec(),
        created_at: now,
        last_used_at: None,
        revoked_at: None,
    };
    sqlx::query!(
        "insert into public.api_keys (id, organization_id, name, key_hash, prefix, scopes, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        api_key.id,
        api_key.organization_id,
        api_key.name,
        &hash(&key),
        api_key.prefix,
        &api_key.scopes,
        now
    )
    .execute(db)
    .await?;
    Ok((api_key, SecretString::from(key)))
}

fn hash(key: &str) -> Vec<u8> {
    Sha256::digest(key).to_vec()
}

/// The key and its organization, unless it is unknown or revoked. The key has 256 random bits, so an indexed look-up by its
/// hash tells a guesser nothing.
pub async fn authenticate(
    db: &mut PgConnection,
    key: &SecretString,
) -> Result<Option<(ApiKey, Organization)>, StoreError> {
    let found = sqlx::query_as!(
        ApiKey,
        "select id, organization_id, name, prefix, scopes, created_at, last_used_at, revoked_at
         from public.api_keys where key_hash = $1 and revoked_at is null",
        &hash(key.expose_secret())
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(api_key) = found else { return Ok(None) };
    let organization = organizations::by_id(db, api_key.organization_id).await?;
    Ok(organization.map(|organization| (api_key, organization)))
}

/// Notes that the key was used, at most once a minute so that a busy client does not write on every request.
pub async fn touch_last_used(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.api_keys set last_used_at = $2
         where id = $1 and (last_used_at is null or last_used_at < $3)",
        id,
        now,
        now - chrono::Duration::minutes(1)
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The organization's keys, revoked ones included, oldest first.
pub async fn list(db: &mut PgConnection, organization_id: Uuid) -> Result<Vec<ApiKey>, StoreError> {
    Ok(sqlx::query_as!(
        ApiKey,
        "select id, organization_id, name, prefix, scopes, created_at, last_used_at, revoked_at
         from public.api_keys where organization_id = $1 order by id",
        organization_id
    )
    .fetch_all(db)
    .await?)
}

/// Revokes the organization's key. False if it has no such key or it was revoked already.
pub async fn revoke(
    db: &mut PgConnection,
    organization_id: Uuid,
    id: Uuid,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update public.api_keys set revoked_at = $3 where organization_id = $1 and id = $2 and revoked_at is null",
        organization_id,
        id,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::testing::TestDatabase;

    /// AUTH-3, VAULT-4
    #[tokio::test]
    async fn a_key_opens_its_organization_until_it_is_revoked_and_is_never_stored() {
        let database = TestDatabase::new().await;
        let organization = database.organization("acme").await;
        let mut db = database.pool.acquire().await.unwrap();
        let now = organization.created_at;

        let (made, key) = create(&mut db, &organization, "ci", &["jobs:write".to_owned()], now).await.unwrap();

        assert!(key.expose_secret().starts_with("br_acme_") && key.expose_secret().len() == 8 + 43);
        let (found, opened) = authenticate(&mut db, &key).await.unwrap().unwrap();
        assert_eq!((found.id, opened.id), (made.id, organization.id));
        let row: String =
            sqlx::query_scalar("select to_jsonb(k)::text from public.api_keys k").fetch_one(&mut *db).await.unwrap();
        assert!(!row.contains(&key.expose_secret()[12..]), "the key is readable in {row}");
        let wrong = SecretString::from("br_acme_wrong");
        assert!(authenticate(&mut db, &wrong).await.unwrap().is_none());

        assert!(!revoke(&mut db, Uuid::now_v7(), made.id, now).await.unwrap(), "by another organization");
        assert!(revoke(&mut db, organization.id, made.id, now).await.unwrap());
        assert!(authenticate(&mut db, &key).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_last_use_is_written_at_most_once_a_minute() {
        let database = TestDatabase::new().await;
        let organization = database.organization("acme").await;
        let mut db = database.pool.acquire().await.unwrap();
        let now = organization.created_at;
        let (made, _) = create(&mut db, &organization, "ci", &[], now).await.unwrap();

        for seconds in [0, 30, 90] {
            touch_last_used(&mut db, made.id, now + chrono::Duration::seconds(seconds)).await.unwrap();
            let used = list(&mut db, organization.id).await.unwrap()[0].last_used_at.unwrap();
            let expected = if seconds == 90 { 90 } else { 0 };
            assert_eq!((used - now).num_seconds(), expected);
        }
    }
}
