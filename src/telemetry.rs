//! What the processes tell about themselves: logs on standard error, metrics for Prometheus.

use std::{
    backtrace::BacktraceStatus, collections::BTreeSet, io::IsTerminal, net::SocketAddr, sync::LazyLock, time::Duration,
};

use anyhow::Context;
use axum::{Router, http::header, routing::get};
use backroom_queue::QueueStats;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// The media type of [`render_metrics`] (Prometheus text format 0.0.4).
pub const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How often the gauges of the queues are refreshed.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// From a millisecond to an hour: a job's run or wait may be either.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0, 900.0, 3600.0];
const ATTEMPTS: [f64; 7] = [1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0];

/// Sends logs to standard error, as `log` says. Once per process.
pub fn init_logs(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.filter).with_context(|| {
        format!("the setting `log.filter` is {:?}, which is not a filter such as `info,sqlx=warn`", log.filter)
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).try_init(),
        LogFormat::Pretty => lines.with_target(false).with_ansi(colours(&std::io::stderr())).try_init(),
    };
    installed.map_err(|e| anyhow::anyhow!("could not start logging: {e}"))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic is a log line like any other; with its backtrace if `RUST_BACKTRACE` asks for one.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let message = match panic.payload_as_str() {
        // It is kept with the job, sealed.
        _ if backroom_queue::in_sealed_job() => "in the handler of a sealed job",
        message => message.unwrap_or("without a message"),
    };
    tracing::error!(
        message = "a thread panicked",
        panic = message,
        location = panic.location().map(ToString::to_string),
        thread = thread.name(),
        backtrace,
    );
}

/// Whether to colour what goes to this stream: a terminal, and nobody asked for plain text (<https://no-color.org>).
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The process's recorder; made, described and installed on first use.
static METRICS: LazyLock<PrometheusHandle> = LazyLock::new(|| {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_attempts".to_owned()), &ATTEMPTS))
        .expect("the lists of buckets are not empty")
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("another recorder of metrics is installed; /metrics will be empty");
    }
    describe();
    handle
});

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!("queue_jobs_total", Unit::Count, "Attempts that ended, by kind, queue and outcome.");
    describe_histogram!("queue_run_seconds", Unit::Seconds, "How long attempts ran, by kind and queue.");
    describe_histogram!(
        "queue_wait_seconds",
        Unit::Seconds,
        "How long jobs were due before they ran, by kind and queue."
    );
    describe_histogram!(
        "queue_attempts",
        Unit::Count,
        "Attempts that jobs had used when they ended, by kind and queue."
    );
    describe_counter!("queue_rescued_total", Unit::Count, "Jobs taken back from workers that were lost.");
    describe_counter!(
        "queue_outcomes_refused_total",
        Unit::Count,
        "Outcomes that came after their job's lease was lost."
    );
    describe_counter!("schedule_ticks_total", Unit::Count, "Ticks that were decided, by schedule and outcome.");
    describe_gauge!("event_streams", Unit::Count, "Streams of events that are open.");
    describe_counter!("event_streams_ended_total", Unit::Count, "Streams of events that ended, by reason.");
    describe_counter!("events_given_total", Unit::Count, "Events handed to followers, each follower counted.");
    describe_counter!("events_replayed_total", Unit::Count, "Events handed to followers who came back.");
    describe_counter!(
        "event_listener_lost_total",
        Unit::Count,
        "Connections that listened for events and were lost, or failed."
    );
    describe_counter!(
        "event_looks_failed_total",
        Unit::Count,
        "Organizations' events that could not be read, each time."
    );
    describe_gauge!("queue_depth", Unit::Count, "Unfinished jobs, by queue and state.");
    describe_gauge!(
        "queue_oldest_available_seconds",
        Unit::Seconds,
        "How long the oldest available job has waited, by queue."
    );
    describe_gauge!("queue_paused", "1 while a queue is paused.");
}

