//! Sends messages and says what a refusal means (MAIL-3).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lettre::message::Mailbox;
use secrecy::{ExposeSecret, SecretString};

use super::smtp::{self, Failure, Pool, Relay};
use super::{OutgoingMail, compose, message_id, one_line};

/// What a [`Mailer`] needs to know.
#[derive(Debug, Clone)]
pub struct MailerOptions {
    /// `smtp://host:port` (plain), `smtp://user:password@host?tls=required` (STARTTLS) or `smtps://user:password@host`.
    pub smtp_url: SecretString,
    /// The sender: `Backroom <no-reply@example.com>` or a bare address.
    pub from: String,
    /// The right side of every `Message-ID`.
    pub message_id_domain: String,
    /// How long connecting, and the exchange of addresses, may take; the reply to a message may take three times this.
    pub timeout: Duration,
}

/// Hands messages to the configured mail server. Clones share their connections.
#[derive(Clone)]
pub struct Mailer(Arc<Inner>);

struct Inner {
    pool: Pool,
    from: Mailbox,
    message_id_domain: String,
}

/// The server took responsibility for the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The server's words, for example `250 2.0.0 queued as 4Xy`.
    pub response: String,
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The server refused this message or its recipient for good (5xx). Trying again is pointless.
    #[error("the mail server refused the message for good: {code} {message}")]
    Permanent {
        /// The SMTP reply code.
        code: u16,
        /// The server's words after the code.
        message: String,
    },
    /// Anything that may be different later: 4xx replies, a broken line, a timeout, TLS or login trouble, a sender
    /// (`mail.from`) that the server does not want.
    #[error("the mail server did not take the message: {message}")]
    Transient {
        /// What happened, in the server's words where it spoke.
        message: String,
        /// When the server wants to be asked again, if it said so.
        retry_after: Option<Duration>,
    },
    /// The line broke, or no final reply came, while the message was under way: nobody can know whether the server accepted
    /// it. Sending the same [`OutgoingMail`] again may make a copy, with the same `Message-ID`.
    #[error("the mail server may have accepted the message: {message}")]
    Unknown {
        /// What happened.
        message: String,
    },
}

impl Mailer {
    /// Checks the options; no connection is made before the first message.
    pub fn new(options: MailerOptions) -> anyhow::Result<Self> {
        let relay = Relay::parse(options.smtp_url.expose_secret()).context("mail.smtp_url cannot be used")?;
        let from: Mailbox = options
            .from
            .parse()
            .context("mail.from is not an address; use for example \"Backroom <no-reply@example.com>\"")?;
        let address: &str = from.email.as_ref();
        anyhow::ensure!(address.is_ascii(), "mail.from is not ASCII; use the xn-- form of the domain");
        let domain = options.message_id_domain.trim().to_owned();
        anyhow::ensure!(
            !domain.is_empty() && domain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'),
            "mail.message_id_domain is not a domain; use for example mail.example.com"
        );
        anyhow::ensure!(!options.timeout.is_zero(), "mail.timeout_s is 0; use a number of seconds, for example 20");
        Ok(Self(Arc::new(Inner { pool: Pool::new(relay, options.timeout), from, message_id_domain: domain })))
    }

    /// The `Message-ID` of what `organization` sends for `purpose`; see [`message_id`].
    pub fn message_id(&self, organization: &str, purpose: &str) -> String {
        message_id(organization, purpose, &self.0.message_id_domain)
    }

    /// Sends one message. `Ok` means that the server accepted it; nothing after that can turn into an error.
    pub async fn send(&self, mail: &OutgoingMail) -> Result<Accepted, SendError> {
        let message = compose::message(mail, &self.0.from).map_err(|error| SendError::Permanent {
            code: 553,
            message: one_line(&format!("the message cannot be put together: {error}")),
        })?;
        let reply = self.0.pool.deliver(message.envelope(), &message.formatted()).await;
        match reply {
            Ok(reply) => Ok(Accepted { response: smtp::words(&reply) }),
            Err(failure) => Err(self.classify(failure)),
        }
    }

