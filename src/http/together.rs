//! Enqueues that come at the same time share a transaction, and with it a flush to the disk: 64 connections that each enqueue a job wait
//! for one commit, not for 64. Alone, a job waits for nobody.

use std::sync::{Arc, Mutex, PoisonError};

use backroom_queue::{self as queue, Enqueued, NewJob};
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Transactions at a time: while one waits for the disk, another gathers.
const LANES: usize = 2;
/// Jobs of one transaction.
const MOST: usize = 500;

/// Jobs that wait for a transaction.
pub struct Together {
    db: PgPool,
    waiting: Mutex<Vec<Waiting>>,
    lanes: Arc<Semaphore>,
}

struct Waiting {
    job: NewJob,
    /// `None`: the database refused the transaction, so nothing of it happened. Closed without a word: nobody knows.
    done: oneshot::Sender<Option<Enqueued>>,
}

impl Together {
    pub fn new(db: PgPool) -> Arc<Self> {
        Arc::new(Self { db, waiting: Mutex::default(), lanes: Arc::new(Semaphore::new(LANES)) })
    }

    /// As [`queue::enqueue`]; when it answers, the job is on the disk.
    pub async fn enqueue(self: &Arc<Self>, job: NewJob) -> sqlx::Result<Enqueued> {
        // These wait for locks that others hold, or fail for reasons of their own.
        if job.unique.is_some() || job.batch_id.is_some() {
            return queue::enqueue(&self.db, &job).await;
        }
        let (done, enqueued) = oneshot::channel();
        self.waiting().push(Waiting { job: job.clone(), done });
        self.go();
        match enqueued.await {
            Ok(Some(enqueued)) => Ok(enqueued),
            // Somebody else's job may have been the reason. By itself it has an error of its own, if any.
            Ok(None) => queue::enqueue(&self.db, &job).await,
            Err(_) => {
                Err(std::io::Error::other("the connection to the database was lost while the job was stored").into())
            }
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a transaction if a lane is free; otherwise whoever has one takes what waits with it. In a task of its own: a client that
    /// hangs up takes nobody along.
    fn go(self: &Arc<Self>) {
        if let Ok(lane) = self.lanes.clone().try_acquire_owned() {
            tokio::spawn(self.clone().run(lane));
        }
    }

    async fn run(self: Arc<Self>, lane: OwnedSemaphorePermit) {
        loop {
            let batch: Vec<Waiting> = {
                let mut waiting = self.waiting();
                let most = waiting.len().min(MOST);
                waiting.drain(..most).collect()
            };
            if batch.is_empty() {
                break;
            }
            let (jobs, done): (Vec<NewJob>, Vec<_>) = batch.into_iter().map(|one| (one.job, one.done)).unzip();
            match queue::enqueue_many(&self.db, &jobs).await {
                Ok(enqueued) => {
                    for (done, enqueued) in done.into_iter().zip(enqueued) {
                        // Who has gone does not want to know.
                        let _ = done.send(Some(enqueued));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, jobs = jobs.len(), "could not store the jobs of several requests together");
                    if matches!(error, sqlx::Error::Database(_)) {
                        for done in done {
                            let _ = done.send(None);
                        }
                    }
                }
            }
        }
        drop(lane);
        // Whoever came between the last look and the lane's being free has found it taken.
        if !self.waiting().is_empty() {
            self.go();
        }
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::JobState;
    use serde_json::json;

    use super::*;
    use crate::tenant::testing::TestDatabase;

    fn job(tenant: &str) -> NewJob {
        NewJob::named("debug.noop", json!({})).tenant(tenant)
    }

    /// API-2, PLAT-1: each is answered with its own job, and many share a transaction.
    #[tokio::test]
    async fn jobs_that_come_together_are_stored_together() {
        let database = TestDatabase::new().await;
        let together = Together::new(database.pool.clone());
        let jobs: Vec<NewJob> = (0..300).map(|n| job(["acme", "globex"][n % 2])).collect();
        let enqueued = futures::future::join_all(jobs.iter().map(|job| together.enqueue(job.clone()))).await;
        for (job, enqueued) in jobs.iter().zip(enqueued) {
            let expected = Enqueued { id: job.id, state: JobState::Available, duplicate: false };
            assert_eq!(enqueued.unwrap(), expected);
        }
        let (stored, transactions): (i64, i64) =
            sqlx::query_as("select count(*), count(distinct xmin::text) from queue.jobs")
                .fetch_one(&database.pool)
                .await
                .unwrap();
        assert_eq!(stored, 300);
        assert!(transactions <= 10, "{transactions} transactions");
    }

    /// API-2: what one job is refused for is not the others' error.
    #[tokio::test]
    async fn a_job_that_the_database_refuses_takes_no_other_along() {
        let database = TestDatabase::new().await;
        let together = Together::new(database.pool.clone());
        let twice = job("acme");
        queue::enqueue(&database.pool, &twice).await.unwrap();
        let mut jobs: Vec<NewJob> = (0..20).map(|_| job("acme")).collect();
        jobs.insert(10, twice.clone());
        let enqueued = futures::future::join_all(jobs.iter().map(|job| together.enqueue(job.clone()))).await;
        for (job, enqueued) in jobs.iter().zip(enqueued) {
            assert_eq!(enqueued.is_err(), job.id == twice.id, "{enqueued:?}");
        }
        let stored: i64 =
            sqlx::query_scalar("select count(*) from queue.jobs").fetch_one(&database.pool).await.unwrap();
        assert_eq!(stored, 21);
    }
}
