-- Fair shares, limits, rate limits, and what is needed to tell a poison pill from its neighbours.

-- A lane is a tenant's jobs under one rate key. Within a priority the lanes of a queue take turns; what must not run now
-- (its tenant is at its limit, its rate key is used up) is passed over lane by lane, without a look at its jobs.
alter table queue.jobs
    add column rate_key text,                      -- the rate limit under which it runs, shared by all nodes
    add column batch_id uuid,
    add column begun_at timestamptz,               -- this attempt's handler has begun; written late, see `crashes`
    add column crashes smallint not null default 0, -- workers that were lost while they ran it, or may have
    add column trail jsonb,                        -- [{"at","event",…}]: ended leases and what people did; the last 100
    add column lane text collate "C" not null
        generated always as (coalesce(tenant, '') || chr(31) || coalesce(rate_key, '')) stored;
alter table queue.finished_jobs
    add column rate_key text,
    add column batch_id uuid,
    add column begun_at timestamptz,
    add column crashes smallint not null default 0,
    add column trail jsonb,
    add column lease uuid;                         -- the one that it ended under; null if it was not running

drop index queue.jobs_claim_idx, queue.jobs_lease_idx;
create index jobs_claim_idx on queue.jobs (queue, priority desc, lane, run_at, id) where state = 'available' and not held;
-- Without `lease_until`, so that renewing a lease writes no index entry; with `id`, so that entries are appended, not
-- squeezed in among equal ones.
create index jobs_running_idx on queue.jobs (queue, id) where state = 'running';
create index jobs_batch_idx on queue.jobs (batch_id) where batch_id is not null;

-- A row exists for a queue that is, or once was, paused or limited. The limits hold across all nodes and count what is
-- claimed, begun or not.
alter table queue.queues
    add column max_running integer check (max_running > 0),
    add column max_running_per_tenant integer check (max_running_per_tenant > 0);

-- Token buckets. At most `permits` are given in any window of `period_s`: a bucket of a tenth of them, refilled with the
-- rest. A row appears when a key is first used; `fixed` rows are an operator's and no longer follow the program.
create table queue.rate_limits (
    key           text primary key,
    permits       integer     not null check (permits > 0),
    period_s      float8      not null check (period_s > 0),
    tokens        float8      not null,
    refilled_at   timestamptz not null default clock_timestamp(),
    blocked_until timestamptz,                     -- the other side said: not before
    fixed         boolean     not null default false
);

create function queue.rate_burst(r queue.rate_limits) returns float8 language sql immutable as $$
    select greatest(1, floor(r.permits / 10.0))::float8
$$;

-- Tokens per second.
create function queue.rate_refill(r queue.rate_limits) returns float8 language sql immutable as $$
    select greatest(1, r.permits - queue.rate_burst(r)) / r.period_s
$$;

create function queue.rate_tokens(r queue.rate_limits) returns float8 language sql volatile as $$
    select case when r.blocked_until > clock_timestamp() then 0
                else least(queue.rate_burst(r),
                           r.tokens + queue.rate_refill(r) * extract(epoch from clock_timestamp() - r.refilled_at)) end
$$;

-- Takes a permit. Null: granted; otherwise the seconds to wait before it is worth asking again.
create function queue.take_permit(p_key text, p_permits integer, p_period_s float8) returns float8 language plpgsql as $$
declare
    r queue.rate_limits;
    had float8;
begin
    -- A permit that a crash of the database forgets does little harm.
    perform set_config('synchronous_commit', 'off', true);
    insert into queue.rate_limits as l (key, permits, period_s, tokens)
    values (p_key, p_permits, p_period_s, greatest(1, floor(p_permits / 10.0)))
    on conflict (key) do update set permits = excluded.permits, period_s = excluded.period_s
    where not l.fixed and (l.permits, l.period_s) is distinct from (excluded.permits, excluded.period_s);
    select * into r from queue.rate_limits where key = p_key for update;
    had := queue.rate_tokens(r);
    if had < 1 then
        return greatest((1 - had) / queue.rate_refill(r), extract(epoch from r.blocked_until - clock_timestamp()), 0.001);
    end if;
    update queue.rate_limits set tokens = had - 1, refilled_at = clock_timestamp(), blocked_until = null where key = p_key;
    return null;
end $$;

-- Adds an entry to a job's trail, of which the last 100 are kept.
create function queue.trail(p_trail jsonb, p_entry jsonb) returns jsonb language sql immutable as $$
    select case when jsonb_array_length(p_trail) >= 100 then p_trail - 0 else coalesce(p_trail, '[]') end || p_entry
