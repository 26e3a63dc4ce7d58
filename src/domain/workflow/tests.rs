//! The state machine as tables, and what holds whatever is done in whatever order.

use std::collections::BTreeSet;

use chrono::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::domain::Language;

const TODAY: NaiveDate = NaiveDate::from_ymd_opt(2026, 3, 2).unwrap();
const ACTORS: [&str; 3] = ["user:anna", "user:bo", "api_key:k"];

fn day(offset: i64) -> NaiveDate {
    TODAY + Duration::days(offset)
}

/// A workflow with a step for each flag, which says whether it needs approval; step n is due n days from today, the whole a day later.
fn workflow(approvals: &[bool]) -> Workflow {
    let at = Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).unwrap();
    let step = |(n, needs_approval): (usize, &bool)| Step {
        id: Uuid::from_u128(n as u128 + 1),
        position: n as u32 + 1,
        title: format!("Step {n}"),
        status: StepStatus::Pending,
        assignee: Assignee::Role(Role::Admin),
        due_on: day(n as i64 + 1),
        needs_approval: *needs_approval,
        asset_id: None,
        note: None,
        advanced_by: None,
        advanced_at: None,
        approved_by: None,
        approved_at: None,
    };
    Workflow {
        id: Uuid::nil(),
        kind: WorkflowKind::Procurement,
        template_id: None,
        title: "Laptops".to_owned(),
        status: WorkflowStatus::Pending,
        employee_id: None,
        asset_id: None,
        assignee: Assignee::Role(Role::Admin),
        due_on: day(approvals.len() as i64 + 1),
        reason: None,
        created_by: "test".to_owned(),
        created_at: at,
        updated_at: at,
        begun_at: None,
        ended_at: None,
        steps: approvals.iter().enumerate().map(step).collect(),
    }
}

/// An admin, if it is a person.
fn person(actor: &str) -> Option<Person> {
    actor.starts_with("user:").then_some(Person { id: Uuid::nil(), role: Role::Admin })
}

/// Does it, as the store would.
fn act(workflow: &mut Workflow, position: u32, act: StepAct, actor: &str) -> Result<Moved, Refusal> {
    let at = position as usize - 1;
    let moved = workflow.act(&workflow.steps[at], act, actor, person(actor))?;
    workflow.status = moved.workflow;
    let step = &mut workflow.steps[at];
    step.status = moved.step;
    match act {
        StepAct::Advance => step.advanced_by = Some(actor.to_owned()),
        StepAct::Reject => step.advanced_by = None,
        StepAct::Approve => step.approved_by = Some(actor.to_owned()),
        StepAct::Skip => {}
    }
    Ok(moved)
}

/// ASSET-5: from each status, what each act leads to.
#[test]
fn the_table_of_a_workflow() {
    use WorkflowAct::*;
    use WorkflowStatus::*;
    for (status, after) in [
        (Pending, [Some(InProgress), Some(Completed), Some(Cancelled), Some(Failed)]),
        (InProgress, [None, Some(Completed), Some(Cancelled), Some(Failed)]),
        (Completed, [None; 4]),
        (Cancelled, [None; 4]),
        (Failed, [None; 4]),
    ] {
        assert_eq!([Begin, Complete, Cancel, Fail].map(|act| status.after(act)), after, "{status}");
        assert_eq!(status.has_ended(), after == [None; 4], "{status}");
    }
}

/// ASSET-5: from each status, with and without approval, what each act leads to.
#[test]
fn the_table_of_a_step() {
    use StepAct::*;
    use StepStatus::*;
    for (status, needs_approval, after) in [
        (Pending, false, [Some(Done), None, None, Some(Skipped)]),
        (Pending, true, [Some(AwaitingApproval), None, None, None]),
        (AwaitingApproval, true, [None, Some(Done), Some(Pending), None]),
        (Done, false, [None; 4]),
        (Done, true, [None; 4]),
        (Skipped, false, [None; 4]),
    ] {
        let acts = [Advance, Approve, Reject, Skip].map(|act| status.after(act, needs_approval));
        assert_eq!(acts, after, "{status}, {needs_approval}");
        assert_eq!(status.is_open(), after != [None; 4], "{status}");
    }
}

