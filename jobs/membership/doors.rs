//! What happens to requests to become a member, each with its event (EVT-1). Events name no address: who may read the request sees it
//! there.

use backroom_queue::{Job, NewJob, Registry, TraceParent, enqueue};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use super::{SendConfirmation, SendDecision, topic};
use crate::{
    context::App,
    domain::{
        JoinRequest, JoinStatus, JoinStep, Language, LinkToken, NewJoinRequest, NewUser, Organization, PasswordHash,
        Role, User, join_request::DECISIONS_TOLD,
    },
    jobs::workspaces,
    store::{
        StoreError,
        events::{self, NewEvent},
        join_requests::{self, Token},
        memberships, organizations, password_resets, users,
    },
    tenant::{self, TenantTx},
};

/// As events name who asks, or follows the link in the mail.
const APPLICANT: &str = "applicant";

/// Who decides, when, and in which trace.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// As events name them: `user:<id>`, `api_key:<id>`.
    pub actor: &'a str,
    pub now: DateTime<Utc>,
    pub trace: Option<TraceParent>,
}

/// Why something was not done that nobody can help.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("could not seal the job that sends the mail")]
    Seal(#[source] anyhow::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for JoinError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

async fn tell(
    db: &mut PgConnection,
    request: Uuid,
    (kind, payload): (&str, Value),
    asked: &Asked<'_>,
) -> Result<(), StoreError> {
    let event = NewEvent { topic: topic(request), kind, payload, actor: asked.actor };
    events::append(db, &event, asked.now).await?;
    Ok(())
}

/// The job knows the token, which no table does; it is stored sealed.
async fn enqueue_mail(
    db: &mut PgConnection,
    (organization, registry): (&Organization, &Registry<App>),
    job: &impl Job,
    asked: &Asked<'_>,
) -> Result<(), JoinError> {
    let job = NewJob::of(job).tenant(organization.slug.as_str()).trace(asked.trace.clone());
    enqueue(db, &registry.seal(job).map_err(JoinError::Seal)?).await?;
    Ok(())
}

/// JOIN-1, JOIN-3: stores the request, or renews it, and enqueues its mail. What became of it is nobody's business outside: whether the
/// address is known, waits for a decision or was sent enough mails. The caller opens the transaction as the organization.
pub async fn submit(
    db: &mut PgConnection,
    (organization, registry): (&Organization, &Registry<App>),
    new: &NewJoinRequest,
    (now, trace): (DateTime<Utc>, Option<TraceParent>),
) -> Result<(), JoinError> {
    let asked = Asked { actor: APPLICANT, now, trace };
    let token = LinkToken::random(&organization.slug);
    let Some(request) = join_requests::submit(db, new, token.hash(), now).await? else { return Ok(()) };
    let kind = if request.token_number == 1 { "join_request.received" } else { "join_request.renewed" };
    tell(db, request.id, (kind, json!({ "schema_version": request.schema_version })), &asked).await?;
    enqueue_mail(db, (organization, registry), &SendConfirmation { request_id: request.id, token }, &asked).await
}

/// Why a link opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// There never was such a token, or a newer one has replaced it.
    Unknown,
    /// It was used.
    Used,
    /// There is a password already, and no link sets another.
    HasPassword,
    Expired,
    /// The organization is suspended: nothing changes in it at present.
    Held,
}

/// What a look at a link shows.
#[derive(Clone, Debug)]
pub enum Opened {
    /// To be confirmed, or confirmed just now.
    Request { organization: Box<Organization>, request: Box<JoinRequest> },
    /// A new member who has no password yet, or has chosen one just now.
    Password { organization: Box<Organization>, request: Box<JoinRequest> },
    /// With the organization's name and the mail's language, where the token is known.
    Shut(Shut, Option<(String, Language)>),
}

/// Looks at a token; changes nothing.
pub async fn open(db: &PgPool, token: &LinkToken, now: DateTime<Utc>) -> Result<Opened, StoreError> {
    let found = organizations::by_slug(&mut *db.acquire().await?, token.organization().as_str()).await?;
    let Some(organization) = found else { return Ok(Opened::Shut(Shut::Unknown, None)) };
    let mut tx = tenant::begin(db, &organization).await?;
    let found = join_requests::by_token(&mut tx, &token.hash()).await?;
    tx.commit().await?;
    let opened = look(organization, found, now);
    if let Opened::Password { organization, request } = &opened
        && let Some(user) = request.user_id
        && users::password(&mut *db.acquire().await?, user).await?.is_some()
    {
        return Ok(has_password(organization, request));
    }
    Ok(opened)
}

fn has_password(organization: &Organization, request: &JoinRequest) -> Opened {
    Opened::Shut(Shut::HasPassword, Some((organization.name.clone(), request.language)))
}

