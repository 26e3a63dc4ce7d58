//! One organization's followers, and what they have been given.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use backroom_queue::JobState;
use sqlx::PgConnection;
use tokio::{sync::Mutex, time::Instant};
use uuid::Uuid;

use super::{
    Counted, End, FollowError, Following, Inner, Look, Who,
    follower::{self, Follower},
    frame::{self, Frame},
};
use crate::{
    domain::{Organization, Topic},
    store::{
        StoreError,
        events::Event,
        feed::{self, Filter, Snapshot},
    },
    tenant,
};

/// More than this at one look is nothing to be followed live: who follows it is let go, and comes back to be told to read anew.
const MOST_AT_ONCE: i64 = 5_000;

pub(super) struct Room {
    organization: Organization,
    /// Held from the question to the database until everybody has its answer. So who enters does so between two looks.
    state: Mutex<State>,
    followers: AtomicUsize,
    has_jobs: AtomicBool,
}

#[derive(Default)]
struct State {
    /// What the last look showed. `None` before the first.
    seen: Option<Snapshot>,
    followers: HashMap<u64, Follower>,
    /// Jobs that somebody follows, as last seen.
    jobs: HashMap<Uuid, Option<(JobState, u32)>>,
}

impl Room {
    pub fn new(organization: Organization) -> Self {
        Self { organization, state: Mutex::default(), followers: AtomicUsize::new(0), has_jobs: AtomicBool::new(false) }
    }

    pub fn is_empty(&self) -> bool {
        self.followers.load(Ordering::Acquire) == 0
    }

    pub fn has_jobs(&self) -> bool {
        self.has_jobs.load(Ordering::Acquire)
    }

    /// Lets somebody in. What the room has seen by now is theirs to read, the rest is brought to them: nothing is in both, and
    /// nothing in neither.
    pub async fn enter(
        &self,
        inner: &Inner,
        (id, who): (u64, Who),
        topics: &[Topic],
        (counted, until): (Counted, Option<Instant>),
    ) -> Result<Following, FollowError> {
        let mut state = self.state.lock().await;
        let seen = match &state.seen {
            Some(seen) => seen.clone(),
            None => {
                let mut db = inner.db.acquire().await.map_err(StoreError::from)?;
                state.seen.insert(feed::snapshot(&mut db).await?).clone()
            }
        };
        let (follower, following) =
            follower::stream((who, topics), (seen, inner.settings.buffer), (counted, until), inner.stop.clone());
        for topic in topics {
            if let Topic::Job(job) = topic {
                state.jobs.insert(*job, None);
            }
        }
        state.followers.insert(id, follower);
        self.count(&state);
        Ok(following)
    }

    fn count(&self, state: &State) {
        self.followers.store(state.followers.len(), Ordering::Release);
        self.has_jobs.store(!state.jobs.is_empty(), Ordering::Release);
    }

    /// Reads what was committed since the last look and hands it over.
    pub async fn look(&self, inner: &Inner, look: Look) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        state.followers.retain(|_, follower| !follower.is_gone());
        self.count(&state);
        let Some(seen) = state.seen.clone().filter(|_| !state.followers.is_empty()) else {
            // Nobody has been given anything. Whoever comes next begins with a look of their own.
            state.seen = None;
            return Ok(());
        };
        let mut tx = tenant::begin(&inner.db, &self.organization).await?;
        let now = feed::snapshot(&mut tx).await?;
        let events = if now == seen {
            Vec::new()
        } else {
            feed::between(&mut tx, (&seen, &now), &state.wanted(), MOST_AT_ONCE + 1).await?
        };
        // Who was taken out of a workspace is not given what happens there after that: the event of it comes no later than what follows.
        let refused = if look.ask || events.iter().any(may_end_a_right) {
            let among = feed::in_workspaces(&mut tx, &state.workspaces(), &state.people()).await?;
            let mut tx = tx.leave().await?;
            let refused = state.refused(&mut tx, self.organization.id, &among).await?;
            tx.commit().await?;
            refused
        } else {
            tx.commit().await?;
            HashSet::new()
        };

        state.let_go(|id, _| refused.contains(&id), End::NotAllowed);
        if events.len() > usize::try_from(MOST_AT_ONCE).unwrap_or(usize::MAX) {
            tracing::warn!(
                tenant = self.organization.slug.as_str(),
                "too much at once to be followed live; its followers begin anew"
            );
            state.let_go(|_, _| true, End::Slow);
        }
        state.give(&events);
        if look.beat {
            state.beat(&now);
        }
        state.seen = Some(now);
        self.count(&state);
        Ok(())
    }

    /// Shows everybody that the line is alive, when the database is not.
    pub async fn show_life(&self) {
        let mut state = self.state.lock().await;
        state.followers.retain(|_, follower| follower.give(vec![frame::sign_of_life()]));
        self.count(&state);
    }

    /// Tells who follows a job what has become of it.
    pub async fn look_at_jobs(&self, inner: &Inner) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        let followed: HashSet<Uuid> = state.followers.values().flat_map(|follower| jobs(&follower.topics)).collect();
        // What has ended is looked at once.
        let is_over = |seen: &Option<(JobState, u32)>| seen.is_some_and(|(state, _)| state.is_finished());
        state.jobs.retain(|id, seen| followed.contains(id) && !is_over(seen));
        self.count(&state);
        if state.jobs.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = state.jobs.keys().copied().collect();
        let mut db = inner.db.acquire().await?;
        let found = backroom_queue::states(&mut db, &ids, Some(self.organization.slug.as_str())).await?;
        drop(db);
        for (id, job_state, attempt) in found {
            let now = Some((job_state, attempt));
            if state.jobs.insert(id, now) == Some(now) {
                continue;
            }
            let topic = Topic::Job(id);
            let frame = frame::job(id, job_state, attempt);
            state
                .followers
                .retain(|_, follower| !follower.topics.contains(&topic) || follower.give(vec![frame.clone()]));
        }
        self.count(&state);
        Ok(())
    }
}

