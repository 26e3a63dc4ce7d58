use std::sync::Arc;

use backroom_queue::Outcome;
use secrecy::ExposeSecret;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::{
    demo::vendors::Mood,
    domain::integration::{IntegrationChange, IntegrationStatus},
    jobs::integrations::{
        change_integration,
        testing::{Rig, until},
    },
    store::{
        integrations::{self, Tokens},
        tokens as store,
    },
};

async fn pass_of(rig: &Rig, refused: Option<i64>) -> Result<(String, Option<i64>), ConnectorError> {
    let (site, connector) = (rig.site(), rig.connector());
    let passed = pass(&site, rig.integration_id, &connector, refused).await.unwrap();
    passed.map(|(access, version)| (access.bearer.unwrap().expose_secret().to_owned(), version))
}

async fn stored(rig: &Rig) -> store::Stored {
    store::read(&mut *rig.world.tenant().await, rig.site().sealer, rig.integration_id).await.unwrap().unwrap()
}

/// An attempt that said that it asks, and died.
async fn died_asking(rig: &Rig) {
    let mut tx = rig.world.tenant().await;
    assert!(store::ask(&mut tx, rig.integration_id, (0, Uuid::now_v7()), 0.0, rig.world.now()).await.unwrap());
    tx.commit().await.unwrap();
}

fn access(number: u32) -> String {
    format!("access-{number}")
}

/// SYNC-6: fifty that meet an expired token make one request for another.
#[tokio::test]
async fn a_token_is_renewed_once_for_all() {
    let rig = Rig::guarded(0).await;
    for round in 1..=2 {
        rig.vendor.script.next("/token", Mood::Stalls);
        let all = futures::future::join_all((0..50).map(|_| pass_of(&rig, None)));
        let go = async {
            rig.vendor.script.came(round).await;
            rig.vendor.script.let_go();
        };
        let (passes, ()) = tokio::join!(all, go);
        for pass in passes {
            assert_eq!(pass.unwrap(), (access(round as u32), Some(round as i64)));
        }
        assert_eq!(rig.asked("token").len(), round);
        rig.world.app.clock.advance(chrono::Duration::seconds(3600));
    }
}

/// SYNC-6: a minute before it expires; short ones after half of their lives.
#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    for (lifetime_s, good_for_s) in [(3600, 3540), (60, 30)] {
        let rig = Rig::guarded(0).await;
        rig.data().lifetime_s = lifetime_s;
        pass_of(&rig, None).await.unwrap();
        rig.world.app.clock.advance(chrono::Duration::seconds(good_for_s - 1));
        assert_eq!(pass_of(&rig, None).await.unwrap().0, access(1));
        rig.world.app.clock.advance(chrono::Duration::seconds(1));
        assert_eq!(pass_of(&rig, None).await.unwrap().0, access(2));
    }
}

/// SYNC-6: the token that was refused is renewed once, whoever else was refused the same.
#[tokio::test]
async fn a_refused_token_is_renewed_once_for_all_that_were_refused() {
    let rig = Rig::guarded(0).await;
    let (_, version) = pass_of(&rig, None).await.unwrap();
    let all = futures::future::join_all((0..20).map(|_| pass_of(&rig, version))).await;
    assert!(all.into_iter().all(|pass| pass.unwrap().0 == access(2)));
    assert_eq!(rig.asked("token").len(), 2);
}

/// SYNC-6: the new refresh token is committed before the new access token is used for the first time.
#[tokio::test]
async fn a_rotated_refresh_token_is_stored_before_it_is_used() {
    let rig = Rig::guarded(5).await;
    rig.vendor.script.next("/people", Mood::Stalls);
    let look = async {
        rig.vendor.script.came(2).await;
        let stored = stored(&rig).await;
        rig.vendor.script.let_go();
        stored
    };

    let (outcome, stored) = tokio::join!(rig.sync(None), look);

    assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
    assert_eq!(stored.tokens.unwrap().refresh_token.as_deref(), Some("refresh-1"));
    assert_eq!((stored.version, stored.asked_at), (1, None));
}

