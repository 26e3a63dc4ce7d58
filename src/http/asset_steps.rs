//! How assets move (ASSET-4): assigned, returned, transferred, and what else becomes of them; each step with a row of history that
//! nobody changes afterwards.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    assets::{AssetView, asked, refused},
    auth::{AssetsRead, AssetsWrite, Caller, May},
    cursor::ListParams,
    extract::{Id, Posted, Query},
    idempotency::{Answer, Begun, Idempotency, begin_tenant},
    network::Origin,
    openapi::Problems,
    problem::Problem,
    sealer,
};
use crate::{
    domain::{
        AssetStatus, Condition, FieldErrors,
        asset::{Step, TransactionKind, check_amount},
        field_error::many_lines,
        policy::Field,
    },
    jobs::assets::doors::{self, Remark},
    store::{
        asset_transactions::{self, Of, Transaction},
        assets, employees,
    },
    tenant,
};

const LIST: &str = "asset_transactions";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(assign))
        .routes(routes!(take_back))
        .routes(routes!(transfer))
        .routes(routes!(change_status))
        .routes(routes!(of_asset))
        .routes(routes!(of_employee))
}

/// Who gets the asset.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AssignRequest {
    employee_id: Uuid,
    #[schema(max_length = 2000)]
    note: Option<String>,
}

/// The asset comes back.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReturnRequest {
    /// Where it is from now on; where it was if it is left out.
    location_id: Option<Uuid>,
    /// As it came back; as it was if it is left out.
    condition: Option<Condition>,
    #[schema(max_length = 2000)]
    note: Option<String>,
}

/// Where the asset goes: to somebody else, to another place, or both.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TransferRequest {
    employee_id: Option<Uuid>,
    location_id: Option<Uuid>,
    #[schema(max_length = 2000)]
    note: Option<String>,
}

/// What becomes of the asset.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StatusRequest {
    status: AssetStatus,
    /// As it is from now on; as it was if it is left out. It gets better by a repair only.
    condition: Option<Condition>,
    /// What it cost or brought, in the asset's currency: a repair, a sale.
    #[schema(value_type = Option<String>, example = "1250.00")]
    amount: Option<Decimal>,
    #[schema(max_length = 2000)]
    note: Option<String>,
}

/// Something that happened to an asset. The amount is null for who may not see what assets cost; address, program and note for who may
/// not see what is private.
#[derive(Serialize, ToSchema)]
#[schema(as = AssetTransaction)]
struct TransactionView {
    id: Uuid,
    asset_id: Uuid,
    kind: TransactionKind,
    /// Null: the asset is new.
    from_status: Option<AssetStatus>,
    to_status: AssetStatus,
    from_employee_id: Option<Uuid>,
    to_employee_id: Option<Uuid>,
    from_location_id: Option<Uuid>,
    to_location_id: Option<Uuid>,
    /// As it was afterwards.
    condition: Condition,
    /// Who did it: `user:<id>`, `api_key:<id>`, `job:<id>`, `operator`.
    actor: String,
    ip: Option<String>,
    user_agent: Option<String>,
    #[schema(value_type = Option<String>)]
    amount: Option<Decimal>,
    note: Option<String>,
    created_at: DateTime<Utc>,
}

/// A page of history, newest first.
#[derive(Serialize, ToSchema)]
struct TransactionPage {
    transactions: Vec<TransactionView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

impl TransactionView {
    /// What the caller may see of it.
    fn of(row: Transaction, caller: &Caller) -> Self {
        let (costs, private) = (caller.may_see(Field::AssetCost), caller.may_see(Field::EmployeePrivate));
        Self {
            id: row.id,
            asset_id: row.asset_id,
            kind: row.kind,
            from_status: row.from_status,
            to_status: row.to_status,
            from_employee_id: row.from_employee_id,
            to_employee_id: row.to_employee_id,
            from_location_id: row.from_location_id,
            to_location_id: row.to_location_id,
            condition: row.condition,
            actor: row.actor,
            ip: row.ip.filter(|_| private),
            user_agent: row.user_agent.filter(|_| private),
            amount: row.amount.filter(|_| costs),
            note: row.note.filter(|_| private),
            created_at: row.created_at,
        }
    }
}

/// Who asks for a step, and how.
struct Request<'a> {
    state: &'a ApiState,
    caller: &'a Caller,
    origin: &'a Origin,
    idempotency: Option<Idempotency>,
}

async fn take(
    request: Request<'_>,
    (id, step): (Uuid, Step),
    (amount, note): (Option<Decimal>, Option<String>),
) -> Result<Response, Problem> {
    let Request { state, caller, origin, idempotency } = request;
    let mut errors = FieldErrors::default();
    check_amount(&mut errors, "amount", amount);
    if let Some(note) = &note {
        errors.check("note", many_lines(note, 2_000));
    }
    errors.into_result()?;
    let mut work = match begin_tenant(state, &caller.organization, idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let actor = caller.actor();
    let said = (Remark { amount, note: note.as_deref() }, &asked(state, &actor, origin));
    // Whose asset it is not is told nothing of employees and places either.
    assets::exists(&mut work, id).await?.then_some(()).ok_or_else(|| Problem::not_found("asset"))?;
    let moved = doors::step(&mut work, sealer(state, caller), (id, &step), said).await.map_err(refused)?;
    let asset = moved.ok_or_else(|| Problem::not_found("asset"))?;
    let today = state.app.clock.today(caller.organization.time_zone);
    work.finish(Answer::new(StatusCode::OK, &AssetView::of(asset, caller, today))).await
}

/// Gives an asset that is in stock to an employee. Of two who ask at once, one is told that it is assigned already.
#[utoipa::path(
    post, path = "/assets/{id}/assign", tag = "assets", operation_id = "assign_asset",
    security(("api_key" = ["assets:write"]), ("person" = ["assets:write"])),
    params(("id" = Uuid, Path)),
    request_body = AssignRequest,
    responses((status = 200, body = AssetView), Problems)
)]
async fn assign(
    State(state): State<ApiState>,
    caller: May<AssetsWrite>,
    origin: Origin,
    Id(id): Id,
    posted: Posted<AssignRequest>,
) -> Result<Response, Problem> {
    let AssignRequest { employee_id, note } = posted.body;
    let request = Request { state: &state, caller: &caller, origin: &origin, idempotency: posted.idempotency };
    take(request, (id, Step::Assign { employee_id }), (None, note)).await
}

