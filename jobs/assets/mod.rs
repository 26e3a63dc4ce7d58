//! What the organization owns, where it is and who has it.

pub mod doors;
mod take;

use uuid::Uuid;

pub use self::take::{Gone, assets_gone, take_assets};

/// What events of an asset are about.
pub fn topic(asset: Uuid) -> String {
    format!("asset:{asset}")
}
