//! Jobs between the table, the workers and the people who operate them (decisions 9 and 10).
//!
//! An action is one statement of the crate or one step of a worker; between any two of them anything else may happen.
//! What makes the model small enough to be explored to its end:
//!
//! - **Time is an adversary, not a number.** A wait may be over at any moment, and what nobody renews runs out. A
//!   worker that is stopped takes no step while others do, and then goes on with what it has in its hands.
//! - **Troubles are counted**, whatever their kind: how many strike is a test's to say, which and when the checker's to
//!   try.
//! - **Jobs are in the queue from the start.** A claim may pass over any of them, so a later enqueue adds nothing.
//!
//! Fields marked *ghost* are what an all-seeing observer knows. No guard reads them; properties do.

mod steps;

use std::fmt;

use stateright::{Model, Property};

/// What keeps the protocol right. Each is asked for where it works, in one place, and a test takes each away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A job is lost when its lease has run out, not when nobody bears the name of its worker.
    LostByLease,
    /// Every claim has a lease of its own.
    LeasePerClaim,
    /// An outcome names its lease. The attempt alone is no fence: attempts are given back.
    LeaseInFence,
    /// The history takes in what the same statement took out of the queue.
    OneStatement,
    /// A cancel outlives the hands that the job is in.
    CancelOutlivesHands,
    /// A rescue charges the attempt only of a job that is marked as begun.
    ChargeOnlyBegun,
    /// A rescue counts crashes.
    CountCrashes,
    /// A worker looks at attempts and crashes before it begins a handler.
    LimitsAtBegin,
    /// A job that may have killed a worker is marked before its handler begins.
    MarkSuspectsFirst,
    /// Of the jobs that have crashed twice a process runs one at a time,
    OneSuspectAtATime,
    /// whose turn ends when its outcome is recorded, not when its handler returns.
    TurnEndsRecorded,
}

pub const IN_ONE_PLACE: &str = "a job is in the queue or in the history, never in both or in neither";
pub const FENCED: &str = "an outcome is written only by the claim that holds the job";
pub const ONE_LEASE: &str = "a job is never under two live leases";
pub const CANCEL_HOLDS: &str = "no claim made after a cancel begins the handler";
pub const CHARGED_IF_BEGUN: &str = "an attempt is charged only if its handler began";
pub const WITHIN_LIMITS: &str = "no handler begins for a job that has used up its attempts or crashed three times";
pub const THREE_KILLS: &str = "a poison pill kills three workers, no more, and is buried as crashed";
pub const NEIGHBOURS_COMPLETE: &str = "the neighbours of a poison pill complete";
pub const ENDS: &str = "every job ends";
/// Found, not forbidden: at least once is the contract. But only one of the two can write.
pub const TWICE_AT_ONCE: &str = "two handlers of a job run at once";

const MAX_JOBS: usize = 2;
const MAX_WORKERS: usize = 3;
/// With so many claims of a job in somebody's hands, all but one of them stale, nobody claims it once more.
const MAX_HANDS: usize = 3;
const MAX_CRASHES: u8 = 3;

type Job = usize;
type Worker = usize;
/// A set of jobs.
type Bits = u8;

#[derive(Clone, Debug)]
pub struct Queue {
    pub jobs: usize,
    pub workers: usize,
    pub max_attempts: u8,
    /// The handler of the first job kills its process, always, and the others succeed, always.
    pub pill: bool,
    /// How many troubles may strike. See [`Action`].
    pub troubles: u8,
    pub without: Option<Guard>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// `queue.jobs`
    queue: [Option<Row>; MAX_JOBS],
    /// `queue.finished_jobs`
    history: [Option<Outcome>; MAX_JOBS],
    paused: bool,
    alive: [bool; MAX_WORKERS],
    hands: Vec<Hand>,
    troubles: u8,
    /// Ghost: workers that the pill has killed.
    killed: u8,
    /// Ghost: the promise that the last step broke.
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Row {
    phase: Phase,
    attempt: u8,
    crashes: u8,
    cancel: bool,
    begun: bool,
    worker: Worker,
    /// The claim that holds a running job. Its number stands for its lease.
    claim: u8,
    ran_out: bool,
    /// Ghost: the handler of this claim began, or is about to.
    really_begun: bool,
    /// Ghost: somebody cancelled it.
    cancelled: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    Scheduled,
    #[default]
    Available,
    Running,
    Retryable,
}
use Phase::*;

/// A claimed job in a worker's hands, from the claim's answer until the outcome's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hand {
    job: Job,
    /// `None`: the worker is dead, the outcome is on the wire.
    worker: Option<Worker>,
    // What the claim answered.
    claim: u8,
    attempt: u8,
    crashes: u8,
    cancel: bool,
    /// It is in the process's map of leases: it is renewed, and may be begun.
    kept: bool,
    /// Its cancellation token has fired.
    told: bool,
    /// The row says that it is begun, or has been asked to. A suspect is marked while it is still held.
    marked: bool,
    stage: Stage,
    /// Ghost: somebody had cancelled the job before this claim.
    too_late: bool,
}

