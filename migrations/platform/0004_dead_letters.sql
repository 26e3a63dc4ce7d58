-- SYNC-11. Jobs that were given up are told to their organization as events, once each time they were given up. Nothing of this lies on the
-- way of the jobs themselves: a scheduled job looks at the history (platform.tell_dead_letters).
create table public.dead_letter_watch (
    one           boolean primary key default true,
    watched_until timestamptz not null,        -- what ended long enough before has been told
    constraint dead_letter_watch_one_check check (one)
);
insert into public.dead_letter_watch (watched_until) values (now());

-- What was told lately: times of ends become visible in another order than their own, so each look begins a little earlier.
create table public.dead_letters_told (
    job_id      uuid        not null,
    finished_at timestamptz not null,
    constraint dead_letters_told_pkey primary key (job_id, finished_at)
);
create index dead_letters_told_finished_at_idx on public.dead_letters_told (finished_at);
