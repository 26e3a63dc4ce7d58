//! Employees of a source on a real database.

use std::collections::BTreeMap;

use backroom_queue::testing;

use super::*;
use crate::{
    domain::{Employee, employee::Private},
    jobs::testing::World,
    store::Page,
    tenant::TenantTx,
};

const SOURCE: Source = Source { integration_id: Uuid::from_u128(7) };

struct Hris {
    world: World,
}

impl Hris {
    async fn new() -> Self {
        Self { world: World::new().await }
    }

    fn sealer(&self) -> Sealer<'_> {
        Sealer::new(&self.world.app.vault, "acme")
    }

    fn taking(&self) -> Taking<'_> {
        Taking {
            organization: &self.world.organization,
            source: SOURCE,
            actor: "job:1",
            now: self.world.now(),
            first_run: false,
            trace: None,
        }
    }

    async fn take(&self, records: &[(String, EmployeeFacts)]) -> Vec<Outcome> {
        self.take_with(&self.taking(), records).await
    }

    async fn take_with(&self, taking: &Taking<'_>, records: &[(String, EmployeeFacts)]) -> Vec<Outcome> {
        let mut tx = self.world.tenant().await;
        let taken = take_employees(&mut tx, self.sealer(), taking, records).await.unwrap();
        tx.commit().await.unwrap();
        let ids: Vec<_> = taken.iter().map(|taken| taken.external_id.clone()).collect();
        assert_eq!(ids, records.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), "one outcome a record, in order");
        taken.into_iter().map(|taken| taken.outcome).collect()
    }

    /// The run's end; why offboardings are held, if so.
    async fn end(&self, mode: SyncMode) -> Option<String> {
        let mut tx = self.world.tenant().await;
        let held = start_offboardings(&mut tx, &self.taking(), mode).await.unwrap();
        tx.commit().await.unwrap();
        held
    }

    async fn all(&self) -> Vec<Employee> {
        let filter = employees::EmployeeFilter::default();
        employees::page(&mut *self.world.tenant().await, self.sealer(), &filter, Page::first(1000)).await.unwrap()
    }

    async fn one(&self, external_id: &str) -> Employee {
        self.all().await.into_iter().find(|employee| employee.external_id.as_deref() == Some(external_id)).unwrap()
    }

    async fn events(&self, id: Uuid) -> Vec<String> {
        let page = events::page(&mut *self.world.tenant().await, Some(&topic(id)), Page::first(100)).await.unwrap();
        page.into_iter().map(|event| event.kind).collect()
    }

    /// Onboardings and offboardings that were asked for.
    async fn started(&self) -> (usize, usize) {
        let db = &self.world.app.db;
        (
            testing::enqueued::<StartOnboarding>(db).await.unwrap().len(),
            testing::enqueued::<StartOffboarding>(db).await.unwrap().len(),
        )
    }
}

fn record(id: &str, facts: EmployeeFacts) -> (String, EmployeeFacts) {
    (id.to_owned(), facts)
}

fn anna() -> EmployeeFacts {
    EmployeeFacts {
        work_email: Some(EmailAddress::parse("Anna.Ek@acme.example").unwrap()),
        first_name: "Planterad".to_owned(),
        last_name: "Ek".to_owned(),
        social_security_number: Some("811228-9874".to_owned()),
        date_of_birth: "1981-12-28".parse().ok(),
        job_title: Some("Accountant".to_owned()),
        location: Some("Stockholm".to_owned()),
        hire_date: "2026-03-01".parse().ok(),
        custom: BTreeMap::from([("shirt".to_owned(), json!("M"))]),
        ..EmployeeFacts::default()
    }
}

fn bo() -> EmployeeFacts {
    let work_email = Some(EmailAddress::parse("bo@acme.example").unwrap());
    EmployeeFacts { work_email, first_name: "Bo".to_owned(), ..anna() }
}

fn ids(outcome: &Outcome) -> Uuid {
    match outcome {
        Outcome::Created(id) | Outcome::Updated(id) => *id,
        other => panic!("{other:?}"),
    }
}

/// Whatever a row says, as it is stored.
async fn rows(tx: &mut TenantTx) -> String {
    let sql = "select string_agg(row, ' ') from (
                   select e::text || e.xmin::text as row from employees e
                   union all select l::text || l.xmin::text from locations l
                   union all select v::text from events v) rows";
    sqlx::query_scalar::<_, Option<String>>(sql).fetch_one(&mut **tx).await.unwrap().unwrap_or_default()
}

