//! Against a BambooHR on loopback, and with answers of its shapes.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::{
    clients::{
        hris::testing::{Reading, bearer, connect, read, read_on, since},
        http::HttpOptions,
        oauth2,
    },
    demo::vendors::{
        Mood,
        bamboohr::{API_KEY, BambooHr as FakeBambooHr, Person, somebody},
    },
    domain::source_record::{EmployeeFacts, Standing},
};

const SOURCES: [&str; 3] = ["dataset", "report", "list"];

fn config_of(fake: &FakeBambooHr, more: &Value) -> Value {
    let mut config = fake.config();
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn connected(fake: &FakeBambooHr, more: &Value) -> Box<dyn Connector> {
    connect(&VENDOR, config_of(fake, more), &fake.credentials()).unwrap()
}

/// A source that answers its calls with these bodies, in order.
async fn reading_of(source: &str, answers: &[(&str, &str)], from: ReadFrom) -> Result<Reading, ConnectorError> {
    let fake = FakeBambooHr::start(Vec::new()).await.unwrap();
    for (path, body) in answers {
        fake.fake.script.next(path, Mood::Answers(200, Vec::new(), (*body).to_owned()));
    }
    let more = json!({"source": source, "include": ["social_security_number"], "custom_fields": ["customShirtSize"]});
    read_on(connected(&fake, &more).as_ref(), &Access::default(), from).await
}

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bamboohr/", $name))
    };
}

/// SYNC-7: full, changed since, and deleted, from each place that employees are read from.
#[tokio::test]
async fn everybody_is_read_and_later_what_has_changed() {
    for source in SOURCES {
        let fake = FakeBambooHr::with_many(450).await.unwrap();
        let bamboo = connected(&fake, &json!({"source": source, "page_size": 200}));

        let first = read(bamboo.as_ref()).await;

        assert_eq!((first.people().len(), first.total, first.bad().len()), (450, Some(450), 0), "{source}");
        let manager = first.person("31").manager_external_id.as_deref();
        assert_eq!((manager, first.person("20").standing), (Some("3"), Standing::Terminated), "{source}");

        // The clock of the company moves a second with each; the next run looks five minutes back.
        let hired = fake.hire(Person::new("Nova", "Quist", "nova@acme.example").with("hireDate", "2026-03-02"));
        fake.terminate(3, chrono::NaiveDate::from_ymd_opt(2026, 3, 1).unwrap());
        fake.change(4, "jobTitle", "Director");
        fake.remove(5);
        let second = since(bamboo.as_ref(), &first.bookmark).await;

        let ids: Vec<&str> = second.people().iter().map(|(id, _)| *id).collect();
        assert_eq!((ids, second.gone()), (vec!["3", "4", "451"], vec!["5"]), "{source}");
        assert_eq!(hired, 451);
        assert_eq!(second.person("3").standing, Standing::Terminated, "{source}");
        assert_eq!(second.person("4").job_title.as_deref(), Some("Director"), "{source}");
        assert_eq!(second.person("451").first_name, "Nova", "{source}");
        assert!(second.bookmark.is_some() && second.bookmark != first.bookmark, "{source}");
    }
}

/// SYNC-7: an account with more than a thousand fields tells them on several pages.
#[tokio::test]
async fn names_of_fields_are_read_to_the_last_page() {
    let fake = FakeBambooHr::with_many(3).await.unwrap();
    let first = json!({ "fields": [{ "name": "customShoe" }], "pagination": { "current_page": 1, "total_pages": 2 } });
    fake.fake.script.next("/fields", Mood::Answers(200, Vec::new(), first.to_string()));

    let reading = read(connected(&fake, &json!({})).as_ref()).await;

    assert_eq!((reading.people().len(), reading.bad().len()), (3, 0));
    let asked = fake.fake.script.asked().into_iter().filter(|asked| asked.path.ends_with("/fields"));
    assert_eq!(asked.map(|asked| asked.query).collect::<Vec<_>>(), ["page=1&page_size=1000", "page=2&page_size=1000"]);
}

