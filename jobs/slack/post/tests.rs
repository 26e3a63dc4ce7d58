use backroom_queue::{NewJob, Outcome, forget_rate_limit, testing};
use serde_json::json;

use super::*;
use crate::{
    demo::vendors::{Mood, slack::Door},
    domain::{Language, NewRule, integration::IntegrationChange},
    jobs::{
        slack::{
            change_rule,
            testing::{GENERAL, Office},
        },
        testing::World,
    },
    store::events::NewEvent,
};

fn completed(outcomes: &[Outcome]) -> bool {
    !outcomes.is_empty() && outcomes.iter().all(|outcome| matches!(outcome, Outcome::Completed { .. }))
}

/// EVT-3, SYNC-11: what the database enqueues is what the program would.
#[tokio::test]
async fn an_event_enqueues_its_message_in_its_own_transaction() {
    let office = Office::new().await;
    let rule = office.rule("invoice.*", GENERAL).await;
    let mut tx = office.world.tenant().await;
    let event = NewEvent { topic: "invoice:1".to_owned(), kind: "invoice.created", payload: json!({}), actor: "test" };
    events::append(&mut tx, &event, office.world.now()).await.unwrap();
    tx.rollback().await.unwrap();
    assert!(office.waiting().await.is_empty(), "of a transaction that never was");

    let mut tx = office.world.tenant().await;
    let event_id = events::append(&mut tx, &event, office.world.now()).await.unwrap();
    tx.commit().await.unwrap();

    let [job] = &office.waiting().await[..] else { panic!("one job") };
    let lane = format!("{}:{GENERAL}", office.integration);
    let expected = NewJob::of(&PostMessage { rule_id: rule.id, event_id, lane, others: 0 }).tenant("acme");
    let args: PostMessage = serde_json::from_value(job.args.clone()).unwrap();
    assert_eq!(serde_json::to_value(&args).unwrap(), expected.args);
    assert_eq!(
        (&job.queue, &job.kind, &job.tenant, job.priority, job.max_attempts, &job.rate_key),
        (
            &expected.queue,
            &expected.kind,
            &expected.tenant,
            expected.priority,
            expected.max_attempts,
            &expected.rate_key
        )
    );
    assert_eq!((job.id.get_version_num(), job.id.get_variant()), (7, uuid::Variant::RFC4122));
    let (seconds, _) = job.id.get_timestamp().unwrap().to_unix();
    assert!(job.created_at.timestamp().abs_diff(seconds.cast_signed()) <= 2, "{}", job.id);
    assert!(expected.unique.is_none());
}

/// EVT-3: also for the program itself, which appends to an organization's log without being its role.
#[tokio::test]
async fn only_events_that_a_rule_names_are_told_to_their_own_organization() {
    let office = Office::new().await;
    office.rule("asset.assigned", GENERAL).await;
    let off = office.rule("employee.*", GENERAL).await;
    let mut tx = office.world.tenant().await;
    let switched = NewRule { enabled: false, ..off.rule.clone() };
    change_rule(&mut tx, (off.id, &switched), "test", office.world.now()).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    for kind in ["asset.returned", "employee.created", "task.created", "assets.assigned"] {
        office.tell(kind, json!({})).await;
    }
    assert!(office.waiting().await.is_empty());

    office.tell("asset.assigned", json!({})).await;
    sqlx::query(
        "insert into org_acme.events (id, topic, kind, payload, actor, created_at)
         values (gen_random_uuid(), 'asset:1', 'asset.assigned', '{}', 'test', now())",
    )
    .execute(&office.world.app.db)
    .await
    .unwrap();
    let tenants: Vec<_> = office.waiting().await.into_iter().map(|job| job.tenant).collect();
    assert_eq!(tenants, [Some("acme".to_owned()), Some("acme".to_owned())]);
}

/// SYNC-11: a first sync does not flood a channel.
#[tokio::test]
async fn many_events_of_one_statement_are_one_message() {
    let office = Office::new().await;
    office.rule("asset.*", GENERAL).await;
    office.tell_many("asset.created", json!({}), 10).await;
    assert_eq!(office.waiting().await.len(), 10);
    assert!(completed(&office.drain().await));
    office.tell_many("asset.created", json!({}), 500).await;
    let [job] = &office.waiting().await[..] else { panic!("one job") };
    assert_eq!(job.args["others"], 499);
    assert!(completed(&office.drain().await));
    assert!(office.said(GENERAL)[10].ends_with("Och 499 till."), "{:?}", office.said(GENERAL));
}

