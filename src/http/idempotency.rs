//! `Idempotency-Key` (API-3, draft-ietf-httpapi-idempotency-key-header): a POST that is repeated with the same key does
//! its work once and gives the first answer again.
//!
//! Key, work and answer are one transaction. A call that is refused or fails leaves nothing behind, its key included, so
//! it can be corrected or tried again under the same key; only what was done is kept. An answer may show what is sealed
//! elsewhere (a company's phone, a new API key), so it is kept sealed.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret;
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

use super::{
    ApiState, auth,
    problem::{Problem, ProblemType},
};
use crate::{
    domain::Organization,
    store::idempotency::{self, Begin},
    tenant::TenantTx,
    vault::{Place, Vault},
};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const MAX_KEY_LENGTH: usize = 255;
/// Longer than a connection needs to roll a dropped transaction back.
const ROLLBACK_TAKES: Duration = Duration::from_millis(50);

/// A request's key, before its body was read.
pub struct Key {
    owner: String,
    key: String,
    head: Sha256,
}

/// A request's key and what the request is: the same key with another fingerprint is a mistake.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// Whose key it is: another's answer is not for them. The beginning of what is stored.
    owner: String,
    /// As the client wrote it.
    key: String,
    /// Keyed: the body may hold a password, which nobody shall find by trying from the table alone.
    fingerprint: Vec<u8>,
}

impl Key {
    /// The request's key, if it has one.
    pub fn of(request: &Request) -> Result<Option<Self>, Problem> {
        let Some(value) = request.headers().get(&KEY) else { return Ok(None) };
        let key = value.to_str().ok().map(str::trim).filter(|key| (1..=MAX_KEY_LENGTH).contains(&key.len()));
        let Some(key) = key else {
            let message = format!("must have 1 to {MAX_KEY_LENGTH} visible ASCII characters");
            return Err(Problem::field("Idempotency-Key", "invalid", message));
        };
        let mut head = Sha256::new();
        for part in [request.method().as_str(), request.uri().path(), request.uri().query().unwrap_or_default()] {
            head.update(part);
            head.update([0]);
        }
        Ok(Some(Self { owner: auth::owner_of_keys(request), key: key.to_owned(), head }))
    }

    /// The key together with what the request says.
    pub fn over(mut self, body: &[u8], vault: &Vault) -> Idempotency {
        self.head.update(body);
        let said: String = self.head.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let fingerprint = vault.blind_index("", "public.idempotency_keys", "fingerprint", &said);
        Idempotency { owner: self.owner, key: self.key, fingerprint }
    }
}

impl Idempotency {
    /// The key of somebody who acts for nobody, whoever they say they are.
    #[must_use]
    pub fn of_stranger(self) -> Self {
        Self { owner: "\u{1}".to_owned(), ..self }
    }

    /// The key of who holds a session's refresh token, whoever they say they are besides: a repeat need not bring the same access token.
    #[must_use]
    pub fn of_session(self, session: Uuid) -> Self {
        Self { owner: format!("\u{2}session:{session} "), ..self }
    }

    fn stored(&self) -> String {
        format!("{}{}", self.owner, self.key)
    }
}

/// What a POST answers when it has done its work.
#[derive(Clone, Debug)]
pub struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: String,
}

impl Answer {
    pub fn new(status: StatusCode, body: &impl Serialize) -> Self {
        Self { status, location: None, body: serde_json::to_string(body).expect("an answer has a JSON form") }
    }

