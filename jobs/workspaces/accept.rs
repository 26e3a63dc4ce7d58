//! What a token opens, and accepting it (WORK-5): one transaction over both planes.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::doors::{Asked, ensure_personal};
use crate::{
    context::App,
    domain::{
        Invitation, InvitationState, Language, LinkToken, NewUser, Organization, PasswordHash, Role, User, Workspace,
    },
    store::{
        StoreError,
        events::{self, NewEvent},
        invitations,
        memberships::{self, LetIn},
        organizations, users, workspaces,
    },
    tenant::{self, TenantTx},
};

/// A good token, and what it opens.
#[derive(Clone, Debug)]
pub struct Invited {
    pub organization: Organization,
    pub workspace: Workspace,
    pub invitation: Invitation,
    /// Who invites; nobody if they have no account any more.
    pub inviter: Option<User>,
    /// Whose address was invited, if somebody's.
    pub account: Option<User>,
    /// Whether the person chooses a password as they accept: there is no account, it has no password, or whoever set that never showed
    /// that the address is theirs.
    pub needs_password: bool,
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// There never was such a token, or a newer one has replaced it.
    Unknown,
    /// It was used; the person is a member, or was.
    Accepted,
    Revoked,
    Expired,
    /// The organization is suspended: nothing changes in it at present.
    Held,
    /// An admin took the person out of the organization, and only an admin lets them in again.
    Removed,
}

/// What a look at a token shows.
#[derive(Clone, Debug)]
pub enum Opened {
    Invited(Box<Invited>),
    /// With the organization's name and the mail's language, where the token is known.
    Shut(Shut, Option<(String, Language)>),
}

/// How accepting ended.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// The person is a member now.
    Joined(Box<Invited>),
    /// The person was a member before; the invitation has ended.
    WasMember(Box<Invited>),
    /// There is a password to be chosen: accept with a [`NewPerson`]. Nothing has changed.
    NeedsPassword(Box<Invited>),
    Shut(Shut, Option<(String, Language)>),
}

/// Whom to make an account for, or to give one that is there.
#[derive(Clone)]
pub struct NewPerson {
    /// Checked by [`crate::domain::user::check_name`]. An account that is there keeps its own.
    pub name: String,
    pub password: PasswordHash,
}

/// Looks at a token; changes nothing.
pub async fn open(db: &PgPool, token: &LinkToken, now: DateTime<Utc>) -> Result<Opened, StoreError> {
    let Some(organization) = organizations::by_slug(&mut *db.acquire().await?, token.organization().as_str()).await?
    else {
        return Ok(Opened::Shut(Shut::Unknown, None));
    };
    let mut tx = tenant::begin(db, &organization).await?;
    let Some(invitation) = invitations::by_token(&mut tx, &token.hash()).await? else {
        return Ok(Opened::Shut(Shut::Unknown, None));
    };
    let workspace = workspaces::by_id(&mut tx, invitation.workspace_id).await?;
    tx.commit().await?;
    let known = (organization.name.clone(), invitation.language);
    let workspace = match still_open(&organization, &invitation, workspace, now) {
        Ok(workspace) => workspace,
        Err(shut) => return Ok(Opened::Shut(shut, Some(known))),
    };
    let mut plane = db.acquire().await?;
    let inviter = users::by_id(&mut plane, invitation.invited_by).await?;
    let account = users::by_email(&mut plane, &invitation.email).await?;
    if let Some(account) = &account
        && memberships::has_ended(&mut plane, organization.id, account.id).await?
    {
        return Ok(Opened::Shut(Shut::Removed, Some(known)));
    }
    let needs_password = needs_password(&mut plane, account.as_ref()).await?;
    Ok(Opened::Invited(Box::new(Invited { organization, workspace, invitation, inviter, account, needs_password })))
}

