//! The signed-in person: who they are, and their password.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{Member, SignedIn},
    extract::{Json as Body, Posted},
    idempotency::{Answer, Begun, answered, begin},
    network::{Network, too_many},
    openapi::Problems,
    problem::Problem,
};
use crate::{
    domain::{FieldErrors, Language, Password, Role, User, password::Verdict, user::check_name},
    store::{
        memberships, password_resets,
        sessions::{self, EndReason},
        sign_in_tries::{self, Try},
        users,
    },
};

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(show, change)).routes(routes!(set_password))
}

/// The person who has signed in.
#[derive(Serialize, ToSchema)]
struct Me {
    id: Uuid,
    email: String,
    name: String,
    /// What they are written to in.
    language: Language,
    /// Slug of the organization that this session is in.
    organization: String,
    role: Role,
    /// A customer's company.
    company_id: Option<Uuid>,
    /// Where else they may sign in, this one included.
    memberships: Vec<MembershipView>,
}

/// A person's place in an organization.
#[derive(Serialize, ToSchema)]
#[schema(as = Membership)]
struct MembershipView {
    /// Slug.
    organization: String,
    name: String,
    role: Role,
}

/// What a person may change of themselves. What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MeChange {
    #[schema(max_length = 200)]
    name: Option<String>,
    language: Option<Language>,
}

/// A change of the password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordChange {
    #[schema(value_type = String, format = Password, max_length = 200)]
    old_password: SecretString,
    /// At least four different characters.
    #[schema(value_type = String, format = Password, min_length = 12, max_length = 200)]
    new_password: SecretString,
}

#[derive(Serialize, ToSchema)]
struct PasswordChanged {
    /// The person's other sessions, in every organization.
    sessions_ended: u64,
}

async fn view(state: &ApiState, member: &Member, user: User) -> Result<Me, Problem> {
    let memberships = memberships::of_user(&mut *state.app.db.acquire().await?, member.user_id).await?;
    let memberships = memberships.into_iter().map(|(membership, organization)| MembershipView {
        organization: organization.slug.into(),
        name: organization.name,
        role: membership.role,
    });
    Ok(Me {
        id: user.id,
        email: user.email.into(),
        name: user.name,
        language: user.language,
        organization: member.organization.slug.to_string(),
        role: member.role,
        company_id: member.company_id,
        memberships: memberships.collect(),
    })
}

/// Shows who has signed in.
#[utoipa::path(
    get, path = "/me", tag = "people", operation_id = "get_me", security(("person" = [])),
    responses((status = 200, body = Me), Problems)
)]
async fn show(State(state): State<ApiState>, SignedIn(member): SignedIn) -> Result<Json<Me>, Problem> {
    let user = users::by_id(&mut *state.app.db.acquire().await?, member.user_id).await?;
    let user = user.ok_or_else(|| Problem::not_found("person"))?;
    view(&state, &member, user).await.map(Json)
}

/// Changes name or language of who has signed in.
#[utoipa::path(
    patch, path = "/me", tag = "people", operation_id = "change_me", security(("person" = [])),
    request_body = MeChange,
    responses((status = 200, body = Me), Problems)
)]
async fn change(
    State(state): State<ApiState>,
    SignedIn(member): SignedIn,
    Body(change): Body<MeChange>,
) -> Result<Json<Me>, Problem> {
    let mut errors = FieldErrors::default();
    if let Some(name) = &change.name {
        errors.check("name", check_name(name));
    }
    errors.into_result()?;
    let mut db = state.app.db.acquire().await?;
    let now = state.app.clock.now();
    let user = users::change(&mut db, member.user_id, change.name.as_deref(), change.language, now).await?;
    drop(db);
    view(&state, &member, user.ok_or_else(|| Problem::not_found("person"))?).await.map(Json)
}

/// Changes the password of who has signed in; their other sessions end.
///
/// Tries with a wrong old password are limited as sign-ins are.
#[utoipa::path(
    post, path = "/me/password", tag = "people", operation_id = "change_password", security(("person" = [])),
    request_body = PasswordChange,
    responses((status = 200, description = "Changed", body = PasswordChanged), Problems)
)]
async fn set_password(
    State(state): State<ApiState>,
    SignedIn(member): SignedIn,
    network: Network,
    posted: Posted<PasswordChange>,
) -> Result<Response, Problem> {
    let PasswordChange { old_password, new_password } = posted.body;
    let mut errors = FieldErrors::default();
    let old = errors.check("old_password", Password::typed(old_password.expose_secret()));
    let new = errors.check("new_password", Password::parse(new_password.expose_secret()));
    let (Some(old), Some(new)) = (old, new) else { return Err(errors.into()) };
    let now = state.app.clock.now();
    // Counted by a statement of its own: a refusal leaves nothing behind, and shall count all the same.
    let email = {
        let mut db = state.app.db.acquire().await?;
        let user = users::by_id(&mut db, member.user_id).await?.ok_or_else(|| Problem::not_found("person"))?;
        if let Try::Wait(wait) = sign_in_tries::begin(&mut db, &user.email, network.as_str(), now).await? {
            return Err(too_many(wait.num_seconds().unsigned_abs()));
        }
        user.email
    };
    // Asked before the password is verified: a repeat brings the old one, which is no longer right.
    if let Some(response) = answered(&state, &member.organization, posted.idempotency.as_ref()).await? {
        sign_in_tries::succeeded(&mut *state.app.db.acquire().await?, &email, network.as_str(), now).await?;
        return Ok(response);
    }
    // No connection is held while a password is hashed.
    let stored = users::password(&mut *state.app.db.acquire().await?, member.user_id).await?;
    let verdict = state.app.verify_password(old, stored.clone()).await.map_err(Problem::internal)?;
    if verdict == Verdict::Wrong {
        return Err(Problem::field("old_password", "invalid", "is not your password"));
    }
    let hash = state.app.hash_password(new).await.map_err(Problem::internal)?;
    let mut work = match begin(&state, &member.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    password_resets::expire(&mut work, member.user_id, now).await?;
    if !users::set_password(&mut work, member.user_id, stored.as_ref(), &hash, now).await? {
        return Err(Problem::conflict("the password was changed by another request"));
    }
    let others = (None, Some(member.session));
    let sessions_ended = sessions::end_all(&mut work, member.user_id, others, EndReason::PasswordChanged, now).await?;
    sign_in_tries::succeeded(&mut work, &email, network.as_str(), now).await?;
    let response = work.finish(Answer::new(StatusCode::OK, &PasswordChanged { sessions_ended })).await?;
    state.keys.forget_person(member.user_id);
    Ok(response)
}
