//! The API from its own door, on a real database: requests go in, answers and rows are looked at.

mod assets;
mod auth;
mod batches;
mod billing;
mod bulk_actions;
mod conversations;
mod edge;
mod effects;
mod events;
mod explain;
mod idempotency;
mod integrations;
mod jobs;
mod join_requests;
mod members;
mod notification_rules;
mod openapi;
mod operator;
mod pages;
mod password_resets;
mod people;
mod policy;
mod schedules;
mod sign_in;
mod strangers;
mod usage;
mod webhooks;
mod workflows;
mod workspaces;

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
    domain::{Claims, Clock, EmailAddress, Language, NewUser, Organization, Password, Role, Scope},
    mail::mailbox::{Mailbox, MailboxRules},
    store::{api_keys, sessions, users},
    telemetry,
    tenant::{self, testing::TestDatabase},
    vault,
};

const OPERATOR: &str = "operator-token-of-the-test";
/// Planted where it may be stored, and looked for where it must not be (VAULT-4).
const PLANTED: &str = "planted-7f3a";

const SCHEDULES: &str = "
[[schedule]]
name = \"sweep\"
cron = \"0 9 * * *\"
kind = \"billing.sweep_overdue\"
per_tenant = true

[[schedule]]
name = \"nightly\"
cron = \"30 2 * * *\"
time_zone = \"Europe/Stockholm\"
kind = \"debug.noop\"
missed = \"run_each\"
overlap = \"skip\"
";

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
        Self::at(Clock::system(), settings).await
    }

    async fn at(clock: Clock, settings: &[(&str, &str)]) -> Self {
        telemetry::init_metrics();
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        let shutdown = CancellationToken::new();
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
            ("BACKROOM__SIGN_IN__ARGON2_MEMORY_KIB", "64".to_owned()),
            ("BACKROOM__SIGN_IN__ARGON2_PASSES", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        vars.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let app = App::connect(Config::from_vars(&vars).unwrap(), clock).await.unwrap();
        let registry = Arc::new(crate::jobs::registry(&app.config));
        let schedules = Arc::new(Schedules::parse(SCHEDULES, &registry).unwrap());
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

/// Somebody who has signed in.
struct Someone {
    id: Uuid,
    email: String,
    session: Uuid,
    /// Their access token.
    token: String,
}

/// A new person with the role, signed in. Nobody knows their password.
async fn person_of(app: &App, organization: &Organization, role: Role, company: Option<Uuid>) -> Someone {
    let email = format!("{role}-{}@{}.example", Uuid::now_v7().simple(), organization.slug);
    let id = account(app, &email, None).await;
    join(app, organization, id, role, company).await;
    let now = app.clock.now();
    let mut db = app.db.acquire().await.unwrap();
    let lasts = chrono::Duration::days(30);
    let session = sessions::begin(&mut db, (organization.id, id), now, lasts).await.unwrap().session_id;
    let claims = Claims::access((id, organization.id, session), (role, company), now, chrono::Duration::hours(1));
    Someone { id, email, session, token: app.tokens.sign(&claims) }
}

/// A new account, whose owner has shown that the address is theirs.
async fn account(app: &App, email: &str, password: Option<&str>) -> Uuid {
    let password = match password {
        Some(password) => Some(app.hash_password(Password::parse(password).unwrap()).await.unwrap()),
        None => None,
    };
    let email = EmailAddress::parse(email).unwrap();
    let (name, now) = ("Anna Ek".to_owned(), app.clock.now());
    let new = NewUser { email, name, language: Language::Sv, password, confirmed_at: Some(now) };
    users::create(&mut app.db.acquire().await.unwrap(), &new, now).await.unwrap().id
}

async fn join(app: &App, organization: &Organization, user: Uuid, role: Role, company: Option<Uuid>) {
    let (tx, now) = (app.db.begin().await.unwrap(), app.clock.now());
    tenant::join(tx, organization, user, (role, company), ("test", now)).await.unwrap().commit().await.unwrap();
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
