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

    pub fn cancellation(&self, id: Uuid) -> CancellationToken {
        self.lock().get(&id).map(|job| job.cancelled.clone()).unwrap_or_default()
    }

    /// Asks the job's handler to stop, if it is ours.
    pub fn cancel(&self, id: Uuid) {
        if let Some(job) = self.lock().get(&id) {
            job.cancelled.cancel();
        }
    }

    /// The leases that were last renewed at least `age` ago.
    pub fn older_than(&self, age: Duration) -> (Vec<Uuid>, Vec<Uuid>) {
        self.lock().iter().filter(|(_, job)| job.renewed.elapsed() >= age).map(|(id, job)| (*id, job.lease)).unzip()
    }

    pub fn renewed(&self, ids: &[Uuid]) {
        let now = Instant::now();
        let mut held = self.lock();
        for id in ids {
            if let Some(job) = held.get_mut(id) {
                job.renewed = now;
            }
        }
    }
}
