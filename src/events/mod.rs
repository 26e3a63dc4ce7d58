//! Live events (EVT-2): one reader per process, any number of followers.
//!
//! One connection listens (`listener`). A notification names an organization; if it has followers here, what was committed there
//! since the last look is read once and handed to those whom it concerns (`room`). A follower is a bounded queue: one that is
//! full belongs to somebody who does not read, and is let go. Nothing is started before the first follower comes.
//!
//! That none is lost and none doubled between what a follower missed and what is live: docs/decisions/0019-live-events.md.

mod follower;
pub(crate) mod frame;
mod listener;
mod missed;
mod room;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use sqlx::PgPool;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use self::room::Room;
pub use self::{
    follower::{Following, filter},
    frame::Frame,
    missed::Missed,
};
use crate::{
    config,
    domain::{Organization, Topic},
    store::StoreError,
};

/// Organizations that are looked at side by side; each takes a connection of the pool for a moment.
const LOOKS_AT_ONCE: usize = 3;
/// Between two rounds of looks, so that a busy organization is not looked at for each of its transactions.
const REST: Duration = Duration::from_millis(20);
/// How long a look may take before it is given up and tried again.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// How often jobs that somebody follows are looked at: their states are the queue's, which tells nobody.
const JOBS_EVERY: Duration = Duration::from_millis(500);

/// Who follows, so that it can be asked again whether they still may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Person { user: Uuid, session: Uuid },
    Key(Uuid),
}

/// Why nobody follows.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("this process has as many streams as it may")]
    Full,
    #[error("the caller, or the organization, has as many streams as it may")]
    TooMany,
    #[error("the process is stopping")]
    Stopping,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a stream ends, as its last message says. The words are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The follower reads more slowly than events come.
    Slow,
    /// The follower may not read one of the topics any more.
    NotAllowed,
    /// The token that opened it is past its time.
    Expired,
    /// The process stops; another one will answer.
    Shutdown,
}

impl End {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::NotAllowed => "not_allowed",
            Self::Expired => "expired",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The followers of one process. Dropped, it ends what it started.
pub struct Hub {
    inner: Arc<Inner>,
    _stop: DropGuard,
}

pub(in crate::events) struct Inner {
    db: PgPool,
    settings: config::Events,
    stop: CancellationToken,
    started: AtomicBool,
    listening: AtomicBool,
    next_follower: AtomicU64,
    /// By the organization's schema, which is what notifications name.
    rooms: Mutex<HashMap<String, Arc<Room>>>,
    due: Mutex<BTreeMap<String, Look>>,
    wake: Notify,
    /// Whoever comes back takes a connection of the pool for a moment.
    replays: Semaphore,
    /// What is held for those who came back and have not read it yet, a permit for each KiB.
    held: Arc<Semaphore>,
    /// Organizations that are looked at now.
    looking: Mutex<HashSet<String>>,
    looks: Semaphore,
    counts: Arc<Counts>,
}

/// What a look at a room does besides reading.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::events) struct Look {
    /// Asks anew whether everybody may read what they follow.
    ask: bool,
    /// Shows everybody that the line is alive.
    beat: bool,
}

impl Look {
    const PLAIN: Self = Self { ask: false, beat: false };
    const ASK: Self = Self { ask: true, beat: false };
    const BEAT: Self = Self { ask: true, beat: true };

    fn add(&mut self, other: Self) {
        self.ask |= other.ask;
        self.beat |= other.beat;
    }
}

/// Streams that are open.
#[derive(Default)]
pub(in crate::events) struct Counts(Mutex<Open>);

#[derive(Default)]
struct Open {
    all: usize,
    /// By the id of an organization, of a person (whatever the session) and of a key.
    by: HashMap<Uuid, usize>,
}

