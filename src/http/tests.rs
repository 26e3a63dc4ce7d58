//! The API from its own door, on a real database: requests go in, answers and rows are looked at.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use backroom_queue::{JobFilter, scheduler::Schedules};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;
use uuid::Uuid;

use super::router;
use crate::{
    config::Config,
    context::App,
    domain::{Clock, Organization, Scope},
    jobs,
    mail::mailbox::{Mailbox, MailboxRules},
    store::api_keys,
    telemetry,
    tenant::testing::TestDatabase,
    vault,
};

const OPERATOR: &str = "operator-token-of-the-test";
/// Planted where it may be stored, and looked for where it must not be (VAULT-4).
const PLANTED: &str = "planted-7f3a";

struct World {
    router: Router,
    app: Arc<App>,
    acme: Organization,
    key: String,
    mailbox: Mailbox,
    _mailbox: DropGuard,
    // Dropped after the app's pool.
    _database: TestDatabase,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that it is a problem of this status and answers `field code` of each error.
    #[track_caller]
    fn problem(&self, status: u16, name: &str) -> Vec<String> {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        let body = self.json();
        assert_eq!(body["type"], format!("/problems/{name}"), "{body}");
        assert_eq!(body["status"], status);
        assert_eq!(body["request_id"], self.header("x-request-id"));
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|e| format!("{} {}", e["field"].as_str().unwrap(), e["code"].as_str().unwrap())).collect()
    }
}

impl World {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &[(&str, &str)]) -> Self {
        telemetry::init_metrics();
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        let shutdown = CancellationToken::new();
        let clock = Clock::system();
        let mailbox =
            Mailbox::start(([127, 0, 0, 1], 0).into(), MailboxRules::default(), clock.clone(), shutdown.clone())
                .await
                .unwrap();
        let mut vars: BTreeMap<String, String> = [
            ("DATABASE_URL", database.url()),
            ("BACKROOM__DATABASE__MAX_CONNECTIONS", "6".to_owned()),
            ("BACKROOM__MAIL__SMTP_URL", mailbox.url()),
            ("BACKROOM__VAULT__KEYS", vault::generate_key()),
            ("BACKROOM__VAULT__INDEX_KEY", vault::generate_index_key()),
            ("BACKROOM__JOBS__DEBUG_KINDS", "true".to_owned()),
            ("BACKROOM__HTTP__OPERATOR_TOKEN", OPERATOR.to_owned()),
            ("BACKROOM__HTTP__BASE_DOMAIN", "backroom.example".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        vars.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let app = App::connect(Config::from_vars(&vars).unwrap(), clock).await.unwrap();
        let registry = Arc::new(jobs::registry(&app.config));
        let schedules = "[[schedule]]\nname = \"sweep\"\ncron = \"0 9 * * *\"\nkind = \"billing.sweep_overdue\"\nper_tenant = true\n";
        let schedules = Arc::new(Schedules::parse(schedules, &registry).unwrap());
        let router = router(app.clone(), registry, schedules, Some(mailbox.clone()));
        let key = key_of(&app, &acme, Scope::ALL).await;
        Self { router, app, acme, key, mailbox, _mailbox: shutdown.drop_guard(), _database: database }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 64 << 20).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, text: String::from_utf8_lossy(&bytes).into_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, &self.key, &[], None)).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(request(Method::POST, path, &self.key, &[], Some(body))).await
    }

    async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        self.send(request(Method::POST, path, &self.key, headers, Some(body))).await
    }

    async fn operate(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send(request(method, path, OPERATOR, &[], body)).await
    }

    async fn jobs_stored(&self) -> usize {
        let filter = JobFilter { limit: 100_000, ..JobFilter::default() };
        backroom_queue::list(&self.app.db, &filter).await.unwrap().len()
    }

    async fn company(&self) -> Uuid {
        let answer = self.post("/api/v1/companies", company()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()["id"].as_str().unwrap().parse().unwrap()
    }
}

async fn key_of(app: &App, organization: &Organization, scopes: &[Scope]) -> String {
    let scopes: Vec<_> = scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let mut db = app.db.acquire().await.unwrap();
    let (_, key) = api_keys::create(&mut db, organization, "test", &scopes, app.clock.now()).await.unwrap();
    key.expose_secret().to_owned()
}

fn request(method: Method, path: &str, key: &str, headers: &[(&str, &str)], body: Option<Value>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !key.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    if body.is_some() && !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.map_or_else(Body::empty, |body| Body::from(body.to_string()))).unwrap()
}

fn raw(method: Method, path: &str, key: &str, content_type: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {key}"));
    request.header(header::CONTENT_TYPE, content_type).body(body.into()).unwrap()
}

fn company() -> Value {
    json!({
        "name": "Nordlys Konsult AB", "email": "ekonomi@nordlys.example", "org_number": "556194-7986",
        "phone": "070-123 45 67", "contact": {"name": PLANTED, "notes": "calls\nback"},
    })
}

fn invoice(company: Uuid, number: &str) -> Value {
    json!({
        "number": number, "company_id": company, "status": "unpaid", "issue_date": "2026-01-10",
        "due_date": "2026-02-09", "items": [
            {"description": "Consulting", "quantity": "1.5", "unit_price": "1150.00"},
            {"description": "Book", "quantity": 1, "unit_price": 100.10, "tax_rate": "0.06"},
        ],
    })
}

