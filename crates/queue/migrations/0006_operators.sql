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

-- What is decided about a job's queue, tenant and rate key, and how things stand there. Counts stop at 10,000. The last claim
-- is the latest that the rows tell of: of running, of failed, of put-off jobs, and of the last thousand that ended.
create function queue.surroundings(p_queue text, p_tenant text, p_rate_key text) returns table (
    paused_at timestamptz, held_at timestamptz, max_running integer, max_running_per_tenant integer,
    running bigint, running_of_tenant bigint, blocked_until timestamptz, tokens float8, permits_per_s float8,
    last_claim timestamptz
)
language sql volatile set enable_seqscan = off set enable_sort = off set enable_bitmapscan = off set jit = off as $$
    select q.paused_at, (select h.held_at from queue.held_tenants h where h.tenant = p_tenant),
           q.max_running, q.max_running_per_tenant,
           (select count(*) from (select from queue.jobs j where j.queue = p_queue and j.state = 'running' limit 10000) r),
           (select count(*) from (select from queue.jobs j where j.queue = p_queue and j.tenant = p_tenant
                                  and j.state = 'running' limit 10000) r),
           case when l.blocked_until > clock_timestamp() then l.blocked_until end, queue.rate_tokens(l), queue.rate_refill(l),
           greatest((select max(c.attempted_at) from (select j.attempted_at from queue.jobs j
                      where j.queue = p_queue and j.state = 'running' limit 1000) c),
                    (select max(c.attempted_at) from (select j.attempted_at from queue.jobs j
                      where j.queue = p_queue and j.state in ('scheduled', 'retryable') limit 1000) c),
                    (select max(c.attempted_at) from (select f.queue, f.attempted_at from queue.finished_jobs f
                      order by f.id desc limit 1000) c where c.queue = p_queue))
    from (values (p_queue)) v (name)
         left join queue.queues q on q.name = v.name
         left join queue.rate_limits l on l.key = p_rate_key
$$;

-- How many available jobs come before one at this place: of its own lane, and of the whole queue roughly. All of a higher
-- priority do; of each other lane of its priority as many as of its own and one, because lanes take turns. Both stop at
-- `p_cap`, and no more than a thousand other lanes are looked at.
create function queue.ahead(
    p_queue text, p_priority smallint, p_lane text, p_run_at timestamptz, p_id uuid, p_cap integer
) returns table (own bigint, ahead bigint)
language sql stable set enable_seqscan = off set enable_sort = off set enable_bitmapscan = off set jit = off as $$
    with recursive own as materialized (
        select count(*) as n from (
            select from queue.jobs j
            where j.queue = p_queue and j.state = 'available' and not j.held and j.priority = p_priority
              and j.lane = p_lane collate "C" and (j.run_at, j.id) < (p_run_at, p_id)
            limit p_cap) o
    ), higher as materialized (
        select count(*) as n from (
            select from queue.jobs j
            where j.queue = p_queue and j.state = 'available' and not j.held and j.priority > p_priority limit p_cap) h
    ), lanes (lane, n) as (
        (select j.lane, 1 from queue.jobs j
         where j.queue = p_queue and j.state = 'available' and not j.held and j.priority = p_priority
         order by j.lane limit 1)
        union all
        select f.lane, l.n + 1
        from lanes l cross join lateral (
            select j.lane from queue.jobs j
            where j.queue = p_queue and j.state = 'available' and not j.held and j.priority = p_priority and j.lane > l.lane
            order by j.lane limit 1
        ) f
        where l.n < 1000
    )
    select own.n, least(p_cap, own.n + higher.n + (
               select count(*) from (
                   select from lanes l cross join lateral (
                       select from queue.jobs j
                       where j.queue = p_queue and j.state = 'available' and not j.held and j.priority = p_priority
                         and j.lane = l.lane
                       limit own.n + 1) other
                   where l.lane <> p_lane collate "C" limit p_cap) others))
    from own, higher
$$;
revoke all on function queue.surroundings, queue.ahead from public;

-- What is going to be done to many jobs: decided once, shown, and then done to exactly these.
create table queue.bulk_plans (
    id          uuid primary key,
    owner       text,                              -- the tenant that made it; null: an operator
    action      text        not null,
    filter      jsonb       not null,
    states      text[]      not null,              -- a job that is in another state by then is left alone
    reason      text        not null,              -- kept with the jobs that it ends
    job_ids     uuid[]      not null,              -- in order
    jobs        integer     not null,              -- how many
    more        boolean     not null,              -- the filter finds more than one plan takes
    by_tenant   jsonb       not null,              -- [{"name", "jobs"}], the most first
    by_kind     jsonb       not null,
    by_state    jsonb       not null,
    effects     jsonb       not null default '[]', -- [{"kind", "state", "effects"}]: what the jobs did to the outside world
    sample      jsonb       not null,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null,
    -- How far it is, and what became of the jobs. `handled` is also where the next step begins.
    handled     integer     not null default 0,
    done        integer     not null default 0,    -- retried, cancelled or discarded
    requested   integer     not null default 0,    -- running, and asked to stop
    changed     integer     not null default 0,    -- in another state by then
    duplicate   integer     not null default 0,    -- a job with the same unique key is unfinished
    gone        integer     not null default 0,
    finished_at timestamptz,
    constraint bulk_plans_action_check check (action in ('retry', 'cancel', 'discard')),
    constraint bulk_plans_handled_check check (handled <= jobs and handled = done + requested + changed + duplicate + gone)
);
create index bulk_plans_expires_at_idx on queue.bulk_plans (expires_at);
