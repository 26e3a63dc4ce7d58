//! Invoices and their reminders (BILL-3, BILL-7, BILL-8, BILL-10).

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use backroom_queue::{self as queue, NewJob};
use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use tokio::sync::SemaphorePermit;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{BillingRead, BillingWrite, Caller, May, OfCompany},
    cursor::{self, Flag, Limit},
    edge::Trace,
    extract::{Csv, Id, NoBody, Posted, Query},
    idempotency::{Answer, Begun, begin, begin_tenant},
    jobs::{self, EnqueuedView},
    openapi::Problems,
    problem::{Problem, ProblemType},
    today,
};
use crate::{
    domain::{
        Currency, FieldErrors, Invoice, InvoiceStatus, Item, NewInvoice, NewItem,
        invoice::{DEFAULT_PAYMENT_TERMS_DAYS, DEFAULT_TAX_RATE, default_due_date},
        policy::Field,
    },
    jobs::billing::{self, ImportFailure, ImportReport, SweepOverdue},
    store::{
        Page, StoreError,
        invoices::{self, InvoiceFilter},
    },
    tenant,
};

const LIST: &str = "invoices";
/// How long a file waits for its turn.
const IMPORT_PATIENCE: Duration = Duration::from_secs(5);

/// How many files are imported at a time. An import under a key holds two connections, one for the key and one for its
/// steps, so imports together hold half of the pool at most (of a pool of two or three: one import). The other half is for everybody else, the leases of running
/// jobs included where one process is the whole platform.
pub fn imports_at_once(max_connections: u32) -> usize {
    usize::try_from(max_connections / 4).unwrap_or(1).max(1)
}

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show))
        .routes(routes!(mark_paid))
        .routes(routes!(cancel))
        .routes(routes!(clear_reminder_failure))
        .routes(routes!(remind))
}

/// Routes whose bodies may be large.
pub fn import_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(import))
}

/// An invoice to be stored. Subtotal, tax and total are the server's.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct InvoiceRequest {
    /// Unique within the organization.
    #[schema(max_length = 50, example = "2026-0042")]
    number: String,
    company_id: Uuid,
    project_id: Option<Uuid>,
    contract_id: Option<Uuid>,
    /// `draft`, `sent` or `unpaid`; a draft if it is left out.
    #[serde(default)]
    status: InvoiceStatus,
    /// ISO 4217; the organization's own if it is left out.
    #[schema(example = "SEK")]
    currency: Option<String>,
    /// Today in the organization's time zone if it is left out.
    issue_date: Option<NaiveDate>,
    /// The issue date and the payment terms if it is left out.
    due_date: Option<NaiveDate>,
    /// 0 to 365; 30 if it is left out.
    payment_terms_days: Option<i32>,
    notes: Option<String>,
    #[schema(min_items = 1, max_items = 200)]
    items: Vec<ItemRequest>,
}

/// A line of an invoice to be stored. Amounts may be text (`"100.50"`), which is exact, or numbers.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ItemRequest {
    #[schema(max_length = 500, example = "Consulting")]
    description: String,
    #[schema(value_type = String, example = "12.5")]
    quantity: Decimal,
    /// Before tax.
    #[schema(value_type = String, example = "1150.00")]
    unit_price: Decimal,
    /// 0 to 1; 0.25 (25 %) if it is left out.
    #[schema(value_type = Option<String>, example = "0.25")]
    tax_rate: Option<Decimal>,
}

/// An invoice. Amounts are text, so that no reader rounds them.
#[derive(Serialize, ToSchema)]
#[schema(as = Invoice)]
struct InvoiceView {
    id: Uuid,
    number: String,
    company_id: Uuid,
    project_id: Option<Uuid>,
    contract_id: Option<Uuid>,
    status: InvoiceStatus,
    #[schema(example = "SEK")]
    currency: String,
    issue_date: NaiveDate,
    due_date: NaiveDate,
    payment_terms_days: i32,
    notes: Option<String>,
    #[schema(value_type = String)]
    subtotal: Decimal,
    #[schema(value_type = String)]
    tax: Decimal,
    #[schema(value_type = String)]
    total: Decimal,
    paid_on: Option<NaiveDate>,
    /// Reminders sent so far.
    reminder_stage: u32,
    last_reminder_sent_at: Option<DateTime<Utc>>,
    /// A reminder could not be sent; none is sent until this is cleared.
    reminder_failed_at: Option<DateTime<Utc>>,
    reminder_error: Option<String>,
    /// The last reminder went unanswered and an admin was told.
    dunning_ended_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    items: Vec<ItemView>,
}

