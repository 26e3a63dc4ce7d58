//! What the product does in the background: one file per job, a folder per family, the file's name is the kind.

use backroom_queue::{Registry, registry};

use crate::{config::Config, context::App};

pub mod billing;
pub mod debug;
#[cfg(test)]
mod testing;

/// Every kind of job, the single list that workers, API, command line and schedules read.
pub fn registry(config: &Config) -> Registry<App> {
    let kinds = registry![
        billing::SweepOverdue,    // daily at 09:00, the organization's time
        billing::RemindInvoice,   // by the sweep
        billing::EscalateInvoice, // by the sweep, after the last reminder
    ];
    if config.jobs.debug_kinds { debug::register(kinds) } else { kinds }
}
