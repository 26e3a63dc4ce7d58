//! Assets on their way, with what is left of it in the database.

use rust_decimal::dec;
use serde_json::Value;
use sqlx::Executor;

use super::*;
use crate::{
    domain::{
        AssetStatus, Condition, NewEmployee, NewLocation, asset::Purchase, employee::PersonName, location::LocationKind,
    },
    jobs::{people, testing::World},
    store::{
        Page,
        asset_transactions::{Of, Transaction},
    },
    tenant,
};

const ASSIGNS: Remark<'_> = Remark { amount: None, note: Some("planted-note") };

struct Stock {
    world: World,
    laptop: Uuid,
    anna: Uuid,
    bo: Uuid,
    store_room: Uuid,
}

impl Stock {
    async fn new() -> Self {
        let world = World::new().await;
        let (now, sealer) = (world.now(), Sealer::new(&world.app.vault, "acme"));
        let mut tx = world.tenant().await;
        let asked = people::doors::Asked { actor: "test", now, trace: None };
        let mut people = Vec::new();
        for first in ["Anna", "Bo"] {
            let name = PersonName { first: first.to_owned(), last: "Ek".to_owned() };
            let new = NewEmployee { name, ..NewEmployee::default() };
            people.push(people::doors::create_employee(&mut tx, sealer, &new, &asked).await.unwrap().id);
        }
        let room = NewLocation {
            name: "Store room".to_owned(),
            kind: LocationKind::Warehouse,
            address: None,
            phone: None,
            active: true,
        };
        let store_room = people::doors::create_location(&mut tx, sealer, &room, &asked).await.unwrap().id;
        let purchase = Purchase { cost: Some(dec!(24995.50)), ..Purchase::default() };
        let new = NewAsset { name: "Laptop".to_owned(), purchase, ..NewAsset::default() };
        let laptop = create_asset(&mut tx, sealer, (&new, Custody::default()), &asked_by("test", now)).await.unwrap();
        tx.commit().await.unwrap();
        Self { laptop: laptop.id, anna: people[0], bo: people[1], store_room, world }
    }

    fn sealer(&self) -> Sealer<'_> {
        Sealer::new(&self.world.app.vault, "acme")
    }

    async fn take(&self, taken: Step) -> Result<Asset, StoreError> {
        let mut tx = self.world.tenant().await;
        let asked = asked_by("user:1", self.world.now());
        let asset = step(&mut tx, self.sealer(), (self.laptop, &taken), (ASSIGNS, &asked)).await?.unwrap();
        tx.commit().await.unwrap();
        Ok(asset)
    }

    async fn history(&self, of: Of) -> Vec<Transaction> {
        asset_transactions::page(&mut *self.world.tenant().await, self.sealer(), of, Page::first(100)).await.unwrap()
    }

    async fn told(&self) -> Vec<(String, Value)> {
        let topic = topic(self.laptop);
        let page = events::page(&mut *self.world.tenant().await, Some(&topic), Page::first(100)).await.unwrap();
        page.into_iter().map(|event| (event.kind, event.payload)).collect()
    }
}

fn asked_by(actor: &str, now: DateTime<Utc>) -> Asked<'_> {
    Asked { actor, ip: Some("192.0.2.7"), user_agent: Some("test/1"), now }
}

