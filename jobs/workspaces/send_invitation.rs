//! Mails somebody an invitation into a workspace, in their language. Enqueued with the invitation, and again with each new token. Twice
//! is fine: each token has one mail, an effect in the ledger; what is no longer open is not sent.

use std::time::Duration;

use backroom_queue::{Backoff, Ctx, Job, JobResult, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::topic;
use crate::{
    context::App,
    domain::{Invitation, InvitationState, LinkToken, Organization},
    jobs::{
        actor,
        letter::{self, Left, Step},
        organization,
    },
    mail::templates,
    store::{
        deliveries,
        events::{self, NewEvent},
        invitations, users, workspaces,
    },
    tenant,
};

/// Mails somebody an invitation into a workspace.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendInvitation {
    pub invitation_id: Uuid,
    /// The link's secret; tables have its hash only. A job with another than the present one cancels itself.
    #[schemars(with = "String")]
    pub token: LinkToken,
}

impl Job for SendInvitation {
    type App = App;
    const KIND: &'static str = "workspaces.send_invitation";
    const QUEUE: &'static str = "mailers";
    /// Rides out a mail server that is away for half a day.
    const MAX_ATTEMPTS: u32 = 20;
    /// What it was given is a secret, sealed or not.
    const RETENTION_DAYS: u16 = 1;
    const SEALED: bool = true;

    fn backoff() -> Backoff {
        Backoff::exponential(Duration::from_secs(30), Duration::from_secs(3600))
    }

    async fn run(self, ctx: Ctx<App>) -> JobResult {
        let organization = organization(&ctx).await?;
        let step = self.open(&ctx, &organization).await?;
        match letter::send(&ctx, &organization, step).await? {
            Ok(left) => self.record(&ctx, &organization, &left).await?,
            Err(verdict) => return Ok(verdict),
        }
        Ok(Verdict::DONE)
    }

    /// Whoever looks at the invitation shall see that no mail went out.
    async fn discarded(self, ctx: Ctx<App>, reason: String) -> anyhow::Result<()> {
        let organization = organization(&ctx).await?;
        let now = ctx.app.clock.now();
        let mut tx = tenant::begin(&ctx.app.db, &organization).await?;
        let Some(invitation) = invitations::by_id(&mut tx, self.invitation_id).await? else { return Ok(()) };
        if invitations::mark_failed(&mut tx, (self.invitation_id, self.token.hash()), &reason).await? {
            let payload = json!({ "invitation_id": invitation.id, "error": reason });
            let (topic, kind, actor) = (topic(invitation.workspace_id), "workspace.invitation_failed", &actor(&ctx));
            events::append(&mut tx, &NewEvent { topic, kind, payload, actor }, now).await?;
        }
        Ok(tx.commit().await?)
    }
}

impl SendInvitation {
    /// Looks whether the invitation is still to be sent, and opens the letter. WORK-4
    async fn open(&self, ctx: &Ctx<App>, organization: &Organization) -> anyhow::Result<Step<u32>> {
        // The effect's intent is committed next, and takes this with it to the disk.
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        let invitation = match invitations::by_token(&mut tx, &self.token.hash()).await? {
            Some(invitation) if invitation.id == self.invitation_id => invitation,
            _ => {
                let reason = "the invitation does not exist, or was sent again with another token";
                return Ok(Step::End(Verdict::Cancel(reason.to_owned())));
            }
        };
        if let Some(reason) = reason_not_to(&invitation, ctx.app.clock.now()) {
            return Ok(Step::End(Verdict::Cancel(reason)));
        }
        let Some(workspace) = workspaces::by_id(&mut tx, invitation.workspace_id).await? else {
            return Ok(Step::End(Verdict::Cancel("the workspace was deleted".to_owned())));
        };
        let number = invitation.token_number;
        let to = (purpose(invitation.id, number), invitation.email.clone());
        let envelope = match letter::open(&mut tx, ctx, organization, to).await? {
            Ok(envelope) => envelope,
            Err(closed) => return Ok(closed.step(number)),
        };
        tx.commit().await?;
        let inviter = users::by_id(&mut *ctx.app.db.acquire().await?, invitation.invited_by).await?;
        let letter = templates::render_invitation(&templates::InvitationMail {
            language: invitation.language,
            organization_name: organization.name.clone(),
            workspace_name: workspace.name.as_str().to_owned(),
            inviter_name: inviter.map_or_else(|| organization.name.clone(), |inviter| inviter.name),
            link: link(&ctx.app.config.http.public_url, &self.token),
            expires_at: invitation.expires_at,
            time_zone: organization.time_zone,
        });
        let mail = Box::new(envelope.with(organization, invitation.language, letter));
        Ok(Step::Send { envelope, mail, about: number })
    }