/// Takes an asset back from who holds it.
#[utoipa::path(
    post, path = "/assets/{id}/return", tag = "assets", operation_id = "return_asset",
    security(("api_key" = ["assets:write"]), ("person" = ["assets:write"])),
    params(("id" = Uuid, Path)),
    request_body = ReturnRequest,
    responses((status = 200, body = AssetView), Problems)
)]
async fn take_back(
    State(state): State<ApiState>,
    caller: May<AssetsWrite>,
    origin: Origin,
    Id(id): Id,
    posted: Posted<ReturnRequest>,
) -> Result<Response, Problem> {
    let ReturnRequest { location_id, condition, note } = posted.body;
    let request = Request { state: &state, caller: &caller, origin: &origin, idempotency: posted.idempotency };
    take(request, (id, Step::Return { location_id, condition }), (None, note)).await
}

/// Transfers an asset to another employee, another location, or both.
#[utoipa::path(
    post, path = "/assets/{id}/transfer", tag = "assets", operation_id = "transfer_asset",
    security(("api_key" = ["assets:write"]), ("person" = ["assets:write"])),
    params(("id" = Uuid, Path)),
    request_body = TransferRequest,
    responses((status = 200, body = AssetView), Problems)
)]
async fn transfer(
    State(state): State<ApiState>,
    caller: May<AssetsWrite>,
    origin: Origin,
    Id(id): Id,
    posted: Posted<TransferRequest>,
) -> Result<Response, Problem> {
    let TransferRequest { employee_id, location_id, note } = posted.body;
    if employee_id.is_none() && location_id.is_none() {
        return Err(Problem::field("employee_id", "required", "is missing; name an employee, a location or both"));
    }
    let request = Request { state: &state, caller: &caller, origin: &origin, idempotency: posted.idempotency };
    take(request, (id, Step::Transfer { employee_id, location_id }), (None, note)).await
}

/// Changes an asset's status: it arrives, goes into repair, comes back from there, is lost, stolen, found or retired.
#[utoipa::path(
    post, path = "/assets/{id}/status", tag = "assets", operation_id = "change_asset_status",
    security(("api_key" = ["assets:write"]), ("person" = ["assets:write"])),
    params(("id" = Uuid, Path)),
    request_body = StatusRequest,
    responses((status = 200, body = AssetView), Problems)
)]
async fn change_status(
    State(state): State<ApiState>,
    caller: May<AssetsWrite>,
    origin: Origin,
    Id(id): Id,
    posted: Posted<StatusRequest>,
) -> Result<Response, Problem> {
    let StatusRequest { status, condition, amount, note } = posted.body;
    let request = Request { state: &state, caller: &caller, origin: &origin, idempotency: posted.idempotency };
    take(request, (id, Step::Become { status, condition }), (amount, note)).await
}

/// Lists what happened to an asset, newest first.
#[utoipa::path(
    get, path = "/assets/{id}/history", tag = "assets", operation_id = "list_asset_history",
    security(("api_key" = ["assets:read"]), ("person" = ["assets:read"])),
    params(("id" = Uuid, Path), ListParams),
    responses((status = 200, body = TransactionPage), Problems)
)]
async fn of_asset(
    State(state): State<ApiState>,
    caller: May<AssetsRead>,
    Id(id): Id,
    Query(params): Query<ListParams>,
) -> Result<Json<TransactionPage>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    assets::exists(&mut tx, id).await?.then_some(()).ok_or_else(|| Problem::not_found("asset"))?;
    let page = page_of(&mut tx, (&state, &caller), Of::Asset(id), params).await?;
    tx.commit().await?;
    Ok(Json(page))
}

/// Lists what came to an employee and went from them, newest first.
#[utoipa::path(
    get, path = "/employees/{id}/history", tag = "assets", operation_id = "list_employee_history",
    security(("api_key" = ["assets:read"]), ("person" = ["assets:read"])),
    params(("id" = Uuid, Path), ListParams),
    responses((status = 200, body = TransactionPage), Problems)
)]
async fn of_employee(
    State(state): State<ApiState>,
    caller: May<AssetsRead>,
    Id(id): Id,
    Query(params): Query<ListParams>,
) -> Result<Json<TransactionPage>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    employees::exists(&mut tx, id).await?.then_some(()).ok_or_else(|| Problem::not_found("employee"))?;
    let page = page_of(&mut tx, (&state, &caller), Of::Employee(id), params).await?;
    tx.commit().await?;
    Ok(Json(page))
}

async fn page_of(
    db: &mut sqlx::PgConnection,
    (state, caller): (&ApiState, &Caller),
    of: Of,
    params: ListParams,
) -> Result<TransactionPage, Problem> {
    let page = params.newest_first(LIST)?;
    let mut rows = asset_transactions::page(db, sealer(state, caller), of, page).await?;
    let next_cursor = params.limit.cut(LIST, &mut rows, |row| row.id);
    let transactions = rows.into_iter().map(|row| TransactionView::of(row, caller)).collect();
    Ok(TransactionPage { transactions, next_cursor })
}