/// SYNC-6: whoever wanted the token is gone when the vendor answers; the answer is stored all the same.
#[tokio::test]
async fn an_answer_outlives_the_job_that_asked() {
    let rig = Arc::new(Rig::guarded(0).await);
    rig.vendor.script.next("/token", Mood::Stalls);
    let job = tokio::spawn({
        let rig = rig.clone();
        async move { pass_of(&rig, None).await }
    });
    rig.vendor.script.came(1).await;
    job.abort();
    assert!(job.await.unwrap_err().is_cancelled());
    rig.vendor.script.let_go();

    until(async || stored(&rig).await.version == 1).await;

    assert_eq!(pass_of(&rig, None).await.unwrap(), (access(1), Some(1)));
    assert_eq!(rig.asked("token").len(), 1);
}

/// SYNC-6: a process died between the vendor's answer and the commit. A vendor that takes the old refresh token for a while heals it by
/// itself; another needs a person, who is told what happened.
#[tokio::test]
async fn a_lost_answer_is_told_from_a_revoked_grant() {
    for (grace, lost) in [(true, true), (false, true), (false, false)] {
        let rig = Rig::guarded(5).await;
        if lost {
            died_asking(&rig).await;
        }
        rig.data().refresh = "refresh-1".to_owned();
        rig.data().grace = grace.then(|| "refresh-0".to_owned());

        let outcome = rig.sync(None).await;

        if grace {
            assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
            assert_eq!(stored(&rig).await.asked_at, None);
            continue;
        }
        let integration = rig.integration().await;
        let why = integration.last_error.unwrap();
        let expected = if lost { "the answer was lost" } else { "revoked or has expired" };
        assert!(why.contains(expected) && why.contains("store the new credentials"), "{why}");
        assert_eq!(integration.status, IntegrationStatus::NeedsAttention);
        assert!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome:?}");
        assert_eq!((rig.asked("token").len(), rig.asked("people").len()), (1, 0));
    }
}

/// SYNC-6: while an answer may still come nobody else asks; jobs come back later.
#[tokio::test]
async fn nobody_asks_while_another_does() {
    let rig = Rig::guarded(0).await;
    let mut tx = rig.world.tenant().await;
    let holder = (0, Uuid::now_v7());
    assert!(store::ask(&mut tx, rig.integration_id, holder, 60.0, rig.world.now()).await.unwrap());
    assert!(!store::ask(&mut tx, rig.integration_id, (0, Uuid::now_v7()), 60.0, rig.world.now()).await.unwrap());
    store::release(&mut tx, rig.integration_id, holder, true).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stored(&rig).await.asked_at, None);
    assert_eq!(pass_of(&rig, None).await.unwrap().0, access(1));
}

/// SYNC-6: the vendor takes a token no more in the middle of a run.
#[tokio::test]
async fn a_token_that_ends_in_the_middle_of_a_run_costs_nothing() {
    let rig = Rig::guarded(25).await;
    rig.vendor.script.next("/people", Mood::Stalls);
    let change = async {
        rig.vendor.script.came(2).await;
        rig.data().token = Some("another".to_owned());
        rig.vendor.script.let_go();
    };

    let (outcome, ()) = tokio::join!(rig.sync(None), change);

    assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
    assert_eq!(rig.ids().await.len(), 25);
    assert_eq!(rig.asked("people"), ["", "page=1", "page=1", "page=2"]);
    assert_eq!(rig.asked("token").len(), 2);
}

/// SYNC-13: a 401 that a renewal does not cure is for a person.
#[tokio::test]
async fn a_refusal_that_a_new_token_does_not_cure_needs_attention() {
    let rig = Rig::guarded(25).await;
    rig.data().shut = true;

    let outcome = rig.sync(None).await;

    assert!(matches!(&outcome, Outcome::Cancelled { reason } if reason.contains("also with a new access token")));
    assert_eq!(rig.integration().await.status, IntegrationStatus::NeedsAttention);
    assert_eq!((rig.asked("people").len(), rig.asked("token").len()), (2, 2));
}

