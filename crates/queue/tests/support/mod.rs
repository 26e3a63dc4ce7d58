//! A database per test, real and dropped at the end.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{str::FromStr, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

pub struct Database {
    pub pool: PgPool,
    name: String,
    admin: PgConnectOptions,
}

fn server() -> PgConnectOptions {
    let url = std::env::var("BACKROOM_TEST_DATABASE_URL")
        .or_else(|_| std::env::var("DATABASE_URL"))
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1/postgres".to_owned());
    // Options in the URL (a search path for the compile-time checks) are not for these tests.
    let url = url.split('?').next().unwrap_or(&url).to_owned();
    PgConnectOptions::from_str(&url).expect("the test database's URL is valid")
}

impl Database {
    /// A new database with the queue's schema.
    pub async fn new() -> Self {
        let admin = server();
        let name = format!("queue_test_{}", Uuid::now_v7().simple());
        let mut db = PgConnection::connect_with(&admin).await.expect("a PostgreSQL server to test on (see bin/test)");
        sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut db).await.unwrap();
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(admin.clone().database(&name))
            .await
            .unwrap();
        backroom_queue::migrator().run(&pool).await.unwrap();
        Self { pool, name, admin }
    }

    /// Drops the database. A test that panics leaves it behind; its name starts with `queue_test_`.
    pub async fn close(self) {
        self.pool.close().await;
        let mut db = PgConnection::connect_with(&self.admin).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("drop database {} with (force)", self.name))).execute(&mut db).await.unwrap();
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until the count is `expected`; fails after half a minute.
    pub async fn until(&self, sql: &'static str, expected: i64) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let count: Result<i64, _> = sqlx::query_scalar(sql).fetch_one(&self.pool).await;
            if count.as_ref().is_ok_and(|count| *count == expected) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{sql}: {count:?}, expected {expected}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
