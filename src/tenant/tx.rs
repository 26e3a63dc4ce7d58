//! A transaction that reaches one organization's schema.

use std::ops::{Deref, DerefMut};

use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool, Postgres, Transaction};

use super::roles::quote;
use crate::domain::Organization;

/// An open transaction as one organization's role, with its schema as the search path. Dropping it rolls back.
///
/// Store functions for tenant tables take the connection that this dereferences to: `invoices::by_id(&mut tx, id)`.
/// Role and search path are local to the transaction, so a connection returns to the pool clean, also behind a
/// transaction-mode pooler.
pub struct TenantTx(Transaction<'static, Postgres>);

/// Opens a transaction as the organization.
///
/// Two round trips, not one: a `BEGIN` that carries the settings would, when a setting fails, leave the connection
/// inside an aborted transaction that sqlx does not know about, and the pool would hand it out again.
pub async fn begin(db: &PgPool, organization: &Organization) -> sqlx::Result<TenantTx> {
    TenantTx::enter(db.begin().await?, organization).await
}

/// Like [`begin`], with a commit that answers before its log is on disk; the next durable commit of anybody flushes it too. For
/// what a durable commit follows at once, and for a record of what already happened outside: it shortens the moment in which a
/// killed process would forget it. Lost only if PostgreSQL itself crashes within milliseconds.
pub async fn begin_without_waiting_for_disk(db: &PgPool, organization: &Organization) -> sqlx::Result<TenantTx> {
    TenantTx::become_tenant(db.begin().await?, organization, "; set local synchronous_commit = off").await
}

impl TenantTx {
    /// Goes on as the organization in a transaction that has begun on the control plane.
    pub async fn enter(tx: Transaction<'static, Postgres>, organization: &Organization) -> sqlx::Result<Self> {
        Self::become_tenant(tx, organization, "").await
    }

    async fn become_tenant(
        mut tx: Transaction<'static, Postgres>,
        organization: &Organization,
        more: &'static str,
    ) -> sqlx::Result<Self> {
        let settings = format!(
            "set local role {}; set local search_path = {}{more}",
            quote(&organization.role_name),
            quote(&organization.schema_name)
        );
        tx.execute(AssertSqlSafe(settings)).await?;
        Ok(Self(tx))
    }

    /// Goes on as the program itself, for what belongs to the control plane but must commit with the organization's
    /// rows: the kept answer of an idempotent request.
    pub async fn leave(mut self) -> sqlx::Result<Transaction<'static, Postgres>> {
        self.0.execute("set local role none; set local search_path = public").await?;
        Ok(self.0)
    }

    pub async fn commit(self) -> sqlx::Result<()> {
        self.0.commit().await
    }

    pub async fn rollback(self) -> sqlx::Result<()> {
        self.0.rollback().await
    }
}

