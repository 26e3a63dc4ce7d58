//! Changes to the rules, each with its event (EVT-1). The caller opens the transaction as the organization, and commits.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    domain::{NewRule, NotificationRule},
    store::{
        StoreError,
        events::{self, NewEvent},
        notification_rules,
    },
};

/// EVT-3. A rule of an integration that is no Slack is a conflict on `integration_id`.
pub async fn create_rule(
    db: &mut PgConnection,
    new: &NewRule,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<NotificationRule, StoreError> {
    let rule = notification_rules::insert(db, new, now).await?;
    tell(db, &rule, "notification_rule.created", (actor, now)).await?;
    Ok(rule)
}

/// EVT-3. A rule that had stopped because of its channel is tried again. `None` if there is no such rule.
pub async fn change_rule(
    db: &mut PgConnection,
    (id, change): (Uuid, &NewRule),
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Option<NotificationRule>, StoreError> {
    let Some(rule) = notification_rules::update(db, id, change, now).await? else { return Ok(None) };
    tell(db, &rule, "notification_rule.changed", (actor, now)).await?;
    Ok(Some(rule))
}

/// EVT-3. Messages that are waiting are not posted any more. False if there is no such rule.
pub async fn remove_rule(db: &mut PgConnection, id: Uuid, actor: &str, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let Some(rule) = notification_rules::by_id(db, id).await? else { return Ok(false) };
    let removed = notification_rules::delete(db, id).await?;
    if removed {
        tell(db, &rule, "notification_rule.removed", (actor, now)).await?;
    }
    Ok(removed)
}

/// SYNC-11: Slack takes nothing in the rule's channel. Nothing is posted for the rule before somebody changes it, and other rules may tell
/// of it. Whether it had not stopped already.
pub(super) async fn stop_rule(
    db: &mut PgConnection,
    (rule, reason): (&NotificationRule, &str),
    actor: &str,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    if !notification_rules::mark_failed(db, rule, reason, now).await? {
        return Ok(false);
    }
    let integration_id = rule.rule.integration_id;
    let payload = json!({
        "integration_id": integration_id, "rule_id": rule.id, "events": rule.rule.events, "channel": rule.rule.channel, "reason": reason,
    });
    let (topic, kind) = (format!("integration:{integration_id}"), "integration.rule_stopped");
    events::append(db, &NewEvent { topic, kind, payload, actor }, now).await?;
    Ok(true)
}

async fn tell(
    db: &mut PgConnection,
    rule: &NotificationRule,
    kind: &str,
    (actor, now): (&str, DateTime<Utc>),
) -> Result<(), StoreError> {
    let NewRule { integration_id, events: about, channel, enabled, .. } = &rule.rule;
    let payload = json!({
        "rule_id": rule.id, "integration_id": integration_id, "events": about, "channel": channel, "enabled": enabled,
    });
    let topic = format!("notification_rule:{}", rule.id);
    events::append(db, &NewEvent { topic, kind, payload, actor }, now).await?;
    Ok(())
}
