//! Tasks, conversations and messages, as members and as others see them.

use super::*;
use crate::{
    domain::WorkspaceName,
    jobs::conversations::NameConversation,
    store::{Page, events, workspaces},
};

impl World {
    async fn somebody(&self, role: Role) -> Someone {
        person_of(&self.app, &self.acme, role, None).await
    }

    async fn office(&self, people: &[&Someone]) -> Uuid {
        let now = self.app.clock.now();
        let mut tx = tenant::begin(&self.app.db, &self.acme).await.unwrap();
        let name = WorkspaceName::parse("Kontoret").unwrap();
        let id = workspaces::insert(&mut tx, &name, people[0].id, now).await.unwrap().id;
        for person in &people[1..] {
            assert!(workspaces::add_member(&mut tx, (id, person.id), now).await.unwrap());
        }
        tx.commit().await.unwrap();
        id
    }

    async fn as_(&self, who: &Someone, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send(request(method, path, &who.token, &[], body)).await
    }

    /// A POST that must make something; answers it.
    async fn created(&self, who: &Someone, path: &str, body: Value) -> Value {
        let answer = self.as_(who, Method::POST, path, Some(body)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{path}: {}", answer.text);
        answer.json()
    }

    async fn seen_by(&self, who: &Someone, path: &str) -> Value {
        let answer = self.as_(who, Method::GET, path, None).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        answer.json()
    }

    /// Kinds and payloads of a topic's events.
    async fn told_on(&self, topic: &str) -> Vec<(String, Value)> {
        let mut tx = tenant::begin(&self.app.db, &self.acme).await.unwrap();
        let page = events::page(&mut tx, Some(topic), Page::first(100)).await.unwrap();
        page.into_iter().map(|event| (event.kind, event.payload)).collect()
    }
}

/// WORK-7, WORK-8, WORK-9, EVT-1, API-9
#[tokio::test]
async fn members_talk_and_the_exchange_asks_for_a_name() {
    let world = World::new().await;
    let (anna, bo) = (world.somebody(Role::User).await, world.somebody(Role::User).await);
    let workspace = world.office(&[&anna, &bo]).await;
    let list = format!("/api/v1/workspaces/{workspace}/conversations");

    let begun = world.as_(&anna, Method::POST, &list, Some(json!({"message": "Lunch?"}))).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.text);
    let path = begun.header("location").to_owned();
    let id = begun.json()["id"].as_str().unwrap().to_owned();
    let facts = |seen: &Value| (seen["title"].clone(), seen["title_source"].clone(), seen["message_count"].clone());
    assert_eq!(facts(&begun.json()), (Value::Null, json!("none"), json!(1)));
    assert_eq!(world.jobs_stored().await, 0, "one message is no exchange");

    let messages = format!("{path}/messages");
    let posted = world.created(&bo, &messages, json!({"body": "Ja, gärna\nklockan tolv"})).await;
    assert_eq!((&posted["position"], &posted["author_id"]), (&json!(2), &json!(bo.id)));
    assert_eq!(world.jobs_stored().await, 1);
    let filter = JobFilter { limit: 10, ..JobFilter::default() };
    let job = backroom_queue::list(&world.app.db, &filter).await.unwrap().remove(0);
    assert_eq!((job.kind.as_str(), &job.args), ("conversations.name", &json!({"conversation_id": id})));
    assert_eq!(job.tenant.as_deref(), Some("acme"));

    assert_eq!(facts(&world.seen_by(&bo, &path).await), (Value::Null, json!("none"), json!(2)));
    let first = world.seen_by(&anna, &format!("{messages}?limit=1")).await;
    assert_eq!(first["messages"][0]["body"], "Lunch?");
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = world.seen_by(&anna, &format!("{messages}?limit=1&cursor={cursor}")).await;
    assert_eq!((&second["messages"][0]["id"], &second["next_cursor"]), (&posted["id"], &Value::Null));
    let newest = world.seen_by(&anna, &format!("{messages}?sort=created_desc")).await;
    assert_eq!(newest["messages"][0]["id"], posted["id"]);
    let wrong = world.as_(&anna, Method::GET, &format!("{messages}?sort=created_desc&cursor={cursor}"), None).await;
    assert_eq!(wrong.problem(422, "validation"), ["cursor invalid"]);
    assert_eq!(world.seen_by(&anna, &list).await["conversations"][0]["id"], id.as_str());

