//! A sync against a vendor on this machine, and assets at their number: SYNC and ASSET's figures.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use secrecy::SecretString;
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    Database,
    processes::{WorkerProcess, until},
    report,
};
use crate::{
    config::Config,
    context::App,
    demo::vendors::bamboohr::BambooHr,
    domain::{
        Clock, Organization, Slug,
        asset::{AssetTag, SerialNumber},
        integration::{NewIntegration, Provider, SyncMode, SyncTrigger},
        source_record::AssetFacts,
    },
    jobs::{
        integrations::{SyncIntegration, create_integration, request_sync},
        people::doors::{self as people, Taking},
    },
    store::{Page, Sealer, assets::AssetFilter, from_source::Source},
    tenant::{self, NewOrganization},
    vault,
};

const EMPLOYEES: u64 = 10_000;
const ASSETS: usize = 100_000;
const HOLDERS: usize = 1_000;
const ASKED: usize = 400;
const BATCH: usize = 2_000;

/// An organization, and the program's parts in this process.
struct Place {
    app: Arc<App>,
    organization: Organization,
    /// What a worker needs to open the same fields and to reach this machine.
    settings: Vec<(&'static str, String)>,
}

impl Place {
    async fn new(database: &Database, slug: &str) -> anyhow::Result<Self> {
        let settings = vec![
            ("DATABASE_URL", database.url.clone()),
            ("BACKROOM__VAULT__KEYS", vault::generate_key()),
            ("BACKROOM__VAULT__INDEX_KEY", vault::generate_index_key()),
            ("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1".to_owned()),
        ];
        let vars: BTreeMap<String, String> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let app = App::with_pool(Config::from_vars(&vars)?, database.pool.clone(), Clock::system())?;
        let slug = Slug::parse(slug).map_err(|error| anyhow::anyhow!("{error}"))?;
        let organization = tenant::create(&database.pool, &app.clock, NewOrganization::named(slug, "Sync")).await?;
        Ok(Self { app, organization, settings })
    }

    fn sealer(&self) -> Sealer<'_> {
        Sealer::new(&self.app.vault, self.organization.slug.as_str())
    }

    /// Runs the integration; seconds from the request until the run is complete, and the records read and stored.
    async fn sync(&self, pool: &PgPool, id: Uuid, mode: Option<SyncMode>) -> anyhow::Result<(f64, i64, i64)> {
        let before = self.completed(pool).await?.0;
        let began = Instant::now();
        let job = SyncIntegration { integration_id: id, mode, trigger: SyncTrigger::Manual };
        let mut tx = tenant::begin(pool, &self.organization).await?;
        request_sync(&mut tx, &self.organization.slug, &job, "bench", (self.app.clock.now(), None)).await?;
        tx.commit().await?;
        until("the end of a sync", Duration::from_secs(600), async || Ok(self.completed(pool).await?.0 > before))
            .await?;
        let (_, read, written) = self.completed(pool).await?;
        Ok((began.elapsed().as_secs_f64(), read, written))
    }

    /// Complete runs, and what the last one did.
    async fn completed(&self, pool: &PgPool) -> anyhow::Result<(i64, i64, i64)> {
        let mut tx = tenant::begin(pool, &self.organization).await?;
        let (failed,): (i64,) =
            sqlx::query_as("select count(*) from sync_runs where error is not null or state = 'failed'")
                .fetch_one(&mut *tx)
                .await?;
        anyhow::ensure!(failed == 0, "a run went wrong");
        let last = sqlx::query_as(
            "select count(*) over (), read, created + updated from sync_runs where state = 'completed' order by id desc limit 1",
        );
        Ok(last.fetch_optional(&mut *tx).await?.unwrap_or_default())
    }
}

/// Ten thousand employees in full, then without changes, by a worker of its own.
pub(super) async fn employees(database: &Database) -> anyhow::Result<()> {
    let place = Place::new(database, "sync").await?;
    let vendor = BambooHr::with_many(EMPLOYEES).await.context("could not start the vendor")?;
    let new = NewIntegration {
        provider: Provider::BambooHr,
        name: "BambooHR".to_owned(),
        config: vendor.config(),
        interval_minutes: 60,
        enabled: true,
    };
    let credentials = SecretString::from(vendor.credentials().to_string());
    let mut tx = tenant::begin(&database.pool, &place.organization).await?;
    let id =
        create_integration(&mut tx, place.sealer(), (&new, &credentials), "bench", place.app.clock.now()).await?.id;
    tx.commit().await?;
    let mut worker = WorkerProcess::start_with(database, &[("integrations", 20)], &place.settings)?;

    let (took, read, written) = place.sync(&database.pool, id, None).await?;
    anyhow::ensure!((read, written) == (EMPLOYEES as i64, EMPLOYEES as i64), "{read} read, {written} written");
    let note =
        format!("{EMPLOYEES} employees from a vendor on this machine, sealed, first run, from the request to its end");
    report("sync.full", took, "s", note);
    let (took, read, written) = place.sync(&database.pool, id, None).await?;
    anyhow::ensure!(written == 0, "{written} written without a change");
    report("sync.incremental", took, "s", format!("no changes, {read} records read, from the request to its end"));
    let (took, read, written) = place.sync(&database.pool, id, Some(SyncMode::Full)).await?;
    anyhow::ensure!((read, written) == (EMPLOYEES as i64, 0), "{read} read, {written} written");
    report("sync.full_again", took, "s", format!("all {EMPLOYEES} read again, none written"));
    report("sync.rss", worker.memory_mb("VmHWM")?, "MB", "peak resident memory of the worker over these runs");
    worker.stop().await
}

