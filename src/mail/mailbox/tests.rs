//! The mailbox from the wire: what well-behaved, clumsy and hostile clients meet.

use std::net::Ipv4Addr;

use chrono::TimeZone;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

async fn mailbox(rules: MailboxRules) -> (Mailbox, CancellationToken) {
    let clock = Clock::fixed(Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).single().expect("a time"));
    let shutdown = CancellationToken::new();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    (Mailbox::start(listen, rules, clock, shutdown.clone()).await.expect("listening"), shutdown)
}

/// A client that says exactly what it is told to.
struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects and reads the greeting.
    async fn connect(mailbox: &Mailbox) -> Self {
        let mut client = Self(BufReader::new(TcpStream::connect(mailbox.addr()).await.expect("connected")));
        assert!(client.reply().await.starts_with("220 "));
        client
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("sent");
    }

    /// The last line of the next reply; empty when the connection ended.
    async fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a reply in time");
            if read.unwrap_or(0) == 0 || line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }

    async fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.reply().await
    }

    /// Up to "go ahead" for a message to `to`.
    async fn begin(&mut self, to: &str) {
        for line in ["EHLO test", "MAIL FROM:<from@example.com>", &format!("RCPT TO:<{to}>")] {
            assert!(self.ask(line).await.starts_with("250 "), "{line}");
        }
        assert!(self.ask("DATA").await.starts_with("354 "));
    }
}

/// MAIL-4
#[tokio::test]
async fn a_message_is_kept_as_it_was_sent_with_dots_restored() {
    let (mailbox, _guard) = mailbox(MailboxRules::default()).await;
    let mut client = Client::connect(&mailbox).await;
    client.begin("to@example.com").await;
    client
        .send("Subject: =?utf-8?q?P=C3=A5minnelse?=\r\nMessage-ID: <1@example.com>\r\n\r\n..hidden\r\n...\r\nend\r\n")
        .await;
    assert_eq!(client.ask(".").await, "250 2.0.0 Kept as message 1");
    assert!(client.ask("QUIT").await.starts_with("221 "));

    let list = mailbox.list(10);
    assert_eq!((list.len(), list[0].subject.as_str(), list[0].from.as_str()), (1, "Påminnelse", "from@example.com"));
    assert_eq!(list[0].received_at.to_rfc3339(), "2026-03-02T08:00:00+00:00");
    let message = mailbox.get(1).expect("kept");
    assert_eq!(message.text.as_deref().map(str::trim_end), Some(".hidden\r\n..\r\nend"));
    assert_eq!(message.html, None);
    let expected = Delivery { message_id: "<1@example.com>".into(), recipient: "to@example.com".into() };
    assert_eq!(mailbox.accepted(), [expected]);
    assert_eq!(mailbox.get(2), None);
}

/// MAIL-4
#[tokio::test]
async fn every_recipient_and_every_duplicate_counts() {
    let (mailbox, _guard) = mailbox(MailboxRules::default()).await;
    let mut client = Client::connect(&mailbox).await;
    for _ in 0..2 {
        assert!(client.ask("EHLO test").await.starts_with("250 "));
        client.ask("MAIL FROM:<from@example.com>").await;
        client.ask("RCPT TO:<a@example.com>").await;
        client.ask("RCPT TO:<b@example.com>").await;
        client.ask("DATA").await;
        client.send("Message-ID: <same@example.com>\r\n\r\nhello\r\n").await;
        client.ask(".").await;
    }
    assert!(mailbox.wait_for(4, PATIENCE).await);
    assert!(!mailbox.wait_for(5, Duration::from_millis(10)).await);
    assert_eq!(mailbox.accepted().len(), 4);
    assert_eq!(mailbox.list(10).iter().map(|m| (m.id, m.deliveries)).collect::<Vec<_>>(), [(2, 2), (1, 2)]);
}

