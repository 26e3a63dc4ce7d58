//! A provider of language models over real HTTP, in both dialects, that misbehaves on command. It checks what it is asked as the
//! real ones do, and answers with tests/fixtures/llm.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response, StatusCode},
    routing::post,
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::AbortHandle,
};

/// The key that it takes.
pub const KEY: &str = "test-key-4711";

/// Listens until it is dropped.
pub struct FakeModels {
    address: String,
    state: Shared,
    task: AbortHandle,
}

type Shared = Arc<Model>;

#[derive(Default)]
struct Model {
    inside: Mutex<Inside>,
    /// How many questions came.
    came: watch::Sender<usize>,
    /// Lets one waiting answer go.
    go: Notify,
}

#[derive(Default)]
struct Inside {
    moods: VecDeque<Mood>,
    asked: Vec<Asked>,
}

/// A question as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub dialect: Dialect,
    pub headers: HeaderMap,
    pub body: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    OpenAi,
    Anthropic,
}

/// How a question is answered.
#[derive(Clone, Debug)]
pub enum Mood {
    /// With these words.
    Says(&'static str),
    /// With these words, and not what they cost, as small servers do.
    SaysBarely(&'static str),
    /// With this status and this file of the dialect's folder.
    Fails(u16, &'static str),
    /// The same, with a header.
    FailsWith(u16, &'static str, (&'static str, &'static str)),
    /// With a body that is cut in the middle.
    Truncated,
    /// The line breaks in the middle of the body.
    BreaksOff,
    /// With a body that does not end.
    Endless,
    /// The line is open and nothing comes.
    Silent,
    /// With these words, once the test says so.
    Waits(&'static str),
    /// With the address of the machine's own secrets.
    Redirects,
}

impl FakeModels {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("its address"));
        let state = Shared::default();
        let router = Router::new()
            .route("/v1/chat/completions", post(openai))
            .route("/v1/messages", post(anthropic))
            .with_state(state.clone());
        let task = tokio::spawn(async { axum::serve(listener, router).await.expect("it serves") }).abort_handle();
        Self { address, state, task }
    }

    /// What `llm.base_url` is for this dialect.
    pub fn base_url(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::OpenAi => format!("{}/v1", self.address),
            Dialect::Anthropic => self.address.clone(),
        }
    }

    /// The next questions are answered like this, in this order; those after the last one like the last one.
    pub fn will(&self, moods: impl IntoIterator<Item = Mood>) {
        self.inside(|inside| inside.moods = moods.into_iter().collect());
    }

    /// What was asked since the start.
    pub fn asked(&self) -> Vec<Asked> {
        self.inside(|inside| inside.asked.clone())
    }

    /// Returns when so many questions have come.
    pub async fn until_asked(&self, questions: usize) {
        let came = self.state.came.subscribe().wait_for(|came| *came >= questions).await.is_ok();
        assert!(came, "the fake is gone");
    }

    /// Lets an answer go that [`Mood::Waits`].
    pub fn go_on(&self) {
        self.state.go.notify_one();
    }

    fn inside<T>(&self, f: impl FnOnce(&mut Inside) -> T) -> T {
        f(&mut self.state.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for FakeModels {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn openai(State(state): State<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Response<Body> {
    let key = header(&headers, "authorization").strip_prefix("Bearer ").unwrap_or_default().to_owned();
    let roles = roles(&body);
    let in_order = body["model"].is_string() && !roles.is_empty() && roles.iter().all(|role| role != "?");
    answer(&state, Dialect::OpenAi, (headers, body), key == KEY, in_order).await
}

async fn anthropic(State(state): State<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Response<Body> {
    let key = header(&headers, "x-api-key").to_owned();
    let roles = roles(&body);
    let in_order = body["model"].is_string()
        && body["max_tokens"].is_u64()
        && header(&headers, "anthropic-version") == "2023-06-01"
        && roles == ["user"];
    answer(&state, Dialect::Anthropic, (headers, body), key == KEY, in_order).await
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// `?` for what is no message.
fn roles(body: &Value) -> Vec<String> {
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let role = |message: &Value| message["content"].as_str().and(message["role"].as_str()).unwrap_or("?").to_owned();
    messages.iter().map(role).collect()
}

async fn answer(
    state: &Shared,
    dialect: Dialect,
    (headers, body): (HeaderMap, Value),
    knows_the_key: bool,
    in_order: bool,
) -> Response<Body> {
    let mood = {
        let mut inside = state.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.asked.push(Asked { dialect, headers, body });
        state.came.send_replace(inside.asked.len());
        if inside.moods.len() > 1 { inside.moods.pop_front() } else { inside.moods.front().cloned() }
    };
    let mood = match mood {
        _ if !knows_the_key => Mood::Fails(401, "wrong_key"),
        _ if !in_order => Mood::Fails(400, "bad_request"),
        mood => mood.unwrap_or(Mood::Says("A title")),
    };
    let (status, name) = match &mood {
        Mood::Says(_) | Mood::Waits(_) | Mood::Truncated | Mood::BreaksOff | Mood::Endless | Mood::Silent => {
            (200, "answer")
        }
        Mood::SaysBarely(_) => (200, "bare"),
        Mood::Fails(status, name) | Mood::FailsWith(status, name, _) => (*status, *name),
        Mood::Redirects => (307, "server_error"),
    };
    let mut text = fixture(dialect, name);
    if let Mood::Says(words) | Mood::SaysBarely(words) | Mood::Waits(words) = &mood {
        // As JSON writes them, without the quotation marks that the file has.
        let words = Value::from(*words).to_string();
        text = text.replace("SAID", &words[1..words.len() - 1]);
    }
    if let Mood::Waits(_) = &mood {
        state.go.notified().await;
    }
    let mut response = Response::builder()
        .status(StatusCode::from_u16(status).expect("a status"))
        .header("content-type", "application/json")
        .header("x-request-id", "req_fixture");
    match mood {
        Mood::FailsWith(.., (name, value)) => response = response.header(name, value),
        Mood::Redirects => response = response.header("location", "http://169.254.169.254/latest/meta-data"),
        _ => {}
    }
    let body = match mood {
        Mood::Silent => std::future::pending().await,
        Mood::Truncated => Body::from(text[..text.len() / 2].to_owned()),
        Mood::BreaksOff => {
            let half = Bytes::from(text[..text.len() / 2].to_owned());
            let parts = [Ok(half), Err(std::io::Error::other("the line broke"))];
            Body::from_stream(futures::stream::iter(parts))
        }
        Mood::Endless => {
            let part = Bytes::from(vec![b' '; 64 * 1024]);
            Body::from_stream(futures::stream::repeat_with(move || Ok::<_, std::io::Error>(part.clone())))
        }
        _ => Body::from(text),
    };
    response.body(body).expect("a response")
}

fn fixture(dialect: Dialect, name: &str) -> String {
    let folder = match dialect {
        Dialect::OpenAi => "openai",
        Dialect::Anthropic => "anthropic",
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/llm/{folder}/{name}.json"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
