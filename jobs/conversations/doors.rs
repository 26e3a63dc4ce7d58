//! Changes to tasks and conversations, each with its event (EVT-1). The caller opens the transaction as the organization, knows that
//! the person is a member where a workspace is named, and commits.
//!
//! What a list of conversations shows is told on the workspace's topic, what is said in one on the conversation's, a new title on
//! both.

use backroom_queue::{NewJob, TraceParent, enqueue};
use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{NameConversation, topic, workspace_topic};
use crate::{
    domain::{Conversation, Message, MessageText, NewTask, Slug, Task, Title},
    store::{
        StoreError, conversations,
        events::{self, NewEvent},
        tasks,
    },
};

/// The person who acts, also as events name them.
fn actor(user: Uuid) -> String {
    format!("user:{user}")
}

/// WORK-7
pub async fn create_task(
    db: &mut PgConnection,
    workspace_id: Uuid,
    new: &NewTask,
    author: Uuid,
    now: DateTime<Utc>,
) -> Result<Task, StoreError> {
    let task = tasks::insert(db, workspace_id, new, author, now).await?;
    tell_of_task(db, &task, "task.created", author, now).await?;
    Ok(task)
}

/// WORK-7. The caller has locked the task ([`tasks::lock_for`]).
pub async fn change_task(
    db: &mut PgConnection,
    before: &Task,
    change: &NewTask,
    author: Uuid,
    now: DateTime<Utc>,
) -> Result<Task, StoreError> {
    let task = tasks::update(db, before.id, change, now).await?;
    let kind = if task.state == before.state { "task.changed" } else { "task.state_changed" };
    tell_of_task(db, &task, kind, author, now).await?;
    Ok(task)
}

async fn tell_of_task(
    db: &mut PgConnection,
    task: &Task,
    kind: &str,
    author: Uuid,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let payload = json!({
        "task_id": task.id, "title": task.title, "state": task.state, "assignee_id": task.assignee_id, "due_on": task.due_on,
    });
    let (topic, actor) = (workspace_topic(task.workspace_id), &actor(author));
    events::append(db, &NewEvent { topic, kind, payload, actor }, now).await?;
    Ok(())
}

/// How a conversation begins.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// A person's title; without one it gets a name after the first exchange.
    pub title: Option<Title>,
    pub message: Option<MessageText>,
}

/// WORK-7
pub async fn start_conversation(
    db: &mut PgConnection,
    (organization, workspace_id): (&Slug, Uuid),
    start: &Start,
    author: Uuid,
    (now, trace): (DateTime<Utc>, Option<TraceParent>),
) -> Result<Conversation, StoreError> {
    let conversation = conversations::insert(db, workspace_id, start.title.as_ref(), author, now).await?;
    let payload = json!({ "conversation_id": conversation.id, "title": conversation.title });
    let (topic, actor) = (workspace_topic(workspace_id), &actor(author));
    events::append(db, &NewEvent { topic, kind: "conversation.created", payload, actor }, now).await?;
    let Some(message) = &start.message else { return Ok(conversation) };
    let posted = post_message(db, organization, (conversation.id, author), message, (now, trace)).await?;
    Ok(posted.map_or(conversation, |(conversation, _)| conversation))
}

/// WORK-7, WORK-8: after the first exchange every message asks for a name until there is one; the job is unique, so that is one job.
/// `None` if there is no such conversation for the author.
pub async fn post_message(
    db: &mut PgConnection,
    organization: &Slug,
    (conversation_id, author): (Uuid, Uuid),
    body: &MessageText,
    (now, trace): (DateTime<Utc>, Option<TraceParent>),
) -> Result<Option<(Conversation, Message)>, StoreError> {
    let posted = conversations::post(db, (conversation_id, author), body, now).await?;
    let Some((conversation, message)) = posted else { return Ok(None) };
    let payload = json!({
        "conversation_id": conversation_id, "message_id": message.id, "position": message.position,
        "author_id": author, "body": message.body,
    });
    let (topic, actor) = (topic(conversation.workspace_id, conversation_id), &actor(author));
    events::append(db, &NewEvent { topic, kind: "message.posted", payload, actor }, now).await?;
    if conversation.wants_a_name() {
        let job = NewJob::of(&NameConversation { conversation_id }).tenant(organization.as_str()).trace(trace);
        enqueue(db, &job).await?;
    }
    Ok(Some((conversation, message)))
}

/// WORK-8: a person's title, which no job replaces. `None` if there is no such conversation for the person.
pub async fn rename_conversation(
    db: &mut PgConnection,
    (conversation_id, person): (Uuid, Uuid),
    title: &Title,
    now: DateTime<Utc>,
) -> Result<Option<Conversation>, StoreError> {
    let renamed = conversations::rename(db, (conversation_id, person), title, now).await?;
    let Some(conversation) = renamed else { return Ok(None) };
    let place = (conversation.workspace_id, conversation_id);
    tell_of_title(db, place, (title, "conversation.renamed"), &actor(person), now).await?;
    Ok(Some(conversation))
}

/// The new title of (workspace, conversation).
pub(super) async fn tell_of_title(
    db: &mut PgConnection,
    (workspace_id, conversation_id): (Uuid, Uuid),
    (title, kind): (&Title, &str),
    actor: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let payload = json!({ "conversation_id": conversation_id, "title": title });
    let told = [workspace_topic(workspace_id), topic(workspace_id, conversation_id)];
    let told = told.map(|topic| NewEvent { topic, kind, payload: payload.clone(), actor });
    events::append_many(db, &told, now).await
}
