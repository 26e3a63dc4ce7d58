//! The activity log (EVT-1), and its events as they happen (EVT-2, WORK-9).

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
    response::Response,
};
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{Caller, EventsRead, May, Person},
    cursor::{self, Limit},
    extract::Query,
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::{
    domain::{FieldErrors, Organization, Role, Scope, Topic},
    events::{self, FollowError, Following, Frame, Missed, Who},
    store::{Page, events::Event, feed, workspaces},
    tenant,
};

const LIST: &str = "events";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const MOST_TOPICS: usize = 20;

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(follow))
}

/// Who may read some events at least: a key, or a person.
struct Reader {
    organization: Organization,
    who: Who,
    may: Rights,
}

/// What decides about a topic.
enum Rights {
    Key(Vec<Scope>),
    Person(Role),
}

impl Reader {
    fn of(caller: &Caller) -> Self {
        let organization = caller.organization.clone();
        match (caller.person(), caller.key()) {
            (Some(member), _) => {
                let who = Who::Person { user: member.user_id, session: member.session };
                Self { organization, who, may: Rights::Person(member.role) }
            }
            (None, key) => {
                let scopes = Scope::ALL.iter().copied().filter(|scope| caller.has(*scope)).collect();
                Self { organization, who: Who::Key(key.unwrap_or_default()), may: Rights::Key(scopes) }
            }
        }
    }
}

impl FromRequestParts<ApiState> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let refused = match May::<EventsRead>::from_request_parts(parts, state).await {
            Ok(caller) => return Ok(Self::of(&caller)),
            Err(refused) => refused,
        };
        // A person who may not read all may read what happens in their workspaces.
        let person = Person::<EventsRead>::from_request_parts(parts, state).await.map_err(|_| refused)?;
        Ok(Self::of(person.caller()))
    }
}

/// Something that happened.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
struct EventView {
    id: Uuid,
    #[schema(example = "invoice:0199aaaa-0000-7000-8000-000000000000")]
    topic: String,
    #[schema(example = "invoice.reminder_sent")]
    kind: String,
    #[schema(value_type = Object)]
    payload: Value,
    /// `user:<id>`, `api_key:<id>`, `job:<id>` or `operator`.
    actor: String,
    created_at: DateTime<Utc>,
}

