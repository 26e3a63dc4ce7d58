//! Sleeps. Enqueued by tests of leases and shutdown. Twice is fine: it sleeps again.

use std::time::Duration;

use backroom_queue::{Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::App;

/// Sleeps; a cancel ends it early.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sleep {
    /// Milliseconds.
    pub ms: u64,
}

impl Job for Sleep {
    type App = App;
    const KIND: &'static str = "debug.sleep";

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(self.ms)) => Ok(Verdict::DONE),
            () = ctx.cancelled().cancelled() => Ok(Verdict::Cancel("asked to stop while it slept".to_owned())),
        }
    }
}
