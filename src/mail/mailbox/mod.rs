//! The development mailbox (MAIL-4): an SMTP server on loopback that delivers nothing and keeps everything, for a
//! person to read in the browser and for tests to count.
//!
//! Some recipients misbehave on purpose, by the first letters of their local part:
//!
//! | recipient | what happens |
//! | --- | --- |
//! | `reject…@` | `550 5.1.1`, for good |
//! | `greylist…@`, `busy…@` | `451 4.7.1` for the first attempts ([`MailboxRules::greylist_attempts`]), then accepted |
//! | `slow…@` | accepted, but the reply takes [`MailboxRules::slow`] |
//! | `hangup…@` | accepted, but the connection breaks instead of a reply |
//!
//! The last two are kept before the reply: a client that gives up waiting has delivered its message all the same, as
//! with any real server. That is the case that tempts programs to send twice.

pub mod pages;
mod server;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use mail_parser::{HeaderName, MessageParser};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::Clock;

/// Messages kept; the oldest go first.
pub const MAX_MESSAGES: usize = 10_000;
/// The largest message taken, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// What all kept messages may weigh together, in bytes.
const MAX_TOTAL_BYTES: usize = 256 * 1024 * 1024;
/// Deliveries remembered for counting; they outlive their messages.
const MAX_DELIVERIES: usize = 200_000;

/// How the mailbox misbehaves. See the module's table.
#[derive(Debug, Clone)]
pub struct MailboxRules {
    /// How often a greylisted recipient is turned away before it is accepted.
    pub greylist_attempts: u32,
    /// The waiting time that the refusal names.
    pub greylist_wait: Duration,
    /// How long the reply to a message for a slow recipient takes.
    pub slow: Duration,
}

impl Default for MailboxRules {
    fn default() -> Self {
        Self { greylist_attempts: 1, greylist_wait: Duration::from_secs(2), slow: Duration::from_secs(3) }
    }
}

/// One accepted delivery: one message, one recipient.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Delivery {
    /// With its angle brackets; empty when the message had none.
    pub message_id: String,
    pub recipient: String,
}

/// What the list of messages shows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Rises with every message; never used twice while the process runs.
    pub id: u64,
    /// As the header says, or else the envelope.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    pub subject: String,
    pub received_at: DateTime<Utc>,
    /// With its angle brackets; empty when the message had none.
    pub message_id: String,
    /// Bytes.
    pub size: usize,
    /// How often this `Message-ID` was accepted for the same recipient; more than 1 is a duplicate.
    pub deliveries: usize,
}

/// A message taken apart for reading.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Message {
    #[serde(flatten)]
    pub summary: Summary,
    /// In their order, decoded.
    pub headers: Vec<(String, String)>,
    pub text: Option<String>,
    pub html: Option<String>,
}

