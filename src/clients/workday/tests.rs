//! Against a Workday on loopback, and with answers of its shapes.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::{
    clients::{
        hris::testing::{Reading, connect, read, read_on, since},
        http::HttpOptions,
        oauth2,
    },
    demo::vendors::{
        Mood,
        workday::{Workday as FakeWorkday, Worker},
    },
    domain::source_record::{EmployeeFacts, Standing},
};

fn with(mut config: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Over REST, with a token.
async fn rest(fake: &FakeWorkday, more: &Value) -> (Box<dyn Connector>, Access) {
    let workday = connect(&VENDOR, with(fake.config(), more), &fake.credentials()).unwrap();
    let access = access(workday.as_ref(), &fake.credentials()).await;
    (workday, access)
}

fn report(fake: &FakeWorkday, more: &Value) -> Box<dyn Connector> {
    connect(&VENDOR, with(fake.report_config(), more), &fake.basic_credentials()).unwrap()
}

/// As the engine has a token.
async fn access(workday: &dyn Connector, credentials: &Value) -> Access {
    let allow = vec!["127.0.0.0/8".parse().unwrap()];
    let http = Http::new(HttpOptions { timeout: Duration::from_secs(20), body_limit: 10_000, allow }).unwrap();
    let refresh = credentials["refresh_token"].as_str().map(SecretString::from);
    let oauth = workday.oauth().expect("OAuth");
    let granted = oauth2::ask(&http, oauth, refresh.as_ref(), chrono::DateTime::UNIX_EPOCH).await.unwrap();
    assert_eq!(granted.lifetime, Duration::from_secs(3_600));
    Access { bearer: Some(granted.access_token) }
}

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/workday/", $name)).to_owned()
    };
}

fn ids(reading: &Reading) -> Vec<&str> {
    reading.people().iter().map(|(id, _)| *id).collect()
}

/// SYNC-8: by offset, with and without a total.
#[tokio::test]
async fn workers_are_read_page_by_page() {
    for total in [true, false] {
        for (count, pages) in [(250, 3), (200, if total { 2 } else { 3 }), (0, 1)] {
            let fake = FakeWorkday::with_many(count).await.unwrap();
            if !total {
                fake.without_total();
            }
            let (workday, access) = rest(&fake, &json!({})).await;

            let reading = read_on(workday.as_ref(), &access, ReadFrom::Beginning).await.unwrap();

            assert_eq!((reading.people().len() as u64, reading.pages), (count, pages), "{count} {total}");
            assert_eq!((reading.total, reading.bookmark), (total.then_some(count), None));
        }
    }
}

/// SYNC-8
#[tokio::test]
async fn the_grants_and_the_password_are_taken() {
    let fake = FakeWorkday::with_many(3).await.unwrap();
    for (auth, credentials) in [
        ("refresh_token", fake.credentials()),
        ("client_credentials", json!({"client_id": "workday-client", "client_secret": "workday-client-secret-3e"})),
    ] {
        let workday = connect(&VENDOR, with(fake.config(), &json!({"auth": auth})), &credentials).unwrap();
        let access = access(workday.as_ref(), &credentials).await;
        let sentence = workday.test(&access).await.unwrap();
        assert_eq!(sentence, "Workday lets 3 workers of `acme` be read", "{auth}");
        let account = workday.account().to_owned();
        assert_eq!(account, format!("workday:{}/acme", fake.fake.address().replace("http://", "")));
    }
    let by_password = report(&fake, &json!({}));
    assert!(by_password.oauth().is_none());
    assert_eq!(read(by_password.as_ref()).await.people().len(), 3);
    // A report by token.
    let config = with(fake.report_config(), &json!({"auth": "refresh_token"}));
    let workday = connect(&VENDOR, config, &fake.credentials()).unwrap();
    let access = access(workday.as_ref(), &fake.credentials()).await;
    assert_eq!(read_on(workday.as_ref(), &access, ReadFrom::Beginning).await.unwrap().people().len(), 3);
}

