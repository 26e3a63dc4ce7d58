//! The claimed jobs of one queue that nobody has begun.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::sync::{Notify, mpsc};

use super::claim::Claimed;

/// Filled by the fetcher, emptied by the apalis worker; the fetcher sees to it that it stays small.
pub(crate) struct Buffer {
    filling: mpsc::UnboundedSender<Claimed>,
    jobs: Mutex<mpsc::UnboundedReceiver<Claimed>>,
    len: AtomicUsize,
    low_mark: AtomicUsize,
    low: Notify,
}

impl Buffer {
    pub fn new() -> Self {
        let (filling, jobs) = mpsc::unbounded_channel();
        let (len, low_mark) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { filling, jobs: Mutex::new(jobs), len, low_mark, low: Notify::new() }
    }

    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    pub fn push(&self, jobs: Vec<Claimed>) {
        self.len.fetch_add(jobs.len(), Ordering::AcqRel);
        for job in jobs {
            // We hold the receiver ourselves.
            let _ = self.filling.send(job);
        }
    }

    /// The next job; the task is woken when one comes. Never `None`: the buffer outlives its fetcher.
    pub fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<Claimed>> {
        let job = self.jobs().poll_recv(cx);
        if let Poll::Ready(Some(_)) = job {
            let left = self.len.fetch_sub(1, Ordering::AcqRel) - 1;
            if left <= self.low_mark.load(Ordering::Acquire) {
                self.low.notify_one();
            }
        }
        job
    }

    /// Waits until at most `mark` jobs are left.
    pub async fn until_at_most(&self, mark: usize) {
        self.low_mark.store(mark, Ordering::Release);
        while self.len() > mark {
            self.low.notified().await;
        }
    }

    /// Takes everything that is left.
    pub fn drain(&self) -> Vec<Claimed> {
        let mut jobs = self.jobs();
        let drained: Vec<Claimed> = std::iter::from_fn(|| jobs.try_recv().ok()).collect();
        self.len.fetch_sub(drained.len(), Ordering::AcqRel);
        drained
    }

    fn jobs(&self) -> MutexGuard<'_, mpsc::UnboundedReceiver<Claimed>> {
        self.jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
