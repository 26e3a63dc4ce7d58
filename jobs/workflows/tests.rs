//! Workflows on a real database: what the doors do, one after the other and at once.

use backroom_queue::testing as queue;
use chrono::Duration;
use futures::future::join_all;
use uuid::Uuid;

use super::{testing::*, *};
use crate::{
    domain::{
        Assignee, EmailAddress, Limits, Resource, Role, StepStatus, Tier, WorkflowKind, WorkflowStatus,
        integration::SyncMode,
        source_record::{EmployeeFacts, Standing},
        workflow::{NewTemplate, Refusal, TemplateStep},
    },
    jobs::{
        people::doors::{Taking, start_offboardings, take_employees},
        testing::World,
    },
    store::{
        Page, Sealer, StoreError,
        from_source::Source,
        workflow_templates,
        workflows::{self, WorkflowFilter},
    },
};

fn template(name: &str, kind: WorkflowKind, is_default: bool) -> NewTemplate {
    let step = |title: &str, due_in_days, needs_approval| TemplateStep {
        title: title.to_owned(),
        assignee: Assignee::Role(Role::User),
        due_in_days,
        needs_approval,
    };
    NewTemplate {
        kind,
        name: name.to_owned(),
        steps: vec![step("First", 1, false), step("Second", 2, false)],
        is_default,
    }
}

/// ASSET-5, EVT-1: from the first step to the last, each with its event.
#[tokio::test]
async fn a_purchase_goes_through_its_steps_and_is_completed_by_the_last() {
    let world = World::new().await;
    let workflow = purchase(&world).await;
    assert_eq!((workflow.status, workflow.title.as_str()), (WorkflowStatus::Pending, "Inköp"));
    assert_eq!(workflow.deadline(), Some(world.today() + Duration::days(3)));
    let id = workflow.id;
    let step = |n: usize| (id, workflow.steps[n - 1].id);
    let (anna, bo) = (asked(&world), by_admin(&world, "user:bo"));

    let mut tx = world.tenant().await;
    let with = Advance { note: Some("three offers"), approve: false, take_back: None };
    let first = advance(&mut tx, step(1), with, &anna).await.unwrap();
    assert_eq!((first.status, first.begun_at), (WorkflowStatus::InProgress, Some(world.now())));
    assert_eq!((first.steps[0].status, first.steps[0].note.as_deref()), (StepStatus::Done, Some("three offers")));
    assert_eq!(first.steps[0].advanced_by.as_deref(), Some("user:anna"));
    assert_eq!(first.deadline(), Some(world.today() + Duration::days(5)));
    let second = advance(&mut tx, step(2), Advance::default(), &anna).await.unwrap();
    assert_eq!(second.steps[1].status, StepStatus::AwaitingApproval);
    let rejected = reject(&mut tx, step(2), Some("too dear"), &bo).await.unwrap();
    assert_eq!((rejected.steps[1].status, &rejected.steps[1].advanced_by), (StepStatus::Pending, &None));
    advance(&mut tx, step(2), Advance::default(), &anna).await.unwrap();
    let approved = approve(&mut tx, step(2), None, &bo).await.unwrap();
    assert_eq!(approved.steps[1].approved_by.as_deref(), Some("user:bo"));
    assert_eq!(approved.steps[1].note.as_deref(), Some("too dear"), "the last note stays");
    tx.commit().await.unwrap();
    done(&world, &workflow, 3).await;
    let last = done(&world, &workflow, 4).await;

    assert_eq!((last.status, last.ended_at, last.deadline()), (WorkflowStatus::Completed, Some(world.now()), None));
    assert_eq!(last, reload(&world, id).await);
    assert_eq!(
        told(&world, id).await,
        [
            "workflow.started",
            "workflow.step_completed",
            "workflow.approval_wanted",
            "workflow.step_rejected",
            "workflow.approval_wanted",
            "workflow.step_completed",
            "workflow.step_completed",
            "workflow.step_completed",
            "workflow.completed",
        ]
    );
}

