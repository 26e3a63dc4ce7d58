//! What the operator does: organizations, queues, schedules.

use super::*;

/// TEN-1, TEN-2, TEN-5
#[tokio::test]
async fn the_operator_creates_suspends_and_activates() {
    let world = World::new().await;
    let body = json!({"slug": "initech", "name": "Initech AB", "tier": "pro", "time_zone": "Europe/Helsinki"});
    world.post("/api/v1/organizations", body.clone()).await.problem(403, "forbidden");
    let created = world.operate(Method::POST, "/api/v1/organizations", Some(body.clone())).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    assert_eq!(created.header("location"), "/api/v1/organizations/initech");
    assert_eq!((&created.json()["tier"], &created.json()["billing_status"]), (&json!("pro"), &json!("trial")));
    let taken = world.operate(Method::POST, "/api/v1/organizations", Some(body)).await;
    assert_eq!(taken.problem(409, "conflict"), ["slug taken"]);
    let bad = json!({"slug": "admin", "name": "", "time_zone": "Mars/Base", "settings": {"dunning_days": [3, 1]}});
    let bad = world.operate(Method::POST, "/api/v1/organizations", Some(bad)).await;
    let fields = bad.problem(422, "validation").join(" ");
    assert!(
        fields.contains("slug reserved") && fields.contains("time_zone") && fields.contains("settings.dunning_days"),
        "{fields}"
    );
    let listed = world.operate(Method::GET, "/api/v1/organizations?limit=1", None).await.json();
    assert_eq!(listed["organizations"].as_array().unwrap().len(), 1);
    assert!(listed["next_cursor"].is_string());
    world.operate(Method::GET, "/api/v1/organizations/nobody", None).await.problem(404, "not-found");
    world.operate(Method::GET, "/api/v1/jobs", None).await.problem(403, "forbidden");

    let job = world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.json()["id"].as_str().unwrap().to_owned();
    let suspended = world.operate(Method::POST, "/api/v1/organizations/acme/suspend", None).await;
    assert_eq!((suspended.status, &suspended.json()["jobs"]), (StatusCode::OK, &json!(1)), "{}", suspended.text);
    world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.problem(403, "organization-suspended");
    world.post("/api/v1/companies", company()).await.problem(403, "organization-suspended");
    assert_eq!(world.get(&format!("/api/v1/jobs/{job}")).await.json()["held"], true);
    let activated = world.operate(Method::POST, "/api/v1/organizations/acme/activate", None).await;
    assert_eq!(activated.json()["jobs"], 1);
    assert_eq!(world.post("/api/v1/jobs", json!({"kind": "debug.noop"})).await.status, StatusCode::ACCEPTED);
}

/// CRON-6, PLAT-13
#[tokio::test]
async fn the_operator_looks_at_queues_and_schedules_and_pauses_them() {
    let world = World::new().await;
    world.get("/api/v1/queues").await.problem(403, "forbidden");
    assert_eq!(world.operate(Method::POST, "/api/v1/queues/mailers/pause", None).await.status, StatusCode::NO_CONTENT);
    let queues = world.operate(Method::GET, "/api/v1/queues", None).await.json();
    let mailers = queues["queues"].as_array().unwrap().iter().find(|queue| queue["queue"] == "mailers").cloned();
    assert_eq!(mailers.unwrap()["paused"], true, "{queues}");
    assert_eq!(world.operate(Method::POST, "/api/v1/queues/mailers/resume", None).await.status, StatusCode::NO_CONTENT);
    world.operate(Method::POST, "/api/v1/queues/nowhere/pause", None).await.problem(422, "validation");

    let next =
        world.operate(Method::GET, "/api/v1/schedules/sweep/next?limit=2&time_zone=Europe/Stockholm", None).await;
    assert_eq!(next.json()["firings"].as_array().map(Vec::len), Some(2), "{}", next.text);
    assert_eq!(world.operate(Method::POST, "/api/v1/schedules/sweep/pause", None).await.status, StatusCode::NO_CONTENT);
    let listed = world.operate(Method::GET, "/api/v1/schedules", None).await.json();
    assert_eq!((&listed["schedules"][0]["name"], &listed["schedules"][0]["paused"]), (&json!("sweep"), &json!(true)));
    let run = world.operate(Method::POST, "/api/v1/schedules/sweep/run", None).await;
    assert_eq!((run.status, run.json()["jobs"].as_array().unwrap().len()), (StatusCode::ACCEPTED, 1), "{}", run.text);
    assert_eq!(
        world.operate(Method::POST, "/api/v1/schedules/sweep/resume", None).await.status,
        StatusCode::NO_CONTENT
    );
    world.operate(Method::POST, "/api/v1/schedules/none/run", None).await.problem(404, "not-found");
}