    let renamed = world.as_(&bo, Method::PATCH, &path, Some(json!({"title": " Lunchen "}))).await;
    assert_eq!(facts(&renamed.json()), (json!("Lunchen"), json!("person"), json!(2)), "{}", renamed.text);
    let told = world.told_on(&format!("workspace:{workspace}:conversation:{id}")).await;
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["message.posted", "message.posted", "conversation.renamed"]);
    assert_eq!((&told[0].1["body"], &told[0].1["position"]), (&json!("Lunch?"), &json!(1)));
    let told = world.told_on(&format!("workspace:{workspace}")).await;
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["conversation.created", "conversation.renamed"]);
}

/// WORK-7, API-8: neither reading nor writing, neither by list nor by id, and not by what an answer says.
#[tokio::test]
async fn to_who_is_no_member_nothing_of_a_workspace_exists() {
    let world = World::new().await;
    let other = world._database.organization("other").await;
    let anna = world.somebody(Role::User).await;
    let workspace = world.office(&[&anna]).await;
    let list = format!("/api/v1/workspaces/{workspace}/conversations");
    let conversation = world.created(&anna, &list, json!({"title": PLANTED, "message": PLANTED})).await;
    let conversation = conversation["id"].as_str().unwrap().to_owned();
    let task = world.created(&anna, &format!("/api/v1/workspaces/{workspace}/tasks"), json!({"title": PLANTED})).await;
    let task = task["id"].as_str().unwrap().to_owned();
    let strangers = [
        world.somebody(Role::Admin).await,
        world.somebody(Role::User).await,
        person_of(&world.app, &other, Role::Admin, None).await,
    ];
    let routes = |workspace: &str, conversation: &str, task: &str| {
        [
            (Method::GET, format!("/api/v1/workspaces/{workspace}/conversations"), None),
            (Method::POST, format!("/api/v1/workspaces/{workspace}/conversations"), Some(json!({"message": "x"}))),
            (Method::GET, format!("/api/v1/conversations/{conversation}"), None),
            (Method::PATCH, format!("/api/v1/conversations/{conversation}"), Some(json!({"title": "x"}))),
            (Method::GET, format!("/api/v1/conversations/{conversation}/messages"), None),
            (Method::POST, format!("/api/v1/conversations/{conversation}/messages"), Some(json!({"body": "x"}))),
            (Method::GET, format!("/api/v1/workspaces/{workspace}/tasks"), None),
            (Method::POST, format!("/api/v1/workspaces/{workspace}/tasks"), Some(json!({"title": "x"}))),
            (Method::GET, format!("/api/v1/tasks/{task}"), None),
            (Method::PATCH, format!("/api/v1/tasks/{task}"), Some(json!({"state": "done"}))),
        ]
    };
    let nobody = Uuid::now_v7().to_string();
    let real = routes(&workspace.to_string(), &conversation, &task);
    let made_up = routes(&nobody, &nobody, &nobody);
    for stranger in &strangers {
        for ((method, path, body), (_, elsewhere, _)) in real.iter().zip(&made_up) {
            let answer = world.as_(stranger, method.clone(), path, body.clone()).await;
            let unknown = world.as_(stranger, method.clone(), elsewhere, body.clone()).await;
            answer.problem(404, "not-found");
            assert!(!answer.text.contains(PLANTED), "{method} {path}: {}", answer.text);
            assert_eq!(answer.json()["detail"], unknown.json()["detail"], "{method} {path}");
        }
    }
    // A key is nobody's eyes: it is no member of a workspace.
    for (method, path, body) in &real {
        world.send(request(method.clone(), path, &world.key, &[], body.clone())).await.problem(403, "forbidden");
        world.send(request(method.clone(), path, "", &[], body.clone())).await.problem(401, "unauthenticated");
    }
    let seen = world.seen_by(&anna, &format!("/api/v1/conversations/{conversation}")).await;
    assert_eq!((&seen["message_count"], &seen["title"]), (&json!(1), &json!(PLANTED)), "nothing was done");
    assert_eq!(world.seen_by(&anna, &format!("/api/v1/tasks/{task}")).await["state"], "todo");
}

