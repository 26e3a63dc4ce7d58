-- SYNC-3. Attempts that failed since the run's last page; what got further begins to count anew.
alter table sync_runs add column tries integer not null default 0;

-- SYNC-5, SYNC-13.
alter table integrations
    add column stalled_since timestamptz,                  -- since when its vendor lets nothing be read; a page ends it
    add column stall_told    boolean not null default false, -- admins have heard of it; a success ends it
    add column full_at       timestamptz,                  -- when everything was read last
    add column full_began_at timestamptz,                  -- when that was last begun
    add column full_wanted   boolean not null default false, -- asked for while another run was waiting or under way
    add column left_out      boolean not null default false; -- records were named as failed in that full run or since

-- Not all on the day of the upgrade.
update integrations set full_at = now() - random() * interval '6 days' where first_run_done_at is not null;
