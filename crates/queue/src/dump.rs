//! The flight recorder: everything that the queue knows of one job, as one document (PLAT-24).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{AttemptError, JobRecord, JobState, Limits, RateState, TraceParent, Why, explain, find};

/// A job's life, for a person to read or to send to somebody.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Dump {
    /// By the database's clock.
    pub dumped_at: DateTime<Utc>,
    /// Arguments, result and the effects' outcomes show their shape only.
    pub redacted: bool,
    /// The job as it is stored; its errors are in `changes` too.
    pub job: JobRecord,
    pub unique_key: Option<String>,
    /// Of the `trace`, for a search in logs.
    pub trace_id: Option<String>,
    /// What happened to it, in order. Hand-backs leave no trace, and of very many events the last hundred are kept.
    pub changes: Vec<Change>,
    /// Who had it, in order, as far as the kept events tell.
    pub leases: Vec<Lease>,
    /// Its rows in the ledger of effects, as stored. `None`: this database has no ledger.
    pub effects: Option<Vec<Value>>,
    /// What is decided now about what the job belongs to.
    pub rules: Rules,
    pub why: Why,
}

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Change {
    pub at: DateTime<Utc>,
    /// `created`, `due`, `claimed`, `begun`, `failed`, `snoozed`, `lost`, `cancel requested`, `hastened`, `retried`,
    /// or the state in which it ended.
    pub event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Of an end: before a retry (`retried`), or its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One claim of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Lease {
    pub lease: Uuid,
    pub worker: Option<String>,
    pub attempt: Option<u32>,
    pub claimed_at: Option<DateTime<Utc>>,
    /// When its handler began. `None`: within the first moments, or never.
    pub begun_at: Option<DateTime<Utc>>,
    /// When it would end without a renewal, as far as is known.
    pub until: Option<DateTime<Utc>>,
    /// `None`: it still runs.
    pub ended_at: Option<DateTime<Utc>>,
    /// `failed`, `snoozed`, `lost`, `running`, or the state in which the job ended.
    pub end: String,
}

/// What is decided about a job's queue, tenant and rate key.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Rules {
    pub queue_paused_at: Option<DateTime<Utc>>,
    pub queue_limits: Limits,
    pub tenant_held_at: Option<DateTime<Utc>>,
    pub rate_limit: Option<RateState>,
}

/// What both tables say of a job beyond [`JobRecord`].
#[derive(sqlx::FromRow)]
struct Beyond {
    unique_key: Option<String>,
    lease: Option<Uuid>,
    lease_until: Option<DateTime<Utc>>,
    trail: Option<Value>,
    now: DateTime<Utc>,
}

/// An entry of a job's trail.
#[derive(Clone, Deserialize)]
struct Event {
    at: DateTime<Utc>,
    event: String,
    attempt: Option<u32>,
    lease: Option<Uuid>,
    worker: Option<String>,
    claimed_at: Option<DateTime<Utc>>,
    begun_at: Option<DateTime<Utc>>,
    lease_until: Option<DateTime<Utc>>,
    was: Option<String>,
    finished_at: Option<DateTime<Utc>>,
    reason: Option<String>,
}

