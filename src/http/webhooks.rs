//! What third parties send by themselves (SYNC-12): the address that they send it to, and the list of what they sent.

use std::time::Duration;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{IntegrationsRead, May},
    cursor::ListParams,
    edge::Trace,
    extract::{Id, Query},
    network::Network,
    openapi::Problems,
    problem::{Problem, ProblemType},
};
use crate::{
    domain::webhook_delivery::{DeliveryEvent, DeliveryState, WebhookDelivery},
    jobs::integrations::{Heard, Sent, receive},
    store::{integrations, webhook_deliveries},
    tenant,
};

const LIST: &str = "webhook_deliveries";
/// The largest delivery, in bytes.
const MAX_BODY_BYTES: usize = 1 << 20;
/// A refusal takes this long at least, whatever it is for: its time tells as little as its words.
const REFUSED_AFTER: Duration = Duration::from_millis(100);

/// The address that third parties send to. It is none of the API: a vendor's signature stands for the key.
pub fn door() -> Router<ApiState> {
    let take = post(take).layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    Router::new().route("/webhooks/{organization}/{integration}", take)
}

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The integration's own address, for the vendor to be set up with.
pub fn address(state: &ApiState, organization: &str, integration: Uuid) -> String {
    let base = state.app.config.http.public_url.trim_end_matches('/');
    format!("{base}/webhooks/{organization}/{integration}")
}

async fn take(
    State(state): State<ApiState>,
    network: Network,
    Path((organization, integration)): Path<(String, String)>,
    Trace(trace): Trace,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    state.webhooks.take(&network)?;
    let body = body(request, &state).await?;
    let began = Instant::now();
    let (organization, integration) = (organization.as_str(), integration.as_str());
    let sent = Sent { organization, integration, headers: &headers, body: &body, trace: Some(trace) };
    match receive(&state.app, &sent).await? {
        Heard::Taken => Ok(StatusCode::OK.into_response()),
        Heard::Challenge(answer) => Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], answer).into_response()),
        Heard::Refused => {
            tokio::time::sleep_until(began + REFUSED_AFTER).await;
            let detail = "the address, the signature or its time is not right";
            Err(Problem::new(ProblemType::DeliveryRefused, detail))
        }
    }
}

/// The bytes as they came: the signature is over them.
async fn body(request: Request, state: &ApiState) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE),
        _ => Problem::new(ProblemType::MalformedBody, "the body ended before its time"),
    })
}

/// Something that a third party sent by itself.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
struct DeliveryView {
    id: Uuid,
    /// The sender's own; the same when it comes again.
    external_id: String,
    happened: DeliveryEvent,
    /// As it came: what changed, without records.
    #[schema(value_type = Object)]
    payload: Value,
    state: DeliveryState,
    /// What came of it, for a person.
    outcome: Option<String>,
    received_at: DateTime<Utc>,
    handled_at: Option<DateTime<Utc>>,
}

/// A page of deliveries, newest first.
#[derive(Serialize, ToSchema)]
struct DeliveryPage {
    deliveries: Vec<DeliveryView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

impl From<WebhookDelivery> for DeliveryView {
    fn from(delivery: WebhookDelivery) -> Self {
        let WebhookDelivery { id, external_id, happened, payload, state, outcome, received_at, handled_at, .. } =
            delivery;
        Self { id, external_id, happened, payload, state, outcome, received_at, handled_at }
    }
}

/// Lists what an integration's third party sent by itself within the last 30 days, newest first.
#[utoipa::path(
    get, path = "/integrations/{id}/deliveries", tag = "integrations", operation_id = "list_webhook_deliveries",
    security(("api_key" = ["integrations:read"])),
    params(("id" = Uuid, Path), ListParams),
    responses((status = 200, body = DeliveryPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    caller: May<IntegrationsRead>,
    Id(id): Id,
    Query(params): Query<ListParams>,
) -> Result<Json<DeliveryPage>, Problem> {
    let page = params.newest_first(LIST)?;
    let mut tx = tenant::begin(&state.app.db, &caller.organization).await?;
    integrations::by_id(&mut tx, id).await?.ok_or_else(|| Problem::not_found("integration"))?;
    let mut deliveries = webhook_deliveries::page(&mut tx, id, page).await?;
    tx.commit().await?;
    let next_cursor = params.limit.cut(LIST, &mut deliveries, |delivery| delivery.id);
    Ok(Json(DeliveryPage { deliveries: deliveries.into_iter().map(DeliveryView::from).collect(), next_cursor }))
}
