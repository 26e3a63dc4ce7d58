//! Tells an event in Slack. Enqueued by the database with each event that a rule names, in the event's own transaction. Twice is fine: the
//! message is an effect in the ledger, and one whose outcome nobody knows is looked for in the channel, by the key that it carries.

use std::time::Duration;

use backroom_queue::{
    Backoff, CallError, Ctx, EffectError, Job, JobResult, RateLimit, Reconciled, RetryAfter, Verdict,
};
use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    doors::stop_rule,
    subject::{Subject, local_time},
    words,
};
use crate::{
    clients::{
        connector::{Account, Credentials},
        slack::{Found, Message, Mrkdwn, Posted, Slack, SlackError},
    },
    context::App,
    domain::{NotificationRule, Organization, integration::IntegrationStatus},
    jobs::{actor, integrations, organization},
    store::{
        Sealer,
        events::{self, Event},
        integrations as rows, notification_rules, slack_people,
    },
    tenant,
};

/// Slack takes about this of a channel.
const PER_CHANNEL: (u32, Duration) = (1, Duration::from_secs(1));
/// How long a place is left alone when Slack does not say for how long.
const BUSY_WAIT: Duration = Duration::from_secs(60);
/// How long messages wait, and how long at a time, for a person who mends the integration.
const PARKED: Duration = Duration::from_secs(15 * 60);
const NEWS: TimeDelta = TimeDelta::hours(24);
/// How long a look-up of a person is believed.
const KNOWN: TimeDelta = TimeDelta::days(7);
/// Look-ups a minute of a workspace (Slack's tier 3, with a margin); beyond them people are named by their address.
const LOOK_UPS: (u32, Duration) = (40, Duration::from_secs(60));

/// Tells an event in the channel of a rule.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostMessage {
    pub rule_id: Uuid,
    pub event_id: Uuid,
    /// The place, one message a second: integration and channel.
    pub lane: String,
    /// So many more events of the kind came with this one.
    #[serde(default)]
    pub others: u32,
}

impl Job for PostMessage {
    type App = App;
    const KIND: &'static str = "slack.post";
    const QUEUE: &'static str = "notifications";
    const MAX_ATTEMPTS: u32 = 8;
    const TIMEOUT: Duration = Duration::from_secs(120);

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_secs(5), Duration::from_secs(900))
    }

    fn rate_limit(&self) -> Option<RateLimit> {
        let (permits, period) = PER_CHANNEL;
        Some(RateLimit::new(self.rate_key(), permits, period))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let work = match self.read(&ctx, &organization).await? {
            Read::Work(work) => work,
            Read::Ends(verdict) => return Ok(verdict),
        };
        match self.deliver(&ctx, &organization, &work).await {
            Ok(posted) => {
                let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, &organization).await?;
                notification_rules::mark_posted(&mut tx, self.rule_id, ctx.app.clock.now()).await?;
                tx.commit().await?;
                Verdict::done_with(posted)
            }
            Err(Stop::Refused(error)) => self.refused(&ctx, &organization, &work, error).await,
            Err(Stop::Ends(verdict)) => Ok(verdict),
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}

/// What there is to be done.
enum Read {
    Work(Box<Work>),
    Ends(Verdict),
}

struct Work {
    rule: NotificationRule,
    event: Event,
    subject: Subject,
    slack: Slack,
}

/// Why nothing was posted.
enum Stop {
    Refused(SlackError),
    Ends(Verdict),
    Failed(anyhow::Error),
}

impl From<SlackError> for Stop {
    fn from(error: SlackError) -> Self {
        Self::Refused(error)
    }
}

/// A failure of our own, not Slack's.
fn ours(error: impl Into<anyhow::Error>) -> Stop {
    Stop::Failed(error.into())
}

impl PostMessage {
    fn rate_key(&self) -> String {
        format!("slack:{}", self.lane)
    }

