//! What is wrong is refused by name, and leaves nothing behind.

use backroom::tenant::testing::TestDatabase;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Program,
    api::{Answer, World},
    count, until,
};

/// The rows of the queue, the control plane and the organization, all tables together.
async fn rows(world: &World) -> i64 {
    count(
        &world.database.pool,
        "select sum((xpath('/row/c/text()', query_to_xml(format('select count(*) as c from %I.%I', table_schema, table_name),
                    false, true, '')))[1]::text::bigint)::bigint
         from information_schema.tables
         where table_schema in ('queue', 'public', 'org_acme') and table_type = 'BASE TABLE'",
    )
    .await
}

fn company(change: (&str, Value)) -> Value {
    let mut company = json!({ "name": "Kund AB", "email": "kund@example.se", "org_number": "556194-7986" });
    company[change.0] = change.1;
    company
}

/// An invoice of one item; a change's path is a pointer (RFC 6901).
fn invoice(company: &str, (path, value): (&str, Value)) -> Value {
    let mut invoice = json!({
        "number": "2026-1", "company_id": company, "status": "unpaid", "currency": "SEK", "issue_date": "2026-01-01",
        "due_date": "2026-01-31", "payment_terms_days": 30, "notes": "-",
        "items": [{ "description": "Arbete", "quantity": "1", "unit_price": "100.50", "tax_rate": "0.25" }],
    });
    *invoice.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = value;
    invoice
}

