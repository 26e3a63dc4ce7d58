//! Starts the onboarding workflow of a new employee. Enqueued by a sync, for a new hire. Twice is fine: the workflow's source key is the
//! hire and starts one workflow only, and while an onboarding of theirs is open there is no second.

use backroom_queue::{Ctx, Job, JobResult, Unique, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::{
    context::App,
    domain::WorkflowKind,
    jobs::{
        actor, organization,
        workflows::{self, StartWorkflow},
    },
    store, tenant,
};

/// Starts the onboarding workflow of an employee.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartOnboarding {
    pub employee_id: Uuid,
}

impl Job for StartOnboarding {
    type App = App;
    const KIND: &'static str = "people.start_onboarding";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by(self.employee_id))
    }

    /// ASSET-6: steps count from the first day at work.
    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let (now, today) = (ctx.app.clock.now(), ctx.app.clock.today(organization.time_zone));
        let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
        let Some(employee) = store::workflows::employee(&mut tx, self.employee_id).await? else {
            return Ok(Verdict::Cancel("the employee does not exist".to_owned()));
        };
        if employee.status == "terminated" {
            return Ok(Verdict::Cancel("the employee has left already".to_owned()));
        }
        let hired = employee.hire_date.map_or_else(|| "-".to_owned(), |day| day.to_string());
        let new = StartWorkflow {
            employee_id: Some(self.employee_id),
            day_zero: employee.hire_date,
            source_key: Some(format!("onboarding:{}:{hired}", self.employee_id)),
            ..StartWorkflow::of(WorkflowKind::Onboarding, &organization, today)
        };
        let workflow = workflows::start_once(&mut tx, &new, &actor(&ctx), now).await?;
        tx.commit().await?;
        Verdict::done_with(json!({ "workflow_id": workflow.id }))
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, testing};
    use chrono::Duration;

    use super::*;
    use crate::{domain::WorkflowStatus, jobs::testing::World, jobs::workflows::testing::*};

    /// ASSET-6, ASSET-5
    #[tokio::test]
    async fn a_hire_starts_one_onboarding_whose_steps_count_from_the_first_day() {
        let world = World::new().await;
        let first_day = world.today() + Duration::days(14);
        let employee = employee(&world, "bo@acme.example", Some(first_day)).await;
        let tables = ["org_acme.workflows", "org_acme.workflow_steps", "org_acme.events"];

        let job = world.job(&StartOnboarding { employee_id: employee });
        let [once, twice] =
            testing::run_twice(&world.app.db, &world.registry, world.app.clone(), job, &tables).await.unwrap();

        assert!(matches!(once.0, Outcome::Completed { .. }), "{:?}", once.0);
        assert_eq!(once, twice, "the same workflow is answered, and nothing is written");
        let all = all(&world).await;
        let [workflow] = &all[..] else { panic!("{all:?}") };
        assert_eq!((workflow.kind, workflow.status), (WorkflowKind::Onboarding, WorkflowStatus::Pending));
        assert_eq!((workflow.title.as_str(), workflow.employee_id), ("Introduktion: bo@acme.example", Some(employee)));
        let due: Vec<i64> = workflow.steps.iter().map(|step| (step.due_on - first_day).num_days()).collect();
        assert_eq!(due, [-7, -1, 0, 1, 30]);
        assert_eq!(workflow.due_on, first_day + Duration::days(30));
        assert_eq!(told(&world, workflow.id).await, ["workflow.started"]);
    }

    /// ASSET-6: a killed worker's job is run again by another, maybe while the first is still at it.
    #[tokio::test]
    async fn two_at_once_start_one_workflow() {
        let world = World::new().await;
        let employee = employee(&world, "bo@acme.example", None).await;
        let start = async || {
            let mut tx = world.tenant().await;
            let new = StartWorkflow {
                employee_id: Some(employee),
                source_key: Some(format!("onboarding:{employee}:-")),
                ..StartWorkflow::of(WorkflowKind::Onboarding, &world.organization, world.today())
            };
            let workflow = workflows::start(&mut tx, &new, "test", world.now()).await.unwrap();
            tx.commit().await.unwrap();
            workflow.id
        };
        let (one, two) = tokio::join!(start(), start());
        assert_eq!(one, two);
        assert_eq!(told(&world, one).await, ["workflow.started"]);
        let again = world.run(&StartOnboarding { employee_id: employee }).await;
        assert!(matches!(again, Outcome::Completed { result: Some(result) } if result["workflow_id"] == json!(one)));
    }

    /// ASSET-6: an admin was faster than the HRIS.
    #[tokio::test]
    async fn an_onboarding_that_is_open_is_the_one() {
        let world = World::new().await;
        let employee = employee(&world, "bo@acme.example", None).await;
        let by_hand = StartWorkflow {
            employee_id: Some(employee),
            ..StartWorkflow::of(WorkflowKind::Onboarding, &world.organization, world.today())
        };
        let by_hand = begin(&world, by_hand).await;
        let outcome = world.run(&StartOnboarding { employee_id: employee }).await;
        assert_eq!(outcome, Outcome::Completed { result: Some(json!({ "workflow_id": by_hand.id })) });
        assert_eq!(all(&world).await.len(), 1);
    }

    /// ASSET-6
    #[tokio::test]
    async fn nobody_is_onboarded_who_is_not_there() {
        let world = World::new().await;
        let gone = employee(&world, "gone@acme.example", None).await;
        terminate(&world, gone, world.today()).await;
        for (employee_id, why) in
            [(Uuid::nil(), "the employee does not exist"), (gone, "the employee has left already")]
        {
            let outcome = world.run(&StartOnboarding { employee_id }).await;
            assert_eq!(outcome, Outcome::Cancelled { reason: why.to_owned() });
        }
        assert!(all(&world).await.is_empty());
    }

    #[test]
    fn the_wire_format_is_stable() {
        let job = StartOnboarding { employee_id: Uuid::nil() };
        assert_eq!(serde_json::to_string(&job).unwrap(), r#"{"employee_id":"00000000-0000-0000-0000-000000000000"}"#);
    }
}