/// WORK-2, WORK-7: who was taken out, and a workspace that was deleted.
#[tokio::test]
async fn what_a_member_saw_is_gone_with_the_membership_or_the_workspace() {
    let world = World::new().await;
    let (anna, bo) = (world.somebody(Role::User).await, world.somebody(Role::User).await);
    let workspace = world.office(&[&anna, &bo]).await;
    let list = format!("/api/v1/workspaces/{workspace}/conversations");
    let id = world.created(&bo, &list, json!({})).await["id"].as_str().unwrap().to_owned();
    let (shown, messages) = (format!("/api/v1/conversations/{id}"), format!("/api/v1/conversations/{id}/messages"));
    let change = async |sql: &'static str| {
        let mut tx = tenant::begin(&world.app.db, &world.acme).await.unwrap();
        sqlx::query(sql).bind(workspace).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    };

    change("delete from workspace_members m using workspaces w where w.id = $1 and m.workspace_id = w.id and m.user_id <> w.owner_id").await;
    for path in [&shown, &messages, &list] {
        world.as_(&bo, Method::GET, path, None).await.problem(404, "not-found");
        world.seen_by(&anna, path).await;
    }
    world.as_(&bo, Method::POST, &messages, Some(json!({"body": "x"}))).await.problem(404, "not-found");

    change("update workspaces set deleted_at = now() where id = $1").await;
    for path in [&shown, &messages, &list] {
        world.as_(&anna, Method::GET, path, None).await.problem(404, "not-found");
    }
    world.as_(&anna, Method::POST, &messages, Some(json!({"body": "x"}))).await.problem(404, "not-found");
}

/// WORK-7, API-4
#[tokio::test]
async fn what_is_wrong_is_named_by_its_field() {
    let world = World::new().await;
    let (anna, bo) = (world.somebody(Role::User).await, world.somebody(Role::User).await);
    let workspace = world.office(&[&anna]).await;
    let conversations = format!("/api/v1/workspaces/{workspace}/conversations");
    let tasks = format!("/api/v1/workspaces/{workspace}/tasks");
    let conversation = world.created(&anna, &conversations, json!({})).await["id"].as_str().unwrap().to_owned();
    let messages = format!("/api/v1/conversations/{conversation}/messages");
    let task = world.created(&anna, &tasks, json!({"title": "x"})).await["id"].as_str().unwrap().to_owned();
    for (method, path, body, errors) in [
        (
            Method::POST,
            &conversations,
            json!({"title": "a\nb", "message": " "}),
            vec!["title invalid", "message required"],
        ),
        (Method::POST, &conversations, json!({"titel": "x"}), vec!["titel unknown_field"]),
        (Method::POST, &messages, json!({"body": "x".repeat(10_001)}), vec!["body too_long"]),
        (Method::POST, &messages, json!({}), vec!["body required"]),
        (Method::POST, &messages, json!({"body": "a\u{0}b"}), vec!["body invalid"]),
        (
            Method::PATCH,
            &format!("/api/v1/conversations/{conversation}"),
            json!({"title": null}),
            vec!["title invalid"],
        ),
        (
            Method::POST,
            &tasks,
            json!({"title": "", "description": "x\u{7}"}),
            vec!["title required", "description invalid"],
        ),
        (Method::POST, &tasks, json!({"title": "x", "state": "open"}), vec!["state invalid"]),
        (Method::POST, &tasks, json!({"title": "x", "due_on": "2026-02-30"}), vec!["due_on invalid"]),
        (Method::POST, &tasks, json!({"title": "x", "assignee_id": bo.id}), vec!["assignee_id invalid"]),
        (Method::PATCH, &format!("/api/v1/tasks/{task}"), json!({"assignee_id": bo.id}), vec!["assignee_id invalid"]),
        (Method::PATCH, &format!("/api/v1/tasks/{task}"), json!({"title": " "}), vec!["title required"]),
    ] {
        let answer = world.as_(&anna, method.clone(), path, Some(body.clone())).await;
        assert_eq!(answer.problem(422, "validation"), errors, "{method} {path} {body}");
    }
    for query in ["state=open", "limit=0", "assignee_id=x", "colour=red"] {
        world.as_(&anna, Method::GET, &format!("{tasks}?{query}"), None).await.problem(422, "validation");
    }
}

