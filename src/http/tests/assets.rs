//! Assets through the API.

use super::*;

struct Store<'a> {
    world: &'a World,
    asset: String,
    anna: String,
    bo: String,
}

fn laptop() -> Value {
    json!({
        "name": "MacBook Pro 14", "category": "laptop", "serial_number": "C02 XK1", "cost": "24995.50",
        "purchase_order": PLANTED, "purchased_on": "2020-01-01", "useful_life_months": 36,
    })
}

async fn posted(world: &World, path: &str, body: Value) -> String {
    let answer = world.post(path, body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    answer.json()["id"].as_str().unwrap().to_owned()
}

impl<'a> Store<'a> {
    async fn new(world: &'a World) -> Self {
        let asset = posted(world, "/api/v1/assets", laptop()).await;
        let anna = posted(world, "/api/v1/employees", json!({"first_name": "Anna"})).await;
        let bo = posted(world, "/api/v1/employees", json!({"first_name": "Bo"})).await;
        Self { world, asset, anna, bo }
    }

    async fn step(&self, verb: &str, body: Value) -> Answer {
        let headers = [("user-agent", "laptop-desk/1")];
        self.world.post_with(&format!("/api/v1/assets/{}/{verb}", self.asset), &headers, body).await
    }
}

/// ASSET-3
#[tokio::test]
async fn an_asset_is_stored_changed_found_and_listed() {
    let world = World::new().await;
    let made = world.post("/api/v1/assets", laptop()).await;
    let at = made.header("location").to_owned();
    let asset = made.json();
    assert_eq!(
        (&asset["tag"], &asset["status"], &asset["condition"]),
        (&json!("A-00001"), &json!("in_stock"), &json!("good"))
    );
    assert_eq!((&asset["cost"], &asset["book_value"]), (&json!("24995.50"), &json!("0.00")));
    let change = json!({"tag": "it-7", "serial_number": "c02xk2", "useful_life_months": null, "labels": ["it"]});
    let changed = world.send(request(Method::PATCH, &at, &world.key, &[], Some(change))).await.json();
    assert_eq!((&changed["tag"], &changed["book_value"]), (&json!("IT-7"), &json!("24995.50")));
    assert_eq!(world.get(&at).await.json(), changed);
    let second = json!({"name": "Screen", "status": "on_order", "tag": "IT-8"});
    assert_eq!(world.post("/api/v1/assets", second).await.status, StatusCode::CREATED);
    for (query, found) in [
        ("", 2),
        ("tag=it-7", 1),
        ("tag=it", 0),
        ("tag_prefix=it-", 2),
        ("serial=C02+XK2", 1),
        ("serial=C02XK1", 0),
        ("status=on_order", 1),
        ("category=laptop", 1),
        ("category=laptop&status=on_order", 0),
    ] {
        let page = world.get(&format!("/api/v1/assets?{query}")).await.json();
        assert_eq!(page["assets"].as_array().unwrap().len(), found, "{query}: {page}");
    }
    let page = world.get("/api/v1/assets?limit=1").await.json();
    let next = format!("/api/v1/assets?limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
    assert_eq!(world.get(&next).await.json()["assets"][0]["tag"], "IT-8");
}

/// ASSET-3, API-4
#[tokio::test]
async fn an_asset_that_cannot_be_is_refused_by_field() {
    let world = World::new().await;
    posted(&world, "/api/v1/assets", json!({"name": "One", "tag": "IT-1"})).await;
    for (body, status, kind, errors) in [
        (json!({}), 422, "validation", vec!["name required"]),
        (json!({"name": "A", "tag": "å"}), 422, "validation", vec!["tag invalid"]),
        (json!({"name": "A", "tag": "it-1"}), 409, "conflict", vec!["tag taken"]),
        (json!({"name": "A", "status": "assigned"}), 422, "validation", vec!["status invalid"]),
        (json!({"name": "A", "cost": "-1"}), 422, "validation", vec!["cost out_of_range"]),
        (json!({"name": "A", "currency": "kr"}), 422, "validation", vec!["currency invalid"]),
        (json!({"name": "A", "location_id": Uuid::now_v7()}), 422, "validation", vec!["location_id unknown"]),
        (json!({"name": "A", "employee_id": Uuid::now_v7()}), 422, "validation", vec!["employee_id unknown_field"]),
    ] {
        let answer = world.post("/api/v1/assets", body.clone()).await;
        assert_eq!(answer.problem(status, kind), errors, "{body}");
    }
}

/// ASSET-4
#[tokio::test]
async fn an_asset_goes_from_hand_to_hand_and_its_history_tells_who_and_from_where() {
    let world = World::new().await;
    let store = Store::new(&world).await;

    let given = store.step("assign", json!({"employee_id": store.anna, "note": "welcome"})).await.json();
    assert_eq!((&given["status"], &given["employee_id"]), (&json!("assigned"), &json!(store.anna)));
    let twice = store.step("assign", json!({"employee_id": store.bo})).await;
    twice.problem(409, "conflict");
    assert!(twice.json()["detail"].as_str().unwrap().contains("assigned already"));
    assert_eq!(store.step("transfer", json!({})).await.problem(422, "validation"), ["employee_id required"]);
    store.step("transfer", json!({"employee_id": store.bo})).await;
    store.step("status", json!({"status": "in_stock"})).await.problem(409, "conflict");
    let back = store.step("return", json!({"condition": "broken"})).await.json();
    assert_eq!(
        (&back["status"], &back["condition"], &back["employee_id"]),
        (&json!("in_stock"), &json!("broken"), &Value::Null)
    );
    let repaired = json!({"status": "in_repair", "amount": "1250.00"});
    assert_eq!(store.step("status", repaired).await.json()["status"], "in_repair");
    let nobody = store.step("assign", json!({"employee_id": Uuid::now_v7()})).await;
    assert_eq!(nobody.problem(422, "validation"), ["employee_id unknown"]);

    let history = world.get(&format!("/api/v1/assets/{}/history", store.asset)).await.json();
    let rows = history["transactions"].as_array().unwrap();
    let kinds: Vec<&str> = rows.iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["status_changed", "returned", "transferred", "assigned", "created"]);
    assert_eq!((&rows[0]["amount"], &rows[3]["note"]), (&json!("1250.00"), &json!("welcome")));
    assert_eq!((&rows[3]["user_agent"], &rows[1]["from_employee_id"]), (&json!("laptop-desk/1"), &json!(store.bo)));
    assert!(rows.iter().all(|row| row["actor"].as_str().unwrap().starts_with("api_key:")));
    for (role, sees) in [(Role::Admin, true), (Role::Developer, false), (Role::User, false)] {
        let someone = person_of(&world.app, &world.acme, role, None).await;
        let path = format!("/api/v1/assets/{}/history", store.asset);
        let shown = world.send(request(Method::GET, &path, &someone.token, &[], None)).await.json();
        assert_eq!(shown["transactions"][3]["note"] == "welcome", sees, "{role}: {shown}");
    }
    let of_anna = world.get(&format!("/api/v1/employees/{}/history", store.anna)).await.json();
    assert_eq!(of_anna["transactions"].as_array().unwrap().len(), 2);
    let page = world.get(&format!("/api/v1/assets/{}/history?limit=2", store.asset)).await.json();
    assert!(page["next_cursor"].is_string());
}

/// ASSET-3, ASSET-4, VAULT-4: a slip of the pen does not stay; what was said before is told by the history, sealed.
#[tokio::test]
async fn an_amount_is_corrected_and_its_history_says_so() {
    let world = World::new().await;
    let store = Store::new(&world).await;
    let path = format!("/api/v1/assets/{}", store.asset);
    let patch = async |body: Value| {
        let answer = world.send(request(Method::PATCH, &path, &world.key, &[], Some(body))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    };
    let told = async || -> Vec<(String, Value)> {
        let history = world.get(&format!("{path}/history")).await.json();
        let rows = history["transactions"].as_array().unwrap().iter();
        rows.map(|row| (row["kind"].as_str().unwrap().to_owned(), row["amount"].clone())).collect()
    };
    let corrected = patch(json!({"cost": "2499.55", "residual_value": "100.00", "name": "MacBook"})).await;
    assert_eq!((&corrected["cost"], &corrected["book_value"]), (&json!("2499.55"), &json!("100.00")));
    patch(json!({"cost": "2499.55", "name": "MacBook Pro"})).await;
    assert_eq!(patch(json!({"book_value": "777.01"})).await["book_value"], "777.01");
    assert_eq!(patch(json!({"book_value": null})).await["book_value"], "100.00", "computed again");
    let kinds = [
        ("book_value_changed", Value::Null),
        ("book_value_changed", json!("777.01")),
        ("residual_value_changed", json!("100.00")),
        ("cost_changed", json!("2499.55")),
        ("created", json!("24995.50")),
    ];
    assert_eq!(told().await, kinds.map(|(kind, amount)| (kind.to_owned(), amount)));
    let wrong = world.send(request(Method::PATCH, &path, &world.key, &[], Some(json!({"book_value": "-1"})))).await;
    assert_eq!(wrong.problem(422, "validation"), ["book_value out_of_range"]);
    let stored = "select string_agg(encode(amount, 'escape'), ' ') from org_acme.asset_transactions";
    let stored: String = sqlx::query_scalar(stored).fetch_one(&world.app.db).await.unwrap();
    assert!(!stored.contains("2499.55") && !stored.contains("777.01"), "{stored}");
}

/// ASSET-1
#[tokio::test]
async fn what_an_employee_holds_is_listed() {
    let world = World::new().await;
    let store = Store::new(&world).await;
    store.step("assign", json!({"employee_id": store.anna})).await;
    let held = |id: &str| format!("/api/v1/employees/{id}/assets");
    assert_eq!(world.get(&held(&store.anna)).await.json()["assets"][0]["id"], json!(store.asset));
    assert_eq!(world.get(&held(&store.bo)).await.json()["assets"], json!([]));
    world.get(&held(&Uuid::now_v7().to_string())).await.problem(404, "not-found");
}

/// ASSET-4: two requests for one asset at once.
#[tokio::test]
async fn of_two_requests_that_assign_an_asset_at_once_one_succeeds() {
    let world = World::new().await;
    let store = Store::new(&world).await;
    for _ in 0..5 {
        let (one, other) = tokio::join!(
            store.step("assign", json!({"employee_id": store.anna})),
            store.step("assign", json!({"employee_id": store.bo})),
        );
        let mut ends = [one.status.as_u16(), other.status.as_u16()];
        ends.sort_unstable();
        assert_eq!(ends, [200, 409], "{} {}", one.text, other.text);
        assert_eq!(store.step("return", json!({})).await.status, StatusCode::OK);
    }
}

/// AUTH-4, ASSET-3, ASSET-4
#[tokio::test]
async fn what_an_asset_cost_is_for_admins_developers_and_keys() {
    let world = World::new().await;
    let store = Store::new(&world).await;
    let paths = [
        format!("/api/v1/assets/{}", store.asset),
        "/api/v1/assets".to_owned(),
        format!("/api/v1/assets/{}/history", store.asset),
    ];
    let reader = key_of(&world.app, &world.acme, &[Scope::AssetsRead]).await;
    let mut askers = vec![(reader, true)];
    for (role, sees) in [(Role::Admin, true), (Role::Developer, true), (Role::User, false)] {
        askers.push((person_of(&world.app, &world.acme, role, None).await.token, sees));
    }
    for (token, sees) in askers {
        for path in &paths {
            let shown = world.send(request(Method::GET, path, &token, &[], None)).await;
            assert_eq!(shown.status, StatusCode::OK, "{}", shown.text);
            assert_eq!(shown.text.contains("24995.50"), sees, "{path}: {}", shown.text);
        }
        let shown = world.send(request(Method::GET, &paths[0], &token, &[], None)).await;
        assert_eq!((shown.text.contains(PLANTED), shown.json()["book_value"].is_string()), (sees, sees));
        assert_eq!(shown.json()["serial_number"], "C02 XK1");
    }
}
