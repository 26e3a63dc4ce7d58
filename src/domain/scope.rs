//! What an API key may be used for (AUTH-3).

use super::text::text_enum;

text_enum! {
    /// One right of a key. A `write` scope does not include the `read` one.
    pub enum Scope("scope") {
        /// Look at jobs and kinds.
        JobsRead = "jobs:read",
        /// Enqueue, cancel and retry jobs.
        JobsWrite = "jobs:write",
        /// Read companies and invoices, sealed fields included.
        BillingRead = "billing:read",
        /// Change companies and invoices, import, remind.
        BillingWrite = "billing:write",
        /// Read the organization and the list of its keys.
        OrganizationRead = "organization:read",
        /// Change the organization, make and revoke its keys.
        OrganizationWrite = "organization:write",
    }
}

impl Scope {
    /// Whether it changes anything, which a suspended organization may not (TEN-5).
    pub fn writes(self) -> bool {
        matches!(self, Self::JobsWrite | Self::BillingWrite | Self::OrganizationWrite)
    }
}
