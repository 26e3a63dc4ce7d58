//! Systems of people from end to end: the job, the engine, the clients, and their fakes over real HTTP.

use backroom_queue::{Outcome, testing};
use chrono::{Duration, NaiveDate};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{SyncIntegration, TellAttention, create_integration};
use crate::{
    demo::vendors::{
        bamboohr::{BambooHr, Person},
        workday::{Workday, Worker},
    },
    domain::integration::{IntegrationStatus, NewIntegration, Provider, SyncMode, SyncTrigger},
    jobs::{
        people::{StartOffboarding, StartOnboarding},
        testing::World,
    },
    store::{Sealer, integrations},
    sync::Report,
};

struct Rig {
    world: World,
    integration_id: Uuid,
}

async fn world() -> World {
    World::with(&[("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1")]).await
}

impl Rig {
    async fn of(world: World, provider: Provider, config: Value, credentials: Value) -> Self {
        let name = "People".to_owned();
        let new = NewIntegration { provider, name, config, interval_minutes: 60, enabled: true };
        let credentials = credentials.to_string().into();
        let sealer = Sealer::new(&world.app.vault, "acme");
        let mut tx = world.tenant().await;
        let made = create_integration(&mut tx, sealer, (&new, &credentials), "test", world.now()).await.unwrap();
        tx.commit().await.unwrap();
        Self { world, integration_id: made.id }
    }

    async fn run(&self, mode: Option<SyncMode>) -> Outcome {
        let job = SyncIntegration { integration_id: self.integration_id, mode, trigger: SyncTrigger::Manual };
        self.world.run(&job).await
    }

    /// Time passes, and it is read; answers how many were created, updated and refused.
    async fn sync(&self, mode: Option<SyncMode>) -> (u64, u64, u64) {
        self.world.app.clock.advance(Duration::minutes(10));
        match self.run(mode).await {
            Outcome::Completed { result: Some(result) } => {
                let counts = serde_json::from_value::<Report>(result).unwrap().counts;
                (counts.created, counts.updated, counts.failed)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Address, status and the manager's address of everybody, by address.
    async fn people(&self) -> String {
        let sql = "select string_agg(concat_ws(' ', split_part(e.work_email, '@', 1), e.status, split_part(m.work_email, '@', 1)),
                                     ', ' order by e.work_email)
                   from employees e left join employees m on m.id = e.manager_id";
        let found: Option<String> = sqlx::query_scalar(sql).fetch_one(&mut *self.world.tenant().await).await.unwrap();
        found.unwrap_or_default()
    }

    /// Onboardings and offboardings that were asked for.
    async fn started(&self) -> (usize, usize) {
        let db = &self.world.app.db;
        (
            testing::enqueued::<StartOnboarding>(db).await.unwrap().len(),
            testing::enqueued::<StartOffboarding>(db).await.unwrap().len(),
        )
    }

    async fn status(&self) -> IntegrationStatus {
        let found = integrations::by_id(&mut *self.world.tenant().await, self.integration_id).await.unwrap();
        found.unwrap().status
    }
}

fn today() -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 3, 2).unwrap()
}

/// SYNC-7, SYNC-3, ASSET-6: from each place that BambooHR lets employees be read from, somebody comes, somebody changes, somebody
/// leaves, somebody is deleted.
#[tokio::test]
async fn who_is_in_bamboohr_stays_in_step() {
    for source in ["dataset", "report", "list"] {
        let world = world().await;
        let people = vec![
            Person::new("Ada", "Ek", "ada@acme.example"),
            Person::new("Bo", "Lind", "bo@acme.example").with("supervisorEId", "1"),
            Person::new("Cy", "Holm", "cy@acme.example").with("supervisorEId", "1").with("hireDate", "2026-03-02"),
            Person::new("Di", "Falk", "nowhere at all"),
        ];
        let bamboo = BambooHr::start_at(people, world.app.clock.clone()).await.unwrap();
        let mut config = bamboo.config();
        config["source"] = json!(source);
        let rig = Rig::of(world, Provider::BambooHr, config, bamboo.credentials()).await;

        assert_eq!(rig.sync(None).await, (3, 0, 1), "{source}");
        assert_eq!(rig.people().await, "ada active, bo active ada, cy active ada", "{source}");
        // Who was there before us is not new.
        assert_eq!(rig.started().await, (0, 0));
        assert_eq!(rig.sync(None).await, (0, 0, 0), "{source}");
        assert_eq!(rig.sync(Some(SyncMode::Full)).await, (0, 0, 1), "{source}");

        bamboo.hire(
            Person::new("Eva", "Berg", "eva@acme.example").with("supervisorEId", "2").with("hireDate", "2026-03-02"),
        );
        bamboo.change(4, "workEmail", "di@acme.example");
        bamboo.terminate(2, today());
        bamboo.remove(3);
        assert_eq!(rig.sync(None).await, (2, 2, 0), "{source}");

        let people = "ada active, bo terminated ada, cy terminated ada, di active, eva active bo";
        assert_eq!(rig.people().await, people, "{source}");
        // Di has been there since 2024.
        assert_eq!(rig.started().await, (1, 2), "{source}");
        assert_eq!(rig.sync(Some(SyncMode::Full)).await, (0, 0, 0), "{source}");
        assert_eq!((rig.started().await, rig.status().await), ((1, 2), IntegrationStatus::Healthy), "{source}");
    }
}

