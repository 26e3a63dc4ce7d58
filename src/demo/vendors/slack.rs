//! A Slack workspace: 200 for almost everything, refusals as words, one message a second per channel, messages that keep their
//! metadata. Shapes are those of the published samples (slackapi/java-slack-sdk) and of the list of methods (slack-ruby/slack-api-ref).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use url::form_urlencoded;

use super::{Fake, Script};
use crate::domain::Clock;

/// The bot token that it takes, and the secret that it signs with.
pub const TOKEN: &str = "xoxb-4711-0815-demo";
pub const SIGNING_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
const TEAM: &str = "T0FIKTIV";
const BOT: &str = "U0BACKROOM";
const SCOPES: [&str; 7] =
    ["chat:write", "channels:history", "groups:history", "im:write", "im:history", "users:read", "users:read.email"];

/// It stops when it is dropped.
pub struct Slack {
    pub fake: Fake,
    state: Shared,
}

/// How a channel treats the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Open,
    /// The app was not invited.
    NotInvited,
    Archived,
    /// Admins alone write there.
    Restricted,
}

/// A message as it lies in a channel.
#[derive(Clone, Debug)]
pub struct Said {
    pub ts: String,
    pub text: String,
    pub blocks: Value,
    pub metadata: Value,
}

type Shared = Arc<Workspace>;

struct Workspace {
    clock: Clock,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    channels: BTreeMap<String, Channel>,
    /// Ids by address, in lower case; `true`: the account is closed.
    people: BTreeMap<String, (String, bool)>,
    scopes: Vec<String>,
    /// Why the token is not taken any more.
    revoked: Option<&'static str>,
    /// Between two messages of a channel.
    pause: Option<Duration>,
}

struct Channel {
    door: Door,
    said: Vec<Said>,
    last: Option<Instant>,
}

impl Slack {
    /// A workspace without people, with the channel `C0ALLMANT`.
    pub async fn start() -> std::io::Result<Self> {
        let inside = Inside {
            scopes: SCOPES.map(str::to_owned).to_vec(),
            pause: Some(Duration::from_secs(1)),
            ..Inside::default()
        };
        let state = Arc::new(Workspace { clock: Clock::system(), inside: Mutex::new(inside) });
        let router = Router::new().route("/api/{method}", post(call)).with_state(state.clone());
        let slack = Self { fake: Fake::start(router, Script::default()).await?, state };
        slack.channel("C0ALLMANT", Door::Open);
        Ok(slack)
    }

    /// What an integration is created with.
    pub fn config(&self) -> Value {
        json!({ "base_url": format!("{}/api", self.fake.address()) })
    }

    pub fn credentials(&self) -> Value {
        json!({ "bot_token": TOKEN, "signing_secret": SIGNING_SECRET })
    }

    /// Makes a channel, or opens or closes one.
    pub fn channel(&self, id: &str, door: Door) {
        let mut inside = self.state.inside();
        inside
            .channels
            .entry(id.to_owned())
            .and_modify(|channel| channel.door = door)
            .or_insert_with(|| Channel::new(door));
    }

    pub fn person(&self, id: &str, email: &str) {
        self.state.inside().people.insert(email.to_lowercase(), (id.to_owned(), false));
    }

    /// The account is closed.
    pub fn leaves(&self, email: &str) {
        if let Some((_, closed)) = self.state.inside().people.get_mut(&email.to_lowercase()) {
            *closed = true;
        }
    }

    /// The token is refused with this word from now on, `token_revoked`; `None`: it is taken again.
    pub fn revoke(&self, word: Option<&'static str>) {
        self.state.inside().revoked = word;
    }

    /// The app has these scopes alone.
    pub fn allow(&self, scopes: &[&str]) {
        self.state.inside().scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    }

    /// Takes messages as fast as they come, as Slack does with bursts.
    pub fn patient(&self) {
        self.state.inside().pause = None;
    }

    /// What was said in a channel, oldest first.
    pub fn said(&self, channel: &str) -> Vec<Said> {
        self.state.inside().channels.get(channel).map(|channel| channel.said.clone()).unwrap_or_default()
    }

