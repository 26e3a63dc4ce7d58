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
mod tests;