/// SYNC-3, ASSET-1, VAULT-1
#[tokio::test]
async fn what_an_hris_tells_is_stored_and_what_is_private_cannot_be_read() {
    let hris = Hris::new().await;

    let outcomes = hris.take(&[record("1", anna())]).await;

    let stored = hris.one("1").await;
    assert_eq!(outcomes, [Outcome::Created(stored.id)]);
    let facts = &stored.facts;
    assert_eq!((facts.name.to_string().as_str(), facts.title.as_deref()), ("Planterad Ek", Some("Accountant")));
    assert_eq!(facts.private.social_security_number.as_deref(), Some("811228-9874"));
    assert_eq!((facts.private.date_of_birth, &facts.private.custom), (anna().date_of_birth, &anna().custom));
    assert!(facts.location_id.is_some());
    let mut tx = hris.world.tenant().await;
    let text: String = sqlx::query_scalar(
        "select concat_ws(' ', to_jsonb(e), encode(first_name, 'escape'), encode(social_security_number, 'escape'),
             encode(date_of_birth, 'escape'), encode(custom, 'escape'), encode(source_print, 'escape'),
             (select string_agg(payload::text, ' ') from events)) from employees e",
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    for secret in ["Planterad", "811228", "1981", "shirt"] {
        assert!(!text.contains(secret), "{secret} is readable in {text}");
    }
}

/// SYNC-3: nothing is written, not a row, not an event.
#[tokio::test]
async fn who_says_the_same_again_causes_no_write() {
    let hris = Hris::new().await;
    let page = [record("1", anna()), record("2", bo())];
    hris.take(&page).await;
    let before = rows(&mut hris.world.tenant().await).await;
    let jobs = hris.started().await;

    let again = hris.take(&page).await;

    assert_eq!(again, [Outcome::Unchanged, Outcome::Unchanged]);
    assert_eq!(rows(&mut hris.world.tenant().await).await, before);
    assert_eq!(hris.started().await, jobs);
}

/// SYNC-3: what the source says nothing of stays.
#[tokio::test]
async fn a_change_keeps_what_the_source_does_not_tell() {
    let hris = Hris::new().await;
    hris.take(&[record("1", anna())]).await;
    let less = EmployeeFacts {
        job_title: Some("Controller".to_owned()),
        social_security_number: None,
        work_email: None,
        location: None,
        custom: BTreeMap::new(),
        ..anna()
    };

    let outcome = hris.take(&[record("1", less)]).await;

    let stored = hris.one("1").await;
    assert_eq!(outcome, [Outcome::Updated(stored.id)]);
    let Private { social_security_number, custom, .. } = &stored.facts.private;
    assert_eq!(stored.facts.title.as_deref(), Some("Controller"));
    assert_eq!(stored.facts.work_email, anna().work_email);
    assert_eq!((social_security_number, custom), (&anna().social_security_number, &anna().custom));
    assert!(stored.facts.location_id.is_some());
    assert_eq!(hris.events(stored.id).await, ["employee.created", "employee.changed"]);
}

/// ASSET-6: whom an onboarding starts for.
#[tokio::test]
async fn only_a_new_hire_is_onboarded_and_nobody_in_the_first_run() {
    let hris = Hris::new().await;
    let hired = |day: &str| EmployeeFacts { work_email: None, hire_date: day.parse().ok(), ..anna() };
    // Monday 2 March 2026
    let page = [
        record("lately", hired("2026-01-31")),
        record("long ago", hired("2026-01-30")),
        record("soon", hired("2026-08-01")),
        record("away", EmployeeFacts { standing: Standing::OnLeave, ..hired("2026-03-01") }),
        record("gone", EmployeeFacts { standing: Standing::Terminated, ..hired("2026-03-01") }),
        record("some day", EmployeeFacts { hire_date: None, ..hired("") }),
    ];
    let outcomes = hris.take(&page).await;
    let started = testing::enqueued::<StartOnboarding>(&hris.world.app.db).await.unwrap();
    let mut whom: Vec<_> = started.iter().map(|job| job.args["employee_id"].as_str().unwrap().to_owned()).collect();
    whom.sort_unstable();
    let mut expected = vec![ids(&outcomes[0]).to_string(), ids(&outcomes[2]).to_string()];
    expected.sort_unstable();
    assert_eq!(whom, expected);
    hris.end(SyncMode::Incremental).await;
    assert_eq!(hris.started().await.1, 0, "who comes as terminated has no offboarding");

    let first = Taking { first_run: true, source: Source { integration_id: Uuid::from_u128(8) }, ..hris.taking() };
    hris.take_with(&first, &page).await;
    assert_eq!(hris.started().await, (2, 0));
}