async fn needs_password(db: &mut PgConnection, account: Option<&User>) -> Result<bool, StoreError> {
    match account {
        Some(User { id, confirmed_at: Some(_), .. }) => Ok(users::password(db, *id).await?.is_none()),
        _ => Ok(true),
    }
}

fn still_open(
    organization: &Organization,
    invitation: &Invitation,
    workspace: Option<Workspace>,
    now: DateTime<Utc>,
) -> Result<Workspace, Shut> {
    match (invitation.state_at(now), workspace) {
        (InvitationState::Accepted, _) => Err(Shut::Accepted),
        (InvitationState::Revoked, _) | (InvitationState::Open, None) => Err(Shut::Revoked),
        (InvitationState::Expired, _) => Err(Shut::Expired),
        (InvitationState::Open, Some(_)) if organization.is_held() => Err(Shut::Held),
        (InvitationState::Open, Some(workspace)) => Ok(workspace),
    }
}

/// Accepts: account, memberships, invitation and events in one transaction. Whoever holds the token has read the mail that it was in,
/// so the address is proved to be theirs; the account is the address's, whoever is signed in. The first proof takes it out of the hands
/// of whoever may have set a password before.
pub async fn accept(app: &App, token: &LinkToken, person: Option<NewPerson>) -> Result<Accepted, StoreError> {
    let mut tx = app.db.begin().await?;
    let Some(organization) = organizations::by_slug(&mut tx, token.organization().as_str()).await? else {
        return Ok(Accepted::Shut(Shut::Unknown, None));
    };
    // The workspace is held first and the invitation locked then: the order in which a workspace is deleted.
    let mut tx = TenantTx::enter(tx, &organization).await?;
    let found = invitations::by_token(&mut tx, &token.hash()).await?;
    let Some(workspace_id) = found.map(|invitation| invitation.workspace_id) else {
        return Ok(Accepted::Shut(Shut::Unknown, None));
    };
    let workspace = workspaces::hold(&mut tx, workspace_id).await?;
    let Some(invitation) = invitations::lock_by_token(&mut tx, &token.hash()).await? else {
        return Ok(Accepted::Shut(Shut::Unknown, None));
    };
    let now = app.clock.now();
    let known = Some((organization.name.clone(), invitation.language));
    let workspace = match still_open(&organization, &invitation, workspace, now) {
        Ok(workspace) => workspace,
        Err(shut) => return Ok(Accepted::Shut(shut, known)),
    };

    let mut plane = tx.leave().await?;
    let inviter = users::by_id(&mut plane, invitation.invited_by).await?;
    let account = account_of(&mut plane, &invitation, person.as_ref(), now).await?;
    let needs_password = needs_password(&mut plane, account.as_ref()).await?;
    let mut invited = Box::new(Invited { organization, workspace, invitation, inviter, account, needs_password });
    let (account, password) = match (&invited.account, person) {
        (Some(account), Some(person)) => (account.clone(), Some(person.password)),
        (Some(account), None) if !needs_password => (account.clone(), None),
        _ => return Ok(Accepted::NeedsPassword(invited)),
    };
    let organization = &invited.organization;
    let came_in = match memberships::let_in(&mut plane, organization.id, account.id, now).await? {
        LetIn::Ended => return Ok(Accepted::Shut(Shut::Removed, known)),
        come => come == LetIn::Came,
    };
    if let Some(password) = &password
        && needs_password
        && !tenant::prove_address(&mut plane, account.id, Some(password), now).await?
    {
        users::set_password(&mut plane, account.id, None, password, now).await?;
    }

    let mut tx = TenantTx::enter(plane, organization).await?;
    let actor = format!("user:{}", account.id);
    let asked = Asked { actor: &actor, now, trace: None };
    if came_in {
        let (topic, payload) = ("organization".to_owned(), json!({ "user_id": account.id, "role": Role::User }));
        events::append(&mut tx, &NewEvent { topic, kind: "member.added", payload, actor: &actor }, now).await?;
    }
    ensure_personal(&mut tx, (account.id, account.language), &asked).await?;
    let (workspace, id) = (invited.workspace.id, invited.invitation.id);
    let joined = workspaces::add_member(&mut tx, (workspace, account.id), now).await?;
    if !invitations::accept(&mut tx, (id, account.id), now).await? {
        return Ok(Accepted::Shut(Shut::Expired, known));
    }
    if joined {
        asked.tell(&mut tx, workspace, "workspace.member_joined", json!({ "user_id": account.id })).await?;
    }
    let payload = json!({ "invitation_id": id, "user_id": account.id });
    asked.tell(&mut tx, workspace, "workspace.invitation_accepted", payload).await?;
    tx.commit().await?;
    invited.invitation.state = InvitationState::Accepted;
    Ok(if joined { Accepted::Joined(invited) } else { Accepted::WasMember(invited) })
}

