//! Who is calling: an organization by its API key (AUTH-3), or the operator by the token of the configuration.
//!
//! A key that was found good is remembered for [`REMEMBERED`], so that thousands of enqueues a second do not each ask the
//! database. A revoked key, a suspension and a change of scopes therefore take effect within that time.

use std::{
    collections::HashMap,
    marker::PhantomData,
    ops::Deref,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderName, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::{
    ApiState,
    problem::{Problem, ProblemType},
};
use crate::{
    domain::{Organization, Scope, Slug},
    store::{StoreError, api_keys},
};

/// How long a good key is good without asking the database.
pub const REMEMBERED: Duration = Duration::from_secs(5);
/// More keys than this are not remembered at a time.
const MAX_REMEMBERED: usize = 10_000;
/// `last_used_at` is written at most this often per key.
const TOUCH_EVERY: chrono::Duration = chrono::Duration::minutes(1);

const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// An organization's program, known by its key.
#[derive(Debug)]
pub struct Caller {
    pub organization: Organization,
    pub key_id: Uuid,
    scopes: Vec<Scope>,
}

impl Caller {
    /// The caller as events name it.
    pub fn actor(&self) -> String {
        format!("api_key:{}", self.key_id)
    }

    /// The caller's partition of the queue.
    pub fn tenant(&self) -> &str {
        self.organization.slug.as_str()
    }

    /// Whether the key has the scope.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    fn check(&self, scope: Scope) -> Result<(), Problem> {
        if !self.has(scope) {
            let detail = format!("the key lacks the scope {}", scope.as_str());
            return Err(Problem::new(ProblemType::Forbidden, detail));
        }
        if scope.writes() && self.organization.is_held() {
            let detail =
                format!("the organization is {}; it can be read only", self.organization.billing_status.as_str());
            return Err(Problem::new(ProblemType::OrganizationSuspended, detail));
        }
        Ok(())
    }
}

/// A scope as a type, so that a handler's signature says what it needs.
pub trait Permission {
    const SCOPE: Scope;
}

macro_rules! permissions {
    ($($name:ident),*) => {
        $(
            /// The scope of the same name.
            pub struct $name;
            impl Permission for $name {
                const SCOPE: Scope = Scope::$name;
            }
        )*
    };
}
permissions!(JobsRead, JobsWrite, BillingRead, BillingWrite, OrganizationRead, OrganizationWrite);

/// A caller that may do what the permission says. Writing needs an organization that is not suspended (TEN-5).
pub struct May<P> {
    pub caller: Arc<Caller>,
    permission: PhantomData<P>,
}

impl<P> Deref for May<P> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl<P: Permission, S: Send + Sync> FromRequestParts<S> for May<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = match parts.extensions.get::<Identity>() {
            Some(Identity::Caller(caller)) => caller.clone(),
            Some(Identity::Operator) => {
                return Err(Problem::new(
                    ProblemType::Forbidden,
                    "the operator's token opens no organization; use a key of the organization",
                ));
            }
            Some(Identity::Refused(problem)) => return Err((**problem).clone()),
            None => return Err(unauthenticated("there is no `Authorization: Bearer KEY` header")),
        };
        caller.check(P::SCOPE)?;
        Ok(Self { caller, permission: PhantomData })
    }
}

/// The operator of the installation.
pub struct Operator;

impl FromRequestParts<ApiState> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        if state.app.config.http.operator_token.is_none() {
            let detail = "operator endpoints are closed here; set http.operator_token to open them";
            return Err(Problem::new(ProblemType::Forbidden, detail));
        }
        match parts.extensions.get::<Identity>() {
            Some(Identity::Operator) => Ok(Self),
            Some(Identity::Caller(_)) => {
                Err(Problem::new(ProblemType::Forbidden, "this needs the operator's token, not an organization's key"))
            }
            Some(Identity::Refused(problem)) => Err((**problem).clone()),
            None => Err(unauthenticated("there is no `Authorization: Bearer TOKEN` header")),
        }
    }
}

