//! What the link does that is mailed to who has forgotten their password.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use crate::{
    context::App,
    domain::{Language, LinkToken, Organization, PasswordHash, User},
    store::{
        StoreError,
        events::{self, NewEvent},
        organizations,
        password_resets::{self, PasswordReset},
        users,
    },
    tenant::{self, TenantTx},
};

/// Why a link sets no password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetShut {
    /// There never was such a token, or a newer one has replaced it.
    Unknown,
    Used,
    Expired,
}

/// What a look at a link shows.
#[derive(Clone, Debug)]
pub enum Reset {
    /// Whose password it sets, or has set just now, and in whose name it was mailed.
    Open { organization: Box<Organization>, user: Box<User> },
    /// With the organization's name and the person's language, where the token is known.
    Shut(ResetShut, Option<(String, Language)>),
}

/// Looks at a link; changes nothing.
pub async fn open_reset(db: &PgPool, token: &LinkToken, now: DateTime<Utc>) -> Result<Reset, StoreError> {
    let mut db = db.acquire().await?;
    let found = password_resets::by_token(&mut db, &token.hash()).await?;
    let Some(reset) = found else { return Ok(Reset::Shut(ResetShut::Unknown, None)) };
    let Some((organization, user)) = about(&mut db, &reset).await? else {
        return Ok(Reset::Shut(ResetShut::Unknown, None));
    };
    let known = Some((organization.name.clone(), user.language));
    Ok(match reset {
        PasswordReset { used_at: Some(_), .. } => Reset::Shut(ResetShut::Used, known),
        PasswordReset { expires_at, .. } if expires_at <= now => Reset::Shut(ResetShut::Expired, known),
        _ => Reset::Open { organization: Box::new(organization), user: Box::new(user) },
    })
}

async fn about(db: &mut PgConnection, reset: &PasswordReset) -> Result<Option<(Organization, User)>, StoreError> {
    let organization = organizations::by_id(db, reset.organization_id).await?;
    Ok(organization.zip(users::by_id(db, reset.user_id).await?))
}

/// Sets the password, once: the address is proved, and every session of the person ends.
pub async fn reset_password(app: &App, token: &LinkToken, password: &PasswordHash) -> Result<Reset, StoreError> {
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let used = match password_resets::use_up(&mut tx, &token.hash(), now).await? {
        Some(reset) => about(&mut tx, &reset).await?,
        None => None,
    };
    let Some((organization, user)) = used else {
        drop(tx);
        return Ok(match open_reset(&app.db, token, now).await? {
            // It came in between: it is no longer what the form was for.
            Reset::Open { .. } => Reset::Shut(ResetShut::Unknown, None),
            shut @ Reset::Shut(..) => shut,
        });
    };
    tenant::reset_password(&mut tx, user.id, password, now).await?;
    let mut tx = TenantTx::enter(tx, &organization).await?;
    let event = NewEvent {
        topic: format!("member:{}", user.id),
        kind: "member.password_reset",
        payload: json!({}),
        actor: &format!("user:{}", user.id),
    };
    events::append(&mut tx, &event, now).await?;
    tx.commit().await?;
    Ok(Reset::Open { organization: Box::new(organization), user: Box::new(user) })
}
