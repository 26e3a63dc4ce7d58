//! `backroom integration add|change|remove|enable|disable`. Credentials come from a file or from standard input, never from the command
//! line, which others on the machine can read.

use std::path::Path;

use anyhow::Context;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{ACTOR, Add, Change, One, Output, Session, document, doors, find};
use crate::{
    cli::{
        exit::{not_found, usage},
        session::text_of,
    },
    domain::integration::{IntegrationChange, NewIntegration},
    store::{Sealer, integrations},
    tenant,
};

/// Reads credentials by name; `null` takes one away. What is wrong with them is told without a word of them.
fn read(path: &Path) -> anyhow::Result<Vec<(String, Option<SecretString>)>> {
    let text = text_of(path)?;
    parse(&text).ok_or_else(|| usage("the credentials are not a JSON object of texts"))
}

fn parse(text: &str) -> Option<Vec<(String, Option<SecretString>)>> {
    let Ok(Value::Object(given)) = serde_json::from_str(text) else { return None };
    let read = given.into_iter().map(|(name, secret)| match secret {
        Value::String(secret) => Some((name, Some(secret.into()))),
        Value::Null => Some((name, None)),
        _ => None,
    });
    read.collect()
}

pub async fn add(session: &Session, args: Add, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&args.org).await?;
    let (app, now) = (session.app()?, session.clock.now());
    let credentials = doors::merge_credentials(None, read(&args.credentials_file)?);
    let new = NewIntegration {
        provider: args.provider,
        name: args.name,
        config: args.config,
        interval_minutes: args.interval,
        enabled: !args.disabled,
    };
    new.validate()?;
    let checked = doors::check(&app, new.provider, &new.config, &credentials);
    checked.with_context(|| format!("`backroom integration providers` says what {} needs", new.provider))?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let made = doors::create_integration(&mut tx, sealer, (&new, &credentials), ACTOR, now).await?;
    tx.commit().await?;
    output.answer(&document(&made), || {
        format!(
            "{} is integration {}\nnext: backroom integration test {} --org {}",
            made.name, made.id, made.id, args.org
        )
    })
}

pub async fn change(session: &Session, args: Change, output: Output) -> anyhow::Result<()> {
    let (organization, found) = find(session, &args.which).await?;
    let (app, now) = (session.app()?, session.clock.now());
    let change = IntegrationChange { name: args.name, config: args.config, interval_minutes: args.interval };
    change.validate()?;
    let given = args.credentials_file.as_deref().map(read).transpose()?;
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let gone = || not_found(format!("{} has no integration {}", args.which.org, found.id));
    let present = integrations::credentials(&mut tx, sealer, found.id).await?.ok_or_else(gone)?;
    let given = given.map(|given| doors::merge_credentials(Some(&present), given));
    let checked = doors::check_change(&app, &found, (&change, given.as_ref()), &present);
    let tokens =
        checked.with_context(|| format!("`backroom integration providers` says what {} needs", found.provider))?;
    let change = (&change, given.as_ref(), tokens);
    let changed = doors::change_integration(&mut tx, sealer, found.id, change, (ACTOR, now)).await?;
    let changed = changed.ok_or_else(gone)?;
    tx.commit().await?;
    output.answer(&document(&changed), || format!("{} is changed; it is {} now", changed.name, changed.status))
}

pub async fn remove(session: &Session, one: One, output: Output) -> anyhow::Result<()> {
    let (organization, found) = find(session, &one).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let removed = doors::remove_integration(&mut tx, found.id, ACTOR, session.clock.now()).await?;
    tx.commit().await?;
    output.answer(&json!({ "id": found.id, "removed": removed }), || {
        format!("{} is no longer connected; the records that came from it stay", found.name)
    })
}

pub async fn switch(session: &Session, one: One, enabled: bool, output: Output) -> anyhow::Result<()> {
    let (organization, found) = find(session, &one).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let turned = doors::set_enabled(&mut tx, found.id, enabled, ACTOR, session.clock.now()).await?;
    let turned = turned.ok_or_else(|| not_found(format!("{} has no integration {}", one.org, found.id)))?;
    tx.commit().await?;
    output.answer(&document(&turned), || {
        let word = if turned.enabled { "on: it is synchronized by itself" } else { "off: nothing is read any more" };
        format!("{} is {word}", turned.name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SYNC-1, VAULT-4
    #[test]
    fn credentials_are_texts_by_name_and_what_is_wrong_quotes_none() {
        let read = parse(r#"{"api_key":"a","old":null}"#).unwrap();
        assert_eq!(
            read.iter().map(|(name, secret)| (name.as_str(), secret.is_some())).collect::<Vec<_>>(),
            [("api_key", true), ("old", false)]
        );
        for wrong in ["", "{", "[]", r#""planted""#, r#"{"a":1}"#, r#"{"a":{"b":"planted"}}"#] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"api_key": ["planted"]}"#).unwrap();
        let error = super::read(file.path()).unwrap_err();
        assert!(!format!("{error:#}").contains("planted"), "{error:#}");
    }
}
