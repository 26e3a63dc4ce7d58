//! A small HRIS of the tests' own: real HTTP, tokens that rotate, pages, and moods on command.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use backroom_queue::{Ctx, Job, JobResult, NewJob, Outcome, Registry, Verdict, registry, run_inline, testing};
use futures::future::BoxFuture;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::sync::Notify;
use url::form_urlencoded;
use uuid::Uuid;

use super::{SyncIntegration, create_integration};
use crate::{
    clients::{
        connector::{Access, Connector, ConnectorError, Grant, OAuth, ReadFrom, RecordPage},
        http::{Content, Endpoint, Http, Method, header},
    },
    context::App,
    demo::vendors::{Fake, Script},
    domain::{
        Clock, EmailAddress,
        integration::{BadRecord, Integration, NewIntegration, Provider, SyncMode, SyncRun, SyncTrigger},
        source_record::{AssetFacts, EmployeeFacts, Facts, RecordKind, SourceRecord},
    },
    jobs::{actor, organization, testing::World},
    store::{Page, Sealer, events, integrations, sync_runs},
    sync::Site,
};

/// A job of a test was asked to stop.
pub static STOPPED: Notify = Notify::const_new();

pub const STREAMS: [&str; 2] = ["people", "things"];

/// What the vendor has.
#[derive(Clone, Default)]
pub struct Data {
    pub people: Vec<Entry>,
    pub things: Vec<Entry>,
    pub per_page: usize,
    /// Every page names the first as the next.
    pub stuck: bool,
    /// The access token that is taken; `None`: anybody is let in.
    pub token: Option<String>,
    /// The refresh token that is taken, and another that is taken, too.
    pub refresh: String,
    pub grace: Option<String>,
    pub lifetime_s: u64,
    /// No token, whatever it is, is taken.
    pub shut: bool,
}

/// A person or a thing.
#[derive(Clone, Serialize)]
pub struct Entry {
    pub id: String,
    /// Empty: a bad record.
    pub name: String,
    /// When it changed last.
    pub revision: u64,
    pub gone: bool,
}

pub type Shared = Arc<Mutex<Data>>;

/// A world with that vendor, and an integration of it.
pub struct Rig {
    pub world: World,
    pub vendor: Fake,
    pub data: Shared,
    pub integration_id: Uuid,
    pub registry: Arc<Registry<App>>,
}

impl Rig {
    /// So many people, ten to a page, no tokens.
    pub async fn new(people: usize) -> Self {
        Self::with(Data { people: entries("p", people), per_page: 10, ..Data::default() }).await
    }

    /// The same behind OAuth 2.0; the integration knows the refresh token `refresh-0`.
    pub async fn guarded(people: usize) -> Self {
        let data = Data {
            people: entries("p", people),
            per_page: 10,
            token: Some("nobody has this one".to_owned()),
            refresh: "refresh-0".to_owned(),
            lifetime_s: 3600,
            ..Data::default()
        };
        Self::with(data).await
    }

    async fn with(data: Data) -> Self {
        let world = World::with(&[("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1")]).await;
        let is_guarded = data.token.is_some();
        let data = Arc::new(Mutex::new(data));
        let router = Router::new().route("/token", post(token)).route("/{stream}", get(page)).with_state(data.clone());
        let vendor = Fake::start(router, Script::default()).await.unwrap();
        let new = NewIntegration {
            provider: Provider::BambooHr,
            name: "HR".to_owned(),
            config: json!({ "base_url": vendor.address(), "guarded": is_guarded }),
            interval_minutes: 60,
            enabled: true,
        };
        let credentials = SecretString::from(r#"{"refresh_token":"refresh-0"}"#);
        let sealer = Sealer::new(&world.app.vault, "acme");
        let mut tx = world.tenant().await;
        let made = create_integration(&mut tx, sealer, (&new, &credentials), "test", world.now()).await.unwrap();
        tx.commit().await.unwrap();
        Self { world, vendor, data, integration_id: made.id, registry: Arc::new(registry![Read]) }
    }

    pub fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn site(&self) -> Site<'_> {
        let app = &self.world.app;
        let sealer = Sealer::new(&app.vault, "acme");
        Site { db: &app.db, organization: &self.world.organization, sealer, http: &app.http, clock: &app.clock }
    }

