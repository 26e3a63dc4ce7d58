//! Locations (ASSET-2). Address and phone are sealed at rest; who sees them, the policy says.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{Caller, May, PeopleRead, PeopleWrite},
    cursor::{self, Flag, Limit},
    extract::{Id, Json as Body, Posted, Query, present},
    idempotency::{Answer, Begun, begin_tenant},
    openapi::Problems,
    problem::Problem,
    sealer,
};
use crate::{
    domain::{Location, LocationKind, NewLocation, policy::Field},
    jobs::people::doors::{self, Asked},
    store::{
        Page,
        locations::{self, LocationFilter},
    },
    tenant,
};

const LIST: &str = "locations";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(show, change))
}

/// A location to be stored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LocationRequest {
    /// Unique within the organization, in any case.
    #[schema(max_length = 200, example = "Stockholm")]
    name: String,
    /// `office` if it is left out.
    kind: Option<LocationKind>,
    #[schema(max_length = 1000)]
    address: Option<String>,
    #[schema(max_length = 50)]
    phone: Option<String>,
    /// Whether people and things still go there; true if it is left out.
    active: Option<bool>,
}

/// A change of a location: what is left out stays, `null` takes address or phone away (RFC 7396).
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LocationChange {
    name: Option<String>,
    kind: Option<LocationKind>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    address: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    phone: Option<Option<String>>,
    active: Option<bool>,
}

/// A location. Address and phone are for admins and keys.
#[derive(Serialize, ToSchema)]
#[schema(as = Location)]
struct LocationView {
    id: Uuid,
    name: String,
    kind: LocationKind,
    address: Option<String>,
    phone: Option<String>,
    active: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A page of locations, oldest first.
#[derive(Serialize, ToSchema)]
struct LocationPage {
    locations: Vec<LocationView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Part of the name, in any case.
    q: Option<String>,
    #[param(inline)]
    kind: Option<LocationKind>,
    #[param(value_type = Option<bool>)]
    active: Option<Flag>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl LocationView {
    /// What the caller may see of it.
    fn of(location: Location, caller: &Caller) -> Self {
        let NewLocation { name, kind, address, phone, active } = location.facts;
        let sees = caller.may_see(Field::EmployeePrivate);
        Self {
            id: location.id,
            name,
            kind,
            address: address.filter(|_| sees),
            phone: phone.filter(|_| sees),
            active,
            created_at: location.created_at,
            updated_at: location.updated_at,
        }
    }
}

impl LocationChange {
    /// The location as it shall be.
    fn apply(self, location: NewLocation) -> NewLocation {
        NewLocation {
            name: self.name.unwrap_or(location.name),
            kind: self.kind.unwrap_or(location.kind),
            address: self.address.unwrap_or(location.address),
            phone: self.phone.unwrap_or(location.phone),
            active: self.active.unwrap_or(location.active),
        }
    }
}

/// Stores a location.
#[utoipa::path(
    post, path = "/locations", tag = "employees", operation_id = "create_location",
    security(("api_key" = ["people:write"]), ("person" = ["people:write"])),
    request_body = LocationRequest,
    responses((status = 201, description = "Stored", body = LocationView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    caller: May<PeopleWrite>,
    posted: Posted<LocationRequest>,
) -> Result<Response, Problem> {
    let LocationRequest { name, kind, address, phone, active } = posted.body;
    let new = NewLocation { name, kind: kind.unwrap_or_default(), address, phone, active: active.unwrap_or(true) };
    new.validate()?;
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let (actor, now) = (caller.actor(), state.app.clock.now());
    let asked = Asked { actor: &actor, now, trace: None };
    let location = doors::create_location(&mut work, sealer(&state, &caller), &new, &asked).await?;
    let at = format!("/api/v1/locations/{}", location.id);
    work.finish(Answer::new(StatusCode::CREATED, &LocationView::of(location, &caller)).at(at)).await
}

/// Lists locations, oldest first.
#[utoipa::path(
    get, path = "/locations", tag = "employees", operation_id = "list_locations",
    security(("api_key" = ["people:read"]), ("person" = ["people:read"])),
    params(ListParams),
    responses((status = 200, body = LocationPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<PeopleRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<LocationPage>, Problem> {
    let page = Page {
        after: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
        newest_first: false,
    };
    let filter = LocationFilter { name: params.q, kind: params.kind, active: params.active.map(|flag| flag.0) };
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let mut locations = locations::page(&mut tx, sealer(&state, &caller), &filter, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut locations, |location| location.id);
    let locations = locations.into_iter().map(|location| LocationView::of(location, &caller)).collect();
    Ok(Json(LocationPage { locations, next_cursor }))
}

/// Shows a location.
#[utoipa::path(
    get, path = "/locations/{id}", tag = "employees", operation_id = "get_location",
    security(("api_key" = ["people:read"]), ("person" = ["people:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = LocationView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    caller: May<PeopleRead>,
    Id(id): Id,
) -> Result<Json<LocationView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let location = locations::by_id(&mut tx, sealer(&state, &caller), id).await?;
    tx.commit().await?;
    location.map(|location| Json(LocationView::of(location, &caller))).ok_or_else(|| Problem::not_found("location"))
}

/// Changes a location.
#[utoipa::path(
    patch, path = "/locations/{id}", tag = "employees", operation_id = "change_location",
    security(("api_key" = ["people:write"]), ("person" = ["people:write"])),
    params(("id" = Uuid, Path)),
    request_body = LocationChange,
    responses((status = 200, body = LocationView), Problems)
)]
async fn change(
    State(state): State<ApiState>,
    caller: May<PeopleWrite>,
    Id(id): Id,
    Body(change): Body<LocationChange>,
) -> Result<Json<LocationView>, Problem> {
    let (sealer, actor, now) = (sealer(&state, &caller), caller.actor(), state.app.clock.now());
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let found = locations::lock(&mut tx, sealer, id).await?.ok_or_else(|| Problem::not_found("location"))?;
    let changed = change.apply(found.facts);
    changed.validate()?;
    let asked = Asked { actor: &actor, now, trace: None };
    let location = doors::change_location(&mut tx, sealer, (id, &changed), &asked).await?;
    let location = location.ok_or_else(|| Problem::not_found("location"))?;
    tx.commit().await?;
    Ok(Json(LocationView::of(location, &caller)))
}
