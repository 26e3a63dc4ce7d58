//! Workspaces: rooms in which an organization's people work together (WORK-1, WORK-2).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::text::parsed_text;
use super::{
    Language, ParseError,
    field_error::{no_link, one_line},
};

/// A workspace's name may have this many characters.
pub const MAX_NAME: usize = 100;

/// What a workspace is called: one line of 1 to 100 characters, at least one of them visible, without blanks around it. It
/// stands in subjects and on pages, so nothing that breaks or turns a line around gets in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkspaceName(String);

parsed_text!(WorkspaceName);

impl WorkspaceName {
    /// Cuts white space around it. Characters are Unicode scalar values, as PostgreSQL counts them.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        one_line(text, MAX_NAME)?;
        no_link(text)?;
        Ok(Self(text.to_owned()))
    }

    /// What a personal workspace is called until its owner says otherwise.
    pub fn of_personal(language: Language) -> Self {
        Self(match language {
            Language::Sv => "Min arbetsyta".to_owned(),
            Language::En => "My workspace".to_owned(),
        })
    }
}

/// A workspace that was not deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    pub id: Uuid,
    pub name: WorkspaceName,
    pub owner_id: Uuid,
    /// Everybody has one; it stays, and nobody else gets in.
    pub personal: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A person in a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub workspace: Workspace,
    pub user_id: Uuid,
    pub joined_at: DateTime<Utc>,
    /// Whether it is the one that the person switched to last; the personal one as long as there was no switch.
    pub current: bool,
}

impl Membership {
    pub fn is_owner(&self) -> bool {
        self.workspace.owner_id == self.user_id
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(text: &str) -> &'static str {
        WorkspaceName::parse(text).expect_err("refused").code
    }

    /// WORK-1
    #[test]
    fn a_name_has_1_to_100_characters_whatever_their_bytes() {
        for one in ["a", "å", "🚚", "字"] {
            assert_eq!(WorkspaceName::parse(one).unwrap().as_str(), one);
            assert_eq!(WorkspaceName::parse(&one.repeat(100)).unwrap().as_str().chars().count(), 100);
            assert_eq!(code(&one.repeat(101)), "too_long");
        }
        for nothing in ["", " ", "\t\n", "\u{a0}\u{3000}", "\u{200b}", "\u{feff} \u{2060}", "\u{ad}", "\u{3164}"] {
            assert_eq!(code(nothing), "required", "{nothing:?}");
        }
    }

    /// WORK-1
    #[test]
    fn blanks_around_are_cut_and_do_not_count() {
        assert_eq!(WorkspaceName::parse(" \u{3000}Ny kund\u{a0}\n").unwrap().as_str(), "Ny kund");
        assert_eq!(WorkspaceName::parse(&format!("  {}  ", "x".repeat(100))).unwrap().as_str().len(), 100);
        assert_eq!(WorkspaceName::parse("👩\u{200d}🚒").unwrap().as_str(), "👩\u{200d}🚒", "joined emoji stay whole");
    }

    #[test]
    fn nothing_gets_into_a_header_with_a_name() {
        for text in
            ["a\r\nBcc: x@y.example", "a\nb", "a\tb", "a\0b", "a\u{2028}b", "a\u{202e}b", "a\u{2066}b", "a\u{7f}b"]
        {
            assert_eq!(code(text), "invalid", "{text:?}");
        }
    }

    proptest! {
        /// WORK-1: whatever is typed, what is accepted is a name that the database takes and that reads back as itself.
        #[test]
        fn a_name_is_one_visible_line_of_at_most_100_characters_or_refused(text in "\\PC{0,105}|(?s).{0,105}|\\s{0,3}[a-z🚚]{99,101}\\s{0,3}") {
            match WorkspaceName::parse(&text) {
                Ok(name) => {
                    prop_assert!((1..=100).contains(&name.as_str().chars().count()));
                    prop_assert_eq!(name.as_str().trim(), name.as_str());
                    prop_assert!(!name.as_str().chars().any(char::is_control));
                    prop_assert_eq!(WorkspaceName::parse(name.as_str()).unwrap(), name);
                }
                Err(error) => {
                    let inner = text.trim();
                    let fits = (1..=100).contains(&inner.chars().count());
                    let plain = inner.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | 'å' | '🚚'));
                    prop_assert!(!(fits && plain), "{error}: {text:?}");
                }
            }
        }
    }
}
