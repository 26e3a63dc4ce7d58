//! Against the fake of the demo, over real HTTP.

use std::{collections::BTreeSet, time::Duration};

use chrono::{TimeZone, Utc};
use rust_decimal::dec;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::*;
use crate::{
    clients::http::{Content, HttpOptions, Method, header},
    demo::vendors::{Mood, netsuite::NetSuite as Fake},
    domain::source_record::{AssetFacts, Facts, Left, RecordKind, SourceAssetStatus, SourceRecord},
};

struct Bench {
    fake: Fake,
    clock: Clock,
    connector: Box<dyn Connector>,
    access: Access,
}

fn http() -> Http {
    let allow = vec!["127.0.0.0/8".parse().unwrap()];
    Http::new(HttpOptions { timeout: Duration::from_secs(30), body_limit: 1_048_576, allow }).unwrap()
}

fn connector(config: Value, credentials: &Value, clock: &Clock) -> Result<Box<dyn Connector>, FieldErrors> {
    let credentials = Credentials::parse(credentials.to_string().into()).unwrap();
    (VENDOR.connect)(Account { config, credentials, http: http(), clock: clock.clone() })
}

fn the_clock() -> Clock {
    Clock::fixed(Utc.with_ymd_and_hms(2026, 1, 16, 10, 30, 0).unwrap())
}

async fn bench_with(config: Value) -> Bench {
    let clock = the_clock();
    let fake = Fake::start(clock.clone()).await.unwrap();
    let mut all = fake.config();
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    let connector = connector(all, &fake.credentials(), &clock).unwrap();
    Bench { fake, clock, connector, access: Access::default() }
}

async fn bench() -> Bench {
    bench_with(json!({})).await
}

#[derive(Debug, Default)]
struct Read {
    records: Vec<SourceRecord>,
    left: Vec<Left>,
    bad: usize,
    pages: usize,
    total: Option<u64>,
    bookmark: Option<Value>,
}

impl Read {
    fn ids(&self) -> BTreeSet<&str> {
        self.records.iter().map(|record| record.external_id.as_str()).collect()
    }

    fn asset(&self, position: usize) -> &AssetFacts {
        match &self.records[position].facts {
            Facts::Asset(asset) => asset,
            other => panic!("{other:?}"),
        }
    }

    fn statuses(&self) -> Vec<SourceAssetStatus> {
        (0..self.records.len()).map(|position| self.asset(position).status).collect()
    }
}

impl Bench {
    async fn page(&self, stream: &'static str, from: &ReadFrom) -> Result<RecordPage, ConnectorError> {
        self.connector.read(&self.access, stream, from).await
    }

    async fn read(&self, stream: &'static str, mut from: ReadFrom) -> Read {
        let mut read = Read::default();
        loop {
            let page = self.page(stream, &from).await.unwrap();
            read.pages += 1;
            read.total = read.total.or(page.total);
            for record in page.records {
                match record {
                    Ok(SourceRecord { facts: Facts::Left(left), .. }) => read.left.push(left),
                    Ok(record) => read.records.push(record),
                    Err(_) => read.bad += 1,
                }
            }
            read.bookmark = page.bookmark;
            match page.next {
                Some(next) => from = ReadFrom::Page(next),
                None => return read,
            }
        }
    }

    async fn orders(&self) -> Read {
        self.read(PURCHASE_ORDERS, ReadFrom::Beginning).await
    }

    async fn error(&self, mood: Mood) -> ConnectorError {
        self.fake.fake.script.next("/suiteql", mood);
        self.page(PURCHASE_ORDERS, &ReadFrom::Beginning).await.err().unwrap()
    }
}