/// PLAT-8
#[tokio::test]
async fn the_operator_limits_a_queue_and_what_is_no_limit_is_refused() {
    let world = World::new().await;
    let limits = "/api/v1/queues/invoices/limits";
    world.send(request(Method::PUT, limits, &world.key, &[], Some(json!({})))).await.problem(403, "forbidden");
    let set = world.operate(Method::PUT, limits, Some(json!({"max_running": 20, "max_running_per_tenant": 2}))).await;
    assert_eq!(set.status, StatusCode::OK, "{}", set.text);
    let of_invoices = async || {
        let queues = world.operate(Method::GET, "/api/v1/queues", None).await.json();
        let found = queues["queues"].as_array().unwrap().iter().find(|queue| queue["queue"] == "invoices").cloned();
        found.unwrap_or_else(|| panic!("{queues}"))
    };
    let queue = of_invoices().await;
    assert_eq!((&queue["max_running"], &queue["max_running_per_tenant"]), (&json!(20), &json!(2)));
    assert_eq!(queue["capped"], false);

    for (body, fields) in [
        (json!({"max_running": 0}), vec!["max_running out_of_range"]),
        (
            json!({"max_running": -3, "max_running_per_tenant": 2_147_483_648_i64}),
            vec!["max_running out_of_range", "max_running_per_tenant out_of_range"],
        ),
        (json!({"max_running": "many"}), vec!["max_running invalid"]),
        (json!({"max_running": 1.5}), vec!["max_running invalid"]),
        (json!({"max": 1}), vec!["max unknown_field"]),
    ] {
        let refused = world.operate(Method::PUT, limits, Some(body.clone())).await;
        assert_eq!(refused.problem(422, "validation"), fields, "{body}");
    }
    let nowhere = world.operate(Method::PUT, "/api/v1/queues/nowhere/limits", Some(json!({"max_running": 1}))).await;
    assert_eq!(nowhere.problem(422, "validation"), ["name unknown"]);
    assert_eq!(of_invoices().await["max_running"], 20, "what was refused changed nothing");

    assert_eq!(world.operate(Method::PUT, limits, Some(json!({"max_running": 5}))).await.status, StatusCode::OK);
    let queue = of_invoices().await;
    assert_eq!((&queue["max_running"], &queue["max_running_per_tenant"]), (&json!(5), &Value::Null));
}

/// PLAT-10
#[tokio::test]
async fn the_operator_sets_and_forgets_rate_limits_whatever_their_keys_are_made_of() {
    let world = World::new().await;
    let path = |key: &str| format!("/api/v1/rate-limits/{key}");
    let figures = json!({"permits": 400, "period_s": 60});
    world
        .send(request(Method::PUT, &path("k"), &world.key, &[], Some(figures.clone())))
        .await
        .problem(403, "forbidden");
    for (encoded, key) in [("quickbooks%3A1%2Feu", "quickbooks:1/eu"), ("quickbooks:2", "quickbooks:2"), ("a%25", "a%")]
    {
        let set = world.operate(Method::PUT, &path(encoded), Some(figures.clone())).await;
        assert_eq!((set.status, &set.json()["key"]), (StatusCode::OK, &json!(key)), "{}", set.text);
        assert_eq!((&set.json()["permits"], &set.json()["fixed"]), (&json!(400), &json!(true)));
    }
    let keys = |page: &Value| {
        let rates = page["rate_limits"].as_array().unwrap().iter();
        rates.map(|rate| rate["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let page = world.operate(Method::GET, "/api/v1/rate-limits?prefix=quickbooks:&limit=1", None).await.json();
    assert_eq!(keys(&page), ["quickbooks:1/eu"]);
    let next =
        format!("/api/v1/rate-limits?prefix=quickbooks:&limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
    let page = world.operate(Method::GET, &next, None).await.json();
    assert_eq!((keys(&page), &page["next_cursor"]), (vec!["quickbooks:2".to_owned()], &Value::Null));

    for (body, fields) in [
        (json!({"permits": 0, "period_s": 60}), vec!["permits out_of_range"]),
        (json!({"permits": -1, "period_s": 0}), vec!["permits out_of_range", "period_s out_of_range"]),
        (json!({"permits": 1, "period_s": 86_401}), vec!["period_s out_of_range"]),
        (json!({"permits": 1, "period_s": 5e-324}), vec!["period_s out_of_range"]),
        (json!({"permits": 1}), vec!["period_s required"]),
    ] {
        let refused = world.operate(Method::PUT, &path("k"), Some(body.clone())).await;
        assert_eq!(refused.problem(422, "validation"), fields, "{body}");
    }
    let long = world.operate(Method::PUT, &path(&"k".repeat(256)), Some(figures)).await;
    assert_eq!(long.problem(422, "validation"), ["key out_of_range"]);

    let forget = path("quickbooks%3A1%2Feu");
    assert_eq!(world.operate(Method::DELETE, &forget, None).await.status, StatusCode::NO_CONTENT);
    world.operate(Method::DELETE, &forget, None).await.problem(404, "not-found");
}
