//! Signing in, going on, signing out; and whoever tries without being entitled to.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Duration, Utc};

use super::*;

const EMAIL: &str = "Anna.Ek@acme.example";
const PASSWORD: &str = "correct horse battery";

/// A world whose clock stands still, behind one proxy, with Anna, a developer of acme.
async fn world(settings: &[(&str, &str)]) -> (World, Clock, Uuid) {
    let clock = Clock::fixed(Clock::system().now());
    let behind_a_proxy = [("BACKROOM__HTTP__PROXIES", "1")];
    let settings: Vec<_> = behind_a_proxy.iter().chain(settings).copied().collect();
    let world = World::at(clock.clone(), &settings).await;
    let anna = account(&world.app, EMAIL, Some(PASSWORD)).await;
    join(&world.app, &world.acme, anna, Role::Developer, None).await;
    (world, clock, anna)
}

impl World {
    async fn sign_in(&self, email: &str, password: &str) -> Answer {
        self.sign_in_from("192.0.2.1", email, password).await
    }

    async fn sign_in_from(&self, network: &str, email: &str, password: &str) -> Answer {
        let body = json!({"email": email, "password": password});
        self.send(request(Method::POST, "/api/v1/sign-in", "", &[("x-forwarded-for", network)], Some(body))).await
    }

    async fn refresh(&self, token: &str, headers: &[(&str, &str)]) -> Answer {
        let body = json!({"refresh_token": token});
        self.send(request(Method::POST, "/api/v1/sign-in/refresh", "", headers, Some(body))).await
    }

    async fn me(&self, token: &str) -> Answer {
        self.send(request(Method::GET, "/api/v1/me", token, &[], None)).await
    }
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

/// AUTH-2, VAULT-4
#[tokio::test]
async fn a_person_signs_in_goes_on_and_signs_out() {
    let (world, clock, anna) = world(&[]).await;
    let signed_in = world.sign_in("anna.ek@ACME.example", PASSWORD).await;
    assert_eq!(
        (signed_in.status, signed_in.header("cache-control")),
        (StatusCode::OK, "no-store"),
        "{}",
        signed_in.text
    );
    let tokens = signed_in.json();
    assert_eq!(
        (&tokens["role"], &tokens["organization"], &tokens["expires_in"]),
        (&json!("developer"), &json!("acme"), &json!(3600))
    );
    let claims = text(&tokens, "access_token").split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(
        (&claims["sub"], &claims["purpose"], &claims["company"]),
        (&json!(anna), &json!("access"), &Value::Null)
    );
    let me = world.me(text(&tokens, "access_token")).await.json();
    assert_eq!((&me["email"], &me["memberships"][0]["organization"]), (&json!(EMAIL), &json!("acme")));
    let jobs = request(Method::GET, "/api/v1/jobs", text(&tokens, "access_token"), &[], None);
    assert_eq!(world.send(jobs).await.status, StatusCode::OK, "a developer looks at jobs");

    clock.advance(Duration::hours(1));
    world.me(text(&tokens, "access_token")).await.problem(401, "token-expired");
    let next = world.refresh(text(&tokens, "refresh_token"), &[]).await.json();
    assert_ne!(next["refresh_token"], tokens["refresh_token"]);
    assert_eq!(world.me(text(&next, "access_token")).await.status, StatusCode::OK);

    let body = json!({"refresh_token": next["refresh_token"]});
    let out = request(Method::POST, "/api/v1/sign-out", "", &[], Some(body));
    assert_eq!(world.send(out).await.status, StatusCode::NO_CONTENT);
    world.me(text(&next, "access_token")).await.problem(401, "token-revoked");
    world.refresh(text(&next, "refresh_token"), &[]).await.problem(401, "token-revoked");
    let unknown = Some(json!({"refresh_token": "brt_nonsense"}));
    let out = world.send(request(Method::POST, "/api/v1/sign-out", "", &[], unknown)).await;
    assert_eq!(out.status, StatusCode::NO_CONTENT, "the same answer for a token that never was");

    let stored: String = sqlx::query_scalar(
        "select string_agg(t::text, ' ') from (select u::text from public.users u union all
         select encode(token_hash, 'escape') from public.refresh_tokens union all select s::text from public.sessions s) t",
    )
    .fetch_one(&world.app.db)
    .await
    .unwrap();
    for secret in [PASSWORD, text(&tokens, "refresh_token"), text(&next, "refresh_token"), text(&next, "access_token")]
    {
        assert!(!stored.contains(secret), "{secret} lies in {stored}");
    }
}

