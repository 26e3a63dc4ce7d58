//! Assets (ASSET-3): what the organization owns. Serial number, amounts and the numbers of papers are sealed at rest; what it cost,
//! admins, developers and keys see. How an asset moves: [`super::asset_steps`].

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{AssetsRead, AssetsWrite, Caller, May},
    cursor::{self, Limit},
    extract::{Id, Json as Body, Posted, Query, present},
    idempotency::{Answer, Begun, begin_tenant},
    network::Origin,
    openapi::Problems,
    problem::Problem,
    sealer,
};
use crate::{
    domain::{
        Asset, AssetStatus, AssetTag, Condition, Currency, FieldErrors, NewAsset, SerialNumber,
        asset::{Custody, Purchase},
        policy::Field,
    },
    jobs::assets::doors::{self, Asked},
    store::{
        Page, StoreError,
        assets::{self, AssetFilter},
        employees,
    },
    tenant,
};

const LIST: &str = "assets";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(show, change)).routes(routes!(held))
}

/// An asset to be stored. Amounts may be text (`"100.50"`), which is exact, or numbers.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AssetRequest {
    /// Unique within the organization; the next number (`A-00001`) if it is left out.
    #[schema(max_length = 64, example = "IT-0042")]
    tag: Option<String>,
    #[schema(max_length = 200, example = "MacBook Pro 14")]
    name: String,
    /// Lower case.
    #[schema(max_length = 100, example = "laptop")]
    category: Option<String>,
    make: Option<String>,
    model: Option<String>,
    #[schema(max_length = 100)]
    serial_number: Option<String>,
    /// `on_order` or `in_stock`, which it is if it is left out; the other ones are reached, not chosen.
    status: Option<AssetStatus>,
    /// `good` if it is left out.
    condition: Option<Condition>,
    location_id: Option<Uuid>,
    /// ISO 4217; the organization's own if it is left out.
    #[schema(example = "SEK")]
    currency: Option<String>,
    #[schema(value_type = Option<String>, example = "24995.00")]
    cost: Option<Decimal>,
    /// What it is worth at the end of its life; nothing if it is left out.
    #[schema(value_type = Option<String>)]
    residual_value: Option<Decimal>,
    purchase_order: Option<String>,
    invoice_number: Option<String>,
    supplier: Option<String>,
    purchased_on: Option<NaiveDate>,
    warranty_until: Option<NaiveDate>,
    /// The day of the purchase if it is left out.
    depreciates_from: Option<NaiveDate>,
    /// Over so many months it loses its value, the same in each.
    #[schema(minimum = 1, maximum = 1200, example = 36)]
    useful_life_months: Option<u32>,
    /// Fields of the organization's own.
    #[serde(default)]
    #[schema(value_type = Object)]
    custom: BTreeMap<String, Value>,
    /// The organization's own words to sort by.
    #[serde(default)]
    #[schema(max_items = 20)]
    labels: Vec<String>,
}

/// A change of what is said of an asset: what is left out stays, `null` takes a value away (RFC 7396). Where it is and who has it,
/// `assign`, `return`, `transfer` and `status` change. An amount that is corrected is told in its history.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AssetChange {
    tag: Option<String>,
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    category: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    make: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    model: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    serial_number: Option<Option<String>>,
    currency: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    cost: Option<Option<Decimal>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    residual_value: Option<Option<Decimal>>,
    /// What it is worth from now on, whatever straight-line depreciation would say; `null`: computed again.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    book_value: Option<Option<Decimal>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    purchase_order: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    invoice_number: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    supplier: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<NaiveDate>)]
    purchased_on: Option<Option<NaiveDate>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<NaiveDate>)]
    warranty_until: Option<Option<NaiveDate>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<NaiveDate>)]
    depreciates_from: Option<Option<NaiveDate>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>)]
    useful_life_months: Option<Option<u32>>,
    /// All of them: what is not named here is gone.
    #[schema(value_type = Option<Object>)]
    custom: Option<BTreeMap<String, Value>>,
    labels: Option<Vec<String>>,
}

