//! Integrations from outside: workers that are killed in the middle of a sync, two nodes with the same integration.

use std::{collections::BTreeMap, time::Duration};

use backroom::{
    context::App,
    demo::vendors::bamboohr::BambooHr,
    domain::{
        Organization,
        employee::NewEmployee,
        integration::{NewIntegration, Provider, SyncMode, SyncTrigger},
    },
    jobs::integrations::{SyncIntegration, create_integration, request_sync},
    store::{Page, Sealer, employees},
    tenant::{self, testing::TestDatabase},
};
use backroom_queue::{NewJob, enqueue};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use crate::support::{PATIENCE, Program, count, until};

/// One that reads this company, so many people a page.
async fn connect(app: &App, organization: &Organization, vendor: &BambooHr, page_size: u64) -> Uuid {
    let mut config = vendor.config();
    config["page_size"] = json!(page_size);
    let new = NewIntegration {
        provider: Provider::BambooHr,
        name: "HR".to_owned(),
        config,
        interval_minutes: 60,
        enabled: true,
    };
    let credentials = SecretString::from(vendor.credentials().to_string());
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let mut tx = tenant::begin(&app.db, organization).await.expect("the organization opens");
    let made = create_integration(&mut tx, sealer, (&new, &credentials), "test", app.clock.now()).await;
    tx.commit().await.expect("committed");
    made.expect("an integration").id
}

async fn ask(app: &App, organization: &Organization, integration_id: Uuid) -> Uuid {
    let job = SyncIntegration { integration_id, mode: Some(SyncMode::Full), trigger: SyncTrigger::Manual };
    let mut tx = tenant::begin(&app.db, organization).await.expect("the organization opens");
    let asked = request_sync(&mut tx, &organization.slug, &job, "test", (app.clock.now(), None)).await;
    tx.commit().await.expect("committed");
    asked.expect("a job").id
}

/// Everybody as they are stored and opened, by their id at the vendor, with their manager's.
async fn people(app: &App, organization: &Organization) -> BTreeMap<String, (NewEmployee, Option<String>)> {
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let mut tx = tenant::begin(&app.db, organization).await.expect("the organization opens");
    let all = employees::page(&mut tx, sealer, &employees::EmployeeFilter::default(), Page::first(1_000_000)).await;
    let all = all.expect("employees");
    let ids: BTreeMap<Uuid, String> =
        all.iter().filter_map(|employee| Some((employee.id, employee.external_id.clone()?))).collect();
    let told = all.iter().map(|employee| {
        let manager = employee.facts.manager_id.and_then(|id| ids.get(&id).cloned());
        let facts = NewEmployee { manager_id: None, location_id: None, ..employee.facts.clone() };
        (ids[&employee.id].clone(), (facts, manager))
    });
    told.collect()
}

/// SYNC-3, PLAT-11: killed twice in the middle of ten thousand people, a sync ends as one that nobody disturbed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_whose_workers_are_killed_ends_as_one_that_nobody_disturbed() {
    const PEOPLE: u64 = 10_000;
    const PAGE: u64 = 250;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let database = TestDatabase::new().await;
    let (calm, acme) = (database.organization("calm").await, database.organization("acme").await);
    let vendor = BambooHr::with_many(PEOPLE).await.expect("a vendor");
    let program = Program::on(&database.url()).with("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1");
    let app = program.app().await;
    ask(&app, &calm, connect(&app, &calm, &vendor, PAGE).await).await;
    let worker = program.start(&["worker", "--queues", "integrations"]);
    until(&database.pool, "select count(*) from org_calm.sync_runs where state = 'completed'", 1).await;
    worker.stop().await;
    let undisturbed = people(&app, &calm).await;
    assert_eq!(undisturbed.len() as u64, PEOPLE);

    // The vendor's budget is shared by both, and used up.
    sqlx::query("delete from queue.rate_limits").execute(&database.pool).await.expect("forgotten");
    let job = ask(&app, &acme, connect(&app, &acme, &vendor, PAGE).await).await;
    let before = vendor.fake.script.asked().len();
    for kill in 1..=2 {
        let worker = program.start(&["worker", "--queues", "integrations"]);
        // Later each time than where it goes on, and before the end.
        let reached = before + kill * 12 + random.random_range(0..8);
        tokio::time::timeout(PATIENCE, vendor.fake.script.came(reached)).await.expect("it reads on");
        tokio::time::sleep(Duration::from_micros(random.random_range(0..60_000))).await;
        worker.kill().await;
        let running = "select count(*) from org_acme.sync_runs where state = 'running' and checkpoint is not null";
        assert_eq!(count(&database.pool, running).await, 1, "kill {kill} came in the middle");
    }
    let worker = program.start(&["worker", "--queues", "integrations"]);
    until(&database.pool, "select count(*) from org_acme.sync_runs where state = 'completed'", 1).await;
    worker.stop().await;

    let disturbed = people(&app, &acme).await;
    assert!(disturbed == undisturbed, "the same people, the same managers");
    assert_eq!(count(&database.pool, "select count(*) from org_acme.sync_runs").await, 1, "one run throughout");
    let (read, created): (i64, i64) = sqlx::query_as("select read, created from org_acme.sync_runs where job_id = $1")
        .bind(job)
        .fetch_one(&database.pool)
        .await
        .expect("the run");
    assert_eq!((read, created), (PEOPLE as i64, PEOPLE as i64), "each person was counted once");
    let told = "select count(*) from org_acme.events where kind = 'employee.created'";
    assert_eq!(count(&database.pool, told).await, PEOPLE as i64, "and told of once");
    let calls = vendor.fake.script.asked().len() - before;
    assert!(calls as u64 <= PEOPLE / PAGE + 1 + 4, "{calls} calls: at most a page was read again for each kill");
    database.close().await.expect("dropped");
}

