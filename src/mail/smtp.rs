//! The way to the mail server: where it is, how the line to it is secured, and the few connections that are kept.
//!
//! lettre's own pool is not used for two reasons, both of which would break "one reminder, once". Its asynchronous
//! connections know no timeout once they are open, and a conversation that is dropped in the middle goes back to the
//! pool with an unread reply on it: the next message then takes that reply for its own and reports success too early.
//! Here a connection returns to the pool only after a complete, successful conversation, and every step has a deadline.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
#[expect(deprecated, reason = "see the module `line`")]
use lettre::transport::smtp::client::AsyncNetworkStream as Network;
use lettre::transport::smtp::client::{AsyncSmtpConnection, Tls, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Starttls};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::{Response, Severity};
use percent_encoding::percent_decode_str;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use url::{Host, Url};

use super::{line::Line, one_line};

/// Conversations at a time. Relays count connections per client; the job queue's own limits lie around this number.
const CONNECTIONS: usize = 10;
/// How long an unused connection is kept. Shorter than any server's own patience (RFC 5321 asks for five minutes).
const KEEP_IDLE: Duration = Duration::from_secs(15);
/// RFC 5321, 4.5.3.2.6: giving up on the reply to a message too early means sending it twice, so this one step may
/// take this many times the usual timeout.
const FINAL_REPLY_FACTOR: u32 = 3;

/// Where the mail server is and how to talk to it, from a URL such as `smtps://user:password@mail.example.com`.
pub struct Relay {
    host: String,
    port: u16,
    tls: Tls,
    credentials: Option<Credentials>,
    hello: ClientId,
}

