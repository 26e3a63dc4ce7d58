//! NetSuite, one account of it: signatures and nonces that are checked, SuiteQL as far as it is spoken, its limits, and texts where
//! others have numbers.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{OriginalUri, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::{Datelike, Duration, NaiveDateTime};
use hmac::Hmac;
use percent_encoding::percent_decode_str;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use url::{Url, form_urlencoded};

use super::{Fake, Script};
use crate::{clients::oauth1, domain::Clock};

const ACCOUNT: &str = "1234567_SB1";
const KEYS: [(&str, &str); 4] = [
    ("consumer_key", "demo-consumer"),
    ("consumer_secret", "demo-consumer-secret"),
    ("token_id", "demo-token"),
    ("token_secret", "demo-token-secret"),
];
const CLIENT_ID: &str = "demo-client";
const CERTIFICATE_ID: &str = "demo-certificate";
/// How far the clock of a signature may be off.
const SKEW: Duration = Duration::seconds(300);
const BASE: &str = "/services/rest";

/// The fake. It stops when it is dropped.
pub struct NetSuite {
    pub fake: Fake,
    account: Arc<Suite>,
    private_key: String,
}

struct Suite {
    clock: Clock,
    public_key: Vec<u8>,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    /// By field, as SuiteQL names it; a name in brackets is what `BUILTIN.DF` shows.
    lines: BTreeMap<(u64, u64), Row>,
    assets: BTreeMap<u64, Row>,
    nonces: HashSet<String>,
    access: HashSet<String>,
    /// Fields that the account does not have.
    hidden: HashSet<String>,
    no_fixed_assets: bool,
    assertions: HashSet<String>,
}

type Row = BTreeMap<String, String>;

fn row<const N: usize>(fields: [(&str, &str); N]) -> Row {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl NetSuite {
    /// An account without orders and assets.
    pub async fn start(clock: Clock) -> std::io::Result<Self> {
        let random = SystemRandom::new();
        let failed = |_| std::io::Error::other("there are no random numbers");
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(failed)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random);
        let pair = pair.map_err(std::io::Error::other)?;
        let private_key =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(document.as_ref()));
        let public_key = pair.public_key().as_ref().to_vec();
        let account = Arc::new(Suite { clock, public_key, inside: Mutex::default() });
        let router = Router::new()
            .route("/services/rest/query/v1/suiteql", post(suiteql))
            .route("/services/rest/auth/oauth2/v1/token", post(token))
            .with_state(account.clone());
        Ok(Self { fake: Fake::start(router, Script::default()).await?, account, private_key })
    }

    /// The configuration of an integration with it.
    pub fn config(&self) -> Value {
        json!({
            "account": ACCOUNT, "currencies": { "US Dollar": "USD" }, "currency": "USD",
            "base_url": format!("{}{BASE}", self.fake.address()),
        })
    }

    /// Its credentials: of an access token.
    pub fn credentials(&self) -> Value {
        KEYS.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect::<Map<_, _>>().into()
    }

    /// Its credentials for OAuth 2.0.
    pub fn oauth_credentials(&self) -> Value {
        json!({ "client_id": CLIENT_ID, "certificate_id": CERTIFICATE_ID, "private_key": self.private_key })
    }

    /// Orders so many laptops at a price. Answers the id of the order; its line is 1.
    pub fn order(&self, number: &str, quantity: u32, rate: &str) -> u64 {
        let at = self.now();
        let mut inside = self.account.inside();
        let id = inside.lines.keys().next_back().map_or(501, |(id, _)| id + 1);
        let line = row([
            ("t.id", &id.to_string()),
            ("tl.id", "1"),
            ("t.tranid", number),
            ("t.trandate", &at),
            ("t.lastmodifieddate", &at),
            ("tl.linelastmodifieddate", &at),
            ("t.status", "B"),
            ("tl.item", "13861"),
            ("(tl.item)", "Laptop 14in"),
            ("tl.itemtype", "InvtPart"),
            ("tl.quantity", &quantity.to_string()),
            ("tl.quantityshiprecv", "0"),
            ("tl.rate", rate),
            ("tl.isclosed", "F"),
            ("t.currency", "1"),
            ("(t.currency)", "US Dollar"),
            ("t.entity", "107"),
            ("(t.entity)", "Example Supplies Ltd"),
        ]);
        inside.lines.insert((id, 1), line);
        id
    }

    /// The order has another line, as its first one is.
    pub fn add_line(&self, id: u64, line: u64) {
        let mut inside = self.account.inside();
        if let Some(mut row) = inside.lines.get(&(id, 1)).cloned() {
            row.insert("tl.id".to_owned(), line.to_string());
            inside.lines.insert((id, line), row);
        }
        drop(inside);
        self.touch(id);
    }

    /// The order has a line no more.
    pub fn drop_line(&self, id: u64, line: u64) {
        self.account.inside().lines.remove(&(id, line));
        self.touch(id);
    }

    /// The order itself has changed.
    fn touch(&self, id: u64) {
        let at = self.now();
        for (_, row) in self.account.inside().lines.range_mut((id, 0)..(id + 1, 0)) {
            row.insert("t.lastmodifieddate".to_owned(), at.clone());
        }
    }

    /// A fixed asset, depreciating over three years. Answers its id.
    pub fn capitalize(&self, name: &str, serial: &str, cost: &str) -> u64 {
        let at = self.now();
        let mut inside = self.account.inside();
        let id = inside.assets.keys().next_back().map_or(12, |id| id + 1);
        let asset = row([
            ("id", &id.to_string()),
            ("name", &format!("FAM{id:06}")),
            ("altname", name),
            ("lastmodified", &at),
            ("isinactive", "F"),
            ("custrecord_assettype", "2"),
            ("(custrecord_assettype)", "Computer"),
            ("custrecord_assetstatus", "2"),
            ("(custrecord_assetstatus)", "Depreciating"),
            ("custrecord_assetcost", cost),
            ("custrecord_assetbookvalue", cost),
            ("custrecord_assetlifetime", "36"),
            ("custrecord_assetserialno", serial),
            ("custrecord_assetpurchasedate", &at),
            ("custrecord_assetdeprstartdate", &at),
        ]);
        inside.assets.insert(id, asset);
        id
    }

    /// Overwrites a field of an order's line 1, for instance `t.status` or `tl.quantityshiprecv`.
    pub fn change_order(&self, id: u64, field: &str, value: &str) {
        let at = self.now();
        if let Some(line) = self.account.inside().lines.get_mut(&(id, 1)) {
            line.insert(field.to_owned(), value.to_owned());
            line.insert("tl.linelastmodifieddate".to_owned(), at);
        }
    }

    /// Overwrites a field of a fixed asset.
    pub fn change_asset(&self, id: u64, field: &str, value: &str) {
        let at = self.now();
        if let Some(asset) = self.account.inside().assets.get_mut(&id) {
            asset.insert(field.to_owned(), value.to_owned());
            asset.insert("lastmodified".to_owned(), at);
        }
    }

    /// The account has no such field, or the role does not see it: `tl.itemtype`.
    pub fn hide(&self, field: &str) {
        self.account.inside().hidden.insert(field.to_owned());
    }

    /// The account does not keep fixed assets.
    pub fn without_fixed_assets(&self) {
        self.account.inside().no_fixed_assets = true;
    }

    /// No access token of OAuth 2.0 is good any more.
    pub fn expire_tokens(&self) {
        self.account.inside().access.clear();
    }

    fn now(&self) -> String {
        self.account.clock.now().format("%Y-%m-%d %H:%M:%S").to_string()
    }
}

