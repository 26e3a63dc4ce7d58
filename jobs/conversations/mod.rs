//! People talk in workspaces, and their conversations get names by themselves.
//!
//! The job of the family, and its doors: what the API does to tasks and conversations in one transaction, rows and event and job
//! together.

mod ask;
mod doors;
mod name;
#[cfg(test)]
mod testing;

pub use self::{
    doors::{Start, change_task, create_task, post_message, rename_conversation, start_conversation},
    name::NameConversation,
};

/// What a workspace's members follow.
fn workspace_topic(workspace_id: uuid::Uuid) -> String {
    format!("workspace:{workspace_id}")
}

/// What those who have a conversation open follow (WORK-9).
fn topic(workspace_id: uuid::Uuid, conversation_id: uuid::Uuid) -> String {
    format!("workspace:{workspace_id}:conversation:{conversation_id}")
}
