-- The queue. `jobs` holds unfinished work only and stays small; whatever ends moves to `finished_jobs`, partitioned by
-- the day on which it may be forgotten, so that pruning is dropping a partition and claiming never meets history.
create schema if not exists queue;

create table queue.jobs (
    id           uuid primary key,                 -- UUIDv7, made by the enqueuer
    queue        text        not null,
    kind         text        not null,
    tenant       text,                             -- opaque partition key; the queue never looks inside
    state        text        not null,
    priority     smallint    not null default 0,   -- higher runs first
    run_at       timestamptz not null,
    attempt      integer     not null default 0,   -- counted at the claim
    max_attempts integer     not null,
    held         boolean     not null default false, -- the tenant is on hold: not claimed, not lost
    args         jsonb       not null,
    unique_key   text,
    lease        uuid,                             -- one per claim: the fence of every outcome
    lease_until  timestamptz,
    worker       text,                             -- who claimed it last, for people to read
    cancel_requested_at timestamptz,               -- of a running job; its handler sees a cancellation token
    attempted_at timestamptz,
    errors       jsonb       not null default '[]', -- [{"attempt","at","error","worker"}]
    trace        text,                             -- W3C traceparent of the enqueuer
    created_at   timestamptz not null default now(),
    constraint jobs_state_check check (state in ('scheduled', 'available', 'running', 'retryable')),
    constraint jobs_lease_check check ((state = 'running') = (lease is not null and lease_until is not null)),
    constraint jobs_attempt_check check (attempt >= 0 and max_attempts >= 1)
) with (
    fillfactor = 80,
    -- A queue table turns over completely in minutes: vacuum by absolute numbers, early and without pauses.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000
);
create index jobs_claim_idx on queue.jobs (queue, priority desc, run_at, id) where state = 'available' and not held;
create index jobs_due_idx on queue.jobs (run_at) where state in ('scheduled', 'retryable');
create index jobs_lease_idx on queue.jobs (lease_until) where state = 'running';
create index jobs_tenant_idx on queue.jobs (tenant, id);

-- Finished work. `expires_on` is the finish day plus the kind's retention.
create table queue.finished_jobs (
    id           uuid        not null,
    queue        text        not null,
    kind         text        not null,
    tenant       text,
    state        text        not null,
    priority     smallint    not null,
    run_at       timestamptz not null,
    attempt      integer     not null,
    max_attempts integer     not null,
    args         jsonb       not null,
    unique_key   text,
    worker       text,
    attempted_at timestamptz,
    errors       jsonb       not null,
    trace        text,
    created_at   timestamptz not null,
    finished_at  timestamptz not null default now(),
    result       jsonb,                            -- of a completed job
    reason       text,                             -- of a cancelled or discarded one
    expires_on   date        not null,
    constraint finished_jobs_state_check check (state in ('completed', 'cancelled', 'discarded'))
) partition by range (expires_on);
create index finished_jobs_id_idx on queue.finished_jobs (id);
create index finished_jobs_tenant_id_idx on queue.finished_jobs (tenant, id);
create index finished_jobs_discarded_idx on queue.finished_jobs (id) where state = 'discarded';
-- The safety net for a row whose day has no partition yet; the keeper makes partitions ahead of time.
create table queue.finished_jobs_default partition of queue.finished_jobs default;

-- Makes the partition of a day, and brings home the rows that the default partition took in meanwhile.
create function queue.make_history_partition(p_day date) returns void language plpgsql as $$
declare
    name text := 'finished_jobs_' || to_char(p_day, 'YYYYMMDD');
