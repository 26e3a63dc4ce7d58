//! Third parties that live on loopback, for the demo and for tests: real HTTP, the vendors' paths, checks, paging and limits, and bad
//! habits on command. Facts are those of the vendors' published samples.
//!
//! A fake is a router over its own data plus a [`Script`] of what goes wrong; [`Fake::start`] puts the two together.

pub mod bamboohr;
pub mod netsuite;
pub mod quickbooks;
pub mod slack;
pub mod workday;

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::AbortHandle,
};

/// Requests to a fake are at most this large, in bytes.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// A server on a free port of loopback; it stops when it is dropped.
pub struct Fake {
    address: String,
    pub script: Script,
    task: AbortHandle,
}

/// What goes wrong, and what was asked. Clones share it.
#[derive(Clone, Default)]
pub struct Script(Arc<Inside>);

#[derive(Default)]
struct Inside {
    state: Mutex<Noted>,
    /// How many requests came.
    came: watch::Sender<usize>,
    /// Lets one stalled answer go.
    go: Notify,
}

#[derive(Default)]
struct Noted {
    /// Each for the next request whose path holds the text.
    moods: VecDeque<(String, Mood)>,
    asked: Vec<Asked>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    /// Undecoded; empty if there is none.
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// How one request is answered instead of properly.
#[derive(Clone, Debug)]
pub enum Mood {
    /// With this status, these headers and this body.
    Answers(u16, Vec<(&'static str, String)>, String),
    /// Properly, but the body is cut in the middle: broken JSON of the announced length.
    Truncated,
    /// Properly, but the line breaks in the middle of the body.
    BreaksOff,
    /// Does what was asked, and answers only when [`Script::let_go`] is called.
    Stalls,
}

impl Mood {
    /// 429 or another status with `Retry-After`.
    pub fn busy(status: u16, retry_after: Option<Duration>, body: &str) -> Self {
        let headers = retry_after.map(|wait| ("retry-after", wait.as_secs().to_string()));
        Self::Answers(status, headers.into_iter().collect(), body.to_owned())
    }

    /// 502 in HTML, as a load balancer answers.
    pub fn bad_gateway() -> Self {
        let html = "<html><body><h1>502 Bad Gateway</h1></body></html>".to_owned();
        Self::Answers(502, vec![("content-type", "text/html".to_owned())], html)
    }
}

impl Fake {
    /// Serves the router. A path without a route is answered with 404.
    pub async fn start(router: Router, script: Script) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = format!("http://{}", listener.local_addr()?);
        let router = router.layer(middleware::from_fn_with_state(script.clone(), play));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "a fake vendor stopped");
            }
        });
        Ok(Self { address, script, task: task.abort_handle() })
    }

    /// `http://127.0.0.1:<port>`
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Script {
    /// The next request whose path holds `path` is answered in this mood; moods of the same path wait in line.
    pub fn next(&self, path: &str, mood: Mood) {
        self.noted().moods.push_back((path.to_owned(), mood));
    }

    /// What was asked so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.noted().asked.clone()
    }

    /// Waits until so many requests have come.
    pub async fn came(&self, requests: usize) {
        let mut came = self.0.came.subscribe();
        // The sender lives as long as this script.
        let _ = came.wait_for(|came| *came >= requests).await;
    }

    /// One answer that stalls goes out.
    pub fn let_go(&self) {
        self.0.go.notify_one();
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the request; answers how it is to be treated.
    fn note(&self, asked: Asked) -> Option<Mood> {
        let mut noted = self.noted();
        let found = noted.moods.iter().position(|(path, _)| asked.path.contains(path.as_str()));
        let mood = found.and_then(|n| noted.moods.remove(n)).map(|(_, mood)| mood);
        noted.asked.push(asked);
        let count = noted.asked.len();
        drop(noted);
        self.0.came.send_replace(count);
        mood
    }
}

async fn play(State(script): State<Script>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_LIMIT).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let asked = Asked {
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers.clone(),
        body: body.clone(),
    };
    let mood = script.note(asked);
    let proper = next.run(Request::from_parts(parts, Body::from(body)));
    match mood {
        None => proper.await,
        Some(Mood::Answers(status, headers, body)) => {
            let mut response = (StatusCode::from_u16(status).unwrap_or_default(), body).into_response();
            for (name, value) in headers {
                if let Ok(value) = value.parse() {
                    response.headers_mut().insert(name, value);
                }
            }
            response
        }
        Some(Mood::Truncated) => {
            let (mut parts, body) = halved(proper.await).await;
            parts.headers.remove(header::CONTENT_LENGTH);
            Response::from_parts(parts, Body::from(body))
        }
        Some(Mood::BreaksOff) => {
            let (mut parts, body) = halved(proper.await).await;
            parts.headers.remove(header::CONTENT_LENGTH);
            let broken = futures::stream::iter([Ok(body), Err(std::io::Error::other("the line broke"))]);
            Response::from_parts(parts, Body::from_stream(broken))
        }
        Some(Mood::Stalls) => {
            let response = proper.await;
            script.0.go.notified().await;
            response
        }
    }
}

/// The first half of the body.
async fn halved(response: Response) -> (axum::http::response::Parts, Bytes) {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let half = body.slice(..body.len() / 2);
    (parts, half)
}
