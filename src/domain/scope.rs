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
        /// Read the organization, the list of its keys and its usage.
        OrganizationRead = "organization:read",
        /// Change the organization, make and revoke its keys.
        OrganizationWrite = "organization:write",
        /// See who belongs to the organization.
        MembersRead = "members:read",
        /// Add people to the organization, change their role, remove them: as good as an admin.
        MembersWrite = "members:write",
        /// Read requests to join the organization.
        RequestsRead = "requests:read",
        /// Approve and reject requests to join the organization.
        RequestsWrite = "requests:write",
        /// Follow events as they happen.
        EventsRead = "events:read",
        /// See integrations and their runs, never their credentials.
        IntegrationsRead = "integrations:read",
        /// Connect, change, run, test and disconnect integrations; say which events are told in Slack.
        IntegrationsWrite = "integrations:write",
        /// Read employees and locations, sealed fields included.
        PeopleRead = "people:read",
        /// Change employees and locations.
        PeopleWrite = "people:write",
        /// Read assets and their history, sealed fields included.
        AssetsRead = "assets:read",
        /// Change assets: assign, take back, transfer, retire.
        AssetsWrite = "assets:write",
        /// Read workflows and their templates.
        WorkflowsRead = "workflows:read",
        /// Start, advance, complete and cancel workflows; change templates.
        WorkflowsWrite = "workflows:write",
    }
}
