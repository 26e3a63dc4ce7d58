//! Who gets through to what: every operation of the document, asked as everybody (AUTH-4).
//!
//! An operation says in the document who may call it, and `domain::policy` says what that means for each role. Here both are held
//! against what the handlers do. A new operation that says nothing, says something else than it does, or is not in the reviewed
//! table below fails.

use std::fmt::Write;

use super::*;
use crate::domain::{
    Action, Reach,
    policy::{self, Field},
};

/// What an operation says of who may call it.
#[derive(Clone, Debug, Default)]
struct Access {
    strangers: bool,
    operator: bool,
    /// Any signed-in person.
    signed_in: bool,
    key: Option<Action>,
    person: Option<Action>,
}

struct Operation {
    method: Method,
    path: String,
    id: String,
    access: Access,
}

/// Who asks.
struct Asker {
    name: &'static str,
    token: String,
    role: Option<Role>,
}

/// Every operation of the document, health and metrics aside.
pub(super) async fn document(world: &World) -> Value {
    world.send(request(Method::GET, "/api/v1/openapi.json", "", &[], None)).await.json()
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/api")) {
        for (method, operation) in item.as_object().unwrap() {
            let id =
                operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no id")).to_owned();
            let ways = operation["security"].as_array();
            let ways = ways.unwrap_or_else(|| panic!("{id} does not say who may call it: give it `security(…)`"));
            let access = access(&id, ways);
            operations.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                id,
                access,
            });
        }
    }
    operations
}

fn access(id: &str, ways: &[Value]) -> Access {
    let mut access = Access::default();
    for way in ways.iter().map(|way| way.as_object().unwrap()) {
        access.strangers |= way.is_empty();
        for (scheme, actions) in way {
            let actions: Vec<Action> = serde_json::from_value(actions.clone())
                .unwrap_or_else(|e| panic!("{id} names an action that there is not: {e}"));
            let action = actions.first().copied();
            assert!(actions.len() <= 1, "{id} names more than one action");
            match scheme.as_str() {
                "operator" => access.operator = true,
                "api_key" => access.key = Some(action.unwrap_or_else(|| panic!("{id} names no scope"))),
                "person" if action.is_none() => access.signed_in = true,
                "person" => access.person = action,
                other => panic!("{id} names a way in that is not known: {other}"),
            }
        }
    }
    assert!(!ways.is_empty(), "{id} lets nobody in");
    if let Some(action) = access.key {
        assert!(action.scope().is_some(), "{id}: no key can have {action}; say `(\"person\" = [\"{action}\"])`");
    }
    access
}

impl Access {
    fn lets(&self, asker: &Asker) -> bool {
        let by_role = asker.role.is_some_and(|role| {
            self.signed_in || self.person.is_some_and(|action| policy::reach(role, action) != Reach::Nothing)
        });
        match asker.name {
            "operator" => self.operator,
            "key" => self.key.is_some(),
            _ => by_role,
        }
    }

    fn writes(&self) -> bool {
        self.key.or(self.person).is_some_and(Action::writes)
    }
}

/// An address that leads to the handler and to nothing that there is.
fn nowhere(path: &str) -> String {
    let mut path = path.replace("{slug}", "nobody").replace("{name}", "none").replace("{key}", "none");
    while let Some(from) = path.find('{') {
        let to = path[from..].find('}').map_or(path.len(), |at| from + at + 1);
        path.replace_range(from..to, "0199aaaa-0000-7000-8000-000000000000");
    }
    path
}

async fn ask(world: &World, operation: &Operation, token: &str) -> Answer {
    world.send(request(operation.method.clone(), &nowhere(&operation.path), token, &[], None)).await
}

async fn askers(world: &World) -> Vec<Asker> {
    let company = world.company().await;
    let mut askers = Vec::new();
    for role in Role::ALL {
        let company = (*role == Role::Customer).then_some(company);
        let token = person_of(&world.app, &world.acme, *role, company).await.token;
        askers.push(Asker { name: role.as_str(), token, role: Some(*role) });
    }
    askers.push(Asker { name: "key", token: world.key.clone(), role: None });
    askers.push(Asker { name: "operator", token: OPERATOR.to_owned(), role: None });
    askers
}

/// AUTH-4, AUTH-3: the whole table of operation and role, as it is.
#[tokio::test]
async fn every_operation_lets_in_whom_its_policy_names_and_nobody_else() {
    let world = World::new().await;
    let operations = operations(&document(&world).await);
    let askers = askers(&world).await;
    let mut table = format!("{:<26}{:<22}", "operation", "action");
    for asker in &askers {
        write!(table, "{:<15}", asker.name).unwrap();
    }
    for operation in &operations {
        let action = operation.access.key.or(operation.access.person).map_or("-", Action::as_str);
        write!(table, "\n{:<26}{action:<22}", operation.id).unwrap();
        for asker in &askers {
            let answer = ask(&world, operation, &asker.token).await;
            let status = answer.status.as_u16();
            assert!(status != 401 && status < 500, "{} as {}: {}", operation.id, asker.name, answer.text);
            let refused = status == 403;
            if operation.access.strangers {
                assert!(!refused, "{} is open to strangers and refuses {}", operation.id, asker.name);
                write!(table, "{:<15}", "open").unwrap();
                continue;
            }
            let expected = operation.access.lets(asker);
            assert_eq!(!refused, expected, "{} as {}: {}", operation.id, asker.name, answer.text);
            let reach = match (asker.role, operation.access.person) {
                (Some(role), Some(action)) if expected => format!("{:?}", policy::reach(role, action)),
                _ if expected => "yes".to_owned(),
                _ => "-".to_owned(),
            };
            write!(table, "{reach:<15}").unwrap();
        }
    }
    let table: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    insta::assert_snapshot!(table);
}

