//! OpenAI's chat completions, as OpenAI and many others serve them: `POST {base}/chat/completions`
//! (openai-openapi, `CreateChatCompletionRequest`). Of an answer only what is needed is asked for; compatible servers leave out
//! the rest.

use futures::future::BoxFuture;
use reqwest::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::{Ask, Completion, End, LlmError, LlmOptions, Provider, TokenUsage, accepted};

pub struct OpenAi {
    options: LlmOptions,
    /// The field that limits the answer: `max_completion_tokens`, or `max_tokens` for servers that are older.
    limit_field: &'static str,
    name: String,
}

impl OpenAi {
    pub fn new(options: LlmOptions, limit_field: &'static str) -> Self {
        let name = format!("openai:{}", options.endpoint.host());
        Self { options, limit_field, name }
    }

    async fn ask(&self, ask: &Ask<'_>) -> Result<Completion, LlmError> {
        let options = &self.options;
        let mut body = json!({
            "model": options.model,
            "messages": [{"role": "system", "content": ask.system}, {"role": "user", "content": ask.user}],
            self.limit_field: ask.max_output_tokens,
        });
        if let Some(temperature) = options.temperature {
            body["temperature"] = json!(temperature);
        }
        let key = options.api_key.as_ref();
        let bearer = key.map(|key| (AUTHORIZATION, SecretString::from(format!("Bearer {}", key.expose_secret()))));
        let endpoint = options.endpoint.join("chat/completions");
        let reply = options.http.post(&endpoint, bearer.as_slice(), &body).await.map_err(LlmError::Unreachable)?;
        let answer: Answer = accepted(&reply, key, options.clock.now())?;
        let usage =
            answer.usage.map(|usage| TokenUsage { input: usage.prompt_tokens, output: usage.completion_tokens });
        let Some(choice) = answer.choices.into_iter().next() else {
            return Ok(Completion { text: String::new(), end: End::Other("no choice".to_owned()), usage });
        };
        let end = match choice.finish_reason.as_deref() {
            _ if choice.message.refusal.is_some() => End::Refused,
            Some("content_filter") => End::Refused,
            Some("length") => End::Length,
            Some("stop") | None => End::Complete,
            Some(other) => End::Other(other.to_owned()),
        };
        Ok(Completion { text: choice.message.content.unwrap_or_default(), end, usage })
    }
}

impl Provider for OpenAi {
    fn name(&self) -> &str {
        &self.name
    }

    fn complete<'a>(&'a self, ask: &'a Ask<'a>) -> BoxFuture<'a, Result<Completion, LlmError>> {
        Box::pin(self.ask(ask))
    }
}

#[derive(Deserialize)]
struct Answer {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}
