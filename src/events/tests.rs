//! The hub on a real database: who is given what, when, and for how long.

use std::{
    collections::{BTreeSet, HashSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use backroom_queue::NewJob;
use chrono::{DateTime, Utc};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    domain::{Clock, EmailAddress, Language, NewUser, Role, Scope, WorkspaceName},
    store::{
        api_keys,
        events::{self, NewEvent},
        memberships, sessions, users, workspaces,
    },
    tenant::{self, TenantTx, testing::TestDatabase},
};

/// How long anything that should happen may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    hub: Hub,
    acme: Organization,
    key: Who,
    shutdown: CancellationToken,
    // Dropped after the hub.
    database: TestDatabase,
}

/// Neither polls nor heartbeats while a test lasts, so that what comes was notified.
fn settings() -> config::Events {
    config::Events {
        listen: true,
        poll_ms: 3_600_000,
        heartbeat_s: 3_600,
        buffer: 1_000,
        max_streams: 1_000,
        max_streams_per_organization: 1_000,
        max_streams_per_caller: 1_000,
    }
}

impl World {
    async fn new() -> Self {
        Self::with(settings()).await
    }

    async fn with(settings: config::Events) -> Self {
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        let key = key_of(&database, &acme).await;
        let shutdown = CancellationToken::new();
        let hub = Hub::new(database.pool.clone(), settings, &shutdown);
        Self { hub, acme, key, shutdown, database }
    }

    async fn follow(&self, who: Who, topics: &[&str]) -> Stream {
        let topics: Vec<Topic> = topics.iter().map(|topic| Topic::parse(topic).unwrap()).collect();
        let following = self.hub.follow(&self.acme, who, &topics, None).await.unwrap();
        Stream { following, topics }
    }

    async fn tenant(&self) -> TenantTx {
        tenant::begin(&self.database.pool, &self.acme).await.unwrap()
    }

    async fn tell(&self, topic: &str, n: u64) -> Uuid {
        let mut tx = self.tenant().await;
        let id = tell(&mut tx, topic, n).await;
        tx.commit().await.unwrap();
        id
    }

    /// A person in the organization, signed in.
    async fn person(&self, name: &str, role: Role) -> (Uuid, Who) {
        let mut db = self.database.pool.acquire().await.unwrap();
        let new = NewUser {
            email: EmailAddress::parse(&format!("{name}@example.se")).unwrap(),
            name: name.to_owned(),
            language: Language::Sv,
            password: None,
            confirmed_at: None,
        };
        let user = users::create(&mut db, &new, now()).await.unwrap().id;
        assert!(memberships::add(&mut db, self.acme.id, user, role, None, now()).await.unwrap());
        let session = sessions::begin(&mut db, (self.acme.id, user), now(), chrono::Duration::days(1)).await.unwrap();
        (user, Who::Person { user, session: session.session_id })
    }

    /// A workspace of the first, with the others in it.
    async fn workspace(&self, people: &[Uuid]) -> Uuid {
        let mut tx = self.tenant().await;
        let name = WorkspaceName::parse("Röda rummet").unwrap();
        let id = workspaces::insert(&mut tx, &name, people[0], now()).await.unwrap().id;
        for person in &people[1..] {
            assert!(workspaces::add_member(&mut tx, (id, *person), now()).await.unwrap());
        }
        tx.commit().await.unwrap();
        id
    }
}

fn now() -> DateTime<Utc> {
    crate::domain::Clock::system().now()
}

async fn key_of(database: &TestDatabase, organization: &Organization) -> Who {
    let scopes = [Scope::EventsRead, Scope::JobsRead].map(|scope| scope.as_str().to_owned());
    let mut db = database.pool.acquire().await.unwrap();
    let (key, _): (_, SecretString) = api_keys::create(&mut db, organization, "test", &scopes, now()).await.unwrap();
    Who::Key(key.id)
}

async fn tell(tx: &mut TenantTx, topic: &str, n: u64) -> Uuid {
    let event = NewEvent { topic: topic.to_owned(), kind: "test.happened", payload: json!({ "n": n }), actor: "test" };
    events::append(tx, &event, now()).await.unwrap()
}

/// A client.
struct Stream {
    following: Following,
    topics: Vec<Topic>,
}

/// One block, as a client reads it.
#[derive(Debug, PartialEq)]
struct Message {
    id: Option<String>,
    event: String,
    data: Value,
}

