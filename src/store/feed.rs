//! `events` as they become visible (EVT-2): what was committed since a look, and what somebody missed.
//!
//! Ids are made before the commit, so neither they nor times say what a reader has seen. PostgreSQL's snapshots do: one names the
//! transactions whose rows it shows. Two looks, each with its snapshot, divide the events between them exactly, in whatever order
//! their transactions committed and however long they took. Why this is so: docs/decisions/0019-live-events.md.

use std::{collections::HashSet, str::FromStr};

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Page, StoreError, events::Event, stored};
use crate::domain::{Role, Scope};

/// The transactions that a look has seen the end of: `pg_snapshot` in its text form, `xmin:xmax:xip,…`. All below `xmin`, none from
/// `xmax` on, and between them all but those of `xip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    text: String,
    xmin: u64,
    xmax: u64,
    in_flight: Vec<String>,
}

impl Snapshot {
    /// Every transaction below this one has been seen.
    pub fn horizon(&self) -> u64 {
        self.xmin
    }

    /// Whether it can be a horizon of this installation's past.
    pub fn has_begun(&self, horizon: u64) -> bool {
        horizon <= self.xmax
    }
}

impl FromStr for Snapshot {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let refuse = || StoreError::Stored { column: "pg_current_snapshot()", reason: "has another form".to_owned() };
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(xip), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(refuse());
        };
        Ok(Self {
            text: text.to_owned(),
            xmin: xmin.parse().map_err(|_| refuse())?,
            xmax: xmax.parse().map_err(|_| refuse())?,
            in_flight: xip.split(',').filter(|xid| !xid.is_empty()).map(str::to_owned).collect(),
        })
    }
}

/// Which events somebody follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// All of the organization, but for its workspaces'.
    pub organization: bool,
    /// And those of these topics.
    pub topics: Vec<String>,
}

impl Filter {
    pub fn takes(&self, topic: &str) -> bool {
        (self.organization && !topic.starts_with(crate::domain::topic::WORKSPACES))
            || self.topics.iter().any(|followed| followed == topic)
    }
}

/// Up to where a follower has been given everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Every event of a transaction below this one.
    horizon: u64,
    /// And of this transaction those up to this id.
    last: Option<(u64, Uuid)>,
}

impl Position {
    pub fn at(horizon: u64) -> Self {
        Self { horizon, last: None }
    }
}

