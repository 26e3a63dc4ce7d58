//! Companies, invoices, imports.

use super::*;

/// BILL-1, VAULT-1, VAULT-3, VAULT-4
#[tokio::test]
async fn a_company_is_stored_sealed_and_given_back_in_clear() {
    let world = World::new().await;
    let id = world.company().await;
    let shown = world.get(&format!("/api/v1/companies/{id}")).await.json();
    assert_eq!((&shown["phone"], &shown["contact"]["name"]), (&json!("+46701234567"), &json!(PLANTED)));
    assert_eq!(shown["org_number"], "556194-7986");

    let mut dump = String::new();
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&world.app.db)
    .await
    .unwrap();
    for table in tables {
        let rows = format!("select coalesce(string_agg(t::text, ' '), '') from {table} t");
        dump += &sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(rows)).fetch_one(&world.app.db).await.unwrap();
    }
    let hex: String = PLANTED.bytes().map(|b| format!("{b:02x}")).collect();
    assert!(
        !dump.contains(PLANTED) && !dump.contains(&hex) && !dump.contains("46701234567"),
        "a secret lies in a table"
    );

    let change = |body: Value| request(Method::PATCH, &format!("/api/v1/companies/{id}"), &world.key, &[], Some(body));
    let changed = world.send(change(json!({"name": "Nordlys AB", "contact": null}))).await.json();
    assert_eq!(
        (&changed["name"], &changed["contact"], &changed["phone"]),
        (&json!("Nordlys AB"), &json!(null), &json!("+46701234567"))
    );
    assert_eq!(world.send(change(json!({"phone": "x"}))).await.problem(422, "validation"), ["phone invalid"]);

    for (query, found) in [
        ("q=nordl", 1),
        ("email=ekonomi@nordlys.example", 1),
        ("phone=%2B46701234567", 1),
        ("org_number=5561947986", 1),
        ("q=other", 0),
    ] {
        let page = world.get(&format!("/api/v1/companies?{query}")).await.json();
        assert_eq!(page["companies"].as_array().unwrap().len(), found, "{query}");
    }
    assert_eq!(world.get("/api/v1/companies?email=x").await.problem(422, "validation"), ["email invalid"]);

    let wrong = json!({"name": "", "email": "nobody", "org_number": "123456-7890", "phone": "1"});
    let fields = world.post("/api/v1/companies", wrong).await.problem(422, "validation");
    assert_eq!(fields[..2], ["email invalid", "org_number invalid"], "{fields:?}");
    assert_eq!(world.post("/api/v1/companies", company()).await.problem(409, "conflict"), ["org_number taken"]);
}

/// BILL-3, BILL-7
#[tokio::test]
async fn an_invoice_is_computed_by_the_server_listed_paid_and_cancelled() {
    let world = World::new().await;
    let company = world.company().await;
    let created = world.post("/api/v1/invoices", invoice(company, "2026-1")).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    let body = created.json();
    assert_eq!(
        (&body["subtotal"], &body["tax"], &body["total"]),
        (&json!("1825.10"), &json!("437.26"), &json!("2262.36"))
    );
    let path = created.header("location").to_owned();
    assert_eq!(world.get(&path).await.json(), body);

    for (query, found) in [
        ("overdue=true", 1),
        ("status=unpaid", 1),
        ("status=paid", 0),
        ("number=2026-1", 1),
        ("reminder_failed=true", 0),
        ("sort=created_desc", 1),
    ] {
        let page = world.get(&format!("/api/v1/invoices?{query}")).await;
        assert_eq!(page.json()["invoices"].as_array().map(Vec::len), Some(found), "{query} {}", page.text);
    }
    for (query, error) in [
        ("status=late", "status invalid"),
        ("company_id=7", "company_id invalid"),
        ("overdue=1", "overdue invalid"),
        ("sort=x", "sort invalid"),
    ] {
        assert_eq!(world.get(&format!("/api/v1/invoices?{query}")).await.problem(422, "validation"), [error]);
    }

    world.post(&format!("{path}/clear-reminder-failure"), json!({})).await.problem(409, "conflict");
    let future = world.post(&format!("{path}/mark-paid"), json!({"paid_on": "2999-01-01"})).await;
    assert_eq!(future.problem(422, "validation"), ["paid_on out_of_range"]);
    let paid = world.post(&format!("{path}/mark-paid"), json!({"paid_on": "2026-02-01"})).await;
    assert_eq!((&paid.json()["status"], &paid.json()["paid_on"]), (&json!("paid"), &json!("2026-02-01")));
    world.post(&format!("{path}/cancel"), json!({})).await.problem(409, "conflict");
    world.post(&format!("/api/v1/invoices/{}/cancel", Uuid::now_v7()), json!({})).await.problem(404, "not-found");

    assert_eq!(
        world.post("/api/v1/invoices", invoice(company, "2026-1")).await.problem(409, "conflict"),
        ["number taken"]
    );
    assert_eq!(
        world.post("/api/v1/invoices", invoice(Uuid::now_v7(), "2")).await.problem(422, "validation"),
        ["company_id unknown"]
    );
    for (field, value, error) in [
        ("currency", json!("KRONOR"), "currency"),
        ("issue_date", json!("2026-02-30"), "issue_date"),
        ("due_date", json!("2025-01-01"), "due_date"),
        ("items", json!([]), "items"),
        ("company_id", json!("7"), "company_id"),
        ("status", json!("paid"), "status"),
        ("total", json!("1"), "total"),
    ] {
        let mut wrong = invoice(company, "3");
        wrong[field] = value;
        let fields = world.post("/api/v1/invoices", wrong).await.problem(422, "validation");
        assert!(fields.iter().any(|named| named.starts_with(error)), "{field}: {fields:?}");
    }
    assert_eq!(world.get("/api/v1/invoices").await.json()["invoices"].as_array().unwrap().len(), 1);
}

