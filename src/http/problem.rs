//! The one shape of every error answer: RFC 9457 `application/problem+json`.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    domain::{FieldError, FieldErrors, LimitExceeded},
    store::StoreError,
};

/// What kind of problem it is. Its URI (`/problems/<name>`) is part of the API and never changes; the page behind it
/// explains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemType {
    MalformedBody,
    Validation,
    Unauthenticated,
    SignInRefused,
    TokenInvalid,
    TokenExpired,
    TokenRevoked,
    TokenReused,
    TokenWrongPurpose,
    LimitExceeded,
    Forbidden,
    TenantMismatch,
    OrganizationSuspended,
    DeliveryRefused,
    NotFound,
    MethodNotAllowed,
    Conflict,
    IdempotencyInProgress,
    IdempotencyMismatch,
    BodyTooLarge,
    UnsupportedMediaType,
    RateLimited,
    Timeout,
    Unavailable,
    Internal,
    /// A status that none of the others stands for; its title is the status' own name (RFC 9457, `about:blank`).
    Other(StatusCode),
}

impl ProblemType {
    pub const ALL: [Self; 25] = [
        Self::MalformedBody,
        Self::Validation,
        Self::Unauthenticated,
        Self::SignInRefused,
        Self::TokenInvalid,
        Self::TokenExpired,
        Self::TokenRevoked,
        Self::TokenReused,
        Self::TokenWrongPurpose,
        Self::LimitExceeded,
        Self::Forbidden,
        Self::TenantMismatch,
        Self::OrganizationSuspended,
        Self::DeliveryRefused,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::IdempotencyInProgress,
        Self::IdempotencyMismatch,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::RateLimited,
        Self::Timeout,
        Self::Unavailable,
        Self::Internal,
    ];

    /// Name, status, title and what to do about it.
    fn facts(self) -> (&'static str, StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::MalformedBody => (
                "malformed-body",
                S::BAD_REQUEST,
                "The body cannot be read",
                "The body is not what its content type says, for example JSON with a syntax error. Nothing was done.",
            ),
            Self::Validation => (
                "validation",
                S::UNPROCESSABLE_ENTITY,
                "Some fields are not right",
                "Each entry of `errors` names a field, a code and what is wrong. Correct them and send the request again; \
                 nothing was done.",
            ),
            Self::Unauthenticated => (
                "unauthenticated",
                S::UNAUTHORIZED,
                "A valid key is needed",
                "Send `Authorization: Bearer KEY` with a key of the organization that has not been revoked, or with the access \
                 token of a person who has signed in.",
            ),
            Self::SignInRefused => (
                "sign-in-refused",
                S::UNAUTHORIZED,
                "The address and the password do not belong together",
                "Nobody is told whether the address or the password was wrong, nor whether the address is known.",
            ),
            Self::TokenInvalid => (
                "token-invalid",
                S::UNAUTHORIZED,
                "The token is not one of ours",
                "It is malformed, was changed, or was signed with a key that is not, or no longer, believed. Sign in again.",
            ),
            Self::TokenExpired => (
                "token-expired",
                S::UNAUTHORIZED,
                "The token has expired",
                "Exchange the refresh token for a new access token; if that has expired too, sign in again.",
            ),
            Self::TokenRevoked => (
                "token-revoked",
                S::UNAUTHORIZED,
                "The session has ended",
                "Somebody signed out, the password was changed, or the membership ended. Sign in again.",
            ),
            Self::TokenReused => (
                "token-reused",
                S::UNAUTHORIZED,
                "The refresh token was used before",
                "A refresh token is good once. Its second use may be a thief's, so the whole session was ended. Sign in again. \
                 A client that may lose an answer repeats the request with the same Idempotency-Key.",
            ),
            Self::TokenWrongPurpose => (
                "token-wrong-purpose",
                S::UNAUTHORIZED,
                "The token was made for another purpose",
                "Only an access token opens the API.",
            ),
            Self::LimitExceeded => (
                "limit-exceeded",
                S::PAYMENT_REQUIRED,
                "The tier's limit is reached",
                "Nothing was done. `GET /api/v1/organization/usage` tells limits and use; a higher tier has higher limits, at once.",
            ),
            Self::Forbidden => (
                "forbidden",
                S::FORBIDDEN,
                "The caller may not do this",
                "Key or token are valid, but the key lacks the scope, or the person's role the right, that the operation needs.",
            ),
            Self::TenantMismatch => (
                "tenant-mismatch",
                S::FORBIDDEN,
                "The request names another organization",
                "Key or token, `X-Tenant-ID` header and subdomain must name the same organization. Leave the header out or \
                 correct it.",
            ),
            Self::OrganizationSuspended => (
                "organization-suspended",
                S::FORBIDDEN,
                "The organization is suspended",
                "Its data can be read but not changed, and its jobs are held until it is activated again.",
            ),
            Self::DeliveryRefused => (
                "delivery-refused",
                S::FORBIDDEN,
                "The delivery is not taken",
                "The address, the signature or its time is not right; which, is not told. Set the vendor up with the \
                 integration's `webhook_url`, give the integration the secret that the vendor signs with, and see that the \
                 clocks agree. The server's log says more.",
            ),
            Self::NotFound => (
                "not-found",
                S::NOT_FOUND,
                "There is no such thing here",
                "The address is unknown, or the organization has nothing with this id.",
            ),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                S::METHOD_NOT_ALLOWED,
                "The method does not fit the address",
                "The `Allow` header lists the methods that do.",
            ),
            Self::Conflict => (
                "conflict",
                S::CONFLICT,
                "It does not fit the present state",
                "Something of that name exists already, or the thing is in a state in which this cannot be done. Read it \
                 again before you decide.",
            ),
            Self::IdempotencyInProgress => (
                "idempotency-in-progress",
                S::CONFLICT,
                "The first request with this Idempotency-Key is still under way",
                "Ask again after `Retry-After` seconds; then the first answer is given again.",
            ),
            Self::IdempotencyMismatch => (
                "idempotency-mismatch",
                S::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key was used for another request",
                "A key belongs to one method, address and body. Use a new key for a new request.",
            ),
            Self::BodyTooLarge => {
                ("body-too-large", S::PAYLOAD_TOO_LARGE, "The body is too large", "Send less at a time.")
            }
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "The content type does not fit",
                "Set `Content-Type` to what the operation reads.",
            ),
            Self::RateLimited => (
                "rate-limited",
                S::TOO_MANY_REQUESTS,
                "Too many requests",
                "Wait `Retry-After` seconds. `RateLimit-Remaining` tells how many requests are left.",
            ),
            Self::Timeout => (
                "timeout",
                S::SERVICE_UNAVAILABLE,
                "It took too long",
                "The request was given up; what it had not committed was rolled back. An import commits in steps: those that \
                 were done stay, and the same file again goes on from there. Try again, with an Idempotency-Key to be safe.",
            ),
            Self::Unavailable => (
                "unavailable",
                S::SERVICE_UNAVAILABLE,
                "The service is not available",
                "The database cannot be reached, is not ready, or has too much to do at once. Try again after `Retry-After` \
                 seconds.",
            ),
            Self::Internal => (
                "internal",
                S::INTERNAL_SERVER_ERROR,
                "Something went wrong on the server",
                "It has been logged under `request_id`.",
            ),
            Self::Other(status) => ("", status, status.canonical_reason().unwrap_or("Error"), ""),
        }
    }

    pub fn name(self) -> &'static str {
        self.facts().0
    }

    pub fn status(self) -> StatusCode {
        self.facts().1
    }

    pub fn title(self) -> &'static str {
        self.facts().2
    }

    /// What it means and what to do, for the page behind the type's URI.
    pub fn explanation(self) -> &'static str {
        self.facts().3
    }

    fn uri(self) -> String {
        if let Self::Other(_) = self { "about:blank".to_owned() } else { format!("/problems/{}", self.name()) }
    }

    /// The problem that a bare status stands for, for answers that the framework makes.
    fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::BAD_REQUEST => Self::MalformedBody,
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            StatusCode::INTERNAL_SERVER_ERROR => Self::Internal,
            other => Self::Other(other),
        }
    }
}

