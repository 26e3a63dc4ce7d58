//! QuickBooks Online, one company of it: tokens that rotate, the query language as far as it is spoken, change data capture with its
//! limits, faults in both casings, and webhooks in both envelopes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Duration, FixedOffset, SecondsFormat, Utc};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use url::form_urlencoded;

use super::{Fake, Script};
use crate::domain::Clock;

pub const REALM: &str = "310687";
const CLIENT: (&str, &str) = ("demo-client", "demo-client-secret");
const VERIFIER: &str = "demo-webhook-verifier";
/// Calls of a company in a minute.
const CALLS: u32 = 500;
/// Documents in an answer of change data capture, those that changed first, and how far back it looks.
const CDC_MOST: usize = 1_000;
const CDC_DAYS: i64 = 30;

/// The fake. It stops when it is dropped.
pub struct QuickBooks {
    pub fake: Fake,
    books: Arc<Books>,
}

/// Which of the two a webhook comes in.
#[derive(Clone, Copy, Debug)]
pub enum Envelope {
    Legacy,
    CloudEvents,
}

struct Books {
    clock: Clock,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    /// By kind and id, as they are told.
    documents: BTreeMap<(&'static str, u64), Value>,
    last_id: u64,
    /// How often the tokens were renewed; the refresh token that is good has this number.
    renewed: u32,
    revoked: bool,
    /// Access tokens with the end of their life.
    access: Vec<(String, DateTime<Utc>)>,
    /// The minute, and how many calls came in it.
    minute: (i64, u32),
}

impl QuickBooks {
    /// A company without documents.
    pub async fn start(clock: Clock) -> std::io::Result<Self> {
        let books = Arc::new(Books { clock, inside: Mutex::default() });
        let router = Router::new()
            .route("/oauth2/v1/tokens/bearer", post(token))
            .route("/v3/company/{realm}/companyinfo/{id}", get(company_info))
            .route("/v3/company/{realm}/query", get(query))
            .route("/v3/company/{realm}/cdc", get(cdc))
            .with_state(books.clone());
        Ok(Self { fake: Fake::start(router, Script::default()).await?, books })
    }

    /// The configuration of an integration with it.
    pub fn config(&self) -> Value {
        json!({
            "realm_id": REALM,
            "currency": "USD",
            "org_number_field": "Org number",
            "rules": [
                { "account": "Computer Equipment", "category": "computer", "useful_life_months": 36 },
                { "item": "Laptops:*", "category": "laptop", "useful_life_months": 36 },
            ],
            "base_url": self.fake.address(),
            "token_url": format!("{}/oauth2/v1/tokens/bearer", self.fake.address()),
        })
    }

    /// Its credentials, with the refresh token that is good now.
    pub fn credentials(&self) -> Value {
        let refresh_token = refresh_token(self.books.inside().renewed);
        json!({
            "client_id": CLIENT.0,
            "client_secret": CLIENT.1,
            "refresh_token": refresh_token,
            "webhook_verifier_token": VERIFIER,
        })
    }

    /// An access token, as a refresh would give; for a client without an engine.
    pub fn access_token(&self) -> String {
        self.books.give_access()
    }

    /// Laptops are bought by card. Answers the id of the purchase.
    pub fn buy_laptops(&self, quantity: u32, amount: &str) -> u64 {
        let line = json!({
            "Id": "1", "Description": "Laptop 14in", "Amount": number(amount), "DetailType": "ItemBasedExpenseLineDetail",
            "ItemBasedExpenseLineDetail": {
                "ItemRef": { "value": "21", "name": "Laptops:Laptop 14in" }, "Qty": quantity, "BillableStatus": "NotBillable",
            },
        });
        let stationery = json!({
            "Id": "2", "Description": "Paper", "Amount": 12.5, "DetailType": "AccountBasedExpenseLineDetail",
            "AccountBasedExpenseLineDetail": { "AccountRef": { "value": "15", "name": "Office Expenses" } },
        });
        self.save(
            "Purchase",
            json!({
                "PaymentType": "CreditCard", "DocNumber": "CARD-1", "TxnDate": self.books.day(),
                "EntityRef": { "value": "56", "name": "Example Supplies Ltd", "type": "Vendor" },
                "CurrencyRef": { "value": "USD", "name": "United States Dollar" },
                "Line": [line, stationery],
            }),
        )
    }