impl fmt::Debug for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hand { job, claim, attempt, crashes, stage, .. } = self;
        let worker = self.worker.map_or("the wire".to_owned(), |worker| format!("worker {worker}"));
        let cancel = if self.cancel || self.told { ", cancelled" } else { "" };
        let marked = if self.marked { ", marked" } else { "" };
        write!(f, "job {job}, {worker}, claim {claim}, attempt {attempt}, {crashes} crashes{cancel}{marked}, {stage:?}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    Held,
    Begun,
    Ended(Outcome),
}
use Stage::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Completed,
    Failed,
    Snoozed,
    Released,
    Cancelled,
    Discarded,
    Crashed,
}
use Outcome::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    // Statements. One that is not heard is committed, but its answer is lost: a trouble.
    Promote(Job),
    Claim { worker: Worker, jobs: Bits, heard: bool },
    Mark(Hand),
    Renew(Hand),
    Record { hand: Hand, heard: bool },
    Rescue(Job),
    // Steps of a worker. A snooze counts as a trouble.
    Begin(Hand),
    End(Hand, Outcome),
    HandBack(Hand),
    Restart(Worker),
    // People, each of them a trouble but for the last.
    Cancel(Job),
    Retry(Job),
    Pause,
    Resume,
    // Troubles: a worker is killed; a lease runs out although its worker lives (it is stopped, cut off or too slow);
    // the database crashes and forgets a claim, the one statement that does not wait for the disk.
    Kill(Worker),
    RunOut(Job),
    Forget(Job),
    // What follows from trouble.
    KillFromWithin(Hand),
    LoseOnTheWire(Hand),
}
use Action::*;

impl Model for Queue {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut start = State {
            queue: [None; MAX_JOBS],
            history: [None; MAX_JOBS],
            paused: false,
            alive: [false; MAX_WORKERS],
            hands: Vec::new(),
            troubles: self.troubles,
            killed: 0,
            broken: None,
        };
        start.queue[..self.jobs].fill(Some(Row::default()));
        start.alive[..self.workers].fill(true);
        vec![start]
    }

    /// What may happen next.
    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        // What follows a broken promise proves nothing more.
        if s.broken.is_some() || s.killed > MAX_CRASHES {
            return;
        }
        (0..self.jobs).for_each(|job| self.to_a_job(s, job, actions));
        (0..self.workers).for_each(|worker| self.by_a_worker(s, worker, actions));
        s.hands.iter().for_each(|hand| self.in_hand(s, hand, actions));
        actions.push(if s.paused { Resume } else { Pause });
        if s.troubles == 0 {
            actions.retain(|action| !action.is_trouble());
        }
    }

    /// What it does.
    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        self.step(&mut next, action)?;
        next.renumber_claims();
        next.hands.sort_unstable();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(IN_ONE_PLACE, |m: &Queue, s: &State| {
                (0..m.jobs).all(|job| s.queue[job].is_some() != s.history[job].is_some())
            }),
            Property::always(ONE_LEASE, |m: &Queue, s: &State| {
                (0..m.jobs).all(|job| s.hands_of(job).filter(|hand| m.holds(s, hand)).count() <= 1)
            }),
            Property::always(FENCED, |_, s: &State| s.broken != Some(FENCED)),
            Property::always(CANCEL_HOLDS, |_, s: &State| s.broken != Some(CANCEL_HOLDS)),
            Property::always(CHARGED_IF_BEGUN, |_, s: &State| s.broken != Some(CHARGED_IF_BEGUN)),
            Property::always(WITHIN_LIMITS, |_, s: &State| s.broken != Some(WITHIN_LIMITS)),
            // The checker follows `eventually` to where nothing more can happen. That is sound where no path runs in
            // circles, which a test shows, and where what is reached stays: so only once nobody can retry what ended.
            Property::eventually(ENDS, |m: &Queue, s: &State| {
                s.history[..m.jobs].iter().all(|end| *end == Some(Completed) || end.is_some() && s.troubles == 0)
            }),
        ];
        if self.pill {
            properties.push(Property::always(THREE_KILLS, |_, s: &State| match s.history[0] {
                None => s.killed <= MAX_CRASHES,
                end => s.killed == MAX_CRASHES && end == Some(Crashed),
            }));
            properties.push(Property::always(NEIGHBOURS_COMPLETE, |_, s: &State| {
                s.history[1..].iter().all(|end| matches!(end, None | Some(Completed)))
            }));
        } else {
            properties.push(Property::sometimes(TWICE_AT_ONCE, |_, s: &State| {
                s.hands_of(0).filter(|hand| hand.stage == Begun).count() > 1
            }));
        }
        properties
    }
}

impl Queue {
    pub fn of_one_job(troubles: u8) -> Self {
        Self { jobs: 1, workers: 2, max_attempts: 2, pill: false, troubles, without: None }
    }

    pub fn with_a_pill(jobs: usize) -> Self {
        Self { jobs, workers: 2, max_attempts: MAX_CRASHES, pill: true, troubles: 0, without: None }
    }