/// Whether an event may have taken somebody's right to read away: something about a workspace itself, or about people in the
/// organization.
fn may_end_a_right(event: &Event) -> bool {
    event.kind.starts_with("member.") || matches!(Topic::parse(&event.topic), Ok(Topic::Workspace(_)))
}

fn jobs(topics: &[Topic]) -> impl Iterator<Item = Uuid> {
    topics.iter().filter_map(|topic| match topic {
        Topic::Job(job) => Some(*job),
        _ => None,
    })
}

impl State {
    /// What is to be read: what somebody follows, and what tells of rights that end.
    fn wanted(&self) -> Filter {
        let mut wanted = Filter::default();
        // Who leaves the organization or gets another role is told of on its own topic.
        let mut topics = BTreeSet::from([Topic::Organization.to_string()]);
        for follower in self.followers.values() {
            wanted.organization |= follower.filter.organization;
            topics.extend(follower.filter.topics.iter().cloned());
            topics
                .extend(follower.topics.iter().filter_map(Topic::workspace).map(|id| Topic::Workspace(id).to_string()));
            if let Who::Person { user, .. } = follower.who {
                topics.insert(format!("member:{user}"));
            }
        }
        wanted.topics = topics.into_iter().collect();
        wanted
    }

    fn workspaces(&self) -> Vec<Uuid> {
        let all: BTreeSet<Uuid> =
            self.followers.values().flat_map(|follower| follower.topics.iter().filter_map(Topic::workspace)).collect();
        all.into_iter().collect()
    }

    fn people(&self) -> Vec<Uuid> {
        let user = |follower: &Follower| match follower.who {
            Who::Person { user, .. } => Some(user),
            Who::Key(_) => None,
        };
        let all: BTreeSet<Uuid> = self.followers.values().filter_map(user).collect();
        all.into_iter().collect()
    }

    /// Who may not read all of their topics any more.
    async fn refused(
        &self,
        db: &mut PgConnection,
        organization: Uuid,
        among: &HashSet<(Uuid, Uuid)>,
    ) -> Result<HashSet<u64>, StoreError> {
        let (mut sessions, mut keys) = (BTreeSet::new(), BTreeSet::new());
        for follower in self.followers.values() {
            match follower.who {
                Who::Person { session, .. } => sessions.insert(session),
                Who::Key(key) => keys.insert(key),
            };
        }
        let (sessions, keys): (Vec<Uuid>, Vec<Uuid>) = (sessions.into_iter().collect(), keys.into_iter().collect());
        let standing = feed::standing(db, organization, &sessions).await?;
        let roles: HashMap<(Uuid, Uuid), _> = standing.iter().map(|s| ((s.user_id, s.session), s.role)).collect();
        let scopes: HashMap<Uuid, _> = feed::live_keys(db, organization, &keys).await?.into_iter().collect();
        let may = |follower: &Follower| match follower.who {
            Who::Person { user, session } => roles.get(&(user, session)).is_some_and(|role| {
                let in_it = |topic: &Topic| topic.workspace().is_none_or(|id| among.contains(&(id, user)));
                follower.topics.iter().all(|topic| topic.is_open_to(*role) && in_it(topic))
            }),
            Who::Key(key) => scopes.get(&key).is_some_and(|scopes: &Vec<_>| {
                follower.topics.iter().all(|topic| topic.is_open_to_key(|scope| scopes.contains(&scope)))
            }),
        };
        Ok(self.followers.iter().filter(|(_, follower)| !may(follower)).map(|(id, _)| *id).collect())
    }

    fn let_go(&mut self, whom: impl Fn(u64, &Follower) -> bool, end: End) {
        self.followers.retain(|id, follower| {
            let stays = !whom(*id, follower);
            if !stays {
                follower.let_go(end);
            }
            stays
        });
    }

    fn give(&mut self, events: &[Event]) {
        // Written once, shared by all who get it.
        let frames: Vec<Frame> = events.iter().map(frame::event).collect();
        let mut given = 0;
        self.followers.retain(|_, follower| {
            let mine = events.iter().zip(&frames).filter(|(event, _)| follower.filter.takes(&event.topic));
            let mine: Vec<Frame> = mine.map(|(_, frame)| frame.clone()).collect();
            given += mine.len() as u64;
            mine.is_empty() || follower.give(mine)
        });
        metrics::counter!("events_given_total").increment(given);
    }

    fn beat(&mut self, now: &Snapshot) {
        let frame = frame::heartbeat(now.horizon());
        self.followers.retain(|_, follower| follower.give(vec![frame.clone()]));
    }
}
