//! The API and the pages: a file per resource, one shape of errors, no third parties. Every handler authenticates,
//! validates, runs one transaction and answers.

mod api_keys;
mod asset_steps;
mod assets;
mod auth;
mod batches;
mod bulk_actions;
mod companies;
mod conversations;
mod cursor;
mod edge;
mod effects;
mod employees;
mod events;
mod explain;
mod extract;
mod health;
mod idempotency;
mod integrations;
mod invitation_page;
mod invitations;
mod invoices;
mod jobs;
mod join_request_page;
mod join_requests;
mod locations;
mod me;
mod members;
mod network;
mod notification_rules;
mod openapi;
mod organizations;
mod pages;
mod password_reset_page;
mod password_resets;
mod person;
mod problem;
mod queues;
mod rate_limit;
mod schedules;
mod sign_in;
mod sync_runs;
mod tasks;
#[cfg(test)]
mod tests;
mod together;
mod usage;
mod webhooks;
mod workflow_steps;
mod workflow_templates;
mod workflows;
mod workspaces;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{Router, extract::DefaultBodyLimit, middleware, serve::ListenerExt};
use backroom_queue::{Registry, scheduler::Schedules};
use chrono::NaiveDate;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use self::{
    auth::{Caller, KnownKeys},
    network::Throttle,
    problem::{Problem, ProblemType},
    rate_limit::RateLimit,
    together::Together,
};
use crate::{context::App, events::Hub, mail::mailbox::Mailbox, store::Sealer};

/// What all requests share.
pub struct Api {
    app: Arc<App>,
    registry: Arc<Registry<App>>,
    schedules: Arc<Schedules>,
    keys: KnownKeys,
    rate_limit: RateLimit,
    /// Tries to sign in, by network.
    sign_ins: Throttle,
    /// Requests to what is open to everybody, by network.
    strangers: Throttle,
    /// Requests to join and for another password, by network: each may send a mail.
    join_requests: Throttle,
    /// Deliveries of third parties, by network.
    webhooks: Throttle,
    imports: Semaphore,
    /// Enqueues that come one by one.
    together: Arc<Together>,
    /// Streams of events.
    events: Hub,
    queues: BTreeSet<String>,
    has_mailbox: bool,
}

/// As handlers get it.
pub type ApiState = Arc<Api>;

impl Api {
    fn new(
        app: Arc<App>,
        registry: Arc<Registry<App>>,
        schedules: Arc<Schedules>,
        has_mailbox: bool,
        shutdown: &CancellationToken,
    ) -> ApiState {
        let configured = app.config.worker.queues.keys().cloned();
        let queues = configured.chain(registry.queues().into_iter().map(str::to_owned)).collect();
        let rate_limit = RateLimit::new(app.config.http.rate_limit_per_minute);
        let sign_ins = Throttle::new(app.config.sign_in.tries_per_minute);
        let strangers = Throttle::new(app.config.http.strangers_per_minute);
        let join_requests = Throttle::per_hour(app.config.http.join_requests_per_hour);
        let webhooks = Throttle::new(app.config.http.webhooks_per_minute);
        let imports = Semaphore::new(invoices::imports_at_once(app.config.database.max_connections));
        let together = Together::new(app.db.clone());
        let events = Hub::new(app.db.clone(), app.config.events.clone(), shutdown);
        Arc::new(Self {
            app,
            registry,
            schedules,
            keys: KnownKeys::default(),
            rate_limit,
            sign_ins,
            strangers,
            join_requests,
            webhooks,
            imports,
            together,
            events,
            queues,
            has_mailbox,
        })
    }

    /// A queue that some worker may serve: configured, or a kind's own.
    fn knows_queue(&self, queue: &str) -> bool {
        self.queues.contains(queue)
    }
}

/// Seals and opens fields of the caller's organization.
fn sealer<'a>(state: &'a ApiState, caller: &'a Caller) -> Sealer<'a> {
    Sealer::new(&state.app.vault, caller.tenant())
}

/// The day, by the calendar of the caller's organization.
fn today(state: &ApiState, caller: &Caller) -> NaiveDate {
    state.app.clock.today(caller.organization.time_zone)
}

/// Everything that is served, until the process ends.
pub fn router(
    app: Arc<App>,
    registry: Arc<Registry<App>>,
    schedules: Arc<Schedules>,
    mailbox: Option<Mailbox>,
) -> Router {
    router_until(app, registry, schedules, mailbox, &CancellationToken::new())
}

