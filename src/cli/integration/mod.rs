//! `backroom integration …`: third parties that an organization has connected (SYNC-1, SYNC-5).

mod change;
mod runs;

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    exit::not_found,
    output::{Output, cell, maybe, more, next_cursor, page, time},
    session::Session,
};
use crate::{
    domain::{
        Organization,
        integration::{Integration as Row, IntegrationStatus, Provider},
    },
    jobs::integrations as doors,
    store::{
        Page, Sealer,
        integrations::{self, IntegrationFilter},
    },
    tenant,
};

const ACTOR: &str = "operator";

#[derive(Subcommand)]
pub enum Integration {
    /// List an organization's integrations, oldest first
    #[command(after_help = "Example:\n  backroom integration list --org acme --status needs_attention")]
    List(List),
    /// Show an integration; of its credentials the names alone
    #[command(after_help = "Example:\n  backroom integration show 'Our BambooHR' --org acme --json")]
    Show(One),
    /// Connect a third party
    #[command(after_help = "Credentials are read from a file or from standard input, a JSON object of texts.\n\n\
        Example:\n  backroom integration add bamboohr --org acme --name 'Our BambooHR' --config '{\"company_domain\":\"acme\"}' --credentials-file bamboohr.json")]
    Add(Add),
    /// Change an integration; what is not named stays
    #[command(
        after_help = "Credentials that are named in the file replace the ones of these names, null takes one away.\n\n\
        Example:\n  backroom integration change 'Our BambooHR' --org acme --credentials-file -"
    )]
    Change(Change),
    /// Disconnect a third party; the records that came from it stay
    #[command(after_help = "Example:\n  backroom integration remove 'Our BambooHR' --org acme")]
    Remove(One),
    /// Let an integration be synchronized by itself
    #[command(after_help = "Example:\n  backroom integration enable 'Our BambooHR' --org acme")]
    Enable(One),
    /// Synchronize an integration no more, until it is enabled again
    #[command(after_help = "Example:\n  backroom integration disable 'Our BambooHR' --org acme")]
    Disable(One),
    /// Synchronize here and now, with a progress bar on a terminal
    #[command(after_help = "Example:\n  backroom integration sync 'Our BambooHR' --org acme --full")]
    Sync(SyncNow),
    /// Try the connection and say what is wrong with it
    #[command(after_help = "Example:\n  backroom integration test 'Our BambooHR' --org acme")]
    Test(One),
    /// List runs, newest first
    #[command(after_help = "Example:\n  backroom integration runs --org acme --integration 'Our BambooHR'")]
    Runs(Runs),
    /// Show a run and the records that it did not store
    #[command(after_help = "Example:\n  backroom integration run 01980a3c-4f00-7000-8000-000000000000 --org acme")]
    Run {
        /// Id of the run, from `integration runs`
        id: Uuid,
        /// Slug of the organization
        #[arg(long)]
        org: String,
    },
    /// List what a third party sent by itself, newest first
    #[command(after_help = "Example:\n  backroom integration deliveries 'Our BambooHR' --org acme")]
    Deliveries(Deliveries),
    /// List who can be connected, and what that needs
    #[command(after_help = "Example:\n  backroom integration providers")]
    Providers,
}

#[derive(clap::Args)]
pub struct List {
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// bamboohr, workday, netsuite, quickbooks or slack
    #[arg(long)]
    provider: Option<Provider>,
    /// new, healthy, failing or needs_attention
    #[arg(long)]
    status: Option<IntegrationStatus>,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<Uuid>,
}

#[derive(clap::Args)]
pub struct One {
    /// Id or name of the integration, from `integration list`
    integration: String,
    /// Slug of the organization
    #[arg(long)]
    org: String,
}

#[derive(clap::Args)]
pub struct Add {
    /// bamboohr, workday, netsuite, quickbooks or slack; `integration providers` says what each needs
    provider: Provider,
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// What people call it
    #[arg(long)]
    name: String,
    /// The provider's configuration as a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = object)]
    config: Value,
    /// File with the credentials, a JSON object of texts; - is standard input
    #[arg(long, value_name = "PATH")]
    credentials_file: PathBuf,
    /// Minutes between two runs
    #[arg(long, value_name = "MINUTES", default_value_t = crate::domain::integration::DEFAULT_INTERVAL)]
    interval: u32,
    /// Do not synchronize it by itself yet
    #[arg(long)]
    disabled: bool,
}