impl Message {
    fn read(frame: &Frame) -> Self {
        let text = std::str::from_utf8(frame).unwrap();
        assert!(text.ends_with("\n\n"), "{text:?}");
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned());
        Self {
            id: field("id:"),
            event: field("event:").unwrap_or_else(|| "message".to_owned()),
            data: field("data:").map_or(Value::Null, |data| serde_json::from_str(&data).unwrap()),
        }
    }

    fn event_id(&self) -> Uuid {
        assert_eq!(self.event, "message", "{self:?}");
        self.id.as_ref().unwrap_or_else(|| panic!("{self:?}")).parse().unwrap()
    }
}

impl Stream {
    async fn next(&mut self) -> Option<Message> {
        let frame = tokio::time::timeout(PATIENCE, self.following.next()).await.expect("a message comes");
        frame.map(|frame| Message::read(&frame))
    }

    async fn next_id(&mut self) -> Uuid {
        self.next().await.expect("an event").event_id()
    }

    /// Reads on to the end and answers its reason.
    async fn end(&mut self) -> String {
        let mut last = None;
        while let Some(message) = self.next().await {
            last = Some(message);
        }
        let last = last.expect("a last message");
        assert_eq!(last.event, "end", "{last:?}");
        last.data["reason"].as_str().unwrap().to_owned()
    }
}

const INVOICE: &str = "invoice:0199aaaa-0000-7000-8000-000000000000";
const COMPANY: &str = "company:0199aaaa-0000-7000-8000-000000000001";

/// EVT-2
#[tokio::test]
async fn followers_get_what_is_committed_in_their_topics_and_nothing_else() {
    let world = World::new().await;
    let before = world.tell(INVOICE, 0).await;
    let mut all = world.follow(world.key, &["organization"]).await;
    let mut invoice = world.follow(world.key, &[INVOICE]).await;
    let mut both = world.follow(world.key, &[COMPANY, INVOICE]).await;

    let mut rolled_back = world.tenant().await;
    tell(&mut rolled_back, INVOICE, 1).await;
    rolled_back.rollback().await.unwrap();
    world.tell("workspace:0199aaaa-0000-7000-8000-000000000002", 2).await;
    let company = world.tell(COMPANY, 3).await;
    let told = world.tell(INVOICE, 4).await;

    assert_eq!([all.next_id().await, all.next_id().await], [company, told]);
    assert_eq!([both.next_id().await, both.next_id().await], [company, told]);
    let message = invoice.next().await.unwrap();
    assert_eq!(message.event_id(), told);
    assert_eq!((&message.data["topic"], &message.data["kind"]), (&json!(INVOICE), &json!("test.happened")));
    assert_eq!((&message.data["payload"], &message.data["actor"]), (&json!({"n": 4}), &json!("test")));
    assert!(before < told);
}

/// EVT-2, TEN-3: two organizations on one hub.
#[tokio::test]
async fn no_organization_hears_another() {
    let world = World::new().await;
    let globex = world.database.organization("globex").await;
    let theirs = key_of(&world.database, &globex).await;
    let mut ours = world.follow(world.key, &["organization"]).await;
    let topics = [Topic::Organization];
    let following = world.hub.follow(&globex, theirs, &topics, None).await.unwrap();
    let mut others = Stream { following, topics: topics.to_vec() };

    let mut tx = tenant::begin(&world.database.pool, &globex).await.unwrap();
    let secret = tell(&mut tx, INVOICE, 1).await;
    tx.commit().await.unwrap();
    let own = world.tell(INVOICE, 2).await;

    assert_eq!(others.next_id().await, secret);
    assert_eq!(ours.next_id().await, own, "and not the other organization's, which came first");
}

