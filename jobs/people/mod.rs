//! Who works here, and what they hold.

pub mod doors;
mod start_offboarding;
mod start_onboarding;
mod take;

use uuid::Uuid;

pub use self::{start_offboarding::StartOffboarding, start_onboarding::StartOnboarding};

/// What events of an employee are about.
pub fn topic(employee: Uuid) -> String {
    format!("employee:{employee}")
}