#[derive(clap::Args)]
pub struct Change {
    #[command(flatten)]
    which: One,
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// The provider's whole configuration as a JSON object; another one is another source
    #[arg(long, value_name = "JSON", value_parser = object)]
    config: Option<Value>,
    /// File with credentials, a JSON object of texts; - is standard input
    #[arg(long, value_name = "PATH")]
    credentials_file: Option<PathBuf>,
    /// Minutes between two runs
    #[arg(long, value_name = "MINUTES")]
    interval: Option<u32>,
}

#[derive(clap::Args)]
pub struct SyncNow {
    #[command(flatten)]
    which: One,
    /// Read everything, not only what has changed
    #[arg(long)]
    full: bool,
}

#[derive(clap::Args)]
pub struct Runs {
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// Id or name of an integration; all if left out
    #[arg(long)]
    integration: Option<String>,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<Uuid>,
}

#[derive(clap::Args)]
pub struct Deliveries {
    #[command(flatten)]
    which: One,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<Uuid>,
}

fn object(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    if value.is_object() { Ok(value) } else { Err("not a JSON object".to_owned()) }
}

pub async fn run(session: &Session, command: Integration, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Integration::List(args) => list(session, args, output).await?,
        Integration::Show(one) => show(session, one, output).await?,
        Integration::Add(args) => change::add(session, args, output).await?,
        Integration::Change(args) => change::change(session, args, output).await?,
        Integration::Remove(one) => change::remove(session, one, output).await?,
        Integration::Enable(one) => change::switch(session, one, true, output).await?,
        Integration::Disable(one) => change::switch(session, one, false, output).await?,
        Integration::Sync(args) => return runs::sync(session, args, output).await,
        Integration::Test(one) => return runs::test(session, one, output).await,
        Integration::Runs(args) => runs::list(session, args, output).await?,
        Integration::Run { id, org } => runs::show(session, (&org, id), output).await?,
        Integration::Deliveries(args) => runs::deliveries(session, args, output).await?,
        Integration::Providers => providers(output)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The integration of this id or name, and whose it is; exit code 3 if there is none.
async fn find(session: &Session, one: &One) -> anyhow::Result<(Organization, Row)> {
    let organization = session.organization(&one.org).await?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let found = match one.integration.parse() {
        Ok(id) => integrations::by_id(&mut tx, id).await?,
        Err(_) => {
            let filter = IntegrationFilter { name: Some(one.integration.clone()), ..IntegrationFilter::default() };
            integrations::page(&mut tx, &filter, Page::first(1)).await?.pop()
        }
    };
    tx.rollback().await?;
    let found = found.ok_or_else(|| not_found(format!("{} has no integration `{}`", one.org, one.integration)))?;
    Ok((organization, found))
}

fn document(integration: &Row) -> Value {
    json!({
        "id": integration.id,
        "provider": integration.provider,
        "kind": integration.provider.kind(),
        "name": integration.name,
        "config": integration.config,
        "interval_minutes": integration.interval_minutes,
        "enabled": integration.enabled,
        "status": integration.status,
        "needs_attention_since": integration.needs_since,
        "last_success_at": integration.last_success_at,
        "last_error_at": integration.last_error_at,
        "last_error": integration.last_error,
        "next_run_at": integration.next_run_at,
        "created_at": integration.created_at,
        "updated_at": integration.updated_at,
    })
}

async fn list(session: &Session, args: List, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&args.org).await?;
    let filter = IntegrationFilter { provider: args.provider, status: args.status, ..IntegrationFilter::default() };
    let wanted = Page { after: args.cursor, ..Page::first(args.limit) };
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let rows = integrations::page(&mut tx, &filter, wanted).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, args.limit, |integration| integration.id);
    let documents: Vec<_> = rows.iter().map(document).collect();
    output.answer(&page("integrations", &documents, next), || {
        let table = rows.iter().map(|row| {
            [
                cell(row.id),
                cell(row.provider),
                cell(&row.name),
                cell(if row.enabled { row.status.as_str() } else { "off" }),
                maybe(row.last_success_at.map(time)),
                maybe(row.next_run_at.filter(|_| row.enabled).map(time)),
                maybe(row.last_error.as_ref().filter(|_| row.last_error_at > row.last_success_at)),
            ]
        });
        let header = ["id", "provider", "name", "status", "last success", "next run", "problem"];
        output.table(header, table.collect(), &format!("{} has no such integration", args.org)) + &more(next)
    })
}

