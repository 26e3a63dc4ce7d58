//! Mail: what a message looks like, how it leaves, and the mailbox that receives it during development.
//!
//! * `templates` renders the letters (Swedish and English, text and HTML, one layout).
//! * `Mailer` hands a message to the configured SMTP server and says whether a refusal is final.
//! * `mailbox` is an SMTP server on loopback that keeps what it is given, for people and for tests.
//!
//! `lettre` and `mailin` are named only in this module.

mod compose;
#[cfg(test)]
mod conversation;
mod line;
pub mod mailbox;
mod mailer;
mod smtp;
pub mod templates;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::domain::email::EmailAddress;
use crate::domain::language::Language;

pub use mailer::{Accepted, Mailer, MailerOptions, SendError};

/// A message ready to be sent.
///
/// Everything that ends up in it is given, nothing is read from the clock or drawn at random: handing over the same
/// value twice sends the same bytes twice, so that a mail server and a mail program can recognise the copy (MAIL-2).
#[derive(Debug, Clone)]
pub struct OutgoingMail {
    /// The `Message-ID` with its angle brackets, from [`message_id`].
    pub message_id: String,
    /// The name shown in front of the configured sender address, usually the organization's.
    pub from_name: Option<String>,
    /// Where an answer shall go, if not to the configured sender.
    pub reply_to: Option<EmailAddress>,
    pub to: EmailAddress,
    pub subject: String,
    /// The plain text alternative.
    pub text: String,
    /// The HTML alternative.
    pub html: String,
    /// Announced as `Content-Language`.
    pub language: Language,
    /// The `Date` header. Pass the time the delivery was recorded, not the time of the attempt: a second attempt is
    /// then the same message.
    pub date: DateTime<Utc>,
}

/// The `Message-ID` of what `organization` sends for `purpose`, for example `reminder:<invoice>:1`.
///
/// The same input always gives the same id, on every node and after every restart. The shape is
/// `<32 hex digits.reminder@domain>`: the first half of a SHA-256 over both parts (the first prefixed with its length),
/// then the first word of the purpose so that a person reading a mail log knows what it was.
pub fn message_id(organization: &str, purpose: &str, domain: &str) -> String {
    let mut hash = Sha256::new();
    hash.update((organization.len() as u64).to_be_bytes());
    hash.update(organization);
    hash.update(purpose);
    let unique: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let kind: String =
        purpose.chars().take_while(|c| *c != ':').filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let kind = if kind.is_empty() { "mail" } else { &kind };
    format!("<{unique}.{kind}@{domain}>")
}

/// `text` on one line: control characters (line breaks above all) become spaces and runs of white space collapse.
///
/// A header that a stranger's company name or invoice number is part of can then never become two headers.
pub(crate) fn one_line(text: &str) -> String {
    let visible: String = text.chars().map(|c| if c.is_control() || is_line_separator(c) { ' ' } else { c }).collect();
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_line_separator(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MAIL-2
    #[test]
    fn the_same_purpose_always_has_the_same_message_id() {
        let id = message_id("acme", "reminder:0195:1", "mail.example");
        assert_eq!(id, message_id("acme", "reminder:0195:1", "mail.example"));
        assert_eq!(id, "<a65919fab3b6615bcbbf06c432ffeaae.reminder@mail.example>");
    }

    #[test]
    fn another_organization_stage_or_split_of_the_words_has_another_message_id() {
        let ids =
            [("acme", "reminder:1:1"), ("acme", "reminder:1:2"), ("acm", "ereminder:1:1"), ("globex", "reminder:1:1")]
                .map(|(organization, purpose)| message_id(organization, purpose, "mail.example"));
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn a_message_id_holds_no_character_that_a_header_could_trip_over() {
        let id = message_id("acme", "we\r\nird <x>:1", "mail.example");
        assert!(id.bytes().all(|b| b.is_ascii_graphic()), "{id}");
        assert!(message_id("acme", ":::", "mail.example").ends_with(".mail@mail.example>"));
    }

    #[test]
    fn a_line_break_in_a_name_becomes_a_space() {
        assert_eq!(one_line(" Acme\r\nBcc: everyone@example.com\u{2028}\t AB "), "Acme Bcc: everyone@example.com AB");
    }
}
