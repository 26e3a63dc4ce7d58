//! Does nothing. Enqueued by benches and tests. Twice is fine: nothing happens twice.

use backroom_queue::{Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::App;

/// Does nothing.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Noop {}

impl Job for Noop {
    type App = App;
    const KIND: &'static str = "debug.noop";

    async fn run(self, _: Ctx<App>) -> JobResult {
        Ok(Verdict::DONE)
    }
}
