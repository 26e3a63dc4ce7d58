//! Tells of overdue workflows: an event for each, once per deadline, and one mail to each person with what is late at their hands.
//! Scheduled daily at 08:00 for each organization. Twice is fine: the deadline that was told of is marked, and a person's mail of a day is
//! an effect in the ledger.

use std::{collections::BTreeMap, time::Duration};

use backroom_queue::{Backoff, Ctx, Job, JobResult, Unique, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::topic;
use crate::{
    context::App,
    domain::{Assignee, EmailAddress, Language, Organization, Role, User},
    jobs::{
        actor,
        letter::{self, Told},
        organization,
    },
    mail::templates::{self, LateWork, OverdueWorkMail},
    store::{
        events::{self, NewEvent},
        memberships,
        overdue_workflows::{self, Late},
    },
    tenant,
};

/// Workflows told of in one transaction, and people asked for at a time.
const PAGE: i64 = 500;
/// What a mail names, and of how much more it gives the number.
const NAMED: usize = 30;

/// Tells of overdue workflows, each person of their own.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyOverdue {}

impl Job for NotifyOverdue {
    type App = App;
    const KIND: &'static str = "workflows.notify_overdue";
    const QUEUE: &'static str = "mailers";
    const MAX_ATTEMPTS: u32 = 8;
    const TIMEOUT: Duration = Duration::from_secs(1800);

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_secs(30), Duration::from_secs(3600))
    }

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by("overdue"))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let workflows = append_events(&ctx, &organization).await?;
        let (mut told, mut refused, mut failed, mut end) = (0_u32, Vec::new(), None, None);
        for (recipient, work) in recipients(&ctx, &organization).await? {
            match tell(&ctx, &organization, &recipient, &work).await {
                Ok(Told::Yes) => told += 1,
                Ok(Told::Refused { words }) => {
                    refused.push(json!({ "recipient": recipient.email.as_str(), "error": words }));
                }
                Ok(Told::End(verdict)) => end = Some(verdict),
                // The others hear of theirs all the same.
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(verdict) = end {
            return Ok(verdict);
        }
        Verdict::done_with(json!({ "overdue": workflows, "told": told, "refused": refused }))
    }
}

/// `workflow.overdue`, once per workflow and deadline.
async fn append_events(ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<usize> {
    let today = ctx.app.clock.today(organization.time_zone);
    let (kind, actor) = ("workflow.overdue", &actor(ctx));
    let mut count = 0;
    loop {
        let mut tx = tenant::begin(&ctx.app.db, organization).await?;
        let page = overdue_workflows::mark_told(&mut tx, today, PAGE).await?;
        let told: Vec<NewEvent<'_>> = page
            .iter()
            .map(|late| {
                let payload = json!({
                    "kind": late.kind, "title": late.title, "employee_id": late.employee_id, "asset_id": late.asset_id,
                    "due_on": late.deadline,
                });
                NewEvent { topic: topic(late.id), kind, payload, actor }
            })
            .collect();
        events::append_many(&mut tx, &told, ctx.app.clock.now()).await?;
        tx.commit().await?;
        count += page.len();
        if (page.len() as i64) < PAGE {
            return Ok(count);
        }
    }
}

/// Whom a mail goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Recipient {
    email: EmailAddress,
    name: Option<String>,
    language: Language,
}

/// What is late, and how much there is of it.
#[derive(Default)]
struct Work {
    named: Vec<Late>,
    all: u64,
}

