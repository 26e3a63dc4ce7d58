//! The demo's own client of the API: just enough HTTP/1.1 for a server on this machine, so that the program needs no
//! HTTP client to show itself.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A caller with a key, or with a person's access token.
pub struct Api {
    pub address: SocketAddr,
    pub key: SecretString,
}

impl Api {
    /// Where a path is, for a browser.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The JSON answer to a GET.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json("GET", path, "").await
    }

    /// The JSON answer to a POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.json("POST", path, &body.to_string()).await
    }

    /// The JSON answer to a PATCH of JSON.
    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.json("PATCH", path, &body.to_string()).await
    }

    /// The status of a page, as a browser would be told.
    pub async fn status(&self, path: &str) -> anyhow::Result<u16> {
        Ok(self.exchange("GET", path, "").await?.0)
    }

    /// The status of the answer to a POST of nothing, whatever it is.
    pub async fn try_post(&self, path: &str) -> anyhow::Result<u16> {
        Ok(self.exchange("POST", path, "").await?.0)
    }

    /// The status of the page that a form of these fields is answered with, sent from its own page.
    pub async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<u16> {
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        Ok(self.send("POST", path, "application/x-www-form-urlencoded", &form).await?.0)
    }

    /// The same API for somebody else; an empty key is a stranger's.
    #[must_use]
    pub fn for_(&self, key: &str) -> Self {
        Self { address: self.address, key: SecretString::from(key) }
    }

    async fn json(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Value> {
        let (status, answer) = self.exchange(method, path, body).await?;
        ensure!((200..300).contains(&status), "{method} {path} was answered with {status}: {answer}");
        serde_json::from_str(&answer).with_context(|| format!("{method} {path} was not answered with JSON"))
    }

    async fn exchange(&self, method: &str, path: &str, body: &str) -> anyhow::Result<(u16, String)> {
        self.send(method, path, "application/json", body).await
    }

    /// Status and body. `Connection: close` makes the end of the stream the end of the answer.
    async fn send(&self, method: &str, path: &str, kind: &str, body: &str) -> anyhow::Result<(u16, String)> {
        let key = match self.key.expose_secret() {
            "" => String::new(),
            key => format!("Authorization: Bearer {key}\r\n"),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{key}Content-Type: {kind}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let mut answer = Vec::new();
        let talk = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut answer).await
        };
        talk.await.with_context(|| format!("{method} {path}: the API at {} did not answer", self.address))?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.with_context(|| format!("{method} {path} was not answered in HTTP"))?, body.to_owned()))
    }
}
