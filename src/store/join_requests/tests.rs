use chrono::Duration;
use proptest::{
    collection::vec,
    prop_oneof,
    strategy::{Just, Strategy},
    test_runner::{Config, TestRunner},
};
use serde_json::Map;

use super::*;
use crate::{
    domain::{EmailAddress, JoinStep, Language},
    tenant::{self, TenantTx, testing::TestDatabase},
};

#[derive(Clone, Copy, Debug)]
enum Call {
    /// By one of three addresses.
    Submit(usize),
    /// With the n-th of all tokens that were ever made.
    Confirm(usize),
    /// Of the n-th of all requests that there ever were.
    Approve(usize),
    Reject(usize),
    Wait {
        minutes: i64,
    },
    DeleteUnconfirmed,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    vec(
        prop_oneof![
            5 => (0..3usize).prop_map(Call::Submit),
            5 => (0..12usize).prop_map(Call::Confirm),
            2 => (0..6usize).prop_map(Call::Approve),
            2 => (0..6usize).prop_map(Call::Reject),
            2 => (1..90i64).prop_map(|minutes| Call::Wait { minutes }),
            1 => (1_000..4_000i64).prop_map(|minutes| Call::Wait { minutes }),
            1 => Just(Call::DeleteUnconfirmed),
        ],
        1..40,
    )
}

/// A request as it should be.
struct Expected {
    id: Uuid,
    address: usize,
    status: JoinStatus,
    /// The index of the present token.
    token: usize,
    expires_at: DateTime<Utc>,
    window: (DateTime<Utc>, i32),
    updated_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    deleted: bool,
}

fn new(address: usize) -> NewJoinRequest {
    NewJoinRequest {
        email: EmailAddress::parse(&format!("{}@example.se", ["anna", "bo", "cia"][address])).unwrap(),
        first_name: "A".to_owned(),
        last_name: "B".to_owned(),
        form: Map::new(),
        schema_version: 1,
        language: Language::Sv,
    }
}

fn hash(token: usize) -> [u8; 32] {
    [u8::try_from(token).unwrap(); 32]
}

/// What the tables are expected to answer, and what they answer, call by call.
async fn follow(tx: &mut TenantTx, calls: &[Call], mut now: DateTime<Utc>) {
    let (mut requests, mut tokens): (Vec<Expected>, usize) = (Vec::new(), 0);
    for (n, call) in calls.iter().enumerate() {
        let at = || format!("call {n} of {calls:?}");
        match *call {
            Call::Wait { minutes } => now += Duration::minutes(minutes),
            Call::Submit(address) => {
                let answer = submit(tx, &new(address), hash(tokens), now).await.unwrap();
                let open = requests.iter_mut().find(|r| r.address == address && r.status.is_open() && !r.deleted);
                let id = match open {
                    None => {
                        let id = answer.as_ref().unwrap_or_else(|| panic!("refused a new request at {}", at())).id;
                        requests.push(Expected {
                            id,
                            address,
                            status: JoinStatus::PendingConfirmation,
                            token: tokens,
                            expires_at: now + VALID_FOR,
                            window: (now, 1),
                            updated_at: now,
                            created_at: now,
                            deleted: false,
                        });
                        Some(id)
                    }
                    Some(open) => {
                        let anew = open.window.0 <= now - WINDOW;
                        let may =
                            open.status.after(JoinStep::Renew).is_some() && (anew || open.window.1 < TOKENS_PER_WINDOW);
                        if may {
                            open.window = if anew { (now, 1) } else { (open.window.0, open.window.1 + 1) };
                            (open.token, open.expires_at, open.updated_at) = (tokens, now + VALID_FOR, now);
                        }
                        may.then_some(open.id)
                    }
                };
                assert_eq!(answer.map(|request| request.id), id, "{}", at());
                tokens += usize::from(id.is_some());
            }
            Call::Confirm(token) => {
                let answer = confirm(tx, &hash(token), now).await.unwrap().map(|request| request.id);
                let found = requests.iter_mut().find(|r| r.token == token && !r.deleted && token < tokens);
                let found = found.filter(|r| r.status.after(JoinStep::Confirm).is_some() && r.expires_at > now);
                assert_eq!(answer, found.as_ref().map(|r| r.id), "{}", at());
                if let Some(found) = found {
                    (found.status, found.updated_at) = (JoinStatus::Submitted, now);
                }
            }
            Call::Approve(which) | Call::Reject(which) => {
                let approves = matches!(call, Call::Approve(_));
                let Some(expected) = requests.get_mut(which) else { continue };
                let answer = if approves {
                    approve(tx, (expected.id, Uuid::nil()), None, "user:staff", now).await.unwrap()
                } else {
                    reject(tx, expected.id, "user:staff", now).await.unwrap()
                };
                let step = if approves { JoinStep::Approve } else { JoinStep::Reject };
                let next = expected.status.after(step).filter(|_| !expected.deleted);
                assert_eq!(answer.map(|request| request.status), next, "{}", at());
                expected.status = next.unwrap_or(expected.status);
            }
            Call::DeleteUnconfirmed => {
                let before = now - Duration::days(2);
                let gone = delete_unconfirmed(tx, (before, now), 100).await.unwrap();
                let mut gone: Vec<Uuid> = gone.into_iter().map(|(id, _)| id).collect();
                gone.sort_unstable();
                let mut expected = Vec::new();
                for request in requests.iter_mut().filter(|r| !r.deleted) {
                    let old = request.created_at <= before && request.updated_at <= before && request.expires_at <= now;
                    if request.status == JoinStatus::PendingConfirmation && old {
                        request.deleted = true;
                        expected.push(request.id);
                    }
                }
                expected.sort_unstable();
                assert_eq!(gone, expected, "{}", at());
            }
        }
    }
    for expected in &requests {
        let stored = by_id(tx, expected.id).await.unwrap().map(|request| request.status);
        assert_eq!(stored, (!expected.deleted).then_some(expected.status), "at the end of {calls:?}");
    }
}