/// AUTH-2: a thief and the owner both hold a copy; whoever comes second ends it for both.
#[tokio::test]
async fn a_refresh_token_that_comes_a_second_time_ends_the_whole_session() {
    let (world, _, _) = world(&[]).await;
    let first = world.sign_in(EMAIL, PASSWORD).await.json();
    let other = world.sign_in(EMAIL, PASSWORD).await.json();
    let second = world.refresh(text(&first, "refresh_token"), &[]).await.json();
    assert_eq!(world.me(text(&second, "access_token")).await.status, StatusCode::OK);

    world.refresh(text(&first, "refresh_token"), &[]).await.problem(401, "token-reused");
    world.refresh(text(&second, "refresh_token"), &[]).await.problem(401, "token-revoked");
    for ended in [&first, &second] {
        world.me(text(ended, "access_token")).await.problem(401, "token-revoked");
    }
    assert_eq!(
        world.me(text(&other, "access_token")).await.status,
        StatusCode::OK,
        "another sign-in is another family"
    );

    let race = (0..4).map(|_| world.refresh(text(&other, "refresh_token"), &[]));
    let answers = futures::future::join_all(race).await;
    assert_eq!(
        answers.iter().filter(|answer| answer.status == StatusCode::OK).count(),
        1,
        "of four at once one is the first"
    );
    for refused in answers.iter().filter(|answer| answer.status != StatusCode::OK) {
        refused.problem(401, "token-reused");
    }
}

/// AUTH-2, API-3: a lost answer can be asked for again.
#[tokio::test]
async fn a_refresh_that_is_repeated_under_its_key_gives_the_first_answer_again() {
    let (world, clock, _) = world(&[]).await;
    let first = world.sign_in(EMAIL, PASSWORD).await.json();
    let key = [("idempotency-key", "refresh-1")];
    let next = world.refresh(text(&first, "refresh_token"), &key).await;
    let again = world.refresh(text(&first, "refresh_token"), &key).await;
    assert_eq!((next.status, &next.text, again.header("idempotency-replayed")), (StatusCode::OK, &again.text, "true"));
    let third = world.refresh(text(&next.json(), "refresh_token"), &[]).await;
    assert_eq!(third.status, StatusCode::OK, "the session goes on");
    world
        .refresh(text(&first, "refresh_token"), &[("idempotency-key", "refresh-2")])
        .await
        .problem(401, "token-reused");

    let late = world.sign_in(EMAIL, PASSWORD).await.json();
    clock.advance(Duration::days(30));
    world.refresh(text(&late, "refresh_token"), &[]).await.problem(401, "token-expired");
    world.refresh("brt_nonsense", &[]).await.problem(401, "token-invalid");
}

/// AUTH-2
#[tokio::test]
async fn a_token_that_was_forged_or_made_for_something_else_opens_nothing() {
    let (world, _, anna) = world(&[]).await;
    let someone = person_of(&world.app, &world.acme, Role::Admin, None).await;
    assert_eq!(world.me(&someone.token).await.status, StatusCode::OK);
    let parts: Vec<&str> = someone.token.split('.').collect();
    let encode = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let unsigned = encode(json!({"alg": "none", "typ": "JWT"}));
    let mut header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    header["kid"] = json!("k-unknown");
    for forged in [
        format!("{unsigned}.{}.", parts[1]),
        format!("{unsigned}.{}.{}", parts[1], parts[2]),
        format!("{}.{}.{}", encode(header), parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], "A".repeat(43)),
        "a.b.c".to_owned(),
    ] {
        let refused = world.me(&forged).await;
        refused.problem(401, "token-invalid");
        assert!(refused.header("www-authenticate").starts_with("Bearer"));
    }
    let now = world.app.clock.now();
    let claims = |ids| Claims::access(ids, (Role::Admin, None), now, Duration::hours(1));
    let good = claims((someone.id, world.acme.id, someone.session));
    let invitation = Claims { purpose: "invitation".to_owned(), ..good.clone() };
    world.me(&world.app.tokens.sign(&invitation)).await.problem(401, "token-wrong-purpose");
    // Signed by us, but of another's session: no such token was ever made.
    world
        .me(&world.app.tokens.sign(&claims((anna, world.acme.id, someone.session))))
        .await
        .problem(401, "token-invalid");
    let nobody = claims((someone.id, world.acme.id, Uuid::now_v7()));
    world.me(&world.app.tokens.sign(&nobody)).await.problem(401, "token-revoked");
    // What the token claims of the role does not count, the database does.
    let plain = person_of(&world.app, &world.acme, Role::User, None).await;
    let boast = world.app.tokens.sign(&claims((plain.id, world.acme.id, plain.session)));
    assert_eq!(world.me(&boast).await.json()["role"], "user");
    // A key is no token and a token no key.
    world.send(request(Method::GET, "/api/v1/me", &world.key, &[], None)).await.problem(403, "forbidden");
}

