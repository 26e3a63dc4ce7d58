//! What each action does.

use super::{Action::*, Outcome::*, Phase::*, Stage::*, *};

impl Queue {
    pub(super) fn step(&self, s: &mut State, action: Action) -> Option<()> {
        s.troubles -= u8::from(action.is_trouble());
        match action {
            Promote(job) => s.row(job)?.phase = Available,
            Claim { worker, jobs, heard } => self.claim(s, worker, jobs, heard)?,
            Begin(hand) => self.begin(s, hand)?,
            Mark(hand) => {
                self.mark(s, &hand);
                s.hand(&hand)?.marked = true;
            }
            End(hand, outcome) => s.hand(&hand)?.end(outcome),
            HandBack(hand) => s.hand(&hand)?.end(Released),
            Renew(hand) => self.renew(s, &hand)?,
            Record { hand, heard } => {
                self.record(s, &hand)?;
                if heard {
                    s.let_go(&hand);
                }
            }
            Rescue(job) => self.rescue(s, job)?,
            Cancel(job) => match s.row(job)? {
                row if row.phase == Running => (row.cancel, row.cancelled) = (true, true),
                _ => s.finish(job, Cancelled),
            },
            Retry(job) => {
                // From the history it comes back with fresh attempts.
                s.history[job] = None;
                let row = s.queue[job].get_or_insert_default();
                *row = Row { phase: Available, cancel: false, cancelled: false, ..*row };
            }
            Pause => s.paused = true,
            Resume => s.paused = false,
            Kill(worker) => s.kill(worker),
            KillFromWithin(hand) => {
                s.killed += 1;
                s.kill(hand.worker?);
            }
            Restart(worker) => s.alive[worker] = true,
            LoseOnTheWire(hand) => s.let_go(&hand),
            RunOut(job) => s.row(job)?.ran_out = true,
            Forget(job) => {
                let row = s.row(job)?;
                row.attempt -= 1;
                row.wait(Available);
            }
        }
        Some(())
    }

    fn claim(&self, s: &mut State, worker: Worker, jobs: Bits, heard: bool) -> Option<()> {
        let claim = 1 + s.claims().max().unwrap_or(0);
        for job in (0..self.jobs).filter(|job| jobs & 1 << job != 0) {
            let row = s.row(job)?;
            *row = Row { phase: Running, attempt: row.attempt + 1, worker, claim, ..*row };
            let Row { attempt, crashes, cancel, cancelled, .. } = *row;
            if heard {
                // The process's map has one lease of a job, the latest.
                for hand in s.hands.iter_mut().filter(|hand| hand.job == job && hand.worker == Some(worker)) {
                    hand.kept = false;
                }
                let (worker, kept, told, marked, stage, too_late) = (Some(worker), true, false, false, Held, cancelled);
                let hand = Hand { job, worker, claim, attempt, crashes, cancel, kept, told, marked, stage, too_late };
                s.hands.push(hand);
            }
        }
        Some(())
    }

    /// What a worker does before it begins a handler.
    fn begin(&self, s: &mut State, hand: Hand) -> Option<()> {
        let looks = self.has(Guard::LimitsAtBegin);
        if !hand.kept {
            s.let_go(&hand);
        } else if hand.cancel || hand.told {
            s.hand(&hand)?.end(Cancelled);
        } else if looks && hand.crashes >= MAX_CRASHES {
            s.hand(&hand)?.end(Crashed);
        } else if looks && hand.attempt > self.max_attempts {
            s.hand(&hand)?.end(Discarded);
        } else if hand.crashes > 0 && !hand.marked && self.has(Guard::MarkSuspectsFirst) {
            if self.mark(s, &hand) {
                s.hand(&hand)?.marked = true;
                s.row(hand.job)?.really_begun = true;
            } else {
                s.let_go(&hand);
            }
        } else {
            if hand.crashes >= MAX_CRASHES || hand.attempt > self.max_attempts {
                s.broken = Some(WITHIN_LIMITS);
            }
            if hand.too_late {
                s.broken = Some(CANCEL_HOLDS);
            }
            s.hand(&hand)?.stage = Begun;
            if let Some(row) = s.row(hand.job).filter(|row| row.claim == hand.claim) {
                row.really_begun = true;
            }
        }
        Some(())
    }

    fn mark(&self, s: &mut State, hand: &Hand) -> bool {
        let fenced = self.fenced(s, hand);
        if let Some(row) = s.row(hand.job).filter(|_| fenced) {
            row.begun = true;
        }
        fenced
    }

