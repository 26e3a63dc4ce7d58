//! Faults on purpose: `bin/chaos [SCENARIO…] [--json]` brings real processes to grief, one scenario at a time, and counts
//! from outside what became of the work. docs/chaos.md says what each scenario does and promises.

mod report;
mod scenarios;
mod stage;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, reason = "what the tests of the program need, and we only in part")]
mod support;

use std::{
    io::IsTerminal,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use self::{report::Report, scenarios::SCENARIOS};

/// Brings a running Backroom to grief and counts what became of the work.
#[derive(Clone, Parser)]
#[command(name = "bin/chaos")]
pub struct Options {
    /// The scenarios to run, in this order; all if none is named.
    #[arg(value_name = "SCENARIO")]
    names: Vec<String>,
    /// One JSON object per line instead of the table.
    #[arg(long)]
    json: bool,
    /// Lists the scenarios and ends.
    #[arg(long)]
    list: bool,
    /// How long `snapshot` holds its transaction open.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    hold_s: u64,
    /// How many dead tuples `snapshot` tolerates in queue.jobs.
    #[arg(long, value_name = "TUPLES", default_value_t = 200_000)]
    dead_tuples: i64,
    /// Where the processes' warnings go.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// A scenario that takes longer than this hangs. `snapshot` gets its own time on top.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    // `cargo test` starts every test binary, with arguments of its own; scenarios are minutes, and are asked for.
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    if args.next().as_deref() != Some("run") {
        println!("The scenarios of bin/chaos are not part of the tests.");
        return ExitCode::SUCCESS;
    }
    let options = Options::parse_from(std::iter::once(program).chain(args));
    if options.list {
        for scenario in &SCENARIOS {
            println!("{:12} {}", scenario.name, scenario.fault);
        }
        return ExitCode::SUCCESS;
    }
    let mut chosen = Vec::new();
    for name in &options.names {
        let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == name) else {
            let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            eprintln!("error: there is no scenario {name:?}; there are {}", names.join(", "));
            return ExitCode::from(2);
        };
        chosen.push(scenario);
    }
    if chosen.is_empty() {
        chosen.extend(&SCENARIOS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, run(&chosen, &options))
}

/// Runs the scenarios one after the other. What a scenario has started ends with it, however it ends: with its result,
/// a panic, the time limit, or a signal to us.
async fn run(chosen: &[&'static scenarios::Scenario], options: &Options) -> ExitCode {
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals are heard");
    let mut terminate = signal(SignalKind::terminate()).expect("signals are heard");
    if !options.json {
        println!("{}", Report::HEADER);
    }
    let mut failed = false;
    for scenario in chosen {
        if !options.json && std::io::stderr().is_terminal() {
            eprint!("{} …\r", scenario.name);
        }
        let began = Instant::now();
        let limit = LIMIT + Duration::from_secs(options.hold_s);
        let mut task = tokio::task::spawn_local((scenario.run)(options.clone()));
        let ended = tokio::select! {
            ended = &mut task => Some(ended),
            () = tokio::time::sleep(limit) => None,
            _ = interrupt.recv() => return give_up(task).await,
            _ = terminate.recv() => return give_up(task).await,
        };
        let result = match ended {
            Some(Ok(result)) => result,
            Some(Err(panic)) => Err(anyhow::anyhow!("{}", report::panic_text(panic))),
            None => {
                task.abort();
                let _ = task.await;
                Err(anyhow::anyhow!("it did not end within {} s", limit.as_secs()))
            }
        };
        let report = Report::new(scenario, result, began.elapsed());
        failed |= report.failed();
        if options.json {
            println!("{}", report.json());
        } else {
            println!("{}", report.rows());
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn give_up(task: tokio::task::JoinHandle<anyhow::Result<report::Outcome>>) -> ExitCode {
    eprintln!("Cleaning up.");
    task.abort();
    let _ = task.await;
    ExitCode::from(130)
}
