//! `public.sign_in_tries` (AUTH-5): how often somebody tried to sign in to an address, from which network. Whether the address is
//! anybody's makes no difference.
//!
//! A try is counted before the password is looked at, so that a thousand at once are not a thousand guesses. From one network the
//! sixth failure in a row waits, each one longer. From all networks together an address takes [`STRANGE_FAILURES`] failures an hour,
//! not counting networks that the owner has signed in from: those, and so the owner, are never kept out by what others do elsewhere.

use chrono::{DateTime, Duration, Utc};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::EmailAddress;

/// Failures in a row, from one network, that need not wait.
pub const FREE_FAILURES: i32 = 5;
/// Failures within an hour, from all networks in which nobody has ever signed in to the address.
pub const STRANGE_FAILURES: i64 = 100;
/// The longest wait from one network, in seconds.
const LONGEST_WAIT_S: i64 = 900;
const FIRST_WAIT_S: i64 = 30;

/// What a try may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Try {
    /// It is counted; look at the password.
    Allowed,
    /// Come back after so long. It was not counted.
    Wait(Duration),
}

fn hash(address: &EmailAddress) -> Vec<u8> {
    Sha256::digest(address.key()).to_vec()
}

/// Counts a try, unless it has to wait.
pub async fn begin(
    db: &mut PgConnection,
    address: &EmailAddress,
    network: &str,
    now: DateTime<Utc>,
) -> Result<Try, StoreError> {
    let hash = hash(address);
    // The wait after n failures: 30 s, doubled with each, 15 minutes at most. A day without tries forgets them.
    let counted = sqlx::query!(
        "insert into public.sign_in_tries as t (address_hash, network, failures, tried_at) values ($1, $2, 1, $3)
         on conflict (address_hash, network) do update
             set failures = case when t.tried_at < $3 - interval '1 day' then 1 else least(t.failures, 1000) + 1 end,
                 tried_at = $3
             where t.failures < $4 or t.tried_at + make_interval(secs =>
                 least($6::bigint, $5::bigint * power(2, least(t.failures - $4, 10)))) <= $3
         returning succeeded_at is null as \"strange!\"",
        hash,
        network,
        now,
        FREE_FAILURES,
        FIRST_WAIT_S,
        LONGEST_WAIT_S
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(counted) = counted else {
        let tried = sqlx::query!(
            "select failures, tried_at from public.sign_in_tries where address_hash = $1 and network = $2",
            hash,
            network
        )
        .fetch_one(db)
        .await?;
        let doublings = u32::try_from((tried.failures - FREE_FAILURES).clamp(0, 10)).unwrap_or_default();
        let wait = Duration::seconds((FIRST_WAIT_S << doublings).min(LONGEST_WAIT_S));
        return Ok(Try::Wait((tried.tried_at + wait - now).max(Duration::seconds(1))));
    };
    if !counted.strange {
        return Ok(Try::Allowed);
    }
    let strange = sqlx::query_scalar!(
        "select coalesce(sum(failures), 0)::bigint as \"n!\" from public.sign_in_tries
         where address_hash = $1 and succeeded_at is null and tried_at > $2",
        hash,
        now - Duration::hours(1)
    )
    .fetch_one(db)
    .await?;
    Ok(if strange > STRANGE_FAILURES { Try::Wait(Duration::minutes(10)) } else { Try::Allowed })
}

/// The owner has signed in from this network: the failures before are forgotten, and the network is the owner's.
pub async fn succeeded(
    db: &mut PgConnection,
    address: &EmailAddress,
    network: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.sign_in_tries set failures = 0, succeeded_at = $3 where address_hash = $1 and network = $2",
        hash(address),
        network,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Forgets what no limit asks for any more: tries of the day before, and networks that the owner has not signed in from for
/// 90 days. Answers how many.
pub async fn prune(db: &mut PgConnection, now: DateTime<Utc>) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from public.sign_in_tries
         where tried_at < $1 and (succeeded_at is null or succeeded_at < $2)",
        now - Duration::days(1),
        now - Duration::days(90)
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