impl Deref for TenantTx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for TenantTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{
        Answered, EffectAnswer, NewBatch, NewJob, answer_effect, effect_id, enqueue_batch, find_batch,
    };

    use super::*;
    use crate::tenant::testing::TestDatabase;

    /// What SQL run as `organization` fails with; `None` if it was allowed.
    async fn sqlstate(db: &PgPool, organization: &Organization, sql: &str) -> Option<String> {
        let mut tx = begin(db, organization).await.unwrap();
        let result = tx.execute(AssertSqlSafe(sql.to_owned())).await;
        result.err().map(|e| e.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned())
    }

    const REFUSED: &str = "42501"; // insufficient_privilege

    /// TEN-3
    #[tokio::test]
    async fn hand_written_sql_reaches_no_table_of_another_organization() {
        let database = TestDatabase::new().await;
        let (acme, other) = (database.organization("acme").await, database.organization("other").await);
        let tables: Vec<String> =
            sqlx::query_scalar("select table_name::text from information_schema.tables where table_schema = $1")
                .bind(&other.schema_name)
                .fetch_all(&database.pool)
                .await
                .unwrap();
        assert!(tables.len() >= 7, "the tenant's tables are there: {tables:?}");
        let foreign = tables.iter().map(|table| format!("{}.{table}", other.schema_name)).chain(
            ["public.organizations", "public.api_keys", "public.idempotency_keys", "queue.jobs", "queue.finished_jobs"]
                .map(str::to_owned),
        );
        for table in foreign {
            let column: String = sqlx::query_scalar(
                "select attname::text from pg_attribute where attrelid = $1::regclass and attnum = 1",
            )
            .bind(&table)
            .fetch_one(&database.pool)
            .await
            .unwrap();
            for sql in [
                format!("select * from {table}"),
                format!("insert into {table} default values"),
                format!("update {table} set {column} = {column}"),
                format!("delete from {table}"),
                format!("truncate {table}"),
            ] {
                assert_eq!(sqlstate(&database.pool, &acme, &sql).await.as_deref(), Some(REFUSED), "{sql}");
            }
        }
        for sql in ["create table public.mine ()", "create table org_other.mine ()", "create role mine"] {
            assert_eq!(sqlstate(&database.pool, &acme, sql).await.as_deref(), Some(REFUSED), "{sql}");
        }
    }

    /// TEN-3, EVT-1: its own tables are open, but the activity log only grows.
    #[tokio::test]
    async fn an_organization_works_in_its_own_tables() {
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        for sql in ["select from companies, invoices, deliveries", "delete from reminders", "select from events"] {
            assert_eq!(sqlstate(&database.pool, &acme, sql).await, None, "{sql}");
        }
        for sql in ["delete from events", "update events set kind = ''", "select from _sqlx_migrations"] {
            assert_eq!(sqlstate(&database.pool, &acme, sql).await.as_deref(), Some(REFUSED), "{sql}");
        }
    }

    fn job(tenant: Option<&str>) -> NewJob {
        NewJob { tenant: tenant.map(str::to_owned), ..NewJob::named("debug.noop", serde_json::json!({})) }
    }

    /// TEN-3, PLAT-1
    #[tokio::test]
    async fn an_organization_enqueues_for_itself_only_and_with_its_rows() {
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        database.organization("other").await;

        let mut tx = begin(&database.pool, &acme).await.unwrap();
        backroom_queue::enqueue(&mut *tx, &job(Some("acme"))).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = begin(&database.pool, &acme).await.unwrap();
        backroom_queue::enqueue(&mut *tx, &job(Some("acme"))).await.unwrap();
        tx.rollback().await.unwrap();
        for tenant in [Some("other"), None] {
            let mut tx = begin(&database.pool, &acme).await.unwrap();
            let refused = backroom_queue::enqueue(&mut *tx, &job(tenant)).await.unwrap_err();
            assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some(REFUSED));
        }

        let tenants: Vec<Option<String>> =
            sqlx::query_scalar("select tenant from queue.jobs").fetch_all(&database.pool).await.unwrap();
        assert_eq!(tenants, [Some("acme".to_owned())]);
    }

    /// TEN-3, PLAT-21
    #[tokio::test]
    async fn an_organization_answers_for_its_own_effects_only() {
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        database.organization("other").await;
        let effect = async |tenant: Option<&str>| {
            let id = effect_id(tenant, "pay:1");
            let sql = "insert into queue.effects (id, tenant, key, kind, job_id, attempt, keep_days)
                       values ($1, $2, 'pay:1', 'test', gen_random_uuid(), 1, 30)";
            sqlx::query(sql).bind(id).bind(tenant).execute(&database.pool).await.unwrap();
            id
        };
        let (own, foreign, nobodys) = (effect(Some("acme")).await, effect(Some("other")).await, effect(None).await);

        let mut tx = begin(&database.pool, &acme).await.unwrap();
        for (id, expected) in [(foreign, Answered::NotFound), (nobodys, Answered::NotFound), (own, Answered::Yes)] {
            let answer = answer_effect(&mut tx, id, None, &EffectAnswer::DidNotHappen, "acme").await.unwrap();
            assert_eq!(answer, expected);
        }
        tx.commit().await.unwrap();
        assert_eq!(sqlstate(&database.pool, &acme, "select from queue.effects").await.as_deref(), Some(REFUSED));
    }

    /// TEN-3: a connection goes back to the pool without role and search path.
    #[tokio::test]
    async fn nothing_of_the_organization_stays_on_the_connection() {
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        let mut vanished = acme.clone();
        vanished.role_name.push_str("_gone");
        begin(&database.pool, &acme).await.unwrap().commit().await.unwrap();
        drop(begin(&database.pool, &acme).await.unwrap());
        assert!(begin(&database.pool, &vanished).await.is_err());

        for _ in 0..8 {
            let (role, path): (String, String) =
                sqlx::query_as("select current_setting('role'), current_setting('search_path')")
                    .fetch_one(&database.pool)
                    .await
                    .unwrap();
            assert_eq!((role.as_str(), path.contains("org_")), ("none", false));
        }
    }

    /// TEN-3, PLAT-18
    #[tokio::test]
    async fn an_organization_makes_batches_of_its_own_and_joins_no_others() {
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        let batch = |tenant: &str| NewBatch { tenant: Some(tenant.to_owned()), ..NewBatch::default() };
        let theirs = batch("other");
        enqueue_batch(&database.pool, &theirs, &[job(None)]).await.unwrap();

        let mut tx = begin(&database.pool, &acme).await.unwrap();
        let then = NewBatch { then: Some(job(None)), ..batch("acme") };
        assert!(enqueue_batch(&mut *tx, &then, &[]).await.unwrap().batch.then_job_id.is_some(), "fired at once");
        let ours = enqueue_batch(&mut *tx, &batch("acme"), &[job(None)]).await.unwrap().batch;
        let joins = NewJob { batch_id: Some(ours.id), ..job(Some("acme")) };
        backroom_queue::enqueue(&mut *tx, &joins).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(find_batch(&database.pool, ours.id, None).await.unwrap().unwrap().size, 2);

        let mut tx = begin(&database.pool, &acme).await.unwrap();
        let joins = NewJob { batch_id: Some(theirs.id), ..job(Some("acme")) };
        let refused = backroom_queue::enqueue(&mut *tx, &joins).await.unwrap_err();
        assert!(refused.as_database_error().unwrap().is_foreign_key_violation(), "{refused}");
        for (batch, then) in [(batch("other"), None), (batch("acme"), Some(job(Some("other"))))] {
            let mut tx = begin(&database.pool, &acme).await.unwrap();
            let refused = enqueue_batch(&mut *tx, &NewBatch { then, ..batch }, &[]).await.unwrap_err();
            assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some(REFUSED));
        }
        for door in ["members_ended('{}', '{}')", "members_back('{}', '{}')", "prune_batches()"] {
            let mut tx = begin(&database.pool, &acme).await.unwrap();
            let refused = tx.execute(AssertSqlSafe(format!("select queue.{door}"))).await.unwrap_err();
            assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some(REFUSED), "{door}");
        }
    }
}
