//! What a scenario found, for people and for programs.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::task::JoinError;

use crate::scenarios::Scenario;

/// How soon after a fault's end the system must be well again.
pub const RECOVERY_LIMIT: Duration = Duration::from_secs(10);

/// What was counted.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Set where the scenario could not run on this machine: why.
    pub skipped: Option<String>,
    /// Jobs that were offered.
    pub jobs: usize,
    /// Jobs without an effect, or without exactly one row in the history, `completed`.
    pub lost: usize,
    /// Effects beyond a job's first that at-least-once does not excuse.
    pub twice: usize,
    /// Effects beyond a job's first of jobs that were in the hands of a worker at its fault.
    pub again: usize,
    /// From the end of a fault (the worst, if there were several) until a new job ran and nothing from before waited.
    pub recovery: Option<Duration>,
    /// What was wrong besides; each makes the scenario fail.
    pub wrong: Vec<String>,
    /// Further figures.
    pub figures: Map<String, Value>,
}

impl Outcome {
    pub fn skipped(why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::default() }
    }

    /// Notes a figure for the report.
    pub fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Notes what is wrong unless `right`.
    pub fn demand(&mut self, right: bool, otherwise: impl FnOnce() -> String) {
        if !right {
            self.wrong.push(otherwise());
        }
    }

    pub fn recovered(&mut self, took: Duration) {
        self.recovery = self.recovery.max(Some(took));
    }
}

/// A scenario's line.
pub struct Report {
    name: &'static str,
    fault: &'static str,
    outcome: Outcome,
    took: Duration,
}

impl Report {
    pub const HEADER: &'static str = "scenario     verdict   jobs   lost  twice  again  recovery  took   fault";

    pub fn new(scenario: &Scenario, result: anyhow::Result<Outcome>, took: Duration) -> Self {
        let mut outcome = result.unwrap_or_else(|error| Outcome {
            wrong: vec![format!("the scenario itself failed: {error:#}")],
            ..Outcome::default()
        });
        let (lost, twice, recovery) = (outcome.lost, outcome.twice, outcome.recovery);
        outcome.demand(lost == 0, || format!("{lost} jobs were lost"));
        outcome.demand(twice == 0, || format!("{twice} effects happened twice without excuse"));
        outcome.demand(recovery.is_none_or(|took| took <= RECOVERY_LIMIT), || {
            format!("recovery took longer than {} s", RECOVERY_LIMIT.as_secs())
        });
        Self { name: scenario.name, fault: scenario.fault, outcome, took }
    }

    pub fn failed(&self) -> bool {
        !self.outcome.wrong.is_empty()
    }

    fn verdict(&self) -> &'static str {
        match (self.failed(), &self.outcome.skipped) {
            (true, _) => "FAILED",
            (false, Some(_)) => "skipped",
            (false, None) => "held",
        }
    }

    pub fn json(&self) -> Value {
        let Outcome { jobs, lost, twice, again, .. } = self.outcome;
        json!({
            "scenario": self.name, "fault": self.fault, "verdict": self.verdict(), "jobs": jobs, "lost": lost,
            "twice": twice, "again": again, "recovery_s": self.outcome.recovery.map(seconds), "took_s": seconds(self.took),
            "skipped": self.outcome.skipped, "wrong": self.outcome.wrong, "figures": self.outcome.figures,
        })
    }

    /// The table's row, and below it what was wrong and the figures.
    pub fn rows(&self) -> String {
        let Outcome { jobs, lost, twice, again, .. } = self.outcome;
        let recovery = self.outcome.recovery.map_or("-".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()));
        let mut rows = format!(
            "{:12} {:8} {jobs:>5}  {lost:>5}  {twice:>5}  {again:>5}  {recovery:>8}  {:>4.0} s  {}",
            self.name,
            self.verdict(),
            self.took.as_secs_f64(),
            self.fault
        );
        let notes = self.outcome.skipped.iter().chain(&self.outcome.wrong).cloned();
        let figures = self.outcome.figures.iter().map(|(name, value)| format!("{}: {value}", name.replace('_', " ")));
        let figures = figures.collect::<Vec<_>>().join(", ");
        for note in notes.chain((!figures.is_empty()).then_some(figures)) {
            rows.push_str(&format!("\n             {note}"));
        }
        rows
    }
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100.0).round() / 100.0
}

/// What a scenario's task panicked with.
pub fn panic_text(ended: JoinError) -> String {
    let Ok(panic) = ended.try_into_panic() else { return "it was ended".to_owned() };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
