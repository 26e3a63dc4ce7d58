//! Invitations into a workspace, and where one can go from where (WORK-3, WORK-5, WORK-6).

use chrono::{DateTime, Duration, Utc};
use uuid::Uuid;

use super::text::text_enum;
use super::{EmailAddress, Language};

/// How long a token is good.
pub const VALID_FOR: Duration = Duration::days(7);

text_enum! {
    /// Where an invitation is. `accepted` and `revoked` are final.
    pub enum InvitationState("state of an invitation") {
        /// Its token can be used until it expires.
        Open = "open",
        /// The person is a member.
        Accepted = "accepted",
        /// Taken back by the workspace's owner, or with the workspace.
        Revoked = "revoked",
        /// Seven days went by. Sending it again opens it anew.
        Expired = "expired",
    }
}

/// What can happen to an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvitationStep {
    Accept,
    Revoke,
    /// By the daily sweep.
    Expire,
    /// With a new token and seven days more.
    Resend,
}

impl InvitationState {
    /// Where the step leads; `None` if it cannot be taken from here. The store's guarded statements say the same in SQL.
    pub fn after(self, step: InvitationStep) -> Option<Self> {
        match (self, step) {
            (Self::Open, InvitationStep::Accept) => Some(Self::Accepted),
            (Self::Open, InvitationStep::Revoke) => Some(Self::Revoked),
            (Self::Open, InvitationStep::Expire) => Some(Self::Expired),
            (Self::Open | Self::Expired, InvitationStep::Resend) => Some(Self::Open),
            _ => None,
        }
    }
}

/// An invitation, without its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    pub id: Uuid,
    pub workspace_id: Uuid,
    /// As it was written.
    pub email: EmailAddress,
    /// Of the mail and the page.
    pub language: Language,
    pub invited_by: Uuid,
    /// As it is stored: an open one may be past its time and not swept yet; ask [`Invitation::state_at`].
    pub state: InvitationState,
    /// Which token is the present one, from 1.
    pub token_number: u32,
    pub token_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    /// When the mail server took the mail with the present token.
    pub sent_at: Option<DateTime<Utc>>,
    /// Why no mail with the present token will be sent.
    pub send_error: Option<String>,
    pub accepted_by: Option<Uuid>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl Invitation {
    /// Where it is, whether or not the sweep has been by.
    pub fn state_at(&self, now: DateTime<Utc>) -> InvitationState {
        match self.state {
            InvitationState::Open if self.expires_at <= now => InvitationState::Expired,
            state => state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [InvitationStep; 4] =
        [InvitationStep::Accept, InvitationStep::Revoke, InvitationStep::Expire, InvitationStep::Resend];

    /// WORK-3, WORK-5
    #[test]
    fn what_was_accepted_or_revoked_stays_so() {
        for step in STEPS {
            assert_eq!(InvitationState::Accepted.after(step), None, "{step:?}");
            assert_eq!(InvitationState::Revoked.after(step), None, "{step:?}");
        }
    }

    /// WORK-6
    #[test]
    fn what_has_expired_can_only_be_sent_again() {
        let ways: Vec<_> = STEPS.iter().filter(|step| InvitationState::Expired.after(**step).is_some()).collect();
        assert_eq!(ways, [&InvitationStep::Resend]);
    }
}
