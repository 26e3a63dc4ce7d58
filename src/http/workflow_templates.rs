//! What workflows are made of: the product's own steps for each kind, and templates that the organization makes (ASSET-5, TEN-4).

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{May, WorkflowsRead, WorkflowsWrite},
    cursor::{self, Limit},
    extract::{Id, Json as Body, Posted, Query},
    idempotency::{Answer, Begun, begin},
    openapi::Problems,
    problem::Problem,
};
use crate::{
    domain::{
        Assignee, FieldErrors, Limits, WorkflowKind,
        workflow::{NewTemplate, Template, TemplateStep, built_in},
    },
    jobs::workflows::{self, Asked},
    store::{Page, memberships, organizations, workflow_templates},
    tenant,
};

const LIST: &str = "workflow_templates";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(show, change, remove))
}

/// A step as a template has it.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = WorkflowTemplateStep)]
#[serde(deny_unknown_fields)]
struct StepView {
    #[schema(min_length = 1, max_length = 200, example = "Order equipment")]
    title: String,
    /// Everybody with a role, or one person.
    assignee: Assignee,
    /// Counted from the day that the workflow is about, such as the first day at work; negative before it.
    #[serde(default)]
    #[schema(minimum = -365, maximum = 1825)]
    due_in_days: i32,
    /// Somebody else has to approve it, and the steps after it wait for that.
    #[serde(default)]
    needs_approval: bool,
}

/// A template to be stored.
#[derive(Deserialize, ToSchema)]
#[schema(as = WorkflowTemplateRequest)]
#[serde(deny_unknown_fields)]
struct TemplateRequest {
    kind: WorkflowKind,
    #[schema(min_length = 1, max_length = 100, example = "Hire in the warehouse")]
    name: String,
    #[schema(min_items = 1, max_items = 50)]
    steps: Vec<StepView>,
    /// Taken for its kind where no template is named, in the place of the one before.
    #[serde(default)]
    is_default: bool,
}

/// A change of a template: what is left out stays. Workflows that were started from it keep their steps.
#[derive(Deserialize, ToSchema)]
#[schema(as = WorkflowTemplateChange)]
#[serde(deny_unknown_fields)]
struct TemplateChange {
    name: Option<String>,
    steps: Option<Vec<StepView>>,
    is_default: Option<bool>,
}

/// A template that the organization made.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkflowTemplate)]
struct TemplateView {
    id: Uuid,
    kind: WorkflowKind,
    name: String,
    steps: Vec<StepView>,
    is_default: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// The product's own steps for a kind, taken where the organization has no default. They do not count against the tier.
#[derive(Serialize, ToSchema)]
#[schema(as = BuiltInWorkflow)]
struct BuiltInView {
    kind: WorkflowKind,
    steps: Vec<StepView>,
}

/// A page of templates, oldest first.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkflowTemplatePage)]
struct TemplatePage {
    templates: Vec<TemplateView>,
    /// The same on every page.
    built_in: Vec<BuiltInView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[param(inline)]
    kind: Option<WorkflowKind>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl From<TemplateStep> for StepView {
    fn from(TemplateStep { title, assignee, due_in_days, needs_approval }: TemplateStep) -> Self {
        Self { title, assignee, due_in_days, needs_approval }
    }
}

impl From<StepView> for TemplateStep {
    fn from(StepView { title, assignee, due_in_days, needs_approval }: StepView) -> Self {
        Self { title, assignee, due_in_days, needs_approval }
    }
}

impl From<Template> for TemplateView {
    fn from(template: Template) -> Self {
        let Template { id, kind, name, steps, is_default, created_at, updated_at } = template;
        Self { id, kind, name, steps: steps.into_iter().map(Into::into).collect(), is_default, created_at, updated_at }
    }
}

impl TemplateRequest {
    fn parse(self) -> Result<NewTemplate, FieldErrors> {
        let Self { kind, name, steps, is_default } = self;
        let new = NewTemplate { kind, name, steps: steps.into_iter().map(Into::into).collect(), is_default };
        new.validate()?;
        Ok(new)
    }
}

impl TemplateChange {
    /// The template as it shall be.
    fn apply(self, template: Template) -> Result<NewTemplate, FieldErrors> {
        let changed = NewTemplate {
            kind: template.kind,
            name: self.name.unwrap_or(template.name),
            steps: self.steps.map_or(template.steps, |steps| steps.into_iter().map(Into::into).collect()),
            is_default: self.is_default.unwrap_or(template.is_default),
        };
        changed.validate()?;
        Ok(changed)
    }
}

/// Who is named by id has to work in the organization. On the control plane.
pub(super) async fn check_assignee(
    db: &mut PgConnection,
    organization: Uuid,
    (field, assignee): (&str, Assignee),
) -> Result<(), Problem> {
    let Some(person) = assignee.person() else { return Ok(()) };
    if memberships::works_in(db, organization, person).await? {
        return Ok(());
    }
    Err(Problem::field(
        format!("{field}.user_id"),
        "unknown",
        "is not the id of somebody who works in the organization",
    ))
}

async fn check_assignees(db: &mut PgConnection, organization: Uuid, new: &NewTemplate) -> Result<(), Problem> {
    for (at, step) in new.steps.iter().enumerate() {
        check_assignee(db, organization, (&format!("steps[{at}].assignee"), step.assignee)).await?;
    }
    Ok(())
}

/// Stores a template. The tier limits how many there are; those that come with the product do not count.
#[utoipa::path(
    post, path = "/workflow-templates", tag = "workflows", operation_id = "create_workflow_template",
    security(("api_key" = ["workflows:write"]), ("person" = ["workflows:write"])),
    request_body = TemplateRequest,
    responses((status = 201, description = "Stored", body = TemplateView), Problems)
)]
async fn create(
    State(state): State<ApiState>,
    caller: May<WorkflowsWrite>,
    posted: Posted<TemplateRequest>,
) -> Result<Response, Problem> {
    let new = posted.body.parse()?;
    let mut work = match begin(&state, &caller.organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return Ok(response),
    };
    // Anew: an upgrade counts at once.
    let organization = organizations::by_id(&mut work, caller.organization.id).await?;
    let organization = organization.ok_or_else(|| Problem::not_found("organization"))?;
    check_assignees(&mut work, organization.id, &new).await?;
    let mut work = work.enter(&organization).await?;
    let (actor, now) = (caller.actor(), state.app.clock.now());
    let limits = Limits::of(organization.tier);
    let template = workflows::create_template(&mut work, &new, limits, &Asked::by(&actor, now)).await?;
    let location = format!("/api/v1/workflow-templates/{}", template.id);
    work.finish(Answer::new(StatusCode::CREATED, &TemplateView::from(template)).at(location)).await
}