/// SYNC-11
#[tokio::test]
async fn an_invoice_is_told_in_the_language_of_the_organization_or_of_the_rule() {
    let office = Office::new().await;
    office.rule("invoice.created", GENERAL).await;
    office.slack.channel("C0ENGLISH", Door::Open);
    let english = office.rule("invoice.created", "C0ENGLISH").await;
    let mut tx = office.world.tenant().await;
    let change = NewRule { language: Some(Language::En), ..english.rule.clone() };
    change_rule(&mut tx, (english.id, &change), "test", office.world.now()).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    office.world.invoice("F-1001 <!here>", "kund@example.se", 3).await;

    assert!(completed(&office.drain().await));

    let swedish = office.said(GENERAL)[0].replace('\u{a0}', " ");
    assert_eq!(swedish, "Det finns en ny faktura F-1001 &lt;!here&gt; till Kund &amp; Co (12 500,00 kr).");
    assert_eq!(
        office.said("C0ENGLISH"),
        ["There is a new invoice F-1001 &lt;!here&gt; to Kund &amp; Co (SEK 12,500.00)."]
    );
    assert_eq!(office.reload(&english).await.last_posted_at, Some(office.world.now()));
}

/// SYNC-11: by e-mail, asked once.
#[tokio::test]
async fn whom_it_concerns_is_mentioned() {
    let office = Office::new().await;
    office.slack.person("U0ANNA", "anna@example.se");
    office.rule("employee.*", GENERAL).await;
    for email in ["anna@example.se", "Anna@example.se", "bo@example.se", "bo@example.se"] {
        office.tell("employee.terminated", json!({ "email": email })).await;
    }
    assert!(completed(&office.drain().await));
    let said = office.said(GENERAL);
    assert_eq!(said[..2], ["<@U0ANNA> arbetar inte här längre.", "<@U0ANNA> arbetar inte här längre."]);
    assert_eq!(said[3], "bo@example.se arbetar inte här längre.");
    let look_ups =
        office.slack.fake.script.asked().iter().filter(|asked| asked.path.ends_with("lookupByEmail")).count();
    assert_eq!(look_ups, 2);

    // Whatever keeps Slack from telling who somebody is, keeps no message back.
    office.slack.allow(&["chat:write"]);
    office.tell("employee.terminated", json!({ "email": "cy@example.se" })).await;
    assert!(completed(&office.drain().await));
    assert_eq!(office.said(GENERAL)[4], "cy@example.se arbetar inte här längre.");
}