/// ASSET-5: two, or twenty, advance the same step at once: one succeeds.
#[tokio::test]
async fn a_step_is_advanced_once_whoever_tries_at_once() {
    let world = World::new().await;
    let workflow = purchase(&world).await;
    let ids = (workflow.id, workflow.steps[0].id);
    let tries = join_all((0..20).map(|_| async {
        let mut tx = world.tenant().await;
        let tried = advance(&mut tx, ids, Advance::default(), &asked(&world)).await;
        if tried.is_ok() {
            tx.commit().await.unwrap();
        }
        tried
    }));
    let (done, refused): (Vec<_>, Vec<_>) = tries.await.into_iter().partition(Result::is_ok);
    assert_eq!(done.len(), 1);
    for error in refused.into_iter().map(Result::unwrap_err) {
        assert!(matches!(error, WorkflowError::Refused(Refusal::Step { position: 1, .. })), "{error}");
    }
    assert_eq!(told(&world, workflow.id).await, ["workflow.started", "workflow.step_completed"]);
}

/// ASSET-5: the last two steps are advanced at once, and one of them completes the workflow.
#[tokio::test]
async fn the_last_steps_at_once_complete_the_workflow_once() {
    let world = World::new().await;
    let workflow = purchase(&world).await;
    done(&world, &workflow, 1).await;
    done(&world, &workflow, 2).await;
    tokio::join!(done(&world, &workflow, 3), done(&world, &workflow, 4));
    assert_eq!(reload(&world, workflow.id).await.status, WorkflowStatus::Completed);
    let completed = told(&world, workflow.id).await.into_iter().filter(|kind| kind == "workflow.completed");
    assert_eq!(completed.count(), 1);
}

/// ASSET-5: cancelled and completed at once, it is one of the two.
#[tokio::test]
async fn an_end_is_final_whoever_is_faster() {
    let world = World::new().await;
    let repaired = asset(&world, "A-1", None).await;
    let new = StartWorkflow {
        template: Some(stored(&world, &template("Quick", WorkflowKind::Repair, false)).await.unwrap()),
        asset_id: Some(repaired),
        ..StartWorkflow::of(WorkflowKind::Repair, &world.organization, world.today())
    };
    let workflow = begin(&world, new).await;
    let how = Complete { skip_open: true };
    let completes = async {
        let mut tx = world.tenant().await;
        let done = complete(&mut tx, workflow.id, how, &asked(&world)).await;
        tx.commit().await.unwrap();
        done
    };
    let cancels = async {
        let mut tx = world.tenant().await;
        let done = cancel(&mut tx, workflow.id, Some("mended itself"), &asked(&world)).await;
        tx.commit().await.unwrap();
        done
    };
    let (completed, cancelled) = tokio::join!(completes, cancels);
    assert_ne!(completed.is_ok(), cancelled.is_ok());
    let after = reload(&world, workflow.id).await;
    assert!(after.status.has_ended());
    assert_eq!(after.status == WorkflowStatus::Completed, completed.is_ok());
    assert_eq!(told(&world, workflow.id).await.len(), 2);
    let mut tx = world.tenant().await;
    let late = fail(&mut tx, workflow.id, "no", &asked(&world)).await.unwrap_err();
    assert_eq!(late.to_string(), format!("the workflow is {}; nothing about it changes any more", after.status));
}

/// ASSET-5
#[tokio::test]
async fn a_workflow_is_completed_without_its_open_steps_or_ends_with_a_reason() {
    let world = World::new().await;
    let id = stored(&world, &template("Quick", WorkflowKind::Procurement, true)).await.unwrap();
    let quick = purchase(&world).await;
    assert_eq!((quick.template_id, quick.steps.len()), (Some(id), 2), "the organization's default is taken");
    let mut tx = world.tenant().await;
    let open = complete(&mut tx, quick.id, Complete::default(), &asked(&world)).await.unwrap_err();
    assert!(open.to_string().contains("2 of its steps are open"), "{open}");
    let ended = complete(&mut tx, quick.id, Complete { skip_open: true }, &asked(&world)).await.unwrap();
    assert!(ended.steps.iter().all(|step| step.status == StepStatus::Skipped));
    tx.commit().await.unwrap();

    for (fails, status, kind) in
        [(true, WorkflowStatus::Failed, "workflow.failed"), (false, WorkflowStatus::Cancelled, "workflow.cancelled")]
    {
        let workflow = purchase(&world).await;
        let mut tx = world.tenant().await;
        let ended = match fails {
            true => fail(&mut tx, workflow.id, "sold out", &asked(&world)).await,
            false => cancel(&mut tx, workflow.id, Some("sold out"), &asked(&world)).await,
        };
        tx.commit().await.unwrap();
        let ended = ended.unwrap();
        assert_eq!((ended.status, ended.reason.as_deref()), (status, Some("sold out")));
        assert_eq!(told(&world, workflow.id).await, ["workflow.started", kind]);
    }
    let mut tx = world.tenant().await;
    let unknown = cancel(&mut tx, Uuid::nil(), None, &asked(&world)).await.unwrap_err();
    assert!(matches!(unknown, WorkflowError::Unknown("workflow")));
}

