mod patience;

use std::time::Duration;

use backroom_queue::{JobState, Outcome, Worker, WorkerConfig, enqueue, find, rate_limit, testing as queue};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    demo::vendors::Mood,
    domain::integration::IntegrationChange,
    jobs::integrations::{
        TellAttention, request_sync,
        testing::{Entry, Read, Rig, STOPPED, entries, until},
    },
    store::{Page, StoreError, integrations::Tokens, sync_runs::Begun},
};

fn completed(outcome: &Outcome) -> sync::Report {
    match outcome {
        Outcome::Completed { result: Some(result) } => serde_json::from_value(result.clone()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// SYNC-2, SYNC-4
#[tokio::test]
async fn streams_are_read_in_order_page_by_page_and_counted() {
    let rig = Rig::new(25).await;
    rig.data().things = entries("t", 3);

    let report = completed(&rig.sync(None).await);

    assert_eq!(
        (report.mode, report.counts.pages, report.counts.read, report.counts.created),
        (SyncMode::Full, 4, 28, 28)
    );
    assert_eq!(rig.asked("people"), ["", "page=1", "page=2"]);
    assert_eq!(rig.asked("things"), [""]);
    assert_eq!(rig.ids().await, entries("p", 25).into_iter().map(|entry| entry.id).collect::<Vec<_>>());
    let run = rig.runs().await.remove(0);
    assert_eq!(
        (run.state, run.trigger, run.counts, run.total),
        (SyncState::Completed, SyncTrigger::Manual, report.counts, Some(28))
    );
    assert_eq!((run.error, run.ended_at.is_some()), (None, true));
    let integration = rig.integration().await;
    assert_eq!((integration.status, integration.last_success_at), (IntegrationStatus::Healthy, Some(rig.world.now())));
    assert_eq!(rig.told().await, ["integration.created", "integration.synchronized"]);
}

/// SYNC-3: a second run writes no row of the records, nor an event.
#[tokio::test]
async fn a_second_sync_changes_nothing() {
    let rig = Rig::new(25).await;
    completed(&rig.sync(None).await);
    let before = rig.stored().await;
    let told = rig.told().await;

    let incremental = completed(&rig.sync(None).await);
    let full = completed(&rig.sync(Some(SyncMode::Full)).await);

    assert_eq!((incremental.mode, incremental.counts.read), (SyncMode::Incremental, 0));
    assert_eq!((full.mode, full.counts.read, full.counts.unchanged), (SyncMode::Full, 25, 25));
    assert_eq!(rig.stored().await, before);
    assert_eq!(rig.told().await, told);
}

/// SYNC-2, SYNC-4: what has changed since the last run's bookmark, and nothing else; what is gone, too.
#[tokio::test]
async fn an_incremental_run_reads_what_has_changed() {
    let rig = Rig::new(25).await;
    completed(&rig.sync(None).await);
    rig.data().people[3] = Entry { name: "Changed".to_owned(), revision: 2, ..entries("p", 4).remove(3) };
    rig.data().people[4] = Entry { revision: 2, gone: true, ..entries("p", 5).remove(4) };

    let report = completed(&rig.sync(None).await);

    assert_eq!((report.mode, report.counts.read, report.counts.updated), (SyncMode::Incremental, 2, 2));
    assert_eq!(rig.asked("people").last().unwrap(), "since=1");
    let gone: Vec<String> = sqlx::query_scalar("select external_id from employees where status = 'terminated'")
        .fetch_all(&mut *rig.world.tenant().await)
        .await
        .unwrap();
    assert_eq!(gone, ["p0004"]);
}

/// SYNC-4: a run with 1 % bad records ends `completed` with those named; beyond a thousand they are only counted.
#[tokio::test]
async fn bad_records_are_named_and_stop_nothing() {
    let rig = Rig::new(300).await;
    for n in [7, 107, 207] {
        rig.data().people[n].name.clear();
    }

    let report = completed(&rig.sync(None).await);

    assert_eq!((report.counts.created, report.counts.failed, report.counts.read), (297, 3, 300));
    let failures = sync_runs::failures(&mut *rig.world.tenant().await, report.run_id, Page::first(10)).await.unwrap();
    let named: Vec<_> = failures
        .iter()
        .map(|f| (f.position, f.record.external_id.as_deref().unwrap(), f.record.reason.as_str()))
        .collect();
    assert_eq!(named, [(1, "p0007", "has no name"), (2, "p0107", "has no name"), (3, "p0207", "has no name")]);

    rig.data().per_page = 1000;
    rig.data().people.iter_mut().for_each(|person| person.name.clear());
    rig.data().people.extend(entries("q", 900).into_iter().map(|person| Entry { name: String::new(), ..person }));
    let report = completed(&rig.sync(Some(SyncMode::Full)).await);
    let kept: i64 = sqlx::query_scalar("select count(*) from sync_failures where run_id = $1")
        .bind(report.run_id)
        .fetch_one(&mut *rig.world.tenant().await)
        .await
        .unwrap();
    assert_eq!((report.counts.failed, kept), (1200, 1000));
}

/// SYNC-4: two records that the database cannot both have: one is stored, the other named, its neighbours are there.
#[tokio::test]
async fn a_record_that_contradicts_another_takes_no_third_with_it() {
    let rig = Rig::new(5).await;
    rig.data().people[3].id = "P0002".to_owned();

    let report = completed(&rig.sync(None).await);

    assert_eq!((report.counts.created, report.counts.failed), (4, 1));
    assert_eq!(rig.ids().await.len(), 4);
}

/// SYNC-3: an attempt that fails goes on at its checkpoint.
#[tokio::test]
async fn the_next_attempt_goes_on_where_the_last_one_stopped() {
    let rig = Rig::new(35).await;
    // The third page fails twice.
    for mood in [page(&rig, 0), page(&rig, 1), Mood::bad_gateway(), Mood::Truncated] {
        rig.vendor.script.next("/people", mood);
    }

    let first = rig.sync(None).await;

    assert!(matches!(&first, Outcome::Retryable { error, .. } if error.contains("502")), "{first:?}");
    let run = rig.runs().await.remove(0);
    assert_eq!((run.state, run.counts.read, run.error.as_deref()), (SyncState::Running, 20, Some("HR answered 502")));

    let second = rig.go_on().await;
    let third = rig.go_on().await;

    assert!(matches!(&second[..], [Outcome::Retryable { .. }]), "{second:?}");
    let report = completed(&third[0]);
    assert_eq!((report.run_id, report.counts.read, report.counts.pages), (run.id, 35, 5));
    assert_eq!(rig.asked("people"), ["", "page=1", "page=2", "page=2", "page=2", "page=3"]);
    assert_eq!(rig.ids().await.len(), 35);
}

/// A page as the vendor answers it.
fn page(rig: &Rig, n: usize) -> Mood {
    let entries: Vec<_> = rig.data().people.iter().skip(n * 10).take(10).cloned().collect();
    let page =
        json!({ "entries": entries, "next": (n + 1).to_string(), "bookmark": "1", "total": rig.data().people.len() });
    Mood::Answers(200, Vec::new(), page.to_string())
}

/// SYNC-3, PLAT-4: a worker that was thought lost and comes back writes nothing.
#[tokio::test]
async fn an_attempt_whose_run_was_taken_over_writes_nothing() {
    let rig = Rig::new(35).await;
    rig.vendor.script.next("/people", Mood::Stalls);
    let attempt = rig.sync(None);
    let another = async {
        rig.vendor.script.came(1).await;
        let run = rig.runs().await.remove(0);
        // Another attempt of the same job.
        let holder = Holder { job_id: run.job_id, id: Uuid::now_v7() };
        let wish = (None, SyncMode::Full, SyncTrigger::Manual);
        let mut tx = rig.world.tenant().await;
        let begun = sync_runs::begin(&mut tx, rig.integration_id, holder, wish, rig.world.now()).await.unwrap();
        tx.commit().await.unwrap();
        rig.vendor.script.let_go();
        begun
    };

    let (outcome, begun) = tokio::join!(attempt, another);

    assert!(matches!(begun, Begun::Held(held) if held.taken_over));
    assert!(matches!(&outcome, Outcome::Retryable { error, .. } if error.contains("taken over")), "{outcome:?}");
    assert!(rig.ids().await.is_empty());
    assert_eq!(rig.runs().await[0].counts.read, 0);
}

/// SYNC-3: two jobs of one integration, on whatever nodes: one reads, the other waits without using an attempt.
#[tokio::test]
async fn two_runs_of_an_integration_never_overlap() {
    let rig = Rig::new(25).await;
    rig.vendor.script.next("/people", Mood::Stalls);
    let first = rig.sync(None);
    let second = async {
        rig.vendor.script.came(1).await;
        let outcome = rig.start(Read { again: 1, ..rig.job(None) }).await;
        rig.vendor.script.let_go();
        outcome
    };

    let (first, second) = tokio::join!(first, second);

    assert_eq!(completed(&first).counts.created, 25);
    assert!(matches!(second, Outcome::Snoozed { .. }), "{second:?}");
    assert_eq!(rig.runs().await.len(), 1);
    assert_eq!(completed(&rig.go_on().await[0]).mode, SyncMode::Incremental);
}

/// SYNC-3: what a job that is gone has begun is gone on with by the next; in another mode it begins anew.
#[tokio::test]
async fn a_run_without_a_job_is_taken_over_when_its_time_is_over() {
    let rig = Rig::new(25).await;
    let lost = Holder { job_id: Uuid::now_v7(), id: Uuid::now_v7() };
    let begin = async |mode| {
        let mut tx = rig.world.tenant().await;
        let wish = (mode, SyncMode::Full, SyncTrigger::Schedule);
        let begun = sync_runs::begin(&mut tx, rig.integration_id, lost, wish, rig.world.now()).await.unwrap();
        tx.commit().await.unwrap();
        begun
    };
    begin(None).await;
    assert!(matches!(rig.sync(None).await, Outcome::Snoozed { .. }));
    rig.execute("update org_acme.sync_runs set held_until = now() - interval '1 second'").await;

    let report = completed(&rig.go_on().await[0]);

    assert_eq!((rig.runs().await.len(), rig.runs().await[0].id), (1, report.run_id));
    begin(Some(SyncMode::Incremental)).await;
    rig.execute("update org_acme.sync_runs set held_until = now() - interval '1 second'").await;
    let full = completed(&rig.sync(Some(SyncMode::Full)).await);
    let runs = rig.runs().await;
    assert_eq!((runs[0].id, runs[0].mode, runs[1].state), (full.run_id, SyncMode::Full, SyncState::Failed));
}

/// SYNC-3: what was read of another source is neither stored nor gone on with, and leaves no bookmark.
#[tokio::test]
async fn a_changed_configuration_ends_the_run_under_way() {
    for ended_by_the_change in [true, false] {
        let rig = Rig::new(5).await;
        rig.vendor.script.next("/people", Mood::Stalls);
        let config = json!({ "base_url": rig.vendor.address(), "guarded": false, "other": true });
        let change = async {
            rig.vendor.script.came(1).await;
            let mut tx = rig.world.tenant().await;
            if ended_by_the_change {
                let change = IntegrationChange { config: Some(config), ..IntegrationChange::default() };
                let (change, told) = ((&change, None, Tokens::Stay), ("test", rig.world.now()));
                doors::change_integration(&mut tx, rig.site().sealer, rig.integration_id, change, told).await.unwrap();
            } else {
                // As by one who did not see the run.
                sqlx::query("update integrations set config = $1").bind(config).execute(&mut *tx).await.unwrap();
            }
            tx.commit().await.unwrap();
            rig.vendor.script.let_go();
        };

        let (outcome, ()) = tokio::join!(rig.sync(None), change);

        assert_eq!(ended_by_the_change, matches!(outcome, Outcome::Retryable { .. }), "{outcome:?}");
        assert_eq!(ended_by_the_change, !matches!(outcome, Outcome::Snoozed { .. }), "{outcome:?}");
        let run = rig.runs().await.remove(0);
        assert_eq!((run.state, run.error.as_deref()), (SyncState::Failed, Some("the configuration was changed")));
        assert!(rig.ids().await.is_empty());
        let mut tx = rig.world.tenant().await;
        assert!(integrations::bookmarks(&mut tx, rig.integration_id).await.unwrap().is_empty());
        drop(tx);
        let again = completed(&rig.go_on().await[0]);
        assert_eq!((again.mode, again.counts.created), (SyncMode::Full, 5));
        assert_ne!(again.run_id, run.id);
    }
}

/// SYNC-3, SYNC-12: where nothing is read any more, what an attempt before has begun is ended.
#[tokio::test]
async fn a_run_of_an_integration_that_is_off_does_not_go_on_running() {
    let rig = Rig::new(25).await;
    rig.vendor.script.next("/people", Mood::bad_gateway());
    assert!(matches!(rig.sync(None).await, Outcome::Retryable { .. }));
    let mut tx = rig.world.tenant().await;
    doors::set_enabled(&mut tx, rig.integration_id, false, "test", rig.world.now()).await.unwrap();
    tx.commit().await.unwrap();

    let outcome = rig.go_on().await;

    assert!(matches!(&outcome[..], [Outcome::Cancelled { .. }]), "{outcome:?}");
    let run = rig.runs().await.remove(0);
    assert_eq!((run.state, run.error.as_deref()), (SyncState::Cancelled, Some("the integration is off")));
}

/// SYNC-2
#[tokio::test]
async fn a_page_that_repeats_ends_the_run_with_a_clear_error() {
    let rig = Rig::new(25).await;
    rig.data().stuck = true;

    let outcome = rig.sync(None).await;

    let Outcome::Discarded { reason, .. } = &outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("the same page of people again and again"), "{reason}");
    let (run, integration) = (rig.runs().await.remove(0), rig.integration().await);
    assert_eq!((run.state, run.error.as_ref()), (SyncState::Failed, Some(reason)));
    assert_eq!((integration.status, integration.last_error.as_ref()), (IntegrationStatus::Failing, Some(reason)));
    assert_eq!(rig.told().await.last().unwrap(), "integration.sync_failed");
}

/// SYNC-2: a place that has expired costs the stream's beginning, not the run.
#[tokio::test]
async fn a_place_that_has_expired_restarts_the_stream() {
    let rig = Rig::new(25).await;
    completed(&rig.sync(None).await);
    rig.data().people[0].revision = 2;
    rig.vendor.script.next("/people", Mood::Answers(410, Vec::new(), String::new()));

    let report = completed(&rig.sync(None).await);

    assert_eq!((report.mode, report.counts.read), (SyncMode::Incremental, 25));
    assert_eq!(rig.asked("people")[3..], ["since=1", "", "page=1", "page=2"]);
}

/// SYNC-2: the vendor's answer makes no sense, whatever the attempt: the report says so in the end.
#[tokio::test]
async fn an_answer_that_cannot_be_read_is_tried_again_and_then_reported() {
    let rig = Rig::new(25).await;
    for _ in 0..3 {
        rig.vendor.script.next("/people", Mood::Answers(418, Vec::new(), "tea".to_owned()));
    }
    let mut outcomes = vec![rig.sync(None).await];
    for _ in 0..2 {
        outcomes.extend(rig.go_on().await);
    }
    assert!(matches!(&outcomes[..], [Outcome::Retryable { .. }, Outcome::Retryable { .. }, Outcome::Discarded { .. }]));
    let run = rig.runs().await.remove(0);
    assert_eq!(run.state, SyncState::Failed);
    assert!(run.error.unwrap().contains("HR answered 418"));
}

/// SYNC-13: a 429 uses no attempt, shuts the key for all, halves the figure and keeps the place.
#[tokio::test]
async fn a_vendor_that_is_busy_is_left_alone_and_asked_half_as_often() {
    let rig = Rig::new(25).await;
    rig.vendor.script.next("/people", page(&rig, 0));
    rig.vendor.script.next("/people", Mood::busy(429, Some(Duration::from_secs(120)), "slow down"));

    let outcome = rig.sync(None).await;

    assert_eq!(outcome, Outcome::Snoozed { wait: Duration::from_secs(120) });
    let limit = rate_limit(&rig.world.app.db, rig.vendor.address()).await.unwrap().unwrap();
    assert_eq!((limit.permits, limit.blocked_until.is_some(), limit.fixed), (3000, true, false));
    // Another job under the same key does not call.
    queue::fast_forward(&rig.world.app.db).await.unwrap();
    let app = rig.world.app.clone();
    let ran = queue::drain(&app.db, &rig.registry, app.clone(), "integrations").await.unwrap();
    assert!(matches!(&ran[..], [(_, Outcome::Snoozed { .. })]), "{ran:?}");
    assert_eq!(rig.asked("people"), ["", "page=1"]);

    assert_eq!(completed(&rig.go_on().await[0]).counts.read, 25);
    assert_eq!(rig.asked("people"), ["", "page=1", "page=1", "page=2"]);
    let job = find(&mut rig.world.app.db.acquire().await.unwrap(), rig.runs().await[0].job_id, None).await.unwrap();
    assert_eq!(job.unwrap().attempt, 1);
}

/// SYNC-13: an operator's figure stands.
#[tokio::test]
async fn a_figure_that_an_operator_fixed_is_not_unlearned() {
    let rig = Rig::new(25).await;
    let fixed = backroom_queue::RateLimit::new(rig.vendor.address(), 6000, Duration::from_secs(60));
    backroom_queue::fix_rate_limit(&rig.world.app.db, &fixed).await.unwrap();
    rig.vendor.script.next("/people", Mood::busy(429, None, ""));

    let outcome = rig.sync(None).await;

    assert_eq!(outcome, Outcome::Snoozed { wait: Duration::from_secs(60) });
    let limit = rate_limit(&rig.world.app.db, rig.vendor.address()).await.unwrap().unwrap();
    assert_eq!((limit.permits, limit.fixed), (6000, true));
}

/// SYNC-13: what went well often enough is tried a tenth more of, up to the vendor's own limit.
#[tokio::test]
async fn a_figure_recovers() {
    let rig = Rig::new(1500).await;
    rig.vendor.script.next("/people", Mood::busy(429, None, ""));
    rig.sync(None).await;

    completed(&rig.go_on().await[0]);

    let limit = rate_limit(&rig.world.app.db, rig.vendor.address()).await.unwrap().unwrap();
    assert_eq!(limit.permits, 3000 * 11 / 10 * 11 / 10 * 11 / 10);
}

/// SYNC-6, SYNC-13: admins are told once, and nothing is tried until a person has done something.
#[tokio::test]
async fn what_only_a_person_can_mend_is_parked_and_told_once() {
    for (mood, why) in [
        (Mood::Answers(401, Vec::new(), String::new()), "does not take the access token"),
        (Mood::Answers(403, Vec::new(), String::new()), "misses the scope people.read"),
    ] {
        let rig = Rig::new(25).await;
        rig.vendor.script.next("/people", mood);

        let outcome = rig.sync(None).await;

        assert!(matches!(&outcome, Outcome::Cancelled { reason } if reason.contains(why)), "{outcome:?}");
        let integration = rig.integration().await;
        assert_eq!(integration.status, IntegrationStatus::NeedsAttention);
        assert_eq!(integration.needs_since, Some(rig.world.now()));
        assert!(integration.last_error.unwrap().contains(why));
        assert_eq!(rig.runs().await[0].state, SyncState::Failed);

        let calls = rig.asked("people").len();
        assert!(matches!(rig.sync(None).await, Outcome::Cancelled { .. }));
        assert_eq!(rig.asked("people").len(), calls);
        assert_eq!(rig.told().await, ["integration.created", "integration.needs_attention"]);
        assert_eq!(queue::enqueued::<TellAttention>(&rig.world.app.db).await.unwrap().len(), 1);
        let mut tx = rig.world.tenant().await;
        assert!(integrations::due(&mut tx, rig.world.now(), 7, 10).await.unwrap().is_empty());
        let job = SyncIntegration { integration_id: rig.integration_id, mode: None, trigger: SyncTrigger::Manual };
        let slug = &rig.world.organization.slug;
        let refused = request_sync(&mut tx, slug, &job, "test", (rig.world.now(), None)).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Conflict { field: "status", .. }), "{refused}");
    }
}