/// API-2
#[tokio::test]
async fn a_job_is_enqueued_read_listed_cancelled_and_retried() {
    let world = World::new().await;
    let body =
        json!({"kind": "debug.noop", "args": {}, "priority": 3, "run_at": "2036-01-01T00:00:00Z", "unique_key": "u"});
    let queued = world.post("/api/v1/jobs", body.clone()).await;
    assert_eq!(queued.status, StatusCode::ACCEPTED, "{}", queued.text);
    let id = queued.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(queued.json(), json!({"id": id, "state": "scheduled", "duplicate": false}));
    assert_eq!(queued.header("location"), format!("/api/v1/jobs/{id}"));

    let again = world.post("/api/v1/jobs", body).await;
    assert_eq!(again.json(), json!({"id": id, "state": "scheduled", "duplicate": true}), "PLAT-6");

    let job = world.get(&format!("/api/v1/jobs/{id}")).await.json();
    assert_eq!((job["kind"].as_str(), job["priority"].as_i64()), (Some("debug.noop"), Some(3)));
    assert!(job["trace"].is_string(), "PLAT-17: {job}");
    for query in ["state=scheduled", "kind=debug.noop", "queue=default", ""] {
        assert_eq!(world.get(&format!("/api/v1/jobs?{query}")).await.json()["jobs"].as_array().unwrap().len(), 1);
    }
    assert_eq!(world.get("/api/v1/jobs?state=completed").await.json()["jobs"], json!([]));

    let cancelled = world.post(&format!("/api/v1/jobs/{id}/cancel"), json!({})).await;
    assert_eq!((cancelled.status, cancelled.json()["state"].as_str()), (StatusCode::OK, Some("cancelled")));
    world.post(&format!("/api/v1/jobs/{id}/cancel"), json!({})).await.problem(409, "conflict");
    let retried = world.send(request(Method::POST, &format!("/api/v1/jobs/{id}/retry"), &world.key, &[], None)).await;
    assert_eq!(retried.status, StatusCode::ACCEPTED, "{}", retried.text);
    world.get(&format!("/api/v1/jobs/{}", Uuid::now_v7())).await.problem(404, "not-found");
}

/// API-2, API-4
#[tokio::test]
async fn a_job_that_is_not_right_is_refused_by_field_and_nothing_is_stored() {
    let world = World::new().await;
    for (body, fields) in [
        (json!({"kind": "debug.nop", "args": {}}), vec!["kind unknown"]),
        (json!({"args": {}}), vec!["kind required"]),
        (json!({"kind": "debug.noop", "args": {}, "prio": 1}), vec!["prio unknown_field"]),
        (json!({"kind": "debug.sleep", "args": {"ms": "long"}}), vec!["args.ms invalid"]),
        (json!({"kind": "debug.sleep", "args": {"ms": 1, "x": 2}}), vec!["args.x unknown_field"]),
        (json!({"kind": "debug.sleep", "args": {}}), vec!["args.ms required"]),
        (json!({"kind": "debug.noop", "queue": "nowhere"}), vec!["queue unknown"]),
        (json!({"kind": "debug.noop", "run_at": "tomorrow"}), vec!["run_at invalid"]),
        (json!({"kind": "debug.noop", "run_at": "9999-01-01T00:00:00Z"}), vec!["run_at out_of_range"]),
        (json!({"kind": "debug.noop", "priority": 40000}), vec!["priority invalid"]),
        (
            json!({"kind": "debug.noop", "max_attempts": 0, "unique_key": ""}),
            vec!["max_attempts out_of_range", "unique_key out_of_range"],
        ),
        (json!({"kind": "debug.append", "args": {"path": "\0", "line": "x"}}), vec!["args.path invalid"]),
        (json!([]), vec!["body invalid"]),
        (json!(["debug.noop"]), vec!["body invalid"]),
    ] {
        let answer = world.post("/api/v1/jobs", body.clone()).await;
        assert_eq!(answer.problem(422, "validation"), fields, "{body}");
    }
    let near = world.post("/api/v1/jobs", json!({"kind": "debug.nop"})).await.json();
    assert!(near["detail"].as_str().unwrap().contains("did you mean debug.noop"), "{near}");
    let kind_with_nul = world.post("/api/v1/jobs", json!({"kind": "debug.noop\0"})).await;
    assert_eq!(kind_with_nul.problem(422, "validation"), ["kind unknown"]);
    assert_eq!(world.jobs_stored().await, 0);
}

/// API-2
#[tokio::test]
async fn many_jobs_are_enqueued_together_or_not_at_all() {
    let world = World::new().await;
    let bad = json!({"jobs": [
        {"kind": "debug.noop"}, {"kind": "debug.sleep", "args": {"ms": -1}}, {"kind": "nope"}, {"knd": 1},
    ]});
    let refused = world.post("/api/v1/jobs/bulk", bad).await;
    let fields = refused.problem(422, "validation");
    assert_eq!(fields, ["jobs[1].args.ms invalid", "jobs[2].kind unknown", "jobs[3].knd unknown_field"]);
    assert_eq!(world.jobs_stored().await, 0);
    assert_eq!(
        world.post("/api/v1/jobs/bulk", json!({"jobs": []})).await.problem(422, "validation"),
        ["jobs out_of_range"]
    );

    // More than a body of the usual size.
    let entry = json!({"kind": "debug.append", "args": {"path": "x", "line": "y".repeat(100)}});
    let many = world.post("/api/v1/jobs/bulk", json!({"jobs": vec![entry; 10_000]})).await;
    assert_eq!(many.status, StatusCode::ACCEPTED, "{}", many.text);
    assert_eq!(many.json()["jobs"].as_array().unwrap().len(), 10_000);
    assert_eq!(many.json()["jobs"][0]["duplicate"], false);
    assert_eq!(world.jobs_stored().await, 10_000);
    let too_many = json!({"jobs": vec![json!({"kind": "debug.noop"}); 10_001]});
    assert_eq!(world.post("/api/v1/jobs/bulk", too_many).await.problem(422, "validation"), ["jobs out_of_range"]);
}

