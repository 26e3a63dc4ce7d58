//! What this process has in its hands: claimed jobs, from the claim until their outcome is recorded.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::claim::Claimed;

struct Held {
    lease: Uuid,
    queue: String,
    renewed: Instant,
    begun: Begun,
    cancelled: CancellationToken,
}

/// Whether the handler runs, and whether the database knows.
#[derive(Clone, Copy)]
enum Begun {
    No,
    Unmarked(Instant),
    Marked,
}

/// Job id → its lease. The keeper renews what is in here and nothing else.
#[derive(Default)]
pub(crate) struct InHand(Mutex<HashMap<Uuid, Held>>);

impl InHand {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Held>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn take(&self, jobs: &[Claimed]) {
        let renewed = Instant::now();
        let mut held = self.lock();
        for job in jobs {
            let cancelled = CancellationToken::new();
            let (lease, queue) = (job.lease, job.queue.clone());
            held.insert(job.id, Held { lease, queue, renewed, begun: Begun::No, cancelled });
        }
    }

    /// Lets go of jobs whose outcome is recorded. A job that was claimed anew meanwhile stays.
    pub fn drop_all(&self, jobs: impl Iterator<Item = (Uuid, Uuid)>) {
        let mut held = self.lock();
        for (id, lease) in jobs {
            if held.get(&id).is_some_and(|job| job.lease == lease) {
                held.remove(&id);
            }
        }
    }

    /// The job is about to run. Answers its cancellation token; `None` if its lease was lost meanwhile, or must have been (this
    /// process stood still), and it must not be begun.
    pub fn begin(&self, job: &Claimed, lease: Duration) -> Option<CancellationToken> {
        let mut held = self.lock();
        let held = held.get_mut(&job.id).filter(|held| held.lease == job.lease && held.renewed.elapsed() < lease)?;
        if matches!(held.begun, Begun::No) {
            held.begun = Begun::Unmarked(Instant::now());
        }
        Some(held.cancelled.clone())
    }

    /// The jobs that have been running for `age` without a mark in the database, with the seconds since they began; in
    /// the order of their ids.
    pub fn unmarked(&self, age: Duration) -> Vec<(Uuid, Uuid, f64)> {
        let held = self.lock();
        let began = held.iter().filter_map(|(id, job)| match job.begun {
            Begun::Unmarked(at) if at.elapsed() >= age => Some((*id, job.lease, at.elapsed().as_secs_f64())),
            _ => None,
        });
        let mut began: Vec<_> = began.collect();
        began.sort_unstable_by_key(|(id, ..)| *id);
        began
    }

    pub fn marked(&self, jobs: impl Iterator<Item = (Uuid, Uuid)>) {
        let mut held = self.lock();
        for (id, lease) in jobs {
            if let Some(job) = held.get_mut(&id).filter(|job| job.lease == lease) {
                job.begun = Begun::Marked;
            }
        }
    }

    /// How many jobs of the queue are in hand.
    pub fn count(&self, queue: &str) -> usize {
        self.lock().values().filter(|job| job.queue == queue).count()
    }

    /// Asks the handler that runs under this lease to stop.
    pub fn cancel_lease(&self, id: Uuid, lease: Uuid) {
        if let Some(job) = self.lock().get(&id).filter(|held| held.lease == lease) {
            job.cancelled.cancel();
        }
    }

    /// The leases that were last renewed at least `age` ago, in the order of their jobs' ids.
    pub fn older_than(&self, age: Duration) -> Vec<(Uuid, Uuid)> {
        let held = self.lock();
        let old = held.iter().filter(|(_, job)| job.renewed.elapsed() >= age);
        let mut old: Vec<(Uuid, Uuid)> = old.map(|(id, job)| (*id, job.lease)).collect();
        old.sort_unstable();
        old
    }

    pub fn renewed(&self, leases: &[(Uuid, Uuid)]) {
        let now = Instant::now();
        let mut held = self.lock();
        for (id, lease) in leases {
            if let Some(job) = held.get_mut(id).filter(|job| job.lease == *lease) {
                job.renewed = now;
            }
        }
    }
}
