//! What has to be done when somebody comes or goes, or a thing is bought, mended or moved.
//!
//! The job of the family, and its doors: what API, command line and other jobs do to workflows in one transaction, rows and event
//! together. The jobs that start one for a hire or a termination are with the people.

mod doors;
mod notify_overdue;
mod templates;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use uuid::Uuid;

pub use self::{
    doors::{
        Advance, Asked, Complete, StartWorkflow, TakeBack, WorkflowError, advance, approve, cancel, complete, fail,
        reject, start, start_once,
    },
    notify_overdue::NotifyOverdue,
    templates::{change_template, create_template, remove_template},
};

/// What a workflow's events are about.
fn topic(workflow_id: Uuid) -> String {
    format!("workflow:{workflow_id}")
}
