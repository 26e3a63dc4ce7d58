-- ASSET-5. What has to be done when somebody comes or goes, or a thing is bought, mended or moved: workflows, and the templates that
-- they are made of. Templates that come with the product are in the program; here are those that the organization made itself.
-- Who is assigned is a role or a person of public.users, which this schema cannot reach.
create table workflow_templates (
    id         uuid primary key,
    kind       text        not null,
    name       text        not null,
    steps      jsonb       not null,                -- in order: title, assignee, due_in_days, needs_approval
    is_default boolean     not null default false,  -- taken for its kind where no template is named
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint workflow_templates_kind_check
        check (kind in ('onboarding', 'offboarding', 'repair', 'procurement', 'transfer')),
    constraint workflow_templates_name_check check (char_length(name) between 1 and 100),
    constraint workflow_templates_steps_check
        check (jsonb_typeof(steps) = 'array' and jsonb_array_length(steps) between 1 and 50)
);
create unique index workflow_templates_kind_name_key on workflow_templates (kind, lower(name));
create unique index workflow_templates_default_key on workflow_templates (kind) where is_default;

create table workflows (
    id               uuid primary key,
    kind             text        not null,
    template_id      uuid,                          -- null: the product's own, or one that is gone
    title            text        not null,
    status           text        not null default 'pending',
    employee_id      uuid,
    asset_id         uuid,
    assignee_role    text,
    assignee_id      uuid,
    due_on           date        not null,
    deadline         date,                          -- the first day that something open of it is due, itself or a step
    overdue_told_for date,                          -- the deadline that an event told of last
    source_key       text,                          -- what it was started for, if that starts one workflow only
    reason           text,                          -- why it was cancelled or failed
    created_by       text        not null,          -- as events name it
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    begun_at         timestamptz,                   -- when the first step was advanced
    ended_at         timestamptz,
    constraint workflows_template_id_fkey foreign key (template_id) references workflow_templates (id) on delete set null,
    constraint workflows_employee_id_fkey foreign key (employee_id) references employees (id),
    constraint workflows_asset_id_fkey foreign key (asset_id) references assets (id),
    constraint workflows_source_key_key unique (source_key),
    constraint workflows_kind_check check (kind in ('onboarding', 'offboarding', 'repair', 'procurement', 'transfer')),
    constraint workflows_title_check check (char_length(title) between 1 and 300),
    constraint workflows_status_check check (status in ('pending', 'in_progress', 'completed', 'cancelled', 'failed')),
    constraint workflows_assignee_role_check check (assignee_role in ('admin', 'developer', 'user')),
    constraint workflows_assignee_check check (num_nonnulls(assignee_role, assignee_id) = 1),
    constraint workflows_ended_at_check check ((status in ('completed', 'cancelled', 'failed')) = (ended_at is not null)),
    constraint workflows_deadline_check check ((deadline is null) = (ended_at is not null))
);
create index workflows_status_idx on workflows (status, id);
create index workflows_employee_id_idx on workflows (employee_id, id) where employee_id is not null;
create index workflows_asset_id_idx on workflows (asset_id, id) where asset_id is not null;
-- The daily look at what is overdue walks this one.
create index workflows_deadline_idx on workflows (deadline, id) where deadline is not null;

create table workflow_steps (
    id             uuid primary key,
    workflow_id    uuid        not null,
    position       integer     not null,            -- counted from 1
    title          text        not null,
    status         text        not null default 'pending',
    assignee_role  text,
    assignee_id    uuid,
    due_on         date        not null,
    needs_approval boolean     not null,
    asset_id       uuid,                            -- to be returned by this step
    note           text,
    advanced_by    text,                            -- who says that it is done
    advanced_at    timestamptz,
    approved_by    text,
    approved_at    timestamptz,
    constraint workflow_steps_workflow_id_fkey foreign key (workflow_id) references workflows (id) on delete cascade,
    constraint workflow_steps_asset_id_fkey foreign key (asset_id) references assets (id),
    constraint workflow_steps_workflow_id_position_key unique (workflow_id, position),
    constraint workflow_steps_title_check check (char_length(title) between 1 and 300),
    constraint workflow_steps_status_check check (status in ('pending', 'awaiting_approval', 'done', 'skipped')),
    constraint workflow_steps_assignee_role_check check (assignee_role in ('admin', 'developer', 'user')),
    constraint workflow_steps_assignee_check check (num_nonnulls(assignee_role, assignee_id) = 1),
    constraint workflow_steps_note_check check (char_length(note) <= 2000),
    constraint workflow_steps_advanced_check check (status not in ('awaiting_approval', 'done') or advanced_at is not null),
    constraint workflow_steps_approved_check check (status <> 'done' or not needs_approval or approved_at is not null)
);
create index workflow_steps_assignee_id_idx on workflow_steps (assignee_id, workflow_id) where assignee_id is not null;
