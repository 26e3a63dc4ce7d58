//! The OpenAPI 3.1 document (API-5): collected from the handlers, completed with the kinds of the registry.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use backroom_queue::Registry;
use serde_json::{Map, Value, json};
use utoipa::{
    IntoResponses, OpenApi, PartialSchema, ToSchema,
    openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder},
};

use super::{
    jobs,
    problem::{ProblemBody, ProblemField, ProblemType},
};
use crate::context::App;

/// The errors that any operation may answer.
pub struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut titles: BTreeMap<StatusCode, Vec<&str>> = BTreeMap::new();
        for kind in ProblemType::ALL {
            titles.entry(kind.status()).or_default().push(kind.title());
        }
        let schema = Ref::from_schema_name("Problem");
        titles
            .into_iter()
            .map(|(status, titles)| {
                let content = ContentBuilder::new().schema(Some(schema.clone())).build();
                let response = ResponseBuilder::new()
                    .description(titles.join("; "))
                    .content("application/problem+json", content)
                    .build();
                (status.as_str().to_owned(), RefOr::T(response))
            })
            .collect()
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Backroom",
        description = "Enqueue work, watch it, and keep the books of a B2B company.\n\n\
            **Keys.** `Authorization: Bearer KEY`; a key belongs to one organization and has scopes. `X-Tenant-ID` and \
            the subdomain may name the organization too, and must agree with the key.\n\n\
            **People** sign in (`POST /api/v1/sign-in`) and send their access token in the same way. What their role may do is \
            told at each operation: `person` with the action. Some reach their own company's or workspaces' records only; \
            others do not exist for them.\n\n\
            **Errors** are `application/problem+json` (RFC 9457); `type` is stable, `errors` names the fields at fault.\n\n\
            **Repeating a POST** with the same `Idempotency-Key` gives the first answer again \
            (`Idempotency-Replayed: true`).\n\n\
            **Limits.** `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` on every answer to a key; `429` \
            with `Retry-After` beyond.\n\n\
            **Lists** are pages: send `next_cursor` back as `cursor`, with the same filters."
    ),
    tags(
        (name = "jobs", description = "Work in the queue"),
        (name = "companies", description = "Customers that are invoiced"),
        (name = "invoices", description = "Invoices and their reminders"),
        (name = "organization", description = "The caller's organization, its keys and its limits"),
        (name = "people", description = "Sign-in, and who belongs to the organization"),
        (name = "join requests", description = "People who ask to become members"),
        (name = "events", description = "What happened, and what happens"),
        (name = "workspaces", description = "Rooms in which people work together, and who is let in"),
        (name = "employees", description = "Who works here, and where"),
        (name = "assets", description = "What the organization owns, who has it, and how it came there"),
        (name = "workflows", description = "What has to be done when somebody comes or goes, or a thing is bought, mended or moved"),
        (name = "integrations", description = "Third parties that are connected, and what was read from them"),
        (name = "effects", description = "What jobs did to the outside world, once per key"),
        (name = "operator", description = "For who runs the installation; needs the operator's token"),
        (name = "operations", description = "Health and metrics"),
    )
)]
struct Document;

