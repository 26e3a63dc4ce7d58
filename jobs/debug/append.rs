//! Appends a line to a file, so that runs can be counted from outside. Enqueued by tests. Twice shows: that is its purpose.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use backroom_queue::{Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{fs::OpenOptions, io::AsyncWriteExt};

use crate::context::App;

/// Appends a line to a file on the worker's machine.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Append {
    pub path: PathBuf,
    pub line: String,
    /// How long it works before it appends, in milliseconds.
    #[serde(default)]
    pub after_ms: u64,
}

impl Job for Append {
    type App = App;
    const KIND: &'static str = "debug.append";

    async fn run(self, _: Ctx<App>) -> JobResult {
        if self.after_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.after_ms)).await;
        }
        let failed = || format!("could not append to {}", self.path.display());
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path).await.with_context(failed)?;
        // One write, so that lines of jobs that run together do not mix.
        file.write_all(format!("{}\n", self.line).as_bytes()).await.with_context(failed)?;
        file.flush().await.with_context(failed)?;
        Ok(Verdict::DONE)
    }
}