impl Suite {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call is made by somebody who may.
    fn knows(&self, uri: &str, headers: &HeaderMap) -> bool {
        let text =
            |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let authorization = text(header::AUTHORIZATION);
        if let Some(bearer) = authorization.strip_prefix("Bearer ") {
            return self.inside().access.contains(bearer);
        }
        let url = format!("http://{}{uri}", text(header::HOST));
        let signed =
            authorization.strip_prefix("OAuth ").and_then(|header| self.signed(header, &Url::parse(&url).ok()?));
        signed.is_some()
    }

    /// RFC 5849, section 3.2: the keys, the time, a nonce that is new, and the signature.
    fn signed(&self, header: &str, url: &Url) -> Option<()> {
        let mut given = BTreeMap::new();
        for pair in header.split(", ") {
            let (name, value) = pair.split_once('=')?;
            let value = value.strip_prefix('"')?.strip_suffix('"')?;
            given.insert(name, percent_decode_str(value).decode_utf8().ok()?.into_owned());
        }
        let [consumer, consumer_secret, token, token_secret] = KEYS.map(|(_, value)| value);
        let expected = [
            ("realm", ACCOUNT),
            ("oauth_consumer_key", consumer),
            ("oauth_token", token),
            ("oauth_signature_method", "HMAC-SHA256"),
            ("oauth_version", "1.0"),
        ];
        let known = expected.iter().all(|(name, value)| given.get(name).is_some_and(|given| given == value));
        let at: i64 = given.get("oauth_timestamp")?.parse().ok()?;
        let off = (self.clock.now().timestamp() - at).abs();
        if !known || off > SKEW.num_seconds() || !self.inside().nonces.insert(given.get("oauth_nonce")?.clone()) {
            return None;
        }
        let signature = given.remove("oauth_signature")?;
        given.remove("realm");
        let parameters: Vec<(&str, String)> = given.into_iter().collect();
        let base = oauth1::base_string(&Method::POST, url, &parameters);
        let right = oauth1::signature::<Hmac<Sha256>>(&base, &consumer_secret.into(), &token_secret.into());
        (signature == right).then_some(())
    }

