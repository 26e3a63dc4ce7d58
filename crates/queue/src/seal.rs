//! Sealed kinds ([`crate::Job::SEALED`]): what their jobs were given, what they leave and what they say of themselves is
//! not for readers of the database. The crate knows no key; the host brings a [`Sealer`].

use std::sync::Arc;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{JobRecord, NewJob, Unique};

/// Where a sealed value lives. It opens nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedPlace<'a> {
    pub tenant: Option<&'a str>,
    pub job_id: Uuid,
    /// `args`, `result` or `error`.
    pub part: &'static str,
}

/// Seals and opens; brought by the host ([`crate::Registry::sealed_by`]). Its errors are stored and logged: they must not
/// tell what was sealed.
pub trait Sealer: Send + Sync {
    /// Answers a text that tells nothing of `plain`.
    fn seal(&self, place: &SealedPlace<'_>, plain: &Value) -> anyhow::Result<String>;

    /// Opens what [`Sealer::seal`] made for the same place.
    fn open(&self, place: &SealedPlace<'_>, sealed: &str) -> anyhow::Result<Value>;

    /// Equal for equal keys of one kind and tenant, and telling nothing else: a keyed hash (HMAC), because what is
    /// unique may be easy to guess. No tenant: unique across tenants.
    fn index(&self, tenant: Option<&str>, kind: &str, key: &str) -> anyhow::Result<String>;
}

/// Whether a [`NewJob`] may be stored as it is. Set by [`NewJob::of`] and [`NewJob::seal`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealing(State);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    /// Of a sealed kind, and not sealed yet.
    Owed,
    /// Sealed for this id, tenant and uniqueness.
    Sealed(Uuid, Option<String>, Option<Unique>),
}

impl Sealing {
    pub(crate) const PLAIN: Self = Self(State::Plain);
    pub(crate) const OWED: Self = Self(State::Owed);
}

impl NewJob {
    /// Seals the arguments of a job of a sealed kind, and replaces its unique key by a blind index; any other job is
    /// answered as it came. Do this last: what is sealed is bound to the job's id and tenant.
    ///
    /// [`crate::Registry::seal`] does it with the host's sealer.
    pub fn seal(mut self, sealer: &dyn Sealer) -> anyhow::Result<Self> {
        if self.sealing == Sealing::OWED {
            self.args = seal(sealer, &place(&self, "args"), &self.args)?;
            if let Some(unique) = &mut self.unique {
                let tenant = self.tenant.as_deref().filter(|_| !unique.across_tenants);
                unique.key = sealer.index(tenant, &self.kind, &unique.key)?;
            }
            self.sealing = Sealing(State::Sealed(self.id, self.tenant.clone(), self.unique.clone()));
        }
        Ok(self)
    }

    /// Whether it may be stored: it is of no sealed kind, or sealed as it stands.
    pub(crate) fn check_sealed(&self) -> Result<(), NotSealed> {
        match &self.sealing.0 {
            State::Plain => Ok(()),
            State::Owed => Err(NotSealed { kind: self.kind.clone(), problem: "has not been sealed" }),
            State::Sealed(id, tenant, unique) if (*id, tenant, unique) == (self.id, &self.tenant, &self.unique) => {
                Ok(())
            }
            State::Sealed(..) => Err(NotSealed { kind: self.kind.clone(), problem: "was changed after it was sealed" }),
        }
    }
}

/// As [`NewJob::seal`], and makes sure that the job may be stored.
pub(crate) fn seal_job(sealer: Option<&Arc<dyn Sealer>>, job: NewJob) -> anyhow::Result<NewJob> {
    let job = match sealer {
        Some(sealer) => job.seal(&**sealer)?,
        None => job,
    };
    job.check_sealed()?;
    Ok(job)
}

/// A job of a sealed kind that must not reach the database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a job of the sealed kind {kind} {problem}: give it its id, tenant and unique key, then Registry::seal, then enqueue"
)]
pub(crate) struct NotSealed {
    kind: String,
    problem: &'static str,
}

impl From<NotSealed> for sqlx::Error {
    fn from(error: NotSealed) -> Self {
        sqlx::Error::InvalidArgument(error.to_string())
    }
}