/// AUTH-5: nobody learns from answer or time whether an address is known.
#[tokio::test]
async fn an_unknown_address_and_a_wrong_password_get_the_same_answer_after_the_same_work() {
    let costly = [("BACKROOM__SIGN_IN__ARGON2_MEMORY_KIB", "32768"), ("BACKROOM__SIGN_IN__TRIES_PER_MINUTE", "1000")];
    let (world, _, _) = world(&costly).await;
    let keyless = account(&world.app, "keyless@acme.example", None).await;
    join(&world.app, &world.acme, keyless, Role::User, None).await;
    let (mut answers, mut times) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
    for round in 0..7 {
        // A network of its own for each round, so that nobody has to wait.
        let network = format!("192.0.2.{round}");
        for (who, email) in [EMAIL, "nobody@acme.example", "keyless@acme.example"].into_iter().enumerate() {
            let began = std::time::Instant::now();
            let refused = world.sign_in_from(&network, email, "wrong horse battery").await;
            times[who].push(began.elapsed());
            refused.problem(401, "sign-in-refused");
            let mut body = refused.json();
            body["request_id"] = Value::Null;
            answers.push((body, refused.headers.len()));
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    });
    for median in medians {
        assert!(
            median < medians[0] * 1.6 && medians[0] < median * 1.6,
            "known, unknown, without password: {medians:?}"
        );
    }
}

/// AUTH-5: who guesses waits, longer each time; the owner, elsewhere, does not notice.
#[tokio::test]
async fn guessing_is_slowed_and_the_owner_is_not_locked_out() {
    let (world, clock, _) = world(&[("BACKROOM__SIGN_IN__TRIES_PER_MINUTE", "10000")]).await;
    let (thief, owner) = ("203.0.113.9", "192.0.2.1");
    for _ in 0..5 {
        world.sign_in_from(thief, EMAIL, "wrong horse battery").await.problem(401, "sign-in-refused");
    }
    let waits = world.sign_in_from(thief, EMAIL, PASSWORD).await;
    waits.problem(429, "rate-limited");
    assert_eq!(waits.header("retry-after"), "30", "even the right password waits");
    assert_eq!(world.sign_in_from(owner, EMAIL, PASSWORD).await.status, StatusCode::OK);
    for wait in [30, 60, 120, 240, 480, 900, 900] {
        clock.advance(Duration::seconds(wait - 1));
        let early = world.sign_in_from(thief, EMAIL, "wrong").await;
        early.problem(429, "rate-limited");
        assert_eq!(early.header("retry-after"), "1");
        clock.advance(Duration::seconds(1));
        world.sign_in_from(thief, EMAIL, "wrong").await.problem(401, "sign-in-refused");
    }
    assert_eq!(world.sign_in_from(owner, EMAIL, PASSWORD).await.status, StatusCode::OK);
    clock.advance(Duration::days(2));
    assert_eq!(world.sign_in_from(thief, EMAIL, PASSWORD).await.status, StatusCode::OK, "a day later it is forgotten");

    // Many at once are no more guesses than one after the other.
    let race = (0..20).map(|_| world.sign_in_from("198.51.100.7", EMAIL, "wrong"));
    let answers = futures::future::join_all(race).await;
    let tried = answers.iter().filter(|answer| answer.status != StatusCode::TOO_MANY_REQUESTS).count();
    assert_eq!(tried, 5, "{tried} of 20 at once were looked at");

    // From everywhere a little: strangers' networks are stopped together, the owner's own is not.
    let mut stopped = false;
    for n in 0..=100 {
        stopped |= world.sign_in_from(&format!("203.0.113.{n}"), EMAIL, "wrong").await.status.as_u16() == 429;
    }
    assert!(stopped, "a hundred networks with a guess each");
    assert_eq!(world.sign_in_from(owner, EMAIL, PASSWORD).await.status, StatusCode::OK);
    world.sign_in_from("203.0.113.201", "other@acme.example", "wrong").await.problem(401, "sign-in-refused");
}

