//! `backroom queue …`

use std::{collections::BTreeMap, process::ExitCode};

use backroom_queue::QueueStats;
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
                cell(q.available),
                cell(q.running),
                cell(q.scheduled),
                cell(q.retryable),
                cell(q.held),
                maybe(oldest),
                maybe(here),
            ]
        });
        let header =
            ["queue", "paused", "available", "running", "scheduled", "retryable", "held", "oldest waits", "per worker"];
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
        configured.chain(session.registry.queues()).map(|queue| (queue.to_owned(), idle(queue))).collect();
    for stats in backroom_queue::queue_stats(&session.db).await? {
        queues.insert(stats.queue.clone(), stats);
    }
    Ok(queues)
}

fn idle(queue: &str) -> QueueStats {
    QueueStats {
        queue: queue.to_owned(),
        paused: false,
        scheduled: 0,
        available: 0,
        held: 0,
        running: 0,
        retryable: 0,
        oldest_available_s: None,
    }
}
