//! A run (SYNC-2 to SYNC-4, SYNC-13): the connector's streams in order, page by page, each page in one transaction with its counts and
//! the place where the next one begins. See `docs/decisions/0022-sync-engine.md`.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use anyhow::anyhow;
use backroom_queue::{Backoff, Ctx};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Site,
    budget::{BUSY, Budget},
    take::{Receiver, take},
    tokens::{self, NoPass},
};
use crate::{
    clients::{
        connector::{Access, Connector, ConnectorError, ReadFrom, RecordPage},
        rate_headers,
    },
    domain::integration::{SyncCounts, SyncMode, SyncState, SyncTrigger},
    store::{
        StoreError, integrations,
        sync_runs::{self, Begun, Held, Holder, Progress},
    },
    tenant,
};

/// After so long an attempt lets others have its place in the queue, and goes on later.
const TURN: Duration = Duration::from_secs(30 * 60);
/// What a failed attempt is followed by.
pub const BACKOFF: Backoff = Backoff::exponential(Duration::from_secs(10), Duration::from_secs(900));
/// When another job still works on the integration.
const OCCUPIED: Duration = Duration::from_secs(10);
/// A place to read on from that expires more often in one attempt will go on doing so.
const RESTARTS: u32 = 3;

/// What is to be read, and out of what.
pub struct Source<'a> {
    pub integration_id: Uuid,
    /// What the connector was made with.
    pub config: &'a Value,
    pub connector: &'a dyn Connector,
    /// The vendor's own limit: [`crate::clients::connector::Vendor::calls_per_minute`].
    pub calls_per_minute: u32,
    /// `None`: what has changed, or everything if nothing was read before.
    pub mode: Option<SyncMode>,
    pub trigger: SyncTrigger,
}

/// How an attempt ended. An error is to be tried again; the run waits at its checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Completed(Report),
    /// Its place is saved: go on after this time.
    Later(Duration),
    /// Somebody asked it to stop; the run is `cancelled`.
    Stopped(Report),
    /// Only a person can help; the run has still to be ended.
    Attention {
        run_id: Uuid,
        holder: Holder,
        reason: String,
    },
    /// It would go wrong again.
    Failed(String),
}

/// What a run did; the job's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub run_id: Uuid,
    pub mode: SyncMode,
    #[serde(flatten)]
    pub counts: SyncCounts,
}

/// Runs an integration, from its beginning or from where an attempt before stopped.
pub async fn run<A: Send + Sync>(
    ctx: &Ctx<A>,
    site: &Site<'_>,
    source: &Source<'_>,
    receiver: &dyn Receiver,
) -> anyhow::Result<End> {
    let holder = Holder { job_id: ctx.job.id, id: Uuid::now_v7() };
    let mut tx = tenant::begin(site.db, site.organization).await?;
    let bookmarks = integrations::bookmarks(&mut tx, source.integration_id).await?;
    let first_run = !integrations::is_known(&mut tx, source.integration_id).await?;
    let default = SyncMode::or_default(source.mode, !bookmarks.is_empty());
    let wish = (source.mode, default, source.trigger);
    let begun = sync_runs::begin(&mut tx, source.integration_id, holder, wish, site.clock.now()).await?;
    if matches!(&begun, Begun::Held(held) if held.mode == SyncMode::Full) {
        integrations::full_begins(&mut tx, source.integration_id, site.clock.now()).await?;
    }
    tx.commit().await?;
    let held = match begun {
        Begun::Held(held) => held,
        Begun::Busy { job_id } => {
            tracing::info!(%job_id, "another job synchronizes the integration");
            return Ok(End::Later(OCCUPIED));
        }
    };
    if held.taken_over {
        tracing::info!(run_id = %held.run_id, stream = held.stream, read = held.counts.read, "goes on with a run");
    }
    let budget = Budget { account: source.connector.account(), per_minute: source.calls_per_minute };
    let mut run = Run {
        ctx,
        site,
        source,
        receiver,
        budget,
        held,
        bookmarks,
        first_run,
        restarts: 0,
        moved: false,
        began: Instant::now(),
    };
    match run.read().await {
        Ok(()) => Ok(End::Completed(run.report())),
        // A job that somebody has cancelled has no later.
        Err(Stop::Later(_) | Stop::Refused(..)) if ctx.cancelled().is_cancelled() => run.stopped().await,
        Err(Stop::Later(wait)) => Ok(End::Later(wait)),
        Err(Stop::Refused(wait, why)) => {
            run.note(why.as_deref(), (false, true)).await;
            Ok(End::Later(wait))
        }
        Err(Stop::Attention(reason)) => Ok(End::Attention { run_id: run.held.run_id, holder, reason }),
        Err(Stop::Failed(reason)) => Ok(End::Failed(reason)),
        Err(Stop::Asked) => run.stopped().await,
        Err(Stop::Error(error)) => {
            let of_vendor = error.is::<ConnectorError>();
            let tries = run.note(Some(&format!("{error:#}")), (true, of_vendor)).await;
            match tries.filter(|tries| *tries < ctx.job.max_attempts && ctx.is_last_attempt()) {
                // The queue counts all failures, and this run has got further between them.
                Some(tries) if !ctx.cancelled().is_cancelled() => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        tries,
                        "attempt failed; the run has got further before"
                    );
                    Ok(End::Later(BACKOFF.after(tries)))
                }
                _ => Err(error),
            }
        }
    }
}