    /// A refusal is final only when it answers this message. A server that refuses the connection or the login (even
    /// with a 5xx) has not looked at the message, and throwing reminders away over a changed password helps nobody.
    fn classify(&self, failure: Failure) -> SendError {
        let server = self.0.pool.relay().name();
        match failure {
            Failure::NotTaken(error) => match error.status().map(u16::from) {
                Some(code) if code >= 500 && !is_login_trouble(code) => {
                    SendError::Permanent { code, message: server_words(&error) }
                }
                Some(code) => {
                    let words = server_words(&error);
                    SendError::Transient { retry_after: retry_after(&words), message: format!("{code} {words}") }
                }
                None => transient(format!("the connection to {server} broke: {}", server_words(&error))),
            },
            Failure::SenderRefused(error) => {
                let code = error.status().map(u16::from).unwrap_or_default();
                let words = server_words(&error);
                transient(match is_login_trouble(code) {
                    true => format!("{server} wants a login (mail.smtp_url) before it takes mail: {code} {words}"),
                    false => format!("{server} refuses the sender; correct mail.from: {code} {words}"),
                })
            }
            Failure::NotConnected(error) => {
                let code = error.status().map(|code| format!("{code} ")).unwrap_or_default();
                transient(format!("no connection to {server}: {code}{}", server_words(&error)))
            }
            Failure::Unknown(error) => {
                unknown(format!("the connection to {server} broke before the final reply ({})", server_words(&error)))
            }
            Failure::TimedOut { after_message: false } => transient(format!("{server} did not answer in time")),
            Failure::TimedOut { after_message: true } => unknown(format!("{server} gave no final reply in time")),
            Failure::Confused { after_message, reply } => {
                let message = format!("{server} gave an answer that makes no sense here: {reply}");
                if after_message { unknown(message) } else { transient(message) }
            }
        }
    }
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailer").field("server", &self.0.pool.relay().name()).finish_non_exhaustive()
    }
}

fn transient(message: String) -> SendError {
    SendError::Transient { message, retry_after: None }
}

fn unknown(message: String) -> SendError {
    SendError::Unknown { message }
}

/// RFC 4954: replies that complain about the client's login, not about the message.
fn is_login_trouble(code: u16) -> bool {
    matches!(code, 530 | 534 | 535 | 538)
}

/// What the server said, or what the system said about the line to it, on one line without control characters.
fn server_words(error: &lettre::transport::smtp::Error) -> String {
    let words = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    one_line(&words)
}

/// The waiting time that greylisting servers write into their reply: "try again in 300 seconds", "come back in 5
/// minutes", "in 00:04:59". There is no standard for it; what is not understood is no time. At most six hours.
fn retry_after(words: &str) -> Option<Duration> {
    let words: Vec<String> =
        words.split_whitespace().map(|w| w.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_lowercase()).collect();
    let seconds = words.iter().enumerate().find_map(|(at, word)| {
        clock_time(word).or_else(|| {
            let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
            let number: u64 = word[..digits].parse().ok()?;
            let unit = if digits < word.len() { &word[digits..] } else { words.get(at + 1)?.as_str() };
            let factor = match unit {
                "s" | "sec" | "secs" | "second" | "seconds" => 1,
                "m" | "min" | "mins" | "minute" | "minutes" => 60,
                "h" | "hour" | "hours" => 3600,
                _ => return None,
            };
            number.checked_mul(factor)
        })
    })?;
    Some(Duration::from_secs(seconds.clamp(1, 6 * 3600)))
}

/// `00:04:59` in seconds.
fn clock_time(word: &str) -> Option<u64> {
    let parts: Vec<u64> = word.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match parts[..] {
        [hours, minutes, seconds] if hours < 100 && minutes < 60 && seconds < 60 => {
            Some(hours * 3600 + minutes * 60 + seconds)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> MailerOptions {
        MailerOptions {
            smtp_url: "smtps://me:hunter2@mail.example.com".into(),
            from: "Backroom <no-reply@example.com>".into(),
            message_id_domain: "mail.example.com".into(),
            timeout: Duration::from_secs(20),
        }
    }

    #[test]
    fn an_option_that_cannot_work_is_named_with_the_way_out() {
        let complaint = |options| format!("{:#}", Mailer::new(options).expect_err("refused"));
        let cases = [
            complaint(MailerOptions { smtp_url: "localhost".into(), ..options() }),
            complaint(MailerOptions { from: "nobody".into(), ..options() }),
            complaint(MailerOptions { message_id_domain: "a b".into(), ..options() }),
            complaint(MailerOptions { timeout: Duration::ZERO, ..options() }),
        ];
        for (case, key) in cases.iter().zip(["smtp_url", "from", "message_id_domain", "timeout_s"]) {
            assert!(case.contains(&format!("mail.{key}")) && case.contains("use "), "{case}");
        }
    }

    /// VAULT-4
    #[test]
    fn the_password_is_never_printed() {
        let mailer = Mailer::new(options()).expect("a mailer");
        assert_eq!(format!("{mailer:?}"), "Mailer { server: \"mail.example.com:465\", .. }");
        assert!(!format!("{:?}", options()).contains("hunter2"));
    }

    /// MAIL-3
    #[test]
    fn a_waiting_time_in_a_greylisting_reply_is_understood() {
        for (words, seconds) in [
            ("4.7.1 Greylisted, please try again in 300 seconds", Some(300)),
            ("4.2.0 <a@b>: Greylisted for 5 minutes", Some(300)),
            ("Greylisting in action, please come back in 00:04:59", Some(299)),
            ("4.7.1 retry in 60s.", Some(60)),
            ("try again in 9999 hours", Some(6 * 3600)),
            ("4.7.1 Please try again later", None),
            ("99999999999999999999999 seconds", None),
            ("", None),
        ] {
            assert_eq!(retry_after(words), seconds.map(Duration::from_secs), "{words}");
        }
    }
}