    /// A delivery of the event as Slack sends it now.
    pub fn webhook(&self, id: &str, event: &Value) -> (HeaderMap, Vec<u8>) {
        let envelope = json!({"type": "event_callback", "team_id": TEAM, "event_id": id, "event": event});
        signed(&envelope, self.state.clock.now().timestamp())
    }
}

impl Channel {
    fn new(door: Door) -> Self {
        Self { door, said: Vec::new(), last: None }
    }
}

impl Workspace {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The headers and the body of a request that Slack sent at this time.
pub fn signed(body: &Value, timestamp: i64) -> (HeaderMap, Vec<u8>) {
    let body = body.to_string();
    let signature = Hmac::<Sha256>::new_from_slice(SIGNING_SECRET.as_bytes()).map(|mut mac| {
        mac.update(format!("v0:{timestamp}:{body}").as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    });
    let signature = format!("v0={}", signature.unwrap_or_default());
    let headers = [
        ("x-slack-signature", signature),
        ("x-slack-request-timestamp", timestamp.to_string()),
        ("content-type", "application/json".to_owned()),
    ];
    let headers = headers
        .into_iter()
        .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?)));
    (headers.collect(), body.into_bytes())
}

/// A refusal.
fn no(error: &str) -> Value {
    json!({ "ok": false, "error": error })
}

async fn call(
    State(workspace): State<Shared>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut inside = workspace.inside();
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let content_type = text(header::CONTENT_TYPE).to_owned();
    let refused = match text(header::AUTHORIZATION).strip_prefix("Bearer ") {
        None => Some("not_authed"),
        Some(token) if token != TOKEN => Some("invalid_auth"),
        Some(_) => inside.revoked,
    };
    if let Some(word) = refused {
        return Json(no(word)).into_response();
    }
    let is_json = content_type.starts_with("application/json");
    let fields = Fields::read(is_json, &body);
    let answer = match method.as_str() {
        "auth.test" => Ok(json!({
            "ok": true, "url": "https://fiktiv.slack.example/", "team": "Fiktiv AB", "user": "backroom", "team_id": TEAM,
            "user_id": BOT, "bot_id": "B0BACKROOM",
        })),
        "chat.postMessage" => inside.post(&workspace.clock, &fields, is_json && !content_type.contains("charset")),
        "users.lookupByEmail" => inside.look_up(&fields.unless_json(is_json)),
        "conversations.open" => inside.open(&fields),
        "conversations.history" => inside.history(&fields.unless_json(is_json)),
        _ => Ok(no("unknown_method")),
    };
    let scopes = inside.scopes.join(",");
    drop(inside);
    match answer {
        Ok(answer) => ([("x-oauth-scopes", scopes)], Json(answer)).into_response(),
        Err(Busy) => {
            let wait = [(header::RETRY_AFTER, "1")];
            (StatusCode::TOO_MANY_REQUESTS, wait, Json(no("ratelimited"))).into_response()
        }
    }
}

/// Too many messages for this channel.
struct Busy;

struct Fields(serde_json::Map<String, Value>);

impl Fields {
    fn read(is_json: bool, body: &[u8]) -> Self {
        if is_json {
            return Self(serde_json::from_slice(body).unwrap_or_default());
        }
        Self(form_urlencoded::parse(body).map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect())
    }

