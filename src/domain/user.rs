//! A person who signs in (AUTH-1). Global: one person may belong to many organizations.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::field_error::{no_link, one_line};
use super::{EmailAddress, Language, ParseError, PasswordHash};

/// The longest name of a person, in characters.
pub const MAX_NAME: usize = 200;

/// A person as stored. What they sign in with stays in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: Uuid,
    pub email: EmailAddress,
    pub name: String,
    /// What they are written to in.
    pub language: Language,
    /// When the address was proved to be theirs.
    pub confirmed_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A person to be stored.
#[derive(Clone, Debug)]
pub struct NewUser {
    pub email: EmailAddress,
    /// One line of 1 to 200 characters: [`check_name`].
    pub name: String,
    pub language: Language,
    /// `None`: nobody signs in with a password until one is set.
    pub password: Option<PasswordHash>,
    pub confirmed_at: Option<DateTime<Utc>>,
}

/// One line, so that it is safe in a mail header.
pub fn check_name(name: &str) -> Result<(), ParseError> {
    one_line(name, MAX_NAME)?;
    no_link(name)
}
