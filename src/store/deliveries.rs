//! `deliveries` (MAIL-2): one row per message that shall reach somebody once.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// A message before it is sent.
#[derive(Clone, Debug)]
pub struct NewDelivery<'a> {
    /// What the message is for, once and for all: `reminder:<invoice>:<stage>`.
    pub purpose: &'a str,
    pub message_id: &'a str,
    pub recipient: &'a str,
    pub now: DateTime<Utc>,
}

/// What is known of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing speaks against sending it.
    Pending {
        id: Uuid,
        /// When its row was written: its date, whatever attempt this is.
        since: DateTime<Utc>,
    },
    /// It reached the server before; never again.
    Sent { id: Uuid, at: DateTime<Utc> },
    /// It was given up, with these words.
    Rejected { response: String },
}

/// The row of the message of this purpose, written if it is the first to ask. Who sends it is the effect ledger's word.
pub async fn open(db: &mut PgConnection, new: &NewDelivery<'_>) -> Result<Delivery, StoreError> {
    let row = sqlx::query!(
        "insert into deliveries as d (id, purpose, message_id, recipient, created_at) values ($1, $2, $3, $4, $5)
         on conflict (purpose) do update
             set recipient = case when d.state = 'pending' then excluded.recipient else d.recipient end
         returning id, state, created_at, response, sent_at",
        Uuid::now_v7(),
        new.purpose,
        new.message_id,
        new.recipient,
        new.now
    )
    .fetch_one(db)
    .await?;
    Ok(match (row.state.as_str(), row.sent_at) {
        (_, Some(at)) => Delivery::Sent { id: row.id, at },
        ("rejected", _) => Delivery::Rejected { response: row.response.unwrap_or_default() },
        _ => Delivery::Pending { id: row.id, since: row.created_at },
    })
}

/// Forgets the messages of these purposes, whatever became of them: nobody will ask for them again.
pub async fn forget(db: &mut PgConnection, purposes: &[String]) -> Result<(), StoreError> {
    sqlx::query!("delete from deliveries where purpose = any($1)", purposes).execute(db).await?;
    Ok(())
}

/// The server took it, for this recipient. False if it was recorded before.
pub async fn mark_sent(
    db: &mut PgConnection,
    id: Uuid,
    (recipient, response): (&str, &str),
    at: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update deliveries set state = 'sent', sent_at = $4, recipient = $2, response = $3 where id = $1 and state <> 'sent'",
        id,
        recipient,
        response,
        at
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives it up: the server refused it for good, or may have accepted it too often without saying so.
pub async fn mark_rejected(db: &mut PgConnection, id: Uuid, response: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "update deliveries set state = 'rejected', response = $2 where id = $1 and state = 'pending'",
        id,
        response
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lets a message that was given up be tried again.
pub async fn reopen(db: &mut PgConnection, purpose: &str) -> Result<(), StoreError> {
    sqlx::query!("update deliveries set state = 'pending' where purpose = $1 and state = 'rejected'", purpose)
        .execute(db)
        .await?;
    Ok(())
}
