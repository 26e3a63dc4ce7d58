//! What the tests of naming do again and again.

use backroom_queue::{Outcome, testing};
use chrono::NaiveDate;
use serde_json::Value;
use uuid::Uuid;

use super::{self as doors, NameConversation};
use crate::{
    clients::llm::fake::{Dialect, FakeModels, KEY},
    domain::{MessageText, TitleSource, WorkspaceName},
    jobs::testing::World,
    store::{conversations, usage, workspaces},
};

/// Two people in a workspace, and perhaps a model.
pub struct Office {
    pub world: World,
    pub models: FakeModels,
    pub dialect: Dialect,
    pub workspace: Uuid,
    pub people: [Uuid; 2],
}

impl Office {
    /// With keywords only.
    pub async fn offline() -> Self {
        let world = World::new().await;
        Self::furnish(world, FakeModels::start().await, Dialect::OpenAi).await
    }

    pub async fn asking(dialect: Dialect) -> Self {
        Self::with(dialect, &[("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1")]).await
    }

    pub async fn with(dialect: Dialect, settings: &[(&str, &str)]) -> Self {
        let models = FakeModels::start().await;
        let base_url = models.base_url(dialect);
        let provider = match dialect {
            Dialect::OpenAi => "openai",
            Dialect::Anthropic => "anthropic",
        };
        let model = [
            ("BACKROOM__LLM__PROVIDER", provider),
            ("BACKROOM__LLM__BASE_URL", &base_url),
            ("BACKROOM__LLM__MODEL", "small-model"),
            ("BACKROOM__LLM__API_KEY", KEY),
        ];
        let world = World::with(&model.into_iter().chain(settings.iter().copied()).collect::<Vec<_>>()).await;
        Self::furnish(world, models, dialect).await
    }

    pub async fn furnish(world: World, models: FakeModels, dialect: Dialect) -> Self {
        let people = [Uuid::now_v7(), Uuid::now_v7()];
        let name = WorkspaceName::parse("Kontoret").unwrap();
        let mut tx = world.tenant().await;
        let workspace = workspaces::insert(&mut tx, &name, people[0], world.now()).await.unwrap().id;
        workspaces::add_member(&mut tx, (workspace, people[1]), world.now()).await.unwrap();
        tx.commit().await.unwrap();
        Self { world, models, dialect, workspace, people }
    }

    /// A conversation of these messages, by one and the other.
    pub async fn talk(&self, messages: &[&str]) -> NameConversation {
        let mut tx = self.world.tenant().await;
        let place = (&self.world.organization.slug, self.workspace);
        let start = doors::Start::default();
        let now = (self.world.now(), None);
        let id = doors::start_conversation(&mut tx, place, &start, self.people[0], now).await.unwrap().id;
        tx.commit().await.unwrap();
        for (message, author) in messages.iter().zip(self.people.iter().cycle()) {
            self.say(id, *author, message).await;
        }
        NameConversation { conversation_id: id }
    }

    pub async fn say(&self, conversation: Uuid, author: Uuid, message: &str) {
        let mut tx = self.world.tenant().await;
        let body = MessageText::parse(message).unwrap();
        let slug = &self.world.organization.slug;
        let posted = doors::post_message(&mut tx, slug, (conversation, author), &body, (self.world.now(), None)).await;
        assert!(posted.unwrap().is_some());
        tx.commit().await.unwrap();
    }

    pub async fn title(&self, job: &NameConversation) -> (Option<String>, TitleSource) {
        let mut tx = self.world.tenant().await;
        let conversation = conversations::by_id(&mut tx, job.conversation_id).await.unwrap().unwrap();
        (conversation.title, conversation.title_source)
    }

    /// One attempt, in the place of the job that a message enqueued.
    pub async fn run(&self, job: &NameConversation) -> Outcome {
        let db = &self.world.app.db;
        let args = serde_json::to_value(job).unwrap();
        for waiting in testing::enqueued::<NameConversation>(db).await.unwrap() {
            if waiting.args == args {
                let mut db = db.acquire().await.unwrap();
                backroom_queue::cancel(&mut db, waiting.id, None, "run by the test").await.unwrap();
            }
        }
        self.world.run(job).await
    }

    /// The job's result; it must have completed.
    pub async fn named(&self, job: &NameConversation) -> Value {
        match self.run(job).await {
            Outcome::Completed { result: Some(result) } => result,
            other => panic!("{:?}: {other:?}", self.dialect),
        }
    }

    /// Tokens of March 2026.
    pub async fn tokens(&self) -> u64 {
        let month = NaiveDate::from_ymd_opt(2026, 3, 1).unwrap();
        let mut db = self.world.app.db.acquire().await.unwrap();
        let used = usage::tokens_by_kind(&mut db, self.world.organization.id, month).await.unwrap();
        assert!(used.iter().all(|(kind, _)| kind == "conversations.name"), "{used:?}");
        used.into_iter().map(|(_, tokens)| tokens).sum()
    }

    /// The provider's rate limit as it stands.
    pub async fn shut(&self) -> bool {
        let key = self.world.app.llm.as_ref().unwrap().name().to_owned();
        let rate = backroom_queue::rate_limit(&self.world.app.db, &key).await.unwrap();
        rate.is_some_and(|rate| rate.blocked_until.is_some())
    }
}
