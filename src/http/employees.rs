//! Employees (ASSET-1): who works here. All but work e-mail, title, department and dates of employment is sealed at rest; what is
//! private, only admins and keys see.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{Caller, May, PeopleRead, PeopleWrite},
    cursor::{self, Limit},
    edge::Trace,
    extract::{Id, Json as Body, NoBody, Posted, Query, present},
    idempotency::{Answer, Begun, begin_tenant},
    openapi::Problems,
    problem::Problem,
    sealer,
};
use crate::{
    domain::{
        EmailAddress, Employee, EmployeeStatus, FieldErrors, NewEmployee,
        employee::{PersonName, Private},
        policy::Field,
    },
    jobs::people::doors::{self, Asked},
    store::{
        Page, StoreError,
        employees::{self, EmployeeFilter},
    },
    tenant,
};

const LIST: &str = "employees";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show, change))
        .routes(routes!(terminate))
        .routes(routes!(reactivate))
}

/// An employee to be stored. One of the names is enough.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EmployeeRequest {
    /// Unique within the organization.
    #[schema(format = Email, example = "anna.ek@acme.example")]
    work_email: Option<String>,
    #[serde(default)]
    #[schema(max_length = 200)]
    first_name: String,
    #[serde(default)]
    #[schema(max_length = 200)]
    last_name: String,
    #[schema(max_length = 50)]
    phone: Option<String>,
    #[schema(max_length = 1000)]
    home_address: Option<String>,
    #[schema(max_length = 50)]
    social_security_number: Option<String>,
    #[schema(max_length = 50)]
    national_id: Option<String>,
    date_of_birth: Option<NaiveDate>,
    /// Fields of the organization's own.
    #[serde(default)]
    #[schema(value_type = Object)]
    custom: BTreeMap<String, Value>,
    #[schema(max_length = 200, example = "Accountant")]
    title: Option<String>,
    #[schema(max_length = 200)]
    department: Option<String>,
    /// Another employee.
    manager_id: Option<Uuid>,
    location_id: Option<Uuid>,
    /// `active` if it is left out.
    status: Option<EmployeeStatus>,
    hire_date: Option<NaiveDate>,
    /// The last day.
    termination_date: Option<NaiveDate>,
}

/// A change of an employee: what is left out stays, `null` takes a value away (RFC 7396).
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EmployeeChange {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    work_email: Option<Option<String>>,
    first_name: Option<String>,
    last_name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    phone: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    home_address: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    social_security_number: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    national_id: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<NaiveDate>)]
    date_of_birth: Option<Option<NaiveDate>>,
    /// All of them: what is not named here is gone.
    #[schema(value_type = Option<Object>)]
    custom: Option<BTreeMap<String, Value>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    title: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    department: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Uuid>)]
    manager_id: Option<Option<Uuid>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Uuid>)]
    location_id: Option<Option<Uuid>>,
    /// `active` or `on_leave`; the rest by `terminate` and `reactivate`.
    status: Option<EmployeeStatus>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<NaiveDate>)]
    hire_date: Option<Option<NaiveDate>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<NaiveDate>)]
    termination_date: Option<Option<NaiveDate>>,
}