    /// It was another number of laptops, for another amount.
    pub fn requantify(&self, id: u64, quantity: u32, amount: &str) {
        if let Some(document) = self.books.inside().documents.get_mut(&("Purchase", id)) {
            document["Line"][0]["ItemBasedExpenseLineDetail"]["Qty"] = json!(quantity);
            document["Line"][0]["Amount"] = number(amount);
        }
        self.change("Purchase", id, json!({}));
    }

    /// An invoice over one line at 25 % tax. Answers its id.
    pub fn invoice(&self, doc_number: &str, (customer, email): (&str, &str), net: u32) -> u64 {
        let quarter = |whole: u32| number(&format!("{}.{:02}", whole + net / 4, net % 4 * 25));
        let (tax, total) = (quarter(0), quarter(net));
        self.save("Invoice", json!({
            "DocNumber": doc_number, "TxnDate": self.books.day(), "DueDate": self.books.day(),
            "CustomerRef": { "value": "24", "name": customer }, "BillEmail": { "Address": email },
            "CurrencyRef": { "value": "SEK", "name": "Swedish Krona" },
            "Line": [
                { "Id": "1", "LineNum": 1, "Description": "Hours", "Amount": net, "DetailType": "SalesItemLineDetail",
                  "SalesItemLineDetail": { "ItemRef": { "value": "5", "name": "Hours" }, "Qty": 1, "UnitPrice": net,
                                           "TaxCodeRef": { "value": "7" } } },
                { "Amount": net, "DetailType": "SubTotalLineDetail", "SubTotalLineDetail": {} },
            ],
            "TxnTaxDetail": { "TotalTax": tax, "TaxLine": [
                { "Amount": tax, "DetailType": "TaxLineDetail",
                  "TaxLineDetail": { "TaxPercent": 25, "NetAmountTaxable": net, "PercentBased": true } } ] },
            "TotalAmt": total, "Balance": total,
        }))
    }

    /// The customer has paid an invoice.
    pub fn pay(&self, id: u64) {
        self.change("Invoice", id, json!({ "Balance": 0 }));
    }

    /// Stores a document as it is, with an id and the time. Answers the id.
    pub fn save(&self, entity: &'static str, document: Value) -> u64 {
        let id = {
            let mut inside = self.books.inside();
            inside.last_id += 1;
            let id = inside.last_id;
            let mut fresh = json!({ "Id": id.to_string(), "SyncToken": "0", "domain": "QBO", "sparse": false });
            merge(&mut fresh, document);
            inside.documents.insert((entity, id), fresh);
            id
        };
        self.change(entity, id, json!({}));
        id
    }

    /// Overwrites fields of a document.
    pub fn change(&self, entity: &'static str, id: u64, fields: Value) {
        let at = stamp(self.books.clock.now());
        if let Some(document) = self.books.inside().documents.get_mut(&(entity, id)) {
            merge(document, fields);
            document["MetaData"] = json!({ "CreateTime": at, "LastUpdatedTime": at });
        }
    }

    /// Only change data capture tells of it any more.
    pub fn delete(&self, entity: &'static str, id: u64) {
        let at = stamp(self.books.clock.now());
        let stub = json!({ "Id": id.to_string(), "status": "Deleted", "domain": "QBO", "MetaData": { "LastUpdatedTime": at } });
        self.books.inside().documents.insert((entity, id), stub);
    }

