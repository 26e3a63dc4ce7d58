//! What the company answers.

use std::collections::{BTreeSet, HashMap};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::{API_KEY, CLIENT, COMPANY, Company, FIELDS, Kept};

pub(super) fn router(company: &Company) -> Router {
    let api = Router::new()
        .route("/v1/employees/changed", get(changed))
        .route("/v1/employees", get(list))
        .route("/v1/reports/custom", post(report))
        .route("/v1_2/datasets/{name}/fields", get(dataset_fields))
        .route("/v2/datasets/{name}/data", post(dataset))
        .layer(middleware::from_fn_with_state(company.clone(), let_in));
    Router::new()
        .nest("/api", api.clone())
        .nest(&format!("/api/gateway.php/{COMPANY}"), api)
        .route("/token.php", post(token))
        .with_state(company.clone())
}

/// Keys, the wanted form, and the company's clock on the answer.
async fn let_in(State(company): State<Company>, request: Request, next: Next) -> Response {
    let (authorization, accept) = (text(&request, &header::AUTHORIZATION), text(&request, &header::ACCEPT));
    let user = authorization.strip_prefix("Basic ").and_then(|text| BASE64_STANDARD.decode(text).ok());
    let user = user.and_then(|user| String::from_utf8(user).ok()).unwrap_or_default();
    let key = user.split(':').next() == Some(API_KEY);
    let (date, bearer) = {
        let inside = company.inside();
        let token = authorization.strip_prefix("Bearer ");
        let bearer = token.is_some() && token == inside.access_token.as_deref();
        (inside.clock.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string(), bearer)
    };
    let mut response = if !key && !bearer {
        refused(StatusCode::UNAUTHORIZED, "Invalid API key or token")
    } else if !accept.contains("application/json") {
        ([(header::CONTENT_TYPE, "text/xml")], "<?xml version=\"1.0\"?><employees/>").into_response()
    } else {
        next.run(request).await
    };
    if let Ok(date) = date.parse() {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

fn text(request: &Request, name: &HeaderName) -> String {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// With an empty body, as in the older part.
fn refused(status: StatusCode, message: &str) -> Response {
    (status, [("x-bamboohr-error-message", message.to_owned())]).into_response()
}

fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let body = json!({"type": "about:blank", "title": status.to_string(), "status": status.as_u16(), "detail": detail, "code": code});
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, false)
}

fn parsed(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc())
}

type Asked = Query<HashMap<String, String>>;

async fn changed(State(company): State<Company>, Query(query): Asked) -> Response {
    let Some(since) = query.get("since").and_then(|since| parsed(since)) else {
        return refused(StatusCode::BAD_REQUEST, "Missing or malformed since");
    };
    let kind = query.get("type").map_or("all", String::as_str);
    let inside = company.inside();
    let mut latest = None;
    let mut employees = Map::new();
    let of_people = inside
        .people
        .iter()
        .map(|(id, kept)| (*id, kept.changed, if kept.since > since { "Inserted" } else { "Updated" }));
    for (id, at, action) in of_people.chain(inside.gone.iter().map(|(id, at)| (*id, *at, "Deleted"))) {
        if at > since && (kind == "all" || kind.eq_ignore_ascii_case(action)) {
            latest = latest.max(Some(at));
            employees.insert(id.to_string(), json!({"id": id.to_string(), "action": action, "lastChanged": time(at)}));
        }
    }
    Json(json!({"latest": latest.map(time).unwrap_or_default(), "employees": employees})).into_response()
}

async fn dataset_fields(State(company): State<Company>, Path(name): Path<String>) -> Response {
    if name != "employee" {
        return problem(StatusCode::NOT_FOUND, "DATASET_NOT_FOUND", "There is no such dataset");
    }
    let inside = company.inside();
    let seen = FIELDS.iter().filter(|(alias, ..)| !inside.hidden.contains(*alias)).map(|(_, name, _)| *name);
    let fields: Vec<Value> = seen
        .chain(["lastChanged"])
        .map(|name| json!({"name": name, "label": name, "parentType": null, "parentName": null, "entityName": "employee"}))
        .collect();
    let pagination = json!({"total_records": fields.len(), "current_page": 1, "total_pages": 1, "next_page": null, "prev_page": null});
    Json(json!({"name": name, "label": "Employee", "fields": fields, "pagination": pagination})).into_response()
}

