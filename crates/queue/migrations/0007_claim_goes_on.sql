-- A claim no longer walks over the index entries of what was claimed before it, of which there may be a million before the
-- next vacuum: its caller says where it took the last job, and the walk goes on from there.

-- What runs need not be counted by each claim while the limits are far: it was counted at that time, and claims have added
-- what they took. Nobody subtracts, so `running` may be too high.
alter table queue.queues
    add column running    integer,
    add column counted_at timestamptz;

-- A time that no clock shows would stop every claim that comes to it.
alter table queue.jobs add constraint jobs_run_at_check check (isfinite(run_at)) not valid;

-- Claims up to `p_limit` jobs of a queue that are due, highest priority first. Within a priority the lanes take turns from
-- the one after `p_after`, a sixteenth of the batch each; within a lane the oldest is first. Answers them in the order in
-- which they were taken: the last one's lane is the next claim's `p_after`.
--
-- `p_level`, `p_run_at` and `p_id` are that job's priority, time and id, or null. What sorts before it in its lane is then
-- looked at only if the batch is not full without. Something due may have come there since, so a caller leaves them out now
-- and then.
--
-- A claim need not survive a crash of the database (the job is then available again, and the fence refuses its
-- outcome), so it alone does not wait for the disk. Its plans are kept: what they must not be, made while the table was
-- empty, is switched off.
create function queue.claim(
    p_queue text, p_limit integer, p_lease uuid, p_lease_s float8, p_worker text, p_after text,
    p_level smallint, p_run_at timestamptz, p_id uuid
) returns table (
    id uuid, kind text, tenant text, attempt integer, max_attempts integer, args jsonb, trace text, created_at timestamptz,
    rate_key text, batch_id uuid, crashes smallint, cancel_requested boolean, waited_s float8, last_error text,
    priority smallint, run_at timestamptz
)
language plpgsql set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_sort = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
#variable_conflict use_column
declare
    nobody   constant uuid := '00000000-0000-0000-0000-000000000000';
    rules    queue.queues;
    limited  boolean := false;
    used     jsonb;                                -- tenant → running, where a limit may be near
    spent    jsonb := '{}';                        -- rate key → taken by this claim
    open     integer := p_limit;                   -- how many more to take
    quantum  integer := greatest(1, p_limit / 16);
    lowest   integer := coalesce(p_level + 1, -32768);
    highest  integer := 32767;                     -- the priorities above it are done with
    first    record;                               -- the first due job between the two
    level    integer;                              -- the priority whose lanes take turns
    past     text;                                 -- in this lane of it nothing due lies before …
    past_at  timestamptz;                          -- … this time
    past_id  uuid;                                 -- … and this id
    turn     text collate "C";                     -- the lane that was visited last
    stuck    text collate "C";                     -- the first lane since the last success that gave nothing
    around   boolean;                              -- the walk began anew since then
    visited  record;                               -- the first due job of the lane whose turn it is
    alone    boolean;
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
        select * into rules from queue.queues q where q.name = p_queue;
        if rules.paused_at is not null then
            return;
        end if;
        limited := rules.max_running is not null or rules.max_running_per_tenant is not null;
    end if;
    if limited and (rules.counted_at > clock_timestamp() - interval '1 s'
                    and rules.running + p_limit <= least(rules.max_running, rules.max_running_per_tenant)) is not true then
        select coalesce(jsonb_object_agg(coalesce(t.tenant, ''), t.n), '{}'), coalesce(sum(t.n), 0), clock_timestamp()
        into used, rules.running, rules.counted_at
        from (select j.tenant, count(*) as n from queue.jobs j where j.queue = p_queue and j.state = 'running' group by 1) t;
        open := least(open, rules.max_running - rules.running);
    end if;

    while open > 0 loop
        select j.priority, j.lane, j.run_at, j.id into first from queue.jobs j
        where j.queue = p_queue and j.state = 'available' and not j.held and j.priority between lowest and highest
        order by j.priority desc, j.lane, j.run_at, j.id limit 1;
        if found then
            level := first.priority; past := first.lane; past_at := first.run_at; past_id := first.id;
        elsif lowest > -32768 then
            level := p_level; past := p_after; past_at := p_run_at; past_id := p_id;
        else
            exit;
        end if;
        turn := p_after;
        stuck := null;
        around := false;
        while open > 0 loop
            select j.lane, j.tenant, j.rate_key, j.run_at, j.id into visited from queue.jobs j
            where j.queue = p_queue and j.state = 'available' and not j.held and j.priority = level and j.lane > turn
            order by j.lane, j.run_at, j.id limit 1;
            if not found then
                -- The lanes before this one, or else this one again.
                around := true;
                if turn <> past then
                    past_at := '-infinity'; past_id := nobody;
                end if;
                select * into visited from (
                    (select j.lane, j.tenant, j.rate_key, j.run_at, j.id from queue.jobs j
                     where j.queue = p_queue and j.state = 'available' and not j.held and j.priority = level and j.lane < turn
                     order by j.lane, j.run_at, j.id limit 1)
                    union all
                    (select j.lane, j.tenant, j.rate_key, j.run_at, j.id from queue.jobs j
                     where j.queue = p_queue and j.state = 'available' and not j.held and j.priority = level and j.lane = turn
                       and (j.run_at, j.id) >= (past_at, past_id)
                     order by j.run_at, j.id limit 1)
                ) around limit 1;
            end if;
            exit when not found or (around and visited.lane >= stuck);

            -- A lane that comes again at once is alone: it may take all that is left.
            alone := visited.lane = turn;
            room := case when alone then open else least(quantum, open) end;
            if used is not null and visited.tenant is not null then
                room := least(room, rules.max_running_per_tenant - coalesce((used ->> visited.tenant)::integer, 0));
            end if;
            if visited.rate_key is not null then
                room := least(room, coalesce((select floor(queue.rate_tokens(r)) - coalesce((spent ->> r.key)::integer, 0)
                                              from queue.rate_limits r where r.key = visited.rate_key), room));
            end if;
            taken := 0;
            if room > 0 then
                return query
                    with due as materialized (
                        select j.ctid from queue.jobs j
                        where j.queue = p_queue and j.state = 'available' and not j.held and j.priority = level
                          and j.lane = visited.lane and (j.run_at, j.id) >= (visited.run_at, visited.id)
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
                              case when j.attempt > j.max_attempts then j.errors -> -1 ->> 'error' end,
                              j.priority, j.run_at;
                get diagnostics taken = row_count;
            end if;
            open := open - taken;
            rules.running := rules.running + taken;
            turn := visited.lane;
            if taken = 0 and stuck is null then
                stuck := visited.lane;
                around := false;
            elsif taken > 0 then
                stuck := null;
                if visited.rate_key is not null then
                    spent := jsonb_set(spent, array[visited.rate_key],
                                       to_jsonb(coalesce((spent ->> visited.rate_key)::integer, 0) + taken));
                end if;
                if used is not null and visited.tenant is not null then
                    used := jsonb_set(used, array[visited.tenant],
                                      to_jsonb(coalesce((used ->> visited.tenant)::integer, 0) + taken));
                end if;
            end if;
            exit when alone;
        end loop;
        -- Going on, something may have been passed over.
        highest := case when lowest > -32768 and level = p_level then level else level - 1 end;
        lowest := -32768;
    end loop;
    -- Few are soon counted.
    if limited and rules.running >= 200 then
        update queue.queues q set running = rules.running, counted_at = rules.counted_at where q.name = p_queue;
    end if;
end $$;

-- As processes of before this migration call it.
create or replace function queue.claim(
    p_queue text, p_limit integer, p_lease uuid, p_lease_s float8, p_worker text, p_after text
) returns table (
    id uuid, kind text, tenant text, attempt integer, max_attempts integer, args jsonb, trace text, created_at timestamptz,
    rate_key text, batch_id uuid, crashes smallint, cancel_requested boolean, waited_s float8, last_error text
)
language sql as $$
    select c.id, c.kind, c.tenant, c.attempt, c.max_attempts, c.args, c.trace, c.created_at, c.rate_key, c.batch_id, c.crashes,
           c.cancel_requested, c.waited_s, c.last_error
    from queue.claim(p_queue, p_limit, p_lease, p_lease_s, p_worker, p_after, null, null, null) c
$$;

revoke all on function queue.claim(text, integer, uuid, float8, text, text, smallint, timestamptz, uuid) from public;
