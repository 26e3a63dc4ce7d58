//! `backroom schedule verify` (CRON-5): every firing in a period, and what became of it.

use std::collections::BTreeMap;

use backroom_queue::scheduler::{
    self, ClockChange, Period, Schedule, Schedules, TickOutcome, Verification, VerifiedFiring, VerifyError, WallClock,
};
use chrono::FixedOffset;
use comfy_table::Cell;
use serde_json::{Value, json};

use super::{find, tenants};
use crate::cli::{
    exit::usage,
    output::{Output, cell, time},
    session::Session,
};

/// As many firings of a schedule as are shown at once.
const LIMIT: usize = 100_000;

pub async fn run(
    session: &Session,
    schedules: &Schedules,
    name: Option<&str>,
    org: Option<String>,
    period: Period,
    output: Output,
) -> anyhow::Result<()> {
    let chosen: Vec<&Schedule> = match name {
        Some(name) => vec![find(schedules, name)?],
        None => schedules.iter().filter(|schedule| org.is_none() || schedule.per_tenant()).collect(),
    };
    let (mut documents, mut blocks) = (Vec::new(), Vec::new());
    for schedule in chosen {
        let tenants = tenants(session, schedule, org.as_deref()).await?;
        let mut db = session.connection().await?;
        let seen = scheduler::verify(&mut db, schedule, &tenants, period, session.clock.now(), LIMIT).await;
        let seen = seen.map_err(|error| match error {
            VerifyError::Period(error) => usage(format!("--to {error}")),
            VerifyError::Database(error) => error.into(),
        })?;
        documents.push(document(schedule, &seen));
        if !output.json {
            blocks.push(block(schedule, &seen, output));
        }
    }
    output.answer(&json!({ "schedules": documents }), || match blocks.as_slice() {
        [] => "there is no schedule".to_owned(),
        blocks => blocks.join("\n\n"),
    })
}

/// The name of a policy in the file of schedules.
pub fn word(policy: impl serde::Serialize) -> String {
    serde_json::to_value(policy).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn document(schedule: &Schedule, seen: &Verification) -> Value {
    json!({
        "schedule": schedule.name,
        "cron": schedule.cron.as_str(),
        "overlap": schedule.overlap,
        "missed": schedule.missed,
        "firings": seen.firings,
        "clock_changes": seen.clock_changes,
        "next_from": seen.next_from,
    })
}

fn block(schedule: &Schedule, seen: &Verification, output: Output) -> String {
    let whose = schedule.time_zone.map_or("each organization's time zone", |zone| zone.name());
    let (missed, overlap) = (word(schedule.missed), word(schedule.overlap));
    let title =
        format!("{}: {} in {whose}, missed = {missed}, overlap = {overlap}", schedule.name, schedule.cron.as_str());
    let mut rows: Vec<_> = seen.firings.iter().map(|firing| (firing.at, 1, firing_row(firing))).collect();
    // A change is between the firings before it and those from it on.
    rows.extend(seen.clock_changes.iter().map(|change| (change.at, 0, change_row(change))));
    rows.sort_by_key(|(at, order, _)| (*at, *order));
    let empty = if schedule.per_tenant() && seen.firings.is_empty() {
        "it fires for no organization in this period"
    } else {
        "it does not fire in this period"
    };
    let table = output.table(
        ["local time", "offset", "utc", "time zone", "what became of it"],
        rows.into_iter().map(|(.., row)| row).collect(),
        empty,
    );
    [title, table, summary(seen)].join("\n")
}

fn firing_row(firing: &VerifiedFiring) -> [Cell; 5] {
    let mut notes: Vec<String> = match firing.wall_clock {
        WallClock::Once => vec![],
        WallClock::JumpedOver => vec!["its time does not exist on this day".to_owned()],
        WallClock::FirstPass => vec!["first pass of a repeated hour".to_owned()],
        WallClock::SecondPass => vec!["second pass of a repeated hour".to_owned()],
    };
    if firing.outcomes.is_empty() {
        notes.insert(0, "to come".to_owned());
    } else {
        notes.splice(0..0, firing.outcomes.iter().map(outcome));
    }
    if !firing.expected {
        notes.push("not a time of this schedule as it is now".to_owned());
    }
    let local = firing.local.format("%a %Y-%m-%d %H:%M:%S");
    [cell(local), cell(firing.local.offset()), cell(time(firing.at)), cell(firing.time_zone), cell(notes.join("; "))]
}

fn outcome(outcome: &TickOutcome) -> String {
    let TickOutcome { outcome: word, count, tenants, job_id, blocked_by } = outcome;
    let job = match (job_id, blocked_by) {
        (Some(job), _) => format!(", job {job}"),
        (_, Some(job)) => format!(", job {job} was unfinished"),
        _ => String::new(),
    };
    match tenants.len() {
        0 => format!("{word}{job}"),
        1 => format!("{word} for {}{job}", tenants.join("")),
        named => {
            let more = if i64::try_from(named).is_ok_and(|named| named < *count) { ", …" } else { "" };
            format!("{word} for {count}: {}{more}", tenants.join(", "))
        }
    }
}

fn change_row(change: &ClockChange) -> [Cell; 5] {
    let seconds = change.forward_s();
    let way = if seconds > 0 { "forward" } else { "back" };
    let shows = |offset: FixedOffset| change.at.with_timezone(&offset).format("%a %H:%M:%S");
    [
        cell(format!("--- clock goes {way} ---")),
        cell(format!("{} to {}", change.before, change.after)),
        cell(time(change.at)),
        cell(change.time_zone),
        cell(format!("by {}: {} becomes {}", span(seconds.abs()), shows(change.before), shows(change.after))),
    ]
}

/// `1 h`, `30 min`
fn span(seconds: i32) -> String {
    let parts = [(seconds / 3_600, "h"), (seconds % 3_600 / 60, "min"), (seconds % 60, "s")];
    let parts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}"));
    parts.collect::<Vec<_>>().join(" ")
}

