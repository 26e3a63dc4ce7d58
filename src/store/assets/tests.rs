//! Assets on a real database: what is sealed, what is found, and by which index.

use rust_decimal::dec;
use sqlx::{AssertSqlSafe, Executor};

use super::*;
use crate::{
    domain::Organization,
    tenant::{self, TenantTx, testing::TestDatabase},
    vault::a_vault,
};

fn laptop(serial: &str) -> NewAsset {
    NewAsset {
        name: "Laptop".to_owned(),
        category: Some("laptop".to_owned()),
        serial_number: Some(SerialNumber::parse(serial).unwrap()),
        purchase: Purchase {
            cost: Some(dec!(24995.50)),
            residual_value: Some(dec!(1000)),
            book_value: None,
            purchase_order: Some("PO-planted-1".to_owned()),
            invoice_number: Some("INV-planted-2".to_owned()),
        },
        labels: vec!["it".to_owned()],
        custom: BTreeMap::from([("room".to_owned(), serde_json::json!("4:12"))]),
        ..NewAsset::default()
    }
}

async fn open(database: &TestDatabase) -> (Organization, TenantTx) {
    let organization = database.organization("acme").await;
    let tx = tenant::begin(&database.pool, &organization).await.unwrap();
    (organization, tx)
}

/// ASSET-3, VAULT-1, VAULT-3, VAULT-4
#[tokio::test]
async fn what_is_sealed_cannot_be_read_and_the_serial_number_is_found_again() {
    let database = TestDatabase::new().await;
    let (organization, mut tx) = open(&database).await;
    let (vault, now) = (a_vault(), organization.created_at);
    let sealer = Sealer::new(&vault, "acme");

    let made = insert(&mut tx, sealer, (&laptop("C02 planted3"), Custody::default()), now).await.unwrap();
    insert(&mut tx, sealer, (&laptop("C02planted4"), Custody::default()), now).await.unwrap();

    let stored: String = sqlx::query_scalar(
        "select string_agg(concat_ws(' ', to_jsonb(a), encode(serial_number, 'escape'), encode(serial_index, 'escape'),
             encode(cost, 'escape'), encode(purchase_order, 'escape'), encode(invoice_number, 'escape')), ' ')
         from assets a",
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    for secret in ["planted", "PLANTED", "24995"] {
        assert!(!stored.contains(secret), "{secret} is readable in {stored}");
    }
    assert_eq!(by_id(&mut tx, sealer, made.id).await.unwrap().as_ref(), Some(&made));
    for (serial, found) in [("c02PLANTED3", 1), ("C02 planted", 0), ("C02planted5", 0)] {
        let filter = AssetFilter { serial_number: Some(serial.parse().unwrap()), ..AssetFilter::default() };
        let page = page(&mut tx, sealer, &filter, Page::first(10)).await.unwrap();
        assert_eq!(page.len(), found, "{serial}");
        assert!(page.iter().all(|asset| asset.id == made.id));
    }
    let foreign = Sealer::new(&vault, "other");
    assert!(matches!(by_id(&mut tx, foreign, made.id).await, Err(StoreError::Vault(_))));
}

/// ASSET-3
#[tokio::test]
async fn a_tag_is_counted_on_around_those_that_were_given_by_hand() {
    let database = TestDatabase::new().await;
    let (organization, mut tx) = open(&database).await;
    let (vault, now) = (a_vault(), organization.created_at);
    let sealer = Sealer::new(&vault, "acme");
    let by_hand = NewAsset { tag: Some(AssetTag::parse("a-00002").unwrap()), ..laptop("1") };
    insert(&mut tx, sealer, (&by_hand, Custody::default()), now).await.unwrap();

    let mut made = Vec::new();
    for serial in ["2", "3"] {
        made.push(insert(&mut tx, sealer, (&laptop(serial), Custody::default()), now).await.unwrap().tag);
    }
    made.extend(new_tags(&mut tx, 3).await.unwrap());

    let tags: Vec<&str> = made.iter().map(AssetTag::as_str).collect();
    assert_eq!(tags, ["A-00001", "A-00003", "A-00004", "A-00005", "A-00006"]);
    let again = insert(&mut tx, sealer, (&by_hand, Custody::default()), now).await;
    assert!(matches!(again, Err(StoreError::Conflict { field: "tag", .. })), "{again:?}");
}

/// ASSET-3: several processes make assets at once.
#[tokio::test]
async fn many_who_ask_for_a_tag_at_once_get_different_ones() {
    let database = TestDatabase::new().await;
    let organization = database.organization("acme").await;
    let one = async || {
        let mut tx = tenant::begin(&database.pool, &organization).await.unwrap();
        let tags = new_tags(&mut tx, 2).await.unwrap();
        tx.commit().await.unwrap();
        tags
    };
    let mut tags: Vec<AssetTag> =
        futures::future::join_all((0..6).map(|_| one())).await.into_iter().flatten().collect();
    tags.sort_unstable();
    let expected: Vec<AssetTag> = (1..=12).map(AssetTag::numbered).collect();
    assert_eq!(tags, expected);
}

