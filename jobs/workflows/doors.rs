//! What happens to workflows, each with its event (EVT-1). The caller opens the transaction as the organization and
//! commits. Events name no person but by id and work address, and repeat no note.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::topic;
use crate::{
    domain::{
        Assignee, Language, Organization, Role, Workflow, WorkflowKind, WorkflowStatus, asset,
        workflow::{
            self, Moved, NewStep, NewWorkflow, Person, RETURN_IN_DAYS, Refusal, Step, StepAct, WorkflowAct, built_in,
        },
    },
    jobs::assets::doors as assets,
    store::{
        Sealer, StoreError,
        events::{self, NewEvent},
        workflow_templates,
        workflows::{self, StepChange},
    },
};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    #[error("there is no such {0}")]
    Unknown(&'static str),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who does something, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As events name them: `user:<id>`, `api_key:<id>`, `job:<id>`, `operator`.
    pub actor: &'a str,
    /// Who that is, if it is a person; a program or an operator answers for whom it stands for.
    pub person: Option<Person>,
    pub now: DateTime<Utc>,
}

impl<'a> Asked<'a> {
    /// A program, a job or an operator, or something that does not depend on who asks.
    pub fn by(actor: &'a str, now: DateTime<Utc>) -> Self {
        Self { actor, person: None, now }
    }
}

/// A workflow to be started.
#[derive(Clone, Debug)]
pub struct StartWorkflow {
    pub kind: WorkflowKind,
    /// One of the organization's; `None`: its default for the kind, or the product's own.
    pub template: Option<Uuid>,
    pub employee_id: Option<Uuid>,
    pub asset_id: Option<Uuid>,
    /// `None`: made of the kind and of whom or what it is about.
    pub title: Option<String>,
    /// `None`: everybody who administers.
    pub assignee: Option<Assignee>,
    /// The day that it is about, such as the first day at work: what steps' days count from. `None`: today.
    pub day_zero: Option<NaiveDate>,
    /// `None`: with its last step.
    pub due_on: Option<NaiveDate>,
    /// What it is started for; the same key starts one workflow only.
    pub source_key: Option<String>,
    /// By the organization's calendar.
    pub today: NaiveDate,
    /// Of the product's own words.
    pub language: Language,
}

impl StartWorkflow {
    /// Nothing said but what for.
    pub fn of(kind: WorkflowKind, organization: &Organization, today: NaiveDate) -> Self {
        Self {
            kind,
            template: None,
            employee_id: None,
            asset_id: None,
            title: None,
            assignee: None,
            day_zero: None,
            due_on: None,
            source_key: None,
            today,
            language: organization.locale,
        }
    }
}

async fn tell(
    db: &mut PgConnection,
    workflow: &Workflow,
    (kind, mut payload): (&str, Value),
    asked: &Asked<'_>,
) -> Result<(), StoreError> {
    for (name, value) in [
        ("kind", json!(workflow.kind)),
        ("title", json!(workflow.title)),
        ("status", json!(workflow.status)),
        ("employee_id", json!(workflow.employee_id)),
        ("asset_id", json!(workflow.asset_id)),
    ] {
        payload[name] = value;
    }
    events::append(db, &NewEvent { topic: topic(workflow.id), kind, payload, actor: asked.actor }, asked.now).await?;
    Ok(())
}