/// SYNC-3: nothing new costs one call, and keeps the bookmark.
#[tokio::test]
async fn a_run_without_changes_is_one_call() {
    let fake = FakeBambooHr::with_many(50).await.unwrap();
    let bamboo = connected(&fake, &json!({}));
    let first = read(bamboo.as_ref()).await;
    let asked = fake.fake.script.asked().len();

    let second = since(bamboo.as_ref(), &first.bookmark).await;

    assert_eq!((second.records.len(), second.pages, &second.bookmark), (0, 1, &first.bookmark));
    assert_eq!(fake.fake.script.asked().len(), asked + 1);
    assert_eq!(first.bookmark, Some(json!("2026-03-02T08:00:00+00:00")));
    let asked = fake.fake.script.asked().pop().unwrap();
    assert_eq!(asked.query, "since=2026-03-02T07%3A55%3A00%2B00%3A00");
}

/// SYNC-3: the bookmark is of when the reading began, so a change while it lasts is read the next time.
#[tokio::test]
async fn a_change_in_the_middle_of_a_run_is_read_by_the_next() {
    let fake = FakeBambooHr::with_many(30).await.unwrap();
    let bamboo = connected(&fake, &json!({"page_size": 10, "overlap_minutes": 0}));
    let start = bamboo.read(&Access::default(), EMPLOYEES, &ReadFrom::Beginning).await.unwrap();
    let names = bamboo.read(&Access::default(), EMPLOYEES, &ReadFrom::Page(start.next.unwrap())).await.unwrap();
    let place = ReadFrom::Page(names.next.unwrap());
    let page = bamboo.read(&Access::default(), EMPLOYEES, &place).await.unwrap();
    assert_eq!(page.records.len(), 10);
    fake.change(1, "jobTitle", "Director");
    fake.change(30, "jobTitle", "Director");
    let rest = read_on(bamboo.as_ref(), &Access::default(), ReadFrom::Page(page.next.unwrap())).await.unwrap();

    let next = since(bamboo.as_ref(), &rest.bookmark).await;

    assert_eq!(next.people().iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["1", "30"]);
    // The same place again is the same page: after a crash it is read once more.
    let again = bamboo.read(&Access::default(), EMPLOYEES, &place).await.unwrap();
    assert_eq!(again.records.len(), 10);
}

/// SYNC-7: somebody who was deleted between two runs is told of by the second, also if it reads everything.
#[tokio::test]
async fn a_full_run_tells_who_was_deleted() {
    for source in SOURCES {
        let fake = FakeBambooHr::with_many(5).await.unwrap();
        let bamboo = connected(&fake, &json!({"source": source}));
        assert!(read(bamboo.as_ref()).await.gone().is_empty());
        fake.remove(3);
        fake.change(4, "jobTitle", "Director");
        let second = read(bamboo.as_ref()).await;
        assert_eq!((second.gone(), second.people().len()), (vec!["3"], 4), "{source}");
    }
}

/// SYNC-3: whoever is deleted moves the others a place forward; nobody falls between two pages, nor behind the last.
#[tokio::test]
async fn a_deletion_in_the_middle_of_a_run_leaves_nobody_out() {
    for (count, pages) in [(40, 2), (31, 3)] {
        let fake = FakeBambooHr::with_many(count).await.unwrap();
        let bamboo = connected(&fake, &json!({"page_size": 10}));
        let mut from = ReadFrom::Beginning;
        // Who was deleted, and the names, before the pages.
        for _ in 0..pages + 2 {
            let page = bamboo.read(&Access::default(), EMPLOYEES, &from).await.unwrap();
            from = ReadFrom::Page(page.next.unwrap());
        }
        // The first of the next page becomes the last of the one before.
        fake.remove(2);
        // The pages keep their size.
        let bamboo = connected(&fake, &json!({"page_size": 7}));

        let rest = read_on(bamboo.as_ref(), &Access::default(), from).await.unwrap();

        let ids: std::collections::BTreeSet<u64> = rest.people().iter().map(|(id, _)| id.parse().unwrap()).collect();
        assert!((pages * 10 + 1..=count).all(|id| ids.contains(&id)), "{count}: {ids:?}");
    }
}

