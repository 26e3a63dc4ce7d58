//! Mailer and mailbox in real SMTP conversations over TCP, and the mailer against servers that behave badly.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use chrono::{TimeZone, Utc};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::mailbox::{Mailbox, MailboxRules};
use super::*;
use crate::domain::Clock;

const PATIENCE: Duration = Duration::from_secs(10);

async fn mailbox() -> Mailbox {
    let clock = Clock::fixed(Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).single().expect("a time"));
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Mailbox::start(listen, MailboxRules::default(), clock, CancellationToken::new()).await.expect("listening")
}

fn mailer(url: &str, timeout: Duration) -> Mailer {
    let options = MailerOptions {
        smtp_url: url.into(),
        from: "Backroom <no-reply@backroom.example>".into(),
        message_id_domain: "backroom.example".into(),
        timeout,
    };
    Mailer::new(options).expect("a mailer")
}

fn mail(to: &str, purpose: &str) -> OutgoingMail {
    OutgoingMail {
        message_id: message_id("acme", purpose, "backroom.example"),
        from_name: Some("Nordlys Konsult AB".into()),
        reply_to: None,
        to: EmailAddress::parse(to).expect("an address"),
        subject: "Påminnelse: faktura 17".into(),
        text: ".Hej\n..på\n.\nMAIL FROM:<er@example.com>\n".into(),
        html: "<p>Hej på er!</p>".into(),
        language: Language::Sv,
        date: Utc.with_ymd_and_hms(2026, 3, 1, 8, 0, 0).single().expect("a time"),
    }
}

fn transient(result: Result<Accepted, SendError>) -> String {
    match result {
        Err(SendError::Transient { message, .. }) => message,
        other => panic!("expected a transient failure, got {other:?}"),
    }
}

fn unknown(result: Result<Accepted, SendError>) -> String {
    match result {
        Err(SendError::Unknown { message }) => message,
        other => panic!("expected an unknown outcome, got {other:?}"),
    }
}

type Script = Vec<(&'static str, &'static str)>;

