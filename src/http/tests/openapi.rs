//! The document and its page.

use super::*;

/// API-5: each operation of the document is routed, documents its errors, and answers by itself.
#[tokio::test]
async fn the_document_and_the_routes_are_in_step() {
    let world = World::new().await;
    let answer = world.send(request(Method::GET, "/api/v1/openapi.json", "", &[], None)).await;
    assert_eq!(answer.status, StatusCode::OK);
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            ids.push(operation["operationId"].as_str().unwrap().to_owned());
            let concrete = path
                .replace("{id}", "0199aaaa-0000-7000-8000-000000000000")
                .replace("{user_id}", "0199aaaa-0000-7000-8000-000000000000")
                .replace("{invitation_id}", "0199aaaa-0000-7000-8000-000000000000")
                .replace("{slug}", "nobody")
                .replace("{name}", "none")
                .replace("{key}", "a%3Ab%2Fc");
            let method: Method = method.to_uppercase().parse().unwrap();
            let open = !path.starts_with("/api");
            let strangers = operation["security"] == json!([{}]);
            let answer = world.send(request(method.clone(), &concrete, "", &[], None)).await;
            if open {
                assert_eq!(answer.status, StatusCode::OK, "{method} {path}");
                continue;
            }
            // 401 comes from the handler: the route exists, takes the method and asks for a key. What is open to strangers says
            // so (`security(())`), and refuses the empty request for another reason.
            if strangers {
                assert!(![404, 405, 401, 500].contains(&answer.status.as_u16()), "{method} {path}: {}", answer.text);
            } else {
                answer.problem(401, "unauthenticated");
            }
            let errors = operation["responses"].as_object().unwrap();
            assert!(["401", "422", "429"].iter().all(|status| errors.contains_key(*status)), "{method} {path}");
            assert!(!operation["security"].as_array().unwrap().is_empty(), "{method} {path}");
            let other = ["delete", "patch", "put"].into_iter().find(|method| item.get(*method).is_none()).unwrap();
            let other: Method = other.to_uppercase().parse().unwrap();
            world.send(request(other, &concrete, "", &[], None)).await.problem(405, "method-not-allowed");
        }
    }
    ids.sort_unstable();
    insta::assert_snapshot!(ids.join("\n"));
    let text = answer.text;
    let registry = crate::jobs::registry(&world.app.config);
    for kind in crate::http::jobs::open_kinds(&registry) {
        assert!(text.contains(&format!("#/components/schemas/args.{}", kind.name)), "{}", kind.name);
    }
    assert!(!text.contains("args.platform."), "the platform's own kinds are nobody else's");
    dangling(&document, &document);
}

/// Every reference in the document leads somewhere.
fn dangling(document: &Value, part: &Value) {
    match part {
        Value::Object(object) => {
            if let Some(target) = object.get("$ref").and_then(Value::as_str) {
                let pointer = target.strip_prefix('#').unwrap_or(target);
                assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
            }
            object.values().for_each(|value| dangling(document, value));
        }
        Value::Array(items) => items.iter().for_each(|value| dangling(document, value)),
        _ => {}
    }
}

/// API-5: the words of a closed set are those that requests and answers have.
#[tokio::test]
async fn the_document_has_the_words_that_are_spoken() {
    use crate::domain::{BillingStatus, InvoiceStatus, Tier};
    let world = World::new().await;
    let document = world.send(request(Method::GET, "/api/v1/openapi.json", "", &[], None)).await.json();
    for (schema, words) in [
        ("Role", json!(Role::ALL)),
        ("Scope", json!(Scope::ALL)),
        ("Tier", json!(Tier::ALL)),
        ("BillingStatus", json!(BillingStatus::ALL)),
        ("InvoiceStatus", json!(InvoiceStatus::ALL)),
        ("Language", json!(Language::ALL)),
    ] {
        let told = &document["components"]["schemas"][schema];
        assert_eq!((&told["enum"], &told["type"]), (&words, &json!("string")), "{schema}: {told}");
    }
}

/// API-5
#[tokio::test]
async fn the_document_can_be_browsed_without_the_internet() {
    let world = World::new().await;
    let open = |path: &'static str| world.send(request(Method::GET, path, "", &[], None));
    let page = open("/docs/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(!page.text.contains("https://"), "{}", page.text);
    assert!(open("/docs/swagger-initializer.js").await.text.contains("/api/v1/openapi.json"));
}