    /// The rule, the event and the way to Slack; or why there is nothing to be posted (now).
    async fn read(&self, ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<Read> {
        let cancel = |reason: &str| Ok(Read::Ends(Verdict::Cancel(reason.to_owned())));
        let mut tx = tenant::begin(&ctx.app.db, organization).await?;
        let Some(rule) = notification_rules::by_id(&mut tx, self.rule_id).await? else {
            return cancel("the rule does not exist any more");
        };
        if !rule.rule.enabled {
            return cancel("the rule is switched off");
        }
        if let Some(error) = &rule.error {
            return cancel(&format!("the rule has stopped: {error}"));
        }
        let Some(event) = events::by_id(&mut tx, self.event_id).await? else {
            return cancel("the event does not exist");
        };
        let id = rule.rule.integration_id;
        let Some(integration) = rows::by_id(&mut tx, id).await? else {
            return cancel("the integration does not exist any more");
        };
        if !integration.enabled {
            return cancel("the integration is switched off");
        }
        if integration.status == IntegrationStatus::NeedsAttention {
            let waited = ctx.app.clock.now() - event.created_at;
            if waited > NEWS {
                return cancel("the integration has needed attention for a day, and this is no news any more");
            }
            return Ok(Read::Ends(Verdict::Snooze(PARKED)));
        }
        let sealer = Sealer::new(&ctx.app.vault, organization.slug.as_str());
        let Some(credentials) = rows::credentials(&mut tx, sealer, id).await? else {
            return cancel("the integration does not exist any more");
        };
        let language = rule.rule.language.unwrap_or(organization.locale);
        let subject = Subject::of(&mut tx, &event, language).await?;
        tx.commit().await?;
        let Ok(credentials) = Credentials::parse(credentials) else {
            return Ok(Read::Ends(Verdict::Discard(
                "the credentials of the integration are broken; store them anew".to_owned(),
            )));
        };
        let (http, clock) = (ctx.app.http.clone(), ctx.app.clock.clone());
        match Slack::new(Account { config: integration.config, credentials, http, clock }) {
            Ok(slack) => Ok(Read::Work(Box::new(Work { rule, event, subject, slack }))),
            Err(errors) => Ok(Read::Ends(Verdict::Discard(format!("the integration is not configured: {errors}")))),
        }
    }

    async fn deliver(&self, ctx: &Ctx<App>, organization: &Organization, work: &Work) -> Result<Posted, Stop> {
        let channel = self.place(ctx, organization, work).await?;
        let message = self.message(ctx, organization, work).await?;
        let (slack, place) = (&work.slack, channel.as_str());
        let effect = ctx.effect::<Posted>(format!("slack:{}:{}", self.rule_id, self.event_id));
        let effect = effect.reconcile(move |tried| async move {
            match slack.find(place, tried.idempotency_key, tried.since).await {
                Ok(Found::Posted(posted)) => Ok(Reconciled::Happened(posted)),
                Ok(Found::Nowhere) => Ok(Reconciled::DidNotHappen),
                Ok(Found::NotYet) => Ok(Reconciled::Unknown),
                // Who may not look there posts again: twice is better than not at all.
                Err(SlackError::Forbidden(_) | SlackError::Target(_)) => Ok(Reconciled::DidNotHappen),
                Err(error) => Err(error.into()),
            }
        });
        let message = &message;
        let sent = effect.call(move |key| async move {
            match slack.post(place, message, key).await {
                Ok(posted) => Ok(posted),
                Err(error @ SlackError::Unknown(_)) => Err(CallError::Unknown(error.into())),
                Err(error) => Err(CallError::not_done(error)),
            }
        });
        match sent.await {
            Ok(posted) => Ok(posted),
            Err(EffectError::NotDone(error)) => Err(match error.downcast::<SlackError>() {
                Ok(error) => Stop::Refused(error),
                Err(error) => Stop::Failed(error),
            }),
            // Asked too often while looking for it, or the token has ended meanwhile: nothing was posted by this attempt.
            Err(EffectError::Unknown(error)) => Err(match error.downcast::<SlackError>() {
                Ok(error @ (SlackError::RateLimited(_) | SlackError::Credentials(_))) => Stop::Refused(error),
                Ok(error) => Stop::Failed(error.into()),
                Err(error) => Stop::Failed(error),
            }),
            Err(error) => Err(match error.verdict() {
                Ok(verdict) => Stop::Ends(verdict),
                Err(error) => Stop::Failed(error),
            }),
        }
    }

    /// The channel's id; a person's is asked for.
    async fn place(&self, ctx: &Ctx<App>, organization: &Organization, work: &Work) -> Result<String, Stop> {
        let Some(email) = work.rule.rule.channel.person() else {
            return Ok(work.rule.rule.channel.as_str().to_owned());
        };
        let Some(user) = self.look_up(ctx, organization, work, (email, true)).await? else {
            return Err(SlackError::Target(
                "Slack knows nobody with this address (users_not_found); correct it".to_owned(),
            )
            .into());
        };
        Ok(work.slack.open(&user).await?)
    }

    async fn message(&self, ctx: &Ctx<App>, organization: &Organization, work: &Work) -> Result<Message, Stop> {
        let Work { rule, event, subject, .. } = work;
        let who = match &subject.who {
            Some(email) => Some(self.named(ctx, organization, work, email).await?),
            None => None,
        };
        let context = words::Context {
            kind: &event.kind,
            topic: &event.topic,
            language: rule.rule.language.unwrap_or(organization.locale),
            organization: &organization.name,
            at: local_time(event.created_at, organization.time_zone),
            others: self.others,
        };
        Ok(words::message(subject, who, &context))
    }

    /// Mentioned, or by their address: whatever keeps Slack from telling who they are keeps no message back, but for a dead token.
    async fn named(
        &self,
        ctx: &Ctx<App>,
        organization: &Organization,
        work: &Work,
        email: &str,
    ) -> Result<Mrkdwn, Stop> {
        if !work.rule.rule.mention {
            return Ok(Mrkdwn::data(email));
        }
        match self.look_up(ctx, organization, work, (email, false)).await {
            Ok(Some(user)) => Ok(Mrkdwn::mention(&user)),
            Err(stop @ (Stop::Refused(SlackError::Credentials(_)) | Stop::Failed(_))) => Err(stop),
            Ok(None) | Err(_) => Ok(Mrkdwn::data(email)),
        }
    }

    /// The user with this address, as it is remembered or as Slack says. With `must` it asks again about somebody whom Slack did not know.
    async fn look_up(
        &self,
        ctx: &Ctx<App>,
        organization: &Organization,
        work: &Work,
        (email, must): (&str, bool),
    ) -> Result<Option<String>, Stop> {
        let (id, now) = (work.rule.rule.integration_id, ctx.app.clock.now());
        let mut tx = tenant::begin(&ctx.app.db, organization).await.map_err(ours)?;
        let known = slack_people::known(&mut tx, (id, email), now - KNOWN).await.map_err(ours)?;
        tx.commit().await.map_err(ours)?;
        if let Some(known) = known.filter(|known| known.is_some() || !must) {
            return Ok(known);
        }
        let (permits, period) = LOOK_UPS;
        let limit = RateLimit::new(format!("slack:{id}:users.lookupByEmail"), permits, period);
        match ctx.permit(&limit).await {
            Ok(()) => {}
            Err(error) => {
                return Err(match error.downcast::<RetryAfter>() {
                    Ok(RetryAfter { after, .. }) => SlackError::RateLimited(Some(after)).into(),
                    Err(error) => Stop::Failed(error),
                });
            }
        }
        let found = match work.slack.person(email).await {
            Err(SlackError::RateLimited(wait)) => {
                let wait = wait.unwrap_or(BUSY_WAIT);
                ctx.block_rate(&limit.key, wait).await.map_err(ours)?;
                return Err(SlackError::RateLimited(Some(wait)).into());
            }
            found => found?,
        };
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await.map_err(ours)?;
        slack_people::keep(&mut tx, (id, email), found.as_deref(), now).await.map_err(ours)?;
        tx.commit().await.map_err(ours)?;
        Ok(found)
    }

    /// What a refusal means for the job, the rule and the integration.
    async fn refused(&self, ctx: &Ctx<App>, organization: &Organization, work: &Work, error: SlackError) -> JobResult {
        let told = error.to_string();
        let (actor, now) = (actor(ctx), ctx.app.clock.now());
        match error {
            SlackError::RateLimited(wait) => {
                let wait = wait.unwrap_or(BUSY_WAIT);
                ctx.block_rate(&self.rate_key(), wait).await?;
                Ok(Verdict::Snooze(wait))
            }
            SlackError::Credentials(_) | SlackError::Forbidden(_) | SlackError::Address(_) => {
                let mut tx = tenant::begin(&ctx.app.db, organization).await?;
                let integration = (work.rule.rule.integration_id, told.as_str());
                let when = (now, ctx.job.trace.clone());
                integrations::needs_attention(&mut tx, &organization.slug, integration, &actor, when).await?;
                tx.commit().await?;
                Ok(Verdict::Snooze(PARKED))
            }
            SlackError::Target(_) => {
                let mut tx = tenant::begin(&ctx.app.db, organization).await?;
                stop_rule(&mut tx, (&work.rule, &told), &actor, now).await?;
                tx.commit().await?;
                Ok(Verdict::Discard(format!("{told}; then change the rule, and it is tried again")))
            }
            SlackError::Protocol(_) => Ok(Verdict::Discard(told)),
            error @ (SlackError::Transient(_) | SlackError::Unknown(_)) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use backroom_queue::{JobRecord, NewJob, Outcome, fix_rate_limit, forget_rate_limit, testing};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        demo::vendors::{
            Mood,
            slack::{self as fake, Door},
        },
        domain::{
            Language, NewRule,
            integration::{IntegrationChange, NewIntegration, Provider},
        },
        jobs::{
            slack::{change_rule, create_rule},
            testing::World,
        },
        store::events::NewEvent,
    };

    const GENERAL: &str = "C0ALLMANT";

    /// A world with a connected Slack.
    struct Office {
        world: World,
        slack: fake::Slack,
        integration: Uuid,
    }

    impl Office {
        async fn new() -> Self {
            let world = World::with(&[("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1")]).await;
            let slack = fake::Slack::start().await.unwrap();
            slack.patient();
            let new = NewIntegration {
                provider: Provider::Slack,
                name: "Slack".to_owned(),
                config: slack.config(),
                interval_minutes: 60,
                enabled: true,
            };
            let sealer = Sealer::new(&world.app.vault, "acme");
            let credentials = slack.credentials().to_string().into();
            let mut tx = world.tenant().await;
            let made =
                integrations::create_integration(&mut tx, sealer, (&new, &credentials), "test", world.now()).await;
            let integration = made.unwrap().id;
            tx.commit().await.unwrap();
            Self { world, slack, integration }
        }

        fn new_rule(&self, events: &str, channel: &str) -> NewRule {
            NewRule {
                integration_id: self.integration,
                events: events.parse().unwrap(),
                channel: channel.parse().unwrap(),
                language: None,
                mention: true,
                enabled: true,
            }
        }

        /// A rule in whose channel more than one message a second is let through.
        async fn rule(&self, events: &str, channel: &str) -> NotificationRule {
            let mut tx = self.world.tenant().await;
            let made = create_rule(&mut tx, &self.new_rule(events, channel), "test", self.world.now()).await.unwrap();
            tx.commit().await.unwrap();
            let limit = RateLimit::new(format!("slack:{}:{channel}", self.integration), 10_000, Duration::from_secs(1));
            fix_rate_limit(&self.world.app.db, &limit).await.unwrap();
            made
        }

        async fn tell(&self, kind: &str, payload: Value) {
            self.tell_many(kind, payload, 1).await;
        }

        /// So many events in one statement.
        async fn tell_many(&self, kind: &str, payload: Value, count: usize) {
            let family = kind.split('.').next().unwrap();
            let event = |_| NewEvent {
                topic: format!("{family}:{}", Uuid::now_v7()),
                kind,
                payload: payload.clone(),
                actor: "test",
            };
            let told: Vec<NewEvent<'_>> = (0..count).map(event).collect();
            let mut tx = self.world.tenant().await;
            events::append_many(&mut tx, &told, self.world.now()).await.unwrap();
            tx.commit().await.unwrap();
        }

        async fn waiting(&self) -> Vec<JobRecord> {
            testing::enqueued::<PostMessage>(&self.world.app.db).await.unwrap()
        }

        async fn drain(&self) -> Vec<Outcome> {
            let World { app, registry, .. } = &self.world;
            let ran = testing::drain(&app.db, registry, app.clone(), PostMessage::QUEUE).await.unwrap();
            ran.into_iter().map(|(_, outcome)| outcome).collect()
        }

        /// What is waiting for its time runs now.
        async fn later(&self) -> Vec<Outcome> {
            let db = &self.world.app.db;
            sqlx::query("update queue.rate_limits set blocked_until = null").execute(db).await.unwrap();
            testing::fast_forward(db).await.unwrap();
            self.drain().await
        }

        fn said(&self, channel: &str) -> Vec<String> {
            self.slack.said(channel).into_iter().map(|said| said.text).collect()
        }

        async fn status(&self) -> IntegrationStatus {
            rows::by_id(&mut *self.world.tenant().await, self.integration).await.unwrap().unwrap().status
        }

        async fn reload(&self, rule: &NotificationRule) -> NotificationRule {
            notification_rules::by_id(&mut *self.world.tenant().await, rule.id).await.unwrap().unwrap()
        }

        async fn kinds(&self) -> Vec<String> {
            let mut tx = self.world.tenant().await;
            let page = events::page(&mut tx, None, crate::store::Page::first(100)).await.unwrap();
            page.into_iter().map(|event| event.kind).collect()
        }
    }

    fn completed(outcomes: &[Outcome]) -> bool {
        !outcomes.is_empty() && outcomes.iter().all(|outcome| matches!(outcome, Outcome::Completed { .. }))
    }

    /// EVT-3, SYNC-11: what the database enqueues is what the program would.
    #[tokio::test]
    async fn an_event_enqueues_its_message_in_its_own_transaction() {
        let office = Office::new().await;
        let rule = office.rule("invoice.*", GENERAL).await;
        let mut tx = office.world.tenant().await;
        let event =
            NewEvent { topic: "invoice:1".to_owned(), kind: "invoice.created", payload: json!({}), actor: "test" };
        events::append(&mut tx, &event, office.world.now()).await.unwrap();
        tx.rollback().await.unwrap();
        assert!(office.waiting().await.is_empty(), "of a transaction that never was");

        let mut tx = office.world.tenant().await;
        let event_id = events::append(&mut tx, &event, office.world.now()).await.unwrap();
        tx.commit().await.unwrap();

        let [job] = &office.waiting().await[..] else { panic!("one job") };
        let lane = format!("{}:{GENERAL}", office.integration);
        let expected = NewJob::of(&PostMessage { rule_id: rule.id, event_id, lane, others: 0 }).tenant("acme");
        let args: PostMessage = serde_json::from_value(job.args.clone()).unwrap();
        assert_eq!(serde_json::to_value(&args).unwrap(), expected.args);
        assert_eq!(
            (&job.queue, &job.kind, &job.tenant, job.priority, job.max_attempts, &job.rate_key),
            (
                &expected.queue,
                &expected.kind,
                &expected.tenant,
                expected.priority,
                expected.max_attempts,
                &expected.rate_key
            )
        );
        assert_eq!((job.id.get_version_num(), job.id.get_variant()), (7, uuid::Variant::RFC4122));
        let (seconds, _) = job.id.get_timestamp().unwrap().to_unix();
        assert!(job.created_at.timestamp().abs_diff(seconds.cast_signed()) <= 2, "{}", job.id);
        assert!(expected.unique.is_none());
    }

    /// EVT-3: also for the program itself, which appends to an organization's log without being its role.
    #[tokio::test]
    async fn only_events_that_a_rule_names_are_told_to_their_own_organization() {
        let office = Office::new().await;
        office.rule("asset.assigned", GENERAL).await;
        let off = office.rule("employee.*", GENERAL).await;
        let mut tx = office.world.tenant().await;
        let switched = NewRule { enabled: false, ..off.rule.clone() };
        change_rule(&mut tx, (off.id, &switched), "test", office.world.now()).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        for kind in ["asset.returned", "employee.created", "task.created", "assets.assigned"] {
            office.tell(kind, json!({})).await;
        }
        assert!(office.waiting().await.is_empty());

        office.tell("asset.assigned", json!({})).await;
        sqlx::query(
            "insert into org_acme.events (id, topic, kind, payload, actor, created_at)
             values (gen_random_uuid(), 'asset:1', 'asset.assigned', '{}', 'test', now())",
        )
        .execute(&office.world.app.db)
        .await
        .unwrap();
        let tenants: Vec<_> = office.waiting().await.into_iter().map(|job| job.tenant).collect();
        assert_eq!(tenants, [Some("acme".to_owned()), Some("acme".to_owned())]);
    }

    /// SYNC-11: a first sync does not flood a channel.
    #[tokio::test]
    async fn many_events_of_one_statement_are_one_message() {
        let office = Office::new().await;
        office.rule("asset.*", GENERAL).await;
        office.tell_many("asset.created", json!({}), 10).await;
        assert_eq!(office.waiting().await.len(), 10);
        assert!(completed(&office.drain().await));
        office.tell_many("asset.created", json!({}), 500).await;
        let [job] = &office.waiting().await[..] else { panic!("one job") };
        assert_eq!(job.args["others"], 499);
        assert!(completed(&office.drain().await));
        assert!(office.said(GENERAL)[10].ends_with("Och 499 till."), "{:?}", office.said(GENERAL));
    }

    /// SYNC-11
    #[tokio::test]
    async fn an_invoice_is_told_in_the_language_of_the_organization_or_of_the_rule() {
        let office = Office::new().await;
        office.rule("invoice.created", GENERAL).await;
        office.slack.channel("C0ENGLISH", Door::Open);
        let english = office.rule("invoice.created", "C0ENGLISH").await;
        let mut tx = office.world.tenant().await;
        let change = NewRule { language: Some(Language::En), ..english.rule.clone() };
        change_rule(&mut tx, (english.id, &change), "test", office.world.now()).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        office.world.invoice("F-1001 <!here>", "kund@example.se", 3).await;

        assert!(completed(&office.drain().await));

        let swedish = office.said(GENERAL)[0].replace('\u{a0}', " ");
        assert_eq!(swedish, "Det finns en ny faktura F-1001 &lt;!here&gt; till Kund &amp; Co (12 500,00 kr).");
        assert_eq!(
            office.said("C0ENGLISH"),
            ["There is a new invoice F-1001 &lt;!here&gt; to Kund &amp; Co (SEK 12,500.00)."]
        );
        assert_eq!(office.reload(&english).await.last_posted_at, Some(office.world.now()));
    }

    /// SYNC-11: by e-mail, asked once.
    #[tokio::test]
    async fn whom_it_concerns_is_mentioned() {
        let office = Office::new().await;
        office.slack.person("U0ANNA", "anna@example.se");
        office.rule("employee.*", GENERAL).await;
        for email in ["anna@example.se", "Anna@example.se", "bo@example.se", "bo@example.se"] {
            office.tell("employee.terminated", json!({ "email": email })).await;
        }
        assert!(completed(&office.drain().await));
        let said = office.said(GENERAL);
        assert_eq!(said[..2], ["<@U0ANNA> arbetar inte här längre.", "<@U0ANNA> arbetar inte här längre."]);
        assert_eq!(said[3], "bo@example.se arbetar inte här längre.");
        let look_ups =
            office.slack.fake.script.asked().iter().filter(|asked| asked.path.ends_with("lookupByEmail")).count();
        assert_eq!(look_ups, 2);

        // Whatever keeps Slack from telling who somebody is, keeps no message back.
        office.slack.allow(&["chat:write"]);
        office.tell("employee.terminated", json!({ "email": "cy@example.se" })).await;
        assert!(completed(&office.drain().await));
        assert_eq!(office.said(GENERAL)[4], "cy@example.se arbetar inte här längre.");
    }

    /// SYNC-11: events as their families append them; the person is found by who held the asset, and by whom the workflow is for.
    #[tokio::test]
    async fn assets_and_workflows_are_told_with_whom_they_concern() {
        use crate::{
            domain::{
                EmailAddress, NewAsset, NewEmployee,
                asset::{Custody, Step},
                employee::PersonName,
                workflow::WorkflowKind,
            },
            jobs::{assets::doors as assets, people::doors as people, workflows},
        };
        let office = Office::new().await;
        office.slack.person("U0ANNA", "anna@example.se");
        for events in ["asset.assigned", "asset.returned", "workflow.started"] {
            office.rule(events, GENERAL).await;
        }
        let (world, now) = (&office.world, office.world.now());
        let sealer = Sealer::new(&world.app.vault, "acme");
        let name = PersonName { first: "Planted".to_owned(), last: "Name".to_owned() };
        let work_email = Some(EmailAddress::parse("anna@example.se").unwrap());
        let new = NewEmployee { name, work_email, ..NewEmployee::default() };
        let mut tx = world.tenant().await;
        let asked = people::Asked { actor: "test", now, trace: None };
        let employee_id = people::create_employee(&mut tx, sealer, &new, &asked).await.unwrap().id;
        let asked = assets::Asked::by("test", now);
        let tag = Some("LT-42".parse().unwrap());
        let new = NewAsset { tag, name: "MacBook <Pro>".to_owned(), ..NewAsset::default() };
        let asset = assets::create_asset(&mut tx, sealer, (&new, Custody::default()), &asked).await.unwrap().id;
        for step in [Step::Assign { employee_id }, Step::Return { location_id: None, condition: None }] {
            assets::step(&mut tx, sealer, (asset, &step), (assets::Remark::default(), &asked)).await.unwrap().unwrap();
        }
        let onboarding = workflows::StartWorkflow {
            employee_id: Some(employee_id),
            title: Some("Första dagen & mer".to_owned()),
            due_on: Some(world.today()),
            ..workflows::StartWorkflow::of(WorkflowKind::Onboarding, &world.organization, world.today())
        };
        workflows::start(&mut tx, &onboarding, "test", now).await.unwrap();
        tx.commit().await.unwrap();

        assert!(completed(&office.drain().await));
        let mut said = office.said(GENERAL);
        said.sort();
        assert_eq!(
            said,
            [
                ":clipboard: *Första dagen &amp; mer* har startat för <@U0ANNA>, klart senast 2026-03-02.",
                ":package: *LT-42* (MacBook &lt;Pro&gt;) har lämnats tillbaka av <@U0ANNA>.",
                ":package: *LT-42* (MacBook &lt;Pro&gt;) har lämnats ut till <@U0ANNA>.",
            ]
        );
        let stored: String = sqlx::query_scalar("select string_agg(j::text, ' ') from queue.finished_jobs j")
            .fetch_one(&world.app.db)
            .await
            .unwrap();
        assert!(!stored.contains("Planted"), "names of people stay where they are: {stored}");
    }

    /// SYNC-11
    #[tokio::test]
    async fn a_rule_can_write_to_a_person() {
        let office = Office::new().await;
        office.slack.person("U0ANNA", "anna@example.se");
        office.rule("asset.*", "anna@example.se").await;
        let unknown = office.rule("asset.*", "nobody@example.se").await;
        office.tell("asset.assigned", json!({ "tag": "LT-1" })).await;
        let ran = office.drain().await;
        assert_eq!(ran.iter().filter(|outcome| matches!(outcome, Outcome::Completed { .. })).count(), 1, "{ran:?}");
        assert_eq!(office.said("D0ANNA"), [":package: *LT-1* har lämnats ut."]);
        assert!(office.reload(&unknown).await.error.unwrap().contains("nobody with this address"));
        let lanes = sqlx::query_scalar::<_, String>("select lane from org_acme.notification_rules")
            .fetch_all(&office.world.app.db);
        assert!(lanes.await.unwrap().iter().all(|lane| !lane.contains('@')), "addresses are no names of rate limits");
    }

    /// SYNC-11
    #[tokio::test]
    async fn the_same_job_twice_posts_one_message() {
        let office = Office::new().await;
        office.rule("asset.*", GENERAL).await;
        office.tell("asset.created", json!({ "tag": "LT-1" })).await;
        let waiting = office.waiting().await.remove(0);
        sqlx::query("delete from queue.jobs").execute(&office.world.app.db).await.unwrap();
        let job: PostMessage = serde_json::from_value(waiting.args).unwrap();
        let tables = ["org_acme.notification_rules", "org_acme.events"];
        let World { app, registry, .. } = &office.world;
        let [once, twice] =
            testing::run_twice(&app.db, registry, app.clone(), office.world.job(&job), &tables).await.unwrap();
        assert!(completed(&[once.0, twice.0]));
        assert_eq!(once.1, twice.1);
        assert_eq!(office.said(GENERAL).len(), 1);
    }

    /// SYNC-11: Slack took it and its answer was lost; or it failed before. Either way there is one message.
    #[tokio::test]
    async fn a_message_whose_outcome_nobody_knows_is_looked_for_before_it_is_posted_again() {
        let office = Office::new().await;
        office.rule("asset.*", GENERAL).await;
        for (n, mood) in
            [Mood::BreaksOff, Mood::Truncated, Mood::bad_gateway(), Mood::Answers(500, Vec::new(), String::new())]
                .into_iter()
                .enumerate()
        {
            office.slack.fake.script.next("chat.postMessage", mood.clone());
            office.tell("asset.created", json!({ "tag": format!("LT-{n}") })).await;
            let ran = office.drain().await;
            assert!(matches!(ran[..], [Outcome::Retryable { .. }]), "{mood:?}: {ran:?}");
            assert!(completed(&office.later().await), "{mood:?}");
            assert_eq!(office.said(GENERAL).len(), n + 1, "{mood:?}");
        }
        let looked = office.slack.fake.script.asked();
        assert_eq!(looked.iter().filter(|asked| asked.path.ends_with("conversations.history")).count(), 4);

        // Who may not look posts again.
        office.slack.allow(&["chat:write"]);
        office.slack.fake.script.next("chat.postMessage", Mood::BreaksOff);
        office.tell("asset.created", json!({})).await;
        office.drain().await;
        assert!(completed(&office.later().await));
        assert_eq!(office.said(GENERAL).len(), 6);
    }

    /// SYNC-11, SYNC-13: the place waits, and no attempt is burnt.
    #[tokio::test]
    async fn a_limit_holds_the_place_back_and_burns_no_attempt() {
        let office = Office::new().await;
        office.rule("asset.*", GENERAL).await;
        office.slack.fake.script.next("chat.postMessage", Mood::busy(429, Some(Duration::from_secs(30)), "{}"));
        office.tell("asset.created", json!({})).await;
        let ran = office.drain().await;
        assert!(matches!(ran[..], [Outcome::Snoozed { wait }] if wait.as_secs() == 30), "{ran:?}");
        let [job] = &office.waiting().await[..] else { panic!("one job") };
        let limit =
            backroom_queue::rate_limit(&office.world.app.db, job.rate_key.as_deref().unwrap()).await.unwrap().unwrap();
        assert!(limit.blocked_until.is_some());
        assert_eq!(job.attempt, 0);
        assert!(completed(&office.later().await));
        assert_eq!(office.said(GENERAL).len(), 1);
    }

    /// SYNC-11: one message a second per channel, as far as both sides' clocks agree.
    #[tokio::test]
    async fn a_channel_is_given_a_message_a_second() {
        let office = Office::new().await;
        let rule = office.rule("asset.*", GENERAL).await;
        let lane = format!("slack:{}:{GENERAL}", office.integration);
        forget_rate_limit(&office.world.app.db, &lane).await.unwrap();
        office.tell_many("asset.created", json!({}), 3).await;
        office.drain().await;
        let stamps: Vec<f64> = office.slack.said(GENERAL).iter().map(|said| said.ts.parse().unwrap()).collect();
        assert_eq!(stamps.len(), 3);
        assert!(stamps[2] - stamps[0] > 1.7, "{stamps:?}");
        assert!(office.reload(&rule).await.error.is_none());
    }

    /// SYNC-6, SYNC-13
    #[tokio::test]
    async fn a_dead_token_parks_the_messages_until_there_is_a_new_one() {
        let office = Office::new().await;
        office.rule("asset.*", GENERAL).await;
        office.slack.revoke(Some("token_revoked"));
        office.tell_many("asset.created", json!({}), 2).await;
        let ran = office.drain().await;
        assert!(ran.iter().all(|outcome| matches!(outcome, Outcome::Snoozed { .. })) && ran.len() == 2, "{ran:?}");
        assert_eq!(office.status().await, IntegrationStatus::NeedsAttention);
        assert_eq!(office.kinds().await.iter().filter(|kind| *kind == "integration.needs_attention").count(), 1);
        let asked = office.slack.fake.script.asked().len();
        office.later().await;
        assert_eq!(office.slack.fake.script.asked().len(), asked, "nobody asks with a dead token");

        office.slack.revoke(None);
        let (sealer, change) = (Sealer::new(&office.world.app.vault, "acme"), IntegrationChange::default());
        let credentials = office.slack.credentials().to_string().into();
        let mut tx = office.world.tenant().await;
        let stored = (&change, Some(&credentials), crate::store::integrations::Tokens::End);
        let when = ("test", office.world.now());
        integrations::change_integration(&mut tx, sealer, office.integration, stored, when).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        assert!(completed(&office.later().await));
        assert_eq!(office.said(GENERAL).len(), 2);
    }

    /// SYNC-13
    #[tokio::test]
    async fn what_has_waited_for_a_day_is_no_news() {
        let office = Office::new().await;
        office.rule("asset.*", GENERAL).await;
        office.slack.revoke(Some("account_inactive"));
        office.tell("asset.created", json!({})).await;
        office.drain().await;
        office.world.app.clock.advance(TimeDelta::hours(25));
        let ran = office.later().await;
        assert!(matches!(&ran[..], [Outcome::Cancelled { reason }] if reason.contains("no news")), "{ran:?}");
    }

    /// SYNC-11: the rule stops with a sentence, others tell of it, and a change begins anew.
    #[tokio::test]
    async fn a_channel_that_takes_nothing_stops_its_rule_and_no_other() {
        for (door, word) in [
            (Door::Archived, "is_archived"),
            (Door::NotInvited, "not_in_channel"),
            (Door::Restricted, "restricted_action"),
        ] {
            let office = Office::new().await;
            office.slack.channel("C0LAGER", door);
            let stopped = office.rule("asset.*", "C0LAGER").await;
            office.rule("integration.*", GENERAL).await;
            office.tell("asset.created", json!({})).await;
            office.tell("asset.created", json!({})).await;
            let ran = office.drain().await;
            assert!(matches!(&ran[0], Outcome::Discarded { reason, .. } if reason.contains(word)), "{ran:?}");
            assert!(matches!(&ran[1], Outcome::Cancelled { reason } if reason.contains("has stopped")), "{ran:?}");
            let rule = office.reload(&stopped).await;
            assert!(rule.error.unwrap().contains(word));
            assert!(office.said(GENERAL)[0].contains("C0LAGER"), "{:?}", office.said(GENERAL));
            assert_eq!(office.status().await, IntegrationStatus::New, "the integration works");
            office.tell("asset.created", json!({})).await;
            assert!(office.waiting().await.is_empty());

            office.slack.channel("C0LAGER", Door::Open);
            let mut tx = office.world.tenant().await;
            change_rule(&mut tx, (stopped.id, &stopped.rule), "test", office.world.now()).await.unwrap().unwrap();
            tx.commit().await.unwrap();
            office.tell("asset.created", json!({})).await;
            assert!(completed(&office.drain().await));
            assert_eq!(office.said("C0LAGER").len(), 1);
        }
    }

    /// SYNC-11
    #[tokio::test]
    async fn what_slack_calls_malformed_is_given_up_at_once() {
        let office = Office::new().await;
        office.rule("asset.*", GENERAL).await;
        let body = json!({"ok": false, "error": "invalid_blocks"}).to_string();
        office.slack.fake.script.next("chat.postMessage", Mood::Answers(200, Vec::new(), body));
        office.tell("asset.created", json!({})).await;
        let ran = office.drain().await;
        assert!(
            matches!(&ran[..], [Outcome::Discarded { reason, .. }] if reason.contains("invalid_blocks")),
            "{ran:?}"
        );
    }

    /// SYNC-11: from a job that was given up to the message.
    #[tokio::test]
    async fn a_dead_letter_is_told_in_slack() {
        use crate::jobs::{debug, platform::TellDeadLetters};
        let office = Office::new().await;
        office.rule("job.discarded", GENERAL).await;
        let World { app, registry, .. } = &office.world;
        let failing = NewJob { max_attempts: 1, ..office.world.job(&debug::Fail { times: 9 }) };
        backroom_queue::enqueue(&app.db, &failing).await.unwrap();
        testing::drain(&app.db, registry, app.clone(), &failing.queue).await.unwrap();
        let look = NewJob::of(&TellDeadLetters {});
        backroom_queue::run_inline(&app.db, registry, app.clone(), look, |_, _| {}).await.unwrap();

        assert!(completed(&office.drain().await));
        let said = office.said(GENERAL);
        assert!(
            said.len() == 1 && said[0].contains("debug.fail") && said[0].contains(&failing.id.to_string()),
            "{said:?}"
        );
    }

    #[test]
    fn the_wire_format_is_stable() {
        let job = PostMessage { rule_id: Uuid::nil(), event_id: Uuid::nil(), lane: "i:C1".to_owned(), others: 0 };
        insta::assert_json_snapshot!(job, @r#"
        {
          "rule_id": "00000000-0000-0000-0000-000000000000",
          "event_id": "00000000-0000-0000-0000-000000000000",
          "lane": "i:C1",
          "others": 0
        }
        "#);
        let written = json!({"rule_id": Uuid::nil(), "event_id": Uuid::nil(), "lane": "i:C1"});
        assert_eq!(serde_json::from_value::<PostMessage>(written).unwrap().others, 0);
    }
}