    /// RFC 7523, section 3, as NetSuite has it: ES256, a certificate that is known, an hour at most, and once.
    fn believes(&self, assertion: &str, audience: &str) -> Option<()> {
        let (message, signature) = assertion.rsplit_once('.')?;
        let (head, claims) = message.split_once('.')?;
        let read = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let (head, claims) = (read(head)?, read(claims)?);
        let now = self.clock.now().timestamp();
        let (iat, exp) = (claims["iat"].as_i64()?, claims["exp"].as_i64()?);
        let fits = head["alg"] == "ES256"
            && head["kid"] == CERTIFICATE_ID
            && claims["iss"] == CLIENT_ID
            && claims["aud"] == audience
            && claims["scope"].as_array().is_some_and(|scopes| scopes.contains(&json!("rest_webservices")))
            && (now - iat).abs() <= SKEW.num_seconds()
            && (now..=iat + 3_600).contains(&exp);
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public_key);
        key.verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        (fits && self.inside().assertions.insert(assertion.to_owned())).then_some(())
    }
}

fn problem(status: u16, code: &str, detail: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or_default();
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({
        "type": "https://www.w3.org/Protocols/rfc2616/rfc2616-sec10.html", "title": title, "status": status.as_u16(),
        "o:errorDetails": [{ "detail": detail, "o:errorCode": code }],
    });
    (status, Json(body)).into_response()
}