/// AUTH-5
#[tokio::test]
async fn a_network_that_tries_address_after_address_has_to_wait() {
    let (world, _, _) = world(&[("BACKROOM__SIGN_IN__TRIES_PER_MINUTE", "3")]).await;
    for n in 0..3 {
        world.sign_in(&format!("a{n}@acme.example"), "wrong").await.problem(401, "sign-in-refused");
    }
    let flood = world.sign_in("a4@acme.example", "wrong").await;
    flood.problem(429, "rate-limited");
    assert!(flood.header("retry-after").parse::<u32>().unwrap() >= 1);
    assert_eq!(world.sign_in_from("192.0.2.2", EMAIL, PASSWORD).await.status, StatusCode::OK);
}

/// AUTH-1, AUTH-2, API-8
#[tokio::test]
async fn who_belongs_to_several_organizations_names_one() {
    let (world, _, anna) = world(&[]).await;
    let globex = world._database.organization("globex").await;
    let wanted = world._database.organization("initech").await;
    join(&world.app, &globex, anna, Role::Admin, None).await;
    let sign_in = async |organization: Option<&str>, headers: &[(&str, &str)], password: &str| {
        let mut body = json!({"email": EMAIL, "password": password});
        if let Some(organization) = organization {
            body["organization"] = json!(organization);
        }
        world.send(request(Method::POST, "/api/v1/sign-in", "", headers, Some(body))).await
    };
    let unnamed = sign_in(None, &[], PASSWORD).await;
    assert_eq!(unnamed.problem(422, "validation"), ["organization required"]);
    assert!(unnamed.text.contains("acme, globex"), "{}", unnamed.text);
    assert_eq!(sign_in(Some("globex"), &[], PASSWORD).await.json()["role"], "admin");
    assert_eq!(sign_in(None, &[("x-tenant-id", "acme")], PASSWORD).await.json()["role"], "developer");
    assert_eq!(sign_in(None, &[("host", "globex.backroom.example")], PASSWORD).await.json()["organization"], "globex");
    for nobodys in [wanted.slug.as_str(), "no-such", "../etc"] {
        sign_in(Some(nobodys), &[], PASSWORD).await.problem(403, "forbidden");
    }
    sign_in(Some("initech"), &[], "wrong horse").await.problem(401, "sign-in-refused");
    let token = sign_in(Some("globex"), &[], PASSWORD).await.json();
    let elsewhere = request(Method::GET, "/api/v1/me", text(&token, "access_token"), &[("x-tenant-id", "acme")], None);
    world.send(elsewhere).await.problem(403, "tenant-mismatch");
    let body = json!({"email": EMAIL, "password": PASSWORD});
    let keyed = request(Method::POST, "/api/v1/sign-in", "", &[("idempotency-key", "k")], Some(body));
    assert_eq!(world.send(keyed).await.problem(422, "validation"), ["Idempotency-Key invalid"]);
    let wrong = world.sign_in("no address", &"x".repeat(201)).await;
    assert_eq!(wrong.problem(422, "validation"), ["email invalid", "password too_long"]);
}

/// AUTH-2, AUTH-5
#[tokio::test]
async fn a_new_password_needs_the_old_one_and_ends_the_other_sessions() {
    let (world, _, _) = world(&[]).await;
    let (mine, other) = (world.sign_in(EMAIL, PASSWORD).await.json(), world.sign_in(EMAIL, PASSWORD).await.json());
    let change = async |old: &str, new: &str, key: &str| {
        let body = json!({"old_password": old, "new_password": new});
        let headers: &[(&str, &str)] = if key.is_empty() { &[] } else { &[("idempotency-key", key)] };
        world.send(request(Method::POST, "/api/v1/me/password", text(&mine, "access_token"), headers, Some(body))).await
    };
    assert_eq!(change(PASSWORD, "short", "").await.problem(422, "validation"), ["new_password too_short"]);
    assert_eq!(change("wrong", "a much better one", "").await.problem(422, "validation"), ["old_password invalid"]);
    let changed = change(PASSWORD, "a much better one", "change-1").await;
    assert_eq!((changed.status, &changed.json()["sessions_ended"]), (StatusCode::OK, &json!(1)), "{}", changed.text);
    let again = change(PASSWORD, "a much better one", "change-1").await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (StatusCode::OK, "true"));
    assert_eq!(world.me(text(&mine, "access_token")).await.status, StatusCode::OK);
    world.me(text(&other, "access_token")).await.problem(401, "token-revoked");
    world.sign_in(EMAIL, PASSWORD).await.problem(401, "sign-in-refused");
    assert_eq!(world.sign_in(EMAIL, "a much better one").await.status, StatusCode::OK);
    for _ in 0..5 {
        change("wrong", "yet another password", "").await.problem(422, "validation");
    }
    change("wrong", "yet another password", "").await.problem(429, "rate-limited");
}

