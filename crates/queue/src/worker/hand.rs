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
    renewed: Instant,
    cancelled: CancellationToken,
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
            held.insert(job.id, Held { lease: job.lease, renewed, cancelled: CancellationToken::new() });
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

    /// The job's cancellation token; `None` if its lease was lost meanwhile and it must not be begun.
    pub fn cancellation(&self, job: &Claimed) -> Option<CancellationToken> {
        self.lock().get(&job.id).filter(|held| held.lease == job.lease).map(|held| held.cancelled.clone())
    }

    /// Asks the handler that runs under this lease to stop.
    pub fn cancel_lease(&self, id: Uuid, lease: Uuid) {
        if let Some(job) = self.lock().get(&id).filter(|held| held.lease == lease) {
            job.cancelled.cancel();
        }
    }

    /// Asks the job's handler to stop, if it is ours.
    pub fn cancel(&self, id: Uuid) {
        if let Some(job) = self.lock().get(&id) {
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