    /// Delivery, invitation and event in one transaction; changes nothing the second time.
    async fn record(&self, ctx: &Ctx<App>, organization: &Organization, left: &Left<u32>) -> anyhow::Result<()> {
        let Left { delivery, about: number, taken } = left;
        let mut tx = tenant::begin_without_waiting_for_disk(&ctx.app.db, organization).await?;
        deliveries::mark_sent(&mut tx, *delivery, (&taken.recipient, &taken.response), taken.at).await?;
        if invitations::mark_sent(&mut tx, (self.invitation_id, *number), taken.at).await?
            && let Some(invitation) = invitations::by_id(&mut tx, self.invitation_id).await?
        {
            let payload = json!({ "invitation_id": invitation.id, "delivery_id": delivery });
            let (topic, kind, actor) = (topic(invitation.workspace_id), "workspace.invitation_sent", &actor(ctx));
            events::append(&mut tx, &NewEvent { topic, kind, payload, actor }, taken.at).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// The key of the mail with the invitation's n-th token.
fn purpose(invitation: Uuid, number: u32) -> String {
    format!("invitation:{invitation}:{number}")
}

fn reason_not_to(invitation: &Invitation, now: chrono::DateTime<chrono::Utc>) -> Option<String> {
    match invitation.state_at(now) {
        InvitationState::Open => None,
        state => Some(format!("the invitation is {state}")),
    }
}

/// Where the invitation is accepted.
fn link(public_url: &str, token: &LinkToken) -> String {
    format!("{}/invitations/{}", public_url.trim_end_matches('/'), token.expose())
}

#[cfg(test)]
mod tests {
    use backroom_queue::{NewJob, Outcome, effect_id, testing};
    use chrono::Duration;

    use super::*;
    use crate::{
        domain::EmailAddress,
        jobs::{
            testing::World,
            workspaces::testing::{Room, accept_as, asked, reload, sends, token},
        },
    };

    const QUEUE: &str = SendInvitation::QUEUE;

    async fn drain(world: &World) -> Vec<(Uuid, Outcome)> {
        testing::drain(&world.app.db, &world.registry, world.app.clone(), QUEUE).await.unwrap()
    }

    /// What the sealed words of an outcome say.
    fn cancelled(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Cancelled { reason } if reason.starts_with("$sealed:"))
    }

    /// WORK-4, MAIL-1, MAIL-2
    #[tokio::test]
    async fn the_mail_tells_workspace_inviter_link_and_expiry_in_the_invitee_s_language() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "Bo@Example.se").await;
        let token = token(&world, invitation.id).await;

        let ran = drain(&world).await;

        assert!(matches!(ran[..], [(_, Outcome::Completed { .. })]), "{ran:?}");
        let mail = world.mailbox.get(world.mailbox.list(1)[0].id).unwrap();
        assert_eq!(mail.summary.to, ["Bo@example.se"]);
        assert_eq!(mail.summary.subject, "Anna Ek bjuder in dig till Bokslut 2026");
        let link = format!("{}/invitations/{}", world.app.config.http.public_url, token.expose());
        for part in [mail.text.unwrap(), mail.html.unwrap()] {
            for fact in [link.as_str(), "Bokslut 2026", "Anna Ek", "9 mars 2026 kl. 09:00"] {
                assert!(part.contains(fact), "{fact} is missing from {part}");
            }
        }
        assert_eq!(reload(&world, invitation.id).await.sent_at, Some(world.now()));
        let told = ["workspace.created", "workspace.invitation_created", "workspace.invitation_sent"];
        assert_eq!(room.told(&world).await, told);
    }