/// A page of events, newest first.
#[derive(Serialize, ToSchema)]
struct EventPage {
    events: Vec<EventView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let Event { id, topic, kind, payload, actor, created_at } = event;
        Self { id, topic, kind, payload, actor, created_at }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// What is read: `organization` (all but what happens in workspaces), `workspace:<id>`, `workspace:<id>:conversation:<id>` or
    /// `<kind>:<id>`.
    #[param(value_type = String, example = "organization")]
    topic: Topic,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct FollowParams {
    /// Up to 20, separated by commas: `organization` (all but what happens in workspaces), `workspace:<id>`,
    /// `workspace:<id>:conversation:<id>`, `job:<id>` or `<kind>:<id>`.
    #[param(example = "organization")]
    topics: String,
    /// As the header `Last-Event-ID`, for clients that cannot set it; the header counts more.
    last_event_id: Option<String>,
}

impl FollowParams {
    fn topics(&self) -> Result<Vec<Topic>, FieldErrors> {
        let mut errors = FieldErrors::default();
        let parts: Vec<&str> = self.topics.split(',').map(str::trim).collect();
        errors.require(parts.len() <= MOST_TOPICS, "topics", "too_long", format!("must name at most {MOST_TOPICS}"));
        let mut topics = Vec::new();
        for part in parts.into_iter().take(MOST_TOPICS) {
            match errors.check("topics", Topic::parse(part)) {
                Some(topic) if !topics.contains(&topic) => topics.push(topic),
                _ => {}
            }
        }
        errors.into_result()?;
        Ok(topics)
    }
}

/// Refuses what the reader may not read: 403 where role or scopes decide, 404 for somebody else's workspace or job.
async fn authorize(state: &ApiState, reader: &Reader, topics: &[Topic]) -> Result<(), Problem> {
    for topic in topics {
        let (open, detail) = match &reader.may {
            Rights::Key(scopes) => (
                topic.is_open_to_key(|scope| scopes.contains(&scope)),
                format!("the key may not follow {topic}: it lacks a scope, or the topic is for people who are members"),
            ),
            Rights::Person(role) => (topic.is_open_to(*role), format!("the role {role} may not follow {topic}")),
        };
        if !open {
            return Err(Problem::new(ProblemType::Forbidden, detail));
        }
    }
    let mut tx = tenant::begin(&state.app.db, &reader.organization).await?;
    if let Who::Person { user, .. } = reader.who {
        for workspace in topics.iter().filter_map(Topic::workspace) {
            let member = workspaces::member(&mut tx, workspace, user).await?;
            member.ok_or_else(|| Problem::not_found("workspace"))?;
        }
    }
    let mut tx = tx.leave().await?;
    for topic in topics {
        if let Topic::Job(id) = topic {
            let found = backroom_queue::find(&mut tx, *id, Some(reader.organization.slug.as_str())).await?;
            found.ok_or_else(|| Problem::not_found("job"))?;
        }
    }
    Ok(tx.commit().await?)
}

/// Lists what happened, newest first.
#[utoipa::path(
    get, path = "/events", tag = "events", operation_id = "list_events",
    security(("api_key" = ["events:read"])),
    params(ListParams),
    responses((status = 200, body = EventPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    reader: Reader,
    Query(params): Query<ListParams>,
) -> Result<Json<EventPage>, Problem> {
    let page = Page {
        after: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
        newest_first: true,
    };
    let filter = events::filter(std::slice::from_ref(&params.topic));
    authorize(&state, &reader, &[params.topic]).await?;
    let mut tx = tenant::begin(&state.app.db, &reader.organization).await?;
    let mut events = feed::page(&mut tx, &filter, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut events, |event| event.id);
    Ok(Json(EventPage { events: events.into_iter().map(EventView::from).collect(), next_cursor }))
}

/// Follows topics as things happen: Server-Sent Events.
///
/// Each message is an event as JSON; its `id` is the place to go on from. After a break send it back as `Last-Event-ID`: what was
/// missed comes first, each event at least once. Two messages of the same `id` are the same event. `event: ready` says that
/// everything from here on is live; `event: reset` that the place is unknown or too much was missed, so that what is shown must be
/// read anew; `event: end` is the last message and says why: `slow`, `not_allowed`, `expired`, `shutdown`. States of jobs
/// (`job.state`) have no id and are told anew after a break. At least every 15 seconds something comes.
#[utoipa::path(
    get, path = "/events/stream", tag = "events", operation_id = "follow_events",
    security(("api_key" = ["events:read"])),
    params(FollowParams, ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last message")),
    responses((status = 200, body = String, content_type = "text/event-stream"), Problems)
)]
async fn follow(
    State(state): State<ApiState>,
    reader: Reader,
    headers: HeaderMap,
    Query(params): Query<FollowParams>,
) -> Result<Response, Problem> {
    let topics = params.topics()?;
    authorize(&state, &reader, &topics).await?;
    // A person's stream lasts no longer than an access token; the session is asked about all the while.
    let token_lasts = Duration::from_secs(state.app.config.sign_in.access_token_s.into());
    let until = matches!(reader.who, Who::Person { .. }).then(|| Instant::now() + token_lasts);
    let following = state.events.follow(&reader.organization, reader.who, &topics, until).await?;

    let given = headers.get(&LAST_EVENT_ID).and_then(|id| id.to_str().ok()).or(params.last_event_id.as_deref());
    let (mut first, mut held) = (Vec::new(), None);
    if let Some(place) = given.map(str::trim).filter(|place| !place.is_empty()) {
        match state.events.missed(&reader.organization, &following, &topics, place).await? {
            Missed::Events(events, memory) => {
                // A right that ended while this was read ends the live stream by itself, but not this.
                authorize(&state, &reader, &topics).await?;
                first.extend(events.iter().map(events::frame::event));
                held = Some(memory);
            }
            Missed::Unknown => first.push(events::frame::reset("unknown")),
            Missed::TooMuch => first.push(events::frame::reset("too_much")),
        }
    }
    first.push(events::frame::ready(following.seen().horizon(), &topics));
    Ok(answer((first, held), following))
}

/// The first frames, of which the memory is counted until they are on their way, and then what is live.
fn answer((first, held): (Vec<Frame>, Option<OwnedSemaphorePermit>), following: Following) -> Response {
    let first = stream::iter(first).map(move |frame| {
        let _held = &held;
        frame
    });
    let live =
        stream::unfold(following, |mut following| async { following.next().await.map(|frame| (frame, following)) });
    let frames = first.chain(live).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect the messages until its buffer is full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl From<FollowError> for Problem {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Full | FollowError::Stopping => {
                Self::new(ProblemType::Unavailable, error.to_string()).retry_after(1)
            }
            FollowError::TooMany => Self::new(ProblemType::RateLimited, error.to_string()).retry_after(30),
            FollowError::Store(error) => error.into(),
        }
    }
}
