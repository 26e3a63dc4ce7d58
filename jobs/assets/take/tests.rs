//! Assets of a source on a real database.

use rust_decimal::dec;

use super::*;
use crate::{
    domain::{Asset, AssetTag, Currency, asset::Step},
    jobs::{
        assets::doors::{self, Asked, Remark},
        testing::World,
    },
    store::{Page, asset_transactions::Of, assets::AssetFilter, from_source::Source},
};

const SOURCE: Source = Source { integration_id: Uuid::from_u128(9) };

struct Books {
    world: World,
}

impl Books {
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

    async fn take(&self, records: &[(&str, AssetFacts)]) -> Vec<Outcome> {
        let records: Vec<_> = records.iter().map(|(id, facts)| ((*id).to_owned(), facts.clone())).collect();
        let mut tx = self.world.tenant().await;
        let taken = take_assets(&mut tx, self.sealer(), &self.taking(), &records).await.unwrap();
        tx.commit().await.unwrap();
        taken.into_iter().map(|taken| taken.outcome).collect()
    }

    async fn gone(&self, external_ids: &[&str]) -> Vec<Outcome> {
        self.gone_as(external_ids, Gone::Removed).await
    }

    async fn gone_as(&self, external_ids: &[&str], why: Gone) -> Vec<Outcome> {
        let ids: Vec<_> = external_ids.iter().map(|id| (*id).to_owned()).collect();
        let mut tx = self.world.tenant().await;
        let taken = assets_gone(&mut tx, self.sealer(), &self.taking(), (&ids, why)).await.unwrap();
        tx.commit().await.unwrap();
        taken.into_iter().map(|taken| taken.outcome).collect()
    }

    async fn all(&self) -> Vec<Asset> {
        let filter = AssetFilter::default();
        assets::page(&mut *self.world.tenant().await, self.sealer(), &filter, Page::first(100)).await.unwrap()
    }