/// SYNC-3: a second sync of ten thousand writes none of their rows again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sync_of_many_writes_no_rows() {
    let database = TestDatabase::new().await;
    let acme = database.organization("acme").await;
    let vendor = BambooHr::with_many(2_000).await.expect("a vendor");
    let program = Program::on(&database.url()).with("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1");
    let app = program.app().await;
    let integration = connect(&app, &acme, &vendor, 1_000).await;
    let worker = program.start(&["worker", "--queues", "integrations"]);
    let rows = "select (count(*) || ' ' || max(xmin::text::bigint) || ' ' || sum(hashtext(e.ctid::text)))
                from org_acme.employees e";
    let mut seen = Vec::new();
    for run in 1..=2 {
        ask(&app, &acme, integration).await;
        let done = "select count(*) from org_acme.sync_runs where state = 'completed'";
        until(&database.pool, done, run).await;
        until(&database.pool, "select count(*) from queue.jobs where kind = 'integrations.sync'", 0).await;
        let rows: String = sqlx::query_scalar(rows).fetch_one(&database.pool).await.expect("rows");
        seen.push((
            rows,
            count(&database.pool, "select count(*) from org_acme.events where kind like 'employee.%'").await,
        ));
    }
    worker.stop().await;
    assert_eq!(seen[0], seen[1]);
    let unchanged = "select unchanged from org_acme.sync_runs order by id desc limit 1";
    assert_eq!(count(&database.pool, unchanged).await, 2_000);
    database.close().await.expect("dropped");
}

/// SYNC-3: two nodes trigger the same integration at once: one run; also where two jobs get past the queue's own uniqueness.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_run_an_integration_one_after_the_other() {
    let database = TestDatabase::new().await;
    let acme = database.organization("acme").await;
    let vendor = BambooHr::with_many(500).await.expect("a vendor");
    let program = Program::on(&database.url()).with("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1");
    let app = program.app().await;
    let integration = connect(&app, &acme, &vendor, 100).await;
    let asked = tokio::join!(ask(&app, &acme, integration), ask(&app, &acme, integration));
    assert_eq!(asked.0, asked.1, "one job");
    let job =
        SyncIntegration { integration_id: integration, mode: Some(SyncMode::Full), trigger: SyncTrigger::Schedule };
    let twin = NewJob { unique: None, ..NewJob::of(&job).tenant("acme") };
    enqueue(&app.db, &twin).await.expect("a second job");

    let nodes = [
        program.start(&["worker", "--queues", "integrations"]),
        program.start(&["worker", "--queues", "integrations"]),
    ];
    until(&database.pool, "select count(*) from org_acme.sync_runs where state = 'completed'", 2).await;
    for node in nodes {
        node.stop().await;
    }

    let overlaps = "select count(*) from org_acme.sync_runs a join org_acme.sync_runs b
                    on a.id < b.id and a.started_at < b.ended_at and b.started_at < a.ended_at";
    assert_eq!(count(&database.pool, overlaps).await, 0);
    assert_eq!(count(&database.pool, "select count(*) from org_acme.employees").await, 500);
    assert_eq!(count(&database.pool, "select min(created) from org_acme.sync_runs").await, 0);
    database.close().await.expect("dropped");
}
