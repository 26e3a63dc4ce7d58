//! `public.sign_in_tries` (AUTH-5): how often somebody tried to sign in to an address, from which network. Whether the address is
//! anybody's makes no difference.
//!
//! A try is counted before the password is looked at, so that a thousand at once are not a thousand guesses. From one network the
//! sixth failure in a row waits, each one longer. From all networks together an address takes [`STRANGE_FAILURES`] failures an hour,
//! not counting networks that the owner has signed in from: those, and so the owner, are never kept out by what others do elsewhere.
//!
//! No network is more than its share of that: at most [`FAILURES_OF_ONE`], as many as its waits allow within an hour, and whoever has
//! an IPv6 /48 has one network, not 65,536. What is refused is not counted, so that it does not prolong itself.

use chrono::{DateTime, Duration, Utc};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::EmailAddress;

/// Failures in a row, from one network, that need not wait.
pub const FREE_FAILURES: i32 = 5;
/// Failures within an hour, from all networks in which nobody has ever signed in to the address.
pub const STRANGE_FAILURES: i64 = 100;
/// What one network counts of them: within an hour its waits allow no more.
pub const FAILURES_OF_ONE: i64 = 13;
/// The longest wait from one network, in seconds.
const LONGEST_WAIT_S: i64 = 900;
const FIRST_WAIT_S: i64 = 30;
/// What a network is told that has to wait because of others.
const STRANGERS_WAIT: Duration = Duration::minutes(10);

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
    // The wait after n failures: 30 s, doubled with each, 15 minutes at most. A day without tries forgets them. Tries of one moment do
    // not see each other in the sum: beyond it go as many as there are connections.
    let counted = sqlx::query!(
        "with strangers as (
             select network, failures,
                 case when network like '%/64' then set_masklen(network::cidr, 48)::text else network end as wide
             from public.sign_in_tries
             where address_hash = $1 and succeeded_at is null and tried_at > $8
         )
         insert into public.sign_in_tries as t (address_hash, network, failures, tried_at)
         select $1::bytea, $2::text, 1, $3::timestamptz
         where exists (select from public.sign_in_tries o
                       where o.address_hash = $1 and o.network = $2 and o.succeeded_at is not null)
            or ((select coalesce(sum(w.failures), 0)
                 from (select least(sum(failures), $7::bigint) as failures from strangers group by wide) w) < $9::bigint
                and (select coalesce(sum(failures), 0) from strangers
                     where network <> $2
                       and wide = case when $2::text like '%/64' then set_masklen($2::text::cidr, 48)::text else $2::text end)
                    < $7::bigint)
         on conflict (address_hash, network) do update
             set failures = case when t.tried_at < $3 - interval '1 day' then 1 else least(t.failures, 1000) + 1 end,
                 tried_at = $3
             where t.failures < $4 or t.tried_at + make_interval(secs =>
                 least($6::bigint, $5::bigint * power(2, least(t.failures - $4, 10)))) <= $3",
        hash,
        network,
        now,
        FREE_FAILURES,
        FIRST_WAIT_S,
        LONGEST_WAIT_S,
        FAILURES_OF_ONE,
        now - Duration::hours(1),
        STRANGE_FAILURES
    )
    .execute(&mut *db)
    .await?;
    if counted.rows_affected() == 1 {
        return Ok(Try::Allowed);
    }
    let tried = sqlx::query!(
        "select failures, tried_at from public.sign_in_tries where address_hash = $1 and network = $2",
        hash,
        network
    )
    .fetch_optional(db)
    .await?;
    let own = tried.filter(|tried| tried.failures >= FREE_FAILURES).map(|tried| {
        let doublings = u32::try_from((tried.failures - FREE_FAILURES).clamp(0, 10)).unwrap_or_default();
        tried.tried_at + Duration::seconds((FIRST_WAIT_S << doublings).min(LONGEST_WAIT_S)) - now
    });
    Ok(Try::Wait(own.filter(|wait| *wait > Duration::zero()).unwrap_or(STRANGERS_WAIT)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::Clock, tenant::testing::TestDatabase};

    async fn tries(db: &mut PgConnection, network: &str, now: DateTime<Utc>) -> Try {
        begin(db, &EmailAddress::parse("anna@acme.example").unwrap(), network, now).await.unwrap()
    }

    /// AUTH-5: a host that never tires is one network, however many failures it has in a row.
    #[tokio::test]
    async fn one_network_does_not_keep_the_owner_out_of_all_others() {
        let database = TestDatabase::new().await;
        let mut db = database.pool.acquire().await.unwrap();
        let mut now = Clock::system().now();
        for _ in 0..120 {
            assert_eq!(tries(&mut db, "203.0.113.9", now).await, Try::Allowed);
            now += Duration::minutes(15);
        }
        assert_eq!(tries(&mut db, "192.0.2.1", now).await, Try::Allowed, "the owner, where they have never been");
    }

    /// AUTH-5: a /48 is somebody's as a whole; its many /64s neither keep the owner out nor are as many guesses.
    #[tokio::test]
    async fn the_networks_of_an_ipv6_site_are_one() {
        let database = TestDatabase::new().await;
        let mut db = database.pool.acquire().await.unwrap();
        let now = Clock::system().now();
        let mut guesses = 0;
        for subnet in 0..40 {
            for _ in 0..FREE_FAILURES {
                let network = format!("2001:db8:1:{subnet:x}::/64");
                guesses += i64::from(tries(&mut db, &network, now).await == Try::Allowed);
            }
        }
        assert!((FAILURES_OF_ONE..=FAILURES_OF_ONE + i64::from(FREE_FAILURES)).contains(&guesses), "{guesses} guesses");
        for elsewhere in ["192.0.2.1", "2001:db8:2:1::/64", "local"] {
            assert_eq!(tries(&mut db, elsewhere, now).await, Try::Allowed, "{elsewhere}");
        }
    }

    /// AUTH-5: what is refused because of all together does not count, and so does not go on for ever.
    #[tokio::test]
    async fn strangers_who_go_on_trying_do_not_prolong_the_wait() {
        let database = TestDatabase::new().await;
        let mut db = database.pool.acquire().await.unwrap();
        let began = Clock::system().now();
        let from = |n: i64| format!("203.0.113.{n}");
        for n in 0..STRANGE_FAILURES {
            assert_eq!(tries(&mut db, &from(n), began).await, Try::Allowed, "{n}");
        }
        for minutes in 1..=60 {
            let now = began + Duration::minutes(minutes) - Duration::seconds(1);
            for n in [0, 50, 99, 150] {
                assert_eq!(tries(&mut db, &from(n), now).await, Try::Wait(STRANGERS_WAIT), "{minutes} {n}");
            }
        }
        assert_eq!(tries(&mut db, "192.0.2.1", began + Duration::hours(1)).await, Try::Allowed);
    }

    /// AUTH-5: the owner goes where they have been, whatever strangers do.
    #[tokio::test]
    async fn the_owner_s_own_network_is_never_shut_by_others() {
        let database = TestDatabase::new().await;
        let mut db = database.pool.acquire().await.unwrap();
        let (now, home) = (Clock::system().now(), "2001:db8:1:1::/64");
        assert_eq!(tries(&mut db, home, now).await, Try::Allowed);
        succeeded(&mut db, &EmailAddress::parse("anna@acme.example").unwrap(), home, now).await.unwrap();
        for n in 0..STRANGE_FAILURES {
            tries(&mut db, &format!("203.0.113.{n}"), now).await;
            tries(&mut db, &format!("2001:db8:1:{:x}::/64", n + 2), now).await;
        }
        assert!(matches!(tries(&mut db, "192.0.2.1", now).await, Try::Wait(_)));
        assert_eq!(tries(&mut db, home, now).await, Try::Allowed);
    }
}