/// ASSET-5
#[test]
fn the_last_step_completes_the_workflow() {
    let mut two = workflow(&[false, false]);
    let moved = act(&mut two, 2, StepAct::Advance, ACTORS[0]).unwrap();
    assert_eq!(moved, Moved { step: StepStatus::Done, workflow: WorkflowStatus::InProgress });
    assert_eq!(two.next_step().unwrap().position, 1);
    assert_eq!(act(&mut two, 1, StepAct::Advance, ACTORS[0]).unwrap().workflow, WorkflowStatus::Completed);
    let again = act(&mut two, 1, StepAct::Advance, ACTORS[0]).unwrap_err();
    assert_eq!(again.to_string(), "the workflow is completed; nothing about it changes any more");
}

/// ASSET-5: nobody passes a gate, and a person does not open it alone.
#[test]
fn what_comes_after_a_step_that_needs_approval_waits_for_it() {
    let mut gated = workflow(&[false, true, false]);
    let early = act(&mut gated, 3, StepAct::Advance, ACTORS[0]).unwrap_err();
    assert_eq!(early.to_string(), "step 3 waits for the approval of step 2");
    let unasked = act(&mut gated, 2, StepAct::Approve, ACTORS[1]).unwrap_err();
    assert_eq!(unasked.to_string(), "step 2 is pending; advance it first");
    act(&mut gated, 2, StepAct::Advance, ACTORS[0]).unwrap();
    let own = act(&mut gated, 2, StepAct::Approve, ACTORS[0]).unwrap_err();
    assert_eq!(own, Refusal::OwnWork { position: 2 });
    act(&mut gated, 2, StepAct::Reject, ACTORS[1]).unwrap();
    assert_eq!(gated.steps[1].status, StepStatus::Pending);
    act(&mut gated, 2, StepAct::Advance, ACTORS[2]).unwrap();
    act(&mut gated, 2, StepAct::Approve, ACTORS[2]).expect("a program answers for whom it stands for");
    act(&mut gated, 3, StepAct::Advance, ACTORS[0]).unwrap();
    assert_eq!(gated.status, WorkflowStatus::InProgress);
}

/// ASSET-5, AUTH-4: a step that is somebody's is not everybody's, to do or to approve.
#[test]
fn who_may_advance_and_approve_a_step_follows_from_whose_it_is() {
    use StepAct::{Advance, Approve, Reject};
    let of = |id: u128, role| Person { id: Uuid::from_u128(id), role };
    let [anna, bo, cia, mia] = [of(1, Role::Admin), of(2, Role::Developer), of(3, Role::User), of(4, Role::User)];
    let name = |person: Person| format!("user:{}", person.id);
    let mut of_cia = workflow(&[true]);
    of_cia.steps[0].assignee = Assignee::Person(cia.id);
    of_cia.created_by = name(anna);
    let tries = |workflow: &Workflow, act, person| workflow.act(&workflow.steps[0], act, &name(person), Some(person));
    for (person, may) in [(anna, true), (bo, true), (cia, true), (mia, false)] {
        let tried = tries(&of_cia, Advance, person);
        assert_eq!(tried.is_ok(), may, "{person:?}");
        assert!(may || tried == Err(Refusal::NotYours { position: 1 }), "{tried:?}");
    }
    let mut of_all = of_cia.clone();
    of_all.steps[0].assignee = Assignee::Role(Role::User);
    assert!(tries(&of_all, Advance, mia).is_ok(), "everybody with the role");

    let waits = |by: Person| {
        let mut waiting = of_cia.clone();
        waiting.steps[0].status = StepStatus::AwaitingApproval;
        waiting.steps[0].advanced_by = Some(name(by));
        waiting
    };
    // Cia did it: whoever sees to the whole approves, and she does not.
    let done = waits(cia);
    assert_eq!(tries(&done, Approve, cia), Err(Refusal::OwnWork { position: 1 }));
    assert_eq!(tries(&done, Approve, bo), Err(Refusal::NotApprover { position: 1 }));
    assert_eq!(tries(&done, Reject, mia), Err(Refusal::NotApprover { position: 1 }));
    assert!(tries(&done, Approve, anna).is_ok() && tries(&done, Reject, cia).is_ok());
    let mut of_bo = done.clone();
    of_bo.assignee = Assignee::Person(bo.id);
    assert!(tries(&of_bo, Approve, bo).is_ok(), "he sees to the whole");
    // Bo asks for her approval of what Anna started: it is hers to give.
    let asked = waits(bo);
    assert!(tries(&asked, Approve, cia).is_ok());
    assert_eq!(tries(&asked, Approve, bo), Err(Refusal::OwnWork { position: 1 }));
    assert_eq!(tries(&asked, Approve, anna), Err(Refusal::OwnRequest { position: 1 }));
    assert!(tries(&asked, Approve, of(9, Role::Admin)).is_ok(), "another admin");
    assert!(asked.act(&asked.steps[0], Approve, "api_key:k", None).is_ok());
}

