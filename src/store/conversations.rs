//! `conversations` and `messages` (WORK-7, WORK-8). What a member of the workspace reads or writes is asked with the member's id:
//! to others there is nothing.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError, count, stored};
use crate::domain::{Conversation, Message, MessageText, Title, TitleSource};

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    workspace_id: Uuid,
    title: Option<String>,
    title_source: String,
    message_count: i32,
    created_by: Uuid,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Conversation {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Conversation {
            id: row.id,
            workspace_id: row.workspace_id,
            title: row.title,
            title_source: stored("conversations.title_source", &row.title_source)?,
            message_count: count("conversations.message_count", row.message_count)?,
            created_by: row.created_by,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

#[derive(sqlx::FromRow)]
struct MessageRow {
    id: Uuid,
    conversation_id: Uuid,
    position: i32,
    author_id: Uuid,
    body: String,
    created_at: DateTime<Utc>,
}

impl TryFrom<MessageRow> for Message {
    type Error = StoreError;

    fn try_from(row: MessageRow) -> Result<Self, StoreError> {
        let MessageRow { id, conversation_id, position, author_id, body, created_at } = row;
        let position = count("messages.position", position)?;
        Ok(Message { id, conversation_id, position, author_id, body, created_at })
    }
}

/// Writes a conversation of the workspace; a title that it begins with is a person's.
pub async fn insert(
    db: &mut PgConnection,
    workspace_id: Uuid,
    title: Option<&Title>,
    author: Uuid,
    now: DateTime<Utc>,
) -> Result<Conversation, StoreError> {
    let title_source = if title.is_some() { TitleSource::Person } else { TitleSource::None };
    let id = Uuid::now_v7();
    sqlx::query!(
        "insert into conversations (id, workspace_id, title, title_source, created_by, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $6)",
        id,
        workspace_id,
        title.map(Title::as_str),
        title_source.as_str(),
        author,
        now
    )
    .execute(db)
    .await?;
    Ok(Conversation {
        id,
        workspace_id,
        title: title.map(|title| title.as_str().to_owned()),
        title_source,
        message_count: 0,
        created_by: author,
        created_at: now,
        updated_at: now,
    })
}

/// For jobs, which are nobody's eyes. Not there if its workspace was deleted.
pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<Conversation>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, workspace_id, title, title_source, message_count, created_by, created_at, updated_at
         from conversations c
         where id = $1 and exists (select from workspaces w where w.id = c.workspace_id and w.deleted_at is null)",
        id
    )
    .fetch_optional(db)
    .await?;
    row.map(Conversation::try_from).transpose()
}

/// The conversation, if `member` is a member of its workspace.
pub async fn by_id_for(db: &mut PgConnection, id: Uuid, member: Uuid) -> Result<Option<Conversation>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, workspace_id, title, title_source, message_count, created_by, created_at, updated_at
         from conversations c
         where id = $1
           and exists (select from workspace_members m join workspaces w on w.id = m.workspace_id and w.deleted_at is null
                       where m.workspace_id = c.workspace_id and m.user_id = $2)",
        id,
        member
    )
    .fetch_optional(db)
    .await?;
    row.map(Conversation::try_from).transpose()
}

/// A workspace's conversations. The caller knows that the reader is a member.
pub async fn page(db: &mut PgConnection, workspace_id: Uuid, page: Page) -> Result<Vec<Conversation>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, workspace_id, title, title_source, message_count, created_by, created_at, updated_at
         from conversations where workspace_id = ",
    );
    query.push_bind(workspace_id);
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(Conversation::try_from).collect()
}

/// A member's own word for the conversation, which nothing but another one replaces. `None` if there is no such conversation for
/// the member.
pub async fn rename(
    db: &mut PgConnection,
    (id, member): (Uuid, Uuid),
    title: &Title,
    now: DateTime<Utc>,
) -> Result<Option<Conversation>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update conversations c set title = $3, title_source = 'person', updated_at = $4
         where id = $1
           and exists (select from workspace_members m join workspaces w on w.id = m.workspace_id and w.deleted_at is null
                       where m.workspace_id = c.workspace_id and m.user_id = $2)
         returning id, workspace_id, title, title_source, message_count, created_by, created_at, updated_at",
        id,
        member,
        title.as_str(),
        now
    )
    .fetch_optional(db)
    .await?;
    row.map(Conversation::try_from).transpose()
}

/// WORK-8: the program's word, unless the conversation has a name. False: it had one, and keeps it.
pub async fn name(db: &mut PgConnection, id: Uuid, title: &Title, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let named = sqlx::query!(
        "update conversations set title = $2, title_source = 'auto', updated_at = $3 where id = $1 and title_source = 'none'",
        id,
        title.as_str(),
        now
    )
    .execute(db)
    .await?;
    Ok(named.rows_affected() == 1)
}

/// Appends a message and answers it with its conversation. `None` if there is no such conversation for the author. Messages of one
/// conversation wait for each other, so their ids are in the order of their positions.
pub async fn post(
    db: &mut PgConnection,
    (id, author): (Uuid, Uuid),
    body: &MessageText,
    now: DateTime<Utc>,
) -> Result<Option<(Conversation, Message)>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "update conversations c set message_count = message_count + 1, updated_at = $3
         where id = $1
           and exists (select from workspace_members m join workspaces w on w.id = m.workspace_id and w.deleted_at is null
                       where m.workspace_id = c.workspace_id and m.user_id = $2)
         returning id, workspace_id, title, title_source, message_count, created_by, created_at, updated_at",
        id,
        author,
        now
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(conversation) = row.map(Conversation::try_from).transpose()? else { return Ok(None) };
    let message = Message {
        id: Uuid::now_v7(),
        conversation_id: id,
        position: conversation.message_count,
        author_id: author,
        body: body.as_str().to_owned(),
        created_at: now,
    };
    sqlx::query!(
        "insert into messages (id, conversation_id, position, author_id, body, created_at) values ($1, $2, $3, $4, $5, $6)",
        message.id,
        id,
        message.position.cast_signed(),
        author,
        message.body,
        now
    )
    .execute(db)
    .await?;
    Ok(Some((conversation, message)))
}

/// A conversation's messages. The caller knows that the reader is a member.
pub async fn messages(db: &mut PgConnection, conversation_id: Uuid, page: Page) -> Result<Vec<Message>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, conversation_id, position, author_id, body, created_at from messages where conversation_id = ",
    );
    query.push_bind(conversation_id);
    // In the order of their positions, not of their ids: those are made by several nodes, each by its own clock.
    let (comparison, direction) = if page.newest_first { ("<", "desc") } else { (">", "asc") };
    if let Some(after) = page.after {
        query.push(format_args!(" and position {comparison} (select position from messages where id = "));
        query.push_bind(after).push(" and conversation_id = ").push_bind(conversation_id).push(")");
    }
    query.push(format_args!(" order by position {direction} limit ")).push_bind(page.limit);
    let rows: Vec<MessageRow> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(Message::try_from).collect()
}
