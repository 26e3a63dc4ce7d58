//! Who may do what (AUTH-4): one table of role and action, and one of role and field. A new action without a row does not compile;
//! a new endpoint without an action fails the test that walks the API's document.

use super::text::text_enum;
use super::{Role, Scope};

text_enum! {
    /// What an endpoint does, as its document names it. A `write` does not include the `read`.
    pub enum Action("action") {
        /// Look at jobs and kinds.
        JobsRead = "jobs:read",
        /// Enqueue, cancel and retry jobs.
        JobsWrite = "jobs:write",
        /// Read companies and invoices.
        BillingRead = "billing:read",
        /// Change companies and invoices, import, remind.
        BillingWrite = "billing:write",
        /// Read the organization, its keys and its usage.
        OrganizationRead = "organization:read",
        /// Change the organization, make and revoke its keys.
        OrganizationWrite = "organization:write",
        /// See who belongs to the organization.
        MembersRead = "members:read",
        /// Add people to the organization, change their role, remove them.
        MembersWrite = "members:write",
        /// See workspaces, their people and their invitations.
        WorkspacesRead = "workspaces:read",
        /// Make and change workspaces, invite.
        WorkspacesWrite = "workspaces:write",
        /// Read a workspace's conversations.
        ConversationsRead = "conversations:read",
        /// Write in a workspace's conversations.
        ConversationsWrite = "conversations:write",
        /// Read a workspace's tasks.
        TasksRead = "tasks:read",
        /// Change a workspace's tasks.
        TasksWrite = "tasks:write",
        /// Read requests to join the organization.
        RequestsRead = "requests:read",
        /// Approve and reject requests to join the organization.
        RequestsWrite = "requests:write",
        /// Follow events as they happen; which topics, the other rows say.
        EventsRead = "events:read",
        /// See integrations, their runs and what they were told, never their credentials.
        IntegrationsRead = "integrations:read",
        /// Connect, change, run, test and disconnect integrations; say which events are told in Slack.
        IntegrationsWrite = "integrations:write",
        /// Read employees and locations.
        PeopleRead = "people:read",
        /// Change employees and locations.
        PeopleWrite = "people:write",
        /// Read assets and their history.
        AssetsRead = "assets:read",
        /// Change assets: assign, take back, transfer, retire.
        AssetsWrite = "assets:write",
        /// Read workflows and their templates.
        WorkflowsRead = "workflows:read",
        /// Start, complete and cancel workflows; change templates.
        WorkflowsWrite = "workflows:write",
        /// Say that a step of a workflow is done, approve it, send it back. A key that may change workflows may.
        WorkflowsAdvance = "workflows:advance",
    }
}

/// Whose records an action reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of the organization.
    All,
    /// Those of the person's company; another company's do not exist for them.
    OwnCompany,
    /// Those of workspaces that the person is a member of; others do not exist for them.
    OwnWorkspaces,
    /// Steps of workflows that are the person's, by name or by role; of others they see what there is.
    OwnSteps,
    /// None: the action is refused.
    Nothing,
}

/// The table of role and action.
pub const fn reach(role: Role, action: Action) -> Reach {
    use Action as A;
    use Reach::{All, Nothing, OwnCompany, OwnSteps, OwnWorkspaces};
    let [admin, developer, user, customer] = match action {
        A::JobsRead | A::JobsWrite => [All, All, Nothing, Nothing],
        A::BillingRead => [All, All, Nothing, OwnCompany],
        A::BillingWrite => [All, Nothing, Nothing, Nothing],
        A::OrganizationRead => [All, All, All, Nothing],
        A::OrganizationWrite => [All, Nothing, Nothing, Nothing],
        A::MembersRead => [All, All, All, Nothing],
        A::MembersWrite => [All, Nothing, Nothing, Nothing],
        // What is said in a workspace is its members' alone, also for an admin. A customer works where others have let them in,
        // and lets nobody in.
        A::WorkspacesRead => [OwnWorkspaces, OwnWorkspaces, OwnWorkspaces, OwnWorkspaces],
        A::WorkspacesWrite => [OwnWorkspaces, OwnWorkspaces, OwnWorkspaces, Nothing],
        A::ConversationsRead | A::ConversationsWrite | A::TasksRead | A::TasksWrite => {
            [OwnWorkspaces, OwnWorkspaces, OwnWorkspaces, OwnWorkspaces]
        }
        A::RequestsRead | A::RequestsWrite => [All, Nothing, Nothing, Nothing],
        A::EventsRead => [All, All, OwnWorkspaces, OwnWorkspaces],
        A::IntegrationsRead => [All, All, Nothing, Nothing],
        A::IntegrationsWrite => [All, Nothing, Nothing, Nothing],
        A::PeopleRead => [All, All, Nothing, Nothing],
        A::PeopleWrite => [All, Nothing, Nothing, Nothing],
        A::AssetsRead | A::WorkflowsRead => [All, All, All, Nothing],
        A::AssetsWrite | A::WorkflowsWrite => [All, All, Nothing, Nothing],
        A::WorkflowsAdvance => [All, All, OwnSteps, Nothing],
    };
    match role {
        Role::Admin => admin,
        Role::Developer => developer,
        Role::User => user,
        Role::Customer => customer,
    }
}

