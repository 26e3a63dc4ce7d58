//! The flight recorder (PLAT-24): the queue's record of a job, with the events that the job appended in its organization.

use backroom_queue::Dump;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    store::{
        StoreError,
        events::{self, Event},
        organizations,
    },
    tenant,
};

/// Events of one job; more than any kind appends.
const EVENTS_AT_MOST: i64 = 1_000;

/// A job's whole record.
#[derive(Debug, Serialize)]
pub struct Record {
    #[serde(flatten)]
    pub queue: Dump,
    /// What the job did, as the organization's activity log tells it. Empty for a job of the platform's own.
    pub events: Vec<Event>,
}

/// The record of a job; with a tenant, only of that organization's. `None`: there is no such job.
///
/// Unless `with_args`, what the job was given and what it answered shows its shape only. Events are written to be read, and
/// shown as they are, but for those of a workspace: what they say is its members' alone, and who may see jobs need not be one.
pub async fn record(
    db: &PgPool,
    id: Uuid,
    tenant: Option<&str>,
    with_args: bool,
) -> Result<Option<Record>, StoreError> {
    let mut connection = db.acquire().await?;
    let Some(queue) = backroom_queue::dump(&mut connection, id, tenant, with_args).await? else { return Ok(None) };
    let organization = match &queue.job.tenant {
        Some(slug) => organizations::by_slug(&mut connection, slug).await?,
        None => None,
    };
    drop(connection);
    let mut told = Vec::new();
    if let Some(organization) = organization {
        let mut tx = tenant::begin(db, &organization).await?;
        told = events::by_actor(&mut tx, &format!("job:{id}"), id, EVENTS_AT_MOST).await?;
        tx.commit().await?;
        for event in told.iter_mut().filter(|event| event.topic.starts_with("workspace:")) {
            event.payload = Value::Null;
        }
    }
    Ok(Some(Record { queue, events: told }))
}
