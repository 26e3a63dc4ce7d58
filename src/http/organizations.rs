//! Organizations: the caller's own, and all of them for the operator (TEN-1, TEN-2, TEN-5).

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{May, Operator, OrganizationRead, OrganizationWrite},
    cursor::ListParams,
    extract::{Json as Body, NoBody, Posted, Query},
    idempotency::{Answer, Begun, Idempotency, begin, go_on},
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::{
    domain::{
        BillingStatus, FieldError, FieldErrors, Language, Organization, Settings, Slug, Tier, field_error::one_line,
    },
    store::organizations::{self, OrganizationChange},
    tenant::{self, CreateError, NewOrganization},
};

const LIST: &str = "organizations";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(show_own, change_own))
        .routes(routes!(create, list))
        .routes(routes!(show, set_tier))
        .routes(routes!(suspend))
        .routes(routes!(activate))
}

/// An organization to be created, on trial.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OrganizationRequest {
    /// `[a-z][a-z0-9-]{1,39}`, not reserved. Never changes.
    #[schema(example = "acme")]
    slug: String,
    #[schema(max_length = 200, example = "Acme AB")]
    name: String,
    #[serde(default)]
    tier: Tier,
    /// IANA name; `Europe/Stockholm` if it is left out.
    #[schema(example = "Europe/Stockholm")]
    time_zone: Option<String>,
    locale: Option<Language>,
    #[schema(value_type = Option<Object>)]
    settings: Option<Value>,
}

/// What an organization may change of itself. What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OwnChange {
    name: Option<String>,
    time_zone: Option<String>,
    locale: Option<Language>,
    /// Replaces all settings: `dunning_days`, `admin_emails`, `payment`, `currency`.
    #[schema(value_type = Option<Object>)]
    settings: Option<Value>,
}

/// What the operator may change of an organization.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TierChange {
    tier: Tier,
}

/// An organization.
#[derive(Serialize, ToSchema)]
#[schema(as = Organization)]
struct OrganizationView {
    id: Uuid,
    slug: String,
    name: String,
    tier: Tier,
    billing_status: BillingStatus,
    #[schema(example = "Europe/Stockholm")]
    time_zone: String,
    locale: Language,
    #[schema(value_type = Object)]
    feature_flags: Value,
    #[schema(value_type = Object)]
    settings: Settings,
    trial_ends_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A page of organizations, oldest first.
#[derive(Serialize, ToSchema)]
struct OrganizationPage {
    organizations: Vec<OrganizationView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// What a suspension or activation did.
#[derive(Serialize, ToSchema)]
struct StatusChanged {
    organization: OrganizationView,
    /// Jobs that are held now, or were released.
    jobs: u64,
}

impl From<Organization> for OrganizationView {
    fn from(organization: Organization) -> Self {
        Self {
            id: organization.id,
            slug: organization.slug.into(),
            name: organization.name,
            tier: organization.tier,
            billing_status: organization.billing_status,
            time_zone: organization.time_zone.name().to_owned(),
            locale: organization.locale,
            feature_flags: organization.feature_flags,
            settings: organization.settings,
            trial_ends_at: organization.trial_ends_at,
            created_at: organization.created_at,
            updated_at: organization.updated_at,
        }
    }
}

impl OrganizationRequest {
    fn parse(self) -> Result<NewOrganization, FieldErrors> {
        let mut errors = FieldErrors::default();
        let slug = errors.check("slug", Slug::parse(&self.slug));
        errors.check("name", one_line(&self.name, 200));
        let time_zone = self.time_zone.and_then(|name| zone(&name, &mut errors));
        let settings = self.settings.and_then(|value| settings(value, &mut errors));
        errors.clone().into_result()?;
        let Some(slug) = slug else { return Err(errors) };
        let plain = NewOrganization::named(slug, self.name);
        Ok(NewOrganization {
            tier: self.tier,
            time_zone: time_zone.unwrap_or(plain.time_zone),
            locale: self.locale.unwrap_or(plain.locale),
            settings: settings.unwrap_or_default(),
            ..plain
        })
    }
}

fn zone(name: &str, errors: &mut FieldErrors) -> Option<chrono_tz::Tz> {
    let zone = name.parse().ok();
    errors.require(zone.is_some(), "time_zone", "unknown", "is not a time zone; it looks like Europe/Stockholm");
    zone
}

fn settings(value: Value, errors: &mut FieldErrors) -> Option<Settings> {
    let below = |error: FieldError| FieldError { field: super::extract::join("settings", &error.field), ..error };
    match super::extract::from_value::<Settings>(value, "settings") {
        Err(error) => {
            errors.0.push(error);
            None
        }
        Ok(settings) => match settings.validate() {
            Err(more) => {
                errors.0.extend(more.0.into_iter().map(below));
                None
            }
            Ok(()) => Some(settings),
        },
    }
}

impl From<CreateError> for Problem {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::SlugTaken(_) | CreateError::SchemaTaken(_) => Self::taken("slug", "is taken: choose another"),
            CreateError::Store(error) => error.into(),
            CreateError::Schema(error) => match error.downcast::<sqlx::Error>() {
                Ok(error) => error.into(),
                Err(error) => Self::internal(error),
            },
        }
    }
}