/// Plays one connection of a scripted server: each step waits for a line that begins with its first half and answers
/// with its second. An empty answer, or the end of the script, closes the connection. The first step is the greeting.
async fn play(listener: &TcpListener, script: &[(&str, &str)]) {
    let (stream, _) = listener.accept().await.expect("a connection");
    let mut stream = BufReader::new(stream);
    for (expected, answer) in script {
        let mut line = String::new();
        while !expected.is_empty() && !line.starts_with(expected) {
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
        }
        // One byte per character, so that a script can say what is not UTF-8.
        let answer: Vec<u8> = answer.chars().map(|c| c as u8).collect();
        if answer.is_empty() || stream.write_all(&[&answer[..], b"\r\n"].concat()).await.is_err() {
            return;
        }
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listening");
    let url = format!("smtp://{}", listener.local_addr().expect("an address"));
    (listener, url)
}

/// MAIL-1, MAIL-4
#[tokio::test]
async fn a_sent_mail_arrives_whole() {
    let mailbox = mailbox().await;
    let accepted = mailer(&mailbox.url(), PATIENCE).send(&mail("kund@example.com", "reminder:1:1")).await;
    assert_eq!(accepted, Ok(Accepted { response: "250 2.0.0 Kept as message 1".into() }));

    let message = mailbox.get(1).expect("kept");
    let header = |name: &str| message.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    assert_eq!(header("From"), Some("Nordlys Konsult AB <no-reply@backroom.example>"));
    assert_eq!(header("To"), Some("kund@example.com"));
    assert_eq!(header("Subject"), Some("Påminnelse: faktura 17"));
    assert_eq!(header("Message-ID"), Some(message_id("acme", "reminder:1:1", "backroom.example").as_str()));
    assert_eq!(header("Date"), Some("Sun, 01 Mar 2026 08:00:00 +0000"));
    assert_eq!(header("Auto-Submitted"), Some("auto-generated"));
    assert_eq!(header("Content-Language"), Some("sv"));
    assert_eq!(
        message.text.map(|text| text.replace('\r', "")).as_deref().map(str::trim_end),
        Some(".Hej\n..på\n.\nMAIL FROM:<er@example.com>")
    );
    assert_eq!(message.html.as_deref(), Some("<p>Hej på er!</p>"));
}

/// MAIL-3
#[tokio::test]
async fn a_refused_recipient_is_permanent_with_the_servers_words() {
    let mailbox = mailbox().await;
    let mailer = mailer(&mailbox.url(), PATIENCE);
    let refused = mailer.send(&mail("reject@example.com", "reminder:1:1")).await;
    assert_eq!(refused, Err(SendError::Permanent { code: 550, message: "5.1.1 User unknown".into() }));
    assert!(mailer.send(&mail("kund@example.com", "reminder:2:1")).await.is_ok(), "the next mail is not affected");
    assert_eq!(mailbox.accepted().len(), 1);
}

/// MAIL-3
#[tokio::test]
async fn a_greylisted_recipient_is_transient_and_names_the_time() {
    let mailbox = mailbox().await;
    let mailer = mailer(&mailbox.url(), PATIENCE);
    let letter = mail("greylist@example.com", "reminder:1:1");
    let message = "451 4.7.1 Greylisted, please try again in 2 seconds".to_owned();
    let retry_after = Some(Duration::from_secs(2));
    assert_eq!(mailer.send(&letter).await, Err(SendError::Transient { message, retry_after }));
    assert!(mailer.send(&letter).await.is_ok());
}

/// MAIL-3
#[tokio::test]
async fn a_server_that_is_down_or_absent_is_transient() {
    let mailbox = mailbox().await;
    let sender = mailer(&mailbox.url(), PATIENCE);
    let letter = mail("kund@example.com", "reminder:1:1");
    assert!(sender.send(&letter).await.is_ok());
    mailbox.set_down(true);
    assert!(transient(sender.send(&letter).await).contains("421 4.3.2"));
    mailbox.set_down(false);
    assert!(sender.send(&letter).await.is_ok());

    let (listener, url) = listener().await;
    drop(listener);
    assert!(transient(mailer(&url, PATIENCE).send(&letter).await).starts_with("no connection to 127.0.0.1:"));
}

/// MAIL-2, MAIL-3: nobody knows whether the message arrived; sending it again is recognisable as the same one.
#[tokio::test]
async fn a_reply_that_never_comes_is_an_unknown_outcome_and_the_second_attempt_has_the_same_message_id() {
    let mailbox = mailbox().await;
    let mailer = mailer(&mailbox.url(), Duration::from_millis(700));
    let letter = mail("kund@example.com", "reminder:1:1");
    mailbox.set_delay(Duration::from_secs(60));
    assert!(unknown(mailer.send(&letter).await).contains("no final reply in time"));
    mailbox.set_delay(Duration::ZERO);
    assert!(mailer.send(&letter).await.is_ok());
    assert!(unknown(mailer.send(&mail("hangup@example.com", "reminder:2:1")).await).contains("broke before"));

    let ids: Vec<_> = mailbox.accepted().into_iter().map(|delivery| delivery.message_id).collect();
    assert_eq!((ids.len(), &ids[0]), (3, &ids[1]));
    assert_eq!(mailbox.list(3)[1].deliveries, 2);
}

/// A caller that gives up leaves no half-finished conversation behind for the next message to stumble over.
#[tokio::test]
async fn an_abandoned_send_does_not_confuse_the_next_one() {
    let mailbox = mailbox().await;
    let mailer = mailer(&mailbox.url(), PATIENCE);
    assert!(mailer.send(&mail("kund@example.com", "reminder:1:1")).await.is_ok());
    mailbox.set_delay(Duration::from_secs(60));
    let abandoned = mail("kund@example.com", "reminder:2:1");
    tokio::select! {
        result = mailer.send(&abandoned) => panic!("{result:?}"),
        arrived = mailbox.wait_for(2, PATIENCE) => assert!(arrived),
    }
    mailbox.set_delay(Duration::ZERO);
    let refused = mailer.send(&mail("reject@example.com", "reminder:3:1")).await;
    assert!(matches!(refused, Err(SendError::Permanent { code: 550, .. })), "{refused:?}");
    let accepted = mailer.send(&mail("kund@example.com", "reminder:4:1")).await.expect("accepted");
    assert_eq!(accepted.response, "250 2.0.0 Kept as message 3");
}

/// MAIL-3
#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_costs_nothing() {
    let whole = [
        ("", "220 hi"),
        ("EHLO", "250 hi"),
        ("MAIL", "250 ok"),
        ("RCPT", "250 ok"),
        ("DATA", "354 go"),
        (".", "250 taken"),
    ];
    let with_goodbye = [&whole[..], &[("MAIL", "421 4.4.2 idle for too long")]].concat();
    for first in [&whole[..], &with_goodbye] {
        let (listener, url) = listener().await;
        let mailer = mailer(&url, PATIENCE);
        let letter = mail("kund@example.com", "reminder:1:1");
        let server = async {
            play(&listener, first).await;
            play(&listener, &whole).await;
        };
        let client = async { (mailer.send(&letter).await, mailer.send(&letter).await) };
        let (both, ()) = tokio::join!(client, server);
        let taken = || Ok(Accepted { response: "250 taken".into() });
        assert_eq!(both, (taken(), taken()));
    }
}

