//! Finance systems from end to end: the job, the engine, the clients, and their fakes over real HTTP.

use backroom_queue::Outcome;
use chrono::Duration;
use serde_json::Value;
use uuid::Uuid;

use super::{SyncIntegration, create_integration};
use crate::{
    demo::vendors::{netsuite::NetSuite, quickbooks::QuickBooks},
    domain::{
        Invoice,
        asset::Step,
        integration::{Integration, IntegrationStatus, NewIntegration, Provider, SyncMode, SyncTrigger},
    },
    jobs::{
        assets::doors::{self, Asked, Remark},
        testing::World,
    },
    store::{Sealer, integrations, invoices},
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
        let name = "Books".to_owned();
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

    /// Time passes, and what has changed is read.
    async fn sync(&self) -> Report {
        self.sync_as(None).await
    }

    async fn sync_as(&self, mode: Option<SyncMode>) -> Report {
        self.world.app.clock.advance(Duration::minutes(10));
        match self.run(mode).await {
            Outcome::Completed { result: Some(result) } => serde_json::from_value(result).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn assets(&self) -> String {
        let sql = "select string_agg(external_id || ' ' || status, ', ' order by external_id) from assets";
        let found: Option<String> = sqlx::query_scalar(sql).fetch_one(&mut *self.world.tenant().await).await.unwrap();
        found.unwrap_or_default()
    }

    /// Somebody gets it.
    async fn give_away(&self, external_id: &str) {
        let mut tx = self.world.tenant().await;
        let employee = Uuid::now_v7();
        let sql = "insert into employees (id, first_name, last_name, status, created_at, updated_at)
                   values ($1, '', '', 'active', now(), now())";
        sqlx::query(sql).bind(employee).execute(&mut *tx).await.unwrap();
        let sql = "select id from assets where external_id = $1";
        let asset: Uuid = sqlx::query_scalar(sql).bind(external_id).fetch_one(&mut *tx).await.unwrap();
        let (sealer, asked) = (Sealer::new(&self.world.app.vault, "acme"), Asked::by("test", self.world.now()));
        let step = Step::Assign { employee_id: employee };
        doors::step(&mut tx, sealer, (asset, &step), (Remark::default(), &asked)).await.unwrap().unwrap();
        tx.commit().await.unwrap();
    }

    /// What a run named.
    async fn failures(&self, run_id: Uuid) -> String {
        let sql = "select string_agg(external_id || ': ' || reason, '; ') from sync_failures where run_id = $1";
        sqlx::query_scalar(sql).bind(run_id).fetch_one(&mut *self.world.tenant().await).await.unwrap()
    }

    async fn invoice(&self, number: &str) -> Invoice {
        invoices::by_number(&mut *self.world.tenant().await, number).await.unwrap().unwrap()
    }

    async fn integration(&self) -> Integration {
        integrations::by_id(&mut *self.world.tenant().await, self.integration_id).await.unwrap().unwrap()
    }
}

/// SYNC-10, BILL-10, SYNC-3: laptops are bought and come to be assets, an invoice is sent and paid, a purchase is deleted.
#[tokio::test]
async fn what_is_in_quickbooks_stays_in_step() {
    let world = world().await;
    world.invoice("F-1", "kund@example.se", 1).await;
    let books = QuickBooks::start(world.app.clock.clone()).await.unwrap();
    let rig = Rig::of(world, Provider::QuickBooks, books.config(), books.credentials()).await;
    let purchase = books.buy_laptops(2, "3000");
    let invoice = books.invoice("Q-1", ("Kund & Co", "kund@example.se"), 1000);
    books.invoice("Q-2", ("Nobody we know", "nobody@example.se"), 1000);

    let first = rig.sync().await.counts;
    let again = rig.sync().await.counts;

    // The purchase itself is one: it says that there are no other laptops.
    assert_eq!((first.read, first.created, first.failed), (5, 3, 1));
    assert_eq!((again.created, again.updated), (0, 0));
    assert_eq!(rig.assets().await, "purchase-1:1:1 in_stock, purchase-1:1:2 in_stock");
    assert_eq!(rig.invoice("Q-1").await.status.as_str(), "unpaid");
    books.pay(invoice);
    books.delete("Purchase", purchase);
    assert_eq!(rig.sync().await.counts.updated, 2);
    assert_eq!(rig.assets().await, "purchase-1:1:1 retired, purchase-1:1:2 retired");
    assert_eq!(rig.invoice("Q-1").await.status.as_str(), "paid");
    assert_eq!((books.renewals(), rig.integration().await.status), (1, IntegrationStatus::Healthy));
}

/// SYNC-10: reading everything does not tell what is not there; what was deleted before it, the run after it tells.
#[tokio::test]
async fn what_was_deleted_before_everything_was_read_anew_is_not_missed() {
    let world = world().await;
    let books = QuickBooks::start(world.app.clock.clone()).await.unwrap();
    let rig = Rig::of(world, Provider::QuickBooks, books.config(), books.credentials()).await;
    let purchase = books.buy_laptops(1, "1500");
    rig.sync().await;
    books.delete("Purchase", purchase);

    rig.sync_as(Some(SyncMode::Full)).await;
    assert_eq!(rig.assets().await, "purchase-1:1:1 in_stock");
    assert_eq!(rig.sync().await.counts.updated, 1);
    assert_eq!(rig.assets().await, "purchase-1:1:1 retired");
}

/// SYNC-6: tokens rotate with every renewal; a consent that is withdrawn needs a person, once.
#[tokio::test]
async fn tokens_of_quickbooks_rotate_until_the_consent_is_withdrawn() {
    let world = world().await;
    let books = QuickBooks::start(world.app.clock.clone()).await.unwrap();
    let rig = Rig::of(world, Provider::QuickBooks, books.config(), books.credentials()).await;
    for _ in 0..3 {
        rig.sync().await;
        rig.world.app.clock.advance(Duration::hours(1));
    }
    books.expire_tokens();
    rig.sync().await;
    assert_eq!(books.renewals(), 4);
    books.revoke();
    rig.run(None).await;
    assert_eq!(rig.integration().await.status, IntegrationStatus::NeedsAttention);
    let asked = books.fake.script.asked().len();
    rig.run(None).await;
    assert_eq!(books.fake.script.asked().len(), asked, "it is left alone");
}

/// SYNC-9: by either kind of credentials; what is ordered comes into stock, and a fixed asset is written off.
#[tokio::test]
async fn what_is_in_netsuite_stays_in_step() {
    for by_token in [true, false] {
        let world = world().await;
        let suite = NetSuite::start(world.app.clock.clone()).await.unwrap();
        let credentials = if by_token { suite.credentials() } else { suite.oauth_credentials() };
        let rig = Rig::of(world, Provider::NetSuite, suite.config(), credentials).await;
        let order = suite.order("PO1001", 2, "1500");
        let asset = suite.capitalize("Server", "SN-77", "90000");

        let first = rig.sync().await.counts;
        let again = rig.sync().await.counts;

        assert_eq!((first.created, first.failed, again.created, again.updated), (3, 0, 0, 0));
        assert_eq!(rig.assets().await, "fam-12 in_stock, po-501:1:1 on_order, po-501:1:2 on_order");
        suite.change_order(order, "tl.quantityshiprecv", "1");
        suite.change_asset(asset, "(custrecord_assetstatus)", "Disposed");
        assert_eq!(rig.sync().await.counts.updated, 2);
        assert_eq!(rig.assets().await, "fam-12 retired, po-501:1:1 in_stock, po-501:1:2 on_order");
    }
}

/// SYNC-10, SYNC-3: fewer laptops are bought than was said, then more again, and in the end none.
#[tokio::test]
async fn a_purchase_that_shrinks_takes_back_what_was_never_in_use() {
    let world = world().await;
    let books = QuickBooks::start(world.app.clock.clone()).await.unwrap();
    let rig = Rig::of(world, Provider::QuickBooks, books.config(), books.credentials()).await;
    let purchase = books.buy_laptops(3, "3000");
    rig.sync().await;
    rig.give_away("purchase-1:1:3").await;
    books.requantify(purchase, 1, "1000");

    let shrunk = rig.sync().await;
    books.change("Purchase", purchase, serde_json::json!({}));
    let again = rig.sync().await.counts;

    assert_eq!((shrunk.counts.updated, shrunk.counts.failed), (0, 1));
    assert_eq!((again.created, again.updated, again.failed), (0, 0, 0));
    assert_eq!(rig.assets().await, "purchase-1:1:1 in_stock, purchase-1:1:2 retired, purchase-1:1:3 assigned");
    let named = rig.failures(shrunk.run_id).await;
    assert!(named.starts_with("purchase-1: ") && named.contains("A-00003"), "{named}");

    books.requantify(purchase, 2, "2000");
    rig.sync().await;
    assert_eq!(rig.assets().await, "purchase-1:1:1 in_stock, purchase-1:1:2 in_stock, purchase-1:1:3 assigned");
    books.change("Purchase", purchase, serde_json::json!({ "Line": [] }));
    assert_eq!(rig.sync().await.counts.updated, 1);
    books.change("Purchase", purchase, serde_json::json!({}));
    assert_eq!(rig.sync().await.counts.updated, 0);
    assert_eq!(rig.assets().await, "purchase-1:1:1 retired, purchase-1:1:2 retired, purchase-1:1:3 assigned");
}

/// SYNC-9: an order of NetSuite's loses pieces, and a line.
#[tokio::test]
async fn an_order_that_shrinks_takes_back_what_never_came() {
    let world = world().await;
    let suite = NetSuite::start(world.app.clock.clone()).await.unwrap();
    let rig = Rig::of(world, Provider::NetSuite, suite.config(), suite.credentials()).await;
    let order = suite.order("PO1001", 2, "1500");
    suite.add_line(order, 2);
    rig.sync().await;
    suite.change_order(order, "tl.quantity", "1");
    rig.sync().await;
    let shrunk = "po-501:1:1 on_order, po-501:1:2 retired, po-501:2:1 on_order, po-501:2:2 on_order";
    assert_eq!(rig.assets().await, shrunk);

    suite.drop_line(order, 2);
    let dropped = rig.sync().await.counts;
    let again = rig.sync().await.counts;

    assert_eq!((dropped.updated, dropped.failed, again.updated, again.failed), (1, 0, 0, 0));
    let dropped = "po-501:1:1 on_order, po-501:1:2 retired, po-501:2:1 retired, po-501:2:2 retired";
    assert_eq!(rig.assets().await, dropped);
}