/// SYNC-7: both forms of the address lead to the same place.
#[tokio::test]
async fn both_forms_of_the_address_are_taken() {
    let fake = FakeBambooHr::with_many(3).await.unwrap();
    let address = fake.fake.address().to_owned();
    for base in ["", "/", "/api", "/api/v1/", "/api/gateway.php/", "/api/gateway.php/acme", "/api/gateway.php/acme/v1"]
    {
        let bamboo = connected(&fake, &json!({"base_url": format!("{address}{base}")}));
        assert_eq!(read(bamboo.as_ref()).await.people().len(), 3, "{base}");
    }
    let usual = connect(&VENDOR, json!({"company_domain": "Acme"}), &fake.credentials()).unwrap();
    assert_eq!(usual.account(), "bamboohr:acme");
    // SYNC-13: another address is another account, so that it cannot shut or slow BambooHR's own of that name.
    for (base, account) in [
        ("https://acme.bamboohr.com/api/v1", "bamboohr:acme"),
        ("https://api.bamboohr.com/api/gateway.php/Acme", "bamboohr:acme"),
        ("https://api.bamboohr.com/api/gateway.php/other", "bamboohr:api.bamboohr.com/acme"),
        ("https://hr.example", "bamboohr:hr.example/acme"),
    ] {
        let config = json!({"company_domain": "Acme", "base_url": base});
        assert_eq!(connect(&VENDOR, config, &fake.credentials()).unwrap().account(), account);
    }
    assert_eq!(root_of("https://acme.bamboohr.com", "acme"), "https://acme.bamboohr.com/api");
}

/// SYNC-7, SYNC-13: what each answer means for the job.
#[tokio::test]
async fn an_answer_that_is_none_is_told_apart() {
    let told =
        |status, text: &str| Mood::Answers(status, vec![("x-bamboohr-error-message", text.to_owned())], String::new());
    let cases: [(Mood, &str); 15] = [
        (
            told(401, "Bad key"),
            "credentials BambooHR does not take the API key for `acme`: Bad key; make a new one, and give it to the integration",
        ),
        (told(403, "No access"), "forbidden BambooHR does not let this account read employees: No access;"),
        (Mood::busy(429, Some(Duration::from_secs(7)), ""), "limited 7"),
        (Mood::busy(429, None, ""), "limited 0"),
        (Mood::busy(503, Some(Duration::from_secs(9)), ""), "limited 9"),
        (Mood::busy(503, None, ""), "transient BambooHR answered 503"),
        (told(500, "a\r\nb"), "transient BambooHR answered 500"),
        (told(598, "Network"), "transient BambooHR answered 598: Network"),
        (Mood::bad_gateway(), "transient BambooHR answered 502"),
        (Mood::Truncated, "transient an answer of BambooHR ended too early"),
        (Mood::BreaksOff, "transient an answer of 127.0.0.1"),
        (
            Mood::Answers(200, Vec::new(), "<html>Sign in</html>".to_owned()),
            "protocol an answer of BambooHR is not what it documents",
        ),
        (Mood::Answers(302, Vec::new(), String::new()), "address 127.0.0.1"),
        (Mood::Answers(404, Vec::new(), String::new()), "address 127.0.0.1"),
        (
            Mood::Answers(422, Vec::new(), fixture!("problem.json").to_owned()),
            "protocol BambooHR refused the request (422): Unknown operator in filter",
        ),
    ];
    for (mood, expected) in cases {
        let fake = FakeBambooHr::with_many(3).await.unwrap();
        // What a header cannot hold is not sent.
        fake.fake.script.next("/changed", mood.clone());
        let bamboo = connected(&fake, &json!({}));
        let error = bamboo.read(&Access::default(), EMPLOYEES, &ReadFrom::Beginning).await.unwrap_err();
        let said = match &error {
            ConnectorError::RateLimited(_, wait) => format!("limited {}", wait.unwrap_or_default().as_secs()),
            ConnectorError::Transient(said) => format!("transient {said}"),
            ConnectorError::Credentials(said) => format!("credentials {said}"),
            ConnectorError::Forbidden(said) => format!("forbidden {said}"),
            ConnectorError::Protocol(said) => format!("protocol {said}"),
            ConnectorError::Address(said) => format!("address {said}"),
            other => format!("{other:?}"),
        };
        assert!(said.starts_with(expected), "{mood:?}: {said}");
        assert!(!said.contains(API_KEY) && !said.contains('\n'), "{said}");
    }
}