/// API-4, BILL-1, BILL-3, PLAT-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_is_not_right_is_named_and_nothing_is_written() {
    let world = World::new("server").await;
    let api = &world.api;
    let stored = api.post("/api/v1/companies", &company(("phone", json!("070-123 45 67")))).await;
    assert_eq!(stored.status, 201, "{}", stored.text);
    let stored = stored.json()["id"].as_str().expect("an id").to_owned();
    let before = rows(&world).await;

    let long = |n| json!("x".repeat(n));
    let mut cases: Vec<(&str, Value, &[&str])> = vec![
        ("jobs", json!({ "kind": "billing.remind" }), &["kind unknown"]),
        ("jobs", json!({ "kind": "debug.noop\u{0}" }), &["kind unknown"]),
        ("jobs", json!({ "kind": "x".repeat(100_000) }), &["kind unknown"]),
        ("jobs", json!({ "kind": "debug.sleep", "args": { "ms": "long" } }), &["args.ms invalid"]),
        ("jobs", json!({ "kind": "debug.sleep", "args": { "ms": -1 } }), &["args.ms invalid"]),
        ("jobs", json!({ "kind": "debug.sleep", "args": { "ms": 1e300 } }), &["args.ms invalid"]),
        ("jobs", json!({ "kind": "debug.sleep" }), &["args.ms required"]),
        ("jobs", json!({ "kind": "debug.noop", "args": { "x": 1 } }), &["args.x unknown_field"]),
        ("jobs", json!({ "kind": "debug.noop", "args": null }), &["args invalid"]),
        ("jobs", json!({ "kind": "debug.noop", "args": [] }), &["args invalid"]),
        ("jobs", json!({ "kind": "debug.append", "args": { "path": "p", "line": "a\u{0}b" } }), &["args.line invalid"]),
        ("jobs", json!({ "kind": "debug.noop", "Priority": 1 }), &["Priority unknown_field"]),
        ("jobs", json!({ "kind": "debug.noop", "priority": 32768 }), &["priority invalid"]),
        ("jobs", json!({ "kind": "debug.noop", "run_at": "2026-02-30T00:00:00Z" }), &["run_at invalid"]),
        ("jobs", json!({ "kind": "debug.noop", "run_at": "2026-02-20" }), &["run_at invalid"]),
        ("jobs", json!({ "kind": "debug.noop", "run_at": "2999-01-01T00:00:00Z" }), &["run_at out_of_range"]),
        ("jobs", json!({ "kind": "debug.noop", "max_attempts": 1001 }), &["max_attempts out_of_range"]),
        ("jobs", json!({ "kind": "debug.noop", "queue": "Default" }), &["queue unknown"]),
        ("jobs", json!({ "kind": "debug.noop", "unique_key": "🚚".repeat(64) }), &["unique_key out_of_range"]),
        (
            "jobs",
            json!({ "kind": "billing.remind_invoice", "args": { "invoice_id": "17", "stage": 1 } }),
            &["args.invoice_id invalid"],
        ),
        ("companies", company(("email", json!("kund"))), &["email invalid"]),
        ("companies", company(("email", json!("a@b.se\r\nBcc: all@b.se"))), &["email invalid"]),
        ("companies", company(("org_number", json!("123456-7890"))), &["org_number invalid"]),
        ("companies", company(("org_number", json!("556194798６"))), &["org_number invalid"]),
        ("companies", company(("phone", json!("call me"))), &["phone invalid"]),
        ("companies", company(("language", json!("no"))), &["language invalid"]),
        ("companies", company(("name", json!(""))), &["name required"]),
        ("companies", company(("name", json!("a\nb"))), &["name invalid"]),
        ("companies", company(("name", long(201))), &["name too_long"]),
        ("companies", company(("contact", json!({ "mail": "x" }))), &["contact.mail unknown_field"]),
        ("invoices", invoice("17", ("/number", json!("1"))), &["company_id invalid"]),
        ("invoices", invoice(&Uuid::now_v7().to_string(), ("/number", json!("1"))), &["company_id unknown"]),
    ];
    for (path, value, fields) in [
        ("/number", json!(""), &["number required"]),
        ("/number", long(51), &["number too_long"]),
        ("/status", json!("paid"), &["status invalid"]),
        ("/currency", json!("KRONOR"), &["currency invalid"]),
        ("/currency", json!("XXQ"), &["currency invalid"]),
        ("/issue_date", json!("2026-02-30"), &["issue_date invalid"]),
        ("/issue_date", json!("01/02/2026"), &["issue_date invalid"]),
        ("/due_date", json!("2025-12-31"), &["due_date out_of_range"]),
        ("/payment_terms_days", json!(-1), &["payment_terms_days out_of_range"]),
        ("/payment_terms_days", json!(366), &["payment_terms_days out_of_range"]),
        ("/notes", json!("a\u{0}"), &["notes invalid"]),
        ("/items", json!([]), &["items out_of_range"]),
        ("/items/0/description", long(501), &["items[0].description too_long"]),
        ("/items/0/quantity", json!("1,5"), &["items[0].quantity invalid"]),
        ("/items/0/unit_price", json!("0.00001"), &["items[0].unit_price invalid"]),
        ("/items/0/tax_rate", json!("25"), &["items[0].tax_rate out_of_range"]),
    ] {
        cases.push(("invoices", invoice(&stored, (path, value)), fields));
    }
    // Too much by itself, and times the price.
    let much = invoice(&stored, ("/items/0/quantity", json!("99999999999999")));
    cases.push(("invoices", much, &["items[0].quantity out_of_range"; 2]));
    let mut wrong = Vec::new();
    for (path, body, fields) in cases {
        let answer = api.post(&format!("/api/v1/{path}"), &body).await;
        let named = if answer.status == 422 { answer.problem(422, "validation") } else { vec![answer.text] };
        if named != fields {
            wrong.push(format!("{path} {:.150}\n    answered {named:.200?}, not {fields:?}", body.to_string()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(rows(&world).await, before, "something was written");

    let good = api.post("/api/v1/invoices", &invoice(&stored, ("/notes", json!("Åäö 🚚")))).await;
    assert_eq!((good.status, &good.json()["total"]), (201, &json!("125.63")), "{}", good.text);
    let again = api.post("/api/v1/invoices", &invoice(&stored, ("/notes", json!("-")))).await;
    assert_eq!(again.problem(409, "conflict"), ["number taken"]);
    let id = good.json()["id"].as_str().expect("an id").to_owned();
    for (body, field) in [
        (json!({ "paid_on": "2999-01-01" }), "paid_on out_of_range"),
        (json!({ "paid_on": "yesterday" }), "paid_on invalid"),
        (json!({ "paid": "2026-01-01" }), "paid unknown_field"),
    ] {
        assert_eq!(
            api.post(&format!("/api/v1/invoices/{id}/mark-paid"), &body).await.problem(422, "validation"),
            [field]
        );
    }
    world.close().await;
}

/// API-4, API-9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_or_a_body_that_makes_no_sense_is_a_problem() {
    let world = World::new("server").await;
    let api = &world.api;
    let before = rows(&world).await;
    for path in ["/api/v1/jobs/17", "/api/v1/companies/%00", "/api/v1/invoices/01980a3c-4f00-7000-8000-00000000000g"] {
        assert_eq!(api.get(path).await.problem(422, "validation"), ["id invalid"], "{path}");
    }
    for (query, field) in [
        ("jobs?cursor=abc", "cursor invalid"),
        ("jobs?cursor=eyJ2IjoxfQ", "cursor invalid"),
        ("jobs?cursor=", "cursor invalid"),
        ("jobs?limit=201", "limit invalid"),
        ("jobs?state=done", "state invalid"),
        ("jobs?page=2", "page unknown_field"),
        ("companies?email=nobody", "email invalid"),
        ("companies?org_number=123456-7890", "org_number invalid"),
        ("companies?q=%00", "q invalid"),
        ("invoices?company_id=17", "company_id invalid"),
        ("invoices?overdue=perhaps", "overdue invalid"),
        ("invoices?status=late", "status invalid"),
        ("invoices?sort=amount", "sort invalid"),
    ] {
        assert_eq!(api.get(&format!("/api/v1/{query}")).await.problem(422, "validation"), [field], "{query}");
    }
    api.get("/api/v1/nothing").await.problem(404, "not-found");
    api.send(Method::PUT, "/api/v1/jobs", &[], "").await.problem(405, "method-not-allowed");

    let deep = format!("{{\"kind\":\"debug.noop\",\"args\":{}{}}}", "[".repeat(500), "]".repeat(500));
    let bodies: [&[u8]; 7] = [
        b"",
        b"{",
        b"{\"kind\":}",
        b"{\"kind\":\"debug.noop\"} {}",
        b"{\"kind\":\"\\ud800\"}",
        b"{\"kind\":\"\xff\"}",
        deep.as_bytes(),
    ];
    for body in bodies {
        let json = [("content-type", "application/json")];
        let answer = api.send(Method::POST, "/api/v1/jobs", &json, body.to_vec()).await;
        answer.problem(400, "malformed-body");
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    api.send(Method::POST, "/api/v1/jobs", &form, "kind=debug.noop").await.problem(415, "unsupported-media-type");
    let twice = [("content-type", "application/json")];
    let twice = api.send(Method::POST, "/api/v1/jobs", &twice, r#"{"kind":"debug.noop","kind":"debug.panic"}"#).await;
    assert_eq!(twice.status, 422, "{}", twice.text);
    for key in ["", &"x".repeat(256)] {
        let answer = api.post_with("/api/v1/jobs", &[("Idempotency-Key", key)], &json!({ "kind": "debug.noop" })).await;
        assert_eq!(answer.problem(422, "validation"), ["Idempotency-Key invalid"]);
    }
    assert_eq!(rows(&world).await, before, "something was written");
    world.close().await;
}

/// API-4, API-6: and the client gets to read the refusal, however much it was about to send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused() {
    let world = World::new("server").await;
    let job = |bytes: usize| json!({ "kind": "debug.append", "args": { "path": "p", "line": "x".repeat(bytes) } });
    let before = rows(&world).await;
    for bytes in [1 << 20, 5 << 20, 40 << 20] {
        world.api.post("/api/v1/jobs", &job(bytes)).await.problem(413, "body-too-large");
    }
    for bytes in [17 << 20, 40 << 20] {
        world.api.post("/api/v1/jobs/bulk", &json!({ "jobs": [job(bytes)] })).await.problem(413, "body-too-large");
        world.api.import(vec![b'x'; bytes]).await.problem(413, "body-too-large");
    }
    assert_eq!(rows(&world).await, before);
    assert_eq!(world.api.post("/api/v1/jobs", &job(1_000_000)).await.status, 202);
    world.close().await;
}

/// API-2, API-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_with_bad_entries_enqueues_nothing_and_names_each() {
    let world = World::new("server").await;
    let before = rows(&world).await;
    let mut jobs = vec![json!({ "kind": "debug.noop" }); 1000];
    jobs[7] = json!({ "kind": "debug.nop" });
    jobs[500] = json!({ "kind": "debug.sleep", "args": { "ms": [] } });
    jobs[998] = json!({ "kind": "debug.noop", "queue": "q", "max_attempts": 0 });
    jobs[999] = json!("debug.noop");
    let refused = world.api.post("/api/v1/jobs/bulk", &json!({ "jobs": jobs })).await;
    let expected = [
        "jobs[7].kind unknown",
        "jobs[500].args.ms invalid",
        "jobs[998].queue unknown",
        "jobs[998].max_attempts out_of_range",
        "jobs[999] invalid",
    ];
    assert_eq!(refused.problem(422, "validation"), expected);
    for jobs in [json!([]), json!(vec![json!({ "kind": "debug.noop" }); 10_001])] {
        let refused = world.api.post("/api/v1/jobs/bulk", &json!({ "jobs": jobs })).await;
        assert_eq!(refused.problem(422, "validation"), ["jobs out_of_range"]);
    }
    assert_eq!(world.api.post("/api/v1/jobs/bulk", &json!({})).await.problem(422, "validation"), ["jobs required"]);
    assert_eq!(rows(&world).await, before);
    world.close().await;
}

/// PLAT-2: rows that no door of this version would let in, as another version or a hand may leave them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_no_worker_understands_is_discarded_and_the_worker_goes_on() {
    let database = TestDatabase::new().await;
    database.organization("acme").await;
    for (kind, tenant, args) in [
        ("billing.retired", Some("acme"), "{}"),
        ("", None, "{}"),
        ("debug.sleep", None, r#"{"ms": "long"}"#),
        ("debug.sleep", None, "null"),
        ("debug.noop", None, "[1, 2]"),
        ("billing.remind_invoice", Some("acme"), r#"{"invoice_id": "17", "stage": 1}"#),
        (
            "billing.remind_invoice",
            Some("acme"),
            r#"{"invoice_id": "01980a3c-4f00-7000-8000-000000000000", "stage": -1}"#,
        ),
        ("debug.noop", None, "{}"),
    ] {
        sqlx::query(
            "insert into queue.jobs (id, queue, kind, tenant, state, run_at, max_attempts, args)
             values ($1, 'default', $2, $3, 'available', now(), 5, $4::jsonb)",
        )
        .bind(Uuid::now_v7())
        .bind(kind)
        .bind(tenant)
        .bind(args)
        .execute(&database.pool)
        .await
        .expect("a row");
    }
    let program = Program::on(&database.url());
    let mut worker = program.start(&["worker"]);
    until(&database.pool, "select count(*) from queue.jobs", 0).await;
    let discarded = program.json(&["job", "list", "--state", "discarded"]).await;
    let discarded = discarded["jobs"].as_array().expect("jobs");
    assert_eq!(discarded.len(), 7, "{discarded:#?}");
    for job in discarded {
        let (kind, reason) = (job["kind"].as_str().expect("a kind"), job["reason"].as_str().expect("a reason"));
        let words = if ["billing.retired", ""].contains(&kind) { "kind" } else { "arguments" };
        assert!(reason.contains(words), "{kind}: {reason}");
        assert_eq!(job["attempt"], 1, "not tried again: {job}");
    }
    until(&database.pool, "select count(*) from queue.finished_jobs where state = 'completed'", 1).await;
    worker.assert_running();
    worker.stop().await;
    database.close().await.expect("dropped");
}

const HEADER: &str = "number,org_number,company_name,company_email,language,issue_date,due_date,currency,description,quantity,unit_price,tax_rate";

/// `line field` of each line that was not imported.
fn report(answer: &Answer) -> (u64, Vec<String>) {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let report = answer.json();
    let errors = report["errors"].as_array().expect("errors").iter();
    let named = errors.map(|e| format!("{} {}", e["line"], e["field"].as_str().expect("a field"))).collect();
    (report["imported"].as_u64().expect("a count"), named)
}

/// BILL-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_bad_lines_brings_in_the_good_ones_and_names_the_bad() {
    let world = World::new("server").await;
    let (api, pool) = (&world.api, &world.database.pool);
    let line = |number: &str, item: &str| {
        format!("{number},556194-7986,Kund AB,kund@example.se,sv,2026-01-01,2026-01-31,SEK,{item}\n")
    };
    for (file, words) in [
        (String::new(), "empty"),
        ("nummer,belopp\n1,2\n".to_owned(), "nummer"),
        (HEADER.replace("quantity", "antal"), "antal"),
        (format!("{HEADER},number\n"), "repeated"),
        (format!("{}\n", HEADER.replace(',', "\t")), "missing"),
    ] {
        let refused = api.import(file.clone()).await;
        assert_eq!(refused.problem(422, "validation"), ["body invalid"], "{file}");
        assert!(refused.text.contains(words), "{file}: {}", refused.text);
    }
    assert_eq!(api.import(b"number,\xff\n".to_vec()).await.problem(422, "validation"), ["body invalid"]);
    assert_eq!(count(pool, "select count(*) from org_acme.companies").await, 0);

    let file = [
        format!("\u{feff}{HEADER}\r\n"),
        line("A-1", "\"Arbete, \"\"natt\"\"\",2,100.00,0.25"),
        line("A-1", "Resa,1,50.00,0.06"),
        line("A-2", "Arbete,två,100.00,0.25"),
        line("A-3", "Arbete,1,100.00,0.25").replace("556194-7986", "123456-7890"),
        line("A-4", "Arbete,1,100.00,0.25").replace("2026-01-31", "2026-02-30"),
        line("A-5", "Arbete,1,100.00,0.25").replace("kund@", "kund"),
        line("A-6", "Arbete,1,100.00,0.25").replace("SEK", "KR"),
        line("A-7", "Arbete,1,100.00"),
        line("A-1", "Mer,1,1.00,0.25"),
        line("A-8", "Arbete,1,100.00,0.25"),
        line("A-8", "Arbete,1,100.00,0.25"),
        line("A-9", "Arbete,1,100.00,0.25").replace("2026-01-31", "2025-12-31"),
        "\r\n".to_owned(),
    ]
    .concat();
    let (imported, named) = report(&api.import(file.clone()).await);
    let expected = [
        "2 number",
        "4 quantity",
        "5 org_number",
        "6 due_date",
        "7 company_email",
        "8 currency",
        "9 line",
        "10 number",
        "12 line",
        "13 due_date",
    ];
    assert_eq!((imported, named), (1, expected.map(str::to_owned).to_vec()));
    assert_eq!(count(pool, "select count(*) from org_acme.invoices where number = 'A-8'").await, 1);

    // Semicolons with decimal commas, as Swedish spreadsheets write them; and the one that was there already.
    let swedish = [
        format!("{}\r\n", HEADER.replace(',', ";")),
        "B-1;556194-7986;Kund AB;kund@example.se;sv;2026-01-01;2026-01-31;SEK;Arbete;1,5;1\u{a0}000,00;0,25\r\n"
            .to_owned(),
        "A-8;556194-7986;Kund AB;kund@example.se;sv;2026-01-01;2026-01-31;SEK;Arbete;1;100,00;0,25\r\n".to_owned(),
        "A-8;556194-7986;Kund AB;kund@example.se;sv;2026-01-01;2026-01-31;SEK;Annat;1;100,00;0,25\r\n".to_owned(),
    ]
    .concat();
    let answer = api.import(swedish).await;
    let (imported, named) = report(&answer);
    assert_eq!((imported, named), (1, vec!["3 number".to_owned()]), "{}", answer.text);
    let total = "select (total * 100)::bigint from org_acme.invoices where number = 'B-1'";
    assert_eq!(count(pool, total).await, 187_500);

    // The same from the command line, which tells by its exit code.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("invoices.csv");
    std::fs::write(&path, file).expect("written");
    let path = path.to_str().expect("a path");
    let again = world.program.run(&["invoice", "import", path, "--org", "acme", "--json"]).await;
    assert_eq!(again.code, Some(1), "{}", again.stderr);
    let again: Value = serde_json::from_str(&again.stdout).expect("JSON");
    assert_eq!((&again["imported"], &again["unchanged"]), (&json!(0), &json!(1)));
    assert_eq!(again["errors"].as_array().map(Vec::len), Some(10));
    assert_eq!(count(pool, "select count(*) from org_acme.invoices").await, 2);
    world.close().await;
}
