//! Who is calling: a program by its organization's API key (AUTH-3), a person by an access token (AUTH-2), or the operator by the
//! token of the configuration. What they may do says [`crate::domain::policy`]; a handler names the action by the extractor it takes:
//!
//! | extractor | who gets through |
//! | --- | --- |
//! | [`May<P>`] | a key with the scope, or a person whom the policy gives all of the organization's records |
//! | [`OfCompany<P>`] | the same, and a customer; the handler keeps to [`OfCompany::company`] |
//! | [`OfSteps<P>`] | as [`May<P>`], and who has steps of their own; whose a step is, [`Workflow::act`](crate::domain::Workflow::act) asks |
//! | [`Person<P>`] | a person whom the policy gives any records; the handler asks which, such as whose workspace it is |
//! | [`SignedIn`] | any person |
//! | [`Within<P>`] | as [`May<P>`], or the operator |
//! | [`Operator`] | the operator |
//!
//! A key or token that was found good is remembered for [`REMEMBERED`], so that thousands of enqueues a second do not each ask the
//! database. A revoked key, an ended session, another role and a suspension therefore take effect within that time; what was done
//! through this process takes effect at once.

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
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::{
    ApiState,
    problem::{Problem, ProblemType},
};
use crate::{
    domain::{Action, Organization, Reach, Role, Scope, Slug, access_token::TokenError, policy},
    store::{StoreError, api_keys, organizations, sessions},
};

/// How long a good key is good without asking the database.
pub const REMEMBERED: Duration = Duration::from_secs(5);
/// More keys than this are not remembered at a time.
const MAX_REMEMBERED: usize = 10_000;
/// `last_used_at` is written at most this often per key.
const TOUCH_EVERY: chrono::Duration = chrono::Duration::minutes(1);

const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// Who acts for an organization: one of its programs or one of its people.
#[derive(Debug)]
pub struct Caller {
    pub organization: Organization,
    who: Who,
}

#[derive(Debug)]
enum Who {
    Key { id: Uuid, scopes: Vec<Scope> },
    Person(Box<Member>),
}

/// A signed-in person, in the organization that they signed in to.
#[derive(Clone, Debug)]
pub struct Member {
    pub organization: Organization,
    pub user_id: Uuid,
    pub role: Role,
    /// A customer's company; nobody else has one.
    pub company_id: Option<Uuid>,
    /// The sign-in.
    pub session: Uuid,
}

impl Member {
    /// The person as events name them.
    pub fn actor(&self) -> String {
        format!("user:{}", self.user_id)
    }
}

impl Caller {
    /// The caller as events name it.
    pub fn actor(&self) -> String {
        match &self.who {
            Who::Key { id, .. } => format!("api_key:{id}"),
            Who::Person(member) => member.actor(),
        }
    }

    /// The caller's partition of the queue.
    pub fn tenant(&self) -> &str {
        self.organization.slug.as_str()
    }

    /// Whether the caller may do all that a key with the scope may.
    pub fn has(&self, scope: Scope) -> bool {
        self.reach(scope.into()) == Reach::All
    }

    /// The person; `None`: a program.
    pub fn person(&self) -> Option<&Member> {
        match &self.who {
            Who::Key { .. } => None,
            Who::Person(member) => Some(member),
        }
    }

    /// The program's key; `None`: a person.
    pub fn key(&self) -> Option<Uuid> {
        match &self.who {
            Who::Key { id, .. } => Some(*id),
            Who::Person(_) => None,
        }
    }

    /// Whether the caller may see the field (AUTH-4). A key sees what its scope opens.
    pub fn may_see(&self, field: policy::Field) -> bool {
        self.person().is_none_or(|member| policy::may_see(member.role, field))
    }

    /// Whose records the action reaches.
    fn reach(&self, action: Action) -> Reach {
        match &self.who {
            Who::Key { scopes, .. } if action.scope().is_some_and(|scope| scopes.contains(&scope)) => Reach::All,
            Who::Key { .. } => Reach::Nothing,
            Who::Person(member) => policy::reach(member.role, action),
        }
    }

    /// Whose records the action reaches; refused if there are none, or if it writes and the organization is read-only (TEN-5).
    fn check(&self, action: Action) -> Result<Reach, Problem> {
        let reach = self.reach(action);
        if reach == Reach::Nothing {
            return Err(self.refused(action));
        }
        if action.writes() && self.organization.is_held() {
            let detail =
                format!("the organization is {}; it can be read only", self.organization.billing_status.as_str());
            return Err(Problem::new(ProblemType::OrganizationSuspended, detail));
        }
        Ok(reach)
    }

    fn refused(&self, action: Action) -> Problem {
        let detail = match &self.who {
            Who::Key { .. } if action.scope().is_some() => format!("the key lacks the scope {action}"),
            Who::Key { .. } => "this is for people who have signed in, not for keys".to_owned(),
            Who::Person(member) => format!("the role {} does not include {action}", member.role),
        };
        Problem::new(ProblemType::Forbidden, detail)
    }
}

/// An action as a type, so that a handler's signature says what it does.
pub trait Permission {
    const ACTION: Action;
}