/// ASSET-1, ASSET-6
#[tokio::test]
async fn a_termination_starts_one_offboarding_and_a_return_is_told() {
    let hris = Hris::new().await;
    let id = ids(&hris.take(&[record("1", anna())]).await[0]);
    let gone = [record("1", EmployeeFacts { standing: Standing::Terminated, ..anna() })];
    hris.take(&gone).await;
    let stored = hris.one("1").await.facts;
    assert_eq!((stored.status, stored.termination_date), (EmployeeStatus::Terminated, Some(hris.world.today())));
    assert_eq!(hris.end(SyncMode::Incremental).await, None);
    hris.take(&gone).await;
    assert_eq!(hris.end(SyncMode::Incremental).await, None);
    assert_eq!(hris.started().await.1, 1);

    hris.take(&[record("1", anna())]).await;

    let stored = hris.one("1").await.facts;
    assert_eq!((stored.status, stored.termination_date), (EmployeeStatus::Active, None));
    assert_eq!(hris.events(id).await, ["employee.created", "employee.terminated", "employee.reactivated"]);
}

/// ASSET-6: who comes back to begin anew is onboarded, who is only back is not.
#[tokio::test]
async fn a_rehire_is_onboarded_too() {
    let hris = Hris::new().await;
    for (n, hired_again, onboardings) in [(1, "2026-02-20", 1), (2, "2020-01-01", 1)] {
        let was = EmployeeFacts { work_email: None, hire_date: "2020-01-01".parse().ok(), ..anna() };
        let gone = EmployeeFacts { standing: Standing::Terminated, ..was.clone() };
        let again = EmployeeFacts { hire_date: hired_again.parse().ok(), ..was.clone() };
        for facts in [was, gone, again] {
            hris.take(&[record(&n.to_string(), facts)]).await;
            hris.end(SyncMode::Incremental).await;
        }
        assert_eq!(hris.started().await, (onboardings, n), "{hired_again}");
    }
}

/// ASSET-1, SYNC-3: a manager that a person named stays until the source names another.
#[tokio::test]
async fn a_manager_named_by_hand_is_not_undone_by_the_next_run() {
    let hris = Hris::new().await;
    let led = EmployeeFacts { manager_external_id: Some("2".to_owned()), ..anna() };
    let cia = EmployeeFacts { work_email: None, ..bo() };
    let page = [record("1", led.clone()), record("2", bo()), record("3", cia)];
    let taken: Vec<_> = hris.take(&page).await.iter().map(ids).collect();
    let resolved = async || {
        let mut tx = hris.world.tenant().await;
        resolve_managers(&mut tx, SOURCE).await.unwrap();
        tx.commit().await.unwrap();
        hris.one("1").await.facts.manager_id
    };
    assert_eq!(resolved().await, Some(taken[1]));
    let change = async |change: NewEmployee| {
        let mut tx = hris.world.tenant().await;
        employees::update(&mut tx, hris.sealer(), (taken[0], &change), hris.world.now()).await.unwrap();
        tx.commit().await.unwrap();
    };
    let facts = hris.one("1").await.facts;
    change(NewEmployee { title: Some("Lead".to_owned()), ..facts.clone() }).await;
    hris.take(&page).await;
    assert_eq!(resolved().await, Some(taken[1]), "something else was changed");

    change(NewEmployee { manager_id: Some(taken[2]), ..facts }).await;
    hris.take(&page).await;

    assert_eq!(resolved().await, Some(taken[2]));
    hris.take(&[record("1", EmployeeFacts { job_title: Some("Chief".to_owned()), ..led })]).await;
    assert_eq!(resolved().await, Some(taken[1]), "the source has said something new");
}

/// SYNC-3, ASSET-4: a run that holds an employee keeps nobody from pointing to them.
#[tokio::test]
async fn who_holds_an_employee_keeps_nobody_from_pointing_to_them() {
    let hris = Hris::new().await;
    let id = ids(&hris.take(&[record("1", anna())]).await[0]);
    let key = anna().work_email.unwrap().key();
    for lock in 0..3 {
        let mut holds = hris.world.tenant().await;
        match lock {
            0 => assert!(employees::lock(&mut holds, hris.sealer(), id).await.unwrap().is_some()),
            1 => assert_eq!(employees::known(&mut holds, SOURCE, &["1".to_owned()]).await.unwrap().len(), 1),
            _ => assert_eq!(employees::address_owners(&mut holds, std::slice::from_ref(&key)).await.unwrap().len(), 1),
        }
        let mut points = hris.world.tenant().await;
        sqlx::query("set local lock_timeout = '2s'").execute(&mut *points).await.unwrap();
        let led =
            NewEmployee { manager_id: Some(id), ..NewEmployee::from(&EmployeeFacts { work_email: None, ..bo() }) };
        employees::insert(&mut points, hris.sealer(), &led, hris.world.now()).await.unwrap();
    }
}

