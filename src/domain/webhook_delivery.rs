//! What a third party sent by itself (SYNC-12).

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::text::text_enum;

/// The longest id of a delivery, in characters.
pub const MAX_EXTERNAL_ID: usize = 200;

text_enum! {
    /// What a delivery says.
    pub enum DeliveryEvent("event of a delivery") {
        /// There is something to be read.
        Changed = "changed",
        /// Our access has ended.
        Revoked = "revoked",
        /// Nothing that concerns us.
        Other = "other",
    }
}

text_enum! {
    /// How a delivery stands.
    pub enum DeliveryState("state of a delivery") {
        Pending = "pending",
        Handled = "handled",
    }
}

/// A delivery about to be stored. The sender has been proven.
#[derive(Clone, Debug, PartialEq)]
pub struct NewWebhookDelivery {
    /// The same when it comes again.
    pub external_id: String,
    pub happened: DeliveryEvent,
    /// What changed, without records.
    pub payload: serde_json::Value,
}

/// A delivery as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookDelivery {
    pub id: Uuid,
    pub integration_id: Uuid,
    pub external_id: String,
    pub happened: DeliveryEvent,
    pub payload: serde_json::Value,
    pub state: DeliveryState,
    /// What came of it, for a person.
    pub outcome: Option<String>,
    pub received_at: DateTime<Utc>,
    pub handled_at: Option<DateTime<Utc>>,
}
