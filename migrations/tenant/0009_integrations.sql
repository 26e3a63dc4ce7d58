-- SYNC-1. What the organization has connected. Credentials and tokens are sealed.
create table integrations (
    id                uuid primary key,
    provider          text        not null,
    name              text        not null,
    config            jsonb       not null default '{}',
    credentials       bytea       not null,                -- sealed: an object of strings
    tokens            bytea,                               -- sealed: the access token and what renews it (SYNC-6)
    token_version     bigint      not null default 0,      -- counts the tokens; who renews them names the one that it saw
    token_asked_at    timestamptz,                         -- new tokens were asked for and no answer is stored: the intent
    token_holder      uuid,                                -- who asks; the others wait
    token_held_until  timestamptz,                         -- by the database's clock
    bookmarks         jsonb       not null default '{}',   -- by stream: where the next incremental run begins
    interval_minutes  integer     not null,
    enabled           boolean     not null default true,
    status            text        not null default 'new',
    needs_since       timestamptz,                         -- when it began to need a person
    last_success_at   timestamptz,
    last_error_at     timestamptz,
    last_error        text,
    first_run_done_at timestamptz,                         -- from then on a new record is news
    next_run_at       timestamptz,                         -- null: there is nothing to read
    created_at        timestamptz not null,
    updated_at        timestamptz not null,
    constraint integrations_name_key unique (name),
    constraint integrations_name_check check (char_length(name) between 1 and 100),
    constraint integrations_provider_check check (provider in ('bamboohr', 'workday', 'netsuite', 'quickbooks', 'slack')),
    constraint integrations_config_check check (jsonb_typeof(config) = 'object'),
    constraint integrations_bookmarks_check check (jsonb_typeof(bookmarks) = 'object'),
    constraint integrations_interval_minutes_check check (interval_minutes between 5 and 10080),
    constraint integrations_status_check check (status in ('new', 'healthy', 'failing', 'needs_attention')),
    constraint integrations_needs_since_check check ((status = 'needs_attention') = (needs_since is not null)),
    constraint integrations_token_holder_check check ((token_holder is null) = (token_held_until is null))
);
-- The sweep walks this one.
create index integrations_due_idx on integrations (next_run_at) where enabled and status <> 'needs_attention';

-- SYNC-3, SYNC-4. A run: what it has read, and where it goes on. Who writes to it must be its holder.
create table sync_runs (
    id             uuid primary key,
    integration_id uuid        not null,
    mode           text        not null,
    trigger        text        not null,
    state          text        not null default 'running',
    job_id         uuid        not null,                   -- the job that works on it
    holder         uuid        not null,                   -- the attempt that works on it
    held_until     timestamptz not null,                   -- by the database's clock; past it another job may take it over
    stream         text,                                   -- the one that is being read
    checkpoint     jsonb,                                  -- where it is read on
    pages          bigint      not null default 0,
    read           bigint      not null default 0,
    created        bigint      not null default 0,
    updated        bigint      not null default 0,
    unchanged      bigint      not null default 0,
    failed         bigint      not null default 0,
    total          bigint,                                 -- of all records, as far as the vendor says
    error          text,                                   -- the last one
    started_at     timestamptz not null,
    ended_at       timestamptz,
    constraint sync_runs_integration_id_fkey foreign key (integration_id) references integrations (id) on delete cascade,
    constraint sync_runs_mode_check check (mode in ('full', 'incremental')),
    constraint sync_runs_trigger_check check (trigger in ('schedule', 'manual', 'webhook')),
    constraint sync_runs_state_check check (state in ('running', 'completed', 'failed', 'cancelled')),
    constraint sync_runs_ended_at_check check ((state = 'running') = (ended_at is null)),
    constraint sync_runs_checkpoint_check check (checkpoint is null or stream is not null),
    constraint sync_runs_read_check check (read = created + updated + unchanged + failed)
);
-- Two runs of one integration never overlap, on any number of nodes.
create unique index sync_runs_running_key on sync_runs (integration_id) where state = 'running';
create index sync_runs_integration_id_idx on sync_runs (integration_id, id);

-- SYNC-4. Records that were not stored, the first thousand of a run; values are not repeated.
create table sync_failures (
    id          uuid primary key,
    run_id      uuid   not null,
    position    bigint not null,                           -- counted from 1
    external_id text,
    reason      text   not null,
    constraint sync_failures_run_id_fkey foreign key (run_id) references sync_runs (id) on delete cascade,
    constraint sync_failures_run_id_position_key unique (run_id, position)
);
create index sync_failures_run_id_idx on sync_failures (run_id, id);