/// ASSET-3
#[tokio::test]
async fn assets_are_found_by_tag_prefix_status_category_and_place() {
    let database = TestDatabase::new().await;
    let (organization, mut tx) = open(&database).await;
    let (vault, now) = (a_vault(), organization.created_at);
    let sealer = Sealer::new(&vault, "acme");
    for (tag, category, status) in [
        ("IT-001", "laptop", AssetStatus::InStock),
        ("IT-002", "phone", AssetStatus::OnOrder),
        ("IT_%02", "phone", AssetStatus::InStock),
        ("HR-001", "laptop", AssetStatus::InStock),
    ] {
        let Ok(tag) = AssetTag::parse(tag) else { continue };
        let new = NewAsset { tag: Some(tag), category: Some(category.to_owned()), ..laptop("1") };
        insert(&mut tx, sealer, (&new, Custody { status, ..Custody::default() }), now).await.unwrap();
    }
    let all = AssetFilter::default;
    for (filter, found) in [
        (AssetFilter { tag_prefix: Some("it-".to_owned()), ..all() }, vec!["IT-001", "IT-002"]),
        (AssetFilter { tag_prefix: Some("I%".to_owned()), ..all() }, vec![]),
        (AssetFilter { tag_prefix: Some(String::new()), ..all() }, vec!["IT-001", "IT-002", "HR-001"]),
        (AssetFilter { tag: Some(AssetTag::parse("hr-001").unwrap()), ..all() }, vec!["HR-001"]),
        (AssetFilter { tag: Some(AssetTag::parse("hr-00").unwrap()), ..all() }, vec![]),
        (AssetFilter { status: Some(AssetStatus::OnOrder), ..all() }, vec!["IT-002"]),
        (AssetFilter { category: Some("Laptop".to_owned()), ..all() }, vec!["IT-001", "HR-001"]),
        (AssetFilter { location_id: Some(Uuid::now_v7()), ..all() }, vec![]),
    ] {
        let page = page(&mut tx, sealer, &filter, Page::first(10)).await.unwrap();
        let tags: Vec<&str> = page.iter().map(|asset| asset.tag.as_str()).collect();
        assert_eq!(tags, found, "{filter:?}");
    }
}

/// Runs the page's statement in a plan of its own for the parameters, and answers the indexes that it used.
async fn plan(tx: &mut TenantTx, condition: &str) -> String {
    let sql = format!("explain (costs off) select * from assets where {condition} order by id limit 51");
    let lines: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut **tx).await.unwrap();
    lines.join("\n")
}

/// ASSET-3: 100,000 assets are searched by an index, whatever is asked for. The figures are `bin/bench sync`'s.
#[tokio::test]
async fn every_search_of_many_assets_has_its_index() {
    let database = TestDatabase::new().await;
    let (organization, mut tx) = open(&database).await;
    tx.execute(
        "insert into employees (id, first_name, last_name, status, created_at, updated_at)
         select gen_random_uuid(), '', '', 'active', now(), now() from generate_series(1, 500);
         insert into assets (id, tag, name, category, status, serial_index, employee_id, created_at, updated_at)
         select gen_random_uuid(), 'A-' || lpad(n::text, 6, '0'), 'Laptop', 'laptop',
                case when e.id is null then 'in_stock' else 'assigned' end, sha256(n::text::bytea), e.id, now(), now()
         from generate_series(1, 20000) n
              left join (select id, row_number() over () as place from employees) e on place = n % 1000",
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
    // As its owner: a tenant's role may not.
    database.pool.execute("analyze org_acme.assets").await.unwrap();
    let mut tx = tenant::begin(&database.pool, &organization).await.unwrap();
    let employee: Uuid = sqlx::query_scalar("select id from employees limit 1").fetch_one(&mut *tx).await.unwrap();
    for (condition, index) in [
        ("tag = 'A-000777'".to_owned(), "assets_tag"),
        ("tag ~<~ 'A-00077\u{10FFFF}' and tag ~>=~ 'A-00077'".to_owned(), "assets_tag_prefix_idx"),
        ("serial_index = sha256('777'::bytea)".to_owned(), "assets_serial_index_idx"),
        (format!("employee_id = '{employee}'"), "assets_employee_id_idx"),
        ("status = 'stolen'".to_owned(), "assets_status_idx"),
        ("category = 'drill'".to_owned(), "assets_category_idx"),
        ("true".to_owned(), "assets_pkey"),
    ] {
        let plan = plan(&mut tx, &condition).await;
        assert!(plan.contains(index) && !plan.contains("Seq Scan"), "{condition}:\n{plan}");
    }
}

/// ASSET-4: where an asset stands is one of the database's own rules, too.
#[tokio::test]
async fn the_database_knows_no_holder_of_what_is_not_assigned() {
    let database = TestDatabase::new().await;
    let (organization, mut tx) = open(&database).await;
    let vault = a_vault();
    let sealer = Sealer::new(&vault, "acme");
    insert(&mut tx, sealer, (&laptop("1"), Custody::default()), organization.created_at).await.unwrap();
    let wrong = tx.execute("update assets set status = 'assigned'").await.unwrap_err();
    assert_eq!(wrong.as_database_error().unwrap().constraint(), Some("assets_holder_check"));
}
