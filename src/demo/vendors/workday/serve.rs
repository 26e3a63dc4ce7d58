//! What the tenant answers.

use std::collections::HashMap;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::DateTime;
use serde_json::{Map, Value, json};

use super::{CLIENT, COLUMNS, OWNER, REPORT, TENANT, Tenant, UPDATED_SINCE, USER, Worker};

type Asked = Query<HashMap<String, String>>;

pub(super) fn router(tenant: &Tenant) -> Router {
    Router::new()
        .route(&format!("/ccx/oauth2/{TENANT}/token"), post(token))
        .route(&format!("/ccx/api/v1/{TENANT}/workers"), get(workers))
        .route(&format!("/ccx/service/customreport2/{TENANT}/{OWNER}/{REPORT}"), get(report))
        .with_state(tenant.clone())
}

fn refused(status: StatusCode, error: &str, details: &[&str]) -> Response {
    let mut body = json!({"error": error});
    if !details.is_empty() {
        body["errors"] = details.iter().map(|error| json!({"error": error})).collect();
    }
    (status, Json(body)).into_response()
}

fn authorization(headers: &HeaderMap) -> &str {
    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn is_pair(authorization: &str, (name, secret): (&str, &str)) -> bool {
    authorization == format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{secret}")))
}

fn is_bearer(tenant: &Tenant, headers: &HeaderMap) -> bool {
    let token = tenant.inside().access_token.clone();
    token.is_some_and(|token| authorization(headers) == format!("Bearer {token}"))
}

/// A refresh token lasts; the answer says nothing of the access token's time.
async fn token(State(tenant): State<Tenant>, headers: HeaderMap, body: Bytes) -> Response {
    let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let given = |name: &str| form.get(name).map(String::as_str);
    if !is_pair(authorization(&headers), CLIENT) {
        return refused(StatusCode::UNAUTHORIZED, "invalid_client", &[]);
    }
    let mut inside = tenant.inside();
    let granted = match given("grant_type") {
        Some("refresh_token") => {
            inside.refresh_token.is_some() && given("refresh_token") == inside.refresh_token.as_deref()
        }
        Some("client_credentials") => inside.refresh_token.is_some() && given("tenant_alias") == Some(TENANT),
        _ => return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type", &[]),
    };
    if !granted {
        return refused(StatusCode::BAD_REQUEST, "invalid_grant", &[]);
    }
    inside.tokens += 1;
    let access_token = format!("workday-access-{}", inside.tokens);
    inside.access_token = Some(access_token.clone());
    Json(json!({"access_token": access_token, "token_type": "Bearer"})).into_response()
}

async fn workers(State(tenant): State<Tenant>, Query(query): Asked, headers: HeaderMap) -> Response {
    if !is_bearer(&tenant, &headers) {
        return refused(StatusCode::UNAUTHORIZED, "invalid_token", &[]);
    }
    let number = |name: &str, otherwise: usize| query.get(name).map_or(Ok(otherwise), |text| text.parse());
    let (Ok(limit @ 1..=100), Ok(offset)) = (number("limit", 20), number("offset", 0)) else {
        return refused(StatusCode::BAD_REQUEST, "invalid request", &["limit must be between 1 and 100"]);
    };
    let inside = tenant.inside();
    let page = inside.workers.iter().skip(offset).take(limit);
    let data: Vec<Value> = page.map(|(number, (worker, _))| resource(*number, worker)).collect();
    let mut answer = json!({"data": data});
    if inside.total {
        answer["total"] = inside.workers.len().into();
    }
    Json(answer).into_response()
}

/// The worker as the common service shows them.
fn resource(number: u64, worker: &Worker) -> Value {
    let value = |column: &str| worker.0.get(column).cloned().unwrap_or_default();
    let text = |column: &str| value(column).as_str().unwrap_or_default().to_owned();
    let id = format!("{number:032x}");
    let gone = if worker.0.get("Active_Status") == Some(&json!("0")) { " (Terminated)" } else { "" };
    let mut resource = json!({
        "id": id,
        "descriptor": format!("{} {}{gone}", text("Legal_First_Name"), text("Legal_Last_Name")),
        "href": format!("https://wd2-impl-services1.workday.com/ccx/api/v1/{TENANT}/workers/{id}"),
        "primaryWorkEmail": value("primaryWorkEmail"),
        "primaryWorkPhone": value("primaryWorkPhone"),
        "businessTitle": value("businessTitle"),
        "isManager": number == 1,
    });
    let organization = text("Organization");
    if !organization.is_empty() {
        resource["primarySupervisoryOrganization"] =
            json!({"id": "a1b2c3d4e5f60718293a4b5c6d7e8f90", "descriptor": organization});
    }
    resource
}

async fn report(State(tenant): State<Tenant>, Query(query): Asked, headers: HeaderMap) -> Response {
    if !is_pair(authorization(&headers), USER) && !is_bearer(&tenant, &headers) {
        return (StatusCode::UNAUTHORIZED, [(header::CONTENT_TYPE, "text/html")], "<html>Invalid login</html>")
            .into_response();
    }
    if query.contains_key("xsds") {
        let columns: String =
            COLUMNS.iter().map(|name| format!("<xsd:element name=\"{name}\" type=\"xsd:string\"/>")).collect();
        let schema =
            format!("<xsd:schema><xsd:complexType name=\"Report_EntryType\">{columns}</xsd:complexType></xsd:schema>");
        return ([(header::CONTENT_TYPE, "text/xml")], schema).into_response();
    }
    if query.get("format").map(String::as_str) != Some("json") {
        return ([(header::CONTENT_TYPE, "text/xml")], "<wd:Report_Data/>").into_response();
    }
    let since = query.get(UPDATED_SINCE).map(|text| DateTime::parse_from_rfc3339(text));
    let since = match since.transpose() {
        Ok(since) => since.map(|since| since.to_utc()),
        Err(_) => {
            let fault = "<SOAP-ENV:Fault><faultstring>Invalid prompt</faultstring></SOAP-ENV:Fault>";
            return (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/xml")], fault).into_response();
        }
    };
    let inside = tenant.inside();
    let entries: Vec<Value> = inside
        .workers
        .iter()
        .filter(|(_, (_, changed))| since.is_none_or(|since| *changed >= since))
        .map(|(number, (worker, _))| {
            // What has no value is left out.
            let there =
                COLUMNS.iter().filter_map(|column| Some(((*column).to_owned(), worker.0.get(*column)?.clone())));
            let mut entry: Map<String, Value> = there.collect();
            entry.insert("Employee_ID".to_owned(), json!((21_000 + number).to_string()));
            Value::Object(entry)
        })
        .collect();
    Json(json!({"Report_Entry": entries})).into_response()
}