async fn show(session: &Session, one: One, output: Output) -> anyhow::Result<()> {
    let (organization, integration) = find(session, &one).await?;
    let app = session.app()?;
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let names = doors::credential_names(&mut tx, sealer, integration.id).await?;
    tx.rollback().await?;
    let base = session.config.http.public_url.trim_end_matches('/');
    let address = format!("{base}/webhooks/{}/{}", organization.slug, integration.id);
    let address = doors::has_webhooks(integration.provider).then_some(address);
    let mut shown = document(&integration);
    (shown["credentials_set"], shown["webhook_url"]) = (json!(names), json!(address));
    output.answer(&shown, || describe(&integration, &names, address.as_deref()))
}

fn describe(integration: &Row, credentials: &[String], address: Option<&str>) -> String {
    let mut lines = vec![format!("{} ({})", integration.name, integration.provider.title())];
    let mut line = |name: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("  {name:<16}{value}")));
    };
    line("id", Some(integration.id.to_string()));
    line("status", Some(integration.status.to_string()));
    line("switched", Some(if integration.enabled { "on" } else { "off" }.to_owned()));
    line("waits for you", integration.needs_since.map(|since| format!("since {}", time(since))));
    line("every", Some(format!("{} minutes", integration.interval_minutes)));
    line("next run", integration.next_run_at.map(time));
    line("last success", integration.last_success_at.map(time));
    line("last error", integration.last_error_at.map(time));
    line("", integration.last_error.clone());
    line("config", Some(integration.config.to_string()));
    line("credentials", Some(credentials.join(", ")).filter(|names| !names.is_empty()));
    line("webhooks to", address.map(str::to_owned));
    lines.join("\n")
}

fn providers(output: Output) -> anyhow::Result<()> {
    let all = doors::providers();
    let documents: Vec<_> = all
        .iter()
        .map(|help| {
            json!({
                "provider": help.provider, "kind": help.provider.kind(), "title": help.provider.title(),
                "config": lines(help.config), "credentials": lines(help.credentials), "webhooks": help.webhook,
            })
        })
        .collect();
    output.answer(&json!({ "providers": documents }), || {
        let told = all.iter().map(|help| {
            let section = |name: &str, text| {
                let lines = lines(text).into_iter().map(|line| format!("\n    {line}"));
                format!("\n  {name}{}", lines.collect::<String>())
            };
            let (config, credentials) = (section("config", help.config), section("credentials", help.credentials));
            format!("{} ({}, {}){config}{credentials}", help.provider, help.provider.title(), help.provider.kind())
        });
        told.collect::<Vec<_>>().join("\n\n")
    })
}