    /// WORK-4, MAIL-2
    #[tokio::test]
    async fn the_same_job_twice_sends_one_mail() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "bo@example.se").await;
        let send = sends(&world, invitation.id).await.remove(0);
        let tables = ["org_acme.invitations", "org_acme.deliveries", "org_acme.events"];

        let job = world.job(&send);
        let [once, twice] =
            testing::run_twice(&world.app.db, &world.registry, world.app.clone(), job, &tables).await.unwrap();
        drain(&world).await;

        assert!(matches!(once.0, Outcome::Completed { .. }), "{:?}", once.0);
        assert!(matches!(twice.0, Outcome::Completed { .. }), "{:?}", twice.0);
        assert_eq!(once.1, twice.1);
        assert_eq!(world.mailbox.accepted().len(), 1);
    }

    /// WORK-4, PLAT-21: a worker that was killed after its intent was written is followed by one that sends, once.
    #[tokio::test]
    async fn a_rescued_job_goes_on_with_the_mail_of_its_token() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "bo@example.se").await;
        let key = purpose(invitation.id, 1);
        sqlx::query(
            "insert into queue.effects (id, tenant, key, kind, job_id, attempt, lease, keep_days)
             select $1, 'acme', $2, kind, id, 1, gen_random_uuid(), 30 from queue.jobs",
        )
        .bind(effect_id(Some("acme"), &key))
        .bind(&key)
        .execute(&world.app.db)
        .await
        .unwrap();

        let ran = drain(&world).await;

        assert!(matches!(ran[..], [(_, Outcome::Completed { .. })]), "{ran:?}");
        assert_eq!(world.mailbox.accepted().len(), 1);
    }

    /// WORK-4, PLAT-21: killed after the ledger has the outcome, before the organization's tables do.
    #[tokio::test]
    async fn a_mail_that_the_ledger_knows_is_recorded_and_not_sent_again() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "bo@example.se").await;
        let send = sends(&world, invitation.id).await.remove(0);
        drain(&world).await;
        let mut tx = world.tenant().await;
        for sql in [
            "update invitations set sent_at = null",
            "update deliveries set state = 'pending', sent_at = null, response = null",
        ] {
            sqlx::query(sql).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();

        let outcome = world.run(&send).await;

        assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
        assert_eq!(world.mailbox.accepted().len(), 1);
        assert_eq!(reload(&world, invitation.id).await.sent_at, Some(world.now()));
    }

    /// WORK-4: whatever ends an invitation before its mail leaves, there is no mail.
    #[tokio::test]
    async fn a_mail_that_is_no_longer_wanted_does_not_leave() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let revoked = room.invite(&world, "revoked@example.se").await;
        let accepted = room.invite(&world, "accepted@example.se").await;
        let expired = room.invite(&world, "expired@example.se").await;
        assert!(room.revoke(&world, &revoked).await);
        accept_as(&world, &token(&world, accepted.id).await, "Bo").await;
        world.app.clock.advance(Duration::days(7));
        let other = Room::of(&world, "cia@example.se", "Cia").await;
        let deleted = other.invite(&world, "deleted@example.se").await;
        let mut tx = world.tenant().await;
        let owned = (other.workspace.id, other.owner.id);
        assert!(crate::jobs::workspaces::delete(&mut tx, owned, &asked(world.now())).await.unwrap());
        tx.commit().await.unwrap();

        let ran = drain(&world).await;

        assert_eq!(ran.len(), 4);
        assert!(ran.iter().all(|(_, outcome)| cancelled(outcome)), "{ran:?}");
        assert_eq!(world.mailbox.accepted().len(), 0);
        assert_eq!(reload(&world, deleted.id).await.state, InvitationState::Revoked);
        assert_eq!(reload(&world, expired.id).await.state_at(world.now()), InvitationState::Expired);
    }

    /// WORK-6: each token has one mail; a job with a token that was replaced sends none.
    #[tokio::test]
    async fn an_invitation_that_is_sent_again_has_a_new_link_and_a_mail_of_its_own() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "bo@example.se").await;
        let first = sends(&world, invitation.id).await.remove(0);
        drain(&world).await;
        let replaced = room.resend(&world, &invitation).await.unwrap();
        let again = room.resend(&world, &replaced).await.unwrap();
        assert_eq!((again.token_number, again.sent_at), (3, None));

        let ran = drain(&world).await;

        assert_eq!(ran.iter().filter(|(_, outcome)| cancelled(outcome)).count(), 1, "{ran:?}");
        let mails = world.mailbox.accepted();
        assert_eq!(mails.len(), 2);
        assert_ne!(mails[0].message_id, mails[1].message_id);
        assert!(cancelled(&world.run(&first).await), "a token of the past");
        assert_eq!(world.mailbox.accepted().len(), 2);
    }

    /// MAIL-3, WORK-4
    #[tokio::test]
    async fn a_refused_address_is_seen_at_the_invitation_and_a_new_token_tries_anew() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "reject@example.se").await;

        let ran = drain(&world).await;

        assert!(matches!(&ran[..], [(_, Outcome::Discarded { .. })]), "{ran:?}");
        let failed = reload(&world, invitation.id).await;
        assert!(failed.send_error.as_deref().unwrap().contains("550"), "{failed:?}");
        assert_eq!((failed.state, failed.sent_at), (InvitationState::Open, None));
        assert_eq!(room.told(&world).await.last().unwrap(), "workspace.invitation_failed");
        let renewed = room.resend(&world, &failed).await.unwrap();
        assert_eq!(renewed.send_error, None);
        assert!(matches!(&drain(&world).await[..], [(_, Outcome::Discarded { .. })]));
    }

    /// WORK-4: a mail server that is away delays the mail and loses none.
    #[tokio::test]
    async fn a_greylisted_invitation_comes_back() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "greylist@example.se").await;

        let ran = drain(&world).await;
        assert!(matches!(&ran[..], [(_, Outcome::Retryable { .. })]), "{ran:?}");
        testing::fast_forward(&world.app.db).await.unwrap();
        drain(&world).await;

        assert_eq!(world.mailbox.accepted().len(), 1);
        assert!(reload(&world, invitation.id).await.sent_at.is_some());
    }

    /// VAULT-4, WORK-3: the token is in the mail, and readable nowhere else.
    #[tokio::test]
    async fn the_token_stands_in_no_table() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "bo@example.se").await;
        let token = token(&world, invitation.id).await;
        let (_, secret) = token.expose().split_once('.').unwrap();
        for moment in ["before the mail", "after the mail"] {
            let tables: Vec<String> = sqlx::query_scalar(
                "select format('%I.%I', schemaname, tablename) from pg_tables
                 where schemaname not in ('pg_catalog', 'information_schema')",
            )
            .fetch_all(&world.app.db)
            .await
            .unwrap();
            for table in tables {
                let rows = format!("select coalesce(string_agg(to_jsonb(t)::text, ' '), '') from {table} t");
                let rows: String =
                    sqlx::query_scalar(sqlx::AssertSqlSafe(rows)).fetch_one(&world.app.db).await.unwrap();
                assert!(!rows.contains(secret), "{moment}: {table} tells the token");
            }
            drain(&world).await;
        }
        assert_eq!(world.mailbox.accepted().len(), 1);
    }

    /// WORK-4: a name that pretends to be a header is a name.
    #[tokio::test]
    async fn names_with_line_breaks_make_no_header() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        for sql in [
            "update public.users set name = E'Eve\r\nBcc: victim@example.com\r\n\r\nbody'",
            "update public.organizations set name = E'Acme\r\nBcc: victim@example.com'",
        ] {
            sqlx::query(sql).execute(&world.app.db).await.unwrap();
        }
        room.invite(&world, "bo@example.se").await;

        drain(&world).await;

        let mail = world.mailbox.get(world.mailbox.list(1)[0].id).unwrap();
        assert_eq!(mail.summary.to, ["bo@example.se"]);
        assert!(mail.headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("bcc")), "{:?}", mail.headers);
        assert!(mail.summary.subject.starts_with("Eve Bcc: victim@example.com body"), "{}", mail.summary.subject);
    }

    /// A job that somebody made up, with a token that they chose, mails no link to it.
    #[tokio::test]
    async fn a_made_up_token_is_not_mailed() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "bo@example.se").await;
        let other = room.invite(&world, "eve@example.se").await;
        let made_up = LinkToken::random(&world.organization.slug);
        let borrowed = token(&world, other.id).await;
        for token in [made_up, borrowed] {
            let outcome = world.run(&SendInvitation { invitation_id: invitation.id, token }).await;
            assert!(cancelled(&outcome), "{outcome:?}");
        }
        assert_eq!(world.mailbox.accepted().len(), 0);
        let to = EmailAddress::parse("bo@example.se").unwrap();
        assert_eq!(invitation.email, to);
    }

    /// PLAT-16
    #[tokio::test]
    async fn the_job_is_refused_unsealed() {
        let world = World::new().await;
        let token = LinkToken::random(&world.organization.slug);
        let job = NewJob::of(&SendInvitation { invitation_id: Uuid::nil(), token }).tenant("acme");
        assert!(backroom_queue::enqueue(&world.app.db, &job).await.is_err());
    }

    #[test]
    fn the_wire_format_is_stable() {
        let token = LinkToken::parse("acme.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        let job = SendInvitation { invitation_id: Uuid::nil(), token };
        insta::assert_json_snapshot!(job, @r#"
        {
          "invitation_id": "00000000-0000-0000-0000-000000000000",
          "token": "acme.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        }
        "#);
    }
}