/// ASSET-6, SYNC-3: whom the source has no longer.
#[tokio::test]
async fn who_is_gone_at_the_source_is_terminated_once_and_may_come_back() {
    let hris = Hris::new().await;
    let id = ids(&hris.take(&[record("1", anna())]).await[0]);
    let leave = async || {
        let mut tx = hris.world.tenant().await;
        let gone = ["1".to_owned(), "nobody".to_owned()];
        let taken = employees_gone(&mut tx, hris.sealer(), &hris.taking(), &gone).await.unwrap();
        tx.commit().await.unwrap();
        taken.into_iter().map(|taken| taken.outcome).collect::<Vec<_>>()
    };
    assert_eq!(leave().await, [Outcome::Updated(id), Outcome::Unchanged]);
    assert_eq!(leave().await, [Outcome::Unchanged, Outcome::Unchanged]);
    assert_eq!(hris.end(SyncMode::Incremental).await, None);
    assert_eq!(hris.started().await.1, 1);
    assert_eq!(hris.one("1").await.facts.status, EmployeeStatus::Terminated);

    assert_eq!(hris.take(&[record("1", anna())]).await, [Outcome::Updated(id)], "the same words bring them back");
    assert_eq!(hris.events(id).await, ["employee.created", "employee.terminated", "employee.reactivated"]);
}

/// ASSET-6: an HRIS that may no longer read most people does not send them home.
#[tokio::test]
async fn too_many_who_leave_in_one_run_are_held_until_somebody_has_had_a_look() {
    let hris = Hris::new().await;
    let of = |n: usize, standing| {
        let work_email = Some(EmailAddress::parse(&format!("p{n}@acme.example")).unwrap());
        record(&n.to_string(), EmployeeFacts { work_email, standing, ..anna() })
    };
    let all = |standing| (0..40).map(|n| of(n, standing)).collect::<Vec<_>>();
    hris.take(&all(Standing::Active)).await;
    // Ten of forty are a quarter and no more.
    hris.take(&all(Standing::Terminated)[..10]).await;
    assert_eq!(hris.end(SyncMode::Incremental).await, None);
    assert_eq!(hris.started().await.1, 10);

    // Page by page, and some only vanish.
    hris.take(&all(Standing::Terminated)[10..15]).await;
    let mut tx = hris.world.tenant().await;
    let ids: Vec<String> = (15..21).map(|n: usize| n.to_string()).collect();
    employees_gone(&mut tx, hris.sealer(), &hris.taking(), &ids).await.unwrap();
    tx.commit().await.unwrap();
    let held = hris.end(SyncMode::Full).await.unwrap();
    assert!(held.starts_with("one run terminated 11 of 30 people"), "{held}");
    assert_eq!(hris.started().await.1, 10, "also for who asked for this very run");

    // Five are back, one leaves as people do; the next runs leave the others alone.
    hris.take(&all(Standing::Active)[10..15]).await;
    hris.take(&[of(30, Standing::Terminated)]).await;
    assert_eq!(hris.end(SyncMode::Incremental).await, None);
    assert_eq!(hris.started().await.1, 11);
    assert_eq!((hris.end(SyncMode::Full).await, hris.end(SyncMode::Full).await), (None, None));
    assert_eq!(hris.started().await.1, 11 + 6, "somebody has had a look");
}

/// SYNC-3
#[tokio::test]
async fn a_manager_who_comes_later_in_the_run_is_found_at_its_end() {
    let hris = Hris::new().await;
    let led = EmployeeFacts { manager_external_id: Some("2".to_owned()), ..anna() };
    let own = EmployeeFacts { manager_external_id: Some("2".to_owned()), ..bo() };
    hris.take(&[record("1", led)]).await;
    let boss = ids(&hris.take(&[record("2", own)]).await[0]);
    let resolve = async || {
        let mut tx = hris.world.tenant().await;
        let count = resolve_managers(&mut tx, SOURCE).await.unwrap();
        tx.commit().await.unwrap();
        count
    };
    assert_eq!((resolve().await, resolve().await), (1, 0));
    assert_eq!(hris.one("1").await.facts.manager_id, Some(boss));
    assert_eq!(hris.one("2").await.facts.manager_id, None, "nobody leads themselves");
}