    /// The company withdraws its consent.
    pub fn revoke(&self) {
        let mut inside = self.books.inside();
        inside.revoked = true;
        inside.access.clear();
    }

    /// No access token is good any more.
    pub fn expire_tokens(&self) {
        self.books.inside().access.clear();
    }

    /// How often the tokens were renewed.
    pub fn renewals(&self) -> u32 {
        self.books.inside().renewed
    }

    /// What it sends when a document has changed: headers and body. `operation` is `Create`, `Update` or `Delete`.
    pub fn webhook(&self, entity: &str, id: u64, operation: &str, envelope: Envelope) -> (HeaderMap, Vec<u8>) {
        let at = self.books.clock.now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let body = match envelope {
            Envelope::Legacy => json!({ "eventNotifications": [{ "realmId": REALM, "dataChangeEvent": { "entities": [
                { "name": entity, "id": id.to_string(), "operation": operation, "lastUpdated": at },
            ] } }] }),
            Envelope::CloudEvents => json!([{
                "specversion": "1.0", "id": format!("{entity}-{id}-{at}"), "source": "intuit.demo",
                "type": format!("qbo.{}.{}d.v1", entity.to_lowercase(), operation.to_lowercase()),
                "datacontenttype": "application/json", "time": at, "intuitentityid": id.to_string(),
                "intuitaccountid": REALM, "data": {},
            }]),
        };
        let body = body.to_string().into_bytes();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(VERIFIER.as_bytes())
            && let Ok(signature) = STANDARD.encode(mac.chain_update(&body).finalize().into_bytes()).parse()
        {
            headers.insert("intuit-signature", signature);
        }
        (headers, body)
    }
}

impl Books {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn day(&self) -> String {
        self.clock.now().date_naive().to_string()
    }

    fn give_access(&self) -> String {
        let ends = self.clock.now() + Duration::seconds(3_600);
        let mut inside = self.inside();
        let token = format!("demo-access-{}-{}", inside.renewed, inside.access.len());
        inside.access.push((token.clone(), ends));
        token
    }

    /// What is refused whatever is asked, in the order in which it is looked at.
    fn refuses(&self, realm: &str, parameters: &BTreeMap<String, String>, headers: &HeaderMap) -> Option<Response> {
        let now = self.clock.now();
        let mut inside = self.inside();
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.strip_prefix("Bearer "));
        if !inside.access.iter().any(|(token, ends)| Some(token.as_str()) == bearer && now < *ends) {
            return Some(gateway_fault(401, "3200", "AuthenticationFailed", "Token expired"));
        }
        if realm != REALM {
            return Some(gateway_fault(403, "3100", "ApplicationAuthorizationFailed", "not authorized for this realm"));
        }
        let minute = now.timestamp() / 60;
        let came = if inside.minute.0 == minute { inside.minute.1 + 1 } else { 1 };
        inside.minute = (minute, came);
        if came > CALLS {
            let message = "message=ThrottleExceeded; errorCode=003001; statusCode=429";
            return Some(fault(429, "3001", "SERVICE", message, "The request limit was reached."));
        }
        if headers.get(header::ACCEPT).is_none_or(|accept| accept != "application/json") {
            let xml = "<?xml version=\"1.0\"?><IntuitResponse xmlns=\"http://schema.intuit.com/finance/v3\"/>";
            return Some(([(header::CONTENT_TYPE, "application/xml")], xml).into_response());
        }
        let minor: u32 = parameters.get("minorversion").and_then(|version| version.parse().ok()).unwrap_or(0);
        (minor < 75).then(|| fault(400, "2020", "ValidationFault", "Required param missing", "minorversion"))
    }
}

fn refresh_token(number: u32) -> String {
    format!("demo-refresh-{number}")
}

