//! Ends an organization's invitations whose seven days are over. Scheduled daily for each organization. Twice is fine: what has ended
//! does not end again.

use backroom_queue::{Ctx, Job, JobResult, Unique, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::topic;
use crate::{
    context::App,
    jobs::billing::{actor, organization},
    store::{
        events::{self, NewEvent},
        invitations,
    },
    tenant,
};

/// Invitations ended in one transaction.
const PAGE: i64 = 500;

/// Ends invitations that nobody accepted in time.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpireInvitations {}

impl Job for ExpireInvitations {
    type App = App;
    const KIND: &'static str = "workspaces.expire_invitations";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::by("expire"))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let (kind, actor) = ("workspace.invitation_expired", &actor(&ctx));
        let mut expired = 0;
        loop {
            let now = ctx.app.clock.now();
            let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
            let ended = invitations::expire(&mut tx, now, PAGE).await?;
            let told: Vec<NewEvent<'_>> = ended
                .iter()
                .map(|(id, workspace)| {
                    let payload = json!({ "invitation_id": id });
                    NewEvent { topic: topic(*workspace), kind, payload, actor }
                })
                .collect();
            events::append_many(&mut tx, &told, now).await?;
            tx.commit().await?;
            expired += ended.len();
            if (ended.len() as i64) < PAGE {
                return Verdict::done_with(json!({ "expired": expired }));
            }
        }
    }
}
