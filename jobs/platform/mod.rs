//! The control plane's own upkeep: work that belongs to no organization.

mod expire_trials;
mod prune_idempotency_keys;
mod prune_sign_ins;
mod start_password_reset;
mod tell_dead_letters;

pub use self::{
    expire_trials::ExpireTrials, prune_idempotency_keys::PruneIdempotencyKeys, prune_sign_ins::PruneSignIns,
    start_password_reset::StartPasswordReset, tell_dead_letters::TellDeadLetters,
};

/// Whether the kind is one of these, by its name: no organization's key may enqueue it.
pub fn owns(kind: &str) -> bool {
    kind.starts_with("platform.")
}

/// Why such a job is refused to an organization's key, and gives up when it was enqueued for an organization all the same.
pub const NOT_FOR_TENANTS: &str = "runs for the platform as a whole, not for an organization";