/// WORK-7, EVT-1
#[tokio::test]
async fn a_task_goes_through_its_states_and_is_found_by_them() {
    let world = World::new().await;
    let (anna, bo) = (world.somebody(Role::User).await, world.somebody(Role::User).await);
    let workspace = world.office(&[&anna, &bo]).await;
    let tasks = format!("/api/v1/workspaces/{workspace}/tasks");
    let states = world.seen_by(&anna, "/api/v1/task-states").await;
    let names: Vec<&str> = states["states"].as_array().unwrap().iter().map(|s| s["state"].as_str().unwrap()).collect();
    assert_eq!(names, ["todo", "in_progress", "done", "cancelled"]);

    let order =
        json!({"title": "Beställ kaffe", "description": "Mörkrost", "assignee_id": bo.id, "due_on": "2026-03-31"});
    let made = world.as_(&anna, Method::POST, &tasks, Some(order)).await;
    let path = made.header("location").to_owned();
    assert_eq!(made.json()["state"], "todo", "{}", made.text);
    world.created(&anna, &tasks, json!({"title": "Diska", "state": "in_progress"})).await;
    let change = async |body: Value| {
        let answer = world.as_(&bo, Method::PATCH, &path, Some(body)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    };
    let done = change(json!({"state": "done", "description": null})).await;
    assert!(
        done["completed_at"].is_string() && done["description"].is_null() && done["due_on"] == "2026-03-31",
        "{done}"
    );
    let still = change(json!({"title": "Beställ mer kaffe"})).await;
    assert_eq!(still["completed_at"], done["completed_at"]);
    for (query, found) in [
        ("", 2),
        ("?state=done", 1),
        ("?state=in_progress", 1),
        ("?state=cancelled", 0),
        (&*format!("?assignee_id={}", bo.id), 1),
        (&*format!("?assignee_id={}&state=todo", bo.id), 0),
    ] {
        let page = world.seen_by(&anna, &format!("{tasks}{query}")).await;
        assert_eq!(page["tasks"].as_array().unwrap().len(), found, "{query}");
    }
    let again = change(json!({"state": "todo", "assignee_id": null, "due_on": null})).await;
    assert!(again["completed_at"].is_null() && again["assignee_id"].is_null() && again["due_on"].is_null(), "{again}");
    let told = world.told_on(&format!("workspace:{workspace}")).await;
    let kinds: Vec<&str> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["task.created", "task.created", "task.state_changed", "task.changed", "task.state_changed"]);
    assert_eq!((&told[2].1["state"], &told[2].1["title"]), (&json!("done"), &json!("Beställ kaffe")));
}

/// WORK-7: who has left keeps what was theirs, and gets nothing new.
#[tokio::test]
async fn a_task_of_somebody_who_has_left_can_still_be_changed() {
    let world = World::new().await;
    let (anna, bo) = (world.somebody(Role::User).await, world.somebody(Role::User).await);
    let workspace = world.office(&[&anna, &bo]).await;
    let tasks = format!("/api/v1/workspaces/{workspace}/tasks");
    let task = world.created(&anna, &tasks, json!({"title": "x", "assignee_id": bo.id})).await;
    let path = format!("/api/v1/tasks/{}", task["id"].as_str().unwrap());
    let mut tx = tenant::begin(&world.app.db, &world.acme).await.unwrap();
    assert!(workspaces::remove_member(&mut tx, workspace, bo.id).await.unwrap());
    tx.commit().await.unwrap();

    let done = world.as_(&anna, Method::PATCH, &path, Some(json!({"state": "done"}))).await.json();
    assert_eq!((&done["state"], &done["assignee_id"]), (&json!("done"), &json!(bo.id)));
    let new = world.as_(&anna, Method::POST, &tasks, Some(json!({"title": "y", "assignee_id": bo.id}))).await;
    assert_eq!(new.problem(422, "validation"), ["assignee_id invalid"]);
}

/// API-3, WORK-7
#[tokio::test]
async fn a_message_that_is_sent_twice_with_one_key_is_said_once() {
    let world = World::new().await;
    let anna = world.somebody(Role::User).await;
    let workspace = world.office(&[&anna]).await;
    let conversation =
        world.created(&anna, &format!("/api/v1/workspaces/{workspace}/conversations"), json!({"message": "ett"})).await;
    let path = format!("/api/v1/conversations/{}/messages", conversation["id"].as_str().unwrap());
    let say = || {
        let headers = [("idempotency-key", "said-once")];
        world.send(request(Method::POST, &path, &anna.token, &headers, Some(json!({"body": "två"}))))
    };

    let (first, second) = (say().await, say().await);

    assert_eq!((first.status, &first.text), (StatusCode::CREATED, &second.text));
    assert_eq!(second.header("idempotency-replayed"), "true");
    let page = world.seen_by(&anna, &path).await;
    assert_eq!(page["messages"].as_array().unwrap().len(), 2);
}