/// ASSET-5
#[test]
fn completing_skips_what_is_open_but_no_approval() {
    let mut three = workflow(&[false, false, false]);
    act(&mut three, 2, StepAct::Advance, ACTORS[0]).unwrap();
    assert_eq!(three.completion(false), Err(Refusal::Open(2)));
    assert_eq!(three.completion(true), Ok(vec![three.steps[0].id, three.steps[2].id]));
    let mut gated = workflow(&[false, true]);
    assert_eq!(gated.completion(true), Err(Refusal::Unskippable { position: 2 }));
    act(&mut gated, 2, StepAct::Advance, ACTORS[0]).unwrap();
    assert_eq!(gated.completion(true), Err(Refusal::Unskippable { position: 2 }), "it waits for approval");
    act(&mut gated, 2, StepAct::Approve, ACTORS[1]).unwrap();
    assert_eq!(gated.completion(true), Ok(vec![gated.steps[0].id]));
    gated.status = WorkflowStatus::Failed;
    assert_eq!(gated.completion(true), Err(Refusal::Ended(WorkflowStatus::Failed)));
}

/// ASSET-5
#[test]
fn it_is_overdue_the_day_after_the_first_thing_that_was_due() {
    let mut three = workflow(&[false, false, false]);
    assert_eq!(three.deadline(), Some(day(1)));
    assert!(!three.is_overdue(day(1)) && three.is_overdue(day(2)));
    act(&mut three, 1, StepAct::Advance, ACTORS[0]).unwrap();
    assert_eq!(three.deadline(), Some(day(2)));
    three.due_on = day(-1);
    assert_eq!(three.deadline(), Some(day(-1)), "its own day counts too");
    three.status = WorkflowStatus::Cancelled;
    assert_eq!((three.deadline(), three.is_overdue(day(99))), (None, false));
}

/// ASSET-5, ASSET-6: every kind comes with a template that the organization could have made, in both languages.
#[test]
fn every_kind_has_steps_of_its_own_that_are_valid() {
    for kind in WorkflowKind::ALL.iter().copied() {
        let of = |language| built_in(kind, language);
        let (sv, en) = (of(Language::Sv), of(Language::En));
        assert_ne!(sv, en);
        for steps in [sv, en] {
            let template = NewTemplate { kind, name: kind.to_string(), steps, is_default: true };
            assert_eq!(template.validate(), Ok(()), "{kind}");
        }
    }
}

/// ASSET-5
#[test]
fn a_template_is_refused_field_by_field() {
    let step = |title: &str, assignee, due_in_days| TemplateStep {
        title: title.to_owned(),
        assignee,
        due_in_days,
        needs_approval: false,
    };
    let steps = vec![
        step("Order", Assignee::Role(Role::Admin), 0),
        step(" ", Assignee::Role(Role::Customer), 1_826),
        step("Bcc\n: x", Assignee::Person(Uuid::nil()), -366),
    ];
    let mut template = NewTemplate { kind: WorkflowKind::Repair, name: "n".repeat(101), steps, is_default: false };
    let codes = |template: &NewTemplate| -> Vec<String> {
        let errors = template.validate().unwrap_err().0;
        errors.iter().map(|error| format!("{} {}", error.field, error.code)).collect()
    };
    assert_eq!(
        codes(&template),
        [
            "name too_long",
            "steps[1].title required",
            "steps[1].assignee invalid",
            "steps[1].due_in_days out_of_range",
            "steps[2].title invalid",
            "steps[2].due_in_days out_of_range",
        ]
    );
    template.name = "Short".to_owned();
    template.steps.clear();
    assert_eq!(codes(&template), ["steps out_of_range"]);
    template.steps = vec![step("Order", Assignee::Role(Role::Admin), 0); MAX_STEPS + 1];
    assert_eq!(codes(&template), ["steps out_of_range"]);
}