fn look(organization: Organization, found: Option<Token>, now: DateTime<Utc>) -> Opened {
    let shut = |why, request: &JoinRequest| Opened::Shut(why, Some((organization.name.clone(), request.language)));
    match found {
        None => Opened::Shut(Shut::Unknown, None),
        Some(Token::Used(request)) => shut(Shut::Used, &request),
        Some(Token::Confirms(request)) if request.token_expires_at.is_none_or(|at| at <= now) => {
            shut(Shut::Expired, &request)
        }
        Some(Token::ChoosesPassword { request, until }) if until <= now => shut(Shut::Expired, &request),
        Some(Token::Confirms(request) | Token::ChoosesPassword { request, .. }) if organization.is_held() => {
            shut(Shut::Held, &request)
        }
        Some(Token::Confirms(request)) => {
            Opened::Request { organization: Box::new(organization), request: Box::new(request) }
        }
        Some(Token::ChoosesPassword { request, .. }) => {
            Opened::Password { organization: Box::new(organization), request: Box::new(request) }
        }
    }
}

/// JOIN-4: the address is proved, and the token used up.
pub async fn confirm(app: &App, token: &LinkToken) -> Result<Opened, StoreError> {
    let mut tx = app.db.begin().await?;
    let Some(organization) = organizations::by_slug(&mut tx, token.organization().as_str()).await? else {
        return Ok(Opened::Shut(Shut::Unknown, None));
    };
    let now = app.clock.now();
    let mut tx = TenantTx::enter(tx, &organization).await?;
    let confirmed =
        if organization.is_held() { None } else { join_requests::confirm(&mut tx, &token.hash(), now).await? };
    let Some(request) = confirmed else {
        // Why not says the row; whoever was faster has changed it by now.
        let found = join_requests::by_token(&mut tx, &token.hash()).await?;
        return Ok(match look(organization, found, now) {
            // It came in between: it is no longer what the form was for.
            Opened::Request { .. } => Opened::Shut(Shut::Unknown, None),
            other => other,
        });
    };
    let asked = Asked { actor: APPLICANT, now, trace: None };
    tell(&mut tx, request.id, ("join_request.submitted", json!({ "status": request.status })), &asked).await?;
    tx.commit().await?;
    Ok(Opened::Request { organization: Box::new(organization), request: Box::new(request) })
}