/// What the routers add their operations to.
pub fn base() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The finished document.
pub fn finish(collected: &utoipa::openapi::OpenApi, registry: &Registry<App>) -> Value {
    let mut document = serde_json::to_value(collected).expect("an OpenAPI document has a JSON form");
    let components = &mut document["components"];
    components["securitySchemes"] = json!({
        "api_key": {"type": "http", "scheme": "bearer", "description": "A key of the organization"},
        "person": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A person's access token"},
        "operator": {"type": "http", "scheme": "bearer", "description": "The installation's `http.operator_token`"},
    });
    components["parameters"] = json!({
        "IdempotencyKey": {
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "Repeating the request with the same key gives the first answer again.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        },
    });
    let schemas = &mut components["schemas"];
    for (name, schema) in [("Problem", ProblemBody::schema()), ("ProblemField", ProblemField::schema())] {
        schemas[name] = serde_json::to_value(schema).expect("a schema has a JSON form");
    }
    let mut referenced = Vec::new();
    ProblemBody::schemas(&mut referenced);
    for (name, schema) in referenced {
        schemas[name] = serde_json::to_value(schema).expect("a schema has a JSON form");
    }

    let mut choices = Vec::new();
    for kind in jobs::open_kinds(registry) {
        let name = format!("args.{}", kind.name);
        choices.push(json!({"$ref": format!("#/components/schemas/{name}")}));
        add_args(schemas, &name, kind.schema.clone().to_value());
    }
    if !choices.is_empty() {
        let args = &mut schemas["EnqueueRequest"]["properties"]["args"];
        *args = json!({"description": "As the schema of the kind says.", "anyOf": choices});
    }
    offer_idempotency(&mut document);
    admit_people(&mut document);
    document
}

/// What a key with the scope may do, a person may do whose role includes it: said once, at the key.
fn admit_people(document: &mut Value) {
    let operations =
        document["paths"].as_object_mut().into_iter().flatten().filter_map(|(_, item)| item.as_object_mut());
    for operation in operations.flat_map(|item| item.values_mut()) {
        let Some(ways) = operation.get_mut("security").and_then(Value::as_array_mut) else { continue };
        let scopes = ways.iter().find_map(|way| way.get("api_key")).cloned();
        if let Some(scopes) = scopes.filter(|_| ways.iter().all(|way| way.get("person").is_none())) {
            ways.push(json!({ "person": scopes }));
        }
    }
}

/// Every POST takes an `Idempotency-Key`, but for the operator's on effects, queues and schedules, and signing in and out and forgotten
/// passwords: a key belongs to an organization; and but for testing a connection, which is for now, not for once.
fn offer_idempotency(document: &mut Value) {
    let Some(paths) = document["paths"].as_object_mut() else { return };
    for (path, item) in paths {
        let without = ["/effects/", "/queues/", "/schedules/"].iter().any(|operators| path.contains(operators));
        if without || ["/sign-in", "/sign-out", "/password-resets", "/test"].iter().any(|end| path.ends_with(end)) {
            continue;
        }
        if let Some(operation) = item.get_mut("post").and_then(Value::as_object_mut) {
            let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
            if let Some(parameters) = parameters.as_array_mut() {
                parameters.push(json!({"$ref": "#/components/parameters/IdempotencyKey"}));
            }
        }
    }
}

/// Files a kind's schema, and the definitions inside it, under the document's components.
fn add_args(schemas: &mut Value, name: &str, mut schema: Value) {
    let definitions = schema.as_object_mut().map(|object| {
        object.remove("$schema");
        object.remove("$defs")
    });
    if let Some(Some(Value::Object(definitions))) = definitions {
        for (definition, mut inner) in definitions {
            point_to_components(&mut inner, name);
            schemas[format!("{name}.{definition}")] = inner;
        }
    }
    point_to_components(&mut schema, name);
    schemas[name] = schema;
}

/// `#/$defs/Item` means the root of the schema; inside the document that is `#/components/schemas/<name>.Item`.
fn point_to_components(schema: &mut Value, name: &str) {
    match schema {
        Value::Object(object) => {
            let target = object.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix("#/$defs/"));
            if let Some(target) = target {
                let target = format!("#/components/schemas/{name}.{target}");
                object.insert("$ref".to_owned(), Value::String(target));
            }
            let object: &mut Map<String, Value> = object;
            object.values_mut().for_each(|value| point_to_components(value, name));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| point_to_components(value, name)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-5
    #[test]
    fn definitions_inside_a_kind_s_schema_stay_reachable() {
        let mut schemas = json!({});
        let schema =
            json!({"$schema": "x", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "string"}}});
        add_args(&mut schemas, "args.k", schema);
        assert_eq!(schemas["args.k"], json!({"properties": {"a": {"$ref": "#/components/schemas/args.k.A"}}}));
        assert_eq!(schemas["args.k.A"], json!({"type": "string"}));
    }
}