    /// Renewals go on all the time. One that changes and tells nothing is no step.
    fn renew(&self, s: &mut State, hand: &Hand) -> Option<()> {
        let kept = self.holds(s, hand);
        let row = s.row(hand.job).filter(|_| kept);
        let ran_out = row.is_some_and(|row| std::mem::take(&mut row.ran_out));
        // What is another's by now is not to be gone on with.
        let cancel = s.queue[hand.job].is_none_or(|row| row.cancel || !kept);
        let told = hand.told || cancel && !matches!(hand.stage, Ended(_));
        *s.hand(hand)? = Hand { kept, told, ..*hand };
        (ran_out || !kept || told != hand.told).then_some(())
    }

    fn record(&self, s: &mut State, hand: &Hand) -> Option<()> {
        let Ended(outcome) = hand.stage else { return None };
        if !self.fenced(s, hand) {
            if !self.has(Guard::OneStatement) {
                s.history[hand.job] = Some(outcome);
            }
            return Some(());
        }
        if s.row(hand.job)?.claim != hand.claim {
            s.broken = Some(FENCED);
        } else if outcome == Failed && !s.row(hand.job)?.really_begun {
            s.broken = Some(CHARGED_IF_BEGUN);
        }
        let row = s.row(hand.job)?;
        row.attempt -= u8::from(matches!(outcome, Snoozed | Released));
        match outcome {
            Failed => self.hand_over(row, Retryable),
            Snoozed => self.hand_over(row, Scheduled),
            Released => self.hand_over(row, Available),
            Completed | Cancelled | Discarded | Crashed => s.finish(hand.job, outcome),
        }
        Some(())
    }

    fn rescue(&self, s: &mut State, job: Job) -> Option<()> {
        let row = s.row(job)?;
        if !self.has(Guard::CountCrashes) {
            row.attempt -= 1;
        } else if row.begun || !self.has(Guard::ChargeOnlyBegun) {
            row.crashes += 1;
            if !row.really_begun {
                s.broken = Some(CHARGED_IF_BEGUN);
            }
        } else {
            // It may have begun all the same, a moment before the mark: from now on it is a suspect.
            row.attempt -= 1;
            row.crashes = row.crashes.max(1);
        }
        self.hand_over(s.row(job)?, Available);
        Some(())
    }

    fn hand_over(&self, row: &mut Row, phase: Phase) {
        row.cancel &= self.has(Guard::CancelOutlivesHands);
        row.wait(phase);
    }
}

impl Row {
    /// In nobody's hands.
    fn wait(&mut self, phase: Phase) {
        let Row { attempt, crashes, cancel, cancelled, .. } = *self;
        *self = Row { phase, attempt, crashes, cancel, cancelled, ..Row::default() };
    }
}

impl Hand {
    /// What nobody asks any more is forgotten: it makes fewer states.
    fn end(&mut self, outcome: Outcome) {
        let stage = Ended(outcome);
        *self = Hand { stage, cancel: false, told: false, marked: false, too_late: false, ..*self };
    }
}

impl State {
    fn row(&mut self, job: Job) -> Option<&mut Row> {
        self.queue[job].as_mut()
    }

    pub(super) fn hands_of(&self, job: Job) -> impl Iterator<Item = &Hand> {
        self.hands.iter().filter(move |hand| hand.job == job)
    }

    fn hand(&mut self, hand: &Hand) -> Option<&mut Hand> {
        self.hands.iter_mut().find(|other| *other == hand)
    }

    fn let_go(&mut self, hand: &Hand) {
        self.hands.retain(|other| other != hand);
    }

    fn finish(&mut self, job: Job, end: Outcome) {
        self.queue[job] = None;
        self.history[job] = Some(end);
    }

    /// With everything in its hands, except that outcomes may be on their way.
    fn kill(&mut self, worker: Worker) {
        self.alive[worker] = false;
        self.hands.retain(|hand| hand.worker != Some(worker) || matches!(hand.stage, Ended(_)));
        for hand in self.hands.iter_mut().filter(|hand| hand.worker == Some(worker)) {
            (hand.worker, hand.kept) = (None, false);
        }
    }

    fn claims(&self) -> impl Iterator<Item = u8> {
        let rows = self.queue.iter().flatten().map(|row| row.claim);
        self.hands.iter().map(|hand| hand.claim).chain(rows).filter(|claim| *claim > 0)
    }

    /// Only whether claims are the same matters: states that differ in their numbers alone are one.
    pub(super) fn renumber_claims(&mut self) {
        let mut claims: Vec<u8> = self.claims().collect();
        claims.sort_unstable();
        claims.dedup();
        let renumber =
            |claim: &mut u8| *claim = (1..).zip(&claims).find(|(_, old)| *old == claim).map_or(0, |(new, _)| new);
        self.hands.iter_mut().for_each(|hand| renumber(&mut hand.claim));
        self.queue.iter_mut().flatten().for_each(|row| renumber(&mut row.claim));
    }
}
