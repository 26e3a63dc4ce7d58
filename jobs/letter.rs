//! What a letter needs that must not be sent twice: a row, an effect of its own in the ledger, a record.

use std::time::Duration;

use backroom_queue::{CallError, Ctx, EffectError, RetryAfter, Verdict};
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

/// A letter that is not to be written any more.
pub enum Closed {
    /// It reached the server before; never again.
    Sent { delivery: Uuid, taken: Taken },
    /// Not to be sent until an operator says so: the server refused it for good, or may have accepted it too often without saying
    /// so. These are its words.
    Refused { words: String },
}

/// A message that has no words yet.
pub struct Envelope {
    delivery: Uuid,
    purpose: String,
    to: EmailAddress,
    message_id: String,
    /// When its row was written. The letter is dated by it, so that a second attempt hands over the same bytes.
    since: DateTime<Utc>,
}

/// Opens the message of this purpose, to be written and sent; or says what became of it.
pub async fn open(
    tx: &mut TenantTx,
    ctx: &Ctx<App>,
    organization: &Organization,
    (purpose, to): (String, EmailAddress),
) -> Result<Result<Envelope, Closed>, StoreError> {
    let message_id = ctx.app.mailer.message_id(organization.slug.as_str(), &purpose);
    let now = ctx.app.clock.now();
    let new = NewDelivery { purpose: &purpose, message_id: &message_id, recipient: to.as_str(), now };
    Ok(match deliveries::open(tx, &new).await? {
        Delivery::Pending { id, since } => Ok(Envelope { delivery: id, purpose, to, message_id, since }),
        Delivery::Sent { id, at } => {
            let taken = Taken { recipient: to.as_str().to_owned(), response: String::new(), at };
            Err(Closed::Sent { delivery: id, taken })
        }
        Delivery::Rejected { response } => Err(Closed::Refused { words: response }),
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

/// What a job finds to do about the one letter that it is there for. `T` is what its record needs to know of it, such as the number of
/// the token that it carries.
pub enum Step<T = ()> {
    Send {
        envelope: Envelope,
        mail: Box<OutgoingMail>,
        about: T,
    },
    /// An earlier attempt sent it.
    Sent(Left<T>),
    End(Verdict),
}

/// A letter that the server has, for the job to record.
pub struct Left<T = ()> {
    pub delivery: Uuid,
    pub about: T,
    pub taken: Taken,
}

impl Closed {
    pub fn step<T>(self, about: T) -> Step<T> {
        match self {
            Self::Sent { delivery, taken } => Step::Sent(Left { delivery, about, taken }),
            Self::Refused { words } => Step::End(Verdict::Discard(words)),
        }
    }
}

/// Does what was found to do: the letter has left, or the job ends so.
pub async fn send<T>(
    ctx: &Ctx<App>,
    organization: &Organization,
    step: Step<T>,
) -> anyhow::Result<Result<Left<T>, Verdict>> {
    let (envelope, mail, about) = match step {
        Step::Send { envelope, mail, about } => (envelope, mail, about),
        Step::Sent(left) => return Ok(Ok(left)),
        Step::End(verdict) => return Ok(Err(verdict)),
    };
    Ok(match hand_over(ctx, organization, &envelope, &mail).await? {
        Handed::Taken(taken) => Ok(Left { delivery: envelope.delivery, about, taken }),
        Handed::Refused { words } => Err(Verdict::Discard(words)),
        Handed::Busy { wait } => Err(Verdict::Snooze(wait)),
    })
}

/// What became of a letter that is one of several of a job.
pub enum Told {
    Yes,
    Refused { words: String },
    End(Verdict),
}

impl From<Closed> for Told {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Sent { .. } => Self::Yes,
            Closed::Refused { words } => Self::Refused { words },
        }
    }
}

/// Sends a letter of which nothing but the delivery is recorded.
pub async fn tell(
    ctx: &Ctx<App>,
    organization: &Organization,
    envelope: &Envelope,
    mail: &OutgoingMail,
) -> anyhow::Result<Told> {
    Ok(match hand_over(ctx, organization, envelope, mail).await? {
        Handed::Refused { words } => Told::Refused { words },
        Handed::Busy { wait } => Told::End(Verdict::Snooze(wait)),
        Handed::Taken(taken) => {
            let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
            deliveries::mark_sent(&mut tx, envelope.delivery, (&taken.recipient, &taken.response), taken.at).await?;
            tx.commit().await?;
            Told::Yes
        }
    })
}

/// Hand-overs of one message whose outcome nobody knows, before an operator decides: a server that takes every copy and never
/// answers must not get one for each attempt of the job.
const UNKNOWN_OUTCOMES: u32 = 3;

/// How handing over ended.
enum Handed {
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
async fn hand_over(
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
