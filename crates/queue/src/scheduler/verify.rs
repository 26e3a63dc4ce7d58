//! What fires in a period, by the code that decides it, and what became of what should have fired (CRON-5).

use std::{collections::BTreeMap, ops::Range, str::FromStr};

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, NaiveTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize, Serializer};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::{Schedule, TenantZone, WallClock, beat::KEEP_TICKS, cron::first_instant};

/// Ten years.
pub const LONGEST_PERIOD: TimeDelta = TimeDelta::days(3_653);

/// Clock changes are looked for in steps of this size; no two that undo each other have ever been so near.
const CHANGE_STEP: TimeDelta = TimeDelta::hours(6);

/// How many tenants an outcome names.
const NAMED_TENANTS: i32 = 10;

/// What became of the tick `k` of `queue.schedule_ticks`.
pub(super) const FATE: &str = "coalesce(k.outcome, case when k.job_id is null then 'skipped' else 'enqueued' end)";

/// One end of a period: a date, which is its first instant on the clock in question, or an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Day(NaiveDate),
    Instant(DateTime<Utc>),
}

impl Moment {
    fn in_zone(self, zone: Tz) -> Option<DateTime<Utc>> {
        match self {
            Moment::Day(date) => first_instant(zone, date.and_time(NaiveTime::MIN)).map(|at| at.to_utc()),
            Moment::Instant(at) => Some(at),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let moment = match text.parse() {
            Ok(date) => Moment::Day(date),
            Err(_) => {
                let wrong = "is not a date like 2026-03-29 or a time like 2026-03-29T01:00:00Z";
                Moment::Instant(DateTime::parse_from_rfc3339(text).map_err(|_| wrong)?.to_utc())
            }
        };
        let year = match moment {
            Moment::Day(date) => date.year(),
            Moment::Instant(at) => at.year(),
        };
        // What the time zones of other centuries were, nobody knows.
        if (1970..=2200).contains(&year) { Ok(moment) } else { Err("must lie in the years 1970 to 2200".to_owned()) }
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// From one moment up to, not including, another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub from: Moment,
    pub to: Moment,
}

/// The message is for the field `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    #[error("must be later than from: the period ends right before it")]
    Empty,
    #[error("is more than {} days after from; ask for a shorter period", LONGEST_PERIOD.num_days())]
    TooLong,
}

impl Period {
    /// The period on the clock of a zone.
    pub fn in_zone(self, zone: Tz) -> Result<Range<DateTime<Utc>>, PeriodError> {
        let (Some(from), Some(to)) = (self.from.in_zone(zone), self.to.in_zone(zone)) else {
            return Err(PeriodError::Empty);
        };
        if from >= to {
            return Err(PeriodError::Empty);
        }
        if to - from > LONGEST_PERIOD {
            return Err(PeriodError::TooLong);
        }
        Ok(from..to)
    }
}

/// A clock that is put forward or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ClockChange {
    /// The first instant of the new offset.
    pub at: DateTime<Utc>,
    pub time_zone: Tz,
    #[serde(serialize_with = "offset")]
    pub before: FixedOffset,
    #[serde(serialize_with = "offset")]
    pub after: FixedOffset,
}

impl ClockChange {
    /// Seconds by which the clock is put forward; negative: back.
    pub fn forward_s(&self) -> i32 {
        self.after.local_minus_utc() - self.before.local_minus_utc()
    }
}

fn offset<S: Serializer>(offset: &FixedOffset, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(offset)
}