/// ASSET-6, ASSET-4: a step that takes an asset back returns it with the step, unless it has come back or gone on since.
#[tokio::test]
async fn a_return_step_returns_its_asset_in_the_same_transaction() {
    let world = World::new().await;
    let (bo, cia) = (employee(&world, "bo@acme.example", None).await, employee(&world, "cia@acme.example", None).await);
    let assets = [asset(&world, "A-1", Some(bo)).await, asset(&world, "A-2", Some(bo)).await];
    let new = StartWorkflow {
        employee_id: Some(bo),
        ..StartWorkflow::of(WorkflowKind::Offboarding, &world.organization, world.today())
    };
    let workflow = begin(&world, new).await;
    let sealer = Sealer::new(&world.app.vault, "acme");
    let by = crate::jobs::assets::doors::Asked::by("user:anna", world.now());
    let with = Advance { take_back: Some(TakeBack { sealer, asked: &by }), ..Advance::default() };
    let holder = async |asset: Uuid| -> Option<Uuid> {
        let mut tx = world.tenant().await;
        let sql = "select employee_id from assets where id = $1";
        sqlx::query_scalar(sql).bind(asset).fetch_one(&mut *tx).await.unwrap()
    };

    let mut tx = world.tenant().await;
    advance(&mut tx, (workflow.id, workflow.steps[0].id), with, &asked(&world)).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(holder(assets[0]).await, Some(bo));
    let mut tx = world.tenant().await;
    advance(&mut tx, (workflow.id, workflow.steps[0].id), with, &asked(&world)).await.unwrap();
    sqlx::query("update assets set employee_id = $2 where id = $1")
        .bind(assets[1])
        .bind(cia)
        .execute(&mut *tx)
        .await
        .unwrap();
    advance(&mut tx, (workflow.id, workflow.steps[1].id), with, &asked(&world)).await.unwrap();
    let none = advance(&mut tx, (workflow.id, workflow.steps[2].id), with, &asked(&world)).await.unwrap_err();
    assert_eq!(none.to_string(), "step 3 takes no asset back");
    tx.commit().await.unwrap();
    assert_eq!((holder(assets[0]).await, holder(assets[1]).await), (None, Some(cia)));
    let mut tx = world.tenant().await;
    let kinds: Vec<String> =
        sqlx::query_scalar("select kind from asset_transactions order by id").fetch_all(&mut *tx).await.unwrap();
    assert_eq!(kinds, ["returned"]);
}

/// ASSET-5, ASSET-6
#[tokio::test]
async fn a_workflow_is_about_somebody_or_something_that_there_is() {
    let world = World::new().await;
    let refused = async |new: StartWorkflow| {
        let mut tx = world.tenant().await;
        match start(&mut tx, &new, "test", world.now()).await {
            Err(StoreError::Conflict { field, message }) => format!("{field} {message}"),
            other => panic!("{other:?}"),
        }
    };
    let of = |kind| StartWorkflow::of(kind, &world.organization, world.today());
    let id = Some(Uuid::nil());
    assert_eq!(refused(of(WorkflowKind::Onboarding)).await, "employee_id has to be named for onboarding");
    assert_eq!(refused(of(WorkflowKind::Repair)).await, "asset_id has to be named for repair");
    let nobody = StartWorkflow { employee_id: id, ..of(WorkflowKind::Offboarding) };
    assert_eq!(refused(nobody).await, "employee_id is not an employee of the organization");
    let nothing = StartWorkflow { asset_id: id, ..of(WorkflowKind::Transfer) };
    assert_eq!(refused(nothing).await, "asset_id is not an asset of the organization");
    let no_template = StartWorkflow { template: id, ..of(WorkflowKind::Procurement) };
    assert_eq!(refused(no_template).await, "template_id is not the id of one of the organization's templates");
    let other = stored(&world, &template("Quick", WorkflowKind::Repair, false)).await.unwrap();
    let other = StartWorkflow { template: Some(other), ..of(WorkflowKind::Procurement) };
    assert_eq!(refused(other).await, "template_id is of another kind than procurement");
}