/// SYNC-3: whoever goes moves the others forward; a page that comes twice is noticed.
#[tokio::test]
async fn paging_leaves_nobody_out_and_ends() {
    let fake = FakeWorkday::with_many(40).await.unwrap();
    let (workday, access) = rest(&fake, &json!({"page_size": 10})).await;
    let first = workday.read(&access, WORKERS, &ReadFrom::Beginning).await.unwrap();
    fake.remove(3);
    let rest_of = read_on(workday.as_ref(), &access, ReadFrom::Page(first.next.unwrap())).await.unwrap();
    let wanted: Vec<String> = (11..=40).map(|n| format!("{n:032x}")).collect();
    assert!(wanted.iter().all(|id| ids(&rest_of).contains(&id.as_str())), "{:?}", ids(&rest_of));

    let page = json!({"data": [{"id": "1", "descriptor": "A B"}], "total": 20}).to_string();
    for _ in 0..2 {
        fake.fake.script.next("workers", Mood::Answers(200, Vec::new(), page.clone()));
    }
    let error = read_on(workday.as_ref(), &access, ReadFrom::Beginning).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::Transient(said) if said.contains("same page")), "{error:?}");
    let error = workday.read(&access, WORKERS, &ReadFrom::Since(json!("x"))).await.unwrap_err();
    assert!(matches!(error, ConnectorError::CursorExpired));
}

/// SYNC-8: a report in one piece; with a prompt, what has changed since.
#[tokio::test]
async fn a_report_is_read_in_full_and_since() {
    let fake = FakeWorkday::with_many(500).await.unwrap();
    let workday = report(&fake, &json!({"overlap_minutes": 0}));
    let first = read(workday.as_ref()).await;
    assert_eq!((first.people().len(), first.pages, first.total), (500, 1, Some(500)));
    assert_eq!(first.person("21031").manager_external_id.as_deref(), Some("21003"));
    assert_eq!(first.person("21031").custom["Cost_Center"], json!("41001 HR"));
    assert_eq!(first.bookmark, Some(json!("2026-03-02T08:00:00Z")));

    fake.terminate(2, chrono::NaiveDate::from_ymd_opt(2026, 2, 28).unwrap());
    fake.hire(Worker::new("Nova", "Quist", "nova@acme.example"));
    let second = since(workday.as_ref(), &first.bookmark).await;

    assert_eq!(ids(&second), ["21002", "21501"]);
    assert_eq!(second.person("21002").standing, Standing::Terminated);
    let without = report(&fake, &json!({"updated_since_prompt": null, "prompts": {"Worker_Type!WID": "d588c4"}}));
    let whole = read(without.as_ref()).await;
    assert_eq!((whole.people().len(), whole.bookmark), (501, None));
    let asked = fake.fake.script.asked().pop().unwrap();
    assert_eq!(asked.query, "format=json&Worker_Type%21WID=d588c4");
}

