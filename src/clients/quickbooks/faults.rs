//! A fault, as the service writes it (`Fault.Error[].Message`) and as the gateway before it does (`fault.error[].message`), with any
//! status, also 200. Codes: Intuit's "Error codes".

use std::time::Duration;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::NAME;
use crate::{
    clients::{connector::ConnectorError, http::Reply},
    domain::Clock,
};

/// What Intuit asks for after 429.
const WAIT: Duration = Duration::from_secs(60);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    #[serde(rename = "Fault", alias = "fault")]
    fault: Option<Fault>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Fault {
    #[serde(rename = "Error", alias = "error")]
    errors: Vec<FaultError>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FaultError {
    #[serde(rename = "Message", alias = "message")]
    message: Option<String>,
    #[serde(rename = "Detail", alias = "detail")]
    detail: Option<String>,
    code: Value,
}

impl FaultError {
    /// The code, which may stand in the text alone: `errorCode=003200`.
    fn code(&self) -> u32 {
        let text = match &self.code {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let in_message = || {
            let (_, rest) = self.message.as_deref()?.split_once("errorCode=")?;
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        };
        text.parse().ok().filter(|code| *code > 0).or_else(in_message).unwrap_or(0)
    }

    fn says(&self, word: &str) -> bool {
        let texts = [&self.message, &self.detail].into_iter().flatten();
        texts.into_iter().any(|text| text.to_lowercase().contains(word))
    }
}

/// The body of an answer that went well, or what is wrong.
pub fn accepted<T: DeserializeOwned>(reply: &Reply, clock: &Clock) -> Result<T, ConnectorError> {
    let fault = serde_json::from_slice::<Answer>(&reply.body).unwrap_or_default().fault;
    if let Some(error) = refused(reply, fault.as_ref(), clock) {
        return Err(error);
    }
    serde_json::from_slice(&reply.body).map_err(|error| {
        let said =
            format!("an answer of QuickBooks cannot be read at line {}, column {}", error.line(), error.column());
        if error.is_eof() { ConnectorError::Transient(said) } else { ConnectorError::Protocol(said) }
    })
}

fn refused(reply: &Reply, fault: Option<&Fault>, clock: &Clock) -> Option<ConnectorError> {
    let error = fault.and_then(|fault| fault.errors.first());
    if reply.status == 200 && fault.is_none() {
        return None;
    }
    let code = error.map_or(0, FaultError::code);
    let said = if code == 0 { reply.status.to_string() } else { format!("{}, code {code}", reply.status) };
    Some(match (reply.status, code) {
        (429, _) | (_, 3001) => ConnectorError::RateLimited(NAME, reply.retry_after(clock.now()).or(Some(WAIT))),
        (_, 3100) => ConnectorError::Forbidden(format!(
            "QuickBooks does not let the app see this company ({said}): is it a company of the sandbox, or the other way round? \
             Otherwise connect the app to it again"
        )),
        (_, 3201) => ConnectorError::Credentials(format!(
            "the consent for this QuickBooks company was withdrawn ({said}); connect the app to it again"
        )),
        (_, 6190) => ConnectorError::Forbidden(format!("the company's subscription to QuickBooks has ended ({said})")),
        (401, _) | (_, 3200) => {
            ConnectorError::Unauthorized(format!("QuickBooks did not take the access token ({said})"))
        }
        (403, _) | (_, 1..500) => ConnectorError::Forbidden(format!(
            "QuickBooks does not allow this: the app needs com.intuit.quickbooks.accounting ({said})"
        )),
        (408 | 500.., _) | (_, 10_000..) => ConnectorError::Transient(format!("QuickBooks failed ({said})")),
        _ if error.is_some_and(|error| error.says("changedsince")) => ConnectorError::CursorExpired,
        (300..=399 | 404, 0) => ConnectorError::Address(format!(
            "there is no QuickBooks service at this address ({said}): check base_url and realm_id"
        )),
        _ => ConnectorError::Protocol(format!("QuickBooks refused the request ({said})")),
    })
}
