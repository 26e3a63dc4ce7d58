//! Signing in, going on and signing out (AUTH-2, AUTH-5).
//!
//! Who guesses learns nothing: an address that nobody has and a wrong password get the same answer after the same work, and every
//! try is counted before the password is looked at ([`crate::store::sign_in_tries`]).

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Duration, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::named_organization,
    extract::Posted,
    idempotency::{Answer, Begun, begin},
    network::{Network, too_many},
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::{
    domain::{Claims, EmailAddress, FieldErrors, Organization, Password, PasswordHash, Role, password::Verdict},
    store::{
        events::{self, NewEvent},
        memberships::{self, Membership},
        organizations,
        sessions::{self, EndReason, Refresh, Rotated},
        sign_in_tries::{self, Try},
        users,
    },
    tenant::TenantTx,
};

const NO_STORE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(sign_in)).routes(routes!(refresh)).routes(routes!(sign_out))
}

/// Who signs in, and where to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignInRequest {
    #[schema(format = Email, example = "anna@acme.example")]
    email: String,
    #[schema(value_type = String, format = Password, max_length = 200)]
    password: SecretString,
    /// Slug. May be left out by who belongs to one organization, and where `X-Tenant-ID` or the subdomain names it.
    #[schema(example = "acme")]
    organization: Option<String>,
}

/// A refresh token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RefreshRequest {
    #[schema(value_type = String, max_length = 200)]
    refresh_token: SecretString,
}

/// A session's tokens.
#[derive(Serialize, ToSchema)]
struct Tokens {
    /// For `Authorization: Bearer …`: a JSON Web Token that nobody needs to look into.
    access_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds that the access token is good for.
    #[schema(example = 3600)]
    expires_in: u32,
    /// Good once, for the next pair.
    refresh_token: String,
    refresh_expires_at: DateTime<Utc>,
    user_id: Uuid,
    /// Slug.
    organization: String,
    role: Role,
    /// A customer's company.
    company_id: Option<Uuid>,
}

/// Signs in with address and password.
///
/// Takes no Idempotency-Key: each sign-in is a session of its own. Tries are limited per network and per address.
#[utoipa::path(
    post, path = "/sign-in", tag = "people", operation_id = "sign_in", security(()),
    request_body = SignInRequest,
    responses((status = 200, description = "Signed in", body = Tokens), Problems)
)]
async fn sign_in(
    State(state): State<ApiState>,
    network: Network,
    headers: HeaderMap,
    posted: Posted<SignInRequest>,
) -> Result<Response, Problem> {
    if posted.idempotency.is_some() {
        let message = "is not taken here; each sign-in is a session of its own";
        return Err(Problem::field("Idempotency-Key", "invalid", message));
    }
    state.sign_ins.take(&network)?;
    let SignInRequest { email, password, organization } = posted.body;
    let mut errors = FieldErrors::default();
    let email = errors.check("email", EmailAddress::parse(&email));
    let password = errors.check("password", Password::typed(password.expose_secret()));
    let (Some(email), Some(password)) = (email, password) else { return Err(errors.into()) };

    let now = state.app.clock.now();
    if let Try::Wait(wait) =
        sign_in_tries::begin(&mut *state.app.db.acquire().await?, &email, network.as_str(), now).await?
    {
        return Err(too_many(wait.num_seconds().unsigned_abs()));
    }
    let named = match organization {
        Some(slug) => Some(slug),
        None => named_organization(&headers, state.app.config.http.base_domain.as_deref()),
    };
    // A password that is changed, or hashed anew, while this one is verified is looked at once more.
    for _ in 0..2 {
        let person = verified(&state, &email, &password).await?;
        let mut db = state.app.db.acquire().await?;
        sign_in_tries::succeeded(&mut db, &email, network.as_str(), now).await?;
        let memberships = memberships::of_user(&mut db, person.user_id).await?;
        drop(db);
        let (membership, organization) = choose(memberships, named.as_deref())?;
        let Some(session) = begin_session(&state, &person, &organization, now).await? else { continue };
        let tokens = tokens(&state, session, &organization, (membership.role, membership.company_id), now);
        return Ok(([NO_STORE], Json(tokens)).into_response());
    }
    Err(refused())
}

fn refused() -> Problem {
    Problem::new(ProblemType::SignInRefused, "there is nobody with this address and this password")
}