/// EVT-2: transactions that overlap, followers that come and go in the middle of them. Within a stream nothing comes twice; over all
/// of a follower's streams nothing is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_what_was_missed_and_what_is_live() {
    const WRITERS: u64 = 3;
    const TRANSACTIONS: u64 = 60;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let world = World::new().await;
    let mut observer = world.follow(world.key, &[INVOICE]).await;

    let write = async |writer: u64| {
        let mut random = SmallRng::seed_from_u64(seed ^ writer);
        let mut told = Vec::new();
        for n in 0..TRANSACTIONS {
            let mut tx = world.tenant().await;
            for part in 0..random.random_range(1..4) {
                told.push(tell(&mut tx, INVOICE, n * 10 + part).await);
                if random.random_bool(0.3) {
                    tokio::time::sleep(Duration::from_millis(random.random_range(1..8))).await;
                }
            }
            tx.commit().await.unwrap();
        }
        told
    };
    let first = world.follow(world.key, &[INVOICE]).await;
    let first = Message::read(&frame::ready(first.following.seen().horizon(), &first.topics)).id.unwrap();
    let done = AtomicBool::new(false);
    let follow = async |follower: u64| {
        let mut random = SmallRng::seed_from_u64(seed ^ (follower << 32));
        let (mut had, mut place, mut twice) = (BTreeSet::new(), first.clone(), 0);
        loop {
            // A stream that begins after the last commit has nothing left to wait for but what was missed.
            let is_last = done.load(Ordering::Acquire);
            let mut client = world.follow(world.key, &[INVOICE]).await;
            let missed = world.hub.missed(&world.acme, &client.following, &client.topics, &place).await.unwrap();
            let Missed::Events(missed, _) = missed else { panic!("{missed:?}") };
            let (mut in_stream, mut missed) = (HashSet::new(), missed.iter().map(frame::event));
            let mut left = if is_last { usize::MAX } else { random.random_range(1..25) };
            while left > 0 {
                let frame = match missed.next() {
                    Some(frame) => frame,
                    None if is_last => break,
                    None => match tokio::time::timeout(Duration::from_millis(50), client.following.next()).await {
                        Ok(frame) => frame.expect("the stream goes on"),
                        Err(_) => break,
                    },
                };
                let message = Message::read(&frame);
                let id = message.event_id();
                assert!(in_stream.insert(id), "{id} came twice in one stream (seed {seed})");
                twice += usize::from(!had.insert(id));
                place = message.id.unwrap();
                left -= 1;
            }
            if is_last {
                return (had, twice);
            }
        }
    };
    let write_all = async {
        let told = futures::future::join_all((1..=WRITERS).map(write)).await;
        done.store(true, Ordering::Release);
        told
    };
    let (told, followed) = tokio::join!(write_all, futures::future::join_all((1..=3).map(follow)));

    let told: BTreeSet<Uuid> = told.into_iter().flatten().collect();
    let mut observed = BTreeSet::new();
    while observed.len() < told.len() {
        assert!(observed.insert(observer.next_id().await), "the stream that stayed got one twice (seed {seed})");
    }
    assert_eq!(observed, told);
    for (had, twice) in followed {
        let missing: Vec<_> = told.difference(&had).collect();
        assert!(missing.is_empty(), "{missing:?} lost, {twice} came twice (seed {seed})");
        println!("{} events, {twice} of them once more after a break", had.len());
    }
}

/// EVT-2: who does not read is let go; who reads is not kept waiting.
#[tokio::test]
async fn a_slow_follower_is_let_go_and_the_others_lose_nothing() {
    let world = World::with(config::Events { buffer: 4, ..settings() }).await;
    let mut slow = world.follow(world.key, &[INVOICE]).await;
    let mut quick = world.follow(world.key, &[INVOICE]).await;

    let mut told = Vec::new();
    for n in 0..12 {
        told.push(world.tell(INVOICE, n).await);
        assert_eq!(quick.next_id().await, told[told.len() - 1]);
    }

    for expected in &told[..4] {
        assert_eq!(slow.next_id().await, *expected, "what waited is still handed over");
    }
    let place = told[3].to_string();
    assert_eq!(slow.end().await, "slow");
    // And goes on where it was.
    let again = world.follow(world.key, &[INVOICE]).await;
    let missed = world.hub.missed(&world.acme, &again.following, &again.topics, &place).await.unwrap();
    let Missed::Events(missed, _) = missed else { panic!("{missed:?}") };
    // What ran beside transactions that were open then, anywhere on the server, may come again.
    let missed: Vec<Uuid> = missed.iter().map(|event| event.id).collect();
    assert!(missed.ends_with(&told[4..]), "{missed:?} after {place}");
}

