//! People ask to become members; somebody decides. And members who have forgotten their password get another.
//!
//! The jobs of the family, and its doors: what API and pages do to requests in one transaction, rows and event and job together.

mod doors;
mod expire_requests;
mod reset;
mod send_confirmation;
mod send_decision;
mod send_password_reset;
#[cfg(test)]
pub(crate) mod testing;

use uuid::Uuid;

pub use self::{
    doors::{
        ApproveError, Asked, JoinError, Opened, Shut, approve, choose_password, confirm, open, reject, resend, submit,
    },
    expire_requests::ExpireRequests,
    reset::{Reset, ResetShut, open_reset, reset_password},
    send_confirmation::SendConfirmation,
    send_decision::SendDecision,
    send_password_reset::SendPasswordReset,
};
use crate::domain::LinkToken;

/// What a request's events are about.
fn topic(request_id: Uuid) -> String {
    format!("join_request:{request_id}")
}

/// The page behind the links of this family's mails.
fn link(public_url: &str, token: &LinkToken) -> String {
    format!("{}/join-requests/{}", public_url.trim_end_matches('/'), token.expose())
}
