//! `backroom notification …`: rules that say which events are told in Slack, and where (EVT-3, SYNC-11).

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;
use uuid::Uuid;

use super::{
    exit::{not_found, usage},
    output::{Output, cell, maybe, more, next_cursor, page, time},
    session::Session,
};
use crate::{
    domain::{Channel, EventPattern, Language, NewRule, NotificationRule, integration::Provider},
    jobs::slack,
    store::{
        Page,
        integrations::{self, IntegrationFilter},
        notification_rules,
    },
    tenant::{self, TenantTx},
};

const ACTOR: &str = "operator";

#[derive(Subcommand)]
pub enum Notification {
    /// List an organization's rules, oldest first
    #[command(after_help = "Example:\n  backroom notification list --org acme")]
    List(List),
    /// Tell events in a channel from now on
    #[command(after_help = "Example:\n  backroom notification add 'asset.*' C0123ABCDEF --org acme")]
    Add(Add),
    /// Change a rule; one that has stopped is tried again
    #[command(
        after_help = "Example:\n  backroom notification change 01980a3c-4f00-7000-8000-000000000000 --org acme --enabled false"
    )]
    Change(Change),
    /// Remove a rule
    #[command(after_help = "Example:\n  backroom notification remove 01980a3c-4f00-7000-8000-000000000000 --org acme")]
    Remove(One),
}

#[derive(clap::Args)]
pub struct List {
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<Uuid>,
}

#[derive(clap::Args)]
pub struct Add {
    /// Kind of events, such as asset.assigned, or asset.* for all of a family
    events: EventPattern,
    /// Id of a Slack channel, or the e-mail address of a person, who is written to directly
    channel: Channel,
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// The Slack integration, where there is more than one
    #[arg(long, value_name = "ID")]
    integration: Option<Uuid>,
    /// sv or en; the organization's if it is left out
    #[arg(long)]
    language: Option<Language>,
    /// Name people by their addresses instead of mentioning them
    #[arg(long)]
    no_mention: bool,
}

#[derive(clap::Args)]
pub struct Change {
    #[command(flatten)]
    one: One,
    /// Kind of events
    #[arg(long)]
    events: Option<EventPattern>,
    /// Id of a Slack channel, or the e-mail address of a person
    #[arg(long)]
    channel: Option<Channel>,
    /// sv or en
    #[arg(long)]
    language: Option<Language>,
    /// Whether people are mentioned
    #[arg(long)]
    mention: Option<bool>,
    /// Whether anything is told
    #[arg(long)]
    enabled: Option<bool>,
}

#[derive(clap::Args)]
pub struct One {
    /// Id of the rule, from `notification list`
    id: Uuid,
    /// Slug of the organization
    #[arg(long)]
    org: String,
}

pub async fn run(session: &Session, command: Notification, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Notification::List(args) => list(session, args, output).await?,
        Notification::Add(args) => add(session, args, output).await?,
        Notification::Change(args) => change(session, args, output).await?,
        Notification::Remove(one) => remove(session, one, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn document(row: &NotificationRule) -> serde_json::Value {
    json!({
        "id": row.id, "integration_id": row.rule.integration_id, "events": row.rule.events, "channel": row.rule.channel,
        "language": row.rule.language, "mention": row.rule.mention, "enabled": row.rule.enabled, "error": row.error,
        "failed_at": row.failed_at, "last_posted_at": row.last_posted_at, "created_at": row.created_at,
    })
}

async fn list(session: &Session, args: List, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&args.org).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let wanted = Page { after: args.cursor, ..Page::first(args.limit) };
    let rows = notification_rules::page(&mut tx, None, wanted).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, args.limit, |row| row.id);
    let documents: Vec<_> = rows.iter().map(document).collect();
    output.answer(&page("notification_rules", &documents, next), || {
        let table = rows.iter().map(|row| {
            let state = match (&row.error, row.rule.enabled) {
                (Some(_), _) => "stopped",
                (None, true) => "on",
                (None, false) => "off",
            };
            [
                cell(row.id),
                cell(row.rule.events.as_str()),
                cell(row.rule.channel.as_str()),
                maybe(row.rule.language),
                cell(state),
                maybe(row.last_posted_at.map(time)),
                maybe(row.error.as_ref()),
            ]
        });
        let header = ["id", "events", "channel", "language", "state", "last message", "problem"];
        output.table(header, table.collect(), &format!("{} has no such rule", args.org)) + &more(next)
    })
}

/// The organization's only Slack integration, unless one is named.
async fn integration(tx: &mut TenantTx, named: Option<Uuid>) -> anyhow::Result<Uuid> {
    if let Some(id) = named {
        return Ok(id);
    }
    let filter = IntegrationFilter { provider: Some(Provider::Slack), ..IntegrationFilter::default() };
    match &integrations::page(tx, &filter, Page::first(2)).await?[..] {
        [] => Err(not_found("the organization has no Slack integration; add one with `backroom integration add`")),
        [one] => Ok(one.id),
        _ => Err(usage("the organization has several Slack integrations; name one with --integration")),
    }
}

