//! `backroom integration sync|test|runs|run|deliveries`

use std::process::ExitCode;

use backroom_queue::{NewJob, Outcome, TraceParent};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    ACTOR, Deliveries, One, Output, Runs, Session, SyncNow, cell, doors, find, maybe, more, next_cursor, page, time,
};
use crate::{
    cli::{
        exit::{JOB_ENDED_BADLY, not_found},
        job::{self, Ran},
    },
    domain::{
        Organization,
        integration::{SyncFailure, SyncMode, SyncRun, SyncTrigger},
    },
    store::{Page, sync_runs, webhook_deliveries},
    tenant,
};

/// Failures that a person is shown.
const SHOWN: i64 = 100;

/// Through the code of a worker; the run is that of the job, and goes on in the workers if it does not end here.
pub async fn sync(session: &Session, args: SyncNow, output: Output) -> anyhow::Result<ExitCode> {
    let (organization, integration) = find(session, &args.which).await?;
    let request = doors::SyncIntegration {
        integration_id: integration.id,
        mode: args.full.then_some(SyncMode::Full),
        trigger: SyncTrigger::Manual,
    };
    let job = NewJob::of(&request).tenant(organization.slug.as_str()).trace(Some(TraceParent::new()));
    let Ran { outcome, record, duration } = match job::here(session, job).await {
        Ok(ran) => ran,
        Err(refused) => {
            let Some(before) = after_another(session, &organization, &request).await? else { return Err(refused) };
            let why = format!(
                "another run is waiting or under way (job {before}); unless that one reads everything, the full one follows within \
                 minutes of its end"
            );
            let shown = json!({ "job_id": before, "outcome": "follows", "reason": why, "run": null });
            output.answer(&shown, || format!("{}: {why}", integration.name))?;
            return Ok(ExitCode::SUCCESS);
        }
    };

    let mut tx = tenant::begin(&session.db, &organization).await?;
    let last = Page { newest_first: true, ..Page::first(1) };
    let run = sync_runs::page(&mut tx, Some(integration.id), last).await?.pop().filter(|run| run.job_id == record.id);
    tx.rollback().await?;
    let why = match &outcome {
        Outcome::Completed { .. } | Outcome::Released => None,
        Outcome::Snoozed { wait } => Some(format!("it goes on in {wait:.0?}, in a worker")),
        Outcome::Retryable { error, wait } => Some(format!("{error}; a worker tries it again in {wait:.0?}")),
        Outcome::Cancelled { reason } | Outcome::Discarded { reason, .. } => Some(reason.clone()),
    };
    let shown = json!({
        "job_id": record.id, "outcome": job::word(&outcome), "reason": why, "run": run.as_ref().map(document),
        "duration_ms": u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
    });
    output.answer(&shown, || {
        let told = format!("{}: {} in {duration:.1?}", integration.name, job::word(&outcome));
        let counted = run.as_ref().map(|run| format!("\n{}", counts(run))).unwrap_or_default();
        let named = run.as_ref().filter(|run| run.counts.failed > 0);
        let named =
            named.map(|run| format!("\nwhich, says: backroom integration run {} --org {}", run.id, args.which.org));
        format!("{told}{counted}{}{}", named.unwrap_or_default(), why.map(|why| format!("\n{why}")).unwrap_or_default())
    })?;
    Ok(match outcome {
        // Not at its end, and nothing is wrong.
        Outcome::Snoozed { .. } | Outcome::Released => ExitCode::SUCCESS,
        _ => job::exit_code(record.state),
    })
}

/// Keeps the wish for a full run that cannot begin because of another job, and answers that one.
async fn after_another(
    session: &Session,
    organization: &Organization,
    request: &doors::SyncIntegration,
) -> anyhow::Result<Option<Uuid>> {
    if request.mode != Some(SyncMode::Full) {
        return Ok(None);
    }
    let mut tx = tenant::begin(&session.db, organization).await?;
    let told = (session.clock.now(), None);
    let asked = doors::request_sync(&mut tx, &organization.slug, request, ACTOR, told).await?;
    if !asked.duplicate {
        // What was in the way is gone, or it was something else: nothing is left behind.
        tx.rollback().await?;
        return Ok(None);
    }
    tx.commit().await?;
    Ok(Some(asked.id))
}

fn counts(run: &SyncRun) -> String {
    let counts = &run.counts;
    format!(
        "{} records read on {} pages: {} new, {} changed, {} as before, {} not stored",
        counts.read, counts.pages, counts.created, counts.updated, counts.unchanged, counts.failed
    )
}