/// AUTH-2: a hash of another cost is replaced when its owner signs in.
#[tokio::test]
async fn a_password_is_hashed_anew_when_the_cost_has_changed() {
    let (world, _, anna) = world(&[]).await;
    let old = crate::domain::Passwords::new(32, 1).unwrap().hash(&Password::parse(PASSWORD).unwrap()).unwrap();
    let set = "update public.users set password_hash = $1 where id = $2";
    sqlx::query(set).bind(old.as_str()).bind(anna).execute(&world.app.db).await.unwrap();
    assert_eq!(world.sign_in(EMAIL, PASSWORD).await.status, StatusCode::OK);
    let hash: String = sqlx::query_scalar("select password_hash from public.users where id = $1")
        .bind(anna)
        .fetch_one(&world.app.db)
        .await
        .unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hash}");
    assert_eq!(world.sign_in(EMAIL, PASSWORD).await.status, StatusCode::OK);
}

/// AUTH-2: keys from the configuration; an old one is believed until it is taken out.
#[tokio::test]
async fn tokens_outlive_a_rotation_of_the_keys() {
    let (old, new) = (vault::generate_key(), vault::generate_key());
    let (before, _, _) = world(&[("BACKROOM__SIGN_IN__TOKEN_KEYS", &old)]).await;
    let token = before.sign_in(EMAIL, PASSWORD).await.json()["access_token"].as_str().unwrap().to_owned();
    let vars = |keys: String| {
        let mut config = before.app.config.clone();
        config.sign_in.token_keys = keys.split(',').map(Into::into).collect();
        App::with_pool(config, before.app.db.clone(), before.app.clock.clone()).unwrap()
    };
    let now: DateTime<Utc> = before.app.clock.now();
    assert!(vars(format!("{new},{old}")).tokens.open(&token, now).is_ok());
    assert!(vars(new.clone()).tokens.open(&token, now).is_err());
    let mut config = before.app.config.clone();
    config.sign_in.token_keys = vec!["no-key".into()];
    let refused =
        App::with_pool(config.clone(), before.app.db.clone(), before.app.clock.clone()).err().unwrap().to_string();
    assert!(refused.contains("sign_in.token_keys") && !refused.contains("no-key"), "{refused}");
    config.sign_in.token_keys = vec![old.clone().into(), old.into()];
    assert!(App::with_pool(config, before.app.db.clone(), before.app.clock.clone()).is_err());
}