    pub fn connector(&self) -> Hr {
        let app = &self.world.app;
        let guarded = self.data().token.is_some();
        Hr::new(app.http.clone(), app.clock.clone(), self.vendor.address(), guarded)
    }

    pub fn job(&self, mode: Option<SyncMode>) -> Read {
        Read { integration_id: self.integration_id, mode, again: 0 }
    }

    /// A sync's first attempt.
    pub async fn sync(&self, mode: Option<SyncMode>) -> Outcome {
        self.start(self.job(mode)).await
    }

    pub async fn start(&self, job: Read) -> Outcome {
        let app = self.world.app.clone();
        run_inline(&app.db, &self.registry, app.clone(), NewJob::of(&job).tenant("acme"), |_, _| {}).await.unwrap().0
    }

    /// The next attempts of what waits, at once.
    pub async fn go_on(&self) -> Vec<Outcome> {
        let db = &self.world.app.db;
        self.execute("update queue.rate_limits set blocked_until = null, tokens = 1000").await;
        testing::fast_forward(db).await.unwrap();
        let ran = testing::drain(db, &self.registry, self.world.app.clone(), "integrations").await.unwrap();
        ran.into_iter().map(|(_, outcome)| outcome).collect()
    }

    pub async fn execute(&self, sql: &str) {
        sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&self.world.app.db).await.unwrap();
    }

    pub async fn integration(&self) -> Integration {
        integrations::by_id(&mut *self.world.tenant().await, self.integration_id).await.unwrap().unwrap()
    }

    /// Newest first.
    pub async fn runs(&self) -> Vec<SyncRun> {
        let page = Page { newest_first: true, ..Page::first(100) };
        sync_runs::page(&mut *self.world.tenant().await, Some(self.integration_id), page).await.unwrap()
    }

    /// The stored employees' ids at the source with the row's version, in their order.
    pub async fn stored(&self) -> Vec<(String, String)> {
        let sql = "select external_id, xmin::text from employees order by external_id";
        sqlx::query_as(sql).fetch_all(&mut *self.world.tenant().await).await.unwrap()
    }

    pub async fn ids(&self) -> Vec<String> {
        self.stored().await.into_iter().map(|(id, _)| id).collect()
    }

    /// The integration's events.
    pub async fn told(&self) -> Vec<String> {
        let topic = format!("integration:{}", self.integration_id);
        let page = events::page(&mut *self.world.tenant().await, Some(&topic), Page::first(100)).await.unwrap();
        page.into_iter().map(|event| event.kind).collect()
    }

    /// The queries that a stream was read with.
    pub fn asked(&self, stream: &str) -> Vec<String> {
        let path = format!("/{stream}");
        let asked = self.vendor.script.asked();
        asked.into_iter().filter(|asked| asked.path == path).map(|asked| asked.query).collect()
    }
}

/// Numbered from 0: `p0000`, …
pub fn entries(letter: &str, count: usize) -> Vec<Entry> {
    let entry = |n| Entry { id: format!("{letter}{n:04}"), name: format!("Name {n}"), revision: 1, gone: false };
    (0..count).map(entry).collect()
}

/// As [`SyncIntegration`], of this vendor, which no list knows.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Read {
    pub integration_id: Uuid,
    pub mode: Option<SyncMode>,
    /// Jobs that differ are not each other's duplicates.
    pub again: u32,
}