impl Relay {
    /// `smtp://` is plain, `smtp://…?tls=required` upgrades with STARTTLS or fails, `smtp://…?tls=opportunistic`
    /// upgrades where the server offers it, `smtps://` is TLS from the first byte. The path, if any, is the name used
    /// in `EHLO`. Errors never repeat the URL, since it holds the password.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let url = Url::parse(url).context("it is not a URL; use for example smtp://127.0.0.1:1025")?;
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => bail!("it names no host; use for example smtp://127.0.0.1:1025"),
        };
        let wanted = url.query_pairs().find(|(key, _)| key == "tls").map(|(_, value)| value.into_owned());
        let parameters = || TlsParameters::new(host.clone()).context("TLS is not available");
        let (default_port, tls) = match (url.scheme(), wanted.as_deref()) {
            ("smtp", None) => (25, Tls::None),
            ("smtp", Some("required")) => (587, Tls::Required(parameters()?)),
            ("smtp", Some("opportunistic")) => (587, Tls::Opportunistic(parameters()?)),
            ("smtps", None | Some("required")) => (465, Tls::Wrapper(parameters()?)),
            ("smtp" | "smtps", Some(other)) => bail!("tls={other} is unknown; use tls=required or tls=opportunistic"),
            (scheme, _) => bail!("the scheme {scheme}:// is unknown; use smtp:// or smtps://"),
        };
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (_, None) => bail!("it has a user but no password"),
            (user, Some(password)) => Some(Credentials::new(
                decoded(user).context("the user is not UTF-8")?,
                decoded(password).context("the password is not UTF-8")?,
            )),
        };
        ensure!(
            credentials.is_none() || !matches!(tls, Tls::None) || is_loopback(&host),
            "it would send the password unencrypted; use smtps:// or add ?tls=required"
        );
        let hello = match url.path().trim_matches('/') {
            "" => ClientId::default(),
            name => ClientId::Domain(name.to_owned()),
        };
        Ok(Self { port: url.port().unwrap_or(default_port), host, tls, credentials, hello })
    }

    /// Host and port, for messages to people.
    pub fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// A connection that has said hello, is as secure as asked for, and is logged in.
    #[expect(deprecated, reason = "see the module `line`")]
    async fn open(&self) -> Result<AsyncSmtpConnection, Error> {
        let wrapper = match &self.tls {
            Tls::Wrapper(parameters) => Some(parameters.clone()),
            _ => None,
        };
        let server = (self.host.as_str(), self.port);
        let line = Line::new(Network::connect_tokio1(server, None, wrapper, None).await?);
        let mut connection = AsyncSmtpConnection::connect_with_transport(Box::new(line.clone()), &self.hello).await?;
        match &self.tls {
            Tls::Required(parameters) | Tls::Opportunistic(parameters) if connection.can_starttls() => {
                connection = self.upgrade(connection, line, parameters.clone()).await?;
            }
            // Fails, and says that the server does not offer it.
            Tls::Required(parameters) => connection.starttls(parameters.clone(), &self.hello).await?,
            _ => {}
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    /// STARTTLS (RFC 3207), by hand: lettre's own would put TLS above a [`Line`], which changes bytes.
    async fn upgrade(
        &self,
        mut plain: AsyncSmtpConnection,
        line: Line,
        parameters: TlsParameters,
    ) -> Result<AsyncSmtpConnection, Error> {
        plain.command(Starttls).await?;
        // With the connection goes what it may have read ahead: nothing that came unencrypted is taken for a reply later.
        drop(plain);
        let mut network = line.into_network().expect("the connection that shared the line is dropped");
        network.upgrade_tls(parameters).await?;
        AsyncSmtpConnection::connect_with_transport(Box::new(Line::greeted(network)), &self.hello).await
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// How a delivery failed, and what that says about the message.
#[derive(Debug)]
pub enum Failure {
    /// No conversation came about: nothing was handed over, and the reason has nothing to do with this message.
    NotConnected(Error),
    /// The server refused `MAIL FROM` for good: it does not want this sender, whatever the message.
    SenderRefused(Error),
    /// The server would not take this message, or the line broke before the message was on its way.
    NotTaken(Error),
    /// The message was on its way and there is no clear answer: it may or may not have been accepted.
    Unknown(Error),
    /// A step took too long. `after_message` tells whether the message was on its way.
    TimedOut { after_message: bool },
    /// A reply made no sense at this point.
    Confused { after_message: bool, reply: String },
}

impl Failure {
    /// True when the connection was dead before the message started. Servers close connections that idle, so on one
    /// that was kept this says nothing about the message, and a new connection may be tried without asking anybody.
    fn is_lost_line(&self) -> bool {
        matches!(self, Failure::NotTaken(error) if error.status().is_none_or(|code| u16::from(code) == 421))
    }
}

/// Connections to one relay, shared by everybody who sends.
pub struct Pool {
    relay: Relay,
    timeout: Duration,
    slots: Semaphore,
    idle: Arc<Mutex<Idle>>,
}

#[derive(Default)]
struct Idle {
    connections: Vec<(AsyncSmtpConnection, Instant)>,
    /// A task is closing connections as they come of age.
    swept: bool,
}

impl Pool {
    pub fn new(relay: Relay, timeout: Duration) -> Self {
        Self { relay, timeout, slots: Semaphore::new(CONNECTIONS), idle: Arc::default() }
    }

    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Hands one message over and returns the server's final reply.
    ///
    /// Takes at most five timeouts: connect, envelope, three for the message and its reply. Dropping the future closes
    /// the connection.
    pub async fn deliver(&self, envelope: &Envelope, message: &[u8]) -> Result<Response, Failure> {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        if let Some(kept) = self.take_idle() {
            match self.converse(kept, envelope, message).await {
                Err(failure) if failure.is_lost_line() => {
                    tracing::debug!("the mail server had closed an idle connection");
                }
                outcome => return outcome,
            }
        }
        let connection = timeout(self.timeout, self.relay.open())
            .await
            .map_err(|_| Failure::TimedOut { after_message: false })?
            .map_err(Failure::NotConnected)?;
        self.converse(connection, envelope, message).await
    }

    async fn converse(
        &self,
        mut connection: AsyncSmtpConnection,
        envelope: &Envelope,
        message: &[u8],
    ) -> Result<Response, Failure> {
        let begun = timeout(self.timeout, begin(&mut connection, envelope)).await;
        let outcome = match begun.unwrap_or(Err(Failure::TimedOut { after_message: false })) {
            Ok(()) => timeout(self.timeout * FINAL_REPLY_FACTOR, finish(&mut connection, message))
                .await
                .unwrap_or(Err(Failure::TimedOut { after_message: true })),
            Err(failure) => Err(failure),
        };
        match &outcome {
            Ok(_) => self.keep(connection),
            // The server answered, so it gets a goodbye; nobody waits for its answer to that.
            Err(Failure::NotTaken(error) | Failure::SenderRefused(error) | Failure::Unknown(error))
                if error.status().is_some() =>
            {
                tokio::spawn(timeout(self.timeout, async move { connection.abort().await }));
            }
            Err(_) => {}
        }
        outcome
    }

    fn take_idle(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let (connection, since) = idle.connections.pop()?;
        (since.elapsed() < KEEP_IDLE).then_some(connection)
    }

    /// Parks a connection, and makes sure that somebody closes it when it is not used again.
    fn keep(&self, connection: AsyncSmtpConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.connections.push((connection, Instant::now()));
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(self.idle.clone()));
        }
    }
}

/// Everything up to the server's "go ahead". Addresses and message are ASCII, so no extension has to be asked for.
async fn begin(connection: &mut AsyncSmtpConnection, envelope: &Envelope) -> Result<(), Failure> {
    let sender = connection.command(Mail::new(envelope.from().cloned(), Vec::new())).await;
    sender.map_err(|error| match error.is_permanent() {
        true => Failure::SenderRefused(error),
        false => Failure::NotTaken(error),
    })?;
    for recipient in envelope.to() {
        connection.command(Rcpt::new(recipient.clone(), Vec::new())).await.map_err(Failure::NotTaken)?;
    }
    let reply = connection.command(Data).await.map_err(Failure::NotTaken)?;
    if !reply.has_code(354) {
        return Err(Failure::Confused { after_message: false, reply: words(&reply) });
    }
    Ok(())
}

/// The message and the reply that decides about it.
async fn finish(connection: &mut AsyncSmtpConnection, message: &[u8]) -> Result<Response, Failure> {
    let reply = connection.message(message).await.map_err(|error| match error.status() {
        Some(_) => Failure::NotTaken(error),
        None => Failure::Unknown(error),
    })?;
    match reply.code().severity {
        Severity::PositiveCompletion => Ok(reply),
        _ => Err(Failure::Confused { after_message: true, reply: words(&reply) }),
    }
}

/// A reply as one line without control characters, which no column of text could hold: `250 2.0.0 queued as 17`.
pub fn words(reply: &Response) -> String {
    one_line(&format!("{} {}", reply.code(), reply.message().collect::<Vec<_>>().join(" ")))
}

/// Closes connections that have idled for too long, and ends when none is left.
async fn sweep(idle: Arc<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(KEEP_IDLE).await;
        let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.connections.retain(|(_, since)| since.elapsed() < KEEP_IDLE);
        if idle.connections.is_empty() {
            idle.swept = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MAIL-1
    #[test]
    fn the_url_decides_about_encryption_and_port() {
        for (url, port, encryption) in [
            ("smtp://127.0.0.1:1025", 1025, "plain"),
            ("smtp://mail.example.com", 25, "plain"),
            ("smtp://mail.example.com?tls=required", 587, "STARTTLS"),
            ("smtp://mail.example.com?tls=opportunistic", 587, "STARTTLS if offered"),
            ("smtps://me:p%40ss@mail.example.com", 465, "TLS"),
            ("smtp://[::1]:2525/worker.example.com", 2525, "plain"),
        ] {
            let relay = Relay::parse(url).expect(url);
            let found = match relay.tls {
                Tls::None => "plain",
                Tls::Required(_) => "STARTTLS",
                Tls::Opportunistic(_) => "STARTTLS if offered",
                Tls::Wrapper(_) => "TLS",
            };
            assert_eq!((relay.port, found), (port, encryption), "{url}");
        }
    }

    #[test]
    fn a_url_that_cannot_work_is_refused_without_repeating_its_password() {
        for (url, complaint) in [
            ("mail.example.com", "not a URL"),
            ("https://mail.example.com", "https:// is unknown"),
            ("smtp://mail.example.com?tls=maybe", "tls=maybe is unknown"),
            ("smtp://me:hunter2@mail.example.com", "password unencrypted"),
            ("smtps://me@mail.example.com", "no password"),
        ] {
            let message = format!("{:#}", Relay::parse(url).err().expect(url));
            assert!(message.contains(complaint), "{url}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        assert!(Relay::parse("smtp://me:hunter2@localhost").is_ok());
    }
}
