//! What third parties know stays in step with what is known here.
//!
//! The jobs of the family, and its doors: what API, command line, sweep and webhooks do to integrations in one transaction, rows and
//! event and job together. The reading itself is [`crate::sync`].

mod check_change;
mod credentials;
mod doors;
#[cfg(test)]
mod finance_tests;
mod gone_assets;
mod handle_webhook;
#[cfg(test)]
mod hris_tests;
mod prune_deliveries;
mod receive;
#[cfg(test)]
mod stage;
mod sweep_due;
mod sync;
mod take;
mod tell_attention;
mod test_connection;
#[cfg(test)]
pub(crate) mod testing;

use uuid::Uuid;

pub use self::{
    check_change::check_change,
    credentials::{credential_names, has_webhooks, merge_credentials},
    doors::{
        ProviderHelp, change_integration, check, connect, create_integration, needs_attention, providers,
        remove_integration, request_sync, set_enabled,
    },
    handle_webhook::HandleWebhook,
    prune_deliveries::PruneDeliveries,
    receive::{Heard, Sent, receive},
    sweep_due::{SweepDue, Swept},
    sync::SyncIntegration,
    tell_attention::TellAttention,
    test_connection::{TestConnection, TestReport, test},
};

/// The queue of this family: vendors are slow, and many can be waited for at once.
const QUEUE: &str = "integrations";

fn topic(integration_id: Uuid) -> String {
    format!("integration:{integration_id}")
}
