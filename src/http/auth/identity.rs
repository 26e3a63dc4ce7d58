//! Who a request says it is. A key or token that was found good is remembered for [`REMEMBERED`], so that thousands of enqueues a
//! second do not each ask the database. A revoked key, an ended session, another role and a suspension therefore take effect within
//! that time; what was done through this process takes effect at once.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::{Caller, Identity, Member, Who, unauthenticated};
use crate::{
    domain::{Organization, Slug, access_token::TokenError},
    http::{
        ApiState,
        problem::{Problem, ProblemType},
    },
    store::{StoreError, api_keys, organizations, sessions},
};

/// How long a good key is good without asking the database.
pub const REMEMBERED: Duration = Duration::from_secs(5);
/// More keys than this are not remembered at a time.
const MAX_REMEMBERED: usize = 10_000;
/// `last_used_at` is written at most this often per key.
const TOUCH_EVERY: chrono::Duration = chrono::Duration::minutes(1);

const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// Finds out who is calling and counts the request against the organization's limit. Whether the caller may do what it
/// asks for is the handler's word ([`super::May`], [`super::Operator`]), so that open routes need no key.
pub async fn identify(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    let identity = match bearer(request.headers()) {
        None => None,
        Some(Err(problem)) => Some(Identity::Refused(Arc::new(problem))),
        Some(Ok(token)) if is_operator(&state, token) => Some(Identity::Operator),
        Some(Ok(token)) => match caller(&state, token, request.headers()).await {
            Ok(caller) => Some(Identity::Caller(caller)),
            Err(problem) => Some(Identity::Refused(Arc::new(problem))),
        },
    };
    let mut allowance = None;
    if let Some(Identity::Caller(caller)) = &identity {
        match state.rate_limit.take(caller.organization.id) {
            Ok(left) => allowance = Some(left),
            Err(problem) => return problem.into_response(),
        }
    }
    if let Some(identity) = identity {
        request.extensions_mut().insert(identity);
    }
    let mut response = next.run(request).await;
    if let Some(allowance) = allowance {
        allowance.put_on(&mut response);
    }
    response
}

fn bearer(headers: &HeaderMap) -> Option<Result<&str, Problem>> {
    let value = headers.get(header::AUTHORIZATION)?;
    let token = value.to_str().ok().and_then(|value| value.split_once(' ')).and_then(|(scheme, token)| {
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    });
    Some(token.ok_or_else(|| unauthenticated("the Authorization header is not `Bearer KEY`")))
}

fn is_operator(state: &ApiState, token: &str) -> bool {
    let expected = state.app.config.http.operator_token.as_ref();
    expected.is_some_and(|expected| expected.expose_secret().as_bytes().ct_eq(token.as_bytes()).into())
}

async fn caller(state: &ApiState, token: &str, headers: &HeaderMap) -> Result<Arc<Caller>, Problem> {
    let hash: [u8; 32] = Sha256::digest(token).into();
    let now = state.app.clock.now();
    let caller = match state.keys.recall(&hash, now) {
        Some(caller) => caller,
        None => {
            let (caller, until) = if is_access_token(token) {
                let (caller, until) = by_access_token(state, token, now).await?;
                (caller, Some(until))
            } else {
                (by_key(state, &SecretString::from(token), now).await?, None)
            };
            let caller = Arc::new(caller);
            state.keys.remember(hash, caller.clone(), until);
            caller
        }
    };
    agree(&caller.organization, headers, state.app.config.http.base_domain.as_deref())?;
    Ok(caller)
}

/// Three parts with points between them; a key has none.
fn is_access_token(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// Asks the database. A key is looked up by its SHA-256, so how long that takes tells a guesser nothing.
async fn by_key(state: &ApiState, key: &SecretString, now: DateTime<Utc>) -> Result<Caller, Problem> {
    let mut db = state.app.db.acquire().await?;
    let Some((key, organization)) = api_keys::authenticate(&mut db, key).await? else {
        return Err(unauthenticated("the key is unknown or has been revoked"));
    };
    drop(db);
    if key.last_used_at.is_none_or(|at| now - at >= TOUCH_EVERY) {
        let (pool, key_id) = (state.app.db.clone(), key.id);
        tokio::spawn(async move {
            let touched: Result<(), StoreError> =
                async { api_keys::touch_last_used(&mut *pool.acquire().await?, key_id, now).await }.await;
            if let Err(error) = touched {
                tracing::warn!(%error, "could not note when an API key was last used");
            }
        });
    }
    // A scope that this version of the program does not know opens nothing in it.
    let scopes = key.scopes.iter().filter_map(|scope| scope.parse().ok()).collect();
    Ok(Caller { organization, who: Who::Key { id: key.id, scopes } })
}

/// Believes the token's signature and time, and asks the database for the rest: whether the session has ended, and what the person
/// is in the organization now. Answers until when the token is good, too.
async fn by_access_token(
    state: &ApiState,
    token: &str,
    now: DateTime<Utc>,
) -> Result<(Caller, DateTime<Utc>), Problem> {
    let claims = state.app.tokens.open(token, now)?;
    let revoked =
        || Problem::new(ProblemType::TokenRevoked, "the session has ended, or you have left the organization");
    let mut db = state.app.db.acquire().await?;
    let standing = sessions::standing(&mut db, claims.session).await?.ok_or_else(revoked)?;
    // A session is of one person in one organization; a token that says otherwise was never made by us.
    if (standing.user_id, standing.organization_id) != (claims.sub, claims.organization) {
        return Err(TokenError::Invalid.into());
    }
    let organization = organizations::by_id(&mut db, claims.organization).await?.ok_or_else(revoked)?;
    let member = Member {
        organization: organization.clone(),
        user_id: claims.sub,
        role: standing.role,
        company_id: standing.company_id,
        session: claims.session,
    };
    let until = DateTime::from_timestamp(claims.exp, 0).unwrap_or(now);
    Ok((Caller { organization, who: Who::Person(Box::new(member)) }, until))
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let kind = match error {
            TokenError::Invalid => ProblemType::TokenInvalid,
            TokenError::WrongPurpose => ProblemType::TokenWrongPurpose,
            TokenError::Expired => ProblemType::TokenExpired,
        };
        Self::new(kind, error.to_string())
    }
}

