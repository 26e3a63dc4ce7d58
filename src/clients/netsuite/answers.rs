//! What NetSuite says when it does not do what it was asked: `{type, title, status, "o:errorDetails": [{detail, "o:errorCode"}]}`.

use serde::Deserialize;

use super::{super::http::Reply, NAME, suiteql::Refused};
use crate::{clients::connector::ConnectorError, domain::Clock};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    #[serde(rename = "o:errorDetails")]
    details: Vec<Detail>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Detail {
    detail: String,
    #[serde(rename = "o:errorCode")]
    code: String,
}

/// What an answer other than 200 means. Of its words only the code is repeated: the details quote what they are about.
pub fn refused(reply: &Reply, by_token: bool, clock: &Clock) -> Refused {
    let problem: Problem = serde_json::from_slice(&reply.body).unwrap_or_default();
    let code = problem.details.first().map_or("", |detail| detail.code.as_str()).to_owned();
    let is_code = code.len() <= 60 && code.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let code = if is_code { code } else { String::new() };
    let details: String = problem.details.iter().map(|detail| detail.detail.to_lowercase() + "\n").collect();
    let said = format!("{} {code}", reply.status).trim_end().to_owned();
    let error = match reply.status {
        429 => ConnectorError::RateLimited(NAME, reply.retry_after(clock.now())),
        _ if BUSY.contains(&code.as_str()) => ConnectorError::RateLimited(NAME, reply.retry_after(clock.now())),
        401 if by_token => ConnectorError::Credentials(format!(
            "NetSuite did not take the access token ({said}): check the four keys, that the token and its role are active, and \
             that this machine's clock is right"
        )),
        401 => ConnectorError::Unauthorized(format!("NetSuite did not take the access token ({said})")),
        400 if details.contains("was not found") && details.contains("record '") => return Refused::NoTable,
        400 if code.is_empty() || code == "INVALID_PARAMETER" || code == "INVALID_REQUEST" => {
            return Refused::Query { said, details };
        }
        403 => forbidden(&said),
        _ if code == "INSUFFICIENT_PERMISSION" => forbidden(&said),
        408 | 500.. => ConnectorError::Transient(format!("NetSuite failed ({said})")),
        300..=399 | 404 => ConnectorError::Address(format!(
            "there is no NetSuite service at this address ({said}): check the account's id, or base_url"
        )),
        _ => ConnectorError::Protocol(format!("NetSuite refused the request ({said})")),
    };
    Refused::Other(error)
}

/// Codes of too many calls at once; which of them REST uses is not documented.
const BUSY: [&str; 4] =
    ["SSS_REQUEST_LIMIT_EXCEEDED", "CONCURRENCY_LIMIT_EXCEEDED", "WS_REQUEST_BLOCKED", "WS_CONCUR_SESSION_DISALLWD"];

fn forbidden(said: &str) -> ConnectorError {
    ConnectorError::Forbidden(format!(
        "NetSuite does not let the role do this ({said}): it needs REST Web Services, SuiteAnalytics Workbook, and to view purchase \
         orders and custom records"
    ))
}