/// WORK-7, WORK-8: many at once lose no message, and ask for one name.
#[tokio::test]
async fn messages_at_the_same_time_have_places_of_their_own() {
    let world = World::new().await;
    let (anna, bo) = (world.somebody(Role::User).await, world.somebody(Role::User).await);
    let workspace = world.office(&[&anna, &bo]).await;
    let conversation = world.created(&anna, &format!("/api/v1/workspaces/{workspace}/conversations"), json!({})).await;
    let path = format!("/api/v1/conversations/{}/messages", conversation["id"].as_str().unwrap());

    let says =
        (0..20).map(|n| world.created(if n % 2 == 0 { &anna } else { &bo }, &path, json!({"body": format!("{n}")})));
    futures::future::join_all(says).await;

    let page = world.seen_by(&anna, &format!("{path}?limit=200")).await;
    let positions: Vec<u64> =
        page["messages"].as_array().unwrap().iter().map(|message| message["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (1..=20).collect::<Vec<_>>(), "in the order of their ids");
    let waiting = backroom_queue::testing::enqueued::<NameConversation>(&world.app.db).await.unwrap();
    assert_eq!(waiting.len(), 1);
}

/// TEN-5
#[tokio::test]
async fn in_a_suspended_organization_conversations_can_be_read_only() {
    let world = World::new().await;
    let anna = world.somebody(Role::User).await;
    let workspace = world.office(&[&anna]).await;
    let list = format!("/api/v1/workspaces/{workspace}/conversations");
    world.created(&anna, &list, json!({"message": "Hej"})).await;
    let suspended = crate::domain::BillingStatus::Suspended;
    tenant::set_billing_status(&world.app.db, &world.app.clock, &world.acme, suspended).await.unwrap();
    // Somebody whom no process remembers.
    let bo = world.somebody(Role::User).await;
    let mut tx = tenant::begin(&world.app.db, &world.acme).await.unwrap();
    workspaces::add_member(&mut tx, (workspace, bo.id), world.app.clock.now()).await.unwrap();
    tx.commit().await.unwrap();

    world.seen_by(&bo, &list).await;
    world.as_(&bo, Method::POST, &list, Some(json!({}))).await.problem(403, "organization-suspended");
}

/// WORK-7, API-3: a kept answer is only for who could be given it anew.
#[tokio::test]
async fn who_is_no_member_any_more_is_told_nothing_twice() {
    let world = World::new().await;
    let (anna, bo) = (world.somebody(Role::User).await, world.somebody(Role::User).await);
    let workspace = world.office(&[&anna, &bo]).await;
    let list = format!("/api/v1/workspaces/{workspace}/conversations");
    let conversation = world.created(&anna, &list, json!({"message": "Lunch?"})).await["id"].clone();
    let messages = format!("/api/v1/conversations/{}/messages", conversation.as_str().unwrap());
    let tasks = format!("/api/v1/workspaces/{workspace}/tasks");
    let asked = [
        (list.as_str(), json!({"message": "Secret"})),
        (messages.as_str(), json!({"body": "Secret"})),
        (tasks.as_str(), json!({"title": "Secret"})),
    ];
    let send = async |(path, body): &(&str, Value)| {
        let request = request(Method::POST, path, &bo.token, &[("idempotency-key", path)], Some(body.clone()));
        world.send(request).await
    };
    for question in &asked {
        assert_eq!(send(question).await.status, StatusCode::CREATED);
        assert_eq!(send(question).await.status, StatusCode::CREATED, "a replay");
    }
    let removed = format!("/api/v1/workspaces/{workspace}/members/{}", bo.id);
    assert!(world.as_(&anna, Method::DELETE, &removed, None).await.status.is_success());
    for question in &asked {
        let answer = send(question).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{}: {}", question.0, answer.text);
        assert!(!answer.text.contains("Secret"));
    }
}

/// WORK-7: ids come from several nodes, each with its own clock; a conversation is read in the order in which it was written.
#[tokio::test]
async fn messages_are_paged_by_their_positions() {
    let world = World::new().await;
    let anna = world.somebody(Role::User).await;
    let workspace = world.office(&[&anna]).await;
    let list = format!("/api/v1/workspaces/{workspace}/conversations");
    let id = world.created(&anna, &list, json!({"message": "1"})).await["id"].as_str().unwrap().to_owned();
    let messages = format!("/api/v1/conversations/{id}/messages");
    for n in 2..=5 {
        world.created(&anna, &messages, json!({"body": n.to_string()})).await;
    }
    // The second one's node was an hour behind.
    let sql = "update org_acme.messages set id = '00000000-0000-7000-8000-000000000001' where position = 2";
    sqlx::query(sql).execute(&world.app.db).await.unwrap();
    let (mut read, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.seen_by(&anna, &format!("{messages}?limit=2{cursor}")).await;
        read.extend(page["messages"].as_array().unwrap().iter().map(|m| m["body"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(read, ["1", "2", "3", "4", "5"]);
}