/// SYNC-2, PLAT-5: somebody cancels it between two pages.
#[tokio::test]
async fn a_cancelled_run_stops_between_pages_and_says_so() {
    let rig = Rig::new(25).await;
    rig.vendor.script.next("/people", Mood::Stalls);
    let app = rig.world.app.clone();
    let id = enqueue(&app.db, &backroom_queue::NewJob::of(&rig.job(None)).tenant("acme")).await.unwrap().id;
    let config = WorkerConfig {
        queues: [("integrations".to_owned(), 1)].into(),
        lease: Duration::from_secs(1),
        poll_interval: Duration::from_millis(20),
        ..WorkerConfig::default()
    };
    let stop = CancellationToken::new();
    let worker = Worker::new(rig.world.database.pool.clone(), rig.registry.clone(), app.clone(), config);
    let worker = tokio::spawn(worker.run(stop.clone()));
    rig.vendor.script.came(1).await;
    backroom_queue::cancel(&mut app.db.acquire().await.unwrap(), id, None, "enough").await.unwrap();
    // The answer comes when the worker has heard of it.
    tokio::time::timeout(Duration::from_secs(10), STOPPED.notified()).await.expect("the worker heard of it");
    rig.vendor.script.let_go();

    until(async || rig.runs().await[0].state == SyncState::Cancelled).await;

    until(async || {
        let job = find(&mut app.db.acquire().await.unwrap(), id, None).await.unwrap().unwrap();
        job.state == JobState::Cancelled
    })
    .await;
    stop.cancel();
    worker.await.unwrap().unwrap();
    assert_eq!((rig.ids().await.len(), rig.asked("people").len()), (10, 1));
}