/// The changes of a zone's clock at or after `from` and before `to`.
pub fn clock_changes(zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<ClockChange> {
    let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    // Begun a second before, so that a change at `from` itself is seen; in whole seconds, as clocks change.
    let mut at = from.with_nanosecond(0).unwrap_or(from) - TimeDelta::seconds(i64::from(from.nanosecond() == 0));
    let last = to - TimeDelta::nanoseconds(1);
    let mut changes = Vec::new();
    while at < last {
        let next = last.min(at + CHANGE_STEP);
        let (before, after) = (offset(at), offset(next));
        if before != after {
            let (mut old, mut new) = (0, (next - at).num_seconds());
            while new - old > 1 {
                let middle = old + (new - old) / 2;
                if offset(at + TimeDelta::seconds(middle)) == before { old = middle } else { new = middle }
            }
            changes.push(ClockChange { at: at + TimeDelta::seconds(new), time_zone: zone, before, after });
        }
        at = next;
    }
    changes
}

/// What fires in a period, in order of time and zone.
#[derive(Debug, Default, Serialize)]
pub struct Verification {
    pub firings: Vec<VerifiedFiring>,
    /// Of all zones in which the schedule fires, within what is shown.
    pub clock_changes: Vec<ClockChange>,
    /// Where the list goes on, if it was cut.
    pub next_from: Option<DateTime<Utc>>,
}

/// A firing on one zone's clock, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerifiedFiring {
    pub at: DateTime<Utc>,
    /// As the zone's clock shows it, with its offset.
    pub local: DateTime<FixedOffset>,
    pub time_zone: Tz,
    pub wall_clock: WallClock,
    /// False for a tick that was decided and that the schedule, as it is now, does not have: its expression or somebody's
    /// time zone was another one then.
    pub expected: bool,
    /// One for each outcome that some tenant has. Empty while the firing lies ahead.
    pub outcomes: Vec<TickOutcome>,
}

impl VerifiedFiring {
    fn new(at: DateTime<Tz>, wall_clock: WallClock, expected: bool) -> Self {
        let (time_zone, local) = (at.timezone(), at.fixed_offset());
        Self { at: at.to_utc(), local, time_zone, wall_clock, expected, outcomes: Vec::new() }
    }
}

