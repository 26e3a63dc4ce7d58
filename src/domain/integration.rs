//! What an organization connects (SYNC-1): whom to, how it stands, and how a run of it went.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    ParseError,
    field_error::{FieldErrors, one_line},
    text::text_enum,
};

text_enum! {
    /// Who is connected.
    pub enum Provider("provider") {
        BambooHr = "bamboohr",
        Workday = "workday",
        NetSuite = "netsuite",
        QuickBooks = "quickbooks",
        Slack = "slack",
    }
}

text_enum! {
    /// What a provider is for.
    pub enum IntegrationKind("kind of integration") {
        Hris = "hris",
        Finance = "finance",
        Communication = "communication",
    }
}

text_enum! {
    /// How an integration stands.
    pub enum IntegrationStatus("status of an integration") {
        /// Never tried.
        New = "new",
        /// The last test or run went well.
        Healthy = "healthy",
        /// The last run failed, or nothing could be read for hours; that may end by itself.
        Failing = "failing",
        /// Nothing works before a person has done something; its jobs are parked.
        NeedsAttention = "needs_attention",
    }
}

text_enum! {
    /// How much a run reads.
    pub enum SyncMode("mode of a run") {
        Full = "full",
        Incremental = "incremental",
    }
}

text_enum! {
    /// What a run came from.
    pub enum SyncTrigger("trigger of a run") {
        Schedule = "schedule",
        Manual = "manual",
        Webhook = "webhook",
    }
}

text_enum! {
    /// How a run stands.
    pub enum SyncState("state of a run") {
        Running = "running",
        /// To its end; bad records are named, and stop nothing.
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

impl Provider {
    pub const fn kind(self) -> IntegrationKind {
        match self {
            Self::BambooHr | Self::Workday => IntegrationKind::Hris,
            Self::NetSuite | Self::QuickBooks => IntegrationKind::Finance,
            Self::Slack => IntegrationKind::Communication,
        }
    }

    /// As the company writes itself.
    pub const fn title(self) -> &'static str {
        match self {
            Self::BambooHr => "BambooHR",
            Self::Workday => "Workday",
            Self::NetSuite => "NetSuite",
            Self::QuickBooks => "QuickBooks",
            Self::Slack => "Slack",
        }
    }
}

impl SyncMode {
    /// What is read unless somebody says: everything, until there is a place to go on from.
    pub fn or_default(asked: Option<Self>, has_bookmarks: bool) -> Self {
        asked.unwrap_or(if has_bookmarks { Self::Incremental } else { Self::Full })
    }
}

/// What a run has done so far, in records. `read` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncCounts {
    pub pages: u64,
    pub read: u64,
    pub created: u64,
    pub updated: u64,
    pub unchanged: u64,
    pub failed: u64,
}

impl SyncCounts {
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            pages: self.pages + more.pages,
            read: self.read + more.read,
            created: self.created + more.created,
            updated: self.updated + more.updated,
            unchanged: self.unchanged + more.unchanged,
            failed: self.failed + more.failed,
        }
    }
}

/// A record that was not stored, and why; values are not repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRecord {
    /// The provider's id, as far as it could be read.
    pub external_id: Option<String>,
    pub reason: String,
}

/// An integration to be stored; its credentials come beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewIntegration {
    pub provider: Provider,
    /// Unique among the organization's integrations.
    pub name: String,
    pub config: serde_json::Value,
    pub interval_minutes: u32,
    pub enabled: bool,
}

/// A change of an integration; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IntegrationChange {
    pub name: Option<String>,
    pub config: Option<serde_json::Value>,
    pub interval_minutes: Option<u32>,
}

/// How often an integration is synchronized unless somebody says, in minutes.
pub const DEFAULT_INTERVAL: u32 = 60;
const SHORTEST_INTERVAL: u32 = 5;
const LONGEST_INTERVAL: u32 = 7 * 24 * 60;

fn interval(minutes: u32) -> Result<(), ParseError> {
    if (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&minutes) {
        return Ok(());
    }
    let message = format!("must be {SHORTEST_INTERVAL} to {LONGEST_INTERVAL} minutes");
    Err(ParseError::new("out_of_range", message))
}

impl NewIntegration {
    /// What can be said without knowing the vendor.
    pub fn validate(&self) -> Result<(), FieldErrors> {
        let change = IntegrationChange {
            name: Some(self.name.clone()),
            config: Some(self.config.clone()),
            interval_minutes: Some(self.interval_minutes),
        };
        change.validate()
    }
}

impl IntegrationChange {
    /// What can be said without knowing the vendor.
    pub fn validate(&self) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        if let Some(name) = &self.name {
            errors.check("name", one_line(name, 100));
        }
        if let Some(config) = &self.config {
            errors.require(config.is_object(), "config", "invalid", "must be an object");
        }
        if let Some(minutes) = self.interval_minutes {
            errors.check("interval_minutes", interval(minutes));
        }
        errors.into_result()
    }
}

/// An integration without its credentials.
#[derive(Clone, Debug, PartialEq)]
pub struct Integration {
    pub id: Uuid,
    pub provider: Provider,
    pub name: String,
    pub config: serde_json::Value,
    pub interval_minutes: u32,
    pub enabled: bool,
    pub status: IntegrationStatus,
    /// When it began to need a person.
    pub needs_since: Option<DateTime<Utc>>,
    /// Since when its vendor lets nothing be read.
    pub stalled_since: Option<DateTime<Utc>>,
    pub last_success_at: Option<DateTime<Utc>>,
    pub last_error_at: Option<DateTime<Utc>>,
    pub last_error: Option<String>,
    /// When it is synchronized by itself the next time; `None` where there is nothing to read.
    pub next_run_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A run of an integration (SYNC-4).
#[derive(Clone, Debug, PartialEq)]
pub struct SyncRun {
    pub id: Uuid,
    pub integration_id: Uuid,
    pub mode: SyncMode,
    pub trigger: SyncTrigger,
    pub state: SyncState,
    /// The job that worked on it last.
    pub job_id: Uuid,
    /// The stream that is being read, or was when it ended.
    pub stream: Option<String>,
    pub counts: SyncCounts,
    /// Of all records, as far as the vendor says.
    pub total: Option<u64>,
    /// The last one.
    pub error: Option<String>,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// A record that a run did not store.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncFailure {
    pub id: Uuid,
    /// Counted from 1, in the order in which they were met.
    pub position: u64,
    pub record: BadRecord,
}

/// How many failures of a run are kept; the count is exact all the same.
pub const FAILURES_KEPT: u64 = 1000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// SYNC-1
    #[test]
    fn everything_that_is_wrong_with_an_integration_is_told_at_once() {
        let mut new = NewIntegration {
            provider: Provider::BambooHr,
            name: "People".to_owned(),
            config: json!({}),
            interval_minutes: DEFAULT_INTERVAL,
            enabled: true,
        };
        assert_eq!(new.validate(), Ok(()));
        (new.name, new.config, new.interval_minutes) = (" ".to_owned(), json!([]), 4);
        let told = new.validate().unwrap_err();
        let fields: Vec<_> = told.0.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["name", "config", "interval_minutes"]);
    }

    /// SYNC-4
    #[test]
    fn a_run_without_a_mode_reads_everything_until_there_is_a_place_to_go_on_from() {
        assert_eq!(SyncMode::or_default(None, false), SyncMode::Full);
        assert_eq!(SyncMode::or_default(None, true), SyncMode::Incremental);
        assert_eq!(SyncMode::or_default(Some(SyncMode::Full), true), SyncMode::Full);
    }
}