/// BILL-4, BILL-10
#[tokio::test]
async fn a_file_is_imported_line_by_line_and_the_sweep_is_enqueued() {
    let world = World::new().await;
    let file = "number,org_number,company_name,company_email,language,issue_date,due_date,currency,description,quantity,unit_price,tax_rate\n\
        1,556194-7986,Nordlys AB,e@nordlys.example,sv,2026-01-01,2026-01-31,SEK,Work,1,100,0.25\n\
        2,123456-7890,Bad AB,e@bad.example,sv,2026-01-01,2026-01-31,SEK,Work,1,100,0.25\n";
    let import = |content_type: &'static str, body: String| {
        world.send(raw(Method::POST, "/api/v1/invoices/import", &world.key, content_type, body))
    };
    let first = import("text/csv; charset=utf-8", file.to_owned()).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    let report = first.json();
    assert_eq!((&report["imported"], &report["unchanged"]), (&json!(1), &json!(0)), "{report}");
    assert_eq!((&report["errors"][0]["line"], &report["errors"][0]["field"]), (&json!(3), &json!("org_number")));
    let again = import("text/csv", file.to_owned()).await.json();
    assert_eq!((&again["imported"], &again["unchanged"]), (&json!(0), &json!(1)));
    assert_eq!(import("text/csv", "a,b\n".to_owned()).await.problem(422, "validation"), ["body invalid"]);
    import("application/json", "{}".to_owned()).await.problem(415, "unsupported-media-type");

    let swept = world.post("/api/v1/invoices/remind", json!({})).await;
    assert_eq!(swept.status, StatusCode::ACCEPTED, "{}", swept.text);
    assert_eq!(world.get(swept.header("location")).await.json()["kind"], "billing.sweep_overdue");
}

/// BILL-10, API-3: an import under a key holds two connections; many at once take turns and leave some to everybody else.
#[tokio::test]
async fn many_imports_at_once_do_not_use_the_pool_up() {
    let world = World::new().await;
    let file = "number,org_number,company_name,company_email,language,issue_date,due_date,currency,description,quantity,unit_price,tax_rate\n\
        1,556194-7986,Nordlys AB,e@nordlys.example,sv,2026-01-01,2026-01-31,SEK,Work,1,100,0.25\n";
    let imports = (0..8).map(|n| {
        let mut import = raw(Method::POST, "/api/v1/invoices/import", &world.key, "text/csv", file);
        import.headers_mut().insert("idempotency-key", format!("import-{n}").parse().unwrap());
        world.send(import)
    });
    let (answers, other) = futures::join!(futures::future::join_all(imports), world.get("/api/v1/companies"));
    assert_eq!(other.status, StatusCode::OK);
    let imported: u64 = answers
        .iter()
        .map(|answer| {
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
            answer.json()["imported"].as_u64().unwrap()
        })
        .sum();
    assert_eq!(imported, 1);
}
