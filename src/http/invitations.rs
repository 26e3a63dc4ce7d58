//! Invitations into a workspace, for its members (WORK-3, WORK-6). Accepting one is a page: [`super::invitation_page`].

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{Person, WorkspacesRead, WorkspacesWrite},
    cursor::{self, Limit},
    edge::Trace,
    extract::{Id, Ids, NoBody, Posted, Query},
    idempotency::{Answer, Begun, begin_tenant},
    openapi::Problems,
    problem::{Problem, ProblemType},
    workspaces::{answered_before, membership, only_owner},
};
use crate::{
    domain::{EmailAddress, FieldErrors, Invitation, InvitationState, Language, User},
    jobs::workspaces::{self as doors, Asked, InviteError, NewInvite},
    store::{
        Page,
        invitations::{self, InvitationFilter},
        users,
    },
    tenant,
};

const LIST: &str = "invitations";
/// Seconds after which one more mail to an address may be asked for.
const TOO_MANY_WAIT_S: u64 = 3600;

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(show, revoke)).routes(routes!(resend))
}

/// Somebody to be invited.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct InvitationRequest {
    #[schema(format = Email, max_length = 255, example = "bo@example.com")]
    email: String,
    /// Of the mail and the page. If it is left out: the language of the person's account, or else the organization's.
    language: Option<Language>,
}

