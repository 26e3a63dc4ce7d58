//! What may last: runs with many faults, vendors that refuse for hours, wishes that wait (SYNC-3, SYNC-5, SYNC-13).

use super::*;
use crate::jobs::integrations::SweepDue;

/// SYNC-3: what gets further between its failures is not given up, however many they are; what does not is, after as many as ever.
#[tokio::test]
async fn a_run_that_gets_further_is_not_given_up() {
    let rig = Rig::new(350).await;
    // Each page that is read is followed by two failures.
    for n in 0..20 {
        rig.vendor.script.next("/people", page(&rig, n));
        rig.vendor.script.next("/people", Mood::bad_gateway());
        rig.vendor.script.next("/people", Mood::Truncated);
    }
    let mut outcomes = vec![rig.sync(None).await];
    while !matches!(outcomes.last(), Some(Outcome::Completed { .. } | Outcome::Discarded { .. })) {
        outcomes.extend(rig.go_on().await);
    }

    assert_eq!((completed(outcomes.last().unwrap()).counts.read, outcomes.len()), (350, 41));
    assert_eq!((rig.runs().await.len(), rig.ids().await.len()), (1, 350));

    rig.data().people[0].revision = 2;
    for _ in 0..3 {
        rig.vendor.script.next("/people", Mood::bad_gateway());
    }
    let outcomes = [vec![rig.sync(None).await], rig.go_on().await, rig.go_on().await].concat();
    assert!(matches!(&outcomes[..], [Outcome::Retryable { .. }, Outcome::Retryable { .. }, Outcome::Discarded { .. }]));
}

/// SYNC-2, SYNC-3: a place that expires as soon as it is given is no progress.
#[tokio::test]
async fn a_stream_that_begins_anew_for_ever_is_given_up() {
    let rig = Rig::new(25).await;
    let expired = || Mood::Answers(410, Vec::new(), String::new());
    rig.vendor.script.next("/people", page(&rig, 0));
    for _ in 0..4 {
        for _ in 0..3 {
            rig.vendor.script.next("/people", expired());
            rig.vendor.script.next("/people", page(&rig, 0));
        }
        rig.vendor.script.next("/people", expired());
    }
    let outcomes = [vec![rig.sync(None).await], rig.go_on().await, rig.go_on().await].concat();

    assert!(matches!(&outcomes[..], [_, _, Outcome::Discarded { .. }]), "{outcomes:?}");
}

/// SYNC-13: who refuses for hours is told of, and asked on; a page ends it, and the next time is another.
#[tokio::test]
async fn a_vendor_that_refuses_for_hours_is_told_of_once() {
    let rig = Rig::new(25).await;
    // Nothing else is queued by the sweep.
    rig.execute("update org_acme.integrations set next_run_at = null").await;
    let advance = |minutes| rig.world.app.clock.advance(chrono::Duration::minutes(minutes));
    let sweep = async || match rig.world.run(&SweepDue {}).await {
        Outcome::Completed { result: Some(result) } => result["stalled"].as_u64().unwrap(),
        other => panic!("{other:?}"),
    };
    for _ in 0..4 {
        rig.vendor.script.next("/people", Mood::busy(429, Some(Duration::from_secs(86_400)), ""));
    }
    assert_eq!(rig.sync(None).await, Outcome::Snoozed { wait: Duration::from_secs(86_400) });
    let since = rig.world.now();
    advance(6 * 60 - 1);
    assert_eq!(sweep().await, 0);
    assert_eq!(rig.integration().await.status, IntegrationStatus::New);
    advance(1);
    assert!(matches!(&rig.go_on().await[..], [Outcome::Snoozed { .. }]));
    assert_eq!((sweep().await, sweep().await), (1, 0));

    let integration = rig.integration().await;
    assert_eq!((integration.status, integration.stalled_since), (IntegrationStatus::Failing, Some(since)));
    let told = integration.last_error.unwrap();
    assert!(told.starts_with("BambooHR has let nothing be read since 2026-03-02 08:00 UTC (HR limits"), "{told}");
    let jobs = queue::enqueued::<TellAttention>(&rig.world.app.db).await.unwrap();
    assert_eq!((jobs.len(), rig.told().await.pop().unwrap().as_str()), (1, "integration.stalled"));
    advance(24 * 60);
    rig.go_on().await;
    assert_eq!(sweep().await, 0, "they know");

    rig.go_on().await;
    completed(&rig.go_on().await[0]);
    let integration = rig.integration().await;
    assert_eq!((integration.status, integration.stalled_since), (IntegrationStatus::Healthy, None));
    assert!(rig.told().await.contains(&"integration.recovered".to_owned()));
    rig.vendor.script.next("/people", Mood::busy(429, None, ""));
    rig.sync(None).await;
    advance(6 * 60);
    assert_eq!(sweep().await, 1, "another time");
}

