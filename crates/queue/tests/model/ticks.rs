//! Schedulers that decide the ticks of one schedule for one tenant (decision 8). An action is one statement, one
//! transaction, or a wait for a lock. What a cursor owes, and what of it runs, is worked out by the crate's own
//! [`Schedule::due`].
//!
//! Fields marked *ghost* are what an all-seeing observer knows. No guard reads them; properties do.

use backroom_queue::{
    Ctx, Job, JobResult, Verdict, registry,
    scheduler::{GRACE, Missed, Schedule, Schedules},
};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use stateright::{Model, Property};

/// What keeps ticks right. Each is asked for where it works, in one place, and a test takes each away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A tick is a row, and who inserts it enqueues its job.
    TickIsARow,
    /// Who decides has locked the cursor.
    CursorLock,
    /// The cursor moves in the transaction that writes rows and jobs.
    OneTransaction,
    /// A cursor begins at the time at which the schedule is first seen.
    BeginsWhenSeen,
}

pub const AT_MOST_ONCE: &str = "a tick enqueues one job at most";
pub const DECIDED: &str = "every tick is decided";
pub const BY_POLICY: &str = "a missed tick runs if the policy says so, and a tick on time runs";
pub const NOT_FOR_THE_PAST: &str = "nothing fires for the time before a schedule was first seen";
pub const MISSED: &str = "two ticks are missed together";

type Minute = usize;
type Scheduler = usize;

/// When the schedule fires. Half a minute is on time ([`GRACE`] is one), two are too late.
const TICKS: [Minute; 3] = [1, 2, 5];
const END: Minute = 5;
/// How far each scheduler's clock is behind.
const BEHIND: [Minute; 2] = [0, 1];

#[derive(Clone, Debug)]
pub struct Schedulers {
    schedule: Schedule,
    /// How many troubles may strike: a scheduler dies, the schedule is paused, the tenant is suspended.
    troubles: u8,
    without: Option<Guard>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    now: Minute,
    /// The tenant is listed by the host, and not suspended.
    listed: bool,
    paused: bool,
    /// `queue.schedule_cursors`: how far the schedule is decided.
    cursor: Option<Minute>,
    /// `queue.schedule_ticks`, and how many jobs each tick has enqueued.
    ticks: [(Option<Tick>, u8); TICKS.len()],
    beats: [Beat; BEHIND.len()],
    troubles: u8,
    /// Ghost: when the cursor began.
    seen: Option<Minute>,
    /// Ghost: a pause or a suspension may have taken ticks out.
    interrupted: bool,
}

/// Of the row itself the model needs to know only that it is there; the rest is ghost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tick {
    runs: bool,
    paused: bool,
    missed: bool,
    /// The latest of those decided together, and whether others were.
    latest: bool,
    alone: bool,
    /// It is of a time before the cursor began.
    past: bool,
}

/// How far a scheduler has come in its beat. `now` is what its clock said when the beat began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Beat {
    Idle,
    Listed { now: Minute, listed: bool },
    Owed { now: Minute },
    Locked { now: Minute, paused: bool, decided_until: Minute },
}
use Beat::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    AMinutePasses,
    /// Looks at the clock, and asks the host for its tenants.
    Begin(Scheduler),
    /// Reads the cursor; begins a new one, forgets one of a tenant that is not listed.
    ReadCursor(Scheduler),
    LockCursor(Scheduler),
    Commit(Scheduler),
    Die(Scheduler),
    Pause,
    Resume,
    Suspend,
    Reinstate,
}
use Action::*;