/// ASSET-6: the workflow of the kind about the employee that is open, whoever started it, or else as [`start`].
pub async fn start_once(
    db: &mut PgConnection,
    new: &StartWorkflow,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Workflow, StoreError> {
    if let Some(employee) = new.employee_id
        && let Some(open) = workflows::open_of(db, new.kind, employee).await?
    {
        return Ok(open);
    }
    start(db, new, actor, now).await
}

/// ASSET-5, ASSET-6: starts a workflow, or answers the one that its source key has started before. An offboarding takes back, first of
/// all, every asset that the employee holds at this moment.
pub async fn start(
    db: &mut PgConnection,
    new: &StartWorkflow,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Workflow, StoreError> {
    let template = match new.template {
        Some(id) => Some(workflow_templates::by_id(db, id).await?.ok_or_else(|| unknown("template_id", "template"))?),
        None => workflow_templates::default_of(db, new.kind).await?,
    };
    if template.as_ref().is_some_and(|template| template.kind != new.kind) {
        let message = format!("is of another kind than {}", new.kind);
        return Err(StoreError::Conflict { field: "template_id", message });
    }
    let missing = |field| StoreError::Conflict { field, message: format!("has to be named for {}", new.kind) };
    if new.kind.is_about_an_employee() && new.employee_id.is_none() {
        return Err(missing("employee_id"));
    }
    if new.kind.is_about_an_asset() && new.asset_id.is_none() {
        return Err(missing("asset_id"));
    }
    let day_zero = new.day_zero.unwrap_or(new.today);
    let assignee = new.assignee.unwrap_or(Assignee::Role(Role::Admin));
    let (template_id, planned) = match template {
        Some(template) => (Some(template.id), template.steps),
        None => (None, built_in(new.kind, new.language)),
    };
    let mut steps = match (new.kind, new.employee_id) {
        (WorkflowKind::Offboarding, Some(employee)) => take_back(db, new, employee, (assignee, day_zero)).await?,
        _ => Vec::new(),
    };
    steps.extend(workflow::plan(&planned, day_zero, new.today));
    let last = steps.iter().map(|step| step.due_on).max();
    let title = match &new.title {
        Some(title) => title.clone(),
        None => title_of(db, new).await?,
    };
    let stored = NewWorkflow {
        kind: new.kind,
        template_id,
        title,
        employee_id: new.employee_id,
        asset_id: new.asset_id,
        assignee,
        due_on: new.due_on.or(last).unwrap_or(new.today),
        source_key: new.source_key.clone(),
        steps,
    };
    let (workflow, is_new) = workflows::insert(db, &stored, actor, now).await?;
    if is_new {
        let payload =
            json!({ "due_on": workflow.due_on, "steps": workflow.steps.len(), "assignee": workflow.assignee });
        tell(db, &workflow, ("workflow.started", payload), &Asked::by(actor, now)).await?;
    }
    Ok(workflow)
}

fn unknown(field: &'static str, what: &str) -> StoreError {
    StoreError::Conflict { field, message: format!("is not the id of one of the organization's {what}s") }
}

/// A step for each asset that the employee holds.
async fn take_back(
    db: &mut PgConnection,
    new: &StartWorkflow,
    employee: Uuid,
    (assignee, day_zero): (Assignee, NaiveDate),
) -> Result<Vec<NewStep>, StoreError> {
    let due_on = workflow::due(day_zero, RETURN_IN_DAYS, new.today);
    let held = workflows::held_by(db, employee).await?;
    let step = |asset: workflows::Held| {
        let words = match new.language {
            Language::Sv => "Ta tillbaka",
            Language::En => "Take back",
        };
        let title = format!("{words} {} ({})", asset.tag, asset.name);
        NewStep { title, assignee, due_on, needs_approval: false, asset_id: Some(asset.id) }
    };
    Ok(held.into_iter().map(step).collect())
}

/// `Onboarding: anna@acme.example`
async fn title_of(db: &mut PgConnection, new: &StartWorkflow) -> Result<String, StoreError> {
    let kind = new.kind.words(new.language);
    let about = match (new.employee_id, new.asset_id) {
        (Some(employee), _) => workflows::employee(db, employee).await?.and_then(|employee| employee.work_email),
        (None, Some(asset)) => workflows::asset_tag(db, asset).await?,
        (None, None) => None,
    };
    Ok(about.map_or_else(|| kind.to_owned(), |about| format!("{kind}: {about}")))
}

/// The workflow and one of its steps, until the transaction ends.
async fn lock(db: &mut PgConnection, (id, step): (Uuid, Uuid)) -> Result<(Workflow, Step), WorkflowError> {
    let workflow = workflows::lock(db, id).await?.ok_or(WorkflowError::Unknown("workflow"))?;
    let found = workflow.steps.iter().find(|candidate| candidate.id == step).cloned();
    let step = found.ok_or(WorkflowError::Unknown("step"))?;
    Ok((workflow, step))
}

/// Carries out what the state machine said, and tells it.
async fn act(
    db: &mut PgConnection,
    (workflow, step): (Workflow, Step),
    (act, note): (StepAct, Option<&str>),
    asked: &Asked<'_>,
) -> Result<(Workflow, Step), WorkflowError> {
    let Moved { step: to, workflow: status } = workflow.act(&step, act, asked.actor, asked.person)?;
    let change = StepChange { act, from: step.status, to, note, actor: asked.actor };
    if !workflows::move_step(db, step.id, &change, asked.now).await? {
        return Err(Refusal::Step { position: step.position, status: step.status }.into());
    }
    let before = workflow.status;
    let after = reload(db, workflow.id).await?;
    let after = go_to(db, after, (before, status), None, asked).await?;
    let moved = after.steps.iter().find(|candidate| candidate.id == step.id).cloned();
    let step = moved.ok_or(WorkflowError::Unknown("step"))?;
    let kind = match act {
        StepAct::Advance if to.is_open() => "workflow.approval_wanted",
        StepAct::Advance | StepAct::Approve | StepAct::Skip => "workflow.step_completed",
        StepAct::Reject => "workflow.step_rejected",
    };
    let payload = json!({
        "step_id": step.id, "position": step.position, "step": step.title, "step_status": step.status,
        "step_asset_id": step.asset_id, "approved_by": step.approved_by,
    });
    tell(db, &after, (kind, payload), asked).await?;
    if after.status == WorkflowStatus::Completed {
        tell(db, &after, ("workflow.completed", json!({ "skipped": 0 })), asked).await?;
    }
    Ok((after, step))
}

async fn reload(db: &mut PgConnection, id: Uuid) -> Result<Workflow, StoreError> {
    workflows::by_id(db, id).await?.ok_or(StoreError::NotFound { what: "workflow", id })
}

/// Writes the workflow's own status, with the deadline that follows from its steps.
async fn go_to(
    db: &mut PgConnection,
    mut workflow: Workflow,
    (from, to): (WorkflowStatus, WorkflowStatus),
    reason: Option<&str>,
    asked: &Asked<'_>,
) -> Result<Workflow, WorkflowError> {
    workflow.status = to;
    let facts = (workflow.deadline(), reason);
    if !workflows::set_status(db, workflow.id, (from, to), facts, asked.now).await? {
        return Err(Refusal::Ended(from).into());
    }
    Ok(reload(db, workflow.id).await?)
}

/// What is said with an advance.
#[derive(Clone, Copy, Default)]
pub struct Advance<'a> {
    pub note: Option<&'a str>,
    /// Approves it at once, where that is needed: for a program or an operator that stands for both.
    pub approve: bool,
    /// Takes the step's asset back from the employee whom the workflow is about, in the same transaction.
    pub take_back: Option<TakeBack<'a>>,
}

/// What an asset's history needs.
#[derive(Clone, Copy)]
pub struct TakeBack<'a> {
    pub sealer: Sealer<'a>,
    pub asked: &'a assets::Asked<'a>,
}

