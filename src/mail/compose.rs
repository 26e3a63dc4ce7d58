//! Turns an [`OutgoingMail`] into the message that travels: headers, and text and HTML as alternatives.

use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder, MultiPart, MultiPartKind, SinglePart};
use lettre::{Address, Message};
use sha2::{Digest, Sha256};

use super::{OutgoingMail, one_line};
use crate::domain::language::Language;

/// The message as `from` sends it. Fails when an address is of a form that mail cannot carry.
pub fn message(mail: &OutgoingMail, from: &Mailbox) -> anyhow::Result<Message> {
    let to: Address = mail.to.as_str().parse()?;
    let from_name = mail.from_name.as_deref().map(one_line).filter(|name| !name.is_empty());
    let mut builder = MessageBuilder::new()
        .message_id(Some(one_line(&mail.message_id)))
        .date(mail.date.into())
        .from(Mailbox::new(from_name.or_else(|| from.name.clone()), from.email.clone()))
        .to(Mailbox::new(None, to))
        .subject(one_line(&mail.subject))
        .header(AutoSubmitted)
        .header(ContentLanguage(mail.language));
    if let Some(reply_to) = &mail.reply_to {
        builder = builder.reply_to(Mailbox::new(None, reply_to.as_str().parse()?));
    }
    let alternatives = MultiPart::builder()
        .kind(MultiPartKind::Alternative)
        .boundary(boundary(&mail.message_id))
        .singlepart(SinglePart::plain(mail.text.clone()))
        .singlepart(SinglePart::html(mail.html.clone()));
    Ok(builder.multipart(alternatives)?)
}

/// lettre would draw a boundary at random; this one makes a second attempt the same bytes as the first.
fn boundary(message_id: &str) -> String {
    let hash: String = Sha256::digest(message_id).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("=_{hash}")
}

/// RFC 3834: keeps holiday answers and other robots from replying.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// RFC 3282: the language of the text, for screen readers and translation.
#[derive(Clone)]
struct ContentLanguage(Language);

impl Header for ContentLanguage {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Content-Language")
    }

    fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self(if text.starts_with("sv") { Language::Sv } else { Language::En }))
    }

    fn display(&self) -> HeaderValue {
        let tag = match self.0 {
            Language::Sv => "sv",
            Language::En => "en",
        };
        HeaderValue::new(Self::name(), tag.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone, Utc};

    use super::*;
    use crate::domain::email::EmailAddress;

    fn mail() -> OutgoingMail {
        OutgoingMail {
            message_id: crate::mail::message_id("acme", "reminder:1:1", "mail.example"),
            from_name: Some("Åkeri & Söner AB".into()),
            reply_to: Some(EmailAddress::parse("ekonomi@akeri.example").expect("valid")),
            to: EmailAddress::parse("kund@example.com").expect("valid"),
            subject: "Påminnelse: faktura 17".into(),
            text: "Hej på er!\n.en rad som börjar med punkt\n".into(),
            html: "<p>Hej på er!</p>".into(),
            language: Language::Sv,
            date: Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).single().expect("a time"),
        }
    }

    fn sender() -> Mailbox {
        "Backroom <no-reply@mail.example>".parse().expect("an address")
    }

    fn formatted(mail: &OutgoingMail) -> String {
        String::from_utf8(message(mail, &sender()).expect("a message").formatted()).expect("ASCII on the wire")
    }

    /// MAIL-1, MAIL-2
    #[test]
    fn the_message_on_the_wire() {
        insta::assert_snapshot!(formatted(&mail()).replace('\r', ""));
    }

    /// MAIL-2
    #[test]
    fn a_second_attempt_sends_the_same_bytes() {
        assert_eq!(formatted(&mail()), formatted(&mail()));
    }

    #[test]
    fn line_breaks_in_names_and_subjects_add_no_header() {
        let evil = OutgoingMail {
            from_name: Some("Evil\r\nBcc: a@example.com".into()),
            subject: "Faktura 1\r\nBcc: b@example.com\n\nHej".into(),
            message_id: "<x@y>\r\nBcc: c@example.com".into(),
            ..mail()
        };
        let wire = formatted(&evil);
        let parsed = mail_parser::MessageParser::default().parse(wire.as_bytes()).expect("a message");
        assert!(parsed.bcc().is_none(), "{wire}");
        assert_eq!(parsed.subject(), Some("Faktura 1 Bcc: b@example.com Hej"));
        assert!(wire.lines().take_while(|line| !line.is_empty()).all(|line| line.is_ascii()), "{wire}");
    }
}
