//! What an operator does to workflows.

use super::*;
use crate::{
    cli::exit::{NotFound, Usage},
    domain::WorkflowStatus,
    jobs::{
        testing::World,
        workflows::testing::{all, employee, reload},
    },
};

fn session(world: &World) -> Session {
    let (config, clock) = (world.app.config.clone(), world.app.clock.clone());
    Session { config, db: world.app.db.clone(), registry: world.registry.clone(), clock }
}

async fn said(session: &Session, line: &str) -> anyhow::Result<ExitCode> {
    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        command: Workflow,
    }
    let words = std::iter::once("workflow").chain(line.split(' '));
    let Line { command } =
        <Line as clap::Parser>::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
    run(session, command, Output::new(line.len().is_multiple_of(2))).await
}

/// ASSET-5, CLI-4
#[tokio::test]
async fn an_operator_starts_advances_completes_and_cancels() {
    let world = World::new().await;
    let session = session(&world);
    said(&session, "start procurement --org acme --title Laptops --due 2026-04-01").await.unwrap();
    let id = all(&world).await[0].id;
    said(&session, &format!("show {id} --org acme")).await.unwrap();
    said(&session, &format!("advance {id} --org acme --note three")).await.unwrap();
    said(&session, &format!("advance {id} --org acme")).await.unwrap();
    assert_eq!(reload(&world, id).await.steps[1].status, StepStatus::AwaitingApproval);
    let waits = said(&session, &format!("advance {id} --org acme")).await.unwrap_err();
    assert_eq!(waits.to_string(), "step 2 is awaiting_approval; approve or reject it");
    said(&session, &format!("advance {id} --org acme --approve")).await.unwrap();
    said(&session, &format!("advance {id} --org acme --step 4")).await.unwrap();
    let open = said(&session, &format!("complete {id} --org acme")).await.unwrap_err();
    assert!(open.to_string().contains("1 of its steps are open"), "{open}");
    said(&session, &format!("complete {id} --org acme --skip-open-steps")).await.unwrap();
    let after = reload(&world, id).await;
    assert_eq!((after.status, after.created_by.as_str()), (WorkflowStatus::Completed, "operator"));
    assert_eq!(
        after.steps.iter().map(|step| step.status.as_str()).collect::<Vec<_>>(),
        ["done", "done", "skipped", "done"]
    );

    let bo = employee(&world, "bo@acme.example", None).await;
    said(&session, &format!("start onboarding --org acme --employee {bo} --role developer")).await.unwrap();
    let second = all(&world).await[1].id;
    said(&session, &format!("cancel {second} --org acme --reason gone")).await.unwrap();
    assert_eq!(reload(&world, second).await.reason.as_deref(), Some("gone"));
    for line in ["list --org acme --kind onboarding --status cancelled", "overdue --org acme", "templates --org acme"] {
        said(&session, line).await.unwrap();
    }
}

/// ASSET-5, CLI-4
#[tokio::test]
async fn an_operator_makes_a_template_sends_a_step_back_and_fails_a_workflow() {
    let world = World::new().await;
    let mut tx = world.app.db.acquire().await.unwrap();
    sqlx::query("update organizations set tier = 'pro'").execute(&mut *tx).await.unwrap();
    drop(tx);
    let session = session(&world);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("buy.json");
    let add = format!("template add {} --org acme", file.display());
    let write = |steps: &str| {
        let text = format!(r#"{{"kind": "procurement", "name": "Ours", "is_default": true, "steps": {steps}}}"#);
        std::fs::write(&file, text).unwrap();
    };
    write(r#"[{"title": "Buy", "assignee": {"role": "customer"}}]"#);
    let wrong = said(&session, &add).await.unwrap_err();
    assert!(wrong.is::<Usage>() && wrong.to_string().contains("steps[0].assignee"), "{wrong:#}");
    write(&format!(r#"[{{"title": "Buy", "assignee": {{"user_id": "{}"}}}}]"#, Uuid::nil()));
    let stranger = said(&session, &add).await.unwrap_err();
    assert!(stranger.is::<Usage>() && stranger.to_string().contains("does not work in acme"), "{stranger:#}");
    write(r#"[{"title": "Buy", "assignee": {"role": "user"}, "needs_approval": true}]"#);
    said(&session, &add).await.unwrap();
    assert!(said(&session, &add).await.unwrap_err().is::<Usage>(), "the name is taken");

    said(&session, "start procurement --org acme").await.unwrap();
    let id = all(&world).await[0].id;
    assert!(said(&session, &format!("reject {id} --org acme")).await.unwrap_err().is::<NotFound>());
    said(&session, &format!("advance {id} --org acme")).await.unwrap();
    said(&session, &format!("reject {id} --org acme --note dear")).await.unwrap();
    let step = reload(&world, id).await.steps.remove(0);
    assert_eq!((step.title.as_str(), step.status, step.note.as_deref()), ("Buy", StepStatus::Pending, Some("dear")));
    said(&session, &format!("fail {id} --org acme --reason sold-out")).await.unwrap();
    let after = reload(&world, id).await;
    assert_eq!((after.status, after.reason.as_deref()), (WorkflowStatus::Failed, Some("sold-out")));
}

/// ASSET-5
#[tokio::test]
async fn what_is_not_there_or_makes_no_sense_is_said_so() {
    let world = World::new().await;
    let session = session(&world);
    let nothing = Uuid::now_v7();
    for line in ["show", "advance", "reject", "complete", "cancel"] {
        let missing = said(&session, &format!("{line} {nothing} --org acme")).await.unwrap_err();
        assert!(missing.is::<NotFound>(), "{line}: {missing:#}");
    }
    let needs = said(&session, "start onboarding --org acme").await.unwrap_err();
    assert!(needs.is::<Usage>(), "{needs:#}");
    assert_eq!(needs.to_string(), "--employee has to be named for onboarding");
    let customer = said(&session, "start procurement --org acme --role customer").await.unwrap_err();
    assert!(customer.is::<Usage>(), "{customer:#}");
    said(&session, "start procurement --org acme").await.unwrap();
    let id = all(&world).await[0].id;
    let ninth = said(&session, &format!("advance {id} --org acme --step 9")).await.unwrap_err();
    assert!(ninth.is::<NotFound>(), "{ninth:#}");
}
