//! One beat: what is owed at a time is decided, recorded and enqueued.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{BATCH, Due, Overlap, Schedule, Scheduler, TenantZone};
use crate::{NewJob, enqueue_many};

/// How often a scheduler with nothing due looks at the database for new tenants.
const REREAD_EVERY: TimeDelta = TimeDelta::seconds(10);
const PRUNE_EVERY: TimeDelta = TimeDelta::hours(1);
pub(super) const KEEP_TICKS: TimeDelta = TimeDelta::days(90);

/// What became of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Its job was enqueued.
    Enqueued,
    /// A job that counts as the same work was unfinished; the tick is that job's.
    Duplicate,
    /// It was missed, and the schedule's policy is not to run it.
    Missed,
    /// The schedule is paused.
    Paused,
    /// The job of an earlier tick is unfinished, and the schedule's policy is not to enqueue another.
    Overlap,
}

impl Decision {
    fn as_str(self) -> &'static str {
        match self {
            Decision::Enqueued => "enqueued",
            Decision::Duplicate => "duplicate",
            Decision::Missed => "missed",
            Decision::Paused => "paused",
            Decision::Overlap => "overlap",
        }
    }
}

/// A tick that this scheduler decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    pub schedule: String,
    /// `None` where the schedule does not fan out.
    pub tenant: Option<String>,
    pub tick_at: DateTime<Utc>,
    pub decision: Decision,
    pub job_id: Option<Uuid>,
    /// The unfinished job that an overlap is about.
    pub blocked_by: Option<Uuid>,
}

/// When to look at the database again.
#[derive(Default)]
pub(super) struct Agenda {
    read_at: Option<DateTime<Utc>>,
    next: Option<DateTime<Utc>>,
    pruned_at: Option<DateTime<Utc>>,
}

impl Agenda {
    /// Nothing is due, and the database was read a moment ago (by a clock that may have been set back since).
    fn is_empty(&self, now: DateTime<Utc>) -> bool {
        let fresh = self.read_at.is_some_and(|at| at <= now && now - at < REREAD_EVERY);
        fresh && self.next.is_none_or(|next| now < next)
    }
}

impl Scheduler {
    /// Decides everything that is owed at `now`. Free while nothing is due, apart from a look at the database every ten
    /// seconds. A schedule that fails does not keep others from firing; the first error is answered at the end, and what
    /// it left undone stays owed.
    pub async fn beat(&self, now: DateTime<Utc>) -> anyhow::Result<Vec<Firing>> {
        let mut agenda = self.agenda.lock().await;
        if agenda.is_empty(now) {
            return Ok(Vec::new());
        }
        agenda.read_at = None;

        let tenants = if self.schedules.iter().any(Schedule::per_tenant) {
            self.tenants.schedule_tenants().await.context("could not list the tenants of schedules")?
        } else {
            Vec::new()
        };
        let (mut firings, mut failed, mut next) = (Vec::new(), None, None::<DateTime<Utc>>);
        for schedule in &self.schedules {
            match fire(&self.pool, schedule, &schedule.targets(&tenants), now).await {
                Ok(fired) => firings.extend(fired),
                Err(error) => {
                    let error = anyhow::Error::new(error).context(format!("schedule {}", schedule.name));
                    failed = failed.or(Some(error));
                }
            }
            next = [next, schedule.next_of_all(&tenants, now)].into_iter().flatten().min();
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if agenda.pruned_at.is_none_or(|at| now - at >= PRUNE_EVERY) {
            prune(&self.pool, now).await.context("could not prune old ticks")?;
            agenda.pruned_at = Some(now);
        }
        agenda.next = next;
        agenda.read_at = Some(now);
        Ok(firings)
    }
}

impl Schedule {
    /// Tenant key and zone of everybody the schedule fires for, in the order of keys. '' where it does not fan out.
    pub(super) fn targets<'a>(&self, tenants: &'a [TenantZone]) -> BTreeMap<&'a str, Tz> {
        match self.time_zone {
            Some(zone) => BTreeMap::from([("", zone)]),
            None => tenants.iter().map(|tenant| (tenant.tenant.as_str(), tenant.time_zone)).collect(),
        }
    }

    /// The earliest firing after `now`, in whatever zone.
    pub(super) fn next_of_all(&self, tenants: &[TenantZone], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let zones: HashSet<Tz> = self.targets(tenants).into_values().collect();
        zones.into_iter().filter_map(|zone| self.cron.next_after(now.with_timezone(&zone))).map(|at| at.to_utc()).min()
    }
}