$$;

-- Claims up to `p_limit` jobs of a queue that are due, highest priority first. Within a priority the lanes take turns from
-- the one after `p_after`, a sixteenth of the batch each; within a lane the oldest is first. Answers them in the order in
-- which they were taken: the last one's lane is the next claim's `p_after`.
--
-- A claim need not survive a crash of the database (the job is then available again, and the fence refuses its
-- outcome), so it alone does not wait for the disk. Its plans are kept: what they must not be, made while the table was
-- empty, is switched off.
create function queue.claim(
    p_queue text, p_limit integer, p_lease uuid, p_lease_s float8, p_worker text, p_after text
) returns table (
    id uuid, kind text, tenant text, attempt integer, max_attempts integer, args jsonb, trace text, created_at timestamptz,
    rate_key text, batch_id uuid, crashes smallint, cancel_requested boolean, waited_s float8, last_error text
)
language plpgsql set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
#variable_conflict use_column
declare
    rules    queue.queues;
    used     jsonb;                                -- tenant → running, where the queue limits tenants
    open     integer := p_limit;                   -- how many more to take
    quantum  integer := greatest(1, p_limit / 16);
    level    smallint;                             -- the priority whose lanes take turns
    turn     text;                                 -- the lane that was visited last
    stuck    text;                                 -- the first lane since the last success that gave nothing
    visited  record;
    room     integer;
    taken    integer;
begin
    select * into rules from queue.queues q where q.name = p_queue;
    if rules.paused_at is not null then
        return;
    end if;
    perform set_config('synchronous_commit', 'off', true);
    if rules.max_running is not null or rules.max_running_per_tenant is not null then
        -- One claim at a time, and each of the statements below sees what the one before it has committed.
        perform pg_advisory_xact_lock(hashtext('queue.limit'), hashtext(p_queue));
        select coalesce(jsonb_object_agg(coalesce(t.tenant, ''), t.n), '{}'), least(open, rules.max_running - coalesce(sum(t.n), 0))
        into used, open
        from (select j.tenant, count(*) as n from queue.jobs j where j.queue = p_queue and j.state = 'running' group by 1) t;
    end if;

    while open > 0 loop
        select j.priority into level from queue.jobs j
        where j.queue = p_queue and j.state = 'available' and not j.held and (level is null or j.priority < level)
        order by j.priority desc limit 1;
        exit when not found;
        turn := p_after;
        stuck := null;
        while open > 0 loop
            select j.lane, j.tenant, j.rate_key into visited from queue.jobs j
            where j.queue = p_queue and j.state = 'available' and not j.held and j.priority = level and j.lane > turn
            order by j.lane limit 1;
            if not found then
                select j.lane, j.tenant, j.rate_key into visited from queue.jobs j
                where j.queue = p_queue and j.state = 'available' and not j.held and j.priority = level
                order by j.lane limit 1;
            end if;
            exit when not found or visited.lane = stuck;

            -- A lane that comes again at once is alone: it may take all that is left.
            room := case when visited.lane = turn then open else least(quantum, open) end;
            if rules.max_running_per_tenant is not null and visited.tenant is not null then
                room := least(room, rules.max_running_per_tenant - coalesce((used ->> visited.tenant)::integer, 0));
            end if;
            if visited.rate_key is not null then
                room := least(room, coalesce((select floor(queue.rate_tokens(r)) from queue.rate_limits r
                                              where r.key = visited.rate_key), room));
            end if;
            taken := 0;
            if room > 0 then
                return query
                    with due as materialized (
                        select j.ctid from queue.jobs j
                        where j.queue = p_queue and j.state = 'available' and not j.held and j.priority = level
                          and j.lane = visited.lane
                        order by j.run_at, j.id limit room for update skip locked
                    )
                    update queue.jobs j
                    set state = 'running', attempt = j.attempt + 1, lease = p_lease,
                        lease_until = now() + make_interval(secs => p_lease_s), worker = p_worker, attempted_at = now(),
                        begun_at = null
                    from due where j.ctid = due.ctid
                    returning j.id, j.kind, j.tenant, j.attempt, j.max_attempts, j.args, j.trace, j.created_at, j.rate_key,
                              j.batch_id, j.crashes, j.cancel_requested_at is not null,
                              extract(epoch from clock_timestamp() - j.run_at)::float8,
                              case when j.attempt > j.max_attempts then j.errors -> -1 ->> 'error' end;
                get diagnostics taken = row_count;
            end if;
            turn := visited.lane;
            open := open - taken;
            if taken = 0 then
                stuck := coalesce(stuck, visited.lane);
            else
                stuck := null;
                if used is not null and visited.tenant is not null then
                    used := jsonb_set(used, array[visited.tenant],
                                      to_jsonb(coalesce((used ->> visited.tenant)::integer, 0) + taken));
                end if;
            end if;
        end loop;
    end loop;
