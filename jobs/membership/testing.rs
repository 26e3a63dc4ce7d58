//! What the tests of this family do again and again.

use backroom_queue::{Job, JobFilter, JobRecord};
use chrono::Duration;
use serde_json::Map;
use uuid::Uuid;

use super::{ApproveError, Asked, Opened, SendConfirmation, SendPasswordReset};
use crate::{
    context::JobSealer,
    domain::{EmailAddress, JoinRequest, Language, LinkToken, NewJoinRequest, NewUser, Organization, Role},
    jobs::testing::World,
    store::{Page, events, join_requests, users},
    tenant,
};

#[derive(Clone)]
pub struct Submitted {
    pub id: Uuid,
    pub job: SendConfirmation,
}

pub fn request_of(email: &str) -> NewJoinRequest {
    NewJoinRequest {
        email: EmailAddress::parse(email).unwrap(),
        first_name: "Anna".to_owned(),
        last_name: "Ek".to_owned(),
        form: Map::new(),
        schema_version: 1,
        language: Language::Sv,
    }
}

/// Asks, and takes the job that mails the token; `None` if nothing was to be mailed.
pub async fn try_submit(world: &World, email: &str) -> Option<Submitted> {
    let before = jobs(world).await.len();
    let mut tx = world.tenant().await;
    let shared = (&world.organization, &*world.registry);
    super::submit(&mut tx, shared, &request_of(email), (world.now(), None)).await.unwrap();
    tx.commit().await.unwrap();
    let jobs = jobs(world).await;
    (jobs.len() > before).then(|| jobs[0].clone())
}

pub async fn submit(world: &World, email: &str) -> Submitted {
    try_submit(world, email).await.expect("a mail is owed")
}

/// The confirmation jobs there are, newest first.
async fn jobs(world: &World) -> Vec<Submitted> {
    let submitted = |job: SendConfirmation| Submitted { id: job.request_id, job };
    opened(world).await.into_iter().map(submitted).collect()
}

/// The jobs there are that mail a link to who has forgotten their password, newest first.
pub async fn reset_jobs(world: &World) -> Vec<SendPasswordReset> {
    opened(world).await
}

async fn opened<J: Job>(world: &World) -> Vec<J> {
    let filter = JobFilter { kind: Some(J::KIND.to_owned()), limit: 10_000, ..JobFilter::default() };
    let records = backroom_queue::list(&world.app.db, &filter).await.unwrap();
    let sealer = JobSealer::new(&world.app.config.vault);
    let open = |mut record: JobRecord| {
        record.open(&sealer).unwrap();
        serde_json::from_value(record.args).unwrap()
    };
    records.into_iter().map(open).collect()
}

pub fn address(email: &str) -> EmailAddress {
    EmailAddress::parse(email).unwrap()
}

/// Somebody with an account and a place in these organizations, in this order.
pub async fn forgetful(world: &World, email: &str, organizations: &[&Organization]) -> Uuid {
    let (email, name, language) = (address(email), "Anna Ek".to_owned(), Language::Sv);
    let new = NewUser { email, name, language, password: None, confirmed_at: Some(world.now()) };
    let mut db = world.app.db.acquire().await.unwrap();
    let user = users::create(&mut db, &new, world.now()).await.unwrap().id;
    for (organization, minutes) in organizations.iter().zip(0..) {
        let told = ("test", world.now() + Duration::minutes(minutes));
        let tx = world.app.db.begin().await.unwrap();
        tenant::join(tx, organization, user, (Role::User, None), told).await.unwrap().commit().await.unwrap();
    }
    user
}

pub async fn confirm(world: &World, token: &LinkToken) {
    let opened = super::confirm(&world.app, token).await.unwrap();
    assert!(matches!(opened, Opened::Request { .. }), "{opened:?}");
}

fn by_admin(world: &World) -> Asked<'static> {
    Asked { actor: "user:admin", now: world.now(), trace: None }
}

pub async fn approve(world: &World, id: Uuid) -> Result<JoinRequest, ApproveError> {
    let shared = (&world.organization, &*world.registry);
    let (tx, request) = super::approve(world.app.db.begin().await.unwrap(), shared, id, &by_admin(world)).await?;
    tx.commit().await.unwrap();
    Ok(request)
}

pub async fn reject(world: &World, id: Uuid) -> Result<JoinRequest, ApproveError> {
    let mut tx = world.tenant().await;
    let request = super::reject(&mut tx, (&world.organization, &*world.registry), id, &by_admin(world)).await?;
    tx.commit().await.unwrap();
    Ok(request)
}

pub async fn resend(world: &World, id: Uuid) -> Result<JoinRequest, ApproveError> {
    let shared = (&world.organization, &*world.registry);
    let (tx, request) = super::resend(world.app.db.begin().await.unwrap(), shared, id, &by_admin(world)).await?;
    tx.commit().await.unwrap();
    Ok(request)
}

pub async fn reload(world: &World, id: Uuid) -> Option<JoinRequest> {
    join_requests::by_id(&mut *world.tenant().await, id).await.unwrap()
}

pub async fn kinds(world: &World, id: Uuid) -> Vec<String> {
    let topic = format!("join_request:{id}");
    let page = events::page(&mut *world.tenant().await, Some(&topic), Page::first(100)).await.unwrap();
    page.into_iter().map(|event| event.kind).collect()
}
