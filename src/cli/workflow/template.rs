//! `backroom workflow templates` and `backroom workflow template add`

use std::path::PathBuf;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{
        exit::usage,
        output::{Output, cell, more, next_cursor, page},
        session::{Session, text_of},
    },
    ACTOR,
};
use crate::{
    domain::{
        Limits, WorkflowKind,
        workflow::{NewTemplate, Template, built_in},
    },
    jobs::workflows::{self as doors, Asked},
    store::{Page, StoreError, memberships, workflow_templates},
    tenant,
};

#[derive(clap::Args)]
pub struct Templates {
    /// Slug of the organization
    #[arg(long)]
    pub org: String,
    /// onboarding, offboarding, repair, procurement or transfer
    #[arg(long)]
    pub kind: Option<WorkflowKind>,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,
    /// Where the page before ended
    #[arg(long)]
    pub cursor: Option<Uuid>,
}

#[derive(clap::Args)]
pub struct Add {
    /// JSON as `POST /api/v1/workflow-templates` takes it; `-` reads standard input
    file: PathBuf,
    /// Slug of the organization
    #[arg(long)]
    org: String,
}

/// For programs.
fn document(row: &Template) -> Value {
    json!({
        "id": row.id, "kind": row.kind, "name": row.name, "is_default": row.is_default, "steps": row.steps,
        "created_at": row.created_at, "updated_at": row.updated_at,
    })
}

pub async fn templates(session: &Session, args: Templates, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&args.org).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let wanted = Page { after: args.cursor, ..Page::first(args.limit) };
    let rows = workflow_templates::page(&mut tx, args.kind, wanted).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, args.limit, |template| template.id);
    let kinds = WorkflowKind::ALL.iter().copied().filter(|kind| args.kind.is_none_or(|wanted| wanted == *kind));
    let own: Vec<_> = kinds.map(|kind| (kind, built_in(kind, organization.locale))).collect();
    let documents: Vec<_> = rows.iter().map(document).collect();
    let mut answer = page("templates", &documents, next);
    answer["built_in"] = own.iter().map(|(kind, steps)| json!({ "kind": kind, "steps": steps })).collect();
    output.answer(&answer, || {
        let made = rows.iter().map(|row| {
            let default = if row.is_default { "yes" } else { "-" };
            [cell(row.id), cell(row.kind), cell(&row.name), cell(default), cell(row.steps.len())]
        });
        let built_in = own.iter().map(|(kind, steps)| {
            let replaced = rows.iter().any(|row| row.kind == *kind && row.is_default);
            let default = if replaced { "-" } else { "yes" };
            [cell("-"), cell(kind), cell("built in"), cell(default), cell(steps.len())]
        });
        let header = ["id", "kind", "name", "default", "steps"];
        output.table(header, made.chain(built_in).collect(), "there is no template") + &more(next)
    })
}

pub async fn add(session: &Session, args: Add, output: Output) -> anyhow::Result<()> {
    let text = text_of(&args.file)?;
    let new: NewTemplate = serde_json::from_str(&text).map_err(|error| usage(format!("it is no template: {error}")))?;
    new.validate().map_err(|errors| usage(errors.to_string()))?;
    let organization = session.organization(&args.org).await?;
    let mut plane = session.db.acquire().await?;
    for (at, step) in new.steps.iter().enumerate() {
        if let Some(person) = step.assignee.person()
            && !memberships::works_in(&mut plane, organization.id, person).await?
        {
            return Err(usage(format!("steps[{at}].assignee: {person} does not work in {}", args.org)));
        }
    }
    drop(plane);
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let asked = Asked::by(ACTOR, session.clock.now());
    let made = doors::create_template(&mut tx, &new, Limits::of(organization.tier), &asked).await;
    let row = made.map_err(|error| match error {
        StoreError::Conflict { field, message } => usage(format!("{field} {message}")),
        error => anyhow::Error::new(error).context("the template was not stored"),
    })?;
    tx.commit().await?;
    let steps = if row.steps.len() == 1 { "1 step".to_owned() } else { format!("{} steps", row.steps.len()) };
    output.answer(&document(&row), || format!("{}  {} ({}), {steps}", row.id, row.name, row.kind))
}