/// AUTH-3: a key with one scope gets through to the operations of that scope, and to no other.
#[tokio::test]
async fn a_scope_opens_the_operations_that_name_it_and_no_other() {
    let world = World::new().await;
    let operations = operations(&document(&world).await);
    for scope in Scope::ALL {
        let key = key_of(&world.app, &world.acme, &[*scope]).await;
        for operation in operations.iter().filter(|operation| !operation.access.strangers) {
            let answer = ask(&world, operation, &key).await;
            let named = operation.access.key == Some((*scope).into());
            assert_eq!(
                answer.status == StatusCode::FORBIDDEN,
                !named,
                "{} with {scope}: {}",
                operation.id,
                answer.text
            );
        }
    }
}

/// TEN-5: a suspended organization is read-only to keys and people alike.
#[tokio::test]
async fn whatever_writes_is_refused_to_a_suspended_organization() {
    let world = World::new().await;
    let operations = operations(&document(&world).await);
    let admin = person_of(&world.app, &world.acme, Role::Admin, None).await;
    world.operate(Method::POST, "/api/v1/organizations/acme/suspend", None).await;
    for operation in operations.iter().filter(|operation| operation.access.writes()) {
        let key = operation.access.key.map(|_| world.key.as_str());
        let person = operation.access.person.map(|_| admin.token.as_str());
        for token in key.into_iter().chain(person) {
            ask(&world, operation, token).await.problem(403, "organization-suspended");
        }
    }
}

/// AUTH-4, BILL-1, BILL-3: own and other, for the one role that has an own.
#[tokio::test]
async fn a_customer_sees_their_own_company_s_records_and_no_notes_about_them() {
    let world = World::new().await;
    let own = world.company().await;
    let mut second = company();
    second["org_number"] = json!("212000-0142");
    let other: Uuid = world.post("/api/v1/companies", second).await.json()["id"].as_str().unwrap().parse().unwrap();
    let mut invoices = Vec::new();
    for (n, company) in [own, other, own].into_iter().enumerate() {
        let made = world.post("/api/v1/invoices", invoice(company, &format!("2026-{n}"))).await;
        invoices.push(made.json()["id"].as_str().unwrap().to_owned());
    }
    let failed =
        "update org_acme.invoices set reminder_failed_at = now(), reminder_error = 'mailbox planted-7f3a is full'";
    sqlx::query(failed).execute(&world.app.db).await.unwrap();
    let customer = person_of(&world.app, &world.acme, Role::Customer, Some(own)).await;
    let get = async |token: &str, path: &str| world.send(request(Method::GET, path, token, &[], None)).await;

    let listed = get(&customer.token, "/api/v1/companies").await.json();
    assert_eq!(
        listed["companies"].as_array().unwrap().iter().map(|c| c["id"].clone()).collect::<Vec<_>>(),
        [json!(own)]
    );
    let shown = get(&customer.token, &format!("/api/v1/companies/{own}")).await.json();
    assert_eq!((&shown["contact"]["name"], &shown["contact"]["notes"]), (&json!(PLANTED), &Value::Null));
    get(&customer.token, &format!("/api/v1/companies/{other}")).await.problem(404, "not-found");
    for query in
        ["", "?sort=created_desc", &format!("?company_id={own}"), "?number=2026-1", &format!("?company_id={other}")]
    {
        let page = get(&customer.token, &format!("/api/v1/invoices{query}")).await.json();
        let found = page["invoices"].as_array().unwrap();
        assert!(found.iter().all(|invoice| invoice["company_id"] == json!(own)), "{query}: {page}");
        let expected = if query.contains(&other.to_string()) || query.contains("number") { 0 } else { 2 };
        assert_eq!(found.len(), expected, "{query}");
    }
    let invoice = get(&customer.token, &format!("/api/v1/invoices/{}", invoices[0])).await.json();
    assert_eq!((&invoice["reminder_error"], &invoice["company_id"]), (&Value::Null, &json!(own)));
    get(&customer.token, &format!("/api/v1/invoices/{}", invoices[1])).await.problem(404, "not-found");

    let made = async |path: &str, body: Value| world.post(path, body).await.header("location").to_owned();
    let employee = made("/api/v1/employees", json!({"first_name": "Anna", "phone": "08-1"})).await;
    let asset = made("/api/v1/assets", json!({"name": "Laptop", "cost": "1.00"})).await;
    for (role, field) in Role::ALL.iter().flat_map(|role| Field::ALL.map(|field| (*role, field))) {
        if policy::reach(role, Action::BillingRead) != Reach::All {
            continue;
        }
        let someone = person_of(&world.app, &world.acme, role, None).await;
        let (path, pointer) = match field {
            Field::ContactNotes => (format!("/api/v1/companies/{own}"), "/contact/notes"),
            Field::ReminderError => (format!("/api/v1/invoices/{}", invoices[0]), "/reminder_error"),
            Field::EmployeePrivate => (employee.clone(), "/phone"),
            Field::AssetCost => (asset.clone(), "/cost"),
        };
        let shown = get(&someone.token, &path).await.json();
        let seen = shown.pointer(pointer).is_some_and(Value::is_string);
        assert_eq!(seen, policy::may_see(role, field), "{role} and {field:?}: {shown}");
    }
    assert_eq!(get(&world.key, &format!("/api/v1/companies/{own}")).await.json()["contact"]["notes"], "calls\nback");
}
