//! `backroom workflow show`, `start`, `advance`, `reject`, `complete`, `cancel` and `fail`

use chrono::NaiveDate;
use uuid::Uuid;

use super::{
    super::{
        exit::{not_found, usage},
        output::Output,
        session::Session,
    },
    ACTOR, One, document, told,
};
use crate::{
    domain::{
        Assignee, Role, StepStatus, Workflow as Row, WorkflowKind,
        field_error::{many_lines, one_line},
        workflow::MAX_NOTE,
    },
    jobs::{
        assets::doors as assets,
        workflows::{self as doors, Asked, StartWorkflow, TakeBack, WorkflowError},
    },
    store::{Sealer, StoreError, workflows},
    tenant,
};

#[derive(clap::Args)]
pub struct Start {
    /// onboarding, offboarding, repair, procurement or transfer
    kind: WorkflowKind,
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// One of the organization's; its default for the kind or the product's own steps if left out
    #[arg(long, value_name = "ID")]
    template: Option<Uuid>,
    /// Whom it is about: needed for onboarding and offboarding
    #[arg(long, value_name = "ID")]
    employee: Option<Uuid>,
    /// What it is about: needed for repair and transfer
    #[arg(long, value_name = "ID")]
    asset: Option<Uuid>,
    /// What it is called
    #[arg(long)]
    title: Option<String>,
    /// Who sees to the whole: admin, developer or user; admin if left out
    #[arg(long)]
    role: Option<Role>,
    /// The day that it is about, such as the first day at work; today if left out
    #[arg(long, value_name = "DATE")]
    day_zero: Option<NaiveDate>,
    /// When it is to be done; with its last step if left out
    #[arg(long, value_name = "DATE")]
    due: Option<NaiveDate>,
}

#[derive(clap::Args)]
pub struct Advance {
    #[command(flatten)]
    one: One,
    /// Number of the step, from `workflow show`; the next one that can be done if left out
    #[arg(long, value_name = "N")]
    step: Option<u32>,
    /// Approve it at once, where that is needed; on a step that waits for approval only this
    #[arg(long)]
    approve: bool,
    /// Take the step's asset back from the employee whom the workflow is about
    #[arg(long)]
    return_asset: bool,
    /// What there is to say about it
    #[arg(long)]
    note: Option<String>,
}

#[derive(clap::Args)]
pub struct Reject {
    #[command(flatten)]
    one: One,
    /// Number of the step, from `workflow show`; the first one that waits for approval if left out
    #[arg(long, value_name = "N")]
    step: Option<u32>,
    /// Why
    #[arg(long)]
    note: Option<String>,
}

#[derive(clap::Args)]
pub struct Fail {
    #[command(flatten)]
    one: One,
    /// Why
    #[arg(long)]
    reason: String,
}

#[derive(clap::Args)]
pub struct Complete {
    #[command(flatten)]
    one: One,
    /// Leave out what is open, but no approval that is needed
    #[arg(long)]
    skip_open_steps: bool,
}

#[derive(clap::Args)]
pub struct Cancel {
    #[command(flatten)]
    one: One,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

/// The error as a sentence; exit code 3 where something is not there.
fn explained(error: WorkflowError, one: &One) -> anyhow::Error {
    match error {
        WorkflowError::Unknown(what) => not_found(format!("{} has no {what} {}", one.org, one.id)),
        error => error.into(),
    }
}

fn check_note(option: &str, note: Option<&str>) -> anyhow::Result<()> {
    let Some(note) = note else { return Ok(()) };
    many_lines(note, MAX_NOTE).map_err(|error| usage(format!("{option} {error}")))
}

pub async fn show(session: &Session, one: One, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&one.org).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let row = workflows::by_id(&mut tx, one.id).await?;
    tx.rollback().await?;
    let row = row.ok_or_else(|| not_found(format!("{} has no workflow {}", one.org, one.id)))?;
    output.answer(&document(&row), || told(&row, output))
}

pub async fn start(session: &Session, args: Start, output: Output) -> anyhow::Result<()> {
    if let Some(title) = &args.title {
        one_line(title, 200).map_err(|error| usage(format!("--title {error}")))?;
    }
    if let Some(role) = args.role {
        Assignee::Role(role).check().map_err(|error| usage(format!("--role {error}")))?;
    }
    let organization = session.organization(&args.org).await?;
    let today = session.clock.today(organization.time_zone);
    let new = StartWorkflow {
        template: args.template,
        employee_id: args.employee,
        asset_id: args.asset,
        title: args.title,
        assignee: args.role.map(Assignee::Role),
        day_zero: args.day_zero,
        due_on: args.due,
        ..StartWorkflow::of(args.kind, &organization, today)
    };
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let started = doors::start(&mut tx, &new, ACTOR, session.clock.now()).await;
    let row = started.map_err(|error| match error {
        StoreError::Conflict { field, message } => usage(format!("--{} {message}", field.trim_end_matches("_id"))),
        error => anyhow::Error::new(error).context("the workflow was not started"),
    })?;
    tx.commit().await?;
    output.answer(&document(&row), || told(&row, output))
}

