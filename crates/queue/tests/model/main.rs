//! The two protocols of the queue as small models whose every path is explored: the life of a job ([`jobs`]) and the
//! ticks of a schedule ([`ticks`]). No database, no clock and no chance is involved.
//!
//! The first tests say what holds. Each of the others takes one guard away and names the promise that then falls, so
//! the model is not too coarse to see what the guard is for. `--nocapture` shows how it falls, step by step.

mod jobs;
mod ticks;

use std::{collections::HashMap, fmt::Debug, hash::Hash};

use backroom_queue::scheduler::Missed;
use stateright::{Checker, HasDiscoveries, Model};

use crate::{
    jobs::{Guard, Queue},
    ticks::Schedulers,
};

/// PLAT-3, PLAT-11
#[test]
fn one_job_keeps_every_promise_through_any_three_troubles() {
    holds(Queue::of_one_job(3), 500_000);
}

/// PLAT-3, PLAT-11
#[test]
fn three_workers_keep_every_promise_through_any_two_troubles() {
    holds(Queue { workers: 3, ..Queue::of_one_job(2) }, 50_000);
}

/// PLAT-3, PLAT-11
#[test]
fn two_jobs_keep_every_promise_through_any_trouble() {
    holds(Queue { jobs: 2, max_attempts: 1, ..Queue::of_one_job(1) }, 50_000);
}

/// PLAT-20
#[test]
fn a_poison_pill_is_buried_after_three_kills_and_its_neighbour_completes() {
    holds(Queue::with_a_pill(2), 15_000);
}

/// CRON-2, CRON-3
#[test]
fn two_schedulers_fire_each_tick_once_and_what_was_missed_by_its_policy() {
    holds(Schedulers::new(Missed::Skip, 1), 40_000);
    holds(Schedulers::new(Missed::RunOnce, 2), 200_000);
    holds(Schedulers::new(Missed::RunEach, 1), 40_000);
}

/// What lets the checker say that every job ends: no path is endless, so each is followed to where nothing can happen.
#[test]
fn no_path_runs_in_circles() {
    never_in_circles(&Queue::of_one_job(2));
    never_in_circles(&Queue::with_a_pill(2));
    never_in_circles(&Schedulers::new(Missed::RunOnce, 1));
}

/// PLAT-11. A worker that came back under its name was never lost, and its job waits for ever.
#[test]
fn rescue_by_the_workers_name_strands_its_jobs() {
    breaks(Queue::of_one_job(2).without(Guard::LostByLease), jobs::ENDS);
}

/// PLAT-3. A stopped worker goes on, and renews and marks what is another's.
#[test]
fn a_lease_for_the_life_of_a_job_is_held_twice() {
    breaks(Queue::of_one_job(2).without(Guard::LeasePerClaim), jobs::ONE_LEASE);
}

/// PLAT-3
#[test]
fn an_outcome_without_its_lease_overwrites_the_successors() {
    breaks(Queue::of_one_job(2).without(Guard::LeaseInFence), jobs::FENCED);
}

/// PLAT-3
#[test]
fn a_history_that_takes_in_what_was_not_taken_out_has_a_job_twice() {
    breaks(Queue::of_one_job(2).without(Guard::OneStatement), jobs::IN_ONE_PLACE);
}

/// PLAT-13
#[test]
fn a_cancel_that_ends_with_the_claim_is_forgotten() {
    breaks(Queue::of_one_job(2).without(Guard::CancelOutlivesHands), jobs::CANCEL_HOLDS);
}

/// PLAT-20
#[test]
fn a_rescue_that_charges_every_claim_charges_what_never_ran() {
    breaks(Queue::of_one_job(2).without(Guard::ChargeOnlyBegun), jobs::CHARGED_IF_BEGUN);
}

/// PLAT-20
#[test]
fn a_rescue_that_counts_nothing_lets_a_poison_pill_kill_for_ever() {
    breaks(Queue::with_a_pill(1).without(Guard::CountCrashes), jobs::THREE_KILLS);
}