/// Everything that is served; streams of events end with `shutdown`.
///
/// Order of the layers, outermost first: the edge (ids, trace, the shape of errors), CORS, panics, time limit, identity.
fn router_until(
    app: Arc<App>,
    registry: Arc<Registry<App>>,
    schedules: Arc<Schedules>,
    mailbox: Option<Mailbox>,
    shutdown: &CancellationToken,
) -> Router {
    let state = Api::new(app, registry, schedules, mailbox.is_some(), shutdown);
    let (api, document) = api(&state);
    let http = &state.app.config.http;
    api.merge(pages::routes(mailbox, &state))
        .merge(invitation_page::routes(&state))
        .merge(join_request_page::routes(&state))
        .merge(password_reset_page::routes(&state))
        .merge(webhooks::door())
        .merge(documentation(document))
        .fallback(|| async { Problem::new(ProblemType::NotFound, "there is nothing at this address") })
        .layer(DefaultBodyLimit::max(http.body_limit_bytes))
        .layer(middleware::from_fn_with_state(state.clone(), auth::identify))
        .layer(middleware::from_fn_with_state(state.clone(), edge::limit_time))
        .layer(CatchPanicLayer::custom(edge::caught_panic))
        .layer(edge::cors(&http.cors_origins))
        .layer(middleware::from_fn(edge::pass))
        .with_state(state)
}

/// The documented routes and their document.
fn api(state: &ApiState) -> (Router<ApiState>, Value) {
    let large_bodies = DefaultBodyLimit::max(state.app.config.http.import_body_limit_bytes);
    let resources = OpenApiRouter::new()
        .merge(jobs::routes())
        .merge(batches::routes())
        .merge(explain::routes())
        .merge(bulk_actions::routes())
        .merge(jobs::bulk_routes().merge(batches::bulk_routes()).merge(invoices::import_routes()).layer(large_bodies))
        .merge(companies::routes())
        .merge(invoices::routes())
        .merge(api_keys::routes())
        .merge(organizations::routes())
        .merge(usage::routes())
        .merge(employees::routes())
        .merge(locations::routes())
        .merge(assets::routes())
        .merge(asset_steps::routes())
        .merge(sign_in::routes())
        .merge(password_resets::routes())
        .merge(me::routes())
        .merge(members::routes())
        .merge(effects::routes())
        .merge(events::routes())
        .merge(integrations::routes())
        .merge(sync_runs::routes())
        .merge(webhooks::routes())
        .merge(join_requests::routes())
        .merge(notification_rules::routes())
        .merge(queues::routes())
        .merge(schedules::routes())
        .merge(workspaces::routes())
        .merge(invitations::routes())
        .merge(tasks::routes())
        .merge(conversations::routes())
        .merge(workflow_templates::routes())
        .merge(workflow_steps::routes())
        .merge(workflows::routes());
    let (router, document) = OpenApiRouter::with_openapi(openapi::base())
        .nest("/api/v1", resources)
        .merge(health::routes())
        .split_for_parts();
    (router, openapi::finish(&document, &state.registry))
}

/// The document and the page that browses it; both come with the program, nothing is loaded from elsewhere.
fn documentation(document: Value) -> Router<ApiState> {
    Router::from(SwaggerUi::new("/docs").external_url_unchecked("/api/v1/openapi.json", document))
}

/// Serves until `shutdown`, then lets the requests under way finish.
pub async fn serve(
    app: Arc<App>,
    registry: Arc<Registry<App>>,
    schedules: Arc<Schedules>,
    listener: TcpListener,
    mailbox: Option<Mailbox>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let router = router_until(app, registry, schedules, mailbox, &shutdown);
    let router = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener.tap_io(bound_silence), router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("the HTTP server ended")
}

/// A client that takes nothing of what it was sent for so long is gone, or as good as gone: its connection is closed. Else one that
/// stopped reading a stream of events would hold its place for ever.
const SILENCE: Duration = Duration::from_secs(60);

fn bound_silence(connection: &mut TcpStream) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(&*connection).set_tcp_user_timeout(Some(SILENCE)) {
        tracing::debug!(%error, "could not bound how long a client may take nothing");
    }
    // Messages are small and are to be there now.
    if let Err(error) = connection.set_nodelay(true) {
        tracing::debug!(%error, "could not turn off the collecting of small packets");
    }
}