/// SYNC-5: the test says in a sentence what is wrong, and proves what a run needs.
#[tokio::test]
async fn a_connection_is_tested_with_what_a_run_needs() {
    let fake = FakeBambooHr::with_many(12).await.unwrap();
    for source in SOURCES {
        let sentence = connected(&fake, &json!({"source": source})).test(&Access::default()).await.unwrap();
        assert!(sentence.starts_with("BambooHR lets ") && sentence.contains("`acme`"), "{source}: {sentence}");
    }
    let other = connect(&VENDOR, fake.config(), &json!({"api_key": "another"})).unwrap();
    assert!(matches!(other.test(&Access::default()).await, Err(ConnectorError::Credentials(_))));
    let elsewhere = config_of(&fake, &json!({"base_url": format!("{}/nowhere", fake.fake.address())}));
    let elsewhere = connect(&VENDOR, elsewhere, &fake.credentials()).unwrap();
    assert!(matches!(elsewhere.test(&Access::default()).await, Err(ConnectorError::Address(_))));
    fake.hide("dateOfBirth");
    let sentence = connected(&fake, &json!({})).test(&Access::default()).await.unwrap();
    assert_eq!(sentence, "BambooHR lets 12 employees of `acme` be read, without date_of_birth");
    fake.hide("status");
    for source in ["dataset", "report"] {
        let error = connected(&fake, &json!({"source": source})).test(&Access::default()).await.unwrap_err();
        assert!(
            matches!(&error, ConnectorError::Forbidden(said) if said.contains("does not show status")),
            "{error:?}"
        );
    }
}

/// SYNC-7: a field that the account may not see is unknown, not empty; without a status nobody is taken for active.
#[tokio::test]
async fn hidden_fields_are_unknown() {
    for source in SOURCES {
        let fake = FakeBambooHr::with_many(2).await.unwrap();
        fake.hide("dateOfBirth");
        fake.hide("department");
        let reading = read(connected(&fake, &json!({"source": source})).as_ref()).await;
        let facts = reading.person("1");
        assert_eq!(
            (&facts.department, facts.date_of_birth, facts.job_title.is_some()),
            (&None, None, true),
            "{source}"
        );
    }
    let fake = FakeBambooHr::start(vec![somebody(1), Person::new("No", "Status", "no@acme.example")]).await.unwrap();
    fake.change(2, "status", Value::Null);
    fake.change(2, "employmentHistoryStatus", Value::Null);
    let reading = read(connected(&fake, &json!({})).as_ref()).await;
    assert_eq!(reading.people().len(), 1);
    assert_eq!(reading.bad()[0].reason, "`status` is missing; the account needs access to it");
}

/// SYNC-7: nobody's number is fetched unless the configuration says so.
#[tokio::test]
async fn a_social_security_number_is_asked_for_only_on_request() {
    for source in ["dataset", "report"] {
        for (include, expected) in [(json!([]), None), (json!(["social_security_number"]), Some("001-01-0001"))] {
            let fake = FakeBambooHr::with_many(1).await.unwrap();
            let bamboo = connected(&fake, &json!({"source": source, "include": include}));
            let reading = read(bamboo.as_ref()).await;
            assert_eq!(reading.person("1").social_security_number.as_deref(), expected, "{source}");
            let asked = fake.fake.script.asked().pop().unwrap();
            assert_eq!(String::from_utf8_lossy(&asked.body).contains("ssn"), expected.is_some(), "{source}");
        }
    }
}

