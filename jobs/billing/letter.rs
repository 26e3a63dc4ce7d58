//! What a letter needs that must not be sent twice: a claim, one hand-over, a record.

use std::time::Duration;

use anyhow::anyhow;
use backroom_queue::{Ctx, RetryAfter};
use uuid::Uuid;

use crate::{
    context::App,
    domain::Organization,
    mail::{OutgoingMail, SendError},
    store::deliveries::{self, Claimant},
    tenant,
};

/// The claim of this job. Other jobs leave the message alone for longer than handing it over may take: five timeouts
/// (connecting, addresses, and three for the message), and some for the two transactions.
pub fn claimant(ctx: &Ctx<App>) -> Claimant {
    let now = ctx.app.clock.now();
    let patience = ctx.app.config.mail.timeout_s.saturating_mul(5).saturating_add(10);
    Claimant { job_id: ctx.job.id, now, until: now + chrono::Duration::seconds(patience.cast_signed()) }
}

/// How handing over ended.
pub enum Handed {
    /// The server took it, with these words. Nothing is recorded yet.
    Taken { response: String },
    /// The server refused it for good, with these words. Recorded (MAIL-3).
    Refused { words: String },
}

/// Sends a claimed message. A failure that may pass gives the claim back and is an error, so that the job is retried;
/// if the server named a time, at that time.
pub async fn hand_over(
    ctx: &Ctx<App>,
    organization: &Organization,
    delivery: Uuid,
    mail: &OutgoingMail,
) -> anyhow::Result<Handed> {
    let error = match ctx.app.mailer.send(mail).await {
        Ok(accepted) => return Ok(Handed::Taken { response: accepted.response }),
        Err(error) => error,
    };
    let mut tx = tenant::begin(&ctx.app.db, organization).await?;
    let handed = match error {
        SendError::Permanent { code, message } => {
            let words = format!("{code} {message}");
            deliveries::mark_rejected(&mut tx, delivery, ctx.job.id, &words).await?;
            Ok(Handed::Refused { words })
        }
        SendError::Transient { ref message, retry_after } => {
            deliveries::release(&mut tx, delivery, ctx.job.id, message).await?;
            Err(match retry_after {
                Some(after) => RetryAfter { after, source: Some(error.into()) }.into(),
                None => error.into(),
            })
        }
    };
    tx.commit().await?;
    handed
}

/// Records what happened outside, again and again through a database restart or a cut connection: giving up here would
/// send the message a second time.
pub async fn insist<F, T>(ctx: &Ctx<App>, record: impl Fn() -> F + Send) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>> + Send,
{
    let mut pause = Duration::from_millis(50);
    let mut waited = Duration::ZERO;
    loop {
        let error = match record().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        // Somebody else holds the job once its lease is lost, and decides by what is recorded.
        if waited > Duration::from_secs(60) || ctx.cancelled().is_cancelled() {
            return Err(error.context(anyhow!("the message was sent, but could not be recorded as sent")));
        }
        tracing::warn!(error = format!("{error:#}"), "could not record a sent message; trying again");
        tokio::time::sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}