/// ASSET-5: somebody says that the step is done. One that needs approval then waits for it. Two who say so at once: the second is
/// refused.
pub async fn advance(
    db: &mut PgConnection,
    ids: (Uuid, Uuid),
    with: Advance<'_>,
    asked: &Asked<'_>,
) -> Result<Workflow, WorkflowError> {
    let (workflow, step) = lock(db, ids).await?;
    if let Some(take_back) = with.take_back {
        let asset = step.asset_id.ok_or(Refusal::NoAsset { position: step.position })?;
        return_asset(db, (&workflow, asset), take_back).await?;
    }
    let (workflow, step) = act(db, (workflow, step), (StepAct::Advance, with.note), asked).await?;
    if with.approve && step.status.is_open() {
        return Ok(act(db, (workflow, step), (StepAct::Approve, None), asked).await?.0);
    }
    Ok(workflow)
}

/// ASSET-6: what came back before, or has gone on to somebody else since, stays where it is.
async fn return_asset(
    db: &mut PgConnection,
    (workflow, asset): (&Workflow, Uuid),
    TakeBack { sealer, asked }: TakeBack<'_>,
) -> Result<(), StoreError> {
    let Some(employee) = workflow.employee_id else { return Ok(()) };
    if workflows::held_by(db, employee).await?.iter().any(|held| held.id == asset) {
        let back = asset::Step::Return { location_id: None, condition: None };
        assets::step(db, sealer, (asset, &back), (assets::Remark::default(), asked)).await?;
    }
    Ok(())
}