/// `3 firings: 2 enqueued, 1 to come. 1 clock change.`
fn summary(seen: &Verification) -> String {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for firing in &seen.firings {
        if firing.outcomes.is_empty() {
            *counts.entry("to come").or_default() += 1;
        }
        for outcome in &firing.outcomes {
            *counts.entry(&outcome.outcome).or_default() += outcome.count;
        }
    }
    let plural = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    let counts: Vec<_> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let counts = if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
    let mut text = format!("{}{counts}", plural(seen.firings.len(), "firing"));
    if !seen.clock_changes.is_empty() {
        text += &format!("; {}", plural(seen.clock_changes.len(), "clock change"));
    }
    for (word, means) in [
        ("owed", "no scheduler has decided it yet; is one running?"),
        ("missing", "it should have been decided, and there is no trace of it"),
    ] {
        if seen.firings.iter().flat_map(|firing| &firing.outcomes).any(|outcome| outcome.outcome == word) {
            text += &format!("\n{word}: {means}");
        }
    }
    if let Some(next) = seen.next_from {
        text += &format!("\nmore: --from {}", next.format("%Y-%m-%dT%H:%M:%SZ"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRON-5
    #[test]
    fn an_outcome_names_the_job_or_some_of_the_organizations() {
        let job = uuid::Uuid::nil();
        let of = |count: i64, tenants: &[&str]| TickOutcome {
            outcome: "overlap".to_owned(),
            count,
            tenants: tenants.iter().map(|tenant| (*tenant).to_owned()).collect(),
            job_id: None,
            blocked_by: (count == 1).then_some(job),
        };
        assert_eq!(outcome(&of(1, &[])), format!("overlap, job {job} was unfinished"));
        assert_eq!(outcome(&of(1, &["acme"])), format!("overlap for acme, job {job} was unfinished"));
        assert_eq!(outcome(&of(2, &["acme", "birch"])), "overlap for 2: acme, birch");
        assert_eq!(outcome(&of(12, &["acme", "birch"])), "overlap for 12: acme, birch, …");
    }

    /// CRON-5
    #[test]
    fn a_span_is_told_in_hours_and_minutes() {
        assert_eq!([span(3_600), span(1_800), span(86_400), span(4_772)], ["1 h", "30 min", "24 h", "1 h 19 min 32 s"]);
    }
}
