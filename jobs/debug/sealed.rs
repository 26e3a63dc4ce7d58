//! Keeps a secret, in whichever way it ends. Enqueued by tests. Twice is fine: it only speaks.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Unique, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::context::App;

/// Says a secret in its result, its error or its reason; the kind is sealed, so that nobody hears.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    pub secret: String,
    #[serde(default)]
    pub ends: Ends,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    #[default]
    Done,
    Failed,
    Panicked,
    Cancelled,
    Discarded,
}

impl Job for Sealed {
    type App = App;
    const KIND: &'static str = "debug.sealed";
    const SEALED: bool = true;

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_millis(200), Duration::from_secs(5)) // somebody is watching
    }

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by_args(self))
    }

    #[allow(clippy::panic, reason = "it is what the job is for")]
    async fn run(self, _: Ctx<App>) -> JobResult {
        let secret = self.secret;
        match self.ends {
            Ends::Done => Verdict::done_with(json!({ "secret": secret })),
            Ends::Failed => anyhow::bail!("{secret} did not work"),
            Ends::Panicked => panic!("{secret} panicked as it was told to"),
            Ends::Cancelled => Ok(Verdict::Cancel(format!("{secret} is not needed"))),
            Ends::Discarded => Ok(Verdict::Discard(format!("{secret} never will"))),
        }
    }
}
