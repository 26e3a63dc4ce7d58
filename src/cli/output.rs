//! Answers on standard output: a table or a few lines for people, one JSON document for programs.

use std::{fmt::Display, io::Write};

use anyhow::Context;
use backroom_queue::JobState;
use chrono::{DateTime, Utc};
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::telemetry::colours;

/// How this command answers.
#[derive(Clone, Copy)]
pub struct Output {
    pub json: bool,
    colours: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json, colours: colours(&std::io::stdout()) }
    }

    /// Answers with `value` for programs, with `human` for people.
    pub fn answer(self, value: &impl Serialize, human: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.json { self.document(value) } else { self.line(&human()) }
    }

    /// One JSON document.
    pub fn document(self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(&serde_json::to_string_pretty(value).context("could not write the answer as JSON")?)
    }

    /// Lines for people. A reader that has gone away (`| head`) is no error.
    pub fn line(self, text: &str) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.context("could not write to standard output"),
        }
    }

    /// A table; `empty` says in a sentence that there are no rows.
    pub fn table<const N: usize>(self, header: [&str; N], rows: Vec<[Cell; N]>, empty: &str) -> String {
        if rows.is_empty() {
            return empty.to_owned();
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(header.map(|title| {
            let cell = Cell::new(title.to_uppercase());
            if self.colours { cell.add_attribute(Attribute::Bold) } else { cell }
        }));
        for row in rows {
            table.add_row(row);
        }
        table
            .to_string()
            .lines()
            .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// A job's state, coloured by what it asks of the reader.
    pub fn state(self, state: JobState, held: bool) -> Cell {
        let text = if held { format!("{state} (held)") } else { state.to_string() };
        let cell = Cell::new(text);
        let colour = match state {
            JobState::Completed => Color::Green,
            JobState::Discarded => Color::Red,
            JobState::Retryable | JobState::Cancelled => Color::Yellow,
            JobState::Running => Color::Cyan,
            JobState::Scheduled | JobState::Available => return cell,
        };
        if self.colours { cell.fg(colour) } else { cell }
    }
}

/// A cell of anything.
pub fn cell(value: impl Display) -> Cell {
    Cell::new(value)
}

/// A cell of something that may be missing.
pub fn maybe(value: Option<impl Display>) -> Cell {
    Cell::new(value.map(|value| value.to_string()).unwrap_or_else(|| "-".to_owned()))
}

/// `2026-01-02 09:00:00Z`
pub fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A list that is continued with `--cursor`; the key of the rows is the noun.
pub fn page(noun: &str, rows: &impl Serialize, next_cursor: Option<impl Display>) -> serde_json::Value {
    serde_json::json!({ noun: rows, "next_cursor": next_cursor.map(|cursor| cursor.to_string()) })
}

/// What to say below a table that goes on.
pub fn more(next_cursor: Option<impl Display>) -> String {
    next_cursor.map(|cursor| format!("\nmore: --cursor {cursor}")).unwrap_or_default()
}

/// The cursor of the next page, if this one is full.
pub fn next_cursor<T, C>(rows: &[T], limit: i64, id: impl Fn(&T) -> C) -> Option<C> {
    let full = i64::try_from(rows.len()).is_ok_and(|n| n >= limit);
    rows.last().filter(|_| full).map(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_plain_text_when_nobody_watches() {
        let output = Output { json: false, colours: false };
        let rows = vec![[cell("acme"), cell(1)], [cell("brod-ab"), maybe(None::<u8>)]];
        assert_eq!(output.table(["slug", "jobs"], rows, "none"), "SLUG     JOBS\nacme     1\nbrod-ab  -");
        assert_eq!(output.table(["slug"], vec![], "there is none"), "there is none");
    }

    #[test]
    fn only_a_full_page_has_a_next_one() {
        assert_eq!(next_cursor(&[1, 2], 2, |n| *n), Some(2));
        assert_eq!(next_cursor(&[1], 2, |n| *n), None);
    }
}