    async fn only(&self) -> Asset {
        let mut all = self.all().await;
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    async fn told(&self, id: Uuid) -> (Vec<String>, Vec<&'static str>) {
        let mut tx = self.world.tenant().await;
        let events = events::page(&mut tx, Some(&topic(id)), Page::first(100)).await.unwrap();
        let rows = asset_transactions::page(&mut tx, self.sealer(), Of::Asset(id), Page::first(100)).await.unwrap();
        let moves = rows.iter().map(|row| row.to_status.as_str()).collect();
        (events.into_iter().map(|event| event.kind).collect(), moves)
    }

    /// Somebody gets the asset.
    async fn assign(&self, id: Uuid) {
        let employee = Uuid::now_v7();
        let mut tx = self.world.tenant().await;
        sqlx::query(
            "insert into employees (id, first_name, last_name, status, created_at, updated_at)
             values ($1, '', '', 'active', now(), now())",
        )
        .bind(employee)
        .execute(&mut *tx)
        .await
        .unwrap();
        self.step_in(&mut tx, (id, Step::Assign { employee_id: employee })).await;
        tx.commit().await.unwrap();
    }

    async fn step_in(&self, db: &mut PgConnection, (id, step): (Uuid, Step)) {
        let said = (Remark::default(), &Asked::by("test", self.world.now()));
        doors::step(db, self.sealer(), (id, &step), said).await.unwrap().unwrap();
    }
}

fn laptop() -> AssetFacts {
    AssetFacts {
        name: "MacBook Pro 14".to_owned(),
        category: Some("Laptop".to_owned()),
        serial_number: Some("C02 planted".to_owned()),
        cost: Some(dec!(24995.50)),
        currency: Some(Currency::parse("EUR").unwrap()),
        purchase_order: Some("PO-1".to_owned()),
        ..AssetFacts::default()
    }
}

fn told(status: SourceAssetStatus) -> AssetFacts {
    AssetFacts { status, ..laptop() }
}

/// SYNC-4, ASSET-3
#[tokio::test]
async fn a_purchase_becomes_an_asset_with_a_tag_and_a_history() {
    let books = Books::new().await;

    let outcomes = books.take(&[("1", laptop()), ("2", AssetFacts { serial_number: None, ..laptop() })]).await;

    let all = books.all().await;
    let tags: Vec<&str> = all.iter().map(|asset| asset.tag.as_str()).collect();
    assert_eq!(tags, ["A-00001", "A-00002"]);
    assert_eq!(outcomes, [Outcome::Created(all[0].id), Outcome::Created(all[1].id)]);
    let facts = &all[0].facts;
    assert_eq!((facts.category.as_deref(), facts.purchase.cost), (Some("laptop"), Some(dec!(24995.50))));
    assert_eq!(facts.currency.as_str(), "EUR");
    let mut tx = books.world.tenant().await;
    let rows = asset_transactions::page(&mut tx, books.sealer(), Of::Asset(all[0].id), Page::first(9)).await.unwrap();
    assert_eq!((rows.len(), rows[0].amount, rows[0].actor.as_str()), (1, Some(dec!(24995.50)), "job:1"));
    assert_eq!(books.take(&[("1", laptop())]).await, [Outcome::Unchanged]);
    assert_eq!(books.told(all[0].id).await, (vec!["asset.created".to_owned()], vec!["in_stock"]));
}

/// ASSET-3, ASSET-4: what a finance system may say of where an asset is.
#[tokio::test]
async fn a_source_lets_things_arrive_and_retire_and_takes_nothing_out_of_hands() {
    use AssetStatus as A;
    use SourceAssetStatus as S;
    let to = |status, said| {
        let employee_id = (status == A::Assigned).then(Uuid::now_v7);
        let before = Custody { status, employee_id, ..Custody::default() };
        let after = after(Some(before), said);
        assert_eq!(after.employee_id, employee_id, "{status}");
        after.status
    };
    for status in A::ALL.iter().copied() {
        let arrives = if status == A::OnOrder { A::InStock } else { status };
        let retires = if status == A::Assigned { A::Assigned } else { A::Retired };
        assert_eq!((to(status, S::InStock), to(status, S::Retired)), (arrives, retires), "{status}");
        assert_eq!(to(status, S::OnOrder), status);
    }
    for said in [S::OnOrder, S::InStock, S::Retired] {
        assert_eq!(after(None, said).status, said.into());
    }
}

/// ASSET-4
#[tokio::test]
async fn an_asset_arrives_is_given_away_and_stays_there_whatever_the_books_say() {
    let books = Books::new().await;
    books.take(&[("1", told(SourceAssetStatus::OnOrder))]).await;
    let id = books.only().await.id;
    books.take(&[("1", told(SourceAssetStatus::InStock))]).await;
    books.assign(id).await;

    let outcome = books.take(&[("1", AssetFacts { name: "Mac".to_owned(), ..told(SourceAssetStatus::Retired) })]).await;

    assert_eq!(outcome, [Outcome::Updated(id)]);
    let asset = books.only().await;
    assert_eq!((asset.custody.status, asset.facts.name.as_str()), (AssetStatus::Assigned, "Mac"));
    let (events, moves) = books.told(id).await;
    assert_eq!(moves, ["on_order", "in_stock", "assigned"]);
    assert_eq!(events, ["asset.created", "asset.status_changed", "asset.assigned", "asset.changed"]);
}

/// ASSET-3, SYNC-4: what the source says nothing of stays.
#[tokio::test]
async fn a_change_keeps_what_the_source_does_not_tell() {
    let books = Books::new().await;
    books.take(&[("1", laptop())]).await;
    books.take(&[("1", AssetFacts { name: "Mac".to_owned(), ..AssetFacts::default() })]).await;
    let asset = books.only().await;
    let facts = asset.facts;
    assert_eq!((facts.name.as_str(), facts.category.as_deref()), ("Mac", Some("laptop")));
    assert_eq!(facts.serial_number.unwrap().as_str(), "C02 planted");
    assert_eq!((facts.purchase.cost, facts.currency.as_str()), (laptop().cost, "EUR"));
}

/// ASSET-3: by hand first, from the books later.
#[tokio::test]
async fn what_was_written_down_by_hand_is_taken_over_by_the_serial_number() {
    let books = Books::new().await;
    let mut tx = books.world.tenant().await;
    let by_hand = NewAsset {
        tag: Some(AssetTag::parse("IT-7").unwrap()),
        name: "Laptop".to_owned(),
        serial_number: Some(SerialNumber::parse("c02PLANTED").unwrap()),
        ..NewAsset::default()
    };
    let asked = Asked::by("test", books.world.now());
    let id = doors::create_asset(&mut tx, books.sealer(), (&by_hand, Custody::default()), &asked).await.unwrap().id;
    tx.commit().await.unwrap();

    let outcomes = books.take(&[("1", laptop()), ("2", laptop())]).await;

    assert_eq!(outcomes[0], Outcome::Updated(id));
    assert!(matches!(outcomes[1], Outcome::Created(other) if other != id), "{outcomes:?}");
    let tags: Vec<_> = books.all().await.into_iter().map(|asset| asset.tag.to_string()).collect();
    assert_eq!(tags, ["IT-7", "A-00001"]);
}

/// ASSET-3, ASSET-4
#[tokio::test]
async fn what_is_gone_from_the_books_is_retired_but_not_out_of_somebody_s_hands() {
    let books = Books::new().await;
    let page = [("1", laptop()), ("2", AssetFacts { serial_number: None, ..laptop() })];
    books.take(&page).await;
    let [held, idle] = <[Asset; 2]>::try_from(books.all().await).unwrap().map(|asset| asset.id);
    books.assign(held).await;

    assert_eq!(books.gone(&["1", "2", "3"]).await, [Outcome::Unchanged, Outcome::Updated(idle), Outcome::Unchanged]);
    assert_eq!(books.gone(&["1", "2"]).await, [Outcome::Unchanged, Outcome::Unchanged]);

    let (events, moves) = books.told(held).await;
    assert_eq!(events, ["asset.created", "asset.assigned", "asset.gone_at_source"], "told once");
    assert_eq!(moves, ["in_stock", "assigned"]);
    assert_eq!(books.told(idle).await.1, ["in_stock", "retired"]);
    let mut tx = books.world.tenant().await;
    books.step_in(&mut tx, (held, Step::Return { location_id: None, condition: None })).await;
    tx.commit().await.unwrap();
    assert_eq!(books.gone(&["1"]).await, [Outcome::Updated(held)], "when it is back it is retired");
}

/// SYNC-9, SYNC-10, ASSET-4: a purchase that shrinks takes back what was never in use, and gives it again when it grows.
#[tokio::test]
async fn what_is_surplus_is_retired_unless_it_was_in_use_and_comes_back_when_it_is_not_surplus_any_more() {
    let books = Books::new().await;
    let plain = AssetFacts { serial_number: None, ..laptop() };
    let page = ["1", "2", "3", "4"].map(|id| (id, plain.clone()));
    books.take(&page).await;
    let [used, idle, broken, thrown] = <[Asset; 4]>::try_from(books.all().await).unwrap().map(|asset| asset.id);
    books.assign(used).await;
    let mut tx = books.world.tenant().await;
    books.step_in(&mut tx, (used, Step::Return { location_id: None, condition: None })).await;
    for (id, status) in [(broken, AssetStatus::InRepair), (thrown, AssetStatus::Retired)] {
        books.step_in(&mut tx, (id, Step::Become { status, condition: None })).await;
    }
    tx.commit().await.unwrap();
    let ids = ["1", "2", "3", "4"];

    let first = books.gone_as(&ids, Gone::Surplus).await;
    let again = books.gone_as(&ids, Gone::Surplus).await;

    let named = |outcome: &Outcome, tag: &str| matches!(outcome, Outcome::Refused(why) if why.contains(tag));
    assert!(named(&first[0], "A-00001") && named(&first[2], "A-00003"), "{first:?}");
    assert_eq!((&first[1], &first[3]), (&Outcome::Updated(idle), &Outcome::Unchanged));
    assert!(again.iter().all(|outcome| *outcome == Outcome::Unchanged), "{again:?}");
    books.take(&page).await;
    assert_eq!(books.take(&page).await, vec![Outcome::Unchanged; 4]);
    let status: Vec<_> = books.all().await.iter().map(|asset| asset.custody.status.as_str()).collect();
    assert_eq!(status, ["in_stock", "in_stock", "in_repair", "retired"], "what a person retired stays so");
    let mut tx = books.world.tenant().await;
    let rows = asset_transactions::page(&mut tx, books.sealer(), Of::Asset(idle), Page::first(9)).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.to_status.as_str(), row.note.as_deref())).collect();
    let notes = [Some("the purchase is over fewer things now"), Some("the source has it again")];
    assert_eq!(told, [("in_stock", None), ("retired", notes[0]), ("in_stock", notes[1])]);
}