/// PLAT-20
#[test]
fn counting_is_in_vain_if_a_worker_does_not_look_before_it_begins() {
    breaks(Queue::with_a_pill(1).without(Guard::LimitsAtBegin), jobs::WITHIN_LIMITS);
}

/// PLAT-20
#[test]
fn marking_a_suspect_after_its_handler_began_lets_it_kill_unseen() {
    breaks(Queue::with_a_pill(1).without(Guard::MarkSuspectsFirst), jobs::THREE_KILLS);
}

/// PLAT-20
#[test]
fn suspects_that_run_together_are_buried_together() {
    breaks(Queue::with_a_pill(2).without(Guard::OneSuspectAtATime), jobs::NEIGHBOURS_COMPLETE);
}

/// PLAT-20. A job that is done but not recorded is still one that its worker's death counts against.
#[test]
fn a_suspects_turn_that_ends_with_its_handler_ends_too_early() {
    breaks(Queue::with_a_pill(2).without(Guard::TurnEndsRecorded), jobs::NEIGHBOURS_COMPLETE);
}

/// CRON-2. The lock on the cursor does not help: another scheduler's slower clock may have begun the cursor anew.
#[test]
fn ticks_without_their_row_fire_twice() {
    breaks(Schedulers::new(Missed::RunOnce, 1).without(ticks::Guard::TickIsARow), ticks::AT_MOST_ONCE);
}

/// CRON-2. What was worked out from an old cursor would be written under a new one.
#[test]
fn a_cursor_that_is_not_locked_fires_for_the_past() {
    breaks(Schedulers::new(Missed::RunEach, 1).without(ticks::Guard::CursorLock), ticks::NOT_FOR_THE_PAST);
}

/// CRON-2
#[test]
fn a_cursor_that_moves_before_the_jobs_are_there_loses_ticks() {
    breaks(Schedulers::new(Missed::RunEach, 1).without(ticks::Guard::OneTransaction), ticks::DECIDED);
}

/// CRON-3
#[test]
fn a_schedule_that_does_not_start_when_first_seen_fires_for_the_past() {
    breaks(Schedulers::new(Missed::RunEach, 1).without(ticks::Guard::BeginsWhenSeen), ticks::NOT_FOR_THE_PAST);
}

fn test_name() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

trait Explored: Debug + Send + Sync + 'static + Model<State: Explorable, Action: Clone + Debug + PartialEq> {}
impl Explored for Queue {}
impl Explored for Schedulers {}

trait Explorable: Clone + Debug + Eq + Hash + Send + Sync {}
impl Explorable for jobs::State {}
impl Explorable for ticks::State {}

/// All properties hold, in each of at least so many states: a model that lost its actions holds whatever one likes.
fn holds<M: Explored>(model: M, at_least: usize) {
    let checker = model.checker().spawn_bfs().join();
    println!("{}: {} states, {} steps deep", test_name(), checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
    assert!(checker.unique_state_count() >= at_least, "only {} states", checker.unique_state_count());
}

/// The checker finds a path on which the property falls.
fn breaks<M: Explored>(model: M, property: &'static str) {
    let found = HasDiscoveries::AllOf([property].into());
    let path = model.checker().finish_when(found).spawn_bfs().join().assert_any_discovery(property);
    println!("{}. Not so: {property}. {path}", test_name());
}

/// Depth first: no state is met again while what follows from it is still being explored.
fn never_in_circles<M: Explored>(model: &M) {
    let mut explored = HashMap::new();
    let mut path: Vec<(M::State, Vec<M::State>)> = vec![];
    let mut enter = model.init_states().pop();
    loop {
        if let Some(state) = enter.take() {
            explored.insert(state.clone(), false);
            path.push((state.clone(), model.next_states(&state)));
        }
        let Some((state, next)) = path.last_mut() else { break };
        match next.pop() {
            None => {
                explored.insert(state.clone(), true);
                path.pop();
            }
            Some(next) => match explored.get(&next) {
                None => enter = Some(next),
                Some(done) => assert!(done, "a circle leads back to {next:?}"),
            },
        }
    }
    println!("{}: {} states", test_name(), explored.len());
    assert!(explored.len() >= 10_000, "only {} states", explored.len());
}
