//! What the tests of Slack's messages do again and again.

use std::time::Duration;

use backroom_queue::{Job, JobRecord, Outcome, RateLimit, fix_rate_limit, testing};
use serde_json::Value;
use uuid::Uuid;

use super::{PostMessage, create_rule};
use crate::{
    demo::vendors::slack as fake,
    domain::{
        NewRule, NotificationRule,
        integration::{IntegrationStatus, NewIntegration, Provider},
    },
    jobs::{integrations, testing::World},
    store::{
        Page, Sealer,
        events::{self, NewEvent},
        integrations as rows, notification_rules,
    },
};

pub const GENERAL: &str = "C0ALLMANT";

/// A world with a connected Slack.
pub struct Office {
    pub world: World,
    pub slack: fake::Slack,
    pub integration: Uuid,
}

impl Office {
    pub async fn new() -> Self {
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
        let made = integrations::create_integration(&mut tx, sealer, (&new, &credentials), "test", world.now()).await;
        let integration = made.unwrap().id;
        tx.commit().await.unwrap();
        Self { world, slack, integration }
    }

    pub fn new_rule(&self, events: &str, channel: &str) -> NewRule {
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
    pub async fn rule(&self, events: &str, channel: &str) -> NotificationRule {
        let mut tx = self.world.tenant().await;
        let made = create_rule(&mut tx, &self.new_rule(events, channel), "test", self.world.now()).await.unwrap();
        tx.commit().await.unwrap();
        let limit = RateLimit::new(format!("slack:{}:{channel}", self.integration), 10_000, Duration::from_secs(1));
        fix_rate_limit(&self.world.app.db, &limit).await.unwrap();
        made
    }

    pub async fn tell(&self, kind: &str, payload: Value) {
        self.tell_many(kind, payload, 1).await;
    }

    /// So many events in one statement.
    pub async fn tell_many(&self, kind: &str, payload: Value, count: usize) {
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

    pub async fn waiting(&self) -> Vec<JobRecord> {
        testing::enqueued::<PostMessage>(&self.world.app.db).await.unwrap()
    }

    pub async fn drain(&self) -> Vec<Outcome> {
        let World { app, registry, .. } = &self.world;
        let ran = testing::drain(&app.db, registry, app.clone(), PostMessage::QUEUE).await.unwrap();
        ran.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// What is waiting for its time runs now.
    pub async fn later(&self) -> Vec<Outcome> {
        let db = &self.world.app.db;
        sqlx::query("update queue.rate_limits set blocked_until = null").execute(db).await.unwrap();
        testing::fast_forward(db).await.unwrap();
        self.drain().await
    }

    pub fn said(&self, channel: &str) -> Vec<String> {
        self.slack.said(channel).into_iter().map(|said| said.text).collect()
    }

    pub async fn status(&self) -> IntegrationStatus {
        rows::by_id(&mut *self.world.tenant().await, self.integration).await.unwrap().unwrap().status
    }

    pub async fn reload(&self, rule: &NotificationRule) -> NotificationRule {
        notification_rules::by_id(&mut *self.world.tenant().await, rule.id).await.unwrap().unwrap()
    }

    pub async fn kinds(&self) -> Vec<String> {
        let mut tx = self.world.tenant().await;
        let page = events::page(&mut tx, None, Page::first(100)).await.unwrap();
        page.into_iter().map(|event| event.kind).collect()
    }
}
