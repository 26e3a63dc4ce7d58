//! Kinds without a purpose, for tests and measurements. There are none unless `jobs.debug_kinds` is on.

mod append;
mod block;
mod fail;
mod hold;
mod noop;
mod panic;
mod sealed;
mod sleep;

use backroom_queue::Registry;

pub use self::{
    append::Append,
    block::Block,
    fail::Fail,
    hold::Hold,
    noop::Noop,
    panic::Panic,
    sealed::{Ends, Sealed},
    sleep::Sleep,
};
use crate::context::App;

/// Adds the debug kinds.
pub fn register(registry: Registry<App>) -> Registry<App> {
    let kinds = registry.with::<Noop>().with::<Sleep>().with::<Fail>().with::<Panic>();
    kinds.with::<Append>().with::<Block>().with::<Hold>().with::<Sealed>()
}
