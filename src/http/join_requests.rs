//! Requests to become a member (JOIN-1 to JOIN-6). Anybody asks, staff decides; confirming is a page: [`super::join_request_page`].

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{May, RequestsRead, RequestsWrite},
    cursor::{self, Limit},
    edge::Trace,
    extract::{Id, NoBody, Posted, Query},
    idempotency::{Answer, Begun, Idempotency, begin, begin_tenant},
    network::Network,
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::{
    domain::{
        EmailAddress, FieldErrors, JoinForm, JoinRequest, JoinStatus, Language, NewJoinRequest, Organization, Slug,
    },
    jobs::membership::{self as doors, ApproveError, Asked, JoinError},
    store::{Page, join_requests, organizations},
    tenant,
};

const LIST: &str = "join_requests";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(submit))
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(approve))
        .routes(routes!(reject))
        .routes(routes!(resend))
}

/// Somebody who asks to become a member.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct JoinRequestForm {
    #[schema(format = Email, max_length = 255, example = "anna@example.com")]
    email: String,
    #[schema(max_length = 99, example = "Anna")]
    first_name: String,
    #[schema(max_length = 99, example = "Ek")]
    last_name: String,
    /// What the organization asks for besides. What its settings do not name is dropped; values are texts, numbers, true or false.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"phone": "070-123 45 67"}))]
    form: Map<String, Value>,
    /// Of the form that was filled in; 1 if it is left out.
    #[schema(minimum = 1, maximum = 1_000_000)]
    schema_version: Option<i32>,
    /// Of the mails and the page. The organization's if it is left out.
    language: Option<Language>,
}

/// What everybody hears who asks, whatever there is of them already.
#[derive(Serialize, ToSchema)]
struct JoinRequestReceived {
    status: JoinStatus,
    /// For people.
    message: &'static str,
}

/// A request to become a member.
#[derive(Serialize, ToSchema)]
#[schema(as = JoinRequest)]
struct JoinRequestView {
    id: Uuid,
    email: String,
    first_name: String,
    last_name: String,
    #[schema(value_type = Object)]
    form: Value,
    schema_version: i32,
    language: Language,
    status: JoinStatus,
    /// Until when it can be confirmed; null when it is.
    confirm_by: Option<DateTime<Utc>>,
    /// When the mail server took the mail with the present link.
    confirmation_sent_at: Option<DateTime<Utc>>,
    /// Why there will be no mail with the present link, in the mail server's words.
    send_error: Option<String>,
    submitted_at: Option<DateTime<Utc>>,
    decided_at: Option<DateTime<Utc>>,
    /// `user:<id>` or `api_key:<id>`.
    decided_by: Option<String>,
    /// The member that the applicant became.
    user_id: Option<Uuid>,
    /// When the mail server took the mail that tells of the decision.
    decision_sent_at: Option<DateTime<Utc>>,
    /// Why there will be no such mail, in the mail server's words; it can be sent again.
    decision_error: Option<String>,
    /// Until when the new member may choose a password by the link in that mail; null: there is no link, or it was used.
    choose_password_by: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl From<JoinRequest> for JoinRequestView {
    fn from(request: JoinRequest) -> Self {
        Self {
            id: request.id,
            email: request.email.into(),
            first_name: request.first_name,
            last_name: request.last_name,
            form: request.form,
            schema_version: request.schema_version,
            language: request.language,
            status: request.status,
            confirm_by: request.token_expires_at,
            confirmation_sent_at: request.confirmation_sent_at,
            send_error: request.send_error,
            submitted_at: request.submitted_at,
            decided_at: request.decided_at,
            decided_by: request.decided_by,
            user_id: request.user_id,
            decision_sent_at: request.decision_sent_at,
            decision_error: request.decision_error,
            choose_password_by: request.password_until,
            created_at: request.created_at,
        }
    }
}

/// A page of requests, newest first.
#[derive(Serialize, ToSchema)]
struct JoinRequestPage {
    join_requests: Vec<JoinRequestView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    status: Option<JoinStatus>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl JoinRequestForm {
    fn parse(self, organization: &Organization) -> Result<NewJoinRequest, FieldErrors> {
        let form: &JoinForm = &organization.settings.join_form;
        let mut errors = FieldErrors::default();
        let email = errors.check("email", EmailAddress::parse(&self.email));
        let form = form.filter(self.form).map_err(|more| errors.0.extend(more.0)).ok();
        let (Some(email), Some(form)) = (email, form) else { return Err(errors) };
        let request = NewJoinRequest {
            email,
            first_name: self.first_name.trim().to_owned(),
            last_name: self.last_name.trim().to_owned(),
            form,
            schema_version: self.schema_version.unwrap_or(1),
            language: self.language.unwrap_or(organization.locale),
        };
        request.validate()?;
        Ok(request)
    }
}

impl From<JoinError> for Problem {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Store(error) => error.into(),
            error @ JoinError::Seal(_) => Self::internal(error),
        }
    }
}

