//! `backroom queue …`

use std::{collections::BTreeMap, process::ExitCode};

use backroom_queue::{COUNT_AT_MOST, Limits, QueueStats};
use clap::Subcommand;

use super::{
    exit::not_found,
    output::{Output, cell, maybe},
    session::Session,
};

#[derive(Subcommand)]
pub enum Queue {
    /// Show every queue's unfinished work
    #[command(after_help = "Example:\n  backroom queue list")]
    List,
    /// Stop claiming from a queue, on every node; running jobs go on
    #[command(after_help = "Example:\n  backroom queue pause mailers")]
    Pause { name: String },
    /// Claim from a paused queue again
    #[command(after_help = "Example:\n  backroom queue resume mailers")]
    Resume { name: String },
    /// Set how many of a queue's jobs run at once, over all workers
    #[command(after_help = "Example:\n  backroom queue limit invoices --running 20 --per-tenant 2\n  \
                            backroom queue limit invoices --running none")]
    Limit {
        name: String,
        /// Of the whole queue; `none` takes the limit away, left out keeps it
        #[arg(long, value_name = "N|none", value_parser = bound, required_unless_present = "per_tenant")]
        running: Option<Bound>,
        /// Of each organization within the queue
        #[arg(long, value_name = "N|none", value_parser = bound)]
        per_tenant: Option<Bound>,
    },
}

/// A number of jobs, or no limit.
#[derive(Clone, Copy)]
pub struct Bound(Option<i32>);

fn bound(text: &str) -> Result<Bound, String> {
    if text == "none" {
        return Ok(Bound(None));
    }
    let number = text.parse().ok().filter(|n| *n > 0);
    number.map(|n| Bound(Some(n))).ok_or_else(|| format!("must be a number from 1 to {}, or `none`", i32::MAX))
}

pub async fn run(session: &Session, command: Queue, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Queue::List => list(session, output).await?,
        Queue::Pause { name } => {
            require(session, &name).await?;
            let changed = backroom_queue::pause(&session.db, &name).await?;
            let text = if changed { "is paused" } else { "was paused already" };
            answer(output, &name, true, changed, text)?;
        }
        Queue::Resume { name } => {
            require(session, &name).await?;
            let changed = backroom_queue::resume(&session.db, &name).await?;
            let text = if changed { "goes on" } else { "was not paused" };
            answer(output, &name, false, changed, text)?;
        }
        Queue::Limit { name, running, per_tenant } => {
            require(session, &name).await?;
            let before = backroom_queue::limits(&session.db, &name).await?;
            let limits = Limits {
                max_running: running.map_or(before.max_running, |bound| bound.0),
                max_running_per_tenant: per_tenant.map_or(before.max_running_per_tenant, |bound| bound.0),
            };
            backroom_queue::limit(&session.db, &name, limits).await?;
            let document = serde_json::json!({ "queue": name, "limits": limits });
            output.answer(&document, || {
                let tell = |limit: Option<i32>| limit.map_or("any number".to_owned(), |n| format!("at most {n}"));
                let (all, each) = (tell(limits.max_running), tell(limits.max_running_per_tenant));
                format!("queue {name} runs {all} of its jobs at once, {each} of one organization")
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(output: Output, queue: &str, paused: bool, changed: bool, text: &str) -> anyhow::Result<()> {
    let document = serde_json::json!({ "queue": queue, "paused": paused, "changed": changed });
    output.answer(&document, || format!("queue {queue} {text}"))
}

async fn list(session: &Session, output: Output) -> anyhow::Result<()> {
    let queues: Vec<QueueStats> = known(session).await?.into_values().collect();
    output.answer(&serde_json::json!({ "queues": queues }), || {
        let rows = queues.iter().map(|q| {
            let oldest = q.oldest_available_s.map(|seconds| format!("{seconds:.1} s"));
            let here = session.config.worker.queues.get(&q.queue);
            let paused = if q.paused { "yes" } else { "" };
            [
                cell(&q.queue),
                cell(paused),
                count(q.available),
                count(q.running),
                count(q.scheduled),
                count(q.retryable),
                count(q.held),
                maybe(oldest),
                maybe(here),
                maybe(q.limits.max_running),
                maybe(q.limits.max_running_per_tenant),
            ]
        });
        let header = [
            "queue",
            "paused",
            "available",
            "running",
            "scheduled",
            "retryable",
            "held",
            "oldest waits",
            "per worker",
            "limit",
            "per tenant",
        ];
        output.table(header, rows.collect(), "there is no queue")
    })
}

/// Refuses a queue that is not configured, that no kind goes to and that holds no work.
pub async fn require(session: &Session, name: &str) -> anyhow::Result<()> {
    let known = known(session).await?;
    if known.contains_key(name) {
        return Ok(());
    }
    let names: Vec<_> = known.into_keys().collect();
    Err(not_found(format!("there is no queue `{name}`; there are {}", names.join(", "))))
}

/// The queues that are configured, that some kind goes to, or that hold work.
async fn known(session: &Session) -> anyhow::Result<BTreeMap<String, QueueStats>> {
    let configured = session.config.worker.queues.keys().map(String::as_str);
    let mut queues: BTreeMap<_, _> =
        configured.chain(session.registry.queues()).map(|queue| (queue.to_owned(), QueueStats::idle(queue))).collect();
    for stats in backroom_queue::queue_stats(&session.db).await? {
        queues.insert(stats.queue.clone(), stats);
    }
    Ok(queues)
}

/// A figure of `queue list`, which counts up to a bound.
fn count(n: i64) -> comfy_table::Cell {
    if n >= COUNT_AT_MOST { cell(format!("{n}+")) } else { cell(n) }
}
