//! Tells an organization's admins that an integration has stopped and waits for a person, or that nothing could be read from it for
//! hours. Enqueued in the transaction that says so, once for each time. Twice is fine: each admin's mail is an effect in the ledger.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Unique, Verdict};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::{
    context::App,
    domain::{
        EmailAddress, Organization, Role,
        integration::{Integration, IntegrationStatus},
    },
    jobs::{
        letter::{self, Told},
        organization,
    },
    mail::templates::{self, AttentionMail},
    store::{StoreError, integrations, memberships},
    tenant,
};

/// Nobody has more admins.
const ADMINS_AT_MOST: i64 = 50;

/// Tells the admins that an integration waits for a person, or gets nothing.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TellAttention {
    pub integration_id: Uuid,
    /// Since when; another time is another occasion.
    pub since: DateTime<Utc>,
}

impl Job for TellAttention {
    type App = App;
    const KIND: &'static str = "integrations.tell_attention";
    const QUEUE: &'static str = "mailers";
    const MAX_ATTEMPTS: u32 = 8;

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_secs(30), Duration::from_secs(3600))
    }

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by(format_args!("{}:{}", self.integration_id, self.since.timestamp_micros())))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let (mut told, mut refused) = (Vec::new(), Vec::new());
        for admin in admins(&ctx, &organization).await? {
            match self.tell(&ctx, &organization, &admin).await? {
                Told::Yes => told.push(admin.to_string()),
                Told::Refused { words } => refused.push(json!({ "recipient": admin.as_str(), "error": words })),
                Told::End(verdict) => return Ok(verdict),
            }
        }
        Verdict::done_with(json!({ "told": told, "refused": refused }))
    }
}

/// Those whom the settings name; where they name nobody, who has the role.
async fn admins(ctx: &Ctx<App>, organization: &Organization) -> Result<Vec<EmailAddress>, StoreError> {
    let named = &organization.settings.admin_emails;
    if !named.is_empty() {
        return Ok(named.clone());
    }
    let mut db = ctx.app.db.acquire().await?;
    let members = memberships::page(&mut db, organization.id, Some(Role::Admin), None, ADMINS_AT_MOST).await?;
    Ok(members.into_iter().map(|(_, user)| user.email).collect())
}

impl TellAttention {
    /// Whether it is still the occasion that there was.
    fn stands(&self, integration: &Integration) -> bool {
        let since = match integration.status {
            IntegrationStatus::NeedsAttention => integration.needs_since,
            IntegrationStatus::Failing => integration.stalled_since,
            IntegrationStatus::New | IntegrationStatus::Healthy => None,
        };
        // The database keeps microseconds.
        since.map(|since| since.timestamp_micros()) == Some(self.since.timestamp_micros())
    }

