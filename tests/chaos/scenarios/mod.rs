//! The list of scenarios. Each asserts by its numbers that nothing was lost, that nothing happened twice without excuse,
//! and that the system was well again ten seconds after the fault's end.

mod blocked;
mod clock;
mod database;
mod half_open;
mod pool;
mod processes;
mod snapshot;
mod tenants;

use futures::future::LocalBoxFuture;

use crate::{Options, report::Outcome};

pub struct Scenario {
    pub name: &'static str,
    /// What is done to the system, in a few words.
    pub fault: &'static str,
    pub run: fn(Options) -> LocalBoxFuture<'static, anyhow::Result<Outcome>>,
}

macro_rules! scenario {
    ($name:literal, $run:path, $fault:literal) => {
        Scenario { name: $name, fault: $fault, run: |options| Box::pin($run(options)) }
    };
}

pub const SCENARIOS: [Scenario; 15] = [
    scenario!("kill", processes::kill, "kill -9 of one of three workers, three times"),
    scenario!("stop", processes::stop, "SIGSTOP of one of three workers for 8 s (the lease is 5 s), then SIGCONT"),
    scenario!("terminate", database::terminate, "pg_terminate_backend of every connection, four times"),
    scenario!("restart", database::restart, "PostgreSQL restarted (fast), twice"),
    scenario!("crash", database::crash, "PostgreSQL shut down at once (immediate) and started, twice"),
    scenario!(
        "half-open",
        half_open::silent,
        "one worker's connections silent in both directions for 8 s, none closed"
    ),
    scenario!("deaf", half_open::deaf, "one worker's connections silent towards it for 8 s, none closed"),
    scenario!(
        "half-locked",
        half_open::with_locks,
        "one worker's connections fall silent while it has the history locked"
    ),
    scenario!("pool", pool::run, "every connection of a worker's pool held by handlers in transactions for 8 s"),
    scenario!("snapshot", snapshot::run, "a transaction holds its snapshot while 500 jobs a second are offered"),
    scenario!("clock", clock::worker, "one worker's clock jumps an hour ahead, then two hours back"),
    scenario!("clock-tick", clock::scheduler, "one of two schedulers' clocks jumps an hour ahead, then two hours back"),
    scenario!("blocked", blocked::some, "handlers block all but one thread of a worker for 8 s"),
    scenario!("blocked-all", blocked::all, "handlers block every thread of a worker for 8 s"),
    scenario!("tenants", tenants::run, "100,000 jobs of one tenant wait before one of another"),
];