/// EVT-2, WORK-9: a conversation is heard by its workspace's members alone, and no longer than they are.
#[tokio::test]
async fn who_leaves_a_workspace_hears_nothing_of_it_any_more() {
    let world = World::new().await;
    let (anna, anna_in) = world.person("anna", Role::User).await;
    let (bo, bo_in) = world.person("bo", Role::User).await;
    let (eva, eva_in) = world.person("eva", Role::Admin).await;
    let room = world.workspace(&[anna, bo]).await;
    let other = world.workspace(&[eva]).await;
    let conversation = format!("workspace:{room}:conversation:{}", Uuid::now_v7());
    let elsewhere = format!("workspace:{other}:conversation:{}", Uuid::now_v7());
    let mut annas = world.follow(anna_in, &[&conversation]).await;
    let mut bos = world.follow(bo_in, &[&conversation]).await;
    let mut evas = world.follow(eva_in, &["organization", &elsewhere]).await;

    let hello = world.tell(&conversation, 1).await;
    assert_eq!([annas.next_id().await, bos.next_id().await], [hello, hello]);
    let mut tx = world.tenant().await;
    assert!(workspaces::remove_member(&mut tx, room, bo).await.unwrap());
    tell(&mut tx, &format!("workspace:{room}"), 2).await;
    tx.commit().await.unwrap();
    let secret = world.tell(&conversation, 3).await;

    assert_eq!(annas.next_id().await, secret);
    assert_eq!(bos.end().await, "not_allowed");
    let own = world.tell(&elsewhere, 4).await;
    assert_eq!(evas.next_id().await, own, "an admin hears no workspace but her own");
    // The removal came in the same transaction as a message: whoever was removed is not given the message.
    let mut tx = world.tenant().await;
    assert!(workspaces::add_member(&mut tx, (room, eva), now()).await.unwrap());
    tx.commit().await.unwrap();
    let mut evas = world.follow(eva_in, &[&conversation]).await;
    let mut tx = world.tenant().await;
    tell(&mut tx, &conversation, 5).await;
    assert!(workspaces::remove_member(&mut tx, room, eva).await.unwrap());
    tell(&mut tx, &format!("workspace:{room}"), 6).await;
    tx.commit().await.unwrap();
    assert_eq!(evas.next().await.unwrap().event, "end");
}

/// EVT-2
#[tokio::test]
async fn who_is_taken_out_of_the_organization_or_loses_the_role_hears_nothing_any_more() {
    let world = World::new().await;
    let (anna, anna_in) = world.person("anna", Role::Admin).await;
    let (bo, bo_in) = world.person("bo", Role::Developer).await;
    let (_, eva_in) = world.person("eva", Role::Admin).await;
    let mut streams = Vec::new();
    for who in [anna_in, bo_in, eva_in] {
        streams.push(world.follow(who, &[INVOICE]).await);
    }
    let told = ("user:eva", now());
    let tx = world.database.pool.begin().await.unwrap();
    tenant::end_membership(tx, &world.acme, anna, told).await.unwrap().commit().await.unwrap();
    let tx = world.database.pool.begin().await.unwrap();
    tenant::give_role(tx, &world.acme, bo, (Role::User, None), told).await.unwrap().commit().await.unwrap();
    let secret = world.tell(INVOICE, 1).await;

    let mut evas = streams.pop().unwrap();
    assert_eq!(evas.next_id().await, secret);
    for mut ended in streams {
        let only = ended.next().await.unwrap();
        assert_eq!((only.event.as_str(), only.data["reason"].as_str()), ("end", Some("not_allowed")));
    }
}

/// EVT-2: nothing tells of these ends but the rows; the next heartbeat asks them.
#[tokio::test]
async fn an_ended_session_membership_or_key_ends_its_streams_with_the_next_heartbeat() {
    let world = World::with(config::Events { heartbeat_s: 1, ..settings() }).await;
    let (_, signed_out) = world.person("anna", Role::Admin).await;
    let (bo, removed) = world.person("bo", Role::Admin).await;
    let (eva, demoted) = world.person("eva", Role::Admin).await;
    let (_, stays) = world.person("ida", Role::Admin).await;
    let Who::Key(key) = world.key else { unreachable!() };
    let mut streams = Vec::new();
    for who in [signed_out, removed, demoted, world.key, stays] {
        streams.push(world.follow(who, &["organization"]).await);
    }
    let mut staying = streams.pop().unwrap();

    let mut db = world.database.pool.acquire().await.unwrap();
    let Who::Person { session, .. } = signed_out else { unreachable!() };
    sessions::end(&mut db, session, sessions::EndReason::SignedOut, now()).await.unwrap();
    memberships::remove(&mut db, (world.acme.id, bo), now()).await.unwrap();
    memberships::set_role(&mut db, (world.acme.id, eva), Role::User, None, now()).await.unwrap();
    assert!(api_keys::revoke(&mut db, world.acme.id, key, now()).await.unwrap());

    for mut ended in streams {
        assert_eq!(ended.end().await, "not_allowed");
    }
    let beat = staying.next().await.unwrap();
    assert!(beat.id.as_ref().is_some_and(|id| id.starts_with('x')) && beat.data.is_null(), "{beat:?}");
    let told = loop {
        let told = world.tell(INVOICE, 1).await;
        match staying.next().await.unwrap() {
            message if message.data.is_null() => continue,
            message => break (message.event_id(), told),
        }
    };
    assert!(told.0 <= told.1);
}

