//! Effects on the outside world as the ledger has them (PLAT-21): look, for an organization at its own; and the operator's answer
//! for one that nobody else knows of.

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use backroom_queue::{self as queue, Answered, EffectAnswer, EffectFilter, EffectRecord, EffectState};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    auth::{JobsRead, May, Operator},
    cursor::{self, Limit},
    extract::{Id, Posted, Query},
    openapi::Problems,
    problem::{Problem, ProblemType},
};

const LIST: &str = "effects";

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(resolve))
}

/// What is known of an effect.
#[derive(ToSchema)]
#[schema(as = EffectState, rename_all = "lowercase")]
#[expect(dead_code, reason = "stands in the document for the queue's own type")]
enum EffectStateView {
    /// An attempt is in the call.
    Intended,
    /// A call ended without an answer, or its worker was lost: it may have happened.
    Unknown,
    Done,
    /// It did not happen.
    Refused,
}

/// What a job did to the outside world, or tried to.
#[derive(Serialize, ToSchema)]
#[schema(as = Effect)]
struct EffectView {
    /// Also the idempotency key of every call.
    id: Uuid,
    /// Null for a job of the platform itself.
    organization: Option<String>,
    #[schema(example = "reminder:0199aaaa-0000-7000-8000-000000000000:1")]
    key: String,
    #[schema(value_type = EffectStateView)]
    state: EffectState,
    /// The job that intended it last, or did it.
    job_id: Uuid,
    #[schema(example = "billing.remind_invoice")]
    kind: String,
    /// The job is unfinished and comes back to it by itself.
    job_unfinished: bool,
    attempt: i32,
    /// Calls begun so far.
    calls: i32,
    /// Of these, without an answer.
    unknown: i32,
    /// What the call answered.
    #[schema(value_type = Option<Object>)]
    outcome: Option<Value>,
    /// The last words of a call that was no success.
    error: Option<String>,
    /// Who said whether it happened, if a person did.
    answered_by: Option<String>,
    intended_at: DateTime<Utc>,
    called_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl From<EffectRecord> for EffectView {
    fn from(effect: EffectRecord) -> Self {
        Self {
            id: effect.id,
            organization: effect.tenant,
            key: effect.key,
            state: effect.state,
            job_id: effect.job_id,
            kind: effect.kind,
            job_unfinished: effect.job_unfinished,
            attempt: effect.attempt,
            calls: effect.calls,
            unknown: effect.unknown,
            outcome: effect.outcome,
            error: effect.error,
            answered_by: effect.answered_by,
            intended_at: effect.intended_at,
            called_at: effect.called_at,
            ended_at: effect.ended_at,
        }
    }
}

/// A page of effects, newest job first.
#[derive(Serialize, ToSchema)]
struct EffectPage {
    effects: Vec<EffectView>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[param(value_type = Option<EffectStateView>, inline)]
    state: Option<EffectState>,
    /// Those of one job.
    job: Option<Uuid>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    limit: Limit,
}

/// What was found out about an effect that is unknown.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Resolution {
    /// False: the job's next attempt calls anew.
    happened: bool,
    /// What the call would have answered, for jobs that go on with it.
    #[schema(value_type = Option<Object>)]
    outcome: Option<Value>,
}

/// Who may look: the operator at all, an organization's key at its own.
enum Reader {
    Operator,
    Organization(String),
}

impl FromRequestParts<ApiState> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        if Operator::from_request_parts(parts, state).await.is_ok() {
            return Ok(Self::Operator);
        }
        let caller = May::<JobsRead>::from_request_parts(parts, state).await?;
        Ok(Self::Organization(caller.tenant().to_owned()))
    }
}

/// Lists effects, newest job first: the operator all, an organization its own.
#[utoipa::path(
    get, path = "/effects", tag = "effects", operation_id = "list_effects",
    security(("operator" = []), ("api_key" = ["jobs:read"])),
    params(ListParams),
    responses((status = 200, body = EffectPage), Problems)
)]
async fn list(
    State(state): State<ApiState>,
    reader: Reader,
    Query(params): Query<ListParams>,
) -> Result<Json<EffectPage>, Problem> {
    let filter = EffectFilter {
        tenant: match reader {
            Reader::Operator => None,
            Reader::Organization(slug) => Some(slug),
        },
        state: params.state,
        job_id: params.job,
        before: cursor::decode(LIST, params.cursor.as_deref())?,
        limit: params.limit.probe(),
    };
    let mut effects = queue::effects(&state.app.db, &filter).await?;
    let next_cursor = params.limit.cut(LIST, &mut effects, |effect| (effect.job_id, effect.id));
    Ok(Json(EffectPage { effects: effects.into_iter().map(EffectView::from).collect(), next_cursor }))
}

/// Says whether an unknown effect happened. Retry its job afterwards, if it shall go on.
///
/// Takes no Idempotency-Key: an answer is given once.
#[utoipa::path(
    post, path = "/effects/{id}/resolve", tag = "effects", operation_id = "resolve_effect",
    security(("operator" = [])),
    params(("id" = Uuid, Path)),
    request_body = Resolution,
    responses((status = 200, description = "Known from now on", body = EffectView), Problems)
)]
async fn resolve(
    State(state): State<ApiState>,
    _: Operator,
    Id(id): Id,
    posted: Posted<Resolution>,
) -> Result<Json<EffectView>, Problem> {
    if posted.idempotency.is_some() {
        return Err(Problem::field("Idempotency-Key", "invalid", "is not taken here; an answer is given once"));
    }
    let answer = match posted.body {
        Resolution { happened: true, outcome } => EffectAnswer::Happened(outcome),
        Resolution { happened: false, outcome: None } => EffectAnswer::DidNotHappen,
        Resolution { happened: false, outcome: Some(_) } => {
            return Err(Problem::field("outcome", "invalid", "belongs to an effect that happened"));
        }
    };
    let no_effect = || Problem::new(ProblemType::NotFound, "there is no effect with this id");
    let mut db = state.app.db.acquire().await?;
    match queue::answer_effect(&mut db, id, None, &answer, "operator").await? {
        Answered::Yes => {}
        Answered::Known(known) => {
            return Err(Problem::conflict(format!("the effect is {known} already, and needs no answer")));
        }
        Answered::InCall => return Err(Problem::conflict("an attempt is in the call; wait until it has ended")),
        Answered::NotFound => return Err(no_effect()),
    }
    let effect = queue::find_effect(&mut *db, id, None).await?.ok_or_else(no_effect)?;
    Ok(Json(effect.into()))
}