fn number(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn merge(into: &mut Value, fields: Value) {
    if let (Value::Object(into), Value::Object(fields)) = (into, fields) {
        into.extend(fields);
    }
}

/// As the company's settings have it: seven hours behind.
fn stamp(at: DateTime<Utc>) -> String {
    let zone = FixedOffset::west_opt(7 * 3_600);
    zone.map_or_else(|| at.to_rfc3339(), |zone| at.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn updated(document: &Value) -> Option<DateTime<Utc>> {
    let text = document["MetaData"]["LastUpdatedTime"].as_str()?;
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc())
}

/// With the header by which Intuit finds a call again.
fn answered(status: u16, body: Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or_default();
    (status, [("intuit_tid", "1-demo-tid")], Json(body)).into_response()
}

fn fault(status: u16, code: &str, kind: &str, message: &str, detail: &str) -> Response {
    let error = json!({ "Message": message, "Detail": detail, "code": code, "element": "" });
    answered(status, json!({ "Fault": { "Error": [error], "type": kind }, "time": "2026-05-05T05:16:47.704-07:00" }))
}

/// As the gateway writes it: in lower case.
fn gateway_fault(status: u16, code: &str, name: &str, detail: &str) -> Response {
    let message = format!("message={name}; errorCode=00{code}; statusCode={status}");
    let error = json!({ "message": message, "detail": detail, "code": code, "element": null });
    let body = json!({
        "warnings": null, "intuitObject": null, "fault": { "error": [error], "type": "AUTHENTICATION" }, "report": null,
        "queryResponse": null, "batchItemResponse": [], "attachableResponse": [], "syncErrorResponse": null,
        "requestId": null, "time": 1_730_024_394_085_u64, "status": null, "cdcresponse": [],
    });
    let mut response = answered(status, body);
    let challenge = HeaderValue::from_static("Bearer realm=\"Intuit\", error=\"invalid_token\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

async fn token(State(books): State<Arc<Books>>, headers: HeaderMap, body: Bytes) -> Response {
    let form: BTreeMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    let expected = format!("Basic {}", STANDARD.encode(format!("{}:{}", CLIENT.0, CLIENT.1)));
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value.as_bytes() != expected.as_bytes()) {
        return answered(401, json!({ "error": "invalid_client" }));
    }
    if form.get("grant_type").is_none_or(|kind| kind != "refresh_token") {
        return answered(400, json!({ "error": "unsupported_grant_type" }));
    }
    let renewed = {
        let mut inside = books.inside();
        if inside.revoked || form.get("refresh_token") != Some(&refresh_token(inside.renewed)) {
            return answered(400, json!({ "error": "invalid_grant" }));
        }
        inside.renewed += 1;
        inside.renewed
    };
    let access = books.give_access();
    answered(
        200,
        json!({
            "token_type": "bearer", "access_token": access, "expires_in": 3_600, "refresh_token": refresh_token(renewed),
            "x_refresh_token_expires_in": 8_726_400,
        }),
    )
}

type Parameters = Query<BTreeMap<String, String>>;

async fn company_info(
    State(books): State<Arc<Books>>,
    Path((realm, id)): Path<(String, String)>,
    Query(parameters): Parameters,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = books.refuses(&realm, &parameters, &headers) {
        return refused;
    }
    if id != realm {
        return fault(400, "610", "ValidationFault", "Object Not Found", "CompanyInfo");
    }
    let info =
        json!({ "CompanyName": "Example Company", "Country": "US", "Id": "1", "SyncToken": "4", "domain": "QBO" });
    answered(200, json!({ "CompanyInfo": info, "time": stamp(books.clock.now()) }))
}

/// `SELECT * FROM Entity [WHERE MetaData.LastUpdatedTime >= '…'] [ORDERBY MetaData.LastUpdatedTime ASC] [STARTPOSITION n]
/// [MAXRESULTS m]`
struct Statement {
    entity: String,
    since: Option<DateTime<Utc>>,
    start: usize,
    most: usize,
}

fn parse(text: &str) -> Option<Statement> {
    const TIME: &str = "MetaData.LastUpdatedTime";
    let mut words = text.split_whitespace().peekable();
    let begins = ["SELECT", "*", "FROM"].into_iter().all(|word| words.next() == Some(word));
    let entity = words.next().filter(|_| begins)?.to_owned();
    let mut statement = Statement { entity, since: None, start: 1, most: 100 };
    while let Some(word) = words.next() {
        match word {
            "WHERE" => {
                let known = words.next() == Some(TIME) && words.next() == Some(">=");
                let literal = words.next().filter(|_| known)?.strip_prefix('\'')?.strip_suffix('\'')?;
                statement.since = Some(DateTime::parse_from_rfc3339(literal).ok()?.to_utc());
            }
            "ORDERBY" => (words.next() == Some(TIME) && words.next() == Some("ASC")).then_some(())?,
            "STARTPOSITION" => statement.start = words.next()?.parse().ok().filter(|start| *start >= 1)?,
            "MAXRESULTS" => statement.most = words.next()?.parse().ok().filter(|most| (1..=1_000).contains(most))?,
            _ => return None,
        }
    }
    Some(statement)
}

async fn query(
    State(books): State<Arc<Books>>,
    Path(realm): Path<String>,
    Query(parameters): Parameters,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = books.refuses(&realm, &parameters, &headers) {
        return refused;
    }
    let Some(statement) = parameters.get("query").and_then(|text| parse(text)) else {
        return fault(400, "4000", "ValidationFault", "Error parsing query", "QueryParserError");
    };
    let inside = books.inside();
    let mut found: Vec<&Value> = inside
        .documents
        .iter()
        .filter(|((entity, _), document)| *entity == statement.entity && document["status"] != "Deleted")
        .map(|(_, document)| document)
        .filter(|document| statement.since.is_none_or(|since| updated(document).is_some_and(|at| at >= since)))
        .collect();
    found.sort_by_key(|document| updated(document));
    let page: Vec<Value> = found.into_iter().skip(statement.start - 1).take(statement.most).cloned().collect();
    let mut response = Map::new();
    if !page.is_empty() {
        response.insert("startPosition".to_owned(), json!(statement.start));
        response.insert("maxResults".to_owned(), json!(page.len()));
        response.insert(statement.entity, Value::Array(page));
    }
    answered(200, json!({ "QueryResponse": response, "time": stamp(books.clock.now()) }))
}

async fn cdc(
    State(books): State<Arc<Books>>,
    Path(realm): Path<String>,
    Query(parameters): Parameters,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = books.refuses(&realm, &parameters, &headers) {
        return refused;
    }
    let since = parameters.get("changedSince").and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    let Some(since) = since.map(|since| since.to_utc()) else {
        return fault(400, "2020", "ValidationFault", "Required param missing", "changedSince");
    };
    if books.clock.now() - since > Duration::days(CDC_DAYS) {
        return fault(400, "2010", "ValidationFault", "Invalid query", "changedSince looks back 30 days at most");
    }
    let inside = books.inside();
    let mut left = CDC_MOST;
    let mut responses = Vec::new();
    for wanted in parameters.get("entities").map_or("", String::as_str).split(',') {
        let mut found: Vec<&Value> = inside
            .documents
            .iter()
            .filter(|((entity, _), document)| *entity == wanted && updated(document).is_some_and(|at| at >= since))
            .map(|(_, document)| document)
            .collect();
        found.sort_by_key(|document| updated(document));
        found.truncate(left);
        left -= found.len();
        responses.push(match found.is_empty() {
            true => json!({}),
            false => json!({ wanted: found, "startPosition": 1, "maxResults": found.len(), "totalCount": found.len() }),
        });
    }
    let time = stamp(books.clock.now());
    answered(200, json!({ "CDCResponse": [{ "QueryResponse": responses }], "time": time }))
}