begin
    if to_regclass('queue.' || name) is not null then
        return;
    end if;
    execute format('create table queue.%I (like queue.finished_jobs including defaults including constraints)', name);
    execute format('with early as (delete from queue.finished_jobs_default where expires_on = %L returning *)
                    insert into queue.%I select * from early', p_day, name);
    execute format('alter table queue.finished_jobs attach partition queue.%I for values from (%L) to (%L)',
                   name, p_day, p_day + 1);
end $$;

-- Uniqueness. `expires_at` null: the key is taken until its job ends; otherwise until that time, whatever the job does.
create table queue.unique_keys (
    key        text primary key,
    job_id     uuid        not null,
    expires_at timestamptz
);
create index unique_keys_expires_at_idx on queue.unique_keys (expires_at) where expires_at is not null;

-- A row exists for a queue that is, or once was, paused.
create table queue.queues (
    name      text primary key,
    paused_at timestamptz
);

create table queue.held_tenants (
    tenant  text primary key,
    held_at timestamptz not null default now()
);

-- Schedules. A row exists for a schedule that is, or once was, paused.
create table queue.schedules (
    name      text primary key,
    paused_at timestamptz
);
-- How far a schedule is decided, for each of its tenants ('' where it does not fan out). The row is the lock under which
-- schedulers decide; a new one starts at the time it was first seen, so that nothing fires for the past.
create table queue.schedule_cursors (
    schedule      text        not null,
    tenant        text        not null,
    decided_until timestamptz not null,
    primary key (schedule, tenant)
);
-- A tick is a row: whoever inserts it first enqueues its job, in the same transaction.
create table queue.schedule_ticks (
    schedule text        not null,
    tenant   text        not null,
    tick_at  timestamptz not null,
    job_id   uuid,                                 -- null: paused, or missed and skipped by its policy
    fired_at timestamptz not null default now(),
    primary key (schedule, tenant, tick_at)
);
create index schedule_ticks_schedule_tick_at_idx on queue.schedule_ticks (schedule, tick_at);

-- Which tenant is asking? Null: the owner, who may enqueue for anybody. The host replaces this function
-- when it lets less trusted roles through the door below.
create function queue.caller_tenant() returns text language sql stable as $$ select null::text $$;

-- Whoever brings in a job of a tenant shares this lock until its transaction ends, and a hold takes it alone: so every job
-- is either seen by the hold or sees it.
create function queue.lock_tenant(p_tenant text) returns void language sql as $$
    select pg_advisory_xact_lock_shared(hashtext('queue.tenant'), hashtext(p_tenant))
$$;

-- The one door for work. Inserts the jobs that are not duplicates; answers one row per entry, in order.
-- SECURITY DEFINER: a role that may execute it needs no rights on the queue's tables, and is stamped with its own tenant.
create function queue.enqueue(
    p_ids uuid[], p_queues text[], p_kinds text[], p_tenants text[], p_priorities smallint[], p_run_ats timestamptz[],
    p_max_attempts integer[], p_args jsonb[], p_traces text[], p_unique_keys text[], p_unique_across boolean[],
    p_unique_untils timestamptz[], p_notify boolean
) returns table (id uuid, state text, duplicate boolean)
language plpgsql security definer set search_path = queue, pg_temp as $$
declare
    caller   text := queue.caller_tenant();
    -- A key with its scope, so that neither kinds nor tenants can collide: kind|tenant|key, or kind|*|key.
    keys     text[];
    existing uuid[];
    woken    text;
begin
    -- A shorter array would read as nulls below, and a null tenant belongs to nobody.
    if array[cardinality(p_queues), cardinality(p_kinds), cardinality(p_tenants), cardinality(p_priorities),
             cardinality(p_run_ats), cardinality(p_max_attempts), cardinality(p_args), cardinality(p_traces),
             cardinality(p_unique_keys), cardinality(p_unique_across), cardinality(p_unique_untils)]
       is distinct from array_fill(cardinality(p_ids), array[11]) then
        raise exception 'all arrays must be of the same length' using errcode = 'invalid_parameter_value';
    end if;
    if caller is not null and exists (
        select from unnest(p_tenants, p_unique_across) as e (tenant, across)
        where e.tenant is distinct from caller or e.across is not false
    ) then
        raise exception 'tenant % may not enqueue for another tenant', caller using errcode = 'insufficient_privilege';
    end if;

    perform queue.lock_tenant(t)
    from (select distinct t from unnest(p_tenants) t where t is not null order by t) as tenants;

    -- Take the unique keys, in key order so that two batches cannot deadlock. A key that is taken names its holder;
    -- the loop waits for a concurrent transaction that holds the same key and then sees what became of it.
    existing := array_fill(null::uuid, array[cardinality(p_ids)]);
    keys := p_unique_keys;
    if exists (select from unnest(p_unique_keys) k where k is not null) then
        select array_agg(kind || '|' || case when across then '*' else coalesce(tenant, '') end || '|' || key order by n)
        into keys
        from unnest(p_kinds, p_tenants, p_unique_across, p_unique_keys) with ordinality as e (kind, tenant, across, key, n);
        declare
            entry  record;
            holder uuid;
        begin
            for entry in
                select n, k from unnest(keys) with ordinality u (k, n) where k is not null order by k, n
            loop
                insert into queue.unique_keys as u (key, job_id, expires_at)
                values (entry.k, p_ids[entry.n], p_unique_untils[entry.n])
                on conflict (key) do update set
                    job_id = case when u.expires_at <= now() then excluded.job_id else u.job_id end,
                    expires_at = case when u.expires_at <= now() then excluded.expires_at else u.expires_at end
                returning u.job_id into holder;
                if holder <> p_ids[entry.n] then
                    existing[entry.n] := holder;
                end if;
            end loop;
        end;
    end if;

    insert into queue.jobs (id, queue, kind, tenant, state, priority, run_at, max_attempts, args, trace, unique_key, held)
    select e.id, e.queue, e.kind, e.tenant,
           case when coalesce(e.run_at, now()) > now() then 'scheduled' else 'available' end,
           e.priority, coalesce(e.run_at, now()), e.max_attempts, e.args, e.trace, e.unique_key,
           e.tenant is not null and exists (select from queue.held_tenants h where h.tenant = e.tenant)
    from unnest(p_ids, p_queues, p_kinds, p_tenants, p_priorities, p_run_ats, p_max_attempts, p_args, p_traces,
                keys, existing)
         as e (id, queue, kind, tenant, priority, run_at, max_attempts, args, trace, unique_key, existing)
    where e.existing is null;

    if p_notify then
        for woken in
            select distinct q from unnest(p_queues, p_run_ats, existing) as e (q, run_at, existing)
            where e.existing is null and coalesce(e.run_at, now()) <= now()
        loop
            perform pg_notify('queue_wake', woken);
        end loop;
    end if;

    return query
        select coalesce(existing[n], p_ids[n]),
               case when existing[n] is null
                    then case when coalesce(p_run_ats[n], now()) > now() then 'scheduled' else 'available' end
                    else coalesce((select j.state from queue.jobs j where j.id = existing[n]),
                                  (select f.state from queue.finished_jobs f where f.id = existing[n] limit 1),
                                  'completed') end,
               existing[n] is not null
        from generate_series(1, cardinality(p_ids)) n;
end $$;
revoke all on function queue.enqueue, queue.lock_tenant, queue.make_history_partition from public;
