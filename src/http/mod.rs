//! The API and the pages: a file per resource, one shape of errors, no third parties. Every handler authenticates,
//! validates, runs one transaction and answers.

mod api_keys;
mod auth;
mod batches;
mod bulk_actions;
mod companies;
mod conversations;
mod cursor;
mod edge;
mod effects;
mod explain;
mod extract;
mod health;
mod idempotency;
mod invitation_page;
mod invitations;
mod invoices;
mod jobs;
mod me;
mod members;
mod network;
mod openapi;
mod organizations;
mod pages;
mod person;
mod problem;
mod queues;
mod rate_limit;
mod schedules;
mod sign_in;
mod tasks;
#[cfg(test)]
mod tests;
mod usage;
mod workspaces;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use anyhow::Context;
use axum::{Router, extract::DefaultBodyLimit, middleware};
use backroom_queue::{Registry, scheduler::Schedules};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use self::{
    auth::KnownKeys,
    network::Throttle,
    problem::{Problem, ProblemType},
    rate_limit::RateLimit,
};
use crate::{context::App, mail::mailbox::Mailbox};

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
    imports: Semaphore,
    queues: BTreeSet<String>,
    has_mailbox: bool,
}

/// As handlers get it.
pub type ApiState = Arc<Api>;

impl Api {
    fn new(app: Arc<App>, registry: Arc<Registry<App>>, schedules: Arc<Schedules>, has_mailbox: bool) -> ApiState {
        let configured = app.config.worker.queues.keys().cloned();
        let queues = configured.chain(registry.queues().into_iter().map(str::to_owned)).collect();
        let rate_limit = RateLimit::new(app.config.http.rate_limit_per_minute);
        let sign_ins = Throttle::new(app.config.sign_in.tries_per_minute);
        let strangers = Throttle::new(app.config.http.strangers_per_minute);
        let imports = Semaphore::new(invoices::imports_at_once(app.config.database.max_connections));
        Arc::new(Self {
            app,
            registry,
            schedules,
            keys: KnownKeys::default(),
            rate_limit,
            sign_ins,
            strangers,
            imports,
            queues,
            has_mailbox,
        })
    }

    /// A queue that some worker may serve: configured, or a kind's own.
    fn knows_queue(&self, queue: &str) -> bool {
        self.queues.contains(queue)
    }
}

/// Everything that is served.
///
/// Order of the layers, outermost first: the edge (ids, trace, the shape of errors), CORS, panics, time limit, identity.
pub fn router(
    app: Arc<App>,
    registry: Arc<Registry<App>>,
    schedules: Arc<Schedules>,
    mailbox: Option<Mailbox>,
) -> Router {
    let state = Api::new(app, registry, schedules, mailbox.is_some());
    let (api, document) = api(&state);
    let http = &state.app.config.http;
    api.merge(pages::routes(mailbox, &state))
        .merge(invitation_page::routes(&state))
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
        .merge(sign_in::routes())
        .merge(me::routes())
        .merge(members::routes())
        .merge(effects::routes())
        .merge(queues::routes())
        .merge(schedules::routes())
        .merge(workspaces::routes())
        .merge(invitations::routes())
        .merge(tasks::routes())
        .merge(conversations::routes());
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
    let router = router(app, registry, schedules, mailbox).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("the HTTP server ended")
}