/// SYNC-1, SYNC-6: new credentials end the old tokens, and the wait for a person.
#[tokio::test]
async fn new_credentials_begin_anew() {
    let rig = Rig::guarded(5).await;
    rig.data().refresh = "refresh-7".to_owned();
    rig.sync(None).await;
    assert_eq!(rig.integration().await.status, IntegrationStatus::NeedsAttention);
    let credentials = r#"{"refresh_token":"refresh-7"}"#.into();
    let change = (&IntegrationChange::default(), Some(&credentials), Tokens::End);
    let mut tx = rig.world.tenant().await;
    let told = ("test", rig.world.now());
    change_integration(&mut tx, rig.site().sealer, rig.integration_id, change, told).await.unwrap().unwrap();
    tx.commit().await.unwrap();

    let integration = rig.integration().await;
    assert_eq!((integration.status, integration.needs_since), (IntegrationStatus::New, None));
    let outcome = rig.sync(None).await;

    assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
    assert_eq!(stored(&rig).await.tokens.unwrap().refresh_token.as_deref(), Some("refresh-8"));
}

/// SYNC-1, SYNC-6: the refresh token that the vendor has given since is nowhere else.
#[tokio::test]
async fn a_change_of_something_else_keeps_the_tokens() {
    let rig = Rig::guarded(5).await;
    pass_of(&rig, None).await.unwrap();
    let config = json!({ "base_url": rig.vendor.address(), "guarded": true, "more": 1 });
    let change = IntegrationChange { config: Some(config), ..IntegrationChange::default() };
    let credentials = r#"{"refresh_token":"refresh-0","webhook_key":"another"}"#.into();
    let change = (&change, Some(&credentials), Tokens::Stay);
    let mut tx = rig.world.tenant().await;
    integrations::need_attention(&mut tx, rig.integration_id, "why", rig.world.now()).await.unwrap();
    let told = ("test", rig.world.now());
    change_integration(&mut tx, rig.site().sealer, rig.integration_id, change, told).await.unwrap().unwrap();
    tx.commit().await.unwrap();

    let (stored, integration) = (stored(&rig).await, rig.integration().await);
    assert_eq!((stored.version, stored.tokens.unwrap().refresh_token.as_deref()), (1, Some("refresh-1")));
    assert_eq!((integration.status, integration.needs_since), (IntegrationStatus::New, None));
}

/// SYNC-6: the vendor's answer is stored, though the database refuses twice.
#[tokio::test]
async fn an_answer_is_stored_when_the_database_is_back() {
    let rig = Rig::guarded(0).await;
    rig.execute("create sequence public.tries").await;
    rig.execute(
        "create function public.refuse() returns trigger language plpgsql security definer as $$
         begin
             if nextval('public.tries') < 3 then raise exception 'away'; end if;
             return new;
         end $$",
    )
    .await;
    rig.execute(
        "create trigger refuse before update of token_version on org_acme.integrations
         for each row execute function public.refuse()",
    )
    .await;

    assert_eq!(pass_of(&rig, None).await.unwrap(), (access(1), Some(1)));

    assert_eq!(rig.asked("token").len(), 1);
    assert_eq!(stored(&rig).await.tokens.unwrap().refresh_token.as_deref(), Some("refresh-1"));
}

/// SYNC-5
#[tokio::test]
async fn a_test_says_whom_it_reached_or_what_is_wrong() {
    let rig = Rig::guarded(5).await;
    let tested = async || test(&rig.site(), rig.integration_id, &rig.connector()).await.unwrap();
    assert_eq!(tested().await.unwrap(), "reached HR as backroom");
    rig.data().token = Some("another".to_owned());
    assert!(tested().await.is_ok(), "the token was renewed");
    rig.data().shut = true;
    assert!(matches!(tested().await, Err(ConnectorError::Unauthorized(_))));
    rig.vendor.script.next("/people", Mood::bad_gateway());
    assert!(matches!(tested().await, Err(ConnectorError::Transient(_))));
}

/// SYNC-6, VAULT-1: tokens are ciphertext at rest and absent from what is printed.
#[tokio::test]
async fn tokens_are_sealed_and_never_printed() {
    let rig = Rig::guarded(0).await;
    pass_of(&rig, None).await.unwrap();
    let row: String = sqlx::query_scalar("select to_jsonb(i)::text from integrations i")
        .fetch_one(&mut *rig.world.tenant().await)
        .await
        .unwrap();
    let printed = format!("{:?}", stored(&rig).await);
    for secret in ["access-1", "refresh-1", "refresh-0"] {
        assert!(!row.contains(secret) && !printed.contains(secret), "{secret}: {printed}");
    }
    let key = hex("refresh-1");
    assert!(!row.contains(&key), "it is there in hexadecimal");
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
