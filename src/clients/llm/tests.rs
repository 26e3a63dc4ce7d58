//! Both dialects over real HTTP, with everything that providers answer.

use serde_json::json;

use super::{
    fake::{Dialect, FakeModels, KEY, Mood},
    *,
};
use crate::clients::http::HttpOptions;

const BOTH: [Dialect; 2] = [Dialect::OpenAi, Dialect::Anthropic];
const ASK: Ask<'_> = Ask { system: "Name it.", user: "<conversation>\nHej\n</conversation>", max_output_tokens: 40 };

fn provider(models: &FakeModels, dialect: Dialect, key: &str, allow: &[&str]) -> Box<dyn Provider> {
    patient_provider(models, dialect, (key, allow), Duration::from_secs(30))
}

fn patient_provider(
    models: &FakeModels,
    dialect: Dialect,
    (key, allow): (&str, &[&str]),
    timeout: Duration,
) -> Box<dyn Provider> {
    let allow = allow.iter().map(|network| network.parse().unwrap()).collect();
    let http = Http::new(HttpOptions { timeout, body_limit: 100_000, allow }).unwrap();
    let options = LlmOptions {
        endpoint: Endpoint::parse(&models.base_url(dialect)).unwrap(),
        model: "small-model".to_owned(),
        api_key: Some(SecretString::from(key)),
        temperature: None,
        http,
        clock: Clock::system(),
    };
    match dialect {
        Dialect::OpenAi => Box::new(OpenAi::new(options, "max_completion_tokens")),
        Dialect::Anthropic => Box::new(Anthropic::new(options)),
    }
}

async fn answer(dialect: Dialect, mood: Mood) -> Result<Completion, LlmError> {
    let models = FakeModels::start().await;
    let timeout = if matches!(mood, Mood::Silent) { Duration::from_millis(200) } else { Duration::from_secs(30) };
    models.will([mood]);
    patient_provider(&models, dialect, (KEY, &["127.0.0.0/8"]), timeout).complete(&ASK).await
}

/// WORK-8: what is asked has the shape that the provider publishes, and what others wrote stands in the user's message only.
#[tokio::test]
async fn a_question_is_asked_and_answered_in_both_dialects() {
    for dialect in BOTH {
        let models = FakeModels::start().await;
        models.will([Mood::Says("Ny \"kaffemaskin\"\n<b>")]);
        let provider = provider(&models, dialect, KEY, &["127.0.0.0/8"]);

        let completion = provider.complete(&ASK).await.unwrap();

        let usage = Some(TokenUsage { input: 141, output: 9 });
        assert_eq!(completion, Completion { text: "Ny \"kaffemaskin\"\n<b>".to_owned(), end: End::Complete, usage });
        let asked = models.asked();
        assert_eq!((asked.len(), asked[0].dialect), (1, dialect));
        let expected = match dialect {
            Dialect::OpenAi => json!({
                "model": "small-model",
                "messages": [{"role": "system", "content": ASK.system}, {"role": "user", "content": ASK.user}],
                "max_completion_tokens": 40,
            }),
            Dialect::Anthropic => json!({
                "model": "small-model", "max_tokens": 40, "system": ASK.system,
                "messages": [{"role": "user", "content": ASK.user}],
            }),
        };
        assert_eq!(asked[0].body, expected);
        assert_eq!(asked[0].headers["content-type"], "application/json");
        assert!(provider.name().ends_with(&models.base_url(dialect).replace("http://", "").replace("/v1", "")));
    }
}

/// WORK-8
#[tokio::test]
async fn an_answer_that_is_none_is_told_apart() {
    let usage = |output| Some(TokenUsage { input: 141, output });
    for dialect in BOTH {
        for (mood, text, end, usage) in [
            (Mood::SaysBarely("Hej"), "Hej", End::Complete, None),
            (Mood::Fails(200, "empty"), "", End::Complete, usage(0)),
            (Mood::Fails(200, "refusal"), "", End::Refused, usage(12)),
            (Mood::Fails(200, "length"), "Half a ti", End::Length, usage(40)),
        ] {
            let completion =
                answer(dialect, mood.clone()).await.unwrap_or_else(|e| panic!("{dialect:?} {mood:?}: {e}"));
            assert_eq!(completion, Completion { text: text.to_owned(), end, usage }, "{dialect:?} {mood:?}");
        }
    }
}

