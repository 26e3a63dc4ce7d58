//! Gives a conversation a title of at most six words, in its own language. Enqueued by every message after the first exchange while
//! there is no title. Twice is fine: the title is written by one guarded statement, over nothing that anybody has called it.
//!
//! A model is asked if one is configured. Whatever keeps it from answering, the conversation's own keywords make the title, so
//! nobody waits for a name longer than `llm.patience_s`.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Unique, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    ask::{Answer, Asked, Exchange},
    doors::tell_of_title,
};
use crate::{
    clients::llm::TokenUsage,
    context::App,
    domain::{Organization, conversation::FIRST_EXCHANGE, limits, naming},
    jobs::{actor, organization},
    store::{Page, conversations, usage},
    tenant::{self, TenantTx},
};

/// As many messages as a name is made of.
const READ: i64 = 6;

/// Names a conversation after its first exchange.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NameConversation {
    pub conversation_id: Uuid,
}

impl Job for NameConversation {
    type App = App;
    const KIND: &'static str = "conversations.name";
    const QUEUE: &'static str = "integrations";
    /// The last one asks no model.
    const MAX_ATTEMPTS: u32 = 4;
    const TIMEOUT: Duration = Duration::from_secs(180);

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_secs(5), Duration::from_secs(60))
    }

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by(self.conversation_id))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let exchange = match self.read(&ctx, &organization).await? {
            Read::Exchange(exchange) => exchange,
            Read::Needless(reason) => return Ok(Verdict::Cancel(reason.to_owned())),
        };
        let answer = match exchange.ask(&ctx, &organization).await? {
            Asked::Answered(answer) => answer,
            Asked::Later(wait) => return Ok(Verdict::Snooze(wait)),
        };
        self.store(&ctx, &organization, &exchange, &answer).await
    }

    /// Its workers were lost while they ran it: the keywords are left, and ask nobody.
    async fn discarded(self, ctx: Ctx<App>, _reason: String) -> anyhow::Result<()> {
        let organization = organization(&ctx).await?;
        if let Read::Exchange(exchange) = self.read(&ctx, &organization).await? {
            self.store(&ctx, &organization, &exchange, &Answer::default()).await?;
        }
        Ok(())
    }
}

/// What there is to be named.
enum Read {
    Exchange(Exchange),
    /// There is no name to be given, and why.
    Needless(&'static str),
}

impl NameConversation {
    async fn read(&self, ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<Read> {
        let mut tx = tenant::begin(&ctx.app.db, organization).await?;
        let Some(conversation) = conversations::by_id(&mut tx, self.conversation_id).await? else {
            return Ok(Read::Needless("the conversation does not exist"));
        };
        if conversation.title.is_some() {
            return Ok(Read::Needless("the conversation has a title"));
        }
        let messages = conversations::messages(&mut tx, self.conversation_id, Page::first(READ)).await?;
        tx.commit().await?;
        let Some(last) = messages.get(FIRST_EXCHANGE as usize - 1) else {
            return Ok(Read::Needless("the first exchange is not over"));
        };
        let since = last.created_at;
        let messages = messages.into_iter().map(|message| message.body).collect();
        Ok(Read::Exchange(Exchange { conversation, messages, since }))
    }

    /// Title, event and cost in one transaction.
    async fn store(
        &self,
        ctx: &Ctx<App>,
        organization: &Organization,
        exchange: &Exchange,
        answer: &Answer,
    ) -> JobResult {
        let now = ctx.app.clock.now();
        let words = exchange.messages.iter().map(String::as_str);
        let title = answer.title.clone().unwrap_or_else(|| naming::by_keywords(words, organization.locale));
        let mut tx = ctx.app.db.begin().await?;
        if let Some((_, TokenUsage { input, output })) = &answer.by {
            let month = limits::month_of(now, organization.time_zone);
            usage::record_tokens(&mut tx, organization.id, month, Self::KIND, input.saturating_add(*output)).await?;
        }
        let mut tx = TenantTx::enter(tx, organization).await?;
        let stored = conversations::name(&mut tx, self.conversation_id, &title, now).await?;
        if stored {
            let place = (exchange.conversation.workspace_id, self.conversation_id);
            tell_of_title(&mut tx, place, (&title, "conversation.named"), &actor(ctx), now).await?;
        }
        tx.commit().await?;
        Verdict::done_with(answer.told(stored))
    }
}

#[cfg(test)]
mod tests;