/// SYNC-9: two laptops are ordered, one comes, then the other.
#[tokio::test]
async fn what_is_ordered_becomes_assets_on_order_and_then_in_stock() {
    let bench = bench().await;
    let order = bench.fake.order("PO1001", 2, "1500.00");

    let read = bench.orders().await;

    assert_eq!(read.ids(), BTreeSet::from(["po-501:1:1", "po-501:1:2"]));
    let expected = AssetFacts {
        name: "Laptop 14in".to_owned(),
        model: Some("Laptop 14in".to_owned()),
        status: SourceAssetStatus::OnOrder,
        cost: Some(dec!(1500.00)),
        currency: Some(Currency::parse("USD").unwrap()),
        purchased_on: chrono::NaiveDate::from_ymd_opt(2026, 1, 16),
        purchase_order: Some("PO1001".to_owned()),
        supplier: Some("Example Supplies Ltd".to_owned()),
        ..AssetFacts::default()
    };
    assert_eq!(read.asset(1), &expected);
    use SourceAssetStatus::{InStock, OnOrder};
    bench.fake.change_order(order, "tl.quantityshiprecv", "1");
    assert_eq!(bench.orders().await.statuses(), [InStock, OnOrder]);
    bench.fake.change_order(order, "tl.quantityshiprecv", "2");
    assert_eq!(bench.orders().await.statuses(), [InStock, InStock]);
}

/// SYNC-9: rejected orders, and what never came of closed ones.
#[tokio::test]
async fn what_will_never_come_is_gone() {
    let bench = bench().await;
    let order = bench.fake.order("PO1001", 2, "1500.00");
    bench.fake.change_order(order, "tl.quantityshiprecv", "1");
    bench.fake.change_order(order, "t.status", "PurchOrd:H");
    let read = bench.orders().await;
    assert_eq!(read.asset(0).status, SourceAssetStatus::InStock);
    assert_eq!(read.records[1].facts, Facts::Gone(RecordKind::Asset));
    bench.fake.change_order(order, "t.status", "C");
    assert!(bench.orders().await.records.iter().all(|record| matches!(record.facts, Facts::Gone(_))));
}

/// SYNC-9: without a rule things are assets and services are not; with one it alone counts.
#[tokio::test]
async fn rules_say_which_lines_are_assets() {
    let rules = json!({ "rules": [{ "item": "Laptop*", "category": "laptop", "useful_life_months": 36 }] });
    let (plain, ruled) = (bench().await, bench_with(rules).await);
    for bench in [&plain, &ruled] {
        bench.fake.order("PO1", 1, "1500");
        let service = bench.fake.order("PO2", 1, "100");
        bench.fake.change_order(service, "tl.itemtype", "Service");
        bench.fake.change_order(service, "(tl.item)", "Set-up");
        let mouse = bench.fake.order("PO3", 1, "20");
        bench.fake.change_order(mouse, "(tl.item)", "Mouse");
    }
    assert_eq!(plain.orders().await.ids(), BTreeSet::from(["po-501:1:1", "po-503:1:1"]));
    let read = ruled.orders().await;
    assert_eq!(read.ids(), BTreeSet::from(["po-501:1:1"]));
    assert_eq!((read.asset(0).category.as_deref(), read.asset(0).useful_life_months), (Some("laptop"), Some(36)));
}

/// SYNC-2, SYNC-9: page after page by key; each call has what NetSuite asks for, and a nonce of its own.
#[tokio::test]
async fn pages_follow_each_other_by_key() {
    let bench = bench().await;
    for number in 0..450 {
        bench.fake.order(&format!("PO{number}"), 1, "1");
    }
    let read = bench.orders().await;
    assert_eq!((read.ids().len(), read.pages, read.total), (450, 3, Some(450)));
    // The first asks what changed last.
    let asked = bench.fake.fake.script.asked().split_off(1);
    assert!(asked.iter().all(|asked| asked.query == "limit=200&offset=0" && asked.headers["prefer"] == "transient"));
    let nonce = |asked: &crate::demo::vendors::Asked| {
        let header = asked.headers[header::AUTHORIZATION].to_str().unwrap().to_owned();
        header.split("oauth_nonce=").nth(1).unwrap()[..34].to_owned()
    };
    assert_eq!(asked.iter().map(nonce).collect::<BTreeSet<_>>().len(), 3);
}