/// EVT-2: the place that a heartbeat names is one to go on from.
#[tokio::test]
async fn a_heartbeat_moves_the_place_to_go_on_from() {
    let world = World::with(config::Events { heartbeat_s: 1, ..settings() }).await;
    let mut client = world.follow(world.key, &[INVOICE]).await;
    world.tell(COMPANY, 0).await;
    let place = client.next().await.unwrap().id.unwrap();
    let told = [world.tell(INVOICE, 1).await, world.tell(INVOICE, 2).await];

    let missed = async |place: &str| {
        world.hub.missed(&world.acme, &world.follow(world.key, &[INVOICE]).await.following, &client.topics, place).await
    };
    let Missed::Events(events, _) = missed(&place).await.unwrap() else { panic!("{place}") };
    let events: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    assert!(events.ends_with(&told), "{events:?} after {place}");
    for unknown in ["x999999999999", "nonsense", "0199aaaa-0000-7000-8000-0000000000ff", "x-1", "%00"] {
        assert!(matches!(missed(unknown).await.unwrap(), Missed::Unknown), "{unknown}");
    }
}

/// EVT-2: the connection that listens is cut; what was committed meanwhile comes when there is a new one.
#[tokio::test]
async fn a_new_listener_brings_what_the_lost_one_missed() {
    const LISTENERS: &str =
        "select pid from pg_stat_activity where datname = current_database() and query ilike 'listen%'";
    let world = World::new().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(world.follow(world.key, &[INVOICE]).await);
    }
    let first = world.tell(INVOICE, 1).await;
    for client in &mut clients {
        assert_eq!(client.next_id().await, first);
    }
    // The first event may have come by the followers' own first look.
    let listeners = async || {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pids: Vec<i32> = sqlx::query_scalar(LISTENERS).fetch_all(&world.database.pool).await.unwrap();
            if !pids.is_empty() {
                return pids;
            }
            assert!(Instant::now() < deadline, "nobody listens");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(listeners().await.len(), 1, "one for twenty followers");

    let mut told = Vec::new();
    for n in 0..5 {
        for pid in listeners().await {
            sqlx::query("select pg_terminate_backend($1)").bind(pid).execute(&world.database.pool).await.unwrap();
        }
        told.push(world.tell(INVOICE, n).await);
    }

    for client in &mut clients {
        for expected in &told {
            assert_eq!(client.next_id().await, *expected);
        }
    }
}

/// EVT-2: behind a pooler that has no LISTEN.
#[tokio::test]
async fn without_listening_it_polls() {
    let world = World::with(config::Events { listen: false, poll_ms: 50, ..settings() }).await;
    let mut client = world.follow(world.key, &[INVOICE]).await;
    for n in 0..3 {
        let told = world.tell(INVOICE, n).await;
        assert_eq!(client.next_id().await, told);
    }
}

/// EVT-2
#[tokio::test]
async fn a_stopping_process_ends_its_streams_and_opens_no_more() {
    let world = World::new().await;
    let mut client = world.follow(world.key, &[INVOICE]).await;
    world.shutdown.cancel();
    assert_eq!(client.end().await, "shutdown");
    let refused = world.hub.follow(&world.acme, world.key, &[Topic::Organization], None).await;
    assert!(matches!(refused, Err(FollowError::Stopping)));
}

/// EVT-2
#[tokio::test]
async fn streams_are_counted_and_a_dropped_one_makes_room() {
    let world = World::with(config::Events { max_streams: 3, max_streams_per_caller: 2, ..settings() }).await;
    let other = key_of(&world.database, &world.acme).await;
    let topics = [Topic::Organization];
    let follow = |who| world.hub.follow(&world.acme, who, &topics, None);
    let (one, _two) = (follow(world.key).await.unwrap(), follow(world.key).await.unwrap());
    assert!(matches!(follow(world.key).await, Err(FollowError::TooMany)));
    let _three = follow(other).await.unwrap();
    assert!(matches!(follow(other).await, Err(FollowError::Full)));
    drop(one);
    assert!(follow(other).await.is_ok());
}