/// ASSET-4, EVT-1
#[tokio::test]
async fn each_step_leaves_a_row_of_history_and_an_event() {
    let stock = Stock::new().await;
    stock.take(Step::Assign { employee_id: stock.anna }).await.unwrap();
    stock.take(Step::Transfer { employee_id: Some(stock.bo), location_id: None }).await.unwrap();
    let back = Step::Return { location_id: Some(stock.store_room), condition: Some(Condition::Broken) };
    stock.take(back).await.unwrap();
    let away = Step::Become { status: AssetStatus::InRepair, condition: None };
    stock.take(away).await.unwrap();

    let rows = stock.history(Of::Asset(stock.laptop)).await;
    let moves: Vec<_> = rows
        .iter()
        .map(|row| (row.kind.as_str(), row.to_status.as_str(), row.from_employee_id, row.to_employee_id))
        .collect();
    let (anna, bo) = (Some(stock.anna), Some(stock.bo));
    assert_eq!(
        moves,
        [
            ("created", "in_stock", None, None),
            ("assigned", "assigned", None, anna),
            ("transferred", "assigned", anna, bo),
            ("returned", "in_stock", bo, None),
            ("status_changed", "in_repair", None, None),
        ]
    );
    assert_eq!((rows[0].from_status, rows[0].amount), (None, Some(dec!(24995.50))));
    assert_eq!((rows[3].condition, rows[3].to_location_id), (Condition::Broken, Some(stock.store_room)));
    for row in &rows[1..] {
        assert_eq!(
            (row.actor.as_str(), row.ip.as_deref(), row.user_agent.as_deref()),
            ("user:1", Some("192.0.2.7"), Some("test/1"))
        );
        assert_eq!(row.note.as_deref(), Some("planted-note"));
    }
    let of_anna: Vec<&str> =
        stock.history(Of::Employee(stock.anna)).await.iter().map(|row| row.kind.as_str()).collect();
    assert_eq!(of_anna, ["assigned", "transferred"]);
    let kinds: Vec<String> = stock.told().await.into_iter().map(|(kind, _)| kind).collect();
    let expected = ["asset.created", "asset.assigned", "asset.transferred", "asset.returned", "asset.status_changed"];
    assert_eq!(kinds, expected);
}

/// ASSET-4, VAULT-1, VAULT-4
#[tokio::test]
async fn amounts_and_notes_are_sealed_and_in_no_event() {
    let stock = Stock::new().await;
    stock.take(Step::Assign { employee_id: stock.anna }).await.unwrap();
    let mut tx = stock.world.tenant().await;
    let stored: String = sqlx::query_scalar(
        "select (select string_agg(concat_ws(' ', to_jsonb(t), encode(amount, 'escape'), encode(note, 'escape')), ' ')
                 from asset_transactions t) || (select string_agg(payload::text, ' ') from events)",
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    assert!(!stored.contains("planted") && !stored.contains("24995") && !stored.contains("Anna"), "{stored}");
}

/// ASSET-4: hand-written SQL, as the organization's role and as the owner of the table.
#[tokio::test]
async fn nobody_changes_the_history() {
    let stock = Stock::new().await;
    stock.take(Step::Assign { employee_id: stock.anna }).await.unwrap();
    let before = stock.history(Of::Asset(stock.laptop)).await;
    for sql in [
        "update asset_transactions set actor = 'nobody'",
        "update asset_transactions set to_employee_id = null where kind = 'assigned'",
        "delete from asset_transactions",
        "truncate asset_transactions",
        "delete from assets",
        "alter table asset_transactions disable trigger all",
        "drop trigger asset_transactions_append_only on asset_transactions",
        "drop table asset_transactions",
    ] {
        let refused = stock.world.tenant().await.execute(sql).await.unwrap_err();
        let code = refused.as_database_error().unwrap().code().unwrap().into_owned();
        // insufficient_privilege; foreign_key_violation
        let expected = if sql == "delete from assets" { "23503" } else { "42501" };
        assert_eq!(code, expected, "{sql}: {refused}");
    }
    for sql in [
        "update org_acme.asset_transactions set actor = 'nobody'",
        "delete from org_acme.asset_transactions",
        "truncate org_acme.asset_transactions",
    ] {
        let refused = stock.world.app.db.execute(sql).await.unwrap_err();
        // restrict_violation, by the trigger
        assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("23001"), "{sql}: {refused}");
    }
    assert_eq!(stock.history(Of::Asset(stock.laptop)).await, before);
}