/// An employee. Phone, address, numbers, date of birth and custom fields are for admins and keys; others see null and `{}`.
#[derive(Serialize, ToSchema)]
#[schema(as = Employee)]
pub(super) struct EmployeeView {
    id: Uuid,
    work_email: Option<String>,
    first_name: String,
    last_name: String,
    phone: Option<String>,
    home_address: Option<String>,
    social_security_number: Option<String>,
    national_id: Option<String>,
    date_of_birth: Option<NaiveDate>,
    #[schema(value_type = Object)]
    custom: BTreeMap<String, Value>,
    title: Option<String>,
    department: Option<String>,
    manager_id: Option<Uuid>,
    location_id: Option<Uuid>,
    status: EmployeeStatus,
    hire_date: Option<NaiveDate>,
    termination_date: Option<NaiveDate>,
    /// The integration that tells of them; null: they were written down by hand.
    integration_id: Option<Uuid>,
    /// Their id at the HRIS.
    hris_id: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A page of employees, oldest first.
#[derive(Serialize, ToSchema)]
struct EmployeePage {
    employees: Vec<EmployeeView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// When somebody goes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TerminationRequest {
    /// The last day; today if it is left out.
    termination_date: Option<NaiveDate>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// The work e-mail or its beginning, in any case.
    email: Option<String>,
    /// Part of the title, in any case.
    title: Option<String>,
    department: Option<String>,
    #[param(inline)]
    status: Option<EmployeeStatus>,
    location_id: Option<Uuid>,
    manager_id: Option<Uuid>,
    /// The id at the HRIS, the whole of it.
    hris_id: Option<String>,
    integration_id: Option<Uuid>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl EmployeeView {
    /// What the caller may see of it.
    fn of(employee: Employee, caller: &Caller) -> Self {
        let sees = caller.may_see(Field::EmployeePrivate);
        let NewEmployee { work_email, name, private, title, department, manager_id, location_id, .. } = employee.facts;
        let private = if sees { private } else { Private::default() };
        Self {
            id: employee.id,
            work_email: work_email.map(Into::into),
            first_name: name.first,
            last_name: name.last,
            phone: private.phone,
            home_address: private.home_address,
            social_security_number: private.social_security_number,
            national_id: private.national_id,
            date_of_birth: private.date_of_birth,
            custom: private.custom,
            title,
            department,
            manager_id,
            location_id,
            status: employee.facts.status,
            hire_date: employee.facts.hire_date,
            termination_date: employee.facts.termination_date,
            integration_id: employee.integration_id,
            hris_id: employee.external_id,
            created_at: employee.created_at,
            updated_at: employee.updated_at,
        }
    }
}

impl EmployeeRequest {
    fn parse(self) -> Result<NewEmployee, FieldErrors> {
        let mut errors = FieldErrors::default();
        let work_email = self.work_email.and_then(|email| errors.check("work_email", EmailAddress::parse(&email)));
        errors.into_result()?;
        let employee = NewEmployee {
            work_email,
            name: PersonName { first: self.first_name, last: self.last_name },
            private: Private {
                phone: self.phone,
                home_address: self.home_address,
                social_security_number: self.social_security_number,
                national_id: self.national_id,
                date_of_birth: self.date_of_birth,
                custom: self.custom,
            },
            title: self.title,
            department: self.department,
            manager_id: self.manager_id,
            location_id: self.location_id,
            status: self.status.unwrap_or_default(),
            hire_date: self.hire_date,
            termination_date: self.termination_date,
        };
        employee.validate()?;
        Ok(employee)
    }
}

impl EmployeeChange {
    /// The employee as they shall be.
    fn apply(self, before: NewEmployee) -> Result<NewEmployee, FieldErrors> {
        let mut errors = FieldErrors::default();
        let work_email = match self.work_email {
            None => before.work_email,
            Some(None) => None,
            Some(Some(email)) => errors.check("work_email", EmailAddress::parse(&email)),
        };
        let status = self.status.unwrap_or(before.status);
        let stays = status.is_employed() == before.status.is_employed();
        errors.require(stays, "status", "invalid", "is changed by `/terminate` and `/reactivate`");
        errors.into_result()?;
        let private = before.private;
        let changed = NewEmployee {
            work_email,
            name: PersonName {
                first: self.first_name.unwrap_or(before.name.first),
                last: self.last_name.unwrap_or(before.name.last),
            },
            private: Private {
                phone: self.phone.unwrap_or(private.phone),
                home_address: self.home_address.unwrap_or(private.home_address),
                social_security_number: self.social_security_number.unwrap_or(private.social_security_number),
                national_id: self.national_id.unwrap_or(private.national_id),
                date_of_birth: self.date_of_birth.unwrap_or(private.date_of_birth),
                custom: self.custom.unwrap_or(private.custom),
            },
            title: self.title.unwrap_or(before.title),
            department: self.department.unwrap_or(before.department),
            manager_id: self.manager_id.unwrap_or(before.manager_id),
            location_id: self.location_id.unwrap_or(before.location_id),
            status,
            hire_date: self.hire_date.unwrap_or(before.hire_date),
            termination_date: self.termination_date.unwrap_or(before.termination_date),
        };
        changed.validate()?;
        Ok(changed)
    }
}

/// An address that somebody has is a conflict; a manager or a place that there is not, a mistake.
fn refused(error: StoreError) -> Problem {
    match error {
        StoreError::Conflict { field: field @ ("manager_id" | "location_id"), message } => {
            Problem::field(field, "unknown", message)
        }
        error => error.into(),
    }
}

/// Stores an employee.
#[utoipa::path(
    post, path = "/employees", tag = "employees", operation_id = "create_employee",
    security(("api_key" = ["people:write"]), ("person" = ["people:write"])),
    request_body = EmployeeRequest,
    responses((status = 201, description = "Stored", body = EmployeeView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    caller: May<PeopleWrite>,
    posted: Posted<EmployeeRequest>,
) -> Result<Response, Problem> {
    let new = posted.body.parse()?;
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let asked = Asked { actor: &caller.actor(), now: state.app.clock.now(), trace: None };
    let employee = doors::create_employee(&mut work, sealer(&state, &caller), &new, &asked).await.map_err(refused)?;
    let location = format!("/api/v1/employees/{}", employee.id);
    work.finish(Answer::new(StatusCode::CREATED, &EmployeeView::of(employee, &caller)).at(location)).await
}

/// Lists employees, oldest first.
#[utoipa::path(
    get, path = "/employees", tag = "employees", operation_id = "list_employees",
    security(("api_key" = ["people:read"]), ("person" = ["people:read"])),
    params(ListParams),
    responses((status = 200, body = EmployeePage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<PeopleRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<EmployeePage>, Problem> {
    let page = Page {
        after: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
        newest_first: false,
    };
    let filter = EmployeeFilter {
        email: params.email,
        title: params.title,
        department: params.department,
        status: params.status,
        location_id: params.location_id,
        manager_id: params.manager_id,
        external_id: params.hris_id,
        integration_id: params.integration_id,
    };
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let mut employees = employees::page(&mut tx, sealer(&state, &caller), &filter, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut employees, |employee| employee.id);
    let employees = employees.into_iter().map(|employee| EmployeeView::of(employee, &caller)).collect();
    Ok(Json(EmployeePage { employees, next_cursor }))
}

/// Shows an employee.
#[utoipa::path(
    get, path = "/employees/{id}", tag = "employees", operation_id = "get_employee",
    security(("api_key" = ["people:read"]), ("person" = ["people:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = EmployeeView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    caller: May<PeopleRead>,
    Id(id): Id,
) -> Result<Json<EmployeeView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let employee = employees::by_id(&mut tx, sealer(&state, &caller), id).await?;
    tx.commit().await?;
    employee.map(|employee| Json(EmployeeView::of(employee, &caller))).ok_or_else(|| Problem::not_found("employee"))
}

/// Changes an employee.
#[utoipa::path(
    patch, path = "/employees/{id}", tag = "employees", operation_id = "change_employee",
    security(("api_key" = ["people:write"]), ("person" = ["people:write"])),
    params(("id" = Uuid, Path)),
    request_body = EmployeeChange,
    responses((status = 200, body = EmployeeView), Problems)
)]
async fn change(
    State(state): State<ApiState>,
    caller: May<PeopleWrite>,
    Id(id): Id,
    Body(change): Body<EmployeeChange>,
) -> Result<Json<EmployeeView>, Problem> {
    let sealer = sealer(&state, &caller);
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let found = employees::lock(&mut tx, sealer, id).await?.ok_or_else(|| Problem::not_found("employee"))?;
    let changed = change.apply(found.facts)?;
    let asked = Asked { actor: &caller.actor(), now: state.app.clock.now(), trace: None };
    let employee = doors::change_employee(&mut tx, sealer, (id, &changed), &asked).await.map_err(refused)?;
    tx.commit().await?;
    Ok(Json(EmployeeView::of(employee, &caller)))
}

/// Terminates an employee. The offboarding workflow starts, with a step for each asset that they hold.
#[utoipa::path(
    post, path = "/employees/{id}/terminate", tag = "employees", operation_id = "terminate_employee",
    security(("api_key" = ["people:write"]), ("person" = ["people:write"])),
    params(("id" = Uuid, Path)),
    request_body = TerminationRequest,
    responses((status = 200, body = EmployeeView), Problems)
)]
async fn terminate(
    State(state): State<ApiState>,
    caller: May<PeopleWrite>,
    Trace(trace): Trace,
    Id(id): Id,
    posted: Posted<TerminationRequest>,
) -> Result<Response, Problem> {
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let today = state.app.clock.today(caller.organization.time_zone);
    let last_day = posted.body.termination_date.unwrap_or(today);
    let asked = Asked { actor: &caller.actor(), now: state.app.clock.now(), trace: Some(trace) };
    let whose = (&caller.organization, sealer(&state, &caller));
    let gone = doors::terminate_employee(&mut work, whose, (id, last_day), &asked).await?;
    let employee = gone.ok_or_else(|| Problem::not_found("employee"))?;
    work.finish(Answer::new(StatusCode::OK, &EmployeeView::of(employee, &caller))).await
}

/// Takes a terminated employee back.
#[utoipa::path(
    post, path = "/employees/{id}/reactivate", tag = "employees", operation_id = "reactivate_employee",
    security(("api_key" = ["people:write"]), ("person" = ["people:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = EmployeeView), Problems)
)]
async fn reactivate(
    State(state): State<ApiState>,
    caller: May<PeopleWrite>,
    Id(id): Id,
    posted: NoBody,
) -> Result<Response, Problem> {
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let asked = Asked { actor: &caller.actor(), now: state.app.clock.now(), trace: None };
    let back = doors::reactivate_employee(&mut work, sealer(&state, &caller), id, &asked).await?;
    let employee = back.ok_or_else(|| Problem::not_found("employee"))?;
    work.finish(Answer::new(StatusCode::OK, &EmployeeView::of(employee, &caller))).await
}
