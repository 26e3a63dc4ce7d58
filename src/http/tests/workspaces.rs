//! Workspaces, members and invitations over the API, and the page behind the link.

use chrono::Duration;

use super::*;
use crate::{
    domain::{Claims, EmailAddress, Language, NewUser, PasswordHash, Role},
    store::{memberships, sessions, users},
};

/// A signed-in person: their id and their access token.
#[derive(Clone)]
struct Signed {
    id: Uuid,
    token: String,
}

/// A member of the organization with this role, signed in.
async fn person(world: &World, organization: &Organization, email: &str, role: Role) -> Signed {
    let now = world.app.clock.now();
    let mut db = world.app.db.acquire().await.unwrap();
    let new = NewUser {
        email: EmailAddress::parse(email).unwrap(),
        name: email.split('@').next().unwrap().to_owned(),
        language: Language::En,
        password: Some(PasswordHash::stored("nobody knows it".to_owned())),
        confirmed_at: Some(now),
    };
    let id = users::create(&mut db, &new, now).await.unwrap().id;
    let company = (role == Role::Customer).then(Uuid::now_v7);
    memberships::add(&mut db, organization.id, id, role, company, now).await.unwrap();
    let session = sessions::begin(&mut db, (organization.id, id), now, Duration::days(1)).await.unwrap().session_id;
    let claims = Claims::access((id, organization.id, session), (role, company), now, Duration::hours(1));
    Signed { id, token: world.app.tokens.sign(&claims) }
}

impl World {
    async fn by(&self, who: &Signed, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send(request(method, &format!("/api/v1{path}"), &who.token, &[], body)).await
    }

    async fn made(&self, who: &Signed, name: &str) -> String {
        let made = self.by(who, Method::POST, "/workspaces", Some(json!({ "name": name }))).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        made.json()["id"].as_str().unwrap().to_owned()
    }

    async fn invited(&self, who: &Signed, workspace: &str, email: &str) -> String {
        let path = format!("/workspaces/{workspace}/invitations");
        let made = self.by(who, Method::POST, &path, Some(json!({ "email": email }))).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        made.json()["id"].as_str().unwrap().to_owned()
    }

    /// Sends what waits, and answers the path of the link in the newest mail.
    async fn mailed_link(&self) -> String {
        let registry = Arc::new(crate::jobs::registry(&self.app.config));
        backroom_queue::testing::drain(&self.app.db, &registry, self.app.clone(), "mailers").await.unwrap();
        let mail = self.mailbox.get(self.mailbox.list(1)[0].id).unwrap().text.unwrap();
        let at = mail.find("/invitations/").unwrap_or_else(|| panic!("no link in {mail}"));
        mail[at..].split_whitespace().next().unwrap().to_owned()
    }

    async fn look(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, "", &[], None)).await
    }

    async fn submit(&self, path: &str, headers: &[(&str, &str)], form: &str) -> Answer {
        let mut request = Request::builder().method(Method::POST).uri(path);
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(form.to_owned())).unwrap()).await
    }
}

fn names(page: &Value) -> Vec<&str> {
    page["workspaces"].as_array().unwrap().iter().map(|workspace| workspace["name"].as_str().unwrap()).collect()
}