/// Key, `X-Tenant-ID` and subdomain must name the same organization (API-8). The answer is the same whether the other
/// organization exists or not.
fn agree(organization: &Organization, headers: &HeaderMap, base_domain: Option<&str>) -> Result<(), Problem> {
    let mismatch = |what: &str| {
        Problem::new(ProblemType::TenantMismatch, format!("{what} does not name the organization of the key or token"))
    };
    if let Some(named) = headers.get(&TENANT_ID) {
        let named = named.to_str().unwrap_or_default().trim();
        let same = named == organization.slug.as_str() || named.parse() == Ok(organization.id);
        if !same {
            return Err(mismatch("the X-Tenant-ID header"));
        }
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if let (Some(host), Some(base_domain)) = (host, base_domain)
        && let Some(slug) = subdomain(host, base_domain)
        && slug != organization.slug
    {
        return Err(mismatch("the subdomain"));
    }
    Ok(())
}

/// The slug that the `X-Tenant-ID` header or the subdomain names.
pub fn named_organization(headers: &HeaderMap, base_domain: Option<&str>) -> Option<String> {
    if let Some(named) = headers.get(&TENANT_ID) {
        return Some(named.to_str().unwrap_or_default().trim().to_owned());
    }
    let host = headers.get(header::HOST)?.to_str().ok()?;
    subdomain(host, base_domain?).map(Into::into)
}

/// `acme` of `acme.backroom.example:443`. A reserved name such as `api` or `www` names no organization.
fn subdomain(host: &str, base_domain: &str) -> Option<Slug> {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host).to_ascii_lowercase();
    let label = host.strip_suffix(&base_domain.to_ascii_lowercase())?.strip_suffix('.')?;
    Slug::parse(label).ok()
}

/// The keys and tokens that were good a moment ago, by hash.
#[derive(Default)]
pub struct KnownKeys(RwLock<HashMap<[u8; 32], Known>>);

struct Known {
    since: Instant,
    caller: Arc<Caller>,
    /// When a token expires.
    until: Option<DateTime<Utc>>,
}

impl KnownKeys {
    fn recall(&self, hash: &[u8; 32], now: DateTime<Utc>) -> Option<Arc<Caller>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let good = |known: &&Known| known.since.elapsed() < REMEMBERED && known.until.is_none_or(|until| now < until);
        known.get(hash).filter(good).map(|known| known.caller.clone())
    }

    fn remember(&self, hash: [u8; 32], caller: Arc<Caller>, until: Option<DateTime<Utc>>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            known.retain(|_, known| known.since.elapsed() < REMEMBERED);
        }
        if known.len() < MAX_REMEMBERED {
            known.insert(hash, Known { since: Instant::now(), caller, until });
        }
    }

    /// Forgets an organization, so that what was changed through this process counts at once.
    pub fn forget(&self, organization: Uuid) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| known.caller.organization.id != organization);
    }

    /// Forgets a person in every organization.
    pub fn forget_person(&self, user: Uuid) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| known.caller.person().is_none_or(|member| member.user_id != user));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-8
    #[test]
    fn the_subdomain_names_an_organization_unless_it_is_reserved() {
        let slug = |host| subdomain(host, "backroom.example").map(|slug| slug.as_str().to_owned());
        assert_eq!(slug("acme.backroom.example:8443").as_deref(), Some("acme"));
        assert_eq!(slug("ACME.Backroom.example").as_deref(), Some("acme"));
        for nobody in [
            "backroom.example",
            "www.backroom.example",
            "api.backroom.example",
            "acme.other.example",
            "acmebackroom.example",
            "127.0.0.1:4000",
            "a.b.backroom.example",
        ] {
            assert_eq!(slug(nobody), None, "{nobody}");
        }
    }
}