/// The account of the invited address, made if there is none and we know whom for.
async fn account_of(
    db: &mut PgConnection,
    invitation: &Invitation,
    person: Option<&NewPerson>,
    now: DateTime<Utc>,
) -> Result<Option<User>, StoreError> {
    let found = users::by_email(db, &invitation.email).await?;
    if found.is_some() {
        return Ok(found);
    }
    let Some(NewPerson { name, password }) = person else { return Ok(None) };
    let new = NewUser {
        email: invitation.email.clone(),
        name: name.clone(),
        language: invitation.language,
        password: Some(password.clone()),
        confirmed_at: Some(now),
    };
    match users::create(db, &new, now).await {
        Ok(user) => Ok(Some(user)),
        // Somebody was faster, through another invitation: it is the same person's account.
        Err(StoreError::Conflict { .. }) => users::by_email(db, &invitation.email).await,
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use chrono::Duration;
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::{
        domain::{BillingStatus, EmailAddress, Password, password::Verdict},
        jobs::{
            testing::World,
            workspaces::{
                delete,
                testing::{Room, accept_as, account, asked, reload, token},
            },
        },
        store::workspaces,
    };

    async fn count(world: &World, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {sql}"))).fetch_one(&world.app.db).await.unwrap()
    }

    async fn shut(world: &World, token: &LinkToken) -> Shut {
        let looked = match open(&world.app.db, token, world.now()).await.unwrap() {
            Opened::Shut(why, _) => why,
            Opened::Invited(_) => panic!("the token opens"),
        };
        match accept_as(world, token, "Bo").await {
            Accepted::Shut(why, _) => assert_eq!(why, looked, "the look and the deed agree"),
            other => panic!("{other:?}"),
        }
        looked
    }

    /// WORK-5, WORK-1, AUTH-1
    #[tokio::test]
    async fn a_person_without_an_account_gets_one_with_both_memberships_and_a_workspace_of_their_own() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "Bo@example.se").await;
        let token = token(&world, invitation.id).await;
        let nobody = accept(&world.app, &token, None).await.unwrap();
        assert!(matches!(nobody, Accepted::NeedsPassword(_)), "{nobody:?}");
        assert_eq!(reload(&world, invitation.id).await.state, InvitationState::Open);

        let accepted = accept_as(&world, &token, "Bo Ek").await;

        let Accepted::Joined(invited) = accepted else { panic!("{accepted:?}") };
        let bo = invited.account.unwrap();
        assert_eq!(
            (bo.name.as_str(), bo.email.as_str(), bo.confirmed_at),
            ("Bo Ek", "Bo@example.se", Some(world.now()))
        );
        let mut db = world.app.db.acquire().await.unwrap();
        let place = memberships::find(&mut db, world.organization.id, bo.id).await.unwrap().unwrap();
        assert_eq!(place.role, Role::User);
        let mine = workspaces::of_user(&mut *world.tenant().await, bo.id, crate::store::Page::first(10)).await.unwrap();
        let seen: Vec<_> = mine.iter().map(|m| (m.workspace.personal, m.is_owner(), m.current)).collect();
        assert_eq!(seen, [(false, false, false), (true, true, true)]);
        let after = reload(&world, invitation.id).await;
        assert_eq!((after.state, after.accepted_by), (InvitationState::Accepted, Some(bo.id)));
        let told = room.told(&world).await;
        assert_eq!(told[2..], ["workspace.member_joined", "workspace.invitation_accepted"]);
    }

    /// WORK-5: the account is the address's, however it was written.
    #[tokio::test]
    async fn a_person_with_an_account_joins_with_it_whatever_the_case_of_the_address() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let bo = account(&world.app.db, "bo.ek@example.se", "Bo", world.now()).await;
        let invitation = room.invite(&world, "BO.Ek@EXAMPLE.se").await;
        let token = token(&world, invitation.id).await;

        let accepted = accept(&world.app, &token, None).await.unwrap();

        assert!(matches!(accepted, Accepted::Joined(_)), "{accepted:?}");
        assert!(room.is_member(&world, bo.id).await);
        assert_eq!(count(&world, "public.users").await, 2);
    }

    /// An account that another organization made, with a password or without.
    async fn planted(world: &World, email: &str, password: Option<&PasswordHash>) -> User {
        let elsewhere = world.database.organization("globex").await;
        let new = NewUser {
            email: EmailAddress::parse(email).unwrap(),
            name: "Bo".to_owned(),
            language: Language::Sv,
            password: password.cloned(),
            confirmed_at: None,
        };
        let mut db = world.app.db.acquire().await.unwrap();
        users::create_in(&mut db, &new, Some(elsewhere.id), world.now()).await.unwrap()
    }

    /// WORK-5, AUTH-1, AUTH-2: who has read the mail owns the address; a password that came before that is nobody's any more.
    #[tokio::test]
    async fn the_first_proof_of_an_address_takes_its_account_out_of_other_hands() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let theirs = world.app.hash_password(Password::parse("what a stranger planted").unwrap()).await.unwrap();
        let bo = planted(&world, "bo@example.se", Some(&theirs)).await;
        let invitation = room.invite(&world, "bo@example.se").await;
        let token = token(&world, invitation.id).await;

        let looked = open(&world.app.db, &token, world.now()).await.unwrap();
        assert!(matches!(looked, Opened::Invited(invited) if invited.needs_password));
        let silent = accept(&world.app, &token, None).await.unwrap();
        assert!(matches!(silent, Accepted::NeedsPassword(_)), "{silent:?}");
        let mut db = world.app.db.acquire().await.unwrap();
        assert_eq!(users::by_id(&mut db, bo.id).await.unwrap().unwrap().confirmed_at, None, "nothing has changed");
        let accepted = accept_as(&world, &token, "Bo").await;

        assert!(matches!(accepted, Accepted::Joined(_)), "{accepted:?}");
        assert_eq!(users::by_id(&mut db, bo.id).await.unwrap().unwrap().confirmed_at, Some(world.now()));
        let stored = users::password(&mut db, bo.id).await.unwrap();
        for (password, verdict) in
            [("correct horse battery", Verdict::Right), ("what a stranger planted", Verdict::Wrong)]
        {
            let typed = Password::typed(password).unwrap();
            assert_eq!(world.app.verify_password(typed, stored.clone()).await.unwrap(), verdict, "{password}");
        }
    }

    /// WORK-5, AUTH-1: an account without a password is no dead end.
    #[tokio::test]
    async fn who_has_an_account_without_a_password_chooses_one() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let proved = "update public.users set confirmed_at = now() where id = $1";
        let bo = planted(&world, "bo@example.se", None).await;
        sqlx::query(proved).bind(bo.id).execute(&world.app.db).await.unwrap();
        let invitation = room.invite(&world, "bo@example.se").await;
        let token = token(&world, invitation.id).await;

        let silent = accept(&world.app, &token, None).await.unwrap();
        assert!(matches!(silent, Accepted::NeedsPassword(_)), "{silent:?}");
        assert!(matches!(accept_as(&world, &token, "Bo").await, Accepted::Joined(_)));

        let mut db = world.app.db.acquire().await.unwrap();
        assert!(users::password(&mut db, bo.id).await.unwrap().is_some());
    }

    /// WORK-5, AUTH-1: who accepts while an admin takes them out of the organization is out, whoever is first.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn accepting_does_not_revive_a_membership_that_is_ended_meanwhile() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let bo = account(&world.app.db, "bo@example.se", "Bo", world.now()).await;
        let organization = world.organization.id;
        let mut db = world.app.db.acquire().await.unwrap();
        memberships::add(&mut db, organization, bo.id, Role::User, None, world.now()).await.unwrap();
        let invitation = room.invite(&world, "bo@example.se").await;
        let token = token(&world, invitation.id).await;
        let asked = ("user:admin", world.now());
        let removal = world.app.db.begin().await.unwrap();
        let removal = tenant::end_membership(removal, &world.organization, bo.id, asked).await.unwrap();

        let accepting = tokio::spawn({
            let (app, token) = (world.app.clone(), token.clone());
            async move { accept(&app, &token, None).await.unwrap() }
        });
        world.until_somebody_waits().await;
        removal.commit().await.unwrap();

        let accepted = accepting.await.unwrap();
        assert!(matches!(accepted, Accepted::Shut(Shut::Removed, _)), "{accepted:?}");
        assert_eq!(memberships::find(&mut db, organization, bo.id).await.unwrap(), None);
        assert!(!room.is_member(&world, bo.id).await);
    }

    /// WORK-5: each reason has its own answer, and changes nothing.
    #[tokio::test]
    async fn a_token_that_opens_nothing_says_why() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invite = async |email: &str| {
            let invitation = room.invite(&world, email).await;
            (token(&world, invitation.id).await, invitation)
        };
        let (used, _) = invite("used@example.se").await;
        assert!(matches!(accept_as(&world, &used, "Bo").await, Accepted::Joined(_)));
        let (revoked, invitation) = invite("revoked@example.se").await;
        room.revoke(&world, &invitation).await;
        let (replaced, invitation) = invite("replaced@example.se").await;
        room.resend(&world, &invitation).await.unwrap();
        let (old, _) = invite("old@example.se").await;
        let users = count(&world, "public.users").await;

        assert_eq!(shut(&world, &used).await, Shut::Accepted);
        assert_eq!(shut(&world, &revoked).await, Shut::Revoked);
        assert_eq!(shut(&world, &replaced).await, Shut::Unknown);
        assert_eq!(shut(&world, &LinkToken::random(&world.organization.slug)).await, Shut::Unknown);
        let nobodys = LinkToken::random(&crate::domain::Slug::parse("nobody").unwrap());
        assert_eq!(shut(&world, &nobodys).await, Shut::Unknown);
        world.app.clock.advance(Duration::days(7));
        assert_eq!(shut(&world, &old).await, Shut::Expired);
        assert_eq!(count(&world, "public.users").await, users);
        assert_eq!(count(&world, "org_acme.workspace_members").await, 3, "Anna, Bo and Bo's own");
    }

    /// WORK-5, TEN-5
    #[tokio::test]
    async fn what_is_gone_or_held_or_was_ended_by_an_admin_stays_shut() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let bo = account(&world.app.db, "bo@example.se", "Bo", world.now()).await;
        let invitation = room.invite(&world, "bo@example.se").await;
        let token = token(&world, invitation.id).await;

        let held = "update public.organizations set billing_status = $1";
        for (status, open) in [(BillingStatus::Suspended, false), (BillingStatus::Active, true)] {
            sqlx::query(held).bind(status.as_str()).execute(&world.app.db).await.unwrap();
            if !open {
                assert_eq!(shut(&world, &token).await, Shut::Held);
            }
        }
        let mut db = world.app.db.acquire().await.unwrap();
        memberships::add(&mut db, world.organization.id, bo.id, Role::User, None, world.now()).await.unwrap();
        memberships::remove(&mut db, (world.organization.id, bo.id), world.now()).await.unwrap();
        assert_eq!(shut(&world, &token).await, Shut::Removed);
        memberships::add(&mut db, world.organization.id, bo.id, Role::User, None, world.now()).await.unwrap();
        let mut tx = world.tenant().await;
        assert!(delete(&mut tx, (room.workspace.id, room.owner.id), &asked(world.now())).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(shut(&world, &token).await, Shut::Revoked);
    }

    /// WORK-5: what fails at its last step has changed nothing on either plane.
    #[tokio::test]
    async fn accepting_is_one_transaction_over_both_planes() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "bo@example.se").await;
        let token = token(&world, invitation.id).await;
        let last = "alter table org_acme.events add constraint no check (kind <> 'workspace.invitation_accepted')";
        sqlx::query(last).execute(&world.app.db).await.unwrap();
        let before = (count(&world, "public.users").await, count(&world, "org_acme.events").await);

        let password = Password::parse("correct horse battery").unwrap();
        let password = world.app.hash_password(password).await.unwrap();
        let failed = accept(&world.app, &token, Some(NewPerson { name: "Bo".to_owned(), password })).await;

        assert!(matches!(failed, Err(StoreError::Database(_))), "{failed:?}");
        assert_eq!((count(&world, "public.users").await, count(&world, "org_acme.events").await), before);
        assert_eq!(count(&world, "public.organization_members").await, 1);
        assert_eq!(count(&world, "org_acme.workspace_members").await, 1);
        assert_eq!(reload(&world, invitation.id).await.state, InvitationState::Open);
    }

    /// WORK-2, WORK-5
    #[tokio::test]
    async fn of_many_who_accept_at_once_one_does() {
        let world = World::new().await;
        let room = Room::new(&world).await;
        let invitation = room.invite(&world, "bo@example.se").await;
        let token = token(&world, invitation.id).await;

        let all = futures::future::join_all((0..8).map(|_| accept_as(&world, &token, "Bo"))).await;

        let joined = all.iter().filter(|accepted| matches!(accepted, Accepted::Joined(_))).count();
        let used = all.iter().filter(|accepted| matches!(accepted, Accepted::Shut(Shut::Accepted, _))).count();
        assert_eq!((joined, used), (1, 7), "{all:?}");
        assert_eq!(count(&world, "public.users").await, 2);
        assert_eq!(count(&world, "public.organization_members").await, 2);
    }

    /// WORK-5, AUTH-1: two invitations into two workspaces, accepted at once by a person without an account, make one account.
    #[tokio::test]
    async fn two_invitations_accepted_at_once_make_one_account() {
        let world = World::new().await;
        let (one, two) = (Room::new(&world).await, Room::of(&world, "cia@example.se", "Cia").await);
        for round in 0..5 {
            let email = format!("bo{round}@example.se");
            let (first, second) = (one.invite(&world, &email).await, two.invite(&world, &email.to_uppercase()).await);
            let (first, second) = (token(&world, first.id).await, token(&world, second.id).await);

            let both = futures::join!(accept_as(&world, &first, "Bo"), accept_as(&world, &second, "Bo"));

            assert!(matches!(both, (Accepted::Joined(_), Accepted::Joined(_))), "{both:?}");
            let email = EmailAddress::parse(&email).unwrap();
            let bo = users::by_email(&mut world.app.db.acquire().await.unwrap(), &email).await.unwrap().unwrap();
            assert!(one.is_member(&world, bo.id).await && two.is_member(&world, bo.id).await);
        }
        assert_eq!(count(&world, "public.users").await, 7);
        assert_eq!(count(&world, "org_acme.workspaces where personal").await, 5);
    }
}