/// SYNC-9: a page ends early where its lines order very many.
#[tokio::test]
async fn a_page_of_large_orders_is_cut() {
    let bench = bench().await;
    for _ in 0..3 {
        bench.fake.order("PO", 1_000, "1");
    }
    bench.fake.order("PO", 1_001, "1");
    let read = bench.orders().await;
    assert_eq!((read.ids().len(), read.bad, read.pages), (3_000, 1, 2));
}

/// SYNC-9: an order is told with all its lines, unless it has too many for a page, or only some of them changed.
#[tokio::test]
async fn an_order_tells_what_is_left_of_it() {
    let bench = bench().await;
    for _ in 0..199 {
        bench.fake.order("PO", 1, "1");
    }
    let order = bench.fake.order("PO", 2, "1");
    bench.fake.add_line(order, 2);
    let read = bench.orders().await;
    let left = read.left.last().unwrap();
    assert_eq!((read.pages, read.left.len()), (2, 200));
    assert!(left.has("2:2") && !left.has("2:3") && !left.has("3:1"), "{left:?}");

    bench.clock.advance(chrono::Duration::hours(5));
    bench.fake.change_order(order, "tl.quantity", "1");
    let read = bench.read(PURCHASE_ORDERS, ReadFrom::Since(read.bookmark.unwrap())).await;
    let left = read.left.last().unwrap();
    assert!(!left.has("1:2") && left.has("2:2"), "{left:?}");
    bench.clock.advance(chrono::Duration::hours(5));
    bench.fake.drop_line(order, 2);
    let read = bench.read(PURCHASE_ORDERS, ReadFrom::Since(read.bookmark.unwrap())).await;
    assert!(!read.left.last().unwrap().has("2:1"), "{:?}", read.left);

    for line in 2..=450 {
        bench.fake.add_line(order, line);
    }
    let read = bench.orders().await;
    assert_eq!(read.ids().len(), 649);
    let parts: Vec<_> = read.left.iter().filter(|left| !left.whole).collect();
    assert!(parts.len() > 1 && parts.iter().all(|left| left.has("900:1")), "nobody saw all of its lines at once");
}

/// SYNC-3: only what has changed, with an hour that is read twice.
#[tokio::test]
async fn an_incremental_run_reads_what_changed() {
    let bench = bench().await;
    let first = bench.fake.order("PO1", 1, "1");
    bench.clock.advance(chrono::Duration::hours(5));
    bench.fake.order("PO2", 1, "1");
    let full = bench.orders().await;
    bench.clock.advance(chrono::Duration::hours(5));
    bench.fake.order("PO3", 1, "1");

    let changed = bench.read(PURCHASE_ORDERS, ReadFrom::Since(full.bookmark.unwrap())).await;
    assert_eq!(changed.ids(), BTreeSet::from(["po-502:1:1", "po-503:1:1"]));
    bench.clock.advance(chrono::Duration::hours(5));
    bench.fake.change_order(first, "tl.rate", "2");
    let changed = bench.read(PURCHASE_ORDERS, ReadFrom::Since(changed.bookmark.unwrap())).await;
    assert_eq!(changed.ids(), BTreeSet::from(["po-501:1:1", "po-503:1:1"]));

    let odd = ReadFrom::Since(json!({ "latest": "'; --" }));
    assert!(matches!(bench.page(PURCHASE_ORDERS, &odd).await, Err(ConnectorError::CursorExpired)));
}

/// SYNC-3: what changes behind a run that lasts for hours is read by the next one, whatever changed before it since.
#[tokio::test]
async fn a_change_behind_a_long_run_is_read_by_the_next() {
    let bench = bench().await;
    for number in 0..450 {
        bench.fake.order(&format!("PO{number}"), 1, "1");
    }
    let first = bench.page(PURCHASE_ORDERS, &ReadFrom::Beginning).await.unwrap();
    bench.clock.advance(chrono::Duration::hours(2));
    bench.fake.change_order(501, "tl.rate", "2");
    bench.clock.advance(chrono::Duration::hours(3));
    bench.fake.change_order(950, "tl.rate", "2");
    let rest = bench.read(PURCHASE_ORDERS, ReadFrom::Page(first.next.unwrap())).await;

    let changed = bench.read(PURCHASE_ORDERS, ReadFrom::Since(rest.bookmark.unwrap())).await;
    assert!(changed.ids().is_superset(&BTreeSet::from(["po-501:1:1", "po-950:1:1"])));
}