async fn dataset(State(company): State<Company>, Path(name): Path<String>, Json(body): Json<Value>) -> Response {
    if name != "employee" {
        return problem(StatusCode::NOT_FOUND, "DATASET_NOT_FOUND", "There is no such dataset");
    }
    let invalid = |detail: &str| problem(StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION_ERROR", detail);
    let fields: Vec<&str> = body["fields"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let alias_of = |name: &str| FIELDS.iter().find(|(_, theirs, _)| *theirs == name).map(|(alias, ..)| *alias);
    let (page, size) = (body["page"].as_u64().unwrap_or(1), body["pageSize"].as_u64().unwrap_or(100));
    if !(1..=1_000).contains(&size) || page == 0 {
        return invalid("pageSize must be between 1 and 1000");
    }
    if body["orderBy"].as_str().is_some_and(|order| !fields.contains(&order.split(' ').next().unwrap_or_default())) {
        return invalid("orderBy names a field that is not among fields");
    }
    let since = match body["filter"].as_str() {
        None => None,
        Some(filter) => {
            let at = filter.strip_prefix("lastChanged ge '").and_then(|rest| rest.strip_suffix('\''));
            match at.and_then(parsed) {
                Some(at) => Some(at),
                None => return invalid("filter cannot be read"),
            }
        }
    };
    let inside = company.inside();
    if fields.is_empty() || fields.iter().any(|name| alias_of(name).is_none_or(|alias| inside.hidden.contains(alias))) {
        return invalid("fields names a field that does not exist");
    }
    let found: Vec<(&u64, &Kept)> =
        inside.people.iter().filter(|(_, kept)| since.is_none_or(|since| kept.changed >= since)).collect();
    let total = found.len() as u64;
    let pages = total.div_ceil(size).max(1);
    let page = page.min(pages);
    let from = usize::try_from((page - 1) * size).unwrap_or(usize::MAX);
    let data: Vec<Value> = found
        .iter()
        .skip(from)
        .take(usize::try_from(size).unwrap_or_default())
        .map(|(id, kept)| {
            let value = |name: &&str| Some(((*name).to_owned(), inside.value(**id, kept, alias_of(name)?)?));
            json!({"fields": fields.iter().filter_map(value).collect::<Map<_, _>>()})
        })
        .collect();
    // An empty list where there is nothing to lead to.
    let links = if page < pages {
        json!({"next": format!("https://api.bamboohr.com/api/v2/datasets/employee/data?page={}", page + 1)})
    } else {
        json!([])
    };
    let meta = json!({"page": page, "pageSize": size, "totalPages": pages, "totalItems": total});
    Json(json!({"data": data, "links": links, "meta": meta})).into_response()
}

async fn report(State(company): State<Company>, Query(query): Asked, headers: HeaderMap, body: Bytes) -> Response {
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return refused(StatusCode::BAD_REQUEST, "Malformed XML");
    }
    if !query.get("format").is_some_and(|format| format.eq_ignore_ascii_case("json")) {
        return refused(StatusCode::NOT_FOUND, "Unsupported format");
    }
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "Malformed JSON");
    };
    let asked: Vec<&str> = body["fields"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if asked.len() > 400 {
        return refused(StatusCode::BAD_REQUEST, "Too many fields");
    }
    let ids: Option<BTreeSet<u64>> =
        body["filters"]["employeeIds"].as_array().map(|ids| ids.iter().filter_map(Value::as_u64).collect());
    let inside = company.inside();
    let visible = |alias: &&str| FIELDS.iter().any(|(known, ..)| known == alias) && !inside.hidden.contains(*alias);
    let seen: Vec<&str> = asked.into_iter().filter(visible).collect();
    let fields: Vec<Value> = seen.iter().map(|alias| json!({"id": alias, "type": "text", "name": alias})).collect();
    let employees: Vec<Value> = inside
        .people
        .iter()
        .filter(|(id, _)| ids.as_ref().is_none_or(|ids| ids.contains(id)))
        .map(|(id, kept)| {
            let mut row = Map::from_iter([("id".to_owned(), json!(id.to_string()))]);
            for alias in &seen {
                let value = inside.value(*id, kept, alias).unwrap_or_default();
                // Three ways to say that there is no date.
                let empty = [json!(""), Value::Null, json!("0000-00-00")];
                let none = value.is_null() && alias.ends_with("Date");
                let value = if none { empty[usize::try_from(id % 3).unwrap_or_default()].clone() } else { value };
                row.insert((*alias).to_owned(), value);
            }
            Value::Object(row)
        })
        .collect();
    Json(json!({"title": body["title"], "fields": fields, "employees": employees})).into_response()
}

