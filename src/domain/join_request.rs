//! Requests to become a member: double opt-in, then somebody decides (JOIN-1 to JOIN-6).

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::field_error::{many_lines, no_link, one_line};
use super::text::text_enum;
use super::{EmailAddress, FieldErrors, Language, ParseError};

/// How long the link in the confirmation mail is good.
pub const VALID_FOR: Duration = Duration::hours(24);
/// How long a new member may choose a password by the link in the mail.
pub const PASSWORD_FOR: Duration = Duration::days(7);
/// How often a decision is told, however often staff asks for it.
pub const DECISIONS_TOLD: i32 = 10;
/// Confirmation mails that one address gets within [`WINDOW`], however often somebody asks.
pub const TOKENS_PER_WINDOW: i32 = 3;
pub const WINDOW: Duration = Duration::hours(1);
/// The longest first or last name, in characters: both and a blank are a person's name.
pub const MAX_NAME: usize = 99;
/// The longest text in a form's field, in characters.
const MAX_TEXT: usize = 2_000;
const MAX_FIELDS: usize = 50;
/// No form has changed so often.
const MAX_SCHEMA_VERSION: i32 = 1_000_000;

text_enum! {
    /// Where a request is. `approved` and `rejected` are final.
    pub enum JoinStatus("status of a request") {
        /// The address is not proved yet. Deleted after a while.
        PendingConfirmation = "pending_confirmation",
        /// The address is proved; somebody is to decide.
        Submitted = "submitted",
        /// The person is a member.
        Approved = "approved",
        /// The person is not.
        Rejected = "rejected",
    }
}

/// What can happen to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinStep {
    /// The same address asks again: a new token, and the old one opens nothing.
    Renew,
    Confirm,
    Approve,
    Reject,
}

impl JoinStatus {
    /// Where the step leads; `None` if it cannot be taken from here. The store's guarded statements say the same in SQL.
    pub fn after(self, step: JoinStep) -> Option<Self> {
        match (self, step) {
            (Self::PendingConfirmation, JoinStep::Renew) => Some(Self::PendingConfirmation),
            (Self::PendingConfirmation, JoinStep::Confirm) => Some(Self::Submitted),
            (Self::Submitted, JoinStep::Approve) => Some(Self::Approved),
            (Self::Submitted, JoinStep::Reject) => Some(Self::Rejected),
            _ => None,
        }
    }

    /// Whether a request of the same address would be this one again.
    pub fn is_open(self) -> bool {
        matches!(self, Self::PendingConfirmation | Self::Submitted)
    }
}

/// What an organization lets strangers ask with; a part of its settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JoinForm {
    /// Whether anybody may ask to become a member.
    pub open: bool,
    /// The names of the fields that are kept of what is sent along; others are dropped. At most 50 of `[a-z][a-z0-9_]{0,39}`.
    pub fields: Vec<String>,
}

impl Default for JoinForm {
    fn default() -> Self {
        Self { open: true, fields: Vec::new() }
    }
}

impl JoinForm {
    /// Checks what the types cannot.
    pub fn check(&self) -> Result<(), ParseError> {
        if self.fields.len() > MAX_FIELDS {
            return Err(ParseError::new("too_long", format!("must have at most {MAX_FIELDS} fields")));
        }
        for (n, field) in self.fields.iter().enumerate() {
            if !is_field_name(field) {
                return Err(ParseError::invalid("must be names such as phone or company_size"));
            }
            if self.fields[..n].contains(field) {
                return Err(ParseError::new("duplicate", "names a field twice"));
            }
        }
        Ok(())
    }

    /// What is kept of what was sent: the allowed fields, each a text, a number, true or false.
    pub fn filter(&self, mut sent: Map<String, Value>) -> Result<Map<String, Value>, FieldErrors> {
        let (mut kept, mut errors) = (Map::new(), FieldErrors::default());
        for field in &self.fields {
            let Some(value) = sent.remove(field) else { continue };
            let name = format!("form.{field}");
            match &value {
                Value::Null => continue,
                Value::String(text) => {
                    errors.check(&name, many_lines(text, MAX_TEXT));
                }
                Value::Number(_) | Value::Bool(_) => {}
                Value::Array(_) | Value::Object(_) => {
                    errors.require(false, name, "invalid", "must be a text, a number, true or false");
                }
            }
            kept.insert(field.clone(), value);
        }
        errors.into_result()?;
        Ok(kept)
    }
}

fn is_field_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 40
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// A request to be stored.
#[derive(Clone, Debug)]
pub struct NewJoinRequest {
    pub email: EmailAddress,
    pub first_name: String,
    pub last_name: String,
    /// Filtered by [`JoinForm::filter`].
    pub form: Map<String, Value>,
    pub schema_version: i32,
    pub language: Language,
}

impl NewJoinRequest {
    /// Checks what the types cannot.
    pub fn validate(&self) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        for (field, name) in [("first_name", &self.first_name), ("last_name", &self.last_name)] {
            errors.check(field, one_line(name, MAX_NAME).and_then(|()| no_link(name)));
        }
        let fits = (1..=MAX_SCHEMA_VERSION).contains(&self.schema_version);
        errors.require(fits, "schema_version", "out_of_range", format!("must be from 1 to {MAX_SCHEMA_VERSION}"));
        errors.into_result()
    }
}

