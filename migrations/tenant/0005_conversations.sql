-- WORK-7. What a workspace's members do together: tasks, and conversations with their messages. Who may see them is asked of
-- workspace_members; ids of people are those of public.users, which this schema cannot reach.
create table tasks (
    id           uuid primary key,
    workspace_id uuid        not null,
    title        text        not null,
    description  text,
    state        text        not null default 'todo',
    assignee_id  uuid,
    due_on       date,
    created_by   uuid        not null,
    created_at   timestamptz not null,
    updated_at   timestamptz not null,
    completed_at timestamptz,                 -- when it became done
    constraint tasks_workspace_id_fkey foreign key (workspace_id) references workspaces (id) on delete cascade,
    constraint tasks_title_check check (char_length(title) between 1 and 200),
    constraint tasks_state_check check (state in ('todo', 'in_progress', 'done', 'cancelled')),
    constraint tasks_completed_at_check check ((state = 'done') = (completed_at is not null))
);
create index tasks_workspace_id_idx on tasks (workspace_id, id);

create table conversations (
    id              uuid primary key,
    workspace_id    uuid        not null,
    title           text,
    title_source    text        not null default 'none',   -- who named it; 'person' is never overwritten
    message_count   integer     not null default 0,
    created_by      uuid        not null,
    created_at      timestamptz not null,
    updated_at      timestamptz not null,
    constraint conversations_workspace_id_fkey foreign key (workspace_id) references workspaces (id) on delete cascade,
    constraint conversations_title_check check (char_length(title) between 1 and 100),
    constraint conversations_title_source_check check (title_source in ('none', 'auto', 'person')),
    constraint conversations_named_check check ((title_source = 'none') = (title is null))
);
create index conversations_workspace_id_idx on conversations (workspace_id, id);

create table messages (
    id              uuid primary key,
    conversation_id uuid        not null,
    position        integer     not null,     -- counted from 1
    author_id       uuid        not null,
    body            text        not null,
    created_at      timestamptz not null,
    constraint messages_conversation_id_fkey foreign key (conversation_id) references conversations (id) on delete cascade,
    constraint messages_conversation_id_position_key unique (conversation_id, position),
    constraint messages_body_check check (char_length(body) between 1 and 10000)
);
