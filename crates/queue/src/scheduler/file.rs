//! `schedules.toml`: what fires when. An invalid file is refused with the line at fault.

use std::{collections::BTreeMap, ops::Range};

use chrono_tz::Tz;
use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;

use super::{CronExpression, Missed, Overlap, Schedule};
use crate::Registry;

/// All schedules of a host, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Schedules(Vec<Schedule>);

/// The first mistake in a file of schedules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {}{message}", schedule.as_ref().map(|name| format!("schedule {name:?}: ")).unwrap_or_default())]
pub struct ScheduleError {
    /// Counted from 1.
    pub line: usize,
    /// The name of the schedule at fault, where it has one.
    pub schedule: Option<String>,
    /// What is wrong and what is allowed.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    schedule: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    cron: Spanned<String>,
    time_zone: Option<Spanned<String>>,
    kind: Spanned<String>,
    args: Option<Spanned<BTreeMap<String, Spanned<Value>>>>,
    #[serde(default)]
    per_tenant: bool,
    #[serde(default)]
    missed: Missed,
    #[serde(default)]
    overlap: Overlap,
}

/// As much of a file as it takes to name the schedule in which its decoding failed.
#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    schedule: Vec<Spanned<Named>>,
}

#[derive(Deserialize)]
struct Named {
    name: Option<String>,
}

/// A mistake and the bytes of the file that it is in.
type Fault = (Range<usize>, String);

impl Schedules {
    /// Reads a file of schedules and checks each against the kinds that the host knows.
    pub fn parse<A: Send + Sync + 'static>(text: &str, registry: &Registry<A>) -> Result<Self, ScheduleError> {
        let error = |schedule: Option<String>, (span, message): Fault| ScheduleError {
            line: text.get(..span.start).unwrap_or(text).matches('\n').count() + 1,
            schedule,
            message,
        };
        let file: File = toml::from_str(text).map_err(|e| {
            let span = e.span().unwrap_or_default();
            error(schedule_at(text, span.start), (span, e.message().to_owned()))
        })?;

        let mut schedules: Vec<Schedule> = Vec::with_capacity(file.schedule.len());
        for entry in file.schedule {
            let entry = entry.into_inner();
            let (name, span) = (entry.name.get_ref().clone(), entry.name.span());
            if schedules.iter().any(|other| other.name == name) {
                let message = "there is another of this name above; names are unique".to_owned();
                return Err(error(Some(name), (span, message)));
            }
            schedules.push(check(entry, registry).map_err(|fault| error(Some(name), fault))?);
        }
        Ok(Self(schedules))
    }

    pub fn get(&self, name: &str) -> Option<&Schedule> {
        self.0.iter().find(|schedule| schedule.name == name)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Schedule> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Schedules {
    type Item = &'a Schedule;
    type IntoIter = std::slice::Iter<'a, Schedule>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

fn check<A: Send + Sync + 'static>(entry: Entry, registry: &Registry<A>) -> Result<Schedule, Fault> {
    let (name, span) = (entry.name.get_ref(), entry.name.span());
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 100 || !name.chars().all(is_plain) {
        return Err((span, "a name is 1 to 100 of a-z, 0-9, '.', '_' and '-'".to_owned()));
    }

    let cron = CronExpression::parse(entry.cron.get_ref()).map_err(|why| {
        let text = entry.cron.get_ref();
        (entry.cron.span(), format!("{text:?} is not a cron expression (minute hour day month weekday): {why}"))
    })?;

    let time_zone = match &entry.time_zone {
        Some(zone) if entry.per_tenant => {
            return Err((zone.span(), "per_tenant fires in each tenant's own zone; remove time_zone".to_owned()));
        }
        Some(zone) => Some(zone.get_ref().parse::<Tz>().map_err(|_| {
            let message = format!("there is no time zone {:?}; use a name such as Europe/Stockholm", zone.get_ref());
            (zone.span(), message)
        })?),
        None if entry.per_tenant => None,
        None => Some(Tz::UTC),
    };

    let kind = registry.get(entry.kind.get_ref()).ok_or_else(|| {
        let known: Vec<_> = registry.kinds().map(|kind| kind.name).collect();
        let message = format!("there is no job kind {:?}; known are {}", entry.kind.get_ref(), known.join(", "));
        (entry.kind.span(), message)
    })?;

    if kind.sealed {
        let message = format!("{} is a sealed kind: its arguments cannot stand in a file", kind.name);
        return Err((entry.kind.span(), message));
    }

    let args = entry.args.as_ref();
    let values = args.iter().flat_map(|args| args.get_ref()).map(|(key, value)| (key.clone(), value.get_ref().clone()));
    let job = kind.new_job(Value::Object(values.collect())).map_err(|e| {
        let field = e.path.split(['.', '[']).next().and_then(|key| args?.get_ref().get(key));
        let span = field.map(Spanned::span).or(args.map(Spanned::span)).unwrap_or(entry.kind.span());
        (span, e.to_string())
    })?;

    Ok(Schedule { name: name.clone(), cron, time_zone, missed: entry.missed, overlap: entry.overlap, job })
}

/// The name of the schedule that the byte at `position` belongs to.
fn schedule_at(text: &str, position: usize) -> Option<String> {
    let names: Names = toml::from_str(text).ok()?;
    let before = names.schedule.into_iter().filter(|entry| entry.span().start <= position);
    before.max_by_key(|entry| entry.span().start)?.into_inner().name
}