/// API-9
#[tokio::test]
async fn pages_hold_every_job_once() {
    let world = World::new().await;
    world.post("/api/v1/jobs/bulk", json!({"jobs": vec![json!({"kind": "debug.noop"}); 7]})).await;
    let mut seen = Vec::new();
    let mut path = "/api/v1/jobs?limit=3".to_owned();
    loop {
        let page = world.get(&path).await.json();
        seen.extend(page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/jobs?limit=3&cursor={cursor}");
    }
    let mut sorted = seen.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    sorted.dedup();
    assert_eq!((seen.len(), seen), (7, sorted));

    for (query, error) in [
        ("limit=0", "limit invalid"),
        ("limit=201", "limit invalid"),
        ("limit=x", "limit invalid"),
        ("cursor=abc", "cursor invalid"),
        ("state=done", "state invalid"),
        ("colour=red", "colour unknown_field"),
        ("limit=1&limit=2", "limit invalid"),
        ("kind=%00", "kind invalid"),
    ] {
        assert_eq!(world.get(&format!("/api/v1/jobs?{query}")).await.problem(422, "validation"), [error], "{query}");
    }
    let cursor = world.get("/api/v1/jobs?limit=1").await.json()["next_cursor"].as_str().unwrap().to_owned();
    let elsewhere = world.get(&format!("/api/v1/companies?cursor={cursor}")).await;
    assert_eq!(elsewhere.problem(422, "validation"), ["cursor invalid"]);
}

/// API-4
#[tokio::test]
async fn every_error_is_a_problem() {
    let world = World::new().await;
    let key = world.key.as_str();
    world.get("/nowhere").await.problem(404, "not-found");
    world.get("/api/v1/nowhere").await.problem(404, "not-found");
    world.send(request(Method::PUT, "/api/v1/jobs", key, &[], None)).await.problem(405, "method-not-allowed");
    world.send(request(Method::DELETE, "/health/live", key, &[], None)).await.problem(405, "method-not-allowed");
    let send = |content_type: &'static str, body: String| {
        world.send(raw(Method::POST, "/api/v1/jobs", key, content_type, body))
    };
    send("application/json", "{".into()).await.problem(400, "malformed-body");
    send("application/json", String::new()).await.problem(400, "malformed-body");
    send("application/json", "[".repeat(100_000)).await.problem(400, "malformed-body");
    send("text/plain", "{}".into()).await.problem(415, "unsupported-media-type");
    send("application/json", " ".repeat(1_048_577)).await.problem(413, "body-too-large");
    let latin = raw(Method::POST, "/api/v1/jobs", key, "application/json", vec![b'{', b'"', 0xe5, b'"', b'}']);
    world.send(latin).await.problem(400, "malformed-body");
    for path in ["/api/v1/jobs/7", "/api/v1/companies/x", "/api/v1/invoices/%00", "/api/v1/invoices/%ff"] {
        assert_eq!(world.get(path).await.problem(422, "validation"), ["id invalid"], "{path}");
    }
    let answer = world.post("/api/v1/jobs/00000000-0000-0000-0000-000000000000/cancel", json!({"x": 1})).await;
    assert_eq!(answer.problem(422, "validation"), ["x unknown_field"]);
    assert_eq!(world.jobs_stored().await, 0);
}

/// API-4: a panic is answered, tells nothing, and the next request is served.
#[tokio::test]
async fn a_panic_is_a_problem_and_tells_nothing() {
    use axum::{middleware, routing::get};
    use tower_http::catch_panic::CatchPanicLayer;

    async fn panics() {
        panic!("{PLANTED}");
    }
    let router: Router = Router::new()
        .route("/", get(panics))
        .layer(CatchPanicLayer::custom(super::edge::caught_panic))
        .layer(middleware::from_fn(super::edge::pass));
    for _ in 0..2 {
        let response = router.clone().oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains("/problems/internal") && !text.contains(PLANTED), "{text}");
    }
}

/// API-6: a request that takes too long is given up, with a problem that says so.
#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let world = World::with(&[("BACKROOM__HTTP__REQUEST_TIMEOUT_S", "1")]).await;
    let company = world.company().await;
    let mut blocker = world.app.db.begin().await.unwrap();
    let lock = format!("lock table {}.companies in access exclusive mode", world.acme.schema_name);
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *blocker).await.unwrap();
    let answer = world.get(&format!("/api/v1/companies/{company}")).await;
    answer.problem(503, "timeout");
    assert_eq!(answer.header("retry-after"), "1");
    blocker.rollback().await.unwrap();
    assert_eq!(world.get(&format!("/api/v1/companies/{company}")).await.status, StatusCode::OK);
}

