//! `backroom asset …` (ASSET-3, ASSET-4)

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    exit::{not_found, usage},
    output::{Output, cell, maybe, more, next_cursor, page, time},
    session::Session,
};
use crate::{
    domain::{
        AssetStatus, AssetTag, Condition, Organization, SerialNumber,
        asset::{self, Step},
    },
    jobs::assets::doors::{self, Asked, Remark},
    store::{
        Page, Sealer,
        asset_transactions::{self, Of},
        assets::{self, AssetFilter},
    },
    tenant,
};

const ACTOR: &str = "operator";

#[derive(Subcommand)]
pub enum Asset {
    /// List an organization's assets, oldest first
    #[command(after_help = "Example:\n  backroom asset list --org acme --status in_stock --category laptop")]
    List(List),
    /// Show an asset
    #[command(after_help = "Example:\n  backroom asset show A-00001 --org acme")]
    Show(One),
    /// Show what happened to an asset, newest first
    #[command(after_help = "Example:\n  backroom asset history A-00001 --org acme")]
    History {
        #[command(flatten)]
        one: One,
        /// Rows at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<Uuid>,
    },
    /// Give an asset that is in stock to an employee
    #[command(
        after_help = "Example:\n  backroom asset assign A-00001 --org acme --to 01980a3c-4f00-7000-8000-000000000000"
    )]
    Assign {
        #[command(flatten)]
        one: One,
        /// Id of the employee, from `employee list`
        #[arg(long, value_name = "ID")]
        to: Uuid,
        #[arg(long, help = NOTE)]
        note: Option<String>,
    },
    /// Take an asset back from who holds it
    #[command(after_help = "Example:\n  backroom asset return A-00001 --org acme --condition fair")]
    Return {
        #[command(flatten)]
        one: One,
        /// Id of the location where it is from now on
        #[arg(long, value_name = "ID")]
        location: Option<Uuid>,
        /// new, good, fair, poor or broken
        #[arg(long)]
        condition: Option<Condition>,
        #[arg(long, help = NOTE)]
        note: Option<String>,
    },
    /// Transfer an asset to another employee, another location, or both
    #[command(
        after_help = "Example:\n  backroom asset transfer A-00001 --org acme --to 01980a3c-4f00-7000-8000-000000000000"
    )]
    Transfer {
        #[command(flatten)]
        one: One,
        /// Id of the employee
        #[arg(long, value_name = "ID")]
        to: Option<Uuid>,
        /// Id of the location
        #[arg(long, value_name = "ID")]
        location: Option<Uuid>,
        #[arg(long, help = NOTE)]
        note: Option<String>,
    },
    /// Change an asset's status
    #[command(after_help = "Example:\n  backroom asset status A-00001 in_repair --org acme --amount 1250.00")]
    Status {
        #[command(flatten)]
        one: One,
        /// in_stock, in_repair, retired, lost or stolen
        status: AssetStatus,
        /// new, good, fair, poor or broken
        #[arg(long)]
        condition: Option<Condition>,
        /// What it cost or brought, in the asset's currency
        #[arg(long)]
        amount: Option<Decimal>,
        #[arg(long, help = NOTE)]
        note: Option<String>,
    },
}

const NOTE: &str = "What the history shall say of it";

#[derive(clap::Args)]
pub struct List {
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// The tag
    #[arg(long)]
    tag: Option<AssetTag>,
    /// The beginning of the tag
    #[arg(long, value_name = "START")]
    tag_prefix: Option<String>,
    /// The whole serial number
    #[arg(long)]
    serial: Option<SerialNumber>,
    /// Id of the employee who holds it
    #[arg(long, value_name = "ID")]
    employee: Option<Uuid>,
    /// on_order, in_stock, assigned, in_repair, retired, lost or stolen
    #[arg(long)]
    status: Option<AssetStatus>,
    /// laptop, phone, …
    #[arg(long)]
    category: Option<String>,
    /// Rows at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<Uuid>,
}

#[derive(clap::Args)]
pub struct One {
    /// Tag or id of the asset
    asset: String,
    /// Slug of the organization
    #[arg(long)]
    org: String,
}

