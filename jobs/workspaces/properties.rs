//! Random histories of invitations and memberships, against a model: alone, and many hands at once.

use chrono::Duration;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use uuid::Uuid;

use super::{
    Accepted, ExpireInvitations, InviteError, Shut, accept, doors,
    testing::{Room, account, asked, reload, token},
};
use crate::{
    domain::{Invitation, InvitationState as State, InvitationStep as Step},
    jobs::testing::World,
    store::{Page, events, memberships, workspaces},
};

/// An invitation as the model has it.
struct Modelled {
    state: State,
    expires_in: i64,
}

impl Modelled {
    /// Where it is now; the sweep need not have been by.
    fn standing(&self) -> State {
        if self.state == State::Open && self.expires_in <= 0 { State::Expired } else { self.state }
    }
}

/// WORK-3, WORK-5, WORK-6: no sequence of calls brings an invitation where the state machine does not let it go.
#[tokio::test]
async fn no_sequence_of_calls_reaches_a_forbidden_state() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let world = World::new().await;
    let room = Room::new(&world).await;
    for case in 0..40 {
        let email = format!("bo{case}@example.se");
        let bo = account(&world.app.db, &email, "Bo", world.now()).await;
        let mut invitation = room.invite(&world, &email).await;
        let mut model = Modelled { state: State::Open, expires_in: 7 };
        let (mut member, mut history) = (false, Vec::new());
        for _ in 0..14 {
            match random.random_range(0..8) {
                0 => {
                    let days = random.random_range(1..6);
                    history.push(format!("{days} days"));
                    world.app.clock.advance(Duration::days(days));
                    model.expires_in -= days;
                }
                1 => {
                    history.push("sweep".to_owned());
                    world.run(&ExpireInvitations {}).await;
                    if model.standing() == State::Expired {
                        model.state = model.state.after(Step::Expire).unwrap_or(model.state);
                    }
                }
                2 => {
                    history.push("revoke".to_owned());
                    let revoked = room.revoke(&world, &invitation).await;
                    assert_eq!(revoked, model.state.after(Step::Revoke).is_some(), "{history:?}");
                    model.state = model.state.after(Step::Revoke).unwrap_or(model.state);
                }
                3 => {
                    history.push("resend".to_owned());
                    match room.resend(&world, &invitation).await {
                        Ok(renewed) => {
                            assert!(!member, "{history:?}");
                            assert!(renewed.token_number > invitation.token_number, "{history:?}");
                            model.state = model.state.after(Step::Resend).expect("the model allows it");
                            model.expires_in = 7;
                        }
                        Err(InviteError::Member) => assert!(member, "{history:?}"),
                        Err(InviteError::Ended(state)) => {
                            assert_eq!(state, model.state, "{history:?}");
                            assert_eq!(model.state.after(Step::Resend), None, "{history:?}");
                        }
                        Err(InviteError::TooMany) => history.push("too many".to_owned()),
                        Err(error) => panic!("{error} after {history:?}"),
                    }
                }
                4 => {
                    history.push("invite".to_owned());
                    match room.try_invite(&world, &email).await {
                        Ok(new) => {
                            assert!(!member && model.standing() != State::Open, "{history:?}");
                            // The one that was past its time has been put aside.
                            assert_eq!(reload(&world, invitation.id).await.state, model.standing(), "{history:?}");
                            (invitation, model) = (new, Modelled { state: State::Open, expires_in: 7 });
                        }
                        Err(InviteError::Member) => assert!(member, "{history:?}"),
                        Err(InviteError::Store(_)) => assert_eq!(model.standing(), State::Open, "{history:?}"),
                        Err(InviteError::TooMany) => history.push("too many".to_owned()),
                        Err(error) => panic!("{error} after {history:?}"),
                    }
                }
                5 => {
                    history.push("leave".to_owned());
                    let mut tx = world.tenant().await;
                    let left = doors::leave(&mut tx, (room.workspace.id, bo.id), &asked(world.now())).await.unwrap();
                    tx.commit().await.unwrap();
                    assert_eq!(left, member, "{history:?}");
                    member = false;
                }
                _ => {
                    history.push("accept".to_owned());
                    // Long finished jobs have no token to take; one that still waits has the latest.
                    let token = token(&world, invitation.id).await;
                    let expected = model.standing();
                    match accept(&world.app, &token, None).await.unwrap() {
                        Accepted::Joined(_) => {
                            assert_eq!((expected, member), (State::Open, false), "{history:?}");
                            (model.state, member) = (State::Accepted, true);
                        }
                        Accepted::WasMember(_) => {
                            assert_eq!((expected, member), (State::Open, true), "{history:?}");
                            model.state = State::Accepted;
                        }
                        Accepted::Shut(why, _) => {
                            let state = match why {
                                Shut::Accepted => State::Accepted,
                                Shut::Revoked => State::Revoked,
                                Shut::Expired => State::Expired,
                                other => panic!("{other:?} after {history:?}"),
                            };
                            assert_eq!(state, expected, "{history:?}");
                        }
                        Accepted::NeedsPassword(_) => panic!("there is an account, {history:?}"),
                    }
                }
            }
            let stored = reload(&world, invitation.id).await;
            assert_eq!((stored.state, stored.state_at(world.now())), (model.state, model.standing()), "{history:?}");
            assert_eq!(room.is_member(&world, bo.id).await, member, "{history:?}");
        }
    }
    let open_twice: i64 = sqlx::query_scalar(
        "select count(*) from (select from org_acme.invitations where state = 'open' group by email_key having count(*) > 1) t",
    )
    .fetch_one(&world.app.db)
    .await
    .unwrap();
    assert_eq!(open_twice, 0);
}