/// ASSET-4: a corrected amount is no move: what the source took away it may give again.
#[tokio::test]
async fn a_corrected_amount_keeps_nothing_from_coming_back() {
    let books = Books::new().await;
    books.take(&[("1", laptop())]).await;
    let bought = books.only().await.custody;
    books.gone(&["1"]).await;
    let gone = books.only().await;
    let corrected = NewTransaction {
        asset_id: gone.id,
        kind: TransactionKind::CostChanged,
        from: Some(gone.custody),
        to: gone.custody,
        actor: "user:1",
        ip: None,
        user_agent: None,
        amount: None,
        note: None,
    };
    let mut tx = books.world.tenant().await;
    asset_transactions::append(&mut tx, books.sealer(), &[corrected], books.world.now()).await.unwrap();
    tx.commit().await.unwrap();

    books.take(&[("1", laptop())]).await;

    assert_eq!((gone.custody.status, books.only().await.custody), (AssetStatus::Retired, bought));
}

/// SYNC-9, VAULT-4
#[tokio::test]
async fn what_cannot_be_stored_is_refused_and_the_rest_is_stored() {
    let books = Books::new().await;
    let outcomes = books
        .take(&[
            ("1", AssetFacts { name: String::new(), ..laptop() }),
            ("2", AssetFacts { serial_number: Some("planted".repeat(50)), ..laptop() }),
            ("3", AssetFacts { cost: Some(dec!(-1)), ..laptop() }),
            ("4", laptop()),
        ])
        .await;
    for (outcome, field) in outcomes.iter().zip(["name", "serial_number", "cost"]) {
        let Outcome::Refused(reason) = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains(field) && !reason.contains("planted"), "{reason}");
    }
    assert!(matches!(outcomes[3], Outcome::Created(_)));
    assert_eq!(books.only().await.tag.as_str(), "A-00001", "no number is lost to a refusal");
}