/// SYNC-9: fields that an account does not have are left out, and the rest is read.
#[tokio::test]
async fn a_field_that_is_not_there_is_left_out() {
    let bench = bench().await;
    bench.fake.order("PO1", 1, "1500");
    bench.fake.hide("tl.itemtype");
    bench.fake.hide("tl.quantityshiprecv");
    let read = bench.orders().await;
    assert_eq!(read.statuses(), [SourceAssetStatus::OnOrder]);
    assert_eq!(bench.fake.fake.script.asked().len(), 4);
    bench.fake.hide("tl.rate");
    let error = bench.page(PURCHASE_ORDERS, &ReadFrom::Beginning).await.err().unwrap();
    assert!(matches!(&error, ConnectorError::Protocol(said) if !said.contains("rate")), "{error:?}");

    bench.fake.capitalize("Laptop", "SN-1", "1500");
    bench.fake.hide("lastmodified");
    let assets = bench.read(FIXED_ASSETS, ReadFrom::Beginning).await;
    assert_eq!((assets.records.len(), &assets.bookmark), (1, &None));
    let since = ReadFrom::Since(json!({ "latest": "2026-01-16 00:00:00" }));
    assert_eq!(bench.read(FIXED_ASSETS, since).await.records.len(), 1);
}

/// SYNC-9
#[tokio::test]
async fn a_fixed_asset_tells_its_cost_and_its_depreciation() {
    let bench = bench().await;
    let id = bench.fake.capitalize("Laptop 14in", "SN-0001", "1500");
    bench.fake.change_asset(id, "custrecord_assetbookvalue", "1250.50");
    let read = bench.read(FIXED_ASSETS, ReadFrom::Beginning).await;
    let asset = read.asset(0);
    assert_eq!((read.records[0].external_id.as_str(), asset.name.as_str()), ("fam-12", "Laptop 14in"));
    assert_eq!((asset.cost, asset.book_value), (Some(dec!(1500)), Some(dec!(1250.50))));
    assert_eq!((asset.useful_life_months, asset.serial_number.as_deref()), (Some(36), Some("SN-0001")));
    assert_eq!((asset.depreciates_from, asset.status), (asset.purchased_on, SourceAssetStatus::InStock));
    assert_eq!(asset.custom["fixed_asset_number"], "FAM000012");
    bench.fake.change_asset(id, "(custrecord_assetstatus)", "Disposed");
    assert_eq!(bench.read(FIXED_ASSETS, ReadFrom::Beginning).await.asset(0).status, SourceAssetStatus::Retired);
    bench.fake.change_asset(id, "custrecord_assetlifetime", "long");
    assert_eq!(bench.read(FIXED_ASSETS, ReadFrom::Beginning).await.bad, 1);
}

/// SYNC-9: the published page (fixtures/netsuite).
#[tokio::test]
async fn the_published_page_is_read() {
    let bench = bench().await;
    let page = include_str!("../../../tests/fixtures/netsuite/suiteql-fam-asset-page.json");
    for body in ["{}", page] {
        bench.fake.fake.script.next("/suiteql", Mood::Answers(200, Vec::new(), body.to_owned()));
    }
    let read = bench.read(FIXED_ASSETS, ReadFrom::Beginning).await;
    assert_eq!((read.records[0].external_id.as_str(), read.asset(0).name.as_str()), ("fam-12", "Laptop 14in"));
    assert_eq!((read.pages, read.total), (1, Some(1)));
}

