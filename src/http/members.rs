//! Who belongs to the organization, and as what (AUTH-1).

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{May, MembersRead, MembersWrite},
    cursor::{self, Limit},
    extract::{Id, Json as Body, Posted, Query},
    idempotency::{Answer, Begun, begin},
    openapi::Problems,
    problem::Problem,
};
use crate::{
    domain::{
        EmailAddress, FieldErrors, Language, NewUser, Organization, Password, PasswordHash, Role, User,
        user::check_name,
    },
    jobs::workspaces::{self, Asked},
    store::{
        StoreError,
        memberships::{self, Membership},
        users,
    },
    tenant::{self, PeopleError},
};

const LIST: &str = "members";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(add, list)).routes(routes!(show, change, remove))
}

/// A person to be added.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MemberRequest {
    #[schema(format = Email, example = "anna@acme.example")]
    email: String,
    role: Role,
    /// A customer's company; nobody else has one.
    company_id: Option<Uuid>,
    /// For a person who has no account yet; who has one keeps its name.
    #[schema(max_length = 200, example = "Anna Ek")]
    name: Option<String>,
    /// What they are written to in, if they have no account yet; the organization's language if it is left out.
    language: Option<Language>,
    /// What a person who has no account yet signs in with, to this organization only, until they accept an invitation that was mailed to
    /// them and choose another; it is left aside for one who has an account. Without one they choose it then. At least four different
    /// characters.
    #[schema(value_type = Option<String>, format = Password, min_length = 12, max_length = 200)]
    password: Option<SecretString>,
}

/// What a member becomes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoleChange {
    role: Role,
    /// A customer's company; nobody else has one.
    company_id: Option<Uuid>,
}

/// A member.
#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
struct MemberView {
    /// The person's id.
    id: Uuid,
    email: String,
    name: String,
    language: Language,
    role: Role,
    /// A customer's company.
    company_id: Option<Uuid>,
    joined_at: DateTime<Utc>,
}

/// A page of members, in the order of their ids.
#[derive(Serialize, ToSchema)]
struct MemberPage {
    members: Vec<MemberView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    role: Option<Role>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<(Membership, User)> for MemberView {
    fn from((membership, user): (Membership, User)) -> Self {
        Self {
            id: user.id,
            email: user.email.into(),
            name: user.name,
            language: user.language,
            role: membership.role,
            company_id: membership.company_id,
            joined_at: membership.created_at,
        }
    }
}

impl From<PeopleError> for Problem {
    fn from(error: PeopleError) -> Self {
        match error {
            PeopleError::MemberAlready => Self::taken("email", "belongs to a member already"),
            PeopleError::NotAMember => Self::not_found("member"),
            PeopleError::LastAdmin => Self::conflict(error.to_string()),
            PeopleError::NoSuchCompany => Self::field("company_id", "unknown", "names a company that does not exist"),
            PeopleError::CompanyAndRole => {
                Self::field("company_id", "invalid", "belongs to a customer, and to each of them")
            }
            PeopleError::Store(error) => error.into(),
        }
    }
}

/// Nobody gives what they do not have: a key makes no admin unless it may do all that an admin may.
fn may_give(caller: &May<MembersWrite>, role: Role) -> Result<(), Problem> {
    use crate::domain::{Reach, Scope, policy::reach};
    let lacks = |scope: &&Scope| reach(role, (**scope).into()) == Reach::All && !caller.has(**scope);
    match Scope::ALL.iter().find(lacks) {
        None => Ok(()),
        Some(scope) => {
            Err(Problem::field("role", "invalid", format!("is more than the caller may do: {scope} is missing")))
        }
    }
}

/// Adds a person, with an account of their own if the address has none.
#[utoipa::path(
    post, path = "/members", tag = "people", operation_id = "add_member",
    security(("api_key" = ["members:write"])),
    request_body = MemberRequest,
    responses((status = 201, description = "Added", body = MemberView), Problems)
)]
async fn add(
    State(state): State<ApiState>,
    caller: May<MembersWrite>,
    posted: Posted<MemberRequest>,
) -> Result<Response, Problem> {
    let MemberRequest { email, role, company_id, name, language, password } = posted.body;
    may_give(&caller, role)?;
    let mut errors = FieldErrors::default();
    let email = errors.check("email", EmailAddress::parse(&email));
    if let Some(name) = &name {
        errors.check("name", check_name(name));
    }
    let password = password.map(|password| errors.check("password", Password::parse(password.expose_secret())));
    let (Some(email), None | Some(Some(_))) = (email, &password) else { return Err(errors.into()) };
    errors.into_result()?;

    let place = (role, company_id);
    let password = match password.flatten() {
        Some(password) => {
            hash_if_needed(&state, &caller.organization, (&email, place, name.is_some()), password).await?
        }
        None => None,
    };
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let now = state.app.clock.now();
    let language = language.unwrap_or(caller.organization.locale);
    let new = name.map(|name| NewUser { email: email.clone(), name, language, password, confirmed_at: None });
    let user = find_or_create(&mut work, (&email, new), caller.organization.id, now).await?;
    let (tx, rest) = work.hand_over().await?;
    let actor = caller.actor();
    let tx = tenant::join(tx, &caller.organization, user.id, place, (&actor, now)).await?;
    let work = rest.go_on(tx);
    let location = format!("/api/v1/members/{}", user.id);
    let organization_id = caller.organization.id;
    let membership = Membership { organization_id, user_id: user.id, role, company_id, created_at: now };
    work.finish(Answer::new(StatusCode::CREATED, &MemberView::from((membership, user))).at(location)).await
}

