//! What handlers take: bodies, query parameters and ids, refused as [`Problem`]s that name the field.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query as AxumQuery, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    ApiState,
    idempotency::{self, Idempotency},
    problem::{Problem, ProblemType},
};
use crate::domain::FieldError;

/// A JSON body and the request's idempotency key.
pub struct Posted<T> {
    pub body: T,
    pub idempotency: Option<Idempotency>,
}

/// A JSON body of a PATCH, which needs no idempotency key.
pub struct Json<T>(pub T);

/// A POST that carries nothing, and its idempotency key. A body other than `{}` is refused.
pub struct NoBody {
    pub idempotency: Option<Idempotency>,
}

/// A `text/csv` body and the request's idempotency key.
pub struct Csv {
    pub body: Bytes,
    pub idempotency: Option<Idempotency>,
}

/// The `{id}` of the path.
#[derive(Clone, Copy, Debug)]
pub struct Id(pub Uuid);

/// The `{id}` of the path and the id after it.
#[derive(Clone, Copy, Debug)]
pub struct Ids(pub [Uuid; 2]);

/// Query parameters. Unknown, repeated and malformed ones are refused by name.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequest<ApiState> for Posted<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        expect_media_type(request.headers(), "application/json")?;
        let (bytes, idempotency) = read(request, state).await?;
        Ok(Self { body: parse_json(&bytes)?, idempotency })
    }
}

impl<T: DeserializeOwned> FromRequest<ApiState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        expect_media_type(request.headers(), "application/json")?;
        let (bytes, _) = read(request, state).await?;
        Ok(Self(parse_json(&bytes)?))
    }
}

impl FromRequest<ApiState> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        let (bytes, idempotency) = read(request, state).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self { idempotency });
        }
        let fields: serde_json::Map<String, Value> = parse_json(&bytes)?;
        match fields.keys().next() {
            None => Ok(Self { idempotency }),
            Some(field) => Err(Problem::field(field, "unknown_field", "is not known here; send no body or `{}`")),
        }
    }
}

impl FromRequest<ApiState> for Csv {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        expect_media_type(request.headers(), "text/csv")?;
        let (body, idempotency) = read(request, state).await?;
        Ok(Self { body, idempotency })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(id) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::field("id", "invalid", "is not a UUID"))?;
        id.parse().map(Self).map_err(|_| Problem::field("id", "invalid", "is not a UUID"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Ids {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let refuse = |field: &str| Problem::field(field, "invalid", "is not a UUID");
        let Path(named) =
            Path::<Vec<(String, String)>>::from_request_parts(parts, state).await.map_err(|_| refuse("id"))?;
        let id = |at: usize| match named.get(at) {
            Some((name, text)) => text.parse().map_err(|_| refuse(name)),
            None => Err(refuse("id")),
        };
        Ok(Self([id(0)?, id(1)?]))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let AxumQuery(pairs) = AxumQuery::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| Problem::new(ProblemType::Validation, "the query string cannot be read"))?;
        let mut fields = serde_json::Map::new();
        for (name, value) in pairs {
            // PostgreSQL's text has no NUL.
            if value.contains('\0') {
                return Err(Problem::field(name, "invalid", "must not contain the character U+0000"));
            }
            if fields.insert(name.clone(), Value::String(value)).is_some() {
                return Err(Problem::field(name, "invalid", "is given more than once"));
            }
        }
        from_value(Value::Object(fields), "").map(Self).map_err(Problem::from)
    }
}

/// Tells `null` from a field that is not there; for `deserialize_with`, beside `default`.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Reads the body up to the route's limit (`DefaultBodyLimit`).
async fn read(request: Request, state: &ApiState) -> Result<(Bytes, Option<Idempotency>), Problem> {
    let key = idempotency::Key::of(&request)?;
    let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE)
        } else {
            Problem::new(ProblemType::MalformedBody, "the body ended before its time")
        }
    })?;
    let idempotency = key.map(|key| key.over(&bytes, &state.app.vault));
    Ok((bytes, idempotency))
}