/// Shows the caller's organization.
#[utoipa::path(
    get, path = "/organization", tag = "organization", operation_id = "get_own_organization",
    security(("api_key" = ["organization:read"])),
    responses((status = 200, body = OrganizationView), Problems)
)]
async fn show_own(
    State(state): State<ApiState>,
    caller: May<OrganizationRead>,
) -> Result<Json<OrganizationView>, Problem> {
    let mut db = state.app.db.acquire().await?;
    let organization = organizations::by_id(&mut db, caller.organization.id).await?;
    organization.map(|organization| Json(organization.into())).ok_or_else(|| Problem::not_found("organization"))
}

/// Changes the caller's organization.
#[utoipa::path(
    patch, path = "/organization", tag = "organization", operation_id = "change_own_organization",
    security(("api_key" = ["organization:write"])),
    request_body = OwnChange,
    responses((status = 200, body = OrganizationView), Problems)
)]
async fn change_own(
    State(state): State<ApiState>,
    caller: May<OrganizationWrite>,
    Body(change): Body<OwnChange>,
) -> Result<Json<OrganizationView>, Problem> {
    let mut errors = FieldErrors::default();
    if let Some(name) = &change.name {
        errors.check("name", one_line(name, 200));
    }
    let time_zone = change.time_zone.and_then(|name| zone(&name, &mut errors));
    let settings = change.settings.and_then(|value| settings(value, &mut errors));
    errors.into_result()?;
    let change =
        OrganizationChange { name: change.name, time_zone, locale: change.locale, settings, ..Default::default() };
    let mut db = state.app.db.acquire().await?;
    let organization = organizations::update(&mut db, caller.organization.id, &change, state.app.clock.now()).await?;
    state.keys.forget(organization.id);
    Ok(Json(organization.into()))
}

