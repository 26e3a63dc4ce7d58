//! The organization's API keys (AUTH-3). A key is shown once, when it is made.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{May, OrganizationRead, OrganizationWrite},
    extract::{Id, Posted},
    idempotency::{Answer, Begun, begin},
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::{
    domain::{FieldErrors, Scope, field_error::one_line},
    store::api_keys::{self, ApiKey},
};

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(revoke))
}

/// A key to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct KeyRequest {
    /// What it is for, for people.
    #[schema(max_length = 100, example = "web shop")]
    name: String,
    /// What it may do; no more than the key that asks.
    #[schema(min_items = 1)]
    scopes: Vec<Scope>,
}

/// A key without the key.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
struct KeyView {
    id: Uuid,
    name: String,
    /// Its first characters, to tell keys apart.
    prefix: String,
    #[schema(value_type = Vec<Scope>)]
    scopes: Vec<String>,
    created_at: DateTime<Utc>,
    /// Written at most once a minute.
    last_used_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
}

/// A new key. This answer is the only one that shows it.
#[derive(Serialize, ToSchema)]
struct NewKey {
    key: String,
    #[serde(flatten)]
    about: KeyView,
}

#[derive(Serialize, ToSchema)]
struct KeyList {
    api_keys: Vec<KeyView>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            prefix: key.prefix,
            scopes: key.scopes,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// Makes a key.
#[utoipa::path(
    post, path = "/api-keys", tag = "organization", operation_id = "create_api_key",
    security(("api_key" = ["organization:write"])),
    request_body = KeyRequest,
    responses((status = 201, description = "Made", body = NewKey), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    caller: May<OrganizationWrite>,
    posted: Posted<KeyRequest>,
) -> Result<Response, Problem> {
    let KeyRequest { name, mut scopes } = posted.body;
    let mut errors = FieldErrors::default();
    errors.check("name", one_line(&name, 100));
    errors.require(!scopes.is_empty(), "scopes", "required", "must name at least one scope");
    for (n, scope) in scopes.iter().enumerate() {
        errors.require(caller.has(*scope), format!("scopes[{n}]"), "invalid", "is more than the key that asks may do");
    }
    errors.into_result()?;
    scopes.sort_unstable();
    scopes.dedup();
    let scopes: Vec<_> = scopes.into_iter().map(|scope| scope.as_str().to_owned()).collect();
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let (about, key) = api_keys::create(&mut work, &caller.organization, &name, &scopes, state.app.clock.now()).await?;
    let answer = NewKey { key: key.expose_secret().to_owned(), about: about.into() };
    work.finish(Answer::new(StatusCode::CREATED, &answer)).await
}

/// Lists the keys, revoked ones included.
#[utoipa::path(
    get, path = "/api-keys", tag = "organization", operation_id = "list_api_keys",
    security(("api_key" = ["organization:read"])),
    responses((status = 200, body = KeyList), Problems)
)]
async fn list(State(state): State<ApiState>, caller: May<OrganizationRead>) -> Result<Json<KeyList>, Problem> {
    let mut db = state.app.db.acquire().await?;
    let keys = api_keys::list(&mut db, caller.organization.id).await?;
    Ok(Json(KeyList { api_keys: keys.into_iter().map(KeyView::from).collect() }))
}

/// Revokes a key. It stops working at once on this node, within seconds on the others.
#[utoipa::path(
    delete, path = "/api-keys/{id}", tag = "organization", operation_id = "revoke_api_key",
    security(("api_key" = ["organization:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 204, description = "Revoked"), Problems)
)]
async fn revoke(
    State(state): State<ApiState>,
    caller: May<OrganizationWrite>,
    Id(id): Id,
) -> Result<StatusCode, Problem> {
    let mut db = state.app.db.acquire().await?;
    if !api_keys::revoke(&mut db, caller.organization.id, id, state.app.clock.now()).await? {
        return Err(Problem::new(
            ProblemType::NotFound,
            "the organization has no key with this id that is still valid",
        ));
    }
    state.keys.forget(caller.organization.id);
    Ok(StatusCode::NO_CONTENT)
}