/// AUTH-3
#[tokio::test]
async fn a_key_opens_what_its_scopes_say_until_it_is_revoked() {
    let world = World::new().await;
    for (key, headers) in [("", vec![]), ("br_acme_nonsense", vec![]), ("", vec![("authorization", "Basic YTpi")])] {
        let answer = world.send(request(Method::GET, "/api/v1/jobs", key, &headers, None)).await;
        answer.problem(401, "unauthenticated");
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
    }
    let narrow = key_of(&world.app, &world.acme, &[Scope::JobsRead]).await;
    let with = |key: &str, method: Method, path: &str, body| request(method, path, key, &[], body);
    assert_eq!(world.send(with(&narrow, Method::GET, "/api/v1/jobs", None)).await.status, StatusCode::OK);
    let noop = Some(json!({"kind": "debug.noop"}));
    world.send(with(&narrow, Method::POST, "/api/v1/jobs", noop)).await.problem(403, "forbidden");
    world.send(with(&narrow, Method::GET, "/api/v1/companies", None)).await.problem(403, "forbidden");

    let made = world.post("/api/v1/api-keys", json!({"name": "shop", "scopes": ["jobs:read"]})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let (key, id) = (made.json()["key"].as_str().unwrap().to_owned(), made.json()["id"].as_str().unwrap().to_owned());
    assert!(key.starts_with("br_acme_"));
    assert_eq!(world.send(with(&key, Method::GET, "/api/v1/jobs", None)).await.status, StatusCode::OK);
    let listed = world.get("/api/v1/api-keys").await;
    assert!(listed.text.contains("shop") && !listed.text.contains(&key), "VAULT-4");
    let revoked = world.send(with(&world.key, Method::DELETE, &format!("/api/v1/api-keys/{id}"), None)).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    world.send(with(&key, Method::GET, "/api/v1/jobs", None)).await.problem(401, "unauthenticated");

    let bad = json!({"name": "", "scopes": ["jobs:all"]});
    assert_eq!(world.post("/api/v1/api-keys", bad).await.problem(422, "validation"), ["scopes[0] invalid"]);
    let writer = key_of(&world.app, &world.acme, &[Scope::OrganizationWrite]).await;
    let more = Some(json!({"name": "more", "scopes": ["billing:write"]}));
    let refused = world.send(with(&writer, Method::POST, "/api/v1/api-keys", more)).await;
    assert_eq!(refused.problem(422, "validation"), ["scopes[0] invalid"], "a key makes no stronger key");
}

/// AUTH-3
#[tokio::test]
async fn the_last_use_of_a_key_is_noted() {
    let world = World::new().await;
    world.get("/api/v1/jobs").await;
    for _ in 0..200 {
        let mut db = world.app.db.acquire().await.unwrap();
        if api_keys::list(&mut db, world.acme.id).await.unwrap()[0].last_used_at.is_some() {
            return;
        }
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the key was used two seconds ago and nothing was noted");
}

/// API-8, TEN-3
#[tokio::test]
async fn key_header_and_subdomain_must_agree_and_others_things_do_not_exist() {
    let world = World::new().await;
    let globex = world._database.organization("globex").await;
    let theirs = key_of(&world.app, &globex, Scope::ALL).await;
    let get = |key: &str, headers: &[(&str, &str)], path: &str| request(Method::GET, path, key, headers, None);
    let id = world.acme.id.to_string();
    for agreeing in [
        ("x-tenant-id", "acme"),
        ("x-tenant-id", id.as_str()),
        ("host", "acme.backroom.example"),
        ("host", "www.backroom.example"),
        ("host", "127.0.0.1:4000"),
    ] {
        let answer = world.send(get(&world.key, &[agreeing], "/api/v1/jobs")).await;
        assert_eq!(answer.status, StatusCode::OK, "{agreeing:?}");
    }
    for other in [
        ("x-tenant-id", "globex"),
        ("x-tenant-id", "nobody"),
        ("x-tenant-id", ""),
        ("host", "globex.backroom.example"),
        ("host", "nobody.backroom.example"),
    ] {
        world.send(get(&world.key, &[other], "/api/v1/jobs")).await.problem(403, "tenant-mismatch");
    }
    let company = world.company().await;
    let job = world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.json()["id"].as_str().unwrap().to_owned();
    for path in [format!("/api/v1/companies/{company}"), format!("/api/v1/jobs/{job}")] {
        assert_eq!(world.get(&path).await.status, StatusCode::OK);
        world.send(get(&theirs, &[], &path)).await.problem(404, "not-found");
    }
    for action in ["cancel", "retry"] {
        let path = format!("/api/v1/jobs/{job}/{action}");
        world.send(request(Method::POST, &path, &theirs, &[], None)).await.problem(404, "not-found");
    }
    assert_eq!(world.send(get(&theirs, &[], "/api/v1/jobs")).await.json()["jobs"], json!([]));
}

/// TEN-1, TEN-2, TEN-5
#[tokio::test]
async fn the_operator_creates_suspends_and_activates() {
    let world = World::new().await;
    let body = json!({"slug": "initech", "name": "Initech AB", "tier": "pro", "time_zone": "Europe/Helsinki"});
    world.post("/api/v1/organizations", body.clone()).await.problem(403, "forbidden");
    let created = world.operate(Method::POST, "/api/v1/organizations", Some(body.clone())).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    assert_eq!(created.header("location"), "/api/v1/organizations/initech");
    assert_eq!((&created.json()["tier"], &created.json()["billing_status"]), (&json!("pro"), &json!("trial")));
    let taken = world.operate(Method::POST, "/api/v1/organizations", Some(body)).await;
    assert_eq!(taken.problem(409, "conflict"), ["slug taken"]);
    let bad = json!({"slug": "admin", "name": "", "time_zone": "Mars/Base", "settings": {"dunning_days": [3, 1]}});
    let bad = world.operate(Method::POST, "/api/v1/organizations", Some(bad)).await;
    let fields = bad.problem(422, "validation").join(" ");
    assert!(
        fields.contains("slug reserved") && fields.contains("time_zone") && fields.contains("settings.dunning_days"),
        "{fields}"
    );
    let listed = world.operate(Method::GET, "/api/v1/organizations?limit=1", None).await.json();
    assert_eq!(listed["organizations"].as_array().unwrap().len(), 1);
    assert!(listed["next_cursor"].is_string());
    world.operate(Method::GET, "/api/v1/organizations/nobody", None).await.problem(404, "not-found");
    world.operate(Method::GET, "/api/v1/jobs", None).await.problem(403, "forbidden");

    let job = world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.json()["id"].as_str().unwrap().to_owned();
    let suspended = world.operate(Method::POST, "/api/v1/organizations/acme/suspend", None).await;
    assert_eq!((suspended.status, &suspended.json()["jobs"]), (StatusCode::OK, &json!(1)), "{}", suspended.text);
    world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.problem(403, "organization-suspended");
    world.post("/api/v1/companies", company()).await.problem(403, "organization-suspended");
    assert_eq!(world.get(&format!("/api/v1/jobs/{job}")).await.json()["held"], true);
    let activated = world.operate(Method::POST, "/api/v1/organizations/acme/activate", None).await;
    assert_eq!(activated.json()["jobs"], 1);
    assert_eq!(world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.status, StatusCode::ACCEPTED);
}

/// API-3
#[tokio::test]
async fn a_repeated_key_gives_the_first_answer_again_and_one_effect() {
    let world = World::new().await;
    let key = [("idempotency-key", "order-1")];
    let job = json!({"kind": "debug.noop"});
    let first = world.post_with("/api/v1/jobs", &key, job.clone()).await;
    let second = world.post_with("/api/v1/jobs", &key, job.clone()).await;
    assert_eq!((first.status, &first.text), (second.status, &second.text));
    assert_eq!(first.header("location"), second.header("location"));
    assert_eq!((first.header("idempotency-replayed"), second.header("idempotency-replayed")), ("", "true"));
    assert_eq!(world.jobs_stored().await, 1);
    let other = world.post_with("/api/v1/jobs", &key, json!({"kind": "debug.noop", "priority": 1})).await;
    other.problem(422, "idempotency-mismatch");
    world.post_with("/api/v1/jobs/bulk", &key, json!({"jobs": [job]})).await.problem(422, "idempotency-mismatch");
    let long = "x".repeat(256);
    let bad = world.post_with("/api/v1/jobs", &[("idempotency-key", &long)], job.clone()).await;
    assert_eq!(bad.problem(422, "validation"), ["Idempotency-Key invalid"]);

    // A refused call leaves its key free.
    let key = [("idempotency-key", "company-1")];
    let mut wrong = company();
    wrong["org_number"] = json!("123456-7890");
    assert_eq!(
        world.post_with("/api/v1/companies", &key, wrong).await.problem(422, "validation"),
        ["org_number invalid"]
    );
    let first = world.post_with("/api/v1/companies", &key, company()).await;
    let second = world.post_with("/api/v1/companies", &key, company()).await;
    assert_eq!((first.status, &first.text), (StatusCode::CREATED, &second.text));
    assert_eq!(second.header("idempotency-replayed"), "true");
    let kept: Vec<Vec<u8>> =
        sqlx::query_scalar("select body from public.idempotency_keys").fetch_all(&world.app.db).await.unwrap();
    assert!(
        kept.iter().all(|body| !String::from_utf8_lossy(body).contains(PLANTED)),
        "VAULT-4: kept answers are sealed"
    );
}

/// API-3: of two at once one works; the other is told to come back, or given the first's answer.
#[tokio::test]
async fn two_requests_at_once_with_one_key_have_one_effect() {
    let world = World::new().await;
    let key = [("idempotency-key", "race")];
    let tries = (0..8).map(|_| world.post_with("/api/v1/jobs", &key, json!({"kind": "debug.noop"})));
    for answer in futures::future::join_all(tries).await {
        match answer.status {
            StatusCode::ACCEPTED => {}
            _ => {
                answer.problem(409, "idempotency-in-progress");
                assert_eq!(answer.header("retry-after"), "1");
            }
        }
    }
    assert_eq!(world.jobs_stored().await, 1);
}

/// API-6
#[tokio::test]
async fn an_organization_that_is_too_hasty_is_told_to_wait() {
    let world = World::with(&[("BACKROOM__HTTP__RATE_LIMIT_PER_MINUTE", "3")]).await;
    for left in ["2", "1", "0"] {
        let answer = world.get("/api/v1/jobs").await;
        assert_eq!((answer.header("ratelimit-limit"), answer.header("ratelimit-remaining")), ("3", left));
        assert!(!answer.header("ratelimit-reset").is_empty());
    }
    let answer = world.get("/api/v1/jobs").await;
    answer.problem(429, "rate-limited");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(answer.header("ratelimit-remaining"), "0");
    assert_eq!(world.get("/health/live").await.status, StatusCode::TOO_MANY_REQUESTS, "counted where a key is sent");
    assert_eq!(world.send(request(Method::GET, "/health/live", "", &[], None)).await.status, StatusCode::OK);
}

/// API-6
#[tokio::test]
async fn requests_have_ids_and_browsers_of_known_origins_may_call() {
    let world = World::new().await;
    let with = |headers: &[(&str, &str)]| request(Method::GET, "/health/live", "", headers, None);
    assert_eq!(world.send(with(&[("x-request-id", "abc-1")])).await.header("x-request-id"), "abc-1");
    for poor in ["", "a b", "<script>", &"x".repeat(65)] {
        let made = world.send(with(&[("x-request-id", poor)])).await;
        assert!(made.header("x-request-id").parse::<Uuid>().is_ok(), "{poor:?}");
    }
    let ours = world.send(with(&[("origin", "http://localhost:5173")])).await;
    assert_eq!(ours.header("access-control-allow-origin"), "http://localhost:5173");
    let theirs = world.send(with(&[("origin", "http://evil.example")])).await;
    assert_eq!(theirs.header("access-control-allow-origin"), "");
    assert_eq!(theirs.header("x-content-type-options"), "nosniff");

    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let queued = world.post_with("/api/v1/jobs", &[("traceparent", trace)], json!({"kind": "debug.noop"})).await;
    let job = world.get(queued.header("location")).await.json();
    assert_eq!(job["trace"], trace, "PLAT-17");
}

/// BILL-1, VAULT-1, VAULT-3, VAULT-4
#[tokio::test]
async fn a_company_is_stored_sealed_and_given_back_in_clear() {
    let world = World::new().await;
    let id = world.company().await;
    let shown = world.get(&format!("/api/v1/companies/{id}")).await.json();
    assert_eq!((&shown["phone"], &shown["contact"]["name"]), (&json!("+46701234567"), &json!(PLANTED)));
    assert_eq!(shown["org_number"], "556194-7986");

    let mut dump = String::new();
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&world.app.db)
    .await
    .unwrap();
    for table in tables {
        let rows = format!("select coalesce(string_agg(t::text, ' '), '') from {table} t");
        dump += &sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(rows)).fetch_one(&world.app.db).await.unwrap();
    }
    let hex: String = PLANTED.bytes().map(|b| format!("{b:02x}")).collect();
    assert!(
        !dump.contains(PLANTED) && !dump.contains(&hex) && !dump.contains("46701234567"),
        "a secret lies in a table"
    );

    let change = |body: Value| request(Method::PATCH, &format!("/api/v1/companies/{id}"), &world.key, &[], Some(body));
    let changed = world.send(change(json!({"name": "Nordlys AB", "contact": null}))).await.json();
    assert_eq!(
        (&changed["name"], &changed["contact"], &changed["phone"]),
        (&json!("Nordlys AB"), &json!(null), &json!("+46701234567"))
    );
    assert_eq!(world.send(change(json!({"phone": "x"}))).await.problem(422, "validation"), ["phone invalid"]);

    for (query, found) in [
        ("q=nordl", 1),
        ("email=ekonomi@nordlys.example", 1),
        ("phone=%2B46701234567", 1),
        ("org_number=5561947986", 1),
        ("q=other", 0),
    ] {
        let page = world.get(&format!("/api/v1/companies?{query}")).await.json();
        assert_eq!(page["companies"].as_array().unwrap().len(), found, "{query}");
    }
    assert_eq!(world.get("/api/v1/companies?email=x").await.problem(422, "validation"), ["email invalid"]);

    let wrong = json!({"name": "", "email": "nobody", "org_number": "123456-7890", "phone": "1"});
    let fields = world.post("/api/v1/companies", wrong).await.problem(422, "validation");
    assert_eq!(fields[..2], ["email invalid", "org_number invalid"], "{fields:?}");
    assert_eq!(world.post("/api/v1/companies", company()).await.problem(409, "conflict"), ["org_number taken"]);
}