async fn add(session: &Session, args: Add, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&args.org).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let new = NewRule {
        integration_id: integration(&mut tx, args.integration).await?,
        events: args.events,
        channel: args.channel,
        language: args.language,
        mention: !args.no_mention,
        enabled: true,
    };
    let rule = slack::create_rule(&mut tx, &new, ACTOR, session.clock.now()).await?;
    tx.commit().await?;
    output.answer(&document(&rule), || {
        format!(
            "{} is told in {} from now on (rule {})",
            rule.rule.events.as_str(),
            rule.rule.channel.as_str(),
            rule.id
        )
    })
}

async fn change(session: &Session, args: Change, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&args.one.org).await?;
    let none = || not_found(format!("{} has no rule {}", args.one.org, args.one.id));
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let before = notification_rules::by_id(&mut tx, args.one.id).await?.ok_or_else(none)?.rule;
    let changed = NewRule {
        integration_id: before.integration_id,
        events: args.events.unwrap_or(before.events),
        channel: args.channel.unwrap_or(before.channel),
        language: args.language.or(before.language),
        mention: args.mention.unwrap_or(before.mention),
        enabled: args.enabled.unwrap_or(before.enabled),
    };
    let rule = slack::change_rule(&mut tx, (args.one.id, &changed), ACTOR, session.clock.now()).await?;
    let rule = rule.ok_or_else(none)?;
    tx.commit().await?;
    output.answer(&document(&rule), || format!("rule {} is changed", rule.id))
}

async fn remove(session: &Session, one: One, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&one.org).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    if !slack::remove_rule(&mut tx, one.id, ACTOR, session.clock.now()).await? {
        return Err(not_found(format!("{} has no rule {}", one.org, one.id)));
    }
    tx.commit().await?;
    output.answer(&json!({ "id": one.id, "removed": true }), || format!("rule {} is removed", one.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::exit::{NotFound, Usage},
        domain::integration::NewIntegration,
        jobs::{integrations::create_integration, testing::World},
        store::Sealer,
    };

    async fn connect(world: &World, name: &str) -> Uuid {
        let new = NewIntegration {
            provider: Provider::Slack,
            name: name.to_owned(),
            config: json!({}),
            interval_minutes: 60,
            enabled: true,
        };
        let (sealer, credentials) = (Sealer::new(&world.app.vault, "acme"), r#"{"bot_token": "x"}"#.to_owned().into());
        let mut tx = world.tenant().await;
        let made = create_integration(&mut tx, sealer, (&new, &credentials), "test", world.now()).await.unwrap();
        tx.commit().await.unwrap();
        made.id
    }

    /// EVT-3, SYNC-11
    #[tokio::test]
    async fn an_operator_adds_changes_and_removes_a_rule() {
        let world = World::new().await;
        let (config, clock) = (world.app.config.clone(), world.app.clock.clone());
        let session = Session { config, db: world.app.db.clone(), registry: world.registry.clone(), clock };
        let output = Output::new(true);
        let add = |integration| {
            Notification::Add(Add {
                events: "asset.*".parse().unwrap(),
                channel: "C0ALLMANT".parse().unwrap(),
                org: "acme".to_owned(),
                integration,
                language: None,
                no_mention: false,
            })
        };
        let none = run(&session, add(None), output).await.unwrap_err();
        assert!(none.is::<NotFound>(), "{none:#}");
        let first = connect(&world, "Slack").await;
        run(&session, add(None), output).await.unwrap();
        connect(&world, "Another").await;
        let several = run(&session, add(None), output).await.unwrap_err();
        assert!(several.is::<Usage>(), "{several:#}");
        let twice = run(&session, add(Some(first)), output).await.unwrap_err();
        assert!(twice.to_string().contains("another rule already"), "{twice:#}");

        let page = notification_rules::page(&mut *world.tenant().await, Some(first), Page::first(9)).await.unwrap();
        let [rule] = &page[..] else { panic!("{page:?}") };
        let one = |id| One { id, org: "acme".to_owned() };
        let change = |id| {
            let channel = Some("C0LAGER".parse().unwrap());
            Notification::Change(Change {
                one: one(id),
                events: None,
                channel,
                language: None,
                mention: None,
                enabled: Some(false),
            })
        };
        run(&session, change(rule.id), output).await.unwrap();
        let changed = notification_rules::by_id(&mut *world.tenant().await, rule.id).await.unwrap().unwrap().rule;
        assert_eq!(
            (changed.channel.as_str(), changed.enabled, changed.events),
            ("C0LAGER", false, rule.rule.events.clone())
        );
        let all = List { org: "acme".to_owned(), limit: 5, cursor: None };
        run(&session, Notification::List(all), output).await.unwrap();
        run(&session, Notification::Remove(one(rule.id)), output).await.unwrap();
        for command in [Notification::Remove(one(rule.id)), change(rule.id)] {
            assert!(run(&session, command, output).await.unwrap_err().is::<NotFound>());
        }
    }
}
