//! Tells organizations of their jobs that were given up, as events `job.discarded`, which rules bring to Slack. Scheduled every minute.
//! Twice is fine: what was told is noted in the transaction of its event, and told once each time that a job is given up.

use std::collections::{BTreeMap, HashSet};

use backroom_queue::{Ctx, DeadLetter, Job, JobResult, Verdict, dead_letters};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::NOT_FOR_TENANTS;
use crate::{
    context::App,
    domain::Organization,
    jobs::{actor, slack::PostMessage},
    store::{
        dead_letters as told,
        events::{self, NewEvent},
        organizations,
    },
    tenant::TenantTx,
};

/// Tells organizations of their jobs that were given up.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TellDeadLetters {}

impl Job for TellDeadLetters {
    type App = App;
    const KIND: &'static str = "platform.tell_dead_letters";

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        if ctx.job.tenant.is_some() {
            return Ok(Verdict::Discard(NOT_FOR_TENANTS.to_owned()));
        }
        let db = &ctx.app.db;
        let mut look = db.begin().await?;
        let (since, until) = told::begin_look(&mut look).await?;
        let mut by_tenant: BTreeMap<String, Vec<DeadLetter>> = BTreeMap::new();
        for letter in dead_letters(db, since).await? {
            // A message that nobody can be told in Slack must not be told in Slack.
            if letter.kind != PostMessage::KIND {
                by_tenant.entry(letter.tenant.clone()).or_default().push(letter);
            }
        }
        let (mut count, mut failed) = (0, None);
        for (slug, letters) in by_tenant {
            match tell(&ctx, &slug, &letters).await {
                Ok(told) => count += told,
                Err(error) => failed = Some(error.context(format!("could not tell {slug} of its dead letters"))),
            }
        }
        // One that could not be told is looked for again; the others know theirs.
        if let Some(error) = failed {
            return Err(error);
        }
        told::end_look(&mut look, until).await?;
        look.commit().await?;
        Verdict::done_with(json!({ "told": count }))
    }
}

/// Notes and events of one organization together. An organization that is no more is told nothing.
async fn tell(ctx: &Ctx<App>, slug: &str, letters: &[DeadLetter]) -> anyhow::Result<usize> {
    let mut tx = ctx.app.db.begin().await?;
    let Some(organization) = organizations::by_slug(&mut tx, slug).await? else { return Ok(0) };
    let ids: Vec<Uuid> = letters.iter().map(|letter| letter.id).collect();
    let ends: Vec<DateTime<Utc>> = letters.iter().map(|letter| letter.finished_at).collect();
    let new: HashSet<_> = told::note(&mut tx, &ids, &ends).await?.into_iter().collect();
    let news = letters.iter().filter(|letter| new.contains(&(letter.id, letter.finished_at)));
    let actor = actor(ctx);
    let events: Vec<NewEvent<'_>> = news.map(|letter| event(letter, &actor)).collect();
    append(tx, &organization, &events, ctx.app.clock.now()).await?;
    Ok(events.len())
}