pub async fn advance(session: &Session, args: Advance, output: Output) -> anyhow::Result<()> {
    let Advance { one, step, approve, return_asset, note } = args;
    check_note("--note", note.as_deref())?;
    let organization = session.organization(&one.org).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let found = workflows::lock(&mut tx, one.id).await?;
    let row = found.ok_or_else(|| not_found(format!("{} has no workflow {}", one.org, one.id)))?;
    let chosen = match step {
        Some(position) => row.steps.iter().find(|step| step.position == position),
        None => row.next_step().or_else(|| row.steps.iter().find(|step| step.status.is_open())),
    };
    let chosen = chosen.ok_or_else(|| not_found("there is no such step; `workflow show` lists them"))?;
    let (ids, asked) = ((one.id, chosen.id), Asked::by(ACTOR, session.clock.now()));
    let app = return_asset.then(|| session.app()).transpose()?;
    let by = assets::Asked::by(ACTOR, session.clock.now());
    let sealed = app.as_ref().map(|app| Sealer::new(&app.vault, organization.slug.as_str()));
    let take_back = sealed.map(|sealer| TakeBack { sealer, asked: &by });
    let with = doors::Advance { note: note.as_deref(), approve, take_back };
    let waits = chosen.status == StepStatus::AwaitingApproval;
    let advanced = match waits && approve {
        true => doors::approve(&mut tx, ids, note.as_deref(), &asked).await,
        false => doors::advance(&mut tx, ids, with, &asked).await,
    };
    let row = advanced.map_err(|error| explained(error, &one))?;
    tx.commit().await?;
    output.answer(&document(&row), || told(&row, output))
}

pub async fn reject(session: &Session, args: Reject, output: Output) -> anyhow::Result<()> {
    let Reject { one, step, note } = args;
    check_note("--note", note.as_deref())?;
    let organization = session.organization(&one.org).await?;
    let asked = Asked::by(ACTOR, session.clock.now());
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let found = workflows::lock(&mut tx, one.id).await?;
    let row = found.ok_or_else(|| not_found(format!("{} has no workflow {}", one.org, one.id)))?;
    let chosen = row.steps.iter().find(|candidate| match step {
        Some(position) => candidate.position == position,
        None => candidate.status == StepStatus::AwaitingApproval,
    });
    let chosen = chosen.ok_or_else(|| not_found("no such step waits for approval; `workflow show` lists them"))?;
    let rejected = doors::reject(&mut tx, (one.id, chosen.id), note.as_deref(), &asked).await;
    let row = rejected.map_err(|error| explained(error, &one))?;
    tx.commit().await?;
    output.answer(&document(&row), || told(&row, output))
}

pub async fn complete(session: &Session, args: Complete, output: Output) -> anyhow::Result<()> {
    let Complete { one, skip_open_steps } = args;
    let organization = session.organization(&one.org).await?;
    let asked = Asked::by(ACTOR, session.clock.now());
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let completed = doors::complete(&mut tx, one.id, doors::Complete { skip_open: skip_open_steps }, &asked).await;
    let row = completed.map_err(|error| explained(error, &one))?;
    tx.commit().await?;
    ended(&row, output)
}

pub async fn cancel(session: &Session, args: Cancel, output: Output) -> anyhow::Result<()> {
    let Cancel { one, reason } = args;
    check_note("--reason", reason.as_deref())?;
    let organization = session.organization(&one.org).await?;
    let asked = Asked::by(ACTOR, session.clock.now());
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let cancelled = doors::cancel(&mut tx, one.id, reason.as_deref(), &asked).await;
    let row = cancelled.map_err(|error| explained(error, &one))?;
    tx.commit().await?;
    ended(&row, output)
}

pub async fn fail(session: &Session, args: Fail, output: Output) -> anyhow::Result<()> {
    let Fail { one, reason } = args;
    check_note("--reason", Some(&reason))?;
    if reason.trim().is_empty() {
        return Err(usage("--reason has to say why"));
    }
    let organization = session.organization(&one.org).await?;
    let asked = Asked::by(ACTOR, session.clock.now());
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let failed = doors::fail(&mut tx, one.id, &reason, &asked).await;
    let row = failed.map_err(|error| explained(error, &one))?;
    tx.commit().await?;
    ended(&row, output)
}

fn ended(row: &Row, output: Output) -> anyhow::Result<()> {
    output.answer(&document(row), || format!("{} is {}", row.title, row.status))
}
