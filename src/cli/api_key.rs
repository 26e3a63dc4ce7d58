//! `backroom api-key …`: keys with which programs call the API (AUTH-3).

use std::process::ExitCode;

use clap::Subcommand;
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::{
    exit::{not_found, usage},
    output::{Output, cell, maybe, time},
    session::Session,
};
use crate::{
    domain::{Scope, field_error::one_line},
    store::api_keys,
};

#[derive(Subcommand)]
pub enum ApiKey {
    /// Make a key; it is shown this once
    #[command(
        after_help = "Example:\n  backroom api-key create --org acme --name billing --scopes jobs:read,jobs:write --json"
    )]
    Create {
        /// Slug of the organization that the key opens
        #[arg(long)]
        org: String,
        /// What people call it
        #[arg(long, default_value = "default")]
        name: String,
        /// What it may do, separated by commas; everything if left out
        #[arg(long, value_delimiter = ',', default_values_t = Scope::ALL.iter().copied())]
        scopes: Vec<Scope>,
    },
    /// List an organization's keys
    #[command(after_help = "Example:\n  backroom api-key list --org acme")]
    List {
        /// Slug of the organization
        #[arg(long)]
        org: String,
    },
    /// Revoke a key at once and for ever
    #[command(after_help = "Example:\n  backroom api-key revoke 01980a3c-4f00-7000-8000-000000000000 --org acme")]
    Revoke {
        /// Id of the key, from `api-key list`
        id: Uuid,
        /// Slug of the organization
        #[arg(long)]
        org: String,
    },
}

pub async fn run(session: &Session, command: ApiKey, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        ApiKey::Create { org, name, scopes } => {
            one_line(&name, 100).map_err(|error| usage(format!("the name {error}")))?;
            let organization = session.organization(&org).await?;
            let scopes: Vec<String> = scopes.iter().map(ToString::to_string).collect();
            let mut db = session.connection().await?;
            let (api_key, key) = api_keys::create(&mut db, &organization, &name, &scopes, session.clock.now()).await?;
            let document = serde_json::json!({
                "key": key.expose_secret(), "id": api_key.id, "name": api_key.name, "scopes": api_key.scopes,
            });
            output.answer(&document, || {
                format!("{}\nKeep it: it is not shown again. Its id is {}.", key.expose_secret(), api_key.id)
            })?;
        }
        ApiKey::List { org } => {
            let organization = session.organization(&org).await?;
            let keys = api_keys::list(&mut *session.connection().await?, organization.id).await?;
            output.answer(&serde_json::json!({ "api_keys": keys }), || {
                let rows = keys.iter().map(|key| {
                    let (used, revoked) = (maybe(key.last_used_at.map(time)), maybe(key.revoked_at.map(time)));
                    [
                        cell(key.id),
                        cell(&key.name),
                        cell(format!("{}…", key.prefix)),
                        cell(key.scopes.join(",")),
                        used,
                        revoked,
                    ]
                });
                let header = ["id", "name", "key", "scopes", "last used", "revoked"];
                output.table(
                    header,
                    rows.collect(),
                    &format!("{org} has no API key; make one with `backroom api-key create`"),
                )
            })?;
        }
        ApiKey::Revoke { id, org } => {
            let organization = session.organization(&org).await?;
            let mut db = session.connection().await?;
            if !api_keys::revoke(&mut db, organization.id, id, session.clock.now()).await? {
                return Err(not_found(format!("{org} has no key {id} that is not revoked already")));
            }
            output.answer(&serde_json::json!({ "id": id, "revoked": true }), || format!("key {id} is revoked"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