/// AUTH-1, AUTH-2: an account that one organization made is no way into another before its owner has shown whose address it is; and
/// then it is theirs alone.
#[tokio::test]
async fn whoever_made_an_account_for_a_stranger_s_address_does_not_get_in_where_the_stranger_does() {
    let (world, _, _) = world(&[]).await;
    let globex = world._database.organization("globex").await;
    let boss = person_of(&world.app, &globex, Role::Admin, None).await;
    let planted = "what the attacker knows";
    let made = json!({"email": "ceo@globex.example", "name": "Ceo", "role": "user", "password": planted});
    let made = world.post("/api/v1/members", made).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let sign_in = async |organization: Option<&str>, password: &str| {
        let mut body = json!({"email": "ceo@globex.example", "password": password});
        if let Some(organization) = organization {
            body["organization"] = json!(organization);
        }
        world.send(request(Method::POST, "/api/v1/sign-in", "", &[], Some(body))).await
    };
    let by_boss = async |path: &str, body: Value| {
        let answer = world.send(request(Method::POST, path, &boss.token, &[], Some(body))).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    by_boss("/api/v1/members", json!({"email": "ceo@globex.example", "role": "admin"})).await;

    sign_in(Some("globex"), planted).await.problem(403, "forbidden");
    let inside = sign_in(None, planted).await;
    assert_eq!((inside.status, &inside.json()["organization"]), (StatusCode::OK, &json!("acme")), "{}", inside.text);
    let inside = inside.json();
    let me = world.me(text(&inside, "access_token")).await.json();
    assert_eq!(me["memberships"].as_array().unwrap().len(), 1, "nor does it tell where: {me}");

    let workspace = by_boss("/api/v1/workspaces", json!({"name": "Board"})).await;
    by_boss(&format!("/api/v1/workspaces/{workspace}/invitations"), json!({"email": "ceo@globex.example"})).await;
    let registry = Arc::new(crate::jobs::registry(&world.app.config));
    backroom_queue::testing::drain(&world.app.db, &registry, world.app.clone(), "mailers").await.unwrap();
    let mail = world.mailbox.get(world.mailbox.list(1)[0].id).unwrap().text.unwrap();
    let link = mail.split_whitespace().find_map(|word| word.find("/invitations/").map(|at| &word[at..])).unwrap();
    let page = world.send(request(Method::GET, link, "", &[], None)).await;
    assert!(page.text.contains("name=\"password\"") && !page.text.contains("name=\"name\""), "{}", page.text);
    let press = async |form: &str| {
        let press = Request::builder().method(Method::POST).uri(link);
        let press = press.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        world.send(press.body(Body::from(form.to_owned())).unwrap()).await
    };
    assert_eq!(press("").await.status, StatusCode::UNPROCESSABLE_ENTITY, "a password is to be chosen");
    let welcome = press("password=what+the+owner+knows").await;
    assert_eq!(welcome.status, StatusCode::OK, "{}", welcome.text);

    world.me(text(&inside, "access_token")).await.problem(401, "token-revoked");
    world.refresh(text(&inside, "refresh_token"), &[]).await.problem(401, "token-revoked");
    for organization in ["acme", "globex"] {
        sign_in(Some(organization), planted).await.problem(401, "sign-in-refused");
        assert_eq!(sign_in(Some(organization), "what the owner knows").await.status, StatusCode::OK);
    }
}

/// AUTH-2: a password that is changed while a sign-in with the old one is under way opens nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_that_a_new_password_overtakes_is_refused() {
    let (world, clock, anna) = world(&[]).await;
    // Keeps new sessions waiting, when the old password has been looked at.
    let mut owner = world.app.db.begin().await.unwrap();
    sqlx::query("lock table public.sessions in share row exclusive mode").execute(&mut *owner).await.unwrap();
    let change = async {
        world._database.until_somebody_waits().await;
        let new = world.app.hash_password(Password::parse("a much better one").unwrap()).await.unwrap();
        let old = users::password(&mut owner, anna).await.unwrap();
        assert!(users::set_password(&mut owner, anna, old.as_ref(), &new, clock.now()).await.unwrap());
        let reason = sessions::EndReason::PasswordChanged;
        sessions::end_all(&mut owner, anna, (None, None), reason, clock.now()).await.unwrap();
        owner.commit().await.unwrap();
    };

    let (signed_in, ()) = futures::join!(world.sign_in(EMAIL, PASSWORD), change);

    signed_in.problem(401, "sign-in-refused");
    let open: i64 = sqlx::query_scalar("select count(*) from public.sessions where ended_at is null")
        .fetch_one(&world.app.db)
        .await
        .unwrap();
    assert_eq!(open, 0);
    assert_eq!(world.sign_in(EMAIL, "a much better one").await.status, StatusCode::OK);
}

/// AUTH-1, AUTH-2: nor does a session begin in an organization that the person is taken out of at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_that_a_removal_overtakes_is_refused() {
    let (world, clock, anna) = world(&[]).await;
    let removal = world.app.db.begin().await.unwrap();
    let removal = tenant::end_membership(removal, &world.acme, anna, ("test", clock.now())).await.unwrap();
    let remove = async {
        world._database.until_somebody_waits().await;
        removal.commit().await.unwrap();
    };
    let (signed_in, ()) = futures::join!(world.sign_in(EMAIL, PASSWORD), remove);
    signed_in.problem(403, "forbidden");
    let begun: i64 = sqlx::query_scalar("select count(*) from public.sessions").fetch_one(&world.app.db).await.unwrap();
    assert_eq!(begun, 0);
}

