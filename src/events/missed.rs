//! What somebody missed who comes back.

use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::{Following, Hub, follower, frame};
use crate::{
    domain::{Organization, Topic},
    store::{
        StoreError,
        events::Event,
        feed::{self, Position},
    },
    tenant,
};

/// Who missed more reads anew what it shows; that is less work than so many events.
const MOST: i64 = 5_000;
/// And so many bytes of payloads, which a stream holds until its reader takes them.
const MOST_BYTES: i64 = 2 * 1024 * 1024;
/// What all streams of the process hold in this way together, in KiB. While others hold it, who comes back reads anew, too.
pub(super) const HELD_KIB: usize = 64 * 1024;

/// What lies between the place that a follower names and what is brought live.
#[derive(Debug)]
pub enum Missed {
    /// With what they take of the process's memory; to be kept until they are read.
    Events(Vec<Event>, OwnedSemaphorePermit),
    /// The place is none of ours, or its event is gone.
    Unknown,
    TooMuch,
}

impl Hub {
    /// What the stream's [`Following::seen`] shows and the follower, who was given everything up to `place`, has not.
    pub async fn missed(
        &self,
        organization: &Organization,
        following: &Following,
        topics: &[Topic],
        place: &str,
    ) -> Result<Missed, StoreError> {
        // After a restart all come back at once; requests need the pool too.
        let Ok(_turn) = self.inner.replays.acquire().await else { return Ok(Missed::Unknown) };
        let seen = following.seen();
        let mut tx = tenant::begin(&self.inner.db, organization).await?;
        let position = match (place.parse::<Uuid>(), frame::read_place(place)) {
            (Ok(id), _) => feed::after_event(&mut tx, id).await?,
            (Err(_), Some(horizon)) => seen.has_begun(horizon).then(|| Position::at(horizon)),
            _ => None,
        };
        let Some(position) = position else { return Ok(Missed::Unknown) };
        let filter = follower::filter(topics);
        let (events, bytes) = feed::weight_of_missed(&mut tx, (position, seen), &filter, MOST + 1).await?;
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let held = match self.inner.held.clone().try_acquire_many_owned(kib) {
            Ok(held) if events <= MOST && bytes <= MOST_BYTES => held,
            _ => return Ok(Missed::TooMuch),
        };
        let events = feed::missed(&mut tx, (position, seen), &filter, MOST).await?;
        tx.commit().await?;
        metrics::counter!("events_replayed_total").increment(events.len() as u64);
        Ok(Missed::Events(events, held))
    }
}
