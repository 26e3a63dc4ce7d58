//! What a letter needs that must not be sent twice: a claim, one hand-over, a record.

use std::time::Duration;

use anyhow::anyhow;
use backroom_queue::{Ctx, RetryAfter};
use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use crate::{
    context::App,
    domain::{EmailAddress, Language, Organization},
    mail::{OutgoingMail, SendError, templates::Rendered},
    store::{
        StoreError,
        deliveries::{self, Claim, Claimant, NewDelivery},
    },
    tenant::{self, TenantTx},
};

/// What a claim found.
pub enum Claimed {
    /// This job's to send.
    Mine(Envelope),
    /// It reached the server before; never again.
    Sent { delivery: Uuid, at: DateTime<Utc> },
    /// Not to be sent until an operator says so: the server refused it for good, or may have accepted it too often without saying
    /// so. These are its words.
    Refused { words: String },
    /// Another job is sending it; look again after this time.
    Busy { wait: Duration },
}

/// A claimed message that has no words yet.
pub struct Envelope {
    pub delivery: Uuid,
    pub to: EmailAddress,
    message_id: String,
    /// When it was first claimed. The letter is dated by it, so that a second attempt hands over the same bytes.
    since: DateTime<Utc>,
}

/// Claims the message of this purpose for this job. Other jobs leave it alone for longer than handing it over may take: five
/// timeouts (connecting, addresses, and three for the message), and some for the two transactions.
pub async fn claim(
    tx: &mut TenantTx,
    ctx: &Ctx<App>,
    organization: &Organization,
    (purpose, to): (&str, EmailAddress),
) -> Result<Claimed, StoreError> {
    let now = ctx.app.clock.now();
    let patience = ctx.app.config.mail.timeout_s.saturating_mul(5).saturating_add(10);
    let until = now + chrono::Duration::seconds(patience.cast_signed());
    let message_id = ctx.app.mailer.message_id(organization.slug.as_str(), purpose);
    let new = NewDelivery { purpose, message_id: &message_id, recipient: to.as_str() };
    Ok(match deliveries::claim(tx, &new, Claimant { job_id: ctx.job.id, now, until }).await? {
        Claim::Granted { id, since } => Claimed::Mine(Envelope { delivery: id, to, message_id, since }),
        Claim::AlreadySent { id, at } => Claimed::Sent { delivery: id, at },
        Claim::Rejected { response } => Claimed::Refused { words: response },
        Claim::Busy { until } => {
            Claimed::Busy { wait: (until - now).to_std().unwrap_or_default().max(Duration::from_secs(1)) }
        }
    })
}

impl Envelope {
    /// The day that the letter speaks of, in the organization's calendar.
    pub fn written_on(&self, organization: &Organization) -> NaiveDate {
        self.since.with_timezone(&organization.time_zone).date_naive()
    }

    /// Puts the letter in; answers go to the organization's first admin.
    pub fn with(self, organization: &Organization, language: Language, letter: Rendered) -> OutgoingMail {
        OutgoingMail {
            message_id: self.message_id,
            from_name: Some(organization.name.clone()),
            reply_to: organization.settings.admin_emails.first().cloned(),
            to: self.to,
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
    /// The server took it, with these words. Nothing is recorded yet.
    Taken { response: String },
    /// Not to be sent again until an operator says so: the server refused it for good (MAIL-3), or may have accepted it
    /// [`UNKNOWN_OUTCOMES`] times without saying so. Recorded, with these words.
    Refused { words: String },
}

/// Sends a claimed message. A failure that may pass gives the claim back and is an error, so that the job is retried;
/// if the server named a time, at that time.
pub async fn hand_over(
    ctx: &Ctx<App>,
    organization: &Organization,
    delivery: Uuid,
    mail: &OutgoingMail,
) -> anyhow::Result<Handed> {
    let error = match ctx.app.mailer.send(mail).await {
        Ok(accepted) => return Ok(Handed::Taken { response: accepted.response }),
        Err(error) => error,
    };
    let mut tx = tenant::begin(&ctx.app.db, organization).await?;
    let handed = match error {
        SendError::Permanent { code, message } => {
            let words = format!("{code} {message}");
            deliveries::mark_rejected(&mut tx, delivery, ctx.job.id, &words).await?;
            Ok(Handed::Refused { words })
        }
        SendError::Unknown { ref message } => {
            let times = deliveries::count_unknown_outcome(&mut tx, delivery).await?;
            if times < UNKNOWN_OUTCOMES {
                deliveries::release(&mut tx, delivery, ctx.job.id, message).await?;
                Err(error.into())
            } else {
                let words = format!(
                    "the mail server may have accepted the message {times} times and never said so; find out whether the \
                     recipient has it before you clear the failure. Last: {message}"
                );
                deliveries::mark_rejected(&mut tx, delivery, ctx.job.id, &words).await?;
                Ok(Handed::Refused { words })
            }
        }
        SendError::Transient { ref message, retry_after } => {
            deliveries::release(&mut tx, delivery, ctx.job.id, message).await?;
            Err(match retry_after {
                Some(after) => RetryAfter { after, source: Some(error.into()) }.into(),
                None => error.into(),
            })
        }
    };
    tx.commit().await?;
    handed
}

/// Records what happened outside, again and again for a minute, through a database restart or a cut connection: giving up here
/// would send the message a second time. Also when the job was asked to stop or lost its lease: the message is out whoever
/// holds the job now, and the record changes nothing the second time.
pub async fn insist<F, T>(record: impl Fn() -> F + Send) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>> + Send,
{
    let mut pause = Duration::from_millis(50);
    let mut waited = Duration::ZERO;
    loop {
        let error = match record().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if waited > Duration::from_secs(60) {
            return Err(error.context(anyhow!("the message was sent, but could not be recorded as sent")));
        }
        tracing::warn!(error = format!("{error:#}"), "could not record a sent message; trying again");
        tokio::time::sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// BILL-6: the job's token is not asked; a record that fails is tried again until it succeeds.
    #[tokio::test]
    async fn a_sent_message_is_recorded_however_often_it_takes() {
        let tries = AtomicU32::new(0);
        let record = || async {
            match tries.fetch_add(1, Ordering::Relaxed) {
                0..3 => Err(anyhow!("the database is away")),
                _ => Ok(()),
            }
        };
        insist(record).await.unwrap();
        assert_eq!(tries.into_inner(), 4);
    }
}