/// WORK-1
#[tokio::test]
async fn everybody_has_a_workspace_of_their_own_and_makes_renames_switches_and_deletes_others() {
    let world = World::new().await;
    let anna = person(&world, &world.acme, "anna@example.se", Role::User).await;
    for _ in 0..2 {
        let mine = world.by(&anna, Method::GET, "/workspaces", None).await.json();
        let own = &mine["workspaces"][0];
        assert_eq!(
            (names(&mine), &own["personal"], &own["current"]),
            (vec!["Min arbetsyta"], &json!(true), &json!(true))
        );
    }
    let mine = world.by(&anna, Method::GET, "/workspaces", None).await.json();
    let own = mine["workspaces"][0]["id"].as_str().unwrap().to_owned();

    let long = "å".repeat(100);
    for name in ["x", long.as_str(), "  Bokslut\u{a0}2026 🚚\u{3000}"] {
        let made = world.by(&anna, Method::POST, "/workspaces", Some(json!({ "name": name }))).await;
        assert_eq!((made.status, &made.json()["name"]), (StatusCode::CREATED, &json!(name.trim())), "{}", made.text);
        assert_eq!(made.header("location"), format!("/api/v1/workspaces/{}", made.json()["id"].as_str().unwrap()));
    }
    let too_long = "å".repeat(101);
    for (name, code) in
        [("", "required"), (" \u{a0}\u{200b}", "required"), (too_long.as_str(), "too_long"), ("a\r\nb", "invalid")]
    {
        let refused = world.by(&anna, Method::POST, "/workspaces", Some(json!({ "name": name }))).await;
        assert_eq!(refused.problem(422, "validation"), [format!("name {code}")], "{name:?}");
    }

    let id = world.made(&anna, "Ny kund").await;
    let path = format!("/workspaces/{id}");
    let renamed = world.by(&anna, Method::PATCH, &path, Some(json!({ "name": "Nyare kund" }))).await;
    assert_eq!((renamed.status, &renamed.json()["name"]), (StatusCode::OK, &json!("Nyare kund")));
    let bad = world.by(&anna, Method::PATCH, &path, Some(json!({ "name": "" }))).await;
    assert_eq!(bad.problem(422, "validation"), ["name required"]);

    let switched = world.by(&anna, Method::POST, &format!("{path}/switch"), None).await;
    assert_eq!(switched.json()["current"], true);
    let current = async || {
        let all = world.by(&anna, Method::GET, "/workspaces?limit=200", None).await.json();
        let current: Vec<Value> =
            all["workspaces"].as_array().unwrap().iter().filter(|w| w["current"] == true).cloned().collect();
        assert_eq!(current.len(), 1, "{all}");
        current[0]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(current().await, "Nyare kund");
    assert_eq!(world.by(&anna, Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(current().await, "Min arbetsyta", "what is gone is not current");
    for (method, path, body) in [
        (Method::GET, path.clone(), None),
        (Method::PATCH, path.clone(), Some(json!({ "name": "x" }))),
        (Method::DELETE, path.clone(), None),
        (Method::POST, format!("{path}/switch"), None),
        (Method::GET, format!("{path}/members"), None),
        (Method::GET, format!("{path}/invitations"), None),
        (Method::POST, format!("{path}/invitations"), Some(json!({ "email": "bo@example.se" }))),
    ] {
        world.by(&anna, method, &path, body).await.problem(404, "not-found");
    }
    let own = format!("/workspaces/{own}");
    world.by(&anna, Method::DELETE, &own, None).await.problem(409, "conflict");
    let invite = Some(json!({ "email": "bo@example.se" }));
    world.by(&anna, Method::POST, &format!("{own}/invitations"), invite).await.problem(409, "conflict");
    world.by(&anna, Method::POST, &format!("{own}/leave"), None).await.problem(409, "conflict");
}

/// WORK-1, API-9
#[tokio::test]
async fn workspaces_are_listed_by_page() {
    let world = World::new().await;
    let anna = person(&world, &world.acme, "anna@example.se", Role::User).await;
    world.by(&anna, Method::GET, "/workspaces", None).await;
    for n in 0..5 {
        world.made(&anna, &format!("Rum {n}")).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.by(&anna, Method::GET, &format!("/workspaces?limit=2{cursor}"), None).await.json();
        seen.extend(names(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["Min arbetsyta", "Rum 0", "Rum 1", "Rum 2", "Rum 3", "Rum 4"]);
}

/// WORK-1, WORK-2, AUTH-4: members read, the owner rules, and to everybody else there is nothing.
#[tokio::test]
async fn members_read_the_owner_rules_and_others_find_nothing() {
    let world = World::new().await;
    let globex = world._database.organization("globex").await;
    let anna = person(&world, &world.acme, "anna@example.se", Role::User).await;
    let bo = person(&world, &world.acme, "bo@example.se", Role::Developer).await;
    let admin = person(&world, &world.acme, "admin@example.se", Role::Admin).await;
    let other = person(&world, &globex, "other@example.se", Role::Admin).await;
    let customer = person(&world, &world.acme, "kund@example.se", Role::Customer).await;
    let id = world.made(&anna, "Bokslut").await;
    let invitation = world.invited(&anna, &id, "bo@example.se").await;
    let accepted = world.submit(&world.mailed_link().await, &[], "").await;
    assert_eq!(accepted.status, StatusCode::OK, "{}", accepted.text);
    let path = format!("/workspaces/{id}");

    let seen = world.by(&bo, Method::GET, &path, None).await.json();
    assert_eq!((&seen["name"], &seen["role"]), (&json!("Bokslut"), &json!("member")));
    let members = world.by(&bo, Method::GET, &format!("{path}/members"), None).await.json();
    let roles: Vec<_> =
        members["members"].as_array().unwrap().iter().map(|m| (m["email"].clone(), m["role"].clone())).collect();
    assert_eq!(roles, [(json!("anna@example.se"), json!("owner")), (json!("bo@example.se"), json!("member"))]);
    for (method, path, body) in [
        (Method::PATCH, path.clone(), Some(json!({ "name": "Mitt" }))),
        (Method::DELETE, path.clone(), None),
        (Method::DELETE, format!("{path}/members/{}", anna.id), None),
        (Method::DELETE, format!("{path}/invitations/{invitation}"), None),
    ] {
        world.by(&bo, method, &path, body).await.problem(403, "forbidden");
    }
    world.by(&anna, Method::POST, &format!("{path}/leave"), None).await.problem(409, "conflict");
    world.by(&anna, Method::DELETE, &format!("{path}/members/{}", anna.id), None).await.problem(409, "conflict");
    world.by(&anna, Method::DELETE, &format!("{path}/members/{}", admin.id), None).await.problem(404, "not-found");

    for stranger in [&admin, &other] {
        for (method, path, body) in [
            (Method::GET, path.clone(), None),
            (Method::PATCH, path.clone(), Some(json!({ "name": "x" }))),
            (Method::DELETE, path.clone(), None),
            (Method::POST, format!("{path}/switch"), None),
            (Method::POST, format!("{path}/leave"), None),
            (Method::GET, format!("{path}/members"), None),
            (Method::DELETE, format!("{path}/members/{}", bo.id), None),
            (Method::GET, format!("{path}/invitations"), None),
            (Method::POST, format!("{path}/invitations"), Some(json!({ "email": "x@example.se" }))),
            (Method::GET, format!("{path}/invitations/{invitation}"), None),
            (Method::DELETE, format!("{path}/invitations/{invitation}"), None),
            (Method::POST, format!("{path}/invitations/{invitation}/resend"), None),
        ] {
            world.by(stranger, method, &path, body).await.problem(404, "not-found");
        }
    }
    world.send(request(Method::GET, "/api/v1/workspaces", &world.key, &[], None)).await.problem(403, "forbidden");
    let refused = world.by(&customer, Method::POST, "/workspaces", Some(json!({ "name": "x" }))).await;
    refused.problem(403, "forbidden");

    let removed = world.by(&anna, Method::DELETE, &format!("{path}/members/{}", bo.id), None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    world.by(&bo, Method::GET, &path, None).await.problem(404, "not-found");
    world.by(&anna, Method::DELETE, &format!("{path}/members/{}", bo.id), None).await.problem(404, "not-found");
    world.invited(&anna, &id, "bo@example.se").await;
    world.submit(&world.mailed_link().await, &[], "").await;
    let left = world.by(&bo, Method::POST, &format!("{path}/leave"), None).await;
    assert_eq!((left.status, left.json()), (StatusCode::OK, json!({ "left": id })));
    world.by(&bo, Method::POST, &format!("{path}/leave"), None).await.problem(404, "not-found");
}

/// WORK-3, WORK-6
#[tokio::test]
async fn an_invitation_is_made_once_listed_sent_again_and_revoked() {
    let world = World::new().await;
    let anna = person(&world, &world.acme, "anna@example.se", Role::User).await;
    let bo = person(&world, &world.acme, "bo@example.se", Role::User).await;
    let id = world.made(&anna, "Bokslut").await;
    let path = format!("/workspaces/{id}/invitations");
    let invite =
        async |who: &Signed, email: &str| world.by(who, Method::POST, &path, Some(json!({ "email": email }))).await;

    assert_eq!(invite(&anna, "nobody").await.problem(422, "validation"), ["email invalid"]);
    assert_eq!(invite(&anna, "a@b.example\r\nBcc: c@d.example").await.problem(422, "validation"), ["email invalid"]);
    for own in ["anna@example.se", "ANNA@Example.SE"] {
        assert_eq!(invite(&anna, own).await.problem(409, "conflict"), ["email own_address"], "{own}");
    }
    let made = invite(&anna, "Cia@example.se").await;
    assert_eq!((made.status, &made.json()["state"]), (StatusCode::CREATED, &json!("open")), "{}", made.text);
    assert!(!made.text.contains("token"), "{}", made.text);
    for again in ["Cia@example.se", "CIA@EXAMPLE.SE", "cia@example.se "] {
        assert_eq!(invite(&anna, again).await.problem(409, "conflict"), ["email taken"], "{again}");
    }
    let first = made.json()["id"].as_str().unwrap().to_owned();
    let link = world.mailed_link().await;

    world.invited(&anna, &id, "bo@example.se").await;
    world.submit(&world.mailed_link().await, &[], "").await;
    assert_eq!(invite(&anna, "BO@example.se").await.problem(409, "conflict"), ["email member"]);
    // Bo invites as a member, and sends again what he sent himself only.
    let bos = world.invited(&bo, &id, "dan@example.se").await;
    world.by(&bo, Method::POST, &format!("{path}/{first}/resend"), None).await.problem(403, "forbidden");
    assert_eq!(world.by(&bo, Method::POST, &format!("{path}/{bos}/resend"), None).await.status, StatusCode::OK);

    let again = world.by(&anna, Method::POST, &format!("{path}/{first}/resend"), None).await;
    assert_eq!((again.status, &again.json()["sent_at"]), (StatusCode::OK, &Value::Null), "{}", again.text);
    let newer = world.mailed_link().await;
    assert_ne!(link, newer);
    assert_eq!(world.look(&link).await.status, StatusCode::NOT_FOUND, "the old link opens nothing");
    assert_eq!(world.look(&newer).await.status, StatusCode::OK);

    let list = async |query: &str| {
        let page = world.by(&bo, Method::GET, &format!("{path}{query}"), None).await.json();
        let all = page["invitations"].as_array().unwrap();
        all.iter()
            .map(|i| format!("{} {}", i["email"].as_str().unwrap(), i["state"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(list("").await, ["dan@example.se open", "bo@example.se accepted", "Cia@example.se open"]);
    let revoked = world.by(&anna, Method::DELETE, &format!("{path}/{first}"), None).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    world.by(&anna, Method::DELETE, &format!("{path}/{first}"), None).await.problem(409, "conflict");
    world.by(&anna, Method::POST, &format!("{path}/{first}/resend"), None).await.problem(409, "conflict");
    assert_eq!(list("?state=open").await, ["dan@example.se open"]);
    assert_eq!(list("?state=revoked&limit=1").await, ["Cia@example.se revoked"]);
    sqlx::query("update org_acme.invitations set expires_at = now() where state = 'open'")
        .execute(&world.app.db)
        .await
        .unwrap();
    assert_eq!(list("?state=expired").await, ["dan@example.se expired"], "before the sweep has been by");
    assert_eq!(list("?state=open").await, [""; 0]);
    assert_eq!(
        invite(&anna, "dan@example.se").await.status,
        StatusCode::CREATED,
        "what has expired is in nobody's way"
    );
    let shown = world.by(&anna, Method::GET, &format!("{path}/{bos}"), None).await.json();
    assert_eq!(shown["state"], "expired");
    let missing = format!("{path}/{}", Uuid::now_v7());
    world.by(&anna, Method::GET, &missing, None).await.problem(404, "not-found");
    assert_eq!(
        world.by(&anna, Method::GET, &format!("{path}/x"), None).await.problem(422, "validation"),
        ["invitation_id invalid"]
    );
}

/// WORK-3: an address is not flooded, whoever invites and however.
#[tokio::test]
async fn an_address_gets_ten_invitations_a_day_and_no_more() {
    let world = World::new().await;
    let anna = person(&world, &world.acme, "anna@example.se", Role::User).await;
    let id = world.made(&anna, "Bokslut").await;
    let invitation = world.invited(&anna, &id, "bo@example.se").await;
    let path = format!("/workspaces/{id}/invitations/{invitation}/resend");
    for _ in 0..9 {
        assert_eq!(world.by(&anna, Method::POST, &path, None).await.status, StatusCode::OK);
    }
    let refused = world.by(&anna, Method::POST, &path, None).await;
    refused.problem(429, "rate-limited");
    assert_eq!(refused.header("retry-after"), "3600");
    let other = world.made(&anna, "Annat").await;
    let body = Some(json!({ "email": "BO@example.se" }));
    world.by(&anna, Method::POST, &format!("/workspaces/{other}/invitations"), body).await.problem(429, "rate-limited");
}

/// API-3, WORK-3: the key belongs to one person.
#[tokio::test]
async fn a_repeated_key_invites_once_and_is_no_key_to_another_s_answer() {
    let world = World::new().await;
    let anna = person(&world, &world.acme, "anna@example.se", Role::User).await;
    let bo = person(&world, &world.acme, "bo@example.se", Role::User).await;
    let make = async |who: &Signed| {
        let (headers, body) = ([("idempotency-key", "one")], Some(json!({ "name": "Bokslut" })));
        world.send(request(Method::POST, "/api/v1/workspaces", &who.token, &headers, body)).await
    };
    let (first, again, bos) = (make(&anna).await, make(&anna).await, make(&bo).await);
    assert_eq!((first.status, &first.text), (StatusCode::CREATED, &again.text));
    assert_eq!((again.header("idempotency-replayed"), bos.header("idempotency-replayed")), ("true", ""));
    assert_eq!(bos.json()["owner_id"], bo.id.to_string(), "{}", bos.text);
}

/// TEN-5
#[tokio::test]
async fn a_suspended_organization_s_workspaces_can_be_read_only() {
    let world = World::new().await;
    let anna = person(&world, &world.acme, "anna@example.se", Role::User).await;
    let id = world.made(&anna, "Bokslut").await;
    world.invited(&anna, &id, "bo@example.se").await;
    let link = world.mailed_link().await;
    world.operate(Method::POST, "/api/v1/organizations/acme/suspend", None).await;
    assert_eq!(world.by(&anna, Method::GET, &format!("/workspaces/{id}"), None).await.status, StatusCode::OK);
    for (method, path, body) in [
        (Method::POST, "/workspaces".to_owned(), Some(json!({ "name": "x" }))),
        (Method::PATCH, format!("/workspaces/{id}"), Some(json!({ "name": "x" }))),
        (Method::POST, format!("/workspaces/{id}/switch"), None),
        (Method::POST, format!("/workspaces/{id}/leave"), None),
    ] {
        world.by(&anna, method, &path, body).await.problem(403, "organization-suspended");
    }
    let page = world.submit(&link, &[], "").await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(page.text.contains("vilande"), "{}", page.text);
}

/// WORK-5: looking changes nothing, however often; acting works once, and says what it did.
#[tokio::test]
async fn the_page_shows_on_get_acts_on_post_and_answers_for_every_state() {
    let world = World::new().await;
    let anna = person(&world, &world.acme, "anna@example.se", Role::User).await;
    let id = world.made(&anna, "Bokslut <2026>").await;
    let invitation = world.invited(&anna, &id, "ny@example.se").await;
    let link = world.mailed_link().await;

    for method in [Method::GET, Method::HEAD, Method::GET] {
        let seen = world.send(request(method.clone(), &link, "", &[], None)).await;
        assert_eq!((seen.status, seen.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
        for (name, value) in
            [("cache-control", "no-store"), ("referrer-policy", "same-origin"), ("x-frame-options", "DENY")]
        {
            assert_eq!(seen.header(name), value);
        }
        assert!(seen.header("content-security-policy").contains("default-src 'none'"));
        if method == Method::GET {
            for part in
                ["lang=\"sv\"", "Du är inbjuden", "Bokslut &#60;2026&#62;", "ny@example.se", "name=\"password\""]
            {
                assert!(seen.text.contains(part), "{part} is missing from {}", seen.text);
            }
            assert!(!seen.text.contains("<script"), "{}", seen.text);
        }
    }
    for (path, headers) in [(format!("{link}?lang=en"), vec![]), (link.clone(), vec![("accept-language", "en-GB")])] {
        let seen = world.send(request(Method::GET, &path, "", &headers, None)).await;
        // The invitation has a language of its own; a browser's counts where nothing else is known.
        let english = path.ends_with("lang=en");
        assert_eq!(seen.text.contains("You are invited"), english, "{path}");
    }

    let empty = world.submit(&link, &[], "name=&password=").await;
    assert_eq!(empty.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(empty.text.matches("Fyll i det här fältet.").count(), 2, "{}", empty.text);
    let short = world.submit(&format!("{link}?lang=en"), &[], "name=Ny+%3Cb%3E&password=short").await;
    assert_eq!(short.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(short.text.contains("Too short") && short.text.contains("value=\"Ny &#60;b&#62;\""), "{}", short.text);
    assert!(!short.text.contains("value=\"short\""), "a password is not sent back");
    let good = "name=Ny+Person&password=correct+horse+battery";
    for foreign in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        let refused = world.submit(&link, &[foreign], good).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{foreign:?}");
        assert!(refused.text.contains("Formuläret kom inte härifrån"), "{}", refused.text);
    }
    let path = format!("/workspaces/{id}/invitations/{invitation}");
    let state = async || world.by(&anna, Method::GET, &path, None).await.json()["state"].as_str().unwrap().to_owned();
    assert_eq!(state().await, "open", "nothing has changed so far");

    let welcome = world.submit(&link, &[("sec-fetch-site", "same-origin")], good).await;
    assert_eq!(welcome.status, StatusCode::OK, "{}", welcome.text);
    assert!(welcome.text.contains("Välkommen till Bokslut &#60;2026&#62;"), "{}", welcome.text);
    assert_eq!(state().await, "accepted");
    for again in [world.submit(&link, &[], good).await, world.look(&link).await] {
        assert_eq!(again.status, StatusCode::GONE);
        assert!(again.text.contains("redan använd"), "{}", again.text);
    }
    let mut db = world.app.db.acquire().await.unwrap();
    let made = users::by_email(&mut db, &EmailAddress::parse("NY@example.se").unwrap()).await.unwrap().unwrap();
    assert_eq!((made.name.as_str(), made.language), ("Ny Person", Language::Sv));

    let revoked = world.invited(&anna, &id, "revoked@example.se").await;
    let link = world.mailed_link().await;
    world.by(&anna, Method::DELETE, &format!("/workspaces/{id}/invitations/{revoked}"), None).await;
    let gone = world.submit(&link, &[], good).await;
    assert_eq!((gone.status, gone.text.contains("dragits tillbaka")), (StatusCode::GONE, true), "{}", gone.text);
    world.invited(&anna, &id, "old@example.se").await;
    let link = world.mailed_link().await;
    sqlx::query("update org_acme.invitations set expires_at = now() where state = 'open'")
        .execute(&world.app.db)
        .await
        .unwrap();
    let expired = world.submit(&link, &[], good).await;
    assert_eq!((expired.status, expired.text.contains("gått ut")), (StatusCode::GONE, true), "{}", expired.text);
    for unknown in [
        "x",
        "acme.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "nobody.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "%00",
    ] {
        let answer = world.look(&format!("/invitations/{unknown}")).await;
        assert_eq!(
            (answer.status, answer.text.contains("Länken gäller inte")),
            (StatusCode::NOT_FOUND, true),
            "{unknown}"
        );
    }
}

/// WORK-5, VAULT-4: forms that are none, too large or of another kind are told so, on a page.
#[tokio::test]
async fn a_form_that_cannot_be_read_is_answered_with_a_page() {
    let world = World::new().await;
    let path = "/invitations/acme.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for (headers, body, status) in [
        (vec![("content-type", "application/json")], "{}".to_owned(), 415),
        (vec![], "x".repeat(20_000), 413),
        (vec![], "name=a%00b".to_owned(), 400),
    ] {
        let answer = world.submit(path, &headers, &body).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
        assert!(answer.text.contains("Formuläret gick inte att läsa"), "{}", answer.text);
    }
    world.send(request(Method::DELETE, path, "", &[], None)).await.problem(405, "method-not-allowed");
}

/// WORK-5: pages for strangers are limited by network; others come through.
#[tokio::test]
async fn a_network_that_asks_too_often_waits() {
    use std::net::SocketAddr;

    use axum::extract::ConnectInfo;

    let world = World::with(&[("BACKROOM__HTTP__STRANGERS_PER_MINUTE", "5")]).await;
    let look = async |peer: &str| {
        let mut request = request(Method::GET, "/invitations/x", "", &[("accept-language", "en")], None);
        request.extensions_mut().insert(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
        world.send(request).await
    };
    for _ in 0..5 {
        assert_eq!(look("192.0.2.1:1").await.status, StatusCode::NOT_FOUND);
    }
    let refused = look("192.0.2.1:2").await;
    assert_eq!((refused.status, refused.text.contains("Too many attempts")), (StatusCode::TOO_MANY_REQUESTS, true));
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(look("192.0.2.2:1").await.status, StatusCode::NOT_FOUND);
}

/// WORK-3: one sign-in in wrong hands is no mass mailing.
#[tokio::test]
async fn a_person_invites_so_many_a_day_and_no_more() {
    let world = World::new().await;
    let anna = person(&world, &world.acme, "anna@example.se", Role::User).await;
    let bo = person(&world, &world.acme, "bo@example.se", Role::User).await;
    let (hers, his) = (world.made(&anna, "Hers").await, world.made(&bo, "His").await);
    world.invited(&anna, &hers, "first@example.se").await;
    let many = "insert into org_acme.invitations (id, workspace_id, email, email_key, language, invited_by, token_hash, token_at,
                    expires_at, created_at)
                select gen_random_uuid(), workspace_id, n || email, n || email_key, language, invited_by, sha256(n::text::bytea),
                    token_at, expires_at, created_at
                from org_acme.invitations, generate_series(1, 199) n";
    sqlx::query(many).execute(&world.app.db).await.unwrap();
    let path = format!("/workspaces/{hers}/invitations");
    let refused = world.by(&anna, Method::POST, &path, Some(json!({"email": "last@example.se"}))).await;
    refused.problem(429, "rate-limited");
    world.invited(&bo, &his, "last@example.se").await;
    let a_day_ago = "update org_acme.invitations set token_at = token_at - interval '1 day'";
    sqlx::query(a_day_ago).execute(&world.app.db).await.unwrap();
    world.invited(&anna, &hers, "last@example.se").await;
}

/// WORK-3: whether an address has an account anywhere, an answer does not tell.
#[tokio::test]
async fn an_invitation_does_not_show_the_language_of_an_account() {
    let world = World::new().await;
    let anna = person(&world, &world.acme, "anna@example.se", Role::User).await;
    let globex = world._database.organization("globex").await;
    person(&world, &globex, "english@example.se", Role::User).await;
    let workspace = world.made(&anna, "Hers").await;
    let path = format!("/workspaces/{workspace}/invitations");
    for email in ["english@example.se", "nobody@example.se"] {
        let made = world.by(&anna, Method::POST, &path, Some(json!({ "email": email }))).await.json();
        assert_eq!(made["language"], "sv", "{made}");
    }
}
