//! Conversations of a workspace and their messages (WORK-7). To who is no member of it they do not exist.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{ConversationsRead, ConversationsWrite, Person},
    cursor::{self, Limit},
    edge::Trace,
    extract::{Id, Json as Body, Posted, Query},
    idempotency::{Answer, Begun, begin_tenant},
    openapi::Problems,
    problem::Problem,
    workspaces::answered_before,
};
use crate::{
    domain::{Conversation, FieldErrors, Message, MessageText, Title, TitleSource},
    jobs::conversations::{self as doors, Start},
    store::{Page, conversations, workspaces},
    tenant,
};

const CONVERSATIONS: &str = "conversations";
const MESSAGES: &str = "messages";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(start, list))
        .routes(routes!(show, rename))
        .routes(routes!(post_message, list_messages))
}

/// A conversation to be started.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConversationRequest {
    /// Without one it gets a name after the first exchange.
    #[schema(min_length = 1, max_length = 100, example = "The coffee machine")]
    title: Option<String>,
    /// The first message.
    #[schema(min_length = 1, max_length = 10_000)]
    message: Option<String>,
}

/// A person's title for a conversation; nothing but another one replaces it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConversationChange {
    #[schema(min_length = 1, max_length = 100)]
    title: String,
}

/// A message to be posted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MessageRequest {
    #[schema(min_length = 1, max_length = 10_000, example = "The coffee machine is broken again.")]
    body: String,
}

/// A conversation.
#[derive(Serialize, ToSchema)]
#[schema(as = Conversation)]
struct ConversationView {
    id: Uuid,
    workspace_id: Uuid,
    /// Null until it is named.
    title: Option<String>,
    title_source: TitleSource,
    message_count: u32,
    created_by: Uuid,
    created_at: DateTime<Utc>,
    /// Of the last message, or of the last change of the title.
    updated_at: DateTime<Utc>,
}

/// A page of conversations.
#[derive(Serialize, ToSchema)]
struct ConversationPage {
    conversations: Vec<ConversationView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// A message.
#[derive(Serialize, ToSchema)]
#[schema(as = Message)]
struct MessageView {
    id: Uuid,
    conversation_id: Uuid,
    /// Counted from 1 within the conversation.
    position: u32,
    author_id: Uuid,
    body: String,
    created_at: DateTime<Utc>,
}

/// A page of messages.
#[derive(Serialize, ToSchema)]
struct MessagePage {
    messages: Vec<MessageView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// The order of a list of conversations or messages.
#[derive(Clone, Copy, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Sort {
    /// Oldest first.
    #[default]
    Created,
    /// Newest first.
    CreatedDesc,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[serde(default)]
    #[param(inline, required = false)]
    sort: Sort,
    /// `next_cursor` of the page before, with the same order.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

impl ListParams {
    /// The name of the list, so that a cursor of one order is no cursor of the other, and its page.
    fn page(&self, list: &str) -> Result<(String, Page), Problem> {
        let newest_first = self.sort == Sort::CreatedDesc;
        let list = if newest_first { format!("{list}.created_desc") } else { list.to_owned() };
        let after = cursor::decode(&list, self.cursor.as_deref())?;
        Ok((list, Page { after, limit: self.limit.probe(), newest_first }))
    }
}

impl From<Conversation> for ConversationView {
    fn from(conversation: Conversation) -> Self {
        let Conversation { id, workspace_id, title, title_source, message_count, .. } = conversation;
        let Conversation { created_by, created_at, updated_at, .. } = conversation;
        Self { id, workspace_id, title, title_source, message_count, created_by, created_at, updated_at }
    }
}

impl From<Message> for MessageView {
    fn from(Message { id, conversation_id, position, author_id, body, created_at }: Message) -> Self {
        Self { id, conversation_id, position, author_id, body, created_at }
    }
}

impl ConversationRequest {
    fn parse(self) -> Result<Start, FieldErrors> {
        let mut errors = FieldErrors::default();
        let title = self.title.and_then(|title| errors.check("title", Title::parse(&title)));
        let message = self.message.and_then(|message| errors.check("message", MessageText::parse(&message)));
        errors.into_result()?;
        Ok(Start { title, message })
    }
}

/// Starts a conversation in the workspace.
#[utoipa::path(
    post, path = "/workspaces/{id}/conversations", tag = "workspaces", operation_id = "start_conversation",
    security(("person" = ["conversations:write"])),
    params(("id" = Uuid, Path)),
    request_body = ConversationRequest,
    responses((status = 201, description = "Started", body = ConversationView), Problems)
)]
async fn start(
    State(state): State<ApiState>,
    person: Person<ConversationsWrite>,
    Id(workspace): Id,
    Trace(trace): Trace,
    posted: Posted<ConversationRequest>,
) -> Result<Response, Problem> {
    let start = posted.body.parse()?;
    let organization = &person.organization;
    let mut work = match begin_tenant(&state, organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => return answered_before(&state, workspace, &person, response).await,
    };
    workspaces::member(&mut work, workspace, person.user_id).await?.ok_or_else(|| Problem::not_found("workspace"))?;
    let place = (&organization.slug, workspace);
    let asked = (state.app.clock.now(), Some(trace));
    let conversation = doors::start_conversation(&mut work, place, &start, person.user_id, asked).await?;
    let location = format!("/api/v1/conversations/{}", conversation.id);
    work.finish(Answer::new(StatusCode::CREATED, &ConversationView::from(conversation)).at(location)).await
}

