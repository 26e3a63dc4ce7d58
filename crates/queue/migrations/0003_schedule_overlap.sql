-- Overlap policies, and ticks that say what became of them.
alter table queue.schedule_ticks
    add column outcome    text,  -- null: written by a program that did not say yet
    add column blocked_by uuid,  -- of an overlap: the unfinished job of an earlier tick
    add constraint schedule_ticks_outcome_check
        check (outcome in ('enqueued', 'duplicate', 'missed', 'paused', 'overlap')),
    add constraint schedule_ticks_blocked_by_check check ((outcome = 'overlap') = (blocked_by is not null)),
    add constraint schedule_ticks_job_id_check
        check ((outcome in ('enqueued', 'duplicate')) = (job_id is not null));

-- Since when the schedule is in force for the tenant: what it should have fired before is nobody's loss.
alter table queue.schedule_cursors add column begun_at timestamptz;
update queue.schedule_cursors c set begun_at = coalesce(
    (select min(tick_at) from queue.schedule_ticks t where t.schedule = c.schedule and t.tenant = c.tenant), decided_until);
alter table queue.schedule_cursors alter column begun_at set default now(), alter column begun_at set not null;
