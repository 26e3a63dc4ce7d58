//! A transaction that reaches one organization's schema.

use std::ops::{Deref, DerefMut};

use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool, Postgres, Transaction};

use super::names::quote;
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

impl TenantTx {
    /// Goes on as the organization in a transaction that has begun on the control plane.
    pub async fn enter(mut tx: Transaction<'static, Postgres>, organization: &Organization) -> sqlx::Result<Self> {
        let settings = format!(
            "set local role {}; set local search_path = {}",
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