/// SYNC-8
#[tokio::test]
async fn workers_are_mapped() {
    let fake = FakeWorkday::start(Vec::new()).await.unwrap();
    let (workday, access) = rest(&fake, &json!({})).await;
    fake.fake.script.next("workers", Mood::Answers(200, Vec::new(), fixture!("workers.json")));
    let reading = read_on(workday.as_ref(), &access, ReadFrom::Beginning).await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    let expected = EmployeeFacts {
        work_email: Some("maria@harbour.example".parse().unwrap()),
        first_name: "Maria".to_owned(),
        last_name: "Cardoza".to_owned(),
        phone: text("+1 (415) 555-0142"),
        job_title: text("Director, Payroll"),
        department: text("Payroll Department"),
        ..EmployeeFacts::default()
    };
    assert_eq!(reading.person("0e44c92412d34b01ace61e80a47aaf6d"), &expected);
    let away = reading.person("0e44c92412d34b01ace61e80a47aaf6e");
    assert_eq!((away.first_name.as_str(), away.last_name.as_str()), ("Jan van der", "Berg"));
    assert_eq!(away.standing, Standing::OnLeave);
    assert_eq!(reading.person("0e44c92412d34b01ace61e80a47aaf6f").standing, Standing::Terminated);
    assert_eq!((reading.bad().len(), reading.bad()[0].reason.as_str()), (1, "`id` is missing"));

    fake.fake.script.next("workers", Mood::Answers(200, Vec::new(), fixture!("staffing.json")));
    let reading = read_on(workday.as_ref(), &access, ReadFrom::Beginning).await.unwrap();
    let facts = reading.person("3aa5550b7fe348b98d7b5741afc65536");
    assert_eq!((facts.job_title.as_deref(), facts.location.as_deref()), (Some("Staff Engineer"), Some("Dallas")));
    assert_eq!((facts.department.as_deref(), facts.standing), (Some("Platform"), Standing::Active));
    assert_eq!(facts.work_email.as_ref().map(|email| email.as_str()), Some("teresa@harbour.example"));
}