macro_rules! permissions {
    ($($name:ident),* $(,)?) => {
        $(
            /// The action of the same name.
            pub struct $name;
            impl Permission for $name {
                const ACTION: Action = Action::$name;
            }
        )*
    };
}
permissions!(
    JobsRead,
    JobsWrite,
    BillingRead,
    BillingWrite,
    OrganizationRead,
    OrganizationWrite,
    MembersRead,
    MembersWrite,
    WorkspacesRead,
    WorkspacesWrite,
    ConversationsRead,
    ConversationsWrite,
    TasksRead,
    TasksWrite,
    RequestsRead,
    RequestsWrite,
    EventsRead,
    IntegrationsRead,
    IntegrationsWrite,
    PeopleRead,
    PeopleWrite,
    AssetsRead,
    AssetsWrite,
    WorkflowsRead,
    WorkflowsWrite,
    WorkflowsAdvance,
);

/// A caller that may do what the permission says with all of the organization's records.
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
        let caller = caller_of(parts)?;
        if caller.check(P::ACTION)? != Reach::All {
            return Err(caller.refused(P::ACTION));
        }
        Ok(Self { caller, permission: PhantomData })
    }
}

/// A caller that may do what the permission says with all of the organization's records, or with one company's.
pub struct OfCompany<P>(May<P>, Option<Uuid>);

impl<P> OfCompany<P> {
    /// The company whose records there are for this caller; `None`: all.
    pub fn company(&self) -> Option<Uuid> {
        self.1
    }

    /// Whether the company's records exist for this caller.
    pub fn sees(&self, company: Uuid) -> bool {
        self.1.is_none_or(|own| own == company)
    }
}

impl<P> Deref for OfCompany<P> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<P: Permission, S: Send + Sync> FromRequestParts<S> for OfCompany<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = caller_of(parts)?;
        let company = match caller.check(P::ACTION)? {
            Reach::All => None,
            // Without a company there would be no limit, so that is a refusal.
            Reach::OwnCompany => {
                let company = caller.person().and_then(|member| member.company_id);
                Some(company.ok_or_else(|| caller.refused(P::ACTION))?)
            }
            Reach::OwnWorkspaces | Reach::OwnSteps | Reach::Nothing => return Err(caller.refused(P::ACTION)),
        };
        Ok(Self(May { caller, permission: PhantomData }, company))
    }
}

/// A caller that may do what the permission says with all steps of the organization's workflows, or with their own: whose a step is,
/// its workflow says.
pub struct OfSteps<P>(May<P>);

impl<P> Deref for OfSteps<P> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<P: Permission, S: Send + Sync> FromRequestParts<S> for OfSteps<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = caller_of(parts)?;
        match caller.check(P::ACTION)? {
            Reach::All | Reach::OwnSteps => Ok(Self(May { caller, permission: PhantomData })),
            Reach::OwnCompany | Reach::OwnWorkspaces | Reach::Nothing => Err(caller.refused(P::ACTION)),
        }
    }
}

/// A signed-in person who may do what the permission says, with some records at least: whether a workspace is theirs, its rows
/// say.
pub struct Person<P> {
    caller: Arc<Caller>,
    member: Member,
    permission: PhantomData<P>,
}

impl<P> Person<P> {
    /// The person as a caller among others.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl<P> Deref for Person<P> {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

impl<P: Permission, S: Send + Sync> FromRequestParts<S> for Person<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = caller_of(parts)?;
        let member = person_of(&caller)?;
        caller.check(P::ACTION)?;
        Ok(Self { caller, member, permission: PhantomData })
    }
}

/// Any signed-in person.
pub struct SignedIn(pub Member);

impl<S: Send + Sync> FromRequestParts<S> for SignedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        caller_of(parts).and_then(|caller| person_of(&caller)).map(Self)
    }
}

fn caller_of(parts: &Parts) -> Result<Arc<Caller>, Problem> {
    match parts.extensions.get::<Identity>() {
        Some(Identity::Caller(caller)) => Ok(caller.clone()),
        Some(Identity::Operator) => Err(Problem::new(
            ProblemType::Forbidden,
            "the operator's token opens no organization; use a key of the organization",
        )),
        Some(Identity::Refused(problem)) => Err((**problem).clone()),
        None => Err(unauthenticated("there is no `Authorization: Bearer KEY` header")),
    }
}

fn person_of(caller: &Caller) -> Result<Member, Problem> {
    let no_person = || Problem::new(ProblemType::Forbidden, "this is for people who have signed in, not for keys");
    caller.person().cloned().ok_or_else(no_person)
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
            Some(Identity::Caller(_)) => Err(Problem::new(
                ProblemType::Forbidden,
                "this needs the operator's token; no organization's key or person",
            )),
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

/// Whose an idempotency key is: a person's own, or an organization's programs' (a key of theirs may be replaced between two tries). No
/// client can write such a beginning into a key, which has visible characters only.
pub fn owner_of_keys(request: &Request) -> String {
    match request.extensions().get::<Identity>() {
        Some(Identity::Caller(caller)) => match caller.person() {
            Some(person) => format!("\u{2}user:{} ", person.user_id),
            None => "\u{2}program ".to_owned(),
        },
        Some(Identity::Operator) => "\u{2}operator ".to_owned(),
        Some(Identity::Refused(_)) | None => "\u{1}".to_owned(),
    }
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