impl Job for Read {
    type App = App;
    const KIND: &'static str = "debug.read";
    const QUEUE: &'static str = "integrations";
    const MAX_ATTEMPTS: u32 = 3;

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let cancelled = ctx.cancelled().clone();
        tokio::spawn(async move {
            cancelled.cancelled().await;
            STOPPED.notify_one();
        });
        let organization = organization(&ctx).await?;
        let mut tx = crate::tenant::begin(&ctx.app.db, &organization).await?;
        let integration = integrations::by_id(&mut tx, self.integration_id).await?;
        tx.commit().await?;
        let Some(integration) = integration else { return Ok(Verdict::Cancel("gone".to_owned())) };
        if let Some(reason) = super::sync::needless(&integration) {
            return self.real().needless(&ctx, &organization, reason).await;
        }
        let (config, http, clock) = (&integration.config, ctx.app.http.clone(), ctx.app.clock.clone());
        let guarded = config["guarded"] == true;
        let hr = Hr::new(http, clock, config["base_url"].as_str().unwrap_or_default(), guarded);
        assert!(actor(&ctx).starts_with("job:"));
        self.real().read(&ctx, &organization, (&hr, &integration.config), 6000).await
    }

    async fn discarded(self, ctx: Ctx<App>, reason: String) -> anyhow::Result<()> {
        self.real().discarded(ctx, reason).await
    }
}

impl Read {
    fn real(&self) -> SyncIntegration {
        SyncIntegration { integration_id: self.integration_id, mode: self.mode, trigger: SyncTrigger::Manual }
    }
}

/// The vendor's connector.
pub struct Hr {
    address: String,
    endpoint: Endpoint,
    http: Http,
    clock: Clock,
    oauth: Option<OAuth>,
}

impl Hr {
    fn new(http: Http, clock: Clock, address: &str, guarded: bool) -> Self {
        let endpoint = Endpoint::parse(address).unwrap();
        let oauth = guarded.then(|| OAuth {
            token_endpoint: endpoint.join("token"),
            client_id: "backroom".to_owned(),
            client_secret: Some("client-secret".into()),
            basic: true,
            grant: Grant::RefreshToken,
            default_lifetime_s: 3600,
        });
        Self { address: address.to_owned(), endpoint, http, clock, oauth }
    }

    async fn get(&self, access: &Access, stream: &str, query: &[(&str, &str)]) -> Result<Value, ConnectorError> {
        let bearer = access.bearer.as_ref().map(|token| format!("Bearer {}", token.expose_secret()));
        let headers: Vec<_> = bearer.map(|bearer| (header::AUTHORIZATION, bearer.into())).into_iter().collect();
        let reply = self.http.send(Method::GET, &self.endpoint.join(stream), query, &headers, Content::Empty).await;
        let reply = reply.map_err(|error| ConnectorError::of_http("HR", &error))?;
        match reply.status {
            200 => serde_json::from_slice(&reply.body).map_err(|_| ConnectorError::Protocol("not JSON".to_owned())),
            401 => Err(ConnectorError::Unauthorized("HR does not take the access token".to_owned())),
            403 => Err(ConnectorError::Forbidden("HR misses the scope people.read".to_owned())),
            410 => Err(ConnectorError::CursorExpired),
            429 => Err(ConnectorError::RateLimited("HR", reply.retry_after(self.clock.now()))),
            500.. => Err(ConnectorError::Transient(format!("HR answered {}", reply.status))),
            other => Err(ConnectorError::Protocol(format!("HR answered {other}"))),
        }
    }
}

impl Connector for Hr {
    fn account(&self) -> &str {
        &self.address
    }

    fn oauth(&self) -> Option<&OAuth> {
        self.oauth.as_ref()
    }

    fn streams(&self) -> &[&'static str] {
        &STREAMS
    }

    fn full_tells_deleted(&self) -> bool {
        true
    }

    fn test<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, Result<String, ConnectorError>> {
        Box::pin(async move { self.get(access, "people", &[]).await.map(|_| "reached HR as backroom".to_owned()) })
    }

