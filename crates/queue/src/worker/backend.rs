//! The apalis side: a [`Backend`] that reads a queue's buffer.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    layers::Identity,
    task::Task,
    worker::context::WorkerContext,
};

use super::{buffer::Buffer, claim::Claimed};

/// A queue as apalis sees it. It never fails: database trouble is the fetcher's to ride out. The buffer is shared, so
/// that a worker which apalis restarts finds what its predecessor had not begun.
#[derive(Clone)]
pub(crate) struct QueueBackend(pub Arc<Buffer>);

impl Backend for QueueBackend {
    type Task = Task<Claimed>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Claimed>, Infallible>>> {
        self.0.poll_pop(cx).map(|job| job.map(|job| Ok(Task::new(job))))
    }

    /// Nothing to flush: the fetcher hands back the buffer, and the acker has its own end.
    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
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