/// SYNC-4: one bad record in a hundred, and the others are there.
#[tokio::test]
async fn bad_records_stop_no_page() {
    let fake = FakeBambooHr::with_many(300).await.unwrap();
    fake.change(7, "workEmail", "nobody at all");
    fake.change(107, "hireDate", "31/12/2020");
    fake.change(207, "jobTitle", json!({"surprise": ["of", "a", "kind"]}));
    for source in SOURCES {
        let reading = read(connected(&fake, &json!({"source": source})).as_ref()).await;
        assert_eq!(reading.people().len(), 297, "{source}");
        let bad: Vec<&str> = reading.bad().iter().map(|bad| bad.external_id.as_deref().unwrap()).collect();
        assert_eq!(bad, ["7", "107", "207"], "{source}");
        let reasons = format!("{:?}", reading.bad());
        assert!(!reasons.contains("nobody at all") && !reasons.contains("2020"), "{reasons}");
    }
}

/// SYNC-7: a custom report, with all the ways of saying nothing.
#[tokio::test]
async fn a_report_is_mapped() {
    let reading =
        reading_of("report", &[("reports/custom", fixture!("report.json"))], ReadFrom::Beginning).await.unwrap();
    let date = |y, m, d| chrono::NaiveDate::from_ymd_opt(y, m, d);
    let text = |text: &str| Some(text.to_owned());
    let expected = EmployeeFacts {
        work_email: Some("charlotte@harbour.example".parse().unwrap()),
        first_name: "Charlotte".to_owned(),
        last_name: "Abbott".to_owned(),
        phone: text("801-724-6600"),
        home_address: text("335 Canal Road, 84042, Lindon, UT, United States"),
        date_of_birth: date(1981, 6, 3),
        job_title: text("Sr. HR Administrator"),
        department: text("Human Resources"),
        manager_external_id: text("9"),
        location: text("Lindon, Utah"),
        hire_date: date(2019, 5, 6),
        custom: [("customShirtSize".to_owned(), json!("M"))].into(),
        ..EmployeeFacts::default()
    };
    assert_eq!(reading.person("4"), &expected);
    let expected = EmployeeFacts {
        first_name: "Ashley".to_owned(),
        last_name: "Adams".to_owned(),
        phone: text("+44 207 555 8550"),
        standing: Standing::Terminated,
        hire_date: date(2020, 2, 29),
        termination_date: date(2025, 11, 30),
        ..EmployeeFacts::default()
    };
    assert_eq!(reading.person("5"), &expected);
    assert_eq!((reading.person("6").termination_date, reading.person("6").standing), (None, Standing::Active));
}

/// SYNC-7
#[tokio::test]
async fn a_dataset_and_a_list_are_mapped() {
    let answers = [("/fields", fixture!("dataset_fields.json")), ("/data", fixture!("dataset.json"))];
    let reading = reading_of("dataset", &answers, ReadFrom::Beginning).await.unwrap();
    let facts = reading.person("4");
    assert_eq!(facts.job_title.as_deref(), Some("Sr. HR Administrator"));
    assert_eq!((facts.location.as_deref(), &facts.work_email), (Some("Lindon, Utah"), &None));

    let answers = [("changed", fixture!("changed_nobody.json")), ("v1/employees", fixture!("list.json"))];
    let reading = reading_of("list", &answers, ReadFrom::Beginning).await.unwrap();
    let facts = reading.person("123");
    assert_eq!((facts.standing, facts.date_of_birth), (Standing::OnLeave, None));
    assert_eq!((facts.department.as_deref(), facts.manager_external_id.as_deref()), (Some("Engineering"), Some("9")));
}

