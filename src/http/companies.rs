//! Companies: the customers that are invoiced (BILL-1). Phone and contact are sealed at rest.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{BillingRead, BillingWrite, Caller, May, OfCompany},
    cursor::{self, Limit},
    extract::{Id, Json as Body, Posted, Query, present},
    idempotency::{Answer, Begun, begin_tenant},
    openapi::Problems,
    problem::Problem,
    sealer,
};
use crate::{
    domain::{Company, Contact, EmailAddress, FieldErrors, Language, NewCompany, OrgNumber, Phone, policy::Field},
    jobs::billing,
    store::{
        Page,
        companies::{self, CompanyFilter},
    },
    tenant,
};

const LIST: &str = "companies";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(show, change))
}

/// A company to be stored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CompanyRequest {
    #[schema(max_length = 200, example = "Nordlys Konsult AB")]
    name: String,
    /// Where invoices and reminders go.
    #[schema(format = Email, example = "ekonomi@nordlys.example")]
    email: String,
    /// Swedish organization number.
    #[schema(example = "556194-7986")]
    org_number: String,
    /// What it is written to in; Swedish if it is left out.
    language: Option<Language>,
    #[schema(example = "070-123 45 67")]
    phone: Option<String>,
    contact: Option<ContactView>,
}

/// A change of a company: what is left out stays, `null` takes phone or contact away (RFC 7396).
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CompanyChange {
    name: Option<String>,
    email: Option<String>,
    org_number: Option<String>,
    language: Option<Language>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    phone: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<ContactView>)]
    contact: Option<Option<ContactView>>,
}

/// The person to talk to.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Contact)]
#[serde(deny_unknown_fields)]
struct ContactView {
    name: Option<String>,
    title: Option<String>,
    phone: Option<String>,
    notes: Option<String>,
}

