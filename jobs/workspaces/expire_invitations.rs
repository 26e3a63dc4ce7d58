//! Ends an organization's invitations whose seven days are over. Scheduled daily for each organization. Twice is fine: what has ended
//! does not end again.

use backroom_queue::{Ctx, Job, JobResult, Unique, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::topic;
use crate::{
    context::App,
    jobs::{actor, organization},
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

#[cfg(test)]
mod tests {
    use backroom_queue::Outcome;
    use chrono::Duration;

    use super::*;
    use crate::{
        domain::InvitationState,
        jobs::{
            testing::World,
            workspaces::testing::{Room, reload},
        },
    };

    async fn sweep(world: &World) -> serde_json::Value {
        match world.run(&ExpireInvitations {}).await {
            Outcome::Completed { result: Some(result) } => result["expired"].clone(),
            other => panic!("the sweep ended as {other:?}"),
        }
    }

    /// WORK-6
    #[tokio::test]
    async fn an_invitation_ends_after_seven_days_and_once() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let first = room.invite(&world, "bo@example.se").await;
        let revoked = room.invite(&world, "eve@example.se").await;
        room.revoke(&world, &revoked).await;
        world.app.clock.advance(Duration::days(7) - Duration::seconds(1));
        let second = room.invite(&world, "cia@example.se").await;

        assert_eq!(sweep(&world).await, 0, "not a second early");
        world.app.clock.advance(Duration::seconds(1));
        assert_eq!(sweep(&world).await, 1);
        assert_eq!(sweep(&world).await, 0);

        let first = reload(&world, first.id).await;
        assert_eq!((first.state, first.ended_at), (InvitationState::Expired, Some(world.now())));
        assert_eq!(reload(&world, second.id).await.state, InvitationState::Open);
        assert_eq!(reload(&world, revoked.id).await.state, InvitationState::Revoked);
        assert_eq!(room.told(&world).await.last().unwrap(), "workspace.invitation_expired");
    }

    /// WORK-6: pages follow each other.
    #[tokio::test]
    async fn a_sweep_works_through_more_than_a_page() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        room.invite(&world, "bo@example.se").await;
        let sql = "insert into invitations (id, workspace_id, email, email_key, language, invited_by, token_hash, token_at, expires_at, created_at)
                   select gen_random_uuid(), workspace_id, n || email, n || email_key, language, invited_by,
                       sha256(n::text::bytea), token_at, expires_at, created_at
                   from invitations, generate_series(1, $1) n";
        let mut tx = world.tenant().await;
        sqlx::query(sql).bind(i32::try_from(PAGE).unwrap() + 20).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        world.app.clock.advance(Duration::days(8));

        assert_eq!(sweep(&world).await, PAGE + 21);
    }

    #[test]
    fn the_wire_format_is_stable() {
        insta::assert_json_snapshot!(ExpireInvitations {}, @"{}");
    }
}