async fn list(State(company): State<Company>, Query(query): Asked) -> Response {
    let bad = |code: &str, message: &str| {
        (StatusCode::BAD_REQUEST, Json(json!({"error": {"code": code, "message": message}}))).into_response()
    };
    let limit = query.get("page[limit]").map_or(Ok(250), |limit| limit.parse::<usize>());
    let Some(limit) = limit.ok().filter(|limit| (1..=2_500).contains(limit)) else {
        return bad("BadRequest", "page[limit] must be between 1 and 2500");
    };
    let inside = company.inside();
    let after = match query.get("page[after]") {
        None => None,
        Some(cursor) => {
            let id = BASE64_STANDARD.decode(cursor).ok().and_then(|id| String::from_utf8(id).ok()?.parse::<u64>().ok());
            match id.filter(|id| inside.people.contains_key(id)) {
                Some(id) => Some(id),
                None => return bad("BadPage", "The page cursor is no longer valid"),
            }
        }
    };
    let ids: Option<BTreeSet<u64>> =
        query.get("filter[ids]").map(|ids| ids.split(',').filter_map(|id| id.parse().ok()).collect());
    let asked: BTreeSet<&str> = query.get("fields").map(|fields| fields.split(',').collect()).unwrap_or_default();
    let always = ["employeeId", "firstName", "lastName", "preferredName", "jobTitleName", "status"];
    let names: Vec<(&str, &str)> = FIELDS
        .iter()
        .filter(|(_, _, name)| always.contains(name) || (!name.is_empty() && asked.contains(name)))
        .map(|(alias, _, name)| (*alias, *name))
        .collect();
    let people: Vec<(&u64, &Kept)> =
        inside.people.iter().filter(|(id, _)| ids.as_ref().is_none_or(|ids| ids.contains(id))).collect();
    let from = people.partition_point(|(id, _)| after.is_some_and(|after| **id <= after));
    let page = &people[from..people.len().min(from + limit)];
    let more = from + page.len() < people.len();
    let next = page.last().filter(|_| more).map(|(id, _)| BASE64_STANDARD.encode(id.to_string()));
    let data: Vec<Value> = page
        .iter()
        .map(|(id, kept)| {
            let restricted: Vec<&str> =
                names.iter().filter(|(alias, _)| inside.hidden.contains(*alias)).map(|(_, name)| *name).collect();
            let value = |(alias, name): &(&str, &str)| {
                ((*name).to_owned(), inside.value(**id, kept, alias).unwrap_or_default())
            };
            let mut row: Map<String, Value> = names.iter().map(value).collect();
            row.insert("_restrictedFields".to_owned(), json!(restricted));
            Value::Object(row)
        })
        .collect();
    let link = next
        .as_ref()
        .map(|next| json!({"href": format!("https://api.bamboohr.com/api/v1/employees?page%5Bafter%5D={next}")}));
    let meta = json!({"total": people.len(), "page": {"limit": limit, "nextCursor": next, "prevCursor": null}});
    Json(json!({"data": data, "meta": meta, "_links": {"next": link}})).into_response()
}

/// Gives an access token and, every time, another refresh token.
async fn token(State(company): State<Company>, Query(query): Asked, body: Bytes) -> Response {
    let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let given = |name: &str| form.get(name).map(String::as_str);
    let no = |error: &str| (StatusCode::BAD_REQUEST, Json(json!({"error": error}))).into_response();
    if query.get("request").map(String::as_str) != Some("token") || given("grant_type") != Some("refresh_token") {
        return no("unsupported_grant_type");
    }
    if (given("client_id"), given("client_secret")) != (Some(CLIENT.0), Some(CLIENT.1)) {
        return no("invalid_client");
    }
    let mut inside = company.inside();
    if inside.refresh_token.is_none() || given("refresh_token") != inside.refresh_token.as_deref() {
        return no("invalid_grant");
    }
    inside.tokens += 1;
    let (access, refresh) = (format!("bamboo-access-{}", inside.tokens), format!("bamboo-refresh-{}", inside.tokens));
    let answer = json!({"access_token": access, "token_type": "Bearer", "expires_in": 3600, "refresh_token": refresh});
    (inside.access_token, inside.refresh_token) = (Some(access), Some(refresh));
    Json(answer).into_response()
}
