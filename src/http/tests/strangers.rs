//! Every operation on a thing, asked by somebody to whom the thing does not exist (API-8, TEN-3, WORK-7): the answer is that of an
//! id that nobody ever had, whoever asks and whatever is asked. Walks the document, so a new kind of thing without an entry in
//! [`thing`] fails.

use super::{policy::document, *};

/// Things of acme, by the collection that they are in.
struct Things(Vec<(&'static str, String)>);

impl Things {
    /// The id of the thing that the path is about.
    ///
    /// # Panics
    /// If there is none: a new collection needs one of its things in [`things`].
    fn of(&self, path: &str) -> &str {
        let found = self.0.iter().filter(|(collection, _)| path.starts_with(collection));
        let longest = found.max_by_key(|(collection, _)| collection.len());
        let (_, id) = longest
            .unwrap_or_else(|| panic!("{path}: make such a thing in `things`, so that strangers can ask for it"));
        id
    }
}

/// One of everything that a path can name.
async fn things(world: &World) -> Things {
    let company = world.company().await.to_string();
    let posted = async |path: &str, body: Value| {
        let answer = world.post(path, body).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let waiting = json!({"kind": "debug.noop", "run_at": "2027-01-01T00:00:00Z"});
    let job = posted("/api/v1/jobs", waiting.clone()).await;
    let member = person_of(&world.app, &world.acme, Role::Admin, None).await;
    Things(vec![
        ("/api/v1/invoices", posted("/api/v1/invoices", invoice(company.parse().unwrap(), "2026-1")).await),
        (
            "/api/v1/jobs/bulk-actions",
            posted("/api/v1/jobs/bulk-actions", json!({"action": "cancel", "all": true})).await,
        ),
        ("/api/v1/batches", posted("/api/v1/batches", json!({"jobs": [waiting]})).await),
        ("/api/v1/api-keys", posted("/api/v1/api-keys", json!({"name": "theirs", "scopes": ["jobs:read"]})).await),
        ("/api/v1/members", member.id.to_string()),
        ("/api/v1/companies", company),
        ("/api/v1/jobs", job),
    ])
}

/// A body that the operation would take.
fn body_of(id: &str) -> Option<Value> {
    match id {
        "change_member" => Some(json!({"role": "user"})),
        "change_company" => Some(json!({"name": "Mine AB"})),
        "mark_invoice_paid" => Some(json!({})),
        _ => None,
    }
}

/// The answer without what is told of the request itself.
fn told(answer: &Answer) -> (u16, Value) {
    let mut body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
    if let Some(body) = body.as_object_mut() {
        body.remove("request_id");
    }
    (answer.status.as_u16(), body)
}

/// API-8, TEN-3, WORK-7, AUTH-4
#[tokio::test]
async fn to_a_stranger_a_thing_is_as_if_it_had_never_been() {
    let world = World::new().await;
    let globex = world._database.organization("globex").await;
    let their_key = key_of(&world.app, &globex, Scope::ALL).await;
    let their_admin = person_of(&world.app, &globex, Role::Admin, None).await.token;
    let things = things(&world).await;
    let mut second = company();
    second["org_number"] = json!("212000-0142");
    let other: Uuid = world.post("/api/v1/companies", second).await.json()["id"].as_str().unwrap().parse().unwrap();
    let other_customer = person_of(&world.app, &world.acme, Role::Customer, Some(other)).await.token;
    let mut asked = 0;
    for (path, item) in document(&world).await["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let ways = operation["security"].as_array().cloned().unwrap_or_default();
            let of_an_organization = ways.iter().any(|way| way.get("api_key").or(way.get("person")).is_some());
            if !of_an_organization || !path.contains("{id}") {
                continue;
            }
            let id = operation["operationId"].as_str().unwrap();
            let method: Method = method.to_uppercase().parse().unwrap();
            let there = path.replacen("{id}", things.of(path), 1).replace("{id}", &Uuid::now_v7().to_string());
            let nowhere = path.replace("{id}", &Uuid::now_v7().to_string());
            for (who, token) in
                [("their key", &their_key), ("their admin", &their_admin), ("a customer", &other_customer)]
            {
                let send = async |path: &str| world.send(request(method.clone(), path, token, &[], body_of(id))).await;
                let (real, none) = (send(&there).await, send(&nowhere).await);
                assert_eq!(told(&real), told(&none), "{id} as {who}: the answer tells that the thing exists");
                let refused = if who == "a customer" { vec![403, 404] } else { vec![404] };
                assert!(refused.contains(&real.status.as_u16()), "{id} as {who}: {}", real.text);
                asked += 1;
            }
            // It is there for its owner, or nothing would have been proved.
            if method == Method::GET {
                assert_eq!(world.get(&there).await.status, StatusCode::OK, "{id}");
            }
        }
    }
    assert!(asked >= 50, "only {asked} questions were asked");
}

/// API-8, TEN-3: lists of strangers have nothing of it, whatever they are asked for.
#[tokio::test]
async fn no_list_of_a_stranger_has_a_thing_of_somebody_else() {
    let world = World::new().await;
    let globex = world._database.organization("globex").await;
    let key = key_of(&world.app, &globex, Scope::ALL).await;
    let admin = person_of(&world.app, &globex, Role::Admin, None).await.token;
    let things = things(&world).await;
    let mut lists = 0;
    for (path, item) in document(&world).await["paths"].as_object().unwrap() {
        let asks_for_things = path.starts_with("/api/v1") && !path.contains('{') && item.get("get").is_some();
        let ways = item["get"]["security"].as_array().cloned().unwrap_or_default();
        if !asks_for_things || ways.iter().all(|way| way.get("api_key").or(way.get("person")).is_none()) {
            continue;
        }
        for token in [&key, &admin] {
            let answer = world.send(request(Method::GET, path, token, &[], None)).await;
            for (collection, id) in &things.0 {
                assert!(!answer.text.contains(id), "GET {path} shows a stranger one of {collection}");
            }
            lists += 1;
        }
    }
    assert!(lists >= 16, "only {lists} lists were asked for");
    for (path, body, field) in [
        ("/api/v1/invoices", invoice(things.of("/api/v1/companies").parse().unwrap(), "1"), "company_id unknown"),
        (
            "/api/v1/members",
            json!({"email": "a@b.example", "name": "N", "role": "customer", "company_id": things.of("/api/v1/companies")}),
            "company_id unknown",
        ),
    ] {
        let refused = world.send(request(Method::POST, path, &key, &[], Some(body))).await;
        assert_eq!(refused.problem(422, "validation"), [field], "{path} takes another's id");
    }
}