/// One open stream, for as long as it is held.
pub(in crate::events) struct Counted {
    of: [Uuid; 2],
    counts: Arc<Counts>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Streams end when `shutdown` says so.
    pub fn new(db: PgPool, settings: config::Events, shutdown: &CancellationToken) -> Self {
        let stop = shutdown.child_token();
        let inner = Inner {
            db,
            settings,
            stop: stop.clone(),
            started: AtomicBool::new(false),
            listening: AtomicBool::new(false),
            next_follower: AtomicU64::new(0),
            rooms: Mutex::default(),
            due: Mutex::default(),
            wake: Notify::new(),
            replays: Semaphore::new(LOOKS_AT_ONCE),
            held: Arc::new(Semaphore::new(missed::HELD_KIB)),
            looking: Mutex::default(),
            looks: Semaphore::new(LOOKS_AT_ONCE),
            counts: Arc::default(),
        };
        Self { inner: Arc::new(inner), _stop: stop.drop_guard() }
    }

    /// Follows these topics from now on; what was committed before is what [`Following::seen`] shows. The caller has asked whether
    /// `who` may, and holds no connection of the pool. It is asked again while the stream is open.
    pub async fn follow(
        &self,
        organization: &Organization,
        who: Who,
        topics: &[Topic],
        until: Option<Instant>,
    ) -> Result<Following, FollowError> {
        let inner = &self.inner;
        if inner.stop.is_cancelled() {
            return Err(FollowError::Stopping);
        }
        let counted = Counts::take(&inner.counts, organization.id, who, &inner.settings)?;
        if !inner.started.swap(true, Ordering::AcqRel) {
            inner.clone().start();
        }
        let schema = &organization.schema_name;
        let room = {
            let mut rooms = lock(&inner.rooms);
            let make = || Arc::new(Room::new(organization.clone()));
            rooms.entry(schema.clone()).or_insert_with(make).clone()
        };
        let id = inner.next_follower.fetch_add(1, Ordering::Relaxed);
        let following = room.enter(inner, (id, who), topics, (counted, until)).await?;
        // What is committed between the snapshot and the next notification waits for nobody. And what ended the caller's right
        // after it was looked at, and before the snapshot, is not among what is read.
        inner.look_at(schema, Look::ASK);
        Ok(following)
    }
}