/// SYNC-11: events as their families append them; the person is found by who held the asset, and by whom the workflow is for.
#[tokio::test]
async fn assets_and_workflows_are_told_with_whom_they_concern() {
    use crate::{
        domain::{
            EmailAddress, NewAsset, NewEmployee,
            asset::{Custody, Step},
            employee::PersonName,
            workflow::WorkflowKind,
        },
        jobs::{assets::doors as assets, people::doors as people, workflows},
    };
    let office = Office::new().await;
    office.slack.person("U0ANNA", "anna@example.se");
    for events in ["asset.assigned", "asset.returned", "workflow.started"] {
        office.rule(events, GENERAL).await;
    }
    let (world, now) = (&office.world, office.world.now());
    let sealer = Sealer::new(&world.app.vault, "acme");
    let name = PersonName { first: "Planted".to_owned(), last: "Name".to_owned() };
    let work_email = Some(EmailAddress::parse("anna@example.se").unwrap());
    let new = NewEmployee { name, work_email, ..NewEmployee::default() };
    let mut tx = world.tenant().await;
    let asked = people::Asked { actor: "test", now, trace: None };
    let employee_id = people::create_employee(&mut tx, sealer, &new, &asked).await.unwrap().id;
    let asked = assets::Asked::by("test", now);
    let tag = Some("LT-42".parse().unwrap());
    let new = NewAsset { tag, name: "MacBook <Pro>".to_owned(), ..NewAsset::default() };
    let asset = assets::create_asset(&mut tx, sealer, (&new, Custody::default()), &asked).await.unwrap().id;
    for step in [Step::Assign { employee_id }, Step::Return { location_id: None, condition: None }] {
        assets::step(&mut tx, sealer, (asset, &step), (assets::Remark::default(), &asked)).await.unwrap().unwrap();
    }
    let onboarding = workflows::StartWorkflow {
        employee_id: Some(employee_id),
        title: Some("Första dagen & mer".to_owned()),
        due_on: Some(world.today()),
        ..workflows::StartWorkflow::of(WorkflowKind::Onboarding, &world.organization, world.today())
    };
    workflows::start(&mut tx, &onboarding, "test", now).await.unwrap();
    tx.commit().await.unwrap();

    assert!(completed(&office.drain().await));
    let mut said = office.said(GENERAL);
    said.sort();
    assert_eq!(
        said,
        [
            ":clipboard: *Första dagen &amp; mer* har startat för <@U0ANNA>, klart senast 2026-03-02.",
            ":package: *LT-42* (MacBook &lt;Pro&gt;) har lämnats tillbaka av <@U0ANNA>.",
            ":package: *LT-42* (MacBook &lt;Pro&gt;) har lämnats ut till <@U0ANNA>.",
        ]
    );
    let stored: String = sqlx::query_scalar("select string_agg(j::text, ' ') from queue.finished_jobs j")
        .fetch_one(&world.app.db)
        .await
        .unwrap();
    assert!(!stored.contains("Planted"), "names of people stay where they are: {stored}");
}

/// SYNC-11
#[tokio::test]
async fn a_rule_can_write_to_a_person() {
    let office = Office::new().await;
    office.slack.person("U0ANNA", "anna@example.se");
    office.rule("asset.*", "anna@example.se").await;
    let unknown = office.rule("asset.*", "nobody@example.se").await;
    office.tell("asset.assigned", json!({ "tag": "LT-1" })).await;
    let ran = office.drain().await;
    assert_eq!(ran.iter().filter(|outcome| matches!(outcome, Outcome::Completed { .. })).count(), 1, "{ran:?}");
    assert_eq!(office.said("D0ANNA"), [":package: *LT-1* har lämnats ut."]);
    assert!(office.reload(&unknown).await.error.unwrap().contains("nobody with this address"));
    let lanes =
        sqlx::query_scalar::<_, String>("select lane from org_acme.notification_rules").fetch_all(&office.world.app.db);
    assert!(lanes.await.unwrap().iter().all(|lane| !lane.contains('@')), "addresses are no names of rate limits");
}

/// SYNC-11
#[tokio::test]
async fn the_same_job_twice_posts_one_message() {
    let office = Office::new().await;
    office.rule("asset.*", GENERAL).await;
    office.tell("asset.created", json!({ "tag": "LT-1" })).await;
    let waiting = office.waiting().await.remove(0);
    sqlx::query("delete from queue.jobs").execute(&office.world.app.db).await.unwrap();
    let job: PostMessage = serde_json::from_value(waiting.args).unwrap();
    let tables = ["org_acme.notification_rules", "org_acme.events"];
    let World { app, registry, .. } = &office.world;
    let [once, twice] =
        testing::run_twice(&app.db, registry, app.clone(), office.world.job(&job), &tables).await.unwrap();
    assert!(completed(&[once.0, twice.0]));
    assert_eq!(once.1, twice.1);
    assert_eq!(office.said(GENERAL).len(), 1);
}

/// SYNC-11: Slack took it and its answer was lost; or it failed before. Either way there is one message.
#[tokio::test]
async fn a_message_whose_outcome_nobody_knows_is_looked_for_before_it_is_posted_again() {
    let office = Office::new().await;
    office.rule("asset.*", GENERAL).await;
    for (n, mood) in
        [Mood::BreaksOff, Mood::Truncated, Mood::bad_gateway(), Mood::Answers(500, Vec::new(), String::new())]
            .into_iter()
            .enumerate()
    {
        office.slack.fake.script.next("chat.postMessage", mood.clone());
        office.tell("asset.created", json!({ "tag": format!("LT-{n}") })).await;
        let ran = office.drain().await;
        assert!(matches!(ran[..], [Outcome::Retryable { .. }]), "{mood:?}: {ran:?}");
        assert!(completed(&office.later().await), "{mood:?}");
        assert_eq!(office.said(GENERAL).len(), n + 1, "{mood:?}");
    }
    let looked = office.slack.fake.script.asked();
    assert_eq!(looked.iter().filter(|asked| asked.path.ends_with("conversations.history")).count(), 4);

    // Who may not look posts again.
    office.slack.allow(&["chat:write"]);
    office.slack.fake.script.next("chat.postMessage", Mood::BreaksOff);
    office.tell("asset.created", json!({})).await;
    office.drain().await;
    assert!(completed(&office.later().await));
    assert_eq!(office.said(GENERAL).len(), 6);
}