end $$;

-- Under a transaction that stays open for long no vacuum can remove what ended since it began, and every claim would walk
-- over it. Once `p_dead` dead rows have gathered above at most `p_live` living ones, this writes the living into an empty
-- table: some milliseconds under an exclusive lock, for which it waits no longer than the caller's lock_timeout.
-- Not for a caller in REPEATABLE READ; and such a reader, if it first looks after this, sees an empty table.
create function queue.compact(p_dead bigint, p_live bigint) returns boolean language plpgsql as $$
declare
    living  queue.jobs[];
    columns text;
begin
    if pg_stat_get_dead_tuples('queue.jobs'::regclass) < p_dead
       or pg_stat_get_live_tuples('queue.jobs'::regclass) > p_live then
        return false;
    end if;
    lock table queue.jobs in access exclusive mode;
    select array_agg(j) into living from (select * from queue.jobs limit p_live + 1) j;
    if cardinality(living) > p_live then
        return false;
    end if;
    select string_agg(quote_ident(attname), ', ' order by attnum) into columns from pg_attribute
    where attrelid = 'queue.jobs'::regclass and attnum > 0 and not attisdropped and attgenerated = '';
    truncate queue.jobs;
    execute format('insert into queue.jobs (%1$s) select %1$s from unnest($1)', columns) using living;
    return true;
end $$;

-- The door of 0001 with two more columns.
create temporary table let_in on commit drop as
select distinct a.grantee::regrole as grantee
from pg_proc p cross join aclexplode(p.proacl) a
where p.pronamespace = 'queue'::regnamespace and p.proname = 'enqueue' and a.grantee not in (0, p.proowner);
drop function queue.enqueue;

-- The one door for work. Inserts the jobs that are not duplicates; answers one row per entry, in order.
-- SECURITY DEFINER: a role that may execute it needs no rights on the queue's tables, and is stamped with its own tenant.
create function queue.enqueue(
    p_ids uuid[], p_queues text[], p_kinds text[], p_tenants text[], p_priorities smallint[], p_run_ats timestamptz[],
    p_max_attempts integer[], p_args jsonb[], p_traces text[], p_unique_keys text[], p_unique_across boolean[],
    p_unique_untils timestamptz[], p_rate_keys text[], p_batches uuid[], p_notify boolean
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
             cardinality(p_unique_keys), cardinality(p_unique_across), cardinality(p_unique_untils),
             cardinality(p_rate_keys), cardinality(p_batches)]
       is distinct from array_fill(cardinality(p_ids), array[13]) then
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

    insert into queue.jobs (id, queue, kind, tenant, state, priority, run_at, max_attempts, args, trace, unique_key, rate_key,
                            batch_id, held)
    select e.id, e.queue, e.kind, e.tenant,
           case when coalesce(e.run_at, now()) > now() then 'scheduled' else 'available' end,
           e.priority, coalesce(e.run_at, now()), e.max_attempts, e.args, e.trace, e.unique_key, e.rate_key, e.batch_id,
           e.tenant is not null and exists (select from queue.held_tenants h where h.tenant = e.tenant)
    from unnest(p_ids, p_queues, p_kinds, p_tenants, p_priorities, p_run_ats, p_max_attempts, p_args, p_traces,
                keys, p_rate_keys, p_batches, existing)
         as e (id, queue, kind, tenant, priority, run_at, max_attempts, args, trace, unique_key, rate_key, batch_id, existing)
    where e.existing is null;

    if cardinality(array_remove(p_batches, null)) > 0 then
        perform queue.join_batches(p_tenants, p_batches, existing);
    end if;

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
do $$
declare
    grantee regrole;
begin
    for grantee in select l.grantee from let_in l loop
        execute format('grant execute on function queue.enqueue to %s', grantee);
    end loop;
end $$;

revoke all on function queue.enqueue, queue.claim, queue.compact, queue.take_permit from public;