impl From<ApproveError> for Problem {
    fn from(error: ApproveError) -> Self {
        match error {
            ApproveError::Unknown => Self::not_found("request to join"),
            ApproveError::NotSubmitted(JoinStatus::PendingConfirmation) => {
                Self::conflict("the applicant has not confirmed the request yet")
            }
            ApproveError::NotSubmitted(status) => Self::conflict(format!("the request is {status} already")),
            ApproveError::NotDecided => Self::conflict("nothing is decided yet: approve or reject the request"),
            ApproveError::Left => Self::conflict("the person is no member any more: add them again as a member"),
            error @ ApproveError::ToldEnough => Self::conflict(error.to_string()),
            ApproveError::Join(error) => error.into(),
        }
    }
}

/// Asks to become a member. Open to everybody.
///
/// The address gets a mail with a link, which is to be opened within 24 hours. The answer is the same whether or not the address is known,
/// has asked before, or was sent enough mails within the hour.
#[utoipa::path(
    post, path = "/organizations/{slug}/join-requests", tag = "join requests", operation_id = "submit_join_request",
    security(()),
    params(("slug" = String, Path)),
    request_body = JoinRequestForm,
    responses((status = 202, description = "Received", body = JoinRequestReceived), Problems)
)]
async fn submit(
    State(state): State<ApiState>,
    network: Network,
    Path(slug): Path<String>,
    Trace(trace): Trace,
    posted: Posted<JoinRequestForm>,
) -> Result<Response, Problem> {
    state.strangers.take(&network)?;
    let organization = asked_of(&state, &slug).await?;
    let request = posted.body.parse(&organization)?;
    state.join_requests.take(&network)?;
    // Its own keys are the organization's business.
    let key = posted.idempotency.map(Idempotency::of_stranger);
    let mut work = match begin_tenant(&state, &organization, key.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let shared = (&organization, &*state.registry);
    doors::submit(&mut work, shared, &request, (state.app.clock.now(), Some(trace))).await?;
    let received = JoinRequestReceived {
        status: JoinStatus::PendingConfirmation,
        message: "If the address can be used, a mail with a link is on its way. Open it within 24 hours.",
    };
    work.finish(Answer::new(StatusCode::ACCEPTED, &received)).await
}

/// The organization, if it takes requests. One that does not, one that is suspended and none are the same to a stranger.
async fn asked_of(state: &ApiState, slug: &str) -> Result<Organization, Problem> {
    let found = match Slug::parse(slug) {
        Ok(slug) => organizations::by_slug(&mut *state.app.db.acquire().await?, slug.as_str()).await?,
        Err(_) => None,
    };
    let asked = found.filter(|organization| organization.settings.join_form.open && !organization.is_held());
    asked.ok_or_else(|| {
        Problem::new(ProblemType::NotFound, "there is no organization with this slug that takes requests to join")
    })
}

/// Lists requests to become a member, newest first.
#[utoipa::path(
    get, path = "/join-requests", tag = "join requests", operation_id = "list_join_requests",
    security(("api_key" = ["requests:read"])),
    params(ListParams),
    responses((status = 200, body = JoinRequestPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<RequestsRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<JoinRequestPage>, Problem> {
    let page = Page {
        after: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
        newest_first: true,
    };
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let mut requests = join_requests::page(&mut tx, params.status, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut requests, |request| request.id);
    Ok(Json(JoinRequestPage { join_requests: requests.into_iter().map(JoinRequestView::from).collect(), next_cursor }))
}

/// Shows a request to become a member.
#[utoipa::path(
    get, path = "/join-requests/{id}", tag = "join requests", operation_id = "get_join_request",
    security(("api_key" = ["requests:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = JoinRequestView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    caller: May<RequestsRead>,
    Id(id): Id,
) -> Result<Json<JoinRequestView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let request = join_requests::by_id(&mut tx, id).await?;
    tx.commit().await?;
    request.map(|request| Json(request.into())).ok_or_else(|| Problem::not_found("request to join"))
}

/// Approves a confirmed request: the applicant becomes a member, with the role `user`, and is told by mail.
#[utoipa::path(
    post, path = "/join-requests/{id}/approve", tag = "join requests", operation_id = "approve_join_request",
    security(("api_key" = ["requests:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = JoinRequestView), Problems)
)]
async fn approve(
    State(state): State<ApiState>,
    caller: May<RequestsWrite>,
    Id(id): Id,
    Trace(trace): Trace,
    posted: NoBody,
) -> Result<Response, Problem> {
    let organization = &caller.organization;
    let work = match begin(&state, organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let asked = Asked { actor: &caller.actor(), now: state.app.clock.now(), trace: Some(trace) };
    let shared = (organization, &*state.registry);
    let (tx, rest) = work.hand_over().await?;
    let (tx, request) = doors::approve(tx, shared, id, &asked).await?;
    let user = request.user_id;
    let response = rest.go_on(tx).finish(Answer::new(StatusCode::OK, &JoinRequestView::from(request))).await?;
    // Sign-ins of whoever set a password before the address was proved have ended.
    if let Some(user) = user {
        state.keys.forget_person(user);
    }
    Ok(response)
}

/// Rejects a confirmed request; the applicant is told by mail.
#[utoipa::path(
    post, path = "/join-requests/{id}/reject", tag = "join requests", operation_id = "reject_join_request",
    security(("api_key" = ["requests:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = JoinRequestView), Problems)
)]
async fn reject(
    State(state): State<ApiState>,
    caller: May<RequestsWrite>,
    Id(id): Id,
    Trace(trace): Trace,
    posted: NoBody,
) -> Result<Response, Problem> {
    let organization = &caller.organization;
    let mut work = match begin_tenant(&state, organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let asked = Asked { actor: &caller.actor(), now: state.app.clock.now(), trace: Some(trace) };
    let request = doors::reject(&mut work, (organization, &*state.registry), id, &asked).await?;
    work.finish(Answer::new(StatusCode::OK, &JoinRequestView::from(request))).await
}

/// Tells the decision again by mail, where the mail did not arrive or its link has expired.
///
/// Who was approved and has no password yet gets a new link, good for seven days; the old one opens nothing any more. A decision is told ten
/// times at most.
#[utoipa::path(
    post, path = "/join-requests/{id}/resend", tag = "join requests", operation_id = "resend_join_decision",
    security(("api_key" = ["requests:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = JoinRequestView), Problems)
)]
async fn resend(
    State(state): State<ApiState>,
    caller: May<RequestsWrite>,
    Id(id): Id,
    Trace(trace): Trace,
    posted: NoBody,
) -> Result<Response, Problem> {
    let organization = &caller.organization;
    let work = match begin(&state, organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let asked = Asked { actor: &caller.actor(), now: state.app.clock.now(), trace: Some(trace) };
    let (tx, rest) = work.hand_over().await?;
    let (tx, request) = doors::resend(tx, (organization, &*state.registry), id, &asked).await?;
    rest.go_on(tx).finish(Answer::new(StatusCode::OK, &JoinRequestView::from(request))).await
}
