//! People let each other into their workspaces.
//!
//! The jobs of the family, and its doors: what API, pages and command line do to workspaces, their members and invitations in one
//! transaction, rows and event and job together.

mod accept;
mod doors;
mod expire_invitations;
#[cfg(test)]
mod properties;
mod send_invitation;
#[cfg(test)]
pub(crate) mod testing;

use uuid::Uuid;

pub use self::{
    accept::{Accepted, Invited, NewPerson, Opened, Shut, accept, open},
    doors::{
        Asked, InviteError, NewInvite, create, delete, ensure_personal, forget, invite, leave, remove, rename, resend,
        revoke,
    },
    expire_invitations::ExpireInvitations,
    send_invitation::SendInvitation,
};

/// What a workspace's events are about.
fn topic(workspace_id: Uuid) -> String {
    format!("workspace:{workspace_id}")
}