/// Everything about a job; with a tenant, only of that tenant's, and without the names of workers. `None`: there is no such
/// job.
///
/// Unless `with_args`, every text and number in arguments, result and effects' outcomes is replaced by its type and length. What
/// is stored sealed is shown as it is stored: sealed.
pub async fn dump(
    db: &mut PgConnection,
    id: Uuid,
    tenant: Option<&str>,
    with_args: bool,
) -> sqlx::Result<Option<Dump>> {
    // A job moves between the tables, so it is looked for again if it was in neither, or has moved between two looks.
    for _ in 0..3 {
        let Some(mut job) = find(&mut *db, id, tenant).await? else { return Ok(None) };
        let Some(beyond) = beyond(&mut *db, id, job.state).await? else { continue };
        let Some(why) = explain(&mut *db, id, tenant).await? else { continue };
        let mut effects = effects(&mut *db, id).await?;
        let rules = rules(&mut *db, &job).await?;
        let events: Vec<Event> = match beyond.trail.clone() {
            Some(trail) => serde_json::from_value(trail).map_err(|e| sqlx::Error::Decode(Box::new(e)))?,
            None => Vec::new(),
        };
        let (mut changes, mut leases) = (changes(&job, &events), leases(&job, &beyond, &events));
        if tenant.is_some() {
            job.worker = None;
            job.errors.iter_mut().for_each(|error| error.worker.clear());
            changes.iter_mut().for_each(|change| change.worker = None);
            leases.iter_mut().for_each(|lease| lease.worker = None);
        }
        if !with_args {
            redact(&mut job.args);
            job.result.iter_mut().for_each(redact);
            effects.iter_mut().flatten().filter_map(|effect| effect.get_mut("outcome")).for_each(redact);
        }
        let trace_id = job.trace.as_ref().and_then(|trace| trace.parse::<TraceParent>().ok());
        return Ok(Some(Dump {
            dumped_at: beyond.now,
            redacted: !with_args,
            unique_key: beyond.unique_key,
            trace_id: trace_id.map(|trace| trace.trace_id().to_owned()),
            changes,
            leases,
            effects,
            rules,
            why,
            job,
        }));
    }
    Ok(None)
}

async fn beyond(db: &mut PgConnection, id: Uuid, state: JobState) -> sqlx::Result<Option<Beyond>> {
    let sql = if state.is_finished() {
        "select unique_key, lease, null::timestamptz as lease_until, trail, clock_timestamp() as now
         from queue.finished_jobs where id = $1"
    } else {
        "select unique_key, lease, lease_until, trail, clock_timestamp() as now from queue.jobs where id = $1"
    };
    sqlx::query_as(sql).bind(id).fetch_optional(db).await
}