/// An error answer.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: ProblemType,
    pub detail: Cow<'static, str>,
    pub errors: Vec<FieldError>,
    /// Filled in at the edge.
    pub request_id: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The body of every error answer (RFC 9457, `application/problem+json`).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// A stable URI that says what kind of problem it is; a page that explains it is found there.
    #[serde(rename = "type")]
    #[schema(example = "/problems/validation")]
    kind: String,
    title: &'a str,
    #[schema(example = 422)]
    status: u16,
    /// What is wrong this time.
    detail: &'a str,
    /// As in the `x-request-id` header; the server's log knows the request by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    /// The fields at fault, when the request did not fit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ProblemField<'a>>,
}

/// One field at fault.
#[derive(Serialize, ToSchema)]
#[schema(as = ProblemField)]
pub struct ProblemField<'a> {
    /// Its path in the request, for example `jobs[3].args.invoice_id`.
    field: &'a str,
    /// A stable word for programs: `required`, `invalid`, `unknown_field`, `too_long`, `taken`, …
    code: &'a str,
    /// A sentence for people.
    message: &'a str,
}

impl Problem {
    pub fn new(kind: ProblemType, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), request_id: None, headers: Vec::new() }
    }

    /// The fields at fault; the detail is made of them.
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => one.to_string(),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
            [] => String::new(),
        };
        Self { errors, ..Self::new(ProblemType::Validation, detail) }
    }

    /// One field at fault.
    pub fn field(field: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { field: field.into(), code, message: message.into() }])
    }

    /// One field that collides with something that exists.
    pub fn taken(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::collides(field, "taken", message)
    }

    /// One field that does not fit what there is, in a way that has a code of its own.
    pub fn collides(field: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind: ProblemType::Conflict, ..Self::field(field, code, message) }
    }

    pub fn not_found(what: &'static str) -> Self {
        Self::new(ProblemType::NotFound, format!("the organization has no {what} with this id"))
    }

    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemType::Conflict, detail)
    }

    /// A bare status, as the framework answers it.
    pub fn of_status(status: StatusCode) -> Self {
        let kind = ProblemType::of_status(status);
        Self::new(kind, kind.explanation())
    }

    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, seconds.into())
    }

    /// Logs the error with its chain and answers nothing of it (VAULT-4).
    pub fn internal(error: impl Into<anyhow::Error>) -> Self {
        let error = error.into();
        tracing::error!(error = format!("{error:#}"), "a request failed");
        Self::new(ProblemType::Internal, "the request failed on the server; the reason is logged under `request_id`")
    }

    fn body(&self) -> Vec<u8> {
        let errors = self
            .errors
            .iter()
            .map(|error| ProblemField { field: &error.field, code: error.code, message: &error.message })
            .collect();
        serde_json::to_vec(&ProblemBody {
            kind: self.kind.uri(),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            request_id: self.request_id.as_deref(),
            errors,
        })
        .expect("a problem has a JSON form")
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.kind.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"backroom\""));
        }
        for (name, value) in std::mem::take(&mut self.headers) {
            headers.insert(name, value);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Marks an answer as a page for people (a response extension): it stays as it is, whatever its status.
#[derive(Clone, Copy, Debug)]
pub struct ForPeople;

/// Makes a problem of every error answer, whoever made it, and signs it with the request's id.
pub fn finish(response: Response, request_id: &str) -> Response {
    let status = response.status();
    let is_page = response.extensions().get::<ForPeople>().is_some();
    if is_page || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let mut problem = parts.extensions.remove::<Problem>().unwrap_or_else(|| Problem::of_status(status));
    problem.request_id = Some(request_id.to_owned());
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    Response::from_parts(parts, Body::from(problem.body()))
}

/// A database error: the server's fault or its database's, never the client's.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        // SQLSTATEs as in PostgreSQL's appendix A. A serialization failure or a deadlock: the same again is likely to succeed.
        if error.as_database_error().is_some_and(|error| matches!(error.code().as_deref(), Some("40001" | "40P01"))) {
            tracing::warn!(%error, "a request collided with another one");
            let detail = "the request collided with another one and was rolled back; send it again";
            return Self::new(ProblemType::Unavailable, detail).retry_after(1);
        }
        // Shutting down, starting, or out of connections.
        let passing = |code: Option<&str>| matches!(code, Some("57P01" | "57P02" | "57P03" | "53300"));
        let unavailable = match &error {
            // A proxy before a server that is away closes connections in the middle of the greeting: that is `Protocol`.
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
            sqlx::Error::Database(error) => passing(error.code().as_deref()),
            _ => false,
        };
        if !unavailable {
            return Self::internal(error);
        }
        tracing::error!(%error, "the database is out of reach");
        Self::new(ProblemType::Unavailable, "the database cannot be reached at the moment").retry_after(1)
    }
}

