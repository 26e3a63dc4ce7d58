//! Blocks the thread that it runs on. Enqueued by tests of leases. Twice is fine: it blocks again.

use std::time::Duration;

use backroom_queue::{Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::App;

/// Blocks a thread of the runtime, as a handler must not.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Milliseconds.
    pub ms: u64,
}

impl Job for Block {
    type App = App;
    const KIND: &'static str = "debug.block";

    #[allow(clippy::disallowed_methods, reason = "it is what the job is for")]
    async fn run(self, _: Ctx<App>) -> JobResult {
        std::thread::sleep(Duration::from_millis(self.ms));
        Ok(Verdict::DONE)
    }
}