/// SYNC-11, SYNC-13: the place waits, and no attempt is burnt.
#[tokio::test]
async fn a_limit_holds_the_place_back_and_burns_no_attempt() {
    let office = Office::new().await;
    office.rule("asset.*", GENERAL).await;
    office.slack.fake.script.next("chat.postMessage", Mood::busy(429, Some(Duration::from_secs(30)), "{}"));
    office.tell("asset.created", json!({})).await;
    let ran = office.drain().await;
    assert!(matches!(ran[..], [Outcome::Snoozed { wait }] if wait.as_secs() == 30), "{ran:?}");
    let [job] = &office.waiting().await[..] else { panic!("one job") };
    let limit =
        backroom_queue::rate_limit(&office.world.app.db, job.rate_key.as_deref().unwrap()).await.unwrap().unwrap();
    assert!(limit.blocked_until.is_some());
    assert_eq!(job.attempt, 0);
    assert!(completed(&office.later().await));
    assert_eq!(office.said(GENERAL).len(), 1);
}

/// SYNC-11: one message a second per channel, as far as both sides' clocks agree.
#[tokio::test]
async fn a_channel_is_given_a_message_a_second() {
    let office = Office::new().await;
    let rule = office.rule("asset.*", GENERAL).await;
    let lane = format!("slack:{}:{GENERAL}", office.integration);
    forget_rate_limit(&office.world.app.db, &lane).await.unwrap();
    office.tell_many("asset.created", json!({}), 3).await;
    office.drain().await;
    let stamps: Vec<f64> = office.slack.said(GENERAL).iter().map(|said| said.ts.parse().unwrap()).collect();
    assert_eq!(stamps.len(), 3);
    assert!(stamps[2] - stamps[0] > 1.7, "{stamps:?}");
    assert!(office.reload(&rule).await.error.is_none());
}

/// SYNC-6, SYNC-13
#[tokio::test]
async fn a_dead_token_parks_the_messages_until_there_is_a_new_one() {
    let office = Office::new().await;
    office.rule("asset.*", GENERAL).await;
    office.slack.revoke(Some("token_revoked"));
    office.tell_many("asset.created", json!({}), 2).await;
    let ran = office.drain().await;
    assert!(ran.iter().all(|outcome| matches!(outcome, Outcome::Snoozed { .. })) && ran.len() == 2, "{ran:?}");
    assert_eq!(office.status().await, IntegrationStatus::NeedsAttention);
    assert_eq!(office.kinds().await.iter().filter(|kind| *kind == "integration.needs_attention").count(), 1);
    let asked = office.slack.fake.script.asked().len();
    office.later().await;
    assert_eq!(office.slack.fake.script.asked().len(), asked, "nobody asks with a dead token");

    office.slack.revoke(None);
    let (sealer, change) = (Sealer::new(&office.world.app.vault, "acme"), IntegrationChange::default());
    let credentials = office.slack.credentials().to_string().into();
    let mut tx = office.world.tenant().await;
    let stored = (&change, Some(&credentials), crate::store::integrations::Tokens::End);
    let when = ("test", office.world.now());
    integrations::change_integration(&mut tx, sealer, office.integration, stored, when).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert!(completed(&office.later().await));
    assert_eq!(office.said(GENERAL).len(), 2);
}

/// SYNC-13
#[tokio::test]
async fn what_has_waited_for_a_day_is_no_news() {
    let office = Office::new().await;
    office.rule("asset.*", GENERAL).await;
    office.slack.revoke(Some("account_inactive"));
    office.tell("asset.created", json!({})).await;
    office.drain().await;
    office.world.app.clock.advance(TimeDelta::hours(25));
    let ran = office.later().await;
    assert!(matches!(&ran[..], [Outcome::Cancelled { reason }] if reason.contains("no news")), "{ran:?}");
}