/// The operator everywhere, or an organization's program within its organization.
pub struct Within<P>(Option<May<P>>);

impl<P> Within<P> {
    /// The organization's program; `None`: the operator.
    pub fn caller(&self) -> Option<&Caller> {
        self.0.as_deref()
    }

    /// The partition of the queue that it may see; `None`: all of it.
    pub fn tenant(&self) -> Option<&str> {
        self.caller().map(Caller::tenant)
    }
}

impl<P: Permission> FromRequestParts<ApiState> for Within<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        if let Some(Identity::Operator) = parts.extensions.get::<Identity>() {
            return Ok(Self(None));
        }
        May::from_request_parts(parts, state).await.map(|may| Self(Some(may)))
    }
}

/// Who the request says it is; a request extension.
#[derive(Clone)]
enum Identity {
    Caller(Arc<Caller>),
    Operator,
    Refused(Arc<Problem>),
}

fn unauthenticated(detail: &'static str) -> Problem {
    Problem::new(ProblemType::Unauthenticated, detail)
}

/// Finds out who is calling and counts the request against the organization's limit. Whether the caller may do what it
/// asks for is the handler's word ([`May`], [`Operator`]), so that open routes need no key.
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
    let caller = match state.keys.recall(&hash) {
        Some(caller) => caller,
        None => {
            let caller = look_up(state, &SecretString::from(token)).await?;
            state.keys.remember(hash, caller.clone());
            caller
        }
    };
    agree(&caller.organization, headers, state.app.config.http.base_domain.as_deref())?;
    Ok(caller)
}

/// Asks the database. A key is looked up by its SHA-256, so how long that takes tells a guesser nothing.
async fn look_up(state: &ApiState, key: &SecretString) -> Result<Arc<Caller>, Problem> {
    let mut db = state.app.db.acquire().await?;
    let Some((key, organization)) = api_keys::authenticate(&mut db, key).await? else {
        return Err(unauthenticated("the key is unknown or has been revoked"));
    };
    drop(db);
    let now = state.app.clock.now();
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
    Ok(Arc::new(Caller { organization, key_id: key.id, scopes }))
}

/// Key, `X-Tenant-ID` and subdomain must name the same organization (API-8). The answer is the same whether the other
/// organization exists or not.
fn agree(organization: &Organization, headers: &HeaderMap, base_domain: Option<&str>) -> Result<(), Problem> {
    let mismatch = |what: &str| {
        Problem::new(ProblemType::TenantMismatch, format!("{what} does not name the organization of the key"))
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

/// `acme` of `acme.backroom.example:443`. A reserved name such as `api` or `www` names no organization.
fn subdomain(host: &str, base_domain: &str) -> Option<Slug> {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host).to_ascii_lowercase();
    let label = host.strip_suffix(&base_domain.to_ascii_lowercase())?.strip_suffix('.')?;
    Slug::parse(label).ok()
}

/// The keys that were good a moment ago, by hash.
#[derive(Default)]
pub struct KnownKeys(RwLock<HashMap<[u8; 32], Known>>);

struct Known {
    since: Instant,
    caller: Arc<Caller>,
}

impl KnownKeys {
    fn recall(&self, hash: &[u8; 32]) -> Option<Arc<Caller>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(hash).filter(|known| known.since.elapsed() < REMEMBERED).map(|known| known.caller.clone())
    }

    fn remember(&self, hash: [u8; 32], caller: Arc<Caller>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            known.retain(|_, known| known.since.elapsed() < REMEMBERED);
        }
        if known.len() < MAX_REMEMBERED {
            known.insert(hash, Known { since: Instant::now(), caller });
        }
    }

    /// Forgets an organization, so that what was changed through this process counts at once.
    pub fn forget(&self, organization: Uuid) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| known.caller.organization.id != organization);
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