/// ASSET-6: steps count from the first or last day, and who hears of it late is not late at once.
#[test]
fn no_step_is_late_when_its_workflow_begins() {
    let of = |day_zero| -> Vec<NaiveDate> {
        plan(&built_in(WorkflowKind::Onboarding, Language::En), day_zero, TODAY)
            .iter()
            .map(|step| step.due_on)
            .collect()
    };
    assert_eq!(of(day(14)), [7, 13, 14, 15, 44].map(day));
    assert_eq!(of(day(3)), [0, 2, 3, 4, 33].map(day));
    assert_eq!(of(day(-20)), [0, 0, 0, 0, 10].map(day));
    assert_eq!(due(NaiveDate::MAX, 1, TODAY), NaiveDate::MAX);
}

/// ASSET-5
#[test]
fn who_is_assigned_reads_back_as_itself() {
    for (assignee, text) in [
        (Assignee::Role(Role::Developer), r#"{"role":"developer"}"#),
        (Assignee::Person(Uuid::nil()), r#"{"user_id":"00000000-0000-0000-0000-000000000000"}"#),
    ] {
        assert_eq!(serde_json::to_string(&assignee).unwrap(), text);
        assert_eq!(serde_json::from_str::<Assignee>(text).unwrap(), assignee);
    }
}

fn an_act() -> impl Strategy<Value = (u32, StepAct, &'static str)> {
    let acts = prop::sample::select(vec![StepAct::Advance, StepAct::Advance, StepAct::Approve, StepAct::Reject]);
    (1..=5_u32, acts, prop::sample::select(ACTORS.to_vec()))
}

proptest! {
    /// ASSET-5: whatever people try in whatever order.
    #[test]
    fn a_workflow_is_completed_by_its_last_step_and_no_gate_is_passed(
        approvals in prop::collection::vec(any::<bool>(), 5),
        acts in prop::collection::vec(an_act(), 0..60),
    ) {
        let mut workflow = workflow(&approvals);
        for (position, what, actor) in acts {
            let before = workflow.clone();
            let done = act(&mut workflow, position, what, actor);
            if done.is_err() {
                prop_assert_eq!(&workflow, &before, "a refusal changes nothing");
                continue;
            }
            prop_assert!(!before.status.has_ended(), "what has ended stays as it is");
            let open: BTreeSet<u32> =
                workflow.steps.iter().filter(|step| step.status.is_open()).map(|step| step.position).collect();
            prop_assert_eq!(workflow.status == WorkflowStatus::Completed, open.is_empty());
            prop_assert_ne!(workflow.status, WorkflowStatus::Pending);
            prop_assert_eq!(workflow.deadline(), open.first().map(|first| day(i64::from(*first))));
            for step in workflow.steps.iter().filter(|step| step.status == StepStatus::Done && step.needs_approval) {
                prop_assert!(step.approved_by.is_some());
                let alone = step.approved_by == step.advanced_by && step.approved_by.as_deref() != Some("api_key:k");
                prop_assert!(!alone, "one person did it and approved it");
            }
            if what == StepAct::Advance {
                let passed = workflow.steps.iter().any(|gate| {
                    gate.position < position && gate.needs_approval && gate.status.is_open()
                });
                prop_assert!(!passed, "it went past a gate");
            }
        }
    }

    /// ASSET-5: no workflow is stuck: whatever was done, there is a way to its end.
    #[test]
    fn every_workflow_can_be_brought_to_its_end(
        approvals in prop::collection::vec(any::<bool>(), 5),
        acts in prop::collection::vec(an_act(), 0..30),
    ) {
        let mut workflow = workflow(&approvals);
        for (position, what, actor) in acts {
            let _ = act(&mut workflow, position, what, actor);
        }
        for position in 1..=5 {
            if workflow.steps[position as usize - 1].status == StepStatus::Pending {
                act(&mut workflow, position, StepAct::Advance, "api_key:k").unwrap();
            }
            if workflow.steps[position as usize - 1].status == StepStatus::AwaitingApproval {
                act(&mut workflow, position, StepAct::Approve, "api_key:k").unwrap();
            }
        }
        prop_assert_eq!(workflow.status, WorkflowStatus::Completed);
    }
}
