//! Workspaces and their members (WORK-1, WORK-2). For whoever is not in a workspace it does not exist.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{Member, Person, WorkspacesRead, WorkspacesWrite},
    cursor::ListParams,
    edge::Trace,
    extract::{Id, Ids, Json as Body, NoBody, Posted, Query},
    idempotency::{Answer, Begun, begin_tenant},
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::{
    domain::{FieldErrors, Membership, User, WorkspaceName},
    jobs::workspaces::{self as doors, Asked},
    store::{
        users,
        workspaces::{self, Member as Joined},
    },
    tenant::{self, TenantTx},
};

const LIST: &str = "workspaces";
const MEMBERS: &str = "workspace_members";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show, rename, delete))
        .routes(routes!(switch))
        .routes(routes!(leave))
        .routes(routes!(members))
        .routes(routes!(remove))
}

/// A workspace to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WorkspaceRequest {
    /// One line of 1 to 100 characters, at least one of them visible; white space around it is cut.
    #[schema(min_length = 1, max_length = 100, example = "Bokslut 2026")]
    name: String,
}

/// A change of a workspace.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WorkspaceChange {
    /// As when it is made.
    #[schema(min_length = 1, max_length = 100, example = "Bokslut 2026")]
    name: String,
}

/// A workspace, as one of its members sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Workspace)]
pub(super) struct WorkspaceView {
    id: Uuid,
    name: String,
    owner_id: Uuid,
    /// Everybody's own: it cannot be deleted, and nobody is invited to it.
    personal: bool,
    /// `owner` or `member`.
    role: WorkspaceRole,
    /// Whether it is the one that the person switched to last; the personal one until then.
    current: bool,
    joined_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// What somebody is in a workspace.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum WorkspaceRole {
    /// Renames and deletes it, removes members, revokes invitations.
    Owner,
    /// Reads, works, invites.
    Member,
}

impl From<Membership> for WorkspaceView {
    fn from(membership: Membership) -> Self {
        let role = if membership.is_owner() { WorkspaceRole::Owner } else { WorkspaceRole::Member };
        let workspace = membership.workspace;
        Self {
            id: workspace.id,
            name: workspace.name.into(),
            owner_id: workspace.owner_id,
            personal: workspace.personal,
            role,
            current: membership.current,
            joined_at: membership.joined_at,
            created_at: workspace.created_at,
            updated_at: workspace.updated_at,
        }
    }
}