impl Inner {
    fn start(self: Arc<Self>) {
        let stop = self.stop.clone();
        let spawn = |task: futures::future::BoxFuture<'static, ()>| {
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(task).await });
        };
        if self.settings.listen {
            spawn(Box::pin(listener::run(self.clone())));
        }
        spawn(Box::pin(self.clone().tick()));
        spawn(Box::pin(self.clone().look_at_jobs()));
        spawn(Box::pin(self.look_around()));
    }

    /// Asks for a look at the organization with this schema, if somebody follows it here.
    fn look_at(&self, schema: &str, look: Look) {
        if !lock(&self.rooms).contains_key(schema) {
            return;
        }
        lock(&self.due).entry(schema.to_owned()).or_default().add(look);
        self.wake.notify_one();
    }

    /// Asks for a look at every organization that is followed.
    fn look_at_all(&self, look: Look) {
        let schemas: Vec<String> = lock(&self.rooms).keys().cloned().collect();
        for schema in schemas {
            self.look_at(&schema, look);
        }
    }

    /// Looks where it was asked to. One organization whose look takes long keeps no other waiting, and is asked for again when it
    /// is through.
    async fn look_around(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            let due = std::mem::take(&mut *lock(&self.due));
            for (schema, look) in due {
                let mut looking = lock(&self.looking);
                if !looking.insert(schema.clone()) {
                    // Under way: what is asked for now comes after it.
                    lock(&self.due).entry(schema).or_default().add(look);
                    continue;
                }
                drop(looking);
                let inner = self.clone();
                tokio::spawn(async move {
                    inner.stop.run_until_cancelled(inner.look_in_turn(&schema, look)).await;
                    let mut looking = lock(&inner.looking);
                    looking.remove(&schema);
                    if lock(&inner.due).contains_key(&schema) {
                        inner.wake.notify_one();
                    }
                });
            }
            tokio::time::sleep(REST).await;
        }
    }

    async fn look_in_turn(&self, schema: &str, look: Look) {
        let Ok(_turn) = self.looks.acquire().await else { return };
        self.look(schema.to_owned(), look).await;
    }

    async fn look(&self, schema: String, look: Look) {
        let Some(room) = lock(&self.rooms).get(&schema).cloned() else { return };
        let looked = tokio::time::timeout(LOOK_WITHIN, room.look(self, look)).await;
        let error = match looked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("it took longer than {} s", LOOK_WITHIN.as_secs())),
        };
        if let Some(error) = error {
            // The next tick tries again, from where the last look that succeeded ended.
            metrics::counter!("event_looks_failed_total").increment(1);
            tracing::warn!(error, schema, "could not read an organization's events; trying again");
            if look.beat {
                room.show_life().await;
            }
        }
        if look.beat {
            self.clear_away(&schema, room);
        }
    }

    /// Forgets a room that nobody is in, unless somebody is about to enter.
    fn clear_away(&self, schema: &str, room: Arc<Room>) {
        let mut rooms = lock(&self.rooms);
        // The map's and this one.
        if Arc::strong_count(&room) == 2 && room.is_empty() {
            rooms.remove(schema);
        }
    }

    /// Heartbeats; and looks without being told, often while nobody can be listened to.
    async fn tick(self: Arc<Self>) {
        let between_beats = Duration::from_secs(self.settings.heartbeat_s);
        let mut beats = tokio::time::interval_at(Instant::now() + between_beats, between_beats);
        let mut polls = tokio::time::interval(Duration::from_millis(self.settings.poll_ms));
        for interval in [&mut beats, &mut polls] {
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                _ = beats.tick() => self.look_at_all(Look::BEAT),
                _ = polls.tick() => if !self.listening.load(Ordering::Acquire) {
                    self.look_at_all(Look::PLAIN);
                },
            }
        }
    }

    async fn look_at_jobs(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(JOBS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let rooms: Vec<Arc<Room>> = lock(&self.rooms).values().filter(|room| room.has_jobs()).cloned().collect();
            let looks = stream::iter(rooms).for_each_concurrent(LOOKS_AT_ONCE, async |room| {
                let error = match tokio::time::timeout(LOOK_WITHIN, room.look_at_jobs(self.as_ref())).await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("it took longer than {} s", LOOK_WITHIN.as_secs()),
                };
                tracing::warn!(error, "could not look at the jobs that somebody follows; trying again");
            });
            looks.await;
        }
    }
}

impl Counts {
    fn take(
        counts: &Arc<Self>,
        organization: Uuid,
        who: Who,
        settings: &config::Events,
    ) -> Result<Counted, FollowError> {
        let caller = match who {
            Who::Person { user, .. } => user,
            Who::Key(key) => key,
        };
        let mut open = lock(&counts.0);
        if open.all >= settings.max_streams {
            return Err(FollowError::Full);
        }
        let limits = [(organization, settings.max_streams_per_organization), (caller, settings.max_streams_per_caller)];
        if limits.iter().any(|(of, most)| open.by.get(of).is_some_and(|own| own >= most)) {
            return Err(FollowError::TooMany);
        }
        open.all += 1;
        let of = limits.map(|(of, _)| of);
        for of in of {
            *open.by.entry(of).or_default() += 1;
        }
        metrics::gauge!("event_streams").increment(1);
        Ok(Counted { of, counts: counts.clone() })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = lock(&self.counts.0);
        open.all -= 1;
        for of in self.of {
            let left = open.by.get_mut(&of).map_or(0, |own| {
                *own -= 1;
                *own
            });
            if left == 0 {
                open.by.remove(&of);
            }
        }
        metrics::gauge!("event_streams").decrement(1);
    }
}