/// An asset. Amounts are text, so that no reader rounds them; they and the papers' numbers are null for who may not see them.
#[derive(Serialize, ToSchema)]
#[schema(as = Asset)]
pub(super) struct AssetView {
    id: Uuid,
    #[schema(example = "A-00001")]
    tag: String,
    name: String,
    category: Option<String>,
    make: Option<String>,
    model: Option<String>,
    serial_number: Option<String>,
    status: AssetStatus,
    condition: Condition,
    /// Who holds it.
    employee_id: Option<Uuid>,
    location_id: Option<Uuid>,
    currency: String,
    #[schema(value_type = Option<String>)]
    cost: Option<Decimal>,
    #[schema(value_type = Option<String>)]
    residual_value: Option<Decimal>,
    /// What it is worth today: the finance system's word or a person's, or its cost less what straight-line depreciation has taken.
    #[schema(value_type = Option<String>)]
    book_value: Option<Decimal>,
    purchase_order: Option<String>,
    invoice_number: Option<String>,
    supplier: Option<String>,
    purchased_on: Option<NaiveDate>,
    warranty_until: Option<NaiveDate>,
    depreciates_from: Option<NaiveDate>,
    useful_life_months: Option<u32>,
    #[schema(value_type = Object)]
    custom: BTreeMap<String, Value>,
    labels: Vec<String>,
    /// The integration that tells of it; null: it was written down by hand.
    integration_id: Option<Uuid>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A page of assets, oldest first.
#[derive(Serialize, ToSchema)]
struct AssetPage {
    assets: Vec<AssetView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// The whole tag, in any case.
    #[param(value_type = Option<String>)]
    tag: Option<AssetTag>,
    /// The beginning of the tag, in any case.
    tag_prefix: Option<String>,
    /// The whole serial number; blanks and case do not matter.
    #[param(value_type = Option<String>)]
    serial: Option<SerialNumber>,
    /// Who holds it.
    employee_id: Option<Uuid>,
    location_id: Option<Uuid>,
    #[param(inline)]
    status: Option<AssetStatus>,
    category: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct HeldParams {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl AssetView {
    /// What the caller may see of it.
    pub(super) fn of(asset: Asset, caller: &Caller, today: NaiveDate) -> Self {
        let sees = caller.may_see(Field::AssetCost);
        let book_value = asset.facts.book_value(today).filter(|_| sees);
        let facts = asset.facts;
        let purchase = if sees { facts.purchase } else { Purchase::default() };
        Self {
            id: asset.id,
            tag: asset.tag.into(),
            name: facts.name,
            category: facts.category,
            make: facts.make,
            model: facts.model,
            serial_number: facts.serial_number.map(Into::into),
            status: asset.custody.status,
            condition: asset.custody.condition,
            employee_id: asset.custody.employee_id,
            location_id: asset.custody.location_id,
            currency: facts.currency.to_string(),
            cost: purchase.cost,
            residual_value: purchase.residual_value,
            book_value,
            purchase_order: purchase.purchase_order,
            invoice_number: purchase.invoice_number,
            supplier: facts.supplier,
            purchased_on: facts.purchased_on,
            warranty_until: facts.warranty_until,
            depreciates_from: facts.depreciates_from,
            useful_life_months: facts.useful_life_months,
            custom: facts.custom,
            labels: facts.labels,
            integration_id: asset.integration_id,
            created_at: asset.created_at,
            updated_at: asset.updated_at,
        }
    }
}

impl AssetRequest {
    fn parse(self, currency: Currency) -> Result<(NewAsset, Custody), FieldErrors> {
        let mut errors = FieldErrors::default();
        let tag = self.tag.and_then(|tag| errors.check("tag", AssetTag::parse(&tag)));
        let serial_number =
            self.serial_number.and_then(|serial| errors.check("serial_number", SerialNumber::parse(&serial)));
        let given = self.currency.and_then(|currency| errors.check("currency", Currency::parse(&currency)));
        let status = self.status.unwrap_or_default();
        let chosen = matches!(status, AssetStatus::OnOrder | AssetStatus::InStock);
        errors.require(
            chosen,
            "status",
            "invalid",
            "must be on_order or in_stock; the other ones are reached, not chosen",
        );
        errors.into_result()?;
        let asset = NewAsset {
            tag,
            name: self.name,
            category: self.category,
            make: self.make,
            model: self.model,
            serial_number,
            currency: given.unwrap_or(currency),
            purchase: Purchase {
                cost: self.cost,
                residual_value: self.residual_value,
                book_value: None,
                purchase_order: self.purchase_order,
                invoice_number: self.invoice_number,
            },
            supplier: self.supplier,
            purchased_on: self.purchased_on,
            warranty_until: self.warranty_until,
            depreciates_from: self.depreciates_from,
            useful_life_months: self.useful_life_months,
            custom: self.custom,
            labels: self.labels,
        };
        asset.validate()?;
        let condition = self.condition.unwrap_or_default();
        Ok((asset, Custody { status, condition, employee_id: None, location_id: self.location_id }))
    }
}

impl AssetChange {
    /// The asset as it shall be.
    fn apply(self, before: NewAsset) -> Result<NewAsset, FieldErrors> {
        let mut errors = FieldErrors::default();
        let tag = self.tag.and_then(|tag| errors.check("tag", AssetTag::parse(&tag)));
        let currency = self.currency.and_then(|currency| errors.check("currency", Currency::parse(&currency)));
        let serial_number = match self.serial_number {
            None => before.serial_number,
            Some(None) => None,
            Some(Some(serial)) => errors.check("serial_number", SerialNumber::parse(&serial)),
        };
        errors.into_result()?;
        let purchase = before.purchase;
        let changed = NewAsset {
            tag: tag.or(before.tag),
            name: self.name.unwrap_or(before.name),
            category: self.category.unwrap_or(before.category),
            make: self.make.unwrap_or(before.make),
            model: self.model.unwrap_or(before.model),
            serial_number,
            currency: currency.unwrap_or(before.currency),
            purchase: Purchase {
                cost: self.cost.unwrap_or(purchase.cost),
                residual_value: self.residual_value.unwrap_or(purchase.residual_value),
                book_value: self.book_value.unwrap_or(purchase.book_value),
                purchase_order: self.purchase_order.unwrap_or(purchase.purchase_order),
                invoice_number: self.invoice_number.unwrap_or(purchase.invoice_number),
            },
            supplier: self.supplier.unwrap_or(before.supplier),
            purchased_on: self.purchased_on.unwrap_or(before.purchased_on),
            warranty_until: self.warranty_until.unwrap_or(before.warranty_until),
            depreciates_from: self.depreciates_from.unwrap_or(before.depreciates_from),
            useful_life_months: self.useful_life_months.unwrap_or(before.useful_life_months),
            custom: self.custom.unwrap_or(before.custom),
            labels: self.labels.unwrap_or(before.labels),
        };
        changed.validate()?;
        Ok(changed)
    }
}

/// A tag that another asset has is a conflict; an employee or a place that there is not, a mistake.
pub(super) fn refused(error: StoreError) -> Problem {
    match error {
        StoreError::Conflict { field: field @ ("employee_id" | "location_id"), message } => {
            Problem::field(field, "unknown", message)
        }
        error => error.into(),
    }
}

/// Who moves what, for its history.
pub(super) fn asked<'a>(state: &ApiState, actor: &'a str, origin: &'a Origin) -> Asked<'a> {
    let (ip, user_agent) = (origin.ip.as_deref(), origin.user_agent.as_deref());
    Asked { actor, ip, user_agent, now: state.app.clock.now() }
}

/// Stores an asset.
#[utoipa::path(
    post, path = "/assets", tag = "assets", operation_id = "create_asset",
    security(("api_key" = ["assets:write"]), ("person" = ["assets:write"])),
    request_body = AssetRequest,
    responses((status = 201, description = "Stored", body = AssetView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    caller: May<AssetsWrite>,
    origin: Origin,
    posted: Posted<AssetRequest>,
) -> Result<Response, Problem> {
    let (new, custody) = posted.body.parse(caller.organization.settings.currency)?;
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let (sealer, actor) = (sealer(&state, &caller), caller.actor());
    let asked = asked(&state, &actor, &origin);
    let asset = doors::create_asset(&mut work, sealer, (&new, custody), &asked).await.map_err(refused)?;
    let location = format!("/api/v1/assets/{}", asset.id);
    let today = state.app.clock.today(caller.organization.time_zone);
    work.finish(Answer::new(StatusCode::CREATED, &AssetView::of(asset, &caller, today)).at(location)).await
}

/// Lists assets, oldest first.
#[utoipa::path(
    get, path = "/assets", tag = "assets", operation_id = "list_assets",
    security(("api_key" = ["assets:read"]), ("person" = ["assets:read"])),
    params(ListParams),
    responses((status = 200, body = AssetPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<AssetsRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<AssetPage>, Problem> {
    let filter = AssetFilter {
        tag: params.tag,
        tag_prefix: params.tag_prefix,
        serial_number: params.serial,
        employee_id: params.employee_id,
        location_id: params.location_id,
        status: params.status,
        category: params.category,
    };
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let page = page_of(&mut tx, (&state, &caller), &filter, (params.cursor, params.limit)).await?;
    tx.commit().await?;
    Ok(Json(page))
}

async fn page_of(
    db: &mut sqlx::PgConnection,
    (state, caller): (&ApiState, &Caller),
    filter: &AssetFilter,
    (cursor, limit): (Option<String>, Limit),
) -> Result<AssetPage, Problem> {
    let page = Page { after: cursor::decode(LIST, cursor.as_deref())?, limit: limit.probe(), newest_first: false };
    let mut assets = assets::page(db, sealer(state, caller), filter, page).await?;
    let next_cursor = limit.cut(LIST, &mut assets, |asset| asset.id);
    let today = state.app.clock.today(caller.organization.time_zone);
    let assets = assets.into_iter().map(|asset| AssetView::of(asset, caller, today)).collect();
    Ok(AssetPage { assets, next_cursor })
}

/// Lists what an employee holds, oldest first.
#[utoipa::path(
    get, path = "/employees/{id}/assets", tag = "assets", operation_id = "list_employee_assets",
    security(("api_key" = ["assets:read"]), ("person" = ["assets:read"])),
    params(("id" = Uuid, Path), HeldParams),
    responses((status = 200, body = AssetPage), Problems)
)]
async fn held(
    State(state): State<ApiState>,
    caller: May<AssetsRead>,
    Id(id): Id,
    Query(params): Query<HeldParams>,
) -> Result<Json<AssetPage>, Problem> {
    let filter = AssetFilter { employee_id: Some(id), ..AssetFilter::default() };
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    employees::exists(&mut tx, id).await?.then_some(()).ok_or_else(|| Problem::not_found("employee"))?;
    let page = page_of(&mut tx, (&state, &caller), &filter, (params.cursor, params.limit)).await?;
    tx.commit().await?;
    Ok(Json(page))
}

/// Shows an asset.
#[utoipa::path(
    get, path = "/assets/{id}", tag = "assets", operation_id = "get_asset",
    security(("api_key" = ["assets:read"]), ("person" = ["assets:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = AssetView), Problems)
)]
async fn show(State(state): State<ApiState>, caller: May<AssetsRead>, Id(id): Id) -> Result<Json<AssetView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let asset = assets::by_id(&mut tx, sealer(&state, &caller), id).await?;
    tx.commit().await?;
    let today = state.app.clock.today(caller.organization.time_zone);
    asset.map(|asset| Json(AssetView::of(asset, &caller, today))).ok_or_else(|| Problem::not_found("asset"))
}

/// Changes what is said of an asset.
#[utoipa::path(
    patch, path = "/assets/{id}", tag = "assets", operation_id = "change_asset",
    security(("api_key" = ["assets:write"]), ("person" = ["assets:write"])),
    params(("id" = Uuid, Path)),
    request_body = AssetChange,
    responses((status = 200, body = AssetView), Problems)
)]
async fn change(
    State(state): State<ApiState>,
    caller: May<AssetsWrite>,
    origin: Origin,
    Id(id): Id,
    Body(change): Body<AssetChange>,
) -> Result<Json<AssetView>, Problem> {
    let (sealer, actor) = (sealer(&state, &caller), caller.actor());
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let found = assets::lock(&mut tx, sealer, id).await?.ok_or_else(|| Problem::not_found("asset"))?;
    let changed = change.apply(found.facts.clone())?;
    let asked = asked(&state, &actor, &origin);
    let asset = doors::change_asset(&mut tx, sealer, (&found, &changed), &asked).await.map_err(refused)?;
    tx.commit().await?;
    let today = state.app.clock.today(caller.organization.time_zone);
    Ok(Json(AssetView::of(asset, &caller, today)))
}