/// A line of an invoice.
#[derive(Serialize, ToSchema)]
#[schema(as = InvoiceItem)]
struct ItemView {
    position: i32,
    description: String,
    #[schema(value_type = String)]
    quantity: Decimal,
    #[schema(value_type = String)]
    unit_price: Decimal,
    #[schema(value_type = String)]
    tax_rate: Decimal,
    #[schema(value_type = String)]
    net: Decimal,
    #[schema(value_type = String)]
    tax: Decimal,
}

/// A page of invoices.
#[derive(Serialize, ToSchema)]
struct InvoicePage {
    invoices: Vec<InvoiceView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// When an invoice was paid.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Payment {
    /// Today in the organization's time zone if it is left out.
    paid_on: Option<NaiveDate>,
}

/// What became of an import.
#[derive(Serialize, ToSchema)]
struct Imported {
    imported: u64,
    /// There already, and the same.
    unchanged: u64,
    companies_created: u64,
    /// What was not imported and why.
    errors: Vec<ImportedLine>,
}

/// A line that was not imported.
#[derive(Serialize, ToSchema)]
struct ImportedLine {
    /// Of the file, from 1; the header is line 1.
    line: u64,
    field: String,
    message: String,
}

impl From<ImportReport> for Imported {
    fn from(report: ImportReport) -> Self {
        let errors = report.errors.into_iter();
        Self {
            imported: report.imported,
            unchanged: report.unchanged,
            companies_created: report.companies_created,
            errors: errors.map(|e| ImportedLine { line: e.line, field: e.field, message: e.message }).collect(),
        }
    }
}

impl From<ImportFailure> for Problem {
    fn from(failure: ImportFailure) -> Self {
        match failure {
            ImportFailure::File(error) => Self::field("body", "invalid", error.to_string()),
            ImportFailure::Store(error) => error.into(),
        }
    }
}

/// The order of a list of invoices.
#[derive(Clone, Copy, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Sort {
    /// Oldest first.
    #[default]
    Created,
    /// Newest first.
    CreatedDesc,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    status: Option<InvoiceStatus>,
    company_id: Option<Uuid>,
    number: Option<String>,
    /// `true`: owed, and due before today in the organization's time zone.
    #[serde(default)]
    #[param(value_type = bool, required = false)]
    overdue: Flag,
    /// Whether a reminder failed and waits to be cleared.
    #[param(value_type = Option<bool>)]
    reminder_failed: Option<Flag>,
    #[serde(default)]
    #[param(inline, required = false)]
    sort: Sort,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<Item> for ItemView {
    fn from(Item { position, description, quantity, unit_price, tax_rate, net, tax }: Item) -> Self {
        Self { position, description, quantity, unit_price, tax_rate, net, tax }
    }
}

impl InvoiceView {
    /// What the caller may see of it.
    fn of(invoice: Invoice, caller: &Caller) -> Self {
        let mut view = Self::from(invoice);
        if !caller.may_see(Field::ReminderError) {
            view.reminder_error = None;
        }
        view
    }
}

impl From<Invoice> for InvoiceView {
    fn from(invoice: Invoice) -> Self {
        Self {
            id: invoice.id,
            number: invoice.number,
            company_id: invoice.company_id,
            project_id: invoice.project_id,
            contract_id: invoice.contract_id,
            status: invoice.status,
            currency: invoice.currency.as_str().to_owned(),
            issue_date: invoice.issue_date,
            due_date: invoice.due_date,
            payment_terms_days: invoice.payment_terms_days,
            notes: invoice.notes,
            subtotal: invoice.subtotal,
            tax: invoice.tax,
            total: invoice.total,
            paid_on: invoice.paid_on,
            reminder_stage: invoice.reminder_stage,
            last_reminder_sent_at: invoice.last_reminder_sent_at,
            reminder_failed_at: invoice.reminder_failed_at,
            reminder_error: invoice.reminder_error,
            dunning_ended_at: invoice.dunning_ended_at,
            created_at: invoice.created_at,
            updated_at: invoice.updated_at,
            items: invoice.items.into_iter().map(ItemView::from).collect(),
        }
    }
}

impl InvoiceRequest {
    fn parse(self, caller: &Caller, today: NaiveDate) -> Result<NewInvoice, FieldErrors> {
        let mut errors = FieldErrors::default();
        let currency = match &self.currency {
            Some(currency) => errors.check("currency", Currency::parse(currency)),
            None => Some(caller.organization.settings.currency),
        };
        let Some(currency) = currency else { return Err(errors) };
        let issue_date = self.issue_date.unwrap_or(today);
        let payment_terms_days = self.payment_terms_days.unwrap_or(DEFAULT_PAYMENT_TERMS_DAYS);
        let item = |item: ItemRequest| NewItem {
            description: item.description,
            quantity: item.quantity,
            unit_price: item.unit_price,
            tax_rate: item.tax_rate.unwrap_or(DEFAULT_TAX_RATE),
        };
        let invoice = NewInvoice {
            number: self.number,
            company_id: self.company_id,
            project_id: self.project_id,
            contract_id: self.contract_id,
            status: self.status,
            currency,
            issue_date,
            due_date: self.due_date.unwrap_or_else(|| default_due_date(issue_date, payment_terms_days)),
            payment_terms_days,
            notes: self.notes,
            items: self.items.into_iter().map(item).collect(),
        };
        invoice.validate()?;
        Ok(invoice)
    }
}