    /// Methods that read ignore JSON.
    fn unless_json(self, is_json: bool) -> Self {
        if is_json { Self(serde_json::Map::new()) } else { self }
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Inside {
    fn lacks(&self, scope: &str) -> Option<Value> {
        if self.scopes.iter().any(|has| has == scope) {
            return None;
        }
        let provided = self.scopes.join(",");
        Some(json!({ "ok": false, "error": "missing_scope", "needed": scope, "provided": provided }))
    }

    fn post(&mut self, clock: &Clock, fields: &Fields, no_charset: bool) -> Result<Value, Busy> {
        if let Some(refused) = self.lacks("chat:write") {
            return Ok(refused);
        }
        let pause = self.pause;
        let id = fields.text("channel");
        let Some(channel) = self.channels.get_mut(id) else { return Ok(no("channel_not_found")) };
        match channel.door {
            Door::Open => {}
            Door::NotInvited => return Ok(no("not_in_channel")),
            Door::Archived => return Ok(no("is_archived")),
            Door::Restricted => return Ok(no("restricted_action_read_only_channel")),
        }
        let blocks = fields.0.get("blocks").cloned().unwrap_or_else(|| json!([]));
        let metadata = fields.0.get("metadata").cloned().unwrap_or(Value::Null);
        if fields.text("text").is_empty() && blocks == json!([]) {
            return Ok(no("no_text"));
        }
        if let Some(refused) = wrong_blocks(&blocks).or_else(|| wrong_metadata(&metadata)) {
            return Ok(refused);
        }
        if pause.is_some_and(|pause| channel.last.is_some_and(|last| last.elapsed() < pause)) {
            return Err(Busy);
        }
        channel.last = Some(Instant::now());
        let text: String = fields.text("text").chars().take(40_000).collect();
        let ts = next_ts(clock, channel.said.last());
        let mut message = json!({
            "type": "message", "user": BOT, "bot_id": "B0BACKROOM", "app_id": "A0BACKROOM", "team": TEAM, "text": text, "ts": ts,
            "blocks": blocks, "bot_profile": {"id": "B0BACKROOM", "deleted": false, "name": "backroom", "team_id": TEAM},
        });
        if !metadata.is_null() {
            message["metadata"] = metadata.clone();
        }
        channel.said.push(Said { ts: ts.clone(), text, blocks, metadata });
        let mut answer = json!({ "ok": true, "channel": id, "ts": ts, "message": message });
        if no_charset {
            answer["warning"] = json!("missing_charset");
            answer["response_metadata"] = json!({ "warnings": ["missing_charset"] });
        }
        Ok(answer)
    }

    fn look_up(&self, fields: &Fields) -> Result<Value, Busy> {
        if let Some(refused) = self.lacks("users:read.email") {
            return Ok(refused);
        }
        let email = fields.text("email");
        Ok(match self.people.get(&email.to_lowercase()) {
            Some((id, false)) => json!({
                "ok": true,
                "user": {
                    "id": id, "team_id": TEAM, "name": "someone", "deleted": false, "real_name": "Someone", "tz": "Europe/Stockholm",
                    "is_bot": false, "updated": 1_772_438_400, "profile": {"email": email, "real_name": "Someone"},
                },
            }),
            _ => no("users_not_found"),
        })
    }

    /// Direct messages of a user: a channel of their own.
    fn open(&mut self, fields: &Fields) -> Result<Value, Busy> {
        if let Some(refused) = self.lacks("im:write") {
            return Ok(refused);
        }
        let user = fields.text("users");
        if !self.people.values().any(|(id, closed)| id == user && !closed) {
            return Ok(no("user_not_found"));
        }
        let id = format!("D{}", user.trim_start_matches('U'));
        self.channels.entry(id.clone()).or_insert_with(|| Channel::new(Door::Open));
        Ok(json!({ "ok": true, "channel": { "id": id } }))
    }

    /// Newest first, a page at a time; the cursor is the place to go on at.
    fn history(&self, fields: &Fields) -> Result<Value, Busy> {
        let id = fields.text("channel");
        if let Some(refused) = self.lacks(if id.starts_with('D') { "im:history" } else { "channels:history" }) {
            return Ok(refused);
        }
        let Some(channel) = self.channels.get(id) else { return Ok(no("channel_not_found")) };
        if channel.door == Door::NotInvited {
            return Ok(no("not_in_channel"));
        }
        let limit = match fields.text("limit") {
            "" => 100,
            limit => match limit.parse::<usize>() {
                Ok(limit @ 1..=999) => limit,
                _ => return Ok(no("invalid_limit")),
            },
        };
        let start = match fields.text("cursor") {
            "" => 0,
            cursor => match cursor.strip_prefix("next").and_then(|n| n.trim_end_matches('=').parse::<usize>().ok()) {
                Some(start) => start,
                None => return Ok(no("invalid_cursor")),
            },
        };
        let oldest = fields.text("oldest").parse::<f64>().unwrap_or(0.0);
        let with_metadata = fields.text("include_all_metadata") == "true";
        let in_time = channel.said.iter().rev().filter(|said| said.ts.parse::<f64>().is_ok_and(|ts| ts >= oldest));
        let page: Vec<&Said> = in_time.clone().skip(start).take(limit).collect();
        let has_more = in_time.count() > start + page.len();
        let messages = page.into_iter().map(|said| {
            let mut message = json!({ "type": "message", "user": BOT, "text": said.text, "ts": said.ts });
            if with_metadata && !said.metadata.is_null() {
                message["metadata"] = said.metadata.clone();
            }
            message
        });
        let messages: Vec<Value> = messages.collect();
        let next_cursor = if has_more { format!("next{}=", start + messages.len()) } else { String::new() };
        Ok(json!({
            "ok": true, "messages": messages, "has_more": has_more, "pin_count": 0,
            "response_metadata": {"next_cursor": next_cursor},
        }))
    }
}

/// Later than the channel's last one, with six digits after the point.
fn next_ts(clock: &Clock, last: Option<&Said>) -> String {
    let now = clock.now().timestamp_micros();
    let last = last.and_then(|said| said.ts.replace('.', "").parse::<i64>().ok()).unwrap_or_default();
    let ts = now.max(last + 1);
    format!("{}.{:06}", ts / 1_000_000, ts % 1_000_000)
}

/// What Block Kit's documented limits refuse.
fn wrong_blocks(blocks: &Value) -> Option<Value> {
    let refuse = |pointer: String, why: &str| {
        let told = format!("{why} [json-pointer:{pointer}]");
        Some(json!({
            "ok": false, "error": "invalid_blocks", "errors": [told.clone()], "response_metadata": {"messages": [format!("[ERROR] {told}")]},
        }))
    };
    let Some(blocks) = blocks.as_array() else { return Some(no("invalid_blocks_format")) };
    if blocks.len() > 50 {
        return refuse("/blocks".to_owned(), "no more than 50 items allowed");
    }
    let mut all = 0;
    for (n, block) in blocks.iter().enumerate() {
        let length = |text: &Value| text["text"].as_str().map_or(0, |text| text.chars().count());
        let within = |text: &Value, most: usize| (1..=most).contains(&length(text));
        all += length(&block["text"]);
        match block["type"].as_str() {
            Some("divider") => {}
            Some("header") if block["text"]["type"] != "plain_text" || !within(&block["text"], 150) => {
                return refuse(format!("/blocks/{n}/text/text"), "must be less than 151 characters");
            }
            Some("section") if block.get("text").is_some() && !within(&block["text"], 3_000) => {
                return refuse(format!("/blocks/{n}/text/text"), "must be less than 3001 characters");
            }
            Some("section") => {
                let fields = block["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
                all += fields.iter().map(length).sum::<usize>();
                if fields.len() > 10 || fields.iter().any(|field| !within(field, 2_000)) {
                    return refuse(format!("/blocks/{n}/fields"), "no more than 10 items of 2000 characters allowed");
                }
            }
            Some("context") => {
                let elements = block["elements"].as_array().map(Vec::as_slice).unwrap_or_default();
                all += elements.iter().map(length).sum::<usize>();
                if !(1..=10).contains(&elements.len()) || elements.iter().any(|element| !within(element, 2_000)) {
                    return refuse(format!("/blocks/{n}/elements"), "1 to 10 items of 2000 characters allowed");
                }
            }
            Some("header") => {}
            _ => return refuse(format!("/blocks/{n}/type"), "unsupported type"),
        }
    }
    // Undocumented; 9,600 characters were seen to be taken, 11,300 to be refused.
    (all > 10_000).then(|| no("msg_blocks_too_long"))
}

fn wrong_metadata(metadata: &Value) -> Option<Value> {
    if metadata.is_null() {
        return None;
    }
    let flat = metadata["event_payload"]
        .as_object()
        .is_some_and(|fields| fields.values().all(|v| !v.is_object() && !v.is_array()));
    if !metadata["event_type"].is_string() || !flat {
        return Some(no("invalid_metadata_format"));
    }
    (metadata.to_string().len() > 16_000).then(|| no("metadata_too_large"))
}
