//! What a change of an integration does to what was read with it, and to its tokens.

use secrecy::{ExposeSecret, SecretString};

use super::doors::connect;
use crate::{
    clients::connector::{Connector, Credentials, Grant},
    context::App,
    domain::{
        FieldErrors, ParseError,
        integration::{Integration, IntegrationChange},
    },
    store::integrations::Tokens,
};

/// Whether the vendor's client can be made of what will be stored; says all that is wrong. Another account is refused: its records may
/// have the ids of the present one's. `present` is what is stored, `given` what is to be.
pub fn check_change(
    app: &App,
    found: &Integration,
    (change, given): (&IntegrationChange, Option<&SecretString>),
    present: &SecretString,
) -> Result<Tokens, FieldErrors> {
    if given.is_none() && change.config.is_none() {
        return Ok(Tokens::Stay);
    }
    let config = change.config.as_ref().unwrap_or(&found.config);
    let after = connect(app, found.provider, config, given.unwrap_or(present))?;
    // What this version cannot read any more can only be replaced.
    let Ok(before) = connect(app, found.provider, &found.config, present) else { return Ok(Tokens::End) };
    // Where nothing is read there is nothing to be confused.
    if before.account() != after.account() && !after.streams().is_empty() {
        let message = format!("is of another account, {}; connect a new integration instead", after.account());
        return Err(ParseError::invalid(message).at("config").into());
    }
    let stay = same_grant((&*before, present), (&*after, given.unwrap_or(present)));
    Ok(if stay { Tokens::Stay } else { Tokens::End })
}

/// Whether the tokens that were given for the one are the other's, too. A refresh token that has replaced the one of the credentials is
/// nowhere else; where there is none, a new access token costs nothing.
fn same_grant(before: (&dyn Connector, &SecretString), after: (&dyn Connector, &SecretString)) -> bool {
    let (Some(old), Some(new)) = (before.0.oauth(), after.0.oauth()) else { return false };
    let refresh = |credentials: &SecretString| {
        Credentials::parse(credentials.clone()).ok().and_then(|credentials| credentials.get("refresh_token"))
    };
    matches!((&old.grant, &new.grant), (Grant::RefreshToken, Grant::RefreshToken))
        && before.0.account() == after.0.account()
        && old.token_endpoint == new.token_endpoint
        && old.client_id == new.client_id
        && same(old.client_secret.as_ref(), new.client_secret.as_ref())
        && same(refresh(before.1).as_ref(), refresh(after.1).as_ref())
}

fn same(before: Option<&SecretString>, after: Option<&SecretString>) -> bool {
    before.map(ExposeSecret::expose_secret) == after.map(ExposeSecret::expose_secret)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        domain::integration::Provider,
        jobs::{
            integrations::stage::{connect as connected, reload},
            testing::World,
        },
    };

    /// The field that is refused, or what becomes of the tokens, with these members changed.
    async fn changed(world: &World, config: Value, credentials: Value) -> Result<Tokens, String> {
        let stored = json!({ "client_id": "c", "client_secret": "s", "refresh_token": "r", "webhook_key": "w" });
        let found =
            reload(world, connected(world, Provider::BambooHr, &format!("{config}{credentials}")).await.id).await;
        let with = |mut all: Value, more: Value| {
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        let change = IntegrationChange { config: Some(with(found.config.clone(), config)), ..Default::default() };
        let given = SecretString::from(with(stored.clone(), credentials).to_string());
        let checked = check_change(&world.app, &found, (&change, Some(&given)), &stored.to_string().into());
        checked.map_err(|errors| errors.to_string())
    }

    /// SYNC-6: a refresh token that the vendor has replaced is nowhere else, and is kept while the grant is the same.
    #[tokio::test]
    async fn only_another_grant_ends_the_tokens() {
        let world = World::new().await;
        for unrelated in [
            (json!({ "page_size": 7 }), json!({})),
            (json!({}), json!({ "webhook_key": "another" })),
            (json!({}), json!({})),
        ] {
            assert_eq!(changed(&world, unrelated.0, unrelated.1).await, Ok(Tokens::Stay));
        }
        for name in ["client_id", "client_secret", "refresh_token"] {
            assert_eq!(changed(&world, json!({ "page_size": 8 }), json!({ name: "another" })).await, Ok(Tokens::End));
        }
        let elsewhere = json!({ "token_url": "https://login.acme.example/token" });
        assert_eq!(changed(&world, elsewhere, json!({})).await, Ok(Tokens::End));
    }

    /// SYNC-3: two companies' people with the same ids are not made one.
    #[tokio::test]
    async fn another_account_is_another_integration() {
        let world = World::new().await;
        let refused = changed(&world, json!({ "company_domain": "other" }), json!({})).await.unwrap_err();
        assert!(refused.contains("config") && refused.contains("connect a new integration instead"), "{refused}");
    }
}