/// Decides what a schedule owes all its targets, a transaction per batch of them.
async fn fire(
    pool: &PgPool,
    schedule: &Schedule,
    targets: &BTreeMap<&str, Tz>,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Firing>> {
    let cursors = read_cursors(pool, schedule, targets, now).await?;

    let mut last_ticks: HashMap<Tz, Option<DateTime<Utc>>> = HashMap::new();
    let mut owed = Vec::new();
    for (tenant, zone) in targets {
        let last = *last_ticks
            .entry(*zone)
            .or_insert_with(|| schedule.cron.last_until(now.with_timezone(zone)).map(|at| at.to_utc()));
        if let Some(decided_until) = cursors.get(*tenant)
            && last > Some(*decided_until)
        {
            owed.push(*tenant);
        }
    }

    let mut firings = Vec::new();
    for batch in owed.chunks(BATCH) {
        let mut tx = pool.begin().await?;
        let fired = fire_batch(&mut tx, schedule, targets, batch, now).await?;
        tx.commit().await?;
        report(schedule, &fired);
        firings.extend(fired);
    }
    Ok(firings)
}

/// How far each target is decided. Begins a cursor for those that are new (left out of the answer: they are owed nothing)
/// and forgets those that are no longer listed.
async fn read_cursors(
    pool: &PgPool,
    schedule: &Schedule,
    targets: &BTreeMap<&str, Tz>,
    now: DateTime<Utc>,
) -> sqlx::Result<HashMap<String, DateTime<Utc>>> {
    let cursors: HashMap<String, DateTime<Utc>> =
        sqlx::query_as("select tenant, decided_until from queue.schedule_cursors where schedule = $1")
            .bind(&schedule.name)
            .fetch_all(pool)
            .await?
            .into_iter()
            .collect();

    let new: Vec<_> = targets.keys().filter(|tenant| !cursors.contains_key(**tenant)).copied().collect();
    if !new.is_empty() {
        sqlx::query(
            "insert into queue.schedule_cursors (schedule, tenant, decided_until, begun_at)
             select $1, tenant, $3, $3 from unnest($2::text[]) tenant on conflict do nothing",
        )
        .bind(&schedule.name)
        .bind(new)
        .bind(now)
        .execute(pool)
        .await?;
    }
    let gone: Vec<_> = cursors.keys().filter(|tenant| !targets.contains_key(tenant.as_str())).cloned().collect();
    if !gone.is_empty() {
        sqlx::query("delete from queue.schedule_cursors where schedule = $1 and tenant = any($2)")
            .bind(&schedule.name)
            .bind(gone)
            .execute(pool)
            .await?;
    }
    Ok(cursors)
}

/// A tick of a tenant.
struct Fire {
    tenant: String,
    at: DateTime<Utc>,
    decision: Decision,
    /// The job that it enqueues if it runs.
    job: Option<NewJob>,
    blocked_by: Option<Uuid>,
}

/// Decides what the schedule owes a batch of targets, under the lock of their cursors.
async fn fire_batch(
    db: &mut PgConnection,
    schedule: &Schedule,
    targets: &BTreeMap<&str, Tz>,
    batch: &[&str],
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Firing>> {
    let paused = sqlx::query_scalar("select paused_at is not null from queue.schedules where name = $1 for share")
        .bind(&schedule.name)
        .fetch_optional(&mut *db)
        .await?
        .unwrap_or(false);
    // Locked in the order of keys, so that two schedulers cannot deadlock. The second one finds them moved on.
    let cursors: Vec<(String, DateTime<Utc>)> = sqlx::query_as(
        "select tenant, decided_until from queue.schedule_cursors
         where schedule = $1 and tenant = any($2) order by tenant for update",
    )
    .bind(&schedule.name)
    .bind(batch)
    .fetch_all(&mut *db)
    .await?;

    let mut fires = Vec::new();
    for (tenant, decided_until) in cursors {
        let Some(zone) = targets.get(tenant.as_str()) else { continue };
        let Due { ticks, cut } = schedule.due(*zone, decided_until, now);
        if cut {
            tracing::warn!(
                schedule = schedule.name,
                tenant,
                kept = ticks.len(),
                "too many missed ticks; dropped the oldest"
            );
        }
        for tick in ticks {
            let decision = match (paused, tick.runs) {
                (true, _) => Decision::Paused,
                (false, true) => Decision::Enqueued,
                (false, false) => Decision::Missed,
            };
            let key = schedule.per_tenant().then_some(tenant.as_str());
            let job = (decision == Decision::Enqueued).then(|| schedule.new_job(key));
            fires.push(Fire { tenant: tenant.clone(), at: tick.at, decision, job, blocked_by: None });
        }
    }
    let unfinished = match schedule.overlap {
        Overlap::Queue => HashMap::new(),
        Overlap::Skip => unfinished_jobs(db, schedule, &fires).await?,
    };
    move_cursors(db, schedule, &fires).await?;
    let mut fires = claim(db, schedule, fires).await?;
    if schedule.overlap == Overlap::Skip {
        skip_overlaps(&mut fires, unfinished);
    }

    let jobs: Vec<NewJob> = fires.iter().filter_map(|fire| fire.job.clone()).collect();
    let mut enqueued = HashMap::new();
    for jobs in jobs.chunks(BATCH) {
        let answers = enqueue_many(&mut *db, jobs).await?;
        enqueued.extend(jobs.iter().map(|job| job.id).zip(answers));
    }
    // The job that there is: the one that was made for the tick, or the one that counts as the same work.
    let existing = |id: Uuid| enqueued.get(&id).map_or(id, |answer| answer.id);
    let firings: Vec<_> = fires
        .into_iter()
        .map(|fire| {
            let answer = fire.job.and_then(|job| enqueued.get(&job.id));
            let duplicate = answer.is_some_and(|answer| answer.duplicate);
            Firing {
                schedule: schedule.name.clone(),
                tenant: schedule.per_tenant().then_some(fire.tenant),
                tick_at: fire.at,
                decision: if duplicate { Decision::Duplicate } else { fire.decision },
                job_id: answer.map(|answer| answer.id),
                blocked_by: fire.blocked_by.map(existing),
            }
        })
        .collect();
    correct(db, schedule, &firings).await?;
    Ok(firings)
}

/// The job of each tenant's latest tick that had one, where that job is unfinished. A tick that was skipped for a job stands
/// for that job, so that a long row of them is not walked through.
async fn unfinished_jobs(
    db: &mut PgConnection,
    schedule: &Schedule,
    fires: &[Fire],
) -> sqlx::Result<HashMap<String, Uuid>> {
    let tenants: BTreeSet<&str> =
        fires.iter().filter(|fire| fire.job.is_some()).map(|fire| fire.tenant.as_str()).collect();
    let unfinished: Vec<(String, Uuid)> = sqlx::query_as(
        "select u.tenant, j.id from unnest($2::text[]) u (tenant) cross join lateral (
             select coalesce(t.job_id, t.blocked_by) as job_id from queue.schedule_ticks t
             where t.schedule = $1 and t.tenant = u.tenant and coalesce(t.job_id, t.blocked_by) is not null
             order by t.tick_at desc limit 1
         ) latest join queue.jobs j on j.id = latest.job_id",
    )
    .bind(&schedule.name)
    .bind(tenants.into_iter().collect::<Vec<_>>())
    .fetch_all(db)
    .await?;
    Ok(unfinished.into_iter().collect())
}

/// Takes the jobs from ticks whose predecessor's is unfinished: from before, or because it is enqueued with them.
fn skip_overlaps(fires: &mut [Fire], mut unfinished: HashMap<String, Uuid>) {
    for fire in fires.iter_mut() {
        let Some(job) = &fire.job else { continue };
        match unfinished.get(&fire.tenant) {
            None => {
                unfinished.insert(fire.tenant.clone(), job.id);
            }
            Some(other) => {
                fire.blocked_by = Some(*other);
                fire.decision = Decision::Overlap;
                fire.job = None;
            }
        }
    }
}

async fn move_cursors(db: &mut PgConnection, schedule: &Schedule, fires: &[Fire]) -> sqlx::Result<()> {
    // Ticks are in order, so the last one of a tenant wins.
    let last: BTreeMap<&str, DateTime<Utc>> = fires.iter().map(|fire| (fire.tenant.as_str(), fire.at)).collect();
    sqlx::query(
        "update queue.schedule_cursors c set decided_until = moved.at
         from unnest($2::text[], $3::timestamptz[]) moved (tenant, at) where c.schedule = $1 and c.tenant = moved.tenant",
    )
    .bind(&schedule.name)
    .bind(last.keys().copied().collect::<Vec<_>>())
    .bind(last.values().copied().collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}

/// Writes the ticks' rows; answers those that were not there yet.
async fn claim(db: &mut PgConnection, schedule: &Schedule, mut fires: Vec<Fire>) -> sqlx::Result<Vec<Fire>> {
    let claimed: HashSet<(String, DateTime<Utc>)> = sqlx::query_as(
        "insert into queue.schedule_ticks (schedule, tenant, tick_at, job_id, outcome)
         select $1, tick.* from unnest($2::text[], $3::timestamptz[], $4::uuid[], $5::text[]) tick
         on conflict do nothing returning tenant, tick_at",
    )
    .bind(&schedule.name)
    .bind(fires.iter().map(|fire| fire.tenant.clone()).collect::<Vec<_>>())
    .bind(fires.iter().map(|fire| fire.at).collect::<Vec<_>>())
    .bind(fires.iter().map(|fire| fire.job.as_ref().map(|job| job.id)).collect::<Vec<_>>())
    .bind(fires.iter().map(|fire| fire.decision.as_str()).collect::<Vec<_>>())
    .fetch_all(db)
    .await?
    .into_iter()
    .collect();
    fires.retain(|fire| claimed.contains(&(fire.tenant.clone(), fire.at)));
    Ok(fires)
}

/// Ticks were written as if each that runs enqueued its own job. Those that turned out otherwise say so.
async fn correct(db: &mut PgConnection, schedule: &Schedule, firings: &[Firing]) -> sqlx::Result<()> {
    let otherwise = |firing: &&Firing| matches!(firing.decision, Decision::Duplicate | Decision::Overlap);
    let firings: Vec<_> = firings.iter().filter(otherwise).collect();
    if firings.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update queue.schedule_ticks t set job_id = known.job_id, outcome = known.outcome, blocked_by = known.blocked_by
         from unnest($2::text[], $3::timestamptz[], $4::uuid[], $5::text[], $6::uuid[])
             known (tenant, tick_at, job_id, outcome, blocked_by)
         where t.schedule = $1 and t.tenant = known.tenant and t.tick_at = known.tick_at",
    )
    .bind(&schedule.name)
    .bind(firings.iter().map(|firing| firing.tenant.clone().unwrap_or_default()).collect::<Vec<_>>())
    .bind(firings.iter().map(|firing| firing.tick_at).collect::<Vec<_>>())
    .bind(firings.iter().map(|firing| firing.job_id).collect::<Vec<_>>())
    .bind(firings.iter().map(|firing| firing.decision.as_str()).collect::<Vec<_>>())
    .bind(firings.iter().map(|firing| firing.blocked_by).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}

/// One log line per decision, however many tenants it was for.
fn report(schedule: &Schedule, firings: &[Firing]) {
    let mut counts: HashMap<Decision, u64> = HashMap::new();
    for firing in firings {
        *counts.entry(firing.decision).or_default() += 1;
    }
    for (decision, ticks) in counts {
        let labels = [("schedule", schedule.name.clone()), ("outcome", decision.as_str().to_owned())];
        metrics::counter!("schedule_ticks_total", &labels).increment(ticks);
        let of_decision = || firings.iter().filter(|firing| firing.decision == decision);
        tracing::info!(
            schedule = schedule.name,
            job.kind = schedule.kind(),
            outcome = decision.as_str(),
            ticks,
            first_tick_at = ?of_decision().map(|firing| firing.tick_at).min(),
            "schedule fired"
        );
    }
}

/// Forgets ticks after [`KEEP_TICKS`], except the latest of each schedule and tenant.
async fn prune(pool: &PgPool, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query(
        "delete from queue.schedule_ticks old where tick_at < $1 and exists (
             select from queue.schedule_ticks later
             where later.schedule = old.schedule and later.tenant = old.tenant and later.tick_at > old.tick_at
         )",
    )
    .bind(now - KEEP_TICKS)
    .execute(pool)
    .await?;
    Ok(())
}
