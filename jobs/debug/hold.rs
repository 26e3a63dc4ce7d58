//! Holds a transaction open. Enqueued by tests of a used-up pool. Twice is fine: it writes nothing.

use std::time::Duration;

use backroom_queue::{Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::App;

/// Keeps one of the process's connections in a transaction.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Milliseconds.
    pub ms: u64,
}

impl Job for Hold {
    type App = App;
    const KIND: &'static str = "debug.hold";

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let mut tx = ctx.app.db.begin().await?;
        sqlx::query("select 1").execute(&mut *tx).await?;
        tokio::time::sleep(Duration::from_millis(self.ms)).await;
        tx.commit().await?;
        Ok(Verdict::DONE)
    }
}
