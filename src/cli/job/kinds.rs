//! `backroom job kinds`: the registry, for people.

use std::process::ExitCode;

use backroom_queue::Kind;
use serde_json::{Value, json};

use super::{Output, Session};
use crate::{cli::output::cell, context::App};

pub fn run(session: &Session, name: Option<&str>, output: Output) -> anyhow::Result<ExitCode> {
    if let Some(name) = name {
        let kind = super::kind(session, name)?;
        output.answer(&document(kind), || {
            format!("{}\n{}\n\n{:#}", kind.name, kind.description(), kind.schema.as_value())
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let kinds: Vec<_> = session.registry.kinds().collect();
    let documents: Vec<Value> = kinds.iter().map(|kind| document(kind)).collect();
    output.answer(&json!({ "kinds": documents }), || {
        let rows = kinds.iter().map(|kind| {
            let what = kind.description().lines().next().unwrap_or_default();
            let timeout = format!("{} s", kind.timeout.as_secs());
            [cell(kind.name), cell(kind.queue), cell(kind.priority), cell(kind.max_attempts), cell(timeout), cell(what)]
        });
        output.table(
            ["kind", "queue", "priority", "attempts", "timeout", "what it does"],
            rows.collect(),
            "there is no kind",
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn document(kind: &Kind<App>) -> Value {
    json!({
        "kind": kind.name,
        "description": kind.description(),
        "queue": kind.queue,
        "priority": kind.priority,
        "max_attempts": kind.max_attempts,
        "timeout_s": kind.timeout.as_secs(),
        "retention_days": kind.retention_days,
        "args": kind.schema,
    })
}
