//! `backroom workflow …` (ASSET-5)

mod acts;
mod list;
mod template;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    output::{Output, cell, maybe, time},
    session::Session,
};
use crate::domain::{StepStatus, Workflow as Row};

const ACTOR: &str = "operator";

#[derive(Subcommand)]
pub enum Workflow {
    /// List an organization's workflows, oldest first
    #[command(after_help = "Example:\n  backroom workflow list --org acme --status in_progress")]
    List(list::List),
    /// List the workflows of which something should be done by now
    #[command(after_help = "Example:\n  backroom workflow overdue --org acme")]
    Overdue(list::Overdue),
    /// List the templates that the organization made, and the product's own steps for each kind
    #[command(after_help = "Example:\n  backroom workflow templates --org acme --kind onboarding")]
    Templates(template::Templates),
    /// Make templates of the organization's own
    #[command(subcommand, after_help = "Example:\n  backroom workflow template add hire.json --org acme")]
    Template(Template),
    /// Show a workflow with its steps
    #[command(after_help = "Example:\n  backroom workflow show 01980a3c-4f00-7000-8000-000000000000 --org acme")]
    Show(One),
    /// Start a workflow
    #[command(after_help = "Example:\n  backroom workflow start procurement --org acme --title 'Laptops for Oslo'")]
    Start(acts::Start),
    /// Say that a step is done: the next one that can be, or the one named
    #[command(
        after_help = "Example:\n  backroom workflow advance 01980a3c-4f00-7000-8000-000000000000 --org acme --step 2 --approve"
    )]
    Advance(acts::Advance),
    /// Send a step back that waits for approval, to be done again
    #[command(
        after_help = "Example:\n  backroom workflow reject 01980a3c-4f00-7000-8000-000000000000 --org acme --note 'too dear'"
    )]
    Reject(acts::Reject),
    /// Complete a workflow by hand
    #[command(
        after_help = "Example:\n  backroom workflow complete 01980a3c-4f00-7000-8000-000000000000 --org acme --skip-open-steps"
    )]
    Complete(acts::Complete),
    /// Cancel a workflow that is not needed any more
    #[command(
        after_help = "Example:\n  backroom workflow cancel 01980a3c-4f00-7000-8000-000000000000 --org acme --reason 'did not come'"
    )]
    Cancel(acts::Cancel),
    /// Say that a workflow cannot be done, and why
    #[command(
        after_help = "Example:\n  backroom workflow fail 01980a3c-4f00-7000-8000-000000000000 --org acme --reason 'sold out'"
    )]
    Fail(acts::Fail),
}

#[derive(Subcommand)]
pub enum Template {
    /// Store a template, which is read as the API takes it: kind, name, steps, is_default
    #[command(after_help = "Example:\n  backroom workflow template add hire.json --org acme")]
    Add(template::Add),
}

#[derive(clap::Args)]
pub struct One {
    /// Id of the workflow, from `workflow list`
    id: Uuid,
    /// Slug of the organization
    #[arg(long)]
    org: String,
}

pub async fn run(session: &Session, command: Workflow, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Workflow::List(args) => list::list(session, args, output).await?,
        Workflow::Overdue(args) => list::overdue(session, args, output).await?,
        Workflow::Templates(args) => template::templates(session, args, output).await?,
        Workflow::Template(Template::Add(args)) => template::add(session, args, output).await?,
        Workflow::Show(one) => acts::show(session, one, output).await?,
        Workflow::Start(args) => acts::start(session, args, output).await?,
        Workflow::Advance(args) => acts::advance(session, args, output).await?,
        Workflow::Reject(args) => acts::reject(session, args, output).await?,
        Workflow::Complete(args) => acts::complete(session, args, output).await?,
        Workflow::Cancel(args) => acts::cancel(session, args, output).await?,
        Workflow::Fail(args) => acts::fail(session, args, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// For programs.
fn document(row: &Row) -> Value {
    let steps = row.steps.iter().map(|step| {
        json!({
            "id": step.id, "position": step.position, "title": step.title, "status": step.status, "assignee": step.assignee,
            "due_on": step.due_on, "needs_approval": step.needs_approval, "asset_id": step.asset_id, "note": step.note,
            "advanced_by": step.advanced_by, "advanced_at": step.advanced_at, "approved_by": step.approved_by,
            "approved_at": step.approved_at,
        })
    });
    json!({
        "id": row.id, "kind": row.kind, "template_id": row.template_id, "title": row.title, "status": row.status,
        "employee_id": row.employee_id, "asset_id": row.asset_id, "assignee": row.assignee, "due_on": row.due_on,
        "deadline": row.deadline(), "reason": row.reason, "created_by": row.created_by, "created_at": row.created_at,
        "updated_at": row.updated_at, "begun_at": row.begun_at, "ended_at": row.ended_at, "steps": steps.collect::<Vec<_>>(),
    })
}

/// For people: what it is, and its steps.
fn told(row: &Row, output: Output) -> String {
    let steps = row.steps.iter().map(|step| {
        [
            cell(step.position),
            cell(&step.title),
            cell(if step.needs_approval && step.status == StepStatus::Pending {
                "pending, approval"
            } else {
                step.status.as_str()
            }),
            cell(step.assignee),
            cell(step.due_on),
            maybe(step.note.as_ref()),
        ]
    });
    let header = ["step", "title", "status", "assignee", "due", "note"];
    let steps = output.table(header, steps.collect(), "it has no steps");
    let mut lines = vec![
        format!("{}  {}", row.id, row.title),
        format!(
            "{}, {}, due {}, started {} by {}",
            row.kind,
            row.status,
            row.due_on,
            time(row.created_at),
            row.created_by
        ),
    ];
    lines.extend(row.reason.as_ref().map(|reason| format!("because: {reason}")));
    format!("{}\n\n{steps}", lines.join("\n"))
}
