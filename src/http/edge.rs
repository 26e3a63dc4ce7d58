//! What every request passes on its way in and every answer on its way out: ids, trace, time limit, headers, counters,
//! and the one shape of errors.

use std::{
    any::Any,
    pin::Pin,
    task,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, BodyDataStream, Bytes, HttpBody},
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use backroom_queue::TraceParent;
use futures::{Stream, StreamExt};
use tokio::runtime::Handle;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument;
use uuid::Uuid;

use super::{
    ApiState,
    problem::{self, Problem, ProblemType},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a request brought along or got at the edge: the trace that its jobs carry on (PLAT-17).
#[derive(Clone)]
pub struct Trace(pub TraceParent);

impl<S: Send + Sync> FromRequestParts<S> for Trace {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self(TraceParent::new())))
    }
}

/// The outermost layer.
pub async fn pass(request: Request, next: Next) -> Response {
    let mut request = request.map(heard_out);
    let began = Instant::now();
    let id = request_id(request.headers());
    let given = header_text(request.headers(), &TRACEPARENT).and_then(|text| text.parse().ok());
    let trace: TraceParent = given.unwrap_or_default();
    let method = request.method().clone();
    let span = tracing::info_span!("request", %method, path = told(request.uri().path()), request.id = id, trace_id = trace.trace_id());
    request.extensions_mut().insert(Trace(trace));

    // The route's pattern, not the path: paths have ids in them, and a metric per id would never end.
    let mut response = next.run(request).instrument(span.clone()).await;
    let route = response.extensions_mut().remove::<Route>().map_or_else(|| "unmatched".to_owned(), |Route(path)| path);
    let status = response.status();
    let mut response = problem::finish(response, &id);
    secure(response.headers_mut());
    if let Ok(id) = HeaderValue::try_from(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }

    let elapsed = began.elapsed();
    let labels = [("method", method.to_string()), ("route", route), ("status", status.as_u16().to_string())];
    metrics::counter!("http_requests_total", &labels).increment(1);
    metrics::histogram!("http_request_seconds", &labels[..2]).record(elapsed.as_secs_f64());
    span.in_scope(|| {
        let duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), duration_ms, "answered");
        } else {
            tracing::debug!(status = status.as_u16(), duration_ms, "answered");
        }
    });
    response
}

/// The path as a log may tell it: a link that was mailed to somebody holds a secret (VAULT-4).
fn told(path: &str) -> &str {
    let links = ["/invitations/", "/join-requests/", "/password-resets/"];
    links.into_iter().find(|link| path.starts_with(link)).unwrap_or(path)
}

/// A body whose rest is read and dropped when nobody wants it any more. Closing the connection on a client that is
/// still sending would break its line before it has read why it was refused.
fn heard_out(body: Body) -> Body {
    if body.is_end_stream() { body } else { Body::from_stream(HeardOut(Some(body.into_data_stream()))) }
}

/// How much of an unwanted body is heard out, and for how long.
const UNWANTED_BYTES: usize = 64 << 20;
const UNWANTED_PATIENCE: Duration = Duration::from_secs(10);

/// `None` once the body has ended.
struct HeardOut(Option<BodyDataStream>);

impl Stream for HeardOut {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> task::Poll<Option<Self::Item>> {
        let Some(body) = &mut self.0 else { return task::Poll::Ready(None) };
        let next = task::ready!(body.poll_next_unpin(context));
        if !matches!(next, Some(Ok(_))) {
            self.0 = None;
        }
        task::Poll::Ready(next)
    }
}

impl Drop for HeardOut {
    fn drop(&mut self) {
        let (Some(mut rest), Ok(runtime)) = (self.0.take(), Handle::try_current()) else { return };
        let hear = async move {
            let mut heard = 0;
            while let Some(Ok(bytes)) = rest.next().await {
                heard += bytes.len();
                if heard > UNWANTED_BYTES {
                    return;
                }
            }
        };
        runtime.spawn(tokio::time::timeout(UNWANTED_PATIENCE, hear));
    }
}

/// The pattern of the route that answered; a response extension.
#[derive(Clone)]
struct Route(String);

/// Notes the route for [`pass`] and ends a request that takes too long; the transaction that is open rolls back when it is
/// dropped.
pub async fn limit_time(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| Route(path.as_str().to_owned()));
    let limit = Duration::from_secs(state.app.config.http.request_timeout_s);
    let mut response = match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("the request took longer than {} seconds and was given up", limit.as_secs());
            Problem::new(ProblemType::Timeout, detail).retry_after(1).into_response()
        }
    };
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}

/// A panic is a mistake of the program: logged, answered as an internal problem, and the process goes on.
pub fn caught_panic(panic: Box<dyn Any + Send>) -> Response {
    let message = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Problem::internal(anyhow::anyhow!("a handler panicked: {}", message.unwrap_or("(no message)"))).into_response()
}

/// Browsers of the configured origins may call the API and read its headers.
pub fn cors(origins: &[String]) -> CorsLayer {
    let origins: Vec<_> = origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok()).collect();
    let exposed = [
        "location",
        "retry-after",
        "x-request-id",
        "idempotency-replayed",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static("x-tenant-id"),
            REQUEST_ID,
            TRACEPARENT,
        ])
        .expose_headers(exposed.map(HeaderName::from_static))
        .max_age(Duration::from_secs(3600))
}

fn secure(headers: &mut HeaderMap) {
    // The API page brings its own scripts and inline styles; nothing is loaded from elsewhere.
    const CSP: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                       base-uri 'none'; form-action 'self'; frame-ancestors 'self'";
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
        (header::CONTENT_SECURITY_POLICY, CSP),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// The caller's id for the request if it is a sensible one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sensible = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    header_text(headers, &REQUEST_ID).filter(sensible).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