/// ASSET-5: the step is done as it should be.
pub async fn approve(
    db: &mut PgConnection,
    ids: (Uuid, Uuid),
    note: Option<&str>,
    asked: &Asked<'_>,
) -> Result<Workflow, WorkflowError> {
    let found = lock(db, ids).await?;
    Ok(act(db, found, (StepAct::Approve, note), asked).await?.0)
}

/// ASSET-5: the step has to be done again.
pub async fn reject(
    db: &mut PgConnection,
    ids: (Uuid, Uuid),
    note: Option<&str>,
    asked: &Asked<'_>,
) -> Result<Workflow, WorkflowError> {
    let found = lock(db, ids).await?;
    Ok(act(db, found, (StepAct::Reject, note), asked).await?.0)
}

/// How a workflow is completed by hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Complete {
    /// Leaves out what is open; without it there must be nothing open.
    pub skip_open: bool,
}

/// ASSET-5: completes a workflow. No approval that is needed is left out.
pub async fn complete(
    db: &mut PgConnection,
    id: Uuid,
    how: Complete,
    asked: &Asked<'_>,
) -> Result<Workflow, WorkflowError> {
    let workflow = workflows::lock(db, id).await?.ok_or(WorkflowError::Unknown("workflow"))?;
    let skipped = workflow.completion(how.skip_open)?;
    let to = workflow.status.after(WorkflowAct::Complete).ok_or(Refusal::Ended(workflow.status))?;
    let from = workflow.status;
    let count = workflows::skip_steps(db, &skipped).await?;
    let workflow = go_to(db, workflow, (from, to), None, asked).await?;
    tell(db, &workflow, ("workflow.completed", json!({ "skipped": count })), asked).await?;
    Ok(workflow)
}

/// ASSET-5: it is not needed any more.
pub async fn cancel(
    db: &mut PgConnection,
    id: Uuid,
    reason: Option<&str>,
    asked: &Asked<'_>,
) -> Result<Workflow, WorkflowError> {
    end(db, id, (WorkflowAct::Cancel, "workflow.cancelled"), reason, asked).await
}

/// ASSET-5: it cannot be done.
pub async fn fail(db: &mut PgConnection, id: Uuid, reason: &str, asked: &Asked<'_>) -> Result<Workflow, WorkflowError> {
    end(db, id, (WorkflowAct::Fail, "workflow.failed"), Some(reason), asked).await
}

async fn end(
    db: &mut PgConnection,
    id: Uuid,
    (act, kind): (WorkflowAct, &str),
    reason: Option<&str>,
    asked: &Asked<'_>,
) -> Result<Workflow, WorkflowError> {
    let workflow = workflows::lock(db, id).await?.ok_or(WorkflowError::Unknown("workflow"))?;
    let from = workflow.status;
    let to = from.after(act).ok_or(Refusal::Ended(from))?;
    let workflow = go_to(db, workflow, (from, to), reason, asked).await?;
    tell(db, &workflow, (kind, json!({})), asked).await?;
    Ok(workflow)
}
