//! The API as a client outside calls it: over a socket, with a key.

use backroom::tenant::testing::TestDatabase;
use reqwest::{Body, Client, Method, header::HeaderMap};
use serde_json::{Value, json};

use super::{Process, Program, eventually, free_address};

/// An organization `acme` on a database of its own, and one process that serves it.
pub struct World {
    pub database: TestDatabase,
    pub program: Program,
    pub process: Process,
    pub api: Api,
}

impl World {
    /// With `backroom server` or `backroom start`.
    pub async fn new(command: &str) -> Self {
        Self::with(command, |program| program).await
    }

    pub async fn with(command: &str, settings: impl FnOnce(Program) -> Program) -> Self {
        let database = TestDatabase::new().await;
        database.organization("acme").await;
        let program = settings(Program::on(&database.url()));
        let key = program.key("acme").await;
        let (process, api) = program.serve(command, &key).await;
        Self { database, program, process, api }
    }

    /// Stops the process, in order, and drops the database.
    pub async fn close(self) {
        self.process.stop().await;
        self.database.close().await.expect("dropped");
    }
}

/// A server and a key to it.
#[derive(Clone)]
pub struct Api {
    base: String,
    key: String,
    client: Client,
}

/// What the API answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

/// A client that knows no proxy. Whoever makes one needs a provider of TLS, also where none is spoken.
pub fn client() -> Client {
    // Fails only if there is one already.
    let _there_is_one = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().build().expect("a client")
}

impl Program {
    /// Starts a process that serves the API (`server` or `start`), waits until it is ready, and opens it with `key`.
    pub async fn serve(&self, command: &str, key: &str) -> (Process, Api) {
        // The port was free when it was asked for; if somebody was faster, the process ends and another one is tried.
        for _ in 0..5 {
            let address = free_address();
            let mut process = self.clone().with("BACKROOM__HTTP__LISTEN", address).start(&[command]);
            let client = client();
            let api = Api { base: format!("http://{address}"), key: key.to_owned(), client };
            let ready = eventually("the server is ready", async || {
                let asked = api.client.get(format!("{}/health/ready", api.base)).send().await;
                if asked.is_ok_and(|answer| answer.status().is_success()) {
                    return Some(true);
                }
                process.has_ended().then_some(false)
            });
            if ready.await {
                return (process, api);
            }
        }
        panic!("`backroom {command}` does not stay up");
    }

    /// Makes a key to the organization with every right.
    pub async fn key(&self, organization: &str) -> String {
        let made = self.json(&["api-key", "create", "--org", organization]).await;
        made["key"].as_str().expect("a key").to_owned()
    }
}

impl Api {
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// Its key, for a client that is none of these.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The address of a path, for a browser.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, &[], body).await
    }

    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let headers: Vec<_> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
        self.send(Method::POST, path, &headers, body.to_string()).await
    }

    pub async fn import(&self, csv: impl Into<Body>) -> Answer {
        self.send(Method::POST, "/api/v1/invoices/import", &[("content-type", "text/csv")], csv).await
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body);
        if !self.key.is_empty() {
            request = request.bearer_auth(&self.key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap_or_else(|e| panic!("{path} was not answered: {e:?}"));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.expect("text") }
    }

    /// Enqueues a job that must be accepted; answers its id.
    pub async fn enqueue(&self, kind: &str, args: Value) -> String {
        let answer = self.post("/api/v1/jobs", &json!({ "kind": kind, "args": args })).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    pub async fn job(&self, id: &str) -> Value {
        let answer = self.get(&format!("/api/v1/jobs/{id}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    /// Waits until the job is in this state; answers it.
    pub async fn until_job(&self, id: &str, state: &str) -> Value {
        eventually(&format!("job {id} is {state}"), async || {
            Some(self.job(id).await).filter(|job| job["state"] == state)
        })
        .await
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Checks that it is a problem of RFC 9457; answers `field code` of each field at fault.
    #[track_caller]
    pub fn problem(&self, status: u16, name: &str) -> Vec<String> {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        let body = self.json();
        assert_eq!(body["type"], format!("/problems/{name}"), "{body}");
        assert_eq!((body["status"].as_u64(), body["title"].is_string()), (Some(u64::from(status)), true), "{body}");
        assert_eq!(body["request_id"], self.header("x-request-id"), "{body}");
        let text = |error: &Value, member: &str| error[member].as_str().unwrap_or("(missing)").to_owned();
        let errors = body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().map(|error| format!("{} {}", text(error, "field"), text(error, "code"))).collect()
    }
}