/// SYNC-11: the rule stops with a sentence, others tell of it, and a change begins anew.
#[tokio::test]
async fn a_channel_that_takes_nothing_stops_its_rule_and_no_other() {
    for (door, word) in
        [(Door::Archived, "is_archived"), (Door::NotInvited, "not_in_channel"), (Door::Restricted, "restricted_action")]
    {
        let office = Office::new().await;
        office.slack.channel("C0LAGER", door);
        let stopped = office.rule("asset.*", "C0LAGER").await;
        office.rule("integration.*", GENERAL).await;
        office.tell("asset.created", json!({})).await;
        office.tell("asset.created", json!({})).await;
        let ran = office.drain().await;
        assert!(matches!(&ran[0], Outcome::Discarded { reason, .. } if reason.contains(word)), "{ran:?}");
        assert!(matches!(&ran[1], Outcome::Cancelled { reason } if reason.contains("has stopped")), "{ran:?}");
        let rule = office.reload(&stopped).await;
        assert!(rule.error.unwrap().contains(word));
        assert!(office.said(GENERAL)[0].contains("C0LAGER"), "{:?}", office.said(GENERAL));
        assert_eq!(office.status().await, IntegrationStatus::New, "the integration works");
        office.tell("asset.created", json!({})).await;
        assert!(office.waiting().await.is_empty());

        office.slack.channel("C0LAGER", Door::Open);
        let mut tx = office.world.tenant().await;
        change_rule(&mut tx, (stopped.id, &stopped.rule), "test", office.world.now()).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        office.tell("asset.created", json!({})).await;
        assert!(completed(&office.drain().await));
        assert_eq!(office.said("C0LAGER").len(), 1);
    }
}

/// SYNC-11
#[tokio::test]
async fn what_slack_calls_malformed_is_given_up_at_once() {
    let office = Office::new().await;
    office.rule("asset.*", GENERAL).await;
    let body = json!({"ok": false, "error": "invalid_blocks"}).to_string();
    office.slack.fake.script.next("chat.postMessage", Mood::Answers(200, Vec::new(), body));
    office.tell("asset.created", json!({})).await;
    let ran = office.drain().await;
    assert!(matches!(&ran[..], [Outcome::Discarded { reason, .. }] if reason.contains("invalid_blocks")), "{ran:?}");
}

/// SYNC-11: from a job that was given up to the message.
#[tokio::test]
async fn a_dead_letter_is_told_in_slack() {
    use crate::jobs::{debug, platform::TellDeadLetters};
    let office = Office::new().await;
    office.rule("job.discarded", GENERAL).await;
    let World { app, registry, .. } = &office.world;
    let failing = NewJob { max_attempts: 1, ..office.world.job(&debug::Fail { times: 9 }) };
    backroom_queue::enqueue(&app.db, &failing).await.unwrap();
    testing::drain(&app.db, registry, app.clone(), &failing.queue).await.unwrap();
    let look = NewJob::of(&TellDeadLetters {});
    backroom_queue::run_inline(&app.db, registry, app.clone(), look, |_, _| {}).await.unwrap();

    assert!(completed(&office.drain().await));
    let said = office.said(GENERAL);
    assert!(said.len() == 1 && said[0].contains("debug.fail") && said[0].contains(&failing.id.to_string()), "{said:?}");
}

#[test]
fn the_wire_format_is_stable() {
    let job = PostMessage { rule_id: Uuid::nil(), event_id: Uuid::nil(), lane: "i:C1".to_owned(), others: 0 };
    insta::assert_json_snapshot!(job, @r#"
    {
      "rule_id": "00000000-0000-0000-0000-000000000000",
      "event_id": "00000000-0000-0000-0000-000000000000",
      "lane": "i:C1",
      "others": 0
    }
    "#);
    let written = json!({"rule_id": Uuid::nil(), "event_id": Uuid::nil(), "lane": "i:C1"});
    assert_eq!(serde_json::from_value::<PostMessage>(written).unwrap().others, 0);
}
