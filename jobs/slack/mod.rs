//! The right people hear of it in Slack.
//!
//! Rules say which events are told where; the database enqueues a job for each event and rule, in the event's own transaction (trigger
//! `events_notify`). The doors of rules are here, too.

mod doors;
mod post;
mod subject;
#[cfg(test)]
mod testing;
mod words;

pub use self::{
    doors::{change_rule, create_rule, remove_rule},
    post::PostMessage,
};
