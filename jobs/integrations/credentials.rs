//! What is told of credentials, and how they are changed: by name, and nothing else.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde::de::IgnoredAny;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    clients,
    domain::integration::Provider,
    store::{Sealer, StoreError, integrations},
};

/// Whether the vendor sends by itself what has changed.
pub fn has_webhooks(provider: Provider) -> bool {
    clients::vendor(provider).is_some_and(|vendor| vendor.webhook.is_some())
}

/// The names of the credentials that are set: all that is ever told of them.
pub async fn credential_names(db: &mut PgConnection, sealer: Sealer<'_>, id: Uuid) -> Result<Vec<String>, StoreError> {
    let credentials = integrations::credentials(db, sealer, id).await?;
    Ok(credentials.map(|credentials| names(&credentials)).unwrap_or_default())
}

fn names(credentials: &SecretString) -> Vec<String> {
    let all: BTreeMap<String, IgnoredAny> = serde_json::from_str(credentials.expose_secret()).unwrap_or_default();
    all.into_keys().collect()
}

/// The credentials as they shall be: a name that is given replaces, `None` takes away, the others stay.
pub fn merge_credentials(
    present: Option<&SecretString>,
    given: impl IntoIterator<Item = (String, Option<SecretString>)>,
) -> SecretString {
    let present = present.and_then(|present| serde_json::from_str(present.expose_secret()).ok());
    let mut all: BTreeMap<String, SecretString> = present.unwrap_or_default();
    for (name, secret) in given {
        match secret {
            Some(secret) => all.insert(name, secret),
            None => all.remove(&name),
        };
    }
    let exposed: BTreeMap<&str, &str> =
        all.iter().map(|(name, secret)| (name.as_str(), secret.expose_secret())).collect();
    serde_json::to_string(&exposed).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SYNC-1
    #[test]
    fn credentials_are_replaced_one_by_one_and_told_by_name_only() {
        let present = SecretString::from(r#"{"api_key":"old","webhook_secret":"stays","extra":"goes"}"#);
        let given = [("api_key".to_owned(), Some("new".into())), ("extra".to_owned(), None)];
        let merged = merge_credentials(Some(&present), given);
        assert_eq!(merged.expose_secret(), r#"{"api_key":"new","webhook_secret":"stays"}"#);
        assert_eq!(names(&merged), ["api_key", "webhook_secret"]);
        assert_eq!(merge_credentials(None, []).expose_secret(), "{}");
    }
}
