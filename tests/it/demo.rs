//! `backroom demo`: the first thing a newcomer sees comes out as told.

use std::process::{Output, Stdio};

use backroom::tenant::testing::TestDatabase;
use tempfile::TempDir;
use tokio::process::Command;

/// Runs the program as `bin/demo --once` does, in a directory of its own.
async fn demo(database: &TestDatabase, directory: &TempDir) -> Output {
    let run = Command::new(env!("CARGO_BIN_EXE_backroom"))
        .args(["demo", "--once"])
        .env_clear()
        .env("DATABASE_URL", database.url())
        .env("BACKROOM__HTTP__LISTEN", "127.0.0.1:0")
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    run.await.expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// CLI-5, BILL-4, BILL-5, BILL-6, BILL-7, MAIL-3, VAULT-1, API-2: and the second run leaves the first one's organization alone.
#[tokio::test]
async fn the_demo_comes_out_as_told_and_can_be_seen_again() {
    let (database, directory) = (TestDatabase::new().await, TempDir::new().unwrap());
    for slug in ["`demo`", "`demo-2`"] {
        let ended = demo(&database, &directory).await;

        let (told, complaints) = (text(&ended.stdout), text(&ended.stderr));
        assert!(ended.status.success(), "{}\n{told}\n{complaints}", ended.status);
        let words = told.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            slug,
            "Act I",
            "“451 4.7.1 Greylisted, please try again in 2 seconds”",
            "“550 5.1.1 User unknown”",
            "New mails: 0.",
            "✓ one mail per invoice and stage",
            "Act II",
            "✓ named",
            "twice by mistake: 200 and 410",
            "cancels itself: the conversation has a title.",
            "✓ one invitation was mailed, once",
            "✓ let in",
            "✓ the request was confirmed once",
            "Act III",
            "✓ QuickBooks",
            "24 36 asks for the third page: 429, Retry-After: 1",
            "36 36 completed",
            "↻ 500",
            "was added as an employee. And",
            "✓ the 429 cost one call",
            "✓ the 500 cost one call and one attempt",
            "✓ Slack was told of each thing once",
            "✓ another run of both wrote nothing",
            "✓ Everything came out as told",
            "/dev/mailbox",
            "-H 'Authorization: Bearer br_demo",
        ] {
            assert!(words.contains(part), "{part:?} is missing from\n{told}");
        }
        assert_eq!(told.matches('✗').count(), 1, "only the rejected address has a cross:\n{told}");
        assert!(!told.contains('\x1b'), "plain text where nobody watches:\n{told}");
        assert_eq!(complaints, "", "the log is in a file");
        let widest = told.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{widest:?} columns:\n{told}");
    }
    let log = std::fs::read_to_string(directory.path().join(".backroom/demo.log")).unwrap();
    assert!(log.contains("worker started"), "{log}");
    database.close().await.unwrap();
}

/// The demo's worker does nobody else's work.
#[tokio::test]
async fn the_demo_refuses_a_database_where_other_work_waits() {
    let (database, directory) = (TestDatabase::new().await, TempDir::new().unwrap());
    let job = backroom_queue::NewJob::named("debug.noop", serde_json::json!({})).tenant("acme");
    backroom_queue::enqueue(&database.pool, &job).await.unwrap();

    let ended = demo(&database, &directory).await;

    let complaints = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{complaints}");
    assert!(complaints.contains("1 unfinished jobs") && complaints.contains("DATABASE_URL"), "{complaints}");
    let left = backroom_queue::find(&mut database.pool.acquire().await.unwrap(), job.id, None).await.unwrap().unwrap();
    assert_eq!((left.state, left.attempt), (backroom_queue::JobState::Available, 0));
    database.close().await.unwrap();
}