    #[must_use]
    pub fn at(mut self, location: impl Into<String>) -> Self {
        self.location = Some(location.into());
        self
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

/// How a POST begins.
pub enum Begun {
    /// Do the work in here, then [`Work::finish`].
    Fresh(Work),
    /// It was done before: this is its answer.
    Answered(Response),
}

/// The transaction of one POST. Dropped unfinished, it leaves nothing behind.
pub struct Work {
    tx: Reach,
    keep: Option<Keep>,
}

/// Where the answer will be kept.
struct Keep {
    organization: Uuid,
    slug: String,
    key: Idempotency,
    vault: Vault,
}

/// What the transaction reaches.
enum Reach {
    /// The control plane and the queue.
    Platform(Transaction<'static, Postgres>),
    /// The caller's own tables.
    Tenant(TenantTx),
}

/// Begins work on the organization's own tables.
pub async fn begin_tenant(
    state: &ApiState,
    organization: &Organization,
    key: Option<&Idempotency>,
) -> Result<Begun, Problem> {
    match begin(state, organization, key).await? {
        Begun::Fresh(work) => Ok(Begun::Fresh(work.enter(organization).await?)),
        answered @ Begun::Answered(_) => Ok(answered),
    }
}

/// Begins work on the control plane or the queue; what it may touch there is up to the handler.
pub async fn begin(state: &ApiState, organization: &Organization, key: Option<&Idempotency>) -> Result<Begun, Problem> {
    let Some(key) = key else {
        let tx = state.app.db.begin().await?;
        return Ok(Begun::Fresh(Work { tx: Reach::Platform(tx), keep: None }));
    };
    let keep = Keep::new(state, organization, key);
    for last_try in [false, false, true] {
        let mut tx = state.app.db.begin().await?;
        let now = state.app.clock.now();
        let begun = idempotency::begin(&mut tx, organization.id, &key.stored(), &key.fingerprint, now).await?;
        if begun == Begin::New {
            return Ok(Begun::Fresh(Work { tx: Reach::Platform(tx), keep: Some(keep) }));
        }
        tx.rollback().await?;
        match begun {
            Begin::Replay(kept) => return keep.replay(kept).map(Begun::Answered),
            Begin::Mismatch => return Err(mismatch()),
            // A request that was refused is answered before its rollback has reached the database.
            _ if !last_try => tokio::time::sleep(ROLLBACK_TAKES).await,
            _ => break,
        }
    }
    let detail = "a request with this Idempotency-Key is being worked on";
    Err(Problem::new(ProblemType::IdempotencyInProgress, detail).retry_after(1))
}

fn mismatch() -> Problem {
    let detail = "this Idempotency-Key was used with another method, address or body";
    Problem::new(ProblemType::IdempotencyMismatch, detail)
}

/// The answer to a request that was done before. For who has costly work to do before they [`begin`], which asks again.
pub async fn answered(
    state: &ApiState,
    organization: &Organization,
    key: Option<&Idempotency>,
) -> Result<Option<Response>, Problem> {
    let Some(key) = key else { return Ok(None) };
    let mut db = state.app.db.acquire().await?;
    match idempotency::find(&mut db, organization.id, &key.stored(), &key.fingerprint).await? {
        Some(Begin::Replay(kept)) => Keep::new(state, organization, key).replay(kept).map(Some),
        Some(Begin::Mismatch) => Err(mismatch()),
        _ => Ok(None),
    }
}

/// Goes on in a transaction that has just made the organization, so that its creation and the key are kept together or
/// not at all. Nobody else can know the organization yet, so its keys are all free.
pub async fn go_on(
    state: &ApiState,
    mut tx: Transaction<'static, Postgres>,
    organization: &Organization,
    key: Option<&Idempotency>,
) -> Result<Work, Problem> {
    let mut keep = None;
    if let Some(key) = key {
        let now = state.app.clock.now();
        let begun = idempotency::begin(&mut tx, organization.id, &key.stored(), &key.fingerprint, now).await?;
        if begun != Begin::New {
            return Err(Problem::internal(anyhow::anyhow!("a new organization has a used idempotency key")));
        }
        keep = Some(Keep::new(state, organization, key));
    }
    Ok(Work { tx: Reach::Platform(tx), keep })
}

impl Work {
    /// Goes on in the organization's own tables, in the same transaction.
    pub async fn enter(self, organization: &Organization) -> Result<Self, Problem> {
        let Self { tx, keep } = self.leave().await?;
        let Reach::Platform(tx) = tx else { return Ok(Self { tx, keep }) };
        Ok(Self { tx: Reach::Tenant(TenantTx::enter(tx, organization).await?), keep })
    }

    /// Goes on on the control plane, in the same transaction.
    pub async fn leave(self) -> Result<Self, Problem> {
        let tx = match self.tx {
            Reach::Tenant(tx) => Reach::Platform(tx.leave().await?),
            platform @ Reach::Platform(_) => platform,
        };
        Ok(Self { tx, keep: self.keep })
    }

    /// The transaction by itself, on the control plane, for a door that takes it; [`HandedOver::go_on`] with what it gives back.
    pub async fn hand_over(self) -> Result<(Transaction<'static, Postgres>, HandedOver), Problem> {
        let tx = match self.tx {
            Reach::Tenant(tx) => tx.leave().await?,
            Reach::Platform(tx) => tx,
        };
        Ok((tx, HandedOver(self.keep)))
    }

    /// Keeps the answer under the request's key, commits, answers.
    pub async fn finish(self, answer: Answer) -> Result<Response, Problem> {
        match (self.keep, self.tx) {
            (None, Reach::Platform(tx)) => tx.commit().await?,
            (None, Reach::Tenant(tx)) => tx.commit().await?,
            (Some(keep), tx) => {
                let mut tx = match tx {
                    Reach::Platform(tx) => tx,
                    Reach::Tenant(tx) => tx.leave().await?,
                };
                idempotency::complete(&mut tx, keep.organization, &keep.key.stored(), &keep.seal(&answer)).await?;
                tx.commit().await?;
            }
        }
        Ok(answer.into_response())
    }
}

/// What is left of a [`Work`] whose transaction is elsewhere.
pub struct HandedOver(Option<Keep>);

impl HandedOver {
    pub fn go_on(self, tx: TenantTx) -> Work {
        Work { tx: Reach::Tenant(tx), keep: self.0 }
    }
}

impl Keep {
    fn new(state: &ApiState, organization: &Organization, key: &Idempotency) -> Self {
        Self {
            organization: organization.id,
            slug: organization.slug.as_str().to_owned(),
            key: key.clone(),
            vault: state.app.vault.clone(),
        }
    }

    /// The row has no id of its own; the fingerprint binds the answer to its request.
    fn place(&self) -> Place<'_> {
        let row = Uuid::from_bytes(std::array::from_fn(|n| self.key.fingerprint[n]));
        Place { organization: &self.slug, table: "idempotency_keys", column: "body", row }
    }

    fn seal(&self, answer: &Answer) -> idempotency::Answer {
        idempotency::Answer {
            status: answer.status.as_u16(),
            location: answer.location.clone(),
            content_type: Some("application/json".to_owned()),
            body: self.vault.seal_text(&self.place(), &answer.body),
        }
    }

    fn replay(&self, kept: idempotency::Answer) -> Result<Response, Problem> {
        let mut response = self.open(kept)?.into_response();
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(response)
    }

    fn open(&self, kept: idempotency::Answer) -> Result<Answer, Problem> {
        let body = self.vault.open_text(&self.place(), &kept.body).map_err(Problem::internal)?;
        let status = StatusCode::from_u16(kept.status).map_err(Problem::internal)?;
        Ok(Answer { status, location: kept.location, body: body.expose_secret().to_owned() })
    }
}

impl Deref for Work {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.tx {
            Reach::Platform(tx) => tx,
            Reach::Tenant(tx) => tx,
        }
    }
}

impl DerefMut for Work {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match &mut self.tx {
            Reach::Platform(tx) => tx,
            Reach::Tenant(tx) => tx,
        }
    }
}