/// AUTH-2, AUTH-5: two sign-ins at once, each of which hashes the password anew, both get in.
#[tokio::test]
async fn sign_ins_at_once_after_a_change_of_the_cost_all_get_in() {
    let (world, _, anna) = world(&[]).await;
    let old = crate::domain::Passwords::new(32, 1).unwrap().hash(&Password::parse(PASSWORD).unwrap()).unwrap();
    let set = "update public.users set password_hash = $1 where id = $2";
    sqlx::query(set).bind(old.as_str()).bind(anna).execute(&world.app.db).await.unwrap();
    let answers = futures::future::join_all((0..4).map(|_| world.sign_in(EMAIL, PASSWORD))).await;
    for answer in answers {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
}

/// AUTH-2, API-3: whoever asks again need not bring the access token that has expired meanwhile; and an organization's program cannot
/// take a session's key.
#[tokio::test]
async fn a_refresh_s_key_belongs_to_the_session_whatever_else_is_sent() {
    let (world, _, _) = world(&[]).await;
    let first = world.sign_in(EMAIL, PASSWORD).await.json();
    let bearer = format!("Bearer {}", text(&first, "access_token"));
    let key = ("idempotency-key", "refresh-1");
    let program = world.post_with("/api/v1/jobs", &[key], json!({"kind": "debug.noop"})).await;
    assert_eq!(program.status, StatusCode::ACCEPTED, "{}", program.text);

    let next = world.refresh(text(&first, "refresh_token"), &[key, ("authorization", &bearer)]).await;
    let again = world.refresh(text(&first, "refresh_token"), &[key]).await;
    let with_a_key = format!("Bearer {}", world.key);
    let third = world.refresh(text(&first, "refresh_token"), &[key, ("authorization", &with_a_key)]).await;

    assert_eq!(next.status, StatusCode::OK, "{}", next.text);
    for replayed in [again, third] {
        assert_eq!((replayed.status, &replayed.text), (StatusCode::OK, &next.text));
        assert_eq!(replayed.header("idempotency-replayed"), "true");
    }
    let other = world.sign_in(EMAIL, PASSWORD).await.json();
    let others = world.refresh(text(&other, "refresh_token"), &[key]).await;
    assert_eq!((others.status, others.header("idempotency-replayed")), (StatusCode::OK, ""), "another session's key");
}

/// AUTH-2, AUTH-5, API-6: a token that is good for nothing any more is a stranger's, and takes nothing from the organization.
#[tokio::test]
async fn a_dead_refresh_token_is_limited_by_network_and_costs_the_organization_nothing() {
    let few = [("BACKROOM__HTTP__STRANGERS_PER_MINUTE", "5"), ("BACKROOM__HTTP__RATE_LIMIT_PER_MINUTE", "12")];
    let (world, _, _) = world(&few).await;
    let first = world.sign_in(EMAIL, PASSWORD).await.json();
    let second = world.refresh(text(&first, "refresh_token"), &[]).await.json();
    for host in 1..=4 {
        let network = format!("203.0.113.{host}");
        let from = [("x-forwarded-for", network.as_str())];
        for _ in 0..5 {
            world.refresh(text(&first, "refresh_token"), &from).await.problem(401, "token-reused");
        }
        world.refresh(text(&first, "refresh_token"), &from).await.problem(429, "rate-limited");
        world.refresh(text(&second, "refresh_token"), &from).await.problem(429, "rate-limited");
    }
    assert_eq!(world.get("/api/v1/jobs").await.status, StatusCode::OK, "the organization has its own requests left");
}

/// AUTH-2: whoever holds a dead token does not make this process ask the database anew for everybody in the organization.
#[tokio::test]
async fn a_refresh_token_that_comes_a_third_time_makes_nobody_forgotten() {
    let (world, _, _) = world(&[]).await;
    let first = world.sign_in(EMAIL, PASSWORD).await.json();
    world.refresh(text(&first, "refresh_token"), &[]).await;
    world.refresh(text(&first, "refresh_token"), &[]).await.problem(401, "token-reused");
    assert_eq!(world.get("/api/v1/jobs").await.status, StatusCode::OK);
    // Behind this process's back, so that only what it remembers lets the key in.
    sqlx::query("delete from public.api_keys").execute(&world.app.db).await.unwrap();
    world.refresh(text(&first, "refresh_token"), &[]).await.problem(401, "token-reused");
    assert_eq!(world.get("/api/v1/jobs").await.status, StatusCode::OK);
}
