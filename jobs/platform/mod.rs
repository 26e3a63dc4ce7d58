//! The control plane's own upkeep: work that belongs to no organization.

mod expire_trials;
mod prune_idempotency_keys;

pub use self::{expire_trials::ExpireTrials, prune_idempotency_keys::PruneIdempotencyKeys};

/// Why such a job gives up when an organization's key enqueued it.
const NOT_FOR_TENANTS: &str = "runs for the platform as a whole, not for an organization";
