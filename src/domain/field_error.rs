//! How a value is refused: which field, a stable code and a sentence for a person.

use std::fmt;

/// Why a text is not the value it should be. The message continues the field's name ("`email` has no @") and never
/// repeats the text itself, which may be private.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// Stable, for programs: `required`, `too_long`, `invalid`, `out_of_range`, `reserved`, `duplicate`, `unknown`.
    pub code: &'static str,
    /// For people; starts with a verb.
    pub message: String,
}

impl ParseError {
    /// An error with a code of its own.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The usual case: the text does not have the right form.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new("invalid", message)
    }

    /// Names the field that the text came from.
    pub fn at(self, field: impl Into<String>) -> FieldError {
        FieldError { field: field.into(), code: self.code, message: self.message }
    }
}

/// One refused field of a request, a file or a form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("`{field}` {message}")]
pub struct FieldError {
    /// Path from the root of the input, dotted and indexed: `items[0].quantity`.
    pub field: String,
    /// Stable, for programs; see [`ParseError::code`].
    pub code: &'static str,
    /// For people; starts with a verb.
    pub message: String,
}

/// Everything that is wrong with an input, so that it can be mended in one go.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error, serde::Serialize)]
pub struct FieldErrors(pub Vec<FieldError>);

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl From<FieldError> for FieldErrors {
    fn from(error: FieldError) -> Self {
        Self(vec![error])
    }
}

impl FieldErrors {
    /// Keeps the value, or notes its error under `field`.
    pub fn check<T>(&mut self, field: &str, result: Result<T, ParseError>) -> Option<T> {
        result.map_err(|error| self.0.push(error.at(field))).ok()
    }

    /// Notes an error unless `ok`.
    pub fn require(&mut self, ok: bool, field: impl Into<String>, code: &'static str, message: impl Into<String>) {
        if !ok {
            self.0.push(ParseError::new(code, message).at(field));
        }
    }

    /// `Ok` if nothing was noted.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

/// Accepts one line of text for people: something to be seen, at most `max` characters, nothing that breaks or turns a line around
/// (which could otherwise end up in a mail header, or pretend to be another text).
pub fn one_line(text: &str, max: usize) -> Result<(), ParseError> {
    if text.chars().all(|c| c.is_whitespace() || is_invisible(c)) {
        return Err(ParseError::new("required", "must not be empty"));
    }
    not_longer(text, max)?;
    if text.chars().any(|c| c.is_control() || breaks_or_turns_lines(c)) {
        return Err(ParseError::invalid("must be one line without control characters"));
    }
    Ok(())
}

/// Accepts several lines of text for people, or none: at most `max` characters, no control characters but line breaks
/// and tabs.
pub fn many_lines(text: &str, max: usize) -> Result<(), ParseError> {
    not_longer(text, max)?;
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(ParseError::invalid("must not contain control characters"));
    }
    Ok(())
}

/// Refuses what mail programs make a link of, in a name that goes to people who did not ask for it.
pub fn no_link(name: &str) -> Result<(), ParseError> {
    let name = name.to_lowercase();
    if ["://", "www.", "mailto:"].iter().any(|mark| name.contains(mark)) {
        return Err(ParseError::invalid("must be a name, without a link"));
    }
    Ok(())
}

/// Line and paragraph separators, and the characters that change the direction of what follows (Unicode, UAX #9): with them a
/// name could pretend to be another.
fn breaks_or_turns_lines(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Characters that show nothing by themselves. They are fine within a name (emoji are joined by them).
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2060}'..='\u{2065}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

fn not_longer(text: &str, max: usize) -> Result<(), ParseError> {
    if text.chars().count() > max {
        return Err(ParseError::new("too_long", format!("must have at most {max} characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_errors_of_an_input_are_told_at_once() {
        let mut errors = FieldErrors::default();
        errors.check("name", one_line(" ", 200));
        errors.check("items[0].description", one_line("a\r\nBcc: x", 500));
        errors.require(false, "due_date", "out_of_range", "must not be before issue_date");
        let told = errors.into_result().unwrap_err().to_string();
        assert_eq!(
            told,
            "`name` must not be empty; `items[0].description` must be one line without control characters; \
             `due_date` must not be before issue_date"
        );
    }

    /// MAIL-4: a name shows what it is.
    #[test]
    fn nothing_turns_a_line_around_or_hides_in_it() {
        for nothing in ["\u{200b}", "\u{feff} \u{2060}", "\u{3164}"] {
            assert_eq!(one_line(nothing, 10).unwrap_err().code, "required", "{nothing:?}");
        }
        for turned in ["a\u{202e}b", "a\u{2066}b", "a\u{2028}b"] {
            assert_eq!(one_line(turned, 10).unwrap_err().code, "invalid", "{turned:?}");
        }
        assert_eq!(one_line("👩\u{200d}🚒", 10), Ok(()), "joined emoji stay whole");
    }

    /// JOIN-1, WORK-3
    #[test]
    fn a_name_carries_no_link() {
        for link in ["Win at https://x.example", "WWW.x.example", "mailto:a@b.example"] {
            assert_eq!(no_link(link).unwrap_err().code, "invalid", "{link}");
        }
        assert_eq!(no_link("Wwwiktor: A/B"), Ok(()));
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        assert_eq!(one_line(&"å".repeat(200), 200), Ok(()));
        assert_eq!(one_line(&"å".repeat(201), 200).unwrap_err().code, "too_long");
        assert_eq!(many_lines("", 10), Ok(()));
        assert_eq!(many_lines("a\n\tb", 10), Ok(()));
        assert!(many_lines("a\0b", 10).is_err());
    }
}
