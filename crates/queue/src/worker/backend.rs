//! The apalis side: a [`Backend`] that reads the fetcher's channel.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    layers::Identity,
    task::Task,
    worker::context::WorkerContext,
};
use tokio::sync::mpsc;

use super::{claim::Claimed, fetcher::Buffer};

/// A queue as apalis sees it. It never fails: database trouble is the fetcher's to ride out.
///
/// The receiver is shared so that a worker which apalis restarts finds the jobs that its predecessor had not begun.
#[derive(Clone)]
pub(crate) struct QueueBackend {
    jobs: Arc<Mutex<mpsc::UnboundedReceiver<Claimed>>>,
    buffer: Arc<Buffer>,
    release: Arc<dyn Fn(Claimed) + Send + Sync>,
}

impl QueueBackend {
    /// `release` takes the jobs that were claimed but not begun when the worker closes.
    pub fn new(
        jobs: mpsc::UnboundedReceiver<Claimed>,
        buffer: Arc<Buffer>,
        release: impl Fn(Claimed) + Send + Sync + 'static,
    ) -> Self {
        Self { jobs: Arc::new(Mutex::new(jobs)), buffer, release: Arc::new(release) }
    }

    fn poll_job(&self, cx: &mut Context<'_>) -> Poll<Option<Claimed>> {
        let polled = self.jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).poll_recv(cx);
        if let Poll::Ready(Some(_)) = polled {
            self.buffer.took_one();
        }
        polled
    }
}

impl Backend for QueueBackend {
    type Task = Task<Claimed>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Task<Claimed>, Infallible>>> {
        if worker.is_shutting_down() {
            return Poll::Pending;
        }
        self.poll_job(cx).map(|job| job.map(|job| Ok(Task::new(job))))
    }

    /// Hands back everything that was prefetched, until the fetcher has ended too.
    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        loop {
            match self.poll_job(cx) {
                Poll::Ready(Some(job)) => (self.release)(job),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl BackendConfig for QueueBackend {
    type Args = Claimed;
    type Id = uuid::Uuid;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}
