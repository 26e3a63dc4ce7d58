//! Access tokens (SYNC-6): renewed before they expire and when one is refused, once across all nodes.
//!
//! Who renews says so first ([`store::ask`]), which keeps the others waiting and is the intent; then asks the vendor; then stores the
//! answer; and only then uses it. That happens in a task of its own, so that a job that is cancelled or runs out of time between the
//! vendor's answer and the commit loses nothing. A process that dies there does: see `docs/decisions/0023-tokens.md`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use tokio::time::{Instant, sleep};
use tracing::Instrument;
use uuid::Uuid;

use super::Site;
use crate::{
    clients::{
        connector::{Access, ConnectorError, Credentials, OAuth},
        http::Http,
        oauth2::{self, Granted, TokenError},
    },
    domain::{Clock, Organization},
    store::{
        Sealer, StoreError,
        tokens::{self as store, Stored, Tokens},
    },
    tenant,
    vault::Vault,
};

/// Before it expires by this much, or by half of its lifetime, an access token is renewed.
const AHEAD: Duration = Duration::from_secs(60);
/// No vendor's tokens end sooner; one that says so would have it asked without end.
const SHORTEST: Duration = Duration::from_secs(10);
/// So long a job waits for another that renews; then it comes back later.
const PATIENCE: Duration = Duration::from_secs(10);
const LATER: Duration = Duration::from_secs(15);
/// Beyond the time limit of the request itself, what the answer may take to be stored.
const TO_STORE: Duration = Duration::from_secs(15);

/// An access token, and which of the integration's it is.
#[derive(Clone)]
pub struct Pass {
    pub access: Access,
    pub version: i64,
}

/// Why there is none.
#[derive(Debug)]
pub enum NoPass {
    /// Another renews it; come back after this time.
    Wait(Duration),
    Refused(ConnectorError),
    /// There is no such integration any more.
    Gone,
}

/// An access token that is good, as far as is known; not the one of version `refused`.
pub async fn pass(
    site: &Site<'_>,
    integration_id: Uuid,
    oauth: &OAuth,
    refused: Option<i64>,
) -> anyhow::Result<Result<Pass, NoPass>> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        let mut tx = tenant::begin(site.db, site.organization).await?;
        let Some(stored) = store::read(&mut tx, site.sealer, integration_id).await? else {
            return Ok(Err(NoPass::Gone));
        };
        tx.commit().await?;
        let now = site.clock.now();
        // While one renews it the others use what is still good.
        let good = stored.tokens.as_ref().filter(|tokens| {
            Some(stored.version) != refused
                && (now < tokens.renew_at || (stored.is_being_asked && now < tokens.expires_at))
        });
        if let Some(tokens) = good {
            return Ok(Ok(Pass { access: Access { bearer: Some(tokens.access()) }, version: stored.version }));
        }
        if stored.is_being_asked {
            if began.elapsed() > PATIENCE {
                return Ok(Err(NoPass::Wait(LATER)));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
            continue;
        }
        let renewal = Renewal::of(site, integration_id, oauth, stored);
        match tokio::spawn(renewal.run().in_current_span()).await?? {
            Renewed::Yes => {}
            Renewed::ByAnother => sleep(pause).await,
            Renewed::Refused(why) => return Ok(Err(NoPass::Refused(why))),
        }
    }
}

enum Renewed {
    Yes,
    ByAnother,
    Refused(ConnectorError),
}

/// All that a renewal needs, its own: the job that wants it may end before.
struct Renewal {
    db: sqlx::PgPool,
    organization: Organization,
    vault: Vault,
    http: Http,
    clock: Clock,
    oauth: OAuth,
    integration_id: Uuid,
    holder: Uuid,
    stored: Stored,
}

impl Renewal {
    fn of(site: &Site<'_>, integration_id: Uuid, oauth: &OAuth, stored: Stored) -> Self {
        Self {
            db: site.db.clone(),
            organization: site.organization.clone(),
            vault: site.sealer.vault.clone(),
            http: site.http.clone(),
            clock: site.clock.clone(),
            oauth: oauth.clone(),
            integration_id,
            holder: Uuid::now_v7(),
            stored,
        }
    }