/// Lists a workspace's conversations, in the order in which they were started.
#[utoipa::path(
    get, path = "/workspaces/{id}/conversations", tag = "workspaces", operation_id = "list_conversations",
    security(("person" = ["conversations:read"])),
    params(("id" = Uuid, Path), ListParams),
    responses((status = 200, body = ConversationPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    person: Person<ConversationsRead>,
    Id(workspace): Id,
    Query(params): Query<ListParams>,
) -> Result<Json<ConversationPage>, Problem> {
    let (list, page) = params.page(CONVERSATIONS)?;
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    workspaces::member(&mut tx, workspace, person.user_id).await?.ok_or_else(|| Problem::not_found("workspace"))?;
    let mut conversations = conversations::page(&mut tx, workspace, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(&list, &mut conversations, |conversation| conversation.id);
    let conversations = conversations.into_iter().map(ConversationView::from).collect();
    Ok(Json(ConversationPage { conversations, next_cursor }))
}

/// Shows a conversation.
#[utoipa::path(
    get, path = "/conversations/{id}", tag = "workspaces", operation_id = "get_conversation",
    security(("person" = ["conversations:read"])),
    params(("id" = Uuid, Path)),
    responses((status = 200, body = ConversationView), Problems)
)]
async fn show(
    State(state): State<ApiState>,
    person: Person<ConversationsRead>,
    Id(id): Id,
) -> Result<Json<ConversationView>, Problem> {
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    let conversation = conversations::by_id_for(&mut tx, id, person.user_id).await?;
    tx.commit().await?;
    conversation.map(|conversation| Json(conversation.into())).ok_or_else(|| Problem::not_found("conversation"))
}

/// Gives a conversation a person's title.
#[utoipa::path(
    patch, path = "/conversations/{id}", tag = "workspaces", operation_id = "rename_conversation",
    security(("person" = ["conversations:write"])),
    params(("id" = Uuid, Path)),
    request_body = ConversationChange,
    responses((status = 200, body = ConversationView), Problems)
)]
async fn rename(
    State(state): State<ApiState>,
    person: Person<ConversationsWrite>,
    Id(id): Id,
    Body(change): Body<ConversationChange>,
) -> Result<Json<ConversationView>, Problem> {
    let title = Title::parse(&change.title).map_err(|error| error.at("title"))?;
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    let renamed = doors::rename_conversation(&mut tx, (id, person.user_id), &title, state.app.clock.now()).await?;
    let conversation = renamed.ok_or_else(|| Problem::not_found("conversation"))?;
    tx.commit().await?;
    Ok(Json(conversation.into()))
}

/// Posts a message.
#[utoipa::path(
    post, path = "/conversations/{id}/messages", tag = "workspaces", operation_id = "post_message",
    security(("person" = ["conversations:write"])),
    params(("id" = Uuid, Path)),
    request_body = MessageRequest,
    responses((status = 201, description = "Posted", body = MessageView), Problems)
)]
async fn post_message(
    State(state): State<ApiState>,
    person: Person<ConversationsWrite>,
    Id(id): Id,
    Trace(trace): Trace,
    posted: Posted<MessageRequest>,
) -> Result<Response, Problem> {
    let body = MessageText::parse(&posted.body.body).map_err(|error| error.at("body"))?;
    let organization = &person.organization;
    let mut work = match begin_tenant(&state, organization, posted.idempotency.as_ref()).await? {
        Begun::Fresh(work) => work,
        Begun::Answered(response) => {
            // As for a first time: only to who is a member still.
            let mut tx = tenant::begin(&state.app.db, organization).await?;
            let found = conversations::by_id_for(&mut tx, id, person.user_id).await?;
            tx.commit().await?;
            return found.map(|_| response).ok_or_else(|| Problem::not_found("conversation"));
        }
    };
    let asked = (state.app.clock.now(), Some(trace));
    let posted = doors::post_message(&mut work, &organization.slug, (id, person.user_id), &body, asked).await?;
    let (_, message) = posted.ok_or_else(|| Problem::not_found("conversation"))?;
    work.finish(Answer::new(StatusCode::CREATED, &MessageView::from(message))).await
}

/// Lists a conversation's messages.
#[utoipa::path(
    get, path = "/conversations/{id}/messages", tag = "workspaces", operation_id = "list_messages",
    security(("person" = ["conversations:read"])),
    params(("id" = Uuid, Path), ListParams),
    responses((status = 200, body = MessagePage), Problems)
)]
async fn list_messages(
    State(state): State<ApiState>,
    person: Person<ConversationsRead>,
    Id(id): Id,
    Query(params): Query<ListParams>,
) -> Result<Json<MessagePage>, Problem> {
    let (list, page) = params.page(MESSAGES)?;
    let mut tx = tenant::begin(&state.app.db, &person.organization).await?;
    let found = conversations::by_id_for(&mut tx, id, person.user_id).await?;
    found.ok_or_else(|| Problem::not_found("conversation"))?;
    let mut messages = conversations::messages(&mut tx, id, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(&list, &mut messages, |message| message.id);
    Ok(Json(MessagePage { messages: messages.into_iter().map(MessageView::from).collect(), next_cursor }))
}