pub async fn run(session: &Session, command: Asset, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Asset::List(args) => list(session, args, output).await?,
        Asset::Show(one) => show(session, one, output).await?,
        Asset::History { one, limit, cursor } => history(session, one, (limit, cursor), output).await?,
        Asset::Assign { one, to, note } => {
            step(session, one, (Step::Assign { employee_id: to }, None, note), output).await?;
        }
        Asset::Return { one, location, condition, note } => {
            let back = Step::Return { location_id: location, condition };
            step(session, one, (back, None, note), output).await?;
        }
        Asset::Transfer { one, to, location, note } => {
            if to.is_none() && location.is_none() {
                return Err(usage("say where it goes: --to an employee, --location a place, or both"));
            }
            let goes = Step::Transfer { employee_id: to, location_id: location };
            step(session, one, (goes, None, note), output).await?;
        }
        Asset::Status { one, status, condition, amount, note } => {
            step(session, one, (Step::Become { status, condition }, amount, note), output).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn document(row: &asset::Asset) -> Value {
    let (facts, custody) = (&row.facts, &row.custody);
    json!({
        "id": row.id, "tag": row.tag, "name": facts.name, "category": facts.category, "make": facts.make,
        "model": facts.model, "serial_number": facts.serial_number, "status": custody.status,
        "condition": custody.condition, "employee_id": custody.employee_id, "location_id": custody.location_id,
        "labels": facts.labels, "integration_id": row.integration_id, "created_at": row.created_at,
        "updated_at": row.updated_at,
    })
}

async fn list(session: &Session, args: List, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(&args.org).await?;
    let app = session.app()?;
    let filter = AssetFilter {
        tag: args.tag,
        tag_prefix: args.tag_prefix,
        serial_number: args.serial,
        employee_id: args.employee,
        location_id: None,
        status: args.status,
        category: args.category,
    };
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let wanted = Page { after: args.cursor, ..Page::first(args.limit) };
    let rows = assets::page(&mut tx, Sealer::new(&app.vault, organization.slug.as_str()), &filter, wanted).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, args.limit, |asset| asset.id);
    let documents: Vec<_> = rows.iter().map(document).collect();
    output.answer(&page("assets", &documents, next), || {
        let table = rows.iter().map(|row| {
            [
                cell(&row.tag),
                cell(&row.facts.name),
                maybe(row.facts.category.as_ref()),
                cell(row.custody.status),
                cell(row.custody.condition),
                maybe(row.custody.employee_id),
            ]
        });
        let header = ["tag", "name", "category", "status", "condition", "held by"];
        output.table(header, table.collect(), &format!("{} has no such asset", args.org)) + &more(next)
    })
}

/// The asset and whose it is; exit code 3 if there is none.
async fn find(session: &Session, one: &One) -> anyhow::Result<(Organization, asset::Asset)> {
    let organization = session.organization(&one.org).await?;
    let app = session.app()?;
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let found = match (one.asset.parse::<Uuid>(), one.asset.parse::<AssetTag>()) {
        (Ok(id), _) => assets::by_id(&mut tx, sealer, id).await?,
        (Err(_), Ok(tag)) => {
            let filter = AssetFilter { tag: Some(tag), ..AssetFilter::default() };
            assets::page(&mut tx, sealer, &filter, Page::first(1)).await?.pop()
        }
        (Err(_), Err(_)) => None,
    };
    tx.rollback().await?;
    let found = found.ok_or_else(|| not_found(format!("{} has no asset {}", one.org, one.asset)))?;
    Ok((organization, found))
}

async fn show(session: &Session, one: One, output: Output) -> anyhow::Result<()> {
    let (_, asset) = find(session, &one).await?;
    output.answer(&document(&asset), || {
        let (facts, custody) = (&asset.facts, &asset.custody);
        let mut lines = vec![format!("{} {} is {} and {}", asset.tag, facts.name, custody.status, custody.condition)];
        lines.extend(custody.employee_id.map(|employee| format!("held by   {employee}")));
        lines.extend(custody.location_id.map(|location| format!("location  {location}")));
        lines.extend(facts.serial_number.as_ref().map(|serial| format!("serial    {}", serial.as_str())));
        lines.join("\n")
    })
}

async fn history(
    session: &Session,
    one: One,
    (limit, cursor): (i64, Option<Uuid>),
    output: Output,
) -> anyhow::Result<()> {
    let (organization, asset) = find(session, &one).await?;
    let app = session.app()?;
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let wanted = Page { after: cursor, limit, newest_first: true };
    let rows = asset_transactions::page(&mut tx, sealer, Of::Asset(asset.id), wanted).await?;
    tx.rollback().await?;
    let next = next_cursor(&rows, limit, |row| row.id);
    let documents: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "id": row.id, "kind": row.kind, "from_status": row.from_status, "to_status": row.to_status,
                "from_employee_id": row.from_employee_id, "to_employee_id": row.to_employee_id,
                "from_location_id": row.from_location_id, "to_location_id": row.to_location_id,
                "condition": row.condition, "actor": row.actor, "note": row.note, "created_at": row.created_at,
            })
        })
        .collect();
    output.answer(&page("transactions", &documents, next), || {
        let table = rows.iter().map(|row| {
            [
                cell(time(row.created_at)),
                cell(row.kind),
                cell(row.to_status),
                maybe(row.from_employee_id),
                maybe(row.to_employee_id),
                cell(&row.actor),
                maybe(row.note.as_ref()),
            ]
        });
        let header = ["when", "what", "status", "from", "to", "by", "note"];
        output.table(header, table.collect(), "nothing happened to it") + &more(next)
    })
}