    pub fn without(self, guard: Guard) -> Self {
        Self { without: Some(guard), ..self }
    }

    fn has(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }

    /// `where id and lease`, of a renewal.
    fn holds(&self, s: &State, hand: &Hand) -> bool {
        let same_lease = |row: Row| row.claim == hand.claim || !self.has(Guard::LeasePerClaim);
        s.queue[hand.job].is_some_and(|row| row.phase == Running && same_lease(row))
    }

    /// `where id and lease and attempt`, of a mark and of an outcome.
    fn fenced(&self, s: &State, hand: &Hand) -> bool {
        let same_lease = self.holds(s, hand) || !self.has(Guard::LeaseInFence);
        same_lease && s.queue[hand.job].is_some_and(|row| row.phase == Running && row.attempt == hand.attempt)
    }

    /// Whether `hand` must wait for `other`, its neighbour in the process.
    fn waits_for(&self, hand: &Hand, other: &Hand) -> bool {
        let suspects = hand.crashes == MAX_CRASHES - 1 && other.crashes == MAX_CRASHES - 1;
        let has_its_turn = match other.stage {
            Held => other.marked,
            Begun => true,
            Ended(_) => self.has(Guard::TurnEndsRecorded),
        };
        suspects && has_its_turn && hand.worker == other.worker && self.has(Guard::OneSuspectAtATime)
    }

    fn to_a_job(&self, s: &State, job: Job, actions: &mut Vec<Action>) {
        let Some(row) = &s.queue[job] else {
            if s.history[job] != Some(Completed) {
                actions.push(Retry(job));
            }
            return;
        };
        match row.phase {
            Available => {}
            Scheduled | Retryable => actions.extend([Promote(job), Retry(job)]),
            Running => {
                let renewed = s.hands_of(job).any(|hand| hand.kept && self.holds(s, hand));
                if renewed && !row.ran_out {
                    actions.push(RunOut(job));
                }
                let ran_out = row.ran_out || !renewed;
                let lost = if self.has(Guard::LostByLease) { ran_out } else { !s.alive[row.worker] };
                if lost && s.alive.contains(&true) {
                    actions.push(Rescue(job));
                }
                // Whatever else was written to the row has waited for the disk, and the claim with it.
                if !row.begun && !row.cancel {
                    actions.push(Forget(job));
                }
            }
        }
        if !row.cancel {
            actions.push(Cancel(job));
        }
    }

    fn by_a_worker(&self, s: &State, worker: Worker, actions: &mut Vec<Action>) {
        if !s.alive[worker] {
            return actions.push(Restart(worker));
        }
        actions.push(Kill(worker));
        // Idle workers are alike: what the second could claim, the first can.
        let idle = |worker: Worker| s.alive[worker] && s.hands.iter().all(|hand| hand.worker != Some(worker));
        if s.paused || idle(worker) && (0..worker).any(idle) {
            return;
        }
        let available = |job: Job| s.queue[job].is_some_and(|row| row.phase == Available);
        let claimable = |job: &Job| available(*job) && s.hands_of(*job).count() < MAX_HANDS;
        let claimable = (0..self.jobs).filter(claimable).fold(0, |jobs, job| jobs | 1 << job);
        for jobs in (1..=claimable).filter(|jobs| jobs & !claimable == 0) {
            actions.extend([true, false].map(|heard| Claim { worker, jobs, heard }));
        }
    }

    fn in_hand(&self, s: &State, &hand: &Hand, actions: &mut Vec<Action>) {
        match hand.stage {
            Held => {
                if hand.marked || !s.hands.iter().any(|other| self.waits_for(&hand, other)) {
                    actions.push(Begin(hand));
                }
                if s.paused && !hand.marked {
                    actions.push(HandBack(hand));
                }
            }
            Begun => {
                if !hand.marked {
                    actions.push(Mark(hand));
                }
                let failed = if hand.attempt < self.max_attempts { Failed } else { Discarded };
                match self.pill {
                    true if hand.job == 0 => actions.push(KillFromWithin(hand)),
                    true => actions.push(End(hand, Completed)),
                    false => {
                        let failed = if hand.told { Cancelled } else { failed };
                        actions.extend([Completed, failed, Snoozed].map(|outcome| End(hand, outcome)));
                    }
                }
            }
            Ended(_) => {
                actions.push(Record { hand, heard: true });
                if self.fenced(s, &hand) {
                    actions.push(Record { hand, heard: false });
                }
            }
        }
        if hand.kept {
            actions.push(Renew(hand));
        }
        if hand.worker.is_none() {
            actions.push(LoseOnTheWire(hand));
        }
    }
}

impl Action {
    fn is_trouble(&self) -> bool {
        match self {
            Claim { heard, .. } | Record { heard, .. } => !heard,
            End(_, outcome) => *outcome == Snoozed,
            Cancel(_) | Retry(_) | Pause | Kill(_) | RunOut(_) | Forget(_) => true,
            _ => false,
        }
    }
}