fn lines(help: &'static str) -> Vec<&'static str> {
    help.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::exit::{NotFound, Usage},
        demo::vendors::bamboohr::{BambooHr, Person},
        domain::integration::SyncTrigger,
        jobs::testing::World,
    };

    struct Stage {
        session: Session,
        bamboo: BambooHr,
        files: tempfile::TempDir,
        // Dropped last.
        world: World,
    }

    impl Stage {
        async fn new() -> Self {
            let world = World::with(&[("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1")]).await;
            let bamboo = BambooHr::start(vec![Person::new("Ada", "Ek", "ada@acme.example")]).await.unwrap();
            let (config, clock) = (world.app.config.clone(), world.app.clock.clone());
            let session = Session { config, db: world.app.db.clone(), registry: world.registry.clone(), clock };
            Self { session, bamboo, files: tempfile::tempdir().unwrap(), world }
        }

        fn file(&self, credentials: &Value) -> PathBuf {
            let path = self.files.path().join(format!("{}.json", Uuid::now_v7()));
            std::fs::write(&path, credentials.to_string()).unwrap();
            path
        }

        async fn run(&self, command: Integration) -> anyhow::Result<ExitCode> {
            run(&self.session, command, Output::new(true)).await
        }

        async fn add(&self, name: &str, credentials: &Value) -> anyhow::Result<ExitCode> {
            let add = Add {
                provider: Provider::BambooHr,
                org: "acme".to_owned(),
                name: name.to_owned(),
                config: self.bamboo.config(),
                credentials_file: self.file(credentials),
                interval: 60,
                disabled: false,
            };
            self.run(Integration::Add(add)).await
        }

        async fn only(&self) -> Row {
            let mut tx = self.world.tenant().await;
            let filter = IntegrationFilter::default();
            let mut all = integrations::page(&mut tx, &filter, Page::first(10)).await.unwrap();
            assert_eq!(all.len(), 1);
            all.remove(0)
        }
    }

    fn one(integration: &str) -> One {
        One { integration: integration.to_owned(), org: "acme".to_owned() }
    }

    fn is(code: ExitCode, expected: u8) -> bool {
        format!("{code:?}") == format!("{:?}", ExitCode::from(expected))
    }

    /// SYNC-1, SYNC-5
    #[tokio::test]
    async fn an_operator_connects_tests_mends_and_disconnects() {
        let stage = Stage::new().await;
        stage.add("People", &json!({ "api_key": "wrong" })).await.unwrap();
        let taken = stage.add("People", &json!({ "api_key": "wrong" })).await.unwrap_err();
        assert!(format!("{taken:#}").contains("`name` is taken"), "{taken:#}");

        let failed = stage.run(Integration::Test(one("People"))).await.unwrap();
        assert!(is(failed, 4));
        assert_eq!(stage.only().await.status, IntegrationStatus::Failing);
        let change = Change {
            which: one("People"),
            name: Some("Staff".to_owned()),
            config: None,
            credentials_file: Some(stage.file(&stage.bamboo.credentials())),
            interval: None,
        };
        stage.run(Integration::Change(change)).await.unwrap();
        assert!(is(stage.run(Integration::Test(one("Staff"))).await.unwrap(), 0));
        let row = stage.only().await;
        assert_eq!((row.status, row.name.as_str()), (IntegrationStatus::Healthy, "Staff"));

        stage.run(Integration::Show(one("Staff"))).await.unwrap();
        stage.run(Integration::Disable(one(&row.id.to_string()))).await.unwrap();
        assert!(!stage.only().await.enabled);
        stage.run(Integration::Remove(one("Staff"))).await.unwrap();
        let gone = stage.run(Integration::Show(one("Staff"))).await.unwrap_err();
        assert!(gone.is::<NotFound>(), "{gone:#}");
    }

    /// SYNC-5
    #[tokio::test]
    async fn a_full_run_behind_another_is_kept() {
        let stage = Stage::new().await;
        stage.add("People", &stage.bamboo.credentials()).await.unwrap();
        let (id, now) = (stage.only().await.id, stage.world.now());
        let sync = |full| Integration::Sync(SyncNow { which: one("People"), full });
        stage.run(sync(false)).await.unwrap();
        let mut tx = stage.world.tenant().await;
        let request = doors::SyncIntegration { integration_id: id, mode: None, trigger: SyncTrigger::Schedule };
        doors::request_sync(&mut tx, &stage.world.organization.slug, &request, "test", (now, None)).await.unwrap();
        tx.commit().await.unwrap();

        let refused = stage.run(sync(false)).await.unwrap_err();
        assert!(format!("{refused:#}").contains("already queued"), "{refused:#}");
        assert!(is(stage.run(sync(true)).await.unwrap(), 0));

        stage.world.app.clock.advance(chrono::Duration::minutes(5));
        let mut tx = stage.world.tenant().await;
        let due = integrations::due(&mut tx, stage.world.now(), 0, 10).await.unwrap();
        assert_eq!(due, [integrations::Due { id, full: true }]);
    }

    /// SYNC-1
    #[tokio::test]
    async fn what_is_wrong_is_told_before_anything_is_stored() {
        let stage = Stage::new().await;
        let untyped = stage.add("People", &json!(["k"])).await.unwrap_err();
        assert!(untyped.is::<Usage>(), "{untyped:#}");
        let missing = stage.add("People", &json!({})).await.unwrap_err();
        assert!(format!("{missing:#}").contains("api_key"), "{missing:#}");
        let nobody = stage.run(Integration::Test(one("Nobody"))).await.unwrap_err();
        assert!(nobody.is::<NotFound>(), "{nobody:#}");
        let filter = IntegrationFilter::default();
        let stored = integrations::page(&mut *stage.world.tenant().await, &filter, Page::first(10)).await.unwrap();
        assert!(stored.is_empty());
    }

    #[test]
    fn a_provider_says_what_it_needs() {
        providers(Output::new(false)).unwrap();
        let bamboo = doors::providers().into_iter().find(|help| help.provider == Provider::BambooHr).unwrap();
        assert!(lines(bamboo.credentials)[0].starts_with("api_key"), "{:?}", lines(bamboo.credentials));
        assert!(object("[]").is_err() && object("{}").is_ok());
    }
}