impl Model for Schedulers {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            now: 0,
            listed: true,
            paused: false,
            cursor: None,
            ticks: [(None, 0); TICKS.len()],
            beats: [Idle; BEHIND.len()],
            troubles: self.troubles,
            seen: None,
            interrupted: false,
        }]
    }

    /// What may happen next.
    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        let locked = self.has(Guard::CursorLock) && s.beats.iter().any(|beat| matches!(beat, Locked { .. }));
        let trouble = s.troubles > 0;
        if s.now < END {
            actions.push(AMinutePasses);
        }
        for (scheduler, beat) in s.beats.iter().enumerate() {
            match beat {
                // A beat that would find nothing to do is no step.
                Idle if s.listed != s.cursor.is_some() || s.owes(s.clock(scheduler)) => actions.push(Begin(scheduler)),
                Idle => {}
                Listed { listed: false, .. } if locked => {} // its delete waits
                Listed { .. } => actions.push(ReadCursor(scheduler)),
                Owed { .. } if locked => {}
                Owed { .. } => actions.push(LockCursor(scheduler)),
                Locked { .. } => actions.push(Commit(scheduler)),
            }
            if trouble && *beat != Idle {
                actions.push(Die(scheduler));
            }
        }
        if s.paused && !locked {
            actions.push(Resume);
        }
        if !s.listed {
            actions.push(Reinstate);
        }
        if trouble && s.listed && !s.paused {
            actions.extend([Pause, Suspend]);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        match action {
            AMinutePasses => s.now += 1,
            Begin(scheduler) => s.beats[scheduler] = Listed { now: s.clock(scheduler), listed: s.listed },
            ReadCursor(scheduler) => {
                let Listed { now, listed } = s.beats[scheduler] else { return None };
                s.beats[scheduler] = if listed && s.owes(now) { Owed { now } } else { Idle };
                if listed && s.cursor.is_none() {
                    s.cursor = Some(if self.has(Guard::BeginsWhenSeen) { now } else { 0 });
                    s.seen = Some(now);
                } else if !listed {
                    s.cursor = None;
                }
            }
            LockCursor(scheduler) => {
                let Owed { now } = s.beats[scheduler] else { return None };
                let locked = s.cursor.map(|decided_until| Locked { now, paused: s.paused, decided_until });
                s.beats[scheduler] = locked.unwrap_or(Idle);
                if !self.has(Guard::OneTransaction) {
                    s.cursor = s.cursor.max(s.cursor.and(Some(now)));
                }
            }
            Commit(scheduler) => {
                let Locked { now, paused, decided_until } = s.beats[scheduler] else { return None };
                s.beats[scheduler] = Idle;
                let due = self.schedule.due(Tz::UTC, at(decided_until), at(now)).ticks;
                for tick in &due {
                    let (n, minute) = TICKS.into_iter().enumerate().find(|(_, minute)| at(*minute) == tick.at)?;
                    s.cursor = Some(minute);
                    let (row, jobs) = &mut s.ticks[n];
                    if row.is_some() && self.has(Guard::TickIsARow) {
                        continue;
                    }
                    let runs = tick.runs && !paused;
                    let (missed, past) = (at(now) - tick.at > GRACE, Some(minute) <= s.seen);
                    *row = Some(Tick {
                        runs,
                        paused,
                        missed,
                        latest: due.last() == Some(tick),
                        alone: due.len() == 1,
                        past,
                    });
                    *jobs += u8::from(runs);
                }
            }
            Die(scheduler) => {
                s.beats[scheduler] = Idle;
                s.troubles -= 1;
            }
            Pause => {
                (s.paused, s.interrupted) = (true, true);
                s.troubles -= 1;
            }
            Resume => {
                s.paused = false;
                s.cursor = s.cursor.map(|decided_until| decided_until.max(s.now));
            }
            Suspend => {
                (s.listed, s.interrupted) = (false, true);
                s.troubles -= 1;
            }
            Reinstate => s.listed = true,
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(AT_MOST_ONCE, |_, s: &State| s.ticks.iter().all(|(_, jobs)| *jobs <= 1)),
            Property::always(BY_POLICY, |m: &Schedulers, s: &State| {
                s.rows().all(|tick| {
                    let despite = match m.schedule.missed {
                        Missed::Skip => false,
                        Missed::RunOnce => tick.latest,
                        Missed::RunEach => true,
                    };
                    tick.runs == (!tick.paused && (!tick.missed || despite))
                })
            }),
            Property::always(NOT_FOR_THE_PAST, |_, s: &State| s.rows().all(|tick| !tick.past)),
            Property::eventually(DECIDED, |_, s: &State| {
                let decided =
                    |(minute, (row, _)): (&Minute, &(Option<Tick>, u8))| row.is_some() || Some(*minute) <= s.seen;
                s.interrupted || s.now == END && s.seen.is_some() && TICKS.iter().zip(&s.ticks).all(decided)
            }),
            Property::sometimes(MISSED, |_, s: &State| s.rows().any(|tick| tick.missed && tick.latest && !tick.alone)),
        ]
    }
}

impl Schedulers {
    pub fn new(missed: Missed, troubles: u8) -> Self {
        let minutes = TICKS.map(|minute| minute.to_string()).join(",");
        let text = format!("[[schedule]]\nname = \"s\"\ncron = \"{minutes} * * * *\"\nkind = \"test.tidy\"");
        let schedules = Schedules::parse(&text, &registry![Tidy]).expect("a valid file of schedules");
        let mut schedule = schedules.get("s").expect("the schedule of that file").clone();
        schedule.missed = missed;
        Self { schedule, troubles, without: None }
    }

    pub fn without(self, guard: Guard) -> Self {
        Self { without: Some(guard), ..self }
    }

    fn has(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }
}

impl State {
    fn clock(&self, scheduler: Scheduler) -> Minute {
        self.now.saturating_sub(BEHIND[scheduler])
    }

    fn owes(&self, now: Minute) -> bool {
        self.cursor.is_some_and(|decided_until| TICKS.iter().any(|tick| *tick > decided_until && *tick <= now))
    }

    fn rows(&self) -> impl Iterator<Item = &Tick> {
        self.ticks.iter().filter_map(|(row, _)| row.as_ref())
    }
}

fn at(minute: Minute) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(i64::try_from(minute).expect("a few minutes"))
}

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Tidy {}

impl Job for Tidy {
    type App = ();
    const KIND: &'static str = "test.tidy";

    async fn run(self, _: Ctx<()>) -> JobResult {
        Ok(Verdict::DONE)
    }
}