/// ASSET-4: the first has not committed when the second asks.
#[tokio::test]
async fn an_asset_is_not_assigned_twice_by_two_at_once() {
    let stock = Stock::new().await;
    let asked = asked_by("test", stock.world.now());
    let mut first = stock.world.tenant().await;
    let to_anna = Step::Assign { employee_id: stock.anna };
    step(&mut first, stock.sealer(), (stock.laptop, &to_anna), (ASSIGNS, &asked)).await.unwrap().unwrap();
    let second = async {
        let mut tx = stock.world.tenant().await;
        let to_bo = Step::Assign { employee_id: stock.bo };
        let refused = step(&mut tx, stock.sealer(), (stock.laptop, &to_bo), (ASSIGNS, &asked)).await;
        assert!(matches!(refused, Err(StoreError::Asset(Refusal::Assigned))), "{refused:?}");
    };
    let commits = async {
        // As soon as the second one waits for the first one's row.
        let waits = "select exists (select from pg_locks where not granted and locktype in ('transactionid', 'tuple'))";
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&stock.world.app.db).await.unwrap() {
            tokio::task::yield_now().await;
        }
        first.commit().await.unwrap();
    };
    tokio::join!(second, commits);

    let rows = stock.history(Of::Asset(stock.laptop)).await;
    assert_eq!(rows.iter().filter(|row| row.to_employee_id.is_some()).count(), 1);
}

/// ASSET-4: many at once, over and over.
#[tokio::test]
async fn of_many_who_assign_an_asset_at_once_exactly_one_succeeds() {
    let stock = Stock::new().await;
    for round in 0..5 {
        let tries =
            (0..4).map(|n| stock.take(Step::Assign { employee_id: if n % 2 == 0 { stock.anna } else { stock.bo } }));
        let ends = futures::future::join_all(tries).await;
        assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1, "round {round}: {ends:?}");
        for refused in ends.into_iter().filter_map(Result::err) {
            assert!(matches!(refused, StoreError::Asset(Refusal::Assigned)), "{refused:?}");
        }
        stock.take(Step::Return { location_id: None, condition: None }).await.unwrap();
    }
    assert_eq!(stock.history(Of::Asset(stock.laptop)).await.len(), 1 + 5 * 2);
}

/// ASSET-4
#[tokio::test]
async fn nothing_is_given_to_who_is_gone_nor_put_where_nobody_goes() {
    let stock = Stock::new().await;
    let mut tx = stock.world.tenant().await;
    let asked = people::doors::Asked { actor: "test", now: stock.world.now(), trace: None };
    let whose = (&stock.world.organization, stock.sealer());
    people::doors::terminate_employee(&mut tx, whose, (stock.bo, stock.world.today()), &asked).await.unwrap();
    tx.execute("update locations set active = false").await.unwrap();
    tx.commit().await.unwrap();

    let gone = stock.take(Step::Assign { employee_id: stock.bo }).await;
    assert!(matches!(gone, Err(StoreError::Asset(Refusal::HolderGone))), "{gone:?}");
    let closed = stock.take(Step::Transfer { employee_id: None, location_id: Some(stock.store_room) }).await;
    assert!(matches!(closed, Err(StoreError::Asset(Refusal::Closed))), "{closed:?}");
    let nobody = stock.take(Step::Assign { employee_id: Uuid::now_v7() }).await;
    assert!(matches!(nobody, Err(StoreError::Conflict { field: "employee_id", .. })), "{nobody:?}");
    let nowhere = stock.take(Step::Transfer { employee_id: None, location_id: Some(Uuid::now_v7()) }).await;
    assert!(matches!(nowhere, Err(StoreError::Conflict { field: "location_id", .. })), "{nowhere:?}");
    assert_eq!(stock.history(Of::Asset(stock.laptop)).await.len(), 1, "a refusal leaves nothing");
}

/// ASSET-4: somebody who is being terminated gets nothing after their offboarding has looked at what they hold.
#[tokio::test]
async fn a_termination_and_an_assignment_at_once_take_turns() {
    let stock = Stock::new().await;
    let asked = asked_by("test", stock.world.now());
    let mut assigns = stock.world.tenant().await;
    let to_bo = Step::Assign { employee_id: stock.bo };
    step(&mut assigns, stock.sealer(), (stock.laptop, &to_bo), (ASSIGNS, &asked)).await.unwrap();
    let mut terminates = tenant::begin(&stock.world.app.db, &stock.world.organization).await.unwrap();
    terminates.execute("set local lock_timeout = '50ms'").await.unwrap();
    let waits = terminates.execute("update employees set status = 'terminated'").await.unwrap_err();
    assert_eq!(waits.as_database_error().unwrap().code().as_deref(), Some("55P03"), "lock_not_available: {waits}");
}
