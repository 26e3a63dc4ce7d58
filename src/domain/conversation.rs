//! Conversations of a workspace and their messages (WORK-7), and what a conversation may be called (WORK-8).

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{
    ParseError,
    field_error::{many_lines, one_line},
    text::{parsed_text, text_enum},
};

/// The longest title, in characters.
pub const MAX_TITLE: usize = 100;
/// The longest message, in characters.
pub const MAX_MESSAGE: usize = 10_000;

text_enum! {
    /// Who named a conversation.
    pub enum TitleSource("title source") {
        /// Nobody yet.
        None = "none",
        /// The program, after the first exchange.
        Auto = "auto",
        /// A person, whose word stands.
        Person = "person",
    }
}

/// What a conversation is called: one line, 1 to 100 characters, blanks around it cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Title(String);

parsed_text!(Title);

impl Title {
    /// A person's words. Like a workspace's name it must not pretend to be another, so nothing in it turns a line around.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        one_line(text, MAX_TITLE)?;
        if text
            .chars()
            .any(|c| matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
        {
            return Err(ParseError::invalid("must be one line without control characters"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What somebody says: 1 to 10,000 characters, not blank, line breaks allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageText(String);

parsed_text!(MessageText);

impl MessageText {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.trim().is_empty() {
            return Err(ParseError::new("required", "must not be empty"));
        }
        many_lines(text, MAX_MESSAGE)?;
        Ok(Self(text.to_owned()))
    }
}

/// A conversation as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    pub id: Uuid,
    pub workspace_id: Uuid,
    /// Missing until somebody names it.
    pub title: Option<String>,
    pub title_source: TitleSource,
    pub message_count: u32,
    pub created_by: Uuid,
    pub created_at: DateTime<Utc>,
    /// Of the last message, or of the last change of the title.
    pub updated_at: DateTime<Utc>,
}

/// After this many messages the first exchange is over: somebody said something, and something was said to it.
pub const FIRST_EXCHANGE: u32 = 2;

impl Conversation {
    /// Whether it is time to give it a name (WORK-8).
    pub fn wants_a_name(&self) -> bool {
        self.title_source == TitleSource::None && self.message_count >= FIRST_EXCHANGE
    }
}

/// A message as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: Uuid,
    pub conversation_id: Uuid,
    /// Counted from 1 within the conversation.
    pub position: u32,
    pub author_id: Uuid,
    pub body: String,
    pub created_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WORK-7
    #[test]
    fn a_title_is_one_line_of_up_to_a_hundred_characters() {
        assert_eq!(Title::parse("  Fakturan från Telia ").unwrap().as_str(), "Fakturan från Telia");
        assert_eq!(Title::parse(&"å".repeat(100)).unwrap().as_str().chars().count(), 100);
        for (text, code) in [("", "required"), (" \t", "required"), ("a\nb", "invalid"), ("a\u{202e}b", "invalid")] {
            assert_eq!(Title::parse(text).unwrap_err().code, code, "{text:?}");
        }
        assert_eq!(Title::parse(&"å".repeat(101)).unwrap_err().code, "too_long");
    }

    /// WORK-7
    #[test]
    fn a_message_says_something() {
        assert_eq!(MessageText::parse("Hej!\n\n\tAnna").unwrap().as_str(), "Hej!\n\n\tAnna");
        for (text, code) in [(" \n", "required"), ("a\0", "invalid")] {
            assert_eq!(MessageText::parse(text).unwrap_err().code, code, "{text:?}");
        }
        assert_eq!(MessageText::parse(&"x".repeat(10_001)).unwrap_err().code, "too_long");
    }
}