/// The transactions that have ended by now.
pub async fn snapshot(db: &mut PgConnection) -> Result<Snapshot, StoreError> {
    sqlx::query_scalar!(r#"select pg_current_snapshot()::text as "snapshot!""#).fetch_one(db).await?.parse()
}

/// What `now` shows and `seen` did not, in the order in which it is to be given: by transaction, then by id.
pub async fn between(
    db: &mut PgConnection,
    (seen, now): (&Snapshot, &Snapshot),
    filter: &Filter,
    limit: i64,
) -> Result<Vec<Event>, StoreError> {
    // What `seen` did not show: the transactions that were under way, and those that had not begun. Each half is a search in
    // the index, also while somebody holds a transaction open for hours.
    let xmax = seen.xmax.to_string();
    Ok(sqlx::query_as!(
        Event,
        r#"select e.id as "id!", e.topic as "topic!", e.kind as "kind!", e.payload as "payload!", e.actor as "actor!",
                  e.created_at as "created_at!"
           from (select * from events where xid = any($1::text[]::xid8[])
                 union all
                 select * from events where xid >= $2::text::xid8) e
           where pg_visible_in_snapshot(e.xid, $3::text::pg_snapshot)
             and (($4 and not starts_with(e.topic, 'workspace:')) or e.topic = any($5))
           order by e.xid, e.id limit $6"#,
        &seen.in_flight,
        xmax,
        now.text,
        filter.organization,
        &filter.topics,
        limit
    )
    .fetch_all(db)
    .await?)
}

/// Where whoever was given this event last, and all before it, goes on. `None`: there is no such event, or not any more.
pub async fn after_event(db: &mut PgConnection, id: Uuid) -> Result<Option<Position>, StoreError> {
    let row = sqlx::query!(r#"select xid::text as "xid!", horizon::text as "horizon!" from events where id = $1"#, id)
        .fetch_optional(db)
        .await?;
    row.map(|row| {
        let xid = stored("events.xid", &row.xid)?;
        Ok(Position { horizon: stored("events.horizon", &row.horizon)?, last: Some((xid, id)) })
    })
    .transpose()
}

/// How many events, up to `limit`, [`missed`] would answer, and how large their payloads are as text, in bytes.
pub async fn weight_of_missed(
    db: &mut PgConnection,
    (position, seen): (Position, &Snapshot),
    filter: &Filter,
    limit: i64,
) -> Result<(i64, i64), StoreError> {
    let (xid, id) = position.last.unwrap_or((0, Uuid::nil()));
    let row = sqlx::query!(
        r#"select count(*) as "events!", coalesce(sum(octet_length(payload::text)), 0) as "bytes!"
           from (select payload from events
                 where xid >= $1::text::xid8 and not (xid = $2::text::xid8 and id <= $3)
                   and pg_visible_in_snapshot(xid, $4::text::pg_snapshot)
                   and (($5 and not starts_with(topic, 'workspace:')) or topic = any($6))
                 order by xid, id limit $7) e"#,
        position.horizon.to_string(),
        xid.to_string(),
        id,
        seen.text,
        filter.organization,
        &filter.topics,
        limit
    )
    .fetch_one(db)
    .await?;
    Ok((row.events, row.bytes))
}

/// What `seen` shows and lies after the position. Nothing is left out; what belongs to transactions that ran beside the last event's
/// may have been given before.
pub async fn missed(
    db: &mut PgConnection,
    (position, seen): (Position, &Snapshot),
    filter: &Filter,
    limit: i64,
) -> Result<Vec<Event>, StoreError> {
    let (xid, id) = position.last.unwrap_or((0, Uuid::nil()));
    let (horizon, xid) = (position.horizon.to_string(), xid.to_string());
    // Two statements, because the planner serves a topic and all of them by different indexes.
    if filter.organization {
        return Ok(sqlx::query_as!(
            Event,
            "select id, topic, kind, payload, actor, created_at from events
             where xid >= $1::text::xid8 and not (xid = $2::text::xid8 and id <= $3)
               and pg_visible_in_snapshot(xid, $4::text::pg_snapshot)
               and (not starts_with(topic, 'workspace:') or topic = any($5))
             order by xid, id limit $6",
            horizon,
            xid,
            id,
            seen.text,
            &filter.topics,
            limit
        )
        .fetch_all(db)
        .await?);
    }
    Ok(sqlx::query_as!(
        Event,
        "select id, topic, kind, payload, actor, created_at from events
         where topic = any($5) and xid >= $1::text::xid8 and not (xid = $2::text::xid8 and id <= $3)
           and pg_visible_in_snapshot(xid, $4::text::pg_snapshot)
         order by xid, id limit $6",
        horizon,
        xid,
        id,
        seen.text,
        &filter.topics,
        limit
    )
    .fetch_all(db)
    .await?)
}

/// A page of the activity log, in the order of ids.
pub async fn page(db: &mut PgConnection, filter: &Filter, page: Page) -> Result<Vec<Event>, StoreError> {
    let mut query = sqlx::QueryBuilder::new("select id, topic, kind, payload, actor, created_at from events where (");
    if filter.organization {
        query.push("not starts_with(topic, 'workspace:') or ");
    }
    query.push("topic = any(").push_bind(filter.topics.clone()).push("))");
    page.push_to(&mut query);
    Ok(query.build_query_as().fetch_all(db).await?)
}

/// The person's place in the organization and the sessions that are still open, as they are now.
#[derive(Clone, Debug)]
pub struct Standing {
    pub user_id: Uuid,
    pub role: Role,
    pub session: Uuid,
}

/// Of these people's sessions those that are open, of people who are still in the organization. On the control plane.
pub async fn standing(
    db: &mut PgConnection,
    organization: Uuid,
    sessions: &[Uuid],
) -> Result<Vec<Standing>, StoreError> {
    let rows = sqlx::query!(
        "select s.id, s.user_id, m.role
         from public.sessions s
         join public.organization_members m on m.organization_id = s.organization_id and m.user_id = s.user_id
         where s.organization_id = $1 and s.id = any($2) and s.ended_at is null and m.ended_at is null",
        organization,
        sessions
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let role = stored("organization_members.role", &row.role)?;
            Ok(Standing { user_id: row.user_id, role, session: row.id })
        })
        .collect()
}

/// Of these keys those that are not revoked, with what they may do. On the control plane.
pub async fn live_keys(
    db: &mut PgConnection,
    organization: Uuid,
    keys: &[Uuid],
) -> Result<Vec<(Uuid, Vec<Scope>)>, StoreError> {
    let rows = sqlx::query!(
        "select id, scopes from public.api_keys where organization_id = $1 and id = any($2) and revoked_at is null",
        organization,
        keys
    )
    .fetch_all(db)
    .await?;
    let scopes = |scopes: Vec<String>| scopes.iter().filter_map(|scope| scope.parse().ok()).collect();
    Ok(rows.into_iter().map(|row| (row.id, scopes(row.scopes))).collect())
}

/// Who of these people is in which of these workspaces.
pub async fn in_workspaces(
    db: &mut PgConnection,
    workspaces: &[Uuid],
    users: &[Uuid],
) -> Result<HashSet<(Uuid, Uuid)>, StoreError> {
    let rows = sqlx::query!(
        "select m.workspace_id, m.user_id
         from workspace_members m join workspaces w on w.id = m.workspace_id
         where m.workspace_id = any($1) and m.user_id = any($2) and w.deleted_at is null",
        workspaces,
        users
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.workspace_id, row.user_id)).collect())
}