impl JobRecord {
    /// Opens what is sealed in it: arguments, result, error texts and reason.
    pub fn open(&mut self, sealer: &dyn Sealer) -> anyhow::Result<()> {
        let (id, tenant) = (self.id, self.tenant.clone());
        let place = |part| SealedPlace { tenant: tenant.as_deref(), job_id: id, part };
        self.args = open(Some(sealer), &place("args"), &self.args)?;
        if let Some(result) = &mut self.result {
            *result = open(Some(sealer), &place("result"), result)?;
        }
        for text in self.errors.iter_mut().map(|error| &mut error.error).chain(&mut self.reason) {
            if let Some((before, sealed)) = text.split_once(SEALED_TEXT) {
                let opened = sealer.open(&place("error"), sealed)?;
                *text = format!("{before}{}", opened.as_str().unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// The one field of a sealed value. No kind may have a field of this name.
const SEALED: &str = "$sealed";
/// What a sealed text begins with; a few words of the crate's own may stand before.
const SEALED_TEXT: &str = "$sealed:";
/// Bytes of a text that are kept: sealed they stay below what an error may have.
const TEXT_LIMIT: usize = 4 * 1024;

pub(crate) fn place<'a>(job: &'a NewJob, part: &'static str) -> SealedPlace<'a> {
    SealedPlace { tenant: job.tenant.as_deref(), job_id: job.id, part }
}

pub(crate) fn seal(sealer: &dyn Sealer, place: &SealedPlace<'_>, plain: &Value) -> anyhow::Result<Value> {
    let sealed = sealer.seal(place, plain)?;
    Ok(Value::Object(Map::from_iter([(SEALED.to_owned(), Value::String(sealed))])))
}

/// Opens a value if it is sealed. Others come as they are: jobs from before their kind was sealed.
pub(crate) fn open(sealer: Option<&dyn Sealer>, place: &SealedPlace<'_>, value: &Value) -> anyhow::Result<Value> {
    match value.as_object().filter(|fields| fields.len() == 1).and_then(|fields| fields.get(SEALED)?.as_str()) {
        None => Ok(value.clone()),
        Some(sealed) => match sealer {
            Some(sealer) => sealer.open(place, sealed),
            None => anyhow::bail!("the job is sealed, and this worker has no sealer"),
        },
    }
}

/// What stands between a job of a sealed kind and everybody who reads rows and logs. Of any other kind: nothing.
#[derive(Clone)]
pub(crate) struct Veil {
    pub sealer: Option<Arc<dyn Sealer>>,
    pub tenant: Option<String>,
    pub job_id: Uuid,
}

impl Veil {
    fn place(&self, part: &'static str) -> SealedPlace<'_> {
        SealedPlace { tenant: self.tenant.as_deref(), job_id: self.job_id, part }
    }

    /// A text of the handler's as it may be stored and logged.
    pub fn text(&self, text: &str) -> String {
        let Some(sealer) = &self.sealer else { return text.to_owned() };
        let text = &text[..text.floor_char_boundary(TEXT_LIMIT)];
        match sealer.seal(&self.place("error"), &Value::String(text.to_owned())) {
            Ok(sealed) => format!("{SEALED_TEXT}{sealed}"),
            Err(error) => format!("(a text of a sealed job that could not be sealed: {error:#})"),
        }
    }

    pub fn result(&self, result: Option<Value>) -> anyhow::Result<Option<Value>> {
        match (&self.sealer, result) {
            (Some(sealer), Some(result)) => seal(&**sealer, &self.place("result"), &result).map(Some),
            (_, result) => Ok(result),
        }
    }
}

tokio::task_local! {
    static RUNNING: ();
}

/// Runs a sealed job's handler where [`in_sealed_job`] can see it.
pub(crate) async fn veiled<F: Future>(handler: F) -> F::Output {
    RUNNING.scope((), handler).await
}

/// Whether the calling code is the handler of a sealed job: for a panic hook, which must not log the message then.
pub fn in_sealed_job() -> bool {
    RUNNING.try_with(|()| ()).is_ok()
}