/// SYNC-8: columns are the customer's, also inside groups; dates come with zones.
#[tokio::test]
async fn a_report_is_mapped_by_its_columns() {
    let fake = FakeWorkday::start(Vec::new()).await.unwrap();
    let mut config = fake.report_config();
    config["columns"]["home_address"] = json!("Home.Address_Line");
    config["columns"]["date_of_birth"] = json!("Home.Birth");
    let workday = connect(&VENDOR, config, &fake.basic_credentials()).unwrap();
    fake.fake.script.next("customreport2", Mood::Answers(200, Vec::new(), fixture!("report.json")));
    let reading = read(workday.as_ref()).await;
    let date = |y, m, d| chrono::NaiveDate::from_ymd_opt(y, m, d);
    let first = reading.person("21001");
    assert_eq!((first.hire_date, first.date_of_birth), (date(2000, 1, 1), date(1960, 1, 1)));
    assert_eq!((first.home_address.as_deref(), first.last_name.as_str()), (Some("4 Pier Road"), "Mørk"));
    assert_eq!(reading.person("21002").standing, Standing::Terminated);
    assert_eq!(
        (reading.person("21003").standing, reading.person("21003").termination_date),
        (Standing::Active, date(2026, 9, 30))
    );
    assert_eq!(reading.bad()[0].reason, "`status` is missing");

    for (body, expected) in [
        (r#"{"Report_Entry": []}"#, Some(0)),
        (r#"{"Report_Entry": {"Employee_ID": "1", "Legal_First_Name": "A", "Active_Status": "1"}}"#, Some(1)),
        ("{}", None),
    ] {
        fake.fake.script.next("customreport2", Mood::Answers(200, Vec::new(), body.to_owned()));
        let reading = read_on(workday.as_ref(), &Access::default(), ReadFrom::Beginning).await;
        assert_eq!(reading.as_ref().ok().map(|reading| reading.people().len()), expected, "{body}: {reading:?}");
    }
}

/// SYNC-8, SYNC-13: what each answer means for the job.
#[tokio::test]
async fn an_answer_that_is_none_is_told_apart() {
    let error = |status, error: &str| {
        Mood::Answers(status, Vec::new(), json!({"error": error, "errors": [{"error": "in detail"}]}).to_string())
    };
    let cases: [(Mood, &str); 12] = [
        (error(401, "invalid_token"), "unauthorized Workday does not take the access token: invalid_token, in detail"),
        (
            error(403, "permission denied"),
            "forbidden Workday does not let this account read workers: permission denied, in detail;",
        ),
        (error(404, "not found"), "address 127.0.0.1"),
        (error(400, "invalid request"), "protocol Workday refused the request (400): invalid request, in detail"),
        (Mood::busy(429, Some(Duration::from_secs(30)), ""), "limited 30"),
        (Mood::busy(429, None, ""), "limited 0"),
        (Mood::busy(503, Some(Duration::from_secs(3)), ""), "limited 3"),
        (Mood::busy(503, None, ""), "transient Workday answered 503"),
        (Mood::bad_gateway(), "transient Workday answered 502"),
        (Mood::Truncated, "transient an answer of Workday ended too early"),
        (Mood::BreaksOff, "transient an answer of 127.0.0.1"),
        (
            Mood::Answers(200, Vec::new(), r#"{"workers": []}"#.to_owned()),
            "protocol an answer of Workday is not what it documents",
        ),
    ];
    for (mood, expected) in cases {
        let fake = FakeWorkday::with_many(3).await.unwrap();
        let (workday, access) = rest(&fake, &json!({})).await;
        fake.fake.script.next("workers", mood.clone());
        let said = match workday.read(&access, WORKERS, &ReadFrom::Beginning).await.unwrap_err() {
            ConnectorError::RateLimited(_, wait) => format!("limited {}", wait.unwrap_or_default().as_secs()),
            ConnectorError::Transient(said) => format!("transient {said}"),
            ConnectorError::Unauthorized(said) => format!("unauthorized {said}"),
            ConnectorError::Forbidden(said) => format!("forbidden {said}"),
            ConnectorError::Protocol(said) => format!("protocol {said}"),
            ConnectorError::Address(said) => format!("address {said}"),
            other => format!("{other:?}"),
        };
        assert!(said.starts_with(expected), "{mood:?}: {said}");
        assert!(!said.contains("workday-"), "{said}");
    }
}

/// SYNC-6, SYNC-5
#[tokio::test]
async fn what_is_wrong_with_a_connection_is_said() {
    let fake = FakeWorkday::with_many(3).await.unwrap();
    let (workday, access) = rest(&fake, &json!({})).await;
    fake.expire_access();
    assert!(matches!(workday.test(&access).await, Err(ConnectorError::Unauthorized(_))));
    assert!(matches!(workday.test(&Access::default()).await, Err(ConnectorError::Unauthorized(_))));
    let by_password =
        connect(&VENDOR, fake.report_config(), &json!({"username": "isu", "password": "planted"})).unwrap();
    let error = by_password.test(&Access::default()).await.unwrap_err();
    assert!(
        matches!(&error, ConnectorError::Credentials(said) if said.contains("user@acme") && !said.contains("planted")),
        "{error:?}"
    );
    let sentence = report(&fake, &json!({})).test(&Access::default()).await.unwrap();
    assert_eq!(sentence, "Workday lets the report of `acme` be read, and it has all columns that are wanted");
    let error = report(&fake, &json!({"custom_fields": ["Shoe_Size"]})).test(&Access::default()).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::Protocol(said) if said.contains("no column Shoe_Size")), "{error:?}");
    let error = report(&fake, &json!({"report_name": "Another"})).test(&Access::default()).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Address(_)), "{error:?}");
}

/// SYNC-1: all that is wrong is said at once.
#[test]
fn a_wrong_configuration_is_told_in_one_go() {
    let fields = |config: Value| {
        let errors = connect(&VENDOR, config, &json!({"client_id": "planted"})).err().unwrap();
        assert!(!errors.to_string().contains("planted"));
        errors.0.into_iter().map(|error| error.field).collect::<Vec<_>>()
    };
    assert_eq!(
        fields(json!({"tenant": "a/b", "auth": "basic", "page_size": 101, "api": "../v1", "host": "x"})),
        [
            "config.tenant",
            "config.auth",
            "config.api",
            "config.page_size",
            "credentials.username",
            "credentials.password"
        ]
    );
    assert_eq!(
        fields(
            json!({"tenant": "acme", "host": "x.example", "source": "raas", "columns": {"id": "Employee_ID", "shoe": "x"}})
        ),
        [
            "config.columns.shoe",
            "config.columns.name",
            "config.columns.status",
            "config.report_owner",
            "config.report_name",
            "credentials.client_secret",
            "credentials.refresh_token"
        ]
    );
}
