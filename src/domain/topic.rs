//! What can be followed (EVT-2), and which role may follow it.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::policy::{self, Action, Reach};
use super::{ParseError, Role, Scope};

/// What the topics of workspaces begin with: they are for members, also of an organization's admins only for those.
pub const WORKSPACES: &str = "workspace:";

/// A topic as a client names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Topic {
    /// `organization`: all that happens in it, but for what happens inside workspaces.
    Organization,
    /// `workspace:<id>`: its name, its members, its conversations coming and going.
    Workspace(Uuid),
    /// `workspace:<id>:conversation:<id>`
    Conversation { workspace: Uuid, conversation: Uuid },
    /// `job:<id>`: the states that the job goes through.
    Job(Uuid),
    /// `<kind>:<id>`, such as `invoice:<id>`.
    Record { kind: String, id: Uuid },
}

impl Topic {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let refuse = || {
            ParseError::invalid(
                "is not a topic; there are organization, workspace:<id>, workspace:<id>:conversation:<id>, job:<id> and \
                 <kind>:<id>, such as invoice:<id>",
            )
        };
        let id = |text: &str| text.parse::<Uuid>().map_err(|_| refuse());
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            ["organization"] => Ok(Self::Organization),
            ["workspace", workspace] => Ok(Self::Workspace(id(workspace)?)),
            ["workspace", workspace, "conversation", conversation] => {
                Ok(Self::Conversation { workspace: id(workspace)?, conversation: id(conversation)? })
            }
            ["job", job] => Ok(Self::Job(id(job)?)),
            [kind, record] if is_kind(kind) => Ok(Self::Record { kind: kind.to_owned(), id: id(record)? }),
            _ => Err(refuse()),
        }
    }

    /// The workspace that one must be a member of.
    pub fn workspace(&self) -> Option<Uuid> {
        match self {
            Self::Workspace(workspace) | Self::Conversation { workspace, .. } => Some(*workspace),
            _ => None,
        }
    }

    /// Whether a person of this role may follow it, as far as the role decides; for a workspace membership decides too.
    pub fn is_open_to(&self, role: Role) -> bool {
        let reach = |action| policy::reach(role, action);
        match self {
            Self::Organization | Self::Record { .. } => reach(Action::EventsRead) == Reach::All,
            Self::Job(_) => reach(Action::EventsRead) == Reach::All && reach(Action::JobsRead) == Reach::All,
            Self::Workspace(_) => reach(Action::WorkspacesRead) != Reach::Nothing,
            Self::Conversation { .. } => reach(Action::ConversationsRead) != Reach::Nothing,
        }
    }

    /// Whether a key with these scopes may follow it. A key is no member of a workspace.
    pub fn is_open_to_key(&self, has: impl Fn(Scope) -> bool) -> bool {
        match self {
            Self::Organization | Self::Record { .. } => has(Scope::EventsRead),
            Self::Job(_) => has(Scope::EventsRead) && has(Scope::JobsRead),
            Self::Workspace(_) | Self::Conversation { .. } => false,
        }
    }
}

fn is_kind(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text != "workspace" && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Organization => f.write_str("organization"),
            Self::Workspace(workspace) => write!(f, "{WORKSPACES}{workspace}"),
            Self::Conversation { workspace, conversation } => {
                write!(f, "{WORKSPACES}{workspace}:conversation:{conversation}")
            }
            Self::Job(job) => write!(f, "job:{job}"),
            Self::Record { kind, id } => write!(f, "{kind}:{id}"),
        }
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.to_string()
    }
}

impl TryFrom<String> for Topic {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0199aaaa-0000-7000-8000-000000000000";

    /// EVT-2
    #[test]
    fn a_topic_reads_back_as_itself() {
        for text in [
            "organization".to_owned(),
            format!("workspace:{ID}"),
            format!("workspace:{ID}:conversation:{ID}"),
            format!("job:{ID}"),
            format!("join_request:{ID}"),
        ] {
            assert_eq!(Topic::parse(&text).unwrap().to_string(), text);
        }
        for text in ["", "organization:", "workspace", "workspace:x", "Job:1", "a b:c", "workspace:%", "job", "*"] {
            assert_eq!(Topic::parse(text).unwrap_err().code, "invalid", "{text:?}");
        }
        assert!(Topic::parse(&format!("workspace:{ID}:message:{ID}")).is_err());
        assert!(Topic::parse(&format!("workspace:{ID}:conversation:{ID}:x")).is_err());
    }

    /// EVT-2, WORK-9: what happens in a workspace is no part of what its organization's admins follow.
    #[test]
    fn who_may_follow_what() {
        let topics = [
            Topic::Organization,
            Topic::Record { kind: "invoice".to_owned(), id: Uuid::nil() },
            Topic::Job(Uuid::nil()),
            Topic::Workspace(Uuid::nil()),
            Topic::Conversation { workspace: Uuid::nil(), conversation: Uuid::nil() },
        ];
        let by_role = |role| topics.clone().map(|topic| topic.is_open_to(role));
        assert_eq!(by_role(Role::Admin), [true; 5]);
        assert_eq!(by_role(Role::Developer), [true; 5]);
        for role in [Role::User, Role::Customer] {
            assert_eq!(by_role(role), [false, false, false, true, true], "{role}");
        }
        let by_key = |has: &[Scope]| topics.clone().map(|topic| topic.is_open_to_key(|scope| has.contains(&scope)));
        assert_eq!(by_key(Scope::ALL), [true, true, true, false, false], "a key is no member");
        assert_eq!(by_key(&[Scope::EventsRead]), [true, true, false, false, false]);
        assert_eq!(by_key(&[Scope::JobsRead]), [false; 5]);
    }
}
