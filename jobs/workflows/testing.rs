//! What the tests of this family, and of the jobs that start workflows, do again and again.

use chrono::{Duration, NaiveDate};
use uuid::Uuid;

use super::{Advance, Asked, StartWorkflow, advance, start};
use crate::{
    domain::{Role, Workflow, WorkflowKind, workflow::Person},
    jobs::testing::World,
    store::{
        Page, events,
        workflows::{self, WorkflowFilter},
    },
};

pub fn asked(world: &World) -> Asked<'static> {
    by_admin(world, "user:anna")
}

/// A person who may everything.
pub fn by_admin<'a>(world: &World, actor: &'a str) -> Asked<'a> {
    let person = Person { id: Uuid::nil(), role: Role::Admin };
    Asked { actor, person: Some(person), now: world.now() }
}

/// Somebody who works here. Nothing of what is sealed is opened by workflows.
pub async fn employee(world: &World, email: &str, hire_date: Option<NaiveDate>) -> Uuid {
    let id = Uuid::now_v7();
    let mut tx = world.tenant().await;
    sqlx::query(
        "insert into employees (id, work_email, first_name, last_name, status, hire_date, created_at, updated_at)
         values ($1, $2, '', '', 'active', $3, $4, $4)",
    )
    .bind(id)
    .bind(email)
    .bind(hire_date)
    .bind(world.now())
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    id
}

pub async fn terminate(world: &World, employee: Uuid, last_day: NaiveDate) {
    let mut tx = world.tenant().await;
    sqlx::query("update employees set status = 'terminated', termination_date = $2 where id = $1")
        .bind(employee)
        .bind(last_day)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

pub async fn asset(world: &World, tag: &str, holder: Option<Uuid>) -> Uuid {
    let id = Uuid::now_v7();
    let mut tx = world.tenant().await;
    sqlx::query(
        "insert into assets (id, tag, name, status, employee_id, created_at, updated_at)
         values ($1, $2, 'Thing ' || $2, case when $3::uuid is null then 'in_stock' else 'assigned' end, $3, $4, $4)",
    )
    .bind(id)
    .bind(tag)
    .bind(holder)
    .bind(world.now())
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    id
}

/// A purchase by the product's own template, whose steps are due after 3, 5, 7 and 21 days; the second one needs approval.
pub async fn purchase(world: &World) -> Workflow {
    begin(world, StartWorkflow::of(WorkflowKind::Procurement, &world.organization, world.today())).await
}

pub async fn begin(world: &World, new: StartWorkflow) -> Workflow {
    let mut tx = world.tenant().await;
    let workflow = start(&mut tx, &new, "test", world.now()).await.unwrap();
    tx.commit().await.unwrap();
    workflow
}

/// Advances and approves the step at the position.
pub async fn done(world: &World, workflow: &Workflow, position: usize) -> Workflow {
    let mut tx = world.tenant().await;
    let ids = (workflow.id, workflow.steps[position - 1].id);
    let program = Asked::by("api_key:test", world.now());
    let workflow =
        advance(&mut tx, ids, Advance { note: None, approve: true, take_back: None }, &program).await.unwrap();
    tx.commit().await.unwrap();
    workflow
}

pub async fn all(world: &World) -> Vec<Workflow> {
    workflows::page(&mut *world.tenant().await, &WorkflowFilter::default(), Page::first(100)).await.unwrap()
}

pub async fn reload(world: &World, id: Uuid) -> Workflow {
    workflows::by_id(&mut *world.tenant().await, id).await.unwrap().unwrap()
}

/// The kinds of the workflow's events.
pub async fn told(world: &World, id: Uuid) -> Vec<String> {
    let topic = super::topic(id);
    let page = events::page(&mut *world.tenant().await, Some(&topic), Page::first(100)).await.unwrap();
    page.into_iter().map(|event| event.kind).collect()
}

pub fn days(world: &World, days: i64) {
    world.app.clock.advance(Duration::days(days));
}