/// What became of a firing, for some of those that it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TickOutcome {
    /// Decided: `enqueued`, `duplicate`, `missed`, `paused`, `overlap`, or `skipped` where an older program did not say
    /// which. Not decided: `owed` (the next scheduler decides it), `missing` (it should have been decided and was not), or
    /// `unrecorded` (from before the schedule was in force here, or so long ago that ticks are forgotten).
    pub outcome: String,
    /// How many it is; 1 for a schedule that does not fan out.
    pub count: i64,
    /// The first few of them; none for a schedule that does not fan out.
    pub tenants: Vec<String>,
    /// The job, where it is one.
    pub job_id: Option<Uuid>,
    /// The unfinished job that an overlap is about, where it is one.
    pub blocked_by: Option<Uuid>,
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Period(#[from] PeriodError),
    #[error("could not read the ticks")]
    Database(#[from] sqlx::Error),
}

/// Every firing of a schedule in a period, computed as the scheduler computes what it owes, and for those not later than
/// `now` what became of them. `tenants` are those that the host lists for fan-out, or one of them. At most `limit`
/// instants; zones that fire at the same instant count as one.
pub async fn verify(
    db: &mut PgConnection,
    schedule: &Schedule,
    tenants: &[TenantZone],
    period: Period,
    now: DateTime<Utc>,
    limit: usize,
) -> Result<Verification, VerifyError> {
    let mut zones: BTreeMap<&str, (Tz, Vec<&str>)> = BTreeMap::new();
    for (tenant, zone) in schedule.targets(tenants) {
        zones.entry(zone.name()).or_insert((zone, Vec::new())).1.push(tenant);
    }
    if zones.is_empty() {
        period.in_zone(Tz::UTC)?;
    }
    let mut all = Verification::default();
    for (zone, tenants) in zones.into_values() {
        let Range { start, end } = period.in_zone(zone)?;
        let end = all.next_from.map_or(end, |cut| end.min(cut));
        // The first instant beyond the limit, if there is one, is where to stop.
        let forward = schedule.cron.firings(zone, start - TimeDelta::seconds(1)).map(|at| at.to_utc());
        let beyond = forward.skip_while(|at| *at < start).take_while(|at| *at < end).nth(limit);
        all.next_from = beyond.or(all.next_from);
        let end = beyond.unwrap_or(end);
        let mut expected: Vec<_> =
            schedule.ticks_back(zone, end - TimeDelta::nanoseconds(1)).take_while(|at| *at >= start).collect();
        expected.reverse();
        all.firings.extend(with_outcomes(db, schedule, &expected, &tenants, zone, start..end, now).await?);
        all.clock_changes.extend(clock_changes(zone, start, end));
    }
    all.cut(limit);
    Ok(all)
}

impl Verification {
    /// Puts what the zones brought in order, and keeps `limit` instants of it.
    fn cut(&mut self, limit: usize) {
        self.firings.sort_by_key(|firing| (firing.at, firing.time_zone.name()));
        let mut instants: Vec<_> = self.firings.iter().map(|firing| firing.at).collect();
        instants.dedup();
        self.next_from = [self.next_from, instants.get(limit).copied()].into_iter().flatten().min();
        if let Some(cut) = self.next_from {
            self.firings.retain(|firing| firing.at < cut);
            self.clock_changes.retain(|change| change.at < cut);
        }
        self.clock_changes.sort_by_key(|change| (change.at, change.time_zone.name()));
    }
}

/// The firings with what became of them for the tenants, and the ticks in the period that are none of them.
async fn with_outcomes(
    db: &mut PgConnection,
    schedule: &Schedule,
    expected: &[DateTime<Tz>],
    tenants: &[&str],
    zone: Tz,
    period: Range<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<VerifiedFiring>> {
    let mut firings: BTreeMap<DateTime<Utc>, VerifiedFiring> = BTreeMap::new();
    for at in expected {
        firings.insert(at.to_utc(), VerifiedFiring::new(*at, schedule.cron.wall_clock(*at), true));
    }
    // Nothing is decided ahead of its time.
    let past: Vec<_> = firings.keys().copied().filter(|at| *at <= now).collect();
    if period.start > now {
        return Ok(firings.into_values().collect());
    }
    let outcomes: Vec<(DateTime<Utc>, TickOutcome)> = outcomes(db, schedule, &past, tenants, period, now).await?;
    for (at, outcome) in outcomes {
        let unexpected = || VerifiedFiring::new(at.with_timezone(&zone), WallClock::Once, false);
        firings.entry(at).or_insert_with(unexpected).outcomes.push(outcome);
    }
    Ok(firings.into_values().collect())
}

/// A row of [`outcomes`].
type OutcomeRow = (DateTime<Utc>, String, i64, Vec<String>, Option<Uuid>, Option<Uuid>);

async fn outcomes(
    db: &mut PgConnection,
    schedule: &Schedule,
    expected: &[DateTime<Utc>],
    tenants: &[&str],
    period: Range<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<(DateTime<Utc>, TickOutcome)>> {
    let rows: Vec<OutcomeRow> = sqlx::query_as(AssertSqlSafe(format!(
        "with expected as (select at from unnest($2::timestamptz[]) at),
         target as (
             select u.tenant, c.decided_until, c.begun_at from unnest($3::text[]) u (tenant)
             left join queue.schedule_cursors c on c.schedule = $1 and c.tenant = u.tenant
         ), fate as (
             select e.at, g.tenant, k.job_id, k.blocked_by,
                    case when k.tick_at is not null then {FATE}
                         when g.decided_until is null or e.at <= greatest(g.begun_at, $6) then 'unrecorded'
                         when e.at > g.decided_until then 'owed'
                         else 'missing' end as outcome
             from expected e cross join target g
             left join queue.schedule_ticks k on k.schedule = $1 and k.tenant = g.tenant and k.tick_at = e.at
             union all
             select k.tick_at, k.tenant, k.job_id, k.blocked_by, {FATE}
             from queue.schedule_ticks k
             where k.schedule = $1 and k.tenant = any($3) and k.tick_at >= $4 and k.tick_at < $5
               and not exists (select from expected e where e.at = k.tick_at)
         )
         select at, outcome, count(*), (coalesce(array_agg(tenant order by tenant) filter (where tenant <> ''), '{{}}'))[1:{NAMED_TENANTS}],
                case when count(*) = 1 then min(job_id::text)::uuid end,
                case when count(*) = 1 then min(blocked_by::text)::uuid end
         from fate group by at, outcome order by at, outcome"
    )))
    .bind(&schedule.name)
    .bind(expected)
    .bind(tenants)
    .bind(period.start)
    .bind(period.end)
    .bind(now - KEEP_TICKS)
    .fetch_all(db)
    .await?;
    let outcome = |(at, outcome, count, tenants, job_id, blocked_by): OutcomeRow| {
        (at, TickOutcome { outcome, count, tenants, job_id, blocked_by })
    };
    Ok(rows.into_iter().map(outcome).collect())
}
