//! The mailbox in the browser: a list, and one message. No script; the list reloads itself.

use askama::Template;

use super::{Message, Summary};

#[derive(Template)]
#[template(path = "mail/mailbox/list.html")]
struct List<'a> {
    total: usize,
    messages: &'a [Summary],
}

#[derive(Template)]
#[template(path = "mail/mailbox/message.html")]
struct One<'a> {
    message: &'a Message,
}

/// The list of messages, newest first; `total` is how many are kept altogether. Links lead to `/dev/mailbox/{id}`.
pub fn list(total: usize, messages: &[Summary]) -> String {
    List { total, messages }.render().expect(CANNOT_FAIL)
}

/// One message: the HTML part in a frame, the text part, the headers.
///
/// The frame is sandboxed (no script, no form, no navigation) and the page's content security policy, which it
/// inherits, forbids scripts and everything from elsewhere. `allow-same-origin` gives nothing to a document that cannot
/// run scripts; without it Chromium moves the frame to a process of its own, which headless screenshots leave blank.
pub fn message(message: &Message) -> String {
    One { message }.render().expect(CANNOT_FAIL)
}

const CANNOT_FAIL: &str = "rendering writes to memory and formats only text, so it cannot fail";

impl Summary {
    fn recipients(&self) -> String {
        self.to.join(", ")
    }

    fn title(&self) -> &str {
        if self.subject.is_empty() { "(no subject)" } else { &self.subject }
    }

    /// The first letter of the recipient, for its round badge.
    fn initial(&self) -> String {
        let first = self.to.first().and_then(|to| to.chars().find(|c| c.is_alphanumeric()));
        first.map_or_else(|| "?".to_owned(), |letter| letter.to_uppercase().collect())
    }

    /// A hue between 0 and 359, the same for the same recipient.
    fn hue(&self) -> u32 {
        let text = self.to.first().map_or("", String::as_str);
        text.bytes().fold(7, |hue: u32, byte| (hue * 31 + u32::from(byte)) % 360)
    }

    fn day(&self) -> String {
        self.received_at.format("%Y-%m-%d").to_string()
    }

    fn time(&self) -> String {
        self.received_at.format("%H:%M:%S").to_string()
    }

    fn weight(&self) -> String {
        match self.size {
            0..1024 => format!("{} B", self.size),
            1024..1_048_576 => format!("{:.1} KB", self.size as f64 / 1024.0),
            _ => format!("{:.1} MB", self.size as f64 / 1_048_576.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone, Utc};

    use super::*;

    fn summary() -> Summary {
        Summary {
            id: 7,
            from: "Nordlys Konsult AB <no-reply@backroom.localhost>".into(),
            to: vec!["ekonomi@example.com".into()],
            subject: "<b>Hej</b>".into(),
            received_at: Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).single().expect("a time"),
            message_id: "<1.reminder@backroom.localhost>".into(),
            size: 7_300,
            deliveries: 1,
        }
    }

    /// MAIL-4
    #[test]
    fn a_message_cannot_break_out_of_its_frame() {
        let html = Some("\"></iframe><script>alert(1)</script>".to_owned());
        let text = Some("</pre><script>alert(2)</script>".to_owned());
        let headers = vec![("X-Evil".to_owned(), "<script>alert(3)</script>".to_owned())];
        let page = message(&Message { summary: summary(), headers, text, html });
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("sandbox=\"allow-same-origin\"") && page.contains("default-src 'none'"), "{page}");
        assert!(!list(1, &[summary()]).contains("<b>Hej"));
    }

    #[test]
    fn an_empty_mailbox_says_what_to_expect() {
        assert!(list(0, &[]).contains("No mail yet"));
    }

    #[test]
    fn a_duplicate_stands_out() {
        assert!(!list(1, &[summary()]).contains("received 2 times"));
        assert!(list(1, &[Summary { deliveries: 2, ..summary() }]).contains("received 2 times"));
    }
}
