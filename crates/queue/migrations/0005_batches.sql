-- Batches: jobs that belong together. A batch counts how its members end, and when the last one has, enqueues one job.
--
-- Whoever ends a job says so here, in the same transaction: `queue.members_ended`. A job is ended by whoever removes its
-- row from queue.jobs, so a member counts once. Locks: jobs first, then batches, in the order of their ids.
create table queue.batches (
    id          uuid primary key,
    name        text,                              -- for people to read
    tenant      text,                              -- null: the owner's own; members may be any tenant's
    size        integer     not null default 0,
    completed   integer     not null default 0,
    cancelled   integer     not null default 0,
    discarded   integer     not null default 0,
    then_job    jsonb,                             -- the columns of queue.jobs, and unique_across and unique_for_s
    then_job_id uuid,                              -- what it became, or the job that it was a duplicate of
    created_at  timestamptz not null default now(),
    finished_at timestamptz,                       -- the last member has ended; from now on nothing changes
    constraint batches_counts_check check (least(completed, cancelled, discarded) >= 0),
    constraint batches_size_check check (completed + cancelled + discarded <= size),
    constraint batches_finished_check check (finished_at is null or completed + cancelled + discarded = size)
) with (fillfactor = 50);
create index batches_tenant_idx on queue.batches (tenant, id);
create index batches_finished_at_idx on queue.batches (finished_at) where finished_at is not null;
-- The same job cannot follow two batches: it would be fired once.
create unique index batches_then_job_key on queue.batches ((then_job ->> 'id'));

-- Members join an unfinished batch, which grows by them. Called by queue.enqueue for what it has inserted.
create function queue.join_batches(p_tenants text[], p_batches uuid[], p_existing uuid[]) returns void
language plpgsql set search_path = queue, pg_temp as $$
declare
    caller text := queue.caller_tenant();
    entry  record;
begin
    for entry in
        select e.batch, count(*) filter (where e.existing is null) as n,
               array_agg(distinct e.tenant) as tenants
        from unnest(p_tenants, p_batches, p_existing) as e (tenant, batch, existing)
        where e.batch is not null group by e.batch order by e.batch
    loop
        update queue.batches b set size = b.size + entry.n
        where b.id = entry.batch and b.finished_at is null
          and case when b.tenant is null then caller is null else entry.tenants = array[b.tenant] end;
        if not found then
            -- Whose it is, or that it was there once, is not for everybody to know.
            raise exception 'there is no unfinished batch % for these jobs', entry.batch
                using errcode = 'foreign_key_violation', constraint = 'jobs_batch_id_fkey';
        end if;
    end loop;
end $$;

-- Enqueues the job that follows the batch. Its id was chosen with the batch, so it cannot come twice.
create function queue.fire_batch(p_batch queue.batches) returns uuid language plpgsql as $$
declare
    job   queue.jobs := jsonb_populate_record(null::queue.jobs, p_batch.then_job);
    fired uuid;
begin
    if job.id is null or exists (select from queue.jobs j where j.id = job.id) then
        return job.id;
    end if;
    select e.id into fired from queue.enqueue(
        array[job.id], array[job.queue], array[job.kind], array[job.tenant], array[job.priority], array[job.run_at],
        array[job.max_attempts], array[job.args], array[job.trace], array[job.unique_key],
        array[coalesce((p_batch.then_job ->> 'unique_across')::boolean, false)],
        array[now() + make_interval(secs => (p_batch.then_job ->> 'unique_for_s')::float8)],
        array[job.rate_key], array[null::uuid], true) e;
    return fired;
end $$;

-- Marks the batch as finished if nothing of it is left, and fires what follows it. The caller holds its row.
create function queue.finish_batch(p_batch queue.batches) returns void language plpgsql as $$
begin
    if p_batch.finished_at is null and p_batch.completed + p_batch.cancelled + p_batch.discarded = p_batch.size then
        update queue.batches b set finished_at = now(), then_job_id = queue.fire_batch(p_batch) where b.id = p_batch.id;
    end if;
end $$;

-- Counts ended jobs: the batch of each, null for one without, and its final state. Called in the transaction that moved
-- them from queue.jobs to the history, after it has taken the locks of their tenants (queue.lock_tenant).
create function queue.members_ended(p_batches uuid[], p_states text[]) returns void language plpgsql as $$
declare
    entry record;
    batch queue.batches;
begin
    for entry in
        select e.batch, count(*) filter (where e.state = 'completed') as completed,
               count(*) filter (where e.state = 'cancelled') as cancelled,
               count(*) filter (where e.state = 'discarded') as discarded
        from unnest(p_batches, p_states) as e (batch, state) where e.batch is not null group by e.batch order by e.batch
    loop
        update queue.batches b
        set completed = b.completed + entry.completed, cancelled = b.cancelled + entry.cancelled,
            discarded = b.discarded + entry.discarded
        where b.id = entry.batch and b.finished_at is null
        returning * into batch;
        if found then
            perform queue.finish_batch(batch);
        end if;
    end loop;
end $$;