async fn token(State(account): State<Arc<Suite>>, headers: HeaderMap, body: Bytes) -> Response {
    let form: BTreeMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    let is = |name: &str, value: &str| form.get(name).is_some_and(|given| given == value);
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let refuse = |error: &str| (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    if !is("grant_type", "client_credentials") || !is("client_assertion_type", kind) {
        return refuse("invalid_request");
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let audience = format!("http://{host}{BASE}/auth/oauth2/v1/token");
    let assertion = form.get("client_assertion").map_or("", String::as_str);
    if account.believes(assertion, &audience).is_none() {
        return refuse("invalid_grant");
    }
    let mut inside = account.inside();
    let token = format!("demo-access-{}", inside.assertions.len());
    inside.access.insert(token.clone());
    Json(json!({ "access_token": token, "expires_in": "3600", "token_type": "bearer" })).into_response()
}

async fn suiteql(
    State(account): State<Arc<Suite>>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let path = uri.path_and_query().map_or_else(String::new, ToString::to_string);
    if !account.knows(&path, &headers) {
        return problem(401, "INVALID_LOGIN", "Invalid login attempt.");
    }
    if headers.get("prefer").is_none_or(|prefer| prefer != "transient") {
        return problem(400, "INVALID_REQUEST", "The required request header Prefer is missing or not transient.");
    }
    let parameters: BTreeMap<String, String> =
        form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let number = |name: &str, default: usize| parameters.get(name).map_or(Some(default), |text| text.parse().ok());
    let limits = number("limit", 1_000).zip(number("offset", 0));
    let Some((limit, offset)) = limits.filter(|(limit, _)| (1..=1_000).contains(limit)) else {
        return problem(400, "INVALID_PARAMETER", "Invalid limit.");
    };
    if offset % limit != 0 || offset >= 100_000 {
        return problem(400, "INVALID_PARAMETER", "Invalid offset.");
    }
    let inside = account.inside();
    match inside.select(body["q"].as_str().unwrap_or_default()) {
        Err((code, detail)) => problem(400, code, &detail),
        Ok(rows) => {
            let total = rows.len();
            let items: Vec<Value> = rows.into_iter().skip(offset).take(limit).collect();
            Json(json!({
                "links": [], "count": items.len(), "hasMore": offset + items.len() < total, "items": items,
                "offset": offset, "totalResults": total,
            }))
            .into_response()
        }
    }
}

impl Inside {
    /// `SELECT … FROM <one of the two> [WHERE …] ORDER BY …`, with the conditions that there are: changed since, and after a key.
    fn select(&self, query: &str) -> Result<Vec<Value>, (&'static str, String)> {
        let invalid = |what: &str| ("INVALID_PARAMETER", format!("Invalid search query. {what}"));
        let (columns, rest) = query
            .strip_prefix("SELECT ")
            .and_then(|rest| rest.split_once(" FROM "))
            .ok_or_else(|| invalid("There is no SELECT."))?;
        if columns.contains("MAX(") {
            return self.newest(&split(columns), rest).map(|row| vec![row]).map_err(|field| invalid(&field));
        }
        let (from, order) = rest.split_once(" ORDER BY ").ok_or_else(|| invalid("Rows without an order."))?;
        let of_orders = from.starts_with("transactionline tl JOIN transaction t ON tl.transaction = t.id WHERE");
        let rows: Vec<&Row> = match (of_orders, from.starts_with("customrecord_ncfar_asset")) {
            (true, _) if order.starts_with("t.id") && from.contains("t.type = 'PurchOrd'") => {
                self.lines.values().collect()
            }
            (_, true) if self.no_fixed_assets => {
                return Err(("INVALID_PARAMETER", "Record 'customrecord_ncfar_asset' was not found.".to_owned()));
            }
            (_, true) if order == "id" => self.assets.values().collect(),
            _ => return Err(invalid("Unknown table or order.")),
        };
        let key = if of_orders { "t.id" } else { "id" };
        let after: Option<u64> = following(from, &format!("{key} > "));
        let line: Option<u64> = following(from, "tl.id > ");
        let since = from.split_once("TO_DATE('").and_then(|(_, text)| text.get(..19));
        let changes: &[&str] =
            if of_orders { &["t.lastmodifieddate", "tl.linelastmodifieddate"] } else { &["lastmodified"] };
        if let Some(field) = changes.iter().find(|field| from.contains(**field) && self.hidden.contains(**field)) {
            return Err(invalid(&format!("Field '{field}' was not found.")));
        }
        let wanted = |row: &&&Row| {
            let id: u64 = row.get(key).and_then(|id| id.parse().ok()).unwrap_or(0);
            let in_line: u64 = row.get("tl.id").and_then(|id| id.parse().ok()).unwrap_or(0);
            let later =
                after.is_none_or(|after| id > after || (id == after && line.is_some_and(|line| in_line > line)));
            let changed =
                |since: &str| changes.iter().any(|field| row.get(*field).is_some_and(|at| at.as_str() >= since));
            later && since.is_none_or(changed)
        };
        let columns = split(columns);
        rows.iter().filter(wanted).map(|row| self.shown(row, &columns).map_err(|field| invalid(&field))).collect()
    }

    /// The latest of times, of all orders or all fixed assets.
    fn newest(&self, columns: &[&str], from: &str) -> Result<Value, String> {
        let rows: Vec<&Row> = match from.starts_with("transactionline") {
            true => self.lines.values().collect(),
            false if self.no_fixed_assets => {
                return Err("Record 'customrecord_ncfar_asset' was not found.".to_owned());
            }
            false => self.assets.values().collect(),
        };
        let mut newest = Map::new();
        for column in columns {
            let (expression, name) = column.split_once(" AS ").unwrap_or((column, column));
            let field = expression.strip_prefix("TO_CHAR(MAX(").and_then(|rest| rest.split(')').next());
            let field = field.ok_or("No maximum.")?;
            if self.hidden.contains(field) {
                return Err(format!("Field '{field}' was not found."));
            }
            if let Some(latest) = rows.iter().filter_map(|row| row.get(field)).max() {
                newest.insert(name.to_owned(), json!(latest));
            }
        }
        Ok(newest.into())
    }

    fn shown(&self, row: &Row, columns: &[&str]) -> Result<Value, String> {
        let mut shown = Map::from_iter([("links".to_owned(), json!([]))]);
        for column in columns {
            let (expression, name) = column.split_once(" AS ").unwrap_or((column, column));
            let inner = |function: &str| expression.strip_prefix(function)?.strip_suffix(')');
            let (field, value) = if let Some(field) = inner("BUILTIN.DF(") {
                (field, row.get(&format!("({field})")).cloned())
            } else if let Some((field, format)) = inner("TO_CHAR(").and_then(|inner| inner.split_once(", ")) {
                let length = if format == "'YYYY-MM-DD'" { 10 } else { 19 };
                (field, row.get(field).and_then(|value| value.get(..length)).map(str::to_owned))
            } else {
                (expression, row.get(expression).map(|value| as_shown(value)))
            };
            if self.hidden.contains(field) {
                return Err(format!("Field '{}' was not found.", field.rsplit('.').next().unwrap_or(field)));
            }
            // What is empty is left out.
            if let Some(value) = value {
                shown.insert(name.to_owned(), Value::String(value));
            }
        }
        Ok(shown.into())
    }
}

/// Dates come as the account's users write them.
fn as_shown(value: &str) -> String {
    match NaiveDateTime::parse_from_str(value, "%Y-%m-%d %H:%M:%S") {
        Ok(at) => format!("{}/{}/{}", at.month(), at.day(), at.year()),
        Err(_) => value.to_owned(),
    }
}

/// The number behind a text.
fn following(text: &str, before: &str) -> Option<u64> {
    let (_, rest) = text.split_once(before)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// At the commas that are in no brackets.
fn split(columns: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (at, letter) in columns.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(columns[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(columns[start..].trim());
    parts
}