    fn read<'a>(
        &'a self,
        access: &'a Access,
        stream: &'static str,
        from: &'a ReadFrom,
    ) -> BoxFuture<'a, Result<RecordPage, ConnectorError>> {
        Box::pin(async move {
            let owned = |place: &Value| place.as_str().unwrap_or_default().to_owned();
            let (page, since) = match from {
                ReadFrom::Beginning => (String::new(), String::new()),
                ReadFrom::Since(place) => (String::new(), owned(place)),
                ReadFrom::Page(place) => (owned(&place["page"]), owned(&place["since"])),
            };
            let query: Vec<_> = [("page", page.as_str()), ("since", since.as_str())]
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .collect();
            let answer = self.get(access, stream, &query).await?;
            let records = answer["entries"].as_array().cloned().unwrap_or_default();
            let next = answer["next"].as_str().map(|page| json!({ "page": page, "since": since }));
            Ok(RecordPage {
                records: records.iter().map(|entry| record(stream, entry)).collect(),
                bookmark: next.is_none().then(|| answer["bookmark"].clone()),
                next,
                total: answer["total"].as_u64(),
            })
        })
    }
}

fn record(stream: &str, entry: &Value) -> Result<SourceRecord, BadRecord> {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let (external_id, name) = (text("id"), text("name"));
    if name.is_empty() {
        return Err(BadRecord { external_id: Some(external_id), reason: "has no name".to_owned() });
    }
    let facts = match (stream, entry["gone"] == true) {
        ("people", true) => Facts::Gone(RecordKind::Employee),
        ("people", false) => Facts::Employee(EmployeeFacts {
            work_email: EmailAddress::parse(&format!("{external_id}@example.se")).ok(),
            first_name: name,
            last_name: "Ek".to_owned(),
            ..EmployeeFacts::default()
        }),
        (_, true) => Facts::Gone(RecordKind::Asset),
        (_, false) => Facts::Asset(AssetFacts { name, ..AssetFacts::default() }),
    };
    Ok(SourceRecord { external_id, facts })
}

#[derive(Deserialize)]
struct Asked {
    page: Option<usize>,
    since: Option<u64>,
}

async fn page(
    State(data): State<Shared>,
    Path(stream): Path<String>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let data = data.lock().unwrap_or_else(PoisonError::into_inner);
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok());
    if data.shut || data.token.as_ref().is_some_and(|token| bearer != Some(&format!("Bearer {token}"))) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let all = if stream == "people" { &data.people } else { &data.things };
    let changed: Vec<&Entry> =
        all.iter().filter(|entry| asked.since.is_none_or(|since| entry.revision > since)).collect();
    let (n, size) = (asked.page.unwrap_or(0), data.per_page);
    let entries: Vec<_> = changed.iter().skip(n * size).take(size).collect();
    let next = (changed.len() > (n + 1) * size).then(|| n + 1);
    let next = if data.stuck { Some(1) } else { next };
    let bookmark = all.iter().map(|entry| entry.revision).max().unwrap_or(0).to_string();
    let next = next.map(|n| n.to_string());
    Json(json!({ "entries": entries, "next": next, "bookmark": bookmark, "total": changed.len() })).into_response()
}

/// Rotates: each refresh token is good once, but for the one that has grace.
async fn token(State(data): State<Shared>, body: Bytes) -> Response {
    let mut data = data.lock().unwrap_or_else(PoisonError::into_inner);
    let sent =
        form_urlencoded::parse(&body).find(|(name, _)| name == "refresh_token").map(|(_, value)| value.into_owned());
    if sent.is_none() || (sent.as_ref() != Some(&data.refresh) && sent != data.grace) {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant" }))).into_response();
    }
    let number = data.refresh.rsplit('-').next().and_then(|number| number.parse::<u32>().ok()).unwrap_or(0) + 1;
    data.refresh = format!("refresh-{number}");
    data.token = Some(format!("access-{number}"));
    let answer = json!({
        "access_token": data.token, "token_type": "bearer", "expires_in": data.lifetime_s, "refresh_token": data.refresh,
    });
    Json(answer).into_response()
}

/// Waits until it is so; fails after ten seconds.
pub async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it did not come to be so");
}