/// WORK-8: what an error means for whoever asks again.
#[tokio::test]
async fn every_failure_has_its_kind() {
    let twenty = Some(Duration::from_secs(20));
    for dialect in BOTH {
        let busy = |mood: Mood| async move {
            match answer(dialect, mood.clone()).await {
                Err(LlmError::Busy { retry_after, .. }) => retry_after,
                other => panic!("{dialect:?} {mood:?}: {other:?}"),
            }
        };
        assert_eq!(busy(Mood::FailsWith(429, "rate_limit", ("retry-after", "20"))).await, twenty);
        assert_eq!(busy(Mood::Fails(429, "rate_limit")).await, None);
        assert_eq!(busy(Mood::Fails(529, "overloaded")).await, None);
        assert_eq!(busy(Mood::FailsWith(529, "overloaded", ("retry-after-ms", "20000"))).await, twenty);
        assert_eq!(busy(Mood::FailsWith(503, "overloaded", ("retry-after", "20"))).await, twenty);

        for (mood, kind, may_pass) in [
            (Mood::Fails(429, "spent"), "SpendLimit", false),
            (Mood::Fails(402, "spent"), "SpendLimit", false),
            (Mood::Fails(403, "wrong_key"), "KeyRefused", false),
            (Mood::Fails(400, "bad_request"), "Rejected", false),
            (Mood::Fails(404, "bad_request"), "Rejected", false),
            (Mood::Redirects, "Rejected", false),
            (Mood::Fails(500, "server_error"), "Failed", true),
            (Mood::Fails(503, "overloaded"), "Failed", true),
            (Mood::Truncated, "Failed", true),
            (Mood::BreaksOff, "Unreachable(Broken", true),
            (Mood::Endless, "Unreachable(TooLarge", true),
            (Mood::Silent, "Unreachable(TimedOut", true),
        ] {
            let error = answer(dialect, mood.clone()).await.unwrap_err();
            assert!(format!("{error:?}").starts_with(kind), "{dialect:?} {mood:?}: {error:?}");
            assert_eq!(error.may_pass(), may_pass, "{dialect:?} {mood:?}: {error:?}");
        }
    }
}

/// WORK-8, VAULT-4: a wrong key is told in plain words, without the key.
#[tokio::test]
async fn a_refused_key_is_told_without_the_key() {
    for dialect in BOTH {
        let models = FakeModels::start().await;
        let error = provider(&models, dialect, "test-key-wrong", &["127.0.0.0/8"]).complete(&ASK).await.unwrap_err();
        let told = format!("{error:#} {error:?}");
        assert!(matches!(error, LlmError::KeyRefused { .. }), "{told}");
        assert!(told.contains("llm.api_key") && told.contains("401"), "{told}");
        assert!(!told.contains("test-key"), "{told}");
    }
}

/// SYNC-14: a model on one's own machine has to be allowed.
#[tokio::test]
async fn a_provider_inside_is_not_asked_unless_its_network_is_allowed() {
    for dialect in BOTH {
        let models = FakeModels::start().await;
        let error = provider(&models, dialect, KEY, &[]).complete(&ASK).await.unwrap_err();
        assert!(matches!(error, LlmError::Unreachable(HttpError::Forbidden(_))) && !error.may_pass(), "{error:?}");
        assert!(models.asked().is_empty());
    }
}

/// VAULT-4
#[test]
fn what_the_other_side_said_is_one_short_line_without_our_key() {
    let key = SecretString::from("sk-secret");
    let line = one_line(&format!("a\r\nb\u{1b}[31m sk-secret {}", "x".repeat(300)), Some(&key));
    assert!(line.starts_with("a b [31m (the key) xxx"), "{line}");
    assert_eq!(line.chars().count(), 200);
}

#[test]
fn a_text_is_cut_to_about_so_many_tokens() {
    assert_eq!(cut("åäö", 1), "å");
    assert_eq!(cut("abcdef", 1), "abc");
    assert_eq!(cut("abc", 100), "abc");
    assert_eq!((estimated_tokens(""), estimated_tokens("abcd")), (0, 2));
}