async fn effects(db: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Vec<Value>>> {
    let ledger: bool =
        sqlx::query_scalar("select to_regclass('queue.effects') is not null").fetch_one(&mut *db).await?;
    if !ledger {
        return Ok(None);
    }
    let rows = sqlx::query_scalar("select to_jsonb(e) from queue.effects e where e.job_id = $1 order by e.id");
    rows.bind(id).fetch_all(db).await.map(Some)
}

async fn rules(db: &mut PgConnection, job: &JobRecord) -> sqlx::Result<Rules> {
    let queue_paused_at: Option<Option<DateTime<Utc>>> =
        sqlx::query_scalar("select paused_at from queue.queues where name = $1")
            .bind(&job.queue)
            .fetch_optional(&mut *db)
            .await?;
    let tenant_held_at: Option<DateTime<Utc>> =
        sqlx::query_scalar("select held_at from queue.held_tenants where tenant = $1")
            .bind(&job.tenant)
            .fetch_optional(&mut *db)
            .await?;
    let rate_limit = match &job.rate_key {
        Some(key) => crate::rate::rate_limit(&mut *db, key).await?,
        None => None,
    };
    Ok(Rules {
        queue_paused_at: queue_paused_at.flatten(),
        queue_limits: crate::limits(db, &job.queue).await?,
        tenant_held_at,
        rate_limit,
    })
}

fn changes(job: &JobRecord, events: &[Event]) -> Vec<Change> {
    let plain = |at, event: &str| Change {
        at,
        event: event.to_owned(),
        attempt: None,
        worker: None,
        error: None,
        reason: None,
    };
    let claim = |at: Option<_>, event, attempt, worker: &Option<String>| {
        at.map(|at| Change { attempt, worker: worker.clone(), ..plain(at, event) })
    };
    let mut changes = vec![plain(job.created_at, "created")];
    // The errors that no event of the trail stands for: of an end, and older ones than the trail keeps.
    let mut errors: Vec<&AttemptError> = job.errors.iter().collect();
    for event in events {
        changes.extend(claim(event.claimed_at, "claimed", event.attempt, &event.worker));
        changes.extend(claim(event.begun_at, "begun", event.attempt, &event.worker));
        if event.event == "retried" {
            let ended = event.was.as_deref().unwrap_or("ended");
            let reason = event.reason.clone();
            changes.extend(event.finished_at.map(|at| Change { reason, ..plain(at, ended) }));
            changes.push(plain(event.at, "retried"));
            continue;
        }
        let told = errors.iter().position(|error| Some(error.attempt) == event.attempt && error.at == event.at);
        changes.push(Change {
            attempt: event.attempt,
            worker: event.worker.clone(),
            error: told.map(|n| errors.remove(n).error.clone()),
            ..plain(event.at, &event.event)
        });
    }
    for AttemptError { attempt, at, error, worker } in errors.into_iter().cloned() {
        let (attempt, worker, error) = (Some(attempt), Some(worker), Some(error));
        changes.push(Change { attempt, worker, error, ..plain(at, "failed") });
    }
    // The last claim, if no event has ended it.
    if events.iter().all(|event| event.claimed_at != job.attempted_at) {
        changes.extend(claim(job.attempted_at, "claimed", Some(job.attempt), &job.worker));
        changes.extend(claim(job.begun_at, "begun", Some(job.attempt), &job.worker));
    }
    if let Some(at) = job.finished_at {
        changes.push(Change { reason: job.reason.clone(), ..plain(at, job.state.as_str()) });
    } else if job.run_at > job.created_at && job.state != JobState::Running {
        changes.push(plain(job.run_at, "due"));
    }
    changes.sort_by_key(|change| (change.at, rank(&change.event)));
    changes
}

/// The order of what one statement recorded at one time: an attempt fails, and so the job ends.
fn rank(event: &str) -> u8 {
    match event {
        "created" => 0,
        "claimed" => 1,
        "begun" => 2,
        "completed" | "cancelled" | "discarded" => 4,
        "retried" => 5,
        _ => 3,
    }
}

fn leases(job: &JobRecord, beyond: &Beyond, events: &[Event]) -> Vec<Lease> {
    let mut leases: Vec<Lease> = events
        .iter()
        .filter_map(|event| {
            Some(Lease {
                lease: event.lease?,
                worker: event.worker.clone(),
                attempt: event.attempt,
                claimed_at: event.claimed_at,
                begun_at: event.begun_at,
                until: event.lease_until,
                ended_at: event.finished_at.or(Some(event.at)),
                end: event.was.as_ref().unwrap_or(&event.event).clone(),
            })
        })
        .collect();
    leases.extend(beyond.lease.map(|lease| Lease {
        lease,
        worker: job.worker.clone(),
        attempt: Some(job.attempt),
        claimed_at: job.attempted_at,
        begun_at: job.begun_at,
        until: beyond.lease_until,
        ended_at: job.finished_at,
        end: job.state.as_str().to_owned(),
    }));
    leases
}

/// Replaces every text and number by its type and length; names, truth values and the shape stay.
fn redact(value: &mut Value) {
    match value {
        Value::String(text) => *value = json!(format!("string({})", text.chars().count())),
        Value::Number(number) => *value = json!(format!("number({})", number.to_string().len())),
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => {
            let fields: &mut Map<String, Value> = fields;
            fields.values_mut().for_each(redact);
        }
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PLAT-24
    #[test]
    fn what_is_redacted_keeps_its_shape_and_tells_nothing_else() {
        let mut value = json!({"name": "Åsa", "ids": [12, -3.5], "deep": {"yes": true, "none": null, "empty": ""}});
        redact(&mut value);
        let expected = json!({"name": "string(3)", "ids": ["number(2)", "number(4)"],
                              "deep": {"yes": true, "none": null, "empty": "string(0)"}});
        assert_eq!(value, expected);
    }
}