/// A conflict names its field; what the program cannot make sense of is its own fault.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { field, message } => Self::taken(field, message),
            StoreError::Transition(transition) => Self::conflict(transition.to_string()),
            StoreError::Asset(refusal) => Self::conflict(refusal.to_string()),
            StoreError::Employee(refusal) => Self::conflict(refusal.to_string()),
            StoreError::NotFound { what, .. } => Self::not_found(what),
            StoreError::Limit(exceeded) => exceeded.into(),
            StoreError::Database(error) => error.into(),
            error @ (StoreError::Stored { .. } | StoreError::Vault(_)) => Self::internal(error),
        }
    }
}

/// TEN-4
impl From<LimitExceeded> for Problem {
    fn from(exceeded: LimitExceeded) -> Self {
        Self::new(ProblemType::LimitExceeded, exceeded.to_string())
    }
}

impl From<FieldErrors> for Problem {
    fn from(errors: FieldErrors) -> Self {
        Self::fields(errors.0)
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        Self::fields(vec![error])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-4
    #[test]
    fn a_problem_has_the_members_of_rfc_9457_and_names_its_fields() {
        let mut problem = Problem::field("args.invoice_id", "invalid", "is not a UUID");
        problem.request_id = Some("0199".to_owned());
        insta::assert_snapshot!(
            String::from_utf8(problem.body()).unwrap(),
            @r#"{"type":"/problems/validation","title":"Some fields are not right","status":422,"detail":"`args.invoice_id` is not a UUID","request_id":"0199","errors":[{"field":"args.invoice_id","code":"invalid","message":"is not a UUID"}]}"#
        );
    }

    /// API-4, VAULT-4
    #[test]
    fn an_internal_problem_tells_nothing_of_its_cause() {
        let problem = Problem::internal(anyhow::anyhow!("password=hunter2"));
        assert!(!String::from_utf8(problem.body()).unwrap().contains("hunter2"));
    }

    /// API-4
    #[test]
    fn an_answer_of_the_framework_becomes_a_problem() {
        let bare = StatusCode::METHOD_NOT_ALLOWED.into_response();
        let response = finish(bare, "01");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn names_of_problem_types_are_unique() {
        let mut names: Vec<_> = ProblemType::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ProblemType::ALL.len());
    }
}