/// MAIL-3
#[tokio::test]
async fn only_an_answer_to_the_message_itself_is_permanent() {
    let hello = [("", "220 hi"), ("EHLO", "250-hi\r\n250 AUTH PLAIN")];
    let to_data = [&hello[..], &[("AUTH", "235 ok"), ("MAIL", "250 ok"), ("RCPT", "250 ok")]].concat();
    let cases: [(&str, Script, Option<u16>); 9] = [
        ("greeting", vec![("", "554 5.7.1 go away")], None),
        ("hello", vec![("", "220 hi"), ("EHLO", "550 who?")], None),
        ("login", [&hello[..], &[("AUTH", "535 5.7.8 wrong password")]].concat(), None),
        ("sender", [&hello[..], &[("AUTH", "235 ok"), ("MAIL", "550 5.7.1 no")]].concat(), None),
        ("login wanted", [&hello[..], &[("AUTH", "235 ok"), ("MAIL", "530 5.7.0 log in")]].concat(), None),
        ("message", [&to_data[..], &[("DATA", "354 go"), (".", "554 5.6.0\r\n")]].concat(), Some(554)),
        ("spooler", [&to_data[..], &[("DATA", "354 go"), (".", "452 4.3.1 disk full")]].concat(), None),
        ("nonsense", [&to_data[..], &[("DATA", "250 what")]].concat(), None),
        ("garbage", vec![("", "HTTP/1.1 400 Bad Request")], None),
    ];
    for (name, script, code) in cases {
        let (listener, url) = listener().await;
        let mailer = mailer(&url.replace("//", "//me:secret@"), PATIENCE);
        let letter = mail("kund@example.com", "reminder:1:1");
        let (result, ()) = tokio::join!(mailer.send(&letter), play(&listener, &script));
        let found = match result {
            Err(SendError::Permanent { code, .. }) => Some(code),
            Err(SendError::Transient { .. }) => None,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(found, code, "{name}");
    }
}

/// MAIL-3: the server's words are stored; PostgreSQL takes neither NUL nor Latin-1.
#[tokio::test]
async fn words_that_nobody_could_store_are_cleaned_and_an_acceptance_stays_one() {
    let to_reply =
        [("", "220 v\u{e4}lkommen"), ("EHLO", "250 hi"), ("MAIL", "250 ok"), ("RCPT", "250 ok"), ("DATA", "354 go")];
    let letter = mail("kund@example.com", "reminder:1:1");
    for (reply, told) in [
        ("250 2.0.0 k\u{f6}ad som \0 17", Ok("250 2.0.0 k?ad som 17")),
        ("250-tack\r\n250 h\u{e4}lsar \u{1b}[31mservern", Ok("250 tack h?lsar [31mservern")),
        ("550 5.1.1 ok\u{e4}nd\0mottagare", Err("5.1.1 ok?nd mottagare")),
    ] {
        let (listener, url) = listener().await;
        let script = [&to_reply[..], &[(".\r\n", reply)]].concat();
        let mailer = mailer(&url, PATIENCE);
        let (result, ()) = tokio::join!(mailer.send(&letter), play(&listener, &script));
        let found = match &result {
            Ok(accepted) => Ok(accepted.response.as_str()),
            Err(SendError::Permanent { message, .. }) => Err(message.as_str()),
            other => panic!("{reply:?}: {other:?}"),
        };
        assert_eq!(found, told);
    }
}

/// MAIL-3: no letter is thrown away over a setting.
#[tokio::test]
async fn a_refused_sender_is_transient_and_names_the_setting() {
    let (listener, url) = listener().await;
    let script = [("", "220 hi"), ("EHLO", "250 hi"), ("MAIL", "553 5.7.1 not your address")];
    let mailer = mailer(&url, PATIENCE);
    let letter = mail("kund@example.com", "reminder:1:1");
    let (result, ()) = tokio::join!(mailer.send(&letter), play(&listener, &script));
    let message = transient(result);
    assert!(message.contains("mail.from") && message.ends_with("553 5.7.1 not your address"), "{message}");
}

/// MAIL-1: after the server's "go ahead" comes TLS and nothing else, and a server without it gets no message.
#[tokio::test]
async fn required_encryption_is_begun_or_the_message_stays_here() {
    let letter = mail("kund@example.com", "reminder:1:1");
    for (offer, complaint) in [("250 STARTTLS", "no connection to"), ("250 hi", "STARTTLS is not supported")] {
        let (listener, url) = listener().await;
        let mailer = mailer(&format!("{url}?tls=required"), PATIENCE);
        let server = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut stream = BufReader::new(stream);
            let hello = format!("250-hi\r\n{offer}\r\n");
            let mut line = String::new();
            stream.write_all(b"220 hi\r\n").await.expect("written");
            stream.read_line(&mut line).await.expect("EHLO");
            stream.write_all(hello.as_bytes()).await.expect("written");
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 || !line.starts_with("STARTTLS") {
                return None;
            }
            stream.write_all(b"220 go ahead\r\n").await.expect("written");
            stream.fill_buf().await.ok().and_then(|bytes| bytes.first().copied())
        };
        let (result, first_byte) = tokio::join!(mailer.send(&letter), server);
        let message = transient(result);
        assert!(message.contains(complaint), "{message}");
        // 22: a TLS handshake record.
        assert_eq!(first_byte, (offer == "250 STARTTLS").then_some(22));
    }
}

#[tokio::test]
async fn a_silent_server_does_not_hold_a_mail_for_ever() {
    let (_listener, url) = listener().await;
    let message = transient(mailer(&url, Duration::from_millis(100)).send(&mail("kund@example.com", "x")).await);
    assert!(message.contains("did not answer in time"), "{message}");
}

/// MAIL-2
#[tokio::test]
async fn two_hundred_mails_at_once_arrive_once_each() {
    let mailbox = mailbox().await;
    let mailer = mailer(&mailbox.url(), PATIENCE);
    let mut sends = tokio::task::JoinSet::new();
    for number in 0..200 {
        let mailer = mailer.clone();
        sends.spawn(async move { mailer.send(&mail("kund@example.com", &format!("reminder:{number}:1"))).await });
    }
    assert!(sends.join_all().await.iter().all(Result::is_ok));
    let ids: std::collections::HashSet<_> = mailbox.accepted().into_iter().map(|d| d.message_id).collect();
    assert_eq!((mailbox.len(), ids.len()), (200, 200));
}
