//! What happens to work when PostgreSQL does not hold still.

use std::{collections::HashSet, path::Path, time::Duration};

use backroom::{
    domain::Clock,
    tenant::{self, testing::TestDatabase},
};
use backroom_queue::{NewJob, enqueue_many};
use serde_json::json;
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::support::{PATIENCE, Program, count, lines, server::Server, until};

const JOBS: usize = 5_000;

/// Jobs that each write their number to the file.
async fn enqueue_appends(pool: &PgPool, path: &Path) {
    let jobs: Vec<NewJob> = (0..JOBS)
        .map(|n| NewJob {
            max_attempts: 20,
            ..NewJob::named("debug.append", json!({ "path": path, "line": n.to_string() }))
        })
        .collect();
    enqueue_many(pool, &jobs).await.expect("enqueued");
}

/// Waits until the file has at least so many lines: the work is in full swing.
async fn until_lines(path: &Path, at_least: usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while lines(path).len() < at_least {
        assert!(tokio::time::Instant::now() < deadline, "stuck at {} lines", lines(path).len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn assert_none_lost(pool: &PgPool, path: &Path) {
    until(pool, "select count(*) from queue.finished_jobs where state = 'completed'", JOBS as i64).await;
    assert_eq!(count(pool, "select count(*) from queue.jobs").await, 0);
    let lines = lines(path);
    let distinct: HashSet<&String> = lines.iter().collect();
    assert_eq!(distinct.len(), JOBS, "every job did its work");
    println!("{} jobs ran a second time (at least once is the contract)", lines.len() - JOBS);
}

/// PLAT-11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cutting_every_connection_in_the_middle_of_five_thousand_jobs_loses_none() {
    let database = TestDatabase::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lines");
    enqueue_appends(&database.pool, &path).await;
    let mut worker = Program::on(&database.url()).start(&["worker"]);
    for round in 1..=4 {
        until_lines(&path, JOBS / 6 * round).await;
        let cut = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()";
        // Our own connection is cut as well.
        let _ = sqlx::query(cut).execute(&database.pool).await;
    }
    assert_none_lost(&database.pool, &path).await;
    worker.assert_running();
    worker.stop().await;
    database.close().await.expect("dropped");
}

/// PLAT-11, OPS-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarting_postgresql_in_the_middle_of_five_thousand_jobs_loses_none() {
    let Some(server) = Server::start().await else { return };
    let pool = PgPoolOptions::new().max_connections(4).connect(&server.url).await.expect("the new server");
    tenant::migrate_platform(&pool).await.expect("migrated");
    tenant::create(&pool, &Clock::system(), tenant::NewOrganization::named("acme".parse().expect("a slug"), "Acme"))
        .await
        .expect("created");
    let path = server.folder().join("lines");
    enqueue_appends(&pool, &path).await;
    let program = Program::on(&server.url);
    let mut processes = [program.start(&["worker"]), program.start(&["scheduler"])];
    for (round, how) in [(1, "fast"), (2, "immediate"), (3, "fast")] {
        until_lines(&path, JOBS / 5 * round).await;
        server.restart(how).await;
    }
    assert_none_lost(&pool, &path).await;
    for process in &mut processes {
        process.assert_running();
    }
    for process in processes {
        process.stop().await;
    }
    pool.close().await;
}