/// A running mailbox. Clones are handles to the same one.
#[derive(Clone)]
pub struct Mailbox {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

struct Shared {
    rules: MailboxRules,
    clock: Clock,
    /// Counts accepted deliveries, and wakes those who wait for them.
    accepted: watch::Sender<usize>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Kept>,
    bytes: usize,
    last_id: u64,
    deliveries: VecDeque<Delivery>,
    turned_away: HashMap<String, u32>,
    down: bool,
    delay: Duration,
}

struct Kept {
    id: u64,
    from: String,
    to: Vec<String>,
    subject: String,
    message_id: String,
    received_at: DateTime<Utc>,
    raw: Arc<[u8]>,
}

impl Mailbox {
    /// Listens on `listen` until `shutdown` is cancelled. Port 0 picks a free one; see [`Mailbox::addr`].
    ///
    /// Refuses any address but loopback: it takes mail from everybody and shows it to everybody.
    pub async fn start(
        listen: SocketAddr,
        rules: MailboxRules,
        clock: Clock,
        shutdown: CancellationToken,
    ) -> io::Result<Self> {
        if !listen.ip().is_loopback() {
            let message = format!("the development mailbox listens on loopback only, not on {listen}; use 127.0.0.1");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let shared =
            Arc::new(Shared { rules, clock, accepted: watch::Sender::new(0), state: Mutex::new(State::default()) });
        let tasks = TaskTracker::new();
        tasks.spawn(server::listen(listener, shared.clone(), tasks.clone(), shutdown));
        tasks.close();
        Ok(Self { addr, shared, tasks })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The value for `mail.smtp_url` that sends here.
    pub fn url(&self) -> String {
        format!("smtp://{}", self.addr)
    }

    /// Returns when the listener and all connections have ended, after the shutdown token was cancelled.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }

    /// How many messages are kept.
    pub fn len(&self) -> usize {
        self.shared.state().messages.len()
    }

    /// True when nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest `limit` messages, newest first.
    pub fn list(&self, limit: usize) -> Vec<Summary> {
        let state = self.shared.state();
        let counts = state.counts();
        state.messages.iter().rev().take(limit).map(|kept| kept.summary(&counts)).collect()
    }

    /// One message, taken apart.
    pub fn get(&self, id: u64) -> Option<Message> {
        let (summary, raw) = {
            let state = self.shared.state();
            let at = state.messages.binary_search_by_key(&id, |kept| kept.id).ok()?;
            let kept = &state.messages[at];
            (kept.summary(&state.counts()), kept.raw.clone())
        };
        Some(taken_apart(summary, &raw))
    }

    /// Every accepted delivery in its order, duplicates included (the last 200,000).
    pub fn accepted(&self) -> Vec<Delivery> {
        self.shared.state().deliveries.iter().cloned().collect()
    }

    /// Waits until at least `deliveries` were accepted since the start; false when `patience` ran out first.
    pub async fn wait_for(&self, deliveries: usize, patience: Duration) -> bool {
        let mut accepted = self.shared.accepted.subscribe();
        let enough = accepted.wait_for(|count| *count >= deliveries);
        matches!(tokio::time::timeout(patience, enough).await, Ok(Ok(_)))
    }

    /// Turns everybody away with `421`, connections that are open included, until called with `false`.
    pub fn set_down(&self, down: bool) {
        self.shared.state().down = down;
    }

    /// Holds the reply to every message back for this long, after keeping the message.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.state().delay = delay;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an attempt for a greylisted recipient; true while it is to be turned away.
    fn turn_away(&self, recipient: &str) -> bool {
        let mut state = self.state();
        if state.turned_away.len() >= MAX_MESSAGES {
            state.turned_away.clear();
        }
        let attempts = state.turned_away.entry(recipient.to_lowercase()).or_insert(0);
        *attempts = attempts.saturating_add(1);
        *attempts <= self.rules.greylist_attempts
    }

    /// Keeps a message and returns its id.
    fn keep(&self, envelope_from: &str, to: Vec<String>, raw: Vec<u8>) -> u64 {
        let received_at = self.clock.now();
        let parsed = MessageParser::default().parse_headers(&raw[..]);
        let parsed = parsed.as_ref();
        let message_id = parsed.and_then(|m| m.message_id()).map(|id| format!("<{id}>")).unwrap_or_default();
        let subject = parsed.and_then(|m| m.subject()).unwrap_or_default().to_owned();
        let from = parsed.and_then(|m| m.from()).map(addresses).unwrap_or_else(|| envelope_from.to_owned());
        let delivered = to.len();
        let id = {
            let mut state = self.state();
            let state = &mut *state;
            state.last_id += 1;
            for recipient in &to {
                let delivery = Delivery { message_id: message_id.clone(), recipient: recipient.clone() };
                state.deliveries.push_back(delivery);
            }
            let surplus = state.deliveries.len().saturating_sub(MAX_DELIVERIES);
            state.deliveries.drain(..surplus);
            state.bytes += raw.len();
            let id = state.last_id;
            state.messages.push_back(Kept { id, from, to, subject, message_id, received_at, raw: raw.into() });
            state.make_room(MAX_MESSAGES, MAX_TOTAL_BYTES);
            id
        };
        self.accepted.send_modify(|count| *count += delivered);
        id
    }
}

impl State {
    /// Lets the oldest messages go until the rest fits.
    fn make_room(&mut self, messages: usize, bytes: usize) {
        while self.messages.len() > messages || self.bytes > bytes {
            let Some(oldest) = self.messages.pop_front() else { break };
            self.bytes -= oldest.raw.len();
        }
    }

    fn counts(&self) -> HashMap<(&str, &str), usize> {
        let mut counts = HashMap::new();
        for delivery in &self.deliveries {
            *counts.entry((delivery.message_id.as_str(), delivery.recipient.as_str())).or_insert(0) += 1;
        }
        counts
    }
}

impl Kept {
    fn summary(&self, counts: &HashMap<(&str, &str), usize>) -> Summary {
        let times = |to: &String| counts.get(&(self.message_id.as_str(), to.as_str())).copied().unwrap_or(1);
        let deliveries = if self.message_id.is_empty() { 1 } else { self.to.iter().map(times).max().unwrap_or(1) };
        Summary {
            id: self.id,
            from: self.from.clone(),
            to: self.to.clone(),
            subject: self.subject.clone(),
            received_at: self.received_at,
            message_id: self.message_id.clone(),
            size: self.raw.len(),
            deliveries,
        }
    }
}

fn taken_apart(summary: Summary, raw: &[u8]) -> Message {
    let Some(parsed) = MessageParser::default().parse(raw) else {
        let text = Some(String::from_utf8_lossy(raw).into_owned());
        return Message { summary, headers: Vec::new(), text, html: None };
    };
    let part = |ids: &[u32], html: bool| {
        ids.iter()
            .filter_map(|id| parsed.part(*id))
            .find(|part| part.is_text_html() == html)?
            .text_contents()
            .map(String::from)
    };
    let headers = parsed
        .headers_raw()
        .map(|(name, value)| {
            let decoded = match HeaderName::parse(name) {
                Some(HeaderName::Subject) => parsed.subject().map(String::from),
                Some(HeaderName::From) => parsed.from().map(addresses),
                Some(HeaderName::To) => parsed.to().map(addresses),
                Some(HeaderName::ReplyTo) => parsed.reply_to().map(addresses),
                _ => None,
            };
            let value = decoded.unwrap_or_else(|| super::one_line(value));
            (name.to_owned(), value)
        })
        .collect();
    let (text, html) = (part(&parsed.text_body, false), part(&parsed.html_body, true));
    Message { summary, headers, text, html }
}

/// `Name <address>` for each, separated by commas.
fn addresses(list: &mail_parser::Address<'_>) -> String {
    let one = |address: &mail_parser::Addr<'_>| match (address.name(), address.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (name, address) => name.or(address).unwrap_or_default().to_owned(),
    };
    list.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