/// Why reading stops before its end.
enum Stop {
    Later(Duration),
    /// The vendor lets no call be made until then, and perhaps said why.
    Refused(Duration, Option<String>),
    Attention(String),
    Failed(String),
    Asked,
    Error(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Error(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Error(error.into())
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Error(error.into())
    }
}

/// A run in this attempt's hands.
struct Run<'a, A> {
    ctx: &'a Ctx<A>,
    site: &'a Site<'a>,
    source: &'a Source<'a>,
    receiver: &'a dyn Receiver,
    budget: Budget<'a>,
    held: Held,
    bookmarks: Map<String, Value>,
    first_run: bool,
    restarts: u32,
    /// This attempt has stored a page.
    moved: bool,
    began: Instant,
}

impl<A: Send + Sync> Run<'_, A> {
    async fn read(&mut self) -> Result<(), Stop> {
        let streams = self.source.connector.streams();
        let at = self.held.stream.as_deref().and_then(|saved| streams.iter().position(|stream| *stream == saved));
        // A stream that this version no longer has: from the first one.
        let mut checkpoint = self.held.checkpoint.take().filter(|_| at.is_some());
        for (n, stream) in streams.iter().enumerate().skip(at.unwrap_or(0)) {
            let saved = checkpoint.take().and_then(|saved| serde_json::from_value(saved).ok());
            let from = saved.unwrap_or_else(|| self.beginning(stream));
            self.read_stream(stream, streams.get(n + 1).copied(), from).await?;
        }
        Ok(())
    }

    fn beginning(&self, stream: &str) -> ReadFrom {
        match self.bookmarks.get(stream) {
            Some(bookmark) if self.held.mode == SyncMode::Incremental => ReadFrom::Since(bookmark.clone()),
            _ => ReadFrom::Beginning,
        }
    }

    async fn read_stream(
        &mut self,
        stream: &'static str,
        after: Option<&'static str>,
        mut from: ReadFrom,
    ) -> Result<(), Stop> {
        let before = self.held.counts.read;
        // In the middle of a stream the records of its first pages are among those, and its total is known.
        let is_known = matches!(from, ReadFrom::Page(_)) && self.held.total.is_some();
        let mut seen = HashSet::new();
        loop {
            if self.ctx.cancelled().is_cancelled() {
                return Err(Stop::Asked);
            }
            if self.began.elapsed() > TURN {
                return Err(Stop::Later(Duration::from_secs(1)));
            }
            let page = match self.page(stream, &from).await? {
                Some(page) => page,
                None => {
                    from = ReadFrom::Beginning;
                    seen.clear();
                    self.save_place(stream, &from).await?;
                    continue;
                }
            };
            let next = page.next.clone().map(ReadFrom::Page);
            if let Some(next) = &next
                && (*next == from || !seen.insert(fingerprint(next)))
            {
                return Err(Stop::Failed(format!(
                    "{} answers the same page of {stream} again and again; the place to read on from does not move",
                    self.source.connector.account()
                )));
            }
            if let Some(total) = page.total.filter(|_| !is_known) {
                self.held.total = Some(self.held.total.unwrap_or_default().max(before + total));
            }
            self.store(stream, after, page, next.as_ref()).await?;
            self.ctx.progress(self.held.counts.read, self.held.total.map(|total| total.max(self.held.counts.read)));
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Reads a page, with a permit and an access token; `None` if the place to read on from has expired.
    async fn page(&mut self, stream: &'static str, from: &ReadFrom) -> Result<Option<RecordPage>, Stop> {
        let connector = self.source.connector;
        let mut refused = None;
        loop {
            let (access, version) = self.access(refused).await?;
            let figure = self.budget.permit(self.ctx).await?.map_err(|wait| Stop::Refused(wait, None))?;
            let (read, none_left_for) =
                rate_headers::listen(self.site.clock.now(), connector.read(&access, stream, from)).await;
            let error = match read {
                Ok(page) => {
                    self.budget.good(self.ctx, figure, none_left_for).await?;
                    return Ok(Some(page));
                }
                Err(error) => error,
            };
            match error {
                ConnectorError::RateLimited(_, wait) => {
                    let wait = wait.or(none_left_for).unwrap_or(BUSY);
                    self.budget.busy(self.ctx, figure, wait).await?;
                    return Err(Stop::Refused(wait, Some(error.to_string())));
                }
                ConnectorError::Unauthorized(_) if version.is_some() && refused.is_none() => refused = version,
                ConnectorError::Unauthorized(why) if version.is_some() => {
                    return Err(Stop::Attention(format!("{why}, also with a new access token")));
                }
                ConnectorError::CursorExpired if *from != ReadFrom::Beginning && self.restarts < RESTARTS => {
                    self.restarts += 1;
                    tracing::warn!(
                        stream,
                        "the place to read on from has expired; the stream is read from its beginning"
                    );
                    return Ok(None);
                }
                other => return Err(Stop::of(other)),
            }
        }
    }

    /// What calls are made with, and for OAuth the version of the token.
    async fn access(&self, refused: Option<i64>) -> Result<(Access, Option<i64>), Stop> {
        let Some(oauth) = self.source.connector.oauth() else { return Ok((Access::default(), None)) };
        match tokens::pass(self.site, self.source.integration_id, oauth, refused).await? {
            Ok(pass) => Ok((pass.access, Some(pass.version))),
            Err(NoPass::Wait(wait)) => Err(Stop::Later(wait)),
            Err(NoPass::Gone) => Err(lost()),
            Err(NoPass::Refused(why)) => Err(Stop::of(why)),
        }
    }

    /// The page's records, the counts and the next place, in one transaction; after the last page of the last stream the end, too.
    async fn store(
        &mut self,
        stream: &str,
        after: Option<&str>,
        page: RecordPage,
        next: Option<&ReadFrom>,
    ) -> Result<(), Stop> {
        let (id, now) = (self.source.integration_id, self.site.clock.now());
        let Held { run_id, holder, .. } = self.held;
        let mut tx = tenant::begin(self.site.db, self.site.organization).await?;
        // First, so that an attempt that has lost its lease writes nothing at all.
        if !sync_runs::lock(&mut tx, run_id, holder).await? {
            return Err(lost());
        }
        if !integrations::has_config(&mut tx, id, self.source.config).await? {
            let end = (SyncState::Failed, Some(integrations::OTHER_SOURCE));
            sync_runs::finish(&mut tx, run_id, holder, end, now).await?;
            tx.commit().await?;
            return Err(Stop::Later(Duration::from_secs(1)));
        }
        let counted = take(&mut tx, self.receiver, page.records, self.first_run).await?;
        sync_runs::add_failures(&mut tx, run_id, self.held.counts.failed, &counted.bad).await?;
        let counts = self.held.counts.plus(counted.counts);
        let checkpoint = next.map(serde_json::to_value).transpose().map_err(anyhow::Error::from)?;
        let mut held = true;
        if !self.moved {
            integrations::end_stall(&mut tx, id).await?;
        }
        if next.is_none() {
            self.receiver.end_of_stream(&mut tx).await?;
            let keeps = self.held.mode == SyncMode::Full && !self.source.connector.full_tells_deleted();
            if !(keeps && self.bookmarks.contains_key(stream)) {
                let place = (id, self.source.config);
                held &= integrations::set_bookmark(&mut tx, place, stream, page.bookmark.as_ref()).await?;
            }
        }
        let stream = if next.is_some() { stream } else { after.unwrap_or(stream) };
        let (total, further) = (self.held.total, self.restarts == 0);
        let progress = Progress { counts, total, stream, checkpoint: checkpoint.as_ref(), further };
        held &= sync_runs::save(&mut tx, run_id, holder, &progress).await?;
        if next.is_none() && after.is_none() {
            held &= sync_runs::finish(&mut tx, run_id, holder, (SyncState::Completed, None), now).await?;
            let what = (self.held.mode == SyncMode::Full, counts.failed > 0);
            integrations::ran(&mut tx, id, what, now).await?;
            self.receiver.completed(&mut tx, self.held.mode, counts).await?;
        }
        if !held {
            return Err(lost());
        }
        tx.commit().await?;
        self.held.counts = counts;
        self.moved = true;
        Ok(())
    }

    async fn save_place(&self, stream: &str, from: &ReadFrom) -> Result<(), Stop> {
        let Held { run_id, holder, counts, total, .. } = self.held;
        let checkpoint = serde_json::to_value(from).map_err(anyhow::Error::from)?;
        let progress = Progress { counts, total, stream, checkpoint: Some(&checkpoint), further: false };
        let mut tx = tenant::begin(self.site.db, self.site.organization).await?;
        if !sync_runs::save(&mut tx, run_id, holder, &progress).await? {
            return Err(lost());
        }
        Ok(tx.commit().await?)
    }

    /// The token of cancellation has fired: somebody asked, or the lease is lost and another attempt goes on.
    async fn stopped(&self) -> anyhow::Result<End> {
        if !self.ctx.is_cancel_requested().await? {
            return Err(anyhow!("the lease was lost after {} records", self.held.counts.read));
        }
        let Held { run_id, holder, .. } = self.held;
        let mut tx = tenant::begin(self.site.db, self.site.organization).await?;
        let end = (SyncState::Cancelled, Some("somebody cancelled it"));
        if sync_runs::finish(&mut tx, run_id, holder, end, self.site.clock.now()).await? {
            integrations::end_stall(&mut tx, self.source.integration_id).await?;
        }
        tx.commit().await?;
        Ok(End::Stopped(self.report()))
    }

    /// Has the run say why it does not go on, and the integration since when, if that is its vendor's doing. How many attempts have failed
    /// since the run got further, if it is still this one's. The attempt's own error matters more than whether this can be written.
    async fn note(&self, why: Option<&str>, (failed, of_vendor): (bool, bool)) -> Option<u32> {
        let noted = async {
            let mut tx = tenant::begin(self.site.db, self.site.organization).await?;
            let tries = sync_runs::note_error(&mut tx, self.held.run_id, self.held.holder, (why, failed)).await?;
            if tries.is_some() && of_vendor {
                integrations::stall(&mut tx, self.source.integration_id, self.site.clock.now()).await?;
            }
            tx.commit().await?;
            Ok::<_, StoreError>(tries)
        };
        noted.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not note on the run why it does not go on");
            None
        })
    }

    fn report(&self) -> Report {
        Report { run_id: self.held.run_id, mode: self.held.mode, counts: self.held.counts }
    }
}

impl Stop {
    /// By what can be done about it.
    fn of(error: ConnectorError) -> Self {
        match error {
            ConnectorError::RateLimited(_, wait) => Self::Refused(wait.unwrap_or(BUSY), Some(error.to_string())),
            ConnectorError::Unauthorized(_)
            | ConnectorError::Credentials(_)
            | ConnectorError::Forbidden(_)
            | ConnectorError::Address(_) => Self::Attention(error.to_string()),
            ConnectorError::Transient(_) | ConnectorError::CursorExpired | ConnectorError::Protocol(_) => {
                Self::Error(error.into())
            }
        }
    }
}

fn lost() -> Stop {
    Stop::Error(anyhow!("the run was taken over by another attempt, or its integration was changed or removed"))
}

/// Enough to see that a place came before; equal fingerprints of different places are as good as impossible.
fn fingerprint(from: &ReadFrom) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(from).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