impl Action {
    /// Whether it changes anything, which a suspended organization may not (TEN-5).
    pub fn writes(self) -> bool {
        !self.as_str().ends_with(":read")
    }

    /// The scope that a key needs for it; `None` where only a person may: a key is no member of a workspace.
    pub fn scope(self) -> Option<Scope> {
        let action = if self == Self::WorkflowsAdvance { Self::WorkflowsWrite } else { self };
        Scope::ALL.iter().copied().find(|scope| Action::from(*scope) == action)
    }
}

impl From<Scope> for Action {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::JobsRead => Self::JobsRead,
            Scope::JobsWrite => Self::JobsWrite,
            Scope::BillingRead => Self::BillingRead,
            Scope::BillingWrite => Self::BillingWrite,
            Scope::OrganizationRead => Self::OrganizationRead,
            Scope::OrganizationWrite => Self::OrganizationWrite,
            Scope::MembersRead => Self::MembersRead,
            Scope::MembersWrite => Self::MembersWrite,
            Scope::RequestsRead => Self::RequestsRead,
            Scope::RequestsWrite => Self::RequestsWrite,
            Scope::EventsRead => Self::EventsRead,
            Scope::IntegrationsRead => Self::IntegrationsRead,
            Scope::IntegrationsWrite => Self::IntegrationsWrite,
            Scope::PeopleRead => Self::PeopleRead,
            Scope::PeopleWrite => Self::PeopleWrite,
            Scope::AssetsRead => Self::AssetsRead,
            Scope::AssetsWrite => Self::AssetsWrite,
            Scope::WorkflowsRead => Self::WorkflowsRead,
            Scope::WorkflowsWrite => Self::WorkflowsWrite,
        }
    }
}

/// A field that not everybody who may read a record may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// What the organization notes about a company's contact person.
    ContactNotes,
    /// Why a reminder could not be sent, in the mail server's words.
    ReminderError,
    /// What is nobody's business but the admins': an employee's phone, home address, numbers, date of birth and custom fields; a
    /// location's address and phone, which may be somebody's home.
    EmployeePrivate,
    /// What an asset cost and is worth, and the numbers of its papers.
    AssetCost,
}

impl Field {
    pub const ALL: [Self; 4] = [Self::ContactNotes, Self::ReminderError, Self::EmployeePrivate, Self::AssetCost];
}

/// The table of role and field: who may see it.
pub const fn may_see(role: Role, field: Field) -> bool {
    match field {
        Field::ContactNotes | Field::EmployeePrivate => matches!(role, Role::Admin),
        Field::ReminderError | Field::AssetCost => matches!(role, Role::Admin | Role::Developer),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// AUTH-4: the whole table, to be read by a person.
    #[test]
    fn the_table_of_role_and_action_is_what_was_agreed() {
        let mut table = format!("{:<20}{:<16}{:<16}{:<16}{:<16}key\n", "", "admin", "developer", "user", "customer");
        for action in Action::ALL {
            write!(table, "{action:<20}").unwrap();
            for role in Role::ALL {
                write!(table, "{:<16}", format!("{:?}", reach(*role, *action))).unwrap();
            }
            writeln!(table, "{}", if action.scope().is_some() { "scope" } else { "-" }).unwrap();
        }
        for field in Field::ALL {
            write!(table, "{:<20}", format!("{field:?}")).unwrap();
            for role in Role::ALL {
                write!(table, "{:<16}", if may_see(*role, field) { "sees" } else { "-" }).unwrap();
            }
            writeln!(table, "scope").unwrap();
        }
        insta::assert_snapshot!(table);
    }

    /// AUTH-3, AUTH-4: a key's scope and a person's action are the same words.
    #[test]
    fn a_scope_is_the_action_of_the_same_name() {
        for scope in Scope::ALL {
            assert_eq!(Action::from(*scope).as_str(), scope.as_str());
            assert_eq!(Action::from(*scope).scope(), Some(*scope));
        }
    }

    /// AUTH-4
    #[test]
    fn an_admin_is_refused_nothing_and_who_writes_may_read() {
        for action in Action::ALL {
            assert_ne!(reach(Role::Admin, *action), Reach::Nothing, "{action}");
        }
        for action in Action::ALL.iter().filter(|action| action.writes()) {
            let (what, _) = action.as_str().split_once(':').unwrap();
            let read: Action = format!("{what}:read").parse().unwrap();
            for role in Role::ALL.iter().filter(|role| reach(**role, *action) != Reach::Nothing) {
                assert_ne!(reach(*role, read), Reach::Nothing, "{role} may do {action} and not {read}");
            }
        }
    }
}