async fn append(
    tx: sqlx::Transaction<'static, sqlx::Postgres>,
    organization: &Organization,
    events: &[NewEvent<'_>],
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let mut tx = TenantTx::enter(tx, organization).await?;
    events::append_many(&mut tx, events, now).await?;
    Ok(tx.commit().await?)
}

/// Without the reason, which may be sealed, and may name people: the job has it.
fn event<'a>(letter: &DeadLetter, actor: &'a str) -> NewEvent<'a> {
    let payload =
        json!({ "job_id": letter.id, "kind": letter.kind, "queue": letter.queue, "attempts": letter.attempt });
    NewEvent { topic: format!("job:{}", letter.id), kind: "job.discarded", payload, actor }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{NewJob, Outcome, run_inline, testing};

    use super::*;
    use crate::{
        jobs::{debug, testing::World},
        store::Page,
    };

    async fn look(world: &World) -> Outcome {
        let job = NewJob::of(&TellDeadLetters {});
        run_inline(&world.app.db, &world.registry, world.app.clone(), job, |_, _| {}).await.unwrap().0
    }

    async fn told(world: &World) -> Vec<String> {
        let page = events::page(&mut *world.tenant().await, None, Page::first(100)).await.unwrap();
        page.into_iter().filter(|event| event.kind == "job.discarded").map(|event| event.topic).collect()
    }

    /// A job of acme's that is given up.
    async fn give_up(world: &World) -> Uuid {
        let job = NewJob { max_attempts: 1, ..world.job(&debug::Fail { times: 9 }) };
        backroom_queue::enqueue(&world.app.db, &job).await.unwrap();
        testing::drain(&world.app.db, &world.registry, world.app.clone(), &job.queue).await.unwrap();
        job.id
    }

    fn done(told: usize) -> Outcome {
        Outcome::Completed { result: Some(json!({ "told": told })) }
    }

    /// SYNC-11
    #[tokio::test]
    async fn a_dead_letter_is_told_once_each_time_it_is_given_up() {
        let world = World::new().await;
        let first = give_up(&world).await;
        assert_eq!(look(&world).await, done(1));
        assert_eq!(look(&world).await, done(0));
        assert_eq!(told(&world).await, [format!("job:{first}")]);

        // Given up again: another end of the same job.
        sqlx::query("update queue.finished_jobs set finished_at = clock_timestamp() where id = $1")
            .bind(first)
            .execute(&world.app.db)
            .await
            .unwrap();
        let second = give_up(&world).await;
        assert_eq!(look(&world).await, done(2));
        assert_eq!(told(&world).await, [first, first, second].map(|id| format!("job:{id}")));
    }

    /// SYNC-11: what ended before the last look and is visible only now.
    #[tokio::test]
    async fn an_end_that_becomes_visible_late_is_told_all_the_same() {
        let world = World::new().await;
        assert_eq!(look(&world).await, done(0));
        let late = give_up(&world).await;
        sqlx::query("update queue.finished_jobs set finished_at = finished_at - interval '4 minutes' where id = $1")
            .bind(late)
            .execute(&world.app.db)
            .await
            .unwrap();
        assert_eq!(look(&world).await, done(1));
        assert_eq!(look(&world).await, done(0));
    }

    /// SYNC-11: or each message that cannot be posted would be told by another one.
    #[tokio::test]
    async fn a_message_that_was_given_up_is_not_told() {
        let world = World::new().await;
        let id = give_up(&world).await;
        sqlx::query("update queue.finished_jobs set kind = $2 where id = $1")
            .bind(id)
            .bind(PostMessage::KIND)
            .execute(&world.app.db)
            .await
            .unwrap();
        assert_eq!(look(&world).await, done(0));
    }

    /// SYNC-11: the others are told, and the one is told when its tables are there again.
    #[tokio::test]
    async fn an_organization_that_cannot_be_told_keeps_no_other_from_it() {
        let world = World::new().await;
        world.database.organization("broken").await;
        let broken = NewJob { max_attempts: 1, ..NewJob::of(&debug::Fail { times: 9 }) }.tenant("broken");
        backroom_queue::enqueue(&world.app.db, &broken).await.unwrap();
        give_up(&world).await;
        sqlx::query("alter table org_broken.events rename to hidden").execute(&world.app.db).await.unwrap();

        let outcome = look(&world).await;
        assert!(matches!(outcome, Outcome::Retryable { ref error, .. } if error.contains("broken")), "{outcome:?}");
        assert_eq!(told(&world).await.len(), 1);
        sqlx::query("alter table org_broken.hidden rename to events").execute(&world.app.db).await.unwrap();
        assert_eq!(look(&world).await, done(1));
    }

    #[tokio::test]
    async fn no_organization_may_run_it() {
        let world = World::new().await;
        let outcome = world.run(&TellDeadLetters {}).await;
        assert!(matches!(outcome, Outcome::Discarded { .. }), "{outcome:?}");
    }
}