/// EVT-2: another sign-in gives a person no more streams, and one organization cannot take the streams of all.
#[tokio::test]
async fn streams_are_counted_by_person_and_by_organization() {
    let limits = config::Events { max_streams_per_organization: 3, max_streams_per_caller: 2, ..settings() };
    let world = World::with(limits).await;
    let globex = world.database.organization("globex").await;
    let topics = [Topic::Organization];
    let follow = |organization, who| world.hub.follow(organization, who, &topics, None);
    let user = Uuid::now_v7();
    let signed_in = || Who::Person { user, session: Uuid::now_v7() };
    let _two = (follow(&world.acme, signed_in()).await.unwrap(), follow(&world.acme, signed_in()).await.unwrap());
    assert!(matches!(follow(&world.acme, signed_in()).await, Err(FollowError::TooMany)));
    let _three = follow(&world.acme, world.key).await.unwrap();
    let another = Who::Key(Uuid::now_v7());
    assert!(matches!(follow(&world.acme, another).await, Err(FollowError::TooMany)));
    assert!(follow(&globex, another).await.is_ok());
}

/// EVT-2: what was missed is bounded in bytes, for one stream and for all of them together.
#[tokio::test]
async fn who_missed_too_many_bytes_reads_anew() {
    let world = World::new().await;
    let client = world.follow(world.key, &[INVOICE]).await;
    let place = Message::read(&frame::ready(client.following.seen().horizon(), &client.topics)).id.unwrap();
    let missed = async || {
        let again = world.follow(world.key, &[INVOICE]).await;
        world.hub.missed(&world.acme, &again.following, &client.topics, &place).await.unwrap()
    };
    let tell = async |bytes: usize| {
        let mut tx = tenant::begin(&world.database.pool, &world.acme).await.unwrap();
        let payload = json!({ "text": "x".repeat(bytes) });
        let event = NewEvent { topic: INVOICE.to_owned(), kind: "invoice.changed", payload, actor: "test" };
        events::append(&mut tx, &event, Clock::system().now()).await.unwrap();
        tx.commit().await.unwrap();
    };
    tell(1_500_000).await;
    let mut held = Vec::new();
    while let Missed::Events(events, memory) = missed().await {
        assert_eq!(events.len(), 1);
        held.push(memory);
        assert!(held.len() < 60, "nothing bounds what is held");
    }
    assert!(held.len() > 30, "only {} streams could come back", held.len());
    drop(held);
    assert!(matches!(missed().await, Missed::Events(..)), "what was read is free again");
    tell(1_500_000).await;
    assert!(matches!(missed().await, Missed::TooMuch));
}

/// EVT-2: `job:<id>`
#[tokio::test]
async fn who_follows_a_job_is_told_its_states() {
    let world = World::new().await;
    let job = NewJob::named("debug.noop", json!({})).tenant("acme");
    backroom_queue::enqueue(&world.database.pool, &job).await.unwrap();
    let topic = format!("job:{}", job.id);
    let mut client = world.follow(world.key, &[&topic]).await;
    let first = client.next().await.unwrap();
    assert_eq!((first.id, first.data["payload"]["state"].as_str()), (None, Some("available")));
    assert_eq!((first.data["topic"].as_str(), first.data["kind"].as_str()), (Some(topic.as_str()), Some("job.state")));

    let mut db = world.database.pool.acquire().await.unwrap();
    backroom_queue::cancel(&mut db, job.id, Some("acme"), "not needed").await.unwrap();
    assert_eq!(client.next().await.unwrap().data["payload"]["state"], "cancelled");
}

/// EVT-2: a token that has run out opens nothing any more, and a stream that it opened ends.
#[tokio::test]
async fn a_stream_ends_with_the_time_of_its_token() {
    let world = World::new().await;
    let until = Some(tokio::time::Instant::now() + Duration::from_millis(50));
    let topics = [Topic::Organization];
    let following = world.hub.follow(&world.acme, world.key, &topics, until).await.unwrap();
    assert_eq!(Stream { following, topics: topics.to_vec() }.end().await, "expired");
}

/// EVT-2: one transaction's thousand events are no reason to let anybody go who keeps up.
#[tokio::test]
async fn a_large_transaction_is_handed_over_whole() {
    let world = World::with(config::Events { buffer: 4, ..settings() }).await;
    let mut client = world.follow(world.key, &[INVOICE]).await;
    let mut tx = world.tenant().await;
    let mut told = Vec::new();
    for n in 0..1_000 {
        told.push(tell(&mut tx, INVOICE, n).await);
    }
    tx.commit().await.unwrap();
    for expected in told {
        assert_eq!(client.next_id().await, expected);
    }
}