/// SYNC-7: deletions come at once, in the order of ids; nobody at all has two forms, and moves no bookmark.
#[tokio::test]
async fn changes_are_read_in_every_form() {
    let from = || ReadFrom::Since(json!("2026-03-02T08:00:00Z"));
    let reading = reading_of("report", &[("changed", fixture!("changed.json"))], from()).await.unwrap();
    assert_eq!(
        (reading.gone(), reading.bookmark.clone()),
        (vec!["14", "121"], Some(json!("2026-03-02T08:04:11+00:00")))
    );
    assert_eq!(reading.bad()[0].external_id.as_deref(), Some("15"));
    let reading = reading_of("report", &[("changed", fixture!("changed_nobody.json"))], from()).await.unwrap();
    assert_eq!((reading.records.len(), reading.bookmark), (0, Some(json!("2026-03-02T08:00:00+00:00"))));
    let older = r#"{"latest": "2026-03-02T07:58:00+0000", "employees": {}}"#;
    let reading = reading_of("report", &[("changed", older)], from()).await.unwrap();
    assert_eq!(reading.bookmark, Some(json!("2026-03-02T08:00:00+00:00")));
}

/// SYNC-4, SYNC-7: who has changed and is not shown, or went meanwhile, is named.
#[tokio::test]
async fn who_is_asked_for_and_not_shown_is_a_failure() {
    for source in ["report", "list"] {
        let fake = FakeBambooHr::with_many(5).await.unwrap();
        let bamboo = connected(&fake, &json!({"source": source}));
        let first = read(bamboo.as_ref()).await;
        fake.change(2, "jobTitle", "Director");
        fake.change(4, "jobTitle", "Director");
        let from = ReadFrom::Since(first.bookmark.unwrap());
        let changed = bamboo.read(&Access::default(), EMPLOYEES, &from).await.unwrap();
        fake.remove(4);
        let place = ReadFrom::Page(changed.next.unwrap());
        let batch = read_on(bamboo.as_ref(), &Access::default(), place).await.unwrap();
        assert_eq!((batch.people().len(), batch.bad()[0].external_id.as_deref()), (1, Some("4")), "{source}");
    }
}

/// SYNC-3: a place that is no more is said to be, so that the stream is read anew.
#[tokio::test]
async fn a_place_that_has_expired_is_told() {
    let fake = FakeBambooHr::with_many(30).await.unwrap();
    let bamboo = connected(&fake, &json!({"source": "list", "page_size": 10}));
    let start = bamboo.read(&Access::default(), EMPLOYEES, &ReadFrom::Beginning).await.unwrap();
    let page = bamboo.read(&Access::default(), EMPLOYEES, &ReadFrom::Page(start.next.unwrap())).await.unwrap();
    let place = ReadFrom::Page(page.next.unwrap());
    // The one at the boundary.
    fake.remove(10);
    for from in [place, ReadFrom::Page(json!({"at": "the moon"})), ReadFrom::Since(json!("yesterday"))] {
        let error = bamboo.read(&Access::default(), EMPLOYEES, &from).await.unwrap_err();
        assert!(matches!(error, ConnectorError::CursorExpired), "{from:?}: {error:?}");
    }
}

/// SYNC-6: an access token that is not taken is told from a key that is not.
#[tokio::test]
async fn oauth_is_spoken() {
    let fake = FakeBambooHr::with_many(3).await.unwrap();
    let bamboo = connect(&VENDOR, fake.config(), &fake.oauth_credentials()).unwrap();
    let oauth = bamboo.oauth().expect("OAuth");
    assert_eq!(oauth.token_endpoint.to_string(), format!("{}/token.php?request=token", fake.fake.address()));
    assert!(matches!(oauth.grant, Grant::RefreshToken) && !oauth.basic);
    for access in [Access::default(), bearer("a-token-of-yesterday")] {
        let error = bamboo.test(&access).await.unwrap_err();
        assert!(matches!(error, ConnectorError::Unauthorized(_)), "{error:?}");
    }
    let allow = vec!["127.0.0.0/8".parse().unwrap()];
    let http = Http::new(HttpOptions { timeout: Duration::from_secs(20), body_limit: 10_000, allow }).unwrap();
    let refresh = fake.oauth_credentials()["refresh_token"].as_str().map(SecretString::from);
    let granted = oauth2::ask(&http, oauth, refresh.as_ref(), chrono::DateTime::UNIX_EPOCH).await.unwrap();
    assert!(granted.refresh_token.is_some());
    let access = Access { bearer: Some(granted.access_token) };
    assert_eq!(read_on(bamboo.as_ref(), &access, ReadFrom::Beginning).await.unwrap().people().len(), 3);
    fake.expire_access();
    assert!(matches!(bamboo.test(&access).await, Err(ConnectorError::Unauthorized(_))));
    // The one that was used is good no longer.
    let error = oauth2::ask(&http, oauth, refresh.as_ref(), chrono::DateTime::UNIX_EPOCH).await.unwrap_err();
    assert!(matches!(error, oauth2::TokenError::Revoked(_)), "{error:?}");
}