/// Stores an invoice.
#[utoipa::path(
    post, path = "/invoices", tag = "invoices", operation_id = "create_invoice",
    security(("api_key" = ["billing:write"])),
    request_body = InvoiceRequest,
    responses((status = 201, description = "Stored", body = InvoiceView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    caller: May<BillingWrite>,
    posted: Posted<InvoiceRequest>,
) -> Result<Response, Problem> {
    let invoice = posted.body.parse(&caller, today(&state, &caller))?;
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let now = state.app.clock.now();
    let invoice = billing::create_invoice(&mut work, &invoice, &caller.actor(), now).await.map_err(names_no_company)?;
    let location = format!("/api/v1/invoices/{}", invoice.id);
    work.finish(Answer::new(StatusCode::CREATED, &InvoiceView::from(invoice)).at(location)).await
}

/// A company that does not exist is a mistake in the request, not a collision with what is there.
fn names_no_company(error: StoreError) -> Problem {
    match error {
        StoreError::Conflict { field: field @ ("company_id" | "due_date"), message } => {
            Problem::field(field, "unknown", message)
        }
        other => other.into(),
    }
}

/// Lists invoices. A customer's list has their own company's.
#[utoipa::path(
    get, path = "/invoices", tag = "invoices", operation_id = "list_invoices",
    security(("api_key" = ["billing:read"])),
    params(ListParams),
    responses((status = 200, body = InvoicePage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: OfCompany<BillingRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<InvoicePage>, Problem> {
    let list = if params.sort == Sort::CreatedDesc { "invoices.created_desc" } else { LIST };
    let page = Page {
        after: cursor::decode(list, params.cursor.as_deref())?,
        limit: params.limit.probe(),
        newest_first: params.sort == Sort::CreatedDesc,
    };
    // Another company does not exist for a customer.
    if params.company_id.is_some_and(|company| !caller.sees(company)) {
        return Ok(Json(InvoicePage { invoices: Vec::new(), next_cursor: None }));
    }
    let filter = InvoiceFilter {
        status: params.status,
        company_id: params.company_id.or(caller.company()),
        number: params.number,
        overdue_on: params.overdue.0.then(|| today(&state, &caller)),
        reminder_failed: params.reminder_failed.map(|flag| flag.0),
    };
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let mut invoices = invoices::page(&mut tx, &filter, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(list, &mut invoices, |invoice| invoice.id);
    let invoices = invoices.into_iter().map(|invoice| InvoiceView::of(invoice, &caller)).collect();
    Ok(Json(InvoicePage { invoices, next_cursor }))
}

/// Shows an invoice.
#[utoipa::path(
    get, path = "/invoices/{id}", tag = "invoices", operation_id = "get_invoice",
    security(("api_key" = ["billing:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = InvoiceView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    caller: OfCompany<BillingRead>,
    Id(id): Id,
) -> Result<Json<InvoiceView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let invoice = invoices::by_id(&mut tx, id).await?;
    tx.commit().await?;
    let invoice = invoice.filter(|invoice| caller.sees(invoice.company_id));
    invoice.map(|invoice| Json(InvoiceView::of(invoice, &caller))).ok_or_else(|| Problem::not_found("invoice"))
}

/// Records that an invoice was paid.
#[utoipa::path(
    post, path = "/invoices/{id}/mark-paid", tag = "invoices", operation_id = "mark_invoice_paid",
    security(("api_key" = ["billing:write"])),
    params(("id" = Uuid, Path)),
    request_body = Payment,
    responses((status = 200, body = InvoiceView), Problems)
)]
async fn mark_paid(
    State(state): State<ApiState>,
    caller: May<BillingWrite>,
    Id(id): Id,
    posted: Posted<Payment>,
) -> Result<Response, Problem> {
    let today = today(&state, &caller);
    let paid_on = posted.body.paid_on.unwrap_or(today);
    if paid_on > today || paid_on < today - chrono::Duration::days(3_660) {
        return Err(Problem::field("paid_on", "out_of_range", "must not be in the future nor more than ten years ago"));
    }
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let to = (id, InvoiceStatus::Paid);
    let invoice =
        billing::change_invoice_status(&mut work, to, paid_on, &caller.actor(), state.app.clock.now()).await?;
    let invoice = invoice.ok_or_else(|| Problem::not_found("invoice"))?;
    work.finish(Answer::new(StatusCode::OK, &InvoiceView::from(invoice))).await
}

/// Cancels an invoice that is not paid.
#[utoipa::path(
    post, path = "/invoices/{id}/cancel", tag = "invoices", operation_id = "cancel_invoice",
    security(("api_key" = ["billing:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = InvoiceView), Problems)
)]
async fn cancel(
    State(state): State<ApiState>,
    caller: May<BillingWrite>,
    Id(id): Id,
    posted: NoBody,
) -> Result<Response, Problem> {
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let (to, today) = ((id, InvoiceStatus::Cancelled), today(&state, &caller));
    let invoice = billing::change_invoice_status(&mut work, to, today, &caller.actor(), state.app.clock.now()).await?;
    let invoice = invoice.ok_or_else(|| Problem::not_found("invoice"))?;
    work.finish(Answer::new(StatusCode::OK, &InvoiceView::from(invoice))).await
}

/// Lets the next sweep remind again after a reminder could not be sent.
#[utoipa::path(
    post, path = "/invoices/{id}/clear-reminder-failure", tag = "invoices", operation_id = "clear_reminder_failure",
    security(("api_key" = ["billing:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = InvoiceView), Problems)
)]
async fn clear_reminder_failure(
    State(state): State<ApiState>,
    caller: May<BillingWrite>,
    Id(id): Id,
    posted: NoBody,
) -> Result<Response, Problem> {
    let mut work = match begin_tenant(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let named = (&caller.organization.slug, id);
    let cleared = billing::clear_reminder_failure(&mut work, named, &caller.actor(), state.app.clock.now()).await?;
    let invoice = invoices::by_id(&mut work, id).await?.ok_or_else(|| Problem::not_found("invoice"))?;
    if !cleared {
        return Err(Problem::conflict("no reminder of this invoice has failed; there is nothing to clear"));
    }
    work.finish(Answer::new(StatusCode::OK, &InvoiceView::from(invoice))).await
}

/// Imports invoices from a CSV file: good lines in, bad lines named.
///
/// Columns: `number,org_number,company_name,company_email,language,issue_date,due_date,currency,description,quantity,
/// unit_price,tax_rate`. Adjacent lines with one number are the items of one invoice. Semicolons, decimal commas and a BOM
/// are understood. The same file again changes nothing, so an import that was cut off can be repeated. A few files are
/// imported at a time; one that waits for its turn too long is answered `503` with `Retry-After`.
#[utoipa::path(
    post, path = "/invoices/import", tag = "invoices", operation_id = "import_invoices",
    security(("api_key" = ["billing:write"])),
    request_body(content = String, content_type = "text/csv"),
    responses((status = 200, description = "Read; see `errors`", body = Imported), Problems)
)]
async fn import(State(state): State<ApiState>, caller: May<BillingWrite>, csv: Csv) -> Result<Response, Problem> {
    let _turn = turn_to_import(&state).await?;
    let actor = caller.actor();
    let run = async || -> Result<Answer, Problem> {
        let report = billing::import_csv(&state.app, &caller.organization, &csv.body, &actor).await?;
        Ok(Answer::new(StatusCode::OK, &Imported::from(report)))
    };
    if csv.idempotency.is_none() {
        return Ok(run().await?.into_response());
    }
    // The import commits in steps of its own, each of them idempotent; this transaction holds the key meanwhile.
    match begin(&state, &caller.organization, csv.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work.finish(run().await?).await,
        Begun::Answered(response) => Ok(response),
    }
}

async fn turn_to_import(state: &ApiState) -> Result<SemaphorePermit<'_>, Problem> {
    match tokio::time::timeout(IMPORT_PATIENCE, state.imports.acquire()).await {
        Ok(Ok(turn)) => Ok(turn),
        Ok(Err(closed)) => Err(Problem::internal(closed)),
        Err(_) => {
            let detail = "too many files are being imported at the moment; nothing of this one was";
            Err(Problem::new(ProblemType::Unavailable, detail).retry_after(IMPORT_PATIENCE.as_secs()))
        }
    }
}

/// Enqueues the overdue sweep: a reminder for every invoice that owes one today.
#[utoipa::path(
    post, path = "/invoices/remind", tag = "invoices", operation_id = "remind_invoices",
    security(("api_key" = ["billing:write"])),
    responses(
        (status = 202, description = "Queued", body = EnqueuedView,
         headers(("Location" = String, description = "Where the job can be looked at"))),
        Problems
    )
)]
async fn remind(
    State(state): State<ApiState>,
    caller: May<BillingWrite>,
    Trace(trace): Trace,
    posted: NoBody,
) -> Result<Response, Problem> {
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let job = NewJob::of(&SweepOverdue {}).tenant(caller.tenant()).trace(Some(trace));
    let enqueued = queue::enqueue(&mut *work, &job).await?;
    work.finish(jobs::accepted(enqueued)).await
}