/// BILL-3, BILL-7
#[tokio::test]
async fn an_invoice_is_computed_by_the_server_listed_paid_and_cancelled() {
    let world = World::new().await;
    let company = world.company().await;
    let created = world.post("/api/v1/invoices", invoice(company, "2026-1")).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    let body = created.json();
    assert_eq!(
        (&body["subtotal"], &body["tax"], &body["total"]),
        (&json!("1825.10"), &json!("437.26"), &json!("2262.36"))
    );
    let path = created.header("location").to_owned();
    assert_eq!(world.get(&path).await.json(), body);

    for (query, found) in [
        ("overdue=true", 1),
        ("status=unpaid", 1),
        ("status=paid", 0),
        ("number=2026-1", 1),
        ("reminder_failed=true", 0),
        ("sort=created_desc", 1),
    ] {
        let page = world.get(&format!("/api/v1/invoices?{query}")).await;
        assert_eq!(page.json()["invoices"].as_array().map(Vec::len), Some(found), "{query} {}", page.text);
    }
    for (query, error) in [
        ("status=late", "status invalid"),
        ("company_id=7", "company_id invalid"),
        ("overdue=1", "overdue invalid"),
        ("sort=x", "sort invalid"),
    ] {
        assert_eq!(world.get(&format!("/api/v1/invoices?{query}")).await.problem(422, "validation"), [error]);
    }

    world.post(&format!("{path}/clear-reminder-failure"), json!({})).await.problem(409, "conflict");
    let future = world.post(&format!("{path}/mark-paid"), json!({"paid_on": "2999-01-01"})).await;
    assert_eq!(future.problem(422, "validation"), ["paid_on out_of_range"]);
    let paid = world.post(&format!("{path}/mark-paid"), json!({"paid_on": "2026-02-01"})).await;
    assert_eq!((&paid.json()["status"], &paid.json()["paid_on"]), (&json!("paid"), &json!("2026-02-01")));
    world.post(&format!("{path}/cancel"), json!({})).await.problem(409, "conflict");
    world.post(&format!("/api/v1/invoices/{}/cancel", Uuid::now_v7()), json!({})).await.problem(404, "not-found");

    assert_eq!(
        world.post("/api/v1/invoices", invoice(company, "2026-1")).await.problem(409, "conflict"),
        ["number taken"]
    );
    assert_eq!(
        world.post("/api/v1/invoices", invoice(Uuid::now_v7(), "2")).await.problem(422, "validation"),
        ["company_id unknown"]
    );
    for (field, value, error) in [
        ("currency", json!("KRONOR"), "currency"),
        ("issue_date", json!("2026-02-30"), "issue_date"),
        ("due_date", json!("2025-01-01"), "due_date"),
        ("items", json!([]), "items"),
        ("company_id", json!("7"), "company_id"),
        ("status", json!("paid"), "status"),
        ("total", json!("1"), "total"),
    ] {
        let mut wrong = invoice(company, "3");
        wrong[field] = value;
        let fields = world.post("/api/v1/invoices", wrong).await.problem(422, "validation");
        assert!(fields.iter().any(|named| named.starts_with(error)), "{field}: {fields:?}");
    }
    assert_eq!(world.get("/api/v1/invoices").await.json()["invoices"].as_array().unwrap().len(), 1);
}