/// A company.
#[derive(Serialize, ToSchema)]
#[schema(as = Company)]
struct CompanyView {
    id: Uuid,
    name: String,
    email: String,
    /// Ten digits with a hyphen.
    #[schema(example = "556194-7986")]
    org_number: String,
    language: Language,
    /// International form.
    #[schema(example = "+46701234567")]
    phone: Option<String>,
    contact: Option<ContactView>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// A page of companies, oldest first.
#[derive(Serialize, ToSchema)]
struct CompanyPage {
    companies: Vec<CompanyView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Part of the name, in any case.
    q: Option<String>,
    /// The whole address.
    #[param(value_type = Option<String>)]
    email: Option<EmailAddress>,
    #[param(value_type = Option<String>)]
    org_number: Option<OrgNumber>,
    /// The whole number, in any form.
    #[param(value_type = Option<String>)]
    phone: Option<Phone>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<Contact> for ContactView {
    fn from(Contact { name, title, phone, notes }: Contact) -> Self {
        Self { name, title, phone, notes }
    }
}

impl From<ContactView> for Contact {
    fn from(ContactView { name, title, phone, notes }: ContactView) -> Self {
        Self { name, title, phone, notes }
    }
}

impl CompanyView {
    /// What the caller may see of it.
    fn of(company: Company, caller: &Caller) -> Self {
        let mut view = Self::from(company);
        if let Some(contact) = view.contact.as_mut().filter(|_| !caller.may_see(Field::ContactNotes)) {
            contact.notes = None;
        }
        view
    }
}

impl From<Company> for CompanyView {
    fn from(company: Company) -> Self {
        Self {
            id: company.id,
            name: company.name,
            email: company.email.into(),
            org_number: company.org_number.to_string(),
            language: company.language,
            phone: company.phone.map(Into::into),
            contact: company.contact.map(Into::into),
            created_at: company.created_at,
            updated_at: company.updated_at,
        }
    }
}

impl CompanyRequest {
    fn parse(self) -> Result<NewCompany, FieldErrors> {
        let mut errors = FieldErrors::default();
        let email = errors.check("email", EmailAddress::parse(&self.email));
        let org_number = errors.check("org_number", OrgNumber::parse(&self.org_number));
        let phone = self.phone.map(|phone| errors.check("phone", Phone::parse(&phone)));
        let (Some(email), Some(org_number), None | Some(Some(_))) = (email, org_number, &phone) else {
            return Err(errors);
        };
        let company = NewCompany {
            name: self.name,
            email,
            org_number,
            language: self.language.unwrap_or_default(),
            phone: phone.flatten(),
            contact: self.contact.map(Into::into),
        };
        company.validate()?;
        Ok(company)
    }
}

impl CompanyChange {
    /// The company as it shall be.
    fn apply(self, company: Company) -> Result<NewCompany, FieldErrors> {
        let mut errors = FieldErrors::default();
        let email = self.email.map(|email| errors.check("email", EmailAddress::parse(&email)));
        let org_number = self.org_number.map(|number| errors.check("org_number", OrgNumber::parse(&number)));
        let phone = match self.phone {
            None => company.phone,
            Some(None) => None,
            Some(Some(phone)) => errors.check("phone", Phone::parse(&phone)),
        };
        errors.into_result()?;
        let changed = NewCompany {
            name: self.name.unwrap_or(company.name),
            email: email.flatten().unwrap_or(company.email),
            org_number: org_number.flatten().unwrap_or(company.org_number),
            language: self.language.unwrap_or(company.language),
            phone,
            contact: self.contact.map_or(company.contact, |contact| contact.map(Into::into)),
        };
        changed.validate()?;
        Ok(changed)
    }
}

/// Stores a company.
#[utoipa::path(
    post, path = "/companies", tag = "companies", operation_id = "create_company",
    security(("api_key" = ["billing:write"])),
    request_body = CompanyRequest,
    responses((status = 201, description = "Stored", body = CompanyView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    caller: May<BillingWrite>,
    posted: Posted<CompanyRequest>,
) -> Result<Response, Problem> {
    let company = posted.body.parse()?;
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let now = state.app.clock.now();
    let company = billing::create_company(&mut work, sealer(&state, &caller), &company, &caller.actor(), now).await?;
    let location = format!("/api/v1/companies/{}", company.id);
    work.finish(Answer::new(StatusCode::CREATED, &CompanyView::from(company)).at(location)).await
}

/// Lists companies, oldest first. A customer's list has their own company at most.
#[utoipa::path(
    get, path = "/companies", tag = "companies", operation_id = "list_companies",
    security(("api_key" = ["billing:read"])),
    params(ListParams),
    responses((status = 200, body = CompanyPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: OfCompany<BillingRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<CompanyPage>, Problem> {
    let page = Page {
        after: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
        newest_first: false,
    };
    let filter = CompanyFilter {
        id: caller.company(),
        name: params.q,
        email: params.email,
        org_number: params.org_number,
        phone: params.phone,
    };
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let mut companies = companies::page(&mut tx, sealer(&state, &caller), &filter, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut companies, |company| company.id);
    let companies = companies.into_iter().map(|company| CompanyView::of(company, &caller)).collect();
    Ok(Json(CompanyPage { companies, next_cursor }))
}

/// Shows a company.
#[utoipa::path(
    get, path = "/companies/{id}", tag = "companies", operation_id = "get_company",
    security(("api_key" = ["billing:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = CompanyView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    caller: OfCompany<BillingRead>,
    Id(id): Id,
) -> Result<Json<CompanyView>, Problem> {
    if !caller.sees(id) {
        return Err(Problem::not_found("company"));
    }
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let company = companies::by_id(&mut tx, sealer(&state, &caller), id).await?;
    tx.commit().await?;
    company.map(|company| Json(CompanyView::of(company, &caller))).ok_or_else(|| Problem::not_found("company"))
}

/// Changes a company.
#[utoipa::path(
    patch, path = "/companies/{id}", tag = "companies", operation_id = "change_company",
    security(("api_key" = ["billing:write"])),
    params(("id" = Uuid, Path)),
    request_body = CompanyChange,
    responses((status = 200, body = CompanyView), Problems)
)]
async fn change(
    State(state): State<ApiState>,
    caller: May<BillingWrite>,
    Id(id): Id,
    Body(change): Body<CompanyChange>,
) -> Result<Json<CompanyView>, Problem> {
    let sealer = sealer(&state, &caller);
    let now = state.app.clock.now();
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let company = companies::by_id(&mut tx, sealer, id).await?.ok_or_else(|| Problem::not_found("company"))?;
    let changed = change.apply(company)?;
    let company = billing::update_company(&mut tx, sealer, (id, &changed), &caller.actor(), now).await?;
    let company = company.ok_or_else(|| Problem::not_found("company"))?;
    tx.commit().await?;
    Ok(Json(company.into()))
}
