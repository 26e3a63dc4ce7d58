//! What a one-off command works with.

use std::{io::Read, path::Path, sync::Arc};

use anyhow::Context;
use backroom_queue::Registry;
use sqlx::{PgPool, Postgres, pool::PoolConnection};

use super::exit::not_found;
use crate::{
    config::Config,
    context::{self, App},
    domain::{Clock, Organization},
    jobs, store,
};

/// The configuration, a migrated database and the kinds of jobs.
pub struct Session {
    pub config: Config,
    pub db: PgPool,
    pub registry: Arc<Registry<App>>,
    pub clock: Clock,
}

/// The file's text; that of standard input for `-`.
pub fn text_of(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("could not read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

impl Session {
    /// Fails at once, in a sentence, if there is no database or it is not migrated.
    pub async fn open(config: Config) -> anyhow::Result<Self> {
        let db = context::connect(&config.database).await?;
        context::check_migrated(&db).await?;
        let registry = Arc::new(jobs::registry(&config));
        Ok(Self { config, db, registry, clock: Clock::system() })
    }

    /// With vault and mailer, for commands that run jobs or read sealed fields.
    pub fn app(&self) -> anyhow::Result<Arc<App>> {
        App::with_pool(self.config.clone(), self.db.clone(), self.clock.clone())
    }

    pub async fn connection(&self) -> sqlx::Result<PoolConnection<Postgres>> {
        self.db.acquire().await
    }

    pub async fn organization(&self, slug: &str) -> anyhow::Result<Organization> {
        let found = store::organizations::by_slug(&mut *self.connection().await?, slug).await?;
        found.ok_or_else(|| not_found(format!("there is no organization `{slug}`; `backroom org list` shows them")))
    }
}
