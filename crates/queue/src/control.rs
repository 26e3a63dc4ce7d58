//! What people do to jobs and queues: cancel, retry, pause, hold.

use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// What a cancel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It was waiting and is now `cancelled`.
    Cancelled,
    /// It is running; its handler has been asked to stop.
    Requested,
    /// It had ended already.
    AlreadyFinished,
    NotFound,
}

/// What a retry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOutcome {
    /// It is `available` again, with its history and a fresh set of attempts.
    Requeued,
    /// It is not a `discarded` or `cancelled` job and not one waiting for its next attempt.
    NotRetryable,
    /// A job with the same unique key is unfinished.
    Duplicate,
    NotFound,
}

/// Cancels a job; with a tenant, only that tenant's.
pub async fn cancel(
    db: &mut PgConnection,
    id: Uuid,
    tenant: Option<&str>,
    reason: &str,
) -> sqlx::Result<CancelOutcome> {
    let _ = (db, id, tenant, reason);
    todo!()
}

/// Makes a dead letter, a cancelled job or one waiting for its next attempt available at once.
pub async fn retry(db: &mut PgConnection, id: Uuid, tenant: Option<&str>) -> sqlx::Result<RetryOutcome> {
    let _ = (db, id, tenant);
    todo!()
}

/// No node claims from the queue until [`resume`]; running jobs go on. False if it was paused already.
pub async fn pause(db: impl PgExecutor<'_>, queue: &str) -> sqlx::Result<bool> {
    let _ = (db, queue);
    todo!()
}

/// False if it was not paused.
pub async fn resume(db: impl PgExecutor<'_>, queue: &str) -> sqlx::Result<bool> {
    let _ = (db, queue);
    todo!()
}

/// Holds a tenant's jobs: what waits, waits on; what is enqueued, waits too. Answers how many jobs it holds now.
pub async fn hold_tenant(db: &mut PgConnection, tenant: &str) -> sqlx::Result<u64> {
    let _ = (db, tenant);
    todo!()
}

/// Lets a held tenant's jobs run again. Answers how many.
pub async fn release_tenant(db: &mut PgConnection, tenant: &str) -> sqlx::Result<u64> {
    let _ = (db, tenant);
    todo!()
}
