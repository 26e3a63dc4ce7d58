//! Fails a number of times, then succeeds. Enqueued by tests of retries. Twice is fine: it only counts attempts.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::App;

/// Fails its first attempts, then succeeds.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fail {
    /// How many attempts fail.
    pub times: u32,
}

impl Job for Fail {
    type App = App;
    const KIND: &'static str = "debug.fail";

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_millis(200), Duration::from_secs(5)) // somebody is watching
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let attempt = ctx.job.attempt;
        anyhow::ensure!(attempt > self.times, "attempt {attempt} fails as it was told to");
        Ok(Verdict::DONE)
    }
}
