-- EVT-2. Ids are made before the commit, so transactions become visible in another order than that of their events' ids. These two
-- say where an event stands: `xid` is its transaction; every transaction below `horizon` had ended when the event was written, so
-- whoever has the event was given those before it. See docs/decisions/0019-live-events.md.
alter table events
    add column xid     xid8 not null default pg_current_xact_id(),
    add column horizon xid8 not null default pg_snapshot_xmin(pg_current_snapshot());
create index events_xid_idx on events (xid, id);
create trigger events_tell after insert on events for each statement execute function public.tell_of_events();