/// ASSET-1, SYNC-3: an address is one person's, also while two swap theirs.
#[tokio::test]
async fn addresses_are_swapped_taken_over_and_refused() {
    let hris = Hris::new().await;
    let with = |facts: EmployeeFacts, email: &str| EmployeeFacts {
        work_email: Some(EmailAddress::parse(email).unwrap()),
        ..facts
    };
    hris.take(&[record("1", with(anna(), "a@acme.example")), record("2", with(bo(), "b@acme.example"))]).await;

    let swapped =
        hris.take(&[record("1", with(anna(), "B@acme.example")), record("2", with(bo(), "a@acme.example"))]).await;
    assert!(swapped.iter().all(|outcome| matches!(outcome, Outcome::Updated(_))), "{swapped:?}");
    assert_eq!(hris.one("1").await.facts.work_email.unwrap().as_str(), "B@acme.example");

    // The third wants the first's, and would let the fourth have its own.
    let freed =
        hris.take(&[record("1", with(anna(), "c@acme.example")), record("3", with(bo(), "b@acme.example"))]).await;
    assert!(matches!(freed[..], [Outcome::Updated(_), Outcome::Created(_)]), "{freed:?}");
    let chain = [
        record("3", with(anna(), "A@acme.example")),
        record("4", with(bo(), "b@acme.example")),
        record("5", with(bo(), "d@acme.example")),
        record("6", with(bo(), "D@acme.example")),
    ];
    let outcomes = hris.take(&chain).await;
    let [Outcome::Refused(reason), Outcome::Refused(_), Outcome::Created(_), Outcome::Refused(_)] = &outcomes[..]
    else {
        panic!("{outcomes:?}")
    };
    assert!(reason.contains("work e-mail") && !reason.contains('@'), "{reason}");
}

/// SYNC-3: whom a person wrote down is the source's from now on.
#[tokio::test]
async fn who_was_written_down_by_hand_is_taken_over_by_the_address() {
    let hris = Hris::new().await;
    hris.take(&[record("1", anna())]).await;
    let id = hris.one("1").await.id;
    let mut tx = hris.world.tenant().await;
    assert_eq!(forget_source(&mut tx, SOURCE).await.unwrap(), 1);
    tx.commit().await.unwrap();

    let next = Taking { source: Source { integration_id: Uuid::from_u128(8) }, ..hris.taking() };
    let twin = EmployeeFacts { work_email: anna().work_email, ..bo() };
    let outcomes = hris.take_with(&next, &[record("A", anna()), record("B", twin)]).await;

    assert_eq!(outcomes[0], Outcome::Updated(id));
    assert!(matches!(outcomes[1], Outcome::Refused(_)), "{outcomes:?}");
    assert_eq!(hris.all().await.len(), 1);
    assert_eq!(hris.one("A").await.integration_id, Some(next.source.integration_id));
}

/// SYNC-9: a bad record is named without its values, and stops nobody else.
#[tokio::test]
async fn what_cannot_be_stored_is_refused_and_the_rest_is_stored() {
    let hris = Hris::new().await;
    let long = EmployeeFacts { job_title: Some("planted".repeat(100)), work_email: None, ..anna() };
    let nobody = EmployeeFacts { first_name: String::new(), last_name: " ".to_owned(), work_email: None, ..anna() };
    let page = [record("1", long), record("2", nobody), record("3\n", bo()), record("4", anna()), record("4", bo())];

    let outcomes = hris.take(&page).await;

    for (outcome, field) in outcomes.iter().zip(["title", "first_name", "its id"]) {
        let Outcome::Refused(reason) = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains(field) && !reason.contains("planted"), "{reason}");
    }
    assert!(matches!(outcomes[3..], [Outcome::Unchanged, Outcome::Created(_)]), "the last word counts: {outcomes:?}");
    assert_eq!(hris.one("4").await.facts.work_email, bo().work_email);
}

/// SYNC-3: a page costs a handful of statements, whatever its size.
#[tokio::test]
async fn a_page_is_a_handful_of_statements() {
    let hris = Hris::new().await;
    let page: Vec<_> = (0..300)
        .map(|n| {
            let work_email = Some(EmailAddress::parse(&format!("p{n}@acme.example")).unwrap());
            record(&n.to_string(), EmployeeFacts { work_email, ..anna() })
        })
        .collect();

    let outcomes = hris.take(&page).await;

    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Created(_))));
    let mut tx = hris.world.tenant().await;
    // Rows that one statement writes have one command id.
    let commands = "select count(distinct cmin::text) from employees";
    let statements: i64 = sqlx::query_scalar(commands).fetch_one(&mut *tx).await.unwrap();
    assert_eq!(statements, 1);
    assert_eq!(hris.started().await.0, 300);
}