/// After a restore into another PostgreSQL installation the transactions that events name are another installation's, maybe ones
/// that are still to come. Those become as old as this one. On the organization's tables, as their owner; answers how many.
pub async fn adopt_restored(db: &mut PgConnection) -> sqlx::Result<u64> {
    // What a snapshot shows lies below its xmax, unless it is of this very transaction or was not written here.
    let done = sqlx::query!(
        "update events set xid = default, horizon = default
         where xid >= pg_snapshot_xmax(pg_current_snapshot()) and xid is distinct from pg_current_xact_id_if_assigned()"
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use proptest::test_runner::{Config, TestRunner};
    use serde_json::json;
    use sqlx::{Postgres, Transaction};

    use super::*;
    use crate::{
        store::events::{NewEvent, append},
        tenant::{self, testing::TestDatabase},
    };

    const TOPIC: &str = "invoice:0199aaaa-0000-7000-8000-000000000000";

    fn everything() -> Filter {
        Filter { organization: true, topics: Vec::new() }
    }

    fn one_topic() -> Filter {
        Filter { organization: false, topics: vec![TOPIC.to_owned()] }
    }

    async fn tell(db: &mut PgConnection, n: u64, now: DateTime<Utc>) -> Uuid {
        let event = NewEvent { topic: TOPIC.to_owned(), kind: "test.happened", payload: json!(n), actor: "test" };
        append(db, &event, now).await.unwrap()
    }

    fn ids(events: &[Event]) -> Vec<Uuid> {
        events.iter().map(|event| event.id).collect()
    }

    /// EVT-2: the event with the smaller id commits after the one with the greater.
    #[tokio::test]
    async fn an_event_that_is_committed_late_is_between_the_looks_all_the_same() {
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        let now = acme.created_at;
        let (mut early, mut late) =
            (tenant::begin(&database.pool, &acme).await.unwrap(), tenant::begin(&database.pool, &acme).await.unwrap());
        let mut reader = tenant::begin(&database.pool, &acme).await.unwrap();
        let first = tell(&mut late, 1, now).await;
        let second = tell(&mut early, 2, now).await;
        assert!(first < second);

        let before = snapshot(&mut reader).await.unwrap();
        early.commit().await.unwrap();
        let middle = snapshot(&mut reader).await.unwrap();
        late.commit().await.unwrap();
        let after = snapshot(&mut reader).await.unwrap();

        for filter in [everything(), one_topic()] {
            let look =
                async |reader: &mut PgConnection, looks| ids(&between(reader, looks, &filter, 10).await.unwrap());
            assert_eq!(look(&mut reader, (&before, &middle)).await, [second]);
            assert_eq!(look(&mut reader, (&middle, &after)).await, [first], "its id is smaller and it is new");
            assert_eq!(look(&mut reader, (&before, &after)).await, [first, second], "by transaction");
            // Who has the second only, because the first was not there yet, is given the first.
            let position = after_event(&mut reader, second).await.unwrap().unwrap();
            let missed = missed(&mut reader, (position, &after), &filter, 10).await.unwrap();
            assert_eq!(ids(&missed), [first]);
        }
        assert_eq!(after_event(&mut reader, Uuid::now_v7()).await.unwrap(), None);
    }

    /// What a transaction of the property test does next.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Appends an event in the n-th open transaction, or in a new one.
        Append(usize),
        Commit(usize),
        RollBack(usize),
        Look,
    }

    fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
        use proptest::{collection::vec, prop_oneof, strategy::Strategy};
        let which = 0..4usize;
        vec(
            prop_oneof![
                4 => which.clone().prop_map(Step::Append),
                3 => which.clone().prop_map(Step::Commit),
                1 => which.prop_map(Step::RollBack),
                3 => proptest::strategy::Just(Step::Look),
            ],
            1..40,
        )
    }

    /// Everything that a reader of random transactions is given, look by look, and what was committed.
    async fn read_along(
        database: &TestDatabase,
        acme: &crate::domain::Organization,
        steps: &[Step],
    ) -> (Vec<Uuid>, HashSet<Uuid>, Snapshot) {
        let mut open: Vec<(tenant::TenantTx, Vec<Uuid>)> = Vec::new();
        let mut reader = tenant::begin(&database.pool, acme).await.unwrap();
        let (mut given, mut committed) = (Vec::new(), HashSet::new());
        let mut seen = snapshot(&mut reader).await.unwrap();
        for step in steps.iter().copied().chain([Step::Look]) {
            match step {
                Step::Append(n) => {
                    if n >= open.len() && open.len() < 4 {
                        open.push((tenant::begin(&database.pool, acme).await.unwrap(), Vec::new()));
                    }
                    let at = n.min(open.len() - 1);
                    let (tx, told) = &mut open[at];
                    told.push(tell(tx, 0, acme.created_at).await);
                }
                Step::Commit(n) if n < open.len() => {
                    let (tx, told) = open.remove(n);
                    tx.commit().await.unwrap();
                    committed.extend(told);
                }
                Step::RollBack(n) if n < open.len() => open.remove(n).0.rollback().await.unwrap(),
                Step::Look => {
                    let now = snapshot(&mut reader).await.unwrap();
                    given.extend(ids(&between(&mut reader, (&seen, &now), &everything(), 1000).await.unwrap()));
                    seen = now;
                }
                Step::Commit(_) | Step::RollBack(_) => {}
            }
        }
        for (tx, _) in open {
            tx.rollback().await.unwrap();
        }
        (given, committed, seen)
    }

    /// EVT-2: whatever is committed, rolled back and looked at when, a reader is given each committed event once; and whoever breaks
    /// off after any of them and asks for the rest lacks none in the end.
    #[test]
    fn no_order_of_commits_loses_or_doubles_an_event() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (database, acme) = runtime.block_on(async {
            let database = TestDatabase::new().await;
            let acme = database.organization("acme").await;
            (database, acme)
        });
        let mut runner = TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&steps(), |steps| {
            runtime.block_on(async {
                let (given, committed, seen) = read_along(&database, &acme, &steps).await;
                assert_eq!(given.len(), committed.len(), "given {given:?} of {committed:?}");
                assert_eq!(given.iter().copied().collect::<HashSet<_>>(), committed);
                let mut reader = tenant::begin(&database.pool, &acme).await.unwrap();
                for (n, id) in given.iter().enumerate() {
                    let position = after_event(&mut reader, *id).await.unwrap().unwrap();
                    let rest = missed(&mut reader, (position, &seen), &one_topic(), 1000).await.unwrap();
                    let rest: HashSet<Uuid> = ids(&rest).into_iter().collect();
                    for later in &given[n + 1..] {
                        assert!(rest.contains(later), "{later} is lost to who was given {id} last, of {given:?}");
                    }
                    assert!(!rest.contains(id));
                }
            });
            Ok(())
        });
        runtime.block_on(database.close()).unwrap();
        outcome.unwrap();
    }

    /// EVT-2
    #[tokio::test]
    async fn a_topic_s_filter_lets_no_other_through_and_the_organization_s_no_workspace() {
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        let workspace = "workspace:0199aaaa-0000-7000-8000-000000000001";
        let mut tx = tenant::begin(&database.pool, &acme).await.unwrap();
        let before = snapshot(&mut tx).await.unwrap();
        for topic in [TOPIC, workspace, "organization"] {
            let event = NewEvent { topic: topic.to_owned(), kind: "test.happened", payload: json!({}), actor: "test" };
            append(&mut tx, &event, acme.created_at).await.unwrap();
        }
        tx.commit().await.unwrap();

        let mut tx = tenant::begin(&database.pool, &acme).await.unwrap();
        let now = snapshot(&mut tx).await.unwrap();
        let only = |topic: &str| Filter { organization: false, topics: vec![topic.to_owned()] };
        let both = Filter { organization: true, topics: vec![workspace.to_owned()] };
        for (filter, expected) in [
            (only(TOPIC), vec![TOPIC]),
            (only(workspace), vec![workspace]),
            (everything(), vec![TOPIC, "organization"]),
            (both, vec![TOPIC, workspace, "organization"]),
            (Filter::default(), vec![]),
        ] {
            let topics = |events: &[Event]| events.iter().map(|event| event.topic.clone()).collect::<Vec<_>>();
            let live = between(&mut tx, (&before, &now), &filter, 10).await.unwrap();
            let replayed = missed(&mut tx, (Position::at(before.horizon()), &now), &filter, 10).await.unwrap();
            let listed = page(&mut tx, &filter, Page::first(10)).await.unwrap();
            assert_eq!(
                (topics(&live), topics(&replayed)),
                (expected.iter().map(|t| (*t).to_owned()).collect(), topics(&live))
            );
            assert_eq!(topics(&listed), topics(&live));
            assert!(live.iter().all(|event| filter.takes(&event.topic)));
        }
    }

    /// EVT-2, OPS-3: as after a dump that was restored where fewer transactions have been.
    #[tokio::test]
    async fn restored_events_become_events_of_this_installation() {
        let database = TestDatabase::new().await;
        let acme = database.organization("acme").await;
        let mut tx: Transaction<'_, Postgres> = database.pool.begin().await.unwrap();
        sqlx::query("set local search_path = org_acme").execute(&mut *tx).await.unwrap();
        let own = tell(&mut tx, 1, acme.created_at).await;
        let foreign = tell(&mut tx, 2, acme.created_at).await;
        sqlx::query("update events set xid = '999999999', horizon = '999999990' where id = $1")
            .bind(foreign)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();

        let mut tx = database.pool.begin().await.unwrap();
        sqlx::query("set local search_path = org_acme").execute(&mut *tx).await.unwrap();
        assert_eq!(adopt_restored(&mut tx).await.unwrap(), 1);
        assert_eq!(adopt_restored(&mut tx).await.unwrap(), 0, "and its own are left alone");
        tx.commit().await.unwrap();

        let mut tx = tenant::begin(&database.pool, &acme).await.unwrap();
        let now = snapshot(&mut tx).await.unwrap();
        let position = after_event(&mut tx, own).await.unwrap().unwrap();
        let rest = missed(&mut tx, (position, &now), &everything(), 10).await.unwrap();
        assert_eq!(ids(&rest), [foreign]);
    }
}