/// BILL-4, BILL-10
#[tokio::test]
async fn a_file_is_imported_line_by_line_and_the_sweep_is_enqueued() {
    let world = World::new().await;
    let file = "number,org_number,company_name,company_email,language,issue_date,due_date,currency,description,quantity,unit_price,tax_rate\n\
        1,556194-7986,Nordlys AB,e@nordlys.example,sv,2026-01-01,2026-01-31,SEK,Work,1,100,0.25\n\
        2,123456-7890,Bad AB,e@bad.example,sv,2026-01-01,2026-01-31,SEK,Work,1,100,0.25\n";
    let import = |content_type: &'static str, body: String| {
        world.send(raw(Method::POST, "/api/v1/invoices/import", &world.key, content_type, body))
    };
    let first = import("text/csv; charset=utf-8", file.to_owned()).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    let report = first.json();
    assert_eq!((&report["imported"], &report["unchanged"]), (&json!(1), &json!(0)), "{report}");
    assert_eq!((&report["errors"][0]["line"], &report["errors"][0]["field"]), (&json!(3), &json!("org_number")));
    let again = import("text/csv", file.to_owned()).await.json();
    assert_eq!((&again["imported"], &again["unchanged"]), (&json!(0), &json!(1)));
    assert_eq!(import("text/csv", "a,b\n".to_owned()).await.problem(422, "validation"), ["body invalid"]);
    import("application/json", "{}".to_owned()).await.problem(415, "unsupported-media-type");

    let swept = world.post("/api/v1/invoices/remind", json!({})).await;
    assert_eq!(swept.status, StatusCode::ACCEPTED, "{}", swept.text);
    assert_eq!(world.get(swept.header("location")).await.json()["kind"], "billing.sweep_overdue");
}

