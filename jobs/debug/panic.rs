//! Panics. Enqueued by tests of a worker's resilience. Twice is fine: it panics again.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::App;

/// Panics at every attempt.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Panic {}

impl Job for Panic {
    type App = App;
    const KIND: &'static str = "debug.panic";
    const MAX_ATTEMPTS: u32 = 3;

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_millis(200), Duration::from_secs(5)) // somebody is watching
    }

    #[allow(clippy::panic, reason = "it is what the job is for")]
    async fn run(self, _: Ctx<App>) -> JobResult {
        panic!("debug.panic panics as it was told to")
    }
}
