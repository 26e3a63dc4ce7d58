//! Steps of workflows: said to be done, approved, sent back (ASSET-5).

use axum::{extract::State, response::Response};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    assets::asked,
    auth::{OfSteps, WorkflowsAdvance},
    extract::{Ids, Posted},
    network::Origin,
    openapi::Problems,
    problem::{Problem, ProblemType},
    workflows::{Deed, WorkflowView, carry_out, check_note},
};
use crate::{
    domain::Scope,
    jobs::workflows::{Advance, TakeBack},
    store::Sealer,
};

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(advance)).routes(routes!(approve)).routes(routes!(reject))
}

/// What is said of a step.
#[derive(Deserialize, ToSchema)]
#[schema(as = WorkflowStepAdvance)]
#[serde(deny_unknown_fields)]
struct AdvanceRequest {
    /// Takes the place of the note that is there.
    #[schema(max_length = 2000)]
    note: Option<String>,
    /// Approves it at once, where that is needed. A person does not approve what they did themselves; a key answers for whom it stands
    /// for.
    #[serde(default)]
    approve: bool,
    /// Takes the step's asset back from the employee whom the workflow is about; needs `assets:write` as well.
    #[serde(default)]
    return_asset: bool,
}

/// What is said with a decision.
#[derive(Deserialize, ToSchema)]
#[schema(as = WorkflowStepDecision)]
#[serde(deny_unknown_fields)]
struct DecisionRequest {
    /// Takes the place of the note that is there.
    #[schema(max_length = 2000)]
    note: Option<String>,
}

/// Says that a step is done. One that needs approval then waits for it; the last one completes the workflow. Who may not change
/// workflows advances their own steps: those that are assigned to them or to their role.
#[utoipa::path(
    post, path = "/workflows/{id}/steps/{step_id}/advance", tag = "workflows", operation_id = "advance_workflow_step",
    security(("api_key" = ["workflows:write"]), ("person" = ["workflows:advance"])),
    params(("id" = Uuid, Path), ("step_id" = Uuid, Path)),
    request_body = AdvanceRequest,
    responses((status = 200, body = WorkflowView), Problems)
)]
async fn advance(
    State(state): State<ApiState>,
    caller: OfSteps<WorkflowsAdvance>,
    Ids(ids): Ids,
    origin: Origin,
    posted: Posted<AdvanceRequest>,
) -> Result<Response, Problem> {
    let [id, step] = ids;
    let AdvanceRequest { note, approve, return_asset } = posted.body;
    check_note("note", note.as_deref())?;
    if return_asset && !caller.has(Scope::AssetsWrite) {
        return Err(Problem::new(ProblemType::Forbidden, "`return_asset` needs assets:write as well"));
    }
    let actor = caller.actor();
    let asked = asked(&state, &actor, &origin);
    let take_back = TakeBack { sealer: Sealer::new(&state.app.vault, caller.tenant()), asked: &asked };
    let with = Advance { note: note.as_deref(), approve, take_back: return_asset.then_some(take_back) };
    carry_out(&state, &caller, (id, Deed::Advance(step, with)), posted.idempotency.as_ref()).await
}

/// Approves a step that somebody else did: whom the step or the workflow is assigned to does, or an admin. A step that is left to
/// somebody by name is not approved for them by who started the workflow.
#[utoipa::path(
    post, path = "/workflows/{id}/steps/{step_id}/approve", tag = "workflows", operation_id = "approve_workflow_step",
    security(("api_key" = ["workflows:write"]), ("person" = ["workflows:advance"])),
    params(("id" = Uuid, Path), ("step_id" = Uuid, Path)),
    request_body = DecisionRequest,
    responses((status = 200, body = WorkflowView), Problems)
)]
async fn approve(
    State(state): State<ApiState>,
    caller: OfSteps<WorkflowsAdvance>,
    Ids(ids): Ids,
    posted: Posted<DecisionRequest>,
) -> Result<Response, Problem> {
    let [id, step] = ids;
    let note = posted.body.note.as_deref();
    check_note("note", note)?;
    carry_out(&state, &caller, (id, Deed::Approve(step, note)), posted.idempotency.as_ref()).await
}

/// Sends a step back that waits for approval, to be done again. Who may approve it may, and who did it.
#[utoipa::path(
    post, path = "/workflows/{id}/steps/{step_id}/reject", tag = "workflows", operation_id = "reject_workflow_step",
    security(("api_key" = ["workflows:write"]), ("person" = ["workflows:advance"])),
    params(("id" = Uuid, Path), ("step_id" = Uuid, Path)),
    request_body = DecisionRequest,
    responses((status = 200, body = WorkflowView), Problems)
)]
async fn reject(
    State(state): State<ApiState>,
    caller: OfSteps<WorkflowsAdvance>,
    Ids(ids): Ids,
    posted: Posted<DecisionRequest>,
) -> Result<Response, Problem> {
    let [id, step] = ids;
    let note = posted.body.note.as_deref();
    check_note("note", note)?;
    carry_out(&state, &caller, (id, Deed::Reject(step, note)), posted.idempotency.as_ref()).await
}