/// Creates an organization with its schema.
///
/// Its Idempotency-Key is kept with the new organization, in the same transaction: a repeat with the same slug, also one at
/// the same moment, gives the first answer again.
#[utoipa::path(
    post, path = "/organizations", tag = "operator", operation_id = "create_organization", security(("operator" = [])),
    request_body = OrganizationRequest,
    responses((status = 201, description = "Created", body = OrganizationView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    _: Operator,
    posted: Posted<OrganizationRequest>,
) -> Result<Response, Problem> {
    let new = posted.body.parse()?;
    let slug = new.slug.clone();
    let mut tx = state.app.db.begin().await?;
    let organization = match tenant::create_in(&mut tx, &state.app.clock, new).await {
        Ok(organization) => organization,
        Err(error @ CreateError::SlugTaken(_)) => {
            tx.rollback().await?;
            return replay(&state, &slug, posted.idempotency.as_ref()).await?.ok_or_else(|| error.into());
        }
        Err(error) => return Err(error.into()),
    };
    let location = format!("/api/v1/organizations/{slug}");
    let work = go_on(&state, tx, &organization, posted.idempotency.as_ref()).await?;
    work.finish(Answer::new(StatusCode::CREATED, &OrganizationView::from(organization)).at(location)).await
}

/// The answer that an organization's creation got, if it was asked for under this key.
async fn replay(state: &ApiState, slug: &Slug, key: Option<&Idempotency>) -> Result<Option<Response>, Problem> {
    let Some(key) = key else { return Ok(None) };
    let organization = find(state, slug.as_str()).await?;
    match begin(state, &organization, Some(key)).await {
        Ok(Begun::Answered(response)) => Ok(Some(response)),
        // Dropped unfinished: the key is not kept.
        Ok(Begun::Fresh(_)) => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// Lists organizations, oldest first.
#[utoipa::path(
    get, path = "/organizations", tag = "operator", operation_id = "list_organizations", security(("operator" = [])),
    params(ListParams),
    responses((status = 200, body = OrganizationPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    _: Operator,
    Query(params): Query<ListParams>,
) -> Result<Json<OrganizationPage>, Problem> {
    let page = params.oldest_first(LIST)?;
    let mut db = state.app.db.acquire().await?;
    let mut organizations = organizations::list(&mut db, page).await?;
    let next_cursor = params.limit.cut(LIST, &mut organizations, |organization| organization.id);
    let organizations = organizations.into_iter().map(OrganizationView::from).collect();
    Ok(Json(OrganizationPage { organizations, next_cursor }))
}

/// Shows an organization.
#[utoipa::path(
    get, path = "/organizations/{slug}", tag = "operator", operation_id = "get_organization",
    security(("operator" = [])),
    params(("slug" = String, Path)),
    responses((status = 200, body = OrganizationView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    _: Operator,
    Path(slug): Path<String>,
) -> Result<Json<OrganizationView>, Problem> {
    Ok(Json(find(&state, &slug).await?.into()))
}

/// Moves an organization to another tier. Its limits are the new tier's at once.
#[utoipa::path(
    patch, path = "/organizations/{slug}", tag = "operator", operation_id = "change_organization",
    security(("operator" = [])),
    params(("slug" = String, Path)),
    request_body = TierChange,
    responses((status = 200, body = OrganizationView), Problems)
)]
async fn set_tier(
    State(state): State<ApiState>,
    _: Operator,
    Path(slug): Path<String>,
    Body(change): Body<TierChange>,
) -> Result<Json<OrganizationView>, Problem> {
    let organization = find(&state, &slug).await?;
    let app = &state.app;
    let changed = tenant::set_tier(&app.db, &app.clock, &organization, change.tier, "operator").await?;
    state.keys.forget(changed.id);
    Ok(Json(changed.into()))
}

/// Suspends an organization: its API is read-only and its jobs are held.
#[utoipa::path(
    post, path = "/organizations/{slug}/suspend", tag = "operator", operation_id = "suspend_organization",
    security(("operator" = [])),
    params(("slug" = String, Path)),
    responses((status = 200, body = StatusChanged), Problems)
)]
async fn suspend(
    State(state): State<ApiState>,
    _: Operator,
    Path(slug): Path<String>,
    posted: NoBody,
) -> Result<Response, Problem> {
    set_status(&state, &slug, BillingStatus::Suspended, posted.idempotency.as_ref()).await
}

/// Activates an organization and releases its jobs.
#[utoipa::path(
    post, path = "/organizations/{slug}/activate", tag = "operator", operation_id = "activate_organization",
    security(("operator" = [])),
    params(("slug" = String, Path)),
    responses((status = 200, body = StatusChanged), Problems)
)]
async fn activate(
    State(state): State<ApiState>,
    _: Operator,
    Path(slug): Path<String>,
    posted: NoBody,
) -> Result<Response, Problem> {
    set_status(&state, &slug, BillingStatus::Active, posted.idempotency.as_ref()).await
}

async fn set_status(
    state: &ApiState,
    slug: &str,
    status: BillingStatus,
    key: Option<&Idempotency>,
) -> Result<Response, Problem> {
    let organization = find(state, slug).await?;
    let mut work = match begin(state, &organization, key).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let (organization, jobs) =
        tenant::set_billing_status_in(&mut work, &state.app.clock, &organization, status).await?;
    let id = organization.id;
    let response = work.finish(Answer::new(StatusCode::OK, &StatusChanged { organization: organization.into(), jobs }));
    let response = response.await?;
    state.keys.forget(id);
    Ok(response)
}

/// The operator sees every organization, so that there is none is no secret.
async fn find(state: &ApiState, slug: &str) -> Result<Organization, Problem> {
    let mut db = state.app.db.acquire().await?;
    let organization = match Slug::parse(slug) {
        Ok(slug) => organizations::by_slug(&mut db, slug.as_str()).await?,
        Err(_) => None,
    };
    organization.ok_or_else(|| Problem::new(ProblemType::NotFound, "there is no organization with this slug"))
}