/// SYNC-5, SYNC-9: an account without fixed assets is no failure.
#[tokio::test]
async fn a_test_says_what_the_role_may_read() {
    let bench = bench().await;
    let said = bench.connector.test(&bench.access).await.unwrap();
    assert_eq!(
        said,
        "NetSuite account 1234567-sb1 answers; the role may read purchase orders, and may read fixed assets"
    );
    bench.fake.without_fixed_assets();
    let said = bench.connector.test(&bench.access).await.unwrap();
    assert!(said.contains("sees no fixed assets"), "{said}");
    assert!(bench.read(FIXED_ASSETS, ReadFrom::Beginning).await.records.is_empty());
}

/// SYNC-9: a clock that is off by more than five minutes, and a call that somebody sends again.
#[tokio::test]
async fn a_signature_is_good_for_five_minutes_and_once() {
    let bench = bench().await;
    bench.orders().await;
    let asked = bench.fake.fake.script.asked().remove(1);
    let suite = Endpoint::parse(&format!("{}{}", bench.fake.fake.address(), asked.path)).unwrap();
    let headers: Vec<_> = [header::AUTHORIZATION, header::HeaderName::from_static("prefer")]
        .into_iter()
        .map(|name| (name.clone(), SecretString::from(asked.headers[&name].to_str().unwrap())))
        .collect();
    let body: Value = serde_json::from_slice(&asked.body).unwrap();
    let query = [("limit", "200"), ("offset", "0")];
    let again = http().send(Method::POST, &suite, &query, &headers, Content::Json(&body)).await.unwrap();
    assert_eq!(again.status, 401);

    let clock = the_clock();
    clock.advance(chrono::Duration::seconds(301));
    let late = connector(bench.fake.config(), &bench.fake.credentials(), &clock).unwrap();
    let error = late.read(&bench.access, PURCHASE_ORDERS, &ReadFrom::Beginning).await.err().unwrap();
    assert!(matches!(&error, ConnectorError::Credentials(said) if said.contains("clock")), "{error:?}");
    // It has been tried twice, with two nonces.
    assert_eq!(bench.fake.fake.script.asked().len(), 5);
}

/// SYNC-6, SYNC-9: by an assertion; then the token is over.
#[tokio::test]
async fn an_assertion_gives_a_token_and_the_token_reads() {
    let bench = bench().await;
    bench.fake.order("PO1", 1, "1");
    let connector = connector(bench.fake.config(), &bench.fake.oauth_credentials(), &bench.clock).unwrap();
    let oauth = connector.oauth().unwrap();
    let Grant::ClientCredentials(form) = &oauth.grant else { panic!("another grant") };
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form(bench.clock.now())).finish();
    let content = Content::Bytes { kind: "application/x-www-form-urlencoded", body: body.into_bytes() };
    let reply = http().send(Method::POST, &oauth.token_endpoint, &[], &[], content).await.unwrap();
    let answer: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((reply.status, &answer["expires_in"]), (200, &json!("3600")));
    let access = Access { bearer: Some(answer["access_token"].as_str().unwrap().into()) };
    let page = connector.read(&access, PURCHASE_ORDERS, &ReadFrom::Beginning).await.unwrap();
    // The asset, and that there are no others.
    assert_eq!(page.records.len(), 2);
    bench.fake.expire_tokens();
    let error = connector.read(&access, PURCHASE_ORDERS, &ReadFrom::Beginning).await.err().unwrap();
    assert!(matches!(error, ConnectorError::Unauthorized(_)), "{error:?}");
}