-- Takes back the counts of ended jobs that are to run again. Answers the batches that are unfinished: their members belong
-- to them still. A member of any other batch comes back without one: what follows it has been fired.
create function queue.members_back(p_batches uuid[], p_states text[]) returns uuid[] language plpgsql as $$
declare
    entry record;
    open  uuid[] := '{}';
begin
    for entry in
        select e.batch, count(*) filter (where e.state = 'completed') as completed,
               count(*) filter (where e.state = 'cancelled') as cancelled,
               count(*) filter (where e.state = 'discarded') as discarded
        from unnest(p_batches, p_states) as e (batch, state) where e.batch is not null group by e.batch order by e.batch
    loop
        update queue.batches b
        set completed = b.completed - entry.completed, cancelled = b.cancelled - entry.cancelled,
            discarded = b.discarded - entry.discarded
        where b.id = entry.batch and b.finished_at is null;
        if found then
            open := open || entry.batch;
        end if;
    end loop;
    return open;
end $$;

-- The door for batches: a batch and its members, or neither. The batch's own arguments, then those of queue.enqueue.
create function queue.enqueue_batch(
    p_batch uuid, p_name text, p_tenant text, p_then jsonb,
    p_ids uuid[], p_queues text[], p_kinds text[], p_tenants text[], p_priorities smallint[], p_run_ats timestamptz[],
    p_max_attempts integer[], p_args jsonb[], p_traces text[], p_unique_keys text[], p_unique_across boolean[],
    p_unique_untils timestamptz[], p_rate_keys text[], p_batches uuid[], p_notify boolean
) returns table (batch queue.batches, ids uuid[], states text[], duplicates boolean[])
language plpgsql security definer set search_path = queue, pg_temp as $$
declare
    caller   text := queue.caller_tenant();
    then_job queue.jobs := jsonb_populate_record(null::queue.jobs, p_then);
begin
    if caller is not null and p_tenant is distinct from caller then
        raise exception 'tenant % may not make a batch of another tenant', caller using errcode = 'insufficient_privilege';
    end if;
    if exists (select from unnest(p_batches) b where b is distinct from p_batch) then
        raise exception 'a member names another batch' using errcode = 'invalid_parameter_value';
    end if;
    if p_then is not null then
        -- It is enqueued by whoever ends the last member: what is wrong with it must come out now.
        if then_job.id is null or then_job.queue is null or then_job.kind is null or then_job.args is null
           or then_job.priority is null or coalesce(then_job.max_attempts, 0) < 1
           or coalesce((p_then ->> 'unique_across')::boolean, false) and then_job.unique_key is null
           or coalesce((p_then ->> 'unique_for_s')::float8, 0) < 0 then
            raise exception 'the job that follows a batch lacks a part' using errcode = 'invalid_parameter_value';
        end if;
        if exists (select from queue.jobs j where j.id = then_job.id) then
            raise exception 'the job that follows a batch is there already: %', then_job.id using errcode = 'unique_violation';
        end if;
        if p_tenant is not null and then_job.tenant is distinct from p_tenant
           or caller is not null and (p_then ->> 'unique_across')::boolean then
            raise exception 'the job that follows a batch must be its tenant''s' using errcode = 'insufficient_privilege';
        end if;
    end if;
    insert into queue.batches (id, name, tenant, then_job) values (p_batch, p_name, p_tenant, p_then);
    select coalesce(array_agg(e.id order by e.n), '{}'), coalesce(array_agg(e.state order by e.n), '{}'),
           coalesce(array_agg(e.duplicate order by e.n), '{}')
    into ids, states, duplicates
    from queue.enqueue(p_ids, p_queues, p_kinds, p_tenants, p_priorities, p_run_ats, p_max_attempts, p_args, p_traces,
                       p_unique_keys, p_unique_across, p_unique_untils, p_rate_keys,
                       p_batches, p_notify)
         with ordinality as e (id, state, duplicate, n);
    select b.* into batch from queue.batches b where b.id = p_batch;
    perform queue.finish_batch(batch);
    select b.* into batch from queue.batches b where b.id = p_batch;
    return next;
end $$;

-- Forgets batches some days after they have finished. Answers how many; for housekeeping.
create function queue.prune_batches(p_keep interval default '7 days') returns bigint language sql as $$
    with old as (
        select id from queue.batches where finished_at < now() - p_keep limit 10000 for update skip locked
    ), gone as (
        delete from queue.batches b using old where b.id = old.id returning b.id
    )
    select count(*) from gone
$$;

revoke all on function queue.join_batches, queue.fire_batch, queue.finish_batch, queue.members_ended, queue.members_back,
                       queue.enqueue_batch, queue.prune_batches from public;
-- Who was let through the door of queue.enqueue, comes through this one.
do $$
declare
    grantee regrole;
begin
    for grantee in
        select distinct a.grantee::regrole from pg_proc p cross join aclexplode(p.proacl) a
        where p.pronamespace = 'queue'::regnamespace and p.proname = 'enqueue' and a.grantee not in (0, p.proowner)
    loop
        execute format('grant execute on function queue.enqueue_batch to %s', grantee);
    end loop;
end $$;
