//! The single list of kinds: workers dispatch by it, and API, CLI, schedules and docs read it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use schemars::Schema;
use serde_json::Value;

use crate::{Backoff, Ctx, Job, JobResult, NewJob, RateLimit, Sealer, seal};

type RunFn<A> = fn(Value, Ctx<A>) -> Result<BoxFuture<'static, JobResult>, ArgsError>;
type DiscardedFn<A> = fn(Value, Ctx<A>, String) -> Result<BoxFuture<'static, anyhow::Result<()>>, ArgsError>;

/// One kind of job with its policy, its arguments' JSON schema and its handler.
pub struct Kind<A> {
    pub name: &'static str,
    pub queue: &'static str,
    pub priority: i16,
    pub max_attempts: u32,
    pub timeout: Duration,
    pub retention_days: u16,
    pub backoff: Backoff,
    /// See [`Job::SEALED`].
    pub sealed: bool,
    /// JSON schema (2020-12) of the arguments; its `description` is the struct's doc comment.
    pub schema: Schema,
    new_job: fn(Value) -> Result<NewJob, ArgsError>,
    pub(crate) rate_limit: fn(Value) -> Option<RateLimit>,
    pub(crate) run: RunFn<A>,
    pub(crate) discarded: DiscardedFn<A>,
}

impl<A: Send + Sync + 'static> Kind<A> {
    fn of<J: Job<App = A>>() -> Self {
        Self {
            name: J::KIND,
            queue: J::QUEUE,
            priority: J::PRIORITY,
            max_attempts: J::MAX_ATTEMPTS,
            timeout: J::TIMEOUT,
            retention_days: J::RETENTION_DAYS,
            backoff: J::backoff(),
            sealed: J::SEALED,
            schema: schemars::schema_for!(J),
            new_job: |args| Ok(NewJob::of(&decode::<J>(args)?)),
            rate_limit: |args| decode::<J>(args).ok()?.rate_limit(),
            run: |args, ctx| Ok(Box::pin(decode::<J>(args)?.run(ctx))),
            discarded: |args, ctx, reason| Ok(Box::pin(decode::<J>(args)?.discarded(ctx, reason))),
        }
    }

    /// Checks the arguments against the kind's type and makes a job of them, with the kind's defaults and uniqueness.
    pub fn new_job(&self, args: Value) -> Result<NewJob, ArgsError> {
        (self.new_job)(args)
    }

    /// The first sentence about the kind, from its doc comment.
    pub fn description(&self) -> &str {
        self.schema.get("description").and_then(Value::as_str).unwrap_or_default()
    }
}

fn decode<J: Job>(args: Value) -> Result<J, ArgsError> {
    // serde would read an array as a struct's fields in their order, which nobody promised.
    if !args.is_object() {
        return Err(ArgsError { path: String::new(), message: "must be a JSON object".to_owned() });
    }
    serde_path_to_error::deserialize(args).map_err(|e| {
        let path = e.path().to_string();
        let mut message = e.into_inner().to_string();
        // Serde's other messages quote the value.
        if J::SEALED && !["missing field", "unknown field", "duplicate field"].iter().any(|s| message.starts_with(s)) {
            "is not what the kind's schema says".clone_into(&mut message);
        }
        ArgsError { path: if path == "." { String::new() } else { path }, message }
    })
}

/// Arguments that are not the kind's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("arguments do not decode{}: {message}", if path.is_empty() { String::new() } else { format!(" at {path}") })]
pub struct ArgsError {
    /// Dotted path of the field at fault; empty for the whole.
    pub path: String,
    pub message: String,
}

/// All kinds that this host knows, by name.
pub struct Registry<A> {
    kinds: BTreeMap<&'static str, Arc<Kind<A>>>,
    sealer: Option<Arc<dyn Sealer>>,
}

impl<A> Default for Registry<A> {
    fn default() -> Self {
        Self { kinds: BTreeMap::new(), sealer: None }
    }
}

impl<A: Send + Sync + 'static> Registry<A> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind.
    ///
    /// # Panics
    /// When the kind is there already: two handlers for one name is a mistake in the program.
    #[must_use]
    pub fn with<J: Job<App = A>>(mut self) -> Self {
        let previous = self.kinds.insert(J::KIND, Arc::new(Kind::of::<J>()));
        assert!(previous.is_none(), "job kind {} is registered twice", J::KIND);
        self
    }

    /// Brings the keys of sealed kinds ([`Job::SEALED`]): without it their jobs are neither enqueued nor run.
    #[must_use]
    pub fn sealed_by(mut self, sealer: Arc<dyn Sealer>) -> Self {
        self.sealer = Some(sealer);
        self
    }

    pub(crate) fn sealer(&self) -> Option<&Arc<dyn Sealer>> {
        self.sealer.as_ref()
    }

    /// Seals a job of a sealed kind; any other is answered as it came. The last thing to do before it is enqueued: what is
    /// sealed is bound to the job's id, tenant and unique key. Every door that takes a kind by its name does this.
    ///
    /// # Errors
    /// There is no sealer, or it refuses: it lacks a key.
    pub fn seal(&self, job: NewJob) -> anyhow::Result<NewJob> {
        seal::seal_job(self.sealer.as_ref(), job)
    }

    pub fn get(&self, kind: &str) -> Option<&Arc<Kind<A>>> {
        self.kinds.get(kind)
    }

    pub fn kinds(&self) -> impl Iterator<Item = &Kind<A>> {
        self.kinds.values().map(Arc::as_ref)
    }

    /// The names of all queues that some kind goes to, sorted.
    pub fn queues(&self) -> Vec<&'static str> {
        let mut queues: Vec<_> = self.kinds().map(|kind| kind.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }
}

/// The table of contents of a host's work: `registry![billing::RemindInvoice, billing::SweepOverdue]`.
#[macro_export]
macro_rules! registry {
    ($($job:ty),* $(,)?) => {
        $crate::Registry::new()$(.with::<$job>())*
    };
}
