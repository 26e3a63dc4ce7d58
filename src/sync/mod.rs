//! Reads what third parties have, page by page, so that it can be left alone (SYNC-2, SYNC-3, SYNC-6, SYNC-13).
//!
//! `engine` runs an integration, `budget` says when it may call, `tokens` with what, `take` hands on what was read to a
//! [`crate::sync::Receiver`], which is the jobs', and `sieve` tells it what is new. A connector of [`crate::clients`] knows nothing of all this.

mod budget;
mod engine;
mod sieve;
mod take;
#[cfg(test)]
mod tests;
mod tokens;

use sqlx::PgPool;
use uuid::Uuid;

use self::tokens::NoPass;
pub use self::{
    engine::{BACKOFF, End, Report, Source, run},
    sieve::{Sieved, Wanted, sieve},
    take::{Batch, Receiver},
};
use crate::{
    clients::{
        connector::{Access, Connector, ConnectorError},
        http::Http,
    },
    domain::{Clock, Organization},
    store::Sealer,
};

/// Where an integration lives.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    pub db: &'a PgPool,
    pub organization: &'a Organization,
    pub sealer: Sealer<'a>,
    pub http: &'a Http,
    pub clock: &'a Clock,
}

/// Makes the connector's test call (SYNC-5), with an access token that is good; a refused one is renewed once.
pub async fn test(
    site: &Site<'_>,
    integration_id: Uuid,
    connector: &dyn Connector,
) -> anyhow::Result<Result<String, ConnectorError>> {
    let mut refused = None;
    loop {
        let (access, version) = match pass(site, integration_id, connector, refused).await? {
            Ok(pass) => pass,
            Err(error) => return Ok(Err(error)),
        };
        match connector.test(&access).await {
            Err(ConnectorError::Unauthorized(_)) if version.is_some() && refused.is_none() => refused = version,
            tested => return Ok(tested),
        }
    }
}

/// What calls are made with outside of a run, and for OAuth which token it is: to be named as `refused` if the vendor does not take it.
pub async fn pass(
    site: &Site<'_>,
    integration_id: Uuid,
    connector: &dyn Connector,
    refused: Option<i64>,
) -> anyhow::Result<Result<(Access, Option<i64>), ConnectorError>> {
    let Some(oauth) = connector.oauth() else { return Ok(Ok((Access::default(), None))) };
    Ok(match tokens::pass(site, integration_id, oauth, refused).await? {
        Ok(pass) => Ok((pass.access, Some(pass.version))),
        Err(NoPass::Refused(error)) => Err(error),
        Err(NoPass::Gone) => Err(ConnectorError::Credentials("the integration does not exist any more".to_owned())),
        Err(NoPass::Wait(_)) => {
            Err(ConnectorError::Transient("the access token is being renewed at this moment; try again".to_owned()))
        }
    })
}