    async fn run(self) -> anyhow::Result<Renewed> {
        let (id, version) = (self.integration_id, self.stored.version);
        let for_s = (self.http.timeout() + TO_STORE).as_secs_f64();
        let mut tx = tenant::begin(&self.db, &self.organization).await?;
        let asking = store::ask(&mut tx, id, (version, self.holder), for_s, self.clock.now()).await?;
        tx.commit().await?;
        if !asking {
            return Ok(Renewed::ByAnother);
        }
        let refresh = self.stored.tokens.as_ref().and_then(Tokens::refresh).or_else(|| self.given());
        let answer = oauth2::ask(&self.http, &self.oauth, refresh.as_ref(), self.clock.now()).await;
        let (came, mut pause) = (Instant::now(), Duration::from_millis(100));
        let stored = loop {
            match self.keep(&answer).await {
                // The vendor says it once: a database that is away for a moment must not cost the grant.
                Err(error) if came.elapsed() + pause < TO_STORE => {
                    tracing::warn!(%error, "could not store the answer to a request for an access token; it is tried again");
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                kept => break kept?,
            }
        };
        Ok(match answer {
            Ok(_) if stored => Renewed::Yes,
            Ok(_) => Renewed::ByAnother,
            Err(error) => Renewed::Refused(self.refused(error)),
        })
    }

    /// Stores the vendor's answer. False if others have tokens already; twice is fine.
    async fn keep(&self, answer: &Result<Granted, TokenError>) -> Result<bool, StoreError> {
        let (id, version) = (self.integration_id, self.stored.version);
        let sealer = Sealer::new(&self.vault, self.organization.slug.as_str());
        let mut tx = tenant::begin(&self.db, &self.organization).await?;
        let stored = match answer {
            Ok(granted) => {
                let tokens = tokens(granted, self.stored.tokens.as_ref(), self.clock.now());
                store::store(&mut tx, sealer, id, version, &tokens).await?
            }
            Err(error) => {
                let answered = !matches!(error, TokenError::Unknown(_));
                store::release(&mut tx, id, (version, self.holder), answered).await?;
                true
            }
        };
        tx.commit().await?;
        Ok(stored)
    }

    /// The refresh token that the integration was made with.
    fn given(&self) -> Option<SecretString> {
        Credentials::parse(self.stored.credentials.clone()).ok()?.get("refresh_token")
    }

    fn refused(&self, error: TokenError) -> ConnectorError {
        let host = match error {
            TokenError::Refused(why) | TokenError::Unknown(why) => return why,
            TokenError::Revoked(host) => host,
        };
        let mend = "authorize Backroom there anew and store the new credentials";
        ConnectorError::Credentials(match self.stored.asked_at {
            Some(at) => format!(
                "{host} does not take the refresh token any more. New ones were asked for at {}, and the answer was lost with \
                 the process or the connection that waited for it; {mend}",
                at.format("%Y-%m-%d %H:%M:%S UTC")
            ),
            None => format!("{host} says that the access was revoked or has expired; {mend}"),
        })
    }
}

/// What is stored of an answer. A vendor that gives no new refresh token goes on taking the old one.
fn tokens(granted: &Granted, before: Option<&Tokens>, now: DateTime<Utc>) -> Tokens {
    let after = |lifetime: Duration| {
        chrono::Duration::from_std(lifetime).ok().and_then(|lifetime| now.checked_add_signed(lifetime)).unwrap_or(now)
    };
    let kept = before.and_then(Tokens::refresh);
    let refresh = granted.refresh_token.as_ref().or(kept.as_ref());
    let lifetime = granted.lifetime.max(SHORTEST);
    let renew_after = lifetime - AHEAD.min(lifetime / 2);
    Tokens::new(&granted.access_token, refresh, (after(lifetime), after(renew_after)))
}