async fn stored(world: &World, new: &NewTemplate) -> Result<Uuid, StoreError> {
    let mut tx = world.tenant().await;
    let template = create_template(&mut tx, new, Limits::of(Tier::Pro), &asked(world)).await?;
    tx.commit().await.unwrap();
    Ok(template.id)
}

/// TEN-4, ASSET-5: a tier's last template is made once, also by many at once; what was made stays after a downgrade.
#[tokio::test]
async fn the_tier_limits_the_organization_s_own_templates() {
    let world = World::new().await;
    let mut tx = world.tenant().await;
    let one = template("One", WorkflowKind::Repair, false);
    let free = create_template(&mut tx, &one, Limits::of(Tier::Free), &asked(&world)).await;
    let StoreError::Limit(exceeded) = free.unwrap_err() else { panic!("no limit") };
    assert_eq!((exceeded.resource, exceeded.limit, exceeded.used), (Resource::Workflows, 0, 0));
    tx.rollback().await.unwrap();

    let tries = join_all((0..14).map(|n| {
        let world = &world;
        async move { stored(world, &template(&format!("Template {n}"), WorkflowKind::Repair, true)).await }
    }));
    let tries = tries.await;
    assert_eq!(tries.iter().filter(|tried| tried.is_ok()).count(), 10);
    assert!(tries.iter().filter_map(|tried| tried.as_ref().err()).all(|error| matches!(error, StoreError::Limit(_))));
    let mut tx = world.tenant().await;
    let page = workflow_templates::page(&mut tx, Some(WorkflowKind::Repair), Page::first(100)).await.unwrap();
    assert_eq!((page.len(), page.iter().filter(|template| template.is_default).count()), (10, 1));
    let of_free = Limits::of(Tier::Free);
    let more = create_template(&mut tx, &template("More", WorkflowKind::Repair, false), of_free, &asked(&world)).await;
    assert!(matches!(more, Err(StoreError::Limit(exceeded)) if exceeded.used == 10));
    let mut renamed: NewTemplate = page[0].clone().into();
    "Mine".clone_into(&mut renamed.name);
    let changed = change_template(&mut tx, (page[0].id, &renamed), &asked(&world)).await.unwrap().unwrap();
    assert_eq!(changed.name, "Mine");
    assert!(remove_template(&mut tx, page[1].id, &asked(&world)).await.unwrap());
    assert!(!remove_template(&mut tx, page[1].id, &asked(&world)).await.unwrap());
}

/// ASSET-5
#[tokio::test]
async fn a_changed_or_removed_template_leaves_what_was_started_from_it_alone() {
    let world = World::new().await;
    let mut new = template("Purchase", WorkflowKind::Procurement, true);
    let id = stored(&world, &new).await.unwrap();
    let taken = stored(&world, &template("purchase", WorkflowKind::Procurement, false)).await.unwrap_err();
    assert!(matches!(taken, StoreError::Conflict { field: "name", .. }), "{taken}");
    let workflow = purchase(&world).await;
    let mut tx = world.tenant().await;
    new.steps.truncate(1);
    change_template(&mut tx, (id, &new), &asked(&world)).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert_eq!(purchase(&world).await.steps.len(), 1);
    let mut tx = world.tenant().await;
    assert!(remove_template(&mut tx, id, &asked(&world)).await.unwrap());
    tx.commit().await.unwrap();
    let after = reload(&world, workflow.id).await;
    assert_eq!((after.steps, after.template_id), (workflow.steps, None));
    assert_eq!(purchase(&world).await.steps.len(), 4, "the product's own again");
}

