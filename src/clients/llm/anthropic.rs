//! Anthropic's messages: `POST {base}/v1/messages`, version 2023-06-01 (anthropic-sdk-python, `types/message.py`). What we tell the
//! model is a field of its own there, not a message.

use futures::future::BoxFuture;
use reqwest::header::HeaderName;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use super::{Ask, Completion, End, LlmError, LlmOptions, Provider, TokenUsage, accepted};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");

pub struct Anthropic {
    options: LlmOptions,
    name: String,
}

impl Anthropic {
    pub fn new(options: LlmOptions) -> Self {
        let name = format!("anthropic:{}", options.endpoint.host());
        Self { options, name }
    }

    async fn ask(&self, ask: &Ask<'_>) -> Result<Completion, LlmError> {
        let options = &self.options;
        let mut body = json!({
            "model": options.model,
            "max_tokens": ask.max_output_tokens,
            "system": ask.system,
            "messages": [{"role": "user", "content": ask.user}],
        });
        if let Some(temperature) = options.temperature {
            body["temperature"] = json!(temperature);
        }
        let key = options.api_key.as_ref();
        let mut headers = vec![(VERSION, SecretString::from("2023-06-01"))];
        headers.extend(key.map(|key| (API_KEY, key.clone())));
        let endpoint = options.endpoint.join("v1/messages");
        let reply = options.http.post(&endpoint, &headers, &body).await.map_err(LlmError::Unreachable)?;
        let answer: Answer = accepted(&reply, key, options.clock.now())?;
        let usage = answer.usage.map(|usage| TokenUsage {
            input: usage
                .input_tokens
                .saturating_add(usage.cache_creation_input_tokens.unwrap_or(0))
                .saturating_add(usage.cache_read_input_tokens.unwrap_or(0)),
            output: usage.output_tokens,
        });
        let text = answer.content.into_iter().filter_map(|block| block.text.filter(|_| block.kind == "text")).collect();
        let end = match answer.stop_reason.as_deref() {
            Some("refusal") => End::Refused,
            Some("max_tokens" | "model_context_window_exceeded") => End::Length,
            Some("end_turn" | "stop_sequence") | None => End::Complete,
            Some(other) => End::Other(other.to_owned()),
        };
        Ok(Completion { text, end, usage })
    }
}

impl Provider for Anthropic {
    fn name(&self) -> &str {
        &self.name
    }

    fn complete<'a>(&'a self, ask: &'a Ask<'a>) -> BoxFuture<'a, Result<Completion, LlmError>> {
        Box::pin(self.ask(ask))
    }
}

#[derive(Deserialize)]
struct Answer {
    content: Vec<Block>,
    stop_reason: Option<String>,
    usage: Option<Usage>,
}

/// Of a kind that has a text, or of one that is passed over.
#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    output_tokens: u64,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
}