/// SYNC-5: what was asked for while another run was under way is done after it, once.
#[tokio::test]
async fn a_full_run_that_is_asked_for_meanwhile_follows() {
    let rig = Rig::new(5).await;
    completed(&rig.sync(None).await);
    let ask = async |mode| {
        let request = SyncIntegration { integration_id: rig.integration_id, mode, trigger: SyncTrigger::Manual };
        let mut tx = rig.world.tenant().await;
        let told = (rig.world.now(), None);
        let asked = request_sync(&mut tx, &rig.world.organization.slug, &request, "test", told).await.unwrap();
        tx.commit().await.unwrap();
        asked.duplicate
    };
    let due = async || {
        let mut tx = rig.world.tenant().await;
        let due = integrations::due(&mut tx, rig.world.now(), 0, 10).await.unwrap();
        tx.commit().await.unwrap();
        due.iter().map(|due| due.full).collect::<Vec<_>>()
    };
    due().await;
    assert_eq!((ask(None).await, ask(None).await, due().await.len()), (false, true, 0));
    assert!(ask(Some(SyncMode::Full)).await);
    assert!(due().await.is_empty(), "not in the sweep that is at work");
    rig.world.app.clock.advance(chrono::Duration::minutes(5));
    assert_eq!(due().await, [true]);

    completed(&rig.sync(Some(SyncMode::Full)).await);

    rig.world.app.clock.advance(chrono::Duration::minutes(60));
    assert_eq!(due().await, [false], "it was done");
}

/// SYNC-5: what is mended here is read again within a day, and everything after a week.
#[tokio::test]
async fn everything_is_read_again_when_it_is_time() {
    let rig = Rig::new(5).await;
    let full = async |days: i64, full_days| {
        rig.world.app.clock.advance(chrono::Duration::days(days));
        let mut tx = rig.world.tenant().await;
        let due = integrations::due(&mut tx, rig.world.now(), full_days, 10).await.unwrap();
        // It stays due.
        tx.rollback().await.unwrap();
        due[0].full
    };
    assert!(!full(30, 7).await, "nothing was read: the first run reads everything anyway");
    completed(&rig.sync(None).await);
    assert!(!full(6, 7).await);
    assert!(full(1, 7).await);
    let mut tx = rig.world.tenant().await;
    integrations::full_begins(&mut tx, rig.integration_id, rig.world.now()).await.unwrap();
    tx.commit().await.unwrap();
    assert!(!full(0, 7).await, "it does not get to its end: what has changed is read meanwhile");
    assert!(full(1, 7).await);
    assert!(!full(30, 0).await);

    completed(&rig.sync(Some(SyncMode::Full)).await);
    rig.data().people[0] = Entry { name: String::new(), revision: 2, ..entries("p", 1).remove(0) };
    assert_eq!(completed(&rig.sync(None).await).counts.failed, 1);
    completed(&rig.sync(None).await);
    rig.world.app.clock.advance(chrono::Duration::hours(23));
    assert!(!full(0, 7).await);
    rig.world.app.clock.advance(chrono::Duration::hours(1));
    assert!(full(0, 7).await);
    rig.data().people[0].name = "Mended".to_owned();
    completed(&rig.sync(Some(SyncMode::Full)).await);
    assert!(!full(1, 7).await);
}

/// SYNC-13: an answer that says that no call is left is believed; the figure stays, and nothing went wrong.
#[tokio::test]
async fn a_vendor_that_says_that_no_call_is_left_is_left_alone_until_its_time() {
    for headers in [
        vec![("ratelimit", r#""default";r=0;t=120"#.to_owned())],
        vec![("x-ratelimit-remaining", "0".to_owned()), ("x-ratelimit-reset", "120".to_owned())],
    ] {
        let rig = Rig::new(25).await;
        let Mood::Answers(status, _, body) = page(&rig, 0) else { unreachable!() };
        rig.vendor.script.next("/people", Mood::Answers(status, headers, body));

        let outcome = rig.sync(None).await;

        assert!(matches!(outcome, Outcome::Snoozed { wait } if (100..=120).contains(&wait.as_secs())), "{outcome:?}");
        let limit = rate_limit(&rig.world.app.db, rig.vendor.address()).await.unwrap().unwrap();
        assert_eq!((limit.permits, limit.blocked_until.is_some()), (6000, true));
        let run = rig.runs().await.remove(0);
        assert_eq!((run.counts.read, run.error), (10, None));
        assert_eq!(completed(&rig.go_on().await[0]).counts.read, 25);
    }
}