/// MAIL-4
#[tokio::test]
async fn a_client_that_vanishes_in_the_middle_leaves_nothing_behind() {
    let (mailbox, _guard) = mailbox(MailboxRules::default()).await;
    let mut client = Client::connect(&mailbox).await;
    client.begin("to@example.com").await;
    client.send("Subject: half\r\n\r\nThis is only the beg").await;
    drop(client);
    let mut client = Client::connect(&mailbox).await;
    client.begin("to@example.com").await;
    client.send("Subject: nearly\r\n\r\nwhole\r\n.\r").await;
    drop(client);
    while mailbox.tasks.len() > 1 {
        // Until only the listener is left: both connections have been read to their ends.
        tokio::task::yield_now().await;
    }
    assert!(mailbox.is_empty() && mailbox.accepted().is_empty());
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_order() {
    let (mailbox, _guard) = mailbox(MailboxRules::default()).await;
    let mut client = Client::connect(&mailbox).await;
    client
        .send(
            "EHLO test\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<reject@example.com>\r\nRCPT TO:<b@example.com>\r\n\
             DATA\r\nSubject: x\r\n\r\nbody\r\n.\r\nNOOP\r\nQUIT\r\n",
        )
        .await;
    let mut codes = Vec::new();
    for _ in 0..8 {
        codes.push(client.reply().await[..3].to_owned());
    }
    assert_eq!(codes, ["250", "250", "550", "250", "354", "250", "250", "221"]);
    assert_eq!(client.reply().await, "");
    assert_eq!(mailbox.list(1)[0].to, ["b@example.com"]);
}

#[tokio::test]
async fn garbage_and_endless_lines_are_refused_and_the_session_goes_on() {
    let (mailbox, _guard) = mailbox(MailboxRules::default()).await;
    let mut client = Client::connect(&mailbox).await;
    assert!(client.ask("\u{0}\u{1}GET / HTTP/1.1 å").await.starts_with("500 "));
    client.send([0xff, 0xfe, b'\r', b'\n']).await;
    assert!(client.reply().await.starts_with("500 "));
    client.send(vec![b'x'; 3 * 1024 * 1024]).await;
    client.send("\r\n").await;
    assert!(client.reply().await.starts_with("500 5.5.2 "));
    assert!(client.ask("DATA").await.starts_with("503 "));
    client.begin("to@example.com").await;
    client.send("Subject: fine\r\n\r\n").await;
    assert!(client.ask(".").await.starts_with("250 "));
    assert_eq!(mailbox.len(), 1);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_the_next_one_is_taken() {
    let (mailbox, _guard) = mailbox(MailboxRules::default()).await;
    let mut client = Client::connect(&mailbox).await;
    for (line, times) in [(1000, MAX_MESSAGE_BYTES / 1000), (MAX_MESSAGE_BYTES, 1)] {
        client.begin("to@example.com").await;
        for _ in 0..times {
            client.send(vec![b'x'; line]).await;
            client.send("\r\n").await;
        }
        assert!(client.ask(".").await.starts_with("552 5.3.4 "), "lines of {line}");
    }
    client.begin("to@example.com").await;
    client.send("Subject: small\r\n\r\n").await;
    assert!(client.ask(".").await.starts_with("250 "));
    assert_eq!(mailbox.list(10).iter().map(|m| m.subject.as_str()).collect::<Vec<_>>(), ["small"]);
}

#[tokio::test]
async fn a_hundred_clients_at_once_are_served() {
    let (mailbox, shutdown) = mailbox(MailboxRules::default()).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..100 {
        let mailbox = mailbox.clone();
        clients.spawn(async move {
            let mut client = Client::connect(&mailbox).await;
            client.begin(&format!("to{number}@example.com")).await;
            client.send(format!("Message-ID: <{number}@example.com>\r\n\r\n")).await;
            assert!(client.ask(".").await.starts_with("250 "));
            client
        });
    }
    let open = clients.join_all().await;
    let recipients: std::collections::HashSet<_> = mailbox.accepted().into_iter().map(|d| d.recipient).collect();
    assert_eq!((mailbox.len(), recipients.len()), (100, 100));
    shutdown.cancel();
    mailbox.stopped().await;
    for mut client in open {
        assert_eq!(client.0.read(&mut [0; 8]).await.unwrap_or(0), 0, "the connection has ended");
    }
    assert!(TcpStream::connect(mailbox.addr()).await.is_err(), "nobody listens any more");
}

/// MAIL-3
#[tokio::test]
async fn recipients_misbehave_by_their_names() {
    let rules = MailboxRules { greylist_attempts: 2, ..MailboxRules::default() };
    let (mailbox, _guard) = mailbox(rules).await;
    let mut client = Client::connect(&mailbox).await;
    client.ask("EHLO test").await;
    client.ask("MAIL FROM:<a@example.com>").await;
    assert_eq!(client.ask("RCPT TO:<Rejected@example.com>").await, "550 5.1.1 User unknown");
    for _ in 0..2 {
        let reply = client.ask("RCPT TO:<greylisted@example.com>").await;
        assert_eq!(reply, "451 4.7.1 Greylisted, please try again in 2 seconds");
    }
    assert!(client.ask("RCPT TO:<GREYLISTED@example.com>").await.starts_with("250 "));
    assert!(client.ask("RCPT TO:<busy@example.com>").await.starts_with("451 "));
}

#[tokio::test]
async fn a_mailbox_that_is_down_turns_new_and_open_connections_away() {
    let (mailbox, _guard) = mailbox(MailboxRules::default()).await;
    let mut open = Client::connect(&mailbox).await;
    mailbox.set_down(true);
    assert!(open.ask("EHLO test").await.starts_with("421 4.3.2 "));
    let mut new = Client(BufReader::new(TcpStream::connect(mailbox.addr()).await.expect("connected")));
    assert!(new.reply().await.starts_with("421 4.3.2 "));
    mailbox.set_down(false);
    Client::connect(&mailbox).await;
}

#[tokio::test]
async fn the_mailbox_listens_on_loopback_only() {
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let started = Mailbox::start(listen, MailboxRules::default(), Clock::system(), CancellationToken::new()).await;
    assert_eq!(started.err().map(|error| error.kind()), Some(io::ErrorKind::InvalidInput));
}

#[tokio::test]
async fn the_oldest_messages_go_first_and_the_count_stays() {
    let (mailbox, _guard) = mailbox(MailboxRules::default()).await;
    for _ in 0..MAX_MESSAGES + 5 {
        mailbox.shared.keep("from@example.com", vec!["to@example.com".into()], b"Subject: x\r\n\r\n".to_vec());
    }
    assert_eq!(mailbox.len(), MAX_MESSAGES);
    assert_eq!((mailbox.get(5), mailbox.get(6).map(|m| m.summary.id)), (None, Some(6)));
    assert_eq!(mailbox.list(1)[0].id, MAX_MESSAGES as u64 + 5);
    assert_eq!(mailbox.accepted().len(), MAX_MESSAGES + 5);
}

#[tokio::test]
async fn large_messages_push_old_ones_out_before_memory_runs_out() {
    let (mailbox, _guard) = mailbox(MailboxRules::default()).await;
    for size in [100, 200, 300] {
        mailbox.shared.keep("from@example.com", vec!["to@example.com".into()], vec![b'x'; size]);
    }
    let mut state = mailbox.shared.state();
    state.make_room(MAX_MESSAGES, 550);
    assert_eq!((state.messages.len(), state.bytes), (2, 500));
    state.make_room(MAX_MESSAGES, 0);
    assert_eq!((state.messages.len(), state.bytes), (0, 0));
}

#[test]
fn any_bytes_can_be_taken_apart() {
    let summary = || Summary {
        id: 1,
        from: String::new(),
        to: Vec::new(),
        subject: String::new(),
        received_at: DateTime::UNIX_EPOCH,
        message_id: String::new(),
        size: 0,
        deliveries: 1,
    };
    let nested = "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n".repeat(300);
    for raw in
        [&b""[..], b"\0\xff\xfe", b"\r\n\r\n", b"Subject", b"Content-Type: text/html\r\n\r\n<p>", nested.as_bytes()]
    {
        pages::message(&taken_apart(summary(), raw));
    }
}
