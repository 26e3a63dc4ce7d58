//! Workflows and their templates over the API.

use super::*;
use crate::store::{Page, events};

impl World {
    async fn upgrade(&self) {
        let upgraded = self.operate(Method::PATCH, "/api/v1/organizations/acme", Some(json!({"tier": "pro"}))).await;
        assert_eq!(upgraded.status, StatusCode::OK, "{}", upgraded.text);
    }

    async fn started(&self, body: Value) -> Value {
        let answer = self.post("/api/v1/workflows", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()
    }

    async fn by_person(&self, who: &Someone, path: &str, body: Value) -> Answer {
        self.send(request(Method::POST, path, &who.token, &[], Some(body))).await
    }

    async fn employee(&self, email: &str) -> Uuid {
        let id = Uuid::now_v7();
        let mut tx = tenant::begin(&self.app.db, &self.acme).await.unwrap();
        sqlx::query(
            "insert into employees (id, work_email, first_name, last_name, status, created_at, updated_at)
             values ($1, $2, '', '', 'active', now(), now())",
        )
        .bind(id)
        .bind(email)
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        id
    }

    async fn told_of_workflow(&self, id: &str) -> Vec<(String, String)> {
        let mut tx = tenant::begin(&self.app.db, &self.acme).await.unwrap();
        let page = events::page(&mut tx, Some(&format!("workflow:{id}")), Page::first(100)).await.unwrap();
        page.into_iter().map(|event| (event.kind, event.actor)).collect()
    }
}

fn step_path(workflow: &Value, position: usize, act: &str) -> String {
    let (id, step) = (&workflow["id"], &workflow["steps"][position - 1]["id"]);
    format!("/api/v1/workflows/{}/steps/{}/{act}", id.as_str().unwrap(), step.as_str().unwrap())
}

/// ASSET-5, API-3, API-9, EVT-1
#[tokio::test]
async fn a_workflow_is_started_advanced_approved_and_completed() {
    let world = World::new().await;
    let (anna, bo) = (
        person_of(&world.app, &world.acme, Role::Admin, None).await,
        person_of(&world.app, &world.acme, Role::Admin, None).await,
    );
    let key = [("idempotency-key", "one")];
    let body = json!({"kind": "procurement", "title": "Laptops", "assignee": {"user_id": anna.id}});
    let made = world.post_with("/api/v1/workflows", &key, body.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let path = made.header("location").to_owned();
    assert_eq!(world.post_with("/api/v1/workflows", &key, body).await.json()["id"], made.json()["id"]);
    let workflow = made.json();
    assert_eq!((&workflow["status"], &workflow["overdue"]), (&json!("pending"), &json!(false)));
    assert_eq!(workflow["assignee"], json!({"user_id": anna.id}));
    assert_eq!(workflow["steps"].as_array().unwrap().len(), 4);
    assert_eq!(workflow["deadline"], workflow["steps"][0]["due_on"]);

    let early = world.by_person(&anna, &step_path(&workflow, 3, "advance"), json!({})).await;
    early.problem(409, "conflict");
    assert!(early.text.contains("step 3 waits for the approval of step 2"), "{}", early.text);
    let first = world.by_person(&anna, &step_path(&workflow, 1, "advance"), json!({"note": "three offers"})).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    assert_eq!(
        (&first.json()["status"], &first.json()["steps"][0]["note"]),
        (&json!("in_progress"), &json!("three offers"))
    );
    world.by_person(&anna, &step_path(&workflow, 1, "advance"), json!({})).await.problem(409, "conflict");
    let asked = world.by_person(&anna, &step_path(&workflow, 2, "advance"), json!({})).await;
    assert_eq!(asked.json()["steps"][1]["status"], "awaiting_approval");
    let own = world.by_person(&anna, &step_path(&workflow, 2, "approve"), json!({})).await;
    own.problem(409, "conflict");
    assert!(own.text.contains("somebody else"), "{}", own.text);
    let approved = world.by_person(&bo, &step_path(&workflow, 2, "approve"), json!({})).await;
    assert_eq!(approved.json()["steps"][1]["approved_by"], format!("user:{}", bo.id), "{}", approved.text);
    assert_eq!(world.by_person(&bo, &step_path(&workflow, 3, "advance"), json!({})).await.status, StatusCode::OK);

    let id = workflow["id"].as_str().unwrap();
    let complete = format!("{path}/complete");
    world.post(&complete, json!({})).await.problem(409, "conflict");
    let completed = world.post(&complete, json!({"skip_open_steps": true})).await.json();
    assert_eq!((&completed["status"], &completed["steps"][3]["status"]), (&json!("completed"), &json!("skipped")));
    assert_eq!(completed["deadline"], Value::Null);
    assert_eq!(world.get(&path).await.json(), completed);
    let told = world.told_of_workflow(id).await;
    let by_anna = told.iter().filter(|(_, actor)| *actor == format!("user:{}", anna.id)).count();
    assert_eq!((told.len(), by_anna, told.last().unwrap().0.as_str()), (6, 2, "workflow.completed"));
    for act in ["complete", "cancel", "fail"] {
        let late = world.post(&format!("{path}/{act}"), json!({"reason": "x"})).await;
        assert!(matches!(late.status.as_u16(), 409 | 422), "{act}: {}", late.text);
    }
}

/// ASSET-5, ASSET-6, API-4
#[tokio::test]
async fn what_a_workflow_is_about_has_to_be_there() {
    let world = World::new().await;
    let employee = world.employee("bo@acme.example").await;
    let onboarding =
        world.started(json!({"kind": "onboarding", "employee_id": employee, "day_zero": "2027-01-01"})).await;
    assert_eq!(onboarding["title"], "Introduktion: bo@acme.example");
    let nobody = Uuid::now_v7();
    for (body, errors) in [
        (json!({"kind": "onboarding"}), vec!["employee_id required"]),
        (json!({"kind": "transfer"}), vec!["asset_id required"]),
        (json!({"kind": "onboarding", "employee_id": nobody}), vec!["employee_id invalid"]),
        (json!({"kind": "repair", "asset_id": nobody}), vec!["asset_id invalid"]),
        (json!({"kind": "procurement", "template_id": nobody}), vec!["template_id invalid"]),
        (json!({"kind": "procurement", "assignee": {"user_id": nobody}}), vec!["assignee.user_id unknown"]),
        (json!({"kind": "procurement", "assignee": {"role": "customer"}}), vec!["assignee invalid"]),
        (
            json!({"kind": "procurement", "title": " ", "due_on": "2099-01-01"}),
            vec!["title required", "due_on out_of_range"],
        ),
        (json!({"kind": "hiring"}), vec!["kind invalid"]),
        (json!({"kind": "procurement", "steps": []}), vec!["steps unknown_field"]),
    ] {
        assert_eq!(world.post("/api/v1/workflows", body.clone()).await.problem(422, "validation"), errors, "{body}");
    }
    let path = format!("/api/v1/workflows/{}", onboarding["id"].as_str().unwrap());
    assert_eq!(world.post(&format!("{path}/fail"), json!({})).await.problem(422, "validation"), ["reason required"]);
    let long = json!({"reason": "x".repeat(2_001)});
    assert_eq!(world.post(&format!("{path}/cancel"), long).await.problem(422, "validation"), ["reason too_long"]);
    let cancelled = world.post(&format!("{path}/cancel"), json!({"reason": "did not come"})).await.json();
    assert_eq!((&cancelled["status"], &cancelled["reason"]), (&json!("cancelled"), &json!("did not come")));
}

/// AUTH-4, ASSET-5: who may not read about people sees what is to be done, and not for whom.
#[tokio::test]
async fn a_user_is_told_nothing_of_the_person_a_workflow_is_about() {
    let world = World::new().await;
    let employee = world.employee("bo@acme.example").await;
    let made = world.started(json!({"kind": "offboarding", "employee_id": employee})).await;
    let titled = json!({"kind": "onboarding", "employee_id": employee, "title": "Desk by the window"});
    let titled = world.started(titled).await["title"].clone();
    world.post(&step_path(&made, 1, "advance"), json!({"note": "planted-note"})).await;
    let path = format!("/api/v1/workflows/{}", made["id"].as_str().unwrap());
    world.post(&format!("{path}/fail"), json!({"reason": "planted-reason"})).await;

    for (role, sees) in [(Role::Admin, true), (Role::Developer, true), (Role::User, false)] {
        let someone = person_of(&world.app, &world.acme, role, None).await;
        let get = async |path: &str| world.send(request(Method::GET, path, &someone.token, &[], None)).await;
        let shown = get(&path).await;
        for planted in ["planted-note", "planted-reason", "bo@acme.example", &employee.to_string()] {
            assert_eq!(shown.text.contains(planted), sees, "{role}, {planted}: {}", shown.text);
        }
        assert_eq!(shown.json()["title"] == "Avslut", !sees, "{}", shown.text);
        let listed = get("/api/v1/workflows").await;
        assert_eq!(listed.text.contains(&employee.to_string()), sees, "{}", listed.text);
        assert_eq!(listed.json()["workflows"][1]["title"], titled, "what a person wrote stays");
        let of_one = get(&format!("/api/v1/workflows?employee_id={employee}")).await;
        assert_eq!(of_one.status == StatusCode::OK, sees, "{}", of_one.text);
    }
}

/// AUTH-4, ASSET-5: a step that is assigned to a user is theirs to do and to have approved, and nobody else's of their role.
#[tokio::test]
async fn a_user_does_and_approves_the_steps_that_are_theirs_and_no_other() {
    let world = World::new().await;
    world.upgrade().await;
    let of = async |role| person_of(&world.app, &world.acme, role, None).await;
    let (anna, bo) = (of(Role::Admin).await, of(Role::Developer).await);
    let (cia, mia) = (of(Role::User).await, of(Role::User).await);
    let template = json!({"kind": "procurement", "name": "Ours", "is_default": true, "steps": [
        {"title": "Ask", "assignee": {"user_id": cia.id}},
        {"title": "Approve", "assignee": {"user_id": mia.id}, "needs_approval": true},
        {"title": "Order", "assignee": {"role": "admin"}},
    ]});
    assert_eq!(world.post("/api/v1/workflow-templates", template).await.status, StatusCode::CREATED);
    let started = world.by_person(&anna, "/api/v1/workflows", json!({"kind": "procurement"})).await.json();
    let path = format!("/api/v1/workflows/{}", started["id"].as_str().unwrap());
    let act =
        async |who: &Someone, position, act| world.by_person(who, &step_path(&started, position, act), json!({})).await;

    act(&mia, 1, "advance").await.problem(403, "forbidden");
    let done = act(&cia, 1, "advance").await;
    assert_eq!((done.status, &done.json()["steps"][0]["status"]), (StatusCode::OK, &json!("done")), "{}", done.text);
    let read = world.send(request(Method::GET, &path, &cia.token, &[], None)).await;
    assert_eq!(read.json(), done.json());
    act(&cia, 3, "advance").await.problem(409, "conflict");
    act(&cia, 2, "advance").await.problem(403, "forbidden");
    assert_eq!(act(&bo, 2, "advance").await.json()["steps"][1]["status"], "awaiting_approval");

    for (who, why) in [(&cia, "by whom it or the workflow is assigned to"), (&anna, "who started the workflow")] {
        let refused = act(who, 2, "approve").await;
        refused.problem(403, "forbidden");
        assert!(refused.text.contains(why), "{}", refused.text);
    }
    act(&bo, 2, "approve").await.problem(409, "conflict");
    let approved = act(&mia, 2, "approve").await;
    assert_eq!(approved.json()["steps"][1]["approved_by"], format!("user:{}", mia.id), "{}", approved.text);
    for what in ["complete", "cancel", "fail"] {
        let whole = world.by_person(&mia, &format!("{path}/{what}"), json!({"reason": "x"})).await;
        whole.problem(403, "forbidden");
    }
    let no_step = format!("{path}/steps/{}/advance", Uuid::now_v7());
    world.by_person(&cia, &no_step, json!({})).await.problem(404, "not-found");
}

/// ASSET-5: two requests advance the same step at once.
#[tokio::test]
async fn two_requests_advance_a_step_once() {
    let world = World::new().await;
    let workflow = world.started(json!({"kind": "procurement"})).await;
    let path = step_path(&workflow, 1, "advance");
    let (one, two) = tokio::join!(world.post(&path, json!({})), world.post(&path, json!({})));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{} {}", one.text, two.text);
}

/// ASSET-5, API-9
#[tokio::test]
async fn lists_tell_what_is_overdue_and_go_on_by_cursor() {
    let world = World::at(Clock::fixed("2026-03-02T08:00:00Z".parse().unwrap()), &[]).await;
    let employee = world.employee("bo@acme.example").await;
    let hire = world.started(json!({"kind": "onboarding", "employee_id": employee})).await["id"].clone();
    let bought = world.started(json!({"kind": "procurement", "due_on": "2026-03-02"})).await["id"].clone();
    let later = world.started(json!({"kind": "procurement"})).await["id"].clone();
    let ids = async |query: &str| -> Vec<Value> {
        let page = world.get(&format!("/api/v1/workflows{query}")).await.json();
        page["workflows"].as_array().unwrap().iter().map(|workflow| workflow["id"].clone()).collect()
    };
    assert_eq!(ids("").await, [hire.clone(), bought.clone(), later.clone()]);
    assert_eq!(ids(&format!("?employee_id={employee}")).await, std::slice::from_ref(&hire));
    assert_eq!(ids("?kind=procurement&status=pending").await, [bought.clone(), later.clone()]);
    assert!(ids("?overdue=true").await.is_empty());
    world.app.clock.advance(chrono::Duration::days(1));
    assert_eq!(ids("?overdue=true").await, [hire.clone(), bought.clone()]);
    let shown = world.get(&format!("/api/v1/workflows/{}", hire.as_str().unwrap())).await.json();
    assert_eq!((&shown["overdue"], &shown["deadline"]), (&json!(true), &json!("2026-03-02")));

    let first = world.get("/api/v1/workflows?limit=2").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    assert_eq!(ids(&format!("?limit=2&cursor={cursor}")).await, [later]);
    let wrong = world.get(&format!("/api/v1/workflow-templates?cursor={cursor}")).await;
    assert_eq!(wrong.problem(422, "validation"), ["cursor invalid"]);
    assert_eq!(world.get("/api/v1/workflows?status=done").await.problem(422, "validation"), ["status invalid"]);
}

/// ASSET-5, TEN-4: the product's own are free, the organization's count.
#[tokio::test]
async fn templates_are_made_changed_and_removed_within_the_tier() {
    let world = World::new().await;
    let listed = world.get("/api/v1/workflow-templates").await.json();
    assert_eq!((listed["templates"].as_array().unwrap().len(), listed["built_in"].as_array().unwrap().len()), (0, 5));
    let body = |name: &str| {
        json!({"kind": "procurement", "name": name, "is_default": true, "steps": [
            {"title": "Ask", "assignee": {"role": "user"}},
            {"title": "Order", "assignee": {"role": "admin"}, "due_in_days": 7, "needs_approval": true},
        ]})
    };
    let refused = world.post("/api/v1/workflow-templates", body("Ours")).await;
    refused.problem(402, "limit-exceeded");
    assert!(refused.text.contains("limit of 0 workflows"), "{}", refused.text);
    world.upgrade().await;

    let made = world.post("/api/v1/workflow-templates", body("Ours")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let path = made.header("location").to_owned();
    assert_eq!(
        made.json()["steps"][0],
        json!({"title": "Ask", "assignee": {"role": "user"}, "due_in_days": 0, "needs_approval": false})
    );
    assert_eq!(world.post("/api/v1/workflow-templates", body("ours")).await.problem(409, "conflict"), ["name taken"]);
    assert_eq!(world.get("/api/v1/organization/usage").await.json()["workflows"], json!({"used": 1, "left": 9}));
    let workflow = world.started(json!({"kind": "procurement"})).await;
    assert_eq!((&workflow["template_id"], workflow["steps"].as_array().unwrap().len()), (&made.json()["id"], 2));

    let patch = async |body: Value| world.send(request(Method::PATCH, &path, &world.key, &[], Some(body))).await;
    let nobody = json!({"steps": [{"title": "Ask", "assignee": {"user_id": Uuid::now_v7()}}]});
    assert_eq!(patch(nobody).await.problem(422, "validation"), ["steps[0].assignee.user_id unknown"]);
    assert_eq!(patch(json!({"steps": []})).await.problem(422, "validation"), ["steps out_of_range"]);
    assert_eq!(patch(json!({"kind": "repair"})).await.problem(422, "validation"), ["kind unknown_field"]);
    let anna = person_of(&world.app, &world.acme, Role::User, None).await;
    let changed = patch(json!({"name": "Theirs", "steps": [{"title": "Ask", "assignee": {"user_id": anna.id}}]})).await;
    assert_eq!((changed.status, &changed.json()["is_default"]), (StatusCode::OK, &json!(true)), "{}", changed.text);
    assert_eq!(world.get(&path).await.json(), changed.json());
    assert_eq!(world.get("/api/v1/workflow-templates?kind=repair").await.json()["templates"], json!([]));

    let remove = async || world.send(request(Method::DELETE, &path, &world.key, &[], None)).await;
    assert_eq!(remove().await.status, StatusCode::NO_CONTENT);
    remove().await.problem(404, "not-found");
    let shown = world.get(&format!("/api/v1/workflows/{}", workflow["id"].as_str().unwrap())).await.json();
    assert_eq!((&shown["template_id"], shown["steps"].as_array().unwrap().len()), (&Value::Null, 2));
}
