//! The way back in for who has forgotten their password (AUTH-5). Anybody asks, the address's owner gets a mail; setting the password is a
//! page: [`super::password_reset_page`].

use axum::{Json, extract::State, http::StatusCode};
use backroom_queue::{NewJob, enqueue};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiState, edge::Trace, extract::Posted, network::Network, openapi::Problems, problem::Problem};
use crate::{
    domain::{EmailAddress, FieldErrors, Slug},
    jobs::platform::StartPasswordReset,
};

pub fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(ask))
}

/// Somebody who has forgotten their password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordResetRequest {
    #[schema(format = Email, max_length = 255, example = "anna@acme.example")]
    email: String,
    /// Slug of the organization that the mail shall come from, of those the person belongs to. The one they have belonged to for longest if
    /// it is left out.
    #[schema(example = "acme")]
    organization: Option<String>,
}

/// What everybody hears who asks.
#[derive(Serialize, ToSchema)]
struct PasswordResetReceived {
    /// For people.
    message: &'static str,
}

/// Has who has forgotten their password mailed a link to set another. Open to everybody.
///
/// The link is good for an hour and once; a newer one takes its place. The answer is the same, after the same work, whether or not the
/// address is anybody's or was sent enough mails within the hour. Takes no Idempotency-Key: who asks twice uses the latest mail.
#[utoipa::path(
    post, path = "/password-resets", tag = "people", operation_id = "request_password_reset", security(()),
    request_body = PasswordResetRequest,
    responses((status = 202, description = "Received", body = PasswordResetReceived), Problems)
)]
async fn ask(
    State(state): State<ApiState>,
    network: Network,
    Trace(trace): Trace,
    posted: Posted<PasswordResetRequest>,
) -> Result<(StatusCode, Json<PasswordResetReceived>), Problem> {
    if posted.idempotency.is_some() {
        let message = "is not taken here; who asks twice uses the latest mail";
        return Err(Problem::field("Idempotency-Key", "invalid", message));
    }
    state.strangers.take(&network)?;
    let mut errors = FieldErrors::default();
    let email = errors.check("email", EmailAddress::parse(&posted.body.email));
    let named = posted.body.organization.as_deref().map(Slug::parse).transpose();
    let (Some(email), Some(organization)) = (email, errors.check("organization", named)) else {
        return Err(errors.into());
    };
    state.join_requests.take(&network)?;
    // Whose address it is, a job looks: the answer neither tells nor waits.
    let job = NewJob::of(&StartPasswordReset { email, organization }).trace(Some(trace));
    enqueue(&state.app.db, &state.registry.seal(job).map_err(Problem::internal)?).await?;
    let message = "If the address is a member's, a mail with a link is on its way. Open it within an hour.";
    Ok((StatusCode::ACCEPTED, Json(PasswordResetReceived { message })))
}