/// Starts to collect metrics. Calls before this one are not counted, so it comes first in a process.
pub fn init_metrics() {
    LazyLock::force(&METRICS);
}

/// All metrics in Prometheus' text format.
pub fn render_metrics() -> String {
    METRICS.render()
}

/// Keeps the gauges of the queues fresh until `shutdown`. Every process may run it; all show the same. The `configured`
/// queues are shown from the start, at zero while they have no work: to an alert, no value is not a zero.
pub async fn sample_queues(pool: PgPool, configured: Vec<String>, shutdown: CancellationToken) {
    let mut known = BTreeSet::from_iter(configured);
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        match backroom_queue::queue_stats(&pool).await {
            Ok(stats) => record_queues(&mut known, stats),
            Err(error) => tracing::warn!(error = %error, "could not sample the queues; trying again"),
        }
        METRICS.run_upkeep();
    }
}

/// A queue that has run empty is not among `stats`; it is `known`, and goes to zero.
fn record_queues(known: &mut BTreeSet<String>, stats: Vec<QueueStats>) {
    let mut empty = std::mem::take(known);
    for queue in stats {
        empty.remove(&queue.queue);
        record_queue(&queue);
        known.insert(queue.queue);
    }
    for queue in empty {
        record_queue(&QueueStats::idle(&queue));
        known.insert(queue);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of jobs are far below 2^52")]
fn record_queue(stats: &QueueStats) {
    let states = [
        ("scheduled", stats.scheduled),
        ("available", stats.available),
        ("held", stats.held),
        ("running", stats.running),
        ("retryable", stats.retryable),
    ];
    for (state, count) in states {
        metrics::gauge!("queue_depth", "queue" => stats.queue.clone(), "state" => state).set(count as f64);
    }
    let oldest = stats.oldest_available_s.unwrap_or_default().max(0.0);
    metrics::gauge!("queue_oldest_available_seconds", "queue" => stats.queue.clone()).set(oldest);
    metrics::gauge!("queue_paused", "queue" => stats.queue.clone()).set(f64::from(u8::from(stats.paused)));
}

/// Serves `/metrics` and `/health/live` for a process that has no other door, until `shutdown`.
pub async fn serve(listen: SocketAddr, shutdown: CancellationToken) -> anyhow::Result<()> {
    let metrics = || async { ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], render_metrics()) };
    let routes = Router::new().route("/metrics", get(metrics)).route("/health/live", get(|| async { "ok\n" }));
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("could not listen on {listen} (worker.metrics_listen)"))?;
    tracing::info!(%listen, "metrics are served");
    axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(queue: &str, available: i64) -> QueueStats {
        QueueStats { available, oldest_available_s: Some(1.5), ..QueueStats::idle(queue) }
    }

    /// OPS-1
    #[test]
    fn queues_and_histograms_are_shown_and_an_empty_queue_goes_to_zero() {
        // The recorder is the process's: other tests count in it too, on other queues.
        init_metrics();
        let mut known = BTreeSet::new();
        record_queues(&mut known, vec![waiting("test-mailers", 7), waiting("test-reports", 1)]);
        metrics::histogram!("queue_run_seconds", "kind" => "test.noop", "queue" => "test-reports").record(0.3);
        let text = render_metrics();
        assert!(text.contains(r#"queue_depth{queue="test-mailers",state="available"} 7"#), "{text}");
        assert!(text.contains(r#"queue_oldest_available_seconds{queue="test-mailers"} 1.5"#), "{text}");
        assert!(
            text.contains(r#"queue_run_seconds_bucket{kind="test.noop",queue="test-reports",le="0.5"} 1"#),
            "{text}"
        );

        record_queues(&mut known, vec![waiting("test-reports", 1)]);
        let text = render_metrics();
        assert!(text.contains(r#"queue_depth{queue="test-mailers",state="available"} 0"#), "{text}");
        assert!(text.contains(r#"queue_depth{queue="test-reports",state="available"} 1"#), "{text}");
    }
}
