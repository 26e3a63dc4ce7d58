//! What somebody missed who comes back.

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

/// What lies between the place that a follower names and what is brought live.
#[derive(Debug)]
pub enum Missed {
    Events(Vec<Event>),
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
        let events = feed::missed(&mut tx, (position, seen), &follower::filter(topics), MOST + 1).await?;
        tx.commit().await?;
        metrics::counter!("events_replayed_total").increment(events.len() as u64);
        Ok(if events.len() as i64 > MOST { Missed::TooMuch } else { Missed::Events(events) })
    }
}