async fn step(
    session: &Session,
    one: One,
    (step, amount, note): (Step, Option<Decimal>, Option<String>),
    output: Output,
) -> anyhow::Result<()> {
    let (organization, asset) = find(session, &one).await?;
    let app = session.app()?;
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let asked = Asked::by(ACTOR, session.clock.now());
    let mut tx = tenant::begin(&session.db, &organization).await?;
    let said = (Remark { amount, note: note.as_deref() }, &asked);
    let moved = doors::step(&mut tx, sealer, (asset.id, &step), said).await;
    let moved = moved.with_context(|| format!("{} stays where it is", asset.tag))?;
    let asset = moved.ok_or_else(|| not_found(format!("{} has no asset {}", one.org, one.asset)))?;
    tx.commit().await?;
    output.answer(&document(&asset), || {
        let holder = asset.custody.employee_id.map(|employee| format!(" to {employee}")).unwrap_or_default();
        format!("{} is {}{holder}", asset.tag, asset.custody.status)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{employee, exit::NotFound, location},
        domain::{NewEmployee, asset::NewAsset, employee::PersonName},
        jobs::{people, testing::World},
    };

    /// ASSET-1, ASSET-4, CLI-2
    #[tokio::test]
    async fn an_operator_gives_a_laptop_away_and_takes_it_back() {
        let world = World::new().await;
        let (config, clock) = (world.app.config.clone(), world.app.clock.clone());
        let session = Session { config, db: world.app.db.clone(), registry: world.registry.clone(), clock };
        let (sealer, output) = (Sealer::new(&world.app.vault, "acme"), Output::new(true));
        let mut tx = world.tenant().await;
        let asked = Asked::by("test", world.now());
        let new = NewAsset { name: "Laptop".to_owned(), ..NewAsset::default() };
        doors::create_asset(&mut tx, sealer, (&new, asset::Custody::default()), &asked).await.unwrap();
        let name = PersonName { first: "Anna".to_owned(), last: "Ek".to_owned() };
        let anna = NewEmployee { name, ..NewEmployee::default() };
        let asked = people::doors::Asked { actor: "test", now: world.now(), trace: None };
        let anna = people::doors::create_employee(&mut tx, sealer, &anna, &asked).await.unwrap().id;
        tx.commit().await.unwrap();
        let one = || One { asset: "a-00001".to_owned(), org: "acme".to_owned() };
        let whose = || employee::One { id: anna, org: "acme".to_owned() };
        let gives = |note: Option<String>| run(&session, Asset::Assign { one: one(), to: anna, note }, output);

        gives(Some("welcome".to_owned())).await.unwrap();
        let again = gives(None).await.unwrap_err();
        assert!(format!("{again:#}").contains("assigned already"), "{again:#}");
        employee::run(&session, employee::Employee::Show(whose()), output).await.unwrap();
        let nowhere = Asset::Transfer { one: one(), to: None, location: None, note: None };
        assert!(run(&session, nowhere, output).await.is_err());
        let back = Asset::Return { one: one(), location: None, condition: Some(Condition::Fair), note: None };
        run(&session, back, output).await.unwrap();
        let away =
            Asset::Status { one: one(), status: AssetStatus::Retired, condition: None, amount: None, note: None };
        run(&session, away, output).await.unwrap();
        run(&session, Asset::Show(one()), output).await.unwrap();
        run(&session, Asset::History { one: one(), limit: 10, cursor: None }, output).await.unwrap();
        employee::run(&session, employee::Employee::Terminate { one: whose(), on: None }, output).await.unwrap();
        let twice = employee::run(&session, employee::Employee::Terminate { one: whose(), on: None }, output).await;
        assert!(format!("{:#}", twice.unwrap_err()).contains("terminated already"));
        employee::run(&session, employee::Employee::Reactivate(whose()), output).await.unwrap();
        let none = location::Command::List { org: "acme".to_owned(), name: None, kind: None, limit: 5, cursor: None };
        location::run(&session, none, output).await.unwrap();

        let mut tx = world.tenant().await;
        let id = find(&session, &one()).await.unwrap().1.id;
        let rows = asset_transactions::page(&mut tx, sealer, Of::Asset(id), Page::first(10)).await.unwrap();
        let kinds: Vec<&str> = rows.iter().map(|row| row.kind.as_str()).collect();
        assert_eq!(kinds, ["created", "assigned", "returned", "status_changed"]);
        assert_eq!((rows[1].note.as_deref(), rows[1].actor.as_str()), (Some("welcome"), ACTOR));
        let missing = One { asset: "B-1".to_owned(), org: "acme".to_owned() };
        assert!(run(&session, Asset::Show(missing), output).await.unwrap_err().is::<NotFound>());
    }
}