/// API-7, OPS-1
#[tokio::test]
async fn health_and_metrics_need_no_key() {
    let world = World::new().await;
    let open = |path: &'static str| world.send(request(Method::GET, path, "", &[], None));
    assert_eq!(open("/health/live").await.json(), json!({"status": "ok"}));
    assert_eq!(open("/health/ready").await.json(), json!({"status": "ok"}));
    let metrics = open("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    assert!(
        metrics.text.contains("http_requests_total{method=\"GET\",route=\"/health/live\",status=\"200\"}"),
        "{}",
        metrics.text
    );
    sqlx::raw_sql("delete from public._sqlx_migrations").execute(&world.app.db).await.unwrap();
    open("/health/ready").await.problem(503, "unavailable");
    world.app.db.close().await;
    open("/health/ready").await.problem(503, "unavailable");
    assert_eq!(open("/health/live").await.status, StatusCode::OK);
    world.get("/api/v1/jobs").await.problem(503, "unavailable");
}

/// MAIL-4
#[tokio::test]
async fn the_mailbox_is_read_in_the_browser() {
    let world = World::new().await;
    let open = |path: &'static str| world.send(request(Method::GET, path, "", &[], None));
    assert!(world.mailbox.is_empty());
    let list = open("/dev/mailbox").await;
    assert!(list.text.contains("No mail yet") && list.header("content-type").starts_with("text/html"));
    open("/dev/mailbox/1").await.problem(404, "not-found");
    open("/dev/mailbox/x").await.problem(404, "not-found");
    let welcome = open("/").await;
    assert!(welcome.text.contains("/dev/mailbox") && welcome.text.contains("/docs"), "{}", welcome.text);
    assert!(open("/problems/validation").await.text.contains("Some fields are not right"));
    open("/problems/nothing").await.problem(404, "not-found");

    let registry = Arc::new(jobs::registry(&world.app.config));
    let schedules = Arc::new(Schedules::parse("", &registry).unwrap());
    let without = router(world.app.clone(), registry, schedules, None);
    let response = without.oneshot(request(Method::GET, "/dev/mailbox", "", &[], None)).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

/// CRON-6, PLAT-13
#[tokio::test]
async fn the_operator_looks_at_queues_and_schedules_and_pauses_them() {
    let world = World::new().await;
    world.get("/api/v1/queues").await.problem(403, "forbidden");
    assert_eq!(world.operate(Method::POST, "/api/v1/queues/mailers/pause", None).await.status, StatusCode::NO_CONTENT);
    let queues = world.operate(Method::GET, "/api/v1/queues", None).await.json();
    let mailers = queues["queues"].as_array().unwrap().iter().find(|queue| queue["queue"] == "mailers").cloned();
    assert_eq!(mailers.unwrap()["paused"], true, "{queues}");
    assert_eq!(world.operate(Method::POST, "/api/v1/queues/mailers/resume", None).await.status, StatusCode::NO_CONTENT);
    world.operate(Method::POST, "/api/v1/queues/nowhere/pause", None).await.problem(422, "validation");

    let next =
        world.operate(Method::GET, "/api/v1/schedules/sweep/next?limit=2&time_zone=Europe/Stockholm", None).await;
    assert_eq!(next.json()["firings"].as_array().map(Vec::len), Some(2), "{}", next.text);
    assert_eq!(world.operate(Method::POST, "/api/v1/schedules/sweep/pause", None).await.status, StatusCode::NO_CONTENT);
    let listed = world.operate(Method::GET, "/api/v1/schedules", None).await.json();
    assert_eq!((&listed["schedules"][0]["name"], &listed["schedules"][0]["paused"]), (&json!("sweep"), &json!(true)));
    let run = world.operate(Method::POST, "/api/v1/schedules/sweep/run", None).await;
    assert_eq!((run.status, run.json()["jobs"].as_array().unwrap().len()), (StatusCode::ACCEPTED, 1), "{}", run.text);
    assert_eq!(
        world.operate(Method::POST, "/api/v1/schedules/sweep/resume", None).await.status,
        StatusCode::NO_CONTENT
    );
    world.operate(Method::POST, "/api/v1/schedules/none/run", None).await.problem(404, "not-found");
}

/// API-5: each operation of the document is routed, documents its errors, and answers by itself.
#[tokio::test]
async fn the_document_and_the_routes_are_in_step() {
    let world = World::new().await;
    let answer = world.send(request(Method::GET, "/api/v1/openapi.json", "", &[], None)).await;
    assert_eq!(answer.status, StatusCode::OK);
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            ids.push(operation["operationId"].as_str().unwrap().to_owned());
            let concrete = path
                .replace("{id}", "0199aaaa-0000-7000-8000-000000000000")
                .replace("{slug}", "nobody")
                .replace("{name}", "none");
            let method: Method = method.to_uppercase().parse().unwrap();
            let open = !path.starts_with("/api");
            let answer = world.send(request(method.clone(), &concrete, "", &[], None)).await;
            if open {
                assert_eq!(answer.status, StatusCode::OK, "{method} {path}");
                continue;
            }
            // 401 comes from the handler: the route exists, takes the method and asks for a key.
            answer.problem(401, "unauthenticated");
            let errors = operation["responses"].as_object().unwrap();
            assert!(["401", "422", "429"].iter().all(|status| errors.contains_key(*status)), "{method} {path}");
            assert!(!operation["security"].as_array().unwrap().is_empty(), "{method} {path}");
            let other = if item.get("delete").is_none() { Method::DELETE } else { Method::PUT };
            world.send(request(other, &concrete, "", &[], None)).await.problem(405, "method-not-allowed");
        }
    }
    ids.sort_unstable();
    insta::assert_snapshot!(ids.join("\n"));
    let text = answer.text;
    for kind in jobs::registry(&world.app.config).kinds() {
        assert!(text.contains(&format!("#/components/schemas/args.{}", kind.name)), "{}", kind.name);
    }
    dangling(&document, &document);
}

/// Every reference in the document leads somewhere.
fn dangling(document: &Value, part: &Value) {
    match part {
        Value::Object(object) => {
            if let Some(target) = object.get("$ref").and_then(Value::as_str) {
                let pointer = target.strip_prefix('#').unwrap_or(target);
                assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
            }
            object.values().for_each(|value| dangling(document, value));
        }
        Value::Array(items) => items.iter().for_each(|value| dangling(document, value)),
        _ => {}
    }
}

/// API-5
#[tokio::test]
async fn the_document_can_be_browsed_without_the_internet() {
    let world = World::new().await;
    let open = |path: &'static str| world.send(request(Method::GET, path, "", &[], None));
    let page = open("/docs/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(!page.text.contains("https://"), "{}", page.text);
    assert!(open("/docs/swagger-initializer.js").await.text.contains("/api/v1/openapi.json"));
}
