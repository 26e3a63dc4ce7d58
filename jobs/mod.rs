//! What the product does in the background: one file per job, a folder per family, the file's name is the kind.

use std::sync::Arc;

use backroom_queue::{Ctx, Job, Registry, registry};

use crate::{
    config::Config,
    context::{App, JobSealer},
    domain::Organization,
    store::organizations,
};

pub mod assets;
pub mod billing;
pub mod conversations;
pub mod debug;
pub mod integrations;
mod letter;
pub mod membership;
pub mod people;
pub mod platform;
pub mod slack;
#[cfg(test)]
pub(crate) mod testing;
pub mod workflows;
pub mod workspaces;

/// Every kind of job, the single list that workers, API, command line and schedules read.
pub fn registry(config: &Config) -> Registry<App> {
    let kinds = registry![
        billing::SweepOverdue,           // daily at 09:00, the organization's time
        billing::RemindInvoice,          // by the sweep
        billing::EscalateInvoice,        // by the sweep, after the last reminder
        conversations::NameConversation, // by a message, once the first exchange is over
        integrations::SweepDue,          // every five minutes
        integrations::SyncIntegration,   // by the sweep, by a webhook, by a person
        integrations::TestConnection,    // by a person
        integrations::TellAttention,     // once each time that an integration needs a person
        integrations::HandleWebhook,     // by what a third party sent
        integrations::PruneDeliveries,   // daily at 04:30, the organization's time
        membership::SendConfirmation,    // with a request to join, and with each new token
        membership::SendDecision,        // when staff decided
        membership::SendPasswordReset,   // with each link to another password
        membership::ExpireRequests,      // daily at 05:00, the organization's time
        people::StartOnboarding,         // by a sync, for a new hire
        people::StartOffboarding,        // by a sync, or when somebody is terminated by hand
        platform::ExpireTrials,          // daily at 02:00 UTC
        platform::PruneIdempotencyKeys,  // daily at 03:00 UTC
        platform::PruneSignIns,          // daily at 03:30 UTC
        platform::StartPasswordReset,    // with each request for another password
        workflows::NotifyOverdue,        // daily at 08:00, the organization's time
        platform::TellDeadLetters,       // every minute
        slack::PostMessage,              // by the database, with an event that a rule names
        workspaces::SendInvitation,      // with an invitation, and when it is sent again
        workspaces::ExpireInvitations,   // daily at 04:00, the organization's time
    ]
    .sealed_by(Arc::new(JobSealer::new(&config.vault)));
    if config.jobs.debug_kinds { debug::register(kinds) } else { kinds }
}

/// Whether a job of the kind mails a secret link: the product enqueues it, where it makes the link, and nobody else.
pub fn carries_a_link(kind: &str) -> bool {
    [
        membership::SendConfirmation::KIND,
        membership::SendDecision::KIND,
        membership::SendPasswordReset::KIND,
        workspaces::SendInvitation::KIND,
    ]
    .contains(&kind)
}

/// The organization that the job belongs to.
async fn organization(ctx: &Ctx<App>) -> anyhow::Result<Organization> {
    let slug = ctx.tenant()?;
    let found = organizations::by_slug(&mut *ctx.app.db.acquire().await?, slug).await?;
    found.ok_or_else(|| anyhow::anyhow!("there is no organization {slug}"))
}

/// The actor that a job's events name.
fn actor(ctx: &Ctx<App>) -> String {
    format!("job:{}", ctx.job.id)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use backroom_queue::Outcome;

    use super::*;
    use crate::jobs::testing::World;

    /// PLAT-2: one file per job, and the file's name is the kind.
    #[tokio::test]
    async fn every_kind_is_the_name_of_its_file() {
        let world = World::new().await;
        for kind in world.registry.kinds() {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("jobs/{}.rs", kind.name.replace('.', "/")));
            assert!(file.is_file(), "{} has no file {}", kind.name, file.display());
            assert!(!kind.description().is_empty(), "{} does not say what it does", kind.name);
        }
    }

    /// CRON-1: the schedules that ship name kinds that exist, with arguments that decode.
    #[tokio::test]
    async fn the_shipped_schedules_fit_the_kinds() {
        let world = World::new().await;
        let schedules = crate::context::schedules(&world.app.config, &world.registry).unwrap();
        assert!(schedules.get("billing.sweep_overdue").unwrap().per_tenant());
        assert!(!schedules.get("platform.expire_trials").unwrap().per_tenant());
    }

    /// There are no debug kinds unless the configuration asks for them.
    #[tokio::test]
    async fn debug_kinds_are_off_by_default() {
        let world = World::new().await;
        let mut config = world.app.config.clone();
        config.jobs.debug_kinds = false;
        assert!(super::registry(&config).kinds().all(|kind| !kind.name.starts_with("debug.")));
    }

    #[tokio::test]
    async fn debug_kinds_do_what_they_say() {
        let world = World::new().await;
        let path = std::env::temp_dir().join(format!("{}.txt", world.database.name()));

        assert_eq!(world.run(&debug::Noop {}).await, Outcome::Completed { result: None });
        assert_eq!(world.run(&debug::Sleep { ms: 1 }).await, Outcome::Completed { result: None });
        assert_eq!(world.run(&debug::Block { ms: 1 }).await, Outcome::Completed { result: None });
        assert_eq!(world.run(&debug::Hold { ms: 1 }).await, Outcome::Completed { result: None });
        assert!(matches!(world.run(&debug::Fail { times: 1 }).await, Outcome::Retryable { .. }));
        assert!(matches!(world.run(&debug::Panic {}).await, Outcome::Retryable { .. }));
        let sealed = debug::Sealed { secret: "hush".to_owned(), ends: debug::Ends::Done };
        assert!(matches!(world.run(&sealed).await, Outcome::Completed { result: Some(_) }));
        for line in ["one", "two"] {
            world.run(&debug::Append { path: path.clone(), line: line.to_owned(), after_ms: 0 }).await;
        }

        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        std::fs::remove_file(path).unwrap();
        assert_eq!(debug::Append::KIND, "debug.append");
    }
}
