//! Against the fake of the demo, over real HTTP.

use std::{collections::BTreeSet, time::Duration};

use chrono::{NaiveDate, TimeZone, Utc};
use rust_decimal::dec;
use secrecy::SecretString;
use serde_json::json;

use super::*;
use crate::{
    clients::{
        connector::Credentials,
        http::{Content, HttpOptions, Method, header},
        webhook::{Happened, Received, WebhookCall},
    },
    demo::vendors::{
        Mood,
        quickbooks::{Envelope, QuickBooks as Fake, REALM},
    },
    domain::{
        integration::BadRecord,
        source_record::{AssetFacts, Facts, InvoiceFacts, Left, RecordKind, SourceAssetStatus, SourceRecord},
    },
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

async fn bench() -> Bench {
    let clock = Clock::fixed(Utc.with_ymd_and_hms(2026, 5, 4, 8, 0, 0).unwrap());
    let fake = Fake::start(clock.clone()).await.unwrap();
    let connector = connector(fake.config(), &fake.credentials(), &clock).unwrap();
    let access = Access { bearer: Some(fake.access_token().into()) };
    Bench { fake, clock, connector, access }
}

#[derive(Default)]
struct Read {
    records: Vec<SourceRecord>,
    left: Vec<Left>,
    bad: Vec<BadRecord>,
    pages: usize,
    /// Records of the largest page.
    largest: usize,
    bookmark: Option<Value>,
}

impl Read {
    fn ids(&self) -> BTreeSet<&str> {
        self.records.iter().map(|record| record.external_id.as_str()).collect()
    }
}

impl Bench {
    async fn page(&self, stream: &'static str, from: &ReadFrom) -> Result<RecordPage, ConnectorError> {
        self.connector.read(&self.access, stream, from).await
    }

    /// All pages from there on.
    async fn read(&self, stream: &'static str, mut from: ReadFrom) -> Read {
        let mut read = Read::default();
        loop {
            let page = self.page(stream, &from).await.unwrap();
            read.pages += 1;
            read.largest = read.largest.max(page.records.len());
            for record in page.records {
                match record {
                    Ok(SourceRecord { facts: Facts::Left(left), .. }) => read.left.push(left),
                    Ok(record) => read.records.push(record),
                    Err(bad) => read.bad.push(bad),
                }
            }
            read.bookmark = page.bookmark;
            match page.next {
                Some(next) => from = ReadFrom::Page(next),
                None => return read,
            }
        }
    }

    async fn since(&self, stream: &'static str, earlier: &Read) -> Read {
        self.read(stream, ReadFrom::Since(earlier.bookmark.clone().unwrap())).await
    }

    async fn invoice(&self, fields: Value) -> Result<InvoiceFacts, String> {
        let id = self.fake.invoice("1001", ("Kund & Co", "kund@example.se"), 1000);
        self.fake.change("Invoice", id, fields);
        let mut read = self.read(INVOICES, ReadFrom::Beginning).await;
        match (read.records.pop().map(|record| record.facts), read.bad.pop()) {
            (Some(Facts::Invoice(facts)), None) => Ok(facts),
            (None, Some(bad)) => Err(bad.reason),
            other => panic!("{other:?}"),
        }
    }

    /// Time passes, and the access token is renewed.
    fn pass(&mut self, time: chrono::Duration) {
        self.clock.advance(time);
        self.access = Access { bearer: Some(self.fake.access_token().into()) };
    }

    fn asked_of(&self, path: &str) -> usize {
        self.fake.fake.script.asked().iter().filter(|asked| asked.path.ends_with(path)).count()
    }
}

/// SYNC-10
#[tokio::test]
async fn three_laptops_of_a_purchase_are_three_assets_and_paper_is_none() {
    let bench = bench().await;
    bench.fake.buy_laptops(3, "3899.99");

    let read = bench.read(PURCHASES, ReadFrom::Beginning).await;

    assert_eq!(read.ids(), BTreeSet::from(["purchase-1:1:1", "purchase-1:1:2", "purchase-1:1:3"]));
    let day = NaiveDate::from_ymd_opt(2026, 5, 4);
    let expected = AssetFacts {
        name: "Laptop 14in".to_owned(),
        category: Some("laptop".to_owned()),
        model: Some("Laptop 14in".to_owned()),
        status: SourceAssetStatus::InStock,
        cost: Some(dec!(1300.00)),
        currency: Some(Currency::parse("USD").unwrap()),
        purchased_on: day,
        invoice_number: Some("CARD-1".to_owned()),
        supplier: Some("Example Supplies Ltd".to_owned()),
        useful_life_months: Some(36),
        depreciates_from: day,
        ..AssetFacts::default()
    };
    assert_eq!(read.records[0].facts, Facts::Asset(expected));
    let costs = read.records.iter().map(|record| match &record.facts {
        Facts::Asset(asset) => asset.cost.unwrap(),
        other => panic!("{other:?}"),
    });
    assert_eq!(costs.sum::<rust_decimal::Decimal>(), dec!(3899.99));
    assert_eq!(bench.fake.fake.script.asked().len(), 1);
}

/// SYNC-10: a bill's line on an account; a refund and somebody's tape are nothing.
#[tokio::test]
async fn bills_are_read_by_account_and_refunds_are_not() {
    let bench = bench().await;
    let line = |account: &str, amount: f64| {
        json!({ "Id": "1", "Amount": amount, "DetailType": "AccountBasedExpenseLineDetail",
                "AccountBasedExpenseLineDetail": { "AccountRef": { "value": "9", "name": account } } })
    };
    let vendor = json!({ "value": "1", "name": "Dell" });
    bench.fake.save("Bill", json!({ "VendorRef": vendor, "Line": [line("Computer Equipment", 900.0)] }));
    bench.fake.save("Bill", json!({ "VendorRef": vendor, "Line": [line("Office Expenses", 9.0)] }));
    bench.fake.save("Purchase", json!({ "Credit": true, "Line": [line("Computer Equipment", 900.0)] }));

    let bills = bench.read(BILLS, ReadFrom::Beginning).await;

    assert_eq!(bills.ids(), BTreeSet::from(["bill-1:1:1"]));
    assert!(bench.read(PURCHASES, ReadFrom::Beginning).await.records.is_empty());
}

/// SYNC-10: the laptops of a purchase that was voided were never bought.
#[tokio::test]
async fn a_voided_purchase_is_gone() {
    let bench = bench().await;
    let id = bench.fake.buy_laptops(2, "3000");
    bench.fake.change("Purchase", id, json!({ "TotalAmt": 0, "PrivateNote": "Voided - returned" }));
    let read = bench.read(PURCHASES, ReadFrom::Beginning).await;
    assert_eq!(read.ids(), BTreeSet::from(["purchase-1:"]));
    assert_eq!(read.records[0].facts, Facts::Gone(RecordKind::Asset));
}

/// SYNC-2: documents that were saved at one moment, and at different ones, are all read.
#[tokio::test]
async fn pages_follow_each_other_by_the_time_of_change() {
    for apart in [0, 1] {
        let bench = bench().await;
        for _ in 0..450 {
            bench.fake.buy_laptops(1, "1000");
            bench.clock.advance(chrono::Duration::seconds(apart));
        }
        let read = bench.read(PURCHASES, ReadFrom::Beginning).await;
        assert_eq!((read.ids().len(), read.pages), (450, 3), "{apart} seconds apart");
    }
}

/// SYNC-10: what was read and changes under way comes again at the end.
#[tokio::test]
async fn what_changes_between_two_pages_is_not_lost() {
    let bench = bench().await;
    for _ in 0..250 {
        bench.fake.buy_laptops(1, "1000");
        bench.clock.advance(chrono::Duration::seconds(1));
    }
    let first = bench.page(PURCHASES, &ReadFrom::Beginning).await.unwrap();
    bench.fake.change("Purchase", 3, json!({ "DocNumber": "NEW" }));
    bench.fake.change("Purchase", 240, json!({ "DocNumber": "NEW" }));

    let rest = bench.read(PURCHASES, ReadFrom::Page(first.next.unwrap())).await;

    for id in ["purchase-3:1:1", "purchase-240:1:1", "purchase-250:1:1"] {
        assert!(rest.ids().contains(id), "{id}");
    }
}

/// SYNC-10: by change data capture, with what was deleted.
#[tokio::test]
async fn an_incremental_run_reads_what_changed_and_what_is_gone() {
    let mut bench = bench().await;
    for _ in 0..5 {
        bench.fake.buy_laptops(1, "1000");
    }
    bench.pass(chrono::Duration::hours(1));
    let full = bench.read(PURCHASES, ReadFrom::Beginning).await;
    bench.fake.buy_laptops(1, "1000");
    bench.fake.delete("Purchase", 2);
    bench.pass(chrono::Duration::hours(1));

    let changed = bench.since(PURCHASES, &full).await;

    assert_eq!(changed.ids(), BTreeSet::from(["purchase-2:", "purchase-6:1:1"]));
    assert_eq!(changed.records[0].facts, Facts::Gone(RecordKind::Asset));
    assert_eq!((bench.asked_of("/query"), bench.asked_of("/cdc")), (1, 1));
    bench.pass(chrono::Duration::hours(1));
    assert!(bench.since(PURCHASES, &changed).await.records.is_empty());
}

/// SYNC-10: beyond thirty days, and beyond a thousand documents, it is the query that tells.
#[tokio::test]
async fn what_change_data_capture_does_not_tell_is_queried() {
    let mut bench = bench().await;
    bench.fake.buy_laptops(1, "1000");
    let full = bench.read(PURCHASES, ReadFrom::Beginning).await;
    bench.pass(chrono::Duration::days(29));
    bench.fake.change("Purchase", 1, json!({ "DocNumber": "NEW" }));
    assert_eq!(bench.since(PURCHASES, &full).await.records.len(), 1);
    assert_eq!((bench.asked_of("/query"), bench.asked_of("/cdc")), (2, 0));

    let full = bench.read(INVOICES, ReadFrom::Beginning).await;
    bench.pass(chrono::Duration::hours(1));
    for number in 0..1_100 {
        bench.fake.invoice(&number.to_string(), ("Kund", "kund@example.se"), 100);
    }
    assert_eq!(bench.since(INVOICES, &full).await.ids().len(), 1_100);
}

/// SYNC-10: beyond a thousand changes, what is there is queried, and what was deleted is told by change data capture alone, again and
/// again.
#[tokio::test]
async fn of_thousands_of_changes_none_is_lost_and_no_deletion() {
    const BOUGHT: u64 = 2_300;
    let mut bench = bench().await;
    for _ in 0..BOUGHT {
        bench.fake.buy_laptops(1, "1000");
    }
    let full = bench.read(PURCHASES, ReadFrom::Beginning).await;
    bench.pass(chrono::Duration::hours(1));
    for id in 1..=BOUGHT {
        match id % 100 {
            0 => bench.fake.delete("Purchase", id),
            _ => bench.fake.change("Purchase", id, json!({ "DocNumber": "NEW" })),
        }
        bench.clock.advance(chrono::Duration::seconds(1));
    }

    let changed = bench.since(PURCHASES, &full).await;

    let expected = (1..=BOUGHT).map(|id| match id % 100 {
        0 => format!("purchase-{id}:"),
        _ => format!("purchase-{id}:1:1"),
    });
    assert_eq!(changed.ids(), expected.collect::<BTreeSet<_>>().iter().map(String::as_str).collect());
    assert!(changed.largest <= 400 && bench.asked_of("/cdc") == 3, "{} {}", changed.largest, bench.asked_of("/cdc"));
}

/// SYNC-10: a thousand changes of one moment lead no further: what is there is queried.
#[tokio::test]
async fn change_data_capture_that_does_not_move_on_ends() {
    let mut bench = bench().await;
    let full = bench.read(PURCHASES, ReadFrom::Beginning).await;
    for _ in 0..1_001 {
        bench.fake.buy_laptops(1, "1000");
    }
    bench.pass(chrono::Duration::hours(1));
    assert_eq!(bench.since(PURCHASES, &full).await.ids().len(), 1_001);
    assert_eq!(bench.asked_of("/cdc"), 2);
}

/// SYNC-2: a page is bounded by what comes of its documents, not by their number alone.
#[tokio::test]
async fn a_page_of_large_purchases_is_cut() {
    for apart in [0, 1] {
        let mut bench = bench().await;
        let empty = bench.read(PURCHASES, ReadFrom::Beginning).await;
        bench.pass(chrono::Duration::hours(1));
        for _ in 0..5 {
            bench.fake.buy_laptops(1_000, "1000");
            bench.clock.advance(chrono::Duration::seconds(apart));
        }
        for from in [ReadFrom::Beginning, ReadFrom::Since(empty.bookmark.clone().unwrap())] {
            let read = bench.read(PURCHASES, from).await;
            assert_eq!(read.ids().len(), 5_000);
            assert!(read.largest <= 2_002 && read.pages <= 5, "{} on {} pages", read.largest, read.pages);
        }
    }
}

/// SYNC-10: with each purchase it is told what is left of it, also of a line that says nothing any more or cannot be read.
#[tokio::test]
async fn a_purchase_tells_what_is_left_of_it() {
    let bench = bench().await;
    let id = bench.fake.buy_laptops(3, "3000");
    let left = bench.read(PURCHASES, ReadFrom::Beginning).await.left.remove(0);
    assert!(left.has("1:3") && !left.has("1:4") && !left.has("2:1"), "{left:?}");
    bench.fake.requantify(id, 1_001, "3000");
    let read = bench.read(PURCHASES, ReadFrom::Beginning).await;
    assert!(read.bad.len() == 1 && read.left[0].has("1:4"), "what is bad takes nothing away");
    bench.fake.change("Purchase", id, json!({ "Line": [] }));
    let left = bench.read(PURCHASES, ReadFrom::Beginning).await.left.remove(0);
    assert!(!left.has("1:1"), "{left:?}");
}

/// BILL-10
#[tokio::test]
async fn an_invoice_is_told_with_its_tax_and_its_payment() {
    let mut bench = bench().await;
    let org_number = json!([{ "DefinitionId": "1", "Name": "Org number", "StringValue": "556194-7986" }]);
    let facts = bench.invoice(json!({ "CustomField": org_number })).await.unwrap();

    assert_eq!((facts.number.as_str(), facts.customer_name.as_str()), ("1001", "Kund & Co"));
    assert_eq!(facts.customer_org_number.as_deref(), Some("556194-7986"));
    assert_eq!(facts.customer_email.unwrap().as_str(), "kund@example.se");
    assert_eq!((facts.currency, facts.paid_on), (Currency::SEK, None));
    let line = &facts.lines[0];
    assert_eq!(
        (facts.lines.len(), line.quantity, line.unit_price, line.tax_rate),
        (1, dec!(1), dec!(1000), dec!(0.25))
    );

    bench.pass(chrono::Duration::days(3));
    bench.fake.pay(1);
    let read = bench.read(INVOICES, ReadFrom::Beginning).await;
    let Facts::Invoice(paid) = &read.records[0].facts else { panic!("no invoice") };
    assert_eq!(paid.paid_on, NaiveDate::from_ymd_opt(2026, 5, 7));

    bench.fake.delete("Invoice", 1);
    let gone = bench.since(INVOICES, &read).await;
    assert_eq!((gone.records.len(), gone.bad[0].external_id.as_deref()), (0, Some("invoice-1")));
    assert!(gone.bad[0].reason.contains("deleted"), "{}", gone.bad[0].reason);
}

/// BILL-10: rates, discounts and rounding; what does not add up is not taken.
#[tokio::test]
async fn an_invoice_adds_up_to_what_is_owed_or_is_refused() {
    let sale = |net: u32, code: &str| {
        json!({ "Amount": net, "Description": code, "DetailType": "SalesItemLineDetail",
                "SalesItemLineDetail": { "TaxCodeRef": { "value": code } } })
    };
    let tax = |percent: u32, net: u32| json!({ "TaxLineDetail": { "TaxPercent": percent, "NetAmountTaxable": net } });
    let discount = json!({ "Amount": 100, "DetailType": "DiscountLineDetail", "DiscountLineDetail": {} });
    let rates = |facts: &InvoiceFacts| facts.lines.iter().map(|line| line.tax_rate).collect::<Vec<_>>();

    let two = json!({ "Line": [sale(1000, "A"), sale(200, "B"), sale(50, "NON")], "TotalAmt": 1512, "Balance": 1512,
                      "TxnTaxDetail": { "TaxLine": [tax(25, 1000), tax(6, 200)] } });
    assert_eq!(rates(&bench().await.invoice(two).await.unwrap()), [dec!(0.25), dec!(0.06), dec!(0)]);

    let lowered = json!({ "Line": [sale(1000, "A"), discount], "ApplyTaxAfterDiscount": true, "TotalAmt": 1125,
                          "TxnTaxDetail": { "TaxLine": [tax(25, 900)] } });
    let facts = bench().await.invoice(lowered).await.unwrap();
    assert_eq!((rates(&facts), facts.lines[1].unit_price), (vec![dec!(0.25), dec!(0.25)], dec!(-100)));

    let facts = bench().await.invoice(json!({ "TotalAmt": 1250.4, "Balance": 1250.4 })).await.unwrap();
    assert_eq!((facts.lines[1].unit_price, facts.lines[1].tax_rate), (dec!(0.4), dec!(0)));

    for wrong in [
        json!({ "TotalAmt": 2000, "Balance": 2000 }),
        json!({ "TxnTaxDetail": null }),
        json!({ "DocNumber": null }),
        json!({ "TotalAmt": "much" }),
        json!({ "CurrencyRef": { "value": "JPY" } }),
    ] {
        assert!(bench().await.invoice(wrong.clone()).await.is_err(), "{wrong}");
    }
    // Nobody is reminded of a whole of which they paid a part.
    let in_part = bench().await.invoice(json!({ "Balance": 250 })).await.unwrap_err();
    assert!(in_part.contains("in part") && in_part.contains("cancelled"), "{in_part}");
    let voided = json!({ "TotalAmt": 0, "Balance": 0, "PrivateNote": "Voided" });
    let facts = bench().await.invoice(voided).await.unwrap();
    assert_eq!((facts.lines.len(), facts.paid_on), (0, None));
}

/// SYNC-4: a bad one among good ones.
#[tokio::test]
async fn a_bad_document_is_named_and_the_others_are_read() {
    let bench = bench().await;
    for position in 0..3 {
        let id = bench.fake.buy_laptops(1, "1000");
        if position == 1 {
            bench.fake.change("Purchase", id, json!({ "TxnDate": "yesterday", "Planted": "secret" }));
        }
    }
    let read = bench.read(PURCHASES, ReadFrom::Beginning).await;
    assert_eq!(read.ids(), BTreeSet::from(["purchase-1:1:1", "purchase-3:1:1"]));
    assert_eq!(read.bad[0].external_id.as_deref(), Some("purchase-2"));
    assert!(!read.bad[0].reason.contains("yesterday") && !read.bad[0].reason.contains("secret"));
}

const THROTTLE: &str = include_str!("../../../tests/fixtures/quickbooks/fault-throttle.json");
const AUTH: &str = include_str!("../../../tests/fixtures/quickbooks/fault-auth-401-lowercase.json");
const VALIDATION: &str = include_str!("../../../tests/fixtures/quickbooks/fault-validation.json");

/// SYNC-10, SYNC-13: both casings, the published samples, and what balancers say.
#[tokio::test]
async fn what_goes_wrong_is_told_apart() {
    use ConnectorError as E;
    let bench = bench().await;
    let coded =
        |code: &str| json!({ "Fault": { "Error": [{ "Message": "x", "code": code }], "type": "x" } }).to_string();
    let answers = |status: u16, body: &str| Mood::Answers(status, Vec::new(), body.to_owned());
    type Check = fn(&E) -> bool;
    let cases: [(Mood, Check); _] = [
        (answers(429, THROTTLE), |e| matches!(e, E::RateLimited(_, Some(wait)) if wait.as_secs() == 60)),
        (answers(400, THROTTLE), |e| matches!(e, E::RateLimited(..))),
        (
            Mood::busy(429, Some(Duration::from_secs(7)), ""),
            |e| matches!(e, E::RateLimited(_, Some(wait)) if wait.as_secs() == 7),
        ),
        (answers(401, AUTH), |e| matches!(e, E::Unauthorized(_))),
        (answers(200, AUTH), |e| matches!(e, E::Unauthorized(_))),
        (answers(401, ""), |e| matches!(e, E::Unauthorized(_))),
        (answers(403, &coded("3100")), |e| matches!(e, E::Forbidden(said) if said.contains("sandbox"))),
        (answers(400, &coded("3201")), |e| matches!(e, E::Credentials(_))),
        (answers(400, &coded("120")), |e| matches!(e, E::Forbidden(_))),
        (answers(400, VALIDATION), |e| matches!(e, E::Protocol(said) if said.contains("610"))),
        (answers(200, &coded("10000")), |e| matches!(e, E::Transient(_))),
        (answers(500, ""), |e| matches!(e, E::Transient(_))),
        (Mood::bad_gateway(), |e| matches!(e, E::Transient(_))),
        (Mood::Truncated, |e| matches!(e, E::Transient(_))),
        (Mood::BreaksOff, |e| matches!(e, E::Transient(_))),
        (answers(200, "<html>"), |e| matches!(e, E::Protocol(_))),
        (answers(404, "<html>"), |e| matches!(e, E::Address(_))),
    ];
    bench.fake.buy_laptops(1, "1");
    for (mood, is) in cases {
        bench.fake.fake.script.next("/query", mood.clone());
        let error = bench.page(PURCHASES, &ReadFrom::Beginning).await.err().unwrap();
        assert!(is(&error), "{mood:?}: {error:?}");
    }
    let expired = ReadFrom::Since(json!({ "since": "soon" }));
    assert!(matches!(bench.page(PURCHASES, &expired).await, Err(E::CursorExpired)));
}

/// SYNC-6: an access token that is over, and a company that is another's.
#[tokio::test]
async fn a_token_that_is_over_is_told_and_a_foreign_company_is_forbidden() {
    let mut bench = bench().await;
    bench.clock.advance(chrono::Duration::hours(2));
    let error = bench.page(PURCHASES, &ReadFrom::Beginning).await.err().unwrap();
    assert!(matches!(error, ConnectorError::Unauthorized(_)), "{error:?}");
    bench.access = Access { bearer: Some(bench.fake.access_token().into()) };
    let mut config = bench.fake.config();
    config["realm_id"] = json!("1");
    bench.connector = connector(config, &bench.fake.credentials(), &bench.clock).unwrap();
    let error = bench.connector.test(&bench.access).await.err().unwrap();
    assert!(matches!(error, ConnectorError::Forbidden(_)), "{error:?}");
}

/// SYNC-5
#[tokio::test]
async fn a_test_names_the_company() {
    let bench = bench().await;
    let said = bench.connector.test(&bench.access).await.unwrap();
    assert_eq!(said, "QuickBooks company Example Company (realm 310687) answers");
}

/// SYNC-13: another address is another account, so that it cannot shut or slow Intuit's own of that id.
#[test]
fn another_address_is_another_account() {
    let named = |base: Option<&str>| {
        let config = json!({ "realm_id": REALM, "base_url": base });
        let keys = json!({ "client_id": "a", "client_secret": "b", "refresh_token": "c" });
        connector(config, &keys, &Clock::system()).unwrap().account().to_owned()
    };
    let own = format!("quickbooks:{REALM}");
    assert_eq!((named(None), named(Some("https://quickbooks.api.intuit.com/"))), (own.clone(), own));
    assert_eq!(named(Some("https://books.example:8443")), format!("quickbooks:books.example:8443/{REALM}"));
}

/// SYNC-6: each refresh token is good once, as Intuit's are.
#[tokio::test]
async fn a_refresh_token_is_good_once() {
    let bench = bench().await;
    let oauth = bench.connector.oauth().unwrap();
    assert!(oauth.basic && matches!(oauth.grant, Grant::RefreshToken));
    let basic = SecretString::from("Basic ZGVtby1jbGllbnQ6ZGVtby1jbGllbnQtc2VjcmV0");
    let mut answers = Vec::new();
    for _ in 0..2 {
        let body = b"grant_type=refresh_token&refresh_token=demo-refresh-0".to_vec();
        let content = Content::Bytes { kind: "application/x-www-form-urlencoded", body };
        let headers = [(header::AUTHORIZATION, basic.clone())];
        let reply = http().send(Method::POST, &oauth.token_endpoint, &[], &headers, content).await.unwrap();
        answers.push((reply.status, serde_json::from_slice::<Value>(&reply.body).unwrap()));
    }
    assert_eq!((answers[0].0, &answers[0].1["refresh_token"]), (200, &json!("demo-refresh-1")));
    assert_eq!(answers[1], (400, json!({ "error": "invalid_grant" })));
    assert_eq!(bench.fake.renewals(), 1);
}

/// SYNC-12: what the fake sends, both ways, is believed; for another secret it is not.
#[tokio::test]
async fn its_webhooks_are_believed() {
    let bench = bench().await;
    let credentials = Credentials::parse(bench.fake.credentials().to_string().into()).unwrap();
    let config = bench.fake.config();
    for envelope in [Envelope::Legacy, Envelope::CloudEvents] {
        let (headers, body) = bench.fake.webhook("Purchase", 7, "Update", envelope);
        let now = bench.clock.now();
        let call = WebhookCall { credentials: &credentials, config: &config, headers: &headers, body: &body, now };
        let Ok(Received::Deliveries(deliveries)) = VENDOR.webhook.unwrap()(&call) else { panic!("{envelope:?}") };
        assert_eq!((deliveries.len(), deliveries[0].what), (1, Happened::Changed), "{envelope:?}");
        let mut changed = body.clone();
        changed[10] ^= 1;
        let call = WebhookCall { body: &changed, ..call };
        assert!(VENDOR.webhook.unwrap()(&call).is_err());
    }
}

/// SYNC-1, VAULT-4: all that is wrong at once, and no secret.
#[tokio::test]
async fn what_is_wrong_with_a_configuration_is_told_at_once() {
    let clock = Clock::system();
    let config = json!({ "realm_id": "abc", "rules": [{}], "base_url": "ftp://x" });
    let errors = connector(config, &json!({ "client_secret": "planted" }), &clock).err().unwrap();
    let fields: Vec<&str> = errors.0.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(
        fields,
        ["config.realm_id", "config.rules[0]", "config.base_url", "credentials.client_id", "credentials.refresh_token"]
    );
    assert!(!errors.to_string().contains("planted"));
    let nothing = json!({ "realm_id": REALM, "invoices": false });
    let all = json!({ "client_id": "a", "client_secret": "b", "refresh_token": "c" });
    assert!(connector(nothing.clone(), &all, &clock).is_err());
    assert!(connector(json!({ "realm_id": REALM, "surprise": 1 }), &all, &clock).is_err());
    assert_eq!(connector(json!({ "realm_id": REALM }), &all, &clock).unwrap().streams(), [INVOICES]);
}

/// SYNC-14 and the fake itself: what the service would refuse, it refuses.
#[tokio::test]
async fn the_fake_refuses_what_the_service_does() {
    let bench = bench().await;
    let company = Endpoint::parse(&format!("{}/v3/company/{REALM}", bench.fake.fake.address())).unwrap();
    let bearer = (header::AUTHORIZATION, SecretString::from(format!("Bearer {}", bench.fake.access_token())));
    let accept = (header::ACCEPT, SecretString::from("application/json"));
    let all = [bearer.clone(), accept];
    let version = ("minorversion", "75");
    for (path, query, headers, status, word) in [
        ("query", vec![("query", "SELECT * FROM Bill")], &all[..], 400, "minorversion"),
        ("query", vec![("query", "SELECT * FROM Bill"), version], &all[..1], 200, "<?xml"),
        ("query", vec![("query", "SELECT * FROM Bill MAXRESULTS 1001"), version], &all[..], 400, "4000"),
        ("query", vec![("query", "DELETE FROM Bill"), version], &all[..], 400, "4000"),
        ("query", vec![("query", "SELECT * FROM Bill"), version], &all[..], 200, "{\"QueryResponse\":{}"),
        (
            "cdc",
            vec![("entities", "Bill"), ("changedSince", "2026-04-01T00:00:00Z"), version],
            &all[..],
            400,
            "30 days",
        ),
    ] {
        let sent = http().send(Method::GET, &company.join(path), &query, headers, Content::Empty).await.unwrap();
        let body = String::from_utf8(sent.body).unwrap();
        assert_eq!(sent.status, status, "{query:?}");
        assert!(body.contains(word), "{query:?}: {body}");
    }
}