    /// One admin's mail.
    async fn tell(&self, ctx: &Ctx<App>, organization: &Organization, admin: &EmailAddress) -> anyhow::Result<Told> {
        let mut tx = tenant::begin(&ctx.app.db, organization).await?;
        let Some(integration) = integrations::by_id(&mut tx, self.integration_id).await? else {
            return Ok(Told::End(Verdict::Cancel("the integration does not exist any more".to_owned())));
        };
        if !self.stands(&integration) {
            return Ok(Told::End(Verdict::Cancel("it is no longer so".to_owned())));
        }
        let purpose = format!("attention:{}:{}:{admin}", integration.id, self.since.timestamp_micros());
        let envelope = match letter::open(&mut tx, ctx, organization, (purpose, admin.clone())).await? {
            Ok(envelope) => envelope,
            Err(closed) => return Ok(closed.into()),
        };
        tx.commit().await?;
        let notice = templates::render_attention(&AttentionMail {
            language: organization.locale,
            organization_name: organization.name.clone(),
            integration_name: integration.name,
            provider: integration.provider.title().to_owned(),
            problem: integration.last_error.unwrap_or_else(|| "unknown".to_owned()),
            since: self.since,
            time_zone: organization.time_zone,
            goes_on: integration.status == IntegrationStatus::Failing,
        });
        let mail = envelope.with(organization, organization.locale, notice);
        letter::tell(ctx, organization, &envelope, &mail).await
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{Outcome, testing};

    use super::*;
    use crate::{
        domain::{Language, NewUser, integration::Provider},
        jobs::{
            integrations::{
                SweepDue, needs_attention,
                stage::{connect, reload, result},
            },
            testing::World,
        },
        store::users,
    };

    /// An integration that has just stopped, and the job that tells of it.
    async fn stopped(world: &World) -> TellAttention {
        let id = connect(world, Provider::BambooHr, "Our BambooHR").await.id;
        stop(world, id).await
    }

    async fn stop(world: &World, id: Uuid) -> TellAttention {
        let place = (id, "BambooHR does not know the key; make another");
        let mut tx = world.tenant().await;
        let first =
            needs_attention(&mut tx, &world.organization.slug, place, "test", (world.now(), None)).await.unwrap();
        assert!(first);
        tx.commit().await.unwrap();
        TellAttention { integration_id: id, since: reload(world, id).await.needs_since.unwrap() }
    }

    async fn mend(world: &World, id: Uuid) {
        let mut tx = world.tenant().await;
        integrations::succeeded(&mut tx, id, world.now()).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Runs what was enqueued when it stopped.
    async fn tell(world: &World) -> Vec<Outcome> {
        let ran = testing::drain(&world.app.db, &world.registry, world.app.clone(), TellAttention::QUEUE).await;
        ran.unwrap().into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// SYNC-6, MAIL-2
    #[tokio::test]
    async fn the_same_job_twice_tells_each_admin_once() {
        let mut world = World::new().await;
        world.set_admins(&["boss@example.se", "it@example.se"]).await;
        let job = world.job(&stopped(&world).await);
        let tables = ["org_acme.deliveries", "org_acme.integrations", "org_acme.events"];

        let [once, twice] =
            testing::run_twice(&world.app.db, &world.registry, world.app.clone(), job, &tables).await.unwrap();

        assert_eq!(result(once.0.clone())["told"], json!(["boss@example.se", "it@example.se"]));
        assert_eq!(once.0, twice.0);
        assert_eq!(once.1, twice.1);
        let mails = world.mailbox.accepted();
        assert_eq!(
            mails.iter().map(|mail| mail.recipient.as_str()).collect::<Vec<_>>(),
            ["boss@example.se", "it@example.se"]
        );
        let mail = world.mailbox.get(world.mailbox.list(1)[0].id).unwrap();
        let text = mail.text.unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("BambooHR does not know the key; make another"), "{text}");
    }

    /// SYNC-6: the next time is another time, also for the same admin.
    #[tokio::test]
    async fn another_time_is_told_anew() {
        let mut world = World::new().await;
        world.set_admins(&["boss@example.se"]).await;
        let id = stopped(&world).await.integration_id;
        tell(&world).await;
        mend(&world, id).await;
        world.app.clock.advance(chrono::Duration::hours(1));
        stop(&world, id).await;
        tell(&world).await;

        assert_eq!(world.mailbox.accepted().len(), 2);
    }

    /// SYNC-6: what was seen to is not told.
    #[tokio::test]
    async fn nobody_is_told_of_what_is_mended() {
        let mut world = World::new().await;
        world.set_admins(&["boss@example.se"]).await;
        let id = stopped(&world).await.integration_id;
        mend(&world, id).await;
        world.app.clock.advance(chrono::Duration::hours(1));
        stop(&world, id).await;

        let ends = tell(&world).await;

        assert!(matches!(ends[..], [Outcome::Cancelled { .. }, Outcome::Completed { .. }]), "{ends:?}");
        assert_eq!(world.mailbox.accepted().len(), 1, "the first time is over");
    }

    /// SYNC-13: what goes on by itself is told as such.
    #[tokio::test]
    async fn silence_of_hours_is_told() {
        let mut world = World::new().await;
        world.set_admins(&["boss@example.se"]).await;
        let id = connect(&world, Provider::BambooHr, "Our BambooHR").await.id;
        let mut tx = world.tenant().await;
        integrations::stall(&mut tx, id, world.now()).await.unwrap();
        tx.commit().await.unwrap();
        world.app.clock.advance(chrono::Duration::hours(6));
        for _ in 0..2 {
            world.run(&SweepDue {}).await;
            tell(&world).await;
        }

        assert_eq!(world.mailbox.accepted().len(), 1);
        let mail = world.mailbox.get(world.mailbox.list(1)[0].id).unwrap();
        let text = mail.text.unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("BambooHR has let nothing be read since 2026-03-02 08:00 UTC"), "{text}");
    }

    /// SYNC-6: where the settings name nobody, members who are admins are told; a dead address is named in the result.
    #[tokio::test]
    async fn admins_are_found_among_the_members() {
        let world = World::new().await;
        for (email, role) in
            [("reject@example.se", Role::Admin), ("ada@example.se", Role::Admin), ("dev@example.se", Role::Developer)]
        {
            let new = NewUser {
                email: EmailAddress::parse(email).unwrap(),
                name: "Ada".to_owned(),
                language: Language::Sv,
                password: None,
                confirmed_at: None,
            };
            let mut db = world.app.db.acquire().await.unwrap();
            let user = users::create(&mut db, &new, world.now()).await.unwrap().id;
            let (tx, place) = (world.app.db.begin().await.unwrap(), (role, None));
            let joined = tenant::join(tx, &world.organization, user, place, ("test", world.now())).await.unwrap();
            joined.commit().await.unwrap();
        }
        stopped(&world).await;

        let told = result(tell(&world).await.remove(0));

        assert_eq!(told["told"], json!(["ada@example.se"]));
        assert_eq!(told["refused"][0]["recipient"], "reject@example.se");
    }

    #[test]
    fn the_wire_format_is_stable() {
        let job = TellAttention { integration_id: Uuid::nil(), since: DateTime::UNIX_EPOCH };
        insta::assert_json_snapshot!(job, @r#"
        {
          "integration_id": "00000000-0000-0000-0000-000000000000",
          "since": "1970-01-01T00:00:00Z"
        }
        "#);
    }
}