/// SYNC-5: each is due once per interval, and not while it is off.
#[tokio::test]
async fn an_integration_is_due_after_its_interval() {
    let rig = Rig::new(0).await;
    let due = async || {
        let mut tx = rig.world.tenant().await;
        let due = integrations::due(&mut tx, rig.world.now(), 7, 10).await.unwrap();
        tx.commit().await.unwrap();
        due.len()
    };
    assert_eq!((due().await, due().await), (1, 0));
    rig.world.app.clock.advance(chrono::Duration::minutes(60));
    let mut tx = rig.world.tenant().await;
    doors::set_enabled(&mut tx, rig.integration_id, false, "test", rig.world.now()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(due().await, 0);
    let mut tx = rig.world.tenant().await;
    doors::set_enabled(&mut tx, rig.integration_id, true, "test", rig.world.now()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(due().await, 1);
    assert_eq!(rig.told().await, ["integration.created", "integration.disabled", "integration.enabled"]);
}

/// SYNC-4: the oldest runs make room, with what they named.
#[tokio::test]
async fn the_last_thousand_runs_are_kept() {
    let rig = Rig::new(1).await;
    let sql = "insert into org_acme.sync_runs
                   (id, integration_id, mode, trigger, state, job_id, holder, held_until, started_at, ended_at)
               select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, i.id, 'full', 'schedule', 'completed',
                      gen_random_uuid(), gen_random_uuid(), now(), now(), now()
               from org_acme.integrations i, generate_series(1, 1003) n";
    rig.execute(sql).await;

    let report = completed(&rig.sync(None).await);

    let kept: Vec<Uuid> = sqlx::query_scalar("select id from sync_runs order by id")
        .fetch_all(&mut *rig.world.tenant().await)
        .await
        .unwrap();
    assert_eq!((kept.len(), kept.last()), (1000, Some(&report.run_id)));
    assert_eq!(kept[0].to_string(), "00000000-0000-7000-8000-000000000005");
}

#[test]
fn the_wire_format_is_stable() {
    let job = SyncIntegration { integration_id: Uuid::nil(), mode: None, trigger: SyncTrigger::Schedule };
    insta::assert_json_snapshot!(job, @r#"
    {
      "integration_id": "00000000-0000-0000-0000-000000000000",
      "mode": null,
      "trigger": "schedule"
    }
    "#);
}