/// Whose password was right.
struct Verified {
    user_id: Uuid,
    stored: PasswordHash,
    /// The stored hash is of another cost than today's; this one replaces it.
    rehash: Option<PasswordHash>,
}

/// `None`: what was verified is no longer so.
async fn begin_session(
    state: &ApiState,
    person: &Verified,
    organization: &Organization,
    now: DateTime<Utc>,
) -> Result<Option<Refresh>, Problem> {
    let (user_id, mut password) = (person.user_id, &person.stored);
    let mut tx = state.app.db.begin().await?;
    if let Some(new) = &person.rehash
        && users::set_password(&mut tx, user_id, Some(password), new, now).await?
    {
        password = new;
    }
    let place = (organization.id, user_id);
    let begun = sessions::begin_signed_in(&mut tx, place, password, now, refresh_lasts(state)).await?;
    let Some(session) = begun else { return Ok(None) };
    let mut tx = TenantTx::enter(tx, organization).await?;
    let event = NewEvent {
        topic: format!("member:{user_id}"),
        kind: "member.signed_in",
        payload: json!({ "session": session.session_id }),
        actor: &format!("user:{user_id}"),
    };
    events::append(&mut tx, &event, now).await?;
    tx.commit().await?;
    Ok(Some(session))
}

/// The same statements and the same hashing, whether the address is known or not.
async fn verified(state: &ApiState, email: &EmailAddress, password: &Password) -> Result<Verified, Problem> {
    // The connection is somebody else's while the password is hashed.
    let found = users::credentials(&mut *state.app.db.acquire().await?, email).await?;
    let (user_id, stored) = found.map_or((None, None), |found| (Some(found.user_id), found.password));
    let verdict = state.app.verify_password(password.clone(), stored.clone()).await.map_err(Problem::internal)?;
    let (Some(user_id), Some(stored), Verdict::Right | Verdict::RightAtAnotherCost) = (user_id, stored, verdict) else {
        return Err(refused());
    };
    let rehash = match verdict {
        Verdict::RightAtAnotherCost => {
            Some(state.app.hash_password(password.clone()).await.map_err(Problem::internal)?)
        }
        _ => None,
    };
    Ok(Verified { user_id, stored, rehash })
}

/// The membership that is meant, of those that sign-in opens. Who gets here has shown their password, so their own organizations are no
/// secret to them; that another one exists stays one.
fn choose(
    memberships: Vec<(Membership, Organization)>,
    named: Option<&str>,
) -> Result<(Membership, Organization), Problem> {
    let mut memberships = memberships;
    if let Some(named) = named {
        let is_named = |o: &Organization| o.slug.as_str() == named || named.parse() == Ok(o.id);
        let at = memberships.iter().position(|(_, organization)| is_named(organization));
        let at = at.ok_or_else(|| {
            let detail = "you are no member of this organization, or have not shown it yet that the address is yours: accept an \
                          invitation that was mailed to you";
            Problem::new(ProblemType::Forbidden, detail)
        })?;
        return Ok(memberships.swap_remove(at));
    }
    match (memberships.pop(), memberships.as_slice()) {
        (Some(only), []) => Ok(only),
        (None, _) => {
            let detail = "you are no member of any organization, or have not shown yet that the address is yours: accept an \
                          invitation that was mailed to you";
            Err(Problem::new(ProblemType::Forbidden, detail))
        }
        (Some(last), others) => {
            let slugs = others.iter().chain([&last]).map(|(_, organization)| organization.slug.as_str());
            let slugs = slugs.collect::<Vec<_>>().join(", ");
            Err(Problem::field("organization", "required", format!("must be named by a member of several: {slugs}")))
        }
    }
}

fn refresh_lasts(state: &ApiState) -> Duration {
    Duration::days(state.app.config.sign_in.refresh_token_days.into())
}

fn tokens(
    state: &ApiState,
    session: Refresh,
    organization: &Organization,
    (role, company_id): (Role, Option<Uuid>),
    now: DateTime<Utc>,
) -> Tokens {
    let expires_in = state.app.config.sign_in.access_token_s;
    let ids = (session.user_id, organization.id, session.session_id);
    let claims = Claims::access(ids, (role, company_id), now, Duration::seconds(expires_in.into()));
    Tokens {
        access_token: state.app.tokens.sign(&claims),
        token_type: "Bearer",
        expires_in,
        refresh_token: session.token.expose_secret().to_owned(),
        refresh_expires_at: session.expires_at,
        user_id: session.user_id,
        organization: organization.slug.to_string(),
        role,
        company_id,
    }
}

