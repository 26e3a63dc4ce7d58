//! Every operation on a thing, asked by somebody to whom the thing does not exist (API-8, TEN-3, WORK-7): the answer is that of an
//! id that nobody ever had, whoever asks and whatever is asked. Walks the document, so a new kind of thing without an entry in
//! [`thing`] fails.

use super::{policy::document, *};
use crate::domain::integration::Provider;

/// Things of acme, by the collection that they are in.
struct Things {
    all: Vec<(&'static str, String)>,
    /// What else a path may name, below the thing that it is about.
    parts: Vec<(&'static str, String)>,
    /// The token of who made what only people make.
    person: String,
}

impl Things {
    /// The id of the thing that the path is about.
    ///
    /// # Panics
    /// If there is none: a new collection needs one of its things in [`things`].
    fn of(&self, path: &str) -> &str {
        let found = self.all.iter().filter(|(collection, _)| path.starts_with(collection));
        let longest = found.max_by_key(|(collection, _)| collection.len());
        let (_, id) = longest
            .unwrap_or_else(|| panic!("{path}: make such a thing in `things`, so that strangers can ask for it"));
        id
    }

    /// The path to this thing, with parts that there are.
    fn fill(&self, path: &str, id: &str) -> String {
        let parts = self.parts.iter().fold(path.replacen("{id}", id, 1), |path, (name, part)| path.replace(name, part));
        assert!(!parts.contains('{'), "{parts}: make such a part in `things`, so that strangers can ask for it");
        parts
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
    let anna = person_of(&world.app, &world.acme, Role::User, None).await;
    let made = async |path: &str, body: Value| {
        let answer = world.send(request(Method::POST, path, &anna.token, &[], Some(body))).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let workspace = made("/api/v1/workspaces", json!({"name": "Theirs"})).await;
    let invitations = format!("/api/v1/workspaces/{workspace}/invitations");
    let invitation = made(&invitations, json!({"email": "theirs@example.se"})).await;
    let asks = json!({"email": "asks@example.se", "first_name": "Asks", "last_name": "Ek"});
    let asked = request(Method::POST, "/api/v1/organizations/acme/join-requests", "", &[], Some(asks));
    assert_eq!(world.send(asked).await.status, StatusCode::ACCEPTED);
    let requests = world.get("/api/v1/join-requests").await.json();
    let join_request = requests["join_requests"][0]["id"].as_str().unwrap().to_owned();
    let conversation =
        made(&format!("/api/v1/workspaces/{workspace}/conversations"), json!({"message": "Theirs"})).await;
    let task = made(&format!("/api/v1/workspaces/{workspace}/tasks"), json!({"title": "Theirs"})).await;
    let upgraded = world.operate(Method::PATCH, "/api/v1/organizations/acme", Some(json!({"tier": "pro"}))).await;
    assert_eq!(upgraded.status, StatusCode::OK, "{}", upgraded.text);
    let steps = json!([{"title": "Theirs", "assignee": {"role": "admin"}}]);
    let template =
        posted("/api/v1/workflow-templates", json!({"kind": "repair", "name": "Theirs", "steps": steps})).await;
    let workflow = world.post("/api/v1/workflows", json!({"kind": "procurement"})).await.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let slack = super::notification_rules::integration(world, Provider::Slack).await;
    let rule = json!({"integration_id": slack, "events": "asset.*", "channel": "C0THEIRS"});
    let connected = json!({
        "provider": "bamboohr", "name": "Theirs", "config": {"company_domain": "acme"}, "credentials": {"api_key": "k"},
    });
    let integration = posted("/api/v1/integrations", connected).await;
    let run = world.run_of(integration.parse().unwrap()).await.to_string();
    let all = vec![
        ("/api/v1/workflow-templates", template),
        ("/api/v1/workflows", text(&workflow["id"])),
        ("/api/v1/notification-rules", posted("/api/v1/notification-rules", rule).await),
        ("/api/v1/employees", posted("/api/v1/employees", json!({"first_name": "Theirs"})).await),
        ("/api/v1/locations", posted("/api/v1/locations", json!({"name": "Theirs"})).await),
        ("/api/v1/assets", posted("/api/v1/assets", json!({"name": "Theirs"})).await),
        ("/api/v1/integrations", integration),
        ("/api/v1/sync-runs", run),
        ("/api/v1/conversations", conversation),
        ("/api/v1/tasks", task),
        ("/api/v1/join-requests", join_request),
        ("/api/v1/workspaces", workspace),
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
    ];
    let parts = vec![
        ("{user_id}", anna.id.to_string()),
        ("{invitation_id}", invitation),
        ("{step_id}", text(&workflow["steps"][0]["id"])),
    ];
    Things { all, parts, person: anna.token }
}

/// A body that the operation would take.
fn body_of(id: &str) -> Option<Value> {
    match id {
        "change_member" => Some(json!({"role": "user"})),
        "change_company" => Some(json!({"name": "Mine AB"})),
        "rename_workspace" => Some(json!({"name": "Mine"})),
        "start_conversation" => Some(json!({"message": "Mine"})),
        "rename_conversation" => Some(json!({"title": "Mine"})),
        "post_message" => Some(json!({"body": "Mine"})),
        "create_task" => Some(json!({"title": "Mine"})),
        "change_notification_rule" => Some(json!({"enabled": false})),
        "change_task" => Some(json!({"state": "done"})),
        "create_invitation" => Some(json!({"email": "mine@example.se"})),
        "change_workflow_template" => Some(json!({"name": "Mine"})),
        "advance_workflow_step" | "approve_workflow_step" | "reject_workflow_step" => Some(json!({})),
        "complete_workflow" | "cancel_workflow" => Some(json!({})),
        "fail_workflow" => Some(json!({"reason": "Mine"})),
        "mark_invoice_paid" | "return_asset" | "terminate_employee" => Some(json!({})),
        "change_employee" | "change_asset" | "change_location" => Some(json!({})),
        "assign_asset" | "transfer_asset" => Some(json!({"employee_id": Uuid::nil()})),
        "change_asset_status" => Some(json!({"status": "retired"})),
        "change_integration" => Some(json!({"name": "Mine"})),
        "sync_integration" => Some(json!({})),
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
    let colleague = person_of(&world.app, &world.acme, Role::User, None).await.token;
    let own_admin = person_of(&world.app, &world.acme, Role::Admin, None).await.token;
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
            let there = things.fill(path, things.of(path));
            let nowhere = things.fill(path, &Uuid::now_v7().to_string());
            let for_people_only = ways.iter().all(|way| way.get("api_key").is_none());
            let of_workspaces =
                ["/workspaces", "/conversations", "/tasks"].iter().any(|part| path[7..].starts_with(part));
            let outside = [("their key", &their_key), ("their admin", &their_admin), ("a customer", &other_customer)];
            // Colleagues, too, where membership decides.
            let colleagues = [("a colleague", &colleague), ("their own admin", &own_admin)];
            let asking = outside.into_iter().chain(colleagues.into_iter().filter(|_| of_workspaces));
            for (who, token) in asking {
                let send = async |path: &str| world.send(request(method.clone(), path, token, &[], body_of(id))).await;
                let (real, none) = (send(&there).await, send(&nowhere).await);
                assert_eq!(told(&real), told(&none), "{id} as {who}: the answer tells that the thing exists");
                let refused = match who {
                    "a customer" => vec![403, 404],
                    "their key" if for_people_only => vec![403],
                    _ => vec![404],
                };
                assert!(refused.contains(&real.status.as_u16()), "{id} as {who}: {}", real.text);
                asked += 1;
            }
            // It is there for its owner, or nothing would have been proved.
            if method == Method::GET {
                let owner = if for_people_only { &things.person } else { &world.key };
                let shown = world.send(request(Method::GET, &there, owner, &[], None)).await;
                assert_eq!(shown.status, StatusCode::OK, "{id}: {}", shown.text);
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
            for (collection, id) in &things.all {
                assert!(!answer.text.contains(id), "GET {path} shows a stranger one of {collection}");
            }
            lists += 1;
        }
    }
    assert!(lists >= 16, "only {lists} lists were asked for");
    for (path, body, field) in [
        ("/api/v1/invoices", invoice(things.of("/api/v1/companies").parse().unwrap(), "1"), "company_id unknown"),
        (
            "/api/v1/employees",
            json!({"first_name": "Mine", "manager_id": things.of("/api/v1/employees")}),
            "manager_id unknown",
        ),
        (
            "/api/v1/assets",
            json!({"name": "Mine", "location_id": things.of("/api/v1/locations")}),
            "location_id unknown",
        ),
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
