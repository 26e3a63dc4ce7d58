//! Which events are told where (EVT-3, SYNC-11).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::text::parsed_text;
use super::{EmailAddress, Language, ParseError};

/// What a rule may name; events of other families concern members of workspaces alone.
pub const FAMILIES: &[&str] = &["asset", "employee", "integration", "invoice", "job", "workflow"];

/// Which events: one kind, `asset.assigned`, or all of a family, `asset.*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventPattern(String);

parsed_text!(EventPattern);

impl EventPattern {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let (family, kind) = text.split_once('.').unwrap_or((text, ""));
        if !FAMILIES.contains(&family) {
            return Err(ParseError::invalid(format!(
                "must begin with a family of events and a full stop; there are {}",
                FAMILIES.join(", ")
            )));
        }
        let is_word = (1..=50).contains(&kind.len()) && kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if kind != "*" && !is_word {
            return Err(ParseError::invalid(
                "must be a kind of event, such as asset.assigned, or asset.* for all of them",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// As the database decides it (`notify_by_rules`).
    pub fn takes(&self, kind: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(family) => kind.starts_with(family),
            None => kind == self.0,
        }
    }
}

/// Where messages go: Slack's id of a channel, or a person's e-mail address for direct messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Channel(String);

parsed_text!(Channel);

impl Channel {
    /// Names of channels are refused: they change, and Slack discourages them.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        if text.contains('@') {
            return Ok(Self(EmailAddress::parse(text)?.key()));
        }
        let shaped = (3..=30).contains(&text.len())
            && text.starts_with(['C', 'D', 'G'])
            && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if !shaped {
            return Err(ParseError::invalid(
                "must be a channel's id, such as C0123ABCDEF (below the channel's details in Slack), or a person's e-mail address",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whose direct messages it is.
    pub fn person(&self) -> Option<&str> {
        self.0.contains('@').then_some(self.as_str())
    }
}

/// A rule to be stored, new or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRule {
    pub integration_id: Uuid,
    pub events: EventPattern,
    pub channel: Channel,
    /// `None`: the organization's.
    pub language: Option<Language>,
    /// Whom an event concerns is mentioned, so that Slack tells them.
    pub mention: bool,
    pub enabled: bool,
}

/// A rule as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationRule {
    pub id: Uuid,
    pub rule: NewRule,
    /// Why Slack takes nothing in this channel. Nothing is posted before somebody changes the rule.
    pub error: Option<String>,
    pub failed_at: Option<DateTime<Utc>>,
    pub last_posted_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EVT-3
    #[test]
    fn a_pattern_names_a_kind_or_a_family() {
        for (pattern, kind, takes) in [
            ("asset.*", "asset.assigned", true),
            ("asset.*", "assets.assigned", false),
            ("asset.*", "employee.created", false),
            ("invoice.reminder_sent", "invoice.reminder_sent", true),
            ("invoice.reminder_sent", "invoice.reminder_sent_twice", false),
        ] {
            assert_eq!(EventPattern::parse(pattern).unwrap().takes(kind), takes, "{pattern} of {kind}");
        }
        for bad in ["", "*", "asset", "asset.", "asset.*x", "Asset.*", "message.posted", "workspace.*", "asset.a b"] {
            assert!(EventPattern::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    /// SYNC-11
    #[test]
    fn a_channel_is_an_id_or_a_person() {
        assert_eq!(Channel::parse(" C0123ABCDEF ").unwrap().as_str(), "C0123ABCDEF");
        assert_eq!(Channel::parse("C0123ABCDEF").unwrap().person(), None);
        assert_eq!(Channel::parse("Anna.Ek@Example.se").unwrap().person(), Some("anna.ek@example.se"));
        for bad in ["", "#general", "general", "c0123", "U0123ABC", "C0123 ABC", "<!channel>", "x@"] {
            assert!(Channel::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