/// SYNC-1: all that is wrong is said at once, without a secret.
#[test]
fn a_wrong_configuration_is_told_in_one_go() {
    let config = json!({
        "company_domain": "acme/..", "source": "telepathy", "page_size": 5000, "include": ["shoe_size"],
        "fields": {"shoe": "x"}, "base_url": "ftp://x", "colour": "blue",
    });
    let errors = connect(&VENDOR, config, &json!({"refresh_token": "planted-secret"})).err().unwrap();
    let fields: Vec<&str> = errors.0.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "config.colour",
            "config.company_domain",
            "config.source",
            "config.page_size",
            "config.include",
            "config.fields.shoe",
            "config.base_url",
            "credentials.client_id",
            "credentials.client_secret"
        ]
    );
    assert!(!errors.to_string().contains("planted-secret"));
    let errors = connect(&VENDOR, json!([]), &json!({})).err().unwrap();
    assert!(errors.to_string().contains("`credentials.api_key` must not be empty"), "{errors}");
}

/// SYNC-7: `today` is 2 March 2026.
#[tokio::test]
async fn who_works_there_is_told_by_three_fields() {
    let cases = [
        (json!({"status": "Active"}), Standing::Active),
        (json!({"status": "Inactive"}), Standing::Terminated),
        (json!({"status": "Active", "employmentHistoryStatus": "Terminated"}), Standing::Terminated),
        (json!({"status": "Active", "terminationDate": "2026-03-02"}), Standing::Terminated),
        // Planned.
        (json!({"status": "Active", "terminationDate": "2026-03-03"}), Standing::Active),
        (
            json!({"status": "Active", "employmentHistoryStatus": "Terminated", "terminationDate": "2026-03-03"}),
            Standing::Active,
        ),
        // Of an earlier employment.
        (json!({"status": "Active", "hireDate": "2025-01-01", "terminationDate": "2020-01-01"}), Standing::Active),
        (json!({"status": "Active", "employmentHistoryStatus": "Parental Leave"}), Standing::OnLeave),
        (json!({"employmentHistoryStatus": "Contractor"}), Standing::Active),
    ];
    for (fields, expected) in cases {
        let mut person = Person::default().with("firstName", "A").with("lastName", "B");
        person.0.extend(fields.as_object().unwrap().clone());
        let fake = FakeBambooHr::start(vec![person]).await.unwrap();
        let reading = read(connected(&fake, &json!({"source": "report"})).as_ref()).await;
        assert_eq!(reading.person("1").standing, expected, "{fields}");
    }
}

/// SYNC-7: ten thousand in ten pages, a look at the names, and one at who was deleted.
#[tokio::test]
async fn a_large_company_is_read_in_few_calls() {
    let fake = FakeBambooHr::with_many(10_000).await.unwrap();
    let reading = read(connected(&fake, &json!({})).as_ref()).await;
    assert_eq!((reading.people().len(), reading.pages, reading.total), (10_000, 12, Some(10_000)));
    assert_eq!(fake.fake.script.asked().len(), 12);
}