/// Why a request is not decided, or the decision not told again.
#[derive(Debug, thiserror::Error)]
pub enum ApproveError {
    #[error("there is no such request")]
    Unknown,
    /// Only a submitted one is decided.
    #[error("the request is {0}")]
    NotSubmitted(JoinStatus),
    #[error("nothing is decided yet")]
    NotDecided,
    #[error("the person is no member any more")]
    Left,
    #[error("the decision was told {DECISIONS_TOLD} times")]
    ToldEnough,
    #[error(transparent)]
    Join(#[from] JoinError),
}

impl From<StoreError> for ApproveError {
    fn from(error: StoreError) -> Self {
        Self::Join(error.into())
    }
}

impl From<sqlx::Error> for ApproveError {
    fn from(error: sqlx::Error) -> Self {
        Self::Join(error.into())
    }
}

/// The request, locked, if the step can be taken.
async fn lock(db: &mut PgConnection, id: Uuid, step: JoinStep) -> Result<JoinRequest, ApproveError> {
    let request = join_requests::lock(db, id).await?.ok_or(ApproveError::Unknown)?;
    match request.status.after(step) {
        Some(_) => Ok(request),
        None => Err(ApproveError::NotSubmitted(request.status)),
    }
}

/// JOIN-5: makes the applicant a member, once, and enqueues the mail that tells. One transaction over both planes: begun on the
/// control plane, given back as the organization's, to be committed. Who has no password chooses one by a link in that mail.
pub async fn approve(
    tx: Transaction<'static, Postgres>,
    (organization, registry): (&Organization, &Registry<App>),
    id: Uuid,
    asked: &Asked<'_>,
) -> Result<(TenantTx, JoinRequest), ApproveError> {
    let mut tx = TenantTx::enter(tx, organization).await?;
    let request = lock(&mut tx, id, JoinStep::Approve).await?;
    let mut plane = tx.leave().await?;
    let user = account_of(&mut plane, &request, asked.now).await?;
    let joined = memberships::add(&mut plane, organization.id, user.id, Role::User, None, asked.now).await?;
    // Whoever confirmed the request has read the mail that the link was in. A password from before that may be another's.
    tenant::prove_address(&mut plane, user.id, None, asked.now).await?;
    let has_password = users::password(&mut plane, user.id).await?.is_some();

    let mut tx = TenantTx::enter(plane, organization).await?;
    let personal = workspaces::Asked { actor: asked.actor, now: asked.now, trace: asked.trace.clone() };
    workspaces::ensure_personal(&mut tx, (user.id, user.language), &personal).await?;
    let token = (!has_password).then(|| LinkToken::random(&organization.slug));
    let hash = token.as_ref().map(LinkToken::hash);
    let approved = join_requests::approve(&mut tx, (id, user.id), hash, asked.actor, asked.now).await?;
    let request = approved.ok_or(ApproveError::NotSubmitted(request.status))?;
    tell(&mut tx, id, ("join_request.approved", json!({ "user_id": user.id })), asked).await?;
    if joined {
        let (topic, payload) = ("organization".to_owned(), json!({ "user_id": user.id, "role": Role::User }));
        let event = NewEvent { topic, kind: "member.added", payload, actor: asked.actor };
        events::append(&mut tx, &event, asked.now).await?;
    }
    let mail = SendDecision { request_id: id, token, number: request.decision_number };
    enqueue_mail(&mut tx, (organization, registry), &mail, asked).await?;
    Ok((tx, request))
}

/// Whose address it is; a new person if it is nobody's.
async fn account_of(db: &mut PgConnection, request: &JoinRequest, now: DateTime<Utc>) -> Result<User, StoreError> {
    if let Some(user) = users::by_email(db, &request.email).await? {
        return Ok(user);
    }
    let new = NewUser {
        email: request.email.clone(),
        name: request.name(),
        language: request.language,
        password: None,
        confirmed_at: request.submitted_at,
    };
    match users::create(db, &new, now).await {
        // Somebody was faster: it is the same person's account.
        Err(error @ StoreError::Conflict { .. }) => users::by_email(db, &request.email).await?.ok_or(error),
        created => created,
    }
}

/// JOIN-5: the applicant does not become a member, and a mail says so. The caller opens the transaction as the organization.
pub async fn reject(
    db: &mut PgConnection,
    (organization, registry): (&Organization, &Registry<App>),
    id: Uuid,
    asked: &Asked<'_>,
) -> Result<JoinRequest, ApproveError> {
    let request = lock(db, id, JoinStep::Reject).await?;
    let rejected = join_requests::reject(db, id, asked.actor, asked.now).await?;
    let request = rejected.ok_or(ApproveError::NotSubmitted(request.status))?;
    tell(db, id, ("join_request.rejected", json!({})), asked).await?;
    let mail = SendDecision { request_id: id, token: None, number: request.decision_number };
    enqueue_mail(db, (organization, registry), &mail, asked).await?;
    Ok(request)
}

/// JOIN-5: tells the decision again, as where the mail did not arrive or its link has expired: with a new link for who has no password
/// yet, and the old one opens nothing. One transaction over both planes, as [`approve`].
pub async fn resend(
    tx: Transaction<'static, Postgres>,
    (organization, registry): (&Organization, &Registry<App>),
    id: Uuid,
    asked: &Asked<'_>,
) -> Result<(TenantTx, JoinRequest), ApproveError> {
    let mut tx = TenantTx::enter(tx, organization).await?;
    let request = join_requests::lock(&mut tx, id).await?.ok_or(ApproveError::Unknown)?;
    if request.decided_at.is_none() {
        return Err(ApproveError::NotDecided);
    }
    let mut plane = tx.leave().await?;
    let mut token = None;
    if let Some(user) = request.user_id {
        if memberships::find(&mut plane, organization.id, user).await?.is_none() {
            return Err(ApproveError::Left);
        }
        let has_password = users::password(&mut plane, user).await?.is_some();
        token = (!has_password).then(|| LinkToken::random(&organization.slug));
    }
    let mut tx = TenantTx::enter(plane, organization).await?;
    let hash = token.as_ref().map(LinkToken::hash);
    let renewed = join_requests::renew_decision(&mut tx, id, hash, asked.now).await?;
    let request = renewed.ok_or(ApproveError::ToldEnough)?;
    tell(&mut tx, id, ("join_request.decision_resent", json!({ "status": request.status })), asked).await?;
    let mail = SendDecision { request_id: id, token, number: request.decision_number };
    enqueue_mail(&mut tx, (organization, registry), &mail, asked).await?;
    Ok((tx, request))
}

/// A new member chooses the first password; one that is there already stays, and the answer says so. Uses the token up.
pub async fn choose_password(app: &App, token: &LinkToken, password: &PasswordHash) -> Result<Opened, StoreError> {
    let mut tx = app.db.begin().await?;
    let Some(organization) = organizations::by_slug(&mut tx, token.organization().as_str()).await? else {
        return Ok(Opened::Shut(Shut::Unknown, None));
    };
    let now = app.clock.now();
    let mut tx = TenantTx::enter(tx, &organization).await?;
    let used = if organization.is_held() {
        None
    } else {
        join_requests::use_password_token(&mut tx, &token.hash(), now).await?
    };
    let Some((request, user)) = used.and_then(|request| request.user_id.map(|user| (request, user))) else {
        let found = join_requests::by_token(&mut tx, &token.hash()).await?;
        return Ok(match look(organization, found, now) {
            shut @ Opened::Shut(..) => shut,
            Opened::Request { .. } | Opened::Password { .. } => Opened::Shut(Shut::Unknown, None),
        });
    };
    let mut plane = tx.leave().await?;
    let chosen = users::set_password(&mut plane, user, None, password, now).await?;
    if chosen {
        password_resets::expire(&mut plane, user, now).await?;
    }
    plane.commit().await?;
    if !chosen {
        return Ok(has_password(&organization, &request));
    }
    Ok(Opened::Password { organization: Box::new(organization), request: Box::new(request) })
}