/// ASSET-5, API-9
#[tokio::test]
async fn workflows_are_found_by_what_they_are_and_whose() {
    let world = World::new().await;
    let bo = employee(&world, "bo@acme.example", None).await;
    let laptop = asset(&world, "A-1", None).await;
    let person = Uuid::now_v7();
    let of = |kind| StartWorkflow::of(kind, &world.organization, world.today());
    let onboarding = begin(&world, StartWorkflow { employee_id: Some(bo), ..of(WorkflowKind::Onboarding) }).await.id;
    let new =
        StartWorkflow { asset_id: Some(laptop), assignee: Some(Assignee::Person(person)), ..of(WorkflowKind::Repair) };
    let repair = begin(&world, new).await.id;
    let bought = purchase(&world).await;
    done(&world, &bought, 1).await;
    let found = async |filter: WorkflowFilter| -> Vec<Uuid> {
        let mut tx = world.tenant().await;
        let page = workflows::page(&mut tx, &filter, Page::first(10)).await.unwrap();
        page.into_iter().map(|workflow| workflow.id).collect()
    };
    let any = WorkflowFilter::default;
    assert_eq!(found(any()).await, [onboarding, repair, bought.id]);
    assert_eq!(found(WorkflowFilter { kind: Some(WorkflowKind::Repair), ..any() }).await, [repair]);
    assert_eq!(found(WorkflowFilter { status: Some(WorkflowStatus::InProgress), ..any() }).await, [bought.id]);
    assert_eq!(found(WorkflowFilter { employee_id: Some(bo), ..any() }).await, [onboarding]);
    assert_eq!(found(WorkflowFilter { asset_id: Some(laptop), ..any() }).await, [repair]);
    assert_eq!(found(WorkflowFilter { assignee: Some(Assignee::Person(person)), ..any() }).await, [repair]);
    let admins = Some(Assignee::Role(Role::Admin));
    assert_eq!(found(WorkflowFilter { assignee: admins, ..any() }).await, [onboarding, repair, bought.id]);
    let users = Some(Assignee::Role(Role::User));
    assert!(found(WorkflowFilter { assignee: users, ..any() }).await.is_empty());
    // Onboarding has steps that are due at once, the repair tomorrow, the purchase in five days by now.
    for (days, late) in
        [(0, vec![]), (1, vec![onboarding]), (2, vec![onboarding, repair]), (5, vec![onboarding, repair])]
    {
        let overdue_on = Some(world.today() + Duration::days(days));
        assert_eq!(found(WorkflowFilter { overdue_on, ..any() }).await, late, "{days}");
    }
}

/// ASSET-6, PLAT-1: from what an HRIS tells, through the queue, to what has to be done; told twice, it is done once.
#[tokio::test]
async fn a_hire_and_a_termination_at_an_hris_become_workflows() {
    let world = World::new().await;
    let facts = |standing| EmployeeFacts {
        work_email: Some(EmailAddress::parse("bo@acme.example").unwrap()),
        first_name: "Bo".to_owned(),
        last_name: "Ek".to_owned(),
        hire_date: Some(world.today()),
        standing,
        ..EmployeeFacts::default()
    };
    let told = async |standing| {
        let taking = Taking {
            organization: &world.organization,
            source: Source { integration_id: Uuid::from_u128(7) },
            actor: "job:1",
            now: world.now(),
            first_run: false,
            trace: None,
        };
        let sealer = Sealer::new(&world.app.vault, "acme");
        let mut tx = world.tenant().await;
        take_employees(&mut tx, sealer, &taking, &[("7".to_owned(), facts(standing))]).await.unwrap();
        start_offboardings(&mut tx, &taking, SyncMode::Incremental).await.unwrap();
        tx.commit().await.unwrap();
        queue::drain(&world.app.db, &world.registry, world.app.clone(), "default").await.unwrap();
        all(&world).await
    };
    told(Standing::Active).await;
    let hired = told(Standing::Active).await;
    let [onboarding] = &hired[..] else { panic!("{hired:?}") };
    assert_eq!(
        (onboarding.kind, onboarding.title.as_str()),
        (WorkflowKind::Onboarding, "Introduktion: bo@acme.example")
    );
    let laptop = asset(&world, "A-1", onboarding.employee_id).await;
    told(Standing::Terminated).await;
    let left = told(Standing::Terminated).await;
    let [_, offboarding] = &left[..] else { panic!("{left:?}") };
    assert_eq!((offboarding.kind, offboarding.employee_id), (WorkflowKind::Offboarding, onboarding.employee_id));
    assert_eq!(offboarding.steps[0].asset_id, Some(laptop));
    assert!(offboarding.created_by.starts_with("job:"), "{}", offboarding.created_by);

    for position in 1..=offboarding.steps.len() {
        done(&world, offboarding, position).await;
    }
    assert_eq!(told(Standing::Active).await.len(), 2, "back: the onboarding is open still");
    assert_eq!(told(Standing::Terminated).await.len(), 3, "and gone again, on the same day");
}