/// What one hand did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Joined,
    Went,
    Nothing,
}

/// WORK-2, WORK-5: whatever people do at once, a membership is there or not, once, the owner stays, and the events tell the same story.
#[tokio::test]
async fn memberships_hold_under_accepting_leaving_and_removing_at_once() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let world = World::new().await;
    let room = Room::new(&world).await;
    for round in 0..12 {
        let mut people = Vec::new();
        for n in 0..2 {
            let email = format!("bo{round}-{n}@example.se");
            people.push((account(&world.app.db, &email, "Bo", world.now()).await, room.invite(&world, &email).await));
        }
        for (person, invitation) in &people {
            let mut net = 0;
            for turn in 0..3 {
                let invitation = fresh(&world, &room, invitation, person.email.as_str(), turn).await;
                let hands: Vec<u8> = (0..6).map(|_| random.random_range(0..4)).collect();
                let deeds = hands.iter().map(|hand| deed(&world, &room, person.id, invitation.as_ref(), *hand));
                for deed in futures::future::join_all(deeds).await {
                    net += match deed {
                        Deed::Joined => 1,
                        Deed::Went => -1,
                        Deed::Nothing => 0,
                    };
                }
                assert!([0, 1].contains(&net), "{hands:?} left {net} memberships");
                assert_eq!(room.is_member(&world, person.id).await, net == 1, "{hands:?}");
                assert_eq!(told(&world, &room, person.id).await, net, "the events tell otherwise: {hands:?}");
            }
        }
        assert!(room.is_member(&world, room.owner.id).await, "the owner stays");
    }
    let organization = world.organization.id;
    let place =
        memberships::find(&mut world.app.db.acquire().await.unwrap(), organization, room.owner.id).await.unwrap();
    assert!(place.is_some());
}

/// The first turn's invitation, or a new one if the person may be invited.
async fn fresh(world: &World, room: &Room, first: &Invitation, email: &str, turn: u32) -> Option<Invitation> {
    match turn {
        0 => Some(first.clone()),
        _ => room.try_invite(world, email).await.ok(),
    }
}

async fn deed(world: &World, room: &Room, person: Uuid, invitation: Option<&Invitation>, hand: u8) -> Deed {
    let mut tx = world.tenant().await;
    let asked = asked(world.now());
    let went = match hand {
        0 => doors::leave(&mut tx, (room.workspace.id, person), &asked).await.unwrap(),
        1 => doors::remove(&mut tx, (room.workspace.id, person), &asked).await.unwrap(),
        // The owner tries too, and never gets out.
        2 => doors::leave(&mut tx, (room.workspace.id, room.owner.id), &asked).await.unwrap(),
        _ => {
            drop(tx);
            let Some(invitation) = invitation else { return Deed::Nothing };
            let token = token(world, invitation.id).await;
            let accepted = accept(&world.app, &token, None).await.unwrap();
            return if matches!(accepted, Accepted::Joined(_)) { Deed::Joined } else { Deed::Nothing };
        }
    };
    tx.commit().await.unwrap();
    if went { Deed::Went } else { Deed::Nothing }
}

/// Arrivals less departures of the person, by the events.
async fn told(world: &World, room: &Room, person: Uuid) -> i32 {
    let topic = super::topic(room.workspace.id);
    let page = events::page(&mut *world.tenant().await, Some(&topic), Page::first(10_000)).await.unwrap();
    let of_person = page.iter().filter(|event| event.payload["user_id"] == person.to_string());
    of_person
        .map(|event| match event.kind.as_str() {
            "workspace.member_joined" => 1,
            "workspace.member_left" | "workspace.member_removed" => -1,
            _ => 0,
        })
        .sum()
}

/// WORK-1, WORK-2: deleting and accepting at once leaves no member behind in a deleted workspace who could reach it.
#[tokio::test]
async fn a_workspace_that_is_deleted_while_somebody_accepts_is_gone_for_both() {
    let world = World::new().await;
    for round in 0..10 {
        let room = Room::of(&world, &format!("anna{round}@example.se"), "Anna").await;
        let bo = account(&world.app.db, &format!("bo{round}@example.se"), "Bo", world.now()).await;
        let invitation = room.invite(&world, bo.email.as_str()).await;
        let token = token(&world, invitation.id).await;
        let delete = async {
            let mut tx = world.tenant().await;
            let owned = (room.workspace.id, room.owner.id);
            assert!(doors::delete(&mut tx, owned, &asked(world.now())).await.unwrap());
            tx.commit().await.unwrap();
        };

        let (accepted, ()) = futures::join!(accept(&world.app, &token, None), delete);

        let ended = reload(&world, invitation.id).await.state;
        match accepted.unwrap() {
            Accepted::Joined(_) => assert_eq!(ended, State::Accepted),
            Accepted::Shut(Shut::Revoked, _) => assert_eq!(ended, State::Revoked),
            other => panic!("{other:?}"),
        }
        for person in [room.owner.id, bo.id] {
            assert!(!room.is_member(&world, person).await);
            assert!(
                workspaces::of_user(&mut *world.tenant().await, person, Page::first(9))
                    .await
                    .unwrap()
                    .iter()
                    .all(|membership| membership.workspace.personal)
            );
        }
    }
}
