//! Asks a vendor whether the connection works. Twice is fine: it reads nothing but what a test needs.

use backroom_queue::{Ctx, Job, JobResult, Unique, Verdict};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{QUEUE, doors};
use crate::{
    clients::connector::ConnectorError,
    context::App,
    domain::Organization,
    jobs::{actor, organization},
    store::{Sealer, integrations},
    sync::{self, Site},
    tenant,
};

/// Asks the vendor of an integration whether the connection works.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestConnection {
    pub integration_id: Uuid,
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestReport {
    pub ok: bool,
    /// A sentence for a person: whom it reached as whom, or what is wrong and what to do.
    pub message: String,
    /// For programs: `bad_credentials`, `wrong_host`, `missing_scope`, `network`, `configuration`, `busy`.
    pub problem: Option<String>,
}

impl Job for TestConnection {
    type App = App;
    const KIND: &'static str = "integrations.test_connection";
    const QUEUE: &'static str = QUEUE;
    const PRIORITY: i16 = 10; // somebody is waiting for it
    const MAX_ATTEMPTS: u32 = 3;

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by(self.integration_id))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        match test(&ctx.app, &organization, self.integration_id, &actor(&ctx)).await? {
            Some(report) => Verdict::done_with(report),
            None => Ok(Verdict::Cancel("the integration does not exist".to_owned())),
        }
    }
}

/// SYNC-5: makes the vendor's test call, here and now, and notes what came of it: a test that goes well ends the wait for a person.
/// `None` if there is no such integration.
pub async fn test(
    app: &App,
    organization: &Organization,
    integration_id: Uuid,
    actor: &str,
) -> anyhow::Result<Option<TestReport>> {
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let mut tx = tenant::begin(&app.db, organization).await?;
    let Some(integration) = integrations::by_id(&mut tx, integration_id).await? else { return Ok(None) };
    let Some(credentials) = integrations::credentials(&mut tx, sealer, integration_id).await? else { return Ok(None) };
    tx.commit().await?;
    let site = Site { db: &app.db, organization, sealer, http: &app.http, clock: &app.clock };
    let tested = match doors::connect(app, integration.provider, &integration.config, &credentials) {
        Ok(connector) => sync::test(&site, integration_id, &*connector).await?,
        Err(errors) => return note(app, organization, (integration_id, actor), TestReport::not_made(&errors)).await,
    };
    let report = TestReport::of(tested);
    note(app, organization, (integration_id, actor), report).await
}

async fn note(
    app: &App,
    organization: &Organization,
    (integration_id, actor): (Uuid, &str),
    report: TestReport,
) -> anyhow::Result<Option<TestReport>> {
    let now: DateTime<Utc> = app.clock.now();
    let mut tx = tenant::begin(&app.db, organization).await?;
    if report.ok {
        doors::succeeded(&mut tx, integration_id, actor, now).await?;
    } else if report.problem.as_deref() != Some("busy") {
        integrations::failed(&mut tx, integration_id, &report.message, now).await?;
    }
    tx.commit().await?;
    Ok(Some(report))
}

impl TestReport {
    fn of(tested: Result<String, ConnectorError>) -> Self {
        let error = match tested {
            Ok(message) => return Self { ok: true, message, problem: None },
            Err(error) => error,
        };
        let problem = match &error {
            ConnectorError::RateLimited(..) => "busy",
            ConnectorError::Transient(_) => "network",
            ConnectorError::Unauthorized(_) | ConnectorError::Credentials(_) => "bad_credentials",
            ConnectorError::Forbidden(_) => "missing_scope",
            ConnectorError::Address(_) => "wrong_host",
            ConnectorError::CursorExpired | ConnectorError::Protocol(_) => "configuration",
        };
        Self::bad(problem, error.to_string())
    }

    /// The vendor's client cannot be made.
    fn not_made(errors: &crate::domain::FieldErrors) -> Self {
        Self::bad("configuration", errors.to_string())
    }

    fn bad(problem: &str, message: String) -> Self {
        Self { ok: false, message, problem: Some(problem.to_owned()) }
    }
}
