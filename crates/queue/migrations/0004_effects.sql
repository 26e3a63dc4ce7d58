-- The effect ledger: what jobs do to the outside world, once per tenant and key. A row is committed before the call and
-- completed after it; one that was never completed says that nobody knows.
create table queue.effects (
    id          uuid primary key,                  -- derived from tenant and key, so unique by them; the idempotency key of every call
    tenant      text,
    key         text        not null,
    kind        text        not null,              -- of the job
    job_id      uuid        not null,              -- the job that intended it last, or did it
    attempt     integer     not null,
    lease       uuid,                              -- of the attempt that is in the call; null: nobody is
    state       text        not null default 'intended',
    calls       integer     not null default 1,    -- begun so far
    unknown     integer     not null default 1,    -- of these, without an answer yet, the one under way included
    keep_days   smallint    not null,              -- after its end
    outcome     jsonb,                             -- what the call answered
    error       text,                              -- the last words of a call that was no success
    answered_by text,                              -- the person who said whether it happened, if nothing else could
    intended_at timestamptz not null default now(),
    called_at   timestamptz not null default now(), -- the last call's begin
    ended_at    timestamptz,
    expires_on  date,
    constraint effects_state_check check (state in ('intended', 'done', 'refused')),
    constraint effects_lease_check check (lease is null or state = 'intended'),
    constraint effects_unknown_check check (unknown >= 0 and (state = 'intended') = (unknown > 0)),
    constraint effects_ended_at_check check ((state = 'intended') = (ended_at is null) and (ended_at is null) = (expires_on is null))
);
create index effects_job_id_idx on queue.effects (job_id, id);
create index effects_tenant_job_id_idx on queue.effects (tenant, job_id, id);
create index effects_intended_idx on queue.effects (job_id, id) where state = 'intended';
create index effects_expires_on_idx on queue.effects (expires_on) where expires_on is not null;

-- The seconds for which a job's lease still holds; null: it has ended, or another attempt has the job. Volatile, so that it
-- sees what is true now, also inside a statement that had to wait for a row.
create function queue.lease_left(p_job uuid, p_lease uuid) returns float8 language sql volatile as $$
    select extract(epoch from j.lease_until - clock_timestamp())::float8 from queue.jobs j
    where j.id = p_job and j.lease = p_lease and j.lease_until > clock_timestamp()
$$;

-- Asks to make a call. The verdicts:
--   call      it is written down; make the call. `unknown` counts it and the calls before it that had no answer
--   done      it happened before; `outcome` is what it answered
--   busy      a live attempt is in the call, for at most `wait_s` unless its lease is renewed
--   ask       earlier calls had no answer, and the caller has a way to find out (`p_most_unknown` is null): it has the
--             effect for itself until its lease ends
--   given up  `p_most_unknown` calls had no answer: no further one before a person says what happened
--   lost      the caller's own lease has ended
create function queue.intend_effect(
    p_id uuid, p_tenant text, p_key text, p_kind text, p_job uuid, p_attempt integer, p_lease uuid, p_keep_days smallint,
    p_most_unknown integer
) returns table (
    verdict text, calls integer, unknown integer, intended_at timestamptz, outcome jsonb, error text, wait_s float8
) language plpgsql as $$
#variable_conflict use_column
declare
    e    queue.effects;
    said text;
    wait float8;
begin
    if queue.lease_left(p_job, p_lease) is null then
        return query select 'lost', 0, 0, now(), null::jsonb, null::text, null::float8;
        return;
    end if;
    loop
        insert into queue.effects (id, tenant, key, kind, job_id, attempt, lease, keep_days)
        values (p_id, p_tenant, p_key, p_kind, p_job, p_attempt, p_lease, p_keep_days)
        on conflict (id) do nothing returning * into e;
        if found then
            said := 'call';
            exit;
        end if;
        select * into e from queue.effects where id = p_id for update;
        exit when found;                           -- otherwise it was pruned this moment
    end loop;
    if said is null then
        wait := queue.lease_left(e.job_id, e.lease);
        said := case when e.state = 'done' then 'done'
                     when wait is not null then 'busy'
                     when e.unknown = 0 then 'call'
                     when p_most_unknown is null then 'ask'
                     when e.unknown < p_most_unknown then 'call'
                     else 'given up' end;
        if said in ('call', 'ask') then
            update queue.effects
            set state = 'intended', kind = p_kind, job_id = p_job, attempt = p_attempt, lease = p_lease, keep_days = p_keep_days,
                calls = calls + (said = 'call')::integer, unknown = unknown + (said = 'call')::integer,
                called_at = case when said = 'call' then clock_timestamp() else called_at end,
                answered_by = null, ended_at = null, expires_on = null
            where id = p_id returning * into e;
        end if;
    end if;
    return query select said, e.calls, e.unknown, e.intended_at, e.outcome, e.error, wait;
end $$;

-- A person's answer where nobody knows: `answered`; otherwise nothing is changed, and it says why: `done`, `refused` (it has
-- ended), `in call`, `not found`. SECURITY DEFINER: a role that may execute it answers for its own tenant only.
create function queue.answer_effect(p_id uuid, p_tenant text, p_happened boolean, p_outcome jsonb, p_by text) returns text
language plpgsql security definer set search_path = queue, pg_temp as $$
declare
    caller text := queue.caller_tenant();
begin
    update queue.effects e
    set state = case when p_happened then 'done' else 'refused' end, outcome = case when p_happened then p_outcome end,
        lease = null, unknown = 0, answered_by = p_by, ended_at = now(), expires_on = current_date + e.keep_days
    where e.id = p_id and (p_tenant is null or e.tenant = p_tenant) and (caller is null or e.tenant = caller)
      and e.state = 'intended' and queue.lease_left(e.job_id, e.lease) is null;
    if found then
        return 'answered';
    end if;
    return coalesce((select case e.state when 'intended' then 'in call' else e.state end from queue.effects e
                     where e.id = p_id and (p_tenant is null or e.tenant = p_tenant) and (caller is null or e.tenant = caller)),
                    'not found');
end $$;
revoke all on function queue.answer_effect, queue.intend_effect, queue.lease_left from public;