/// Everybody who has something late, with it. What is given to nobody who is here any more is the administrators'; if there is none, the
/// addresses' that the settings name.
async fn recipients(ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<BTreeMap<Recipient, Work>> {
    let today = ctx.app.clock.today(organization.time_zone);
    let mut tx = tenant::begin(&ctx.app.db, organization).await?;
    let late = overdue_workflows::late(&mut tx, today, NAMED as i64).await?;
    tx.commit().await?;
    let mut found: BTreeMap<Recipient, Work> = BTreeMap::new();
    if late.is_empty() {
        return Ok(found);
    }
    let staff = staff(ctx, organization).await?;
    let mut of: BTreeMap<(Option<Role>, Option<Uuid>), Work> = BTreeMap::new();
    for late in late {
        let work = of.entry((late.assignee.role(), late.assignee.person())).or_default();
        work.all = late.of;
        work.named.push(late);
    }
    for ((role, person), work) in of {
        let assignee = person.map(Assignee::Person).or(role.map(Assignee::Role));
        let mut whose: Vec<Recipient> = assignee.map(|assignee| at_hands(&staff, assignee)).unwrap_or_default();
        if whose.is_empty() {
            whose = at_hands(&staff, Assignee::Role(Role::Admin));
        }
        if whose.is_empty() {
            let language = organization.locale;
            let named = organization.settings.admin_emails.iter();
            whose = named.map(|email| Recipient { email: email.clone(), name: None, language }).collect();
        }
        for recipient in whose {
            let own = found.entry(recipient).or_default();
            own.all += work.all;
            own.named.extend(work.named.iter().cloned());
        }
    }
    for work in found.values_mut() {
        work.named.sort_by_key(|late| late.due_on);
        work.named.truncate(NAMED);
    }
    Ok(found)
}

/// Who works here, with their roles.
async fn staff(ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<Vec<(Role, User)>> {
    let (mut staff, mut after) = (Vec::new(), None);
    let mut db = ctx.app.db.acquire().await?;
    loop {
        let page = memberships::page(&mut db, organization.id, None, after, PAGE).await?;
        after = page.last().map(|(_, user)| user.id);
        let full = page.len() as i64 == PAGE;
        let working = page.into_iter().filter(|(membership, _)| membership.role != Role::Customer);
        staff.extend(working.map(|(membership, user)| (membership.role, user)));
        if !full {
            return Ok(staff);
        }
    }
}

fn at_hands(staff: &[(Role, User)], assignee: Assignee) -> Vec<Recipient> {
    let whose = staff.iter().filter(|(role, user)| match assignee {
        Assignee::Role(wanted) => *role == wanted,
        Assignee::Person(id) => user.id == id,
    });
    whose
        .map(|(_, user)| Recipient {
            email: user.email.clone(),
            name: Some(user.name.clone()),
            language: user.language,
        })
        .collect()
}

/// One person's mail of the day.
async fn tell(ctx: &Ctx<App>, organization: &Organization, recipient: &Recipient, work: &Work) -> anyhow::Result<Told> {
    // The effect's intent is committed next, and takes this with it to the disk.
    let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
    let today = ctx.app.clock.today(organization.time_zone);
    let purpose = format!("workflows-overdue:{today}:{}", recipient.email.key());
    let envelope = match letter::open(&mut tx, ctx, organization, (purpose, recipient.email.clone())).await? {
        Ok(envelope) => envelope,
        Err(closed) => return Ok(closed.into()),
    };
    tx.commit().await?;
    let rendered = templates::render_overdue_work(&OverdueWorkMail {
        language: recipient.language,
        organization_name: organization.name.clone(),
        recipient_name: recipient.name.clone(),
        today: envelope.written_on(organization),
        work: work.named.iter().map(late_work).collect(),
        all: work.all,
    });
    let mail = envelope.with(organization, recipient.language, rendered);
    letter::tell(ctx, organization, &envelope, &mail).await
}

fn late_work(late: &Late) -> LateWork {
    LateWork { workflow: late.title.clone(), step: late.step.clone(), due_on: late.due_on }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, testing};
    use chrono::Duration as Days;

    use super::*;
    use crate::{
        domain::{NewUser, WorkflowKind},
        jobs::{
            testing::World,
            workflows::{Advance, StartWorkflow, advance, testing::*},
        },
        store::users,
    };

    async fn member(world: &World, email: &str, role: Role) -> Uuid {
        let mut db = world.app.db.acquire().await.unwrap();
        let email = EmailAddress::parse(email).unwrap();
        let name = email.local_part().to_owned();
        let new = NewUser { email, name, language: Language::En, password: None, confirmed_at: None };
        let id = users::create(&mut db, &new, world.now()).await.unwrap().id;
        memberships::add(&mut db, world.organization.id, id, role, None, world.now()).await.unwrap();
        id
    }

    async fn notify(world: &World) -> serde_json::Value {
        match world.run(&NotifyOverdue {}).await {
            Outcome::Completed { result: Some(result) } => result,
            other => panic!("it ended as {other:?}"),
        }
    }

    /// Who was sent something, in the order of their addresses.
    fn mailed(world: &World) -> Vec<String> {
        let mut mailed: Vec<String> = world.mailbox.accepted().into_iter().map(|mail| mail.recipient).collect();
        mailed.sort();
        mailed
    }

    fn last_text(world: &World) -> String {
        let text = world.mailbox.get(world.mailbox.list(1)[0].id).unwrap().text.unwrap();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// ASSET-5
    #[tokio::test]
    async fn each_person_hears_once_a_day_of_what_is_late_at_their_hands() {
        let world = World::new().await;
        let anna = member(&world, "anna@acme.example", Role::Admin).await;
        member(&world, "dev@acme.example", Role::Developer).await;
        let bo = employee(&world, "bo@acme.example", None).await;
        let of = |kind| StartWorkflow::of(kind, &world.organization, world.today());
        let hire = begin(&world, StartWorkflow { employee_id: Some(bo), ..of(WorkflowKind::Onboarding) }).await;
        assert_eq!(notify(&world).await["told"], 0, "what is due today is not late");
        days(&world, 1);

        assert_eq!(notify(&world).await, json!({ "overdue": 1, "told": 2, "refused": [] }));
        assert_eq!(mailed(&world), ["anna@acme.example", "dev@acme.example"]);
        assert_eq!(notify(&world).await, json!({ "overdue": 0, "told": 2, "refused": [] }), "told already");
        assert_eq!(mailed(&world).len(), 2);
        assert_eq!(told(&world, hire.id).await, ["workflow.started", "workflow.overdue"]);

        let own = StartWorkflow {
            assignee: Some(Assignee::Person(anna)),
            due_on: Some(world.today() - Days::days(1)),
            ..of(WorkflowKind::Procurement)
        };
        begin(&world, own).await;
        for position in 1..=3 {
            done(&world, &hire, position).await;
        }
        days(&world, 1);
        assert_eq!(notify(&world).await, json!({ "overdue": 2, "told": 1, "refused": [] }));
        assert_eq!(mailed(&world).len(), 3);
        let text = last_text(&world);
        assert!(text.contains("2 things are overdue") && text.contains("Inköp"), "{text}");
    }

    /// ASSET-5, MAIL-2: killed after a mail and before its record.
    #[tokio::test]
    async fn the_same_job_twice_sends_nothing_twice() {
        let world = World::new().await;
        member(&world, "anna@acme.example", Role::Admin).await;
        member(&world, "eva@acme.example", Role::Admin).await;
        purchase(&world).await;
        days(&world, 10);
        let tables = ["org_acme.workflows", "org_acme.deliveries", "org_acme.events"];

        let job = world.job(&NotifyOverdue {});
        let [once, twice] =
            testing::run_twice(&world.app.db, &world.registry, world.app.clone(), job, &tables).await.unwrap();

        assert!(matches!(once.0, Outcome::Completed { .. }), "{:?}", once.0);
        assert_eq!(once.1, twice.1);
        assert_eq!(mailed(&world), ["anna@acme.example", "eva@acme.example"]);
    }

    /// ASSET-5: what nobody has any more is the administrators', and without one the addresses' in the settings.
    #[tokio::test]
    async fn what_is_at_nobody_s_hands_is_told_to_who_runs_the_organization() {
        let mut world = World::new().await;
        world.set_admins(&["boss@acme.example"]).await;
        let gone = StartWorkflow {
            assignee: Some(Assignee::Person(Uuid::now_v7())),
            due_on: Some(world.today()),
            ..StartWorkflow::of(WorkflowKind::Procurement, &world.organization, world.today())
        };
        begin(&world, gone).await;
        days(&world, 1);
        assert_eq!(notify(&world).await["told"], 1);
        assert_eq!(mailed(&world), ["boss@acme.example"]);
        assert!(last_text(&world).contains("En sak är försenad"), "{}", last_text(&world));

        member(&world, "anna@acme.example", Role::Admin).await;
        days(&world, 1);
        assert_eq!(notify(&world).await["told"], 1);
        assert_eq!(mailed(&world), ["anna@acme.example", "boss@acme.example"]);
    }

    /// ASSET-5, MAIL-3: an address that is refused for good keeps nobody else from hearing.
    #[tokio::test]
    async fn a_refused_address_is_named_and_the_others_hear() {
        let world = World::new().await;
        for email in ["reject@acme.example", "anna@acme.example"] {
            member(&world, email, Role::Admin).await;
        }
        purchase(&world).await;
        days(&world, 10);
        let result = notify(&world).await;
        assert_eq!((&result["told"], &result["refused"][0]["recipient"]), (&json!(1), &json!("reject@acme.example")));
        assert_eq!(mailed(&world), ["anna@acme.example"]);
    }

    /// ASSET-5: another deadline that passes is told of, the same one is not.
    #[tokio::test]
    async fn a_workflow_is_told_of_once_for_each_deadline() {
        let world = World::new().await;
        let workflow = purchase(&world).await;
        let overdue =
            async || told(&world, workflow.id).await.iter().filter(|kind| *kind == "workflow.overdue").count();
        days(&world, 6);
        notify(&world).await;
        assert_eq!(overdue().await, 1, "the first step was due on the third day");
        days(&world, 1);
        notify(&world).await;
        assert_eq!(overdue().await, 1);
        done(&world, &workflow, 1).await;
        notify(&world).await;
        assert_eq!(overdue().await, 2, "the second one was due on the fifth");
        done(&world, &workflow, 2).await;
        notify(&world).await;
        assert_eq!(overdue().await, 2, "the third one is due today");
    }

    /// ASSET-5: a step that waits for approval is at the hands of who sees to the whole.
    #[tokio::test]
    async fn an_approval_that_is_late_is_told_to_who_sees_to_the_workflow() {
        let world = World::new().await;
        let head = member(&world, "head@acme.example", Role::User).await;
        member(&world, "anna@acme.example", Role::Admin).await;
        let new = StartWorkflow {
            assignee: Some(Assignee::Person(head)),
            ..StartWorkflow::of(WorkflowKind::Procurement, &world.organization, world.today())
        };
        let workflow = begin(&world, new).await;
        done(&world, &workflow, 1).await;
        let mut tx = world.tenant().await;
        let ids = (workflow.id, workflow.steps[1].id);
        advance(&mut tx, ids, Advance::default(), &asked(&world)).await.unwrap();
        tx.commit().await.unwrap();
        days(&world, 6);
        assert_eq!(notify(&world).await["told"], 1);
        assert_eq!(mailed(&world), ["head@acme.example"]);
    }
}
