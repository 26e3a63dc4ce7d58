//! `deliveries` (MAIL-2): one row per message that shall reach somebody once.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, count, stored};

/// A message to be claimed for sending.
#[derive(Clone, Debug)]
pub struct NewDelivery<'a> {
    /// What the message is for, once and for all: `reminder:<invoice>:<stage>`.
    pub purpose: &'a str,
    pub message_id: &'a str,
    pub recipient: &'a str,
}

/// Who wants to send it, and until when others leave it to them.
#[derive(Clone, Copy, Debug)]
pub struct Claimant {
    pub job_id: Uuid,
    pub now: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

/// What a claim found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the claimant's to send.
    Granted {
        id: Uuid,
        /// When the message was first claimed: its date, whatever attempt this is.
        since: DateTime<Utc>,
    },
    /// It reached the server before; never again.
    AlreadySent { id: Uuid, at: DateTime<Utc> },
    /// Another job is sending it.
    Busy { until: DateTime<Utc> },
    /// It was given up, with these words.
    Rejected { response: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeliveryState {
    Pending,
    Sending,
    Sent,
    Rejected,
}

impl std::str::FromStr for DeliveryState {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "pending" => Self::Pending,
            "sending" => Self::Sending,
            "sent" => Self::Sent,
            "rejected" => Self::Rejected,
            _ => return Err("is not a delivery's state"),
        })
    }
}

/// Claims the message of this purpose, writing its row if it is the first to ask. A job may claim again what it claimed
/// before: that is a retry, or a rescue after a crash.
pub async fn claim(db: &mut PgConnection, new: &NewDelivery<'_>, claimant: Claimant) -> Result<Claim, StoreError> {
    let granted = sqlx::query!(
        "insert into deliveries as d (id, purpose, message_id, recipient, state, claimed_by, claimed_until, attempts,
             created_at)
         values ($1, $2, $3, $4, 'sending', $5, $6, 1, $7)
         on conflict (purpose) do update set state = 'sending', claimed_by = excluded.claimed_by,
             claimed_until = excluded.claimed_until, recipient = excluded.recipient, attempts = d.attempts + 1
         where d.state = 'pending'
            or (d.state = 'sending' and (d.claimed_by = excluded.claimed_by or d.claimed_until <= $7))
         returning id, created_at",
        Uuid::now_v7(),
        new.purpose,
        new.message_id,
        new.recipient,
        claimant.job_id,
        claimant.until,
        claimant.now
    )
    .fetch_optional(&mut *db)
    .await?;
    if let Some(row) = granted {
        return Ok(Claim::Granted { id: row.id, since: row.created_at });
    }
    let row = sqlx::query!(
        "select id, state, claimed_until, response, sent_at from deliveries where purpose = $1",
        new.purpose
    )
    .fetch_one(db)
    .await?;
    Ok(match (stored("deliveries.state", &row.state)?, row.sent_at) {
        (DeliveryState::Sent, Some(at)) => Claim::AlreadySent { id: row.id, at },
        (DeliveryState::Rejected, _) => Claim::Rejected { response: row.response.unwrap_or_default() },
        _ => Claim::Busy { until: row.claimed_until.unwrap_or(claimant.until) },
    })
}

/// The server took it. False if it was recorded before.
pub async fn mark_sent(
    db: &mut PgConnection,
    id: Uuid,
    response: &str,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update deliveries set state = 'sent', sent_at = $3, response = $2, claimed_by = null, claimed_until = null
         where id = $1 and state <> 'sent'",
        id,
        response,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives it up: the server refused it for good, or may have accepted it too often without saying so. Only while `job_id` holds the claim.
pub async fn mark_rejected(db: &mut PgConnection, id: Uuid, job_id: Uuid, response: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "update deliveries set state = 'rejected', response = $3, claimed_by = null, claimed_until = null
         where id = $1 and state = 'sending' and claimed_by = $2",
        id,
        job_id,
        response
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Not this time: gives the claim back with the reason. Only while `job_id` holds it.
pub async fn release(db: &mut PgConnection, id: Uuid, job_id: Uuid, response: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "update deliveries set state = 'pending', response = $3, claimed_by = null, claimed_until = null
         where id = $1 and state = 'sending' and claimed_by = $2",
        id,
        job_id,
        response
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The server may have accepted it and did not say so. Answers how often that happened since the message was made or reopened.
pub async fn count_unknown_outcome(db: &mut PgConnection, id: Uuid) -> Result<u32, StoreError> {
    let times = sqlx::query_scalar!(
        "update deliveries set unknown_outcomes = unknown_outcomes + 1 where id = $1 returning unknown_outcomes",
        id
    )
    .fetch_one(db)
    .await?;
    count("deliveries.unknown_outcomes", times)
}

/// Lets a message that was given up be tried again, with a clean slate.
pub async fn reopen(db: &mut PgConnection, purpose: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "update deliveries set state = 'pending', unknown_outcomes = 0
         where purpose = $1 and state in ('pending', 'rejected')",
        purpose
    )
    .execute(db)
    .await?;
    Ok(())
}