/// Exchanges a refresh token for a new pair.
///
/// A refresh token is good once. Its second use ends the whole session, as a thief's would: a client that may lose an answer
/// repeats the request with the same Idempotency-Key, and gets the first answer again.
#[utoipa::path(
    post, path = "/sign-in/refresh", tag = "people", operation_id = "refresh_session", security(()),
    request_body = RefreshRequest,
    responses((status = 200, description = "Good for another while", body = Tokens), Problems)
)]
async fn refresh(
    State(state): State<ApiState>,
    network: Network,
    posted: Posted<RefreshRequest>,
) -> Result<Response, Problem> {
    let token = posted.body.refresh_token;
    // Whoever brings nothing that is good for something now is a stranger, also with a token that once was.
    let stranger = |problem: Problem| state.strangers.take(&network).and(Err(problem));
    let invalid = || Problem::new(ProblemType::TokenInvalid, "the refresh token is not one of ours");
    let mut db = state.app.db.acquire().await?;
    let found = match sessions::of_token(&mut db, &token).await? {
        Some((session, id)) => organizations::by_id(&mut db, id).await?.map(|organization| (session, organization)),
        None => None,
    };
    drop(db);
    let Some((session, organization)) = found else { return stranger(invalid()) };
    let key = posted.idempotency.map(|key| key.of_session(session));
    let mut work = match begin(&state, &organization, key.as_ref()).await {
        Ok(Begun::Fresh(work)) => work,
        Ok(Begun::Answered(response)) => return state.strangers.take(&network).map(|()| no_store(response)),
        Err(problem) => return stranger(problem),
    };
    let now = state.app.clock.now();
    let next = match sessions::rotate(&mut work, &token, now, refresh_lasts(&state)).await? {
        Rotated::Next(next) => next,
        Rotated::Unknown => return stranger(invalid()),
        Rotated::Expired => {
            return stranger(Problem::new(ProblemType::TokenExpired, "the refresh token has expired"));
        }
        Rotated::Ended => return stranger(Problem::new(ProblemType::TokenRevoked, "the session has ended")),
        Rotated::Reused { session_id } => {
            // Not in the request's own transaction, which leaves nothing behind when it is refused.
            drop(work);
            let reason = EndReason::TokenReused;
            if sessions::end(&mut *state.app.db.acquire().await?, session_id, reason, now).await? {
                state.keys.forget(organization.id);
                tracing::warn!(session = %session_id, "a refresh token came a second time; its session is ended");
            }
            let detail = "the refresh token was used before; the session has been ended";
            return stranger(Problem::new(ProblemType::TokenReused, detail));
        }
    };
    let revoked = || Problem::new(ProblemType::TokenRevoked, "you have left the organization");
    let Some(standing) = sessions::standing(&mut work, next.session_id).await? else { return stranger(revoked()) };
    let allowance = state.rate_limit.take(organization.id)?;
    let tokens = tokens(&state, next, &organization, (standing.role, standing.company_id), now);
    let mut response = no_store(work.finish(Answer::new(StatusCode::OK, &tokens)).await?);
    allowance.put_on(&mut response);
    Ok(response)
}

fn no_store(mut response: Response) -> Response {
    let (name, value) = NO_STORE;
    response.headers_mut().insert(name, value);
    response
}

/// Ends the session that the refresh token belongs to.
///
/// The answer is the same if it has ended or never was. Takes no Idempotency-Key: a session ends once.
#[utoipa::path(
    post, path = "/sign-out", tag = "people", operation_id = "sign_out", security(()),
    request_body = RefreshRequest,
    responses((status = 204, description = "It is ended"), Problems)
)]
async fn sign_out(
    State(state): State<ApiState>,
    network: Network,
    posted: Posted<RefreshRequest>,
) -> Result<StatusCode, Problem> {
    let mut db = state.app.db.acquire().await?;
    match sessions::end_by_token(&mut db, &posted.body.refresh_token, state.app.clock.now()).await? {
        Some(organization) => state.keys.forget(organization),
        None => state.strangers.take(&network)?,
    }
    Ok(StatusCode::NO_CONTENT)
}
