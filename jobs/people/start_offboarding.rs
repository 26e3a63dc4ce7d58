//! Starts the offboarding workflow of an employee who leaves, with a step for each asset to take back. Enqueued by a sync, or when
//! somebody is terminated by hand. Twice is fine: the workflow's source key is the termination and starts one workflow only, and while an
//! offboarding of theirs is open there is no second.

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

/// Starts the offboarding workflow of an employee.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartOffboarding {
    pub employee_id: Uuid,
}

impl Job for StartOffboarding {
    type App = App;
    const KIND: &'static str = "people.start_offboarding";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by(self.employee_id))
    }

    /// ASSET-6: steps count from the last day at work.
    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let (now, today) = (ctx.app.clock.now(), ctx.app.clock.today(organization.time_zone));
        let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
        let Some(employee) = store::workflows::employee(&mut tx, self.employee_id).await? else {
            return Ok(Verdict::Cancel("the employee does not exist".to_owned()));
        };
        if employee.status != "terminated" {
            return Ok(Verdict::Cancel("the employee is back".to_owned()));
        }
        let left = employee.termination_date.map_or_else(|| "-".to_owned(), |day| day.to_string());
        let new = StartWorkflow {
            employee_id: Some(self.employee_id),
            day_zero: employee.termination_date,
            source_key: Some(format!("offboarding:{}:{left}", self.employee_id)),
            ..StartWorkflow::of(WorkflowKind::Offboarding, &organization, today)
        };
        let workflow = workflows::start_once(&mut tx, &new, &actor(&ctx), now).await?;
        tx.commit().await?;
        let returns = workflow.steps.iter().filter(|step| step.asset_id.is_some()).count();
        Verdict::done_with(json!({ "workflow_id": workflow.id, "assets_to_return": returns }))
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, testing};
    use chrono::Duration;

    use super::*;
    use crate::{
        domain::NewEmployee,
        jobs::{people::doors, testing::World, workflows::testing::*},
        store::Sealer,
    };

    /// ASSET-6, ASSET-5
    #[tokio::test]
    async fn a_termination_starts_one_offboarding_with_a_step_for_each_asset_held() {
        let world = World::new().await;
        let employee = employee(&world, "bo@acme.example", None).await;
        let other = crate::jobs::workflows::testing::employee(&world, "cia@acme.example", None).await;
        let laptop = asset(&world, "A-1", Some(employee)).await;
        let phone = asset(&world, "A-2", Some(employee)).await;
        asset(&world, "A-3", Some(other)).await;
        asset(&world, "A-4", None).await;
        let last_day = world.today() + Duration::days(30);
        terminate(&world, employee, last_day).await;
        let tables = ["org_acme.workflows", "org_acme.workflow_steps", "org_acme.events"];

        let job = world.job(&StartOffboarding { employee_id: employee });
        let [once, twice] =
            testing::run_twice(&world.app.db, &world.registry, world.app.clone(), job, &tables).await.unwrap();

        let Outcome::Completed { result: Some(result) } = &once.0 else { panic!("{:?}", once.0) };
        assert_eq!(result["assets_to_return"], 2);
        assert_eq!(once, twice, "the same workflow is answered, and nothing is written");
        let all = all(&world).await;
        let [workflow] = &all[..] else { panic!("{all:?}") };
        let returns: Vec<_> =
            workflow.steps.iter().filter_map(|step| Some((step.position, step.asset_id?, step.due_on))).collect();
        let due = last_day + Duration::days(7);
        assert_eq!(returns, [(1, laptop, due), (2, phone, due)]);
        assert_eq!(workflow.steps[0].title, "Ta tillbaka A-1 (Thing A-1)");
        assert_eq!(workflow.steps.len(), 2 + 4);
        assert_eq!(workflow.title, "Avslut: bo@acme.example");
    }

    /// ASSET-6: whoever started it, an offboarding that is open is the one; cancelled or after a return the same last day starts another.
    #[tokio::test]
    async fn a_termination_that_nobody_sees_to_starts_an_offboarding() {
        let world = World::new().await;
        let sealer = Sealer::new(&world.app.vault, "acme");
        let told = doors::Asked { actor: "user:anna", now: world.now(), trace: None };
        let mut tx = world.tenant().await;
        let employee = doors::create_employee(&mut tx, sealer, &NewEmployee::default(), &told).await.unwrap().id;
        tx.commit().await.unwrap();
        let job = StartOffboarding { employee_id: employee };
        assert_eq!(world.run(&job).await, Outcome::Cancelled { reason: "the employee is back".to_owned() });
        let by_hand = StartWorkflow {
            employee_id: Some(employee),
            ..StartWorkflow::of(WorkflowKind::Offboarding, &world.organization, world.today())
        };
        let by_hand = begin(&world, by_hand).await;
        let leaves = async |days| {
            terminate(&world, employee, world.today() + Duration::days(days)).await;
            let outcome = world.run(&job).await;
            let Outcome::Completed { result: Some(result) } = &outcome else { panic!("{outcome:?}") };
            serde_json::from_value::<Uuid>(result["workflow_id"].clone()).unwrap()
        };
        assert_eq!((leaves(0).await, leaves(90).await), (by_hand.id, by_hand.id), "it is open");
        let fails = async |id| {
            let mut tx = world.tenant().await;
            workflows::fail(&mut tx, id, "no", &asked(&world)).await.unwrap();
            tx.commit().await.unwrap();
        };
        fails(by_hand.id).await;
        let first = leaves(0).await;
        fails(first).await;
        let second = leaves(0).await;
        assert_ne!(first, second, "the first came to nothing");
        let workflow = reload(&world, second).await;
        for position in 1..=workflow.steps.len() {
            done(&world, &workflow, position).await;
        }
        assert_eq!(leaves(0).await, second, "they are gone, and it is done");

        let mut tx = world.tenant().await;
        doors::reactivate_employee(&mut tx, sealer, employee, &told).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        assert_ne!(leaves(0).await, second, "they were back, and leave on the same day");
    }

    #[test]
    fn the_wire_format_is_stable() {
        let job = StartOffboarding { employee_id: Uuid::nil() };
        assert_eq!(serde_json::to_string(&job).unwrap(), r#"{"employee_id":"00000000-0000-0000-0000-000000000000"}"#);
    }
}
