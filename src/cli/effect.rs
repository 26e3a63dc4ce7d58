//! `backroom effect …` (PLAT-21): what jobs did to the outside world, and a person's answer where nobody knows.

use std::process::ExitCode;

use anyhow::bail;
use backroom_queue::{Answered, EffectAnswer, EffectFilter, EffectState};
use clap::Subcommand;
use serde_json::Value;
use uuid::Uuid;

use super::{
    exit::not_found,
    output::{Output, cell, maybe, time},
    session::Session,
};

#[derive(Subcommand)]
pub enum Effect {
    /// List effects, newest job first
    #[command(after_help = "Example:\n  backroom effect list --unknown")]
    List(List),
    /// Say whether an unknown effect happened; then retry its job, if it shall go on
    #[command(after_help = "Example:\n  backroom effect resolve 0199aaaa-0000-8000-8000-000000000000 --did-not-happen")]
    Resolve(Resolve),
}

#[derive(clap::Args)]
pub struct List {
    /// Those that may have happened: a call had no answer, or its worker was lost
    #[arg(long, conflicts_with = "state")]
    unknown: bool,
    /// intended, unknown, done or refused
    #[arg(long)]
    state: Option<EffectState>,
    /// Slug of the organization
    #[arg(long)]
    org: Option<String>,
    /// Those of one job
    #[arg(long)]
    job: Option<Uuid>,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
}

#[derive(clap::Args)]
pub struct Resolve {
    /// From `backroom effect list --unknown`
    id: Uuid,
    #[command(flatten)]
    what: What,
    /// What the call would have answered, as JSON, for jobs that go on with it
    #[arg(long, value_name = "JSON", requires = "happened", value_parser = json)]
    outcome: Option<Value>,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// The other side has it: nothing is called again
    #[arg(long)]
    happened: bool,
    /// The other side has not: the next attempt calls again
    #[arg(long)]
    did_not_happen: bool,
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

pub async fn run(session: &Session, command: Effect, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Effect::List(args) => list(session, args, output).await?,
        Effect::Resolve(args) => resolve(session, args, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(session: &Session, args: List, output: Output) -> anyhow::Result<()> {
    if let Some(org) = &args.org {
        session.organization(org).await?;
    }
    let state = if args.unknown { Some(EffectState::Unknown) } else { args.state };
    let filter = EffectFilter { tenant: args.org, state, job_id: args.job, before: None, limit: args.limit };
    let effects = backroom_queue::effects(&session.db, &filter).await?;
    output.answer(&serde_json::json!({ "effects": effects }), || {
        let rows = effects.iter().map(|effect| {
            // An unknown one of an unfinished job is still in the hands of its rule.
            let waits = match (effect.state, effect.job_unfinished) {
                (EffectState::Unknown, true) => "its job",
                (EffectState::Unknown, false) => "you",
                _ => "",
            };
            [
                cell(effect.id),
                cell(&effect.key),
                maybe(effect.tenant.as_ref()),
                cell(effect.state),
                cell(waits),
                cell(effect.calls),
                cell(effect.job_id),
                cell(time(effect.called_at)),
                maybe(effect.error.as_ref()),
            ]
        });
        let header = ["id", "key", "organization", "state", "waits for", "calls", "job", "last called", "last words"];
        output.table(header, rows.collect(), "there is no such effect")
    })
}

async fn resolve(session: &Session, args: Resolve, output: Output) -> anyhow::Result<()> {
    let id = args.id;
    let answer = if args.what.happened { EffectAnswer::Happened(args.outcome) } else { EffectAnswer::DidNotHappen };
    let mut db = session.connection().await?;
    match backroom_queue::answer_effect(&mut db, id, None, &answer, "operator").await? {
        Answered::Yes => {}
        Answered::Known(known) => bail!("effect {id} is {known} already, and needs no answer"),
        Answered::InCall => bail!("an attempt is in the call of effect {id}; wait until it has ended"),
        Answered::NotFound => {
            return Err(not_found(format!("there is no effect {id}; `backroom effect list --unknown` shows them")));
        }
    }
    let Some(effect) = backroom_queue::find_effect(&mut *db, id, None).await? else {
        return Err(not_found(format!("effect {id} is forgotten already")));
    };
    output.answer(&effect, || {
        let next = match effect.job_unfinished {
            true => "its job comes back to it by itself".to_owned(),
            false => format!("next, if the job shall go on: backroom job retry {}", effect.job_id),
        };
        format!("effect {} ({}) is {}; {next}", effect.id, effect.key, effect.state)
    })
}

#[cfg(test)]
mod tests {
    use backroom_queue::{effect_id, find_effect};

    use super::*;
    use crate::{
        cli::exit::NotFound,
        jobs::{billing::RemindInvoice, testing::World},
    };

    /// PLAT-21
    #[tokio::test]
    async fn an_unknown_effect_is_listed_and_answered_for_once() {
        let world = World::new().await;
        let (config, clock) = (world.app.config.clone(), world.app.clock.clone());
        let session = Session { config, db: world.app.db.clone(), registry: world.registry.clone(), clock };
        let invoice = world.invoice("F-1", "hangup@example.se", 3).await;
        world.run(&RemindInvoice { invoice_id: invoice.id, stage: 1 }).await;
        let id = effect_id(Some("acme"), &format!("reminder:{}:1", invoice.id));
        let output = Output::new(true);

        let org = |org: &str| List { unknown: true, state: None, org: Some(org.to_owned()), job: None, limit: 50 };
        assert!(run(&session, Effect::List(org("acme")), output).await.is_ok());
        assert!(run(&session, Effect::List(org("nobody")), output).await.unwrap_err().is::<NotFound>());
        let resolve = async |id: Uuid| {
            let what = What { happened: true, did_not_happen: false };
            let outcome = Some(serde_json::json!({"recipient": "x", "response": "told", "at": "2026-03-02T08:00:00Z"}));
            run(&session, Effect::Resolve(Resolve { id, what, outcome }), output).await
        };
        assert!(resolve(Uuid::now_v7()).await.unwrap_err().is::<NotFound>());
        resolve(id).await.unwrap();
        let again = resolve(id).await.unwrap_err();
        assert!(again.to_string().contains("is done already"), "{again:#}");

        let known = find_effect(&world.app.db, id, None).await.unwrap().unwrap();
        assert_eq!((known.state, known.answered_by.as_deref()), (EffectState::Done, Some("operator")));
        backroom_queue::testing::fast_forward(&world.app.db).await.unwrap();
        backroom_queue::testing::drain(&world.app.db, &world.registry, world.app.clone(), "invoices").await.unwrap();
        assert_eq!((world.mailbox.accepted().len(), world.reload(invoice.id).await.reminder_stage), (1, 1));
    }
}