/// SYNC-13: the published errors (fixtures/netsuite), and what balancers say.
#[tokio::test]
async fn what_goes_wrong_is_told_apart() {
    use ConnectorError as E;
    let samples: Vec<Value> =
        serde_json::from_str(include_str!("../../../tests/fixtures/netsuite/errors.json")).unwrap();
    let sample = |status: u64| {
        let found = samples.iter().find(|sample| sample["http"] == status).unwrap();
        Mood::Answers(u16::try_from(status).unwrap(), Vec::new(), found["body"].to_string())
    };
    let coded = |status: u16, code: &str| {
        let body = json!({ "o:errorDetails": [{ "detail": "Planted secret", "o:errorCode": code }] });
        Mood::Answers(status, Vec::new(), body.to_string())
    };
    let bench = bench().await;
    bench.fake.order("PO1", 1, "1");
    type Check = fn(&E) -> bool;
    let cases: [(Mood, Check); _] = [
        (sample(429), |e| matches!(e, E::RateLimited("NetSuite", None))),
        (Mood::busy(429, Some(Duration::from_secs(5)), ""), |e| matches!(e, E::RateLimited(_, Some(_)))),
        (coded(400, "SSS_REQUEST_LIMIT_EXCEEDED"), |e| matches!(e, E::RateLimited(..))),
        (coded(403, "INSUFFICIENT_PERMISSION"), |e| matches!(e, E::Forbidden(said) if said.contains("SuiteAnalytics"))),
        (coded(400, "USER_ERROR"), |e| matches!(e, E::Protocol(_))),
        (coded(500, "UNEXPECTED_ERROR"), |e| matches!(e, E::Transient(_))),
        (Mood::bad_gateway(), |e| matches!(e, E::Transient(_))),
        (Mood::Truncated, |e| matches!(e, E::Transient(_))),
        (Mood::Answers(404, Vec::new(), String::new()), |e| matches!(e, E::Address(_))),
        (Mood::Answers(200, Vec::new(), "<html>".to_owned()), |e| matches!(e, E::Protocol(_))),
    ];
    for (mood, is) in cases {
        let error = bench.error(mood.clone()).await;
        assert!(is(&error), "{mood:?}: {error:?}");
        assert!(!error.to_string().contains("Planted"), "{error}");
    }
    // One refusal of a signature is tried again, for it may be one call too many; two are believed.
    bench.fake.fake.script.next("/suiteql", sample(401));
    assert_eq!(bench.orders().await.records.len(), 1);
    bench.fake.fake.script.next("/suiteql", sample(401));
    assert!(matches!(bench.error(sample(401)).await, E::Credentials(_)));
}

/// SYNC-1, VAULT-4
#[tokio::test]
async fn what_is_wrong_with_a_configuration_is_told_at_once() {
    let clock = Clock::system();
    let fields = |config: Value, credentials: Value| -> Vec<String> {
        let errors = connector(config, &credentials, &clock).err().unwrap();
        assert!(!errors.to_string().contains("planted"), "{errors}");
        errors.0.into_iter().map(|error| error.field).collect()
    };
    let config = json!({ "account": "a b", "streams": ["people"] });
    let errors = fields(config, json!({ "consumer_key": "planted" }));
    assert_eq!(
        errors,
        [
            "config.account",
            "config.streams",
            "credentials.consumer_secret",
            "credentials.token_id",
            "credentials.token_secret"
        ]
    );
    let account = json!({ "account": "1234567_SB1" });
    assert_eq!(fields(account.clone(), json!({})), ["credentials"]);
    assert_eq!(fields(account.clone(), json!({ "consumer_key": "planted", "client_id": "planted" })), ["credentials"]);
    let key = json!({ "client_id": "a", "certificate_id": "b", "private_key": "planted" });
    assert_eq!(fields(account, key), ["credentials.private_key"]);
    assert_eq!(account_forms("1234567_SB1"), account_forms("1234567-sb1"));
}

/// SYNC-13: another address is another account, so that it cannot shut or slow NetSuite's own of that name.
#[test]
fn another_address_is_another_account() {
    let named = |base: Option<&str>| {
        let config = json!({ "account": "1234567_SB1", "base_url": base });
        let keys = json!({ "consumer_key": "a", "consumer_secret": "b", "token_id": "c", "token_secret": "d" });
        connector(config, &keys, &the_clock()).unwrap().account().to_owned()
    };
    let own = "https://1234567-sb1.suitetalk.api.netsuite.com/services/rest";
    assert_eq!((named(None), named(Some(own))), ("netsuite:1234567-sb1".to_owned(), "netsuite:1234567-sb1".to_owned()));
    assert_eq!(named(Some("https://suite.example")), "netsuite:suite.example/1234567-sb1");
}