/// A request as stored, without its token.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinRequest {
    pub id: Uuid,
    /// As it was written.
    pub email: EmailAddress,
    pub first_name: String,
    pub last_name: String,
    pub form: Value,
    pub schema_version: i32,
    /// Of mails and page.
    pub language: Language,
    pub status: JoinStatus,
    /// Which token is the present one, from 1.
    pub token_number: u32,
    /// Until when it can be confirmed.
    pub token_expires_at: Option<DateTime<Utc>>,
    /// When the mail server took the mail with the present token.
    pub confirmation_sent_at: Option<DateTime<Utc>>,
    /// Why there will be no mail with the present token.
    pub send_error: Option<String>,
    pub submitted_at: Option<DateTime<Utc>>,
    pub decided_at: Option<DateTime<Utc>>,
    pub decided_by: Option<String>,
    pub user_id: Option<Uuid>,
    /// When the mail server took the present mail that tells of the decision.
    pub decision_sent_at: Option<DateTime<Utc>>,
    /// Why there will be no such mail.
    pub decision_error: Option<String>,
    /// Which of the mails that tell of the decision is the present one, from 1.
    pub decision_number: u32,
    /// Until when a new member may choose a password by the link in that mail; `None`: there is no such link, or it was used.
    pub password_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl JoinRequest {
    /// The person's name as others read it.
    pub fn name(&self) -> String {
        format!("{} {}", self.first_name.trim(), self.last_name.trim())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const STEPS: [JoinStep; 4] = [JoinStep::Renew, JoinStep::Confirm, JoinStep::Approve, JoinStep::Reject];

    proptest! {
        /// JOIN-4, JOIN-5: whatever happens in whatever order, nobody is decided about who has not confirmed, nothing comes after
        /// a decision, and each step is taken once.
        #[test]
        fn no_sequence_of_steps_skips_the_confirmation_or_undoes_a_decision(
            steps in proptest::collection::vec(0..STEPS.len(), 0..30),
        ) {
            let (mut status, mut confirmed, mut decided) = (JoinStatus::PendingConfirmation, 0, 0);
            for step in steps.into_iter().map(|n| STEPS[n]) {
                let Some(next) = status.after(step) else { continue };
                confirmed += u32::from(step == JoinStep::Confirm);
                decided += u32::from(matches!(step, JoinStep::Approve | JoinStep::Reject));
                status = next;
                prop_assert!(confirmed <= 1 && decided <= confirmed);
                prop_assert_eq!(status == JoinStatus::PendingConfirmation, confirmed == 0);
                prop_assert_eq!(status.is_open(), decided == 0);
            }
        }
    }

    /// JOIN-4, JOIN-5
    #[test]
    fn what_was_decided_stays_so() {
        for step in STEPS {
            assert_eq!(JoinStatus::Approved.after(step), None, "{step:?}");
            assert_eq!(JoinStatus::Rejected.after(step), None, "{step:?}");
        }
    }

    fn form(fields: &[&str]) -> JoinForm {
        JoinForm { open: true, fields: fields.iter().map(|field| (*field).to_owned()).collect() }
    }

    /// JOIN-1
    #[test]
    fn a_form_keeps_what_is_allowed_and_drops_the_rest() {
        let Value::Object(sent) = json!({"phone": "070", "age": 7, "news": true, "is_admin": true, "why": null}) else {
            unreachable!()
        };
        let kept = form(&["phone", "news", "why", "absent"]).filter(sent.clone()).unwrap();
        assert_eq!(Value::Object(kept), json!({"phone": "070", "news": true}));
        assert!(JoinForm::default().filter(sent).unwrap().is_empty());
    }

    /// JOIN-1
    #[test]
    fn a_field_that_is_no_plain_value_is_named() {
        let Value::Object(sent) = json!({"a": {"b": 1}, "c": "x".repeat(2001), "d": "a\u{7}b", "e": [[]]}) else {
            unreachable!()
        };
        let errors = form(&["a", "c", "d"]).filter(sent).unwrap_err();
        let told: Vec<_> = errors.0.iter().map(|error| (error.field.as_str(), error.code)).collect();
        assert_eq!(told, [("form.a", "invalid"), ("form.c", "too_long"), ("form.d", "invalid")]);
    }

    /// JOIN-1
    #[test]
    fn the_list_of_fields_is_checked() {
        assert_eq!(form(&["phone", "company_size", "a1"]).check(), Ok(()));
        for bad in [&["Phone"][..], &["a", "a"], &["1a"], &[""], &["a b"], &["å"], &["__proto__"]] {
            assert!(form(bad).check().is_err(), "{bad:?}");
        }
        assert!(form(&["a".repeat(41).as_str()]).check().is_err());
        assert_eq!(
            JoinForm { open: true, fields: (0..51).map(|n| format!("f{n}")).collect() }.check().unwrap_err().code,
            "too_long"
        );
    }

    /// JOIN-1
    #[test]
    fn names_go_into_one_line_of_a_mail() {
        let new = |first: &str, version| NewJoinRequest {
            email: EmailAddress::parse("anna@example.se").unwrap(),
            first_name: first.to_owned(),
            last_name: "Ek".to_owned(),
            form: Map::new(),
            schema_version: version,
            language: Language::Sv,
        };
        assert_eq!(new(&"å".repeat(99), 1).validate(), Ok(()));
        for (first, version, field) in [
            ("", 1, "first_name"),
            ("Anna\r\nBcc: x@y.example", 1, "first_name"),
            (&"å".repeat(100), 1, "first_name"),
            ("Anna", 0, "schema_version"),
        ] {
            assert_eq!(new(first, version).validate().unwrap_err().0[0].field, field, "{first:?}");
        }
    }
}