/// A page of workspaces, oldest first.
#[derive(Serialize, ToSchema)]
struct WorkspacePage {
    workspaces: Vec<WorkspaceView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// A member of a workspace.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkspaceMember)]
struct MemberView {
    user_id: Uuid,
    /// Null for somebody whose account is gone.
    name: Option<String>,
    email: Option<String>,
    role: WorkspaceRole,
    joined_at: DateTime<Utc>,
}

/// A page of members, in the order of their accounts.
#[derive(Serialize, ToSchema)]
struct WorkspaceMemberPage {
    members: Vec<MemberView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

fn parse_name(text: &str) -> Result<WorkspaceName, Problem> {
    WorkspaceName::parse(text).map_err(|error| FieldErrors::from(error.at("name")).into())
}

/// The person's membership of the workspace, or the same answer as for one that does not exist.
pub(super) async fn membership(
    tx: &mut sqlx::PgConnection,
    workspace: Uuid,
    person: &Member,
) -> Result<Membership, Problem> {
    let found = workspaces::member(tx, workspace, person.user_id).await?;
    found.ok_or_else(|| Problem::not_found("workspace"))
}

/// An answer that was given before, for whom the workspace still exists.
pub(super) async fn answered_before(
    state: &ApiState,
    workspace: Uuid,
    person: &Member,
    response: Response,
) -> Result<Response, Problem> {
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    membership(&mut tx, workspace, person).await?;
    tx.commit().await?;
    Ok(response)
}

/// As [`membership`], for what only the owner does.
async fn owned(tx: &mut sqlx::PgConnection, workspace: Uuid, person: &Member) -> Result<Membership, Problem> {
    let membership = membership(tx, workspace, person).await?;
    only_owner(&membership)?;
    Ok(membership)
}

pub(super) fn only_owner(membership: &Membership) -> Result<(), Problem> {
    if membership.is_owner() {
        return Ok(());
    }
    Err(Problem::new(ProblemType::Forbidden, "only the workspace's owner may do this"))
}

/// Switching and leaving are every role's, also of those that change nothing else; in a suspended organization they wait too (TEN-5).
fn not_held(person: &Member) -> Result<(), Problem> {
    if person.organization.is_held() {
        let detail = "the organization is suspended; it can be read only";
        return Err(Problem::new(ProblemType::OrganizationSuspended, detail));
    }
    Ok(())
}

/// Makes a workspace; whoever asks is its owner.
#[utoipa::path(
    post, path = "/workspaces", tag = "workspaces", operation_id = "create_workspace",
    security(("person" = ["workspaces:write"])),
    request_body = WorkspaceRequest,
    responses((status = 201, description = "Made", body = WorkspaceView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    person: Person<WorkspacesWrite>,
    Trace(trace): Trace,
    posted: Posted<WorkspaceRequest>,
) -> Result<Response, Problem> {
    let name = parse_name(&posted.body.name)?;
    let mut work = match begin_tenant(&state, &person.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    let actor = person.actor();
    let asked = Asked { actor: &actor, now: state.app.clock.now(), trace: Some(trace) };
    let workspace = doors::create(&mut work, &name, person.user_id, &asked).await?;
    let membership = membership(&mut work, workspace.id, &person).await?;
    let location = format!("/api/v1/workspaces/{}", workspace.id);
    work.finish(Answer::new(StatusCode::CREATED, &WorkspaceView::from(membership)).at(location)).await
}

/// Lists the workspaces that the person is in, oldest first.
#[utoipa::path(
    get, path = "/workspaces", tag = "workspaces", operation_id = "list_workspaces",
    security(("person" = ["workspaces:read"])),
    params(ListParams),
    responses((status = 200, body = WorkspacePage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    person: Person<WorkspacesRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<WorkspacePage>, Problem> {
    let page = params.oldest_first(LIST)?;
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    // Members from before there were workspaces have none of their own yet.
    if page.after.is_none()
        && !person.organization.is_held()
        && !workspaces::has_personal(&mut tx, person.user_id).await?
    {
        let actor = person.actor();
        let asked = Asked { actor: &actor, now: state.app.clock.now(), trace: None };
        doors::ensure_personal(&mut tx, (person.user_id, person.organization.locale), &asked).await?;
    }
    let mut found = workspaces::of_user(&mut tx, person.user_id, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut found, |membership| membership.workspace.id);
    Ok(Json(WorkspacePage { workspaces: found.into_iter().map(WorkspaceView::from).collect(), next_cursor }))
}

/// Shows a workspace.
#[utoipa::path(
    get, path = "/workspaces/{id}", tag = "workspaces", operation_id = "get_workspace",
    security(("person" = ["workspaces:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = WorkspaceView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    person: Person<WorkspacesRead>,
    Id(id): Id,
) -> Result<Json<WorkspaceView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    let membership = membership(&mut tx, id, &person).await?;
    tx.commit().await?;
    Ok(Json(membership.into()))
}

/// Renames a workspace. For its owner.
#[utoipa::path(
    patch, path = "/workspaces/{id}", tag = "workspaces", operation_id = "rename_workspace",
    security(("person" = ["workspaces:write"])),
    params(("id" = Uuid, Path)),
    request_body = WorkspaceChange,
    responses((status = 200, body = WorkspaceView), Problems)
)]
async fn rename(
    State(state): State<ApiState>,
    person: Person<WorkspacesWrite>,
    Id(id): Id,
    Body(change): Body<WorkspaceChange>,
) -> Result<Json<WorkspaceView>, Problem> {
    let name = parse_name(&change.name)?;
    let (mut tx, actor) = (tenant::begin(&state.app.db, &person.organization).await?, person.actor());
    owned(&mut tx, id, &person).await?;
    let asked = Asked { actor: &actor, now: state.app.clock.now(), trace: None };
    let renamed = doors::rename(&mut tx, (id, person.user_id), &name, &asked).await?;
    renamed.ok_or_else(|| Problem::not_found("workspace"))?;
    let membership = membership(&mut tx, id, &person).await?;
    tx.commit().await?;
    Ok(Json(membership.into()))
}

/// Deletes a workspace; its open invitations are revoked. For its owner, and never the personal one.
#[utoipa::path(
    delete, path = "/workspaces/{id}", tag = "workspaces", operation_id = "delete_workspace",
    security(("person" = ["workspaces:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 204, description = "Deleted"), Problems)
)]
async fn delete(
    State(state): State<ApiState>,
    person: Person<WorkspacesWrite>,
    Id(id): Id,
) -> Result<StatusCode, Problem> {
    let (mut tx, actor) = (tenant::begin(&state.app.db, &person.organization).await?, person.actor());
    if owned(&mut tx, id, &person).await?.workspace.personal {
        return Err(Problem::conflict("the personal workspace stays; only others can be deleted"));
    }
    let asked = Asked { actor: &actor, now: state.app.clock.now(), trace: None };
    if !doors::delete(&mut tx, (id, person.user_id), &asked).await? {
        return Err(Problem::not_found("workspace"));
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Switches to a workspace: it is the person's current one from now on.
#[utoipa::path(
    post, path = "/workspaces/{id}/switch", tag = "workspaces", operation_id = "switch_workspace",
    security(("person" = ["workspaces:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = WorkspaceView), Problems)
)]
async fn switch(
    State(state): State<ApiState>,
    person: Person<WorkspacesRead>,
    Id(id): Id,
    NoBody { idempotency }: NoBody,
) -> Result<Response, Problem> {
    not_held(&person)?;
    let mut work = match begin_tenant(&state, &person.organization, idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return answered_before(&state, id, &person, response).await,
    };
    if !workspaces::switch_to(&mut work, (id, person.user_id), state.app.clock.now()).await? {
        return Err(Problem::not_found("workspace"));
    }
    let membership = membership(&mut work, id, &person).await?;
    work.finish(Answer::new(StatusCode::OK, &WorkspaceView::from(membership))).await
}

/// Leaves a workspace. The owner cannot.
#[utoipa::path(
    post, path = "/workspaces/{id}/leave", tag = "workspaces", operation_id = "leave_workspace",
    security(("person" = ["workspaces:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = WorkspaceLeft), Problems)
)]
async fn leave(
    State(state): State<ApiState>,
    person: Person<WorkspacesRead>,
    Id(id): Id,
    NoBody { idempotency }: NoBody,
) -> Result<Response, Problem> {
    not_held(&person)?;
    let mut work = match begin_tenant(&state, &person.organization, idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    if membership(&mut work, id, &person).await?.is_owner() {
        return Err(owner_stays());
    }
    let actor = person.actor();
    let asked = Asked { actor: &actor, now: state.app.clock.now(), trace: None };
    if !doors::leave(&mut work, (id, person.user_id), &asked).await? {
        return Err(Problem::not_found("workspace"));
    }
    work.finish(Answer::new(StatusCode::OK, &WorkspaceLeft { left: id })).await
}

/// Which workspace was left.
#[derive(Serialize, ToSchema)]
struct WorkspaceLeft {
    left: Uuid,
}

fn owner_stays() -> Problem {
    Problem::conflict("the owner cannot leave the workspace, nor be removed from it; delete it instead")
}

/// Lists a workspace's members.
#[utoipa::path(
    get, path = "/workspaces/{id}/members", tag = "workspaces", operation_id = "list_workspace_members",
    security(("person" = ["workspaces:read"])),
    params(("id" = Uuid, Path), ListParams),
    responses((status = 200, body = WorkspaceMemberPage), Problems)
)]
async fn members(
    State(state): State<ApiState>,
    person: Person<WorkspacesRead>,
    Id(id): Id,
    Query(params): Query<ListParams>,
) -> Result<Json<WorkspaceMemberPage>, Problem> {
    let page = params.oldest_first(MEMBERS)?;
    let mut tx: TenantTx = tenant::begin(&state.app.db, &person.organization).await?;
    let membership = membership(&mut tx, id, &person).await?;
    let mut joined = workspaces::members(&mut tx, id, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(MEMBERS, &mut joined, |member| member.user_id);
    let ids: Vec<Uuid> = joined.iter().map(|member| member.user_id).collect();
    let people = users::by_ids(&mut *state.app.db.acquire().await?, &ids).await?;
    let view = |Joined { user_id, joined_at }: Joined| {
        let who: Option<&User> = people.iter().find(|user| user.id == user_id);
        let is_owner = user_id == membership.workspace.owner_id;
        MemberView {
            user_id,
            name: who.map(|user| user.name.clone()),
            email: who.map(|user| user.email.as_str().to_owned()),
            role: if is_owner { WorkspaceRole::Owner } else { WorkspaceRole::Member },
            joined_at,
        }
    };
    Ok(Json(WorkspaceMemberPage { members: joined.into_iter().map(view).collect(), next_cursor }))
}

/// Removes a member from a workspace. For its owner, who stays.
#[utoipa::path(
    delete, path = "/workspaces/{id}/members/{user_id}", tag = "workspaces", operation_id = "remove_workspace_member",
    security(("person" = ["workspaces:write"])),
    params(("id" = Uuid, Path), ("user_id" = Uuid, Path)),
    responses((status = 204, description = "Removed"), Problems)
)]
async fn remove(
    State(state): State<ApiState>,
    person: Person<WorkspacesWrite>,
    Ids(ids): Ids,
) -> Result<StatusCode, Problem> {
    let [id, user_id] = ids;
    let (mut tx, actor) = (tenant::begin(&state.app.db, &person.organization).await?, person.actor());
    owned(&mut tx, id, &person).await?;
    if user_id == person.user_id {
        return Err(owner_stays());
    }
    let asked = Asked { actor: &actor, now: state.app.clock.now(), trace: None };
    if !doors::remove(&mut tx, (id, user_id), &asked).await? {
        return Err(Problem::new(ProblemType::NotFound, "the workspace has no such member"));
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
