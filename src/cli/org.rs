//! `backroom org …`: organizations.

use std::process::ExitCode;

use clap::Subcommand;
use uuid::Uuid;

use super::{
    exit::usage,
    migrate,
    output::{Output, cell, maybe, more, next_cursor, page, time},
    session::Session,
};
use crate::{
    domain::{BillingStatus, Language, Organization, Settings, Slug, Tier, field_error::one_line},
    store::{Page, organizations},
    tenant::{self, NewOrganization},
};

#[derive(Subcommand)]
pub enum Org {
    /// Create an organization with its schema and role
    #[command(
        after_help = "Example:\n  backroom org create acme --name 'Acme AB' --tier pro --time-zone Europe/Stockholm"
    )]
    Create(Create),
    /// List organizations, oldest first
    #[command(after_help = "Example:\n  backroom org list --json")]
    List {
        /// Rows at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<Uuid>,
    },
    /// Show an organization
    #[command(after_help = "Example:\n  backroom org show acme")]
    Show { slug: String },
    /// Make the API read-only and hold the jobs; nothing is lost
    #[command(after_help = "Example:\n  backroom org suspend acme")]
    Suspend { slug: String },
    /// Let a suspended, cancelled or trying organization work, and release its jobs
    #[command(after_help = "Example:\n  backroom org activate acme")]
    Activate { slug: String },
    /// Move an organization to another tier; its limits change at once
    #[command(after_help = "Example:\n  backroom org tier acme enterprise")]
    Tier {
        slug: String,
        /// free, pro or enterprise
        tier: Tier,
    },
    /// Bring every organization's schema up to date
    #[command(after_help = "Example:\n  backroom org migrate --concurrency 8")]
    Migrate {
        /// How many schemas are migrated at once
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
        concurrency: u16,
    },
}

#[derive(clap::Args)]
pub struct Create {
    /// Its short name: lower-case letters, digits and hyphens. It never changes
    slug: Slug,
    /// Its name as people write it
    #[arg(long)]
    name: String,
    /// free, pro or enterprise
    #[arg(long, default_value_t)]
    tier: Tier,
    /// IANA name of the time zone that its days begin in
    #[arg(long, default_value = "Europe/Stockholm")]
    time_zone: chrono_tz::Tz,
    /// What its people are written to in: sv or en
    #[arg(long, default_value = "sv")]
    locale: Language,
    /// Dunning days, payment details, admins' addresses, as JSON
    #[arg(long, value_parser = settings, default_value = "{}", hide_default_value = true)]
    settings: Settings,
}

fn settings(text: &str) -> Result<Settings, String> {
    let settings: Settings = serde_json::from_str(text).map_err(|error| error.to_string())?;
    settings.validate().map_err(|errors| errors.to_string())?;
    Ok(settings)
}

pub async fn run(session: &Session, command: Org, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Org::Create(new) => create(session, new, output).await?,
        Org::List { limit, cursor } => list(session, limit, cursor, output).await?,
        Org::Show { slug } => {
            let organization = session.organization(&slug).await?;
            output.answer(&organization, || details(&organization))?;
        }
        Org::Suspend { slug } => set_status(session, &slug, BillingStatus::Suspended, output).await?,
        Org::Activate { slug } => set_status(session, &slug, BillingStatus::Active, output).await?,
        Org::Tier { slug, tier } => {
            let before = session.organization(&slug).await?;
            let changed = tenant::set_tier(&session.db, &session.clock, &before, tier, "operator").await?;
            output.answer(&changed, || format!("{slug} is {tier} now; it was {}", before.tier))?;
        }
        Org::Migrate { concurrency } => return migrate::schemas(&session.db, concurrency, output).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(session: &Session, new: Create, output: Output) -> anyhow::Result<()> {
    one_line(&new.name, 200).map_err(|error| usage(format!("the name {error}")))?;
    let new = NewOrganization {
        slug: new.slug,
        name: new.name,
        tier: new.tier,
        time_zone: new.time_zone,
        locale: new.locale,
        settings: new.settings,
    };
    let organization = tenant::create(&session.db, &session.clock, new).await?;
    output.answer(&organization, || {
        let slug = &organization.slug;
        format!("{}\n\nnext: backroom api-key create --org {slug}", details(&organization))
    })
}

async fn list(session: &Session, limit: i64, cursor: Option<Uuid>, output: Output) -> anyhow::Result<()> {
    let wanted = Page { after: cursor, ..Page::first(limit) };
    let rows = organizations::list(&mut *session.connection().await?, wanted).await?;
    let next = next_cursor(&rows, limit, |organization| organization.id);
    output.answer(&page("organizations", &rows, next), || {
        let table = rows.iter().map(|o| {
            [
                cell(&o.slug),
                cell(&o.name),
                cell(o.tier),
                cell(o.billing_status),
                cell(o.time_zone),
                cell(time(o.created_at)),
            ]
        });
        let header = ["slug", "name", "tier", "status", "time zone", "created"];
        output.table(header, table.collect(), "there is no organization; make one with `backroom org create`")
            + &more(next)
    })
}

async fn set_status(session: &Session, slug: &str, status: BillingStatus, output: Output) -> anyhow::Result<()> {
    let organization = session.organization(slug).await?;
    let (organization, jobs) = tenant::set_billing_status(&session.db, &session.clock, &organization, status).await?;
    let (word, verb) = if organization.is_held() { ("suspended", "held") } else { ("active", "released") };
    let document = serde_json::json!({ "slug": slug, "billing_status": organization.billing_status, "jobs": jobs });
    output.answer(&document, || format!("{slug} is {word}; jobs {verb}: {jobs}"))
}

fn details(o: &Organization) -> String {
    let ends = maybe(o.trial_ends_at.map(time)).content();
    let days: Vec<String> = o.settings.dunning_days.iter().map(ToString::to_string).collect();
    format!(
        "{} ({})\n  id           {}\n  tier         {}\n  status       {}\n  trial ends   {ends}\n  time zone    {}\n  \
         locale       {}\n  reminders    days {} after the due date\n  schema       {}\n  created      {}",
        o.name,
        o.slug,
        o.id,
        o.tier,
        o.billing_status,
        o.time_zone,
        o.locale,
        days.join(", "),
        o.schema_name,
        time(o.created_at)
    )
}