/// A hundred thousand assets, listed and searched through the store, fields opened.
pub(super) async fn assets(database: &Database) -> anyhow::Result<()> {
    let place = Place::new(database, "hardware").await?;
    eprintln!("Writing {ASSETS} assets …");
    write(&place, &database.pool).await?;
    sqlx::query("vacuum analyze").execute(&database.pool).await?;
    let mut tx = tenant::begin(&database.pool, &place.organization).await?;
    let sample: Vec<(String, Uuid)> = sqlx::query_as("select tag, id from assets order by hashtext(tag) limit $1")
        .bind(ASKED as i64)
        .fetch_all(&mut *tx)
        .await?;
    let holders: Vec<Uuid> = sqlx::query_scalar("select id from employees order by id").fetch_all(&mut *tx).await?;
    tx.commit().await?;
    for (name, what) in [
        ("list", "a page of 50"),
        ("by_tag", "by tag"),
        ("by_serial", "by serial number"),
        ("by_employee", "by holder"),
    ] {
        let mut took = Vec::with_capacity(ASKED);
        for (n, ((tag, id), holder)) in sample.iter().zip(&holders).enumerate() {
            let mut filter = AssetFilter::default();
            let mut page = Page::first(50);
            match name {
                "list" => page.after = Some(*id),
                "by_tag" => filter.tag = AssetTag::parse(tag).ok(),
                "by_serial" => filter.serial_number = SerialNumber::parse(&serial(n * 97 % ASSETS)).ok(),
                _ => filter.employee_id = Some(*holder),
            }
            let mut tx = tenant::begin(&database.pool, &place.organization).await?;
            let began = Instant::now();
            let found = crate::store::assets::page(&mut tx, place.sealer(), &filter, page).await?;
            took.push(began.elapsed().as_secs_f64() * 1000.0);
            anyhow::ensure!(name == "list" || !found.is_empty(), "nothing was found {what}");
            tx.commit().await?;
        }
        took.sort_by(f64::total_cmp);
        let note = format!("{ASSETS} assets, {ASKED} times {what}, sealed fields opened");
        report(&format!("sync.assets_{name}_p99"), took[took.len() * 99 / 100], "ms", note);
    }
    Ok(())
}

fn serial(n: usize) -> String {
    format!("SN-{n:07}")
}

/// The assets as a finance system's records, one in two in somebody's hands.
async fn write(place: &Place, pool: &PgPool) -> anyhow::Result<()> {
    let taking = Taking {
        organization: &place.organization,
        source: Source { integration_id: Uuid::now_v7() },
        actor: "bench",
        now: place.app.clock.now(),
        first_run: true,
        trace: None,
    };
    for batch in (0..ASSETS).collect::<Vec<_>>().chunks(BATCH) {
        let facts = |n: &usize| AssetFacts {
            name: format!("Laptop {n}"),
            category: Some("laptop".to_owned()),
            serial_number: Some(serial(*n)),
            ..AssetFacts::default()
        };
        let records: Vec<(String, AssetFacts)> = batch.iter().map(|n| (n.to_string(), facts(n))).collect();
        let mut tx = tenant::begin(pool, &place.organization).await?;
        people::take_assets(&mut tx, place.sealer(), &taking, &records).await?;
        tx.commit().await?;
    }
    let mut tx = tenant::begin(pool, &place.organization).await?;
    sqlx::query(
        "insert into employees (id, first_name, last_name, status, created_at, updated_at)
         select gen_random_uuid(), '', '', 'active', now(), now() from generate_series(1, $1)",
    )
    .bind(HOLDERS as i64)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "update assets a set status = 'assigned', employee_id = e.id
         from (select id, row_number() over (order by id) as n from employees) e
         where a.external_id::bigint % 2 = 0 and e.n = 1 + (a.external_id::bigint / 2) % $1",
    )
    .bind(HOLDERS as i64)
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}