/// Lists the organization's templates, oldest first, and the product's own steps for each kind.
#[utoipa::path(
    get, path = "/workflow-templates", tag = "workflows", operation_id = "list_workflow_templates",
    security(("api_key" = ["workflows:read"]), ("person" = ["workflows:read"])),
    params(ListParams),
    responses((status = 200, body = TemplatePage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<WorkflowsRead>,
    Query(params): Query<ListParams>,
) -> Result<Json<TemplatePage>, Problem> {
    let page = Page {
        after: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
        newest_first: false,
    };
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let mut templates = workflow_templates::page(&mut tx, params.kind, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut templates, |template| template.id);
    let kinds = WorkflowKind::ALL.iter().copied().filter(|kind| params.kind.is_none_or(|wanted| wanted == *kind));
    let own = |kind| {
        let steps = built_in(kind, caller.organization.locale);
        BuiltInView { kind, steps: steps.into_iter().map(Into::into).collect() }
    };
    Ok(Json(TemplatePage {
        templates: templates.into_iter().map(Into::into).collect(),
        built_in: kinds.map(own).collect(),
        next_cursor,
    }))
}

/// Shows a template.
#[utoipa::path(
    get, path = "/workflow-templates/{id}", tag = "workflows", operation_id = "get_workflow_template",
    security(("api_key" = ["workflows:read"]), ("person" = ["workflows:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = TemplateView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    caller: May<WorkflowsRead>,
    Id(id): Id,
) -> Result<Json<TemplateView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let template = workflow_templates::by_id(&mut tx, id).await?;
    tx.commit().await?;
    template.map(|template| Json(template.into())).ok_or_else(|| Problem::not_found("template"))
}

/// Changes a template. Workflows that were started from it keep their steps.
#[utoipa::path(
    patch, path = "/workflow-templates/{id}", tag = "workflows", operation_id = "change_workflow_template",
    security(("api_key" = ["workflows:write"]), ("person" = ["workflows:write"])),
    params(("id" = Uuid, Path)),
    request_body = TemplateChange,
    responses((status = 200, body = TemplateView), Problems)
)]
async fn change(
    State(state): State<ApiState>,
    caller: May<WorkflowsWrite>,
    Id(id): Id,
    Body(change): Body<TemplateChange>,
) -> Result<Json<TemplateView>, Problem> {
    let checks_people = change.steps.is_some();
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    let template = workflow_templates::by_id(&mut tx, id).await?.ok_or_else(|| Problem::not_found("template"))?;
    let changed = change.apply(template)?;
    if checks_people {
        let mut plane = tx.leave().await?;
        check_assignees(&mut plane, caller.organization.id, &changed).await?;
        tx = tenant::TenantTx::enter(plane, &caller.organization).await?;
    }
    let (actor, now) = (caller.actor(), state.app.clock.now());
    let template = workflows::change_template(&mut tx, (id, &changed), &Asked::by(&actor, now)).await?;
    let template = template.ok_or_else(|| Problem::not_found("template"))?;
    tx.commit().await?;
    Ok(Json(template.into()))
}

/// Removes a template. What was started from it goes on.
#[utoipa::path(
    delete, path = "/workflow-templates/{id}", tag = "workflows", operation_id = "remove_workflow_template",
    security(("api_key" = ["workflows:write"]), ("person" = ["workflows:write"])),
    params(("id" = Uuid, Path)),
    responses((status = 204, description = "Removed"), Problems)
)]
async fn remove(State(state): State<ApiState>, caller: May<WorkflowsWrite>, Id(id): Id) -> Result<StatusCode, Problem> {
    let (actor, now) = (caller.actor(), state.app.clock.now());
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    if !workflows::remove_template(&mut tx, id, &Asked::by(&actor, now)).await? {
        return Err(Problem::not_found("template"));
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
