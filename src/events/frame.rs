//! What goes over the line (WHATWG HTML, "Server-sent events"): a block of `field: value` lines and an empty line. JSON has no line
//! break in it, so a message's data is one line.

use axum::body::Bytes;
use backroom_queue::JobState;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::End;
use crate::{domain::Topic, store::events::Event};

/// One block, made once and shared by all who get it.
pub type Frame = Bytes;

/// An event. Its id is the place to go on from.
pub fn event(event: &Event) -> Frame {
    format!("id: {}\ndata: {}\n\n", event.id, json(event)).into()
}

/// A job's state. It is no row of the organization's, so it has no id; who comes back is told the present one.
pub fn job(id: Uuid, state: JobState, attempt: u32) -> Frame {
    let payload = json!({ "state": state, "attempt": attempt });
    let data = json!({ "id": null, "topic": Topic::Job(id), "kind": "job.state", "payload": payload });
    format!("data: {}\n\n", json(&data)).into()
}

/// From here on it is live.
pub fn ready(horizon: u64, topics: &[Topic]) -> Frame {
    format!("event: ready\nid: {}\ndata: {}\n\n", place(horizon), json(&json!({ "topics": topics }))).into()
}

/// The place that the follower named is not known, or too much has happened since: what it shows is to be read anew.
pub fn reset(reason: &str) -> Frame {
    format!("event: reset\ndata: {}\n\n", json(&json!({ "reason": reason }))).into()
}

/// The last message.
pub fn end(end: End) -> Frame {
    format!("event: end\ndata: {}\n\n", json(&json!({ "reason": end.as_str() }))).into()
}

/// Shows that the line is alive and moves the place to go on from. Without data it is no message to a client.
pub fn heartbeat(horizon: u64) -> Frame {
    format!(":\nid: {}\n\n", place(horizon)).into()
}

/// Shows that the line is alive.
pub fn sign_of_life() -> Frame {
    Frame::from_static(b":\n\n")
}

/// A place that is no event: everything of the transactions below `horizon` has been given.
fn place(horizon: u64) -> String {
    format!("x{horizon}")
}

/// Reads such a place back.
pub fn read_place(text: &str) -> Option<u64> {
    text.strip_prefix('x').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("an event has a JSON form")
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone, Utc};

    use super::*;

    /// EVT-2: no payload can end its block and begin another.
    #[test]
    fn a_line_break_in_a_payload_stays_in_its_line() {
        let frame = event(&Event {
            id: Uuid::nil(),
            topic: "organization".to_owned(),
            kind: "test.happened".to_owned(),
            payload: json!({"text": "one\r\n\r\ndata: two\u{2028}"}),
            actor: "test".to_owned(),
            created_at: Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).unwrap(),
        });
        let text = String::from_utf8(frame.to_vec()).unwrap();
        insta::assert_snapshot!(text.trim_end(), @r#"
        id: 00000000-0000-0000-0000-000000000000
        data: {"id":"00000000-0000-0000-0000-000000000000","topic":"organization","kind":"test.happened","payload":{"text":"one\r\n\r\ndata: two "},"actor":"test","created_at":"2026-03-02T08:00:00Z"}
        "#);
        assert!(text.ends_with("\n\n") && !text.contains('\r'));
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn a_place_reads_back_and_nothing_else_does() {
        assert_eq!(read_place(&place(754)), Some(754));
        for text in ["", "x", "754", "x-1", "x+1", "x1 ", "x99999999999999999999999"] {
            assert_eq!(read_place(text), None, "{text:?}");
        }
    }
}
