//! What the demo looks like: headings, paragraphs, tables, ticks. At most 100 columns; colour and movement on a
//! terminal only.

use std::{fmt::Write as _, io::Write as _, time::Duration};

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Row, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use crate::telemetry::colours;

/// Longer lines are hard to read.
const WIDEST: usize = 100;
/// Every line below a heading begins this far in.
const MARGIN: &str = "   ";

/// The reader's terminal, file or pipe.
#[derive(Clone, Copy)]
pub struct Screen {
    lively: bool,
    width: usize,
}

/// A sentence that turns while something is waited for.
pub struct Waiting(ProgressBar);

/// How a column of a table is set.
#[derive(Clone, Copy)]
pub enum Column {
    Left(&'static str),
    Right(&'static str),
}

impl Screen {
    pub fn new() -> Self {
        let terminal = Table::new().width().map_or(WIDEST, usize::from);
        Self { lively: colours(&std::io::stdout()), width: terminal.clamp(60, WIDEST) }
    }

    /// The first lines of all.
    pub fn title(self, name: &str, about: &str) {
        self.line("");
        self.line(&format!(" {}  {}", self.style("1;36", name), self.style("2", about)));
    }

    /// A play has acts; each begins on a line of its own.
    pub fn act(self, number: &str, title: &str) {
        let rule = "─".repeat(self.width.saturating_sub(number.chars().count() + title.chars().count() + 15));
        self.line("");
        self.line(&format!(
            " {}  {}  {}",
            self.style("2", "──"),
            self.style("1", &format!("Act {number} · {title}")),
            self.style("2", &rule)
        ));
    }

    /// One step of an act.
    pub fn step(self, title: &str) {
        self.line("");
        self.line(&format!(" {} {}", self.style("36", "▸"), self.style("1", title)));
    }

    /// A paragraph. What stands in backticks is shown as code.
    pub fn say(self, text: &str) {
        self.hanging("", text);
    }

    /// A short fact with its name.
    pub fn fact(self, name: &str, text: &str) {
        self.hanging(&format!("{name:<16}"), text);
    }

    /// A tick or a cross, and what it is for.
    pub fn check(self, good: bool, text: &str) {
        self.hanging(if good { "✓ " } else { "✗ " }, text);
    }

    /// Lines to be copied, as they are.
    pub fn code(self, lines: &str) {
        for line in lines.lines() {
            self.line(&format!("{MARGIN}  {}", self.style("36", line)));
        }
    }

    pub fn gap(self) {
        self.line("");
    }

    /// A table without lines. On a wide screen a row has one line, and what does not fit is cut. A lone `–` is dimmed.
    pub fn table(self, header: &[Column], rows: impl IntoIterator<Item = Vec<String>>) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(self.width - MARGIN.len()).unwrap_or(u16::MAX));
        if self.lively {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let one_line = self.width == WIDEST;
        if one_line {
            // No letter is a word's end, so that a cell is cut where its room ends and not at the word before.
            table.set_delimiter('\0');
        }
        table.set_header(header.iter().map(|column| {
            let (Column::Left(title) | Column::Right(title)) = column;
            Cell::new(title).add_attribute(Attribute::Dim)
        }));
        for row in rows {
            let mut row = Row::from(row.into_iter().map(cell));
            if one_line {
                row.max_height(1);
            }
            table.add_row(row);
        }
        for (number, column) in header.iter().enumerate() {
            if let (Column::Right(_), Some(set)) = (column, table.column_mut(number)) {
                set.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.gap();
        for line in table.to_string().lines() {
            let line = if self.lively { line } else { line.trim_end() };
            self.line(&format!("  {line}"));
        }
    }

    /// Says what is waited for, on a terminal only, until the value is dropped.
    pub fn waiting(self, text: &str) -> Waiting {
        if !self.lively {
            return Waiting(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("   {spinner:.cyan} {msg:.dim}").expect("the template is well formed");
        bar.set_style(style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ "));
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(80));
        Waiting(bar)
    }

    /// Text whose continued lines stand below its first word.
    fn hanging(self, lead: &str, text: &str) {
        let indent = lead.chars().count();
        let room = self.width - MARGIN.len() - indent;
        let mut code = false;
        for (number, line) in wrapped(text, room, !self.lively).iter().enumerate() {
            let lead = if number == 0 { self.lead(lead) } else { " ".repeat(indent) };
            self.line(&format!("{MARGIN}{lead}{}", self.marked(line, &mut code)));
        }
    }

    fn lead(self, lead: &str) -> String {
        let code = match lead.chars().next() {
            Some('✓') => "32",
            Some('✗') => "1;31",
            Some('↻' | '!') => "33",
            _ => "2",
        };
        self.style(code, lead)
    }

    /// Colours what stands in backticks and takes them away; without colour they stay. A span may go on from line to line.
    fn marked(self, line: &str, code: &mut bool) -> String {
        if !self.lively {
            return line.to_owned();
        }
        let mut out = String::new();
        for (number, part) in line.split('`').enumerate() {
            *code ^= number > 0;
            if *code && !part.is_empty() {
                _ = write!(out, "{}", self.style("36", part));
            } else {
                out.push_str(part);
            }
        }
        out
    }

    fn style(self, code: &str, text: &str) -> String {
        if self.lively && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A reader that has gone away (`| head`) does not end the demo.
    fn line(self, text: &str) {
        let mut out = std::io::stdout().lock();
        _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

impl Waiting {
    pub fn set(&self, text: String) {
        self.0.set_message(text);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn cell(text: String) -> Cell {
    let quiet = text == "–";
    let cell = Cell::new(text);
    if quiet { cell.add_attribute(Attribute::Dim) } else { cell }
}

/// Lines of at most `room` characters, broken at spaces. A longer word keeps a line to itself. Backticks may take room or not.
fn wrapped(text: &str, room: usize, ticks: bool) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a line");
        let visible = |s: &str| s.chars().filter(|c| ticks || *c != '`').count();
        if line.is_empty() {
            line.push_str(word);
        } else if visible(line) + 1 + visible(word) <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_spaces_and_long_words_are_left_whole() {
        assert_eq!(wrapped("one two three", 7, true), ["one two", "three"]);
        assert_eq!(wrapped("a http://127.0.0.1:4000/docs b", 10, true), ["a", "http://127.0.0.1:4000/docs", "b"]);
        assert_eq!(wrapped("`a b` c", 5, false), ["`a b` c"]);
        assert_eq!(wrapped("`a b` c", 5, true), ["`a b`", "c"]);
    }

    #[test]
    fn code_goes_on_over_a_line_break_and_stays_plain_without_colour() {
        let mut code = false;
        let lively = Screen { lively: true, width: 80 };
        assert_eq!(lively.marked("run `job", &mut code), "run \x1b[36mjob\x1b[0m");
        assert_eq!(lively.marked("list` now", &mut code), "\x1b[36mlist\x1b[0m now");
        assert_eq!(Screen { lively: false, width: 80 }.marked("run `it`", &mut code), "run `it`");
    }
}