/// The sentence is for who has to mend it.
pub async fn test(session: &Session, one: One, output: Output) -> anyhow::Result<ExitCode> {
    let (organization, integration) = find(session, &one).await?;
    let app = session.app()?;
    let report = doors::test(&app, &organization, integration.id, ACTOR).await?;
    let report = report.ok_or_else(|| not_found(format!("{} has no integration {}", one.org, integration.id)))?;
    output.answer(&json!({ "ok": report.ok, "message": report.message, "problem": report.problem }), || {
        let word = if report.ok { "works" } else { "does not work" };
        format!("{} {word}: {}", integration.name, report.message)
    })?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(JOB_ENDED_BADLY) })
}

fn document(run: &SyncRun) -> Value {
    json!({
        "id": run.id, "integration_id": run.integration_id, "mode": run.mode, "trigger": run.trigger, "state": run.state,
        "job_id": run.job_id, "stream": run.stream, "pages": run.counts.pages, "read": run.counts.read,
        "created": run.counts.created, "updated": run.counts.updated, "unchanged": run.counts.unchanged,
        "failed": run.counts.failed, "total": run.total, "error": run.error, "started_at": run.started_at,
        "ended_at": run.ended_at,
    })
}

pub async fn list(session: &Session, args: Runs, output: Output) -> anyhow::Result<()> {
    let (organization, of) = match args.integration {
        Some(integration) => {
            let (organization, found) = find(session, &One { integration, org: args.org.clone() }).await?;
            (organization, Some(found.id))
        }
        None => (session.organization(&args.org).await?, None),
    };
    let wanted = Page { after: args.cursor, limit: args.limit, newest_first: true };
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let rows = sync_runs::page(&mut tx, of, wanted).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, args.limit, |run| run.id);
    let documents: Vec<_> = rows.iter().map(document).collect();
    output.answer(&page("runs", &documents, next), || {
        let table = rows.iter().map(|run| {
            [
                cell(run.id),
                cell(run.state),
                cell(run.mode),
                cell(run.trigger),
                cell(time(run.started_at)),
                cell(run.counts.read),
                cell(run.counts.created),
                cell(run.counts.updated),
                cell(run.counts.failed),
                maybe(run.error.as_ref()),
            ]
        });
        let header = ["id", "state", "mode", "trigger", "started", "read", "new", "changed", "failed", "problem"];
        output.table(header, table.collect(), &format!("{} has no run yet", args.org)) + &more(next)
    })
}

pub async fn show(session: &Session, (org, id): (&str, Uuid), output: Output) -> anyhow::Result<()> {
    let organization = session.organization(org).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let run = sync_runs::by_id(&mut tx, id).await?;
    let failures = sync_runs::failures(&mut tx, id, Page::first(SHOWN)).await?;
    tx.rollback().await?;
    let run = run.ok_or_else(|| not_found(format!("{org} has no run {id}")))?;
    let mut shown = document(&run);
    let told = |failure: &SyncFailure| {
        json!({
            "position": failure.position, "external_id": failure.record.external_id, "reason": failure.record.reason,
        })
    };
    shown["failures"] = failures.iter().map(told).collect();
    output.answer(&shown, || describe(&run, &failures))
}

fn describe(run: &SyncRun, failures: &[SyncFailure]) -> String {
    let mut lines = vec![format!("{} run {} ({})", run.mode, run.id, run.state)];
    lines.push(format!("  asked for by {}, begun {}", run.trigger, time(run.started_at)));
    lines.extend(run.ended_at.map(|at| format!("  ended {}", time(at))));
    lines.push(format!("  {}", counts(run)));
    lines.extend(run.error.as_ref().map(|error| format!("  {error}")));
    for failure in failures {
        let id = failure.record.external_id.as_deref().unwrap_or("(no id)");
        lines.push(format!("  {:>5}  {id}: {}", failure.position, failure.record.reason));
    }
    let left = run.counts.failed.saturating_sub(failures.len() as u64);
    if left > 0 {
        lines.push(format!("  and {left} more"));
    }
    lines.join("\n")
}

pub async fn deliveries(session: &Session, args: Deliveries, output: Output) -> anyhow::Result<()> {
    let (organization, integration) = find(session, &args.which).await?;
    let wanted = Page { after: args.cursor, limit: args.limit, newest_first: true };
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let rows = webhook_deliveries::page(&mut tx, integration.id, wanted).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, args.limit, |delivery| delivery.id);
    let documents: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.id, "external_id": row.external_id, "happened": row.happened, "payload": row.payload,
                "state": row.state, "outcome": row.outcome, "received_at": row.received_at, "handled_at": row.handled_at,
            })
        })
        .collect();
    output.answer(&page("deliveries", &documents, next), || {
        let table = rows.iter().map(|row| {
            [
                cell(time(row.received_at)),
                cell(row.happened),
                cell(&row.external_id),
                cell(row.state),
                maybe(row.outcome.as_ref()),
            ]
        });
        let header = ["received", "what", "id of the sender", "state", "what came of it"];
        let none = format!("{} has sent nothing by itself", integration.provider.title());
        output.table(header, table.collect(), &none) + &more(next)
    })
}
