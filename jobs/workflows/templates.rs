//! What happens to an organization's own templates, each with its event (EVT-1). The caller opens the transaction as the organization and
//! commits.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Asked;
use crate::{
    domain::{
        Limits,
        workflow::{NewTemplate, Template},
    },
    store::{
        StoreError,
        events::{self, NewEvent},
        workflow_templates,
    },
};

async fn tell_of_template(
    db: &mut PgConnection,
    template: &Template,
    kind: &str,
    asked: &Asked<'_>,
) -> Result<(), StoreError> {
    let payload = json!({
        "kind": template.kind, "name": template.name, "steps": template.steps.len(), "is_default": template.is_default,
    });
    let topic = format!("workflow_template:{}", template.id);
    events::append(db, &NewEvent { topic, kind, payload, actor: asked.actor }, asked.now).await?;
    Ok(())
}

/// ASSET-5, TEN-4
///
/// # Errors
/// [`StoreError::Limit`] if the tier allows no more.
pub async fn create_template(
    db: &mut PgConnection,
    new: &NewTemplate,
    limits: Limits,
    asked: &Asked<'_>,
) -> Result<Template, StoreError> {
    let template = workflow_templates::insert(db, new, limits, asked.now).await?;
    tell_of_template(db, &template, "workflow_template.created", asked).await?;
    Ok(template)
}

/// `None` if there is no such template.
pub async fn change_template(
    db: &mut PgConnection,
    (id, change): (Uuid, &NewTemplate),
    asked: &Asked<'_>,
) -> Result<Option<Template>, StoreError> {
    let Some(template) = workflow_templates::update(db, id, change, asked.now).await? else { return Ok(None) };
    tell_of_template(db, &template, "workflow_template.changed", asked).await?;
    Ok(Some(template))
}

/// False if there is no such template. What was started from it goes on.
pub async fn remove_template(db: &mut PgConnection, id: Uuid, asked: &Asked<'_>) -> Result<bool, StoreError> {
    let Some(template) = workflow_templates::by_id(db, id).await? else { return Ok(false) };
    if !workflow_templates::delete(db, id).await? {
        return Ok(false);
    }
    tell_of_template(db, &template, "workflow_template.removed", asked).await?;
    Ok(true)
}