/// JOIN-1 to JOIN-6: whatever is called in whatever order, the tables do what the state machine says and nothing else.
#[test]
fn no_sequence_of_calls_reaches_a_state_that_there_should_not_be() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (database, acme) = runtime.block_on(async {
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        (database, acme)
    });
    let mut runner = TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&calls(), |calls| {
        runtime.block_on(async {
            // Rolled back in the end: each case begins with empty tables.
            let mut tx = tenant::begin(&database.pool, &acme).await.unwrap();
            follow(&mut tx, &calls, acme.created_at).await;
            tx.rollback().await.unwrap();
        });
        Ok(())
    });
    runtime.block_on(database.close()).unwrap();
    outcome.unwrap();
}

/// JOIN-3: of many who ask at one moment with one address, there is one request and no more tokens than there may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_address_at_the_same_moment_is_one_request() {
    let database = TestDatabase::new().await;
    let acme = database.organization("acme").await;
    let ask = async |n: usize| {
        let mut tx = tenant::begin(&database.pool, &acme).await.unwrap();
        let answer = submit(&mut tx, &new(0), hash(n), acme.created_at).await.unwrap();
        tx.commit().await.unwrap();
        answer
    };
    let answers = futures::future::join_all((0..8).map(ask)).await;
    let made: Vec<_> = answers.into_iter().flatten().collect();
    assert_eq!(made.len(), usize::try_from(TOKENS_PER_WINDOW).unwrap());
    assert!(made.iter().all(|request| request.id == made[0].id));
    let mut numbers: Vec<u32> = made.iter().map(|request| request.token_number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3]);
}

/// JOIN-5, VAULT-4: what is no hash is stored nowhere, and a link has an end.
#[tokio::test]
async fn the_database_refuses_half_a_link() {
    let database = TestDatabase::new().await;
    let acme = database.organization("acme").await;
    for (change, constraint) in [
        ("token_hash = 'short'", "join_requests_hashes_check"),
        ("used_token_hash = 'short'", "join_requests_hashes_check"),
        ("password_expires_at = now()", "join_requests_password_expires_at_check"),
        ("decision_number = 0", "join_requests_decision_number_check"),
        ("decision_error = 'no'", "join_requests_decision_error_check"),
    ] {
        let mut tx = tenant::begin(&database.pool, &acme).await.unwrap();
        submit(&mut tx, &new(0), hash(0), acme.created_at).await.unwrap();
        let change = sqlx::AssertSqlSafe(format!("update join_requests set {change}"));
        let refused = sqlx::query(change).execute(&mut *tx).await.unwrap_err();
        assert_eq!(refused.as_database_error().and_then(|error| error.constraint()), Some(constraint));
    }
}
