-- What operators look at, and what they do to many jobs at once.

-- Jobs that wait for their time, by queue: to be counted.
create index jobs_waiting_idx on queue.jobs (queue, state) where state in ('scheduled', 'retryable');

-- Unfinished work by queue, at a cost that does not grow with it: no figure counts beyond `p_cap`, the queues are found by
-- leaping from one to the next in an index, and the oldest job is the oldest of the first `p_lanes` lanes' first jobs.
create function queue.stats(p_cap integer, p_lanes integer) returns table (
    queue text, paused_at timestamptz, max_running integer, max_running_per_tenant integer,
    scheduled bigint, available bigint, held bigint, running bigint, retryable bigint, oldest_available_s float8, capped boolean
)
language sql stable set enable_seqscan = off set enable_sort = off set enable_bitmapscan = off set jit = off as $$
    with recursive with_available (name) as (
        (select j.queue from queue.jobs j where j.state = 'available' and not j.held order by j.queue limit 1)
        union all
        select (select j.queue from queue.jobs j
                where j.state = 'available' and not j.held and j.queue > w.name order by j.queue limit 1)
        from with_available w where w.name is not null
    ), with_running (name) as (
        (select j.queue from queue.jobs j where j.state = 'running' order by j.queue limit 1)
        union all
        select (select j.queue from queue.jobs j where j.state = 'running' and j.queue > w.name order by j.queue limit 1)
        from with_running w where w.name is not null
    ), with_waiting (name) as (
        (select j.queue from queue.jobs j where j.state in ('scheduled', 'retryable') order by j.queue limit 1)
        union all
        select (select j.queue from queue.jobs j
                where j.state in ('scheduled', 'retryable') and j.queue > w.name order by j.queue limit 1)
        from with_waiting w where w.name is not null
    ), held_of as materialized (
        select h.tenant, j.queue as name, count(*) as n
        from queue.held_tenants h
             cross join lateral (select j.queue from queue.jobs j where j.tenant = h.tenant and j.held limit p_cap) j
        group by 1, 2
    ), known as materialized (
        select name from with_available union select name from with_running union select name from with_waiting
        union select name from held_of union select name from queue.queues
    ), lanes (name, priority, lane, run_at, n) as (
        select k.name, f.priority, f.lane, f.run_at, 1
        from known k cross join lateral (
            select j.priority, j.lane, j.run_at from queue.jobs j
            where j.queue = k.name and j.state = 'available' and not j.held
            order by j.priority desc, j.lane, j.run_at, j.id limit 1
        ) f
        union all
        select l.name, f.priority, f.lane, f.run_at, l.n + 1
        from lanes l cross join lateral (
            -- The next lane of the priority or, if there is none, the first of the next priority.
            (select j.priority, j.lane, j.run_at from queue.jobs j
             where j.queue = l.name and j.state = 'available' and not j.held and j.priority = l.priority and j.lane > l.lane
             order by j.lane, j.run_at, j.id limit 1)
            union all
            (select j.priority, j.lane, j.run_at from queue.jobs j
             where j.queue = l.name and j.state = 'available' and not j.held and j.priority < l.priority
             order by j.priority desc, j.lane, j.run_at, j.id limit 1)
            limit 1
        ) f
        where l.n < p_lanes
    ), counted as materialized (
        select k.name,
               (select count(*) from (select from queue.jobs j where j.queue = k.name and j.state = 'scheduled'
                                      limit p_cap) c) as scheduled,
               (select count(*) from (select from queue.jobs j where j.queue = k.name and j.state = 'available' and not j.held
                                      limit p_cap) c) as available,
               coalesce((select sum(h.n) from held_of h where h.name = k.name), 0)::bigint as held,
               (select count(*) from (select from queue.jobs j where j.queue = k.name and j.state = 'running'
                                      limit p_cap) c) as running,
               (select count(*) from (select from queue.jobs j where j.queue = k.name and j.state = 'retryable'
                                      limit p_cap) c) as retryable,
               exists (select from held_of h group by h.tenant having sum(h.n) >= p_cap) as held_capped
        from known k
        where k.name is not null
    )
    select c.name, q.paused_at, q.max_running, q.max_running_per_tenant,
           c.scheduled, c.available, c.held, c.running, c.retryable,
           extract(epoch from now() - (select min(l.run_at) from lanes l where l.name = c.name))::float8,
           greatest(c.scheduled, c.available, c.running, c.retryable) >= p_cap or c.held_capped and c.held > 0
    from counted c left join queue.queues q on q.name = c.name
    order by c.name
$$;
revoke all on function queue.stats from public;
