//! What a letter needs that must not be sent twice: a row, an effect of its own in the ledger, a record.

use std::time::Duration;

use backroom_queue::{CallError, Ctx, EffectError, RetryAfter};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    context::App,
    domain::{EmailAddress, Language, Organization},
    mail::{OutgoingMail, SendError, templates::Rendered},
    store::{
        StoreError,
        deliveries::{self, Delivery, NewDelivery},
    },
    tenant::{self, TenantTx},
};

/// What is known of a letter before it is written.
pub enum Opened {
    /// To be written and sent.
    Unsent(Envelope),
    /// It reached the server before; never again.
    Sent { delivery: Uuid, at: DateTime<Utc> },
    /// Not to be sent until an operator says so: the server refused it for good, or may have accepted it too often without saying
    /// so. These are its words.
    Refused { words: String },
}

/// A message that has no words yet.
pub struct Envelope {
    pub delivery: Uuid,
    purpose: String,
    to: EmailAddress,
    message_id: String,
    /// When its row was written. The letter is dated by it, so that a second attempt hands over the same bytes.
    since: DateTime<Utc>,
}

/// Opens the message of this purpose, or says what became of it.
pub async fn open(
    tx: &mut TenantTx,
    ctx: &Ctx<App>,
    organization: &Organization,
    (purpose, to): (String, EmailAddress),
) -> Result<Opened, StoreError> {
    let message_id = ctx.app.mailer.message_id(organization.slug.as_str(), &purpose);
    let now = ctx.app.clock.now();
    let new = NewDelivery { purpose: &purpose, message_id: &message_id, recipient: to.as_str(), now };
    Ok(match deliveries::open(tx, &new).await? {
        Delivery::Pending { id, since } => Opened::Unsent(Envelope { delivery: id, purpose, to, message_id, since }),
        Delivery::Sent { id, at } => Opened::Sent { delivery: id, at },
        Delivery::Rejected { response } => Opened::Refused { words: response },
    })
}

impl Envelope {
    /// The day that the letter speaks of, in the organization's calendar.
    pub fn written_on(&self, organization: &Organization) -> NaiveDate {
        self.since.with_timezone(&organization.time_zone).date_naive()
    }

    /// Puts the letter in; answers go to the organization's first admin.
    pub fn with(&self, organization: &Organization, language: Language, letter: Rendered) -> OutgoingMail {
        OutgoingMail {
            message_id: self.message_id.clone(),
            from_name: Some(organization.name.clone()),
            reply_to: organization.settings.admin_emails.first().cloned(),
            to: self.to.clone(),
            subject: letter.subject,
            text: letter.text,
            html: letter.html,
            language,
            date: self.since,
        }
    }
}

/// Hand-overs of one message whose outcome nobody knows, before an operator decides: a server that takes every copy and never
/// answers must not get one for each attempt of the job.
const UNKNOWN_OUTCOMES: u32 = 3;

/// How handing over ended.
pub enum Handed {
    /// The server took it, now or in an earlier attempt. In the ledger, and in the organization's tables not yet.
    Taken(Taken),
    /// Not to be sent again until an operator says so: the server refused it for good (MAIL-3), or may have accepted it
    /// [`UNKNOWN_OUTCOMES`] times without saying so. Recorded, with these words.
    Refused { words: String },
    /// Another job is sending it; look again after this time.
    Busy { wait: Duration },
}

/// What the ledger keeps of a message that the server took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// Empty in the ledger of mails to people, where operators and developers read; those to companies have it.
    pub recipient: String,
    /// The server's words.
    pub response: String,
    pub at: DateTime<Utc>,
}

/// Sends a message, unless the ledger knows that it left before. Equal messages have equal `Message-ID`s, by which the other
/// side can tell a copy; so an unknown outcome is tried again, within bounds. A failure that may pass is an error, so that the
/// job is retried; if the server named a time, at that time.
pub async fn hand_over(
    ctx: &Ctx<App>,
    organization: &Organization,
    envelope: &Envelope,
    mail: &OutgoingMail,
) -> anyhow::Result<Handed> {
    let to_company = ctx.job.kind.starts_with("billing.");
    let recipient = if to_company { mail.to.as_str().to_owned() } else { String::new() };
    let taken = |response| Taken { recipient: recipient.clone(), response, at: ctx.app.clock.now() };
    let effect = ctx.effect(&*envelope.purpose).repeat(UNKNOWN_OUTCOMES);
    let sent = effect.call(|_| async {
        match ctx.app.mailer.send(mail).await {
            Ok(accepted) => Ok(Some(taken(accepted.response))),
            Err(error @ SendError::Unknown { .. }) => Err(CallError::Unknown(error.into())),
            Err(SendError::Transient { message, retry_after: Some(after) }) => {
                let error = SendError::Transient { message, retry_after: Some(after) };
                Err(CallError::not_done(RetryAfter { after, source: Some(error.into()) }))
            }
            Err(error) => Err(CallError::not_done(error)),
        }
    });
    let words = match sent.await {
        // Without words where an operator found out that it had arrived.
        Ok(sent) => {
            let mut taken = sent.unwrap_or_else(|| taken(String::new()));
            if taken.recipient.is_empty() {
                mail.to.as_str().clone_into(&mut taken.recipient);
            }
            return Ok(Handed::Taken(taken));
        }
        Err(EffectError::Busy(RetryAfter { after, .. })) => return Ok(Handed::Busy { wait: after }),
        Err(EffectError::GivenUp { unknown, last, .. }) => format!(
            "the mail server may have accepted the message {unknown} times and never said so; find out whether the recipient has \
             it before you clear the failure. Last: {last}"
        ),
        Err(EffectError::NotDone(error)) => match error.downcast_ref::<SendError>() {
            Some(SendError::Permanent { code, message }) => format!("{code} {message}"),
            _ => return Err(error),
        },
        Err(error) => return Err(error.into()),
    };
    let mut tx = tenant::begin(&ctx.app.db, organization).await?;
    deliveries::mark_rejected(&mut tx, envelope.delivery, &words).await?;
    tx.commit().await?;
    Ok(Handed::Refused { words })
}
