//! Kinds without a purpose, for tests and measurements. There are none unless `jobs.debug_kinds` is on.

mod append;
mod fail;
mod noop;
mod panic;
mod sealed;
mod sleep;

use backroom_queue::Registry;

pub use self::{
    append::Append,
    fail::Fail,
    noop::Noop,
    panic::Panic,
    sealed::{Ends, Sealed},
    sleep::Sleep,
};
use crate::context::App;

/// Adds the debug kinds.
pub fn register(registry: Registry<App>) -> Registry<App> {
    registry.with::<Noop>().with::<Sleep>().with::<Fail>().with::<Panic>().with::<Append>().with::<Sealed>()
}