fn expect_media_type(headers: &HeaderMap, expected: &str) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(Problem::new(ProblemType::UnsupportedMediaType, format!("send the body as `Content-Type: {expected}`")))
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.trim_ascii().is_empty() {
        return Err(Problem::new(ProblemType::MalformedBody, "the body is empty; send JSON"));
    }
    // serde would read an array as a struct's fields in their order, which nobody promised.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => Problem::field("body", "invalid", "must be a JSON object"),
            Err(error) => not_json(&error),
        });
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| {
            let path = error.path().to_string();
            (path, error.into_inner())
        })
        .and_then(|value| json.end().map(|()| value).map_err(|error| (String::new(), error)));
    parsed.map_err(
        |(path, error)| {
            if error.is_data() { field_error(&path, &error.to_string()).into() } else { not_json(&error) }
        },
    )
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(ProblemType::MalformedBody, format!("the body is not JSON: {error}"))
}

/// Decodes a part of a request, an object; an error names the field below `prefix`.
pub fn from_value<T: DeserializeOwned>(value: Value, prefix: &str) -> Result<T, FieldError> {
    if !value.is_object() {
        let message = "must be a JSON object".to_owned();
        return Err(FieldError { field: prefix.to_owned(), code: "invalid", message });
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = join(prefix, &error.path().to_string());
        field_error(&path, &error.into_inner().to_string())
    })
}

/// A field below another: `jobs[3]` and `args.id` are `jobs[3].args.id`. serde_path_to_error calls the root `.`.
pub fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        (_, "." | "") => prefix.to_owned(),
        ("", path) => path.to_owned(),
        (prefix, path) if path.starts_with('[') => format!("{prefix}{path}"),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}

/// Turns serde's words into a field error. A field that is missing or unknown is named in serde's message only, so it
/// is read out of there; ` at line 1 column 2` is noise once the field is named.
pub fn field_error(path: &str, message: &str) -> FieldError {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let path = if path == "." { "" } else { path };
    let quoted = |start: &str| message.strip_prefix(start)?.split('`').next().map(|name| ends_with(path, name));
    if let Some(field) = quoted("missing field `") {
        return FieldError { field, code: "required", message: "is missing".to_owned() };
    }
    if let Some(field) = quoted("unknown field `") {
        let known = message.split_once("expected ").map(|(_, known)| known.trim_start_matches("one of "));
        let message = match known {
            Some(known) => format!("is not known here; known are {known}"),
            None => "is not known here".to_owned(),
        };
        return FieldError { field, code: "unknown_field", message };
    }
    let field = if path.is_empty() { "body".to_owned() } else { path.to_owned() };
    FieldError { field, code: "invalid", message: message.to_owned() }
}

/// Some deserializers end the path with the field itself, some with the object around it.
fn ends_with(path: &str, name: &str) -> String {
    if path == name || path.ends_with(&format!(".{name}")) { path.to_owned() } else { join(path, name) }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only decoded")]
    struct Order {
        id: Uuid,
        items: Vec<Item>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only decoded")]
    struct Item {
        count: u32,
    }

    fn refusal(body: &Value) -> (u16, String, &'static str) {
        let problem = parse_json::<Order>(body.to_string().as_bytes()).unwrap_err();
        let error = &problem.errors[0];
        (problem.kind.status().as_u16(), error.field.clone(), error.code)
    }

    /// API-4
    #[test]
    fn what_does_not_decode_is_named_by_its_path() {
        let id = Uuid::nil();
        assert_eq!(refusal(&json!({"id": "x", "items": []})), (422, "id".into(), "invalid"));
        assert_eq!(refusal(&json!({"items": []})), (422, "id".into(), "required"));
        assert_eq!(refusal(&json!({"id": id, "items": [], "x": 1})), (422, "x".into(), "unknown_field"));
        let nested = json!({"id": id, "items": [{"count": 1}, {"count": -1}]});
        assert_eq!(refusal(&nested), (422, "items[1].count".into(), "invalid"));
        let nested = json!({"id": id, "items": [{"count": 1, "x": 1}]});
        assert_eq!(refusal(&nested), (422, "items[0].x".into(), "unknown_field"));
        assert_eq!(refusal(&json!({"id": id, "items": [{}]})), (422, "items[0].count".into(), "required"));
        assert_eq!(refusal(&json!([])).0, 422);
    }

    /// API-4
    #[test]
    fn broken_json_is_a_bad_request() {
        for broken in ["", "  ", "{", "{\"id\":}", "{} {}", "\u{feff}{}"] {
            let problem = parse_json::<std::collections::BTreeMap<String, Value>>(broken.as_bytes()).unwrap_err();
            assert_eq!(problem.kind, ProblemType::MalformedBody, "{broken:?}");
        }
    }
}