/// Hashing is work: it is done for a new person in a place that they can have, and while no connection is held.
async fn hash_if_needed(
    state: &ApiState,
    organization: &Organization,
    (email, place, named): (&EmailAddress, (Role, Option<Uuid>), bool),
    password: Password,
) -> Result<Option<PasswordHash>, Problem> {
    tenant::check_place(&state.app.db, organization, place).await?;
    let known = users::by_email(&mut *state.app.db.acquire().await?, email).await?.is_some();
    match known || !named {
        true => Ok(None),
        false => state.app.hash_password(password).await.map(Some).map_err(Problem::internal),
    }
}

/// Whose address it is, or who it is from now on: until they prove it to be theirs, somebody whom this organization made.
async fn find_or_create(
    db: &mut PgConnection,
    (email, new): (&EmailAddress, Option<NewUser>),
    organization: Uuid,
    now: DateTime<Utc>,
) -> Result<User, Problem> {
    if let Some(user) = users::by_email(db, email).await? {
        return Ok(user);
    }
    let new = new.ok_or_else(|| Problem::field("name", "required", "is needed for a person who has no account yet"))?;
    match users::create_in(db, &new, Some(organization), now).await {
        // Somebody else was faster a moment ago.
        Err(StoreError::Conflict { field, message }) => {
            users::by_email(db, email).await?.ok_or_else(|| Problem::taken(field, message))
        }
        created => Ok(created?),
    }
}

/// Lists members, in the order of their ids.
#[utoipa::path(
    get, path = "/members", tag = "people", operation_id = "list_members",
    security(("api_key" = ["members:read"])),
    params(ListParams),
    responses((status = 200, body = MemberPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<MembersRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<MemberPage>, Problem> {
    let after = cursor::decode(LIST, params.cursor.as_deref())?;
    let mut db = state.app.db.acquire().await?;
    let organization = caller.organization.id;
    let mut members = memberships::page(&mut db, organization, params.role, after, params.limit.probe()).await?;
    let next_cursor = params.limit.cut(LIST, &mut members, |(member, _)| member.user_id);
    Ok(Json(MemberPage { members: members.into_iter().map(MemberView::from).collect(), next_cursor }))
}

async fn find(state: &ApiState, organization_id: Uuid, id: Uuid) -> Result<MemberView, Problem> {
    let mut db = state.app.db.acquire().await?;
    let none = || Problem::not_found("member");
    let membership = memberships::find(&mut db, organization_id, id).await?.ok_or_else(none)?;
    let user = users::by_id(&mut db, id).await?.ok_or_else(none)?;
    Ok((membership, user).into())
}

/// Shows a member.
#[utoipa::path(
    get, path = "/members/{id}", tag = "people", operation_id = "get_member",
    security(("api_key" = ["members:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = MemberView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    caller: May<MembersRead>,
    Id(id): Id,
) -> Result<Json<MemberView>, Problem> {
    find(&state, caller.organization.id, id).await.map(Json)
}

/// Gives a member another role. It counts at once on this node, within seconds on the others.
#[utoipa::path(
    patch, path = "/members/{id}", tag = "people", operation_id = "change_member",
    security(("api_key" = ["members:write"])),
    params(("id" = Uuid, Path)),
    request_body = RoleChange,
    responses((status = 200, body = MemberView), Problems)
)]
async fn change(
    State(state): State<ApiState>,
    caller: May<MembersWrite>,
    Id(id): Id,
    Body(change): Body<RoleChange>,
) -> Result<Json<MemberView>, Problem> {
    may_give(&caller, change.role)?;
    let tx = state.app.db.begin().await?;
    let (place, actor, now) = ((change.role, change.company_id), caller.actor(), state.app.clock.now());
    tenant::give_role(tx, &caller.organization, id, place, (&actor, now)).await?.commit().await?;
    state.keys.forget(caller.organization.id);
    find(&state, caller.organization.id, id).await.map(Json)
}

/// Removes a member, and ends their sessions in the organization. Their account stays theirs.
#[utoipa::path(
    delete, path = "/members/{id}", tag = "people", operation_id = "remove_member",
    security(("api_key" = ["members:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 204, description = "Removed"), Problems)
)]
async fn remove(State(state): State<ApiState>, caller: May<MembersWrite>, Id(id): Id) -> Result<StatusCode, Problem> {
    let tx = state.app.db.begin().await?;
    let (actor, now) = (caller.actor(), state.app.clock.now());
    let mut tx = tenant::end_membership(tx, &caller.organization, id, (&actor, now)).await?;
    workspaces::forget(&mut tx, id, &Asked { actor: &actor, now, trace: None }).await?;
    tx.commit().await?;
    state.keys.forget(caller.organization.id);
    Ok(StatusCode::NO_CONTENT)
}