/// An invitation, without its token.
#[derive(Serialize, ToSchema)]
#[schema(as = Invitation)]
struct InvitationView {
    id: Uuid,
    workspace_id: Uuid,
    email: String,
    language: Language,
    invited_by: Uuid,
    state: InvitationState,
    expires_at: DateTime<Utc>,
    /// When the mail server took the mail with the present link.
    sent_at: Option<DateTime<Utc>>,
    /// Why there will be no mail with the present link, in the mail server's words.
    send_error: Option<String>,
    accepted_by: Option<Uuid>,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl InvitationView {
    fn of(invitation: Invitation, now: DateTime<Utc>) -> Self {
        Self {
            state: invitation.state_at(now),
            id: invitation.id,
            workspace_id: invitation.workspace_id,
            email: invitation.email.into(),
            language: invitation.language,
            invited_by: invitation.invited_by,
            expires_at: invitation.expires_at,
            sent_at: invitation.sent_at,
            send_error: invitation.send_error,
            accepted_by: invitation.accepted_by,
            created_at: invitation.created_at,
            ended_at: invitation.ended_at,
        }
    }
}

/// A page of invitations, newest first.
#[derive(Serialize, ToSchema)]
struct InvitationPage {
    invitations: Vec<InvitationView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    state: Option<InvitationState>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<InviteError> for Problem {
    fn from(error: InviteError) -> Self {
        match error {
            InviteError::NoWorkspace => Self::not_found("workspace"),
            InviteError::Personal => Self::conflict("nobody is invited to a personal workspace; make one to share"),
            InviteError::Member => Self::collides("email", "member", "belongs to a member of the workspace already"),
            InviteError::TooMany => {
                let detail = "the address was sent too many invitations today; try again later";
                Self::new(ProblemType::RateLimited, detail).retry_after(TOO_MANY_WAIT_S)
            }
            InviteError::TooManyBySelf => {
                Self::new(ProblemType::RateLimited, error.to_string()).retry_after(TOO_MANY_WAIT_S)
            }
            InviteError::Ended(state) => {
                Self::conflict(format!("the invitation is {state}; invite the person anew instead"))
            }
            InviteError::Seal(error) => Self::internal(error),
            InviteError::Store(error) => error.into(),
        }
    }
}

/// Whose address it is. The control plane's, so it is asked before the organization's transaction.
async fn account(state: &ApiState, email: &EmailAddress) -> Result<Option<User>, Problem> {
    Ok(users::by_email(&mut *state.app.db.acquire().await?, email).await?)
}

/// Invites somebody by mail. For members.
#[utoipa::path(
    post, path = "/workspaces/{id}/invitations", tag = "workspaces", operation_id = "create_invitation",
    security(("person" = ["workspaces:write"])),
    params(("id" = Uuid, Path)),
    request_body = InvitationRequest,
    responses((status = 201, description = "Stored; the mail is on its way", body = InvitationView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    person: Person<WorkspacesWrite>,
    Id(id): Id,
    Trace(trace): Trace,
    posted: Posted<InvitationRequest>,
) -> Result<Response, Problem> {
    let InvitationRequest { email, language } = posted.body;
    let email = EmailAddress::parse(&email).map_err(|error| FieldErrors::from(error.at("email")))?;
    let account = account(&state, &email).await?;
    let mut work = match begin_tenant(&state, &person.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return answered_before(&state, id, &person, response).await,
    };
    membership(&mut work, id, &person).await?;
    if account.as_ref().is_some_and(|account| account.id == person.user_id) {
        let message = "is your own; you are a member of the workspace already";
        return Err(Problem::collides("email", "own_address", message));
    }
    let new = NewInvite {
        workspace_id: id,
        email: &email,
        account: account.map(|account| account.id),
        // Never the account's own: the answer would tell that there is one.
        language: language.unwrap_or(person.organization.locale),
        invited_by: person.user_id,
    };
    let (actor, now) = (person.actor(), state.app.clock.now());
    let asked = Asked { actor: &actor, now, trace: Some(trace) };
    let invitation = doors::invite(&mut work, (&person.organization, &state.registry), &new, &asked).await?;
    let location = format!("/api/v1/workspaces/{id}/invitations/{}", invitation.id);
    let view = InvitationView::of(invitation, now);
    work.finish(Answer::new(StatusCode::CREATED, &view).at(location)).await
}

/// Lists a workspace's invitations, newest first. For members.
#[utoipa::path(
    get, path = "/workspaces/{id}/invitations", tag = "workspaces", operation_id = "list_invitations",
    security(("person" = ["workspaces:read"])),
    params(("id" = Uuid, Path), ListParams),
    responses((status = 200, body = InvitationPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    person: Person<WorkspacesRead>,
    Id(id): Id,
    Query(params): Query<ListParams>,
) -> Result<Json<InvitationPage>, Problem> {
    let after = cursor::decode(LIST, params.cursor.as_deref())?;
    let page = Page { after, limit: params.limit.probe(), newest_first: true };
    let filter = InvitationFilter { workspace_id: Some(id), state: params.state };
    let now = state.app.clock.now();
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    membership(&mut tx, id, &person).await?;
    let mut found = invitations::page(&mut tx, &filter, page, now).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut found, |invitation| invitation.id);
    let views = found.into_iter().map(|invitation| InvitationView::of(invitation, now)).collect();
    Ok(Json(InvitationPage { invitations: views, next_cursor }))
}

/// The workspace's invitation of this id.
async fn find(tx: &mut sqlx::PgConnection, workspace: Uuid, id: Uuid) -> Result<Invitation, Problem> {
    let found = invitations::by_id(tx, id).await?.filter(|invitation| invitation.workspace_id == workspace);
    found.ok_or_else(|| Problem::new(ProblemType::NotFound, "the workspace has no invitation with this id"))
}

/// Shows an invitation. For members.
#[utoipa::path(
    get, path = "/workspaces/{id}/invitations/{invitation_id}", tag = "workspaces", operation_id = "get_invitation",
    security(("person" = ["workspaces:read"])),
    params(("id" = Uuid, Path), ("invitation_id" = Uuid, Path)),
    responses((status = 200, body = InvitationView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    person: Person<WorkspacesRead>,
    Ids(ids): Ids,
) -> Result<Json<InvitationView>, Problem> {
    let [id, invitation_id] = ids;
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    membership(&mut tx, id, &person).await?;
    let invitation = find(&mut tx, id, invitation_id).await?;
    tx.commit().await?;
    Ok(Json(InvitationView::of(invitation, state.app.clock.now())))
}

/// Revokes an open invitation: its link opens nothing, and a mail that has not left yet never does. For the workspace's owner.
#[utoipa::path(
    delete, path = "/workspaces/{id}/invitations/{invitation_id}", tag = "workspaces", operation_id = "revoke_invitation",
    security(("person" = ["workspaces:write"])),
    params(("id" = Uuid, Path), ("invitation_id" = Uuid, Path)),
    responses((status = 204, description = "Revoked"), Problems)
)]
async fn revoke(
    State(state): State<ApiState>,
    person: Person<WorkspacesWrite>,
    Ids(ids): Ids,
) -> Result<StatusCode, Problem> {
    let [id, invitation_id] = ids;
    let (mut tx, actor) = (tenant::begin(&state.app.db, &person.organization).await?, person.actor());
    only_owner(&membership(&mut tx, id, &person).await?)?;
    find(&mut tx, id, invitation_id).await?;
    let asked = Asked { actor: &actor, now: state.app.clock.now(), trace: None };
    if !doors::revoke(&mut tx, (id, invitation_id), &asked).await? {
        let state = find(&mut tx, id, invitation_id).await?.state;
        return Err(Problem::conflict(format!("the invitation is {state} already")));
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends an invitation again, with a new link and seven days more; the old link opens nothing. One that has expired is open again. For
/// the workspace's owner, and for who invited.
#[utoipa::path(
    post, path = "/workspaces/{id}/invitations/{invitation_id}/resend", tag = "workspaces",
    operation_id = "resend_invitation",
    security(("person" = ["workspaces:write"])),
    params(("id" = Uuid, Path), ("invitation_id" = Uuid, Path)),
    responses((status = 200, description = "The mail is on its way", body = InvitationView), Problems)
)]
async fn resend(
    State(state): State<ApiState>,
    person: Person<WorkspacesWrite>,
    Ids(ids): Ids,
    Trace(trace): Trace,
    NoBody { idempotency }: NoBody,
) -> Result<Response, Problem> {
    let [id, invitation_id] = ids;
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    let membership = membership(&mut tx, id, &person).await?;
    let invitation = find(&mut tx, id, invitation_id).await?;
    tx.commit().await?;
    if !membership.is_owner() && invitation.invited_by != person.user_id {
        let detail = "only the workspace's owner and who invited may send an invitation again";
        return Err(Problem::new(ProblemType::Forbidden, detail));
    }
    let account = account(&state, &invitation.email).await?.map(|account| account.id);
    let mut work = match begin_tenant(&state, &person.organization, idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let (actor, now) = (person.actor(), state.app.clock.now());
    let asked = Asked { actor: &actor, now, trace: Some(trace) };
    let plane = (&person.organization, &*state.registry);
    let renewed = doors::resend(&mut work, plane, (&invitation, account), &asked).await?;
    work.finish(Answer::new(StatusCode::OK, &InvitationView::of(renewed, now))).await
}