/// SYNC-7: who is deleted between the last run of changes and a full one is told of by the full one.
#[tokio::test]
async fn a_deletion_is_not_lost_to_a_full_run() {
    let world = world().await;
    let people = vec![Person::new("Ada", "Ek", "ada@acme.example"), Person::new("Bo", "Lind", "bo@acme.example")];
    let bamboo = BambooHr::start_at(people, world.app.clock.clone()).await.unwrap();
    let rig = Rig::of(world, Provider::BambooHr, bamboo.config(), bamboo.credentials()).await;
    rig.sync(None).await;
    bamboo.remove(2);
    assert_eq!(rig.sync(Some(SyncMode::Full)).await, (0, 1, 0));
    assert_eq!(rig.people().await, "ada active, bo terminated");
}

/// ASSET-6, SYNC-6: an HRIS that says that nearly everybody has left is asked about, before anybody is.
#[tokio::test]
async fn an_hris_that_loses_most_people_waits_for_a_person() {
    let world = world().await;
    let people = (0..12).map(|n| Person::new("Ada", "Ek", &format!("p{n}@acme.example"))).collect();
    let bamboo = BambooHr::start_at(people, world.app.clock.clone()).await.unwrap();
    let rig = Rig::of(world, Provider::BambooHr, bamboo.config(), bamboo.credentials()).await;
    rig.sync(None).await;
    for id in 1..=11 {
        bamboo.terminate(id, today());
    }
    assert_eq!(rig.sync(None).await, (0, 11, 0));

    assert_eq!((rig.started().await, rig.status().await), ((0, 0), IntegrationStatus::NeedsAttention));
    let found = integrations::by_id(&mut *rig.world.tenant().await, rig.integration_id).await.unwrap().unwrap();
    assert!(found.last_error.unwrap().starts_with("one run terminated 11 of 12 people"));
    assert_eq!(testing::enqueued::<TellAttention>(&rig.world.app.db).await.unwrap().len(), 1, "admins are told");
    assert!(matches!(rig.run(None).await, Outcome::Cancelled { .. }));

    // Somebody tests the connection, and says that it is as it should be.
    let mut tx = rig.world.tenant().await;
    integrations::succeeded(&mut tx, rig.integration_id, rig.world.now()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((rig.sync(None).await, rig.started().await), ((0, 0, 0), (0, 0)));
    assert_eq!(rig.sync(Some(SyncMode::Full)).await, (0, 0, 0));
    assert_eq!((rig.started().await, rig.status().await), ((0, 11), IntegrationStatus::Healthy));
}

/// SYNC-6, SYNC-7: BambooHR's tokens rotate with every renewal; a grant that is taken back needs a person.
#[tokio::test]
async fn bamboohr_is_read_by_oauth_until_the_grant_is_taken_back() {
    let world = world().await;
    let people = vec![Person::new("Ada", "Ek", "ada@acme.example")];
    let bamboo = BambooHr::start_at(people, world.app.clock.clone()).await.unwrap();
    let rig = Rig::of(world, Provider::BambooHr, bamboo.config(), bamboo.oauth_credentials()).await;
    assert_eq!(rig.sync(None).await, (1, 0, 0));
    for _ in 0..2 {
        bamboo.expire_access();
        assert_eq!(rig.sync(None).await, (0, 0, 0));
    }
    let renewals = bamboo.fake.script.asked().iter().filter(|asked| asked.path == "/token.php").count();
    assert_eq!(renewals, 3);
    bamboo.revoke();
    rig.run(None).await;
    assert_eq!(rig.status().await, IntegrationStatus::NeedsAttention);
}

/// SYNC-8, SYNC-3, ASSET-6: workers of a report, in full and since, and of REST, which knows less.
#[tokio::test]
async fn who_is_in_workday_stays_in_step() {
    for source in ["raas", "rest"] {
        let world = world().await;
        let workers = vec![
            Worker::new("Ada", "Ek", "ada@acme.example"),
            Worker::new("Bo", "Lind", "bo@acme.example").with("Manager_ID", "21001"),
        ];
        let workday = Workday::start_at(workers, world.app.clock.clone()).await.unwrap();
        let (config, credentials) = match source {
            "raas" => (workday.report_config(), workday.basic_credentials()),
            _ => (workday.config(), workday.credentials()),
        };
        let rig = Rig::of(world, Provider::Workday, config, credentials).await;

        assert_eq!(rig.sync(None).await, (2, 0, 0), "{source}");
        assert_eq!(rig.sync(None).await, (0, 0, 0), "{source}");
        workday.hire(Worker::new("Cy", "Holm", "cy@acme.example").with("Hire_Date", "2026-03-02"));
        workday.terminate(2, today());
        workday.expire_access();
        assert_eq!(rig.sync(None).await, (1, 1, 0), "{source}");

        let expected = match source {
            "raas" => ("ada active, bo terminated ada, cy active", (1, 1)),
            _ => ("ada active, bo terminated, cy active", (0, 1)),
        };
        assert_eq!((rig.people().await.as_str(), rig.started().await), expected, "{source}");
    }
}
