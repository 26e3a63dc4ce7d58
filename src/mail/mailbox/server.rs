//! The mailbox's side of the SMTP conversation. `mailin` knows the protocol; this file knows sockets, limits and rules.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, mem};

use mailin::response::{Action, Response};
use mailin::{Handler, Session, SessionBuilder};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{MAX_MESSAGE_BYTES, Shared};

/// Connections at a time; one more waits to be accepted.
const MAX_CONNECTIONS: usize = 500;
/// How long a client may be silent (RFC 5321 asks servers for five minutes).
const PATIENCE: Duration = Duration::from_secs(300);
/// RFC 5321 allows 1,000 bytes; some programs write whole paragraphs of HTML in one line.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// RFC 5321, 4.5.3.1.8: a server has to take at least 100.
const MAX_RECIPIENTS: usize = 100;

/// Accepts connections until `shutdown`; `tasks` then waits for their ends.
pub async fn listen(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = async {
                let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
                (slot, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (slot, Ok((stream, _))) => {
                let (shared, shutdown) = (shared.clone(), shutdown.clone());
                tasks.spawn(async move {
                    let _slot = slot;
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        outcome = converse(stream, shared) => {
                            if let Err(error) = outcome {
                                tracing::debug!(%error, "a connection to the mailbox broke");
                            }
                        }
                    }
                });
            }
            // Out of file descriptors, or the client was gone already: neither is a reason to stop, nor to spin.
            (_, Err(error)) => {
                tracing::warn!(%error, "the mailbox could not accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?.ip();
    let mut stream = BufReader::new(stream);
    let transaction = Arc::new(Mutex::new(Transaction::default()));
    let mut session = session(peer, &shared, &transaction);
    let mut line = Vec::new();
    let mut reading_message = false;

    if shared.state().down {
        return say(&mut stream, &unavailable()).await;
    }
    say(&mut stream, &session.greeting()).await?;
    loop {
        let read = match timeout(PATIENCE, read_line(&mut stream, &mut line)).await {
            Ok(read) => read?,
            Err(_) => return say(&mut stream, &reply(421, "4.4.2 Silent for too long, closing connection")).await,
        };
        let response = match read {
            Read::End => return Ok(()),
            _ if shared.state().down => return say(&mut stream, &unavailable()).await,
            Read::TooLong if reading_message => {
                locked(&transaction).too_large = true;
                continue;
            }
            Read::TooLong => reply(500, "5.5.2 Line too long"),
            Read::Line => session.process(&line),
        };
        if response.action == Action::NoReply {
            continue;
        }
        if mem::replace(&mut reading_message, response.code == 354) {
            // That was the end of a message.
            let Transaction { pause, hang_up, .. } = mem::take(&mut *locked(&transaction));
            sleep(pause).await;
            if hang_up {
                return Ok(());
            }
            if response.is_error {
                // mailin would go on reading commands as if they were part of the refused message.
                session = self::session(peer, &shared, &transaction);
                session.process(b"EHLO again\r\n");
            }
        }
        say(&mut stream, &response).await?;
        if response.action == Action::Close {
            return Ok(());
        }
    }
}

fn session(peer: IpAddr, shared: &Arc<Shared>, transaction: &Arc<Mutex<Transaction>>) -> Session<Receiver> {
    let receiver = Receiver { shared: shared.clone(), transaction: transaction.clone() };
    SessionBuilder::new("mailbox.localhost").build(peer, receiver)
}

async fn say(stream: &mut BufReader<TcpStream>, response: &Response) -> io::Result<()> {
    stream.write_all(&response.buffer()?).await?;
    stream.flush().await
}

fn reply(code: u16, words: &str) -> Response {
    Response::custom(code, words.to_owned())
}

fn unavailable() -> Response {
    reply(421, "4.3.2 The mailbox was told to be unavailable, closing connection")
}

enum Read {
    /// A line with its end is in the buffer.
    Line,
    /// A line was too long and has been skipped.
    TooLong,
    /// The client is gone. What it had begun to say does not count.
    End,
}

/// Reads one line into `line`, never keeping more than [`MAX_LINE_BYTES`] of it.
async fn read_line(stream: &mut BufReader<TcpStream>, line: &mut Vec<u8>) -> io::Result<Read> {
    line.clear();
    let mut too_long = false;
    loop {
        let chunk = stream.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(Read::End);
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(chunk.len(), |at| at + 1);
        too_long |= line.len() + taken > MAX_LINE_BYTES;
        if !too_long {
            line.extend_from_slice(&chunk[..taken]);
        }
        stream.consume(taken);
        if end.is_some() {
            return Ok(if too_long { Read::TooLong } else { Read::Line });
        }
    }
}

/// One message on its way in.
#[derive(Default)]
struct Transaction {
    from: String,
    to: Vec<String>,
    data: Vec<u8>,
    too_large: bool,
    pause: Duration,
    hang_up: bool,
}

fn locked(transaction: &Mutex<Transaction>) -> MutexGuard<'_, Transaction> {
    transaction.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers mailin's questions by the mailbox's rules.
struct Receiver {
    shared: Arc<Shared>,
    transaction: Arc<Mutex<Transaction>>,
}

impl Handler for Receiver {
    fn mail(&mut self, _: IpAddr, _: &str, from: &str) -> Response {
        *locked(&self.transaction) = Transaction { from: from.to_owned(), ..Transaction::default() };
        reply(250, "2.1.0 Sender ok")
    }

    fn rcpt(&mut self, to: &str) -> Response {
        let mut transaction = locked(&self.transaction);
        let local = to.to_ascii_lowercase();
        if local.starts_with("reject") {
            return reply(550, "5.1.1 User unknown");
        }
        if (local.starts_with("greylist") || local.starts_with("busy")) && self.shared.turn_away(to) {
            let wait = self.shared.rules.greylist_wait.as_secs().max(1);
            return reply(451, &format!("4.7.1 Greylisted, please try again in {wait} seconds"));
        }
        if transaction.to.len() >= MAX_RECIPIENTS {
            return reply(452, "4.5.3 Too many recipients");
        }
        if local.starts_with("slow") {
            transaction.pause = self.shared.rules.slow;
        }
        transaction.hang_up |= local.starts_with("hangup");
        transaction.to.push(to.to_owned());
        reply(250, "2.1.5 Recipient ok")
    }

    fn data(&mut self, line: &[u8]) -> io::Result<()> {
        let mut transaction = locked(&self.transaction);
        transaction.too_large |= transaction.data.len() + line.len() > MAX_MESSAGE_BYTES;
        if transaction.too_large {
            transaction.data = Vec::new();
        } else {
            transaction.data.extend_from_slice(line);
        }
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        let mut transaction = locked(&self.transaction);
        if transaction.too_large {
            return reply(552, &format!("5.3.4 The message is larger than {MAX_MESSAGE_BYTES} bytes"));
        }
        let delay = self.shared.state().delay;
        transaction.pause = transaction.pause.max(delay);
        let (to, data) = (mem::take(&mut transaction.to), mem::take(&mut transaction.data));
        let id = self.shared.keep(&transaction.from, to, data);
        reply(250, &format!("2.0.0 Kept as message {id}"))
    }
}
