//! Employees and locations through the API.

use super::*;

fn anna() -> Value {
    json!({
        "work_email": "Anna.Ek@acme.example", "first_name": "Anna", "last_name": "Ek", "title": "Accountant",
        "phone": "070-123 45 67", "social_security_number": PLANTED, "date_of_birth": "1981-12-28",
        "custom": {"shirt": "M"}, "hire_date": "2026-03-01",
    })
}

/// ASSET-1, API-3, API-9
#[tokio::test]
async fn an_employee_is_stored_changed_found_and_listed() {
    let world = World::new().await;
    let location = world.post("/api/v1/locations", json!({"name": "Stockholm", "address": "Gatan 1"})).await;
    assert_eq!(location.status, StatusCode::CREATED, "{}", location.text);
    let location = location.json()["id"].clone();

    let key = [("idempotency-key", "one")];
    let made = world.post_with("/api/v1/employees", &key, anna()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let replayed = world.post_with("/api/v1/employees", &key, anna()).await;
    assert_eq!((replayed.header("idempotency-replayed"), &replayed.text), ("true", &made.text));
    let at = made.header("location").to_owned();
    let change = json!({"title": null, "location_id": location, "status": "on_leave"});
    let changed = world.send(request(Method::PATCH, &at, &world.key, &[], Some(change))).await.json();
    assert_eq!(
        (&changed["title"], &changed["status"], &changed["location_id"]),
        (&Value::Null, &json!("on_leave"), &location)
    );
    assert_eq!(world.get(&at).await.json(), changed);
    assert_eq!((&changed["social_security_number"], &changed["custom"]["shirt"]), (&json!(PLANTED), &json!("M")));

    let boss = json!({"first_name": "Bo", "manager_id": changed["id"]});
    assert_eq!(world.post("/api/v1/employees", boss).await.status, StatusCode::CREATED);
    let location = location.as_str().unwrap().to_owned();
    let manager = format!("manager_id={}", changed["id"].as_str().unwrap());
    for (query, found) in [
        ("", 2),
        ("email=anna", 1),
        ("email=anna.ek%40ACME.example", 1),
        ("email=ek", 0),
        ("status=on_leave", 1),
        ("status=terminated", 0),
        ("hris_id=7", 0),
        (&format!("location_id={location}"), 1),
        (&manager, 1),
    ] {
        let page = world.get(&format!("/api/v1/employees?{query}")).await.json();
        assert_eq!(page["employees"].as_array().unwrap().len(), found, "{query}: {page}");
    }
    let page = world.get("/api/v1/employees?limit=1").await.json();
    let next = format!("/api/v1/employees?limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
    assert_eq!(world.get(&next).await.json()["employees"][0]["first_name"], "Bo");
}

/// ASSET-1, API-4
#[tokio::test]
async fn an_employee_that_cannot_be_is_refused_by_field() {
    let world = World::new().await;
    let id = world.post("/api/v1/employees", anna()).await.json()["id"].as_str().unwrap().to_owned();
    for (body, status, kind, errors) in [
        (json!({}), 422, "validation", vec!["first_name required"]),
        (json!({"first_name": "A", "work_email": "x"}), 422, "validation", vec!["work_email invalid"]),
        (json!({"first_name": "A", "work_email": "ANNA.EK@acme.example"}), 409, "conflict", vec!["work_email taken"]),
        (json!({"first_name": "A", "manager_id": Uuid::now_v7()}), 422, "validation", vec!["manager_id unknown"]),
        (json!({"first_name": "A", "location_id": Uuid::now_v7()}), 422, "validation", vec!["location_id unknown"]),
        (json!({"first_name": "A", "salary": 1}), 422, "validation", vec!["salary unknown_field"]),
        (
            json!({"first_name": "A", "hire_date": "2026-02-01", "termination_date": "2026-01-01"}),
            422,
            "validation",
            vec!["termination_date out_of_range"],
        ),
    ] {
        let answer = world.post("/api/v1/employees", body.clone()).await;
        assert_eq!(answer.problem(status, kind), errors, "{body}");
    }
    let path = format!("/api/v1/employees/{id}");
    let change = async |body: Value| world.send(request(Method::PATCH, &path, &world.key, &[], Some(body))).await;
    assert_eq!(change(json!({"status": "terminated"})).await.problem(422, "validation"), ["status invalid"]);
    assert_eq!(change(json!({"manager_id": id})).await.problem(422, "validation"), ["manager_id unknown"]);
}

/// ASSET-1, ASSET-6
#[tokio::test]
async fn a_termination_is_done_once_and_undone_once() {
    let world = World::new().await;
    let id = world.post("/api/v1/employees", anna()).await.json()["id"].as_str().unwrap().to_owned();
    let path = |verb: &str| format!("/api/v1/employees/{id}/{verb}");

    let gone = world.post(&path("terminate"), json!({"termination_date": "2026-03-31"})).await.json();
    assert_eq!((&gone["status"], &gone["termination_date"]), (&json!("terminated"), &json!("2026-03-31")));
    world.post(&path("terminate"), json!({})).await.problem(409, "conflict");
    assert_eq!(world.jobs_stored().await, 1, "one offboarding");
    let back = world.send(request(Method::POST, &path("reactivate"), &world.key, &[], None)).await.json();
    assert_eq!((&back["status"], &back["termination_date"]), (&json!("active"), &Value::Null));
    let again = world.send(request(Method::POST, &path("reactivate"), &world.key, &[], None)).await;
    again.problem(409, "conflict");
}

/// AUTH-4, ASSET-1, ASSET-2
#[tokio::test]
async fn what_is_private_is_for_admins_and_keys_with_the_scope() {
    let world = World::new().await;
    let at = world.post("/api/v1/employees", anna()).await.header("location").to_owned();
    let home = json!({"name": "Anna's home", "kind": "employee_home", "address": PLANTED, "phone": PLANTED});
    let home = world.post("/api/v1/locations", home).await.header("location").to_owned();
    let reader = key_of(&world.app, &world.acme, &[Scope::PeopleRead]).await;
    let admin = person_of(&world.app, &world.acme, Role::Admin, None).await.token;
    let developer = person_of(&world.app, &world.acme, Role::Developer, None).await.token;
    for (token, sees) in [(&reader, true), (&admin, true), (&developer, false)] {
        for path in [&at, &home, "/api/v1/employees", "/api/v1/locations"] {
            let shown = world.send(request(Method::GET, path, token, &[], None)).await;
            assert_eq!(shown.status, StatusCode::OK);
            assert_eq!(shown.text.contains(PLANTED), sees, "{path}: {}", shown.text);
        }
        let shown = world.send(request(Method::GET, &at, token, &[], None)).await.json();
        assert_eq!((&shown["first_name"], &shown["title"]), (&json!("Anna"), &json!("Accountant")));
        assert_eq!(shown["date_of_birth"].is_string() && shown["custom"]["shirt"].is_string(), sees, "{shown}");
    }
    for role in [Role::User, Role::Customer] {
        let company = if role == Role::Customer { Some(world.company().await) } else { None };
        let token = person_of(&world.app, &world.acme, role, company).await.token;
        world.send(request(Method::GET, &at, &token, &[], None)).await.problem(403, "forbidden");
    }
}

/// ASSET-2
#[tokio::test]
async fn a_location_is_stored_changed_found_and_closed() {
    let world = World::new().await;
    let made = world.post("/api/v1/locations", json!({"name": "Lager 1", "kind": "warehouse", "phone": "08-1"})).await;
    let at = made.header("location").to_owned();
    let twin = world.post("/api/v1/locations", json!({"name": "LAGER 1"})).await;
    assert_eq!(twin.problem(409, "conflict"), ["name taken"]);
    let change = json!({"active": false, "phone": null, "address": "Gatan 1\nStad"});
    let closed = world.send(request(Method::PATCH, &at, &world.key, &[], Some(change))).await.json();
    assert_eq!(
        (&closed["active"], &closed["phone"], &closed["name"]),
        (&json!(false), &Value::Null, &json!("Lager 1"))
    );
    for (query, found) in
        [("", 1), ("q=lager", 1), ("q=butik", 0), ("kind=warehouse", 1), ("kind=office", 0), ("active=true", 0)]
    {
        let page = world.get(&format!("/api/v1/locations?{query}")).await.json();
        assert_eq!(page["locations"].as_array().unwrap().len(), found, "{query}");
    }
}
